//! The store on disk: `ab/cdef…` below its directory, `tmp/` for what is being written, `partial/` for what is being fetched,
//! `corrupt/` for what did not match its name.
//!
//! A file is hashed before it is handed out, once per life of this process and again whenever its size, inode or change
//! time differ. Never done here: a path made of anything but a digest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::Options;
use crate::clock;
use crate::engine::id::Sha256Hash;

/// Bytes copied and hashed at a time.
const COPY_BYTES: usize = 256 << 10;
/// Free space is looked at again after so many bytes.
const SPACE_CHECK_BYTES: u64 = 16 << 20;

/// Why a blob cannot be stored or had. Nothing has changed when one is returned.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// No such blob here.
    #[error("blob {0} is not here")]
    NotFound(Sha256Hash),
    /// The bytes on disk are not those that its name promises; the file was set aside.
    #[error("blob {0} did not match its digest and was set aside")]
    Corrupt(Sha256Hash),
    /// The bytes that came are not the ones that were asked for.
    #[error("expected blob {expected}, got bytes with digest {got}")]
    Mismatch {
        /// What was asked for.
        expected: Sha256Hash,
        /// What came.
        got: Sha256Hash,
    },
    /// More bytes than allowed.
    #[error("more than the {max_bytes} bytes that are allowed")]
    TooLarge {
        /// The cap.
        max_bytes: u64,
    },
    /// The disk is (nearly) full.
    #[error("only {free_bytes} bytes are free below {}; nothing more is stored there", directory.display())]
    Full {
        /// Bytes left.
        free_bytes: u64,
        /// The store.
        directory: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Reading the source of the bytes failed.
    #[error("the bytes to store could not be read")]
    Input(#[source] io::Error),
}

/// A blob as it lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub hash: Sha256Hash,
    /// Its length in bytes.
    pub size: u64,
    /// How long ago it was stored or touched, by the wall clock.
    pub age_ms: u64,
}

/// Since the last change of a file, by the wall clock. Of its change time, because that of its content may be anything.
pub fn age_ms(metadata: &fs::Metadata) -> u64 {
    let changed_ms = metadata.ctime().saturating_mul(1_000).saturating_add(metadata.ctime_nsec() / 1_000_000);
    clock::unix_now().0.saturating_sub(u64::try_from(changed_ms).unwrap_or(0))
}

/// What tells whether a verified file is still the same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { inode: metadata.ino(), size: metadata.len(), changed: (metadata.ctime(), metadata.ctime_nsec()) }
    }
}

struct Inner {
    root: PathBuf,
    options: Options,
    verified: Mutex<BTreeMap<Sha256Hash, Stamp>>,
    fetching: Mutex<BTreeMap<Sha256Hash, Arc<tokio::sync::Mutex<()>>>>,
    serial: AtomicU64,
}

/// A directory of blobs. Cheap to clone.
#[derive(Clone)]
pub struct BlobStore {
    inner: Arc<Inner>,
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError {
    let path = path.to_owned();
    move |source| BlobError::Io { action, path, source }
}

fn sync_directory(directory: &Path) -> Result<(), BlobError> {
    File::open(directory).and_then(|handle| handle.sync_all()).map_err(io_error("sync", directory))
}

impl BlobStore {
    /// Opens or creates the store below `root` and removes what a crash left half-written.
    pub fn open(root: &Path, options: Options) -> Result<Self, BlobError> {
        for directory in [root.to_owned(), root.join("tmp"), root.join("partial"), root.join("corrupt")] {
            fs::create_dir_all(&directory).map_err(io_error("create", &directory))?;
        }
        fs::set_permissions(root, fs::Permissions::from_mode(0o700)).map_err(io_error("protect", root))?;
        let leftovers = fs::read_dir(root.join("tmp")).map_err(io_error("list", root))?;
        for entry in leftovers.flatten() {
            if let Err(error) = fs::remove_file(entry.path()) {
                tracing::warn!(file = %entry.path().display(), %error, "leftover temporary file stays");
            }
        }
        let inner = Inner {
            root: root.to_owned(),
            options,
            verified: Mutex::default(),
            fetching: Mutex::default(),
            serial: AtomicU64::new(1),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The settings it was opened with.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    pub(super) fn partial_path(&self, hash: Sha256Hash) -> PathBuf {
        self.inner.root.join("partial").join(hash.to_string())
    }

    pub(super) fn fetch_lock(&self, hash: Sha256Hash) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.inner.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        fetching.retain(|_, lock| Arc::strong_count(lock) > 1);
        fetching.entry(hash).or_default().clone()
    }

    fn path(&self, hash: Sha256Hash) -> PathBuf {
        let name = hash.to_string();
        self.inner.root.join(&name[..2]).join(&name[2..])
    }

    /// Length of the blob; none when it is not here. Does not read it.
    pub fn size(&self, hash: Sha256Hash) -> Option<u64> {
        fs::symlink_metadata(self.path(hash)).ok().filter(fs::Metadata::is_file).map(|metadata| metadata.len())
    }

    /// Refuses when less space would be left than the settings want.
    pub(super) fn require_space(&self, bytes: u64) -> Result<(), BlobError> {
        let directory = &self.inner.root;
        let stat = rustix::fs::statvfs(directory).map_err(|error| io_error("inspect", directory)(error.into()))?;
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free_bytes < bytes.saturating_add(self.inner.options.free_min_bytes) {
            return Err(BlobError::Full { free_bytes, directory: directory.clone() });
        }
        Ok(())
    }

    /// Starts a new blob of at most `max_bytes`.
    pub fn writer(&self, max_bytes: u64) -> Result<BlobWriter, BlobError> {
        self.require_space(0)?;
        let serial = self.inner.serial.fetch_add(1, Ordering::Relaxed);
        let path = self.inner.root.join("tmp").join(format!("{}-{serial}", std::process::id()));
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("create", &path))?;
        let max_bytes = max_bytes.min(self.inner.options.blob_max_bytes);
        Ok(BlobWriter { store: self.clone(), file, path, hasher: Sha256::new(), size: 0, max_bytes, kept: false })
    }

    /// Stores what `source` yields. Blocks.
    pub fn put(&self, mut source: impl Read, max_bytes: u64) -> Result<(Sha256Hash, u64), BlobError> {
        let mut writer = self.writer(max_bytes)?;
        let mut buffer = vec![0u8; COPY_BYTES];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return writer.commit(None),
                Ok(length) => writer.write(&buffer[..length])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(BlobError::Input(error)),
            }
        }
    }

    /// Stores what an asynchronous source yields, refusing everything when it is not `expected`.
    pub async fn put_stream(
        &self,
        mut source: impl AsyncRead + Unpin,
        max_bytes: u64,
        expected: Option<Sha256Hash>,
    ) -> Result<(Sha256Hash, u64), BlobError> {
        let mut writer = self.writer(max_bytes)?;
        let mut buffer = vec![0u8; COPY_BYTES];
        loop {
            let length = source.read(&mut buffer).await.map_err(BlobError::Input)?;
            if length == 0 {
                break;
            }
            writer.write(&buffer[..length])?;
        }
        blocking(move || writer.commit(expected)).await
    }

    /// Opens a blob for reading after its bytes were found to match its name. Blocks while it is hashed.
    pub fn open_verified(&self, hash: Sha256Hash) -> Result<(File, u64), BlobError> {
        let path = self.path(hash);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(BlobError::NotFound(hash)),
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        let metadata = file.metadata().map_err(io_error("inspect", &path))?;
        let stamp = Stamp::of(&metadata);
        let known = self.inner.verified.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).copied();
        if known == Some(stamp) {
            return Ok((file, stamp.size));
        }
        let got = hash_reader(&mut file).map_err(io_error("read", &path))?;
        if got != hash {
            self.set_aside(hash, &path);
            return Err(BlobError::Corrupt(hash));
        }
        self.remember(hash, stamp);
        io::Seek::rewind(&mut file).map_err(io_error("rewind", &path))?;
        Ok((file, stamp.size))
    }

    /// As [`open_verified`](Self::open_verified), off the runtime's threads.
    pub async fn open_verified_async(&self, hash: Sha256Hash) -> Result<(tokio::fs::File, u64), BlobError> {
        let store = self.clone();
        let (file, size) = blocking(move || store.open_verified(hash)).await?;
        Ok((tokio::fs::File::from_std(file), size))
    }

    fn remember(&self, hash: Sha256Hash, stamp: Stamp) {
        self.inner.verified.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, stamp);
    }

    fn set_aside(&self, hash: Sha256Hash, path: &Path) {
        let serial = self.inner.serial.fetch_add(1, Ordering::Relaxed);
        let aside = self.inner.root.join("corrupt").join(format!("{hash}-{}-{serial}", std::process::id()));
        let moved = fs::rename(path, &aside);
        tracing::error!(%hash, aside = %aside.display(), ?moved, "blob does not match its digest");
    }

    /// Takes a blob out of the store; whoever has it open goes on reading it. True when it was there.
    pub fn remove(&self, hash: Sha256Hash) -> Result<bool, BlobError> {
        let path = self.path(hash);
        self.inner.verified.lock().unwrap_or_else(PoisonError::into_inner).remove(&hash);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_error("remove", &path)(error)),
        }
    }

    /// All blobs, in the order of their names. Blocks.
    pub fn list(&self) -> Result<Vec<Stored>, BlobError> {
        let root = &self.inner.root;
        let mut found = Vec::new();
        for shard in fs::read_dir(root).map_err(io_error("list", root))?.flatten() {
            let Some(prefix) = shard.file_name().to_str().filter(|name| name.len() == 2).map(str::to_owned) else {
                continue;
            };
            for entry in fs::read_dir(shard.path()).map_err(io_error("list", &shard.path()))?.flatten() {
                let name = entry.file_name();
                let hash = name.to_str().and_then(|rest| format!("{prefix}{rest}").parse::<Sha256Hash>().ok());
                if let (Some(hash), Ok(metadata)) = (hash, entry.metadata()) {
                    found.push(Stored { hash, size: metadata.len(), age_ms: age_ms(&metadata) });
                }
            }
        }
        found.sort_unstable_by_key(|stored| stored.hash);
        Ok(found)
    }

    /// Says that a blob is wanted anew: whoever removes what is old leaves it.
    pub fn touch(&self, hash: Sha256Hash) -> Result<(), BlobError> {
        let path = self.path(hash);
        let touch = || -> io::Result<()> {
            let file = File::options().write(true).open(&path)?;
            let before = Stamp::of(&file.metadata()?);
            let now = Duration::from_millis(clock::unix_now().0);
            file.set_modified(std::time::UNIX_EPOCH + now)?;
            // The bytes are the same, only the change time is not: that need not be hashed again.
            let after = Stamp::of(&file.metadata()?);
            let mut verified = self.inner.verified.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = verified.get_mut(&hash).filter(|known| **known == before) {
                *known = after;
            }
            Ok(())
        };
        touch().map_err(io_error("touch", &path))
    }

    /// Removes parts of transfers and damaged blobs whose age in milliseconds `is_stale`. Returns how many. Blocks.
    pub fn remove_leftovers(&self, is_stale: impl Fn(u64) -> bool) -> usize {
        let directories = ["partial", "corrupt"].map(|name| self.inner.root.join(name));
        let entries = directories.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
        let stale = entries.filter(|entry| entry.metadata().is_ok_and(|metadata| is_stale(age_ms(&metadata))));
        let removed = stale.map(|entry| match fs::remove_file(entry.path()) {
            Ok(()) => 1,
            Err(error) => {
                tracing::warn!(file = %entry.path().display(), %error, "a leftover cannot be removed");
                0
            }
        });
        removed.sum()
    }

    /// Moves a complete file into the store after checking its digest. The file is gone afterwards, whatever the answer.
    pub(super) fn adopt(&self, path: &Path, expected: Sha256Hash) -> Result<u64, BlobError> {
        let mut file = File::open(path).map_err(io_error("open", path))?;
        let got = hash_reader(&mut file).map_err(io_error("read", path))?;
        if got != expected {
            fs::remove_file(path).map_err(io_error("remove", path))?;
            return Err(BlobError::Mismatch { expected, got });
        }
        self.install(&file, path, expected)
    }

    fn install(&self, file: &File, temporary: &Path, hash: Sha256Hash) -> Result<u64, BlobError> {
        let path = self.path(hash);
        let directory = path.parent().unwrap_or(&self.inner.root);
        let root = &self.inner.root;
        match fs::create_dir(directory) {
            // Without this the new directory, and the blob in it, may be gone after a power cut.
            Ok(()) => sync_directory(root)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error("create", directory)(error)),
        }
        file.sync_all().map_err(io_error("sync", temporary))?;
        fs::rename(temporary, &path).map_err(io_error("rename", &path))?;
        sync_directory(directory)?;
        // Taken after the rename: renaming changes the change time.
        let metadata = file.metadata().map_err(io_error("inspect", &path))?;
        self.remember(hash, Stamp::of(&metadata));
        Ok(metadata.len())
    }
}

/// Runs blocking work on the pool. A panic in it is a bug and ends the process through the panic hook.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(BlobError::Input(io::Error::other(error))),
    }
}

pub(super) fn hash_reader(source: &mut impl Read) -> io::Result<Sha256Hash> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; COPY_BYTES];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(Sha256Hash(hasher.finalize().into())),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A blob that is being written. Dropped without [`commit`](Self::commit) it leaves nothing.
pub struct BlobWriter {
    store: BlobStore,
    file: File,
    path: PathBuf,
    hasher: Sha256,
    size: u64,
    max_bytes: u64,
    kept: bool,
}

impl BlobWriter {
    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let before = self.size;
        self.size = self.size.saturating_add(bytes.len() as u64);
        if self.size > self.max_bytes {
            return Err(BlobError::TooLarge { max_bytes: self.max_bytes });
        }
        if before / SPACE_CHECK_BYTES != self.size / SPACE_CHECK_BYTES {
            self.store.require_space(0)?;
        }
        self.file.write_all(bytes).map_err(io_error("write", &self.path))?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Syncs and names the blob. Refuses, keeping nothing, when it is not `expected`. Blocks.
    pub fn commit(mut self, expected: Option<Sha256Hash>) -> Result<(Sha256Hash, u64), BlobError> {
        let hash = Sha256Hash(std::mem::take(&mut self.hasher).finalize().into());
        if let Some(expected) = expected.filter(|&expected| expected != hash) {
            return Err(BlobError::Mismatch { expected, got: hash });
        }
        let size = self.store.install(&self.file, &self.path, hash)?;
        self.kept = true;
        Ok((hash, size))
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.kept && fs::remove_file(&self.path).is_err() {
            tracing::debug!(file = %self.path.display(), "temporary file was gone already");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let options = Options { free_min_bytes: 0, ..Options::default() };
        let store = BlobStore::open(directory.path(), options).expect("opens");
        (directory, store)
    }

    #[test]
    fn bytes_are_found_under_their_digest_and_only_once() {
        let (_directory, store) = store();
        let (hash, size) = store.put(&b"hello"[..], 1 << 20).expect("stored");
        assert_eq!(hash.to_string(), "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
        assert_eq!(size, 5);
        assert_eq!(store.put(&b"hello"[..], 1 << 20).expect("stored again"), (hash, 5));
        let listed: Vec<_> = store.list().expect("lists").iter().map(|stored| (stored.hash, stored.size)).collect();
        assert_eq!(listed, [(hash, 5)]);
        let (mut file, _) = store.open_verified(hash).expect("opens");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("reads");
        assert_eq!(text, "hello");
        assert!(store.remove(hash).expect("removes"));
        assert!(!store.remove(hash).expect("is gone"));
        assert!(matches!(store.open_verified(hash), Err(BlobError::NotFound(_))));
    }

    #[test]
    fn changed_bytes_are_noticed_and_set_aside() {
        let (directory, store) = store();
        let (hash, _) = store.put(&b"precious"[..], 1 << 20).expect("stored");
        store.open_verified(hash).expect("intact");
        fs::write(store.path(hash), b"tampered").expect("tampers");
        assert!(matches!(store.open_verified(hash), Err(BlobError::Corrupt(_))));
        assert!(matches!(store.open_verified(hash), Err(BlobError::NotFound(_))));
        assert_eq!(fs::read_dir(directory.path().join("corrupt")).expect("lists").count(), 1);
    }

    #[test]
    fn what_is_too_large_or_not_expected_leaves_nothing() {
        let (directory, store) = store();
        assert!(matches!(store.put(&[0u8; 100][..], 99), Err(BlobError::TooLarge { max_bytes: 99 })));
        let mut writer = store.writer(10).expect("starts");
        writer.write(b"x").expect("writes");
        assert!(matches!(writer.commit(Some(Sha256Hash([0; 32]))), Err(BlobError::Mismatch { .. })));
        assert!(store.list().expect("lists").is_empty());
        assert_eq!(fs::read_dir(directory.path().join("tmp")).expect("lists").count(), 0);
    }

    #[test]
    fn a_full_disk_is_said_before_it_is_full() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let options = Options { free_min_bytes: u64::MAX / 2, ..Options::default() };
        let store = BlobStore::open(directory.path(), options).expect("opens");
        assert!(matches!(store.put(&b"x"[..], 10), Err(BlobError::Full { .. })));
    }

    #[test]
    fn touching_a_blob_keeps_it_verified() {
        let (_directory, store) = store();
        let (hash, _) = store.put(&b"wanted"[..], 1 << 20).expect("stored");
        store.touch(hash).expect("touches");
        let metadata = fs::metadata(store.path(hash)).expect("inspects");
        let known = store.inner.verified.lock().expect("not poisoned").get(&hash).copied();
        assert!(known == Some(Stamp::of(&metadata)), "not hashed again");
        assert!(store.touch(Sha256Hash([0; 32])).is_err(), "is not there");
    }

    #[test]
    fn leftovers_go_when_they_are_stale_and_blobs_stay() {
        let (directory, store) = store();
        let (hash, _) = store.put(&b"precious"[..], 1 << 20).expect("stored");
        for name in ["partial/1", "partial/1.map", "corrupt/2"] {
            fs::write(directory.path().join(name), b"old").expect("writes");
        }
        assert_eq!(store.remove_leftovers(|_| false), 0);
        assert_eq!(store.remove_leftovers(|_| true), 3);
        assert_eq!(store.size(hash), Some(8));
    }

    #[test]
    fn half_written_files_of_a_crash_are_removed() {
        let (directory, store) = store();
        fs::write(directory.path().join("tmp/1-1"), b"half").expect("writes");
        drop(store);
        BlobStore::open(directory.path(), Options::default()).expect("opens");
        assert_eq!(fs::read_dir(directory.path().join("tmp")).expect("lists").count(), 0);
    }
}
