//! What agents ask and tell each other about control, status, logs, terminals and their wire, and cookies of browsers.

use super::control::{Request, Response};
use super::shared::StatusReport;
use super::wire::{Question, Told};
use crate::engine::id::{Epoch, EpochId, JobId, Sha256Hash};
use crate::exec::{console, logs};
use crate::fuzzing::{SMALL, attack, cbor, made};

#[test]
fn control() {
    let job = JobId(uuid::Uuid::from_u128(5));
    let epoch = Epoch { counter: 1, id: EpochId([1; 16]) };
    let all = vec![
        made(&Request::Seek { digest: [1; 16], announces: true }),
        made(&Request::Lease { attempts: Vec::new() }),
        made(&Request::PrepareReplica),
        made(&Request::RetireReplica { raft_id: 5 }),
        made(&Request::KeepBlob { sha256: Sha256Hash([1; 32]), size: 9 }),
        made(&Request::AskAgain { generation: 1, reason: "why".to_owned() }),
        made(&Request::FindStaged { atom: "dev-libs/a".to_owned() }),
        made(&Response::Ok),
        made(&Response::Leases { valid: vec![true, false] }),
        made(&Response::LogEnd { epoch, term: 3, index: 9 }),
        made(&Response::Staged { path: job.to_string(), size_bytes: 5 }),
        made(&Response::Refused { why: "busy".to_owned() }),
    ];
    attack("control", all, 4 * SMALL, |bytes| cbor::<Request>(bytes) | cbor::<Response>(bytes));
}

#[test]
fn status_report() {
    let report = StatusReport {
        load_centi: 150,
        building: 2,
        disk_free_bytes: 5 << 30,
        disk_low: false,
        slots: Some(4),
        commit_p99_ms: Some(9),
        raft_id: Some(7),
        halted: false,
        staging: Some(3),
        sync: None,
        cpu_percent: Some(50),
        ram_percent: None,
        received_ms: 0,
    };
    attack("status_report", vec![made(&report)], SMALL, |bytes| {
        let taken = cbor::<StatusReport>(bytes);
        if let Ok(report) = crate::transport::decode::<StatusReport>(bytes) {
            assert_eq!(report.received_ms, 0, "when it came is nobody else's to say");
            report.sync_by_now();
        }
        taken
    });
}

/// What nodes ask each other about their records of messages.
#[test]
fn wire_questions() {
    let filter = "kind == \"PING\"".to_owned();
    let all = vec![
        made(&Question::List { filter: filter.clone(), since: Some(5), before: None, limit: 20 }),
        made(&Question::Whole { filter, since: None, before: Some(u64::MAX), limit: usize::MAX }),
        made(&Question::Detail { number: 5 }),
        made(&Told::Refused("busy".to_owned())),
        made(&Told::Whole(Vec::new())),
    ];
    attack("wire_questions", all, 4 * SMALL, |bytes| cbor::<Question>(bytes) | cbor::<Told>(bytes));
}

/// Logs and terminals over the mesh.
#[test]
fn console_messages() {
    let job = JobId(uuid::Uuid::from_u128(5));
    let all = vec![
        made(&console::Input::Resize(console::Size { columns: 80, rows: 24 })),
        made(&console::Request::Run { by: "me".to_owned(), argv: vec!["uptime".to_owned()], timeout_ms: 500 }),
        made(&console::Reply::Output { error: false, bytes: vec![1, 2] }),
        made(&console::Ended::default()),
        made(&logs::remote::Request { job, attempt: 1, offset: 0, follow: true }),
        made(&logs::look::Question::Phases),
    ];
    attack("console_messages", all, 4 * SMALL, |bytes| {
        cbor::<console::Request>(bytes)
            | cbor::<console::Input>(bytes)
            | cbor::<console::Reply>(bytes)
            | cbor::<console::Ended>(bytes)
            | cbor::<logs::remote::Request>(bytes)
            | cbor::<logs::look::Request>(bytes)
            | cbor::<logs::look::Question>(bytes)
            | cbor::<logs::look::Found>(bytes)
    });
}
