//! The membership of Raft over time: growth, replacement, and what must never be proposed.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that meets the unexpected fails")]

use std::collections::{BTreeMap, BTreeSet};

use hive::engine::id::PeerId;
use hive::engine::voters::{Candidate, Membership, Settings, Step, VoterPlan, plan};

fn peer(number: u64) -> PeerId {
    PeerId::new(format!("12D3KooWNode{number:03}"))
}

/// Node `number` of a hive whose clock starts at 0: alive since then, in a failure domain of its own, without a Raft id.
fn candidate(number: u64) -> Candidate {
    Candidate {
        peer_id: peer(number),
        raft_id: None,
        join_ordinal: number,
        domain: format!("10.0.0.{number}"),
        rank: 0,
        alive_since_ms: Some(0),
        down_since_ms: None,
        fsync_p99_us: None,
        disk_low: false,
        caught_up: true,
    }
}

/// Nodes with the Raft ids given; 0 stands for none.
fn nodes(raft_ids: &[u64]) -> Vec<Candidate> {
    let with_id = |(index, id): (usize, &u64)| Candidate {
        raft_id: Some(*id).filter(|id| *id > 0),
        ..candidate(u64::try_from(index).unwrap() + 1)
    };
    raft_ids.iter().enumerate().map(with_id).collect()
}

fn membership(voters: &[u64], learners: &[u64]) -> Membership {
    Membership {
        voters: voters.iter().copied().collect(),
        learners: learners.iter().copied().collect(),
        joint_with: None,
        leader: voters[0],
    }
}

fn steps(candidates: &[Candidate], membership: &Membership, now_ms: u64) -> Vec<Step> {
    let VoterPlan { steps, .. } = plan(candidates, membership, now_ms, &Settings::default());
    steps.into_iter().map(|(step, _)| step).collect()
}

fn down(candidate: &mut Candidate, since_ms: u64) {
    (candidate.alive_since_ms, candidate.down_since_ms) = (None, Some(since_ms));
}

const LATER_MS: u64 = 100_000;

#[test]
fn a_hive_of_one_needs_nothing_and_a_hive_of_two_keeps_one_voter_with_a_standby() {
    assert_eq!(steps(&nodes(&[11]), &membership(&[11], &[]), LATER_MS), []);
    let two = nodes(&[11, 0]);
    assert_eq!(steps(&two, &membership(&[11], &[]), LATER_MS), [Step::Prepare { peer_id: peer(2) }]);
    let two = nodes(&[11, 12]);
    let add = Step::AddStandby { peer_id: peer(2), raft_id: 12 };
    assert_eq!(steps(&two, &membership(&[11], &[]), LATER_MS), [add]);
    assert_eq!(steps(&two, &membership(&[11], &[12]), LATER_MS), []);
}

#[test]
fn three_nodes_vote_one_second_after_the_third_is_alive() {
    let three = nodes(&[11, 0, 0]);
    assert_eq!(steps(&three, &membership(&[11], &[]), 999), []);
    assert_eq!(plan(&three, &membership(&[11], &[]), 999, &Settings::default()).wake_at_ms, Some(1_000));
    let prepare = [2, 3].map(|number| Step::Prepare { peer_id: peer(number) });
    assert_eq!(steps(&three, &membership(&[11], &[]), 1_000), prepare);
    let three = nodes(&[11, 12, 13]);
    let add = |number, raft_id| Step::AddStandby { peer_id: peer(number), raft_id };
    assert_eq!(steps(&three, &membership(&[11], &[]), 1_000), [add(2, 12)], "one change at a time");
    assert_eq!(steps(&three, &membership(&[11], &[12]), 1_000), [add(3, 13)]);
    let change = Step::ChangeVoters { voters: [11, 12, 13].into() };
    assert_eq!(steps(&three, &membership(&[11], &[12, 13]), 1_000), [change]);
}

#[test]
fn nobody_is_promoted_before_it_has_the_log() {
    let mut three = nodes(&[11, 12, 13]);
    three[2].caught_up = false;
    let waits = plan(&three, &membership(&[11], &[12, 13]), LATER_MS, &Settings::default());
    assert_eq!(waits.steps, []);
    assert!(!waits.awaits.is_empty());
}

#[test]
fn five_stable_nodes_give_five_voters_and_the_sixth_stands_by() {
    let five = nodes(&[11, 12, 13, 14, 15]);
    let change = Step::ChangeVoters { voters: (11..=15).collect() };
    assert_eq!(steps(&five, &membership(&[11, 12, 13], &[14, 15]), LATER_MS), [change]);
    let mut unstable = five.clone();
    unstable[4].alive_since_ms = Some(LATER_MS - 5_000);
    assert_eq!(steps(&unstable, &membership(&[11, 12, 13], &[14]), LATER_MS), [Step::Release { peer_id: peer(5) }]);
    let six = nodes(&[11, 12, 13, 14, 15, 0]);
    let all = membership(&[11, 12, 13, 14, 15], &[]);
    assert_eq!(steps(&six, &all, LATER_MS), [Step::Prepare { peer_id: peer(6) }]);
}

#[test]
fn a_dead_voter_is_replaced_by_the_standby_after_thirty_seconds() {
    let mut four = nodes(&[11, 12, 13, 14]);
    down(&mut four[2], LATER_MS);
    let now = membership(&[11, 12, 13], &[14]);
    assert_eq!(steps(&four, &now, LATER_MS + 29_999), []);
    let change = Step::ChangeVoters { voters: [11, 12, 14].into() };
    assert_eq!(steps(&four, &now, LATER_MS + 30_000), [change]);
    let replaced = membership(&[11, 12, 14], &[]);
    assert_eq!(steps(&four, &replaced, LATER_MS + 30_000), [Step::Release { peer_id: peer(3) }]);
}

#[test]
fn without_a_replacement_a_dead_voter_stays_and_three_never_become_two() {
    let mut three = nodes(&[11, 12, 13]);
    down(&mut three[2], 0);
    let all = membership(&[11, 12, 13], &[]);
    assert_eq!(plan(&three, &all, LATER_MS, &Settings::default()), VoterPlan::default());
    three.pop();
    assert_eq!(plan(&three, &all, LATER_MS, &Settings::default()), VoterPlan::default(), "also when it left");
}

#[test]
fn a_voter_whose_raft_id_nobody_holds_is_replaced_at_once() {
    let four = nodes(&[11, 12, 99, 14]);
    let change = Step::ChangeVoters { voters: [11, 12, 14].into() };
    let now = membership(&[11, 12, 13], &[14]);
    assert_eq!(steps(&four, &now, LATER_MS), [change]);
    let add = Step::AddStandby { peer_id: peer(3), raft_id: 99 };
    assert_eq!(steps(&four, &membership(&[11, 12, 14], &[]), LATER_MS), [add], "its new directory may fill up");
}

#[test]
fn five_voters_shrink_to_three_when_two_are_gone_and_nobody_can_replace_them() {
    let mut five = nodes(&[11, 12, 13, 14, 15]);
    let all = membership(&[11, 12, 13, 14, 15], &[]);
    down(&mut five[1], 0);
    assert_eq!(steps(&five, &all, LATER_MS), [], "one may be gone");
    down(&mut five[3], 0);
    let change = Step::ChangeVoters { voters: [11, 13, 15].into() };
    assert_eq!(steps(&five, &all, LATER_MS), [change]);
    let mut seven = five.clone();
    seven.extend(nodes(&[0, 0, 0, 0, 0, 16, 17]).split_off(5));
    let with = membership(&[11, 12, 13, 14, 15], &[16, 17]);
    let change = Step::ChangeVoters { voters: [11, 13, 15, 16, 17].into() };
    assert_eq!(steps(&seven, &with, LATER_MS), [change]);
}

#[test]
fn nothing_changes_without_a_living_majority() {
    let mut five = nodes(&[11, 12, 13, 14]);
    down(&mut five[1], 0);
    down(&mut five[2], 0);
    let stuck = plan(&five, &membership(&[11, 12, 13], &[14]), LATER_MS, &Settings::default());
    assert_eq!(stuck.steps, []);
    assert!(stuck.awaits.contains("too few"), "{}", stuck.awaits);
}

#[test]
fn an_unfinished_joint_change_is_finished_first() {
    let mut joint = membership(&[11, 12, 13], &[]);
    joint.joint_with = Some([11].into());
    let finish = Step::FinishJoint { voters: [11, 12, 13].into() };
    assert_eq!(steps(&nodes(&[11, 12, 13, 0]), &joint, LATER_MS), [finish]);
}

#[test]
fn voters_are_spread_over_failure_domains_then_by_role_then_in_order_of_joining() {
    let mut five = nodes(&[11, 0, 0, 0, 0]);
    for (index, domain, rank) in [(1, "10.0.0.1", 0), (2, "10.0.0.9", 1), (3, "10.0.0.9", 0), (4, "10.0.0.8", 5)] {
        five[index].domain = domain.to_owned();
        five[index].rank = rank;
    }
    // Node 4 before 3 by role, then 5 by domain; the standby is 2, which shares the founder's machine as 3 shares that of 4.
    let expected = [4, 5, 2].map(|number| Step::Prepare { peer_id: peer(number) });
    assert_eq!(steps(&five, &membership(&[11], &[]), LATER_MS), expected);
}

#[test]
fn slow_disks_are_not_promoted_and_give_leadership_away() {
    let mut three = nodes(&[11, 12, 0]);
    three[2].fsync_p99_us = Some(150_000);
    assert_eq!(steps(&three, &membership(&[11], &[12]), LATER_MS), []);
    let mut three = nodes(&[11, 12, 13]);
    for (index, us) in [(0, 150_000), (1, 60_000), (2, 40_000)] {
        three[index].fsync_p99_us = Some(us);
    }
    let all = membership(&[11, 12, 13], &[]);
    assert_eq!(steps(&three, &all, LATER_MS), [Step::TransferLeadership { to: 13 }]);
    three[2].fsync_p99_us = Some(90_000);
    assert_eq!(steps(&three, &all, LATER_MS), [], "nobody is clearly quicker");
}

#[test]
fn a_standby_keeps_its_place_for_a_moment_and_then_loses_it() {
    let mut five = nodes(&[11, 12, 13, 14, 0]);
    five[4].fsync_p99_us = Some(1);
    down(&mut five[3], LATER_MS);
    let now = membership(&[11, 12, 13], &[14]);
    assert_eq!(steps(&five, &now, LATER_MS + 1), []);
    let after = steps(&five, &now, LATER_MS + 30_000);
    assert_eq!(after, [Step::RemoveLearner { raft_id: 14 }, Step::Prepare { peer_id: peer(5) }]);
    five[3].raft_id = None;
    assert!(steps(&five, &now, LATER_MS).contains(&Step::RemoveLearner { raft_id: 14 }), "its id is gone");
}

// ---- simulation ----

/// A hive whose planner runs on the current leader, with the effects that the adapters would have.
struct Hive {
    nodes: BTreeMap<u64, Candidate>,
    membership: Membership,
    now_ms: u64,
    next_raft_id: u64,
    random: u64,
}

impl Hive {
    fn new(size: u64, seed: u64) -> Self {
        let mut nodes: BTreeMap<u64, Candidate> = (1..=size).map(|number| (number, candidate(number))).collect();
        nodes.get_mut(&1).unwrap().raft_id = Some(1);
        Self { nodes, membership: membership(&[1], &[]), now_ms: 0, next_raft_id: 2, random: seed | 1 }
    }

    /// xorshift
    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn is_alive(&self, raft_id: u64) -> bool {
        let holder = self.nodes.values().find(|node| node.raft_id == Some(raft_id));
        holder.is_some_and(|node| node.alive_since_ms.is_some())
    }

    fn has_quorum(&self) -> bool {
        let alive = self.membership.voters.iter().filter(|id| self.is_alive(**id)).count();
        alive * 2 > self.membership.voters.len()
    }

    fn toggle(&mut self, number: u64) {
        let now_ms = self.now_ms;
        let node = self.nodes.get_mut(&number).unwrap();
        if node.alive_since_ms.is_some() {
            down(node, now_ms);
        } else {
            (node.alive_since_ms, node.down_since_ms) = (Some(now_ms), None);
        }
    }

    /// A node comes back without its Raft directory, and so without its id. Spared while that would leave fewer directories
    /// than a majority of the voters, after which only `hive recover` helps.
    fn lose_directory(&mut self, number: u64) {
        let held = |node: &Candidate| node.raft_id.is_some_and(|id| self.membership.voters.contains(&id));
        let others = self.nodes.iter().filter(|(other, node)| **other != number && held(node)).count();
        if others * 2 > self.membership.voters.len() {
            self.nodes.get_mut(&number).unwrap().raft_id = None;
        }
    }

    /// One tick: elect if need be, plan, carry out. Gives the number of steps.
    fn tick(&mut self) -> usize {
        self.now_ms += 1_000;
        if !self.has_quorum() {
            return 0;
        }
        if !self.is_alive(self.membership.leader) {
            let voters = self.membership.voters.clone();
            self.membership.leader = voters.into_iter().find(|id| self.is_alive(*id)).unwrap();
        }
        let candidates: Vec<Candidate> = self.nodes.values().cloned().collect();
        let plan = plan(&candidates, &self.membership, self.now_ms, &Settings::default());
        let changes =
            plan.steps.iter().filter(|(step, _)| !matches!(step, Step::Prepare { .. } | Step::Release { .. }));
        assert!(changes.count() <= 1, "one change at a time: {plan:?}");
        for (step, _) in &plan.steps {
            self.carry_out(step);
        }
        plan.steps.len()
    }

    fn carry_out(&mut self, step: &Step) {
        match step {
            Step::Prepare { peer_id } => {
                let raft_id = self.next_raft_id;
                let node = self.nodes.values_mut().find(|node| node.peer_id == *peer_id).unwrap();
                assert_eq!(node.raft_id, None, "prepared twice");
                if node.alive_since_ms.is_some() {
                    node.raft_id = Some(raft_id);
                    self.next_raft_id += 1;
                }
            }
            Step::AddStandby { raft_id, .. } => {
                assert!(!self.membership.voters.contains(raft_id), "a voter is no learner");
                self.membership.learners.insert(*raft_id);
            }
            Step::RemoveLearner { raft_id } => assert!(self.membership.learners.remove(raft_id)),
            Step::ChangeVoters { voters } | Step::FinishJoint { voters } => self.change(voters.clone()),
            Step::Release { peer_id } => {
                let node = self.nodes.values_mut().find(|node| node.peer_id == *peer_id).unwrap();
                let raft_id = node.raft_id.take().expect("bound");
                assert!(!self.membership.voters.contains(&raft_id) && !self.membership.learners.contains(&raft_id));
            }
            Step::TransferLeadership { to } => self.membership.leader = *to,
        }
    }

    fn change(&mut self, voters: BTreeSet<u64>) {
        let old = &self.membership.voters;
        assert!(matches!(voters.len(), 1 | 3 | 5), "{voters:?}");
        assert!(old.len() < 3 || voters.len() >= 3, "never below three again: {old:?} to {voters:?}");
        assert!(voters.contains(&self.membership.leader), "the leader stays");
        for removed in old.difference(&voters) {
            assert!(!self.is_alive(*removed), "{removed} lives and is removed: {old:?} to {voters:?}");
        }
        let removed = old.difference(&voters).count();
        assert!(removed * 2 < old.len(), "a majority is removed: {old:?} to {voters:?}");
        for added in voters.difference(old) {
            assert!(self.membership.learners.contains(added), "{added} was no learner");
        }
        let alive = voters.iter().filter(|id| self.is_alive(**id)).count();
        assert!(alive * 2 > voters.len(), "the new voters would have no majority: {voters:?}");
        self.membership.learners.retain(|id| !voters.contains(id));
        self.membership.voters = voters;
    }

    /// Everybody alive and nothing left to do: the wanted shape.
    fn check_converged(&self, size: usize, seed: u64) {
        let voters = self.membership.voters.len();
        let expected = match size {
            1 | 2 => 1,
            3 | 4 => 3,
            _ => 5,
        };
        assert_eq!(voters, expected, "size {size}, seed {seed}");
        assert_eq!(self.membership.learners.len(), usize::from(size > voters), "size {size}, seed {seed}");
        let bound = self.nodes.values().filter(|node| node.raft_id.is_some()).count();
        assert_eq!(bound, voters + self.membership.learners.len(), "size {size}, seed {seed}");
        assert!(self.membership.voters.iter().all(|id| self.is_alive(*id)), "size {size}, seed {seed}");
    }
}

#[test]
fn hives_of_every_size_converge_after_any_crashes_and_never_pass_through_a_bad_configuration() {
    for size in 1..=10 {
        for seed in 1..=30 {
            let mut hive = Hive::new(size, seed * 7_919);
            for _ in 0..400 {
                if hive.random(6) == 0 {
                    let number = hive.random(size) + 1;
                    hive.toggle(number);
                }
                if hive.random(40) == 0 {
                    let number = hive.random(size) + 1;
                    hive.lose_directory(number);
                }
                hive.tick();
            }
            let dead: Vec<u64> = hive
                .nodes
                .iter()
                .filter(|(_, node)| node.alive_since_ms.is_none())
                .map(|(number, _)| *number)
                .collect();
            dead.into_iter().for_each(|number| hive.toggle(number));
            for _ in 0..120 {
                hive.tick();
            }
            assert_eq!(hive.tick(), 0, "size {size}, seed {seed}: still changing");
            hive.check_converged(usize::try_from(size).unwrap(), seed);
        }
    }
}

#[test]
fn founding_is_quick() {
    let mut hive = Hive::new(3, 1);
    // Ticks of a second; the first one at which all are alive for a second starts it.
    let mut ticks = 0;
    while hive.membership.voters.len() < 3 {
        hive.tick();
        ticks += 1;
        assert!(ticks <= 4, "prepare, two learners, one change");
    }
}
