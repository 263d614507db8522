//! Queueing, assigning and cancelling jobs.
//!
//! ```text
//!   Submit ─► needed ──Assign──► delegated ──Report──► received
//!               ▲                    │                 blocked      not tried again by itself
//!               └── retry, late ─────┤                 failed       tried too often, or must not be repeated
//!                   drone lost       │                 quarantined  too many drones were lost on it
//!                                    └──Cancel──►      cancelled
//! ```
//!
//! `received`, `failed`, `cancelled` and `quarantined` are final. How an attempt's end moves its job is in `reports`.

use super::jobs::Session;
use super::rows::RowKey;
use super::{Context, Executed, State, clip, reject};
use crate::engine::command::{RejectCode, Reply, SUBMIT_JOBS_MAX};
use crate::engine::grammar;
use crate::engine::id::{JobId, PeerId, SessionId};
use crate::engine::job::{ATTEMPTS_KEPT, Attempt, AttemptState, Job, JobSpec, JobState, Tally};

/// Most jobs that are not over: about 200 MiB of state on every replica.
pub const OPEN_JOBS_MAX: u64 = 200_000;
/// Longest reason kept, bytes.
pub(super) const REASON_MAX_LEN: usize = 500;

impl State {
    pub(super) fn submit(
        &mut self,
        context: Context,
        session: SessionId,
        submitter: &str,
        specs: Vec<JobSpec>,
    ) -> Executed {
        if specs.is_empty() || specs.len() > SUBMIT_JOBS_MAX {
            return reject(RejectCode::Invalid, "expected 1 to 64 jobs");
        }
        if !grammar::is_plain_text(submitter, 128) {
            return reject(RejectCode::Invalid, "the submitter must be 1 to 128 bytes without control characters");
        }
        for spec in &specs {
            if let Err(invalid) = grammar::job(spec) {
                return reject(RejectCode::Invalid, format!("job {}: {invalid}", spec.id));
            }
        }
        // The same job again is the answer to a retry; other work under its id would be lost without a word.
        let other = |spec: &&JobSpec| {
            let twice = specs.iter().any(|also| also.id == spec.id && also != *spec);
            twice || self.jobs.get(&spec.id).is_some_and(|known| !spec.asks_the_same_as(&known.spec))
        };
        if let Some(spec) = specs.iter().find(other) {
            return reject(
                RejectCode::Conflict,
                format!("job {} was queued before with something else to do", spec.id),
            );
        }
        let new = specs.iter().filter(|spec| !self.jobs.is_known(&spec.id)).count();
        if self.jobs.counts().open().saturating_add(u64::try_from(new).unwrap_or(u64::MAX)) > OPEN_JOBS_MAX {
            return reject(RejectCode::NoRoom, format!("the queue holds {OPEN_JOBS_MAX} jobs, its most"));
        }
        if new > 0 && self.jobs.session(&session).is_none() {
            let info = Session { submitter: submitter.to_owned(), created_at: context.at, jobs: 0 };
            self.jobs.open_session(session, info);
        }
        for spec in specs {
            // Also skips an id that stands twice in this command.
            if !self.jobs.is_known(&spec.id) {
                self.queue_job(context, session, submitter, spec);
            }
        }
        Ok(Reply::Done)
    }

    fn queue_job(&mut self, context: Context, session: SessionId, submitter: &str, spec: JobSpec) {
        self.meta.last_job += 1;
        self.dirty.insert(RowKey::Job(spec.id));
        self.dirty.insert(RowKey::Session(session));
        self.jobs.insert(Job {
            spec,
            session,
            ordinal: self.meta.last_job,
            submitter: submitter.to_owned(),
            submitted_at: context.at,
            state: JobState::Needed,
            attempts: Vec::new(),
            artifacts: Vec::new(),
            artifact_node: None,
            not_before_ms: 0,
            reason: None,
            tally: Tally::default(),
            finish_ordinal: 0,
        });
    }

    /// Back-off and grounding are the scheduler's to keep: it sees time pass between entries, this does not.
    pub(super) fn assign(&mut self, context: Context, id: JobId, node: &PeerId) -> Executed {
        match self.jobs.get(&id).map(|job| job.state) {
            None => return self.no_such_job(id),
            Some(JobState::Needed) => {}
            Some(
                JobState::Delegated
                | JobState::Received
                | JobState::Blocked
                | JobState::Failed
                | JobState::Cancelled
                | JobState::Quarantined,
            ) => return reject(RejectCode::Conflict, "the job is not waiting for a drone"),
        }
        if self.members.get(node).is_none_or(|member| member.left) {
            return reject(RejectCode::NotFound, "no such member");
        }
        let Some(token) = self.issue_token() else {
            return reject(RejectCode::Conflict, "there is no epoch yet");
        };
        let attempt = self.jobs.update(&id, |job| {
            let number = job.attempts.last().map_or(1, |last| last.attempt + 1);
            if job.attempts.len() >= ATTEMPTS_KEPT {
                job.attempts.remove(0);
            }
            job.attempts.push(Attempt {
                attempt: number,
                token,
                node: node.clone(),
                state: AttemptState::Assigned,
                assigned_at: context.at,
                started_at: None,
                ended_at: None,
                class: None,
                reason: None,
                exit_code: None,
            });
            job.state = JobState::Delegated;
            job.reason = None;
            number
        });
        self.dirty.insert(RowKey::Job(id));
        Ok(Reply::Assigned { token, attempt: attempt.unwrap_or_default() })
    }

    pub(super) fn cancel(&mut self, context: Context, id: JobId, reason: &str) -> Executed {
        match self.jobs.get(&id).map(|job| job.state) {
            None => return self.no_such_job(id),
            Some(JobState::Cancelled) => return Ok(Reply::Done),
            Some(JobState::Received | JobState::Failed | JobState::Quarantined) => {
                return reject(RejectCode::Conflict, "the job is over");
            }
            Some(JobState::Needed | JobState::Delegated | JobState::Blocked) => {}
        }
        let reason = clip(reason, REASON_MAX_LEN);
        self.jobs.update(&id, |job| {
            if let Some(live) = job.attempts.last_mut().filter(|attempt| !attempt.state.is_over()) {
                live.state = AttemptState::Cancelled;
                live.ended_at = Some(context.at);
                live.class = Some(crate::engine::job::FailureClass::Cancelled);
                live.reason = Some(reason.clone());
            }
            job.state = JobState::Cancelled;
            job.reason = Some(reason);
        });
        self.dirty.insert(RowKey::Job(id));
        self.finish(&id);
        Ok(Reply::Done)
    }

    pub(super) fn no_such_job(&self, id: JobId) -> Executed {
        if self.jobs.is_known(&id) {
            reject(RejectCode::Conflict, "the job was over long ago")
        } else {
            reject(RejectCode::NotFound, format!("no job {id}"))
        }
    }
}
