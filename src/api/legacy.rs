//! What drones and readers of the Python build swarm ask, and what they are answered: its paths and fields.
//!
//! The names of fields are that swarm's. Two spellings are read where its handbook and its code differ, one is written. The same
//! types travel between nodes, since whoever is asked hands the question to the coordinator. Never done here: deciding.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::engine::legacy::{LegacyInfo, Vitals};

/// Longest body that a drone may send: the old swarm's bound.
pub const BODY_MAX: usize = 1 << 20;

/// Body of `POST /api/v1/register`: who a drone is, and how it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Registration {
    /// Its id.
    pub id: Option<String>,
    /// Its name.
    #[serde(alias = "node_name", alias = "hostname")]
    pub name: Option<String>,
    /// Its address.
    #[serde(alias = "ip_address")]
    pub ip: Option<String>,
    /// `drone` or `sweeper`.
    #[serde(rename = "type", alias = "node_type")]
    pub kind: Option<String>,
    /// What it has: `cores`, `ram_gb`, `portage_timestamp` …
    #[serde(deserialize_with = "mapping")]
    pub capabilities: BTreeMap<String, serde_json::Value>,
    /// How it is: `cpu_percent`, `ram_percent`, `load_1m` …
    #[serde(deserialize_with = "mapping")]
    pub metrics: BTreeMap<String, serde_json::Value>,
    /// What it compiles.
    pub current_task: Option<String>,
    /// Its version.
    pub version: Option<String>,
}

/// `null` is an empty mapping: the old drones send either.
fn mapping<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, serde_json::Value>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Body of `POST /api/v1/complete` and `report`: how a package ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Completion {
    /// Which drone: id or name.
    #[serde(alias = "name", alias = "node", alias = "drone", alias = "drone_id")]
    pub id: String,
    /// Which package, as it was handed out.
    pub package: String,
    /// `success`, `failed`, `returned`, `upload_failed`, `masked` …
    pub status: String,
    /// How long it took, seconds, as the drone says.
    #[serde(alias = "duration_seconds", alias = "duration")]
    pub build_duration_s: Option<f64>,
    /// Why not.
    #[serde(alias = "error", alias = "error_message")]
    pub error_detail: Option<String>,
}

/// Body of `POST /api/v1/queue`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueRequest {
    /// Packages, in the order in which they are to be built.
    pub packages: Vec<String>,
    /// The tree that they were resolved with; a drone with another one is told to sync.
    pub portage_timestamp: Option<String>,
    /// Name of the session.
    #[serde(alias = "session_name")]
    pub name: Option<String>,
    /// Build profile of the session.
    pub profile_id: Option<String>,
}

/// Answer to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Queued {
    /// `ok`.
    pub status: String,
    /// Packages that were not queued already.
    pub queued: usize,
    /// Their session; none when nothing was queued.
    pub session_id: Option<String>,
    /// As it was given.
    pub portage_timestamp: Option<String>,
}

/// Body of `POST /api/v1/control`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlBody {
    /// What to do.
    pub action: String,
    /// To this package.
    pub package: Option<String>,
    /// To this drone: name or id.
    #[serde(alias = "node", alias = "drone_id")]
    pub drone: Option<String>,
    /// Also what runs.
    pub running: bool,
    /// Why.
    pub reason: String,
}

/// What the coordinator is asked on behalf of a drone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Call {
    /// It says who and how it is.
    Register {
        /// Who.
        info: Box<LegacyInfo>,
        /// How.
        vitals: Vitals,
    },
    /// It asks for work.
    Work {
        /// Id or name.
        drone: String,
    },
    /// It tells how a package ended.
    Complete(Completion),
    /// It is taken off the list.
    Forget {
        /// Id or name.
        drone: String,
    },
    /// Somebody wants to see whom the coordinator has heard of.
    Seen,
}

/// What the coordinator answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Told {
    /// To `Register`.
    Registered(Registered),
    /// To `Work`.
    Work(WorkTold),
    /// To `Complete`.
    Completed(Completed),
    /// To `Forget`: there was such a drone.
    Forgotten(bool),
    /// To `Seen`.
    Seen(Vec<Seen>),
}

/// Answer to a registration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Registered {
    /// `registered`, or `ignored`.
    pub status: String,
    /// Why it was ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// An operator holds it, or the whole queue.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Packages to drop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoke: Vec<String>,
    /// What it compiles is not its own any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_work: Option<StopWorkTold>,
    /// Where to ask from now on: the node that answers.
    #[serde(default)]
    pub orchestrator: String,
    /// Its port.
    #[serde(default)]
    pub orchestrator_port: u16,
    /// Its name.
    #[serde(default)]
    pub orchestrator_name: String,
}

/// What to stop.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StopWorkTold {
    /// The package.
    pub package: String,
    /// Why.
    pub reason: String,
    /// Who has it now.
    pub reassigned_to: Option<String>,
}

/// Answer to the question for work.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WorkTold {
    /// What to build.
    pub package: Option<String>,
    /// Packages to drop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoke: Vec<String>,
    /// `sync_portage`, or `register`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// With `sync_portage`: to this tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portage_timestamp: Option<String>,
}

/// Answer to a completion.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Completed {
    /// `ok`; `missing_binary` when a success was said of which there is nothing in staging; `stale`.
    pub status: String,
    /// It counts.
    pub accepted: bool,
    /// The package was not this drone's any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// `stop_work` when it is stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who has it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reassigned_to: Option<String>,
}

/// A drone that the coordinator has heard of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Milliseconds since.
    pub silent_ms: u64,
    /// How it said it was.
    pub vitals: Vitals,
}
