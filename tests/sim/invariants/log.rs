//! **S4, the log.** One leader per term; what is committed stays, everywhere the same; term, commit and base never go back on a
//! node; nothing is purged that is not committed. Source: anchors 3.1 S4 (checks of openraft's own fuzzing); this is about the
//! model, on which everything else here stands.

use std::collections::BTreeMap;

use super::{Checked, Violation, hold};
use crate::sim::node::Ix;
use crate::sim::raft::{Entry, Id, Payload, Raft};

const NAME: &str = "log";

#[derive(Debug, Default)]
pub(crate) struct Log {
    holders: BTreeMap<Id, Ix>,
    leaders: BTreeMap<(Id, u64), Id>,
    terms: BTreeMap<Id, u64>,
    checked: BTreeMap<Id, u64>,
    /// Ids of one hive have one first leader, by which terms are told apart.
    group: BTreeMap<Id, Id>,
    failed: Option<Violation>,
}

impl Log {
    pub(crate) fn register(&mut self, id: Id, ix: Ix) {
        if self.holders.insert(id, ix).is_some_and(|known| known != ix) {
            self.failed = Some(Violation { invariant: NAME, what: format!("Raft id {id} is used by two nodes") });
        }
    }

    /// The node of a Raft id.
    pub(crate) fn holder(&self, id: Id) -> Option<Ix> {
        self.holders.get(&id).copied()
    }

    /// Up to which entry a Raft directory was compared with what is committed.
    pub(crate) fn checked(&self, id: Id) -> u64 {
        self.checked.get(&id).copied().unwrap_or(0)
    }

    pub(crate) fn look(&mut self, ix: Ix, raft: &Raft) -> Checked {
        let known = self.terms.insert(raft.id, raft.term).unwrap_or(0);
        hold(raft.term >= known, NAME, || format!("node {ix} went from term {known} back to {}", raft.term))?;
        let checked = self.checked.entry(raft.id).or_default();
        *checked = (*checked).max(raft.commit);
        hold(raft.base.0 <= raft.commit, NAME, || format!("node {ix} purged what is not committed"))?;
        hold(raft.synced <= raft.last() && raft.commit <= raft.last(), NAME, || {
            format!("node {ix} counts entries that it has not")
        })?;
        if raft.is_leader() {
            let group =
                raft.config().sets.iter().flatten().find_map(|id| self.group.get(id).copied()).unwrap_or(raft.id);
            for id in raft.config().nodes.keys() {
                self.group.entry(*id).or_insert(group);
            }
            let leader = *self.leaders.entry((group, raft.term)).or_insert(raft.id);
            hold(leader == raft.id, NAME, || format!("term {} has two leaders", raft.term))?;
        }
        Ok(())
    }

    pub(crate) fn take_failure(&mut self) -> Checked {
        self.failed.take().map_or(Ok(()), Err)
    }
}

/// An entry that is committed is the same wherever it is.
pub(crate) fn same_entry(index: u64, ix: Ix, known: (u64, &Payload), entry: &Entry) -> Checked {
    hold(known.0 == entry.term && known.1.is(&entry.payload), NAME, || {
        format!("node {ix} has another entry {index} than is committed")
    })
}
