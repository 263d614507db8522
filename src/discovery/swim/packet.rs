//! Identities and packets of the failure detector, and their compact form.
//!
//! A packet is a header (who, to whom, what) and updates about members. The sender's and the destination's PeerIds are
//! left out on the wire, because the signed envelope around it names them: that saves a third of an idle packet, and nobody
//! can speak in another's name inside of an envelope of his own.

use std::net::{IpAddr, SocketAddr};

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Identity, Member, Message, State};

use crate::discovery::wire::{peer_bytes, peer_from_bytes};
use crate::engine::id::PeerId;

/// A node in one of its lives, as the failure detector tells them apart.
///
/// `addr` is a hint where to reach it and is not part of equality: a node with two addresses is one node.
#[derive(Clone, Debug)]
pub(super) struct SwimId {
    pub(super) peer: PeerId,
    /// Raised at every start of its agent.
    pub(super) incarnation: u64,
    /// Raised by itself when it learns that the hive holds it down while it runs.
    pub(super) renewal: u16,
    pub(super) addr: Option<SocketAddr>,
}

impl PartialEq for SwimId {
    fn eq(&self, other: &Self) -> bool {
        self.incarnation == other.incarnation && self.renewal == other.renewal && self.peer == other.peer
    }
}

impl Eq for SwimId {}

impl Identity for SwimId {
    type Addr = PeerId;

    fn renew(&self) -> Option<Self> {
        Some(Self { renewal: self.renewal.checked_add(1)?, ..self.clone() })
    }

    fn addr(&self) -> PeerId {
        self.peer.clone()
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.incarnation, self.renewal) > (adversary.incarnation, adversary.renewal)
    }
}

/// Bytes that are not a packet, or a packet that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a packet of the failure detector")]
pub(super) struct PacketError;

/// A packet taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) header: Header<SwimId>,
    /// None where the kind of message carries none.
    pub(super) updates: Option<Vec<Member<SwimId>>>,
}

impl Packet {
    /// Reads what the detector wrote: with both PeerIds.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, PacketError> {
        let mut reader = Reader(bytes);
        let header = reader.header()?;
        if reader.0.is_empty() {
            return Ok(Self { header, updates: None });
        }
        let count = u16::from_be_bytes(reader.array()?);
        // Each update takes bytes, so a false count ends at the packet's end.
        let updates = (0..count).map(|_| reader.member()).collect::<Result<Vec<_>, _>>()?;
        if reader.0.is_empty() { Ok(Self { header, updates: Some(updates) }) } else { Err(PacketError) }
    }

    /// Writes it as the detector expects it.
    pub(super) fn write(&self) -> Result<Vec<u8>, PacketError> {
        let mut bytes = header_bytes(&self.header)?;
        if let Some(updates) = &self.updates {
            bytes.extend(u16::try_from(updates.len()).map_err(|_| PacketError)?.to_be_bytes());
            for update in updates {
                bytes.extend(member_bytes(update)?);
            }
        }
        Ok(bytes)
    }
}

/// Leaves out both PeerIds.
pub(super) fn strip(bytes: &[u8]) -> Result<&[u8], PacketError> {
    let mut reader = Reader(bytes);
    reader.peer()?;
    reader.peer()?;
    Ok(reader.0)
}

/// Puts them back in, from the envelope.
pub(super) fn restore(sender: &PeerId, destination: &PeerId, bytes: &[u8]) -> Result<Vec<u8>, PacketError> {
    let mut out = Vec::with_capacity(bytes.len() + 80);
    put_peer(&mut out, sender)?;
    put_peer(&mut out, destination)?;
    out.extend_from_slice(bytes);
    Ok(out)
}

/// The codec as `foca` wants it.
pub(super) struct SwimCodec;

fn put(mut buf: impl BufMut, bytes: &[u8]) -> Result<(), PacketError> {
    if buf.remaining_mut() < bytes.len() {
        return Err(PacketError);
    }
    buf.put_slice(bytes);
    Ok(())
}

fn take<T>(mut buf: impl Buf, read: impl FnOnce(&mut Reader<'_>) -> Result<T, PacketError>) -> Result<T, PacketError> {
    let chunk = buf.chunk();
    let before = chunk.len();
    let mut reader = Reader(chunk);
    let value = read(&mut reader)?;
    let read = before - reader.0.len();
    buf.advance(read);
    Ok(value)
}

impl Codec<SwimId> for SwimCodec {
    type Error = PacketError;

    fn encode_header(&mut self, header: &Header<SwimId>, buf: impl BufMut) -> Result<(), PacketError> {
        put(buf, &header_bytes(header)?)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<SwimId>, PacketError> {
        take(buf, |reader| reader.header())
    }

    fn encode_member(&mut self, member: &Member<SwimId>, buf: impl BufMut) -> Result<(), PacketError> {
        put(buf, &member_bytes(member)?)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<SwimId>, PacketError> {
        take(buf, |reader| reader.member())
    }
}

fn put_peer(out: &mut Vec<u8>, peer: &PeerId) -> Result<(), PacketError> {
    let bytes = peer_bytes(peer).ok_or(PacketError)?;
    out.push(u8::try_from(bytes.len()).map_err(|_| PacketError)?);
    out.extend(bytes);
    Ok(())
}

/// Seven bits per byte, the lowest first; the high bit says that more follow.
fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_life(out: &mut Vec<u8>, id: &SwimId) {
    put_number(out, id.incarnation);
    put_number(out, u64::from(id.renewal));
}

fn put_addr(out: &mut Vec<u8>, addr: Option<SocketAddr>) {
    match addr {
        None => out.push(0),
        Some(addr) => {
            match addr.ip() {
                IpAddr::V4(ip) => {
                    out.push(4);
                    out.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.push(6);
                    out.extend(ip.octets());
                }
            }
            out.extend(addr.port().to_be_bytes());
        }
    }
}

fn put_id(out: &mut Vec<u8>, id: &SwimId) -> Result<(), PacketError> {
    put_peer(out, &id.peer)?;
    put_life(out, id);
    put_addr(out, id.addr);
    Ok(())
}

fn header_bytes(header: &Header<SwimId>) -> Result<Vec<u8>, PacketError> {
    let mut out = Vec::with_capacity(128);
    put_peer(&mut out, &header.src.peer)?;
    put_peer(&mut out, &header.dst.peer)?;
    put_life(&mut out, &header.src);
    put_addr(&mut out, header.src.addr);
    put_life(&mut out, &header.dst);
    put_number(&mut out, u64::from(header.src_incarnation));
    let mut relayed = |kind: u8, id: &SwimId, probe: u8| {
        out.extend([kind, probe]);
        put_id(&mut out, id)
    };
    match &header.message {
        Message::PingReq { target, probe_number } => relayed(2, target, *probe_number)?,
        Message::IndirectPing { origin, probe_number } => relayed(3, origin, *probe_number)?,
        Message::IndirectAck { target, probe_number } => relayed(4, target, *probe_number)?,
        Message::ForwardedAck { origin, probe_number } => relayed(5, origin, *probe_number)?,
        Message::Ping(probe) => out.extend([0, *probe]),
        Message::Ack(probe) => out.extend([1, *probe]),
        Message::Announce => out.push(6),
        Message::Feed => out.push(7),
        Message::Gossip => out.push(8),
        Message::TurnUndead => out.push(9),
        // Custom broadcasts are switched off; the detector never makes one.
        Message::Broadcast => return Err(PacketError),
    }
    Ok(out)
}

fn member_bytes(member: &Member<SwimId>) -> Result<Vec<u8>, PacketError> {
    let mut out = Vec::with_capacity(64);
    put_id(&mut out, member.id())?;
    put_number(&mut out, u64::from(member.incarnation()));
    out.push(match member.state() {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    });
    Ok(out)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], PacketError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(PacketError)?;
        self.0 = rest;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, PacketError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u64, PacketError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(PacketError);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(PacketError)
    }

    fn small(&mut self) -> Result<u16, PacketError> {
        u16::try_from(self.number()?).map_err(|_| PacketError)
    }

    fn peer(&mut self) -> Result<PeerId, PacketError> {
        let length = usize::from(self.byte()?);
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(PacketError)?;
        self.0 = rest;
        peer_from_bytes(bytes).ok_or(PacketError)
    }

    fn addr(&mut self) -> Result<Option<SocketAddr>, PacketError> {
        let ip = match self.byte()? {
            0 => return Ok(None),
            4 => IpAddr::from(self.array::<4>()?),
            6 => IpAddr::from(self.array::<16>()?),
            _ => return Err(PacketError),
        };
        Ok(Some(SocketAddr::new(ip, u16::from_be_bytes(self.array()?))))
    }

    fn id(&mut self) -> Result<SwimId, PacketError> {
        let peer = self.peer()?;
        Ok(SwimId { peer, incarnation: self.number()?, renewal: self.small()?, addr: self.addr()? })
    }

    fn header(&mut self) -> Result<Header<SwimId>, PacketError> {
        let (src, dst) = (self.peer()?, self.peer()?);
        let src = SwimId { peer: src, incarnation: self.number()?, renewal: self.small()?, addr: self.addr()? };
        let dst = SwimId { peer: dst, incarnation: self.number()?, renewal: self.small()?, addr: None };
        let src_incarnation = self.small()?;
        let message = match self.byte()? {
            0 => Message::Ping(self.byte()?),
            1 => Message::Ack(self.byte()?),
            2 => Message::PingReq { probe_number: self.byte()?, target: self.id()? },
            3 => Message::IndirectPing { probe_number: self.byte()?, origin: self.id()? },
            4 => Message::IndirectAck { probe_number: self.byte()?, target: self.id()? },
            5 => Message::ForwardedAck { probe_number: self.byte()?, origin: self.id()? },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::TurnUndead,
            _ => return Err(PacketError),
        };
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn member(&mut self) -> Result<Member<SwimId>, PacketError> {
        let id = self.id()?;
        let incarnation = self.small()?;
        let state = match self.byte()? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(PacketError),
        };
        Ok(Member::new(id, incarnation, state))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::discovery::wire::tests::peer;

    fn id(number: u8) -> SwimId {
        let addr = match number % 3 {
            0 => None,
            1 => Some("10.0.0.1:50555".parse().expect("address")),
            _ => Some("[fd00::1]:50555".parse().expect("address")),
        };
        SwimId { peer: peer(number), incarnation: u64::MAX >> number, renewal: u16::from(number), addr }
    }

    pub(in crate::discovery::swim) fn packets() -> Vec<Packet> {
        let messages = vec![
            Message::Ping(1),
            Message::Ack(255),
            Message::PingReq { target: id(3), probe_number: 4 },
            Message::IndirectPing { origin: id(3), probe_number: 5 },
            Message::IndirectAck { target: id(3), probe_number: 6 },
            Message::ForwardedAck { origin: id(3), probe_number: 7 },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::TurnUndead,
        ];
        let updates = vec![
            Member::new(id(4), 7, State::Alive),
            Member::new(id(5), u16::MAX, State::Suspect),
            Member::new(id(6), 0, State::Down),
        ];
        let packet = |message, updates| Packet {
            header: Header { src: id(1), src_incarnation: 9, dst: id(2), message },
            updates,
        };
        messages.iter().flat_map(|message| [None, Some(updates.clone())].map(|u| packet(message.clone(), u))).collect()
    }

    #[test]
    fn packets_survive_the_wire_without_their_peer_ids() {
        for packet in packets() {
            let bytes = packet.write().expect("writes");
            let stripped = strip(&bytes).expect("strips");
            assert!(stripped.len() + 78 <= bytes.len());
            let restored = restore(&peer(1), &peer(2), stripped).expect("restores");
            assert_eq!(restored, bytes);
            let read = Packet::read(&restored).expect("reads");
            assert_eq!(read, packet);
            assert_eq!(read.header.src.addr, packet.header.src.addr);
        }
    }

    #[test]
    fn a_later_life_wins() {
        let first = SwimId { incarnation: 1, renewal: 0, ..id(1) };
        let renewed = first.renew().expect("renews");
        let restarted = SwimId { incarnation: 2, renewal: 0, ..id(1) };
        assert!(renewed.win_addr_conflict(&first) && restarted.win_addr_conflict(&renewed));
        assert!(!first.win_addr_conflict(&renewed) && !first.win_addr_conflict(&first));
        assert_eq!(first, SwimId { addr: None, ..first.clone() });
        assert!(SwimId { renewal: u16::MAX, ..id(1) }.renew().is_none());
    }

    proptest! {
        #[test]
        fn junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..1_200)) {
            let _ = Packet::read(&bytes);
            let _ = strip(&bytes);
            if let Ok(restored) = restore(&peer(1), &peer(2), &bytes) {
                let _ = Packet::read(&restored);
            }
        }

        #[test]
        fn mutated_packets_never_panic(kind in 0usize..20, index in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = packets().swap_remove(kind).write().expect("writes");
            let position = index.index(bytes.len());
            bytes[position] = byte;
            if let Ok(packet) = Packet::read(&bytes) {
                prop_assert!(packet.write().is_ok());
            }
        }
    }
}
