//! Handlers of the audit log.
//!
//! Never done here: anything but translating.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;

use super::Context;
use super::answer::Params;

/// Entries listed when nothing else is said.
const ENTRIES_DEFAULT: usize = 100;
/// Most entries listed at once.
const ENTRIES_MAX: usize = 1_000;

#[derive(Deserialize)]
pub(super) struct AuditParams {
    before: Option<u64>,
    limit: Option<usize>,
}

impl AuditParams {
    /// Before which entry, and how many.
    pub(super) fn asked(&self) -> (Option<u64>, usize) {
        (self.before, self.limit.unwrap_or(ENTRIES_DEFAULT).clamp(1, ENTRIES_MAX))
    }
}

pub(super) async fn audit(State(context): State<Context>, Params(params): Params<AuditParams>) -> Response {
    let (before, limit) = params.asked();
    context.answer(context.node.audit(before, limit).await)
}

pub(super) async fn check_audit(State(context): State<Context>) -> Response {
    context.answer(context.node.check_audit().await)
}
