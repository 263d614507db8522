//! What the mesh tells the agent, and what happens when the agent does not listen.
//!
//! The loop never waits for a reader. Events collect here and go out as the channel has room. When too many collect, what can
//! be learned again is dropped (refusals, failed dials, discoveries); of statuses only the latest per node is kept at
//! all; what changes the set of peers is kept up to a far bound. The reader compares with `MeshHandle::peers` from time to time.
//! Never done here: deciding.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use super::admission::RefuseReason;
use super::facts::Facts;
use crate::engine::id::PeerId;

/// Events that wait in the channel to the agent.
pub(crate) const CHANNEL_LEN: usize = 256;
/// Collected events beyond which repeatable ones are dropped.
const REPEATABLE_MAX: usize = 512;
/// Collected events beyond which everything is dropped: more than twice the connections that are allowed.
const ALL_MAX: usize = 4_096;
/// Nodes whose latest status waits.
const STATUSES_MAX: usize = 1_024;

/// Something happened on the mesh.
#[derive(Clone, Debug)]
pub enum Event {
    /// The first connection with an admitted peer is there.
    PeerUp {
        /// Proven by Noise.
        peer: PeerId,
        /// What it says about itself.
        facts: Facts,
        /// The other end of the connection.
        address: SocketAddr,
        /// We dialed it.
        outbound: bool,
        /// It proved the key that signs now; otherwise one of before a rotation.
        key_is_current: bool,
    },
    /// The last connection with a peer is gone.
    PeerDown {
        /// The peer.
        peer: PeerId,
        /// Why, for people.
        cause: String,
    },
    /// A connected peer says something new about itself.
    FactsChanged {
        /// The peer.
        peer: PeerId,
        /// All its facts.
        facts: Facts,
    },
    /// mDNS found a libp2p node. Nothing about it is proven; it may be of another hive or no hive at all.
    Discovered {
        /// What it calls itself.
        peer: PeerId,
        /// Where.
        addresses: Vec<SocketAddr>,
    },
    /// A connection was not admitted.
    Refused {
        /// This node refused; otherwise the other side.
        by_us: bool,
        /// The other side, when Noise had proven it.
        peer: Option<PeerId>,
        /// The other end.
        address: SocketAddr,
        /// Why.
        reason: RefuseReason,
    },
    /// A member published its status.
    Status {
        /// Who signed it.
        from: PeerId,
        /// Opaque here.
        bytes: Vec<u8>,
    },
    /// An address could not be reached.
    DialFailed {
        /// The address.
        address: SocketAddr,
        /// Why, for people.
        reason: String,
    },
}

/// Events on their way to the agent.
#[derive(Default)]
pub(crate) struct EventQueue {
    events: VecDeque<Event>,
    statuses: BTreeMap<PeerId, Vec<u8>>,
}

impl EventQueue {
    pub(crate) fn push(&mut self, event: Event) {
        let max = match event {
            Event::PeerUp { .. } | Event::PeerDown { .. } | Event::FactsChanged { .. } => ALL_MAX,
            Event::Discovered { .. } | Event::Refused { .. } | Event::DialFailed { .. } => REPEATABLE_MAX,
            Event::Status { from, bytes } => {
                if self.statuses.len() < STATUSES_MAX || self.statuses.contains_key(&from) {
                    self.statuses.insert(from, bytes);
                }
                return;
            }
        };
        if self.events.len() < max {
            self.events.push_back(event);
        }
    }

    /// The next one to send.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        let status = || self.statuses.pop_first().map(|(from, bytes)| Event::Status { from, bytes });
        self.events.pop_front().or_else(status)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.statuses.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deaf_reader_loses_repeatable_events_first_and_costs_bounded_memory() {
        let mut queue = EventQueue::default();
        let down = || Event::PeerDown { peer: PeerId::new("p"), cause: String::new() };
        let failed = || Event::DialFailed { address: ([10, 0, 0, 1], 1).into(), reason: String::new() };
        for _ in 0..1_000 {
            queue.push(failed());
        }
        assert_eq!(queue.events.len(), REPEATABLE_MAX);
        queue.push(down());
        assert_eq!(queue.events.len(), REPEATABLE_MAX + 1, "a change of peers still fits");
        for _ in 0..10_000 {
            queue.push(down());
        }
        assert_eq!(queue.events.len(), ALL_MAX);
    }

    #[test]
    fn only_the_latest_status_of_a_node_waits() {
        let mut queue = EventQueue::default();
        for byte in 0..5 {
            queue.push(Event::Status { from: PeerId::new("a"), bytes: vec![byte] });
        }
        assert!(matches!(queue.pop(), Some(Event::Status { bytes, .. }) if bytes == [4]));
        assert!(queue.is_empty());
    }
}
