//! What people do with the queue: imports of thousands of jobs, sessions, control, drones that are emptied.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::forming::one_hive;
use crate::harness::{Host, PROGRAM, eventually, in_lab, run, s};

const SESSION: &str = "6f9619ff-8b86-4011-b42d-00c04fc964ff";
const JOBS: usize = 2_000;

/// Stores an archive of one file, and answers with the source that it is.
fn source(host: &Host) -> Value {
    let script = "echo nothing > /tmp/readme && tar -C /tmp -cf /tmp/empty.tar readme && \
                  curl -s -m 20 --unix-socket /run/hive/hive.sock -T /tmp/empty.tar http://localhost/api/v2/blobs";
    let mut command = host.command("sh");
    command.args(["-c", script]);
    let answer = run(command);
    let stored: Value = serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    json!({ "kind": "blob", "sha256": stored["data"]["sha256"], "size": stored["data"]["size"] })
}

/// Chains of ten jobs each that do nothing.
fn lines(source: &Value, jobs: usize, word: &str) -> String {
    let mut out = String::new();
    for number in 0..jobs {
        let after: Vec<String> = (number % 10 != 0).then(|| format!("{word}{}", number - 1)).into_iter().collect();
        let line = json!({
            "target": format!("{word}{number}"), "backend": "command", "source": source, "argv": ["true", number.to_string()],
            "pure": true, "after": after,
        });
        writeln!(out, "{line}").expect("memory");
    }
    out
}

fn session(host: &Host, which: &str) -> Option<Value> {
    host.json(&["session", "show", which])
}

fn queue(host: &Host, state: &str) -> u64 {
    host.json(&["queue", "status"]).and_then(|queue| queue[state].as_u64()).unwrap_or(u64::MAX)
}

fn hive(host: &Host, arguments: &[&str]) -> Value {
    let answer = host.json(arguments);
    answer.unwrap_or_else(|| panic!("{arguments:?}: {:?}", host.hive(arguments)))
}

#[test]
fn an_import_is_there_as_a_whole_or_not_at_all_and_is_controlled_from_any_node() {
    in_lab("queueing::an_import_is_there_as_a_whole_or_not_at_all_and_is_controlled_from_any_node", |lab| {
        let hosts: [Host; 2] = lab.hosts();
        let _agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        one_hive(&hosts.iter().collect::<Vec<_>>(), 40);
        let [one, two] = &hosts;
        let source = source(one);

        // Paused on one node, the other says so.
        assert_eq!(hive(one, &["control", "pause", "--reason", "counting"])["action"], "pause");
        eventually("the pause on the other node", s(10), || {
            let fleet = two.json(&["fleet"])?;
            (fleet["paused"]["why"] == "counting").then_some(())
        });

        fs::write(one.tmp().join("jobs"), lines(&source, JOBS, "big")).expect("file");
        let import = ["queue", "import", "/tmp/jobs", "--name", "big", "--session", SESSION];
        for _ in 0..2 {
            let imported = hive(one, &import);
            assert_eq!((&imported["jobs"], &imported["session"]), (&json!(JOBS), &json!(SESSION)));
        }
        let shown = eventually("the session on the other node", s(10), || {
            session(two, "big").filter(|shown| shown["total_packages"] == JOBS)
        });
        assert_eq!((&shown["phase"], &shown["status"]), (&json!("active"), &json!("active")), "{shown}");
        assert_eq!(shown["counts"]["needed"], JOBS);
        assert_eq!((&shown["eta"]["jobs"], &shown["eta"]["guessed"]), (&json!(JOBS), &json!(JOBS)), "{shown}");
        let waiting = shown["groups"][0]["jobs"][1]["waiting_for"].as_str().expect("a sentence");
        assert_eq!(waiting, "waits for 1 job: big0");

        // A bad line: nothing of it is there, and it is named.
        let bad = lines(&source, 200, "bad") + "{\"target\":\"x\",\"backend\":\"maven\"}\n";
        fs::write(one.tmp().join("bad"), bad).expect("file");
        let refused = one.hive(&["queue", "import", "/tmp/bad", "--name", "bad"]);
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(refused.stderr.contains("line 201: backend \"maven\""), "{refused:?}");

        // A torn one: seen as an import while it lasts, and gone without a trace.
        let mut command = one.command(PROGRAM);
        command.args(["queue", "import", "-", "--name", "torn"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut torn = command.spawn().expect("starts");
        let mut pipe = torn.stdin.take().expect("piped");
        pipe.write_all(lines(&source, 500, "torn").as_bytes()).expect("takes it");
        pipe.flush().expect("takes it");
        eventually("the import on the other node", s(20), || {
            session(two, "torn").filter(|shown| shown["phase"] == "importing" && shown["total_packages"] != 0)
        });
        assert_eq!(queue(two, "needed"), JOBS as u64, "none of its jobs is seen");
        torn.kill().expect("killed");
        torn.wait().expect("reaped");
        drop(pipe);
        eventually("no trace of it", s(30), || {
            let all = two.json(&["session", "list", "--all"])?;
            let names: Vec<&str> =
                all["sessions"].as_array()?.iter().filter_map(|line| line["name"].as_str()).collect();
            (names == ["big"]).then_some(())
        });
        assert_eq!(queue(one, "needed"), JOBS as u64);

        // Resumed, it runs; an emptied drone gets nothing new.
        hive(two, &["control", "resume"]);
        eventually("jobs that are done", s(60), || (20..=JOBS as u64).contains(&queue(one, "received")).then_some(()));
        assert_eq!(hive(one, &["drone", "drain", &two.name, "--reason", "new disk", "--deadline", "1m"])["drones"], 1);
        eventually("an empty drone", s(60), || {
            let drone = one.json(&["drone", "show", &two.name])?;
            (drone["used"] == 0 && drone["draining"]["why"] == "new disk").then_some(())
        });
        let past = hive(one, &["history", "--session", SESSION, "--limit", "10"]);
        assert_eq!(past["history"].as_array().map(Vec::len), Some(10), "{past}");
        let accepted = |line: &Value| line["state"] == "accepted" && line["drone"].is_string();
        assert!(past["history"].as_array().is_some_and(|lines| lines.iter().any(accepted)), "{past}");
        let packages = hive(two, &["history", "packages", "--limit", "5"]);
        assert_eq!(packages["packages"][0]["successes"], 1, "{packages}");

        // Cancelled, nothing of it is left to do.
        let cancelled = hive(one, &["session", "cancel", "6f9619ff", "--reason", "enough"]);
        assert!(cancelled["jobs"].as_u64().is_some_and(|jobs| jobs > 0), "{cancelled}");
        let ended = |shown: &Value| shown["phase"] == "cancelled" && shown["counts"]["delegated"] == 0;
        let over = eventually("a cancelled session", s(30), || session(two, "big").filter(ended));
        assert_eq!((&over["status"], &over["counts"]["needed"]), (&json!("aborted"), &json!(0)), "{over}");
        assert!(over["why"].as_str().is_some_and(|why| why.ends_with("enough")), "{over}");
    });
}
