//! How Portage is run on this host: with which settings, where, and what root does of it.
//!
//! ```text
//!   /var/cache/hive          root's
//!   ├── build/TOKEN          the attempt: resolving, reading, results
//!   └── portage/TOKEN        root's, only while emerge runs: pkgs, tmp
//! ```
//!
//! Installing what a package needs takes root. The agent names an atom and nothing else: the command line, the directories and
//! the settings are made here, on root's side, from root's own options, and no path of the agent's is ever written to. Portage
//! then drops its own privileges for the phases of a build (`FEATURES=userpriv`, on by default), and isolates them by its own
//! means. Never done here: running anything, changing the configuration of Portage.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::users;
use crate::engine::grammar;

/// Where finished packages come to be below the attempt's directory.
pub(super) const RESULTS: &str = "pkgs";
/// Longest first line of a time stamp, bytes.
const STAMP_MAX_BYTES: usize = 128;

/// Settings of Portage on this host.
#[derive(Clone, Debug, Default)]
pub struct Portage {
    /// Directory of `emerge` and of the `python3` that runs it. None: they are installed like everything else.
    pub program_dir: Option<PathBuf>,
    /// Variables by which Portage finds another configuration, root or tree than this host's own (make.conf(5)).
    pub environment: BTreeMap<String, String>,
    /// Where the hive's finished packages are served; what a package needs is taken from there when it fits.
    pub binhost: Option<String>,
}

/// Names in [`Portage::environment`] that mean something to Portage and are not this program's to set.
pub const ENVIRONMENT_NAMES: [&str; 7] =
    ["EMERGE_LOG_DIR", "EPREFIX", "PORTAGE_CONFIGROOT", "PORTAGE_REPOSITORIES", "ROOT", "SYSROOT", "DISTDIR"];

/// Part of a step that concerns Portage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(super) enum PortageStep {
    /// Looks at the tree as the build user: only the settings of Portage are added.
    Ask,
    /// Root builds this atom and installs what it needs; the step's own program is not used.
    Merge {
        /// Follows [`grammar::gentoo_atom`].
        atom: String,
    },
}

impl Portage {
    /// `emerge`, `python3`.
    pub(super) fn program(&self, name: &str) -> String {
        match &self.program_dir {
            Some(directory) => directory.join(name).to_string_lossy().into_owned(),
            None => name.to_owned(),
        }
    }

    /// What every program of Portage gets.
    pub(super) fn variables(&self) -> BTreeMap<String, String> {
        let known = self.environment.iter().filter(|(name, _)| ENVIRONMENT_NAMES.contains(&name.as_str()));
        let mut variables: BTreeMap<String, String> =
            known.map(|(name, value)| (name.clone(), value.clone())).collect();
        if let Some(binhost) = &self.binhost {
            variables.insert("PORTAGE_BINHOST".to_owned(), binhost.clone());
        }
        variables.insert("NOCOLOR".to_owned(), "true".to_owned());
        variables
    }

    /// Options that every `emerge` gets: nothing is asked, coloured, decided by the host's defaults or unmasked by itself.
    fn words(&self, packages: &[&str]) -> Vec<String> {
        let mut words = vec![self.program("emerge")];
        let fixed = ["--ask=n", "--color=n", "--nospinner", "--ignore-default-opts", "--autounmask=n", "--verbose"];
        words.extend(fixed.map(str::to_owned));
        if self.binhost.is_some() {
            words.extend(["--getbinpkg=y", "--usepkg=y"].map(str::to_owned));
            words.extend(packages.iter().map(|package| format!("--usepkg-exclude={package}")));
        }
        words
    }

    /// Asks what would have to be built, in which order.
    pub(super) fn pretend_argv(&self, targets: &[String], empty_tree: bool) -> Vec<String> {
        let atoms = targets.iter().filter(|target| !target.starts_with('@'));
        let packages: Vec<&str> = atoms.map(|atom| grammar::package_of_atom(atom)).collect();
        let mut words = self.words(&packages);
        words.extend(["--pretend", "--oneshot", "--with-bdeps=y"].map(str::to_owned));
        if empty_tree {
            words.push("--emptytree".to_owned());
        } else if targets.iter().any(|target| target.starts_with('@')) {
            words.extend(["--update", "--deep", "--newuse"].map(str::to_owned));
        }
        words.extend(targets.iter().cloned());
        words
    }

    /// Brings the trees to their newest state.
    pub(super) fn sync_argv(&self) -> Vec<String> {
        let words = ["--ask=n", "--color=n", "--nospinner", "--ignore-default-opts", "--sync"];
        std::iter::once(self.program("emerge")).chain(words.map(str::to_owned)).collect()
    }

    /// Builds and packs one atom; what it needs comes from binary packages where there are any, else it is built too.
    pub(super) fn merge_argv(&self, atom: &str) -> Vec<String> {
        let mut words = self.words(&[grammar::package_of_atom(atom)]);
        words.extend(["--oneshot", "--buildpkg=y", "--quiet-build=n"].map(str::to_owned));
        words.push(atom.to_owned());
        words
    }
}

/// Root's own directory of one attempt.
pub(super) fn place(work_dir: &Path, token: &str) -> PathBuf {
    work_dir.with_file_name("portage").join(token)
}

/// Makes root's directory of an attempt anew, with what Portage is told to use in it.
pub(super) fn prepare(place: &Path) -> io::Result<BTreeMap<String, String>> {
    let own = rustix::process::geteuid().as_raw();
    let above = place.parent().ok_or_else(|| io::Error::other("no directory above"))?;
    match fs::DirBuilder::new().mode(0o711).create(above) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let metadata = fs::symlink_metadata(above)?;
    if !metadata.is_dir() || metadata.uid() != own || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other(format!("{} is not a directory of root alone", above.display())));
    }
    fs::DirBuilder::new().mode(0o711).create(place)?;
    let mut variables = BTreeMap::new();
    for (name, directory) in [("PKGDIR", RESULTS), ("PORTAGE_TMPDIR", "tmp")] {
        let directory = place.join(directory);
        fs::DirBuilder::new().mode(0o755).create(&directory)?;
        variables.insert(name.to_owned(), directory.to_string_lossy().into_owned());
    }
    Ok(variables)
}

/// Gives what emerge finished to whom the attempt belongs, and removes root's directory.
pub(super) async fn close(place: &Path, attempt_dir: &Path, to: (u32, u32)) -> io::Result<()> {
    users::hand_over(&place.join(RESULTS), 0, to).await?;
    let handed = hand_out(place, attempt_dir);
    users::remove_tree(place).await.and(handed)
}

/// Moves the finished packages into the attempt's directory, which is named once and never followed through a link.
fn hand_out(place: &Path, attempt_dir: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let from = rustix::fs::open(place, flags, Mode::empty())?;
    let to = rustix::fs::open(attempt_dir, flags, Mode::empty())?;
    Ok(rustix::fs::renameat(&from, RESULTS, &to, RESULTS)?)
}

/// What tells this package tree from another state of it: the time stamp that rsync brings, or the commit.
pub fn tree_identity(tree: &Path) -> Option<String> {
    let line = |path: &Path| {
        let text = fs::read_to_string(tree.join(path)).ok()?;
        let line = text.lines().next()?.trim();
        grammar::is_plain_text(line, STAMP_MAX_BYTES).then(|| line.to_owned())
    };
    if let Some(stamp) = line(Path::new("metadata/timestamp.chk")) {
        return Some(stamp);
    }
    let head = line(Path::new(".git/HEAD"))?;
    let commit = match head.strip_prefix("ref: ") {
        None => Some(head),
        Some(name) => line(&Path::new(".git").join(name)).or_else(|| {
            let packed = fs::read_to_string(tree.join(".git/packed-refs")).ok()?;
            let mut found = packed.lines().filter_map(|line| line.split_once(' ')).filter(|(_, other)| *other == name);
            found.next().map(|(commit, _)| commit.to_owned())
        }),
    };
    commit.filter(|commit| grammar::commit(commit).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn portage(binhost: Option<&str>) -> Portage {
        let environment = [("ROOT", "/srv/root"), ("LD_PRELOAD", "/tmp/x.so"), ("PKGDIR", "/etc")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Portage { environment, binhost: binhost.map(str::to_owned), ..Portage::default() }
    }

    #[test]
    fn only_the_target_is_built_when_the_rest_can_be_had() {
        let words = portage(Some("http://127.0.0.1/x")).merge_argv("=app-misc/hello-1.0-r1:2::tiny");
        assert!(words.contains(&"--usepkg-exclude=app-misc/hello".to_owned()), "{words:?}");
        assert_eq!(words.last().map(String::as_str), Some("=app-misc/hello-1.0-r1:2::tiny"));
        let words = portage(None).merge_argv("app-misc/hello");
        assert!(!words.iter().any(|word| word.contains("usepkg")), "{words:?}");
        let words = portage(None).pretend_argv(&["@world".to_owned()], false);
        assert!(words.contains(&"--deep".to_owned()) && words.contains(&"--pretend".to_owned()));
        let words = portage(None).pretend_argv(&["@world".to_owned()], true);
        assert!(words.contains(&"--emptytree".to_owned()));
    }

    #[test]
    fn variables_that_are_not_portages_are_left_out() {
        let variables = portage(Some("http://h/")).variables();
        let names: Vec<&str> = variables.keys().map(String::as_str).collect();
        assert_eq!(names, ["NOCOLOR", "PORTAGE_BINHOST", "ROOT"]);
    }

    #[test]
    fn roots_directory_is_made_anew_and_not_through_a_link() {
        let root = tempfile::tempdir().expect("temporary directory");
        let place = place(&root.path().join("build"), "token");
        let variables = prepare(&place).expect("made");
        assert_eq!(variables["PKGDIR"], place.join("pkgs").to_string_lossy());
        assert!(prepare(&place).is_err(), "it is there already");
        fs::write(place.join("pkgs/x"), "x").expect("writes");
        let attempt = root.path().join("attempt");
        fs::create_dir(&attempt).expect("mkdir");
        std::os::unix::fs::symlink(&attempt, root.path().join("link")).expect("links");
        assert!(hand_out(&place, &root.path().join("link")).is_err());
        hand_out(&place, &attempt).expect("moves");
        assert!(attempt.join("pkgs/x").is_file());
        let other = self::place(&root.path().join("other/build"), "token");
        fs::create_dir(root.path().join("other")).expect("mkdir");
        std::os::unix::fs::symlink(&attempt, root.path().join("other/portage")).expect("links");
        assert!(prepare(&other).is_err());
    }

    #[test]
    fn trees_are_told_apart_by_time_stamp_or_commit() {
        let tree = tempfile::tempdir().expect("temporary directory");
        let write = |path: &str, text: &str| {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            fs::write(path, text).expect("writes");
        };
        let identity = || tree_identity(tree.path());
        assert_eq!(identity(), None);
        let commit = "0123456789abcdef0123456789abcdef01234567";
        write(".git/HEAD", "ref: refs/heads/main\n");
        assert_eq!(identity(), None);
        write(".git/packed-refs", &format!("# pack-refs\n{commit} refs/heads/main\n"));
        assert_eq!(identity().as_deref(), Some(commit));
        write(".git/refs/heads/main", &format!("{}\n", commit.replace('0', "f")));
        assert_eq!(identity(), Some(commit.replace('0', "f")));
        write(".git/HEAD", commit);
        assert_eq!(identity().as_deref(), Some(commit));
        write("metadata/timestamp.chk", "Sat, 21 Nov 2026 00:45:01 +0000\n");
        assert_eq!(identity().as_deref(), Some("Sat, 21 Nov 2026 00:45:01 +0000"));
    }
}
