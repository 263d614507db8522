//! Builds as they really run: real processes, users, cgroups, Git and dpkg, as root like in CI.
//!
//! A missing tool fails a test with the command that mends it; nothing is skipped.

#![cfg(feature = "node")]
#![expect(clippy::disallowed_methods, reason = "a test measures with the real clock")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use hive::blobs::{self, BlobStore};
use hive::engine::id::{EpochId, JobId, Sha256Hash, Token};
use hive::engine::job::{Artifact, DebianSource, FailureClass, JobSpec, Limits, Outcome, Source, Work};
use hive::engine::role::Family;
use hive::exec::build::{Attempt, Build, Builder, Depot, DepotError, Event, EventKind, StopReason};
use hive::exec::logs::{self, LogStore};
use hive::exec::packages::PackagesState;
use hive::exec::privilege::{Executor, Privilege};
use hive::exec::{InstallPolicy, Options};
use tokio::sync::mpsc;

#[path = "exec/isolation.rs"]
mod isolation;
#[path = "exec/maven.rs"]
mod maven;
#[path = "exec/portage.rs"]
mod portage;
#[path = "sample/gpkg.rs"]
mod sample;

/// Asks again and again until there is an answer.
async fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within 60 s: {what}");
        ticks.tick().await;
    }
}

/// What the agent does in production: joins the blob store to the builder.
struct Store(BlobStore);

impl Depot for Store {
    fn unpack<'a>(&'a self, archive: Sha256Hash, _size: u64, into: &'a Path) -> BoxFuture<'a, Result<(), DepotError>> {
        Box::pin(async move {
            let (store, into) = (self.0.clone(), into.to_owned());
            let work = move || {
                let (file, _) =
                    store.open_verified(archive).map_err(|error| DepotError::Unavailable(error.to_string()))?;
                blobs::unpack::unpack(file, &into, blobs::unpack::Caps::default())
                    .map_err(|error| DepotError::Refused(error.to_string()))
            };
            tokio::task::spawn_blocking(work).await.expect("joins")
        })
    }

    fn keep(&self, file: fs::File) -> BoxFuture<'_, Result<(Sha256Hash, u64), DepotError>> {
        Box::pin(async move {
            let store = self.0.clone();
            let work = move || store.put(file, u64::MAX).map_err(|error| DepotError::Unavailable(error.to_string()));
            tokio::task::spawn_blocking(work).await.expect("joins")
        })
    }
}

fn require(program: &str, package: &str) {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().expect("sh runs");
    assert!(found.status.success(), "{program} is missing: apt-get install -y {package}");
}

fn require_root() {
    assert!(rustix::process::geteuid().is_root(), "this test starts builds as another user: run it as root");
}

struct Host {
    directory: tempfile::TempDir,
    options: Options,
    store: BlobStore,
    logs: LogStore,
    builder: Builder,
    executor: Arc<Executor>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    reaped: Vec<String>,
    counter: u64,
}

fn options(root: &Path) -> Options {
    Options {
        work_dir: root.join("work"),
        hidden_dirs: vec![root.join("state")],
        program: PathBuf::from(env!("CARGO_BIN_EXE_hive")),
        disk_free_min_bytes: 0,
        grace_ms: 500,
        ..Options::default()
    }
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("temporary directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::create_dir(directory.path().join("state")).expect("mkdir");
    directory
}

impl Host {
    async fn new() -> Self {
        let directory = directory();
        let options = options(directory.path());
        Self::with(directory, options, Privilege::Direct).await
    }

    async fn with(directory: tempfile::TempDir, options: Options, privilege: Privilege) -> Self {
        require_root();
        let executor = Executor::open(options.clone(), privilege).await.expect("executor");
        let notes = &executor.capabilities().notes;
        assert_eq!(executor.capabilities().sandbox, options.sandbox, "sandbox as wanted: {notes:?}");
        let blob_options = blobs::Options { free_min_bytes: 0, ..blobs::Options::default() };
        let store = BlobStore::open(&directory.path().join("state/blobs"), blob_options).expect("blobs");
        let log_options = logs::Options { directory: directory.path().join("state/logs"), ..logs::Options::default() };
        let logs = LogStore::open(log_options).expect("logs");
        let depot = Arc::new(Store(store.clone()));
        let executor = Arc::new(executor);
        let (builder, reaped) = Builder::open(executor.clone(), logs.clone(), depot).await.expect("builder");
        let (sender, events) = mpsc::channel(64);
        Self { directory, options, store, logs, builder, executor, events, sender, reaped, counter: 0 }
    }

    fn archive(&self, files: &[(&str, &str)]) -> Source {
        let tree = tempfile::tempdir().expect("temporary directory");
        for (name, content) in files {
            let path = tree.path().join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            fs::write(&path, content).expect("writes");
            if content.starts_with("#!") {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
            }
        }
        let mut bytes = Vec::new();
        blobs::archive::archive(tree.path(), &mut bytes).expect("archives");
        let (sha256, size) = self.store.put(bytes.as_slice(), u64::MAX).expect("stores");
        Source::Blob { sha256, size }
    }

    fn start(&mut self, work: Work, limits: Limits) -> Build {
        self.start_as(true, work, limits)
    }

    fn start_as(&mut self, pure: bool, work: Work, limits: Limits) -> Build {
        self.counter += 1;
        let job = JobId(uuid::Uuid::new_v4());
        let token = Token { epoch: EpochId(rand::random()), counter: self.counter };
        let target = "test".to_owned();
        let spec = JobSpec { pure, limits, ..JobSpec::new(job, target, work) };
        self.builder.start(Attempt { job, attempt: 1, token, spec }, self.sender.clone())
    }

    fn start_shell(&mut self, script: &str, limits: Limits) -> Build {
        let source = self.archive(&[("file.txt", "x")]);
        self.start(command(source, &["bash", "-c", script], &[]), limits)
    }

    async fn event(&mut self) -> EventKind {
        let event = tokio::time::timeout(Duration::from_secs(120), self.events.recv()).await;
        event.expect("an event within 120 s").expect("channel is open").kind
    }

    /// Events up to the end.
    async fn end(&mut self) -> (Vec<EventKind>, Outcome) {
        let mut before = Vec::new();
        loop {
            match self.event().await {
                EventKind::Ended(outcome) => return (before, outcome),
                other @ (EventKind::Started { .. } | EventKind::Uploading) => before.push(other),
            }
        }
    }

    async fn log(&self, build: &Build) -> String {
        let mut reader = self.logs.reader(build.job, 1, 0).expect("opens").expect("there is a log");
        let mut text = Vec::new();
        while let Some(bytes) = reader.next().await.expect("reads") {
            text.extend_from_slice(&bytes);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Runs a shell script as a build and answers its end and log.
    async fn shell(&mut self, script: &str, limits: Limits) -> (Outcome, String) {
        let build = self.start_shell(script, limits);
        let (_, outcome) = self.end().await;
        let log = self.log(&build).await;
        self.assert_nothing_is_left(&build);
        (outcome, log)
    }

    fn assert_nothing_is_left(&self, build: &Build) {
        let left = marked(&build.token.to_string());
        assert!(left.is_empty(), "processes {left:?} of the attempt still run");
        assert!(!self.options.work_dir.join(build.token.to_string()).exists(), "its directory is still there");
    }

    async fn wait_for_log(&self, build: &Build, needle: &str) {
        let mut reader = until("a log", || self.logs.reader(build.job, 1, 0).expect("opens")).await;
        let mut text = String::new();
        while !text.contains(needle) {
            let next = tokio::time::timeout(Duration::from_secs(60), reader.next()).await;
            let bytes = next.unwrap_or_else(|_| panic!("{needle:?} did not appear in {text}")).expect("reads");
            text.push_str(&String::from_utf8_lossy(
                &bytes.unwrap_or_else(|| panic!("log ended without {needle:?}: {text}")),
            ));
        }
    }
}

fn marked(token: &str) -> Vec<String> {
    let marker = format!("HIVE_ATTEMPT={token}");
    let processes = fs::read_dir("/proc").expect("proc").flatten();
    processes
        .filter(|entry| {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|variable| variable == marker.as_bytes())
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn command(source: Source, argv: &[&str], artifacts: &[&str]) -> Work {
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    Work::Command { source, argv: owned(argv), artifacts: owned(artifacts) }
}

fn artifacts(outcome: Outcome) -> Vec<Artifact> {
    match outcome {
        Outcome::Succeeded { artifacts } => artifacts,
        Outcome::Returned { reason } | Outcome::NotUploaded { reason } => panic!("{reason}"),
        Outcome::Failed { class, reason, exit_code } => panic!("failed: {class:?} {reason} {exit_code:?}"),
    }
}

fn failure(outcome: Outcome) -> (FailureClass, String, Option<i32>) {
    match outcome {
        Outcome::Failed { class, reason, exit_code } => (class, reason, exit_code),
        Outcome::Returned { reason } | Outcome::NotUploaded { reason } => panic!("{reason}"),
        Outcome::Succeeded { artifacts } => panic!("succeeded with {artifacts:?}"),
    }
}

#[tokio::test]
async fn a_build_succeeds_and_its_files_are_stored() {
    let mut host = Host::new().await;
    let script = "#!/bin/sh\nset -e\nmkdir out\necho built > out/result.txt\ncat data.txt\n";
    let source = host.archive(&[("build.sh", script), ("data.txt", "from the archive\n")]);
    let build = host.start(command(source, &["./build.sh"], &["out/*.txt"]), Limits::default());
    let (before, outcome) = host.end().await;
    assert_eq!(before, [EventKind::Started { pinned_commit: None }, EventKind::Uploading]);
    let artifacts = artifacts(outcome);
    assert_eq!(artifacts.len(), 1);
    assert_eq!((artifacts[0].name.as_str(), artifacts[0].size), ("result.txt", 6));
    host.store.open_verified(artifacts[0].sha256).expect("stored");
    assert!(host.log(&build).await.contains("from the archive"));
    host.assert_nothing_is_left(&build);
}

#[tokio::test]
async fn failures_carry_their_class_and_exit_code() {
    let mut host = Host::new().await;
    let (outcome, _) = host.shell("exit 7", Limits::default()).await;
    let (class, reason, code) = failure(outcome);
    assert_eq!((class, code), (FailureClass::Build, Some(7)), "{reason}");
    let (outcome, _) = host.shell("echo 'x: No space left on device' >&2; exit 1", Limits::default()).await;
    assert_eq!(failure(outcome).0, FailureClass::Infra);
    let source = host.archive(&[("f", "x")]);
    host.start(command(source.clone(), &["no-such-program"], &[]), Limits::default());
    let (class, reason, _) = failure(host.end().await.1);
    assert_eq!((class, reason.contains("not installed")), (FailureClass::Policy, true), "{reason}");
    host.start(command(source.clone(), &["./configure"], &[]), Limits::default());
    assert_eq!(failure(host.end().await.1).0, FailureClass::Build);
    host.start(command(source, &["true"], &["*.deb"]), Limits::default());
    let (class, reason, _) = failure(host.end().await.1);
    assert_eq!((class, reason.contains("*.deb")), (FailureClass::Build, true), "{reason}");
    let absent = Source::Blob { sha256: Sha256Hash([9; 32]), size: 1 };
    host.start(command(absent, &["true"], &[]), Limits::default());
    assert_eq!(failure(host.end().await.1).0, FailureClass::Infra);
}

#[tokio::test]
async fn a_build_sees_a_clean_environment_another_user_and_no_state() {
    require("bwrap", "bubblewrap");
    let mut host = Host::new().await;
    fs::write(host.directory.path().join("state/secret"), "s3cr3t").expect("writes");
    fs::set_permissions(host.directory.path().join("state/secret"), fs::Permissions::from_mode(0o644)).expect("chmod");
    let state = host.directory.path().join("state").display().to_string();
    let script = format!(
        "env; id -u; ulimit -c; ulimit -n; cat /proc/self/oom_score_adj; nice; ls {state}; echo x > {state}/y; echo x > /etc/hive-test; true"
    );
    let (outcome, log) = host.shell(&script, Limits::default()).await;
    artifacts(outcome);
    // `_`, `PWD` and `SHLVL` are bash's own.
    let allowed = ["PATH", "HOME", "LANG", "HIVE_JOB", "HIVE_ATTEMPT", "_", "PWD", "SHLVL", "OLDPWD"];
    let names: Vec<&str> = log
        .lines()
        .filter(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .collect();
    assert!(names.contains(&"HIVE_ATTEMPT"), "{log}");
    assert!(names.iter().all(|name| allowed.contains(name)), "{names:?}");
    assert!(log.contains("LANG=C.UTF-8"));
    assert!(!log.contains("\n0\n0\n"), "not root, no core: {log}");
    assert!(log.lines().any(|line| line == "600"), "{log}");
    // Added to the niceness that this test itself runs with.
    assert!(log.lines().filter_map(|line| line.parse::<u32>().ok()).any(|number| (10..=19).contains(&number)), "{log}");
    assert!(!log.contains("secret"), "the state directory is hidden: {log}");
    assert!(!Path::new("/etc/hive-test").exists() && !host.directory.path().join("state/y").exists());
}

#[tokio::test]
async fn time_outs_end_a_build() {
    let mut host = Host::new().await;
    let limits = Limits { timeout_ms: 1_500, ..Limits::default() };
    let (outcome, _) = host.shell("while true; do echo x; sleep 0.1; done", limits).await;
    let (class, reason, _) = failure(outcome);
    assert_eq!((class, reason.contains("longer than its limit")), (FailureClass::Infra, true), "{reason}");
    let limits = Limits { silence_timeout_ms: 1_000, ..Limits::default() };
    let (outcome, _) = host.shell("echo one; exec >/dev/null 2>&1; sleep 100", limits).await;
    let (class, reason, _) = failure(outcome);
    assert_eq!((class, reason.contains("printed nothing")), (FailureClass::Infra, true), "{reason}");
}

#[tokio::test]
async fn a_log_is_capped_and_the_build_goes_on() {
    let mut host = Host::new().await;
    let limits = Limits { log_max_bytes: 100_000, ..Limits::default() };
    let (outcome, log) = host.shell("head -c 20000000 /dev/zero | tr '\\0' x; echo; echo end", limits).await;
    artifacts(outcome);
    assert!(log.len() < 101_000, "{}", log.len());
    assert!(log.contains("the log is full") && log.contains("bytes were dropped"));
}

const DAEMON: &str = "(setsid sh -c 'trap \"\" TERM; cd /; env -u HIVE_ATTEMPT sleep 1000 & exec sleep 1000' >/dev/null 2>&1 &) ; \
    (setsid sleep 1001 >/dev/null 2>&1 &) ; trap '' TERM; echo ready; sleep 1000";

async fn cancelled_within_5_s(mut host: Host) {
    let build = host.start_shell(DAEMON, Limits::default());
    host.wait_for_log(&build, "ready").await;
    assert!(!marked(&build.token.to_string()).is_empty());
    let before = Instant::now();
    build.stop(StopReason::Cancelled("by a test".to_owned()));
    let (_, outcome) = host.end().await;
    let took = before.elapsed();
    let (class, reason, _) = failure(outcome);
    assert_eq!((class, reason.as_str()), (FailureClass::Cancelled, "by a test"));
    assert!(took < Duration::from_secs(5), "{took:?}");
    host.assert_nothing_is_left(&build);
}

#[tokio::test]
async fn cancelling_ends_daemonised_grandchildren_in_the_sandbox() {
    cancelled_within_5_s(Host::new().await).await;
}

#[tokio::test]
async fn cancelling_ends_daemonised_grandchildren_without_a_sandbox() {
    let directory = directory();
    let options = Options { sandbox: false, ..options(directory.path()) };
    cancelled_within_5_s(Host::with(directory, options, Privilege::Direct).await).await;
}

#[tokio::test]
async fn daemons_that_a_successful_build_leaves_are_ended() {
    let directory = directory();
    let options = Options { sandbox: false, ..options(directory.path()) };
    let mut host = Host::with(directory, options, Privilege::Direct).await;
    let (outcome, _) = host.shell("(setsid sleep 1000 &) ; echo done", Limits::default()).await;
    artifacts(outcome);
}

#[tokio::test]
async fn a_fork_bomb_is_bounded_and_ends() {
    let mut host = Host::new().await;
    let limits = Limits { processes_max: 64, timeout_ms: 3_000, ..Limits::default() };
    let before = Instant::now();
    let (outcome, _) = host.shell("b() { b | b & }; b; sleep 100", limits).await;
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    assert!(before.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn too_much_memory_is_this_nodes_affair() {
    let mut host = Host::new().await;
    let limits = Limits { memory_max_mb: 64, ..Limits::default() };
    let (outcome, log) =
        host.shell("set -o pipefail; head -c 300000000 /dev/zero | tail -c 290000000 | wc -c", limits).await;
    // With a memory cgroup the kernel ends it; without, its own allocation fails and it says so.
    let failed = matches!(outcome, Outcome::Failed { class: FailureClass::Infra, .. });
    assert!(failed || log.contains("memory exhausted"), "{outcome:?} {log}");
}

#[tokio::test]
async fn builds_of_a_former_life_are_ended_before_new_ones() {
    let host = Host::new().await;
    let mut host = host;
    let build = host.start_shell(DAEMON, Limits::default());
    host.wait_for_log(&build, "ready").await;
    let token = build.token.to_string();
    // Another life of the agent on the same directories, while the first one's processes still run.
    let executor = Executor::open(host.options.clone(), Privilege::Direct).await.expect("executor");
    let reaped = executor.reap_leftovers().await.expect("reaps");
    assert_eq!(reaped, std::slice::from_ref(&token));
    assert!(marked(&token).is_empty());
    assert!(!host.options.work_dir.join(&token).exists());
    let (_, outcome) = host.end().await;
    assert!(matches!(outcome, Outcome::Failed { .. }));
    assert!(host.reaped.is_empty());
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(directory)
        .args(["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .env("HOME", directory)
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn a_moving_branch_is_pinned_and_a_pinned_commit_is_built() {
    require("git", "git");
    let mut host = Host::new().await;
    let repository = host.directory.path().join("repository");
    fs::create_dir(&repository).expect("mkdir");
    git(&repository, &["init", "-q"]);
    fs::write(repository.join("version"), "one").expect("writes");
    git(&repository, &["add", "."]);
    git(&repository, &["commit", "-qm", "one"]);
    let first = git(&repository, &["rev-parse", "HEAD"]);
    fs::write(repository.join("version"), "two").expect("writes");
    git(&repository, &["commit", "-qam", "two"]);
    let second = git(&repository, &["rev-parse", "HEAD"]);
    let url = repository.display().to_string();
    let work = |branch: Option<&str>, commit: Option<&str>| {
        let source =
            Source::Git { url: url.clone(), branch: branch.map(str::to_owned), commit: commit.map(str::to_owned) };
        command(source, &["cat", "version"], &["version"])
    };
    for branch in [None, Some("main")] {
        let build = host.start(work(branch, None), Limits::default());
        let (before, outcome) = host.end().await;
        let log = host.log(&build).await;
        assert_eq!(before[0], EventKind::Started { pinned_commit: Some(second.clone()) }, "{log}");
        assert_eq!(artifacts(outcome)[0].size, 3, "{log}");
        assert!(log.contains("two"), "{log}");
    }
    let build = host.start(work(Some("main"), Some(&first)), Limits::default());
    let (before, outcome) = host.end().await;
    assert_eq!(before[0], EventKind::Started { pinned_commit: None });
    artifacts(outcome);
    assert!(host.log(&build).await.contains("one"));
    for (branch, url) in [(Some("absent"), url.clone()), (None, "/nonexistent/repository".to_owned())] {
        let source = Source::Git { url, branch: branch.map(str::to_owned), commit: None };
        host.start(command(source, &["true"], &[]), Limits::default());
        let (class, reason, _) = failure(host.end().await.1);
        assert_eq!(class, FailureClass::Policy, "{reason}");
    }
}

const TREE: &[(&str, &str)] = &[
    (
        "debian/control",
        "Source: hive-tiny\nSection: misc\nPriority: optional\nMaintainer: T <t@example.invalid>\nBuild-Depends: debhelper-compat (= 13)\nStandards-Version: 4.6.2\n\nPackage: hive-tiny\nArchitecture: all\nDepends: ${misc:Depends}\nDescription: tiny\n Tiny package.\n",
    ),
    (
        "debian/changelog",
        "hive-tiny (1.0) unstable; urgency=medium\n\n  * First.\n\n -- T <t@example.invalid>  Sat, 01 Jan 2022 00:00:00 +0000\n",
    ),
    ("debian/rules", "#!/usr/bin/make -f\n%:\n\tdh $@\noverride_dh_auto_build:\n\techo epoch=$$SOURCE_DATE_EPOCH\n"),
    ("debian/source/format", "3.0 (native)\n"),
    ("debian/install", "tiny.txt usr/share/hive-tiny\n"),
    ("tiny.txt", "tiny\n"),
];

fn require_debian() {
    for (program, package) in
        [("dpkg-buildpackage", "dpkg-dev"), ("dh", "debhelper"), ("fakeroot", "fakeroot"), ("make", "build-essential")]
    {
        require(program, package);
    }
}

#[tokio::test]
async fn a_debian_source_tree_becomes_packages() {
    require_debian();
    let mut host = Host::new().await;
    let source = DebianSource::Tree { source: host.archive(TREE) };
    let build = host.start(Work::Debian { source }, Limits::default());
    let (before, outcome) = host.end().await;
    let log = host.log(&build).await;
    assert!(before.contains(&EventKind::Uploading), "{outcome:?} {log}");
    let names: Vec<String> = artifacts(outcome).into_iter().map(|artifact| artifact.name).collect();
    assert!(names[0].ends_with(".changes"), "{names:?}");
    assert!(
        names.contains(&"hive-tiny_1.0_all.deb".to_owned()) && names.iter().any(|name| name.ends_with(".buildinfo")),
        "{names:?}"
    );
    assert!(log.contains("epoch=1640995200"), "{log}");
}

#[tokio::test]
async fn missing_build_dependencies_are_named() {
    require_debian();
    let mut host = Host::new().await;
    let mut tree = TREE.to_vec();
    let control = TREE[0].1.replace("debhelper-compat (= 13)", "debhelper-compat (= 13), hive-no-such-package (>= 2)");
    tree[0].1 = &control;
    let source = DebianSource::Tree { source: host.archive(&tree) };
    host.start(Work::Debian { source }, Limits::default());
    let (class, reason, _) = failure(host.end().await.1);
    assert_eq!((class, reason.contains("hive-no-such-package")), (FailureClass::Policy, true), "{reason}");
    assert_eq!(host.options.build_dependencies, InstallPolicy::Off);
}

#[tokio::test]
async fn a_source_package_is_built_by_its_name() {
    require_debian();
    let directory = directory();
    let archive = directory.path().join("archive");
    let tree = archive.join("hive-tiny-1.0");
    for (name, content) in TREE {
        let path = tree.join(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        fs::write(path, content).expect("writes");
    }
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(&archive).output().expect("runs");
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    run("dpkg-source", &["-b", "hive-tiny-1.0"]);
    fs::write(archive.join("Sources"), run("dpkg-scansources", &["."])).expect("writes");
    let apt_dir = directory.path().join("apt");
    fs::create_dir(&apt_dir).expect("mkdir");
    fs::write(apt_dir.join("sources.list"), format!("deb [trusted=yes] file:{} ./\n", archive.display()))
        .expect("writes");
    let options = Options { apt_dir, ..options(directory.path()) };
    let mut host = Host::with(directory, options, Privilege::Direct).await;
    let package = |package: &str, version: Option<&str>| {
        let source = DebianSource::Archive { package: package.to_owned(), version: version.map(str::to_owned) };
        Work::Debian { source }
    };
    let build = host.start(package("hive-tiny", Some("1.0")), Limits::default());
    let (_, outcome) = host.end().await;
    let log = host.log(&build).await;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?} {log}");
    assert!(artifacts(outcome).iter().any(|artifact| artifact.name == "hive-tiny_1.0_all.deb"), "{log}");
    for (name, version) in [("hive-absent", None), ("hive-tiny", Some("9.9"))] {
        let build = host.start(package(name, version), Limits::default());
        let (class, reason, _) = failure(host.end().await.1);
        assert_eq!(class, FailureClass::Policy, "{reason} {}", host.log(&build).await);
    }
}

/// The helper as its unit starts it, and an "agent" that is root here but goes through its socket.
#[tokio::test]
async fn builds_run_through_the_helper() {
    require_root();
    let directory = directory();
    let socket = directory.path().join("helper.sock");
    let options = options(directory.path());
    let mut helper = tokio::process::Command::new(env!("CARGO_BIN_EXE_hive"))
        .arg("helper")
        .arg("--socket")
        .arg(&socket)
        .args(["--agent-user", "root", "--work-dir"])
        .arg(&options.work_dir)
        .arg("--hide")
        .arg(directory.path().join("state"))
        .kill_on_drop(true)
        .spawn()
        .expect("helper starts");
    until("the helper listens", || std::os::unix::net::UnixStream::connect(&socket).ok()).await;
    let mut host = Host::with(directory, options, Privilege::Helper(socket.clone())).await;
    let (outcome, log) = host.shell("id -u; echo through the helper; exit 3", Limits::default()).await;
    let (class, _, code) = failure(outcome);
    assert_eq!((class, code), (FailureClass::Build, Some(3)), "{log}");
    assert!(log.contains("through the helper") && !log.lines().any(|line| line == "0"), "{log}");
    let executor = Executor::open(host.options.clone(), Privilege::Helper(socket.clone())).await.expect("executor");
    let (output, mut lines) = mpsc::channel(16);
    let installed = executor.install_packages(Family::Debian, vec!["dpkg".to_owned()], output).await;
    assert_eq!(installed.expect("asked"), PackagesState::Installed(vec![]), "dpkg is everywhere already");
    let said = lines.recv().await.expect("output");
    assert!(String::from_utf8_lossy(&said).starts_with("+ dpkg-query -W "), "{said:?}");
    let (output, _lines) = mpsc::channel(16);
    let refused = executor.install_packages(Family::Debian, vec!["--purge".to_owned()], output).await;
    assert!(refused.expect_err("refused").to_string().contains("is no package name"));
    let build = host.start_shell(DAEMON, Limits::default());
    host.wait_for_log(&build, "ready").await;
    let before = Instant::now();
    build.stop(StopReason::Superseded);
    assert_eq!(failure(host.end().await.1).0, FailureClass::Stale);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    host.assert_nothing_is_left(&build);
    helper.kill().await.expect("ends");
}

/// Agent and helper read the same file, unless the agent could have written it.
#[tokio::test]
async fn the_helper_goes_by_the_file_when_only_root_can_write_it() {
    require_root();
    let directory = directory();
    let options = options(directory.path());
    let config = directory.path().join("hive.toml");
    let preset = directory.path().join("preset");
    let text = format!("[build]\nwork_dir = \"{}\"\nuser = \"daemon\"\ncores = 1\n", options.work_dir.display());
    fs::write(&config, text).expect("writes");
    for (number, (mode, trusted)) in [(0o644, true), (0o664, false)].into_iter().enumerate() {
        fs::set_permissions(&config, fs::Permissions::from_mode(mode)).expect("chmod");
        let socket = directory.path().join(format!("helper{number}.sock"));
        let mut helper = tokio::process::Command::new(env!("CARGO_BIN_EXE_hive"))
            .args(["helper", "--agent-user", "root", "--socket"])
            .arg(&socket)
            .env("HIVE_CONFIG", &config)
            .env("HIVE_DEFAULT_BUILD_WORK_DIR", &preset)
            .kill_on_drop(true)
            .spawn()
            .expect("helper starts");
        until("the helper listens", || std::os::unix::net::UnixStream::connect(&socket).ok()).await;
        let executor = Executor::open(options.clone(), Privilege::Helper(socket)).await.expect("opens");
        let found = executor.capabilities();
        let (work_dir, percent) = if trusted { (&options.work_dir, 100) } else { (&preset, 0) };
        assert_eq!((&found.work_dir, found.cpu_max_percent), (work_dir, percent), "{found:?}");
        assert_eq!(found.build_user == "daemon", trusted, "{found:?}");
        assert_eq!(found.unable.is_none(), trusted, "{found:?}");
        helper.kill().await.expect("ends");
    }
}

/// A host whose helper is away stays a member that builds nothing, and builds again by itself.
#[tokio::test]
async fn a_helper_may_come_later_and_must_mean_the_same_directory() {
    require_root();
    let directory = directory();
    let socket = directory.path().join("helper.sock");
    let options = options(directory.path());
    let unable = |executor: &Executor| executor.capabilities().unable.clone().unwrap_or_default();
    let executor = Executor::open(options.clone(), Privilege::Helper(socket.clone())).await.expect("no error");
    assert!(unable(&executor).contains("hive-helper.service"), "{}", unable(&executor));
    assert!(executor.reap_leftovers().await.expect("put off").is_empty());
    let left = options.work_dir.join("0123456789abcdef0123456789abcdef-1");
    fs::create_dir_all(&left).expect("a directory of a former life");
    assert!(!executor.refresh().await, "still away");

    let helper = |work_dir: &Path| {
        let mut helper = tokio::process::Command::new(env!("CARGO_BIN_EXE_hive"));
        helper.arg("helper").arg("--socket").arg(&socket).args(["--agent-user", "root", "--work-dir"]).arg(work_dir);
        helper.kill_on_drop(true).spawn().expect("helper starts")
    };
    let listens = || std::os::unix::net::UnixStream::connect(&socket).ok();
    let mut other = helper(&directory.path().join("elsewhere"));
    until("the helper listens", listens).await;
    assert!(executor.refresh().await);
    assert!(unable(&executor).contains("systemctl restart hive-helper hive"), "{}", unable(&executor));
    assert!(left.exists(), "nothing is done by a helper that means something else");
    other.kill().await.expect("ends");

    let mut helper = helper(&options.work_dir);
    until("the helper listens", listens).await;
    assert!(executor.refresh().await);
    assert_eq!(executor.capabilities().unable, None);
    assert!(!left.exists(), "reaped before anything can be built");
    helper.kill().await.expect("ends");
    assert!(executor.refresh().await);
    assert!(unable(&executor).contains("cannot be reached"), "{}", unable(&executor));
}

#[tokio::test]
async fn what_has_effects_waits_until_the_hive_knows_that_it_runs() {
    let mut host = Host::new().await;
    let source = host.archive(&[("file.txt", "x")]);
    let script = "touch ran; echo ran";
    let build = host.start_as(false, command(source.clone(), &["bash", "-c", script], &["ran"]), Limits::default());
    assert_eq!(host.event().await, EventKind::Started { pinned_commit: None });
    let early = tokio::time::timeout(Duration::from_millis(600), host.events.recv()).await;
    assert!(early.is_err(), "{early:?}");
    build.permit();
    let (_, outcome) = host.end().await;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
    let build = host.start_as(false, command(source, &["bash", "-c", script], &[]), Limits::default());
    assert_eq!(host.event().await, EventKind::Started { pinned_commit: None });
    build.stop(StopReason::LeaseLost);
    let (class, _, _) = failure(host.end().await.1);
    assert_eq!(class, FailureClass::Infra, "stopped before it could begin");
}

#[tokio::test]
async fn git_needs_no_name_server_to_know_who_it_is() {
    let mut host = Host::new().await;
    let (outcome, log) = host.shell("git config --get user.name; git config --get user.email", Limits::default()).await;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{log}");
    assert!(log.lines().any(|line| line == "hive@localhost"), "{log}");
}

#[tokio::test]
async fn a_host_that_can_start_nothing_says_so_and_is_not_given_up() {
    let directory = directory();
    let options = Options { program: PathBuf::from("/bin/false"), ..options(directory.path()) };
    let executor = Executor::open(options, Privilege::Direct).await.expect("opens");
    assert!(executor.capabilities().unable.is_some());
    assert_eq!(executor.capabilities().notes.len(), 1, "nothing else matters: {:?}", executor.capabilities().notes);
    assert!(executor.capabilities().notes[0].contains("restart hive"), "{:?}", executor.capabilities().notes);
}

fn cbor(value: &impl serde::Serialize) -> ciborium::Value {
    ciborium::Value::serialized(value).expect("encodes")
}

async fn ask_helper(socket: &Path, frame: &[u8]) -> Vec<u8> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::UnixStream::connect(socket).await.expect("connects");
    let length = u32::try_from(frame.len()).expect("short").to_be_bytes();
    stream.write_all(&[&length, frame].concat()).await.expect("writes");
    let mut answer = Vec::new();
    // A reset connection is a refusal too.
    stream.read_to_end(&mut answer).await.ok();
    answer
}

/// The step as one in which root builds an atom.
fn merging(step: ciborium::Value, atom: &str) -> ciborium::Value {
    let ciborium::Value::Map(mut request) = step else { panic!("a step is a map") };
    let ciborium::Value::Map(fields) = &mut request[0].1 else { panic!("a step is a map") };
    fields.push((cbor(&"portage"), cbor(&serde_json::json!({ "merge": { "atom": atom } }))));
    ciborium::Value::Map(request)
}

/// What an agent that was taken over might try. Nothing may be done, and the helper lives on.
#[tokio::test]
async fn the_helper_refuses_what_is_not_on_its_list() {
    require_root();
    let directory = directory();
    let socket = directory.path().join("helper.sock");
    let mut helper = tokio::process::Command::new(env!("CARGO_BIN_EXE_hive"))
        .args(["helper", "--agent-user", "root", "--socket"])
        .arg(&socket)
        .arg("--work-dir")
        .arg(directory.path().join("work"))
        .kill_on_drop(true)
        .spawn()
        .expect("helper starts");
    until("the helper listens", || std::os::unix::net::UnixStream::connect(&socket).ok()).await;
    let canary = directory.path().join("canary");
    let step = |directory: &str, environment: &[(&str, &str)]| {
        let environment: BTreeMap<_, _> = environment.iter().copied().collect();
        let fields = [
            ("job", cbor(&JobId(uuid::Uuid::new_v4()))),
            ("token", cbor(&Token { epoch: EpochId([0; 16]), counter: 1 })),
            ("directory", cbor(&directory)),
            ("argv", cbor(&["touch".to_owned(), canary.display().to_string()])),
            ("environment", cbor(&environment)),
            ("processes_max", cbor(&64)),
            ("memory_max_mb", cbor(&0)),
            ("sandbox", cbor(&false)),
        ];
        cbor(&BTreeMap::from([("Start", BTreeMap::from(fields))]))
    };
    fs::create_dir(directory.path().join("work").join(format!("{}-1", "0".repeat(32)))).expect("mkdir");
    let merge = |atom: &str| merging(step("", &[]), atom);
    let requests = [
        merge("--unmerge"),
        merge("app-misc/hello --config-root=/tmp"),
        merge("@world"),
        merge("/tmp/evil-1.0.ebuild"),
        step("../../..", &[]),
        step("/etc", &[]),
        step("", &[("LD_PRELOAD", "/tmp/evil.so")]),
        step("", &[("PATH", "/tmp")]),
        cbor(&serde_json::json!({ "Install": { "family": "debian", "names": ["--purge", "bash"] } })),
        cbor(&serde_json::json!({ "Install": { "family": "debian", "names": ["/tmp/evil.deb"] } })),
        cbor(&serde_json::json!({ "ClaimAddress": { "interface": "lo; id", "cidr": "10.0.0.1/24" } })),
    ];
    let unknown = cbor(&serde_json::json!({ "Run": { "argv": ["id"] } }));
    for (request, known) in requests.map(|request| (request, true)).into_iter().chain([(unknown, false)]) {
        let mut frame = Vec::new();
        ciborium::into_writer(&request, &mut frame).expect("encodes");
        let answer = ask_helper(&socket, &frame).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.contains("Refused"), "{request:?}: {text:?}");
        // Otherwise the test would only show that nonsense is refused.
        assert_eq!(!text.contains("not a request"), known, "{request:?}: {text:?}");
    }
    for junk in [&b""[..], &[0xff; 100], &[0x9f; 60_000], b"GET / HTTP/1.1\r\n"] {
        ask_helper(&socket, junk).await;
    }
    assert!(!canary.exists(), "nothing was run");
    // Somebody else than the agent's user is not even listened to, also when the socket's mode lets him in.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("chmod");
    let stranger = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "perl", "-MIO::Socket::UNIX", "-e"])
        .arg("my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die 'connect'; local $SIG{PIPE} = 'IGNORE'; syswrite $s, qq(\\0\\0\\0\\x0dlCapabilities); my $n = sysread $s, my $b, 10; print 'answer=', ($n // 0);")
        .arg(&socket)
        .output()
        .expect("setpriv runs");
    let said = String::from_utf8_lossy(&stranger.stdout).into_owned();
    assert_eq!(said, "answer=0", "{}", String::from_utf8_lossy(&stranger.stderr));
    let mut honest = Vec::new();
    ciborium::into_writer(&"Capabilities", &mut honest).expect("encodes");
    let answer = ask_helper(&socket, &honest).await;
    assert!(String::from_utf8_lossy(&answer).contains("build_user"), "it still serves its agent");
    helper.kill().await.expect("ends");
}
