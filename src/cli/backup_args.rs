//! `hive backup`, `hive restore` and `hive db …`: what they take.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Which state directory is meant.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct StateDirArgs {
    /// The state directory; the configured one when left out.
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// The agent's configuration file, when it is not in its usual place.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// `hive backup`
#[derive(Debug, Args)]
#[command(
    after_help = "It holds no blobs, logs, keys or secrets. It is asked of the agent over its socket while the hive goes on; with \
                        --stopped it is made of the state directory of a node whose agent does not run."
)]
pub(crate) struct BackupArgs {
    /// The file, or a directory for it; hive-HIVE-INDEX.backup in this directory when left out. Nothing is overwritten.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    /// Make it without an agent, of this machine's state directory.
    #[arg(long)]
    pub(crate) stopped: bool,
    #[command(flatten)]
    pub(crate) place: StateDirArgs,
}

/// `hive restore`
#[derive(Debug, Args)]
#[command(
    after_help = "A new hive begins, with this machine as its only member: the others join it as they would any hive, after the old \
                        state on them was set aside (hive db set-aside). The agent must not run. What was built when the backup was made \
                        waits again; what has effects outside and was not over waits for you."
)]
pub(crate) struct RestoreArgs {
    /// The file that hive backup made.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Set aside what this machine has of a hive; nothing is deleted.
    #[arg(long, conflicts_with = "check")]
    pub(crate) replace: bool,
    /// Only find out whether it could be restored.
    #[arg(long)]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) place: StateDirArgs,
}

/// `hive db …`
#[derive(Debug, Subcommand)]
pub(crate) enum DbVerb {
    /// Read all databases and what they say of each other; exit with 6 when something is damaged. Changes nothing.
    Check {
        /// Read all blobs, too, and compare them with their names.
        #[arg(long)]
        blobs: bool,
        #[command(flatten)]
        place: StateDirArgs,
    },
    /// Rename databases of a stopped node, so that it takes what it needs anew from the others. Nothing is deleted.
    SetAside {
        /// Which: hive.db, raft.db, outbox.db, events.db; log and state (raft.db, hive.db) when left out.
        #[arg(value_name = "DATABASE")]
        databases: Vec<String>,
        #[command(flatten)]
        place: StateDirArgs,
    },
}
