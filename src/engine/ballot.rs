//! One node's question "what should I become?", and how the answers are counted.
//!
//! ```text
//!   IDENTIFY ──► every live member        on_advice, on_advisor_gone
//!                                                  │
//!   poll(now) ◄── Wait { until, why } ◄── open ────┤
//!             ◄── Decided(Outcome)    ◄── closed ──┘   first place is certain · 250 ms of silence · 2 s
//! ```
//!
//! The vote orders roles; the committed claim caps them. So the outcome is a ranking with caps, and the role that the node
//! holds in the end is the first one with room at the moment of the claim: [`Ranked::for_role`] then says by whom and why.
//!
//! Never done here: sending anything, committing anything, judging policies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::RankedRole;
use super::id::{PeerId, Sha256Hash};
use super::member::Inventory;
use super::policy::{Advice, REASON_MAX_BYTES, RULES_MAX, RankedAdvice, SKIPPED_MAX_BYTES};
use super::role::{FOUNDER, ROLES_MAX, RoleSet, is_name};

pub mod migration;

/// Longest time a ballot is open.
pub const BALLOT_MAX_MS: u64 = 2_000;
/// A ballot that has advice and can still turn is decided when nothing more came for so long.
pub const BALLOT_SILENCE_MS: u64 = 250;

/// The question, sent to every member that is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentifyMsg {
    /// Names the ballot; the answer repeats it.
    pub ballot: String,
    /// What the asking machine is.
    pub node: Inventory,
}

/// One advisor's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdviceMsg {
    /// The ballot that it answers.
    pub ballot: String,
    /// The advisor's policy.
    pub policy: String,
    /// Digest of the role definitions that the advisor knows.
    pub roles_digest: Sha256Hash,
    /// Ranking and skipped rules.
    pub advice: Advice,
}

impl AdviceMsg {
    /// Whether everything in it keeps the limits that [`policy`](super::policy) keeps; an advisor may be of another version, or lie.
    fn check(&self) -> Result<(), AdviceRefused> {
        let advice = &self.advice;
        let fits = is_name(&self.policy)
            && advice.ranking.len() <= ROLES_MAX
            && advice.skipped.len() <= RULES_MAX
            && advice.skipped.iter().all(|line| line.len() <= SKIPPED_MAX_BYTES && !line.contains(char::is_control))
            && advice.ranking.iter().all(|ranked| {
                is_name(&ranked.role)
                    && ranked.role != FOUNDER
                    && is_name(&ranked.rule)
                    && ranked.cap != Some(0)
                    && ranked.reason.len() <= REASON_MAX_BYTES
                    && !ranked.reason.contains(char::is_control)
            });
        let distinct: BTreeSet<&str> = advice.ranking.iter().map(|ranked| ranked.role.as_str()).collect();
        if fits && distinct.len() == advice.ranking.len() { Ok(()) } else { Err(AdviceRefused::Malformed) }
    }
}

/// Why an answer was not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdviceRefused {
    /// The ballot is decided, or it is another one.
    #[error("advice for another ballot, or too late")]
    OtherBallot,
    /// The sender was not asked.
    #[error("advice from a node that was not asked")]
    NotAsked,
    /// The sender has answered before.
    #[error("a second advice from the same node")]
    Twice,
    /// It breaks a limit or a grammar.
    #[error("malformed advice")]
    Malformed,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BallotStep {
    /// Nothing before this time, unless advice comes.
    Wait {
        /// When to poll again at the latest.
        until_ms: u64,
        /// What is awaited.
        why: &'static str,
    },
    /// Decided; every further poll says the same.
    Decided(Outcome),
}

/// How a ballot was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is a ranking.
    Ranked(Ranked),
    /// Nobody advised any role.
    NoAdvice {
        /// Advisors that were asked and did not answer.
        unanswered: BTreeSet<PeerId>,
        /// Answers without any role, for people.
        advice: BTreeMap<PeerId, AdviceMsg>,
    },
}

/// The result of a count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// The ballot.
    pub ballot: String,
    /// For the claim, best first; caps include each role's `max`.
    pub ranking: Vec<RankedRole>,
    /// Who put which role first among those that were left, in the order of `ranking`.
    supporters: Vec<BTreeSet<PeerId>>,
    /// Every answer.
    pub advice: BTreeMap<PeerId, AdviceMsg>,
    /// Advisors that were asked and did not answer.
    pub unanswered: BTreeSet<PeerId>,
    /// Advised roles that this node has no definition of, and that therefore did not count.
    pub unknown_roles: BTreeSet<String>,
    /// Digest of the role definitions of this node: packages and configuration come from these.
    pub roles_digest: Sha256Hash,
    /// Advisors that know other role definitions.
    pub other_definitions: BTreeSet<PeerId>,
}

/// A role of an outcome, as `identity.json` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Advisors that put the role first (among the roles that had room).
    pub assigned_by: BTreeSet<PeerId>,
    /// Reason of the first of them, by PeerId.
    pub reason: String,
    /// Advisors that put another role first (among the roles that had room).
    pub dissent: BTreeSet<PeerId>,
}

impl Ranked {
    /// By whom and why the node holds `role`, the one that the claim gave it; none when the ballot did not rank it.
    pub fn for_role(&self, role: &str) -> Option<Given> {
        let position = self.ranking.iter().position(|ranked| ranked.role == role)?;
        let assigned_by = self.supporters.get(position)?.clone();
        let reason = assigned_by.iter().find_map(|advisor| {
            let ranking = &self.advice.get(advisor)?.advice.ranking;
            ranking.iter().find(|ranked| ranked.role == role).map(|ranked| ranked.reason.clone())
        })?;
        let voted = self.advice.iter().filter(|(_, message)| !message.advice.ranking.is_empty());
        let dissent =
            voted.map(|(advisor, _)| advisor.clone()).filter(|advisor| !assigned_by.contains(advisor)).collect();
        Some(Given { assigned_by, reason, dissent })
    }
}

/// One open question.
#[derive(Debug)]
pub struct Ballot {
    id: String,
    roles: Arc<RoleSet>,
    asked: BTreeSet<PeerId>,
    gone: BTreeSet<PeerId>,
    advice: BTreeMap<PeerId, AdviceMsg>,
    opened_ms: u64,
    last_advice_ms: u64,
    decided: Option<Outcome>,
}

impl Ballot {
    /// Opens a ballot among `advisors`, counted with the role definitions of this node.
    pub fn new(id: impl Into<String>, advisors: BTreeSet<PeerId>, roles: Arc<RoleSet>, now_ms: u64) -> Self {
        Self {
            id: id.into(),
            roles,
            asked: advisors,
            gone: BTreeSet::new(),
            advice: BTreeMap::new(),
            opened_ms: now_ms,
            last_advice_ms: now_ms,
            decided: None,
        }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Takes an answer. A refused one changes nothing.
    pub fn on_advice(&mut self, from: &PeerId, message: AdviceMsg, now_ms: u64) -> Result<(), AdviceRefused> {
        if self.decided.is_some() || message.ballot != self.id {
            return Err(AdviceRefused::OtherBallot);
        }
        if !self.asked.contains(from) {
            return Err(AdviceRefused::NotAsked);
        }
        if self.advice.contains_key(from) {
            return Err(AdviceRefused::Twice);
        }
        message.check()?;
        self.advice.insert(from.clone(), message);
        self.last_advice_ms = self.last_advice_ms.max(now_ms);
        Ok(())
    }

    /// The advisor will not answer: it is down, has left, or its connection failed.
    pub fn on_advisor_gone(&mut self, peer: &PeerId) {
        if self.asked.contains(peer) {
            self.gone.insert(peer.clone());
        }
    }

    /// What to do now. To be called after every event and at the time that the last call named.
    pub fn poll(&mut self, now_ms: u64) -> BallotStep {
        if let Some(outcome) = &self.decided {
            return BallotStep::Decided(outcome.clone());
        }
        let deadline_ms = self.opened_ms.saturating_add(BALLOT_MAX_MS);
        let silence_ms = self.last_advice_ms.saturating_add(BALLOT_SILENCE_MS);
        let until_ms = if self.advice.is_empty() { deadline_ms } else { silence_ms.min(deadline_ms) };
        if now_ms < until_ms && !self.first_place_is_certain() {
            let why =
                if self.advice.is_empty() { "the first advice" } else { "advice that could change the first place" };
            return BallotStep::Wait { until_ms, why };
        }
        let outcome = self.count();
        self.decided = Some(outcome.clone());
        BallotStep::Decided(outcome)
    }

    fn outstanding(&self) -> usize {
        self.asked.iter().filter(|peer| !self.advice.contains_key(*peer) && !self.gone.contains(*peer)).count()
    }

    /// Whether no outstanding vote can put another role first: not even all of them for the same one.
    fn first_place_is_certain(&self) -> bool {
        let outstanding = self.outstanding();
        if outstanding == 0 {
            return true;
        }
        let votes = self.votes(&BTreeSet::new());
        let Some(leader) = best(&self.roles, &votes) else { return false };
        let leading = votes.get(leader).map_or(0, BTreeSet::len);
        self.roles.iter().filter(|role| role.name != leader && role.name != FOUNDER).all(|role| {
            let possible = votes.get(role.name.as_str()).map_or(0, BTreeSet::len) + outstanding;
            possible < leading
                || (possible == leading && self.roles.tie_order(leader) < self.roles.tie_order(&role.name))
        })
    }

    /// Who puts which role first, among the roles that are known and not yet `placed`.
    fn votes<'a>(&'a self, placed: &BTreeSet<&str>) -> BTreeMap<&'a str, BTreeSet<PeerId>> {
        let mut votes: BTreeMap<&str, BTreeSet<PeerId>> = BTreeMap::new();
        for (advisor, message) in &self.advice {
            let first = self.usable(message).find(|ranked| !placed.contains(ranked.role.as_str()));
            if let Some(first) = first {
                votes.entry(&first.role).or_default().insert(advisor.clone());
            }
        }
        votes
    }

    fn usable<'a>(&'a self, message: &'a AdviceMsg) -> impl Iterator<Item = &'a RankedAdvice> {
        message.advice.ranking.iter().filter(|ranked| self.roles.get(&ranked.role).is_some())
    }

    /// Fills one place after the other by votes for first place among the roles that are left, as if those before were full.
    fn count(&self) -> Outcome {
        let unanswered: BTreeSet<PeerId> =
            self.asked.iter().filter(|peer| !self.advice.contains_key(*peer)).cloned().collect();
        let mut placed: BTreeSet<&str> = BTreeSet::new();
        let (mut ranking, mut supporters) = (Vec::new(), Vec::new());
        loop {
            let mut votes = self.votes(&placed);
            let Some(role) = best(&self.roles, &votes) else { break };
            let by = votes.remove(role).unwrap_or_default();
            let lowest = by.iter().filter_map(|advisor| {
                let message = self.advice.get(advisor)?;
                message.advice.ranking.iter().find(|ranked| ranked.role == role)?.cap
            });
            let cap = self.roles.effective_cap(role, lowest.min());
            ranking.push(RankedRole { role: role.to_owned(), cap });
            supporters.push(by);
            placed.insert(role);
        }
        if ranking.is_empty() {
            return Outcome::NoAdvice { unanswered, advice: self.advice.clone() };
        }
        let roles_digest = self.roles.digest();
        let unknown_roles = self.advice.values().flat_map(|message| &message.advice.ranking);
        let unknown_roles = unknown_roles.filter(|ranked| self.roles.get(&ranked.role).is_none());
        let other = self.advice.iter().filter(|(_, message)| message.roles_digest != roles_digest);
        Outcome::Ranked(Ranked {
            ballot: self.id.clone(),
            ranking,
            supporters,
            unknown_roles: unknown_roles.map(|ranked| ranked.role.clone()).collect(),
            other_definitions: other.map(|(advisor, _)| advisor.clone()).collect(),
            advice: self.advice.clone(),
            unanswered,
            roles_digest,
        })
    }
}

/// The role with most votes; between equals the one of lower rank, then of lesser name.
fn best<'a>(roles: &RoleSet, votes: &BTreeMap<&'a str, BTreeSet<PeerId>>) -> Option<&'a str> {
    votes.iter().min_by_key(|(role, by)| (std::cmp::Reverse(by.len()), roles.tie_order(role))).map(|(role, _)| *role)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn roles() -> Arc<RoleSet> {
        let role = |name: &str, rank: u32, more: &str| {
            (format!("roles/{name}.toml"), format!("name = \"{name}\"\npurpose = \"x\"\nrank = {rank}\n{more}"))
        };
        let files = [
            role("controller", 10, "max = 1"),
            role("builder", 20, ""),
            role("runner", 30, ""),
            role("tester", 30, ""),
        ];
        Arc::new(RoleSet::parse(files).expect("valid"))
    }

    fn peer(n: usize) -> PeerId {
        PeerId::new(format!("peer-{n:02}"))
    }

    fn advice(ranking: &[(&str, Option<u32>)]) -> AdviceMsg {
        let ranked = |(role, cap): &(&str, Option<u32>)| RankedAdvice {
            role: (*role).to_owned(),
            rule: "r".into(),
            cap: *cap,
            reason: format!("need {role}"),
        };
        AdviceMsg {
            ballot: "b1".into(),
            policy: "default".into(),
            roles_digest: roles().digest(),
            advice: Advice { ranking: ranking.iter().map(ranked).collect(), skipped: vec![] },
        }
    }

    fn only(role: &str) -> AdviceMsg {
        advice(&[(role, None)])
    }

    fn ballot(advisors: usize) -> Ballot {
        Ballot::new("b1", (0..advisors).map(peer).collect(), roles(), 1_000)
    }

    fn ranked(step: BallotStep) -> Ranked {
        match step {
            BallotStep::Decided(Outcome::Ranked(ranked)) => ranked,
            other @ (BallotStep::Wait { .. } | BallotStep::Decided(_)) => panic!("not decided: {other:?}"),
        }
    }

    fn order(ranked: &Ranked) -> Vec<(&str, Option<u32>)> {
        ranked.ranking.iter().map(|ranked| (ranked.role.as_str(), ranked.cap)).collect()
    }

    #[test]
    fn the_seed_example_three_against_one_makes_a_builder() {
        let mut ballot = ballot(4);
        for (advisor, role) in [(0, "builder"), (1, "runner"), (2, "builder")] {
            ballot.on_advice(&peer(advisor), only(role), 1_010).expect("counted");
        }
        ballot.on_advice(&peer(3), only("builder"), 1_020).expect("counted");
        let ranked = ranked(ballot.poll(1_020));
        assert_eq!(order(&ranked), [("builder", None), ("runner", None)]);
        let given = ranked.for_role("builder").expect("ranked");
        assert_eq!(given.assigned_by, BTreeSet::from([peer(0), peer(2), peer(3)]));
        assert_eq!(given.dissent, BTreeSet::from([peer(1)]));
        assert_eq!(given.reason, "need builder");
        assert!(ranked.unanswered.is_empty());
    }

    fn step_until(step: &BallotStep) -> u64 {
        match step {
            BallotStep::Wait { until_ms, .. } => *until_ms,
            BallotStep::Decided(outcome) => panic!("decided {outcome:?}"),
        }
    }

    #[test]
    fn it_decides_as_soon_as_first_place_is_certain() {
        let mut open = ballot(5);
        for advisor in 0..2 {
            open.on_advice(&peer(advisor), only("builder"), 1_010).expect("counted");
            assert!(matches!(open.poll(1_010), BallotStep::Wait { until_ms: 1_260, .. }));
        }
        open.on_advice(&peer(2), only("builder"), 1_010).expect("counted");
        let result = ranked(open.poll(1_010));
        assert_eq!(result.unanswered, BTreeSet::from([peer(3), peer(4)]));

        // Of two, one vote for the role that wins every tie is enough; one for another is not.
        let mut tie = ballot(2);
        tie.on_advice(&peer(0), only("controller"), 1_010).expect("counted");
        assert_eq!(ranked(tie.poll(1_010)).ranking[0].role, "controller");
        let mut tie = ballot(2);
        tie.on_advice(&peer(0), only("runner"), 1_010).expect("counted");
        assert_eq!(step_until(&tie.poll(1_010)), 1_260);
        assert_eq!(ranked(tie.poll(1_260)).ranking[0].role, "runner");
    }

    #[test]
    fn silence_and_deadline_end_it() {
        let mut slow = ballot(20);
        assert!(matches!(slow.poll(1_000), BallotStep::Wait { until_ms: 3_000, why: "the first advice" }));
        for (n, at_ms) in (0..9).map(|n| (n, 1_200 + 200 * n as u64)) {
            slow.on_advice(&peer(n), only(if n % 2 == 0 { "runner" } else { "builder" }), at_ms).expect("counted");
            let until_ms = (at_ms + BALLOT_SILENCE_MS).min(3_000);
            assert_eq!(step_until(&slow.poll(at_ms)), until_ms);
        }
        let result = ranked(slow.poll(3_000));
        assert_eq!(result.ranking[0].role, "runner");
        assert_eq!(result.unanswered.len(), 11);
        assert_eq!(slow.on_advice(&peer(15), only("builder"), 3_001), Err(AdviceRefused::OtherBallot));
        assert_eq!(ranked(slow.poll(9_000)), result, "a decision stays");
    }

    #[test]
    fn without_advice_it_says_so_and_names_who_was_silent() {
        let mut silent = ballot(2);
        assert_eq!(step_until(&silent.poll(2_999)), 3_000);
        let unanswered = BTreeSet::from([peer(0), peer(1)]);
        let expected = BallotStep::Decided(Outcome::NoAdvice { unanswered, advice: BTreeMap::new() });
        assert_eq!(silent.poll(3_000), expected);

        let mut alone = ballot(0);
        assert!(matches!(alone.poll(1_000), BallotStep::Decided(Outcome::NoAdvice { .. })));

        let mut empty = ballot(1);
        empty.on_advice(&peer(0), advice(&[]), 1_001).expect("counted");
        let BallotStep::Decided(Outcome::NoAdvice { unanswered, advice }) = empty.poll(1_001) else {
            panic!("must end")
        };
        assert!(unanswered.is_empty() && advice.len() == 1);
    }

    #[test]
    fn an_advisor_that_dies_in_the_middle_is_not_waited_for() {
        let mut open = ballot(3);
        open.on_advice(&peer(0), only("runner"), 1_010).expect("counted");
        open.on_advice(&peer(1), only("builder"), 1_015).expect("counted");
        assert!(matches!(open.poll(1_015), BallotStep::Wait { .. }));
        open.on_advisor_gone(&peer(2));
        open.on_advisor_gone(&peer(99));
        let result = ranked(open.poll(1_016));
        assert_eq!(order(&result), [("builder", None), ("runner", None)]);
        assert_eq!(result.unanswered, BTreeSet::from([peer(2)]));
    }

    #[test]
    fn advice_that_was_not_asked_for_is_ignored() {
        let mut open = ballot(3);
        assert_eq!(open.on_advice(&peer(7), only("runner"), 1_010), Err(AdviceRefused::NotAsked));
        let other = AdviceMsg { ballot: "b2".into(), ..only("runner") };
        assert_eq!(open.on_advice(&peer(0), other, 1_010), Err(AdviceRefused::OtherBallot));
        open.on_advice(&peer(0), only("runner"), 1_010).expect("counted");
        assert_eq!(open.on_advice(&peer(0), only("builder"), 1_010), Err(AdviceRefused::Twice));

        let long = AdviceMsg { policy: "x".repeat(33), ..only("runner") };
        let mut control = only("runner");
        control.advice.ranking[0].reason = "a\u{1b}[2J".into();
        let mut huge = only("runner");
        huge.advice.ranking[0].reason = "a".repeat(REASON_MAX_BYTES + 1);
        let twice = advice(&[("runner", None), ("runner", Some(3))]);
        for bad in [long, control, huge, twice, only("founder"), only("../x"), advice(&[("runner", Some(0))])] {
            assert_eq!(open.on_advice(&peer(1), bad, 1_011), Err(AdviceRefused::Malformed));
        }
        let result = ranked(open.poll(1_260));
        assert_eq!(result.advice.len(), 1);
    }

    #[test]
    fn the_cap_is_the_lowest_of_the_supporters_and_of_the_role() {
        let mut open = ballot(4);
        for (n, ranking) in [
            advice(&[("builder", Some(5)), ("runner", None)]),
            advice(&[("builder", Some(3)), ("runner", Some(9))]),
            advice(&[("builder", None), ("controller", Some(4)), ("runner", None)]),
            advice(&[("runner", Some(1)), ("builder", Some(1))]),
        ]
        .into_iter()
        .enumerate()
        {
            open.on_advice(&peer(n), ranking, 1_010).expect("counted");
        }
        let result = ranked(open.poll(1_010));
        // The advice of the dissenter caps only what it puts first.
        assert_eq!(order(&result), [("builder", Some(3)), ("runner", Some(1)), ("controller", Some(1))]);
        assert_eq!(result.for_role("runner").expect("ranked").dissent, BTreeSet::from([peer(2)]));
        assert!(result.for_role("tester").is_none());
    }

    #[test]
    fn later_places_follow_the_advice_as_if_earlier_roles_were_full() {
        let mut open = ballot(3);
        for n in 0..3 {
            open.on_advice(&peer(n), advice(&[("controller", Some(1)), ("tester", None), ("builder", None)]), 1_010)
                .expect("ok");
        }
        let result = ranked(open.poll(1_010));
        assert_eq!(order(&result), [("controller", Some(1)), ("tester", None), ("builder", None)]);
        assert_eq!(result.for_role("tester").expect("ranked").assigned_by.len(), 3);
    }

    #[test]
    fn roles_that_this_node_cannot_look_up_do_not_count() {
        let mut open = ballot(2);
        let foreign =
            AdviceMsg { roles_digest: Sha256Hash([9; 32]), ..advice(&[("ml-trainer", None), ("runner", None)]) };
        open.on_advice(&peer(0), foreign, 1_010).expect("counted");
        open.on_advice(&peer(1), only("runner"), 1_010).expect("counted");
        let result = ranked(open.poll(1_010));
        assert_eq!(order(&result), [("runner", None)]);
        assert_eq!(result.unknown_roles, BTreeSet::from(["ml-trainer".to_owned()]));
        assert_eq!(result.other_definitions, BTreeSet::from([peer(0)]));
    }

    fn any_ranking() -> impl Strategy<Value = Vec<(&'static str, Option<u32>)>> {
        let roles = vec!["controller", "builder", "runner", "tester"];
        let shuffled =
            Just(roles).prop_shuffle().prop_flat_map(|roles| (0..=roles.len()).prop_map(move |n| roles[..n].to_vec()));
        shuffled.prop_flat_map(|roles| {
            let caps = proptest::collection::vec(proptest::option::of(1u32..6), roles.len());
            caps.prop_map(move |caps| roles.iter().copied().zip(caps).collect())
        })
    }

    proptest! {
        /// The order in which answers arrive changes nothing but how early the ballot ends.
        #[test]
        fn the_count_does_not_depend_on_the_order_of_answers(
            rankings in proptest::collection::vec(any_ranking(), 1..9),
            order in Just((0..9usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let outcome = |order: &[usize]| {
                let mut open = ballot(rankings.len());
                for n in order.iter().filter(|n| **n < rankings.len()) {
                    open.on_advice(&peer(*n), advice(&rankings[*n]), 1_010).expect("counted");
                }
                open.poll(1_010)
            };
            let sorted: Vec<usize> = (0..9).collect();
            prop_assert_eq!(outcome(&sorted), outcome(&order));
        }

        /// Whoever is put first early would have been put first by all votes together.
        #[test]
        fn an_early_decision_is_the_one_of_the_full_count(
            rankings in proptest::collection::vec(any_ranking(), 1..9),
            answering in 0..9usize,
        ) {
            let mut early = ballot(rankings.len());
            let mut full = ballot(rankings.len());
            let mut first = None;
            for (n, ranking) in rankings.iter().enumerate() {
                full.on_advice(&peer(n), advice(ranking), 1_010).expect("counted");
                if first.is_none() && n < answering {
                    early.on_advice(&peer(n), advice(ranking), 1_010).expect("counted");
                    if let BallotStep::Decided(Outcome::Ranked(ranked)) = early.poll(1_010) {
                        first = Some(ranked);
                    }
                }
            }
            if let Some(early) = first {
                prop_assert_eq!(&early.ranking[0].role, &ranked(full.poll(1_010)).ranking[0].role);
            }
        }

        /// Every place: no other role left has more first votes, the cap is nobody's excess, supporters are real.
        #[test]
        fn each_place_belongs_to_a_role_with_most_votes_among_those_left(
            rankings in proptest::collection::vec(any_ranking(), 1..9),
        ) {
            let mut open = ballot(rankings.len());
            for (n, ranking) in rankings.iter().enumerate() {
                open.on_advice(&peer(n), advice(ranking), 1_010).expect("counted");
            }
            let BallotStep::Decided(Outcome::Ranked(result)) = open.poll(1_010) else { return Ok(()) };
            let mut placed: Vec<&str> = vec![];
            for place in &result.ranking {
                let first_left = |ranking: &Vec<(&'static str, Option<u32>)>| {
                    ranking.iter().find(|(role, _)| !placed.contains(role)).copied()
                };
                let votes = |role: &str| rankings.iter().filter(|r| first_left(r).is_some_and(|(first, _)| first == role)).count();
                let mine = votes(&place.role);
                prop_assert!(mine > 0);
                prop_assert_eq!(result.for_role(&place.role).expect("ranked").assigned_by.len(), mine);
                for other in ["controller", "builder", "runner", "tester"] {
                    prop_assert!(votes(other) <= mine);
                }
                for (first, cap) in rankings.iter().filter_map(first_left) {
                    if first == place.role && cap.is_some() {
                        prop_assert!(place.cap.is_some() && place.cap <= cap);
                    }
                }
                let name = roles().iter().map(|role| role.name.clone()).find(|name| *name == place.role).expect("known");
                placed.push(match name.as_str() { "controller" => "controller", "builder" => "builder", "runner" => "runner", _ => "tester" });
            }
        }
    }
}
