//! `hive restore`: a new hive on this machine, out of a backup of another one.
//!
//! ```text
//!   what is there? ─► copy out of the backup, compared ─► read whole ─► mark ─► set aside ─► hive.db, raft.db ─► mark gone
//!   refused                 refused                       refused            └── broken off: no agent starts, restore again
//! ```
//!
//! Up to the mark nothing is changed but for the copy, which is removed. The machine keeps its key, its blobs and its logs. Never done here:
//! deciding what becomes of members and jobs (the new hive's first entry does, in `engine::state`).

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{OF_THE_HIVE, RESTORING, failed, give, io_failed, refuse, refused, report_of, take, unfinished};
use crate::api::{ApiError, ApiResult, ErrorCode, RestoreReport, words};
use crate::consensus::ConsensusError;
use crate::consensus::backup::{NewHive, Whole, begin};
use crate::engine::audit::AuditNote;
use crate::engine::command::FEATURE_LEVEL;
use crate::engine::id::HiveId;
use crate::engine::member::{Inventory, MemberInfo};
use crate::mesh::NodeKey;
use crate::store::backup::{self, Header};
use crate::store::{incarnation, set_aside, space, sync_directory};

/// The copy while it is looked at.
const COPY: &str = "hive.db.restoring";
/// Free bytes that a restore leaves.
const SPARE_BYTES: u64 = 128 << 20;

/// How to restore.
#[derive(Clone, Debug)]
pub(crate) struct How {
    /// What is there may be set aside.
    pub(crate) replace: bool,
    /// Look at the backup, and change nothing.
    pub(crate) only_check: bool,
    /// Name of this node.
    pub(crate) name: String,
    /// Who restores, for the audit log.
    pub(crate) by: String,
}

/// Restores `file` into `directory`. Tells how many bytes of the backup are read, of how many.
pub(crate) fn restore(
    directory: &Path,
    file: &Path,
    how: &How,
    told: impl FnMut(u64, u64),
) -> ApiResult<RestoreReport> {
    let (header, bytes) = backup::peek(file).map_err(|error| refused(&error))?;
    if how.only_check {
        return only_check(directory, file, &header, bytes, told);
    }
    let made = make_directory(directory)?;
    let result = take(directory).and_then(|lock| {
        let restored = restore_into(directory, file, (&header, bytes), how, told);
        drop(lock);
        restored
    });
    if made && result.is_err() && unfinished(directory).is_none() {
        // Nothing of ours stays where nothing was.
        let _ = fs::remove_file(directory.join(super::LOCK)).and_then(|()| fs::remove_dir(directory));
    }
    result
}

/// Makes the directory when it is not there, as the agent would: builds of another user must be able to pass it. Whether it was made.
fn make_directory(directory: &Path) -> ApiResult<bool> {
    if directory.exists() {
        return Ok(false);
    }
    fs::create_dir_all(directory).map_err(io_failed("create", directory))?;
    Ok(true)
}

fn only_check(
    directory: &Path,
    file: &Path,
    header: &Header,
    bytes: u64,
    told: impl FnMut(u64, u64),
) -> ApiResult<RestoreReport> {
    // Read as a database it has to be a file of its own.
    let beside = tempfile::Builder::new().prefix("hive-restore-").tempdir();
    let beside = beside.map_err(io_failed("make a directory in", &std::env::temp_dir()))?;
    let whole = read(file, &beside.path().join(COPY), header, told)?;
    Ok(RestoreReport {
        backup: report_of(file, header, bytes),
        state_dir: directory.to_owned(),
        hive_id: None,
        epoch: None,
        former_members: whole.members(),
        jobs: whole.counts(),
        held: 0,
        set_aside: Vec::new(),
    })
}

/// Takes the copy out of the backup, and reads all of it.
fn read(file: &Path, copy: &Path, header: &Header, told: impl FnMut(u64, u64)) -> ApiResult<Whole> {
    let directory = copy.parent().unwrap_or(Path::new("."));
    let (free, _) = space::measure(directory).map_err(|error| failed(&error))?;
    if free < header.size.saturating_add(SPARE_BYTES) {
        let needed = words::bytes(header.size.saturating_add(SPARE_BYTES));
        let message = format!("{} has {} free, and {needed} are needed", directory.display(), words::bytes(free));
        return Err(refuse(
            ErrorCode::Conflict,
            message,
            "nothing was changed; free some space (df -h), then try again",
        ));
    }
    let found = backup::extract(file, Some(copy), told).map_err(|error| refused(&error))?;
    if found != *header {
        let message = format!("{} changed while it was read", file.display());
        return Err(refuse(ErrorCode::Conflict, message, "nothing was changed; try again when nobody writes to it"));
    }
    Whole::read(copy, header).map_err(|error| {
        let error = failed(&error);
        let message = format!("{} cannot be restored: {}", file.display(), error.message);
        refuse(ErrorCode::Invalid, message, "nothing was changed; take another backup, or the hive that made it")
    })
}

fn restore_into(
    directory: &Path,
    file: &Path,
    (header, bytes): (&Header, u64),
    how: &How,
    told: impl FnMut(u64, u64),
) -> ApiResult<RestoreReport> {
    let broken_off = unfinished(directory).is_some();
    let there: Vec<&str> = OF_THE_HIVE.into_iter().filter(|name| directory.join(name).exists()).collect();
    if !there.is_empty() && !how.replace && !broken_off {
        let message = format!("{} belongs to a hive already: it has {}", directory.display(), there.join(", "));
        let hint = "nothing was changed; --replace sets that aside (nothing is deleted), or name another directory with --state-dir";
        return Err(refuse(ErrorCode::Conflict, message, hint));
    }
    let copy = directory.join(COPY);
    let _ = fs::remove_file(&copy);
    let whole = read(file, &copy, header, told)?;
    let former_members = whole.members();
    let result = begin_hive(directory, &copy, whole, file, how);
    let owner = fs::metadata(directory).map_err(io_failed("read", directory))?;
    give(directory, &owner, OF_THE_HIVE.into_iter().chain(["node_key", "incarnation", RESTORING]));
    let (begun, hive_id, set_aside) = result.inspect_err(|_| {
        let _ = fs::remove_file(&copy);
    })?;
    Ok(RestoreReport {
        backup: report_of(file, header, bytes),
        state_dir: directory.to_owned(),
        hive_id: Some(hive_id),
        epoch: Some(begun.epoch.counter),
        former_members,
        jobs: begun.counts,
        held: begun.held,
        set_aside,
    })
}

type New = (crate::consensus::backup::Begun, HiveId, Vec<PathBuf>);

fn begin_hive(directory: &Path, copy: &Path, whole: Whole, file: &Path, how: &How) -> ApiResult<New> {
    let key = NodeKey::load_or_create(directory).map_err(|error| {
        refuse(ErrorCode::Conflict, error.to_string(), "nothing was changed; mend it, then try again")
    })?;
    // Raised as by a start: nobody has seen this node with it yet.
    let incarnation = incarnation::raise(directory).map_err(|error| failed(&error))?;
    let new = NewHive {
        hive_id: HiveId(rand::random()),
        founder: MemberInfo {
            peer_id: key.peer_id(),
            name: how.name.clone(),
            addresses: Vec::new(),
            incarnation,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            feature_level: FEATURE_LEVEL,
            // The agent tells when it starts.
            inventory: Inventory::default(),
        },
        note: AuditNote {
            by: how.by.clone(),
            from: "command line".to_owned(),
            node: how.name.clone(),
            act: "hive restore".to_owned(),
            summary: format!("{}", file.display()),
        },
    };
    whole.try_begin(&new).map_err(|error| not_begun(&error))?;
    mark(directory, file)?;
    let mut moved = Vec::new();
    for name in OF_THE_HIVE {
        moved.extend(set_aside(directory, name).map_err(|error| failed(&error))?);
    }
    let begun = begin(directory, copy, whole, &new).map_err(|error| {
        let error = not_begun(&error);
        let hint = format!("{}\nit is half done: no agent starts here before hive restore was run again", error.hint);
        ApiError::new(error.code, error.message, hint)
    })?;
    let marked = directory.join(RESTORING);
    fs::remove_file(&marked).map_err(io_failed("remove", &marked))?;
    sync_directory(directory).map_err(|error| failed(&error))?;
    Ok((begun, new.hive_id, moved))
}

fn not_begun(error: &ConsensusError) -> ApiError {
    if let ConsensusError::Store(error) = error {
        return failed(error);
    }
    if let ConsensusError::Rejected(why) = error {
        return refuse(
            ErrorCode::Conflict,
            format!("the new hive would refuse its first member: {why}"),
            "nothing was changed; if this is an old copy of a machine, give it a key of its own: remove node_key and incarnation",
        );
    }
    refuse(ErrorCode::Internal, error.to_string(), "see disk and rights there")
}

/// From here on the directory is of no use to an agent until the end.
fn mark(directory: &Path, file: &Path) -> ApiResult<()> {
    let marked = directory.join(RESTORING);
    let mark = || {
        let mut out = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&marked)?;
        writeln!(out, "{}", file.display())?;
        out.sync_all()
    };
    mark().map_err(io_failed("write", &marked))?;
    sync_directory(directory).map_err(|error| failed(&error))
}
