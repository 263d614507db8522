//! What happens on this host on behalf of the hive: builds, their logs, packages, addresses.
//!
//! ```text
//!   agent ──► build ──► privilege ──► launch ──► shim (setsid, cgroup, limits, user, closed ports, sandbox) ──► the build's own program
//!               │            └──► helper (root, Unix socket) ──► launch …
//!               └──► logs
//! ```
//!
//! Every attempt runs in a directory, session, process group and (where there are) cgroup of its own, with an environment made
//! from nothing. What this host cannot limit is said in [`Capabilities`] rather than ignored. Never done here: deciding what
//! runs, and passing anything through a shell.

pub mod build;
pub mod console;
pub mod facts;
pub mod format;
pub mod helper;
pub mod inventory;
pub mod logs;
pub mod packages;
pub mod portage;
pub mod privilege;
pub mod shim;
pub mod signatures;
pub mod staging;

mod acts;
mod cgroup;
mod disk;
mod launch;
mod offers;
mod ports;
mod secrets;
mod sweep;
mod tree;
mod users;
mod workdir;

pub use shim::ShimFailure;
pub use tree::SyncPolicy;

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The only search path that builds and root's acts ever get.
pub const SAFE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Settings of everything that runs programs here. Agent and helper are given the same.
#[derive(Clone, Debug)]
pub struct Options {
    /// One directory per attempt is made below it. Every directory above it must be passable (`o+x`) for the build user, so it
    /// is not below a directory of mode 0700.
    pub work_dir: PathBuf,
    /// Directories that builds in a sandbox do not see: state, secret, run-time sockets.
    pub hidden_dirs: Vec<PathBuf>,
    /// Who builds when root starts them. None: `hive-build` when there is such a user, else `nobody`. Never root.
    pub build_user: Option<String>,
    /// The `hive` program itself, which is started as `hive build-shim`.
    pub program: PathBuf,
    /// Use bubblewrap when it is present and permitted. Without it builds of one user see each other's processes.
    pub sandbox: bool,
    /// TCP ports of hive itself: builds can neither connect to them nor listen on them, where the kernel can do that.
    pub closed_ports: Vec<u16>,
    /// Where the secrets are that jobs name, one file each.
    pub secrets_dir: PathBuf,
    /// Builds reach the network. False: only loopback, and only where there is a sandbox.
    pub network: bool,
    /// Whether missing build dependencies are installed.
    pub build_dependencies: InstallPolicy,
    /// Memory of one attempt when its job names none, MiB. 0: no limit.
    pub memory_default_mb: u64,
    /// Processor time of all attempts together in percent of one core. 0: no limit.
    pub cpu_max_percent: u32,
    /// Most open files of one process of a build.
    pub files_max: u64,
    /// Added niceness of builds, 0–19.
    pub nice: i32,
    /// Time between SIGTERM and SIGKILL, milliseconds. Cancelling takes at most 5 s in all, so at most 3,000.
    pub grace_ms: u64,
    /// An attempt ends when less than this is free where it works, bytes.
    pub disk_free_min_bytes: u64,
    /// Most disk that one attempt takes where it works, bytes. 0: as much as there is.
    pub attempt_disk_max_bytes: u64,
    /// Most bytes of artifacts of one attempt.
    pub artifacts_max_bytes: u64,
    /// Where apt's sources are read for `debian` jobs.
    pub apt_dir: PathBuf,
    /// Network interfaces on which an address may be claimed; all real ones when empty.
    pub interfaces: Vec<String>,
    /// How `portage` and `resolve` jobs run Portage.
    pub portage: portage::Portage,
    /// When this host's package trees are synced; none: never.
    pub sync: Option<SyncPolicy>,
    /// Who is trusted to sign Gentoo packages; none: signatures are not checked.
    pub signatures: Option<signatures::Signatures>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            work_dir: PathBuf::from("/var/cache/hive/build"),
            hidden_dirs: ["/var/lib/build", "/etc/build", "/run/hive"].map(PathBuf::from).to_vec(),
            build_user: None,
            program: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/bin/hive")),
            sandbox: true,
            closed_ports: Vec::new(),
            secrets_dir: PathBuf::from("/etc/build/job-secrets"),
            network: true,
            build_dependencies: InstallPolicy::Off,
            memory_default_mb: 0,
            cpu_max_percent: 0,
            files_max: 65_536,
            nice: 10,
            grace_ms: 2_000,
            disk_free_min_bytes: 512 << 20,
            attempt_disk_max_bytes: 64 << 30,
            artifacts_max_bytes: 4 << 30,
            apt_dir: PathBuf::from("/etc/apt"),
            interfaces: Vec::new(),
            portage: portage::Portage::default(),
            sync: None,
            signatures: None,
        }
    }
}

/// Whether packages are installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstallPolicy {
    /// Never: what is missing is a failure that names it.
    Off,
    /// By root or the helper.
    On,
}

/// What this host can limit and isolate, for `hive status` and `hive doctor`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// User that builds run as.
    pub build_user: String,
    /// Everything a build started is found and ended by its cgroup.
    pub cgroup: bool,
    /// Memory of a build is limited by a cgroup; without, only per process.
    pub memory_limit: bool,
    /// Processor time of a build is limited and weighted by a cgroup.
    pub cpu_limit: bool,
    /// Number of processes of a build is limited by a cgroup; without, only per user.
    pub process_limit: bool,
    /// Builds run in a bubblewrap sandbox.
    pub sandbox: bool,
    /// A build can be cut off from every network, loopback of this host included.
    #[serde(default)]
    pub netns: bool,
    /// Builds cannot connect to hive's own ports, nor listen on them.
    #[serde(default)]
    pub closed_ports: bool,
    /// Builds run as another user than the agent.
    #[serde(default)]
    pub own_user: bool,
    /// Why no build can be started here at all.
    pub unable: Option<String>,
    /// What is missing and what follows from it, each a sentence.
    pub notes: Vec<String>,
    /// Where builds work. Agent and helper must mean the same directory.
    #[serde(default)]
    pub work_dir: PathBuf,
    /// Processor time of all builds together in percent of one core; 0: no limit.
    #[serde(default)]
    pub cpu_max_percent: u32,
}

/// Why something could not be done on this host.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// A setting that cannot work.
    #[error("{0}")]
    Setting(String),
    /// Needs root, and there is neither root nor a helper.
    #[error("{act} needs root: start hive-helper.service, or the agent with --helper SOCKET")]
    NoPrivilege {
        /// What was wanted.
        act: &'static str,
    },
    /// The helper or this node's own rules refused it.
    #[error("refused: {0}")]
    Refused(String),
    /// It was tried, and did not succeed.
    #[error("{0}")]
    Failed(String),
    /// Something is built on this node, which must not be disturbed.
    #[error("something is built on this node")]
    Busy,
    /// The helper cannot be reached.
    #[error("the helper at {} cannot be reached; is hive-helper.service running?", socket.display())]
    Helper {
        /// Its socket.
        socket: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The system refused.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: String,
        /// The system's reason.
        source: io::Error,
    },
}

/// Whether builds may run as this user: there is one of that name, and it is not root. The error says what to do.
pub fn check_build_user(name: &str) -> Result<(), String> {
    users::build_user(Some(name)).map(drop).map_err(|error| error.to_string())
}

impl ExecError {
    fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
