//! The coordinator's care for who votes: gathers what is known of every member, asks the planner, carries out its steps, and tells
//! nodes that hold a part in Raft which nobody has given them.
//!
//! A member counts as a part of Raft only while it acts like one: who lost its Raft directory, stopped at an entry, or has not
//! answered appends for long is as good as down, however alive its agent is. Never done here: choosing (see
//! [`plan`](crate::engine::voters::plan)).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::control::{self, Request, Response};
use super::shared::Shared;
use super::views::{own_report, role_of};
use super::{Event, propose};
use crate::api::MemberState;
use crate::consensus::ConsensusStatus;
use crate::engine::command::{Command, Reply};
use crate::engine::id::PeerId;
use crate::engine::member::Member;
use crate::engine::role::RoleSet;
use crate::engine::voters::{self, Candidate, Membership, Step, VoterPlan};
use crate::tasks;
use crate::transport;

/// How long the commit of a binding is awaited.
const BIND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node may take for an errand.
const ERRAND_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of looking, milliseconds.
const INTERVAL_MS: u64 = 250;
/// The same after a look at the same entry that found nothing to do, milliseconds: nobody is replaced before having been silent for
/// far longer.
const QUIET_INTERVAL_MS: u64 = 1_000;
/// Pause after a step that failed, milliseconds; doubles with every failure in a row.
const PAUSE_MS: u64 = 500;
const PAUSE_MAX_MS: u64 = 60_000;
/// A learner that lacks at most so many entries has caught up.
const CAUGHT_UP_ENTRIES: u64 = 256;
/// And answered within this time, milliseconds.
const ANSWERED_MS: u64 = 1_500;
/// A part of Raft that has not answered for so long counts as down from its last answer on, milliseconds.
const SILENT_MS: u64 = 10_000;
/// What a member publishes is believed against the state when its binding is so old, milliseconds: two rounds of publishing.
const BINDING_SETTLES_MS: u64 = 12_000;
/// A published status older than this says nothing any more, milliseconds.
const REPORT_MAX_AGE_MS: u64 = 15_000;

/// What the coordinator remembers about voters during its term.
#[derive(Default)]
pub(super) struct Voters {
    busy: bool,
    looked_at_ms: u64,
    /// Entry at which the last look found nothing to do.
    quiet_at: Option<u64>,
    not_before_ms: u64,
    failures: u32,
    /// Nodes that refused an errand: how often, and when they are asked again.
    refusals: BTreeMap<PeerId, (u32, u64)>,
    /// The id that the state binds to a member, and since when.
    bound: BTreeMap<PeerId, (u64, u64)>,
    /// Since when an id is in the membership.
    taking_part: BTreeMap<u64, u64>,
    /// Since when a member says that its copy of the log has stopped.
    halted: BTreeMap<PeerId, u64>,
}

/// What all candidates of one look are judged by.
struct Look<'a> {
    shared: &'a Shared,
    status: &'a ConsensusStatus,
    roles: Arc<RoleSet>,
    elected_at_ms: u64,
    now_ms: u64,
}

/// How the steps of a plan ended.
#[derive(Debug)]
pub struct Done {
    /// All of them were done.
    pub succeeded: bool,
    /// This node did not do what it was asked.
    pub refused: Option<PeerId>,
}

fn pause_ms(failures: u32) -> u64 {
    (PAUSE_MS << failures.min(16)).min(PAUSE_MAX_MS)
}

impl Voters {
    /// Looks, and begins what is to be done.
    pub(super) fn tick(&mut self, shared: &Arc<Shared>, status: &ConsensusStatus, term: (u64, u64), now_ms: u64) {
        let index = status.applied.map(|applied| applied.index);
        let interval_ms =
            if self.quiet_at.is_some() && self.quiet_at == index { QUIET_INTERVAL_MS } else { INTERVAL_MS };
        let due = now_ms.saturating_sub(self.looked_at_ms) >= interval_ms && now_ms >= self.not_before_ms;
        let Some(leader) = status.raft_id.filter(|_| due && !self.busy && !status.joint) else { return };
        self.looked_at_ms = now_ms;
        self.quiet_at = None;
        let (number, elected_at_ms) = term;
        let members: Vec<Member> =
            shared.read(|state| state.members().filter(|member| !member.left).cloned().collect());
        self.remember(shared, status, &members, now_ms);
        let membership = Membership {
            voters: status.voters.iter().map(|member| member.raft_id).collect(),
            learners: status.standbys.iter().map(|member| member.raft_id).collect(),
            joint_with: None,
            leader,
        };
        let look = Look { shared, status, roles: shared.definitions(|known| known.roles()), elected_at_ms, now_ms };
        let candidates: Vec<Candidate> = members.iter().map(|member| self.candidate(&look, member)).collect();
        let plan = voters::plan(&candidates, &membership, now_ms, &voters::Settings::default());
        let strays = self.strays(shared, status, &members, now_ms);
        if plan.steps.is_empty() && strays.is_empty() {
            self.quiet_at = index;
            return;
        }
        self.busy = true;
        let shared = Arc::clone(shared);
        tasks::spawn("voters", async move {
            for (peer, raft_id) in strays {
                retire(&shared, &peer, raft_id).await;
            }
            let done = carry_out(&shared, plan).await;
            let _ = shared.events.send(Event::VotersChanged { term: number, done }).await;
        });
    }

    /// The steps of a plan were done or failed.
    pub(super) fn on_done(&mut self, done: Done, now_ms: u64) {
        self.busy = false;
        if let Some(peer) = done.refused {
            let (times, until_ms) = self.refusals.entry(peer).or_default();
            *times += 1;
            *until_ms = now_ms.saturating_add(pause_ms(*times));
        } else if done.succeeded {
            self.failures = 0;
            // Whoever refused long ago and does as it is asked now begins anew with the shortest pause.
            self.refusals.retain(|_, (_, until_ms)| now_ms < *until_ms);
        } else {
            self.failures += 1;
            self.not_before_ms = now_ms.saturating_add(pause_ms(self.failures));
        }
    }

    fn remember(&mut self, shared: &Shared, status: &ConsensusStatus, members: &[Member], now_ms: u64) {
        let since = std::mem::take(&mut self.bound);
        self.bound = members
            .iter()
            .filter_map(|member| Some((member.info.peer_id.clone(), member.raft_id?)))
            .map(|(peer, id)| {
                let known =
                    since.get(&peer).filter(|(known, _)| *known == id).map_or(now_ms, |(_, since_ms)| *since_ms);
                (peer, (id, known))
            })
            .collect();
        let since = std::mem::take(&mut self.taking_part);
        let ids = status.voters.iter().chain(&status.standbys).map(|member| member.raft_id);
        self.taking_part = ids.map(|id| (id, since.get(&id).copied().unwrap_or(now_ms))).collect();
        let since = std::mem::take(&mut self.halted);
        let halted = |peer: &PeerId| shared.soft(|soft| soft.reports.get(peer).is_some_and(|report| report.halted));
        let peers = members.iter().map(|member| &member.info.peer_id).filter(|peer| halted(peer));
        self.halted = peers.map(|peer| (peer.clone(), since.get(peer).copied().unwrap_or(now_ms))).collect();
        self.refusals.retain(|peer, _| members.iter().any(|member| member.info.peer_id == *peer));
    }

    fn candidate(&self, look: &Look<'_>, member: &Member) -> Candidate {
        let &Look { shared, status, elected_at_ms, now_ms, .. } = look;
        let peer = &member.info.peer_id;
        let own = *peer == shared.me.peer_id;
        let liveness = shared.liveness(peer);
        let (since_ms, report) =
            shared.soft(|soft| (soft.liveness.get(peer).map(|known| known.since_ms), soft.reports.get(peer).cloned()));
        // What a node publishes reaches everyone but itself.
        let report = if own { Some(own_report(shared)) } else { report };
        let since_ms = since_ms.unwrap_or(elected_at_ms);
        let raft_id = if own { status.raft_id } else { self.held_id(status, member, report.as_ref(), now_ms) };
        let progress = status.progress.iter().find(|progress| Some(progress.member.raft_id) == raft_id);
        let joined_ms = raft_id.and_then(|id| self.taking_part.get(&id)).copied();
        let silent_ms = joined_ms.filter(|_| !own).map_or(0, |joined_ms| {
            progress.and_then(|progress| progress.silent_ms).unwrap_or(now_ms.saturating_sub(joined_ms))
        });
        let waits = self.refusals.get(peer).is_some_and(|(_, until_ms)| now_ms < *until_ms) && raft_id.is_none();
        let down_since_ms = match liveness {
            MemberState::Alive | MemberState::Suspect => self
                .halted
                .get(peer)
                .copied()
                .or_else(|| (silent_ms > SILENT_MS).then(|| now_ms.saturating_sub(silent_ms))),
            MemberState::Down | MemberState::Left | MemberState::Legacy => Some(since_ms),
        };
        let alive_since_ms = if own { Some(shared.me.started_ms) } else { Some(since_ms) };
        let rank = role_of(member).and_then(|role| look.roles.get(&role).map(|role| role.rank)).unwrap_or(u32::MAX);
        Candidate {
            peer_id: peer.clone(),
            raft_id,
            join_ordinal: member.join_ordinal,
            domain: member.info.addresses.first().map(|address| host_of(address)).unwrap_or_default(),
            rank,
            alive_since_ms: alive_since_ms.filter(|_| down_since_ms.is_none() && !waits),
            down_since_ms,
            fsync_p99_us: report.as_ref().and_then(|report| report.commit_p99_ms).map(|ms| ms.saturating_mul(1_000)),
            disk_low: report.is_some_and(|report| report.disk_low),
            caught_up: silent_ms <= ANSWERED_MS
                && progress
                    .and_then(|progress| progress.matched)
                    .is_some_and(|matched| matched + CAUGHT_UP_ENTRIES >= status.committed.unwrap_or(0)),
        }
    }

    /// The id that the state binds to a member, unless the member itself has said for long enough that it does not have it: a Raft
    /// directory that is gone comes back under another id only.
    fn held_id(
        &self,
        status: &ConsensusStatus,
        member: &Member,
        report: Option<&super::shared::StatusReport>,
        now_ms: u64,
    ) -> Option<u64> {
        let peer = &member.info.peer_id;
        let bound = member.raft_id.or_else(|| raft_id_in(status, peer))?;
        let settled = |(id, since_ms): &&(u64, u64)| *id == bound && now_ms >= since_ms + BINDING_SETTLES_MS;
        let Some((_, since_ms)) = self.bound.get(peer).filter(settled) else { return Some(bound) };
        let denies = report.is_some_and(|report| {
            report.raft_id != Some(bound)
                && report.received_ms >= since_ms + BINDING_SETTLES_MS / 2
                && now_ms.saturating_sub(report.received_ms) < REPORT_MAX_AGE_MS
        });
        (!denies).then_some(bound)
    }

    /// Members that say they have a part in Raft that they do not have: they were replaced while they were away, and would wait for
    /// a leader for ever.
    fn strays(
        &mut self,
        shared: &Shared,
        status: &ConsensusStatus,
        members: &[Member],
        now_ms: u64,
    ) -> Vec<(PeerId, u64)> {
        let mut strays = Vec::new();
        for member in members {
            let peer = &member.info.peer_id;
            let report = shared.soft(|soft| soft.reports.get(peer).cloned());
            let fresh =
                |report: &super::shared::StatusReport| now_ms.saturating_sub(report.received_ms) < REPORT_MAX_AGE_MS;
            let Some(raft_id) = report.filter(fresh).and_then(|report| report.raft_id) else { continue };
            let wanted = member.raft_id == Some(raft_id) || self.taking_part.contains_key(&raft_id);
            let waits = self.refusals.get(peer).is_some_and(|(_, until_ms)| now_ms < *until_ms);
            if wanted || waits || raft_id_in(status, peer).is_some() || shared.liveness(peer) != MemberState::Alive {
                continue;
            }
            // It publishes what it is every few seconds; asking it more often makes no difference.
            self.refusals.entry(peer.clone()).or_default().1 = now_ms.saturating_add(REPORT_MAX_AGE_MS);
            strays.push((peer.clone(), raft_id));
        }
        strays
    }
}

/// What fails together: the host, whatever port an agent on it uses.
fn host_of(address: &str) -> String {
    address.parse::<std::net::SocketAddr>().map_or_else(|_| address.to_owned(), |address| address.ip().to_string())
}

/// The founder's Raft id is in the membership from the first entry on, before any `BindReplica`.
fn raft_id_in(status: &ConsensusStatus, peer: &PeerId) -> Option<u64> {
    status.voters.iter().chain(&status.standbys).find(|member| member.peer_id == *peer).map(|member| member.raft_id)
}

async fn carry_out(shared: &Arc<Shared>, plan: VoterPlan) -> Done {
    for (step, why) in plan.steps {
        tracing::info!(?step, why, "changing who votes");
        let asked = if let Step::Prepare { peer_id } = &step { Some(peer_id.clone()) } else { None };
        if let Err(error) = carry_out_step(shared, step).await {
            tracing::warn!(error = %format!("{error:#}"), "a change of voters did not work; planned again");
            return Done { succeeded: false, refused: asked };
        }
    }
    Done { succeeded: true, refused: None }
}

async fn carry_out_step(shared: &Arc<Shared>, step: Step) -> anyhow::Result<()> {
    match step {
        Step::Prepare { peer_id } => {
            let answer = errand(shared, &peer_id, &Request::PrepareReplica).await?;
            let Response::Replica { raft_id } = answer else { anyhow::bail!("{peer_id} answered {answer:?}") };
            bind(shared, &peer_id, Some(raft_id)).await?;
        }
        Step::AddStandby { peer_id, raft_id } => shared.consensus.add_standby(raft_id, peer_id).await?,
        Step::ChangeVoters { voters } | Step::FinishJoint { voters } => shared.consensus.change_voters(voters).await?,
        Step::RemoveLearner { raft_id } => shared.consensus.remove_standby(raft_id).await?,
        // The node itself is told when it says that it still has the part.
        Step::Release { peer_id } => bind(shared, &peer_id, None).await?,
        Step::TransferLeadership { to } => {
            let status = shared.consensus.status();
            let peer = status.voters.iter().find(|voter| voter.raft_id == to).map(|voter| voter.peer_id.clone());
            shared.consensus.transfer_leadership(peer, Duration::from_secs(1)).await?;
        }
    }
    Ok(())
}

async fn bind(shared: &Shared, peer_id: &PeerId, raft_id: Option<u64>) -> anyhow::Result<()> {
    let command = Command::BindReplica { peer_id: peer_id.clone(), raft_id };
    match propose(shared, command, BIND_TIMEOUT).await? {
        Reply::Rejected { message, .. } => anyhow::bail!("the Raft id of {peer_id} was not taken: {message}"),
        Reply::Done | Reply::Role { .. } | Reply::Assigned { .. } | Reply::Changed { .. } => Ok(()),
    }
}

async fn retire(shared: &Shared, peer: &PeerId, raft_id: u64) {
    tracing::info!(member = %shared.name_of(peer), raft_id, "telling a node that it is an observer now");
    if let Err(error) = errand(shared, peer, &Request::RetireReplica { raft_id }).await {
        tracing::debug!(%peer, %error, "could not be told; tried again while it says that it has a part in Raft");
    }
}

async fn errand(shared: &Shared, peer: &PeerId, request: &Request) -> std::io::Result<Response> {
    transport::call(&shared.mesh, peer, control::PROTOCOL, request, ERRAND_TIMEOUT).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        assert_eq!([0, 1, 3, 40].map(pause_ms), [500, 1_000, 4_000, 60_000]);
    }

    #[test]
    fn agents_of_one_host_fail_together() {
        assert_eq!(host_of("10.0.0.1:50555"), host_of("10.0.0.1:50556"));
        assert_eq!(host_of("[fd00::1]:50555"), "fd00::1");
    }
}
