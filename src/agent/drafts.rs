//! The coordinator takes back drafts that nobody goes on with: their node has died, or was started anew.
//!
//! Never done here: saying which those are (see [`drafts`](crate::engine::drafts)).

use std::sync::Arc;
use std::time::Duration;

use super::propose;
use super::shared::Shared;
use crate::consensus::Role;
use crate::engine::command::Command;
use crate::engine::drafts::Drafts as Seen;
use crate::tasks;

/// Interval of looking, milliseconds.
const LOOK_EVERY_MS: u64 = 5_000;
/// How long the commit is awaited; it is proposed again at the next look.
const DROP_TIMEOUT: Duration = Duration::from_secs(4);

/// What the coordinator remembers of drafts. Memory only: who takes over counts anew.
#[derive(Debug, Default)]
pub(super) struct Drafts {
    looked_ms: u64,
    seen: Seen,
}

impl Drafts {
    /// Takes back what is stale, while this node leads.
    pub(super) fn tick(&mut self, shared: &Arc<Shared>, now_ms: u64) {
        if now_ms.saturating_sub(self.looked_ms) < LOOK_EVERY_MS {
            return;
        }
        self.looked_ms = now_ms;
        let status = shared.consensus.status();
        if status.role != Role::Leader || !status.quorum {
            self.seen.forget();
            return;
        }
        for session in shared.read(|state| self.seen.look(state, now_ms)) {
            tracing::warn!(%session, "taking back an import that nobody goes on with");
            let shared = Arc::clone(shared);
            let reason = "its import was not finished".to_owned();
            tasks::spawn("stale draft", async move {
                let dropped = propose(&shared, Command::DropSession { session, reason }, DROP_TIMEOUT).await;
                if let Err(error) = dropped {
                    tracing::warn!(%session, %error, "the draft is still there; tried again");
                }
            });
        }
    }
}
