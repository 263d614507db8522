//! The newest events of this node's copy, in memory: a ring of [`KEPT`].
//!
//! Never done here: keeping them over a restart (`agent::events` does).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::event::Event;

/// Events that are kept in memory.
pub const KEPT: usize = 10_000;

/// The ring.
#[derive(Debug, Default)]
pub struct EventRing(Mutex<VecDeque<Arc<Event>>>);

impl EventRing {
    pub(super) fn push(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.extend(events.into_iter().map(Arc::new));
        let over = ring.len().saturating_sub(KEPT);
        ring.drain(..over);
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Those after `since` that fit, oldest first, at most `limit`.
    pub fn after(&self, since: u64, limit: usize, fits: impl Fn(&Event) -> bool) -> Vec<Arc<Event>> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ring.partition_point(|event| event.id <= since);
        ring.range(first..).filter(|event| fits(event)).take(limit).cloned().collect()
    }

    /// The newest that fit, newest first, at most `limit`.
    pub fn newest(&self, limit: usize, fits: impl Fn(&Event) -> bool) -> Vec<Arc<Event>> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().rev().filter(|event| fits(event)).take(limit).cloned().collect()
    }

    /// Numbers of the oldest and the newest.
    pub fn bounds(&self) -> Option<(u64, u64)> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.front().zip(ring.back()).map(|(oldest, newest)| (oldest.id, newest.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::event::EventKind;
    use crate::engine::id::UnixMillis;

    fn event(id: u64) -> Event {
        let kind = if id.is_multiple_of(2) { EventKind::Assign } else { EventKind::Complete };
        let message = String::new();
        Event { id, at: UnixMillis(id), kind, message, drone: None, package: None, job: None, session: None }
    }

    #[test]
    fn the_ring_keeps_the_newest_and_finds_what_came_after() {
        let ring = EventRing::default();
        assert_eq!(ring.bounds(), None);
        let total = KEPT as u64 + 50;
        ring.push((1..=total).map(event).collect());
        assert_eq!(ring.bounds(), Some((51, total)));
        let ids = |events: Vec<Arc<Event>>| events.iter().map(|event| event.id).collect::<Vec<_>>();
        assert_eq!(ids(ring.after(total - 2, 10, |_| true)), [total - 1, total]);
        assert_eq!(ids(ring.after(0, 2, |_| true)), [51, 52]);
        assert_eq!(ids(ring.after(51, 2, |event| event.kind == EventKind::Complete)), [53, 55]);
        assert_eq!(ids(ring.newest(2, |_| true)), [total, total - 1]);
        assert_eq!(ids(ring.after(total, 9, |_| true)), Vec::<u64>::new());
        ring.clear();
        assert_eq!(ring.bounds(), None);
    }
}
