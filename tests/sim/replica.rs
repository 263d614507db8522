//! One node's copy of the state: committed entries become state, rows and answers; observers follow those who have the log.

use std::rc::Rc;

use hive::engine::command::Reply;
use hive::engine::state::State;

use super::node::{Ix, Msg, Node};
use super::raft::{Entry, Payload, Snapshot};
use super::world::World;

/// Entries that one answer to an observer holds.
const FOLLOWED_MAX: usize = 16;
/// Interval of an observer's questions, milliseconds.
const FOLLOW_MS: u64 = 200;
/// An observer that was not answered for so long asks another one, milliseconds.
const SOURCE_PATIENCE_MS: u64 = 1_500;

impl World {
    /// Applies what is committed on a voter or standby.
    pub(crate) fn apply_committed(&mut self, ix: Ix) {
        let Some(raft) = self.nodes[ix].disk.raft.as_ref() else { return };
        let hive = self.nodes[ix].hive().expect("a Raft directory belongs to a hive");
        self.checker.on_commit(hive, ix, raft, self.now_ms + self.slept_ms, &mut self.counts);
        let (base, applied) = (raft.base.0, self.nodes[ix].life.as_ref().expect("it lives").applied.0);
        if let Some(chain) = self.checker.take_chain() {
            self.mix(chain);
        }
        assert!(applied >= base, "node {ix} lacks entries below its log: applied {applied}, log from {base}");
        if self.nodes[ix].apply_not_before_ms > self.now_ms {
            return;
        }
        loop {
            let raft = self.nodes[ix].disk.raft.as_ref().expect("there was one");
            let next = self.nodes[ix].life.as_ref().expect("it lives").applied.0 + 1;
            if next > raft.applicable() {
                break;
            }
            let Some(entry) = raft.entry(next).cloned() else { break };
            let replies = self.apply(ix, next, &entry);
            self.answer(ix, next, &entry, &replies);
        }
        let node = &mut self.nodes[ix];
        if node.disk.unsynced.len() > 24 {
            node.sync_rows(node.disk.unsynced.len());
        }
        let durable = node.disk.durable.0;
        if let Some(raft) = &mut node.disk.raft {
            raft.purge(durable);
        }
    }

    fn apply(&mut self, ix: Ix, index: u64, entry: &Entry) -> Vec<Reply> {
        let mono = self.mono(ix);
        let node = &mut self.nodes[ix];
        let hive = node.hive().expect("it belongs to one");
        let life = node.life.as_mut().expect("it lives");
        let mut replies = Vec::new();
        let mut changes = Vec::new();
        if let Payload::Batch(batch) = &entry.payload {
            let applied = life.state.apply(index, batch).expect("every command is understood");
            (replies, changes) = (applied.replies, applied.changes);
        }
        life.applied = (index, entry.term);
        life.applied_at_ms = mono;
        node.disk.unsynced.push(((index, entry.term), changes));
        self.checker.replicas.applied(hive, ix, index, &life.state, &replies);
        replies
    }

    /// As leader: tells those who proposed what came of it.
    fn answer(&mut self, ix: Ix, index: u64, entry: &Entry, replies: &[Reply]) {
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let Some((term, asking)) = life.answering.remove(&index) else { return };
        if term != entry.term {
            return;
        }
        let leader = Some(ix);
        for ((to, incarnation, sequence), reply) in asking.into_iter().zip(replies) {
            let answers = vec![(sequence, reply.clone())];
            if to == ix {
                self.on_answers(ix, incarnation, answers);
            } else {
                self.send(ix, to, Msg::Answers { incarnation, answers, leader });
            }
        }
    }

    /// A snapshot came through Raft, or from whom an observer follows.
    pub(crate) fn install(&mut self, ix: Ix, snapshot: &Snapshot) {
        let mono = self.mono(ix);
        let node = &mut self.nodes[ix];
        let Some(life) = node.life.as_mut() else { return };
        if snapshot.index <= life.applied.0 {
            return;
        }
        node.disk.unsynced.clear();
        node.disk.rows = (*snapshot.rows).clone();
        node.disk.durable = (snapshot.index, snapshot.term);
        life.state = State::from_rows(node.disk.rows.clone()).expect("the rows of a snapshot are readable");
        life.applied = (snapshot.index, snapshot.term);
        life.applied_at_ms = mono;
        let hive = node.disk.hive.expect("it belongs to one").0;
        self.checker.replicas.installed(hive, ix, snapshot.index, &life.state);
        self.counts.add("snapshots installed", 1);
    }

    /// As observer: asks somebody of the hive for what comes next.
    pub(crate) fn follow(&mut self, ix: Ix) {
        let now_ms = self.now_ms;
        let Some(hive) = self.nodes[ix].hive() else { return };
        if self.nodes[ix].disk.raft.is_some() {
            return;
        }
        let life = self.nodes[ix].life.as_ref().expect("it lives");
        if now_ms < life.follow_ms + FOLLOW_MS {
            return;
        }
        let after = life.applied.0;
        let silent = life.source.is_none_or(|(_, heard_ms)| now_ms > heard_ms + SOURCE_PATIENCE_MS);
        if silent {
            let source = self.pick_source(ix);
            let life = self.nodes[ix].life.as_mut().expect("it lives");
            life.source = source.map(|source| (source, now_ms));
        }
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        life.follow_ms = now_ms;
        if let Some((source, _)) = life.source {
            self.send(ix, source, Msg::Follow { hive, after });
        }
    }

    /// Somebody who has a part in Raft: a member that the state names, or the one that was met.
    fn pick_source(&mut self, ix: Ix) -> Option<Ix> {
        use rand::RngExt as _;
        let node = &self.nodes[ix];
        let life = node.life.as_ref()?;
        let mut known: Vec<Ix> = life.dialed_ms.keys().copied().collect();
        known.extend(life.state.members().filter_map(|member| self.ix_of(&member.info.peer_id)));
        known.sort_unstable();
        known.dedup();
        known.retain(|other| *other != ix);
        if known.is_empty() { None } else { Some(known[self.rng.random_range(0..known.len())]) }
    }

    /// Answers an observer, never beyond what is committed.
    pub(crate) fn on_follow(&mut self, ix: Ix, from: Ix, hive: hive::engine::id::HiveId, after: u64) {
        if self.nodes[ix].hive() != Some(hive) {
            return;
        }
        let leader = self.nodes[ix].life.as_ref().and_then(|life| life.leader_hint);
        let Some(raft) = self.nodes[ix].disk.raft.as_ref() else { return };
        let applied = self.nodes[ix].life.as_ref().expect("it lives").applied.0;
        if applied < after {
            return;
        }
        let mut answer = Msg::Followed { hive, entries: Vec::new(), snapshot: None, leader };
        if after < raft.base.0 {
            if let (Some(made), Msg::Followed { snapshot, .. }) = (self.nodes[ix].snapshot(), &mut answer) {
                *snapshot = Some(Rc::new(made));
                self.counts.add("snapshots sent", 1);
            }
        } else if let Msg::Followed { entries, .. } = &mut answer {
            let upto = applied.min(after + FOLLOWED_MAX as u64);
            entries.extend((after + 1..=upto).filter_map(|index| Some((index, raft.entry(index)?.clone()))));
        }
        self.send(ix, from, answer);
    }

    pub(crate) fn on_followed(
        &mut self,
        ix: Ix,
        from: Ix,
        entries: Vec<(u64, Entry)>,
        snapshot: Option<Rc<Snapshot>>,
        leader: Option<Ix>,
    ) {
        let now_ms = self.now_ms;
        if self.nodes[ix].disk.raft.is_some() {
            return;
        }
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        if life.source.is_some_and(|(source, _)| source == from) {
            life.source = Some((from, now_ms));
        }
        if leader.is_some() {
            life.leader_hint = leader;
        }
        if let Some(snapshot) = snapshot {
            self.install(ix, &snapshot);
        }
        let more = entries.len() == FOLLOWED_MAX;
        for (index, entry) in entries {
            let applied = self.nodes[ix].life.as_ref().expect("it lives").applied.0;
            if index == applied + 1 {
                self.apply(ix, index, &entry);
            }
        }
        let node: &mut Node = &mut self.nodes[ix];
        if node.disk.unsynced.len() > 24 {
            node.sync_rows(node.disk.unsynced.len());
        }
        if more {
            node.life.as_mut().expect("it lives").follow_ms = 0;
        }
    }
}
