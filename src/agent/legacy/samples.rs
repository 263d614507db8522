//! Measurements of the last day for the curves of the old swarm's dashboards, kept in this node's memory.
//!
//! Bounded by number, whatever the size of the hive. Never done here: measuring more often than is asked for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::engine::id::UnixMillis;
use crate::engine::state::QueueCounts;

/// One sample a minute, for a day.
const SAMPLES_MAX: usize = 1_440;
/// Interval, milliseconds.
const INTERVAL_MS: u64 = 60_000;
/// Loads of drones kept in all, the newest.
const LOADS_MAX: usize = 50_000;

#[derive(Debug)]
struct Sample {
    at: UnixMillis,
    queue: QueueCounts,
    /// Name, and load over one minute in hundredths.
    loads: Vec<(String, u32)>,
}

/// The ring of samples.
#[derive(Debug, Default)]
pub(in crate::agent) struct Samples {
    ring: Mutex<VecDeque<Sample>>,
    taken_ms: AtomicU64,
}

impl Samples {
    /// Whether it is time for one; then the next is due an interval later. Asked by one task only.
    pub(in crate::agent) fn is_due(&self, now_ms: u64) -> bool {
        let taken_ms = self.taken_ms.load(Ordering::Relaxed);
        let due = taken_ms == 0 || now_ms.saturating_sub(taken_ms) >= INTERVAL_MS;
        if due {
            self.taken_ms.store(now_ms.max(1), Ordering::Relaxed);
        }
        due
    }

    /// Adds one; the oldest go.
    pub(in crate::agent) fn add(&self, at: UnixMillis, queue: QueueCounts, loads: Vec<(String, u32)>) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.push_back(Sample { at, queue, loads });
        let mut kept: usize = ring.iter().map(|sample| sample.loads.len()).sum();
        while ring.len() > SAMPLES_MAX || (kept > LOADS_MAX && ring.len() > 1) {
            kept -= ring.pop_front().map_or(0, |gone| gone.loads.len());
        }
    }

    /// What is made of each, oldest first.
    pub(in crate::agent) fn map<T>(
        &self,
        make: impl Fn(UnixMillis, &QueueCounts, &[(String, u32)]) -> Vec<T>,
    ) -> Vec<T> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().flat_map(|sample| make(sample.at, &sample.queue, &sample.loads)).collect()
    }

    /// Those taken after a time in seconds, as rows: the queue's without a node, or those of one node.
    pub(in crate::agent) fn rows(&self, since_s: f64, node: Option<&str>) -> Vec<Value> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |sample: &Sample| {
            let load = node.and_then(|node| sample.loads.iter().find(|(name, _)| name == node)).map(|(_, load)| *load);
            if node.is_some() && load.is_none() {
                return None;
            }
            Some(json!({
                "timestamp": sample.at.0 as f64 / 1_000.0,
                "node_id": node,
                "load_1m": load.map(|load| f64::from(load) / 100.0),
                "queue_needed": sample.queue.needed,
                "queue_delegated": sample.queue.delegated,
                "queue_received": sample.queue.received,
                "queue_blocked": sample.queue.blocked,
            }))
        };
        ring.iter().filter(|sample| sample.at.0 as f64 / 1_000.0 > since_s).filter_map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_bounded_by_time_and_by_number_of_drones() {
        let samples = Samples::default();
        for minute in 0..2_000 {
            samples.add(UnixMillis(minute * 60_000), QueueCounts::default(), vec![("a".to_owned(), 150)]);
        }
        assert_eq!(samples.rows(0.0, None).len(), SAMPLES_MAX);
        assert_eq!(samples.rows(1_999.0 * 60.0 - 1.0, Some("a")).len(), 1);
        assert!(samples.rows(0.0, Some("b")).is_empty());
        let many: Vec<(String, u32)> = (0..1_000).map(|number| (format!("n{number}"), 1)).collect();
        for minute in 2_000..2_100 {
            samples.add(UnixMillis(minute * 60_000), QueueCounts::default(), many.clone());
        }
        assert_eq!(samples.rows(0.0, None).len(), LOADS_MAX / 1_000);
    }
}
