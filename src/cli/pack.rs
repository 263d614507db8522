//! A local directory on its way to the hive: the hook at which the archive format of `blobs` is bound.
//!
//! The archive is deterministic (sorted names, no times, no owners), so that the same tree is the same blob. Links that leave the
//! tree, devices and sockets are refused: they would mean something else on the drone.

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::engine::id::Sha256Hash;

/// Largest archive, bytes.
const ARCHIVE_MAX_LEN: u64 = 1 << 30;
/// Most entries of an archive.
const ENTRIES_MAX: usize = 200_000;

/// An archive, complete and rewound.
#[derive(Debug)]
pub(crate) struct Packed {
    /// Its bytes, in a file without a name.
    pub(crate) file: File,
    /// Their number.
    pub(crate) size: u64,
    /// Their digest.
    pub(crate) sha256: Sha256Hash,
}

/// Archives a directory.
pub(crate) fn pack_directory(directory: &Path) -> io::Result<Packed> {
    let mut entries = Vec::new();
    collect(directory, Path::new(""), &mut entries)?;
    entries.sort();
    let mut sink = Sink { file: tempfile::tempfile()?, digest: Sha256::new(), size: 0 };
    let mut archive = tar::Builder::new(&mut sink);
    archive.mode(tar::HeaderMode::Deterministic);
    for relative in &entries {
        append(&mut archive, directory, relative)?;
    }
    archive.finish()?;
    drop(archive);
    let Sink { mut file, digest, size } = sink;
    file.seek(SeekFrom::Start(0))?;
    Ok(Packed { file, size, sha256: Sha256Hash(digest.finalize().into()) })
}

fn invalid(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {what}", path.display()))
}

fn collect(root: &Path, below: &Path, entries: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let relative = below.join(entry.file_name());
        if entries.len() >= ENTRIES_MAX {
            return Err(invalid(root, &format!("holds more than {ENTRIES_MAX} files")));
        }
        entries.push(relative.clone());
        if entry.file_type()?.is_dir() {
            collect(root, &relative, entries)?;
        }
    }
    Ok(())
}

fn append(archive: &mut tar::Builder<&mut Sink>, root: &Path, relative: &Path) -> io::Result<()> {
    let path = root.join(relative);
    let metadata = fs::symlink_metadata(&path)?;
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    let executable = metadata.permissions().mode() & 0o111 != 0;
    header.set_mode(if metadata.is_dir() || executable { 0o755 } else { 0o644 });
    header.set_size(0);
    if metadata.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        archive.append_data(&mut header, relative, io::empty())
    } else if metadata.is_file() {
        header.set_size(metadata.len());
        archive.append_data(&mut header, relative, io::Read::take(File::open(&path)?, metadata.len()))
    } else if metadata.is_symlink() {
        let link = fs::read_link(&path)?;
        if !stays_inside(relative, &link) {
            return Err(invalid(&path, "a link that leaves the directory cannot travel"));
        }
        header.set_entry_type(tar::EntryType::Symlink);
        archive.append_link(&mut header, relative, &link)
    } else {
        Err(invalid(&path, "neither file, directory nor link"))
    }
}

/// Whether a link, followed from where it stands, is still inside the tree.
fn stays_inside(link: &Path, target: &Path) -> bool {
    let mut depth = link.components().count().saturating_sub(1);
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

struct Sink {
    file: File,
    digest: Sha256,
    size: u64,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size + bytes.len() as u64 > ARCHIVE_MAX_LEN {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the directory is larger than 1 GiB"));
        }
        self.file.write_all(bytes)?;
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("temporary directory");
        fs::create_dir_all(directory.path().join("b/deep")).expect("creates");
        fs::write(directory.path().join("a"), "1").expect("writes");
        fs::write(directory.path().join("b/deep/run"), "#!/bin/sh\n").expect("writes");
        fs::set_permissions(directory.path().join("b/deep/run"), fs::Permissions::from_mode(0o700)).expect("chmod");
        symlink("../../a", directory.path().join("b/deep/link")).expect("links");
        directory
    }

    #[test]
    fn the_same_tree_is_the_same_archive_and_comes_out_as_it_went_in() {
        let (one, two) = (tree(), tree());
        let mut first = pack_directory(one.path()).expect("packs");
        let second = pack_directory(two.path()).expect("packs");
        assert_eq!((first.sha256, first.size), (second.sha256, second.size));
        let mut bytes = Vec::new();
        first.file.read_to_end(&mut bytes).expect("reads");
        assert_eq!((bytes.len() as u64, Sha256Hash(Sha256::digest(&bytes).into())), (first.size, first.sha256));
        let out = tempfile::tempdir().expect("temporary directory");
        tar::Archive::new(bytes.as_slice()).unpack(out.path()).expect("unpacks");
        assert_eq!(fs::read_to_string(out.path().join("b/deep/link")).expect("through the link"), "1");
        let mode = fs::metadata(out.path().join("b/deep/run")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[test]
    fn what_would_leave_the_tree_is_refused() {
        for target in ["/etc/passwd", "../../outside", ".."] {
            let directory = tree();
            symlink(target, directory.path().join("b/evil")).expect("links");
            let result = pack_directory(directory.path());
            assert_eq!(result.is_err(), target != "..", "{target}");
        }
        let directory = tree();
        let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("s")).expect("binds");
        assert!(pack_directory(directory.path()).expect_err("a socket").to_string().contains("neither file"));
        assert!(pack_directory(Path::new("/nonexistent")).is_err());
    }
}
