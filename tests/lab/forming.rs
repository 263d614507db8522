//! Nodes find each other, found one hive, and are told what to become.

use std::collections::BTreeSet;

use crate::harness::{Host, eventually, in_lab, s};

/// All of these hosts see one hive of so many alive members, with the same coordinator and quorum; returns hive id and coordinator.
pub fn one_hive(hosts: &[&Host], seconds: u64) -> (String, String) {
    eventually(&format!("one hive of {}", hosts.len()), s(seconds), || {
        let mut seen = BTreeSet::new();
        for host in hosts {
            let status = host.status()?;
            let alive = status["members"].as_array()?.iter().filter(|member| member["state"] == "alive").count();
            if alive != hosts.len() || status["quorum"] != true {
                return None;
            }
            seen.insert((status["hive_id"].as_str()?.to_owned(), status["coordinator"]["name"].as_str()?.to_owned()));
        }
        (seen.len() == 1).then(|| seen.first().expect("one").clone())
    })
}

/// The role that each host's identity file names, once all have one.
pub fn roles(hosts: &[&Host], seconds: u64) -> Vec<String> {
    eventually("an identity on every host", s(seconds), || {
        hosts.iter().map(|host| Some(host.identity()?["role"].as_str()?.to_owned())).collect()
    })
}

#[test]
fn three_nodes_from_nothing_become_founder_controller_and_builder() {
    in_lab("forming::three_nodes_from_nothing_become_founder_controller_and_builder", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let mut agents = vec![hosts[0].start(&[])];
        assert_eq!(roles(&[&hosts[0]], 15), ["founder"]);
        agents.push(hosts[1].start(&[]));
        assert_eq!(roles(&[&hosts[1]], 15), ["controller"]);
        agents.push(hosts[2].start(&[]));
        assert_eq!(roles(&[&hosts[2]], 15), ["builder"]);
        one_hive(&hosts.iter().collect::<Vec<_>>(), 20);
    });
}

#[test]
fn twenty_pristine_nodes_at_once_found_one_hive() {
    in_lab("forming::twenty_pristine_nodes_at_once_found_one_hive", |lab| {
        let hosts: [Host; 20] = lab.hosts();
        // Twenty machines have twenty processors for apt's rehearsal; here they would queue for two.
        let _agents: Vec<_> = hosts.iter().map(|host| host.start(&["--packages", "off"])).collect();
        let all: Vec<&Host> = hosts.iter().collect();
        one_hive(&all, 120);
        let roles = roles(&all, 60);
        let count = |role: &str| roles.iter().filter(|&name| name == role).count();
        assert_eq!(count("founder"), 1, "{roles:?}");
        assert_eq!(count("controller"), 1, "{roles:?}");
        assert!(count("builder") >= 2, "{roles:?}");
    });
}

#[test]
fn a_wrong_secret_neither_founds_nor_joins_and_says_so() {
    in_lab("forming::a_wrong_secret_neither_founds_nor_joins_and_says_so", |lab| {
        let [first, second] = lab.hosts();
        let stranger = lab.bare_host();
        stranger.write_secret("0a1b2c3d4e5f60718293a4b5c6d7e8f9ffeeddccbbaa99887766554433221100");
        let _agents = [first.start(&[]), second.start(&[]), stranger.start(&[])];
        one_hive(&[&first, &second], 30);
        let notice = eventually("the stranger says why", s(20), || {
            let status = stranger.status()?;
            (status["self"]["state"] == "refused").then(|| status["notices"].to_string())
        });
        assert!(notice.contains("secret"), "{notice}");
        assert!(stranger.status().expect("answers")["hive_id"].is_null());
        assert!(stranger.log().contains("secret"), "its log says so too");
    });
}
