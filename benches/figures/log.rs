//! The replicated log: how fast it takes changes, how fast it reaches observers, what it costs the coordinator.
//!
//! Changes are submissions of jobs through the coordinator's local API, durable on a majority of three or five voters when they are
//! answered. The drones have no slots here, so that nothing else changes the state meanwhile.

use std::fs::{self, File};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hive::engine::job::{DebianSource, JobSpec, Work};

use crate::Effort;
use crate::client::{Client, job, socket_of, status};
use crate::harness::{Agent, Host, Lab, s};
use crate::hive_of::{coordinator, coordinator_of_most, count, crowd, hive_of, settle, watch};
use crate::row::{Judged, Row};

/// No builds here.
const NO_BUILDS: [&str; 2] = ["--build-slots", "0"];
/// Most jobs that one command carries.
const JOBS_PER_COMMAND: usize = 64;
/// Connections that submit at the same time.
const WRITERS: usize = 16;

/// A job that needs no source to be queued.
fn plain_job() -> JobSpec {
    let source = DebianSource::Archive { package: "hello".into(), version: None };
    job(Work::Debian { source })
}

fn connect(host: &Host) -> Client {
    Client::connect(&socket_of(host)).expect("the agent answers")
}

/// From the answer that a change is committed to the moment an observer shows it.
pub fn observer_lag(lab: &mut Lab, effort: Effort) -> Vec<Row> {
    let (hosts, _agents) = hive_of(lab, 9, &NO_BUILDS);
    let leader = coordinator(&hosts);
    let observers: Vec<&Host> = watch("observers", s(60), Duration::from_millis(50), || {
        let status = status(&hosts[leader])?;
        let observes = |host: &&Host| {
            count(&status, |member| member["name"] == host.name.as_str() && member["raft"] == "observer") == 1
        };
        let found: Vec<&Host> = hosts.iter().filter(observes).collect();
        (!found.is_empty() && count(&status, |member| member["raft"] == "standby") == 1).then_some(found)
    });
    let mut writing = connect(&hosts[leader]);
    let mut reading: Vec<Client> = observers.iter().map(|host| connect(host)).collect();
    let rounds = effort.pick(300, 20);
    let samples: Vec<Duration> = (0..rounds)
        .map(|round| {
            let spec = plain_job();
            let path = format!("/api/v2/jobs/{}", spec.id.0);
            assert!(writing.submit(&[spec]), "the coordinator takes a job");
            let since = Instant::now();
            let place = round % reading.len();
            watch("the observer shows it", s(20), Duration::from_micros(300), || reading[place].get(&path));
            since.elapsed()
        })
        .collect();
    vec![
        Row::times("committed change to an observer", &samples)
            .goal(Judged::P99, 200.0)
            .note(format!("five voters, a standby, {} observers", observers.len())),
    ]
}

/// Bytes that a host has sent and received, at the bridge.
fn bytes_of(host: &Host) -> (u64, u64) {
    let number = host.name.trim_start_matches('n');
    let read = |what: &str| -> u64 {
        let path = format!("/sys/class/net/v{number}/statistics/{what}");
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).expect("a counter of the lab")
    };
    (read("rx_bytes"), read("tx_bytes"))
}

/// kB/s that the coordinator sends and receives while jobs are queued through its socket at a steady pace.
fn coordinator_rate(hosts: &[Host], span: Duration, jobs_per_s: u32) -> (f64, f64) {
    let leader = coordinator_of_most(hosts);
    let mut writing = connect(&hosts[leader]);
    let before = bytes_of(&hosts[leader]);
    let began = Instant::now();
    let mut queued = 0u32;
    while began.elapsed() < span {
        let due = Duration::from_secs(u64::from(queued)) / jobs_per_s.max(1);
        if jobs_per_s > 0 && began.elapsed() >= due {
            assert!(writing.submit(&[plain_job()]), "the coordinator takes a job");
            queued += 1;
        } else {
            thread::park_timeout(Duration::from_millis(5));
        }
    }
    let after = bytes_of(&hosts[leader]);
    let rate = |from: u64, to: u64| (to - from) as f64 / 1_000.0 / began.elapsed().as_secs_f64();
    (rate(before.0, after.0), rate(before.1, after.1))
}

/// What the coordinator sends with 10 and with 30 observers.
pub fn coordinator_bytes(lab: &mut Lab, effort: Effort) -> Vec<Row> {
    let span = s(effort.pick(30, 5));
    let few = 6 + 10;
    let more = effort.pick(20, 4);
    let all: Vec<Host> = (0..few + more).map(|_| lab.host()).collect();
    lab.introduce(&all);
    let (mut hosts, rest) = (all[..few].to_vec(), &all[few..]);
    let mut agents: Vec<Agent> = hosts.iter().map(|host| host.start(&NO_BUILDS)).collect();
    settle(&hosts, 120);
    let with_few = (coordinator_rate(&hosts, span, 0), coordinator_rate(&hosts, span, 20));
    agents.extend(rest.iter().map(|host| host.start(&NO_BUILDS)));
    hosts.extend_from_slice(rest);
    crowd(&hosts, 120);
    let with_many = (coordinator_rate(&hosts, span, 0), coordinator_rate(&hosts, span, 20));
    let one = |name: String, (sent, received): (f64, f64)| {
        Row::new(&name, "kB/s", vec![sent]).note(format!("sent; received {received:.1} kB/s"))
    };
    let (ten, thirty) = (few - 6, few - 6 + more);
    let ratio = with_many.1.0 / with_few.1.0;
    vec![
        one(format!("coordinator with {ten} observers, idle"), with_few.0),
        one(format!("coordinator with {thirty} observers, idle"), with_many.0),
        one(format!("coordinator with {ten} observers, 20 jobs/s queued"), with_few.1),
        one(format!("coordinator with {thirty} observers, 20 jobs/s queued"), with_many.1),
        Row::new("coordinator's sent bytes, 30 observers to 10, 20 jobs/s queued", "ratio", vec![ratio])
            .goal(Judged::Max, 1.25)
            .note("flat is taken as at most a quarter more"),
    ]
}

/// What the disk needs for a durable write, as a yardstick for the rows beside it.
fn disk_row(host: &Host) -> Row {
    let path = host.state().join("yardstick");
    let mut file = File::create(&path).expect("a file");
    let samples: Vec<Duration> = (0..200)
        .map(|_| {
            let since = Instant::now();
            file.write_all(&[7; 512]).and_then(|()| file.sync_data()).expect("a durable write");
            since.elapsed()
        })
        .collect();
    fs::remove_file(path).expect("the yardstick's own file");
    Row::times("yardstick: 512 bytes written and synced by one process", &samples)
}

/// Submits with all writers for a while; changes per second in tenths of it.
fn flood(host: &Host, span: Duration, jobs_per_request: usize) -> Vec<f64> {
    let (done, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut rates = Vec::new();
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                let mut writing = connect(host);
                while !stop.load(Ordering::Relaxed) {
                    let jobs: Vec<JobSpec> = (0..jobs_per_request).map(|_| plain_job()).collect();
                    if writing.submit(&jobs) {
                        done.fetch_add(jobs.len(), Ordering::Relaxed);
                    } else {
                        writing = connect(host);
                    }
                }
            });
        }
        for _ in 0..10 {
            let (since, before) = (Instant::now(), done.load(Ordering::Relaxed));
            while since.elapsed() < span / 10 {
                thread::park_timeout(span / 10);
            }
            rates.push((done.load(Ordering::Relaxed) - before) as f64 / since.elapsed().as_secs_f64());
        }
        stop.store(true, Ordering::Relaxed);
    });
    rates
}

/// Durable changes per second with three voters: one after the other, by many writers, and in batches.
pub fn transitions(lab: &mut Lab, effort: Effort) -> Vec<Row> {
    let (hosts, _agents) = hive_of(lab, 3, &NO_BUILDS);
    let leader = &hosts[coordinator(&hosts)];
    let mut writing = connect(leader);
    let count = effort.pick(1_000, 50);
    let began = Instant::now();
    let latencies: Vec<Duration> = (0..count)
        .map(|_| {
            let since = Instant::now();
            assert!(writing.submit(&[plain_job()]), "the coordinator takes a job");
            since.elapsed()
        })
        .collect();
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    let span = s(effort.pick(10, 2));
    // The mean over the whole time is what is promised; the tenths are its spread.
    let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len() as f64;
    let (single, batched) = (flood(leader, span, 1), flood(leader, span, JOBS_PER_COMMAND));
    vec![
        disk_row(leader),
        Row::new("durable transitions one at a time", "1/s", vec![rate]).goal(Judged::Min, 150.0).note("three voters"),
        Row::times("one durable transition", &latencies),
        Row::new(&format!("durable transitions, {WRITERS} writers, one each"), "1/s", single),
        Row::new("durable transitions, batched", "1/s", vec![mean(&batched)])
            .goal(Judged::Min, 3_000.0)
            .note(format!("{WRITERS} writers, {JOBS_PER_COMMAND} jobs in a request")),
        Row::new("the same in tenths of the time", "1/s", batched),
    ]
}
