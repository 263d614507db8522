//! What an operator does on one node from any other: SQL, logs, commands, terminals.

use std::process::{Child, Stdio};

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::forming::{one_hive, roles};
use crate::harness::{Host, eventually, in_lab, run, s};

const OPEN: &[&str] = &["--admin", "0.0.0.0:8093", "--terminal-enabled"];
const SHUT: &[&str] = &["--admin", "0.0.0.0:8093"];

/// What a path answers on another host's port, with its status.
fn get(from: &Host, to: &Host, port: u16, path: &str) -> String {
    let mut command = from.command("curl");
    command.args(["-s", "-k", "-m", "10", "-w", " %{http_code}", &format!("{}{path}", to.url(port))]);
    run(command).stdout
}

#[test]
fn the_state_is_questioned_with_sql_and_not_changed() {
    in_lab("console::the_state_is_questioned_with_sql_and_not_changed", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let _agents: Vec<_> = hosts.iter().map(|host| host.start(SHUT)).collect();
        one_hive(&all, 40);
        roles(&all, 30);
        let names = eventually("all three in the table", s(20), || {
            let found =
                hosts[1].json(&["sql", "SELECT name, state FROM machines WHERE raft IS NOT NULL ORDER BY name"])?;
            (found["count"] == 3).then_some(found)
        });
        let mut expected: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        expected.sort_unstable();
        let told: Vec<&str> =
            names["rows"].as_array().expect("rows").iter().filter_map(|row| row[0].as_str()).collect();
        assert_eq!(told, expected, "{names}");
        std::fs::create_dir_all(hosts[0].tmp().join("job")).expect("directory");
        std::fs::write(hosts[0].tmp().join("job/a"), "a").expect("file");
        let add =
            ["queue", "add", "--backend", "command", "--dir", "/tmp/job", "--artifact", "a", "--wait", "--", "true"];
        let built = hosts[0].hive(&add);
        assert_eq!(built.code, 0, "{built:?}");
        eventually("the job everywhere the same", s(20), || {
            let asked = "SELECT status, count(*) FROM build_history GROUP BY status";
            let answers: Vec<String> = hosts.iter().map(|host| host.hive(&["sql", "--csv", asked]).stdout).collect();
            answers.iter().all(|answer| answer.contains("success,1")).then_some(())
        });
        for hostile in
            ["DELETE FROM jobs", "ATTACH '/tmp/x' AS x", "SELECT * FROM sqlite_master", "VACUUM INTO '/tmp/x'"]
        {
            let refused = hosts[0].hive(&["sql", hostile]);
            assert_eq!(refused.code, 2, "{hostile}: {refused:?}");
        }
        let endless = "WITH RECURSIVE up(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up) SELECT count(*) FROM up";
        let stopped = hosts[0].hive(&["sql", endless]);
        assert!(stopped.code == 1 && stopped.stderr.contains("was stopped"), "{stopped:?}");
        // More than a node takes at once: some are turned away, and nobody else notices.
        let start = || {
            let mut command = hosts[0].command(crate::harness::PROGRAM);
            command.args(["sql", endless]).stdout(Stdio::null()).stderr(Stdio::piped());
            command.spawn().expect("starts")
        };
        let children: Vec<Child> = (0..9).map(|_| start()).collect();
        assert!(hosts[0].status().is_some_and(|status| status["quorum"] == true), "others are answered meanwhile");
        let ends: Vec<_> = children.into_iter().map(|child| child.wait_with_output().expect("ends")).collect();
        let codes: Vec<_> = ends.iter().filter_map(|end| end.status.code()).collect();
        assert!(codes.contains(&3) && codes.contains(&1) && codes.len() == 9, "{codes:?}");
        assert!(get(&hosts[1], &hosts[0], 8100, "/api/v2/sql/schema").ends_with(" 403"), "not at the public port");
        assert!(get(&hosts[1], &hosts[0], 8093, "/api/v1/sql/tables").ends_with(" 401"), "not without a key");
        let path = hosts.iter().map(|host| host.etc().join("admin_key")).find(|path| path.exists()).expect("a key");
        let key = std::fs::read_to_string(path).expect("readable");
        let mut command = hosts[1].command("curl");
        let query = format!("{}/api/v1/sql/query?q=SELECT%20count(*)%20AS%20n%20FROM%20queue", hosts[0].url(8093));
        command.args(["-s", "-k", "-m", "10", "-H", &format!("X-Admin-Key: {}", key.trim()), &query]);
        let old: Value = serde_json::from_str(&run(command).stdout).expect("JSON");
        assert_eq!((&old["columns"], &old["rows"], &old["count"]), (&json!(["n"]), &json!([[1]]), &json!(1)), "{old}");
    });
}

#[test]
fn logs_and_commands_of_a_node_are_had_from_another() {
    in_lab("console::logs_and_commands_of_a_node_are_had_from_another", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let mut agents = vec![hosts[0].start(SHUT), hosts[1].start(OPEN), hosts[2].start(SHUT)];
        one_hive(&all, 40);
        let [near, far, shut] = &hosts;
        let log = eventually("the log of another node", s(20), || {
            let answer = near.hive(&["logs", "--node", &far.name, "--lines", "200"]);
            (answer.code == 0).then_some(answer.stdout)
        });
        assert!(log.lines().count() > 3 && far.log().contains(log.lines().next().expect("a line").trim()), "{log}");
        let ran = near.hive(&["exec", &far.name, "--", "sh", "-c", "hostname; echo oops >&2; exit 7"]);
        assert_eq!((ran.code, ran.stdout.trim(), ran.stderr.trim()), (7, far.name.as_str(), "oops"), "{ran:?}");
        let began = "what=\"exec\"";
        assert!(far.log().contains(began) && far.log().contains("began: sh -c"), "{}", far.log());
        let refused = near.hive(&["exec", &shut.name, "--", "true"]);
        assert_eq!(refused.code, 4, "{refused:?}");
        assert!(refused.stderr.contains("terminal.enabled"), "{refused:?}");
        let late = near.hive(&["exec", &far.name, "--timeout", "1s", "--", "sleep", "71.5"]);
        assert!(late.code == 124 && late.stderr.contains("longer than"), "{late:?}");

        // It ends with whoever asked.
        let mut command = near.command(crate::harness::PROGRAM);
        command.args(["exec", &far.name, "--timeout", "5m", "--", "sleep", "72.5"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("starts");
        let runs = || {
            run(far.command("pgrep").tap(|command| {
                command.args(["-f", "^sleep 72.5"]);
            }))
            .code
                == 0
        };
        eventually("it runs there", s(20), || runs().then_some(()));
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        eventually("it is gone there", s(20), || (!runs()).then_some(()));

        agents.remove(1).kill();
        let gone = eventually("the node is down", s(40), || {
            let answer = near.hive(&["logs", "--node", &far.name]);
            (answer.code == 3).then_some(answer)
        });
        assert!(gone.stderr.contains(&far.name), "{gone:?}");
    });
}

/// Lets a command be made in one expression.
trait Tap: Sized {
    fn tap(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}
impl Tap for std::process::Command {}

async fn connect(host: &Host) -> UnixStream {
    UnixStream::connect(host.tmp().with_file_name("run").join("hive.sock")).await.expect("the agent's socket")
}

/// A ticket for a terminal on a node, bought at this host's socket.
async fn ticket(host: &Host, node: &str) -> Value {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = connect(host).await;
    let request = format!(
        "POST /api/v2/nodes/{node}/terminal HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let body = answer.split_once("\r\n\r\n").expect("head and body").1;
    serde_json::from_str(body).expect("JSON")
}

async fn say(socket: &mut WebSocketStream<UnixStream>, value: Value) {
    socket.send(Message::Text(value.to_string().into())).await.expect("sent");
}

/// Output until these words.
async fn until(socket: &mut WebSocketStream<UnixStream>, words: &str) -> String {
    let mut seen = String::new();
    let reading = async {
        while !seen.contains(words) {
            let text = match socket.next().await {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                other => panic!("{other:?} after {seen:?}"),
            };
            let value: Value = serde_json::from_str(&text).expect("JSON");
            assert!(matches!(value["type"].as_str(), Some("connected" | "output")), "{value} after {seen:?}");
            seen.push_str(value["data"].as_str().unwrap_or_default());
        }
    };
    tokio::time::timeout(s(20), reading).await.unwrap_or_else(|_| panic!("{words:?} did not come"));
    seen
}

#[test]
fn a_terminal_on_another_node_than_the_one_asked() {
    in_lab("console::a_terminal_on_another_node_than_the_one_asked", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let _agents = [hosts[0].start(SHUT), hosts[1].start(OPEN), hosts[2].start(SHUT)];
        one_hive(&all, 40);
        let [near, far, shut] = &hosts;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let refused = ticket(near, &shut.name).await;
            assert_eq!(refused["error"]["code"], "forbidden", "{refused}");
            assert!(
                refused["error"]["hint"].as_str().is_some_and(|hint| hint.contains("terminal.enabled")),
                "{refused}"
            );
            let bought = ticket(near, &far.name).await["data"].clone();
            let path = bought["path"].as_str().expect("a path");
            let mut request = format!("ws://localhost{path}").into_client_request().expect("request");
            request.headers_mut().insert("origin", "http://localhost".parse().expect("header"));
            let (mut socket, _) = tokio_tungstenite::client_async(request, connect(near).await).await.expect("opens");
            say(&mut socket, json!({ "type": "ticket", "ticket": bought["ticket"], "columns": 90, "rows": 20 })).await;
            say(&mut socket, json!({ "type": "input", "data": "hostname; stty size; echo $((6*7))_a\n" })).await;
            let seen = until(&mut socket, "42_a").await;
            assert!(seen.contains(&format!("\r{}\r\n", far.name)) && seen.contains("20 90"), "{seen}");
            say(&mut socket, json!({ "type": "resize", "columns": 111, "rows": 44 })).await;
            say(&mut socket, json!({ "type": "input", "data": "stty size; sleep 73.5 & echo $((6*7))_b\n" })).await;
            assert!(until(&mut socket, "42_b").await.contains("44 111"));
            drop(socket);
        });
        let runs = || {
            run(far.command("pgrep").tap(|command| {
                command.args(["-f", "^sleep 73.5"]);
            }))
            .code
                == 0
        };
        eventually("nobody is left there", s(20), || (!runs()).then_some(()));
        let list = eventually("the recording is listed from a third node", s(20), || {
            let list = shut.json(&["recording", "list"])?;
            (list["recordings"].as_array()?.len() == 1).then_some(list)
        });
        let recording = &list["recordings"][0];
        assert_eq!((&recording["node"], &recording["columns"]), (&json!(far.name), &json!(90)), "{list}");
        let cast = shut.hive(&["recording", "get", recording["id"].as_str().expect("an id")]);
        assert!(
            cast.code == 0 && cast.stdout.starts_with("{\"version\":2") && cast.stdout.contains("42_b"),
            "{cast:?}"
        );
        assert!(far.log().contains("(the connection ended), recorded as "), "{}", far.log());
    });
}
