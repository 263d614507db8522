//! The agent's end of discovery.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::core::{Core, Fixed};
use super::events::{BeaconContent, DiscoveryEvent, Snapshot};
use super::run::{Inputs, Runner, Sockets};
use super::swim::MemberContact;
use super::tap::TapRecord;
use super::v1::{Advice, AdviceError};
use super::{DiscoveryError, Options, wire};
use crate::clock;
use crate::engine::id::PeerId;
use crate::keyring::Keyring;
use crate::ports;
use crate::tasks;

/// Events that may wait for the agent: two seconds of a hive of 100 that boots.
const EVENTS_MAX: usize = 1_024;
/// Commands that may wait for the thread; it takes them every few milliseconds.
const COMMANDS_MAX: usize = 256;
/// Datagrams that a slow listener may be behind.
const TAP_MAX: usize = 256;
/// A farewell is a handful of datagrams.
const FAREWELL: Duration = Duration::from_millis(500);

pub(super) enum Command {
    ProbeNow(PeerId),
    Leave(oneshot::Sender<()>),
    Advice { node_id: String, advice: Box<Advice>, done: oneshot::Sender<Result<(), AdviceError>> },
}

/// Advice that was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdviceRefused {
    /// It cannot be told in v1.
    #[error("the advice cannot be told to a v1 node")]
    Untellable(#[from] AdviceError),
    /// Discovery has stopped or is flooded.
    #[error("discovery does not take commands now")]
    Busy,
}

/// Tells discovery what to do. Cheap to clone. Discovery ends when the last one is dropped.
#[derive(Clone)]
pub struct DiscoveryHandle {
    content: watch::Sender<BeaconContent>,
    members: watch::Sender<Vec<MemberContact>>,
    cached: watch::Sender<Vec<SocketAddr>>,
    keyring: watch::Sender<Option<Keyring>>,
    commands: mpsc::Sender<Command>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    tap: broadcast::Sender<Arc<TapRecord>>,
    port: u16,
}

/// Starts discovery.
pub struct Discovery;

impl Discovery {
    /// Opens the sockets and starts the thread "hive-swim". `keyring` none: this node has no secret yet, so it only listens, and
    /// sees that others have one.
    pub fn start(
        options: Options,
        keyring: Option<Keyring>,
        content: BeaconContent,
    ) -> Result<(DiscoveryHandle, mpsc::Receiver<DiscoveryEvent>), DiscoveryError> {
        if wire::peer_bytes(&options.peer_id).is_none() {
            return Err(DiscoveryError::PeerId(options.peer_id));
        }
        let (events_in, events) = mpsc::channel(EVENTS_MAX);
        let (commands, commands_out) = mpsc::channel(COMMANDS_MAX);
        let (tap, _) = broadcast::channel(TAP_MAX);
        let (content, content_out) = watch::channel(content);
        let (members, members_out) = watch::channel(Vec::new());
        let (cached, cached_out) = watch::channel(Vec::new());
        let (keyring, keyring_out) = watch::channel(keyring);
        let (snapshot_in, snapshot) = watch::channel(Arc::new(Snapshot::default()));
        let inputs = Inputs {
            content: content_out,
            members: members_out,
            cached: cached_out,
            keyring: keyring_out,
            commands: commands_out,
        };
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread_tap = tap.clone();
        tasks::spawn_thread("hive-swim", move || async move {
            // The sockets belong to this thread's runtime, so they are opened here.
            let sockets = match Sockets::open(&options) {
                Ok(sockets) => sockets,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            let port = sockets.port;
            let fixed = Fixed {
                me: options.peer_id.clone(),
                incarnation: options.incarnation,
                port,
                legacy_mode: options.legacy,
                legacy_port: options.legacy_port,
                seed: rand::random(),
                wire: options.wire.clone(),
            };
            let keyring = inputs.keyring.borrow().clone();
            let content = inputs.content.borrow().clone();
            let core = Core::new(fixed, keyring, content, thread_tap, clock::now_ms());
            let _ = ready.send(Ok(port));
            Runner::new(options, sockets, core, events_in, snapshot_in).run(inputs).await;
        })
        .map_err(|source| DiscoveryError::Io { action: "start the thread hive-swim", source })?;
        // Binding takes microseconds; a thread that died before it could answer is an error, too.
        let port = is_ready.recv().map_err(|_| DiscoveryError::Io {
            action: "start the thread hive-swim",
            source: std::io::ErrorKind::BrokenPipe.into(),
        })??;
        let handle = DiscoveryHandle { content, members, cached, keyring, commands, snapshot, tap, port };
        Ok((handle, events))
    }
}

impl DiscoveryHandle {
    /// The UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Replaces what the beacon says. Nothing happens when nothing changes.
    pub fn set_content(&self, content: BeaconContent) {
        self.content.send_if_modified(|current| {
            let differs = *current != content;
            if differs {
                *current = content;
            }
            differs
        });
    }

    /// Says who the members are (this node may be among them). Only they are probed, and only their liveness traffic is taken.
    pub fn set_members(&self, members: Vec<MemberContact>) {
        self.members.send_if_modified(|current| {
            let differs = *current != members;
            if differs {
                *current = members;
            }
            differs
        });
    }

    /// Addresses of peers of last time, called by unicast beside `join`; at most 256.
    pub fn set_cached_peers(&self, addresses: Vec<SocketAddr>) {
        let _ = self.cached.send(addresses);
    }

    /// Replaces the keys, when a secret was generated or rotated.
    pub fn set_keyring(&self, keyring: Option<Keyring>) {
        let _ = self.keyring.send(keyring);
    }

    /// Asks a member right now, because a connection to it broke. Without an answer within 500 ms it is suspected.
    pub fn probe_now(&self, peer: &PeerId) {
        if self.commands.try_send(Command::ProbeNow(peer.clone())).is_err() {
            tracing::debug!(peer = peer.short(), "too much to do for a probe out of turn");
        }
    }

    /// Says farewell to the hive, and returns when it is sent. Afterwards this node neither calls nor answers.
    pub async fn leave(&self) {
        let (done, is_done) = oneshot::channel();
        if self.commands.send(Command::Leave(done)).await.is_ok() {
            let _ = tokio::time::timeout(FAREWELL, is_done).await;
        }
    }

    /// Answers a [`DiscoveryEvent::LegacyAsksAdvice`]. Ok also when the v1 node no longer waits.
    pub async fn legacy_advice(&self, node_id: &str, advice: Advice) -> Result<(), AdviceRefused> {
        let (done, is_done) = oneshot::channel();
        let command = Command::Advice { node_id: node_id.to_owned(), advice: Box::new(advice), done };
        self.commands.try_send(command).map_err(|_| AdviceRefused::Busy)?;
        is_done.await.map_err(|_| AdviceRefused::Busy)?.map_err(AdviceRefused::from)
    }

    /// Refusals, interfaces, legacy peers, clock offsets and so on, at most half a second old.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// All datagrams from now on, for `hive listen`. A listener that is too slow misses some and is told how many. Records are
    /// only made while somebody listens.
    pub fn tap(&self) -> broadcast::Receiver<Arc<TapRecord>> {
        self.tap.subscribe()
    }
}

/// Names the process that has the port.
pub(super) fn port_error(port: u16, error: std::io::Error) -> DiscoveryError {
    if error.kind() == std::io::ErrorKind::AddrInUse {
        DiscoveryError::PortTaken { port, holder: ports::holder(ports::Protocol::Udp, port) }
    } else {
        DiscoveryError::Io { action: "open the UDP socket", source: error }
    }
}
