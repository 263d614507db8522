//! Who builds, and handing directories between the agent and that user.
//!
//! `/etc/passwd` is read directly. Trees are handed over by coreutils (`chown --from`), which walk any depth, follow no link
//! and touch only what belongs to the expected owner: a hard link to somebody else's file keeps its owner. Never done here:
//! building as root.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;

use serde::{Deserialize, Serialize};

use super::{ExecError, SAFE_PATH};

/// A user that programs are started as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

fn parse(passwd: &str, wanted: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (name == wanted).then(|| User { name: name.to_owned(), uid, gid })
    })
}

/// The user of this name in `/etc/passwd`.
pub(super) fn lookup(name: &str) -> io::Result<Option<User>> {
    Ok(parse(&fs::read_to_string("/etc/passwd")?, name))
}

/// The name of this process's own user, else its number.
pub(super) fn own_name() -> String {
    let uid = rustix::process::geteuid().as_raw();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(uid.to_string().as_str()));
    line.and_then(|line| line.split(':').next()).map_or_else(|| uid.to_string(), str::to_owned)
}

/// Whom root starts builds as. `nobody` is good enough where no user was made for it: every attempt has its own home, and
/// fakeroot needs no particular user.
pub(super) fn build_user(wanted: Option<&str>) -> Result<User, ExecError> {
    let candidates: &[&str] = match &wanted {
        Some(name) => &[name],
        None => &["hive-build", "nobody"],
    };
    for name in candidates {
        if let Some(user) = lookup(name).map_err(ExecError::io("read /etc/passwd"))? {
            if user.uid == 0 {
                return Err(ExecError::Setting(format!(
                    "builds never run as root, and {name} is root; name another: build.user, or --build-user of the helper"
                )));
            }
            return Ok(user);
        }
    }
    let problem = format!(
        "there is no user {}; make one with: useradd --system --shell /usr/sbin/nologin hive-build",
        candidates.join(" or ")
    );
    Err(ExecError::Setting(problem))
}

/// Every directory above `path` lets `user` pass.
pub(super) fn require_passable(path: &Path, user: &User) -> Result<(), ExecError> {
    for directory in path.ancestors() {
        let metadata = fs::metadata(directory).map_err(ExecError::io(format!("inspect {}", directory.display())))?;
        let bit = if metadata.uid() == user.uid {
            0o100
        } else if metadata.gid() == user.gid {
            0o010
        } else {
            0o001
        };
        if metadata.mode() & bit == 0 {
            return Err(ExecError::Setting(format!(
                "user {} cannot pass {} to build below it; mend it with: chmod o+x {}, or name another work directory",
                user.name,
                directory.display(),
                directory.display()
            )));
        }
    }
    Ok(())
}

async fn tool(program: &str, arguments: &[&str], path: &Path) -> io::Result<()> {
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .arg("--")
        .arg(path)
        .env_clear()
        .env("PATH", SAFE_PATH)
        .env("LANG", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .await?;
    if output.status.success() {
        return Ok(());
    }
    let message: String = String::from_utf8_lossy(&output.stderr).chars().take(300).collect();
    Err(io::Error::other(format!("{program} {}: {}", path.display(), message.trim())))
}

/// Gives what belongs to `from` in the tree to `to`. Only root can.
pub(super) async fn hand_over(tree: &Path, from: u32, to: (u32, u32)) -> io::Result<()> {
    if from == to.0 {
        return Ok(());
    }
    let from = format!("--from={from}");
    let to = format!("{}:{}", to.0, to.1);
    tool("chown", &["-R", "-h", "-P", &from, &to], tree).await
}

/// Removes a tree whose directories may deny it.
pub(super) async fn remove_tree(tree: &Path) -> io::Result<()> {
    if fs::symlink_metadata(tree).is_err() {
        return Ok(());
    }
    if tool("rm", &["-rf", "--one-file-system"], tree).await.is_ok() {
        return Ok(());
    }
    tool("chmod", &["-R", "u+rwX"], tree).await.ok();
    tool("rm", &["-rf", "--one-file-system"], tree).await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn users_are_found_by_name_alone() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nhive-build:x:998:997::/nonexistent:/usr/sbin/nologin\n";
        let user = User { name: "hive-build".to_owned(), uid: 998, gid: 997 };
        assert_eq!(parse(passwd, "hive-build"), Some(user));
        assert_eq!(parse(passwd, "hive"), None);
    }

    #[test]
    fn root_and_strangers_never_build() {
        let root = build_user(Some("root")).expect_err("root").to_string();
        assert!(root.contains("never run as root"), "{root}");
        let nobody = build_user(Some("no-such-user")).expect_err("unknown").to_string();
        assert!(nobody.contains("useradd"), "{nobody}");
    }

    #[test]
    fn an_impassable_directory_is_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).expect("chmod");
        let user = User { name: "x".to_owned(), uid: 4_000_000, gid: 4_000_000 };
        let message = require_passable(&directory.path().join(""), &user).expect_err("0700").to_string();
        assert!(message.contains("chmod o+x"), "{message}");
    }
}
