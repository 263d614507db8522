//! Remote calls over one persistent stream per peer and protocol.
//!
//! Opening a stream costs a round trip and several threads' time; what is asked often is asked over one that stays. A call has an id, so many
//! may be under way at once and none waits for another. When calls time out in a row the stream is
//! dropped and opened anew: a peer that vanished without a word leaves a stream that looks alive. Never done here: retries.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::WriteHalf;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::{ByteStream, Incoming, RAFT_FRAME_MAX, Transport, decode, encode, read_frame, write_frame};
use crate::engine::id::PeerId;
use crate::tasks;

/// Calls to one peer that may wait to be written.
const CALLS_MAX: usize = 256;
/// Calls of one peer that are worked on at once.
const SERVED_MAX: usize = 64;
/// Least bytes of calls of one peer that may be worked on at once.
const SERVED_BYTES_MIN: usize = 1 << 20;
/// Calls in a row without an answer after which the stream is given up.
const TIMEOUTS_MAX: u32 = 3;
/// A connection that does not take a frame in this time is dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a stream: elections must not wait for the transport's own, longer patience.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

trait Erased: Send + Sync {
    fn open<'a>(&'a self, peer: &'a PeerId, protocol: &'a str) -> BoxFuture<'a, io::Result<ByteStream>>;
    fn accept(&self, protocol: &str) -> io::Result<mpsc::Receiver<Incoming>>;
}

impl<T: Transport> Erased for T {
    fn open<'a>(&'a self, peer: &'a PeerId, protocol: &'a str) -> BoxFuture<'a, io::Result<ByteStream>> {
        Transport::open(self, peer, protocol)
    }

    fn accept(&self, protocol: &str) -> io::Result<mpsc::Receiver<Incoming>> {
        Transport::accept(self, protocol)
    }
}

/// Any transport. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Link(Arc<dyn Erased>);

impl Link {
    pub(crate) fn new(transport: impl Transport) -> Self {
        Self(Arc::new(transport))
    }

    pub(crate) async fn open(&self, peer: &PeerId, protocol: &str) -> io::Result<ByteStream> {
        self.0.open(peer, protocol).await
    }

    pub(crate) fn accept(&self, protocol: &str) -> io::Result<mpsc::Receiver<Incoming>> {
        self.0.accept(protocol)
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Frame {
    pub(super) id: u64,
    #[serde(with = "serde_bytes")]
    pub(super) body: Vec<u8>,
}

type Pending = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Vec<u8>>>>>;

struct Call {
    body: Vec<u8>,
    reply: oneshot::Sender<Vec<u8>>,
}

/// Calls one peer over one stream that is opened when needed. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Caller {
    tx: mpsc::Sender<Call>,
    timeouts: Arc<AtomicU32>,
    reset: Arc<Notify>,
}

fn unconnected(peer: &PeerId) -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, format!("{peer} cannot be reached"))
}

impl Caller {
    pub(crate) fn start(link: Link, peer: PeerId, protocol: String) -> Self {
        let (tx, rx) = mpsc::channel(CALLS_MAX);
        let reset = Arc::new(Notify::new());
        tasks::spawn("caller", call_loop(link, peer, protocol, rx, Arc::clone(&reset)));
        Self { tx, timeouts: Arc::default(), reset }
    }

    /// Sends `body` and waits for the answer. `NotConnected` when it was certainly or probably not delivered.
    pub(crate) async fn call(&self, peer: &PeerId, body: Vec<u8>, timeout: Duration) -> io::Result<Vec<u8>> {
        let mut unanswered = Unanswered(Some(self));
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.tx.send(Call { body, reply }).await.map_err(|_| unconnected(peer))?;
            answer.await.map_err(|_| unconnected(peer))
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(answer) => {
                unanswered.0 = None;
                self.timeouts.store(0, Ordering::Relaxed);
                answer
            }
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {peer} in time"))),
        }
    }
}

/// Counts a call that got no answer, also one whose caller lost patience and dropped it; several in a row close the stream.
struct Unanswered<'a>(Option<&'a Caller>);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let Some(caller) = self.0 else { return };
        if caller.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_MAX {
            caller.timeouts.store(0, Ordering::Relaxed);
            caller.reset.notify_one();
        }
    }
}

async fn call_loop(link: Link, peer: PeerId, protocol: String, mut rx: mpsc::Receiver<Call>, reset: Arc<Notify>) {
    while let Some(first) = rx.recv().await {
        let opened = tokio::time::timeout(OPEN_TIMEOUT, link.open(&peer, &protocol)).await;
        match opened {
            Ok(Ok(stream)) => call_over(stream, first, &mut rx, &reset).await,
            // Dropping a call tells its caller; those that queued up meanwhile would meet the same.
            Ok(Err(error)) => {
                tracing::debug!(peer = %peer, %error, protocol, "no stream");
                while rx.try_recv().is_ok() {}
            }
            Err(_) => while rx.try_recv().is_ok() {},
        }
    }
}

async fn call_over(stream: ByteStream, first: Call, rx: &mut mpsc::Receiver<Call>, reset: &Notify) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let pending: Pending = Arc::default();
    let answers = Arc::clone(&pending);
    let mut reading = tasks::spawn("answers", async move {
        while let Ok(Frame { id, body }) = read_frame::<Frame>(&mut reader, RAFT_FRAME_MAX).await {
            let waiting = answers.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            if let Some(reply) = waiting {
                let _ = reply.send(body);
            }
        }
    });
    let mut next = Some(first);
    let mut id = 0;
    loop {
        let call = match next.take() {
            Some(call) => call,
            None => tokio::select! {
                call = rx.recv() => match call {
                    Some(call) => call,
                    None => break,
                },
                _ = &mut reading => break,
                () = reset.notified() => break,
            },
        };
        id += 1;
        {
            let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.retain(|_, reply| !reply.is_closed());
            pending.insert(id, call.reply);
        }
        let frame = Frame { id, body: call.body };
        match tokio::time::timeout(WRITE_TIMEOUT, write_frame(&mut writer, &frame, RAFT_FRAME_MAX)).await {
            Ok(Ok(())) => {}
            _ => break,
        }
    }
    reading.abort();
    pending.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// The streams that each peer has open, of which there may be so many: the oldest end, as a peer that opens another has given up those.
pub(crate) struct Newest {
    per_peer_max: usize,
    open: BTreeMap<PeerId, VecDeque<AbortHandle>>,
}

impl Newest {
    pub(crate) fn new(per_peer_max: usize) -> Self {
        Self { per_peer_max, open: BTreeMap::new() }
    }

    /// Notes the task that serves another stream of `peer`.
    pub(crate) fn add(&mut self, peer: PeerId, task: AbortHandle) {
        self.open.retain(|_, tasks| {
            tasks.retain(|task| !task.is_finished());
            !tasks.is_empty()
        });
        let tasks = self.open.entry(peer).or_default();
        tasks.push_back(task);
        if tasks.len() > self.per_peer_max
            && let Some(oldest) = tasks.pop_front()
        {
            oldest.abort();
        }
    }
}

/// Answers the calls that arrive on a stream until it ends. A call has at most `max_bytes`, and all that are worked on together
/// twice as many, or [`SERVED_BYTES_MIN`]: whoever sends more waits.
pub(crate) async fn serve<H, F>(incoming: Incoming, max_bytes: usize, handler: H)
where
    H: Fn(PeerId, Vec<u8>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Vec<u8>> + Send + 'static,
{
    let (mut reader, writer) = tokio::io::split(incoming.stream);
    let (tx, rx) = mpsc::channel::<Frame>(SERVED_MAX);
    let writing = tasks::spawn("replies", write_replies(writer, rx));
    let slots = Arc::new(Semaphore::new(SERVED_MAX));
    let bytes_max = (max_bytes * 2).max(SERVED_BYTES_MIN);
    let bytes = Arc::new(Semaphore::new(bytes_max));
    while let Ok(Frame { id, body }) = read_frame::<Frame>(&mut reader, max_bytes).await {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { break };
        let weight = u32::try_from(body.len().min(bytes_max)).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&bytes).acquire_many_owned(weight).await else { break };
        let (tx, handler, peer) = (tx.clone(), handler.clone(), incoming.peer.clone());
        tasks::spawn("call", async move {
            let body = handler(peer, body).await;
            let _ = tx.send(Frame { id, body }).await;
            drop((slot, room));
        });
        if writing.is_finished() {
            break;
        }
    }
    drop(tx);
}

async fn write_replies(mut writer: WriteHalf<ByteStream>, mut rx: mpsc::Receiver<Frame>) {
    while let Some(frame) = rx.recv().await {
        let written = tokio::time::timeout(WRITE_TIMEOUT, write_frame(&mut writer, &frame, RAFT_FRAME_MAX)).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

/// Callers by peer, for one protocol; made when first asked for.
#[derive(Clone)]
pub(crate) struct Callers {
    link: Link,
    protocol: String,
    known: Arc<Mutex<BTreeMap<PeerId, Caller>>>,
}

impl Callers {
    pub(crate) fn new(link: Link, protocol: String) -> Self {
        Self { link, protocol, known: Arc::default() }
    }

    /// One request and its response, encoded. Errors as [`Caller::call`], and `InvalidData` for what cannot be read.
    pub(crate) async fn ask<Request: Serialize, Response: DeserializeOwned>(
        &self,
        peer: &PeerId,
        request: &Request,
        timeout: Duration,
    ) -> io::Result<Response> {
        decode(&self.to(peer).call(peer, encode(request)?, timeout).await?)
    }

    /// The caller of this peer.
    pub(crate) fn to(&self, peer: &PeerId) -> Caller {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, caller| !caller.tx.is_closed());
        known
            .entry(peer.clone())
            .or_insert_with(|| Caller::start(self.link.clone(), peer.clone(), self.protocol.clone()))
            .clone()
    }
}
