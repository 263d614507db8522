//! A hive that goes on from the backup of another one: who belongs to it, and what becomes of work that was under way.
//!
//! | job at the time of the backup | after it |
//! |---|---|
//! | ran, and may be run twice | waits |
//! | ran, and has effects outside that may not be had twice | blocked: nobody knows how far it came |
//! | waited, and may be run twice | waits |
//! | waited, and has effects outside that may not be had twice | blocked: it may have run after the backup |
//! | over | as it was |
//!
//! Members, Raft ids and roles of the other hive stay there: whoever is to belong to this one joins it. Drones of the Python swarm
//! register again by themselves. Never done here: reading a backup, or choosing ids.

use super::{Context, Executed, State, clip, reject};
use crate::engine::command::{RejectCode, Reply};
use crate::engine::id::{Epoch, HiveId, JobId};
use crate::engine::job::{AttemptState, Job, JobState};
use crate::engine::member::MemberInfo;

const CUT_SHORT: &str = "the hive was restored from a backup made while this ran";
const MAY_HAVE_RUN: &str = "it has effects outside, and may have run after the backup that the hive was restored from was made; if it \
                            has not, unblock it";

impl State {
    pub(super) fn begin_hive(
        &mut self,
        context: Context,
        hive_id: HiveId,
        epoch: Epoch,
        founder: MemberInfo,
    ) -> Executed {
        if self.meta.hive_id == Some(hive_id) {
            return reject(RejectCode::Conflict, format!("this is hive {hive_id} already"));
        }
        if self.meta.epoch.is_some_and(|current| epoch.counter <= current.counter) {
            return reject(RejectCode::Conflict, "the first epoch must have a higher number than that of the backup");
        }
        // Whatever could be refused is tried before anything is changed.
        let mut admitted = self.clone_members();
        admitted.members.part_with_all();
        let peer_id = founder.peer_id.clone();
        admitted.admit(context, founder)?;
        admitted.members.mark_founder(&peer_id);
        self.members = admitted.members;
        self.meta.last_join = admitted.meta.last_join;
        self.dirty.extend(self.members.row_keys());
        // A table that was full has forgotten one that had left.
        self.dirty.append(&mut admitted.dirty);
        (self.meta.hive_id, self.meta.epoch) = (Some(hive_id), Some(epoch));
        self.stop_what_ran(context);
        self.hold_what_may_have_run(context);
        Ok(Reply::Done)
    }

    /// A state of members alone, to try what is done to them.
    fn clone_members(&self) -> Self {
        Self { meta: self.meta.clone(), members: self.members.clone(), ..Self::default() }
    }

    fn stop_what_ran(&mut self, context: Context) {
        let live: Vec<(JobId, bool)> = self
            .jobs
            .in_order()
            .filter_map(|job| {
                let attempt = job.live_attempt()?;
                let began = attempt.state != AttemptState::Assigned;
                Some((job.spec.id, began && !job.spec.may_repeat()))
            })
            .collect();
        for (id, unknown) in live {
            if unknown {
                let token = self.jobs.any(&id).and_then(|job| job.live_attempt().map(|attempt| attempt.token));
                if let Some(token) = token {
                    // As of a drone that is gone.
                    let _ = self.lose(context, id, token, CUT_SHORT);
                }
            } else {
                self.give_back(context, id, CUT_SHORT);
            }
        }
    }

    fn hold_what_may_have_run(&mut self, context: Context) {
        let may_have_run =
            |job: &&Job| job.state == JobState::Needed && !job.spec.may_repeat() && !self.jobs.is_dormant(job);
        let ids: Vec<JobId> = self.jobs.in_order().filter(may_have_run).map(|job| job.spec.id).collect();
        for id in ids {
            self.jobs.update(&id, |job| {
                job.state = JobState::Blocked;
                job.block_until_ms = None;
                job.reason = Some(clip(MAY_HAVE_RUN, super::queue::REASON_MAX_LEN));
            });
            self.settle(context, id);
        }
    }
}
