//! Which files are watched, and what happened to them.
//!
//! One lock is held while a call goes to the kernel and until it is recorded, so that the order here is the order there. Never done
//! here: calling the kernel, judging what survives.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Fault, FileId, Lie, Op, Trace};

/// Device and inode.
pub(crate) type Identity = (u64, u64);

/// A watched directory.
pub(crate) struct State {
    id: u64,
    root: PathBuf,
    pub(crate) trace: Trace,
    files: BTreeMap<Identity, FileId>,
    directories: BTreeMap<Identity, String>,
    next_file: u32,
    pub(crate) attempts: u64,
    pub(crate) fault: Option<(u64, Fault)>,
    pub(crate) broken: Option<String>,
    pub(crate) lie: Lie,
}

static DISKS: Mutex<Vec<State>> = Mutex::new(Vec::new());
/// Whether there are any, without the lock: most calls of a process have nothing to do with this.
static ANY: AtomicBool = AtomicBool::new(false);
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

fn disks() -> MutexGuard<'static, Vec<State>> {
    DISKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether anything is watched.
pub(crate) fn any() -> bool {
    ANY.load(Ordering::Acquire)
}

fn adopt(state: &mut State, directory: &Path, relative: &str) -> io::Result<()> {
    let metadata = fs::metadata(directory)?;
    state.directories.insert((metadata.dev(), metadata.ino()), relative.to_owned());
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = if relative.is_empty() { name } else { format!("{relative}/{name}") };
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            state.trace.before.push((name.clone(), None));
            adopt(state, &entry.path(), &name)?;
        } else if metadata.is_file() && is_recorded(&name) {
            let file = state.new_file((metadata.dev(), metadata.ino()));
            state.trace.before.push((name, Some((file, fs::read(entry.path())?))));
        }
    }
    Ok(())
}

/// The index of a write-ahead log is shared memory: SQLite makes it anew when it is the first to open the database.
pub(crate) fn is_recorded(name: &str) -> bool {
    !name.ends_with("-shm")
}

pub(crate) fn watch(root: &Path) -> io::Result<u64> {
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let mut state = State {
        id,
        root: root.to_owned(),
        trace: Trace::default(),
        files: BTreeMap::new(),
        directories: BTreeMap::new(),
        next_file: 0,
        attempts: 0,
        fault: None,
        broken: None,
        lie: Lie::Honest,
    };
    adopt(&mut state, root, "")?;
    let mut disks = disks();
    for other in disks.iter_mut() {
        other.files.retain(|identity, _| !state.files.contains_key(identity));
        other.directories.retain(|identity, _| !state.directories.contains_key(identity));
    }
    disks.push(state);
    ANY.store(true, Ordering::Release);
    Ok(id)
}

pub(crate) fn forget(id: u64) {
    let mut disks = disks();
    disks.retain(|state| state.id != id);
    ANY.store(!disks.is_empty(), Ordering::Release);
}

pub(crate) fn with<T>(id: u64, work: impl FnOnce(&mut State) -> T) -> Option<T> {
    disks().iter_mut().find(|state| state.id == id).map(work)
}

/// What is to be done about a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Go,
    /// Only half of the bytes are written.
    Half,
    /// It fails with this number.
    Fail(i32),
}

/// A watched directory, locked.
pub(crate) struct Held {
    disks: MutexGuard<'static, Vec<State>>,
    position: usize,
}

/// What a descriptor stands for.
pub(crate) enum Node {
    File(FileId),
    Directory(String),
}

impl Held {
    pub(crate) fn state(&mut self) -> &mut State {
        &mut self.disks[self.position]
    }

    /// A file was made.
    pub(crate) fn created(&mut self, identity: Identity, name: String) {
        self.gone(identity);
        let state = self.state();
        let file = state.new_file(identity);
        state.trace.ops.push(Op::Create { name, file });
    }

    /// What had this number is gone, or about to be, and another file may get the number.
    pub(crate) fn gone(&mut self, identity: Identity) {
        for state in self.disks.iter_mut() {
            state.files.remove(&identity);
            state.directories.remove(&identity);
        }
    }

    pub(crate) fn record(&mut self, op: Op) {
        self.state().trace.ops.push(op);
    }
}

/// A file outside was made or removed: whatever had its number is not watched any more.
pub(crate) fn gone(identity: Identity) {
    for state in disks().iter_mut() {
        state.files.remove(&identity);
        state.directories.remove(&identity);
    }
}

/// The disk to which an open file belongs.
pub(crate) fn held_node(identity: Identity) -> Option<(Held, Node)> {
    let disks = disks();
    let found = disks.iter().enumerate().find_map(|(position, state)| {
        let file = state.files.get(&identity).map(|file| Node::File(*file));
        let node = file.or_else(|| state.directories.get(&identity).cloned().map(Node::Directory))?;
        Some((position, node))
    });
    let (position, node) = found?;
    Some((Held { disks, position }, node))
}

/// The disk to which a path belongs, and its name there.
pub(crate) fn held_path(path: &str) -> Option<(Held, String)> {
    let disks = disks();
    let found = disks.iter().enumerate().find_map(|(position, state)| {
        let relative = Path::new(path).strip_prefix(&state.root).ok()?;
        Some((position, relative.to_str()?.to_owned()))
    });
    let (position, name) = found?;
    Some((Held { disks, position }, name))
}

impl State {
    fn new_file(&mut self, identity: Identity) -> FileId {
        let file = FileId(self.next_file);
        self.next_file += 1;
        self.directories.remove(&identity);
        self.files.insert(identity, file);
        file
    }

    /// A directory was opened or made.
    pub(crate) fn directory(&mut self, identity: Identity, name: String) {
        self.files.remove(&identity);
        self.directories.insert(identity, name);
    }

    /// The file behind a descriptor.
    pub(crate) fn file(&self, identity: Identity) -> Option<FileId> {
        self.files.get(&identity).copied()
    }

    /// Counts a call and says what becomes of it. `adds`: it needs space.
    pub(crate) fn verdict(&mut self, what: &str, adds: bool) -> Verdict {
        let now = self.attempts;
        self.attempts += 1;
        let Some((at, fault)) = self.fault else { return Verdict::Go };
        let verdict = match fault {
            Fault::ErrorOnce if now == at => Verdict::Fail(libc::EIO),
            Fault::ErrorForEver if now >= at => Verdict::Fail(libc::EIO),
            Fault::Full if now >= at && adds && self.broken.is_none() => Verdict::Half,
            Fault::Full if now >= at && adds => Verdict::Fail(libc::ENOSPC),
            Fault::ErrorOnce | Fault::ErrorForEver | Fault::Full => Verdict::Go,
        };
        if verdict != Verdict::Go && self.broken.is_none() {
            self.broken = Some(format!("call {now}: {what}"));
        }
        verdict
    }
}
