//! Counts of connections that were not admitted, by who refused, address and reason: silence towards the sender, not towards
//! the operator. Never done here: forgetting one that still happens.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use super::admission::RefuseReason;
use crate::clock;
use crate::engine::id::{PeerId, UnixMillis};
use crate::engine::wire::Protocol;
use crate::engine::wire::frames::{Word, trace};
use crate::wire::{Note, Status, Wire};

/// Rows kept; a flood from many addresses pushes out the rows that happened longest ago.
const ROWS_MAX: usize = 256;

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// This node refused; otherwise the other side.
    pub by_us: bool,
    /// The other end, last time.
    pub address: SocketAddr,
    /// The other side, when its key was proven.
    pub peer: Option<PeerId>,
    /// Why.
    pub reason: RefuseReason,
    /// How often since the agent started.
    pub count: u64,
    /// Monotonic time of the last one (`clock::now_ms`).
    pub last_ms: u64,
    /// When the last one was.
    pub last_at: UnixMillis,
}

type Rows = BTreeMap<(bool, IpAddr, RefuseReason), Refusal>;

/// The table, shared between loop and handles.
#[derive(Clone, Default)]
pub(crate) struct Refusals {
    rows: Arc<Mutex<Rows>>,
    wire: Wire,
}

impl Refusals {
    /// None yet. Each will be noted here.
    pub(crate) fn new(wire: Wire) -> Self {
        Self { rows: Arc::default(), wire }
    }

    /// Counts one. True when it is the first of its kind in a minute, worth a log line.
    pub(crate) fn count(&self, by_us: bool, peer: Option<PeerId>, address: SocketAddr, reason: RefuseReason) -> bool {
        self.note(by_us, peer.as_ref(), address, reason);
        let (last_ms, last_at) = (clock::now_ms(), clock::unix_now());
        let mut rows = self.rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = (by_us, address.ip(), reason);
        if let Some(row) = rows.get_mut(&key) {
            let is_news = last_ms.saturating_sub(row.last_ms) >= 60_000;
            row.count += 1;
            (row.address, row.last_ms, row.last_at) = (address, last_ms, last_at);
            row.peer = peer.or(row.peer.take());
            return is_news;
        }
        if rows.len() >= ROWS_MAX
            && let Some(oldest) = rows.iter().min_by_key(|(_, row)| row.last_ms).map(|(key, _)| *key)
        {
            rows.remove(&oldest);
        }
        rows.insert(key, Refusal { by_us, address, peer, reason, count: 1, last_ms, last_at });
        true
    }

    fn note(&self, by_us: bool, peer: Option<&PeerId>, address: SocketAddr, reason: RefuseReason) {
        self.wire.note(&Note {
            sent: !by_us,
            protocol: Protocol::Stream,
            kind: Word::new("Admission"),
            peer,
            address: Some(address),
            bytes: 0,
            latency_us: None,
            status: Status::Word("refused"),
            verdict: reason.as_str(),
            trace: trace(&[b"admission", address.to_string().as_bytes()]),
            body: &[],
        });
    }

    /// All rows, the latest first.
    pub(crate) fn all(&self) -> Vec<Refusal> {
        let rows = self.rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut all: Vec<Refusal> = rows.values().cloned().collect();
        all.sort_by_key(|row| std::cmp::Reverse(row.last_ms));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_per_address_and_reason_in_bounded_memory() {
        let refusals = Refusals::default();
        let address = |n: u32| SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + n), 1));
        assert!(refusals.count(true, None, address(1), RefuseReason::WrongSecret));
        assert!(!refusals.count(true, Some(PeerId::new("p")), address(1), RefuseReason::WrongSecret));
        assert!(refusals.count(true, None, address(1), RefuseReason::Silent));
        let rows = refusals.all();
        let wrong = rows.iter().find(|row| row.reason == RefuseReason::WrongSecret).expect("row");
        assert_eq!((wrong.count, wrong.peer.clone()), (2, Some(PeerId::new("p"))));
        for n in 0..2_000 {
            refusals.count(true, None, address(n), RefuseReason::Handshake);
        }
        assert_eq!(refusals.all().len(), ROWS_MAX);
    }
}
