//! Records that outlive the ring: those that the policy `wire.disk` picks, without bodies, as JSON lines in segments of a bounded size.
//!
//! ```text
//!   STATE/wire/NUMBER.jsonl   NUMBER of its first record; the oldest segment goes when there are too many bytes, or it is too old
//! ```
//!
//! They are no truth: nothing is synced, a line that cannot be read is passed over, and a disk that is full costs records, nothing else.
//! Never done here: keeping what messages say.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::records::Desk;
use crate::agent::shared::Shared;
use crate::agent::views;
use crate::clock::unix_now;
use crate::engine::wire::Record;
use crate::engine::wire::filter::Filter;

/// Records go to the disk together, so often.
const EVERY: Duration = Duration::from_secs(2);
/// Most records of one round; a flood of refused datagrams must not fill the disk with news of itself.
const ROUND_MAX: usize = 500;
/// Segments in the space that there is.
const SEGMENTS: u64 = 8;
/// Longest line that is read, bytes.
const LINE_MAX: usize = 16 << 10;

/// Where they are.
pub(super) fn directory(shared: &Shared) -> PathBuf {
    shared.config.state_dir.join("wire")
}

/// Keeps what the policy picks, until the agent ends.
pub(in crate::agent) async fn keep(shared: Arc<Shared>) {
    let wire = &shared.config.wire;
    let (Ok(filter), true) = (Filter::parse(&wire.disk), wire.disk_mb > 0 && shared.wire.is_on()) else { return };
    let mut writer = Segments {
        directory: directory(&shared),
        bytes_max: wire.disk_mb << 20,
        age_max_ms: u64::from(wire.disk_days) * 86_400_000,
        current: None,
    };
    let mut rounds = tokio::time::interval(EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut after = 0;
    let mut told = false;
    loop {
        rounds.tick().await;
        // On a full disk the log needs what is left.
        if views::own_report(&shared).disk_low {
            continue;
        }
        let (shared, filter) = (Arc::clone(&shared), filter.clone());
        let round = tokio::task::spawn_blocking(move || {
            let newest = shared.wire.bounds().map_or(0, |(_, newest)| newest);
            if newest <= after {
                return (writer, after, Ok(()));
            }
            let (records, ..) = Desk::new(&shared).list(&filter, Some(after), None, ROUND_MAX);
            let result = writer.write(&records);
            (writer, newest, result)
        });
        let Ok((back, newest, result)) = round.await else { return };
        (writer, after) = (back, newest);
        if let Err(error) = result
            && !std::mem::replace(&mut told, true)
        {
            tracing::warn!(%error, "records of the wire are kept in memory alone");
        }
    }
}

struct Segments {
    directory: PathBuf,
    bytes_max: u64,
    age_max_ms: u64,
    current: Option<(File, u64)>,
}

impl Segments {
    fn write(&mut self, records: &[Record]) -> io::Result<()> {
        let Some(first) = records.first() else { return Ok(()) };
        let mut text = Vec::new();
        for record in records {
            serde_json::to_writer(&mut text, record)?;
            text.push(b'\n');
        }
        let full = |(_, length): &(File, u64)| *length > self.bytes_max / SEGMENTS;
        if self.current.as_ref().is_none_or(full) {
            fs::create_dir_all(&self.directory)?;
            let path = self.directory.join(format!("{:020}.jsonl", first.number));
            self.current = Some((OpenOptions::new().create(true).append(true).open(path)?, 0));
            self.drop_old()?;
        }
        if let Some((file, length)) = &mut self.current {
            file.write_all(&text)?;
            *length += text.len() as u64;
        }
        Ok(())
    }

    /// Drops the oldest segments beyond space and age; the one that is written to stays.
    fn drop_old(&self) -> io::Result<()> {
        let segments = segments(&self.directory)?;
        let oldest_us = unix_now().0.saturating_sub(self.age_max_ms).saturating_mul(1_000);
        let mut kept = 0;
        let mut newer: Option<u64> = None;
        for (first, path) in segments.iter().rev() {
            kept += fs::metadata(path)?.len();
            // A segment is too old when the next one begins too early.
            let old = newer.is_some_and(|next| next < oldest_us);
            // Room for the one that has just begun.
            if newer.is_some() && (old || kept > self.bytes_max - self.bytes_max / SEGMENTS) {
                fs::remove_file(path)?;
            }
            newer = Some(*first);
        }
        Ok(())
    }
}

/// Segments with the numbers of their first records, oldest first.
fn segments(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let number = path.file_name()?.to_str()?.strip_suffix(".jsonl")?.parse().ok()?;
            Some((number, path))
        })
        .collect();
    found.sort();
    Ok(found)
}

/// Records on the disk between two numbers, both exclusive, that fit, oldest first: the oldest of them, or with `newest` the newest.
pub(super) fn find(directory: &Path, filter: &Filter, range: (u64, u64), limit: usize, newest: bool) -> Vec<Record> {
    let (after, before) = range;
    let segments = segments(directory).unwrap_or_default();
    let ends: Vec<u64> = segments.iter().skip(1).map(|(first, _)| *first).chain([u64::MAX]).collect();
    let wanted = segments
        .iter()
        .zip(ends)
        .filter(|((first, _), end)| *first < before && *end > after)
        .map(|((_, path), _)| path);
    let mut order: Vec<&PathBuf> = wanted.collect();
    if newest {
        order.reverse();
    }
    let mut found: Vec<Record> = Vec::new();
    for path in order {
        let mut here = read(path, filter, range);
        if newest {
            here.extend(std::mem::take(&mut found));
            found = here;
            found.drain(..found.len().saturating_sub(limit));
        } else {
            found.extend(here);
            found.truncate(limit);
        }
        if found.len() >= limit {
            break;
        }
    }
    found
}

fn read(path: &Path, filter: &Filter, (after, before): (u64, u64)) -> Vec<Record> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    let lines = BufReader::new(file).split(b'\n').map_while(Result::ok).filter(|line| line.len() <= LINE_MAX);
    lines
        .filter_map(|line| serde_json::from_slice::<Record>(&line).ok())
        .filter(|record| record.number > after && record.number < before && filter.takes(record))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::id::UnixMillis;
    use crate::engine::wire::Protocol;

    fn record(number: u64) -> Record {
        Record {
            id: format!("{number}@n1"),
            number,
            at: UnixMillis(number / 1_000),
            node: "n1".into(),
            sent: false,
            from: "10.0.0.9:50555".into(),
            to: "n1".into(),
            protocol: Protocol::Beacon,
            kind: "?".into(),
            path: None,
            job: None,
            jobs: 0,
            session: None,
            bytes: 100 + number % 2,
            latency_ms: None,
            status: None,
            verdict: "wrong_secret".into(),
            trace: "0".into(),
            summary: "x".repeat(200),
        }
    }

    #[test]
    fn space_is_bounded_and_the_newest_stay_readable() {
        let directory = tempfile::tempdir().expect("scratch");
        let mut segments_of = Segments {
            directory: directory.path().join("wire"),
            bytes_max: 64 << 10,
            age_max_ms: 86_400_000,
            current: None,
        };
        let now_us = unix_now().0 * 1_000;
        for round in 0..200u64 {
            let records: Vec<Record> = (0..5).map(|n| record(now_us + round * 5 + n)).collect();
            segments_of.write(&records).expect("writes");
        }
        let all = segments(&segments_of.directory).expect("lists");
        let bytes: u64 = all.iter().map(|(_, path)| fs::metadata(path).expect("there").len()).sum();
        assert!(bytes <= 72 << 10 && all.len() > 3, "{bytes} bytes in {} segments", all.len());
        // Half a line, as after a crash.
        fs::write(&all[0].1, b"{\"id\":").expect("writes");
        let filter = Filter::parse("bytes == 101").expect("understood");
        let newest = find(&segments_of.directory, &filter, (0, u64::MAX), 7, true);
        assert_eq!(newest.len(), 7);
        assert!(newest.windows(2).all(|pair| pair[0].number + 2 == pair[1].number), "in order");
        assert!(newest[6].number >= now_us + 998);
        let before = find(&segments_of.directory, &Filter::all(), (now_us + 990, now_us + 995), 100, false);
        assert_eq!(before.iter().map(|one| one.number - now_us).collect::<Vec<_>>(), [991, 992, 993, 994]);
    }

    #[test]
    fn what_is_too_old_goes() {
        let directory = tempfile::tempdir().expect("scratch");
        let mut segments_of =
            Segments { directory: directory.path().to_owned(), bytes_max: 1 << 20, age_max_ms: 1_000, current: None };
        for number in [1_000, 2_000, unix_now().0 * 1_000] {
            segments_of.current = None;
            segments_of.write(&[record(number)]).expect("writes");
        }
        let left: Vec<u64> = segments(directory.path()).expect("lists").into_iter().map(|(first, _)| first).collect();
        assert_eq!(left.len(), 2, "the oldest ended before the second began: {left:?}");
    }
}
