//! Copies of the state that outlive the hive, and the new hive that goes on from one.
//!
//! ```text
//!   backup:   Replica ─► copy of hive.db at one entry
//!   restore:  copy ─► rows read, chain compared ─► hive.db of the new hive
//!                                             └──► raft.db: its only voter, and BeginHive as the first entry of its log
//! ```
//!
//! What becomes of members and work is decided by applying `BeginHive` (`engine::state::restoring`), when the agent starts: the copy's rows
//! stay as they are. Never done here: replacing what is there (the caller sees to it that nothing is).

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::codec;
use super::lifecycle::{alone, first_entry, new_raft_id};
use super::replica::{SnapshotFile, load_state};
use super::types::Vote;
use super::{Consensus, ConsensusError};
use crate::clock;
use crate::engine::audit::AuditNote;
use crate::engine::command::{Batch, Command, ENVELOPE_VERSION, FEATURE_LEVEL, Origin, Proposal, Reply};
use crate::engine::id::{Epoch, EpochId, HiveId, UnixMillis};
use crate::engine::job::JobState;
use crate::engine::member::MemberInfo;
use crate::engine::state::{QueueCounts, State};
use crate::store::backup::Header;
use crate::store::hive_db::{self, HiveMeta};
use crate::store::raft_db::{Binding, Genesis, LogPoint, RaftDb, RaftMeta};
use crate::store::{StoreError, space, sync_directory};

/// Free bytes that a copy leaves at least: with 64 MiB a node takes nothing any more.
const SPARE_BYTES: u64 = 128 << 20;

/// A copy of the state in a file of this node, removed with the last owner.
#[derive(Clone, Debug)]
pub struct Backup(Arc<SnapshotFile>);

impl Backup {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// What to write in front of it; none when nothing was applied yet.
    pub fn header(&self, node: &str, made_at: UnixMillis) -> Option<Header> {
        Header::of(&self.0.meta, node, made_at, (self.0.size, self.0.sha256))
    }
}

impl Consensus {
    /// Copies the state as it is at one entry of the log, while everything goes on. A copy that was made for somebody else at the same entry
    /// is given again.
    pub async fn backup(&self) -> Result<Backup, ConsensusError> {
        let replica = self.replica();
        let (directory, bytes) = replica.file();
        let (free_bytes, _) = space::measure(&directory)?;
        let needed_bytes = bytes.saturating_add(SPARE_BYTES);
        if free_bytes < needed_bytes {
            return Err(ConsensusError::NoRoom { needed_bytes: bytes, free_bytes });
        }
        Ok(Backup(replica.backup().await?))
    }
}

/// A copy that was read whole and makes sense.
#[derive(Debug)]
pub struct Whole {
    meta: HiveMeta,
    state: State,
}

impl Whole {
    /// Reads a copy: every row is decoded, and they must be those that its chain and its header tell of. History is read when it is asked
    /// for; its rows are covered by the digest of the file.
    pub fn read(copy: &Path, header: &Header) -> Result<Self, StoreError> {
        let damaged = |what: String| StoreError::Damaged { path: copy.to_owned(), what };
        let (meta, rows) = hive_db::read_snapshot(copy)?;
        let state = load_state(copy, &meta, rows)?;
        codec::membership_from_bytes(&meta.membership).map_err(|error| damaged(error.to_string()))?;
        let told = (Some((header.hive_id, header.epoch)), Some(header.applied), header.chain.0);
        if (meta.hive, meta.applied, meta.chain) != told {
            return Err(damaged("it stands for something else than it says".to_owned()));
        }
        if state.feature_level() > FEATURE_LEVEL {
            let (found, known) = (state.feature_level(), FEATURE_LEVEL);
            let [found, known] = [found, known].map(|level| i32::try_from(level).unwrap_or(i32::MAX));
            return Err(StoreError::Newer { path: copy.to_owned(), found, known });
        }
        Ok(Self { meta, state })
    }

    /// Jobs in it.
    pub fn counts(&self) -> QueueCounts {
        self.state.counts()
    }

    /// Whether the new hive would take its first member; nothing is changed.
    pub fn try_begin(&self, new: &NewHive) -> Result<(), ConsensusError> {
        let (Some((_, old)), Some(applied)) = (self.meta.hive, self.meta.applied) else {
            return Err(ConsensusError::NoHive);
        };
        apply_first(&mut self.state.clone(), applied, &first_batch(epoch_after(old), new))
    }

    /// Members that had not left.
    pub fn members(&self) -> usize {
        self.state.members().filter(|member| !member.left).count()
    }
}

/// The hive that begins.
#[derive(Clone, Debug)]
pub struct NewHive {
    /// Random.
    pub hive_id: HiveId,
    /// Its first member, with an incarnation that was raised for this.
    pub founder: MemberInfo,
    /// What the audit log says of it.
    pub note: AuditNote,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Its epoch.
    pub epoch: Epoch,
    /// Jobs when it begins.
    pub counts: QueueCounts,
    /// Jobs that wait for a person, since they may have run already.
    pub held: u64,
}

/// Makes `hive.db` and `raft.db` in `directory` out of a copy that lies there under another name. There must be neither. After a crash in
/// between the directory is good for nothing: the caller marks it before.
pub fn begin(directory: &Path, copy: &Path, whole: Whole, new: &NewHive) -> Result<Begun, ConsensusError> {
    let Whole { meta, mut state } = whole;
    let (Some((_, old)), Some(applied)) = (meta.hive, meta.applied) else { return Err(ConsensusError::NoHive) };
    let epoch = epoch_after(old);
    let batch = first_batch(epoch, new);
    let next = |step: u64| LogPoint { term: applied.term + 1, index: applied.index + step };
    let blocked = |state: &State| state.jobs().filter(|job| job.state == JobState::Blocked).count() as u64;
    let before = blocked(&state);
    apply_first(&mut state, applied, &batch)?;
    let peer_id = &new.founder.peer_id;
    let raft_id = new_raft_id();
    let genesis = Genesis {
        meta: RaftMeta { raft_id, hive_id: new.hive_id, epoch, binding: Binding::of(directory)? },
        entries: vec![alone(peer_id, next(1), raft_id)?, first_entry(next(2), &batch)?],
        purged: Some(applied),
        vote: Some(codec::vote_to_bytes(&Vote::new(applied.term + 1, raft_id)).map_err(ConsensusError::Stored)?),
    };
    hive_db::adopt(copy, &HiveMeta { hive: Some((new.hive_id, epoch)), ..meta })?;
    let target = directory.join(hive_db::FILE);
    fs::rename(copy, &target).map_err(|error| StoreError::io("rename", copy, error))?;
    sync_directory(directory)?;
    RaftDb::create(directory, &genesis)?;
    Ok(Begun { epoch, counts: state.counts(), held: blocked(&state).saturating_sub(before) })
}

fn epoch_after(old: Epoch) -> Epoch {
    Epoch { counter: old.counter + 1, id: EpochId(rand::random()) }
}

/// A hive whose first command is refused would be one that nobody can use.
fn apply_first(state: &mut State, applied: LogPoint, batch: &Batch) -> Result<(), ConsensusError> {
    let tried = state.apply(applied.index + 2, batch).map_err(|halt| ConsensusError::Rejected(halt.to_string()))?;
    match tried.replies.into_iter().next() {
        Some(Reply::Rejected { message, .. }) => Err(ConsensusError::Rejected(message)),
        Some(Reply::Done | Reply::Role { .. } | Reply::Assigned { .. } | Reply::Changed { .. }) | None => Ok(()),
    }
}

fn first_batch(epoch: Epoch, new: &NewHive) -> Batch {
    let NewHive { hive_id, founder, note } = new;
    let commands = [
        Command::BeginHive { hive_id: *hive_id, epoch, founder: founder.clone() },
        Command::Audit { note: note.clone(), once: None },
    ];
    let proposals = commands.iter().zip(1..).map(|(command, sequence)| {
        let origin = Origin { peer_id: founder.peer_id.clone(), incarnation: founder.incarnation, sequence };
        Proposal::new(origin, command)
    });
    Batch { version: ENVELOPE_VERSION, elapsed_ms: 0, at: clock::unix_now(), proposals: proposals.collect() }
}
