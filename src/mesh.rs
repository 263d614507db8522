//! Connections and streams between nodes: libp2p over TCP, Noise, our admission, Yamux.
//!
//! ```text
//!   agent ──► MeshHandle ──commands──► Node (thread "hive-mesh") ──events──► agent
//!                 │                      swarm: doorman · limits · mDNS · ping · streams · gossip
//!                 └── Transport: open(peer, protocol), accept(protocol) ──► consensus, blobs, agent
//! ```
//!
//! A connection exists only between nodes that proved a key of the keyring to each other; what they say about themselves
//! travels with the proof ([`Facts`]). At most two connections per peer, for a moment; streams use the one that both sides
//! prefer. libp2p is not visible outside this module. Never done here: deciding whom to talk to, who is a member, or
//! anything by gossip.

pub mod admission;
pub mod facts;
pub mod key;

mod addresses;
mod doorman;
mod events;
mod gossip;
mod handle;
mod node;
mod port;
mod refusals;
mod socket;
mod streams;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

pub use self::admission::{AdmissionClaim, Policy, RefuseReason, open_policy};
pub use self::events::Event;
pub use self::facts::{Allegiance, Facts, FactsError, Instance, LocalFacts};
pub use self::gossip::STATUS_MAX;
pub use self::handle::{MeshHandle, PeerView};
pub use self::key::{KeyError, NodeKey};
pub use self::refusals::Refusal;

use self::admission::gate::Gate;
use self::node::{Channels, Node, Shared};
use crate::engine::command::FEATURE_LEVEL;
use crate::keyring::Keyring;
use crate::ports::{self, Holder};
use crate::tasks;
use crate::wire::Wire;

/// Exchange of facts on a connection that exists; also how a second process of a peer is told from a restart.
const FACTS_PROTOCOL: &str = "/hive/facts/1";
/// Contentions that wait for the loop: at most one per unfinished connection.
const CONTENTIONS_LEN: usize = 64;
/// Reports of helpers that wait for the loop; helpers wait when it is full.
const NOTES_LEN: usize = 256;

/// Settings of the mesh.
#[derive(Clone, Debug)]
pub struct Options {
    /// TCP port; 0 lets the system choose one for all families.
    pub port: u16,
    /// Addresses to listen on. The unspecified IPv6 address is skipped where there is no IPv6.
    pub listen_ips: Vec<IpAddr>,
    /// Announce and look for nodes by mDNS (IPv4, all interfaces).
    pub mdns: bool,
    /// Interval of mDNS questions. One lost packet hides a node for as long; every question is answered by all.
    pub mdns_query_interval_ms: u64,
    /// How long an mDNS answer counts; three intervals and a little.
    pub mdns_ttl_ms: u64,
    /// Interval of pings on every connection.
    pub ping_interval_ms: u64,
    /// A connection whose ping takes longer is closed.
    pub ping_timeout_ms: u64,
    /// From the first byte of a connection until it is admitted.
    pub handshake_timeout_ms: u64,
    /// Most connections in all.
    pub connections_max: u32,
    /// Most connections that others dialed.
    pub inbound_max: u32,
    /// Most connections that this node dialed.
    pub outbound_max: u32,
    /// Most connections with one peer: two when both dial at once.
    pub per_peer_max: u32,
    /// Most connections whose handshake is not finished, per direction.
    pub pending_max: u32,
    /// Most unfinished inbound connections from one address. Half of all, so that one address never takes every place.
    pub pending_per_address_max: usize,
    /// Takes notes of what passes.
    pub wire: Wire,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 50_555,
            listen_ips: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            mdns: true,
            mdns_query_interval_ms: 30_000,
            mdns_ttl_ms: 95_000,
            ping_interval_ms: 15_000,
            ping_timeout_ms: 10_000,
            handshake_timeout_ms: 5_000,
            connections_max: 700,
            inbound_max: 512,
            outbound_max: 512,
            per_peer_max: 2,
            pending_max: 64,
            pending_per_address_max: 32,
            wire: Wire::default(),
        }
    }
}

/// Why there is no mesh.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The port belongs to somebody else.
    #[error("TCP port {port} is taken by {}; stop it, or choose another with --port", ports::named(holder.as_ref()))]
    PortTaken {
        /// The port.
        port: u16,
        /// The process, where it can be seen.
        holder: Option<Holder>,
    },
    /// Listening failed.
    #[error("cannot listen on {address} (TCP)")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// A part of libp2p refused its configuration.
    #[error("cannot set up {what}: {error}")]
    Setup {
        /// Which part.
        what: &'static str,
        /// Its reason.
        error: String,
    },
    /// What this node says about itself breaks a limit.
    #[error("cannot introduce this node to others")]
    Facts(#[from] FactsError),
    /// No thread.
    #[error("cannot start the mesh thread")]
    Thread(#[source] io::Error),
}

/// Who this node is when the mesh starts.
pub struct Introduction {
    /// Its key.
    pub key: NodeKey,
    /// Keys of the hive; the first signs.
    pub keyring: Keyring,
    /// Raised and on disk before this is called.
    pub incarnation: u64,
    /// What it says about itself at first.
    pub local: LocalFacts,
    /// Asked about every node that proved a key.
    pub policy: Policy,
}

/// Binds the port, starts the thread "hive-mesh", and returns when the mesh listens. It ends with `MeshHandle::shutdown`, or
/// when the last handle is dropped; then the events end as well.
pub async fn start(
    options: Options,
    introduction: Introduction,
) -> Result<(MeshHandle, mpsc::Receiver<Event>), MeshError> {
    let Introduction { key, keyring, incarnation, local, policy } = introduction;
    let facts = Facts {
        incarnation,
        instance: Instance::random(),
        revision: 1,
        allegiance: local.allegiance,
        name: local.name,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        feature_level: FEATURE_LEVEL,
        listen_port: options.port,
        member_count: local.member_count,
        founded_at: local.founded_at,
        extension: local.extension,
    };
    facts.validate()?;
    let (contentions_tx, contentions) = mpsc::channel(CONTENTIONS_LEN);
    let (commands_tx, commands) = mpsc::channel(handle::COMMANDS_LEN);
    let (events_tx, events) = mpsc::channel(events::CHANNEL_LEN);
    let local_peer = key.pair().public().to_peer_id();
    let shared = Shared {
        gate: Arc::new(Gate::new(local_peer, keyring, facts, policy, contentions_tx)),
        acceptors: streams::Acceptors::new(options.wire.clone()),
        refusals: refusals::Refusals::new(options.wire.clone()),
        wire: options.wire.clone(),
        listen: Arc::default(),
        changed: Arc::default(),
    };
    let handle = MeshHandle::new(commands_tx, shared.clone());
    let channels = Channels { commands, contentions, events: events_tx };
    let (ready_tx, ready) = oneshot::channel();
    let thread = tasks::spawn_thread("hive-mesh", move || async move {
        let (notes_tx, notes) = mpsc::channel(NOTES_LEN);
        let facts_streams = shared.acceptors.accept(FACTS_PROTOCOL);
        let started = async {
            let mut node = Node::new(&options, &key, &shared, notes_tx)?;
            node.listen().await?;
            let streams = facts_streams.map_err(MeshError::Thread)?;
            Ok::<_, MeshError>((node, streams))
        };
        match started.await {
            Ok((node, facts_streams)) => {
                if ready_tx.send(Ok(())).is_ok() {
                    node.run(channels, notes, facts_streams).await;
                }
            }
            Err(error) => {
                let _ = ready_tx.send(Err(error));
            }
        }
    });
    thread.map_err(MeshError::Thread)?;
    let ended = |_| MeshError::Thread(io::Error::other("it ended before the mesh listened"));
    ready.await.map_err(ended)??;
    Ok((handle, events))
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
