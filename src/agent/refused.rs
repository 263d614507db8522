//! HTTP requests that were refused: counted by reason, shown by `hive doctor` and the metrics, and logged seldom.
//!
//! Reasons are words of the program, so the table cannot grow by what is asked; of each only the last sender is kept. Never
//! done here: refusing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::api::Refusal;

/// One line of the log per reason and this time: whoever sends nonsense sends a lot of it.
const LOG_EVERY_MS: u64 = 60_000;

struct Row {
    count: u64,
    last_ms: u64,
    last_from: IpAddr,
    logged_ms: u64,
}

/// Counts since the agent started.
#[derive(Default)]
pub(super) struct Refused(Mutex<BTreeMap<&'static str, Row>>);

impl Refused {
    /// Counts one. Whether it is time to log it, and with which count.
    pub(super) fn note(&self, reason: &'static str, from: IpAddr, now_ms: u64) -> Option<u64> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = !rows.contains_key(reason);
        let row = rows.entry(reason).or_insert(Row { count: 0, last_ms: now_ms, last_from: from, logged_ms: now_ms });
        row.count += 1;
        (row.last_ms, row.last_from) = (now_ms, from);
        let due = fresh || now_ms.saturating_sub(row.logged_ms) >= LOG_EVERY_MS;
        due.then(|| {
            row.logged_ms = now_ms;
            row.count
        })
    }

    /// For `hive doctor`.
    pub(super) fn rows(&self, now_ms: u64) -> Vec<Refusal> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter()
            .map(|(reason, row)| Refusal {
                reason: (*reason).to_owned(),
                from: row.last_from.to_string(),
                count: row.count,
                last_ms: now_ms.saturating_sub(row.last_ms),
            })
            .collect()
    }

    /// In Prometheus' text format.
    pub(super) fn metrics(&self) -> String {
        let mut text = "# HELP hive_http_refused_total HTTP requests refused, by reason\n\
                        # TYPE hive_http_refused_total counter\n"
            .to_owned();
        for (reason, row) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "hive_http_refused_total{{reason=\"{reason}\"}} {}", row.count);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn every_refusal_is_counted_and_few_are_logged() {
        let refused = Refused::default();
        let from = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
        let logged: Vec<u64> =
            (0..130).filter_map(|second| refused.note("malformed", from(1), 1_000 + second * 1_000)).collect();
        assert_eq!(logged, [1, 61, 121]);
        assert_eq!(refused.note("host", from(2), 5_000), Some(1), "each reason has its own");
        let rows = refused.rows(131_000);
        let malformed = rows.iter().find(|row| row.reason == "malformed").expect("a row");
        assert_eq!((malformed.count, malformed.last_ms, malformed.from.as_str()), (130, 1_000, "10.0.0.1"));
        assert!(refused.metrics().contains("\nhive_http_refused_total{reason=\"malformed\"} 130\n"));
    }
}
