//! The drones as people see them: what each has, may do and does.
//!
//! Never done here: giving them anything.

use std::collections::BTreeMap;

use super::sessions::elapsed_ms;
use super::shared::Shared;
use super::{coordinating, views};
use crate::api::{DecisionView, FleetBuild, FleetDrone, FleetView, MemberState};
use crate::clock::now_ms;
use crate::engine::forecast::{percent, remaining};
use crate::engine::id::PeerId;
use crate::engine::job::{Attempt, Job};
use crate::engine::member::Member;
use crate::engine::scheduler;
use crate::engine::state::{Decision, DroneRecord, State};

/// `hive fleet`.
pub(super) fn fleet(shared: &Shared) -> FleetView {
    let slots = slots(shared);
    let now_ms = now_ms();
    let hive_ms = shared.hive_ms(now_ms);
    let members: Vec<Member> = shared.read(|state| state.members().filter(|member| !member.left).cloned().collect());
    let mut drones: Vec<FleetDrone> = members
        .iter()
        .map(|member| {
            let peer = &member.info.peer_id;
            let own = *peer == shared.me.peer_id;
            let report =
                if own { Some(views::own_report(shared)) } else { shared.soft(|soft| soft.reports.get(peer).cloned()) };
            let record = shared.read(|state| state.drone_record(peer).clone());
            let builds: Vec<FleetBuild> = shared
                .read(|state| state.live_attempts(peer).map(|(job, attempt)| build(state, job, attempt)).collect());
            let inventory = &member.info.inventory;
            FleetDrone {
                name: member.display_name.clone(),
                peer_id: peer.clone(),
                role: views::role_of(member),
                state: shared.liveness(peer),
                slots: slots.get(peer).copied().unwrap_or(0),
                used: u32::try_from(builds.len()).unwrap_or(u32::MAX),
                load: report.map(|report| f64::from(report.load_centi) / 100.0),
                cores: inventory.cpu_cores,
                cores_limit: record.cores_limit,
                arch: inventory.arch.clone(),
                ram_gb: inventory.ram_gb,
                drain_left_ms: drain_left_ms(&record, hive_ms),
                grounded_left_ms: left_ms(record.grounded_until_ms, hive_ms),
                uploads_paused_left_ms: left_ms(record.uploads_paused_until_ms, hive_ms),
                paused: record.paused.as_ref().map(decision),
                draining: record.drain.as_ref().map(|drain| decision(&drain.decision)),
                builds,
            }
        })
        .collect();
    drones.sort_by(|left, right| left.name.cmp(&right.name));
    FleetView { drones, paused: shared.read(|state| state.paused().map(decision)) }
}

fn left_ms(until_ms: u64, hive_ms: u64) -> Option<u64> {
    Some(until_ms.saturating_sub(hive_ms)).filter(|left_ms| *left_ms > 0)
}

fn drain_left_ms(record: &DroneRecord, hive_ms: u64) -> Option<u64> {
    record.drain.as_ref()?.deadline_hive_ms.map(|deadline_ms| deadline_ms.saturating_sub(hive_ms))
}

fn decision(decision: &Decision) -> DecisionView {
    DecisionView { by: decision.by.clone(), why: decision.why.clone(), at: decision.at }
}

fn build(state: &State, job: &Job, attempt: &Attempt) -> FleetBuild {
    let estimate = state.estimate(job, Some(&state.drone_class(&attempt.node)));
    let elapsed_ms = attempt.started_at.map(elapsed_ms);
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

/// Slots of each member that has not left: what it says, else by its processors.
fn slots(shared: &Shared) -> BTreeMap<PeerId, u32> {
    let view = coordinating::view(shared);
    let settings = scheduler::Settings::default();
    shared.read(|state| {
        let present = state.members().filter(|member| !member.left);
        let slots = |member: &Member| {
            let drone = view.drones.get(&member.info.peer_id);
            let takes_builds = drone.is_some_and(|drone| drone.takes_builds);
            let record = state.drone_record(&member.info.peer_id);
            let set = drone.and_then(|drone| drone.slots);
            if takes_builds { scheduler::slots(&member.info.inventory, record, set, &settings) } else { 0 }
        };
        present.map(|member| (member.info.peer_id.clone(), slots(member))).collect()
    })
}

/// Slots of the drones that answer, by name.
pub(super) fn slots_by_name(shared: &Shared) -> BTreeMap<String, u32> {
    let alive = slots(shared).into_iter().filter(|(peer, _)| shared.liveness(peer) == MemberState::Alive);
    alive.map(|(peer, slots)| (shared.name_of(&peer), slots)).collect()
}
