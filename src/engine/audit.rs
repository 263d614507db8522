//! What people had the hive do, as a chain: each entry's hash covers the one before, so that none can be changed, left out or moved
//! without everything after it being wrong.
//!
//! ```text
//!   hash(n) = SHA-256( "hive audit v1" · hash(n-1) · number · at · by · from · node · act · summary )
//! ```
//!
//! Numbers and times are 8 bytes, big-endian; each text stands after its length in bytes, 8 bytes too. Never done here: deciding what is
//! written down (`web::audit` does), and taking secrets out of it.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::id::UnixMillis;

/// Longest name of who asks, bytes.
pub const BY_MAX: usize = 128;
/// Longest place from where it was asked, bytes.
pub const FROM_MAX: usize = 64;
/// Longest name of the node that was asked, bytes.
pub const NODE_MAX: usize = 64;
/// Longest act (method and path), bytes.
pub const ACT_MAX: usize = 320;
/// Longest summary of what was sent along, bytes.
pub const SUMMARY_MAX: usize = 1_024;

/// What somebody is about to have done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditNote {
    /// Who: a user of that machine, `the admin key`, or `token NAME`.
    pub by: String,
    /// From where: an address, or `socket`.
    pub from: String,
    /// Name of the node that was asked.
    pub node: String,
    /// Method and path.
    pub act: String,
    /// What was sent along, shortened and without secrets.
    pub summary: String,
}

/// A link of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditEntry {
    /// Counts from 1, without gaps.
    pub number: u64,
    /// When, by the coordinator's clock.
    pub at: UnixMillis,
    /// What.
    pub note: AuditNote,
    /// See the head of this file.
    #[serde(with = "serde_bytes")]
    pub hash: [u8; 32],
}

impl AuditEntry {
    /// The entry that follows one with the hash `before`.
    pub fn after(before: &[u8; 32], number: u64, at: UnixMillis, note: AuditNote) -> Self {
        let mut entry = Self { number, at, note, hash: [0; 32] };
        entry.hash = entry.hash_after(before);
        entry
    }

    /// The hash that it must have when the one before has the hash `before`.
    pub fn hash_after(&self, before: &[u8; 32]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"hive audit v1");
        hash.update(before);
        hash.update(self.number.to_be_bytes());
        hash.update(self.at.0.to_be_bytes());
        let AuditNote { by, from, node, act, summary } = &self.note;
        for text in [by, from, node, act, summary] {
            hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(text.as_bytes());
        }
        hash.finalize().into()
    }
}

/// Where a chain is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// An entry is missing, or another stands in its place.
    #[error("entry {0} is missing")]
    Missing(u64),
    /// An entry, or the one before it, is not what was written.
    #[error("entry {0} is not what was written")]
    Changed(u64),
    /// The last entry is not the last that was written.
    #[error("the chain ends at entry {0}, before its end")]
    Cut(u64),
}

/// Checks entries in order, from the hash before the first of them to the hash of the last. How many there are.
pub fn verify<'a>(
    base: (u64, [u8; 32]),
    head: (u64, [u8; 32]),
    entries: impl Iterator<Item = &'a AuditEntry>,
) -> Result<u64, Broken> {
    let (mut number, mut hash) = base;
    for entry in entries {
        number += 1;
        if entry.number != number {
            return Err(Broken::Missing(number));
        }
        if entry.hash_after(&hash) != entry.hash {
            return Err(Broken::Changed(number));
        }
        hash = entry.hash;
    }
    if (number, hash) == head { Ok(number - base.0) } else { Err(Broken::Cut(number)) }
}

/// What makes a repeated request known: a digest of who asks and of the key he chose, and one of what he asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Once {
    /// Of holder and key.
    #[serde(with = "serde_bytes")]
    pub key: [u8; 32],
    /// Of method, path and body.
    #[serde(with = "serde_bytes")]
    pub request: [u8; 32],
}

/// The answer that was given to a request that may be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenAnswer {
    /// HTTP status.
    pub status: u16,
    /// JSON; empty when it was too long to be kept.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: u64) -> Vec<AuditEntry> {
        let mut entries: Vec<AuditEntry> = Vec::new();
        for number in 1..=length {
            let before = entries.last().map_or([0; 32], |entry| entry.hash);
            let note = AuditNote { by: "ann".to_owned(), act: format!("POST /x/{number}"), ..AuditNote::default() };
            entries.push(AuditEntry::after(&before, number, UnixMillis(number), note));
        }
        entries
    }

    #[test]
    fn whatever_is_changed_left_out_moved_or_cut_off_shows() {
        let good = chain(9);
        let head = (9, good[8].hash);
        let base = (0, [0; 32]);
        assert_eq!(verify(base, head, good.iter()), Ok(9));
        assert_eq!(verify((4, good[3].hash), head, good[4..].iter()), Ok(5), "a part that begins later");
        type Change<'a> = &'a dyn Fn(&mut Vec<AuditEntry>);
        let changes: [(Change<'_>, Broken); 6] = [
            (&|chain| chain[4].note.by = "eve".to_owned(), Broken::Changed(5)),
            (&|chain| chain[4].at = UnixMillis(99), Broken::Changed(5)),
            (&|chain| chain[4].hash = [1; 32], Broken::Changed(5)),
            (&|chain| drop(chain.remove(4)), Broken::Missing(5)),
            (&|chain| chain.swap(4, 5), Broken::Missing(5)),
            (&|chain| drop(chain.pop()), Broken::Cut(8)),
        ];
        for (change, expected) in changes {
            let mut bad = good.clone();
            change(&mut bad);
            assert_eq!(verify(base, head, bad.iter()), Err(expected));
        }
        // Rewritten from one entry on, with hashes that fit: the head that others know tells.
        let mut rewritten = chain(8);
        rewritten.truncate(4);
        let before = rewritten[3].hash;
        let note = AuditNote { by: "eve".to_owned(), ..AuditNote::default() };
        rewritten.push(AuditEntry::after(&before, 5, UnixMillis(5), note));
        assert_eq!(verify(base, head, rewritten.iter()), Err(Broken::Cut(5)));
    }

    #[test]
    fn no_two_notes_have_the_same_bytes() {
        let note = |act: &str, summary: &str| AuditNote {
            act: act.to_owned(),
            summary: summary.to_owned(),
            ..AuditNote::default()
        };
        let hash = |note| AuditEntry::after(&[0; 32], 1, UnixMillis(1), note).hash;
        assert_ne!(hash(note("ab", "c")), hash(note("a", "bc")));
    }
}
