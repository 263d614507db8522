//! Finding each other and knowing who is alive: UDP datagrams on one port (50555).
//!
//! ```text
//!   agent ── DiscoveryHandle ──► thread "hive-swim" ──► broadcast, multicast, unicast
//!     ▲                             │   core: rules without IO
//!     └────── DiscoveryEvent ───────┘   wire, v1: bytes     swim: liveness     socket, interfaces: the system
//! ```
//!
//! One thread of its own owns the sockets, so that builds and HTTP cannot delay an answer. It never waits for the agent:
//! what the agent sets is a last value, what the agent gets is a bounded queue. A datagram is a hint to dial and nothing
//! more; membership comes from admitted connections and the replicated log. Never done here: deciding to found or to join,
//! and connections.

mod core;
mod events;
mod handle;
pub mod interfaces;
mod run;
mod socket;
pub mod swim;
pub mod tap;
mod targets;
pub mod v1;
pub mod wire;

use std::io;
use std::net::Ipv4Addr;

pub use self::events::{
    BeaconContent, BroadcastHearer, DiscoveryEvent, Heard, LegacyMode, LegacyPeerView, RefusalView, Snapshot,
};
pub use self::handle::{AdviceRefused, Discovery, DiscoveryHandle};
pub use self::run::listen;
pub use self::swim::MemberContact;
pub use self::tap::{TapRecord, decode_for_display};
pub use self::wire::{Cast, Hello, HiveEpoch, Welcome};
use crate::engine::id::PeerId;
use crate::ports::{self, Holder};
use crate::wire::Wire;

/// The port of discovery and liveness.
pub const PORT: u16 = 50_555;
/// The multicast group; over IPv6 `ff02::efff:1`.
pub const MULTICAST_GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 0, 1);

/// Settings of discovery.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node.
    pub peer_id: PeerId,
    /// Raised and made durable before each start.
    pub incarnation: u64,
    /// UDP port, the same on all nodes that are to hear each other's broadcasts. 0 takes any (tests).
    pub port: u16,
    /// Whether to call by broadcast and multicast at all. Without it only unicast targets are called.
    pub broadcast: bool,
    /// Multicast group; none: broadcast only. Over IPv6 it is `ff02::` with this group in its last 32 bits.
    pub multicast_group: Option<Ipv4Addr>,
    /// Which interfaces to use.
    pub interfaces: interfaces::Filter,
    /// `join`: hosts, by name or address, and their ports; called by unicast.
    pub join: Vec<(String, u16)>,
    /// Wire v1.
    pub legacy: LegacyMode,
    /// Where v1 nodes listen for answers.
    pub legacy_port: u16,
    /// Takes notes of every datagram.
    pub wire: Wire,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            peer_id: PeerId::new(""),
            incarnation: 1,
            port: PORT,
            broadcast: true,
            multicast_group: Some(MULTICAST_GROUP),
            interfaces: interfaces::Filter::default(),
            join: Vec::new(),
            legacy: LegacyMode::Answer,
            legacy_port: v1::PORT,
            wire: Wire::default(),
        }
    }
}

/// Why discovery could not start.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// Somebody else has the port.
    #[error("UDP port {port} is taken by {}; stop it, or choose another with --port", ports::named(holder.as_ref()))]
    PortTaken {
        /// The port.
        port: u16,
        /// Who has it, when this process may see that.
        holder: Option<Holder>,
    },
    /// The peer id is not a multihash, so no datagram could name it.
    #[error("bug: {0} is not a peer id")]
    PeerId(PeerId),
    /// The system refused something.
    #[error("cannot {action}")]
    Io {
        /// What.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
}
