//! Drones of the Python build swarm that have registered, and which jobs they were given lately.
//!
//! They are machines beside the members: they get work and have records, and take no part in anything else. Never done here:
//! leases, and knowing whether they live.

use std::collections::{BTreeMap, VecDeque};

use super::rows::RowKey;
use super::{Context, DroneRecord, Executed, MEMBERS_MAX, State, reject};
use crate::engine::command::{RejectCode, Reply};
use crate::engine::id::{JobId, PeerId};
use crate::engine::job::Job;
use crate::engine::legacy::{LegacyDrone, LegacyInfo, peer_id};
use crate::engine::member::{Inventory, Member};

/// Jobs remembered per drone, the newest: what it may still speak of.
const RECENT_MAX: usize = 64;

/// A machine that can be given work.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Under which attempts name it.
    pub peer: &'a PeerId,
    /// The name to show.
    pub name: &'a str,
    /// What it has.
    pub inventory: &'a Inventory,
    /// The role that it claimed.
    pub role: Option<&'a str>,
    /// A drone of the Python swarm.
    pub legacy: bool,
}

impl<'a> Machine<'a> {
    fn member(member: &'a Member) -> Self {
        Self {
            peer: &member.info.peer_id,
            name: &member.display_name,
            inventory: &member.info.inventory,
            role: member.role.as_ref().map(|claim| claim.role.as_str()),
            legacy: false,
        }
    }

    fn legacy(drone: &'a LegacyDrone) -> Self {
        let LegacyInfo { name, inventory, .. } = &drone.info;
        Self { peer: &drone.peer_id, name, inventory, role: None, legacy: true }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Legacy {
    drones: BTreeMap<PeerId, LegacyDrone>,
    /// Jobs that each was given lately, oldest first. Worked out from the jobs, no part of the rows.
    recent: BTreeMap<PeerId, VecDeque<JobId>>,
}

impl Legacy {
    pub(super) fn get(&self, peer: &PeerId) -> Option<&LegacyDrone> {
        self.drones.get(peer)
    }

    pub(super) fn load(&mut self, peer: PeerId, drone: LegacyDrone) -> Result<(), String> {
        if drone.peer_id != peer {
            return Err("key and value name different drones".to_owned());
        }
        self.drones.insert(peer, drone);
        Ok(())
    }

    pub(super) fn row_keys(&self) -> impl Iterator<Item = RowKey> {
        self.drones.keys().cloned().map(RowKey::Legacy)
    }

    /// A job was given to a drone; of members nothing is remembered here.
    pub(super) fn given(&mut self, peer: &PeerId, job: JobId) {
        if !self.drones.contains_key(peer) {
            return;
        }
        let recent = self.recent.entry(peer.clone()).or_default();
        recent.retain(|known| *known != job);
        if recent.len() >= RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(job);
    }
}

impl State {
    pub(super) fn register_legacy(&mut self, context: Context, info: LegacyInfo) -> Executed {
        if let Err(why) = info.check().and_then(|()| super::members::inventory_fits(&info.inventory)) {
            return reject(RejectCode::Invalid, why);
        }
        if self.members.by_name(&info.name).is_some() {
            return reject(RejectCode::Conflict, "a node of the hive has this name; it takes its work itself");
        }
        let peer = peer_id(&info.name);
        let known = self.legacy.drones.get(&peer);
        if known.is_none() && self.legacy.drones.len() >= MEMBERS_MAX {
            return reject(RejectCode::NoRoom, format!("the hive has {MEMBERS_MAX} such drones, its most"));
        }
        let registered_at = known.map_or(context.at, |known| known.registered_at);
        let drone = LegacyDrone { info, peer_id: peer.clone(), registered_at };
        if known != Some(&drone) {
            self.legacy.drones.insert(peer.clone(), drone);
            self.dirty.insert(RowKey::Legacy(peer));
        }
        Ok(Reply::Done)
    }

    /// What it has goes elsewhere as soon as its lease is over, which it is at once for a machine that is not there.
    pub(super) fn forget_legacy(&mut self, peer: &PeerId) -> Executed {
        if self.legacy.drones.remove(peer).is_none() {
            return reject(RejectCode::NotFound, "no such drone");
        }
        self.legacy.recent.remove(peer);
        self.update_drone(peer, |record| *record = DroneRecord::default());
        self.dirty.insert(RowKey::Legacy(peer.clone()));
        Ok(Reply::Done)
    }

    /// After loading: which jobs the drones were given, in the order of their tokens.
    pub(super) fn recall_legacy(&mut self) {
        if self.legacy.drones.is_empty() {
            return;
        }
        let drones = &self.legacy.drones;
        let mut given: Vec<(u64, PeerId, JobId)> = Vec::new();
        for job in self.jobs.in_order() {
            let theirs = job.attempts.iter().filter(|attempt| drones.contains_key(&attempt.node));
            given.extend(theirs.map(|attempt| (attempt.token.counter, attempt.node.clone(), job.spec.id)));
        }
        given.sort();
        for (_, peer, job) in given {
            self.legacy.given(&peer, job);
        }
    }

    /// Drones of the Python swarm, by name.
    pub fn legacy_drones(&self) -> impl Iterator<Item = &LegacyDrone> {
        self.legacy.drones.values()
    }

    /// One of them.
    pub fn legacy_drone(&self, peer: &PeerId) -> Option<&LegacyDrone> {
        self.legacy.get(peer)
    }

    /// The jobs that such a drone was given lately and that are in memory, newest first.
    pub fn jobs_of_legacy(&self, peer: &PeerId) -> impl Iterator<Item = &Job> {
        self.legacy.recent.get(peer).into_iter().flatten().rev().filter_map(|id| self.jobs.get(id))
    }

    /// Everything that can be given work: members that have not left, then drones of the Python swarm.
    pub fn machines(&self) -> impl Iterator<Item = Machine<'_>> {
        self.members.present().map(Machine::member).chain(self.legacy.drones.values().map(Machine::legacy))
    }

    /// One of [`machines`](Self::machines).
    pub fn machine(&self, peer: &PeerId) -> Option<Machine<'_>> {
        let member = self.members.get(peer).filter(|member| !member.left).map(Machine::member);
        member.or_else(|| self.legacy.get(peer).map(Machine::legacy))
    }

    /// The machine that shows this name.
    pub fn machine_by_name(&self, name: &str) -> Option<Machine<'_>> {
        let member = self.members.by_name(name).map(Machine::member);
        member.or_else(|| self.legacy.get(&peer_id(name)).map(Machine::legacy))
    }
}
