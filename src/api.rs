//! What people and scripts see: the JSON shapes of the local API, of HTTP and of `--json`, and the errors they can get.
//!
//! These types are a promise: fields are added, never renamed or removed within one `schema` number. Times are RFC 3339 UTC,
//! durations are in milliseconds and say so in their name. Nothing secret is ever a field here.

mod access;
mod audit;
mod backup;
mod browse;
mod console;
mod doctor;
mod error;
mod events;
mod farm;
mod jobs;
pub mod legacy;
mod live;
mod logs;
mod replay;
#[cfg(feature = "node")]
mod schema;
pub mod shown;
mod sql;
mod wire;
pub mod words;

use serde::{Deserialize, Serialize};

use crate::engine::id::{EpochId, HiveId, JobId, PeerId, Sha256Hash, UnixMillis};
use crate::engine::member::Inventory;

pub use self::access::{
    AccessView, AdminKeyChanged, AdminKeyRequest, AdminKeyView, Authority, TokenMade, TokenRequest, TokenView,
};
pub use self::audit::{AuditCheck, AuditLine, AuditList, BrowserSession, SessionsEnded, SignInRequest};
pub use self::backup::{BackupReport, DbBlobs, DbFile, DbFinding, DbReport, DbSeverity, NOT_IN_BACKUPS, RestoreReport};
pub use self::browse::{ChainJob, CriticalPath, GraphJob, JobGraph, JobPage, Throughput, ThroughputBucket};
pub use self::console::{ExecLine, ExecRequest, RecordingList, RecordingView, TerminalTicket};
pub use self::doctor::{DoctorFacts, InterfaceView, Refusal};
pub use self::error::{ApiError, ApiResult, ErrorCode};
pub use self::events::EventList;
pub use self::farm::{
    Changed, ControlRequest, DecisionView, DroneRequest, EtaView, FleetBuild, FleetDrone, FleetView, HistoryLine,
    HistoryView, Imported, PackageLine, PackageList, SessionGroup, SessionLine, SessionList, SessionState, SessionView,
    StagedView,
};
pub use self::jobs::{AttemptView, CancelRequest, JobLine, JobView, SubmitRequest, Submitted, SubmittedJob};
pub use self::live::{
    LiveChanges, LiveGap, LiveHello, LiveLog, LiveLogEnd, LiveMembers, LiveMetrics, LiveStatus, LiveWire, NodeMetrics,
};
pub use self::logs::{LogFirstError, LogMatch, LogMatches, LogPhase, LogPhases, LogSearch, PhaseSource};
pub use self::replay::{Activity, ActivityBucket};
pub use self::sql::{
    SQL_LENGTH_MAX, SQL_ROWS_DEFAULT, SQL_ROWS_MAX, SqlAnswer, SqlColumn, SqlRequest, SqlSchema, SqlTable,
    SqlTableColumn,
};
pub use self::wire::{WireConversations, WireDetail, WireField, WireFields, WireList, WireNode};

/// Version of the envelope and of every shape in this module.
pub const SCHEMA: u32 = 1;

/// `{"schema":1,"ok":true,"data":…}` or `{"schema":1,"ok":false,"error":{…}}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Whether `data` or `error` is there.
    pub ok: bool,
    /// The answer.
    #[serde(skip_serializing_if = "Option::is_none", default = "Option::default")]
    pub data: Option<T>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<ApiError>,
    /// When the answering node put it together.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub as_of: Option<UnixMillis>,
    /// Where that node stood in the log: without quorum an answer is as old as this says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub log: Option<LogStatus>,
}

impl<T> Envelope<T> {
    /// An answer.
    pub fn ok(data: T) -> Self {
        Self { schema: SCHEMA, ok: true, data: Some(data), error: None, as_of: None, log: None }
    }

    /// An error.
    pub fn error(error: ApiError) -> Self {
        Self { schema: SCHEMA, ok: false, data: None, error: Some(error), as_of: None, log: None }
    }

    /// The same with time and log position of the node that answers.
    #[must_use]
    pub fn as_of(mut self, at: UnixMillis, log: LogStatus) -> Self {
        self.as_of = Some(at);
        self.log = Some(log);
        self
    }
}

/// `hive status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct Status {
    /// None while the node seeks a hive.
    pub hive_id: Option<HiveId>,
    /// The node that answers.
    #[serde(rename = "self")]
    pub this: SelfStatus,
    /// The elected coordinator, as far as this node knows.
    pub coordinator: Option<Coordinator>,
    /// A majority of voters answered the coordinator lately, as far as this node can tell.
    pub quorum: bool,
    /// All members, and legacy peers that were heard lately. By name.
    pub members: Vec<MemberStatus>,
    /// Position of this node in the replicated log.
    pub log: LogStatus,
    /// Jobs by state.
    pub queue: QueueStatus,
    /// What the operator should know, most urgent first; each a sentence, with the remedy where there is one.
    pub notices: Vec<String>,
    /// What is not in order, in words for scripts: `not_member`, `no_quorum`, `no_coordinator`, `halted`, `member_down`,
    /// `member_suspect`, `disk_low`, `member_disk_low`, `packages_failed`; empty when all is well.
    #[serde(default)]
    pub degraded: Vec<String>,
    /// When this was put together.
    pub as_of: UnixMillis,
}

/// The node that answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct SelfStatus {
    /// Its name.
    pub name: String,
    /// Its public identity.
    pub peer_id: PeerId,
    /// Its role; none before the first vote.
    pub role: Option<String>,
    /// What it is doing.
    pub state: NodePhase,
    /// Version of the agent.
    pub version: String,
    /// How long the agent has been running.
    pub uptime_ms: u64,
    /// Bytes of finished jobs' artifacts that it keeps, as of its last hourly look.
    #[serde(default)]
    pub artifact_bytes: u64,
}

/// Phase of a node's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NodePhase {
    /// Looks for a hive.
    Seeking,
    /// Announces that it is about to found one.
    Founding,
    /// Found one and asks to be admitted.
    Joining,
    /// Member.
    Member,
    /// Others are there and refuse it, most likely because the secrets differ.
    Refused,
    /// Shutting down.
    Stopping,
}

/// The elected coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct Coordinator {
    /// Its name.
    pub name: String,
    /// Its public identity.
    pub peer_id: PeerId,
    /// Raft term in which it was elected.
    pub term: u64,
}

/// Liveness of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Answers.
    Alive,
    /// Does not answer; others are asked.
    Suspect,
    /// Nobody reaches it.
    Down,
    /// Said farewell.
    Left,
    /// Speaks wire v1 only; not a member.
    Legacy,
}

/// Part of a member in Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RaftPart {
    /// Votes.
    Voter,
    /// Learner kept warm.
    Standby,
    /// Follows the committed log.
    Observer,
    /// Not a member.
    None,
}

/// A member in `hive status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Its public identity; none for legacy peers.
    pub peer_id: Option<PeerId>,
    /// Where it is reached.
    pub addresses: Vec<String>,
    /// Its role.
    pub role: Option<String>,
    /// Liveness as this node sees it.
    pub state: MemberState,
    /// Part in Raft.
    pub raft: RaftPart,
    /// Version of its agent.
    pub version: String,
    /// How long ago this node heard of it; none: not since this agent started.
    pub last_seen_ms: Option<u64>,
    /// Load average over one minute; none when not heard yet.
    pub load: Option<f64>,
    /// Processors.
    pub cores: u32,
    /// It created the hive.
    pub founder: bool,
    /// It keeps finished packages in a staging directory.
    #[serde(default)]
    pub staging: bool,
}

/// Position in the replicated log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct LogStatus {
    /// Which history.
    pub epoch: u64,
    /// Its random half; none before there is one.
    pub epoch_id: Option<EpochId>,
    /// Last index this node has applied.
    pub applied: u64,
    /// Last index it knows to be committed.
    pub committed: u64,
    /// How long ago it last heard from a source of the log (0 on the coordinator while it has quorum).
    pub age_ms: u64,
}

/// Jobs by state, and attempts that run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct QueueStatus {
    /// Jobs that wait.
    pub needed: u64,
    /// Jobs given to a drone.
    pub delegated: u64,
    /// Attempts that are building or uploading.
    pub building: u64,
    /// Jobs done.
    pub received: u64,
    /// Jobs blocked.
    pub blocked: u64,
    /// Jobs failed.
    pub failed: u64,
    /// Jobs cancelled.
    pub cancelled: u64,
    /// Jobs quarantined.
    pub quarantined: u64,
    /// Nothing is assigned until somebody resumes the queue.
    pub paused: bool,
}

/// `identity.json`: the role that the hive gave this node, by whom and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct Identity {
    /// The role; `founder` for the node that founded the hive and was not given another since.
    pub role: String,
    /// Packages of the role on this machine's distribution.
    pub packages: Vec<String>,
    /// Configuration of the role.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Names of the advisors that put the role first.
    pub assigned_by: Vec<String>,
    /// When.
    pub assigned_at: UnixMillis,
    /// The winning advice's reason.
    pub reason: String,
    /// The ballot, empty for a founder.
    pub ballot: String,
    /// Not committed yet: the hive has no quorum; it will be claimed later.
    pub provisional: bool,
    /// This node created the hive.
    pub founder: bool,
    /// Every advisor's answer.
    pub advice: Vec<AdviceView>,
    /// Advice that put another role first.
    pub dissent: Vec<AdviceView>,
    /// State of the role's packages: `off`, `dry-run`, `pending`, `installed` or `failed: …`.
    pub packages_state: String,
}

/// One advisor's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct AdviceView {
    /// Name of the advisor.
    pub advisor: String,
    /// Its policy.
    pub policy: String,
    /// Its ranking, best first.
    pub ranking: Vec<RankedAdvice>,
    /// Rules that were skipped, and why.
    pub skipped: Vec<String>,
}

/// One role in an advisor's ranking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct RankedAdvice {
    /// The role.
    pub role: String,
    /// Name of the rule that advised it.
    pub rule: String,
    /// At most so many of this role.
    pub cap: Option<u32>,
    /// The rule's reason.
    pub reason: String,
}

/// `peers.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct PeersFile {
    /// This node.
    #[serde(rename = "self")]
    pub this: PeersSelf,
    /// The others.
    pub peers: Vec<PeersEntry>,
}

/// This node in `peers.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct PeersSelf {
    /// Its name.
    pub hostname: String,
    /// Address on the network that has the default route, else the first.
    pub primary_ip: String,
    /// Its role.
    pub role: Option<String>,
    /// Its public identity.
    pub peer_id: PeerId,
}

/// Another node in `peers.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct PeersEntry {
    /// Its name.
    pub hostname: String,
    /// Where it is.
    pub ip: String,
    /// Its role.
    pub role: Option<String>,
    /// Its public identity; none for legacy peers.
    pub peer_id: Option<PeerId>,
    /// Discovery and mesh port.
    pub port: u16,
    /// Liveness.
    pub state: MemberState,
}

/// Why a job waits or a node gets no work, and what would change it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct Explanation {
    /// What is explained.
    pub subject: String,
    /// One sentence.
    pub summary: String,
    /// Per drone (for a job) or per job (for a node): eligible or why not.
    pub details: Vec<ExplanationLine>,
    /// What to do so that it changes; may be empty.
    pub remedy: String,
}

/// One line of an explanation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct ExplanationLine {
    /// Drone or job.
    pub name: String,
    /// Whether it is eligible.
    pub eligible: bool,
    /// Why (not).
    pub why: String,
}

/// A blob that can be fetched.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct ArtifactView {
    /// Job that produced it.
    pub job: JobId,
    /// File name.
    pub name: String,
    /// Digest.
    pub sha256: Sha256Hash,
    /// Bytes.
    pub size: u64,
}

/// `GET /api/v2/nodes`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct NodeView {
    /// As in `hive status`.
    #[serde(flatten)]
    pub member: MemberStatus,
    /// What the machine is.
    pub inventory: Option<Inventory>,
}

/// `GET /api/v2/health`: the node that answers, in one line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct Health {
    /// Its name.
    pub name: String,
    /// Its public identity.
    pub peer_id: PeerId,
    /// What it is doing.
    pub state: NodePhase,
    /// Version of the agent.
    pub version: String,
    /// How long the agent has been running.
    pub uptime_ms: u64,
    /// Member of a hive, with its state applied.
    pub ready: bool,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// As in `hive status`.
    pub quorum: bool,
}

/// Answer to `PUT /api/v2/blobs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct StoredBlob {
    /// Digest of what was stored.
    pub sha256: Sha256Hash,
    /// Its length in bytes.
    pub size: u64,
}

/// Body of `POST /api/v2/addresses`, and its answer: an address for an interface of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AddressClaim {
    /// The interface's name.
    pub interface: String,
    /// The address with its prefix length, `10.0.0.7/24`.
    pub cidr: String,
}

/// Body of `POST /hive/join`: a node from another subnet says where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct JoinRequest {
    /// Its name.
    pub hostname: String,
    /// Its public identity, where it has one already.
    #[serde(default)]
    pub peer_id: Option<PeerId>,
    /// `IP:PORT` at which it listens. An empty list stands for the address that the request comes from.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// Body of `POST /api/v2/recover`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct RecoverRequest {
    /// Begin a new epoch. Without it the answer only says what would happen.
    #[serde(default)]
    pub confirm: bool,
}

/// Answer to `POST /api/v2/recover`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct RecoverReport {
    /// Every replica that was asked.
    pub replicas: Vec<RecoverReplica>,
    /// Name of the one with the longest history.
    pub source: Option<String>,
    /// One sentence: what may be lost.
    pub may_be_lost: String,
    /// The new epoch has begun.
    pub recovered: bool,
    /// Number of the epoch that began, or would.
    pub epoch: u64,
}

/// One replica that `hive recover` asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct RecoverReplica {
    /// Its name.
    pub name: String,
    /// It answered.
    pub reached: bool,
    /// Raft term of its last entry.
    pub term: u64,
    /// Index of its last entry.
    pub index: u64,
}
