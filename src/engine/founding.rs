//! Whether this node seeks, founds or joins: the only place that decides to create a hive.
//!
//! ```text
//!   seeker in view, hive in view, link, time  ──►  Founding::poll  ──►  Seek{digest} | Announce{digest} | Found | Hold{why}
//! ```
//!
//! Seekers tell each other a digest of all seekers they see. When three seconds have passed and every seeker in view has
//! shown this node's own digest three times in a row, all of them agree on who is there; the one with the smallest PeerId
//! announces `founding` for a second and then founds; the next one takes its turn when it does not. Evidence of a founded hive, or of another node that founds with a smaller
//! PeerId, ends the attempt at once. Two hives can still arise when nodes cannot hear each other; the childless one then
//! dissolves ([`dissolves_into`]).
//!
//! Never done here: sending, dialing, admission. A datagram is a hint; that a hive exists is believed for
//! [`HINT_TRUST_MS`] only, unless an admitted connection confirms it.

use std::collections::BTreeMap;

use super::beacon::answer::seekers_digest;
use super::id::{HiveId, PeerId};
use super::state::State;

/// Time from carrier and address on before a node may found, milliseconds.
pub const QUIET_MS: u64 = 3_000;
/// Equal digests in a row needed from every seeker in view.
pub const DIGESTS_NEEDED: u32 = 3;
/// How long the founder-to-be announces itself, milliseconds. Four HELLOs at the seekers' interval.
pub const ANNOUNCE_MS: u64 = 1_000;
/// A seeker not heard for so long is out of view, milliseconds: eight HELLOs, so that 20 % loss never removes one by chance.
pub const SEEKER_FORGET_MS: u64 = 2_000;
/// Another node's announcement keeps this one from founding for so long, milliseconds.
pub const ANNOUNCED_HOLD_MS: u64 = 5_000;
/// An unconfirmed hint that a hive exists keeps this node from founding for so long, milliseconds.
pub const HINT_TRUST_MS: u64 = 6_000;
/// Datagrams that cannot be verified keep this node from founding for so long after the last one, milliseconds. Members send
/// at least every 30 s.
pub const UNVERIFIED_HOLD_MS: u64 = 40_000;
/// How long each node waits for the one with the next smaller PeerId to announce itself, milliseconds. One that never founds
/// (`--no-found`), or hangs, must not keep the others from it.
pub const TURN_MS: u64 = 2_000;
/// Most seekers that are tracked; more are ignored until some are forgotten.
pub const SEEKERS_MAX: usize = 1_024;

/// Whether a node may found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FoundMode {
    /// When nobody else is there, or by agreement with the other seekers.
    #[default]
    Auto,
    /// As `Auto`, and also while others are heard that cannot be verified (`--found`).
    Force,
    /// Only joins (`--no-found`).
    Never,
}

/// Settings of [`Founding`].
#[derive(Clone, Debug, Default)]
pub struct FoundingOptions {
    /// Whether to found at all.
    pub mode: FoundMode,
    /// Wait until so many nodes (this one included) are in view; 0 and 1 mean no waiting.
    pub expect: usize,
}

/// Digest of a set of seekers, see [`seekers_digest`].
pub type SeekersDigest = [u8; 16];

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Say HELLO as a seeker with this digest.
    Seek {
        /// Of the seekers in view, this node included.
        digest: SeekersDigest,
    },
    /// Say HELLO as the founder-to-be.
    Announce {
        /// Of the seekers in view, this node included.
        digest: SeekersDigest,
    },
    /// Create the hive now. Returned once.
    Found,
    /// Say HELLO as a seeker, but do not found.
    Hold {
        /// Of the seekers in view, this node included.
        digest: SeekersDigest,
        /// For the operator.
        why: HoldReason,
    },
}

/// Why a node that could found by time does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldReason {
    /// `--no-found`.
    NeverFounds,
    /// Fewer nodes in view than `--expect` asks for.
    Expecting {
        /// In view, this node included.
        seen: usize,
        /// Asked for.
        expected: usize,
    },
    /// Only hive datagrams that cannot be verified are heard, or peers refuse this node.
    Unverified,
    /// Somebody says that a hive exists; it is being dialed.
    HiveHinted,
    /// Another node announced that it founds.
    OtherFounds(PeerId),
    /// No carrier or no address yet.
    NoLink,
}

#[derive(Debug)]
struct Seeker {
    last_heard_ms: u64,
    /// Equal digests in a row, counted from the last change of our own view.
    agreeing: u32,
}

/// The state machine of a node without a hive.
#[derive(Debug)]
pub struct Founding {
    options: FoundingOptions,
    me: PeerId,
    link_since_ms: Option<u64>,
    seekers: BTreeMap<PeerId, Seeker>,
    digest: SeekersDigest,
    announcing_since_ms: Option<u64>,
    announced_by_other: Option<(PeerId, u64)>,
    agreed_since_ms: Option<u64>,
    hint_ms: Option<u64>,
    unverified_ms: Option<u64>,
    done: bool,
}

impl Founding {
    /// A node that just started to seek; `on_link` starts its clock.
    pub fn new(options: FoundingOptions, me: PeerId) -> Self {
        let digest = seekers_digest([&me]);
        Self {
            options,
            me,
            link_since_ms: None,
            seekers: BTreeMap::new(),
            digest,
            announcing_since_ms: None,
            announced_by_other: None,
            agreed_since_ms: None,
            hint_ms: None,
            unverified_ms: None,
            done: false,
        }
    }

    /// Carrier and address are there (or gone). The quiet time counts from the first moment they are.
    pub fn on_link(&mut self, up: bool, now_ms: u64) {
        match (up, self.link_since_ms) {
            (true, None) => self.link_since_ms = Some(now_ms),
            (false, Some(_)) => {
                self.link_since_ms = None;
                self.announcing_since_ms = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// A verified HELLO of another node without a hive.
    pub fn on_seeker(&mut self, peer: &PeerId, digest: SeekersDigest, announces: bool, now_ms: u64) {
        if *peer == self.me {
            return;
        }
        if announces {
            self.on_announcement(peer, now_ms);
        }
        if let Some(seeker) = self.seekers.get_mut(peer) {
            seeker.last_heard_ms = now_ms;
        } else {
            if self.seekers.len() >= SEEKERS_MAX {
                return;
            }
            self.seekers.insert(peer.clone(), Seeker { last_heard_ms: now_ms, agreeing: 0 });
            self.view_changed();
        }
        let own = self.digest;
        if let Some(seeker) = self.seekers.get_mut(peer) {
            seeker.agreeing = if digest == own { seeker.agreeing.saturating_add(1) } else { 0 };
        }
    }

    fn on_announcement(&mut self, peer: &PeerId, now_ms: u64) {
        let yields = self.announcing_since_ms.is_none() || *peer < self.me;
        if yields {
            self.announcing_since_ms = None;
            self.announced_by_other = Some((peer.clone(), now_ms));
        }
    }

    /// A seeker joined a hive or said farewell.
    pub fn on_seeker_gone(&mut self, peer: &PeerId) {
        if self.seekers.remove(peer).is_some() {
            self.view_changed();
        }
    }

    /// A verified datagram or connection says that a hive exists. The caller dials it.
    pub fn on_hive_hint(&mut self, now_ms: u64) {
        self.hint_ms = Some(now_ms);
        self.announcing_since_ms = None;
    }

    /// A hive datagram that cannot be verified, or a peer that refused our proof.
    pub fn on_unverified(&mut self, now_ms: u64) {
        self.unverified_ms = Some(now_ms);
    }

    /// Seekers in view, this node not included.
    pub fn seekers(&self) -> impl Iterator<Item = &PeerId> {
        self.seekers.keys()
    }

    /// Decides. Also says when to ask again at the latest.
    pub fn poll(&mut self, now_ms: u64) -> (Step, u64) {
        self.forget_silent(now_ms);
        let step = self.step(now_ms);
        // Everything here moves in quarters of a second; an exact deadline would save nothing over the HELLO interval.
        (step, now_ms + 50)
    }

    fn step(&mut self, now_ms: u64) -> Step {
        let digest = self.digest;
        if self.done {
            return Step::Seek { digest };
        }
        let Some(link_since_ms) = self.link_since_ms else {
            return Step::Hold { digest, why: HoldReason::NoLink };
        };
        if let Some(since_ms) = self.announcing_since_ms {
            if now_ms.saturating_sub(since_ms) < ANNOUNCE_MS {
                return Step::Announce { digest };
            }
            self.done = true;
            return Step::Found;
        }
        if now_ms.saturating_sub(link_since_ms) < QUIET_MS {
            return Step::Seek { digest };
        }
        let agreed = self.seekers.values().all(|seeker| seeker.agreeing >= DIGESTS_NEEDED);
        self.agreed_since_ms = if agreed { self.agreed_since_ms.or(Some(now_ms)) } else { None };
        if let Some(why) = self.hold_reason(now_ms) {
            return Step::Hold { digest, why };
        }
        let smaller = self.seekers.keys().filter(|peer| **peer < self.me).count() as u64;
        let patience_ms = smaller.saturating_mul(TURN_MS);
        if self.agreed_since_ms.is_some_and(|since| now_ms.saturating_sub(since) >= patience_ms) {
            self.announcing_since_ms = Some(now_ms);
            return Step::Announce { digest };
        }
        Step::Seek { digest }
    }

    fn hold_reason(&self, now_ms: u64) -> Option<HoldReason> {
        let within = |at_ms: Option<u64>, span_ms| at_ms.is_some_and(|at| now_ms.saturating_sub(at) < span_ms);
        if self.options.mode == FoundMode::Never {
            return Some(HoldReason::NeverFounds);
        }
        if within(self.hint_ms, HINT_TRUST_MS) {
            return Some(HoldReason::HiveHinted);
        }
        if let Some((peer, at_ms)) = &self.announced_by_other
            && within(Some(*at_ms), ANNOUNCED_HOLD_MS)
        {
            return Some(HoldReason::OtherFounds(peer.clone()));
        }
        let alone_among_strangers = self.seekers.is_empty() && within(self.unverified_ms, UNVERIFIED_HOLD_MS);
        if alone_among_strangers && self.options.mode != FoundMode::Force {
            return Some(HoldReason::Unverified);
        }
        let seen = self.seekers.len() + 1;
        if seen < self.options.expect {
            return Some(HoldReason::Expecting { seen, expected: self.options.expect });
        }
        None
    }

    fn forget_silent(&mut self, now_ms: u64) {
        let before = self.seekers.len();
        self.seekers.retain(|_, seeker| now_ms.saturating_sub(seeker.last_heard_ms) < SEEKER_FORGET_MS);
        if self.seekers.len() != before {
            self.view_changed();
        }
    }

    fn view_changed(&mut self) {
        self.digest = seekers_digest(self.seekers.keys().chain([&self.me]));
        for seeker in self.seekers.values_mut() {
            seeker.agreeing = 0;
        }
        // An announcement stands while others arrive: they see it and wait. Only who leaves or founds first ends it.
    }
}

/// What a hive says about itself when it meets another, proven by an admitted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HiveFacts {
    /// Which hive.
    pub hive_id: HiveId,
    /// It has one member and no acknowledged command beyond its founding.
    pub childless: bool,
}

/// Whether a hive has one member, and nothing acknowledged beyond its founding. `is_current`: this node leads the log and has
/// applied an entry of its own term. A copy that is behind, as after a restart, may not know of members and jobs that the hive has
/// acknowledged, so nothing dissolves by its word.
pub fn childless(state: &State, is_current: bool) -> bool {
    if !is_current {
        return false;
    }
    let members = state.members().filter(|member| !member.left).count();
    // What was recovered or restored has a past, also where nothing of it is left in memory.
    let goes_on = state.epoch().is_some_and(|epoch| epoch.counter > 1);
    let acknowledged =
        goes_on || state.jobs_len() > 0 || state.sessions().next().is_some() || state.tokens().next().is_some();
    members <= 1 && !acknowledged
}

/// Whether `ours` dissolves into `theirs`: only a childless hive does, and of two childless ones the greater `hive_id`.
pub fn dissolves_into(ours: HiveFacts, theirs: HiveFacts) -> bool {
    if ours.hive_id == theirs.hive_id || !ours.childless {
        return false;
    }
    !theirs.childless || ours.hive_id > theirs.hive_id
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;

    fn peer(number: usize) -> PeerId {
        PeerId::new(format!("peer-{number:03}"))
    }

    fn linked(number: usize) -> Founding {
        let mut founding = Founding::new(FoundingOptions::default(), peer(number));
        founding.on_link(true, 1);
        founding
    }

    fn run_until(founding: &mut Founding, from_ms: u64, to_ms: u64) -> Option<u64> {
        (from_ms..to_ms).step_by(50).find(|&now| founding.poll(now).0 == Step::Found)
    }

    #[test]
    fn a_lonely_node_founds_after_quiet_time_and_announcement_and_only_once() {
        let mut founding = linked(1);
        let at = run_until(&mut founding, 1, 10_000).expect("founds");
        assert!((QUIET_MS + ANNOUNCE_MS..QUIET_MS + ANNOUNCE_MS + 200).contains(&at), "{at}");
        assert_eq!(run_until(&mut founding, at + 50, 60_000), None);
    }

    #[test]
    fn the_clock_starts_with_the_link() {
        let mut founding = Founding::new(FoundingOptions::default(), peer(1));
        assert_eq!(run_until(&mut founding, 1, 20_000), None);
        founding.on_link(true, 20_000);
        assert!(run_until(&mut founding, 20_000, 23_900).is_none());
        assert!(run_until(&mut founding, 23_900, 24_300).is_some());
    }

    #[test]
    fn settings_and_evidence_hold_it_back_and_say_why() {
        let mut never = Founding::new(FoundingOptions { mode: FoundMode::Never, expect: 0 }, peer(1));
        never.on_link(true, 1);
        assert_eq!(run_until(&mut never, 1, 120_000), None);
        assert!(matches!(never.poll(120_000).0, Step::Hold { why: HoldReason::NeverFounds, .. }));

        let mut expecting = Founding::new(FoundingOptions { mode: FoundMode::Auto, expect: 3 }, peer(1));
        expecting.on_link(true, 1);
        expecting.on_seeker(&peer(2), [0; 16], false, 4_000);
        let why = HoldReason::Expecting { seen: 2, expected: 3 };
        assert!(matches!(expecting.poll(4_001).0, Step::Hold { why: got, .. } if got == why));

        let mut refused = linked(1);
        refused.on_unverified(2_000);
        assert_eq!(run_until(&mut refused, 1, 2_000 + UNVERIFIED_HOLD_MS), None);
        assert!(run_until(&mut refused, 2_000 + UNVERIFIED_HOLD_MS, 2_000 + UNVERIFIED_HOLD_MS + 2_000).is_some());

        let mut forced = Founding::new(FoundingOptions { mode: FoundMode::Force, expect: 0 }, peer(1));
        forced.on_link(true, 1);
        forced.on_unverified(2_000);
        assert!(run_until(&mut forced, 1, 6_000).is_some());
    }

    #[test]
    fn a_hive_in_view_ends_an_announcement() {
        let mut founding = linked(1);
        assert!(matches!(founding.poll(QUIET_MS + 1).0, Step::Announce { .. }));
        founding.on_hive_hint(QUIET_MS + 500);
        assert_eq!(run_until(&mut founding, QUIET_MS + 500, QUIET_MS + 500 + HINT_TRUST_MS), None);
        assert!(
            run_until(&mut founding, QUIET_MS + 500 + HINT_TRUST_MS, 60_000).is_some(),
            "a hint that nothing confirms is forgotten"
        );
    }

    #[test]
    fn of_two_that_announce_the_smaller_goes_on() {
        let (mut small, mut great) = (linked(1), linked(2));
        assert!(matches!(small.poll(QUIET_MS + 1).0, Step::Announce { .. }));
        assert!(matches!(great.poll(QUIET_MS + 1).0, Step::Announce { .. }));
        small.on_seeker(&peer(2), [0; 16], true, QUIET_MS + 100);
        great.on_seeker(&peer(1), [0; 16], true, QUIET_MS + 100);
        assert!(matches!(small.poll(QUIET_MS + 150).0, Step::Announce { .. }));
        assert!(
            matches!(great.poll(QUIET_MS + 150).0, Step::Hold { why: HoldReason::OtherFounds(by), .. } if by == peer(1))
        );
    }

    #[test]
    fn the_next_one_takes_its_turn_when_the_smallest_never_announces() {
        let mut founding = linked(2);
        let mut announced_ms = None;
        for now_ms in (1..20_000).step_by(250) {
            founding.on_seeker(&peer(1), founding.digest, false, now_ms);
            if matches!(founding.poll(now_ms).0, Step::Announce { .. }) {
                announced_ms.get_or_insert(now_ms);
            }
        }
        let at_ms = announced_ms.expect("announces");
        assert!((QUIET_MS + TURN_MS..QUIET_MS + TURN_MS + 1_500).contains(&at_ms), "{at_ms}");
    }

    #[test]
    fn only_childless_hives_dissolve_and_never_both() {
        let hive = |number: u8, childless| HiveFacts { hive_id: HiveId([number; 16]), childless };
        let cases = [
            (hive(1, true), hive(2, true), false),
            (hive(2, true), hive(1, true), true),
            (hive(1, true), hive(2, false), true),
            (hive(1, false), hive(2, true), false),
            (hive(2, false), hive(1, false), false),
            (hive(1, true), hive(1, true), false),
        ];
        for (ours, theirs, expected) in cases {
            assert_eq!(dissolves_into(ours, theirs), expected, "{ours:?} {theirs:?}");
            assert!(!(dissolves_into(ours, theirs) && dissolves_into(theirs, ours)));
        }
    }

    /// Nodes that boot at given times on one lossy segment; returns how many hives were founded while any node could hear it.
    fn simulate(boots_ms: &[u64], loss_percent: u32, seed: u64) -> (usize, Option<u64>) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut nodes: Vec<Option<Founding>> = boots_ms.iter().map(|_| None).collect();
        let mut founded: Option<(usize, u64)> = None;
        let mut hives = 0;
        for now_ms in (0..30_000u64).step_by(50) {
            for (number, boot_ms) in boots_ms.iter().enumerate() {
                if nodes[number].is_none() && now_ms >= *boot_ms && now_ms < boot_ms + 50 {
                    nodes[number] = Some(Founding::new(FoundingOptions::default(), peer(number)));
                    nodes[number].as_mut().expect("just made").on_link(true, now_ms);
                }
            }
            for number in 0..nodes.len() {
                if founded.is_some_and(|(founder, _)| founder == number) {
                    // A member answers every seeker's HELLO; here it is heard as often as it would say HELLO itself.
                    for other in (0..nodes.len()).filter(|&other| other != number) {
                        if now_ms % 250 == 0
                            && rng.random_range(0..100) >= loss_percent
                            && let Some(node) = nodes[other].as_mut()
                        {
                            node.on_hive_hint(now_ms);
                        }
                    }
                    continue;
                }
                let Some(node) = nodes[number].as_mut() else { continue };
                let (step, _) = node.poll(now_ms);
                let (digest, announces) = match step {
                    Step::Found => {
                        hives += 1;
                        founded.get_or_insert((number, now_ms));
                        continue;
                    }
                    Step::Announce { digest } => (digest, true),
                    Step::Seek { digest } | Step::Hold { digest, .. } => (digest, false),
                };
                if (now_ms + boots_ms[number]) % 250 < 50 {
                    for other in (0..nodes.len()).filter(|&other| other != number) {
                        if rng.random_range(0..100) >= loss_percent
                            && let Some(node) = nodes[other].as_mut()
                        {
                            node.on_seeker(&peer(number), digest, announces, now_ms);
                        }
                    }
                }
            }
        }
        (hives, founded.map(|(_, at)| at))
    }

    #[test]
    fn twenty_that_boot_together_found_one_hive() {
        let (hives, at) = simulate(&[0; 20], 0, 1);
        assert_eq!(hives, 1);
        assert!(at.expect("founded") <= 6_000, "{at:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn boots_zero_to_ten_seconds_apart_with_loss_found_exactly_one_hive(
            boots_ms in prop::collection::vec((0u64..200).prop_map(|n| n * 50), 2..8),
            seed in any::<u64>(),
        ) {
            let (hives, at) = simulate(&boots_ms, 20, seed);
            prop_assert_eq!(hives, 1, "boots {:?} seed {}", boots_ms, seed);
            let last = boots_ms.iter().max().copied().unwrap_or(0);
            prop_assert!(at.is_some_and(|at| at <= last + 15_000));
        }
    }
}
