//! **DESIGN 15.4: nodes that hear each other found one hive; of two that meet the childless one dissolves within 30 s; a Raft group
//! never crosses hives.** Two hives that grew while they could not hear each other stay two: only a person merges them.

use std::collections::{BTreeMap, BTreeSet};

use hive::engine::founding::childless;
use hive::engine::id::{Epoch, HiveId};

use super::{Checked, Truth, Violation, hold};
use crate::sim::node::{Ix, Node};

const NAME: &str = "hives";
/// Side by side for so long, milliseconds: DESIGN 15.4.
const SIDE_BY_SIDE_MS: u64 = 30_000;
const LOOK_EVERY_MS: u64 = 1_000;

#[derive(Debug, Default)]
pub(crate) struct Hives {
    founded: BTreeMap<HiveId, Ix>,
    dissolved: BTreeSet<HiveId>,
    looked_ms: u64,
    /// Since when a childless hive has been beside another one in a quiet world.
    beside_ms: BTreeMap<HiveId, u64>,
    pub(crate) quiet_since_ms: Option<u64>,
    failed: Option<Violation>,
}

impl Hives {
    /// A node founds. `near`: nodes whose HELLOs have long passed both ways.
    pub(crate) fn founded(&mut self, hive: HiveId, ix: Ix, now_ms: u64, near: &[Ix]) {
        let others =
            self.founded.iter().find(|(other, founder)| near.contains(founder) && !self.dissolved.contains(*other));
        if let Some((other, founder)) = others {
            let what =
                format!("node {ix} founds {hive} at {now_ms} ms in earshot of node {founder}, which founded {other}");
            self.failed.get_or_insert(Violation { invariant: NAME, what });
        }
        self.founded.insert(hive, ix);
    }

    /// A node leaves its hive for another one, and with it the only log that the hive has.
    pub(crate) fn dissolved(&mut self, hive: HiveId, truth: Option<&Truth>) {
        self.dissolved.insert(hive);
        if let Some(truth) = truth.filter(|truth| !childless(&truth.state, true)) {
            let (members, jobs) = (truth.state.members().count(), truth.state.jobs_len());
            let what = format!("{hive} was dissolved with {members} members and {jobs} jobs");
            self.failed.get_or_insert(Violation { invariant: NAME, what });
        }
    }

    pub(crate) fn epoch_of(&self, hive: HiveId, nodes: &[Node]) -> Epoch {
        let known = nodes.iter().find_map(|node| node.disk.hive.filter(|(of, _)| *of == hive));
        known.expect("somebody belongs to it").1
    }

    pub(crate) fn look(&mut self, now_ms: u64, nodes: &[Node], truths: &BTreeMap<HiveId, Truth>) -> Checked {
        if now_ms < self.looked_ms + LOOK_EVERY_MS {
            return Ok(());
        }
        self.looked_ms = now_ms;
        for (hive, truth) in truths {
            let own = |ix: Ix| nodes.get(ix).is_some_and(|node| node.hive() == Some(*hive));
            for node in nodes.iter().filter(|node| node.leads() && node.hive() == Some(*hive)) {
                let raft = node.disk.raft.as_ref().expect("it leads");
                let foreign = raft
                    .committed_config()
                    .sets
                    .iter()
                    .flatten()
                    .filter_map(|id| raft.config().nodes.get(id))
                    .find(|ix| !own(**ix) && nodes[**ix].hive().is_some());
                hold(foreign.is_none(), NAME, || {
                    format!("a voter of {hive} belongs to another hive: node {foreign:?}")
                })?;
            }
            let members = nodes.iter().filter(|node| node.hive() == Some(*hive)).count();
            let others = nodes.iter().any(|node| node.is_member() && node.hive() != Some(*hive));
            let beside = members > 0 && others && childless(&truth.state, true) && self.quiet_since_ms.is_some();
            if !beside {
                self.beside_ms.remove(hive);
                continue;
            }
            let since_ms = *self.beside_ms.entry(*hive).or_insert(now_ms);
            hold(now_ms < since_ms + SIDE_BY_SIDE_MS, NAME, || {
                format!("childless {hive} lives beside another hive since {since_ms} ms")
            })?;
        }
        Ok(())
    }

    pub(crate) fn take_failure(&mut self) -> Checked {
        self.failed.take().map_or(Ok(()), Err)
    }
}
