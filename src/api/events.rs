//! The event feed.

use serde::{Deserialize, Serialize};

use crate::engine::event::Event;

/// What happened.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct EventList {
    /// Oldest first.
    pub events: Vec<Event>,
    /// Number of the newest that this node knows: ask for what came after it.
    pub latest_id: u64,
}
