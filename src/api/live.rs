//! What a page that follows is told, message by message: the data of `GET /api/v2/events` as server-sent events.

use serde::{Deserialize, Serialize};

use super::QueueStatus;
use crate::engine::id::{HiveId, JobId, UnixMillis};
use crate::engine::wire::Record;

/// `event: hello`, the first message.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct LiveHello {
    /// The node that answers.
    pub node: String,
    /// Last log index that it has applied.
    pub index: u64,
    /// What is told from here on.
    pub topics: Vec<String>,
}

/// Members by what is known of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct LiveMembers {
    /// They answer.
    pub up: u64,
    /// They have not answered lately.
    pub suspect: u64,
    /// They do not answer.
    pub down: u64,
}

/// `event: status`: the hive in a few lines, told when they change.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct LiveStatus {
    /// When it was put together.
    pub as_of: UnixMillis,
    /// Last log index applied.
    pub index: u64,
    /// Name of the coordinator; none: there is none.
    pub coordinator: Option<String>,
    /// A majority of voters answers.
    pub quorum: bool,
    /// The hive; none before it is founded.
    pub hive_id: Option<HiveId>,
    /// Jobs by state.
    pub queue: QueueStatus,
    /// What does not work as it should.
    pub degraded: Vec<String>,
    /// What the operator should know.
    pub notices: Vec<String>,
    /// Members by what is known of them.
    pub members: LiveMembers,
}

/// `event: changes`: what to ask for anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct LiveChanges {
    /// Last log index applied.
    pub index: u64,
    /// Out of `jobs`, `sessions`, `nodes`, `fleet`, `control`, `access`, `audit`.
    pub kinds: Vec<String>,
    /// Jobs that changed, at most 50; with `more_jobs` there are others.
    pub jobs: Vec<JobId>,
    /// More jobs changed than are listed.
    pub more_jobs: bool,
}

/// `event: metrics`, once a second.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct LiveMetrics {
    /// When.
    pub at: UnixMillis,
    /// Members that have not left.
    pub nodes: Vec<NodeMetrics>,
    /// Jobs by state.
    pub queue: QueueStatus,
}

/// How one node is doing, as it said last.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct NodeMetrics {
    /// Its name.
    pub name: String,
    /// Load average over one minute.
    pub load1: Option<f64>,
    /// Its processors.
    pub cores: u32,
    /// Share of the processors' time that was used lately, percent.
    pub cpu_percent: Option<u32>,
    /// Share of the memory that is in use, percent.
    pub ram_percent: Option<u32>,
    /// Attempts that run there.
    pub building: u32,
    /// Free bytes of its state directory.
    pub disk_free_bytes: Option<u64>,
}

/// `event: log`: the next piece of an attempt's log, harmless.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct LiveLog {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// Position of the piece in the log, bytes.
    pub offset: u64,
    /// Its text.
    pub text: String,
}

/// `event: log-end`: nothing more comes of this log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct LiveLogEnd {
    /// The job.
    pub job: JobId,
    /// The attempt; none when there is none yet.
    pub attempt: Option<u32>,
    /// How the attempt stands; none when it is not known.
    pub state: Option<String>,
    /// Why the log is not to be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `event: wire`: a message that passed the node that answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LiveWire {
    /// The message, without what it says.
    #[serde(flatten)]
    pub record: Record,
    /// Messages that were left out before it because there were too many, whether or not they fit the filter.
    pub dropped: u64,
}

/// `event: gap`: some messages were not told. What shows the present is to be asked for anew.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct LiveGap {
    /// Messages that were left out because they were not read in time; none when it is not known.
    pub missed: Option<u64>,
    /// Events after this one follow; those before are not to be had here.
    pub since: u64,
}
