//! Who may use the local socket: root, the user the agent runs as, and members of the group `hive-admin`.
//!
//! The kernel says who is at the other end; membership is looked up in `/etc/passwd` and `/etc/group`, since a connection carries its
//! primary group only. Members that a directory service alone knows need the group as their primary one. Never done here: passwords,
//! tokens.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tokio::net::unix::UCred;

/// The group whose members may control the agent.
pub const ADMIN_GROUP: &str = "hive-admin";
/// Longest user or group database that is read, bytes.
const DATABASE_MAX: u64 = 8 << 20;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// At the local socket the user's name, `uid 1234` where there is none; else whose key it is, and from where.
    pub name: String,
}

impl Caller {
    /// Whoever came over TCP.
    pub(super) fn remote(holder: &str, from: IpAddr) -> Self {
        Self { name: format!("{holder} from {from}") }
    }
}

/// Decides by peer credentials.
#[derive(Clone, Debug)]
pub(super) struct Access {
    own_uid: u32,
    passwd: PathBuf,
    group: PathBuf,
}

impl Access {
    pub(super) fn system() -> Self {
        Self {
            own_uid: rustix::process::geteuid().as_raw(),
            passwd: PathBuf::from("/etc/passwd"),
            group: PathBuf::from("/etc/group"),
        }
    }

    /// The caller, when it may, else who it was that may not.
    pub(super) fn check(&self, credentials: &UCred) -> Result<Caller, Caller> {
        self.check_ids(credentials.uid(), credentials.gid())
    }

    fn check_ids(&self, uid: u32, gid: u32) -> Result<Caller, Caller> {
        let name = self.user_name(uid);
        let trusted = uid == 0 || uid == self.own_uid || self.is_admin(name.as_deref(), gid);
        let caller = Caller { name: name.unwrap_or_else(|| format!("uid {uid}")) };
        if trusted { Ok(caller) } else { Err(caller) }
    }

    fn user_name(&self, uid: u32) -> Option<String> {
        let database = read(&self.passwd)?;
        database.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
    }

    fn is_admin(&self, user: Option<&str>, gid: u32) -> bool {
        let Some(database) = read(&self.group) else { return false };
        database.lines().any(|line| {
            let mut fields = line.split(':');
            let (name, _, group_id, members) = (fields.next(), fields.next(), fields.next(), fields.next());
            if name != Some(ADMIN_GROUP) {
                return false;
            }
            let primary = group_id.and_then(|text| text.parse().ok()) == Some(gid);
            let listed = user.is_some_and(|user| members.unwrap_or_default().split(',').any(|member| member == user));
            primary || listed
        })
    }
}

fn read(path: &Path) -> Option<String> {
    if fs::metadata(path).ok()?.len() > DATABASE_MAX {
        return None;
    }
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_agent_itself_and_administrators_may_and_nobody_else() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let access =
            Access { own_uid: 990, passwd: directory.path().join("passwd"), group: directory.path().join("group") };
        fs::write(
            &access.passwd,
            "root:x:0:0::/root:/bin/sh\nhive:x:990:990::/:/bin/false\nann:x:1000:1000::/:/bin/sh\nben:x:1001:1001::/:/bin/sh\n\
             cem:x:1002:700::/:/bin/sh\nbroken line\n",
        )
        .expect("writes");
        fs::write(&access.group, "users:x:100:ben\nhive-admin:x:700:ann,dan\nnot-hive-admin:x:701:ben\n")
            .expect("writes");
        let cases = [
            (0, 0, true),
            (990, 990, true),
            (1000, 1000, true),
            (1001, 1001, false),
            (1002, 700, true),
            (4242, 1, false),
        ];
        for (uid, gid, may) in cases {
            assert_eq!(access.check_ids(uid, gid).is_ok(), may, "{uid}:{gid}");
        }
        assert_eq!(access.check_ids(1000, 1000).map(|caller| caller.name), Ok("ann".to_owned()));
        assert_eq!(access.check_ids(4242, 1).map_err(|caller| caller.name), Err("uid 4242".to_owned()));
        fs::remove_file(&access.group).expect("removes");
        assert!(access.check_ids(1000, 1000).is_err(), "without the database nobody is an administrator");
    }
}
