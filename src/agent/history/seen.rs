//! What is in no log: who answered, who led, how busy machines were, what the operator was told. Each node keeps what it saw itself.
//!
//! Looked at every two seconds; written down at once when something happened to a machine or the hive, and every ten seconds to a minute,
//! by the number of machines, when only loads moved. Never done here: keeping it (the store does).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::agent::shared::Shared;
use crate::agent::{fleet, live, views};
use crate::api::{MemberState, MemberStatus};
use crate::clock::now_ms;
use crate::engine::id::PeerId;
use crate::engine::past::{self, Rows};
use crate::engine::state::{Change, Row};
use crate::transport::{decode, encode};

/// Tables of what is seen: the hive, and each machine by its PeerId.
const HIVE: u8 = 1;
const MACHINE: u8 = 2;
/// Loads are written down so often at least and at most, milliseconds, and so much more seldom with each machine.
const LOADS_MIN_MS: u64 = 10_000;
const LOADS_MAX_MS: u64 = 60_000;
const LOADS_MACHINE_MS: u64 = 500;
/// Free space is told in steps of so many bytes: what moves by less is no news.
const DISK_STEP: u64 = 64 << 20;

/// The hive as this node saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct SeenHive {
    pub coordinator: Option<PeerId>,
    pub term: u64,
    pub quorum: bool,
    pub voters: BTreeSet<PeerId>,
    pub standbys: BTreeSet<PeerId>,
    pub notices: Vec<String>,
    pub degraded: Vec<String>,
    pub artifact_bytes: u64,
    /// Nodes of wire v1, which are no members.
    pub legacy: Vec<MemberStatus>,
}

/// A machine as this node saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SeenMachine {
    pub state: MemberState,
    pub slots: u32,
    pub staging: bool,
    pub load_centi: Option<u32>,
    pub cpu_percent: Option<u32>,
    pub ram_percent: Option<u32>,
    pub disk_free_bytes: Option<u64>,
}

/// Everything at one look.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sample {
    pub hive: SeenHive,
    pub machines: BTreeMap<PeerId, SeenMachine>,
}

/// What is to be written down.
pub(super) enum News {
    /// All of it: this is the first look.
    First(Rows),
    /// What is different from the look before.
    Changed(Vec<Change>),
    /// Nothing.
    Nothing,
}

/// What was written down last.
#[derive(Default)]
pub(super) struct Seen {
    last: Option<(Sample, Rows)>,
    loads_ms: u64,
}

impl Seen {
    /// What a look brings that is not written down yet.
    pub(super) fn changes(&mut self, sample: Sample) -> News {
        self.changes_at(sample, now_ms())
    }

    fn changes_at(&mut self, mut sample: Sample, at_ms: u64) -> News {
        let pause_ms = (sample.machines.len() as u64 * LOADS_MACHINE_MS).clamp(LOADS_MIN_MS, LOADS_MAX_MS);
        let Some((before, rows)) = &mut self.last else {
            let rows = sample.rows();
            self.loads_ms = at_ms;
            self.last = Some((sample, rows.clone()));
            return News::First(rows);
        };
        if at_ms.saturating_sub(self.loads_ms) < pause_ms {
            sample.keep_loads(before);
        } else {
            self.loads_ms = at_ms;
        }
        let fresh = sample.rows();
        let changes = past::difference(rows, &fresh);
        (*before, *rows) = (sample, fresh);
        if changes.is_empty() { News::Nothing } else { News::Changed(changes) }
    }
}

impl Sample {
    /// How busy machines are stays as it was written down.
    fn keep_loads(&mut self, before: &Self) {
        for (peer, machine) in &mut self.machines {
            if let Some(before) = before.machines.get(peer) {
                let SeenMachine { state, slots, staging, .. } = *machine;
                *machine = SeenMachine { state, slots, staging, ..before.clone() };
            }
        }
    }

    fn rows(&self) -> Rows {
        let row =
            |table, key: &[u8], value: std::io::Result<Vec<u8>>| Some((Row { table, key: key.to_vec() }, value.ok()?));
        let machines =
            self.machines.iter().filter_map(|(peer, seen)| row(MACHINE, peer.as_str().as_bytes(), encode(seen)));
        row(HIVE, b"hive", encode(&self.hive)).into_iter().chain(machines).collect()
    }

    /// What rows say.
    pub(super) fn of(rows: &Rows) -> Self {
        fn value<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
            decode(bytes).ok()
        }
        let mut sample = Self::default();
        for (row, bytes) in rows {
            match row.table {
                HIVE => sample.hive = value(bytes).unwrap_or_default(),
                MACHINE => {
                    let peer = std::str::from_utf8(&row.key).ok().map(PeerId::new);
                    if let Some((peer, seen)) = peer.zip(value(bytes)) {
                        sample.machines.insert(peer, seen);
                    }
                }
                _ => {}
            }
        }
        sample
    }
}

/// Looks.
pub(super) async fn sample(shared: &Arc<Shared>) -> Sample {
    let status = views::status(shared);
    let consensus = shared.consensus.status();
    let fleet = fleet::fleet(shared).await;
    let metrics: BTreeMap<String, _> =
        live::all_metrics(shared).into_iter().map(|metrics| (metrics.name.clone(), metrics)).collect();
    let staging: BTreeSet<&PeerId> =
        status.members.iter().filter(|member| member.staging).filter_map(|member| member.peer_id.as_ref()).collect();
    let machine = |drone: &crate::api::FleetDrone| {
        let metrics = metrics.get(&drone.name);
        let seen = SeenMachine {
            state: drone.state,
            slots: drone.slots,
            staging: staging.contains(&drone.peer_id),
            // A tenth is as much as anyone sees.
            load_centi: drone.load.map(|load| (load * 10.0).round().clamp(0.0, 1e8) as u32 * 10),
            cpu_percent: metrics.and_then(|metrics| metrics.cpu_percent),
            ram_percent: metrics.and_then(|metrics| metrics.ram_percent),
            disk_free_bytes: metrics
                .and_then(|metrics| metrics.disk_free_bytes)
                .map(|free| free / DISK_STEP * DISK_STEP),
        };
        (drone.peer_id.clone(), seen)
    };
    let machines = fleet.drones.iter().map(machine).collect();
    let unheard = |member: &MemberStatus| MemberStatus { last_seen_ms: None, ..member.clone() };
    let hive = SeenHive {
        coordinator: status.coordinator.as_ref().map(|coordinator| coordinator.peer_id.clone()),
        term: consensus.term,
        quorum: status.quorum,
        voters: consensus.voters.iter().map(|voter| voter.peer_id.clone()).collect(),
        standbys: consensus.standbys.iter().map(|standby| standby.peer_id.clone()).collect(),
        notices: status.notices,
        degraded: status.degraded,
        artifact_bytes: status.this.artifact_bytes,
        legacy: status.members.iter().filter(|member| member.peer_id.is_none()).map(unheard).collect(),
    };
    Sample { hive, machines }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(state: MemberState, load: u32, notices: &[&str]) -> Sample {
        let machine = SeenMachine {
            state,
            slots: 2,
            staging: false,
            load_centi: Some(load),
            cpu_percent: Some(load),
            ram_percent: None,
            disk_free_bytes: Some(DISK_STEP),
        };
        let notices = notices.iter().map(|text| (*text).to_owned()).collect();
        Sample {
            hive: SeenHive { notices, quorum: true, ..SeenHive::default() },
            machines: [(PeerId::new("a"), machine)].into(),
        }
    }

    #[test]
    fn what_happens_is_written_at_once_and_loads_now_and_then() {
        let mut seen = Seen::default();
        let News::First(mut rows) = seen.changes_at(sample(MemberState::Alive, 10, &[]), 0) else { panic!("first") };
        assert_eq!(Sample::of(&rows), sample(MemberState::Alive, 10, &[]));
        let quiet = seen.changes_at(sample(MemberState::Alive, 50, &[]), 2_000);
        assert!(matches!(quiet, News::Nothing), "a load is no news");
        let News::Changed(changes) = seen.changes_at(sample(MemberState::Down, 60, &["it is gone"]), 4_000) else {
            panic!("it went down")
        };
        past::fold(&mut rows, changes);
        assert_eq!(Sample::of(&rows), sample(MemberState::Down, 10, &["it is gone"]));
        let News::Changed(changes) = seen.changes_at(sample(MemberState::Down, 70, &["it is gone"]), LOADS_MIN_MS)
        else {
            panic!("time for loads")
        };
        past::fold(&mut rows, changes);
        assert_eq!(Sample::of(&rows), sample(MemberState::Down, 70, &["it is gone"]));
        let News::Changed(changes) = seen.changes_at(Sample::default(), LOADS_MIN_MS + 1) else { panic!("it left") };
        past::fold(&mut rows, changes);
        assert_eq!(Sample::of(&rows), Sample::default());
    }
}
