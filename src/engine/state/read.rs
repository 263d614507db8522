//! Reading the state. Nothing here walks the whole table of jobs unless it says so.

use super::jobs::{DroneRecord, QueueCounts, Session};
use super::rows::{RowKey, decode};
use super::{Row, State};
use crate::engine::id::{Epoch, HiveId, JobId, PeerId, SessionId};
use crate::engine::job::{Attempt, Job, Needs};
use crate::engine::member::Member;

impl State {
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
        self.members.get(peer).map_or_else(|| peer.short(), |member| &member.display_name)
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
        self.jobs.in_order()
    }

    /// Where the row of a job in the history table is.
    pub fn history_row(&self, id: &JobId) -> Option<Row> {
        self.jobs.retired_at(id).map(|ordinal| RowKey::History(*id, ordinal).row())
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
        self.jobs.retired_newest_first().map(|(id, ordinal)| RowKey::History(id, ordinal).row())
    }

    /// Jobs by state. Of jobs that are over, all there ever were.
    pub fn counts(&self) -> QueueCounts {
        self.jobs.counts().plus(&self.meta.retired)
    }

    /// A session of which jobs are still in memory.
    pub fn session(&self, id: &SessionId) -> Option<&Session> {
        self.jobs.session(id)
    }

    /// All sessions of which jobs are still in memory.
    pub fn sessions(&self) -> impl Iterator<Item = (&SessionId, &Session)> {
        self.jobs.sessions()
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

    /// What went wrong at a drone lately.
    pub fn drone_record(&self, peer: &PeerId) -> DroneRecord {
        self.jobs.drone(peer)
    }

    /// Waiting jobs by what they need of a drone, each group in the order in which they are to be served: higher priority
    /// first, then the order of submission.
    pub fn waiting(&self) -> impl Iterator<Item = (&Needs, impl Iterator<Item = &Job>)> {
        self.jobs
            .needed()
            .iter()
            .map(|(needs, places)| (needs, places.iter().filter_map(|place| self.jobs.get(&place.2))))
    }
}
