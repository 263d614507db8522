//! Drones and commands of the Python build swarm, as they are: HTTP with package names, no key, no token, no idea of a hive.

use std::fs;
use std::path::Path;

use hive::engine::id::JobId;
use hive::engine::job::{JobSpec, Work};
use serde_json::{Value, json};

use crate::building::voters;
use crate::client::{Client, socket_of};
use crate::forming::one_hive;
use crate::gpkg;
use crate::harness::{Agent, Host, Lab, eventually, in_lab, run, s};
use crate::hostile::store;

/// Asks `host` over TCP, from another machine of the network.
fn ask(from: &Host, host: &Host, method: &str, path: &str, body: Option<&Value>, headers: &[&str]) -> (u16, Value) {
    let mut command = from.command("curl");
    command.args(["-sS", "-m", "20", "-X", method, "-w", "\n%{http_code}"]);
    for header in headers {
        command.args(["-H", header]);
    }
    if let Some(body) = body {
        command.args(["-H", "Content-Type: application/json", "--data-binary", &body.to_string()]);
    }
    command.arg(format!("http://{}:8100/api/v1/{path}", host.address));
    let answer = run(command);
    let (text, code) = answer.stdout.rsplit_once('\n').unwrap_or(("", "0"));
    (code.parse().unwrap_or(0), serde_json::from_str(text).unwrap_or(Value::Null))
}

fn get(from: &Host, host: &Host, path: &str) -> Value {
    let (code, value) = ask(from, host, "GET", path, None, &[]);
    assert_eq!(code, 200, "GET {path}: {value}");
    value
}

fn post(from: &Host, host: &Host, path: &str, body: &Value) -> Value {
    let (code, value) = ask(from, host, "POST", path, Some(body), &[]);
    assert_eq!(code, 200, "POST {path} {body}: {value}");
    value
}

/// A drone as the old swarm has them.
struct LegacyDrone<'a> {
    host: &'a Host,
    name: &'static str,
}

impl LegacyDrone<'_> {
    fn register(&self, at: &Host, current_task: Option<&str>) -> Value {
        let body = json!({
            "name": self.name, "ip": self.host.address, "type": "drone", "version": "2.6",
            "capabilities": { "cores": 8, "ram_gb": 15.5 },
            "metrics": { "cpu_percent": 12.5, "ram_percent": 33.0, "load_1m": 1.5 },
            "current_task": current_task,
        });
        post(self.host, at, "register", &body)
    }

    fn work(&self, at: &Host) -> Value {
        get(self.host, at, &format!("work?id={}", self.name))
    }

    /// Asks until it is given something.
    fn package(&self, at: &Host) -> String {
        let given = || self.work(at)["package"].as_str().map(str::to_owned);
        eventually(&format!("work for {}", self.name), s(20), given)
    }

    fn complete(&self, at: &Host, package: &str, status: &str) -> Value {
        let body = json!({ "id": self.name, "package": package, "status": status, "build_duration_s": 3.2 });
        post(self.host, at, "complete", &body)
    }
}

/// Three nodes that admit drones of the lab's network without a key; the first keeps staging.
fn swarm(lab: &mut Lab, staging: bool, more: &[&str]) -> ([Host; 3], Vec<Agent>) {
    let hosts: [Host; 3] = lab.hosts();
    let open = ["--legacy-drones", "open", "--legacy-networks", "10.77.0.0/24"];
    let mut agents = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        let mut arguments = [&open[..], more].concat();
        if staging && number == 0 {
            arguments.extend(["--staging-path", "/tmp/staging"]);
            fs::create_dir_all(host.tmp().join("staging")).expect("staging");
        }
        agents.push(host.start(&arguments));
    }
    one_hive(&hosts.iter().collect::<Vec<_>>(), 40);
    (hosts, agents)
}

fn queue_depth(from: &Host, host: &Host) -> u64 {
    get(from, host, "status")["needed"].as_u64().expect("a number")
}

fn upload(staging: &Path, category: &str, pf: &str) {
    let name = pf.rsplit_once('-').map_or(pf, |(name, _)| name);
    let directory = staging.join(category).join(name);
    fs::create_dir_all(&directory).expect("directory");
    fs::write(directory.join(format!("{pf}-1.gpkg.tar")), gpkg::package(category, pf, Some(1), &[7; 4_000]))
        .expect("file");
}

#[test]
fn a_drone_of_the_old_swarm_works_for_any_node_and_only_what_it_was_handed_counts() {
    in_lab("legacy::a_drone_of_the_old_swarm_works_for_any_node_and_only_what_it_was_handed_counts", |lab| {
        let machine = lab.bare_host();
        let (hosts, _agents) = swarm(lab, true, &["--build-slots", "0"]);
        let [one, two, three] = &hosts;
        let (a, b) = (LegacyDrone { host: &machine, name: "drone-a" }, LegacyDrone { host: &machine, name: "drone-b" });

        // Before it registers it is told to.
        assert_eq!(a.work(one), json!({ "package": null, "action": "register" }));
        let registered = a.register(two, None);
        assert_eq!((&registered["status"], &registered["orchestrator_port"]), (&json!("registered"), &json!(8100)));
        assert_eq!(registered["orchestrator"], two.address.as_str(), "any node serves it, this one is known to");

        let packages = ["virtual/libc-1", "dev-libs/foo-1.2:0", "=dev-libs/foo-1.2", "dev-libs/bar-3"];
        let queued = post(&machine, three, "queue", &json!({ "packages": packages }));
        assert_eq!((&queued["status"], &queued["queued"]), (&json!("ok"), &json!(3)), "one stood twice: {queued}");
        let again = post(&machine, one, "queue", &json!({ "packages": packages }));
        assert_eq!(again["queued"], 0, "what is queued already is not queued again");

        // In the order given; the same again until it is done. A virtual package leaves no file.
        let first = a.package(two);
        assert_eq!(first, "=virtual/libc-1");
        assert_eq!(a.work(one)["package"], first.as_str(), "of any node");
        let stranger = b.complete(one, &first, "success");
        assert_eq!((&stranger["accepted"], &stranger["stale"]), (&json!(false), &json!(true)), "{stranger}");
        b.register(three, None);
        let stranger = b.complete(one, &first, "success");
        assert_eq!((&stranger["stale"], &stranger["action"]), (&json!(true), &json!("stop_work")), "{stranger}");
        assert_eq!(stranger["reassigned_to"], "drone-a");
        // Nobody hears of it any more: what it was given ahead comes back.
        assert_eq!(ask(&machine, two, "DELETE", "nodes/drone-b", None, &[]).0, 200);
        assert_eq!(a.complete(three, "virtual/libc-1", "success")["accepted"], true, "with or without the operator");
        assert_eq!(a.complete(two, &first, "success")["accepted"], true, "it did not hear the answer");

        // A success of which nothing arrived, then one that did.
        let second = a.package(two);
        let missing = a.complete(two, &second, "success");
        assert_eq!((&missing["accepted"], &missing["status"]), (&json!(false), &json!("missing_binary")), "{missing}");
        upload(&one.tmp().join("staging"), "dev-libs", "foo-1.2");
        upload(&one.tmp().join("staging"), "dev-libs", "bar-3");
        for _ in 0..2 {
            let package = a.package(one);
            let told = a.complete(one, &package, "success");
            assert_eq!(told["accepted"], true, "{package}: {told}");
        }
        assert_eq!(a.work(one), json!({ "package": null }));
        assert_eq!(queue_depth(&machine, three), 0);
        let received = || (get(&machine, three, "status")["received"] == 3).then_some(());
        eventually("three packages on every node", s(10), received);
    });
}

#[test]
fn failures_pauses_and_cancels_reach_drones_of_the_old_swarm() {
    in_lab("legacy::failures_pauses_and_cancels_reach_drones_of_the_old_swarm", |lab| {
        let machine = lab.bare_host();
        let (hosts, _agents) = swarm(lab, false, &["--build-slots", "0"]);
        let [one, two, _] = &hosts;
        let (a, b) =
            (LegacyDrone { host: &machine, name: "drone-a" }, LegacyDrone { host: &machine, name: "sweeper-b" });
        a.register(one, None);
        post(&machine, one, "queue", &json!({ "packages": ["dev-libs/one-1", "dev-libs/two-1"] }));
        assert_eq!(a.complete(two, &a.package(one), "masked")["accepted"], true);
        let blocked = || (get(&machine, two, "status")["blocked"] == 1).then_some(());
        eventually("the masked package is blocked", s(10), blocked);

        // Cancelled while it builds: it is told to drop it, once, and to stop what it says it does.
        let package = a.package(one);
        let jobs = one.json(&["queue", "list"]).expect("jobs");
        let job =
            jobs.as_array().expect("a list").iter().find(|job| job["target"] == package.as_str()).expect("listed");
        one.json(&["job", "cancel", job["id"].as_str().expect("id")]).expect("cancelled");
        let told = eventually("it is told to stop", s(10), || {
            let told = a.register(two, Some(&package));
            told["stop_work"]["package"].as_str().map(|_| told.clone())
        });
        assert_eq!(
            (&told["stop_work"]["package"], &told["stop_work"]["reason"]),
            (&json!(package), &json!("cancelled"))
        );
        let stale = a.complete(two, &package, "success");
        assert_eq!((&stale["accepted"], &stale["stale"]), (&json!(false), &json!(true)));
        // What its package needs is its own business.
        assert!(a.register(one, Some("sys-devel/gcc-15")).get("stop_work").is_none());

        // Paused by name like any drone, and shown so.
        post(&machine, two, "nodes/drone-a/pause", &json!({}));
        eventually("it is told that it is paused", s(10), || (a.register(one, None)["paused"] == true).then_some(()));
        post(&machine, one, "queue", &json!({ "packages": ["dev-libs/three-1"] }));
        assert_eq!(a.work(one)["package"], Value::Null);
        let explained = one.json(&["explain", "drone-a"]).expect("explained");
        assert!(explained["summary"].as_str().expect("text").contains("paused"), "{explained}");
        one.json(&["drone", "resume", "drone-a"]).expect("resumed");
        let package = a.package(two);
        assert_eq!(a.complete(one, &package, "failed")["accepted"], true);
        // A sweeper is given nothing but what is blocked for failures.
        b.register(two, None);
        assert_eq!(b.work(two)["package"], Value::Null);
        assert_eq!(get(&machine, one, "history?limit=1")["history"][0]["status"], "failed");

        // A node of the hive is no such drone; one that is gone can be taken off the list.
        let own = LegacyDrone { host: &machine, name: "n2" };
        assert_eq!(own.register(two, None)["status"], "ignored");
        assert_eq!(ask(&machine, two, "DELETE", "nodes/drone-a", None, &[]).0, 200);
        assert_eq!(ask(&machine, two, "DELETE", "nodes/drone-a", None, &[]).0, 404);
        assert_eq!(a.work(one)["action"], "register");
    });
}

#[test]
fn a_coordinator_dies_between_any_two_words_of_a_drone_and_nothing_is_lost_or_counted_twice() {
    in_lab("legacy::a_coordinator_dies_between_any_two_words_of_a_drone_and_nothing_is_lost_or_counted_twice", |lab| {
        let machine = lab.bare_host();
        let (hosts, agents) = swarm(lab, false, &["--build-slots", "0"]);
        let all: Vec<&Host> = hosts.iter().collect();
        let a = LegacyDrone { host: &machine, name: "drone-a" };
        let packages: Vec<String> = (0..4).map(|number| format!("dev-libs/p{number}-1")).collect();
        // Before, the loss of one may be the loss of all.
        voters(&hosts[0], 3);
        let (_, coordinator) = one_hive(&all, 40);
        let mut agents: Vec<(String, Agent)> = hosts.iter().map(|host| host.name.clone()).zip(agents).collect();
        let position = agents.iter().position(|(name, _)| *name == coordinator).expect("it is one of them");
        let left: Vec<&Host> = hosts.iter().filter(|host| host.name != coordinator).collect();
        a.register(left[0], None);
        post(&machine, left[0], "queue", &json!({ "packages": packages }));
        let first = a.package(left[0]);
        let begun = || {
            let nodes = get(&machine, left[1], "nodes");
            let drone = nodes.as_array()?.iter().find(|node| node["name"] == "drone-a")?.clone();
            drone["build_progress"].as_array().filter(|progress| !progress.is_empty()).map(|_| ())
        };
        eventually("the hive knows that it began", s(10), begun);
        // Handed out, and the coordinator that handed it out is gone.
        agents.swap_remove(position).1.kill();
        let told = a.complete(left[1], &first, "success");
        assert_eq!(told["accepted"], true, "handed out before, by another: {told}");
        let told = a.complete(left[0], &first, "success");
        assert_eq!(told["accepted"], true, "and known by now: {told}");
        for _ in 1..packages.len() {
            a.register(left[0], None);
            let package = a.package(left[1]);
            assert_ne!(package, first, "what is done is not handed out again");
            assert_eq!(a.complete(left[0], &package, "success")["accepted"], true);
        }
        let status = get(&machine, left[1], "status");
        assert_eq!((&status["received"], &status["needed"]), (&json!(4), &json!(0)), "{status}");
        let history = get(&machine, left[0], "history");
        assert_eq!(history["stats"]["success"], 4, "each counted once: {history}");
    });
}

#[test]
fn without_a_key_nothing_changes_where_the_door_is_shut() {
    in_lab("legacy::without_a_key_nothing_changes_where_the_door_is_shut", |lab| {
        let machine = lab.bare_host();
        let [open, key, off]: [Host; 3] = lab.hosts();
        let elsewhere = ["--legacy-drones", "open", "--legacy-networks", "192.168.0.0/16"];
        let _agents =
            [open.start(&elsewhere), key.start(&["--legacy-drones", "key"]), off.start(&["--legacy-drones", "off"])];
        one_hive(&[&open, &key, &off], 40);
        let body = json!({ "name": "drone-a", "id": "drone-a", "package": "a/b-1", "status": "success", "action": "pause",
                           "packages": ["a/b-1"] });
        let writes = [
            ("POST", "register"),
            ("POST", "complete"),
            ("POST", "report"),
            ("POST", "queue"),
            ("POST", "control"),
            ("POST", "nodes/drone-a/pause"),
            ("DELETE", "nodes/drone-a"),
            ("GET", "work?id=drone-a"),
            ("GET", "poll?node=drone-a"),
            ("GET", "drone-health"),
        ];
        for (method, path) in writes {
            let payload = (method == "POST").then_some(&body);
            for (host, expected) in [(&open, [401, 401]), (&key, [401, 401]), (&off, [404, 401])] {
                let (code, answer) = ask(&machine, host, method, path, payload, &[]);
                assert!(expected.contains(&code), "{method} {path} at {}: {code} {answer}", host.name);
                assert!(answer["error"].is_string() && answer["hint"].is_string(), "{answer}");
            }
        }
        let wrong = ask(&machine, &key, "GET", "work?id=drone-a", None, &["X-Admin-Key: guessed"]);
        assert_eq!(wrong.0, 401);
        assert_eq!(get(&machine, &key, "status")["total"], 0, "nothing of it happened");
    });
}

/// Each field of an answer with what it must be: `name:text`, `?` behind it when it may be null.
fn check(what: &str, value: &Value, shape: &str) {
    for word in shape.split_whitespace() {
        let (field, kind) = word.split_once(':').expect("field:kind");
        let found = value.get(field).unwrap_or_else(|| panic!("{what} has no {field}: {value}"));
        let fits = match kind.trim_end_matches('?') {
            "text" => found.is_string(),
            "number" => found.is_number(),
            "flag" => found.is_boolean(),
            "list" => found.is_array(),
            "map" => found.is_object(),
            other => panic!("{other}"),
        };
        assert!(fits || (kind.ends_with('?') && found.is_null()), "{what}.{field} is {found}, not {kind}");
    }
}

const NODE: &str = "id:text name:text ip:text type:text drone_type:text cores:number ram_gb:number status:text paused:flag \
                    last_seen:number? capabilities:map metrics:map current_task:text? version:text created_at:number \
                    assigned_packages:list build_progress:list cpu_percent:number? ram_percent:number? \
                    builds_completed:number builds_failed:number";
const STATUS: &str = "needed:number delegated:number received:number blocked:number failed:number total:number \
                      queue_depth:number queue_received:number queue_blocked:number nodes:number nodes_online:number \
                      total_cores:number paused:flag session:map packages:map drones:map drone_health:map timing:map \
                      version:text";
const SESSION: &str = "id:text name:text status:text total_packages:number completed_packages:number \
                       failed_packages:number started_at:number completed_at:number?";
const ROW: &str = "package:text status:text assigned_to:text? failures:number error_message:text? assigned_at:number? \
                   completed_at:number?";
const PAST: &str = "id:text package:text drone_id:text drone_name:text status:text duration_seconds:number? \
                    error_message:text? session_id:text built_at:number";

#[test]
fn readers_of_the_old_swarm_find_every_field() {
    in_lab("legacy::readers_of_the_old_swarm_find_every_field", |lab| {
        let machine = lab.bare_host();
        let (hosts, _agents) = swarm(lab, false, &["--build-slots", "0"]);
        let [one, two, _] = &hosts;
        let a = LegacyDrone { host: &machine, name: "drone-a" };
        a.register(one, None);
        post(&machine, one, "queue", &json!({ "packages": ["dev-libs/one-1", "dev-libs/two-1", "dev-libs/three-1"] }));
        a.complete(one, &a.package(one), "success");
        let building = a.package(one);
        a.register(one, Some(&building));
        eventually("the drone is seen from the other node", s(10), || {
            let nodes = get(&machine, two, "nodes");
            let drone = nodes.as_array()?.iter().find(|node| node["name"] == "drone-a")?.clone();
            let begun = drone["build_progress"].as_array().is_some_and(|progress| !progress.is_empty());
            (begun && drone["current_task"] == building.as_str()).then_some(())
        });
        let read = |path: &str| get(&machine, two, path);
        check("health", &read("health"), "status:text version:text uptime_s:number");
        let nodes = read("nodes?all=1&format=legacy");
        let nodes = nodes.as_array().expect("flat");
        assert_eq!(nodes.len(), 4);
        nodes.iter().for_each(|node| check("node", node, NODE));
        let drone = nodes.iter().find(|node| node["name"] == "drone-a").expect("listed");
        let shown = (&drone["status"], &drone["cores"], &drone["cpu_percent"]);
        assert_eq!(shown, (&json!("online"), &json!(8), &json!(12)));
        let progress = "package:text building_since:number elapsed_s:number estimated_s:number? progress_pct:number?";
        check("build_progress", &drone["build_progress"][0], progress);
        let status = read("status");
        check("status", &status, STATUS);
        assert_eq!(status["packages"]["delegated"][&building]["drone"], "drone-a", "{status}");
        check("status.packages", &status["packages"], "needed:list delegated:map blocked:list");
        let session = &read("sessions")["sessions"][0];
        check("session", session, SESSION);
        assert_eq!(session["total_packages"], 3);
        let queue = read("queue");
        assert_eq!(queue.as_array().expect("rows").len(), 3);
        queue.as_array().expect("rows").iter().for_each(|row| check("queue", row, ROW));
        let history = read("history?limit=5");
        check("history", &history["history"][0], PAST);
        check("history", &history, "history:list stats:map");
        let stats = read("build-stats/by-package?package=dev-libs/one");
        assert_eq!(stats["packages"].as_array().expect("packages").len(), 1);
        let statistics = "package:text attempts:number successes:number tried_on:list last_attempt:number";
        check("build-stats", &stats["packages"][0], statistics);
        check("versions", &read("versions"), "control_plane:text drones:list");
        let metrics = read("metrics?since=0");
        check("metrics", &metrics, "timestamp:number history:list current_queue:map drones:map");
        assert!(!metrics["history"].as_array().expect("rows").is_empty());
        let feed = read("events?limit=50");
        check("events", &feed, "events:list latest_id:number");
        check("event", &feed["events"][0], "id:number timestamp:number event_type:text message:text details:map");
        let last = feed["latest_id"].as_u64().expect("a number");
        assert_eq!(read(&format!("events?since={last}"))["events"], json!([]), "nothing after the newest");
        let past = read("events/history?type=complete&drone=drone-a");
        assert_eq!((&past["total"], &past["events"][0]["package"]), (&json!(1), &json!("=dev-libs/one-1")), "{past}");
        check("orchestrator", &read("orchestrator"), "ip:text name:text port:number");
        check("portage-config", &read("portage-config"), "portage_timestamp:text?");
        check("drone-health", &read("drone-health"), "drones:list");
    });
}

#[test]
fn drones_of_the_old_swarm_and_native_ones_build_one_session_together() {
    in_lab("legacy::drones_of_the_old_swarm_and_native_ones_build_one_session_together", |lab| {
        let machine = lab.bare_host();
        let (hosts, _agents) = swarm(lab, true, &[]);
        let [one, two, three] = &hosts;
        let old = LegacyDrone { host: &machine, name: "drone-old" };
        old.register(two, None);
        let mut archive = Vec::new();
        let tree = tempfile::tempdir().expect("temporary directory");
        fs::write(tree.path().join("build.sh"), "mkdir out; echo $1 >out/$1; sleep 1").expect("writes");
        hive::blobs::archive::archive(tree.path(), &mut archive).expect("archives");
        let source = store(one, &archive);
        let native = |number: u32, after: &[JobId]| {
            let argv = ["sh", "build.sh", &number.to_string()].map(str::to_owned).to_vec();
            let work = Work::Command { source: source.clone(), argv, artifacts: vec!["out/*".to_owned()] };
            let spec = JobSpec::new(JobId(uuid::Uuid::new_v4()), format!("native-{number}"), work);
            JobSpec { pure: true, depends_on: after.iter().copied().collect(), ..spec }
        };
        let package = |atom: &str, after: &[JobId]| {
            let work = Work::Portage { atom: atom.to_owned(), tree: None };
            let spec = JobSpec::new(JobId(uuid::Uuid::new_v4()), atom, work);
            JobSpec { pure: true, depends_on: after.iter().copied().collect(), ..spec }
        };
        // Across the kinds: what the old drone builds waits for native work, and the other way round.
        let first = native(1, &[]);
        let second = package("=dev-libs/foo-1.2", &[first.id]);
        let third = native(3, &[second.id]);
        let mut jobs = vec![first, second, third, package("=virtual/libc-1", &[])];
        jobs.extend((10..14).map(|number| native(number, &[])));
        let session = uuid::Uuid::new_v4().to_string();
        let body = json!({ "session": session, "jobs": jobs });
        let mut client = eventually("a connection", s(10), || Client::connect(&socket_of(one)));
        let (code, answer) = client.ask("POST", "/api/v2/jobs", Some(&body)).expect("an answer");
        assert_eq!(code, 200, "{answer}");

        upload(&one.tmp().join("staging"), "dev-libs", "foo-1.2");
        let mut built = Vec::new();
        for node in [two, three] {
            let atom = old.package(node);
            assert_eq!(old.complete(one, &atom, "success")["accepted"], true, "{atom}");
            built.push(atom);
        }
        assert_eq!(built, ["=virtual/libc-1", "=dev-libs/foo-1.2"], "each when what it needs is there");
        let shown = eventually("the session's end", s(60), || {
            three.json(&["session", "show", &session]).filter(|shown| shown["phase"] == "completed")
        });
        assert_eq!((&shown["total_packages"], &shown["completed_packages"]), (&json!(8), &json!(8)), "{shown}");
        let mut builders = std::collections::BTreeMap::<String, Vec<String>>::new();
        for job in &jobs {
            let shown = two.json(&["job", "show", &job.id.to_string()]).expect("a job");
            // What a busy drone was given ahead may have gone to an idle one before it began.
            let attempts = shown["attempts"].as_array().expect("attempts").clone();
            let (last, before) = attempts.split_last().expect("an attempt");
            assert_eq!(last["state"], "accepted", "{shown}");
            let moved = |attempt: &Value| attempt["state"] == "stale" && attempt["started_at"].is_null();
            assert!(before.iter().all(moved), "{shown}");
            let node = last["node"].as_str().expect("a name").to_owned();
            assert_eq!(node == "drone-old", matches!(job.work, Work::Portage { .. }), "{shown}");
            builders.entry(node).or_default().push(job.target.clone());
        }
        assert!(builders.len() >= 3, "the old one and at least two native ones: {builders:?}");
    });
}
