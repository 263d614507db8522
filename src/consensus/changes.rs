//! What the newest entries changed, with its values, for whoever keeps the past: waits here until it is taken.
//!
//! Applying an entry costs a copy of what it changed, and nothing while nobody keeps the past. Who is too slow to take it is told that
//! something is missing, and begins anew. Never done here: keeping anything for long.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::engine::id::UnixMillis;
use crate::engine::past::{self, Step};
use crate::engine::state::Change;

/// Bytes that wait at most.
const WAITING_MAX_BYTES: usize = 64 << 20;

/// What was taken.
#[derive(Debug, Default)]
pub struct Taken {
    /// Steps are missing before these, up to this log index: the state was replaced, or they were too many. What they led to is in the
    /// state's file, once that has come so far.
    pub anew: Option<u64>,
    /// Oldest first.
    pub steps: Vec<Step>,
}

#[derive(Debug, Default)]
struct Waiting {
    on: bool,
    bytes: usize,
    taken: Taken,
}

/// The feed.
#[derive(Debug, Default)]
pub struct ChangeFeed(Mutex<Waiting>);

impl ChangeFeed {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on changes wait here. Nothing is missing before them.
    pub fn begin(&self) {
        *self.waiting() = Waiting { on: true, ..Waiting::default() };
    }

    pub(super) fn push(&self, index: u64, at: UnixMillis, changes: &[Change]) {
        if !self.waiting().on {
            return;
        }
        // Also when nothing is kept of it: whoever takes it knows by the index that nothing is missing.
        let step = Step { at, index, changes: past::kept(changes) };
        let size: usize = step.changes.iter().map(|change| 64 + change.value.as_ref().map_or(0, Vec::len)).sum();
        let mut waiting = self.waiting();
        waiting.bytes += 64 + size;
        if waiting.bytes > WAITING_MAX_BYTES {
            waiting.taken = Taken { anew: Some(index), steps: Vec::new() };
            waiting.bytes = 0;
        } else {
            waiting.taken.steps.push(step);
        }
    }

    /// The state was replaced by another one.
    pub(super) fn clear(&self) {
        let mut waiting = self.waiting();
        (waiting.taken, waiting.bytes) = (Taken { anew: Some(0), steps: Vec::new() }, 0);
    }

    /// Takes what waits.
    pub fn take(&self) -> Taken {
        let mut waiting = self.waiting();
        waiting.bytes = 0;
        mem::take(&mut waiting.taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::state::{Row, table};

    fn change(bytes: usize) -> Change {
        Change { row: Row { table: table::JOBS, key: vec![1] }, value: Some(vec![0; bytes]) }
    }

    #[test]
    fn nothing_waits_until_somebody_takes_it_and_too_much_is_said_to_be_missing() {
        let feed = ChangeFeed::default();
        feed.push(1, UnixMillis(1), &[change(10)]);
        assert!(feed.take().steps.is_empty(), "nobody keeps the past");
        feed.begin();
        feed.push(2, UnixMillis(2), &[change(10)]);
        feed.push(3, UnixMillis(3), &[]);
        let taken = feed.take();
        assert_eq!((taken.anew, taken.steps.len(), taken.steps[0].index), (None, 2, 2));
        for index in 4..22 {
            feed.push(index, UnixMillis(index), &[change(WAITING_MAX_BYTES / 8)]);
        }
        let taken = feed.take();
        assert!(taken.anew.is_some_and(|lost| taken.steps[0].index == lost + 1) && taken.steps.len() < 8);
        feed.push(22, UnixMillis(22), &[change(1)]);
        feed.clear();
        feed.push(23, UnixMillis(23), &[change(1)]);
        let taken = feed.take();
        assert_eq!((taken.anew, taken.steps.first().map(|step| step.index)), (Some(0), Some(23)));
        assert!(feed.take().anew.is_none(), "told once");
    }
}
