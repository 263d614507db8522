//! Our own encodings of votes, entries and memberships, on disk and on the wire: a version byte and CBOR with named fields.
//!
//! openraft's own serde forms may change with any of its releases, so they are never stored or sent.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use openraft::EntryPayload;
use openraft::vote::leader_id_std::{CommittedLeaderId, LeaderId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::types::{EncodedBatch, Entry, LogId, Membership, RaftId, RaftNode, StoredMembership, Vote};
use crate::engine::id::PeerId;
use crate::store::raft_db::{LogPoint, RawEntry};
use crate::transport::{decode, encode};

/// Version of every encoding here.
const VERSION: u8 = 1;

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn versioned<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut bytes = encode(value)?;
    bytes.insert(0, VERSION);
    Ok(bytes)
}

fn unversioned<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => decode(rest),
        Some((version, _)) => Err(invalid(format!("encoding version {version}, this hive knows {VERSION}"))),
        None => Err(invalid("nothing where an encoded value was expected")),
    }
}

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireVote {
    pub(crate) term: u64,
    pub(crate) node: RaftId,
    pub(crate) committed: bool,
}

impl From<&Vote> for WireVote {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl From<WireVote> for Vote {
    fn from(wire: WireVote) -> Self {
        Self { leader_id: LeaderId { term: wire.term, voted_for: wire.node }, committed: wire.committed }
    }
}

pub(crate) fn vote_to_bytes(vote: &Vote) -> io::Result<Vec<u8>> {
    versioned(&WireVote::from(vote))
}

pub(crate) fn vote_from_bytes(bytes: &[u8]) -> io::Result<Vote> {
    unversioned::<WireVote>(bytes).map(Vote::from)
}

pub(crate) fn point_of(id: &LogId) -> LogPoint {
    LogPoint { term: id.leader_id.term, index: id.index }
}

pub(crate) fn log_id(point: LogPoint) -> LogId {
    LogId::new(CommittedLeaderId::new(point.term), point.index)
}

#[derive(Serialize, Deserialize)]
struct WireMembership {
    at: Option<LogPoint>,
    configs: Vec<BTreeSet<RaftId>>,
    nodes: BTreeMap<RaftId, PeerId>,
}

fn membership_to_wire(at: Option<LogPoint>, membership: &Membership) -> WireMembership {
    WireMembership {
        at,
        configs: membership.get_joint_config().clone(),
        nodes: membership.nodes().map(|(id, node)| (*id, node.peer_id.clone())).collect(),
    }
}

fn membership_from_wire(wire: WireMembership) -> io::Result<Membership> {
    let nodes: BTreeMap<RaftId, RaftNode> =
        wire.nodes.into_iter().map(|(id, peer_id)| (id, RaftNode { peer_id })).collect();
    // A membership without any voter is openraft's "none yet", which its checked constructor refuses.
    if wire.configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(wire.configs, nodes).map_err(|error| invalid(error.to_string()))
}

pub(crate) fn membership_to_bytes(stored: &StoredMembership) -> io::Result<Vec<u8>> {
    versioned(&membership_to_wire(stored.log_id().as_ref().map(point_of), stored.membership()))
}

/// Nothing decodes to no membership.
pub(crate) fn membership_from_bytes(bytes: &[u8]) -> io::Result<StoredMembership> {
    if bytes.is_empty() {
        return Ok(StoredMembership::default());
    }
    let wire: WireMembership = unversioned(bytes)?;
    let at = wire.at.map(log_id);
    Ok(StoredMembership::new(at, membership_from_wire(wire)?))
}

#[derive(Serialize)]
enum WirePayload<'a> {
    Blank,
    Batch(&'a serde_bytes::Bytes),
    Membership(WireMembership),
}

/// An entry on the wire: its payload is encoded as it is on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WireEntry {
    pub(crate) at: LogPoint,
    #[serde(with = "serde_bytes")]
    pub(crate) payload: Vec<u8>,
}

fn payload_to_bytes(entry: &Entry) -> io::Result<Vec<u8>> {
    match &entry.payload {
        EntryPayload::Blank => versioned(&WirePayload::Blank),
        EntryPayload::Normal(batch) => versioned(&WirePayload::Batch(serde_bytes::Bytes::new(&batch.0))),
        EntryPayload::Membership(membership) => {
            versioned(&WirePayload::Membership(membership_to_wire(None, membership)))
        }
    }
}

fn payload_from_bytes(bytes: &[u8]) -> io::Result<super::types::Payload> {
    // Owned, because a reader cannot lend what it reads.
    #[derive(Deserialize)]
    enum Owned {
        Blank,
        Batch(serde_bytes::ByteBuf),
        Membership(WireMembership),
    }
    Ok(match unversioned(bytes)? {
        Owned::Blank => EntryPayload::Blank,
        Owned::Batch(batch) => EntryPayload::Normal(EncodedBatch(Arc::from(batch.into_vec()))),
        Owned::Membership(wire) => EntryPayload::Membership(membership_from_wire(wire)?),
    })
}

pub(crate) fn entry_to_raw(entry: &Entry) -> io::Result<RawEntry> {
    Ok(RawEntry { at: point_of(&entry.log_id), bytes: payload_to_bytes(entry)? })
}

pub(crate) fn entry_from_raw(raw: &RawEntry) -> io::Result<Entry> {
    Ok(Entry { log_id: log_id(raw.at), payload: payload_from_bytes(&raw.bytes)? })
}

pub(crate) fn entry_to_wire(entry: &Entry) -> io::Result<WireEntry> {
    Ok(WireEntry { at: point_of(&entry.log_id), payload: payload_to_bytes(entry)? })
}

pub(crate) fn entry_from_wire(wire: &WireEntry) -> io::Result<Entry> {
    Ok(Entry { log_id: log_id(wire.at), payload: payload_from_bytes(&wire.payload)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, index: u64) -> LogId {
        log_id(LogPoint { term, index })
    }

    fn membership() -> Membership {
        let node = |name: &str| RaftNode { peer_id: PeerId::new(name) };
        let nodes = BTreeMap::from([(1, node("a")), (2, node("b")), (u64::MAX, node("c"))]);
        Membership::new(vec![BTreeSet::from([1]), BTreeSet::from([1, 2])], nodes).expect("valid")
    }

    #[test]
    fn everything_round_trips() {
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(EncodedBatch(Arc::from([0u8, 255, 3].as_slice()))),
            EntryPayload::Membership(membership()),
        ];
        for payload in payloads {
            let entry = Entry { log_id: at(3, 9), payload };
            assert_eq!(entry_from_raw(&entry_to_raw(&entry).expect("encodes")).expect("decodes"), entry);
            assert_eq!(entry_from_wire(&entry_to_wire(&entry).expect("encodes")).expect("decodes"), entry);
        }
        for committed in [false, true] {
            let vote = Vote { leader_id: LeaderId { term: 4, voted_for: u64::MAX }, committed };
            assert_eq!(vote_from_bytes(&vote_to_bytes(&vote).expect("encodes")).expect("decodes"), vote);
        }
        let stored = StoredMembership::new(Some(at(1, 2)), membership());
        let back = membership_from_bytes(&membership_to_bytes(&stored).expect("encodes")).expect("decodes");
        assert_eq!(back, stored);
        let none = StoredMembership::default();
        assert_eq!(membership_from_bytes(&membership_to_bytes(&none).expect("encodes")).expect("decodes"), none);
    }

    #[test]
    fn other_versions_and_rubbish_are_refused() {
        let mut bytes = vote_to_bytes(&Vote::new(1, 1)).expect("encodes");
        bytes[0] = 2;
        assert!(vote_from_bytes(&bytes).expect_err("unknown").to_string().contains("version 2"));
        assert!(vote_from_bytes(&[]).is_err());
        assert!(payload_from_bytes(&[VERSION, 0xff]).is_err());
    }
}
