//! Whole hives of detectors in one thread, with time and a network made up: seeds decide, so a failure can be repeated.

use rand::RngExt as _;

use super::*;
use crate::discovery::wire::tests::peer;

/// A packet is on the way this long.
const LATENCY_MS: u64 = 5;
/// The signed envelope, UDP and IP around a packet, as `wire` writes it.
const ENVELOPE_BYTES: usize = 215 + 28;

struct Node {
    swim: Swim,
    running: bool,
    /// Timers run late by up to this much; the network is read all the same.
    starved_ms: u64,
    blocked_until_ms: u64,
    bytes_out: usize,
    seen: BTreeMap<PeerId, (u64, Liveness)>,
    downs: Vec<(u64, PeerId, bool)>,
}

struct Lab {
    now_ms: u64,
    nodes: BTreeMap<PeerId, Node>,
    flying: BTreeMap<(u64, u64), (PeerId, PeerId, Vec<u8>)>,
    sent: u64,
    loss_percent: u32,
    cut: Option<BTreeMap<PeerId, u8>>,
    rng: SmallRng,
}

impl Lab {
    fn new(count: u8, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut lab = Self {
            now_ms: 1_000,
            nodes: BTreeMap::new(),
            flying: BTreeMap::new(),
            sent: 0,
            loss_percent: 0,
            cut: None,
            rng: SmallRng::from_rng(&mut rng),
        };
        for number in 0..count {
            lab.start(peer(number), 1);
        }
        lab.declare(&[]);
        lab
    }

    fn start(&mut self, peer: PeerId, incarnation: u64) {
        let swim = Swim::new(peer.clone(), incarnation, None, self.rng.random());
        let node = Node {
            swim,
            running: true,
            starved_ms: 0,
            blocked_until_ms: 0,
            bytes_out: 0,
            seen: BTreeMap::new(),
            downs: Vec::new(),
        };
        self.nodes.insert(peer, node);
    }

    fn contacts(&self, except: &[PeerId]) -> Vec<MemberContact> {
        let all = self.nodes.keys().filter(|peer| !except.contains(peer));
        all.map(|peer| MemberContact { peer: peer.clone(), addresses: Vec::new(), incarnation: 1 }).collect()
    }

    fn declare(&mut self, except: &[PeerId]) {
        let contacts = self.contacts(except);
        for node in self.nodes.values_mut() {
            node.swim.set_members(&contacts, self.now_ms);
        }
        self.collect();
    }

    fn collect(&mut self) {
        let all: Vec<PeerId> = self.nodes.keys().cloned().collect();
        for peer in all {
            self.collect_from(&peer);
        }
    }

    fn collect_from(&mut self, from: &PeerId) {
        let node = self.nodes.get_mut(from).expect("is there");
        let outgoing = node.swim.take_outgoing();
        if !node.running {
            return;
        }
        for Outgoing { peer: to, packet, .. } in outgoing {
            assert!(packet.len() <= SWIM_MAX);
            node.bytes_out += packet.len() + ENVELOPE_BYTES;
            let apart = self.cut.as_ref().is_some_and(|sides| sides.get(from) != sides.get(&to));
            if !apart && self.rng.random_range(0..100) >= self.loss_percent {
                self.sent += 1;
                self.flying.insert((self.now_ms + LATENCY_MS, self.sent), (from.clone(), to, packet));
            }
        }
        let (seen, downs, now_ms) = (&mut node.seen, &mut node.downs, self.now_ms);
        node.swim.report_changes(|change| {
            if change.liveness == Liveness::Down {
                downs.push((now_ms, change.peer.clone(), change.farewell));
            }
            seen.insert(change.peer, (change.incarnation, change.liveness));
            true
        });
    }

    /// Goes on to the next moment at which something happens, but not beyond `until_ms`.
    fn step(&mut self, until_ms: u64) {
        let timers = self.nodes.values().filter(|node| node.running);
        let timers = timers.filter_map(|node| node.swim.next_ms().map(|due_ms| due_ms.max(node.blocked_until_ms)));
        let next_ms = timers.chain(self.flying.first_key_value().map(|((due_ms, _), _)| *due_ms)).min();
        self.now_ms = next_ms.unwrap_or(until_ms).clamp(self.now_ms, until_ms);
        while let Some(entry) = self.flying.first_entry()
            && entry.key().0 <= self.now_ms
        {
            let (from, to, packet) = entry.remove();
            if let Some(node) = self.nodes.get_mut(&to).filter(|node| node.running) {
                node.swim.handle(&from, &packet, self.now_ms).expect("what a detector sends is taken by another");
                self.collect_from(&to);
            }
        }
        let due = |node: &Node| node.running && node.blocked_until_ms <= self.now_ms;
        let due = |node: &Node| due(node) && node.swim.next_ms().is_some_and(|due_ms| due_ms <= self.now_ms);
        let due: Vec<PeerId> = self.nodes.iter().filter(|(_, node)| due(node)).map(|(peer, _)| peer.clone()).collect();
        for peer in due {
            let node = self.nodes.get_mut(&peer).expect("is there");
            node.swim.tick(self.now_ms);
            if node.starved_ms > 0 {
                node.blocked_until_ms = self.now_ms + self.rng.random_range(0..node.starved_ms);
            }
            self.collect_from(&peer);
        }
    }

    fn run(&mut self, for_ms: u64) {
        let until_ms = self.now_ms + for_ms;
        while self.now_ms < until_ms {
            self.step(until_ms);
        }
    }

    /// Runs until `done`, and returns how long it took.
    fn run_until(&mut self, at_most_ms: u64, done: impl Fn(&Self) -> bool) -> u64 {
        let start_ms = self.now_ms;
        while !done(self) {
            assert!(self.now_ms - start_ms < at_most_ms, "not within {at_most_ms} ms");
            self.step(start_ms + at_most_ms);
        }
        self.now_ms - start_ms
    }

    fn sees(&self, observer: &PeerId, other: &PeerId) -> Option<(u64, Liveness)> {
        self.nodes[observer].seen.get(other).copied()
    }

    fn all_see(&self, other: &PeerId, expected: (u64, Liveness)) -> bool {
        let mut observers = self.nodes.iter().filter(|(peer, node)| node.running && *peer != other);
        observers.all(|(observer, _)| self.sees(observer, other) == Some(expected))
    }

    fn downs(&self) -> Vec<(u64, PeerId, bool)> {
        self.nodes.values().flat_map(|node| node.downs.clone()).collect()
    }
}

#[test]
fn a_crash_is_seen_by_all_within_five_seconds() {
    let mut worst: BTreeMap<u8, u64> = BTreeMap::new();
    for size in [2u8, 3, 5, 10] {
        for seed in 0..20 {
            let mut lab = Lab::new(size, seed);
            lab.run(3_000 + seed * 37);
            let dead = peer(0);
            lab.nodes.get_mut(&dead).expect("is there").running = false;
            let took_ms = lab.run_until(5_000, |lab| lab.all_see(&dead, (1, Liveness::Down)));
            let most = worst.entry(size).or_default();
            *most = took_ms.max(*most);
            assert_eq!(lab.downs().len(), usize::from(size) - 1, "nobody else was accused");
        }
    }
    println!("slowest of 20 crashes, ms by hive size: {worst:?}");
}

#[test]
fn nobody_is_falsely_down_at_five_percent_loss_in_ten_minutes() {
    let mut lab = Lab::new(10, 1);
    lab.loss_percent = 5;
    lab.run(600_000);
    assert_eq!(lab.downs(), []);
}

#[test]
fn starved_nodes_do_not_bring_others_down_and_stay_up_themselves() {
    let mut lab = Lab::new(10, 2);
    lab.loss_percent = 5;
    for node in lab.nodes.values_mut() {
        node.starved_ms = 700;
    }
    lab.run(200_000);
    assert_eq!(lab.downs(), []);
    assert!(lab.nodes.values().any(|node| node.swim.health_score() > 0));
}

#[test]
fn idle_traffic_is_small_and_does_not_grow_with_the_hive() {
    let mut rates = Vec::new();
    for size in [3u8, 10, 30] {
        let mut lab = Lab::new(size, 3);
        lab.run(20_000);
        for node in lab.nodes.values_mut() {
            node.bytes_out = 0;
        }
        lab.run(30_000);
        let total: usize = lab.nodes.values().map(|node| node.bytes_out).sum();
        rates.push(total / 30 / usize::from(size));
    }
    println!("bytes per second and node, with IP and UDP headers, for 3, 10, 30 nodes: {rates:?}");
    assert!(rates.iter().all(|rate| *rate <= 1_500), "{rates:?}");
}

#[test]
fn a_restarted_node_replaces_its_old_self() {
    for wait_ms in [0, 10_000] {
        let mut lab = Lab::new(5, 4);
        lab.run(3_000);
        let restarted = peer(0);
        lab.nodes.get_mut(&restarted).expect("is there").running = false;
        lab.run(wait_ms);
        lab.start(restarted.clone(), 2);
        // The replicated state of nobody knows the new incarnation yet.
        let contacts = lab.contacts(&[]);
        lab.nodes.get_mut(&restarted).expect("is there").swim.set_members(&contacts, lab.now_ms);
        lab.run_until(5_000, |lab| lab.all_see(&restarted, (2, Liveness::Alive)));
        lab.run(20_000);
        assert!(lab.all_see(&restarted, (2, Liveness::Alive)), "and stays");
    }
}

#[test]
fn a_frozen_node_comes_back_by_itself() {
    let mut lab = Lab::new(5, 5);
    lab.run(3_000);
    let frozen = peer(0);
    lab.nodes.get_mut(&frozen).expect("is there").running = false;
    lab.run_until(5_000, |lab| lab.all_see(&frozen, (1, Liveness::Down)));
    lab.nodes.get_mut(&frozen).expect("is there").running = true;
    lab.run_until(25_000, |lab| lab.all_see(&frozen, (1, Liveness::Alive)));
    assert_eq!(lab.nodes[&frozen].downs, [], "it accused nobody when it woke up");
}

#[test]
fn a_healed_partition_comes_together() {
    let mut lab = Lab::new(6, 6);
    lab.run(3_000);
    lab.cut = Some((0..6u8).map(|number| (peer(number), number % 2)).collect());
    lab.run_until(20_000, |lab| lab.sees(&peer(0), &peer(1)) == Some((1, Liveness::Down)));
    lab.run(10_000);
    lab.cut = None;
    let all_alive = |lab: &Lab| lab.nodes.keys().all(|other| lab.all_see(other, (1, Liveness::Alive)));
    lab.run_until(60_000, all_alive);
    lab.run(20_000);
    assert!(all_alive(&lab), "and stays together");
}

/// Cuts of every length end in the middle of suspicions: each must be confirmed or refuted, also on a node that was declared down
/// meanwhile and came back under a renewed identity, by which the detector forgets its timers.
#[test]
fn no_suspicion_outlives_a_short_cut() {
    for seed in 0..60 {
        let mut lab = Lab::new(3, 100 + seed);
        lab.run(3_000);
        lab.cut = Some((0..3).map(|number| (peer(number), u8::from(number == 2))).collect());
        lab.run(300 + 60 * seed);
        lab.cut = None;
        let everyone = |lab: &Lab| {
            let alive = |other: &PeerId| {
                lab.nodes
                    .iter()
                    .filter(|(own, _)| *own != other)
                    .all(|(own, _)| lab.sees(own, other).is_some_and(|(_, liveness)| liveness == Liveness::Alive))
            };
            lab.nodes.keys().all(alive)
        };
        lab.run_until(30_000, everyone);
        lab.run(20_000);
        assert!(everyone(&lab), "seed {seed}");
    }
}

#[test]
fn a_farewell_is_known_at_once() {
    let mut lab = Lab::new(5, 7);
    lab.run(3_000);
    let gone = peer(0);
    let now_ms = lab.now_ms;
    lab.nodes.get_mut(&gone).expect("is there").swim.leave(now_ms);
    lab.collect();
    lab.nodes.get_mut(&gone).expect("is there").running = false;
    lab.run_until(1_500, |lab| lab.all_see(&gone, (1, Liveness::Down)));
    assert!(lab.downs().iter().any(|(_, peer, farewell)| *peer == gone && *farewell));
}

#[test]
fn a_suspicion_from_outside_is_refuted_or_confirmed() {
    let mut lab = Lab::new(5, 8);
    lab.run(3_000);
    let (observer, alive, dead) = (peer(0), peer(1), peer(2));
    lab.nodes.get_mut(&dead).expect("is there").running = false;
    let now_ms = lab.now_ms;
    for suspect in [&alive, &dead] {
        lab.nodes.get_mut(&observer).expect("is there").swim.suspect(suspect, now_ms);
    }
    lab.collect();
    assert_eq!(lab.sees(&observer, &alive), Some((1, Liveness::Suspect)));
    lab.run_until(4_000, |lab| lab.all_see(&dead, (1, Liveness::Down)) && lab.all_see(&alive, (1, Liveness::Alive)));
}

#[test]
fn strangers_and_news_about_strangers_do_not_get_in() {
    let mut lab = Lab::new(4, 9);
    let stranger = peer(3);
    lab.nodes.get_mut(&stranger).expect("is there").running = false;
    lab.flying.clear();
    lab.declare(std::slice::from_ref(&stranger));
    let announce = |from: &PeerId, to: &PeerId| {
        let mut swim = Swim::new(from.clone(), 1, None, 1);
        let contact = MemberContact { peer: to.clone(), addresses: Vec::new(), incarnation: 1 };
        swim.set_members(&[contact], 0);
        swim.take_outgoing().swap_remove(0).packet
    };
    let node = lab.nodes.get_mut(&peer(0)).expect("is there");
    assert_eq!(node.swim.handle(&stranger, &announce(&stranger, &peer(0)), 1), Err(Reason::Stranger));
    assert_eq!(node.swim.handle(&peer(1), b"junk", 1), Err(Reason::Malformed));

    let id = |peer: PeerId| SwimId { peer, incarnation: 1, renewal: 0, addr: None };
    let gossip = Packet {
        header: Header { src: id(peer(1)), src_incarnation: 0, dst: id(peer(0)), message: Message::Gossip },
        updates: Some(vec![Member::alive(id(stranger.clone())), Member::alive(id(peer(99)))]),
    };
    let bytes = gossip.write().expect("writes");
    let stripped = packet::strip(&bytes).expect("strips");
    node.swim.handle(&peer(1), stripped, 2).expect("taken");
    assert!(node.swim.active().all(|active| [peer(1), peer(2)].contains(active)));
    lab.run(5_000);
    assert!(lab.nodes.values().all(|node| !node.running || node.swim.active().all(|active| *active != stranger)));
}

#[test]
fn a_node_that_is_ill_itself_accuses_nobody() {
    let mut lab = Lab::new(4, 10);
    lab.run(3_000);
    let ill = peer(0);
    // It hears nobody any more, but everybody is there.
    lab.cut = Some((0..4u8).map(|number| (peer(number), u8::from(number == 0))).collect());
    let node = lab.nodes.get_mut(&ill).expect("is there");
    for _ in 0..5 {
        node.swim.health.timer_lag(1_000);
        node.swim.health.refuted();
    }
    lab.run(1_500);
    assert!(lab.nodes[&ill].downs.is_empty());
    assert!(!lab.nodes[&ill].swim.health.may_accuse());
    assert!((1..4u8).all(|number| lab.sees(&ill, &peer(number)) == Some((1, Liveness::Alive))));
}
