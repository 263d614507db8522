//! Judging the databases of a stopped or running node: whether log, vote and state can be read, and fit each other.
//!
//! ```text
//!   purged ≤ applied ≤ last entry      committed ≤ last entry      term of the last entry ≤ term of the vote
//! ```
//!
//! The state may be a moment behind the log, never the log behind the state: what an acknowledgement rests on is in it. Never done here:
//! mending anything.

use std::path::Path;

use openraft::EntryPayload;

use super::codec;
use super::replica::decode_batch;
use crate::engine::id::PeerId;
use crate::engine::state::State;
use crate::store::check::Reader;
use crate::store::hive_db::{self, HiveMeta};
use crate::store::raft_db::{self, Binding, LogPoint, RaftMeta};
use crate::store::{StoreError, event_db, outbox};

/// So many entries or rows are named, of those that cannot be read.
const NAMED_MAX: usize = 5;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing has to be done.
    Remark,
    /// Something is lost or wrong.
    Damage,
    /// Not looked at.
    Unread,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Name of the file.
    pub file: &'static str,
    /// How bad.
    pub severity: Severity,
    /// One sentence.
    pub what: String,
}

/// Everything that was found, and what the databases stand for.
#[derive(Debug, Default)]
pub struct Checked {
    /// In the order in which it was found.
    pub findings: Vec<Finding>,
    /// Databases that are there.
    pub looked_at: Vec<&'static str>,
    /// What `hive.db` stands for.
    pub state: Option<HiveMeta>,
    /// To whom `raft.db` belongs.
    pub raft: Option<RaftMeta>,
    /// First and last entry of the log.
    pub log: Option<(u64, u64)>,
    /// Voters of the applied membership.
    pub voters: Vec<PeerId>,
    /// Members that have not left.
    pub members: usize,
    /// Rows of the state, and of history.
    pub rows: (u64, u64),
}

impl Checked {
    fn find(&mut self, file: &'static str, severity: Severity, what: impl Into<String>) {
        let finding = Finding { file, severity, what: what.into() };
        // A file that cannot be opened is opened more than once.
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    fn damage(&mut self, file: &'static str, what: impl Into<String>) {
        self.find(file, Severity::Damage, what);
    }

    /// Whether something is damaged, in this file or in any.
    pub fn is_damaged(&self, file: Option<&str>) -> bool {
        let of_it = |finding: &&Finding| file.is_none_or(|file| finding.file == file);
        self.findings.iter().filter(of_it).any(|finding| finding.severity >= Severity::Damage)
    }

    /// Runs one look; what it ends with is one more thing that was found.
    fn look<T>(&mut self, file: &'static str, look: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Option<T> {
        match look(self) {
            Ok(found) => Some(found),
            Err(StoreError::Damaged { what, .. }) => {
                self.damage(file, what);
                None
            }
            Err(error) => {
                let why = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
                let severity =
                    if matches!(error, StoreError::Newer { .. }) { Severity::Damage } else { Severity::Unread };
                self.find(file, severity, format!("{error}{why}"));
                None
            }
        }
    }

    /// Opens a database and has SQLite look at all of it.
    fn open(&mut self, directory: &Path, file: &'static str, told: &mut impl FnMut(&str)) -> Option<Reader> {
        told(file);
        let reader = self.look(file, |_| Reader::open(directory, file))??;
        self.looked_at.push(file);
        let sentences = self.look(file, |_| reader.structure())?;
        for sentence in sentences {
            self.damage(file, sentence);
        }
        Some(reader)
    }
}

/// What the log told.
#[derive(Default)]
struct Log {
    vote: Option<WireTerm>,
    committed: Option<LogPoint>,
    purged: Option<LogPoint>,
    first: Option<LogPoint>,
    last: Option<LogPoint>,
    /// Its part of the history, where the state was when it was asked.
    at_applied: Option<LogPoint>,
}

/// The term of a vote.
struct WireTerm(u64);

/// Looks at everything in a state directory. `readable`: whether a record of the outbox can be read. `own`: this node, where it is known.
/// `told`: which file is being read.
pub fn check(
    directory: &Path,
    own: Option<&PeerId>,
    readable: impl Fn(&[u8]) -> bool,
    mut told: impl FnMut(&str),
) -> Checked {
    let mut checked = Checked::default();
    let raft = checked.open(directory, raft_db::FILE, &mut told);
    let hive = checked.open(directory, hive_db::FILE, &mut told);
    if let Some(hive) = &hive {
        check_state(&mut checked, hive);
    }
    let applied = checked.state.as_ref().and_then(|meta| meta.applied);
    // Read anew: while the state was read, a running node's log went on. What it had dropped before is what counts.
    let purged = raft.as_ref().and_then(|raft| checked.look(raft_db::FILE, |_| raft.purged())).flatten();
    drop(raft);
    let raft = checked.look(raft_db::FILE, |_| Reader::open(directory, raft_db::FILE)).flatten();
    if let Some(raft) = &raft {
        let log = check_log(&mut checked, raft, applied);
        if let Some(log) = log {
            compare(&mut checked, &Log { purged, ..log }, applied);
        }
        check_owner(&mut checked, directory);
    }
    match (raft.is_some(), hive.is_some()) {
        (true, false) if !directory.join(hive_db::FILE).exists() => {
            checked.damage(hive_db::FILE, "it is missing, and there is a log");
        }
        (false, true) => check_part(&mut checked, directory, own),
        _ => {}
    }
    if let Some(outbox) = checked.open(directory, outbox::FILE, &mut told) {
        let mut bad = 0u64;
        checked.look(outbox::FILE, |_| outbox.values(|value| bad += u64::from(!readable(value))));
        if bad > 0 {
            checked.damage(outbox::FILE, format!("{bad} results that wait in it cannot be read"));
        }
    }
    if let Some(events) = checked.open(directory, event_db::FILE, &mut told) {
        let mut bad = 0u64;
        let is_event = |value: &[u8]| serde_json::from_slice::<crate::engine::event::Event>(value).is_ok();
        checked.look(event_db::FILE, |_| events.values(|value| bad += u64::from(!is_event(value))));
        if bad > 0 {
            checked.find(event_db::FILE, Severity::Remark, format!("{bad} events cannot be read and are not shown"));
        }
    }
    checked
}

fn check_state(checked: &mut Checked, hive: &Reader) {
    let meta = checked.look(hive_db::FILE, |_| hive.hive_meta());
    let rows = checked.look(hive_db::FILE, |_| hive.rows());
    let history = check_history(checked, hive);
    let (Some(meta), Some(rows)) = (meta, rows) else { return };
    if meta.is_none() && !rows.is_empty() {
        checked.damage(hive_db::FILE, "it does not say what its rows stand for");
    }
    let Some(meta) = meta else { return };
    checked.rows = ((rows.len() as u64).saturating_sub(history), history);
    match codec::membership_from_bytes(&meta.membership) {
        Ok(membership) => {
            let voters: Vec<u64> = membership.voter_ids().collect();
            let nodes = membership.nodes().filter(|(id, _)| voters.contains(id));
            checked.voters = nodes.map(|(_, node)| node.peer_id.clone()).collect();
        }
        Err(error) => checked.damage(hive_db::FILE, format!("its Raft membership cannot be read ({error})")),
    }
    if let Some(at) = meta.applied {
        let point = checked.look(hive_db::FILE, |_| hive.point(at.index)).flatten();
        if point.is_none_or(|(term, chain)| (term, chain.as_slice()) != (at.term, meta.chain.as_slice())) {
            checked
                .damage(hive_db::FILE, format!("its chain does not lead to entry {}, where it says it is", at.index));
        }
    }
    match State::from_rows(rows.iter().cloned()) {
        Ok(state) => {
            if meta.applied.is_some() && state.chain() != meta.chain {
                checked.damage(hive_db::FILE, "its rows are not those that its chain tells of");
            }
            checked.members = state.members().filter(|member| !member.left).count();
            for what in state.inconsistencies() {
                checked.damage(hive_db::FILE, what);
            }
            let held = state.rows();
            let other = rows.iter().filter(|(row, value)| {
                row.table != crate::engine::state::table::HISTORY && held.get(row) != Some(value)
            });
            let other = other.count();
            if other > 0 {
                checked.damage(hive_db::FILE, format!("{other} rows are not as this hive would write them"));
            }
        }
        Err(error) => checked.damage(hive_db::FILE, error.to_string()),
    }
    checked.state = Some(meta);
}

/// Reads all of the history; how many rows that are.
fn check_history(checked: &mut Checked, hive: &Reader) -> u64 {
    let (mut rows, mut bad) = (0u64, Vec::new());
    checked.look(hive_db::FILE, |_| {
        hive.history(|row, value| {
            rows += 1;
            if let Err(why) = State::check_history(row, value) {
                bad.push(format!("history row {}: {why}", hex::encode(&row.key)));
            }
        })
    });
    let more = bad.len().saturating_sub(NAMED_MAX);
    for what in bad.into_iter().take(NAMED_MAX) {
        checked.damage(hive_db::FILE, what);
    }
    if more > 0 {
        checked.damage(hive_db::FILE, format!("{more} more rows of the history cannot be read"));
    }
    rows
}

fn check_log(checked: &mut Checked, raft: &Reader, applied: Option<LogPoint>) -> Option<Log> {
    let file = raft_db::FILE;
    let meta = checked.look(file, |_| raft.raft_meta())?;
    if meta.is_none() {
        checked.damage(file, "it does not say to whom it belongs");
    }
    checked.raft = meta;
    let vote = checked.look(file, |_| raft.vote())?;
    let vote = match vote.as_deref().map(codec::vote_from_bytes).transpose() {
        Ok(vote) => vote.map(|vote| WireTerm(codec::WireVote::from(&vote).term)),
        Err(error) => {
            checked.damage(file, format!("its vote cannot be read ({error})"));
            // There is one; of which term nobody knows.
            Some(WireTerm(u64::MAX))
        }
    };
    let mut log = Log {
        vote,
        committed: checked.look(file, |_| raft.committed())?,
        purged: checked.look(file, |_| raft.purged())?,
        ..Log::default()
    };
    let mut bad = Vec::new();
    let mut before = log.purged;
    checked.look(file, |_| {
        raft.entries(|entry| {
            let at = entry.at;
            log.first.get_or_insert(at);
            let expected = before.map_or(0, |before| before.index + 1);
            if at.index != expected {
                bad.push(if at.index > expected {
                    format!("entries {expected} to {} are missing", at.index - 1)
                } else {
                    format!("entry {} is there though it was dropped", at.index)
                });
            }
            if before.is_some_and(|before| before.term > at.term) {
                bad.push(format!("entry {} has an older term than the one before it", at.index));
            }
            if let Err(why) = readable(&entry) {
                bad.push(format!("entry {}: {why}", at.index));
            }
            if applied.is_some_and(|applied| applied.index == at.index) {
                log.at_applied = Some(at);
            }
            before = Some(at);
        })
    })?;
    log.last = before;
    let more = bad.len().saturating_sub(NAMED_MAX);
    for what in bad.into_iter().take(NAMED_MAX) {
        checked.damage(file, what);
    }
    if more > 0 {
        checked.damage(file, format!("{more} more of this kind"));
    }
    checked.log = log.first.zip(log.last).map(|(first, last)| (first.index, last.index));
    Some(log)
}

fn readable(entry: &raft_db::RawEntry) -> Result<(), String> {
    let decoded = codec::entry_from_raw(entry).map_err(|error| error.to_string())?;
    let EntryPayload::Normal(batch) = &decoded.payload else { return Ok(()) };
    let batch = decode_batch(entry.at.index, &batch.0).map_err(|halt| halt.why)?;
    let unread = batch.proposals.iter().find_map(|proposal| proposal.decode().err());
    unread.map_or(Ok(()), |error| Err(error.to_string()))
}

/// What log and state say of each other.
fn compare(checked: &mut Checked, log: &Log, applied: Option<LogPoint>) {
    let file = raft_db::FILE;
    let index = |point: Option<LogPoint>| point.map(|point| point.index);
    let last = index(log.last);
    if index(log.purged) > index(applied) && checked.state.is_some() {
        let (purged, applied) = (index(log.purged).unwrap_or(0), index(applied).unwrap_or(0));
        checked
            .damage(hive_db::FILE, format!("it ends at entry {applied}, and the log has dropped all up to {purged}"));
    }
    // A standby that no leader has spoken to follows without its log.
    let untouched = log.vote.is_none() && log.first.is_none();
    if index(applied) > last && !untouched {
        let (applied, last) = (index(applied).unwrap_or(0), last.unwrap_or(0));
        let what = format!("it ends at entry {last}, and the state has {applied}: its newest entries are gone");
        checked.damage(file, what);
    }
    if index(log.committed) > last {
        let (committed, last) = (index(log.committed).unwrap_or(0), last.unwrap_or(0));
        checked.damage(
            file,
            format!("it ends at entry {last}, and {committed} was committed: its newest entries are gone"),
        );
    }
    let last_term = log.last.filter(|_| log.first.is_some()).map_or(0, |last| last.term);
    match &log.vote {
        None if last_term > 0 => checked.damage(file, "it has entries of a leader, and no vote"),
        Some(WireTerm(term)) if *term < last_term => {
            checked.damage(file, format!("its vote is of term {term}, and its last entry of term {last_term}"));
        }
        Some(_) | None => {}
    }
    if let (Some(at), Some(applied)) = (log.at_applied, applied)
        && at.term != applied.term
    {
        let what = format!("entry {} is of term {}, and the state had one of term {}", at.index, at.term, applied.term);
        checked.damage(file, what);
    }
}

/// Whether the log belongs to this place, and to the hive of the state.
fn check_owner(checked: &mut Checked, directory: &Path) {
    let Some(meta) = checked.raft.clone() else { return };
    match Binding::of(directory) {
        Ok(here) if here != meta.binding => checked.find(
            raft_db::FILE,
            Severity::Remark,
            "it was made in another directory or on another machine: the agent will set it aside, and the node takes a new Raft id",
        ),
        Ok(_) => {}
        Err(error) => checked.find(raft_db::FILE, Severity::Unread, error.to_string()),
    }
    let Some((hive_id, epoch)) = checked.state.as_ref().and_then(|state| state.hive) else { return };
    if hive_id != meta.hive_id || epoch.counter > meta.epoch.counter {
        let what = format!(
            "it is of hive {} in epoch {}, and the state of hive {hive_id} in epoch {}: the agent will set it aside",
            meta.hive_id, meta.epoch.counter, epoch.counter
        );
        checked.find(raft_db::FILE, Severity::Remark, what);
    }
}

/// A node without a log, that by its own state is a voter.
fn check_part(checked: &mut Checked, directory: &Path, own: Option<&PeerId>) {
    if directory.join(raft_db::FILE).exists() || !own.is_some_and(|own| checked.voters.contains(own)) {
        return;
    }
    let what = "it is missing, and by the state here this node is a voter: it comes back as an observer, and another node gets its place";
    let severity = if checked.voters.len() == 1 { Severity::Damage } else { Severity::Remark };
    checked.find(raft_db::FILE, severity, what);
}
