//! Wire v2: what hive datagrams say and how they are written, signed, verified and read.
//!
//! ```text
//!   COSE_Mac0 (RFC 9052)
//!     protected   { alg: HMAC 256/256, kid: 4 bytes }
//!     payload     { kind, version, hive, epoch, sender, incarnation, sequence, time, destination, body }
//!     tag         HMAC-SHA-256 with the datagram key of that id
//! ```
//!
//! Reading goes from cheap to dear and stops at the first thing that is wrong: size, shape (`cose`), key id, MAC, and only
//! then the payload, into typed structures, never into open values. A datagram proves that its sender knows the secret and
//! nothing more; what it says is a hint. Never done here: sockets, replay, rates, deciding whom to answer.

mod body;
mod cose;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

pub use self::body::{Cast, Hello, Welcome};
use self::body::{WireHello, WireNonce, WireWelcome};
use crate::engine::beacon::Nonce;
use crate::engine::beacon::refusals::Reason;
use crate::engine::id::{Epoch, HiveId, PeerId, UnixMillis};
use crate::keyring::Keyring;

/// Longest datagram: fits every link with room for tunnels.
pub const DATAGRAM_MAX: usize = 1_200;
/// Every HELLO is padded to this length, so that no answer to it is larger.
pub const HELLO_LEN: usize = 800;
/// Longest SWIM packet; what is left of a datagram for it, whatever the other fields hold.
pub const SWIM_MAX: usize = 940;
/// The version this node speaks.
pub const VERSION: u8 = 2;
/// Padding of a PING, so that its PONG is never longer: the PONG names a hive and a destination, and its numbers may take more
/// bytes.
const PING_PAD: usize = 128;
/// Most addresses in one datagram.
pub const ADDRESSES_MAX: usize = 8;
/// Longest name of a node or a hive, bytes.
pub const NAME_MAX: usize = crate::engine::grammar::NODE_NAME_MAX;
/// Nesting that typed payloads need, and a little more.
const NESTING_MAX: usize = 8;

/// Which hive and which of its histories a datagram belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HiveEpoch {
    /// The hive.
    pub hive_id: HiveId,
    /// The history.
    pub epoch: Epoch,
}

/// A verified datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The sender's hive; none while it seeks one.
    pub hive: Option<HiveEpoch>,
    /// Who says that it sent this. Proven only as far as the secret is.
    pub sender: PeerId,
    /// Raised at every start of the sender.
    pub incarnation: u64,
    /// Raised with every datagram of one incarnation.
    pub sequence: u64,
    /// The sender's wall clock; shown, never trusted.
    pub sent_at: UnixMillis,
    /// For whom it is meant; none for everybody.
    pub destination: Option<PeerId>,
    /// What it says.
    pub body: Body,
}

/// What a datagram says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// "I am here", to everybody or to one address.
    Hello(Hello),
    /// A member's answer to a HELLO.
    Welcome(Welcome),
    /// "Are you there?"
    Ping(Nonce),
    /// "Yes", with the question's nonce.
    Pong(Nonce),
    /// A packet of the failure detector.
    Swim(Vec<u8>),
}

impl Body {
    /// The kind's name, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Hello(_) => "HELLO",
            Self::Welcome(_) => "WELCOME",
            Self::Ping(_) => "PING",
            Self::Pong(_) => "PONG",
            Self::Swim(_) => "SWIM",
        }
    }

    fn number(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Welcome(_) => 2,
            Self::Ping(_) => 3,
            Self::Pong(_) => 4,
            Self::Swim(_) => 5,
        }
    }
}

/// Why bytes are not a datagram of this hive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not a datagram of wire v2 at all.
    #[error("not a hive datagram")]
    Malformed,
    /// Signed with a key that this node does not have, or changed on the way.
    #[error("signed with another secret (key {key_id:08x})")]
    WrongSecret {
        /// The key that its sender names.
        key_id: u32,
    },
    /// Verified, but of another version.
    #[error("wire version {version}, this node speaks {VERSION}")]
    Version {
        /// Its version.
        version: u8,
    },
    /// More content than fits.
    #[error("{length} bytes, at most {DATAGRAM_MAX} fit")]
    TooLong {
        /// Its length.
        length: usize,
    },
}

impl WireError {
    /// The reason under which it is counted.
    pub fn reason(self) -> Reason {
        match self {
            Self::Malformed | Self::TooLong { .. } => Reason::Malformed,
            Self::WrongSecret { .. } => Reason::WrongSecret,
            Self::Version { .. } => Reason::Version,
        }
    }
}

/// Field names have one letter: they are part of every datagram.
#[derive(Serialize, Deserialize)]
struct WirePayload {
    #[serde(rename = "k")]
    kind: u8,
    #[serde(rename = "v")]
    version: u8,
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    hive_id: Option<HiveId>,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    epoch_counter: Option<u64>,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    epoch_id: Option<ByteBuf>,
    #[serde(rename = "s")]
    sender: ByteBuf,
    #[serde(rename = "i")]
    incarnation: u64,
    #[serde(rename = "q")]
    sequence: u64,
    #[serde(rename = "t")]
    sent_at: UnixMillis,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    destination: Option<ByteBuf>,
    #[serde(rename = "b")]
    body: ByteBuf,
}

/// The version alone, so that a later version may change everything else.
#[derive(Deserialize)]
struct WireVersion {
    #[serde(rename = "v")]
    version: u8,
}

/// The bytes of a peer id: its multihash. None when the text is not one.
pub fn peer_bytes(peer: &PeerId) -> Option<Vec<u8>> {
    peer.as_str().parse::<libp2p::PeerId>().ok().map(libp2p::PeerId::to_bytes)
}

/// The peer id of these bytes. None when they are not a multihash of a key.
pub fn peer_from_bytes(bytes: &[u8]) -> Option<PeerId> {
    libp2p::PeerId::from_bytes(bytes).ok().map(|peer| PeerId::new(peer.to_base58()))
}

fn to_cbor(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    // Writing plain structures to memory cannot fail; an empty result would be refused by every reader.
    if ciborium::into_writer(value, &mut bytes).is_err() {
        bytes.clear();
    }
    bytes
}

fn from_cbor<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, WireError> {
    let mut rest = bytes;
    let value =
        ciborium::de::from_reader_with_recursion_limit(&mut rest, NESTING_MAX).map_err(|_| WireError::Malformed)?;
    if rest.is_empty() { Ok(value) } else { Err(WireError::Malformed) }
}

impl Datagram {
    /// Writes and signs it.
    pub fn seal(&self, keyring: &Keyring) -> Result<Vec<u8>, WireError> {
        let bytes = self.seal_padded(keyring, 0)?;
        let Body::Hello(_) = self.body else { return Ok(bytes) };
        // Two passes settle it: the length of the padding's length field depends on the padding.
        let mut pad = HELLO_LEN.saturating_sub(bytes.len());
        let padded = self.seal_padded(keyring, pad)?;
        pad = (pad + HELLO_LEN).saturating_sub(padded.len());
        self.seal_padded(keyring, pad)
    }

    fn seal_padded(&self, keyring: &Keyring, pad: usize) -> Result<Vec<u8>, WireError> {
        let body = match &self.body {
            Body::Hello(hello) => to_cbor(&WireHello::new(hello, pad)),
            Body::Welcome(welcome) => to_cbor(&WireWelcome::new(welcome)),
            Body::Ping(nonce) => to_cbor(&WireNonce::new(nonce, PING_PAD)),
            Body::Pong(nonce) => to_cbor(&WireNonce::new(nonce, 0)),
            Body::Swim(packet) => packet.clone(),
        };
        let payload = WirePayload {
            kind: self.body.number(),
            version: VERSION,
            hive_id: self.hive.map(|hive| hive.hive_id),
            epoch_counter: self.hive.map(|hive| hive.epoch.counter),
            epoch_id: self.hive.map(|hive| ByteBuf::from(hive.epoch.id.0)),
            sender: ByteBuf::from(peer_bytes(&self.sender).ok_or(WireError::Malformed)?),
            incarnation: self.incarnation,
            sequence: self.sequence,
            sent_at: self.sent_at,
            destination: match &self.destination {
                Some(peer) => Some(ByteBuf::from(peer_bytes(peer).ok_or(WireError::Malformed)?)),
                None => None,
            },
            body: ByteBuf::from(body),
        };
        let bytes = cose::seal(to_cbor(&payload), keyring.signing()).ok_or(WireError::Malformed)?;
        if bytes.len() > DATAGRAM_MAX {
            return Err(WireError::TooLong { length: bytes.len() });
        }
        Ok(bytes)
    }

    /// Verifies and reads one. Returns the id of the key that signed it, too.
    pub fn open(bytes: &[u8], keyring: &Keyring) -> Result<(Self, u32), WireError> {
        if bytes.len() > DATAGRAM_MAX {
            return Err(WireError::TooLong { length: bytes.len() });
        }
        let (payload, key_id) = cose::open(bytes, keyring)?;
        Self::read(&payload).map(|datagram| (datagram, key_id))
    }

    fn read(payload: &[u8]) -> Result<Self, WireError> {
        let version = from_cbor::<WireVersion>(payload)?.version;
        if version != VERSION {
            return Err(WireError::Version { version });
        }
        let wire: WirePayload = from_cbor(payload)?;
        let hive = match (wire.hive_id, wire.epoch_counter, wire.epoch_id) {
            (None, None, None) => None,
            (Some(hive_id), Some(counter), Some(id)) => {
                let id = id.as_slice().try_into().map_err(|_| WireError::Malformed)?;
                Some(HiveEpoch { hive_id, epoch: Epoch { counter, id: crate::engine::id::EpochId(id) } })
            }
            _ => return Err(WireError::Malformed),
        };
        let destination = match wire.destination {
            Some(bytes) => Some(peer_from_bytes(&bytes).ok_or(WireError::Malformed)?),
            None => None,
        };
        let body = match wire.kind {
            1 => Body::Hello(from_cbor::<WireHello>(&wire.body)?.check()?),
            2 => Body::Welcome(from_cbor::<WireWelcome>(&wire.body)?.check()?),
            3 => Body::Ping(from_cbor::<WireNonce>(&wire.body)?.check()?),
            4 => Body::Pong(from_cbor::<WireNonce>(&wire.body)?.check()?),
            5 if wire.body.len() <= SWIM_MAX => Body::Swim(wire.body.into_vec()),
            _ => return Err(WireError::Malformed),
        };
        Ok(Self {
            hive,
            sender: peer_from_bytes(&wire.sender).ok_or(WireError::Malformed)?,
            incarnation: wire.incarnation,
            sequence: wire.sequence,
            sent_at: wire.sent_at,
            destination,
            body,
        })
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let to = match &self.destination {
            Some(peer) => format!(" to {}", peer.short()),
            None => String::new(),
        };
        let from = self.sender.short();
        match &self.body {
            Body::Hello(hello) => {
                let addresses: Vec<String> = hello.addresses.iter().map(IpAddr::to_string).collect();
                format!(
                    "{} ({from}){to}: I am {}, at {} port {}",
                    hello.name,
                    hello.state,
                    addresses.join(", "),
                    hello.mesh_port
                )
            }
            Body::Welcome(welcome) => format!(
                "{} ({from}){to}: welcome to {}, {} members",
                welcome.name, welcome.hive_name, welcome.member_count
            ),
            Body::Ping(_) => format!("({from}){to}: are you there?"),
            Body::Pong(_) => format!("({from}){to}: yes"),
            Body::Swim(packet) => format!("({from}){to}: liveness, {} bytes", packet.len()),
        }
    }
}

/// The key id that a datagram names, if it looks like one of wire v2.
pub fn key_id(bytes: &[u8]) -> Option<u32> {
    cose::key_id(bytes)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
pub(crate) mod tests;
