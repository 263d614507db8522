//! Hands out files of hive's own layout, for whoever installs from staging.
//!
//! Names are followed one by one from the staging directory, never through a link. Never done here: listing, writing.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{Mode, OFlags};

use super::Staging;

/// Longest path that is looked for, bytes, and the most names in it.
const PATH_MAX: (usize, usize) = (1_024, 8);

/// An open file of the staging directory.
#[derive(Debug)]
pub struct Served {
    /// Its bytes.
    pub file: File,
    /// Their number.
    pub size_bytes: u64,
    /// When it changed last, seconds since 1970.
    pub changed_unix_s: i64,
}

/// Whether a path names something that is handed out: in the layout of a backend, no name hidden or leading up.
fn is_served(path: &str) -> bool {
    let names: Vec<&str> = path.split('/').collect();
    path.len() <= PATH_MAX.0
        && (3..=PATH_MAX.1).contains(&names.len())
        && matches!(names[0], "portage" | "debian" | "maven")
        && names.iter().all(|name| !name.is_empty() && !name.starts_with('.') && !name.contains(['\0', '\\']))
}

impl Staging {
    /// Opens `BACKEND/ARCH/…`. Not found when there is no such file, whatever stands in its way. Blocks.
    pub fn serve(&self, path: &str) -> io::Result<Served> {
        let none = || io::Error::from(io::ErrorKind::NotFound);
        if !is_served(path) {
            return Err(none());
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mut at = rustix::fs::open(&self.root, flags | OFlags::DIRECTORY, Mode::empty())?;
        for name in path.split('/') {
            at = match rustix::fs::openat(&at, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(next) => next,
                Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR | rustix::io::Errno::NOENT) => {
                    return Err(none());
                }
                Err(error) => return Err(error.into()),
            };
        }
        let file = File::from(at);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(none());
        }
        Ok(Served { size_bytes: metadata.len(), changed_unix_s: metadata.mtime(), file })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_files_of_the_layout_are_handed_out_and_no_way_leads_out() {
        let root = tempfile::tempdir().expect("temporary directory");
        let staging = Staging::open(&root.path().join("staging"), None, None).expect("opens");
        let at = |path: &str| staging.root().join(path);
        fs::create_dir_all(at("portage/amd64/app-misc")).expect("mkdir");
        fs::create_dir_all(at("app-misc/x")).expect("mkdir");
        for path in ["portage/amd64/Packages", "portage/amd64/.new-x", "app-misc/x/y.gpkg.tar", ".hive/progress.json"] {
            fs::write(at(path), path).expect("writes");
        }
        fs::write(root.path().join("secret"), "secret").expect("writes");
        symlink("../../../secret", at("portage/amd64/link")).expect("links");
        symlink("../..", at("portage/amd64/up")).expect("links");
        let mut served = staging.serve("portage/amd64/Packages").expect("there");
        let mut text = String::new();
        served.file.read_to_string(&mut text).expect("reads");
        assert_eq!((text.as_str(), served.size_bytes), ("portage/amd64/Packages", 22));
        for path in [
            "",
            "portage",
            "portage/amd64",
            "portage/amd64/app-misc",
            "portage/amd64/",
            "portage//amd64/Packages",
            "portage/amd64/../amd64/Packages",
            "portage/amd64/./Packages",
            "portage/../../secret",
            "/etc/hostname",
            "portage/amd64/.new-x",
            "portage/amd64/link",
            "portage/amd64/up/secret",
            "portage/amd64/Packages/x",
            "portage/amd64/none",
            "app-misc/x/y.gpkg.tar",
            ".hive/progress.json/x",
            "portage/amd64/a\0b",
        ] {
            let error = staging.serve(path).expect_err(path);
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{path}");
        }
    }
}
