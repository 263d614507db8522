//! `hive net`: this machine's interface and network, the next free address in it, and claiming that address.
//!
//! Whether an address is taken is asked by ARP, without privileges: a datagram to it makes the kernel resolve it, and the
//! kernel's table says whether somebody answered. Address conflicts between two machines that claim in the same second are
//! not seen: the claim is checked before it is made, not afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use tokio::net::UdpSocket;

use super::args::{NetArgs, NetVerb};
use super::client::Client;
use super::output::{Failure, Outcome, Ui};
use crate::api::{AddressClaim, ErrorCode};
use crate::clock;

/// Time for an answer; on a local network it comes within milliseconds.
const ANSWER_MS: u64 = 500;
/// Time for an answer before claiming: long enough for the kernel to ask a second time, after a second.
const CLAIM_ANSWER_MS: u64 = 1_500;
/// Addresses asked for at once; kernels keep up to a thousand neighbours.
const BATCH: usize = 64;
/// Addresses considered in all: a /20.
const CANDIDATES_MAX: usize = 4_096;
/// Discard (RFC 863): whoever listens there expects nothing.
const DISCARD_PORT: u16 = 9;
/// `IFF_NOARP` of the interface flags.
const FLAG_NO_ARP: u32 = 0x80;

/// An interface with its network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Network {
    interface: String,
    address: Ipv4Addr,
    prefix: u8,
    cidr: String,
    broadcast: Ipv4Addr,
    gateway: Option<Ipv4Addr>,
}

impl Network {
    fn new(interface: &str, address: Ipv4Addr, prefix: u8, gateway: Option<Ipv4Addr>) -> Self {
        let base = Ipv4Addr::from(u32::from(address) & mask(prefix));
        let broadcast = Ipv4Addr::from(u32::from(address) | !mask(prefix));
        Self { interface: interface.to_owned(), address, prefix, cidr: format!("{base}/{prefix}"), broadcast, gateway }
    }

    /// Addresses that a host may have, beginning at `from`, each once, without those that are known to be taken.
    fn candidates(&self, from: Option<Ipv4Addr>, taken: &BTreeSet<Ipv4Addr>) -> Vec<Ipv4Addr> {
        if self.prefix > 30 {
            return Vec::new();
        }
        let (first, last) = (u32::from(self.address) & mask(self.prefix), u32::from(self.broadcast));
        let (first, last) = (first + 1, last - 1);
        let start = from.map_or_else(|| u32::from(self.address).wrapping_add(1), u32::from);
        let start = if (first..=last).contains(&start) { start } else { first };
        let hosts = (start..=last).chain(first..start);
        let free = hosts.map(Ipv4Addr::from).filter(|host| !taken.contains(host) && Some(*host) != self.gateway);
        free.take(CANDIDATES_MAX).collect()
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

/// A free address.
#[derive(Clone, Debug, Serialize)]
struct Free {
    #[serde(flatten)]
    network: Network,
    next_ip: Ipv4Addr,
    claimed: bool,
}

/// `hive net …`
pub(crate) async fn net(ui: &Ui, client: &Client, verb: NetVerb) -> Outcome {
    match verb {
        NetVerb::Show(args) => {
            let network = network(&args)?;
            ui.data(&network, || shown(&network))?;
        }
        NetVerb::NextIp(args) => {
            let network = network(&args)?;
            let next_ip = next_free(ui, &network, args.from).await?;
            let free = Free { network, next_ip, claimed: false };
            ui.data(&free, || format!("{}next free    {next_ip}\n", shown(&free.network)))?;
        }
        NetVerb::Claim(args) => {
            let network = network(&args)?;
            let next_ip = next_free(ui, &network, args.from).await?;
            if !taken_of(&network, &[next_ip], CLAIM_ANSWER_MS).await?.is_empty() {
                let message = format!("{next_ip} was taken in this moment");
                return Err(Failure::new(ErrorCode::Conflict, message, "try again"));
            }
            // Whoever is not root asks the agent, whose helper checks the claim by rules of its own.
            if rustix::process::geteuid().is_root() {
                add_address(&network, next_ip).await?;
            } else {
                let cidr = format!("{next_ip}/{}", network.prefix);
                let claim = AddressClaim { interface: network.interface.clone(), cidr };
                client.post::<AddressClaim>("/api/v2/addresses", &claim).await?;
            }
            let free = Free { network, next_ip, claimed: true };
            ui.data(&free, || {
                let lasting = "It is gone after a restart; write it into the network's configuration to keep it.";
                format!("{}claimed      {next_ip}/{}\n{lasting}\n", shown(&free.network), free.network.prefix)
            })?;
        }
    }
    Ok(0)
}

fn shown(network: &Network) -> String {
    let gateway = network.gateway.map_or_else(|| "none".to_owned(), |gateway| gateway.to_string());
    format!(
        "interface    {}\naddress      {}/{}\nnetwork      {}\nbroadcast    {}\ngateway      {gateway}\n",
        super::text::clean(&network.interface),
        network.address,
        network.prefix,
        network.cidr,
        network.broadcast
    )
}

/// The default route with the lowest metric: interface and gateway, from the text of `/proc/net/route`.
fn default_route(table: &str) -> Option<(String, Ipv4Addr)> {
    let mut best: Option<(u32, String, Ipv4Addr)> = None;
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [interface, destination, gateway, _, _, _, metric, mask, ..] = fields.as_slice() else { continue };
        if *destination != "00000000" || *mask != "00000000" {
            continue;
        }
        let (Ok(gateway), Ok(metric)) = (u32::from_str_radix(gateway, 16), metric.parse::<u32>()) else { continue };
        // The kernel prints the address as the number that its bytes form in memory.
        let gateway = Ipv4Addr::from(gateway.to_ne_bytes());
        if best.as_ref().is_none_or(|(known, ..)| metric < *known) {
            best = Some((metric, (*interface).to_owned(), gateway));
        }
    }
    best.map(|(_, interface, gateway)| (interface, gateway))
}

fn own_addresses() -> Result<Vec<(String, if_addrs::Ifv4Addr)>, Failure> {
    let interfaces = if_addrs::get_if_addrs()
        .map_err(|error| Failure::internal(format!("cannot list the interfaces: {error}"), "see: ip -br addr"))?;
    let v4 = interfaces.into_iter().filter_map(|interface| match interface.addr {
        if_addrs::IfAddr::V4(address) => Some((interface.name, address)),
        if_addrs::IfAddr::V6(_) => None,
    });
    Ok(v4.collect())
}

fn network(args: &NetArgs) -> Result<Network, Failure> {
    let route = default_route(&fs::read_to_string("/proc/net/route").unwrap_or_default());
    let addresses = own_addresses()?;
    let wanted = args.interface.clone().or_else(|| route.as_ref().map(|(interface, _)| interface.clone()));
    let found = addresses.iter().find(|(name, address)| match &wanted {
        Some(wanted) => name == wanted,
        None => !address.is_loopback() && !address.is_link_local(),
    });
    let Some((name, address)) = found else {
        let message = wanted.map_or_else(
            || "no interface has an IPv4 address".to_owned(),
            |name| format!("the interface {name:?} has no IPv4 address"),
        );
        return Err(Failure::new(ErrorCode::NotFound, message, "see: ip -br addr; and choose one with --interface"));
    };
    let gateway = route.filter(|(interface, _)| interface == name).map(|(_, gateway)| gateway);
    Ok(Network::new(name, address.ip, address.prefixlen, gateway.filter(|gateway| !gateway.is_unspecified())))
}

async fn next_free(ui: &Ui, network: &Network, from: Option<Ipv4Addr>) -> Result<Ipv4Addr, Failure> {
    let flags = fs::read_to_string(format!("/sys/class/net/{}/flags", network.interface)).unwrap_or_default();
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
    if flags & FLAG_NO_ARP != 0 || network.address.is_loopback() {
        let message =
            format!("{} does not ask for addresses by ARP, so nobody can say which are free", network.interface);
        return Err(Failure::usage(message, "choose another interface with --interface"));
    }
    if network.prefix > 30 {
        return Err(Failure::usage(
            format!("{} has no room for another host", network.cidr),
            "choose another interface with --interface",
        ));
    }
    let own: BTreeSet<Ipv4Addr> = own_addresses()?.into_iter().map(|(_, address)| address.ip).collect();
    let candidates = network.candidates(from, &own);
    for batch in candidates.chunks(BATCH) {
        if let [first, .., last] = batch {
            ui.show_progress(&format!("asking for {first} to {last} …"));
        }
        let taken = taken_of(network, batch, ANSWER_MS).await?;
        if let Some(free) = batch.iter().find(|address| !taken.contains(address)) {
            ui.clear_progress();
            return Ok(*free);
        }
    }
    ui.clear_progress();
    let message = format!("none of {} addresses of {} is free", candidates.len(), network.cidr);
    Err(Failure::new(ErrorCode::NotFound, message, "begin elsewhere with --from ADDRESS"))
}

/// Which of these somebody answers for.
async fn taken_of(network: &Network, addresses: &[Ipv4Addr], answer_ms: u64) -> Result<BTreeSet<Ipv4Addr>, Failure> {
    let failed = |error: io::Error| {
        Failure::internal(format!("cannot ask on {}: {error}", network.interface), "see: ip -br addr")
    };
    let socket = UdpSocket::bind((network.address, 0)).await.map_err(failed)?;
    for address in addresses {
        // A refusal by an earlier address is reported on a later send and means nothing for it.
        let _ = socket.send_to(&[0], (*address, DISCARD_PORT)).await;
    }
    let deadline = clock::now_ms() + answer_ms;
    loop {
        let table = fs::read_to_string("/proc/net/arp").map_err(failed)?;
        let known = resolved(&table, &network.interface);
        let taken: BTreeSet<Ipv4Addr> =
            addresses.iter().copied().filter(|address| known.contains_key(address)).collect();
        if taken.len() == addresses.len() || clock::now_ms() >= deadline {
            return Ok(taken);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Addresses of an interface that somebody answered for, with their hardware addresses, from the text of `/proc/net/arp`.
fn resolved(table: &str, interface: &str) -> BTreeMap<Ipv4Addr, String> {
    const COMPLETE: u32 = 0x2;
    let mut out = BTreeMap::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [address, _, flags, hardware, _, device] = fields.as_slice() else { continue };
        let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
        if let Ok(address) = address.parse::<Ipv4Addr>()
            && flags & COMPLETE != 0
            && *device == interface
        {
            out.insert(address, (*hardware).to_owned());
        }
    }
    out
}

async fn add_address(network: &Network, address: Ipv4Addr) -> Result<(), Failure> {
    let output = tokio::process::Command::new("ip")
        .args(["address", "add", &format!("{address}/{}", network.prefix), "dev", &network.interface])
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| {
            Failure::internal(format!("cannot run `ip`: {error}"), "install it: apt-get install iproute2")
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::internal(format!("`ip address add` failed: {said}"), ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_with_the_lowest_metric_counts() {
        let gateway = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let table = format!(
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
             wlan0\t00000000\t{}\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
             eth0\t00000000\t{}\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
             eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
            gateway([10, 0, 0, 1]),
            gateway([192, 168, 1, 1])
        );
        assert_eq!(default_route(&table), Some(("eth0".to_owned(), Ipv4Addr::new(192, 168, 1, 1))));
        assert_eq!(default_route("Iface\n"), None);
    }

    #[test]
    fn candidates_begin_after_this_machine_wrap_and_skip_what_no_host_may_have() {
        let network = Network::new("eth0", Ipv4Addr::new(192, 168, 1, 4), 29, Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!((network.cidr.as_str(), network.broadcast), ("192.168.1.0/29", Ipv4Addr::new(192, 168, 1, 7)));
        let own = BTreeSet::from([Ipv4Addr::new(192, 168, 1, 4)]);
        let last = |from| network.candidates(from, &own).iter().map(|address| address.octets()[3]).collect::<Vec<_>>();
        assert_eq!(last(None), [5, 6, 2, 3]);
        assert_eq!(last(Some(Ipv4Addr::new(192, 168, 1, 2))), [2, 3, 5, 6]);
        assert_eq!(last(Some(Ipv4Addr::new(10, 0, 0, 1))), [2, 3, 5, 6]);
        assert!(Network::new("eth0", Ipv4Addr::new(10, 0, 0, 1), 31, None).candidates(None, &own).is_empty());
        let wide = Network::new("eth0", Ipv4Addr::new(10, 0, 0, 1), 8, None);
        assert_eq!(wide.candidates(None, &own).len(), CANDIDATES_MAX);
    }

    #[test]
    fn only_complete_entries_of_the_interface_are_taken() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.0.0.2         0x1         0x2         02:00:00:00:00:02     *        eth0\n\
                     10.0.0.3         0x1         0x0         00:00:00:00:00:00     *        eth0\n\
                     10.0.0.4         0x1         0x6         02:00:00:00:00:04     *        eth0\n\
                     10.0.0.5         0x1         0x2         02:00:00:00:00:05     *        eth1\n";
        let taken: Vec<u8> = resolved(table, "eth0").keys().map(|address| address.octets()[3]).collect();
        assert_eq!(taken, [2, 4]);
    }
}
