//! Nodes of this hive that live in another epoch: one side was recovered while the other lived on, or both were.
//!
//! ```text
//!   meets a later epoch ─► has had a quorum for half a minute? ── no ──► takes it over, its own history is set aside
//!                                                             └── yes ─► both stay, and both say so
//! ```
//!
//! Machines that were dead when an operator gave them up come back, hear of the recovery within seconds, and follow it. A majority that was
//! never gone has acknowledged work all the while; it must not lose that because somebody recovered the rest by mistake, so it does not
//! yield by itself. Never done here: choosing which side goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use super::shared::Shared;
use crate::engine::id::{Epoch, PeerId};
use crate::mesh::Facts;

/// Whoever has had a quorum for so long does not yield, milliseconds.
const STEADY_MS: u64 = 30_000;
/// Whoever is seen in another epoch for so long is not about to follow, milliseconds.
const APART_MS: u64 = 10_000;
/// A word to whoever recovers holds so long, milliseconds.
const PROMISE_MS: u64 = 15_000;

/// What this node sees of it.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    quorum_since_ms: Option<u64>,
    seen: BTreeMap<PeerId, u64>,
}

impl Epochs {
    /// Looks at the connections.
    pub(super) fn tick(&mut self, shared: &Shared, connected: &BTreeMap<PeerId, Facts>, now_ms: u64) {
        let quorum = shared.consensus.status().quorum;
        self.quorum_since_ms = if quorum { self.quorum_since_ms.or(Some(now_ms)) } else { None };
        let ours = shared.hive();
        let other = |facts: &Facts| -> Option<Epoch> {
            let ((hive_id, epoch), theirs) = (ours?, facts.allegiance?);
            (theirs.hive_id == hive_id && theirs.epoch != epoch).then_some(theirs.epoch)
        };
        let others: BTreeMap<&PeerId, Epoch> =
            connected.iter().filter_map(|(peer, facts)| Some((peer, other(facts)?))).collect();
        self.seen.retain(|peer, _| others.contains_key(peer));
        for peer in others.keys() {
            self.seen.entry((*peer).clone()).or_insert(now_ms);
        }
        let is_apart = |(_, since_ms): &(&PeerId, &u64)| now_ms.saturating_sub(**since_ms) >= APART_MS;
        let apart: BTreeSet<PeerId> = self.seen.iter().filter(is_apart).map(|(peer, _)| peer.clone()).collect();
        if shared.soft(|soft| soft.apart == apart) {
            return;
        }
        let text = ours.and_then(|(_, epoch)| sentence(shared, epoch, &apart, &others));
        if let Some(text) = &text {
            tracing::error!("{text}");
        }
        shared.notice("epochs", text);
        shared.update(|soft| soft.apart = apart);
    }

    /// Whether this node stays in its epoch although there is a later one.
    pub(super) fn stays(&self, now_ms: u64) -> bool {
        self.quorum_since_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= STEADY_MS)
    }
}

fn sentence(
    shared: &Shared,
    epoch: Epoch,
    apart: &BTreeSet<PeerId>,
    others: &BTreeMap<&PeerId, Epoch>,
) -> Option<String> {
    let first = others.get(apart.first()?)?;
    let names: Vec<String> = apart.iter().map(|peer| shared.name_of(peer)).collect();
    Some(format!(
        "This hive is in two: {} in epoch {first}, this node in epoch {epoch}. It was recovered while a majority lived, or twice. Each side \
         keeps what it acknowledged, and they never mix. Decide which goes on; on every node of the other: stop hive, hive db set-aside, \
         and start them when all have stopped.",
        names.join(", ")
    ))
}

/// To whom this node has given its word that it may begin a new epoch: of two operators who recover at once, one gets all of them.
#[derive(Debug, Default)]
pub(super) struct Promise(Mutex<Option<(PeerId, u64)>>);

impl Promise {
    /// Gives it to `peer`; else says who has it. Given again to whoever has it.
    pub(super) fn give(&self, peer: &PeerId, now_ms: u64) -> Result<(), PeerId> {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*given {
            Some((holder, until_ms)) if holder != peer && *until_ms > now_ms => Err(holder.clone()),
            Some(_) | None => {
                *given = Some((peer.clone(), now_ms + PROMISE_MS));
                Ok(())
            }
        }
    }

    /// Takes it back from `peer`, who needs it no more.
    pub(super) fn take_back(&self, peer: &PeerId) {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if given.as_ref().is_some_and(|(holder, _)| holder == peer) {
            *given = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_given_to_one_at_a_time_and_ends_by_itself() {
        let (promise, one, two) = (Promise::default(), PeerId::new("one"), PeerId::new("two"));
        assert_eq!(promise.give(&one, 1_000), Ok(()));
        assert_eq!(promise.give(&two, 1_001), Err(one.clone()));
        assert_eq!(promise.give(&one, 2_000), Ok(()), "asked again by the same");
        assert_eq!(promise.give(&two, 2_000 + PROMISE_MS - 1), Err(one.clone()));
        assert_eq!(promise.give(&two, 2_000 + PROMISE_MS), Ok(()), "one has gone away");
        promise.take_back(&one);
        assert_eq!(promise.give(&one, 2_000 + PROMISE_MS), Err(two.clone()), "it was not one's any more");
        promise.take_back(&two);
        assert_eq!(promise.give(&one, 2_000 + PROMISE_MS), Ok(()));
    }

    #[test]
    fn who_has_had_a_quorum_for_long_stays() {
        let epochs = |quorum_since_ms| Epochs { quorum_since_ms, ..Epochs::default() };
        assert!(!epochs(None).stays(1_000_000));
        assert!(!epochs(Some(1_000)).stays(1_000 + STEADY_MS - 1), "a majority that has just come back");
        assert!(epochs(Some(1_000)).stays(1_000 + STEADY_MS));
    }
}
