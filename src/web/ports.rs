//! Which process holds a port, so that "address already in use" comes with a name.
//!
//! Reads `/proc` as far as it may: for processes of other users only root sees the name. Never done here: ending anything.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};

/// Most lines of a socket table that are read.
const LINES_MAX: usize = 200_000;
/// Longest line that is looked at, bytes; theirs have about 180.
const LINE_MAX: u64 = 4 << 10;

/// Transport of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Listening sockets.
    Tcp,
    /// Bound sockets.
    Udp,
}

/// `name (pid 1234)` of the process that holds the port, where it can be told.
pub fn holder(protocol: Protocol, port: u16) -> Option<String> {
    let (tables, state) = match protocol {
        Protocol::Tcp => (["/proc/net/tcp", "/proc/net/tcp6"], "0A"),
        Protocol::Udp => (["/proc/net/udp", "/proc/net/udp6"], "07"),
    };
    let inode = tables.into_iter().find_map(|table| inode_of(table, state, port).ok().flatten())?;
    process_with(&format!("socket:[{inode}]"))
}

fn inode_of(table: &str, state: &str, port: u16) -> io::Result<Option<u64>> {
    let mut reader = BufReader::new(fs::File::open(table)?);
    let mut line = String::new();
    for _ in 0..LINES_MAX {
        line.clear();
        if (&mut reader).take(LINE_MAX).read_line(&mut line)? == 0 {
            break;
        }
        if let Some(inode) = inode_in(&line, state, port) {
            return Ok(Some(inode));
        }
    }
    Ok(None)
}

/// The inode in a line `sl local:port remote:port state tx:rx tr:when retrnsmt uid timeout inode …`.
fn inode_in(line: &str, state: &str, port: u16) -> Option<u64> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    let matches = u16::from_str_radix(local_port, 16) == Ok(port) && *fields.get(3)? == state;
    if matches { fields.get(9)?.parse().ok() } else { None }
}

fn process_with(socket: &str) -> Option<String> {
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = descriptors
            .flatten()
            .any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str() == socket));
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim_end()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_listens_is_named() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let udp =
            std::net::UdpSocket::bind("[::1]:0").or_else(|_| std::net::UdpSocket::bind("127.0.0.1:0")).expect("binds");
        let me = format!("(pid {})", std::process::id());
        let tcp_port = tcp.local_addr().expect("address").port();
        let udp_port = udp.local_addr().expect("address").port();
        assert!(holder(Protocol::Tcp, tcp_port).expect("found").ends_with(&me));
        assert!(holder(Protocol::Udp, udp_port).expect("found").ends_with(&me));
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
