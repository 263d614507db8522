//! People before a node: browsers that are signed in, and what is written down before somebody acts.

use super::{Answer, Holder};
use crate::api::{AuditCheck, AuditList, SessionsEnded};
use crate::engine::audit::{AuditNote, GivenAnswer, Once};
use crate::engine::id::UnixMillis;

/// A browser that is signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIn {
    /// Whose key it was.
    pub holder: Holder,
    /// It is over then, by the clock of whichever node is asked.
    pub expires_at: UnixMillis,
}

/// Whether an act is now in the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It is, on a majority of voters: it may be done.
    Written,
    /// It was there before, by the same idempotency key: it must not be done again.
    Before,
}

/// Sessions of browsers, and the audit log.
pub trait PeopleApi {
    /// Exchanges a key for a cookie that every node of the hive knows; none when the key is nobody's. Compared as by
    /// [`holder`](super::NodeApi::holder).
    fn sign_in(&self, key: &[u8]) -> Option<(String, SignedIn)>;
    /// Whose cookie this is; none when it is nobody's, or over. Cheap.
    fn signed_in(&self, cookie: &[u8]) -> Option<SignedIn>;
    /// Signs all browsers out, at all nodes.
    fn end_sessions(&self, by: String) -> Answer<'_, SessionsEnded>;
    /// Writes down what somebody is about to do; answers when that is durable on a majority.
    fn note(&self, note: AuditNote, once: Option<Once>) -> Answer<'_, Noted>;
    /// The same when it must be done whether or not there is a quorum: it is tried for a moment, and then with the next one.
    fn note_late(&self, note: AuditNote) -> Answer<'_, ()>;
    /// What was answered to a request of this idempotency key, waited for a moment while it is under way; none when that is not known.
    fn given_answer(&self, key: [u8; 32]) -> Answer<'_, Option<GivenAnswer>>;
    /// Keeps an answer for whoever asks again with the same idempotency key.
    fn keep_answer(&self, key: [u8; 32], answer: GivenAnswer) -> Answer<'_, ()>;
    /// The audit log, the newest first: entries with numbers below `before`, at most `limit`.
    fn audit(&self, before: Option<u64>, limit: usize) -> Answer<'_, AuditList>;
    /// Checks the chain of this node's copy.
    fn check_audit(&self) -> Answer<'_, AuditCheck>;
}
