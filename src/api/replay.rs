//! How much went on when: what the time bar of a page draws.

use serde::{Deserialize, Serialize};

use crate::engine::id::UnixMillis;

/// `GET /api/v2/activity`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct Activity {
    /// When the first bucket begins.
    pub from: UnixMillis,
    /// Length of each.
    pub bucket_ms: u64,
    /// Oldest first.
    pub buckets: Vec<ActivityBucket>,
    /// The first moment that this node can show; none: it keeps nothing of the past, or not yet.
    pub known_from: Option<UnixMillis>,
    /// How long moments are kept, milliseconds; none: they are not.
    pub reaches_back_ms: Option<u64>,
    /// The node's time now.
    pub now: UnixMillis,
}

/// What went on in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct ActivityBucket {
    /// Events.
    pub events: u64,
    /// Attempts that ended, well or badly.
    pub jobs: u64,
    /// Of them, those that failed or were lost.
    pub failures: u64,
    /// Messages that passed the answering node.
    pub messages: u64,
}
