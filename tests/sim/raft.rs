//! The consensus that the simulator gives to the engine: a small, correct Raft with real terms, elections, joint membership
//! changes, syncs that take time, logs that lose what was not synced, and snapshots of rows.
//!
//! It stands for openraft, which has tests of its own (`tests/consensus.rs`). Batches in it are those of the engine. Never done
//! here: applying, or looking at what any other node knows.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use hive::engine::command::Batch;
use hive::engine::state::Row;
use rand::RngExt as _;
use rand::rngs::StdRng;

/// Interval of heartbeats, milliseconds.
const HEARTBEAT_MS: u64 = 300;
/// A node that heard of a leader so lately helps nobody to replace it, milliseconds.
const ELECTION_MIN_MS: u64 = 1_000;
const ELECTION_MAX_MS: u64 = 2_200;
/// Entries in one message.
const ENTRIES_MAX: usize = 16;
/// Entries kept behind what is durable in the rows.
const KEPT: usize = 24;

/// A Raft directory's id.
pub(crate) type Id = u64;
/// The rows of a state, as its database holds them.
pub(crate) type Rows = BTreeMap<Row, Vec<u8>>;

#[derive(Clone, Debug)]
pub(crate) enum Payload {
    Blank,
    Batch(Rc<Batch>),
    Config(Config),
}

impl Payload {
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Blank, Self::Blank) => true,
            (Self::Batch(one), Self::Batch(two)) => Rc::ptr_eq(one, two),
            (Self::Config(one), Self::Config(two)) => one == two,
            (Self::Blank | Self::Batch(_) | Self::Config(_), _) => false,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) term: u64,
    pub(crate) payload: Payload,
}

/// Who takes part: one set of voters, or two while the change is joint.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Config {
    pub(crate) sets: Vec<BTreeSet<Id>>,
    pub(crate) learners: BTreeSet<Id>,
    /// Which node an id belongs to.
    pub(crate) nodes: BTreeMap<Id, usize>,
}

impl Config {
    pub(crate) fn is_voter(&self, id: Id) -> bool {
        self.sets.iter().any(|set| set.contains(&id))
    }

    pub(crate) fn is_joint(&self) -> bool {
        self.sets.len() > 1
    }

    fn majority(&self, has: impl Fn(Id) -> bool) -> bool {
        self.sets.iter().all(|set| set.iter().filter(|id| has(**id)).count() * 2 > set.len())
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) config: Config,
    pub(crate) rows: Rc<Rows>,
}

#[derive(Clone, Debug)]
pub(crate) enum Rpc {
    Vote { pre: bool, term: u64, last: (u64, u64), transfer: bool },
    Voted { pre: bool, term: u64, granted: bool },
    Append { term: u64, prev: (u64, u64), entries: Vec<Entry>, commit: u64, round: u64 },
    Appended { term: u64, ok: bool, matched: u64, round: u64 },
    Install { term: u64, snapshot: Rc<Snapshot>, round: u64 },
    TimeoutNow { term: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Follower,
    Candidate,
    Leader,
}

#[derive(Clone, Debug)]
pub(crate) struct Progress {
    next: u64,
    pub(crate) matched: u64,
    pub(crate) round: u64,
    pub(crate) answered_ms: Option<u64>,
}

/// A message, and whom it is for.
pub(crate) type Sent = (Id, usize, Rpc);

#[derive(Clone, Debug)]
pub(crate) struct Raft {
    pub(crate) id: Id,
    pub(crate) term: u64,
    voted: Option<Id>,
    /// Index and term of the last entry that is not in the log any more.
    pub(crate) base: (u64, u64),
    log: Vec<Entry>,
    /// Last index that is on the disk.
    pub(crate) synced: u64,
    pub(crate) commit: u64,
    /// Configurations by the index from which they hold; never empty.
    configs: Vec<(u64, Config)>,
    pub(crate) role: Role,
    pub(crate) leader: Option<Id>,
    election_at_ms: u64,
    heard_ms: Option<u64>,
    votes: BTreeSet<Id>,
    pre: bool,
    pub(crate) peers: BTreeMap<Id, Progress>,
    pub(crate) round: u64,
    heartbeat_at_ms: u64,
    /// Answers that wait for the disk: to whom, in which term and round, up to which entry.
    unanswered: Vec<(Id, u64, u64, u64)>,
    lacking: BTreeSet<Id>,
    pub(crate) out: Vec<Sent>,
}

impl Raft {
    pub(crate) fn empty(id: Id) -> Self {
        Self {
            id,
            term: 0,
            voted: None,
            base: (0, 0),
            log: Vec::new(),
            synced: 0,
            commit: 0,
            configs: vec![(0, Config::default())],
            role: Role::Follower,
            leader: None,
            election_at_ms: u64::MAX,
            heard_ms: None,
            votes: BTreeSet::new(),
            pre: false,
            peers: BTreeMap::new(),
            round: 0,
            heartbeat_at_ms: 0,
            unanswered: Vec::new(),
            lacking: BTreeSet::new(),
            out: Vec::new(),
        }
    }

    /// A directory of a node that followed up to here.
    pub(crate) fn joining(id: Id, at: (u64, u64)) -> Self {
        let mut raft = Self::empty(id);
        raft.base = at;
        (raft.synced, raft.commit) = (at.0, at.0);
        raft
    }

    /// The only voter of a hive that it founds with this entry, all of it durable.
    pub(crate) fn founder(id: Id, node: usize, first: Rc<Batch>) -> Self {
        let config =
            Config { sets: vec![BTreeSet::from([id])], learners: BTreeSet::new(), nodes: BTreeMap::from([(id, node)]) };
        let mut raft = Self::empty(id);
        raft.term = 1;
        raft.voted = Some(id);
        raft.log = vec![
            Entry { term: 1, payload: Payload::Config(config.clone()) },
            Entry { term: 1, payload: Payload::Batch(first) },
        ];
        raft.configs.push((1, config));
        (raft.synced, raft.commit) = (2, 2);
        raft.election_at_ms = 0;
        raft
    }

    pub(crate) fn last(&self) -> u64 {
        self.base.0 + self.log.len() as u64
    }

    pub(crate) fn config(&self) -> &Config {
        &self.configs.last().expect("there is always one").1
    }

    /// The last configuration that is committed.
    pub(crate) fn committed_config(&self) -> &Config {
        let committed = self.configs.iter().rev().find(|(index, _)| *index <= self.commit);
        &committed.unwrap_or(&self.configs[0]).1
    }

    pub(crate) fn config_at(&self, index: u64) -> &Config {
        &self.configs.iter().rev().find(|(from, _)| *from <= index).unwrap_or(&self.configs[0]).1
    }

    pub(crate) fn entry(&self, index: u64) -> Option<&Entry> {
        self.log.get(usize::try_from(index.checked_sub(self.base.0 + 1)?).ok()?)
    }

    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.0 { Some(self.base.1) } else { self.entry(index).map(|entry| entry.term) }
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }

    /// Entries that may be applied: committed, and on this node's disk.
    pub(crate) fn applicable(&self) -> u64 {
        self.commit.min(self.synced)
    }

    fn send(&mut self, to: Id, rpc: Rpc) {
        let node = self.configs.iter().rev().find_map(|(_, config)| config.nodes.get(&to).copied());
        if let Some(node) = node {
            self.out.push((to, node, rpc));
        }
    }

    fn follow(&mut self, term: u64, leader: Option<Id>) {
        if term > self.term {
            self.term = term;
            self.voted = None;
        }
        self.role = Role::Follower;
        self.leader = leader;
        self.votes.clear();
        self.pre = false;
    }

    fn arm(&mut self, now_ms: u64, rng: &mut StdRng) {
        self.election_at_ms = now_ms + rng.random_range(ELECTION_MIN_MS..ELECTION_MAX_MS);
    }

    /// Heartbeats and elections that are due.
    pub(crate) fn tick(&mut self, now_ms: u64, rng: &mut StdRng) {
        if self.is_leader() {
            if now_ms >= self.heartbeat_at_ms {
                self.beat(now_ms);
            }
        } else if self.election_at_ms == u64::MAX {
            self.arm(now_ms, rng);
        } else if now_ms >= self.election_at_ms && self.config().is_voter(self.id) {
            self.arm(now_ms, rng);
            self.campaign(true, false, now_ms);
        }
    }

    fn campaign(&mut self, pre: bool, transfer: bool, now_ms: u64) {
        if !pre {
            self.term += 1;
            self.voted = Some(self.id);
            self.role = Role::Candidate;
        }
        self.leader = None;
        self.pre = pre;
        self.votes = BTreeSet::from([self.id]);
        let term = if pre { self.term + 1 } else { self.term };
        let last = (self.term_at(self.last()).unwrap_or(0), self.last());
        let config = self.config();
        let voters = config.nodes.keys().copied().filter(|id| *id != self.id && config.is_voter(*id));
        for id in voters.collect::<Vec<Id>>() {
            self.send(id, Rpc::Vote { pre, term, last, transfer });
        }
        self.count(now_ms);
    }

    fn count(&mut self, now_ms: u64) {
        if !self.config().majority(|id| self.votes.contains(&id)) {
            return;
        }
        if self.pre {
            return self.campaign(false, false, now_ms);
        }
        self.role = Role::Leader;
        self.leader = Some(self.id);
        self.peers.clear();
        self.append(Payload::Blank);
        self.beat(now_ms);
    }

    /// Adds an entry of this leader. It has to be synced to count.
    pub(crate) fn append(&mut self, payload: Payload) -> u64 {
        if let Payload::Config(config) = &payload {
            self.configs.push((self.last() + 1, config.clone()));
        }
        self.log.push(Entry { term: self.term, payload });
        self.last()
    }

    /// A round of heartbeats, with what the others lack.
    pub(crate) fn beat(&mut self, now_ms: u64) {
        self.heartbeat_at_ms = now_ms + HEARTBEAT_MS;
        self.round += 1;
        let next = self.last() + 1;
        let members: BTreeSet<Id> = self.config().nodes.keys().copied().filter(|id| *id != self.id).collect();
        self.peers.retain(|id, _| members.contains(id));
        for id in members {
            self.peers.entry(id).or_insert(Progress { next, matched: 0, round: 0, answered_ms: None });
            self.replicate(id);
        }
    }

    fn replicate(&mut self, id: Id) {
        let Some(next) = self.peers.get(&id).map(|peer| peer.next) else { return };
        let (term, round, commit) = (self.term, self.round, self.commit);
        let Some(prev_term) = next.checked_sub(1).and_then(|prev| self.term_at(prev)) else {
            self.lacking.insert(id);
            return;
        };
        let from = usize::try_from(next - 1 - self.base.0).unwrap_or(usize::MAX);
        let entries: Vec<Entry> = self.log.iter().skip(from).take(ENTRIES_MAX).cloned().collect();
        self.send(id, Rpc::Append { term, prev: (next - 1, prev_term), entries, commit, round });
    }

    /// Peers whose next entry is gone from the log, so that only a snapshot helps them.
    pub(crate) fn take_lacking(&mut self) -> Vec<(Id, usize)> {
        let lacking = std::mem::take(&mut self.lacking);
        let nodes = &self.config().nodes;
        lacking.into_iter().filter_map(|id| Some((id, *nodes.get(&id)?))).collect()
    }

    pub(crate) fn on(&mut self, from: Id, rpc: Rpc, now_ms: u64, rng: &mut StdRng) {
        match rpc {
            Rpc::Vote { pre, term, last, transfer } => self.on_vote(from, pre, term, last, transfer, now_ms, rng),
            Rpc::Voted { pre, term, granted } => {
                if term > self.term && !(pre && granted) {
                    self.follow(term, None);
                } else if granted && self.pre == pre && !self.is_leader() && !self.votes.is_empty() {
                    let current = if pre { self.term + 1 } else { self.term };
                    if term == current {
                        self.votes.insert(from);
                        self.count(now_ms);
                    }
                }
            }
            Rpc::Append { term, prev, entries, commit, round } => {
                if term < self.term {
                    let (term, matched) = (self.term, 0);
                    return self.send_or_learn(from, Rpc::Appended { term, ok: false, matched, round });
                }
                self.heard(from, term, now_ms, rng);
                self.on_append(from, prev, entries, commit, round);
            }
            Rpc::Install { term, snapshot, round } => {
                if term < self.term {
                    return;
                }
                self.heard(from, term, now_ms, rng);
                if snapshot.index > self.commit {
                    self.base = (snapshot.index, snapshot.term);
                    self.log.clear();
                    (self.synced, self.commit) = (snapshot.index, snapshot.index);
                    self.configs = vec![(0, snapshot.config.clone())];
                    self.unanswered.clear();
                }
                let (term, matched) = (self.term, self.commit);
                self.send_or_learn(from, Rpc::Appended { term, ok: true, matched, round });
            }
            Rpc::Appended { term, ok, matched, round } => self.on_appended(from, term, ok, matched, round, now_ms),
            Rpc::TimeoutNow { term } => {
                if term == self.term && self.config().is_voter(self.id) {
                    self.campaign(false, true, now_ms);
                }
            }
        }
    }

    /// Answers also one whose configuration this node has not got yet.
    fn send_or_learn(&mut self, to: Id, rpc: Rpc) {
        let node = self.configs.iter().rev().find_map(|(_, config)| config.nodes.get(&to).copied());
        self.out.push((to, node.unwrap_or(usize::MAX), rpc));
    }

    fn heard(&mut self, from: Id, term: u64, now_ms: u64, rng: &mut StdRng) {
        self.follow(term, Some(from));
        self.heard_ms = Some(now_ms);
        self.arm(now_ms, rng);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message, and the time")]
    fn on_vote(
        &mut self,
        from: Id,
        pre: bool,
        term: u64,
        last: (u64, u64),
        transfer: bool,
        now_ms: u64,
        rng: &mut StdRng,
    ) {
        let lately = |at: Option<u64>| at.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < ELECTION_MIN_MS);
        let led = lately(self.heard_ms) || (self.is_leader() && self.has_quorum(now_ms));
        if led && !transfer {
            return;
        }
        let own = (self.term_at(self.last()).unwrap_or(0), self.last());
        if pre {
            let granted = term > self.term && last >= own;
            return self.send_or_learn(from, Rpc::Voted { pre, term: if granted { term } else { self.term }, granted });
        }
        if term > self.term {
            self.follow(term, None);
        }
        let granted = term == self.term && last >= own && self.voted.is_none_or(|voted| voted == from);
        if granted {
            self.voted = Some(from);
            self.arm(now_ms, rng);
        }
        self.send_or_learn(from, Rpc::Voted { pre, term: self.term, granted });
    }

    fn on_append(&mut self, from: Id, prev: (u64, u64), entries: Vec<Entry>, commit: u64, round: u64) {
        let term = self.term;
        if prev.0 >= self.base.0 && self.term_at(prev.0) != Some(prev.1) {
            let matched = self.last().min(prev.0.saturating_sub(1)).max(self.commit);
            return self.send_or_learn(from, Rpc::Appended { term, ok: false, matched, round });
        }
        let mut index = prev.0;
        for entry in entries {
            index += 1;
            if index <= self.base.0 || self.term_at(index) == Some(entry.term) {
                continue;
            }
            if index <= self.last() {
                assert!(index > self.commit, "the model truncates what is committed");
                self.log.truncate(usize::try_from(index - 1 - self.base.0).expect("small"));
                self.configs.retain(|(from, _)| *from < index);
                self.synced = self.synced.min(index - 1);
            }
            if let Payload::Config(config) = &entry.payload {
                self.configs.push((index, config.clone()));
            }
            self.log.push(entry);
        }
        self.commit = self.commit.max(commit.min(index));
        if index <= self.synced {
            self.send_or_learn(from, Rpc::Appended { term, ok: true, matched: index, round });
        } else {
            self.unanswered.push((from, term, round, index));
        }
    }

    fn on_appended(&mut self, from: Id, term: u64, ok: bool, matched: u64, round: u64, now_ms: u64) {
        if term > self.term {
            return self.follow(term, None);
        }
        if term < self.term || !self.is_leader() {
            return;
        }
        let last = self.last();
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.answered_ms = Some(now_ms);
        peer.round = peer.round.max(round);
        if ok {
            peer.matched = peer.matched.max(matched);
            peer.next = peer.next.max(peer.matched + 1);
            let behind = peer.next <= last;
            self.advance();
            if behind {
                self.replicate(from);
            }
        } else {
            peer.next = (matched + 1).max(peer.matched + 1);
            self.replicate(from);
        }
    }

    /// The disk has everything up to this entry, unless it was truncated since.
    pub(crate) fn on_synced(&mut self, upto: u64, term: u64) {
        if self.term_at(upto) == Some(term) || upto <= self.commit {
            self.synced = self.synced.max(upto.min(self.last()));
        }
        let (synced, current) = (self.synced, self.term);
        let done: Vec<_> =
            self.unanswered.extract_if(.., |(_, term, _, upto)| *term != current || *upto <= synced).collect();
        for (to, term, round, matched) in done.into_iter().filter(|(_, term, _, _)| *term == current) {
            self.send_or_learn(to, Rpc::Appended { term, ok: true, matched, round });
        }
        if self.is_leader() {
            self.advance();
        }
    }

    /// Commits what a majority has on disk, and goes on with a membership change.
    fn advance(&mut self) {
        let mut index = self.last();
        while index > self.commit && self.term_at(index) == Some(self.term) {
            let has = |id: Id| {
                if id == self.id {
                    self.synced >= index
                } else {
                    self.peers.get(&id).is_some_and(|peer| peer.matched >= index)
                }
            };
            if self.config().majority(has) {
                self.commit = index;
                break;
            }
            index -= 1;
        }
        let (at, config) = self.configs.last().cloned().expect("there is always one");
        let own_term = self.term_at(self.commit) == Some(self.term);
        if at > self.commit || !own_term {
            return;
        }
        if config.is_joint() {
            let sets = vec![config.sets.last().cloned().unwrap_or_default()];
            let keep = |id: &Id| sets[0].contains(id) || config.learners.contains(id);
            let nodes = config.nodes.iter().filter(|(id, _)| keep(id)).map(|(id, node)| (*id, *node)).collect();
            self.append(Payload::Config(Config { sets, learners: config.learners, nodes }));
        } else if !config.is_voter(self.id) {
            let term = self.term;
            self.follow(term, None);
        }
    }

    /// Whether a majority answered lately.
    pub(crate) fn has_quorum(&self, now_ms: u64) -> bool {
        let answered =
            |peer: &Progress| peer.answered_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < 2 * ELECTION_MIN_MS);
        self.config().majority(|id| id == self.id || self.peers.get(&id).is_some_and(answered))
    }

    /// Whether a majority has answered this round or a later one, in this term.
    pub(crate) fn confirmed(&self, round: u64) -> bool {
        let own_term = self.term_at(self.commit) == Some(self.term);
        own_term
            && self.config().majority(|id| id == self.id || self.peers.get(&id).is_some_and(|peer| peer.round >= round))
    }

    /// A change of the membership may begin: the last one is over, and this term has committed something.
    pub(crate) fn may_change(&self) -> bool {
        let (at, config) = self.configs.last().expect("there is always one");
        self.is_leader() && *at <= self.commit && !config.is_joint() && self.term_at(self.commit) == Some(self.term)
    }

    pub(crate) fn transfer(&mut self, to: Id) {
        let term = self.term;
        if self.peers.get(&to).is_some_and(|peer| peer.matched == self.last()) {
            self.send(to, Rpc::TimeoutNow { term });
        }
    }

    /// Lets go of entries that the rows have, but for the last few.
    pub(crate) fn purge(&mut self, durable: u64) {
        let upto = durable.min(self.commit).min(self.synced);
        let drop = usize::try_from(upto.saturating_sub(self.base.0)).unwrap_or(0);
        if drop <= 2 * KEPT {
            return;
        }
        let drop = drop - KEPT;
        let last = self.base.0 + drop as u64;
        self.base = (last, self.term_at(last).expect("in the log"));
        self.log.drain(..drop);
        let current = self.configs.iter().rposition(|(from, _)| *from <= last).unwrap_or(0);
        self.configs.drain(..current);
    }

    /// The node has stopped. What was not synced may be lost, from the end.
    pub(crate) fn crash(&mut self, lost: impl FnOnce(u64) -> u64) {
        let unsynced = self.last().saturating_sub(self.synced);
        let lost = lost(unsynced).min(unsynced);
        self.log.truncate(self.log.len() - usize::try_from(lost).expect("small"));
        let last = self.last();
        self.configs.retain(|(from, _)| *from <= last);
        self.synced = last;
        self.commit = self.base.0;
        self.role = Role::Follower;
        self.leader = None;
        self.heard_ms = None;
        self.election_at_ms = u64::MAX;
        self.votes.clear();
        self.peers.clear();
        self.unanswered.clear();
        self.lacking.clear();
        self.out.clear();
    }
}
