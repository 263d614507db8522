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
//! holds in the end is the first one with room at the moment of the claim: [`Outcome::for_role`] then says by whom and why.
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
mod tests;
