//! Ballots among nodes that hold different policies, and hives that meet.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;

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

/// What a key-value server in the lab answers, and how often it told each address what it says now.
#[derive(Default)]
struct Told {
    /// Base64 as Consul sends it; none: the key is not there.
    value: Option<&'static str>,
    readers: BTreeMap<IpAddr, u32>,
}

/// Speaks as Consul does for one key, until the lab ends.
fn consul(told: &Arc<Mutex<Told>>) {
    let listener = TcpListener::bind("10.77.0.254:8500").expect("a port of the lab");
    let told = Arc::clone(told);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let from = stream.peer_addr().expect("an address").ip();
            let lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
            let request: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let mut told = told.lock().expect("not poisoned");
            let known = request.first().is_some_and(|line| line.starts_with("GET /v1/kv/cluster/needs HTTP/1.1"));
            let (status, body) = match told.value.filter(|_| known) {
                Some(value) => (
                    "200 OK",
                    format!(
                        r#"[{{"LockIndex":0,"Key":"cluster/needs","Flags":0,"Value":"{value}","CreateIndex":7,"ModifyIndex":9}}]"#
                    ),
                ),
                None => ("404 Not Found", String::new()),
            };
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            if stream.write_all(answer.as_bytes()).is_ok() {
                *told.readers.entry(from).or_default() += 1;
            }
        }
    });
}

#[test]
fn what_an_inventory_server_says_decides_the_next_ballot() {
    in_lab("voting::what_an_inventory_server_says_decides_the_next_ballot", |lab| {
        let told = Arc::new(Mutex::new(Told::default()));
        consul(&told);
        let hosts: [Host; 3] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        for host in &hosts {
            let config = "[[facts]]\nname = \"needs\"\nurl = \"http://10.77.0.254:8500/v1/kv/cluster/needs\"\n\
                          format = \"consul-kv\"\ninterval_s = 1\n";
            fs::write(host.etc().join("hive.toml"), config).expect("configuration");
            let directory = host.etc().join("advisor-policies");
            fs::create_dir_all(&directory).expect("policy directory");
            let rules = "name = \"default\"\ndescription = \"by inventory\"\n\n\
                [[rule]]\nname = \"needed\"\nwhen = \"facts.needs == 'binhost'\"\nadvise = \"binhost\"\nreason = \"the inventory needs a {facts.needs}\"\n\n\
                [[rule]]\nname = \"else\"\nwhen = \"true\"\nadvise = \"runner\"\nreason = \"nothing is needed\"\n";
            fs::write(directory.join("default.toml"), rules).expect("policy");
        }
        let mut agents = vec![hosts[0].start(&[])];
        assert_eq!(roles(&[&hosts[0]], 20), ["founder"]);
        agents.extend(hosts[1..].iter().map(|host| host.start(&[])));
        one_hive(&all, 40);
        // The key is not there: the rule that asks for it is skipped and says so.
        assert_eq!(roles(&[&hosts[1], &hosts[2]], 20), ["runner", "runner"]);
        let explained = hosts[2].hive(&["identity", "explain"]).stdout;
        assert!(explained.contains("skipped:") && explained.contains("needs"), "{explained}");

        *told.lock().expect("not poisoned") = Told { value: Some("YmluaG9zdA=="), readers: BTreeMap::new() };
        let read_by_all = || (told.lock().expect("not poisoned").readers.len() == hosts.len()).then_some(());
        eventually("every node has read the key", s(20), read_by_all);
        let reset = hosts[2].hive(&["identity", "reset"]);
        assert_eq!(reset.code, 0, "{reset:?}");
        let identity = eventually("what the inventory needs", s(15), || {
            hosts[2].identity().filter(|identity| identity["role"] == "binhost")
        });
        let reason = identity["reason"].as_str().expect("reason");
        assert!(reason.starts_with("the inventory needs a binhost"), "with the age of what it rests on: {reason}");

        // The key goes away: what was read last is kept.
        *told.lock().expect("not poisoned") = Told::default();
        eventually("every node was refused", s(20), read_by_all);
        assert_eq!(hosts[1].hive(&["identity", "reset"]).code, 0);
        eventually("the value that was read last", s(15), || {
            hosts[1].identity().filter(|identity| identity["role"] == "binhost")
        });
    });
}
