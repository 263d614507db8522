//! Hostile names, archives and arguments at every door: rows 11 to 13 of the attack table (paths that lead out, archives that unpack
//! elsewhere, arguments that become options or shell). Names are refused before anything is queued, an archive fails its job as
//! policy, and a canary that each of them tries to make never appears.

use std::fmt::Write as _;

use hive::engine::id::JobId;
use hive::engine::job::{JobSpec, Source, Work};
use serde_json::{Value, json};

use crate::client::{Client, socket_of};
use crate::forming::one_hive;
use crate::harness::{Agent, Host, Lab, SECRET, eventually, in_lab, run, s};

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

/// A node with staging, alone, and a connection to it.
fn target(lab: &mut Lab) -> (Host, Agent, Client) {
    let host: Host = lab.host();
    fs_staging(&host);
    let agent = host.start(&["--staging-path", "/tmp/staging"]);
    one_hive(&[&host], 40);
    let client = eventually("a connection", s(10), || Client::connect(&socket_of(&host)));
    (host, agent, client)
}

/// Nothing that an attack tries to make is anywhere that is this host's.
fn no_canary(host: &Host) {
    let root = host.state().parent().expect("a host's directory").to_owned();
    let mut find = std::process::Command::new("find");
    find.arg(&root).args(["/tmp", "/etc", "/var", "/usr/local", "-xdev", "-name", "*canary*"]);
    let found = run(find).stdout;
    assert_eq!(found, "", "something was made");
}

#[test]
fn row_11_names_that_lead_out_are_refused_at_every_door() {
    in_lab("hostile::row_11_names_that_lead_out_are_refused_at_every_door", |lab| {
        let (host, _agent, _) = target(lab);
        // Where a name stands in a path; beyond some length the head is cut off, which ends the connection.
        let job = uuid::Uuid::new_v4();
        for name in corpus().iter().filter(|name| name.len() < 1_000) {
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
        no_canary(&host);
    });
}

#[test]
fn row_13_arguments_that_become_options_or_shell_are_refused_before_anything_is_queued() {
    in_lab("hostile::row_13_arguments_that_become_options_or_shell_are_refused_before_anything_is_queued", |lab| {
        let (host, _agent, mut client) = target(lab);
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
        no_canary(&host);
        let queue = host.json(&["queue", "status"]).expect("a status");
        assert_eq!(queue["needed"], 0, "nothing of it was queued: {queue}");
    });
}

/// One entry of an archive, as no honest program writes it.
fn entry(kind: u8, path: &str, link: &str, claimed_bytes: u64, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_mode(0o6755);
    header.set_size(claimed_bytes);
    header.set_entry_type(tar::EntryType::new(kind));
    if matches!(kind, b'3' | b'4') {
        header.set_device_major(1).expect("ustar");
        header.set_device_minor(3).expect("ustar");
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(path: &str, content: &[u8]) -> Vec<u8> {
    entry(b'0', path, "", content.len() as u64, content)
}

/// A record of `pax` that renames what follows it.
fn pax(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let length = (rest.len()..).find(|length| length.to_string().len() + rest.len() == *length).expect("some length");
    let record = format!("{length}{rest}");
    entry(b'x', "pax", "", record.len() as u64, record.as_bytes())
}

/// Archives that try to write or read elsewhere, or to take more than they may.
fn archives() -> Vec<(&'static str, Vec<u8>)> {
    let evil = b"canary";
    let parts: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("up", vec![file("../canary", evil)]),
        ("up and up", vec![file("a/../../../../../../../../tmp/canary", evil)]),
        ("absolute", vec![file("/tmp/canary", evil)]),
        ("empty part", vec![file("a//../..//canary", evil)]),
        ("link out", vec![entry(b'2', "out", "/tmp", 0, b""), file("out/canary", evil)]),
        ("link up", vec![entry(b'2', "out", "../../../../..", 0, b""), file("out/tmp/canary", evil)]),
        ("link to a secret", vec![entry(b'2', "build.sh", "/etc/build/shared_secret", 0, b"")]),
        (
            "links through links",
            vec![entry(b'2', "a", ".", 0, b""), entry(b'2', "a/b", "..", 0, b""), file("a/b/canary", evil)],
        ),
        ("hard link out", vec![entry(b'1', "passwd", "/etc/passwd", 0, b"")]),
        ("hard link up", vec![entry(b'1', "secret", "../../shared_secret", 0, b"")]),
        ("character device", vec![entry(b'3', "null-canary", "", 0, b"")]),
        ("block device", vec![entry(b'4', "disk-canary", "", 0, b"")]),
        ("pipe", vec![entry(b'6', "pipe-canary", "", 0, b"")]),
        ("written twice", vec![file("x", b"1"), file("x", b"2")]),
        ("a file becomes a directory", vec![file("x", b"1"), file("x/canary", evil)]),
        ("renamed by pax", vec![pax("path", "../../canary"), file("good", evil)]),
        ("linked by pax", vec![pax("linkpath", "/tmp"), entry(b'2', "out", "x", 0, b""), file("out/canary", evil)]),
        // Two readings of one size: what one parser takes for content is a header to the other.
        ("two sizes", vec![pax("size", "512"), entry(b'0', "a", "", 0, &file("../canary", evil)[..512])]),
        ("bomb", vec![entry(b'0', "bomb", "", 6 << 30, b"")]),
        ("unknown kind", vec![entry(b'Q', "canary", "", 0, b"")]),
    ];
    let whole = |parts: Vec<Vec<u8>>| {
        let mut bytes = parts.concat();
        bytes.resize(bytes.len() + 1_024, 0);
        bytes
    };
    parts.into_iter().map(|(what, parts)| (what, whole(parts))).collect()
}

/// Puts bytes into the node's store, as `hive queue add --dir` does with its archive.
pub fn store(host: &Host, bytes: &[u8]) -> Source {
    std::fs::write(host.tmp().join("archive"), bytes).expect("writes");
    let mut curl = host.command("curl");
    curl.args(["-fsS", "--unix-socket", "/run/hive/hive.sock", "-T", "/tmp/archive", "http://hive/api/v2/blobs"]);
    let answer = run(curl);
    assert_eq!(answer.code, 0, "{answer:?}");
    let stored: Value = serde_json::from_str(&answer.stdout).expect("JSON");
    let sha256 = serde_json::from_value(stored["data"]["sha256"].clone()).expect("a hash");
    Source::Blob { sha256, size: bytes.len() as u64 }
}

#[test]
fn row_12_a_job_of_a_hostile_archive_fails_as_policy_and_writes_nothing_outside() {
    in_lab("hostile::row_12_a_job_of_a_hostile_archive_fails_as_policy_and_writes_nothing_outside", |lab| {
        let (host, _agent, _) = target(lab);
        // A connection of its own: between two requests more time may pass than a node waits.
        let submit = |spec: &JobSpec| {
            Client::connect(&socket_of(&host)).is_some_and(|mut client| client.submit(std::slice::from_ref(spec)))
        };
        let job = |source: Source, argv: &[&str]| {
            let argv = argv.iter().map(|&word| word.to_owned()).collect();
            let work = Work::Command { source, argv, artifacts: Vec::new() };
            JobSpec { pure: true, ..JobSpec::new(JobId(uuid::Uuid::new_v4()), "hostile", work) }
        };
        let ended = |spec: &JobSpec| {
            let id = spec.id.to_string();
            eventually("the job's end", s(40), || {
                let job = host.json(&["job", "show", &id])?;
                (!matches!(job["state"].as_str(), Some("needed" | "delegated"))).then_some(job)
            })
        };
        for (what, archive) in archives() {
            let spec = job(store(&host, &archive), &["sh", "-c", "cat ./* ; true"]);
            assert!(submit(&spec), "{what}");
            let ended = ended(&spec);
            let attempt = &ended["attempts"][0];
            assert_eq!(attempt["class"], "policy", "{what}: {ended}");
            assert!(attempt["reason"].as_str().is_some_and(|why| why.contains("archive refused")), "{what}: {ended}");
            assert_eq!(ended["attempts"].as_array().map(Vec::len), Some(1), "{what}: it is not tried again: {ended}");
            no_canary(&host);
            let log = host.hive(&["logs", &spec.id.to_string()]).stdout;
            assert!(!log.contains("root:x:") && !log.contains(SECRET), "{what}: {log}");
        }
        // The node builds on, and an honest archive keeps no right of another user.
        let spec = job(store(&host, &[file("own", b"x"), vec![0; 1_024]].concat()), &["sh", "-c", "stat -c %a own"]);
        assert!(submit(&spec));
        assert_eq!(ended(&spec)["state"], "received");
        let log = host.hive(&["logs", &spec.id.to_string()]).stdout;
        assert!(log.lines().any(|line| line.trim() == "755"), "{log}");
        let work: Vec<_> = std::fs::read_dir(host.state().join("work")).expect("there").flatten().collect();
        let left = work.iter().filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
        assert_eq!(left.count(), 0, "nothing of any attempt is left");
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
