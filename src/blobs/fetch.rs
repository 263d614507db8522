//! Gets a blob from whoever has it: several sources at once, resumed where it stopped, verified before it is there.
//!
//! The blob is cut into ranges; each source works on one range at a time, and takes another when it is done, so that a fast
//! source carries more. What is there already stays in `partial/` beside a small map, and survives a restart. A source that
//! fails, hangs or stays busy is left out, and it goes round again with the others. When the whole does not match its digest,
//! sources are tried one at a time from the beginning, and those that delivered wrong bytes are out. Never done here: deciding
//! who has it (the caller names candidates).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;

use super::exchange::{PROTOCOL, Request, Response};
use super::store::{BlobError, BlobStore, blocking};
use crate::engine::id::{PeerId, Sha256Hash};
use crate::transport::{self, CONTROL_FRAME_MAX, Transport};

/// How long a candidate may take to say whether it has the blob.
const HAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Most candidates that are asked.
pub const CANDIDATES_MAX: usize = 64;
/// A source that failed so often in a row is given up for this fetch.
const FAILURES_MAX: u32 = 3;
/// Wait before a source that was busy or failed is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Wait before sources are asked again when all that are left were busy.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// Why a blob could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody that was asked has it.
    #[error("none of {asked} nodes that could be asked has blob {hash}")]
    NotFound {
        /// Which blob.
        hash: Sha256Hash,
        /// Number of candidates.
        asked: usize,
    },
    /// There were sources, and all of them failed or lied.
    #[error("blob {hash} could not be fetched: {}", reasons.join("; "))]
    Failed {
        /// Which blob.
        hash: Sha256Hash,
        /// Per source.
        reasons: Vec<String>,
    },
    /// It is here, with another length than was named.
    #[error("blob {hash} has {found} bytes, not the {named} that were named")]
    Size {
        /// Which blob.
        hash: Sha256Hash,
        /// Its length.
        found: u64,
        /// What was said to be its length.
        named: u64,
    },
    /// It cannot be stored here.
    #[error(transparent)]
    Store(#[from] BlobError),
}

/// Progress of one fetch, as kept beside its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Map {
    size: u64,
    range_bytes: u64,
    /// Bytes that are there, per range.
    done: BTreeMap<u64, u64>,
}

impl Map {
    fn ranges(&self) -> u64 {
        self.size.div_ceil(self.range_bytes.max(1))
    }

    fn range_len(&self, index: u64) -> u64 {
        self.range_bytes.min(self.size - index * self.range_bytes)
    }

    fn missing(&self) -> VecDeque<u64> {
        (0..self.ranges())
            .filter(|&index| self.done.get(&index).copied().unwrap_or(0) < self.range_len(index))
            .collect()
    }

    fn is_sane(&self, size: u64) -> bool {
        self.size == size
            && self.range_bytes > 0
            && self.done.iter().all(|(&index, &bytes)| index < self.ranges() && bytes <= self.range_len(index))
    }
}

struct Work {
    map: Map,
    waiting: VecDeque<u64>,
    delivered: BTreeSet<PeerId>,
    /// Not to be asked again in this fetch.
    failed: BTreeSet<PeerId>,
    /// Busy whenever they were asked; worth another try when nobody else is left.
    busy: BTreeSet<PeerId>,
    reasons: Vec<String>,
}

struct Fetch<'a, T> {
    store: &'a BlobStore,
    transport: &'a T,
    hash: Sha256Hash,
    size: u64,
    partial: PathBuf,
    map_path: PathBuf,
}

/// Makes sure that the blob is in `store`, asking `candidates` when it is not. Answers its length. Called twice at once for the
/// same blob, it is fetched once. Dropping the future keeps what has arrived for the next try.
pub async fn fetch<T: Transport>(
    store: &BlobStore,
    transport: &T,
    hash: Sha256Hash,
    expected_size: Option<u64>,
    candidates: &[PeerId],
) -> Result<u64, FetchError> {
    let lock = store.fetch_lock(hash);
    let _guard = lock.lock().await;
    if store.size(hash).is_some() {
        match store.open_verified_async(hash).await {
            Ok((_, size)) => return Ok(size),
            Err(BlobError::Corrupt(_) | BlobError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let asked = candidates.len().min(CANDIDATES_MAX);
    let (size, sources) = who_has(transport, hash, expected_size, &candidates[..asked]).await;
    if sources.is_empty() {
        return Err(FetchError::NotFound { hash, asked });
    }
    let max_bytes = store.options().blob_max_bytes;
    if size > max_bytes {
        return Err(BlobError::TooLarge { max_bytes }.into());
    }
    store.require_space(size)?;
    let partial = store.partial_path(hash);
    let map_path = partial.with_extension("map");
    Fetch { store, transport, hash, size, partial, map_path }.run(sources).await
}

/// Asks all candidates at once. The size is the expected one, else what most of them say.
async fn who_has<T: Transport>(
    transport: &T,
    hash: Sha256Hash,
    expected_size: Option<u64>,
    candidates: &[PeerId],
) -> (u64, Vec<PeerId>) {
    let request = Request::Have { hashes: vec![hash] };
    let asked = candidates.iter().map(|peer| {
        let request = &request;
        async move {
            match transport::call::<_, Response>(transport, peer, PROTOCOL, request, HAVE_TIMEOUT).await {
                Ok(Response::Have { sizes }) => sizes.first().copied().flatten().map(|size| (size, peer.clone())),
                Ok(Response::Bytes { .. } | Response::NotFound | Response::Busy | Response::Refused { .. }) => None,
                Err(error) => {
                    tracing::debug!(%peer, %error, "blob source does not answer");
                    None
                }
            }
        }
    });
    let answers: Vec<(u64, PeerId)> = join_all(asked).await.into_iter().flatten().collect();
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    for (size, _) in &answers {
        *votes.entry(*size).or_default() += 1;
    }
    let size = expected_size.or_else(|| votes.iter().max_by_key(|(_, count)| **count).map(|(size, _)| *size));
    let size = size.unwrap_or(0);
    (size, answers.into_iter().filter(|(said, _)| *said == size).map(|(_, peer)| peer).collect())
}

impl<T: Transport> Fetch<'_, T> {
    async fn run(&self, mut sources: Vec<PeerId>) -> Result<u64, FetchError> {
        let mut reasons = Vec::new();
        let mut waiting_for = BTreeSet::new();
        let patience = Duration::from_millis(self.store.options().idle_timeout_ms);
        let busy_until = tokio::time::Instant::now() + patience;
        loop {
            if sources.is_empty() {
                if waiting_for.is_empty() || tokio::time::Instant::now() >= busy_until {
                    break;
                }
                tokio::time::sleep(BUSY_PAUSE).await;
                sources.extend(std::mem::take(&mut waiting_for));
            }
            let (delivered, resumed) = match self.round(&sources).await? {
                Round::Stored => return Ok(self.size),
                Round::Incomplete { reasons: more, failed, busy } => {
                    reasons.extend(more);
                    if failed.is_empty() && busy.is_empty() {
                        // Nobody gave up and something is missing: going round would not end.
                        break;
                    }
                    // A small blob is one range, and only the sources of one lane were asked for it.
                    sources.retain(|source| !failed.contains(source) && !busy.contains(source));
                    waiting_for.extend(busy);
                    continue;
                }
                Round::Wrong { delivered, resumed } => (delivered, resumed),
            };
            if resumed {
                continue;
            }
            // One of these lied. Alone, each is told apart.
            for source in delivered {
                match self.round(std::slice::from_ref(&source)).await? {
                    Round::Stored => return Ok(self.size),
                    Round::Incomplete { reasons: more, .. } => reasons.extend(more),
                    Round::Wrong { .. } => {
                        tracing::warn!(%source, hash = %self.hash, "delivered wrong bytes for a blob");
                        reasons.push(format!("{source} delivered wrong bytes"));
                    }
                }
                self.forget();
                sources.retain(|other| *other != source);
            }
        }
        Err(FetchError::Failed { hash: self.hash, reasons })
    }

    fn forget(&self) {
        for path in [&self.partial, &self.map_path] {
            match fs::remove_file(path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(file = %path.display(), %error, "cannot be removed"),
            }
        }
    }

    fn open_partial(&self) -> Result<(File, Map, bool), BlobError> {
        let io_error = |source| BlobError::Io { action: "open", path: self.partial.clone(), source };
        let fresh =
            Map { size: self.size, range_bytes: self.store.options().range_bytes.max(1), done: BTreeMap::new() };
        let known = fs::read(&self.map_path).ok().and_then(|bytes| serde_json::from_slice::<Map>(&bytes).ok());
        let known = known.filter(|map| map.is_sane(self.size) && self.partial.is_file());
        let resumed = known.as_ref().is_some_and(|map| !map.done.is_empty());
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(!resumed)
            .open(&self.partial)
            .map_err(io_error)?;
        file.set_len(self.size).map_err(io_error)?;
        Ok((file, known.unwrap_or(fresh), resumed))
    }

    async fn round(&self, sources: &[PeerId]) -> Result<Round, FetchError> {
        let (file, map, resumed) = self.open_partial()?;
        let waiting = map.missing();
        let work = Mutex::new(Work {
            map,
            waiting,
            delivered: BTreeSet::new(),
            failed: BTreeSet::new(),
            busy: BTreeSet::new(),
            reasons: Vec::new(),
        });
        let file = Arc::new(file);
        let at_once = self.store.options().fetch_sources_max.max(1);
        // Sources beyond the first few stand by: each takes over when one before it has given up.
        let lanes: Vec<Vec<&PeerId>> =
            (0..at_once).map(|lane| sources.iter().skip(lane).step_by(at_once).collect()).collect();
        join_all(lanes.iter().map(|lane| self.lane(lane, &work, &file))).await;
        let work = work.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !work.map.missing().is_empty() {
            // A disk that filled up meanwhile is no fault of the sources.
            self.store.require_space(0)?;
            return Ok(Round::Incomplete { reasons: work.reasons, failed: work.failed, busy: work.busy });
        }
        let (store, partial, hash) = (self.store.clone(), self.partial.clone(), self.hash);
        let adopted = blocking(move || store.adopt(&partial, hash)).await;
        match adopted {
            Ok(_) => {
                self.forget();
                Ok(Round::Stored)
            }
            Err(BlobError::Mismatch { .. }) => {
                self.forget();
                Ok(Round::Wrong { delivered: work.delivered, resumed })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn lane(&self, sources: &[&PeerId], work: &Mutex<Work>, file: &Arc<File>) {
        for source in sources {
            let mut failures = 0;
            while failures < FAILURES_MAX {
                let next = work.lock().unwrap_or_else(PoisonError::into_inner).waiting.pop_front();
                let Some(range) = next else {
                    return;
                };
                let result = self.range(source, range, work, file).await;
                failures = match &result {
                    Ok(()) => 0,
                    // Asking again would cost as long again.
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => FAILURES_MAX,
                    Err(_) => failures + 1,
                };
                self.settle(work, source, range, result, failures >= FAILURES_MAX);
                if (1..FAILURES_MAX).contains(&failures) {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    fn settle(&self, work: &Mutex<Work>, source: &PeerId, range: u64, result: io::Result<()>, given_up: bool) {
        let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
        self.remember(&work.map);
        if let Err(error) = result {
            work.waiting.push_front(range);
            if given_up {
                let busy = error.kind() == io::ErrorKind::ResourceBusy;
                let set = if busy { &mut work.busy } else { &mut work.failed };
                set.insert(source.clone());
                work.reasons.push(format!("{source}: {error}"));
            }
        }
    }

    /// Only a hint for the next try, so it is neither synced nor allowed to fail the fetch.
    fn remember(&self, map: &Map) {
        let written =
            serde_json::to_vec(map).map_err(io::Error::other).and_then(|bytes| fs::write(&self.map_path, bytes));
        if let Err(error) = written {
            tracing::debug!(file = %self.map_path.display(), %error, "progress of a fetch is not kept");
        }
    }

    async fn range(&self, source: &PeerId, range: u64, work: &Mutex<Work>, file: &Arc<File>) -> io::Result<()> {
        let (start, have, want) = {
            let work = work.lock().unwrap_or_else(PoisonError::into_inner);
            let have = work.map.done.get(&range).copied().unwrap_or(0);
            (range * work.map.range_bytes, have, work.map.range_len(range))
        };
        let idle = Duration::from_millis(self.store.options().idle_timeout_ms);
        let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, "nothing came");
        let ask = async {
            let mut stream = self.transport.open(source, PROTOCOL).await?;
            let request = Request::Get { hash: self.hash, offset: start + have, length: Some(want - have) };
            transport::write_frame(&mut stream, &request, CONTROL_FRAME_MAX).await?;
            let answer = transport::read_frame::<Response>(&mut stream, CONTROL_FRAME_MAX).await?;
            Ok::<_, io::Error>((stream, answer))
        };
        let (mut stream, answer) = tokio::time::timeout(idle, ask).await.map_err(timed_out)??;
        match answer {
            Response::Bytes { size, length } if size == self.size && length == want - have => {}
            Response::Busy => return Err(io::Error::new(io::ErrorKind::ResourceBusy, "is busy")),
            answer @ (Response::Bytes { .. }
            | Response::Have { .. }
            | Response::NotFound
            | Response::Refused { .. }) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("answered {answer:?}")));
            }
        }
        let mut buffer = vec![0u8; 64 << 10];
        let mut done = have;
        while done < want {
            let room = usize::try_from(want - done).unwrap_or(buffer.len()).min(buffer.len());
            let got = tokio::time::timeout(idle, stream.read(&mut buffer[..room])).await.map_err(timed_out)??;
            if got == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("ended after {done} of {want} bytes"),
                ));
            }
            file.write_all_at(&buffer[..got], start + done)?;
            done += got as u64;
            let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
            work.map.done.insert(range, done);
            work.delivered.insert(source.clone());
        }
        Ok(())
    }
}

enum Round {
    Stored,
    Incomplete { reasons: Vec<String>, failed: BTreeSet<PeerId>, busy: BTreeSet<PeerId> },
    Wrong { delivered: BTreeSet<PeerId>, resumed: bool },
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::io::AsyncWriteExt as _;

    use super::super::{Options, exchange};
    use super::*;
    use crate::transport::memory::{Network, Node};

    fn store() -> (tempfile::TempDir, BlobStore) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let options = Options { free_min_bytes: 0, range_bytes: 10_000, idle_timeout_ms: 2_000, ..Options::default() };
        let store = BlobStore::open(directory.path(), options).expect("opens");
        (directory, store)
    }

    fn content() -> Vec<u8> {
        (0..123_456u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).take(123_457).collect()
    }

    /// A source that speaks the protocol over its own idea of the content, and counts the bytes it sent.
    fn hostile(node: &Node, hash: Sha256Hash, bytes: Vec<u8>, stop_after: u64) -> Arc<AtomicU64> {
        let sent = Arc::new(AtomicU64::new(0));
        let mut incoming = node.accept(PROTOCOL).expect("accepts");
        let counter = sent.clone();
        tokio::task::spawn_local(async move {
            while let Some(mut stream) = incoming.recv().await {
                let stream = &mut stream.stream;
                let Ok(request) = transport::read_frame::<Request>(stream, CONTROL_FRAME_MAX).await else { continue };
                let size = bytes.len() as u64;
                match request {
                    Request::Have { .. } => {
                        let answer = Response::Have { sizes: vec![Some(size)] };
                        transport::write_frame(stream, &answer, CONTROL_FRAME_MAX).await.expect("writes");
                    }
                    Request::Get { hash: wanted, offset, length } => {
                        assert_eq!(wanted, hash);
                        let length = length.expect("a range");
                        let answer = Response::Bytes { size, length };
                        transport::write_frame(stream, &answer, CONTROL_FRAME_MAX).await.expect("writes");
                        let left = stop_after.saturating_sub(counter.load(Ordering::SeqCst)).min(length);
                        let start = usize::try_from(offset).expect("fits");
                        let end = start + usize::try_from(left).expect("fits");
                        if stream.write_all(&bytes[start..end]).await.is_ok() {
                            counter.fetch_add(left, Ordering::SeqCst);
                        }
                    }
                }
            }
        });
        sent
    }

    #[tokio::test]
    async fn a_blob_comes_from_several_sources() {
        let network = Network::default();
        let (_a, near) = store();
        let mut peers = vec![PeerId::new("nobody")];
        let mut kept = Vec::new();
        let mut hash = Sha256Hash([0; 32]);
        for name in ["one", "two", "three"] {
            let (directory, far) = store();
            (hash, _) = far.put(content().as_slice(), 1 << 20).expect("stored");
            exchange::serve(&network.node(name), far).expect("serves");
            peers.push(PeerId::new(name));
            kept.push(directory);
        }
        let node = network.node("near");
        let two =
            tokio::join!(fetch(&near, &node, hash, None, &peers), fetch(&near, &node, hash, Some(123_457), &peers));
        assert_eq!(two.0.expect("fetched"), 123_457);
        assert_eq!(two.1.expect("joined the same fetch"), 123_457);
        near.open_verified(hash).expect("verified");
    }

    #[tokio::test]
    async fn a_broken_transfer_resumes_where_it_stopped() {
        let network = Network::default();
        let (_a, near) = store();
        let (_b, far) = store();
        let (hash, _) = far.put(content().as_slice(), 1 << 20).expect("stored");
        let node = network.node("near");
        tokio::task::LocalSet::new()
            .run_until(async {
                let sent = hostile(&network.node("flaky"), hash, content(), 61_000);
                let error = fetch(&near, &node, hash, None, &[PeerId::new("flaky")]).await.expect_err("breaks");
                assert!(matches!(error, FetchError::Failed { .. }), "{error}");
                assert_eq!(sent.load(Ordering::SeqCst), 61_000);
                // The second life of the node: the store is opened anew.
                let rest = hostile(&network.node("rest"), hash, content(), u64::MAX);
                let size = fetch(&near, &node, hash, None, &[PeerId::new("rest")]).await.expect("resumes");
                assert_eq!(size, 123_457);
                assert_eq!(rest.load(Ordering::SeqCst), 123_457 - 61_000, "only what was missing");
            })
            .await;
        near.open_verified(hash).expect("verified");
    }

    #[tokio::test]
    async fn wrong_bytes_are_never_stored_and_an_honest_source_wins() {
        let network = Network::default();
        let (_a, near) = store();
        let (_b, far) = store();
        let (hash, _) = far.put(content().as_slice(), 1 << 20).expect("stored");
        let node = network.node("near");
        exchange::serve(&network.node("honest"), far).expect("serves");
        let mut wrong = content();
        wrong[70_000] ^= 1;
        tokio::task::LocalSet::new()
            .run_until(async {
                hostile(&network.node("liar"), hash, wrong, u64::MAX);
                let liar = PeerId::new("liar");
                let error = fetch(&near, &node, hash, None, std::slice::from_ref(&liar)).await.expect_err("lies");
                assert!(error.to_string().contains("wrong bytes"), "{error}");
                assert_eq!(near.size(hash), None);
                let peers = [liar, PeerId::new("honest")];
                assert_eq!(fetch(&near, &node, hash, None, &peers).await.expect("honest"), 123_457);
            })
            .await;
        near.open_verified(hash).expect("verified");
    }

    /// A source that says it has the blob and then answers `get`, or never (none), to whoever wants it, `times` times; later it
    /// delivers.
    fn useless(node: &Node, bytes: Vec<u8>, get: Option<Response>, times: u32) {
        let mut incoming = node.accept(PROTOCOL).expect("accepts");
        tokio::task::spawn_local(async move {
            let mut hung = Vec::new();
            let mut asked = 0;
            while let Some(mut stream) = incoming.recv().await {
                let request = transport::read_frame::<Request>(&mut stream.stream, CONTROL_FRAME_MAX).await;
                let size = bytes.len() as u64;
                let answer = match request.expect("a request") {
                    Request::Have { .. } => Some(Response::Have { sizes: vec![Some(size)] }),
                    Request::Get { .. } => {
                        asked += 1;
                        let delivers = asked > times;
                        delivers.then_some(Response::Bytes { size, length: size }).or_else(|| get.clone())
                    }
                };
                let Some(answer) = answer else {
                    hung.push(stream);
                    continue;
                };
                transport::write_frame(&mut stream.stream, &answer, CONTROL_FRAME_MAX).await.expect("writes");
                if matches!(answer, Response::Bytes { .. }) {
                    stream.stream.write_all(&bytes).await.expect("delivers");
                }
            }
        });
    }

    #[tokio::test]
    async fn a_blob_of_one_range_comes_from_another_source_when_the_first_is_useless() {
        for get in [None, Some(Response::Busy), Some(Response::NotFound)] {
            let network = Network::default();
            let (_a, near) = store();
            let (_b, far) = store();
            let small = &content()[..5_000];
            let (hash, _) = far.put(small, 1 << 20).expect("stored");
            exchange::serve(&network.node("good"), far).expect("serves");
            let node = network.node("near");
            tokio::task::LocalSet::new()
                .run_until(async {
                    useless(&network.node("useless"), small.to_vec(), get, u32::MAX);
                    let peers = [PeerId::new("useless"), PeerId::new("good")];
                    assert_eq!(fetch(&near, &node, hash, None, &peers).await.expect("fetched"), 5_000);
                })
                .await;
            near.open_verified(hash).expect("verified");
        }
    }

    #[tokio::test]
    async fn the_only_source_is_waited_for_while_it_is_busy_but_not_for_ever() {
        let network = Network::default();
        let (_a, near) = store();
        let (_b, far) = store();
        let small = &content()[..5_000];
        let (hash, _) = far.put(small, 1 << 20).expect("stored");
        let node = network.node("near");
        tokio::task::LocalSet::new()
            .run_until(async {
                useless(&network.node("later"), small.to_vec(), Some(Response::Busy), 4);
                useless(&network.node("never"), small.to_vec(), Some(Response::Busy), u32::MAX);
                let error = fetch(&near, &node, hash, None, &[PeerId::new("never")]).await.expect_err("busy");
                assert!(error.to_string().contains("is busy"), "{error}");
                let size = fetch(&near, &node, hash, None, &[PeerId::new("later")]).await.expect("fetched");
                assert_eq!(size, 5_000);
            })
            .await;
    }

    #[tokio::test]
    async fn a_blob_that_nobody_has_is_not_found() {
        let network = Network::default();
        let (_a, near) = store();
        let (_b, far) = store();
        exchange::serve(&network.node("far"), far).expect("serves");
        let peers = [PeerId::new("far"), PeerId::new("gone")];
        let error = fetch(&near, &network.node("near"), Sha256Hash([1; 32]), None, &peers).await.expect_err("nobody");
        assert!(matches!(error, FetchError::NotFound { asked: 2, .. }), "{error}");
    }

    #[tokio::test]
    async fn a_busy_server_says_so() {
        let network = Network::default();
        let directory = tempfile::tempdir().expect("temporary directory");
        let options = Options { free_min_bytes: 0, serve_max: 1, ..Options::default() };
        let far = BlobStore::open(directory.path(), options).expect("opens");
        let big = vec![3u8; 1 << 20];
        let (hash, _) = far.put(big.as_slice(), 2 << 20).expect("stored");
        exchange::serve(&network.node("far"), far).expect("serves");
        let node = network.node("near");
        let peer = PeerId::new("far");
        let get = Request::Get { hash, offset: 0, length: None };
        let mut first = node.open(&peer, PROTOCOL).await.expect("opens");
        transport::write_frame(&mut first, &get, CONTROL_FRAME_MAX).await.expect("asks");
        let answer: Response = transport::read_frame(&mut first, CONTROL_FRAME_MAX).await.expect("answers");
        assert_eq!(answer, Response::Bytes { size: 1 << 20, length: 1 << 20 });
        let mut second = node.open(&peer, PROTOCOL).await.expect("opens");
        transport::write_frame(&mut second, &get, CONTROL_FRAME_MAX).await.expect("asks");
        let answer: Response = transport::read_frame(&mut second, CONTROL_FRAME_MAX).await.expect("answers");
        assert_eq!(answer, Response::Busy);
    }
}
