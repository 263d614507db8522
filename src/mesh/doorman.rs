//! A cap on unfinished inbound connections per source address.
//!
//! The limit on all of them is libp2p's; alone it would let one silent host occupy every place for the 5 s that a handshake
//! may take, and with it shut out everybody else. Never done here: judging finished connections.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionEstablished, ListenFailure};
use libp2p::swarm::dummy::ConnectionHandler;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId as NetId};

use super::socket::socket_addr;

/// The source has too many unfinished connections.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("too many unfinished connections from one address")]
pub(crate) struct TooMany;

/// The behaviour. First in line, so that it speaks before anything is allocated for a connection.
pub(crate) struct Doorman {
    per_address_max: usize,
    pending: BTreeMap<ConnectionId, IpAddr>,
    counts: BTreeMap<IpAddr, usize>,
}

impl Doorman {
    pub(crate) fn new(per_address_max: usize) -> Self {
        Self { per_address_max, pending: BTreeMap::new(), counts: BTreeMap::new() }
    }

    fn forget(&mut self, connection: ConnectionId) {
        let Some(address) = self.pending.remove(&connection) else { return };
        if let Some(count) = self.counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&address);
            }
        }
    }
}

impl NetworkBehaviour for Doorman {
    type ConnectionHandler = ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let Some(address) = socket_addr(remote).map(|address| address.ip()) else { return Ok(()) };
        let count = self.counts.entry(address).or_insert(0);
        if *count >= self.per_address_max {
            return Err(ConnectionDenied::new(TooMany));
        }
        *count += 1;
        self.pending.insert(connection, address);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: NetId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.forget(connection);
        Ok(ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: NetId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(ConnectionHandler)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "FromSwarm is non-exhaustive and only two of it matter here")]
    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. })
            | FromSwarm::ConnectionEstablished(ConnectionEstablished { connection_id, .. }) => {
                self.forget(connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: NetId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
