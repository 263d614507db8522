//! Grammars of setting values that are more than a number or a word.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::engine::grammar;
use crate::engine::wire::filter::Filter;

/// A host to be asked to let this node in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinTarget {
    /// Host name or address (IPv6 without brackets).
    pub host: String,
    /// Discovery and mesh port there.
    pub port: u16,
}

/// Port of discovery and mesh where none is given.
pub const DEFAULT_PORT: u16 = 50_555;

impl JoinTarget {
    /// Reads `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`; a bare IPv6 address is taken as one.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self { host: address.to_string(), port: DEFAULT_PORT });
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once(']')?;
            let host: std::net::Ipv6Addr = host.parse().ok()?;
            let port = if port.is_empty() { DEFAULT_PORT } else { parse_port(port.strip_prefix(':')?)? };
            return Some(Self { host: host.to_string(), port });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, parse_port(port)?),
            None => (text, DEFAULT_PORT),
        };
        is_host_name(host).then(|| Self { host: host.to_owned(), port })
    }
}

fn parse_port(text: &str) -> Option<u16> {
    text.parse::<u16>().ok().filter(|&port| port != 0)
}

/// Whether a text can be resolved as a host name or is an IPv4 address.
pub fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

/// Whether a text is a join target.
pub fn is_join_target(text: &str) -> bool {
    JoinTarget::parse(text).is_some()
}

/// Whether a text names a node.
pub fn is_node_name(text: &str) -> bool {
    grammar::node_name(text).is_ok()
}

/// Whether a text is an interface name (a trailing `*` matches the rest), or a network as `ADDRESS/PREFIX`.
pub fn is_interface_pattern(text: &str) -> bool {
    if let Some((address, prefix)) = text.split_once('/') {
        let Ok(address) = address.parse::<IpAddr>() else { return false };
        let longest = if address.is_ipv4() { 32 } else { 128 };
        return prefix.parse::<u8>().is_ok_and(|prefix| prefix <= longest);
    }
    let name = text.strip_suffix('*').unwrap_or(text);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'@' | b':');
    name.len() <= 15 && (!name.is_empty() || text == "*") && name.bytes().all(allowed)
}

/// Whether a text is an address, or a network as `ADDRESS/PREFIX`.
pub fn is_network(text: &str) -> bool {
    is_ip_address(text) || (text.contains('/') && is_interface_pattern(text))
}

/// Whether a text is a path under which a proxy may show a node.
pub fn is_base_path(text: &str) -> bool {
    let fits = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        !part.is_empty() && part.bytes().all(plain) && part.bytes().any(|byte| byte != b'.')
    };
    text.len() <= 128 && text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(fits))
}

/// Whether a text is an origin as browsers send it: scheme, host and port, nothing behind.
pub fn is_origin(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else { return false };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_fits = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host_name(host) && host.bytes().all(|byte| !byte.is_ascii_uppercase()),
    };
    host_fits && port.is_none_or(|port| parse_port(port).is_some())
}

/// Whether a text names a role or policy definition: the file's name without `.toml`.
pub fn is_definition_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-'))
}

/// Whether a text is `ADDRESS:PORT`.
pub fn is_socket_address(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok()
}

/// Whether a text is an IP address.
pub fn is_ip_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// Whether a text is an IPv4 multicast group that stays within an organisation.
pub fn is_multicast_group(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok_and(|address| address.is_multicast())
}

/// Whether a text is a POSIX user name.
pub fn is_user_name(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-'))
}

/// Whether a text can be a `PORTAGE_BINHOST`: one URL without blanks or a password.
pub fn is_binhost(text: &str) -> bool {
    let rest = ["http://", "https://", "ftp://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let host = rest.map(|rest| rest.split('/').next().unwrap_or_default()).unwrap_or_default();
    !host.is_empty() && !host.contains('@') && text.len() <= 512 && text.chars().all(|c| c.is_ascii_graphic())
}

/// Whether a text is a level or a list of `target=level`.
pub fn is_log_filter(text: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    text.len() <= 512
        && text.split(',').all(|directive| {
            let (target, level) = directive.split_once('=').unwrap_or(("hive", directive));
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-');
            !target.is_empty() && target.bytes().all(allowed) && LEVELS.contains(&level)
        })
}

/// A kind of message and how many of it one stands for: `HEARTBEAT=20`.
pub(super) fn wire_sample(text: &str) -> Option<(String, u32)> {
    let (kind, every) = text.split_once('=')?;
    let named = (1..=32).contains(&kind.len())
        && kind.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    let every = every.parse().ok().filter(|every| (1..=1_000_000).contains(every))?;
    named.then(|| (kind.to_owned(), every))
}

/// Whether it is one.
pub(super) fn is_wire_sample(text: &str) -> bool {
    wire_sample(text).is_some()
}

/// Whether it is a filter of messages.
pub(super) fn is_wire_filter(text: &str) -> bool {
    Filter::parse(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_path_is_a_plain_path_without_a_slash_at_its_end() {
        for good in ["/farm", "/a/b-c_d.e~f"] {
            assert!(is_base_path(good), "{good}");
        }
        for bad in ["", "/", "farm", "/farm/", "//a", "/a b", "/a/../b", "/a?b", "/ä"] {
            assert!(!is_base_path(bad), "{bad}");
        }
    }

    #[test]
    fn join_targets_take_names_and_both_kinds_of_address() {
        let cases = [
            ("build1", Some(("build1", 50_555))),
            ("build1.example.org:4000", Some(("build1.example.org", 4_000))),
            ("192.168.1.5", Some(("192.168.1.5", 50_555))),
            ("192.168.1.5:1", Some(("192.168.1.5", 1))),
            ("fd00::1", Some(("fd00::1", 50_555))),
            ("[fd00::1]", Some(("fd00::1", 50_555))),
            ("[fd00::1]:7", Some(("fd00::1", 7))),
            ("[fd00::1]7", None),
            ("build1:0", None),
            ("build1:http", None),
            ("", None),
            ("a b", None),
            ("-x", None),
            ("http://a", None),
        ];
        for (text, expected) in cases {
            let parsed = JoinTarget::parse(text);
            assert_eq!(parsed.as_ref().map(|target| (target.host.as_str(), target.port)), expected, "{text}");
        }
    }

    #[test]
    fn grammars_refuse_what_could_leave_them() {
        assert!(is_interface_pattern("eth0") && is_interface_pattern("docker*") && is_interface_pattern("10.0.0.0/8"));
        assert!(!is_interface_pattern("10.0.0.0/33") && !is_interface_pattern("a/b") && !is_interface_pattern("e th0"));
        assert!(is_node_name("build-1.lan") && !is_node_name("../x") && !is_node_name(""));
        assert!(is_definition_name("default") && !is_definition_name("../../etc/passwd") && !is_definition_name(""));
        assert!(is_log_filter("info") && is_log_filter("warn,hive=debug,libp2p_swarm=error") && !is_log_filter("loud"));
        assert!(is_multicast_group("239.255.0.1") && !is_multicast_group("10.0.0.1"));
        assert!(is_binhost("http://10.0.0.1:8100/staging/") && is_binhost("https://h/x"));
        assert!(
            !is_binhost("/srv/x")
                && !is_binhost("http://u:p@h/")
                && !is_binhost("http://h/a b")
                && !is_binhost("http:///")
        );
        assert!(is_user_name("hive-build") && !is_user_name("Root") && !is_user_name("a;b"));
    }
}
