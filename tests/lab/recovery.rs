//! `hive recover` where it goes wrong most easily: two operators at once, a minority that is not alone, an observer that knows more. And a
//! backup that a machine takes over with.

use std::thread;

use serde_json::Value;

use crate::forming::one_hive;
use crate::harness::{Agent, Host, eventually, in_lab, s};

fn parts(host: &Host, part: &str) -> Option<Vec<String>> {
    let status = host.status()?;
    let members = status["members"].as_array()?;
    Some(members.iter().filter(|m| m["raft"] == part).map(|m| m["name"].as_str().unwrap_or("").to_owned()).collect())
}

fn queue(host: &Host) -> Option<String> {
    std::fs::create_dir_all(host.tmp().join("trivial")).ok()?;
    std::fs::write(host.tmp().join("trivial/build.sh"), "true\n").ok()?;
    let line =
        ["queue", "add", "--json", "--pure", "--backend", "command", "--dir", "/tmp/trivial", "--", "sh", "build.sh"];
    let value: Value = serde_json::from_str(&host.hive(&line).stdout).ok()?;
    Some(value["data"]["jobs"][0]["id"].as_str()?.to_owned())
}

fn epoch(host: &Host) -> Option<(u64, String)> {
    let status = host.status()?;
    let id = status["log"]["epoch_id"].as_str()?.to_owned();
    Some((status["log"]["epoch"].as_u64()?, id))
}

fn without_quorum(host: &Host) {
    eventually("no quorum", s(30), || host.status().filter(|status| status["quorum"] == false));
}

/// Ends these agents at once.
fn kill(agents: &mut Vec<Agent>, names: &[String]) {
    let (dead, alive): (Vec<_>, Vec<_>) =
        std::mem::take(agents).into_iter().partition(|a| names.contains(&a.host.name));
    *agents = alive;
    for agent in dead {
        agent.kill();
    }
}

#[test]
fn two_operators_who_recover_at_once_begin_one_epoch() {
    in_lab("recovery::two_operators_who_recover_at_once_begin_one_epoch", |lab| {
        let hosts: [Host; 4] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let mut agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        one_hive(&all, 40);
        let (voters, standbys) = eventually("three voters and a standby", s(60), || {
            let (voters, standbys) = (parts(&hosts[0], "voter")?, parts(&hosts[0], "standby")?);
            (voters.len() == 3 && standbys.len() == 1).then_some((voters, standbys))
        });
        let id = queue(&hosts[0]).expect("queued");
        for host in &all {
            eventually("everybody knows the job", s(20), || host.json(&["job", "show", &id]));
        }
        kill(&mut agents, &voters[1..]);
        let left: Vec<&Host> =
            all.iter().filter(|host| host.name == voters[0] || standbys.contains(&host.name)).copied().collect();
        for host in &left {
            without_quorum(host);
        }
        let answers: Vec<_> = thread::scope(|scope| {
            let begun: Vec<_> =
                left.iter().map(|host| scope.spawn(|| host.hive(&["recover", "--yes", "--json"]))).collect();
            begun.into_iter().map(|running| running.join().expect("runs")).collect()
        });
        let done = answers.iter().filter(|answer| answer.code == 0).count();
        assert_eq!(done, 1, "one of two: {answers:?}");
        let refused = answers.iter().find(|answer| answer.code != 0).expect("the other");
        let known = [
            "recovers the hive at this moment",
            "sees a quorum",
            "has a quorum",
            "longer history",
            "just taking one over",
            "another node has recovered",
        ];
        assert!(known.iter().any(|why| refused.stdout.contains(why)), "it says why: {refused:?}");
        one_hive_of_two(&left);
        let epochs: Vec<_> = left.iter().map(|host| epoch(host).expect("an epoch")).collect();
        assert_eq!((epochs[0].0, &epochs[0]), (2, &epochs[1]));
        assert!(left.iter().all(|host| host.json(&["job", "show", &id]).is_some()), "nothing is lost");
    });
}

/// Both are in one hive with a quorum; those that were killed may still be shown.
fn one_hive_of_two(left: &[&Host]) {
    eventually("both follow one coordinator", s(60), || {
        let seen: Vec<String> = left
            .iter()
            .map(|host| {
                let status = host.status()?;
                (status["quorum"] == true).then(|| format!("{}{}", status["hive_id"], status["log"]["epoch_id"]))
            })
            .collect::<Option<_>>()?;
        (seen.windows(2).all(|two| two[0] == two[1])).then_some(())
    });
}

#[test]
fn a_minority_that_was_recovered_by_mistake_takes_nothing_from_the_majority() {
    in_lab("recovery::a_minority_that_was_recovered_by_mistake_takes_nothing_from_the_majority", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let mut agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        let (hive, coordinator) = one_hive(&all, 40);
        eventually("three voters", s(30), || (parts(&hosts[0], "voter")?.len() == 3).then_some(()));
        let alone = all.iter().position(|host| host.name != coordinator).expect("a follower");
        let (alone, rest): (&Host, Vec<&Host>) =
            (all[alone], all.iter().enumerate().filter(|(at, _)| *at != alone).map(|(_, host)| *host).collect());
        lab.partition(&[alone], &rest);
        without_quorum(alone);
        let report = eventually("recovers", s(30), || alone.json(&["recover", "--yes"]));
        assert_eq!(report["epoch"], 2);
        let lost = report["may_be_lost"].as_str().expect("text");
        assert!(rest.iter().all(|host| lost.contains(&host.name)), "it says whose word is missing: {lost}");
        // The majority never knew, and goes on acknowledging.
        let theirs = eventually("the majority takes work", s(30), || queue(rest[0]));
        let own = eventually("so does the recovered one", s(30), || queue(alone));
        let acknowledged = std::time::Instant::now();
        eventually("it has had its quorum for long", s(60), || (acknowledged.elapsed() > s(31)).then_some(()));
        lab.heal();
        for (host, other) in [(alone, "epoch 1"), (rest[0], "epoch 2"), (rest[1], "epoch 2")] {
            eventually("both sides say so", s(60), || {
                let notices = host.status()?["notices"].to_string();
                (notices.contains("This hive is in two") && notices.contains(other)).then_some(())
            });
        }
        for host in &rest {
            assert_eq!(epoch(host).expect("an epoch").0, 1);
            assert!(host.json(&["job", "show", &theirs]).is_some(), "what the majority acknowledged is there");
        }
        assert!(alone.json(&["job", "show", &own]).is_some(), "and what the other side acknowledged, too");
        let more = eventually("the majority still takes work", s(20), || queue(rest[1]));
        // The operator decides, by what the notice says.
        agents.remove(agents.iter().position(|agent| agent.host.name == alone.name).expect("ours")).terminate();
        let moved = alone.json(&["db", "set-aside"]).expect("set aside");
        assert_eq!(moved["set_aside"].as_array().map(Vec::len), Some(2), "{moved}");
        agents.push(alone.start(&[]));
        assert_eq!(one_hive(&all, 60).0, hive);
        for id in [&theirs, &more] {
            eventually("it has all that the hive has", s(30), || alone.json(&["job", "show", id]));
        }
        assert_eq!(epoch(alone).expect("an epoch").0, 1);
        eventually("nothing is said of it any more", s(60), || {
            let said = |host: &&Host| Some(host.status()?["notices"].to_string().contains("in two"));
            all.iter().all(|host| said(host) == Some(false)).then_some(())
        });
    });
}

#[test]
fn who_knows_more_than_the_recovering_node_is_named_and_goes_on() {
    in_lab("recovery::who_knows_more_than_the_recovering_node_is_named_and_goes_on", |lab| {
        let hosts: [Host; 5] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let mut agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        let (hive, _) = one_hive(&all, 60);
        let (voters, observers) = eventually("three voters and an observer", s(60), || {
            let (voters, observers) = (parts(&hosts[0], "voter")?, parts(&hosts[0], "observer")?);
            (voters.len() == 3 && !observers.is_empty()).then_some((voters, observers))
        });
        let coordinator = hosts[0].status().expect("status")["coordinator"]["name"].as_str().expect("one").to_owned();
        let named = |name: &String| *all.iter().find(|host| host.name == *name).expect("ours");
        let behind = named(voters.iter().find(|name| **name != coordinator).expect("a follower"));
        let ahead = named(&observers[0]);
        // It hears nothing of the last that is acknowledged.
        let frozen = agents.iter().find(|agent| agent.host.name == behind.name).expect("ours");
        frozen.freeze();
        let id = eventually("acknowledged by the others", s(20), || queue(ahead));
        eventually("the observer has it", s(20), || ahead.json(&["job", "show", &id]));
        let others: Vec<String> = all
            .iter()
            .map(|host| host.name.clone())
            .filter(|name| ![&behind.name, &ahead.name].contains(&name))
            .collect();
        frozen.thaw();
        kill(&mut agents, &others);
        without_quorum(behind);
        without_quorum(ahead);
        let knows = behind.json(&["job", "show", &id]).is_some();
        let plan = eventually("both are reached", s(60), || {
            let plan = behind.json(&["recover"])?;
            let reached = plan["replicas"].as_array()?.iter().filter(|replica| replica["reached"] == true).count();
            (reached == 2).then_some(plan)
        });
        if !knows {
            assert_eq!(plan["source"], ahead.name.as_str(), "{plan}");
            let refused = behind.hive(&["recover", "--yes"]);
            assert_eq!(refused.code, 1, "{refused:?}");
            assert!(refused.stderr.contains(&format!("run hive recover on {}", ahead.name)), "{refused:?}");
        }
        let source = plan["source"].as_str().expect("a source").to_owned();
        let report = eventually("recovers", s(30), || named(&source).json(&["recover", "--yes"]));
        assert_eq!((&report["recovered"], &report["epoch"]), (&true.into(), &2.into()), "{report}");
        one_hive_of_two(&[behind, ahead]);
        for host in [behind, ahead] {
            eventually("what was acknowledged is there", s(30), || host.json(&["job", "show", &id]));
        }
        // Those that were given up come back, and say what became of what they had.
        for name in &others {
            agents.push(named(name).start(&[]));
        }
        assert_eq!(one_hive(&all, 90).0, hive);
        for host in &all {
            assert_eq!(epoch(host).expect("an epoch").0, 2, "{}", host.name);
        }
        let told = named(&others[0]).status().expect("status")["notices"].to_string();
        assert!(told.contains("recovered without this node") && told.contains("aside"), "{told}");
    });
}

#[test]
fn a_hive_that_is_gone_goes_on_from_its_backup_and_others_join_it() {
    in_lab("recovery::a_hive_that_is_gone_goes_on_from_its_backup_and_others_join_it", |lab| {
        let hosts: [Host; 4] = lab.hosts();
        let mut agents: Vec<_> = hosts[..3].iter().map(|host| host.start(&[])).collect();
        let old: Vec<&Host> = hosts[..3].iter().collect();
        let (hive, _) = one_hive(&old, 40);
        eventually("three voters", s(30), || (parts(&hosts[0], "voter")?.len() == 3).then_some(()));
        let done = queue(&hosts[0]).expect("queued");
        eventually("built", s(60), || hosts[0].json(&["job", "show", &done]).filter(|job| job["state"] == "received"));
        assert!(hosts[0].json(&["control", "pause"]).is_some());
        let waits = queue(&hosts[0]).expect("queued");
        // An observer's or voter's copy is as good as the coordinator's; any node is asked.
        let backup = eventually("a backup that has it", s(30), || {
            hosts[2].json(&["job", "show", &waits])?;
            hosts[2].json(&["backup", "--to", "/tmp/hive.backup"])
        });
        assert_eq!(backup["hive_id"], hive.as_str());
        // All machines are lost; a new one takes over.
        kill(&mut agents, &old.iter().map(|host| host.name.clone()).collect::<Vec<_>>());
        let fresh = &hosts[3];
        std::fs::copy(hosts[2].tmp().join("hive.backup"), fresh.tmp().join("hive.backup")).expect("copies");
        let report = fresh.json(&["restore", "/tmp/hive.backup"]).expect("restored");
        assert_eq!(report["former_members"], 3, "{report}");
        agents.push(fresh.start(&[]));
        let (new, coordinator) = one_hive(&[fresh], 30);
        assert!(new != hive && coordinator == fresh.name);
        assert_eq!(fresh.json(&["job", "show", &done]).expect("known")["state"], "received");
        assert_eq!(fresh.json(&["job", "show", &waits]).expect("known")["state"], "needed");
        // One of the old hive comes back as it was: the two are seen side by side, and never mix.
        let [lonely, joins] = [&hosts[0], &hosts[1]];
        agents.push(lonely.start(&[]));
        for (host, other) in [(fresh, &hive), (lonely, &new)] {
            eventually("the other hive is shown", s(60), || {
                host.status()?["notices"].to_string().contains(other.as_str()).then_some(())
            });
        }
        agents.remove(agents.iter().position(|agent| agent.host.name == lonely.name).expect("ours")).terminate();
        // Another one joins, as told.
        assert!(joins.json(&["db", "set-aside"]).is_some());
        agents.push(joins.start(&[]));
        assert_eq!(one_hive(&[fresh, joins], 60).0, new);
        assert!(fresh.json(&["control", "resume"]).is_some());
        eventually("what waited is built", s(90), || {
            joins.json(&["job", "show", &waits]).filter(|job| job["state"] == "received" || job["state"] == "failed")
        });
        let check = fresh.hive(&["db", "check"]);
        assert_eq!(check.code, 0, "{check:?}");
    });
}
