//! Backups and databases as text.

use std::path::PathBuf;

use super::jobs::time;
use crate::api::{BackupReport, DbReport, DbSeverity, RestoreReport};
use crate::cli::text::{Colour, Paint, bytes, cell, clean, left, painted, right, table};

fn origin(backup: &BackupReport) -> String {
    format!(
        "hive {} in epoch {}, up to entry {}, made by {} at {} with hive {}",
        backup.hive_id,
        backup.epoch,
        backup.index,
        clean(&backup.node),
        time(backup.made_at),
        clean(&backup.version)
    )
}

/// `hive backup`
pub(crate) fn made(backup: &BackupReport) -> String {
    let mut out = format!("{}  {}\n{}\n\n", clean(&backup.file.to_string_lossy()), bytes(backup.bytes), origin(backup));
    out.push_str("Not in it:\n");
    for what in &backup.not_included {
        out.push_str(&format!("  {what}\n"));
    }
    out.push_str("\nKeep it on another machine. What it would give: hive restore --check FILE\n");
    out
}

/// `hive restore`
pub(crate) fn restored(report: &RestoreReport) -> String {
    let jobs = &report.jobs;
    let counts = format!(
        "{} jobs wait, {} are blocked, {} are over",
        jobs.needed + jobs.delegated,
        jobs.blocked,
        jobs.received + jobs.failed + jobs.cancelled + jobs.quarantined
    );
    let Some(hive_id) = report.hive_id else {
        return format!(
            "{} is good: {}\n{counts}; {} members.\nNothing was changed.\n",
            clean(&report.backup.file.to_string_lossy()),
            origin(&report.backup),
            report.former_members
        );
    };
    let mut out = format!(
        "Hive {hive_id} begins in {}, from the backup of {}.\n{counts}.\n",
        clean(&report.state_dir.to_string_lossy()),
        origin(&report.backup)
    );
    if report.held > 0 {
        out.push_str(&format!(
            "{} of the blocked ones have effects outside and may have run since the backup; when they have not: hive control unblock JOB\n",
            report.held
        ));
    }
    for path in &report.set_aside {
        out.push_str(&format!("set aside: {}\n", clean(&path.to_string_lossy())));
    }
    out.push_str(&format!(
        "\nNext: start the agent (systemctl start hive). This machine is the only member; the {} of the old hive are none. On each machine \
         that is to join: stop hive, hive db set-aside, start hive.\n",
        report.former_members
    ));
    out
}

/// `hive db check`
pub(crate) fn databases(report: &DbReport, paint: Paint) -> String {
    let columns = [left("DATABASE", 12), right("SIZE", 12), left("STATE", 10)];
    let rows: Vec<_> = report
        .databases
        .iter()
        .map(|file| {
            let state = if file.good { painted("good", Colour::Good) } else { painted("damaged", Colour::Bad) };
            vec![cell(&file.name), cell(bytes(file.bytes)), state]
        })
        .collect();
    let mut out = table(&columns, &rows, paint);
    if rows.is_empty() {
        out = "there are no databases\n".to_owned();
    }
    let used =
        if report.running { "an agent uses them; seen as they were at one moment" } else { "no agent uses them" };
    out.push_str(&format!("\n{}: {used}\n", clean(&report.state_dir.to_string_lossy())));
    if let (Some(hive_id), Some(epoch)) = (report.hive_id, report.epoch) {
        let applied = report.applied.map_or_else(|| "nothing".to_owned(), |index| format!("entry {index}"));
        let log = report.log.map_or_else(|| "no log".to_owned(), |(first, last)| format!("log from {first} to {last}"));
        out.push_str(&format!(
            "hive {hive_id}, epoch {epoch}: state up to {applied} ({} rows, {} of history), {log}\n",
            report.rows, report.history
        ));
    }
    if let Some(blobs) = &report.blobs {
        out.push_str(&format!("{} blobs, {}, {} damaged\n", blobs.files, bytes(blobs.bytes), blobs.damaged.len()));
    }
    for finding in &report.findings {
        let head = match finding.severity {
            DbSeverity::Remark => paint.paint(Colour::Dim, "remark"),
            DbSeverity::Damage => paint.paint(Colour::Bad, "damage"),
            DbSeverity::Unread => paint.paint(Colour::Doubtful, "unread"),
        };
        out.push_str(&format!("\n{head}  {}: {}\n", finding.file, clean(&finding.what)));
        if !finding.next.is_empty() {
            out.push_str(&format!("        {}\n", clean(&finding.next)));
        }
    }
    if report.good {
        out.push_str("\nNothing is damaged.\n");
    }
    out
}

/// `hive db set-aside`
pub(crate) fn set_aside(moved: &[PathBuf]) -> String {
    let mut out = String::new();
    for path in moved {
        out.push_str(&format!("now {}\n", clean(&path.to_string_lossy())));
    }
    out.push_str("Kept for a week; renamed back, with what ends in -wal, it is what it was. Next: start the agent.\n");
    out
}
