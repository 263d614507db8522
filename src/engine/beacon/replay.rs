//! A datagram is taken once.
//!
//! Per sender and incarnation a window over the last 64 sequence numbers tells new from old; anything below the window, and
//! any incarnation below the highest seen, is old. Only senders whose MAC was verified come here, so the table can be
//! filled by holders of the secret alone; it forgets the one that was silent longest. Freshness across a restart of
//! this node does not come from here but from echoed nonces.

use std::collections::BTreeMap;

use crate::engine::id::PeerId;

/// Sequence numbers that may still arrive out of order.
pub const WINDOW: u64 = 64;
/// Senders that are remembered: three times the largest hive.
pub const SENDERS_MAX: usize = 1_024;

#[derive(Clone, Copy, Debug)]
struct Sender {
    incarnation: u64,
    highest: u64,
    /// Bit `n` is set when `highest - n` was taken.
    taken: u64,
    used: u64,
}

/// Decides whether a datagram is new.
#[derive(Clone, Debug, Default)]
pub struct ReplayGuard {
    senders: BTreeMap<PeerId, Sender>,
    by_use: BTreeMap<u64, PeerId>,
    uses: u64,
}

impl ReplayGuard {
    /// Takes the datagram, or says no because it, or something that makes it obsolete, was taken before.
    pub fn accept(&mut self, peer: &PeerId, incarnation: u64, sequence: u64) -> bool {
        self.uses += 1;
        let uses = self.uses;
        let Some(sender) = self.senders.get_mut(peer) else {
            self.insert(peer, Sender { incarnation, highest: sequence, taken: 1, used: uses });
            return true;
        };
        if !sender.take(incarnation, sequence) {
            return false;
        }
        self.by_use.remove(&sender.used);
        sender.used = uses;
        self.by_use.insert(uses, peer.clone());
        true
    }

    fn insert(&mut self, peer: &PeerId, sender: Sender) {
        if self.senders.len() >= SENDERS_MAX
            && let Some((_, silent)) = self.by_use.pop_first()
        {
            self.senders.remove(&silent);
        }
        self.by_use.insert(sender.used, peer.clone());
        self.senders.insert(peer.clone(), sender);
    }

    /// Number of remembered senders.
    pub fn len(&self) -> usize {
        self.senders.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.senders.is_empty()
    }
}

impl Sender {
    fn take(&mut self, incarnation: u64, sequence: u64) -> bool {
        if incarnation != self.incarnation {
            if incarnation < self.incarnation {
                return false;
            }
            (self.incarnation, self.highest, self.taken) = (incarnation, sequence, 1);
            return true;
        }
        if sequence > self.highest {
            let ahead = sequence - self.highest;
            self.taken = if ahead < WINDOW { self.taken << ahead | 1 } else { 1 };
            self.highest = sequence;
            return true;
        }
        let behind = self.highest - sequence;
        if behind >= WINDOW || self.taken & (1 << behind) != 0 {
            return false;
        }
        self.taken |= 1 << behind;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn order_does_not_matter_within_the_window() {
        let mut guard = ReplayGuard::default();
        let peer = PeerId::new("a");
        for sequence in [70, 10, 71, 8, 69, 135] {
            assert!(guard.accept(&peer, 1, sequence), "{sequence}");
            assert!(!guard.accept(&peer, 1, sequence), "{sequence} again");
        }
        assert!(!guard.accept(&peer, 1, 71), "below the window, even if it was never taken");
        assert!(guard.accept(&peer, 1, 72));
    }

    #[test]
    fn a_restart_opens_a_new_window_and_closes_the_old_one() {
        let mut guard = ReplayGuard::default();
        let peer = PeerId::new("a");
        assert!(guard.accept(&peer, 5, 1_000));
        assert!(guard.accept(&peer, 6, 1));
        assert!(!guard.accept(&peer, 5, 1_001));
        assert!(guard.accept(&peer, u64::MAX, u64::MAX));
        assert!(guard.accept(&peer, u64::MAX, u64::MAX - 1));
    }

    proptest! {
        #[test]
        fn nothing_is_taken_twice(arrivals in proptest::collection::vec((0u8..4, 0u64..3, 0u64..200), 0..2_000)) {
            let mut guard = ReplayGuard::default();
            let mut taken = BTreeSet::new();
            for (peer, incarnation, sequence) in arrivals {
                if guard.accept(&PeerId::new(peer.to_string()), incarnation, sequence) {
                    prop_assert!(taken.insert((peer, incarnation, sequence)));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn memory_is_bounded_and_forgets_the_silent_one(senders in proptest::collection::vec(any::<u16>(), 0..4_000)) {
            let mut guard = ReplayGuard::default();
            let loyal = PeerId::new("loyal");
            for (sequence, sender) in (1u64..).zip(senders) {
                prop_assert!(guard.accept(&loyal, 1, sequence));
                guard.accept(&PeerId::new(sender.to_string()), 1, sequence);
                prop_assert!(guard.len() <= SENDERS_MAX);
                prop_assert_eq!(guard.len(), guard.by_use.len());
                prop_assert!(!guard.accept(&loyal, 1, sequence));
            }
        }
    }
}
