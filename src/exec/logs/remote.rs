//! Protocol `/hive/buildlog/1`: a log of one node, read and followed on another.
//!
//! One request per stream, then frames until the end. Never done here: storing what was read.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;

use super::LogStore;
use crate::engine::id::{JobId, PeerId};
use crate::tasks;
use crate::transport::{self, ByteStream, CONTROL_FRAME_MAX, Transport};

/// The protocol's name.
pub const PROTOCOL: &str = "/hive/buildlog/1";
/// Most followers served at once.
const FOLLOWERS_MAX: usize = 64;
/// A peer that opened a stream says what it wants within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// While nothing is printed, a sign of life goes out so often; a reader that hears nothing for three times that gives up.
const ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A reader that takes nothing for this long is gone, or holds a place that others wait for.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a peer asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The job.
    pub job: JobId,
    /// Number of the attempt.
    pub attempt: u32,
    /// From here on.
    pub offset: u64,
    /// Wait for more until the log has ended; else stop at what is there.
    pub follow: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Frame {
    Chunk(#[serde(with = "serde_bytes")] Vec<u8>),
    Alive,
    End,
    NotFound,
    Busy,
}

/// Serves this node's logs until the transport ends.
pub fn serve<T: Transport>(transport: &T, store: LogStore) -> io::Result<tokio::task::JoinHandle<()>> {
    let mut incoming = transport.accept(PROTOCOL)?;
    let slots = Arc::new(Semaphore::new(FOLLOWERS_MAX));
    Ok(tasks::spawn("buildlog", async move {
        while let Some(stream) = incoming.recv().await {
            let (store, slots, peer) = (store.clone(), slots.clone(), stream.peer);
            tasks::spawn("buildlog-stream", async move {
                if let Err(error) = answer(stream.stream, &store, &slots, WRITE_TIMEOUT).await {
                    tracing::debug!(%peer, %error, "log stream ended");
                }
            });
        }
    }))
}

async fn answer(mut stream: ByteStream, store: &LogStore, slots: &Semaphore, patience: Duration) -> io::Result<()> {
    let request = transport::read_frame::<Request>(&mut stream, CONTROL_FRAME_MAX);
    let request = tokio::time::timeout(REQUEST_TIMEOUT, request)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no request"))??;
    let Ok(_slot) = slots.try_acquire() else {
        return last(&mut stream, &Frame::Busy, patience).await;
    };
    let Some(mut reader) = store.reader(request.job, request.attempt, request.offset)? else {
        return last(&mut stream, &Frame::NotFound, patience).await;
    };
    // Whoever asks knows at once that the log is here, however long its next line is in coming.
    send(&mut stream, &Frame::Alive, patience).await?;
    loop {
        let next = async {
            if request.follow {
                reader.next().await
            } else {
                reader.available().await.map(|bytes| (!bytes.is_empty()).then_some(bytes))
            }
        };
        // Reading is not cancelled halfway: the wait for more is, and that loses nothing, but a read in flight would.
        tokio::pin!(next);
        let bytes = loop {
            tokio::select! {
                result = &mut next => break result?,
                () = tokio::time::sleep(ALIVE_INTERVAL) => {
                    send(&mut stream, &Frame::Alive, patience).await?;
                }
            }
        };
        match bytes {
            Some(bytes) => send(&mut stream, &Frame::Chunk(bytes.to_vec()), patience).await?,
            None => return last(&mut stream, &Frame::End, patience).await,
        }
    }
}

async fn send(stream: &mut ByteStream, frame: &Frame, patience: Duration) -> io::Result<()> {
    let sent = tokio::time::timeout(patience, transport::write_frame(stream, frame, CONTROL_FRAME_MAX));
    sent.await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the reader takes nothing"))?
}

async fn last(stream: &mut ByteStream, frame: &Frame, patience: Duration) -> io::Result<()> {
    send(stream, frame, patience).await?;
    stream.shutdown().await
}

/// A log that is read from another node.
pub struct RemoteLog {
    stream: ByteStream,
    offset: u64,
    /// What [`RemoteLog::begin`] has read.
    ahead: Option<Frame>,
}

impl RemoteLog {
    /// Asks `peer` for a log.
    pub async fn open<T: Transport>(transport: &T, peer: &PeerId, request: &Request) -> io::Result<Self> {
        let mut stream = transport.open(peer, PROTOCOL).await?;
        transport::write_frame(&mut stream, request, CONTROL_FRAME_MAX).await?;
        Ok(Self { stream, offset: request.offset, ahead: None })
    }

    /// Waits until the peer has said that the log is there. Errors as [`RemoteLog::next`].
    pub async fn begin(&mut self) -> io::Result<()> {
        if self.ahead.is_none() {
            self.ahead = Some(self.frame().await?);
        }
        Ok(())
    }

    async fn frame(&mut self) -> io::Result<Frame> {
        let frame = transport::read_frame::<Frame>(&mut self.stream, CONTROL_FRAME_MAX);
        let frame = tokio::time::timeout(3 * ALIVE_INTERVAL, frame)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the node that has the log went silent"))??;
        match frame {
            Frame::NotFound => Err(io::Error::new(io::ErrorKind::NotFound, "the node has no such log")),
            Frame::Busy => Err(io::Error::new(io::ErrorKind::ResourceBusy, "the node serves too many logs")),
            Frame::Chunk(_) | Frame::Alive | Frame::End => Ok(frame),
        }
    }

    /// Offset of the next byte: where to go on with another node or after a broken connection.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes; none at the end. `NotFound` when the peer has no such log, `ResourceBusy` when it serves too many,
    /// `TimedOut` when it went silent. Not to be cancelled halfway.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let frame = match self.ahead.take() {
                Some(frame) => frame,
                None => self.frame().await?,
            };
            match frame {
                Frame::Chunk(bytes) => {
                    self.offset += bytes.len() as u64;
                    return Ok(Some(Bytes::from(bytes)));
                }
                Frame::End => return Ok(None),
                Frame::Alive | Frame::NotFound | Frame::Busy => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::store;
    use super::*;
    use crate::transport::memory::Network;

    #[tokio::test]
    async fn a_log_is_followed_on_another_node_from_any_offset() {
        let (_directory, store) = store(1 << 20);
        let network = Network::default();
        serve(&network.node("far"), store.clone()).expect("serves");
        let job = JobId(uuid::Uuid::from_u128(7));
        let mut writer = store.create(job, 3, 1 << 20).expect("creates");
        writer.write(b"before").expect("writes");
        let (near, far) = (network.node("near"), PeerId::new("far"));
        let request = Request { job, attempt: 3, offset: 2, follow: true };
        let mut log = RemoteLog::open(&near, &far, &request).await.expect("opens");
        assert_eq!(log.next().await.expect("reads").as_deref(), Some(&b"fore"[..]));
        writer.write(b" and after").expect("writes");
        assert_eq!(log.next().await.expect("reads").as_deref(), Some(&b" and after"[..]));
        let now = Request { follow: false, ..request.clone() };
        let mut glance = RemoteLog::open(&near, &far, &now).await.expect("opens");
        assert_eq!(glance.next().await.expect("reads").as_deref(), Some(&b"fore and after"[..]));
        assert_eq!(glance.next().await.expect("stops"), None);
        writer.finish().expect("finishes");
        assert_eq!(log.next().await.expect("ends"), None);
        assert_eq!(log.offset(), 16);
        let absent = Request { attempt: 4, ..request };
        let mut absent = RemoteLog::open(&near, &far, &absent).await.expect("opens");
        assert_eq!(absent.next().await.expect_err("absent").kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_reader_that_stops_reading_loses_its_place() {
        let (_directory, store) = store(1 << 20);
        let job = JobId(uuid::Uuid::from_u128(7));
        let mut writer = store.create(job, 1, 1 << 20).expect("creates");
        writer.write(&[b'x'; 100_000]).expect("writes");
        let (mut near, far) = tokio::io::duplex(1_024);
        let request = Request { job, attempt: 1, offset: 0, follow: true };
        transport::write_frame(&mut near, &request, CONTROL_FRAME_MAX).await.expect("asks");
        let slots = Semaphore::new(1);
        let error = answer(Box::pin(far), &store, &slots, Duration::from_millis(100)).await.expect_err("gives up");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(slots.available_permits(), 1);
    }
}
