//! Unpacks an archive that came from outside without believing a word of it.
//!
//! Every entry is placed component by component from an open directory, never through a link; only regular files, directories
//! and links that stay within are made; nothing is overwritten; modes are 0755 or 0644. Files, bytes, names and depth are
//! capped. An archive that breaks a rule is refused as a whole; the caller throws the directory away. Never done here:
//! decompression, and the unpacking routines of the `tar` crate.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::archive::{ARCHIVE_MAX_BYTES, DEPTH_MAX, ENTRIES_MAX, MTIME_S, link_stays_inside};

/// Longest path of an entry, bytes.
const PATH_MAX_BYTES: usize = 2_048;

/// Why an archive was not unpacked. What was written before stays; the caller removes the directory.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// An entry that would do harm, or that our own archives never hold.
    #[error("archive refused at {path:?}: {problem}")]
    Refused {
        /// As the archive names it, cut to 200 characters.
        path: String,
        /// Why.
        problem: String,
    },
    /// It cannot be read, or the disk refused.
    #[error("cannot unpack the archive")]
    Io(#[from] io::Error),
}

/// Caps of one unpacking.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Most entries.
    pub entries_max: usize,
    /// Most bytes of content.
    pub bytes_max: u64,
}

impl Default for Caps {
    fn default() -> Self {
        Self { entries_max: ENTRIES_MAX, bytes_max: ARCHIVE_MAX_BYTES }
    }
}

fn refused(path: &Path, problem: impl Into<String>) -> UnpackError {
    UnpackError::Refused { path: path.to_string_lossy().chars().take(200).collect(), problem: problem.into() }
}

/// Unpacks `archive` into `directory`, which exists and is empty. Blocks.
pub fn unpack(archive: impl Read, directory: &Path, caps: Caps) -> Result<(), UnpackError> {
    let root = rustix::fs::open(directory, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(io::Error::from)?;
    let mut target = Target { root, parent: None };
    let mut reader = tar::Archive::new(archive);
    let mut bytes_left = caps.bytes_max;
    for (count, entry) in reader.entries()?.enumerate() {
        let mut entry = entry?;
        let raw = entry.path_bytes().into_owned();
        let path = PathBuf::from(OsStr::from_bytes(&raw));
        if count >= caps.entries_max {
            return Err(refused(&path, format!("more than {} entries", caps.entries_max)));
        }
        let names = names(&path)?;
        let kind = entry.header().entry_type();
        if kind == tar::EntryType::Directory {
            target.directory(&names, &path)?;
        } else if kind == tar::EntryType::Regular {
            let size = entry.size();
            // What the header says counts for some programs, what an extension says for others: to one of them the content
            // would be more entries.
            if entry.header().entry_size()? != size {
                return Err(refused(&path, "two different sizes"));
            }
            if size > bytes_left {
                return Err(refused(&path, format!("more than {} bytes of content", caps.bytes_max)));
            }
            bytes_left -= size;
            let executable = entry.header().mode()? & 0o111 != 0;
            target.file(&names, &path, executable, size, &mut entry)?;
        } else if kind == tar::EntryType::Symlink {
            let link = entry.link_name_bytes().ok_or_else(|| refused(&path, "a link without a target"))?.into_owned();
            target.link(&names, &path, Path::new(OsStr::from_bytes(&link)))?;
        } else {
            return Err(refused(
                &path,
                format!("an entry of type {kind:?}; only files, directories and links are taken"),
            ));
        }
    }
    Ok(())
}

fn names(path: &Path) -> Result<Vec<&OsStr>, UnpackError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.len() > PATH_MAX_BYTES || bytes.contains(&0) {
        return Err(refused(path, format!("expected a path of 1 to {PATH_MAX_BYTES} bytes without NUL")));
    }
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if name == ".git" => return Err(refused(path, "'.git' does not travel")),
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(refused(path, "an absolute path or '..'"));
            }
        }
    }
    if names.is_empty() || names.len() > DEPTH_MAX {
        return Err(refused(path, format!("expected 1 to {DEPTH_MAX} names")));
    }
    Ok(names)
}

struct Target {
    root: OwnedFd,
    /// The directory of the entry before: neighbours are the rule.
    parent: Option<(PathBuf, OwnedFd)>,
}

const DIRECTORY_FLAGS: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Target {
    /// Opens the directory of these names, making what is missing. A link or file in the way is an error.
    fn open(&mut self, names: &[&OsStr], path: &Path) -> Result<&OwnedFd, UnpackError> {
        if names.is_empty() {
            return Ok(&self.root);
        }
        let wanted: PathBuf = names.iter().collect();
        if self.parent.as_ref().is_none_or(|(open, _)| *open != wanted) {
            let mut handle = self.root.try_clone()?;
            for name in names {
                match rustix::fs::mkdirat(&handle, *name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(io::Error::from(error).into()),
                }
                handle = rustix::fs::openat(&handle, *name, DIRECTORY_FLAGS, Mode::empty())
                    .map_err(|error| refused(path, format!("{} is not a directory: {error}", name.display())))?;
            }
            self.parent = Some((wanted, handle));
        }
        match &self.parent {
            Some((_, handle)) => Ok(handle),
            None => Ok(&self.root),
        }
    }

    fn directory(&mut self, names: &[&OsStr], path: &Path) -> Result<(), UnpackError> {
        self.open(names, path).map(|_| ())
    }

    fn file(
        &mut self,
        names: &[&OsStr],
        path: &Path,
        executable: bool,
        size: u64,
        content: &mut impl Read,
    ) -> Result<(), UnpackError> {
        let (name, parents) = names.split_last().ok_or_else(|| refused(path, "no name"))?;
        let parent = self.open(parents, path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
        let handle = rustix::fs::openat(parent, *name, flags, mode)
            .map_err(|error| refused(path, format!("cannot be created anew: {error}")))?;
        let mut file = File::from(handle);
        let copied = io::copy(&mut content.take(size), &mut file)?;
        if copied != size {
            return Err(refused(path, "shorter than its header says"));
        }
        file.flush()?;
        // All equal, as they were archived: tools like make must not see an order that unpacking invented.
        file.set_modified(UNIX_EPOCH + Duration::from_secs(MTIME_S))?;
        rustix::fs::fchmod(&file, mode).map_err(io::Error::from)?;
        Ok(())
    }

    fn link(&mut self, names: &[&OsStr], path: &Path, target: &Path) -> Result<(), UnpackError> {
        let place: PathBuf = names.iter().collect();
        let bytes = target.as_os_str().as_bytes();
        if bytes.len() > PATH_MAX_BYTES || bytes.contains(&0) || !link_stays_inside(&place, target) {
            return Err(refused(path, format!("a link to {}, out of the tree", target.display())));
        }
        let (name, parents) = names.split_last().ok_or_else(|| refused(path, "no name"))?;
        let parent = self.open(parents, path)?;
        if rustix::fs::statat(parent, *name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(refused(path, "named twice"));
        }
        rustix::fs::symlinkat(target, parent, *name).map_err(io::Error::from)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, proptest};

    use super::super::archive::archive;
    use super::*;

    /// One raw entry, named without the checks that the crate's own builder makes.
    fn entry(out: &mut Vec<u8>, kind: tar::EntryType, name: &[u8], link: &[u8], mode: u32, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name);
        header.as_gnu_mut().expect("gnu").linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }

    struct Place {
        outer: tempfile::TempDir,
        inner: PathBuf,
    }

    fn place() -> Place {
        let outer = tempfile::tempdir().expect("temporary directory");
        let inner = outer.path().join("in/ner");
        fs::create_dir_all(&inner).expect("mkdir");
        Place { outer, inner }
    }

    impl Place {
        /// Nothing but `in/ner` may exist outside of the target.
        fn is_clean_outside(&self) -> bool {
            let names = |path: &Path| fs::read_dir(path).expect("lists").flatten().count();
            names(self.outer.path()) == 1 && names(&self.outer.path().join("in")) == 1
        }
    }

    #[test]
    fn what_was_archived_comes_back() {
        let source = tempfile::tempdir().expect("temporary directory");
        fs::create_dir_all(source.path().join("debian/empty")).expect("mkdir");
        fs::write(source.path().join("debian/rules"), b"#!/usr/bin/make -f\n").expect("writes");
        fs::set_permissions(source.path().join("debian/rules"), fs::Permissions::from_mode(0o775)).expect("chmod");
        fs::write(source.path().join("x".repeat(200)), vec![7u8; 100_000]).expect("writes");
        symlink("debian/rules", source.path().join("link")).expect("links");
        let mut bytes = Vec::new();
        archive(source.path(), &mut bytes).expect("archives");
        let place = place();
        unpack(bytes.as_slice(), &place.inner, Caps::default()).expect("unpacks");
        let rules = fs::metadata(place.inner.join("link")).expect("through the link");
        assert_eq!(rules.mode() & 0o7777, 0o755);
        assert_eq!(rules.mtime(), i64::try_from(MTIME_S).expect("fits"));
        assert!(place.inner.join("debian/empty").is_dir());
        let mut again = Vec::new();
        archive(&place.inner, &mut again).expect("archives");
        assert_eq!(bytes, again);
    }

    #[test]
    fn members_that_do_harm_are_refused() {
        use tar::EntryType as T;
        let deep = b"d/".repeat(49);
        let corpus: &[(T, &[u8], &[u8])] = &[
            (T::Regular, b"../evil", b""),
            (T::Regular, b"a/../../evil", b""),
            (T::Regular, b"/tmp/evil-absolute", b""),
            (T::Directory, b"../evil", b""),
            (T::Symlink, b"evil", b"/etc/passwd"),
            (T::Symlink, b"evil", b"../x"),
            (T::Symlink, b"a/evil", b"../../x"),
            (T::Symlink, b"a/evil", b"b/../../../x"),
            (T::Symlink, b"evil", b""),
            (T::Link, b"evil", b"/etc/passwd"),
            (T::Link, b"evil", b"target"),
            (T::Char, b"evil", b""),
            (T::Block, b"evil", b""),
            (T::Fifo, b"evil", b""),
            (T::GNUSparse, b"evil", b""),
            (T::Continuous, b"evil", b""),
            (T::XGlobalHeader, b"evil", b""),
            (T::Regular, b"sub/.git/hooks/post-checkout", b""),
            (T::Regular, b".", b""),
        ];
        for (kind, name, link) in corpus {
            let mut bytes = Vec::new();
            entry(&mut bytes, *kind, name, link, 0o644, b"");
            let place = place();
            let result = unpack(bytes.as_slice(), &place.inner, Caps::default());
            assert!(result.is_err(), "{kind:?} {:?} was taken", String::from_utf8_lossy(name));
            assert!(place.is_clean_outside(), "{kind:?} {:?}", String::from_utf8_lossy(name));
        }
        let mut bytes = Vec::new();
        entry(&mut bytes, T::Directory, &deep, b"", 0o755, b"");
        unpack(bytes.as_slice(), &place().inner, Caps::default()).expect("49 levels are fine");
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        use tar::EntryType as T;
        let mut bytes = Vec::new();
        entry(&mut bytes, T::Directory, b"real", b"", 0o755, b"");
        entry(&mut bytes, T::Symlink, b"link", b"real", 0o777, b"");
        entry(&mut bytes, T::Regular, b"link/file", b"", 0o644, b"x");
        let place = place();
        let error = unpack(bytes.as_slice(), &place.inner, Caps::default()).expect_err("through a link");
        assert!(error.to_string().contains("link is not a directory"), "{error}");
        for second in [T::Regular, T::Symlink] {
            let mut bytes = Vec::new();
            entry(&mut bytes, T::Symlink, b"name", b"other", 0o777, b"");
            entry(&mut bytes, second, b"name", b"other", 0o644, b"");
            assert!(
                unpack(bytes.as_slice(), &self::place().inner, Caps::default()).is_err(),
                "{second:?} replaced a link"
            );
        }
    }

    #[test]
    fn setuid_and_odd_modes_do_not_survive() {
        let mut bytes = Vec::new();
        entry(&mut bytes, tar::EntryType::Regular, b"su", b"", 0o6777, b"x");
        entry(&mut bytes, tar::EntryType::Regular, b"plain", b"", 0o1666, b"x");
        let place = place();
        unpack(bytes.as_slice(), &place.inner, Caps::default()).expect("unpacks");
        let mode = |name: &str| fs::metadata(place.inner.join(name)).expect("there").mode() & 0o7777;
        assert_eq!((mode("su"), mode("plain")), (0o755, 0o644));
    }

    #[test]
    fn caps_hold_and_false_sizes_are_refused() {
        let mut bytes = Vec::new();
        for name in [b"a", b"b", b"c"] {
            entry(&mut bytes, tar::EntryType::Regular, name, b"", 0o644, &[1; 600]);
        }
        let caps = Caps { entries_max: 2, bytes_max: 1 << 20 };
        assert!(unpack(bytes.as_slice(), &place().inner, caps).is_err());
        let caps = Caps { entries_max: 10, bytes_max: 1_000 };
        assert!(unpack(bytes.as_slice(), &place().inner, caps).is_err());
        assert!(unpack(&bytes[..700], &place().inner, Caps::default()).is_err(), "cut short");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_archive_leaves_its_directory(
            entries in prop::collection::vec((any::<u8>(), "[./a-c]{1,12}", "[./a-c]{0,12}"), 1..8)
        ) {
            let mut bytes = Vec::new();
            for (kind, name, link) in &entries {
                let kind = tar::EntryType::new(b"0125736"[usize::from(*kind) % 7]);
                entry(&mut bytes, kind, name.as_bytes(), link.as_bytes(), 0o777, b"");
            }
            let place = place();
            let _ = unpack(bytes.as_slice(), &place.inner, Caps::default());
            prop_assert!(place.is_clean_outside());
        }
    }
}
