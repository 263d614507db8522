//! Protocol `/hive/blob/1`: who has which blob, and its bytes from any offset.
//!
//! One request per stream. `Have` is answered with lengths; `Get` with a header frame and then the bare bytes. A blob is
//! verified before its first byte leaves. The number of streams served at once is bounded; more are told so at once, and try
//! another source. Never done here: storing anything.

use std::io::{self, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

use super::store::{BlobError, BlobStore};
use crate::engine::id::Sha256Hash;
use crate::tasks;
use crate::transport::{self, ByteStream, CONTROL_FRAME_MAX, Transport};

/// The protocol's name.
pub const PROTOCOL: &str = "/hive/blob/1";
/// Most digests in one `Have`.
pub const HAVE_MAX: usize = 64;
/// A peer that opened a stream says what it wants within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes handed to the stream at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// What a peer asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Request {
    /// Which of these are there?
    Have {
        /// At most [`HAVE_MAX`].
        hashes: Vec<Sha256Hash>,
    },
    /// The bytes of a blob.
    Get {
        /// Which.
        hash: Sha256Hash,
        /// From here on.
        offset: u64,
        /// At most so many; all that follow when absent.
        length: Option<u64>,
    },
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Length of each blob in the order asked; none for what is not there.
    Have {
        /// Lengths in bytes.
        sizes: Vec<Option<u64>>,
    },
    /// `length` bytes follow on the stream.
    Bytes {
        /// Length of the whole blob.
        size: u64,
        /// Bytes that follow.
        length: u64,
    },
    /// Not here (any more).
    NotFound,
    /// Enough is being served; ask another or later.
    Busy,
    /// The request makes no sense.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Serves blobs to other nodes until the transport ends. Returns after the protocol is registered.
pub fn serve<T: Transport>(transport: &T, store: BlobStore) -> io::Result<tokio::task::JoinHandle<()>> {
    let mut incoming = transport.accept(PROTOCOL)?;
    let slots = Arc::new(Semaphore::new(store.options().serve_max.max(1)));
    Ok(tasks::spawn("blobs", async move {
        while let Some(stream) = incoming.recv().await {
            let (store, slots, peer) = (store.clone(), slots.clone(), stream.peer);
            tasks::spawn("blob-stream", async move {
                if let Err(error) = answer(stream.stream, &store, &slots).await {
                    tracing::debug!(%peer, %error, "blob stream ended");
                }
            });
        }
    }))
}

async fn answer(mut stream: ByteStream, store: &BlobStore, slots: &Semaphore) -> io::Result<()> {
    let request = transport::read_frame::<Request>(&mut stream, CONTROL_FRAME_MAX);
    let request = tokio::time::timeout(REQUEST_TIMEOUT, request)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no request"))??;
    let response = match request {
        Request::Have { hashes } if hashes.len() > HAVE_MAX => {
            Response::Refused { reason: format!("at most {HAVE_MAX} digests at once") }
        }
        Request::Have { hashes } => Response::Have { sizes: hashes.iter().map(|&hash| store.size(hash)).collect() },
        Request::Get { hash, offset, length } => match slots.try_acquire() {
            Ok(_slot) => return send(stream, store, hash, offset, length).await,
            Err(_) => Response::Busy,
        },
    };
    finish(&mut stream, &response).await
}

async fn finish(stream: &mut ByteStream, response: &Response) -> io::Result<()> {
    transport::write_frame(stream, response, CONTROL_FRAME_MAX).await?;
    stream.shutdown().await
}

async fn send(
    mut stream: ByteStream,
    store: &BlobStore,
    hash: Sha256Hash,
    offset: u64,
    length: Option<u64>,
) -> io::Result<()> {
    let (mut file, size) = match store.open_verified_async(hash).await {
        Ok(opened) => opened,
        Err(BlobError::NotFound(_) | BlobError::Corrupt(_)) => return finish(&mut stream, &Response::NotFound).await,
        Err(error) => return finish(&mut stream, &Response::Refused { reason: error.to_string() }).await,
    };
    if offset > size {
        let reason = format!("offset {offset} is behind the end at {size}");
        return finish(&mut stream, &Response::Refused { reason }).await;
    }
    let length = length.unwrap_or(u64::MAX).min(size - offset);
    transport::write_frame(&mut stream, &Response::Bytes { size, length }, CONTROL_FRAME_MAX).await?;
    file.seek(SeekFrom::Start(offset)).await?;
    let idle = Duration::from_millis(store.options().idle_timeout_ms);
    let mut buffer = vec![0u8; CHUNK_BYTES];
    let mut left = length;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let got = file.read(&mut buffer[..want]).await?;
        if got == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        tokio::time::timeout(idle, stream.write_all(&buffer[..got]))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing"))??;
        left -= got as u64;
    }
    stream.flush().await?;
    stream.shutdown().await
}
