//! Figures of the engine alone: planning, importing and remembering a large queue, and how long a graph of packages takes.
//!
//! Nothing here has a socket or a disk; it is `make bench` for what the coordinator does between two entries of the log.
//! `--short` measures smaller queues, for `make test`.

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout
)]

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::process::ExitCode;
use std::time::Instant;

use hive::engine::command::{Batch, Command, ENVELOPE_VERSION, FEATURE_LEVEL, Origin, Progress, Proposal, Reply};
use hive::engine::id::{Epoch, EpochId, HiveId, JobId, PeerId, SessionId, Token, UnixMillis};
use hive::engine::job::{JobSpec, Outcome, Work};
use hive::engine::member::{Inventory, MemberInfo};
use hive::engine::scheduler::{DroneView, Leases, Now, Settings, View, plan};
use hive::engine::session::SessionAbout;
use hive::engine::state::State;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use uuid::Uuid;

#[path = "figures/row.rs"]
mod row;

use row::{Judged, Row};

const DRONES: u32 = 300;
/// By which factor a goal may be missed before `--short` calls it an error.
const SLACK: f64 = 10.0;

fn peer(number: u32) -> PeerId {
    PeerId::new(format!("12D3KooWNode{number:04}"))
}

fn job_id(number: usize) -> JobId {
    JobId(Uuid::from_u128(u128::try_from(number).unwrap() + 1))
}

/// A replica without a store.
struct Replica {
    state: State,
    index: u64,
    sequence: u64,
}

impl Replica {
    fn founded(drones: u32) -> Self {
        let member = |number: u32| MemberInfo {
            peer_id: peer(number),
            name: format!("drone{number:04}"),
            addresses: vec!["10.0.0.1:50555".to_owned()],
            incarnation: 1,
            version: "0".to_owned(),
            feature_level: FEATURE_LEVEL,
            inventory: Inventory {
                cpu_cores: 8,
                ram_gb: 32,
                arch: "x86_64".to_owned(),
                tools: [("emerge".to_owned(), "3.0".to_owned())].into(),
                ..Inventory::default()
            },
        };
        let mut replica = Self { state: State::new(), index: 0, sequence: 0 };
        let epoch = Epoch { counter: 1, id: EpochId([1; 16]) };
        replica.run(vec![Command::Found { hive_id: HiveId([1; 16]), epoch, founder: member(0) }], 0);
        for number in 1..drones {
            replica.run(vec![Command::Admit { member: member(number) }], 0);
        }
        replica
    }

    fn run(&mut self, commands: Vec<Command>, elapsed_ms: u64) -> Vec<Reply> {
        let proposals = commands.iter().map(|command| {
            self.sequence += 1;
            let origin = Origin { peer_id: peer(0), incarnation: 1, sequence: self.sequence };
            Proposal::new(origin, command)
        });
        let proposals = proposals.collect();
        self.index += 1;
        let at = UnixMillis(self.state.hive_time_ms() + elapsed_ms);
        let batch = Batch { version: ENVELOPE_VERSION, elapsed_ms, at, proposals };
        let replies = self.state.apply(self.index, &batch).expect("understood").replies;
        let refused = replies.iter().find(|reply| matches!(reply, Reply::Rejected { .. }));
        assert!(refused.is_none(), "{refused:?}");
        replies
    }

    /// Imports jobs as the agent does: a draft in commands of 64, sixteen to an entry, then opened.
    /// Answers how long opening took, in seconds.
    fn import(&mut self, session: u128, jobs: Vec<JobSpec>) -> f64 {
        let (session, total) = (SessionId(Uuid::from_u128(session)), jobs.len() as u64);
        let about = SessionAbout::by("bench");
        let commands: Vec<Command> = jobs
            .chunks(64)
            .map(|jobs| Command::Submit { session, about: about.clone(), draft: Some(peer(0)), jobs: jobs.to_vec() })
            .collect();
        for batch in commands.chunks(16) {
            self.run(batch.to_vec(), 1);
        }
        let start = Instant::now();
        self.run(vec![Command::OpenSession { session, jobs: total }], 1);
        start.elapsed().as_secs_f64()
    }
}

fn package(number: usize) -> JobSpec {
    let atom = format!("=dev-libs/package{number}-1.2.3");
    let work = Work::Portage { atom: atom.clone(), tree: None };
    JobSpec { pure: true, ..JobSpec::new(job_id(number), atom, work) }
}

fn view(drones: u32, slots: u32) -> View {
    let drone = DroneView { alive: true, takes_builds: true, slots: Some(slots), ..DroneView::default() };
    View { drones: (0..drones).map(|number| (peer(number), drone.clone())).collect(), in_flight: BTreeMap::new() }
}

fn resident_bytes() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 4_096.0
}

/// A queue of so many runnable jobs: what taking it in, holding it and planning with it costs.
fn large_queue(jobs: usize, rounds: usize) -> Vec<Row> {
    let mut replica = Replica::founded(DRONES);
    let specs: Vec<JobSpec> = (0..jobs).map(package).collect();
    let before = resident_bytes();
    let start = Instant::now();
    let open_s = replica.import(1, specs.clone());
    let import_s = start.elapsed().as_secs_f64();
    drop(specs);
    let per_job = (resident_bytes() - before) / jobs as f64;
    let view = view(DRONES, 4);
    let mut leases = Leases::new(0);
    let mut plans = Vec::new();
    for round in 0..rounds {
        let now = Now { now_ms: round as u64, hive_ms: replica.state.hive_time_ms() };
        let start = Instant::now();
        let made = plan(&replica.state, &view, &mut leases, now, &Settings::default());
        plans.push(start.elapsed().as_secs_f64() * 1_000.0);
        assert_eq!(made.commands.len(), Settings::default().assignments_max);
        // Every round finds other jobs: those of the last are under way.
        if round % 4 == 3 {
            continue;
        }
        for reply in replica.run(made.commands, 10) {
            assert!(matches!(reply, Reply::Assigned { .. }));
        }
        let live: Vec<(JobId, Token)> = (0..DRONES)
            .map(peer)
            .flat_map(|peer| {
                let live = replica.state.live_attempts(&peer);
                live.map(|(job, attempt)| (job.spec.id, attempt.token)).collect::<Vec<_>>()
            })
            .collect();
        let done = live.into_iter().map(|(job, token)| {
            let outcome = Outcome::Succeeded { artifacts: Vec::new() };
            Command::Report { job, token, progress: Progress::Ended { outcome } }
        });
        let done: Vec<Command> = done.collect();
        for batch in done.chunks(256) {
            replica.run(batch.to_vec(), 10);
        }
    }
    let name = |what: &str| format!("{what}, {jobs} jobs, {DRONES} drones");
    vec![
        Row::new(&name("scheduler round"), "ms", plans).goal(Judged::P99, 100.0),
        Row::new(&name("import, applied by one replica"), "s", vec![import_s]).goal(Judged::P50, 5.0),
        Row::new(&name("opening it, one entry of the log"), "s", vec![open_s]),
        Row::new(&name("memory per waiting job"), "B", vec![per_job]).goal(Judged::P50, 2_048.0),
    ]
}

/// Packages with what they need and how long they take.
struct Graph {
    needs: Vec<Vec<usize>>,
    duration_ms: Vec<u64>,
}

impl Graph {
    /// As a distribution is: layers, few packages that many need, and a heavy tail of durations (Pareto, α = 1.2, 5 s to 3 h).
    fn synthetic(packages: usize, random: &mut StdRng) -> Self {
        let mut needs = Vec::with_capacity(packages);
        let mut duration_ms = Vec::with_capacity(packages);
        for number in 0..packages {
            let count = if number < 20 { 0 } else { random.random_range(0..5_usize) };
            let mut own = BTreeSet::new();
            for _ in 0..count {
                // Old packages are needed by many: the square prefers low numbers.
                let place: f64 = random.random_range(0.0..1.0);
                own.insert((place * place * number as f64) as usize);
            }
            needs.push(own.into_iter().collect());
            let tail: f64 = random.random_range(0.000_1..1.0_f64);
            duration_ms.push((5_000.0 * tail.powf(-1.0 / 1.2)).min(3.0 * 3_600_000.0) as u64);
        }
        Self { needs, duration_ms }
    }

    /// No order can be faster: all the work over all the slots, or the longest chain.
    fn bound_ms(&self, slots: u64) -> u64 {
        let mut chain = vec![0_u64; self.needs.len()];
        for number in 0..self.needs.len() {
            let before = self.needs[number].iter().map(|need| chain[*need]).max().unwrap_or(0);
            chain[number] = before + self.duration_ms[number];
        }
        let work: u64 = self.duration_ms.iter().sum();
        (work / slots).max(chain.into_iter().max().unwrap_or(0))
    }
}

/// Builds the graph with the planner, which knows durations from one earlier build of each package, off by up to 30 %.
fn makespan_planned(graph: &Graph, drones: u32, slots: u32, known: bool, random: &mut StdRng) -> u64 {
    let mut replica = Replica::founded(drones);
    let mut view = view(drones, slots);
    if known {
        learn(&mut replica, graph, &mut view, random);
    }
    let offset = graph.needs.len();
    let specs = (0..graph.needs.len()).map(|number| {
        let atom = format!("=dev-libs/package{number}-2.0");
        let work = Work::Portage { atom: atom.clone(), tree: None };
        let depends_on = graph.needs[number].iter().map(|need| job_id(offset + need)).collect();
        JobSpec { pure: true, depends_on, ..JobSpec::new(job_id(offset + number), atom, work) }
    });
    replica.import(2, specs.collect());
    let start_ms = replica.state.hive_time_ms();
    let mut leases = Leases::new(0);
    // Ends of running builds, soonest first.
    let mut running: BinaryHeap<std::cmp::Reverse<(u64, JobId, Token)>> = BinaryHeap::new();
    let mut now_ms = 0;
    let mut left = graph.needs.len();
    while left > 0 {
        let now = Now { now_ms: 0, hive_ms: start_ms + now_ms };
        let made = plan(&replica.state, &view, &mut leases, now, &Settings::default());
        let assigned: Vec<JobId> = made
            .commands
            .iter()
            .filter_map(|command| if let Command::Assign { job, .. } = command { Some(*job) } else { None })
            .collect();
        if !assigned.is_empty() {
            for (job, reply) in assigned.into_iter().zip(replica.run(made.commands, 0)) {
                let Reply::Assigned { token, .. } = reply else { panic!("{reply:?}") };
                let number = usize::try_from(job.0.as_u128()).unwrap() - 1 - offset;
                running.push(std::cmp::Reverse((now_ms + graph.duration_ms[number], job, token)));
            }
            continue;
        }
        let std::cmp::Reverse((end_ms, job, token)) = running.pop().expect("something runs while something is left");
        let outcome = Outcome::Succeeded { artifacts: Vec::new() };
        replica.run(vec![Command::Report { job, token, progress: Progress::Ended { outcome } }], end_ms - now_ms);
        now_ms = end_ms;
        left -= 1;
    }
    now_ms
}

/// One earlier build of each package: the hive knows how long they take, off by up to 30 %.
fn learn(replica: &mut Replica, graph: &Graph, view: &mut View, random: &mut StdRng) {
    replica.import(1, (0..graph.needs.len()).map(package).collect());
    let _ = view;
    for number in 0..graph.needs.len() {
        let id = job_id(number);
        let node = peer(0);
        let replies = replica.run(vec![Command::Assign { job: id, node }], 0);
        let Reply::Assigned { token, .. } = replies[0] else { panic!("{replies:?}") };
        replica.run(vec![Command::Report { job: id, token, progress: Progress::Building { pinned_commit: None } }], 0);
        let noise: f64 = random.random_range(0.7..1.3);
        let outcome = Outcome::Succeeded { artifacts: Vec::new() };
        let took_ms = (graph.duration_ms[number] as f64 * noise) as u64;
        replica.run(vec![Command::Report { job: id, token, progress: Progress::Ended { outcome } }], took_ms);
    }
}

/// Builds the graph in another order: of what could run, the lowest rank first.
fn makespan_ranked(graph: &Graph, slots: usize, rank: impl Fn(usize) -> i64) -> u64 {
    let mut missing: Vec<usize> = graph.needs.iter().map(Vec::len).collect();
    let mut dependents = vec![Vec::new(); graph.needs.len()];
    for (number, needs) in graph.needs.iter().enumerate() {
        for need in needs {
            dependents[*need].push(number);
        }
    }
    let mut ready: BTreeSet<(i64, usize)> =
        (0..missing.len()).filter(|number| missing[*number] == 0).map(|number| (rank(number), number)).collect();
    let mut running: BinaryHeap<std::cmp::Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut now_ms = 0;
    loop {
        while running.len() < slots
            && let Some((_, number)) = ready.pop_first()
        {
            running.push(std::cmp::Reverse((now_ms + graph.duration_ms[number], number)));
        }
        let Some(std::cmp::Reverse((end_ms, number))) = running.pop() else { return now_ms };
        now_ms = end_ms;
        for dependent in &dependents[number] {
            missing[*dependent] -= 1;
            if missing[*dependent] == 0 {
                ready.insert((rank(*dependent), *dependent));
            }
        }
    }
}

fn makespan(packages: usize) -> Vec<Row> {
    let (drones, slots) = (10, 4);
    let mut ratios: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for seed in 0..5_u64 {
        let mut random = StdRng::seed_from_u64(seed);
        let graph = Graph::synthetic(packages, &mut random);
        let all = usize::try_from(drones * slots).unwrap();
        let bound = graph.bound_ms(u64::from(drones * slots)) as f64;
        let mut dependents = vec![0_i64; packages];
        for need in graph.needs.iter().flatten() {
            dependents[*need] += 1;
        }
        let mut note = |name, makespan_ms: u64| ratios.entry(name).or_default().push(makespan_ms as f64 / bound);
        note("planner, durations known", makespan_planned(&graph, drones, slots, true, &mut random));
        note("planner, nothing known", makespan_planned(&graph, drones, slots, false, &mut random));
        note("first come, first served", makespan_ranked(&graph, all, |number| i64::try_from(number).unwrap()));
        note("most dependents first", makespan_ranked(&graph, all, |number| -dependents[number]));
    }
    let row = |(name, ratios): (&str, Vec<f64>)| {
        let row = Row::new(&format!("makespan over lower bound, {packages} packages: {name}"), "×", ratios);
        if name == "planner, durations known" { row.goal(Judged::Max, 1.15) } else { row }
    };
    ratios.into_iter().map(row).collect()
}

fn main() -> ExitCode {
    let short = std::env::args().any(|argument| argument == "--short");
    let (jobs, rounds, packages) = if short { (20_000, 20, 1_000) } else { (100_000, 100, 10_000) };
    let mut rows = large_queue(jobs, rounds);
    rows.extend(makespan(packages));
    println!("{}\n", row::machine());
    println!("{}", row::table(&rows));
    let regressed = short && rows.iter().any(|row| row.regressed(SLACK));
    if regressed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
