//! The farm under load: jobs dispatched and completed by native drones, imported by the hundred thousand, and the status asked for
//! meanwhile.
//!
//! Three voters with their state on the disk, full sync as always, nothing else changed about them but that they build nothing
//! themselves. *Dispatch and completion* is one job's way through the replicated log: `Assign` by the coordinator's own planner, the
//! lease, `Building`, `Uploading`, `Ended`, each committed by a majority and answered before the next; what a build does in between is
//! left out, since it has no bound. The drones are real members (see `drones`), in the process that measures; everything shares this machine's
//! processors, so the drones' own copies of the log cost here what in life they cost elsewhere. At the end the hive is asked what it
//! has: every job received, each by one attempt.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Effort;
use crate::client::{Client, socket_of};
use crate::drones::Drones;
use crate::harness::{Agent, Host, Lab, s};
use crate::hive_of::{coordinator, hive_of, watch};
use crate::idle::{TICKS_PER_S, processor_ticks};
use crate::row::{Judged, Row};

/// The voters build nothing.
const NO_BUILDS: [&str; 2] = ["--build-slots", "0"];
/// Jobs of the promise.
const MANY: usize = 100_000;

fn connect(host: &Host) -> Client {
    Client::connect(&socket_of(host)).expect("the agent answers")
}

/// Lines of an import, of packages that are all different: equal work would be done once.
fn lines(prefix: &str, count: usize) -> String {
    let mut text = String::with_capacity(count * 48);
    for number in 0..count {
        writeln!(text, r#"{{"target":"{prefix}-{number:06}","backend":"debian"}}"#).expect("memory");
    }
    text
}

/// Imports over the agent's socket, and how long that took until it was acknowledged.
fn import(host: &Host, prefix: &str, count: usize) -> Duration {
    let (mut client, text) = (connect(host), lines(prefix, count));
    let since = Instant::now();
    let answer = client.send("/api/v2/queue/import?name=measured", "application/x-ndjson", text.as_bytes());
    let took = since.elapsed();
    let (code, body) = answer.expect("an answer");
    assert_eq!((code, body["data"]["jobs"].as_u64()), (200, Some(count as u64)), "{body}");
    took
}

fn queue(host: &Host) -> Option<Value> {
    crate::client::status(host).map(|mut status| status["queue"].take())
}

/// Jobs done so far.
fn received(host: &Host) -> u64 {
    watch("the queue", s(20), Duration::from_millis(5), || queue(host)?["received"].as_u64())
}

/// 100,000 jobs over the socket until they are acknowledged, each round into a hive of its own.
pub fn import_many(lab: &mut Lab, effort: Effort) -> Vec<Row> {
    let (rounds, count) = (effort.pick(5, 1), effort.pick(MANY, 5_000));
    let samples: Vec<Duration> = (0..rounds)
        .map(|_| {
            let (hosts, agents) = hive_of(lab, 3, &NO_BUILDS);
            let leader = &hosts[coordinator(&hosts)];
            let took = import(leader, "measured", count);
            let waiting = queue(leader).expect("a queue")["needed"].as_u64();
            assert_eq!(waiting, Some(count as u64), "all of them are there");
            drop(agents);
            hosts.iter().for_each(crate::hive_of::wipe);
            took
        })
        .collect();
    // A short run measures what it measures; the promise is about the whole.
    let limit = 5_000.0 * count as f64 / MANY as f64;
    vec![
        Row::times(&format!("{count} jobs imported over the socket until acknowledged"), &samples)
            .goal(Judged::Max, limit)
            .note("three voters, coordinator's socket"),
    ]
}

/// What a hive of three voters did with jobs of native drones.
pub struct Dispatched {
    /// Jobs per second.
    pub rate: f64,
    /// The same in pieces of the time.
    pub rates: Vec<f64>,
    /// Processor time per job, microseconds: all voters, all drones.
    pub of_voters: f64,
    pub of_drones: f64,
    pub wrong: Option<String>,
}

/// Drones, and slots of each: as many as keep the hive busy; a drone asks for at most 1,280 leases a second.
const DRONES: u16 = 3;
const SLOTS: u32 = 400;

/// Jobs from the queue to their accepted result, in a hive of its own.
pub fn dispatch(lab: &mut Lab, arguments: &[&str], jobs: usize, span: Duration, deadline: Duration) -> Dispatched {
    let (hosts, agents) = hive_of(lab, 3, arguments);
    let leader = &hosts[coordinator(&hosts)];
    import(leader, "measured", jobs);
    let scratch = leader.state().with_file_name("drones");
    let drones_joined = Drones::join(leader, &scratch, DRONES, SLOTS);
    // Counted from the first result on: before it, drones are still being admitted and found alive.
    let first = watch("the first results", s(60), Duration::from_millis(2), || {
        Some(received(leader)).filter(|received| *received > 0)
    });
    let pids: Vec<u32> = agents.iter().map(Agent::pid).collect();
    let ticks_before = (ticks(&pids), processor_ticks(std::process::id()));
    let (began, mut last) = (Instant::now(), (Instant::now(), first));
    let mut rates = Vec::new();
    let done = loop {
        thread::park_timeout(span.saturating_sub(last.0.elapsed()));
        let (at, now) = (Instant::now(), received(leader));
        if now >= jobs as u64 {
            break at;
        }
        rates.push((now - last.1) as f64 / (at - last.0).as_secs_f64());
        last = (at, now);
        assert!(began.elapsed() < deadline, "{now} of {jobs} jobs within {deadline:?}");
    };
    let rate = (jobs as u64 - first) as f64 / (done - began).as_secs_f64();
    // What other work on the machine does not change.
    let per_job_us = |ticks: u64| ticks as f64 / TICKS_PER_S * 1e6 / (jobs as u64 - first) as f64;
    let of_voters = per_job_us(ticks(&pids) - ticks_before.0);
    let of_drones = per_job_us(processor_ticks(std::process::id()) - ticks_before.1);
    let wrong = reconcile(&hosts, jobs, &drones_joined);
    drop((drones_joined, agents));
    hosts.iter().for_each(crate::hive_of::wipe);
    Dispatched { rate, rates, of_voters, of_drones, wrong }
}

/// Jobs per second from the queue to their accepted result, with native drones.
pub fn native(lab: &mut Lab, effort: Effort) -> Vec<Row> {
    let jobs = effort.pick(60_000, 1_000);
    let span = Duration::from_millis(effort.pick(1_000, 100));
    let measured = dispatch(lab, &NO_BUILDS, jobs, span, s(effort.pick(120, 60)));
    vec![
        Row::new("native dispatch and completion", "jobs/s", vec![measured.rate])
            .goal(Judged::Min, 3_000.0)
            .note(format!("three voters, {DRONES} drones of {SLOTS} slots, {jobs} jobs"))
            .wrong(measured.wrong),
        Row::new("the same in pieces of the time", "jobs/s", measured.rates),
        Row::new("processor time per job: three voters", "µs", vec![measured.of_voters]),
        Row::new("processor time per job: the drones", "µs", vec![measured.of_drones]),
    ]
}

/// Processor time of all of them, in ticks.
fn ticks(pids: &[u32]) -> u64 {
    pids.iter().map(|pid| processor_ticks(*pid)).sum()
}

/// What the drones were told and what every voter has must be the same.
fn reconcile(hosts: &[Host], jobs: usize, drones: &Drones) -> Option<String> {
    let acknowledged = watch("the last answers", s(20), Duration::from_millis(5), || {
        Some(drones.accepted()).filter(|accepted| *accepted >= jobs as u64)
    });
    for host in hosts {
        let queue = watch("a voter has all", s(20), Duration::from_millis(20), || {
            queue(host).filter(|queue| queue["received"].as_u64() == Some(jobs as u64))
        });
        if queue["needed"] != 0 || queue["delegated"] != 0 || queue["failed"] != 0 {
            return Some(format!("{}: {queue}", host.name));
        }
    }
    (acknowledged != jobs as u64 || drones.refused() > 0)
        .then(|| format!("{acknowledged} results acknowledged, {} reports refused", drones.refused()))
}

/// How long the status takes while 100,000 jobs wait and others are dispatched.
pub fn status_under_load(lab: &mut Lab, effort: Effort) -> Vec<Row> {
    let (hosts, _agents) = hive_of(lab, 3, &NO_BUILDS);
    let at = coordinator(&hosts);
    let (leader, other) = (&hosts[at], &hosts[(at + 1) % hosts.len()]);
    let waiting = effort.pick(MANY, 5_000);
    import(leader, "first", waiting);
    let scratch = leader.state().with_file_name("drones");
    // What is dispatched comes on top, so that as many wait all the time.
    import(leader, "second", effort.pick(60_000, 4_000));
    let _drones = Drones::join(leader, &scratch, 3, effort.pick(400, 16));
    watch("the first results", s(60), Duration::from_millis(2), || {
        Some(received(leader)).filter(|received| *received > 0)
    });
    let (began, before) = (Instant::now(), received(leader));
    let of_leader = sample_status(leader, s(effort.pick(8, 1)));
    let of_other = sample_status(other, s(effort.pick(8, 1)));
    let after = queue(leader).expect("a queue");
    let rate = (after["received"].as_u64().expect("a number") - before) as f64 / began.elapsed().as_secs_f64();
    let left = after["needed"].as_u64().expect("a number");
    let note = format!("{left} jobs wait, {rate:.0} jobs/s dispatched and completed meanwhile");
    let wrong = (left < waiting as u64).then(|| "fewer jobs were waiting than promised".to_owned());
    vec![
        Row::times("status of the coordinator under load", &of_leader).goal(Judged::P99, 10.0).note(&note).wrong(wrong),
        Row::times("status of another voter under load", &of_other).goal(Judged::P99, 10.0).note(note),
    ]
}

/// Asks for the status, a hundred times a second.
fn sample_status(host: &Host, span: Duration) -> Vec<Duration> {
    let mut client = connect(host);
    let began = Instant::now();
    let mut samples = Vec::new();
    while began.elapsed() < span {
        let since = Instant::now();
        assert!(client.get("/api/v2/status").is_some(), "a status");
        samples.push(since.elapsed());
        thread::park_timeout(Duration::from_millis(10).saturating_sub(since.elapsed()));
    }
    samples
}
