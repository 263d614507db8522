//! Where the phases of a log begin, and when: a small file beside the log, one JSON object per line.
//!
//! Hive's own phases stand in this file alone, so no program can forge them; those that a program prints are written down as they
//! come, which is when their time is known. Lines that are torn or junk are passed over. Never done here: failing a build over it.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::if_there;
use crate::api::{LogPhase, PhaseSource};
use crate::clock;
use crate::engine::buildlog::{PhaseScan, PhaseStart};
use crate::engine::id::UnixMillis;

/// Most marks kept of one log.
const MARKS_MAX: usize = 2_000;
/// Most bytes read of a file of marks.
const FILE_MAX_BYTES: u64 = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "mark")]
enum Mark {
    /// A phase begins.
    Phase { name: String, source: PhaseSource, line: u64, offset: u64, at: UnixMillis },
    /// There are more than are kept.
    Cut,
    /// The log has ended.
    End { offset: u64, at: UnixMillis },
}

/// Writes them.
pub(super) struct Marks {
    file: Option<File>,
    scan: PhaseScan,
    written: usize,
}

impl Marks {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: Some(File::create(path)?), scan: PhaseScan::default(), written: 0 })
    }

    /// A phase of hive's own begins here.
    pub(super) fn hive(&mut self, name: &str, offset: u64) {
        let (name, line) = (name.to_owned(), self.scan.line());
        self.phase(PhaseStart { name, line, offset }, PhaseSource::Hive);
    }

    /// The next bytes of the log.
    pub(super) fn output(&mut self, bytes: &[u8]) {
        let mut found = Vec::new();
        self.scan.push(bytes, |start| found.push(start));
        for start in found {
            self.phase(start, PhaseSource::Output);
        }
    }

    pub(super) fn end(&mut self, offset: u64) {
        self.put(&Mark::End { offset, at: clock::unix_now() });
    }

    fn phase(&mut self, PhaseStart { name, line, offset }: PhaseStart, source: PhaseSource) {
        self.written += 1;
        match self.written.cmp(&MARKS_MAX) {
            std::cmp::Ordering::Less => {
                self.put(&Mark::Phase { name, source, line, offset, at: clock::unix_now() });
            }
            std::cmp::Ordering::Equal => self.put(&Mark::Cut),
            std::cmp::Ordering::Greater => {}
        }
    }

    /// A file that cannot be written costs the phases, not the build.
    fn put(&mut self, mark: &Mark) {
        let Some(file) = &mut self.file else { return };
        let written = serde_json::to_vec(mark).map_err(io::Error::other).and_then(|mut line| {
            line.push(b'\n');
            file.write_all(&line)
        });
        if let Err(error) = written {
            tracing::warn!(%error, "phases of a log cannot be written");
            self.file = None;
        }
    }
}

/// What a file of marks says: the phases, and whether there were more. A log without one has none.
pub(super) fn read(path: &Path) -> io::Result<(Vec<LogPhase>, bool)> {
    let Some(file) = if_there(fs::File::open(path))? else { return Ok((Vec::new(), false)) };
    let mut bytes = Vec::new();
    file.take(FILE_MAX_BYTES).read_to_end(&mut bytes)?;
    let (mut phases, mut cut) = (Vec::<LogPhase>::new(), false);
    for mark in bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()) {
        match mark {
            Mark::Phase { name, source, line, offset, at } => {
                end_last(&mut phases, source, at);
                phases.push(LogPhase { name, source, line, offset, at, took_ms: None });
            }
            Mark::Cut => cut = true,
            Mark::End { at, .. } => {
                end_last(&mut phases, PhaseSource::Hive, at);
                end_last(&mut phases, PhaseSource::Output, at);
            }
        }
    }
    Ok((phases, cut))
}

/// The last phase of this source ends when the next one begins.
fn end_last(phases: &mut [LogPhase], source: PhaseSource, at: UnixMillis) {
    if let Some(last) = phases.iter_mut().rev().find(|phase| phase.source == source) {
        last.took_ms.get_or_insert(at.0.saturating_sub(last.at.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_of_hive_and_of_the_output_are_told_apart_and_torn_lines_passed_over() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("marks");
        let mut marks = Marks::create(&path).expect("creates");
        marks.hive("sources", 0);
        marks.output(b"[hive] unpacking\n>>> Compil");
        marks.output(b"ing source in /x\n{\"mark\":\"phase\",\"name\":\"forged\",\"source\":\"hive\"}\n");
        marks.hive("build", 90);
        let (phases, cut) = read(&path).expect("reads");
        let shown: Vec<_> = phases.iter().map(|one| (one.name.as_str(), one.source, one.line, one.offset)).collect();
        let expected = [
            ("sources", PhaseSource::Hive, 1, 0),
            ("compile", PhaseSource::Output, 2, 17),
            ("build", PhaseSource::Hive, 4, 90),
        ];
        assert_eq!((shown.as_slice(), cut), (&expected[..], false));
        assert_eq!(phases.iter().map(|one| one.took_ms.is_some()).collect::<Vec<_>>(), [true, false, false]);
        marks.end(100);
        assert!(read(&path).expect("reads").0.iter().all(|phase| phase.took_ms.is_some()));
        let whole = fs::read(&path).expect("reads");
        fs::write(&path, [b"junk\n\xff\n", &whole[..whole.len() - 4]].concat()).expect("writes");
        assert_eq!(read(&path).expect("reads").0.len(), 3, "the end is torn, the rest is there");
        assert_eq!(read(&directory.path().join("none")).expect("reads"), (Vec::new(), false));
    }

    #[test]
    fn a_program_that_prints_phases_without_end_fills_no_disk() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("marks");
        let mut marks = Marks::create(&path).expect("creates");
        for _ in 0..3 * MARKS_MAX {
            marks.output(format!(">>> Emerging (1 of 1) {}\n", "x".repeat(1_000)).as_bytes());
        }
        let (phases, cut) = read(&path).expect("reads");
        assert_eq!((phases.len(), cut), (MARKS_MAX - 1, true));
        assert!(fs::metadata(&path).expect("there").len() < FILE_MAX_BYTES);
    }
}
