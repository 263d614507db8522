//! What a page needs to show much: a window of the queue, the jobs around a job, how much was done lately.
//!
//! Part of the same promise as [`api`](super). Never done here: deciding anything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::JobLine;
use crate::engine::id::{JobId, UnixMillis};
use crate::engine::job::JobState;

/// `GET /api/v2/queue`: a window of the jobs in memory that fit.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct JobPage {
    /// Jobs that fit, of which `jobs` are a part.
    pub total: u64,
    /// How many of them come before the first of `jobs`.
    pub offset: u64,
    /// The window.
    pub jobs: Vec<JobLine>,
    /// Jobs by shown state that fit when the state is not asked for; states without any are left out.
    pub states: BTreeMap<JobState, u64>,
}

/// `GET /api/v2/jobs/{id}/graph`: what a job waits for and what waits for it, as far as it is in memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct JobGraph {
    /// The job in the middle.
    pub job: JobId,
    /// It and the jobs around it.
    pub jobs: Vec<GraphJob>,
    /// Pairs of a job and one that must succeed before it.
    pub edges: Vec<(JobId, JobId)>,
    /// There are more jobs than are listed.
    pub truncated: bool,
}

/// A job in a graph.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct GraphJob {
    /// The job.
    pub id: JobId,
    /// Steps from the middle: below 0 for what it waits for, above for what waits for it.
    pub level: i32,
    /// What is built.
    pub target: String,
    /// Where it stands.
    pub state: JobState,
    /// How long builds like it took; none when nothing like it was ever built.
    pub estimate_ms: Option<u64>,
}

/// `GET /api/v2/critical-path`: the chain of jobs that decides when the queue is empty, however many drones there are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct CriticalPath {
    /// The first runs or could; each of the others waits for the one before it.
    pub jobs: Vec<ChainJob>,
    /// Jobs of the chain that are not listed.
    pub more: u64,
    /// As likely sooner as later, milliseconds from now; the drones may have other work, so nothing is sooner.
    pub p50_ms: u64,
    /// Jobs of the chain of which nothing like it was ever built: they are guessed.
    pub guessed: u64,
}

/// A job of a chain.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct ChainJob {
    /// The job.
    pub id: JobId,
    /// What is built.
    pub target: String,
    /// Where it stands.
    pub state: JobState,
    /// What is left of it, milliseconds.
    pub left_ms: u64,
}

/// `GET /api/v2/throughput`: attempts that ended, by time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct Throughput {
    /// When the first bucket begins.
    pub from: UnixMillis,
    /// Length of each.
    pub bucket_ms: u64,
    /// Oldest first; the last one is still being filled.
    pub buckets: Vec<ThroughputBucket>,
    /// The jobs in memory do not reach back so far: the first buckets may show less than there was.
    pub truncated: bool,
}

/// What ended within a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct ThroughputBucket {
    /// Attempts whose result was accepted.
    pub done: u64,
    /// Attempts that failed or were lost.
    pub failed: u64,
}
