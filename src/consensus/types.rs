//! The types that openraft is instantiated with. Nothing outside `consensus` sees them.

use std::fmt;
use std::sync::Arc;

use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::machine::Machine;
use crate::engine::command::Reply;
use crate::engine::id::PeerId;

/// Id of a Raft directory: random, never reused.
pub(crate) type RaftId = u64;

/// What Raft knows about a voter or standby: which peer holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RaftNode {
    /// The peer.
    pub(crate) peer_id: PeerId,
}

impl Default for RaftNode {
    fn default() -> Self {
        Self { peer_id: PeerId::new("") }
    }
}

/// An encoded [`Batch`](crate::engine::command::Batch). It stays bytes until it is applied, so that an entry written by a newer
/// hive can be stored and passed on by a node that does not understand it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EncodedBatch(pub(crate) Arc<[u8]>);

impl fmt::Debug for EncodedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncodedBatch({} bytes)", self.0.len())
    }
}

impl fmt::Display for EncodedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

// openraft asks for serde on its data; our own encodings in `codec` are what is stored and sent.
impl Serialize for EncodedBatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for EncodedBatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(serde_bytes::ByteBuf::deserialize(deserializer)?.into_vec().into()))
    }
}

openraft::declare_raft_types!(
    /// openraft as hive uses it: at most one leader per term.
    pub(crate) TypeConfig:
        D = EncodedBatch,
        R = Vec<Reply>,
        NodeId = RaftId,
        Node = RaftNode,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, RaftId>,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, Machine>;
pub(crate) type Metrics = openraft::type_config::alias::WatchReceiverOf<TypeConfig, openraft::RaftMetrics<TypeConfig>>;
pub(crate) type LogId = LogIdOf<TypeConfig>;
pub(crate) type Vote = VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type Payload = openraft::type_config::alias::EntryPayloadOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<RaftId, RaftNode>;
pub(crate) type StoredMembership = StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
