//! Partitions, restarts, lost quorum: what was acknowledged stays, and the hive comes back without help.

use serde_json::Value;

use crate::forming::{one_hive, roles};
use crate::harness::{Host, eventually, in_lab, s, sh};

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
        curl.args(["-sf", "http://127.0.0.1:8100/api/v2/status"]);
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

#[test]
fn a_majority_that_is_gone_for_good_is_recovered_and_the_hive_gets_three_voters_again() {
    in_lab("faults::a_majority_that_is_gone_for_good_is_recovered_and_the_hive_gets_three_voters_again", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let mut agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        let (hive, _) = one_hive(&all, 40);
        eventually("three voters", s(30), || (voters(&hosts[0])?.len() == 3).then_some(()));
        let id = queue_trivial(&hosts[1]).expect("queued");
        eventually("built, and known here", s(60), || {
            hosts[0].json(&["job", "show", &id]).filter(|job| job["state"] == "received")
        });
        let refused = hosts[0].hive(&["recover", "--yes"]);
        assert_eq!(refused.code, 1, "there is a quorum: {refused:?}");
        agents.remove(2).kill();
        agents.remove(1).kill();
        eventually("no quorum", s(20), || hosts[0].status().filter(|status| status["quorum"] == false));
        let report = eventually("recovers", s(30), || hosts[0].json(&["recover", "--yes"]));
        assert_eq!((&report["recovered"], &report["epoch"]), (&Value::from(true), &Value::from(2)), "{report}");
        assert_eq!(report["source"], "n1");
        assert!(report["may_be_lost"].as_str().expect("text").contains("n2"), "{report}");
        let status = eventually("quorum", s(20), || hosts[0].status().filter(|status| status["quorum"] == true));
        assert_eq!((&status["log"]["epoch"], status["hive_id"].as_str()), (&Value::from(2), Some(hive.as_str())));
        let job = hosts[0].json(&["job", "show", &id]).expect("known");
        assert_eq!(job["state"], "received");
        // Those that were thought lost come back, with the log of the epoch that is over.
        agents.extend(hosts[1..].iter().map(|host| host.start(&[])));
        one_hive(&all, 60);
        eventually("three voters again", s(60), || (voters(&hosts[0])?.len() == 3).then_some(()));
        let second = queue_trivial(&hosts[2]).expect("queued");
        eventually("built", s(60), || {
            hosts[1].json(&["job", "show", &second]).filter(|job| job["state"] == "received")
        });
    });
}

#[test]
fn a_full_disk_refuses_what_it_cannot_keep_and_says_so_until_there_is_room() {
    in_lab("faults::a_full_disk_refuses_what_it_cannot_keep_and_says_so_until_there_is_room", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        for host in &all {
            sh(&format!("mount -t tmpfs -o size=1g full {}", host.state().display()));
        }
        let mut agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        one_hive(&all, 40);
        eventually("three voters", s(30), || (voters(&hosts[0])?.len() == 3).then_some(()));
        let before = queue_trivial(&hosts[0]).expect("queued");
        for host in &all {
            sh(&format!("fallocate -l 920m {}", host.state().join("ballast").display()));
        }
        for host in &all {
            eventually("says that its disk is nearly full", s(20), || {
                let notices = host.status()?["notices"].to_string();
                notices.contains("disk").then_some(())
            });
        }
        let answer = eventually("refuses", s(20), || {
            let answer = hosts[0].hive(&["queue", "add", "--backend", "debian", "hello"]);
            (answer.code != 0).then_some(answer)
        });
        assert!(answer.stderr.contains("disk") || answer.stderr.contains("space"), "{answer:?}");
        // Not a byte is left on one of them: its agent may not invent anything, and goes on by itself afterwards.
        sh(&format!("dd if=/dev/zero of={} bs=64k status=none || true", hosts[2].state().join("more").display()));
        agents.remove(2).kill();
        agents.push(hosts[2].start(&[]));
        for host in &all {
            sh(&format!("rm -f {0}/ballast {0}/more", host.state().display()));
        }
        let alive = eventually("lives or has ended", s(30), || {
            let alive = hosts[2].status().is_some();
            (alive || hosts[2].log().contains("the agent ends")).then_some(alive)
        });
        if !alive {
            // What the service manager does.
            agents.push(hosts[2].start(&[]));
        }
        one_hive(&all, 60);
        let after = eventually("accepts again", s(30), || queue_trivial(&hosts[1]));
        for id in [before, after] {
            eventually("built", s(60), || {
                hosts[2].json(&["job", "show", &id]).filter(|job| job["state"] == "received")
            });
        }
    });
}

#[test]
fn a_voter_that_was_replaced_while_it_was_away_comes_back_as_what_it_is() {
    in_lab("faults::a_voter_that_was_replaced_while_it_was_away_comes_back_as_what_it_is", |lab| {
        let hosts: [Host; 4] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let mut agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        let (_, coordinator) = one_hive(&all, 40);
        let first = eventually("three voters", s(30), || voters(&hosts[0]).filter(|voters| voters.len() == 3));
        let gone = first.iter().find(|name| **name != coordinator).expect("a follower");
        let gone = all.iter().position(|host| host.name == *gone).expect("ours");
        let rest: Vec<&Host> = all.iter().enumerate().filter(|(at, _)| *at != gone).map(|(_, host)| *host).collect();
        agents.remove(gone).kill();
        eventually("another has its place", s(60), || {
            let voters = voters(rest[0])?;
            (voters.len() == 3 && !voters.contains(&all[gone].name)).then_some(())
        });
        agents.push(all[gone].start(&[]));
        one_hive(&all, 60);
        eventually("follows the hive as standby or observer", s(60), || {
            let status = all[gone].status()?;
            let own = status["members"].as_array()?.iter().find(|member| member["name"] == all[gone].name.as_str())?;
            (["standby", "observer"].contains(&own["raft"].as_str()?)).then_some(())
        });
        let id = queue_trivial(rest[0]).expect("queued");
        eventually("sees new work", s(60), || {
            all[gone].json(&["job", "show", &id]).filter(|job| job["state"] == "received")
        });
    });
}

#[test]
fn a_full_disk_does_not_end_the_agent_and_a_start_on_one_says_what_to_do() {
    in_lab("faults::a_full_disk_does_not_end_the_agent_and_a_start_on_one_says_what_to_do", |lab| {
        let host = lab.host();
        sh(&format!("mount -t tmpfs -o size=192m tmpfs {}", host.state().display()));
        let agent = host.start(&[]);
        assert_eq!(roles(&[&host], 20), ["founder"]);
        let filler = host.state().join("filler");
        let fill = || {
            // It ends with an error when nothing more fits, which is what is wanted.
            sh(&format!("head -c 300m /dev/zero > {} 2>&1 || true", filler.display()));
        };
        fill();
        let low = || Some(host.status()?["degraded"].to_string().contains("disk_low"));
        eventually("it says that the disk is full", s(30), || low()?.then_some(()));
        // What cannot be written down first is not done, and the agent lives on.
        let refused = host.hive(&["identity", "reset"]);
        assert!(refused.code != 0 && refused.stderr.contains("nothing was done"), "{refused:?}");
        assert!(host.identity().is_some(), "what it was it still is");
        std::fs::remove_file(&filler).expect("frees the disk");
        eventually("it says so no more", s(30), || (!low()?).then_some(()));
        eventually("it can ask again", s(60), || (host.hive(&["identity", "reset"]).code == 0).then_some(()));
        eventually("the identity is written", s(60), || host.identity());
        agent.terminate();
        fill();
        let _agent = host.start(&[]);
        eventually("it says what to do", s(15), || host.log().contains("free some space (df -h)").then_some(()));
    });
}
