//! Why a job waits or a drone idles, for `hive explain`, and what would change it.
//!
//! Told from the same facts and by the same functions as the plan, so that doing what the remedy says does change it.

use super::fit::{self, Drone, Unfit};
use super::{Now, Settings, View};
use crate::engine::id::{JobId, PeerId};
use crate::engine::job::{Attempt, Job, JobState, Needs};
use crate::engine::state::{Decision, State, Wait};

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
            Some(why_waiting(state, job, &job.spec.needs(), &drones, view, now.hive_ms))
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

/// Jobs named of those that one waits for.
const NAMED_MAX: usize = 3;

fn named(jobs: &[&Job]) -> String {
    let mut names: Vec<&str> = jobs.iter().take(NAMED_MAX).map(|job| job.spec.target.as_str()).collect();
    if jobs.len() > NAMED_MAX {
        names.push("…");
    }
    names.join(", ")
}

/// The job without which another one does not go on: what it waits for was held itself, and so on to the one that failed.
fn culprit<'a>(state: &'a State, dead: &'a Job) -> &'a Job {
    let mut found = dead;
    // Jobs do not wait for each other in a circle; the bound is for whoever changes that.
    for _ in 0..state.jobs_len() {
        let next = state.wait(&found.spec.id).and_then(|wait| wait.dead.first().copied());
        match next {
            Some(next) if found.state == JobState::Needed => found = next,
            Some(_) | None => break,
        }
    }
    found
}

/// Why a job waits for others, if it does.
fn why_gated(state: &State, job: &Job) -> Option<String> {
    let wait = state.wait(&job.spec.id)?;
    if let Some(leader) = job.joined {
        return Some(format!("job {leader} does the same; this one ends with it"));
    }
    if let Some(dead) = wait.dead.first() {
        let culprit = culprit(state, dead);
        let (target, id) = (&culprit.spec.target, culprit.spec.id);
        let reason = culprit.reason.as_deref().unwrap_or("it did not succeed");
        let through =
            if culprit.spec.id == dead.spec.id { String::new() } else { format!(" (for {})", dead.spec.target) };
        return Some(format!("it needs {target}{through}, job {id}, which is {}: {reason}", word(culprit.state)));
    }
    if wait.lost {
        return Some("it needs a job that failed and is forgotten".to_owned());
    }
    let count = wait.pending.len();
    let jobs = if count == 1 { "job" } else { "jobs" };
    Some(format!("it waits for {count} {jobs}: {}", named(&wait.pending)))
}

fn word(state: JobState) -> &'static str {
    match state {
        JobState::Needed => "waiting",
        JobState::Delegated => "being built",
        JobState::Received => "done",
        JobState::Blocked => "blocked",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
        JobState::Quarantined => "quarantined",
    }
}

fn who(decision: &Decision) -> String {
    let why = if decision.why.is_empty() { String::new() } else { format!(" ({})", decision.why) };
    format!("{}{why}", decision.by)
}

/// One sentence about a job that is `needed`.
pub(super) fn why_waiting(
    state: &State,
    job: &Job,
    needs: &Needs,
    drones: &[Drone<'_>],
    view: &View,
    hive_ms: u64,
) -> String {
    if let Some(why) = why_gated(state, job) {
        return why;
    }
    if let Some(paused) = state.paused() {
        return format!("the queue was paused by {}", who(paused));
    }
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
        let free = fresh.iter().any(|drone| drone.free() > 0 && drone.holds(job));
        return if free {
            "it is next".to_owned()
        } else if fresh.iter().any(|drone| drone.free() > 0) {
            "the memory that it may use is taken by other builds, on every drone that fits".to_owned()
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
    let able: Vec<&Drone<'_>> = able.collect();
    if able.iter().any(|drone| matches!(drone.unfit_for(needs), Some(Unfit::Tree(_)))) {
        let tree = needs.labels.iter().find_map(|label| label.strip_prefix("tree:")).unwrap_or_default();
        return format!("no drone that can take work has the package tree that it was resolved with: {tree}");
    }
    let lacking = able.iter().filter_map(|drone| match drone.unfit_for(needs) {
        Some(Unfit::Lacks(what)) => Some(what),
        Some(Unfit::Memory(needed_mb)) => Some(vec![format!("{needed_mb} MiB of memory")]),
        Some(Unfit::Cores(needed)) => Some(vec![format!("{needed} processors")]),
        Some(Unfit::Disk(needed_mb)) => Some(vec![format!("{needed_mb} MiB of free disk")]),
        Some(
            Unfit::NotAlive
            | Unfit::Silent
            | Unfit::TakesNoBuilds
            | Unfit::Grounded(_)
            | Unfit::CannotUpload(_)
            | Unfit::Paused(_)
            | Unfit::Draining(_)
            | Unfit::DiskLow
            | Unfit::Sweeps
            | Unfit::Syncing
            | Unfit::PackagesOnly
            | Unfit::Tree(_)
            | Unfit::NoSlots,
        )
        | None => None,
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
            let again = match job.block_until_ms {
                Some(until_ms) => format!("; it is tried again in {} s", seconds(until_ms, hive_ms)),
                None => String::new(),
            };
            let remedy = format!("mend the cause, then: hive control unblock {}", job.spec.id);
            return done(format!("blocked: {}{again}", reason()), &remedy);
        }
        JobState::Failed => {
            let remedy = format!("mend the cause, then: hive control retry_failures {}", job.spec.id);
            return done(format!("failed: {}", reason()), &remedy);
        }
        JobState::Cancelled => return done(format!("cancelled: {}", reason()), "queue it anew"),
        JobState::Quarantined => {
            let id = job.spec.id;
            let remedy = format!(
                "look at the logs of its attempts; when it is not what kills the drones: hive control retry_failures {id}"
            );
            return done(format!("quarantined: {}", reason()), &remedy);
        }
    }
    let summary = why_waiting(state, job, &needs, drones, view, hive_ms);
    if let Some(wait) = state.wait(&job.spec.id) {
        return Explanation { subject, summary, lines: wait_lines(&wait), remedy: wait_remedy(state, &wait) };
    }
    let lines = drones.iter().map(|drone| job_line(job, &needs, drone, hive_ms)).collect();
    let remedy = if state.paused().is_some() {
        "hive control resume".to_owned()
    } else if drones.iter().any(|drone| drone.unfit_for(&needs).is_none()) {
        String::new()
    } else {
        remedy_for(job, &needs, drones)
    };
    Explanation { subject, summary, lines, remedy }
}

/// What it waits for, what is dead first.
fn wait_lines(wait: &Wait<'_>) -> Vec<ExplanationLine> {
    let dead = |job: &Job| wait.dead.iter().any(|dead| dead.spec.id == job.spec.id);
    let mut jobs = wait.pending.clone();
    jobs.sort_by_key(|job| (!dead(job), job.ordinal));
    let line = |job: &&Job| ExplanationLine {
        name: format!("{} {}", job.spec.id, job.spec.target),
        eligible: !dead(job),
        why: match &job.reason {
            Some(reason) => format!("{}: {reason}", word(job.state)),
            None => word(job.state).to_owned(),
        },
    };
    jobs.iter().take(JOBS_SHOWN_MAX).map(line).collect()
}

fn wait_remedy(state: &State, wait: &Wait<'_>) -> String {
    match wait.dead.first().map(|dead| culprit(state, dead)) {
        Some(culprit) if culprit.state == JobState::Cancelled => {
            "what it needs was cancelled: cancel it, too, and queue both anew".to_owned()
        }
        Some(culprit) => format!("mend the cause, then: hive control retry_failures {}", culprit.spec.id),
        None if wait.lost => "cancel it and queue it anew".to_owned(),
        None => String::new(),
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
fn remedy_for(job: &Job, needs: &Needs, drones: &[Drone<'_>]) -> String {
    let effort = |unfit: &Unfit| match unfit {
        Unfit::Grounded(_) | Unfit::CannotUpload(_) | Unfit::Paused(_) | Unfit::Draining(_) => 0,
        Unfit::NotAlive | Unfit::Silent | Unfit::DiskLow | Unfit::Syncing => 1,
        // One that can still come to that tree is nearer than one that is past it.
        Unfit::Tree(mismatch) if !mismatch.is_past() => 1,
        Unfit::Tree(_) => 2,
        Unfit::Lacks(what) => 1 + what.len(),
        Unfit::TakesNoBuilds | Unfit::NoSlots => 40,
        Unfit::Sweeps => 39,
        Unfit::Memory(_) | Unfit::Cores(_) | Unfit::Disk(_) => 41,
        Unfit::PackagesOnly => 42,
    };
    let lacking = drones.iter().filter_map(|drone| drone.unfit_for(needs).map(|unfit| (drone, unfit)));
    match lacking.min_by_key(|(_, unfit)| effort(unfit)) {
        Some((_, Unfit::Tree(mismatch))) if mismatch.is_past() => format!(
            "hive session cancel {}, and queue it anew: it is then resolved with a tree that drones have",
            job.session
        ),
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
        let why = if line.eligible { why_waiting(state, job, needs, drones, view, hive_ms) } else { line.why };
        ExplanationLine { name: format!("{} {}", job.spec.id, job.spec.target), eligible: line.eligible, why }
    });
    let lines: Vec<ExplanationLine> = running.chain(open).collect();
    let fits_some = waiting.iter().any(|(needs, _)| drone.unfit_for(needs).is_none());
    let (summary, remedy) = match drone.why_not() {
        Some(unfit) => (format!("it gets no work: {unfit}"), unfit.remedy(drone.name)),
        None if state.paused().is_some() => {
            let by = state.paused().map(who).unwrap_or_default();
            (format!("it gets no work: the queue was paused by {by}"), "hive control resume".to_owned())
        }
        None if taken >= total => (format!("all of its {total} slots are taken"), String::new()),
        None if waiting.is_empty() => (format!("{taken} of {total} slots taken; no job waits"), String::new()),
        None if !fits_some => {
            let unfit = waiting.iter().find_map(|(needs, _)| drone.unfit_for(needs));
            let remedy = unfit.map(|unfit| unfit.remedy(drone.name)).unwrap_or_default();
            (format!("{taken} of {total} slots taken; none of the first waiting jobs fits it"), remedy)
        }
        None => (format!("{taken} of {total} slots taken; it gets work"), String::new()),
    };
    let summary = format!("{summary}{}", drone.tree_words());
    Explanation { subject: drone.name.to_owned(), summary, lines, remedy }
}

fn running_line(job: &Job, attempt: &Attempt) -> ExplanationLine {
    let why = format!("attempt {} is with it", attempt.attempt);
    ExplanationLine { name: format!("{} {}", job.spec.id, job.spec.target), eligible: true, why }
}
