//! **L1, what happens in the end**: when the last fault is over there is a leader within 10 s; then everybody belongs to a hive and
//! has a role, all replicas are equal and no results wait; and every job is over, or blocked with a reason that names what only a
//! person can change. Blocks that end by themselves are waited for, in simulated hours.

use hive::engine::id::HiveId;
use hive::engine::job::{Job, JobState};
use hive::engine::session::SessionPhase;
use hive::engine::state::State;

use super::{Checked, Violation, hold};
use crate::sim::node::Node;
use crate::sim::world::World;

const NAME: &str = "liveness";

/// What is still to happen; none: all is well.
pub(crate) fn awaited(world: &World, hive: HiveId) -> Option<String> {
    let nodes: Vec<&Node> = world.nodes.iter().filter(|node| node.hive() == Some(hive)).collect();
    if !nodes.iter().any(|node| node.leads()) {
        return Some("nobody leads".to_owned());
    }
    let Some(truth) = world.checker.truth(hive) else { return Some("nothing is committed".to_owned()) };
    for node in &nodes {
        let ix = node.ix;
        let Some(life) = &node.life else { return Some(format!("node {ix} is down")) };
        if !node.is_member() {
            return Some(format!("node {ix} is no member"));
        }
        if life.wanted || node.disk.identity.is_none() {
            return Some(format!("node {ix} has no role"));
        }
        if life.applied.0 < truth.entries.len() as u64 {
            return Some(format!("node {ix} has applied {} of {}", life.applied.0, truth.entries.len()));
        }
        if !node.disk.outbox.is_empty() {
            return Some(format!("node {ix} has results that nobody took"));
        }
        if !life.imports.is_empty() {
            return Some(format!("node {ix} is importing"));
        }
    }
    let draft = truth.state.sessions().find(|(_, session)| session.phase == SessionPhase::Draft);
    if let Some((id, _)) = draft {
        return Some(format!("session {id} is a draft"));
    }
    let open = truth.state.jobs().find(|job| !is_settled(&truth.state, job));
    open.map(|job| format!("job {} is {:?}, wait {:?}", job.spec.target, job.state, why(&truth.state, job)))
}

/// Only blocks that end by themselves are awaited.
pub(crate) fn only_time_helps(world: &World, hive: HiveId) -> bool {
    let Some(truth) = world.checker.truth(hive) else { return false };
    // One that waits for a blocked one is shown as blocked, too.
    let waits = |job: &Job| truth.state.shown_state(job) == JobState::Blocked;
    let mut others = truth.state.jobs().filter(|job| !waits(job));
    others.all(|job| is_settled(&truth.state, job)) && truth.state.aging_blocks().next().is_some()
}

fn why(state: &State, job: &Job) -> Option<usize> {
    state.wait(&job.spec.id).map(|wait| wait.pending.len())
}

fn nobody_fits(state: &State, job: &Job) -> bool {
    let mut members = state.members().filter(|member| !member.left);
    !members.any(|member| job.spec.labels.is_subset(&member.info.inventory.labels))
}

/// Over, or nothing but a person helps.
fn is_settled(state: &State, job: &Job) -> bool {
    match job.state {
        JobState::Blocked => job.block_until_ms.is_none() && job.reason.is_some(),
        // Nobody here could ever do it: the machine that can has founded another hive.
        JobState::Needed if state.wait(&job.spec.id).is_none() && nobody_fits(state, job) => true,
        // It waits for one of which that is true, or for one that is over or blocked for good.
        JobState::Needed => state
            .wait(&job.spec.id)
            .is_some_and(|wait| wait.lost || wait.pending.iter().any(|waited| is_settled(state, waited))),
        JobState::Delegated => false,
        JobState::Received | JobState::Failed | JobState::Cancelled | JobState::Quarantined => true,
    }
}

pub(crate) fn too_late(what: String) -> Violation {
    Violation { invariant: NAME, what }
}

/// Everybody's copy is what its rows give, and all are equal.
pub(crate) fn check_end(world: &World, hive: HiveId) -> Checked {
    let truth = world.checker.truth(hive).expect("it lives");
    let mut chain = None;
    for node in world.nodes.iter().filter(|node| node.hive() == Some(hive)) {
        let life = node.life.as_ref().expect("it runs");
        let known = *chain.get_or_insert(life.state.chain());
        hold(known == life.state.chain(), "replicas", || format!("node {} ends with another chain", node.ix))?;
        let loaded = State::from_rows(life.state.rows()).expect("readable");
        hold(loaded.rows() == life.state.rows() && loaded.chain() == known, "replicas", || {
            format!("node {} is not what its rows give", node.ix)
        })?;
        hold(loaded.counts() == life.state.counts(), "indexes", || {
            format!("node {} counts otherwise after a restart", node.ix)
        })?;
    }
    super::indexes::check(&truth.state)?;
    world.checker.acknowledged.check_all(hive, &truth.state)
}
