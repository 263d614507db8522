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
use super::legacy;
use super::shared::{Shared, StatusReport};
use super::views::role_of;
use super::voters::{Done, Voters};
use super::{Event, propose_all};
use crate::api::MemberState;
use crate::clock::now_ms;
use crate::consensus::Role;
use crate::engine::ballot::migration::{Migration, MigrationMember, Migrator};
use crate::engine::command::Command;
use crate::engine::id::{JobId, PeerId};
use crate::engine::member::Member;
use crate::engine::scheduler::{self, DroneView, LeaseAsked, Leases, Now, View};
use crate::engine::state::State;
use crate::tasks;
use crate::transport;

/// How long the commit of planned commands is awaited. Longer than an election, so that a plan of the last moment is not lost.
const PLAN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node may take for an errand.
const ERRAND_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts that a drone is given beyond its slots: the next one is there when one ends, and little has to be taken back when
/// another drone has nothing to do.
const PREFETCH: u32 = 1;
/// Interval of planning while there are jobs and the state does not move, milliseconds: leases, liveness and loads change beside it.
const PLAN_INTERVAL_MS: u64 = 200;
/// The same without a job that waits or runs, milliseconds. A new one moves the state.
const IDLE_PLAN_INTERVAL_MS: u64 = 2_000;
/// Assignments of one plan that the log names.
const ASSIGNED_SAID_MAX: usize = 16;
/// Before the next plan when one was not committed, milliseconds; doubles.
const PLAN_PAUSE_MS: u64 = 250;
const PLAN_PAUSE_MAX_MS: u64 = 5_000;
/// Interval of looking at roles, milliseconds; the policies are only asked, nothing is sent unless a role is no longer needed.
const ROLES_INTERVAL_MS: u64 = 60_000;

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
    /// The entry after which was planned last, and when.
    planned: (u64, u64),
    /// No plan before this time: the last one was not committed.
    plan_not_before_ms: u64,
    plan_pause_ms: u64,
    voters: Voters,
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
            planned: (0, 0),
            plan_not_before_ms: 0,
            plan_pause_ms: PLAN_PAUSE_MS,
            voters: Voters::default(),
            migrator: Migrator::new(),
            roles_at_ms: now_ms,
            role_since: BTreeMap::new(),
        }
    }
}

impl Coordinating {
    /// A node that does not lead.
    pub(super) fn new() -> Self {
        Self { term: None, settings: scheduler::Settings { prefetch: PREFETCH, ..scheduler::Settings::default() } }
    }

    /// Plans and proposes, while this node leads.
    pub(super) fn tick(&mut self, shared: &Arc<Shared>, now_ms: u64) {
        let status = shared.consensus.status();
        if status.role == Role::Leader && !status.quorum {
            // A moment without answers ends nothing: the leases of this term hold, and nothing is planned meanwhile.
            return;
        }
        if status.role != Role::Leader {
            if self.term.take().is_some() {
                tracing::info!("no longer coordinator");
                *shared.leases() = None;
                legacy::close_desk(shared);
            }
            return;
        }
        if self.term.as_ref().is_none_or(|term| term.number != status.term) {
            tracing::info!(term = status.term, "this node is the coordinator now");
            self.term = Some(Term::new(status.term, now_ms));
            *shared.leases() = Some(Leases::new(now_ms));
            legacy::open_desk(shared);
        }
        self.settings.legacy_lease_ms = shared.config.legacy_lease_ms;
        self.schedule(shared, now_ms);
        if let Some(term) = &mut self.term {
            term.voters.tick(shared, &status, (term.number, term.elected_at_ms), now_ms);
        }
        self.keep_roles(shared, now_ms);
    }

    /// Whether this node leads, as far as the last tick knows.
    pub(super) fn leads(&self) -> bool {
        self.term.is_some()
    }

    fn schedule(&mut self, shared: &Arc<Shared>, now_ms: u64) {
        let index = shared.read(State::applied_index);
        let interval_ms = if is_idle(shared) { IDLE_PLAN_INTERVAL_MS } else { PLAN_INTERVAL_MS };
        let ready = |term: &&mut Term| {
            let news = term.planned.0 != index || now_ms.saturating_sub(term.planned.1) >= interval_ms;
            !term.planning && news && now_ms >= term.plan_not_before_ms
        };
        let Some(term) = self.term.as_mut().filter(ready) else { return };
        term.planned = (index, now_ms);
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
        say_assigned(shared, &plan.report.assigned);
        for (job, why) in &plan.report.lost {
            tracing::warn!(%job, why, "giving up an attempt, or taking it back");
        }
        term.in_flight = plan.report.assigned;
        term.planning = true;
        let (shared, number) = (Arc::clone(shared), term.number);
        tasks::spawn("plan", async move {
            let proposed = propose_all(&shared, commands, PLAN_TIMEOUT).await;
            if let Err(error) = &proposed {
                tracing::warn!(%error, "a plan was not committed; the next one starts from the state");
            }
            let _ = shared.events.send(Event::Planned { term: number, committed: proposed.is_ok() }).await;
        });
    }

    /// The proposals of a plan were answered.
    pub(super) fn on_planned(&mut self, number: u64, committed: bool, now_ms: u64) {
        if let Some(term) = self.term.as_mut().filter(|term| term.number == number) {
            term.planning = false;
            term.in_flight.clear();
            term.plan_pause_ms =
                if committed { PLAN_PAUSE_MS } else { (term.plan_pause_ms * 2).min(PLAN_PAUSE_MAX_MS) };
            term.plan_not_before_ms = if committed { 0 } else { now_ms.saturating_add(term.plan_pause_ms) };
        }
    }

    /// The steps of a voter plan were done or failed.
    pub(super) fn on_voters_changed(&mut self, number: u64, done: Done, now_ms: u64) {
        if let Some(term) = self.term.as_mut().filter(|term| term.number == number) {
            term.voters.on_done(done, now_ms);
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

/// One line for each, unless they are so many that nobody reads them: `hive history` has them all.
fn say_assigned(shared: &Shared, assigned: &BTreeMap<JobId, PeerId>) {
    if assigned.len() > ASSIGNED_SAID_MAX {
        let drones: std::collections::BTreeSet<&PeerId> = assigned.values().collect();
        tracing::info!(jobs = assigned.len(), drones = drones.len(), "assigning");
        return;
    }
    for (job, drone) in assigned {
        tracing::info!(%job, drone = %shared.name_of(drone), "assigning");
    }
}

/// No job waits for a drone or is with one.
pub(super) fn is_idle(shared: &Shared) -> bool {
    shared.read(|state| {
        let counts = state.counts();
        counts.needed == 0 && counts.delegated == 0
    })
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
            ahead: 0,
            // Who is suspected gets nothing new: within two seconds it has objected or is down, and work given to it now would wait
            // for its lease to end.
            alive: liveness == MemberState::Alive,
            down_since_ms: since_ms.filter(|_| liveness == MemberState::Down),
            takes_builds: role.as_deref().and_then(|role| roles.get(role)).is_none_or(|role| role.takes_builds),
            slots: report.as_ref().and_then(|report| report.slots),
            disk_free_mb: report.as_ref().map(|report| report.disk_free_bytes >> 20),
            sync: report.as_ref().and_then(StatusReport::sync_by_now),
            disk_low: report.as_ref().is_some_and(|report| report.disk_low),
            load_percent: report.map_or(0, |report| report.load_centi / cores.max(1)),
        };
        (peer, drone)
    });
    let legacy = legacy::drone_views(shared);
    View { drones: drones.chain(legacy).collect(), in_flight: BTreeMap::new() }
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

/// Renews leases: what a drone asks of the coordinator. None when this node is not the coordinator right now.
pub(super) async fn lease(shared: &Shared, peer: &PeerId, asked: &[LeaseAsked]) -> Option<Vec<bool>> {
    shared.consensus.confirm_leader().await.ok()?;
    let mut leases = shared.leases();
    let leases = leases.as_mut()?;
    Some(shared.read(|state| leases.answer(state, peer, asked, now_ms())))
}
