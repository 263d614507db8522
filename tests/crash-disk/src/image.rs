//! What a crash leaves: the files as they may be when the machine comes back.
//!
//! What was synced is there. Of what was not, any part may be: each sector of each write on its own, each change of length on its own.
//! Names (made, changed, removed) come back up to some point in the order in which that was done, as the journals of ext4,
//! XFS and btrfs bring them back; POSIX promises less. What a failed sync was to write never becomes durable, whatever is synced
//! later. A sector is written whole or not at all, and bytes beside what is written stay as they are (SQLite's `psow`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::{FileId, Op, Random, Trace};

/// Bytes that a device writes in one piece.
const SECTOR_BYTES: u64 = 512;

/// How the machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Only the process: everything that it wrote is there.
    Kill,
    /// Power: nothing that was not synced.
    Lost,
    /// Power: what was not synced up to some point, and the write there in part.
    Torn,
    /// Power: any of the writes that were not synced.
    Reordered,
    /// Power: any of the sectors that were not synced.
    Sectors,
}

impl Crash {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Kill, Self::Lost, Self::Torn, Self::Reordered, Self::Sectors];
}

#[derive(Clone, Debug)]
enum Content {
    File(FileId),
    Directory,
}

#[derive(Clone, Debug)]
struct Pending {
    op: Op,
    /// A sync of it failed: it is in memory only, for ever.
    doomed: bool,
}

/// The device up to some point of a trace.
#[derive(Clone, Debug, Default)]
pub struct Model {
    names: BTreeMap<String, Content>,
    files: BTreeMap<FileId, Vec<u8>>,
    pending: Vec<Pending>,
}

/// Files after a crash: contents by name, none for directories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image(pub BTreeMap<String, Option<Vec<u8>>>);

fn put(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let Ok(start) = usize::try_from(offset) else { return };
    let end = start + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(bytes);
}

fn data(files: &mut BTreeMap<FileId, Vec<u8>>, op: &Op, mut keep: impl FnMut() -> bool) {
    match op {
        Op::Write { file, offset, bytes } => {
            let content = files.entry(*file).or_default();
            let mut done = 0;
            while done < bytes.len() {
                let at = offset + done as u64;
                let left = usize::try_from(SECTOR_BYTES - at % SECTOR_BYTES).unwrap_or(usize::MAX);
                let end = bytes.len().min(done + left);
                if keep() {
                    put(content, at, &bytes[done..end]);
                }
                done = end;
            }
        }
        Op::Truncate { file, size } if keep() => {
            files.entry(*file).or_default().resize(usize::try_from(*size).unwrap_or(usize::MAX), 0);
        }
        _ => {}
    }
}

fn name(names: &mut BTreeMap<String, Content>, op: &Op) {
    match op {
        Op::Create { name, file } => drop(names.insert(name.clone(), Content::File(*file))),
        Op::MakeDirectory { name } => drop(names.insert(name.clone(), Content::Directory)),
        Op::Rename { from, to } => {
            if let Some(content) = names.remove(from) {
                names.insert(to.clone(), content);
            }
        }
        Op::Unlink { name } => drop(names.remove(name)),
        _ => {}
    }
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn changes_names_in(op: &Op, directory: &str) -> bool {
    match op {
        Op::Create { name, .. } | Op::MakeDirectory { name } | Op::Unlink { name } => parent(name) == directory,
        Op::Rename { from, to } => parent(from) == directory || parent(to) == directory,
        _ => false,
    }
}

fn is_name(op: &Op) -> bool {
    matches!(op, Op::Create { .. } | Op::MakeDirectory { .. } | Op::Rename { .. } | Op::Unlink { .. })
}

fn file_of(op: &Op) -> Option<FileId> {
    match op {
        Op::Write { file, .. } | Op::Truncate { file, .. } => Some(*file),
        _ => None,
    }
}

impl Model {
    /// As it was when watching began.
    pub fn new(trace: &Trace) -> Self {
        let mut model = Self::default();
        for (name, content) in &trace.before {
            let content = match content {
                Some((file, bytes)) => {
                    model.files.insert(*file, bytes.clone());
                    Content::File(*file)
                }
                None => Content::Directory,
            };
            model.names.insert(name.clone(), content);
        }
        model
    }

    /// One step further.
    pub fn step(&mut self, op: &Op) {
        match op {
            Op::Sync { file } => self.sync(*file),
            Op::SyncFailed { file } => {
                let concerned = self.pending.iter_mut().filter(|pending| file_of(&pending.op) == Some(*file));
                concerned.for_each(|pending| pending.doomed = true);
            }
            Op::SyncDirectory { name } => self.sync_names(name),
            Op::Note { .. } => {}
            Op::Create { .. }
            | Op::MakeDirectory { .. }
            | Op::Write { .. }
            | Op::Truncate { .. }
            | Op::Rename { .. }
            | Op::Unlink { .. } => self.pending.push(Pending { op: op.clone(), doomed: false }),
        }
    }

    /// Names become durable in order: with the last change in this directory all before it, wherever they were.
    fn sync_names(&mut self, directory: &str) {
        let last = self.pending.iter().rposition(|pending| changes_names_in(&pending.op, directory));
        let Some(last) = last else { return };
        let names = &mut self.names;
        let mut position = 0;
        self.pending.retain(|pending| {
            let durable = position <= last && is_name(&pending.op);
            position += 1;
            if durable {
                name(names, &pending.op);
            }
            !durable
        });
    }

    fn sync(&mut self, file: FileId) {
        let files = &mut self.files;
        self.pending.retain(|pending| {
            let concerned = file_of(&pending.op) == Some(file);
            if concerned && !pending.doomed {
                data(files, &pending.op, || true);
            }
            !concerned
        });
    }

    /// How many changes are not durable.
    pub fn unsynced(&self) -> usize {
        self.pending.len()
    }

    /// What a crash now leaves.
    pub fn image(&self, crash: Crash, random: &mut Random) -> Image {
        let (mut names, mut files) = (self.names.clone(), self.files.clone());
        let count = self.pending.len() as u64;
        // In how many of a hundred cases something survives: sometimes nearly all of it does, sometimes hardly any.
        let chance = [10, 50, 90][usize::try_from(random.below(3)).unwrap_or_default()];
        let names_end = match crash {
            Crash::Kill => count,
            Crash::Lost => 0,
            Crash::Torn | Crash::Reordered | Crash::Sectors => random.below(count + 1),
        };
        let data_end = match crash {
            Crash::Lost => 0,
            Crash::Torn => random.below(count + 1),
            Crash::Kill | Crash::Reordered | Crash::Sectors => count,
        };
        for (position, Pending { op, .. }) in (0..).zip(&self.pending) {
            if is_name(op) {
                if position < names_end {
                    name(&mut names, op);
                }
                continue;
            }
            match crash {
                Crash::Kill => data(&mut files, op, || true),
                Crash::Lost => {}
                Crash::Torn if position < data_end => data(&mut files, op, || true),
                Crash::Torn if position == data_end => data(&mut files, op, || random.percent(50)),
                Crash::Torn => {}
                Crash::Reordered => {
                    let kept = random.percent(chance);
                    data(&mut files, op, || kept);
                }
                Crash::Sectors => data(&mut files, op, || random.percent(chance)),
            }
        }
        let there = |name: &str| {
            let above = std::iter::successors(Some(parent(name)), |name| Some(parent(name)));
            above.take_while(|name| !name.is_empty()).all(|name| matches!(names.get(name), Some(Content::Directory)))
        };
        let entries = names.iter().filter(|(name, _)| there(name)).map(|(name, content)| {
            let bytes = match content {
                Content::File(file) => Some(files.get(file).cloned().unwrap_or_default()),
                Content::Directory => None,
            };
            (name.clone(), bytes)
        });
        Image(entries.collect())
    }
}

impl Image {
    /// Makes `root` hold exactly this. The directory itself stays the same one.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
        }
        // In the order of names directories come before what is in them.
        for (name, content) in &self.0 {
            match content {
                Some(bytes) => fs::write(root.join(name), bytes)?,
                None => fs::create_dir(root.join(name))?,
            }
        }
        Ok(())
    }

    /// What is in `root` now, as far as it is recorded.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut found = BTreeMap::new();
        let mut waiting = vec![String::new()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(root.join(&directory))? {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let name = if directory.is_empty() { name } else { format!("{directory}/{name}") };
                if entry.metadata()?.is_dir() {
                    found.insert(name.clone(), None);
                    waiting.push(name);
                } else if crate::record::is_recorded(&name) {
                    found.insert(name, Some(fs::read(entry.path())?));
                }
            }
        }
        Ok(Self(found))
    }
}
