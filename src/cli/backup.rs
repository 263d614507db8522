//! `hive backup` and `hive restore`: the replicated state as a file, and a new hive made of one.
//!
//! A backup is written under a hidden name beside its own, read again from the disk to its end, and only then gets its name. Restoring
//! needs no agent and must not have one. Never done here: looking into a backup.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::backup_args::{BackupArgs, RestoreArgs, StateDirArgs};
use super::client::Client;
use super::output::{Failure, Outcome, Ui};
use super::render;
use super::text::{bytes, duration};
use crate::agent::state_dir::{self, How};
use crate::api::{BackupReport, ErrorCode};
use crate::config::{Config, Flags, Surroundings, load};

/// The node copies and hashes its state before the first byte comes; a large one on a slow disk takes minutes.
const MADE_WITHIN: Duration = Duration::from_secs(1_800);
/// A state that was current so lately needs no remark, milliseconds.
const AGE_MAX_MS: u64 = 5_000;

/// The configuration by which the state directory is found.
pub(crate) fn place(surroundings: &Surroundings, args: &StateDirArgs) -> Result<Config, Failure> {
    let mut flags = Flags::new();
    if let Some(directory) = &args.state_dir {
        let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.clone());
        flags.insert("state_dir", vec![absolute.to_string_lossy().into_owned()]);
    }
    let loaded = load(surroundings, args.config.as_deref(), &flags);
    loaded.map(|loaded| loaded.config).map_err(|error| {
        Failure::usage(
            error.to_string(),
            "name the directory with --state-dir, and mend the configuration: hive config check",
        )
    })
}

/// `hive backup`
pub(crate) async fn backup(ui: &Ui, client: &Client, surroundings: &Surroundings, args: BackupArgs) -> Outcome {
    if let Some(target) = args.to.as_deref().filter(|target| !target.is_dir()) {
        refuse_existing(target)?;
    }
    let report = if args.stopped {
        let config = place(surroundings, &args.place)?;
        let target = args.to.clone();
        let made = state_dir::backup_stopped(&config.state_dir, &config.name, |header| {
            named(target.as_deref(), &header.file_name())
        });
        let (report, behind) = made?;
        if behind > 0 {
            ui.remark(&format!(
                "the log of this node has {behind} entries that are not in it; its agent applies them when it starts"
            ));
        }
        report
    } else {
        fetch(ui, client, args.to.as_deref()).await?
    };
    ui.data(&report, || render::backup::made(&report))?;
    Ok(0)
}

/// Where the file goes: into a directory, or under its own name.
fn named(target: Option<&Path>, name: &str) -> PathBuf {
    match target {
        Some(target) if target.is_dir() => target.join(name),
        Some(target) => target.to_owned(),
        None => PathBuf::from(name),
    }
}

fn refuse_existing(target: &Path) -> Result<(), Failure> {
    if target.symlink_metadata().is_err() {
        return Ok(());
    }
    let message = format!("{} is there already and is not overwritten", target.display());
    Err(Failure::new(ErrorCode::Conflict, message, "give another place with --to, or move it away"))
}

fn written(path: &Path) -> impl Fn(io::Error) -> Failure {
    move |error| {
        let hint = "see disk and rights there, or give another place with --to";
        Failure::internal(format!("cannot write {}: {error}", path.display()), hint)
    }
}

async fn fetch(ui: &Ui, client: &Client, to: Option<&Path>) -> Result<BackupReport, Failure> {
    ui.show_progress("the node copies its state …");
    let mut stream = client.made_file("/api/v2/backup", MADE_WITHIN).await?;
    let (size, age_ms) = (stream.number("content-length").unwrap_or(0), stream.number("x-hive-age-ms").unwrap_or(0));
    let directory = match to {
        Some(to) if to.is_dir() => to,
        Some(to) => to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        None => Path::new("."),
    };
    let local = written(directory);
    // Only its owner may read it; whoever makes temporary files sees to that.
    let mut file = tempfile::Builder::new().prefix(".hive-backup-").tempfile_in(directory).map_err(&local)?;
    let mut done = 0u64;
    loop {
        let piece = stream.next().await.map_err(|error| {
            let message = format!("the backup broke off after {} of {}: {error}", bytes(done), bytes(size));
            Failure::new(ErrorCode::Unreachable, message, "nothing was kept; try again")
        })?;
        let Some(piece) = piece else { break };
        done += piece.len() as u64;
        file.write_all(&piece).map_err(&local)?;
        ui.show_progress(&format!("{} of {}", bytes(done), bytes(size)));
    }
    file.as_file().sync_all().map_err(&local)?;
    // What is on the disk counts, not what was sent.
    let checked = state_dir::verify(file.path(), |done, of| {
        ui.show_progress(&format!("read again: {} of {}", bytes(done), bytes(of)));
    });
    ui.clear_progress();
    let report = checked.map_err(|error| {
        Failure::new(
            error.code,
            format!("the backup did not arrive whole: {}", error.message),
            "nothing was kept; try again",
        )
    })?;
    let hive = report.hive_id.to_string();
    let target = named(to, &format!("hive-{}-{}.backup", hive.get(..8).unwrap_or(&hive), report.index));
    file.persist_noclobber(&target).map_err(|error| {
        let taken = error.error.kind() == io::ErrorKind::AlreadyExists;
        taken.then(|| refuse_existing(&target).err()).flatten().unwrap_or_else(|| local(error.error))
    })?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(&local)?;
    if age_ms > AGE_MAX_MS {
        ui.remark(&format!(
            "warning: this node last knew {} ago that its state was current; what the hive acknowledged since is not in the backup",
            duration(age_ms)
        ));
    }
    Ok(BackupReport { file: target, ..report })
}

/// `hive restore`
pub(crate) fn restore(ui: &Ui, surroundings: &Surroundings, args: RestoreArgs) -> Outcome {
    let config = place(surroundings, &args.place)?;
    let user = ["SUDO_USER", "USER"].iter().find_map(|name| surroundings.variables.get(*name));
    let how = How {
        replace: args.replace,
        only_check: args.check,
        name: config.name.clone(),
        by: user.filter(|user| !user.is_empty()).cloned().unwrap_or_else(|| "somebody".to_owned()),
    };
    let report = state_dir::restore(&config.state_dir, &args.file, &how, |done, of| {
        ui.show_progress(&format!("{} of {}", bytes(done), bytes(of)));
    });
    ui.clear_progress();
    let report = report?;
    ui.data(&report, || render::backup::restored(&report))?;
    Ok(0)
}
