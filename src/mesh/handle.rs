//! The handle: what the rest of the node does with the mesh. Cheap to clone; usable from any runtime.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use libp2p::PeerId as NetId;
use libp2p::swarm::StreamProtocol;
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use super::facts::{Facts, FactsError, LocalFacts};
use super::gossip::STATUS_MAX;
use super::key::from_text;
use super::node::Shared;
use super::refusals::Refusal;
use super::streams::{self, OpenReply};
use crate::engine::id::PeerId;
use crate::keyring::Keyring;
use crate::transport::{ByteStream, Incoming, Transport};
use crate::wire;

/// Commands that wait for the loop; it takes thousands per millisecond, so this is a burst.
pub(crate) const COMMANDS_LEN: usize = 256;
/// Opening a stream, connecting included, takes at most this long.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// The loop answers within microseconds; one that does not is about to be ended by the watchdog.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// What handles ask of the loop.
pub(crate) enum Command {
    Open { peer: NetId, protocol: StreamProtocol, reply: OpenReply },
    AddAddresses { peer: NetId, addresses: Vec<SocketAddr> },
    DialPeer(NetId),
    DialAddress(SocketAddr),
    Disconnect(NetId),
    Peers(oneshot::Sender<Vec<PeerView>>),
    Publish(Vec<u8>),
    SetMembers(BTreeSet<NetId>),
    Shutdown(oneshot::Sender<()>),
}

/// A connected peer.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// Proven by its key.
    pub peer: PeerId,
    /// What it last said about itself.
    pub facts: Facts,
    /// The key of the ring that both proved.
    pub key_id: u32,
    /// The other end of the connection that is used.
    pub address: SocketAddr,
    /// We dialed it.
    pub outbound: bool,
    /// Monotonic time at which it was established (`clock::now_ms`).
    pub since_ms: u64,
    /// 1, or 2 for a moment after both sides dialed.
    pub connections: usize,
    /// All addresses that are remembered, best first.
    pub addresses: Vec<SocketAddr>,
    /// Bytes received over its connections, encryption included.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
}

/// See the module.
#[derive(Clone)]
pub struct MeshHandle {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the mesh has ended")
}

impl MeshHandle {
    pub(crate) fn new(commands: mpsc::Sender<Command>, shared: Shared) -> Self {
        Self { commands, shared: Arc::new(shared) }
    }

    /// The TCP port that the mesh listens on.
    pub fn listen_port(&self) -> u16 {
        self.shared.gate.own_facts().listen_port
    }

    /// What this node says about itself.
    pub fn own_facts(&self) -> Facts {
        self.shared.gate.own_facts()
    }

    /// Changes what this node says about itself. Later admissions say it at once, connected peers are told within
    /// milliseconds, and with another hive the status topic changes.
    pub fn set_local(&self, local: &LocalFacts) -> Result<(), FactsError> {
        local.validate()?;
        if self.shared.gate.set_local(local) {
            self.shared.changed.notify_one();
        }
        Ok(())
    }

    /// Takes over another keyring for later admissions. Connections that exist stay.
    pub fn set_keyring(&self, ring: Keyring) {
        self.shared.gate.set_ring(ring);
    }

    /// Refuses incarnations of `peer` below what the hive has committed, also before this node has met it.
    pub fn set_minimum_incarnation(&self, peer: &PeerId, incarnation: u64) {
        if let Some(peer) = from_text(peer) {
            self.shared.gate.set_floor(peer, incarnation);
        }
    }

    /// Facts of a connected peer.
    #[cfg(test)]
    pub(super) fn facts_of(&self, peer: &PeerId) -> Option<Facts> {
        self.shared.gate.connected_facts(from_text(peer)?)
    }

    /// Connections that were not admitted, the latest first.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.shared.refusals.all()
    }

    async fn send(&self, command: Command) {
        // A mesh that has ended takes no orders; the agent learns it from the closed event channel.
        let _ = self.commands.send(command).await;
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let asking = async {
            let (reply, answer) = oneshot::channel();
            self.send(make(reply)).await;
            answer.await.ok()
        };
        tokio::time::timeout(ASK_TIMEOUT, asking).await.ok().flatten()
    }

    /// Remembers addresses of a peer. They are hints; what worked before is tried first.
    pub async fn add_addresses(&self, peer: &PeerId, addresses: Vec<SocketAddr>) {
        if let Some(peer) = from_text(peer) {
            self.send(Command::AddAddresses { peer, addresses }).await;
        }
    }

    /// Connects to a peer at its remembered addresses. Does nothing while connected, dialing or backing off; the result is an
    /// event.
    pub async fn dial(&self, peer: &PeerId) {
        if let Some(peer) = from_text(peer) {
            self.send(Command::DialPeer(peer)).await;
        }
    }

    /// Connects to whoever answers at an address. Does nothing while connected, dialing or backing off; the result is an event.
    pub async fn dial_address(&self, address: SocketAddr) {
        self.send(Command::DialAddress(address)).await;
    }

    /// Ends all connections with a peer at once, also when its machine no longer answers.
    pub async fn disconnect(&self, peer: &PeerId) {
        if let Some(peer) = from_text(peer) {
            self.send(Command::Disconnect(peer)).await;
        }
    }

    /// Connected peers, by PeerId.
    pub async fn peers(&self) -> Vec<PeerView> {
        self.ask(Command::Peers).await.unwrap_or_default()
    }

    /// Names the members whose relayed statuses count although this node has not met them.
    pub async fn set_members(&self, members: &BTreeSet<PeerId>) {
        self.send(Command::SetMembers(members.iter().filter_map(from_text).collect())).await;
    }

    /// Publishes this node's status to its hive: at most 4 KiB, best effort, the latest wins. Without a hive it is dropped.
    pub async fn publish_status(&self, bytes: Vec<u8>) -> io::Result<()> {
        if bytes.len() > STATUS_MAX {
            let message = format!("status of {} bytes, at most {STATUS_MAX} allowed", bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.send(Command::Publish(bytes)).await;
        Ok(())
    }

    /// Closes all connections and ends the mesh thread; returns when it is done, within a second.
    pub async fn shutdown(&self) {
        let _ = self.ask(Command::Shutdown).await;
    }
}

impl Transport for MeshHandle {
    fn open<'a>(&'a self, peer: &'a PeerId, protocol: &'a str) -> BoxFuture<'a, io::Result<ByteStream>> {
        Box::pin(async move {
            let asked = peer;
            let no_peer = || io::Error::new(io::ErrorKind::InvalidInput, format!("{peer} is no PeerId"));
            let peer = from_text(peer).ok_or_else(no_peer)?;
            let protocol = streams::protocol(protocol)?;
            let name = protocol.clone();
            let opening = async {
                let (reply, opened) = oneshot::channel();
                self.commands.send(Command::Open { peer, protocol, reply }).await.map_err(|_| ended())?;
                // The connection ended before the stream was there.
                opened.await.map_err(|_| io::Error::from(io::ErrorKind::NotConnected))?
            };
            let stream = tokio::time::timeout(OPEN_TIMEOUT, opening)
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no stream to {peer} in time")))??;
            let stream: ByteStream = Box::pin(stream.compat());
            Ok(wire::tap(&self.shared.wire, stream, name.as_ref(), asked, true))
        })
    }

    fn accept(&self, protocol: &str) -> io::Result<mpsc::Receiver<Incoming>> {
        self.shared.acceptors.accept(protocol)
    }
}
