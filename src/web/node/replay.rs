//! What is asked of the node about a moment of the past, besides [`NodeApi`](super::NodeApi).

use serde_json::Value;

use super::{Answer, EventQuery, HistoryQuery, JobPageQuery, JobQuery, SessionQuery};
use crate::api::{Activity, LogStatus};
use crate::engine::id::{JobId, UnixMillis};

/// A read that can be answered of a moment of the past, in the shape in which it is answered of now.
#[derive(Clone, Debug, PartialEq)]
pub enum Replayed {
    /// `hive status`.
    Status,
    /// All nodes with what they are.
    Nodes,
    /// The drones and what they do.
    Fleet,
    /// Jobs.
    Jobs(JobQuery),
    /// A window of the queue.
    Queue(JobPageQuery),
    /// One job.
    Job(JobId),
    /// What a job waits for and what waits for it.
    Graph(JobId),
    /// Artifacts of a job.
    Artifacts(JobId),
    /// The chain of jobs that decides when the queue is empty.
    CriticalPath,
    /// What ended in the last minutes before.
    Throughput(u64),
    /// Sessions.
    Sessions(SessionQuery),
    /// One session.
    Session(String),
    /// Attempts that were over.
    History(HistoryQuery),
    /// What was known of packages.
    Packages(usize),
    /// What had happened.
    Events(EventQuery),
    /// What had been done by people.
    Audit {
        /// Only before this entry.
        before: Option<u64>,
        /// At most so many.
        limit: usize,
    },
}

/// What was so at a moment.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The answer.
    pub data: Value,
    /// Where the log stood.
    pub log: LogStatus,
}

/// How much went on, in which stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivityQuery {
    /// From here on.
    pub from: UnixMillis,
    /// Up to here.
    pub to: UnixMillis,
    /// Columns, at least one.
    pub buckets: usize,
}

/// What a node knows of the past.
pub trait ReplayApi {
    /// A read, answered of a moment.
    fn replay(&self, at: UnixMillis, what: Replayed) -> Answer<'_, Replay>;
    /// How much went on when.
    fn activity(&self, query: ActivityQuery) -> Answer<'_, Activity>;
}
