//! Who uses the hive: people and programs at any node that submit, import, resolve, cancel and control, and remember what they
//! were told. An answer that never came may have happened; an answer that came has.

use std::collections::{BTreeMap, BTreeSet};

use hive::engine::command::{Command, Reply};
use hive::engine::control::{Control, DroneChange, Jobs};
use hive::engine::id::{JobId, SessionId, Sha256Hash};
use hive::engine::import::Lines;
use hive::engine::job::{Job, JobSpec, Source, Work};
use hive::engine::plan::{Plan, Planned, PlannedKind};
use hive::engine::session::SessionAbout;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::node::{Import, Ix, Purpose};
use super::schedule::Action;
use super::world::{Counts, World, job_id, session_id};

/// How long a client waits for an answer, milliseconds.
const PATIENCE_MS: u64 = 8_000;

#[derive(Debug, Default)]
pub(crate) struct Clients {
    last_job: u64,
    last_session: u64,
    last_op: u64,
    /// Everything that was ever asked for.
    pub(crate) specs: Vec<(SessionId, JobSpec)>,
    pub(crate) sessions: Vec<SessionId>,
    asked: BTreeMap<u64, &'static str>,
    pub(crate) unknown: u64,
}

impl Clients {
    pub(crate) fn answered(&mut self, op: u64, reply: Option<&Reply>, counts: &mut Counts) {
        let Some(what) = self.asked.remove(&op) else { return };
        match reply {
            Some(Reply::Rejected { .. }) => counts.add("requests refused", 1),
            Some(_) => counts.add(what, 1),
            None => {
                self.unknown += 1;
                counts.add("requests without an answer", 1);
            }
        }
    }

    pub(crate) fn on_crash<'a>(&mut self, purposes: impl Iterator<Item = &'a Purpose>) {
        for purpose in purposes {
            if let Purpose::Client(op) = purpose {
                self.asked.remove(op);
                self.unknown += 1;
            }
        }
    }

    fn specs(&mut self, jobs: u32, seed: u64, session: SessionId, big: bool) -> Vec<JobSpec> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut specs: Vec<JobSpec> = Vec::new();
        for _ in 0..jobs {
            self.last_job += 1;
            let id = job_id(self.last_job);
            // Some do what others do, and are joined.
            let same = rng.random_range(0..6) == 0;
            let argv = if same { "same".to_owned() } else { self.last_job.to_string() };
            let doomed = rng.random_range(0..14) == 0;
            let target = if doomed { format!("doomed-{}", self.last_job) } else { format!("job-{}", self.last_job) };
            let work = Work::Command {
                source: Source::Blob { sha256: Sha256Hash([9; 32]), size: 100 },
                argv: vec!["make".to_owned(), argv],
                artifacts: vec!["out/*".to_owned()],
            };
            let kind = rng.random_range(0..10);
            let mut spec = JobSpec { pure: kind < 6, idempotent: kind == 6, ..JobSpec::new(id, target, work) };
            spec.priority = [0, 0, 0, 5, -5][rng.random_range(0..5_usize)];
            if big && rng.random_range(0..10) == 0 {
                spec.labels.insert("big".to_owned());
            }
            if let Some(earlier) = specs.last().filter(|_| rng.random_range(0..3) == 0) {
                spec.depends_on.insert(earlier.id);
            } else if rng.random_range(0..8) == 0
                && let Some((_, earlier)) = self.specs.last()
            {
                spec.depends_on.insert(earlier.id);
            }
            specs.push(spec);
        }
        self.specs.extend(specs.iter().map(|spec| (session, spec.clone())));
        specs
    }

    fn session(&mut self) -> SessionId {
        self.last_session += 1;
        let session = session_id(self.last_session);
        self.sessions.push(session);
        session
    }
}

/// The plan that a resolution finds: it follows from the job alone.
pub(crate) fn plan_of(resolution: &Job) -> Plan {
    let number = resolution.spec.id.0.as_u128() % 97;
    let count = 2 + u32::try_from(number % 4).expect("small");
    let planned = |position: u32| Planned {
        package: format!("app-misc/tool{}", number * 10 + u128::from(position)),
        revision: "1.0".to_owned(),
        slot: "0".to_owned(),
        repository: "tiny".to_owned(),
        kind: if position == 1 && number.is_multiple_of(3) { PlannedKind::Binary } else { PlannedKind::Ebuild },
        root: None,
        uses: Vec::new(),
        needs: if position > 0 && number.is_multiple_of(2) { vec![position - 1] } else { Vec::new() },
    };
    Plan { version: 1, tree: String::new(), packages: (0..count).map(planned).collect() }
}

fn control(kind: u32, job: JobId, session: SessionId, node: hive::engine::id::PeerId) -> Control {
    let one = Jobs::One(job);
    let change = |change| Control::Drone { node: node.clone(), change };
    match kind {
        0 => Control::Pause,
        1 | 2 => Control::Resume,
        3 => Control::Block { jobs: one },
        4 => Control::Unblock { jobs: one },
        5 => Control::Unblock { jobs: Jobs::All },
        6 => Control::RetryFailures { jobs: Jobs::All },
        7 => Control::ClearFailures,
        8 => Control::Reset { running: false },
        9 => Control::Reset { running: true },
        10 => Control::Rebalance { running: false },
        11 => Control::Rebalance { running: true },
        12 => Control::Reclaim { jobs: one, running: true },
        13 => Control::Unground { node: None },
        14 => Control::CancelSession { session },
        15 => change(DroneChange::Pause),
        16 | 17 => change(DroneChange::Resume),
        18 => change(DroneChange::Drain { deadline_ms: Some(3_000) }),
        19 => change(DroneChange::Drain { deadline_ms: None }),
        20 => change(DroneChange::Limit { cores: Some(1) }),
        _ => Control::Block { jobs: Jobs::Session(session) },
    }
}

impl World {
    fn request(&mut self, node: Ix, command: Command, what: &'static str) {
        if self.nodes[node].life.is_none() || self.nodes[node].paused_until_ms > self.now_ms {
            return;
        }
        self.clients.last_op += 1;
        let op = self.clients.last_op;
        self.clients.asked.insert(op, what);
        self.propose(node, command, Purpose::Client(op), PATIENCE_MS);
        self.pump(node);
    }

    /// Somebody wants something of the hive, through this node.
    pub(crate) fn ask(&mut self, work: Action) {
        let all = self.nodes.len();
        match work {
            Action::Submit { node, jobs, seed } => {
                let session = match self.clients.sessions.last() {
                    Some(session) if seed % 3 == 0 => *session,
                    _ => self.clients.session(),
                };
                let jobs = self.clients.specs(jobs, seed, session, all > 2);
                self.request(node % all, Command::submit(session, "somebody", jobs), "submissions acknowledged");
            }
            Action::Again { node, which } => {
                // Whoever got no answer asks again, elsewhere.
                let known = self.clients.specs.len() as u64;
                if known > 0 {
                    let (session, spec) = self.clients.specs[usize::try_from(which % known).expect("small")].clone();
                    self.request(node % all, Command::submit(session, "somebody", vec![spec]), "submissions repeated");
                }
            }
            Action::Import { node, jobs, seed, torn } => self.import(node % all, jobs, seed, torn),
            Action::Resolve { node } => {
                let session = self.clients.session();
                self.clients.last_job += 1;
                let id = job_id(self.clients.last_job);
                let work = Work::Resolve { targets: vec!["app-misc/tool".to_owned()], empty_tree: false };
                let spec = JobSpec { pure: true, ..JobSpec::new(id, "app-misc/tool", work) };
                self.clients.specs.push((session, spec.clone()));
                let draft = Some(self.nodes[node % all].peer.clone());
                let about = SessionAbout::by("somebody");
                let command = Command::Submit { session, about, draft, jobs: vec![spec] };
                self.request(node % all, command, "resolutions acknowledged");
            }
            Action::Cancel { node, which } => {
                let known = self.clients.specs.len() as u64;
                if known > 0 {
                    let job = self.clients.specs[usize::try_from(which % known).expect("small")].1.id;
                    let command = Command::Cancel { job, reason: "enough".to_owned() };
                    self.request(node % all, command, "cancellations acknowledged");
                }
            }
            Action::Control { node, kind, which } => {
                let known = self.clients.specs.len() as u64;
                if known > 0 {
                    let (session, spec) = self.clients.specs[usize::try_from(which % known).expect("small")].clone();
                    let drone = self.nodes[usize::try_from(which / 7 % all as u64).expect("small")].peer.clone();
                    let action = control(kind, spec.id, session, drone);
                    let command = Command::Control { action, by: "operator".to_owned(), why: "a test".to_owned() };
                    self.request(node % all, command, "control actions acknowledged");
                }
            }
            Action::ResetIdentity { node } => {
                self.counts.add("identity resets", 1);
                self.reset_identity(node % all);
            }
            _ => unreachable!("faults are no work"),
        }
    }

    /// Lines become jobs of a draft, a few at a time; the stream may break off.
    fn import(&mut self, node: Ix, jobs: u32, seed: u64, torn: bool) {
        if self.nodes[node].life.is_none() || self.nodes[node].paused_until_ms > self.now_ms {
            return;
        }
        let session = self.clients.session();
        let mut lines = Lines::new(session);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut specs = Vec::new();
        for number in 0..jobs {
            let after = if number > 0 && rng.random() {
                format!(r#","after":["dev-libs/a{}"]"#, number - 1)
            } else {
                String::new()
            };
            let line = format!(r#"{{"target":"dev-libs/a{number}","backend":"portage"{after}}}"#);
            specs.extend(lines.push(line.as_bytes()).expect("a good line"));
        }
        lines.finish().expect("all are there");
        let about = SessionAbout::by("importer");
        let draft = Some(self.nodes[node].peer.clone());
        let submit = |jobs: &[JobSpec]| Command::Submit {
            session,
            about: about.clone(),
            draft: draft.clone(),
            jobs: jobs.to_vec(),
        };
        let chunks: Vec<Command> = specs.chunks(3).map(submit).collect();
        let torn_at = torn.then(|| rng.random_range(0..chunks.len()));
        self.clients.specs.extend(specs.iter().map(|spec| (session, spec.clone())));
        self.clients.last_op += 1;
        let client = self.clients.last_op;
        let open = Command::OpenSession { session, jobs: specs.len() as u64 };
        let import = Import { session, chunks, next: 0, open, client, torn_at };
        self.counts.add("imports begun", 1);
        self.nodes[node].life.as_mut().expect("it lives").imports.push(import);
        self.next_chunk(node, client);
    }

    fn next_chunk(&mut self, node: Ix, client: u64) {
        let life = self.nodes[node].life.as_mut().expect("it lives");
        let Some(import) = life.imports.iter_mut().find(|import| import.client == client) else { return };
        if import.torn_at == Some(import.next) {
            let (session, begun) = (import.session, import.next > 0);
            life.imports.retain(|import| import.client != client);
            self.counts.add("imports torn", 1);
            if begun {
                let command = Command::DropSession { session, reason: "torn".to_owned() };
                self.propose(node, command, Purpose::Draft, 40_000);
            }
            return;
        }
        let command = import.chunks.get(import.next).cloned().unwrap_or_else(|| import.open.clone());
        self.propose(node, command, Purpose::Import(client), 10_000);
    }

    pub(crate) fn on_import(&mut self, node: Ix, client: u64, command: &Command, reply: Option<Reply>) {
        let hive = self.nodes[node].hive();
        let life = self.nodes[node].life.as_mut().expect("it lives");
        let Some(import) = life.imports.iter_mut().find(|import| import.client == client) else { return };
        match (reply, command) {
            // Proposed until there is an answer: the ids make that harmless.
            (None, _) => self.next_chunk(node, client),
            (Some(Reply::Rejected { .. }), _) => {
                life.imports.retain(|import| import.client != client);
                self.counts.add("imports refused", 1);
            }
            (Some(reply), Command::OpenSession { .. }) => {
                life.imports.retain(|import| import.client != client);
                self.counts.add("imports acknowledged", 1);
                if let Some(hive) = hive {
                    self.checker.acknowledged.answered(hive, command, &reply);
                }
            }
            (Some(_), _) => {
                import.next += 1;
                self.next_chunk(node, client);
            }
        }
    }

    /// What a person does at the end of a bad day: takes back what operators forbade, so that the rest can run.
    pub(crate) fn tidy_up(&mut self, node: Ix) {
        let mut actions = vec![Control::Resume, Control::Unblock { jobs: Jobs::All }, Control::Unground { node: None }];
        let known: BTreeSet<_> = self.nodes.iter().map(|node| node.peer.clone()).collect();
        for drone in known {
            let member = self.nodes[node].life.as_ref().is_some_and(|life| life.state.member(&drone).is_some());
            if member {
                actions.push(Control::Drone { node: drone.clone(), change: DroneChange::Resume });
                actions.push(Control::Drone { node: drone, change: DroneChange::Limit { cores: None } });
            }
        }
        for action in actions {
            let command = Command::Control { action, by: "operator".to_owned(), why: "tidying up".to_owned() };
            self.request(node, command, "control actions acknowledged");
        }
    }
}
