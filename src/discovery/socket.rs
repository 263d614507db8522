//! The sockets: one per address family, never shared with another process.
//!
//! Two agents on one port would each get some of the datagrams and both look half dead, so the port is not shared
//! (no `SO_REUSEADDR`), and whoever comes second is told which process has it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use super::interfaces::Interface;

/// Room for a burst: 300 nodes that call at once, and junk among them. The system may grant less.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
/// Routers that a multicast passes: none, like a broadcast.
const MULTICAST_TTL: u32 = 1;

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
        socket.set_multicast_hops_v6(MULTICAST_TTL)?;
        socket.set_multicast_all_v6(false)?;
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

/// The IPv6 group that goes with an IPv4 one: `ff02::` (the link and no further) with the IPv4 group in its last 32 bits, so
/// `239.255.0.1` has `ff02::efff:1`.
pub(super) fn group_v6(group: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xff02 << 112 | u128::from(group.to_bits()))
}

/// Sends to the IPv6 multicast group through one interface.
pub(super) fn send_multicast_v6(
    socket: &UdpSocket,
    bytes: &[u8],
    interface: u32,
    group: Ipv4Addr,
    port: u16,
) -> io::Result<()> {
    send(socket, bytes, SocketAddrV6::new(group_v6(group), port, 0, interface).into())
}

/// Listens to the multicast group of the interface's address family. Joining twice is no error.
pub(super) fn join(v4: &UdpSocket, v6: Option<&UdpSocket>, group: Ipv4Addr, interface: &Interface) -> io::Result<()> {
    let joined = match (interface.address, v6) {
        (IpAddr::V4(_), _) => {
            SockRef::from(v4).join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(interface.index))
        }
        (IpAddr::V6(_), Some(v6)) => SockRef::from(v6).join_multicast_v6(&group_v6(group), interface.index),
        (IpAddr::V6(_), None) => Ok(()),
    };
    match joined {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        other => other,
    }
}

/// All addresses of a family.
pub(super) fn any(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_both_families_go_together() {
        assert_eq!(group_v6(Ipv4Addr::new(239, 255, 0, 1)), "ff02::efff:1".parse::<Ipv6Addr>().expect("address"));
        assert!(group_v6(Ipv4Addr::new(239, 1, 2, 3)).is_multicast());
    }

    #[tokio::test]
    async fn the_port_is_not_shared_with_a_second_agent() {
        let first = open(any(false), 0).expect("opens");
        let port = first.local_addr().expect("bound").port();
        let error = open(any(false), port).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        open(any(false), port).expect("free again");
    }
}
