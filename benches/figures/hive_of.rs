//! Hives to measure, and the questions that all figures ask them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::client::status;
use crate::harness::{Agent, Host, Lab, eventually, s};

/// Starts so many hosts with these arguments, and waits until they are one settled hive.
pub fn hive_of(lab: &mut Lab, count: usize, arguments: &[&str]) -> (Vec<Host>, Vec<Agent>) {
    let hosts: Vec<Host> = (0..count).map(|_| lab.host()).collect();
    let agents = hosts.iter().map(|host| host.start(arguments)).collect();
    settle(&hosts, 120);
    (hosts, agents)
}

/// Waits until every host sees all of them alive under one coordinator, as many vote as should, and all have a role.
pub fn settle(hosts: &[Host], seconds: u64) {
    let wanted = match hosts.len() {
        0..=2 => 1,
        3..=4 => 3,
        _ => 5,
    };
    eventually("a settled hive", s(seconds), || {
        let mut coordinators = BTreeSet::new();
        for host in hosts {
            let status = status(host)?;
            let alive = count(&status, |member| member["state"] == "alive");
            let voters = count(&status, |member| member["raft"] == "voter" && member["state"] == "alive");
            if alive != hosts.len() || voters != wanted || status["quorum"] != true || status["self"]["role"].is_null()
            {
                return None;
            }
            coordinators.insert(status["coordinator"]["name"].as_str()?.to_owned());
        }
        (coordinators.len() == 1).then_some(())
    });
}

/// Waits until all are members, as the coordinator has it, and nine of ten are alive at the same time. So many agents on few
/// processors keep suspecting each other, which does not matter for what they send.
pub fn crowd(hosts: &[Host], seconds: u64) {
    eventually("a hive of many", s(seconds), || {
        let leader = &hosts[coordinator_of_most(hosts)];
        let status = status(leader)?;
        let alive = count(&status, |member| member["state"] == "alive");
        let members = count(&status, |member| member["raft"] != "none");
        let voters = count(&status, |member| member["raft"] == "voter");
        (members == hosts.len() && voters == 5 && alive * 10 >= hosts.len() * 9).then_some(())
    });
}

/// Index of the host that calls itself the coordinator with quorum.
pub fn coordinator_of_most(hosts: &[Host]) -> usize {
    eventually("a coordinator", s(60), || {
        hosts.iter().position(|host| {
            let leads = |status: Value| {
                status["quorum"] == true && status["coordinator"]["name"].as_str() == Some(host.name.as_str())
            };
            status(host).is_some_and(leads)
        })
    })
}

/// Members that fit.
pub fn count(status: &Value, fits: impl Fn(&Value) -> bool) -> usize {
    status["members"].as_array().map_or(0, |members| members.iter().filter(|member| fits(member)).count())
}

/// State of a member as a host sees it.
pub fn state_of(host: &Host, name: &str) -> Option<String> {
    let status = status(host)?;
    let member = status["members"].as_array()?.iter().find(|member| member["name"] == name)?.clone();
    Some(member["state"].as_str()?.to_owned())
}

/// Index of the coordinator that all hosts agree on.
pub fn coordinator(hosts: &[Host]) -> usize {
    eventually("a coordinator that all know", s(30), || {
        let names: Option<BTreeSet<String>> = hosts
            .iter()
            .map(|host| {
                let status = status(host)?;
                (status["quorum"] == true).then(|| status["coordinator"]["name"].as_str().map(str::to_owned)).flatten()
            })
            .collect();
        let names = names?;
        let name = names.first().filter(|_| names.len() == 1)?.clone();
        hosts.iter().position(|host| host.name == name)
    })
}

/// A host as it was before hive.
pub fn wipe(host: &Host) {
    empty(&host.state());
    empty(&host.state().with_file_name("run"));
}

/// The directory itself stays: it may be mounted.
fn empty(directory: &Path) {
    for entry in fs::read_dir(directory).expect("a directory of the lab").flatten() {
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.expect("the lab's own file");
    }
}

/// Asks every `pause` until there is an answer. For time that is measured: does without the lab's coarser pause.
pub fn watch<T>(what: &str, deadline: Duration, pause: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = std::time::Instant::now() + deadline;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(std::time::Instant::now() < until, "not within {deadline:?}: {what}");
        thread::park_timeout(pause);
    }
}
