//! Backup, restore and `hive db check` on state directories that real agents made, whole and damaged.
#![cfg(feature = "node")]
#![allow(missing_docs, clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)]

#[path = "state_dir/large.rs"]
mod large;
#[path = "state_dir/node.rs"]
mod node;

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rusqlite::Connection;
use serde_json::Value;

use node::{Node, answer, eventually, hive, on};

/// A state directory of an agent that was stopped, with jobs, and a backup of it; made once for all tests of this process.
struct Made {
    _root: tempfile::TempDir,
    state: PathBuf,
    backup: PathBuf,
    hive_id: String,
    pure: Vec<String>,
    effects: Vec<String>,
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let root = tempfile::tempdir().expect("temporary directory");
        let mut node = Node::new(root.path(), "first");
        node.start();
        let (pure, effects) = (node.queue(3, true), node.queue(2, false));
        let backup = root.path().join("a.backup");
        let told = node.ask(&["backup", "--to", &backup.to_string_lossy()]).expect("a backup");
        let hive_id = told["hive_id"].as_str().expect("an id").to_owned();
        node.stop();
        Made { state: node.state(), backup, hive_id, pure, effects, _root: root }
    })
}

/// A copy of the state directory, to be damaged.
fn copy() -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("temporary directory");
    for entry in fs::read_dir(&made().state).expect("lists").flatten().filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copies");
    }
    copy
}

fn findings(report: &Value, severity: &str) -> Vec<String> {
    let all = report["findings"].as_array().expect("findings").iter();
    let of_it = all.filter(|finding| finding["severity"] == severity);
    of_it.map(|finding| format!("{}: {} => {}", finding["file"], finding["what"], finding["next"])).collect()
}

/// What is damaged, in one line; every damage says what to do.
fn damage(directory: &Path) -> String {
    let (code, report) = on(directory, &["db", "check"]);
    let found = findings(&report, "damage");
    assert_eq!((code, report["good"] == true), if found.is_empty() { (0, true) } else { (6, false) }, "{report}");
    for finding in report["findings"].as_array().expect("findings") {
        assert!(finding["severity"] == "remark" || finding["next"] != "", "{finding}");
    }
    found.join("\n")
}

fn sql(directory: &Path, database: &str, statement: &str) {
    let connection = Connection::open(directory.join(database)).expect("opens");
    let changed = connection.execute(statement, []).expect(statement);
    assert!(changed > 0, "{statement} changed nothing");
}

#[test]
fn a_good_directory_is_found_good_running_and_stopped() {
    let stopped = on(&made().state, &["db", "check", "--blobs"]);
    assert_eq!((stopped.0, &stopped.1["good"], &stopped.1["running"]), (0, &true.into(), &false.into()), "{stopped:?}");
    assert_eq!(stopped.1["hive_id"], made().hive_id.as_str());
    assert_eq!(stopped.1["databases"].as_array().map(Vec::len), Some(4));
    assert_eq!(stopped.1["blobs"]["files"], 1, "the source of all jobs is one blob");
    let text = hive(&["db", "check", "--state-dir"]).arg(&made().state).output().expect("runs");
    assert!(String::from_utf8_lossy(&text.stdout).contains("Nothing is damaged."), "{text:?}");

    let root = tempfile::tempdir().expect("temporary directory");
    let mut node = Node::new(root.path(), "running");
    node.start();
    // Looked at again and again while it writes.
    for _ in 0..5 {
        node.queue(4, true);
        let (code, report) = on(&node.state(), &["db", "check", "--blobs"]);
        assert_eq!((code, &report["good"], &report["running"]), (0, &true.into(), &true.into()), "{report}");
    }
    assert_eq!(node.queue(1, true).len(), 1, "it was not disturbed");
    node.stop();
    assert_eq!(damage(&node.state()), "");
}

#[test]
fn what_is_missing_or_changed_in_the_log_is_found_with_what_to_do() {
    let damages: [(&str, &str); 6] = [
        ("DELETE FROM meta WHERE key = 'vote'", "no vote"),
        ("DELETE FROM meta WHERE key = 'meta'", "to whom it belongs"),
        ("DELETE FROM log WHERE idx = (SELECT max(idx) - 2 FROM log)", "are missing"),
        ("DELETE FROM log WHERE idx > (SELECT max(idx) - 2 FROM log)", "newest entries are gone"),
        ("UPDATE log SET entry = x'01ff' WHERE idx = 2", "entry 2"),
        ("UPDATE log SET term = 9999 WHERE idx = (SELECT max(idx) FROM log)", "term"),
    ];
    for (statement, expected) in damages {
        let directory = copy();
        sql(directory.path(), "raft.db", statement);
        let found = damage(directory.path());
        assert!(found.contains(expected) && found.contains("raft.db"), "{statement}: {found}");
        assert!(found.contains("hive db set-aside raft.db"), "a hive of one voter goes on from its state: {found}");
    }
}

#[test]
fn what_is_missing_or_changed_in_the_state_is_found_with_what_to_do() {
    let damages: [(&str, &str); 8] = [
        ("DELETE FROM kv WHERE tbl = 6 AND key = (SELECT min(key) FROM kv WHERE tbl = 6)", "of them are known"),
        ("DELETE FROM kv WHERE tbl = 5", "which is missing"),
        ("DELETE FROM kv WHERE tbl = 1 AND key = CAST('chain' AS BLOB)", "chain"),
        ("UPDATE kv SET value = x'00' WHERE tbl = 2", "stored state is damaged"),
        ("UPDATE kv SET value = (SELECT value FROM kv WHERE tbl = 6 LIMIT 1) WHERE tbl = 6", "different jobs"),
        ("DELETE FROM meta", "what its rows stand for"),
        ("DELETE FROM points WHERE idx = (SELECT max(idx) FROM points)", "chain"),
        ("INSERT INTO kv VALUES (9, x'0000000000000001010102030405060708090a0b0c0d0e0f10', x'00')", "history row"),
    ];
    for (statement, expected) in damages {
        let directory = copy();
        sql(directory.path(), "hive.db", statement);
        let found = damage(directory.path());
        assert!(found.contains(expected) && found.contains("hive.db"), "{statement}: {found}");
        assert!(found.contains("hive restore BACKUP --replace"), "it is the only voter: {found}");
    }
    let directory = copy();
    sql(directory.path(), "outbox.db", "INSERT INTO outbox(key, value) VALUES ('x', x'ff')");
    let found = damage(directory.path());
    assert!(found.contains("outbox.db") && found.contains("hive db set-aside outbox.db"), "{found}");
}

#[test]
fn flipped_bytes_and_missing_ends_are_found_in_every_database() {
    for name in ["raft.db", "hive.db", "outbox.db", "events.db"] {
        let directory = copy();
        let path = directory.path().join(name);
        // One file, so that what is flipped is what is read.
        Connection::open(&path)
            .and_then(|connection| connection.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())))
            .expect("one file");
        assert_eq!(damage(directory.path()), "", "{name} before");
        let length = fs::metadata(&path).expect("there").len();
        let good = fs::read(&path).expect("reads");
        // The head of the file, and the head of every page's tree.
        for at in [3, 4_096, 8_192, length - 4_096].into_iter().filter(|at| *at < length) {
            let mut file = fs::OpenOptions::new().write(true).open(&path).expect("opens");
            file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&[0xA5; 16])).expect("writes");
            drop(file);
            let found = damage(directory.path());
            assert!(found.contains(name), "{name} at {at}: {found}");
            fs::write(&path, &good).expect("mends");
        }
        for keep in [0, 100, 4_096, length / 2] {
            fs::write(&path, &good[..usize::try_from(keep).expect("small")]).expect("cuts");
            let found = damage(directory.path());
            assert!(found.contains(name), "{name} cut to {keep}: {found}");
            fs::write(&path, &good).expect("mends");
        }
        assert_eq!(damage(directory.path()), "", "{name} after");
    }
}

#[test]
fn a_missing_log_of_the_log_is_found_and_missing_files_are_named() {
    // What an agent that was killed leaves: newest entries in the write-ahead log, the file itself older.
    let root = tempfile::tempdir().expect("temporary directory");
    let mut node = Node::new(root.path(), "killed");
    node.start();
    node.queue(5, true);
    let behind = || -> Option<()> {
        let file =
            Connection::open_with_flags(node.state().join("hive.db"), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY);
        let rows =
            file.ok()?.query_row("SELECT count(*) FROM kv WHERE tbl = 6", [], |row| row.get::<_, i64>(0)).ok()?;
        (rows == 5).then_some(())
    };
    eventually("the rows are in the file", behind);
    let killed = rustix::process::Pid::from_raw(i32::try_from(node.pid()).expect("a pid")).expect("a pid");
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).expect("our own child");
    node.ended();
    assert_eq!(damage(&node.state()), "", "killed, and whole");
    fs::remove_file(node.state().join("raft.db-wal")).expect("there");
    let _ = fs::remove_file(node.state().join("raft.db-shm"));
    let found = damage(&node.state());
    assert!(found.contains("newest entries are gone") || found.contains("holds no tables"), "{found}");

    let directory = copy();
    fs::remove_file(directory.path().join("hive.db")).expect("removes");
    assert!(damage(directory.path()).contains("it is missing, and there is a log"));
    let directory = copy();
    fs::remove_file(directory.path().join("raft.db")).expect("removes");
    assert!(damage(directory.path()).contains("is a voter"), "the only one there was");
    let empty = tempfile::tempdir().expect("temporary directory");
    assert_eq!(damage(empty.path()), "", "a node that was never anything");
    let (code, error) = on(&empty.path().join("nowhere"), &["db", "check"]);
    assert_eq!((code, &error["code"]), (5, &"not_found".into()));
}

#[test]
fn a_blob_that_was_changed_is_found_when_asked_for() {
    let directory = copy();
    let shard = directory.path().join("blobs/ab");
    fs::create_dir_all(&shard).expect("directory");
    fs::write(shard.join("0".repeat(62)), "not what it promises").expect("blob");
    assert_eq!(damage(directory.path()), "", "not asked for");
    let (code, report) = on(directory.path(), &["db", "check", "--blobs"]);
    assert_eq!((code, report["blobs"]["damaged"].as_array().map(Vec::len)), (6, Some(1)), "{report}");
}

#[test]
fn a_backup_says_what_it_is_and_overwrites_nothing() {
    let made = made();
    assert_eq!(fs::metadata(&made.backup).expect("there").mode() & 0o777, 0o600);
    let head = fs::read(&made.backup).expect("reads");
    assert!(head.starts_with(b"hive-backup 1\n{\"hive_id\":"));
    let secret = fs::read_to_string(made.state.parent().expect("parent").join("secret")).expect("secret");
    let key = fs::read_to_string(made.state.join("node_key")).expect("key");
    for private in [secret.trim(), key.trim().rsplit(' ').next().expect("digits")] {
        assert!(!head.windows(private.len()).any(|window| window == private.as_bytes()), "keys are in it");
    }
    let target = made.backup.to_string_lossy().into_owned();
    let (code, error) = on(&made.state, &["backup", "--stopped", "--to", &target]);
    assert_eq!((code, &error["code"]), (1, &"conflict".into()), "{error}");
    assert_eq!(fs::read(&made.backup).expect("reads"), head);
    // Of a stopped node it is the same state, at the same entry or a later one.
    let directory = tempfile::tempdir().expect("temporary directory");
    let to = directory.path().to_string_lossy().into_owned();
    let (code, report) = on(&made.state, &["backup", "--stopped", "--to", &to]);
    assert_eq!((code, &report["hive_id"]), (0, &made.hive_id.as_str().into()), "{report}");
    let file = PathBuf::from(report["file"].as_str().expect("a path"));
    assert!(file.starts_with(directory.path()) && file.exists());
    assert_eq!(fs::metadata(&file).expect("there").mode() & 0o777, 0o600);
    let left: Vec<_> = fs::read_dir(&made.state).expect("lists").flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("backup")), "{left:?}");
    let (code, checked) = on(&made.state, &["restore", "--check", &file.to_string_lossy()]);
    assert_eq!((code, &checked["hive_id"], &checked["jobs"]["needed"]), (0, &Value::Null, &5.into()), "{checked}");
}

#[test]
fn a_restored_hive_is_a_new_one_with_the_jobs_of_the_old() {
    let made = made();
    let root = tempfile::tempdir().expect("temporary directory");
    let mut node = Node::new(root.path(), "second");
    let backup = made.backup.to_string_lossy().into_owned();
    let (code, report) = on(&node.state(), &["restore", &backup]);
    assert_eq!((code, &report["held"], &report["former_members"]), (0, &2.into(), &1.into()), "{report}");
    let hive_id = report["hive_id"].as_str().expect("an id").to_owned();
    assert_ne!(hive_id, made.hive_id);
    assert_eq!(damage(&node.state()), "", "before its first start");
    for name in ["hive.db", "raft.db", "node_key"] {
        assert_eq!(fs::metadata(node.state().join(name)).expect("there").mode() & 0o777, 0o600, "{name}");
    }
    node.start();
    let status = node.ask(&["status"]).expect("status");
    assert_eq!((status["hive_id"].as_str(), &status["log"]["epoch"]), (Some(hive_id.as_str()), &2.into()), "{status}");
    assert_eq!(status["members"].as_array().expect("members").iter().filter(|m| m["state"] != "left").count(), 1);
    for id in &made.pure {
        assert_eq!(node.ask(&["job", "show", id]).expect("known")["state"], "needed");
    }
    for id in &made.effects {
        let job = node.ask(&["job", "show", id]).expect("known");
        assert_eq!(job["state"], "blocked", "{job}");
        assert!(job["reason"].as_str().expect("why").contains("backup"), "{job}");
    }
    assert!(node.ask(&["control", "unblock", &made.effects[0]]).is_some());
    let audit = node.ask(&["audit"]).expect("audit");
    assert!(audit["entries"].to_string().contains("hive restore"), "{audit}");
    assert_eq!(node.ask(&["audit", "--verify"]).expect("check")["intact"], true);
    assert_eq!(node.queue(1, true).len(), 1, "new work is taken");
    // It goes on after a restart, and gives a backup of its own.
    node.stop();
    assert_eq!(damage(&node.state()), "");
    node.start();
    assert_eq!(node.ask(&["status"]).expect("status")["hive_id"], hive_id.as_str());
    let again = root.path().join("again.backup");
    assert!(node.ask(&["backup", "--to", &again.to_string_lossy()]).is_some());
}

#[test]
fn nothing_is_replaced_unless_told_and_then_it_is_set_aside() {
    let made = made();
    let directory = copy();
    let before = fs::read(directory.path().join("hive.db")).expect("reads");
    let backup = made.backup.to_string_lossy().into_owned();
    let (code, error) = on(directory.path(), &["restore", &backup]);
    assert_eq!((code, &error["code"]), (1, &"conflict".into()), "{error}");
    assert!(error["hint"].as_str().expect("hint").contains("--replace"), "{error}");
    assert_eq!(fs::read(directory.path().join("hive.db")).expect("reads"), before);
    let (code, report) = on(directory.path(), &["restore", "--replace", &backup]);
    assert_eq!(code, 0, "{report}");
    assert!(report["set_aside"].as_array().expect("list").len() >= 4, "{report}");
    assert_eq!(fs::read(directory.path().join("hive.db.aside-1")).expect("reads"), before);
    assert_eq!(damage(directory.path()), "");
    // The machine is the same one: its key stays, and its incarnation has risen.
    let key = |of: &Path| fs::read_to_string(of.join("node_key")).expect("key");
    assert_eq!(key(directory.path()), key(&made.state));
    let incarnation = |of: &Path| fs::read_to_string(of.join("incarnation")).expect("counter").trim().parse::<u64>();
    assert!(incarnation(directory.path()).expect("number") > incarnation(&made.state).expect("number"));
}

#[test]
fn a_damaged_short_or_newer_backup_is_refused_and_nothing_changes() {
    let made = made();
    let good = fs::read(&made.backup).expect("reads");
    let root = tempfile::tempdir().expect("temporary directory");
    let (bad, state) = (root.path().join("bad"), root.path().join("state"));
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let newer = [b"hive-backup 7\n".as_slice(), &good[14..]].concat();
    let cases: [(&str, Vec<u8>, &str, i32); 5] = [
        ("flipped", flipped, "does not match its digest", 2),
        ("short", good[..good.len() - 1].to_vec(), "cut short", 2),
        ("newer", newer, "format 7, this hive knows 1", 1),
        ("another", b"SQLite format 3\0".to_vec(), "is not a backup", 2),
        ("empty", Vec::new(), "is not a backup", 2),
    ];
    for (name, content, expected, exit) in cases {
        fs::write(&bad, content).expect("writes");
        for line in [&["restore"][..], &["restore", "--check"], &["restore", "--replace"]] {
            let line: Vec<&str> = line.iter().copied().chain([bad.to_str().expect("text")]).collect();
            let (code, error) = on(&state, &line);
            assert!(error["message"].as_str().is_some_and(|message| message.contains(expected)), "{name}: {error}");
            assert!(error["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{name}: {error}");
            assert_eq!(code, exit, "{name}: {error}");
            assert!(!state.exists(), "{name}: nothing is made where nothing was");
        }
    }
    // The same in a directory that has something: it stays as it is, to the byte.
    let directory = copy();
    let all = || -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(directory.path())
            .expect("lists")
            .flatten()
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("reads")))
            .collect();
        files.sort();
        files
    };
    let before = all();
    fs::write(&bad, &good[..good.len() / 2]).expect("writes");
    let (code, _) = on(directory.path(), &["restore", "--replace", bad.to_str().expect("text")]);
    assert_eq!(code, 2);
    assert!(all() == before, "something changed");
}

#[test]
fn a_restore_that_was_broken_off_keeps_agents_away_and_can_be_done_again() {
    let made = made();
    let root = tempfile::tempdir().expect("temporary directory");
    let mut node = Node::new(root.path(), "broken");
    let state = node.state();
    let backup = made.backup.to_string_lossy().into_owned();
    let (code, _) = on(&state, &["restore", &backup]);
    assert_eq!(code, 0);
    // As if the power had gone between its two databases.
    fs::write(state.join("restoring"), &backup).expect("mark");
    fs::remove_file(state.join("raft.db")).expect("removes");
    node.spawn();
    let log = node.ended();
    assert!(log.contains("broken off half-way") && log.contains(&backup), "{log}");
    assert!(damage(&state).contains("was broken off"));
    let (code, report) = on(&state, &["restore", &backup]);
    assert_eq!(code, 0, "without --replace: there is nothing but halves. {report}");
    node.start();
    assert_eq!(node.ask(&["job", "show", &made.pure[0]]).expect("known")["state"], "needed");
}

#[test]
fn an_agent_that_cannot_begin_names_the_command_that_tells_why() {
    for damage in ["UPDATE kv SET value = x'00' WHERE tbl = 2", "DELETE FROM kv WHERE tbl = 1"] {
        let root = tempfile::tempdir().expect("temporary directory");
        let mut node = Node::new(root.path(), "damaged");
        fs::create_dir(node.state()).expect("directory");
        for name in ["hive.db", "node_key", "incarnation"] {
            fs::copy(made().state.join(name), node.state().join(name)).expect("copies");
        }
        sql(&node.state(), "hive.db", damage);
        node.spawn();
        let log = node.ended();
        assert!(log.contains("hive db check says which"), "{log}");
    }
}

#[test]
fn what_changes_the_directory_waits_for_the_end_of_its_agent() {
    let made = made();
    let root = tempfile::tempdir().expect("temporary directory");
    let mut node = Node::new(root.path(), "busy");
    node.start();
    let backup = made.backup.to_string_lossy().into_owned();
    for line in [&["restore", "--replace", &backup][..], &["db", "set-aside"], &["backup", "--stopped"]] {
        let (code, error) = on(&node.state(), line);
        assert_eq!((code, &error["code"]), (1, &"conflict".into()), "{line:?}: {error}");
        assert!(error["message"].as_str().expect("text").contains("an agent uses"), "{error}");
        assert!(error["hint"].as_str().expect("text").contains("systemctl stop hive"), "{error}");
    }
    assert!(node.ask(&["status"]).is_some());
    node.stop();
    let (code, data) = on(&node.state(), &["db", "set-aside"]);
    assert_eq!((code, data["set_aside"].as_array().map(Vec::len)), (0, Some(2)), "{data}");
    assert_eq!(on(&node.state(), &["db", "set-aside"]).0, 5, "there is nothing left");
    assert_eq!(on(&node.state(), &["db", "set-aside", "node_key"]).0, 2, "not everything");
}

#[test]
fn a_node_without_a_hive_has_nothing_to_back_up() {
    let empty = tempfile::tempdir().expect("temporary directory");
    let (code, error) = on(empty.path(), &["backup", "--stopped"]);
    assert_eq!((code, &error["code"]), (5, &"not_found".into()), "{error}");
    let output = hive(&["backup", "--json", "--socket"]).arg(empty.path().join("none")).output().expect("runs");
    assert_eq!(answer(&output).0, 3, "no agent");
}
