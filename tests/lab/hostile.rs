//! Hostile names and arguments at every door: rows 11 and 13 of the attack table (paths that lead out, arguments that become options or
//! shell). All of it is refused before anything is queued, and a canary that each of them tries to make never appears.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::client::{Client, socket_of};
use crate::forming::one_hive;
use crate::harness::{Host, eventually, in_lab, s};

/// What each tries to make.
const CANARY: &str = "/tmp/canary";

/// Names that nothing may have, whatever they are the name of.
fn corpus() -> Vec<String> {
    let acts = [
        format!("; touch {CANARY}"),
        format!("$(touch {CANARY})"),
        format!("`touch {CANARY}`"),
        format!("| touch {CANARY}"),
        format!("&& touch {CANARY}"),
        format!("\ntouch {CANARY}\n"),
        format!("\0touch {CANARY}"),
        format!("' ; touch {CANARY} ; '"),
        format!("\" ; touch {CANARY} ; \""),
        format!("> {CANARY}"),
        "../../../../../../tmp/canary".to_owned(),
        "..\u{2215}..\u{2215}tmp\u{2215}canary".to_owned(),
        "\u{2024}\u{2024}/tmp/canary".to_owned(),
        "%2e%2e%2ftmp%2fcanary".to_owned(),
        "..\\..\\tmp\\canary".to_owned(),
        "\u{202e}yranac/pmt/".to_owned(),
        "\u{1b}]0;canary\u{7}".to_owned(),
        "a".repeat(70_000),
    ];
    let options = [
        format!("--upload-pack=touch {CANARY}"),
        format!("-oProxyCommand=touch {CANARY}"),
        format!("--config-root={CANARY}"),
        "-rf".to_owned(),
        "--".to_owned(),
        "@/etc/passwd".to_owned(),
        format!("ext::sh -c touch% {CANARY}"),
    ];
    let bases =
        ["", "dev-libs/foo-1.0", "=dev-libs/foo-1.0", "hello", "https://example.org/x.git", "v1.0", "out/x", "node:a"];
    let joined = acts.iter().flat_map(|act| bases.map(|base| format!("{base}{act}")));
    let led = acts.iter().map(|act| format!("{act}/x"));
    let mut corpus: Vec<String> = joined.chain(led).chain(options).collect();
    corpus.extend((1..32u8).chain([127]).map(|control| format!("dev-libs/foo{}-1.0", char::from(control))));
    corpus
}

fn encoded(name: &str) -> String {
    name.bytes().fold(String::new(), |mut out, byte| {
        write!(out, "%{byte:02x}").expect("memory");
        out
    })
}

/// A name of this kind may look so: `..` within a URL is its server's business, and branches may have any letters.
fn is_proper(field: &str, name: &str) -> bool {
    let url = |byte: u8| byte.is_ascii_alphanumeric() || b":/.-_%".contains(&byte);
    let no_branch = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    match field {
        "url" => name.len() < 1_000 && name.starts_with("https://") && name.bytes().all(url),
        "branch" => name.len() < 250 && !name.contains("..") && !name.starts_with('-') && !name.contains(no_branch),
        _ => false,
    }
}

/// One job for every field that takes a name, each good but for that one.
fn jobs(name: &str) -> Vec<(&'static str, Value)> {
    let git = |url: &str, branch: Value| json!({ "kind": "git", "url": url, "branch": branch, "commit": null });
    let command = |source: Value, artifact: &str| json!({ "backend": "command", "source": source, "argv": ["true"], "artifacts": [artifact] });
    let good = "https://example.org/x.git";
    let works = [
        ("atom", json!({ "backend": "portage", "atom": name, "tree": null })),
        ("set", json!({ "backend": "resolve", "targets": [name], "empty_tree": false })),
        (
            "source package",
            json!({ "backend": "debian", "source": { "kind": "archive", "package": name, "version": null } }),
        ),
        (
            "version",
            json!({ "backend": "debian", "source": { "kind": "archive", "package": "hello", "version": name } }),
        ),
        (
            "dsc",
            json!({ "backend": "debian", "source": { "kind": "dsc", "source": git(good, Value::Null), "file": name } }),
        ),
        ("url", command(git(name, Value::Null), "out/x")),
        ("branch", command(git(good, json!(name)), "out/x")),
    ];
    works
        .into_iter()
        .map(|(field, work)| {
            let id = uuid::Uuid::new_v4();
            (field, json!({ "id": id, "work": work, "target": "x", "priority": 0, "labels": [], "pure": true }))
        })
        .collect()
}

#[test]
fn hostile_names_are_refused_at_every_door_and_nothing_is_made() {
    in_lab("hostile::hostile_names_are_refused_at_every_door_and_nothing_is_made", |lab| {
        let host: Host = lab.host();
        fs_staging(&host);
        let _agent = host.start(&["--staging-path", "/tmp/staging"]);
        one_hive(&[&host], 40);
        let mut client = eventually("a connection", s(10), || Client::connect(&socket_of(&host)));
        let corpus = corpus();
        assert!(corpus.len() > 180, "{}", corpus.len());
        let (mut asked, mut refused) = (0, 0);
        for name in &corpus {
            for (field, job) in jobs(name) {
                if is_proper(field, name) {
                    continue;
                }
                let body = json!({ "session": uuid::Uuid::new_v4(), "jobs": [job] });
                let (code, answer) = client.ask("POST", "/api/v2/jobs", Some(&body)).expect("an answer");
                assert_eq!(code, 400, "{field} {:?}: {answer}", name.chars().take(80).collect::<String>());
                (asked, refused) = (asked + 1, refused + usize::from(answer["error"]["hint"].is_string()));
            }
            for body in [json!({ "packages": [name] }), json!({ "packages": ["dev-libs/good-1", name] })] {
                let (code, answer) = client.ask("POST", "/api/v1/queue", Some(&body)).expect("an answer");
                assert_eq!(code, 400, "queue {:?}: {answer}", name.chars().take(80).collect::<String>());
                (asked, refused) = (asked + 1, refused + usize::from(answer["hint"].is_string()));
            }
            let register = json!({ "name": name, "id": name });
            let (code, answer) = client.ask("POST", "/api/v1/register", Some(&register)).expect("an answer");
            assert_eq!(code, 400, "register: {answer}");
        }
        assert_eq!(refused, asked, "each with what to do about it");
        // Where a name stands in a path; beyond some length the head is cut off, which ends the connection.
        let job = uuid::Uuid::new_v4();
        for name in corpus.iter().filter(|name| name.len() < 1_000) {
            let name = encoded(name);
            for path in [
                format!("/api/v2/jobs/{job}/artifacts/{name}"),
                format!("/api/v2/blobs/{name}"),
                format!("/api/v2/jobs/{name}"),
                format!("/staging/{name}"),
                format!("/staging/portage/{name}"),
                format!("/bootstrap/{name}"),
                format!("/api/v2/sessions/{name}"),
                format!("/api/v2/explain/{name}"),
                format!("/api/v2/staged?atom={name}"),
            ] {
                let code = status_of(&host, &path);
                assert!((400..500).contains(&code), "{path}: {code}");
            }
        }
        assert!(!host.tmp().join("canary").exists() && !host.state().join("canary").exists());
        let queue = host.json(&["queue", "status"]).expect("a status");
        assert_eq!(queue["needed"], 0, "nothing of it was queued: {queue}");
    });
}

fn fs_staging(host: &Host) {
    std::fs::create_dir_all(host.tmp().join("staging")).expect("staging");
}

/// The code of an answer, whatever its body is.
fn status_of(host: &Host, path: &str) -> u16 {
    use std::io::{BufRead as _, BufReader, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(socket_of(host)).expect("the agent answers");
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sends");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}
