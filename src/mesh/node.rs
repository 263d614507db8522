//! The mesh loop: owns the swarm, runs on its own thread, waits for nobody.
//!
//! ```text
//!   handles ──commands──►┐                       ┌──► events ──► agent
//!   upgrades ─contentions►├──► Node::run (one) ──┤
//!   helpers ────notes────►┘     owns the swarm   └──► streams ──► whoever accepted the protocol
//! ```
//!
//! Turns swarm events into [`Event`]s, keeps one good connection per peer, dials what it is asked to. Its cost per event is a
//! few map operations. Never done here: deciding whom to talk to.

mod dialing;
mod stack;
mod talk;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::core::ConnectedPoint;
use libp2p::gossipsub::TopicHash;
use libp2p::swarm::{ConnectionId, ListenError, Swarm, SwarmEvent};
use libp2p::{PeerId as NetId, mdns, ping};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::sync::{Notify, mpsc, oneshot};

use self::dialing::{DialRecord, Target, Waiting};
use self::stack::{Behaviour, BehaviourEvent, build_swarm};
use super::addresses::AddressBook;
use super::admission::gate::{Contention, Gate};
use super::admission::{AdmissionError, RefuseReason};
use super::events::{Event, EventQueue};
use super::gossip::Sieve;
use super::handle::{Command, PeerView};
use super::key::{NodeKey, to_text};
use super::refusals::Refusals;
use super::socket::{SocketControl, Sockets, multiaddr, socket_addr};
use super::streams::Acceptors;
use super::{MeshError, Options, port};
use crate::clock;
use crate::engine::id::PeerId;
use crate::ports;
use crate::transport::Incoming;
use crate::wire::Wire;

/// How often overdue things are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Two connections with one peer are both kept this long, so that streams opened meanwhile can end.
const DUPLICATE_GRACE_MS: u64 = 5_000;
/// Connections that may close in order at shutdown before the rest is cut.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

/// What helpers on the same runtime report back.
pub(crate) enum Note {
    /// A peer sent its facts; `told` is the revision of ours that it got, none when the exchange failed.
    Facts { peer: NetId, facts: Option<super::facts::Facts>, told: Option<u64>, pushed: bool },
    /// The incumbent of a contention was asked.
    Probed { contention: Contention, alive: bool },
}

/// What the loop is connected to.
pub(crate) struct Channels {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) contentions: mpsc::Receiver<Contention>,
    pub(crate) events: mpsc::Sender<Event>,
}

/// What the loop shares with handles.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) gate: Arc<Gate>,
    pub(crate) acceptors: Acceptors,
    pub(crate) refusals: Refusals,
    pub(crate) wire: Wire,
    pub(crate) listen: Arc<Mutex<Vec<SocketAddr>>>,
    pub(crate) changed: Arc<Notify>,
}

struct Connection {
    address: SocketAddr,
    outbound: bool,
    since_ms: u64,
    control: Option<Arc<SocketControl>>,
    received: u64,
    received_ms: u64,
}

#[derive(Default)]
struct Connected {
    connections: BTreeMap<ConnectionId, Connection>,
    pushing: bool,
    push_after_ms: u64,
}

/// The loop's state.
pub(crate) struct Node {
    swarm: Swarm<Behaviour>,
    options: Options,
    shared: Shared,
    sockets: Sockets,
    book: AddressBook,
    peers: BTreeMap<NetId, Connected>,
    events: EventQueue,
    inbound_since_ms: BTreeMap<ConnectionId, u64>,
    dialing: BTreeMap<ConnectionId, DialRecord>,
    dial_queue: VecDeque<Target>,
    waiting: BTreeMap<NetId, Vec<Waiting>>,
    evicting: BTreeMap<NetId, Vec<oneshot::Sender<bool>>>,
    topic: Option<TopicHash>,
    sieve: Sieve,
    unpublished: Option<Vec<u8>>,
    notes: mpsc::Sender<Note>,
    rng: SmallRng,
}

impl Node {
    pub(crate) fn new(
        options: &Options,
        key: &NodeKey,
        shared: &Shared,
        notes: mpsc::Sender<Note>,
    ) -> Result<Self, MeshError> {
        let sockets = Sockets::default();
        let swarm = build_swarm(options, key, shared, &sockets)?;
        Ok(Self {
            swarm,
            options: options.clone(),
            shared: shared.clone(),
            sockets,
            book: AddressBook::default(),
            peers: BTreeMap::new(),
            events: EventQueue::default(),
            inbound_since_ms: BTreeMap::new(),
            dialing: BTreeMap::new(),
            dial_queue: VecDeque::new(),
            waiting: BTreeMap::new(),
            evicting: BTreeMap::new(),
            topic: None,
            sieve: Sieve::default(),
            unpublished: None,
            notes,
            rng: SmallRng::seed_from_u64(rand::random()),
        })
    }

    /// Binds the listeners. With port 0 all families get the port that the first was given.
    pub(crate) async fn listen(&mut self) -> Result<(), MeshError> {
        let mut listen_port = self.options.port;
        for ip in self.options.listen_ips.clone() {
            if listen_port != 0
                && let Err(source) = port::probe(ip, listen_port)
            {
                if source.kind() == std::io::ErrorKind::AddrInUse {
                    let holder = ports::holder(ports::Protocol::Tcp, listen_port);
                    return Err(MeshError::PortTaken { port: listen_port, holder });
                }
                if port::is_any_v6(ip) {
                    tracing::info!(%source, "no IPv6 on this machine, the mesh listens on IPv4 only");
                    continue;
                }
                return Err(MeshError::Listen { address: SocketAddr::new(ip, listen_port), source });
            }
            let address = SocketAddr::new(ip, listen_port);
            self.swarm
                .listen_on(multiaddr(address))
                .map_err(|error| MeshError::Listen { address, source: std::io::Error::other(error) })?;
            if listen_port == 0 {
                listen_port = self.first_listen_port(address).await?;
            }
        }
        self.shared.gate.set_listen_port(listen_port);
        Ok(())
    }

    async fn first_listen_port(&mut self, address: SocketAddr) -> Result<u16, MeshError> {
        let learned = async {
            loop {
                let event = self.swarm.select_next_some().await;
                self.on_swarm_event(event);
                let listening = self.shared.listen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if let Some(address) = listening.first() {
                    return address.port();
                }
            }
        };
        // Only with port 0, which tests and trials use: interfaces report within milliseconds.
        let none = |_| MeshError::Listen { address, source: std::io::ErrorKind::TimedOut.into() };
        tokio::time::timeout(Duration::from_secs(3), learned).await.map_err(none)
    }

    /// Runs until every handle is dropped or one says shutdown.
    pub(crate) async fn run(
        mut self,
        mut channels: Channels,
        mut notes: mpsc::Receiver<Note>,
        mut facts_streams: mpsc::Receiver<Incoming>,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let changed = Arc::clone(&self.shared.changed);
        self.on_local_changed();
        let done = loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                command = channels.commands.recv() => match command {
                    None => break None,
                    Some(Command::Shutdown(done)) => break Some(done),
                    Some(command) => self.on_command(command),
                },
                Some(contention) = channels.contentions.recv() => self.on_contention(contention),
                Some(note) = notes.recv() => self.on_note(note),
                Some(incoming) = facts_streams.recv() => self.answer_facts(incoming),
                () = changed.notified() => self.on_local_changed(),
                // An error: nobody listens any more. The queue still empties, so it never grows.
                permit = channels.events.reserve(), if !self.events.is_empty() => {
                    if let (Some(event), Ok(permit)) = (self.events.pop(), permit) {
                        permit.send(event);
                    }
                }
                _ = tick.tick() => self.on_tick(),
            }
        };
        self.close_all().await;
        // Closed and emptied before anything is answered: a command that a handle sends at this very moment would otherwise stay
        // in the channel for as long as the handle lives, and its sender would wait for ever.
        channels.commands.close();
        channels.contentions.close();
        while channels.commands.recv().await.is_some() {}
        while channels.contentions.recv().await.is_some() {}
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    async fn close_all(&mut self) {
        let peers: Vec<NetId> = self.peers.keys().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closing = async {
            while !self.peers.is_empty() {
                let event = self.swarm.select_next_some().await;
                self.on_swarm_event(event);
            }
        };
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, closing).await;
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Open { peer, protocol, reply } => self.open(peer, protocol, reply),
            Command::AddAddresses { peer, addresses } => self.book.add(peer, addresses),
            Command::DialPeer(peer) => {
                let _ = self.dial(Target::Peer(peer));
            }
            Command::DialAddress(address) => {
                let _ = self.dial(Target::Address(address));
            }
            Command::Disconnect(peer) => self.end(peer, None),
            Command::Peers(reply) => {
                let _ = reply.send(self.view());
            }
            Command::Publish(bytes) => {
                // The hive may have been set a moment ago, by the same caller.
                self.follow_topic();
                self.publish(bytes);
            }
            Command::SetMembers(members) => self.sieve.members = members,
            Command::Shutdown(done) => {
                // Taken by the loop itself; answered here so that nobody could ever wait for ever.
                let _ = done.send(());
            }
        }
    }

    fn view(&self) -> Vec<PeerView> {
        let peers = self.peers.iter().filter_map(|(peer, connected)| {
            let (facts, key_id) = self.shared.gate.known(*peer)?;
            let preferred = self.swarm.behaviour().streams.preferred(*peer);
            let connection = preferred
                .and_then(|id| connected.connections.get(&id))
                .or_else(|| connected.connections.values().next())?;
            let bytes = connected.connections.values().filter_map(|c| c.control.as_ref()).map(|c| c.bytes());
            let (bytes_in, bytes_out) = bytes.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            Some(PeerView {
                peer: to_text(peer),
                facts,
                key_id,
                address: connection.address,
                outbound: connection.outbound,
                since_ms: connection.since_ms,
                connections: connected.connections.len(),
                addresses: self.book.of(*peer),
                bytes_in,
                bytes_out,
            })
        });
        peers.collect()
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "SwarmEvent is non-exhaustive; the rest needs no reaction")]
    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, concurrent_dial_errors, .. } => {
                self.inbound_since_ms.remove(&connection_id);
                self.on_established(peer_id, connection_id, &endpoint);
                self.on_dialed(connection_id, peer_id, &endpoint, concurrent_dial_errors.unwrap_or_default());
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                let cause = cause.map_or_else(|| "closed by this node".to_owned(), |cause| cause.to_string());
                self.on_closed(peer_id, connection_id, cause);
            }
            SwarmEvent::IncomingConnection { connection_id, .. } => {
                self.inbound_since_ms.insert(connection_id, clock::now_ms());
            }
            SwarmEvent::IncomingConnectionError { connection_id, send_back_addr, error, peer_id, .. } => {
                let since_ms = self.inbound_since_ms.remove(&connection_id);
                if let Some(address) = socket_addr(&send_back_addr) {
                    self.on_inbound_failed(address, since_ms, error, peer_id);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, error);
            }
            SwarmEvent::NewListenAddr { address, .. } => self.set_listening(&address, true),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.set_listening(&address, false),
            SwarmEvent::ListenerClosed { reason, addresses, .. } => {
                tracing::error!(?reason, ?addresses, "the mesh no longer listens");
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "mesh listener"),
            _ => {}
        }
    }

    fn set_listening(&self, address: &libp2p::Multiaddr, listening: bool) {
        let Some(address) = socket_addr(address) else { return };
        let mut listen = self.shared.listen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        listen.retain(|known| *known != address);
        if listening {
            tracing::info!(%address, "the mesh listens");
            listen.push(address);
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Mdns(mdns::Event::Discovered(found))
            | BehaviourEvent::MdnsV6(mdns::Event::Discovered(found)) => self.on_discovered(found),
            BehaviourEvent::Mdns(mdns::Event::Expired(_)) | BehaviourEvent::MdnsV6(mdns::Event::Expired(_)) => {}
            BehaviourEvent::Ping(ping::Event { peer, connection, result }) => {
                let Err(error) = result else { return };
                tracing::info!(%peer, %error, "connection without life, closing it");
                self.end(peer, Some(connection));
            }
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Doorman(never) | BehaviourEvent::Streams(never) | BehaviourEvent::Limits(never) => {
                match never {}
            }
        }
    }

    fn on_discovered(&mut self, found: Vec<(NetId, libp2p::Multiaddr)>) {
        let mut by_peer: BTreeMap<NetId, Vec<SocketAddr>> = BTreeMap::new();
        for (peer, address) in found {
            if let Some(address) = socket_addr(&address) {
                by_peer.entry(peer).or_default().push(address);
            }
        }
        for (peer, addresses) in by_peer {
            if peer != self.shared.gate.local_peer() {
                self.book.add(peer, addresses.iter().copied());
                self.events.push(Event::Discovered { peer: to_text(&peer), addresses });
            }
        }
    }

    fn on_established(&mut self, peer: NetId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let Some(address) = socket_addr(endpoint.get_remote_address()) else { return };
        let outbound = endpoint.is_dialer();
        let control = self.sockets.take(endpoint);
        let connected = self.peers.entry(peer).or_default();
        let first = connected.connections.is_empty();
        let since_ms = clock::now_ms();
        let connection = Connection { address, outbound, since_ms, control, received: 0, received_ms: since_ms };
        connected.connections.insert(id, connection);
        let count = u32::try_from(connected.connections.len()).unwrap_or(u32::MAX);
        self.shared.gate.set_connections(peer, count);
        let Some((facts, key_id)) = self.shared.gate.known(peer) else {
            tracing::error!(%peer, "bug: a connection that admission does not know, closing it");
            self.end(peer, Some(id));
            return;
        };
        if !outbound {
            self.book.add(peer, [SocketAddr::new(address.ip(), facts.listen_port)]);
        }
        if first {
            self.sieve.forget(peer);
            let key_is_current = self.shared.gate.credentials().0.signing().id == key_id;
            tracing::info!(%peer, name = facts.name, %address, outbound, "peer up");
            self.events.push(Event::PeerUp { peer: to_text(&peer), facts, address, outbound, key_is_current });
        }
        self.push_facts(peer);
        self.serve_waiting(peer);
    }

    fn on_closed(&mut self, peer: NetId, id: ConnectionId, cause: String) {
        let Some(connected) = self.peers.get_mut(&peer) else { return };
        connected.connections.remove(&id);
        let count = u32::try_from(connected.connections.len()).unwrap_or(u32::MAX);
        self.shared.gate.set_connections(peer, count);
        if count > 0 {
            return;
        }
        self.peers.remove(&peer);
        for reply in self.evicting.remove(&peer).unwrap_or_default() {
            let _ = reply.send(false);
        }
        tracing::info!(%peer, cause, "peer down");
        self.events.push(Event::PeerDown { peer: to_text(&peer), cause });
    }

    fn on_inbound_failed(
        &mut self,
        address: SocketAddr,
        since_ms: Option<u64>,
        error: ListenError,
        peer: Option<NetId>,
    ) {
        let (by_us, reason, peer) = match &error {
            ListenError::Transport(transport) => match find_admission(transport) {
                Some(admission) => (admission.by_us, admission.reason, admission.peer.or(peer)),
                None => {
                    let age_ms = since_ms.map_or(0, |since_ms| clock::now_ms().saturating_sub(since_ms));
                    let timed_out = age_ms + 100 >= self.options.handshake_timeout_ms;
                    (true, if timed_out { RefuseReason::Silent } else { RefuseReason::Handshake }, peer)
                }
            },
            ListenError::Denied { .. } => (true, RefuseReason::Limit, peer),
            ListenError::LocalPeerId { .. } => return,
            ListenError::Aborted | ListenError::WrongPeerId { .. } => (true, RefuseReason::Handshake, peer),
        };
        if reason != RefuseReason::Ourselves {
            self.refused(by_us, peer, address, reason);
        }
    }

    fn refused(&mut self, by_us: bool, peer: Option<NetId>, address: SocketAddr, reason: RefuseReason) {
        let peer: Option<PeerId> = peer.as_ref().map(to_text);
        if self.shared.refusals.count(by_us, peer.clone(), address, reason) {
            tracing::warn!(by_us, %address, %reason, ?peer, "connection not admitted");
        }
        self.events.push(Event::Refused { by_us, peer, address, reason });
    }

    /// Destroys connections of a peer without waiting for its other end.
    fn end(&mut self, peer: NetId, only: Option<ConnectionId>) {
        let Some(connected) = self.peers.get(&peer) else { return };
        for (id, connection) in &connected.connections {
            if only.is_none_or(|only| only == *id) {
                if let Some(control) = &connection.control {
                    control.end();
                }
                self.swarm.close_connection(*id);
            }
        }
    }

    /// Ends connections on which nothing arrives although both sides ping. libp2p's own verdict comes after two failed pings
    /// and a negotiation, up to 50 s later.
    fn end_lifeless(&mut self, now_ms: u64) {
        let silence_max_ms = self.options.ping_interval_ms + self.options.ping_timeout_ms;
        let mut lifeless = Vec::new();
        for (peer, connected) in &mut self.peers {
            for (id, connection) in &mut connected.connections {
                let received = connection.control.as_ref().map_or(0, |control| control.bytes().0);
                if received != connection.received {
                    (connection.received, connection.received_ms) = (received, now_ms);
                } else if now_ms.saturating_sub(connection.received_ms) >= silence_max_ms {
                    lifeless.push((*peer, *id));
                }
            }
        }
        for (peer, id) in lifeless {
            tracing::info!(%peer, silence_max_ms, "connection without life, ending it");
            self.end(peer, Some(id));
        }
    }

    fn on_tick(&mut self) {
        let now_ms = clock::now_ms();
        self.purge_waiting();
        self.drain_dial_queue();
        self.end_lifeless(now_ms);
        let peers: Vec<NetId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.push_facts(peer);
            let Some(connected) = self.peers.get(&peer).filter(|connected| connected.connections.len() > 1) else {
                continue;
            };
            let youngest_ms = connected.connections.values().map(|c| c.since_ms).max().unwrap_or(now_ms);
            if now_ms.saturating_sub(youngest_ms) >= DUPLICATE_GRACE_MS {
                for id in self.swarm.behaviour().streams.superfluous(peer) {
                    self.swarm.close_connection(id);
                }
            }
        }
        self.retry_publish();
    }
}

/// The admission error at the bottom of a transport error, if that is what ended the connection.
fn find_admission(error: &libp2p::TransportError<std::io::Error>) -> Option<&AdmissionError> {
    let libp2p::TransportError::Other(error) = error else { return None };
    let mut source: Option<&(dyn std::error::Error + 'static)> =
        error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(error) = source {
        if let Some(admission) = error.downcast_ref::<AdmissionError>() {
            return Some(admission);
        }
        // An io::Error hides what it wraps behind `get_ref`.
        source = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
