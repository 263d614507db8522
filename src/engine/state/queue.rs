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

use std::collections::{BTreeMap, BTreeSet};

use super::gates::circle;
use super::rows::RowKey;
use super::{Context, Executed, Reject, State, clip, reject};
use crate::engine::command::{RejectCode, Reply, SUBMIT_JOBS_MAX};
use crate::engine::grammar;
use crate::engine::id::{JobId, PeerId, SessionId};
use crate::engine::job::{ATTEMPTS_KEPT, Attempt, AttemptState, FailureClass, Job, JobSpec, JobState, Tally, Work};
use crate::engine::session::{SessionAbout, SessionPhase};

/// Most jobs that are not over, those of drafts included: about 300 MiB of state on every replica.
pub const OPEN_JOBS_MAX: u64 = 250_000;
/// Longest reason kept, bytes.
pub(super) const REASON_MAX_LEN: usize = 500;
/// Longest name of a session or profile, bytes.
const NAME_MAX_LEN: usize = 128;

impl State {
    pub(super) fn submit(
        &mut self,
        context: Context,
        session: SessionId,
        about: SessionAbout,
        draft: Option<PeerId>,
        specs: Vec<JobSpec>,
    ) -> Executed {
        self.check_submission(session, &about, draft.is_some(), &specs)?;
        let new = specs.iter().filter(|spec| !self.jobs.is_known(&spec.id)).count();
        if self.jobs.open_len().saturating_add(u64::try_from(new).unwrap_or(u64::MAX)) > OPEN_JOBS_MAX {
            return reject(RejectCode::NoRoom, format!("the queue holds {OPEN_JOBS_MAX} jobs, its most"));
        }
        if new == 0 {
            return Ok(Reply::Done);
        }
        let submitter = about.submitter.clone();
        self.ensure_session(context, session, about, draft);
        let mut queued = BTreeSet::new();
        for spec in specs {
            // Also skips an id that stands twice in this command.
            if !self.jobs.is_known(&spec.id) {
                queued.insert(spec.id);
                self.queue_job(context, session, &submitter, spec);
            }
        }
        if !self.jobs.sessions.is_draft(&session) {
            // Only now are all there that wait for each other.
            for id in &queued {
                self.jobs.propagate(*id);
            }
            for id in &queued {
                self.join_equal(*id);
            }
            self.jobs.rank(&queued);
            self.note_session_end(context, session);
        }
        Ok(Reply::Done)
    }

    fn check_submission(
        &self,
        session: SessionId,
        about: &SessionAbout,
        draft: bool,
        specs: &[JobSpec],
    ) -> Result<(), Reject> {
        if specs.is_empty() || specs.len() > SUBMIT_JOBS_MAX {
            return reject(RejectCode::Invalid, "expected 1 to 64 jobs");
        }
        if !grammar::is_plain_text(&about.submitter, NAME_MAX_LEN) {
            return reject(RejectCode::Invalid, "the submitter must be 1 to 128 bytes without control characters");
        }
        let named = |text: &str| text.is_empty() || grammar::is_plain_text(text, NAME_MAX_LEN);
        if !named(&about.name) || !about.profile.as_deref().is_none_or(named) {
            return reject(
                RejectCode::Invalid,
                "session and profile have names of at most 128 bytes without control characters",
            );
        }
        if specs.iter().any(|spec| matches!(spec.work, Work::Resolve { .. })) && (specs.len() > 1 || !draft) {
            return reject(RejectCode::Invalid, "a resolution is the one job with which a draft begins");
        }
        for spec in specs {
            if let Err(invalid) = grammar::job(spec) {
                return reject(RejectCode::Invalid, format!("job {}: {invalid}", spec.id));
            }
        }
        // The same job again is the answer to a retry; other work under its id would be lost without a word.
        let other = |spec: &&JobSpec| {
            let twice = specs.iter().any(|also| also.id == spec.id && also != *spec);
            twice || self.jobs.any(&spec.id).is_some_and(|known| !spec.asks_the_same_as(&known.spec))
        };
        if let Some(spec) = specs.iter().find(other) {
            let message = format!("job {} was queued before with something else to do", spec.id);
            return reject(RejectCode::Conflict, message);
        }
        if specs.iter().all(|spec| self.jobs.is_known(&spec.id)) {
            return Ok(());
        }
        match self.jobs.sessions.get(&session).map(|session| session.phase) {
            Some(SessionPhase::Cancelled) => return reject(RejectCode::Conflict, "the session was cancelled"),
            Some(SessionPhase::Open) if draft => return reject(RejectCode::Conflict, "the session is open already"),
            Some(SessionPhase::Draft) if !draft => {
                return reject(RejectCode::Conflict, "the session is a draft that somebody else is handing in");
            }
            Some(SessionPhase::Open | SessionPhase::Draft) | None => {}
        }
        // Of a draft it is looked at when it is opened: what its jobs wait for may come later.
        if draft { Ok(()) } else { self.check_new_dependencies(specs) }
    }

    fn check_new_dependencies(&self, specs: &[JobSpec]) -> Result<(), Reject> {
        let together: BTreeMap<JobId, &JobSpec> = specs.iter().map(|spec| (spec.id, spec)).collect();
        for spec in specs {
            let known = |id: &JobId| {
                together.contains_key(id) || self.jobs.get(id).is_some() || self.jobs.retired_at(id).is_some()
            };
            if let Some(missing) = spec.depends_on.iter().find(|id| !known(id)) {
                let message = format!("job {} waits for job {missing}, which does not exist", spec.id);
                return reject(RejectCode::NotFound, message);
            }
        }
        let waits_for = |id: &JobId| -> Vec<JobId> {
            together.get(id).into_iter().flat_map(|spec| spec.depends_on.iter().copied()).collect()
        };
        match circle(&together.keys().copied().collect(), waits_for) {
            None => Ok(()),
            Some(circle) => {
                let names = circle.iter().filter_map(|id| together.get(id)).map(|spec| spec.target.as_str());
                let names: Vec<&str> = names.collect();
                reject(RejectCode::Invalid, format!("these jobs wait for each other: {}", names.join(" → ")))
            }
        }
    }

    fn queue_job(&mut self, context: Context, session: SessionId, submitter: &str, mut spec: JobSpec) {
        self.meta.last_job += 1;
        self.dirty.insert(RowKey::Job(self.meta.last_job));
        self.dirty.insert(RowKey::Session(session));
        spec.depends_on.retain(|dependency| !self.jobs.retired_well(dependency));
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
            block_until_ms: None,
            joined: None,
            tally: Tally::default(),
            finish_ordinal: 0,
        });
    }

    /// Whether a job may be given to a drone now. Back-off and grounding are the scheduler's to keep: it sees time pass between
    /// entries, this does not.
    fn check_assignment(&self, id: JobId, node: &PeerId) -> Result<(), Reject> {
        let Some(job) = self.jobs.get(&id) else { return self.no_such_job(id).map(|_| ()) };
        let swept = job.state == JobState::Blocked && job.block_until_ms.is_some() && self.is_sweeper(node);
        if job.state != JobState::Needed && !swept {
            return reject(RejectCode::Conflict, "the job is not waiting for a drone");
        }
        if self.jobs.gate(&id).is_some() {
            return reject(RejectCode::Conflict, "the job waits for another one");
        }
        if !self.jobs.sessions.goes_on(&job.session) {
            return reject(RejectCode::Conflict, "the session of the job was cancelled");
        }
        if self.machine(node).is_none() {
            return reject(RejectCode::NotFound, "no such member");
        }
        let record = self.jobs.drones.get(node);
        if self.meta.paused.is_some() || record.paused.is_some() || record.drain.is_some() {
            return reject(RejectCode::Conflict, "the queue or the drone is paused");
        }
        Ok(())
    }

    pub(super) fn assign(&mut self, context: Context, id: JobId, node: &PeerId) -> Executed {
        self.check_assignment(id, node)?;
        let Some(token) = self.issue_token() else {
            return reject(RejectCode::Conflict, "there is no epoch yet");
        };
        let assigned = self.jobs.update(&id, |job| {
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
            job.block_until_ms = None;
            (number, job.session, job.spec.priority)
        });
        let Some((attempt, session, priority)) = assigned else { return self.no_such_job(id) };
        self.jobs.sessions.served(&session, priority, self.meta.hive_time_ms);
        self.legacy.given(node, id);
        self.touch_job(&id);
        Ok(Reply::Assigned { token, attempt })
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
            end_live(job, context, AttemptState::Cancelled, FailureClass::Cancelled, &reason);
            job.state = JobState::Cancelled;
            job.block_until_ms = None;
            job.reason = Some(reason);
        });
        self.settle(context, id);
        Ok(Reply::Done)
    }

    /// Marks the job's row, gives the job its place among those that are over, if it is, and tells those that joined it.
    pub(super) fn settle(&mut self, context: Context, id: JobId) {
        self.touch_job(&id);
        let Some(job) = self.jobs.any(&id) else { return };
        let session = job.session;
        if job.state.is_terminal() {
            self.finish(&id);
            self.tell_joined(context, id);
        }
        self.note_session_end(context, session);
    }

    /// Jobs that do the same as one that is over: they end as it did, but for a cancelled one, whose place the next takes.
    fn tell_joined(&mut self, context: Context, id: JobId) {
        let joined: Vec<JobId> = self.jobs.dependents(&id).collect();
        let mut joined: Vec<&Job> = joined.iter().filter_map(|joined| self.jobs.any(joined)).collect();
        joined.retain(|job| job.joined == Some(id));
        joined.sort_by_key(|job| job.ordinal);
        let joined: Vec<JobId> = joined.into_iter().map(|job| job.spec.id).collect();
        let Some(end) = self.jobs.any(&id).filter(|_| !joined.is_empty()).cloned() else { return };
        for follower in joined {
            if end.state == JobState::Cancelled {
                self.jobs.update(&follower, |job| job.joined = None);
                self.touch_job(&follower);
                self.join_equal(follower);
                continue;
            }
            self.jobs.update(&follower, |job| {
                job.state = end.state;
                job.artifacts.clone_from(&end.artifacts);
                job.artifact_node.clone_from(&end.artifact_node);
                let why = end.reason.as_deref().unwrap_or_default();
                let reason = format!("job {id} does the same: {why}");
                job.reason = (end.state != JobState::Received).then(|| clip(&reason, REASON_MAX_LEN));
            });
            self.settle(context, follower);
        }
    }

    /// A machine that is there to try again what others could not build.
    pub(super) fn is_sweeper(&self, node: &PeerId) -> bool {
        let named = |machine: super::Machine<'_>| {
            machine.name.starts_with("sweeper-") || machine.inventory.labels.contains("sweeper")
        };
        self.machine(node).is_some_and(named) || self.legacy.get(node).is_some_and(|drone| drone.info.sweeper)
    }

    pub(super) fn no_such_job(&self, id: JobId) -> Executed {
        if self.jobs.is_known(&id) {
            reject(RejectCode::Conflict, "the job was over long ago")
        } else {
            reject(RejectCode::NotFound, format!("no job {id}"))
        }
    }
}

/// Ends the live attempt of a job, if it has one.
pub(super) fn end_live(job: &mut Job, context: Context, state: AttemptState, class: FailureClass, reason: &str) {
    if let Some(live) = job.attempts.last_mut().filter(|attempt| !attempt.state.is_over()) {
        live.state = state;
        live.ended_at = Some(context.at);
        live.class = Some(class);
        live.reason = Some(reason.to_owned());
    }
}
