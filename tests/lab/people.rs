//! People and pages before real nodes: sessions that every node knows, acts that are written down first, and a stream that says what happens.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Instant;

use serde_json::Value;

use crate::forming::{one_hive, roles};
use crate::harness::{Host, eventually, in_lab, run, s};

const ADMIN: &[&str] = &["--admin", "0.0.0.0:8093"];

/// Status, head and body of a request from one host to a port of another.
fn ask(from: &Host, to: &Host, port: u16, method: &str, path: &str, headers: &[&str], body: &str) -> (String, String) {
    let mut command = from.command("curl");
    command.args(["-s", "-k", "-i", "-m", "15", "-X", method]);
    for header in headers {
        command.args(["-H", header]);
    }
    if !body.is_empty() {
        command.args(["-d", body]);
    }
    command.arg(format!("{}{path}", to.url(port)));
    let answer = run(command).stdout.replace("\r\n", "\n");
    let (head, body) = answer.split_once("\n\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}

fn status(answer: &(String, String)) -> &str {
    answer.0.split(' ').nth(1).unwrap_or_default()
}

fn all_vote(host: &Host) {
    eventually("all three vote", s(60), || {
        let status = host.status()?;
        let votes = |member: &&Value| member["raft"] == "voter";
        (status["members"].as_array()?.iter().filter(votes).count() == 3).then_some(())
    });
}

#[test]
fn a_browsers_session_is_good_at_every_node_and_every_act_is_written_down() {
    in_lab("people::a_browsers_session_is_good_at_every_node_and_every_act_is_written_down", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let mut agents: Vec<_> = hosts.iter().map(|host| host.start(ADMIN)).collect();
        one_hive(&all, 40);
        roles(&all, 20);
        let key = all.iter().find_map(|host| std::fs::read_to_string(host.etc().join("admin_key")).ok());
        let key = key.expect("one node made a key").trim().to_owned();
        let [first, second, third] = [&hosts[0], &hosts[1], &hosts[2]];

        let signed = eventually("signs in", s(15), || {
            let signed = ask(second, first, 8093, "POST", "/api/v2/session", &[], &format!(r#"{{"key":"{key}"}}"#));
            (status(&signed) == "200").then_some(signed)
        });
        let cookie = signed.0.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
        let cookie = format!("Cookie: {}", cookie.split(';').next().expect("its value"));
        let act = |to: &Host, action: &str| {
            let origin = format!("Origin: {}", to.url(8093));
            let body = format!(r#"{{"action":"{action}"}}"#);
            ask(second, to, 8093, "POST", "/api/v2/control", &[&cookie, &origin], &body)
        };
        eventually("the node that did not make it knows the session", s(10), || {
            (status(&act(third, "pause")) == "200").then_some(())
        });
        let who = ask(second, third, 8093, "GET", "/api/v2/session", &[&cookie], "");
        assert!(who.1.contains(r#""name":"the admin key""#), "{}", who.1);
        let nobody = ask(second, third, 8100, "GET", "/api/v2/session", &[&cookie], "");
        assert!(nobody.1.contains(r#""name":null"#), "{}", nobody.1);

        // Once, however often and wherever it is asked.
        let origin = format!("Origin: {}", first.url(8093));
        let once = [cookie.as_str(), &origin, "Idempotency-Key: lab-1"];
        let done = ask(second, first, 8093, "POST", "/api/v2/control", &once, r#"{"action":"resume"}"#);
        let origin = format!("Origin: {}", third.url(8093));
        let once = [cookie.as_str(), &origin, "Idempotency-Key: lab-1"];
        let again = ask(second, third, 8093, "POST", "/api/v2/control", &once, r#"{"action":"resume"}"#);
        assert_eq!((status(&done), status(&again)), ("200", "200"), "{done:?} {again:?}");
        assert!(again.0.contains("idempotency-replayed: true") && done.1 == again.1, "{done:?} {again:?}");

        let log = first.json(&["audit"]).expect("the audit log");
        let acts: Vec<String> = log["entries"]
            .as_array()
            .expect("entries")
            .iter()
            .map(|entry| format!("{} {} {}", entry["by"], entry["act"], entry["node"]))
            .collect();
        let resumes = |acts: &[String]| acts.iter().filter(|act| act.contains("/api/v2/control")).count();
        assert_eq!(resumes(&acts), 2, "one pause, one resume: {acts:?}");
        assert!(acts.iter().any(|act| act.contains(&format!("\"{}\"", third.name))), "{acts:?}");
        eventually("all nodes have the same chain", s(10), || {
            let heads: Vec<Value> = all.iter().filter_map(|host| host.json(&["audit", "--verify"])).collect();
            let same = heads.len() == 3 && heads.iter().all(|head| head["head"] == heads[0]["head"]);
            (same && heads.iter().all(|head| head["intact"] == true)).then_some(())
        });
        assert!(!log.to_string().contains(&key), "no key stands in it");

        let fresh = ask(second, third, 8100, "GET", "/api/v2/jobs?consistent=true", &[], "");
        assert_eq!(status(&fresh), "200", "{fresh:?}");
        assert_eq!(first.hive(&["admin", "sessions", "revoke"]).code, 0);
        eventually("signed out everywhere", s(10), || (status(&act(third, "pause")) == "401").then_some(()));

        // Without a majority nothing is done, as it cannot be written down. One voter of one is a majority: all have to vote first.
        all_vote(first);
        drop(agents.split_off(1));
        let alone = eventually("the one that is left says so", s(30), || {
            let headers = [format!("X-Admin-Key: {key}")];
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            let alone = ask(second, first, 8093, "POST", "/api/v2/control", &headers, r#"{"action":"pause"}"#);
            (status(&alone) == "503").then_some(alone)
        });
        assert!(alone.1.contains("audit log") && alone.1.contains("no_quorum"), "{}", alone.1);
        let stale = ask(second, first, 8100, "GET", "/api/v2/jobs?consistent=true", &[], "");
        assert!(status(&stale) == "503" && stale.1.contains("no_quorum"), "{stale:?}");
        assert_eq!(status(&ask(second, first, 8100, "GET", "/api/v2/jobs", &[], "")), "200");
    });
}

#[test]
fn a_page_on_any_node_is_told_what_happens_within_a_third_of_a_second() {
    in_lab("people::a_page_on_any_node_is_told_what_happens_within_a_third_of_a_second", |lab| {
        let hosts: [Host; 2] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let _agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        one_hive(&all, 40);
        roles(&all, 20);
        let leads = |host: &&&Host| {
            host.status().is_some_and(|status| status["coordinator"]["name"].as_str() == Some(host.name.as_str()))
        };
        let leader = all.iter().find(leads).expect("one leads");
        let other = all.iter().find(|host| host.name != leader.name).expect("the other one");
        let mut command = other.command("curl");
        command.args(["-s", "-N", "-m", "60", "-H", "Accept: text/event-stream"]);
        command.arg("http://127.0.0.1:8100/api/v2/events?topics=status,events,changes,metrics");
        let mut page = command.stdout(Stdio::piped()).spawn().expect("curl starts");
        let mut lines = BufReader::new(page.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let mut wait = |word: &str| lines.find(|line| line.contains(word)).expect("it is told");
        assert!(wait("\"topics\"").contains(&other.name));
        wait("event: status");
        assert!(wait("\"ram_percent\"").contains(&leader.name), "both nodes are measured");
        let mut fastest = u128::MAX;
        for round in 0..5 {
            let (reason, other_way) = (format!("round-{round}"), if round % 2 == 0 { "pause" } else { "resume" });
            let answer = leader.hive(&["control", other_way, "--reason", &reason]);
            let answered = Instant::now();
            assert_eq!(answer.code, 0, "{answer:?}");
            wait(&reason);
            fastest = fastest.min(answered.elapsed().as_millis());
        }
        assert!(fastest < 300, "the quickest of five took {fastest} ms after it was acknowledged elsewhere");
        let _ = page.kill();
        let _ = page.wait();
    });
}
