//! What can be asked of the replicated state: commands, their replies, and the envelope in which they travel through the log.
//!
//! A log entry is one [`Batch`]: up to [`BATCH_COMMANDS_MAX`] commands, each with an answer of its own. Inside the batch
//! every command is a byte string with the version of its encoding in front, so that a replica that does not know it can
//! say so by index and version, and halt, instead of guessing.

use serde::{Deserialize, Serialize};

use super::access::AccessChange;
use super::audit::{AuditNote, GivenAnswer, Once};
use super::control::Control;
use super::id::{Epoch, HiveId, JobId, PeerId, SessionId, Token, UnixMillis};
use super::job::{JobSpec, Outcome};
use super::legacy::LegacyInfo;
use super::member::{MemberInfo, RoleClaim};
use super::session::SessionAbout;

/// Deepest nesting accepted in an encoded command; the deepest that is written has 9 levels.
const NESTING_MAX: usize = 32;

/// Most commands in one log entry.
pub const BATCH_COMMANDS_MAX: usize = 256;
/// Longest encoded command, bytes.
pub const COMMAND_MAX_BYTES: usize = 64 << 10;
/// Most jobs in one `Submit`; more are several commands of one session.
pub const SUBMIT_JOBS_MAX: usize = 64;
/// The feature level this build can apply.
pub const FEATURE_LEVEL: u32 = 1;
/// Version of the encoding of [`Command`] and [`Batch`].
pub const ENVELOPE_VERSION: u16 = 1;

/// A change of the replicated state. Everything it needs (ids, times, random numbers) is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Command {
    /// First command of a hive.
    Found {
        /// The hive.
        hive_id: HiveId,
        /// Its first epoch.
        epoch: Epoch,
        /// Its first member.
        founder: MemberInfo,
    },
    /// A node joins, or says that something about it changed.
    Admit {
        /// The node.
        member: MemberInfo,
    },
    /// The node takes part in Raft under this id (none: no longer).
    BindReplica {
        /// The node.
        peer_id: PeerId,
        /// Random per Raft directory, never reused.
        raft_id: Option<u64>,
    },
    /// The node said farewell.
    Leave {
        /// The node.
        peer_id: PeerId,
    },
    /// Take the first role of the ranking that still has room.
    ClaimRole {
        /// The node.
        peer_id: PeerId,
        /// The ballot's outcome, best first.
        ranking: Vec<RankedRole>,
        /// The ballot, for people and for repetition.
        ballot: String,
    },
    /// Queue jobs. A job whose id is known is left as it is.
    Submit {
        /// The session, made when it is new.
        session: SessionId,
        /// Who, and what is said of the session if it is new.
        about: SessionAbout,
        /// A new session is a draft, handed in by this node: its jobs are neither seen nor run before it is opened.
        draft: Option<PeerId>,
        /// At most [`SUBMIT_JOBS_MAX`].
        jobs: Vec<JobSpec>,
    },
    /// Makes the jobs of a draft visible, all at once, and runs them.
    OpenSession {
        /// The session.
        session: SessionId,
        /// How many jobs were handed in; refused when some are missing.
        jobs: u64,
    },
    /// Takes a draft back, with all its jobs.
    DropSession {
        /// The session.
        session: SessionId,
        /// Why, for whoever looks at its resolution.
        reason: String,
    },
    /// Give a job to a drone. Refused unless the job is `needed` and the drone a member.
    Assign {
        /// The job.
        job: JobId,
        /// The drone.
        node: PeerId,
    },
    /// A drone says how its attempt goes. Refused as stale unless the token is the job's last.
    Report {
        /// The job.
        job: JobId,
        /// The attempt.
        token: Token,
        /// What happened.
        progress: Progress,
    },
    /// The coordinator gives up on a drone's attempt.
    Lose {
        /// The job.
        job: JobId,
        /// The attempt; refused when it is not the live one.
        token: Token,
        /// One sentence.
        reason: String,
    },
    /// The coordinator takes back what has not begun, to give it to another drone. Nobody is to blame.
    Revoke {
        /// The job.
        job: JobId,
        /// The attempt; refused when it is not the live one, or has begun.
        token: Token,
        /// One sentence.
        reason: String,
    },
    /// A block that was not made by hand is over.
    EndBlock {
        /// The job; refused before its time.
        job: JobId,
    },
    /// An operator acts on the queue or on drones.
    Control {
        /// What.
        action: Control,
        /// Who.
        by: String,
        /// One sentence, may be empty.
        why: String,
    },
    /// An operator ends a job.
    Cancel {
        /// The job.
        job: JobId,
        /// Who and why.
        reason: String,
    },
    /// A drone of the Python swarm came, or says something else about itself than before.
    RegisterLegacy {
        /// The drone.
        drone: LegacyInfo,
    },
    /// It is taken off the list.
    ForgetLegacy {
        /// The drone.
        peer_id: PeerId,
    },
    /// The admin key or a token changes.
    Access {
        /// What.
        change: AccessChange,
        /// Who.
        by: String,
    },
    /// Somebody is about to have something done. Proposed before it is done.
    Audit {
        /// Who has what done.
        note: AuditNote,
        /// Refused as stale when this was asked before, within a day.
        once: Option<Once>,
    },
    /// What was answered to a request that may be repeated.
    KeepAnswer {
        /// As in [`Once::key`].
        #[serde(with = "serde_bytes")]
        key: [u8; 32],
        /// The answer.
        answer: GivenAnswer,
    },
    /// Apply follows the rules of this level from here on. Only rises.
    RaiseFeatureLevel {
        /// The level.
        level: u32,
    },
    /// `hive restore`: a new hive goes on from the state of another one, which its backup holds. First command of that hive.
    BeginHive {
        /// The new hive.
        hive_id: HiveId,
        /// Its first epoch; follows that of the backup.
        epoch: Epoch,
        /// Its first and only member.
        founder: MemberInfo,
    },
    /// `hive recover`: history goes on under a new epoch.
    BeginEpoch {
        /// The new epoch.
        epoch: Epoch,
    },
}

impl Command {
    /// Queues jobs at once, in a session without a name.
    pub fn submit(session: SessionId, submitter: impl Into<String>, jobs: Vec<JobSpec>) -> Self {
        Self::Submit { session, about: SessionAbout::by(submitter), draft: None, jobs }
    }
}

/// One role of a ballot's outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankedRole {
    /// Name of the role.
    pub role: String,
    /// At most so many members of this role, none: no limit.
    pub cap: Option<u32>,
}

/// What a drone reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// The build runs. A ref that was moving is pinned to this commit from here on.
    Building {
        /// Set by the first attempt of a job on a moving ref.
        pinned_commit: Option<String>,
    },
    /// The build is over and its files are being stored.
    Uploading,
    /// It is over.
    Ended {
        /// How.
        outcome: Outcome,
    },
}

/// Who proposed a command, so that a retry is recognised and answered with the first reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The node at which it was proposed.
    pub peer_id: PeerId,
    /// That node's incarnation.
    pub incarnation: u64,
    /// Rising per incarnation, from 1.
    pub sequence: u64,
}

/// A command on its way into the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// For recognising a retry.
    pub origin: Origin,
    /// Version of the encoding of `command`.
    pub version: u16,
    /// The encoded [`Command`].
    #[serde(with = "serde_bytes")]
    pub command: Vec<u8>,
}

/// A command that this build cannot understand, so that a replica that finds it in the log must halt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotUnderstood {
    /// Another encoding.
    #[error("its encoding has version {version}; this build knows {ENVELOPE_VERSION}")]
    Version {
        /// The encoding's version.
        version: u16,
    },
    /// Damaged, or written by a build that knows more fields and did not say so in the version.
    #[error("it cannot be decoded: {0}")]
    Malformed(String),
}

impl Proposal {
    /// Wraps a command.
    pub fn new(origin: Origin, command: &Command) -> Self {
        Self { origin, version: ENVELOPE_VERSION, command: encode(command) }
    }

    /// Unwraps the command. The coordinator does this before it appends a proposal to the log, because an entry that is
    /// not understood stops every replica.
    ///
    /// The command must be encoded exactly as this build would encode it: a field that this build does not know, at
    /// whatever depth, is thus noticed instead of ignored.
    pub fn decode(&self) -> Result<Command, NotUnderstood> {
        if self.version != ENVELOPE_VERSION {
            return Err(NotUnderstood::Version { version: self.version });
        }
        let command: Command = ciborium::de::from_reader_with_recursion_limit(self.command.as_slice(), NESTING_MAX)
            .map_err(|error| NotUnderstood::Malformed(error.to_string()))?;
        // Compared while it is written: no copy of it is made.
        let mut rest = Expected(Some(&self.command));
        match ciborium::into_writer(&command, &mut rest) {
            Ok(()) if rest.0 == Some(&[]) => Ok(command),
            Ok(()) | Err(_) => {
                Err(NotUnderstood::Malformed("it holds something that this build does not know".to_owned()))
            }
        }
    }
}

/// Takes only what is written as expected. None: something else was written.
struct Expected<'a>(Option<&'a [u8]>);

impl std::io::Write for Expected<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.and_then(|rest| rest.strip_prefix(bytes));
        if self.0.is_some() { Ok(bytes.len()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn encode(command: &Command) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    ciborium::into_writer(command, &mut bytes)
        .expect("memory takes every write, and no type in a command refuses to be serialised");
    bytes
}

/// One log entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Version of this structure.
    pub version: u16,
    /// Milliseconds of the leader's monotonic clock since its last entry (0 for its first). Their sum is *hive time*.
    pub elapsed_ms: u64,
    /// The leader's wall clock, for people.
    pub at: UnixMillis,
    /// The commands, in order.
    pub proposals: Vec<Proposal>,
}

/// The answer to one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done, and nothing more to say.
    Done,
    /// The role that was taken.
    Role {
        /// The claim as it was committed.
        claim: RoleClaim,
    },
    /// The attempt that was assigned.
    Assigned {
        /// Its fencing token.
        token: Token,
        /// Its number.
        attempt: u32,
    },
    /// What an operator's action changed.
    Changed {
        /// Jobs.
        jobs: u64,
        /// Drones.
        drones: u64,
    },
    /// Understood and refused; nothing changed.
    Rejected {
        /// Stable word for programs.
        code: RejectCode,
        /// One sentence for people.
        message: String,
    },
}

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectCode {
    /// No such job, member or session.
    NotFound,
    /// The token is not the last one issued for the job.
    Stale,
    /// The thing is in a state in which this makes no sense.
    Conflict,
    /// A limit or a grammar was not kept.
    Invalid,
    /// Every role of the ranking is full.
    NoRoom,
    /// The sender's sequence number is older than the window that is kept.
    TooOld,
}
