//! Who holds the hive's port on this machine.

use super::Check;
use crate::ports::{Protocol, holders, sockets};

/// Judges: while the agent answers the port must be held, else it must be free.
pub(super) fn check(port: u16, agent_answers: bool) -> Check {
    let (udp, tcp) = (sockets(Protocol::Udp, port), sockets(Protocol::Tcp, port));
    let held = match (udp.is_empty(), tcp.is_empty()) {
        (true, true) => "",
        (true, false) => "TCP",
        (false, true) => "UDP",
        (false, false) => "TCP and UDP",
    };
    let holders: Vec<String> = holders(&udp.union(&tcp).copied().collect()).iter().map(ToString::to_string).collect();
    let by = if holders.is_empty() { "a process that only root may see".to_owned() } else { holders.join(", ") };
    match (agent_answers, held) {
        (true, "TCP and UDP") => Check::ok("port", format!("{port} is held by {by}")),
        (true, _) => {
            let cause = format!("the agent answers, but UDP and TCP {port} are not both bound");
            Check::warn("port", cause, "see why: journalctl -u hive -n 50")
        }
        (false, "") => Check::ok("port", format!("{port} is free")),
        (false, held) => {
            let cause = format!("{held} {port} is held by {by}");
            Check::fail("port", cause, "end that process, or choose another port with --port")
        }
    }
}

/// Judges the port of HTTP for an agent that does not answer: it must be free.
pub(super) fn check_http(port: u16) -> Check {
    let held = sockets(Protocol::Tcp, port);
    if held.is_empty() {
        return Check::ok("http port", format!("{port} is free"));
    }
    let holders: Vec<String> = holders(&held).iter().map(ToString::to_string).collect();
    let by = if holders.is_empty() { "a process that only root may see".to_owned() } else { holders.join(", ") };
    let cause = format!("TCP {port} is held by {by}");
    Check::fail("http port", cause, "end that process, or choose another port with --http")
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
        let http = check_http(tcp.local_addr().expect("bound").port());
        assert!(http.state == Severity::Fail && http.cause.contains("(pid "), "{}", http.cause);
    }
}
