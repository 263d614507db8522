//! What holds between the rows of a state, for `hive db check`: a row that is missing or was changed shows by what it does not fit to.
//!
//! Indexes are made of the rows when they are read, so that comparing them with what walking gives finds errors of hive, not of a disk; both
//! are told. What no other row knows of (a package's history, a single job that was over long ago) cannot be missed here; pages that were
//! changed are found by the database's own structure. Never done here: changing anything.

use std::collections::BTreeSet;

use super::State;
use super::jobs::QueueCounts;
use crate::engine::id::JobId;
use crate::engine::job::{AttemptState, Job, JobState};

/// So many are told; of a damaged table each row would be one.
const TOLD_MAX: usize = 20;

impl State {
    /// Sentences about rows that do not fit together; none in a state that only [`apply`](Self::apply) has made.
    pub fn inconsistencies(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.check_members(&mut found);
        self.check_jobs(&mut found);
        self.check_sessions(&mut found);
        self.check_indexes(&mut found);
        if let Err(broken) = self.verify_audit() {
            found.push(format!("the audit log is no chain: {broken}"));
        }
        let more = found.len().saturating_sub(TOLD_MAX);
        found.truncate(TOLD_MAX);
        found.extend((more > 0).then(|| format!("{more} more of this kind")));
        found
    }

    fn check_members(&self, found: &mut Vec<String>) {
        if self.meta.hive_id.is_none() && self.members.all().next().is_some() {
            found.push("there are members and no hive".to_owned());
        }
        let mut names = BTreeSet::new();
        for member in self.members.all() {
            let name = &member.display_name;
            if !member.left && !names.insert(name) {
                found.push(format!("two members have the name {name}"));
            }
            let Some(id) = member.raft_id else { continue };
            if self.members.raft_id(id).is_none_or(|used| used.peer_id != member.info.peer_id) {
                found.push(format!("the Raft id of member {name} is not among those that were used"));
            }
        }
    }

    fn check_jobs(&self, found: &mut Vec<String>) {
        for job in self.jobs.in_order() {
            found.extend(self.wrong_with(job).map(|what| format!("job {} {what}", job.spec.id)));
        }
    }

    fn wrong_with(&self, job: &Job) -> Option<String> {
        let meta = &self.meta;
        if self.jobs.sessions.get(&job.session).is_none() {
            return Some(format!("belongs to session {}, which is missing", job.session));
        }
        if job.ordinal == 0 || job.ordinal > meta.last_job || job.finish_ordinal > meta.last_finish {
            return Some("has a place in an order that does not go so far".to_owned());
        }
        let last_token = job.attempts.last().map_or(0, |attempt| attempt.token.counter);
        if last_token > meta.last_token
            || job.attempts.windows(2).any(|two| two[0].token.counter >= two[1].token.counter)
        {
            return Some("has attempts whose tokens do not rise, or were never issued".to_owned());
        }
        let live = job.live_attempt().is_some();
        if live != (job.state == JobState::Delegated) {
            return Some("is with a drone by its state or by its last attempt, but not by both".to_owned());
        }
        None
    }

    fn check_sessions(&self, found: &mut Vec<String>) {
        for (id, session) in self.jobs.sessions.iter() {
            let there = self.jobs.sessions.job_ids(id).len() as u64 + session.retired.total();
            if there != session.jobs {
                found.push(format!("session {id} has {} jobs, and {there} of them are known", session.jobs));
            }
        }
    }

    fn check_indexes(&self, found: &mut Vec<String>) {
        let mut walked = QueueCounts::default();
        let mut free: BTreeSet<JobId> = BTreeSet::new();
        for job in self.jobs() {
            *walked.of_mut(self.shown_state(job)) += 1;
            let live = job.live_attempt().map(|attempt| attempt.state);
            walked.building += u64::from(live.is_some_and(|state| state != AttemptState::Assigned));
            if job.state == JobState::Needed && !self.jobs.gates.contains_key(&job.spec.id) {
                free.insert(job.spec.id);
            }
        }
        let counted = self.jobs.counts();
        if *counted != walked {
            found.push(format!("jobs are counted as {counted:?}, and there are {walked:?}"));
        }
        let waiting: BTreeSet<JobId> = self.waiting().flat_map(|(_, jobs)| jobs.map(|job| job.spec.id)).collect();
        if waiting != free {
            found.push(format!("{} jobs wait for a drone, and {} are found to", free.len(), waiting.len()));
        }
    }

    /// Whether a row of the history table can be read, and says of which job it is.
    pub fn check_history(row: &super::Row, value: &[u8]) -> Result<(), String> {
        let job = Self::job_of_history(value)?;
        let of_row = row.key.get(9..).unwrap_or_default();
        if of_row != job.spec.id.0.as_bytes() {
            return Err("key and value name different jobs".to_owned());
        }
        Ok(())
    }
}
