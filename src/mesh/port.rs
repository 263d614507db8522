//! Whether a TCP port is free. Never done here: taking it away.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// Tries to bind as nobody else may: libp2p listens with SO_REUSEPORT, under which two agents of one user would share a port
/// and each get half of the connections.
pub(crate) fn probe(ip: IpAddr, port: u16) -> std::io::Result<()> {
    let address = SocketAddr::new(ip, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

/// The unspecified address of the other family, when this one is unspecified.
pub(crate) fn is_any_v6(ip: IpAddr) -> bool {
    ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn a_taken_port_is_noticed() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let port = listener.local_addr().expect("address").port();
        let error = probe(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).expect_err("taken");
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        drop(listener);
        probe(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).expect("free again");
    }
}
