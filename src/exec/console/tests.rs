//! The console over a transport in memory, with real programs.

use std::path::Path;
use std::sync::Mutex;

use super::*;
use crate::transport::memory::Network;

struct Place {
    directory: tempfile::TempDir,
    console: Console,
    log: journal::AgentLog,
    notes: Arc<Mutex<Vec<String>>>,
}

fn place(change: impl FnOnce(&mut Options)) -> Place {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut options = Options {
        enabled: true,
        node: "build1".to_owned(),
        shell: Some(PathBuf::from("/bin/sh")),
        home: directory.path().to_owned(),
        recordings: directory.path().join("recordings"),
        keep: Duration::from_secs(3_600),
        keep_bytes: 1 << 20,
        idle: Duration::from_secs(60),
        terminals_max: 1,
        root: directory.path().join("root"),
    };
    change(&mut options);
    let (log, notes) = (journal::AgentLog::default(), Arc::new(Mutex::new(Vec::new())));
    let written = Arc::clone(&notes);
    let noted: Noted = Arc::new(move |note: Note| {
        written.lock().expect("not poisoned").push(format!("{} {}: {}", note.what, note.by, note.text));
    });
    Place { console: Console::new(options, log.clone(), noted), directory, log, notes }
}

impl Place {
    fn notes(&self) -> Vec<String> {
        self.notes.lock().expect("not poisoned").clone()
    }
}

/// All that comes until the last word: both outputs, and that word.
async fn finish(talk: &mut Talk) -> (String, String, Option<Reply>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match within(talk.next()).await {
            Some(Reply::Output { error, bytes }) => (if error { &mut err } else { &mut out }).extend(bytes),
            Some(Reply::Begun | Reply::Alive | Reply::Recordings(_)) => {}
            last => return (text(&out), text(&err), last),
        }
    }
}

async fn until(talk: &mut Talk, wanted: &str) -> String {
    let mut seen = Vec::new();
    while !text(&seen).contains(wanted) {
        match within(talk.next()).await {
            Some(Reply::Output { bytes, .. }) => seen.extend(bytes),
            Some(Reply::Begun) => {}
            other => panic!("{other:?} after {:?}, wanted {wanted:?}", text(&seen)),
        }
    }
    text(&seen)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("in time")
}

/// Waits until no process has this in its command line.
async fn nobody_runs(words: &str) {
    let runs = || {
        std::fs::read_dir("/proc").expect("/proc").flatten().any(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            text(&line).replace('\0', " ").contains(words)
        })
    };
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    within(async {
        while runs() {
            looks.tick().await;
        }
    })
    .await;
}

fn run(argv: &[&str]) -> Request {
    Request::Run { by: "ann".to_owned(), argv: argv.iter().map(|&word| word.to_owned()).collect(), timeout_ms: 20_000 }
}

fn refused(reply: Option<Reply>) -> ApiError {
    match reply {
        Some(Reply::Refused(error)) => error,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_command_runs_on_another_node_with_both_outputs_apart() {
    let place = place(|_| {});
    let network = Network::default();
    place.console.serve(&network.node("far"), |peer| *peer == PeerId::new("near")).expect("serves");
    let (near, far) = (network.node("near"), PeerId::new("far"));
    let request = run(&["sh", "-c", "echo out $0; echo err >&2; pwd; env | sort >&2; exit 7", "a b"]);
    let mut talk = Talk::open(&near, &far, &request).await.expect("opens");
    let (out, err, last) = finish(&mut talk).await;
    assert_eq!(out, format!("out a b\n{}\n", place.directory.path().display()));
    assert!(err.starts_with("err\n") && !err.contains("CARGO"), "a clean environment: {err}");
    assert_eq!(last, Some(Reply::Ended(Ended { exit_code: Some(7), ..Ended::default() })));
    let notes = place.notes();
    assert!(
        notes[0].starts_with("exec ann: began: sh -c ") && notes[1].contains("ended (exit code 7): sh -c "),
        "{notes:?}"
    );
    let mut stranger = Talk::open(&network.node("stranger"), &far, &request).await.expect("opens");
    assert_eq!(refused(finish(&mut stranger).await.2).code, ErrorCode::Forbidden);
    assert_eq!(place.notes().len(), 2, "nothing ran");
}

#[tokio::test]
async fn what_is_not_enabled_is_refused_with_what_to_do_and_logs_are_not() {
    let place = place(|options| options.enabled = false);
    let terminal = Request::Terminal { by: "ann".to_owned(), size: Size { columns: 80, rows: 24 } };
    for request in [run(&["true"]), terminal] {
        let mut talk = place.console.talk(&request).await.expect("opens");
        let error = refused(finish(&mut talk).await.2);
        assert_eq!((error.code, error.hint.contains("terminal.enabled")), (ErrorCode::Forbidden, true), "{error}");
    }
    assert!(place.notes().is_empty());
    place.log.push(b"hello\n");
    let asked = LogsAsked { source: LogSource::Agent, lines: 5, since_unix_s: None, follow: false };
    let mut talk = place.console.talk(&Request::Logs(asked)).await.expect("opens");
    assert_eq!(finish(&mut talk).await.0, "hello\n");
}

#[tokio::test]
async fn a_command_has_limits_and_ends_with_the_connection_and_all_it_began() {
    let place = place(|_| {});
    let mut bad = place.console.talk(&run(&[])).await.expect("opens");
    assert_eq!(refused(finish(&mut bad).await.2).code, ErrorCode::Invalid);
    let mut absent = place.console.talk(&run(&["no-such-program"])).await.expect("opens");
    assert_eq!(refused(finish(&mut absent).await.2).code, ErrorCode::NotFound);
    let slow =
        Request::Run { by: "ann".to_owned(), argv: vec!["sleep".to_owned(), "61.25".to_owned()], timeout_ms: 100 };
    let mut slow = place.console.talk(&slow).await.expect("opens");
    let (_, _, last) = finish(&mut slow).await;
    assert!(
        matches!(&last, Some(Reply::Ended(Ended { why: Some(why), .. })) if why.contains("longer than")),
        "{last:?}"
    );
    nobody_runs("sleep 61.25").await;
    let stubborn = "trap '' HUP TERM; setsid sleep 62.25 & sleep 62.25 & echo began; wait; wait";
    let mut talk = place.console.talk(&run(&["sh", "-c", stubborn])).await.expect("opens");
    until(&mut talk, "began").await;
    drop(talk);
    nobody_runs("sleep 62.25").await;
    let mut left = place.console.talk(&run(&["sh", "-c", "sleep 63.25 & echo left"])).await.expect("opens");
    let (out, _, last) = finish(&mut left).await;
    assert_eq!((out.as_str(), last), ("left\n", Some(Reply::Ended(Ended { exit_code: Some(0), ..Ended::default() }))));
    nobody_runs("sleep 63.25").await;
}

#[tokio::test]
async fn a_terminal_takes_keys_and_sizes_is_recorded_and_leaves_nobody() {
    let place = place(|_| {});
    let request = Request::Terminal { by: "token ann".to_owned(), size: Size { columns: 90, rows: 20 } };
    let mut talk = place.console.talk(&request).await.expect("opens");
    let inputs = talk.inputs();
    let keys = async |keys: &str| inputs.send(Input::Bytes(keys.as_bytes().to_vec())).await.expect("typed");
    keys("stty size; echo $((40+2))_first\n").await;
    let seen = until(&mut talk, "42_first").await;
    assert!(seen.contains("20 90"), "{seen}");
    inputs.send(Input::Resize(Size { columns: 101, rows: 33 })).await.expect("resized");
    keys("stty size; echo $((40+2))_second\n").await;
    let seen = until(&mut talk, "42_second").await;
    assert!(seen.contains("33 101"), "{seen}");
    let mut second = place.console.talk(&request).await.expect("opens");
    assert_eq!(refused(finish(&mut second).await.2).code, ErrorCode::Unreachable, "one at a time here");
    keys("nohup setsid sleep 64.25 >/dev/null 2>&1 & trap '' HUP; sleep 64.25 & echo $((40+2))_third\n").await;
    until(&mut talk, "42_third").await;
    drop((talk, inputs));
    nobody_runs("sleep 64.25").await;
    let mut list = place.console.talk(&Request::Recordings).await.expect("opens");
    let Some(Reply::Recordings(listed)) = within(list.next()).await else { panic!("no list") };
    assert_eq!((listed.len(), listed[0].by.as_str(), listed[0].size.columns), (1, "token ann", 90));
    let replay = Request::Recording { id: listed[0].id.clone() };
    let (cast, _, _) = finish(&mut place.console.talk(&replay).await.expect("opens")).await;
    assert!(cast.starts_with("{\"version\":2") && cast.contains("42_first") && cast.contains("\"101x33\""), "{cast}");
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    within(async {
        while place.notes().len() < 2 {
            looks.tick().await;
        }
    })
    .await;
    let notes = place.notes();
    assert!(notes[0].starts_with("terminal token ann: began, recorded as "), "{notes:?}");
    assert!(notes[1].contains("(the connection ended)"), "{notes:?}");
}

#[tokio::test]
async fn a_terminal_ends_with_its_shell_or_when_nobody_types() {
    let place = place(|options| options.idle = Duration::from_millis(600));
    let request = Request::Terminal { by: "ann".to_owned(), size: Size { columns: 80, rows: 24 } };
    let mut talk = place.console.talk(&request).await.expect("opens");
    talk.inputs().send(Input::Bytes(b"exit 3\n".to_vec())).await.expect("typed");
    let (_, _, last) = finish(&mut talk).await;
    assert_eq!(last, Some(Reply::Ended(Ended { exit_code: Some(3), ..Ended::default() })));
    let mut silent = place.console.talk(&request).await.expect("opens");
    let (_, _, last) = finish(&mut silent).await;
    assert!(
        matches!(&last, Some(Reply::Ended(Ended { why: Some(why), .. })) if why.contains("nothing was typed")),
        "{last:?}"
    );
}

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().expect("has one")).expect("makes it");
    std::fs::write(path, text).expect("writes");
}

fn asked(source: LogSource, lines: u32, follow: bool) -> Request {
    Request::Logs(LogsAsked { source, lines, since_unix_s: None, follow })
}

#[tokio::test]
async fn logs_of_the_machine_come_from_files_where_there_is_no_journal() {
    let place = place(|_| {});
    let root = place.directory.path().join("root");
    let mut none = place.console.talk(&asked(LogSource::System, 5, false)).await.expect("opens");
    let error = refused(finish(&mut none).await.2);
    assert_eq!((error.code, error.message.contains("/var/log/syslog")), (ErrorCode::NotFound, true), "{error}");
    write(&root, "var/log/messages", "one\ntwo\nthree\n");
    let mut talk = place.console.talk(&asked(LogSource::System, 2, false)).await.expect("opens");
    assert_eq!(finish(&mut talk).await.0, "two\nthree\n");
    let mut following = place.console.talk(&asked(LogSource::System, 1, true)).await.expect("opens");
    until(&mut following, "three\n").await;
    std::fs::rename(root.join("var/log/messages"), root.join("var/log/messages.1")).expect("rotates");
    write(&root, "var/log/messages", "four\n");
    assert_eq!(until(&mut following, "four\n").await, "four\n", "the new file");
    let mut emerge = place.console.talk(&asked(LogSource::Emerge, 2, false)).await.expect("opens");
    assert_eq!(refused(finish(&mut emerge).await.2).code, ErrorCode::NotFound);
}

#[tokio::test]
async fn the_agents_own_log_is_followed_from_its_memory() {
    let place = place(|_| {});
    place.log.push(b"one\ntwo\n");
    let mut talk = place.console.talk(&asked(LogSource::Agent, 1, true)).await.expect("opens");
    assert_eq!(until(&mut talk, "two").await, "two\n");
    place.log.push(b"three\n");
    assert_eq!(until(&mut talk, "three").await, "three\n");
}

#[tokio::test]
async fn the_journal_is_asked_with_bounded_arguments() {
    let place = place(|_| {});
    let root = place.directory.path().join("root");
    std::fs::create_dir_all(root.join("run/log/journal")).expect("makes it");
    write(&root, "usr/bin/journalctl", "#!/bin/sh\nprintf '%s\\n' \"$@\"\n");
    use std::os::unix::fs::PermissionsExt as _;
    let program = root.join("usr/bin/journalctl");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let request = LogsAsked { source: LogSource::Kernel, lines: 999_999, since_unix_s: Some(7), follow: true };
    let mut talk = place.console.talk(&Request::Logs(request)).await.expect("opens");
    let (out, _, _) = finish(&mut talk).await;
    assert_eq!(out, "--no-pager\n--quiet\n--output=short-iso\n--lines=5000\n--dmesg\n--since=@7\n--follow\n");
}
