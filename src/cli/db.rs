//! `hive db …`: the databases of this machine's state directory, with or without an agent that uses them.
//!
//! Never done here: judging what is found.

use super::backup::place;
use super::backup_args::DbVerb;
use super::output::{Outcome, Ui};
use super::render;
use super::text::bytes;
use crate::agent::state_dir::{self, Progress};
use crate::config::Surroundings;
use crate::store::{hive_db, raft_db};

/// Exit code when something is damaged, as of `hive doctor`.
const EXIT_DAMAGED: u8 = 6;

/// `hive db …`
pub(crate) fn db(ui: &Ui, surroundings: &Surroundings, verb: DbVerb) -> Outcome {
    match verb {
        DbVerb::Check { blobs, place: args } => {
            let config = place(surroundings, &args)?;
            let report = state_dir::check(&config.state_dir, blobs, |progress| match progress {
                Progress::Database(name) => ui.show_progress(&format!("reading {name}")),
                Progress::Blobs { files, bytes: read } => {
                    ui.show_progress(&format!("reading blobs: {files}, {}", bytes(read)));
                }
            });
            ui.clear_progress();
            let report = report?;
            ui.data(&report, || render::backup::databases(&report, ui.paint))?;
            Ok(if report.good { 0 } else { EXIT_DAMAGED })
        }
        DbVerb::SetAside { databases, place: args } => {
            let config = place(surroundings, &args)?;
            let default = || vec![raft_db::FILE.to_owned(), hive_db::FILE.to_owned()];
            let names = if databases.is_empty() { default() } else { databases };
            let moved = state_dir::set_databases_aside(&config.state_dir, &names)?;
            ui.data(&serde_json::json!({ "set_aside": moved }), || render::backup::set_aside(&moved))?;
            Ok(0)
        }
    }
}
