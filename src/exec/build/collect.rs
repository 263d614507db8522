//! Finds what a build made, without following where it points.
//!
//! Only regular files that belong to the build, reached through real directories, are taken. Names are single file names of
//! the grammar; two files of one name are refused rather than one lost. Never done here: reading content.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path};

use globset::{GlobBuilder, GlobMatcher};
use rustix::fs::{Mode, OFlags};

use super::verdict::Failure;
use crate::engine::grammar::{self, ARTIFACTS_MAX};
use crate::engine::id::Sha256Hash;

/// Most directory entries that are looked at.
const ENTRIES_MAX: usize = 2_000_000;
/// Deepest directory that is looked into.
const DEPTH_MAX: usize = 128;

/// One file that a build made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: String,
    /// Relative to the attempt's directory.
    pub(super) path: String,
    /// Digest and size that its own description promises.
    pub(super) expected: Option<(Sha256Hash, u64)>,
}

fn matchers(patterns: &[String]) -> Result<Vec<(String, GlobMatcher)>, Failure> {
    patterns
        .iter()
        .map(|pattern| {
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            let glob = glob.map_err(|error| Failure::policy(format!("artifact pattern {pattern}: {error}")))?;
            Ok((pattern.clone(), glob.compile_matcher()))
        })
        .collect()
}

/// Files below `root`/`base` that match one of the patterns; every pattern has to match at least one. Blocks.
pub(super) fn matching(root: &Path, base: &str, patterns: &[String], bytes_max: u64) -> Result<Vec<Found>, Failure> {
    let matchers = matchers(patterns)?;
    if matchers.is_empty() {
        return Ok(Vec::new());
    }
    let mut used = vec![false; matchers.len()];
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let mut bytes = 0u64;
    let mut entries = 0usize;
    let mut waiting = vec![String::new()];
    while let Some(directory) = waiting.pop() {
        let listed = fs::read_dir(root.join(base).join(&directory));
        // A directory that the build made unreadable holds no artifacts.
        for entry in listed.into_iter().flatten().flatten() {
            entries += 1;
            if entries > ENTRIES_MAX {
                return Err(Failure::build(format!("more than {ENTRIES_MAX} files in the checkout")));
            }
            let Ok(name) = entry.file_name().into_string() else { continue };
            let relative = if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") };
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            if metadata.is_dir() {
                if relative != ".git" && relative.split('/').count() < DEPTH_MAX {
                    waiting.push(relative);
                }
                continue;
            }
            let matched: Vec<usize> =
                (0..matchers.len()).filter(|&index| matchers[index].1.is_match(&relative)).collect();
            if matched.is_empty() {
                continue;
            }
            if !metadata.is_file() {
                return Err(Failure::build(format!("artifact {relative} is not a regular file")));
            }
            for index in matched {
                used[index] = true;
            }
            bytes = bytes.saturating_add(metadata.len());
            add(&mut found, name, format!("{base}/{relative}"))?;
        }
    }
    if let Some(index) = used.iter().position(|used| !used) {
        return Err(Failure::build(format!("no file matches artifact pattern {}", matchers[index].0)));
    }
    if bytes > bytes_max {
        return Err(Failure::build(format!("{bytes} bytes of artifacts; at most {bytes_max} are taken")));
    }
    Ok(found.into_values().collect())
}

fn add(found: &mut BTreeMap<String, Found>, name: String, path: String) -> Result<(), Failure> {
    grammar::artifact_name(&name).map_err(|error| Failure::build(error.to_string()))?;
    if let Some(other) = found.get(&name) {
        return Err(Failure::build(format!("{} and {path} would both be artifact {name}", other.path)));
    }
    if found.len() >= ARTIFACTS_MAX {
        return Err(Failure::build(format!("more than {ARTIFACTS_MAX} artifacts")));
    }
    found.insert(name.clone(), Found { name, path, expected: None });
    Ok(())
}

/// Opens `root`/`relative` through real directories only; a regular file of `owner`, or nothing.
pub(super) fn open_regular(root: &Path, relative: &Path, owner: u32) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut handle = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let mut names = relative.components().peekable();
    while let Some(name) = names.next() {
        let Component::Normal(name) = name else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a path below the attempt"));
        };
        let kind = if names.peek().is_some() { OFlags::DIRECTORY } else { OFlags::empty() };
        handle = rustix::fs::openat(&handle, name, flags | kind, Mode::empty())?;
    }
    let file = File::from(handle);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    // A hard link to somebody else's file would hand out what the build may not read.
    if metadata.uid() != owner {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "belongs to another user than the build's"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::engine::job::FailureClass;

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("temporary directory");
        for path in ["src/out/a.deb", "src/out/deep/b.deb", "src/c.txt", "src/.git/d.deb", "outside.deb"] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            fs::write(path, b"content").expect("writes");
        }
        root
    }

    fn names(root: &Path, patterns: &[&str]) -> Result<Vec<String>, Failure> {
        let patterns: Vec<String> = patterns.iter().map(|&text| text.to_owned()).collect();
        matching(root, "src", &patterns, 1 << 20).map(|found| found.into_iter().map(|found| found.path).collect())
    }

    #[test]
    fn patterns_find_files_and_stay_inside() {
        let root = tree();
        assert_eq!(names(root.path(), &["out/*.deb"]).expect("finds"), ["src/out/a.deb"]);
        assert_eq!(names(root.path(), &["**/*.deb"]).expect("finds"), ["src/out/a.deb", "src/out/deep/b.deb"]);
        assert_eq!(names(root.path(), &["*.{txt,md}", "out/a.deb"]).expect("finds").len(), 2);
        assert!(names(root.path(), &[]).expect("nothing asked").is_empty());
        let failure = names(root.path(), &["out/*.deb", "*.rpm"]).expect_err("nothing matches");
        assert_eq!(
            (failure.class, failure.reason.as_str()),
            (FailureClass::Build, "no file matches artifact pattern *.rpm")
        );
    }

    #[test]
    fn links_special_files_and_bad_names_are_refused() {
        let root = tree();
        symlink("/etc/passwd", root.path().join("src/passwd.link")).expect("links");
        assert!(names(root.path(), &["*.link"]).expect_err("link").reason.contains("not a regular file"));
        symlink("/etc", root.path().join("src/etc")).expect("links");
        assert!(names(root.path(), &["etc/passwd"]).is_err(), "nothing is found behind a link");
        fs::write(root.path().join("src/-rf"), b"x").expect("writes");
        assert!(names(root.path(), &["?rf"]).is_err());
        fs::write(root.path().join("src/a.deb"), b"x").expect("writes");
        assert!(names(root.path(), &["**/*.deb"]).expect_err("twice").reason.contains("would both be artifact a.deb"));
        assert!(matching(root.path(), "src", &["c.txt".to_owned()], 3).is_err(), "too large");
    }

    #[test]
    fn files_are_opened_through_real_directories_of_the_builds_user_only() {
        let root = tree();
        let own = rustix::process::geteuid().as_raw();
        let open = |path: &str, owner| open_regular(root.path(), Path::new(path), owner);
        open("src/c.txt", own).expect("opens");
        assert!(open("src/c.txt", own + 1).is_err());
        assert!(open("src", own).is_err());
        assert!(open("../x", own).is_err());
        assert!(open("/etc/passwd", own).is_err());
        symlink("out", root.path().join("src/link")).expect("links");
        assert!(open("src/link/a.deb", own).is_err());
        symlink("c.txt", root.path().join("src/alias")).expect("links");
        assert!(open("src/alias", own).is_err());
    }

    proptest::proptest! {
        #[test]
        fn every_pattern_that_may_be_queued_can_be_matched(pattern in "[a-c*?/\\[\\]{}!^,.-]{1,12}|.{1,12}") {
            if grammar::pattern(&pattern).is_ok() {
                proptest::prop_assert!(matchers(&[pattern]).is_ok());
            }
        }
    }
}
