//! Who builds what next: a pure planner that reads the state and returns commands and a report why.
//!
//! ```text
//!   State (jobs, members) ──┐
//!   View (who is alive, …) ─┼─► plan ──► Lose, EndBlock, Control, Revoke, Assign     proposed by the coordinator
//!   Leases ─────────────────┘      └───► Report     shown to people; `explain` says more about one job or drone
//! ```
//!
//! The policy is simple and total. Which job: see `assign`. Which drone: alive, takes builds, has what the job needs, is not
//! paused, grounded or short of disk; of those first the ones that did not lose or return it, then the one with most free
//! slots, then the least loaded, then by name. A drone on which a pure job failed to build gets it again only when no other
//! drone could ever have it, and after a pause. Never done here: changing anything, reading a clock, asking a drone.

mod assign;
mod explain;
mod fit;
mod leases;

use std::collections::BTreeMap;

use super::command::Command;
use super::control::{Control, Jobs};
use super::id::{JobId, PeerId};
use super::legacy::LEGACY_LEASE_MS;
use super::state::State;
use super::trees::TreeSync;

pub use self::explain::{Explanation, ExplanationLine, Subject, explain, explain_job, waiting_for};
pub use self::fit::{Slots, Unfit, slots, wanted_tree, wanted_trees};
pub use self::leases::{
    DRONE_STOPS_AFTER_MS, LEASE_MS, LEASES_MAX, LeaseAnswer, LeaseAsked, LeasePhase, Leases, PURE_AFTER_DOWN_MS,
    RENEW_EVERY_MS, drone_must_stop,
};

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
    /// The failure detector holds it alive.
    pub alive: bool,
    /// Since when it is down, by the clock of `now_ms`; none while it is alive or was never seen.
    pub down_since_ms: Option<u64>,
    /// Its role takes builds.
    pub takes_builds: bool,
    /// Slots that it or its operator set; none: by its processors.
    pub slots: Option<u32>,
    /// Load average over one minute, in percent of its processors.
    pub load_percent: u32,
    /// Of a drone of the Python swarm: attempts that it is to have beyond the one it works on, as it ends them fast; 0: the usual number.
    pub ahead: u32,
    /// Space that is free where it builds, MiB; none: not known.
    pub disk_free_mb: Option<u64>,
    /// Its disk is so full that builds would end for want of space.
    pub disk_low: bool,
    /// The last sync of its package tree.
    pub sync: Option<TreeSync>,
}

/// Settings of the scheduler.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Processors per slot. A build that uses all processors gains little beyond two attempts side by side; one slot for
    /// two processors keeps small machines busy while one attempt waits for the network.
    pub cores_per_slot: u32,
    /// Attempts that a drone is given beyond its slots, so that the next one is there when one ends.
    pub prefetch: u32,
    /// How long an attempt of a drone of the Python swarm is believed in without a word of it, milliseconds.
    pub legacy_lease_ms: u64,
    /// Most assignments in one plan: one batch of the log.
    pub assignments_max: usize,
    /// Waiting jobs whose reason the report holds; of the others `explain` tells it.
    pub report_jobs_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cores_per_slot: 2,
            prefetch: 0,
            legacy_lease_ms: LEGACY_LEASE_MS,
            assignments_max: 256,
            report_jobs_max: 100,
        }
    }
}

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
    /// In this order: what is given up, what may be tried again, what is taken back, what is assigned.
    pub commands: Vec<Command>,
    /// Why things are as they are.
    pub report: Report,
}

/// Why jobs wait and drones idle.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is being assigned.
    pub assigned: BTreeMap<JobId, PeerId>,
    /// What is given up or taken back, and why.
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

/// Who acts when nobody does.
const BY_HIVE: &str = "hive";

/// Plans. `leases` learns of new attempts on the way.
pub fn plan(state: &State, view: &View, leases: &mut Leases, now: Now, settings: &Settings) -> Plan {
    let mut plan = Plan::default();
    leases.follow(state, now.now_ms);
    give_up_expired(state, view, leases, now, settings, &mut plan);
    end_blocks(state, now, settings, &mut plan);
    end_drains(state, now, &mut plan);
    end_sessions(state, &mut plan);
    let mut drones = fit::drones(state, view, settings, now.hive_ms);
    if state.paused().is_none() {
        assign::assign(state, view, &mut drones, now, settings, &mut plan);
        assign::sweep(state, view, &mut drones, settings, &mut plan);
        assign::rebalance(state, leases, &drones, now, &mut plan);
    }
    assign::report_waiting(state, view, &drones, now, settings, &mut plan);
    for drone in &drones {
        let why_not = drone.why_not().map(|unfit| unfit.to_string());
        plan.report.drones.insert(drone.peer.clone(), DroneReport { slots: drone.slots, why_not });
        if let Some((until_ms, why)) = drone.works_again {
            plan.wake(now.now_ms + until_ms.saturating_sub(now.hive_ms), why);
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

    /// Whether this plan ends the attempt of a job.
    fn gives_up(&self, job: &JobId) -> bool {
        self.report.lost.contains_key(job)
    }
}

fn give_up_expired(state: &State, view: &View, leases: &Leases, now: Now, settings: &Settings, plan: &mut Plan) {
    for peer in state.busy_nodes() {
        let machine = state.machine(peer);
        let (gone, legacy) = (machine.is_none(), machine.is_some_and(|machine| machine.legacy));
        let down_since_ms = if gone { Some(0) } else { view.drones.get(peer).and_then(|drone| drone.down_since_ms) };
        for (job, attempt) in state.live_attempts(peer) {
            let expiry = if legacy {
                leases.expiry_of_legacy(&attempt.token, settings.legacy_lease_ms)
            } else {
                leases.expiry(&attempt.token, job.spec.pure, down_since_ms)
            };
            if legacy && !is_alive(view, peer) && leases.is_unasked(&attempt.token) {
                // It was never told of it, and does not ask.
                let reason = format!("{} does not ask for work any more", state.name_of(peer));
                plan.report.lost.insert(job.spec.id, reason.clone());
                plan.commands.push(Command::Revoke { job: job.spec.id, token: attempt.token, reason });
                continue;
            }
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

fn is_alive(view: &View, peer: &PeerId) -> bool {
    view.drones.get(peer).is_some_and(|drone| drone.alive)
}

/// Blocks for failures end by themselves.
fn end_blocks(state: &State, now: Now, settings: &Settings, plan: &mut Plan) {
    for (until_ms, job) in state.aging_blocks().take(settings.assignments_max) {
        if until_ms > state.hive_time_ms().max(now.hive_ms) {
            plan.wake(now.now_ms + (until_ms - now.hive_ms), "a block");
            break;
        }
        plan.commands.push(Command::EndBlock { job: job.spec.id });
    }
}

/// Of a large session that was cancelled, the rest.
fn end_sessions(state: &State, plan: &mut Plan) {
    for (id, session) in state.ending_sessions() {
        let action = Control::CancelSession { session: *id };
        let why = session.why.clone().unwrap_or_default();
        plan.commands.push(Command::Control { action, by: BY_HIVE.to_owned(), why });
    }
}

/// What still runs on a drone that was to be empty by now goes elsewhere.
fn end_drains(state: &State, now: Now, plan: &mut Plan) {
    for peer in state.busy_nodes() {
        let drain = state.drone_record(peer).drain.as_ref();
        let Some(deadline_ms) = drain.and_then(|drain| drain.deadline_hive_ms) else { continue };
        if deadline_ms > now.hive_ms {
            plan.wake(now.now_ms + (deadline_ms - now.hive_ms), "a drain");
            continue;
        }
        let why = format!("the time that {} had to be drained is over", state.name_of(peer));
        for (job, _) in state.live_attempts(peer) {
            if plan.gives_up(&job.spec.id) {
                continue;
            }
            plan.report.lost.insert(job.spec.id, why.clone());
            let action = Control::Reclaim { jobs: Jobs::One(job.spec.id), running: true };
            plan.commands.push(Command::Control { action, by: BY_HIVE.to_owned(), why: why.clone() });
        }
    }
}
