//! Which networks this machine is on, and which of them the hive uses.
//!
//! An interface is used when it has carrier and an address. Bridges that container engines make are left out, because the
//! same subnet exists behind them on every machine; whoever wants one names it. An address that the machine gave itself
//! (169.254.0.0/16, fe80::/10) is good for calling, but says little about the network: the real one may be on its way, and
//! [`Link`] waits for it. Never done here: waiting. The caller scans again and again.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// Interfaces of container engines and virtual machines' private networks.
const CONTAINER_PREFIXES: [&str; 6] = ["docker", "veth", "virbr", "lxcbr", "cni", "podman"];
/// Docker names the bridge of a network `br-` and this many hexadecimal digits. Other bridges (`br-lan`) are the network itself.
const NETWORK_ID_DIGITS: usize = 12;
/// A machine that has nothing but addresses it gave itself for this long gets no others, milliseconds. DHCP takes seconds.
const ALONE_MS: u64 = 10_000;
/// Addresses that are used; a machine with more is a router with its own ideas.
const INTERFACES_MAX: usize = 64;

/// An address of an interface that the hive uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of the network's prefix.
    pub prefix_len: u8,
    /// Where everybody on the link is reached; none on point-to-point links, loopback and IPv6.
    pub broadcast: Option<Ipv4Addr>,
}

impl Interface {
    /// The machine gave itself this address, without asking the network.
    pub fn is_link_local(&self) -> bool {
        match self.address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
    }

    /// Whether `address` is on this link.
    pub fn contains(&self, address: IpAddr) -> bool {
        in_network(self.address, self.prefix_len, address)
    }
}

/// An interface's name, a beginning of names (`eth*`), or a network (`10.0.0.0/8`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// This name.
    Name(String),
    /// Names that begin so.
    Prefix(String),
    /// Addresses of this network.
    Network(IpAddr, u8),
}

/// Text that is not a [`Rule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the name of an interface (eth0, eth*) or a network (10.0.0.0/8), got {0:?}")]
pub struct ParseRuleError(String);

impl FromStr for Rule {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseRuleError(text.chars().take(80).collect());
        if let Some((address, length)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| error())?;
            let length: u8 = length.parse().map_err(|_| error())?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            return if length <= longest { Ok(Self::Network(address, length)) } else { Err(error()) };
        }
        let (name, is_prefix) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
        let is_name = name.len() <= 15 && name.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '/' | '*' | ':'));
        if !is_name || (name.is_empty() && !is_prefix) {
            return Err(error());
        }
        Ok(if is_prefix { Self::Prefix(name.to_owned()) } else { Self::Name(name.to_owned()) })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Network(address, length) => write!(f, "{address}/{length}"),
        }
    }
}

impl Rule {
    fn matches(&self, name: &str, address: IpAddr) -> bool {
        match self {
            Self::Name(wanted) => wanted == name,
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
            Self::Network(network, length) => in_network(*network, *length, address),
        }
    }
}

/// Which interfaces to use. Something excluded is never used; when something is included, only that is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Use only these. Needed for loopback and for container bridges.
    pub include: Vec<Rule>,
    /// Never use these.
    pub exclude: Vec<Rule>,
}

impl Filter {
    fn admits(&self, name: &str, address: IpAddr) -> bool {
        if self.exclude.iter().any(|rule| rule.matches(name, address)) {
            return false;
        }
        if !self.include.is_empty() {
            return self.include.iter().any(|rule| rule.matches(name, address));
        }
        !address.is_loopback() && !is_of_containers(name)
    }
}

fn is_of_containers(name: &str) -> bool {
    let digits = |id: &str| id.len() == NETWORK_ID_DIGITS && id.chars().all(|c| c.is_ascii_hexdigit());
    CONTAINER_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || name.strip_prefix("br-").is_some_and(digits)
}

/// Addresses to tell others, in order. Of those that the machine gave itself only IPv4, and only when there is nothing better: an
/// fe80 address means nothing without the name of an interface.
pub fn to_publish(interfaces: &BTreeSet<Interface>) -> Vec<IpAddr> {
    let given: Vec<IpAddr> = interfaces.iter().filter(|one| !one.is_link_local()).map(|one| one.address).collect();
    if given.is_empty() {
        return interfaces.iter().map(|one| one.address).filter(IpAddr::is_ipv4).collect();
    }
    given
}

/// Judges whether this machine is on a network as far as it will be: who founds a hive before it can be heard founds alone.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Since when there are only addresses that the machine gave itself.
    alone_since_ms: Option<u64>,
}

impl Link {
    pub(super) fn judge(&mut self, found: &BTreeSet<Interface>, now_ms: u64) -> bool {
        if found.is_empty() || found.iter().any(|interface| !interface.is_link_local()) {
            self.alone_since_ms = None;
            return !found.is_empty();
        }
        let since_ms = *self.alone_since_ms.get_or_insert(now_ms);
        // Without IPv6 it cannot be told from a DHCP server that is slow, so 169.254 alone never counts.
        now_ms.saturating_sub(since_ms) >= ALONE_MS && found.iter().any(|interface| interface.address.is_ipv6())
    }
}

/// Whether any network of this machine has an address, used for the hive or not: `join` addresses may be reached over it.
pub(super) fn has_address() -> bool {
    let reaches = |interface: &if_addrs::Interface| {
        let link_local = match interface.ip() {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        interface.is_oper_up() && !interface.is_loopback() && !link_local && !is_of_containers(&interface.name)
    };
    if_addrs::get_if_addrs().is_ok_and(|all| all.iter().any(reaches))
}

fn in_network(network: IpAddr, length: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            u32::from(network) & mask == u32::from(address) & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            u128::from(network) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

/// The broadcast address: the one that is set, else the last one of the subnet. Addresses set by hand often come without.
fn broadcast_address(address: Ipv4Addr, prefix_len: u8, set: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
    if prefix_len >= 31 {
        return None;
    }
    let host_bits = u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
    let last = Ipv4Addr::from(u32::from(address) | host_bits);
    Some(set.filter(|set| !set.is_unspecified() && *set != address).unwrap_or(last))
}

/// The interfaces to use now. `loopback_too` is for nodes that only ever meet on one machine.
pub fn scan(filter: &Filter, loopback_too: bool) -> io::Result<BTreeSet<Interface>> {
    let mut found = BTreeSet::new();
    for interface in if_addrs::get_if_addrs()? {
        let address = interface.ip();
        let admitted = filter.admits(&interface.name, address) || (loopback_too && address.is_loopback());
        if !interface.is_oper_up() || !admitted || found.len() >= INTERFACES_MAX {
            continue;
        }
        let (prefix_len, broadcast) = match &interface.addr {
            if_addrs::IfAddr::V4(v4) if interface.is_p2p() || address.is_loopback() => (v4.prefixlen, None),
            if_addrs::IfAddr::V4(v4) => (v4.prefixlen, broadcast_address(v4.ip, v4.prefixlen, v4.broadcast)),
            if_addrs::IfAddr::V6(v6) => (v6.prefixlen, None),
        };
        let index = interface.index.unwrap_or(0);
        found.insert(Interface { name: interface.name, index, address, prefix_len, broadcast });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| text.parse().expect(text)).collect()
    }

    #[test]
    fn container_bridges_and_loopback_need_to_be_named() {
        let default = Filter::default();
        for name in ["docker0", "br-0123456789ab", "veth12", "virbr0", "lxcbr0", "cni0", "podman1"] {
            assert!(!default.admits(name, ip("172.17.0.1")), "{name}");
            let named = Filter { include: rules(&[name]), exclude: Vec::new() };
            assert!(named.admits(name, ip("172.17.0.1")) && !named.admits("eth0", ip("10.0.0.1")), "{name}");
        }
        assert!(default.admits("eth0", ip("10.0.0.1")) && default.admits("br0", ip("10.0.0.1")));
        for name in ["br-lan", "br-4f1e", "br-0123456789abc", "br-guest000000"] {
            assert!(default.admits(name, ip("10.0.0.1")), "{name}");
        }
        assert!(!default.admits("lo", ip("127.0.0.1")));
        assert!(Filter { include: rules(&["lo"]), exclude: Vec::new() }.admits("lo", ip("127.0.0.1")));
    }

    fn found(addresses: &[&str]) -> BTreeSet<Interface> {
        let interface = |text: &&str| Interface {
            name: "eth0".into(),
            index: 2,
            address: ip(text),
            prefix_len: 64,
            broadcast: None,
        };
        addresses.iter().map(interface).collect()
    }

    #[test]
    fn an_address_that_the_machine_gave_itself_is_a_link_only_when_no_other_comes() {
        let mut link = Link::default();
        assert!(!link.judge(&found(&[]), 0));
        assert!(!link.judge(&found(&["fe80::1"]), 1_000), "DHCP may be slow");
        assert!(!link.judge(&found(&["fe80::1", "169.254.7.7"]), 10_999));
        assert!(link.judge(&found(&["fe80::1"]), 11_000), "nothing else comes");
        assert!(!link.judge(&found(&[]), 12_000));
        assert!(!link.judge(&found(&["fe80::1"]), 13_000), "carrier was gone: it begins anew");
        assert!(link.judge(&found(&["fe80::1", "192.168.1.2"]), 13_500));
        assert!(link.judge(&found(&["fd00::1"]), 14_000));
        assert!(!link.judge(&found(&["169.254.7.7"]), 15_000));
        assert!(!link.judge(&found(&["169.254.7.7"]), 99_000));
    }

    #[test]
    fn addresses_that_nobody_else_can_use_are_not_published() {
        for (have, published) in [
            (&["10.0.0.1", "169.254.7.7", "fd00::1", "fe80::1"][..], &["10.0.0.1", "fd00::1"][..]),
            (&["169.254.7.7", "fe80::1"], &["169.254.7.7"]),
            (&["fe80::1"], &[]),
            (&[], &[]),
        ] {
            let expected: Vec<IpAddr> = published.iter().map(|text| ip(text)).collect();
            assert_eq!(to_publish(&found(have)), expected, "{have:?}");
        }
    }

    #[test]
    fn excluding_wins_and_networks_match_by_address() {
        let filter =
            Filter { include: rules(&["10.0.0.0/8", "fd00::/8", "wg*"]), exclude: rules(&["10.9.0.0/16", "eth7"]) };
        for (name, address, expected) in [
            ("eth0", "10.1.2.3", true),
            ("eth0", "10.9.2.3", false),
            ("eth7", "10.1.2.3", false),
            ("eth0", "192.168.1.1", false),
            ("eth0", "fd12::1", true),
            ("wg0", "192.168.1.1", true),
        ] {
            assert_eq!(filter.admits(name, ip(address)), expected, "{name} {address}");
        }
        assert!(in_network(ip("0.0.0.0"), 0, ip("8.8.8.8")) && in_network(ip("::"), 0, ip("fd00::1")));
        assert!(!in_network(ip("10.0.0.1"), 32, ip("10.0.0.2")));
    }

    #[test]
    fn rules_outside_the_grammar_are_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "a/b", "eth0:1", "with space", "averyveryverylongname"] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
        for text in ["eth0", "eth*", "*", "10.0.0.0/8", "fd00::/8"] {
            assert_eq!(text.parse::<Rule>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn a_broadcast_address_is_found_even_when_none_is_set() {
        let address = Ipv4Addr::new(192, 168, 1, 23);
        let last = Some(Ipv4Addr::new(192, 168, 1, 255));
        assert_eq!(broadcast_address(address, 24, None), last);
        assert_eq!(broadcast_address(address, 24, Some(Ipv4Addr::UNSPECIFIED)), last);
        assert_eq!(broadcast_address(address, 24, Some(address)), last);
        assert_eq!(
            broadcast_address(address, 24, Some(Ipv4Addr::new(192, 168, 1, 0))),
            Some(Ipv4Addr::new(192, 168, 1, 0))
        );
        assert_eq!(broadcast_address(address, 0, None), Some(Ipv4Addr::BROADCAST));
        assert_eq!(broadcast_address(address, 31, None), None);
        assert_eq!(broadcast_address(address, 32, None), None);
    }

    #[test]
    fn this_machine_has_a_loopback() {
        let found = scan(&Filter { include: rules(&["127.0.0.0/8"]), exclude: Vec::new() }, false).expect("scans");
        let loopback = found.first().expect("loopback is up");
        assert!(loopback.contains(ip("127.1.2.3")) && !loopback.contains(ip("10.0.0.1")));
        assert_eq!(loopback.broadcast, None);
    }
}
