//! The sockets: one per address family, never shared with another process.
//!
//! Two agents on one port would each get some of the datagrams and both look half dead, so the port is not shared
//! (no `SO_REUSEADDR`), and whoever comes second is told which process has it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use super::interfaces::Interface;

/// Room for a burst: 300 nodes that call at once, and junk among them. The system may grant less.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
/// Routers that a multicast passes: none, like a broadcast.
const MULTICAST_TTL: u32 = 1;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// Opens the socket of one address family on `port` (0: any).
pub(super) fn open(address: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    if address.is_ipv4() {
        socket.set_broadcast(true)?;
        socket.set_multicast_ttl_v4(MULTICAST_TTL)?;
        // Without this, groups that other processes joined arrive here, too.
        socket.set_multicast_all_v4(false)?;
    } else {
        socket.set_only_v6(true)?;
    }
    if let Err(error) = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES) {
        tracing::debug!(%error, "the receive buffer stays as it is");
    }
    socket.bind(&SocketAddr::new(address, port).into())?;
    UdpSocket::from_std(socket.into())
}

/// Sends without waiting: a datagram that finds the buffer full is lost, as any may be.
pub(super) fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
    SockRef::from(socket).send_to(bytes, &to.into()).map(|_| ())
}

/// Sends to the multicast group through one interface.
pub(super) fn send_multicast(
    socket: &UdpSocket,
    bytes: &[u8],
    interface: Ipv4Addr,
    group: Ipv4Addr,
    port: u16,
) -> io::Result<()> {
    let socket_ref = SockRef::from(socket);
    socket_ref.set_multicast_if_v4(&interface)?;
    socket_ref.send_to(bytes, &SocketAddr::from((group, port)).into()).map(|_| ())
}

/// Listens to the multicast group on an interface. Joining twice is no error.
pub(super) fn join(socket: &UdpSocket, group: Ipv4Addr, interface: &Interface) -> io::Result<()> {
    let on = InterfaceIndexOrAddress::Index(interface.index);
    match SockRef::from(socket).join_multicast_v4_n(&group, &on) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        other => other,
    }
}

/// All addresses of a family.
pub(super) fn any(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// The process that has a UDP port, as far as this one may look: another user's is only found by root.
pub fn port_owner(port: u16) -> Option<Owner> {
    let inodes: Vec<u64> = ["/proc/net/udp", "/proc/net/udp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| table.lines().filter_map(|line| socket_inode(line, port)).collect::<Vec<_>>())
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if has_open(&entry.path(), &links) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(Owner { pid, name: name.trim_end().to_owned() });
        }
    }
    None
}

/// The inode of the socket in a line of `/proc/net/udp`, when it is bound to `port`.
fn socket_inode(line: &str, port: u16) -> Option<u64> {
    let mut columns = line.split_whitespace();
    let local = columns.nth(1)?;
    let (_, local_port) = local.rsplit_once(':')?;
    if u16::from_str_radix(local_port, 16).ok()? != port {
        return None;
    }
    columns.nth(7)?.parse().ok()
}

fn has_open(process: &Path, links: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    descriptors
        .flatten()
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .any(|target| target.to_str().is_some_and(|target| links.iter().any(|link| link == target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_agent_learns_who_has_the_port() {
        let first = open(any(false), 0).expect("opens");
        let port = first.local_addr().expect("bound").port();
        let error = open(any(false), port).expect_err("the port is not shared");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let owner = port_owner(port).expect("it is this process");
        assert_eq!(owner.pid, std::process::id());
        assert!(!owner.name.is_empty());
        drop(first);
        assert_eq!(port_owner(port), None);
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        let line =
            " 1234: 00000000:C57B 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 98765 2 0 0";
        assert_eq!(socket_inode(line, 50_555), Some(98_765));
        assert_eq!(socket_inode(line, 50_556), None);
        assert_eq!(socket_inode("  sl  local_address rem_address   st tx_queue", 50_555), None);
        assert_eq!(socket_inode("", 1), None);
    }
}
