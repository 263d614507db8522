//! Partitions, restarts, lost quorum: what was acknowledged stays, and the hive comes back without help.

use serde_json::Value;

use crate::forming::{one_hive, roles};
use crate::harness::{Host, eventually, in_lab, s};

fn voters(host: &Host) -> Option<Vec<String>> {
    let status = host.status()?;
    let members = status["members"].as_array()?;
    Some(members.iter().filter(|m| m["raft"] == "voter").map(|m| m["name"].as_str().unwrap_or("").to_owned()).collect())
}

fn queue_trivial(host: &Host) -> Option<String> {
    std::fs::create_dir_all(host.tmp().join("trivial")).ok()?;
    std::fs::write(host.tmp().join("trivial/build.sh"), "mkdir out; echo ok > out/ok\n").ok()?;
    let answer = host.hive(&[
        "queue",
        "add",
        "--json",
        "--backend",
        "command",
        "--dir",
        "/tmp/trivial",
        "--artifact",
        "out/*",
        "--",
        "sh",
        "build.sh",
    ]);
    let value: Value = serde_json::from_str(&answer.stdout).ok()?;
    Some(value["data"]["jobs"][0]["id"].as_str()?.to_owned())
}

#[test]
fn status_is_answered_without_quorum_and_says_so() {
    in_lab("faults::status_is_answered_without_quorum_and_says_so", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let mut agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        one_hive(&hosts.iter().collect::<Vec<_>>(), 40);
        eventually("three voters", s(30), || (voters(&hosts[0])?.len() == 3).then_some(()));
        agents.remove(2).kill();
        agents.remove(1).kill();
        let status =
            eventually("status without quorum", s(20), || hosts[0].status().filter(|status| status["quorum"] == false));
        assert_eq!(status["members"].as_array().expect("members").len(), 3);
        let mut curl = hosts[0].command("curl");
        curl.args(["-sf", "http://127.0.0.1:8100/api/v1/status"]);
        let page = crate::harness::run(curl);
        assert!(page.stdout.contains("\"quorum\":false"), "{}{}", page.stdout, page.stderr);
        let refused = hosts[0].hive(&["job", "cancel", "00000000-0000-4000-8000-000000000000"]);
        assert!([5, 7].contains(&refused.code), "a write without quorum is not acknowledged: {refused:?}");
    });
}

#[test]
fn a_voter_that_was_cut_off_catches_up() {
    in_lab("faults::a_voter_that_was_cut_off_catches_up", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let _agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        let (_, coordinator) = one_hive(&hosts.iter().collect::<Vec<_>>(), 40);
        eventually("three voters", s(30), || (voters(&hosts[0])?.len() == 3).then_some(()));
        // The coordinator itself is cut off: the others must elect another, and it must not go on acknowledging.
        let cut = hosts.iter().find(|host| host.name == coordinator).expect("ours");
        let rest: Vec<&Host> = hosts.iter().filter(|host| host.name != coordinator).collect();
        lab.partition(&[cut], &rest);
        eventually("the majority elects another coordinator", s(20), || {
            let status = rest[0].status()?;
            (status["quorum"] == true && status["coordinator"]["name"] != coordinator.as_str()).then_some(())
        });
        let id = eventually("the majority accepts work", s(20), || queue_trivial(rest[0]));
        eventually("the minority knows that it has no quorum", s(20), || {
            (cut.status()?["quorum"] == false).then_some(())
        });
        lab.heal();
        one_hive(&hosts.iter().collect::<Vec<_>>(), 40);
        eventually("the healed voter has the job", s(40), || {
            cut.json(&["job", "show", &id]).filter(|job| job["state"] == "received")
        });
    });
}

#[test]
fn everything_killed_and_restarted_is_the_same_hive_with_the_same_jobs() {
    in_lab("faults::everything_killed_and_restarted_is_the_same_hive_with_the_same_jobs", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        let (hive, _) = one_hive(&all, 40);
        let before = roles(&all, 30);
        let id = queue_trivial(&hosts[0]).expect("queued");
        eventually("built", s(60), || hosts[1].json(&["job", "show", &id]).filter(|job| job["state"] == "received"));
        for agent in agents {
            agent.kill();
        }
        let _agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        let (again, _) = one_hive(&all, 40);
        assert_eq!(again, hive);
        assert_eq!(roles(&all, 10), before);
        let job = eventually("the job is known", s(10), || hosts[2].json(&["job", "show", &id]));
        assert_eq!(job["state"], "received");
    });
}

#[test]
fn sigterm_ends_the_coordinator_at_once_and_hands_over() {
    in_lab("faults::sigterm_ends_the_coordinator_at_once_and_hands_over", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let mut agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        let (_, coordinator) = one_hive(&hosts.iter().collect::<Vec<_>>(), 40);
        eventually("three voters", s(30), || (voters(&hosts[0])?.len() == 3).then_some(()));
        let position = agents.iter().position(|agent| agent.host.name == coordinator).expect("ours");
        let took = agents.remove(position).terminate();
        assert!(took.as_millis() <= 1_500, "SIGTERM to end took {took:?}");
        let other = hosts.iter().find(|host| host.name != coordinator).expect("two left");
        eventually("another coordinator", s(5), || {
            let status = other.status()?;
            (status["quorum"] == true && status["coordinator"]["name"] != coordinator.as_str()).then_some(())
        });
    });
}

#[test]
fn an_observer_follows_the_log() {
    in_lab("faults::an_observer_follows_the_log", |lab| {
        let hosts: [Host; 7] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let _agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        one_hive(&all, 60);
        let observer = eventually("an observer", s(60), || {
            let status = hosts[0].status()?;
            let members = status["members"].as_array()?.clone();
            let settled = members.iter().filter(|m| m["raft"] == "voter").count() >= 3;
            let name = members.iter().find(|m| m["raft"] == "observer")?["name"].as_str()?.to_owned();
            settled.then(|| hosts.iter().find(|host| host.name == name).expect("ours"))
        });
        let id = queue_trivial(observer).expect("an observer forwards what is queued on it");
        eventually("the observer sees the end", s(60), || {
            observer.json(&["job", "show", &id]).filter(|job| job["state"] == "received")
        });
        let applied = |host: &Host| host.status().and_then(|status| status["log"]["applied"].as_u64());
        eventually("the observer is level with a voter", s(10), || {
            (applied(observer)? == applied(&hosts[0])?).then_some(())
        });
    });
}

#[test]
fn identity_reset_asks_the_hive_again() {
    in_lab("faults::identity_reset_asks_the_hive_again", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let mut agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        one_hive(&all, 40);
        roles(&all, 30);
        let ballot = |host: &Host| host.identity().map(|identity| identity["ballot"].to_string());
        let member = hosts.iter().find(|host| host.identity().expect("identity")["role"] != "founder").expect("one");
        let first = ballot(member).expect("ballot");
        assert_eq!(member.hive(&["identity", "reset"]).code, 0);
        let second = eventually("a new ballot without a restart", s(15), || ballot(member).filter(|now| *now != first));
        // Deleting the file and restarting does the same.
        let position = agents.iter().position(|agent| agent.host.name == member.name).expect("ours");
        agents.remove(position).terminate();
        std::fs::remove_file(member.state().join("identity.json")).expect("identity removed");
        agents.push(member.start(&[]));
        eventually("a new ballot after the restart", s(30), || {
            ballot(member).filter(|now| *now != second && *now != first)
        });
    });
}
