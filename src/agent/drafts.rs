//! The coordinator takes back drafts that nobody goes on with: their node has died, or was started anew.
//!
//! A node that hands in jobs shows so by their number. What a draft is while its packages are being found is another matter:
//! its resolution is a job and ends. Never done here: dropping a draft that has grown lately.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::propose;
use super::shared::Shared;
use crate::consensus::Role;
use crate::engine::command::Command;
use crate::engine::id::SessionId;
use crate::engine::session::SessionPhase;
use crate::engine::state::State;
use crate::tasks;

/// A draft that has not grown for so long is taken back, milliseconds.
const STALE_MS: u64 = 60_000;
/// Interval of looking, milliseconds.
const LOOK_EVERY_MS: u64 = 5_000;
/// How long the commit is awaited; it is proposed again at the next look.
const DROP_TIMEOUT: Duration = Duration::from_secs(4);

/// What the coordinator remembers of drafts. Memory only: who takes over counts anew.
#[derive(Debug, Default)]
pub(super) struct Drafts {
    looked_ms: u64,
    /// Number of jobs of each draft, and since when it is that.
    seen: BTreeMap<SessionId, (u64, u64)>,
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
            self.seen.clear();
            return;
        }
        let drafts = shared.read(drafts);
        for session in self.stale(&drafts, now_ms) {
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

    fn stale(&mut self, drafts: &BTreeMap<SessionId, u64>, now_ms: u64) -> Vec<SessionId> {
        self.seen.retain(|session, _| drafts.contains_key(session));
        for (session, jobs) in drafts {
            let seen = self.seen.entry(*session).or_insert((*jobs, now_ms));
            if seen.0 != *jobs {
                *seen = (*jobs, now_ms);
            }
        }
        let stale = self.seen.iter().filter(|(_, (_, since_ms))| now_ms.saturating_sub(*since_ms) >= STALE_MS);
        stale.map(|(session, _)| *session).collect()
    }
}

/// Drafts that are being handed in, with the number of their jobs.
fn drafts(state: &State) -> BTreeMap<SessionId, u64> {
    let handed_in = state
        .sessions()
        .filter(|(id, session)| session.phase == SessionPhase::Draft && state.session_jobs(id).next().is_none());
    handed_in.map(|(id, session)| (*id, session.jobs)).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_draft_is_stale_when_it_has_not_grown_for_a_minute() {
        let (one, two) = (SessionId(Uuid::from_u128(1)), SessionId(Uuid::from_u128(2)));
        let mut drafts = Drafts::default();
        assert!(drafts.stale(&BTreeMap::from([(one, 64), (two, 64)]), 1_000).is_empty());
        assert!(drafts.stale(&BTreeMap::from([(one, 64), (two, 128)]), 40_000).is_empty());
        assert!(drafts.stale(&BTreeMap::from([(one, 64), (two, 128)]), 60_999).is_empty());
        assert_eq!(drafts.stale(&BTreeMap::from([(one, 64), (two, 128)]), 61_000), [one]);
        assert_eq!(drafts.stale(&BTreeMap::from([(one, 64), (two, 128)]), 100_000), [one, two]);
        assert!(drafts.stale(&BTreeMap::from([(two, 129)]), 101_000).is_empty());
        assert!(drafts.stale(&BTreeMap::from([(one, 64), (two, 129)]), 102_000).is_empty(), "it was gone meanwhile");
    }
}
