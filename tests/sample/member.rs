//! A member for tests that run replicas without an agent.

use hive::engine::id::PeerId;
use hive::engine::member::{Inventory, MemberInfo};

/// Named as its peer id, on this machine, with nothing to build with.
pub(crate) fn member(peer: &PeerId) -> MemberInfo {
    MemberInfo {
        peer_id: peer.clone(),
        name: peer.as_str().to_owned(),
        addresses: vec!["127.0.0.1:50555".to_owned()],
        incarnation: 1,
        version: "0.1.0".to_owned(),
        feature_level: 1,
        inventory: Inventory::default(),
    }
}
