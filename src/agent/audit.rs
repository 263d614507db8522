//! The audit log of this hive, written before somebody acts.
//!
//! An act without an entry cannot be: `web::audit` asks here first, and goes on only when the entry is committed. What has to be done
//! without a quorum (`hive recover`, an address for this machine) is written into this agent's own log at once, and into the hive's with
//! the next entry. Never done here: deciding what is written down, and taking secrets out of it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;

use super::node_api::Api;
use super::shared::Shared;
use super::{accepted, browser, propose};
use crate::api::{ApiError, ApiResult, AuditCheck, AuditLine, AuditList, ErrorCode, SessionsEnded};
use crate::engine::audit::{AuditEntry, AuditNote, GivenAnswer, Once};
use crate::engine::command::{Command, RejectCode, Reply};
use crate::engine::id::UnixMillis;
use crate::engine::state::State;
use crate::web::node::{Answer, Noted, PeopleApi, SignedIn};

/// How long writing an entry may take before nothing is done.
const TIMEOUT: Duration = Duration::from_secs(8);
/// The same for what is done in any case.
const LATE_TIMEOUT: Duration = Duration::from_millis(800);
/// Entries that wait for a quorum; the oldest is given up first, as it is in this agent's own log.
const WAITING_MAX: usize = 64;
/// How long the answer to a request that is under way is awaited.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Entries that could not be written when they should have been.
#[derive(Default)]
pub(super) struct Waiting(Mutex<VecDeque<AuditNote>>);

impl Waiting {
    fn push(&self, note: AuditNote) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push_back(note);
        if waiting.len() > WAITING_MAX {
            waiting.pop_front();
        }
    }

    fn first(&self) -> Option<AuditNote> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).front().cloned()
    }

    fn done(&self, note: &AuditNote) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.front() == Some(note) {
            waiting.pop_front();
        }
    }
}

fn not_written(error: ApiError) -> ApiError {
    let message = format!("nothing was done, as it could not be written into the audit log first: {}", error.message);
    ApiError { message, ..error }
}

async fn write(shared: &Shared, note: AuditNote, once: Option<Once>, deadline: Duration) -> ApiResult<Noted> {
    let reply = propose(shared, Command::Audit { note, once }, deadline).await.map_err(not_written)?;
    match reply {
        Reply::Rejected { code: RejectCode::Stale, .. } => Ok(Noted::Before),
        Reply::Rejected { code: RejectCode::Conflict, message } => {
            Err(ApiError::new(ErrorCode::Conflict, message, "take another key for each request; see hive status"))
        }
        other @ (Reply::Done
        | Reply::Role { .. }
        | Reply::Assigned { .. }
        | Reply::Changed { .. }
        | Reply::Rejected { .. }) => accepted(other).map(|()| Noted::Written).map_err(not_written),
    }
}

impl Api {
    async fn write_waiting(&self) -> ApiResult<()> {
        while let Some(note) = self.waiting.first() {
            write(&self.shared, note.clone(), None, LATE_TIMEOUT).await?;
            self.waiting.done(&note);
        }
        Ok(())
    }

    fn here(&self, note: AuditNote) -> AuditNote {
        AuditNote { node: self.shared.me.name.clone(), ..note }
    }
}

impl PeopleApi for Api {
    fn sign_in(&self, key: &[u8]) -> Option<(String, SignedIn)> {
        browser::sign_in(&self.shared, key)
    }

    fn signed_in(&self, cookie: &[u8]) -> Option<SignedIn> {
        browser::signed_in(&self.shared, cookie)
    }

    fn end_sessions(&self, by: String) -> Answer<'_, SessionsEnded> {
        browser::end_all(&self.shared, by).boxed()
    }

    fn note(&self, note: AuditNote, once: Option<Once>) -> Answer<'_, Noted> {
        async move {
            self.write_waiting().await?;
            write(&self.shared, self.here(note), once, TIMEOUT).await
        }
        .boxed()
    }

    fn note_late(&self, note: AuditNote) -> Answer<'_, ()> {
        async move {
            let mut note = self.here(note);
            if let Err(error) = write(&self.shared, note.clone(), None, LATE_TIMEOUT).await {
                tracing::warn!(
                    by = note.by,
                    act = note.act,
                    why = error.message,
                    "done without an audit entry for now"
                );
                note.summary = format!("written down late: {}", note.summary);
                self.waiting.push(note);
            }
            Ok(())
        }
        .boxed()
    }

    fn given_answer(&self, key: [u8; 32]) -> Answer<'_, Option<GivenAnswer>> {
        async move {
            let mut applied = self.shared.consensus.replica().watch();
            let find = |state: &State| state.given_answer(&key).map(|answer| answer.cloned());
            let given = async {
                loop {
                    if let Some(Some(answer)) = self.shared.read(find) {
                        return Some(answer);
                    }
                    applied.changed().await.ok()?;
                }
            };
            Ok(tokio::time::timeout(ANSWER_PATIENCE, given).await.ok().flatten())
        }
        .boxed()
    }

    fn keep_answer(&self, key: [u8; 32], answer: GivenAnswer) -> Answer<'_, ()> {
        async move { accepted(propose(&self.shared, Command::KeepAnswer { key, answer }, TIMEOUT).await?) }.boxed()
    }

    fn audit(&self, before: Option<u64>, limit: usize) -> Answer<'_, AuditList> {
        async move { Ok(self.shared.read(|state| list(state, before, limit, None))) }.boxed()
    }

    fn check_audit(&self) -> Answer<'_, AuditCheck> {
        async move { Ok(self.shared.read(check)) }.boxed()
    }
}

/// Entries, the newest first; with `until` as the log was at that time.
pub(super) fn list(state: &State, before: Option<u64>, limit: usize, until: Option<UnixMillis>) -> AuditList {
    let then = |entry: &&AuditEntry| until.is_none_or(|until| entry.at <= until);
    let most = if until.is_some() { usize::MAX } else { limit };
    let entries: Vec<AuditLine> = state.audit(before, most).filter(then).take(limit).map(line).collect();
    let oldest = entries.last().map(|entry| entry.number);
    let more = oldest.filter(|oldest| state.audit(Some(*oldest), 1).next().is_some());
    AuditList { entries, last: state.audit_head().0, before: more }
}

fn line(entry: &AuditEntry) -> AuditLine {
    let AuditNote { by, from, node, act, summary } = entry.note.clone();
    AuditLine { number: entry.number, at: entry.at, by, from, node, act, summary, hash: hex::encode(entry.hash) }
}

fn check(state: &State) -> AuditCheck {
    let (last, head) = state.audit_head();
    let checked = state.verify_audit();
    AuditCheck {
        intact: checked.is_ok(),
        entries: checked.unwrap_or(0),
        last,
        head: hex::encode(head),
        problem: checked.err().map(|broken| broken.to_string()),
    }
}
