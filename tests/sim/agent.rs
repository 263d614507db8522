//! The glue of an agent, as thin as it can be: founding, joining, proposing, and what is said on the wire. Everything that is
//! decided is decided by the engine's own types. Never done here: scheduling and building (`coordinator`, `drone`).

use hive::engine::beacon::BeaconState;
use hive::engine::command::{Batch, Command, ENVELOPE_VERSION, Origin, Proposal, Reply};
use hive::engine::founding::{HiveFacts, Step, childless, dissolves_into};
use hive::engine::id::{Epoch, EpochId, HiveId};
use rand::RngExt as _;

use super::node::{Facts, Ix, Msg, Pending, Purpose};
use super::raft::{Raft, Rpc};
use super::world::{Event, World, seeker};

const JOIN_PATIENCE_MS: u64 = 10_000;
const ADMIT_INTERVAL_MS: u64 = 1_000;
const FORWARD_AGAIN_MS: u64 = 400;
const HEARTBEAT_DIAL_MS: u64 = 2_000;
/// Proposals that wait a moment for company.
const FLUSH_MS: u64 = 4;

impl World {
    /// Everything that an agent's loop does when it looks.
    pub(crate) fn tick(&mut self, ix: Ix) {
        let now_ms = self.now_ms;
        if let Some(raft) = &mut self.nodes[ix].disk.raft {
            raft.tick(now_ms, &mut self.rng);
        }
        self.beacon(ix);
        if self.nodes[ix].life.as_ref().is_some_and(|life| life.founding.is_some()) {
            self.seek(ix);
        } else {
            self.keep_joining(ix);
            self.follow(ix);
        }
        self.send_pending(ix);
        self.ask_for_role(ix);
        self.coordinate(ix);
        self.work(ix);
        self.checker.cancelled.look(&self.nodes[ix], self.now_ms);
    }

    fn seek(&mut self, ix: Ix) {
        let mono = self.mono(ix);
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let founding = life.founding.as_mut().expect("looked at before");
        if founding.poll(mono).0 == Step::Found {
            self.found(ix);
        }
    }

    /// One step that is either done or not: hive, Raft directory and first entry are on the disk.
    fn found(&mut self, ix: Ix) {
        let hive = HiveId(self.rng.random());
        let epoch = Epoch { counter: 1, id: EpochId(self.rng.random()) };
        let raft_id = self.rng.random();
        let at = self.wall(ix);
        let info = self.nodes[ix].member_info();
        let sequence = self.number(ix);
        let node = &mut self.nodes[ix];
        let origin = Origin { peer_id: node.peer.clone(), incarnation: node.disk.incarnation, sequence };
        let command = Command::Found { hive_id: hive, epoch, founder: info };
        let proposals = vec![Proposal::new(origin, &command)];
        let batch = Batch { version: ENVELOPE_VERSION, elapsed_ms: 0, at, proposals };
        node.disk.hive = Some((hive, epoch));
        node.disk.raft = Some(Raft::founder(raft_id, ix, std::rc::Rc::new(batch)));
        self.checker.log.register(raft_id, ix);
        node.disk.identity = Some("founder".to_owned());
        let life = node.life.as_mut().expect("it lives");
        life.founding = None;
        life.wanted = false;
        self.say(|| format!("node {ix} founds {hive}"));
        self.counts.add("hives founded", 1);
        let (now_ms, peers) = (self.now_ms, self.peers_in_earshot(ix));
        self.checker.hives.founded(hive, ix, now_ms, &peers);
    }

    /// Nodes whose HELLOs have passed both ways for long.
    fn peers_in_earshot(&self, ix: Ix) -> Vec<Ix> {
        let near = |other: &Ix| {
            let other = *other;
            let settled = self.net.alive_since(ix, other).is_some_and(|since| self.now_ms >= since + 10_000);
            other != ix && settled && self.net.both_ways(ix, other) && self.nodes[other].life.is_some()
        };
        (0..self.nodes.len()).filter(near).collect()
    }

    fn beacon(&mut self, ix: Ix) {
        let mono = self.mono(ix);
        let is_member = self.nodes[ix].is_member();
        let nonce = self.rng.random();
        let node = &mut self.nodes[ix];
        let hive = node.disk.hive.map(|(hive, _)| hive).filter(|_| is_member);
        let life = node.life.as_mut().expect("it lives");
        let (state, digest) = match life.founding.as_mut().map(|founding| founding.poll(mono).0) {
            Some(Step::Announce { digest }) => (BeaconState::Founding, digest),
            Some(Step::Seek { digest } | Step::Hold { digest, .. }) => (BeaconState::Seeking, digest),
            // `poll` says it once: it must not be lost to the beacon.
            Some(Step::Found) => return self.found(ix),
            None if is_member => (BeaconState::Member, [0; 16]),
            None => (BeaconState::Seeking, [0; 16]),
        };
        life.schedule.set_state(state, mono);
        if !life.schedule.due(mono, &mut self.rng) {
            return;
        }
        let question = if state == BeaconState::Member { nonce } else { life.nonce };
        for to in (0..self.nodes.len()).filter(|to| *to != ix) {
            self.send(ix, to, Msg::Hello { state, digest, nonce: question, hive });
        }
    }

    fn on_hello(&mut self, ix: Ix, from: Ix, msg: (BeaconState, [u8; 16], [u8; 16], Option<HiveId>)) {
        let (state, digest, nonce, hive) = msg;
        let mono = self.mono(ix);
        let peer = self.nodes[from].peer.clone();
        if state == BeaconState::Member {
            return self.on_hint(ix, from, hive);
        }
        let is_member = self.nodes[ix].is_member();
        let me = self.nodes[ix].peer.clone();
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        if let Some(founding) = life.founding.as_mut() {
            founding.on_seeker(&peer, digest, state == BeaconState::Founding, mono);
        } else if is_member {
            let alive: Vec<_> =
                life.state.members().filter(|member| !member.left).map(|member| &member.info.peer_id).collect();
            if life.questions.answers(&nonce, &me, alive, mono) {
                self.send(ix, from, Msg::Welcome);
            }
        }
    }

    /// A datagram says that a hive is there: that is a hint to dial, nothing more.
    fn on_hint(&mut self, ix: Ix, from: Ix, hive: Option<HiveId>) {
        let mono = self.mono(ix);
        let now_ms = self.now_ms;
        let peer = self.nodes[from].peer.clone();
        let ours = self.nodes[ix].hive();
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        if let Some(founding) = life.founding.as_mut() {
            founding.on_hive_hint(mono);
            founding.on_seeker_gone(&peer);
        }
        let other = ours.is_none() || hive.is_some_and(|hive| Some(hive) != ours);
        if other || life.dialed_ms.get(&from).is_none_or(|at_ms| now_ms > at_ms + HEARTBEAT_DIAL_MS) {
            life.dialed_ms.insert(from, now_ms);
            let hive = self.facts(ix);
            self.send(ix, from, Msg::Dial { hive });
        }
    }

    fn facts(&self, ix: Ix) -> Option<Facts> {
        let hive = self.nodes[ix].hive()?;
        let life = self.nodes[ix].life.as_ref()?;
        let raft = self.nodes[ix].disk.raft.as_ref();
        let is_current =
            raft.is_some_and(|raft| raft.is_leader() && raft.has_quorum(self.now_ms) && life.applied.1 == raft.term);
        self.nodes[ix].is_member().then(|| Facts { hive, childless: childless(&life.state, is_current) })
    }

    /// An admitted connection: what the other side proves of itself.
    fn on_peer(&mut self, ix: Ix, from: Ix, theirs: Option<Facts>) {
        let Some(theirs) = theirs else { return };
        let now_ms = self.now_ms;
        let peer = self.nodes[from].peer.clone();
        let ours = self.nodes[ix].hive();
        let facts = self.facts(ix);
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        life.dialed_ms.insert(from, now_ms);
        if let Some(founding) = life.founding.as_mut() {
            founding.on_seeker_gone(&peer);
        }
        match ours {
            None => self.begin_join(ix, from, theirs.hive),
            Some(hive) if hive == theirs.hive => {}
            Some(hive) => {
                let ours = HiveFacts { hive_id: hive, childless: facts.is_some_and(|facts| facts.childless) };
                let theirs = HiveFacts { hive_id: theirs.hive, childless: theirs.childless };
                if dissolves_into(ours, theirs) {
                    self.say(|| format!("node {ix} dissolves {hive} into {}", theirs.hive_id));
                    self.counts.add("hives dissolved", 1);
                    let truth = self.checker.truths.get(&hive);
                    self.checker.hives.dissolved(hive, truth);
                    self.begin_join(ix, from, theirs.hive_id);
                }
            }
        }
    }

    fn begin_join(&mut self, ix: Ix, from: Ix, hive: HiveId) {
        let now_ms = self.now_ms;
        let epoch = self.checker.hives.epoch_of(hive, &self.nodes);
        let node = &mut self.nodes[ix];
        let left = node.disk.hive.is_some();
        node.disk.hive = Some((hive, epoch));
        node.disk.raft = None;
        node.disk.rows.clear();
        node.disk.unsynced.clear();
        node.disk.durable = (0, 0);
        let life = node.life.as_mut().expect("it lives");
        life.state = hive::engine::state::State::new();
        life.applied = (0, 0);
        life.founding = None;
        life.join = Some((hive, now_ms));
        life.source = Some((from, now_ms));
        life.leader_hint = None;
        life.admit_ms = None;
        life.answering.clear();
        life.waiting.clear();
        if left {
            // What it was told before no longer holds.
            node.disk.identity = None;
            life.wanted = true;
        }
        self.say(|| format!("node {ix} joins {hive}"));
    }

    fn keep_joining(&mut self, ix: Ix) {
        let (now_ms, mono) = (self.now_ms, self.mono(ix));
        let is_member = self.nodes[ix].is_member();
        let info = self.nodes[ix].member_info();
        let node = &mut self.nodes[ix];
        let life = node.life.as_mut().expect("it lives");
        if let Some((_, since_ms)) = life.join {
            if is_member {
                life.join = None;
            } else if life.applied.0 == 0 && now_ms > since_ms + JOIN_PATIENCE_MS {
                node.disk.hive = None;
                life.join = None;
                life.founding = Some(seeker(&node.peer, mono));
                return;
            }
        }
        let known = life.state.member(&node.peer).is_some_and(|member| !member.left && member.info == info);
        let due = life.admit_ms.is_none_or(|at_ms| now_ms >= at_ms + ADMIT_INTERVAL_MS);
        if !known && due && node.disk.hive.is_some() {
            life.admit_ms = Some(now_ms);
            self.propose(ix, Command::Admit { member: info }, Purpose::Admit, 5_000);
        }
    }

    fn number(&mut self, ix: Ix) -> u64 {
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        life.last_sequence += 1;
        life.last_sequence
    }

    /// Proposes a command under a number of its own, until it is answered or the time is over.
    pub(crate) fn propose(&mut self, ix: Ix, command: Command, purpose: Purpose, patience_ms: u64) -> u64 {
        let sequence = self.number(ix);
        let now_ms = self.now_ms;
        let node = &mut self.nodes[ix];
        let origin = Origin { peer_id: node.peer.clone(), incarnation: node.disk.incarnation, sequence };
        let proposal = Proposal::new(origin, &command);
        let pending = Pending { proposal, command, purpose, deadline_ms: now_ms + patience_ms, again_ms: now_ms };
        node.life.as_mut().expect("it lives").pending.insert(sequence, pending);
        self.send_pending(ix);
        sequence
    }

    /// Sends what has no answer yet; gives up what waited too long.
    fn send_pending(&mut self, ix: Ix) {
        let now_ms = self.now_ms;
        let hive = self.nodes[ix].hive();
        let leads = self.nodes[ix].leads();
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let late: Vec<u64> = life
            .pending
            .iter()
            .filter(|(_, pending)| now_ms >= pending.deadline_ms)
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in late {
            let life = self.nodes[ix].life.as_mut().expect("it lives");
            if let Some(pending) = life.pending.remove(&sequence) {
                self.on_answered(ix, sequence, pending, None);
            }
        }
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let due = life.pending.values_mut().filter(|pending| now_ms >= pending.again_ms);
        let due: Vec<Proposal> = due
            .map(|pending| {
                pending.again_ms = now_ms + FORWARD_AGAIN_MS;
                pending.proposal.clone()
            })
            .collect();
        let (Some(hive), false) = (hive, due.is_empty()) else { return };
        if leads {
            self.on_propose(ix, ix, hive, due);
        } else if let Some(leader) = life.leader_hint.filter(|leader| *leader != ix) {
            self.send(ix, leader, Msg::Propose { hive, proposals: due });
        }
    }

    fn on_propose(&mut self, ix: Ix, from: Ix, hive: HiveId, proposals: Vec<Proposal>) {
        if self.nodes[ix].hive() != Some(hive) {
            return;
        }
        if !self.nodes[ix].leads() {
            let leader = self.nodes[ix].life.as_ref().and_then(|life| life.leader_hint);
            let incarnation = proposals.first().map_or(0, |proposal| proposal.origin.incarnation);
            return self.send(ix, from, Msg::Answers { incarnation, answers: Vec::new(), leader });
        }
        let boot = self.nodes[ix].boot;
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        life.waiting.extend(proposals.into_iter().map(|proposal| (proposal, from)));
        if !life.flush_planned {
            life.flush_planned = true;
            self.after(FLUSH_MS, Event::Flush { node: ix, boot });
        }
    }

    pub(crate) fn on_answers(&mut self, ix: Ix, incarnation: u64, answers: Vec<(u64, Reply)>) {
        let node = &mut self.nodes[ix];
        if node.disk.incarnation != incarnation {
            return;
        }
        for (sequence, reply) in answers {
            let life = self.nodes[ix].life.as_mut().expect("it lives");
            if let Some(pending) = life.pending.remove(&sequence) {
                self.on_answered(ix, sequence, pending, Some(reply));
            }
        }
    }

    /// The hive answered a proposal; none: no answer in time, it may still take effect.
    fn on_answered(&mut self, ix: Ix, sequence: u64, pending: Pending, reply: Option<Reply>) {
        match pending.purpose {
            Purpose::Client(op) => {
                if let Some(reply) = &reply {
                    let hive = self.nodes[ix].hive().expect("it was answered by one");
                    self.checker.acknowledged.answered(hive, &pending.command, reply);
                }
                self.clients.answered(op, reply.as_ref(), &mut self.counts);
            }
            Purpose::Claim(ballot) => self.on_claimed(ix, &ballot, reply),
            Purpose::Plan => self.on_planned(ix, sequence),
            Purpose::Begin(job, token) => self.on_begun(ix, job, token, reply),
            Purpose::Result(token) => self.on_reported(ix, token, reply),
            Purpose::Expand(session) => self.on_expanded(ix, session, sequence, reply.as_ref()),
            Purpose::Import(client) => self.on_import(ix, client, &pending.command, reply),
            Purpose::Admit | Purpose::Progress | Purpose::Bind | Purpose::Draft => {}
        }
    }

    pub(crate) fn deliver(&mut self, from: Ix, ix: Ix, msg: Msg) {
        match msg {
            Msg::Hello { state, digest, nonce, hive } => self.on_hello(ix, from, (state, digest, nonce, hive)),
            Msg::Welcome => self.on_hint(ix, from, None),
            Msg::Dial { hive } => {
                let own = self.facts(ix);
                self.send(ix, from, Msg::Facts { hive: own });
                self.on_peer(ix, from, hive);
            }
            Msg::Facts { hive } => self.on_peer(ix, from, hive),
            Msg::Raft { hive, to, from: id, rpc } => self.on_raft(ix, from, hive, to, id, rpc),
            Msg::Follow { hive, after } => self.on_follow(ix, from, hive, after),
            Msg::Followed { hive, entries, snapshot, leader } => {
                if self.nodes[ix].hive() == Some(hive) {
                    self.on_followed(ix, from, entries, snapshot, leader);
                }
            }
            Msg::Propose { hive, proposals } => self.on_propose(ix, from, hive, proposals),
            Msg::Answers { incarnation, answers, leader } => {
                self.on_answers(ix, incarnation, answers);
                let life = self.nodes[ix].life.as_mut().expect("it lives");
                if let Some(leader) = leader.filter(|leader| *leader != ix) {
                    life.leader_hint = Some(leader);
                }
            }
            Msg::Lease { asked, incarnation, sent_ms } => self.on_lease_question(ix, from, asked, incarnation, sent_ms),
            Msg::Leased { asked, valid, incarnation, sent_ms } => {
                if self.nodes[ix].disk.incarnation == incarnation {
                    self.on_leased(ix, &asked, valid, sent_ms);
                }
            }
            Msg::Identify(question) => {
                let advice = self.advise(ix, from, &question);
                self.send(ix, from, Msg::Advice(advice));
            }
            Msg::Advice(advice) => self.on_advice(ix, from, advice),
            Msg::Prepare => self.on_prepare(ix, from),
            Msg::Prepared { raft_id } => self.on_prepared(ix, from, raft_id),
            Msg::Retire { raft_id } => {
                let node = &mut self.nodes[ix];
                if node.disk.raft.as_ref().is_some_and(|raft| raft.id == raft_id) {
                    node.disk.raft = None;
                    self.say(|| format!("node {ix} gives up its part in Raft"));
                }
            }
            Msg::AskAgain { generation } => self.on_ask_again(ix, generation),
            Msg::Keep { artifact, token } => {
                self.nodes[ix].disk.blobs.insert(artifact);
                self.send(ix, from, Msg::Kept { artifact, token });
            }
            Msg::Kept { artifact, token } => self.on_kept(ix, artifact, token),
        }
    }

    /// Raft traffic is taken under the hive and the id that it names, and from nobody else.
    fn on_raft(&mut self, ix: Ix, from: Ix, hive: HiveId, to: u64, id: u64, rpc: Rpc) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[ix];
        if node.hive() != Some(hive) || self.checker.log.holder(id) != Some(from) {
            return;
        }
        let Some(raft) = node.disk.raft.as_mut().filter(|raft| raft.id == to) else { return };
        let snapshot = if let Rpc::Install { snapshot, .. } = &rpc { Some(std::rc::Rc::clone(snapshot)) } else { None };
        raft.on(id, rpc, now_ms, &mut self.rng);
        if let Some(snapshot) = snapshot.filter(|snapshot| raft.base.0 == snapshot.index) {
            self.install(ix, &snapshot);
        }
    }
}
