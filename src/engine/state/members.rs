//! Who belongs to the hive, under which name, and which Raft ids were ever used.
//!
//! Two machines with the same host name are both members. The name shown for the second is made unique (`web`, `web-2`); it
//! stays until the machine changes its own name or leaves, so that names do not wander while people look at them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::rows::RowKey;
use super::{Context, DroneRecord, Executed, Reject, State, reject};
use crate::engine::command::{RejectCode, Reply};
use crate::engine::grammar::{self, NODE_NAME_MAX};
use crate::engine::id::{PEER_ID_MAX_LEN, PeerId};
use crate::engine::member::{Inventory, Member, MemberInfo};

/// Most members, those that have left included: far beyond the 300 machines that hive is made for.
pub const MEMBERS_MAX: usize = 1_024;
/// Most addresses of one member.
pub const ADDRESSES_MAX: usize = 8;
/// Most Raft ids remembered. Ids are 64 random bits; forgetting the oldest unbound one risks nothing real.
const RAFT_IDS_MAX: usize = 4_096;
/// Longest host name label.
/// Longest string in an inventory.
const FACT_MAX_LEN: usize = 128;

/// A Raft id that was bound once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UsedRaftId {
    pub(super) peer_id: PeerId,
    ordinal: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    members: BTreeMap<PeerId, Member>,
    /// Names shown, of members that have not left.
    names: BTreeMap<String, PeerId>,
    raft_ids: BTreeMap<u64, UsedRaftId>,
}

impl Members {
    pub(super) fn get(&self, peer: &PeerId) -> Option<&Member> {
        self.members.get(peer)
    }

    pub(super) fn get_mut(&mut self, peer: &PeerId) -> Option<&mut Member> {
        self.members.get_mut(peer)
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Member> {
        self.members.get(self.names.get(name)?)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Members that have not left.
    pub(super) fn present(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.left)
    }

    pub(super) fn raft_id(&self, id: u64) -> Option<&UsedRaftId> {
        self.raft_ids.get(&id)
    }

    pub(super) fn mark_founder(&mut self, peer: &PeerId) {
        if let Some(member) = self.members.get_mut(peer) {
            member.founder = true;
        }
    }

    /// All of them have left, and none of them founded this hive.
    pub(super) fn part_with_all(&mut self) {
        for member in self.members.values_mut() {
            (member.left, member.founder, member.raft_id) = (true, false, None);
        }
        self.names.clear();
    }

    pub(super) fn row_keys(&self) -> impl Iterator<Item = RowKey> {
        let members = self.members.keys().cloned().map(RowKey::Member);
        members.chain(self.raft_ids.keys().copied().map(RowKey::RaftId))
    }

    pub(super) fn load(&mut self, peer: PeerId, member: Member) -> Result<(), String> {
        if member.info.peer_id != peer {
            return Err("key and value name different nodes".to_owned());
        }
        if !member.left {
            self.names.insert(member.display_name.clone(), peer.clone());
        }
        self.members.insert(peer, member);
        Ok(())
    }

    pub(super) fn load_raft_id(&mut self, id: u64, used: UsedRaftId) {
        self.raft_ids.insert(id, used);
    }

    /// The wanted name, or the first of `name-2`, `name-3`, … that nobody else shows.
    fn free_name(&self, wanted: &str, peer: &PeerId) -> String {
        let free = |name: &str| self.names.get(name).is_none_or(|holder| holder == peer);
        let suffixed = (2_u32..).map(|number| {
            let suffix = format!("-{number}");
            let base: String = wanted.chars().take(NODE_NAME_MAX - suffix.len()).collect();
            base + &suffix
        });
        let mut candidates = std::iter::once(wanted.to_owned()).chain(suffixed);
        // More candidates than members: one of them is free.
        candidates.find(|name| free(name)).unwrap_or_else(|| wanted.to_owned())
    }
}

fn check(holds: bool, why: &str) -> Result<(), Reject> {
    if holds { Ok(()) } else { reject(RejectCode::Invalid, why) }
}

/// `HOST:PORT`, where the host looks like an IP address or a name.
fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let host_ok = !host.is_empty()
        && address.len() <= 96
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:%[]_-".contains(&byte));
    host_ok && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn check_info(info: &MemberInfo) -> Result<(), Reject> {
    let peer = info.peer_id.as_str();
    let peer_ok = (1..=PEER_ID_MAX_LEN).contains(&peer.len()) && peer.bytes().all(|byte| byte.is_ascii_alphanumeric());
    check(peer_ok, "malformed PeerId")?;
    let named = grammar::node_name(&info.name);
    named.or_else(|error| reject(RejectCode::Invalid, error.to_string()))?;
    check(info.addresses.len() <= ADDRESSES_MAX, "at most 8 addresses")?;
    check(info.addresses.iter().all(|address| is_address(address)), "addresses must be IP:PORT")?;
    check(info.version.len() <= FACT_MAX_LEN, "the version is longer than 128 bytes")?;
    check_inventory(&info.inventory)
}

fn check_inventory(inventory: &Inventory) -> Result<(), Reject> {
    inventory_fits(inventory).or_else(|why| reject(RejectCode::Invalid, why))
}

/// Whether what a machine says it has is within bounds; else why not.
pub(super) fn inventory_fits(inventory: &Inventory) -> Result<(), String> {
    let counts_ok = inventory.languages.len() <= 64 && inventory.tools.len() <= 256 && inventory.labels.len() <= 64;
    if !counts_ok {
        return Err("the inventory has more than 64 languages, 256 tools or 64 labels".to_owned());
    }
    let single = [&inventory.arch, &inventory.distro, &inventory.distro_version, &inventory.virt];
    let sets = inventory.languages.iter().chain(&inventory.labels);
    let tools = inventory.tools.iter().flat_map(|(name, version)| [name, version]);
    let fits = |text: &&String| text.len() <= FACT_MAX_LEN && !text.chars().any(char::is_control);
    if single.iter().copied().chain(sets).chain(tools).all(|text| fits(&text)) {
        Ok(())
    } else {
        Err("the inventory has a text longer than 128 bytes or with control characters".to_owned())
    }
}

impl State {
    pub(super) fn admit(&mut self, context: Context, info: MemberInfo) -> Executed {
        check_info(&info)?;
        if info.feature_level < self.meta.feature_level {
            let (knows, level) = (info.feature_level, self.meta.feature_level);
            let message = format!("the hive is at feature level {level}, this node knows {knows}: upgrade hive on it");
            return reject(RejectCode::Conflict, message);
        }
        let peer = info.peer_id.clone();
        let known = self.members.get(&peer).cloned();
        if let Some(known) = &known {
            let seen = known.info.incarnation;
            if info.incarnation < seen || (known.left && info.incarnation == seen) {
                let message =
                    format!("incarnation {seen} of this node was here already: a copy of it, or an old state?");
                return reject(RejectCode::Conflict, message);
            }
        } else {
            self.make_room_for_member()?;
        }
        let same_name = known.as_ref().is_some_and(|known| !known.left && known.info.name == info.name);
        let member = match known {
            Some(known) => Member {
                display_name: if same_name { known.display_name } else { self.members.free_name(&info.name, &peer) },
                // Others may have taken the place of one that left, so it has to ask again.
                role: known.role.filter(|_| !known.left),
                left: false,
                info,
                ..known
            },
            None => {
                self.meta.last_join += 1;
                Member {
                    display_name: self.members.free_name(&info.name, &peer),
                    join_ordinal: self.meta.last_join,
                    joined_at: context.at,
                    founder: false,
                    raft_id: None,
                    role: None,
                    claims: 0,
                    left: false,
                    info,
                }
            }
        };
        self.members.names.retain(|_, holder| *holder != peer);
        self.members.names.insert(member.display_name.clone(), peer.clone());
        self.members.members.insert(peer.clone(), member);
        self.dirty.insert(RowKey::Member(peer));
        Ok(Reply::Done)
    }

    /// When the table is full, the first-joined of those that have left is forgotten.
    fn make_room_for_member(&mut self) -> Result<(), Reject> {
        if self.members.members.len() < MEMBERS_MAX {
            return Ok(());
        }
        let gone = self.members.all().filter(|member| member.left && member.raft_id.is_none());
        let Some(peer) = gone.min_by_key(|member| member.join_ordinal).map(|member| member.info.peer_id.clone()) else {
            return reject(RejectCode::NoRoom, format!("the hive has {MEMBERS_MAX} members, its most"));
        };
        self.members.members.remove(&peer);
        self.update_drone(&peer, |record| *record = DroneRecord::default());
        self.dirty.insert(RowKey::Member(peer));
        Ok(())
    }

    /// Also for members that have left: a voter that said farewell is unbound after Raft has let go of it.
    pub(super) fn bind_replica(&mut self, peer: &PeerId, raft_id: Option<u64>) -> Executed {
        let Some(member) = self.members.members.get_mut(peer) else {
            return reject(RejectCode::NotFound, "no such member");
        };
        if member.raft_id == raft_id {
            return Ok(Reply::Done);
        }
        if let Some(id) = raft_id {
            if member.left {
                return reject(RejectCode::Conflict, "the member has left");
            }
            if self.members.raft_ids.contains_key(&id) {
                return reject(RejectCode::Conflict, "this Raft id was used before; a new Raft directory has a new id");
            }
            self.meta.last_binding += 1;
            let used = UsedRaftId { peer_id: peer.clone(), ordinal: self.meta.last_binding };
            self.members.raft_ids.insert(id, used);
            self.dirty.insert(RowKey::RaftId(id));
        }
        member.raft_id = raft_id;
        self.dirty.insert(RowKey::Member(peer.clone()));
        self.forget_oldest_raft_id();
        Ok(Reply::Done)
    }

    pub(super) fn unbind_all(&mut self) {
        for (peer, member) in &mut self.members.members {
            if member.raft_id.take().is_some() {
                self.dirty.insert(RowKey::Member(peer.clone()));
            }
        }
    }

    fn forget_oldest_raft_id(&mut self) {
        if self.members.raft_ids.len() <= RAFT_IDS_MAX {
            return;
        }
        let bound = |id: &u64, used: &UsedRaftId| {
            self.members.get(&used.peer_id).is_some_and(|member| member.raft_id == Some(*id))
        };
        let unbound = self.members.raft_ids.iter().filter(|(id, used)| !bound(id, used));
        if let Some(id) = unbound.min_by_key(|(_, used)| used.ordinal).map(|(id, _)| *id) {
            self.members.raft_ids.remove(&id);
            self.dirty.insert(RowKey::RaftId(id));
        }
    }

    pub(super) fn leave(&mut self, peer: &PeerId) -> Executed {
        let Some(member) = self.members.members.get_mut(peer) else {
            return reject(RejectCode::NotFound, "no such member");
        };
        if !member.left {
            member.left = true;
            let name = member.display_name.clone();
            self.members.names.remove(&name);
            self.dirty.insert(RowKey::Member(peer.clone()));
        }
        Ok(Reply::Done)
    }
}
