//! The simulated world: virtual time, the queue of what happens next, and all machines.
//!
//! Everything that happens is an event with a time; one seed decides all of them. After each event the checker looks. Never
//! done here: deciding anything that hive decides.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::sync::Arc;

use hive::engine::beacon::BeaconState;
use hive::engine::beacon::answer::QuestionMemory;
use hive::engine::beacon::schedule::Schedule;
use hive::engine::command::{Batch, ENVELOPE_VERSION};
use hive::engine::drone::Desk;
use hive::engine::founding::{Founding, FoundingOptions};
use hive::engine::id::{HiveId, JobId, PeerId, SessionId, Token, UnixMillis};
use hive::engine::member::Inventory;
use hive::engine::policy::Policy;
use hive::engine::role::{RoleSet, shipped};
use hive::engine::state::State;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use uuid::Uuid;

use super::clients::Clients;
use super::invariants::{Checker, Violation};
use super::net::Net;
use super::node::{Disk, Ix, Life, Msg, Node};
use super::raft::{Payload, Rpc};
use super::schedule::{Action, Schedule as Planned, Undo};

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    Deliver { from: Ix, to: Ix, msg: Msg },
    Tick { node: Ix, boot: u64 },
    Flush { node: Ix, boot: u64 },
    Synced { node: Ix, boot: u64, raft: u64, upto: u64, term: u64 },
    Build { node: Ix, boot: u64, token: Token },
    Detect,
    Do(Box<Action>),
    Undo(Undo),
}

/// What was exercised, summed over all runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(pub(crate) BTreeMap<&'static str, u64>);

impl Counts {
    pub(crate) fn add(&mut self, what: &'static str, by: u64) {
        *self.0.entry(what).or_default() += by;
    }

    pub(crate) fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }
}

type Queued = Reverse<(u64, u64)>;

pub(crate) struct World {
    pub(crate) now_ms: u64,
    /// Time that passed while nothing ran, added to all clocks.
    pub(crate) slept_ms: u64,
    sequence: u64,
    queue: BinaryHeap<Queued>,
    events: BTreeMap<u64, Event>,
    pub(crate) rng: StdRng,
    pub(crate) net_rng: StdRng,
    pub(crate) net: Net,
    pub(crate) nodes: Vec<Node>,
    pub(crate) roles: Arc<RoleSet>,
    pub(crate) policy: Rc<Policy>,
    pub(crate) checker: Checker,
    pub(crate) clients: Clients,
    pub(crate) counts: Counts,
    pub(crate) trace: u64,
    pub(crate) steps: u64,
    pub(crate) faults_off: bool,
    pub(crate) seed: u64,
    /// Told of each step when somebody wants to read it.
    pub(crate) verbose: bool,
}

pub(crate) fn job_id(number: u64) -> JobId {
    JobId(Uuid::from_u128(0x10_0000 + u128::from(number)))
}

pub(crate) fn session_id(number: u64) -> SessionId {
    SessionId(Uuid::from_u128(0x20_0000 + u128::from(number)))
}

thread_local! {
    static SHIPPED: (Arc<RoleSet>, Rc<Policy>) = {
        let roles = RoleSet::parse(shipped::ROLES.iter().copied()).expect("shipped roles load");
        let (file, text) = shipped::POLICIES.iter().find(|(file, _)| file.ends_with("/default.toml")).expect("shipped");
        let policy = Policy::parse(file, text, &roles).expect("the shipped policy loads");
        (Arc::new(roles), Rc::new(policy))
    };
}

impl World {
    pub(crate) fn new(seed: u64, planned: &Planned) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
        let (roles, policy) = SHIPPED.with(|(roles, policy)| (Arc::clone(roles), Rc::clone(policy)));
        let nodes = (0..planned.nodes).map(|ix| machine(ix, planned, &mut rng)).collect();
        let mut world = Self {
            now_ms: 0,
            slept_ms: 0,
            sequence: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            net_rng: StdRng::seed_from_u64(seed ^ 0x0e70),
            rng,
            net: Net::new(planned.nodes),
            nodes,
            roles,
            policy,
            checker: Checker::new(),
            clients: Clients::default(),
            counts: Counts::default(),
            trace: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            faults_off: false,
            seed,
            verbose: false,
        };
        for ix in 0..planned.nodes {
            let at_ms = planned.boots_ms.get(ix).copied().unwrap_or(0);
            world.at(at_ms, Event::Undo(Undo::Start(ix)));
        }
        for (at_ms, action) in &planned.actions {
            world.at(*at_ms, Event::Do(Box::new(action.clone())));
        }
        world.at(0, Event::Detect);
        world
    }

    pub(crate) fn at(&mut self, at_ms: u64, event: Event) {
        self.sequence += 1;
        self.events.insert(self.sequence, event);
        self.queue.push(Reverse((at_ms.max(self.now_ms), self.sequence)));
    }

    pub(crate) fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now_ms + ms, event);
    }

    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>9} {}", self.now_ms, text());
        }
    }

    pub(crate) fn mix(&mut self, number: u64) {
        self.trace = (self.trace ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
    }

    /// One event. False when there is none.
    pub(crate) fn step(&mut self) -> Result<bool, Violation> {
        let Some(Reverse((at_ms, number))) = self.queue.pop() else { return Ok(false) };
        let event = self.events.remove(&number).expect("queued once");
        self.now_ms = at_ms;
        self.steps += 1;
        self.mix(at_ms.wrapping_mul(31) ^ number);
        self.handle(event);
        self.checker.after_step(self.now_ms, &self.nodes)?;
        Ok(true)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, msg } => {
                let Some(node) = self.nodes.get(to) else { return };
                if node.life.is_none() || node.paused_until_ms > self.now_ms {
                    // Datagrams to a paused machine are dropped; streams would be torn by their time-outs.
                    return;
                }
                self.mix(((from as u64) << 8) | to as u64);
                self.deliver(from, to, msg);
                self.pump(to);
            }
            Event::Tick { node, boot } => {
                if self.nodes[node].boot != boot || self.nodes[node].life.is_none() {
                    return;
                }
                let paused_ms = self.nodes[node].paused_until_ms.saturating_sub(self.now_ms);
                if paused_ms > 0 {
                    self.after(paused_ms, Event::Tick { node, boot });
                    return;
                }
                self.tick(node);
                self.pump(node);
                let ms = 95 + self.rng.random_range(0..10);
                self.after(ms, Event::Tick { node, boot });
            }
            Event::Flush { node, boot } if self.runs(node, boot) => {
                self.flush(node);
                self.pump(node);
            }
            Event::Synced { node, boot, raft, upto, term } if self.runs(node, boot) => {
                if let Some(raft) = self.nodes[node].disk.raft.as_mut().filter(|known| known.id == raft) {
                    raft.on_synced(upto, term);
                }
                self.pump(node);
            }
            Event::Build { node, boot, token } if self.runs(node, boot) => {
                self.on_build(node, token);
                self.pump(node);
            }
            Event::Flush { node, boot } | Event::Build { node, boot, .. } | Event::Synced { node, boot, .. } => {
                // Frozen, not gone: it goes on when the machine does.
                let until_ms = self.nodes[node].paused_until_ms;
                if self.nodes[node].boot == boot && until_ms > self.now_ms {
                    self.at(until_ms + 1, event);
                }
            }
            Event::Detect => {
                let now_ms = self.now_ms;
                let up: Vec<bool> =
                    self.nodes.iter().map(|node| node.life.is_some() && node.paused_until_ms <= now_ms).collect();
                self.net.detect(&up, now_ms);
                self.after(500, Event::Detect);
            }
            Event::Do(action) => self.act(*action),
            Event::Undo(undo) => self.undo(undo),
        }
    }

    fn runs(&self, node: Ix, boot: u64) -> bool {
        let node = &self.nodes[node];
        node.boot == boot && node.life.is_some() && node.paused_until_ms <= self.now_ms
    }

    pub(crate) fn send(&mut self, from: Ix, to: Ix, msg: Msg) {
        if to >= self.nodes.len() {
            return;
        }
        for delay_ms in self.net.copies(from, to, &mut self.net_rng) {
            self.after(delay_ms, Event::Deliver { from, to, msg: msg.clone() });
        }
    }

    /// A machine's monotonic clock.
    pub(crate) fn mono(&self, node: Ix) -> u64 {
        let node = &self.nodes[node];
        (self.now_ms + self.slept_ms) * node.speed / 1_000 + node.offset_ms
    }

    /// The same for a time of the world.
    pub(crate) fn mono_of(&self, node: Ix, at_ms: u64) -> u64 {
        let node = &self.nodes[node];
        (at_ms + self.slept_ms) * node.speed / 1_000 + node.offset_ms
    }

    pub(crate) fn wall(&self, node: Ix) -> UnixMillis {
        let now = i64::try_from(1_790_000_000_000 + self.now_ms + self.slept_ms).expect("fits");
        UnixMillis(u64::try_from(now + self.nodes[node].wall_offset_ms).unwrap_or(0))
    }

    pub(crate) fn ix_of(&self, peer: &PeerId) -> Option<Ix> {
        self.nodes.iter().position(|node| node.peer == *peer)
    }

    /// The agent of a machine begins to run.
    pub(crate) fn start(&mut self, ix: Ix) {
        if self.nodes[ix].life.is_some() {
            return;
        }
        let mono = self.mono(ix);
        let nonce = self.rng.random();
        let node = &mut self.nodes[ix];
        node.boot += 1;
        node.paused_until_ms = 0;
        node.disk.incarnation += 1;
        let state = State::from_rows(node.disk.rows.clone()).expect("the rows on the disk are readable");
        let founding = node.disk.hive.is_none().then(|| seeker(&node.peer, mono));
        let beacon = if founding.is_some() { BeaconState::Seeking } else { BeaconState::Member };
        let mut desk = Desk::default();
        for (token, ended) in &node.disk.outbox {
            desk.take_up(*token, ended.job, mono);
        }
        node.life = Some(Life {
            state,
            applied: node.disk.durable,
            applied_at_ms: mono,
            founding,
            schedule: Schedule::new(beacon, mono),
            questions: QuestionMemory::default(),
            nonce,
            join: None,
            dialed_ms: BTreeMap::new(),
            source: None,
            follow_ms: 0,
            leader_hint: None,
            admit_ms: None,
            ballot: None,
            ballots: 0,
            claiming: None,
            ask_not_before_ms: 0,
            wanted: node.disk.identity.is_none(),
            last_sequence: 0,
            pending: BTreeMap::new(),
            waiting: Vec::new(),
            flush_planned: false,
            answering: BTreeMap::new(),
            elapsed: (0, 0),
            term: None,
            lease_questions: Vec::new(),
            desk,
            lease_sent_ms: None,
            builds: BTreeMap::new(),
            outbox_ms: 0,
            copying: BTreeMap::new(),
            imports: Vec::new(),
        });
        let boot = node.boot;
        self.say(|| format!("node {ix} starts"));
        let ms = self.rng.random_range(1..100);
        self.after(ms, Event::Tick { node: ix, boot });
    }

    /// The agent of a machine ends at this instant. `lose`: with what was not synced.
    pub(crate) fn crash(&mut self, ix: Ix, lose: bool) {
        if self.nodes[ix].life.is_none() {
            return;
        }
        self.say(|| format!("node {ix} crashes, losing what was not synced: {lose}"));
        self.counts.add("crashes", 1);
        let (kept, lost) = (self.rng.random_range(0..=100), self.rng.random_range(0..=100_u64));
        let node = &mut self.nodes[ix];
        let unsynced = node.disk.unsynced.len();
        let keep = if lose { unsynced * kept / 100 } else { unsynced };
        node.sync_rows(keep);
        node.disk.unsynced.clear();
        if unsynced > keep {
            self.counts.add("crashes that lost rows", 1);
        }
        if let Some(raft) = &mut node.disk.raft {
            let before = raft.last();
            raft.crash(|unsynced| if lose { (unsynced * lost).div_ceil(100) } else { 0 });
            if raft.last() < before {
                self.counts.add("crashes that lost entries", 1);
            }
        }
        let life = node.life.take().expect("it lives");
        self.checker.effects.stopped_all(ix);
        self.clients.on_crash(life.pending.values().map(|pending| &pending.purpose));
    }

    /// Does what the node's consensus wants done, until it wants nothing: sends, syncs, applies.
    pub(crate) fn pump(&mut self, ix: Ix) {
        if self.nodes[ix].life.is_none() {
            return;
        }
        self.serve_snapshots(ix);
        let Some(hive) = self.nodes[ix].hive() else { return };
        let boot = self.nodes[ix].boot;
        let Some(raft) = self.nodes[ix].disk.raft.as_mut() else { return };
        let (id, out) = (raft.id, std::mem::take(&mut raft.out));
        let unsynced = (raft.synced < raft.last()).then(|| (raft.last(), raft.term_at(raft.last()).unwrap_or(0)));
        for (to, node, rpc) in out {
            self.send_rpc(ix, hive, id, to, node, rpc);
        }
        if let Some((upto, term)) = unsynced {
            let ms = self.nodes[ix].disk_ms;
            self.after(ms, Event::Synced { node: ix, boot, raft: id, upto, term });
        }
        self.apply_committed(ix);
        self.note_leader(ix);
        self.answer_lease_questions(ix);
    }

    fn send_rpc(&mut self, ix: Ix, hive: HiveId, from: u64, to: u64, node: Ix, rpc: Rpc) {
        let node = if node < self.nodes.len() { Some(node) } else { self.checker.log.holder(to) };
        if let Some(node) = node {
            self.send(ix, node, Msg::Raft { hive, to, from, rpc });
        }
    }

    fn serve_snapshots(&mut self, ix: Ix) {
        let Some(hive) = self.nodes[ix].hive() else { return };
        let Some(raft) = self.nodes[ix].disk.raft.as_mut() else { return };
        let lacking = raft.take_lacking();
        if lacking.is_empty() || !raft.is_leader() {
            return;
        }
        let (id, term, round) = (raft.id, raft.term, raft.round);
        let Some(snapshot) = self.nodes[ix].snapshot() else { return };
        self.counts.add("snapshots sent", lacking.len() as u64);
        let snapshot = Rc::new(snapshot);
        for (to, node) in lacking {
            let rpc = Rpc::Install { term, snapshot: Rc::clone(&snapshot), round };
            self.send(ix, node, Msg::Raft { hive, to, from: id, rpc });
        }
    }

    fn note_leader(&mut self, ix: Ix) {
        let Some(raft) = &self.nodes[ix].disk.raft else { return };
        let leader = raft.leader.and_then(|id| raft.config().nodes.get(&id).copied());
        let life = self.nodes[ix].life.as_mut().expect("looked at before");
        if leader.is_some() {
            life.leader_hint = leader;
        }
    }

    /// Puts waiting proposals into one entry.
    fn flush(&mut self, ix: Ix) {
        let (mono, at, now_ms) = (self.mono(ix), self.wall(ix), self.now_ms);
        let node = &mut self.nodes[ix];
        let life = node.life.as_mut().expect("it runs");
        life.flush_planned = false;
        let waiting = std::mem::take(&mut life.waiting);
        let Some(raft) = node.disk.raft.as_mut().filter(|raft| raft.is_leader()) else { return };
        if waiting.is_empty() {
            return;
        }
        // As the batcher: the sum of these is hive time.
        let elapsed_ms = if life.elapsed.0 == raft.term { mono.saturating_sub(life.elapsed.1) } else { 0 };
        life.elapsed = (raft.term, mono);
        let mut proposals = Vec::new();
        let mut asking = Vec::new();
        for (proposal, from) in waiting {
            asking.push((from, proposal.origin.incarnation, proposal.origin.sequence));
            proposals.push(proposal);
        }
        let batch = Rc::new(Batch { version: ENVELOPE_VERSION, elapsed_ms, at, proposals });
        let index = raft.append(Payload::Batch(batch));
        life.answering.insert(index, (raft.term, asking));
        raft.beat(now_ms);
    }

    /// All faults end.
    pub(crate) fn heal(&mut self) {
        self.faults_off = true;
        self.net.mend_all();
        for ix in 0..self.nodes.len() {
            let node = &mut self.nodes[ix];
            node.paused_until_ms = 0;
            node.disk_ms = 2;
            node.disk_low = false;
            node.apply_not_before_ms = 0;
            if node.life.is_none() {
                self.start(ix);
            }
        }
    }
}

pub(crate) fn seeker(peer: &PeerId, mono: u64) -> Founding {
    let mut founding = Founding::new(FoundingOptions::default(), peer.clone());
    founding.on_link(true, mono);
    founding
}

fn machine(ix: Ix, planned: &Planned, rng: &mut StdRng) -> Node {
    let inventory = Inventory {
        cpu_cores: [2, 2, 4, 8][rng.random_range(0..4_usize)],
        ram_gb: 8,
        disk_free_gb: 100,
        arch: "x86_64".to_owned(),
        distro: "debian".to_owned(),
        virt: "lxc".to_owned(),
        tools: [("emerge", "3.0"), ("git", "2.39"), ("dpkg-buildpackage", "1.21")]
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .into(),
        labels: if ix % 3 == 2 { ["big".to_owned()].into() } else { Default::default() },
        ..Inventory::default()
    };
    Node {
        ix,
        // The order of PeerIds is not that of the machines.
        peer: PeerId::new(format!("12D3KooW{:08x}n{ix}", rng.random::<u32>())),
        inventory,
        disk: Disk::default(),
        life: None,
        boot: 0,
        paused_until_ms: 0,
        speed: planned.speeds.get(ix).copied().unwrap_or(1_000),
        offset_ms: rng.random_range(1_000..10_000_000),
        wall_offset_ms: rng.random_range(-5_000..5_000),
        disk_ms: 2,
        disk_low: false,
        apply_not_before_ms: 0,
    }
}
