//! The backends `portage` and `resolve` with a real Portage from the Python registry, in a root of its own.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Stdio};

use hive::engine::plan::{Plan, Planned, PlannedKind};
use hive::exec::format::{Caps, gpkg};
use hive::exec::portage::{Portage, tree_identity};
use hive::exec::signatures::Signatures;
use hive::exec::staging::{Incoming, Kind, Staging};
use hive::exec::{ExecError, SyncPolicy};

use super::*;
use crate::sample::Signer;

const TREE: &str = "Sat, 21 Nov 2026 00:45:01 +0000";

/// A drone with a tree and an empty root.
struct Drone {
    host: Host,
    place: PathBuf,
}

fn portage(atom: &str) -> Work {
    Work::Portage { atom: atom.to_owned(), tree: Some(TREE.to_owned()) }
}

impl Drone {
    async fn new(binhost: Option<&str>) -> Self {
        Self::trusting(binhost, None).await
    }

    /// One that takes only packages that are signed by these.
    async fn trusting(binhost: Option<&str>, signatures: Option<Signatures>) -> Self {
        Self::with(binhost, |options| options.signatures = signatures).await
    }

    /// One whose tree comes from a Git repository beside it, `upstream`, now and then.
    async fn syncing(policy: Option<SyncPolicy>) -> Self {
        require("git", "git");
        let drone = Self::with(None, |options| {
            options.sync = policy;
            let tree = options.portage.environment.get_mut("PORTAGE_REPOSITORIES").expect("a tree");
            let place = options.portage.program_dir.as_ref().and_then(|bin| bin.parent()?.parent()).expect("a place");
            let uri = place.join("upstream");
            *tree = tree.replace(
                "auto-sync = no",
                &format!("auto-sync = yes\nsync-type = git\nsync-uri = file://{}", uri.display()),
            );
        })
        .await;
        let (upstream, repo) = (drone.place.join("upstream"), drone.place.join("repo"));
        fs::rename(&repo, &upstream).expect("moves");
        git(&upstream, &["init", "-q", "-b", "main"]);
        drone.commit(TREE);
        let from = format!("file://{}", upstream.display());
        git(&drone.place, &["clone", "-q", &from, &repo.display().to_string()]);
        drone
    }

    /// The tree upstream is of this time from now on.
    fn commit(&self, time: &str) {
        let upstream = self.place.join("upstream");
        fs::write(upstream.join("metadata/timestamp.chk"), format!("{time}\n")).expect("writes");
        git(&upstream, &["add", "-A"]);
        git(&upstream, &["commit", "-q", "-m", time]);
    }

    fn tree(&self) -> Option<String> {
        tree_identity(&self.place.join("repo"))
    }

    /// Syncs, and answers how it ended and what was printed.
    async fn sync(&self) -> (Result<(), ExecError>, String) {
        let (sender, mut output) = mpsc::channel::<bytes::Bytes>(4);
        let read = async {
            let mut text = Vec::new();
            while let Some(chunk) = output.recv().await {
                text.extend_from_slice(&chunk);
            }
            String::from_utf8_lossy(&text).into_owned()
        };
        tokio::join!(self.host.executor.sync_trees(sender), read)
    }

    async fn with(binhost: Option<&str>, change: impl FnOnce(&mut Options)) -> Self {
        require_root();
        // Not below /tmp, which a sandbox replaces.
        let directory =
            tempfile::Builder::new().prefix("hive-test-").tempdir_in("/var/cache").expect("makes a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::create_dir(directory.path().join("state")).expect("mkdir");
        let place = directory.path().join("portage-itself");
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("portage");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portage.sh");
        let made = Command::new(script).arg(cache).arg(&place).output().expect("tests/portage.sh runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let portage = Portage {
            program_dir: Some(place.join("venv/bin")),
            environment: variables(&place),
            binhost: binhost.map(str::to_owned),
        };
        let mut options = Options { portage, ..options(directory.path()) };
        change(&mut options);
        Self { host: Host::with(directory, options, Privilege::Direct).await, place }
    }

    /// One more ebuild in its tree: the head that all have, and `body`.
    fn ebuild(&self, category: &str, name: &str, body: &str) {
        let directory = self.place.join("repo").join(category).join(name);
        fs::create_dir_all(&directory).expect("mkdir");
        let keywords = if body.contains("KEYWORDS=") { "" } else { "KEYWORDS=\"amd64\"\n" };
        let text = format!(
            "EAPI=8\nDESCRIPTION=\"a test\"\nHOMEPAGE=\"https://example.invalid/\"\nS=\"${{WORKDIR}}\"\nLICENSE=\"MIT\"\nSLOT=\"0\"\n{keywords}{body}\n"
        );
        fs::write(directory.join(format!("{name}-1.0.ebuild")), text).expect("writes");
    }

    /// Runs a job to its end: its events but the last, outcome and log.
    async fn job(&mut self, work: Work) -> (Outcome, String) {
        let build = self.host.start(work, Limits::default());
        let (_, outcome) = self.host.end().await;
        let log = self.host.log(&build).await;
        self.assert_nothing_is_left(&build);
        (outcome, log)
    }

    async fn refused(&mut self, work: Work) -> (FailureClass, String) {
        let (outcome, _) = self.job(work).await;
        let (class, reason, _) = failure(outcome);
        (class, reason)
    }

    fn assert_nothing_is_left(&self, build: &Build) {
        self.host.assert_nothing_is_left(build);
        let place = self.host.options.work_dir.with_file_name("portage").join(build.token.to_string());
        assert!(!place.exists(), "{} is still there", place.display());
        let left: Vec<PathBuf> = working_below(&place);
        assert!(left.is_empty(), "{left:?} still work there");
    }

    fn file(&self, artifact: &Artifact) -> fs::File {
        self.host.store.open_verified(artifact.sha256).expect("stored").0
    }

    /// The hive's staging directory with these results, and what Portage says of its index.
    fn staging(&self, artifacts: &[&Artifact]) -> PathBuf {
        let staging = Staging::open(&self.place.join("staging"), None, None).expect("opens");
        for artifact in artifacts {
            let incoming = Incoming { name: artifact.name.clone(), sha256: artifact.sha256, file: self.file(artifact) };
            staging.put(JobId(uuid::Uuid::new_v4()), Kind::Portage, vec![incoming]).expect("puts");
        }
        staging.write_indexes().expect("writes");
        let directory = staging.root().join("portage/amd64");
        let mut index = Command::new(self.place.join("venv/bin/emaint"));
        index.args(["binhost", "--check"]).env_clear().envs(variables(&self.place)).env("PKGDIR", &directory);
        let done = index.env("PATH", "/usr/bin:/bin").output().expect("emaint runs");
        let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success() && !said.contains("not in") && !said.contains("ndex"), "{said}");
        directory
    }
}

fn git(directory: &Path, arguments: &[&str]) {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=test", "-c", "user.email=test@example.invalid"]).args(arguments);
    let done = git.current_dir(directory).output().expect("git runs");
    assert!(done.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn variables(place: &Path) -> BTreeMap<String, String> {
    let text = |name: &str| place.join(name).to_string_lossy().into_owned();
    let tree = format!("[DEFAULT]\nmain-repo = tiny\n[tiny]\nlocation = {}\nauto-sync = no\n", text("repo"));
    [
        ("EPREFIX", String::new()),
        ("ROOT", text("root")),
        ("SYSROOT", text("root")),
        ("PORTAGE_CONFIGROOT", text("config")),
        ("EMERGE_LOG_DIR", text("log")),
        ("DISTDIR", text("dist")),
        ("PORTAGE_REPOSITORIES", tree),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Working directories of processes that are inside.
fn working_below(place: &Path) -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc").expect("proc").flatten();
    processes
        .filter_map(|process| fs::read_link(process.path().join("cwd")).ok())
        .filter(|cwd| cwd.starts_with(place))
        .collect()
}

fn artifacts(outcome: &Outcome, log: &str) -> Vec<Artifact> {
    let Outcome::Succeeded { artifacts } = outcome else { panic!("{outcome:?}\n{log}") };
    artifacts.clone()
}

/// Serves a directory on a port of the loopback that was free.
struct Served {
    child: Child,
    url: String,
}

impl Served {
    async fn start(directory: &Path) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = free.local_addr().expect("address").port();
        drop(free);
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()]).current_dir(directory);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("python3 runs");
        until("it serves", || std::net::TcpStream::connect(("127.0.0.1", port)).ok()).await;
        Self { child, url: format!("http://127.0.0.1:{port}/") }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test]
async fn a_package_is_resolved_built_with_what_it_needs_and_checked() {
    let mut drone = Drone::new(None).await;
    let resolve = Work::Resolve { targets: vec!["app-misc/hello-swarm".to_owned()], empty_tree: false };
    let (outcome, log) = drone.job(resolve).await;
    let plan = artifacts(&outcome, &log);
    assert_eq!(plan[0].name, "plan.json");
    let mut json = Vec::new();
    std::io::Read::read_to_end(&mut drone.file(&plan[0]), &mut json).expect("reads");
    let plan = Plan::read(&json).expect("a plan");
    assert_eq!(plan.tree, TREE);
    let atoms: Vec<String> = plan.packages.iter().map(Planned::atom).collect();
    assert_eq!(atoms, ["=dev-libs/libswarm-1.0:0::tiny", "=app-misc/hello-swarm-1.0:0::tiny"]);
    assert_eq!((plan.packages[0].needs.len(), plan.packages[1].needs.as_slice()), (0, [0].as_slice()));
    assert_eq!(plan.packages[1].uses, ["shout"]);

    let (outcome, log) = drone.job(portage("=app-misc/hello-swarm-1.0:0::tiny")).await;
    let built = artifacts(&outcome, &log);
    let names: Vec<&str> = built.iter().map(|artifact| artifact.name.as_str()).collect();
    assert_eq!(names, ["hello-swarm-1.0-1.gpkg.tar"], "only the target's:\n{log}");
    let package = gpkg::verify(&mut drone.file(&built[0]), Caps::default()).expect("whole");
    assert_eq!(
        (package.category.as_str(), package.pf.as_str(), package.slot.as_str()),
        ("app-misc", "hello-swarm-1.0", "0")
    );
    assert_eq!((package.build_id, package.signed), (Some(1), false));
    assert_eq!(package.metadata["RDEPEND"], ">=dev-libs/libswarm-1.0");
    assert!(package.metadata["USE"].split(' ').any(|flag| flag == "shout"));
    assert!(log.contains(">>> Compiling source") && log.contains(TREE), "{log}");
    assert!(drone.place.join("root/usr/bin/hello-swarm").exists(), "and installed where it was told to");
    assert!(!drone.place.join("pkgs/app-misc").exists(), "nothing goes to the host's own package directory");

    // Again: what it needs is there already, and the package is built anew.
    let (outcome, log) = drone.job(portage("app-misc/hello-swarm")).await;
    assert_eq!(artifacts(&outcome, &log).len(), 1);
    assert!(!log.contains("Emerging (1 of 2)"), "{log}");
}

#[tokio::test]
async fn a_second_drone_installs_what_the_first_built_and_refuses_it_when_damaged() {
    let mut first = Drone::new(None).await;
    let (outcome, log) = first.job(portage("dev-libs/libswarm")).await;
    let built = artifacts(&outcome, &log);
    let staging = first.staging(&[&built[0]]);
    let served = Served::start(&staging).await;

    let mut second = Drone::new(Some(&served.url)).await;
    let resolve = Work::Resolve { targets: vec!["app-misc/hello-swarm".to_owned()], empty_tree: true };
    let (outcome, log) = second.job(resolve).await;
    let mut json = Vec::new();
    std::io::Read::read_to_end(&mut second.file(&artifacts(&outcome, &log)[0]), &mut json).expect("reads");
    let kinds: Vec<PlannedKind> = Plan::read(&json).expect("a plan").packages.iter().map(|one| one.kind).collect();
    assert_eq!(kinds, [PlannedKind::Binary, PlannedKind::Ebuild], "{log}");

    let (outcome, log) = second.job(portage("app-misc/hello-swarm")).await;
    let names: Vec<String> = artifacts(&outcome, &log).into_iter().map(|artifact| artifact.name).collect();
    assert_eq!(names, ["hello-swarm-1.0-1.gpkg.tar"]);
    assert!(log.contains("Emerging binary (1 of 2) dev-libs/libswarm-1.0"), "{log}");
    assert!(second.place.join("root/usr/lib64/libswarm.so.1").exists());

    let file = staging.join("dev-libs/libswarm/libswarm-1.0-1.gpkg.tar");
    let package = OpenOptions::new().write(true).open(&file).expect("opens");
    package.write_all_at(b"evil", 3_000).expect("writes");
    let mut third = Drone::new(Some(&served.url)).await;
    let (class, reason) = third.refused(portage("app-misc/hello-swarm")).await;
    assert_eq!(class, FailureClass::Infra, "{reason}");
    assert!(reason.contains("damaged"), "{reason}");
    assert!(!third.place.join("root/usr/lib64/libswarm.so.1").exists());
}

/// Makes the Portage of a drone sign what it packs, and leave the checking to hive.
fn sign(drone: &Drone, signer: &Signer, key: &str) {
    let conf = drone.place.join("config/etc/portage/make.conf");
    let mut text = fs::read_to_string(&conf).unwrap_or_default();
    let home = signer.home.path().display();
    text.push_str(&format!(
        "\nFEATURES=\"${{FEATURES}} binpkg-signing binpkg-ignore-signature\"\nBINPKG_GPG_SIGNING_GPG_HOME=\"{home}\"\nBINPKG_GPG_SIGNING_KEY=\"{key}\"\n"
    ));
    fs::write(&conf, text).expect("writes");
}

#[tokio::test]
async fn what_portage_signed_counts_where_its_key_is_trusted_and_nowhere_else() {
    let (ours, others) = (Signer::new("ours"), Signer::new("others"));
    let trust = |signer: &Signer| Some(Signatures::open(&signer.keys(), true).expect("keys"));
    let mut drone = Drone::trusting(None, trust(&ours)).await;
    let (class, reason) = drone.refused(portage("dev-libs/libswarm")).await;
    assert_eq!(class, FailureClass::Infra, "{reason}");
    assert!(reason.contains("not signed"), "{reason}");

    sign(&drone, &ours, "ours@example.invalid");
    let (outcome, log) = drone.job(portage("dev-libs/libswarm")).await;
    let built = artifacts(&outcome, &log);
    let package = gpkg::verify(&mut drone.file(&built[0]), Caps::default()).expect("whole");
    assert!(package.signed, "{log}");
    let incoming = || {
        let file = drone.file(&built[0]);
        vec![Incoming { name: built[0].name.clone(), sha256: built[0].sha256, file }]
    };
    for (signer, taken) in [(&ours, true), (&others, false)] {
        let staging = drone.place.join(format!("staging-{taken}"));
        let staging = Staging::open(&staging, None, trust(signer)).expect("opens");
        let put = staging.put(JobId(uuid::Uuid::new_v4()), Kind::Portage, incoming());
        assert_eq!(put.is_ok(), taken, "{put:?}");
    }

    let mut stranger = Drone::trusting(None, trust(&others)).await;
    sign(&stranger, &ours, "ours@example.invalid");
    let (class, reason) = stranger.refused(portage("dev-libs/libswarm")).await;
    assert_eq!(class, FailureClass::Infra, "{reason}");
    assert!(reason.contains("a key that is not trusted here"), "{reason}");
}

#[tokio::test]
async fn what_cannot_be_built_is_policy_and_says_why() {
    let mut drone = Drone::new(None).await;
    drone.ebuild("app-misc", "masked", "");
    drone.ebuild("app-misc", "keyworded", "KEYWORDS=\"~amd64\"");
    drone.ebuild("app-misc", "needs-nothing", "RDEPEND=\"dev-libs/nothing-here\"");
    drone.ebuild("app-misc", "cycle-a", "DEPEND=\"app-misc/cycle-b\"");
    drone.ebuild("app-misc", "cycle-b", "DEPEND=\"app-misc/cycle-a\"");
    fs::write(drone.place.join("repo/profiles/package.mask"), "app-misc/masked\n").expect("writes");
    for (atom, said) in [
        ("app-misc/helo-swarm", "the nearest are app-misc/hello-swarm"),
        ("=app-misc/hello-swarm-9", "no package in the tree fits =app-misc/hello-swarm-9"),
        ("app-misc/masked", "app-misc/masked is masked: package.mask"),
        ("app-misc/keyworded", "~amd64 keyword"),
        ("app-misc/needs-nothing", "dev-libs/nothing-here (needed by app-misc/needs-nothing-1.0::tiny)"),
        ("app-misc/cycle-a", "app-misc/cycle-b-1.0 → app-misc/cycle-a-1.0 → app-misc/cycle-b-1.0"),
    ] {
        let (class, reason) = drone.refused(portage(atom)).await;
        assert!(class == FailureClass::Policy && reason.contains(said), "{atom}: {class:?} {reason}");
        let resolve = Work::Resolve { targets: vec![atom.to_owned()], empty_tree: false };
        let (class, reason) = drone.refused(resolve).await;
        assert!(class == FailureClass::Policy && reason.contains(said), "resolving {atom}: {class:?} {reason}");
    }
    let other = Work::Portage { atom: "app-misc/hello-swarm".to_owned(), tree: Some("another".to_owned()) };
    let (class, reason) = drone.refused(other).await;
    assert_eq!(class, FailureClass::Infra);
    assert!(reason.contains("emerge --sync") && reason.contains(TREE), "{reason}");
}

#[tokio::test]
async fn a_failing_ebuild_is_the_packages_fault_and_names_its_phase() {
    let mut drone = Drone::new(None).await;
    drone.ebuild("app-misc", "broken", "src_compile() { echo 'x.c:1: error: expected ;'; die 'it does not compile'; }");
    drone.ebuild("app-misc", "escaping", "src_install() { dosym ../../../../etc/passwd /usr/escape; }");
    let (outcome, log) = drone.job(portage("app-misc/broken")).await;
    let (class, reason, code) = failure(outcome);
    assert_eq!((class, code), (FailureClass::Build, Some(1)), "{reason}");
    assert_eq!(reason, "app-misc/broken-1.0::tiny failed in its compile phase: it does not compile");
    assert!(log.contains("x.c:1: error: expected ;"), "{log}");
    let (class, reason) = drone.refused(portage("app-misc/escaping")).await;
    assert!(class == FailureClass::Policy && reason.contains("out of the package"), "{class:?} {reason}");
}

#[tokio::test]
async fn a_phase_that_ignores_sigterm_is_ended_within_five_seconds() {
    let mut drone = Drone::new(None).await;
    let body = "src_compile() { trap '' TERM INT HUP; echo stubborn as they come; (trap '' TERM; while :; do read -t 1 < <(:); done) & while :; do read -t 1 < <(:); done; }";
    drone.ebuild("app-misc", "stubborn", body);
    let build = drone.host.start(portage("app-misc/stubborn"), Limits::default());
    drone.host.wait_for_log(&build, "stubborn as they come").await;
    let before = Instant::now();
    build.stop(StopReason::Cancelled("an operator".to_owned()));
    let (_, outcome) = drone.host.end().await;
    assert_eq!(failure(outcome).0, FailureClass::Cancelled);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    drone.assert_nothing_is_left(&build);
    // The next one works.
    let (outcome, log) = drone.job(portage("dev-libs/libswarm")).await;
    assert_eq!(artifacts(&outcome, &log).len(), 1);
}

/// Seldom, so that a second one is refused.
const SELDOM: SyncPolicy = SyncPolicy { interval: Duration::from_secs(3_600), timeout: Duration::from_secs(60) };

#[tokio::test]
async fn a_drone_with_another_tree_syncs_and_then_builds_what_only_the_new_one_has() {
    const NEXT: &str = "Sun, 22 Nov 2026 00:45:01 +0000";
    let next = |atom: &str| Work::Portage { atom: atom.to_owned(), tree: Some(NEXT.to_owned()) };
    let mut drone = Drone::syncing(Some(SELDOM)).await;
    assert_eq!(drone.tree().as_deref(), Some(TREE));
    let upstream = drone.place.join("upstream/app-misc");
    fs::create_dir_all(upstream.join("late")).expect("mkdir");
    let late = "EAPI=8\nDESCRIPTION=\"a test\"\nHOMEPAGE=\"https://example.invalid/\"\nS=\"${WORKDIR}\"\nLICENSE=\"MIT\"\nSLOT=\"0\"\nKEYWORDS=\"amd64\"\n";
    fs::write(upstream.join("late/late-1.0.ebuild"), late).expect("writes");
    drone.commit(NEXT);
    let (class, reason) = drone.refused(next("app-misc/late")).await;
    assert_eq!(class, FailureClass::Infra, "{reason}");
    assert!(reason.contains(&format!("resolved with tree {NEXT}, but this node has {TREE}")), "{reason}");

    // Never under a build: it waits for its next time, which is not counted.
    let build = drone.host.start_shell("echo builds now; sleep 60", Limits::default());
    drone.host.wait_for_log(&build, "builds now").await;
    let (refused, said) = drone.sync().await;
    assert!(matches!(refused, Err(ExecError::Busy)), "{refused:?} {said}");
    build.stop(StopReason::Superseded);
    drone.host.end().await;

    // What begins meanwhile waits for its end, and finds the new tree.
    let executor = drone.host.executor.clone();
    let (sender, mut output) = mpsc::channel::<bytes::Bytes>(4);
    let syncing = tokio::spawn(async move { executor.sync_trees(sender).await });
    let mut said = output.recv().await.expect("it says something").to_vec();
    let build = drone.host.start(next("app-misc/late"), Limits::default());
    while let Some(chunk) = output.recv().await {
        said.extend_from_slice(&chunk);
    }
    let (synced, said) = (syncing.await.expect("joins"), String::from_utf8_lossy(&said).into_owned());
    assert!(synced.is_ok(), "{synced:?}\n{said}");
    assert!(said.contains("Syncing repository 'tiny'"), "{said}");
    assert_eq!(drone.tree().as_deref(), Some(NEXT), "{said}");
    let (_, outcome) = drone.host.end().await;
    let log = drone.host.log(&build).await;
    assert_eq!(artifacts(&outcome, &log)[0].name, "late-1.0-1.gpkg.tar");

    let (again, _) = drone.sync().await;
    assert!(again.expect_err("too soon").to_string().contains("portage_sync_interval_s"));
}

#[tokio::test]
async fn a_sync_that_fails_or_takes_too_long_says_so_and_leaves_the_tree() {
    let drone = Drone::syncing(Some(SELDOM)).await;
    let upstream = drone.place.join("upstream");
    fs::rename(&upstream, drone.place.join("away")).expect("moves");
    let (failed, said) = drone.sync().await;
    let why = failed.expect_err("there is nothing to sync with").to_string();
    assert!(why.contains("emerge --sync: ") && why.contains("upstream"), "{why}\n{said}");
    assert_eq!(drone.tree().as_deref(), Some(TREE));

    let drone = Drone::syncing(Some(SyncPolicy { timeout: Duration::from_millis(1), ..SELDOM })).await;
    let (slow, _) = drone.sync().await;
    assert!(slow.expect_err("nobody is so fast").to_string().contains("it took longer than 0 s"));
    assert!(working_below(&drone.place).is_empty(), "nothing of it goes on");

    let never = Drone::syncing(None).await;
    let (refused, _) = never.sync().await;
    assert!(refused.expect_err("switched off").to_string().contains("build.portage_sync"));
}
