//! What builds print: written as it comes, followed by whoever wants, kept compressed, dropped by age and total size.
//!
//! `<directory>/<job>/<attempt>.log` while it grows and when it stayed small, `.log.gz` when it ended larger than 64 KiB. Offsets
//! are those of the raw bytes in both. [`remote`] serves logs to other nodes. Never done here: changing bytes; whoever shows
//! them makes control characters harmless.

pub mod remote;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use tokio::sync::watch;

use crate::clock;
use crate::engine::id::JobId;

/// Bytes handed out in one piece.
pub const CHUNK_BYTES: usize = 32 << 10;

/// Settings of the log store.
#[derive(Clone, Debug)]
pub struct Options {
    /// One directory per job is made below it.
    pub directory: PathBuf,
    /// All logs together, bytes on disk; the oldest go first.
    pub total_max_bytes: u64,
    /// Older logs go, milliseconds.
    pub age_max_ms: u64,
    /// Logs that ended larger than this are compressed, bytes.
    pub compress_min_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/build/logs"),
            total_max_bytes: 4 << 30,
            age_max_ms: 90 * 86_400_000,
            compress_min_bytes: 64 << 10,
        }
    }
}

/// How far a log that is being written has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Growth {
    bytes: u64,
    ended: bool,
}

type Key = (JobId, u32);

struct Inner {
    options: Options,
    growing: Mutex<BTreeMap<Key, watch::Receiver<Growth>>>,
}

/// The logs of this node. Cheap to clone.
#[derive(Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
}

impl LogStore {
    /// Opens or creates the store.
    pub fn open(options: Options) -> io::Result<Self> {
        fs::create_dir_all(&options.directory)?;
        Ok(Self { inner: Arc::new(Inner { options, growing: Mutex::default() }) })
    }

    fn path(&self, (job, attempt): Key, ending: &str) -> PathBuf {
        self.inner.options.directory.join(job.to_string()).join(format!("{attempt}.{ending}"))
    }

    /// Begins the log of an attempt, replacing one of the same number that a former life of the agent left.
    pub fn create(&self, job: JobId, attempt: u32, max_bytes: u64) -> io::Result<LogWriter> {
        let path = self.path((job, attempt), "log");
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        match fs::remove_file(self.path((job, attempt), "log.gz")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::options().write(true).create(true).truncate(true).open(&path)?;
        let (growth, receiver) = watch::channel(Growth::default());
        self.inner.growing.lock().unwrap_or_else(PoisonError::into_inner).insert((job, attempt), receiver);
        Ok(LogWriter { store: self.clone(), key: (job, attempt), file, growth, max_bytes, dropped: 0 })
    }

    /// Reads a log from `offset` on, following it while it grows. None when there is no such log here.
    pub fn reader(&self, job: JobId, attempt: u32, offset: u64) -> io::Result<Option<LogReader>> {
        let key = (job, attempt);
        let growing = self.inner.growing.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        for (ending, compressed) in [("log", false), ("log.gz", true)] {
            match File::open(self.path(key, ending)) {
                Ok(file) if compressed => {
                    let body = Body::Compressed { decoder: Box::new(GzDecoder::new(file)), skip: offset };
                    return Ok(Some(LogReader { body: Some(body), offset, growing: None }));
                }
                Ok(file) => return Ok(Some(LogReader { body: Some(Body::Plain(file)), offset, growing })),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Length of a log so far, in raw bytes, whether it is compressed or not. None when there is no such log here.
    pub fn length(&self, job: JobId, attempt: u32) -> io::Result<Option<u64>> {
        let key = (job, attempt);
        match File::open(self.path(key, "log")) {
            Ok(file) => return Ok(Some(file.metadata()?.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        match File::open(self.path(key, "log.gz")) {
            // The format's own length field is of 32 bit and a log may be larger, so it is counted.
            Ok(file) => io::copy(&mut GzDecoder::new(file), &mut io::sink()).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Numbers of the attempts of a job that have a log here, rising.
    #[cfg(test)]
    fn attempts(&self, job: JobId) -> Vec<u32> {
        let entries = fs::read_dir(self.inner.options.directory.join(job.to_string()));
        let mut attempts: Vec<u32> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.split_once(".log")?.0.parse().ok())
            .collect();
        attempts.sort_unstable();
        attempts.dedup();
        attempts
    }

    /// Drops logs that are too old or too many, never one that grows. Answers how many. A log that cannot be looked at or dropped is left
    /// for the next time and keeps no other from going. Blocks; call it every hour or so.
    pub fn retain(&self) -> io::Result<usize> {
        self.retain_at(clock::unix_now().0)
    }

    fn retain_at(&self, now_ms: u64) -> io::Result<usize> {
        let options = &self.inner.options;
        let mut logs = Vec::new();
        for job in fs::read_dir(&options.directory)?.flatten() {
            let Some(id) = job.file_name().to_str().and_then(|name| name.parse::<JobId>().ok()) else {
                continue;
            };
            match self.ended_of(id, &job.path()) {
                Ok(ended) => logs.extend(ended),
                Err(error) => tracing::warn!(directory = %job.path().display(), %error, "logs cannot be listed"),
            }
        }
        logs.sort_unstable();
        let mut total: u64 = logs.iter().map(|(_, bytes, _)| bytes).sum();
        let mut removed = 0;
        for (modified_ms, bytes, path) in logs {
            let old = now_ms.saturating_sub(modified_ms) > options.age_max_ms;
            if !old && total <= options.total_max_bytes {
                continue;
            }
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(file = %path.display(), %error, "an old log cannot be dropped");
                continue;
            }
            total -= bytes;
            removed += 1;
            if let Some(directory) = path.parent() {
                // Fails while other attempts of the job are there, as it should.
                fs::remove_dir(directory).ok();
            }
        }
        Ok(removed)
    }

    /// The logs of a job that no longer grow: when they last changed, how long they are, where they are.
    fn ended_of(&self, job: JobId, directory: &Path) -> io::Result<Vec<(u64, u64, PathBuf)>> {
        let mut logs = Vec::new();
        for entry in fs::read_dir(directory)?.flatten() {
            let attempt = entry.file_name().to_str().and_then(|name| name.split('.').next()?.parse::<u32>().ok());
            let Some(attempt) = attempt else { continue };
            if self.inner.growing.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&(job, attempt)) {
                continue;
            }
            // One that is gone since it was listed has ended and was compressed, and is there under its other name.
            let Ok(metadata) = entry.metadata() else { continue };
            let Ok(modified) = metadata.modified() else { continue };
            let modified = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let modified_ms = u64::try_from(modified.as_millis()).unwrap_or(u64::MAX);
            logs.push((modified_ms, metadata.len(), entry.path()));
        }
        Ok(logs)
    }
}

/// Writes the log of one attempt. Dropping it ends the log.
pub struct LogWriter {
    store: LogStore,
    key: Key,
    file: File,
    growth: watch::Sender<Growth>,
    max_bytes: u64,
    dropped: u64,
}

impl LogWriter {
    /// Appends output. What is beyond the cap is counted and dropped, with one line that says so.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let kept = self.growth.borrow().bytes;
        let room = usize::try_from(self.max_bytes.saturating_sub(kept)).unwrap_or(usize::MAX).min(bytes.len());
        if room > 0 {
            self.append(&bytes[..room])?;
        }
        if room < bytes.len() {
            if self.dropped == 0 {
                let line = format!(
                    "\n[hive] the log is full at {} bytes; what follows is counted and dropped\n",
                    self.max_bytes
                );
                self.append(line.as_bytes())?;
            }
            self.dropped = self.dropped.saturating_add((bytes.len() - room) as u64);
        }
        Ok(())
    }

    /// A line of hive's own, also when the log is full.
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        self.append(format!("[hive] {text}\n").as_bytes())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.growth.send_modify(|growth| growth.bytes += bytes.len() as u64);
        Ok(())
    }

    /// Ends the log: followers see its end, and a large one is compressed. Blocks for as long as compressing takes.
    pub fn finish(mut self) -> io::Result<()> {
        if self.dropped > 0 {
            let dropped = self.dropped;
            self.note(&format!("{dropped} bytes were dropped"))?;
        }
        self.file.sync_all()?;
        let bytes = self.growth.borrow().bytes;
        self.end();
        if bytes >= self.store.inner.options.compress_min_bytes {
            let (plain, packed) = (self.store.path(self.key, "log"), self.store.path(self.key, "log.gz"));
            compress(&plain, &packed)?;
        }
        Ok(())
    }

    fn end(&mut self) {
        self.growth.send_modify(|growth| growth.ended = true);
        self.store.inner.growing.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.end();
    }
}

/// Readers that have the plain file open go on reading it after it is unlinked.
fn compress(plain: &Path, packed: &Path) -> io::Result<()> {
    let temporary = packed.with_extension("gz-new");
    let mut encoder = GzEncoder::new(File::create(&temporary)?, flate2::Compression::new(6));
    io::copy(&mut File::open(plain)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::rename(&temporary, packed)?;
    fs::remove_file(plain)
}

enum Body {
    Plain(File),
    Compressed { decoder: Box<GzDecoder<File>>, skip: u64 },
}

impl Body {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read_at(buffer, offset),
            Self::Compressed { decoder, skip } => {
                if *skip > 0 {
                    let skipped = io::copy(&mut Read::take(&mut *decoder, *skip), &mut io::sink())?;
                    if skipped < *skip {
                        return Ok(0);
                    }
                    *skip = 0;
                }
                decoder.read(buffer)
            }
        }
    }
}

/// Reads one log from an offset to its end, waiting for more while it grows.
pub struct LogReader {
    body: Option<Body>,
    offset: u64,
    growing: Option<watch::Receiver<Growth>>,
}

impl LogReader {
    /// Offset of the next byte.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that are there already, without waiting; empty when none are.
    pub async fn available(&mut self) -> io::Result<Bytes> {
        let Some(mut body) = self.body.take() else {
            return Ok(Bytes::new());
        };
        let offset = self.offset;
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0u8; CHUNK_BYTES];
            let length = body.read(offset, &mut buffer)?;
            buffer.truncate(length);
            io::Result::Ok((body, Bytes::from(buffer)))
        });
        let (body, bytes) = read.await.map_err(io::Error::other)??;
        self.body = Some(body);
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }

    /// The next bytes, as soon as there are some; none when the log has ended and everything was read.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            // Looked at before reading: what is written after this look wakes us, what was written before is read.
            let ended = match &mut self.growing {
                Some(growing) => growing.borrow_and_update().ended,
                None => true,
            };
            let bytes = self.available().await?;
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
            if ended {
                return Ok(None);
            }
            if let Some(growing) = &mut self.growing
                && growing.changed().await.is_err()
            {
                self.growing = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks;

    pub(super) fn store(compress_min_bytes: u64) -> (tempfile::TempDir, LogStore) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let options = Options { directory: directory.path().to_owned(), compress_min_bytes, ..Options::default() };
        (directory, LogStore::open(options).expect("opens"))
    }

    fn job(number: u128) -> JobId {
        JobId(uuid::Uuid::from_u128(number))
    }

    async fn all(mut reader: LogReader) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(bytes) = reader.next().await.expect("reads") {
            out.extend_from_slice(&bytes);
        }
        out
    }

    #[tokio::test]
    async fn a_follower_sees_every_byte_and_the_end() {
        let (_directory, store) = store(1_000);
        let mut writer = store.create(job(1), 1, 1 << 20).expect("creates");
        let reader = store.reader(job(1), 1, 0).expect("opens").expect("there");
        let following = tasks::spawn("test", all(reader));
        let mut expected = Vec::new();
        for round in 0..200u32 {
            let line = format!("line {round}\n");
            writer.write(line.as_bytes()).expect("writes");
            expected.extend_from_slice(line.as_bytes());
            tokio::task::yield_now().await;
        }
        writer.finish().expect("finishes");
        assert_eq!(following.await.expect("joins"), expected);
        // It was compressed; offsets stay those of the raw bytes.
        assert!(store.path((job(1), 1), "log.gz").exists() && !store.path((job(1), 1), "log").exists());
        let late = store.reader(job(1), 1, 500).expect("opens").expect("there");
        assert_eq!(all(late).await, expected[500..]);
        let behind = store.reader(job(1), 1, 1 << 30).expect("opens").expect("there");
        assert!(all(behind).await.is_empty());
        assert!(store.reader(job(1), 2, 0).expect("looks").is_none());
        assert_eq!(store.attempts(job(1)), vec![1]);
    }

    #[tokio::test]
    async fn a_full_log_says_so_once_and_counts_the_rest() {
        let (_directory, store) = store(1 << 20);
        let mut writer = store.create(job(1), 1, 10).expect("creates");
        for _ in 0..100 {
            writer.write(b"0123456").expect("writes");
        }
        writer.finish().expect("finishes");
        let text = all(store.reader(job(1), 1, 0).expect("opens").expect("there")).await;
        let text = String::from_utf8(text).expect("text");
        assert!(text.starts_with("0123456012\n[hive] the log is full at 10 bytes"), "{text}");
        assert_eq!(text.matches("log is full").count(), 1);
        assert!(text.ends_with("[hive] 690 bytes were dropped\n"), "{text}");
    }

    #[tokio::test]
    async fn a_writer_that_is_dropped_ends_its_followers() {
        let (_directory, store) = store(1 << 20);
        let mut writer = store.create(job(1), 1, 10).expect("creates");
        writer.write(b"abc").expect("writes");
        let reader = store.reader(job(1), 1, 0).expect("opens").expect("there");
        drop(writer);
        assert_eq!(all(reader).await, b"abc");
    }

    /// A log of 100 bytes that ended at a time, milliseconds.
    fn ended(store: &LogStore, number: u128, at_ms: u64) {
        let mut writer = store.create(job(number), 1, 1 << 20).expect("creates");
        writer.write(&[b'x'; 100]).expect("writes");
        writer.finish().expect("finishes");
        let file = File::options().write(true).open(store.path((job(number), 1), "log")).expect("opens");
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_millis(at_ms)).expect("sets");
    }

    fn left(store: &LogStore, numbers: std::ops::RangeInclusive<u128>) -> Vec<u128> {
        numbers.filter(|number| !store.attempts(job(*number)).is_empty()).collect()
    }

    #[test]
    fn logs_go_when_they_are_older_than_the_limit_not_before() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let options = Options { directory: directory.path().to_owned(), age_max_ms: 5_000, ..Options::default() };
        let store = LogStore::open(options).expect("opens");
        for number in 1..=3 {
            ended(&store, number, 1_000_000 + u64::try_from(number).expect("small") * 1_000);
        }
        assert_eq!(store.retain_at(1_006_000).expect("retains"), 0, "the first is exactly as old as it may be");
        assert_eq!(store.retain_at(1_006_001).expect("retains"), 1);
        assert_eq!(left(&store, 1..=3), [2, 3]);
        assert!(!directory.path().join(job(1).to_string()).exists(), "its directory goes with it");
        assert_eq!(store.retain_at(900_000).expect("retains"), 0, "a clock that was set back makes nothing old");
        assert_eq!(store.retain_at(2_000_000).expect("retains"), 2);
        assert!(left(&store, 1..=3).is_empty());
    }

    #[test]
    fn the_oldest_logs_go_first_until_the_rest_fits() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let options = Options { directory: directory.path().to_owned(), total_max_bytes: 300, ..Options::default() };
        let store = LogStore::open(options).expect("opens");
        // Written in another order than they ended.
        for (number, at_ms) in [(1, 4_000), (2, 1_000), (3, 5_000), (4, 2_000), (5, 3_000)] {
            ended(&store, number, at_ms);
        }
        assert_eq!(store.retain_at(6_000).expect("retains"), 2);
        assert_eq!(left(&store, 1..=5), [1, 3, 5]);
        assert_eq!(store.retain_at(6_000).expect("retains"), 0, "what fits stays");
    }

    #[test]
    fn a_log_that_grows_never_goes() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let options = Options { directory: directory.path().to_owned(), total_max_bytes: 0, ..Options::default() };
        let store = LogStore::open(options).expect("opens");
        ended(&store, 1, 1_000);
        let mut growing = store.create(job(2), 1, 1 << 20).expect("creates");
        growing.write(&[b'x'; 1_000]).expect("writes");
        assert_eq!(store.retain_at(u64::MAX).expect("retains"), 1);
        assert_eq!(left(&store, 1..=2), [2]);
        drop(growing);
        assert_eq!(store.retain_at(u64::MAX).expect("retains"), 1, "it goes once it has ended");
    }
}
