//! Who holds the hive's port on this machine.

use std::collections::BTreeSet;
use std::fs;

use super::Check;

/// Most processes that are looked through.
const PROCESSES_MAX: usize = 100_000;

/// A socket table of the kernel, and the state in which a socket of it holds a port.
const TABLES: [(&str, &str, &str); 4] = [
    ("UDP", "/proc/net/udp", "07"),
    ("UDP", "/proc/net/udp6", "07"),
    ("TCP", "/proc/net/tcp", "0A"),
    ("TCP", "/proc/net/tcp6", "0A"),
];

/// Judges: while the agent answers the port must be held, else it must be free.
pub(super) fn check(port: u16, agent_answers: bool) -> Check {
    let mut inodes = BTreeSet::new();
    let mut held = BTreeSet::new();
    for (protocol, path, state) in TABLES {
        let found = sockets(&fs::read_to_string(path).unwrap_or_default(), port, state);
        if !found.is_empty() {
            held.insert(protocol);
        }
        inodes.extend(found);
    }
    let holders = processes(&inodes);
    let by = if holders.is_empty() { "a process that only root may see".to_owned() } else { holders.join(", ") };
    let protocols: Vec<&str> = held.into_iter().collect();
    match (agent_answers, protocols.as_slice()) {
        (true, ["TCP", "UDP"]) => Check::ok("port", format!("{port} is held by {by}")),
        (true, _) => {
            let cause = format!("the agent answers, but UDP and TCP {port} are not both bound");
            Check::warn("port", cause, "see why: journalctl -u hive -n 50")
        }
        (false, []) => Check::ok("port", format!("{port} is free")),
        (false, some) => {
            let cause = format!("{} {port} is held by {by}", some.join(" and "));
            Check::fail("port", cause, "end that process, or choose another port with --port")
        }
    }
}

/// Inodes of the sockets that hold the port, from the text of a table.
fn sockets(table: &str, port: u16, state: &str) -> Vec<u64> {
    let wanted = format!(":{port:04X}");
    let rows = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, its_state) = (fields.get(1)?, fields.get(3)?);
        (local.ends_with(&wanted) && *its_state == state).then(|| fields.get(9)?.parse().ok()).flatten()
    });
    rows.collect()
}

/// Names and numbers of processes that have one of these sockets open, as far as this user may look.
fn processes(inodes: &BTreeSet<u64>) -> Vec<String> {
    let links: BTreeSet<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let mut out = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten().take(PROCESSES_MAX) {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        let holds = descriptors.flatten().any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|link| link.to_str().is_some_and(|link| links.contains(link)))
        });
        if holds {
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            out.push(format!("{} (pid {pid})", command.trim()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::super::Severity;
    use super::*;

    #[test]
    fn a_port_in_use_is_reported_with_the_process_that_holds_it() {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let port = udp.local_addr().expect("bound").port();
        let found = check(port, false);
        assert_eq!(found.state, Severity::Fail);
        assert!(found.cause.contains(&format!("UDP {port}")), "{}", found.cause);
        assert!(found.cause.contains(&format!("(pid {})", std::process::id())), "{}", found.cause);
        drop(udp);
        let tcp = TcpListener::bind("[::1]:0").or_else(|_| TcpListener::bind("127.0.0.1:0")).expect("binds");
        let found = check(tcp.local_addr().expect("bound").port(), false);
        assert!(found.cause.starts_with("TCP "), "{}", found.cause);
    }
}
