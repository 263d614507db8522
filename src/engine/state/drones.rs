//! What the hive remembers of each drone: what went wrong there lately, and what an operator allows it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::State;
use super::rows::RowKey;
use crate::engine::id::{PeerId, UnixMillis};

/// So many failures of class infra without a success in between ground a drone.
pub const DRONE_INFRA_FAILURES_MAX: u32 = 8;
/// How long a drone stays grounded, hive time.
pub const GROUNDED_MS: u64 = 300_000;
/// So many uploads that failed in a row: the drone gets no work for a while, as nothing that it builds would arrive.
pub const UPLOAD_FAILURES_MAX: u32 = 3;
/// How long a drone that cannot upload gets no work, hive time.
pub const UPLOAD_PAUSE_MS: u64 = 1_800_000;

/// An operator's decision, with who and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Who.
    pub by: String,
    /// One sentence, may be empty.
    pub why: String,
    /// When, by the coordinator's clock.
    pub at: UnixMillis,
}

/// A drone that is being emptied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Who and why.
    pub decision: Decision,
    /// After this hive time what still runs goes elsewhere, milliseconds; none: it may end.
    pub deadline_hive_ms: Option<u64>,
}

/// What is remembered of a drone. Nothing is remembered of one for which all of it is as at the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroneRecord {
    /// Failures of class `infra` since its last success or grounding.
    pub infra_failures: u32,
    /// It gets no work before this hive time, because it failed too often.
    pub grounded_until_ms: u64,
    /// Uploads that failed since the last that did not.
    pub upload_failures: u32,
    /// It gets no work before this hive time, because it cannot upload.
    pub uploads_paused_until_ms: u64,
    /// An operator gives it nothing new.
    pub paused: Option<Decision>,
    /// An operator empties it.
    pub drain: Option<Drain>,
    /// Processors that its builds may use; none: all.
    pub cores_limit: Option<u32>,
}

/// The table of drones.
#[derive(Clone, Debug, Default)]
pub(super) struct Drones {
    records: BTreeMap<PeerId, DroneRecord>,
    /// For those that have no record.
    none: DroneRecord,
}

impl Drones {
    pub(super) fn get(&self, peer: &PeerId) -> &DroneRecord {
        self.records.get(peer).unwrap_or(&self.none)
    }

    pub(super) fn row(&self, peer: &PeerId) -> Option<&DroneRecord> {
        self.records.get(peer)
    }

    pub(super) fn names(&self) -> Vec<PeerId> {
        self.records.keys().cloned().collect()
    }

    pub(super) fn load(&mut self, peer: PeerId, record: DroneRecord) {
        self.records.insert(peer, record);
    }

    pub(super) fn row_keys(&self) -> impl Iterator<Item = RowKey> {
        self.records.keys().cloned().map(RowKey::Drone)
    }
}

impl State {
    /// Changes what is remembered of a drone. Whether that changed anything.
    pub(super) fn update_drone(&mut self, peer: &PeerId, change: impl FnOnce(&mut DroneRecord)) -> bool {
        let drones = &mut self.jobs.drones;
        let mut record = drones.get(peer).clone();
        change(&mut record);
        if record == *drones.get(peer) {
            return false;
        }
        if record == DroneRecord::default() {
            drones.records.remove(peer);
        } else {
            drones.records.insert(peer.clone(), record);
        }
        self.dirty.insert(RowKey::Drone(peer.clone()));
        true
    }

    /// Lost drones are not counted: a crash takes down all attempts of a machine at once and is one event, which the failure
    /// detector handles.
    pub(super) fn count_against_drone(&mut self, node: &PeerId) {
        let hive_ms = self.meta.hive_time_ms;
        self.update_drone(node, |record| {
            record.infra_failures += 1;
            if record.infra_failures >= DRONE_INFRA_FAILURES_MAX {
                record.infra_failures = 0;
                record.grounded_until_ms = hive_ms.saturating_add(GROUNDED_MS);
            }
        });
    }

    pub(super) fn count_upload_failure(&mut self, node: &PeerId) {
        let hive_ms = self.meta.hive_time_ms;
        self.update_drone(node, |record| {
            record.upload_failures += 1;
            if record.upload_failures >= UPLOAD_FAILURES_MAX {
                record.upload_failures = 0;
                record.uploads_paused_until_ms = hive_ms.saturating_add(UPLOAD_PAUSE_MS);
            }
        });
    }

    /// A result arrived: what went wrong before is over.
    pub(super) fn count_success(&mut self, node: &PeerId) {
        let hive_ms = self.meta.hive_time_ms;
        self.update_drone(node, |record| {
            record.infra_failures = 0;
            record.upload_failures = 0;
            record.uploads_paused_until_ms = 0;
            if record.grounded_until_ms <= hive_ms {
                record.grounded_until_ms = 0;
            }
        });
    }
}
