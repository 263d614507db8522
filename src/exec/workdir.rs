//! The directory below which builds work, as root has to treat it: its owner is the agent, who may be taken over.
//!
//! ```text
//!   /var/cache/hive   root's, nobody else may change what is in it      ← checked by `make_for`
//!   └── build         the agent's: it makes a directory per attempt     ← opened as it is, never through a link
//!       └── .probe    made, opened and given to the build user by descriptor
//! ```
//!
//! Never done here: changing owner or mode of anything by its path.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::ExecError;
use super::users::User;

fn refused(path: &Path, why: &str) -> ExecError {
    ExecError::Setting(format!(
        "builds cannot work in {}: {why}; name a directory whose parents are root's, with build.work_dir",
        path.display()
    ))
}

/// Makes the work directory and gives it to the agent's user. Root only: every directory above must be one that nobody else can replace,
/// or a link of the agent's making would have root give away something else.
pub(super) fn make_for(work_dir: &Path, agent: &User) -> Result<(), ExecError> {
    let parent = work_dir.parent().ok_or_else(|| refused(work_dir, "it is the root directory"))?;
    for directory in parent.ancestors().collect::<Vec<_>>().into_iter().rev() {
        let metadata = match fs::symlink_metadata(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(directory).map_err(ExecError::io(format!("create {}", directory.display())))?;
                fs::symlink_metadata(directory)
            }
            found => found,
        };
        let metadata = metadata.map_err(ExecError::io(format!("inspect {}", directory.display())))?;
        // In a sticky directory nobody can replace what is another's.
        let open = metadata.mode() & 0o022 != 0 && metadata.mode() & 0o1000 == 0;
        let fault = match () {
            () if metadata.is_symlink() => "is a link",
            () if !metadata.is_dir() => "is no directory",
            () if metadata.uid() != 0 => "is not root's",
            () if open => "can be changed by others than root",
            () => continue,
        };
        return Err(refused(work_dir, &format!("{} {fault}", directory.display())));
    }
    match fs::create_dir(work_dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(ExecError::io(format!("create {}", work_dir.display()))(error));
        }
        _ => {}
    }
    let given = || -> io::Result<()> {
        let directory = open(work_dir)?;
        let owner = rustix::fs::fstat(&directory)?.st_uid;
        if owner != 0 && owner != agent.uid {
            return Err(io::Error::other(format!("it belongs to user {owner}")));
        }
        give(&directory, agent)
    };
    given().map_err(ExecError::io(format!("give {} to {}", work_dir.display(), agent.name)))
}

fn open(path: &Path) -> io::Result<fs::File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

fn give(directory: &fs::File, user: &User) -> io::Result<()> {
    std::os::unix::fs::fchown(directory, Some(user.uid), Some(user.gid))
}

/// Lets everyone pass the work directory, so that the build user can.
pub(super) fn open_up(work_dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = open(work_dir)?;
    let mode = directory.metadata()?.mode();
    directory.set_permissions(fs::Permissions::from_mode(mode & 0o755 | 0o711))
}

/// A directory to try a program in, empty, with a `tmp` in it, both the build user's.
pub(super) fn probe_directory(work_dir: &Path, user: Option<&User>) -> io::Result<PathBuf> {
    let path = work_dir.join(".probe");
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(&path)?,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir(&path)?;
    let directory = open(&path)?;
    let own = rustix::process::geteuid().as_raw();
    if rustix::fs::fstat(&directory)?.st_uid != own {
        return Err(io::Error::other("somebody else put it there"));
    }
    rustix::fs::mkdirat(&directory, "tmp", Mode::RWXU)?;
    if let Some(user) = user {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let temporary = fs::File::from(rustix::fs::openat(&directory, "tmp", flags, Mode::empty())?);
        give(&temporary, user)?;
        give(&directory, user)?;
    }
    Ok(path)
}

/// A name for this work directory that no other agent on this kernel uses, also when paths are equal in two mount namespaces.
pub(super) fn instance(work_dir: &Path) -> io::Result<String> {
    let metadata = fs::metadata(work_dir)?;
    let place = format!("{}-{}", metadata.dev(), metadata.ino());
    Ok(format!("hive-builds-{}", &hex::encode(crate::keyring::sha256(place.as_bytes()))[..16]))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn user(uid: u32) -> User {
        User { name: "x".to_owned(), uid, gid: uid }
    }

    #[test]
    fn root_gives_away_a_real_directory_below_its_own_only() {
        assert!(rustix::process::geteuid().is_root(), "only root can give directories away: run the tests as root");
        let directory = tempfile::tempdir().expect("temporary directory");
        let base = directory.path();
        let agent = user(4_000_000);
        make_for(&base.join("new/deep/work"), &agent).expect("made");
        let made = fs::metadata(base.join("new/deep/work")).expect("made");
        assert_eq!((made.uid(), fs::metadata(base.join("new/deep")).expect("made").uid()), (4_000_000, 0));
        make_for(&base.join("new/deep/work"), &agent).expect("again");
        let (victim, link) = (base.join("victim"), base.join("link"));
        fs::create_dir(&victim).expect("makes");
        symlink(&victim, &link).expect("links");
        assert!(make_for(&link, &agent).is_err());
        assert!(make_for(&link.join("work"), &agent).expect_err("a link above").to_string().contains("is a link"));
        let message = make_for(&base.join("new/deep/work/x/y"), &agent).expect_err("below the agent's").to_string();
        assert!(message.contains("is not root's") && message.contains("build.work_dir"), "{message}");
        assert_eq!(fs::metadata(&victim).expect("there").uid(), 0);
        assert!(make_for(&base.join("new/deep/work"), &user(4_000_001)).is_err(), "somebody else's");
    }

    #[test]
    fn a_probe_follows_no_link() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let victim = directory.path().join("victim");
        fs::create_dir(&victim).expect("makes");
        fs::write(victim.join("file"), "x").expect("writes");
        symlink(&victim, directory.path().join(".probe")).expect("links");
        let probe = probe_directory(directory.path(), None).expect("made");
        assert!(fs::symlink_metadata(&probe).expect("there").is_dir() && probe.join("tmp").is_dir());
        assert!(victim.join("file").exists() && !victim.join("tmp").exists());
        fs::write(probe.join("left"), "x").expect("writes");
        assert!(!probe_directory(directory.path(), None).expect("made anew").join("left").exists());
    }
}
