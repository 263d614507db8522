//! What the single kinds of datagram say, and the compact form in which they say it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{ADDRESSES_MAX, WireError};
use crate::engine::beacon::{BeaconState, Nonce};
use crate::engine::grammar;

/// How a HELLO was sent. The sender says it under its signature; the receiving socket cannot tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// To everybody on a link: broadcast or multicast.
    Broadcast,
    /// To one address.
    Unicast,
}

/// "I am here."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The node's name.
    pub name: String,
    /// Where it is, best first; at most [`ADDRESSES_MAX`].
    pub addresses: Vec<IpAddr>,
    /// TCP port of the mesh.
    pub mesh_port: u16,
    /// TCP port of the public HTTP API.
    pub http_port: u16,
    /// What it is doing.
    pub state: BeaconState,
    /// Echoed by whoever answers.
    pub nonce: Nonce,
    /// Digest of the seekers that it has in view; see [`seekers_digest`](crate::engine::beacon::answer::seekers_digest).
    pub digest: [u8; 16],
    /// A free address that it would claim.
    pub candidate_ip: Option<IpAddr>,
    /// How it was sent.
    pub cast: Cast,
}

/// A member's answer to a HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The HELLO's nonce.
    pub nonce: Nonce,
    /// The member's name.
    pub name: String,
    /// Where it is, best first; at most [`ADDRESSES_MAX`].
    pub addresses: Vec<IpAddr>,
    /// TCP port of the mesh.
    pub mesh_port: u16,
    /// TCP port of the public HTTP API.
    pub http_port: u16,
    /// Name of the hive.
    pub hive_name: String,
    /// How many members it has.
    pub member_count: u32,
    /// The hive is founded (and not only announced).
    pub founded: bool,
    /// How the HELLO came, as it said itself.
    pub heard: Cast,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireHello {
    #[serde(rename = "n")]
    name: String,
    #[serde(rename = "a")]
    addresses: Vec<ByteBuf>,
    #[serde(rename = "m")]
    mesh_port: u16,
    #[serde(rename = "w")]
    http_port: u16,
    #[serde(rename = "s")]
    state: u8,
    #[serde(rename = "o")]
    nonce: ByteBuf,
    #[serde(rename = "g")]
    digest: ByteBuf,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    candidate_ip: Option<ByteBuf>,
    #[serde(rename = "b")]
    broadcast: bool,
    #[serde(rename = "p")]
    pad: ByteBuf,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireWelcome {
    #[serde(rename = "o")]
    nonce: ByteBuf,
    #[serde(rename = "n")]
    name: String,
    #[serde(rename = "a")]
    addresses: Vec<ByteBuf>,
    #[serde(rename = "m")]
    mesh_port: u16,
    #[serde(rename = "w")]
    http_port: u16,
    #[serde(rename = "h")]
    hive_name: String,
    #[serde(rename = "c")]
    member_count: u32,
    #[serde(rename = "f")]
    founded: bool,
    #[serde(rename = "b")]
    heard_broadcast: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireNonce {
    #[serde(rename = "o")]
    nonce: ByteBuf,
    #[serde(rename = "p", default, skip_serializing_if = "pad_is_empty")]
    pad: ByteBuf,
}

fn pad_is_empty(pad: &ByteBuf) -> bool {
    pad.is_empty()
}

fn address_to_wire(address: &IpAddr) -> ByteBuf {
    match address {
        IpAddr::V4(address) => ByteBuf::from(address.octets()),
        IpAddr::V6(address) => ByteBuf::from(address.octets()),
    }
}

fn address_from_wire(bytes: &ByteBuf) -> Result<IpAddr, WireError> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Ok(IpAddr::V4(Ipv4Addr::from(octets)));
    }
    let octets = <[u8; 16]>::try_from(bytes.as_slice()).map_err(|_| WireError::Malformed)?;
    Ok(IpAddr::V6(Ipv6Addr::from(octets)))
}

fn addresses_from_wire(bytes: &[ByteBuf]) -> Result<Vec<IpAddr>, WireError> {
    if bytes.len() > ADDRESSES_MAX {
        return Err(WireError::Malformed);
    }
    bytes.iter().map(address_from_wire).collect()
}

fn fixed(bytes: &ByteBuf) -> Result<[u8; 16], WireError> {
    bytes.as_slice().try_into().map_err(|_| WireError::Malformed)
}

/// Names end up in logs and on pages, so only the grammar of names gets through.
fn name_from_wire(name: String) -> Result<String, WireError> {
    grammar::node_name(&name).map_err(|_| WireError::Malformed)?;
    Ok(name)
}

fn cast(broadcast: bool) -> Cast {
    if broadcast { Cast::Broadcast } else { Cast::Unicast }
}

impl WireHello {
    pub(super) fn new(hello: &Hello, pad: usize) -> Self {
        Self {
            name: hello.name.clone(),
            addresses: hello.addresses.iter().take(ADDRESSES_MAX).map(address_to_wire).collect(),
            mesh_port: hello.mesh_port,
            http_port: hello.http_port,
            state: match hello.state {
                BeaconState::Seeking => 0,
                BeaconState::Founding => 1,
                BeaconState::Member => 2,
            },
            nonce: ByteBuf::from(hello.nonce),
            digest: ByteBuf::from(hello.digest),
            candidate_ip: hello.candidate_ip.as_ref().map(address_to_wire),
            broadcast: hello.cast == Cast::Broadcast,
            pad: ByteBuf::from(vec![0; pad]),
        }
    }

    pub(super) fn check(self) -> Result<Hello, WireError> {
        Ok(Hello {
            name: name_from_wire(self.name)?,
            addresses: addresses_from_wire(&self.addresses)?,
            mesh_port: self.mesh_port,
            http_port: self.http_port,
            state: match self.state {
                0 => BeaconState::Seeking,
                1 => BeaconState::Founding,
                2 => BeaconState::Member,
                _ => return Err(WireError::Malformed),
            },
            nonce: fixed(&self.nonce)?,
            digest: fixed(&self.digest)?,
            candidate_ip: self.candidate_ip.as_ref().map(address_from_wire).transpose()?,
            cast: cast(self.broadcast),
        })
    }
}

impl WireWelcome {
    pub(super) fn new(welcome: &Welcome) -> Self {
        Self {
            nonce: ByteBuf::from(welcome.nonce),
            name: welcome.name.clone(),
            addresses: welcome.addresses.iter().take(ADDRESSES_MAX).map(address_to_wire).collect(),
            mesh_port: welcome.mesh_port,
            http_port: welcome.http_port,
            hive_name: welcome.hive_name.clone(),
            member_count: welcome.member_count,
            founded: welcome.founded,
            heard_broadcast: welcome.heard == Cast::Broadcast,
        }
    }

    pub(super) fn check(self) -> Result<Welcome, WireError> {
        Ok(Welcome {
            nonce: fixed(&self.nonce)?,
            name: name_from_wire(self.name)?,
            addresses: addresses_from_wire(&self.addresses)?,
            mesh_port: self.mesh_port,
            http_port: self.http_port,
            hive_name: name_from_wire(self.hive_name)?,
            member_count: self.member_count,
            founded: self.founded,
            heard: cast(self.heard_broadcast),
        })
    }
}

impl WireNonce {
    pub(super) fn new(nonce: &Nonce, pad: usize) -> Self {
        Self { nonce: ByteBuf::from(*nonce), pad: ByteBuf::from(vec![0; pad]) }
    }

    pub(super) fn check(self) -> Result<Nonce, WireError> {
        fixed(&self.nonce)
    }
}
