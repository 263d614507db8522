//! One SQLite database on one writer thread behind a cloneable handle, with group commit.
//!
//! The thread takes what has queued up (bounded), runs it in one transaction, commits once, and only then tells each caller.
//! Nothing here is retried: any error inside a transaction is either a bug or a failing device, and calls the [`FatalHook`].

use std::collections::VecDeque;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use super::{FatalHook, StoreError, sync_directory};
use crate::clock;

/// Requests that may wait for the writer; more make their senders wait.
const QUEUE_MAX: usize = 1_024;
/// Most requests in one transaction: bounds how long the first of them waits for the last.
const GROUP_MAX: usize = 256;
/// Commit durations that are kept for the percentile.
const TIMINGS_MAX: usize = 512;
/// Pages of the write-ahead log after which they are moved into the file, unless [`Database::checkpoint_after`] says otherwise.
const CHECKPOINT_PAGES: u32 = 1_000;
/// How long a statement waits for another connection to the same file.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Commits older than this no longer count.
const TIMINGS_WINDOW_MS: u64 = 60_000;

/// How much a commit promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A committed transaction survives a power cut.
    Full,
    /// A committed transaction survives the end of the process; a power cut may take back the last ones, never corrupt.
    Normal,
}

/// Steps that lead from an empty file to the newest version: step `n` makes version `n + 1` of version `n`.
pub type Migrations = &'static [&'static str];

/// Called on the writer thread once the transaction is committed.
pub type Done = Box<dyn FnOnce() + Send>;

type Work = Box<dyn FnOnce(&Connection) -> rusqlite::Result<Done> + Send>;

enum Job {
    Write(Work),
    Exclusive(Box<dyn FnOnce(&mut Connection) + Send>),
    Close(oneshot::Sender<()>),
}

/// So long an answer about them is given again, milliseconds: it is asked for with every look at the status.
const TIMINGS_KEPT_MS: u64 = 250;

#[derive(Debug, Default)]
struct Timings {
    /// When a commit was done, and how long it took.
    samples: Mutex<VecDeque<(u64, u64)>>,
    /// When the percentile was worked out last, and what it was.
    answer: Mutex<Option<(u64, Option<u64>)>>,
}

impl Timings {
    fn add(&self, took_ms: u64) {
        let now_ms = clock::now_ms();
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() >= TIMINGS_MAX {
            samples.pop_front();
        }
        samples.push_back((now_ms, took_ms));
    }

    fn p99_ms(&self) -> Option<u64> {
        let now_ms = clock::now_ms();
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) =
            answer.filter(|(at_ms, known)| known.is_some() && now_ms.saturating_sub(*at_ms) < TIMINGS_KEPT_MS)
        {
            return known;
        }
        let oldest_ms = now_ms.saturating_sub(TIMINGS_WINDOW_MS);
        let mut recent: Vec<u64> = {
            let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
            samples.iter().filter(|(at_ms, _)| *at_ms >= oldest_ms).map(|(_, took_ms)| *took_ms).collect()
        };
        recent.sort_unstable();
        let last = (recent.len() * 99).div_ceil(100).checked_sub(1);
        let found = last.and_then(|last| recent.get(last).copied());
        *answer = Some((now_ms, found));
        found
    }
}

/// Handle of a database. Cheap to clone; the thread ends when the last handle is dropped or [`close`](Self::close) is called.
#[derive(Clone)]
pub struct Database {
    tx: mpsc::Sender<Job>,
    path: Arc<PathBuf>,
    timings: Arc<Timings>,
    checkpoint_pages: Arc<AtomicU32>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Database({})", self.path.display())
    }
}

/// Opens a connection with the settings that all of ours share, and brings its schema to the newest version.
pub fn connect(path: &Path, durability: Durability, migrations: Migrations) -> Result<Connection, StoreError> {
    let fail = |source| StoreError::Sqlite { path: path.to_owned(), source };
    // SQLite gives its side files the mode of the database. One that cannot be made here is reported by opening it.
    std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).ok();
    let mut connection = Connection::open(path).map_err(fail)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(fail)?;
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Normal => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous).map_err(fail)?;
    connection.pragma_update(None, "mmap_size", 0).map_err(fail)?;
    connection.pragma_update(None, "trusted_schema", false).map_err(fail)?;
    // A WAL that one large transaction blew up is cut back to this at the next checkpoint.
    connection.pragma_update(None, "journal_size_limit", 16 << 20).map_err(fail)?;
    migrate(path, &mut connection, migrations)?;
    Ok(connection)
}

/// Moves the write-ahead log into the file from time to time. SQLite would do so by itself, and keep errors to itself: if the log cannot be
/// synced, and the next attempt finds nothing left to sync, pages are moved whose log a power cut takes away, and the file is neither
/// the old nor the new. Here the commit behind which it happens fails.
fn checkpoint_with_errors(connection: &mut Connection, pages: Arc<AtomicU32>) -> rusqlite::Result<()> {
    let checkpoint = move |wal: &mut Wal, used: std::ffi::c_int| {
        if u32::try_from(used).unwrap_or_default() < pages.load(Ordering::Relaxed) {
            return Ok(());
        }
        match wal.checkpoint() {
            // Somebody else is at it.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(()),
            other => other,
        }
    };
    connection.wal_hook(Some(checkpoint))
}

/// What is read from here on is on the disk. After a process that ended because a sync had failed, memory still shows what the disk never
/// got; moved into the file it is written once more, and the log that lacks it must not be replayed over that.
fn settle(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(StoreError::sqlite(path))?;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    match std::fs::File::open(&log).and_then(|file| file.sync_all()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StoreError::io("sync", Path::new(&log), error));
        }
        Ok(()) | Err(_) => {}
    }
    path.parent().map_or(Ok(()), sync_directory)
}

fn migrate(path: &Path, connection: &mut Connection, migrations: Migrations) -> Result<(), StoreError> {
    let fail = |source| StoreError::Sqlite { path: path.to_owned(), source };
    let found: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(fail)?;
    let known = i32::try_from(migrations.len()).unwrap_or(i32::MAX);
    if found > known || found < 0 {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    if found == known {
        return Ok(());
    }
    let transaction = connection.transaction().map_err(fail)?;
    let done = usize::try_from(found).unwrap_or_default();
    for step in migrations.iter().skip(done) {
        transaction.execute_batch(step).map_err(fail)?;
    }
    transaction.pragma_update(None, "user_version", known).map_err(fail)?;
    transaction.commit().map_err(fail)
}

impl Database {
    /// Opens the database, runs `load` on it, and starts the writer thread under `thread_name`.
    pub fn open<T>(
        path: &Path,
        durability: Durability,
        migrations: Migrations,
        thread_name: &str,
        fatal: FatalHook,
        load: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<(Self, T), StoreError> {
        let mut connection = connect(path, durability, migrations)?;
        settle(path, &connection)?;
        let loaded = load(&mut connection)?;
        let checkpoint_pages = Arc::new(AtomicU32::new(CHECKPOINT_PAGES));
        checkpoint_with_errors(&mut connection, Arc::clone(&checkpoint_pages)).map_err(StoreError::sqlite(path))?;
        let (tx, rx) = mpsc::channel(QUEUE_MAX);
        let timings = Arc::new(Timings::default());
        let writer = Writer { connection, rx, fatal, path: path.to_owned(), timings: Arc::clone(&timings) };
        std::thread::Builder::new()
            .name(thread_name.to_owned())
            .spawn(move || writer.run())
            .map_err(|source| StoreError::io("start the writer of", path, source))?;
        Ok((Self { tx, path: Arc::new(path.to_owned()), timings, checkpoint_pages }, loaded))
    }

    /// From now on the write-ahead log is moved into the file when it has so many pages.
    pub fn checkpoint_after(&self, pages: u32) {
        self.checkpoint_pages.store(pages, Ordering::Relaxed);
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Queues a change. `work` runs inside a transaction together with others; what it returns is called after the commit.
    /// Returns when the request is queued.
    pub async fn submit(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<Done> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.tx.send(Job::Write(Box::new(work))).await.map_err(|_| StoreError::Closed)
    }

    /// Runs `work` inside a transaction and returns its result once that is committed.
    pub async fn write<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R, StoreError> {
        let (tx, rx) = oneshot::channel();
        self.submit(move |connection| {
            let result = work(connection)?;
            Ok(Box::new(move || drop(tx.send(result))) as Done)
        })
        .await?;
        rx.await.map_err(|_| StoreError::Closed)
    }

    /// Runs `work` alone, outside of any transaction, after everything that was queued before. Its errors are its caller's.
    pub async fn exclusive<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> R + Send + 'static,
    ) -> Result<R, StoreError> {
        let (tx, rx) = oneshot::channel();
        let job = Job::Exclusive(Box::new(move |connection| drop(tx.send(work(connection)))));
        self.tx.send(job).await.map_err(|_| StoreError::Closed)?;
        rx.await.map_err(|_| StoreError::Closed)
    }

    /// Finishes what is queued and closes the file. Later requests on any clone fail with [`StoreError::Closed`].
    pub async fn close(&self) {
        let (tx, rx) = oneshot::channel();
        if self.tx.send(Job::Close(tx)).await.is_ok() {
            let _ = rx.await;
        }
    }

    /// 99th percentile of the commits of the last minute, milliseconds. None without any.
    pub fn commit_p99_ms(&self) -> Option<u64> {
        self.timings.p99_ms()
    }
}

struct Writer {
    connection: Connection,
    rx: mpsc::Receiver<Job>,
    fatal: FatalHook,
    path: PathBuf,
    timings: Arc<Timings>,
}

impl Writer {
    fn run(mut self) {
        let mut held = None;
        while let Some(job) = held.take().or_else(|| self.rx.blocking_recv()) {
            match job {
                Job::Exclusive(work) => work(&mut self.connection),
                Job::Write(first) => match self.group(first) {
                    Ok(next) => held = next,
                    Err(error) => {
                        self.fatal.call(&format!("{}: {error}", self.path.display()));
                        return;
                    }
                },
                Job::Close(done) => {
                    drop(self.connection);
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    /// One transaction of `first` and whatever writes wait behind it. Returns the job that ended the group, if any.
    fn group(&mut self, first: Work) -> rusqlite::Result<Option<Job>> {
        let mut held = None;
        let mut done: Vec<Done> = Vec::new();
        let began_ms = clock::now_ms();
        let transaction = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        done.push(first(&transaction)?);
        while done.len() < GROUP_MAX {
            match self.rx.try_recv() {
                Ok(Job::Write(work)) => done.push(work(&transaction)?),
                Ok(other) => {
                    held = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        transaction.commit()?;
        self.timings.add(clock::now_ms().saturating_sub(began_ms));
        for call in done {
            call();
        }
        Ok(held)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const SCHEMA: Migrations = &["CREATE TABLE t(k INTEGER PRIMARY KEY, v TEXT) STRICT"];
    const SCHEMA_2: Migrations = &[SCHEMA[0], "ALTER TABLE t ADD COLUMN w INTEGER NOT NULL DEFAULT 7"];

    fn open(path: &Path, migrations: Migrations, fatal: FatalHook) -> Result<Database, StoreError> {
        Database::open(path, Durability::Full, migrations, "test-db", fatal, |_| Ok(())).map(|(db, ())| db)
    }

    fn no_fatal() -> FatalHook {
        FatalHook::new(|message| panic!("unexpected: {message}"))
    }

    #[tokio::test]
    async fn many_writers_share_transactions_and_all_are_durable() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("t.db");
        let db = open(&path, SCHEMA, no_fatal()).expect("opens");
        let writes = (0..500i64).map(|key| db.write(move |c| c.execute("INSERT INTO t VALUES (?1, 'x')", [key])));
        for result in futures::future::join_all(writes).await {
            assert_eq!(result.expect("written"), 1);
        }
        assert!(db.commit_p99_ms().is_some());
        db.close().await;
        assert!(matches!(db.write(|_| Ok(())).await, Err(StoreError::Closed)));
        let count: i64 = Connection::open(&path)
            .and_then(|c| c.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
            .expect("counts");
        assert_eq!(count, 500);
    }

    #[test]
    fn nobody_else_reads_a_database_or_its_side_files() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let connection = connect(&directory.path().join("t.db"), Durability::Full, SCHEMA).expect("opens");
        connection.execute("INSERT INTO t VALUES (1, 'x')", []).expect("writes");
        let modes: Vec<u32> = std::fs::read_dir(directory.path())
            .expect("lists")
            .map(|entry| entry.expect("entry").metadata().expect("metadata").mode() & 0o777)
            .collect();
        assert_eq!(modes, vec![0o600; 3]);
    }

    #[tokio::test]
    async fn a_failing_write_calls_the_hook_and_nothing_is_acknowledged() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let calls = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&calls);
        let hook = FatalHook::new(move |_| {
            seen.fetch_add(1, Ordering::SeqCst);
        });
        let db = open(&directory.path().join("t.db"), SCHEMA, hook).expect("opens");
        let result = db.write(|c| c.execute("INSERT INTO missing VALUES (1)", [])).await;
        assert!(matches!(result, Err(StoreError::Closed)));
        assert!(db.write(|c| c.execute("INSERT INTO t VALUES (1, 'x')", [])).await.is_err(), "it does not go on");
        // The second write was refused because the writer has ended, and it ends behind the hook.
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn old_schemas_are_migrated_and_newer_ones_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("t.db");
        let db = open(&path, SCHEMA, no_fatal()).expect("opens");
        db.write(|c| c.execute("INSERT INTO t VALUES (1, 'x')", [])).await.expect("written");
        db.close().await;
        let db = open(&path, SCHEMA_2, no_fatal()).expect("migrates");
        let w: i64 =
            db.write(|c| c.query_row("SELECT w FROM t WHERE k = 1", [], |row| row.get(0))).await.expect("reads");
        assert_eq!(w, 7);
        db.close().await;
        match open(&path, SCHEMA, no_fatal()) {
            Err(StoreError::Newer { found: 2, known: 1, .. }) => {}
            other => panic!("expected a refusal, got {other:?}"),
        }
    }
}
