//! How far this node may trust its own view of the others (Lifeguard's idea, Dadgar et al. 2017).
//!
//! A build machine saturates its processors by design, and a detector that is starved sees everybody else as silent. So each
//! sign of being slow raises a score, each clean round lowers it, the score stretches the time from suspicion to *down*, and from
//! [`ACCUSE_BELOW`] on the node accuses nobody: others are in a better position to do it.
//!
//! A missed answer counts only the first time for a peer, and is taken back when that peer turns out to be down or answers
//! the hive again: in a small hive the one dead node would otherwise convince its observers that they are ill themselves.

use std::collections::BTreeSet;

use super::id::PeerId;

/// Highest score.
pub const SCORE_MAX: u32 = 7;
/// A node with this score or more accuses nobody.
pub const ACCUSE_BELOW: u32 = 4;
/// A timer that comes later than this was starved.
pub const LAG_MS: u64 = 100;

/// The score and what it is made of.
#[derive(Clone, Debug, Default)]
pub struct LocalHealth {
    score: u32,
    /// Something went wrong in this round; the score may not fall at its end.
    troubled: bool,
    /// Lag was counted in this round: one starvation delays many timers.
    lagged: bool,
    missed: BTreeSet<PeerId>,
}

impl LocalHealth {
    /// 0 is well, [`SCORE_MAX`] is bad.
    pub fn score(&self) -> u32 {
        self.score
    }

    /// What to multiply the time from suspicion to *down* with.
    pub fn multiplier(&self) -> u32 {
        self.score + 1
    }

    /// Whether this node may start a suspicion.
    pub fn may_accuse(&self) -> bool {
        self.score < ACCUSE_BELOW
    }

    /// A probe that this node started was not answered by `peer`.
    pub fn missed_ack(&mut self, peer: &PeerId) {
        self.troubled = true;
        if self.missed.insert(peer.clone()) {
            self.worsen();
        }
    }

    /// `peer` answered, or the hive found it down: either way the missed answer no longer tells anything about this node.
    pub fn explained(&mut self, peer: &PeerId, down: bool) {
        if self.missed.remove(peer) && down {
            self.score = self.score.saturating_sub(1);
        }
    }

    /// A timer came `lag_ms` late.
    pub fn timer_lag(&mut self, lag_ms: u64) {
        if lag_ms > LAG_MS && !self.lagged {
            self.lagged = true;
            self.worsen();
        }
    }

    /// This node had to refute a suspicion about itself.
    pub fn refuted(&mut self) {
        self.worsen();
    }

    /// A probe round is over; a clean one lowers the score.
    pub fn round_ended(&mut self) {
        if !self.troubled {
            self.score = self.score.saturating_sub(1);
        }
        self.troubled = false;
        self.lagged = false;
    }

    fn worsen(&mut self) {
        self.troubled = true;
        self.score = (self.score + 1).min(SCORE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_starved_node_stops_accusing_and_recovers() {
        let mut health = LocalHealth::default();
        assert!(health.may_accuse());
        for _ in 0..4 {
            health.timer_lag(101);
            health.timer_lag(5_000);
            health.round_ended();
        }
        assert_eq!(health.score(), 4, "one per round, however many timers were late");
        assert!(!health.may_accuse());
        assert_eq!(health.multiplier(), 5);
        health.timer_lag(LAG_MS);
        health.round_ended();
        assert_eq!(health.score(), 3);
        assert!(health.may_accuse());
    }

    #[test]
    fn one_dead_peer_does_not_make_its_observer_ill() {
        let mut health = LocalHealth::default();
        let dead = PeerId::new("dead");
        for _ in 0..20 {
            health.missed_ack(&dead);
            health.round_ended();
        }
        assert_eq!(health.score(), 1);
        health.explained(&dead, true);
        assert_eq!(health.score(), 0);
    }

    #[test]
    fn silence_of_many_at_once_points_at_ourselves() {
        let mut health = LocalHealth::default();
        for number in 0..5 {
            health.missed_ack(&PeerId::new(number.to_string()));
            health.round_ended();
        }
        assert!(!health.may_accuse());
    }

    proptest! {
        #[test]
        fn the_score_stays_in_its_bounds(steps in proptest::collection::vec((0u8..5, 0u8..6), 0..500)) {
            let mut health = LocalHealth::default();
            for (step, peer) in steps {
                let peer = PeerId::new(peer.to_string());
                match step {
                    0 => health.missed_ack(&peer),
                    1 => health.timer_lag(1_000),
                    2 => health.refuted(),
                    3 => health.explained(&peer, true),
                    _ => health.round_ended(),
                }
                prop_assert!(health.score() <= SCORE_MAX);
            }
            for _ in 0..=SCORE_MAX {
                health.round_ended();
                health.round_ended();
            }
            prop_assert_eq!(health.score(), 0);
        }
    }
}
