//! Which job goes where.
//!
//! Waiting jobs lie in buckets (needs, priority, session). The next job comes from the bucket with the highest priority, where
//! one that got nothing for ten minutes counts as one higher, and so on, so that none waits for ever; among those from the
//! session that has least under way; within the bucket the one at the head of the longest chain of others. Drones get work
//! for their free slots first, then a little more, so that the next attempt is there when one ends.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::fit::Drone;
use super::{Leases, Now, Plan, Settings, View, explain};
use crate::engine::command::Command;
use crate::engine::id::{JobId, SessionId};
use crate::engine::job::{AttemptState, Job, Needs};
use crate::engine::state::{Bucket, State};

/// Waiting jobs of one bucket that one plan looks at beyond those it can assign. Jobs are passed over only while they pause
/// after a failure, so this many in front of others delay those by minutes at most.
const PASSED_OVER_MAX: usize = 2_000;
/// A bucket that got nothing for so long counts as one priority higher.
const AGE_STEP_MS: u64 = 600_000;
/// Attempts that one plan takes back from busy drones.
const REVOKED_MAX: usize = 16;

/// Priority with age; then the session with least under way; then the longest chain; then the order of submission. The position
/// of the bucket ends every tie.
type Rank = (i64, Reverse<u64>, u64, Reverse<u64>, Reverse<usize>);

struct Queue<'a> {
    bucket: Bucket<'a>,
    jobs: Box<dyn Iterator<Item = &'a Job> + 'a>,
    next: Option<&'a Job>,
    passed_over: usize,
}

/// Positions of the drones that fit, free or not, by needs. Made when the first job with these needs has its turn.
type Fitting<'a> = BTreeMap<&'a Needs, Vec<usize>>;

/// Gives waiting jobs to drones: first for free slots, then ahead.
pub(super) fn assign(
    state: &State,
    view: &View,
    drones: &mut [Drone<'_>],
    now: Now,
    settings: &Settings,
    plan: &mut Plan,
) {
    if drones.iter().all(|drone| drone.room(settings.prefetch) == 0) {
        return;
    }
    let mut given: BTreeMap<SessionId, u64> = BTreeMap::new();
    for ahead in [0, settings.prefetch] {
        if ahead == 0 || plan.report.assigned.len() < settings.assignments_max {
            assign_up_to(state, view, drones, now, settings, ahead, &mut given, plan);
        }
        if settings.prefetch == 0 {
            break;
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one pass over what a plan is made of")]
fn assign_up_to<'a>(
    state: &'a State,
    view: &View,
    drones: &mut [Drone<'_>],
    now: Now,
    settings: &Settings,
    ahead: u32,
    given: &mut BTreeMap<SessionId, u64>,
    plan: &mut Plan,
) {
    let mut queues: Vec<Queue<'a>> = state
        .buckets()
        .map(|bucket| {
            let mut jobs: Box<dyn Iterator<Item = &'a Job> + 'a> = Box::new(bucket.jobs());
            let next = jobs.next();
            Queue { bucket, jobs, next, passed_over: 0 }
        })
        .collect();
    let under_way = |session: &SessionId, given: &BTreeMap<SessionId, u64>| {
        state.session_counts(session).delegated + given.get(session).copied().unwrap_or(0)
    };
    let rank = |queue: &Queue<'_>, position: usize, given: &BTreeMap<SessionId, u64>| -> Rank {
        let age = now.hive_ms.saturating_sub(queue.bucket.unserved_since_ms) / AGE_STEP_MS;
        let priority = i64::from(queue.bucket.priority) + i64::try_from(age).unwrap_or(i64::MAX >> 1);
        let ordinal = queue.next.map_or(u64::MAX, |job| job.ordinal);
        let under_way = under_way(&queue.bucket.session, given);
        (priority, Reverse(under_way), queue.bucket.urgency_ms(), Reverse(ordinal), Reverse(position))
    };
    let mut heads: BinaryHeap<Rank> =
        queues.iter().enumerate().map(|(position, queue)| rank(queue, position, given)).collect();
    let mut fitting: Fitting<'a> = BTreeMap::new();
    let mut room: u32 = drones.iter().map(|drone| drone.room(ahead)).sum();
    while let Some(head) = heads.pop() {
        if room == 0 || plan.report.assigned.len() >= settings.assignments_max {
            return;
        }
        let position = head.4.0;
        let Some(queue) = queues.get_mut(position) else { continue };
        let current = rank(queue, position, given);
        if current != head {
            // Another bucket of its session was served meanwhile.
            heads.push(current);
            continue;
        }
        let Some(job) = queue.next else { continue };
        let fitting = fitting.entry(queue.bucket.needs).or_insert_with(|| {
            let all = drones.iter().enumerate();
            all.filter(|(_, drone)| drone.unfit_for(queue.bucket.needs).is_none()).map(|(at, _)| at).collect()
        });
        match choose(job, fitting, drones, view, now, ahead, plan) {
            Choice::Take(drone) => {
                if let Some(drone) = drones.get_mut(drone) {
                    drone.take(job);
                    room -= 1;
                    *given.entry(queue.bucket.session).or_default() += 1;
                    plan.report.assigned.insert(job.spec.id, drone.peer.clone());
                    plan.commands.push(Command::Assign { job: job.spec.id, node: drone.peer.clone() });
                }
            }
            Choice::PassOver(until_hive_ms) => {
                queue.passed_over += 1;
                if let Some(until) = until_hive_ms {
                    plan.wake(now.now_ms + until.saturating_sub(now.hive_ms), "a pause after a failure");
                }
                if queue.passed_over > PASSED_OVER_MAX {
                    continue;
                }
            }
            // Nobody has room for any job of this bucket.
            Choice::NoRoom => continue,
        }
        queue.next = queue.jobs.next();
        heads.push(rank(queue, position, given));
    }
}

enum Choice {
    /// Position of the drone.
    Take(usize),
    /// Nothing for this job now; perhaps at this hive time. Others of its bucket may go.
    PassOver(Option<u64>),
    /// No drone that fits these needs has room.
    NoRoom,
}

fn choose(
    job: &Job,
    fitting: &[usize],
    drones: &[Drone<'_>],
    view: &View,
    now: Now,
    ahead: u32,
    plan: &Plan,
) -> Choice {
    if view.in_flight.contains_key(&job.spec.id) || plan.report.assigned.contains_key(&job.spec.id) {
        return Choice::PassOver(None);
    }
    let fitting = || fitting.iter().filter_map(|position| drones.get(*position).map(|drone| (*position, drone)));
    if !fitting().any(|(_, drone)| drone.room(ahead) > 0) {
        return Choice::NoRoom;
    }
    if job.not_before_ms > now.hive_ms {
        return Choice::PassOver(Some(job.not_before_ms));
    }
    let fresh_exists = fitting().any(|(_, drone)| !job.tally.failed_on.contains_key(drone.peer));
    let retry_at_ms = |drone: &Drone<'_>| match job.tally.failed_on.get(drone.peer) {
        None => Some(0),
        Some(_) if fresh_exists => None,
        Some(until) => Some(*until),
    };
    let usable = fitting().filter(|(_, drone)| {
        drone.room(ahead) > 0 && drone.holds(job) && retry_at_ms(drone).is_some_and(|at| at <= now.hive_ms)
    });
    let best = usable.min_by_key(|(_, drone)| {
        let lost_here = job.tally.lost_on.contains_key(drone.peer);
        (lost_here, Reverse(drone.room(ahead)), drone.load_percent, drone.name, drone.peer)
    });
    match best {
        Some((index, _)) => Choice::Take(index),
        None => {
            let later = fitting().filter_map(|(_, drone)| retry_at_ms(drone)).filter(|at| *at > now.hive_ms);
            Choice::PassOver(later.min())
        }
    }
}

/// Sweepers try again what others could not build, each job once per block.
pub(super) fn sweep(state: &State, view: &View, drones: &mut [Drone<'_>], settings: &Settings, plan: &mut Plan) {
    for drone in drones.iter_mut().filter(|drone| drone.sweeps) {
        let blocked = state.aging_blocks().map(|(_, job)| job).take(PASSED_OVER_MAX);
        for job in blocked {
            if drone.room_for_sweeping() == 0 || plan.report.assigned.len() >= settings.assignments_max {
                break;
            }
            let id = job.spec.id;
            let taken = view.in_flight.contains_key(&id) || plan.report.assigned.contains_key(&id);
            let tried = job.tally.failed_on.contains_key(drone.peer);
            if taken || tried || state.wait(&id).is_some() || drone.lacks(&job.spec.needs()).is_some() {
                continue;
            }
            drone.take(job);
            plan.report.assigned.insert(id, drone.peer.clone());
            plan.commands.push(Command::Assign { job: id, node: drone.peer.clone() });
        }
    }
}

/// Attempts that wait at a busy drone go to one that has nothing to do, when no waiting job can. Taken back here; the next plan
/// assigns them.
pub(super) fn rebalance(state: &State, leases: &mut Leases, drones: &[Drone<'_>], now: Now, plan: &mut Plan) {
    let mut idle: Vec<&Drone<'_>> = drones.iter().filter(|drone| drone.room(0) > 0 && !drone.sweeps).collect();
    let mut revoked = BTreeSet::new();
    for drone in drones.iter().filter(|drone| drone.slots.taken > drone.slots.total) {
        let surplus = drone.slots.taken - drone.slots.total;
        let unbegun = state.live_attempts(drone.peer).filter(|(job, attempt)| {
            attempt.state == AttemptState::Assigned && leases.is_unasked(&attempt.token) && !plan.gives_up(&job.spec.id)
        });
        // The last assigned has the longest to wait.
        let mut unbegun: Vec<_> = unbegun.collect();
        unbegun.sort_by_key(|(_, attempt)| Reverse(attempt.token.counter));
        for (job, attempt) in unbegun.into_iter().take(surplus as usize) {
            let tally = &job.tally;
            let fits = |other: &&Drone<'_>| {
                let failed_here = tally.failed_on.contains_key(other.peer) || tally.lost_on.contains_key(other.peer);
                !failed_here && other.unfit_for(&job.spec.needs()).is_none() && other.holds(job)
            };
            let Some(position) = idle.iter().position(fits) else { continue };
            if revoked.len() >= REVOKED_MAX {
                return;
            }
            let target = idle.swap_remove(position);
            let reason = format!("{} is busy and {} is not", drone.name, target.name);
            revoked.insert(attempt.token);
            leases.revoke(attempt.token, now.now_ms);
            plan.report.lost.insert(job.spec.id, reason.clone());
            plan.commands.push(Command::Revoke { job: job.spec.id, token: attempt.token, reason });
        }
    }
}

pub(super) fn report_waiting(
    state: &State,
    view: &View,
    drones: &[Drone<'_>],
    now: Now,
    settings: &Settings,
    plan: &mut Plan,
) {
    let assigned: BTreeSet<JobId> = plan.report.assigned.keys().copied().collect();
    let waiting = state.waiting().flat_map(|(needs, jobs)| {
        jobs.filter(|job| !assigned.contains(&job.spec.id)).take(settings.report_jobs_max).map(move |job| (needs, job))
    });
    for (needs, job) in waiting.take(settings.report_jobs_max) {
        let why = explain::why_waiting(state, job, needs, drones, view, now.hive_ms);
        plan.report.waiting.insert(job.spec.id, why);
    }
}
