//! This node as the coordinator: runs the planners while it leads the log, proposes what they say, does their errands.
//!
//! ```text
//!   state, liveness, leases ──► scheduler ──► Assign, Lose
//!   liveness, progress      ──► voters    ──► Prepare, AddStandby, ChangeVoters …
//!   policy, census          ──► migration ──► "ask again"
//! ```
//!
//! Nothing here outlives the term: leases are memory, and a new coordinator counts them as renewed. Never done here: choosing
//! (that is the planners'), or acting on a node other than by asking it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::advising::advise_about;
use super::control::{self, Request, Response};
use super::shared::Shared;
use super::views::role_of;
use super::{Event, propose_all};
use crate::api::MemberState;
use crate::clock::now_ms;
use crate::consensus::{ConsensusStatus, Role};
use crate::engine::ballot::migration::{Migration, MigrationMember, Migrator};
use crate::engine::command::Command;
use crate::engine::id::{JobId, PeerId};
use crate::engine::member::Member;
use crate::engine::scheduler::{self, DroneView, Leases, Now, View};
use crate::engine::state::State;
use crate::engine::voters::{self, Candidate, Membership, Step, VoterPlan};
use crate::tasks;
use crate::transport;

/// How long the commit of planned commands is awaited. Longer than an election, so that a plan of the last moment is not lost.
const PLAN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node may take for an errand.
const ERRAND_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of looking at voters, milliseconds.
const VOTERS_INTERVAL_MS: u64 = 250;
/// Interval of looking at roles, milliseconds; the policies are only asked, nothing is sent unless a role is no longer needed.
const ROLES_INTERVAL_MS: u64 = 60_000;
/// A learner that lacks at most so many entries has caught up.
const CAUGHT_UP_ENTRIES: u64 = 256;

/// The coordinator's memory of one term.
pub(super) struct Coordinating {
    term: Option<Term>,
    settings: scheduler::Settings,
}

struct Term {
    number: u64,
    elected_at_ms: u64,
    in_flight: BTreeMap<JobId, PeerId>,
    planning: bool,
    voters_busy: bool,
    voters_at_ms: u64,
    migrator: Migrator,
    roles_at_ms: u64,
    role_since: BTreeMap<PeerId, (u64, u64)>,
}

impl Term {
    fn new(number: u64, now_ms: u64) -> Self {
        Self {
            number,
            elected_at_ms: now_ms,
            in_flight: BTreeMap::new(),
            planning: false,
            voters_busy: false,
            voters_at_ms: 0,
            migrator: Migrator::new(),
            roles_at_ms: now_ms,
            role_since: BTreeMap::new(),
        }
    }
}

impl Coordinating {
    /// A node that does not lead.
    pub(super) fn new() -> Self {
        Self { term: None, settings: scheduler::Settings::default() }
    }

    /// Plans and proposes, while this node leads.
    pub(super) fn tick(&mut self, shared: &Arc<Shared>, now_ms: u64) {
        let status = shared.consensus.status();
        if status.role != Role::Leader || !status.quorum {
            if self.term.take().is_some() {
                tracing::info!("no longer coordinator");
                *shared.leases() = None;
            }
            return;
        }
        if self.term.as_ref().is_none_or(|term| term.number != status.term) {
            tracing::info!(term = status.term, "this node is the coordinator now");
            self.term = Some(Term::new(status.term, now_ms));
            *shared.leases() = Some(Leases::new(now_ms));
        }
        self.schedule(shared, now_ms);
        self.keep_voters(shared, &status, now_ms);
        self.keep_roles(shared, now_ms);
    }

    fn schedule(&mut self, shared: &Arc<Shared>, now_ms: u64) {
        let Some(term) = self.term.as_mut().filter(|term| !term.planning) else { return };
        let mut view = view(shared);
        view.in_flight.clone_from(&term.in_flight);
        let now = Now { now_ms, hive_ms: shared.hive_ms(now_ms) };
        let settings = &self.settings;
        let plan = {
            let mut leases = shared.leases();
            let Some(leases) = leases.as_mut() else { return };
            shared.read(|state| scheduler::plan(state, &view, leases, now, settings))
        };
        let mut commands = plan.commands;
        commands.extend(shared.read(raise_feature_level));
        if commands.is_empty() {
            return;
        }
        for (job, drone) in &plan.report.assigned {
            tracing::info!(%job, drone = %shared.name_of(drone), "assigning");
        }
        for (job, why) in &plan.report.lost {
            tracing::warn!(%job, why, "giving up an attempt");
        }
        term.in_flight = plan.report.assigned;
        term.planning = true;
        let (shared, number) = (Arc::clone(shared), term.number);
        tasks::spawn("plan", async move {
            if let Err(error) = propose_all(&shared, commands, PLAN_TIMEOUT).await {
                tracing::warn!(%error, "a plan was not committed; the next one starts from the state");
            }
            let _ = shared.events.send(Event::Planned { term: number }).await;
        });
    }

    /// The proposals of a plan were answered.
    pub(super) fn on_planned(&mut self, number: u64) {
        if let Some(term) = self.term.as_mut().filter(|term| term.number == number) {
            term.planning = false;
            term.in_flight.clear();
        }
    }

    fn keep_voters(&mut self, shared: &Arc<Shared>, status: &ConsensusStatus, now_ms: u64) {
        let Some(term) = self.term.as_mut() else { return };
        let due = now_ms.saturating_sub(term.voters_at_ms) >= VOTERS_INTERVAL_MS;
        let Some(leader) = status.raft_id.filter(|_| due && !term.voters_busy && !status.joint) else { return };
        term.voters_at_ms = now_ms;
        let membership = Membership {
            voters: status.voters.iter().map(|member| member.raft_id).collect(),
            learners: status.standbys.iter().map(|member| member.raft_id).collect(),
            joint_with: None,
            leader,
        };
        let candidates = candidates(shared, status, term.elected_at_ms);
        let plan = voters::plan(&candidates, &membership, now_ms, &voters::Settings::default());
        if plan.steps.is_empty() {
            return;
        }
        term.voters_busy = true;
        let (shared, number) = (Arc::clone(shared), term.number);
        tasks::spawn("voters", async move {
            carry_out(&shared, plan).await;
            let _ = shared.events.send(Event::VotersChanged { term: number }).await;
        });
    }

    /// The steps of a voter plan were done or failed.
    pub(super) fn on_voters_changed(&mut self, number: u64) {
        if let Some(term) = self.term.as_mut().filter(|term| term.number == number) {
            term.voters_busy = false;
        }
    }

    fn keep_roles(&mut self, shared: &Arc<Shared>, now_ms: u64) {
        let Some(term) = self.term.as_mut() else { return };
        let interval_ms = ROLES_INTERVAL_MS.min(shared.config.reballot_interval_ms);
        if now_ms.saturating_sub(term.roles_at_ms) < interval_ms {
            return;
        }
        term.roles_at_ms = now_ms;
        let members: Vec<Member> =
            shared.read(|state| state.members().filter(|member| !member.left).cloned().collect());
        let reviewed: Vec<MigrationMember> = members
            .iter()
            .map(|member| {
                let peer = member.info.peer_id.clone();
                let generation = member.role.as_ref().map_or(0, |claim| claim.generation);
                let known = term.role_since.entry(peer.clone()).or_insert((generation, now_ms));
                if known.0 != generation {
                    *known = (generation, now_ms);
                }
                let idle = shared.liveness(&peer) == MemberState::Alive
                    && shared.read(|state| state.live_attempts_len(&peer)) == 0;
                let advice = advise_about(shared, Some(&peer), member.info.inventory.clone());
                MigrationMember { peer, role: role_of(member), generation, since_ms: known.1, idle, advice }
            })
            .collect();
        let roles = shared.definitions(|definitions| definitions.roles());
        let review = term.migrator.review(now_ms, &reviewed, &roles);
        if let Some(migration) = review.ask {
            ask_again(shared, migration);
        }
    }
}

fn raise_feature_level(state: &State) -> Option<Command> {
    let supported = state.members().filter(|member| !member.left).map(|member| member.info.feature_level).min()?;
    (supported > state.feature_level()).then_some(Command::RaiseFeatureLevel { level: supported })
}

/// What this node knows of all drones beside the state. Any node can build it, so any node can explain.
pub(super) fn view(shared: &Shared) -> View {
    let roles = shared.definitions(|definitions| definitions.roles());
    let members: Vec<(PeerId, Option<String>, u32)> = shared.read(|state| {
        let present = state.members().filter(|member| !member.left);
        present.map(|member| (member.info.peer_id.clone(), role_of(member), member.info.inventory.cpu_cores)).collect()
    });
    let drones = members.into_iter().map(|(peer, role, cores)| {
        let liveness = shared.liveness(&peer);
        let (since_ms, report) = shared
            .soft(|soft| (soft.liveness.get(&peer).map(|known| known.since_ms), soft.reports.get(&peer).cloned()));
        let own = peer == shared.me.peer_id;
        let report = if own { Some(super::views::own_report(shared)) } else { report };
        let drone = DroneView {
            alive: matches!(liveness, MemberState::Alive | MemberState::Suspect),
            down_since_ms: since_ms.filter(|_| liveness == MemberState::Down),
            takes_builds: role.as_deref().and_then(|role| roles.get(role)).is_none_or(|role| role.takes_builds),
            slots: report.as_ref().and_then(|report| report.slots),
            load_percent: report.map_or(0, |report| report.load_centi / cores.max(1)),
        };
        (peer, drone)
    });
    View { drones: drones.collect(), in_flight: BTreeMap::new() }
}

fn candidates(shared: &Shared, status: &ConsensusStatus, elected_at_ms: u64) -> Vec<Candidate> {
    let members: Vec<Member> = shared.read(|state| state.members().filter(|member| !member.left).cloned().collect());
    let committed = status.committed.unwrap_or(0);
    let candidate = |member: &Member| {
        let peer = &member.info.peer_id;
        let own = *peer == shared.me.peer_id;
        let liveness = shared.liveness(peer);
        let (since_ms, report) =
            shared.soft(|soft| (soft.liveness.get(peer).map(|known| known.since_ms), soft.reports.get(peer).cloned()));
        let since_ms = since_ms.unwrap_or(elected_at_ms);
        let progress = status.progress.iter().find(|progress| progress.member.peer_id == *peer);
        let matched = progress.and_then(|progress| progress.matched).unwrap_or(0);
        Candidate {
            peer_id: peer.clone(),
            raft_id: member.raft_id.or_else(|| raft_id_in(status, peer)),
            join_ordinal: member.join_ordinal,
            domain: member.info.addresses.first().cloned().unwrap_or_default(),
            rank: 0,
            alive_since_ms: match liveness {
                MemberState::Alive if own => Some(shared.me.started_ms),
                MemberState::Alive | MemberState::Suspect => Some(since_ms),
                MemberState::Down | MemberState::Left | MemberState::Legacy => None,
            },
            down_since_ms: (liveness == MemberState::Down).then_some(since_ms),
            fsync_p99_us: report.and_then(|report| report.commit_p99_ms).map(|ms| ms.saturating_mul(1_000)),
            caught_up: matched + CAUGHT_UP_ENTRIES >= committed,
        }
    };
    members.iter().map(candidate).collect()
}

/// The founder's Raft id is in the membership from the first entry on, before any `BindReplica`.
fn raft_id_in(status: &ConsensusStatus, peer: &PeerId) -> Option<u64> {
    status.voters.iter().chain(&status.standbys).find(|member| member.peer_id == *peer).map(|member| member.raft_id)
}

async fn carry_out(shared: &Arc<Shared>, plan: VoterPlan) {
    for (step, why) in plan.steps {
        tracing::info!(?step, why, "changing who votes");
        if let Err(error) = carry_out_step(shared, step).await {
            tracing::warn!(error = %format!("{error:#}"), "a change of voters did not work; planned again");
            return;
        }
    }
}

async fn carry_out_step(shared: &Arc<Shared>, step: Step) -> anyhow::Result<()> {
    match step {
        Step::Prepare { peer_id } => {
            let answer = errand(shared, &peer_id, &Request::PrepareReplica).await?;
            let Response::Replica { raft_id } = answer else { anyhow::bail!("{peer_id} answered {answer:?}") };
            let command = Command::BindReplica { peer_id, raft_id: Some(raft_id) };
            propose_all(shared, vec![command], PLAN_TIMEOUT).await?;
        }
        Step::AddStandby { peer_id, raft_id } => shared.consensus.add_standby(raft_id, peer_id).await?,
        Step::ChangeVoters { voters } | Step::FinishJoint { voters } => shared.consensus.change_voters(voters).await?,
        Step::RemoveLearner { raft_id } => shared.consensus.remove_standby(raft_id).await?,
        Step::Release { peer_id } => {
            let command = Command::BindReplica { peer_id: peer_id.clone(), raft_id: None };
            propose_all(shared, vec![command], PLAN_TIMEOUT).await?;
            if let Err(error) = errand(shared, &peer_id, &Request::RetireReplica).await {
                tracing::debug!(%peer_id, %error, "not told yet that it is an observer now; told when it connects");
            }
        }
        Step::TransferLeadership { to } => {
            let status = shared.consensus.status();
            let peer = status.voters.iter().find(|voter| voter.raft_id == to).map(|voter| voter.peer_id.clone());
            shared.consensus.transfer_leadership(peer, Duration::from_secs(1)).await?;
        }
    }
    Ok(())
}

async fn errand(shared: &Shared, peer: &PeerId, request: &Request) -> std::io::Result<Response> {
    transport::call(&shared.mesh, peer, control::PROTOCOL, request, ERRAND_TIMEOUT).await
}

fn ask_again(shared: &Arc<Shared>, migration: Migration) {
    tracing::info!(node = %shared.name_of(&migration.peer), from = migration.from, to = migration.to, why = migration.why, "asking a node to ask again");
    let shared = Arc::clone(shared);
    tasks::spawn("migration", async move {
        let request = Request::AskAgain { generation: migration.generation, reason: migration.why };
        if migration.peer == shared.me.peer_id {
            let _ = shared.events.send(Event::AskAgain { generation: migration.generation }).await;
        } else if let Err(error) = errand(&shared, &migration.peer, &request).await {
            tracing::debug!(%error, "the node could not be asked; reviewed again later");
        }
    });
}

/// A member without a Raft id that still has a Raft directory was released while it was away.
pub(super) fn tell_released(shared: &Arc<Shared>, peer: &PeerId) {
    let status = shared.consensus.status();
    let released = shared.read(|state| state.member(peer).is_some_and(|member| member.raft_id.is_none()))
        && raft_id_in(&status, peer).is_none();
    if status.role != Role::Leader || !released {
        return;
    }
    let (shared, peer) = (Arc::clone(shared), peer.clone());
    tasks::spawn("release", async move {
        if let Err(error) = errand(&shared, &peer, &Request::RetireReplica).await {
            tracing::debug!(%peer, %error, "could not be told that it is an observer");
        }
    });
}

/// Renews leases: what a drone asks of the coordinator. None when this node is not the coordinator right now.
pub(super) async fn lease(
    shared: &Shared,
    peer: &PeerId,
    attempts: &[(JobId, crate::engine::id::Token)],
) -> Option<Vec<bool>> {
    shared.consensus.confirm_leader().await.ok()?;
    let valid: Vec<bool> = shared.read(|state| {
        let live = |job: &JobId, token| {
            let attempt = state.job(job).and_then(|job| job.live_attempt());
            attempt.is_some_and(|attempt| attempt.token == token && attempt.node == *peer)
        };
        attempts.iter().map(|(job, token)| live(job, *token)).collect()
    });
    let renewed = attempts.iter().zip(&valid).filter(|(_, valid)| **valid).map(|((_, token), _)| *token);
    shared.leases().as_mut()?.renew(renewed, now_ms());
    Some(valid)
}
