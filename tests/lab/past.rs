//! The hive as it was: any node answers of a moment as it answered then, over restarts, and says what it does not know.

use std::fs;

use serde_json::Value;

use crate::forming::{one_hive, roles};
use crate::harness::{Host, eventually, in_lab, run, s};

/// The envelope with which a host's public port answers on that host.
fn ask(host: &Host, path: &str) -> Value {
    let mut curl = host.command("curl");
    curl.args(["-s", "-m", "15", &format!("http://127.0.0.1:8100{path}")]);
    let answer = run(curl);
    serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{path}: {error}: {answer:?}"))
}

fn then(host: &Host, path: &str, at: &str) -> Value {
    let join = if path.contains('?') { '&' } else { '?' };
    let answer = ask(host, &format!("{path}{join}at={at}"));
    assert_eq!(answer["as_of"], at, "{path}: {answer}");
    answer["data"].clone()
}

/// Milliseconds since 1970 of a time that the hive told.
fn millis(host: &Host, at: &Value) -> u64 {
    let mut date = host.command("date");
    date.args(["-u", "+%s%3N", "-d", at.as_str().expect("a time")]);
    run(date).stdout.trim().parse().expect("a number")
}

fn time(host: &Host, millis: u64) -> String {
    let mut date = host.command("date");
    let seconds = format!("@{}.{:03}", millis / 1_000, millis % 1_000);
    date.args(["-u", "+%Y-%m-%dT%H:%M:%S.%3NZ", "-d", &seconds]);
    run(date).stdout.trim().to_owned()
}

/// Queues a build of some seconds, and waits until it is done; its id.
fn build(host: &Host, target: &str) -> String {
    fs::create_dir_all(host.tmp().join("sources")).expect("makes");
    fs::write(host.tmp().join("sources/build.sh"), "echo begins; sleep 3; echo ends\n").expect("writes");
    let add = ["queue", "add", "--backend", "command", "--dir", "/tmp/sources", "--pure", "--json", "--", "sh"];
    let added = host.hive(&[&add[..], &["build.sh", target]].concat());
    let value: Value = serde_json::from_str(&added.stdout).unwrap_or_else(|_| panic!("{added:?}"));
    let id = value["data"]["jobs"][0]["id"].as_str().expect("id").to_owned();
    eventually("the build is done", s(60), || (host.json(&["job", "show", &id])?["state"] == "received").then_some(()));
    id
}

/// A build that was looked at when it was over.
struct Looked {
    path: String,
    job: Value,
    began: u64,
    ended: u64,
}

impl Looked {
    /// Half-way through it.
    fn middle(&self, host: &Host) -> String {
        time(host, u64::midpoint(self.began, self.ended))
    }

    /// Checks what a node tells of the time when it ran; some of it, to be compared with other nodes'.
    fn as_it_was(&self, host: &Host) -> [Value; 7] {
        let Self { path, job, began, ended } = self;
        let middle = self.middle(host);
        let queued = job["submitted_at"].as_str().expect("a time");
        let over = job["attempts"][0]["ended_at"].as_str().expect("a time");
        let before = time(host, millis(host, &job["submitted_at"]) - 1);
        let running = then(host, path, &middle);
        assert_eq!((&running["state"], &running["attempts"][0]["state"]), (&"delegated".into(), &"building".into()));
        assert!(running["attempts"][0]["ended_at"].is_null() && running["artifacts"] == Value::Array(Vec::new()));
        assert_eq!(then(host, path, over), *job, "as it is since");
        assert_eq!(ask(host, &format!("{path}?at={before}"))["error"]["code"], "not_found");
        assert_eq!(then(host, "/api/v2/queue", queued)["states"]["needed"], 1);
        assert_eq!(then(host, "/api/v2/status", &middle)["queue"]["building"], 1);
        let fleet = then(host, "/api/v2/fleet", &middle);
        let builds: Vec<&Value> = fleet["drones"]
            .as_array()
            .expect("drones")
            .iter()
            .flat_map(|drone| drone["builds"].as_array())
            .flatten()
            .collect();
        assert!(builds.len() == 1 && builds[0]["elapsed_ms"] == u64::midpoint(*began, *ended) - began, "{fleet}");
        let kinds = then(host, "/api/v2/events?limit=1", &middle);
        assert_eq!(kinds["events"][0]["type"], "start");
        assert_eq!(then(host, "/api/v2/history", &middle)["history"], Value::Array(Vec::new()));
        [
            then(host, "/api/v2/queue", &middle),
            then(host, "/api/v2/sessions", &middle),
            then(host, "/api/v2/history", over),
            then(host, "/api/v2/critical-path", &middle),
            then(host, "/api/v2/throughput?minutes=60", &middle),
            then(host, &format!("{path}/graph"), &middle),
            running,
        ]
    }
}

/// What is not known is said; how much went on is told; and the path of the old swarm tells of then, too.
fn before_the_record_and_beside_it(host: &Host, began: u64) {
    let long_ago = ask(host, "/api/v2/fleet?at=2001-01-01T00:00:00Z");
    assert_eq!(long_ago["error"]["code"], "not_recorded", "{long_ago}");
    assert!(
        long_ago["error"]["message"].as_str().is_some_and(|text| text.contains("is before the record")),
        "{long_ago}"
    );
    let activity = ask(host, "/api/v2/activity?buckets=10")["data"].clone();
    let sum = |name: &str| -> u64 {
        activity["buckets"].as_array().expect("buckets").iter().filter_map(|bucket| bucket[name].as_u64()).sum()
    };
    assert!(sum("jobs") >= 2 && sum("events") > 6 && sum("messages") > 10, "{activity}");
    let old = ask(host, &format!("/api/v1/protocol/snapshot?at={}", began / 1_000 + 1));
    assert_eq!((&old["status"]["delegated"], &old["nodes"].as_array().map(Vec::len)), (&1.into(), &Some(3)), "{old}");
}

#[test]
fn every_node_shows_a_moment_as_it_was_also_after_a_restart() {
    in_lab("past::every_node_shows_a_moment_as_it_was_also_after_a_restart", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let mut agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        one_hive(&all, 40);
        roles(&all, 20);
        let path = format!("/api/v2/jobs/{}", build(all[0], "first/of-all"));
        let job = ask(all[0], &path)["data"].clone();
        let attempt = &job["attempts"][0];
        let (began, ended) = (millis(all[0], &attempt["started_at"]), millis(all[0], &attempt["ended_at"]));
        assert!(ended > began + 1_000, "{job}");
        let first = Looked { path, job, began, ended };
        let middle = first.middle(all[0]);
        let told = first.as_it_was(all[0]);
        all[1..].iter().for_each(|host| assert_eq!(first.as_it_was(host), told, "{} tells the same", host.name));
        let seen = then(all[0], "/api/v2/status", &middle);
        assert!(seen["quorum"] == true && seen["coordinator"]["name"].is_string(), "{seen}");
        let alive = |member: &Value| member["state"] == "alive";
        assert!(
            seen["members"].as_array().is_some_and(|members| members.len() == 3 && members.iter().all(alive)),
            "{seen}"
        );

        // One ends in order, one is killed; what happens meanwhile they learn from the log, with its times.
        agents.pop().expect("third").kill();
        agents.pop().expect("second").terminate();
        eventually("the first says that it is alone", s(30), || (all[0].status()?["quorum"] == false).then_some(()));
        agents.push(all[1].start(&[]));
        eventually("two of three go on", s(60), || (all[0].status()?["quorum"] == true).then_some(()));
        let second = build(all[0], "second/while-one-was-away");
        agents.push(all[2].start(&[]));
        let path_of_second = format!("/api/v2/jobs/{second}");
        let job = ask(all[0], &path_of_second)["data"].clone();
        let attempt = &job["attempts"][0];
        let away =
            time(all[0], u64::midpoint(millis(all[0], &attempt["started_at"]), millis(all[0], &attempt["ended_at"])));
        for host in &all {
            eventually("it has caught up", s(30), || {
                (ask(host, &path_of_second)["data"]["state"] == "received").then_some(())
            });
            assert_eq!(first.as_it_was(host), told, "{} still tells the same", host.name);
            assert_eq!(then(host, &path_of_second, &away)["attempts"][0]["state"], "building", "{}", host.name);
        }
        // Who was away then saw nothing, and says so.
        let unseen = then(all[2], "/api/v2/status", &away);
        assert!(unseen["degraded"] == serde_json::json!(["not_seen"]) && unseen["queue"]["building"] == 1, "{unseen}");

        before_the_record_and_beside_it(all[0], first.began);
    });
}

#[test]
fn who_keeps_nothing_says_so_and_who_joins_later_from_when_on_it_knows() {
    in_lab("past::who_keeps_nothing_says_so_and_who_joins_later_from_when_on_it_knows", |lab| {
        let [first, second] = lab.hosts();
        let _founder = first.start(&["--history-mb", "0"]);
        one_hive(&[&first], 30);
        roles(&[&first], 20);
        let off = ask(&first, "/api/v2/fleet?at=2026-01-01T00:00:00Z");
        assert_eq!(off["error"]["code"], "not_recorded", "{off}");
        assert!(off["error"]["hint"].as_str().is_some_and(|hint| hint.contains("history.mb")), "{off}");
        let _late = second.start(&[]);
        one_hive(&[&first, &second], 40);
        let known = eventually("it knows something", s(30), || {
            ask(&second, "/api/v2/activity")["data"]["known_from"].as_str().map(str::to_owned)
        });
        let at = time(&second, millis(&second, &Value::from(known.clone())) - 1);
        let early = ask(&second, &format!("/api/v2/fleet?at={at}"));
        assert_eq!(early["error"]["code"], "not_recorded", "{early}");
        assert!(early["error"]["message"].as_str().is_some_and(|text| text.ends_with(&known)), "{early}");
        assert!(then(&second, "/api/v2/fleet", &known)["drones"].is_array());
    });
}
