//! The state directory of a node whose agent does not run: who may use it, and what is done to it by commands.
//!
//! ```text
//!   agent.lock ── held by the agent while it runs, by a command while it changes something
//!   restoring  ── there while a restore is half done: no agent begins on it
//! ```
//!
//! A file that root makes here for an agent that runs as another user is given to whoever the directory belongs to. Never done here:
//! printing, and anything that needs an agent.

mod checking;
mod restoring;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::api::{ApiError, ApiResult, BackupReport, ErrorCode, NOT_IN_BACKUPS};
use crate::clock;
use crate::consensus::replica::hash_file;
use crate::store::backup::{BackupError, Header};
use crate::store::{StoreError, backup, check::Reader, hive_db, set_aside, sync_directory};

pub(crate) use self::checking::{Progress, check};
pub(crate) use self::restoring::{How, restore};

/// Name of the lock.
const LOCK: &str = "agent.lock";
/// So often it is tried to get it.
const LOCK_TRIES: u32 = 5;
/// Between two of those.
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);
/// There while a restore is half done.
const RESTORING: &str = "restoring";
/// What belongs to a hive, and not to the machine.
const OF_THE_HIVE: [&str; 7] =
    ["hive.db", "raft.db", "outbox.db", "events.db", "history.db", "identity.json", "peers.json"];
/// Files that an operator may set aside.
const DATABASES: [&str; 4] = ["hive.db", "raft.db", "outbox.db", "events.db"];

const STOP_FIRST: &str = "stop it first: systemctl stop hive (or rc-service hive stop); start it again afterwards";

/// Takes the directory for this process; none when an agent has it. The lock goes with the file.
pub(crate) fn lock(directory: &Path) -> io::Result<Option<File>> {
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(directory.join(LOCK))?;
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            // Whoever only looks whether it is held has it for an instant.
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Whether an agent uses the directory. Changes nothing in it.
fn is_used(directory: &Path) -> bool {
    // Without the file no agent has ever been here.
    let Ok(file) = File::open(directory.join(LOCK)) else { return false };
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).is_err()
}

/// The backup that a restore into this directory was to be made of, when it was broken off.
pub(crate) fn unfinished(directory: &Path) -> Option<String> {
    fs::read_to_string(directory.join(RESTORING)).ok().map(|text| text.trim().to_owned())
}

fn refuse(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> ApiError {
    ApiError::new(code, message, hint)
}

/// Why a file or directory cannot be used, with the next step.
fn failed(error: &StoreError) -> ApiError {
    let source = std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    let denied = matches!(error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied);
    let full = crate::store::space::is_disk_full(error);
    let (code, hint) = match error {
        _ if denied => (ErrorCode::Forbidden, "use sudo"),
        _ if full => (ErrorCode::Internal, "free some space (df -h), then try again"),
        StoreError::Newer { .. } => (ErrorCode::Conflict, "install the newer hive, then try again"),
        StoreError::Damaged { .. } | StoreError::Sqlite { .. } => (ErrorCode::Internal, "look closer: hive db check"),
        StoreError::Io { .. } | StoreError::Closed => (ErrorCode::Internal, "see disk and rights there"),
    };
    refuse(code, format!("{error}{source}"), hint)
}

fn refused(error: &BackupError) -> ApiError {
    let another = "nothing was changed; take another backup";
    match error {
        BackupError::NotOne(_) => refuse(ErrorCode::Invalid, error.to_string(), "give a file that hive backup made"),
        BackupError::Newer { .. } => {
            refuse(ErrorCode::Conflict, error.to_string(), "nothing was changed; install the newer hive that made it")
        }
        BackupError::Short { .. } => refuse(
            ErrorCode::Invalid,
            error.to_string(),
            "nothing was changed; copy it again from where it was made, or take another backup",
        ),
        BackupError::Damaged { .. } => refuse(ErrorCode::Invalid, error.to_string(), another),
        BackupError::Store(error) => failed(error),
    }
}

fn io_failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ApiError {
    move |source| failed(&StoreError::Io { action, path: path.to_owned(), source })
}

/// Takes the directory, which must be there.
fn take(directory: &Path) -> ApiResult<File> {
    let metadata = fs::metadata(directory).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            let message = format!("there is no state directory {}", directory.display());
            return refuse(ErrorCode::NotFound, message, "name it with --state-dir");
        }
        io_failed("read", directory)(error)
    })?;
    let lock = lock(directory).map_err(io_failed("lock", directory))?;
    give(directory, &metadata, [LOCK]);
    lock.ok_or_else(|| refuse(ErrorCode::Conflict, format!("an agent uses {}", directory.display()), STOP_FIRST))
}

/// Gives files to whoever the directory belongs to. What cannot be given stays with root, and the agent says that it may not read it.
fn give<'a>(directory: &Path, of: &fs::Metadata, files: impl IntoIterator<Item = &'a str>) {
    for path in files.into_iter().map(|file| directory.join(file)) {
        let other = fs::symlink_metadata(&path).is_ok_and(|file| file.is_file() && file.uid() != of.uid());
        if other && let Err(error) = std::os::unix::fs::chown(&path, Some(of.uid()), Some(of.gid())) {
            tracing::warn!(path = %path.display(), %error, "it still belongs to root");
        }
    }
}

/// What people are told of a backup.
pub(crate) fn report_of(file: &Path, header: &Header, bytes: u64) -> BackupReport {
    BackupReport {
        file: file.to_owned(),
        bytes,
        hive_id: header.hive_id,
        epoch: header.epoch.counter,
        index: header.applied.index,
        made_at: header.made_at,
        node: header.node.clone(),
        version: header.version.clone(),
        not_included: NOT_IN_BACKUPS.map(str::to_owned).to_vec(),
    }
}

/// Reads a backup that was just written, to its end.
pub(crate) fn verify(file: &Path, told: impl FnMut(u64, u64)) -> ApiResult<BackupReport> {
    let header = backup::extract(file, None, told).map_err(|error| refused(&error))?;
    let bytes = fs::metadata(file).map_err(io_failed("read", file))?.len();
    Ok(report_of(file, &header, bytes))
}

/// Makes a backup of a stopped node's state, beside `target`, which must not be there. `name`: of this node. Also tells how many entries the
/// log has beyond it.
pub(crate) fn backup_stopped(
    directory: &Path,
    name: &str,
    target: impl FnOnce(&Header) -> PathBuf,
) -> ApiResult<(BackupReport, u64)> {
    let _lock = take(directory)?;
    let source = directory.join(hive_db::FILE);
    if !source.exists() {
        let message = format!("there is no {} in {}", hive_db::FILE, directory.display());
        return Err(refuse(
            ErrorCode::NotFound,
            message,
            "this node belongs to no hive; make the backup on one that does",
        ));
    }
    let copy = directory.join(format!("{}.backup-{:016x}", hive_db::FILE, rand::random::<u64>()));
    let made = make(directory, &source, &copy, name, target);
    let _ = fs::remove_file(&copy);
    made
}

fn make(
    directory: &Path,
    source: &Path,
    copy: &Path,
    name: &str,
    target: impl FnOnce(&Header) -> PathBuf,
) -> ApiResult<(BackupReport, u64)> {
    let meta = hive_db::copy_to(source, copy).map_err(|error| failed(&error))?;
    let hashed = hash_file(copy).map_err(io_failed("read", copy))?;
    let header = Header::of(&meta, name, clock::unix_now(), hashed).ok_or_else(|| {
        let message = "this node belongs to no hive, or has nothing of it yet";
        refuse(ErrorCode::Conflict, message, "make the backup on another node")
    })?;
    // What is damaged is worth nothing when it is needed.
    crate::consensus::backup::Whole::read(copy, &header).map_err(|error| failed(&error))?;
    let target = target(&header);
    backup::write(&header, copy, &target).map_err(|error| failed(&error))?;
    let mut last = 0;
    let read = Reader::open(directory, crate::store::raft_db::FILE);
    if let Ok(Some(log)) = read
        && let Err(error) = log.entries(|entry| last = entry.at.index)
    {
        return Err(failed(&error));
    }
    let bytes = fs::metadata(&target).map_err(io_failed("read", &target))?.len();
    Ok((report_of(&target, &header, bytes), last.saturating_sub(header.applied.index)))
}

/// Renames databases of a stopped node, so that it begins without them. Answers with their new names.
pub(crate) fn set_databases_aside(directory: &Path, names: &[String]) -> ApiResult<Vec<PathBuf>> {
    let _lock = take(directory)?;
    let mut moved = Vec::new();
    for name in names {
        if !DATABASES.contains(&name.as_str()) {
            let hint = format!("one of: {}", DATABASES.join(", "));
            return Err(refuse(ErrorCode::Invalid, format!("{name:?} is no database of a state directory"), hint));
        }
    }
    for name in names {
        moved.extend(set_aside(directory, name).map_err(|error| failed(&error))?);
    }
    if moved.is_empty() {
        let message = format!("none of {} is in {}", names.join(", "), directory.display());
        return Err(refuse(ErrorCode::NotFound, message, "see: hive db check"));
    }
    sync_directory(directory).map_err(|error| failed(&error))?;
    Ok(moved)
}
