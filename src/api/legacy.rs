//! What drones and readers of the Python build swarm ask, and what they are answered: its paths and fields.
//!
//! The names of fields are that swarm's. Two spellings are read where its handbook and its code differ, one is written. The same
//! types travel between nodes, since whoever is asked hands the question to the coordinator. Never done here: deciding.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::legacy::{LegacyInfo, Vitals};

/// An object, as it was sent.
pub type Fields = serde_json::Map<String, Value>;

/// Longest body that a drone may send: the old swarm's bound.
pub const BODY_MAX: usize = 1 << 20;

/// The first of several spellings under which something was sent.
fn first<'a>(from: &'a Fields, names: &[&str]) -> Option<&'a Value> {
    names.iter().filter_map(|name| from.get(*name)).find(|value| !value.is_null())
}

fn text(from: &Fields, names: &[&str]) -> Option<String> {
    first(from, names)?.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn mapping(from: &Fields, names: &[&str]) -> Fields {
    first(from, names).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Body of `POST /api/v1/register`: who a drone is, and how it is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "Fields")]
pub struct Registration {
    /// Its id.
    pub id: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Its address.
    pub ip: Option<String>,
    /// `drone` or `sweeper`.
    pub kind: Option<String>,
    /// What it has: `cores`, `ram_gb`, `portage_timestamp` …
    pub capabilities: Fields,
    /// How it is: `cpu_percent`, `ram_percent`, `load_1m` …
    pub metrics: Fields,
    /// What it compiles.
    pub current_task: Option<String>,
    /// Its version.
    pub version: Option<String>,
}

impl From<Fields> for Registration {
    fn from(from: Fields) -> Self {
        Self {
            id: text(&from, &["id", "node_id"]),
            name: text(&from, &["name", "node_name", "hostname"]),
            ip: text(&from, &["ip", "ip_address"]),
            kind: text(&from, &["type", "node_type"]),
            capabilities: mapping(&from, &["capabilities"]),
            metrics: mapping(&from, &["metrics"]),
            current_task: text(&from, &["current_task"]),
            version: text(&from, &["version"]),
        }
    }
}

/// Body of `POST /api/v1/complete` and `report`: how a package ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Fields")]
pub struct Completion {
    /// Which drone: id or name.
    pub id: String,
    /// Which package, as it was handed out.
    pub package: String,
    /// `success`, `failed`, `returned`, `upload_failed`, `masked` …
    pub status: String,
    /// How long it took, seconds, as the drone says.
    pub build_duration_s: Option<f64>,
    /// Why not.
    pub error_detail: Option<String>,
}

impl From<Fields> for Completion {
    fn from(from: Fields) -> Self {
        let needed = |names: &[&str]| text(&from, names).unwrap_or_default();
        Self {
            id: needed(&["id", "drone_id", "node_id", "name", "node", "drone", "node_name"]),
            package: needed(&["package"]),
            status: needed(&["status"]),
            build_duration_s: first(&from, &["build_duration_s", "duration_seconds", "duration"])
                .and_then(Value::as_f64),
            error_detail: text(&from, &["error_detail", "error_message", "error"]),
        }
    }
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
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "Fields")]
pub struct ControlBody {
    /// What to do.
    pub action: String,
    /// To this package.
    pub package: Option<String>,
    /// To this drone: name or id.
    pub drone: Option<String>,
    /// Also what runs.
    pub running: bool,
    /// Why.
    pub reason: String,
}

impl From<Fields> for ControlBody {
    fn from(from: Fields) -> Self {
        Self {
            action: text(&from, &["action"]).unwrap_or_default(),
            package: text(&from, &["package"]),
            drone: text(&from, &["drone", "node", "drone_id", "node_id"]),
            running: first(&from, &["running"]).and_then(Value::as_bool).unwrap_or(false),
            reason: text(&from, &["reason"]).unwrap_or_default(),
        }
    }
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
