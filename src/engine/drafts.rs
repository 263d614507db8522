//! Which drafts nobody goes on with: their node has died, or was started anew.
//!
//! A node that hands in jobs shows so by their number. What a draft is while its packages are being found is another matter:
//! its resolution is a job and ends. Never done here: taking anything back.

use std::collections::BTreeMap;

use super::id::SessionId;
use super::session::SessionPhase;
use super::state::State;

/// A draft that has not grown for so long is taken back, milliseconds.
pub const STALE_MS: u64 = 60_000;

/// What the coordinator remembers of drafts. Memory only: who takes over counts anew.
#[derive(Debug, Default)]
pub struct Drafts {
    /// Number of jobs of each draft, and since when it is that.
    seen: BTreeMap<SessionId, (u64, u64)>,
}

impl Drafts {
    /// This node does not lead: what it saw is too old when it leads again.
    pub fn forget(&mut self) {
        self.seen.clear();
    }

    /// Looks at the state; says which drafts are to be taken back.
    pub fn look(&mut self, state: &State, now_ms: u64) -> Vec<SessionId> {
        let handed_in = state
            .sessions()
            .filter(|(id, session)| session.phase == SessionPhase::Draft && state.session_jobs(id).next().is_none());
        self.stale(&handed_in.map(|(id, session)| (*id, session.jobs)).collect(), now_ms)
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
