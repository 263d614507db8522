//! Which tables and jobs the newest entries changed, in memory: a ring of [`KEPT`] entries.
//!
//! For pages that follow, so that they ask again for what changed and for nothing else. Never done here: keeping what it was before.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::engine::state::{Change, table};

/// Entries that are remembered.
const KEPT: usize = 1_024;
/// Jobs of one entry that are remembered by position; more are "some".
const JOBS_MAX: usize = 64;

/// What some entries changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// A bit for each table, by its number.
    tables: u32,
    /// Positions of jobs in the order of submission; all that changed unless [`Touched::more`] is set.
    pub jobs: Vec<u64>,
    /// More jobs changed than are listed.
    pub more: bool,
}

impl Touched {
    fn of(changes: &[Change]) -> Self {
        let mut touched = Self::default();
        for change in changes {
            touched.tables |= 1u32.checked_shl(u32::from(change.row.table)).unwrap_or(0);
            if change.row.table != table::JOBS {
                continue;
            }
            match <[u8; 8]>::try_from(change.row.key.as_slice()) {
                Ok(ordinal) if touched.jobs.len() < JOBS_MAX => touched.jobs.push(u64::from_be_bytes(ordinal)),
                Ok(_) | Err(_) => touched.more = true,
            }
        }
        touched
    }

    /// Everything may have changed.
    pub fn everything() -> Self {
        Self { tables: u32::MAX, jobs: Vec::new(), more: true }
    }

    /// Whether a table changed.
    pub fn has(&self, table: u8) -> bool {
        self.tables & 1u32.checked_shl(u32::from(table)).unwrap_or(0) != 0
    }

    fn add(&mut self, other: &Self) {
        self.tables |= other.tables;
        self.more |= other.more;
        for ordinal in &other.jobs {
            if !self.jobs.contains(ordinal) {
                if self.jobs.len() < JOBS_MAX {
                    self.jobs.push(*ordinal);
                } else {
                    self.more = true;
                }
            }
        }
    }
}

/// The ring.
#[derive(Debug, Default)]
pub struct TouchRing(Mutex<VecDeque<(u64, Touched)>>);

impl TouchRing {
    pub(super) fn push(&self, index: u64, changes: &[Change]) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.push_back((index, Touched::of(changes)));
        if ring.len() > KEPT {
            ring.pop_front();
        }
    }

    /// Whatever was known is of another state.
    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What entries after `since` changed; everything, when that is longer ago than is remembered.
    pub fn since(&self, since: u64) -> Touched {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.front().is_none_or(|(oldest, _)| *oldest > since + 1) {
            return Touched::everything();
        }
        let mut all = Touched::default();
        ring.iter().filter(|(index, _)| *index > since).for_each(|(_, touched)| all.add(touched));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::state::Row;

    fn change(table: u8, key: u64) -> Change {
        Change { row: Row { table, key: key.to_be_bytes().to_vec() }, value: None }
    }

    #[test]
    fn what_changed_since_is_told_once_and_everything_when_it_is_too_long_ago() {
        let ring = TouchRing::default();
        assert_eq!(ring.since(0), Touched::everything());
        ring.push(1, &[change(table::JOBS, 7), change(table::SESSIONS, 1)]);
        ring.push(2, &[change(table::JOBS, 7), change(table::JOBS, 8)]);
        ring.push(3, &[]);
        let all = ring.since(0);
        assert!(all.has(table::JOBS) && all.has(table::SESSIONS) && !all.has(table::KEYS));
        assert_eq!((all.jobs, all.more), (vec![7, 8], false));
        let late = ring.since(1);
        assert!(!late.has(table::SESSIONS));
        assert_eq!(ring.since(2), Touched::default());
        let many: Vec<Change> = (0..100).map(|key| change(table::JOBS, key)).collect();
        ring.push(4, &many);
        assert_eq!((ring.since(3).jobs.len(), ring.since(3).more), (JOBS_MAX, true));
        for index in 5..5 + KEPT as u64 {
            ring.push(index, &[]);
        }
        assert_eq!(ring.since(3), Touched::everything());
        assert_eq!(ring.since(4), Touched::default());
    }
}
