//! Drones of the Python build swarm: packages handed out and acknowledged over HTTP.
//!
//! Four drones, each on one connection with one request at a time, as those drones are: `GET work`, `POST complete`, and again. They ask
//! all three nodes in turn, so that most of what they say travels to the coordinator first. A completion is answered after a majority has it on
//! the disk. Nothing is built: what a drone does between the two is its own. Once with packages that leave no file, once with an uploaded
//! package that is found and read to its end for each, and once while the coordinator is killed; then what was acknowledged is compared with what
//! the hive has.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Effort;
use crate::client::Client;
use crate::gpkg;
use crate::harness::{Agent, Host, Lab, s};
use crate::hive_of::{coordinator, hive_of, watch};
use crate::row::{Judged, Row};

const DRONES: usize = 4;
/// The door is open to the drones, and the nodes build nothing themselves.
const OPEN: [&str; 6] = ["--build-slots", "0", "--legacy-drones", "open", "--legacy-networks", "10.77.0.0/24"];
/// Below `/tmp` of a host.
const STAGING: &str = "/tmp/staging";

/// What all drones have in common.
struct Swarm {
    addresses: Vec<SocketAddr>,
    /// How often each package was acknowledged.
    acknowledged: Mutex<BTreeMap<String, u32>>,
    count: AtomicUsize,
    refused: AtomicUsize,
    stop: AtomicBool,
}

impl Swarm {
    fn of(hosts: &[Host]) -> Self {
        let address = |host: &Host| format!("{}:8100", host.address).parse().expect("an address");
        Self {
            addresses: hosts.iter().map(address).collect(),
            acknowledged: Mutex::default(),
            count: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// Acknowledged so far.
    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// What each drone does until it is told to stop.
    fn drone(&self, number: usize) {
        let name = format!("drone-{number}");
        let mut node = Node { swarm: self, at: number, client: None };
        let register = json!({ "name": name, "capabilities": { "cores": 8, "ram_gb": 16 }, "version": "2.6" });
        node.ask("POST", "/api/v1/register", Some(&register));
        let work = format!("/api/v1/work?id={name}");
        while !self.stop.load(Ordering::Relaxed) {
            let Some(package) = node.ask("GET", &work, None)["package"].as_str().map(str::to_owned) else { continue };
            let done = json!({ "id": name, "package": package, "status": "success", "build_duration_s": 0.0 });
            if node.ask("POST", "/api/v1/complete", Some(&done))["accepted"] == true {
                *self.acknowledged.lock().expect("lock").entry(package).or_default() += 1;
                self.count.fetch_add(1, Ordering::Relaxed);
            } else {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Runs the drones until so many packages are acknowledged, or `look` says that it is enough.
    fn run(&self, wanted: usize, deadline: Duration, mut look: impl FnMut(usize)) -> Duration {
        thread::scope(|scope| {
            for number in 0..DRONES {
                scope.spawn(move || self.drone(number));
            }
            let before = self.count();
            watch("the first result", s(60), Duration::from_millis(1), || (self.count() > before).then_some(()));
            let began = Instant::now();
            while self.count() < wanted && began.elapsed() < deadline {
                look(self.count());
                thread::park_timeout(Duration::from_millis(2));
            }
            let took = began.elapsed();
            self.stop.store(true, Ordering::Relaxed);
            took
        })
    }
}

/// The node that a drone asks at the moment.
struct Node<'a> {
    swarm: &'a Swarm,
    at: usize,
    client: Option<Client<TcpStream>>,
}

impl Node<'_> {
    /// Asks until it is answered, of the next node when one does not.
    fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Value {
        loop {
            if self.client.is_none() {
                let address = self.swarm.addresses[self.at % self.swarm.addresses.len()];
                self.client = Client::connect_tcp(address);
            }
            let answer = self.client.as_mut().and_then(|client| client.ask(method, path, body));
            match answer {
                Some((200, answer)) => return answer,
                _ if self.swarm.stop.load(Ordering::Relaxed) => return Value::Null,
                // Told to come again, or nothing: another node may know more.
                _ => {
                    self.client = None;
                    self.at += 1;
                    thread::park_timeout(Duration::from_millis(20));
                }
            }
        }
    }
}

fn queue(swarm: &Swarm, packages: &[String]) {
    let mut node = Node { swarm, at: 0, client: None };
    let queued = node.ask("POST", "/api/v1/queue", Some(&json!({ "packages": packages })));
    assert_eq!(queued["queued"].as_u64(), Some(packages.len() as u64), "{queued}");
}

fn received(host: &Host) -> Option<u64> {
    crate::client::status(host)?["queue"]["received"].as_u64()
}

/// What the drones were told and what these nodes have must be the same.
fn reconcile(swarm: &Swarm, hosts: &[&Host], wanted: usize) -> Option<String> {
    let acknowledged = swarm.acknowledged.lock().expect("lock");
    let twice = acknowledged.values().filter(|times| **times > 1).count();
    if acknowledged.len() != wanted || twice > 0 {
        return Some(format!("{} of {wanted} packages acknowledged, {twice} of them twice", acknowledged.len()));
    }
    for host in hosts {
        let all = watch("a node that has all", s(30), Duration::from_millis(20), || {
            received(host).filter(|received| *received >= wanted as u64)
        });
        if all != wanted as u64 {
            return Some(format!("{} has {all} results, {wanted} were acknowledged", host.name));
        }
    }
    None
}

fn names(category: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("={category}/p{number:06}-1")).collect()
}

fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// Packages per second through the API of the Python swarm.
pub fn over_http(lab: &mut Lab, effort: Effort) -> Vec<Row> {
    let mut rows = Vec::new();
    let count = effort.pick(20_000, 600);
    let (hosts, agents) = hive_of(lab, 3, &OPEN);
    let swarm = Swarm::of(&hosts);
    queue(&swarm, &names("virtual", count));
    let took = swarm.run(count, s(effort.pick(120, 60)), |_| {});
    let wrong = reconcile(&swarm, &hosts.iter().collect::<Vec<_>>(), count);
    let row = Row::new("packages handed out and acknowledged over HTTP", "jobs/s", vec![rate(count, took)])
        .note(format!("three voters, {DRONES} drones of one request at a time, {count} packages without a file"))
        .wrong(wrong);
    // So few packages are over before plans run ahead of the drones: a short run only shows that it works.
    rows.push(if effort.short { row } else { row.goal(Judged::Min, 1_500.0) });
    drop(agents);
    hosts.iter().for_each(crate::hive_of::wipe);
    rows.push(with_uploads(lab, effort.pick(3_000, 150)));
    rows.push(with_a_death(lab, effort.pick(10_000, 400)));
    rows
}

fn upload(staging: &Path, packages: &[String]) {
    for package in packages {
        let (category, pf) = package.trim_start_matches('=').split_once('/').expect("an atom");
        let directory = staging.join(category).join(pf.rsplit_once('-').expect("a version").0);
        fs::create_dir_all(&directory).expect("directory");
        let content = pf.as_bytes().repeat(2_000);
        fs::write(directory.join(format!("{pf}-1.gpkg.tar")), gpkg::package(category, pf, Some(1), &content))
            .expect("file");
    }
}

fn with_uploads(lab: &mut Lab, count: usize) -> Row {
    let arguments = [&OPEN[..], &["--staging-path", STAGING]].concat();
    let hosts: Vec<Host> = (0..3).map(|_| lab.host()).collect();
    let packages = names("dev-libs", count);
    let staging = hosts[0].tmp().join("staging");
    fs::create_dir_all(&staging).expect("staging");
    upload(&staging, &packages);
    let start = |(number, host): (usize, &Host)| host.start(if number == 0 { &arguments } else { &OPEN });
    let _agents: Vec<Agent> = hosts.iter().enumerate().map(start).collect();
    crate::hive_of::settle(&hosts, 120);
    let swarm = Swarm::of(&hosts);
    queue(&swarm, &packages);
    let took = swarm.run(count, s(120), |_| {});
    let wrong = reconcile(&swarm, &hosts.iter().collect::<Vec<_>>(), count);
    hosts.iter().for_each(crate::hive_of::wipe);
    Row::new("the same, each with an uploaded package that is verified", "jobs/s", vec![rate(count, took)])
        .note(format!("{count} packages, one node with staging"))
        .wrong(wrong)
}

/// The coordinator is killed when half is done. What was acknowledged before and after must be there, once.
fn with_a_death(lab: &mut Lab, count: usize) -> Row {
    let (hosts, agents) = hive_of(lab, 3, &OPEN);
    let dies = coordinator(&hosts);
    let swarm = Swarm::of(&hosts);
    queue(&swarm, &names("virtual", count));
    let mut agents: Vec<Option<Agent>> = agents.into_iter().map(Some).collect();
    let mut longest = (Instant::now(), 0, Duration::ZERO);
    let took = swarm.run(count, s(120), |done| {
        if done >= count / 2
            && let Some(agent) = agents[dies].take()
        {
            agent.kill();
        }
        if done != longest.1 {
            longest = (Instant::now(), done, longest.2.max(longest.0.elapsed()));
        }
    });
    let alive: Vec<&Host> = hosts.iter().enumerate().filter(|(at, _)| *at != dies).map(|(_, host)| host).collect();
    let wrong = reconcile(&swarm, &alive, count);
    let wrong = wrong.or_else(|| agents[dies].is_some().then(|| "the coordinator was not killed".to_owned()));
    drop(agents);
    hosts.iter().for_each(crate::hive_of::wipe);
    Row::new("longest wait for an acknowledgement while the coordinator is killed", "s", vec![longest.2.as_secs_f64()])
        .note(format!("{count} packages in {:.1} s, each acknowledged once and there", took.as_secs_f64()))
        .wrong(wrong)
}
