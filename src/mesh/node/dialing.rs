//! Reaching peers: whom to dial next, what a failed dial means, and the streams that wait for a connection.

use std::net::SocketAddr;

use libp2p::core::ConnectedPoint;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, StreamProtocol};
use libp2p::{Multiaddr, PeerId as NetId, TransportError};

use super::super::addresses::is_dialable;
use super::super::admission::RefuseReason;
use super::super::events::Event;
use super::super::socket::{multiaddr, socket_addr};
use super::super::streams::OpenReply;
use super::{Node, find_admission};
use crate::clock;

/// Dials under way at once: each may hold a socket and a handshake for 5 s.
const DIALS_MAX: usize = 8;
/// Dials that wait for a place; what does not fit is asked for again by whoever wants it.
const DIAL_QUEUE_MAX: usize = 256;
/// Streams that may wait for a connection with one peer.
const WAITING_PER_PEER_MAX: usize = 64;

/// What to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Peer(NetId),
    Address(SocketAddr),
}

/// A dial under way.
pub(super) struct DialRecord {
    peer: Option<NetId>,
    addresses: Vec<SocketAddr>,
}

/// A stream that waits for a connection.
pub(super) struct Waiting {
    protocol: StreamProtocol,
    reply: OpenReply,
}

fn not_connected(why: impl Into<String>) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::NotConnected, why.into())
}

impl Node {
    /// Opens a stream now, or as soon as the peer is connected.
    pub(super) fn open(&mut self, peer: NetId, protocol: StreamProtocol, reply: OpenReply) {
        let reply = match self.swarm.behaviour_mut().streams.open(peer, protocol.clone(), reply) {
            Ok(()) => return,
            Err(reply) => reply,
        };
        if self.waiting.get(&peer).is_some_and(|waiting| waiting.len() >= WAITING_PER_PEER_MAX) {
            let _ = reply.send(Err(not_connected("too many streams wait for this peer")));
            return;
        }
        if let Err(why) = self.dial(Target::Peer(peer)) {
            let _ = reply.send(Err(not_connected(why)));
            return;
        }
        self.waiting.entry(peer).or_default().push(Waiting { protocol, reply });
    }

    /// Opens what waited for this peer.
    pub(super) fn serve_waiting(&mut self, peer: NetId) {
        for Waiting { protocol, reply } in self.waiting.remove(&peer).unwrap_or_default() {
            if let Err(reply) = self.swarm.behaviour_mut().streams.open(peer, protocol, reply) {
                let _ = reply.send(Err(not_connected("the connection is gone again")));
            }
        }
    }

    /// Forgets streams whose callers gave up.
    pub(super) fn purge_waiting(&mut self) {
        self.waiting.retain(|_, waiting| {
            waiting.retain(|waiting| !waiting.reply.is_closed());
            !waiting.is_empty()
        });
    }

    fn is_dialing(&self, target: Target) -> bool {
        self.dialing.values().any(|record| match target {
            Target::Peer(peer) => record.peer == Some(peer),
            Target::Address(address) => record.addresses.contains(&address),
        })
    }

    fn is_connected(&self, target: Target) -> bool {
        match target {
            Target::Peer(peer) => self.peers.contains_key(&peer),
            Target::Address(address) => {
                let mut connections = self.peers.values().flat_map(|connected| connected.connections.values());
                connections.any(|connection| connection.outbound && connection.address == address)
            }
        }
    }

    /// Starts or queues a dial. An error says why there is no point now.
    pub(super) fn dial(&mut self, target: Target) -> Result<(), &'static str> {
        if self.is_connected(target) || self.is_dialing(target) || self.dial_queue.contains(&target) {
            return Ok(());
        }
        let now_ms = clock::now_ms();
        match target {
            Target::Peer(peer) if self.book.of(peer).is_empty() => return Err("no address of this peer is known"),
            Target::Peer(peer) if self.book.ready(peer, now_ms).is_empty() => {
                return Err("the peer was not reached a moment ago");
            }
            Target::Address(address) if !is_dialable(address) => return Err("no address that can be dialed"),
            Target::Address(address) if self.book.is_own(address) => return Err("this node's own address"),
            Target::Address(address) if !self.book.is_ready(address, now_ms) => {
                return Err("the address was not reached a moment ago");
            }
            Target::Peer(_) | Target::Address(_) => {}
        }
        if self.dialing.len() < DIALS_MAX {
            return self.start_dial(target);
        }
        if self.dial_queue.len() >= DIAL_QUEUE_MAX {
            return Err("too many dials wait");
        }
        self.dial_queue.push_back(target);
        Ok(())
    }

    fn start_dial(&mut self, target: Target) -> Result<(), &'static str> {
        // A port of its own for each dial: from the listening port, two nodes that dial each other would collide in TCP itself.
        let (peer, addresses, options): (_, _, DialOpts) = match target {
            Target::Peer(peer) => {
                let addresses = self.book.ready(peer, clock::now_ms());
                let dialed = addresses.iter().copied().map(multiaddr).collect();
                let options = DialOpts::peer_id(peer)
                    .condition(PeerCondition::DisconnectedAndNotDialing)
                    .addresses(dialed)
                    .allocate_new_port()
                    .build();
                (Some(peer), addresses, options)
            }
            Target::Address(address) => {
                let options = DialOpts::unknown_peer_id().address(multiaddr(address)).allocate_new_port().build();
                (None, vec![address], options)
            }
        };
        let connection = options.connection_id();
        self.dialing.insert(connection, DialRecord { peer, addresses });
        let Err(error) = self.swarm.dial(options) else { return Ok(()) };
        let why = match error {
            DialError::NoAddresses => "only this node's own addresses are known",
            DialError::Denied { .. } => "too many connections",
            DialError::DialPeerConditionFalse(_)
            | DialError::LocalPeerId { .. }
            | DialError::Aborted
            | DialError::WrongPeerId { .. }
            | DialError::Transport(_) => "the dial could not start",
        };
        self.dialing.remove(&connection);
        Err(why)
    }

    /// Starts what waits for a place.
    pub(super) fn drain_dial_queue(&mut self) {
        while self.dialing.len() < DIALS_MAX {
            let Some(target) = self.dial_queue.pop_front() else { return };
            if self.is_connected(target) || self.is_dialing(target) {
                continue;
            }
            if let (Err(why), Target::Peer(peer)) = (self.start_dial(target), target) {
                self.fail_waiting(peer, why);
            }
        }
    }

    fn fail_waiting(&mut self, peer: NetId, why: &str) {
        if self.peers.contains_key(&peer) || self.is_dialing(Target::Peer(peer)) {
            return;
        }
        for waiting in self.waiting.remove(&peer).unwrap_or_default() {
            let _ = waiting.reply.send(Err(not_connected(why)));
        }
    }

    /// A dial led to a connection; other addresses of the same dial may have failed.
    pub(super) fn on_dialed(
        &mut self,
        connection: ConnectionId,
        peer: NetId,
        endpoint: &ConnectedPoint,
        failed: Vec<(Multiaddr, TransportError<std::io::Error>)>,
    ) {
        if self.dialing.remove(&connection).is_none() {
            return;
        }
        for (address, error) in failed {
            self.on_address_failed(&address, &error);
        }
        if let Some(address) = socket_addr(endpoint.get_remote_address()) {
            self.book.succeeded(peer, address);
        }
        self.drain_dial_queue();
    }

    /// A dial led nowhere.
    pub(super) fn on_dial_failed(&mut self, connection: ConnectionId, peer: Option<NetId>, error: DialError) {
        let record = self.dialing.remove(&connection);
        match error {
            DialError::Transport(failed) => {
                for (address, error) in &failed {
                    self.on_address_failed(address, error);
                }
            }
            DialError::WrongPeerId { obtained, address } => {
                if let (Some(expected), Some(address)) = (peer, socket_addr(&address)) {
                    self.book.remove(expected, address);
                    self.book.add(obtained, [address]);
                    let reason = format!("another node answers there: {obtained}");
                    self.events.push(Event::DialFailed { address, reason });
                }
            }
            DialError::LocalPeerId { address } => {
                if let Some(address) = socket_addr(&address) {
                    self.book.set_own(address);
                }
            }
            DialError::Denied { cause } => {
                let reason = format!("too many connections: {cause}");
                for address in record.iter().flat_map(|record| record.addresses.iter().copied()) {
                    self.book.failed(address, clock::now_ms(), &mut self.rng);
                    self.events.push(Event::DialFailed { address, reason: reason.clone() });
                }
            }
            DialError::NoAddresses | DialError::DialPeerConditionFalse(_) | DialError::Aborted => {}
        }
        if let Some(peer) = peer.or_else(|| record.and_then(|record| record.peer)) {
            self.fail_waiting(peer, "the peer was not reached at any of its addresses");
        }
        self.drain_dial_queue();
    }

    fn on_address_failed(&mut self, address: &Multiaddr, error: &TransportError<std::io::Error>) {
        let Some(address) = socket_addr(address) else { return };
        let Some(admission) = find_admission(error) else {
            self.book.failed(address, clock::now_ms(), &mut self.rng);
            self.events.push(Event::DialFailed { address, reason: error.to_string() });
            return;
        };
        if admission.reason == RefuseReason::Ourselves {
            self.book.set_own(address);
            return;
        }
        self.book.failed(address, clock::now_ms(), &mut self.rng);
        self.refused(admission.by_us, admission.peer, address, admission.reason);
    }
}
