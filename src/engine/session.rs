//! Sessions: jobs that were queued together, with a name, their order and an end.
//!
//! ```text
//!   Submit ──────────────────────────────► open ─► ended, and open again when a job is retried or added
//!   Submit (draft) ─► draft ─OpenSession─►
//!                       └── DropSession ─► gone: nobody has ever seen its jobs
//! ```
//!
//! A draft is how many jobs become visible as one: an import, or what a resolution found. Only a resolution itself runs in one.
//! Never done here: changing anything; transitions live in [`state`](super::state).

use serde::{Deserialize, Serialize};

use super::id::{PeerId, UnixMillis};
use super::state::QueueCounts;

/// What is said of a session when it is made. Of later submissions to it only the submitter counts, for their jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionAbout {
    /// Who.
    pub submitter: String,
    /// For people; may be empty.
    #[serde(default)]
    pub name: String,
    /// The build profile, where there is one.
    #[serde(default)]
    pub profile: Option<String>,
}

impl SessionAbout {
    /// A session without a name.
    pub fn by(submitter: impl Into<String>) -> Self {
        Self { submitter: submitter.into(), name: String::new(), profile: None }
    }
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionPhase {
    /// Its jobs are still being handed in or found; none of them is seen or run, but a resolution.
    Draft,
    /// Its jobs run.
    Open,
    /// An operator ended it: what was not over was cancelled.
    Cancelled,
}

/// Jobs that were queued together, as the replicated state holds them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// What was said of it.
    pub about: SessionAbout,
    /// Position in the hive's order of sessions.
    pub ordinal: u64,
    /// When it was made, by the coordinator's clock.
    pub created_at: UnixMillis,
    /// The same in hive time, milliseconds: ageing counts from it.
    pub created_hive_ms: u64,
    /// Where it stands.
    pub phase: SessionPhase,
    /// Jobs queued in it so far.
    pub jobs: u64,
    /// Jobs of it that are no longer in memory, by how they ended.
    pub retired: QueueCounts,
    /// When its last job was over; none while one is not.
    pub ended_at: Option<UnixMillis>,
    /// Which node hands in a draft; none once it is open.
    pub drafted_by: Option<PeerId>,
    /// Why it was cancelled.
    pub why: Option<String>,
}
