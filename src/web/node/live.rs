//! What pages that follow ask of the node, besides [`NodeApi`](super::NodeApi).

use futures::future::BoxFuture;

use super::Answer;
use crate::api::{LiveChanges, NodeMetrics};

/// What a node knows of what goes on.
pub trait LiveApi {
    /// Waits until this node's copy of the state has moved past `index`, and answers with where it is then; never when the node stops
    /// meanwhile.
    fn moved(&self, index: u64) -> BoxFuture<'static, u64>;
    /// What entries after `since` changed. Cheap.
    fn changes(&self, since: u64) -> LiveChanges;
    /// Number of the newest event. Cheap.
    fn newest_event(&self) -> u64;
    /// Number of the oldest event that can still be had; none when there is none.
    fn oldest_event(&self) -> Answer<'_, Option<u64>>;
    /// How the members are doing. Cheap.
    fn node_metrics(&self) -> Vec<NodeMetrics>;
}
