//! The table of jobs with its indexes, sessions, and what went wrong at which drone.
//!
//! Every change of a job goes through [`Jobs::update`], which takes it out of all indexes and puts it back, so that they
//! cannot drift. Counting, and finding what is next or what a drone has, never walks the table.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::State;
use super::rows::{RowKey, encode};
use crate::engine::id::{JobId, PeerId, SessionId, UnixMillis};
use crate::engine::job::{AttemptState, Job, JobState, Needs};

/// Jobs that are over and stay in memory, so that `job show` and `queue list` answer at once: about 10 MiB.
pub const TERMINAL_KEPT: usize = 10_000;
/// Older jobs kept as rows of the history table. Their ids stay in memory (about 5 MiB), so that submitting one of them
/// again is recognised; an id older than that may be queued anew.
pub const HISTORY_KEPT: usize = 100_000;

/// Jobs by state, and attempts that run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueCounts {
    /// Jobs that wait.
    pub needed: u64,
    /// Jobs given to a drone.
    pub delegated: u64,
    /// Attempts that are building or uploading.
    pub building: u64,
    /// Jobs done, ever.
    pub received: u64,
    /// Jobs blocked.
    pub blocked: u64,
    /// Jobs failed, ever.
    pub failed: u64,
    /// Jobs cancelled, ever.
    pub cancelled: u64,
    /// Jobs quarantined, ever.
    pub quarantined: u64,
}

impl QueueCounts {
    fn of_mut(&mut self, state: JobState) -> &mut u64 {
        match state {
            JobState::Needed => &mut self.needed,
            JobState::Delegated => &mut self.delegated,
            JobState::Received => &mut self.received,
            JobState::Blocked => &mut self.blocked,
            JobState::Failed => &mut self.failed,
            JobState::Cancelled => &mut self.cancelled,
            JobState::Quarantined => &mut self.quarantined,
        }
    }

    /// Jobs that are not over.
    pub fn open(&self) -> u64 {
        self.needed + self.delegated + self.blocked
    }

    pub(super) fn plus(mut self, other: &Self) -> Self {
        self.needed += other.needed;
        self.delegated += other.delegated;
        self.building += other.building;
        self.received += other.received;
        self.blocked += other.blocked;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.quarantined += other.quarantined;
        self
    }
}

/// Jobs that were queued together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Who made it.
    pub submitter: String,
    /// When, by the coordinator's clock.
    pub created_at: UnixMillis,
    /// Jobs queued in it so far.
    pub jobs: u64,
}

/// What went wrong at a drone lately. A success clears it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroneRecord {
    /// Failures of class `infra` since its last success or grounding.
    pub infra_failures: u32,
    /// It gets no work before this hive time.
    pub grounded_until_ms: u64,
}

/// Place of a waiting job: higher priority first, then the order of submission.
pub(super) type Place = (std::cmp::Reverse<i32>, u64, JobId);

#[derive(Clone, Debug)]
struct SessionEntry {
    session: Session,
    /// Ordinals of its jobs in memory.
    jobs: BTreeSet<u64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Jobs {
    jobs: BTreeMap<JobId, Job>,
    sessions: BTreeMap<SessionId, SessionEntry>,
    drones: BTreeMap<PeerId, DroneRecord>,
    by_ordinal: BTreeMap<u64, JobId>,
    /// Jobs in memory that are over, in the order of ending.
    finished: BTreeMap<u64, JobId>,
    needed: BTreeMap<Needs, BTreeSet<Place>>,
    live: BTreeMap<PeerId, BTreeSet<JobId>>,
    counts: QueueCounts,
    /// Jobs that are rows of the history table, with their position in the order of ending, and the reverse.
    retired: BTreeMap<JobId, u64>,
    retired_order: BTreeMap<u64, JobId>,
}

fn place(job: &Job) -> Place {
    (std::cmp::Reverse(job.spec.priority), job.ordinal, job.spec.id)
}

impl Jobs {
    pub(super) fn get(&self, id: &JobId) -> Option<&Job> {
        self.jobs.get(id)
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn counts(&self) -> &QueueCounts {
        &self.counts
    }

    /// Known in memory or by its history row.
    pub(super) fn is_known(&self, id: &JobId) -> bool {
        self.jobs.contains_key(id) || self.retired.contains_key(id)
    }

    pub(super) fn retired_at(&self, id: &JobId) -> Option<u64> {
        self.retired.get(id).copied()
    }

    pub(super) fn retired_newest_first(&self) -> impl Iterator<Item = (JobId, u64)> {
        self.retired_order.iter().rev().map(|(ordinal, id)| (*id, *ordinal))
    }

    pub(super) fn session(&self, id: &SessionId) -> Option<&Session> {
        self.sessions.get(id).map(|entry| &entry.session)
    }

    pub(super) fn sessions(&self) -> impl Iterator<Item = (&SessionId, &Session)> {
        self.sessions.iter().map(|(id, entry)| (id, &entry.session))
    }

    pub(super) fn in_order(&self) -> impl DoubleEndedIterator<Item = &Job> {
        self.by_ordinal.values().filter_map(|id| self.jobs.get(id))
    }

    pub(super) fn needed(&self) -> &BTreeMap<Needs, BTreeSet<Place>> {
        &self.needed
    }

    pub(super) fn live_nodes(&self) -> impl Iterator<Item = &PeerId> {
        self.live.keys()
    }

    pub(super) fn live_count(&self, peer: &PeerId) -> usize {
        self.live.get(peer).map_or(0, BTreeSet::len)
    }

    pub(super) fn live_of(&self, peer: &PeerId) -> impl Iterator<Item = &Job> {
        self.live.get(peer).into_iter().flatten().filter_map(|id| self.jobs.get(id))
    }

    pub(super) fn drone(&self, peer: &PeerId) -> DroneRecord {
        self.drones.get(peer).copied().unwrap_or_default()
    }

    pub(super) fn drone_row(&self, peer: &PeerId) -> Option<&DroneRecord> {
        self.drones.get(peer)
    }

    /// Replaces the record; one without anything in it has no row. Whether anything changed.
    pub(super) fn set_drone(&mut self, peer: &PeerId, record: DroneRecord) -> bool {
        if record == DroneRecord::default() {
            self.drones.remove(peer).is_some()
        } else {
            self.drones.insert(peer.clone(), record) != Some(record)
        }
    }

    /// Changes a job and keeps all indexes true. Nothing happens when there is no such job.
    pub(super) fn update<T>(&mut self, id: &JobId, change: impl FnOnce(&mut Job) -> T) -> Option<T> {
        let mut job = self.jobs.remove(id)?;
        self.unindex(&job);
        let result = change(&mut job);
        self.index(&job);
        self.jobs.insert(*id, job);
        Some(result)
    }

    /// Adds a new job to a session that exists.
    pub(super) fn insert(&mut self, job: Job) {
        if let Some(entry) = self.sessions.get_mut(&job.session) {
            entry.session.jobs += 1;
        }
        self.attach(job);
    }

    fn attach(&mut self, job: Job) {
        self.by_ordinal.insert(job.ordinal, job.spec.id);
        if let Some(entry) = self.sessions.get_mut(&job.session) {
            entry.jobs.insert(job.ordinal);
        }
        self.index(&job);
        self.jobs.insert(job.spec.id, job);
    }

    pub(super) fn open_session(&mut self, id: SessionId, session: Session) {
        self.sessions.insert(id, SessionEntry { session, jobs: BTreeSet::new() });
    }

    /// Takes the job that ended first out of memory, with its session when that was the last of its jobs, once more than
    /// [`TERMINAL_KEPT`] are over.
    fn pop_oldest_finished(&mut self) -> Option<(Job, bool)> {
        if self.finished.len() <= TERMINAL_KEPT {
            return None;
        }
        let (_, id) = self.finished.pop_first()?;
        let job = self.jobs.remove(&id)?;
        self.unindex(&job);
        self.by_ordinal.remove(&job.ordinal);
        let entry = self.sessions.get_mut(&job.session);
        let session_over = entry.is_some_and(|entry| {
            entry.jobs.remove(&job.ordinal);
            entry.jobs.is_empty()
        });
        if session_over {
            self.sessions.remove(&job.session);
        }
        Some((job, session_over))
    }

    fn index(&mut self, job: &Job) {
        *self.counts.of_mut(job.state) += 1;
        if job.state == JobState::Needed {
            self.needed.entry(job.spec.needs()).or_default().insert(place(job));
        }
        if job.state.is_terminal() {
            self.finished.insert(job.finish_ordinal, job.spec.id);
        }
        if let Some(attempt) = job.live_attempt() {
            self.live.entry(attempt.node.clone()).or_default().insert(job.spec.id);
            if attempt.state != AttemptState::Assigned {
                self.counts.building += 1;
            }
        }
    }

    fn unindex(&mut self, job: &Job) {
        *self.counts.of_mut(job.state) -= 1;
        if job.state == JobState::Needed {
            let needs = job.spec.needs();
            if let Some(places) = self.needed.get_mut(&needs) {
                places.remove(&place(job));
                if places.is_empty() {
                    self.needed.remove(&needs);
                }
            }
        }
        if job.state.is_terminal() {
            self.finished.remove(&job.finish_ordinal);
        }
        if let Some(attempt) = job.live_attempt() {
            if let Some(jobs) = self.live.get_mut(&attempt.node) {
                jobs.remove(&job.spec.id);
                if jobs.is_empty() {
                    self.live.remove(&attempt.node);
                }
            }
            if attempt.state != AttemptState::Assigned {
                self.counts.building -= 1;
            }
        }
    }

    pub(super) fn row_keys(&self) -> impl Iterator<Item = RowKey> {
        let sessions = self.sessions.keys().copied().map(RowKey::Session);
        let drones = self.drones.keys().cloned().map(RowKey::Drone);
        self.jobs.keys().copied().map(RowKey::Job).chain(sessions).chain(drones)
    }

    pub(super) fn load(&mut self, id: JobId, job: Job) -> Result<(), String> {
        if job.spec.id != id {
            return Err("key and value name different jobs".to_owned());
        }
        // Rows come in any order, so the session's own row may still be to come.
        let unknown = Session { submitter: String::new(), created_at: UnixMillis::default(), jobs: 0 };
        let unknown = SessionEntry { session: unknown, jobs: BTreeSet::new() };
        self.sessions.entry(job.session).or_insert(unknown);
        self.attach(job);
        Ok(())
    }

    pub(super) fn load_session(&mut self, id: SessionId, session: Session) {
        match self.sessions.get_mut(&id) {
            Some(entry) => entry.session = session,
            None => self.open_session(id, session),
        }
    }

    pub(super) fn load_drone(&mut self, peer: PeerId, record: DroneRecord) {
        self.drones.insert(peer, record);
    }

    pub(super) fn load_retired(&mut self, id: JobId, ordinal: u64) {
        self.retired.insert(id, ordinal);
        self.retired_order.insert(ordinal, id);
    }
}

impl State {
    /// Gives a job that has just ended its place in the order of ending, and lets the oldest ones go.
    pub(super) fn finish(&mut self, id: &JobId) {
        self.meta.last_finish += 1;
        let ordinal = self.meta.last_finish;
        self.jobs.update(id, |job| job.finish_ordinal = ordinal);
        while let Some((job, session_over)) = self.jobs.pop_oldest_finished() {
            self.retire(job, session_over);
        }
    }

    fn retire(&mut self, job: Job, session_over: bool) {
        let (id, ordinal) = (job.spec.id, job.finish_ordinal);
        let key = RowKey::History(id, ordinal);
        self.history.insert(key.clone(), encode(&job));
        self.dirty.insert(key);
        self.dirty.insert(RowKey::Job(id));
        if session_over {
            self.dirty.insert(RowKey::Session(job.session));
        }
        *self.meta.retired.of_mut(job.state) += 1;
        self.jobs.load_retired(id, ordinal);
        while self.jobs.retired_order.len() > HISTORY_KEPT {
            let Some((ordinal, id)) = self.jobs.retired_order.pop_first() else { break };
            self.jobs.retired.remove(&id);
            let key = RowKey::History(id, ordinal);
            self.history.remove(&key);
            self.dirty.insert(key);
        }
    }
}
