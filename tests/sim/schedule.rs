//! What is done to a hive in one run: how many machines, when they boot, which faults, which work. All of it follows from the
//! seed and is written down before the run, so that a failing run can be made shorter by leaving things out.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::node::Ix;
use super::world::{Event, World};

/// One thing that is done. Nodes and jobs are numbers that are taken modulo what there is.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Crash { node: Ix, lose: bool, down_ms: u64 },
    CrashLeader { lose: bool, down_ms: u64 },
    CrashAll { lose: bool, down_ms: u64 },
    Pause { node: Ix, ms: u64 },
    PauseLeader { ms: u64 },
    CutOneWay { from: Ix, to: Ix, ms: u64 },
    Partition { side: u32, ms: u64 },
    IsolateLeader { ms: u64 },
    Bridge { one: Ix, two: Ix, ms: u64 },
    Swizzle { seed: u64, ms: u64 },
    Noise { loss_percent: u32, duplicate_percent: u32, delay_max_ms: u64, ms: u64 },
    SlowDisk { node: Ix, disk_ms: u64, ms: u64 },
    DiskLow { node: Ix, ms: u64 },
    ApplyLater { node: Ix, ms: u64 },
    WallJump { node: Ix, by_ms: i64 },
    Slander { node: Ix, ms: u64 },
    Submit { node: Ix, jobs: u32, seed: u64 },
    Again { node: Ix, which: u64 },
    Import { node: Ix, jobs: u32, seed: u64, torn: bool },
    Resolve { node: Ix },
    Cancel { node: Ix, which: u64 },
    Control { node: Ix, kind: u32, which: u64 },
    ResetIdentity { node: Ix },
}

/// The end of a fault.
#[derive(Clone, Debug)]
pub(crate) enum Undo {
    Start(Ix),
    Mend(Vec<(Ix, Ix)>),
    Cut(Ix, Ix),
    Quiet,
    Disk(Ix),
    Room(Ix),
}

#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) boots_ms: Vec<u64>,
    pub(crate) speeds: Vec<u64>,
    /// Faults and work end here; then everything is mended and has to end well.
    pub(crate) safety_ms: u64,
    pub(crate) actions: Vec<(u64, Action)>,
}

impl Schedule {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = [1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7, 8, 9][rng.random_range(0..14_usize)];
        // Mostly one rack; sometimes machines that come later, or one by one.
        let spread_ms = [50, 50, 1_500, 8_000][rng.random_range(0..4_usize)];
        let boots_ms = (0..nodes).map(|_| rng.random_range(0..spread_ms)).collect();
        let speeds = (0..nodes).map(|_| [1_000, 1_000, 998, 1_003, 850, 1_150][rng.random_range(0..6_usize)]).collect();
        // Of few machines little is heard.
        let safety_ms = [130_000, 70_000].get(nodes - 1).copied().unwrap_or(45_000);
        let mut actions = Vec::new();
        // A run in which the wire is cut while the hive is founded is another one than a run that begins well.
        let troubled_start = rng.random_range(0..4) == 0;
        let first_fault_ms = if troubled_start { 500 } else { 9_000 };
        for _ in 0..rng.random_range(5..12) {
            let at_ms = rng.random_range(first_fault_ms..safety_ms - 5_000);
            let fault = fault(&mut rng, nodes);
            actions.push((at_ms, fault));
        }
        for _ in 0..rng.random_range(12..24) {
            let at_ms = rng.random_range(6_000..safety_ms - 3_000);
            let work = work(&mut rng, nodes);
            actions.push((at_ms, work));
        }
        for at_ms in [7_000, 12_000, 18_000] {
            actions.push((at_ms, Action::Submit { node: rng.random_range(0..nodes), jobs: 3, seed: rng.random() }));
        }
        actions.sort_by_key(|(at_ms, _)| *at_ms);
        Self { seed, nodes, boots_ms, speeds, safety_ms, actions }
    }

    /// The same run with only some of its actions.
    pub(crate) fn keeping(&self, keep: &[usize]) -> Self {
        let kept = keep.iter().filter_map(|number| self.actions.get(*number).cloned());
        Self { actions: kept.collect(), ..self.clone() }
    }
}

fn fault(rng: &mut StdRng, nodes: usize) -> Action {
    let node = rng.random_range(0..nodes);
    let other = rng.random_range(0..nodes);
    let ms = if rng.random_range(0..3) == 0 { rng.random_range(8_000..26_000) } else { rng.random_range(500..6_000) };
    let lose = rng.random();
    let down_ms = ms;
    match rng.random_range(0..20) {
        0..3 => Action::Crash { node, lose, down_ms },
        3..5 => Action::CrashLeader { lose, down_ms },
        5 => Action::CrashAll { lose, down_ms: down_ms.min(5_000) },
        6 => Action::Pause { node, ms },
        7 => Action::PauseLeader { ms },
        8 => Action::CutOneWay { from: node, to: other, ms },
        9 => Action::Partition { side: rng.random(), ms },
        10 => Action::IsolateLeader { ms },
        11 => Action::Bridge { one: node, two: other, ms },
        12 => Action::Swizzle { seed: rng.random(), ms },
        13 | 14 => Action::Noise {
            loss_percent: [0, 2, 10, 40][rng.random_range(0..4_usize)],
            duplicate_percent: [0, 10, 30][rng.random_range(0..3_usize)],
            delay_max_ms: [20, 150, 800][rng.random_range(0..3_usize)],
            ms,
        },
        15 => Action::SlowDisk { node, disk_ms: [60, 300, 1_500][rng.random_range(0..3_usize)], ms },
        16 => Action::DiskLow { node, ms },
        17 => Action::ApplyLater { node, ms },
        18 => Action::WallJump { node, by_ms: rng.random_range(-3_600_000..3_600_000) },
        _ => Action::Slander { node, ms: ms.min(8_000) },
    }
}

fn work(rng: &mut StdRng, nodes: usize) -> Action {
    let node = rng.random_range(0..nodes);
    let which = rng.random();
    match rng.random_range(0..28) {
        0..9 => Action::Submit { node, jobs: rng.random_range(1..6), seed: rng.random() },
        9 | 10 => Action::Again { node, which },
        11 | 12 => {
            Action::Import { node, jobs: rng.random_range(2..9), seed: rng.random(), torn: rng.random_range(0..3) == 0 }
        }
        13 => Action::Resolve { node },
        14..17 => Action::Cancel { node, which },
        17..26 => Action::Control { node, kind: rng.random_range(0..22), which },
        _ => Action::ResetIdentity { node },
    }
}

impl World {
    pub(crate) fn act(&mut self, action: Action) {
        self.say(|| format!("{action:?}"));
        let all = self.nodes.len();
        match action {
            Action::Crash { node, lose, down_ms } => self.crash_for(node % all, lose, down_ms),
            Action::CrashLeader { lose, down_ms } => {
                if let Some(leader) = self.leader() {
                    self.counts.add("leaders crashed", 1);
                    self.crash_for(leader, lose, down_ms);
                }
            }
            Action::CrashAll { lose, down_ms } => {
                for node in 0..all {
                    self.crash_for(node, lose, down_ms + 200 * node as u64);
                }
            }
            Action::Pause { node, ms } => self.pause(node % all, ms),
            Action::PauseLeader { ms } => {
                if let Some(leader) = self.leader() {
                    self.pause(leader, ms);
                }
            }
            Action::CutOneWay { from, to, ms } => self.cut(vec![(from % all, to % all)], ms),
            Action::Partition { side, ms } => {
                let left = |node: Ix| side >> node & 1 == 1;
                let pairs = (0..all).flat_map(|one| (0..all).map(move |two| (one, two)));
                self.cut(pairs.filter(|(one, two)| left(*one) != left(*two)).collect(), ms);
            }
            Action::IsolateLeader { ms } => {
                if let Some(leader) = self.leader() {
                    self.counts.add("leaders cut off", 1);
                    self.cut(
                        (0..all)
                            .filter(|other| *other != leader)
                            .flat_map(|other| [(leader, other), (other, leader)])
                            .collect(),
                        ms,
                    );
                }
            }
            Action::Bridge { one, two, ms } => self.cut(vec![(one % all, two % all), (two % all, one % all)], ms),
            Action::Swizzle { seed, ms } => self.swizzle(seed, ms),
            Action::Noise { loss_percent, duplicate_percent, delay_max_ms, ms } => {
                self.net.noise = super::net::Noise { loss_percent, duplicate_percent, delay_max_ms };
                self.after(ms, Event::Undo(Undo::Quiet));
            }
            Action::SlowDisk { node, disk_ms, ms } => {
                self.nodes[node % all].disk_ms = disk_ms;
                self.after(ms, Event::Undo(Undo::Disk(node % all)));
            }
            Action::DiskLow { node, ms } => {
                self.nodes[node % all].disk_low = true;
                self.after(ms, Event::Undo(Undo::Room(node % all)));
            }
            Action::ApplyLater { node, ms } => {
                self.counts.add("replicas that lagged", 1);
                self.nodes[node % all].apply_not_before_ms = self.now_ms + ms.min(6_000);
            }
            Action::WallJump { node, by_ms } => {
                self.counts.add("jumps of the wall clock", 1);
                self.nodes[node % all].wall_offset_ms += by_ms;
            }
            Action::Slander { node, ms } => {
                self.counts.add("false verdicts of the detector", 1);
                self.net.slandered.insert(node % all, self.now_ms + ms);
            }
            work => self.ask(work),
        }
    }

    pub(crate) fn leader(&self) -> Option<Ix> {
        let leading = self.nodes.iter().filter(|node| node.leads());
        leading.max_by_key(|node| node.disk.raft.as_ref().map_or(0, |raft| raft.term)).map(|node| node.ix)
    }

    fn crash_for(&mut self, node: Ix, lose: bool, down_ms: u64) {
        if self.nodes[node].life.is_some() {
            self.crash(node, lose);
            self.after(down_ms, Event::Undo(Undo::Start(node)));
        }
    }

    fn pause(&mut self, node: Ix, ms: u64) {
        if self.nodes[node].life.is_some() {
            self.counts.add("pauses", 1);
            let until_ms = self.now_ms + ms;
            self.nodes[node].paused_until_ms = until_ms;
            self.checker.effects.paused(node);
        }
    }

    fn cut(&mut self, pairs: Vec<(Ix, Ix)>, ms: u64) {
        if pairs.iter().any(|(one, two)| one != two) {
            self.counts.add("cuts", 1);
        }
        for (one, two) in &pairs {
            self.net.cut(*one, *two);
        }
        self.after(ms, Event::Undo(Undo::Mend(pairs)));
    }

    /// Links of one node go one after the other and come back in another order.
    fn swizzle(&mut self, seed: u64, ms: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let all = self.nodes.len();
        let node = rng.random_range(0..all);
        self.counts.add("swizzles", 1);
        for other in (0..all).filter(|other| *other != node) {
            let cut_ms = rng.random_range(0..ms / 2);
            let mend_ms = rng.random_range(ms / 2..ms);
            for (one, two) in [(node, other), (other, node)] {
                self.after(cut_ms, Event::Undo(Undo::Cut(one, two)));
                self.after(mend_ms, Event::Undo(Undo::Mend(vec![(one, two)])));
            }
        }
    }

    pub(crate) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Start(node) => self.start(node),
            Undo::Mend(pairs) => {
                for (one, two) in pairs {
                    self.net.mend(one, two);
                }
            }
            Undo::Cut(..) if self.faults_off => {}
            Undo::Cut(one, two) => self.net.cut(one, two),
            Undo::Quiet => self.net.noise = super::net::Noise { delay_max_ms: 8, ..Default::default() },
            Undo::Disk(node) => self.nodes[node].disk_ms = 2,
            Undo::Room(node) => self.nodes[node].disk_low = false,
        }
    }
}
