//! The agent's own log, the newest lines of it in memory, so that any node can be asked for it however it was started.
//!
//! Never done here: choosing what is logged.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::clock;

/// Lines that are kept.
const LINES_KEPT: usize = 5_000;
/// Bytes of all of them.
const BYTES_KEPT: usize = 4 << 20;
/// Longest line, bytes; the rest of it is left out here.
const LINE_MAX: usize = 16 << 10;

#[derive(Debug)]
struct Line {
    number: u64,
    unix_s: u64,
    text: String,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Line>,
    bytes: usize,
    last: u64,
}

/// The ring. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AgentLog {
    ring: Arc<Mutex<Ring>>,
    news: Arc<watch::Sender<u64>>,
}

impl Default for AgentLog {
    fn default() -> Self {
        Self { ring: Arc::default(), news: Arc::new(watch::Sender::new(0)) }
    }
}

impl AgentLog {
    /// Adds what was logged: one or more whole lines.
    pub fn push(&self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let unix_s = clock::unix_now().0 / 1_000;
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for line in text.lines() {
            let text: String =
                if line.len() > LINE_MAX { line.chars().take(LINE_MAX / 4).collect() } else { line.to_owned() };
            ring.last += 1;
            ring.bytes += text.len();
            let number = ring.last;
            ring.lines.push_back(Line { number, unix_s, text });
        }
        while ring.lines.len() > LINES_KEPT || ring.bytes > BYTES_KEPT {
            let Some(gone) = ring.lines.pop_front() else { break };
            ring.bytes -= gone.text.len();
        }
        let last = ring.last;
        drop(ring);
        self.news.send_replace(last);
    }

    /// The last lines since a time, oldest first, with the number of the newest line there is.
    pub(super) fn tail(&self, lines: usize, since_unix_s: Option<u64>) -> (Vec<String>, u64) {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |line: &&Line| since_unix_s.is_none_or(|since| line.unix_s >= since);
        let mut found: Vec<String> =
            ring.lines.iter().rev().take_while(fits).take(lines).map(|line| line.text.clone()).collect();
        found.reverse();
        (found, ring.last)
    }

    /// Lines after a number.
    pub(super) fn after(&self, number: u64) -> (Vec<String>, u64) {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let found = ring.lines.iter().filter(|line| line.number > number).map(|line| line.text.clone()).collect();
        (found, ring.last)
    }

    /// Tells the number of the newest line whenever there is one.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Writes to standard error and keeps what is written.
    pub fn tee(&self) -> Tee {
        Tee(self.clone())
    }
}

/// Writes to standard error, and to the ring.
pub struct Tee(AgentLog);

impl io::Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        // A standard error that is gone must not end the agent, and there is nobody to tell.
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_stay_within_number_and_bytes() {
        let log = AgentLog::default();
        for number in 0..LINES_KEPT + 10 {
            log.push(format!("line {number}\n").as_bytes());
        }
        let (lines, last) = log.tail(2, None);
        assert_eq!(
            (lines, last),
            (vec![format!("line {}", LINES_KEPT + 8), format!("line {}", LINES_KEPT + 9)], LINES_KEPT as u64 + 10)
        );
        assert_eq!(log.tail(usize::MAX, None).0.len(), LINES_KEPT);
        assert!(log.tail(9, Some(u64::MAX)).0.is_empty());
        log.push(b"one\ntwo\n");
        assert_eq!(log.after(last).0, ["one", "two"]);
        log.push(&[b'x'; LINE_MAX + 5]);
        assert_eq!(log.tail(1, None).0[0].len(), LINE_MAX / 4);
        for _ in 0..2_000 {
            log.push("y".repeat(LINE_MAX).as_bytes());
        }
        let kept: usize = log.tail(usize::MAX, None).0.iter().map(String::len).sum();
        assert!(kept <= BYTES_KEPT, "{kept}");
    }
}
