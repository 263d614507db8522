//! What operators do to the queue and to drones. Each action says how much it changed, and changes nothing when repeated.

use super::drones::{Decision, Drain, DroneRecord};
use super::queue::{REASON_MAX_LEN, end_live};
use super::reports::unblock;
use super::rows::RowKey;
use super::{Context, Executed, State, clip, reject};
use crate::engine::command::{RejectCode, Reply};
use crate::engine::control::{Control, DroneChange, Jobs};
use crate::engine::grammar;
use crate::engine::id::{JobId, PeerId, SessionId};
use crate::engine::job::{Attempt, AttemptState, FailureClass, Job, JobState, Tally};
use crate::engine::scheduler::LEASE_MS;
use crate::engine::session::SessionPhase;

/// Most processors that a drone can be limited to.
const CORES_MAX: u32 = 65_536;
/// Jobs of a session that one entry cancels.
const CANCELLED_AT_ONCE: usize = 2_000;
/// Longest drain, milliseconds: a week.
const DRAIN_MAX_MS: u64 = 7 * 86_400_000;

fn jobs(changed: u64) -> Executed {
    Ok(Reply::Changed { jobs: changed, drones: 0 })
}

/// It has effects outside and was taken back after it had begun: what it waits for is that its drone has stopped it.
fn may_still_run(job: &Job) -> bool {
    let stale = |attempt: &Attempt| attempt.state == AttemptState::Stale && attempt.started_at.is_some();
    !job.spec.pure && job.attempts.last().is_some_and(stale)
}

impl State {
    pub(super) fn control(&mut self, context: Context, action: &Control, by: &str, why: &str) -> Executed {
        if !grammar::is_plain_text(by, 128) {
            return reject(RejectCode::Invalid, "who acts must be 1 to 128 bytes without control characters");
        }
        let decision = Decision { by: by.to_owned(), why: clip(why, REASON_MAX_LEN), at: context.at };
        match action {
            Control::Pause => Ok(self.pause(Some(decision))),
            Control::Resume => Ok(self.pause(None)),
            Control::Block { jobs: which } => self.block(context, which, &decision),
            Control::Unblock { jobs: which } => self.retry(context, which, &[JobState::Blocked]),
            Control::RetryFailures { jobs: which } => {
                self.retry(context, which, &[JobState::Blocked, JobState::Failed, JobState::Quarantined])
            }
            Control::ClearFailures => Ok(self.clear_failures()),
            Control::Reset { running } => self.reset(context, *running, &decision),
            Control::Rebalance { running } => self.reclaim(context, &Jobs::All, *running, &decision),
            Control::Reclaim { jobs: which, running } => self.reclaim(context, which, *running, &decision),
            Control::Unground { node } => self.unground(node.as_ref()),
            Control::ClearHistory => {
                let forgotten = self.clear_history();
                self.forget_packages();
                jobs(forgotten)
            }
            Control::CancelSession { session } => self.cancel_session(context, *session, &decision),
            Control::Drone { node, change } => self.change_drone(context, node, change, decision),
        }
    }

    fn pause(&mut self, decision: Option<Decision>) -> Reply {
        let changed = self.meta.paused.is_some() != decision.is_some();
        if changed {
            self.meta.paused = decision;
            self.dirty.insert(RowKey::Meta);
        }
        if !changed {
            return Reply::Changed { jobs: 0, drones: 0 };
        }
        // What waits, and whoever would have got it.
        Reply::Changed { jobs: self.counts().needed, drones: self.machines().count() as u64 }
    }

    /// Jobs that are meant and fit, in the order of submission. Refused when one is named that does not exist.
    fn select(&self, which: &Jobs, fits: impl Fn(&Job) -> bool) -> Result<Vec<JobId>, super::Reject> {
        let seen = |job: &&Job| !self.jobs.is_dormant(job);
        let fitting = |job: &&Job| seen(job) && fits(job);
        Ok(match which {
            Jobs::One(id) => match self.jobs.get(id) {
                None => return self.no_such_job(*id).map(|_| Vec::new()),
                Some(job) => Some(job).into_iter().filter(fitting).map(|job| job.spec.id).collect(),
            },
            Jobs::All => self.jobs.in_order().filter(fitting).map(|job| job.spec.id).collect(),
            Jobs::Session(id) if self.jobs.sessions.get(id).is_none() => {
                return reject(RejectCode::NotFound, format!("no session {id}"));
            }
            Jobs::Session(id) => self.session_jobs(id).filter(fitting).map(|job| job.spec.id).collect(),
            Jobs::Package(name) => {
                let named = |job: &&Job| job.spec.package() == name || job.spec.target == *name;
                self.jobs.in_order().filter(named).filter(fitting).map(|job| job.spec.id).collect()
            }
        })
    }

    fn block(&mut self, context: Context, which: &Jobs, decision: &Decision) -> Executed {
        // A block that would end by itself becomes one that does not.
        let can_be = |job: &Job| {
            job.state == JobState::Needed || (job.state == JobState::Blocked && job.block_until_ms.is_some())
        };
        let ids = self.select(which, can_be)?;
        let changed = ids.len() as u64;
        let reason = clip(&format!("blocked by {}: {}", decision.by, decision.why), REASON_MAX_LEN);
        for id in ids {
            self.jobs.update(&id, |job| {
                job.state = JobState::Blocked;
                job.block_until_ms = None;
                job.reason = Some(reason.clone());
            });
            self.settle(context, id);
        }
        jobs(changed)
    }

    /// Jobs in one of these states are tried again. One that was blocked too often is no longer held to have been.
    fn retry(&mut self, context: Context, which: &Jobs, states: &[JobState]) -> Executed {
        // What belongs to a cancelled session would be cancelled again.
        let fits = |job: &Job| states.contains(&job.state) && self.jobs.sessions.goes_on(&job.session);
        let ids = self.select(which, fits)?;
        let changed = ids.len() as u64;
        for id in ids {
            self.jobs.update(&id, |job| {
                unblock(job);
                job.tally = Tally::default();
            });
            self.settle(context, id);
        }
        jobs(changed)
    }

    fn clear_failures(&mut self) -> Reply {
        let failed = |job: &&Job| {
            matches!(job.state, JobState::Needed | JobState::Blocked)
                && (job.tally != Tally::default() || (job.not_before_ms > 0 && !may_still_run(job)))
        };
        let ids: Vec<JobId> = self.jobs.in_order().filter(failed).map(|job| job.spec.id).collect();
        for id in &ids {
            self.jobs.update(id, |job| {
                job.tally = Tally::default();
                if !may_still_run(job) {
                    job.not_before_ms = 0;
                }
            });
            self.touch_job(id);
        }
        Reply::Changed { jobs: ids.len() as u64, drones: self.forgive(None) }
    }

    fn reset(&mut self, context: Context, running: bool, decision: &Decision) -> Executed {
        let retried = self.retry(context, &Jobs::All, &[JobState::Blocked, JobState::Failed, JobState::Quarantined])?;
        let reclaimed = self.reclaim(context, &Jobs::All, running, decision)?;
        let count = |reply: &Reply| if let Reply::Changed { jobs, .. } = reply { *jobs } else { 0 };
        let changed = count(&retried) + count(&reclaimed);
        Ok(Reply::Changed { jobs: changed, drones: self.forgive(None) })
    }

    fn reclaim(&mut self, context: Context, which: &Jobs, running: bool, decision: &Decision) -> Executed {
        let ids = self.select(which, |job| {
            job.live_attempt().is_some_and(|attempt| running || attempt.state == AttemptState::Assigned)
        })?;
        let changed = ids.len() as u64;
        let reason = clip(&format!("taken back by {}: {}", decision.by, decision.why), REASON_MAX_LEN);
        let stopped_ms = self.meta.hive_time_ms.saturating_add(LEASE_MS);
        for id in ids {
            self.jobs.update(&id, |job| {
                let began = job.live_attempt().is_some_and(|attempt| attempt.state != AttemptState::Assigned);
                if began && !job.spec.pure {
                    // Its drone may hear of it late; by then it has stopped by itself.
                    job.not_before_ms = job.not_before_ms.max(stopped_ms);
                }
                end_live(job, context, AttemptState::Stale, FailureClass::Stale, &reason);
                job.state = JobState::Needed;
            });
            self.settle(context, id);
        }
        jobs(changed)
    }

    fn unground(&mut self, node: Option<&PeerId>) -> Executed {
        if let Some(node) = node.filter(|node| self.members.get(node).is_none() && self.legacy.get(node).is_none()) {
            return reject(RejectCode::NotFound, format!("no member {node}"));
        }
        Ok(Reply::Changed { jobs: 0, drones: self.forgive(node) })
    }

    /// Forgets what went wrong at one drone or all. Answers at how many something had.
    fn forgive(&mut self, node: Option<&PeerId>) -> u64 {
        let nodes = node.map_or_else(|| self.jobs.drones.names(), |node| vec![node.clone()]);
        let forgive = |record: &mut DroneRecord| {
            record.infra_failures = 0;
            record.grounded_until_ms = 0;
            record.upload_failures = 0;
            record.uploads_paused_until_ms = 0;
        };
        nodes.iter().map(|node| u64::from(self.update_drone(node, forgive))).sum()
    }

    fn cancel_session(&mut self, context: Context, id: SessionId, decision: &Decision) -> Executed {
        let Some(session) = self.jobs.sessions.get(&id) else {
            return reject(RejectCode::NotFound, format!("no session {id}"));
        };
        let reason = clip(&format!("session cancelled by {}: {}", decision.by, decision.why), REASON_MAX_LEN);
        if session.phase == SessionPhase::Draft {
            let jobs_of_it = session.jobs;
            self.drop_session(context, id, &reason)?;
            return jobs(jobs_of_it);
        }
        let ids = self.select(&Jobs::Session(id), |job| !job.state.is_terminal())?;
        // Last first: what waits for others is over before they are, and is not told of each. Of a large session one entry ends a part;
        // the planner asks for the next, so that no entry holds the log up.
        for job in ids.iter().rev().take(CANCELLED_AT_ONCE) {
            self.cancel(context, *job, &reason)?;
        }
        if self.jobs.sessions.get(&id).is_some_and(|session| session.phase != SessionPhase::Cancelled) {
            self.jobs.sessions.change(&id, |session| {
                session.phase = SessionPhase::Cancelled;
                session.why = Some(reason);
            });
            self.dirty.insert(RowKey::Session(id));
        }
        jobs(ids.len() as u64)
    }

    fn change_drone(&mut self, context: Context, node: &PeerId, change: &DroneChange, decision: Decision) -> Executed {
        if self.machine(node).is_none() {
            return reject(RejectCode::NotFound, format!("no member {node}"));
        }
        let hive_ms = self.meta.hive_time_ms;
        match change {
            DroneChange::Limit { cores: Some(cores) } if !(1..=CORES_MAX).contains(cores) => {
                return reject(RejectCode::Invalid, "a limit of 1 to 65536 processors, or none");
            }
            DroneChange::Drain { deadline_ms: Some(deadline_ms) } if *deadline_ms > DRAIN_MAX_MS => {
                return reject(RejectCode::Invalid, "a drain takes a week at most");
            }
            DroneChange::Limit { .. } | DroneChange::Drain { .. } | DroneChange::Pause | DroneChange::Resume => {}
        }
        let changed = self.update_drone(node, |record| match change {
            DroneChange::Pause if record.paused.is_some() => {}
            DroneChange::Pause => record.paused = Some(decision.clone()),
            DroneChange::Resume => {
                record.paused = None;
                record.drain = None;
            }
            DroneChange::Drain { deadline_ms } => {
                let deadline_hive_ms = deadline_ms.map(|deadline_ms| hive_ms.saturating_add(deadline_ms));
                record.drain = Some(Drain { decision: decision.clone(), deadline_hive_ms });
            }
            DroneChange::Limit { cores } => record.cores_limit = *cores,
        });
        let mut given_back = 0;
        if matches!(change, DroneChange::Drain { .. }) {
            let not_begun = |job: &&Job| job.live_attempt().is_some_and(|live| live.state == AttemptState::Assigned);
            let ids: Vec<JobId> = self.jobs.live_of(node).filter(not_begun).map(|job| job.spec.id).collect();
            given_back = ids.len() as u64;
            for id in ids {
                self.give_back(context, id, "its drone is being drained");
            }
        }
        Ok(Reply::Changed { jobs: given_back, drones: u64::from(changed) })
    }
}
