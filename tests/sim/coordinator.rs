//! A node while it believes that it leads: plans of the real scheduler, leases, stale drafts, resolutions, voters. The glue of
//! `agent/coordinating.rs`, `drafts.rs`, `expanding.rs` and `voters.rs`.

use std::collections::{BTreeMap, BTreeSet};

use hive::engine::command::{Command, Reply};
use hive::engine::drafts::Drafts;
use hive::engine::id::SessionId;
use hive::engine::job::{Job, JobState};
use hive::engine::plan::{hand_in, resolved};
use hive::engine::scheduler::{self, DroneView, LeaseAsked, Leases, Now, Settings, View};
use hive::engine::state::State;
use hive::engine::voters::{self, Candidate, Membership, Step};
use rand::RngExt as _;

use super::net::Seen;
use super::node::{Asked, Expanding, Ix, Msg, Purpose, Term};
use super::raft::{Config, Payload, Raft};
use super::world::World;

const PLAN_MS: u64 = 2_000;
const PLAN_INTERVAL_MS: u64 = 200;
const IDLE_PLAN_INTERVAL_MS: u64 = 2_000;
const DRAFTS_MS: u64 = 5_000;
const VOTERS_MS: u64 = 500;
const ERRAND_MS: u64 = 4_000;
const BIND_MS: u64 = 2_000;

impl World {
    pub(crate) fn coordinate(&mut self, ix: Ix) {
        let (now_ms, mono) = (self.now_ms, self.mono(ix));
        let node = &mut self.nodes[ix];
        let life = node.life.as_mut().expect("it lives");
        let Some(raft) = node.disk.raft.as_ref().filter(|raft| raft.is_leader()) else {
            life.term = None;
            life.lease_questions.clear();
            return;
        };
        if !raft.has_quorum(now_ms) {
            return;
        }
        if life.term.as_ref().is_none_or(|term| term.number != raft.term) {
            let number = raft.term;
            life.term = Some(Term {
                number,
                elected_ms: mono,
                leases: Leases::new(mono),
                in_flight: BTreeMap::new(),
                planning: BTreeSet::new(),
                planned: (0, 0),
                drafts: Drafts::default(),
                drafts_ms: 0,
                migrator: Default::default(),
                roles_ms: mono,
                role_since: BTreeMap::new(),
                expanding: BTreeMap::new(),
                voters_ms: 0,
                voters_busy_until_ms: 0,
            });
            self.counts.add("coordinators", 1);
        }
        self.plan(ix);
        self.keep_drafts(ix);
        self.expand(ix);
        self.keep_voters(ix);
        self.keep_roles(ix);
    }

    fn view(&self, ix: Ix) -> View {
        let state = &self.nodes[ix].life.as_ref().expect("it lives").state;
        let mut view = View::default();
        for member in state.members().filter(|member| !member.left) {
            let peer = &member.info.peer_id;
            let Some(of) = self.ix_of(peer) else { continue };
            let seen = self.net.seen(ix, of, self.now_ms);
            let role = member.role.as_ref().and_then(|claim| self.roles.get(&claim.role));
            let down_since_ms = if let Seen::Down(at_ms) = seen { Some(self.mono_of(ix, at_ms)) } else { None };
            let drone = DroneView {
                ahead: 0,
                alive: seen == Seen::Alive,
                down_since_ms,
                takes_builds: role.is_none_or(|role| role.takes_builds),
                slots: None,
                load_percent: 0,
                disk_free_mb: Some(100_000),
                disk_low: self.nodes[of].disk_low,
                sync: None,
            };
            view.drones.insert(peer.clone(), drone);
        }
        view
    }

    fn plan(&mut self, ix: Ix) {
        let mono = self.mono(ix);
        let applied_at = self.nodes[ix].life.as_ref().expect("it lives").applied_at_ms;
        let since_ms = mono.saturating_sub(applied_at);
        let mut view = self.view(ix);
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let Some(term) = life.term.as_mut() else { return };
        let index = life.state.applied_index();
        let counts = life.state.counts();
        let idle = counts.needed == 0 && counts.delegated == 0;
        let interval_ms = if idle { IDLE_PLAN_INTERVAL_MS } else { PLAN_INTERVAL_MS };
        let news = term.planned.0 != index || mono.saturating_sub(term.planned.1) >= interval_ms;
        if !term.planning.is_empty() || !news {
            return;
        }
        term.planned = (index, mono);
        view.in_flight.clone_from(&term.in_flight);
        let now = Now { now_ms: mono, hive_ms: life.state.hive_time_ms().saturating_add(since_ms) };
        let settings = Settings { prefetch: 1, ..Settings::default() };
        let plan = scheduler::plan(&life.state, &view, &mut term.leases, now, &settings);
        self.counts.add("plans", 1);
        if plan.commands.is_empty() {
            return;
        }
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        life.term.as_mut().expect("it leads").in_flight = plan.report.assigned;
        for command in plan.commands {
            let sequence = self.propose(ix, command, Purpose::Plan, PLAN_MS);
            let life = self.nodes[ix].life.as_mut().expect("it lives");
            if life.pending.contains_key(&sequence)
                && let Some(term) = &mut life.term
            {
                term.planning.insert(sequence);
            }
        }
    }

    pub(crate) fn on_planned(&mut self, ix: Ix, sequence: u64) {
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        if let Some(term) = &mut life.term {
            term.planning.remove(&sequence);
            if term.planning.is_empty() {
                term.in_flight.clear();
            }
        }
    }

    /// A drone asks about its attempts; it is answered when a majority has confirmed that this node still leads.
    pub(crate) fn on_lease_question(
        &mut self,
        ix: Ix,
        from: Ix,
        asked: Vec<LeaseAsked>,
        incarnation: u64,
        sent_ms: u64,
    ) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[ix];
        let life = node.life.as_mut().expect("it lives");
        let Some(raft) = node.disk.raft.as_mut().filter(|raft| raft.is_leader()) else {
            return self.send(ix, from, Msg::Leased { asked, valid: None, incarnation, sent_ms });
        };
        raft.beat(now_ms);
        let (round, commit, term) = (raft.round, raft.commit, raft.term);
        life.lease_questions.push(Asked { from, asked, incarnation, sent_ms, round, commit, term });
    }

    pub(crate) fn answer_lease_questions(&mut self, ix: Ix) {
        let mono = self.mono(ix);
        let node = &mut self.nodes[ix];
        let life = node.life.as_mut().expect("it lives");
        if life.lease_questions.is_empty() {
            return;
        }
        let Some(raft) = node.disk.raft.as_ref().filter(|raft| raft.is_leader()) else {
            life.lease_questions.clear();
            return;
        };
        let ready = |asked: &mut Asked| {
            asked.term == raft.term && raft.confirmed(asked.round) && life.applied.0 >= asked.commit
        };
        let ready: Vec<Asked> = life.lease_questions.extract_if(.., ready).collect();
        let number = raft.term;
        for Asked { from, asked, incarnation, sent_ms, .. } in ready {
            let drone = self.nodes[from].peer.clone();
            let life = self.nodes[ix].life.as_mut().expect("it lives");
            let valid = life
                .term
                .as_mut()
                .filter(|term| term.number == number)
                .map(|term| term.leases.answer(&life.state, &drone, &asked, mono));
            self.counts.add("leases asked for", asked.len() as u64);
            self.send(ix, from, Msg::Leased { asked, valid, incarnation, sent_ms });
        }
    }

    fn keep_drafts(&mut self, ix: Ix) {
        let mono = self.mono(ix);
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let Some(term) = &mut life.term else { return };
        if mono.saturating_sub(term.drafts_ms) < DRAFTS_MS {
            return;
        }
        term.drafts_ms = mono;
        for session in term.drafts.look(&life.state, mono) {
            self.counts.add("stale drafts taken back", 1);
            let command = Command::DropSession { session, reason: "its import was not finished".to_owned() };
            self.propose(ix, command, Purpose::Draft, 4_000);
        }
    }

    /// Makes jobs of what resolutions found.
    fn expand(&mut self, ix: Ix) {
        let now_ms = self.now_ms;
        let me = self.nodes[ix].peer.clone();
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let Some(term) = &mut life.term else { return };
        term.expanding.retain(|_, expanding| now_ms < expanding.until_ms);
        let over = resolved(&life.state);
        for (session, resolution) in over {
            let life = self.nodes[ix].life.as_ref().expect("it lives");
            if life.term.as_ref().is_none_or(|term| term.expanding.contains_key(&session)) {
                continue;
            }
            let (commands, then) = expansion(&life.state, session, &resolution, &me);
            self.say(|| format!("node {ix} expands {session}"));
            let mut open = BTreeSet::new();
            for command in commands {
                open.insert(self.propose(ix, command, Purpose::Expand(session), 10_000));
            }
            let expanding = Expanding { open, then: Some(then), until_ms: now_ms + 20_000 };
            let life = self.nodes[ix].life.as_mut().expect("it lives");
            life.term.as_mut().expect("it leads").expanding.insert(session, expanding);
            self.continue_expanding(ix, session);
        }
    }

    pub(crate) fn on_expanded(&mut self, ix: Ix, session: SessionId, sequence: u64, reply: Option<&Reply>) {
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let Some(term) = &mut life.term else { return };
        let Some(expanding) = term.expanding.get_mut(&session) else { return };
        expanding.open.remove(&sequence);
        if reply.is_none_or(|reply| matches!(reply, Reply::Rejected { .. })) {
            // Begun anew at the next look.
            term.expanding.remove(&session);
            return;
        }
        self.continue_expanding(ix, session);
    }

    fn continue_expanding(&mut self, ix: Ix, session: SessionId) {
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let Some(term) = &mut life.term else { return };
        let Some(expanding) = term.expanding.get_mut(&session).filter(|expanding| expanding.open.is_empty()) else {
            return;
        };
        let Some(then) = expanding.then.take() else {
            term.expanding.remove(&session);
            return;
        };
        let sequence = self.propose(ix, then, Purpose::Expand(session), 10_000);
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        if let Some(expanding) = life.term.as_mut().and_then(|term| term.expanding.get_mut(&session)) {
            expanding.open.insert(sequence);
        }
    }

    fn keep_voters(&mut self, ix: Ix) {
        let (now_ms, mono) = (self.now_ms, self.mono(ix));
        let node = &self.nodes[ix];
        let life = node.life.as_ref().expect("it lives");
        let (Some(raft), Some(term)) = (&node.disk.raft, &life.term) else { return };
        if mono.saturating_sub(term.voters_ms) < VOTERS_MS || now_ms < term.voters_busy_until_ms || !raft.may_change() {
            return;
        }
        let elected_ms = term.elected_ms;
        let config = raft.config().clone();
        let members: Vec<_> = life.state.members().filter(|member| !member.left).cloned().collect();
        let candidates: Vec<Candidate> =
            members.iter().filter_map(|member| self.candidate(ix, raft, member, elected_ms)).collect();
        let membership = Membership {
            voters: config.sets.last().cloned().unwrap_or_default(),
            learners: config.learners.clone(),
            joint_with: None,
            leader: raft.id,
        };
        let strays: Vec<(Ix, u64)> = (0..self.nodes.len())
            .filter(|other| *other != ix && self.net.seen(ix, *other, now_ms) == Seen::Alive)
            .filter_map(|other| Some((other, self.nodes[other].disk.raft.as_ref()?.id)))
            .filter(|(other, id)| {
                let bound =
                    life.state.member(&self.nodes[*other].peer).is_some_and(|member| member.raft_id == Some(*id));
                !bound && !config.nodes.contains_key(id) && self.nodes[*other].hive() == node.hive()
            })
            .collect();
        let plan = voters::plan(&candidates, &membership, mono, &voters::Settings::default());
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let term = life.term.as_mut().expect("it leads");
        term.voters_ms = mono;
        if !plan.steps.is_empty() {
            term.voters_busy_until_ms = now_ms + 1_000;
        }
        for (other, raft_id) in strays {
            self.send(ix, other, Msg::Retire { raft_id });
        }
        for (step, why) in plan.steps {
            self.say(|| format!("node {ix} changes voters: {step:?}, {why}"));
            self.counts.add("changes of voters", 1);
            self.carry_out(ix, &config, step);
        }
    }

    fn candidate(
        &self,
        ix: Ix,
        raft: &Raft,
        member: &hive::engine::member::Member,
        elected_ms: u64,
    ) -> Option<Candidate> {
        let of = self.ix_of(&member.info.peer_id)?;
        let seen = self.net.seen(ix, of, self.now_ms);
        let own = of == ix;
        let held = self.nodes[of].disk.raft.as_ref().map(|raft| raft.id);
        let bound =
            member.raft_id.or_else(|| raft.config().nodes.iter().find(|(_, node)| **node == of).map(|(id, _)| *id));
        // A member that says it does not have the id that is bound to it has lost it.
        let raft_id = if own { Some(raft.id) } else { bound.filter(|id| seen != Seen::Alive || held == Some(*id)) };
        let progress = raft_id.and_then(|id| raft.peers.get(&id));
        let silent_ms = match progress.and_then(|progress| progress.answered_ms) {
            Some(at_ms) => self.now_ms.saturating_sub(at_ms),
            None => 0,
        };
        let down_since_ms = match seen {
            Seen::Down(at_ms) if !own => Some(self.mono_of(ix, at_ms)),
            Seen::Alive | Seen::Suspect | Seen::Down(_) => {
                (silent_ms > 10_000 && !own).then(|| self.mono_of(ix, self.now_ms - silent_ms))
            }
        };
        let alive_since = self.net.alive_since(ix, of).map_or(elected_ms, |at_ms| self.mono_of(ix, at_ms));
        let slow_us = self.nodes[of].disk_ms * 1_000;
        Some(Candidate {
            peer_id: member.info.peer_id.clone(),
            raft_id,
            join_ordinal: member.join_ordinal,
            domain: member.info.addresses.first().cloned().unwrap_or_default(),
            rank: member.role.as_ref().and_then(|claim| self.roles.get(&claim.role)).map_or(u32::MAX, |role| role.rank),
            alive_since_ms: Some(alive_since).filter(|_| down_since_ms.is_none()),
            down_since_ms,
            fsync_p99_us: Some(slow_us),
            disk_low: self.nodes[of].disk_low,
            caught_up: silent_ms < 1_500
                && progress.is_some_and(|progress| progress.matched + 256 >= raft.commit && progress.matched > 0),
        })
    }

    fn carry_out(&mut self, ix: Ix, config: &Config, step: Step) {
        let now_ms = self.now_ms;
        let change = |mut config: Config, edit: &dyn Fn(&mut Config)| {
            edit(&mut config);
            Payload::Config(config)
        };
        let payload = match step {
            Step::Prepare { peer_id } => {
                if let Some(to) = self.ix_of(&peer_id) {
                    self.send(ix, to, Msg::Prepare);
                }
                let life = self.nodes[ix].life.as_mut().expect("it lives");
                life.term.as_mut().expect("it leads").voters_busy_until_ms = now_ms + ERRAND_MS;
                return;
            }
            Step::AddStandby { peer_id, raft_id } => {
                let Some(node) = self.ix_of(&peer_id) else { return };
                change(config.clone(), &|config| {
                    config.learners.insert(raft_id);
                    config.nodes.insert(raft_id, node);
                })
            }
            Step::ChangeVoters { voters } | Step::FinishJoint { voters } => change(config.clone(), &|config| {
                config.learners.retain(|id| !voters.contains(id));
                config.sets = vec![config.sets[0].clone(), voters.clone()];
            }),
            Step::RemoveLearner { raft_id } => change(config.clone(), &|config| {
                config.learners.remove(&raft_id);
                config.nodes.remove(&raft_id);
            }),
            Step::Release { peer_id } => {
                self.propose(ix, Command::BindReplica { peer_id, raft_id: None }, Purpose::Bind, BIND_MS);
                return;
            }
            Step::TransferLeadership { to } => {
                if let Some(raft) = &mut self.nodes[ix].disk.raft {
                    raft.transfer(to);
                }
                return;
            }
        };
        if let Some(raft) = self.nodes[ix].disk.raft.as_mut().filter(|raft| raft.may_change()) {
            raft.append(payload);
            raft.beat(now_ms);
        }
    }

    pub(crate) fn on_prepare(&mut self, ix: Ix, from: Ix) {
        let fresh = self.rng.random();
        let node = &mut self.nodes[ix];
        if node.disk.raft.is_none() {
            // An observer's copy is where the new log begins.
            node.sync_rows(node.disk.unsynced.len());
            node.disk.raft = Some(Raft::joining(fresh, node.disk.durable));
            self.checker.log.register(fresh, ix);
        }
        if let Some(raft_id) = self.nodes[ix].disk.raft.as_ref().map(|raft| raft.id) {
            self.send(ix, from, Msg::Prepared { raft_id });
        }
    }

    pub(crate) fn on_prepared(&mut self, ix: Ix, from: Ix, raft_id: u64) {
        let peer_id = self.nodes[from].peer.clone();
        if self.nodes[ix].leads() {
            self.propose(ix, Command::BindReplica { peer_id, raft_id: Some(raft_id) }, Purpose::Bind, BIND_MS);
        }
    }
}

/// What makes jobs of a resolution, and what comes after all of that is committed.
fn expansion(
    state: &State,
    session: SessionId,
    resolution: &Job,
    me: &hive::engine::id::PeerId,
) -> (Vec<Command>, Command) {
    let drop = |reason: String| (Vec::new(), Command::DropSession { session, reason });
    if resolution.state != JobState::Received {
        return drop(resolution.reason.clone().unwrap_or_else(|| "the resolution did not end well".to_owned()));
    }
    // The plan follows from the job, as if it had been fetched.
    match super::clients::plan_of(resolution).jobs(session, &resolution.spec) {
        Ok(jobs) => {
            let about = state.session(&session).map(|session| session.about.clone()).unwrap_or_default();
            hand_in(session, &about, me, &jobs)
        }
        Err(error) => drop(format!("what the resolution found cannot be used: {error}")),
    }
}
