//! A directory as one blob: the same tree gives the same bytes, whoever archives it, whenever.
//!
//! Entries are sorted; owner, group and time are fixed; modes are 0755 or 0644. Regular files, directories and relative links
//! that stay within the tree are taken; everything else is refused with its path, rather than left out unnoticed. `.git` is
//! left out on purpose: its bytes differ between clones of one tree, and its `config` may hold a password (who needs the
//! history queues the repository instead). Never done here: following a link.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

/// Largest archive, bytes.
pub const ARCHIVE_MAX_BYTES: u64 = crate::engine::grammar::SOURCE_MAX_BYTES;
/// Most entries of an archive: several times the largest source tree in use.
pub const ENTRIES_MAX: usize = 500_000;
/// Deepest nesting of directories.
pub const DEPTH_MAX: usize = 128;
/// Modification time of every entry: 1980-01-02, the first day that ZIP tools can express in every time zone.
pub const MTIME_S: u64 = 315_619_200;

/// Why a directory cannot be archived.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// An entry of a kind that does not travel.
    #[error("{}: {problem}", path.display())]
    Refused {
        /// Relative to the directory.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// Larger than allowed.
    #[error("the directory is larger than {max_bytes} bytes archived; queue a repository instead")]
    TooLarge {
        /// The cap.
        max_bytes: u64,
    },
    /// The system refused.
    #[error("cannot read {}", path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Writing the archive failed.
    #[error("cannot write the archive")]
    Output(#[source] io::Error),
}

/// What went into an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Files, directories and links.
    pub entries: usize,
    /// Bytes of file content.
    pub content_bytes: u64,
}

/// A relative link's target stays within the tree when `..` stands only at its beginning, and no more often than the link is
/// deep. `..` behind a name could leave through another link.
pub fn link_stays_inside(link: &Path, target: &Path) -> bool {
    let depth = link.components().count().saturating_sub(1);
    let mut ups = 0usize;
    let mut names = 0usize;
    for component in target.components() {
        match component {
            Component::ParentDir if names == 0 => ups += 1,
            Component::CurDir => {}
            Component::Normal(_) => names += 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    ups + names > 0 && ups <= depth
}

/// Archives `directory` into `output`. Blocks.
pub fn archive(directory: &Path, output: impl Write) -> Result<Summary, ArchiveError> {
    archive_capped(directory, output, ARCHIVE_MAX_BYTES)
}

/// As [`archive`], with a cap of its own.
pub fn archive_capped(directory: &Path, output: impl Write, max_bytes: u64) -> Result<Summary, ArchiveError> {
    let output = Capped { output, left: max_bytes, exceeded: false };
    let mut writer = Writer { builder: tar::Builder::new(output), entries: 0, content_bytes: 0 };
    let result = writer.tree(directory);
    let exceeded = writer.builder.get_ref().exceeded;
    if exceeded || writer.content_bytes > max_bytes {
        return Err(ArchiveError::TooLarge { max_bytes });
    }
    result?;
    let summary = Summary { entries: writer.entries, content_bytes: writer.content_bytes };
    let mut output = writer.builder.into_inner().map_err(ArchiveError::Output)?;
    if output.exceeded {
        return Err(ArchiveError::TooLarge { max_bytes });
    }
    output.flush().map_err(ArchiveError::Output)?;
    Ok(summary)
}

struct Capped<W> {
    output: W,
    left: u64,
    exceeded: bool,
}

impl<W: Write> Write for Capped<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len() as u64;
        if length > self.left {
            self.exceeded = true;
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let written = self.output.write(bytes)?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

struct Writer<W: Write> {
    builder: tar::Builder<Capped<W>>,
    entries: usize,
    content_bytes: u64,
}

fn refused(path: &Path, problem: impl Into<String>) -> ArchiveError {
    ArchiveError::Refused { path: path.to_owned(), problem: problem.into() }
}

impl<W: Write> Writer<W> {
    /// Walks without recursion: the depth of a foreign tree must not become the depth of our stack.
    fn tree(&mut self, root: &Path) -> Result<(), ArchiveError> {
        let io_error = |path: &Path| {
            let path = path.to_owned();
            move |source| ArchiveError::Io { path, source }
        };
        let mut waiting = sorted_children(root, Path::new(""))?;
        waiting.reverse();
        while let Some(relative) = waiting.pop() {
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(refused(&relative, format!("more than {ENTRIES_MAX} entries in all")));
            }
            let path = root.join(&relative);
            let metadata = fs::symlink_metadata(&path).map_err(io_error(&path))?;
            let kind = metadata.file_type();
            if kind.is_dir() {
                if relative.components().count() >= DEPTH_MAX {
                    return Err(refused(&relative, format!("nested deeper than {DEPTH_MAX} directories")));
                }
                self.append(&relative, tar::EntryType::Directory, 0o755, 0, io::empty())?;
                let mut children = sorted_children(root, &relative)?;
                children.reverse();
                waiting.append(&mut children);
            } else if kind.is_file() {
                self.file(&path, &relative)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).map_err(io_error(&path))?;
                if !link_stays_inside(&relative, &target) {
                    let problem = format!(
                        "link to {}; only relative links that stay within the directory travel ('..' only at the beginning)",
                        target.display()
                    );
                    return Err(refused(&relative, problem));
                }
                let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                self.builder.append_link(&mut header, &relative, &target).map_err(ArchiveError::Output)?;
            } else {
                return Err(refused(&relative, "neither a regular file nor a directory nor a link"));
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, relative: &Path) -> Result<(), ArchiveError> {
        let io_error = |source| ArchiveError::Io { path: path.to_owned(), source };
        let no_follow = i32::try_from((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits());
        let no_follow = no_follow.map_err(|_| refused(relative, "open flags do not fit"))?;
        let file = File::options().read(true).custom_flags(no_follow).open(path).map_err(io_error)?;
        let metadata = file.metadata().map_err(io_error)?;
        if !metadata.is_file() {
            return Err(refused(relative, "changed while it was archived"));
        }
        let mode = if metadata.mode() & 0o100 == 0 { 0o644 } else { 0o755 };
        let size = metadata.len();
        self.content_bytes = self.content_bytes.saturating_add(size);
        let mut exact = Exact { inner: file.take(size), left: size };
        self.append(relative, tar::EntryType::Regular, mode, size, &mut exact)
            .map_err(|error| if exact.left > 0 { refused(relative, "changed while it was archived") } else { error })
    }

    fn append(
        &mut self,
        relative: &Path,
        kind: tar::EntryType,
        mode: u32,
        size: u64,
        content: impl Read,
    ) -> Result<(), ArchiveError> {
        let mut header = header(kind, mode, size);
        self.builder.append_data(&mut header, relative, content).map_err(ArchiveError::Output)
    }
}

/// Fails at the end of a file that shrank meanwhile, instead of writing an entry that is shorter than its header says.
struct Exact<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if length == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        self.left -= length as u64;
        Ok(length)
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(MTIME_S);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn sorted_children(root: &Path, relative: &Path) -> Result<Vec<PathBuf>, ArchiveError> {
    let path = root.join(relative);
    let io_error = |source| ArchiveError::Io { path: path.clone(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).map_err(io_error)? {
        let name = entry.map_err(io_error)?.file_name();
        if name == ".git" {
            continue;
        }
        if name.as_bytes().contains(&b'\n') {
            return Err(refused(&relative.join(&name), "a line break in the name"));
        }
        if names.len() >= ENTRIES_MAX {
            return Err(refused(relative, format!("more than {ENTRIES_MAX} entries")));
        }
        names.push(name);
    }
    names.sort_unstable();
    Ok(names.into_iter().map(|name| relative.join(name)).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn tree(order: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("temporary directory");
        for name in order {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            fs::write(&path, name.as_bytes()).expect("writes");
        }
        symlink("../b.txt", directory.path().join("sub/link")).expect("links");
        fs::create_dir_all(directory.path().join(".git")).expect("mkdir");
        fs::write(directory.path().join(".git/config"), b"password").expect("writes");
        directory
    }

    fn bytes(directory: &Path) -> Vec<u8> {
        let mut out = Vec::new();
        archive(directory, &mut out).expect("archives");
        out
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        let long = format!("sub/{}/{}", "l".repeat(150), "n".repeat(150));
        let one = tree(&["a.txt", "b.txt", "sub/z", "sub/a", &long]);
        let two = tree(&[&long, "sub/a", "sub/z", "b.txt", "a.txt"]);
        fs::set_permissions(two.path().join("a.txt"), fs::Permissions::from_mode(0o600)).expect("chmod");
        let first = bytes(one.path());
        assert_eq!(first, bytes(two.path()));
        assert!(!first.windows(8).any(|window| window == b"password"), ".git stays at home");
        fs::set_permissions(two.path().join("a.txt"), fs::Permissions::from_mode(0o700)).expect("chmod");
        assert_ne!(first, bytes(two.path()), "an executable is another tree");
    }

    #[test]
    fn links_out_of_the_tree_are_refused_with_their_path() {
        for target in ["/etc/passwd", "../../x", "../sub/../../x", "", "link/../../.."] {
            if target.is_empty() {
                continue;
            }
            let directory = tree(&["b.txt", "sub/a"]);
            symlink(target, directory.path().join("sub/bad")).expect("links");
            let message = archive(directory.path(), io::sink()).expect_err(target).to_string();
            assert!(message.starts_with("sub/bad: link to "), "{message}");
        }
    }

    #[test]
    fn special_files_are_refused() {
        let directory = tree(&["b.txt", "sub/a"]);
        let socket = std::os::unix::net::UnixListener::bind(directory.path().join("socket")).expect("binds");
        let message = archive(directory.path(), io::sink()).expect_err("socket").to_string();
        assert!(message.starts_with("socket: "), "{message}");
        drop(socket);
    }

    #[test]
    fn a_tree_over_the_cap_is_refused() {
        let directory = tree(&["b.txt", "sub/a"]);
        let error = archive_capped(directory.path(), io::sink(), 2_048).expect_err("too large");
        assert!(matches!(error, ArchiveError::TooLarge { max_bytes: 2_048 }), "{error}");
    }
}
