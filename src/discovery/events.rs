//! What discovery tells the agent, and what the agent tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::core::address_of;
use super::interfaces::Interface;
use super::wire::{Hello, HiveEpoch, Welcome};
use crate::engine::beacon::BeaconState;
use crate::engine::beacon::legacy::LegacyPeer;
use crate::engine::beacon::refusals::Reason;
use crate::engine::grammar::NODE_NAME_MAX;
use crate::engine::id::PeerId;

/// What the beacon says. Replaced as a whole whenever something of it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeaconContent {
    /// What this node is doing. A seeking or founding one calls every 250 ms, a member seldom.
    pub state: BeaconState,
    /// Its hive; none while it seeks. SWIM runs while `state` is member and this is set; a change starts it afresh.
    pub hive: Option<HiveEpoch>,
    /// Its name, `[A-Za-z0-9._-]`, at most 63, a letter or digit first; anything else becomes `-`, or goes when it is in front.
    pub name: String,
    /// Where it is, best first; empty: the addresses of its interfaces.
    pub addresses: Vec<IpAddr>,
    /// TCP port of the mesh.
    pub mesh_port: u16,
    /// TCP port of the public HTTP API.
    pub http_port: u16,
    /// Name of the hive, same grammar; empty: the first digits of its id.
    pub hive_name: String,
    /// Members of the hive.
    pub member_count: u32,
    /// Digest of the seekers in view, itself included; see [`crate::engine::beacon::answer::seekers_digest`].
    pub digest: [u8; 16],
    /// A free address that it would claim.
    pub candidate_ip: Option<IpAddr>,
    /// Its role, for heartbeats to v1 nodes.
    pub role: Option<String>,
}

impl Default for BeaconContent {
    fn default() -> Self {
        Self {
            state: BeaconState::Seeking,
            hive: None,
            name: "unnamed".to_owned(),
            addresses: Vec::new(),
            mesh_port: 50_555,
            http_port: 8_100,
            hive_name: String::new(),
            member_count: 0,
            digest: [0; 16],
            candidate_ip: None,
            role: None,
        }
    }
}

/// Made to fit [`node_name`](crate::engine::grammar::node_name).
fn cleaned(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let name: String = name.chars().take(NODE_NAME_MAX).map(|c| if allowed(c) { c } else { '-' }).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

impl BeaconContent {
    /// With names that every receiver takes.
    pub(super) fn cleaned(mut self) -> Self {
        self.name = cleaned(&self.name);
        if self.hive_name.is_empty()
            && let Some(hive) = self.hive
        {
            self.hive_name = hive.hive_id.to_string().chars().take(8).collect();
        }
        self.hive_name = cleaned(&self.hive_name);
        self
    }
}

/// Where a verified datagram came from. Only a hint: the secret proves a group, not a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who says that it sent it.
    pub peer: PeerId,
    /// Where it came from.
    pub from: SocketAddr,
    /// Raised at each start of the sender.
    pub incarnation: u64,
    /// The sender's hive and epoch; none while it seeks.
    pub hive: Option<HiveEpoch>,
}

/// What discovery tells the agent.
///
/// Hints (`HelloSeen`, `WelcomeSeen`, `UnverifiedSeen`, `CloneSeen`, `LegacyAsksAdvice`, `InterfacesChanged`) are queued in
/// discovery when the agent's queue is full, and the oldest dropped beyond that. `Member…` events are never lost: a change
/// that finds the queue full is offered again, by then perhaps as a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoveryEvent {
    /// A verified HELLO that was not seen before.
    HelloSeen {
        /// Who and where.
        heard: Heard,
        /// What it says, and whether it came by broadcast.
        hello: Hello,
    },
    /// A verified answer to one of our last HELLOs.
    WelcomeSeen {
        /// Who and where.
        heard: Heard,
        /// What it says.
        welcome: Welcome,
    },
    /// A hive's datagram that cannot be verified or understood; once a second per address at most.
    UnverifiedSeen {
        /// From where.
        from: SocketAddr,
        /// `WrongSecret` or `Version`.
        reason: Reason,
    },
    /// Another machine uses this node's key: it was copied.
    CloneSeen {
        /// From where.
        from: SocketAddr,
        /// Its incarnation.
        incarnation: u64,
    },
    /// A v1 node asks what to become. Answer with `DiscoveryHandle::legacy_advice` within a few hundred milliseconds.
    LegacyAsksAdvice {
        /// What it calls itself.
        node_id: String,
        /// Its host name.
        hostname: String,
        /// Where it is.
        from: IpAddr,
    },
    /// A member answers again, or became a member, or restarted with a higher incarnation.
    MemberAlive {
        /// The member.
        peer: PeerId,
        /// Its incarnation.
        incarnation: u64,
    },
    /// A member does not answer; it may still object.
    MemberSuspect {
        /// The member.
        peer: PeerId,
        /// Its incarnation.
        incarnation: u64,
    },
    /// Nobody reaches a member, or it said farewell.
    MemberDown {
        /// The member.
        peer: PeerId,
        /// Its incarnation.
        incarnation: u64,
        /// It said so itself (only known to those that it told directly).
        farewell: bool,
    },
    /// The interfaces in use are now these.
    InterfacesChanged(Vec<Interface>),
}

/// Whether this node speaks wire v1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LegacyMode {
    /// Not at all.
    Off,
    /// It answers v1 nodes.
    #[default]
    Answer,
    /// It also broadcasts v1 HELLOs and heartbeats.
    Announce,
}

/// A row of refusals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalView {
    /// Why.
    pub reason: Reason,
    /// From where; none for all addresses that came after the table was full.
    pub from: Option<IpAddr>,
    /// How often since the start.
    pub count: u64,
    /// How long ago the last time.
    pub last_ms: u64,
}

/// A v1 node that was heard lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyPeerView {
    /// What it calls itself.
    pub node_id: String,
    /// Its host name.
    pub hostname: String,
    /// Where it is.
    pub ip: IpAddr,
    /// The role it last said it has.
    pub role: Option<String>,
    /// How long ago it was heard.
    pub last_seen_ms: u64,
}

impl LegacyPeerView {
    pub(super) fn new(peer: &LegacyPeer, now_ms: u64) -> Self {
        Self {
            node_id: peer.node_id.clone(),
            hostname: peer.hostname.clone(),
            ip: address_of(peer.source),
            role: peer.role.clone(),
            last_seen_ms: now_ms.saturating_sub(peer.last_seen_ms),
        }
    }
}

/// A peer that confirmed hearing this node's broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BroadcastHearer {
    /// The peer.
    pub peer: PeerId,
    /// Its name.
    pub name: String,
    /// How long ago.
    pub last_ms: u64,
}

/// What `hive doctor`, the status page and the metrics show. At most half a second old.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What was refused.
    pub refusals: Vec<RefusalView>,
    /// Interfaces in use.
    pub interfaces: BTreeSet<Interface>,
    /// This machine is on a network, as far as it will be.
    pub linked: bool,
    /// The addresses of `join`, names resolved.
    pub join: Vec<SocketAddr>,
    /// Peers that speak wire v1.
    pub legacy_peers: Vec<LegacyPeerView>,
    /// Peers that heard our broadcast in the last two minutes.
    pub broadcast_heard_by: Vec<BroadcastHearer>,
    /// By how much each peer's wall clock is ahead of ours.
    pub clock_offsets_ms: BTreeMap<PeerId, i64>,
    /// How long ago a datagram of each peer was verified.
    pub last_heard_ms: BTreeMap<PeerId, u64>,
    /// 0: this node is well placed to judge others; from 4 on it accuses nobody.
    pub health_score: u32,
    /// Hints that the agent was too slow for.
    pub events_dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::grammar::node_name;

    #[test]
    fn whatever_a_machine_is_called_others_take_its_name() {
        let long = "n".repeat(200);
        for (name, expected) in
            [("build-1.lan", "build-1.lan"), ("-x", "x"), ("..", "unnamed"), ("", "unnamed"), ("b\u{fc}ro 1", "b-ro-1")]
        {
            assert_eq!(cleaned(name), expected);
        }
        for name in ["-x", "", "\u{fc}", &long, "._-a"] {
            assert_eq!(node_name(&cleaned(name)), Ok(()), "{name}");
        }
    }
}
