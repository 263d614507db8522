//! Reading the state. Nothing here walks the whole table of jobs unless it says so.

use std::collections::BTreeSet;

use super::drones::{Decision, DroneRecord};
use super::jobs::{BucketKey, Place, QueueCounts};
use super::packages::{self, Estimate, PackageRecord};
use super::rows::{RowKey, decode};
use super::{Row, State};
use crate::engine::id::{Epoch, HiveId, JobId, PeerId, SessionId};
use crate::engine::job::{Attempt, Job, JobState, Needs};
use crate::engine::member::Member;
use crate::engine::session::Session;

impl State {
    /// The job at a position in the order of submission, while it is in memory.
    pub fn job_at(&self, ordinal: u64) -> Option<&Job> {
        self.jobs.at(ordinal)
    }

    /// The hive; none before it is founded.
    pub fn hive_id(&self) -> Option<HiveId> {
        self.meta.hive_id
    }

    /// The current epoch; none before the hive is founded.
    pub fn epoch(&self) -> Option<Epoch> {
        self.meta.epoch
    }

    /// The rules by which entries are applied.
    pub fn feature_level(&self) -> u32 {
        self.meta.feature_level
    }

    /// Committed sum of the leaders' monotonic milliseconds. Stands still while nothing is committed: whoever compares with
    /// it between entries adds the time since the last one.
    pub fn hive_time_ms(&self) -> u64 {
        self.meta.hive_time_ms
    }

    /// Log index of the last batch applied, 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.chain.index
    }

    /// All members, those that have left included, by PeerId.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.all()
    }

    /// One member.
    pub fn member(&self, peer: &PeerId) -> Option<&Member> {
        self.members.get(peer)
    }

    /// The member that has not left and shows this name.
    pub fn member_by_name(&self, display_name: &str) -> Option<&Member> {
        self.members.by_name(display_name)
    }

    /// The name to show for a node: of a member its display name, of another the end of its PeerId.
    pub fn name_of<'a>(&'a self, peer: &'a PeerId) -> &'a str {
        let legacy = || self.legacy.get(peer).map_or_else(|| peer.short(), |drone| &drone.info.name);
        self.members.get(peer).map_or_else(legacy, |member| &member.display_name)
    }

    /// The member that created the hive.
    pub fn founder(&self) -> Option<&Member> {
        self.members.all().find(|member| member.founder)
    }

    /// The member to which a Raft id is bound. Ids that were unbound belong to nobody.
    pub fn raft_id_holder(&self, raft_id: u64) -> Option<&Member> {
        let used = self.members.raft_id(raft_id)?;
        self.members.get(&used.peer_id).filter(|member| member.raft_id == Some(raft_id))
    }

    /// One job, if it is not in the history table.
    pub fn job(&self, id: &JobId) -> Option<&Job> {
        self.jobs.get(id)
    }

    /// Number of jobs in memory.
    pub fn jobs_len(&self) -> usize {
        self.jobs.len()
    }

    /// Jobs in memory in the order of submission.
    pub fn jobs(&self) -> impl DoubleEndedIterator<Item = &Job> {
        self.jobs.in_order().filter(|job| !self.jobs.is_dormant(job))
    }

    /// The same from a position in that order on ([`Job::ordinal`]), for whoever reads all of them piece by piece.
    pub fn jobs_from(&self, ordinal: u64) -> impl Iterator<Item = &Job> {
        self.jobs.in_order_from(ordinal).filter(|job| !self.jobs.is_dormant(job))
    }

    /// Where the row of a job in the history table is.
    pub fn history_row(&self, id: &JobId) -> Option<Row> {
        self.jobs.retired_at(id).map(|retired| RowKey::History(retired, *id).row())
    }

    /// Whether a job is in memory or in the history table.
    pub fn knows_job(&self, id: &JobId) -> bool {
        self.jobs.is_known(id)
    }

    /// The job in a row of the history table.
    pub fn job_of_history(value: &[u8]) -> Result<Job, String> {
        decode(value)
    }

    /// Rows of the history table, the job that ended last first.
    pub fn history_rows(&self) -> impl Iterator<Item = Row> {
        self.jobs.retired_newest_first().map(|(id, retired)| RowKey::History(retired, id).row())
    }

    /// Jobs of which there are rows of the history table alone, the one that ended last first.
    pub fn history_jobs(&self) -> impl Iterator<Item = JobId> {
        self.jobs.retired_newest_first().map(|(id, _)| id)
    }

    /// Jobs in memory, those of drafts included, in the order of submission.
    pub fn jobs_and_drafts(&self) -> impl DoubleEndedIterator<Item = &Job> {
        self.jobs.in_order()
    }

    /// Jobs that were received after a position in the order of ending, oldest first, those of the history table included. Walks all
    /// jobs in memory.
    pub fn received_after(&self, ordinal: u64) -> Vec<(u64, JobId)> {
        let present = self.jobs().filter(|job| job.state == JobState::Received && job.finish_ordinal > ordinal);
        let mut found: Vec<(u64, JobId)> = present.map(|job| (job.finish_ordinal, job.spec.id)).collect();
        let past = self.jobs.retired_newest_first().take_while(|(_, retired)| retired.ordinal > ordinal);
        found.extend(past.filter(|(_, retired)| retired.well).map(|(id, retired)| (retired.ordinal, id)));
        found.sort_unstable();
        found
    }

    /// Jobs by state. Of jobs that are over, all there ever were.
    pub fn counts(&self) -> QueueCounts {
        self.jobs.counts().plus(&self.meta.retired)
    }

    /// Jobs of a session by state; none for a session that is not known.
    pub fn session_counts(&self, id: &SessionId) -> QueueCounts {
        self.jobs.sessions.counts(id)
    }

    /// A session, a draft included.
    pub fn session(&self, id: &SessionId) -> Option<&Session> {
        self.jobs.sessions.get(id)
    }

    /// All sessions that are still known.
    pub fn sessions(&self) -> impl Iterator<Item = (&SessionId, &Session)> {
        self.jobs.sessions.iter()
    }

    /// Sessions that were cancelled and of which jobs are not over yet.
    pub fn ending_sessions(&self) -> impl Iterator<Item = (&SessionId, &Session)> {
        self.jobs.sessions.ending()
    }

    /// Jobs of a session that are in memory, in the order of submission; none of a draft but its resolution.
    pub fn session_jobs(&self, id: &SessionId) -> impl Iterator<Item = &Job> {
        self.jobs.sessions.job_ids(id).into_iter().filter_map(|id| self.jobs.get(&id))
    }

    /// Why nothing new begins anywhere, if an operator said so.
    pub fn paused(&self) -> Option<&Decision> {
        self.meta.paused.as_ref()
    }

    /// What people are told of a job's state: one that waits for something that will not succeed is blocked.
    pub fn shown_state(&self, job: &Job) -> JobState {
        self.jobs.shown(job)
    }

    /// What a job waits for; none when nothing but a drone is missing.
    pub fn wait(&self, id: &JobId) -> Option<Wait<'_>> {
        let gate = self.jobs.gate(id)?;
        let find = |ids: &BTreeSet<JobId>| -> Vec<&Job> { ids.iter().filter_map(|id| self.jobs.get(id)).collect() };
        Some(Wait {
            pending: find(&gate.waiting),
            dead: find(&gate.dead),
            lost: gate.dead.iter().any(|id| self.jobs.get(id).is_none()),
        })
    }

    /// Jobs that wait for this one, in no particular order.
    pub fn dependents(&self, id: &JobId) -> impl Iterator<Item = &Job> {
        self.jobs.dependents(id).filter_map(|id| self.jobs.get(&id))
    }

    /// Expected time of the longest chain of jobs that begins with this one, milliseconds; 0 when it is not in memory.
    pub fn urgency_ms(&self, id: &JobId) -> u64 {
        self.jobs.urgency_ms(id)
    }

    /// Blocked jobs whose block ends by itself, with the hive time at which it does, soonest first.
    pub fn aging_blocks(&self) -> impl Iterator<Item = (u64, &Job)> {
        self.jobs.unblocks().iter().filter_map(|(until_ms, id)| self.jobs.get(id).map(|job| (*until_ms, job)))
    }

    /// A machine that is there to try again what others could not build.
    pub fn sweeps(&self, peer: &PeerId) -> bool {
        self.is_sweeper(peer)
    }

    /// What is known of a package, named without its version.
    pub fn package(&self, package: &str) -> Option<&PackageRecord> {
        self.jobs.packages.get(package)
    }

    /// All packages that were ever built, by name.
    pub fn packages(&self) -> impl DoubleEndedIterator<Item = (&str, &PackageRecord)> {
        self.jobs.packages.iter()
    }

    /// How long a job is expected to take, on a kind of drone or on any.
    pub fn estimate(&self, job: &Job, class: Option<&str>) -> Estimate {
        let version = packages::version_of(job);
        let version = Some(version.as_str()).filter(|version| !version.is_empty());
        self.package(job.spec.package()).map_or_else(Estimate::unknown, |record| record.estimate(version, class))
    }

    /// The kind of drone under which durations are kept: architecture and processors.
    pub fn drone_class(&self, peer: &PeerId) -> String {
        self.class_of(peer)
    }

    /// Live attempts of a drone, with their jobs.
    pub fn live_attempts(&self, peer: &PeerId) -> impl Iterator<Item = (&Job, &Attempt)> {
        self.jobs.live_of(peer).filter_map(|job| job.live_attempt().map(|attempt| (job, attempt)))
    }

    /// Number of live attempts of a drone.
    pub fn live_attempts_len(&self, peer: &PeerId) -> usize {
        self.jobs.live_count(peer)
    }

    /// Drones with live attempts.
    pub fn busy_nodes(&self) -> impl Iterator<Item = &PeerId> {
        self.jobs.live_nodes()
    }

    /// What is remembered of a drone.
    pub fn drone_record(&self, peer: &PeerId) -> &DroneRecord {
        self.jobs.drones.get(peer)
    }

    /// Jobs that wait for nothing but a drone, in buckets that compete: by what they need, and in each group by priority and
    /// session. Highest priority and oldest session of a group first.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket<'_>> {
        self.jobs.waiting().iter().flat_map(move |(needs, buckets)| {
            let goes_on = |key: &&BucketKey| self.jobs.sessions.goes_on(&key.2);
            buckets.iter().filter(move |(key, _)| goes_on(key)).map(move |((priority, _, session), places)| Bucket {
                state: self,
                needs,
                priority: priority.0,
                session: *session,
                unserved_since_ms: self.jobs.sessions.unserved_since_ms(session, priority.0),
                places,
            })
        })
    }

    /// Waiting jobs by what they need of a drone, each group in the order of [`buckets`](Self::buckets).
    pub fn waiting(&self) -> impl Iterator<Item = (&Needs, impl Iterator<Item = &Job>)> {
        self.jobs
            .waiting()
            .iter()
            .map(|(needs, buckets)| (needs, buckets.values().flatten().filter_map(|place| self.jobs.get(&place.2))))
    }
}

/// What a job waits for.
#[derive(Clone, Debug)]
pub struct Wait<'a> {
    /// Jobs that have not succeeded yet.
    pub pending: Vec<&'a Job>,
    /// Those of them that will not succeed unless somebody does something.
    pub dead: Vec<&'a Job>,
    /// One of them is forgotten: it had ended badly long ago.
    pub lost: bool,
}

/// Waiting jobs with equal needs, of one session and priority.
#[derive(Clone, Copy)]
pub struct Bucket<'a> {
    state: &'a State,
    /// What a drone must have for them.
    pub needs: &'a Needs,
    /// −100…100.
    pub priority: i32,
    /// Whose they are.
    pub session: SessionId,
    /// Since when, in hive time, none of them was given to a drone, milliseconds.
    pub unserved_since_ms: u64,
    places: &'a BTreeSet<Place>,
}

impl<'a> Bucket<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// There is always one.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The jobs: first those at the head of the longest chains of others, then in the order of submission.
    pub fn jobs(&self) -> impl Iterator<Item = &'a Job> + use<'a> {
        let state = self.state;
        self.places.iter().filter_map(move |place| state.jobs.get(&place.2))
    }

    /// Expected time until the last job is done that waits for the first of these, milliseconds.
    pub fn urgency_ms(&self) -> u64 {
        self.places.first().map_or(0, |place| place.0.0)
    }
}
