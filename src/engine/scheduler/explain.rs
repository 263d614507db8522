//! Why a job waits or a drone idles, for `hive explain`, and what would change it.
//!
//! Told from the same facts and by the same functions as the plan, so that doing what the remedy says does change it.

use super::fit::{self, Drone, Unfit};
use super::{Now, Settings, View};
use crate::engine::id::{JobId, PeerId};
use crate::engine::job::{Attempt, Job, JobState, Needs};
use crate::engine::state::State;

/// Waiting jobs looked at when a drone is explained.
const JOBS_SHOWN_MAX: usize = 20;

/// What is to be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A job.
    Job(JobId),
    /// A drone.
    Drone(PeerId),
}

/// Why it is as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What is explained.
    pub subject: String,
    /// One sentence.
    pub summary: String,
    /// Per drone (for a job) or per job (for a drone).
    pub lines: Vec<ExplanationLine>,
    /// What to do so that it changes; may be empty.
    pub remedy: String,
}

/// One line of an explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplanationLine {
    /// Drone or job.
    pub name: String,
    /// Whether it is eligible.
    pub eligible: bool,
    /// Why (not).
    pub why: String,
}

/// Explains. None when there is no such job or drone in memory.
pub fn explain(state: &State, view: &View, now: Now, settings: &Settings, subject: &Subject) -> Option<Explanation> {
    let drones = fit::drones(state, view, settings, now.hive_ms);
    match subject {
        Subject::Job(id) => state.job(id).map(|job| tell_of_job(state, view, &drones, now.hive_ms, job)),
        Subject::Drone(peer) => {
            let drone = drones.iter().find(|drone| drone.peer == peer);
            match drone {
                Some(drone) => Some(explain_drone(state, view, drone, &drones, now.hive_ms)),
                None => state.member(peer).map(|member| Explanation {
                    subject: member.display_name.clone(),
                    summary: "it has left the hive".to_owned(),
                    lines: Vec::new(),
                    remedy: "start hive on it again".to_owned(),
                }),
            }
        }
    }
}

/// Explains a job that the caller has, from memory or from its history row.
pub fn explain_job(state: &State, view: &View, now: Now, settings: &Settings, job: &Job) -> Explanation {
    tell_of_job(state, view, &fit::drones(state, view, settings, now.hive_ms), now.hive_ms, job)
}

/// Why a job does not run; none while it runs and when it is over.
pub fn waiting_for(state: &State, view: &View, now: Now, settings: &Settings, job: &Job) -> Option<String> {
    match job.state {
        JobState::Needed => {
            let drones = fit::drones(state, view, settings, now.hive_ms);
            Some(why_waiting(job, &job.spec.needs(), &drones, view, now.hive_ms))
        }
        JobState::Blocked => Some(job.reason.clone().unwrap_or_else(|| "blocked".to_owned())),
        JobState::Delegated | JobState::Received | JobState::Failed | JobState::Cancelled | JobState::Quarantined => {
            None
        }
    }
}

fn seconds(until_ms: u64, hive_ms: u64) -> u64 {
    until_ms.saturating_sub(hive_ms).div_ceil(1_000)
}

/// One sentence about a job that is `needed`.
pub(super) fn why_waiting(job: &Job, needs: &Needs, drones: &[Drone<'_>], view: &View, hive_ms: u64) -> String {
    if view.in_flight.contains_key(&job.spec.id) {
        return "it is being assigned".to_owned();
    }
    if drones.iter().all(|drone| drone.why_not().is_some()) {
        return "no drone can take work now".to_owned();
    }
    let fitting: Vec<&Drone<'_>> = drones.iter().filter(|drone| drone.unfit_for(needs).is_none()).collect();
    if fitting.is_empty() {
        return nobody_fits(needs, drones);
    }
    if job.not_before_ms > hive_ms {
        return format!("it is tried again in {} s, after a failure", seconds(job.not_before_ms, hive_ms));
    }
    let fresh: Vec<&&Drone<'_>> =
        fitting.iter().filter(|drone| !job.tally.failed_on.contains_key(drone.peer)).collect();
    if !fresh.is_empty() {
        let free = fresh.iter().any(|drone| drone.free() > 0);
        return if free {
            "it is next".to_owned()
        } else if fresh.len() < fitting.len() {
            "all drones that fit and on which it has not failed yet are busy".to_owned()
        } else {
            "all drones that fit are busy".to_owned()
        };
    }
    let again_ms = fitting.iter().filter_map(|drone| job.tally.failed_on.get(drone.peer)).min().copied().unwrap_or(0);
    if again_ms > hive_ms {
        format!("no other drone fits; where it failed it is tried again in {} s", seconds(again_ms, hive_ms))
    } else {
        "all drones that fit are busy".to_owned()
    }
}

fn nobody_fits(needs: &Needs, drones: &[Drone<'_>]) -> String {
    let able = drones.iter().filter(|drone| drone.why_not().is_none());
    let lacking = able.filter_map(|drone| match drone.unfit_for(needs) {
        Some(Unfit::Lacks(what)) => Some(what),
        Some(Unfit::Memory(needed_mb)) => Some(vec![format!("{needed_mb} MiB of memory")]),
        Some(Unfit::NotAlive | Unfit::TakesNoBuilds | Unfit::Grounded(_) | Unfit::NoSlots) | None => None,
    });
    // The drone that lacks least shows best what is missing.
    match lacking.min_by_key(Vec::len) {
        Some(what) => format!("no drone that can take work has {}", what.join(", ")),
        None => "no drone that can take work fits".to_owned(),
    }
}

fn tell_of_job(state: &State, view: &View, drones: &[Drone<'_>], hive_ms: u64, job: &Job) -> Explanation {
    let needs = job.spec.needs();
    let subject = format!("job {} ({})", job.spec.id, job.spec.target);
    let reason = || job.reason.clone().unwrap_or_default();
    let done = |summary: String, remedy: &str| Explanation {
        subject: subject.clone(),
        summary,
        lines: Vec::new(),
        remedy: remedy.to_owned(),
    };
    match job.state {
        JobState::Needed => {}
        JobState::Delegated => {
            let node = job.live_attempt().map_or("a drone", |attempt| state.name_of(&attempt.node));
            return done(format!("it is with {node}"), "");
        }
        JobState::Received => return done("it is done".to_owned(), ""),
        JobState::Blocked => {
            return done(format!("blocked: {}", reason()), "mend the cause, cancel the job and queue it anew");
        }
        JobState::Failed => return done(format!("failed: {}", reason()), "mend the cause and queue it anew"),
        JobState::Cancelled => return done(format!("cancelled: {}", reason()), "queue it anew"),
        JobState::Quarantined => {
            let remedy = "look at the logs of its attempts; queue it anew when it is not what kills the drones";
            return done(format!("quarantined: {}", reason()), remedy);
        }
    }
    let lines = drones.iter().map(|drone| job_line(job, &needs, drone, hive_ms)).collect();
    Explanation {
        subject,
        summary: why_waiting(job, &needs, drones, view, hive_ms),
        lines,
        remedy: remedy_for(&needs, drones),
    }
}

fn job_line(job: &Job, needs: &Needs, drone: &Drone<'_>, hive_ms: u64) -> ExplanationLine {
    let failed_here = job.tally.failed_on.get(drone.peer);
    let (eligible, why) = match (drone.unfit_for(needs), failed_here) {
        (Some(unfit), _) => (false, unfit.to_string()),
        (None, Some(again_ms)) if *again_ms > hive_ms => (
            false,
            format!(
                "it failed here; not before {} s from now, and only when no other fits",
                seconds(*again_ms, hive_ms)
            ),
        ),
        (None, Some(_)) => (false, "it failed here; only when no other fits".to_owned()),
        (None, None) if drone.free() == 0 => {
            (true, format!("busy: {} of {} slots", drone.slots.taken, drone.slots.total))
        }
        (None, None) => (true, format!("{} of {} slots free", drone.free(), drone.slots.total)),
    };
    ExplanationLine { name: drone.name.to_owned(), eligible, why }
}

/// What the operator can do about a job for which no drone fits: mend the drone that is nearest to fitting.
fn remedy_for(needs: &Needs, drones: &[Drone<'_>]) -> String {
    if drones.iter().any(|drone| drone.unfit_for(needs).is_none()) {
        return String::new();
    }
    let effort = |unfit: &Unfit| match unfit {
        Unfit::Grounded(_) => 0,
        Unfit::NotAlive => 1,
        Unfit::Lacks(what) => 1 + what.len(),
        Unfit::TakesNoBuilds | Unfit::NoSlots => 40,
        Unfit::Memory(_) => 41,
    };
    let lacking = drones.iter().filter_map(|drone| drone.unfit_for(needs).map(|unfit| (drone, unfit)));
    match lacking.min_by_key(|(_, unfit)| effort(unfit)) {
        Some((drone, unfit)) => unfit.remedy(drone.name),
        None => "add a machine to the hive".to_owned(),
    }
}

fn explain_drone(state: &State, view: &View, drone: &Drone<'_>, drones: &[Drone<'_>], hive_ms: u64) -> Explanation {
    let (taken, total) = (drone.slots.taken, drone.slots.total);
    let waiting: Vec<(&Needs, &Job)> = {
        let mut heads: Vec<(&Needs, &Job)> =
            state.waiting().flat_map(|(needs, jobs)| jobs.take(JOBS_SHOWN_MAX).map(move |job| (needs, job))).collect();
        heads.sort_by_key(|(_, job)| (std::cmp::Reverse(job.spec.priority), job.ordinal));
        heads.truncate(JOBS_SHOWN_MAX);
        heads
    };
    let running = state.live_attempts(drone.peer).map(|(job, attempt)| running_line(job, attempt));
    let open = waiting.iter().map(|(needs, job)| {
        let line = job_line(job, needs, drone, hive_ms);
        let why = if line.eligible { why_waiting(job, needs, drones, view, hive_ms) } else { line.why };
        ExplanationLine { name: format!("{} {}", job.spec.id, job.spec.target), eligible: line.eligible, why }
    });
    let lines: Vec<ExplanationLine> = running.chain(open).collect();
    let fits_some = waiting.iter().any(|(needs, _)| drone.unfit_for(needs).is_none());
    let (summary, remedy) = match drone.why_not() {
        Some(unfit) => (format!("it gets no work: {unfit}"), unfit.remedy(drone.name)),
        None if taken >= total => (format!("all of its {total} slots are taken"), String::new()),
        None if waiting.is_empty() => (format!("{taken} of {total} slots taken; no job waits"), String::new()),
        None if !fits_some => {
            let unfit = waiting.iter().find_map(|(needs, _)| drone.unfit_for(needs));
            let remedy = unfit.map(|unfit| unfit.remedy(drone.name)).unwrap_or_default();
            (format!("{taken} of {total} slots taken; none of the first waiting jobs fits it"), remedy)
        }
        None => (format!("{taken} of {total} slots taken; it gets work"), String::new()),
    };
    Explanation { subject: drone.name.to_owned(), summary, lines, remedy }
}

fn running_line(job: &Job, attempt: &Attempt) -> ExplanationLine {
    let why = format!("attempt {} is with it", attempt.attempt);
    ExplanationLine { name: format!("{} {}", job.spec.id, job.spec.target), eligible: true, why }
}
