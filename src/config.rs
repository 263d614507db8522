//! The one typed [`Config`] of the agent, and where each of its values came from.
//!
//! Defaults < what the installation presets (`HIVE_DEFAULT_…`) < file < environment < flags. All of it is checked before anything binds; problems are collected, each with the place
//! and what was expected, and the process ends with code 2. [`table`] is the single list of settings that file, environment,
//! flags and reference are made of. Never done here: acting on a setting; reading the process's environment (it is handed in, so
//! that tests need no process of their own).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

mod assemble;
mod definitions;
mod file;
pub mod grammar;
mod reference;
pub mod table;
mod terminal;
pub mod value;

pub use assemble::{Flags, Loaded, Surroundings, load};
pub use definitions::{Definition, DefinitionKind, Place, load_definitions};
pub use grammar::{DEFAULT_PORT, JoinTarget};
pub use reference::{example_file, reference};

use table::Setting;
use value::Value;

/// Everything the agent needs to know before it starts. Meaning, unit, range and how to choose each: [`table::SETTINGS`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node.
    pub name: String,
    /// Key, identity, databases, blobs, logs.
    pub state_dir: PathBuf,
    /// The shared secret's file; may be absent.
    pub secret_file: PathBuf,
    /// Accept a secret that could be guessed.
    pub weak_secret: bool,
    /// UDP of discovery and liveness, TCP of the mesh.
    pub port: u16,
    /// Address on which discovery, liveness and mesh listen; none: all.
    pub listen_address: Option<IpAddr>,
    /// Where the public API is served. Port 0: any free one.
    pub http: SocketAddr,
    /// Names of this node for clients, besides its own.
    pub http_hosts: Vec<String>,
    /// Origins whose pages may read what everyone may read.
    pub cors_origins: Vec<String>,
    /// What anyone may see without a key.
    pub public_page: PublicPage,
    /// Path under which a proxy shows this node, without a slash at its end; may be empty.
    pub base_path: String,
    /// Whether the HTTP ports also speak TLS.
    pub tls: TlsMode,
    /// The operator's certificate; none: one of the hive's authority.
    pub tls_certificate: Option<PathBuf>,
    /// Its key; none: it stands in the certificate's file.
    pub tls_key: Option<PathBuf>,
    /// Proxies whose word counts about for whom they ask.
    pub trusted_proxies: Vec<String>,
    /// Where the hive is controlled with a key; none: nowhere.
    pub admin: Option<SocketAddr>,
    /// Where the admin key is written by the node that makes it.
    pub admin_key_file: PathBuf,
    /// The admin key that the environment holds, and the variable's name.
    pub admin_key: Option<(&'static str, Hidden)>,
    /// Who may act as a drone of the build swarm.
    pub legacy_drones: LegacyDrones,
    /// How long such a drone may be silent before its work goes to another one, milliseconds.
    pub legacy_lease_ms: u64,
    /// Networks whose drones need no key, when they are let in so.
    pub legacy_networks: Vec<String>,
    /// Unix socket of the commands.
    pub socket: PathBuf,
    /// Interfaces or networks on which discovery speaks; empty: all but container bridges.
    pub interfaces: Vec<String>,
    /// Interfaces or networks on which it is silent.
    pub exclude_interfaces: Vec<String>,
    /// Nodes to greet directly.
    pub join: Vec<JoinTarget>,
    /// Found only when so many nodes are in view, this one included.
    pub expect: Option<u32>,
    /// Whether this node may found a hive.
    pub found: FoundMode,
    /// Who may become a member.
    pub admission: AdmissionMode,
    /// Socket of the privileged helper.
    pub helper: Option<PathBuf>,
    /// Labels of this machine.
    pub labels: Vec<String>,
    /// Role definitions; none: see [`load_definitions`].
    pub roles_dir: Option<PathBuf>,
    /// Advisor policies; none: see [`load_definitions`].
    pub policies_dir: Option<PathBuf>,
    /// The policy by which this node advises.
    pub policy: String,
    /// What happens to the packages of the role.
    pub packages: PackagesMode,
    /// Sources of facts, as they stand in the file.
    pub facts: Vec<FactsTable>,
    /// Where finished packages are put; none: this node keeps no staging.
    pub staging_path: Option<PathBuf>,
    /// The directory that clients are served from, if this machine serves any.
    pub binhost_path: Option<PathBuf>,
    /// How often roles are reconsidered, milliseconds.
    pub reballot_interval_ms: u64,
    /// How nodes find each other.
    pub discovery: DiscoveryConfig,
    /// How this node builds.
    pub build: BuildConfig,
    /// What is logged and how.
    pub log: LogConfig,
    /// What is kept of the messages that pass.
    pub wire: WireConfig,
    /// What is kept of the past.
    pub history: HistoryConfig,
    /// Commands and terminals of operators.
    pub terminal: TerminalConfig,
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(…)")
    }
}

/// Section `discovery`.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// Greeted beside the broadcast addresses.
    pub multicast_group: Ipv4Addr,
    /// How old nodes are treated.
    pub legacy_v1: LegacyMode,
    /// Whether mDNS is used.
    pub mdns: bool,
}

/// Section `build`.
#[derive(Clone, Debug)]
pub struct BuildConfig {
    /// Builds at the same time; 0: none.
    pub slots: u32,
    /// Processors for all builds together; 0: all.
    pub cores: u32,
    /// Where sources are unpacked and built.
    pub work_dir: PathBuf,
    /// Most disk that one attempt takes, MiB; 0: any.
    pub disk_max_mb: u64,
    /// User under which builds run; none: the agent's own.
    pub user: Option<String>,
    /// Whether build dependencies of Debian sources are installed.
    pub debian_build_deps: bool,
    /// Where the secrets are that jobs name.
    pub secrets_dir: PathBuf,
    /// Where the hive's finished Gentoo packages are served.
    pub binhost: Option<String>,
    /// The package tree is synced when work waits for another one.
    pub portage_sync: bool,
    /// Least time between two syncs, milliseconds.
    pub portage_sync_interval_ms: u64,
    /// Longest time of one sync, milliseconds.
    pub portage_sync_timeout_ms: u64,
    /// Keys that may sign Gentoo packages; none: signatures are not checked.
    pub portage_verify_keys: Option<PathBuf>,
    /// Gentoo packages without a signature are refused.
    pub portage_demand_signatures: bool,
    /// How long logs are kept, days.
    pub keep_logs_days: u32,
    /// Space that logs may take, MiB.
    pub keep_logs_mb: u64,
    /// How long artifacts of jobs that are over are kept, days; 0: for ever.
    pub keep_artifacts_days: u32,
    /// Space that they may take, MiB; 0: any.
    pub keep_artifacts_mb: u64,
}

/// Section `wire`.
#[derive(Clone, Debug)]
pub struct WireConfig {
    /// Messages kept in memory; 0: none.
    pub ring_records: usize,
    /// Memory for their beginnings, MiB.
    pub ring_mb: usize,
    /// Kinds of which one in so many is kept.
    pub sample: Vec<(String, u32)>,
    /// Which are kept on the disk.
    pub disk: String,
    /// Space for them, MiB; 0: none.
    pub disk_mb: u64,
    /// How long they are kept there, days.
    pub disk_days: u32,
}

/// Section `history`.
#[derive(Clone, Copy, Debug)]
pub struct HistoryConfig {
    /// How far back the hive can be shown as it was, days.
    pub days: u32,
    /// Space for that, MiB; 0: nothing is kept.
    pub mb: u64,
}

/// Section `log`.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// A level, or a list of `target=level`.
    pub level: String,
    /// One JSON object per line instead of text.
    pub json: bool,
}

/// What operators may do on this node itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TerminalConfig {
    /// Whether commands and terminals are allowed.
    pub enabled: bool,
    /// What a terminal runs; none: the usual shell.
    pub shell: Option<PathBuf>,
    /// A terminal in which nothing is typed for so long ends, seconds.
    pub idle_s: u64,
    /// Terminals at the same time.
    pub sessions: usize,
    /// Recordings are kept for so many days.
    pub keep_days: u64,
    /// All recordings together, MiB.
    pub keep_mb: u64,
}

/// A table `[[facts]]`, for whoever understands it.
#[derive(Clone, Debug, PartialEq)]
pub struct FactsTable {
    /// Its content.
    pub table: toml::Table,
    /// The file it stands in.
    pub file: String,
    /// The line at which it begins.
    pub line: usize,
}

/// A choice whose words are those of the settings table.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }

            /// The word in the file, the environment and flags.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

choice!(
    /// Whether this node may found a hive.
    FoundMode {
        /// After hearing none for 3 s.
        Auto = "auto",
        /// Also when it hears only datagrams that it cannot verify.
        Force = "force",
        /// Never.
        Never = "never",
    }
);
choice!(
    /// Who may become a member.
    AdmissionMode {
        /// Whoever proves the secret.
        Open = "open",
    }
);
choice!(
    /// What happens to the packages of the role.
    PackagesMode {
        /// Nothing.
        Off = "off",
        /// A rehearsal that changes nothing.
        DryRun = "dry-run",
        /// They are installed.
        On = "on",
    }
);
choice!(
    /// What anyone may see without a key.
    PublicPage {
        /// All there is to read.
        Full = "full",
        /// No addresses, no logs, no packages.
        Summary = "summary",
        /// Nothing.
        Off = "off",
    }
);
choice!(
    /// Whether the HTTP ports also speak TLS.
    TlsMode {
        /// They do.
        On = "on",
        /// They speak plain HTTP only.
        Off = "off",
    }
);
choice!(
    /// Who may act as a drone of the build swarm.
    LegacyDrones {
        /// Whoever has the admin key or a token for a drone.
        Key = "key",
        /// Also whoever asks from one of the listed networks.
        Open = "open",
        /// Nobody.
        Off = "off",
    }
);
choice!(
    /// How old nodes (wire v1) are treated.
    LegacyMode {
        /// Not heard.
        Off = "off",
        /// Answered.
        Answer = "answer",
        /// Answered and greeted.
        Announce = "announce",
    }
);

/// Something that must be changed before the agent can start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `FILE:LINE`, a flag or a variable.
    pub place: String,
    /// What was expected.
    pub message: String,
}

impl Problem {
    /// A problem at a line of a file.
    pub fn in_file(file: &str, line: usize, message: impl Into<String>) -> Self {
        Self { place: format!("{file}:{line}"), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// The configuration cannot be used; one line per problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// All problems that were found, at least one.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// An error with one problem.
    pub fn one(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A variable by which a unit or an image presets what an operator may change: it ranks below the file.
    Preset(String),
    /// The file, at this line.
    File(PathBuf, usize),
    /// A variable of the environment.
    Variable(String),
    /// The command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Preset(name) | Self::Variable(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A setting with its value and where that came from.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The row of the table.
    pub setting: &'static Setting,
    /// The value.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

#[cfg(all(test, feature = "node"))]
mod fuzz;
#[cfg(test)]
mod tests;
