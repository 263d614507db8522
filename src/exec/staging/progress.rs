//! How far the staging directory is, kept in itself: a new directory begins anew, one that was moved goes on.
//!
//! Never done here: deciding what follows.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use super::{Staging, index};
use crate::clock;
use crate::engine::id::EpochId;

/// Up to where results were put here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Of which history of the hive. After a recovery positions may mean other jobs.
    pub epoch: EpochId,
    /// Everything up to this position in the order of ending is here, or will never be.
    pub ordinal: u64,
}

impl Staging {
    /// What was saved last; none when nothing was, or it cannot be read: everything is looked at again, which changes nothing that is
    /// there.
    pub fn progress(&self) -> Option<Progress> {
        let text = fs::read_to_string(self.root.join(super::OWN).join("progress.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Saves how far it is.
    pub fn save_progress(&self, progress: &Progress) -> io::Result<()> {
        let text = serde_json::to_vec(progress)?;
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(clock::unix_now().0);
        index::replace(&self.own_directory()?.join("progress.json"), &text, at)
    }
}
