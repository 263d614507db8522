//! Facts and statuses: what the loop says to connected peers, and what it hears.

use std::time::Duration;

use libp2p::gossipsub::{Event as GossipEvent, PublishError};
use libp2p::{PeerId as NetId, gossipsub};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use super::super::admission::gate::{Contention, Gate};
use super::super::events::Event;
use super::super::facts::Facts;
use super::super::key::{from_text, to_text};
use super::super::{FACTS_PROTOCOL, gossip, streams};
use super::{Node, Note};
use crate::clock;
use crate::engine::id::PeerId;
use crate::engine::wire::Protocol;
use crate::engine::wire::frames::{Word, trace};
use crate::tasks;
use crate::transport::{self, ByteStream, Incoming};
use crate::wire::{Note as Noted, Status};

/// Longest facts frame, bytes.
const FACTS_FRAME_MAX: usize = 1_024;
/// An exchange of facts is one small round trip.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(3);
/// A living incumbent answers within this, even on a busy machine; the newcomer's admission has 5 s in all.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Until facts are offered again after an exchange failed.
const PUSH_RETRY_MS: u64 = 1_000;

impl Node {
    /// Subscribes to the topic of the hive that this node belongs to now, and to no other.
    pub(super) fn follow_topic(&mut self) {
        let hive = self.shared.gate.own_facts().allegiance.map(|allegiance| allegiance.hive_id);
        let wanted = hive.map(gossip::topic);
        if wanted.as_ref().map(|topic| topic.hash()) != self.topic {
            let subscribed: Vec<_> = self.swarm.behaviour().gossip.topics().cloned().collect();
            for topic in subscribed {
                self.swarm.behaviour_mut().gossip.unsubscribe(&gossipsub::IdentTopic::new(topic.into_string()));
            }
            self.unpublished = None;
            if let Some(topic) = &wanted
                && let Err(error) = self.swarm.behaviour_mut().gossip.subscribe(topic)
            {
                tracing::error!(%error, "cannot subscribe to the hive's statuses");
            }
            self.topic = wanted.map(|topic| topic.hash());
        }
    }

    /// Our own facts changed: the topic may be another, and everybody connected is told.
    pub(super) fn on_local_changed(&mut self) {
        self.follow_topic();
        let peers: Vec<NetId> = self.peers.keys().copied().collect();
        for peer in peers {
            if let Some(connected) = self.peers.get_mut(&peer) {
                connected.push_after_ms = 0;
            }
            self.push_facts(peer);
        }
    }

    /// Tells a peer our facts when it has not seen the latest.
    pub(super) fn push_facts(&mut self, peer: NetId) {
        let now_ms = clock::now_ms();
        let Some(connected) = self.peers.get_mut(&peer) else { return };
        if connected.pushing || now_ms < connected.push_after_ms || !self.shared.gate.owes(peer) {
            return;
        }
        let Some(opened) = self.open_facts(peer) else { return };
        let own = self.shared.gate.own_facts();
        let notes = self.notes.clone();
        tasks::spawn("mesh-push-facts", async move {
            let exchanged = exchange(opened, &own, EXCHANGE_TIMEOUT).await;
            let told = exchanged.is_some().then_some(own.revision);
            let _ = notes.send(Note::Facts { peer, facts: exchanged, told, pushed: true }).await;
        });
        if let Some(connected) = self.peers.get_mut(&peer) {
            connected.pushing = true;
            connected.push_after_ms = now_ms + PUSH_RETRY_MS;
        }
    }

    fn open_facts(&mut self, peer: NetId) -> Option<oneshot::Receiver<std::io::Result<libp2p::Stream>>> {
        let protocol = streams::protocol(FACTS_PROTOCOL).ok()?;
        let (reply, opened) = oneshot::channel();
        self.swarm.behaviour_mut().streams.open(peer, protocol, reply).ok()?;
        Some(opened)
    }

    /// A peer offers its facts; it gets ours.
    pub(super) fn answer_facts(&self, incoming: Incoming) {
        let Some(peer) = from_text(&incoming.peer) else { return };
        let notes = self.notes.clone();
        let own = self.shared.gate.own_facts();
        // As many at once as streams that peers may have open; each ends within its timeout.
        tasks::spawn("mesh-answer-facts", async move {
            let answered = tokio::time::timeout(EXCHANGE_TIMEOUT, answer(incoming.stream, &own)).await;
            if let Ok(Ok(facts)) = answered {
                let note = Note::Facts { peer, facts: Some(facts), told: Some(own.revision), pushed: false };
                let _ = notes.send(note).await;
            }
        });
    }

    pub(super) fn on_note(&mut self, note: Note) {
        match note {
            Note::Facts { peer, facts, told, pushed } => {
                if let Some(connected) = self.peers.get_mut(&peer).filter(|_| pushed) {
                    connected.pushing = false;
                }
                if let Some(revision) = told {
                    self.shared.gate.told(peer, revision);
                }
                if let Some(facts) = facts.filter(|facts| facts.validate().is_ok())
                    && self.peers.contains_key(&peer)
                    && self.shared.gate.update(peer, &facts)
                {
                    self.events.push(Event::FactsChanged { peer: to_text(&peer), facts });
                }
                self.push_facts(peer);
            }
            Note::Probed { contention, alive } => self.on_probed(contention, alive),
        }
    }

    /// Two processes claim to be one peer: ask the one that is connected.
    pub(super) fn on_contention(&mut self, contention: Contention) {
        let peer = contention.peer;
        let Some(opened) = self.open_facts(peer) else {
            let _ = contention.reply.send(false);
            return;
        };
        let own = self.shared.gate.own_facts();
        let incumbent = self.shared.gate.connected_facts(peer).map(|facts| facts.instance);
        let notes: mpsc::Sender<Note> = self.notes.clone();
        tasks::spawn("mesh-probe", async move {
            let facts = exchange(opened, &own, PROBE_TIMEOUT).await;
            let alive = facts.is_some_and(|facts| Some(facts.instance) == incumbent);
            let _ = notes.send(Note::Probed { contention, alive }).await;
        });
    }

    fn on_probed(&mut self, contention: Contention, alive: bool) {
        let peer = contention.peer;
        if alive || !self.peers.contains_key(&peer) {
            let _ = contention.reply.send(alive);
            return;
        }
        tracing::info!(%peer, "a newer process of this peer is here and the old one does not answer: cutting it off");
        self.evicting.entry(peer).or_default().push(contention.reply);
        self.end(peer, None);
    }

    pub(super) fn on_gossip(&mut self, event: GossipEvent) {
        match event {
            GossipEvent::Message { propagation_source, message_id, message } => {
                let gate: &Gate = &self.shared.gate;
                let (acceptance, author) = self.sieve.accept(&message, self.topic.as_ref(), |peer| gate.is_known(peer));
                self.swarm.behaviour_mut().gossip.report_message_validation_result(
                    &message_id,
                    &propagation_source,
                    acceptance,
                );
                if let Some(author) = author {
                    self.note_status(Some(&to_text(&author)), &message.data);
                    self.events.push(Event::Status { from: to_text(&author), bytes: message.data });
                }
            }
            GossipEvent::Subscribed { .. } => self.retry_publish(),
            GossipEvent::Unsubscribed { .. } | GossipEvent::GossipsubNotSupported { .. } => {}
            GossipEvent::SlowPeer { peer_id, .. } => tracing::debug!(peer = %peer_id, "too slow for gossip"),
        }
    }

    /// Publishes now, or as soon as somebody listens; only the latest waits.
    pub(super) fn publish(&mut self, bytes: Vec<u8>) {
        let Some(topic) = self.topic.clone() else { return };
        if self.unpublished.is_none() {
            self.note_status(None, &bytes);
        }
        self.unpublished = match self.swarm.behaviour_mut().gossip.publish(topic, bytes.clone()) {
            Ok(_) | Err(PublishError::Duplicate) => None,
            Err(PublishError::NoPeersSubscribedToTopic | PublishError::AllQueuesFull(_)) => Some(bytes),
            Err(
                error @ (PublishError::SigningError(_)
                | PublishError::MessageTooLarge
                | PublishError::TransformFailed(_)),
            ) => {
                tracing::warn!(%error, "status not published");
                None
            }
        };
    }

    /// A status that this node publishes (`author` none) or took.
    fn note_status(&self, author: Option<&PeerId>, body: &[u8]) {
        let (wire, kind, trace) = (&self.shared.wire, Word::new("Status"), trace(&[b"status", body]));
        if wire.wants(kind, trace) {
            wire.note(&Noted {
                sent: author.is_none(),
                protocol: Protocol::Gossip,
                kind,
                peer: author,
                address: None,
                bytes: body.len() as u64,
                latency_us: None,
                status: Status::None,
                verdict: if author.is_none() { "sent" } else { "taken" },
                trace,
                body,
            });
        }
    }

    pub(super) fn retry_publish(&mut self) {
        if let Some(bytes) = self.unpublished.take() {
            self.publish(bytes);
        }
    }
}

/// Sends our facts on a stream that is being opened, and reads the peer's.
async fn exchange(
    opened: oneshot::Receiver<std::io::Result<libp2p::Stream>>,
    own: &Facts,
    timeout: Duration,
) -> Option<Facts> {
    let exchange = async {
        let mut stream = opened.await.ok()?.ok()?.compat();
        transport::write_frame(&mut stream, own, FACTS_FRAME_MAX).await.ok()?;
        transport::read_frame::<Facts>(&mut stream, FACTS_FRAME_MAX).await.ok()
    };
    tokio::time::timeout(timeout, exchange).await.ok().flatten()
}

async fn answer(mut stream: ByteStream, own: &Facts) -> std::io::Result<Facts> {
    let facts = transport::read_frame::<Facts>(&mut stream, FACTS_FRAME_MAX).await?;
    transport::write_frame(&mut stream, own, FACTS_FRAME_MAX).await?;
    Ok(facts)
}
