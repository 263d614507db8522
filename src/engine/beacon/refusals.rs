//! What was refused, for the operator: silence towards the sender, not towards the people who run the hive.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Source;

/// Pairs of reason and address that are kept apart; later ones are counted under no address.
pub const REFUSALS_MAX: usize = 256;

/// Why a datagram was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Made with a key that this node does not have: most likely the secrets differ.
    WrongSecret,
    /// Not a datagram of any version that this node knows.
    Malformed,
    /// A version that this node does not speak.
    Version,
    /// Taken before, or from before the sender's restart.
    Replay,
    /// More than the sender's share.
    Rate,
    /// Liveness traffic of another hive or of an abandoned history.
    ForeignEpoch,
    /// Liveness traffic of a node that is not a member as far as this node knows (yet).
    Stranger,
    /// Meant for another node.
    Misdirected,
}

impl Reason {
    /// The word shown to people and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WrongSecret => "wrong_secret",
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::Replay => "replay",
            Self::Rate => "rate",
            Self::ForeignEpoch => "foreign_epoch",
            Self::Stranger => "stranger",
            Self::Misdirected => "misdirected",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How often and when last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// How often.
    pub count: u64,
    /// The last time.
    pub last_ms: u64,
}

/// Counts refusals by reason and address.
#[derive(Clone, Debug, Default)]
pub struct RefusalLog {
    tallies: BTreeMap<(Reason, Option<Source>), Tally>,
}

impl RefusalLog {
    /// Counts one.
    pub fn note(&mut self, reason: Reason, source: Source, now_ms: u64) {
        let mut key = (reason, Some(source));
        if self.tallies.len() >= REFUSALS_MAX && !self.tallies.contains_key(&key) {
            key = (reason, None);
        }
        let tally = self.tallies.entry(key).or_insert(Tally { count: 0, last_ms: now_ms });
        tally.count += 1;
        tally.last_ms = now_ms;
    }

    /// All tallies; no address stands for all addresses that came after the table was full.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, Option<Source>, Tally)> + '_ {
        self.tallies.iter().map(|(&(reason, source), &tally)| (reason, source, tally))
    }

    /// Number of tallies.
    pub fn len(&self) -> usize {
        self.tallies.len()
    }

    /// Whether nothing was refused.
    pub fn is_empty(&self) -> bool {
        self.tallies.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_addresses_are_counted_in_bounded_memory() {
        let mut log = RefusalLog::default();
        for number in 0..10_000u64 {
            let mut octets = [0; 16];
            octets[..8].copy_from_slice(&number.to_be_bytes());
            log.note(Reason::Malformed, Source(octets), number);
            log.note(Reason::Replay, Source(octets), number);
        }
        // One row without address per reason may come on top.
        assert!(log.len() <= REFUSALS_MAX + 8, "{}", log.len());
        for reason in [Reason::Malformed, Reason::Replay] {
            let total: u64 = log.iter().filter(|row| row.0 == reason).map(|row| row.2.count).sum();
            assert_eq!(total, 10_000, "{reason}: nothing is lost, only merged");
        }
    }

    #[test]
    fn the_same_address_is_one_row() {
        let mut log = RefusalLog::default();
        log.note(Reason::WrongSecret, Source([1; 16]), 5);
        log.note(Reason::WrongSecret, Source([1; 16]), 9);
        let rows: Vec<_> = log.iter().collect();
        assert_eq!(rows, [(Reason::WrongSecret, Some(Source([1; 16])), Tally { count: 2, last_ms: 9 })]);
    }
}
