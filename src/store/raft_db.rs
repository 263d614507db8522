//! `raft.db`: the log, the vote, and which directory and hive they belong to. Every commit reaches the disk.
//!
//! A voter that comes back with an older log, or twice, splits the hive, and Raft cannot notice. So the database is bound to
//! this machine, file system and directory: a copy of it is set aside, and the node takes a new Raft id. Entries and votes are
//! opaque bytes here; their meaning is `consensus`'s.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::database::{Database, Durability, Migrations, connect};
use super::{FatalHook, StoreError, set_aside, sync_directory};
use crate::engine::id::{Epoch, HiveId};
use crate::transport::{decode, encode};

/// Name of the file in the state directory.
pub const FILE: &str = "raft.db";

pub(super) const MIGRATIONS: Migrations =
    &["CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE log(idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, entry BLOB NOT NULL) STRICT;"];

/// Where a Raft directory lives. It must not live anywhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Content of `/etc/machine-id`, empty where there is none.
    pub machine_id: String,
    /// Id of the file system.
    pub file_system: u64,
    /// Inode of the directory.
    pub inode: u64,
}

impl Binding {
    /// The binding of `directory` on this machine.
    pub fn of(directory: &Path) -> Result<Self, StoreError> {
        let stat =
            rustix::fs::statvfs(directory).map_err(|error| StoreError::io("measure", directory, error.into()))?;
        let metadata = fs::metadata(directory).map_err(|error| StoreError::io("read", directory, error))?;
        let machine_id = ["/etc/machine-id", "/var/lib/dbus/machine-id"]
            .iter()
            .find_map(|path| fs::read_to_string(path).ok())
            .map(|text| text.trim().to_owned())
            .unwrap_or_default();
        Ok(Self { machine_id, file_system: stat.f_fsid, inode: metadata.ino() })
    }
}

/// What a Raft directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftMeta {
    /// Random, made with the directory, never reused.
    pub raft_id: u64,
    /// The hive.
    pub hive_id: HiveId,
    /// The epoch.
    pub epoch: Epoch,
    /// Where it lives.
    pub binding: Binding,
}

/// Term and index of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPoint {
    /// Term of the leader that wrote it.
    pub term: u64,
    /// Position.
    pub index: u64,
}

/// An entry as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    /// Where.
    pub at: LogPoint,
    /// What.
    pub bytes: Vec<u8>,
}

/// What a fresh Raft directory begins with; written in one transaction.
#[derive(Clone, Debug)]
pub struct Genesis {
    /// To whom it belongs.
    pub meta: RaftMeta,
    /// First entries.
    pub entries: Vec<RawEntry>,
    /// Entries up to here are covered by the state.
    pub purged: Option<LogPoint>,
    /// The vote, if it begins with one.
    pub vote: Option<Vec<u8>>,
}

/// What is known after opening.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// To whom it belongs.
    pub meta: RaftMeta,
    /// The last vote.
    pub vote: Option<Vec<u8>>,
    /// Last committed point that was noted.
    pub committed: Option<LogPoint>,
    /// Last purged entry.
    pub purged: Option<LogPoint>,
    /// Last present entry.
    pub last: Option<LogPoint>,
}

/// The open database.
#[derive(Clone, Debug)]
pub struct RaftDb {
    db: Database,
}

fn put(connection: &Connection, key: &str, value: &[u8]) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO meta VALUES (?1, ?2) ON CONFLICT(key) DO UPDATE SET value = excluded.value")?
        .execute(params![key, value])
        .map(drop)
}

fn get(connection: &Connection, key: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
}

fn insert(connection: &Connection, entry: &RawEntry) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO log VALUES (?1, ?2, ?3)")?
        .execute(params![signed(entry.at.index), signed(entry.at.term), entry.bytes])
        .map(drop)
}

/// SQLite's integers are signed; the mapping is reversible, and indexes never come near the sign.
fn signed(value: u64) -> i64 {
    value.cast_signed()
}

fn point(row: &rusqlite::Row<'_>) -> rusqlite::Result<LogPoint> {
    let index: i64 = row.get(0)?;
    let term: i64 = row.get(1)?;
    Ok(LogPoint { index: index.cast_unsigned(), term: term.cast_unsigned() })
}

impl RaftDb {
    /// Makes a new database, durable when this returns. Fails when there is one: set it aside first.
    pub fn create(directory: &Path, genesis: &Genesis) -> Result<(), StoreError> {
        let path = directory.join(FILE);
        if path.exists() {
            return Err(StoreError::Damaged { path, what: "it exists already".to_owned() });
        }
        let damaged = |error: std::io::Error| StoreError::Damaged { path: path.clone(), what: error.to_string() };
        let meta = encode(&genesis.meta).map_err(damaged)?;
        let purged = genesis.purged.map(|purged| encode(&purged)).transpose().map_err(damaged)?;
        // Written under another name: a crash in between leaves no half-made Raft directory behind.
        let beside = directory.join(format!("{FILE}.new"));
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(directory.join(format!("{FILE}.new{suffix}")));
        }
        let mut connection = connect(&beside, Durability::Full, MIGRATIONS)?;
        let fill = |connection: &mut Connection| -> rusqlite::Result<()> {
            let transaction = connection.transaction()?;
            put(&transaction, "meta", &meta)?;
            if let Some(purged) = &purged {
                put(&transaction, "purged", purged)?;
            }
            if let Some(vote) = &genesis.vote {
                put(&transaction, "vote", vote)?;
            }
            for entry in &genesis.entries {
                insert(&transaction, entry)?;
            }
            transaction.commit()?;
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        };
        fill(&mut connection).map_err(StoreError::sqlite(&path))?;
        connection.close().map_err(|(_, error)| StoreError::sqlite(&path)(error))?;
        fs::File::open(&beside).and_then(|file| file.sync_all()).map_err(|e| StoreError::io("sync", &beside, e))?;
        fs::rename(&beside, &path).map_err(|error| StoreError::io("rename", &beside, error))?;
        sync_directory(directory)
    }

    /// Opens the database. None when there is none, and when there was one that belongs elsewhere: that is set aside.
    pub fn open(directory: &Path, fatal: FatalHook) -> Result<Option<(Self, Loaded)>, StoreError> {
        let path = directory.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let meta = peek(directory)?.ok_or_else(|| StoreError::Damaged {
            path: path.clone(),
            what: "it does not say to whom it belongs".to_owned(),
        })?;
        let here = Binding::of(directory)?;
        if meta.binding != here {
            tracing::error!(bound = ?meta.binding, ?here, "the Raft directory was copied or moved");
            set_aside(directory, FILE)?;
            return Ok(None);
        }
        let (db, loaded) = Database::open(&path, Durability::Full, MIGRATIONS, "hive-raft-db", fatal, |connection| {
            load(connection).map_err(StoreError::sqlite(&path))?.ok_or_else(|| StoreError::Damaged {
                path: path.clone(),
                what: "it does not say to whom it belongs".to_owned(),
            })
        })?;
        Ok(Some((Self { db }, loaded)))
    }

    /// The database underneath.
    pub fn database(&self) -> &Database {
        &self.db
    }

    /// Stores a vote; durable when this returns.
    pub async fn save_vote(&self, vote: Vec<u8>) -> Result<(), StoreError> {
        self.db.write(move |connection| put(connection, "vote", &vote)).await
    }

    /// Queues entries, together with the committed point when given; `done` is called once they are durable.
    pub async fn append(
        &self,
        entries: Vec<RawEntry>,
        committed: Option<LogPoint>,
        done: impl FnOnce() + Send + 'static,
    ) -> Result<(), StoreError> {
        self.db
            .submit(move |connection| {
                for entry in &entries {
                    insert(connection, entry)?;
                }
                if let Some(bytes) = committed.and_then(|committed| encode(&committed).ok()) {
                    put(connection, "committed", &bytes)?;
                }
                Ok(Box::new(done))
            })
            .await
    }

    /// Removes every entry behind `keep` (all, when none).
    pub async fn truncate_after(&self, keep: Option<u64>) -> Result<(), StoreError> {
        self.db
            .write(move |connection| match keep {
                Some(keep) => connection.execute("DELETE FROM log WHERE idx > ?1", [signed(keep)]).map(drop),
                None => connection.execute("DELETE FROM log", []).map(drop),
            })
            .await
    }

    /// Removes every entry up to and including `upto`, and remembers that.
    pub async fn purge(&self, upto: LogPoint) -> Result<(), StoreError> {
        let bytes = encode(&upto)
            .map_err(|error| StoreError::Damaged { path: self.db.path().to_owned(), what: error.to_string() })?;
        self.db
            .write(move |connection| {
                put(connection, "purged", &bytes)?;
                connection.execute("DELETE FROM log WHERE idx <= ?1", [signed(upto.index)]).map(drop)
            })
            .await
    }

    /// Entries from `start` to before `end`, at least one when there is one, and then no more than `max_bytes`.
    pub async fn read(&self, start: u64, end: u64, max_bytes: usize) -> Result<Vec<RawEntry>, StoreError> {
        self.db
            .write(move |connection| {
                let mut statement = connection
                    .prepare_cached("SELECT idx, term, entry FROM log WHERE idx >= ?1 AND idx < ?2 ORDER BY idx")?;
                let mut rows = statement.query([signed(start), signed(end.min(i64::MAX as u64))])?;
                let mut entries = Vec::new();
                let mut bytes = 0;
                while let Some(row) = rows.next()? {
                    let entry = RawEntry { at: point(row)?, bytes: row.get(2)? };
                    bytes += entry.bytes.len();
                    if bytes > max_bytes && !entries.is_empty() {
                        break;
                    }
                    entries.push(entry);
                }
                Ok(entries)
            })
            .await
    }
}

fn load(connection: &Connection) -> rusqlite::Result<Option<Loaded>> {
    let stored =
        |key| -> rusqlite::Result<Option<LogPoint>> { Ok(get(connection, key)?.and_then(|bytes| decode(&bytes).ok())) };
    let Some(meta) = get(connection, "meta")?.and_then(|bytes| decode(&bytes).ok()) else {
        return Ok(None);
    };
    let purged = stored("purged")?;
    let last =
        connection.query_row("SELECT idx, term FROM log ORDER BY idx DESC LIMIT 1", [], point).optional()?.or(purged);
    Ok(Some(Loaded { meta, vote: get(connection, "vote")?, committed: stored("committed")?, purged, last }))
}

/// Reads to whom the database in `directory` belongs without starting anything.
pub fn peek(directory: &Path) -> Result<Option<RaftMeta>, StoreError> {
    let path = directory.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let connection = connect(&path, Durability::Full, MIGRATIONS)?;
    Ok(load(&connection).map_err(StoreError::sqlite(&path))?.map(|loaded| loaded.meta))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::engine::id::EpochId;

    pub(crate) fn meta(directory: &Path) -> RaftMeta {
        RaftMeta {
            raft_id: 7,
            hive_id: HiveId([1; 16]),
            epoch: Epoch { counter: 1, id: EpochId([2; 16]) },
            binding: Binding::of(directory).expect("binding"),
        }
    }

    fn entry(index: u64, size: usize) -> RawEntry {
        RawEntry { at: LogPoint { term: 1, index }, bytes: vec![1; size] }
    }

    #[tokio::test]
    async fn what_was_created_is_loaded_and_slices_are_bounded() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let genesis = Genesis {
            meta: meta(directory.path()),
            entries: vec![entry(5, 10), entry(6, 10)],
            purged: Some(LogPoint { term: 1, index: 4 }),
            vote: Some(vec![9]),
        };
        RaftDb::create(directory.path(), &genesis).expect("creates");
        assert!(RaftDb::create(directory.path(), &genesis).is_err(), "never overwrites");
        let (db, loaded) = RaftDb::open(directory.path(), FatalHook::exit()).expect("opens").expect("is there");
        assert_eq!(loaded.meta, genesis.meta);
        assert_eq!(loaded.vote, Some(vec![9]));
        assert_eq!(loaded.purged, genesis.purged);
        assert_eq!(loaded.last, Some(LogPoint { term: 1, index: 6 }));
        db.append(vec![entry(7, 900), entry(8, 900)], None, || {}).await.expect("queued");
        let indexes = |entries: Vec<RawEntry>| entries.iter().map(|entry| entry.at.index).collect::<Vec<_>>();
        assert_eq!(indexes(db.read(5, 100, 1_000).await.expect("reads")), [5, 6, 7]);
        assert_eq!(indexes(db.read(7, 100, 1).await.expect("reads")), [7], "at least one");
        db.purge(LogPoint { term: 1, index: 6 }).await.expect("purges");
        db.truncate_after(Some(7)).await.expect("truncates");
        assert_eq!(indexes(db.read(0, 100, 10_000).await.expect("reads")), [7]);
    }

    #[tokio::test]
    async fn a_copied_directory_is_set_aside() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let copy = tempfile::tempdir().expect("temporary directory");
        let genesis = Genesis { meta: meta(directory.path()), entries: Vec::new(), purged: None, vote: None };
        RaftDb::create(directory.path(), &genesis).expect("creates");
        fs::copy(directory.path().join(FILE), copy.path().join(FILE)).expect("copies");
        assert!(RaftDb::open(copy.path(), FatalHook::exit()).expect("opens").is_none());
        assert!(copy.path().join("raft.db.aside-1").exists());
        assert!(!copy.path().join(FILE).exists());
        assert!(RaftDb::open(directory.path(), FatalHook::exit()).expect("opens").is_some(), "the original goes on");
    }
}
