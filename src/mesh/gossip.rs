//! Status gossip: one gossipsub topic per hive, small messages, the latest of each node.
//!
//! Messages are signed by their author and relayed by members only. They may be lost, late or twice; nothing is ever decided
//! by them. Never done here: interpreting a status.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use libp2p::PeerId as NetId;
use libp2p::gossipsub::{
    Behaviour, ConfigBuilder, IdentTopic, Message, MessageAcceptance, MessageAuthenticity, TopicHash, ValidationMode,
};
use libp2p::identity::Keypair;

use crate::engine::id::HiveId;

/// Largest status, bytes. A node gets each about four times.
pub const STATUS_MAX: usize = 4 << 10;
/// Largest gossipsub frame, bytes (its default; control messages share it).
const TRANSMIT_MAX: usize = 64 << 10;
/// Authors whose last sequence number is remembered.
const AUTHORS_MAX: usize = 4_096;
/// Neighbours that a status is handed to: fewest, wanted, most. Every copy of a message costs its receiver the check of a signature,
/// and a status that is lost is followed by the next one in seconds.
const NEIGHBOURS: (usize, usize, usize) = (3, 4, 8);
/// Interval of looking after the neighbours and of telling others what they may have missed. A newcomer is taken as a neighbour at
/// once.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// The behaviour as the mesh needs it.
pub(crate) fn behaviour(key: &Keypair) -> Result<Behaviour, String> {
    let config = ConfigBuilder::default()
        // Each publication goes to the mesh of the topic, not to every member.
        .flood_publish(false)
        .validate_messages()
        .validation_mode(ValidationMode::Strict)
        .max_transmit_size(TRANSMIT_MAX)
        .mesh_n_low(NEIGHBOURS.0)
        .mesh_n(NEIGHBOURS.1)
        .mesh_n_high(NEIGHBOURS.2)
        .mesh_outbound_min(1)
        .gossip_lazy(NEIGHBOURS.0)
        .heartbeat_interval(HEARTBEAT)
        // The default of 5 s would leave a fresh hive without statuses for as long.
        .heartbeat_initial_delay(Duration::from_millis(500))
        .build()
        .map_err(|error| error.to_string())?;
    Behaviour::new(MessageAuthenticity::Signed(key.clone()), config).map_err(str::to_owned)
}

/// The topic of a hive.
pub(crate) fn topic(hive_id: HiveId) -> IdentTopic {
    IdentTopic::new(format!("/hive/status/{hive_id}"))
}

/// Which messages count.
#[derive(Default)]
pub(crate) struct Sieve {
    /// Members that the agent named; others count once they were admitted.
    pub(crate) members: BTreeSet<NetId>,
    last: BTreeMap<NetId, u64>,
    order: VecDeque<NetId>,
}

impl Sieve {
    /// Whether to relay and hand on a message.
    pub(crate) fn accept(
        &mut self,
        message: &Message,
        own: Option<&TopicHash>,
        admitted: impl Fn(NetId) -> bool,
    ) -> (MessageAcceptance, Option<NetId>) {
        let (Some(author), Some(sequence)) = (message.source, message.sequence_number) else {
            return (MessageAcceptance::Reject, None);
        };
        if own != Some(&message.topic) || message.data.len() > STATUS_MAX {
            return (MessageAcceptance::Reject, None);
        }
        // Ignored, not rejected: the relaying member may know a newcomer that this node has not met yet.
        if !self.members.contains(&author) && !admitted(author) {
            return (MessageAcceptance::Ignore, None);
        }
        if self.last.get(&author).is_some_and(|last| *last >= sequence) {
            return (MessageAcceptance::Ignore, None);
        }
        if self.last.insert(author, sequence).is_none() {
            self.order.push_back(author);
            if self.order.len() > AUTHORS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.last.remove(&oldest);
            }
        }
        (MessageAcceptance::Accept, Some(author))
    }

    /// Starts over with an author: its sequence numbers come from its wall clock, which may have been set back while it was away.
    pub(crate) fn forget(&mut self, author: NetId) {
        if self.last.remove(&author).is_some() {
            self.order.retain(|known| *known != author);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(source: Option<NetId>, sequence: u64, length: usize, topic: &TopicHash) -> Message {
        Message { source, data: vec![0; length], sequence_number: Some(sequence), topic: topic.clone() }
    }

    #[test]
    fn only_new_and_small_messages_of_members_on_the_own_topic_pass() {
        let own = topic(HiveId([1; 16])).hash();
        let other = topic(HiveId([2; 16])).hash();
        let (member, stranger) = (NetId::random(), NetId::random());
        let mut sieve = Sieve::default();
        let mut passes = |message: Message| sieve.accept(&message, Some(&own), |peer| peer == member).1.is_some();
        assert!(passes(message(Some(member), 5, 10, &own)));
        assert!(!passes(message(Some(member), 5, 10, &own)), "the same again");
        assert!(!passes(message(Some(member), 4, 10, &own)), "an older one");
        assert!(passes(message(Some(member), 6, STATUS_MAX, &own)));
        assert!(!passes(message(Some(member), 7, STATUS_MAX + 1, &own)), "too large");
        assert!(!passes(message(Some(member), 8, 10, &other)), "another hive's topic");
        assert!(!passes(message(Some(stranger), 9, 10, &own)), "nobody we know");
        assert!(!passes(message(None, 9, 10, &own)), "unsigned");
        sieve.forget(member);
        assert!(sieve.accept(&message(Some(member), 1, 10, &own), Some(&own), |_| true).1.is_some(), "after a restart");
    }
}
