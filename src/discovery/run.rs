//! The thread: reads the sockets, the clock and the agent's wishes, and lets [`Core`] decide.
//!
//! Each turn reads what has arrived, up to a bound, before it looks at timers: after a pause the answers that came
//! meanwhile must count before anybody is suspected, and under a flood the timers must have their turn all the same.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use super::core::{Core, To};
use super::events::{BeaconContent, DiscoveryEvent, Snapshot};
use super::handle::{Command, port_error};
use super::interfaces::{self, Interface, Link};
use super::swim::MemberContact;
use super::tap::{TapRecord, decode_for_display};
use super::targets::Lookup;
use super::{DiscoveryError, Options, socket, v1};
use crate::clock;
use crate::keyring::Keyring;
use crate::tasks;

/// Datagrams that are read before timers have a turn.
const BATCH: usize = 256;
/// Interfaces are looked at this often.
const SCAN_MS: u64 = 1_000;
/// The snapshot is at most this old, and changes of members that the agent did not take are offered again after this.
const PUBLISH_MS: u64 = 500;
/// A name that takes longer to resolve counts as not resolved.
const LOOKUP: Duration = Duration::from_secs(5);
/// Lookups under way.
const LOOKUPS_MAX: usize = 64;
/// Records that a slow reader of [`listen`] may be behind.
const LISTEN_MAX: usize = 256;

/// What the agent sets.
pub(super) struct Inputs {
    pub(super) content: watch::Receiver<BeaconContent>,
    pub(super) members: watch::Receiver<Vec<MemberContact>>,
    pub(super) cached: watch::Receiver<Vec<SocketAddr>>,
    pub(super) keyring: watch::Receiver<Option<Keyring>>,
    pub(super) commands: mpsc::Receiver<Command>,
}

/// One socket per address family.
pub(super) struct Sockets {
    v4: UdpSocket,
    v6: Option<UdpSocket>,
    pub(super) port: u16,
}

impl Sockets {
    pub(super) fn open(options: &Options) -> Result<Self, DiscoveryError> {
        let v4 = socket::open(socket::any(false), options.port).map_err(|error| port_error(options.port, error))?;
        let port = v4.local_addr().map_err(|error| port_error(options.port, error))?.port();
        let v6 = match socket::open(socket::any(true), port) {
            Ok(socket) => Some(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(port_error(port, error)),
            Err(error) => {
                tracing::info!(%error, "no IPv6 on this machine");
                None
            }
        };
        Ok(Self { v4, v6, port })
    }

    async fn readable(&self) {
        let v6 = async {
            match &self.v6 {
                Some(socket) => socket.readable().await,
                None => std::future::pending().await,
            }
        };
        // An error shows again when reading.
        let _ = tokio::select! { result = self.v4.readable() => result, result = v6 => result };
    }

    fn read(&self, buffer: &mut [u8], mut take: impl FnMut(SocketAddr, &[u8])) {
        for socket in std::iter::once(&self.v4).chain(&self.v6) {
            for _ in 0..BATCH {
                match socket.try_recv_from(buffer) {
                    Ok((length, from)) => {
                        take(canonical(from), buffer.get(..length).unwrap_or_default());
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // Errors of earlier sends may surface here; the next datagram is not affected.
                    Err(error) => tracing::debug!(%error, "receiving"),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8], to: SocketAddr) {
        let socket = match (to, &self.v6) {
            (SocketAddr::V4(_), _) => &self.v4,
            (SocketAddr::V6(_), Some(v6)) => v6,
            (SocketAddr::V6(_), None) => return,
        };
        if let Err(error) = socket::send(socket, bytes, to) {
            tracing::debug!(%error, %to, "sending");
        }
    }
}

/// The sender as it is compared and answered: IPv4 as such, and of IPv6 only what tells one address from another. A link-local
/// address keeps its interface, without which it cannot be answered.
fn canonical(from: SocketAddr) -> SocketAddr {
    match from {
        SocketAddr::V6(from) if from.ip().is_unicast_link_local() => {
            SocketAddrV6::new(*from.ip(), from.port(), 0, from.scope_id()).into()
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => SocketAddr::new(from.ip().to_canonical(), from.port()),
    }
}

/// The thread's state beside [`Core`].
pub(super) struct Runner {
    options: Options,
    sockets: Sockets,
    core: Core,
    link: Link,
    events: mpsc::Sender<DiscoveryEvent>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    next_scan_ms: u64,
    next_publish_ms: u64,
    lookups_in: mpsc::Sender<(Lookup, Vec<SocketAddr>)>,
    lookups: mpsc::Receiver<(Lookup, Vec<SocketAddr>)>,
}

impl Runner {
    pub(super) fn new(
        options: Options,
        sockets: Sockets,
        mut core: Core,
        events: mpsc::Sender<DiscoveryEvent>,
        snapshot: watch::Sender<Arc<Snapshot>>,
    ) -> Self {
        core.set_targets(&options.join, &[]);
        let (lookups_in, lookups) = mpsc::channel(LOOKUPS_MAX);
        Self {
            options,
            sockets,
            core,
            link: Link::default(),
            events,
            snapshot,
            next_scan_ms: 0,
            next_publish_ms: 0,
            lookups_in,
            lookups,
        }
    }

    pub(super) async fn run(mut self, mut inputs: Inputs) {
        let mut buffer = vec![0u8; v1::DATAGRAM_MAX + 1];
        loop {
            let now_ms = clock::now_ms();
            let core = &mut self.core;
            self.sockets.read(&mut buffer, |from, bytes| core.receive(from, bytes, now_ms));
            self.scan(now_ms);
            self.core.tick(clock::now_ms());
            self.resolve();
            self.flush();
            self.publish(now_ms);
            let next_ms = self.core.next_ms().min(self.next_scan_ms).min(self.next_publish_ms);
            let pause = Duration::from_millis(next_ms.saturating_sub(clock::now_ms()));
            tokio::select! {
                () = self.sockets.readable() => {}
                () = tokio::time::sleep(pause) => {}
                Some((lookup, addresses)) = self.lookups.recv() => {
                    self.core.resolved(lookup, addresses, clock::now_ms());
                }
                changed = inputs.content.changed() => {
                    let content = inputs.content.borrow_and_update().clone();
                    if changed.is_err() { return }
                    self.core.set_content(content, clock::now_ms());
                }
                Ok(()) = inputs.members.changed() => {
                    let members = inputs.members.borrow_and_update().clone();
                    self.core.set_members(members, clock::now_ms());
                }
                Ok(()) = inputs.cached.changed() => {
                    let cached = inputs.cached.borrow_and_update().clone();
                    self.core.set_targets(&self.options.join, &cached);
                }
                Ok(()) = inputs.keyring.changed() => {
                    let keyring = inputs.keyring.borrow_and_update().clone();
                    self.core.set_keyring(keyring, clock::now_ms());
                }
                command = inputs.commands.recv() => match command {
                    Some(command) => self.command(command),
                    // The agent is gone.
                    None => return,
                },
            }
        }
    }

    fn command(&mut self, command: Command) {
        let now_ms = clock::now_ms();
        match command {
            Command::ProbeNow(peer) => self.core.probe_now(&peer, now_ms),
            Command::Leave(done) => {
                self.core.leave(now_ms);
                self.flush();
                let _ = done.send(());
            }
            Command::Advice { node_id, advice, done } => {
                let told = self.core.legacy_advice(&node_id, &advice, now_ms);
                self.flush();
                let _ = done.send(told);
            }
        }
    }

    fn scan(&mut self, now_ms: u64) {
        if now_ms < self.next_scan_ms {
            return;
        }
        self.next_scan_ms = now_ms + SCAN_MS;
        let mut found = match interfaces::scan(&self.options.interfaces, false) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "cannot list the network interfaces");
                return;
            }
        };
        // A node that only ever meets others on its own machine has nothing but loopback. For any other, loopback would be an address
        // at which nobody finds it, taken while the real one is still on its way.
        if found.is_empty() && self.core.joins_itself() {
            found = interfaces::scan(&self.options.interfaces, true).unwrap_or_default();
        }
        let linked = self.link.judge(&found, now_ms) || (self.core.has_join() && interfaces::has_address());
        self.core.set_linked(linked);
        let known = self.core.interfaces();
        if found == *known {
            return;
        }
        let new: Vec<Interface> = found.difference(known).cloned().collect();
        for interface in new {
            tracing::info!(interface = interface.name, address = %interface.address, "discovery uses an interface");
            if let (true, Some(group)) = (self.options.broadcast, self.options.multicast_group)
                && let Err(error) = socket::join(&self.sockets.v4, self.sockets.v6.as_ref(), group, &interface)
            {
                tracing::debug!(%error, interface = interface.name, "no multicast on this interface");
            }
        }
        self.core.set_interfaces(found, now_ms);
    }

    /// Starts due lookups. They run beside the loop; the resolver may block for seconds.
    fn resolve(&mut self) {
        for lookup in self.core.lookups(clock::now_ms()) {
            let answer = self.lookups_in.clone();
            tasks::spawn("resolve", async move {
                let resolving = tokio::net::lookup_host((lookup.host.as_str(), lookup.port));
                let found = match tokio::time::timeout(LOOKUP, resolving).await {
                    Ok(Ok(addresses)) => addresses.collect(),
                    Ok(Err(error)) => {
                        tracing::info!(%error, host = lookup.host, "cannot resolve a join address");
                        Vec::new()
                    }
                    Err(_) => Vec::new(),
                };
                let _ = answer.send((lookup, found)).await;
            });
        }
    }

    fn flush(&mut self) {
        for outgoing in self.core.take_outgoing() {
            match outgoing.to {
                To::Address(address) => self.sockets.send(&outgoing.bytes, address),
                To::Everybody => self.send_everywhere(&outgoing.bytes, true),
                To::LegacyEverybody => self.send_everywhere(&outgoing.bytes, false),
            }
        }
        let events = &self.events;
        self.core.report_members(|event| events.try_send(event).is_ok());
        #[expect(clippy::result_large_err, reason = "what does not fit is handed back whole; it is no error")]
        self.core.drain_events(|event| events.try_send(event).map_err(mpsc::error::TrySendError::into_inner));
    }

    fn send_everywhere(&self, bytes: &[u8], multicast: bool) {
        if !self.options.broadcast {
            return;
        }
        let port = self.sockets.port;
        let (mut called, mut called_v6) = (BTreeSet::new(), BTreeSet::new());
        for interface in self.core.interfaces() {
            if let Some(broadcast) = interface.broadcast.filter(|broadcast| called.insert(*broadcast)) {
                self.sockets.send(bytes, SocketAddr::from((broadcast, port)));
            }
            let Some(group) = self.options.multicast_group.filter(|_| multicast && !interface.address.is_loopback())
            else {
                continue;
            };
            let sent = match (interface.address, &self.sockets.v6) {
                (IpAddr::V4(address), _) => socket::send_multicast(&self.sockets.v4, bytes, address, group, port),
                // Once per interface, however many addresses it has.
                (IpAddr::V6(_), Some(v6)) if called_v6.insert(interface.index) => {
                    socket::send_multicast_v6(v6, bytes, interface.index, group, port)
                }
                (IpAddr::V6(_), _) => Ok(()),
            };
            if let Err(error) = sent {
                tracing::debug!(%error, interface = interface.name, "multicast");
            }
        }
    }

    fn publish(&mut self, now_ms: u64) {
        if now_ms >= self.next_publish_ms {
            self.next_publish_ms = now_ms + PUBLISH_MS;
            let snapshot = self.core.snapshot(now_ms);
            self.snapshot.send_if_modified(|current| {
                let differs = **current != snapshot;
                if differs {
                    *current = Arc::new(snapshot);
                }
                differs
            });
        }
    }
}

/// Listens without an agent: opens the port itself and shows what arrives until the receiver is dropped. Beside a running agent
/// use [`DiscoveryHandle::tap`](super::DiscoveryHandle::tap), because the port is not shared.
pub fn listen(options: Options, keyring: Option<Keyring>) -> Result<mpsc::Receiver<TapRecord>, DiscoveryError> {
    let (records, receiver) = mpsc::channel(LISTEN_MAX);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let failed = |source| DiscoveryError::Io { action: "start the thread hive-listen", source };
    tasks::spawn_thread("hive-listen", move || async move {
        let sockets = match Sockets::open(&options) {
            Ok(sockets) => sockets,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let _ = ready.send(Ok(()));
        for interface in interfaces::scan(&options.interfaces, false).unwrap_or_default() {
            if let Some(group) = options.multicast_group {
                let _ = socket::join(&sockets.v4, sockets.v6.as_ref(), group, &interface);
            }
        }
        let mut buffer = vec![0u8; v1::DATAGRAM_MAX + 1];
        while !records.is_closed() {
            tokio::select! {
                () = sockets.readable() => {}
                () = records.closed() => return,
            }
            sockets.read(&mut buffer, |from, bytes| {
                let record = decode_for_display(bytes, from, keyring.as_ref(), clock::unix_now());
                // A reader that is too slow misses some, as with any tap.
                let _ = records.try_send(record);
            });
        }
    })
    .map_err(failed)?;
    is_ready.recv().map_err(|_| failed(io::ErrorKind::BrokenPipe.into()))??;
    Ok(receiver)
}
