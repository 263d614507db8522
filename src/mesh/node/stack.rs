//! The protocols of a connection, one upon the other, and the limits they run under.
//!
//! Never done here: anything at run time.

use std::sync::Arc;
use std::time::Duration;

use libp2p::connection_limits::ConnectionLimits;
use libp2p::core::upgrade::Version;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{NetworkBehaviour, Swarm};
use libp2p::{Transport as _, connection_limits, gossipsub, mdns, noise, ping, tcp, yamux};

use super::Shared;
use crate::mesh::admission::AdmittedNoise;
use crate::mesh::doorman::Doorman;
use crate::mesh::key::NodeKey;
use crate::mesh::socket::Sockets;
use crate::mesh::streams::Streams;
use crate::mesh::{MeshError, Options, gossip};

/// Streams that one connection may have at once.
const STREAMS_MAX: usize = 512;

/// The protocols of an admitted connection. The doorman and the limits come first: they speak before the others allocate.
#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
pub(super) struct Behaviour {
    pub(super) doorman: Doorman,
    pub(super) limits: connection_limits::Behaviour,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    /// The library speaks one address family per instance.
    pub(super) mdns_v6: Toggle<mdns::tokio::Behaviour>,
    pub(super) ping: ping::Behaviour,
    pub(super) streams: Streams,
    pub(super) gossip: gossipsub::Behaviour,
}

/// A swarm that listens nowhere yet.
pub(super) fn build_swarm(
    options: &Options,
    key: &NodeKey,
    shared: &Shared,
    sockets: &Sockets,
) -> Result<Swarm<Behaviour>, MeshError> {
    let setup = |what: &'static str| move |error: String| MeshError::Setup { what, error };
    let local = key.pair().public().to_peer_id();
    let timeout = Duration::from_millis(options.handshake_timeout_ms);
    let noise = noise::Config::new(key.pair()).map_err(|error| setup("noise")(error.to_string()))?;
    let mut muxer = yamux::Config::default();
    muxer.set_max_num_streams(STREAMS_MAX);
    let sockets = sockets.clone();
    let transport = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .map(move |socket, point| sockets.wrap(socket, &point))
        .upgrade(Version::V1)
        .authenticate(AdmittedNoise::new(noise, Arc::clone(&shared.gate), timeout))
        .multiplex(muxer)
        // From the first byte: silence before the handshake counts as well.
        .timeout(timeout)
        .boxed();
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(options.pending_max))
        .with_max_pending_outgoing(Some(options.pending_max))
        .with_max_established_incoming(Some(options.inbound_max))
        .with_max_established_outgoing(Some(options.outbound_max))
        .with_max_established(Some(options.connections_max))
        .with_max_established_per_peer(Some(options.per_peer_max));
    let mdns = |enable_ipv6: bool| {
        let config = mdns::Config {
            ttl: Duration::from_millis(options.mdns_ttl_ms),
            query_interval: Duration::from_millis(options.mdns_query_interval_ms),
            enable_ipv6,
        };
        let started = options.mdns.then(|| mdns::tokio::Behaviour::new(config, local)).transpose();
        started.map(Toggle::from).map_err(|error| setup("mDNS")(error.to_string()))
    };
    let ping = ping::Config::new()
        .with_interval(Duration::from_millis(options.ping_interval_ms))
        .with_timeout(Duration::from_millis(options.ping_timeout_ms));
    let behaviour = Behaviour {
        doorman: Doorman::new(options.pending_per_address_max),
        limits: connection_limits::Behaviour::new(limits),
        mdns: mdns(false)?,
        mdns_v6: mdns(true)?,
        ping: ping::Behaviour::new(ping),
        streams: Streams::new(local, shared.acceptors.clone()),
        gossip: gossip::behaviour(key.pair()).map_err(setup("gossipsub"))?,
    };
    let config = libp2p::swarm::Config::with_tokio_executor();
    Ok(Swarm::new(transport, behaviour, local, config))
}
