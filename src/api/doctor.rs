//! What `hive doctor` is told by the agent.
//!
//! Never done here: judging it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What `hive doctor` asks of the agent; checks that need no agent are made by the command itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct DoctorFacts {
    /// UDP and TCP port.
    pub port: u16,
    /// Interfaces in use: name, address, broadcast address.
    pub interfaces: Vec<InterfaceView>,
    /// Identifies the secret without revealing it.
    pub secret_fingerprint: Option<String>,
    /// Datagrams and connections that were refused, by reason and address.
    pub refusals: Vec<Refusal>,
    /// HTTP requests that were refused, by reason, each with its last sender.
    #[serde(default)]
    pub http_refused: Vec<Refusal>,
    /// Peers that confirmed hearing this node's broadcast lately.
    pub broadcast_heard_by: Vec<String>,
    /// Milliseconds by which each peer's wall clock differs from ours (positive: theirs is ahead).
    pub clock_offsets_ms: BTreeMap<String, i64>,
    /// Free bytes of the state directory.
    pub disk_free_bytes: u64,
    /// Writes are refused for want of space.
    pub disk_low: bool,
    /// The agent's configuration file; none when it has none.
    #[serde(default)]
    #[cfg_attr(feature = "node", schema(value_type = Option<String>))]
    pub config_file: Option<PathBuf>,
    /// Where the agent keeps the secret.
    #[serde(default)]
    #[cfg_attr(feature = "node", schema(value_type = Option<String>))]
    pub secret_file: Option<PathBuf>,
}

/// An interface that discovery uses.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct InterfaceView {
    /// Its name.
    pub name: String,
    /// Address with prefix length.
    pub address: String,
    /// Broadcast address, where there is one.
    pub broadcast: Option<String>,
}

/// Something that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct Refusal {
    /// `wrong_secret`, `replay`, `version`, `malformed`, `rate`, `clone`, …
    pub reason: String,
    /// Source address.
    pub from: String,
    /// How often since the agent started.
    pub count: u64,
    /// How long ago the last time.
    pub last_ms: u64,
}
