//! What a process wrote and synced below a directory, and what a power cut would have left of it. For tests only.
//!
//! ```text
//!   SQLite, std::fs ──► write, fsync, rename … of this crate ──► the kernel
//!                              │
//!                              ▼
//!                       Trace ──► Model, step by step ──► Image: the files after a crash at that point
//! ```
//!
//! This crate defines libc's functions for files anew ([`calls`]). A program that links it calls them instead, and so do the Rust
//! standard library and the SQLite inside it. An SQLite VFS would see SQLite's files only; this sees the renames, directory syncs
//! and plain files, too, that durability rests on just as much, and nothing in the tested program is changed for it.
//!
//! Below a watched directory every call is recorded in the order in which the kernel saw it, and can be made to fail ([`Fault`]). Syncs
//! are recorded and not carried out: what reaches the real disk does not matter here, and tests are quicker. Elsewhere, and while
//! nothing is watched, every call goes straight to the kernel.
//!
//! Never done here: knowing what is in the files. Not seen: memory maps (SQLite's `-shm` files, which it makes anew after a crash, are
//! left out), `io_uring`, `writev`, `copy_file_range`, the calls of other processes.

mod calls;
mod image;
mod record;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use image::{Crash, Image, Model};

/// A file under whatever name: numbered in the order of appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(pub(crate) u32);

/// One thing that happened below the watched directory. Names are relative to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A new file.
    Create {
        /// Under this name.
        name: String,
        /// The file.
        file: FileId,
    },
    /// A new directory.
    MakeDirectory {
        /// Under this name.
        name: String,
    },
    /// Bytes.
    Write {
        /// Of which file.
        file: FileId,
        /// From here on.
        offset: u64,
        /// The bytes.
        bytes: Arc<[u8]>,
    },
    /// Another length.
    Truncate {
        /// Of which file.
        file: FileId,
        /// The new length, bytes.
        size: u64,
    },
    /// The file's bytes and length are durable.
    Sync {
        /// Which file.
        file: FileId,
    },
    /// The file could not be synced: the kernel has marked its pages clean, and they will never be written.
    SyncFailed {
        /// Which file.
        file: FileId,
    },
    /// The names in a directory are durable.
    SyncDirectory {
        /// Which directory; empty for the watched one.
        name: String,
    },
    /// Another name; a file that had the new name is gone.
    Rename {
        /// Old name.
        from: String,
        /// New name.
        to: String,
    },
    /// A name is gone.
    Unlink {
        /// Which name.
        name: String,
    },
    /// Something that the test wants to find again at this place.
    Note {
        /// What.
        what: &'static str,
        /// Which one.
        number: u64,
    },
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One call fails with `EIO`, those behind it succeed: the kind that tempts to try again.
    ErrorOnce,
    /// All calls fail with `EIO` from then on.
    ErrorForEver,
    /// Nothing can be written or made any more (`ENOSPC`); the first write still takes the first half of its bytes.
    Full,
}

/// Which syncs a lying device claims to have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    /// None.
    #[default]
    Honest,
    /// Those of files.
    Files,
    /// Those of directories.
    Directories,
}

/// A file with all that is in it.
pub(crate) type WholeFile = (FileId, Vec<u8>);

/// Everything since watching began.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// What was there then: contents of files, none for a directory. All of it counts as durable.
    pub(crate) before: Vec<(String, Option<WholeFile>)>,
    /// What happened since.
    pub ops: Vec<Op>,
}

/// A watched directory. Watching ends when it is dropped.
#[derive(Debug)]
pub struct Disk {
    id: u64,
    root: PathBuf,
}

impl Disk {
    /// Watches `root` from now on. Files that are open already, or are opened under another path to the same place, are not seen.
    ///
    /// # Panics
    /// When the calls of this process do not come by here, so that nothing would be recorded.
    pub fn watch(root: &Path) -> io::Result<Self> {
        calls::keep();
        let root = root.canonicalize()?;
        let disk = Self { id: record::watch(&root)?, root };
        let probe = disk.root.join("probe");
        std::fs::write(&probe, b"x")?;
        std::fs::remove_file(&probe)?;
        let seen = record::with(disk.id, |state| std::mem::take(&mut state.trace.ops)).unwrap_or_default();
        let probed = seen.iter().filter(|op| !matches!(op, Op::Note { .. })).count();
        assert_eq!(probed, 3, "this process does not call what crash-disk defines: {seen:?}");
        record::with(disk.id, |state| state.attempts = 0);
        Ok(disk)
    }

    /// The watched directory, as calls must name it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Puts a note into the trace.
    pub fn note(&self, what: &'static str, number: u64) {
        record::with(self.id, |state| state.trace.ops.push(Op::Note { what, number }));
    }

    /// Calls so far that could have failed.
    pub fn attempts(&self) -> u64 {
        record::with(self.id, |state| state.attempts).unwrap_or_default()
    }

    /// Breaks the device at the given call, counted as [`attempts`](Self::attempts) counts.
    pub fn break_at(&self, attempt: u64, fault: Fault) {
        record::with(self.id, |state| state.fault = Some((attempt, fault)));
    }

    /// Repairs the device.
    pub fn repair(&self) {
        record::with(self.id, |state| state.fault = None);
    }

    /// The first call that failed, if any.
    pub fn broken(&self) -> Option<String> {
        record::with(self.id, |state| state.broken.clone()).flatten()
    }

    /// From now on some syncs do nothing and say that they did.
    pub fn lie(&self, lie: Lie) {
        record::with(self.id, |state| state.lie = lie);
    }

    /// Ends watching, whoever else still holds this.
    pub fn stop(&self) {
        record::forget(self.id);
    }

    /// Everything so far.
    pub fn trace(&self) -> Trace {
        record::with(self.id, |state| state.trace.clone()).unwrap_or_default()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Numbers that look random and depend on the seed alone (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A new sequence.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 when that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number().checked_rem(end).unwrap_or_default()
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}
