//! What this node keeps on disk: SQLite databases behind handles, the incarnation counter, and a watch on free space.
//!
//! ```text
//!   async callers ──► bounded channel ──► one writer thread per database ──► one transaction per drained batch ──► fsync
//! ```
//!
//! `raft.db` holds log and vote (every commit reaches the disk), `hive.db` the replicated state (written through, may lose its
//! last transactions in a power cut, which the log then repeats), `outbox.db` what waits for a quorum. After an error of the
//! device nothing is retried: pages that failed to reach the disk are marked clean, so a retry would lie. The process ends
//! instead. Never done here: knowing what an entry, a vote or a row means.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub mod backup;
pub mod check;
pub mod database;
pub mod event_db;
pub mod explorer;
pub mod history_db;
pub mod hive_db;
pub mod incarnation;
pub mod outbox;
pub mod raft_db;
pub mod space;

/// Why something could not be read from or written to disk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused; nothing was changed.
    #[error("{}: the database cannot be used", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// A file or directory could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A later version of hive wrote it. It is left as it is.
    #[error("{} has version {found}, this hive knows {known}; start the newer hive again, or move the file away", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Version on disk.
        found: i32,
        /// Highest version known here.
        known: i32,
    },
    /// Its content makes no sense.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The writer has ended (shut down, or after an error that ends the process).
    #[error("the database is closed")]
    Closed,
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn sqlite(path: &Path) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Sqlite { path: path.to_owned(), source }
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        Self::other(error)
    }
}

/// Whether a damaged database is at the bottom of an error.
pub fn is_damage(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
        let corrupt = matches!(code, Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase));
        if corrupt || matches!(error.downcast_ref(), Some(StoreError::Damaged { .. })) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Exit code after an error of the device under a database (`EX_IOERR`).
pub const EXIT_IO_ERROR: i32 = 74;

/// What happens after an error of the device. In production the process ends; tests observe instead.
#[derive(Clone)]
pub struct FatalHook(Arc<dyn Fn(&str) + Send + Sync>);

impl FatalHook {
    /// Logs and ends the process with [`EXIT_IO_ERROR`].
    pub fn exit() -> Self {
        Self::new(|message| {
            tracing::error!(message, "a database failed; the agent ends and nothing is retried");
            std::process::exit(EXIT_IO_ERROR);
        })
    }

    /// Calls `hook` instead.
    pub fn new(hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    pub(crate) fn call(&self, message: &str) {
        (self.0)(message);
    }
}

impl Default for FatalHook {
    fn default() -> Self {
        Self::exit()
    }
}

impl fmt::Debug for FatalHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FatalHook")
    }
}

/// Makes renames and new files in `directory` durable.
pub fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    std::fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| StoreError::io("sync", directory, source))
}

/// In the name of every file of a database that was set aside.
pub const ASIDE_MARK: &str = ".db.aside-";
/// Most generations of a database that were set aside.
const ASIDE_MAX: u32 = 10_000;

/// Renames a database and its side files to `<name>.aside-<n>`, so that nothing is overwritten. None when there was none.
pub fn set_aside(directory: &Path, name: &str) -> Result<Option<PathBuf>, StoreError> {
    let path = directory.join(name);
    if !path.exists() {
        return Ok(None);
    }
    let target = (1..=ASIDE_MAX)
        .map(|number| directory.join(format!("{name}.aside-{number}")))
        .find(|candidate| !candidate.exists())
        .ok_or_else(|| StoreError::Damaged { path: path.clone(), what: format!("{ASIDE_MAX} copies set aside") })?;
    // The main file first: after a crash in between, a main file without its log would be a database of an earlier state under the
    // old name, with an older vote. A log without its main file is dropped by SQLite when it makes the new one.
    for suffix in ["", "-wal", "-shm"] {
        let from = directory.join(format!("{name}{suffix}"));
        let mut to = target.clone().into_os_string();
        to.push(suffix);
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && !suffix.is_empty() => {}
            Err(error) => return Err(StoreError::io("rename", &from, error)),
        }
    }
    sync_directory(directory)?;
    tracing::warn!(from = %path.display(), to = %target.display(), "a database was set aside");
    Ok(Some(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_while_setting_aside_leaves_nothing_of_the_old_database_under_its_name() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("x.db");
        let schema: database::Migrations = &["CREATE TABLE t(k INTEGER PRIMARY KEY) STRICT"];
        let old = database::connect(&path, database::Durability::Full, schema).expect("opens");
        old.execute("INSERT INTO t VALUES (1)", []).expect("writes");
        // The process dies after the first rename: the log of the old database still has its name.
        std::fs::copy(directory.path().join("x.db-wal"), directory.path().join("wal")).expect("copies");
        drop(old);
        std::fs::rename(&path, directory.path().join("x.db.aside-1")).expect("renames");
        std::fs::rename(directory.path().join("wal"), directory.path().join("x.db-wal")).expect("renames");
        let new = database::connect(&path, database::Durability::Full, schema).expect("opens");
        let rows: i64 = new.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("counts");
        assert_eq!(rows, 0);
    }

    #[test]
    fn the_main_file_moves_first() {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::write(directory.path().join("x.db"), "main").expect("writes");
        std::fs::write(directory.path().join("x.db-wal"), "wal").expect("writes");
        // Something that cannot be renamed over stands where the log is to go, as if the process ended there.
        std::fs::create_dir(directory.path().join("x.db.aside-1-wal")).expect("makes");
        assert!(set_aside(directory.path(), "x.db").is_err());
        assert!(!directory.path().join("x.db").exists(), "never a main file without its log");
    }

    #[test]
    fn setting_aside_keeps_every_generation_with_its_side_files() {
        let directory = tempfile::tempdir().expect("temporary directory");
        assert!(set_aside(directory.path(), "x.db").expect("absent is fine").is_none());
        for round in 1..=3 {
            std::fs::write(directory.path().join("x.db"), format!("main {round}")).expect("writes");
            std::fs::write(directory.path().join("x.db-wal"), format!("wal {round}")).expect("writes");
            let aside = set_aside(directory.path(), "x.db").expect("renames").expect("was there");
            assert_eq!(aside, directory.path().join(format!("x.db.aside-{round}")));
            assert_eq!(std::fs::read_to_string(&aside).expect("reads"), format!("main {round}"));
            let wal = directory.path().join(format!("x.db.aside-{round}-wal"));
            assert_eq!(std::fs::read_to_string(wal).expect("reads"), format!("wal {round}"));
        }
        assert!(!directory.path().join("x.db").exists());
    }
}
