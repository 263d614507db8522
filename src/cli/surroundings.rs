//! What the process finds itself in: user, host name, environment. Read once, handed to whoever needs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::client::Target;
use crate::api::{ApiError, ErrorCode};
use crate::config::Surroundings;
use crate::config::table::KEY_VARIABLES;

/// The user that the service runs as.
const SERVICE_USER: &str = "hive";

/// Looks at user, host and environment.
pub(crate) fn of_process() -> Surroundings {
    let user = rustix::process::geteuid().as_raw();
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Surroundings {
        system: user == 0 || user_id_of(SERVICE_USER) == Some(user),
        host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        variables,
    }
}

fn user_id_of(name: &str) -> Option<u32> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// Which agent a command talks to: `--socket`, `--url`, then `HIVE_SOCKET`, `HIVE_URL`, `SWARMV3_URL`, then the socket of the
/// user's own agent if there is one, else the system's.
pub(crate) fn target(surroundings: &Surroundings, socket: Option<&str>, url: Option<&str>) -> Result<Target, ApiError> {
    let variable = |name: &str| surroundings.variables.get(name).map(String::as_str).filter(|value| !value.is_empty());
    match (socket, url) {
        (Some(_), Some(_)) => {
            return Err(ApiError::new(ErrorCode::Invalid, "--socket and --url name two agents", "give one of them"));
        }
        (Some(path), None) => return Ok(Target::Socket(PathBuf::from(path))),
        (None, Some(url)) => return Target::from_url(url),
        (None, None) => {}
    }
    if let Some(path) = variable("HIVE_SOCKET") {
        return Ok(Target::Socket(PathBuf::from(path)));
    }
    if let Some(url) = variable("HIVE_URL").or_else(|| variable("SWARMV3_URL")) {
        return Target::from_url(url);
    }
    Ok(Target::Socket(default_socket(surroundings, Path::exists)))
}

/// File of the authorities whose certificates commands believe; none: those of the system.
pub(crate) fn authorities(surroundings: &Surroundings, file: Option<&Path>) -> Option<PathBuf> {
    let variable = surroundings.variables.get("HIVE_CA").filter(|value| !value.is_empty());
    file.map(Path::to_owned).or_else(|| variable.map(PathBuf::from))
}

/// The admin key or token that commands send to a port.
pub(crate) fn key(surroundings: &Surroundings) -> Option<&str> {
    let value = |name: &&str| surroundings.variables.get(*name).map(|key| key.trim()).filter(|key| !key.is_empty());
    KEY_VARIABLES.iter().find_map(value)
}

fn default_socket(surroundings: &Surroundings, exists: impl Fn(&Path) -> bool) -> PathBuf {
    let system = PathBuf::from("/run/hive/hive.sock");
    if surroundings.system {
        return system;
    }
    let own = surroundings
        .variables
        .get("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .or_else(|| surroundings.variables.get("HOME").map(|home| Path::new(home).join(".local/state")))
        .map(|directory| directory.join("hive/hive.sock"));
    own.filter(|path| exists(path)).unwrap_or(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Surroundings {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Surroundings { system: false, host_name: "h".to_owned(), variables }
    }

    #[test]
    fn flags_win_over_variables_and_a_socket_over_a_url() {
        let socket = |path: &str| Ok(Target::Socket(PathBuf::from(path)));
        let http =
            |host: &str, port| Ok(Target::Http { tls: false, host: host.to_owned(), port, prefix: String::new() });
        let all = with(&[("HIVE_SOCKET", "/a"), ("HIVE_URL", "http://b:1"), ("SWARMV3_URL", "http://c:2")]);
        assert_eq!(target(&all, Some("/x"), None), socket("/x"));
        assert_eq!(target(&all, None, Some("http://y")), http("y", 8_100));
        assert_eq!(target(&all, None, None), socket("/a"));
        assert_eq!(
            target(&with(&[("HIVE_URL", "http://b:1"), ("SWARMV3_URL", "http://c:2")]), None, None),
            http("b", 1)
        );
        assert_eq!(target(&with(&[("SWARMV3_URL", "http://c:2/")]), None, None), http("c", 2));
        assert!(target(&all, Some("/x"), Some("http://y")).is_err());
    }

    #[test]
    fn a_plain_user_talks_to_the_own_agent_if_there_is_one() {
        let user = with(&[("XDG_RUNTIME_DIR", "/run/user/7")]);
        assert_eq!(default_socket(&user, |_| true), Path::new("/run/user/7/hive/hive.sock"));
        assert_eq!(default_socket(&user, |_| false), Path::new("/run/hive/hive.sock"));
        let root = Surroundings { system: true, ..user };
        assert_eq!(default_socket(&root, |_| true), Path::new("/run/hive/hive.sock"));
    }
}
