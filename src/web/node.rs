//! The node as the web sees it: one object-safe trait, implemented by the agent.
//!
//! Handlers turn HTTP into calls of [`NodeApi`] and its answers into JSON or HTML; they hold no state of the hive themselves.
//! Never done here: deciding anything, and asking anything else than this trait.

mod live;
mod people;
mod replay;

use std::io;
use std::net::IpAddr;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::backup::BackupApi;
use super::data::DataApi;
use crate::api::legacy::{Call, QueueRequest, Queued, Registered, Registration, Told};
use crate::api::{
    AccessView, AddressClaim, AdminKeyChanged, AdminKeyRequest, ApiResult, ArtifactView, Changed, ControlRequest,
    CriticalPath, DoctorFacts, DroneRequest, EventList, Explanation, FleetView, Health, HistoryView, Identity,
    Imported, JobGraph, JobLine, JobPage, JobView, JoinRequest, LogFirstError, LogMatches, LogPhases, LogSearch,
    LogStatus, NodeView, PackageList, PeersFile, RecoverReport, RecoverRequest, SessionList, SessionView, StagedView,
    Status, StoredBlob, SubmitRequest, Submitted, Throughput, TokenMade, TokenRequest,
};
use crate::engine::access::Scope;
use crate::engine::event::EventKind;
use crate::engine::id::{JobId, SessionId, Sha256Hash, UnixMillis};
use crate::engine::job::JobState;
use crate::keyring::Keyring;
use crate::web::wire::WireApi;

pub use self::live::LiveApi;
pub use self::people::{Noted, PeopleApi, SignedIn};
pub use self::replay::{ActivityQuery, Replay, ReplayApi, Replayed};

/// What comes out of a method of [`NodeApi`], some time later.
pub type Answer<'a, T> = BoxFuture<'a, ApiResult<T>>;
/// Bytes on their way to or from a client. An error ends the stream and closes the connection.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// Which jobs to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobQuery {
    /// Only these states; empty: all.
    pub states: Vec<JobState>,
    /// Only this session: id, beginning of it, or name.
    pub session: Option<String>,
    /// Only this kind of builder.
    pub backend: Option<String>,
    /// Only jobs whose last attempt is or was on this drone.
    pub drone: Option<String>,
    /// Only jobs whose id begins so.
    pub id: Option<String>,
    /// Only jobs queued before this one: the next page.
    pub before: Option<JobId>,
    /// At most so many, the newest first.
    pub limit: usize,
}

/// In which order jobs are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobOrder {
    /// Those queued last first.
    #[default]
    Newest,
    /// Those queued first first.
    Oldest,
    /// Those with the highest priority first, each as queued.
    Priority,
}

/// Which window of the queue to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobPageQuery {
    /// Only these states; empty: all.
    pub states: Vec<JobState>,
    /// Only jobs whose target holds this text, in any case, or whose id begins with it.
    pub text: Option<String>,
    /// Only this session: id, beginning of it, or name.
    pub session: Option<String>,
    /// Only this kind of builder.
    pub backend: Option<String>,
    /// Only jobs whose last attempt is or was on this drone.
    pub drone: Option<String>,
    /// In this order.
    pub order: JobOrder,
    /// So many of them are skipped.
    pub offset: usize,
    /// At most so many.
    pub limit: usize,
}

/// Which sessions to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionQuery {
    /// Only those that are not over.
    pub open: bool,
    /// At most so many, the newest first.
    pub limit: usize,
}

/// What an import goes into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportAbout {
    /// The session.
    pub session: SessionId,
    /// Its name, may be empty.
    pub name: String,
    /// Its build profile.
    pub profile: Option<String>,
}

/// Which attempts to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Only of this package, or with this target.
    pub package: Option<String>,
    /// Only on this drone.
    pub drone: Option<String>,
    /// Only of this session: id, beginning of it, or name.
    pub session: Option<String>,
    /// Only those that failed or were lost.
    pub failed: bool,
    /// At most so many, those that ended last first.
    pub limit: usize,
}

/// What a reader of the Python swarm asks.
#[derive(Clone, Debug, PartialEq)]
pub enum LegacyRead {
    /// `health`.
    Health,
    /// `status`.
    Status,
    /// `nodes`.
    Nodes {
        /// Also those that do not answer.
        all: bool,
    },
    /// `orchestrator`.
    Orchestrator,
    /// `queue`.
    Queue {
        /// Rows.
        limit: Option<usize>,
    },
    /// `history`.
    History {
        /// Only of this session.
        session: Option<String>,
        /// Rows.
        limit: Option<usize>,
    },
    /// `sessions`.
    Sessions,
    /// `build-stats/by-package`.
    Packages {
        /// Only this one.
        package: Option<String>,
        /// Rows.
        limit: Option<usize>,
    },
    /// `versions`.
    Versions,
    /// `metrics`.
    Metrics {
        /// Samples after this time, seconds since 1970.
        since: Option<f64>,
        /// Only of this drone.
        node: Option<String>,
    },
    /// `drone-health`.
    DroneHealth,
    /// Whether drones answer, and what its administration asks about machines.
    Probe(LegacyProbe),
    /// `portage-config`.
    PortageConfig,
    /// `events`.
    Events {
        /// Those after this id.
        since: Option<u64>,
        /// At most so many.
        limit: Option<usize>,
    },
    /// `events/history`.
    EventsHistory {
        /// Those after this time, seconds since 1970.
        since: Option<f64>,
        /// Only of this type.
        kind: Option<String>,
        /// Only of this drone.
        drone: Option<String>,
        /// At most so many.
        limit: Option<usize>,
    },
}

/// What is asked about machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegacyProbe {
    /// `ping`: one by name or id, or all of them.
    Ping {
        /// Which one.
        who: Option<String>,
    },
    /// `system/info`.
    SystemInfo,
    /// `drones/versions`.
    DroneVersions,
    /// `v2/nodes`.
    Nodes,
    /// `v2/status`.
    Status,
}

/// Which part of a log to stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogQuery {
    /// The job.
    pub job: JobId,
    /// The attempt; none: the last one.
    pub attempt: Option<u32>,
    /// First byte.
    pub offset: u64,
    /// Begin so many bytes before the end instead, where the log is longer than that after `offset`.
    pub tail_bytes: Option<u64>,
    /// Go on with what is written until the attempt is over.
    pub follow: bool,
}

/// An attempt's log.
pub struct LogStream {
    /// The attempt.
    pub attempt: u32,
    /// Position of the first byte of `bytes`.
    pub offset: u64,
    /// Raw output of the build; whoever shows it neutralises it.
    pub bytes: ByteStream,
}

/// A file.
pub struct Download {
    /// File name, without any directory.
    pub name: String,
    /// Digest that the bytes have.
    pub sha256: Sha256Hash,
    /// Their number.
    pub size: u64,
    /// The bytes, verified by whoever hands them out.
    pub bytes: ByteStream,
}

/// Which events to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Only those after this one, the oldest of them first to be had; none: the newest.
    pub since: Option<u64>,
    /// Only of this kind.
    pub kind: Option<EventKind>,
    /// Only those that concern this drone or node.
    pub drone: Option<String>,
    /// Only those up to this time.
    pub until: Option<UnixMillis>,
    /// At most so many.
    pub limit: usize,
}

/// Whose key a request came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// `the admin key`, or `token NAME`.
    pub name: String,
    /// What it opens.
    pub scope: Scope,
    /// The one drone as which its holder may act; none: any that the scope allows.
    pub drone: Option<String>,
}

/// A file of a staging directory.
pub struct StagedFile {
    /// Number of its bytes.
    pub size_bytes: u64,
    /// When it changed last, seconds since 1970.
    pub changed_unix_s: i64,
    /// The bytes.
    pub bytes: ByteStream,
}

/// Everything that can be asked of a node over HTTP.
pub trait NodeApi: BackupApi + DataApi + LiveApi + PeopleApi + ReplayApi + Send + Sync + 'static {
    /// Where the node stands in the log. Cheap: every answer carries it.
    fn log(&self) -> LogStatus;
    /// Fine when the node is a member with its state applied, else why not. Cheap.
    fn ready(&self) -> Result<(), String>;
    /// The keys that guard `/hive/*` and sign the bootstrap files; none while the node has no secret.
    fn keyring(&self) -> Option<Keyring>;
    /// Whose key this is, compared in constant time with all that the hive knows; none when it is nobody's, or over. Cheap.
    fn holder(&self, key: &[u8]) -> Option<Holder>;
    /// Counts a refused request, for `hive doctor` and the metrics.
    fn refused(&self, reason: &'static str, from: IpAddr);
    /// Measurements in Prometheus' text format, each line ended by a line feed.
    fn metrics(&self) -> String;

    /// Waits until this node's copy of the state has all that the hive had committed when it was asked.
    fn catch_up(&self) -> Answer<'_, ()>;
    /// The node in one line.
    fn health(&self) -> Answer<'_, Health>;
    /// `hive status`.
    fn status(&self) -> Answer<'_, Status>;
    /// All nodes with what they are.
    fn nodes(&self) -> Answer<'_, Vec<NodeView>>;
    /// `peers.json`.
    fn peers(&self) -> Answer<'_, PeersFile>;
    /// The identity file, which holds every advisor's answer too. `NotFound` before the first vote.
    fn identity(&self) -> Answer<'_, Identity>;
    /// Asks the hive again and answers with the new identity.
    fn reset_identity(&self) -> Answer<'_, Identity>;
    /// Adds an address to an interface of this machine.
    fn claim_address(&self, claim: AddressClaim) -> Answer<'_, AddressClaim>;
    /// Queues jobs; answers when they are durable on a majority.
    fn submit(&self, request: SubmitRequest, submitter: String) -> Answer<'_, Submitted>;
    /// Stores a source archive.
    fn store_blob(&self, bytes: ByteStream) -> Answer<'_, StoredBlob>;
    /// Lists jobs.
    fn jobs(&self, query: JobQuery) -> Answer<'_, Vec<JobLine>>;
    /// One job.
    fn job(&self, id: JobId) -> Answer<'_, JobView>;
    /// Ends a job; answers with what became of it.
    fn cancel(&self, id: JobId, reason: String) -> Answer<'_, JobView>;
    /// Why a job waits or a node gets no work.
    fn explain(&self, what: String) -> Answer<'_, Explanation>;
    /// An attempt's log, from whichever node keeps it.
    fn job_log(&self, query: LogQuery) -> Answer<'_, LogStream>;
    /// Lines of an attempt's log that match, found where it is kept. The attempt here and below: none is the last one.
    fn log_matches(&self, id: JobId, attempt: Option<u32>, search: LogSearch) -> Answer<'_, LogMatches>;
    /// The phases of an attempt.
    fn log_phases(&self, id: JobId, attempt: Option<u32>) -> Answer<'_, LogPhases>;
    /// The line of an attempt's log that tells best what went wrong.
    fn log_first_error(&self, id: JobId, attempt: Option<u32>) -> Answer<'_, LogFirstError>;
    /// Artifacts of a job.
    fn artifacts(&self, id: JobId) -> Answer<'_, Vec<ArtifactView>>;
    /// An artifact by its name, from whichever node has it.
    fn artifact(&self, id: JobId, name: String) -> Answer<'_, Download>;
    /// Whether a whole package is in the staging directory of some node.
    fn staged(&self, atom: String) -> Answer<'_, StagedView>;
    /// A file of this node's staging directory, by `BACKEND/ARCH/…`.
    fn staged_file(&self, path: String) -> Answer<'_, StagedFile>;
    /// A blob by its digest.
    fn blob(&self, sha256: Sha256Hash) -> Answer<'_, Download>;
    /// What `hive doctor` needs.
    fn doctor(&self) -> Answer<'_, DoctorFacts>;
    /// The hive's datagrams from now on, one JSON object per line.
    fn listen(&self) -> Answer<'_, ByteStream>;
    /// Remembers where a node on another subnet is, and answers with the peers.
    fn join(&self, request: JoinRequest, from: IpAddr) -> Answer<'_, PeersFile>;
    /// An operator acts on the queue.
    fn control(&self, request: ControlRequest, by: String) -> Answer<'_, Changed>;
    /// An operator pauses, resumes, drains or limits a drone.
    fn change_drone(&self, name: String, action: String, request: DroneRequest, by: String) -> Answer<'_, Changed>;
    /// Lists sessions.
    fn sessions(&self, query: SessionQuery) -> Answer<'_, SessionList>;
    /// One session, by id, beginning of it, or name.
    fn session(&self, which: String) -> Answer<'_, SessionView>;
    /// Ends a session.
    fn cancel_session(&self, which: String, by: String, why: String) -> Answer<'_, Changed>;
    /// Queues the jobs of a stream of lines, all of them or none.
    fn import(&self, about: ImportAbout, submitter: String, lines: ByteStream) -> Answer<'_, Imported>;
    /// The drones and what they do.
    fn fleet(&self) -> Answer<'_, FleetView>;
    /// Attempts that are over.
    fn history(&self, query: HistoryQuery) -> Answer<'_, HistoryView>;
    /// What is known of packages, those tried last first.
    fn packages(&self, limit: usize) -> Answer<'_, PackageList>;
    /// A drone of the Python swarm registers, or says how it is. `from`: where the request came from.
    fn legacy_register(&self, registration: Registration, from: IpAddr) -> Answer<'_, Registered>;
    /// Something else on behalf of such a drone.
    fn legacy(&self, call: Call) -> Answer<'_, Told>;
    /// Queues packages as the Python swarm did.
    fn legacy_queue(&self, request: QueueRequest, submitter: String) -> Answer<'_, Queued>;
    /// What its readers ask, in its shapes.
    fn legacy_read(&self, what: LegacyRead) -> Answer<'_, serde_json::Value>;
    /// What happened, oldest first.
    fn events(&self, query: EventQuery) -> Answer<'_, EventList>;
    /// Who may control the hive from another machine.
    fn access(&self) -> Answer<'_, AccessView>;
    /// Changes the admin key.
    fn change_admin_key(&self, request: AdminKeyRequest, by: String) -> Answer<'_, AdminKeyChanged>;
    /// Makes a token.
    fn add_token(&self, request: TokenRequest, by: String) -> Answer<'_, TokenMade>;
    /// Revokes a token.
    fn revoke_token(&self, name: String, by: String) -> Answer<'_, AccessView>;
    /// A window of the queue.
    fn job_page(&self, query: JobPageQuery) -> Answer<'_, JobPage>;
    /// What a job waits for and what waits for it.
    fn job_graph(&self, id: JobId) -> Answer<'_, JobGraph>;
    /// The chain of jobs that decides when the queue is empty.
    fn critical_path(&self) -> Answer<'_, CriticalPath>;
    /// What ended in the last minutes.
    fn throughput(&self, minutes: u64) -> Answer<'_, Throughput>;
    /// The identity of any node, asked of it.
    fn identity_of(&self, name: String) -> Answer<'_, Identity>;
    /// What passed between nodes.
    fn wire(&self) -> &dyn WireApi;
    /// `hive recover`.
    fn recover(&self, request: RecoverRequest) -> Answer<'_, RecoverReport>;
}
