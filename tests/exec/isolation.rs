//! Builds that mean harm, as real processes: each is stopped or refused, and the host builds on.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hive::engine::id::{EpochId, JobId, Token};
use hive::engine::job::{FailureClass, JobSpec, Limits, Outcome};
use hive::exec::Options;
use hive::exec::build::{Attempt, Build};
use hive::exec::privilege::{Executor, Privilege};

use super::{Host, artifacts, command, directory, failure, options, require};

impl Host {
    /// A shell script as a job that asks for more than the others.
    fn start_asking(&mut self, script: &str, ask: impl FnOnce(&mut JobSpec)) -> Build {
        self.counter += 1;
        let source = self.archive(&[("file.txt", "x")]);
        let job = JobId(uuid::Uuid::new_v4());
        let token = Token { epoch: EpochId(rand::random()), counter: self.counter };
        let mut spec = JobSpec::new(job, "test", command(source, &["bash", "-c", script], &[]));
        spec.pure = true;
        ask(&mut spec);
        self.builder.start(Attempt { job, attempt: 1, token, spec }, self.sender.clone())
    }

    async fn asking(&mut self, script: &str, ask: impl FnOnce(&mut JobSpec)) -> (Outcome, String) {
        let build = self.start_asking(script, ask);
        let (_, outcome) = self.end().await;
        let log = self.log(&build).await;
        self.assert_nothing_is_left(&build);
        (outcome, log)
    }

    async fn assert_healthy(&mut self) {
        let (outcome, log) = self.shell("echo well", Limits::default()).await;
        assert!(matches!(outcome, Outcome::Succeeded { .. }) && log.contains("well"), "{outcome:?} {log}");
    }
}

/// Tries to connect to a port of this host, by bash's own means.
fn knock(port: u16) -> String {
    format!("if (exec 3<>/dev/tcp/127.0.0.1/{port}); then echo got-into-{port}; else echo kept-out-of-{port}; fi;")
}

fn listeners() -> (TcpListener, u16, TcpListener, u16) {
    let [hives, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("listens"));
    let port = |listener: &TcpListener| listener.local_addr().expect("has an address").port();
    let ports = (port(&hives), port(&other));
    (hives, ports.0, other, ports.1)
}

#[tokio::test]
async fn no_build_connects_to_hives_ports_or_takes_them() {
    require("bwrap", "bubblewrap");
    require("python3", "python3");
    for sandbox in [true, false] {
        let (_hives, closed, _other, open) = listeners();
        let directory = directory();
        let options = Options { sandbox, closed_ports: vec![closed], ..options(directory.path()) };
        let mut host = Host::with(directory, options, Privilege::Direct).await;
        let take =
            format!("python3 -c 'import socket; socket.socket().bind((\"127.0.0.2\", {closed}))' && echo took-it;");
        // Also from a grandchild in a session of its own.
        let script =
            format!("{} {} {take} setsid bash -c '{}' & wait; true", knock(closed), knock(open), knock(closed));
        let (outcome, log) = host.shell(&script, Limits::default()).await;
        artifacts(outcome);
        assert_eq!(log.matches(&format!("kept-out-of-{closed}")).count(), 2, "sandbox {sandbox}: {log}");
        assert!(log.contains(&format!("got-into-{open}")), "other ports stay open: {log}");
        assert!(!log.contains("took-it") && log.contains("Permission"), "sandbox {sandbox}: {log}");
    }
}

#[tokio::test]
async fn a_job_that_requires_its_own_network_namespace_reaches_nothing() {
    require("bwrap", "bubblewrap");
    let (_hives, one, _other, two) = listeners();
    let mut host = Host::new().await;
    let require = |feature: &str| BTreeSet::from([format!("feature:{feature}")]);
    let script = format!("{} {} ls /sys/class/net; cat /proc/net/dev", knock(one), knock(two));
    let (outcome, log) = host.asking(&script, |spec| spec.labels = require("netns")).await;
    artifacts(outcome);
    assert!(log.contains(&format!("kept-out-of-{one}")) && log.contains(&format!("kept-out-of-{two}")), "{log}");
    host.start_asking("true", |spec| spec.labels = require("teleporter"));
    let (class, reason, _) = failure(host.end().await.1);
    assert_eq!((class, reason.contains("teleporter")), (FailureClass::Infra, true), "{reason}");
}

#[tokio::test]
async fn what_a_host_offers_is_what_was_found_by_trying() {
    require("bwrap", "bubblewrap");
    let directory = directory();
    let all = Options { closed_ports: vec![50_555], ..options(directory.path()) };
    let executor = Executor::open(all.clone(), Privilege::Direct).await.expect("executor");
    let offered = executor.capabilities().features();
    for feature in ["cgroup", "closed-ports", "netns", "sandbox", "user"] {
        assert!(offered.contains(&feature), "{feature}: {offered:?} {:?}", executor.capabilities().notes);
    }
    let bare = Options { sandbox: false, closed_ports: Vec::new(), ..all };
    let executor = Executor::open(bare, Privilege::Direct).await.expect("executor");
    let capabilities = executor.capabilities();
    for feature in ["sandbox", "netns", "closed-ports"] {
        assert!(!capabilities.features().contains(&feature), "{feature}");
    }
    let told = capabilities.notes.join("; ");
    assert!(told.contains("without a sandbox") && told.contains("own ports"), "{told}");
}

#[tokio::test]
async fn secrets_reach_only_the_job_that_names_them_and_no_log() {
    require("bwrap", "bubblewrap");
    let directory = directory();
    let secrets_dir = directory.path().join("state/job-secrets");
    fs::create_dir(&secrets_dir).expect("makes");
    let file = secrets_dir.join("DEPLOY_TOKEN");
    fs::write(&file, "pa55-w0rd-of-the-shop\n").expect("writes");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
    let options = Options { secrets_dir: secrets_dir.clone(), ..options(directory.path()) };
    let mut host = Host::with(directory, options, Privilege::Direct).await;
    let script = format!(
        "test ${{#DEPLOY_TOKEN}} = 21 && echo has-it; echo \"[$DEPLOY_TOKEN]\"; printf '<%s' \"${{DEPLOY_TOKEN:0:9}}\"; sleep 0.3; \
         echo \"${{DEPLOY_TOKEN:9}}>\"; cat {}; true",
        file.display()
    );
    let named = |spec: &mut JobSpec| spec.secrets = BTreeSet::from(["DEPLOY_TOKEN".to_owned()]);
    let (outcome, log) = host.asking(&script, named).await;
    artifacts(outcome);
    assert!(log.contains("has-it") && log.contains("[***]") && log.contains("<***>"), "{log}");
    assert!(!log.contains("pa55"), "{log}");
    let (outcome, log) = host.asking("env; test -z \"$DEPLOY_TOKEN\"", |_| ()).await;
    artifacts(outcome);
    assert!(!log.contains("DEPLOY_TOKEN"), "{log}");
    let absent = |spec: &mut JobSpec| spec.secrets = BTreeSet::from(["NOT_HERE".to_owned()]);
    host.start_asking("true", absent);
    let (class, reason, _) = failure(host.end().await.1);
    assert_eq!(class, FailureClass::Policy, "{reason}");
    assert!(
        reason.contains(&secrets_dir.join("NOT_HERE").display().to_string()) && reason.contains("0600"),
        "{reason}"
    );
}

/// A small disk of its own, gone with its guard.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        fs::create_dir(at).expect("makes");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=96m,mode=0755", "tmpfs"]).arg(at).status();
        assert!(mounted.expect("mount runs").success(), "a tmpfs is needed: run the tests as root");
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

#[tokio::test]
async fn a_hostile_build_is_stopped_at_each_of_its_tricks_and_the_host_builds_on() {
    require("bwrap", "bubblewrap");
    let (_hives, closed, _other, _) = listeners();
    let directory = directory();
    let root = directory.path().to_owned();
    let disk = SmallDisk::mount(&root.join("work"));
    fs::write(root.join("state/secret"), "the-secret-of-the-hive").expect("writes");
    fs::set_permissions(root.join("state/secret"), fs::Permissions::from_mode(0o644)).expect("chmod");
    let options = Options { disk_free_min_bytes: 16 << 20, closed_ports: vec![closed], ..options(directory.path()) };
    let mut host = Host::with(directory, options, Privilege::Direct).await;

    // Fills the disk.
    let (outcome, _) =
        host.shell("cat /dev/zero > big1 & cat /dev/zero > /tmp/big2 & wait; exit 1", Limits::default()).await;
    let (class, reason, _) = failure(outcome);
    assert_eq!((class, reason.contains("disk")), (FailureClass::Infra, true), "{reason}");
    host.assert_healthy().await;

    // Forks without end, ignoring what asks it to stop.
    let limits = Limits { processes_max: 64, timeout_ms: 3_000, ..Limits::default() };
    let before = Instant::now();
    let (outcome, _) = host.shell("trap '' TERM INT HUP; b() { b | b & }; while :; do b; done", limits).await;
    assert!(matches!(outcome, Outcome::Failed { class: FailureClass::Infra, .. }), "{outcome:?}");
    assert!(before.elapsed() < Duration::from_secs(20));
    host.assert_healthy().await;

    // Detaches, twice forked, in a new session, without its marker; and pretends to be done.
    let detach = "(setsid env -i bash -c 'cd /; (trap \"\" TERM; while :; do sleep 0.1; done) & disown' &) ; sleep 0.3; echo done";
    let (outcome, _) = host.shell(detach, Limits::default()).await;
    artifacts(outcome);
    let sleepers =
        Command::new("pgrep").args(["-fc", "trap \"\" TERM; while :; do sleep 0.1"]).output().expect("pgrep runs");
    assert_eq!(String::from_utf8_lossy(&sleepers.stdout).trim(), "0", "nothing survives its attempt");
    host.assert_healthy().await;

    // Reads the state and the secret, looks at others' processes, and knocks at the door.
    let state = root.join("state").display().to_string();
    let pry = format!(
        "cat {state}/secret; ls -R {state}; cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep -c HIVE_ATTEMPT; ls {}; {} true",
        root.join("work").display(),
        knock(closed)
    );
    let (outcome, log) = host.shell(&pry, Limits::default()).await;
    artifacts(outcome);
    assert!(!log.contains("the-secret-of-the-hive") && !log.contains("blobs"), "{log}");
    assert!(log.contains(&format!("kept-out-of-{closed}")), "{log}");
    host.assert_healthy().await;

    // Says more than anybody wants to hear.
    let limits = Limits { log_max_bytes: 64 << 10, ..Limits::default() };
    let (outcome, log) = host.shell("head -c 200000000 /dev/zero | tr '\\0' x; echo; echo end", limits).await;
    artifacts(outcome);
    assert!(log.len() < 256 << 10, "{} bytes", log.len());
    host.assert_healthy().await;
    drop(host);
    drop(disk);
}

#[tokio::test]
async fn a_build_that_fills_the_disk_is_ended_at_its_limit() {
    const LIMIT_MB: u64 = 24;
    let directory = directory();
    let options = Options { attempt_disk_max_bytes: LIMIT_MB << 20, ..options(directory.path()) };
    let mut host = Host::with(directory, options, Privilege::Direct).await;
    assert!(host.executor.capabilities().cgroup, "files that were removed are found by its members");
    let fill = "dd if=/dev/zero bs=1M count=200 status=none";
    let scripts = [
        // One file, many, one that is hidden as well as it can be, in the home and in what stands for /tmp.
        format!("{fill} of=big; sleep 60"),
        "i=0; while [ $i -lt 20000 ]; do printf '%08192d' 1 >f$i; i=$((i+1)); done; sleep 60".to_owned(),
        format!("exec 3>gone; rm gone; {fill} >&3; sleep 60"),
        format!("mkdir -p ~/a/.b; (trap '' TERM; setsid {fill} of=$HOME/a/.b/c; sleep 60) & sleep 60"),
        format!("{fill} of=/tmp/big; sleep 60"),
        // Over before anybody looked.
        "dd if=/dev/zero bs=1M count=40 status=none of=big".to_owned(),
    ];
    for script in scripts {
        let began = Instant::now();
        let (outcome, log) = host.shell(&script, Limits::default()).await;
        let (class, reason, _) = failure(outcome);
        assert_eq!(class, FailureClass::Infra, "{script}: {reason} {log}");
        assert!(reason.starts_with("disk limit: ") && reason.contains("gives 24 "), "{script}: {reason}");
        assert!(log.contains("disk limit: "), "{log}");
        assert!(began.elapsed() < Duration::from_secs(45), "{script}: {:?}", began.elapsed());
    }
    let (outcome, log) =
        host.shell("dd if=/dev/zero bs=1M count=8 status=none of=small && ls -l", Limits::default()).await;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?} {log}");
    host.assert_healthy().await;
}
