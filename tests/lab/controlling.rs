//! The hive controlled from another machine: with its key, with tokens, and not at all; and what it says that happened.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::forming::{one_hive, roles};
use crate::harness::{Answer, Host, eventually, in_lab, run, s};

const ADMIN: &[&str] = &["--admin", "0.0.0.0:8093"];

/// The status of a control request from one host to the admin port of another.
fn control(from: &Host, to: &Host, key: &str, action: &str) -> String {
    let mut command = from.command("curl");
    command.args([
        "-s",
        "-k",
        "-m",
        "10",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-H",
        &format!("X-Admin-Key: {key}"),
    ]);
    let body = format!("{{\"action\":\"{action}\"}}");
    command.args(["-d", &body, &format!("{}/api/v2/control", to.url(8093))]);
    run(command).stdout
}

/// `hive` on one host against the admin port of another, with a key in its environment.
fn remote(from: &Host, to: &Host, key: &str, arguments: &[&str]) -> Answer {
    let mut command = from.command(crate::harness::PROGRAM);
    let authority = from.hive(&["admin", "ca", "--pem"]);
    assert_eq!(authority.code, 0, "{authority:?}");
    std::fs::write(from.etc().join("hive-ca.pem"), authority.stdout).expect("written");
    command.env("HIVE_ADMIN_KEY", key).env("HIVE_CA", from.etc().join("hive-ca.pem"));
    command.args(["--url", &to.url(8093)]).args(arguments);
    run(command)
}

fn found_in(directory: &std::path::Path, text: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(found_in(&path, text));
        } else if std::fs::read(&path).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text)) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn the_founders_key_controls_the_hive_at_any_node_until_it_is_rotated() {
    in_lab("controlling::the_founders_key_controls_the_hive_at_any_node_until_it_is_rotated", |lab| {
        let hosts: [Host; 2] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let agents: Vec<_> = hosts.iter().map(|host| host.start(ADMIN)).collect();
        one_hive(&all, 40);
        roles(&all, 20);

        let file = |host: &&&Host| host.etc().join("admin_key").exists();
        let founders: Vec<&&Host> = all.iter().filter(file).collect();
        let &[founder] = &founders[..] else { panic!("one node made a key: {}", founders.len()) };
        let other = all.iter().find(|host| host.name != founder.name).expect("the other one");
        let path = founder.etc().join("admin_key");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let key = std::fs::read_to_string(&path).expect("readable").trim().to_owned();
        assert_eq!(key.len(), 64, "256 bit");
        let shown = founder.hive(&["admin", "key", "show"]);
        assert_eq!((shown.code, shown.stdout.trim()), (0, key.as_str()), "{shown:?}");
        assert_eq!(other.hive(&["admin", "key", "show"]).code, 5, "it is nowhere else");

        // Both nodes know it, though one of them has never seen it.
        eventually("both nodes take the key", s(10), || {
            let answers = [control(founder, other, &key, "pause"), control(other, founder, &key, "resume")];
            (answers == ["200", "200"]).then_some(())
        });
        assert_eq!(control(founder, other, &key.replace(&key[..1], "g"), "pause"), "401");
        assert_eq!(remote(founder, other, &key, &["control", "pause"]).code, 0);
        let events = other.json(&["events", "--type", "control"]).expect("events").to_string();
        assert!(events.contains("pause by the admin key from "), "{events}");
        assert_eq!(remote(founder, other, &key, &["control", "resume"]).code, 0);

        let made = other.json(&["admin", "token", "add", "ci", "--scope", "queue", "--expires", "1d"]).expect("made");
        let token = made["token"].as_str().expect("text").to_owned();
        eventually("the other node takes the token", s(10), || {
            (control(other, founder, &token, "pause") == "403").then_some(())
        });
        assert_eq!(other.hive(&["admin", "token", "revoke", "ci"]).code, 0);
        eventually("a revoked token opens nothing", s(10), || {
            (control(other, founder, &token, "pause") == "401").then_some(())
        });

        let rotated = other.json(&["admin", "key", "rotate"]).expect("rotated");
        let new = rotated["key"].as_str().expect("a new one").to_owned();
        eventually("the founder takes the new key", s(10), || {
            (control(other, founder, &new, "resume") == "200").then_some(())
        });
        assert_eq!(control(other, founder, &key, "pause"), "401", "the old one opens nothing");
        for host in &all {
            for (what, secret) in [("the first key", &key), ("the new key", &new), ("the token", &token)] {
                assert!(!host.log().contains(secret.as_str()), "{what} stands in the log of {}", host.name);
                let found = found_in(&host.state(), secret.as_bytes());
                assert!(found.is_empty(), "{what} stands in {found:?}");
            }
        }

        // The founder still has the old file, and must not bring the old key back.
        drop(agents);
        let _agents: Vec<_> = hosts.iter().map(|host| host.start(ADMIN)).collect();
        eventually("the new key counts after a restart", s(40), || {
            (control(founder, other, &new, "resume") == "200").then_some(())
        });
        assert_eq!(control(founder, other, &key, "pause"), "401");
    });
}

#[test]
fn events_have_the_same_numbers_everywhere_and_survive_a_restart() {
    in_lab("controlling::events_have_the_same_numbers_everywhere_and_survive_a_restart", |lab| {
        let hosts: [Host; 2] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let mut agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        one_hive(&all, 40);
        roles(&all, 20);
        std::fs::create_dir_all(hosts[0].tmp().join("job")).expect("directory");
        std::fs::write(hosts[0].tmp().join("job/a"), "a").expect("file");
        let add =
            ["queue", "add", "--backend", "command", "--dir", "/tmp/job", "--artifact", "a", "--wait", "--", "true"];
        let built = hosts[0].hive(&add);
        assert_eq!(built.code, 0, "{built:?}");
        let list = |host: &Host| -> Vec<(u64, String)> {
            let events =
                host.json(&["events", "--limit", "500"]).map(|list| list["events"].clone()).unwrap_or_default();
            let line = |event: &Value| Some((event["id"].as_u64()?, event["type"].as_str()?.to_owned()));
            events.as_array().into_iter().flatten().filter_map(line).collect()
        };
        let kinds = |host: &Host| list(host).into_iter().map(|(_, kind)| kind).collect::<Vec<_>>();
        eventually("the build is told on both", s(10), || {
            let told = |host: &Host| {
                ["queue", "assign", "start", "complete"].iter().all(|word| kinds(host).contains(&(*word).to_owned()))
            };
            (told(&hosts[0]) && told(&hosts[1])).then_some(())
        });
        // One of them may have begun with a snapshot; what both have is the same.
        let (left, right) = (list(&hosts[0]), list(&hosts[1]));
        let shared: Vec<_> = left.iter().filter(|event| right.contains(event)).collect();
        let from = shared.first().expect("some in common").0;
        let later = |events: &[(u64, String)]| -> Vec<_> {
            events.iter().filter(|event| event.0 >= from && event.1 != "role").cloned().collect()
        };
        let last = left.last().map(|event| event.0).min(right.last().map(|event| event.0)).expect("some");
        let until =
            |events: Vec<(u64, String)>| -> Vec<_> { events.into_iter().filter(|event| event.0 <= last).collect() };
        assert_eq!(until(later(&left)), until(later(&right)));

        let before = list(&hosts[1]);
        agents.pop().expect("two").terminate();
        agents.push(hosts[1].start(&[]));
        let after = eventually("it answers again", s(30), || {
            let after = list(&hosts[1]);
            (!after.is_empty()).then_some(after)
        });
        assert!(before.iter().all(|event| after.contains(event)), "{before:?} {after:?}");
        let newest = after.last().expect("some").0;
        let next = hosts[1].json(&["events", "--since", &newest.to_string()]).expect("answers");
        let none = next["events"]
            .as_array()
            .is_some_and(|events| events.iter().all(|event| event["id"].as_u64().is_some_and(|id| id > newest)));
        assert!(none, "only what came after: {next}");
    });
}
