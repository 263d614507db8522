//! What people and scripts see of sessions, drones and history, and how they act on them.
//!
//! Part of the same promise as [`api`](super). Sessions also carry the names of fields that readers of the older swarm know.
//! Never done here: deciding anything.

use serde::{Deserialize, Serialize};

use super::{JobLine, MemberState, QueueStatus};
use crate::engine::id::{JobId, PeerId, SessionId, UnixMillis};
use crate::engine::job::{AttemptState, FailureClass};

/// Body of `POST /api/v2/control`: what an operator does, and to what. At most one of the things it can be done to is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ControlRequest {
    /// `pause`, `resume`, `block`, `unblock`, `retry_failures`, `clear_failures`, `reset`, `rebalance`, `reclaim`, `unground`
    /// or `clear_history`; dashes for underscores will do.
    pub action: String,
    /// This job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// All jobs of this package, or with this target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// All jobs of this session: id, beginning of it, or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// This drone, by name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drone: Option<String>,
    /// Also what runs: it is stopped and begins anew.
    #[serde(default)]
    pub running: bool,
    /// One sentence, may be empty.
    #[serde(default)]
    pub reason: String,
}

/// Body of `POST /api/v2/nodes/{name}/{action}`, where the action is `pause`, `resume`, `drain` or `limit`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DroneRequest {
    /// Of `drain`: after so long what still runs goes elsewhere; none: it may end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Of `limit`: processors that builds may use; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
    /// One sentence, may be empty.
    #[serde(default)]
    pub reason: String,
}

/// What an operator's action changed; 0 and 0 when all was so already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct Changed {
    /// The action, with underscores.
    pub action: String,
    /// Jobs.
    pub jobs: u64,
    /// Drones.
    pub drones: u64,
}

/// Where a session stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// Its jobs are being found.
    Resolving,
    /// Its jobs are being handed in.
    Importing,
    /// Its jobs run or wait.
    Active,
    /// All that was not cancelled has succeeded.
    Completed,
    /// An operator ended it.
    Cancelled,
    /// It is over, and something in it did not succeed.
    Failed,
}

/// `GET /api/v2/sessions`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct SessionList {
    /// The newest first.
    pub sessions: Vec<SessionLine>,
}

/// A line of `hive session list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct SessionLine {
    /// The session.
    pub id: SessionId,
    /// For people; may be empty.
    pub name: String,
    /// `active`, `completed` or `aborted`: the words of the older swarm.
    pub status: String,
    /// Where it stands.
    pub phase: SessionState,
    /// Who queued it.
    pub submitter: String,
    /// Build profile, where there is one.
    pub profile_id: Option<String>,
    /// Jobs in all.
    pub total_packages: u64,
    /// Jobs that succeeded.
    pub completed_packages: u64,
    /// Jobs that failed or were quarantined.
    pub failed_packages: u64,
    /// When it was made.
    pub started_at: UnixMillis,
    /// When its last job was over.
    pub completed_at: Option<UnixMillis>,
}

/// `hive session show`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct SessionView {
    /// As in the list.
    #[serde(flatten)]
    pub line: SessionLine,
    /// Its jobs by state.
    pub counts: QueueStatus,
    /// Why it was cancelled.
    pub why: Option<String>,
    /// When it is expected to be over; none when nothing is left to do, or no drone there can do it.
    pub eta: Option<EtaView>,
    /// Its jobs that are in memory, by state.
    pub groups: Vec<SessionGroup>,
}

/// Jobs of a session in one state.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct SessionGroup {
    /// The state that is shown of them.
    pub state: crate::engine::job::JobState,
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub jobs: Vec<JobLine>,
}

/// How long something will still take, as far as what was built before tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct EtaView {
    /// As likely sooner as later, milliseconds from now.
    pub p50_ms: u64,
    /// Nine times out of ten sooner, milliseconds from now.
    pub p90_ms: u64,
    /// Builds that this rests on.
    pub samples: u64,
    /// Jobs that it counts.
    pub jobs: u64,
    /// Of those, jobs of which nothing like it was ever built: they are guessed.
    pub guessed: u64,
    /// Jobs that it leaves out, because somebody has to do something first.
    pub left_out: u64,
}

/// Answer to `POST /api/v2/queue/import`, given when all of it is visible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct Imported {
    /// The session.
    pub session: SessionId,
    /// Jobs in it.
    pub jobs: u64,
}

/// `GET /api/v2/fleet`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct FleetView {
    /// Every member that has not left, by name.
    pub drones: Vec<FleetDrone>,
    /// Why nothing is given to any of them, if an operator said so.
    pub paused: Option<DecisionView>,
}

/// Who decided something, why and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct DecisionView {
    /// Who.
    pub by: String,
    /// One sentence, may be empty.
    pub why: String,
    /// When.
    pub at: UnixMillis,
}

/// A drone, what it has and what it does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct FleetDrone {
    /// Its name.
    pub name: String,
    /// Its public identity.
    pub peer_id: PeerId,
    /// A drone of the Python build swarm, which is no node of the hive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub legacy: bool,
    /// Its role; `legacy` of a drone of the Python build swarm.
    pub role: Option<String>,
    /// Liveness as this node sees it.
    pub state: MemberState,
    /// Slots that it has.
    pub slots: u32,
    /// Slots that are taken.
    pub used: u32,
    /// Load average over one minute.
    pub load: Option<f64>,
    /// Processors.
    pub cores: u32,
    /// Processors that its builds may use; none: all.
    pub cores_limit: Option<u32>,
    /// `x86_64`, `aarch64`, …
    pub arch: String,
    /// Memory, GiB.
    pub ram_gb: u32,
    /// An operator gives it nothing new.
    pub paused: Option<DecisionView>,
    /// An operator empties it.
    pub draining: Option<DecisionView>,
    /// Of a drain: so long until what still runs goes elsewhere.
    pub drain_left_ms: Option<u64>,
    /// It failed too often and gets no work for so long.
    pub grounded_left_ms: Option<u64>,
    /// Its uploads fail and it gets no work for so long.
    pub uploads_paused_left_ms: Option<u64>,
    /// What it has been given.
    pub builds: Vec<FleetBuild>,
}

/// An attempt that is under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct FleetBuild {
    /// The job.
    pub job: JobId,
    /// What is built.
    pub target: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// Where it stands.
    pub state: AttemptState,
    /// How long it has been building.
    pub elapsed_ms: Option<u64>,
    /// How far it is, 0 to 99; none when nothing like it was ever built, or it has not begun.
    pub percent: Option<u8>,
    /// How long it will still take; none like the percentage.
    pub eta_ms: Option<u64>,
    /// Builds that this rests on.
    pub samples: u64,
}

/// `GET /api/v2/history`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct HistoryView {
    /// Attempts that are over, those that ended last first.
    pub history: Vec<HistoryLine>,
    /// Older ones may be there that were not looked at.
    pub truncated: bool,
}

/// An attempt that is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct HistoryLine {
    /// The job.
    pub job: JobId,
    /// Its session.
    pub session: SessionId,
    /// What was built.
    pub target: String,
    /// The package without its version, or the target.
    pub package: String,
    /// `command`, `debian`, `portage`, `maven` or `resolve`.
    pub backend: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// Name of the drone.
    pub drone: String,
    /// How it ended.
    pub state: AttemptState,
    /// Whose fault, once failed.
    pub class: Option<FailureClass>,
    /// One sentence, once failed, lost, stale or cancelled.
    pub reason: Option<String>,
    /// Exit code, where there was one.
    pub exit_code: Option<i32>,
    /// When it was given to the drone.
    pub assigned_at: UnixMillis,
    /// When it began.
    pub started_at: Option<UnixMillis>,
    /// When it was over.
    pub ended_at: Option<UnixMillis>,
    /// From its beginning to its end.
    pub duration_ms: Option<u64>,
    /// Length of what it produced; none unless it is the result of its job.
    pub artifact_bytes: Option<u64>,
}

/// `GET /api/v2/build-stats/by-package`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct PackageList {
    /// Those tried last first.
    pub packages: Vec<PackageLine>,
}

/// What is known of a package.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct PackageLine {
    /// The package without its version.
    pub package: String,
    /// Attempts that were over.
    pub attempts: u64,
    /// Of those, the ones that succeeded.
    pub successes: u64,
    /// Where, by name.
    pub tried_on: Vec<String>,
    /// When it was tried last.
    pub last_attempt: UnixMillis,
    /// Half of its builds took no longer; none when none succeeded.
    pub p50_ms: Option<u64>,
    /// Nine of ten took no longer.
    pub p90_ms: Option<u64>,
    /// Builds that this rests on.
    pub samples: u64,
}

/// What the nodes with a staging directory say about a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct StagedView {
    /// What was asked for.
    pub atom: String,
    /// It is there, and whole.
    pub found: bool,
    /// The node that has it.
    pub node: Option<String>,
    /// Below its staging directory.
    pub path: Option<String>,
    /// Its length.
    pub size_bytes: Option<u64>,
    /// Why it does not count as there.
    pub why: Option<String>,
}
