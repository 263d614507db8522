//! The vocabulary of the queue: jobs, attempts and their states.
//!
//! Transitions live in [`state`](super::state), choices in [`scheduler`](super::scheduler), what may be queued in
//! [`grammar`](super::grammar). Nothing here changes anything.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::grammar;
use super::id::{JobId, PeerId, SessionId, Sha256Hash, Token, UnixMillis};

/// Where the sources of a `command` job come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// A local directory, archived deterministically when it was queued.
    Blob {
        /// The archive (tar).
        sha256: Sha256Hash,
        /// Its length in bytes.
        size: u64,
    },
    /// A Git repository.
    Git {
        /// `https`, `http`, `ssh`, `git` or `file` URL, or an absolute path.
        url: String,
        /// Branch or tag, the repository's default when absent.
        branch: Option<String>,
        /// 40 or 64 hexadecimal digits. None: the branch is pinned to a commit by the first attempt.
        commit: Option<String>,
    },
}

/// What is to be done, by kind of builder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "backend", rename_all = "snake_case")]
pub enum Work {
    /// Run one program in a checkout.
    Command {
        /// What it runs in.
        source: Source,
        /// Program and arguments; never a shell line.
        argv: Vec<String>,
        /// Patterns of files to keep, relative to the checkout.
        artifacts: Vec<String>,
    },
    /// Build a Debian source package into `.deb`, `.changes` and `.buildinfo`.
    Debian {
        /// A source package of an archive, a source tree, or a `.dsc` with its files.
        source: DebianSource,
    },
    /// Build one Gentoo package into a binary package; what it needs is taken from binary packages where there are any.
    Portage {
        /// Atom: `category/name`, or `=category/name-version`.
        atom: String,
        /// The tree that it was resolved with; a drone with another one gets no work until it has this one.
        tree: Option<String>,
    },
    /// Build a Java tree with Maven, then its Debian packages when it has a `debian` directory.
    Maven {
        /// The tree.
        source: Source,
        /// Goals and profiles, as arguments of Maven: `package`, `-Psystemvm`.
        goals: Vec<String>,
        /// How it is run.
        options: MavenOptions,
        /// Patterns of files to keep beside Debian packages, relative to the tree.
        artifacts: Vec<String>,
    },
    /// Find out what has to be built for some packages, and in which order. Its artifact is a plan, which becomes the jobs
    /// of its session.
    Resolve {
        /// Atoms, or sets such as `@world`.
        targets: Vec<String>,
        /// Everything anew, also what is installed.
        empty_tree: bool,
    },
}

/// How Maven is run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MavenOptions {
    /// Maven's `-T`: `4`, or `1C` for one thread per processor. None: one.
    pub threads: Option<String>,
    /// Without the network (`-o`): everything has to be in the drone's repository already.
    pub offline: bool,
    /// Only the tree's own artifacts; no Debian packages though it has a `debian` directory.
    pub no_packages: bool,
    /// Declared fall-back: build dependencies that cannot be had are replaced by empty packages of these names.
    pub dummies: BTreeSet<String>,
    /// Declared fall-back: `dpkg-buildpackage -d`, build dependencies are not checked.
    pub unchecked_dependencies: bool,
}

impl Work {
    /// The archive that it is built from, with its length; none when the sources come from elsewhere.
    pub fn archive(&self) -> Option<(Sha256Hash, u64)> {
        match self {
            Self::Command { source: Source::Blob { sha256, size }, .. }
            | Self::Maven { source: Source::Blob { sha256, size }, .. }
            | Self::Debian {
                source:
                    DebianSource::Tree { source: Source::Blob { sha256, size } }
                    | DebianSource::Dsc { source: Source::Blob { sha256, size }, .. },
            } => Some((*sha256, *size)),
            Self::Command { .. }
            | Self::Maven { .. }
            | Self::Debian { .. }
            | Self::Portage { .. }
            | Self::Resolve { .. } => None,
        }
    }

    /// Where its sources come from, when they are given with the job.
    pub fn source(&self) -> Option<&Source> {
        match self {
            Self::Command { source, .. }
            | Self::Maven { source, .. }
            | Self::Debian { source: DebianSource::Tree { source } | DebianSource::Dsc { source, .. } } => Some(source),
            Self::Debian { source: DebianSource::Archive { .. } } | Self::Portage { .. } | Self::Resolve { .. } => None,
        }
    }

    /// The backend's name, as people write it.
    pub fn backend(&self) -> &'static str {
        match self {
            Self::Command { .. } => "command",
            Self::Debian { .. } => "debian",
            Self::Portage { .. } => "portage",
            Self::Maven { .. } => "maven",
            Self::Resolve { .. } => "resolve",
        }
    }
}

/// What a `debian` job builds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DebianSource {
    /// A source package of the drone's configured archives.
    Archive {
        /// Source package name.
        package: String,
        /// Exact version, the newest when absent.
        version: Option<String>,
    },
    /// A source tree with `debian/` in it.
    Tree {
        /// The archived tree or repository.
        source: Source,
    },
    /// A `.dsc` with the files that it names beside it.
    Dsc {
        /// The archived directory or repository.
        source: Source,
        /// Name of the `.dsc` in it.
        file: String,
    },
}

/// Limits of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Wall clock for the whole attempt, milliseconds.
    pub timeout_ms: u64,
    /// Longest time without a byte of output, milliseconds.
    pub silence_timeout_ms: u64,
    /// Largest log kept, bytes; the attempt goes on, the rest is counted and dropped.
    pub log_max_bytes: u64,
    /// Most processes at once.
    pub processes_max: u32,
    /// Memory, MiB; 0: what the drone allows.
    pub memory_max_mb: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout_ms: 6 * 3_600_000,
            silence_timeout_ms: 3_600_000,
            log_max_bytes: 64 << 20,
            processes_max: 4_096,
            memory_max_mb: 0,
        }
    }
}

/// A job as it is submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Chosen by the submitter.
    pub id: JobId,
    /// What to do.
    pub work: Work,
    /// Shown to people: package name, or program and source.
    pub target: String,
    /// −100…100, higher first.
    pub priority: i32,
    /// Labels, tools and features a drone must have.
    #[serde(default)]
    pub labels: BTreeSet<String>,
    /// Tools with the lowest version that will do; empty: any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, String>,
    /// Processors that its drone must have; 0: any.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cores: u32,
    /// Space that must be free where its drone builds, MiB; 0: what the drone itself demands.
    #[serde(default, skip_serializing_if = "is_zero_wide")]
    pub disk_mb: u64,
    /// Jobs that must have succeeded before this one may begin.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub depends_on: BTreeSet<JobId>,
    /// The accepted artifact is its only effect, so it may run through a partition and be run again.
    #[serde(default)]
    pub pure: bool,
    /// It has effects outside, and having them twice is declared to be harmless: it is tried again after it was interrupted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub idempotent: bool,
    /// Names of the secrets that it gets in its environment, from the drone that runs it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub secrets: BTreeSet<String>,
    /// Limits of each attempt.
    #[serde(default)]
    pub limits: Limits,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references")]
fn is_zero_wide(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// What a drone must have to be given a job. Jobs with equal needs compete for the same drones.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needs {
    /// Labels, tools and features, those that the kind of work implies included.
    pub labels: BTreeSet<String>,
    /// Tools with the lowest version that will do.
    pub tools: BTreeMap<String, String>,
    /// Processors.
    pub cores: u32,
    /// Memory, MiB.
    pub memory_mb: u64,
    /// Free disk, MiB.
    pub disk_mb: u64,
    /// Only hive itself can do it: drones of the Python swarm know names of Gentoo packages and nothing else.
    pub agent: bool,
}

impl JobSpec {
    /// A job with nothing but its work: no labels, no dependencies, the usual limits, with effects outside.
    pub fn new(id: JobId, target: impl Into<String>, work: Work) -> Self {
        Self {
            id,
            work,
            target: target.into(),
            priority: 0,
            labels: BTreeSet::new(),
            tools: BTreeMap::new(),
            cores: 0,
            disk_mb: 0,
            depends_on: BTreeSet::new(),
            pure: false,
            idempotent: false,
            secrets: BTreeSet::new(),
            limits: Limits::default(),
        }
    }

    /// What its drone must have: the labels asked for, and the tools without which its kind of work cannot begin.
    pub fn needs(&self) -> Needs {
        let tool = match &self.work {
            Work::Command { .. } => None,
            Work::Debian { .. } => Some("tool:dpkg-buildpackage"),
            Work::Portage { .. } | Work::Resolve { .. } => Some("tool:emerge"),
            Work::Maven { .. } => Some("lang:java"),
        };
        let git = self.work.source().filter(|source| matches!(source, Source::Git { .. })).map(|_| "tool:git");
        let tree = match &self.work {
            Work::Portage { tree, .. } => tree.as_ref().map(|tree| format!("tree:{tree}")),
            Work::Command { .. } | Work::Debian { .. } | Work::Maven { .. } | Work::Resolve { .. } => None,
        };
        let implied = tool.into_iter().chain(git).map(str::to_owned).chain(tree);
        Needs {
            labels: self.labels.iter().cloned().chain(implied).collect(),
            tools: self.tools.clone(),
            cores: self.cores,
            memory_mb: self.limits.memory_max_mb,
            disk_mb: self.disk_mb,
            agent: !matches!(self.work, Work::Portage { .. }) || !self.secrets.is_empty(),
        }
    }

    /// What its history is kept under: the package without its version, or the target.
    pub fn package(&self) -> &str {
        match &self.work {
            Work::Portage { atom, .. } => grammar::package_of_atom(atom),
            Work::Debian { source: DebianSource::Archive { package, .. } } => package,
            Work::Debian { .. } | Work::Command { .. } | Work::Maven { .. } | Work::Resolve { .. } => &self.target,
        }
    }

    /// It may be run again after it began: it has no effects outside, or having them twice is declared to be harmless.
    pub fn may_repeat(&self) -> bool {
        self.pure || self.idempotent
    }

    /// Whether one result would do for both: what is built, of what and where it may be, and not how urgent it is.
    pub fn does_the_same_as(&self, other: &Self) -> bool {
        self.pure
            && other.pure
            && self.work == other.work
            && self.labels == other.labels
            && self.tools == other.tools
            && self.secrets == other.secrets
    }

    /// Whether this asks for what a job is that was queued before: equal but for the commit that its first attempt pinned.
    pub fn asks_the_same_as(&self, queued: &Self) -> bool {
        let mut asked = self.clone();
        let mut queued = queued.clone();
        if let (Some(Source::Git { commit: None, .. }), Some(Source::Git { commit, .. })) =
            (asked.git_source_mut(), queued.git_source_mut())
        {
            *commit = None;
        }
        // What it waited for and had succeeded was struck out.
        if queued.depends_on.is_subset(&asked.depends_on) {
            asked.depends_on.clone_from(&queued.depends_on);
        }
        asked == queued
    }

    /// The Git source, if it has one.
    pub fn git_source_mut(&mut self) -> Option<&mut Source> {
        let source = match &mut self.work {
            Work::Command { source, .. }
            | Work::Maven { source, .. }
            | Work::Debian { source: DebianSource::Tree { source } | DebianSource::Dsc { source, .. } } => source,
            Work::Debian { source: DebianSource::Archive { .. } } | Work::Portage { .. } | Work::Resolve { .. } => {
                return None;
            }
        };
        matches!(source, Source::Git { .. }).then_some(source)
    }
}

/// State of a job. The published transitions are in `state/queue.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a drone.
    Needed,
    /// Assigned to a drone.
    Delegated,
    /// Accepted: its artifacts are stored and verified.
    Received,
    /// Not tried again until somebody or time unblocks it.
    Blocked,
    /// Ended without success, and will not be retried.
    Failed,
    /// Ended by an operator.
    Cancelled,
    /// Too many drones were lost on it.
    Quarantined,
}

impl JobState {
    /// No further attempt will follow by itself.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Received | Self::Failed | Self::Cancelled | Self::Quarantined)
    }
}

/// State of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptState {
    /// Committed; the drone has not begun.
    Assigned,
    /// Running.
    Building,
    /// Built; artifacts are being stored and verified.
    Uploading,
    /// The result of the job.
    Accepted,
    /// Ended badly, see its class.
    Failed,
    /// The drone was given up.
    Lost,
    /// A newer attempt replaced it.
    Stale,
    /// An operator ended it.
    Cancelled,
}

impl AttemptState {
    /// It can no longer change anything.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Assigned | Self::Building | Self::Uploading)
    }
}

/// Whose fault a failure is. Only `build` counts against the package, only `infra` against the drone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The package does not build.
    Build,
    /// Upload, disk, memory, a lost drone, a time-out of ours.
    Infra,
    /// It may or can not be built (masked, unsatisfiable, forbidden).
    Policy,
    /// An operator ended it.
    Cancelled,
    /// A newer attempt replaced it.
    Stale,
}

/// A file that an attempt produced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Artifact {
    /// File name, without any directory.
    pub name: String,
    /// Digest of its bytes.
    pub sha256: Sha256Hash,
    /// Length in bytes.
    pub size: u64,
}

/// How an attempt ended, as its drone reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Artifacts are stored on the drone and were verified by it.
    Succeeded {
        /// What came out.
        artifacts: Vec<Artifact>,
    },
    /// It did not work.
    Failed {
        /// Whose fault.
        class: FailureClass,
        /// One sentence for people, at most 500 bytes.
        reason: String,
        /// Exit code, absent when a signal or hive ended it.
        exit_code: Option<i32>,
    },
    /// The drone gives it back without having begun, and without anybody's fault.
    Returned {
        /// One sentence for people.
        reason: String,
    },
    /// Built, but its files could not be brought where they belong. Counts for the drone's uploads alone.
    NotUploaded {
        /// One sentence for people.
        reason: String,
    },
}

/// One try of a job on one drone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// 1, 2, 3 …
    pub attempt: u32,
    /// Its fencing token.
    pub token: Token,
    /// The drone.
    pub node: PeerId,
    /// Where it stands.
    pub state: AttemptState,
    /// When it was assigned, by the coordinator's clock.
    pub assigned_at: UnixMillis,
    /// When the drone began.
    pub started_at: Option<UnixMillis>,
    /// When it was over.
    pub ended_at: Option<UnixMillis>,
    /// Whose fault, once failed.
    pub class: Option<FailureClass>,
    /// One sentence for people, once failed, lost, stale or cancelled.
    pub reason: Option<String>,
    /// Exit code of the build, where there was one.
    pub exit_code: Option<i32>,
}

/// What went wrong with a job so far, by kind. Kept apart from the attempts because only the newest of those are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Attempts that failed to build.
    pub build_failures: u32,
    /// Attempts that failed for another reason than the package.
    pub infra_failures: u32,
    /// Drones that were given up while they had it, each with how often after it had begun there. Placing avoids them.
    pub lost_on: BTreeMap<PeerId, u32>,
    /// Drones on which it failed to build, each with the hive time before which it is not tried there again.
    pub failed_on: BTreeMap<PeerId, u64>,
    /// How often it was blocked without anybody's doing.
    pub blocks: u32,
}

/// A job as the replicated state holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What was asked for.
    pub spec: JobSpec,
    /// What it was queued with.
    pub session: SessionId,
    /// Position in the hive's order of submission.
    pub ordinal: u64,
    /// Who queued it.
    pub submitter: String,
    /// When, by the coordinator's clock.
    pub submitted_at: UnixMillis,
    /// Where it stands.
    pub state: JobState,
    /// All tries, oldest first. At most [`ATTEMPTS_KEPT`].
    pub attempts: Vec<Attempt>,
    /// The accepted result.
    pub artifacts: Vec<Artifact>,
    /// Where the artifacts were first stored.
    pub artifact_node: Option<PeerId>,
    /// Not before this hive time (back-off), milliseconds.
    pub not_before_ms: u64,
    /// Why it is blocked, failed, cancelled or quarantined.
    pub reason: Option<String>,
    /// Until this hive time it stays blocked, milliseconds; none: until somebody unblocks it. Only while it is blocked.
    pub block_until_ms: Option<u64>,
    /// Another job that does the same and was queued before: this one is not run, and ends as that one does.
    pub joined: Option<JobId>,
    /// What went wrong so far.
    pub tally: Tally,
    /// Position in the hive's order of ending; 0 while it is not over.
    pub finish_ordinal: u64,
}

/// Tries kept per job; older ones are dropped when more follow.
pub const ATTEMPTS_KEPT: usize = 32;

impl Job {
    /// The attempt that may still change something, if any.
    pub fn live_attempt(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|attempt| !attempt.state.is_over())
    }
}
