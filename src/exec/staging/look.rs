//! Looks for a package in the staging directory and checks that it is whole.
//!
//! A file is read once and again when its inode, size or change time differ. Junk that a broken upload left is removed. Never done
//! here: following links, believing a name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use rustix::fs::OFlags;

use super::Staging;
use crate::engine::staging::Wanted;
use crate::exec::format::{Caps, gpkg};
use crate::exec::signatures::SignatureError;

/// A file below this size is what a broken upload left, bytes: no package is so small.
const PACKAGE_MIN_BYTES: u64 = 1 << 10;
/// Most names that are read of one directory.
const NAMES_MAX: usize = 20_000;
/// Most files of one version that are looked into.
const FILES_MAX: usize = 64;
/// Most verdicts that are remembered.
const VERDICTS_MAX: usize = 8_192;

/// A package that is there and whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Below the staging directory.
    pub path: String,
    /// Its length.
    pub size_bytes: u64,
}

/// What was found when a file was read, and what tells that it is still the same.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    stamp: (u64, u64, i64, i64),
    /// Category and name with version, or why it is none.
    package: Result<(String, String), String>,
}

struct Candidate {
    path: PathBuf,
    metadata: fs::Metadata,
    /// Put there by others, who may leave junk.
    uploaded: bool,
}

impl Staging {
    /// Looks for a whole package that is what `wanted` says; else why there is none. Blocks.
    pub fn find(&self, wanted: &Wanted) -> Result<Located, String> {
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut problems: Vec<String> = Vec::new();
        for (directory, uploaded) in self.directories(wanted) {
            match candidates_in(&directory, wanted, uploaded) {
                Ok(found) => candidates.extend(found),
                Err(problem) => problems.push(problem),
            }
        }
        // The newest first: it is what was just uploaded.
        candidates
            .sort_by_key(|candidate| std::cmp::Reverse((candidate.metadata.mtime(), candidate.metadata.mtime_nsec())));
        for candidate in candidates.iter().take(FILES_MAX) {
            let shown = candidate.path.strip_prefix(&self.root).unwrap_or(&candidate.path).display().to_string();
            match self.check(candidate, wanted) {
                Ok(()) => return Ok(Located { path: shown, size_bytes: candidate.metadata.len() }),
                Err(problem) => problems.push(format!("{shown}: {problem}")),
            }
        }
        if problems.is_empty() {
            return Err(format!("there is no package {wanted} in {}", self.root.display()));
        }
        Err(problems.join("; "))
    }

    fn directories(&self, wanted: &Wanted) -> Vec<(PathBuf, bool)> {
        let category = self.root.join(&wanted.category);
        let mut found = vec![(category.join(&wanted.name), true), (category, true)];
        let own = fs::read_dir(self.root.join("portage")).into_iter().flatten().flatten().take(NAMES_MAX);
        found.extend(own.map(|arch| (arch.path().join(&wanted.category).join(&wanted.name), false)));
        found
    }

    fn check(&self, candidate: &Candidate, wanted: &Wanted) -> Result<(), String> {
        let Candidate { path, metadata, uploaded } = candidate;
        if !metadata.is_file() {
            return Err("not a regular file".to_owned());
        }
        if metadata.len() < PACKAGE_MIN_BYTES {
            let gone = *uploaded && fs::remove_file(path).is_ok();
            let what = if gone { ", and was removed" } else { "" };
            return Err(format!("only {} bytes long{what}", metadata.len()));
        }
        let (category, pf) = self.package(path, metadata)?;
        if wanted.is(&category, &pf) { Ok(()) } else { Err(format!("it holds {category}/{pf}")) }
    }

    /// What a file holds, as it says itself, after all of it was checked.
    fn package(&self, path: &Path, metadata: &fs::Metadata) -> Result<(String, String), String> {
        let stamp = (metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec());
        {
            let looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(verdict) = looked.get(path).filter(|verdict| verdict.stamp == stamp) {
                return verdict.package.clone();
            }
        }
        let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let opened = File::options().read(true).custom_flags(flags).open(path);
        let mut file = opened.map_err(|error| format!("cannot be opened: {error}"))?;
        let package = match gpkg::verify(&mut file, Caps::default()) {
            Ok(package) => {
                match self.signatures.as_ref().map_or(Ok(()), |signatures| signatures.check(&mut file, &package)) {
                    // It may be found out the next time.
                    Err(error @ SignatureError::Unable(_)) => return Err(error.to_string()),
                    Err(error) => Err(error.to_string()),
                    Ok(()) => Ok((package.category, package.pf)),
                }
            }
            Err(error) => Err(format!("no whole package: {error}")),
        };
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        remember(&mut looked, path, Verdict { stamp, package: package.clone() });
        package
    }
}

fn remember(looked: &mut BTreeMap<PathBuf, Verdict>, path: &Path, verdict: Verdict) {
    if looked.len() >= VERDICTS_MAX {
        looked.clear();
    }
    looked.insert(path.to_owned(), verdict);
}

/// Files of a directory whose names are those of what is wanted. A directory that is not there holds none; one that cannot be read is
/// a problem, because what is wanted may be in it.
fn candidates_in(directory: &Path, wanted: &Wanted, uploaded: bool) -> Result<Vec<Candidate>, String> {
    let problem = |error: std::io::Error| format!("{} cannot be read: {error}", directory.display());
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(problem(error)),
    };
    let mut found = Vec::new();
    for (count, entry) in entries.enumerate() {
        if count >= NAMES_MAX {
            return Err(format!("{} holds more than {NAMES_MAX} names", directory.display()));
        }
        let entry = entry.map_err(problem)?;
        let is_wanted = entry.file_name().to_str().is_some_and(|name| wanted.may_be(name));
        if !is_wanted {
            continue;
        }
        let path = entry.path();
        if let Ok(metadata) = path.symlink_metadata() {
            found.push(Candidate { path, metadata, uploaded });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::staging::sample;

    struct Place {
        root: tempfile::TempDir,
        staging: Staging,
    }

    impl Place {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("temporary directory");
            let staging = Staging::open(&root.path().join("staging"), None, None).expect("opens");
            Self { root, staging }
        }

        fn put(&self, path: &str, bytes: &[u8]) -> PathBuf {
            let path = self.staging.root().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            fs::write(&path, bytes).expect("writes");
            path
        }

        fn find(&self, atom: &str) -> Result<String, String> {
            let wanted = Wanted::of(atom).map_err(|error| error.to_string())?;
            self.staging.find(&wanted).map(|located| located.path)
        }
    }

    #[test]
    fn a_whole_package_is_found_in_each_layout() {
        for path in [
            "app-misc/hello/hello-1.0-1.gpkg.tar",
            "app-misc/hello-1.0.gpkg.tar",
            "portage/amd64/app-misc/hello/hello-1.0-1.gpkg.tar",
        ] {
            let place = Place::new();
            let why = place.find("=app-misc/hello-1.0").expect_err("nothing is there");
            assert!(why.starts_with("there is no package app-misc/hello-1.0 in "), "{why}");
            let bytes = sample::package("app-misc", "hello-1.0", path.contains("-1.g").then_some(1), b"x");
            place.put(path, &bytes);
            assert_eq!(place.find("=app-misc/hello-1.0").expect("there"), path);
            assert_eq!(place.find("app-misc/hello").expect("any version"), path);
            for other in ["=app-misc/hello-1.0-r1", "=app-misc/hello-1", "app-misc/hell", "=app-text/hello-1.0"] {
                assert!(place.find(other).is_err(), "{other}");
            }
        }
    }

    #[test]
    fn damaged_cut_misnamed_and_linked_files_do_not_count_and_say_why() {
        let place = Place::new();
        let good = sample::package("app-misc", "hello-1.0", None, &[7; 5_000]);
        let path = place.put("app-misc/hello-1.0.gpkg.tar", &good[..good.len() - 2_048]);
        let why = place.find("app-misc/hello-1.0").expect_err("cut");
        assert!(why.contains("app-misc/hello-1.0.gpkg.tar: no whole package"), "{why}");
        assert_eq!(place.find("app-misc/hello-1.0").expect_err("remembered"), why);
        let mut bad = good.clone();
        bad[3_000] ^= 1;
        place.put("app-misc/hello-1.0.gpkg.tar", &bad);
        assert!(place.find("app-misc/hello-1.0").is_err(), "one bit");
        place.put("app-misc/hello-1.0.gpkg.tar", &good);
        assert!(place.find("app-misc/hello-1.0").is_ok(), "what came whole later is looked at anew");
        place.put("app-misc/hello-1.1.gpkg.tar", &good);
        let why = place.find("app-misc/hello-1.1").expect_err("it holds another");
        assert!(why.contains("it holds app-misc/hello-1.0"), "{why}");
        std::os::unix::fs::symlink(&path, path.with_file_name("hello-1.2.gpkg.tar")).expect("links");
        assert!(place.find("app-misc/hello-1.2").expect_err("a link").contains("not a regular file"));
    }

    #[test]
    fn junk_is_removed_where_drones_upload_and_a_good_package_beside_it_counts() {
        let place = Place::new();
        let junk = place.put("app-misc/hello/hello-1.0-2.gpkg.tar", b"junk");
        let why = place.find("app-misc/hello-1.0").expect_err("junk");
        assert!(why.contains("only 4 bytes long, and was removed") && !junk.exists(), "{why}");
        let other = place.put("app-misc/hello/hello-1.1.gpkg.tar", b"junk");
        let own = place.put("portage/amd64/app-misc/hello/hello-1.0-1.gpkg.tar", b"junk");
        assert!(place.find("app-misc/hello-1.0").is_err());
        assert!(own.exists() && other.exists(), "only what was asked for, and never what hive put there");
        place.put("app-misc/hello-1.0.gpkg.tar", &sample::package("app-misc", "hello-1.0", None, b""));
        place.put("app-misc/hello/hello-1.0-3.gpkg.tar", b"junk");
        assert_eq!(place.find("app-misc/hello-1.0").expect("good"), "app-misc/hello-1.0.gpkg.tar");
        drop(place.root);
    }
}
