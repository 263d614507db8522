//! Asking one member right now whether it is there, because something else (a broken connection) says that it may not be.
//!
//! Three PINGs in quick succession; the first PONG settles it, silence makes a suspicion that the hive then decides on.

use std::collections::BTreeMap;

use crate::engine::beacon::Nonce;
use crate::engine::id::PeerId;

/// When the PINGs are sent.
const PING_AT_MS: [u64; 3] = [0, 100, 250];
/// When silence counts.
const GIVE_UP_AT_MS: u64 = 500;
/// Probes at the same time: a switch that fails breaks many connections at once. More are not started; the detector's own
/// rounds find those members, too.
const PROBES_MAX: usize = 64;

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send a PING with this nonce.
    Ping(PeerId, Nonce),
    /// It did not answer.
    Silent(PeerId),
}

struct Probe {
    nonce: Nonce,
    started_ms: u64,
    pings: usize,
}

/// The probes under way.
#[derive(Default)]
pub struct Probes {
    probes: BTreeMap<PeerId, Probe>,
}

impl Probes {
    /// Starts one, unless one is under way or there are too many.
    pub fn start(&mut self, peer: &PeerId, nonce: Nonce, now_ms: u64) {
        if self.probes.len() < PROBES_MAX && !self.probes.contains_key(peer) {
            self.probes.insert(peer.clone(), Probe { nonce, started_ms: now_ms, pings: 0 });
        }
    }

    /// A PONG came; whether it answers one of ours.
    pub fn answered(&mut self, peer: &PeerId, nonce: &Nonce) -> bool {
        let ours = self.probes.get(peer).is_some_and(|probe| probe.nonce == *nonce);
        if ours {
            self.probes.remove(peer);
        }
        ours
    }

    /// When [`Self::due`] has something to do.
    pub fn next_ms(&self) -> Option<u64> {
        self.probes.values().map(|probe| probe.started_ms + Self::offset_ms(probe)).min()
    }

    fn offset_ms(probe: &Probe) -> u64 {
        PING_AT_MS.get(probe.pings).copied().unwrap_or(GIVE_UP_AT_MS)
    }

    /// What is due now.
    pub fn due(&mut self, now_ms: u64) -> Vec<Step> {
        let mut steps = Vec::new();
        self.probes.retain(|peer, probe| {
            if now_ms < probe.started_ms + Self::offset_ms(probe) {
                return true;
            }
            probe.pings += 1;
            let silent = probe.pings > PING_AT_MS.len();
            steps.push(if silent { Step::Silent(peer.clone()) } else { Step::Ping(peer.clone(), probe.nonce) });
            !silent
        });
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_pings_then_silence() {
        let (mut probes, peer) = (Probes::default(), PeerId::new("a"));
        probes.start(&peer, [1; 16], 1_000);
        probes.start(&peer, [2; 16], 1_000);
        let mut seen = Vec::new();
        while let Some(next_ms) = probes.next_ms() {
            seen.extend(probes.due(next_ms).into_iter().map(|step| (next_ms, step)));
        }
        let ping = |at_ms| (at_ms, Step::Ping(peer.clone(), [1; 16]));
        assert_eq!(seen, [ping(1_000), ping(1_100), ping(1_250), (1_500, Step::Silent(peer.clone()))]);
    }

    #[test]
    fn the_right_answer_ends_it() {
        let (mut probes, peer) = (Probes::default(), PeerId::new("a"));
        probes.start(&peer, [1; 16], 0);
        assert!(!probes.answered(&peer, &[2; 16]));
        assert!(!probes.answered(&PeerId::new("b"), &[1; 16]));
        assert!(probes.answered(&peer, &[1; 16]));
        assert_eq!(probes.next_ms(), None);
        assert!(probes.due(10_000).is_empty());
        for number in 0..1_000 {
            probes.start(&PeerId::new(number.to_string()), [1; 16], 0);
        }
        assert_eq!(probes.probes.len(), PROBES_MAX);
    }
}
