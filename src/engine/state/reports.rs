//! What drones report, and what follows for the job: fencing, late results, and the rule of retries.
//!
//! Only the last token issued for a job changes it. The retry rule is total, so that no job waits for ever without a reason:
//!
//! | end of an attempt | pure job | job with outside effects |
//! |---|---|---|
//! | succeeded | received | received |
//! | class build | another drone at once, the same after a pause; blocked when 2 drones failed, failed after 3 failures | failed |
//! | class infra, stale | waits 5 s, doubling up to 5 min; blocked after 20 | the same before it began, else blocked |
//! | class policy | blocked, a resolution failed | blocked |
//! | class cancelled | cancelled | cancelled |
//! | drone lost | at once elsewhere; quarantined after 3 drones, or 3 times one | the same before it began, else blocked |
//! | drone lost before it began | at once elsewhere, then as class infra | the same |
//! | returned, taken back | at once, rather elsewhere | the same; a drone does not return what has begun |
//! | not uploaded | waits as for class infra | the same before it began, else blocked |
//!
//! A job with outside effects that began is never run again by itself, because nobody knows how far it came, unless repeating
//! it was declared to be harmless; then it is treated as a pure one. Blocks for failures end by themselves, each time later,
//! and after [`BLOCKS_MAX`] of them the job has failed; those for policy, and those made by hand, stay.

use super::queue::{REASON_MAX_LEN, end_live};
use super::{Context, Executed, State, clip, reject};
use crate::engine::command::{Progress, RejectCode, Reply};
use crate::engine::grammar;
use crate::engine::id::{JobId, PeerId, Token, UnixMillis};
use crate::engine::job::{Artifact, Attempt, AttemptState, FailureClass, Job, JobState, Outcome, Source, Tally, Work};

/// So many different drones failing to build a job block it: the package is at fault, not a machine.
pub const DIFFERENT_DRONES_MAX: usize = 2;
/// So many failures to build on a single drone end a job.
pub const BUILD_FAILURES_MAX: u32 = 3;
/// So many failures of the infrastructure block a job: over an hour of retries at the longest pause.
pub const INFRA_FAILURES_MAX: u32 = 20;
/// So many different drones lost while they built a job, or one lost so often, quarantine it: it may be what kills them.
pub const LOSSES_MAX: u32 = 3;
/// How long a job is blocked for failures the first time, hive time; doubles.
pub const BLOCK_MS: u64 = 1_800_000;
/// Longest block, hive time.
pub const BLOCK_MAX_MS: u64 = 8 * 3_600_000;
/// So many blocks for failures: after the next one the job has failed.
pub const BLOCKS_MAX: u32 = 4;

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
        self.touch_job(&id);
        Ok(reply)
    }

    fn report_ended(&mut self, context: Context, id: JobId, outcome: Outcome) -> Executed {
        match outcome {
            Outcome::Succeeded { artifacts } => self.accept(context, id, artifacts),
            Outcome::Failed { class, reason, exit_code } => {
                let reason = clip(&reason, REASON_MAX_LEN);
                let hive_time_ms = self.meta.hive_time_ms;
                let ended = self.jobs.update(&id, |job| {
                    let (node, began) = end_attempt(job, context.at, class, &reason, exit_code)?;
                    after_failure(job, &node, class, began, &reason, hive_time_ms);
                    Some((node, (class == FailureClass::Build).then(|| job.clone())))
                });
                if let Some(Some((node, built))) = ended {
                    if class == FailureClass::Infra {
                        self.count_against_drone(&node);
                    }
                    if let Some(job) = built {
                        self.learn(context.at, &job, &node, None);
                    }
                }
                self.settle(context, id);
                Ok(Reply::Done)
            }
            Outcome::Returned { reason } => {
                let reason = clip(&reason, REASON_MAX_LEN);
                self.give_back(context, id, &reason);
                Ok(Reply::Done)
            }
            Outcome::NotUploaded { reason } => {
                let reason = clip(&reason, REASON_MAX_LEN);
                let hive_time_ms = self.meta.hive_time_ms;
                let node = self.jobs.update(&id, |job| {
                    let (node, began) = end_attempt(job, context.at, FailureClass::Infra, &reason, None)?;
                    after_failure(job, &node, FailureClass::Infra, began, &reason, hive_time_ms);
                    Some(node)
                });
                if let Some(Some(node)) = node {
                    self.count_upload_failure(&node);
                }
                self.settle(context, id);
                Ok(Reply::Done)
            }
        }
    }

    /// The live attempt ends without anybody's fault, and the job waits again; another drone is preferred for it.
    pub(super) fn give_back(&mut self, context: Context, id: JobId, reason: &str) {
        self.jobs.update(&id, |job| {
            if let Some(node) = job.live_attempt().map(|attempt| attempt.node.clone()) {
                job.tally.lost_on.entry(node).or_default();
            }
            end_live(job, context, AttemptState::Stale, FailureClass::Stale, reason);
            job.state = JobState::Needed;
        });
        self.settle(context, id);
    }

    pub(super) fn revoke(&mut self, context: Context, id: JobId, token: Token, reason: &str) -> Executed {
        let Some(job) = self.jobs.get(&id) else { return self.no_such_job(id) };
        match job.live_attempt() {
            Some(attempt) if attempt.token == token && attempt.state == AttemptState::Assigned => {
                self.give_back(context, id, &clip(reason, REASON_MAX_LEN));
                Ok(Reply::Done)
            }
            Some(_) | None => reject(RejectCode::Stale, "this is not the live attempt of the job, or it has begun"),
        }
    }

    pub(super) fn end_block(&mut self, context: Context, id: JobId) -> Executed {
        let Some(job) = self.jobs.get(&id) else { return self.no_such_job(id) };
        if job.state != JobState::Blocked || job.block_until_ms.is_none_or(|until| until > self.meta.hive_time_ms) {
            return reject(RejectCode::Conflict, "the job is not blocked, or not until now");
        }
        self.jobs.update(&id, unblock);
        self.settle(context, id);
        Ok(Reply::Done)
    }

    /// A result of an attempt that was given up counts while nobody else has been asked; anything else it says is no failure.
    fn report_late(&mut self, context: Context, id: JobId, progress: Progress) -> Executed {
        let Some(job) = self.jobs.get(&id) else { return reject(RejectCode::Stale, STALE) };
        let is_member = job.attempts.last().is_some_and(|attempt| self.machine(&attempt.node).is_some());
        if job.state != JobState::Needed || !is_member {
            return reject(RejectCode::Stale, STALE);
        }
        match progress {
            Progress::Ended { outcome: Outcome::Succeeded { artifacts } } => self.accept(context, id, artifacts),
            Progress::Ended {
                outcome: Outcome::Failed { .. } | Outcome::Returned { .. } | Outcome::NotUploaded { .. },
            } => reject(RejectCode::Stale, STALE),
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
        let ended = self.jobs.update(&id, |job| {
            let attempt = job.attempts.last_mut()?;
            attempt.state = AttemptState::Accepted;
            attempt.ended_at = Some(context.at);
            attempt.class = None;
            attempt.reason = None;
            attempt.exit_code = Some(0);
            let node = attempt.node.clone();
            let duration_ms = attempt.started_at.map(|started| context.at.0.saturating_sub(started.0));
            // Told with its end alone that it began: nobody knows how long it took.
            attempt.started_at.get_or_insert(context.at);
            job.state = JobState::Received;
            job.artifacts = artifacts;
            job.artifact_node = Some(node.clone());
            job.reason = None;
            job.block_until_ms = None;
            Some((node, duration_ms, job.clone()))
        });
        if let Some(Some((node, duration_ms, job))) = ended {
            self.count_success(&node);
            self.learn(context.at, &job, &node, duration_ms);
        }
        self.settle(context, id);
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
        self.settle(context, id);
        Ok(Reply::Done)
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

/// What follows for a job.
enum Next {
    Again,
    /// Until somebody, or, if it ages, until time unblocks it.
    Blocked {
        ages: bool,
    },
    Over(JobState),
}

fn follow(job: &mut Job, next: &Next, why: &str, hive_time_ms: u64) {
    let mut why = why.to_owned();
    job.block_until_ms = None;
    job.state = match next {
        Next::Again => JobState::Needed,
        Next::Blocked { ages: false } => JobState::Blocked,
        Next::Blocked { ages: true } if job.tally.blocks >= BLOCKS_MAX => {
            why = format!("blocked {BLOCKS_MAX} times, and failed again: {why}");
            JobState::Failed
        }
        Next::Blocked { ages: true } => {
            let block_ms = (BLOCK_MS << job.tally.blocks.min(16)).min(BLOCK_MAX_MS);
            job.tally.blocks += 1;
            job.block_until_ms = Some(hive_time_ms.saturating_add(block_ms));
            JobState::Blocked
        }
        Next::Over(state) => *state,
    };
    job.reason = Some(clip(&why, REASON_MAX_LEN)).filter(|_| job.state != JobState::Needed);
}

/// May be tried again everywhere; that it was blocked before is not forgotten.
pub(super) fn unblock(job: &mut Job) {
    job.state = JobState::Needed;
    job.block_until_ms = None;
    job.not_before_ms = 0;
    job.reason = None;
    job.finish_ordinal = 0;
    job.tally = Tally { blocks: job.tally.blocks, ..Tally::default() };
}

fn after_failure(job: &mut Job, node: &PeerId, class: FailureClass, began: bool, reason: &str, hive_time_ms: u64) {
    match class {
        FailureClass::Build if !job.spec.may_repeat() => {
            job.tally.build_failures += 1;
            follow(job, &Next::Over(JobState::Failed), reason, hive_time_ms);
        }
        FailureClass::Build => {
            job.tally.build_failures += 1;
            let pause = pause_ms(SAME_DRONE_PAUSE_MS, job.tally.build_failures);
            job.tally.failed_on.insert(node.clone(), hive_time_ms.saturating_add(pause));
            let drones = job.tally.failed_on.len();
            if drones >= DIFFERENT_DRONES_MAX {
                let why = format!("{drones} different drones failed to build it: {reason}");
                follow(job, &Next::Blocked { ages: true }, &why, hive_time_ms);
            } else if job.tally.build_failures >= BUILD_FAILURES_MAX {
                let why = format!("failed to build {BUILD_FAILURES_MAX} times: {reason}");
                follow(job, &Next::Over(JobState::Failed), &why, hive_time_ms);
            } else {
                follow(job, &Next::Again, reason, hive_time_ms);
            }
        }
        FailureClass::Infra | FailureClass::Stale if began && !job.spec.may_repeat() => {
            job.tally.infra_failures += 1;
            follow(job, &Next::Blocked { ages: false }, &interrupted(reason), hive_time_ms);
        }
        FailureClass::Infra | FailureClass::Stale => again_later(job, reason, hive_time_ms),
        // What cannot be resolved is asked for anew, with other words.
        FailureClass::Policy if matches!(job.spec.work, Work::Resolve { .. }) => {
            follow(job, &Next::Over(JobState::Failed), reason, hive_time_ms);
        }
        FailureClass::Policy => follow(job, &Next::Blocked { ages: false }, reason, hive_time_ms),
        FailureClass::Cancelled => follow(job, &Next::Over(JobState::Cancelled), reason, hive_time_ms),
    }
}

/// Not the package's fault: it waits, each time longer.
fn again_later(job: &mut Job, reason: &str, hive_time_ms: u64) {
    job.tally.infra_failures += 1;
    let failures = job.tally.infra_failures;
    job.not_before_ms = hive_time_ms.saturating_add(pause_ms(INFRA_PAUSE_MS, failures));
    block_if_too_often(job, failures, reason, hive_time_ms);
}

fn block_if_too_often(job: &mut Job, failures: u32, reason: &str, hive_time_ms: u64) {
    if failures >= INFRA_FAILURES_MAX {
        let why = format!("{failures} attempts failed without fault of the package: {reason}");
        follow(job, &Next::Blocked { ages: true }, &why, hive_time_ms);
    } else {
        follow(job, &Next::Again, reason, hive_time_ms);
    }
}

fn after_loss(job: &mut Job, node: PeerId, began: bool, reason: &str, hive_time_ms: u64) {
    let lost_here = job.tally.lost_on.entry(node).or_default();
    if !began {
        // It cannot have been what killed the drone. Somebody else gets it at once; after that, each time a little later.
        job.tally.infra_failures += 1;
        let failures = job.tally.infra_failures;
        if failures > 1 {
            job.not_before_ms = hive_time_ms.saturating_add(pause_ms(INFRA_PAUSE_MS, failures - 1));
        }
        return block_if_too_often(job, failures, reason, hive_time_ms);
    }
    *lost_here += 1;
    let drones = job.tally.lost_on.values().filter(|times| **times > 0).count();
    let repeated = job.tally.lost_on.values().any(|times| *times >= LOSSES_MAX);
    if drones >= LOSSES_MAX as usize || repeated {
        let times = job.tally.lost_on.values().sum::<u32>();
        let why = format!("{drones} drones were lost on it, {times} times in all: {reason}");
        follow(job, &Next::Over(JobState::Quarantined), &why, hive_time_ms);
    } else if job.spec.may_repeat() {
        follow(job, &Next::Again, "", hive_time_ms);
    } else {
        follow(job, &Next::Blocked { ages: false }, &interrupted(reason), hive_time_ms);
    }
}

fn interrupted(reason: &str) -> String {
    format!("it has effects outside and was interrupted after it began, so it is not run again by itself: {reason}")
}
