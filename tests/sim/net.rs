//! What lies between the nodes: links that lose, repeat, delay and reorder, one direction at a time; and a failure detector
//! that sees what can be reached, late and sometimes wrongly.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand::rngs::StdRng;

/// Unreachable for so long: suspected. Then down.
const SUSPECT_MS: u64 = 1_000;
pub(crate) const DOWN_MS: u64 = 3_000;

/// What the detector holds of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Alive,
    Suspect,
    /// Since this time.
    Down(u64),
}

#[derive(Debug, Default)]
pub(crate) struct Noise {
    pub(crate) loss_percent: u32,
    pub(crate) duplicate_percent: u32,
    pub(crate) delay_max_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Net {
    nodes: usize,
    /// How many faults cut this direction at the moment.
    cut: BTreeMap<(usize, usize), u32>,
    pub(crate) noise: Noise,
    /// Since when a node does not reach another one, and the reverse.
    unreachable: BTreeMap<(usize, usize), u64>,
    alive_since: BTreeMap<(usize, usize), u64>,
    /// Held to be down though they are not, until then.
    pub(crate) slandered: BTreeMap<usize, u64>,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) blocked: u64,
}

impl Net {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            nodes,
            cut: BTreeMap::new(),
            noise: Noise { delay_max_ms: 8, ..Noise::default() },
            unreachable: BTreeMap::new(),
            alive_since: BTreeMap::new(),
            slandered: BTreeMap::new(),
            lost: 0,
            duplicated: 0,
            blocked: 0,
        }
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        *self.cut.entry((from, to)).or_default() += 1;
    }

    pub(crate) fn mend(&mut self, from: usize, to: usize) {
        if let Some(count) = self.cut.get_mut(&(from, to)) {
            *count -= 1;
            if *count == 0 {
                self.cut.remove(&(from, to));
            }
        }
    }

    pub(crate) fn mend_all(&mut self) {
        self.cut.clear();
        self.slandered.clear();
        self.noise = Noise { delay_max_ms: 8, ..Noise::default() };
    }

    pub(crate) fn passes(&self, from: usize, to: usize) -> bool {
        !self.cut.contains_key(&(from, to))
    }

    pub(crate) fn both_ways(&self, one: usize, two: usize) -> bool {
        self.passes(one, two) && self.passes(two, one)
    }

    /// Delays of the copies of one message that arrive: none when it is lost.
    pub(crate) fn copies(&mut self, from: usize, to: usize, rng: &mut StdRng) -> Vec<u64> {
        if from == to {
            return vec![0];
        }
        if !self.passes(from, to) {
            self.blocked += 1;
            return Vec::new();
        }
        if rng.random_range(0..100) < self.noise.loss_percent {
            self.lost += 1;
            return Vec::new();
        }
        let max_ms = self.noise.delay_max_ms.max(1);
        let mut delays = vec![1 + rng.random_range(0..max_ms)];
        if rng.random_range(0..100) < self.noise.duplicate_percent {
            self.duplicated += 1;
            // A copy may come long after the first, when much has changed.
            let late_ms = if rng.random_range(0..4) == 0 { 4_000 } else { 4 * max_ms };
            delays.push(1 + rng.random_range(0..late_ms));
        }
        delays
    }

    /// One look of the detector. `up`: nodes that run and are not paused.
    pub(crate) fn detect(&mut self, up: &[bool], now_ms: u64) {
        self.slandered.retain(|_, until_ms| *until_ms > now_ms);
        for one in 0..self.nodes {
            for two in 0..self.nodes {
                let direct = |a: usize, b: usize| up[a] && up[b] && self.both_ways(a, b);
                // SWIM asks others to probe before it accuses anybody.
                let reached = direct(one, two) || (0..self.nodes).any(|via| direct(one, via) && direct(via, two));
                let slandered = one != two && self.slandered.contains_key(&two);
                if reached && !slandered {
                    if self.unreachable.remove(&(one, two)).is_some() || !self.alive_since.contains_key(&(one, two)) {
                        self.alive_since.insert((one, two), now_ms);
                    }
                } else {
                    let verdict_ms = if slandered { now_ms.saturating_sub(DOWN_MS) } else { now_ms };
                    let since = self.unreachable.entry((one, two)).or_insert(verdict_ms);
                    *since = (*since).min(verdict_ms);
                }
            }
        }
    }

    /// What one node holds of another.
    pub(crate) fn seen(&self, by: usize, of: usize, now_ms: u64) -> Seen {
        match self.unreachable.get(&(by, of)) {
            None => Seen::Alive,
            Some(since) if now_ms < since + SUSPECT_MS => Seen::Alive,
            Some(since) if now_ms < since + DOWN_MS => Seen::Suspect,
            Some(since) => Seen::Down(since + DOWN_MS),
        }
    }

    pub(crate) fn alive_since(&self, by: usize, of: usize) -> Option<u64> {
        self.alive_since.get(&(by, of)).copied()
    }
}
