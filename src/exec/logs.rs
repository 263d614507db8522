//! What builds print: written as it comes, followed by whoever wants, kept compressed, dropped by age and total size.
//!
//! ```text
//!   <directory>/<job>/<attempt>.log      while it grows, and when it stayed small
//!                     <attempt>.log.zst  once it ended larger than 64 KiB; see [`packed`]
//!                     <attempt>.marks    where its phases begin, and when; see [`marks`]
//! ```
//!
//! Offsets are those of the raw bytes in both forms. Packing writes a new file, gives it its name when it is on disk, and removes the
//! plain one then: a crash at any moment leaves one whole log, and the next [`LogStore::retain`] goes on. Who has the plain file open
//! goes on reading it. [`remote`] serves logs to other nodes, [`look`] answers questions about them. Never done here: changing bytes;
//! whoever shows them makes control characters harmless.

pub mod look;
mod marks;
mod packed;
pub mod remote;
mod retain;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};

use self::marks::Marks;
use self::packed::Packed;
use crate::engine::id::JobId;

/// Bytes handed out in one piece.
pub const CHUNK_BYTES: usize = 32 << 10;
/// Questions that read a whole log are answered so many at a time: builds need the processor too.
const LOOKS_MAX: usize = 2;

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
    /// Logs that somebody writes or packs at this moment.
    growing: Mutex<BTreeMap<Key, watch::Receiver<Growth>>>,
    looks: Arc<Semaphore>,
}

/// The logs of this node. Cheap to clone.
#[derive(Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
}

/// The result, or none when the file is not there.
fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl LogStore {
    /// Opens or creates the store.
    pub fn open(options: Options) -> io::Result<Self> {
        fs::create_dir_all(&options.directory)?;
        let inner = Inner { options, growing: Mutex::default(), looks: Arc::new(Semaphore::new(LOOKS_MAX)) };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn path(&self, (job, attempt): Key, ending: &str) -> PathBuf {
        self.inner.options.directory.join(job.to_string()).join(format!("{attempt}.{ending}"))
    }

    fn growing(&self) -> MutexGuard<'_, BTreeMap<Key, watch::Receiver<Growth>>> {
        self.inner.growing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grows(&self, key: Key) -> bool {
        self.growing().get(&key).is_some_and(|growth| !growth.borrow().ended)
    }

    /// Begins the log of an attempt, replacing one of the same number that a former life of the agent left.
    pub fn create(&self, job: JobId, attempt: u32, max_bytes: u64) -> io::Result<LogWriter> {
        let key = (job, attempt);
        let path = self.path(key, "log");
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let (growth, receiver) = watch::channel(Growth::default());
        // Before a file is touched: from here on nobody packs or drops this log.
        self.growing().insert(key, receiver);
        let created = if_there(fs::remove_file(self.path(key, "log.zst"))).and_then(|_| {
            let file = File::options().write(true).create(true).truncate(true).open(&path)?;
            Ok((file, Marks::create(&self.path(key, "marks"))?))
        });
        match created {
            Ok((file, marks)) => Ok(LogWriter { store: self.clone(), key, file, growth, marks, max_bytes, dropped: 0 }),
            Err(error) => {
                self.growing().remove(&key);
                Err(error)
            }
        }
    }

    /// The log's bytes, in whichever form they are kept. None when there is no such log here.
    fn body(&self, key: Key) -> io::Result<Option<Body>> {
        // In this order: when the plain file goes, the packed one has been there.
        if let Some(file) = if_there(File::open(self.path(key, "log")))? {
            return Ok(Some(Body::Plain(file)));
        }
        match if_there(File::open(self.path(key, "log.zst")))? {
            Some(file) => Ok(Some(Body::Packed(Box::new(Packed::open(file)?)))),
            None => Ok(None),
        }
    }

    /// Reads a log from `offset` on, following it while it grows. None when there is no such log here.
    pub fn reader(&self, job: JobId, attempt: u32, offset: u64) -> io::Result<Option<LogReader>> {
        let key = (job, attempt);
        let growing = self.growing().get(&key).cloned();
        Ok(self.body(key)?.map(|body| LogReader { body: Some(body), offset, growing }))
    }

    /// Length of a log so far, in raw bytes, whether it is compressed or not. None when there is no such log here.
    pub fn length(&self, job: JobId, attempt: u32) -> io::Result<Option<u64>> {
        self.body((job, attempt))?.map(|body| body.length()).transpose()
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
}

/// Writes the log of one attempt. Dropping it ends the log.
pub struct LogWriter {
    store: LogStore,
    key: Key,
    file: File,
    growth: watch::Sender<Growth>,
    marks: Marks,
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

    /// A phase of hive's own begins with whatever is written next. Unlike a line of the log no program can forge it.
    pub fn phase(&mut self, name: &str) {
        let offset = self.growth.borrow().bytes;
        self.marks.hive(name, offset);
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.growth.send_modify(|growth| growth.bytes += bytes.len() as u64);
        self.marks.output(bytes);
        Ok(())
    }

    /// Ends the log: followers see its end, and a large one is compressed. Blocks for as long as compressing takes.
    pub fn finish(mut self) -> io::Result<()> {
        if self.dropped > 0 {
            let dropped = self.dropped;
            self.note(&format!("{dropped} bytes were dropped"))?;
        }
        let bytes = self.growth.borrow().bytes;
        self.marks.end(bytes);
        self.file.sync_all()?;
        self.growth.send_modify(|growth| growth.ended = true);
        // The entry among those that grow goes when this is dropped: until then nobody else packs it.
        if bytes >= self.store.inner.options.compress_min_bytes
            && let Err(error) = self.store.pack(self.key)
        {
            // It is whole and on disk; it is packed when the store is looked through next.
            tracing::warn!(job = %self.key.0, attempt = self.key.1, %error, "a log cannot be packed");
        }
        Ok(())
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.growth.send_modify(|growth| growth.ended = true);
        self.store.growing().remove(&self.key);
    }
}

/// A log's bytes, open for reading.
enum Body {
    Plain(File),
    Packed(Box<Packed>),
}

impl Body {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read_at(buffer, offset),
            Self::Packed(packed) => packed.read_at(buffer, offset),
        }
    }

    fn length(&self) -> io::Result<u64> {
        match self {
            Self::Plain(file) => Ok(file.metadata()?.len()),
            Self::Packed(packed) => Ok(packed.len()),
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
    use crate::{clock, tasks};

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
        assert!(store.path((job(1), 1), "log.zst").exists() && !store.path((job(1), 1), "log").exists());
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

    /// A log of so many bytes, ended and plain, as an agent that was killed leaves it.
    fn left_plain(store: &LogStore, number: u128, bytes: usize) -> Vec<u8> {
        let mut writer = store.create(job(number), 1, 1 << 30).expect("creates");
        let text: Vec<u8> = (0..bytes).map(|at| if at % 80 == 79 { b'\n' } else { b'a' + (at % 23) as u8 }).collect();
        writer.write(&text).expect("writes");
        drop(writer);
        text
    }

    #[tokio::test]
    async fn a_crash_between_the_steps_of_packing_leaves_a_whole_log_that_is_packed_later() {
        let (_directory, store) = store(1_000);
        let key = (job(1), 1);
        let (plain, packed, temporary) =
            (store.path(key, "log"), store.path(key, "log.zst"), store.path(key, "zst-new"));
        // What is on disk after a crash: before packing, in its middle, before the new name, before the old one went.
        let torn = b"torn in the middle".to_vec();
        for step in 0..4 {
            let text = left_plain(&store, 1, 700_000);
            packed::pack(&plain, &temporary).expect("packs");
            match step {
                0 => fs::remove_file(&temporary).expect("removes"),
                1 => fs::write(&temporary, &torn).expect("writes"),
                2 => {}
                _ => fs::rename(&temporary, &packed).expect("renames"),
            }
            let reopened = LogStore::open(store.inner.options.clone()).expect("opens");
            assert_eq!(
                all(reopened.reader(key.0, 1, 5).expect("opens").expect("there")).await,
                text[5..],
                "step {step}"
            );
            // Somebody who reads it while it is packed goes on reading.
            let mut reader = reopened.reader(key.0, 1, 0).expect("opens").expect("there");
            let first = reader.next().await.expect("reads").expect("some");
            assert_eq!(reopened.retain().expect("retains"), 0);
            assert!(packed.exists() && !plain.exists() && !temporary.exists(), "step {step}");
            assert_eq!([first.to_vec(), all(reader).await].concat(), text);
            assert_eq!(all(reopened.reader(key.0, 1, 300_001).expect("opens").expect("there")).await, text[300_001..]);
            assert_eq!(reopened.length(key.0, 1).expect("there"), Some(700_000));
        }
    }

    #[tokio::test]
    async fn a_log_that_is_begun_anew_is_neither_packed_nor_dropped_nor_read_in_its_old_form() {
        let (_directory, store) = store(1_000);
        left_plain(&store, 1, 5_000);
        store.retain().expect("retains");
        assert!(store.path((job(1), 1), "log.zst").exists());
        let mut writer = store.create(job(1), 1, 1 << 20).expect("creates");
        writer.write(&[b'n'; 2_000]).expect("writes");
        store.retain().expect("retains");
        assert!(store.path((job(1), 1), "log").exists() && !store.path((job(1), 1), "log.zst").exists());
        writer.finish().expect("finishes");
        assert_eq!(all(store.reader(job(1), 1, 0).expect("opens").expect("there")).await, [b'n'; 2_000]);
    }

    /// Stands for a gigabyte: what is held does not grow with it.
    #[tokio::test]
    async fn a_line_without_end_passes_through_writer_packer_and_reader_in_small_pieces() {
        let (_directory, store) = store(1_000);
        let mut writer = store.create(job(1), 1, 1 << 30).expect("creates");
        let (piece, pieces) = (vec![b'x'; 1 << 20], 48u64);
        let mut reader = store.reader(job(1), 1, 0).expect("opens").expect("there");
        let mut read = 0;
        for _ in 0..pieces {
            writer.write(&piece).expect("writes");
            while read + (CHUNK_BYTES as u64) < writer.growth.borrow().bytes {
                let bytes = reader.next().await.expect("reads").expect("some");
                assert!(bytes.len() <= CHUNK_BYTES && bytes.iter().all(|byte| *byte == b'x'));
                read += bytes.len() as u64;
            }
        }
        writer.finish().expect("finishes");
        assert_eq!(read + all(reader).await.len() as u64, pieces << 20);
        let packed = fs::metadata(store.path((job(1), 1), "log.zst")).expect("packed").len();
        assert!(packed < 1 << 20, "{packed}");
        let end = all(store.reader(job(1), 1, (pieces << 20) - 3).expect("opens").expect("there")).await;
        assert_eq!(end, b"xxx");
    }

    #[test]
    fn old_and_surplus_logs_go_but_never_one_that_grows() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let options = Options { directory: directory.path().to_owned(), total_max_bytes: 450, ..Options::default() };
        let store = LogStore::open(options).expect("opens");
        for number in 1..=4u64 {
            let mut writer = store.create(job(u128::from(number)), 1, 1 << 20).expect("creates");
            writer.write(&[b'x'; 100]).expect("writes");
            writer.finish().expect("finishes");
            let file =
                File::options().write(true).open(store.path((job(u128::from(number)), 1), "log")).expect("opens");
            let age = if number == 4 {
                std::time::Duration::from_secs(100 * 86_400)
            } else {
                std::time::Duration::from_secs(1_000 - number)
            };
            let now = std::time::UNIX_EPOCH + std::time::Duration::from_millis(clock::unix_now().0);
            file.set_modified(now - age).expect("sets");
        }
        let mut growing = store.create(job(9), 1, 1 << 20).expect("creates");
        growing.write(&[b'x'; 1_000]).expect("writes");
        assert_eq!(store.retain().expect("retains"), 2, "the one of 100 days and the oldest of the others");
        // What belongs to a log goes with it, and what is left of one that is gone.
        assert!(!store.path((job(1), 1), "marks").exists() && store.path((job(2), 1), "marks").exists());
        fs::write(store.path((job(2), 7), "marks"), "left").expect("writes");
        assert_eq!(store.retain().expect("retains"), 1);
        assert!(!store.path((job(2), 7), "marks").exists() && store.path((job(2), 1), "log").exists());
        let left: Vec<bool> = (1..=4).map(|number| !store.attempts(job(number)).is_empty()).collect();
        assert_eq!(left, [false, true, true, false]);
        assert_eq!(store.attempts(job(9)), vec![1]);
    }
}
