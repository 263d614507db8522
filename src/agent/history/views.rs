//! What people see of the hive, as it was at a moment: the shapes of now, made of the state of then.
//!
//! Who answered, who led and how busy machines were is what this node saw itself; while it was not looking, that is said. Never done here:
//! guessing what was not kept.

use super::moments::Moment;
use super::seen::{SeenHive, SeenMachine};
use crate::agent::fleet::{self, Known, When};
use crate::agent::shared::Shared;
use crate::agent::views;
use crate::api::{
    Coordinator, FleetView, MemberState, MemberStatus, NodePhase, NodeView, QueueStatus, RaftPart, SelfStatus, Status,
};
use crate::clock::{now_ms, unix_now};
use crate::engine::member::Member;

/// What is said of a moment at which this node was not looking.
const NOT_SEEN: &str =
    "This node was not running at that moment, or not in the hive: who answered and who coordinated is not known here.";

fn seen_hive(moment: &Moment) -> SeenHive {
    moment.seen.as_ref().map_or_else(
        || SeenHive {
            notices: vec![NOT_SEEN.to_owned()],
            degraded: vec!["not_seen".to_owned()],
            ..SeenHive::default()
        },
        |seen| seen.hive.clone(),
    )
}

fn machine<'a>(moment: &'a Moment, peer: &crate::engine::id::PeerId) -> Option<&'a SeenMachine> {
    moment.seen.as_ref()?.machines.get(peer)
}

/// `hive status` of then.
pub(super) fn status(shared: &Shared, moment: &Moment) -> Status {
    let (state, hive) = (&moment.state, seen_hive(moment));
    let me = &shared.me;
    let own = state.member(&me.peer_id);
    let uptime_ms = now_ms().saturating_sub(me.started_ms);
    let started = unix_now().0.saturating_sub(uptime_ms);
    let coordinator = hive.coordinator.as_ref().map(|peer| Coordinator {
        name: state.name_of(peer).to_owned(),
        peer_id: peer.clone(),
        term: hive.term,
    });
    let mut members: Vec<MemberStatus> = state.members().map(|known| member(moment, &hive, known)).collect();
    members.extend(hive.legacy.iter().cloned());
    members.sort_by(|left, right| left.name.cmp(&right.name));
    Status {
        hive_id: state.hive_id(),
        this: SelfStatus {
            name: me.name.clone(),
            peer_id: me.peer_id.clone(),
            role: own.and_then(views::role_of),
            state: if own.is_some_and(|own| !own.left) { NodePhase::Member } else { NodePhase::Seeking },
            version: own.map_or_else(|| env!("CARGO_PKG_VERSION").to_owned(), |own| own.info.version.clone()),
            uptime_ms: moment.at.0.saturating_sub(started),
            artifact_bytes: hive.artifact_bytes,
        },
        coordinator,
        quorum: hive.quorum,
        members,
        log: moment.log(),
        queue: queue(moment),
        notices: hive.notices,
        degraded: hive.degraded,
        as_of: moment.at,
    }
}

fn queue(moment: &Moment) -> QueueStatus {
    QueueStatus { paused: moment.state.paused().is_some(), ..views::counts(&moment.state.counts()) }
}

fn member(moment: &Moment, hive: &SeenHive, member: &Member) -> MemberStatus {
    let peer = &member.info.peer_id;
    let seen = machine(moment, peer);
    let raft = if hive.voters.contains(peer) {
        RaftPart::Voter
    } else if hive.standbys.contains(peer) {
        RaftPart::Standby
    } else if member.left {
        RaftPart::None
    } else {
        RaftPart::Observer
    };
    MemberStatus {
        name: member.display_name.clone(),
        peer_id: Some(peer.clone()),
        addresses: member.info.addresses.clone(),
        role: views::role_of(member),
        state: if member.left { MemberState::Left } else { seen.map_or(MemberState::Suspect, |seen| seen.state) },
        raft,
        version: member.info.version.clone(),
        last_seen_ms: None,
        load: seen.and_then(|seen| seen.load_centi).map(|load| f64::from(load) / 100.0),
        cores: member.info.inventory.cpu_cores,
        founder: member.founder,
        staging: seen.is_some_and(|seen| seen.staging),
    }
}

/// All nodes of then.
pub(super) fn nodes(shared: &Shared, moment: &Moment) -> Vec<NodeView> {
    let view = |member: MemberStatus| {
        let known = member.peer_id.as_ref().and_then(|peer| moment.state.member(peer));
        let inventory = known.map(|known| known.info.inventory.clone());
        NodeView { member, inventory }
    };
    status(shared, moment).members.into_iter().map(view).collect()
}

/// `hive fleet` of then.
pub(super) fn fleet(moment: &Moment) -> FleetView {
    let state = &moment.state;
    let when = When { hive_ms: moment.hive_ms(), at: moment.at };
    let drones = state.machines().map(|found| {
        let seen = machine(moment, found.peer);
        let known = Known {
            state: seen.map_or(MemberState::Suspect, |seen| seen.state),
            load: seen.and_then(|seen| seen.load_centi).map(|load| f64::from(load) / 100.0),
            role: if found.legacy {
                Some(fleet::LEGACY_ROLE.to_owned())
            } else {
                state.member(found.peer).and_then(views::role_of)
            },
        };
        fleet::drone(state, &found, known, seen.map_or(0, |seen| seen.slots), when)
    });
    let mut drones: Vec<_> = drones.collect();
    drones.sort_by(|left, right| left.name.cmp(&right.name));
    FleetView { drones, paused: state.paused().map(fleet::decision) }
}
