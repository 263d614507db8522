//! Sessions: which jobs were queued together, what became of them, and drafts.

use std::collections::{BTreeMap, BTreeSet};

use super::gates::circle;
use super::jobs::QueueCounts;
use super::rows::RowKey;
use super::{Context, Executed, State, clip, reject};
use crate::engine::command::{RejectCode, Reply};
use crate::engine::id::{JobId, PeerId, SessionId};
use crate::engine::job::{Job, JobState, Work};
use crate::engine::session::{Session, SessionAbout, SessionPhase};

/// Sessions kept that have no job in memory any more.
pub const SESSIONS_KEPT: usize = 1_000;
/// Jobs shown of a circle of dependencies.
const CIRCLE_SHOWN_MAX: usize = 8;

#[derive(Clone, Debug)]
struct Entry {
    session: Session,
    /// Ordinals of its jobs in memory, with their ids.
    jobs: BTreeMap<u64, JobId>,
    /// Of its jobs in memory.
    counts: QueueCounts,
    /// Hive time at which a job of each priority was given to a drone last. Memory only: it is what ageing counts from.
    served_ms: BTreeMap<i32, u64>,
}

/// The table of sessions.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions {
    sessions: BTreeMap<SessionId, Entry>,
    /// Sessions without a job in memory, by their ordinal.
    empty: BTreeMap<u64, SessionId>,
}

impl Sessions {
    pub(super) fn get(&self, id: &SessionId) -> Option<&Session> {
        self.sessions.get(id).map(|entry| &entry.session)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&SessionId, &Session)> {
        self.sessions.iter().map(|(id, entry)| (id, &entry.session))
    }

    /// It was not cancelled.
    pub(super) fn goes_on(&self, id: &SessionId) -> bool {
        self.sessions.get(id).is_none_or(|entry| entry.session.phase != SessionPhase::Cancelled)
    }

    pub(super) fn ending(&self) -> impl Iterator<Item = (&SessionId, &Session)> {
        let ending = |entry: &Entry| entry.session.phase == SessionPhase::Cancelled && entry.counts.open() > 0;
        self.sessions.iter().filter(move |(_, entry)| ending(entry)).map(|(id, entry)| (id, &entry.session))
    }

    pub(super) fn counts(&self, id: &SessionId) -> QueueCounts {
        self.sessions.get(id).map_or_else(QueueCounts::default, |entry| entry.counts.plus(&entry.session.retired))
    }

    pub(super) fn ordinal(&self, id: &SessionId) -> u64 {
        self.sessions.get(id).map_or(0, |entry| entry.session.ordinal)
    }

    pub(super) fn is_draft(&self, id: &SessionId) -> bool {
        self.sessions.get(id).is_some_and(|entry| entry.session.phase == SessionPhase::Draft)
    }

    pub(super) fn job_ids(&self, id: &SessionId) -> Vec<JobId> {
        self.sessions.get(id).into_iter().flat_map(|entry| entry.jobs.values().copied()).collect()
    }

    /// Since when, in hive time, no job of this session and priority was given to a drone, milliseconds.
    pub(super) fn unserved_since_ms(&self, id: &SessionId, priority: i32) -> u64 {
        let Some(entry) = self.sessions.get(id) else { return 0 };
        entry.served_ms.get(&priority).copied().unwrap_or(entry.session.created_hive_ms)
    }

    pub(super) fn served(&mut self, id: &SessionId, priority: i32, hive_ms: u64) {
        if let Some(entry) = self.sessions.get_mut(id) {
            entry.served_ms.insert(priority, hive_ms);
        }
    }

    pub(super) fn count(&mut self, id: &SessionId, state: JobState, up: bool) {
        let Some(entry) = self.sessions.get_mut(id) else { return };
        let count = entry.counts.of_mut(state);
        *count = if up { *count + 1 } else { count.saturating_sub(1) };
    }

    fn open(&mut self, id: SessionId, session: Session) {
        self.empty.insert(session.ordinal, id);
        let entry =
            Entry { session, jobs: BTreeMap::new(), counts: QueueCounts::default(), served_ms: BTreeMap::new() };
        self.sessions.insert(id, entry);
    }

    pub(super) fn load(&mut self, id: SessionId, session: Session) {
        self.open(id, session);
    }

    /// A new job.
    pub(super) fn add(&mut self, job: &Job) {
        if let Some(entry) = self.sessions.get_mut(&job.session) {
            entry.session.jobs += 1;
        }
        self.attach(job);
    }

    /// A job that was counted before.
    pub(super) fn attach(&mut self, job: &Job) {
        if let Some(entry) = self.sessions.get_mut(&job.session) {
            entry.jobs.insert(job.ordinal, job.spec.id);
            self.empty.remove(&entry.session.ordinal);
        }
    }

    pub(super) fn remove(&mut self, job: &Job) {
        if let Some(entry) = self.sessions.get_mut(&job.session) {
            entry.jobs.remove(&job.ordinal);
            if entry.jobs.is_empty() {
                self.empty.insert(entry.session.ordinal, job.session);
            }
        }
    }

    /// A job is no longer in memory.
    pub(super) fn retire(&mut self, job: &Job) {
        if let Some(entry) = self.sessions.get_mut(&job.session) {
            *entry.session.retired.of_mut(job.state) += 1;
        }
    }

    /// Lets go the oldest sessions without jobs in memory, beyond those that are kept.
    pub(super) fn drop_oldest(&mut self) -> Vec<SessionId> {
        let mut dropped = Vec::new();
        while self.empty.len() > SESSIONS_KEPT {
            let Some((_, id)) = self.empty.pop_first() else { break };
            self.sessions.remove(&id);
            dropped.push(id);
        }
        dropped
    }

    pub(super) fn change(&mut self, id: &SessionId, change: impl FnOnce(&mut Session)) {
        if let Some(entry) = self.sessions.get_mut(id) {
            change(&mut entry.session);
        }
    }

    fn forget(&mut self, id: &SessionId) {
        if let Some(entry) = self.sessions.remove(id) {
            self.empty.remove(&entry.session.ordinal);
        }
    }

    pub(super) fn row_keys(&self) -> impl Iterator<Item = RowKey> {
        self.sessions.keys().copied().map(RowKey::Session)
    }
}

impl State {
    /// Makes a session when there is none of this id.
    pub(super) fn ensure_session(
        &mut self,
        context: Context,
        id: SessionId,
        about: SessionAbout,
        draft: Option<PeerId>,
    ) {
        if self.jobs.sessions.get(&id).is_some() {
            return;
        }
        self.meta.last_session += 1;
        let session = Session {
            about,
            ordinal: self.meta.last_session,
            created_at: context.at,
            created_hive_ms: self.meta.hive_time_ms,
            phase: if draft.is_some() { SessionPhase::Draft } else { SessionPhase::Open },
            jobs: 0,
            retired: QueueCounts::default(),
            ended_at: None,
            drafted_by: draft,
            why: None,
        };
        self.jobs.sessions.open(id, session);
        self.dirty.insert(RowKey::Session(id));
    }

    pub(super) fn open_session(&mut self, context: Context, id: SessionId, jobs: u64) -> Executed {
        let Some(session) = self.jobs.sessions.get(&id) else {
            return reject(RejectCode::NotFound, format!("no session {id}"));
        };
        if session.phase != SessionPhase::Draft {
            return if session.jobs == jobs {
                Ok(Reply::Done)
            } else {
                reject(RejectCode::Conflict, "the session is no draft any more")
            };
        }
        if session.jobs != jobs {
            let known = session.jobs;
            return reject(RejectCode::Conflict, format!("{jobs} jobs were announced and {known} have arrived"));
        }
        let ids: BTreeSet<JobId> = self.jobs.sessions.job_ids(&id).into_iter().collect();
        self.check_dependencies(&ids)?;
        for job in &ids {
            self.strike_met(job);
        }
        self.jobs.reopen(&id, |sessions| {
            sessions.change(&id, |session| {
                session.phase = SessionPhase::Open;
                session.drafted_by = None;
            });
        });
        self.dirty.insert(RowKey::Session(id));
        // All were there when their gates were made; only what is held was perhaps not known to be yet.
        let held: Vec<JobId> = ids.iter().filter(|job| self.jobs.is_held(job)).copied().collect();
        for job in held {
            self.jobs.propagate(job);
        }
        for job in &ids {
            self.join_equal(*job);
        }
        self.jobs.rank(&ids);
        self.note_session_end(context, id);
        Ok(Reply::Done)
    }

    /// Every dependency exists, has not ended badly for good, and nothing waits for itself.
    pub(super) fn check_dependencies(&self, ids: &BTreeSet<JobId>) -> Result<(), super::Reject> {
        for id in ids {
            let Some(job) = self.jobs.any(id) else { continue };
            for dependency in &job.spec.depends_on {
                if !ids.contains(dependency) && self.jobs.get(dependency).is_none() && !self.jobs.is_known(dependency) {
                    let (target, id) = (&job.spec.target, job.spec.id);
                    let message = format!("job {id} ({target}) waits for job {dependency}, which does not exist");
                    return reject(RejectCode::NotFound, message);
                }
            }
        }
        let waits_for = |id: &JobId| -> Vec<JobId> {
            self.jobs.any(id).into_iter().flat_map(|job| job.spec.depends_on.iter().copied()).collect()
        };
        let Some(circle) = circle(ids, waits_for) else { return Ok(()) };
        let name = |id: &JobId| self.jobs.any(id).map_or_else(|| id.to_string(), |job| job.spec.target.clone());
        let mut names: Vec<String> = circle.iter().take(CIRCLE_SHOWN_MAX).map(name).collect();
        if circle.len() > CIRCLE_SHOWN_MAX {
            names.push(format!("… ({} in all)", circle.len() - 1));
        }
        reject(RejectCode::Invalid, format!("these jobs wait for each other: {}", names.join(" → ")))
    }

    /// Strikes dependencies out that have succeeded and are history: nobody will look them up there.
    fn strike_met(&mut self, id: &JobId) {
        let Some(job) = self.jobs.any(id) else { return };
        let met = job.spec.depends_on.iter().filter(|dependency| self.jobs.retired_well(dependency));
        let met: BTreeSet<JobId> = met.copied().collect();
        if !met.is_empty() {
            self.jobs.update(id, |job| job.spec.depends_on.retain(|dependency| !met.contains(dependency)));
            self.touch_job(id);
        }
    }

    /// One that does what another job under way does is not run beside it.
    pub(super) fn join_equal(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id).filter(|job| job.state == JobState::Needed && job.joined.is_none()) else {
            return;
        };
        if !job.spec.pure || matches!(job.spec.work, Work::Resolve { .. }) {
            return;
        }
        let Some(other) = self.jobs.equal_to(job) else { return };
        // An older one never joins a younger one: that keeps circles out.
        if self.jobs.any(&other).is_none_or(|other| other.ordinal > job.ordinal) {
            return;
        }
        self.jobs.update(&id, |job| job.joined = Some(other));
        self.touch_job(&id);
    }

    pub(super) fn drop_session(&mut self, context: Context, id: SessionId, reason: &str) -> Executed {
        let Some(session) = self.jobs.sessions.get(&id) else { return Ok(Reply::Done) };
        if session.phase != SessionPhase::Draft {
            return reject(RejectCode::Conflict, "the session is no draft; cancel it instead");
        }
        let mut kept = 0;
        for job in self.jobs.sessions.job_ids(&id) {
            let Some(known) = self.jobs.any(&job) else { continue };
            if self.jobs.is_dormant(known) {
                let ordinal = known.ordinal;
                self.jobs.remove(&job);
                self.dirty.insert(RowKey::Job(ordinal));
            } else {
                // The resolution has been seen.
                kept += 1;
                let over = known.state.is_terminal();
                if !over {
                    self.cancel(context, job, reason)?;
                }
            }
        }
        if kept > 0 {
            let reason = clip(reason, super::queue::REASON_MAX_LEN);
            self.jobs.reopen(&id, |sessions| {
                sessions.change(&id, |session| {
                    session.phase = SessionPhase::Cancelled;
                    session.drafted_by = None;
                    session.why = Some(reason);
                    session.jobs = kept;
                });
            });
            self.note_session_end(context, id);
        } else {
            self.jobs.sessions.forget(&id);
        }
        self.dirty.insert(RowKey::Session(id));
        Ok(Reply::Done)
    }

    /// Notes when the last job of a session was over, or that one is not any more.
    pub(super) fn note_session_end(&mut self, context: Context, id: SessionId) {
        let over = self.jobs.sessions.counts(&id).open() == 0;
        let Some(session) = self.jobs.sessions.get(&id) else { return };
        if session.phase == SessionPhase::Draft || session.ended_at.is_some() == over {
            return;
        }
        self.jobs.sessions.change(&id, |session| session.ended_at = over.then_some(context.at));
        self.dirty.insert(RowKey::Session(id));
    }
}
