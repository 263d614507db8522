//! Who holds a TCP port. Never done here: taking it away.

use std::fs;
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

/// Name and id of the process that listens on this TCP port, as far as this process may see it.
pub(crate) fn holder(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    for process in processes {
        let Ok(id) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = descriptors
            .filter_map(Result::ok)
            .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
            .any(|target| links.iter().any(|link| target.as_os_str() == link.as_str()));
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {id})", name.trim()));
        }
    }
    None
}

/// Inodes of the sockets in state LISTEN on this port.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let inode_of = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, port_digits) = fields.get(1)?.rsplit_once(':')?;
        let matches = u16::from_str_radix(port_digits, 16).ok()? == port && *fields.get(3)? == LISTEN;
        matches.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
    };
    table.lines().skip(1).filter_map(inode_of).collect()
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
    fn a_taken_port_is_noticed_and_its_holder_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let port = listener.local_addr().expect("address").port();
        let error = probe(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).expect_err("taken");
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        let holder = holder(port).expect("this process");
        assert!(holder.contains(&std::process::id().to_string()), "{holder}");
        drop(listener);
        probe(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).expect("free again");
    }
}
