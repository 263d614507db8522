//! The staging directory of this node: where finished packages lie until they are released.
//!
//! ```text
//!   STAGING/cat/pn/pf[-N].gpkg.tar, STAGING/cat/pf[-N].gpkg.tar     what drones of the build swarm upload
//!   STAGING/portage/ARCH/{Packages,cat/pn/pf-N.gpkg.tar}             what hive puts there itself, with its index
//!   STAGING/debian/ARCH/pool/h/hello/…, STAGING/maven/ARCH/JOB/…
//!   STAGING/.hive                                                    how far it is, what is being written
//! ```
//!
//! It is never the directory that clients are served from ([`conflict`]). Never done here: deciding what belongs here, releasing.

mod index;
mod look;
mod place;
mod progress;
mod serve;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use super::signatures::Signatures;

pub use look::Located;
pub use place::{Incoming, Kind, PutError};
pub use progress::Progress;
pub use serve::Served;

/// What is hive's own in a staging directory.
const OWN: &str = ".hive";

/// A staging directory.
#[derive(Debug)]
pub struct Staging {
    root: PathBuf,
    live: Option<PathBuf>,
    signatures: Option<Signatures>,
    looked: Mutex<BTreeMap<PathBuf, look::Verdict>>,
    /// By architecture.
    indexes: Mutex<BTreeMap<String, index::Index>>,
}

impl Staging {
    /// Opens or makes the staging directory `root`, beside the directory `live` that clients are served from, and removes what a
    /// crash left half-written. Gentoo packages that `signatures` does not trust are neither put there nor found.
    pub fn open(root: &Path, live: Option<&Path>, signatures: Option<Signatures>) -> io::Result<Self> {
        let staging = Self {
            root: root.to_owned(),
            live: live.map(Path::to_owned),
            signatures,
            looked: Mutex::default(),
            indexes: Mutex::default(),
        };
        staging.check_live().map_err(io::Error::other)?;
        fs::create_dir_all(root)?;
        for entry in fs::read_dir(staging.own_directory()?)?.flatten() {
            let is_part = entry.file_name().to_str().is_some_and(|name| name.starts_with("part-"));
            if is_part && let Err(error) = fs::remove_file(entry.path()) {
                tracing::warn!(file = %entry.path().display(), %error, "a part of a staged file stays");
            }
        }
        Ok(staging)
    }

    /// Links may have been changed since the start: what is put here must never be served at once.
    fn check_live(&self) -> Result<(), String> {
        self.live.as_ref().and_then(|live| conflict(&self.root, live)).map_or(Ok(()), Err)
    }

    fn own_directory(&self) -> io::Result<PathBuf> {
        self.directory(OWN)
    }

    /// A directory below the staging directory, made when it is not there, passable for all whatever the service's umask is.
    fn directory(&self, below: &str) -> io::Result<PathBuf> {
        let mut directory = self.root.clone();
        for name in below.split('/') {
            directory.push(name);
            match fs::create_dir(&directory) {
                Ok(()) => fs::set_permissions(&directory, Permissions::from_mode(0o755))?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(directory)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Others may read what is staged: whoever releases or serves it need not be the agent.
fn readable_by_all(file: &File) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(0o644))
}

/// Why `staging` must not be used beside the directory `live` that clients are served from: what is put there would be served, or
/// change what was released. None when the two have nothing to do with each other.
pub fn conflict(staging: &Path, live: &Path) -> Option<String> {
    let (real_staging, real_live) = match (resolved(staging), resolved(live)) {
        (Ok(staging), Ok(live)) => (staging, live),
        (Err(error), _) | (_, Err(error)) => {
            return Some(format!("cannot be compared with {}: {error}", live.display()));
        }
    };
    let (shown, live_shown) = (staging.display(), live.display());
    let through = if real_staging == staging && real_live == live {
        String::new()
    } else {
        format!(" ({shown} is {}, {live_shown} is {})", real_staging.display(), real_live.display())
    };
    let how = if real_staging == real_live {
        "is"
    } else if real_staging.starts_with(&real_live) {
        "is inside"
    } else if real_live.starts_with(&real_staging) {
        "holds"
    } else {
        return None;
    };
    Some(format!("{shown} {how} the directory that clients are served from, {live_shown}{through}"))
}

/// The path without links and dots, as far as it exists; the rest as it is written.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    let mut rest: Vec<OsString> = Vec::new();
    let mut existing = path;
    let mut real = loop {
        match existing.canonicalize() {
            Ok(real) => break real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // A link that leads nowhere yet: what it names counts, not the link.
        if let Ok(target) = existing.read_link() {
            let target = existing.parent().unwrap_or(Path::new("/")).join(target);
            break resolved_link(&target)?;
        }
        match existing.components().next_back() {
            Some(last @ (Component::Normal(_) | Component::ParentDir)) => rest.push(last.as_os_str().to_owned()),
            Some(_) | None => return Err(io::Error::other(format!("{} is no absolute path", path.display()))),
        }
        existing = existing.parent().unwrap_or(Path::new("/"));
    };
    for part in rest.into_iter().rev() {
        if part == ".." {
            real.pop();
        } else {
            real.push(part);
        }
    }
    Ok(real)
}

/// Where a link leads whose end is not there: its directory has to be.
fn resolved_link(target: &Path) -> io::Result<PathBuf> {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(io::Error::other(format!("the link to {} leads nowhere", target.display())));
    };
    let parent = parent.canonicalize().map_err(|error| io::Error::other(format!("{}: {error}", parent.display())))?;
    Ok(parent.join(name))
}

#[cfg(test)]
#[path = "../../tests/sample/gpkg.rs"]
pub(crate) mod sample;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn staging_is_never_the_live_directory_however_it_is_named() {
        let root = tempfile::tempdir().expect("temporary directory");
        let root = root.path().canonicalize().expect("real");
        let at = |name: &str| root.join(name);
        fs::create_dir_all(at("releases/2026.02.14")).expect("mkdir");
        fs::create_dir(at("staging")).expect("mkdir");
        symlink("releases/2026.02.14", at("live")).expect("links");
        symlink("releases/2026.03.01", at("next")).expect("links");
        symlink(at("live"), at("also")).expect("links");
        for (staging, live, how) in [
            ("live", "live", " is the directory"),
            ("also", "live", " is the directory"),
            ("releases/2026.02.14", "live", " is the directory"),
            ("releases/2026.02.14/new", "live", " is inside the directory"),
            ("live/a/../b", "live", " is inside the directory"),
            ("staging/../live", "live", " is the directory"),
            ("releases/2026.03.01", "next", " is the directory"),
            ("next", "next", " is the directory"),
            ("releases", "live", " holds the directory"),
        ] {
            let why = conflict(&at(staging), &at(live)).unwrap_or_else(|| panic!("{staging} beside {live}"));
            assert!(why.contains(how) && why.contains(&at(live).display().to_string()), "{why}");
        }
        for (staging, live) in
            [("staging", "live"), ("new/staging", "live"), ("releases2", "releases"), ("a/../b", "a")]
        {
            assert_eq!(conflict(&at(staging), &at(live)), None, "{staging} beside {live}");
        }
    }
}
