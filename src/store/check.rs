//! Reading the databases of a state directory to judge them, beside an agent that uses them or after its end.
//!
//! Every connection is read-only and sees one moment; nothing is migrated, checkpointed or mended. Never done here: knowing what an entry,
//! a vote or a row means (`consensus::check` does), or what to do about damage.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use super::database::{BUSY_TIMEOUT, Migrations};
use super::hive_db::HiveMeta;
use super::raft_db::{LogPoint, RaftMeta, RawEntry};
use super::{StoreError, event_db, hive_db, outbox, raft_db};
use crate::engine::state::{Row, table};
use crate::transport::decode;

/// The databases of a state directory, in the order in which they are read: what the log has dropped must be in the state, which is read
/// after it.
pub const DATABASES: [&str; 4] = [raft_db::FILE, hive_db::FILE, outbox::FILE, event_db::FILE];
/// Sentences of SQLite about one database.
const SENTENCES_MAX: u32 = 10;

fn migrations(name: &str) -> Migrations {
    match name {
        raft_db::FILE => raft_db::MIGRATIONS,
        hive_db::FILE => hive_db::MIGRATIONS,
        outbox::FILE => outbox::MIGRATIONS,
        event_db::FILE => event_db::MIGRATIONS,
        _ => &[],
    }
}

/// A database, open for reading at one moment.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    connection: Connection,
}

/// What SQLite tells of a damaged file, in its own words.
fn sentence(error: &rusqlite::Error) -> String {
    if let rusqlite::Error::SqliteFailure(code, message) = error {
        return message.clone().unwrap_or_else(|| code.to_string());
    }
    error.to_string()
}

impl Reader {
    /// Opens a database of a state directory. None when there is none.
    pub fn open(directory: &Path, name: &str) -> Result<Option<Self>, StoreError> {
        let path = directory.join(name);
        if !path.exists() {
            return Ok(None);
        }
        let open = || {
            let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "trusted_schema", false)?;
            connection.pragma_update(None, "mmap_size", 0)?;
            // Everything that follows sees the same moment.
            connection.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;")?;
            Ok(connection)
        };
        let connection = open().map_err(|error| Self::judged(&path, error))?;
        let found: i32 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(|error| Self::judged(&path, error))?;
        let known = i32::try_from(migrations(name).len()).unwrap_or(i32::MAX);
        if found > known {
            return Err(StoreError::Newer { path, found, known });
        }
        if found < known {
            // Tables are made in one step with the number.
            let what =
                if found == 0 { "it holds no tables".to_owned() } else { format!("its schema has version {found}") };
            return Err(StoreError::Damaged { path, what });
        }
        Ok(Some(Self { path, connection }))
    }

    /// An error of a file that is there: damaged, unless it merely may not be read.
    fn judged(path: &Path, error: rusqlite::Error) -> StoreError {
        use rusqlite::ErrorCode::{CannotOpen, DatabaseBusy, DatabaseLocked, PermissionDenied};
        let code = error.sqlite_error_code();
        if matches!(code, Some(CannotOpen | PermissionDenied | DatabaseBusy | DatabaseLocked)) {
            return StoreError::sqlite(path)(error);
        }
        StoreError::Damaged { path: path.to_owned(), what: sentence(&error) }
    }

    fn ask<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        ask(&self.connection).map_err(|error| Self::judged(&self.path, error))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What SQLite finds wrong with pages, indexes and types; nothing in a good file. Reads all of it.
    pub fn structure(&self) -> Result<Vec<String>, StoreError> {
        let told: Vec<String> = self.ask(|connection| {
            let mut statement = connection.prepare(&format!("PRAGMA integrity_check({SENTENCES_MAX})"))?;
            statement.query_map([], |row| row.get(0))?.collect()
        })?;
        Ok(told.into_iter().filter(|sentence| sentence != "ok").collect())
    }

    fn value(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.ask(|connection| {
            connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
        })
    }

    fn decoded<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let Some(bytes) = self.value(key)? else { return Ok(None) };
        let damaged = |error: std::io::Error| StoreError::Damaged {
            path: self.path.clone(),
            what: format!("what it says as {key:?} cannot be read ({error})"),
        };
        decode(&bytes).map(Some).map_err(damaged)
    }

    /// `raft.db`: to whom it belongs.
    pub fn raft_meta(&self) -> Result<Option<RaftMeta>, StoreError> {
        self.decoded("meta")
    }

    /// `raft.db`: the vote, in `consensus`'s encoding.
    pub fn vote(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.value("vote")
    }

    /// `raft.db`: the committed point that was noted last.
    pub fn committed(&self) -> Result<Option<LogPoint>, StoreError> {
        self.decoded("committed")
    }

    /// `raft.db`: the last entry that was dropped, being in the state.
    pub fn purged(&self) -> Result<Option<LogPoint>, StoreError> {
        self.decoded("purged")
    }

    /// `raft.db`: shows every entry in order.
    pub fn entries(&self, mut each: impl FnMut(RawEntry)) -> Result<(), StoreError> {
        self.ask(|connection| {
            let mut statement = connection.prepare("SELECT idx, term, entry FROM log ORDER BY idx")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (index, term): (i64, i64) = (row.get(0)?, row.get(1)?);
                let at = LogPoint { term: term.cast_unsigned(), index: index.cast_unsigned() };
                each(RawEntry { at, bytes: row.get(2)? });
            }
            Ok(())
        })
    }

    /// `hive.db`: what its rows stand for; none when it says nothing.
    pub fn hive_meta(&self) -> Result<Option<HiveMeta>, StoreError> {
        self.decoded("state")
    }

    /// `hive.db`: all rows, those of the history table without their values.
    pub fn rows(&self) -> Result<hive_db::Rows, StoreError> {
        hive_db::read_rows(&self.path, &self.connection).map_err(|error| match error {
            StoreError::Sqlite { path, source } => Self::judged(&path, source),
            error @ (StoreError::Io { .. }
            | StoreError::Newer { .. }
            | StoreError::Damaged { .. }
            | StoreError::Closed) => error,
        })
    }

    /// `hive.db`: shows every row of the history table.
    pub fn history(&self, mut each: impl FnMut(&Row, &[u8])) -> Result<(), StoreError> {
        self.ask(|connection| {
            let mut statement = connection.prepare("SELECT key, value FROM kv WHERE tbl = ?1 ORDER BY key")?;
            let mut rows = statement.query([table::HISTORY])?;
            while let Some(row) = rows.next()? {
                let value: Vec<u8> = row.get(1)?;
                each(&Row { table: table::HISTORY, key: row.get(0)? }, &value);
            }
            Ok(())
        })
    }

    /// `hive.db`: the chain at an index, with the entry's term.
    pub fn point(&self, index: u64) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        self.ask(|connection| {
            let sql = "SELECT term, chain FROM points WHERE idx = ?1";
            let found =
                connection.query_row(sql, [index.cast_signed()], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)));
            Ok(found.optional()?.map(|(term, chain)| (term.cast_unsigned(), chain)))
        })
    }

    /// `outbox.db`, `events.db`: shows every value.
    pub fn values(&self, mut each: impl FnMut(&[u8])) -> Result<(), StoreError> {
        let of_events = self.path.file_name().is_some_and(|name| name == event_db::FILE);
        let sql = if of_events { "SELECT value FROM events" } else { "SELECT value FROM outbox" };
        self.ask(|connection| {
            let mut statement = connection.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                each(row.get_ref(0)?.as_bytes().unwrap_or_default());
            }
            Ok(())
        })
    }
}
