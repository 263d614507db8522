//! Ballots among nodes that hold different policies, and hives that meet.

use std::fs;

use crate::forming::{one_hive, roles};
use crate::harness::{Host, eventually, in_lab, s};

/// A policy of one rule, where an operator would put it.
fn write_policy(host: &Host, role: &str, reason: &str) {
    let directory = host.etc().join("advisor-policies");
    fs::create_dir_all(&directory).expect("policy directory");
    let text = format!(
        "name = \"default\"\ndescription = \"edited\"\n\n[[rule]]\nname = \"edited\"\nwhen = \"true\"\nadvise = \"{role}\"\nreason = \"{reason}\"\n"
    );
    fs::write(directory.join("default.toml"), text).expect("policy");
}

#[test]
fn three_edited_policies_outvote_one_and_the_dissent_is_explained() {
    in_lab("voting::three_edited_policies_outvote_one_and_the_dissent_is_explained", |lab| {
        let hosts: [Host; 5] = lab.hosts();
        let mut agents: Vec<_> = hosts[..4].iter().map(|host| host.start(&[])).collect();
        let old: Vec<&Host> = hosts[..4].iter().collect();
        one_hive(&old, 40);
        roles(&old, 30);
        // Edited while the agents run: the next ballot follows.
        for host in &hosts[..3] {
            write_policy(host, "binhost", "somebody must serve the packages");
        }
        write_policy(&hosts[3], "runner", "more tests");
        agents.push(hosts[4].start(&[]));
        assert_eq!(roles(&[&hosts[4]], 20), ["binhost"]);
        let identity = hosts[4].identity().expect("identity");
        // Two of three are enough: with them the last vote can change nothing, and the ballot does not wait for it.
        assert!(identity["assigned_by"].as_array().expect("names").len() >= 2, "{identity}");
        assert_eq!(identity["reason"], "somebody must serve the packages");
        let dissent = identity["dissent"].as_array().expect("list");
        assert!(dissent.iter().all(|advice| advice["advisor"] == hosts[3].name.as_str()), "{identity}");
        let explained = hosts[4].hive(&["identity", "explain"]);
        assert_eq!(explained.code, 0, "{}", explained.stderr);
        for word in ["binhost", "edited", "somebody must serve the packages"] {
            assert!(explained.stdout.contains(word), "{word} in {}", explained.stdout);
        }
    });
}

#[test]
fn a_ballot_survives_an_advisor_that_dies_in_the_middle() {
    in_lab("voting::a_ballot_survives_an_advisor_that_dies_in_the_middle", |lab| {
        let hosts: [Host; 4] = lab.hosts();
        let mut agents: Vec<_> = hosts[..3].iter().map(|host| host.start(&[])).collect();
        let old: Vec<&Host> = hosts[..3].iter().collect();
        let (_, coordinator) = one_hive(&old, 40);
        roles(&old, 30);
        // It hangs and is asked like the others; then it is gone for good. Not the coordinator: the claim needs one.
        let victim = agents.iter().position(|agent| agent.host.name != coordinator).expect("two others");
        agents[victim].freeze();
        agents.push(hosts[3].start(&[]));
        eventually("it asks", s(15), || hosts[3].log().contains("what should I become?").then_some(()));
        agents.remove(victim).kill();
        assert_eq!(roles(&[&hosts[3]], 15).len(), 1);
        let identity = hosts[3].identity().expect("identity");
        assert_eq!(identity["provisional"], false, "{identity}");
        assert!(!identity["assigned_by"].as_array().expect("names").is_empty(), "{identity}");
    });
}

#[test]
fn a_hive_that_nobody_joined_dissolves_into_the_one_it_meets() {
    in_lab("voting::a_hive_that_nobody_joined_dissolves_into_the_one_it_meets", |lab| {
        let [first, second, lonely] = lab.hosts();
        lab.partition(&[&first, &second], &[&lonely]);
        let _agents = [first.start(&[]), second.start(&[]), lonely.start(&[])];
        let (hive, _) = one_hive(&[&first, &second], 40);
        let (other, _) = one_hive(&[&lonely], 40);
        assert_ne!(hive, other);
        lab.heal();
        let (together, _) = one_hive(&[&first, &second, &lonely], 60);
        assert_eq!(together, hive);
        assert_ne!(roles(&[&lonely], 20), ["founder"]);
    });
}

#[test]
fn two_grown_hives_that_meet_say_so_on_both_sides_and_never_mix() {
    in_lab("voting::two_grown_hives_that_meet_say_so_on_both_sides_and_never_mix", |lab| {
        let hosts: [Host; 4] = lab.hosts();
        let (left, right) = ([&hosts[0], &hosts[1]], [&hosts[2], &hosts[3]]);
        lab.partition(&left, &right);
        let _agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        let (one, _) = one_hive(&left, 40);
        let (two, _) = one_hive(&right, 40);
        assert_ne!(one, two);
        lab.heal();
        for (side, other) in [(left, &two), (right, &one)] {
            eventually("the other hive is shown", s(60), || {
                let told = |host: &&Host| Some(host.status()?["notices"].to_string().contains(other.as_str()));
                side.iter().any(|host| told(host) == Some(true)).then_some(())
            });
        }
        assert_eq!(one_hive(&left, 10).0, one);
        assert_eq!(one_hive(&right, 10).0, two);
    });
}

#[test]
fn a_copied_machine_is_told_apart_and_says_how_to_get_a_key_of_its_own() {
    in_lab("voting::a_copied_machine_is_told_apart_and_says_how_to_get_a_key_of_its_own", |lab| {
        let [first, second, copy] = lab.hosts();
        let _first = first.start(&[]);
        roles(&[&first], 20);
        let _second = second.start(&[]);
        one_hive(&[&first, &second], 30);
        fs::copy(second.state().join("node_key"), copy.state().join("node_key")).expect("the key is copied");
        let _copy = copy.start(&["--no-found"]);
        eventually("the copy says so", s(40), || {
            let notices = copy.status()?["notices"].to_string();
            (notices.contains("copy") && notices.contains("node_key")).then_some(())
        });
        one_hive(&[&first, &second], 20);
    });
}

#[test]
fn a_node_whose_network_comes_late_joins_then() {
    in_lab("voting::a_node_whose_network_comes_late_joins_then", |lab| {
        let [first, late] = lab.hosts();
        let _first = first.start(&[]);
        roles(&[&first], 20);
        crate::harness::sh(&format!("ip -n {} link set eth0 down", late.name));
        let _late = late.start(&[]);
        eventually("it runs and seeks", s(10), || (late.status()?["self"]["state"] == "seeking").then_some(()));
        crate::harness::sh(&format!("ip -n {} link set eth0 up", late.name));
        one_hive(&[&first, &late], 30);
    });
}
