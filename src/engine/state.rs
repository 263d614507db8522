//! The replicated state and its deterministic `apply`.
//!
//! ```text
//!   log entry ─► understand ─► for each command: seen before? ─► execute ─► reply
//!                    │                                             │
//!                    ▼                                             ▼
//!                  Halt (nothing changed)        changed rows, each once ─► chain, store
//! ```
//!
//! The state is a set of rows (table, key, canonical CBOR); [`State`] is that set decoded, with indexes. Every replica that
//! applied the same entries holds the same rows and the same [`chain`](State::chain). Rules of members are in `members`, of
//! roles in `roles`, of drones of the Python swarm in `legacy`, of the queue in `queue`, `sessions`, `gates` and `reports`, of operators in `control`, of a
//! hive that goes on from a backup in `restoring`, of keys in `access`, of what people had done in `audit`, of retries in `origins`. Never done here: reading a clock, choosing
//! who builds what, or writing anything anywhere.
//!
//! Jobs that are over stay in memory while they are among the newest [`TERMINAL_KEPT`]; then they become
//! rows of the history table, which are not read back, and of which the newest [`HISTORY_KEPT`] are kept.

mod access;
mod audit;
mod checking;
mod control;
mod drones;
mod events;
mod gates;
mod jobs;
mod legacy;
mod members;
mod meta;
mod origins;
mod packages;
mod queue;
mod read;
mod reports;
mod restoring;
mod roles;
mod rows;
mod sessions;
mod urgency;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::command::{Batch, COMMAND_MAX_BYTES, Command, ENVELOPE_VERSION, FEATURE_LEVEL, Origin, RejectCode, Reply};
use super::event::{self, Event};
use super::id::UnixMillis;

pub use self::access::TOKENS_MAX;
pub use self::audit::{ANSWER_KEPT_MAX, AUDIT_KEPT, ONCE_KEPT, ONCE_MS};
pub use self::drones::{
    DRONE_INFRA_FAILURES_MAX, Decision, Drain, DroneRecord, GROUNDED_MS, UPLOAD_FAILURES_MAX, UPLOAD_PAUSE_MS,
};
pub use self::jobs::{HISTORY_KEPT, QueueCounts, TERMINAL_KEPT};
pub use self::legacy::Machine;
pub use self::members::{ADDRESSES_MAX, MEMBERS_MAX};
pub use self::origins::WINDOW;
pub use self::packages::{Estimate, PACKAGES_MAX, PackageRecord, SAMPLES_MAX, Sample, UNKNOWN_DURATION_MS};
pub use self::queue::OPEN_JOBS_MAX;
pub use self::read::{Bucket, Wait};
pub use self::reports::{
    BLOCK_MAX_MS, BLOCK_MS, BLOCKS_MAX, BUILD_FAILURES_MAX, DIFFERENT_DRONES_MAX, INFRA_FAILURES_MAX, LOSSES_MAX,
};
pub use self::sessions::SESSIONS_KEPT;

/// Most events of one entry; the last position is left to what is no command.
const EVENTS_MAX: usize = 4_095;

/// Numbers of the tables.
pub mod table {
    /// Key `hive`: what there is once per hive. Key `chain`: last index and chain hash.
    pub const META: u8 = 1;
    /// Key: PeerId. Value: `Member`.
    pub const MEMBERS: u8 = 2;
    /// Key: Raft id, 8 bytes, big-endian. Value: who used it. Ids stay here when they are no longer bound.
    pub const RAFT_IDS: u8 = 3;
    /// Key: PeerId. Value: what went wrong at this drone lately.
    pub const DRONES: u8 = 4;
    /// Key: SessionId. Value: `Session`.
    pub const SESSIONS: u8 = 5;
    /// Key: position in the order of submission (8 bytes, big-endian), so that neighbours in the queue are neighbours on the disk. Value:
    /// `Job`. All that are not over, and the newest that are.
    pub const JOBS: u8 = 6;
    /// Key: PeerId. Value: incarnation and highest sequence number of its proposals.
    pub const ORIGINS: u8 = 7;
    /// Key: PeerId, a zero byte, slot (2 bytes, big-endian). Value: sequence number and reply.
    pub const REPLIES: u8 = 8;
    /// Key: position in the order of ending (8 bytes, big-endian), 1 when it was received, else 0, JobId. Value: `Job`. Written, never
    /// read back here.
    pub const HISTORY: u8 = 9;
    /// Key: package without its version. Value: `PackageRecord`.
    pub const PACKAGES: u8 = 10;
    /// Key: PeerId. Value: `LegacyDrone`.
    pub const LEGACY: u8 = 11;
    /// Key: `admin`, `sessions`, or `token ` and a name. Value: `AdminKey`, the number under which browsers sign in, or `Token`.
    pub const KEYS: u8 = 12;
    /// Key: number (8 bytes, big-endian), or `head`. Value: `AuditEntry`, or both ends of what is kept.
    pub const AUDIT: u8 = 13;
    /// Key: digest of holder and idempotency key. Value: what was asked, and the answer.
    pub const ASKED: u8 = 14;
}

/// A row of the durable form of the state. The state is exactly the set of its rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Row {
    /// Which table, see the constants of [`table`].
    pub table: u8,
    /// Key in the table, unique.
    pub key: Vec<u8>,
}

/// A change of one row: its new value, or none when it is deleted. Ordered by table and key, each row at most once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which row.
    pub row: Row,
    /// Canonical CBOR, or none.
    pub value: Option<Vec<u8>>,
}

/// What one batch did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// One per proposal, in order.
    pub replies: Vec<Reply>,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// What to write, in the same transaction as the applied index.
    pub changes: Vec<Change>,
}

/// The commands of a batch, decoded; none for one that is too long.
#[derive(Debug)]
pub struct Understood(Vec<Option<Command>>);

/// This replica cannot go on: the entry is not understood. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {index} cannot be applied: {why}")]
pub struct Halt {
    /// Log index.
    pub index: u64,
    /// What was not understood, and which version of hive might.
    pub why: String,
}

/// A row of the durable form could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stored state is damaged: table {table}, key {key}: {why}")]
pub struct LoadError {
    /// Table number.
    pub table: u8,
    /// Key in hexadecimal.
    pub key: String,
    /// What is wrong.
    pub why: String,
}

/// The replicated state.
#[derive(Debug, Default, Clone)]
pub struct State {
    meta: meta::Meta,
    chain: meta::Chain,
    members: members::Members,
    legacy: legacy::Legacy,
    jobs: jobs::Jobs,
    origins: origins::Origins,
    keys: access::Keys,
    audit: audit::Audit,
    /// Rows that the batch being applied has changed. Empty between batches.
    dirty: BTreeSet<rows::RowKey>,
    /// Values of history rows written by the batch being applied: the only rows whose value is not held in memory.
    history: BTreeMap<rows::RowKey, Vec<u8>>,
    /// What the batch being applied did, for people. Empty between batches.
    told: Vec<Event>,
}

/// What a command may know besides itself and the state.
#[derive(Clone, Copy)]
struct Context {
    /// Wall clock of the leader, to be shown.
    at: UnixMillis,
}

/// Why a command changes nothing.
struct Reject {
    code: RejectCode,
    message: String,
}

/// What executing a command gives.
type Executed = Result<Reply, Reject>;

fn reject<T>(code: RejectCode, message: impl Into<String>) -> Result<T, Reject> {
    Err(Reject { code, message: message.into() })
}

impl From<Reject> for Reply {
    fn from(reject: Reject) -> Self {
        Self::Rejected { code: reject.code, message: reject.message }
    }
}

/// Cuts text for people to `max_bytes`, without control characters.
fn clip(text: &str, max_bytes: usize) -> String {
    let mut out = String::new();
    for character in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if out.len() + character.len_utf8() > max_bytes {
            break;
        }
        out.push(character);
    }
    out
}

impl State {
    /// The state before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rebuilds the state from its rows, in any order. Rows of the history table may be left out only if their keys are not
    /// known either: of those, the key is needed and the value ignored.
    pub fn from_rows(rows: impl IntoIterator<Item = (Row, Vec<u8>)>) -> Result<Self, LoadError> {
        rows::load(rows)
    }

    /// All rows held in memory: everything but those of [`table::HISTORY`].
    pub fn rows(&self) -> BTreeMap<Row, Vec<u8>> {
        rows::dump(self)
    }

    /// Applies one log entry. Total and deterministic: the same state and entry give the same replies and changes everywhere.
    ///
    /// `index` must be greater than that of the entry before; entries that hold no batch (blank, membership) may lie between.
    pub fn apply(&mut self, index: u64, batch: &Batch) -> Result<Applied, Halt> {
        let understood = self.understand(index, batch)?;
        Ok(self.carry_out(index, batch, understood))
    }

    /// The second half of [`apply`](Self::apply): the same batch, as it was [understood](Self::understand) by this state.
    pub fn carry_out(&mut self, index: u64, batch: &Batch, understood: Understood) -> Applied {
        self.meta.hive_time_ms = self.meta.hive_time_ms.saturating_add(batch.elapsed_ms);
        let context = Context { at: batch.at };
        let replies = batch
            .proposals
            .iter()
            .zip(understood.0)
            .map(|(proposal, command)| self.answer(context, &proposal.origin, command))
            .collect();
        let mut events = std::mem::take(&mut self.told);
        events.truncate(EVENTS_MAX);
        for (event, position) in events.iter_mut().zip(0..) {
            event.id = index.saturating_mul(event::PER_ENTRY).saturating_add(position);
        }
        Applied { replies, events, changes: self.take_changes(index) }
    }

    /// Hash over all changes ever applied; equal on all replicas at the same index.
    pub fn chain(&self) -> [u8; 32] {
        self.chain.hash
    }

    /// Decodes everything before anything is applied, so that a halt leaves no trace, and nobody who reads waits for it. A command that is
    /// only too long is understood, as far as it takes to refuse it.
    pub fn understand(&self, index: u64, batch: &Batch) -> Result<Understood, Halt> {
        let halt = |why: String| Halt { index, why };
        if batch.version != ENVELOPE_VERSION {
            let version = batch.version;
            return Err(halt(format!(
                "batch of version {version}, this hive knows {ENVELOPE_VERSION}: upgrade hive here"
            )));
        }
        if self.meta.feature_level > FEATURE_LEVEL {
            let level = self.meta.feature_level;
            return Err(halt(format!(
                "the hive is at feature level {level}, this hive knows {FEATURE_LEVEL}: upgrade it"
            )));
        }
        if index <= self.chain.index {
            return Err(halt(format!("entry {} was applied before", self.chain.index)));
        }
        let decode = |(position, proposal): (usize, &super::command::Proposal)| {
            if proposal.command.len() > COMMAND_MAX_BYTES {
                return Ok(None);
            }
            let command = proposal.decode();
            command.map(Some).map_err(|error| halt(format!("command {position}: {error}; upgrade hive here")))
        };
        batch.proposals.iter().enumerate().map(decode).collect::<Result<_, _>>().map(Understood)
    }

    fn answer(&mut self, context: Context, origin: &Origin, command: Option<Command>) -> Reply {
        match self.origins.look_up(origin) {
            origins::Seen::Before(reply) => return reply,
            origins::Seen::Refused(reject) => return reject.into(),
            origins::Seen::Never => {}
        }
        let clue = command.as_ref().and_then(|command| self.clue(command));
        let executed = match command {
            Some(command) => self.execute(context, command),
            None => reject(RejectCode::Invalid, format!("the command is longer than {COMMAND_MAX_BYTES} bytes")),
        };
        let reply = executed.unwrap_or_else(Reply::from);
        self.remember_reply(origin, &reply);
        if let Some(clue) = clue {
            self.tell(context, clue, &reply);
        }
        reply
    }

    fn execute(&mut self, context: Context, command: Command) -> Executed {
        if self.meta.hive_id.is_none() && !matches!(command, Command::Found { .. }) {
            return reject(RejectCode::Conflict, "the hive is not founded yet");
        }
        match command {
            Command::Found { hive_id, epoch, founder } => self.found(context, hive_id, epoch, founder),
            Command::Admit { member } => self.admit(context, member),
            Command::BindReplica { peer_id, raft_id } => self.bind_replica(&peer_id, raft_id),
            Command::Leave { peer_id } => self.leave(&peer_id),
            Command::ClaimRole { peer_id, ranking, ballot } => self.claim_role(context, &peer_id, &ranking, &ballot),
            Command::Submit { session, about, draft, jobs } => self.submit(context, session, about, draft, jobs),
            Command::OpenSession { session, jobs } => self.open_session(context, session, jobs),
            Command::DropSession { session, reason } => self.drop_session(context, session, &reason),
            Command::Assign { job, node } => self.assign(context, job, &node),
            Command::Report { job, token, progress } => self.report(context, job, token, progress),
            Command::Lose { job, token, reason } => self.lose(context, job, token, &reason),
            Command::Revoke { job, token, reason } => self.revoke(context, job, token, &reason),
            Command::EndBlock { job } => self.end_block(context, job),
            Command::Control { action, by, why } => self.control(context, &action, &by, &why),
            Command::Cancel { job, reason } => self.cancel(context, job, &reason),
            Command::RegisterLegacy { drone } => self.register_legacy(context, drone),
            Command::ForgetLegacy { peer_id } => self.forget_legacy(&peer_id),
            Command::Access { change, by } => self.change_access(context, change, &by),
            Command::Audit { note, once } => self.note_act(context, note, once),
            Command::KeepAnswer { key, answer } => self.keep_answer(key, answer),
            Command::RaiseFeatureLevel { level } => self.raise_feature_level(level),
            Command::BeginHive { hive_id, epoch, founder } => self.begin_hive(context, hive_id, epoch, founder),
            Command::BeginEpoch { epoch } => self.begin_epoch(epoch),
        }
    }

    /// Turns what the batch touched into changes, and seals them into the chain.
    fn take_changes(&mut self, index: u64) -> Vec<Change> {
        self.dirty.insert(rows::RowKey::Meta);
        let dirty = std::mem::take(&mut self.dirty);
        let mut changes: Vec<Change> =
            dirty.iter().map(|key| Change { row: key.row(), value: rows::value(self, key) }).collect();
        self.history.clear();
        self.chain.seal(index, &changes);
        // Written with the others, but no part of what it hashes. Sorts before them: META is the lowest table, and `chain`
        // lies before `hive`.
        changes.insert(0, Change { row: rows::RowKey::Chain.row(), value: rows::value(self, &rows::RowKey::Chain) });
        changes
    }
}
