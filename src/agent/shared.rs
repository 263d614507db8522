//! What all parts of the agent share: the handles of the adapters, the facts of this node, and soft state for readers.
//!
//! The event loop is the only writer of soft state; everything else reads it under a short lock. Never done here: deciding.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Event;
use super::definitions::Definitions;
use super::files::Files;
use super::history::History;
use super::{legacy, sql};
use crate::api::{Identity, MemberState, NodePhase};
use crate::blobs::BlobStore;
use crate::clock::now_ms;
use crate::config::Config;
use crate::consensus::Consensus;
use crate::discovery::DiscoveryHandle;
use crate::discovery::interfaces::to_publish;
use crate::engine::founding::HoldReason;
use crate::engine::id::{Epoch, HiveId, PeerId};
use crate::engine::legacy::Desk;
use crate::engine::member::{Inventory, MemberInfo};
use crate::engine::policy::Fact;
use crate::engine::scheduler::Leases;
use crate::engine::state::{ADDRESSES_MAX, State};
use crate::engine::trees::{Syncer, TreeSync};
use crate::exec::build::{Builder, Event as BuildEvent};
use crate::exec::console::Console;
use crate::exec::facts::FactsHandle;
use crate::exec::logs::LogStore;
use crate::exec::privilege::Executor;
use crate::exec::staging::Staging;
use crate::keyring::Keyring;
use crate::mesh::MeshHandle;
use crate::store::event_db::EventDb;
use crate::transport::calls::Callers;
use crate::wire::Wire;

/// Handles and facts, shared by reference.
pub(crate) struct Shared {
    /// Who this node is.
    pub me: Me,
    /// Settings.
    pub config: Config,
    /// The keys in use.
    pub keyring: Keyring,
    /// The replicated log.
    pub consensus: Consensus,
    /// Connections.
    pub mesh: MeshHandle,
    /// Questions to other nodes that are asked all the time.
    pub calls: Callers,
    /// Datagrams and liveness.
    pub discovery: DiscoveryHandle,
    /// Content-addressed files.
    pub blobs: BlobStore,
    /// What happened before what is in memory; none when the file cannot be used.
    pub event_db: Option<EventDb>,
    /// How the hive was before; none when it is not kept.
    pub history: Option<History>,
    /// Logs of attempts.
    pub logs: LogStore,
    /// The staging directory, where this node has one.
    pub staging: Option<Arc<Staging>>,
    /// What this node said and heard.
    pub wire: Wire,
    /// Runs attempts.
    pub builder: Builder,
    /// What needs root.
    pub executor: Arc<Executor>,
    /// News of attempts, into the event loop.
    pub builds: mpsc::Sender<BuildEvent>,
    /// `identity.json` and `peers.json`.
    pub files: Files,
    /// Into the event loop.
    pub events: mpsc::Sender<Event>,
    /// Whom this node lets recover the hive.
    pub(super) promise: super::epochs::Promise,
    pub(super) definitions: Mutex<Definitions>,
    pub(super) fact_sources: FactsHandle,
    pub(super) inventory: RwLock<Inventory>,
    pub(super) leases: Mutex<Option<Leases>>,
    pub(super) legacy: legacy::Memory,
    pub(super) sql: sql::Desk,
    pub(super) console: Console,
    pub(super) soft: RwLock<Soft>,
}

/// This node.
#[derive(Clone, Debug)]
pub(crate) struct Me {
    /// Public identity.
    pub peer_id: PeerId,
    /// Host name or `--name`.
    pub name: String,
    /// Raised at this start.
    pub incarnation: u64,
    /// When the agent started, monotonic.
    pub started_ms: u64,
    /// The secret was made up by this process because there is no file; it is written when the node founds.
    pub secret_is_tentative: bool,
    /// Where the public API really listens.
    pub http: SocketAddr,
    /// The configuration file that was read; none when there was none.
    pub config_file: Option<PathBuf>,
}

/// A peer's liveness as SWIM sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Liveness {
    /// Alive, suspect or down.
    pub state: MemberState,
    /// Since when.
    pub since_ms: u64,
}

/// What every member publishes about itself every few seconds. Shown, and used for placing work; never truth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// Load average over one minute, in hundredths.
    pub load_centi: u32,
    /// Attempts that run here.
    pub building: u32,
    /// Free bytes of the state directory.
    pub disk_free_bytes: u64,
    /// Writes are refused for want of space.
    pub disk_low: bool,
    /// Slots for builds that its operator set; none: by its processors.
    pub slots: Option<u32>,
    /// 99th percentile of the log's commits over the last minute, milliseconds; none when it keeps none.
    pub commit_p99_ms: Option<u64>,
    /// Its Raft directory, when it is voter or standby.
    pub raft_id: Option<u64>,
    /// Its copy of the log has stopped at an entry that it does not understand.
    pub halted: bool,
    /// It has a staging directory, and everything up to this position in the order of ending is in it; none: it has none.
    #[serde(default)]
    pub staging: Option<u64>,
    /// How the last sync of its package tree went.
    #[serde(default)]
    pub sync: Option<TreeSync>,
    /// Share of the processors' time that was used lately, percent.
    #[serde(default)]
    pub cpu_percent: Option<u32>,
    /// Share of the memory that is in use, percent.
    #[serde(default)]
    pub ram_percent: Option<u32>,
    /// When it was received here, monotonic.
    #[serde(skip)]
    pub received_ms: u64,
}

impl StatusReport {
    /// How its last sync stands now, some time after it was told.
    pub(super) fn sync_by_now(&self) -> Option<TreeSync> {
        let passed_ms = now_ms().saturating_sub(self.received_ms);
        let sync = self.sync.clone()?;
        let (since_ms, again_in_ms) =
            (sync.since_ms.saturating_add(passed_ms), sync.again_in_ms.saturating_sub(passed_ms));
        Some(TreeSync { since_ms, again_in_ms, ..sync })
    }
}

/// Artifacts on this node, as the last hourly look found them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ArtifactCounts {
    /// Bytes that are kept.
    pub bytes: u64,
    /// Kept only because staging does not have them yet.
    pub for_staging: u64,
    /// Too old or too many; they go when the next look finds the same.
    pub expired: u64,
}

/// Results and the staging directory of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StagingCounts {
    /// Everything up to this position in the order of ending is there, or never will be.
    pub ordinal: u64,
    /// Results that were put there since the start.
    pub staged: u64,
    /// Results that are tried again.
    pub waiting: u64,
    /// Results that were given up since the start.
    pub refused: u64,
}

/// Another hive on the same network, with the same secret.
#[derive(Clone, Debug)]
pub(crate) struct OtherHive {
    /// Name of the node through which it was met.
    pub name: String,
    /// Its members, as it says.
    pub members: u32,
    /// When it was last met.
    pub seen_ms: u64,
}

/// What is known only here and now.
#[derive(Default)]
pub(crate) struct Soft {
    /// What the node is doing.
    pub phase: Option<NodePhase>,
    /// Why it does not found although it could.
    pub hold: Option<HoldReason>,
    /// SWIM's view.
    pub liveness: BTreeMap<PeerId, Liveness>,
    /// When a peer was last heard by any path.
    pub heard_ms: BTreeMap<PeerId, u64>,
    /// Latest published status of each member.
    pub reports: BTreeMap<PeerId, StatusReport>,
    /// The role this node holds, as in its file.
    pub identity: Option<Identity>,
    /// Other hives met lately.
    pub other_hives: BTreeMap<HiveId, OtherHive>,
    /// When another machine was last seen to use this node's key; 0: never.
    pub cloned_ms: u64,
    /// Peers that refused this node, with the reason, and when.
    pub refused_by: Option<(String, u64)>,
    /// Things the operator should know, by source.
    pub notices: BTreeMap<&'static str, String>,
    /// Nodes of this hive that stay in another epoch.
    pub apart: std::collections::BTreeSet<PeerId>,
    /// When the state last moved, and the index it reached.
    pub applied: (u64, u64),
    /// Nodes that registered over HTTP from other subnets, newest last.
    pub registered: VecDeque<SocketAddr>,
    /// What this host cannot offer to builds (cgroups, sandbox).
    pub isolation: Vec<String>,
    /// What was last seen of artifacts on this node.
    pub artifacts: ArtifactCounts,
    /// What became of results that belong into this node's staging directory.
    pub staging: StagingCounts,
    /// When this node syncs its package tree.
    pub tree_sync: Option<Syncer>,
}

impl Shared {
    /// Reads the replicated state. Keep it short.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        self.consensus.replica().read(look)
    }

    /// The hive and epoch this node belongs to.
    pub(crate) fn hive(&self) -> Option<(HiveId, Epoch)> {
        self.consensus.replica().status().hive
    }

    /// Whether the committed state knows this node as a member.
    pub(crate) fn is_member(&self) -> bool {
        self.read(|state| state.member(&self.me.peer_id).is_some_and(|member| !member.left))
    }

    /// Looks at soft state.
    pub(crate) fn soft<R>(&self, look: impl FnOnce(&Soft) -> R) -> R {
        look(&self.soft.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes soft state. Only for the event loop and what it calls.
    pub(super) fn update<R>(&self, change: impl FnOnce(&mut Soft) -> R) -> R {
        change(&mut self.soft.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets or clears a notice.
    pub(super) fn notice(&self, source: &'static str, text: Option<String>) {
        self.update(|soft| match text {
            Some(text) => {
                soft.notices.insert(source, text);
            }
            None => {
                soft.notices.remove(source);
            }
        });
    }

    /// Says that a file for people and other programs could not be written, or that it could again. Whether it could. The node works
    /// from memory and tries again later: a full disk is no reason to end.
    pub(super) fn written(&self, source: &'static str, result: anyhow::Result<()>) -> bool {
        let notice = result.err().map(|error| {
            let text = format!("{error:#}; free some space, hive tries again by itself");
            if !self.soft(|soft| soft.notices.contains_key(source)) {
                tracing::warn!(error = %text, "hive goes on without writing a file");
            }
            text
        });
        let written = notice.is_none();
        self.notice(source, notice);
        written
    }

    /// Roles and policy.
    pub(crate) fn definitions<R>(&self, look: impl FnOnce(&mut Definitions) -> R) -> R {
        look(&mut self.definitions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Cached facts with their ages.
    pub(crate) fn facts(&self) -> BTreeMap<String, Fact> {
        self.fact_sources.snapshot()
    }

    /// What this machine is.
    pub(crate) fn inventory(&self) -> Inventory {
        self.inventory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What this node tells the hive about itself.
    pub(crate) fn member_info(&self) -> MemberInfo {
        MemberInfo {
            peer_id: self.me.peer_id.clone(),
            name: self.me.name.clone(),
            addresses: self.own_addresses().iter().map(ToString::to_string).collect(),
            incarnation: self.me.incarnation,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            feature_level: crate::engine::command::FEATURE_LEVEL,
            inventory: self.inventory(),
        }
    }

    /// `IP:PORT` of this node on the interfaces in use, best first.
    pub(crate) fn own_addresses(&self) -> Vec<SocketAddr> {
        let port = self.mesh.listen_port();
        if let Some(address) = self.config.listen_address.filter(|address| !address.is_unspecified()) {
            return vec![SocketAddr::new(address, port)];
        }
        let snapshot = self.discovery.snapshot();
        let mut addresses: Vec<SocketAddr> =
            to_publish(&snapshot.interfaces).into_iter().map(|address| SocketAddr::new(address, port)).collect();
        if addresses.is_empty() {
            // The cable is out: what the hive knows stays, as the addresses will be the same when it is back.
            let known = self.read(|state| state.member(&self.me.peer_id).map(|me| me.info.addresses.clone()));
            return known.into_iter().flatten().filter_map(|address| address.parse().ok()).collect();
        }
        // IPv4 first: it is what every node of a homelab reaches.
        addresses.sort_by_key(SocketAddr::is_ipv6);
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        addresses
    }

    /// The leases of this node's term as coordinator; none while it is not.
    pub(super) fn leases(&self) -> MutexGuard<'_, Option<Leases>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The desk for drones of the Python swarm, while this node is the coordinator.
    pub(super) fn desk<R>(&self, serve: impl FnOnce(&mut Desk) -> R) -> Option<R> {
        self.legacy.desk.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(serve)
    }

    /// Hive time now: what is committed, and the time since the state last moved.
    pub(crate) fn hive_ms(&self, now_ms: u64) -> u64 {
        let since_ms = self.soft(|soft| now_ms.saturating_sub(soft.applied.0));
        self.read(State::hive_time_ms).saturating_add(since_ms)
    }

    /// The name to show for a node.
    pub(crate) fn name_of(&self, peer: &PeerId) -> String {
        self.read(|state| state.name_of(peer).to_owned())
    }

    /// Liveness of a member as this node sees it. This node itself is alive; one that was never heard counts as down only
    /// when the agent has been up long enough to have heard it.
    pub(crate) fn liveness(&self, peer: &PeerId) -> MemberState {
        if *peer == self.me.peer_id {
            return MemberState::Alive;
        }
        let patience_ms = 5_000;
        self.soft(|soft| match soft.liveness.get(peer) {
            // It lives, and not in this history: nothing that is committed here reaches it.
            _ if soft.apart.contains(peer) => MemberState::Down,
            Some(liveness) => liveness.state,
            None if now_ms().saturating_sub(self.me.started_ms) < patience_ms => MemberState::Suspect,
            None => MemberState::Down,
        })
    }

    /// Members that SWIM holds alive, without this node.
    pub(crate) fn alive_peers(&self) -> Vec<PeerId> {
        let members: Vec<PeerId> = self.read(|state| {
            state.members().filter(|member| !member.left).map(|member| member.info.peer_id.clone()).collect()
        });
        let alive = |peer: &PeerId| *peer != self.me.peer_id && self.liveness(peer) == MemberState::Alive;
        members.into_iter().filter(alive).collect()
    }
}
