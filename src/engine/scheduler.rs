//! Who builds what next: a pure planner that reads the state and returns commands and a report why.
//!
//! ```text
//!   State (jobs, members) ──┐
//!   View (who is alive, …) ─┼─► plan ──► Lose, Assign     proposed by the coordinator
//!   Leases ─────────────────┘      └───► Report           shown to people; `explain` says more about one job or drone
//! ```
//!
//! The policy is simple and total. Jobs: higher priority first, then the order of submission. Drones: alive, take builds, have
//! what the job needs, are not grounded; of those first the ones that were not lost while they had it, then the one with most free
//! slots, then the least loaded, then by name. A drone on which a pure job failed to build gets it again only when no other drone
//! could ever have it, and after a pause. Never done here: changing anything, reading a clock, asking a drone.

mod explain;
mod fit;
mod leases;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::command::Command;
use super::id::{JobId, PeerId};
use super::job::{Job, Needs};
use super::state::State;

pub use self::explain::{Explanation, ExplanationLine, Subject, explain, explain_job, waiting_for};
pub use self::fit::{Slots, Unfit};
pub use self::leases::{DRONE_STOPS_AFTER_MS, LEASE_MS, Leases, PURE_AFTER_DOWN_MS, RENEW_EVERY_MS, drone_must_stop};

use self::fit::Drone;

/// What the coordinator knows beside the replicated state.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// By drone. A member that is missing here counts as not alive.
    pub drones: BTreeMap<PeerId, DroneView>,
    /// Assignments that were proposed and not answered yet, so that no slot is given away twice.
    pub in_flight: BTreeMap<JobId, PeerId>,
}

/// What the coordinator knows of a drone beside the replicated state.
#[derive(Clone, Debug, Default)]
pub struct DroneView {
    /// The failure detector holds it alive, suspect included: suspicion passes or becomes *down* within seconds.
    pub alive: bool,
    /// Since when it is down, by the clock of `now_ms`; none while it is alive or was never seen.
    pub down_since_ms: Option<u64>,
    /// Its role takes builds.
    pub takes_builds: bool,
    /// Slots that it or its operator set; none: by its processors.
    pub slots: Option<u32>,
    /// Load average over one minute, in percent of its processors.
    pub load_percent: u32,
}

/// Settings of the scheduler.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Processors per slot. A build that uses all processors gains little beyond two attempts side by side; one slot for
    /// two processors keeps small machines busy while one attempt waits for the network.
    pub cores_per_slot: u32,
    /// Most assignments in one plan: one batch of the log.
    pub assignments_max: usize,
    /// Waiting jobs whose reason the report holds; of the others `explain` tells it.
    pub report_jobs_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cores_per_slot: 2, assignments_max: 256, report_jobs_max: 100 }
    }
}

/// Waiting jobs with equal needs that one plan looks at beyond those it can assign. Jobs are passed over only while they
/// pause after a failure, so this many in front of others delay those by minutes at most.
const PASSED_OVER_MAX: usize = 2_000;

/// Times of one plan.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic clock of this node.
    pub now_ms: u64,
    /// Hive time: that of the state, plus what has passed since its last entry.
    pub hive_ms: u64,
}

/// What to propose, and why.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// `Lose` first, then `Assign`.
    pub commands: Vec<Command>,
    /// Why things are as they are.
    pub report: Report,
}

/// Why jobs wait and drones idle.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is being assigned.
    pub assigned: BTreeMap<JobId, PeerId>,
    /// What is given up, and why.
    pub lost: BTreeMap<JobId, String>,
    /// Why the first waiting jobs wait.
    pub waiting: BTreeMap<JobId, String>,
    /// Every member that has not left.
    pub drones: BTreeMap<PeerId, DroneReport>,
    /// When to plan again though nothing happens, by the clock of `now_ms`, and what is awaited.
    pub wake: Option<(u64, &'static str)>,
}

/// What a drone has, and why it gets no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroneReport {
    /// Its slots, and how many are taken when the plan is carried out.
    pub slots: Slots,
    /// Why it gets nothing; none when it gets work as soon as there is any for it.
    pub why_not: Option<String>,
}

/// Plans. `leases` learns of new attempts on the way.
pub fn plan(state: &State, view: &View, leases: &mut Leases, now: Now, settings: &Settings) -> Plan {
    let mut plan = Plan::default();
    leases.follow(state, now.now_ms);
    give_up_expired(state, view, leases, now, &mut plan);
    let mut drones = fit::drones(state, view, settings, now.hive_ms);
    assign(state, view, &mut drones, now, settings, &mut plan);
    report_waiting(state, view, &drones, now, settings, &mut plan);
    for drone in &drones {
        let why_not = drone.why_not().map(|unfit| unfit.to_string());
        plan.report.drones.insert(drone.peer.clone(), DroneReport { slots: drone.slots, why_not });
        if drone.grounded_until_ms > now.hive_ms {
            plan.wake(now.now_ms + (drone.grounded_until_ms - now.hive_ms), "a grounded drone");
        }
    }
    plan
}

impl Plan {
    fn wake(&mut self, at_ms: u64, why: &'static str) {
        if self.report.wake.is_none_or(|(known, _)| at_ms < known) {
            self.report.wake = Some((at_ms, why));
        }
    }
}

fn give_up_expired(state: &State, view: &View, leases: &Leases, now: Now, plan: &mut Plan) {
    for peer in state.busy_nodes() {
        let gone = state.member(peer).is_none_or(|member| member.left);
        let down_since_ms = if gone { Some(0) } else { view.drones.get(peer).and_then(|drone| drone.down_since_ms) };
        for (job, attempt) in state.live_attempts(peer) {
            let expiry = leases.expiry(&attempt.token, job.spec.pure, down_since_ms);
            if now.now_ms < expiry.at_ms {
                plan.wake(expiry.at_ms, "a lease");
                continue;
            }
            let reason = format!("{}: {}", state.name_of(peer), expiry.why);
            plan.report.lost.insert(job.spec.id, reason.clone());
            plan.commands.push(Command::Lose { job: job.spec.id, token: attempt.token, reason });
        }
    }
}

/// The next job of each group of equal needs, best first.
struct Group<'a> {
    needs: &'a Needs,
    jobs: Box<dyn Iterator<Item = &'a Job> + 'a>,
    /// Positions of the drones that fit, free or not. Made when the first job of the group has its turn.
    fitting: Option<Vec<usize>>,
    passed_over: usize,
}

fn assign(state: &State, view: &View, drones: &mut [Drone<'_>], now: Now, settings: &Settings, plan: &mut Plan) {
    let mut groups: Vec<Group<'_>> = state
        .waiting()
        .map(|(needs, jobs)| Group { needs, jobs: Box::new(jobs), fitting: None, passed_over: 0 })
        .collect();
    // A heap of (priority, earlier submission, group) holds the head of every group.
    let mut heads = BinaryHeap::new();
    let mut jobs: BTreeMap<usize, &Job> = BTreeMap::new();
    let key = |job: &Job, group: usize| (job.spec.priority, std::cmp::Reverse(job.ordinal), group);
    for (index, group) in groups.iter_mut().enumerate() {
        if let Some(job) = group.jobs.next() {
            heads.push(key(job, index));
            jobs.insert(index, job);
        }
    }
    let mut free = drones.iter().map(Drone::free).sum::<u32>();
    while let Some((_, _, index)) = heads.pop() {
        let (Some(job), Some(group)) = (jobs.remove(&index), groups.get_mut(index)) else { continue };
        if free == 0 || plan.report.assigned.len() >= settings.assignments_max {
            break;
        }
        let fitting = group.fitting.get_or_insert_with(|| {
            let all = drones.iter().enumerate();
            all.filter(|(_, drone)| drone.unfit_for(group.needs).is_none()).map(|(position, _)| position).collect()
        });
        match choose(job, fitting, drones, view, now) {
            Choice::Take(drone) => {
                if let Some(drone) = drones.get_mut(drone) {
                    drone.slots.taken += 1;
                    free -= 1;
                    plan.report.assigned.insert(job.spec.id, drone.peer.clone());
                    plan.commands.push(Command::Assign { job: job.spec.id, node: drone.peer.clone() });
                }
            }
            Choice::PassOver(until_hive_ms) => {
                group.passed_over += 1;
                if let Some(until) = until_hive_ms {
                    plan.wake(now.now_ms + until.saturating_sub(now.hive_ms), "a pause after a failure");
                }
                if group.passed_over > PASSED_OVER_MAX {
                    continue;
                }
            }
            // Nobody has room for any job of this group.
            Choice::NoRoom => continue,
        }
        if let Some(next) = group.jobs.next() {
            heads.push(key(next, index));
            jobs.insert(index, next);
        }
    }
}

enum Choice {
    /// Position of the drone.
    Take(usize),
    /// Nothing for this job now; perhaps at this hive time. Others of its group may go.
    PassOver(Option<u64>),
    /// No drone that fits these needs has a free slot.
    NoRoom,
}

fn choose(job: &Job, fitting: &[usize], drones: &[Drone<'_>], view: &View, now: Now) -> Choice {
    if view.in_flight.contains_key(&job.spec.id) {
        return Choice::PassOver(None);
    }
    let fitting = || fitting.iter().filter_map(|position| drones.get(*position).map(|drone| (*position, drone)));
    if !fitting().any(|(_, drone)| drone.free() > 0) {
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
    let usable =
        fitting().filter(|(_, drone)| drone.free() > 0 && retry_at_ms(drone).is_some_and(|at| at <= now.hive_ms));
    let best = usable.min_by_key(|(_, drone)| {
        let lost_here = job.tally.lost_on.contains_key(drone.peer);
        (lost_here, std::cmp::Reverse(drone.free()), drone.load_percent, drone.name, drone.peer)
    });
    match best {
        Some((index, _)) => Choice::Take(index),
        None => {
            let later = fitting().filter_map(|(_, drone)| retry_at_ms(drone)).filter(|at| *at > now.hive_ms);
            Choice::PassOver(later.min())
        }
    }
}

fn report_waiting(state: &State, view: &View, drones: &[Drone<'_>], now: Now, settings: &Settings, plan: &mut Plan) {
    let assigned: BTreeSet<JobId> = plan.report.assigned.keys().copied().collect();
    let waiting = state.waiting().flat_map(|(needs, jobs)| {
        jobs.filter(|job| !assigned.contains(&job.spec.id)).take(settings.report_jobs_max).map(move |job| (needs, job))
    });
    for (needs, job) in waiting.take(settings.report_jobs_max) {
        let why = explain::why_waiting(job, needs, drones, view, now.hive_ms);
        plan.report.waiting.insert(job.spec.id, why);
    }
}
