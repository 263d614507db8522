//! What the hive knows about each of its machines.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::id::{PeerId, UnixMillis};

/// What a machine is and can do, as it detected it itself. Vocabulary of advisor policies (`node.*`) and of the scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// Logical processors.
    pub cpu_cores: u32,
    /// Memory in GiB, rounded down.
    pub ram_gb: u32,
    /// Free space of the state directory's file system in GiB, rounded down.
    pub disk_free_gb: u32,
    /// `x86_64`, `aarch64`, …
    pub arch: String,
    /// `ID` of os-release: `debian`, `ubuntu`, `gentoo`, …; `unknown` when absent.
    pub distro: String,
    /// `VERSION_ID` of os-release, may be empty.
    pub distro_version: String,
    /// `bare-metal`, `lxc`, `qemu`, `container`, `vm` or `unknown`.
    pub virt: String,
    /// A graphics or compute accelerator is present.
    pub has_gpu: bool,
    /// A `docker` command is present.
    pub docker_installed: bool,
    /// Languages whose tool chain is present (`java`, `python`, `go`, `rust`, `node`, `c`, `perl`, …).
    pub languages: BTreeSet<String>,
    /// Tools by name with their versions (empty string when it could not be told).
    pub tools: BTreeMap<String, String>,
    /// Labels that the operator gave this machine.
    pub labels: BTreeSet<String>,
    /// What builds can be given here: `sandbox`, `cgroup`, `user`, `netns`, …
    #[serde(default)]
    pub features: BTreeSet<String>,
    /// The package tree that is there: commit or time of Portage's main repository. None where there is none.
    #[serde(default)]
    pub tree: Option<String>,
}

/// What a node says about itself when it joins, and again whenever it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Public identity.
    pub peer_id: PeerId,
    /// Host name, or what `--name` said. 1–63 characters of `[A-Za-z0-9._-]`.
    pub name: String,
    /// `IP:PORT` at which discovery, liveness (UDP) and the mesh (TCP) are reached, best first.
    pub addresses: Vec<String>,
    /// Raised at every start of the agent.
    pub incarnation: u64,
    /// `hive --version` of the agent.
    pub version: String,
    /// Highest feature level this agent can apply.
    pub feature_level: u32,
    /// What the machine is.
    pub inventory: Inventory,
}

/// The role a member holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleClaim {
    /// Name of the role definition.
    pub role: String,
    /// The ballot that led to it.
    pub ballot: String,
    /// 1 for the first claim of this member, one more with each.
    pub generation: u64,
    /// When it was committed, by the coordinator's clock.
    pub assigned_at: UnixMillis,
}

/// A member as the replicated state holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What it last said about itself.
    pub info: MemberInfo,
    /// The name to show: `info.name`, with `-2`, `-3`, … behind it while another member that has not left shows the same.
    pub display_name: String,
    /// Position in the hive's order of joining.
    pub join_ordinal: u64,
    /// When it was admitted.
    pub joined_at: UnixMillis,
    /// It created this hive. Survives every later role.
    pub founder: bool,
    /// The Raft id bound to its PeerId while it is voter or standby. Raft traffic under this id is taken only from it.
    pub raft_id: Option<u64>,
    /// The role it claimed; none before its first claim.
    pub role: Option<RoleClaim>,
    /// Number of roles it claimed so far.
    pub claims: u64,
    /// It said farewell. Kept so that the name and history stay.
    pub left: bool,
}
