//! Named streams over admitted connections, as a libp2p behaviour.
//!
//! libp2p-stream has the same purpose but hands inbound streams over a channel without a buffer: of two that arrive before the
//! receiver has run, one is dropped, and it keeps a sender for every connection there ever was. Here up to
//! [`ACCEPT_BACKLOG`] streams wait per protocol, opening is concurrent, and nothing outlives its connection. Never
//! done here: dialing, timeouts of a whole call, framing.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{Ready, ready};
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::core::{Endpoint, InboundUpgrade, UpgradeInfo};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, Stream, StreamProtocol, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId as NetId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use crate::mesh::key::to_text;
use crate::transport::Incoming;
use crate::wire::{self, Wire};

/// Streams of one protocol that may wait to be taken; more are refused.
pub(crate) const ACCEPT_BACKLOG: usize = 64;
/// Protocols that may be accepted at once; far above what the agent has.
const PROTOCOLS_MAX: usize = 64;
/// Negotiating one stream takes a round trip; a peer that needs longer is treated as gone.
const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(5);

/// Where an opened stream goes.
pub(crate) type OpenReply = oneshot::Sender<io::Result<Stream>>;

type ByName = BTreeMap<String, (StreamProtocol, mpsc::Sender<Incoming>)>;

/// Protocols that this node accepts right now.
#[derive(Clone, Default)]
pub(crate) struct Acceptors {
    names: Arc<Mutex<ByName>>,
    wire: Wire,
}

impl Acceptors {
    /// Accepts nothing yet. What will be accepted is noted here.
    pub(crate) fn new(wire: Wire) -> Self {
        Self { names: Arc::default(), wire }
    }

    fn lock(&self) -> MutexGuard<'_, ByName> {
        self.names.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Accepts streams of `name` until the receiver is dropped or somebody else accepts them.
    pub(crate) fn accept(&self, name: &str) -> io::Result<mpsc::Receiver<Incoming>> {
        let protocol = protocol(name)?;
        let mut acceptors = self.lock();
        acceptors.retain(|_, (_, sender)| !sender.is_closed());
        if acceptors.len() >= PROTOCOLS_MAX && !acceptors.contains_key(name) {
            return Err(io::Error::other(format!("more than {PROTOCOLS_MAX} protocols")));
        }
        let (sender, receiver) = mpsc::channel(ACCEPT_BACKLOG);
        acceptors.insert(name.to_owned(), (protocol, sender));
        Ok(receiver)
    }

    fn names(&self) -> Vec<StreamProtocol> {
        let mut acceptors = self.lock();
        acceptors.retain(|_, (_, sender)| !sender.is_closed());
        acceptors.values().map(|(protocol, _)| protocol.clone()).collect()
    }

    fn deliver(&self, peer: NetId, protocol: &StreamProtocol, stream: Stream) {
        let sender = self.lock().get(protocol.as_ref()).map(|(_, sender)| sender.clone());
        let from = to_text(&peer);
        let stream = wire::tap(&self.wire, Box::pin(stream.compat()), protocol.as_ref(), &from, false);
        let incoming = Incoming { peer: from, stream };
        // Dropping the stream resets it, which is how the other side learns that it was refused.
        if sender.is_none_or(|sender| sender.try_send(incoming).is_err()) {
            tracing::warn!(%peer, %protocol, "stream refused: nobody takes it or too many wait");
        }
    }
}

/// A protocol name as libp2p wants it.
pub(crate) fn protocol(name: &str) -> io::Result<StreamProtocol> {
    StreamProtocol::try_from_owned(name.to_owned())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no protocol name")))
}

/// Asks a connection for a stream.
#[derive(Debug)]
pub(crate) struct Open {
    protocol: StreamProtocol,
    reply: OpenReply,
}

/// The behaviour.
pub(crate) struct Streams {
    local: NetId,
    acceptors: Acceptors,
    connections: BTreeMap<NetId, Vec<(ConnectionId, Endpoint)>>,
    pending: VecDeque<ToSwarm<Infallible, Open>>,
}

impl Streams {
    pub(crate) fn new(local: NetId, acceptors: Acceptors) -> Self {
        Self { local, acceptors, connections: BTreeMap::new(), pending: VecDeque::new() }
    }

    /// The connection that both sides use when there are two: the first that the smaller PeerId dialed.
    pub(crate) fn preferred(&self, peer: NetId) -> Option<ConnectionId> {
        let wanted = if self.local < peer { Endpoint::Dialer } else { Endpoint::Listener };
        let connections = self.connections.get(&peer)?;
        let preferred = connections.iter().find(|(_, endpoint)| *endpoint == wanted).or_else(|| connections.first());
        preferred.map(|(connection, _)| *connection)
    }

    /// Connections that are not preferred and are this side's to close: the smaller PeerId closes, so that it happens once.
    pub(crate) fn superfluous(&self, peer: NetId) -> Vec<ConnectionId> {
        let Some(connections) = self.connections.get(&peer).filter(|_| self.local < peer) else { return Vec::new() };
        let preferred = self.preferred(peer);
        connections.iter().map(|(id, _)| *id).filter(|id| Some(*id) != preferred).collect()
    }

    /// Asks for a stream on the preferred connection. The sender comes back when the peer is not connected.
    pub(crate) fn open(&mut self, peer: NetId, protocol: StreamProtocol, reply: OpenReply) -> Result<(), OpenReply> {
        let Some(connection) = self.preferred(peer) else { return Err(reply) };
        self.pending.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(connection),
            event: Open { protocol, reply },
        });
        Ok(())
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: NetId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(peer, self.acceptors.clone()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: NetId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(peer, self.acceptors.clone()))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "FromSwarm is non-exhaustive and only two of it matter here")]
    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, endpoint, .. }) => {
                let side = if endpoint.is_dialer() { Endpoint::Dialer } else { Endpoint::Listener };
                self.connections.entry(peer_id).or_default().push((connection_id, side));
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                if let Some(connections) = self.connections.get_mut(&peer_id) {
                    connections.retain(|(id, _)| *id != connection_id);
                    if connections.is_empty() {
                        self.connections.remove(&peer_id);
                    }
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: NetId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // No waker: requests are queued by the loop that polls the swarm, right before it polls again.
        self.pending.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// Inbound side of the negotiation: any protocol accepted right now.
pub(crate) struct AnyAccepted(Vec<StreamProtocol>);

impl UpgradeInfo for AnyAccepted {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for AnyAccepted {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, protocol: Self::Info) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

/// One connection's end of the behaviour.
pub(crate) struct Handler {
    peer: NetId,
    acceptors: Acceptors,
    requests: VecDeque<Open>,
}

impl Handler {
    fn new(peer: NetId, acceptors: Acceptors) -> Self {
        Self { peer, acceptors, requests: VecDeque::new() }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Infallible;
    type InboundProtocol = AnyAccepted;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenReply;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(AnyAccepted(self.acceptors.names()), ()).with_timeout(NEGOTIATION_TIMEOUT)
    }

    /// Members stay connected whether or not they have something to say.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        // No waker: a connection polls its handler after every event that it hands in.
        while let Some(Open { protocol, reply }) = self.requests.pop_front() {
            if reply.is_closed() {
                continue;
            }
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(protocol), reply).with_timeout(NEGOTIATION_TIMEOUT);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, request: Self::FromBehaviour) {
        self.requests.push_back(request);
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "ConnectionEvent is non-exhaustive and only three matter here")]
    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, (), Self::OutboundOpenInfo>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol), ..
            }) => {
                self.acceptors.deliver(self.peer, &protocol, stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info: reply }) => {
                let _ = reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info: reply }) => {
                let error = match error {
                    StreamUpgradeError::Timeout => io::ErrorKind::TimedOut.into(),
                    StreamUpgradeError::NegotiationFailed => {
                        io::Error::new(io::ErrorKind::Unsupported, "the peer does not speak this protocol")
                    }
                    StreamUpgradeError::Io(error) => error,
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = reply.send(Err(error));
            }
            _ => {}
        }
    }
}
