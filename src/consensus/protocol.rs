//! The names of the protocols that consensus speaks.

use crate::engine::id::{Epoch, HiveId};

/// What is spoken over a stream. Hive and epoch are in the name, so a stranger's history is refused before its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Raft calls between voters and standbys.
    Raft,
    /// Snapshots that a leader sends.
    Snapshot,
    /// The committed log, for observers.
    Log,
    /// Proposals on their way to the leader.
    Propose,
}

impl Protocol {
    pub(crate) fn name(self, hive_id: HiveId, epoch: Epoch) -> String {
        let name = match self {
            Self::Raft => "raft",
            Self::Snapshot => "snapshot",
            Self::Log => "log",
            Self::Propose => "propose",
        };
        format!("/hive/{name}/1/{hive_id}/{epoch}")
    }
}
