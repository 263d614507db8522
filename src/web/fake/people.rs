//! The node of the tests as people find it: one cookie is good, and what is written down is kept in order.

use std::sync::atomic::Ordering;

use super::{FakeNode, good};
use crate::api::{ApiError, AuditCheck, AuditList, ErrorCode, SessionsEnded};
use crate::engine::access::Scope;
use crate::engine::audit::{AuditNote, GivenAnswer, Once};
use crate::engine::id::UnixMillis;
use crate::web::node::{Answer, Holder, NodeApi as _, Noted, PeopleApi, SignedIn};

/// The cookie that is good.
pub(crate) const COOKIE: &str = "v1.cookie.of.the.fake";

fn signed(holder: Holder) -> SignedIn {
    SignedIn { holder, expires_at: UnixMillis(u64::from(u32::MAX) * 1_000) }
}

impl PeopleApi for FakeNode {
    fn sign_in(&self, key: &[u8]) -> Option<(String, SignedIn)> {
        Some((COOKIE.to_owned(), signed(self.holder(key)?)))
    }

    fn signed_in(&self, cookie: &[u8]) -> Option<SignedIn> {
        self.compared.fetch_add(1, Ordering::Relaxed);
        let holder = Holder { name: "the admin key".to_owned(), scope: Scope::Admin, drone: None };
        (cookie == COOKIE.as_bytes()).then(|| signed(holder))
    }

    fn end_sessions(&self, by: String) -> Answer<'_, SessionsEnded> {
        self.act(format!("sessions ended by {by}"));
        good(SessionsEnded { times: 1 })
    }

    fn note(&self, note: AuditNote, once: Option<Once>) -> Answer<'_, Noted> {
        if !self.quorum.load(Ordering::Relaxed) {
            let error = ApiError::new(ErrorCode::NoQuorum, "nothing was done", "wait");
            return Box::pin(async move { Err(error) });
        }
        if let Some(once) = once {
            let mut known = self.answers.lock().expect("not poisoned");
            match known.get(&once.key) {
                Some((request, _)) if *request == once.request => return good(Noted::Before),
                Some(_) => {
                    let error = ApiError::new(ErrorCode::Conflict, "another request", "another key");
                    return Box::pin(async move { Err(error) });
                }
                None => known.insert(once.key, (once.request, None)),
            };
        }
        self.notes.lock().expect("not poisoned").push((note, self.acts().len()));
        good(Noted::Written)
    }

    fn note_late(&self, note: AuditNote) -> Answer<'_, ()> {
        self.notes.lock().expect("not poisoned").push((note, self.acts().len()));
        good(())
    }

    fn given_answer(&self, key: [u8; 32]) -> Answer<'_, Option<GivenAnswer>> {
        good(self.answers.lock().expect("not poisoned").get(&key).and_then(|(_, answer)| answer.clone()))
    }

    fn keep_answer(&self, key: [u8; 32], answer: GivenAnswer) -> Answer<'_, ()> {
        if let Some((_, kept)) = self.answers.lock().expect("not poisoned").get_mut(&key) {
            *kept = Some(answer);
        }
        good(())
    }

    fn audit(&self, before: Option<u64>, limit: usize) -> Answer<'_, AuditList> {
        self.act(format!("audit before {before:?} limit {limit}"));
        good(AuditList::default())
    }

    fn check_audit(&self) -> Answer<'_, AuditCheck> {
        good(AuditCheck { intact: true, entries: 0, last: 0, head: String::new(), problem: None })
    }
}
