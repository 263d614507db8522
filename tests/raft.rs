//! The real Raft with our log, state and snapshots, on disks that lose what was not synced and a network that is cut: what clients
//! saw must be what one machine alone could have shown.
//!
//! A seed decides the faults, the clients' calls and what survives a crash. Threads and timers are real, so the same seed does not give
//! the same run; see `tests/README.md`.

#![cfg(feature = "node")]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test program"
)]

#[path = "sample/member.rs"]
mod sample_member;

mod raft {
    pub(crate) mod checker;
    pub(crate) mod clients;
    pub(crate) mod cluster;
    pub(crate) mod faults;
    pub(crate) mod net;
}

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hive::engine::command::{Command, Reply};
use raft::checker::{Event, Verdict, judge, tokens_rise};
use raft::clients::{Client, History, drone};
use raft::cluster::{Cluster, Happened};
use raft::faults::{befall, schedule};
use sample_member::member;

/// Machines, and how many of them vote.
const MACHINES: usize = 6;
const VOTERS: usize = 5;
const CLIENTS: u64 = 5;
const FAULTS: usize = 13;
/// A run with fewer answers proves nothing.
const ANSWERS_MIN: usize = 200;

#[derive(Debug)]
struct Report {
    answers: usize,
    unknown: usize,
    /// Of which jobs were contended for.
    jobs: usize,
    leaders: usize,
    happened: Happened,
    held: u64,
    broken: u64,
    frozen: u64,
    snapshots: u64,
}

impl Report {
    /// Why the run proves nothing, if it does not.
    fn invalid(&self) -> Option<&'static str> {
        let reasons = [
            (self.answers < ANSWERS_MIN, "too few calls were answered"),
            (self.leaders < 3, "leadership hardly changed"),
            (self.happened.lossy == 0, "no crash took anything"),
            (self.held == 0, "no cut link held anything back"),
            (self.frozen == 0, "nobody stood still"),
            (self.broken == 0, "no stream was broken"),
            (self.unknown == 0, "every call was answered"),
            (self.jobs == 0, "nobody asked for a job"),
            (self.snapshots == 0, "nobody needed a snapshot"),
        ];
        reasons.iter().find(|(bad, _)| *bad).map(|(_, why)| *why)
    }
}

/// By job, in the order of calls.
fn by_job(events: &[Event]) -> BTreeMap<u64, Vec<Event>> {
    let mut jobs: BTreeMap<u64, Vec<Event>> = BTreeMap::new();
    for event in events {
        jobs.entry(event.job).or_default().push(event.clone());
    }
    jobs.values_mut().for_each(|events| events.sort_by_key(|event| event.called));
    jobs
}

/// Judges what clients saw. None: a search took too long.
fn check(seed: u64, events: &[Event]) -> Option<usize> {
    tokens_rise(events).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    let jobs = by_job(events);
    for (job, events) in &jobs {
        match judge(events) {
            Verdict::Fine => {}
            Verdict::Wrong => panic!("seed {seed}: no order explains what was seen of job {job}: {events:#?}"),
            Verdict::Undecided => return None,
        }
    }
    Some(jobs.len())
}

/// `RAFT_LOG=hive=debug` shows what the machines say.
fn listen() {
    if let Ok(filter) = std::env::var("RAFT_LOG") {
        let told = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
        // The second test of a process finds it done.
        drop(told.try_init());
    }
}

async fn run(seed: u64) -> Option<Report> {
    let mut cluster = Cluster::start(seed, MACHINES, VOTERS).await;
    let first = cluster.machines[0].consensus().expect("runs").clone();
    // Whoever is no member proposes nothing.
    for peer in cluster.machines.iter().skip(1).map(|machine| machine.peer.clone()).chain([drone()]) {
        let admitted = first.propose(vec![Command::Admit { member: member(&peer) }], Duration::from_secs(10)).await;
        assert_eq!(admitted, Ok(vec![Reply::Done]));
    }
    drop(first);
    let (history, end) = (Arc::new(History::default()), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| Client::new(number, &cluster, &history, seed).run(Arc::clone(&end)))
        .map(|client| hive::tasks::spawn("client", client))
        .collect();
    for planned in schedule(seed, FAULTS, MACHINES) {
        befall(&mut cluster, planned).await;
    }
    end.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client goes on to the end");
    }
    cluster.agree().await;
    let leader = cluster.leader().and_then(|leader| cluster.machines[leader].consensus().cloned()).expect("leads");
    Client::new(CLIENTS, &cluster, &history, seed).read_all(leader).await;
    let events = history.events.lock().expect("lock").clone();
    let observed = std::mem::take(&mut *cluster.observed.lock().expect("lock"));
    assert!(observed.wrong.is_empty(), "seed {seed}: {:#?}", observed.wrong);
    let bites = &cluster.net.bites;
    let report = Report {
        answers: events.iter().filter(|event| event.answered.is_some()).count(),
        unknown: events.iter().filter(|event| event.answered.is_none()).count(),
        jobs: check(seed, &events)?,
        leaders: observed.leaders.len(),
        happened: cluster.happened.clone(),
        held: bites.held.load(Ordering::Relaxed),
        broken: bites.broken.load(Ordering::Relaxed),
        frozen: bites.frozen.load(Ordering::Relaxed),
        snapshots: bites.snapshots.load(Ordering::Relaxed),
    };
    println!("seed {seed}: {report:?}, logs begin at {:?}", cluster.purged());
    cluster.end().await;
    Some(report)
}

/// Runs seeds until so many valid runs are green.
fn green(first: u64, wanted: usize) {
    listen();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let (mut valid, mut invalid) = (0, Vec::new());
    for seed in first.. {
        if valid == wanted {
            break;
        }
        match runtime.block_on(run(seed)).map(|report| report.invalid()) {
            Some(None) => valid += 1,
            Some(Some(why)) => invalid.push((seed, why)),
            None => invalid.push((seed, "a search took too long")),
        }
        assert!(invalid.len() <= 4 + wanted / 2, "too many runs that prove nothing: {invalid:?}");
    }
    println!("{valid} valid runs from seed {first} on; invalid: {invalid:?}");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[test]
fn clients_see_one_history_whatever_breaks() {
    green(1, 2);
}

/// `RAFT_FROM=100 RAFT_RUNS=50 cargo test --test raft many_seeds -- --ignored --nocapture`
#[test]
#[ignore = "takes as long as one wants"]
fn many_seeds() {
    green(number("RAFT_FROM").unwrap_or(100), usize::try_from(number("RAFT_RUNS").unwrap_or(20)).expect("small"));
}

#[test]
fn the_same_seed_plans_the_same_faults() {
    assert_eq!(schedule(7, 40, MACHINES), schedule(7, 40, MACHINES));
    assert_ne!(schedule(7, 40, MACHINES), schedule(8, 40, MACHINES));
}
