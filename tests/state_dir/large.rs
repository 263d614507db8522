//! The same on a state of 1 GiB, with times and memory: `make bench-backup`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::node::{Node, hive};

/// Jobs of the history, each of some 10 kB: all that is kept of it.
const JOBS: u64 = 100_000;
/// Bytes of one command line.
const ARGUMENT_BYTES: usize = 10_000;

/// Fills the history of a stopped node, as a hive would that builds with long command lines.
fn fill(state: &Path) -> u64 {
    use hive::engine::id::{JobId, SessionId, Sha256Hash, UnixMillis};
    use hive::engine::job::{Job, JobSpec, JobState, Source, Tally, Work};
    let mut connection = Connection::open(state.join("hive.db")).expect("opens");
    let transaction = connection.transaction().expect("begins");
    {
        let mut insert = transaction.prepare("INSERT INTO kv VALUES (9, ?1, ?2)").expect("prepares");
        for number in 1..=JOBS {
            let id = JobId(uuid::Uuid::from_u128(u128::from(number)));
            let work = Work::Command {
                source: Source::Blob { sha256: Sha256Hash([9; 32]), size: 100 },
                argv: vec!["x".repeat(ARGUMENT_BYTES), number.to_string()],
                artifacts: Vec::new(),
            };
            let job = Job {
                spec: JobSpec { pure: true, ..JobSpec::new(id, "long ago", work) },
                session: SessionId(uuid::Uuid::nil()),
                ordinal: number,
                submitter: "me".to_owned(),
                submitted_at: UnixMillis(1),
                state: JobState::Received,
                attempts: Vec::new(),
                artifacts: Vec::new(),
                artifact_node: None,
                not_before_ms: 0,
                reason: None,
                block_until_ms: None,
                joined: None,
                tally: Tally::default(),
                finish_ordinal: number,
            };
            let mut value = Vec::with_capacity(ARGUMENT_BYTES + 500);
            ciborium::into_writer(&job, &mut value).expect("encodes");
            let mut key = number.to_be_bytes().to_vec();
            key.push(1);
            key.extend(id.0.as_bytes());
            insert.execute((key, value)).expect("inserts");
        }
    }
    transaction.commit().expect("commits");
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("checkpoints");
    fs::metadata(state.join("hive.db")).expect("there").len()
}

fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Runs a command to its end; how long it took, and most memory it had.
fn measured(what: &str, mut command: Command) -> (Duration, u64) {
    let since = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn().expect("starts");
    let mut peak = 0;
    let status = loop {
        peak = peak.max(peak_kib(child.id()));
        if let Some(status) = child.try_wait().expect("our own child") {
            break status;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    };
    let took = since.elapsed();
    println!("{what}: {:.1} s, {} MiB", took.as_secs_f64(), peak >> 10);
    assert!(status.success(), "{what}: {status}");
    (took, peak)
}

#[test]
#[ignore = "4 GiB of disk and a minute; make bench-backup"]
fn one_gibibyte_is_backed_up_checked_and_restored() {
    let root = tempfile::tempdir().expect("temporary directory");
    let mut node = Node::new(root.path(), "large");
    node.start();
    node.queue(2, true);
    node.stop();
    let bytes = fill(&node.state());
    assert!(bytes >= 1 << 30, "{bytes} bytes");
    println!("hive.db: {} MiB, {JOBS} jobs of history", bytes >> 20);
    let since = Instant::now();
    node.start();
    println!("start until there is a quorum: {:.1} s", since.elapsed().as_secs_f64());
    let before = peak_kib(node.pid());
    let backup = root.path().join("large.backup");
    let socket = root.path().join("large/sock");
    // The hive goes on meanwhile: how long a job takes to be acknowledged.
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (took, slowest) = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let since = Instant::now();
                node.queue(1, true);
                slowest = slowest.max(since.elapsed());
            }
            slowest
        });
        let mut command = hive(&["backup", "--json", "--socket"]);
        command.arg(&socket).arg("--to").arg(&backup);
        let took = measured("hive backup, of a running node, read again", command).0;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (took, load.join().expect("queues"))
    });
    println!("slowest job queued meanwhile: {:.2} s", slowest.as_secs_f64());
    println!("agent: {} MiB at most before, {} MiB after", before >> 10, peak_kib(node.pid()) >> 10);
    let mut command = hive(&["db", "check", "--json", "--state-dir"]);
    command.arg(node.state());
    measured("hive db check, running", command);
    node.stop();
    let mut command = hive(&["db", "check", "--json", "--state-dir"]);
    command.arg(node.state());
    let (_, check_kib) = measured("hive db check, stopped", command);
    let mut restored = Node::new(root.path(), "restored");
    let mut command = hive(&["restore", "--json"]);
    command.arg(&backup).arg("--state-dir").arg(restored.state());
    let (restore, restore_kib) = measured("hive restore", command);
    restored.start();
    let history = restored.ask(&["job", "show", "00000000-0000-0000-0000-00000000002a"]).expect("history came along");
    assert_eq!(history["target"], "long ago");
    // A second of copying and hashing for each 100 MiB is slow for any disk of today, and memory does not grow with the file.
    assert!(took < Duration::from_secs(120) && restore < Duration::from_secs(120));
    assert!(check_kib < 512 << 10 && restore_kib < 512 << 10, "{check_kib} and {restore_kib} KiB");
    assert!(slowest < Duration::from_secs(5), "the hive stood still for {slowest:?}");
}
