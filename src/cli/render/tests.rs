//! Golden texts: what people see for fixed answers.

use serde_json::json;

use super::*;
use crate::api::{JobLine, JobView};

const PEER: &str = "12D3KooWJKLMnopqrstuvwxyz1";
const OTHER: &str = "12D3KooWABCDefghijklmnopq2";

fn sample(quorum: bool) -> Status {
    serde_json::from_value(json!({
        "hive_id": "0123456789abcdef0123456789abcdef",
        "self": { "name": "build2", "peer_id": OTHER, "role": "builder", "state": "member", "version": "0.1.0", "uptime_ms": 3_900_000 },
        "coordinator": { "name": "build1", "peer_id": PEER, "term": 3 },
        "quorum": quorum,
        "members": [
            { "name": "build1", "peer_id": PEER, "addresses": ["10.0.0.1:50555"], "role": "controller", "state": "alive",
              "raft": "voter", "version": "0.1.0", "last_seen_ms": 300, "load": 0.42, "cores": 8, "founder": true },
            { "name": "build2", "peer_id": OTHER, "addresses": ["10.0.0.2:50555"], "role": "builder", "state": "alive",
              "raft": "voter", "version": "0.1.0", "last_seen_ms": 0, "load": 12.0, "cores": 16, "founder": false },
            { "name": "old\u{1b}[2J", "peer_id": null, "addresses": [], "role": null, "state": "legacy",
              "raft": "none", "version": "", "last_seen_ms": 65_000, "load": null, "cores": 0, "founder": false },
        ],
        "log": { "epoch": 1, "epoch_id": null, "applied": 1204, "committed": 1205, "age_ms": 120 },
        "queue": { "needed": 2, "delegated": 1, "building": 1, "received": 14, "blocked": 0, "failed": 1, "cancelled": 0,
                   "quarantined": 0, "paused": false },
        "notices": ["One voter of two: \u{202e}both are needed."],
        "as_of": "2025-11-08T12:34:56.789Z",
    }))
    .expect("is a status")
}

#[test]
fn status_is_calm_complete_and_fits_eighty_columns() {
    let text = status(&sample(true), Paint(false));
    assert_eq!(
        text,
        "\
hive         0123456789abcdef0123456789abcdef
coordinator  build1 (term 3)
quorum       yes
this node    build2, builder, member, up 1 h 5 min, hive 0.1.0
log          epoch 1, applied 1204 of 1205, 0.1 s old
queue        2 needed, 1 delegated (1 building), 14 received, 1 failed

NAME          ROLE        STATE   RAFT   LOAD/CORES  VERSION  SEEN
build1 *      controller  alive   voter       0.4/8  0.1.0     now
build2        builder     alive   voter     12.0/16  0.1.0     now
old\\u{1b}[2J  -           legacy  -             -/0            65s

! One voter of two: \\u{202e}both are needed."
    );
    assert!(text.lines().all(|line| line.chars().count() <= 80));
    assert!(status(&sample(true), Paint(true)).contains("\u{1b}[32malive"));
}

#[test]
fn what_is_missing_is_said() {
    let mut poor = sample(false);
    poor.coordinator = None;
    let text = status(&poor, Paint(false));
    assert!(text.contains("coordinator  none") && text.contains("quorum       no: "), "{text}");
    poor.hive_id = None;
    poor.members.clear();
    let text = status(&poor, Paint(false));
    assert!(text.contains("hive         none yet") && text.contains("no members yet"), "{text}");
}

fn sample_identity() -> Identity {
    let builder = json!({ "role": "builder", "rule": "few-builders", "cap": 2, "reason": "cluster needs builders" });
    let runner = json!({ "role": "runner", "rule": "else", "cap": null, "reason": "we need more test capacity" });
    let dissent =
        json!({ "advisor": "build2", "policy": "cloudstack", "ranking": [runner], "skipped": ["queue: no fact"] });
    serde_json::from_value(json!({
        "role": "builder", "packages": ["maven", "git"], "config": { "build_slots": 4 }, "assigned_by": ["build1"],
        "assigned_at": "2025-11-08T12:34:56.000Z", "reason": "cluster needs builders", "ballot": "b1", "provisional": false,
        "founder": false, "advice": [{ "advisor": "build1", "policy": "default", "ranking": [builder, runner], "skipped": [] }, dissent],
        "dissent": [dissent], "packages_state": "dry-run",
    }))
    .expect("is an identity")
}

#[test]
fn identity_says_by_whom_and_why_and_who_dissented() {
    assert_eq!(
        identity(&sample_identity(), Paint(false)),
        "\
role         builder
because      cluster needs builders
assigned by  build1
assigned at  2025-11-08T12:34:56.000Z
packages     maven, git (dry-run)
config       build_slots = 4
dissent      1 of 2 advisors put another role first (hive identity explain)
"
    );
    assert_eq!(
        identity_explained(&sample_identity(), Paint(false)),
        "\
builder, by ballot b1 of 2 advisors

build1 with policy default
  1. builder (rule few-builders, at most 2): cluster needs builders
  2. runner (rule else): we need more test capacity

build2 with policy cloudstack (dissents)
  1. runner (rule else): we need more test capacity
  skipped: queue: no fact
"
    );
}

#[test]
fn peers_and_explanations_are_tables() {
    let file = serde_json::from_value(json!({
        "self": { "hostname": "build3", "primary_ip": "192.168.1.23", "role": "builder", "peer_id": PEER },
        "peers": [
            { "hostname": "build1", "ip": "192.168.1.21", "role": "controller", "peer_id": OTHER, "port": 50555, "state": "alive" },
            { "hostname": "build2", "ip": "fd00::2", "role": null, "peer_id": null, "port": 50555, "state": "down" },
        ],
    }))
    .expect("is a peers file");
    assert_eq!(
        peers(&file, Paint(false)),
        "\
this node is build3 at 192.168.1.23, builder

NAME    ADDRESS             ROLE        STATE  ID
build1  192.168.1.21:50555  controller  alive  klmnopq2
build2  [fd00::2]:50555     -           down   -
"
    );
    let why = serde_json::from_value(json!({
        "subject": "job 1", "summary": "no drone has the label gpu", "remedy": "hive agent --label gpu on a drone",
        "details": [{ "name": "build1", "eligible": false, "why": "no label gpu" }],
    }))
    .expect("is an explanation");
    assert_eq!(
        explanation(&why, Paint(false)),
        "job 1: no drone has the label gpu\n\nNAME        WHY\nbuild1  no  no label gpu\n\nTo change it: hive agent --label gpu on a drone\n"
    );
}

#[test]
fn jobs_are_shown_short_in_lists_and_whole_alone() {
    let line: JobLine = serde_json::from_value(json!({
        "id": "6f9619ff-8b86-d011-b42d-00c04fc964ff", "state": "needed", "backend": "command", "target": "make in \u{7}x",
        "priority": 0, "node": null, "attempts": 0, "submitted_at": "2025-11-08T12:34:56.789Z", "waiting_for": "a drone",
    }))
    .expect("is a line");
    assert_eq!(
        jobs::list(&[line], Paint(false)),
        "ID        STATE   TARGET          TRY  NODE  WAITS FOR\n6f9619ff  needed  make in \\u{7}x    0  -     a drone\n"
    );
    let job: JobView = serde_json::from_value(json!({
        "id": "6f9619ff-8b86-d011-b42d-00c04fc964ff", "session": "00000000-0000-4000-8000-000000000000", "state": "received",
        "backend": "debian", "target": "hello", "priority": 5, "labels": ["gpu"], "pure": true, "submitter": "root",
        "submitted_at": "2025-11-08T12:34:56.789Z", "waiting_for": null, "reason": null,
        "attempts": [
            { "attempt": 1, "token": "00000000000000000000000000000001-7", "node": "build1", "state": "failed",
              "started_at": "2025-11-08T12:35:00.000Z", "ended_at": "2025-11-08T12:36:00.000Z", "class": "infra", "reason": "disk full", "exit_code": 2 },
            { "attempt": 2, "token": "00000000000000000000000000000001-8", "node": "build2", "state": "accepted",
              "started_at": "2025-11-08T12:37:00.000Z", "ended_at": "2025-11-08T12:38:00.000Z", "class": null, "reason": null, "exit_code": 0 },
        ],
        "artifacts": [{ "name": "hello_2.10_amd64.deb", "sha256": "00".repeat(32), "size": 53_000 }],
    }))
    .expect("is a job");
    assert_eq!(
        jobs::show(&job, Paint(false)),
        "\
job          6f9619ff-8b86-d011-b42d-00c04fc964ff
state        received
target       hello (debian)
priority     5, pure, needs gpu
queued       2025-11-08 12:34:56 by root, session 00000000-0000-4000-8000-000000000000

TRY  NODE    STATE     STARTED              ENDED     EXIT  WHY
  1  build1  failed    2025-11-08 12:35:00  12:36:00     2  infra: disk full
  2  build2  accepted  2025-11-08 12:37:00  12:38:00     0

ARTIFACT                  SIZE  SHA-256
hello_2.10_amd64.deb  51.7 KiB  000000000000000…
"
    );
}
