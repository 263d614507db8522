//! What a drone does with what it is given: when an attempt starts, what is stopped, what is asked for and reported.
//!
//! ```text
//!   assigned in the state ─► lease confirmed ─► running ─► ended ─► reporting ─► the state shows it
//!                                  │              └ lease lost (effects outside), superseded, cancelled: stopped
//!                                  └ refused: forgotten, and looked at again in the state
//! ```
//!
//! Nothing starts on the word of the state alone: the copy of a node that was cut off may be old, so the coordinator confirms
//! each attempt first. Never done here: running anything, sending anything, keeping anything across a restart.

use std::collections::{BTreeMap, BTreeSet};

use super::command::{RejectCode, Reply};
use super::id::{JobId, PeerId, Token};
use super::job::{AttemptState, FailureClass, JobSpec, JobState, Outcome};
use super::scheduler::{LEASES_MAX, LeaseAnswer, LeaseAsked, LeasePhase, RENEW_EVERY_MS, drone_must_stop};
use super::state::State;

/// Attempts that wait for their first lease are asked for so often, milliseconds.
const CONFIRM_MS: u64 = 200;

/// Why an attempt is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// An operator ended the job; who and why.
    Cancelled(String),
    /// A newer attempt replaced it.
    Superseded,
    /// Its lease could not be renewed in time, and it has outside effects.
    LeaseLost,
}

/// What to do about one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Start it. It counts as running from here on.
    Start(Box<Start>),
    /// Stop it; it stays on the desk until it has ended. Harmless when repeated.
    Stop(Token, Stop),
    /// A former life of the agent began it, and it runs nowhere any more: to be reported as failed.
    Interrupted(JobId, Token),
}

/// An attempt that may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its fencing token.
    pub token: Token,
    /// 1, 2, 3 …
    pub attempt: u32,
    /// What to do.
    pub spec: JobSpec,
}

#[derive(Debug)]
struct Running {
    job: JobId,
    pure: bool,
    /// When the renewal was sent that was confirmed last.
    renewed_ms: u64,
}

/// What a drone is busy with. Memory only: a new life begins with what the state and the outbox say.
#[derive(Debug, Default)]
pub struct Desk {
    running: BTreeMap<Token, Running>,
    /// Assigned to this node in the state, not confirmed yet.
    unconfirmed: BTreeMap<Token, JobId>,
    /// Ended here, and since when; the state does not know it yet. Its lease is renewed until it does.
    reporting: BTreeMap<Token, (JobId, u64)>,
    /// Results that are being brought to the hive at this moment.
    sending: BTreeSet<Token>,
    asking: bool,
    asked_ms: u64,
}

impl Desk {
    /// Nothing runs here, begins, or waits to be reported.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.unconfirmed.is_empty() && self.reporting.is_empty() && !self.asking
    }

    /// A result that a former life of the agent left in the outbox is reported, not built again.
    pub fn take_up(&mut self, token: Token, job: JobId, now_ms: u64) {
        self.reporting.insert(token, (job, now_ms));
    }

    /// Compares what the state assigns to this node with what it does.
    pub fn follow(&mut self, state: &State, me: &PeerId) -> Vec<Order> {
        let live = state.live_attempts(me);
        let assigned: BTreeMap<Token, (JobId, AttemptState)> =
            live.map(|(job, attempt)| (attempt.token, (job.spec.id, attempt.state))).collect();
        let superseded = self.running.iter().filter(|(token, _)| !assigned.contains_key(token));
        let mut orders: Vec<Order> =
            superseded.map(|(token, running)| Order::Stop(*token, stop_reason(state, running.job))).collect();
        self.unconfirmed.retain(|token, _| assigned.contains_key(token));
        // A result that was answered is remembered until the state of this node shows it, too.
        self.reporting.retain(|token, _| assigned.contains_key(token) || self.sending.contains(token));
        for (token, (job, attempt)) in assigned {
            if self.running.contains_key(&token) || self.reporting.contains_key(&token) {
                continue;
            }
            if attempt == AttemptState::Assigned {
                self.unconfirmed.insert(token, job);
            } else {
                orders.push(Order::Interrupted(job, token));
            }
        }
        orders
    }

    /// What has outside effects stops by itself before the coordinator gives it to another drone.
    pub fn without_lease(&self, now_ms: u64) -> Vec<Order> {
        let late = |running: &Running| drone_must_stop(running.pure, now_ms.saturating_sub(running.renewed_ms));
        let late = self.running.iter().filter(|(_, running)| late(running));
        late.map(|(token, _)| Order::Stop(*token, Stop::LeaseLost)).collect()
    }

    /// What to ask the coordinator now, when this node runs `slots` attempts side by side; nothing when it is not time yet.
    pub fn to_ask(&self, slots: usize, now_ms: u64) -> Vec<LeaseAsked> {
        if self.asking || now_ms.saturating_sub(self.asked_ms) < CONFIRM_MS {
            return Vec::new();
        }
        // What was given ahead waits here for a free slot: the coordinator may take it back meanwhile.
        let free = if self.unconfirmed.is_empty() { 0 } else { slots.saturating_sub(self.running.len()) };
        if free == 0 && now_ms.saturating_sub(self.asked_ms) < RENEW_EVERY_MS {
            return Vec::new();
        }
        let begun = self.running.iter().map(|(token, running)| (running.job, *token));
        let begun = begun.chain(self.reporting.iter().map(|(token, (job, _))| (*job, *token)));
        let begun = begun.map(|(job, token)| LeaseAsked { job, token, phase: LeasePhase::Begun });
        let unconfirmed = self.unconfirmed.iter().enumerate().map(|(position, (token, job))| LeaseAsked {
            job: *job,
            token: *token,
            phase: if position < free { LeasePhase::Begins } else { LeasePhase::Waits },
        });
        unconfirmed.chain(begun).take(LEASES_MAX).collect()
    }

    /// The coordinator is being asked.
    pub fn asked(&mut self, now_ms: u64) {
        self.asking = true;
        self.asked_ms = now_ms;
    }

    /// The coordinator answered, or did not. Leases count from when they were asked for.
    pub fn answered(&mut self, state: &State, answer: Option<Vec<LeaseAnswer>>, sent_ms: u64) -> Vec<Order> {
        self.asking = false;
        let mut orders = Vec::new();
        for LeaseAnswer { token, phase, valid } in answer.into_iter().flatten() {
            if valid && phase == LeasePhase::Waits {
                continue;
            }
            if let Some(running) = self.running.get_mut(&token) {
                if valid {
                    running.renewed_ms = sent_ms;
                } else {
                    orders.push(Order::Stop(token, stop_reason(state, running.job)));
                }
            } else if let Some(job) = self.unconfirmed.remove(&token)
                && valid
            {
                orders.extend(self.start(state, job, token, sent_ms));
            }
        }
        orders
    }

    fn start(&mut self, state: &State, job: JobId, token: Token, renewed_ms: u64) -> Option<Order> {
        let known = state.job(&job)?;
        let attempt = known.live_attempt().filter(|attempt| attempt.token == token)?.attempt;
        let spec = known.spec.clone();
        self.running.insert(token, Running { job, pure: spec.pure, renewed_ms });
        Some(Order::Start(Box::new(Start { token, attempt, spec })))
    }

    /// Whether a running attempt must not begin before the hive has committed that it does. Pure ones need not wait.
    pub fn waits_for_permit(&self, token: &Token) -> bool {
        self.running.get(token).is_some_and(|running| !running.pure)
    }

    /// An attempt is over here. Its result has to be in the outbox before it is sent.
    pub fn ended(&mut self, job: JobId, token: Token, now_ms: u64) {
        self.running.remove(&token);
        self.reporting.insert(token, (job, now_ms));
    }

    /// Since when a result waits for the hive, milliseconds.
    pub fn reporting_since_ms(&self, token: &Token) -> Option<u64> {
        self.reporting.get(token).map(|(_, since_ms)| *since_ms)
    }

    /// A result is to be sent now. False: it is on its way already.
    pub fn begin_sending(&mut self, token: Token) -> bool {
        self.sending.insert(token)
    }

    /// Sending a result is over, however it went.
    pub fn end_sending(&mut self, token: &Token) {
        self.sending.remove(token);
    }
}

/// Why an attempt that the state no longer assigns to this node is stopped.
fn stop_reason(state: &State, job: JobId) -> Stop {
    let cancelled = state.job(&job).filter(|job| job.state == JobState::Cancelled);
    cancelled.map_or(Stop::Superseded, |job| Stop::Cancelled(job.reason.clone().unwrap_or_default()))
}

/// Whether the hive's answer to a result ends the need to report it. One that was not looked at does not.
pub fn settles(reply: &Reply) -> bool {
    !matches!(reply, Reply::Rejected { code: RejectCode::TooOld, .. })
}

/// What is reported of an attempt that the end of the agent cut off.
pub fn interrupted() -> Outcome {
    Outcome::Failed {
        class: FailureClass::Infra,
        reason: "the agent was restarted while it built".to_owned(),
        exit_code: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_the_hive_settles_a_result_but_one_that_did_not_look_at_it() {
        let rejected = |code| Reply::Rejected { code, message: String::new() };
        assert!(settles(&Reply::Done));
        for code in [RejectCode::Stale, RejectCode::NotFound, RejectCode::Conflict, RejectCode::Invalid] {
            assert!(settles(&rejected(code)), "{code:?}");
        }
        assert!(!settles(&rejected(RejectCode::TooOld)));
    }
}
