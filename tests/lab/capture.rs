//! What three real agents show of their wire: a job's way through the hive, datagrams that were refused, requests without their keys.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::building::{hive_of, queue_script, wait_for_state};
use crate::client::{Client, socket_of};
use crate::harness::{Host, eventually, in_lab, run, s};

const SCRIPT: &str = "set -e\nmkdir out\nhead -c 300000 /dev/urandom > out/big\necho made\n";

/// Records that fit, as `hive wire --json` tells them.
fn records(host: &Host, filter: &str, more: &[&str]) -> Vec<Value> {
    let mut arguments = vec!["wire", "--limit", "2000", "--filter", filter];
    arguments.extend_from_slice(more);
    let answer = host.json(&arguments).unwrap_or_else(|| panic!("no answer to {filter}"));
    answer["records"].as_array().expect("a list").clone()
}

fn first(host: &Host, filter: &str, more: &[&str]) -> Value {
    eventually(filter, s(20), || records(host, filter, more).into_iter().next())
}

fn words(records: &[Value], field: &str) -> BTreeSet<String> {
    records.iter().filter_map(|record| record[field].as_str()).map(str::to_owned).collect()
}

#[test]
fn the_way_of_a_job_is_seen_on_the_nodes_that_it_takes() {
    in_lab("capture::the_way_of_a_job_is_seen_on_the_nodes_that_it_takes", |lab| {
        let (hosts, _agents) = hive_of::<3>(lab);
        let status = hosts[0].status().expect("a status");
        let coordinator = status["coordinator"]["name"].as_str().expect("a name").to_owned();
        // Built by another node than the one that assigns it, so that all of it goes over the wire.
        let drone = hosts.iter().find(|host| host.name != coordinator).expect("another");
        let id = queue_script(&hosts[0], SCRIPT, &["--label", &format!("node:{}", drone.name), "--pure"]);
        wait_for_state(&hosts[0], &id, "received", 60);
        let asker = &hosts[2];

        let of_job = format!("job == \"{id}\"");
        let seen = eventually("every step of the job", s(20), || {
            let seen = records(asker, &of_job, &["--node", "all"]);
            let summaries = seen.iter().filter_map(|record| record["summary"].as_str()).collect::<Vec<_>>().join("\n");
            let all = ["Submit", "Assign", "Report"].iter().all(|step| summaries.contains(step));
            (all && words(&seen, "kind").contains("LEASE")).then_some(seen)
        });
        let nodes = words(&seen, "node");
        assert!(nodes.contains(&coordinator) && nodes.contains(&drone.name), "{nodes:?}");
        // The assignment goes out at the coordinator, the report and the lease at the drone, with the same trace at both ends.
        let lease = first(asker, &format!("{of_job} && kind == \"LEASE\" && sent"), &["--node", &drone.name]);
        assert_eq!(
            (&lease["from"], &lease["to"]),
            (&Value::from(drone.name.as_str()), &Value::from(coordinator.as_str()))
        );
        let trace = lease["trace"].as_str().expect("a trace");
        let both = records(asker, &format!("trace == \"{trace}\""), &["--node", "all"]);
        assert_eq!(words(&both, "node"), BTreeSet::from([coordinator.clone(), drone.name.clone()]), "{both:#?}");
        assert_eq!(words(&both, "kind"), BTreeSet::from(["LEASE".to_owned(), "LEASES".to_owned()]));
        assert!(both.iter().any(|record| record["latency_ms"].as_f64().is_some_and(|ms| ms > 0.0)), "{both:#?}");
        let conversations = asker
            .json(&["wire", "--conversations", "--node", "all", "--filter", &format!("trace == \"{trace}\"")])
            .expect("conversations");
        let one = &conversations["conversations"][0];
        assert_eq!((&one["from"], &one["status"]), (&lease["from"], &Value::from("ok")), "{conversations}");
        let reported =
            records(asker, &format!("{of_job} && summary contains \"Report\" && sent"), &["--node", &drone.name]);
        assert!(reported.iter().any(|record| record["protocol"] == "propose"), "{reported:#?}");
        // What was built is kept by another node as well: its bytes went over a stream of their own.
        first(asker, "protocol == \"blob\" && kind == \"CONTENT\" && bytes >= 256KiB", &["--node", "all"]);

        // One record with what it says, asked of a node that did not see it.
        let shown = asker.json(&["wire", lease["id"].as_str().expect("an id")]).expect("a record");
        assert_eq!(shown["fields"]["Lease"]["attempts"][0]["job"], Value::from(id.as_str()), "{shown}");
        assert!(shown["related"].as_array().is_some_and(|related| !related.is_empty()), "{shown}");

        exports(asker, &of_job);
        histogram(asker);
        old_protocol_log(asker);
    });
}

fn exports(host: &Host, filter: &str) {
    let lines = host.hive(&["wire", "--node", "all", "--filter", filter, "--export", "/tmp/job.jsonl"]);
    assert_eq!(lines.code, 0, "{lines:?}");
    let text = fs::read_to_string(host.tmp().join("job.jsonl")).expect("written");
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
    assert!(rows.len() > 5 && rows.iter().all(|row| row["record"]["id"].is_string()), "{} rows", rows.len());
    let capture = host.hive(&["wire", "--node", "all", "--export", "/tmp/all.pcapng"]);
    assert_eq!(capture.code, 0, "{capture:?}");
    let bytes = fs::read(host.tmp().join("all.pcapng")).expect("written");
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let (mut at, mut packets) = (0, 0);
    while at < bytes.len() {
        let length = number(at + 4);
        assert!(length >= 12 && number(at + length - 4) == length, "a block at {at} is not whole");
        if number(at) == 6 {
            packets += 1;
            // The packet's own length is the one that its IP header tells.
            let (captured, ip) = (number(at + 20), at + 28);
            let told = match bytes[ip] >> 4 {
                4 => usize::from(u16::from_be_bytes([bytes[ip + 2], bytes[ip + 3]])),
                6 => usize::from(u16::from_be_bytes([bytes[ip + 4], bytes[ip + 5]])) + 40,
                other => panic!("IP version {other}"),
            };
            assert_eq!(told, captured);
        }
        at += length;
    }
    assert!(packets > 50, "{packets} packets");
    let again = host.hive(&["wire", "--export", "/tmp/all.pcapng"]);
    assert_eq!(again.code, 1, "it is not overwritten: {again:?}");
}

fn api(host: &Host, path: &str) -> Value {
    let mut client = eventually("a connection", s(10), || Client::connect(&socket_of(host)));
    client.get(path).unwrap_or_else(|| panic!("no answer at {path}"))
}

fn histogram(host: &Host) {
    let counted = api(host, "/api/v2/wire/density?node=all&buckets=30");
    let sum: u64 = counted["counts"].as_array().expect("columns").iter().filter_map(Value::as_u64).sum();
    assert!(counted["counts"].as_array().map(Vec::len) == Some(30) && sum > 100, "{counted}");
    let fields = api(host, "/api/v2/wire/fields");
    let kind = fields["fields"].as_array().expect("fields").iter().find(|field| field["name"] == "kind").cloned();
    assert!(kind.expect("kind")["values"].as_array().is_some_and(|values| values.len() > 3), "{fields}");
}

/// The paths of the old swarm answer with bare objects.
fn old_protocol_log(host: &Host) {
    let fetch = |path: &str| -> Value {
        let mut curl = host.command("curl");
        curl.args(["-sS", &format!("http://127.0.0.1:8100{path}")]);
        let answer = run(curl);
        serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{path}: {error}: {answer:?}"))
    };
    fetch("/api/v1/status");
    let list = fetch("/api/v1/protocol?type=status_query&limit=5");
    let entry = &list["entries"][0];
    assert_eq!((&entry["method"], &entry["path"]), (&Value::from("GET"), &Value::from("/api/v1/status")), "{list}");
    assert!(entry["timestamp"].is_f64() && entry["latency_ms"].is_f64() && entry["status_code"] == 200, "{list}");
    let stats = fetch("/api/v1/protocol/stats");
    assert!(stats["total"].as_u64() > Some(50) && stats["by_type"]["mesh"].is_u64(), "{stats}");
    let density = fetch("/api/v1/protocol/density?buckets=10");
    assert_eq!(density["density"].as_array().map(Vec::len), Some(10), "{density}");
    let snapshot = fetch("/api/v1/protocol/snapshot");
    assert!(snapshot["status"]["nodes"].is_number() && snapshot["nodes"].is_array(), "{snapshot}");
    let refused = fetch(&format!("/api/v1/protocol/detail?id={}", entry["id"]));
    assert_eq!(refused["code"], "unauthorized", "bodies are for operators: {refused}");
    let detail = run({
        let mut curl = host.command("curl");
        curl.args(["-sS", "--unix-socket", "/run/hive/hive.sock"]);
        curl.arg(format!("http://localhost/api/v1/protocol/detail?id={}", entry["id"]));
        curl
    });
    let detail: Value = serde_json::from_str(&detail.stdout).expect("JSON");
    assert!(detail.get("request_body").is_some() && detail.get("response_body").is_some(), "{detail}");
}

/// Sends what is in a file to a node's port, from another address.
const SENDER: &str = "import socket, sys\nsock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                      sock.sendto(open('/tmp/datagram', 'rb').read(), (sys.argv[1], 50555))\n";

fn send(from: &Host, to: &str, bytes: &[u8]) {
    fs::write(from.tmp().join("send.py"), SENDER).expect("script");
    fs::write(from.tmp().join("datagram"), bytes).expect("datagram");
    let mut python = from.command("/usr/bin/python3");
    python.args(["/tmp/send.py", to]);
    let answer = run(python);
    assert_eq!(answer.code, 0, "{answer:?}");
}

#[test]
fn refused_datagrams_show_why_and_requests_show_no_key() {
    in_lab("capture::refused_datagrams_show_why_and_requests_show_no_key", |lab| {
        let (hosts, _agents) = hive_of::<3>(lab);
        // Somebody with another secret calls from the same network.
        let stranger = lab.bare_host();
        stranger.write_secret("another secret of thirty-two characters and more");
        let _foreign = stranger.start(&["--no-found"]);
        let wrong = first(&hosts[0], "verdict == \"wrong_secret\" && bytes > 0", &[]);
        assert!(wrong["from"].as_str().is_some_and(|from| from.contains("10.77.0.4")), "{wrong}");
        let shown = hosts[0].json(&["wire", wrong["id"].as_str().expect("an id")]).expect("a record");
        assert_eq!(
            (&shown["fields"]["verified"], &shown["fields"]["refused"]),
            (&Value::from(false), &Value::from("wrong_secret"))
        );

        // A datagram that was taken comes once more, out of the capture of the node that took it.
        let capture = hosts[0].hive(&[
            "wire",
            "--filter",
            "kind == \"HELLO\" && verdict == \"taken\" && from != \"n1\"",
            "--export",
            "/tmp/hello.pcapng",
        ]);
        assert_eq!(capture.code, 0, "{capture:?}");
        // From another address than the stranger's, which is not listened to for a while.
        let repeater = lab.bare_host();
        let replayed = replay(&hosts[0]);
        send(&repeater, "10.77.0.1", &replayed);
        let seen = first(&hosts[0], "verdict == \"replay\"", &[]);
        assert_eq!(seen["bytes"], replayed.len() as u64, "{seen}");
        send(&repeater, "10.77.0.1", b"\x1b[2Jno hive speaks so");
        first(&hosts[0], "verdict == \"malformed\" && protocol == \"datagram\"", &[]);

        let holder = eventually("a node with the admin key", s(20), || {
            hosts.iter().find(|host| host.etc().join("admin_key").exists())
        });
        no_key_is_kept(holder);
        // What was refused is on the disk as well, and nothing else is.
        let kept = eventually("segments", s(20), || {
            let names = fs::read_dir(hosts[0].state().join("wire")).ok()?.flatten().map(|entry| entry.path());
            let text: String = names.filter_map(|path| fs::read_to_string(path).ok()).collect();
            text.contains("\"replay\"").then_some(text)
        });
        for line in kept.lines() {
            let record: Value = serde_json::from_str(line).expect("a record");
            assert!(!matches!(record["verdict"].as_str(), Some("taken" | "sent")), "{record}");
        }
    });
}

/// The content of the first packet of an export that is UDP over IPv4.
fn replay(host: &Host) -> Vec<u8> {
    let bytes = fs::read(host.tmp().join("hello.pcapng")).expect("written");
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let mut at = 0;
    loop {
        assert!(at < bytes.len(), "no packet in the export");
        let (length, ip) = (number(at + 4), at + 28);
        if number(at) == 6 && bytes[ip] == 0x45 && bytes[ip + 9] == 17 {
            return bytes[ip + 28..ip + number(at + 20)].to_vec();
        }
        at += length;
    }
}

/// The admin key goes through every door, in every way; afterwards it is nowhere in what is kept or shown.
fn no_key_is_kept(host: &Host) {
    let key = fs::read_to_string(host.etc().join("admin_key")).expect("the first node has the key").trim().to_owned();
    let ask = |arguments: &[&str]| {
        let mut curl = host.command("curl");
        curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"]).args(arguments);
        run(curl).stdout
    };
    let header = format!("X-Admin-Key: {key}");
    let bearer = format!("Authorization: Bearer {key}");
    let body = format!("{{\"action\":\"pause\",\"reason\":\"trial\",\"key\":\"{key}\"}}");
    assert_eq!(ask(&["-H", &header, "http://127.0.0.1:8093/api/v2/doctor"]), "200");
    assert_eq!(ask(&["-H", &bearer, "http://127.0.0.1:8093/api/v2/doctor"]), "200");
    ask(&["-H", &header, "-H", "Content-Type: application/json", "-d", &body, "http://127.0.0.1:8093/api/v2/control"]);
    ask(&[&format!("http://127.0.0.1:8100/api/v2/jobs?key={key}")]);
    ask(&["-b", &format!("hive_session={key}"), "http://127.0.0.1:8100/api/v2/nodes"]);
    ask(&["-H", "X-Admin-Key: a-wrong-key-that-nobody-has", "http://127.0.0.1:8093/api/v2/doctor"]);
    let refused = first(host, "protocol == \"admin\" && verdict == \"wrong_key\" && status == 401", &[]);
    assert_eq!(refused["path"], "/api/v2/doctor");
    let seen = records(host, "protocol in (\"admin\", \"http\", \"local\")", &[]);
    assert!(seen.len() >= 6, "{} requests", seen.len());
    let exported = host.hive(&["wire", "--export", "/tmp/keys.jsonl"]);
    assert_eq!(exported.code, 0, "{exported:?}");
    let text = fs::read_to_string(host.tmp().join("keys.jsonl")).expect("written");
    assert!(
        text.contains("x-admin-key") && text.contains("(secret)") && text.contains("trial"),
        "the requests are there"
    );
    for secret in [key.as_str(), "a-wrong-key-that-nobody-has"] {
        assert!(!text.contains(secret), "a key is in the export");
    }
    let capture = host.hive(&["wire", "--export", "/tmp/keys.pcapng"]);
    assert_eq!(capture.code, 0, "{capture:?}");
    let bytes = fs::read(host.tmp().join("keys.pcapng")).expect("written");
    assert!(!bytes.windows(key.len()).any(|window| window == key.as_bytes()), "the key is in the capture");
}
