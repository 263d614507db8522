//! The network of a hive in one process: streams that are cut, delayed and broken, and nodes that freeze.
//!
//! A cut link swallows nothing and closes nothing: bytes wait, as TCP's would. A broken one ends its streams, with whatever was on the way.
//! A frozen node's thread stands still where it next touches a stream, its timers with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use crash_disk::Random;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hive::engine::id::PeerId;
use hive::transport::{ByteStream, Incoming, Transport};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, watch};

type Link = (PeerId, PeerId);

/// How the links are.
#[derive(Clone, Debug, Default)]
struct Links {
    cut: BTreeSet<Link>,
    /// Milliseconds that bytes are on the way at most.
    delay_ms: u64,
    dead: BTreeSet<PeerId>,
    /// Rises when all streams of a node are broken.
    broken: BTreeMap<PeerId, u64>,
}

/// What the network did, so that a run in which nothing happened is not taken for a good one.
#[derive(Debug, Default)]
pub(crate) struct Bites {
    /// Pieces that waited behind a cut.
    pub(crate) held: AtomicU64,
    /// Streams that were ended by force.
    pub(crate) broken: AtomicU64,
    /// Times that a thread stood still.
    pub(crate) frozen: AtomicU64,
    /// Snapshots that a leader began to send.
    pub(crate) snapshots: AtomicU64,
}

/// A door that a node's thread goes through with every touch of a stream.
#[derive(Debug, Default)]
struct Door {
    shut: Mutex<bool>,
    opened: Condvar,
}

#[derive(Default)]
pub(crate) struct Net {
    accepting: Mutex<BTreeMap<(PeerId, String), mpsc::Sender<Incoming>>>,
    links: watch::Sender<Links>,
    doors: Mutex<BTreeMap<PeerId, Arc<Door>>>,
    seed: AtomicU64,
    pub(crate) bites: Bites,
}

impl Net {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { seed: AtomicU64::new(seed), ..Self::default() })
    }

    /// Cuts exactly these links, each in one direction.
    pub(crate) fn cut(&self, links: impl IntoIterator<Item = Link>) {
        let links = links.into_iter().collect();
        self.links.send_modify(|now| now.cut = links);
    }

    pub(crate) fn delay(&self, most_ms: u64) {
        self.links.send_modify(|now| now.delay_ms = most_ms);
    }

    /// Ends all streams of a node; new ones may be opened at once.
    pub(crate) fn break_streams(&self, peer: &PeerId) {
        self.links.send_modify(|now| *now.broken.entry(peer.clone()).or_default() += 1);
    }

    pub(crate) fn set_dead(&self, peer: &PeerId, dead: bool) {
        self.links.send_modify(|now| {
            now.dead.remove(peer);
            now.dead.extend(dead.then(|| peer.clone()));
        });
        if dead {
            self.accepting.lock().expect("lock").retain(|(of, _), _| of != peer);
        }
    }

    fn door(&self, peer: &PeerId) -> Arc<Door> {
        Arc::clone(self.doors.lock().expect("lock").entry(peer.clone()).or_default())
    }

    /// The node stands still until it is woken.
    pub(crate) fn freeze(&self, peer: &PeerId) {
        *self.door(peer).shut.lock().expect("lock") = true;
    }

    pub(crate) fn wake(&self, peer: &PeerId) {
        let door = self.door(peer);
        *door.shut.lock().expect("lock") = false;
        door.opened.notify_all();
    }

    fn random(&self) -> Random {
        Random::new(self.seed.fetch_add(0x1000, Ordering::Relaxed))
    }
}

/// A stream as its owner holds it: while the owner is frozen, whoever touches it stands still.
struct Doored {
    stream: DuplexStream,
    door: Arc<Door>,
    net: Arc<Net>,
}

impl Doored {
    fn pass(&self) {
        let shut = self.door.shut.lock().expect("lock");
        if *shut {
            self.net.bites.frozen.fetch_add(1, Ordering::Relaxed);
            drop(self.door.opened.wait_while(shut, |shut| *shut).expect("lock"));
        }
    }
}

impl AsyncRead for Doored {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.pass();
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Doored {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.pass();
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The network as one node sees it.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) net: Arc<Net>,
    pub(crate) own: PeerId,
}

impl Place {
    fn hold(&self, of: &PeerId, stream: DuplexStream) -> ByteStream {
        Box::pin(Doored { stream, door: self.net.door(of), net: Arc::clone(&self.net) })
    }
}

/// Carries bytes both ways until either end is gone or the streams of either node are broken.
async fn carry(net: Arc<Net>, from: PeerId, to: PeerId, near: DuplexStream, far: DuplexStream) {
    let mut links = net.links.subscribe();
    let counted = |links: &Links| {
        let broken = |peer| links.broken.get(peer).copied().unwrap_or_default();
        broken(&from) + broken(&to)
    };
    let before = counted(&links.borrow());
    let (mut near_read, mut near_write) = tokio::io::split(near);
    let (mut far_read, mut far_write) = tokio::io::split(far);
    let there = one_way(&net, (&from, &to), &mut near_read, &mut far_write);
    let back = one_way(&net, (&to, &from), &mut far_read, &mut near_write);
    let ended =
        links.wait_for(|links| links.dead.contains(&from) || links.dead.contains(&to) || counted(links) != before);
    tokio::select! {
        _ = there => {}
        _ = back => {}
        _ = ended => drop(net.bites.broken.fetch_add(1, Ordering::Relaxed)),
    }
}

async fn one_way(
    net: &Net,
    link: (&PeerId, &PeerId),
    read: &mut (impl AsyncRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut links = net.links.subscribe();
    let mut random = net.random();
    let mut buffer = vec![0; 64 << 10];
    let link = (link.0.clone(), link.1.clone());
    loop {
        let count = read.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let delay_ms = random.below(links.borrow().delay_ms + 1);
        if delay_ms > 0 {
            let mut late = tokio::time::interval(Duration::from_millis(delay_ms));
            late.tick().await;
            late.tick().await;
        }
        if links.borrow().cut.contains(&link) {
            net.bites.held.fetch_add(1, Ordering::Relaxed);
        }
        drop(links.wait_for(|links| !links.cut.contains(&link)).await.map_err(io::Error::other)?);
        write.write_all(&buffer[..count]).await?;
        write.flush().await?;
    }
}

impl Transport for Place {
    fn open<'a>(&'a self, peer: &'a PeerId, protocol: &'a str) -> BoxFuture<'a, io::Result<ByteStream>> {
        async move {
            let mut links = self.net.links.subscribe();
            let link = (self.own.clone(), peer.clone());
            let open = links.wait_for(|links| !links.cut.contains(&link));
            match tokio::time::timeout(Duration::from_secs(1), open).await {
                Ok(Ok(links)) if links.dead.contains(peer) || links.dead.contains(&self.own) => {
                    return Err(io::ErrorKind::NotConnected.into());
                }
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
            let accepting = self.net.accepting.lock().expect("lock").get(&(peer.clone(), protocol.to_owned())).cloned();
            let accepting = accepting.ok_or(io::ErrorKind::Unsupported)?;
            let (near, near_relay) = tokio::io::duplex(256 << 10);
            let (far_relay, far) = tokio::io::duplex(256 << 10);
            let incoming = Incoming { peer: self.own.clone(), stream: self.hold(peer, far) };
            accepting.try_send(incoming).map_err(|_| io::ErrorKind::ConnectionRefused)?;
            if protocol.starts_with("/hive/snapshot/") {
                self.net.bites.snapshots.fetch_add(1, Ordering::Relaxed);
            }
            let carried = carry(Arc::clone(&self.net), self.own.clone(), peer.clone(), near_relay, far_relay);
            hive::tasks::spawn("stream", carried);
            Ok(self.hold(&self.own, near))
        }
        .boxed()
    }

    fn accept(&self, protocol: &str) -> io::Result<mpsc::Receiver<Incoming>> {
        let (tx, rx) = mpsc::channel(64);
        let mut accepting = self.net.accepting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        accepting.insert((self.own.clone(), protocol.to_owned()), tx);
        Ok(rx)
    }
}
