//! Leases: how long the coordinator believes in an attempt that it hears nothing of.
//!
//! They live in the coordinator's memory only: a new coordinator counts every attempt as renewed at its election. A pure attempt
//! may go on unseen, because its only effect is an accepted artifact and its token decides about that; it is merely given to
//! another drone. One with outside effects stops itself well before it is given up, so that it never runs twice at once:
//!
//! ```text
//!   renewed ── 12 s: the drone stops it ── 20 s: the coordinator gives it up
//! ```

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::engine::id::{JobId, PeerId, Token};
use crate::engine::job::AttemptState;
use crate::engine::state::State;

/// Most attempts in one lease request.
pub const LEASES_MAX: usize = 256;

/// How often a drone renews all its attempts.
pub const RENEW_EVERY_MS: u64 = 5_000;
/// Without renewal for so long an attempt is given up: four renewals missed.
pub const LEASE_MS: u64 = 20_000;
/// A pure attempt is given up so long after the failure detector called its drone down.
pub const PURE_AFTER_DOWN_MS: u64 = 5_000;
/// A drone stops an attempt with outside effects so long after its last renewal. Leaves 8 s for killing it, and for clocks
/// that run at different speeds, before the coordinator gives it up.
pub const DRONE_STOPS_AFTER_MS: u64 = 12_000;

/// So long no lease is given for an attempt that is to be taken back, when that was not committed.
const REVOKE_MS: u64 = 5_000;

/// One attempt that a drone asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAsked {
    /// The job.
    pub job: JobId,
    /// Its fencing token.
    pub token: Token,
    /// How far it is at the drone.
    pub phase: LeasePhase,
}

/// How far an attempt is at its drone when it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeasePhase {
    /// It waits for a slot; may be taken back.
    Waits,
    /// It is about to begin.
    Begins,
    /// It has begun.
    Begun,
}

/// What the coordinator said of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseAnswer {
    /// Its fencing token.
    pub token: Token,
    /// As what it was asked about.
    pub phase: LeasePhase,
    /// It is the drone's, and may go on, or begin, or wait.
    pub valid: bool,
}

/// Whether a drone must stop an attempt by itself, so long after the renewal that was confirmed last. The time counts from
/// when that renewal was *sent*.
pub fn drone_must_stop(pure: bool, since_renewal_ms: u64) -> bool {
    !pure && since_renewal_ms >= DRONE_STOPS_AFTER_MS
}

/// When the attempts were renewed, by the coordinator's monotonic clock.
#[derive(Clone, Debug)]
pub struct Leases {
    elected_at_ms: u64,
    /// Attempts assigned before this coordinator followed the state for the first time count from its election.
    follows: bool,
    renewed: BTreeMap<Token, u64>,
    /// Attempts assigned in this term that their drones have not asked for: they wait there for a free slot.
    unasked: BTreeSet<Token>,
    /// Attempts that are being taken back, and since when: nobody gets a lease for them.
    revoking: BTreeMap<Token, u64>,
}

/// When an attempt is given up, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// From this time on.
    pub at_ms: u64,
    /// In words.
    pub why: &'static str,
}

impl Leases {
    /// Those of a coordinator that was elected now. Everything it finds counts as renewed.
    pub fn new(elected_at_ms: u64) -> Self {
        Self {
            elected_at_ms,
            follows: false,
            renewed: BTreeMap::new(),
            unasked: BTreeSet::new(),
            revoking: BTreeMap::new(),
        }
    }

    /// A drone says that it works on these. Tokens that are not live attempts are dropped by the next
    /// [`follow`](Self::follow).
    pub fn renew(&mut self, tokens: impl IntoIterator<Item = Token>, now_ms: u64) {
        for token in tokens {
            self.unasked.remove(&token);
            self.renew_waiting([token], now_ms);
        }
    }

    /// A drone says that these wait with it for a free slot: they have not begun, and may be taken back.
    pub fn renew_waiting(&mut self, tokens: impl IntoIterator<Item = Token>, now_ms: u64) {
        for token in tokens {
            let at = self.renewed.entry(token).or_insert(now_ms);
            *at = (*at).max(now_ms);
        }
    }

    /// Answers a drone, and renews what is its. To be asked only of a coordinator that has just made sure that it still is one, with
    /// a state in which everything is applied that was committed before.
    pub fn answer(&mut self, state: &State, drone: &PeerId, asked: &[LeaseAsked], now_ms: u64) -> Vec<bool> {
        let valid: Vec<bool> = asked.iter().map(|asked| self.is_valid(state, drone, asked)).collect();
        for (asked, _) in asked.iter().zip(&valid).filter(|(_, valid)| **valid) {
            if asked.phase == LeasePhase::Waits {
                self.renew_waiting([asked.token], now_ms);
            } else {
                self.renew([asked.token], now_ms);
            }
        }
        valid
    }

    fn is_valid(&self, state: &State, drone: &PeerId, asked: &LeaseAsked) -> bool {
        let Some(attempt) = state.job(&asked.job).and_then(|job| job.live_attempt()) else { return false };
        // What has begun does not begin again: the drone's own copy of the state may be older than its last life. What is being
        // taken back must not begin either.
        let may_begin = attempt.state == AttemptState::Assigned && !self.is_revoking(&asked.token);
        let own = attempt.token == asked.token && attempt.node == *drone;
        own && (may_begin || asked.phase == LeasePhase::Begun)
    }

    /// Starts leases of attempts that are new and drops those of attempts that are over.
    pub fn follow(&mut self, state: &State, now_ms: u64) {
        let live: BTreeSet<Token> =
            state.busy_nodes().flat_map(|peer| state.live_attempts(peer)).map(|(_, attempt)| attempt.token).collect();
        self.renewed.retain(|token, _| live.contains(token));
        self.unasked.retain(|token| live.contains(token));
        self.revoking.retain(|token, since_ms| live.contains(token) && now_ms.saturating_sub(*since_ms) < REVOKE_MS);
        let since = if self.follows { now_ms } else { self.elected_at_ms };
        for token in live {
            if let Entry::Vacant(new) = self.renewed.entry(token) {
                new.insert(since);
                // Of attempts from before this term nobody here knows whether they have begun.
                if self.follows {
                    self.unasked.insert(token);
                }
            }
        }
        self.follows = true;
    }

    /// Whether an attempt waits at its drone for a free slot, so that taking it back stops nothing.
    pub fn is_unasked(&self, token: &Token) -> bool {
        self.unasked.contains(token) && !self.revoking.contains_key(token)
    }

    /// From here on no lease is given for an attempt, for as long as it takes to take it back.
    pub fn revoke(&mut self, token: Token, now_ms: u64) {
        self.revoking.insert(token, now_ms);
    }

    /// Whether an attempt is being taken back.
    pub fn is_revoking(&self, token: &Token) -> bool {
        self.revoking.contains_key(token)
    }

    /// When an attempt is to be given up. `down_since_ms`: since when its drone is down.
    pub fn expiry(&self, token: &Token, pure: bool, down_since_ms: Option<u64>) -> Expiry {
        let renewed_at_ms = self.renewed.get(token).copied().unwrap_or(self.elected_at_ms);
        let silent = Expiry { at_ms: renewed_at_ms + LEASE_MS, why: "not heard of for 20 s" };
        // A renewal after the detector's verdict shows that the drone lives.
        let down = down_since_ms
            .filter(|_| pure)
            .map(|since_ms| Expiry { at_ms: since_ms.max(renewed_at_ms) + PURE_AFTER_DOWN_MS, why: "down" });
        down.filter(|down| down.at_ms < silent.at_ms).unwrap_or(silent)
    }

    /// When an attempt of a drone of the Python swarm is to be given up: it renews by asking for anything.
    pub fn expiry_of_legacy(&self, token: &Token, lease_ms: u64) -> Expiry {
        let renewed_at_ms = self.renewed.get(token).copied().unwrap_or(self.elected_at_ms);
        Expiry { at_ms: renewed_at_ms.saturating_add(lease_ms), why: "has not asked for anything any more" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::id::EpochId;

    fn token(counter: u64) -> Token {
        Token { epoch: EpochId([1; 16]), counter }
    }

    #[test]
    fn an_attempt_expires_twenty_seconds_after_its_last_renewal() {
        let mut leases = Leases::new(1_000);
        leases.renew([token(1)], 5_000);
        leases.renew([token(1)], 4_000);
        for pure in [true, false] {
            assert_eq!(leases.expiry(&token(1), pure, None).at_ms, 25_000);
        }
    }

    #[test]
    fn a_new_coordinator_counts_all_as_renewed_at_its_election() {
        let leases = Leases::new(100_000);
        assert_eq!(leases.expiry(&token(7), false, None).at_ms, 120_000);
    }

    #[test]
    fn down_shortens_pure_leases_only() {
        let mut leases = Leases::new(0);
        leases.renew([token(1)], 10_000);
        for (pure, down_since_ms, expected_ms) in [
            (true, Some(12_000), 17_000),
            (false, Some(12_000), 30_000),
            // Renewed after it was called down.
            (true, Some(3_000), 15_000),
            // Down so late that the renewal decides.
            (true, Some(28_000), 30_000),
            (true, None, 30_000),
        ] {
            let expiry = leases.expiry(&token(1), pure, down_since_ms);
            assert_eq!(expiry.at_ms, expected_ms, "pure {pure}, down since {down_since_ms:?}");
        }
    }

    #[test]
    fn effects_end_on_the_drone_before_the_coordinator_gives_the_attempt_up() {
        assert!(!drone_must_stop(false, 11_999));
        assert!(drone_must_stop(false, 12_000));
        assert!(!drone_must_stop(true, u64::MAX));
        const { assert!(DRONE_STOPS_AFTER_MS + RENEW_EVERY_MS < LEASE_MS) };
    }
}
