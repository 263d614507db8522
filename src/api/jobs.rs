//! What people and scripts see of jobs, and how they submit and cancel them.
//!
//! Part of the same promise as [`api`](super). Never done here: checking what is submitted (see
//! [`grammar`](crate::engine::grammar)).

use serde::{Deserialize, Serialize};

use crate::engine::id::{JobId, SessionId, Token, UnixMillis};
use crate::engine::job::{Artifact, AttemptState, FailureClass, JobSpec, JobState};

/// `hive job show`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct JobView {
    /// The job.
    pub id: JobId,
    /// What it was queued with.
    pub session: SessionId,
    /// Where it stands.
    pub state: JobState,
    /// `command`, `debian`, `portage`, `maven` or `resolve`.
    pub backend: String,
    /// What is built, for people.
    pub target: String,
    /// −100…100.
    pub priority: i32,
    /// Required labels.
    pub labels: Vec<String>,
    /// Declared free of outside effects.
    pub pure: bool,
    /// Who queued it.
    pub submitter: String,
    /// When.
    pub submitted_at: UnixMillis,
    /// All tries, oldest first.
    pub attempts: Vec<AttemptView>,
    /// The accepted result.
    pub artifacts: Vec<Artifact>,
    /// Why it does not run; none while it runs and when it is over.
    pub waiting_for: Option<String>,
    /// Why it ended or is blocked.
    pub reason: Option<String>,
    /// Jobs that must have succeeded before it may begin.
    #[serde(default)]
    pub depends_on: Vec<JobId>,
    /// Another job that does the same: this one ends as that one does.
    #[serde(default)]
    pub joined: Option<JobId>,
    /// How long builds like it took: half of them no longer; none when nothing like it was ever built.
    #[serde(default)]
    pub estimate_ms: Option<u64>,
}

/// One try.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct AttemptView {
    /// 1, 2, 3 …
    pub attempt: u32,
    /// Fencing token.
    pub token: Token,
    /// Name of the drone.
    pub node: String,
    /// Where it stands.
    pub state: AttemptState,
    /// When the build began.
    pub started_at: Option<UnixMillis>,
    /// When it was over.
    pub ended_at: Option<UnixMillis>,
    /// Whose fault, once failed.
    pub class: Option<FailureClass>,
    /// One sentence, once failed, lost, stale or cancelled.
    pub reason: Option<String>,
    /// Exit code, where there was one.
    pub exit_code: Option<i32>,
}

/// A line of `hive queue list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct JobLine {
    /// The job.
    pub id: JobId,
    /// Where it stands.
    pub state: JobState,
    /// `command`, `debian`, `portage`, `maven` or `resolve`.
    pub backend: String,
    /// What is built.
    pub target: String,
    /// −100…100.
    pub priority: i32,
    /// Drone of the last attempt.
    pub node: Option<String>,
    /// Number of attempts so far.
    pub attempts: u32,
    /// When it was queued.
    pub submitted_at: UnixMillis,
    /// Why it does not run.
    pub waiting_for: Option<String>,
    /// What it was queued with.
    #[serde(default)]
    pub session: Option<SessionId>,
    /// Jobs that must have succeeded before it may begin.
    #[serde(default)]
    pub depends_on: Vec<JobId>,
    /// Another job that does the same: this one ends as that one does.
    #[serde(default)]
    pub joined: Option<JobId>,
    /// How long builds like it took: half of them no longer; none when nothing like it was ever built.
    #[serde(default)]
    pub estimate_ms: Option<u64>,
}

/// Body of a submission.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct SubmitRequest {
    /// The session; made when it is new.
    pub session: SessionId,
    /// Name of a new session, for people; may be empty.
    #[serde(default)]
    pub name: String,
    /// Build profile of a new session.
    #[serde(default)]
    pub profile: Option<String>,
    /// The jobs.
    pub jobs: Vec<JobSpec>,
}

/// Answer to a submission, given when it is durable on a majority.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct Submitted {
    /// The session.
    pub session: SessionId,
    /// The jobs, in the order given.
    pub jobs: Vec<SubmittedJob>,
}

/// One submitted job.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct SubmittedJob {
    /// Its id.
    pub id: JobId,
    /// What is built.
    pub target: String,
}

/// Body of `POST /api/v2/jobs/{id}/cancel`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct CancelRequest {
    /// One sentence, may be empty.
    #[serde(default)]
    pub reason: String,
}
