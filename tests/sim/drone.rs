//! A node as a drone: the engine's desk, builds that take time and end in one of all ways, and an outbox that survives crashes.
//! The glue of `agent/drone.rs`; builds are made up here.

use hive::engine::command::{Command, Progress, Reply};
use hive::engine::drone::{Order, Start, Stop, interrupted, settles};
use hive::engine::id::{JobId, Sha256Hash, Token};
use hive::engine::job::{Artifact, FailureClass, JobSpec, Outcome, Work};
use hive::engine::plan::PLAN_NAME;
use hive::engine::scheduler::{self, LeaseAnswer, LeaseAsked};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::node::{Build, Ended, Ix, Msg, Phase, Purpose};
use super::world::{Event, World};

const LEASE_MS: u64 = 2_000;
const REPORT_MS: u64 = 5_000;
const OUTBOX_MS: u64 = 2_000;
const COPY_PATIENCE_MS: u64 = 20_000;

/// The bytes that an attempt produces: what another attempt produces has another digest, so that nobody can mix them up.
pub(crate) fn product(job: JobId, token: Token) -> Sha256Hash {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(job.0.as_bytes());
    bytes[16..24].copy_from_slice(&token.counter.to_be_bytes());
    bytes[24..].copy_from_slice(&token.epoch.0[..8]);
    Sha256Hash(bytes)
}

impl World {
    pub(crate) fn work(&mut self, ix: Ix) {
        if !self.nodes[ix].is_member() {
            return;
        }
        let mono = self.mono(ix);
        let node = &mut self.nodes[ix];
        let peer = node.peer.clone();
        let life = node.life.as_mut().expect("it lives");
        let mut orders = life.desk.follow(&life.state, &peer);
        orders.extend(life.desk.without_lease(mono));
        for order in orders {
            self.carry_out_order(ix, order);
        }
        self.ask_for_leases(ix);
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        if mono.saturating_sub(life.outbox_ms) >= OUTBOX_MS {
            life.outbox_ms = mono;
            let waiting: Vec<Token> = self.nodes[ix].disk.outbox.keys().copied().collect();
            for token in waiting {
                self.bring(ix, token);
            }
        }
    }

    fn carry_out_order(&mut self, ix: Ix, order: Order) {
        match order {
            Order::Start(start) => self.begin_build(ix, *start),
            Order::Stop(token, why) => {
                let boot = self.nodes[ix].boot;
                let ms = self.rng.random_range(5..800);
                let life = self.nodes[ix].life.as_mut().expect("it lives");
                let Some(build) = life.builds.get_mut(&token).filter(|build| build.phase != Phase::Stops) else {
                    return;
                };
                build.stopped = Some(why.clone());
                build.phase = Phase::Stops;
                self.counts.add("builds stopped", 1);
                self.say(|| format!("node {ix} stops {token}: {why:?}"));
                self.after(ms, Event::Build { node: ix, boot, token });
            }
            Order::Interrupted(job, token) => {
                self.counts.add("attempts cut off by a crash", 1);
                self.ended(ix, job, token, interrupted());
            }
        }
    }

    fn begin_build(&mut self, ix: Ix, start: Start) {
        let Start { token, attempt, spec } = start;
        // How it ends follows from job and attempt, not from when it runs.
        let mut fate = StdRng::seed_from_u64(
            self.seed ^ (spec.id.0.as_u128() as u64).wrapping_mul(0x9e37) ^ u64::from(attempt) << 48,
        );
        let boot = self.nodes[ix].boot;
        let (outcome, kills) = self.fate(&spec, token, &mut fate);
        let longest_ms = if fate.random_range(0..8) == 0 { 16_000 } else { 3_000 };
        let runs_ms = fate.random_range(200..longest_ms);
        let phase = Phase::Prepares;
        self.counts.add("builds started", 1);
        self.say(|| format!("node {ix} starts {} attempt {attempt} {token}", spec.target));
        let build = Build { spec, phase, fate: outcome, runs_ms, stopped: None, kills };
        self.nodes[ix].life.as_mut().expect("it lives").builds.insert(token, build);
        self.after(fate.random_range(5..300), Event::Build { node: ix, boot, token });
    }

    fn fate(&self, spec: &JobSpec, token: Token, fate: &mut StdRng) -> (Outcome, bool) {
        let failed = |class, reason: &str| Outcome::Failed { class, reason: reason.to_owned(), exit_code: Some(1) };
        let kind = fate.random_range(0..100);

        let outcome = match kind {
            _ if spec.target.starts_with("doomed") => failed(FailureClass::Build, "does not build"),
            0..4 => failed(FailureClass::Build, "does not build today"),
            4..8 => failed(FailureClass::Infra, "no space"),
            8..9 => failed(FailureClass::Policy, "masked"),
            9..12 => Outcome::Returned { reason: "no sandbox".to_owned() },
            12..14 => Outcome::NotUploaded { reason: "no way".to_owned() },
            _ => {
                let name = if matches!(spec.work, Work::Resolve { .. }) { PLAN_NAME } else { "a.tar" };
                Outcome::Succeeded {
                    artifacts: vec![Artifact { name: name.to_owned(), sha256: product(spec.id, token), size: 9 }],
                }
            }
        };
        (outcome, kind >= 97)
    }

    /// The next step of a build.
    pub(crate) fn on_build(&mut self, ix: Ix, token: Token) {
        let boot = self.nodes[ix].boot;
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let Some(build) = life.builds.get_mut(&token) else { return };
        let job = build.spec.id;
        match build.phase {
            Phase::Stops => {
                let outcome = match build.stopped.clone() {
                    Some(Stop::Cancelled(why)) => (FailureClass::Cancelled, why),
                    Some(Stop::Superseded) | None => {
                        (FailureClass::Stale, "a newer attempt replaced this one".to_owned())
                    }
                    Some(Stop::LeaseLost) => (FailureClass::Infra, "the lease was lost".to_owned()),
                };
                let outcome = Outcome::Failed { class: outcome.0, reason: outcome.1, exit_code: None };
                self.end_build(ix, token, outcome);
            }
            Phase::Prepares if matches!(build.fate, Outcome::Returned { .. }) => {
                let fate = build.fate.clone();
                self.end_build(ix, token, fate);
            }
            Phase::Prepares => {
                let progress = Progress::Building { pinned_commit: None };
                if life.desk.waits_for_permit(&token) {
                    build.phase = Phase::Waits;
                    let command = Command::Report { job, token, progress };
                    self.propose(ix, command, Purpose::Begin(job, token), REPORT_MS);
                } else {
                    self.propose(ix, Command::Report { job, token, progress }, Purpose::Progress, REPORT_MS);
                    self.run_program(ix, token);
                }
            }
            Phase::Waits => {}
            Phase::Runs if build.kills && !self.faults_off => {
                self.counts.add("drones killed by a build", 1);
                self.crash(ix, true);
                self.after(4_000, Event::Undo(super::schedule::Undo::Start(ix)));
            }
            Phase::Runs => {
                build.phase = Phase::Uploads;
                self.checker.effects.stopped(ix, job);
                self.propose(
                    ix,
                    Command::Report { job, token, progress: Progress::Uploading },
                    Purpose::Progress,
                    REPORT_MS,
                );
                let ms = self.rng.random_range(5..400);
                self.after(ms, Event::Build { node: ix, boot, token });
            }
            Phase::Uploads => {
                let fate = build.fate.clone();
                self.end_build(ix, token, fate);
            }
        }
    }

    fn run_program(&mut self, ix: Ix, token: Token) {
        let boot = self.nodes[ix].boot;
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let Some(build) = life.builds.get_mut(&token) else { return };
        build.phase = Phase::Runs;
        let (ms, spec) = (build.runs_ms, build.spec.clone());
        self.checker.effects.runs(&spec, token, ix);
        self.checker.dependencies.runs(&spec, &self.nodes[ix]);
        self.after(ms, Event::Build { node: ix, boot, token });
    }

    /// The hive has answered whether an attempt may have effects.
    pub(crate) fn on_begun(&mut self, ix: Ix, job: JobId, token: Token, reply: Option<Reply>) {
        let peer = self.nodes[ix].peer.clone();
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        if life.builds.get(&token).is_none_or(|build| build.phase != Phase::Waits) {
            return;
        }
        match reply {
            Some(Reply::Done) => self.run_program(ix, token),
            Some(_) => self.carry_out_order(ix, Order::Stop(token, Stop::Superseded)),
            None if life.state.live_attempts(&peer).any(|(_, live)| live.token == token) => {
                let progress = Progress::Building { pinned_commit: None };
                self.propose(ix, Command::Report { job, token, progress }, Purpose::Begin(job, token), REPORT_MS);
            }
            None => {}
        }
    }

    fn end_build(&mut self, ix: Ix, token: Token, outcome: Outcome) {
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let Some(build) = life.builds.remove(&token) else { return };
        self.checker.effects.stopped(ix, build.spec.id);
        self.ended(ix, build.spec.id, token, outcome);
    }

    /// Into the outbox first, then to the hive.
    fn ended(&mut self, ix: Ix, job: JobId, token: Token, outcome: Outcome) {
        let mono = self.mono(ix);
        let node = &mut self.nodes[ix];
        if let Outcome::Succeeded { artifacts } = &outcome {
            node.disk.blobs.extend(artifacts.iter().map(|artifact| artifact.sha256));
        }
        node.life.as_mut().expect("it lives").desk.ended(job, token, mono);
        node.disk.outbox.insert(token, Ended { job, outcome });
        self.bring(ix, token);
    }

    /// Copies the artifacts to another node, then reports.
    fn bring(&mut self, ix: Ix, token: Token) {
        let mono = self.mono(ix);
        let now_ms = self.now_ms;
        let node = &mut self.nodes[ix];
        let Some(ended) = node.disk.outbox.get(&token).cloned() else { return };
        let life = node.life.as_mut().expect("it lives");
        if !life.desk.begin_sending(token) {
            return;
        }
        let since_ms = life.desk.reporting_since_ms(&token).unwrap_or(0);
        let patient = mono.saturating_sub(since_ms) < COPY_PATIENCE_MS;
        let others: Vec<Ix> = (0..self.nodes.len())
            .filter(|other| *other != ix && self.net.seen(ix, *other, now_ms) == super::net::Seen::Alive)
            .collect();
        match &ended.outcome {
            Outcome::Succeeded { artifacts } if patient && !others.is_empty() => {
                let to = others[self.rng.random_range(0..others.len())];
                let artifact = artifacts[0].sha256;
                self.send(ix, to, Msg::Keep { artifact, token });
                let life = self.nodes[ix].life.as_mut().expect("it lives");
                life.copying.insert(token, now_ms + REPORT_MS);
                // Without an answer it is tried again with the next look at the outbox.
                life.desk.end_sending(&token);
            }
            _ => self.report_result(ix, token, ended),
        }
    }

    pub(crate) fn on_kept(&mut self, ix: Ix, artifact: Sha256Hash, token: Token) {
        let node = &mut self.nodes[ix];
        let Some(ended) = node.disk.outbox.get(&token).cloned() else { return };
        let life = node.life.as_mut().expect("it lives");
        let ours = matches!(&ended.outcome, Outcome::Succeeded { artifacts } if artifacts[0].sha256 == artifact);
        if life.copying.remove(&token).is_some() && ours && life.desk.begin_sending(token) {
            self.report_result(ix, token, ended);
        }
    }

    fn report_result(&mut self, ix: Ix, token: Token, ended: Ended) {
        let progress = Progress::Ended { outcome: ended.outcome };
        let command = Command::Report { job: ended.job, token, progress };
        self.propose(ix, command, Purpose::Result(token), REPORT_MS);
    }

    pub(crate) fn on_reported(&mut self, ix: Ix, token: Token, reply: Option<Reply>) {
        let node = &mut self.nodes[ix];
        node.life.as_mut().expect("it lives").desk.end_sending(&token);
        let Some(reply) = reply else { return };
        if settles(&reply) {
            if matches!(reply, Reply::Rejected { .. }) {
                self.counts.add("late results refused", 1);
            }
            self.counts.add("results reported", 1);
            if let Some(ended) = self.nodes[ix].disk.outbox.remove(&token) {
                let hive = self.nodes[ix].hive().expect("it was answered by one");
                self.checker.acknowledged.result(hive, ended.job, &ended.outcome, &reply);
            }
        }
    }

    fn ask_for_leases(&mut self, ix: Ix) {
        let mono = self.mono(ix);
        let node = &mut self.nodes[ix];
        let incarnation = node.disk.incarnation;
        let peer = node.peer.clone();
        let life = node.life.as_mut().expect("it lives");
        if let Some(sent_ms) = life.lease_sent_ms.filter(|sent_ms| mono >= sent_ms + LEASE_MS) {
            self.on_leased(ix, &[], None, sent_ms);
        }
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let Some(member) = life.state.member(&peer) else { return };
        let record = life.state.drone_record(&peer);
        let slots = scheduler::slots(&member.info.inventory, record, None, &scheduler::Settings::default());
        let asked = life.desk.to_ask(slots as usize, mono);
        if asked.is_empty() {
            return;
        }
        let leads = self.nodes[ix].leads();
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let Some(leader) = (if leads { Some(ix) } else { life.leader_hint.filter(|leader| *leader != ix) }) else {
            return;
        };
        life.desk.asked(mono);
        life.lease_sent_ms = Some(mono);
        self.send(ix, leader, Msg::Lease { asked, incarnation, sent_ms: mono });
    }

    pub(crate) fn on_leased(&mut self, ix: Ix, asked: &[LeaseAsked], valid: Option<Vec<bool>>, sent_ms: u64) {
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        if life.lease_sent_ms.take_if(|waiting| *waiting == sent_ms).is_none() {
            // Answered before, or given up: a stream that timed out says nothing any more.
            return;
        }
        let answer = valid.filter(|valid| valid.len() == asked.len()).map(|valid| {
            let answers = asked.iter().zip(valid);
            answers.map(|(asked, valid)| LeaseAnswer { token: asked.token, phase: asked.phase, valid }).collect()
        });
        let orders = life.desk.answered(&life.state, answer, sent_ms);
        for order in orders {
            self.carry_out_order(ix, order);
        }
    }
}
