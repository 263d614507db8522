//! Streams between nodes, as the adapters that speak over them see them, and the framing they share.
//!
//! `mesh` implements [`Transport`] over libp2p; tests implement it in memory. A stream is opened to an admitted peer for one
//! named protocol. Frames are a 4-byte big-endian length and CBOR; the length is checked against the caller's cap before a
//! byte is buffered. Never done here: deciding whom to talk to, retries, reconnects.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::engine::id::PeerId;

pub(crate) mod calls;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
pub mod memory;

/// Largest frame of a Raft RPC, bytes.
pub const RAFT_FRAME_MAX: usize = 4 << 20;
/// Largest frame of a control RPC, bytes.
pub const CONTROL_FRAME_MAX: usize = 64 << 10;

/// A frame that was begun has to be complete in this time: the largest one over a line of half a megabit a second.
const FRAME_TIMEOUT: Duration = Duration::from_secs(60);

/// Both halves of a stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream to or from a peer.
pub type ByteStream = Pin<Box<dyn Duplex>>;

/// A stream that a peer opened.
pub struct Incoming {
    /// The admitted peer at the other end, proven by its key.
    pub peer: PeerId,
    /// The stream.
    pub stream: ByteStream,
}

/// Opens and accepts streams. Cheap to clone.
pub trait Transport: Clone + Send + Sync + 'static {
    /// Opens a stream to `peer`. Connects first when needed and an address is known. Fails with
    /// [`io::ErrorKind::NotConnected`] when the peer cannot be reached, `Unsupported` when it does not speak `protocol`,
    /// `TimedOut` after at most 5 s.
    fn open<'a>(&'a self, peer: &'a PeerId, protocol: &'a str) -> BoxFuture<'a, io::Result<ByteStream>>;

    /// Accepts streams of `protocol` from now until the receiver is dropped or `protocol` is accepted again: whoever serves it
    /// anew takes it over. At most 64 wait; more are refused.
    fn accept(&self, protocol: &str) -> io::Result<mpsc::Receiver<Incoming>>;
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Encodes `value` as CBOR.
pub fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(256);
    ciborium::into_writer(value, &mut bytes).map_err(|error| invalid(error.to_string()))?;
    Ok(bytes)
}

/// Decodes CBOR with at most 32 levels of nesting; bytes left over are an error.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let mut rest = bytes;
    let value =
        ciborium::de::from_reader_with_recursion_limit(&mut rest, 32).map_err(|error| invalid(error.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(invalid("bytes left over after the value")) }
}

/// Writes one frame and flushes. `InvalidData` when it would be longer than `max_bytes`.
pub async fn write_frame<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &T,
    max_bytes: usize,
) -> io::Result<()> {
    let bytes = encode(value)?;
    if bytes.len() > max_bytes {
        return Err(invalid(format!("frame of {} bytes, at most {max_bytes} allowed", bytes.len())));
    }
    let length = u32::try_from(bytes.len()).map_err(|_| invalid("frame too long"))?;
    // In one piece: the muxer makes a packet of every write, and half of all packets would be lengths.
    let mut frame = Vec::with_capacity(bytes.len() + 4);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&bytes);
    stream.write_all(&frame).await?;
    stream.flush().await?;
    Ok(())
}

/// Reads one frame. `UnexpectedEof` at the end of the stream, `InvalidData` for a frame that is too long or not what was expected,
/// `TimedOut` for one that was begun and does not end: its memory is taken when its length is known.
pub async fn read_frame<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin), max_bytes: usize) -> io::Result<T> {
    let mut length = [0u8; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > max_bytes {
        return Err(invalid(format!("frame of {length} bytes, at most {max_bytes} allowed")));
    }
    let mut bytes = vec![0u8; length];
    let stalled = |_| io::Error::new(io::ErrorKind::TimedOut, "a frame that was begun did not end");
    tokio::time::timeout(FRAME_TIMEOUT, stream.read_exact(&mut bytes)).await.map_err(stalled)??;
    decode(&bytes)
}

/// One request and one response on a stream of their own, within `timeout` in all.
pub async fn call<Request: Serialize + Sync, Response: DeserializeOwned>(
    transport: &impl Transport,
    peer: &PeerId,
    protocol: &str,
    request: &Request,
    timeout: Duration,
) -> io::Result<Response> {
    let exchange = async {
        let mut stream = transport.open(peer, protocol).await?;
        write_frame(&mut stream, request, CONTROL_FRAME_MAX).await?;
        read_frame(&mut stream, RAFT_FRAME_MAX).await
    };
    tokio::time::timeout(timeout, exchange)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {peer} within {timeout:?}")))?
}
