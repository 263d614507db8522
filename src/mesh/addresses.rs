//! Where peers were reached, and when an address may be tried again. Pure: time is an argument.
//!
//! An address that failed waits twice as long each time, from 250 ms to 10 s, with a jitter so that nodes which lost the same
//! peer do not return in step. The ceiling is low on purpose: a voter that comes back must be found within a breath. Never done
//! here: dialing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use libp2p::PeerId as NetId;
use rand::{Rng, RngExt as _};

/// Addresses kept per peer; a machine with more interfaces is reached by its best ones.
pub(crate) const ADDRESSES_PER_PEER_MAX: usize = 8;
/// Peers with addresses; beyond any hive, so that forged mDNS answers cannot grow it.
pub(crate) const PEERS_MAX: usize = 1_024;
/// Addresses whose failures are remembered.
const FAILURES_MAX: usize = 4_096;
const RETRY_FIRST_MS: u64 = 250;
const RETRY_MAX_MS: u64 = 10_000;

#[derive(Clone, Copy)]
struct Failure {
    count: u32,
    next_ms: u64,
}

/// The book.
#[derive(Default)]
pub(crate) struct AddressBook {
    peers: BTreeMap<NetId, Vec<SocketAddr>>,
    failures: BTreeMap<SocketAddr, Failure>,
    own: BTreeSet<SocketAddr>,
}

/// Whether an address can be dialed at all. A link-local IPv6 address needs an interface, which its text does not name.
pub(crate) fn is_dialable(address: SocketAddr) -> bool {
    let linked = matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast() && !linked
}

impl AddressBook {
    /// Adds addresses that somebody said; the known ones keep their rank.
    pub(crate) fn add(&mut self, peer: NetId, addresses: impl IntoIterator<Item = SocketAddr>) {
        if !self.peers.contains_key(&peer) && self.peers.len() >= PEERS_MAX {
            return;
        }
        let mut known = self.peers.remove(&peer).unwrap_or_default();
        for address in addresses {
            if is_dialable(address) && !self.own.contains(&address) && !known.contains(&address) {
                if known.len() >= ADDRESSES_PER_PEER_MAX {
                    // The last is the one that worked least recently.
                    known.pop();
                }
                known.push(address);
            }
        }
        if !known.is_empty() {
            self.peers.insert(peer, known);
        }
    }

    /// Another peer answers there.
    pub(crate) fn remove(&mut self, peer: NetId, address: SocketAddr) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.retain(|candidate| *candidate != address);
            if known.is_empty() {
                self.peers.remove(&peer);
            }
        }
    }

    /// The peer was reached there: it becomes the first to try.
    pub(crate) fn succeeded(&mut self, peer: NetId, address: SocketAddr) {
        self.failures.remove(&address);
        if !is_dialable(address) {
            return;
        }
        self.add(peer, [address]);
        if let Some(known) = self.peers.get_mut(&peer)
            && let Some(position) = known.iter().position(|candidate| *candidate == address)
        {
            known[..=position].rotate_right(1);
        }
    }

    /// Nobody, or nobody who takes us, was reached there.
    pub(crate) fn failed(&mut self, address: SocketAddr, now_ms: u64, rng: &mut impl Rng) {
        if self.failures.len() >= FAILURES_MAX {
            self.failures.retain(|_, failure| failure.next_ms > now_ms);
            if self.failures.len() >= FAILURES_MAX {
                self.failures.pop_first();
            }
        }
        let failure = self.failures.entry(address).or_insert(Failure { count: 0, next_ms: 0 });
        let wait_ms = (RETRY_FIRST_MS << failure.count.min(10)).min(RETRY_MAX_MS);
        failure.count = failure.count.saturating_add(1);
        failure.next_ms = now_ms + wait_ms + rng.random_range(0..=wait_ms / 4);
    }

    /// We answer there ourselves: never dialed again.
    pub(crate) fn set_own(&mut self, address: SocketAddr) {
        // As many as interfaces and their addresses; a cap all the same.
        if self.own.len() < FAILURES_MAX {
            self.own.insert(address);
        }
        self.failures.remove(&address);
    }

    /// Whether the address may be tried now.
    pub(crate) fn is_ready(&self, address: SocketAddr, now_ms: u64) -> bool {
        !self.own.contains(&address) && self.failures.get(&address).is_none_or(|failure| failure.next_ms <= now_ms)
    }

    /// We answer there ourselves.
    pub(crate) fn is_own(&self, address: SocketAddr) -> bool {
        self.own.contains(&address)
    }

    /// Addresses of the peer that may be tried now, best first.
    pub(crate) fn ready(&self, peer: NetId, now_ms: u64) -> Vec<SocketAddr> {
        let known = self.peers.get(&peer).map(Vec::as_slice).unwrap_or_default();
        known.iter().copied().filter(|address| self.is_ready(*address, now_ms)).collect()
    }

    /// All addresses of the peer, best first.
    pub(crate) fn of(&self, peer: NetId) -> Vec<SocketAddr> {
        self.peers.get(&peer).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 50_555))
    }

    #[test]
    fn what_worked_is_tried_first_and_the_rest_stays_in_order() {
        let (mut book, peer) = (AddressBook::default(), NetId::random());
        book.add(peer, (1..=3).map(address));
        book.succeeded(peer, address(3));
        assert_eq!(book.of(peer), [address(3), address(1), address(2)]);
        book.remove(peer, address(1));
        assert_eq!(book.ready(peer, 0), [address(3), address(2)]);
    }

    #[test]
    fn a_failed_address_waits_longer_each_time_and_at_most_the_ceiling() {
        let (mut book, peer, mut rng) = (AddressBook::default(), NetId::random(), SmallRng::seed_from_u64(1));
        book.add(peer, [address(1)]);
        let mut now_ms = 1_000;
        for expected_ms in [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
            book.failed(address(1), now_ms, &mut rng);
            assert!(book.ready(peer, now_ms + expected_ms - 1).is_empty(), "{expected_ms}");
            now_ms += expected_ms * 5 / 4;
            assert_eq!(book.ready(peer, now_ms), [address(1)], "{expected_ms}");
        }
        book.succeeded(peer, address(1));
        book.failed(address(1), now_ms, &mut rng);
        assert_eq!(book.ready(peer, now_ms + 320), [address(1)], "success starts over");
    }

    #[test]
    fn own_and_undialable_addresses_are_never_tried() {
        let (mut book, peer) = (AddressBook::default(), NetId::random());
        book.set_own(address(1));
        let bad = ["0.0.0.0:1", "10.0.0.1:0", "[fe80::1]:5", "224.0.0.1:5"];
        book.add(peer, bad.iter().map(|text| text.parse().expect("address")).chain([address(1)]));
        assert!(book.of(peer).is_empty());
        assert!(!book.is_ready(address(1), u64::MAX));
    }

    #[test]
    fn the_book_stays_small_whatever_is_said() {
        let (mut book, mut rng) = (AddressBook::default(), SmallRng::seed_from_u64(1));
        for port in 1..=6_000u16 {
            let address = SocketAddr::from(([10, 0, 0, 1], port));
            book.add(NetId::random(), [address]);
            book.failed(address, 1, &mut rng);
        }
        assert_eq!(book.peers.len(), PEERS_MAX);
        assert_eq!(book.failures.len(), FAILURES_MAX);
        let peer = *book.peers.keys().next().expect("one");
        book.add(peer, (1..=200).map(address));
        assert_eq!(book.of(peer).len(), ADDRESSES_PER_PEER_MAX);
    }
}
