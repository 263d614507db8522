//! The drones as people see them: what each has, may do and does.
//!
//! Never done here: giving them anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::legacy;
use super::shared::Shared;
use super::{coordinating, views};
use crate::api::{DecisionView, FleetBuild, FleetDrone, FleetView, MemberState};
use crate::clock::{now_ms, unix_now};
use crate::engine::forecast::{percent, remaining};
use crate::engine::id::{PeerId, UnixMillis};
use crate::engine::job::{Attempt, Job};
use crate::engine::legacy::{OFFLINE_AFTER_MS, Vitals};
use crate::engine::scheduler;
use crate::engine::state::{Decision, DroneRecord, Machine, State};

/// What is shown as the role of a drone of the old swarm.
pub(super) const LEGACY_ROLE: &str = "legacy";

/// A machine as far as it is looked up elsewhere than in the state.
pub(super) struct Known {
    pub(super) state: MemberState,
    pub(super) load: Option<f64>,
    pub(super) role: Option<String>,
}

/// When it is looked at.
#[derive(Clone, Copy)]
pub(super) struct When {
    /// Hive time.
    pub(super) hive_ms: u64,
    /// By the clock.
    pub(super) at: UnixMillis,
}

/// `hive fleet`.
pub(super) async fn fleet(shared: &Arc<Shared>) -> FleetView {
    let heard = legacy::heard(shared).await;
    let slots = slots(shared);
    let now_ms = now_ms();
    let when = When { hive_ms: shared.hive_ms(now_ms), at: unix_now() };
    let peers: Vec<(PeerId, bool)> =
        shared.read(|state| state.machines().map(|machine| (machine.peer.clone(), machine.legacy)).collect());
    let known =
        |peer: &PeerId, legacy: bool| if legacy { of_legacy(heard.get(peer), now_ms) } else { of_member(shared, peer) };
    let known: Vec<(PeerId, Known)> =
        peers.into_iter().map(|(peer, legacy)| (peer.clone(), known(&peer, legacy))).collect();
    let mut drones: Vec<FleetDrone> = shared.read(|state| {
        let shown = known.into_iter().filter_map(|(peer, known)| {
            let machine = state.machine(&peer)?;
            let slots = slots.get(&peer).copied().unwrap_or(0);
            Some(drone(state, &machine, known, slots, when))
        });
        shown.collect()
    });
    drones.sort_by(|left, right| left.name.cmp(&right.name));
    FleetView { drones, paused: shared.read(|state| state.paused().map(decision)) }
}

fn of_member(shared: &Shared, peer: &PeerId) -> Known {
    let own = *peer == shared.me.peer_id;
    let report =
        if own { Some(views::own_report(shared)) } else { shared.soft(|soft| soft.reports.get(peer).cloned()) };
    Known {
        state: shared.liveness(peer),
        load: report.map(|report| f64::from(report.load_centi) / 100.0),
        role: shared.read(|state| state.member(peer).and_then(views::role_of)),
    }
}

fn of_legacy(heard: Option<&(u64, Vitals)>, now_ms: u64) -> Known {
    let alive = heard.is_some_and(|(heard_ms, _)| now_ms.saturating_sub(*heard_ms) < OFFLINE_AFTER_MS);
    Known {
        state: if alive { MemberState::Alive } else { MemberState::Down },
        load: heard.and_then(|(_, vitals)| vitals.load_centi).map(|load| f64::from(load) / 100.0),
        role: Some(LEGACY_ROLE.to_owned()),
    }
}

/// A machine with what it does.
pub(super) fn drone(state: &State, machine: &Machine<'_>, known: Known, slots: u32, when: When) -> FleetDrone {
    let Machine { peer, inventory, .. } = machine;
    let record = state.drone_record(peer);
    let When { hive_ms, at } = when;
    let builds: Vec<FleetBuild> =
        state.live_attempts(peer).map(|(job, attempt)| build(state, job, attempt, at)).collect();
    FleetDrone {
        name: machine.name.to_owned(),
        peer_id: (*peer).clone(),
        legacy: machine.legacy,
        role: known.role,
        state: known.state,
        slots,
        used: u32::try_from(builds.len()).unwrap_or(u32::MAX),
        load: known.load,
        cores: inventory.cpu_cores,
        cores_limit: record.cores_limit,
        arch: inventory.arch.clone(),
        ram_gb: inventory.ram_gb,
        drain_left_ms: drain_left_ms(record, hive_ms),
        grounded_left_ms: left_ms(record.grounded_until_ms, hive_ms),
        uploads_paused_left_ms: left_ms(record.uploads_paused_until_ms, hive_ms),
        paused: record.paused.as_ref().map(decision),
        draining: record.drain.as_ref().map(|drain| decision(&drain.decision)),
        builds,
    }
}

fn left_ms(until_ms: u64, hive_ms: u64) -> Option<u64> {
    Some(until_ms.saturating_sub(hive_ms)).filter(|left_ms| *left_ms > 0)
}

fn drain_left_ms(record: &DroneRecord, hive_ms: u64) -> Option<u64> {
    record.drain.as_ref()?.deadline_hive_ms.map(|deadline_ms| deadline_ms.saturating_sub(hive_ms))
}

/// What an operator decided.
pub(super) fn decision(decision: &Decision) -> DecisionView {
    DecisionView { by: decision.by.clone(), why: decision.why.clone(), at: decision.at }
}

fn build(state: &State, job: &Job, attempt: &Attempt, at: UnixMillis) -> FleetBuild {
    let estimate = state.estimate(job, Some(&state.drone_class(&attempt.node)));
    let elapsed_ms = attempt.started_at.map(|started_at| at.0.saturating_sub(started_at.0));
    let percent = elapsed_ms.and_then(|elapsed_ms| percent(&estimate, elapsed_ms));
    FleetBuild {
        job: job.spec.id,
        target: job.spec.target.clone(),
        attempt: attempt.attempt,
        state: attempt.state,
        elapsed_ms,
        percent,
        eta_ms: percent.map(|_| remaining(&estimate, elapsed_ms).0),
        samples: estimate.samples as u64,
    }
}

/// Slots of each machine: what it says, else by its processors; one of a drone of the old swarm.
fn slots(shared: &Shared) -> BTreeMap<PeerId, u32> {
    let view = coordinating::view(shared);
    let settings = scheduler::Settings::default();
    shared.read(|state| {
        let slots = |machine: &Machine<'_>| {
            let drone = view.drones.get(machine.peer);
            let takes_builds = drone.is_some_and(|drone| drone.takes_builds);
            let record = state.drone_record(machine.peer);
            let set = if machine.legacy { Some(1) } else { drone.and_then(|drone| drone.slots) };
            if takes_builds { scheduler::slots(machine.inventory, record, set, &settings) } else { 0 }
        };
        state.machines().map(|machine| (machine.peer.clone(), slots(&machine))).collect()
    })
}

/// Slots of the drones that answer, by name.
pub(super) fn slots_by_name(shared: &Shared) -> BTreeMap<String, u32> {
    let view = coordinating::view(shared);
    let is_alive = |peer: &PeerId| view.drones.get(peer).is_some_and(|drone| drone.alive);
    let alive = slots(shared).into_iter().filter(|(peer, _)| is_alive(peer));
    alive.map(|(peer, slots)| (shared.name_of(&peer), slots)).collect()
}
