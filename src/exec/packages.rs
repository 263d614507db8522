//! Installing the packages of a role with the machine's own package manager, and checking that the machine is fit for the role.
//!
//! ```text
//!   names ──checked──► Plan ──argv──► Runner (this process, or hive-helper as root) ──output──► log
//!                                        │
//!                                        └──► off · dry-run · installed · failed: reason
//! ```
//!
//! What is run is decided by pure functions ([`query`], [`simulate`], [`install`], [`refresh`], [`repair`]); [`apply`] only walks through
//! them. Names are checked against their grammar first, so that none can be an option, a path or a version. Never done here:
//! choosing packages, running a shell, removing or upgrading anything.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::sync::{Notify, mpsc};

use crate::engine::role::Family;
use crate::exec::SAFE_PATH;
use crate::exec::inventory::probe;

/// Most packages in one request: build dependencies of a large source package.
const PACKAGES_MAX: usize = 512;
/// Installing may compile (Portage) or wait for another package manager's lock.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(6 * 3_600);
/// Fetching package lists over a slow line.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(600);
/// Asking what is there. Portage computes dependencies for a while on a slow machine.
const QUERY_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest line handed to the log, bytes; the rest of a longer one follows as lines of their own.
const LINE_MAX_BYTES: usize = 4_096;
/// Output kept of a command, to find out why it failed and what it would do.
const OUTPUT_KEPT_BYTES: usize = 256 << 10;
/// What a program that has ended may still bring: its last words are in the pipe already, and a service that a package started
/// may hold the pipe open for ever.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);
/// Lines on their way to the log; a slow log slows the package manager down, it does not use memory.
const LINES_WAITING: usize = 256;
/// Longest reason, characters.
const REASON_MAX_CHARS: usize = 300;
/// What apt waits for another package manager.
const APT_LOCK_TIMEOUT: &str = "DPkg::Lock::Timeout=300";

/// What to do about packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Nothing.
    Off,
    /// Ask the package manager what it would do, and report that.
    #[default]
    DryRun,
    /// Install what is missing.
    On,
}

/// How it ended. As text: the `packages_state` of `identity.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PackagesState {
    /// Nothing was done.
    Off,
    /// This would be installed, dependencies included; nothing was.
    DryRun(Vec<String>),
    /// Everything is there; these were missing before.
    Installed(Vec<String>),
    /// It did not work; one sentence.
    Failed(String),
}

impl fmt::Display for PackagesState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::DryRun(_) => f.write_str("dry-run"),
            Self::Installed(_) => f.write_str("installed"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

/// One run of a package manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invocation {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Set in an otherwise clean environment.
    pub env: Vec<(String, String)>,
    /// Wall clock, milliseconds.
    pub timeout_ms: u64,
}

/// How one run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Exit code; none when a signal ended it.
    pub exit_code: Option<i32>,
    /// The end of its output, both streams together.
    pub output: String,
}

/// Where output goes, line by line, without line ends.
pub type LogLine<'a> = &'a mut (dyn FnMut(&str) + Send);

/// Who runs the package manager: this process when it may, `hive-helper` otherwise.
pub trait Runner: Send + Sync {
    /// Runs one command to its end. An error means that it could not be run or was given up.
    fn run<'a>(&'a self, invocation: &'a Invocation, log: LogLine<'a>) -> BoxFuture<'a, io::Result<Finished>>;
}

fn invocation(words: &[&str], packages: &[String], env: &[(&str, &str)], timeout: Duration) -> Invocation {
    let argv = words.iter().map(|word| (*word).to_owned()).chain(packages.iter().cloned()).collect();
    let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Invocation { argv, env, timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX) }
}

const APT_ENV: &[(&str, &str)] =
    &[("DEBIAN_FRONTEND", "noninteractive"), ("APT_LISTCHANGES_FRONTEND", "none"), ("NEEDRESTART_MODE", "l")];
const EMERGE_ENV: &[(&str, &str)] = &[("NOCOLOR", "true"), ("CLEAN_DELAY", "0")];

/// Refuses names that do not fit the grammar of the distribution family.
pub fn check_names(family: Family, packages: &[String]) -> Result<(), String> {
    if packages.len() > PACKAGES_MAX {
        return Err(format!("{} packages, expected at most {PACKAGES_MAX}", packages.len()));
    }
    match packages.iter().find(|name| !family.accepts_package(name)) {
        Some(bad) => Err(format!("{bad:?} is no package name")),
        None => Ok(()),
    }
}

/// Asks which packages are installed; none where installing leaves out by itself what is there.
pub fn query(family: Family, packages: &[String]) -> Option<Invocation> {
    let dpkg = ["dpkg-query", "-W", "-f=${Package}\\t${db:Status-Status}\\n", "--"];
    match family {
        Family::Debian => Some(invocation(&dpkg, packages, &[], QUERY_TIMEOUT)),
        Family::Gentoo => None,
    }
}

/// Asks what installing would do.
pub fn simulate(family: Family, packages: &[String]) -> Invocation {
    match family {
        Family::Debian => {
            let words = ["apt-get", "-s", "install", "-y", "--no-install-recommends", "--"];
            invocation(&words, packages, APT_ENV, QUERY_TIMEOUT)
        }
        Family::Gentoo => {
            let words = ["emerge", "--pretend", "--noreplace", "--quiet", "--color=n"];
            invocation(&words, packages, EMERGE_ENV, QUERY_TIMEOUT)
        }
    }
}

/// Installs.
pub fn install(family: Family, packages: &[String]) -> Invocation {
    match family {
        Family::Debian => {
            let lock = ["-o", APT_LOCK_TIMEOUT, "-o", "Dpkg::Options::=--force-confold"];
            let words = [&["apt-get", "install", "-y", "--no-install-recommends"], &lock[..], &["--"]].concat();
            invocation(&words, packages, APT_ENV, INSTALL_TIMEOUT)
        }
        Family::Gentoo => {
            let words = ["emerge", "--noreplace", "--quiet", "--quiet-build=y", "--ask=n", "--color=n"];
            invocation(&words, packages, EMERGE_ENV, INSTALL_TIMEOUT)
        }
    }
}

/// Fetches the package lists anew; none where that is the operator's business.
pub fn refresh(family: Family) -> Option<Invocation> {
    let words = ["apt-get", "update", "-o", APT_LOCK_TIMEOUT];
    match family {
        Family::Debian => Some(invocation(&words, &[], APT_ENV, REFRESH_TIMEOUT)),
        Family::Gentoo => None,
    }
}

/// Finishes what an installation left half done: a machine that lost power in the middle of one, a script that failed because the
/// machine was not ready for it. None where the package manager begins anew by itself.
pub fn repair(family: Family) -> Option<Invocation> {
    let words = ["dpkg", "--force-confold", "--configure", "-a"];
    match family {
        Family::Debian => Some(invocation(&words, &[], APT_ENV, INSTALL_TIMEOUT)),
        Family::Gentoo => None,
    }
}

/// Which of the packages the answer to [`query`] does not call installed.
fn missing(packages: &[String], answer: &str) -> Vec<String> {
    let installed: BTreeSet<&str> = answer
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(_, s)| *s == "installed")
        .map(|(n, _)| n)
        .collect();
    packages.iter().filter(|name| !installed.contains(name.as_str())).cloned().collect()
}

/// What the answer to [`simulate`] says would be installed.
fn would_install(family: Family, answer: &str) -> Vec<String> {
    let name = |line: &str| match family {
        Family::Debian => Some(line.strip_prefix("Inst ")?.split_whitespace().next()?.to_owned()),
        Family::Gentoo => {
            let rest =
                line.trim_start().strip_prefix("[ebuild").or_else(|| line.trim_start().strip_prefix("[binary"))?;
            Some(rest.split_once(']')?.1.split_whitespace().next()?.to_owned())
        }
    };
    answer.lines().filter_map(name).collect()
}

/// Whether the lists do not know a package, or know a file that is not there any more.
fn lists_are_stale(family: Family, output: &str) -> bool {
    let signs = ["Unable to locate package", "has no installation candidate", "Unable to fetch some archives"];
    family == Family::Debian && signs.iter().any(|sign| output.contains(sign))
}

/// Whether packages are unpacked that are not configured.
fn is_half_done(family: Family, output: &str) -> bool {
    let signs = ["dpkg was interrupted", "dpkg: error processing", "Sub-process /usr/bin/dpkg returned an error code"];
    family == Family::Debian && signs.iter().any(|sign| output.contains(sign))
}

/// The most telling line of what a failed command said.
fn reason(program: &str, finished: &Finished) -> String {
    let lines = || finished.output.lines().map(str::trim).filter(|line| !line.is_empty());
    let telling =
        |line: &&str| line.starts_with("E: ") || line.starts_with("!!! ") || line.contains("there are no ebuilds");
    // apt says only that dpkg failed; dpkg names the package, and on the next line what was wrong with it.
    let dpkg =
        lines().skip_while(|line| !line.starts_with("dpkg: error processing")).take(2).collect::<Vec<_>>().join(" ");
    let told = lines().find(telling).or_else(|| lines().next_back()).unwrap_or("it said nothing");
    let told = if dpkg.is_empty() { told } else { &dpkg };
    let how = finished.exit_code.map_or_else(|| "ended by a signal".to_owned(), |code| format!("exit code {code}"));
    let told = ["E: ", "!!! ", "emerge: "].iter().find_map(|mark| told.strip_prefix(mark)).unwrap_or(told);
    shortened(&format!("{program}: {told} ({how})"))
}

fn shortened(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_MAX_CHARS).collect()
}

/// Brings the packages of a role onto this machine, as far as the mode allows. A machine of no known family can only have none.
pub async fn apply(
    mode: Mode,
    family: Option<Family>,
    packages: &[String],
    runner: &dyn Runner,
    log: LogLine<'_>,
) -> PackagesState {
    if mode == Mode::Off {
        return PackagesState::Off;
    }
    let nothing = match mode {
        Mode::DryRun => PackagesState::DryRun(vec![]),
        Mode::Off | Mode::On => PackagesState::Installed(vec![]),
    };
    if packages.is_empty() {
        return nothing;
    }
    let Some(family) = family else {
        return PackagesState::Failed("no package manager that hive knows on this distribution".to_owned());
    };
    let outcome = async {
        check_names(family, packages)?;
        let needed = match query(family, packages) {
            // dpkg-query fails when it knows one of the names not at all; what it prints is right all the same.
            Some(query) => missing(packages, &run(runner, &query, log).await?.output),
            None => packages.to_vec(),
        };
        if needed.is_empty() {
            return Ok(nothing);
        }
        match mode {
            Mode::On => install_now(family, &needed, runner, log).await.map(|()| PackagesState::Installed(needed)),
            Mode::Off | Mode::DryRun => pretend(family, &needed, runner, log).await,
        }
    };
    outcome.await.unwrap_or_else(PackagesState::Failed)
}

async fn run(runner: &dyn Runner, invocation: &Invocation, log: LogLine<'_>) -> Result<Finished, String> {
    log(&format!("+ {}", invocation.argv.join(" ")));
    let program = invocation.argv.first().map(String::as_str).unwrap_or_default();
    runner.run(invocation, log).await.map_err(|error| shortened(&format!("{program}: {error}")))
}

async fn pretend(
    family: Family,
    packages: &[String],
    runner: &dyn Runner,
    log: LogLine<'_>,
) -> Result<PackagesState, String> {
    let simulate = simulate(family, packages);
    let finished = run(runner, &simulate, log).await?;
    if finished.exit_code == Some(0) {
        return Ok(PackagesState::DryRun(would_install(family, &finished.output)));
    }
    let hint =
        if lists_are_stale(family, &finished.output) { "; a real run would fetch the package lists first" } else { "" };
    Err(format!("{}{hint}", reason(&simulate.argv[0], &finished)))
}

async fn install_now(family: Family, packages: &[String], runner: &dyn Runner, log: LogLine<'_>) -> Result<(), String> {
    let install = install(family, packages);
    let mut finished = run(runner, &install, log).await?;
    let stale = finished.exit_code != Some(0) && lists_are_stale(family, &finished.output);
    if let Some(refresh) = refresh(family).filter(|_| stale) {
        let refreshed = run(runner, &refresh, log).await?;
        if refreshed.exit_code != Some(0) {
            return Err(reason("apt-get update", &refreshed));
        }
        finished = run(runner, &install, log).await?;
    }
    let half_done = finished.exit_code != Some(0) && is_half_done(family, &finished.output);
    if let Some(repair) = repair(family).filter(|_| half_done) {
        let repaired = run(runner, &repair, log).await?;
        if repaired.exit_code != Some(0) {
            return Err(reason("dpkg --configure -a", &repaired));
        }
        finished = run(runner, &install, log).await?;
    }
    if finished.exit_code == Some(0) { Ok(()) } else { Err(reason(&install.argv[0], &finished)) }
}

/// Runs commands in this process, with its rights.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalRunner;

impl Runner for LocalRunner {
    fn run<'a>(&'a self, invocation: &'a Invocation, log: LogLine<'a>) -> BoxFuture<'a, io::Result<Finished>> {
        Box::pin(run_here(invocation, log))
    }
}

async fn run_here(invocation: &Invocation, log: LogLine<'_>) -> io::Result<Finished> {
    let (program, arguments) = invocation.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = probe::clean_command(program);
    command.args(arguments).envs(invocation.env.iter().map(|(key, value)| (key, value)));
    // Maintainer scripts expect a home that exists, and the system's own programs whatever this process was started with.
    command.env("HOME", "/root").env("PATH", SAFE_PATH).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut group = probe::Group::of(&child);
    let (lines, mut incoming) = mpsc::channel::<String>(LINES_WAITING);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let all = async {
        let mut kept = String::new();
        let collect = async {
            while let Some(line) = incoming.recv().await {
                log(&line);
                kept.push_str(&line);
                kept.push('\n');
                if kept.len() > OUTPUT_KEPT_BYTES {
                    let mut start = kept.len() - OUTPUT_KEPT_BYTES / 2;
                    while !kept.is_char_boundary(start) {
                        start += 1;
                    }
                    kept.drain(..start);
                }
            }
        };
        let ended = Notify::new();
        let status = async {
            let status = child.wait().await;
            // Services that a maintainer script started have sessions of their own; what is left in the group is debris.
            group.finish();
            ended.notify_one();
            status
        };
        let errors = lines.clone();
        let streams = async move { tokio::join!(forward(stdout, lines), forward(stderr, errors)) };
        let listen = async {
            tokio::select! {
                _ = streams => {}
                () = async { ended.notified().await; tokio::time::sleep(LAST_WORDS_TIMEOUT).await } => {}
            }
        };
        let (status, (), ()) = tokio::join!(status, listen, collect);
        Ok(Finished { exit_code: status?.code(), output: kept })
    };
    let timeout = Duration::from_millis(invocation.timeout_ms);
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("given up after {} s", timeout.as_secs()));
    tokio::time::timeout(timeout, all).await.map_err(|_| late())?
}

/// Cuts a stream into lines. A read error ends it as its end would: the exit code tells how the program fared.
async fn forward(stream: Option<impl AsyncRead + Unpin>, lines: mpsc::Sender<String>) {
    let Some(stream) = stream else { return };
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader).take(LINE_MAX_BYTES as u64).read_until(b'\n', &mut line).await;
        if !matches!(read, Ok(1..)) {
            return;
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']);
        let text = text.rsplit('\r').next().unwrap_or(text);
        if lines.send(text.to_owned()).await.is_err() {
            return;
        }
    }
}

/// Runs the health check of a role. `Ok` when there is none or it succeeded; otherwise one sentence.
pub async fn health_check(argv: &[String], timeout: Duration) -> Result<(), String> {
    let Some((program, arguments)) = argv.split_first() else { return Ok(()) };
    let limits = probe::Limits { timeout, output_max_bytes: LINE_MAX_BYTES };
    let answer = probe::ask(Path::new(program), arguments, limits).await;
    let answer = answer.map_err(|error| shortened(&format!("{program}: {error}")))?;
    if answer.exit_code == Some(0) {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&answer.stderr).into_owned();
    Err(reason(program, &Finished { exit_code: answer.exit_code, output }))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Answers as recorded, in order, and remembers what was run.
    struct Recorded {
        answers: Mutex<Vec<(i32, &'static str)>>,
        ran: Mutex<Vec<String>>,
    }

    impl Recorded {
        fn new(answers: &[(i32, &'static str)]) -> Self {
            Self { answers: Mutex::new(answers.iter().rev().copied().collect()), ran: Mutex::default() }
        }

        fn ran(&self) -> Vec<String> {
            self.ran.lock().expect("not poisoned").clone()
        }
    }

    impl Runner for Recorded {
        fn run<'a>(&'a self, invocation: &'a Invocation, log: LogLine<'a>) -> BoxFuture<'a, io::Result<Finished>> {
            self.ran.lock().expect("not poisoned").push(invocation.argv.join(" "));
            let (code, output) = self.answers.lock().expect("not poisoned").pop().expect("one answer per run");
            output.lines().for_each(log);
            Box::pin(std::future::ready(Ok(Finished { exit_code: Some(code), output: output.to_owned() })))
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    async fn debian(mode: Mode, packages: &[&str], runner: &Recorded) -> PackagesState {
        apply(mode, Some(Family::Debian), &names(packages), runner, &mut |_| {}).await
    }

    const GIT_IS_THERE: (i32, &str) =
        (1, "git\tinstalled\nmaven\tconfig-files\ndpkg-query: no packages found matching ansible\n");

    #[tokio::test]
    async fn only_what_is_missing_is_installed() {
        let runner = Recorded::new(&[GIT_IS_THERE, (0, "Setting up ansible\n")]);
        let state = debian(Mode::On, &["ansible", "git", "maven"], &runner).await;
        assert_eq!(state, PackagesState::Installed(names(&["ansible", "maven"])));
        assert_eq!(state.to_string(), "installed");
        assert_eq!(
            runner.ran(),
            [
                "dpkg-query -W -f=${Package}\\t${db:Status-Status}\\n -- ansible git maven",
                "apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold -- ansible maven",
            ]
        );
        let env = install(Family::Debian, &[]).env;
        assert!(env.contains(&("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned())));

        let runner = Recorded::new(&[(0, "git\tinstalled\n")]);
        assert_eq!(debian(Mode::On, &["git"], &runner).await, PackagesState::Installed(vec![]));
    }

    #[tokio::test]
    async fn lists_that_do_not_know_a_package_are_fetched_once() {
        let unknown = (100, "Reading package lists...\nE: Unable to locate package ansible\n");
        let runner = Recorded::new(&[(1, ""), unknown, (0, ""), (0, "")]);
        assert_eq!(debian(Mode::On, &["ansible"], &runner).await.to_string(), "installed");
        assert_eq!(runner.ran()[2], "apt-get update -o DPkg::Lock::Timeout=300");

        let runner = Recorded::new(&[(1, ""), unknown, (0, ""), unknown]);
        let state = debian(Mode::On, &["ansible"], &runner).await;
        assert_eq!(state.to_string(), "failed: apt-get: Unable to locate package ansible (exit code 100)");

        let runner = Recorded::new(&[(1, ""), unknown, (100, "E: no network\n")]);
        let state = debian(Mode::On, &["ansible"], &runner).await;
        assert_eq!(state.to_string(), "failed: apt-get update: no network (exit code 100)");

        let denied = (100, "E: Could not open lock file - open (13: Permission denied)\nE: are you root?\n");
        let runner = Recorded::new(&[(1, ""), denied]);
        let state = debian(Mode::On, &["ansible"], &runner).await;
        assert!(state.to_string().contains("Permission denied"), "{state}");
    }

    #[tokio::test]
    async fn what_was_left_half_done_is_finished_first() {
        let interrupted =
            (100, "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct it.\n");
        let runner = Recorded::new(&[(1, ""), interrupted, (0, "Setting up git\n"), (0, "")]);
        assert_eq!(debian(Mode::On, &["ansible"], &runner).await.to_string(), "installed");
        assert_eq!(runner.ran()[2], "dpkg --force-confold --configure -a");

        let broken = "Setting up x (1)\ndpkg: error processing package x (--configure):\n installed x package post-installation \
                      script subprocess returned error exit status 1\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n";
        let runner = Recorded::new(&[(1, ""), (100, broken), (1, broken)]);
        let state = debian(Mode::On, &["xz"], &runner).await.to_string();
        assert!(state.contains("error processing package x") && state.contains("script subprocess"), "{state}");
    }

    #[tokio::test]
    async fn a_dry_run_says_what_would_be_installed_and_a_mode_of_off_runs_nothing() {
        let simulated = "NOTE: This is only a simulation!\nInst libjson (1.0 Debian:12 [amd64])\nInst maven (3.8.7-1)\nConf maven (3.8.7-1)\n";
        let runner = Recorded::new(&[GIT_IS_THERE, (0, simulated)]);
        let state = debian(Mode::DryRun, &["git", "maven"], &runner).await;
        assert_eq!(state, PackagesState::DryRun(names(&["libjson", "maven"])));
        assert_eq!(state.to_string(), "dry-run");
        assert_eq!(runner.ran()[1], "apt-get -s install -y --no-install-recommends -- maven");

        let runner = Recorded::new(&[]);
        assert_eq!(debian(Mode::Off, &["git"], &runner).await.to_string(), "off");
        assert_eq!(debian(Mode::On, &[], &runner).await, PackagesState::Installed(vec![]));
        let state = apply(Mode::On, None, &names(&["git"]), &runner, &mut |_| {}).await;
        assert!(state.to_string().starts_with("failed: no package manager"));
    }

    #[tokio::test]
    async fn portage_is_called_with_its_own_words() {
        let runner = Recorded::new(&[(
            0,
            "[ebuild  N     ] dev-java/maven-bin-3.9.6 \n[binary  N     ] dev-vcs/git-2.43.0 USE=\"x\"\n",
        )]);
        let packages = names(&["dev-java/maven-bin", "dev-vcs/git"]);
        let state = apply(Mode::DryRun, Some(Family::Gentoo), &packages, &runner, &mut |_| {}).await;
        assert_eq!(state, PackagesState::DryRun(names(&["dev-java/maven-bin-3.9.6", "dev-vcs/git-2.43.0"])));
        assert_eq!(runner.ran(), ["emerge --pretend --noreplace --quiet --color=n dev-java/maven-bin dev-vcs/git"]);

        let unknown = "\nemerge: there are no ebuilds to satisfy \"dev-java/maven-bin\".\n\n";
        let runner = Recorded::new(&[(1, unknown)]);
        let state = apply(Mode::On, Some(Family::Gentoo), &packages[..1], &runner, &mut |_| {}).await;
        assert_eq!(
            state.to_string(),
            "failed: emerge: there are no ebuilds to satisfy \"dev-java/maven-bin\". (exit code 1)"
        );
        assert_eq!(runner.ran(), ["emerge --noreplace --quiet --quiet-build=y --ask=n --color=n dev-java/maven-bin"]);
    }

    #[tokio::test]
    async fn names_outside_the_grammar_reach_no_package_manager() {
        for (family, bad) in [
            (Family::Debian, "--allow-unauthenticated"),
            (Family::Debian, "./evil.deb"),
            (Family::Debian, "git=1.0"),
            (Family::Debian, "git;reboot"),
            (Family::Gentoo, "@world"),
            (Family::Gentoo, "--unmerge"),
            (Family::Gentoo, "/etc/passwd"),
        ] {
            for mode in [Mode::On, Mode::DryRun] {
                let runner = Recorded::new(&[]);
                let state = apply(mode, Some(family), &names(&[bad]), &runner, &mut |_| {}).await;
                assert!(state.to_string().ends_with("is no package name"), "{bad}: {state}");
            }
        }
        let many = vec!["git".to_owned(); PACKAGES_MAX + 1];
        assert!(check_names(Family::Debian, &many).is_err());
    }

    #[tokio::test]
    async fn the_local_runner_streams_lines_and_keeps_the_end() {
        let run = |script: &str, timeout_ms| {
            let argv = names(&["/bin/sh", "-c", script]);
            Invocation { argv, env: vec![("X".to_owned(), "y".to_owned())], timeout_ms }
        };
        let mut lines: Vec<String> = vec![];
        let script = "echo $X; printf 'Progress 1\\rProgress 2\\n'; echo err >&2; printf '\\377 end'; exit 7";
        let finished =
            LocalRunner.run(&run(script, 5_000), &mut |line| lines.push(line.to_owned())).await.expect("runs");
        lines.sort();
        assert_eq!(lines, ["Progress 2", "err", "y", "\u{fffd} end"]);
        assert_eq!(finished.exit_code, Some(7));

        let (mut count, mut longest) = (0, 0);
        let script = "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo the end";
        let finished = LocalRunner
            .run(&run(script, 20_000), &mut |line| {
                count += 1;
                longest = longest.max(line.len());
            })
            .await
            .expect("runs");
        assert!(finished.output.len() <= OUTPUT_KEPT_BYTES && finished.output.ends_with("the end\n"));
        assert!(count > 700 && longest <= LINE_MAX_BYTES, "{count} lines of up to {longest}");

        let mut lines: Vec<String> = vec![];
        let service = run("setsid sleep 60 & echo $!", 20_000);
        let finished = LocalRunner.run(&service, &mut |line| lines.push(line.to_owned())).await;
        let pid = lines.first().and_then(|line| line.parse().ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("its number"), rustix::process::Signal::KILL).expect("it still runs");
        assert_eq!(finished.expect("does not wait for a service that was started").exit_code, Some(0));

        let error = LocalRunner.run(&run("sleep 60", 100), &mut |_| {}).await.expect_err("hangs");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let missing = Invocation { argv: names(&["/proc/none/apt-get"]), env: vec![], timeout_ms: 1_000 };
        assert!(LocalRunner.run(&missing, &mut |_| {}).await.is_err());
    }

    /// The real package manager of a Debian or Ubuntu machine, without changing anything.
    #[tokio::test]
    async fn the_real_apt_answers_as_expected() {
        let mut log = vec![];
        let there = names(&["dpkg", "libc6"]);
        let state =
            apply(Mode::On, Some(Family::Debian), &there, &LocalRunner, &mut |line| log.push(line.to_owned())).await;
        assert_eq!(state, PackagesState::Installed(vec![]), "{log:?}");
        let absent = names(&["dpkg", "hive-has-no-such-package"]);
        let state = apply(Mode::DryRun, Some(Family::Debian), &absent, &LocalRunner, &mut |_| {}).await;
        let expected = "failed: apt-get: Unable to locate package hive-has-no-such-package (exit code 100); a real run would fetch the package lists first";
        assert_eq!(state.to_string(), expected);
        let simulated =
            LocalRunner.run(&simulate(Family::Debian, &names(&["dpkg"])), &mut |_| {}).await.expect("apt-get runs");
        let installed = would_install(Family::Debian, &simulated.output);
        assert_eq!(simulated.exit_code, Some(0));
        // The archive may have a newer one than this machine.
        assert!(installed.is_empty() || installed.iter().any(|name| name == "dpkg"), "{installed:?}");
    }

    #[tokio::test]
    async fn health_checks_succeed_fail_and_end() {
        let check = |argv: &[&str]| {
            let argv = names(argv);
            async move { health_check(&argv, Duration::from_millis(300)).await }
        };
        assert_eq!(check(&[]).await, Ok(()));
        assert_eq!(check(&["true"]).await, Ok(()));
        assert_eq!(check(&["sh", "-c", "echo not fit >&2; exit 2"]).await, Err("sh: not fit (exit code 2)".to_owned()));
        assert!(
            check(&["hive-has-no-such-program"]).await.expect_err("absent").starts_with("hive-has-no-such-program: ")
        );
        assert!(check(&["sleep", "60"]).await.expect_err("hangs").contains("no answer within"));
    }
}
