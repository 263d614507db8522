//! Snapshot files on their way: in chunks, verified by length and SHA-256, resumed where they broke off.
//!
//! The receiver keeps a partial file under its digest, so that the next attempt, from the same source or another that has the
//! same file, goes on behind it. A transfer fails when nothing moves for [`PROGRESS_TIMEOUT`], however long it takes in all.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _, AsyncWrite, AsyncWriteExt as _, SeekFrom};

use super::replica::{SnapshotFile, hash_file};
use crate::transport::{read_frame, write_frame};

/// Without a chunk for this long a transfer is given up.
pub(crate) const PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes per chunk: small enough to let other traffic of the connection through.
const CHUNK_BYTES: usize = 128 << 10;
/// Frame cap of a chunk or offer.
const FRAME_MAX: usize = CHUNK_BYTES + 4_096;
/// Largest snapshot that is taken: a state is a few hundred bytes per job.
const SNAPSHOT_MAX_BYTES: u64 = 8 << 30;

/// What is about to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) size: u64,
    pub(crate) sha256: [u8; 32],
}

impl From<&SnapshotFile> for Offer {
    fn from(file: &SnapshotFile) -> Self {
        Self { size: file.size, sha256: file.sha256 }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Resume {
    pub(super) offset: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Chunk {
    #[serde(with = "serde_bytes")]
    pub(super) bytes: Vec<u8>,
}

fn stalled() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the snapshot transfer stalled")
}

async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PROGRESS_TIMEOUT, step).await.map_err(|_| stalled())?
}

/// Sends the file behind what the receiver has of it. The offer was sent before.
pub(crate) async fn send(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), file: &SnapshotFile) -> io::Result<()> {
    let Resume { offset } = in_time(read_frame(stream, FRAME_MAX)).await?;
    let mut source = File::open(&file.path).await?;
    source.seek(SeekFrom::Start(offset.min(file.size))).await?;
    let mut left = file.size.saturating_sub(offset);
    let mut buffer = vec![0; CHUNK_BYTES];
    while left > 0 {
        let count = source.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the snapshot file became shorter"));
        }
        let chunk = Chunk { bytes: buffer[..count].to_vec() };
        in_time(write_frame(stream, &chunk, FRAME_MAX)).await?;
        left = left.saturating_sub(count as u64);
    }
    Ok(())
}

fn partial_path(directory: &Path, offer: &Offer) -> PathBuf {
    directory.join(format!("partial-{}", hex::encode(offer.sha256)))
}

/// Receives the offered file into `directory` and verifies it. On an error what arrived stays for the next attempt.
pub(crate) async fn receive(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    directory: &Path,
    offer: &Offer,
) -> io::Result<PathBuf> {
    if offer.size > SNAPSHOT_MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a snapshot of {} bytes", offer.size)));
    }
    let path = partial_path(directory, offer);
    drop_other_partials(directory, &path).await;
    let mut file = OpenOptions::new().create(true).append(true).open(&path).await?;
    let mut have = file.metadata().await?.len().min(offer.size);
    file.set_len(have).await?;
    if have > 0 {
        tracing::info!(have, size = offer.size, "a snapshot transfer goes on where it broke off");
    }
    in_time(write_frame(stream, &Resume { offset: have }, FRAME_MAX)).await?;
    while have < offer.size {
        let Chunk { bytes } = in_time(read_frame(stream, FRAME_MAX)).await?;
        have += bytes.len() as u64;
        if bytes.is_empty() || have > offer.size {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk that does not fit its snapshot"));
        }
        file.write_all(&bytes).await?;
        file.flush().await?;
    }
    drop(file);
    let hashed = path.clone();
    let found = tokio::task::spawn_blocking(move || hash_file(&hashed)).await.map_err(io::Error::other)??;
    if found != (offer.size, offer.sha256) {
        let _ = tokio::fs::remove_file(&path).await;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the snapshot does not match its digest"));
    }
    let complete = directory.join(format!("received-{:016x}", rand::random::<u64>()));
    tokio::fs::rename(&path, &complete).await?;
    Ok(complete)
}

/// One unfinished transfer is kept, of the newest offer: old ones will not be offered again.
async fn drop_other_partials(directory: &Path, keep: &Path) {
    let Ok(mut files) = tokio::fs::read_dir(directory).await else { return };
    while let Ok(Some(file)) = files.next_entry().await {
        if file.path() != keep && file.file_name().to_string_lossy().starts_with("partial-") {
            let _ = tokio::fs::remove_file(file.path()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::replica::Replica;
    use crate::store::FatalHook;

    async fn snapshot() -> (tempfile::TempDir, Replica, std::sync::Arc<SnapshotFile>) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let replica = Replica::open(directory.path(), FatalHook::exit()).expect("opens");
        let file = replica.snapshot(None).await.expect("makes");
        (directory, replica, file)
    }

    #[tokio::test]
    async fn a_broken_transfer_goes_on_where_it_stopped() {
        let (directory, _replica, file) = snapshot().await;
        let offer = Offer::from(&*file);
        let half = file.size / 2;
        let content = std::fs::read(&file.path).expect("reads");
        let partial = partial_path(directory.path(), &offer);
        std::fs::write(&partial, &content[..usize::try_from(half).expect("small")]).expect("writes");
        std::fs::write(directory.path().join("partial-old"), b"old").expect("writes");

        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        let (sent, received) = tokio::join!(send(&mut near, &file), receive(&mut far, directory.path(), &offer));
        sent.expect("sent");
        assert_eq!(std::fs::read(received.expect("received")).expect("reads"), content);
        assert!(!partial.exists() && !directory.path().join("partial-old").exists());
    }

    #[tokio::test]
    async fn a_file_that_does_not_match_is_refused() {
        let (directory, _replica, file) = snapshot().await;
        let offer = Offer { sha256: [1; 32], ..Offer::from(&*file) };
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        let (_, received) = tokio::join!(send(&mut near, &file), receive(&mut far, directory.path(), &offer));
        assert_eq!(received.expect_err("refused").kind(), io::ErrorKind::InvalidData);
        assert!(!partial_path(directory.path(), &offer).exists(), "not resumed from rubbish");
    }
}
