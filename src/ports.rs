//! Which process holds a port, so that "address already in use" comes with a name.
//!
//! Reads `/proc` as far as it may: for processes of other users only root sees the name. Never done here: ending anything.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};

/// Most lines of a socket table that are read.
const LINES_MAX: usize = 200_000;
/// Longest line that is looked at, bytes; theirs have about 180.
const LINE_MAX: u64 = 4 << 10;
/// Most processes that are looked through.
const PROCESSES_MAX: usize = 100_000;

/// Transport of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Listening sockets.
    Tcp,
    /// Bound sockets.
    Udp,
}

/// A process that has a port. As text: `name (pid 1234)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// What to call whoever holds a port, for a message that ends a program: a process of another user is seen by root only.
pub fn named(holder: Option<&Holder>) -> String {
    match holder {
        Some(holder) => holder.to_string(),
        None => "a process that this user may not see (sudo hive doctor names it)".to_owned(),
    }
}

/// The process that holds the port, where it can be told.
pub fn holder(protocol: Protocol, port: u16) -> Option<Holder> {
    holders(&sockets(protocol, port)).into_iter().next()
}

/// The kernel's numbers of the sockets that hold the port; none when it is free.
pub fn sockets(protocol: Protocol, port: u16) -> BTreeSet<u64> {
    let (tables, state) = match protocol {
        Protocol::Tcp => (["/proc/net/tcp", "/proc/net/tcp6"], "0A"),
        Protocol::Udp => (["/proc/net/udp", "/proc/net/udp6"], "07"),
    };
    let mut found = BTreeSet::new();
    for table in tables {
        // A machine without IPv6 has one table less.
        sockets_in(table, state, port, &mut found).ok();
    }
    found
}

/// Processes that have one of these sockets open, as far as this user may look.
pub fn holders(sockets: &BTreeSet<u64>) -> Vec<Holder> {
    let mut found = Vec::new();
    if sockets.is_empty() {
        return found;
    }
    let links: BTreeSet<String> = sockets.iter().map(|inode| format!("socket:[{inode}]")).collect();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten().take(PROCESSES_MAX) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = descriptors.flatten().any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|link| link.to_str().is_some_and(|link| links.contains(link)))
        });
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(Holder { pid, name: name.trim_end().to_owned() });
        }
    }
    found
}

fn sockets_in(table: &str, state: &str, port: u16, found: &mut BTreeSet<u64>) -> io::Result<()> {
    let mut reader = BufReader::new(fs::File::open(table)?);
    let mut line = String::new();
    for _ in 0..LINES_MAX {
        line.clear();
        if (&mut reader).take(LINE_MAX).read_line(&mut line)? == 0 {
            break;
        }
        found.extend(inode_in(&line, state, port));
    }
    Ok(())
}

/// The inode in a line `sl local:port remote:port state tx:rx tr:when retrnsmt uid timeout inode …`.
fn inode_in(line: &str, state: &str, port: u16) -> Option<u64> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    let matches = u16::from_str_radix(local_port, 16) == Ok(port) && *fields.get(3)? == state;
    if matches { fields.get(9)?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_listens_is_named() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let udp =
            std::net::UdpSocket::bind("[::1]:0").or_else(|_| std::net::UdpSocket::bind("127.0.0.1:0")).expect("binds");
        let tcp_port = tcp.local_addr().expect("address").port();
        let udp_port = udp.local_addr().expect("address").port();
        let found = holder(Protocol::Tcp, tcp_port).expect("found");
        assert_eq!(found.pid, std::process::id());
        assert!(!found.name.is_empty() && found.to_string().ends_with(&format!(" (pid {})", found.pid)));
        assert_eq!(holder(Protocol::Udp, udp_port).expect("found").pid, std::process::id());
        drop(tcp);
        assert_eq!(holder(Protocol::Tcp, tcp_port), None);
    }

    #[test]
    fn lines_that_are_not_understood_are_passed_over() {
        for line in
            ["", "sl local_address rem_address st", "0: zz:zz 0:0 0A", "0: 00000000:1FA4 0:0 0A 0:0 0:0 0 0 0 x"]
        {
            assert_eq!(inode_in(line, "0A", 8100), None, "{line}");
        }
        let line =
            "   0: 0100007F:1FA4 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0";
        assert_eq!(inode_in(line, "0A", 8100), Some(4711));
        assert_eq!(inode_in(line, "07", 8100), None);
    }
}
