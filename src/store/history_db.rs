//! `history.db`: how rows changed, so that they can be put together as they were at a moment of the last days.
//!
//! ```text
//!   base ── steps ─────────────── base ── steps ── base(anew) ── steps          one such track each for
//!   all rows   blocks, compressed         the newest steps as they came         the state and for what only this node saw
//! ```
//!
//! Rows at a moment are those of the last base before it with the steps after that put in. A base that begins anew says from when to when
//! nothing is known. Bases are made from what is here, never from the state, so that nobody who applies waits for it. The file is no
//! truth and no part of the state: it may be lost without harm, its commits are not synced one by one, and what is in it is bounded by age
//! and bytes. Never done here: deciding what is kept, or knowing what rows mean.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row as SqlRow, params};

use super::database::{BUSY_TIMEOUT, Database, Durability, Migrations};
use super::{FatalHook, StoreError};
use crate::engine::id::UnixMillis;
use crate::engine::past::{self, Rows, Step};

mod keeping;

/// Name of the file in the state directory.
pub const FILE: &str = "history.db";
/// Steps are pressed together in pieces of so many bytes.
const BLOCK_BYTES: i64 = 256 << 10;
/// How hard: more saves little of what already shrinks to a tenth.
const LEVEL: i32 = 3;
/// Longest block or base that is read, bytes.
const RAW_MAX_BYTES: usize = 1 << 30;

const MIGRATIONS: Migrations = &["CREATE TABLE about(key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE base(track INTEGER NOT NULL, seq INTEGER NOT NULL, at INTEGER NOT NULL, gap_from INTEGER, raw INTEGER NOT NULL,
         value BLOB NOT NULL, PRIMARY KEY(track, seq)) STRICT;
     CREATE TABLE block(track INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, first_at INTEGER NOT NULL,
         last_at INTEGER NOT NULL, raw INTEGER NOT NULL, value BLOB NOT NULL, PRIMARY KEY(track, first)) STRICT;
     CREATE TABLE tail(track INTEGER NOT NULL, seq INTEGER NOT NULL, at INTEGER NOT NULL, value BLOB NOT NULL,
         PRIMARY KEY(track, seq)) STRICT;
     CREATE TABLE passed(at INTEGER PRIMARY KEY, messages INTEGER NOT NULL) STRICT;"];

/// One of the two stories that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Track {
    /// Rows of the replicated state: the same on every node.
    State,
    /// What this node alone saw: who answered, who led, how busy machines were.
    Seen,
}

impl Track {
    fn number(self) -> i64 {
        match self {
            Self::State => 0,
            Self::Seen => 1,
        }
    }
}

/// Where a track ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Number of the last base or step; 0 when there is none.
    pub seq: u64,
    /// Its time.
    pub at: UnixMillis,
    /// Log index of the last step.
    pub index: u64,
}

/// What a track begins anew with.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// When all rows were these.
    pub at: UnixMillis,
    /// Log index that they stand for.
    pub index: u64,
    /// All rows.
    pub rows: Rows,
}

/// Rows at a moment.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The rows.
    pub rows: Rows,
    /// When they last changed before the moment.
    pub at: UnixMillis,
    /// Log index up to which they are.
    pub index: u64,
    /// When they changed next; none: not until the moment of reading.
    pub until: Option<UnixMillis>,
}

/// Why rows at a moment are not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing is kept yet.
    Nothing,
    /// What is kept begins here.
    Before(UnixMillis),
    /// This node missed what changed between these.
    Gap(UnixMillis, UnixMillis),
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Nothing older than this is needed.
    pub oldest: UnixMillis,
    /// Most bytes.
    pub bytes_max: u64,
}

/// The open database.
#[derive(Clone, Debug)]
pub struct HistoryDb {
    db: Database,
    path: PathBuf,
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn time(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<UnixMillis> {
    row.get::<_, i64>(column).map(|at| UnixMillis(at.max(0).cast_unsigned()))
}

fn foreign(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.into())
}

fn press(bytes: &[u8]) -> rusqlite::Result<Vec<u8>> {
    zstd::bulk::compress(bytes, LEVEL).map_err(foreign)
}

fn unpress(bytes: &[u8], raw: i64) -> rusqlite::Result<Vec<u8>> {
    let capacity = usize::try_from(raw).unwrap_or(RAW_MAX_BYTES).min(RAW_MAX_BYTES);
    zstd::bulk::decompress(bytes, capacity).map_err(foreign)
}

impl HistoryDb {
    /// Opens or makes it.
    pub fn open(directory: &Path, fatal: FatalHook) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let (db, ()) = Database::open(&path, Durability::Normal, MIGRATIONS, "hive-history-db", fatal, |_| Ok(()))?;
        Ok(Self { db, path })
    }

    /// Says whose past this is. What is there of another is forgotten.
    pub async fn belong(&self, owner: Vec<u8>) -> Result<(), StoreError> {
        self.db
            .write(move |connection| {
                let known: Option<Vec<u8>> = connection
                    .query_row("SELECT value FROM about WHERE key = 'owner'", [], |row| row.get(0))
                    .optional()?;
                if known.as_ref() != Some(&owner) {
                    connection.execute_batch(
                        "DELETE FROM base; DELETE FROM block; DELETE FROM tail; DELETE FROM passed; DELETE FROM about;",
                    )?;
                    connection.execute("INSERT INTO about VALUES ('owner', ?1)", [owner])?;
                }
                Ok(())
            })
            .await
    }

    /// Where a track ends.
    pub async fn end(&self, track: Track) -> Result<End, StoreError> {
        self.db.write(move |connection| end(connection, track)).await
    }

    /// Adds steps, oldest first. One whose clock was behind counts as if it came with the one before it: the past goes one way.
    pub async fn add(&self, track: Track, steps: Vec<Step>) -> Result<(), StoreError> {
        self.db
            .write(move |connection| {
                let End { mut seq, mut at, .. } = end(connection, track)?;
                let mut insert = connection.prepare_cached("INSERT INTO tail VALUES (?1, ?2, ?3, ?4)")?;
                for mut step in steps {
                    seq += 1;
                    at = at.max(step.at);
                    step.at = at;
                    insert.execute(params![track.number(), signed(seq), signed(at.0), past::encode(&step)])?;
                }
                Ok(())
            })
            .await
    }

    /// Begins a track anew: what lies between its end and this is not known.
    pub async fn begin(&self, track: Track, beginning: Beginning) -> Result<(), StoreError> {
        self.db
            .write(move |connection| {
                // No block holds steps of before and after.
                while keeping::press_block(connection, track, 1)? {}
                let end = end(connection, track)?;
                let Beginning { at, index, rows } = beginning;
                let at = at.max(end.at);
                let raw = past::encode_rows(at, index, &rows);
                let gap_from = if end.seq == 0 { at } else { end.at };
                keeping::put_base(connection, track, end.seq + 1, (at, Some(gap_from)), &raw)
            })
            .await
    }

    /// Counts messages that passed this node, by the time at which a stretch of time begins.
    pub async fn count(&self, at: UnixMillis, messages: u64) -> Result<(), StoreError> {
        self.db
            .write(move |connection| {
                let add = "INSERT INTO passed VALUES (?1, ?2) ON CONFLICT(at) DO UPDATE SET messages = messages + excluded.messages";
                connection.prepare_cached(add)?.execute([signed(at.0), signed(messages)]).map(drop)
            })
            .await
    }

    /// Messages between two times, by the position of the bucket in which they passed.
    pub async fn passed(&self, from: UnixMillis, bucket_ms: u64, buckets: usize) -> Result<Vec<u64>, StoreError> {
        let (from, bucket_ms) = (signed(from.0), signed(bucket_ms.max(1)));
        self.read(move |connection| {
            let to = from.saturating_add(bucket_ms.saturating_mul(signed(buckets as u64)));
            let sql = "SELECT (at - ?1) / ?3, sum(messages) FROM passed WHERE at >= ?1 AND at < ?2 GROUP BY 1";
            let mut statement = connection.prepare(sql)?;
            let mut found = vec![0; buckets];
            let mut rows = statement.query([from, to, bucket_ms])?;
            while let Some(row) = rows.next()? {
                let (place, messages): (i64, i64) = (row.get(0)?, row.get(1)?);
                if let Some(slot) = usize::try_from(place).ok().and_then(|place| found.get_mut(place)) {
                    *slot = messages.max(0).cast_unsigned();
                }
            }
            Ok(found)
        })
        .await
    }

    /// When what is kept of a track begins; none when nothing is.
    pub async fn first(&self, track: Track) -> Result<Option<UnixMillis>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT at FROM base WHERE track = ?1 ORDER BY seq LIMIT 1";
            connection.query_row(sql, [track.number()], |row| time(row, 0)).optional()
        })
        .await
    }

    /// All rows of a track at a moment. Reads and puts together at most about twice of what there is at one time.
    pub async fn at(&self, track: Track, moment: UnixMillis) -> Result<Result<Found, Missing>, StoreError> {
        self.read(move |connection| look(connection, track, moment)).await
    }

    /// Presses steps together, makes bases where they are due, and forgets what is beyond the bounds.
    pub async fn tidy(&self, bounds: Bounds) -> Result<(), StoreError> {
        for track in [Track::State, Track::Seen] {
            while self.db.write(move |connection| keeping::press_block(connection, track, BLOCK_BYTES)).await? {}
            if self.read(move |connection| keeping::base_is_due(connection, track, bounds)).await? {
                self.rebase(track).await?;
            }
        }
        self.db.write(move |connection| keeping::forget(connection, bounds)).await
    }

    /// Makes a base of the last one and all steps after it.
    async fn rebase(&self, track: Track) -> Result<(), StoreError> {
        let made = self
            .read(move |connection| {
                let end = end(connection, track)?;
                let Ok(found) = look(connection, track, end.at)? else { return Ok(None) };
                Ok(Some((end, past::encode_rows(end.at, end.index, &found.rows))))
            })
            .await?;
        let Some((at, raw)) = made else { return Ok(()) };
        self.db
            .write(move |connection| {
                // Steps may have come meanwhile: the base stands for the one that it was made at.
                keeping::put_base(connection, track, at.seq, (at.at, None), &raw)
            })
            .await
    }

    /// Bytes of all that is kept, pressed together.
    pub async fn bytes(&self) -> Result<u64, StoreError> {
        self.read(keeping::bytes).await
    }

    /// Finishes what is queued and closes the file.
    pub async fn close(&self) {
        self.db.close().await;
    }

    /// Reads beside the writer, as the last transaction left it.
    async fn read<R: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R, StoreError> {
        let path = self.path.clone();
        let read = move || {
            let fail = StoreError::sqlite(&path);
            let open = || -> rusqlite::Result<R> {
                let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
                connection.busy_timeout(BUSY_TIMEOUT)?;
                connection.pragma_update(None, "trusted_schema", false)?;
                let transaction = connection.unchecked_transaction()?;
                look(&transaction)
            };
            open().map_err(fail)
        };
        tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Closed)?
    }
}

fn end(connection: &Connection, track: Track) -> rusqlite::Result<End> {
    let one = |sql: &str| {
        let bytes = |row: &SqlRow<'_>| Ok((row.get::<_, i64>(0)?, time(row, 1)?, row.get::<_, Vec<u8>>(2)?));
        connection.prepare_cached(sql)?.query_row([track.number()], bytes).optional()
    };
    let of = |seq: i64, at: UnixMillis, index: u64| End { seq: seq.max(0).cast_unsigned(), at, index };
    if let Some((seq, at, value)) = one("SELECT seq, at, value FROM tail WHERE track = ?1 ORDER BY seq DESC LIMIT 1")? {
        let step = past::decode(&mut value.as_slice()).map_err(foreign)?;
        return Ok(of(seq, at, step.index));
    }
    let number = "SELECT value FROM about WHERE key = ?1";
    let index = |key: &str| -> rusqlite::Result<u64> {
        let known: Option<Vec<u8>> = connection.query_row(number, [key], |row| row.get(0)).optional()?;
        Ok(known.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes))
    };
    let newest = "SELECT seq, at FROM (SELECT last AS seq, last_at AS at FROM block WHERE track = ?1
                  UNION ALL SELECT seq, at FROM base WHERE track = ?1) ORDER BY seq DESC LIMIT 1";
    let found = connection.query_row(newest, [track.number()], |row| Ok((row.get(0)?, time(row, 1)?))).optional()?;
    let Some((seq, at)) = found else { return Ok(End::default()) };
    Ok(of(seq, at, index(&keeping::index_key(track))?))
}

/// The base from which a moment is reached, and what lies between.
struct Start {
    seq: i64,
    raw: i64,
    value: Vec<u8>,
    /// Steps from this number on belong to another beginning.
    limit: i64,
}

fn start(connection: &Connection, track: Track, moment: UnixMillis) -> rusqlite::Result<Result<Start, Missing>> {
    let (track, moment_at) = (track.number(), signed(moment.0));
    let newest = "SELECT seq, raw, value FROM base WHERE track = ?1 AND at <= ?2 ORDER BY seq DESC LIMIT 1";
    let read = |row: &SqlRow<'_>| Ok(Start { seq: row.get(0)?, raw: row.get(1)?, value: row.get(2)?, limit: i64::MAX });
    let Some(found) = connection.prepare_cached(newest)?.query_row([track, moment_at], read).optional()? else {
        let first = "SELECT at FROM base WHERE track = ?1 ORDER BY seq LIMIT 1";
        let first = connection.query_row(first, [track], |row| time(row, 0)).optional()?;
        return Ok(Err(first.map_or(Missing::Nothing, Missing::Before)));
    };
    let anew = "SELECT seq, gap_from, at FROM base WHERE track = ?1 AND seq > ?2 AND gap_from IS NOT NULL ORDER BY seq LIMIT 1";
    let read = |row: &SqlRow<'_>| Ok((row.get(0)?, time(row, 1)?, time(row, 2)?));
    let next: Option<(i64, UnixMillis, UnixMillis)> =
        connection.query_row(anew, [track, found.seq], read).optional()?;
    match next {
        Some((_, from, to)) if moment > from => Ok(Err(Missing::Gap(from, to))),
        next => Ok(Ok(Start { limit: next.map_or(i64::MAX, |(seq, ..)| seq), ..found })),
    }
}

fn look(connection: &Connection, track: Track, moment: UnixMillis) -> rusqlite::Result<Result<Found, Missing>> {
    let start = match start(connection, track, moment)? {
        Ok(start) => start,
        Err(missing) => return Ok(Err(missing)),
    };
    let mut found = Found::default();
    let first = past::decode(&mut unpress(&start.value, start.raw)?.as_slice()).map_err(foreign)?;
    (found.at, found.index) = (first.at, first.index);
    past::fold(&mut found.rows, first.changes);
    let mut blocks = connection
        .prepare_cached("SELECT raw, value FROM block WHERE track = ?1 AND last > ?2 AND first < ?3 ORDER BY first")?;
    let mut rows = blocks.query([track.number(), start.seq, start.limit])?;
    while let Some(row) = rows.next()? {
        let bytes = unpress(&row.get::<_, Vec<u8>>(1)?, row.get(0)?)?;
        if !put_in(&mut found, &bytes, moment)? {
            return Ok(Ok(found));
        }
    }
    let mut tail =
        connection.prepare_cached("SELECT value FROM tail WHERE track = ?1 AND seq > ?2 AND seq < ?3 ORDER BY seq")?;
    let mut rows = tail.query([track.number(), start.seq, start.limit])?;
    while let Some(row) = rows.next()? {
        if !put_in(&mut found, &row.get::<_, Vec<u8>>(0)?, moment)? {
            break;
        }
    }
    Ok(Ok(found))
}

/// Puts steps in up to a moment. Whether all of them were.
fn put_in(found: &mut Found, mut bytes: &[u8], moment: UnixMillis) -> rusqlite::Result<bool> {
    while !bytes.is_empty() {
        let at = past::time_of(bytes).map_err(foreign)?;
        if at > moment {
            found.until = Some(at);
            return Ok(false);
        }
        let step = past::decode(&mut bytes).map_err(foreign)?;
        (found.at, found.index) = (step.at, step.index);
        past::fold(&mut found.rows, step.changes);
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
