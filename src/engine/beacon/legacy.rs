//! Peers that speak wire v1, and how much they get.
//!
//! A v1 answer is larger than its question and goes to an address that nobody proved, so it is the one place where this node
//! could be used to flood another. Hence narrow limits: sources on the same link only, few answers per address and in
//! all, and only by the members whose turn it is. Whatever a v1 datagram says changes nothing but the list kept here.

use std::collections::BTreeMap;

use super::Source;
use super::answer::{self, ANSWERERS};
use super::rate::{Bucket, Buckets};
use crate::engine::id::PeerId;

/// Answers per second to one address.
pub const ANSWERS_PER_ADDRESS_PER_S: u64 = 2;
/// Answers per second to all addresses.
pub const ANSWERS_PER_S: u64 = 20;
/// Legacy peers that are listed.
pub const PEERS_MAX: usize = 256;
/// A legacy peer that was silent so long is no longer listed: five of its heartbeats.
pub const PEER_FORGOTTEN_AFTER_MS: u64 = 150_000;

/// Decides which v1 questions are answered.
#[derive(Clone, Debug)]
pub struct LegacyGate {
    per_address: Buckets<Source>,
    total: Bucket,
}

impl LegacyGate {
    /// Starts with full buckets.
    pub fn new(now_ms: u64) -> Self {
        Self { per_address: Buckets::new(ANSWERS_PER_ADDRESS_PER_S), total: Bucket::full(ANSWERS_PER_S, now_ms) }
    }

    /// Whether `me` answers the question of the v1 node `node_id`. A yes uses up part of the budget.
    pub fn answers<'a>(
        &mut self,
        node_id: &str,
        source: Source,
        on_link: bool,
        me: &PeerId,
        alive: impl IntoIterator<Item = &'a PeerId>,
        now_ms: u64,
    ) -> bool {
        on_link
            && answer::is_among_first(node_id.as_bytes(), me, alive, ANSWERERS)
            && self.per_address.take(&source, now_ms)
            && self.total.take(now_ms)
    }
}

/// What is known of a legacy peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyPeer {
    /// What it calls itself; new at each of its starts.
    pub node_id: String,
    /// Its host name.
    pub hostname: String,
    /// Where its last datagram came from.
    pub source: Source,
    /// The role in its last heartbeat.
    pub role: Option<String>,
    /// The last time it was heard.
    pub last_seen_ms: u64,
}

/// The legacy peers heard lately, by address: a restarted one has a new id but the same address.
#[derive(Clone, Debug, Default)]
pub struct LegacyPeers {
    peers: BTreeMap<Source, LegacyPeer>,
}

impl LegacyPeers {
    /// Notes that one was heard. `role` is none when the datagram did not say.
    pub fn heard(&mut self, node_id: &str, hostname: &str, source: Source, role: Option<Option<String>>, now_ms: u64) {
        self.age(now_ms);
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&source) {
            return;
        }
        let peer = self.peers.entry(source).or_insert_with(|| LegacyPeer {
            node_id: String::new(),
            hostname: String::new(),
            source,
            role: None,
            last_seen_ms: now_ms,
        });
        if peer.node_id != node_id {
            peer.role = None;
            peer.node_id = node_id.to_owned();
        }
        peer.hostname = hostname.to_owned();
        peer.last_seen_ms = now_ms;
        if let Some(role) = role {
            peer.role = role;
        }
    }

    /// Forgets those that were silent too long.
    pub fn age(&mut self, now_ms: u64) {
        self.peers.retain(|_, peer| now_ms.saturating_sub(peer.last_seen_ms) <= PEER_FORGOTTEN_AFTER_MS);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &LegacyPeer> {
        self.peers.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u64) -> Source {
        let mut octets = [0; 16];
        octets[8..].copy_from_slice(&number.to_be_bytes());
        Source(octets)
    }

    #[test]
    fn answers_are_limited_per_address_and_in_all() {
        let me = PeerId::new("me");
        let mut gate = LegacyGate::new(0);
        let one = (0..100).filter(|_| gate.answers("a", source(1), true, &me, [], 0)).count();
        assert_eq!(one, 2);
        let many = (2..200).filter(|&number| gate.answers("a", source(number), true, &me, [], 0)).count();
        assert_eq!(many, 18);
        assert!(!gate.answers("a", source(999), false, &me, [], 60_000), "not on a link of ours");
        assert!(gate.answers("a", source(999), true, &me, [], 60_000));
    }

    #[test]
    fn three_members_answer_one_v1_node() {
        let all: Vec<PeerId> = (0..20).map(|number| PeerId::new(format!("peer-{number}"))).collect();
        let answering =
            all.iter().filter(|me| LegacyGate::new(0).answers("uuid", source(1), true, me, all.iter(), 0)).count();
        assert_eq!(answering, ANSWERERS);
    }

    #[test]
    fn the_list_is_bounded_and_ages() {
        let mut peers = LegacyPeers::default();
        for number in 0..10_000 {
            peers.heard("id", "host", source(number), None, 0);
        }
        assert_eq!(peers.iter().count(), PEERS_MAX);
        peers.heard("id", "host", source(1), Some(Some("builder".to_owned())), PEER_FORGOTTEN_AFTER_MS);
        peers.heard("id", "host", source(1), None, PEER_FORGOTTEN_AFTER_MS + 1);
        let left: Vec<_> = peers.iter().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].role.as_deref(), Some("builder"), "a HELLO does not take the role away");
        peers.heard("another id", "host", source(1), None, PEER_FORGOTTEN_AFTER_MS + 2);
        assert_eq!(peers.iter().next().and_then(|peer| peer.role.clone()), None, "a restarted one has none");
    }
}
