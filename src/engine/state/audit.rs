//! The audit log, and requests that may be repeated: a bounded tail of the chain, and a day of answers.
//!
//! Never done here: deciding what is written down, and acting.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::rows::RowKey;
use super::{Context, Executed, State, clip, reject};
use crate::engine::audit::{
    ACT_MAX, AuditEntry, AuditNote, BY_MAX, Broken, FROM_MAX, GivenAnswer, NODE_MAX, Once, SUMMARY_MAX, verify,
};
use crate::engine::command::{RejectCode, Reply};

/// Entries that are kept; the hash before the oldest of them stays, so that what is kept can be verified.
pub const AUDIT_KEPT: u64 = 4_096;
/// Repeatable requests that are remembered; the oldest makes room.
pub const ONCE_KEPT: usize = 2_048;
/// How long, milliseconds of hive time.
pub const ONCE_MS: u64 = 86_400_000;
/// Longest answer that is kept, bytes.
pub const ANSWER_KEPT_MAX: usize = 8 << 10;

/// Both ends of what is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditHead {
    /// The last entry ever written, and its hash.
    last: u64,
    #[serde(with = "serde_bytes")]
    hash: [u8; 32],
    /// The one before the oldest that is kept, and its hash.
    base: u64,
    #[serde(with = "serde_bytes")]
    base_hash: [u8; 32],
}

/// A request that may be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    hive_ms: u64,
    #[serde(with = "serde_bytes")]
    request: [u8; 32],
    answer: Option<GivenAnswer>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Audit {
    head: AuditHead,
    entries: BTreeMap<u64, AuditEntry>,
    asked: BTreeMap<[u8; 32], Asked>,
    /// The same by age.
    ages: BTreeSet<(u64, [u8; 32])>,
}

impl Audit {
    pub(super) fn head(&self) -> Option<&AuditHead> {
        (self.head != AuditHead::default()).then_some(&self.head)
    }

    pub(super) fn entry(&self, number: u64) -> Option<&AuditEntry> {
        self.entries.get(&number)
    }

    pub(super) fn asked(&self, key: &[u8; 32]) -> Option<&Asked> {
        self.asked.get(key)
    }

    pub(super) fn row_keys(&self) -> impl Iterator<Item = RowKey> {
        let head = self.head().map(|_| RowKey::AuditHead);
        let entries = self.entries.keys().copied().map(RowKey::Audit);
        head.into_iter().chain(entries).chain(self.asked.keys().copied().map(RowKey::Asked))
    }

    pub(super) fn load_head(&mut self, head: AuditHead) {
        self.head = head;
    }

    pub(super) fn load_entry(&mut self, number: u64, entry: AuditEntry) {
        self.entries.insert(number, entry);
    }

    pub(super) fn load_asked(&mut self, key: [u8; 32], asked: Asked) {
        self.ages.insert((asked.hive_ms, key));
        self.asked.insert(key, asked);
    }
}

impl State {
    /// Entries of the audit log with numbers below `before`, the newest first, at most `limit`.
    pub fn audit(&self, before: Option<u64>, limit: usize) -> impl Iterator<Item = &AuditEntry> {
        self.audit.entries.range(..before.unwrap_or(u64::MAX)).rev().take(limit).map(|(_, entry)| entry)
    }

    /// Number and hash of the last entry ever written; 0 when there is none.
    pub fn audit_head(&self) -> (u64, [u8; 32]) {
        (self.audit.head.last, self.audit.head.hash)
    }

    /// Checks all that is kept; how many entries that are.
    pub fn verify_audit(&self) -> Result<u64, Broken> {
        let head = &self.audit.head;
        verify((head.base, head.base_hash), (head.last, head.hash), self.audit.entries.values())
    }

    /// What became of a request that may be repeated; none when it is not known, none within while it is not answered.
    pub fn given_answer(&self, key: &[u8; 32]) -> Option<Option<&GivenAnswer>> {
        self.audit.asked.get(key).map(|asked| asked.answer.as_ref())
    }

    pub(super) fn note_act(&mut self, context: Context, note: AuditNote, once: Option<Once>) -> Executed {
        if let Some(once) = once {
            let now_ms = self.meta.hive_time_ms;
            let known = self.audit.asked.get(&once.key);
            match known.filter(|known| now_ms.saturating_sub(known.hive_ms) < ONCE_MS) {
                Some(known) if known.request == once.request => {
                    return reject(RejectCode::Stale, "this was asked before");
                }
                Some(_) => {
                    return reject(RejectCode::Conflict, "this idempotency key belongs to another request");
                }
                None => {}
            }
            self.forget_old_requests();
            self.audit.load_asked(once.key, Asked { hive_ms: now_ms, request: once.request, answer: None });
            self.dirty.insert(RowKey::Asked(once.key));
        }
        // Cut rather than refused: what somebody does is written down however he puts it.
        let note = AuditNote {
            by: clip(&note.by, BY_MAX),
            from: clip(&note.from, FROM_MAX),
            node: clip(&note.node, NODE_MAX),
            act: clip(&note.act, ACT_MAX),
            summary: clip(&note.summary, SUMMARY_MAX),
        };
        let number = self.audit.head.last + 1;
        let entry = AuditEntry::after(&self.audit.head.hash, number, context.at, note);
        (self.audit.head.last, self.audit.head.hash) = (number, entry.hash);
        self.audit.entries.insert(number, entry);
        self.dirty.insert(RowKey::Audit(number));
        if number - self.audit.head.base > AUDIT_KEPT
            && let Some((oldest, gone)) = self.audit.entries.pop_first()
        {
            (self.audit.head.base, self.audit.head.base_hash) = (oldest, gone.hash);
            self.dirty.insert(RowKey::Audit(oldest));
        }
        self.dirty.insert(RowKey::AuditHead);
        Ok(Reply::Done)
    }

    pub(super) fn keep_answer(&mut self, key: [u8; 32], answer: GivenAnswer) -> Executed {
        let Some(asked) = self.audit.asked.get_mut(&key) else {
            return reject(RejectCode::NotFound, "no such request, or it was forgotten");
        };
        if answer.body.len() > ANSWER_KEPT_MAX {
            return reject(RejectCode::Invalid, format!("an answer of more than {ANSWER_KEPT_MAX} bytes is not kept"));
        }
        if asked.answer.is_some() {
            return reject(RejectCode::Conflict, "it was answered before");
        }
        asked.answer = Some(answer);
        self.dirty.insert(RowKey::Asked(key));
        Ok(Reply::Done)
    }

    /// Those of more than a day ago, and the oldest where there are too many.
    fn forget_old_requests(&mut self) {
        let now_ms = self.meta.hive_time_ms;
        while let Some(&(hive_ms, key)) = self.audit.ages.first() {
            if now_ms.saturating_sub(hive_ms) < ONCE_MS && self.audit.asked.len() < ONCE_KEPT {
                break;
            }
            self.audit.ages.pop_first();
            self.audit.asked.remove(&key);
            self.dirty.insert(RowKey::Asked(key));
        }
    }
}
