//! The built `hive` program against a real HTTP server on a Unix socket: exit codes, envelopes, streams that break, files.
#![cfg(feature = "node")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, Query};
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const PEER: &str = "12D3KooWABCDefghijklmnopq2";
const JOB: &str = "6f9619ff-8b86-4011-b42d-00c04fc964ff";

/// An agent of which only the API exists.
struct Agent {
    directory: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Agent {
    fn serve(router: Router) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        let socket = directory.path().join("sock");
        let listener = {
            let _guard = runtime.enter();
            tokio::net::UnixListener::bind(socket).expect("binds")
        };
        runtime.handle().spawn(async move { axum::serve(listener, router).await });
        Self { directory, _runtime: runtime }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = hive(line);
        command.env("HIVE_SOCKET", self.socket());
        command
    }

    fn run(&self, line: &[&str]) -> Output {
        self.command(line).output().expect("runs")
    }

    /// The data of a command's JSON answer, and its exit code.
    fn json(&self, line: &[&str]) -> (i32, Value) {
        let line: Vec<&str> = std::iter::once("--json").chain(line.iter().copied()).collect();
        let output = self.run(&line);
        let value: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr)));
        assert_eq!(value["schema"], 1);
        (output.status.code().expect("exit code"), value)
    }
}

fn hive(line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hive"));
    command.args(line).stdin(Stdio::null());
    for name in ["HIVE_SOCKET", "HIVE_URL", "SWARMV3_URL", "HIVE_CONFIG", "CONTROL_PLANE_PORT"] {
        command.env_remove(name);
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ok(data: impl serde::Serialize) -> String {
    json!({ "schema": 1, "ok": true, "data": data }).to_string()
}

fn error(code: &str) -> String {
    json!({ "schema": 1, "ok": false, "error": { "code": code, "message": "it \u{1b}[2J is so", "hint": "do this" } })
        .to_string()
}

fn status(quorum: bool) -> Value {
    json!({
        "hive_id": "0123456789abcdef0123456789abcdef",
        "self": { "name": "build2", "peer_id": PEER, "role": "builder", "state": "member", "version": "0.1.0", "uptime_ms": 5_000 },
        "coordinator": { "name": "build2", "peer_id": PEER, "term": 3 },
        "quorum": quorum,
        "members": [{ "name": "build2", "peer_id": PEER, "addresses": [], "role": "builder", "state": "alive", "raft": "voter",
                      "version": "0.1.0", "last_seen_ms": 0, "load": 0.5, "cores": 2, "founder": true }],
        "log": { "epoch": 1, "epoch_id": null, "applied": 4, "committed": 4, "age_ms": 0 },
        "queue": { "needed": 0, "delegated": 0, "building": 0, "received": 0, "blocked": 0, "failed": 0, "cancelled": 0,
                   "quarantined": 0, "paused": false },
        "notices": [],
        "degraded": if quorum { json!([]) } else { json!(["no_quorum", "disk_low"]) },
        "as_of": "2025-11-08T12:34:56.789Z",
    })
}

fn job(state: &str, attempts: Value, artifacts: Value) -> Value {
    json!({
        "id": JOB, "session": JOB, "state": state, "backend": "command", "target": "make", "priority": 0, "labels": [], "pure": false,
        "submitter": "root", "submitted_at": "2025-11-08T12:34:56.789Z", "attempts": attempts, "artifacts": artifacts,
        "waiting_for": null, "reason": null,
    })
}

fn attempt(number: u32, state: &str) -> Value {
    json!({
        "attempt": number, "token": format!("00000000000000000000000000000001-{number}"), "node": "build1", "state": state,
        "started_at": null, "ended_at": null, "class": null, "reason": null, "exit_code": null,
    })
}

#[test]
fn every_kind_of_error_has_its_exit_code_and_comes_with_a_hint() {
    let answer = |code: &'static str| get(move || async move { (StatusCode::BAD_REQUEST, error(code)) });
    let agent = Agent::serve(
        Router::new()
            .route("/api/v2/peers", answer("forbidden"))
            .route("/api/v2/identity", answer("not_found"))
            .route("/api/v2/jobs", answer("no_quorum"))
            .route("/api/v2/explain/{what}", answer("internal"))
            .route("/api/v2/status", answer("degraded"))
            .route("/api/v2/listen", answer("invalid")),
    );
    let cases = [
        (&["peers"][..], 4),
        (&["identity"], 5),
        (&["queue", "list"], 7),
        (&["explain", "build1"], 1),
        (&["status"], 6),
        (&["listen"], 2),
    ];
    for (line, expected) in cases {
        let output = agent.run(line);
        assert_eq!(output.status.code(), Some(expected), "{line:?}");
        assert_eq!(text(&output.stderr), "hive: it \\u{1b}[2J is so\n  do this\n", "{line:?}");
        assert!(output.stdout.is_empty(), "{line:?}");
        let (code, value) = agent.json(line);
        assert_eq!(
            (code, &value["ok"], &value["error"]["hint"]),
            (expected, &json!(false), &json!("do this")),
            "{line:?}"
        );
    }
}

#[test]
fn an_agent_that_is_not_there_is_three_and_a_line_that_is_not_understood_is_two() {
    let nobody = hive(&["status", "--socket", "/nonexistent/sock"]).output().expect("runs");
    assert_eq!(nobody.status.code(), Some(3));
    assert!(text(&nobody.stderr).contains("systemctl start hive"), "{}", text(&nobody.stderr));
    for line in
        [&["frobnicate"][..], &["status", "--nonsense"], &["queue", "add"], &["job", "show"], &["--socket"], &[]]
    {
        assert_eq!(hive(line).output().expect("runs").status.code(), Some(2), "{line:?}");
    }
    let output = hive(&["status", "--nonsense", "--json"]).output().expect("runs");
    let value: Value = serde_json::from_slice(&output.stdout).expect("an envelope");
    assert_eq!((output.status.code(), &value["error"]["code"]), (Some(2), &json!("invalid")));
    let both = hive(&["status", "--socket", "/a", "--url", "http://b"]).output().expect("runs");
    assert_eq!(both.status.code(), Some(2));
    let url = hive(&["status", "--url", "ftp://b"]).output().expect("runs");
    assert_eq!(url.status.code(), Some(2));
}

#[test]
fn help_names_every_noun_and_the_version_is_there() {
    let help = text(&hive(&["--help"]).output().expect("runs").stdout);
    for noun in [
        "agent",
        "status",
        "peers",
        "identity",
        "queue",
        "job",
        "explain",
        "logs",
        "artifact",
        "listen",
        "doctor",
        "recover",
        "backup",
        "restore",
        "db",
        "secret",
        "net",
        "config",
        "try",
        "completions",
        "man",
    ] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{noun} "))), "{noun} in {help}");
    }
    assert!(!help.contains("build-shim") && !help.contains("helper"), "{help}");
    let version = hive(&["--version"]).output().expect("runs");
    assert_eq!(text(&version.stdout), concat!("hive ", env!("CARGO_PKG_VERSION"), "\n"));
    for shell in ["bash", "zsh", "fish"] {
        let script = hive(&["completions", shell]).output().expect("runs");
        assert!(script.status.success() && text(&script.stdout).contains("artifact"), "{shell}");
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let pages = hive(&["man", "--dir", &directory.path().to_string_lossy()]).status().expect("runs");
    assert!(pages.success() && directory.path().join("hive-queue-add.1").exists());
    assert!(text(&hive(&["man"]).output().expect("runs").stdout).contains(".TH hive 1"));
    for line in [&["help"][..], &["help", "queue", "add"]] {
        let output = hive(line).output().expect("runs");
        assert!(output.status.success() && text(&output.stdout).contains("Usage: hive"), "{line:?}");
    }
}

#[test]
fn documents_have_no_form_as_json_and_say_so() {
    for line in [&["config", "reference"][..], &["config", "example"], &["completions", "bash"], &["man"]] {
        let output = hive(line).arg("--json").output().expect("runs");
        let value: Value = serde_json::from_slice(&output.stdout).expect("an envelope");
        assert_eq!((output.status.code(), &value["error"]["code"]), (Some(2), &json!("invalid")), "{line:?}");
        assert_ne!(value["error"]["hint"], "", "{line:?}");
    }
}

#[test]
fn a_list_that_is_cut_says_so() {
    let line = json!({ "id": JOB, "state": "received", "backend": "command", "target": "x", "priority": 0, "node": null, "attempts": 1,
                       "submitted_at": "2025-11-08T12:34:56.789Z", "waiting_for": null });
    let two = json!([line, line]);
    let agent = Agent::serve(Router::new().route("/api/v2/jobs", get(move || async move { ok(two) })));
    let cut = agent.run(&["queue", "list", "--limit", "2"]);
    assert!(text(&cut.stderr).contains("only the newest 2"), "{}", text(&cut.stderr));
    assert_eq!(text(&agent.run(&["queue", "list"]).stderr), "");
}

#[test]
fn the_agent_refuses_a_bad_configuration_before_anything_else() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("hive.toml");
    fs::write(&file, "name = \"x\"\nprot = 1\n[build]\nslots = -1\n").expect("writes");
    let file = file.to_string_lossy().into_owned();
    let output = hive(&["agent", "--config", &file]).output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains(&format!("{file}:2: expected a known key, got \"prot\"; did you mean `port`?")), "{said}");
    assert!(said.contains(&format!("{file}:4: build.slots: expected a whole number from 0 to 256")), "{said}");
    let output = hive(&["agent", "--config", &file, "--json"]).output().expect("runs");
    let value: Value = serde_json::from_slice(&output.stdout).expect("an envelope");
    assert_eq!(value["error"]["code"], "invalid");
    for line in [
        &["agent", "--port", "0"][..],
        &["agent", "--http", "8100"],
        &["agent", "--join", "a b"],
        &["agent", "--config", "/nonexistent"],
    ] {
        assert_eq!(hive(line).output().expect("runs").status.code(), Some(2), "{line:?}");
    }
}

/// Whatever only an edit mends is told before anything is bound or written, at once, with its place.
#[test]
fn what_the_configuration_names_is_checked_before_anything_is_bound() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| directory.path().join(name);
    let write = |name: &str, text: &str, mode: u32| {
        fs::create_dir_all(path(name).parent().expect("has one")).expect("makes");
        fs::write(path(name), text).expect("writes");
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).expect("chmod");
    };
    write("strong", "b7c1a0ffee11d2d3b7c1a0ffee11d2d3", 0o600);
    write("weak", "passwordpassword", 0o600);
    write("open", "b7c1a0ffee11d2d3b7c1a0ffee11d2d3", 0o644);
    write("roles/builder.toml", "name = \"builder\"\npurpose = 3\n", 0o644);
    write(
        "policies/mine.toml",
        "name = \"mine\"\n\n[[rule]]\nname = \"r\"\nreason = \"x\"\nwhen = \"members >\"\nadvise = \"builder\"\n",
        0o644,
    );
    let fact = "[[facts]]\nname = \"good\"\nfile = \"/x\"\n[[facts]]\nname = \"bad\"\nfile = \"x\"\n";
    let cases: [(&str, String, &str); 8] = [
        ("role", "roles_dir = \"roles\"".into(), "roles/builder.toml:2: "),
        ("policy", "policies_dir = \"policies\"\npolicy = \"mine\"".into(), "policies/mine.toml:6: "),
        (
            "policy name",
            "policy = \"nope\"".into(),
            "hive.toml:1: policy: no advisor policy is named \"nope\"; expected one of: ",
        ),
        ("fact", fact.into(), "hive.toml:4: fact \"bad\": file, expected an absolute path"),
        (
            "fact twice",
            fact.replace("bad", "good").replace("\"x\"", "\"/y\""),
            "hive.toml:4: fact \"good\": is there twice",
        ),
        ("user", "[build]\nuser = \"no-such-user\"".into(), "hive.toml:2: build.user: there is no user no-such-user"),
        ("weak", "secret_file = \"weak\"".into(), "is too easy to guess"),
        ("open", "secret_file = \"open\"".into(), "can be read by others (mode 0644); mend it with: chmod 0600 "),
    ];
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let http = taken.local_addr().expect("bound").to_string();
    for (what, text, expected) in cases {
        let absolute = |name: &str| format!("= \"{}", path(name).display());
        let text = ["roles", "policies", "weak", "open"]
            .iter()
            .fold(text, |text, name| text.replace(&format!("= \"{name}"), &absolute(name)));
        write("hive.toml", &text, 0o644);
        let file = path("hive.toml").display().to_string();
        let state = path("state").display().to_string();
        let mut line = vec![
            "agent",
            "--config",
            &file,
            "--state-dir",
            &state,
            "--http",
            &http,
            "--admin",
            "none",
            "--helper",
            "none",
        ];
        let strong = path("strong").display().to_string();
        if !text.contains("secret_file") {
            line.extend(["--secret-file", &strong]);
        }
        let output = hive(&line).output().expect("runs");
        let said = text_of(&output);
        assert_eq!(output.status.code(), Some(2), "{what}: {said}");
        assert!(said.starts_with("hive: ") && said.contains(expected), "{what}: {said}");
        assert!(said.contains("hive config show --origin"), "the hint: {said}");
        assert!(!path("state").exists(), "{what}: nothing was written");
    }
}

#[test]
fn config_check_tells_everything_at_once_and_starts_nothing() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| directory.path().join(name);
    let write = |name: &str, text: &str| {
        fs::write(path(name), text).expect("writes");
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).expect("chmod");
    };
    write("strong", "b7c1a0ffee11d2d3b7c1a0ffee11d2d3");
    write("weak", "passwordpassword");
    fs::create_dir(path("released")).expect("mkdir");
    std::os::unix::fs::symlink("released", path("live")).expect("links");
    let places = format!("staging_path = {:?}\nbinhost_path = {:?}\n", path("released/new"), path("live"));
    write("hive.toml", &format!("policy = \"nope\"\n{places}[build]\nuser = \"root\"\n"));
    let file = path("hive.toml").display().to_string();
    let weak = path("weak").display().to_string();
    let line = ["config", "check", "--config", &file, "--secret-file", &weak];
    let said = text_of(&hive(&line).output().expect("runs"));
    for part in [
        ":1: policy: ",
        ":2: staging_path: ",
        " is inside the directory",
        ":5: build.user: ",
        "--secret-file: secret_file: ",
    ] {
        assert!(said.contains(part), "all at once: {said}");
    }
    let shown = hive(&["config", "show", "--config", &file]).output().expect("runs");
    assert_eq!(shown.status.code(), Some(2), "shown would mean good: {}", text_of(&shown));
    write("hive.toml", "");
    let strong = path("strong").display().to_string();
    let good = hive(&["config", "check", "--config", &file, "--secret-file", &strong]).output().expect("runs");
    assert!(good.status.success(), "{}", text_of(&good));
}

fn text_of(output: &Output) -> String {
    format!("{}{}", text(&output.stderr), text(&output.stdout))
}

/// Each of the three ports, held by this test.
#[test]
fn an_agent_whose_port_is_taken_names_the_process_and_ends_with_1() {
    let me = format!("(pid {})", std::process::id());
    for which in ["UDP", "TCP", "HTTP"] {
        let directory = tempfile::tempdir().expect("temporary directory");
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
        let port = udp.local_addr().expect("bound").port();
        // Free for both protocols, but for the one in question.
        let tcp = std::net::TcpListener::bind(("127.0.0.1", port));
        let (tcp, http) = match which {
            "TCP" => (Some(tcp.expect("the same number is free for TCP")), "127.0.0.1:0".to_owned()),
            "HTTP" => {
                let tcp = tcp.expect("the same number is free for TCP");
                (Some(tcp), format!("127.0.0.1:{port}"))
            }
            _ => {
                drop(tcp);
                (None, "127.0.0.1:0".to_owned())
            }
        };
        let udp = (which == "UDP").then_some(udp);
        let path = |name: &str| directory.path().join(name).display().to_string();
        let number = if which == "HTTP" { "50997".to_owned() } else { port.to_string() };
        let (state, socket, secret) = (path("state"), path("sock"), path("secret"));
        let line = [
            "agent",
            "--state-dir",
            &state,
            "--socket",
            &socket,
            "--secret-file",
            &secret,
            "--port",
            &number,
            "--http",
            &http,
            "--admin",
            "none",
            "--listen-address",
            "127.0.0.1",
            "--helper",
            "none",
            "--no-found",
        ];
        let output = hive(&line).env("HIVE_CONFIG", "/dev/null").output().expect("runs");
        let said = text_of(&output);
        assert_eq!(output.status.code(), Some(1), "{which}: {said}");
        let expected = if which == "UDP" { "UDP port" } else { "TCP port" };
        assert!(said.contains(expected) && said.contains(&me), "{which}: {said}");
        drop((tcp, udp));
    }
}

#[test]
fn config_show_says_where_each_value_came_from() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("hive.toml");
    fs::write(&file, "policy = \"gentoo\"\n").expect("writes");
    let output = hive(&["--json", "config", "show", "--origin", "--port", "4000"])
        .env("HIVE_CONFIG", &file)
        .env("HIVE_HTTP", "127.0.0.1:0")
        .output()
        .expect("runs");
    let value: Value = serde_json::from_slice(&output.stdout).expect("an envelope");
    let settings = &value["data"]["settings"];
    assert_eq!(settings["port"], json!({ "value": 4000, "origin": "--port" }));
    assert_eq!(settings["http"], json!({ "value": "127.0.0.1:0", "origin": "HIVE_HTTP" }));
    assert_eq!(settings["policy"], json!({ "value": "gentoo", "origin": format!("{}:1", file.display()) }));
    assert_eq!(settings["packages"], json!({ "value": "dry-run", "origin": "default" }));
    let plain = hive(&["config", "show", "--origin"]).env("HIVE_CONFIG", &file).output().expect("runs");
    assert!(text(&plain.stdout).lines().any(|line| line.starts_with("policy") && line.ends_with(":1")));
}

#[test]
fn status_checks_and_reads_over_tcp_too() {
    let agent = Agent::serve(Router::new().route("/api/v2/status", get(|| async { ok(status(true)) })));
    let output = agent.run(&["status", "--check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("coordinator  build2 (term 3)"));
    assert!(!text(&output.stdout).contains('\u{1b}'), "no colours but on a terminal");
    let (code, value) = agent.json(&["status"]);
    assert_eq!((code, &value["data"]["self"]["name"]), (0, &json!("build2")));
    let poor = Agent::serve(Router::new().route("/api/v2/status", get(|| async { ok(status(false)) })));
    assert_eq!(poor.run(&["status"]).status.code(), Some(0));
    let output = poor.run(&["status", "--check"]);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(6), "degraded: no_quorum, disk_low\n"));

    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let router = Router::new().route("/api/v2/status", get(|| async { ok(status(true)) }));
    runtime.spawn(async move { axum::serve(listener, router).await });
    for name in ["HIVE_URL", "SWARMV3_URL"] {
        assert!(hive(&["status"]).env(name, &url).output().expect("runs").status.success(), "{name}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let agent = Agent::serve(Router::new().route("/api/v2/status", get(|| async { ok(status(true)) })));
    let mut child = agent.command(&["status"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

#[test]
fn interrupting_a_command_that_waits_ends_it_with_130() {
    let stream = || async {
        use futures::StreamExt as _;
        let first = futures::stream::once(async {
            Ok::<_, std::io::Error>(Bytes::from("{\"kind\":\"HELLO\",\"address\":\"10.0.0.1:7\",\"verified\":true}\n"))
        });
        Body::from_stream(first.chain(futures::stream::pending()))
    };
    let agent = Agent::serve(Router::new().route("/api/v2/listen", get(stream)));
    let mut child = agent.command(&["listen"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("reads");
    assert_eq!(line.trim_end(), "-  from 10.0.0.1:7             HELLO");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signals");
    assert_eq!(child.wait().expect("ends").code(), Some(130));
}

/// What arrived at the agent.
#[derive(Default)]
struct Arrived {
    blobs: Vec<Vec<u8>>,
    submissions: Vec<Value>,
}

fn queue_agent(arrived: &Arc<Mutex<Arrived>>, states: &'static [&'static str]) -> Agent {
    let (blobs, submissions) = (Arc::clone(arrived), Arc::clone(arrived));
    let looked = Arc::new(AtomicUsize::new(0));
    let router = Router::new()
        .route(
            "/api/v2/blobs",
            put(move |body: Bytes| async move {
                let sha256 = hex::encode(Sha256::digest(&body));
                let size = body.len();
                blobs.lock().expect("lock").blobs.push(body.to_vec());
                ok(json!({ "sha256": sha256, "size": size }))
            }),
        )
        .route(
            "/api/v2/jobs",
            post(move |body: String| async move {
                let request: Value = serde_json::from_str(&body).expect("JSON");
                let jobs: Vec<Value> = request["jobs"]
                    .as_array()
                    .expect("jobs")
                    .iter()
                    .map(|job| json!({ "id": job["id"], "target": job["target"] }))
                    .collect();
                let answer = json!({ "session": request["session"], "jobs": jobs });
                submissions.lock().expect("lock").submissions.push(request);
                ok(answer)
            }),
        )
        .route(
            "/api/v2/jobs/{id}",
            get(move |UrlPath(id): UrlPath<String>| async move {
                let index = looked.fetch_add(1, Ordering::SeqCst).min(states.len() - 1);
                if states[index] == "unknown" {
                    return (StatusCode::NOT_FOUND, error("not_found"));
                }
                let mut view = job(states[index], json!([attempt(1, "building")]), json!([]));
                view["id"] = json!(id);
                (StatusCode::OK, ok(view))
            }),
        );
    Agent::serve(router)
}

fn source_tree() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("temporary directory");
    fs::create_dir(directory.path().join("debian")).expect("creates");
    fs::write(directory.path().join("debian/control"), "Source: x\n").expect("writes");
    directory
}

#[test]
fn queue_add_sends_directory_and_job_as_they_were_meant() {
    let arrived = Arc::new(Mutex::new(Arrived::default()));
    let agent = queue_agent(&arrived, &["needed"]);
    let tree = source_tree();
    let directory = tree.path().to_string_lossy().into_owned();
    let line = [
        "queue",
        "add",
        "--backend",
        "command",
        "--dir",
        &directory,
        "--artifact",
        "out/*",
        "--priority",
        "-7",
        "--label",
        "gpu",
        "--id",
        JOB,
        "--pure",
        "--timeout",
        "60",
        "--",
        "make",
        "-j",
        "$(rm -rf /)",
    ];
    let (code, value) = agent.json(&line);
    assert_eq!(code, 0, "{value}");
    assert_eq!(value["data"]["jobs"][0]["id"], JOB);
    let arrived = arrived.lock().expect("lock");
    let sent = &arrived.submissions[0]["jobs"][0];
    assert_eq!(sent["work"]["argv"], json!(["make", "-j", "$(rm -rf /)"]), "never through a shell");
    assert_eq!(sent["work"]["artifacts"], json!(["out/*"]));
    assert_eq!((&sent["priority"], &sent["labels"], &sent["pure"]), (&json!(-7), &json!(["gpu"]), &json!(true)));
    assert_eq!(sent["limits"]["timeout_ms"], 60_000);
    let blob = &arrived.blobs[0];
    assert_eq!(sent["work"]["source"]["sha256"], hex::encode(Sha256::digest(blob)));
    let names: Vec<String> = tar::Archive::new(blob.as_slice())
        .entries()
        .expect("a tar")
        .map(|entry| entry.expect("entry").path().expect("path").to_string_lossy().into_owned())
        .collect();
    assert_eq!(names.iter().map(|name| name.trim_end_matches('/')).collect::<Vec<_>>(), ["debian", "debian/control"]);
}

#[test]
fn queue_add_takes_debian_names_versions_trees_and_repositories() {
    let arrived = Arc::new(Mutex::new(Arrived::default()));
    let agent = queue_agent(&arrived, &["needed"]);
    let tree = source_tree();
    let directory = tree.path().to_string_lossy().into_owned();
    // A directory that is called like a package is not what its name alone means.
    let beside = tempfile::tempdir().expect("temporary directory");
    fs::create_dir_all(beside.path().join("hello/debian")).expect("makes");
    let mut command = agent.command(&["queue", "add", "--backend", "debian", "hello", "bash=5.2-1", &directory]);
    let output = command.current_dir(beside.path()).output().expect("runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), 3, "one id per line");
    let line = [
        "queue",
        "add",
        "--backend",
        "command",
        "--repo",
        "https://example.org/x.git",
        "--branch",
        "main",
        "--",
        "true",
    ];
    assert_eq!(agent.run(&line).status.code(), Some(0));
    let arrived = arrived.lock().expect("lock");
    let jobs = arrived.submissions[0]["jobs"].as_array().expect("jobs");
    assert_eq!(jobs[0]["work"]["source"], json!({ "kind": "archive", "package": "hello", "version": null }));
    assert_eq!(jobs[1]["work"]["source"], json!({ "kind": "archive", "package": "bash", "version": "5.2-1" }));
    assert_eq!(jobs[2]["work"]["source"]["source"]["kind"], "blob");
    let git = &arrived.submissions[1]["jobs"][0]["work"]["source"];
    assert_eq!(*git, json!({ "kind": "git", "url": "https://example.org/x.git", "branch": "main", "commit": null }));
    assert_eq!(arrived.submissions[1]["jobs"][0]["pure"], false);
}

#[test]
fn what_is_outside_its_grammar_is_refused_before_anything_is_sent() {
    let arrived = Arc::new(Mutex::new(Arrived::default()));
    let agent = queue_agent(&arrived, &["needed"]);
    let base = ["queue", "add", "--backend"];
    let cases: &[&[&str]] = &[
        &["command", "--dir", "."],
        &["command", "--", "make"],
        &["command", "--dir", "/nonexistent", "--", "make"],
        &["command", "--dir", ".", "--label", "a b", "--", "make"],
        &["command", "--dir", ".", "--artifact", "../x", "--", "make"],
        &["command", "--repo", "ext::sh", "--", "make"],
        &["command", "--repo", "https://x/y", "--branch", "--upload-pack=x", "--", "make"],
        &["command", "--repo", "https://x/y", "--id", "7", "--", "make"],
        &["debian", "Hello;rm"],
        &["debian", "/nonexistent"],
        &["debian"],
        &["debian", "hello", "--", "make"],
        &["debian", "hello", "bash", "--id", JOB],
    ];
    for case in cases {
        let line: Vec<&str> = base.iter().chain(case.iter()).copied().collect();
        let output = agent.run(&line);
        assert_eq!(output.status.code(), Some(2), "{case:?}: {}", text(&output.stderr));
    }
    let arrived = arrived.lock().expect("lock");
    assert!(arrived.submissions.is_empty() && arrived.blobs.is_empty());
}

#[test]
fn a_submission_whose_answer_is_lost_is_sent_again_with_the_same_ids() {
    let requests = Arc::new(Mutex::new(Vec::<Value>::new()));
    let seen = Arc::clone(&requests);
    let submit = move |body: String| async move {
        let request: Value = serde_json::from_str(&body).expect("JSON");
        let mut seen = seen.lock().expect("lock");
        seen.push(request.clone());
        if seen.len() == 1 {
            let broken =
                futures::stream::iter([Ok(Bytes::from_static(b"{\"schema\"")), Err(std::io::Error::other("cut"))]);
            return Body::from_stream(broken);
        }
        let id = &request["jobs"][0]["id"];
        Body::from(ok(json!({ "session": request["session"], "jobs": [{ "id": id, "target": "hello" }] })))
    };
    let agent = Agent::serve(Router::new().route("/api/v2/jobs", post(submit)));
    let output = agent.run(&["queue", "add", "--backend", "debian", "hello"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let requests = requests.lock().expect("lock");
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0], requests[1]);
}

#[test]
fn waiting_follows_to_the_end_and_tells_success_from_failure() {
    for (states, expected) in [
        (&["needed", "delegated", "received"][..], 0),
        (&["needed", "delegated", "failed"], 1),
        (&["blocked"], 1),
        // A node that is behind the one that took the job.
        (&["unknown", "unknown", "received"], 0),
    ] {
        let agent = queue_agent(&Arc::default(), states);
        let output = agent.run(&["queue", "add", "--backend", "debian", "hello", "--wait"]);
        assert_eq!(output.status.code(), Some(expected), "{states:?}: {}", text(&output.stderr));
        let last = states.last().expect("not empty");
        assert!(text(&output.stdout).contains(last), "{}", text(&output.stdout));
        assert_eq!(
            states.contains(&"delegated"),
            text(&output.stderr).contains("building on build1"),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn following_a_log_goes_on_at_the_byte_where_the_connection_broke_and_with_the_next_attempt() {
    use futures::StreamExt as _;
    const FIRST: &str = "line one\nline two\nline three\n";
    let opened = Arc::new(AtomicUsize::new(0));
    let log = move |Query(query): Query<BTreeMap<String, String>>| {
        let opened = Arc::clone(&opened);
        async move {
            let offset: usize = query["offset"].parse().expect("number");
            let attempt = query.get("attempt").map_or("1", String::as_str).to_owned();
            let nth = opened.fetch_add(1, Ordering::SeqCst);
            let body = match (attempt.as_str(), nth) {
                // Breaks in the middle of a line.
                ("1", 0) => {
                    let piece = futures::stream::iter([
                        Ok(Bytes::from_static(&FIRST.as_bytes()[..12])),
                        Err(std::io::Error::other("cut")),
                    ]);
                    Body::from_stream(piece.then(|piece| async {
                        // As from a slow drone: the break comes when the first piece has been passed on.
                        let pause = std::time::Duration::from_millis(50);
                        tokio::time::timeout(pause, std::future::pending::<()>()).await.ok();
                        piece
                    }))
                }
                ("1", _) => Body::from(FIRST[offset..].to_owned()),
                _ => Body::from("second \u{1b}[31mattempt\n"[offset..].to_owned()),
            };
            ([("x-hive-attempt", attempt), ("x-hive-offset", offset.to_string())], body)
        }
    };
    let view = || async { ok(job("received", json!([attempt(1, "lost"), attempt(2, "accepted")]), json!([]))) };
    let agent =
        Agent::serve(Router::new().route("/api/v2/jobs/{id}/log", get(log)).route("/api/v2/jobs/{id}", get(view)));
    let output = agent.run(&["logs", "-f", JOB]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), format!("{FIRST}second attempt\n"), "harmless also where it is not a terminal");
    assert!(text(&output.stderr).contains("--- attempt 2 on build1 ---"), "{}", text(&output.stderr));
}

#[test]
fn a_search_goes_on_until_it_is_complete_and_says_when_there_is_nothing() {
    let found = |Query(query): Query<BTreeMap<String, String>>| async move {
        let (line, offset): (u64, u64) =
            (query["line"].parse().expect("number"), query["offset"].parse().expect("number"));
        let text = format!("{} \u{1b}[2J in attempt {}", query["q"], query.get("attempt").map_or("-", String::as_str));
        let matches =
            if query["q"] == "absent" { json!([]) } else { json!([{ "line": line, "offset": offset, "text": text }]) };
        let (next_line, next_offset) = (line + 10, offset + 100);
        ok(
            json!({ "job": JOB, "attempt": 1, "matches": matches, "complete": offset == 200, "next_offset": next_offset, "next_line": next_line }),
        )
    };
    let agent = Agent::serve(Router::new().route("/api/v2/jobs/{id}/log/search", get(found)));
    let output = agent.run(&["logs", JOB, "--grep", "a&b", "--attempt", "2"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let line = |number: u32| format!("{number}: a&b \\u{{1b}}[2J in attempt 2\n");
    assert_eq!(text(&output.stdout), [line(1), line(11), line(21)].concat());
    let cut = agent.run(&["logs", JOB, "--grep", "a", "--limit", "2", "--json"]);
    let value: Value = serde_json::from_slice(&cut.stdout).expect("JSON");
    assert_eq!(
        (value["data"]["matches"].as_array().map(Vec::len), &value["data"]["complete"]),
        (Some(2), &json!(false))
    );
    assert!(text(&cut.stderr).contains("raise --limit"));
    let none = agent.run(&["logs", JOB, "--grep", "absent"]);
    assert_eq!((none.status.code(), text(&none.stderr).trim()), (Some(5), "no line matches"));
}

#[test]
fn phases_and_the_first_error_are_shown_for_people() {
    let phase = |name: &str, source: &str, took: Value| json!({ "name": name, "source": source, "line": 3, "offset": 70, "at": "2025-11-08T12:34:56.789Z", "took_ms": took });
    let phases = json!({ "job": JOB, "attempt": 1, "cut": false, "growing": true,
                         "phases": [phase("build", "hive", json!(61_000)), phase("compile\u{1b}[2J", "output", Value::Null)] });
    let error = json!({ "job": JOB, "attempt": 1, "complete": true, "error": {
        "kind": "compiler", "line": 7, "offset": 99, "text": "a.c:1: error: \u{202e}x", "before": ["cc a.c"], "after": ["make: ***"] } });
    let agent = Agent::serve(
        Router::new()
            .route("/api/v2/jobs/{id}/log/phases", get(move || async move { ok(phases) }))
            .route("/api/v2/jobs/{id}/log/first-error", get(move || async move { ok(error) })),
    );
    let shown = text(&agent.run(&["logs", JOB, "--phases"]).stdout);
    assert!(shown.contains("  build") && shown.contains("1 min 1 s") && shown.contains("compile\\u{1b}[2J"), "{shown}");
    let shown = agent.run(&["logs", JOB, "--first-error"]);
    let expected = "      6  cc a.c\n      7> a.c:1: error: \\u{202e}x\n      8  make: ***\n";
    assert_eq!((shown.status.code(), text(&shown.stdout)), (Some(0), expected.to_owned()));
}

#[test]
fn a_download_goes_on_where_it_broke_and_overwrites_nothing() {
    use futures::StreamExt as _;
    const LOG: &str = "\u{1b}[2Jone\ntwo\nthree\n";
    let opened = Arc::new(AtomicUsize::new(0));
    let log = move |Query(query): Query<BTreeMap<String, String>>| {
        let opened = Arc::clone(&opened);
        async move {
            let offset: usize = query["offset"].parse().expect("number");
            let body = if opened.fetch_add(1, Ordering::SeqCst) == 0 {
                let pieces = [Ok(Bytes::from_static(&LOG.as_bytes()[..9])), Err(std::io::Error::other("cut"))];
                Body::from_stream(futures::stream::iter(pieces).then(|piece| async {
                    // The break comes when the first piece has been passed on.
                    let pause = std::time::Duration::from_millis(50);
                    tokio::time::timeout(pause, std::future::pending::<()>()).await.ok();
                    piece
                }))
            } else {
                Body::from(LOG[offset..].to_owned())
            };
            ([("x-hive-attempt", "1".to_owned()), ("x-hive-offset", offset.to_string())], body)
        }
    };
    let agent = Agent::serve(Router::new().route("/api/v2/jobs/{id}/log", get(log)));
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("kept");
    let name = file.to_string_lossy().into_owned();
    let output = agent.run(&["logs", JOB, "--download", &name]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(&file).expect("there"), LOG);
    assert_eq!(fs::read_dir(directory.path()).expect("lists").count(), 1, "nothing half-way is left");
    assert_eq!(agent.run(&["logs", JOB, "--download", &name]).status.code(), Some(1));
    assert_eq!(agent.run(&["logs", JOB, "--download", &name, "--force"]).status.code(), Some(0));
    assert_eq!(text(&agent.run(&["logs", JOB, "--raw"]).stdout), LOG, "the bytes as they are, in a pipe");
}

fn artifact_agent(content: &'static str, claimed: &str) -> Agent {
    let listed = json!([{ "job": JOB, "name": "x_1.deb", "sha256": hex::encode(Sha256::digest(claimed)), "size": claimed.len() }]);
    let jobs = json!([{ "id": JOB, "state": "received", "backend": "command", "target": "x", "priority": 0, "node": null, "attempts": 1,
                        "submitted_at": "2025-11-08T12:34:56.789Z", "waiting_for": null }]);
    let router = Router::new()
        .route("/api/v2/jobs", get(move || async move { ok(jobs) }))
        .route("/api/v2/jobs/{id}/artifacts", get(move || async move { ok(listed) }))
        .route("/api/v2/jobs/{id}/artifacts/{name}", get(move || async move { content }));
    Agent::serve(router)
}

#[test]
fn artifacts_are_verified_before_they_get_their_name() {
    let out = tempfile::tempdir().expect("temporary directory");
    let directory = out.path().to_string_lossy().into_owned();
    let good = artifact_agent("content", "content");
    let output = good.run(&["artifact", "get", &JOB[..8], "-o", &directory]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let file = out.path().join("x_1.deb");
    assert_eq!(fs::read_to_string(&file).expect("there"), "content");
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o644);
    fs::write(&file, "mine").expect("writes");
    let output = good.run(&["artifact", "get", JOB, "-o", &directory]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("add --force"), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(&file).expect("there"), "mine");
    assert_eq!(good.run(&["artifact", "get", JOB, "-o", &directory, "--force"]).status.code(), Some(0));
    assert_eq!(fs::read_to_string(&file).expect("there"), "content");
    assert_eq!(good.run(&["artifact", "get", JOB, "y.deb"]).status.code(), Some(5));
    assert_eq!(good.run(&["artifact", "get", "ffff"]).status.code(), Some(5), "no job begins so");
    fs::remove_file(&file).expect("removes");
    for content in ["CONTENT", "content and more", "cont"] {
        let bad = artifact_agent(content, "content");
        let output = bad.run(&["artifact", "get", JOB, "x_1.deb", "-o", &directory]);
        assert_eq!(output.status.code(), Some(1), "{content}");
        assert!(text(&output.stderr).contains("not what the build produced"), "{}", text(&output.stderr));
        assert_eq!(fs::read_dir(out.path()).expect("readable").count(), 0, "nothing is left of {content}");
    }
}

#[test]
fn recovering_shows_the_plan_and_changes_nothing_unless_told() {
    let asked = Arc::new(Mutex::new(Vec::<Value>::new()));
    let seen = Arc::clone(&asked);
    let recover = move |body: String| async move {
        let request: Value = serde_json::from_str(&body).expect("JSON");
        let confirmed = request["confirm"] == true;
        seen.lock().expect("lock").push(request);
        ok(json!({
            "replicas": [{ "name": "build1", "reached": true, "term": 3, "index": 40 }], "source": "build1",
            "may_be_lost": "entries after 40", "recovered": confirmed, "epoch": 2,
        }))
    };
    let agent = Agent::serve(Router::new().route("/api/v2/recover", post(recover)));
    let output = agent.run(&["recover"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("would be taken from build1"), "{}", text(&output.stdout));
    assert!(asked.lock().expect("lock").iter().all(|request| request["confirm"] == false));
    let output = agent.run(&["recover", "--yes"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("Epoch 2 has begun."), "{}", text(&output.stdout));
}

#[test]
fn secrets_are_made_private_shown_and_compared() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("etc/shared_secret");
    let path = file.to_string_lossy().into_owned();
    let run = |line: &[&str]| hive(line).output().expect("runs");
    assert_eq!(run(&["secret", "show", "--secret-file", &path]).status.code(), Some(5));
    assert_eq!(run(&["secret", "generate", "--write", "--secret-file", &path]).status.code(), Some(0));
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(
        run(&["secret", "generate", "--write", "--secret-file", &path]).status.code(),
        Some(1),
        "never overwrites"
    );
    let shown = text(&run(&["secret", "show", "--secret-file", &path]).stdout);
    assert_eq!(shown, fs::read_to_string(&file).expect("there"));
    let fingerprint = text(&run(&["secret", "fingerprint", "--secret-file", &path]).stdout);
    assert_eq!(fingerprint.trim().len(), 16);
    assert!(!shown.contains(fingerprint.trim()));
    let (one, two) = (run(&["secret", "generate"]).stdout, run(&["secret", "generate"]).stdout);
    assert!(one != two && one.len() == 65);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("chmod");
    let open = run(&["secret", "fingerprint", "--secret-file", &path]);
    assert_eq!(open.status.code(), Some(2));
    assert!(text(&open.stderr).contains("chmod 0600"), "{}", text(&open.stderr));
}

#[test]
fn the_doctor_names_cause_and_remedy_and_ends_with_six_when_something_is_broken() {
    let facts = json!({
        "port": 50555, "interfaces": [{ "name": "eth0", "address": "10.0.0.2/24", "broadcast": "10.0.0.255" }],
        "secret_fingerprint": "0123456789abcdef", "refusals": [{ "reason": "wrong_secret", "from": "10.0.0.9", "count": 5, "last_ms": 100 }],
        "broadcast_heard_by": ["build1"], "clock_offsets_ms": { "build1": 12 }, "disk_free_bytes": 50_000_000_000u64, "disk_low": false,
    });
    let router = Router::new()
        .route("/api/v2/status", get(|| async { ok(status(true)) }))
        .route("/api/v2/doctor", get(move || async move { ok(facts) }));
    let agent = Agent::serve(router);
    let (code, value) = agent.json(&["doctor"]);
    assert_eq!((code, &value["data"]["worst"]), (6, &json!("fail")));
    let checks = value["data"]["checks"].as_array().expect("checks");
    let of = |name: &str| {
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name} in {checks:?}"))
    };
    assert_eq!(
        (&of("agent")["state"], &of("quorum")["state"], &of("refusals")["state"]),
        (&json!("ok"), &json!("ok"), &json!("fail"))
    );
    assert!(of("refusals")["remedy"].as_str().expect("text").contains("hive secret fingerprint"));
    for check in checks {
        assert!(check["state"] == "ok" || !check["remedy"].as_str().expect("text").is_empty(), "{check}");
    }
    let mute = Router::new()
        .route("/api/v2/status", get(|| async { ok(status(true)) }))
        .route("/api/v2/doctor", get(|| async { (StatusCode::NOT_FOUND, error("not_found")) }));
    let output = Agent::serve(mute).run(&["doctor"]);
    assert!(text(&output.stdout).contains("warn  facts"), "{}", text(&output.stdout));
    let alone = hive(&["doctor", "--socket", "/nonexistent/sock"]).output().expect("runs");
    assert_eq!(alone.status.code(), Some(6));
    assert!(text(&alone.stdout).contains("FAIL  agent"), "{}", text(&alone.stdout));
}

#[test]
fn whoever_asks_anothers_agent_is_told_about_that_agents_files() {
    let home = tempfile::tempdir().expect("temporary directory");
    let file = home.path().join("agents_secret");
    let path = file.to_string_lossy().into_owned();
    assert_eq!(
        hive(&["secret", "generate", "--write", "--secret-file", &path]).output().expect("runs").status.code(),
        Some(0)
    );
    let fingerprint = text(&hive(&["secret", "fingerprint", "--secret-file", &path]).output().expect("runs").stdout);
    let facts = json!({
        "port": 50555, "interfaces": [], "secret_fingerprint": fingerprint.trim(), "refusals": [], "broadcast_heard_by": [],
        "clock_offsets_ms": {}, "disk_free_bytes": 50_000_000_000u64, "disk_low": false,
        "config_file": "/etc/build/agents.toml", "secret_file": path,
    });
    let agent = Agent::serve(
        Router::new()
            .route("/api/v2/status", get(|| async { ok(status(true)) }))
            .route("/api/v2/doctor", get(move || async move { ok(facts) })),
    );
    let of_another = |line: &[&str]| {
        let mut command = agent.command(line);
        command.env("HOME", home.path()).env_remove("XDG_CONFIG_HOME").output().expect("runs")
    };
    let doctor = text(&of_another(&["doctor"]).stdout);
    assert!(doctor.contains("the agent has read /etc/build/agents.toml"), "{doctor}");
    assert!(
        doctor.contains(&format!("fingerprint {}", fingerprint.trim())) && !doctor.contains("there is none"),
        "{doctor}"
    );
    assert_eq!(text(&of_another(&["secret", "fingerprint"]).stdout), fingerprint);
}

/// Two machines on one wire, in namespaces of their own; needs root.
const TWO_MACHINES: &str = r#"
set -eu
ip link set lo up
ip link add name wire0 type veth peer name wire1
unshare --net sleep 60 &
other=$!
trap 'kill $other' EXIT
i=0
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do
    i=$((i+1)); [ $i -lt 500 ] || exit 9; sleep 0.01
done
ip link set wire1 netns $other
nsenter --target $other --net sh -c 'ip address add 10.9.0.2/29 dev wire1; ip address add 10.9.0.3/29 dev wire1; ip link set wire1 up'
ip address add 10.9.0.1/29 dev wire0
ip link set wire0 up
ip route add default via 10.9.0.4
"$1" --json net show
"$1" --json net next-ip
"$1" --json net claim
"$1" --json net next-ip
ip -br address show dev wire0
"#;

#[test]
fn the_next_free_address_is_the_one_that_nobody_answers_for() {
    assert!(rustix::process::geteuid().is_root(), "this test makes network namespaces: run it as root");
    let binary = Path::new(env!("CARGO_BIN_EXE_hive"));
    let mut child = Command::new("unshare")
        .args(["--net", "sh", "-c", TWO_MACHINES, "sh"])
        .arg(binary)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare is installed");
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("reads");
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{said}");
    let all = text(&output.stdout);
    let lines: Vec<Value> = all.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let data = |index: usize, key: &str| lines[index]["data"][key].clone();
    assert_eq!(
        (data(0, "interface"), data(0, "cidr"), data(0, "gateway")),
        (json!("wire0"), json!("10.9.0.0/29"), json!("10.9.0.4"))
    );
    assert_eq!(data(1, "next_ip"), "10.9.0.5", "2 and 3 are taken, 4 is the gateway: {all}");
    assert_eq!((data(2, "next_ip"), data(2, "claimed")), (json!("10.9.0.5"), json!(true)));
    assert_eq!(data(3, "next_ip"), "10.9.0.6");
    assert!(all.lines().last().expect("addresses").contains("10.9.0.5/29"), "{all}");
}

/// An agent that writes down what it was asked to do, and says that one job changed.
fn recording(asked: &Arc<Mutex<Vec<String>>>) -> Agent {
    let record = |asked: &Arc<Mutex<Vec<String>>>| {
        let asked = Arc::clone(asked);
        move |request: axum::extract::Request| {
            let asked = Arc::clone(&asked);
            async move {
                let path = request.uri().to_string();
                let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.expect("body");
                let newlines = body.iter().filter(|byte| **byte == b'\n').count();
                let said = if newlines > 0 { format!("{newlines} lines") } else { text(&body) };
                asked.lock().expect("lock").push(format!("{path} {said}").trim().to_owned());
                if path.starts_with("/api/v2/queue/import") {
                    return ok(json!({ "session": JOB, "jobs": newlines }));
                }
                ok(json!({ "action": "x", "jobs": 1, "drones": 0 }))
            }
        }
    };
    let jobs = get(|Query(query): Query<BTreeMap<String, String>>| async move {
        let mut line = job("blocked", json!([]), json!([]));
        line["attempts"] = json!(0);
        line["node"] = Value::Null;
        let found = query.get("id").is_some_and(|id| JOB.starts_with(id.as_str()));
        ok(if found { json!([line]) } else { json!([]) })
    });
    Agent::serve(
        Router::new()
            .route("/api/v2/jobs", jobs)
            .route("/api/v2/control", post(record(asked)))
            .route("/api/v2/nodes/{name}/{action}", post(record(asked)))
            .route("/api/v2/sessions/{which}/cancel", post(record(asked)))
            .route("/api/v2/queue/import", post(record(asked))),
    )
}

#[test]
fn control_says_what_it_is_done_to_and_asks_before_what_cannot_be_undone() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let agent = recording(&asked);
    let control = |body: &str| format!("/api/v2/control {{\"action\":{body},\"running\":false,\"reason\":\"\"}}");
    let cases: [(&[&str], String); 9] = [
        (&["control", "pause"], control(r#""pause""#)),
        (&["control", "retry_failures", "6f9619ff"], control(&format!(r#""retry_failures","job":"{JOB}""#))),
        // It could begin an id, but there is no such job: then it is a package.
        (&["control", "unblock", "deadbeef"], control(r#""unblock","package":"deadbeef""#)),
        (&["control", "block", "dev-libs/a"], control(r#""block","package":"dev-libs/a""#)),
        (&["control", "unground", "build2"], control(r#""unground","drone":"build2""#)),
        (&["control", "reclaim", "--session", "nightly"], control(r#""reclaim","session":"nightly""#)),
        (&["job", "retry", "6f9619ff"], control(&format!(r#""retry_failures","job":"{JOB}""#))),
        (
            &["drone", "drain", "build2", "--deadline", "30m", "--reason", "disk"],
            r#"/api/v2/nodes/build2/drain {"deadline_ms":1800000,"reason":"disk"}"#.to_owned(),
        ),
        (&["session", "cancel", "a b"], r#"/api/v2/sessions/a%20b/cancel {"reason":""}"#.to_owned()),
    ];
    for (line, expected) in cases {
        let output = agent.run(line);
        assert_eq!(output.status.code(), Some(0), "{line:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "x: 1 job changed\n", "{line:?}");
        assert_eq!(asked.lock().expect("lock").pop(), Some(expected), "{line:?}");
    }
    for line in [&["control", "clear-history"][..], &["control", "reset", "--running"]] {
        let output = agent.run(line);
        assert_eq!(output.status.code(), Some(1), "{line:?}");
        assert!(text(&output.stderr).contains("nothing was changed"), "{line:?}: {}", text(&output.stderr));
        assert!(asked.lock().expect("lock").is_empty(), "{line:?}");
        assert_eq!(agent.run(&[line, &["--yes"]].concat()).status.code(), Some(0), "{line:?}");
        assert!(asked.lock().expect("lock").pop().is_some(), "{line:?}");
    }
    for line in [
        &["control", "explode"][..],
        &["control", "block", "x", "--session", "y"],
        &["drone", "limit", "build2"],
        &["drone", "limit", "build2", "--none", "--cores", "2"],
        &["drone", "drain", "build2", "--deadline", "soon"],
    ] {
        assert_eq!(agent.run(line).status.code(), Some(2), "{line:?}");
    }
    assert!(asked.lock().expect("lock").is_empty());
}

#[test]
fn an_import_is_streamed_from_a_file_or_from_standard_input() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let agent = recording(&asked);
    let file = agent.directory.path().join("jobs");
    fs::write(&file, "{}\n".repeat(5_000)).expect("file");
    let name = file.to_str().expect("text");
    let output = agent.run(&["queue", "import", name, "--name", "night ly", "--session", JOB]);
    assert_eq!(text(&output.stdout), format!("5000 jobs queued in session {JOB}\n"), "{}", text(&output.stderr));
    let path = format!("/api/v2/queue/import?session={JOB}&name=night%20ly 5000 lines");
    assert_eq!(asked.lock().expect("lock").pop(), Some(path));
    let piped = agent.command(&["queue", "import", "-"]).stdin(fs::File::open(&file).expect("file")).output();
    assert_eq!(piped.expect("runs").status.code(), Some(0));
    assert!(asked.lock().expect("lock").pop().is_some_and(|asked| asked.ends_with("5000 lines")));
    for (bad, why) in [("/nowhere/jobs", "cannot be read"), ("/tmp", "is a directory")] {
        let output = agent.run(&["queue", "import", bad]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(why), "{}", text(&output.stderr));
    }
}

fn session_line(phase: &str) -> Value {
    json!({
        "id": JOB, "name": "night\u{1b}[2Jly", "status": "active", "phase": phase, "submitter": "ann", "profile_id": null,
        "total_packages": 40, "completed_packages": 12, "failed_packages": 1, "started_at": "2025-11-08T12:34:56.789Z",
        "completed_at": null,
    })
}

#[test]
fn sessions_drones_and_history_are_shown_harmless_and_in_full() {
    let mut session = session_line("active");
    let mut waiting = job("needed", json!([]), json!([]));
    waiting["attempts"] = json!(0);
    waiting["node"] = Value::Null;
    waiting["waiting_for"] = json!("waits for 1 job: dev-libs/a");
    session["counts"] = status(true)["queue"].clone();
    session["why"] = Value::Null;
    session["eta"] =
        json!({ "p50_ms": 60_000, "p90_ms": 180_000, "samples": 120, "jobs": 27, "guessed": 3, "left_out": 2 });
    session["groups"] = json!([{ "state": "needed", "count": 27, "jobs": [waiting] }]);
    let decision = json!({ "by": "ann", "why": "new disk", "at": "2025-11-08T12:34:56.789Z" });
    let build = json!({ "job": JOB, "target": "dev-libs/a", "attempt": 1, "state": "building", "elapsed_ms": 30_000, "percent": 50,
                        "eta_ms": 30_000, "samples": 4 });
    let drone = json!({
        "name": "build1", "peer_id": PEER, "role": "builder", "state": "alive", "slots": 2, "used": 1, "load": 0.5, "cores": 4,
        "cores_limit": 2, "arch": "x86_64", "ram_gb": 8, "paused": null, "draining": decision, "drain_left_ms": 120_000,
        "grounded_left_ms": null, "uploads_paused_left_ms": null, "builds": [build],
    });
    let past = json!({ "history": [{
        "job": JOB, "session": JOB, "target": "app/b", "package": "app/b", "backend": "portage", "attempt": 1, "drone": "build2",
        "state": "failed", "class": "build", "reason": "no\u{202e}space", "exit_code": 1, "assigned_at": "2025-11-08T12:34:56.789Z",
        "started_at": null, "ended_at": "2025-11-08T12:34:56.789Z", "duration_ms": 5_000, "artifact_bytes": null }],
        "truncated": true });
    let package = json!({ "package": "app/b", "attempts": 3, "successes": 2, "tried_on": ["build1", "build2"],
        "last_attempt": "2025-11-08T12:34:56.789Z", "p50_ms": 300_000, "p90_ms": 400_000, "samples": 2 });
    let answer = |data: Value| get(move || async move { ok(data) });
    let agent = Agent::serve(
        Router::new()
            .route("/api/v2/sessions", answer(json!({ "sessions": [session_line("active")] })))
            .route("/api/v2/sessions/{which}", answer(session))
            .route("/api/v2/fleet", answer(json!({ "drones": [drone], "paused": null })))
            .route("/api/v2/history", answer(past))
            .route("/api/v2/status", answer(status(true)))
            .route("/api/v2/build-stats/by-package", answer(json!({ "packages": [package] }))),
    );
    let cases: [(&[&str], &[&str]); 7] = [
        (&["session", "list"], &["6f9619ff  night\\u{1b}[2Jly", "active", "12/40"]),
        (
            &["session", "show", "nightly"],
            &[
                "1 min 0 s to 3 min 0 s (50 % to 90 %), from 120 builds; 3 of 27 jobs guessed; without 2 jobs",
                "27 needed",
                "waits for 1 job: dev-libs/a",
                "… and 26 more: hive queue list --session",
            ],
        ),
        (&["fleet"], &["build1", "1/2", "2 of 4", "dev-libs/a 50%, 30s left", "draining by ann: new disk, 2m left"]),
        (&["drone", "show", "build1"], &["1 of 2 taken", "6f9619ff  dev-libs/a", "50%"]),
        (&["history"], &["2025-11-08 12:34:56", "app/b", "build: no\\u{202e}space"]),
        (&["history", "packages"], &["app/b", "5m", "build1, build2"]),
        (&["monitor", "--once"], &["DRONES", "EVENTS", "failed app/b on build2", "█████░░░░░  50%"]),
    ];
    for (line, expected) in cases {
        let output = agent.run(line);
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{line:?}: {}", text(&output.stderr));
        for part in expected {
            assert!(shown.contains(part), "{line:?}: {part} in\n{shown}");
        }
        assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{line:?}: {shown}");
        assert_eq!(agent.json(line).0, 0, "{line:?}");
    }
    assert_eq!(agent.run(&["drone", "show", "nobody"]).status.code(), Some(5));
    let output = agent.run(&["monitor"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--once"), "{}", text(&output.stderr));
}
