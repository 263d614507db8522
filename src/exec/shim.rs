//! `hive build-shim`: the short life between the agent and a build's own program.
//!
//! It reads its orders from standard input (nothing on the command line, nothing in the environment, so that root never runs
//! under variables that an agent chose), then: new session, cgroups, niceness, limits, user, no new privileges, directory,
//! sandbox, `exec`. It runs before any thread is started, because changing user is an affair of one thread. What goes wrong is
//! said in one line that carries a random word of the order, so that a build cannot pretend it. Never done here: going on
//! after a step that failed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};

use super::SAFE_PATH;
use super::users::User;

/// Longest order, bytes: 32 KiB of arguments in JSON, with room.
const ORDER_MAX_BYTES: u64 = 512 << 10;
/// What a build's score is raised by: the kernel ends builds before anything else.
const OOM_SCORE_ADJ: &str = "600";

/// Everything that the shim is told. Not to be shown: its environment may hold secrets.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) nonce: String,
    pub(super) cgroup_procs: Vec<PathBuf>,
    pub(super) user: Option<User>,
    pub(super) nice: i32,
    pub(super) files_max: u64,
    pub(super) processes_max: Option<u64>,
    pub(super) data_max_bytes: Option<u64>,
    pub(super) closed_ports: Vec<u16>,
    pub(super) directory: PathBuf,
    pub(super) argv: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) sandbox: Option<Sandbox>,
}

/// What a sandboxed program sees: everything read-only but its own directory, nothing of what is hidden.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sandbox {
    pub(super) bubblewrap: PathBuf,
    pub(super) attempt_dir: PathBuf,
    pub(super) temporary_dir: PathBuf,
    pub(super) hidden_dirs: Vec<PathBuf>,
    pub(super) network: bool,
}

/// Why the program did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShimFailure {
    /// This host did not allow a limit, user or sandbox.
    Setup,
    /// The program is not installed.
    Missing,
    /// The program is there and cannot be executed.
    Denied,
}

impl ShimFailure {
    fn word(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Missing => "missing",
            Self::Denied => "denied",
        }
    }
}

/// Finds the shim's own line in the end of an output.
pub(super) fn find_failure(output: &str, nonce: &str) -> Option<(ShimFailure, String)> {
    let marker = format!("hive-shim {nonce} ");
    let line = output.lines().rev().find_map(|line| line.split_once(marker.as_str()).map(|(_, rest)| rest))?;
    let (word, message) = line.split_once(": ")?;
    let kind =
        [ShimFailure::Setup, ShimFailure::Missing, ShimFailure::Denied].into_iter().find(|k| k.word() == word)?;
    Some((kind, message.to_owned()))
}

/// Entry of `hive build-shim`. Call it first thing in `main`, before any thread exists. Returns only when something failed.
pub fn main(_arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let mut text = String::new();
    let read = io::stdin().lock().take(ORDER_MAX_BYTES).read_to_string(&mut text);
    let order = match read.map_err(io::Error::other).and_then(|_| Ok(serde_json::from_str::<Order>(&text)?)) {
        Ok(order) => order,
        Err(error) => return complain("-", ShimFailure::Setup, &format!("no order on standard input: {error}")),
    };
    match run(&order) {
        Ok(never) => match never {},
        Err((kind, message)) => complain(&order.nonce, kind, &message),
    }
}

fn complain(nonce: &str, kind: ShimFailure, message: &str) -> ExitCode {
    let message = message.replace('\n', " ");
    // Standard error is the log; when it is gone, nobody is left to tell.
    writeln!(io::stderr(), "hive-shim {nonce} {}: {message}", kind.word()).ok();
    ExitCode::from(match kind {
        ShimFailure::Setup => 125,
        ShimFailure::Denied => 126,
        ShimFailure::Missing => 127,
    })
}

type Refusal = (ShimFailure, String);

fn setup(what: &str) -> impl FnOnce(io::Error) -> Refusal {
    let what = what.to_owned();
    move |error| (ShimFailure::Setup, format!("{what}: {error}"))
}

fn run(order: &Order) -> Result<std::convert::Infallible, Refusal> {
    rustix::process::setsid().map_err(|error| setup("new session")(error.into()))?;
    for procs in &order.cgroup_procs {
        fs::write(procs, "0").map_err(setup(&format!("join {}", procs.display())))?;
    }
    fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ).map_err(setup("oom_score_adj"))?;
    rustix::process::nice(order.nice).map_err(|error| setup("nice")(error.into()))?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, order.files_max)?;
    if let Some(processes) = order.processes_max {
        limit(Resource::Nproc, processes)?;
    }
    if let Some(bytes) = order.data_max_bytes {
        limit(Resource::Data, bytes)?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if let Some(user) = &order.user {
        become_user(user)?;
    }
    rustix::thread::set_no_new_privs(true).map_err(|error| setup("no new privileges")(error.into()))?;
    if !order.closed_ports.is_empty() {
        super::ports::close(&order.closed_ports).map_err(|why| (ShimFailure::Setup, format!("close ports: {why}")))?;
    }
    std::env::set_current_dir(&order.directory).map_err(setup(&format!("enter {}", order.directory.display())))?;
    let program = order.argv.first().map(String::as_str).unwrap_or_default();
    require_program(program)?;
    let mut command = match &order.sandbox {
        None => Command::new(program),
        Some(sandbox) => sandboxed(sandbox, &order.directory, program),
    };
    command.args(order.argv.iter().skip(1)).env_clear().envs(&order.environment).stdin(Stdio::null());
    let error = command.exec();
    Err((ShimFailure::Denied, format!("{program}: {error}")))
}

fn limit(resource: Resource, wanted: u64) -> Result<(), Refusal> {
    let hard = rustix::process::getrlimit(resource).maximum;
    // Never above what this process itself may have: raising it would need a privilege and is not the purpose.
    let value = hard.map_or(wanted, |hard| hard.min(wanted));
    rustix::process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
        .map_err(|error| setup(&format!("limit {resource:?}"))(error.into()))
}

fn become_user(user: &User) -> Result<(), Refusal> {
    let failed = |error: rustix::io::Errno| setup(&format!("become user {}", user.name))(error.into());
    let (uid, gid) = (rustix::process::Uid::from_raw(user.uid), rustix::process::Gid::from_raw(user.gid));
    rustix::thread::set_thread_groups(&[]).map_err(failed)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed)?;
    if rustix::process::getuid() != uid || rustix::process::geteuid() != uid {
        return Err((ShimFailure::Setup, format!("still not user {}", user.name)));
    }
    Ok(())
}

/// Looked up here and not by the sandbox program, which would report it as its own failure.
fn require_program(program: &str) -> Result<(), Refusal> {
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![PathBuf::from(program)]
    } else {
        SAFE_PATH.split(':').map(|directory| Path::new(directory).join(program)).collect()
    };
    let mut present =
        candidates.iter().filter_map(|path| fs::metadata(path).ok()).filter(fs::Metadata::is_file).peekable();
    if present.peek().is_none() {
        return Err((ShimFailure::Missing, program.to_owned()));
    }
    if present.any(|metadata| metadata.permissions().mode() & 0o111 != 0) {
        return Ok(());
    }
    Err((ShimFailure::Denied, format!("{program} is not executable")))
}

fn sandboxed(sandbox: &Sandbox, directory: &Path, program: &str) -> Command {
    let mut command = Command::new(&sandbox.bubblewrap);
    command.args(["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent"]);
    if !sandbox.network {
        command.arg("--unshare-net");
    }
    command.args(["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]);
    const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];
    for shared in TEMPORARY {
        command.arg("--bind").arg(&sandbox.temporary_dir).arg(shared);
    }
    for hidden in &sandbox.hidden_dirs {
        // What this user cannot see anyway needs no cover, and could not be covered; temporary directories are replaced whole.
        let visible = fs::metadata(hidden).is_ok_and(|metadata| metadata.is_dir());
        if visible && !TEMPORARY.iter().any(|directory| hidden.starts_with(directory)) {
            command.arg("--tmpfs").arg(hidden);
        }
    }
    command.arg("--bind").arg(&sandbox.attempt_dir).arg(&sandbox.attempt_dir);
    command.arg("--chdir").arg(directory).arg("--").arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shims_own_line_counts() {
        let output = "hive-shim abc setup: a lie\nnoise\nhive-shim 123 missing: cmake\n";
        assert_eq!(find_failure(output, "123"), Some((ShimFailure::Missing, "cmake".to_owned())));
        assert_eq!(find_failure(output, "777"), None);
    }

    #[test]
    fn programs_are_looked_for_before_they_are_started() {
        assert!(require_program("sh").is_ok());
        assert_eq!(require_program("no-such-program-here").expect_err("missing").0, ShimFailure::Missing);
        assert_eq!(require_program("/etc/passwd").expect_err("no program").0, ShimFailure::Denied);
    }
}
