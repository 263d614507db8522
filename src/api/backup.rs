//! Backups, and the databases of a state directory, as commands tell of them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::id::{HiveId, UnixMillis};
use crate::engine::state::QueueCounts;

/// What no backup holds.
pub const NOT_IN_BACKUPS: [&str; 4] = [
    "the bytes of sources and artifacts (blobs), and logs of builds: copy the directory blobs of a node, if they matter",
    "the shared secret, the admin key and tokens: they are needed to use what is restored, keep them elsewhere",
    "the keys of nodes, their roles' packages and configuration",
    "what drones are building: it is built again",
];

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupReport {
    /// The file.
    pub file: PathBuf,
    /// Its length, bytes.
    pub bytes: u64,
    /// The hive that it was made of.
    pub hive_id: HiveId,
    /// Number of its epoch then.
    pub epoch: u64,
    /// The last entry of the log that is in it.
    pub index: u64,
    /// When it was made, by that node's clock.
    pub made_at: UnixMillis,
    /// Name of the node that made it.
    pub node: String,
    /// Version of hive that made it.
    pub version: String,
    /// What it does not hold.
    pub not_included: Vec<String>,
}

/// What `hive restore` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// The backup.
    pub backup: BackupReport,
    /// Where the new hive begins.
    pub state_dir: PathBuf,
    /// The new hive; none when the backup was only checked.
    pub hive_id: Option<HiveId>,
    /// Number of its first epoch.
    pub epoch: Option<u64>,
    /// Members of the hive that the backup was made of. They are no members of the new one.
    pub former_members: usize,
    /// Jobs as the new hive finds them; of a backup that was only checked, as they are in it.
    pub jobs: QueueCounts,
    /// Jobs with effects outside that were not over: they may have run since, so they wait for a person.
    pub held: u64,
    /// What was there before and has another name now.
    pub set_aside: Vec<PathBuf>,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DbSeverity {
    /// Worth knowing; nothing has to be done.
    Remark,
    /// Something is lost or wrong.
    Damage,
    /// It could not be looked at.
    Unread,
}

/// Something that `hive db check` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DbFinding {
    /// Name of the file in the state directory.
    pub file: String,
    /// How bad.
    pub severity: DbSeverity,
    /// One sentence.
    pub what: String,
    /// What to do about it; empty when there is nothing to do.
    pub next: String,
}

/// A database as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DbFile {
    /// Name of the file.
    pub name: String,
    /// With its log, bytes.
    pub bytes: u64,
    /// Nothing is wrong with it.
    pub good: bool,
}

/// Blobs as they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DbBlobs {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those whose bytes are not what their names promise.
    pub damaged: Vec<String>,
}

/// Answer of `hive db check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DbReport {
    /// The directory.
    pub state_dir: PathBuf,
    /// An agent uses it at the moment.
    pub running: bool,
    /// Nothing is damaged, and all could be looked at.
    pub good: bool,
    /// The hive; none when the node belongs to none.
    pub hive_id: Option<HiveId>,
    /// Number of its epoch.
    pub epoch: Option<u64>,
    /// The last entry of the log that is in the state's file.
    pub applied: Option<u64>,
    /// First and last entry that the log has; none on a node that keeps none.
    pub log: Option<(u64, u64)>,
    /// Rows of the state.
    pub rows: u64,
    /// Jobs that were over long ago.
    pub history: u64,
    /// The databases that are there.
    pub databases: Vec<DbFile>,
    /// Blobs, when they were to be looked at.
    pub blobs: Option<DbBlobs>,
    /// What was found.
    pub findings: Vec<DbFinding>,
}
