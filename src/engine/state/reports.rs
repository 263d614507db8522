//! What drones report, and what follows for the job: fencing, late results, and the rule of retries.
//!
//! Only the last token issued for a job changes it. The retry rule is total, so that no job waits for ever without a reason:
//!
//! | end of an attempt | pure job | job with outside effects |
//! |---|---|---|
//! | succeeded | received | received |
//! | class build | another drone at once, the same after a pause; blocked when 2 drones failed, failed after 3 failures | failed |
//! | class infra, stale | waits 5 s, doubling up to 5 min; blocked after 20 | the same before it began, else blocked |
//! | class policy | blocked | blocked |
//! | class cancelled | cancelled | cancelled |
//! | drone lost | at once elsewhere; quarantined after 3 drones, or 3 times one | the same before it began, else blocked |
//! | drone lost before it began | at once elsewhere, then as class infra | the same |
//!
//! A job with outside effects that began is never run again by itself: nobody knows how far it came, and there is no way yet
//! to declare that repeating it is harmless.

use super::queue::REASON_MAX_LEN;
use super::rows::RowKey;
use super::{Context, Executed, State, clip, reject};
use crate::engine::command::{Progress, RejectCode, Reply};
use crate::engine::grammar;
use crate::engine::id::{JobId, PeerId, Token, UnixMillis};
use crate::engine::job::{Artifact, Attempt, AttemptState, FailureClass, Job, JobState, Outcome, Source};

/// So many different drones failing to build a job block it: the package is at fault, not a machine.
pub const DIFFERENT_DRONES_MAX: usize = 2;
/// So many failures to build on a single drone end a job.
pub const BUILD_FAILURES_MAX: u32 = 3;
/// So many failures of the infrastructure block a job: over an hour of retries at the longest pause.
pub const INFRA_FAILURES_MAX: u32 = 20;
/// So many different drones lost while they built a job, or one lost so often, quarantine it: it may be what kills them.
pub const LOSSES_MAX: u32 = 3;
/// So many failures of class infra without a success in between ground a drone.
pub const DRONE_INFRA_FAILURES_MAX: u32 = 8;
/// How long a drone stays grounded, hive time.
pub const GROUNDED_MS: u64 = 300_000;

/// Before the same drone tries again to build what it failed to build; doubles.
const SAME_DRONE_PAUSE_MS: u64 = 10_000;
/// Before a job is tried again after a failure of the infrastructure; doubles.
const INFRA_PAUSE_MS: u64 = 5_000;
/// Longest pause: short enough that a mended disk is noticed soon.
const PAUSE_MAX_MS: u64 = 300_000;

/// `first_ms` doubled with each failure after the first.
fn pause_ms(first_ms: u64, failures: u32) -> u64 {
    let doublings = failures.saturating_sub(1).min(16);
    (first_ms << doublings).min(PAUSE_MAX_MS)
}

const STALE: &str = "this attempt was superseded or is over; stop it";

impl State {
    pub(super) fn report(&mut self, context: Context, id: JobId, token: Token, progress: Progress) -> Executed {
        let Some(job) = self.jobs.get(&id) else {
            // A job that is over for long has no live attempt; a token for it cannot be the live one.
            return if self.jobs.is_known(&id) { reject(RejectCode::Stale, STALE) } else { self.no_such_job(id) };
        };
        let Some(last) = job.attempts.last().filter(|last| last.token == token) else {
            return reject(RejectCode::Stale, STALE);
        };
        match last.state {
            AttemptState::Assigned | AttemptState::Building | AttemptState::Uploading => match progress {
                Progress::Building { pinned_commit } => self.report_building(context, id, pinned_commit),
                Progress::Uploading => self.report_uploading(id),
                Progress::Ended { outcome } => self.report_ended(context, id, outcome),
            },
            AttemptState::Lost => self.report_late(context, id, progress),
            AttemptState::Accepted => match progress {
                // The drone did not hear that its result was accepted, and says it again after a restart.
                Progress::Ended { outcome: Outcome::Succeeded { artifacts } } if artifacts == job.artifacts => {
                    Ok(Reply::Done)
                }
                Progress::Ended { .. } | Progress::Building { .. } | Progress::Uploading => {
                    reject(RejectCode::Stale, STALE)
                }
            },
            AttemptState::Failed | AttemptState::Stale | AttemptState::Cancelled => reject(RejectCode::Stale, STALE),
        }
    }

    fn report_building(&mut self, context: Context, id: JobId, pinned: Option<String>) -> Executed {
        if pinned.as_deref().is_some_and(|commit| grammar::commit(commit).is_err()) {
            return reject(RejectCode::Invalid, "the pinned commit is no full object name");
        }
        self.advance(id, |job| {
            match job.attempts.last().map(|attempt| attempt.state) {
                Some(AttemptState::Assigned) => {}
                Some(AttemptState::Building) => return Ok(Reply::Done),
                _ => return reject(RejectCode::Conflict, "the attempt is further than that"),
            }
            if let Some(pinned) = pinned {
                pin(job, pinned)?;
            }
            if let Some(attempt) = job.attempts.last_mut() {
                attempt.state = AttemptState::Building;
                attempt.started_at = Some(context.at);
            }
            Ok(Reply::Done)
        })
    }

    fn report_uploading(&mut self, id: JobId) -> Executed {
        self.advance(id, |job| match job.attempts.last_mut() {
            Some(attempt) if attempt.state == AttemptState::Building => {
                attempt.state = AttemptState::Uploading;
                Ok(Reply::Done)
            }
            Some(attempt) if attempt.state == AttemptState::Uploading => Ok(Reply::Done),
            Some(_) | None => reject(RejectCode::Conflict, "the attempt is not building"),
        })
    }

    /// A step of a live attempt that ends nothing. `step` changes the job only when it succeeds.
    fn advance(&mut self, id: JobId, step: impl FnOnce(&mut Job) -> Executed) -> Executed {
        let reply = self.jobs.update(&id, step).unwrap_or(Ok(Reply::Done))?;
        self.dirty.insert(RowKey::Job(id));
        Ok(reply)
    }

    fn report_ended(&mut self, context: Context, id: JobId, outcome: Outcome) -> Executed {
        match outcome {
            Outcome::Succeeded { artifacts } => self.accept(context, id, artifacts),
            Outcome::Failed { class, reason, exit_code } => {
                let reason = clip(&reason, REASON_MAX_LEN);
                let hive_time_ms = self.meta.hive_time_ms;
                let node = self.jobs.update(&id, |job| {
                    let (node, began) = end_attempt(job, context.at, class, &reason, exit_code)?;
                    after_failure(job, &node, class, began, &reason, hive_time_ms);
                    Some(node)
                });
                if let (Some(Some(node)), FailureClass::Infra) = (node, class) {
                    self.count_against_drone(&node);
                }
                self.settle(id);
                Ok(Reply::Done)
            }
        }
    }

    /// A result of an attempt that was given up counts while nobody else has been asked; anything else it says is no failure.
    fn report_late(&mut self, context: Context, id: JobId, progress: Progress) -> Executed {
        let Some(job) = self.jobs.get(&id) else { return reject(RejectCode::Stale, STALE) };
        let node = job.attempts.last().map(|attempt| &attempt.node);
        let is_member = node.and_then(|node| self.members.get(node)).is_some_and(|member| !member.left);
        if job.state != JobState::Needed || !is_member {
            return reject(RejectCode::Stale, STALE);
        }
        match progress {
            Progress::Ended { outcome: Outcome::Succeeded { artifacts } } => self.accept(context, id, artifacts),
            Progress::Ended { outcome: Outcome::Failed { .. } } => reject(RejectCode::Stale, STALE),
            Progress::Building { .. } | Progress::Uploading => reject(
                RejectCode::Conflict,
                "the attempt was given up, but nobody else has the job yet: go on, its result is welcome",
            ),
        }
    }

    fn accept(&mut self, context: Context, id: JobId, artifacts: Vec<Artifact>) -> Executed {
        if let Err(invalid) = grammar::artifacts(&artifacts) {
            return reject(RejectCode::Invalid, invalid.to_string());
        }
        let node = self.jobs.update(&id, |job| {
            let attempt = job.attempts.last_mut()?;
            attempt.state = AttemptState::Accepted;
            attempt.ended_at = Some(context.at);
            attempt.class = None;
            attempt.reason = None;
            attempt.exit_code = Some(0);
            let node = attempt.node.clone();
            job.state = JobState::Received;
            job.artifacts = artifacts;
            job.artifact_node = Some(node.clone());
            job.reason = None;
            Some(node)
        });
        if let Some(Some(node)) = node {
            let mut record = self.jobs.drone(&node);
            record.infra_failures = 0;
            if record.grounded_until_ms <= self.meta.hive_time_ms {
                record.grounded_until_ms = 0;
            }
            if self.jobs.set_drone(&node, record) {
                self.dirty.insert(RowKey::Drone(node));
            }
        }
        self.settle(id);
        Ok(Reply::Done)
    }

    pub(super) fn lose(&mut self, context: Context, id: JobId, token: Token, reason: &str) -> Executed {
        let Some(job) = self.jobs.get(&id) else { return self.no_such_job(id) };
        if job.live_attempt().is_none_or(|attempt| attempt.token != token) {
            return reject(RejectCode::Stale, "this is not the live attempt of the job");
        }
        let reason = clip(reason, REASON_MAX_LEN);
        let hive_time_ms = self.meta.hive_time_ms;
        self.jobs.update(&id, |job| {
            let Some(attempt) = job.attempts.last_mut() else { return };
            let began = attempt.state != AttemptState::Assigned;
            attempt.state = AttemptState::Lost;
            attempt.ended_at = Some(context.at);
            attempt.class = Some(FailureClass::Infra);
            attempt.reason = Some(reason.clone());
            let node = attempt.node.clone();
            after_loss(job, node, began, &reason, hive_time_ms);
        });
        self.settle(id);
        Ok(Reply::Done)
    }

    /// Marks the job's row, and gives the job its place among those that are over, if it is.
    fn settle(&mut self, id: JobId) {
        self.dirty.insert(RowKey::Job(id));
        if self.jobs.get(&id).is_some_and(|job| job.state.is_terminal()) {
            self.finish(&id);
        }
    }

    /// Lost drones are not counted: a crash takes down all attempts of a machine at once and is one event, which the failure
    /// detector handles.
    fn count_against_drone(&mut self, node: &PeerId) {
        let mut record = self.jobs.drone(node);
        record.infra_failures += 1;
        if record.infra_failures >= DRONE_INFRA_FAILURES_MAX {
            record.infra_failures = 0;
            record.grounded_until_ms = self.meta.hive_time_ms.saturating_add(GROUNDED_MS);
        }
        if self.jobs.set_drone(node, record) {
            self.dirty.insert(RowKey::Drone(node.clone()));
        }
    }
}

/// From here on all attempts build the same commit.
fn pin(job: &mut Job, pinned: String) -> Result<(), super::Reject> {
    match job.spec.git_source_mut() {
        Some(Source::Git { commit, .. }) => match commit {
            Some(known) if *known != pinned => reject(RejectCode::Invalid, "the job is pinned to another commit"),
            Some(_) | None => {
                *commit = Some(pinned);
                Ok(())
            }
        },
        Some(Source::Blob { .. }) | None => reject(RejectCode::Invalid, "the job has no Git source to pin"),
    }
}

/// Closes the live attempt as failed. Gives its drone, and whether it had begun.
fn end_attempt(
    job: &mut Job,
    at: UnixMillis,
    class: FailureClass,
    reason: &str,
    exit_code: Option<i32>,
) -> Option<(PeerId, bool)> {
    let attempt: &mut Attempt = job.attempts.last_mut()?;
    let began = attempt.state != AttemptState::Assigned;
    attempt.state = match class {
        FailureClass::Build | FailureClass::Infra | FailureClass::Policy => AttemptState::Failed,
        FailureClass::Cancelled => AttemptState::Cancelled,
        FailureClass::Stale => AttemptState::Stale,
    };
    attempt.ended_at = Some(at);
    attempt.class = Some(class);
    attempt.reason = Some(reason.to_owned());
    attempt.exit_code = exit_code;
    Some((attempt.node.clone(), began))
}

fn after_failure(job: &mut Job, node: &PeerId, class: FailureClass, began: bool, reason: &str, hive_time_ms: u64) {
    let (state, why) = match class {
        FailureClass::Build if !job.spec.pure => {
            job.tally.build_failures += 1;
            (JobState::Failed, reason.to_owned())
        }
        FailureClass::Build => {
            job.tally.build_failures += 1;
            let pause = pause_ms(SAME_DRONE_PAUSE_MS, job.tally.build_failures);
            job.tally.failed_on.insert(node.clone(), hive_time_ms.saturating_add(pause));
            let drones = job.tally.failed_on.len();
            if drones >= DIFFERENT_DRONES_MAX {
                (JobState::Blocked, format!("{drones} different drones failed to build it: {reason}"))
            } else if job.tally.build_failures >= BUILD_FAILURES_MAX {
                (JobState::Failed, format!("failed to build {BUILD_FAILURES_MAX} times: {reason}"))
            } else {
                (JobState::Needed, reason.to_owned())
            }
        }
        FailureClass::Infra | FailureClass::Stale => {
            job.tally.infra_failures += 1;
            let failures = job.tally.infra_failures;
            job.not_before_ms = hive_time_ms.saturating_add(pause_ms(INFRA_PAUSE_MS, failures));
            if began && !job.spec.pure {
                (JobState::Blocked, interrupted(reason))
            } else if failures >= INFRA_FAILURES_MAX {
                (JobState::Blocked, format!("{failures} attempts failed without fault of the package: {reason}"))
            } else {
                (JobState::Needed, reason.to_owned())
            }
        }
        FailureClass::Policy => (JobState::Blocked, reason.to_owned()),
        FailureClass::Cancelled => (JobState::Cancelled, reason.to_owned()),
    };
    job.state = state;
    job.reason = Some(clip(&why, REASON_MAX_LEN)).filter(|_| state != JobState::Needed);
}

fn after_loss(job: &mut Job, node: PeerId, began: bool, reason: &str, hive_time_ms: u64) {
    let lost_here = job.tally.lost_on.entry(node).or_default();
    let (state, why) = if began {
        *lost_here += 1;
        let drones = job.tally.lost_on.values().filter(|times| **times > 0).count();
        let repeated = job.tally.lost_on.values().any(|times| *times >= LOSSES_MAX);
        if drones >= LOSSES_MAX as usize || repeated {
            let times = job.tally.lost_on.values().sum::<u32>();
            (JobState::Quarantined, format!("{drones} drones were lost on it, {times} times in all: {reason}"))
        } else if !job.spec.pure {
            (JobState::Blocked, interrupted(reason))
        } else {
            (JobState::Needed, String::new())
        }
    } else {
        // It cannot have been what killed the drone. Somebody else gets it at once; after that, each time a little later.
        job.tally.infra_failures += 1;
        let failures = job.tally.infra_failures;
        if failures > 1 {
            job.not_before_ms = hive_time_ms.saturating_add(pause_ms(INFRA_PAUSE_MS, failures - 1));
        }
        if failures >= INFRA_FAILURES_MAX {
            (JobState::Blocked, format!("{failures} attempts failed without fault of the package: {reason}"))
        } else {
            (JobState::Needed, String::new())
        }
    };
    job.state = state;
    job.reason = Some(clip(&why, REASON_MAX_LEN)).filter(|_| state != JobState::Needed);
}

fn interrupted(reason: &str) -> String {
    format!("it has effects outside and was interrupted after it began, so it is not run again by itself: {reason}")
}
