//! How long a death goes unnoticed, and how long work stands still.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use hive::engine::job::{Source, Work};

use crate::Effort;
use crate::client::{Client, job, socket_of, status};
use crate::harness::{Agent, Lab, s};
use crate::hive_of::{coordinator, hive_of, settle, state_of, watch};
use crate::row::{Judged, Row};

/// How often survivors are asked.
const LOOK: Duration = Duration::from_millis(10);
/// A repository that every host of the lab sees.
const REPOSITORY: &str = "/run/measured.git";

/// From SIGKILL to the first survivor, and to every survivor, that shows the node as down.
pub fn crash_seen(lab: &mut Lab, effort: Effort) -> Vec<Row> {
    let (hosts, mut agents) = hive_of(lab, effort.pick(10, 5), &[]);
    let (rounds, budget) = (effort.pick(40, 2), s(effort.pick(210, 30)));
    let began = Instant::now();
    let (mut first, mut all, mut falsely) = (Vec::new(), Vec::new(), 0);
    while first.is_empty() || (first.len() < rounds && began.elapsed() < budget) {
        let leader = coordinator(&hosts);
        // Round about, but never the coordinator: its death is another figure.
        let victim = (0..hosts.len()).map(|i| (first.len() + i) % hosts.len()).find(|&i| i != leader).expect("another");
        let name = hosts[victim].name.clone();
        let since = Instant::now();
        agents.remove(victim).kill();
        let mut seen: Vec<Option<Duration>> = vec![None; hosts.len()];
        watch("the crash is seen by all", s(40), LOOK, || {
            for (host, seen) in hosts.iter().zip(&mut seen).filter(|(host, seen)| host.name != name && seen.is_none()) {
                if state_of(host, &name).is_some_and(|state| state == "down") {
                    *seen = Some(since.elapsed());
                }
            }
            (seen.iter().flatten().count() == hosts.len() - 1).then_some(())
        });
        first.push(seen.iter().flatten().min().copied().expect("one"));
        all.push(seen.iter().flatten().max().copied().expect("one"));
        falsely += hosts
            .iter()
            .filter(|host| host.name != name)
            .filter(|host| {
                hosts.iter().any(|other| other.name != name && state_of(host, &other.name).as_deref() == Some("down"))
            })
            .count();
        agents.insert(victim, hosts[victim].start(&[]));
        settle(&hosts, 60);
    }
    let nodes = hosts.len();
    vec![
        Row::times(&format!("crash of one of {nodes} seen by the first other"), &first),
        Row::times(&format!("crash of one of {nodes} seen by all others"), &all)
            .goal(Judged::Max, 5_000.0)
            .note(format!("{falsely} false alarms")),
    ]
}

fn make_repository() {
    let script = format!(
        "git init -q --initial-branch main {REPOSITORY}.work && cd {REPOSITORY}.work && \
         git -c user.name=lab -c user.email=lab@example.invalid commit -q --allow-empty -m one && \
         git clone -q --bare {REPOSITORY}.work {REPOSITORY}"
    );
    let made = Command::new("sh").args(["-c", &script]).status().expect("sh runs");
    assert!(made.success() && fs::exists(REPOSITORY).unwrap_or(false), "git makes a repository");
}

/// From SIGKILL of the coordinator to the next assignment, of a job that is queued on a survivor in that moment.
pub fn coordinator_killed(lab: &mut Lab, effort: Effort) -> Vec<Row> {
    make_repository();
    let (hosts, mut agents) = hive_of(lab, 3, &[]);
    let (rounds, budget) = (effort.pick(100, 3), s(effort.pick(270, 40)));
    let began = Instant::now();
    let (mut assigned, mut elected) = (Vec::new(), Vec::new());
    while assigned.is_empty() || (assigned.len() < rounds && began.elapsed() < budget) {
        let leader = coordinator(&hosts);
        let survivor = &hosts[(leader + 1) % hosts.len()];
        let old = hosts[leader].name.clone();
        let source = Source::Git { url: REPOSITORY.into(), branch: Some("main".into()), commit: None };
        let spec = job(Work::Command { source, argv: vec!["true".into()], artifacts: Vec::new() });
        let path = format!("/api/v2/jobs/{}", spec.id.0);
        let socket = socket_of(survivor);
        let since = Instant::now();
        agents.remove(leader).kill();
        // The id makes it the same job however often it is queued.
        let queueing = thread::spawn(move || {
            while !Client::connect(&socket).is_some_and(|mut to| to.submit(std::slice::from_ref(&spec))) {}
        });
        let mut asking = Client::connect(&socket_of(survivor)).expect("the survivor answers");
        let mut new_leader = None;
        let (to_assigned, node) = watch("an assignment", s(40), LOOK, || {
            if new_leader.is_none() {
                let coordinator = status(survivor)?["coordinator"]["name"].as_str().map(str::to_owned);
                new_leader = coordinator.filter(|name| *name != old).map(|_| since.elapsed());
            }
            let node = asking.get(&path)?["attempts"][0]["node"].as_str()?.to_owned();
            Some((since.elapsed(), node))
        });
        queueing.join().expect("the queueing thread ends");
        // An assignment to the dead node, which nobody knows to be dead yet, is one that nobody carries out.
        if node != old {
            assigned.push(to_assigned);
        } else {
            assigned.push(until_assigned_elsewhere(&mut asking, &path, &old, since));
        }
        elected.extend(new_leader);
        agents.insert(leader, hosts[leader].start(&[]));
        settle(&hosts, 60);
    }
    drop::<Vec<Agent>>(agents);
    vec![
        Row::times("coordinator killed: another one is known", &elected),
        Row::times("coordinator killed: next assignment to a live node", &assigned)
            .goal(Judged::P99, 2_500.0)
            .note("three voters; the job is queued on a survivor in the moment of the kill"),
    ]
}

fn until_assigned_elsewhere(asking: &mut Client, path: &str, dead: &str, since: Instant) -> Duration {
    watch("an assignment to a live node", s(60), LOOK, || {
        let job = asking.get(path)?;
        let live = job["attempts"].as_array()?.iter().any(|attempt| attempt["node"] != dead);
        live.then(|| since.elapsed())
    })
}
