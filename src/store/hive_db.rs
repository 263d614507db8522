//! `hive.db`: the rows of the replicated state with the log point they stand for, always in one transaction.
//!
//! ```text
//!   apply ─► pending rows, the last value of each ─► after a quarter of a second, or a few MiB ─► one transaction
//! ```
//!
//! A job's row changes with each of its steps, a reply's slot with each proposal of its node; written entry by entry, the same pages
//! would go to the disk again and again, and that would be most of what a busy voter does. So rows gather for a moment, and the file
//! stands for an entry that is a moment old. Nothing rests on it: what was committed is in the log, durable on a majority, and whoever
//! ends, by a signal or a power cut, repeats from the log what its file lacks. So the log is purged only after
//! [`HiveDb::barrier`]; whoever reads the file through this handle gets what is pending written first. A snapshot is an online backup of this file; installing one reads its rows through
//! a connection of its own and never runs its schema. Values of the history table are never held in memory: there may be 100,000
//! of them, and nobody needs them to go on.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::database::{self, BUSY_TIMEOUT, Database, Done, Durability, Migrations};
use super::raft_db::LogPoint;
use super::space::measure;
use super::{FatalHook, StoreError, sync_directory};
use crate::engine::id::{Epoch, HiveId, UnixMillis};
use crate::engine::state::{Change, Row, table};
use crate::tasks;
use crate::transport::{decode, encode};

/// Name of the file in the state directory.
pub const FILE: &str = "hive.db";
/// Points of the chain that are kept, so that a follower that was away can prove that it is on the same history.
pub const POINTS_KEPT: u64 = 16_384;

/// So long rows gather before they are written.
const GATHER: Duration = Duration::from_millis(250);
/// Free bytes without which nothing is written: what the write-ahead log and a checkpoint of it need beyond the rows.
const SPARE_BYTES: u64 = 8 << 20;
/// Between two looks at a full disk.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// So many bytes of them are written at once, if the writer has nothing else to do.
const PENDING_BYTES: usize = 4 << 20;
/// With so many of them, whoever brings more waits for the writer.
const PENDING_MAX_BYTES: usize = 16 << 20;
/// Pages of the file that SQLite keeps in memory at most, KiB. Rows of jobs are spread over the whole file by their random ids.
const CACHE_KIB: i64 = 16 << 10;
/// Pages of the write-ahead log after which they are moved into the file: the same page is mostly changed many times before.
const CHECKPOINT_PAGES: u32 = 4_000;

pub(super) const MIGRATIONS: Migrations =
    &["CREATE TABLE kv(tbl INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,
         PRIMARY KEY(tbl, key)) STRICT, WITHOUT ROWID;
     CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE points(idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, chain BLOB NOT NULL) STRICT;"];

/// What the rows stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HiveMeta {
    /// The hive and epoch; none before the node belongs to one.
    pub hive: Option<(HiveId, Epoch)>,
    /// Last applied entry.
    pub applied: Option<LogPoint>,
    /// Last applied Raft membership, in `consensus`'s encoding.
    #[serde(with = "serde_bytes")]
    pub membership: Vec<u8>,
    /// Chain hash at `applied`.
    pub chain: [u8; 32],
    /// The latest time of an entry up to there, by the coordinators' clocks; 0 when it is not known. For people: decides nothing.
    #[serde(default)]
    pub at: UnixMillis,
}

/// All rows. Those of the history table have no value: only their keys are needed.
pub type Rows = Vec<(Row, Vec<u8>)>;

/// The open database.
#[derive(Clone, Debug)]
pub struct HiveDb {
    db: Database,
    fatal: FatalHook,
    pending: Arc<Pending>,
}

/// What was applied and is not written yet.
#[derive(Debug, Default)]
struct Pending {
    gathered: Mutex<Gathered>,
    /// Somebody waits for the moment to write it.
    awaited: AtomicBool,
    /// It was handed to the writer.
    writing: AtomicBool,
}

#[derive(Debug, Default)]
struct Gathered {
    /// The last value of each row, none when it is deleted. In the order of keys, so that neighbours are written together.
    rows: BTreeMap<Row, Option<Vec<u8>>>,
    points: Vec<(LogPoint, [u8; 32])>,
    /// What the file stands for with all of that; none when nothing is pending.
    meta: Option<HiveMeta>,
    bytes: usize,
}

impl Pending {
    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathered {
    fn add(&mut self, changes: Vec<Change>, meta: &HiveMeta) {
        for Change { row, value } in changes {
            let bytes = row.key.len() + value.as_ref().map_or(0, Vec::len);
            let replaced = self.rows.insert(row, value);
            let freed = replaced.map_or(0, |value| value.map_or(0, |value| value.len()));
            self.bytes = (self.bytes + bytes).saturating_sub(freed);
        }
        self.points.extend(meta.applied.map(|at| (at, meta.chain)));
        self.meta = Some(meta.clone());
    }
}

fn damaged(path: &Path, what: impl ToString) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), what: what.to_string() }
}

fn read_meta(path: &Path, connection: &Connection) -> Result<HiveMeta, StoreError> {
    let bytes: Option<Vec<u8>> = connection
        .query_row("SELECT value FROM meta WHERE key = 'state'", [], |row| row.get(0))
        .optional()
        .map_err(StoreError::sqlite(path))?;
    bytes.map_or_else(|| Ok(HiveMeta::default()), |bytes| decode(&bytes).map_err(|error| damaged(path, error)))
}

pub(super) fn read_rows(path: &Path, connection: &Connection) -> Result<Rows, StoreError> {
    let read = || -> rusqlite::Result<Rows> {
        let mut statement = connection
            .prepare("SELECT tbl, key, CASE tbl WHEN ?1 THEN x'' ELSE value END FROM kv ORDER BY tbl, key")?;
        let rows = statement
            .query_map([table::HISTORY], |row| Ok((Row { table: row.get(0)?, key: row.get(1)? }, row.get(2)?)))?;
        rows.collect()
    };
    read().map_err(StoreError::sqlite(path))
}

fn write_meta(connection: &Connection, meta: &[u8]) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO meta VALUES ('state', ?1) ON CONFLICT(key) DO UPDATE SET value = excluded.value")?
        .execute([meta])
        .map(drop)
}

fn write_rows(connection: &Connection, rows: &BTreeMap<Row, Option<Vec<u8>>>) -> rusqlite::Result<()> {
    for (row, value) in rows {
        match value {
            Some(value) => connection
                .prepare_cached(
                    "INSERT INTO kv VALUES (?1, ?2, ?3) ON CONFLICT(tbl, key) DO UPDATE SET value = excluded.value",
                )?
                .execute(params![row.table, row.key, value])?,
            None => connection
                .prepare_cached("DELETE FROM kv WHERE tbl = ?1 AND key = ?2")?
                .execute(params![row.table, row.key])?,
        };
    }
    Ok(())
}

fn write_point(connection: &Connection, at: LogPoint, chain: &[u8; 32]) -> rusqlite::Result<()> {
    connection.prepare_cached("INSERT OR REPLACE INTO points VALUES (?1, ?2, ?3)")?.execute(params![
        at.index.cast_signed(),
        at.term.cast_signed(),
        chain.as_slice()
    ])?;
    // Not at every entry: deleting is cheap in bulk only.
    if at.index.is_multiple_of(1_024) {
        let oldest = at.index.saturating_sub(POINTS_KEPT).cast_signed();
        connection.execute("DELETE FROM points WHERE idx < ?1", [oldest])?;
    }
    Ok(())
}

/// All of it; the caller's transaction keeps it together.
fn write(connection: &Connection, gathered: &Gathered) -> rusqlite::Result<()> {
    let Some(meta) = &gathered.meta else { return Ok(()) };
    let meta = encode(meta).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    write_rows(connection, &gathered.rows)?;
    for (at, chain) in &gathered.points {
        write_point(connection, *at, chain)?;
    }
    write_meta(connection, &meta)
}

/// Opens a snapshot file for reading its rows; its schema's triggers and views are never run.
fn open_snapshot(path: &Path) -> Result<Connection, StoreError> {
    let fail = |source| StoreError::Sqlite { path: path.to_owned(), source };
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(fail)?;
    connection.pragma_update(None, "trusted_schema", false).map_err(fail)?;
    let found: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(fail)?;
    let known = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
    if found != known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    Ok(connection)
}

/// Copies a database that may be in use into a file that is not there yet, and says what the copy stands for.
pub fn copy_to(from: &Path, to: &Path) -> Result<HiveMeta, StoreError> {
    // Before SQLite would make it for everybody to read.
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    made.map_err(|error| StoreError::io("create", to, error))?;
    let copy = || -> Result<HiveMeta, StoreError> {
        let source = open_snapshot(from)?;
        source.busy_timeout(BUSY_TIMEOUT).map_err(StoreError::sqlite(from))?;
        let mut target = Connection::open(to).map_err(StoreError::sqlite(to))?;
        // Nobody needs it after a crash, so nothing is journalled or synced on the way; whoever keeps it syncs it.
        target.pragma_update(None, "synchronous", "OFF").map_err(StoreError::sqlite(to))?;
        {
            let backup = rusqlite::backup::Backup::new(&source, &mut target).map_err(StoreError::sqlite(from))?;
            backup.step(-1).map_err(StoreError::sqlite(from))?;
        }
        // One self-contained file: no side files that would have to travel with it.
        target.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).map_err(StoreError::sqlite(to))?;
        read_meta(to, &target)
    };
    copy().inspect_err(|_| {
        let _ = std::fs::remove_file(to);
    })
}

/// Makes a copy stand for something else, durably. Its rows stay as they are.
pub fn adopt(copy: &Path, meta: &HiveMeta) -> Result<(), StoreError> {
    let bytes = encode(meta).map_err(|error| damaged(copy, error))?;
    let connection = database::connect(copy, Durability::Full, MIGRATIONS)?;
    let adopt = || {
        write_meta(&connection, &bytes)?;
        connection.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))
    };
    adopt().map_err(StoreError::sqlite(copy))?;
    connection.close().map_err(|(_, error)| StoreError::sqlite(copy)(error))?;
    File::open(copy).and_then(|file| file.sync_all()).map_err(|error| StoreError::io("sync", copy, error))
}

/// What a snapshot file stands for, and its rows.
pub fn read_snapshot(path: &Path) -> Result<(HiveMeta, Rows), StoreError> {
    let connection = open_snapshot(path)?;
    Ok((read_meta(path, &connection)?, read_rows(path, &connection)?))
}

/// What the file of a database that is in use stands for, and its rows, as the last transaction left them. Whoever writes it goes on.
pub fn read_in_use(directory: &Path) -> Result<(HiveMeta, Rows), StoreError> {
    let path = directory.join(FILE);
    let fail = |source| StoreError::Sqlite { path: path.clone(), source };
    let connection = open_snapshot(&path)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
    // One transaction: rows and position belong together.
    let transaction = connection.unchecked_transaction().map_err(fail)?;
    Ok((read_meta(&path, &transaction)?, read_rows(&path, &transaction)?))
}

impl HiveDb {
    /// Opens or makes the database and reads it whole. What was read is durable.
    pub fn open(directory: &Path, fatal: FatalHook) -> Result<(Self, HiveMeta, Rows), StoreError> {
        let path = directory.join(FILE);
        let (db, (meta, rows)) =
            Database::open(&path, Durability::Normal, MIGRATIONS, "hive-state-db", fatal.clone(), |connection| {
                // Negative: KiB instead of pages.
                connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(StoreError::sqlite(&path))?;
                make_durable(&path, connection)?;
                Ok((read_meta(&path, connection)?, read_rows(&path, connection)?))
            })?;
        db.checkpoint_after(CHECKPOINT_PAGES);
        Ok((Self { db, fatal, pending: Arc::default() }, meta, rows))
    }

    /// The database underneath.
    pub fn database(&self) -> &Database {
        &self.db
    }

    /// Takes the changes of one entry and what they lead to. They are written a moment later, never apart from each other.
    pub async fn apply(&self, changes: Vec<Change>, meta: &HiveMeta) -> Result<(), StoreError> {
        let bytes = {
            let mut gathered = self.pending.gathered();
            gathered.add(changes, meta);
            gathered.bytes
        };
        if !self.pending.awaited.swap(true, Ordering::AcqRel) {
            let later = self.clone();
            tasks::spawn("state rows", async move {
                tokio::time::sleep(GATHER).await;
                later.room().await;
                // Before they are taken: what arrives after that is awaited anew.
                later.pending.awaited.store(false, Ordering::Release);
                if let Err(error) = later.submit().await {
                    tracing::debug!(%error, "rows are not written any more");
                }
            });
        }
        if bytes >= PENDING_MAX_BYTES {
            self.flush().await
        } else if bytes >= PENDING_BYTES && !self.pending.writing.load(Ordering::Relaxed) {
            self.submit().await
        } else {
            Ok(())
        }
    }

    /// Waits while the disk is so full that writing would fail, which would end the agent. Nothing is lost by that: no proposal is taken
    /// meanwhile, and what is pending is in the log.
    async fn room(&self) {
        let directory = self.db.path().parent().unwrap_or(Path::new("."));
        let short = || {
            let needed = self.pending.gathered().bytes as u64 * 3 + SPARE_BYTES;
            measure(directory).is_ok_and(|(free, _)| free < needed)
        };
        while short() {
            tokio::time::sleep(FULL_PAUSE).await;
        }
    }

    /// Hands what is pending to the writer.
    async fn submit(&self) -> Result<(), StoreError> {
        let pending = Arc::clone(&self.pending);
        pending.writing.store(true, Ordering::Relaxed);
        // Taken by the writer when its turn comes: what arrives until then goes along.
        let taken = self.db.submit(move |connection| {
            let gathered = std::mem::take(&mut *pending.gathered());
            write(connection, &gathered)?;
            Ok(Box::new(move || pending.writing.store(false, Ordering::Relaxed)) as Done)
        });
        taken.await
    }

    /// Writes what is pending, and returns when the file has it.
    async fn flush(&self) -> Result<(), StoreError> {
        self.submit().await?;
        self.db.write(|_| Ok(())).await
    }

    /// Writes what is pending and closes the file.
    pub async fn close(&self) {
        if let Err(error) = self.submit().await {
            tracing::debug!(%error, "the database was closed before");
        }
        self.db.close().await;
    }

    /// Makes everything applied before durable.
    pub async fn barrier(&self) -> Result<(), StoreError> {
        self.submit().await?;
        let path = self.db.path().to_owned();
        let done = self.db.exclusive(move |connection| make_durable(&path, connection)).await?;
        done.inspect_err(|error| self.give_up(error))
    }

    /// Our own device failed: as with any other write, nothing is retried.
    fn give_up(&self, error: &StoreError) {
        let cause = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
        self.fatal.call(&format!("{error}: {cause}"));
    }

    /// Writes a copy of the database as it is after everything applied before, and says what it stands for. It is made over a connection
    /// of its own, which sees one moment however long it takes: the writer goes on meanwhile.
    pub async fn backup(&self, target: &Path) -> Result<HiveMeta, StoreError> {
        self.flush().await?;
        let (from, to) = (self.db.path().to_owned(), target.to_owned());
        tokio::task::spawn_blocking(move || copy_to(&from, &to)).await.map_err(|_| StoreError::Closed)?
    }

    /// Replaces all rows by those of a snapshot file, in one transaction, durable when this returns. The rows go from file to file.
    pub async fn install(&self, snapshot: &Path, meta: &HiveMeta) -> Result<(), StoreError> {
        let bytes = encode(meta).map_err(|error| damaged(snapshot, error))?;
        let point = meta.applied.map(|at| (at, meta.chain));
        let (from, own) = (snapshot.to_owned(), self.db.path().to_owned());
        self.submit().await?;
        let installed = self.db.exclusive(move |connection| {
            let source = open_snapshot(&from)?;
            let transaction = connection.transaction().map_err(StoreError::sqlite(&own))?;
            transaction.execute_batch("DELETE FROM kv; DELETE FROM points;").map_err(StoreError::sqlite(&own))?;
            copy_rows((&from, &source), (&own, &transaction))?;
            let finish = || {
                if let Some((at, chain)) = &point {
                    write_point(&transaction, *at, chain)?;
                }
                write_meta(&transaction, &bytes)
            };
            finish().map_err(StoreError::sqlite(&own))?;
            transaction.commit().map_err(StoreError::sqlite(&own))
        });
        let installed = installed.await?;
        if let Err(error @ StoreError::Sqlite { path, .. }) = &installed
            && path == self.db.path()
        {
            // Not the file that somebody sent.
            self.give_up(error);
        }
        installed?;
        self.barrier().await
    }

    /// The value of a row that is not in memory (history).
    pub async fn row(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError> {
        self.submit().await?;
        self.db
            .write(move |connection| {
                connection
                    .query_row("SELECT value FROM kv WHERE tbl = ?1 AND key = ?2", params![row.table, row.key], |row| {
                        row.get(0)
                    })
                    .optional()
            })
            .await
    }

    /// The values of several such rows, in the order asked for; those that are not there are left out.
    pub async fn rows(&self, rows: Vec<Row>) -> Result<Vec<Vec<u8>>, StoreError> {
        self.submit().await?;
        self.db
            .write(move |connection| {
                let mut find = connection.prepare_cached("SELECT value FROM kv WHERE tbl = ?1 AND key = ?2")?;
                let values =
                    rows.iter().map(|row| find.query_row(params![row.table, row.key], |row| row.get(0)).optional());
                values.filter_map(Result::transpose).collect()
            })
            .await
    }

    /// The chain at an index, with the term of the entry; none when it is too old or not there yet.
    pub async fn point(&self, index: u64) -> Result<Option<(u64, [u8; 32])>, StoreError> {
        self.submit().await?;
        let index = index.cast_signed();
        let found: Option<(i64, Vec<u8>)> = self
            .db
            .write(move |connection| {
                connection
                    .query_row("SELECT term, chain FROM points WHERE idx = ?1", [index], |row| {
                        Ok((row.get(0)?, row.get(1)?))
                    })
                    .optional()
            })
            .await?;
        Ok(found.and_then(|(term, chain)| Some((term.cast_unsigned(), chain.as_slice().try_into().ok()?))))
    }
}

/// Copies all rows, one at a time.
fn copy_rows(from: (&Path, &Connection), to: (&Path, &Connection)) -> Result<(), StoreError> {
    let mut select = from.1.prepare("SELECT tbl, key, value FROM kv").map_err(StoreError::sqlite(from.0))?;
    let mut insert = to.1.prepare("INSERT INTO kv VALUES (?1, ?2, ?3)").map_err(StoreError::sqlite(to.0))?;
    let mut rows = select.query([]).map_err(StoreError::sqlite(from.0))?;
    while let Some(row) = rows.next().map_err(StoreError::sqlite(from.0))? {
        let read = || Ok((row.get::<_, u8>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, Vec<u8>>(2)?));
        let values = read().map_err(StoreError::sqlite(from.0))?;
        insert.execute(values).map_err(StoreError::sqlite(to.0))?;
    }
    Ok(())
}

/// Makes all commits survive a power cut.
fn make_durable(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    if checkpoint(connection).map_err(StoreError::sqlite(path))? {
        return Ok(());
    }
    // Somebody reads the database (a backup, an operator's shell), so not all of its log could be moved into it. Then the log is what
    // has to be on disk: its frames are replayed after a power cut.
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let log = Path::new(&log);
    File::open(log).and_then(|file| file.sync_all()).map_err(|error| StoreError::io("sync", log, error))?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Moves the write-ahead log into the database, as far as readers allow. Whether it was all of it. Does not wait for readers: the
/// writer has other work.
fn checkpoint(connection: &Connection) -> rusqlite::Result<bool> {
    connection.busy_timeout(Duration::ZERO)?;
    let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(busy? == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::id::EpochId;

    fn change(key: u8, value: Option<u8>) -> Change {
        Change { row: Row { table: 3, key: vec![key] }, value: value.map(|value| vec![value]) }
    }

    fn meta(index: u64) -> HiveMeta {
        HiveMeta {
            hive: Some((HiveId([1; 16]), Epoch { counter: 1, id: EpochId([2; 16]) })),
            applied: Some(LogPoint { term: 2, index }),
            membership: vec![1, 2, 3],
            chain: [u8::try_from(index % 251).expect("small"); 32],
            at: UnixMillis(index),
        }
    }

    #[tokio::test]
    async fn rows_and_position_travel_together_through_backup_and_install() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (db, empty, rows) = HiveDb::open(directory.path(), FatalHook::exit()).expect("opens");
        assert_eq!((empty, rows.len()), (HiveMeta::default(), 0));
        db.apply(vec![change(1, Some(1)), change(2, Some(2))], &meta(1)).await.expect("queued");
        db.apply(vec![change(1, None), change(2, Some(9))], &meta(2)).await.expect("queued");
        let file = directory.path().join("copy");
        assert_eq!(db.backup(&file).await.expect("copies"), meta(2));
        db.apply(vec![change(7, Some(7))], &meta(3)).await.expect("queued");
        assert_eq!(db.point(2).await.expect("reads"), Some((2, meta(2).chain)));
        assert_eq!(db.point(99).await.expect("reads"), None);
        assert_eq!(db.row(change(7, None).row).await.expect("reads"), Some(vec![7]));
        assert_eq!(db.row(change(1, None).row).await.expect("reads"), None);

        let other = tempfile::tempdir().expect("temporary directory");
        let (target, ..) = HiveDb::open(other.path(), FatalHook::exit()).expect("opens");
        target.apply(vec![change(5, Some(5))], &meta(1)).await.expect("queued");
        let (snapshot_meta, _) = read_snapshot(&file).expect("reads");
        target.install(&file, &snapshot_meta).await.expect("installs");
        target.close().await;
        let (_, loaded, rows) = HiveDb::open(other.path(), FatalHook::exit()).expect("opens");
        assert_eq!(loaded, meta(2));
        assert_eq!(rows, vec![(Row { table: 3, key: vec![2] }, vec![9])]);
    }

    #[tokio::test]
    async fn rows_gather_and_the_last_value_of_each_is_written_with_its_position() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (db, ..) = HiveDb::open(directory.path(), FatalHook::exit()).expect("opens");
        for index in 1..=100u8 {
            db.apply(vec![change(1, Some(index)), change(index, Some(7))], &meta(index.into())).await.expect("taken");
        }
        let sql = "SELECT count(*), max(value) FROM kv WHERE key = x'01'";
        // Nobody asks: it is written by itself.
        let until_ms = crate::clock::now_ms() + 10_000;
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        loop {
            let reader = Connection::open(directory.path().join(FILE)).expect("opens");
            let row = reader.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<Vec<u8>>>(1)?)));
            let row = row.expect("reads");
            let position = read_meta(directory.path(), &reader).expect("reads");
            if position.applied.is_some() {
                assert_eq!(row, (1, Some(vec![100])), "never a part of it: {position:?}");
                assert_eq!(position, meta(100));
                break;
            }
            assert_eq!(row.0, 0);
            assert!(crate::clock::now_ms() < until_ms, "nothing was written");
            ticks.tick().await;
        }
        assert_eq!(db.point(57).await.expect("reads"), Some((2, meta(57).chain)), "every point of the chain is there");
        let bytes = vec![0; PENDING_MAX_BYTES];
        let large = Change { row: change(9, None).row, value: Some(bytes) };
        db.apply(vec![large], &meta(101)).await.expect("written");
        assert_eq!(db.pending.gathered().bytes, 0, "whoever brings too much waits for the writer");
        db.close().await;
        assert!(
            matches!(db.apply(vec![change(2, None)], &meta(102)).await, Ok(())),
            "taken, and dropped with the rest"
        );
        assert!(matches!(db.barrier().await, Err(StoreError::Closed)));
    }

    #[tokio::test]
    async fn history_travels_but_is_not_held_in_memory() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (db, ..) = HiveDb::open(directory.path(), FatalHook::exit()).expect("opens");
        let history = Row { table: table::HISTORY, key: vec![1] };
        let past = Change { row: history.clone(), value: Some(vec![7; 1_000]) };
        db.apply(vec![change(1, Some(1)), past], &meta(1)).await.expect("queued");
        let file = directory.path().join("copy");
        db.backup(&file).await.expect("copies");
        let other = tempfile::tempdir().expect("temporary directory");
        let (target, ..) = HiveDb::open(other.path(), FatalHook::exit()).expect("opens");
        target.install(&file, &meta(1)).await.expect("installs");
        target.close().await;
        let (target, _, rows) = HiveDb::open(other.path(), FatalHook::exit()).expect("opens");
        assert_eq!(rows, vec![(Row { table: 3, key: vec![1] }, vec![1]), (history, Vec::new())]);
        let stored = "SELECT length(value) FROM kv WHERE tbl = 9";
        let stored = target.database().write(|db| db.query_row(stored, [], |row| row.get::<_, i64>(0))).await;
        assert_eq!(stored.expect("reads"), 1_000);
    }

    #[tokio::test]
    async fn a_snapshot_that_cannot_be_read_changes_nothing() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (db, ..) = HiveDb::open(directory.path(), FatalHook::exit()).expect("opens");
        db.apply(vec![change(1, Some(1))], &meta(1)).await.expect("queued");
        let junk = directory.path().join("junk");
        std::fs::write(&junk, [9; 4_096]).expect("writes");
        assert!(db.install(&junk, &meta(2)).await.is_err());
        db.close().await;
        let (_, loaded, rows) = HiveDb::open(directory.path(), FatalHook::exit()).expect("opens");
        assert_eq!((loaded, rows.len()), (meta(1), 1));
    }

    #[tokio::test]
    async fn a_reader_does_not_pass_for_a_finished_checkpoint() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (db, ..) = HiveDb::open(directory.path(), FatalHook::exit()).expect("opens");
        let done = || db.database().exclusive(|connection| checkpoint(connection));
        db.apply(vec![change(1, Some(1))], &meta(1)).await.expect("queued");
        db.flush().await.expect("written");
        assert!(done().await.expect("runs").expect("checkpoints"));
        db.apply(vec![change(1, Some(2))], &meta(2)).await.expect("queued");
        db.flush().await.expect("written");
        let reader = Connection::open(directory.path().join(FILE)).expect("opens");
        reader.execute_batch("BEGIN; SELECT * FROM kv;").expect("reads");
        db.apply(vec![change(1, Some(3))], &meta(3)).await.expect("queued");
        db.flush().await.expect("written");
        assert!(!done().await.expect("runs").expect("checkpoints"));
        db.barrier().await.expect("durable all the same");
        drop(reader);
        assert!(done().await.expect("runs").expect("checkpoints"));
    }
}
