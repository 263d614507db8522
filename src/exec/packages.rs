//! Installing the packages of a role with the machine's own package manager, and checking that the machine is fit for the role.
//!
//! ```text
//!   names ──checked──► Plan ──argv──► Runner (this process, or hive-helper as root) ──output──► log
//!                                        │
//!                                        └──► off · dry-run · installed · failed: reason
//! ```
//!
//! What is run is decided by pure functions ([`query`], [`simulate`], [`install`], [`refresh`]); [`apply`] only walks through
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
use tokio::sync::mpsc;

use crate::engine::role::Family;
use crate::exec::inventory::probe;

/// Most packages in one request.
const PACKAGES_MAX: usize = 128;
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
/// Lines on their way to the log; a slow log slows the package manager down, it does not use memory.
const LINES_WAITING: usize = 256;
/// Longest reason, characters.
const REASON_MAX_CHARS: usize = 300;
/// What apt waits for another package manager.
const APT_LOCK_TIMEOUT: &str = "DPkg::Lock::Timeout=120";

/// What to do about packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PackagesMode {
    /// Nothing.
    Off,
    /// Ask the package manager what it would do, and report that.
    #[default]
    DryRun,
    /// Install what is missing.
    On,
}

/// How it ended. As text: the `packages_state` of `identity.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// The most telling line of what a failed command said.
fn reason(program: &str, finished: &Finished) -> String {
    let lines = || finished.output.lines().map(str::trim).filter(|line| !line.is_empty());
    let telling =
        |line: &&str| line.starts_with("E: ") || line.starts_with("!!! ") || line.contains("there are no ebuilds");
    let told = lines().find(telling).or_else(|| lines().next_back()).unwrap_or("it said nothing");
    let how = finished.exit_code.map_or_else(|| "ended by a signal".to_owned(), |code| format!("exit code {code}"));
    let told = ["E: ", "!!! ", "emerge: "].iter().find_map(|mark| told.strip_prefix(mark)).unwrap_or(told);
    shortened(&format!("{program}: {told} ({how})"))
}

fn shortened(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_MAX_CHARS).collect()
}

/// Brings the packages of a role onto this machine, as far as the mode allows. A machine of no known family can only have none.
pub async fn apply(
    mode: PackagesMode,
    family: Option<Family>,
    packages: &[String],
    runner: &dyn Runner,
    log: LogLine<'_>,
) -> PackagesState {
    if mode == PackagesMode::Off {
        return PackagesState::Off;
    }
    let nothing = match mode {
        PackagesMode::DryRun => PackagesState::DryRun(vec![]),
        PackagesMode::Off | PackagesMode::On => PackagesState::Installed(vec![]),
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
            PackagesMode::On => {
                install_now(family, &needed, runner, log).await.map(|()| PackagesState::Installed(needed))
            }
            PackagesMode::Off | PackagesMode::DryRun => pretend(family, &needed, runner, log).await,
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
    // Maintainer scripts expect a home that exists.
    command.env("HOME", "/root").stdout(Stdio::piped()).stderr(Stdio::piped());
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
        let status = async {
            let status = child.wait().await;
            // Services that a maintainer script started have sessions of their own; what is left in the group is debris.
            group.finish();
            status
        };
        let errors = lines.clone();
        let (status, (), (), ()) = tokio::join!(status, forward(stdout, lines), forward(stderr, errors), collect);
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
mod tests;
