//! The node's copy of the replicated state: in memory for reading, written through to `hive.db`.
//!
//! Voters and standbys apply through openraft, observers from the stream they follow; both call `Replica::apply`, so there is
//! one way in which an entry becomes state. An entry that is not understood halts the replica for good: it is never skipped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use openraft::EntryPayload;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::codec;
use super::events::EventRing;
use super::touched::TouchRing;
use super::types::{Entry, StoredMembership};
use crate::clock;
use crate::engine::command::{Batch, ENVELOPE_VERSION, Reply};
use crate::engine::event::{Event, EventKind, PER_ENTRY};
use crate::engine::id::{Epoch, HiveId, JobId, PeerId};
use crate::engine::job::Job;
use crate::engine::state::{Applied, Halt, Row, State};
use crate::store::hive_db::{self, HiveDb, HiveMeta};
use crate::store::raft_db::LogPoint;
use crate::store::{FatalHook, StoreError, set_aside};
use crate::transport::decode;

/// A snapshot file is handed to whoever asks for this long, so that an interrupted transfer can go on.
const SNAPSHOT_REUSED_MS: u64 = 120_000;
/// Directory of snapshot files that were made or are being received.
const SNAPSHOT_DIRECTORY: &str = "snapshots";

/// A voter or standby of the applied membership.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RaftMember {
    /// Its Raft directory.
    pub raft_id: u64,
    /// The node.
    pub peer_id: PeerId,
}

/// Where the replica stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Hive and epoch; none before it belongs to one.
    pub hive: Option<(HiveId, Epoch)>,
    /// Last applied entry.
    pub applied: Option<LogPoint>,
    /// Chain hash there.
    pub chain: [u8; 32],
    /// Voters of the applied membership (of both halves while it is joint).
    pub voters: Vec<RaftMember>,
    /// Standbys of the applied membership.
    pub standbys: Vec<RaftMember>,
    /// The applied membership is half-way between two.
    pub joint: bool,
    /// Set once and for ever when an entry was not understood.
    pub halted: Option<Halt>,
}

/// A complete copy of the state in a file; removed with its last owner.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    pub(crate) path: PathBuf,
    pub(crate) meta: HiveMeta,
    pub(crate) size: u64,
    pub(crate) sha256: [u8; 32],
    made_ms: u64,
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

struct Position {
    meta: HiveMeta,
    membership: StoredMembership,
}

struct Inner {
    directory: PathBuf,
    fatal: FatalHook,
    state: RwLock<State>,
    position: Mutex<Position>,
    db: RwLock<HiveDb>,
    /// Held while an entry is applied or a snapshot installed: one change at a time.
    applying: tokio::sync::Mutex<()>,
    snapshot: tokio::sync::Mutex<Option<Arc<SnapshotFile>>>,
    status: watch::Sender<ReplicaStatus>,
    events: EventRing,
    touched: TouchRing,
}

/// The replica. Cheap to clone.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

fn load_state(path: &Path, meta: &HiveMeta, rows: hive_db::Rows) -> Result<State, StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: path.to_owned(), what };
    let state = State::from_rows(rows).map_err(|error| damaged(error.to_string()))?;
    if meta.applied.is_some() && state.chain() != meta.chain {
        return Err(damaged("its rows do not match its chain".to_owned()));
    }
    Ok(state)
}

fn members(membership: &StoredMembership, voters: bool) -> Vec<RaftMember> {
    let ids: Vec<u64> = membership.voter_ids().collect();
    let wanted = membership.nodes().filter(|(id, _)| ids.contains(id) == voters);
    wanted.map(|(id, node)| RaftMember { raft_id: *id, peer_id: node.peer_id.clone() }).collect()
}

/// A term began: last in its entry, as it is no command's doing. The log does not say who leads.
fn another_leads(at: LogPoint) -> Event {
    Event {
        id: at.index.saturating_mul(PER_ENTRY).saturating_add(PER_ENTRY - 1),
        at: clock::unix_now(),
        kind: EventKind::Coordinator,
        message: format!("a coordinator was elected (term {})", at.term),
        drone: None,
        package: None,
        job: None,
        session: None,
    }
}

fn status_of(position: &Position, halted: Option<Halt>) -> ReplicaStatus {
    ReplicaStatus {
        hive: position.meta.hive,
        applied: position.meta.applied,
        chain: position.meta.chain,
        voters: members(&position.membership, true),
        standbys: members(&position.membership, false),
        joint: position.membership.get_joint_config().len() > 1,
        halted,
    }
}

/// Only the version, whatever else a newer hive put there.
#[derive(Deserialize)]
struct BatchVersion {
    version: u16,
}

pub(super) fn decode_batch(index: u64, bytes: &[u8]) -> Result<Batch, Halt> {
    let why = match decode::<Batch>(bytes) {
        Ok(batch) if batch.version == ENVELOPE_VERSION => return Ok(batch),
        Ok(Batch { version, .. }) => unknown_version(version),
        Err(error) => match decode::<BatchVersion>(bytes) {
            Ok(BatchVersion { version }) if version != ENVELOPE_VERSION => unknown_version(version),
            Ok(_) | Err(_) => format!("its envelope cannot be read ({error}); a newer hive might"),
        },
    };
    Err(Halt { index, why })
}

fn unknown_version(version: u16) -> String {
    format!("its envelope has version {version}, this hive knows {ENVELOPE_VERSION}; update hive on this node")
}

impl Replica {
    /// Opens `hive.db` in `directory` and loads the state.
    pub(crate) fn open(directory: &Path, fatal: FatalHook) -> Result<Self, StoreError> {
        let snapshots = directory.join(SNAPSHOT_DIRECTORY);
        // What is in there belongs to transfers of an earlier process.
        let _ = fs::remove_dir_all(&snapshots);
        fs::create_dir_all(&snapshots).map_err(|error| StoreError::io("create", &snapshots, error))?;
        let (db, meta, rows) = HiveDb::open(directory, fatal.clone())?;
        let path = db.database().path().to_owned();
        let state = load_state(&path, &meta, rows)?;
        let membership = codec::membership_from_bytes(&meta.membership)
            .map_err(|error| StoreError::Damaged { path, what: error.to_string() })?;
        let position = Position { meta, membership };
        let (status, _) = watch::channel(status_of(&position, None));
        let inner = Inner {
            directory: directory.to_owned(),
            fatal,
            state: RwLock::new(state),
            position: Mutex::new(position),
            db: RwLock::new(db),
            applying: tokio::sync::Mutex::new(()),
            snapshot: tokio::sync::Mutex::new(None),
            status,
            events: EventRing::default(),
            touched: TouchRing::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Reads the state. Keep it short: applying waits meanwhile.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.inner.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where it stands now.
    pub fn status(&self) -> ReplicaStatus {
        self.inner.status.borrow().clone()
    }

    /// To be told of every applied entry (several may be told as one).
    pub fn watch(&self) -> watch::Receiver<ReplicaStatus> {
        self.inner.status.subscribe()
    }

    /// What happened lately.
    pub fn events(&self) -> &EventRing {
        &self.inner.events
    }

    /// What the newest entries changed.
    pub fn touched(&self) -> &TouchRing {
        &self.inner.touched
    }

    fn db(&self) -> HiveDb {
        self.inner.db.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn meta(&self) -> HiveMeta {
        self.inner.position.lock().unwrap_or_else(PoisonError::into_inner).meta.clone()
    }

    pub(crate) fn applied(&self) -> Option<LogPoint> {
        self.inner.status.borrow().applied
    }

    pub(crate) fn membership(&self) -> StoredMembership {
        self.inner.position.lock().unwrap_or_else(PoisonError::into_inner).membership.clone()
    }

    /// Directory for files of snapshots.
    pub(crate) fn snapshot_directory(&self) -> PathBuf {
        self.inner.directory.join(SNAPSHOT_DIRECTORY)
    }

    /// An entry was applied: the position, and nothing that changes as seldom as members do.
    fn publish_applied(&self, at: LogPoint, chain: [u8; 32]) {
        let mut current = self.inner.position.lock().unwrap_or_else(PoisonError::into_inner);
        (current.meta.applied, current.meta.chain) = (Some(at), chain);
        self.inner.status.send_modify(|status| (status.applied, status.chain) = (Some(at), chain));
    }

    fn publish(&self, position: Position) {
        let mut current = self.inner.position.lock().unwrap_or_else(PoisonError::into_inner);
        *current = position;
        self.inner.status.send_modify(|status| *status = status_of(&current, status.halted.take()));
    }

    pub(crate) fn halt(&self, halt: Halt) -> io::Error {
        tracing::error!(index = halt.index, why = %halt.why, "the replica halts");
        self.inner.status.send_modify(|status| status.halted = Some(halt.clone()));
        io::Error::new(io::ErrorKind::Unsupported, halt)
    }

    /// Applies the next committed entry; the caller sees to it that none is left out. One that was applied before is ignored.
    pub(crate) async fn apply(&self, entry: &Entry) -> io::Result<Vec<Reply>> {
        let _one_at_a_time = self.inner.applying.lock().await;
        if let Some(halt) = self.inner.status.borrow().halted.clone() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, halt));
        }
        let (mut meta, mut membership) = (self.meta(), None);
        let at = codec::point_of(&entry.log_id);
        if meta.applied.is_some_and(|applied| at.index <= applied.index) {
            return Ok(Vec::new());
        }
        let mut applied = Applied::default();
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(encoded) => {
                let batch = decode_batch(at.index, &encoded.0).map_err(|halt| self.halt(halt))?;
                let understood = self.read(|state| state.understand(at.index, &batch));
                let understood = understood.map_err(|halt| self.halt(halt))?;
                let mut state = self.inner.state.write().unwrap_or_else(PoisonError::into_inner);
                applied = state.carry_out(at.index, &batch, understood);
            }
            EntryPayload::Membership(new) => {
                let stored = StoredMembership::new(Some(entry.log_id), new.clone());
                meta.membership = codec::membership_to_bytes(&stored)?;
                membership = Some(stored);
            }
        }
        let new_term = meta.applied.filter(|before| before.term != at.term).map(|_| another_leads(at));
        meta.applied = Some(at);
        meta.chain = self.read(State::chain);
        self.inner.touched.push(at.index, &applied.changes);
        self.db().apply(applied.changes, &meta).await?;
        // Before the position is told: whoever waits for it finds them there.
        self.inner.events.push(applied.events.into_iter().chain(new_term).collect());
        match membership {
            Some(membership) => self.publish(Position { meta, membership }),
            None => self.publish_applied(at, meta.chain),
        }
        Ok(applied.replies)
    }

    /// Makes the replica belong to a hive and epoch. Its rows and position stay.
    pub(crate) async fn belong(&self, hive_id: HiveId, epoch: Epoch) -> Result<(), StoreError> {
        let _one_at_a_time = self.inner.applying.lock().await;
        let meta = HiveMeta { hive: Some((hive_id, epoch)), ..self.meta() };
        let db = self.db();
        db.apply(Vec::new(), &meta).await?;
        db.barrier().await?;
        self.publish(Position { meta, membership: self.membership() });
        Ok(())
    }

    /// Sets `hive.db` aside and begins anew with nothing.
    pub(crate) async fn start_over(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.inner.applying.lock().await;
        self.db().close().await;
        set_aside(&self.inner.directory, hive_db::FILE)?;
        let (db, meta, _) = HiveDb::open(&self.inner.directory, self.inner.fatal.clone())?;
        *self.inner.db.write().unwrap_or_else(PoisonError::into_inner) = db;
        *self.inner.state.write().unwrap_or_else(PoisonError::into_inner) = State::new();
        *self.inner.snapshot.lock().await = None;
        self.inner.events.clear();
        self.inner.touched.clear();
        // Whatever entry was not understood, it was one of the history that is gone.
        self.inner.status.send_modify(|status| status.halted = None);
        self.publish(Position { meta, membership: StoredMembership::default() });
        Ok(())
    }

    /// Makes what was applied durable.
    pub(crate) async fn barrier(&self) -> Result<(), StoreError> {
        self.db().barrier().await
    }

    /// The chain at an index, with the entry's term; none when it is too old or not there yet.
    pub(crate) async fn point(&self, index: u64) -> Result<Option<(u64, [u8; 32])>, StoreError> {
        self.db().point(index).await
    }

    /// A job that is over for so long that only its history row is left; none when there is no such row (any more).
    pub async fn past_job(&self, id: &JobId) -> Result<Option<Job>, StoreError> {
        let Some(row) = self.read(|state| state.history_row(id)) else { return Ok(None) };
        let db = self.db();
        let Some(value) = db.row(row).await? else { return Ok(None) };
        let damaged = |what| StoreError::Damaged { path: db.database().path().to_owned(), what };
        State::job_of_history(&value).map(Some).map_err(damaged)
    }

    /// Jobs of rows that [`State::history_rows`] named; rows that are gone meanwhile are left out.
    pub async fn past_jobs(&self, rows: Vec<Row>) -> Result<Vec<Job>, StoreError> {
        let db = self.db();
        let values = db.rows(rows).await?;
        let damaged = |what| StoreError::Damaged { path: db.database().path().to_owned(), what };
        values.iter().map(|value| State::job_of_history(value).map_err(damaged)).collect()
    }

    pub(crate) async fn close(&self) {
        self.db().close().await;
    }

    /// What the snapshot file that would be handed out now stands for, without making one.
    pub(crate) async fn snapshot_position(&self) -> HiveMeta {
        match self.inner.snapshot.lock().await.as_ref().filter(|file| file.is_fresh()) {
            Some(file) => file.meta.clone(),
            None => self.meta(),
        }
    }

    /// A snapshot file that stands for `at_least` or later: the last one made while it is fresh, else a new one.
    pub(crate) async fn snapshot(&self, at_least: Option<LogPoint>) -> Result<Arc<SnapshotFile>, StoreError> {
        let mut cached = self.inner.snapshot.lock().await;
        if let Some(file) = cached.as_ref().filter(|file| file.is_fresh() && file.meta.applied >= at_least) {
            return Ok(Arc::clone(file));
        }
        let path = self.snapshot_directory().join(format!("made-{:016x}", rand::random::<u64>()));
        let meta = self.db().backup(&path).await?;
        let hashed = path.clone();
        let (size, sha256) = tokio::task::spawn_blocking(move || hash_file(&hashed))
            .await
            .map_err(|_| StoreError::Closed)?
            .map_err(|error| StoreError::io("read", &path, error))?;
        let file = Arc::new(SnapshotFile { path, meta, size, sha256, made_ms: clock::now_ms() });
        *cached = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Replaces the state by that of a snapshot file, durable when this returns. An older one changes nothing.
    pub(crate) async fn install(&self, file: &Path) -> Result<(), StoreError> {
        let path = file.to_owned();
        let load = move || {
            let (meta, rows) = hive_db::read_snapshot(&path)?;
            let state = load_state(&path, &meta, rows)?;
            let membership = codec::membership_from_bytes(&meta.membership)
                .map_err(|error| StoreError::Damaged { path, what: error.to_string() })?;
            Ok::<_, StoreError>((Position { meta, membership }, state))
        };
        let (position, state) = tokio::task::spawn_blocking(load).await.map_err(|_| StoreError::Closed)??;
        let _one_at_a_time = self.inner.applying.lock().await;
        let own = self.meta();
        if position.meta.hive != own.hive {
            let what = "it is a snapshot of another hive or epoch".to_owned();
            return Err(StoreError::Damaged { path: file.to_owned(), what });
        }
        if position.meta.applied <= own.applied {
            return Ok(());
        }
        self.db().install(file, &position.meta).await?;
        *self.inner.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        self.inner.touched.clear();
        tracing::info!(applied = ?position.meta.applied, "a snapshot was installed");
        self.publish(position);
        Ok(())
    }
}

impl SnapshotFile {
    fn is_fresh(&self) -> bool {
        clock::now_ms().saturating_sub(self.made_ms) < SNAPSHOT_REUSED_MS
    }
}

/// Length and SHA-256 of a file.
pub(crate) fn hash_file(path: &Path) -> io::Result<(u64, [u8; 32])> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut size = 0;
    loop {
        let count = io::Read::read(&mut file, &mut buffer)?;
        if count == 0 {
            return Ok((size, hasher.finalize().into()));
        }
        size += count as u64;
        hasher.update(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::consensus::types::{EncodedBatch, Entry};
    use crate::engine::command::{Command, Origin, Proposal};
    use crate::engine::id::{EpochId, UnixMillis};
    use crate::engine::member::{Inventory, MemberInfo};
    use crate::transport::encode;

    const HIVE: HiveId = HiveId([1; 16]);
    const EPOCH: Epoch = Epoch { counter: 1, id: EpochId([2; 16]) };

    fn entry(index: u64, bytes: Vec<u8>) -> Entry {
        let payload = EntryPayload::Normal(EncodedBatch(bytes.into()));
        Entry { log_id: codec::log_id(LogPoint { term: 1, index }), payload }
    }

    fn batch(version: u16, sequence: u64, command: &Command) -> Vec<u8> {
        let origin = Origin { peer_id: PeerId::new("proposer"), incarnation: 1, sequence };
        let proposals = vec![Proposal::new(origin, command)];
        encode(&Batch { version, elapsed_ms: 5, at: UnixMillis(1), proposals }).expect("encodes")
    }

    fn member(name: &str) -> MemberInfo {
        MemberInfo {
            peer_id: PeerId::new(name),
            name: name.to_owned(),
            addresses: Vec::new(),
            incarnation: 1,
            version: "1".to_owned(),
            feature_level: 1,
            inventory: Inventory::default(),
        }
    }

    fn found() -> Command {
        Command::Found { hive_id: HIVE, epoch: EPOCH, founder: member("founder") }
    }

    async fn founded() -> (tempfile::TempDir, Replica) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let replica = Replica::open(directory.path(), FatalHook::exit()).expect("opens");
        replica.belong(HIVE, EPOCH).await.expect("belongs");
        replica.apply(&entry(1, batch(ENVELOPE_VERSION, 1, &found()))).await.expect("applies");
        (directory, replica)
    }

    #[tokio::test]
    async fn an_entry_of_an_unknown_version_halts_and_nothing_follows_it() {
        let admit = Command::Admit { member: member("guest") };
        let newer = [batch(ENVELOPE_VERSION + 1, 2, &admit), vec![0xff, 0x00], Vec::new()];
        for bytes in newer {
            let (directory, replica) = founded().await;
            let before = replica.status();
            assert!(replica.apply(&entry(2, bytes)).await.is_err());
            let halt = replica.status().halted.expect("halted");
            assert_eq!(halt.index, 2);
            assert!(replica.apply(&entry(3, batch(ENVELOPE_VERSION, 3, &admit))).await.is_err(), "not skipped");
            assert_eq!(ReplicaStatus { halted: None, ..replica.status() }, before);
            replica.close().await;
            let again = Replica::open(directory.path(), FatalHook::exit()).expect("opens");
            assert_eq!(again.status(), before, "a newer hive can go on from here");
        }
    }

    #[tokio::test]
    async fn what_was_applied_is_there_after_reopening_and_nothing_is_applied_twice() {
        let (directory, replica) = founded().await;
        let admit = Command::Admit { member: member("guest") };
        let second = entry(2, batch(ENVELOPE_VERSION, 2, &admit));
        assert_eq!(replica.apply(&second).await.expect("applies"), [Reply::Done]);
        let status = replica.status();
        assert!(replica.apply(&second).await.expect("ignored").is_empty());
        assert_eq!(replica.status(), status);
        replica.close().await;
        let again = Replica::open(directory.path(), FatalHook::exit()).expect("opens");
        assert_eq!(again.status(), status);
        assert_eq!(again.read(State::chain), status.chain);
        assert_eq!(again.point(2).await.expect("reads"), Some((1, status.chain)));
    }

    #[tokio::test]
    async fn snapshots_of_other_hives_and_older_ones_change_nothing() {
        let (_directory, replica) = founded().await;
        let old = replica.snapshot(None).await.expect("makes");
        let admit = Command::Admit { member: member("guest") };
        replica.apply(&entry(2, batch(ENVELOPE_VERSION, 2, &admit))).await.expect("applies");
        let status = replica.status();
        replica.install(&old.path).await.expect("ignored");
        assert_eq!(replica.status(), status);

        let other = tempfile::tempdir().expect("temporary directory");
        let stranger = Replica::open(other.path(), FatalHook::exit()).expect("opens");
        stranger.belong(HIVE, Epoch { counter: 2, ..EPOCH }).await.expect("belongs");
        assert!(stranger.install(&old.path).await.is_err(), "another epoch");
        assert_eq!(stranger.status().applied, None);
        stranger.belong(HIVE, EPOCH).await.expect("belongs");
        stranger.install(&old.path).await.expect("installs");
        assert_eq!(stranger.status().applied, old.meta.applied);
    }
}
