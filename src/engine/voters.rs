//! Who takes part in Raft: a pure planner of its membership.
//!
//! ```text
//!   1 voter ──► 3 voters ──► 5 voters          always in one joint change, never through an even number
//!      + 1 standby  + 1 standby                replaces a voter that is down for 30 s
//! ```
//!
//! A hive of two has one voter: two would stop when either dies, one stops only when that one dies. The second is the standby.
//! A node that is to become voter first opens a Raft directory under a new id (`Prepare`), is added as a learner (`AddStandby`),
//! catches up, and is then promoted together with others (`ChangeVoters`). One change of the membership at a time; a joint
//! configuration that a dead leader left behind is finished first. Never done here: changing anything, or removing a voter that is
//! needed for a majority of those that live.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::id::PeerId;

/// Settings of the planner.
#[derive(Clone, Debug)]
pub struct Settings {
    /// So long a member must be alive before it may become voter while the hive has fewer than three.
    pub founding_stable_ms: u64,
    /// The same later on: long enough that a node that restarts again and again is not chosen.
    pub stable_ms: u64,
    /// A voter is replaced, and a standby dropped, so long after it went down. Longer than a reboot of a container, shorter
    /// than it takes the next one to fail.
    pub replace_after_ms: u64,
    /// A node whose log takes longer than this to reach the disk (99th percentile) is not promoted.
    pub fsync_slow_us: u64,
    /// Most voters: 3 or 5. More would slow down every commit and protect against nothing that happens in practice.
    pub voters_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            founding_stable_ms: 1_000,
            stable_ms: 10_000,
            replace_after_ms: 30_000,
            fsync_slow_us: 100_000,
            voters_max: 5,
        }
    }
}

/// A member that has not left, as the coordinator sees it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The node.
    pub peer_id: PeerId,
    /// The Raft id bound to it in the replicated state.
    pub raft_id: Option<u64>,
    /// Order of joining.
    pub join_ordinal: u64,
    /// What fails together with it: its host's address.
    pub domain: String,
    /// Preference by role, smaller first.
    pub rank: u32,
    /// Since when it is alive without a break; none while it is down. The coordinator itself: since its start.
    pub alive_since_ms: Option<u64>,
    /// Since when it is down; none while it is alive. A node that was never heard of is down since the coordinator's election.
    pub down_since_ms: Option<u64>,
    /// How long its log takes to reach the disk, 99th percentile over a minute, microseconds; none: not known.
    pub fsync_p99_us: Option<u64>,
    /// Its disk is nearly full: it is given no part, and gives leadership away.
    pub disk_low: bool,
    /// As a learner it has all but the last few entries. Ignored for others.
    pub caught_up: bool,
}

/// The membership of Raft as its leader has it, by Raft id.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    /// Voters of the last configuration.
    pub voters: BTreeSet<u64>,
    /// Learners.
    pub learners: BTreeSet<u64>,
    /// The configuration before, while a joint change is not finished.
    pub joint_with: Option<BTreeSet<u64>>,
    /// This node, which is the leader.
    pub leader: u64,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Commit `voters` again, which ends a joint configuration.
    FinishJoint {
        /// The configuration to end in.
        voters: BTreeSet<u64>,
    },
    /// Ask the node to open a Raft directory under a new id and bind that id (`BindReplica`).
    Prepare {
        /// The node.
        peer_id: PeerId,
    },
    /// Add the bound id as a learner.
    AddStandby {
        /// The node.
        peer_id: PeerId,
        /// Its id.
        raft_id: u64,
    },
    /// Make these the voters in one joint change; voters that are not among them leave Raft altogether.
    ChangeVoters {
        /// All voters.
        voters: BTreeSet<u64>,
    },
    /// Remove a learner.
    RemoveLearner {
        /// Its id.
        raft_id: u64,
    },
    /// Unbind the id of a node that is no part of Raft (`BindReplica` with none), so that it becomes an observer.
    Release {
        /// The node.
        peer_id: PeerId,
    },
    /// Hand leadership to this voter.
    TransferLeadership {
        /// Its id.
        to: u64,
    },
}

/// What to do now, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VoterPlan {
    /// At most one of them changes the membership; `Prepare` and `Release` may accompany it.
    pub steps: Vec<(Step, String)>,
    /// Why nothing (more) is done, for people; empty when all is as it should be.
    pub awaits: String,
    /// When to plan again though nothing happens.
    pub wake_at_ms: Option<u64>,
}

/// Plans the next steps.
pub fn plan(candidates: &[Candidate], membership: &Membership, now_ms: u64, settings: &Settings) -> VoterPlan {
    let mut planner = Planner::new(candidates, membership, now_ms, settings);
    if membership.joint_with.is_some() {
        let voters = membership.voters.clone();
        planner.push(Step::FinishJoint { voters }, "a change of voters was left unfinished");
        return planner.plan;
    }
    let wanted = planner.wanted_voters();
    planner.change_voters(&wanted);
    let learners = planner.tend_learners(&wanted);
    planner.release(&learners);
    planner.hand_over();
    planner.plan
}

/// Who should vote.
struct Wanted<'a> {
    /// Voters that stay one.
    keep: BTreeSet<u64>,
    /// Who is to become one.
    join: Vec<&'a Candidate>,
}

struct Planner<'a> {
    candidates: BTreeMap<&'a PeerId, &'a Candidate>,
    by_raft_id: BTreeMap<u64, &'a Candidate>,
    membership: &'a Membership,
    now_ms: u64,
    settings: &'a Settings,
    changing: bool,
    plan: VoterPlan,
}

impl<'a> Planner<'a> {
    fn new(candidates: &'a [Candidate], membership: &'a Membership, now_ms: u64, settings: &'a Settings) -> Self {
        Self {
            candidates: candidates.iter().map(|candidate| (&candidate.peer_id, candidate)).collect(),
            by_raft_id: candidates.iter().filter_map(|candidate| Some((candidate.raft_id?, candidate))).collect(),
            membership,
            now_ms,
            settings,
            changing: false,
            plan: VoterPlan::default(),
        }
    }

    fn push(&mut self, step: Step, why: impl Into<String>) {
        self.changing |= !matches!(step, Step::Prepare { .. } | Step::Release { .. });
        self.plan.steps.push((step, why.into()));
    }

    fn wake(&mut self, at_ms: u64) {
        if at_ms > self.now_ms {
            self.plan.wake_at_ms = Some(self.plan.wake_at_ms.map_or(at_ms, |known| known.min(at_ms)));
        }
    }

    fn is_alive(&self, raft_id: u64) -> bool {
        raft_id == self.membership.leader
            || self.by_raft_id.get(&raft_id).is_some_and(|candidate| candidate.alive_since_ms.is_some())
    }

    /// Down for so long that it is replaced. An id that no member holds is gone for ever: the member left, or lost its Raft
    /// directory and has a new id.
    fn is_given_up(&mut self, raft_id: u64) -> bool {
        if self.is_alive(raft_id) {
            return false;
        }
        let Some(candidate) = self.by_raft_id.get(&raft_id) else { return true };
        let at_ms = candidate.down_since_ms.unwrap_or(self.now_ms).saturating_add(self.settings.replace_after_ms);
        self.wake(at_ms);
        at_ms <= self.now_ms
    }

    fn is_slow(&self, candidate: &Candidate) -> bool {
        candidate.disk_low || candidate.fsync_p99_us.is_some_and(|us| us > self.settings.fsync_slow_us)
    }

    /// Stable and quick enough to be given a part in Raft that it does not have yet.
    fn is_fit(&mut self, candidate: &Candidate) -> bool {
        if self.is_slow(candidate) {
            return false;
        }
        let needed_ms = if self.membership.voters.len() < 3 {
            self.settings.founding_stable_ms
        } else {
            self.settings.stable_ms.max(self.settings.founding_stable_ms)
        };
        let Some(since_ms) = candidate.alive_since_ms else { return false };
        self.wake(since_ms.saturating_add(needed_ms));
        since_ms.saturating_add(needed_ms) <= self.now_ms
    }

    fn wanted_voters(&mut self) -> Wanted<'a> {
        let current = &self.membership.voters;
        let (mut given_up, mut keep) = (Vec::new(), BTreeSet::new());
        for raft_id in current.iter().copied() {
            if self.is_given_up(raft_id) {
                given_up.push(raft_id);
            } else {
                keep.insert(raft_id);
            }
        }
        let mut others: Vec<&'a Candidate> = Vec::new();
        for candidate in self.candidates.values().copied().collect::<Vec<_>>() {
            if !candidate.raft_id.is_some_and(|id| current.contains(&id)) && self.is_fit(candidate) {
                others.push(candidate);
            }
        }
        let target = self.target(keep.len(), keep.len() + others.len());
        let mut domains: BTreeSet<&str> =
            keep.iter().filter_map(|id| self.by_raft_id.get(id)).map(|voter| voter.domain.as_str()).collect();
        let mut join: Vec<&'a Candidate> = Vec::new();
        while keep.len() + join.len() < target && !others.is_empty() {
            let best =
                (0..others.len()).min_by_key(|index| others.get(*index).map(|other| self.preference(other, &domains)));
            let chosen = others.swap_remove(best.unwrap_or(0));
            domains.insert(&chosen.domain);
            join.push(chosen);
        }
        // A dead voter is better than an even number or a smaller majority that the next failure breaks. Of the dead, one
        // that may come back is better than an id that nobody holds any more.
        given_up.sort_by_key(|id| !self.by_raft_id.contains_key(id));
        keep.extend(given_up.into_iter().take(target.saturating_sub(keep.len() + join.len())));
        Wanted { keep, join }
    }

    /// How many voters there should be: 1, 3 or 5, and not fewer than there are unless two of five are gone.
    fn target(&self, good_voters: usize, good_nodes: usize) -> usize {
        let max = self.settings.voters_max;
        let now = self.membership.voters.len();
        let reachable = if good_nodes >= 5 && now >= 3 && max >= 5 {
            5
        } else if good_nodes >= 3 && max >= 3 {
            3
        } else {
            1
        };
        let shrinks = now > 3 && good_voters <= 3;
        if shrinks { reachable.max(3) } else { reachable.max(now) }
    }

    /// Smaller is better: learners, which have the log already, then nodes that were stable for long, then those in a failure
    /// domain that has no voter yet, then by role, then the order of joining.
    fn preference(&self, candidate: &Candidate, domains: &BTreeSet<&str>) -> (bool, bool, bool, u32, u64, PeerId) {
        let learns = candidate.raft_id.is_some_and(|id| self.membership.learners.contains(&id));
        let stable_since = |since_ms: u64| since_ms.saturating_add(self.settings.stable_ms) <= self.now_ms;
        let stable = candidate.alive_since_ms.is_some_and(stable_since);
        let shares_domain = domains.contains(candidate.domain.as_str());
        (!learns, !stable, shares_domain, candidate.rank, candidate.join_ordinal, candidate.peer_id.clone())
    }

    /// Promotes in one joint change when everyone who is to vote has the log.
    fn change_voters(&mut self, wanted: &Wanted<'a>) {
        let current = &self.membership.voters;
        if wanted.join.is_empty() && wanted.keep == *current {
            return;
        }
        let is_ready = |candidate: &&Candidate| {
            candidate.raft_id.filter(|id| candidate.caught_up && self.membership.learners.contains(id))
        };
        let joining: BTreeSet<u64> = wanted.join.iter().filter_map(is_ready).collect();
        if joining.len() < wanted.join.len() {
            "nodes that are to vote do not have the log yet".clone_into(&mut self.plan.awaits);
            return;
        }
        let voters: BTreeSet<u64> = wanted.keep.union(&joining).copied().collect();
        if !is_sound(&voters, current) || !self.majority_lives(&voters) || !self.majority_lives(current) {
            "too few voters answer to change who votes".clone_into(&mut self.plan.awaits);
            return;
        }
        let why = match (voters.len().cmp(&current.len()), current.len()) {
            (Ordering::Greater, 1) => "a hive with one voter stops when that one dies",
            (Ordering::Greater, _) => "there are enough stable nodes to bear two failures at once",
            (Ordering::Equal, _) => "a voter is gone",
            (Ordering::Less, _) => "two of five voters are gone and nobody can replace them",
        };
        self.push(Step::ChangeVoters { voters }, why);
    }

    fn majority_lives(&self, ids: &BTreeSet<u64>) -> bool {
        ids.iter().filter(|id| self.is_alive(**id)).count() * 2 > ids.len()
    }

    /// Learners are the voters to be, and one standby. Others are removed; who is missing is prepared and added. Gives the
    /// nodes that should learn.
    fn tend_learners(&mut self, wanted: &Wanted<'a>) -> Vec<&'a Candidate> {
        let standby = self.standby(wanted);
        let needed: Vec<&'a Candidate> = wanted.join.iter().copied().chain(standby).collect();
        for id in self.membership.learners.iter().copied() {
            if !self.changing && !needed.iter().any(|candidate| candidate.raft_id == Some(id)) {
                self.push(Step::RemoveLearner { raft_id: id }, "it is not needed as a standby");
            }
        }
        for candidate in &needed {
            let peer_id = candidate.peer_id.clone();
            match candidate.raft_id {
                None => self.push(Step::Prepare { peer_id }, "it is to have the log"),
                Some(raft_id) if !self.changing && !self.membership.learners.contains(&raft_id) => {
                    self.push(Step::AddStandby { peer_id, raft_id }, "it is to have the log");
                }
                Some(_) => {}
            }
        }
        needed
    }

    /// The learner that is there already, unless it is slow or given up; else the best node that has no part yet.
    fn standby(&mut self, wanted: &Wanted<'a>) -> Option<&'a Candidate> {
        let mut suitable: Vec<&'a Candidate> = Vec::new();
        for candidate in self.candidates.values().copied().collect::<Vec<_>>() {
            let votes = candidate.raft_id.is_some_and(|id| self.membership.voters.contains(&id))
                || wanted.join.iter().any(|joining| joining.peer_id == candidate.peer_id);
            let learner = candidate.raft_id.filter(|id| self.membership.learners.contains(id));
            let stays = learner.is_some_and(|id| !self.is_given_up(id)) && !self.is_slow(candidate);
            if !votes && (stays || self.is_fit(candidate)) {
                suitable.push(candidate);
            }
        }
        let voters = wanted.keep.iter().filter_map(|id| self.by_raft_id.get(id)).chain(&wanted.join);
        let domains: BTreeSet<&str> = voters.map(|voter| voter.domain.as_str()).collect();
        // A learner that is away for a moment keeps its place: filling another one up costs more than waiting.
        suitable.into_iter().min_by_key(|candidate| {
            let learns = candidate.raft_id.is_some_and(|id| self.membership.learners.contains(&id));
            (!learns, candidate.alive_since_ms.is_none(), self.preference(candidate, &domains))
        })
    }

    /// Nodes that hold an id but have no part in Raft, and are not about to get one.
    fn release(&mut self, learners: &[&'a Candidate]) {
        let needed: BTreeSet<u64> = learners.iter().filter_map(|candidate| candidate.raft_id).collect();
        let membership = self.membership;
        let idle = self.by_raft_id.iter().filter(|(id, _)| {
            let part = membership.voters.contains(id) || membership.learners.contains(id) || **id == membership.leader;
            !part && !needed.contains(id)
        });
        for peer_id in idle.map(|(_, candidate)| candidate.peer_id.clone()).collect::<Vec<_>>() {
            self.push(Step::Release { peer_id }, "it has no part in Raft");
        }
    }

    /// A leader whose disk is slow makes everybody wait.
    fn hand_over(&mut self) {
        let slow = self.by_raft_id.get(&self.membership.leader).is_some_and(|leader| self.is_slow(leader));
        if !slow || self.changing {
            return;
        }
        let quick =
            self.membership.voters.iter().copied().filter(|id| *id != self.membership.leader).filter_map(|id| {
                let voter = self.by_raft_id.get(&id)?;
                // Twice as quick as the limit, so that leadership does not wander between two that are near it.
                let us = voter.fsync_p99_us.filter(|us| *us <= self.settings.fsync_slow_us / 2 && !voter.disk_low)?;
                voter.alive_since_ms.map(|_| (us, id))
            });
        if let Some((_, to)) = quick.min() {
            self.push(Step::TransferLeadership { to }, "the coordinator's disk is slow or nearly full");
        }
    }
}

/// Odd, and not below three once three were reached.
fn is_sound(new: &BTreeSet<u64>, current: &BTreeSet<u64>) -> bool {
    new.len() % 2 == 1 && (current.len() < 3 || new.len() >= 3) && new.intersection(current).next().is_some()
}
