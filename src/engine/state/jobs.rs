//! The table of jobs with its indexes.
//!
//! Every change of a job goes through [`Jobs::update`], which takes it out of all indexes and puts it back, so that they
//! cannot drift. Counting, and finding what is next or what a drone has, never walks the table. Jobs of a draft are in the
//! table and in no index: nobody sees them. What jobs wait for is in `gates`, how urgent they are in `urgency`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::State;
use super::drones::Drones;
use super::gates::{Gate, Standing};
use super::packages::Packages;
use super::rows::{RowKey, encode};
use super::sessions::Sessions;
use crate::engine::id::{JobId, PeerId, SessionId};
use crate::engine::job::{AttemptState, Job, JobSpec, JobState, Needs, Work};

/// Jobs that are over and stay in memory, so that `job show` and `queue list` answer at once: about 10 MiB. Beyond them those
/// stay that others wait for.
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
    /// Jobs blocked, those included that wait for one that will not succeed.
    pub blocked: u64,
    /// Jobs failed, ever.
    pub failed: u64,
    /// Jobs cancelled, ever.
    pub cancelled: u64,
    /// Jobs quarantined, ever.
    pub quarantined: u64,
}

impl QueueCounts {
    pub(super) fn of_mut(&mut self, state: JobState) -> &mut u64 {
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

    /// Jobs in all.
    pub fn total(&self) -> u64 {
        self.open() + self.received + self.failed + self.cancelled + self.quarantined
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

/// Place of a waiting job in its bucket: more urgent first, then the order of submission.
pub(super) type Place = (Reverse<u64>, u64, JobId);
/// Waiting jobs of one priority and session: higher priority first, then the older session.
pub(super) type BucketKey = (Reverse<i32>, u64, SessionId);
/// Waiting jobs with equal needs.
pub(super) type Buckets = BTreeMap<BucketKey, BTreeSet<Place>>;

/// A job that is a row of the history table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Retired {
    /// Position in the order of ending.
    pub(super) ordinal: u64,
    /// It was received.
    pub(super) well: bool,
}

/// A job with what is worked out once.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) job: Job,
    /// Jobs with other hashes do not do the same.
    work_hash: u64,
    /// Expected time until the last job is done that waits for it, milliseconds. An order, nothing more: it may differ between
    /// replicas.
    pub(super) urgency_ms: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Jobs {
    /// Boxed: they are taken out and put back with every change, and would move their neighbours each time.
    pub(super) jobs: BTreeMap<JobId, Box<Entry>>,
    pub(super) sessions: Sessions,
    pub(super) drones: Drones,
    pub(super) packages: Packages,
    /// What jobs that are not over wait for; those that wait for nothing have none.
    pub(super) gates: BTreeMap<JobId, Gate>,
    /// Jobs that are not over, by what they name as their dependency or have joined.
    pub(super) dependents: BTreeMap<JobId, BTreeSet<JobId>>,
    by_ordinal: BTreeMap<u64, JobId>,
    /// Jobs in memory that are over and for which nobody waits, in the order of ending.
    finished: BTreeMap<u64, JobId>,
    waiting: BTreeMap<Needs, Buckets>,
    /// Blocks that end by themselves, by hive time.
    unblocks: BTreeSet<(u64, JobId)>,
    live: BTreeMap<PeerId, BTreeSet<JobId>>,
    /// Jobs that others can join, by the hash of their work and the order of submission.
    equal: BTreeSet<(u64, u64, JobId)>,
    counts: QueueCounts,
    /// Jobs of drafts.
    dormant: u64,
    /// Jobs that are rows of the history table, with their position in the order of ending, and the reverse.
    retired: BTreeMap<JobId, Retired>,
    retired_order: BTreeMap<u64, JobId>,
}

/// The same work gives the same hash in one process. It only narrows a search; what is found is compared.
fn hash_of(spec: &JobSpec) -> u64 {
    let mut hasher = DefaultHasher::new();
    spec.work.hash(&mut hasher);
    hasher.finish()
}

impl Jobs {
    /// A job, of a draft or not.
    pub(super) fn any(&self, id: &JobId) -> Option<&Job> {
        self.jobs.get(id).map(|entry| &entry.job)
    }

    /// A job that is seen.
    pub(super) fn get(&self, id: &JobId) -> Option<&Job> {
        self.any(id).filter(|job| !self.is_dormant(job))
    }

    /// It belongs to a draft, and is not the resolution that makes it.
    pub(super) fn is_dormant(&self, job: &Job) -> bool {
        !matches!(job.spec.work, Work::Resolve { .. }) && self.sessions.is_draft(&job.session)
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn counts(&self) -> &QueueCounts {
        &self.counts
    }

    /// Jobs that are not over, those of drafts included.
    pub(super) fn open_len(&self) -> u64 {
        self.counts.open() + self.dormant
    }

    /// Known in memory or by its history row.
    pub(super) fn is_known(&self, id: &JobId) -> bool {
        self.jobs.contains_key(id) || self.retired.contains_key(id)
    }

    pub(super) fn retired_at(&self, id: &JobId) -> Option<Retired> {
        self.retired.get(id).copied()
    }

    /// It is history, and was received.
    pub(super) fn retired_well(&self, id: &JobId) -> bool {
        self.retired.get(id).is_some_and(|retired| retired.well)
    }

    pub(super) fn retired_newest_first(&self) -> impl Iterator<Item = (JobId, Retired)> {
        self.retired_order.values().rev().filter_map(|id| self.retired.get(id).map(|retired| (*id, *retired)))
    }

    pub(super) fn in_order(&self) -> impl DoubleEndedIterator<Item = &Job> {
        self.by_ordinal.values().filter_map(|id| self.any(id))
    }

    /// Those from a position in the order of submission on.
    pub(super) fn in_order_from(&self, ordinal: u64) -> impl Iterator<Item = &Job> {
        self.by_ordinal.range(ordinal..).filter_map(|(_, id)| self.any(id))
    }

    pub(super) fn waiting(&self) -> &BTreeMap<Needs, Buckets> {
        &self.waiting
    }

    pub(super) fn unblocks(&self) -> &BTreeSet<(u64, JobId)> {
        &self.unblocks
    }

    pub(super) fn live_nodes(&self) -> impl Iterator<Item = &PeerId> {
        self.live.keys()
    }

    pub(super) fn live_count(&self, peer: &PeerId) -> usize {
        self.live.get(peer).map_or(0, BTreeSet::len)
    }

    pub(super) fn live_of(&self, peer: &PeerId) -> impl Iterator<Item = &Job> {
        self.live.get(peer).into_iter().flatten().filter_map(|id| self.any(id))
    }

    /// The oldest job under way that does the same and is no part of the same wait.
    pub(super) fn equal_to(&self, job: &Job) -> Option<JobId> {
        let entry = self.jobs.get(&job.spec.id);
        let hash = entry.map_or_else(|| hash_of(&job.spec), |entry| entry.work_hash);
        let candidates = self.equal.range((hash, 0, JobId(Uuid::nil()))..).take_while(|entry| entry.0 == hash);
        let mut candidates = candidates.filter_map(|(_, _, id)| self.any(id));
        let fits = |other: &&Job| {
            // Within a session they may wait for each other; one that waits for nothing does not.
            let apart = other.session != job.session || other.spec.depends_on.is_empty();
            apart
                && other.spec.id != job.spec.id
                && !self.is_held(&other.spec.id)
                && job.spec.does_the_same_as(&other.spec)
        };
        candidates.find(fits).map(|other| other.spec.id)
    }

    /// What people are told of a job's state: one that waits for something dead is blocked.
    pub(super) fn shown(&self, job: &Job) -> JobState {
        if job.state == JobState::Needed && self.is_held(&job.spec.id) { JobState::Blocked } else { job.state }
    }

    /// Changes a job and keeps all indexes true. Nothing happens when there is no such job.
    pub(super) fn update<T>(&mut self, id: &JobId, change: impl FnOnce(&mut Job) -> T) -> Option<T> {
        let before = self.standing(id);
        let mut entry = self.jobs.remove(id)?;
        self.unindex(&entry);
        let waited_for = self.waits_for(&entry.job);
        let result = change(&mut entry.job);
        if waited_for != self.waits_for(&entry.job) {
            self.remove_gate(id, &waited_for);
            self.build_gate(&entry.job);
        }
        self.index(&entry);
        self.jobs.insert(*id, entry);
        if self.standing(id) != before {
            self.propagate(*id);
        }
        Some(result)
    }

    /// The jobs that this one waits for or has joined; nothing for one that is over or in a draft.
    pub(super) fn waits_for(&self, job: &Job) -> Vec<JobId> {
        if job.state.is_terminal() || self.is_dormant(job) {
            return Vec::new();
        }
        job.spec.depends_on.iter().chain(&job.joined).copied().collect()
    }

    /// Changes what indexes a job is in, without changing it.
    pub(super) fn reindexed(&mut self, id: &JobId, change: impl FnOnce(&mut Self)) {
        let Some(entry) = self.jobs.remove(id) else { return };
        self.unindex(&entry);
        change(self);
        self.index(&entry);
        self.jobs.insert(*id, entry);
    }

    /// Changes how urgent a job is.
    pub(super) fn set_urgency(&mut self, id: &JobId, urgency_ms: u64) {
        if self.jobs.get(id).is_none_or(|entry| entry.urgency_ms == urgency_ms) {
            return;
        }
        let Some(mut entry) = self.jobs.remove(id) else { return };
        self.unindex(&entry);
        entry.urgency_ms = urgency_ms;
        self.index(&entry);
        self.jobs.insert(*id, entry);
    }

    /// Adds a job to a session that exists.
    pub(super) fn insert(&mut self, job: Job) {
        self.by_ordinal.insert(job.ordinal, job.spec.id);
        self.sessions.add(&job);
        self.build_gate(&job);
        let urgency_ms = self.packages.expected_ms(job.spec.package());
        let entry = Box::new(Entry { work_hash: hash_of(&job.spec), urgency_ms, job });
        self.index(&entry);
        let id = entry.job.spec.id;
        self.jobs.insert(id, entry);
    }

    /// Takes a job out of memory; it must not be waited for.
    pub(super) fn remove(&mut self, id: &JobId) -> Option<Job> {
        let entry = self.jobs.remove(id)?;
        self.unindex(&entry);
        let job = entry.job;
        let waited_for = self.waits_for(&job);
        self.remove_gate(id, &waited_for);
        self.by_ordinal.remove(&job.ordinal);
        self.sessions.remove(&job);
        Some(job)
    }

    /// Brings the jobs of a session, whose phase `change` changes, into the indexes that they belong in then.
    pub(super) fn reopen(&mut self, session: &SessionId, change: impl FnOnce(&mut Sessions)) {
        let ids: Vec<JobId> = self.sessions.job_ids(session);
        for id in &ids {
            let Some(entry) = self.jobs.remove(id) else { continue };
            self.unindex(&entry);
            let waited_for = self.waits_for(&entry.job);
            self.remove_gate(id, &waited_for);
            self.jobs.insert(*id, entry);
        }
        change(&mut self.sessions);
        for id in ids {
            let Some(entry) = self.jobs.remove(&id) else { continue };
            self.build_gate(&entry.job);
            self.index(&entry);
            self.jobs.insert(id, entry);
        }
    }

    /// Somebody waits for it: it stays in memory.
    pub(super) fn pin(&mut self, id: &JobId) {
        if let Some(entry) = self.jobs.get(id).filter(|entry| entry.job.state.is_terminal()) {
            self.finished.remove(&entry.job.finish_ordinal);
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn unpin(&mut self, id: &JobId) {
        if let Some(entry) = self.jobs.get(id).filter(|entry| entry.job.state.is_terminal()) {
            self.finished.insert(entry.job.finish_ordinal, *id);
        }
    }

    /// The job that ended first and is waited for by nobody, once more than [`TERMINAL_KEPT`] are over.
    fn oldest_finished(&self) -> Option<JobId> {
        if self.finished.len() <= TERMINAL_KEPT {
            return None;
        }
        self.finished.first_key_value().map(|(_, id)| *id)
    }

    fn bucket(&self, entry: &Entry) -> (BucketKey, Place) {
        let job = &entry.job;
        let key = (Reverse(job.spec.priority), self.sessions.ordinal(&job.session), job.session);
        (key, (Reverse(entry.urgency_ms), job.ordinal, job.spec.id))
    }

    fn index(&mut self, entry: &Entry) {
        let job = &entry.job;
        let id = job.spec.id;
        if self.is_dormant(job) {
            self.dormant += 1;
            return;
        }
        let shown = self.shown(job);
        *self.counts.of_mut(shown) += 1;
        self.sessions.count(&job.session, shown, true);
        if job.state == JobState::Needed && !self.gates.contains_key(&id) {
            let (key, place) = self.bucket(entry);
            self.waiting.entry(job.spec.needs()).or_default().entry(key).or_default().insert(place);
        }
        if job.state.is_terminal() && !self.dependents.contains_key(&id) {
            self.finished.insert(job.finish_ordinal, id);
        }
        if let (JobState::Blocked, Some(until_ms)) = (job.state, job.block_until_ms) {
            self.unblocks.insert((until_ms, id));
        }
        let can_be_joined = matches!(job.state, JobState::Needed | JobState::Delegated) && job.joined.is_none();
        if can_be_joined && job.spec.pure {
            self.equal.insert((entry.work_hash, job.ordinal, id));
        }
        if let Some(attempt) = job.live_attempt() {
            self.live.entry(attempt.node.clone()).or_default().insert(id);
            if attempt.state != AttemptState::Assigned {
                self.counts.building += 1;
            }
        }
    }

    fn unindex(&mut self, entry: &Entry) {
        let job = &entry.job;
        let id = job.spec.id;
        if self.is_dormant(job) {
            self.dormant -= 1;
            return;
        }
        let shown = self.shown(job);
        *self.counts.of_mut(shown) -= 1;
        self.sessions.count(&job.session, shown, false);
        if job.state == JobState::Needed && !self.gates.contains_key(&id) {
            self.unindex_waiting(entry);
        }
        if job.state.is_terminal() {
            self.finished.remove(&job.finish_ordinal);
        }
        if let (JobState::Blocked, Some(until_ms)) = (job.state, job.block_until_ms) {
            self.unblocks.remove(&(until_ms, id));
        }
        self.equal.remove(&(entry.work_hash, job.ordinal, id));
        if let Some(attempt) = job.live_attempt() {
            if let Some(jobs) = self.live.get_mut(&attempt.node) {
                jobs.remove(&id);
                if jobs.is_empty() {
                    self.live.remove(&attempt.node);
                }
            }
            if attempt.state != AttemptState::Assigned {
                self.counts.building -= 1;
            }
        }
    }

    fn unindex_waiting(&mut self, entry: &Entry) {
        let needs = entry.job.spec.needs();
        let (key, place) = self.bucket(entry);
        let Some(buckets) = self.waiting.get_mut(&needs) else { return };
        if let Some(places) = buckets.get_mut(&key) {
            places.remove(&place);
            if places.is_empty() {
                buckets.remove(&key);
            }
        }
        if buckets.is_empty() {
            self.waiting.remove(&needs);
        }
    }

    pub(super) fn row_keys(&self) -> impl Iterator<Item = RowKey> {
        let jobs = self.by_ordinal.keys().copied().map(RowKey::Job);
        jobs.chain(self.sessions.row_keys()).chain(self.drones.row_keys()).chain(self.packages.row_keys())
    }

    /// The job of a row.
    pub(super) fn at(&self, ordinal: u64) -> Option<&Job> {
        self.by_ordinal.get(&ordinal).and_then(|id| self.any(id))
    }

    /// Takes a row in. Rows come in any order, so indexes are made by [`loaded`](Self::loaded) when all are there.
    pub(super) fn load(&mut self, ordinal: u64, job: Job) -> Result<(), String> {
        let id = job.spec.id;
        if job.ordinal != ordinal {
            return Err("key and value name different jobs".to_owned());
        }
        if self.jobs.contains_key(&id) {
            return Err(format!("job {id} is there twice"));
        }
        self.jobs.insert(id, Box::new(Entry { work_hash: hash_of(&job.spec), urgency_ms: 0, job }));
        Ok(())
    }

    /// All rows are there: makes the indexes.
    pub(super) fn loaded(&mut self) {
        let entries: Vec<Box<Entry>> = std::mem::take(&mut self.jobs).into_values().collect();
        let (mut open, mut dead) = (BTreeSet::new(), Vec::new());
        // What others wait for is looked up by state first; held jobs are found afterwards.
        for entry in &entries {
            self.by_ordinal.insert(entry.job.ordinal, entry.job.spec.id);
            self.sessions.attach(&entry.job);
        }
        self.jobs = entries.into_iter().map(|entry| (entry.job.spec.id, entry)).collect();
        let ids: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in &ids {
            let Some(entry) = self.jobs.get_mut(id) else { continue };
            entry.urgency_ms = self.packages.expected_ms(entry.job.spec.package());
            let job = entry.job.clone();
            self.build_gate(&job);
            if !job.state.is_terminal() {
                open.insert(*id);
            }
            if self.standing(id) == Standing::Dead {
                dead.push(*id);
            }
        }
        for id in &ids {
            let Some(entry) = self.jobs.remove(id) else { continue };
            self.index(&entry);
            self.jobs.insert(*id, entry);
        }
        for id in dead {
            self.propagate(id);
        }
        self.rank(&open);
    }

    pub(super) fn load_retired(&mut self, id: JobId, retired: Retired) {
        self.retired.insert(id, retired);
        self.retired_order.insert(retired.ordinal, id);
    }
}

impl State {
    /// The row of a job in memory has changed.
    pub(super) fn touch_job(&mut self, id: &JobId) {
        if let Some(job) = self.jobs.any(id) {
            self.dirty.insert(RowKey::Job(job.ordinal));
        }
    }

    /// Gives a job that has just ended its place in the order of ending, and lets the oldest ones go.
    pub(super) fn finish(&mut self, id: &JobId) {
        self.meta.last_finish += 1;
        let ordinal = self.meta.last_finish;
        self.jobs.update(id, |job| job.finish_ordinal = ordinal);
        self.retire_oldest();
    }

    /// Moves jobs that are over into the history table, while there are more in memory than are kept.
    pub(super) fn retire_oldest(&mut self) {
        while let Some(id) = self.jobs.oldest_finished() {
            self.retire(&id);
        }
    }

    pub(super) fn retire(&mut self, id: &JobId) {
        let Some(job) = self.jobs.remove(id) else { return };
        let retired = Retired { ordinal: job.finish_ordinal, well: job.state == JobState::Received };
        let key = RowKey::History(retired, *id);
        self.history.insert(key.clone(), encode(&job));
        self.dirty.insert(key);
        self.dirty.insert(RowKey::Job(job.ordinal));
        self.dirty.insert(RowKey::Session(job.session));
        *self.meta.retired.of_mut(job.state) += 1;
        self.jobs.sessions.retire(&job);
        self.jobs.load_retired(*id, retired);
        while self.jobs.retired_order.len() > HISTORY_KEPT {
            let Some((_, id)) = self.jobs.retired_order.pop_first() else { break };
            self.forget_history(id);
        }
        for session in self.jobs.sessions.drop_oldest() {
            self.dirty.insert(RowKey::Session(session));
        }
    }

    fn forget_history(&mut self, id: JobId) {
        let Some(retired) = self.jobs.retired.remove(&id) else { return };
        let key = RowKey::History(retired, id);
        self.history.remove(&key);
        self.dirty.insert(key);
    }

    /// Forgets all jobs that are over and for which nobody waits. Answers how many.
    pub(super) fn clear_history(&mut self) -> u64 {
        while let Some(id) = self.jobs.finished.first_key_value().map(|(_, id)| *id) {
            self.retire(&id);
        }
        let mut forgotten = 0;
        while let Some((_, id)) = self.jobs.retired_order.pop_first() {
            self.forget_history(id);
            forgotten += 1;
        }
        forgotten
    }
}
