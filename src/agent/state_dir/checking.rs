//! `hive db check`: what is wrong with the files of a state directory, and what to do about each thing.
//!
//! Never done here: changing anything.

use std::fs;
use std::path::Path;

use super::is_used;
use crate::api::{ApiResult, DbBlobs, DbFile, DbFinding, DbReport, DbSeverity, ErrorCode};
use crate::blobs;
use crate::consensus::check::{self, Checked, Finding, Severity};
use crate::engine::id::PeerId;
use crate::mesh::NodeKey;
use crate::store::check::DATABASES;

/// What is being read: a file's name, or blobs so far.
pub(crate) enum Progress<'a> {
    Database(&'a str),
    Blobs { files: u64, bytes: u64 },
}

/// Looks at all databases, and at blobs when asked to.
pub(crate) fn check(directory: &Path, with_blobs: bool, mut told: impl FnMut(Progress<'_>)) -> ApiResult<DbReport> {
    if !directory.is_dir() {
        let message = format!("there is no state directory {}", directory.display());
        return Err(super::refuse(ErrorCode::NotFound, message, "name it with --state-dir"));
    }
    fs::read_dir(directory).map_err(super::io_failed("read", directory))?;
    let running = is_used(directory);
    let own = own_peer(directory);
    let checked =
        check::check(directory, own.as_ref(), crate::agent::drone::is_result, |file| told(Progress::Database(file)));
    let blobs = if with_blobs { Some(look_at_blobs(directory, told)?) } else { None };
    Ok(report(directory, running, own.as_ref(), checked, blobs))
}

/// The node that this directory is of. Never makes a key.
fn own_peer(directory: &Path) -> Option<PeerId> {
    if !directory.join("node_key").exists() {
        return None;
    }
    NodeKey::load_or_create(directory).ok().map(|key| key.peer_id())
}

fn look_at_blobs(directory: &Path, mut told: impl FnMut(Progress<'_>)) -> ApiResult<DbBlobs> {
    let root = directory.join("blobs");
    if !root.exists() {
        return Ok(DbBlobs::default());
    }
    let mut found = DbBlobs::default();
    let looked = blobs::check::check(&root, |hash, size, good| {
        found.files += 1;
        found.bytes += size;
        if !good {
            found.damaged.push(hash.to_string());
        }
        told(Progress::Blobs { files: found.files, bytes: found.bytes });
    });
    looked.map_err(super::io_failed("read", &root))?;
    Ok(found)
}

fn report(directory: &Path, running: bool, own: Option<&PeerId>, checked: Checked, blobs: Option<DbBlobs>) -> DbReport {
    let mut findings: Vec<DbFinding> =
        checked.findings.iter().map(|found| shown(found, running, own, &checked)).collect();
    if let Some(origin) = super::unfinished(directory) {
        findings.insert(
            0,
            DbFinding {
                file: super::RESTORING.to_owned(),
                severity: DbSeverity::Damage,
                what: format!("a restore of {origin} was broken off"),
                next: format!("run it again: hive restore {origin}"),
            },
        );
    }
    for hash in blobs.iter().flat_map(|blobs| &blobs.damaged) {
        findings.push(DbFinding {
            file: format!("blobs/{}/{}", &hash[..2], &hash[2..]),
            severity: DbSeverity::Damage,
            what: "its bytes are not what its name promises".to_owned(),
            next: "nothing: it is set aside when it is asked for, and fetched from a node that has it".to_owned(),
        });
    }
    let good = !findings.iter().any(|finding| finding.severity != DbSeverity::Remark);
    let databases = DATABASES.iter().filter(|name| directory.join(name).exists()).map(|name| DbFile {
        name: (*name).to_owned(),
        bytes: ["", "-wal"].iter().map(|suffix| length(directory, name, suffix)).sum(),
        good: !checked.is_damaged(Some(name)),
    });
    let hive = checked.state.as_ref().and_then(|meta| meta.hive);
    DbReport {
        state_dir: directory.to_owned(),
        running,
        good,
        hive_id: hive.map(|(hive_id, _)| hive_id),
        epoch: hive.map(|(_, epoch)| epoch.counter),
        applied: checked.state.as_ref().and_then(|meta| meta.applied).map(|at| at.index),
        log: checked.log,
        rows: checked.rows.0,
        history: checked.rows.1,
        databases: databases.collect(),
        blobs,
        findings,
    }
}

fn length(directory: &Path, name: &str, suffix: &str) -> u64 {
    fs::metadata(directory.join(format!("{name}{suffix}"))).map_or(0, |metadata| metadata.len())
}

fn shown(finding: &Finding, running: bool, own: Option<&PeerId>, checked: &Checked) -> DbFinding {
    let severity = match finding.severity {
        Severity::Remark => DbSeverity::Remark,
        Severity::Damage => DbSeverity::Damage,
        Severity::Unread => DbSeverity::Unread,
    };
    let next = match severity {
        DbSeverity::Remark => String::new(),
        DbSeverity::Unread => "run it as root or as the agent's user, or stop the agent first".to_owned(),
        DbSeverity::Damage if finding.what.contains("this hive knows") => {
            "it was written by a newer hive: install that one again".to_owned()
        }
        DbSeverity::Damage => next_step(finding.file, running, own, checked),
    };
    DbFinding { file: finding.file.to_owned(), severity, what: finding.what.clone(), next }
}

/// What mends damage of a file.
fn next_step(file: &str, running: bool, own: Option<&PeerId>, checked: &Checked) -> String {
    let stop = if running { "stop hive, then: " } else { "" };
    let alone =
        checked.voters.is_empty() || (checked.voters.len() == 1 && own.is_none_or(|own| checked.voters.contains(own)));
    let state_is_good = !checked.is_damaged(Some("hive.db")) && checked.state.is_some();
    match file {
        "outbox.db" => format!(
            "{stop}hive db set-aside outbox.db; start hive: results that waited in it are lost, and their jobs are built again"
        ),
        "events.db" => {
            format!(
                "{stop}hive db set-aside events.db; start hive: events of the last week are gone here, and nothing else"
            )
        }
        // A copy that others follow is taken from them whole; half of one would be a history of its own.
        _ if !alone => {
            format!(
                "{stop}hive db set-aside; start hive: it takes log and state from the other nodes, under a new Raft id"
            )
        }
        "raft.db" if state_is_good => format!(
            "{stop}hive db set-aside raft.db; start hive; hive recover: it goes on from the state, which is whole up to its index"
        ),
        _ => format!(
            "{stop}hive restore BACKUP --replace: this node is the only voter that is known here, so no other has newer data. If other \
             nodes of the hive live: hive db set-aside; start hive"
        ),
    }
}
