//! What people, packages and other nodes write and the engine reads: commands, definitions, plans, filters, names, logs.

use std::collections::BTreeSet;

use serde_json::Value;

use super::buildlog::{ErrorScan, Lines, PhaseScan};
use super::command::{Command, ENVELOPE_VERSION, Origin, Proposal};
use super::id::{JobId, PeerId, SessionId, Sha256Hash};
use super::import;
use super::job::{JobSpec, Source, Work};
use super::plan::{Plan, Planned, PlannedKind};
use super::policy::{Policy, Snapshot, evaluate};
use super::role::{
    RoleDef, RoleSet,
    shipped::{POLICIES, ROLES},
};
use super::wire::filter::Filter;
use super::wire::frames::{Scan, Word, kind, numbered};
use super::wire::told::{self, About};
use super::wire::{Protocol, cbor, redact};
use super::{grammar, harmless};
use crate::fuzzing::{SMALL, attack, made};

fn job() -> JobSpec {
    let work = Work::Command {
        source: Source::Blob { sha256: Sha256Hash([9; 32]), size: 100 },
        argv: vec!["make".to_owned()],
        artifacts: vec!["out/*".to_owned()],
    };
    JobSpec::new(JobId(uuid::Uuid::from_u128(5)), "a job", work)
}

/// What is understood is exactly what this build would have written.
#[test]
fn command() {
    let origin = || Origin { peer_id: PeerId::new("a"), incarnation: 1, sequence: 1 };
    let session = SessionId(uuid::Uuid::from_u128(6));
    let commands = [
        Command::submit(session, "me", vec![job()]),
        Command::Leave { peer_id: PeerId::new("a") },
        Command::OpenSession { session, jobs: 3 },
        Command::Cancel { job: job().id, reason: "why".to_owned() },
    ];
    let all = commands.iter().map(|command| Proposal::new(origin(), command).command).collect();
    attack("command", all, 4 * SMALL, |bytes| {
        let proposal = Proposal { origin: origin(), version: ENVELOPE_VERSION, command: bytes.to_vec() };
        match proposal.decode() {
            Ok(command) => {
                assert_eq!(Proposal::new(origin(), &command), proposal);
                true
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                false
            }
        }
    });
}

#[test]
fn role() {
    let all = ROLES.iter().map(|(_, text)| text.as_bytes().to_vec()).collect();
    attack("role", all, 8 * SMALL, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        match RoleDef::parse("r.toml", text) {
            Ok(role) => {
                assert!(super::role::is_name(&role.name));
                true
            }
            Err(error) => {
                assert!(error.to_string().starts_with("r.toml"), "it says where: {error}");
                false
            }
        }
    });
}

/// A policy that is taken judges any node without a panic, and within its bounds.
#[test]
fn policy() {
    let roles = RoleSet::parse(ROLES.iter().copied()).expect("shipped");
    let all: Vec<Vec<u8>> = POLICIES.iter().map(|(_, text)| text.as_bytes().to_vec()).collect();
    attack("policy", all, 16 * SMALL, move |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        match Policy::parse("p.toml", text, &roles) {
            Ok(policy) => {
                let advice = evaluate(&policy, &roles, &Snapshot::default());
                let ranked: BTreeSet<&str> = advice.ranking.iter().map(|ranked| ranked.role.as_str()).collect();
                assert_eq!(ranked.len(), advice.ranking.len(), "each role once");
                let short = |text: &String| text.len() <= super::policy::SKIPPED_MAX_BYTES;
                assert!(advice.skipped.iter().all(short) && advice.ranking.iter().all(|ranked| short(&ranked.reason)));
                true
            }
            Err(error) => {
                assert!(error.to_string().starts_with("p.toml"), "it says where: {error}");
                false
            }
        }
    });
}

fn planned(name: &str, kind: PlannedKind, needs: &[u32]) -> Planned {
    Planned {
        package: format!("dev-libs/{name}"),
        revision: "1.0-r1".to_owned(),
        slot: "0".to_owned(),
        repository: "gentoo".to_owned(),
        kind,
        root: None,
        uses: vec!["ssl".to_owned(), "-test".to_owned()],
        needs: needs.to_vec(),
    }
}

/// Jobs of a plan: unique, in an order in which each comes after what it needs, and each one good.
#[test]
fn plan() {
    let (ebuild, binary) = (PlannedKind::Ebuild, PlannedKind::Binary);
    let packages = vec![planned("a", ebuild, &[]), planned("b", binary, &[0]), planned("c", ebuild, &[0, 1])];
    let plan = Plan { version: 1, tree: "a tree".to_owned(), packages };
    let all = vec![serde_json::to_vec(&plan).expect("encodes")];
    attack("plan", all, 32 * SMALL, |bytes| {
        let Ok(plan) = Plan::read(bytes) else { return false };
        let again = Plan::read(&serde_json::to_vec(&plan).expect("encodes")).expect("its own");
        assert_eq!(serde_json::to_value(&again).ok(), serde_json::to_value(&plan).ok());
        let resolution = job();
        let Ok(jobs) = plan.jobs(SessionId(uuid::Uuid::from_u128(6)), &resolution) else { return false };
        let mut seen = BTreeSet::new();
        for job in &jobs {
            assert!(job.depends_on.iter().all(|need| seen.contains(need)), "a job before what it needs");
            assert!(seen.insert(job.id) && grammar::job(job).is_ok(), "{:?}", grammar::job(job));
        }
        true
    });
}

/// What an import takes is a job that could have been queued by hand.
#[test]
fn import_line() {
    let all = vec![
        serde_json::to_vec(&job()).expect("encodes"),
        br#"{"target":"dev-libs/foo-1.0","backend":"portage","priority":5,"after":["dev-libs/bar-1"]}"#.to_vec(),
    ];
    attack("import_line", all, 8 * SMALL, |bytes| {
        let mut lines = import::Lines::new(SessionId(uuid::Uuid::from_u128(6)));
        let mut taken = false;
        for line in bytes.split(|byte| *byte == b'\n') {
            match lines.push(line) {
                Ok(Some(job)) => {
                    grammar::job(&job).expect("it is good");
                    taken = true;
                }
                Ok(None) => {}
                Err(error) => assert!(error.line == lines.line() && !error.problem.is_empty()),
            }
        }
        taken
    });
}

/// A filter says where it is wrong, and means the same each time it is read.
#[test]
fn filter() {
    let all = [
        "",
        r#"kind == "ADVICE" && from == "build1""#,
        "latency > 20ms || bytes >= 4KiB and not (sent or status in (\"a\", \"b\"))",
        r#"summary matches "^a+\s" && path contains 'x'"#,
        "job and !session",
        "status >= 400 && status < 500",
    ];
    let all = all.iter().map(|text| text.as_bytes().to_vec()).collect();
    let seen = super::wire::filter::tests::record();
    attack("filter", all, 16 * SMALL, move |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        match Filter::parse(text) {
            Ok(filter) => {
                let taken = filter.takes(&seen);
                assert_eq!(Filter::parse(text).expect("again").takes(&seen), taken);
                assert!(text.len() <= super::wire::filter::LENGTH_MAX && (!filter.is_all() || taken));
                let negated = format!("not ({text})");
                if let Ok(not) = Filter::parse(&negated).as_ref().map(|filter| filter.takes(&seen)) {
                    assert_ne!(not, taken, "{negated}");
                }
                true
            }
            Err(error) => {
                assert!(error.position <= text.chars().count().max(super::wire::filter::LENGTH_MAX) + 1, "{error}");
                assert!(!error.message.is_empty());
                false
            }
        }
    });
}

/// Depth of a JSON value.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(items) => 1 + items.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The reader for people: anything gives something of bounded depth, with keys hidden, and in one harmless line.
#[test]
fn cbor_for_people() {
    let mut all = vec![made(&job()), made(&Command::Leave { peer_id: PeerId::new("a") })];
    all.push(made(&serde_json::json!({ "admin_key": "the-secret-of-the-test", "jobs": [1, 2, { "x": null }] })));
    attack("cbor_for_people", all, 16 * SMALL, |bytes| {
        let mut value = cbor::read(bytes);
        assert!(depth(&value) <= 64, "{} levels", depth(&value));
        for origin in [redact::Origin::Http, redact::Origin::Mesh] {
            redact::value(&mut value, origin);
        }
        let line = told::line(&value, &About::of(&value));
        assert!(!line.chars().any(char::is_control) && line.chars().count() <= 200, "{line:?}");
        let mut cursor = cbor::Cursor::new(bytes);
        while cursor.skip().is_some() {}
        !value.is_null()
    });
}

/// However a stream is cut into pieces, the same frames pass.
#[test]
fn frames_of_a_stream() {
    let frame = |body: &[u8]| [&u32::try_from(body.len()).expect("short").to_be_bytes()[..], body].concat();
    let all = vec![[frame(&made(&job())), frame(b""), frame(&[1; 300])].concat(), vec![0xff; 9]];
    attack("frames_of_a_stream", all, 8 * SMALL, |bytes| {
        let pass = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let (mut scan, mut frames) = (Scan::new(64), Vec::new());
            for piece in pieces {
                scan.feed(piece, |passed| {
                    frames.push((passed.body.to_vec(), passed.bytes));
                    false
                });
            }
            (frames, scan.bare_bytes())
        };
        let whole = pass(&mut std::iter::once(bytes));
        assert_eq!(pass(&mut bytes.chunks(3)), whole);
        for (body, length) in &whole.0 {
            assert!(body.len() <= 64 && body.len() as u64 + 4 <= *length);
            for protocol in Protocol::ALL {
                assert!(!kind(protocol, body, true).shown().contains(char::is_control));
            }
            let _ = numbered(body);
        }
        !whole.0.is_empty()
    });
}

#[test]
fn redacted_text() {
    let all = vec![
        b"curl -H 'X-Admin-Key: the-secret-of-the-test' --token=abc".to_vec(),
        b"password=hunter2&user=x admin_key the-secret-of-the-test".to_vec(),
    ];
    attack("redacted_text", all, 8 * SMALL, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let once = redact::text(text).into_owned();
        assert_eq!(redact::text(&once), once, "what was hidden stays as it is");
        Word::new(text);
        once != text
    });
}

/// Names: what is accepted holds nothing that a shell, a path or a terminal would read as more than a name.
#[test]
fn names() {
    let all = [
        "dev-libs/foo-1.0",
        "=dev-libs/foo-1.0-r1",
        ">=dev-libs/foo-1.0:2/3::gentoo",
        "@world",
        "hello",
        "1:2.0-3+b1~rc",
        "https://example.org/x.git",
        "ssh://git@example.org:22/x",
        "refs/heads/main",
        "v1.0",
        "out/**/*.deb",
        "node:a",
        "0123456789abcdef0123456789abcdef01234567",
        "eth0",
        "build3.example.org",
        "NPM_TOKEN",
    ];
    let all = all.iter().map(|text| text.as_bytes().to_vec()).collect();
    type Rule = fn(&str) -> Result<(), grammar::GrammarError>;
    let rules: [Rule; 15] = [
        grammar::debian_package,
        grammar::debian_version,
        grammar::secret_name,
        grammar::tool_version,
        grammar::label,
        grammar::artifact_name,
        grammar::node_name,
        grammar::interface,
        grammar::commit,
        grammar::git_ref,
        grammar::repository_url,
        grammar::pattern,
        grammar::gentoo_package,
        grammar::gentoo_atom,
        grammar::gentoo_target,
    ];
    attack("names", all, SMALL, move |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let mut taken = false;
        for (number, rule) in rules.iter().enumerate() {
            match rule(text) {
                Ok(()) => {
                    taken = true;
                    assert!(!text.is_empty() && !text.starts_with('-'), "rule {number}: {text:?}");
                    let (branch, glob) = (number == 9, number == 11);
                    let blank = |c: char| c.is_control() || (c.is_whitespace() && !(glob && c == ' '));
                    assert!(!text.contains(blank), "rule {number}: {text:?}");
                    assert!(!text.split('/').any(|part| part == ".."), "rule {number}: {text:?}");
                    // Nothing of it passes a shell; a name that holds these is none all the same.
                    let shell = ['"', '`', '|', '<', '\\', '\u{202e}'];
                    assert!(branch || glob || !text.contains(shell), "rule {number}: {text:?}");
                    assert!(text.len() <= 4_096, "rule {number}: {} bytes", text.len());
                }
                Err(error) => {
                    let said = error.to_string();
                    assert!(said.len() < 2_000 && !said.contains(|c: char| c.is_control() && c != '\n'), "{said:?}");
                }
            }
        }
        taken
    });
}

/// Whatever a build prints: what is shown of it is harmless, and however it is cut, the same is found.
#[test]
fn build_log() {
    let all = vec![
        b">>> Unpacking source...\n>>> Compiling source in /x ...\nmake: *** [all] Error 2\n".to_vec(),
        b"dpkg-buildpackage: error: x\nfoo.c:3:4: error: no such thing\n\x1b[31mred\x1b[0m\n".to_vec(),
        b"==> Fetching\r\nIn file\0included\n\xff\xfe\n".to_vec(),
    ];
    attack("build_log", all, 8 * SMALL, |bytes| {
        let look = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let (mut lines, mut errors, mut phases) =
                (Lines::new(4_096, 64, 1, 0), ErrorScan::default(), PhaseScan::default());
            let mut starts = Vec::new();
            for piece in pieces {
                lines.push(piece, |piece| {
                    errors.push(&piece);
                    true
                });
                phases.push(piece, |start| starts.push(format!("{start:?}")));
            }
            lines.finish(|piece| {
                errors.push(&piece);
                true
            });
            (errors.finish(), starts)
        };
        let (found, starts) = look(&mut std::iter::once(bytes));
        assert_eq!(look(&mut bytes.chunks(7)), (found.clone(), starts));
        if let Some(found) = &found {
            let shown = found.before.iter().chain(&found.after).chain([&found.text]);
            shown.for_each(|line| assert_eq!(&harmless::line(line, 10_000), line));
        }
        found.is_some()
    });
}
