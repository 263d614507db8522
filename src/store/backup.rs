//! The file of a backup: what it says of itself in front of a copy of `hive.db`, so that nobody restores what is damaged or cut short.
//!
//! ```text
//!   hive-backup 1 ⏎                      format
//!   {"hive_id": …, "applied": …} ⏎       what the copy stands for, its length and SHA-256
//!   64 hexadecimal digits ⏎              SHA-256 of the two lines above
//!   the copy                             one SQLite file
//! ```
//!
//! The first lines are text, so that `head -2` tells people what a file is. Never done here: knowing what a row means, or replacing
//! anything.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::StoreError;
use super::hive_db::HiveMeta;
use super::raft_db::LogPoint;
use crate::engine::id::{Epoch, HiveId, Sha256Hash, UnixMillis};

/// First word of the file.
const MAGIC: &str = "hive-backup ";
/// The format written here, and the highest that is read.
pub const FORMAT: u32 = 1;
/// Longest of the three lines, bytes.
const LINE_MAX: u64 = 16 << 10;
/// Bytes copied and hashed at a time.
const COPY_BYTES: usize = 256 << 10;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The hive that it was made of.
    pub hive_id: HiveId,
    /// Its epoch then.
    pub epoch: Epoch,
    /// The last entry of the log that is in it.
    pub applied: LogPoint,
    /// Chain hash there.
    pub chain: Sha256Hash,
    /// Version of hive that made it.
    pub version: String,
    /// Name of the node that made it.
    pub node: String,
    /// When, by that node's clock.
    pub made_at: UnixMillis,
    /// Length of the copy, bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Sha256Hash,
}

/// Why a file cannot be restored. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something else.
    #[error("{} is not a backup of a hive", .0.display())]
    NotOne(PathBuf),
    /// Written by a later hive.
    #[error("{} has format {found}, this hive knows {FORMAT}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Its end is missing.
    #[error("{} is cut short: {found} of {expected} bytes are there", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Bytes that are there.
        found: u64,
        /// Bytes that it says it has.
        expected: u64,
    },
    /// It is not what was written.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The system refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Header {
    /// Of a copy that was just made. None when it belongs to no hive, or nothing was applied to it.
    pub fn of(meta: &HiveMeta, node: &str, made_at: UnixMillis, (size, sha256): (u64, [u8; 32])) -> Option<Self> {
        let (hive_id, epoch) = meta.hive?;
        Some(Self {
            hive_id,
            epoch,
            applied: meta.applied?,
            chain: Sha256Hash(meta.chain),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: node.to_owned(),
            made_at,
            size,
            sha256: Sha256Hash(sha256),
        })
    }

    /// Name for the file: which hive, and up to where.
    pub fn file_name(&self) -> String {
        let hive = self.hive_id.to_string();
        format!("hive-{}-{}.backup", hive.get(..8).unwrap_or(&hive), self.applied.index)
    }

    /// The lines in front of the copy.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut text = format!("{MAGIC}{FORMAT}\n{}\n", serde_json::to_string(self)?);
        let digest = hex::encode(Sha256::digest(text.as_bytes()));
        text.push_str(&digest);
        text.push('\n');
        Ok(text.into_bytes())
    }
}

/// A backup whose lines were read; the copy comes next.
struct Opened {
    file: File,
    header: Header,
    /// Length of the lines.
    before: u64,
    length: u64,
}

fn line(path: &Path, file: &mut impl Read, into: &mut Vec<u8>) -> Result<(), BackupError> {
    // Byte by byte: three short lines, and what follows them must not be read ahead.
    let mut byte = [0];
    for _ in 0..LINE_MAX {
        match file.read(&mut byte) {
            Ok(1) => into.push(byte[0]),
            Ok(_) => return Ok(()),
            Err(error) => return Err(StoreError::io("read", path, error).into()),
        }
        if byte[0] == b'\n' {
            return Ok(());
        }
        if into.len() == MAGIC.len() && *into != MAGIC.as_bytes() {
            return Err(BackupError::NotOne(path.to_owned()));
        }
    }
    Err(BackupError::Damaged { path: path.to_owned(), what: "what it says of itself is too long".to_owned() })
}

fn open(path: &Path) -> Result<Opened, BackupError> {
    let damaged = |what: &str| BackupError::Damaged { path: path.to_owned(), what: what.to_owned() };
    let mut file = File::open(path).map_err(|error| StoreError::io("open", path, error))?;
    let metadata = file.metadata().map_err(|error| StoreError::io("read", path, error))?;
    if !metadata.is_file() {
        return Err(BackupError::NotOne(path.to_owned()));
    }
    let length = metadata.len();
    let cut = |expected: u64| BackupError::Short { path: path.to_owned(), found: length, expected };
    let mut lines = Vec::new();
    line(path, &mut file, &mut lines)?;
    if !lines.starts_with(MAGIC.as_bytes()) {
        return Err(BackupError::NotOne(path.to_owned()));
    }
    if !lines.ends_with(b"\n") {
        return Err(cut(length + 1));
    }
    let format = std::str::from_utf8(&lines[MAGIC.len()..]).ok().and_then(|text| text.trim_end().parse::<u32>().ok());
    match format {
        Some(FORMAT) => {}
        Some(found) if found > FORMAT => return Err(BackupError::Newer { path: path.to_owned(), found }),
        Some(_) | None => return Err(damaged("its first line names no format")),
    }
    let first = lines.len();
    line(path, &mut file, &mut lines)?;
    let told = lines.len();
    line(path, &mut file, &mut lines)?;
    if !lines.ends_with(b"\n") || lines.len() == told {
        // How long it was to be is in the part that is missing, or cannot be trusted.
        return Err(cut(length + 1));
    }
    let digest = hex::encode(Sha256::digest(&lines[..told]));
    if lines[told..].trim_ascii_end() != digest.as_bytes() {
        return Err(damaged("what it says of itself does not match its digest"));
    }
    let header: Header = serde_json::from_slice(&lines[first..told])
        .map_err(|error| damaged(&format!("what it says of itself cannot be read ({error})")))?;
    let before = lines.len() as u64;
    let expected = before.saturating_add(header.size);
    if length < expected {
        return Err(cut(expected));
    }
    if length > expected {
        return Err(damaged(&format!("{} bytes follow its end", length - expected)));
    }
    Ok(Opened { file, header, before, length })
}

/// What a file says of itself, with its length. The copy in it is not looked at.
pub fn peek(path: &Path) -> Result<(Header, u64), BackupError> {
    open(path).map(|opened| (opened.header, opened.length))
}

/// Reads a backup to its end and compares it with its digest; `into`: writes the copy there, durably and for nobody else to read. Tells how
/// many bytes are done, of how many. On an error what was written is removed.
pub fn extract(path: &Path, into: Option<&Path>, mut told: impl FnMut(u64, u64)) -> Result<Header, BackupError> {
    let mut opened = open(path)?;
    let out = match into {
        Some(target) => {
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target);
            Some((target, made.map_err(|error| StoreError::io("create", target, error))?))
        }
        None => None,
    };
    let done = copy(path, &mut opened, out, &mut told);
    if let (Err(_), Some(target)) = (&done, into) {
        // What cannot be removed is named by the next attempt, which finds it in its way.
        let _ = std::fs::remove_file(target);
    }
    done.map(|()| opened.header)
}

fn copy(
    path: &Path,
    opened: &mut Opened,
    mut out: Option<(&Path, File)>,
    told: &mut impl FnMut(u64, u64),
) -> Result<(), BackupError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; COPY_BYTES];
    let (mut done, size) = (0u64, opened.header.size);
    while done < size {
        let wanted = usize::try_from(size - done).unwrap_or(usize::MAX).min(buffer.len());
        let count = opened.file.read(&mut buffer[..wanted]).map_err(|error| StoreError::io("read", path, error))?;
        if count == 0 {
            let (found, expected) = (opened.before + done, opened.before + size);
            return Err(BackupError::Short { path: path.to_owned(), found, expected });
        }
        hasher.update(&buffer[..count]);
        if let Some((target, file)) = &mut out {
            file.write_all(&buffer[..count]).map_err(|error| StoreError::io("write", target, error))?;
        }
        done += count as u64;
        told(done, size);
    }
    let found: [u8; 32] = hasher.finalize().into();
    if found != opened.header.sha256.0 {
        let what = "its content does not match its digest".to_owned();
        return Err(BackupError::Damaged { path: path.to_owned(), what });
    }
    if let Some((target, file)) = &out {
        file.sync_all().map_err(|error| StoreError::io("sync", target, error))?;
    }
    Ok(())
}

/// Writes a backup of a copy that lies in a file, durably, for nobody else to read; never over anything. On an error nothing is left.
pub fn write(header: &Header, copy: &Path, target: &Path) -> Result<(), StoreError> {
    let fail = |action| move |error| StoreError::io(action, target, error);
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target).map_err(fail("create"))?;
    let mut fill = || -> io::Result<()> {
        out.write_all(&header.to_bytes()?)?;
        io::copy(&mut File::open(copy)?, &mut out)?;
        out.sync_all()
    };
    fill().map_err(|error| {
        let _ = std::fs::remove_file(target);
        fail("write")(error)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::engine::id::EpochId;

    const COPY: &[u8] = &[7; 300_000];

    fn made(directory: &Path) -> (PathBuf, Header) {
        let meta = HiveMeta {
            hive: Some((HiveId([1; 16]), Epoch { counter: 2, id: EpochId([3; 16]) })),
            applied: Some(LogPoint { term: 4, index: 512 }),
            membership: Vec::new(),
            chain: [5; 32],
            at: UnixMillis::default(),
        };
        let digest: [u8; 32] = Sha256::digest(COPY).into();
        let header = Header::of(&meta, "n1", UnixMillis(6), (COPY.len() as u64, digest)).expect("of a hive");
        let (copy, path) = (directory.join("copy"), directory.join(header.file_name()));
        std::fs::write(&copy, COPY).expect("writes");
        write(&header, &copy, &path).expect("writes");
        (path, header)
    }

    #[test]
    fn what_was_written_is_read_and_only_its_owner_may() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (path, header) = made(directory.path());
        assert_eq!(path.file_name().and_then(|name| name.to_str()), Some("hive-01010101-512.backup"));
        assert_eq!(std::fs::metadata(&path).expect("is there").mode() & 0o777, 0o600);
        assert_eq!(peek(&path).expect("reads").0, header);
        let (target, mut last) = (directory.path().join("out"), (0, 0));
        assert_eq!(extract(&path, Some(&target), |done, of| last = (done, of)).expect("reads"), header);
        assert_eq!(last, (300_000, 300_000));
        assert_eq!(std::fs::read(&target).expect("reads"), COPY);
        assert_eq!(std::fs::metadata(&target).expect("is there").mode() & 0o777, 0o600);
        assert!(extract(&path, Some(&target), |_, _| {}).is_err(), "never over anything");
        assert_eq!(std::fs::read(&target).expect("reads"), COPY, "and what is in the way stays");
        assert!(write(&header, &target, &path).is_err(), "never over anything");
    }

    #[test]
    fn every_flipped_byte_and_every_missing_end_is_noticed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (path, _) = made(directory.path());
        let good = std::fs::read(&path).expect("reads");
        let lines = good.len() - COPY.len();
        let (bad, target) = (directory.path().join("bad"), directory.path().join("out"));
        let try_it = |content: &[u8]| {
            std::fs::write(&bad, content).expect("writes");
            let error = extract(&bad, Some(&target), |_, _| {}).expect_err("refused");
            assert!(!target.exists(), "nothing is left: {error}");
            error
        };
        // All of the lines, and some of the copy.
        for at in (0..lines).chain([lines, lines + 1, lines + 123_456, good.len() - 1]) {
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            let error = try_it(&flipped);
            let known = matches!(
                error,
                BackupError::NotOne(_)
                    | BackupError::Damaged { .. }
                    | BackupError::Newer { .. }
                    | BackupError::Short { .. }
            );
            assert!(known, "byte {at}: {error}");
        }
        for length in (0..lines).chain([lines, lines + 1, good.len() - 1]) {
            let error = try_it(&good[..length]);
            assert!(matches!(error, BackupError::NotOne(_) | BackupError::Short { .. }), "{length} bytes: {error}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert!(matches!(try_it(&longer), BackupError::Damaged { .. }));
    }

    #[test]
    fn other_files_and_later_formats_are_named_as_what_they_are() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("x");
        std::fs::write(&path, "hive-backup 2\nwhatever a later hive says\n").expect("writes");
        assert!(matches!(peek(&path), Err(BackupError::Newer { found: 2, .. })));
        std::fs::write(&path, b"SQLite format 3\0").expect("writes");
        assert!(matches!(peek(&path), Err(BackupError::NotOne(_))));
        std::fs::write(&path, "hive-backup one\n{}\n").expect("writes");
        assert!(matches!(peek(&path), Err(BackupError::Damaged { .. })));
        assert!(matches!(peek(directory.path()), Err(BackupError::NotOne(_))), "a directory");
    }
}
