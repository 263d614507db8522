//! One run: faults and work, then everything is mended, then it has to end well. And what is done with a run that fails: it is
//! made as short as it can be, and said how to repeat it.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hive::engine::id::HiveId;

use super::invariants::{Violation, liveness};
use super::schedule::Schedule;
use super::world::{Counts, World};

/// A leader is there so long after the last fault.
const LEADER_MS: u64 = 10_000;
/// Everything is over so long after the last fault, hours that are slept not counted.
const END_MS: u64 = 400_000;
/// Sleeps of half an hour: more than all blocks of a job take.
const SLEEPS_MAX: u64 = 60;
/// Runs that are spent on making a failure shorter.
const SHRINKS_MAX: usize = 150;

/// Why a run failed, and where.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) violation: Violation,
    pub(crate) step: u64,
    pub(crate) at_ms: u64,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) failure: Option<Failure>,
    pub(crate) counts: Counts,
    pub(crate) trace: u64,
    pub(crate) steps: u64,
}

impl Report {
    /// Why this run proves nothing, if it does not: too little happened.
    pub(crate) fn invalid(&self) -> Option<&'static str> {
        let bit = ["crashes", "pauses", "cuts", "messages lost", "messages repeated", "false verdicts of the detector"];
        if self.steps < 2_000 {
            Some("fewer than 2,000 events")
        } else if self.counts.get("jobs received") < 3 {
            Some("fewer than 3 jobs were done")
        } else if bit.iter().all(|fault| self.counts.get(fault) == 0) {
            Some("no fault bit")
        } else {
            None
        }
    }
}

pub(crate) fn run(schedule: &Schedule, verbose: bool) -> Report {
    let mut world = World::new(schedule.seed, schedule);
    world.verbose = verbose;
    let result = catch_unwind(AssertUnwindSafe(|| live(&mut world, schedule.safety_ms)));
    let violation = match result {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let what = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
            Some(Violation { invariant: "no panic", what })
        }
    };
    let failure = violation.map(|violation| Failure { violation, step: world.steps, at_ms: world.now_ms });
    let (lost, repeated, blocked) = (world.net.lost, world.net.duplicated, world.net.blocked);
    world.counts.add("messages lost", lost);
    world.counts.add("messages repeated", repeated);
    world.counts.add("messages cut", blocked);
    world.counts.add("effects begun", world.checker.effects.begun);
    world.counts.add("events", world.steps);
    for truth in world.checker.truths.values() {
        let counts = truth.state.counts();
        world.counts.add("jobs", counts.total());
        world.counts.add("jobs received", counts.received);
        world.counts.add("jobs failed", counts.failed);
        world.counts.add("jobs cancelled", counts.cancelled);
        world.counts.add("jobs quarantined", counts.quarantined);
        world.counts.add("jobs blocked in the end", counts.blocked);
    }
    Report { failure, counts: world.counts, trace: world.trace, steps: world.steps }
}

fn live(world: &mut World, safety_ms: u64) -> Result<(), Violation> {
    while world.now_ms < safety_ms && world.step()? {}
    world.heal();
    let healed_ms = world.now_ms;
    world.checker.hives.quiet_since_ms = Some(healed_ms);
    let (mut looked_ms, mut tidied_ms, mut sleeps) = (healed_ms, None::<u64>, 0);
    loop {
        world.step()?;
        let now_ms = world.now_ms;
        if now_ms < looked_ms + 250 {
            continue;
        }
        looked_ms = now_ms;
        let mut awaited = None;
        for hive in hives(world) {
            awaited = awaited.or(liveness::awaited(world, hive));
        }
        let led = hives(world).iter().all(|hive| leads(world, *hive));
        if !led && now_ms > healed_ms + LEADER_MS {
            return Err(liveness::too_late(format!("no leader {LEADER_MS} ms after the last fault")));
        }
        if led && now_ms > healed_ms + 3_000 && untidy(world, tidied_ms) {
            for hive in hives(world) {
                let leader =
                    world.nodes.iter().find(|node| node.leads() && node.hive() == Some(hive)).map(|node| node.ix);
                if let Some(leader) = leader {
                    world.tidy_up(leader);
                }
            }
            tidied_ms = Some(now_ms);
        }
        let Some(awaited) = awaited else {
            if tidied_ms.is_some_and(|at_ms| now_ms > at_ms + 1_000) {
                break;
            }
            continue;
        };
        if now_ms > healed_ms + END_MS {
            return Err(liveness::too_late(format!("still not over {END_MS} ms after the last fault: {awaited}")));
        }
        if sleeps < SLEEPS_MAX && hives(world).iter().any(|hive| liveness::only_time_helps(world, *hive)) {
            // Leases of attempts under way would all run out at once.
            let busy =
                |hive: &HiveId| world.checker.truth(*hive).is_some_and(|truth| truth.state.counts().delegated > 0);
            if !hives(world).iter().any(busy) {
                sleeps += 1;
                world.slept_ms += 1_801_000;
                world.counts.add("half hours slept", 1);
            }
        }
    }
    for hive in hives(world) {
        liveness::check_end(world, hive)?;
    }
    Ok(())
}

/// Hives that somebody belongs to.
fn hives(world: &World) -> BTreeSet<HiveId> {
    world.nodes.iter().filter_map(super::node::Node::hive).collect()
}

fn leads(world: &World, hive: HiveId) -> bool {
    world.nodes.iter().any(|node| node.leads() && node.hive() == Some(hive))
}

/// Operators' decisions stand in the way, or nobody has looked since the faults ended.
fn untidy(world: &World, tidied_ms: Option<u64>) -> bool {
    let Some(at_ms) = tidied_ms else { return true };
    let stands = world.checker.truths.values().any(|truth| {
        let members = truth.state.members().map(|member| truth.state.drone_record(&member.info.peer_id));
        truth.state.paused().is_some()
            || members.into_iter().any(|record| record.paused.is_some() || record.drain.is_some())
    });
    stands && world.now_ms > at_ms + 6_000
}

/// Leaves out of a failing run what it does not need to fail.
pub(crate) fn shrink(schedule: &Schedule, failure: &Failure) -> Vec<usize> {
    let mut keep: Vec<usize> = (0..schedule.actions.len()).collect();
    let mut runs = 0;
    let mut chunk = keep.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut left_out = false;
        while at < keep.len() && runs < SHRINKS_MAX {
            let mut fewer = keep.clone();
            fewer.drain(at..(at + chunk).min(keep.len()));
            runs += 1;
            let again = run(&schedule.keeping(&fewer), false).failure;
            if again.is_some_and(|again| again.violation.invariant == failure.violation.invariant) {
                keep = fewer;
                left_out = true;
            } else {
                at += chunk;
            }
        }
        if runs >= SHRINKS_MAX || (chunk == 1 && !left_out) {
            return keep;
        }
        chunk = (chunk / 2).max(1);
    }
}

/// Everything that a person needs to go on.
pub(crate) fn explain(schedule: &Schedule, failure: &Failure) -> String {
    let keep = shrink(schedule, failure);
    let short = schedule.keeping(&keep);
    let again = run(&short, false).failure.unwrap_or_else(|| failure.clone());
    let numbers: Vec<String> = keep.iter().map(ToString::to_string).collect();
    let actions: Vec<String> =
        short.actions.iter().map(|(at_ms, action)| format!("  {at_ms:>6} ms  {action:?}")).collect();
    format!(
        "seed {seed}: invariant \"{}\" does not hold at step {}, {} ms\n{}\nwith {} nodes and only these of {} actions, at step {}: {}\n{}\nrepeat it: SIM_SEED={seed} SIM_KEEP={} cargo test --no-default-features --test sim one_seed -- --ignored --nocapture",
        failure.violation.invariant,
        failure.step,
        failure.at_ms,
        failure.violation.what,
        schedule.nodes,
        schedule.actions.len(),
        again.step,
        again.violation.what,
        actions.join("\n"),
        numbers.join(","),
        seed = schedule.seed,
    )
}
