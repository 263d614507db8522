//! Roles follow the hive: which node should ask again what to become, because what it is is not needed any more.
//!
//! The coordinator calls [`Migrator::review`] hourly and when the census or the queue changed, with every member and what the
//! policy advises for it *as if it had no role yet*. A node whose role is not the one it would be given today is asked to open a
//! ballot, when it is idle. So that roles do not flap: the verdict must stand for [`SETTLE_MS`], the node must have had its role
//! for [`DWELL_MS`], one node is asked at a time, and a role keeps its `min`.
//!
//! What a node would be given today does not depend on what it is today (the census leaves it out), so a node that moved is
//! content where it went, and the number of moves is bounded by what changed.
//!
//! Never done here: asking the node, judging policies, remembering anything across coordinators (a new one starts over, and
//! waits at least [`SETTLE_MS`]).

use std::collections::BTreeMap;

use crate::engine::id::PeerId;
use crate::engine::policy::Advice;
use crate::engine::role::{FOUNDER, RoleSet};

/// A verdict must stand for so long before a node is asked: longer than a burst in the queue or a reboot of another node.
pub const SETTLE_MS: u64 = 10 * 60_000;
/// A node keeps a role for at least so long: installing packages takes minutes and must be worth it.
pub const DWELL_MS: u64 = 30 * 60_000;
/// A node that was asked has so long to claim another role before the next one is asked.
pub const ASKED_MS: u64 = 5 * 60_000;
/// Without a change everything is looked at so often.
pub const REVIEW_MS: u64 = 60 * 60_000;

/// A member as the coordinator sees it.
#[derive(Clone, Debug)]
pub struct MigrationMember {
    /// The node.
    pub peer: PeerId,
    /// The role that it holds; nodes without one ask by themselves.
    pub role: Option<String>,
    /// Generation of its claim.
    pub generation: u64,
    /// Since when it holds the role, on the caller's clock.
    pub since_ms: u64,
    /// It is alive and runs nothing.
    pub idle: bool,
    /// What the policy advises for it, with a census that leaves it out.
    pub advice: Advice,
}

/// A node to be asked to open a ballot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The node.
    pub peer: PeerId,
    /// Generation of the claim that is to be replaced; a node with another one ignores the request.
    pub generation: u64,
    /// What it is.
    pub from: String,
    /// What it would be today.
    pub to: String,
    /// Why, for the node's log and the dashboard.
    pub why: String,
}

/// What a review found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Review {
    /// Whom to ask now.
    pub ask: Option<Migration>,
    /// Nodes that would be something else today, and what is awaited before they are asked.
    pub awaited: BTreeMap<PeerId, String>,
    /// When to review again at the latest.
    pub next_ms: u64,
}

#[derive(Debug)]
struct Verdict {
    generation: u64,
    to: String,
    since_ms: u64,
}

#[derive(Debug)]
struct Asked {
    peer: PeerId,
    generation: u64,
    until_ms: u64,
}

/// Remembers since when each node should be something else. Soft state of the coordinator.
#[derive(Debug, Default)]
pub struct Migrator {
    verdicts: BTreeMap<PeerId, Verdict>,
    asked: Option<Asked>,
}

impl Migrator {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at every member. At most one is to be asked, and that only when the one before has finished.
    pub fn review(&mut self, now_ms: u64, members: &[MigrationMember], roles: &RoleSet) -> Review {
        let mut census: BTreeMap<&str, u32> = BTreeMap::new();
        for role in members.iter().filter_map(|member| member.role.as_deref()) {
            *census.entry(role).or_insert(0) += 1;
        }
        let mut review = Review { next_ms: now_ms.saturating_add(REVIEW_MS), ..Review::default() };
        let mut verdicts = BTreeMap::new();
        let mut ready: Vec<(u64, Migration)> = Vec::new();
        let busy_until_ms = self.asked_until(now_ms, members);
        for member in members {
            let Some((to, reason)) = wanted(member, &census, roles) else { continue };
            let since_ms = match self.verdicts.get(&member.peer) {
                Some(verdict) if verdict.generation == member.generation && verdict.to == to => verdict.since_ms,
                _ => now_ms,
            };
            let settled_ms = since_ms.saturating_add(SETTLE_MS);
            let due_ms = settled_ms.max(member.since_ms.saturating_add(DWELL_MS)).max(busy_until_ms.unwrap_or(0));
            let from = member.role.clone().unwrap_or_default();
            let awaited = if now_ms < due_ms {
                review.next_ms = review.next_ms.min(due_ms);
                Some(match busy_until_ms {
                    Some(busy_ms) if busy_ms == due_ms => "another node changes its role".to_owned(),
                    _ => format!("the hive still wants it to be {to} in {} s", (due_ms - now_ms).div_ceil(1_000)),
                })
            } else {
                (!member.idle).then(|| "it is idle".to_owned())
            };
            match awaited {
                Some(awaited) => {
                    review
                        .awaited
                        .insert(member.peer.clone(), format!("would be {to}, not {from}: waits until {awaited}"));
                }
                None => {
                    let why = format!("no longer needed as {from}; {to}: {reason}");
                    let (peer, generation) = (member.peer.clone(), member.generation);
                    ready.push((since_ms, Migration { peer, generation, from, to: to.clone(), why }));
                }
            }
            verdicts.insert(member.peer.clone(), Verdict { generation: member.generation, to, since_ms });
        }
        self.verdicts = verdicts;
        ready.sort_by(|(a_ms, a), (b_ms, b)| (a_ms, &a.peer).cmp(&(b_ms, &b.peer)));
        if let Some((_, migration)) = ready.into_iter().next() {
            let until_ms = now_ms.saturating_add(ASKED_MS);
            self.asked = Some(Asked { peer: migration.peer.clone(), generation: migration.generation, until_ms });
            review.next_ms = review.next_ms.min(until_ms);
            review.ask = Some(migration);
        }
        review
    }

    /// Until when a node that was asked is waited for; none when there is none or it has finished.
    fn asked_until(&mut self, now_ms: u64, members: &[MigrationMember]) -> Option<u64> {
        let asked = self.asked.as_ref()?;
        let still = members.iter().any(|m| m.peer == asked.peer && m.generation == asked.generation);
        if still && now_ms < asked.until_ms {
            return Some(asked.until_ms);
        }
        if still {
            // It did not move: somebody else's turn, and its own verdict starts over.
            self.verdicts.remove(&asked.peer);
        }
        self.asked = None;
        None
    }
}

/// The role that a member would be given today and the reason, when that is not the one it has.
fn wanted(member: &MigrationMember, census: &BTreeMap<&str, u32>, roles: &RoleSet) -> Option<(String, String)> {
    let role = member.role.as_deref().filter(|role| *role != FOUNDER)?;
    let others = |name: &str| {
        let all = census.get(name).copied().unwrap_or(0);
        if name == role { all.saturating_sub(1) } else { all }
    };
    let has_room = |name: &str, cap| roles.effective_cap(name, cap).is_none_or(|cap| others(name) < cap);
    let known = member.advice.ranking.iter().filter(|ranked| roles.get(&ranked.role).is_some());
    let given = known.into_iter().find(|ranked| has_room(&ranked.role, ranked.cap))?;
    let below_min = roles.get(role).is_some_and(|def| others(role) < def.min);
    (given.role != role && !below_min).then(|| (given.role.clone(), given.reason.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::policy::RankedAdvice;

    fn roles() -> RoleSet {
        let role = |name: &str, rank: u32, more: &str| {
            (format!("{name}.toml"), format!("name = \"{name}\"\npurpose = \"x\"\nrank = {rank}\n{more}"))
        };
        RoleSet::parse([role("controller", 10, "max = 1"), role("builder", 20, "min = 1"), role("runner", 30, "")])
            .expect("valid")
    }

    fn member(n: usize, role: &str) -> MigrationMember {
        let peer = PeerId::new(format!("peer-{n}"));
        let role = Some(role.to_owned());
        MigrationMember { peer, role, generation: 1, since_ms: 0, idle: true, advice: Advice::default() }
    }

    /// What the shipped default policy says, for a wanted number of builders.
    fn advise(members: &mut [MigrationMember], builders: usize) {
        let held: Vec<Option<String>> = members.iter().map(|member| member.role.clone()).collect();
        for (n, member) in members.iter_mut().enumerate() {
            let others = |role: &str| {
                held.iter().enumerate().filter(|(other, held)| *other != n && held.as_deref() == Some(role)).count()
            };
            let ranked =
                |role: &str, cap| RankedAdvice { role: role.into(), rule: "r".into(), cap, reason: "why".into() };
            let mut ranking = vec![];
            if others("controller") == 0 {
                ranking.push(ranked("controller", Some(1)));
            }
            if others("builder") < builders {
                ranking.push(ranked("builder", None));
            }
            ranking.push(ranked("runner", None));
            member.advice = Advice { ranking, skipped: vec![] };
        }
    }

    const START_MS: u64 = DWELL_MS;

    #[test]
    fn a_node_too_many_is_asked_once_the_verdict_has_settled_and_it_is_idle() {
        let (roles, mut migrator) = (roles(), Migrator::new());
        let mut members =
            vec![member(0, "controller"), member(1, "builder"), member(2, "builder"), member(3, "builder")];
        members[1].idle = false;
        advise(&mut members, 2);
        let review = migrator.review(START_MS, &members, &roles);
        assert_eq!((review.ask, review.next_ms), (None, START_MS + SETTLE_MS));
        assert_eq!(review.awaited.len(), 3);
        let review = migrator.review(START_MS + SETTLE_MS, &members, &roles);
        let ask = review.ask.expect("settled");
        assert_eq!((ask.peer.as_str(), ask.from.as_str(), ask.to.as_str()), ("peer-2", "builder", "runner"));
        assert_eq!(ask.why, "no longer needed as builder; runner: why");
        assert!(review.awaited[&members[1].peer].ends_with("waits until it is idle"));

        // While it moves nobody else is asked, and when it has moved nobody else needs to.
        let review = migrator.review(START_MS + SETTLE_MS + 1, &members, &roles);
        assert_eq!(review.ask, None);
        members[2] = MigrationMember { generation: 2, since_ms: START_MS + SETTLE_MS + 2, ..member(2, "runner") };
        advise(&mut members, 2);
        let review = migrator.review(START_MS + SETTLE_MS + 3, &members, &roles);
        assert_eq!(review, Review { next_ms: START_MS + SETTLE_MS + 3 + REVIEW_MS, ..Review::default() });
    }

    #[test]
    fn a_verdict_that_comes_and_goes_moves_nobody() {
        let (roles, mut migrator) = (roles(), Migrator::new());
        let mut members = vec![member(0, "controller"), member(1, "builder"), member(2, "runner")];
        for step in 0..20 {
            advise(&mut members, if step % 2 == 0 { 1 } else { 2 });
            let review = migrator.review(START_MS + step * (SETTLE_MS - 1), &members, &roles);
            assert_eq!(review.ask, None, "step {step}");
        }
    }

    #[test]
    fn a_young_role_the_founder_and_the_last_of_a_role_are_left_alone() {
        let (roles, mut migrator) = (roles(), Migrator::new());
        let young = MigrationMember { since_ms: START_MS, ..member(2, "builder") };
        let mut members = vec![member(0, "controller"), member(1, FOUNDER), young, member(3, "builder")];
        members[3].idle = false;
        advise(&mut members, 0);
        for at_ms in [START_MS, START_MS + SETTLE_MS, START_MS + DWELL_MS - 1] {
            assert_eq!(migrator.review(at_ms, &members, &roles).ask, None, "{at_ms}");
        }
        let ask = migrator.review(START_MS + DWELL_MS, &members, &roles).ask.expect("old enough");
        assert_eq!(ask.peer, members[2].peer);
        members.remove(2);
        members[2].idle = true;
        advise(&mut members, 0);
        assert_eq!(migrator.review(START_MS + 9 * DWELL_MS, &members, &roles).ask, None, "min = 1");
    }

    #[test]
    fn a_node_that_does_not_answer_gives_way_to_the_next() {
        let (roles, mut migrator) = (roles(), Migrator::new());
        let mut members =
            vec![member(0, "controller"), member(1, "builder"), member(2, "builder"), member(3, "builder")];
        advise(&mut members, 2);
        migrator.review(START_MS, &members, &roles);
        let first = migrator.review(START_MS + SETTLE_MS, &members, &roles).ask.expect("asked");
        let second = migrator.review(START_MS + SETTLE_MS + ASKED_MS, &members, &roles).ask.expect("asked");
        assert_eq!((first.peer.as_str(), second.peer.as_str()), ("peer-1", "peer-2"));
    }

    #[test]
    fn any_distribution_settles_where_the_policy_wants_it_and_then_rests() {
        let roles = roles();
        for seed in 0..243usize {
            let held = ["builder", "runner", "controller"];
            let mut members: Vec<_> = (0..5).map(|n| member(n, held[seed / 3usize.pow(n as u32) % 3])).collect();
            let (mut migrator, mut now_ms, mut moves) = (Migrator::new(), START_MS, 0);
            for _ in 0..400 {
                advise(&mut members, 2);
                let review = migrator.review(now_ms, &members, &roles);
                assert!(review.next_ms > now_ms);
                if let Some(ask) = review.ask {
                    let moving = members.iter_mut().find(|member| member.peer == ask.peer).expect("a member");
                    moving.role = Some(ask.to);
                    moving.generation += 1;
                    moving.since_ms = now_ms;
                    moves += 1;
                }
                now_ms = review.next_ms;
            }
            assert!(moves <= 6, "seed {seed}: {moves} moves");
            let count = |role: &str| members.iter().filter(|member| member.role.as_deref() == Some(role)).count();
            assert_eq!((count("controller"), count("builder"), count("runner")), (1, 2, 2), "seed {seed}");
            let rested = Migrator::new().review(now_ms, &members, &roles);
            assert!(rested.awaited.is_empty(), "seed {seed}: {rested:?}");
        }
    }
}
