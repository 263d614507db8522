//! Writes records as a capture file (pcapng, version 1.0) that packet analysers read.
//!
//! What was a datagram becomes a UDP packet with the bytes that were on the wire. What went over encrypted streams or HTTP becomes a TCP
//! segment between the real addresses and ports, with its decoded and redacted text as content, since the bytes themselves would show
//! nothing, or too much. Sequence numbers follow each other, checksums are right, and every packet has its record's line as comment.
//! Never done here: reading captures.

// The types of addresses alone: nothing here can open a socket.
use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;

/// Raw IP, version 4 or 6, by its first four bits.
const LINKTYPE_RAW: u16 = 101;
/// Longest content of a packet: what fits beside the headers.
pub const CONTENT_MAX: usize = 60_000;
/// Longest comment, bytes.
const COMMENT_MAX: usize = 2_000;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A packet.
#[derive(Clone, Debug)]
pub struct Packet<'a> {
    /// Microseconds since 1970.
    pub at_us: u64,
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// UDP; else TCP.
    pub datagram: bool,
    /// At most [`CONTENT_MAX`] bytes of it are written.
    pub content: &'a [u8],
    /// Length of the message as it was, where content is its beginning.
    pub whole_len: u64,
    /// One line.
    pub comment: &'a str,
}

/// Writes blocks one after the other.
#[derive(Debug, Default)]
pub struct Writer {
    sequence: BTreeMap<(SocketAddr, SocketAddr), u32>,
}

impl Writer {
    /// What a file begins with: section and interface.
    pub fn begin(&self, program: &str) -> Vec<u8> {
        let mut section = Vec::new();
        section.extend(0x1A2B_3C4D_u32.to_le_bytes());
        section.extend(1u16.to_le_bytes());
        section.extend(0u16.to_le_bytes());
        section.extend(u64::MAX.to_le_bytes());
        option(&mut section, 4, program.as_bytes());
        option(&mut section, 0, &[]);
        let mut interface = Vec::new();
        interface.extend(LINKTYPE_RAW.to_le_bytes());
        interface.extend(0u16.to_le_bytes());
        interface.extend(0u32.to_le_bytes());
        option(&mut interface, 2, b"hive");
        option(&mut interface, 0, &[]);
        let mut out = block(0x0A0D_0D0A, &section);
        out.extend(block(1, &interface));
        out
    }

    /// One packet. Addresses of different families are both written as IPv6.
    pub fn packet(&mut self, packet: &Packet<'_>) -> Vec<u8> {
        let content = packet.content.get(..CONTENT_MAX.min(packet.content.len())).unwrap_or_default();
        let (from, to) = one_family(packet.from, packet.to);
        let segment = if packet.datagram { udp(from, to, content) } else { self.tcp(from, to, content) };
        let bytes = with_ip(from.ip(), to.ip(), if packet.datagram { UDP } else { TCP }, &segment);
        let missing = packet.whole_len.saturating_sub(content.len() as u64);
        let missing = if packet.datagram { u32::try_from(missing).unwrap_or(0) } else { 0 };
        let captured = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let mut body = Vec::with_capacity(bytes.len() + packet.comment.len() + 48);
        body.extend(0u32.to_le_bytes());
        body.extend(u32::try_from(packet.at_us >> 32).unwrap_or(0).to_le_bytes());
        body.extend(u32::try_from(packet.at_us & 0xffff_ffff).unwrap_or(0).to_le_bytes());
        body.extend(captured.to_le_bytes());
        body.extend(captured.saturating_add(missing).to_le_bytes());
        body.extend(&bytes);
        pad(&mut body);
        let mut end = packet.comment.len().min(COMMENT_MAX);
        while !packet.comment.is_char_boundary(end) {
            end -= 1;
        }
        option(&mut body, 1, packet.comment.as_bytes().get(..end).unwrap_or_default());
        option(&mut body, 0, &[]);
        block(6, &body)
    }

    fn tcp(&mut self, from: SocketAddr, to: SocketAddr, content: &[u8]) -> Vec<u8> {
        let acknowledged = self.sequence.get(&(to, from)).copied().unwrap_or(1);
        let next = self.sequence.entry((from, to)).or_insert(1);
        let mut segment = Vec::with_capacity(content.len() + 20);
        segment.extend(from.port().to_be_bytes());
        segment.extend(to.port().to_be_bytes());
        segment.extend(next.to_be_bytes());
        segment.extend(acknowledged.to_be_bytes());
        // Five words of header; PSH and ACK.
        segment.extend([0x50, 0x18]);
        segment.extend(u16::MAX.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(content);
        *next = next.wrapping_add(u32::try_from(content.len()).unwrap_or(0));
        let sum = pseudo(from.ip(), to.ip(), TCP, &segment);
        put(&mut segment, 16, sum);
        segment
    }
}

fn udp(from: SocketAddr, to: SocketAddr, content: &[u8]) -> Vec<u8> {
    let mut segment = Vec::with_capacity(content.len() + 8);
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(u16::try_from(content.len() + 8).unwrap_or(u16::MAX).to_be_bytes());
    segment.extend([0; 2]);
    segment.extend(content);
    // A sum of nothing is written as all ones: nothing means that there is none.
    let sum = pseudo(from.ip(), to.ip(), UDP, &segment);
    put(&mut segment, 6, if sum == 0 { u16::MAX } else { sum });
    segment
}

fn put(bytes: &mut [u8], at: usize, number: u16) {
    for (to, from) in bytes.iter_mut().skip(at).zip(number.to_be_bytes()) {
        *to = from;
    }
}

fn one_family(from: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    let as_v6 = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(ip) => SocketAddr::new(ip.into(), address.port()),
    };
    if from.is_ipv4() == to.is_ipv4() { (from, to) } else { (as_v6(from), as_v6(to)) }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            let word = [pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)];
            sum += u64::from(u16::from_be_bytes(word));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// Every part but the last has an even length, so that they can be summed one by one.
fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let length = u32::try_from(segment.len()).unwrap_or(0).to_be_bytes();
    checksum(&[&octets(from), &octets(to), &length, &[0, protocol], segment])
}

fn with_ip(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(segment.len() + 40);
    if from.is_ipv4() {
        let length = u16::try_from(segment.len() + 20).unwrap_or(u16::MAX);
        packet.extend([0x45, 0]);
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        packet.extend(octets(from));
        packet.extend(octets(to));
        let sum = checksum(&[&packet]);
        put(&mut packet, 10, sum);
    } else {
        let length = u16::try_from(segment.len()).unwrap_or(u16::MAX);
        packet.extend([0x60, 0, 0, 0]);
        packet.extend(length.to_be_bytes());
        packet.extend([protocol, 64]);
        packet.extend(octets(from));
        packet.extend(octets(to));
    }
    packet.extend(segment);
    packet
}

fn pad(bytes: &mut Vec<u8>) {
    while !bytes.len().is_multiple_of(4) {
        bytes.push(0);
    }
}

fn option(bytes: &mut Vec<u8>, code: u16, value: &[u8]) {
    bytes.extend(code.to_le_bytes());
    bytes.extend(u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
    bytes.extend(value);
    pad(bytes);
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 12).unwrap_or(u32::MAX).to_le_bytes();
    let mut out = Vec::with_capacity(body.len() + 12);
    out.extend(kind.to_le_bytes());
    out.extend(length);
    out.extend(body);
    out.extend(length);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Kind and body of every block; panics where lengths do not fit.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let length = number(&bytes[4..]) as usize;
            assert!(length.is_multiple_of(4) && number(&bytes[length - 4..length]) as usize == length);
            out.push((number(bytes), bytes[8..length - 4].to_vec()));
            bytes = &bytes[length..];
        }
        out
    }

    fn packet<'a>(from: &str, to: &str, datagram: bool, content: &'a [u8]) -> Packet<'a> {
        let (from, to) = (from.parse().expect("address"), to.parse().expect("address"));
        Packet {
            at_us: 1_795_293_032_000_123,
            from,
            to,
            datagram,
            content,
            whole_len: content.len() as u64,
            comment: "n1 → n2",
        }
    }

    #[test]
    fn sections_interfaces_and_packets_are_whole_blocks() {
        let mut writer = Writer::default();
        let mut bytes = writer.begin("hive 0.1");
        bytes.extend(writer.packet(&packet("10.0.0.1:50555", "10.0.0.2:50555", true, b"hello")));
        bytes.extend(writer.packet(&packet("[fe80::1]:8100", "10.0.0.2:1234", false, b"{}")));
        let blocks = blocks(&bytes);
        assert_eq!(blocks.iter().map(|block| block.0).collect::<Vec<_>>(), [0x0A0D_0D0A, 1, 6, 6]);
        let udp = &blocks[2].1;
        let at = (u64::from(u32::from_le_bytes(udp[4..8].try_into().expect("4"))) << 32)
            + u64::from(u32::from_le_bytes(udp[8..12].try_into().expect("4")));
        assert_eq!(at, 1_795_293_032_000_123);
        assert_eq!(&udp[20 + 28..20 + 33], b"hello");
        assert_eq!(blocks[3].1[20] >> 4, 6, "two families are written as the newer one");
    }

    #[test]
    fn segments_of_a_flow_follow_each_other() {
        let mut writer = Writer::default();
        let (near, far) = ("10.0.0.1:1".parse().expect("address"), "10.0.0.2:2".parse().expect("address"));
        let numbers = |segment: &[u8]| {
            let number = |at: usize| u32::from_be_bytes(segment[at..at + 4].try_into().expect("4"));
            (number(4), number(8))
        };
        assert_eq!(numbers(&writer.tcp(near, far, b"abc")), (1, 1));
        assert_eq!(numbers(&writer.tcp(far, near, b"defgh")), (1, 4));
        assert_eq!(numbers(&writer.tcp(near, far, b"i")), (4, 6));
    }

    proptest! {
        /// The sum over what has its checksum in it is zero, as a receiver verifies it.
        #[test]
        fn checksums_verify(content in proptest::collection::vec(any::<u8>(), 0..100), datagram: bool, v6: bool) {
            let (from, to) = if v6 { ("[fe80::1]:3", "[fe80::2]:4") } else { ("10.1.2.3:3", "10.4.5.6:4") };
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().expect("address"), to.parse().expect("address"));
            let segment = if datagram { udp(from, to, &content) } else { Writer::default().tcp(from, to, &content) };
            prop_assert_eq!(pseudo(from.ip(), to.ip(), if datagram { UDP } else { TCP }, &segment), 0);
            if !v6 {
                let packet = with_ip(from.ip(), to.ip(), UDP, &segment);
                prop_assert_eq!(checksum(&[&packet[..20]]), 0);
            }
        }
    }
}
