//! The replicated state and its deterministic `apply`. (Skeleton: signatures that other modules stand on.)

use serde::{Deserialize, Serialize};

use super::command::{Batch, Reply};

/// A row of the durable form of the state. The state is exactly the set of its rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Row {
    /// Which table, see the constants of [`table`].
    pub table: u8,
    /// Key in the table, unique.
    pub key: Vec<u8>,
}

/// A change of one row: its new value, or none when it is deleted. In the order in which apply made them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which row.
    pub row: Row,
    /// Canonical CBOR, or none.
    pub value: Option<Vec<u8>>,
}

/// What one batch did.
#[derive(Debug, Default)]
pub struct Applied {
    /// One per proposal, in order.
    pub replies: Vec<Reply>,
    /// What to write, in the same transaction as the applied index.
    pub changes: Vec<Change>,
}

/// This replica cannot go on: the entry is not understood. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {index} cannot be applied: {why}")]
pub struct Halt {
    /// Log index.
    pub index: u64,
    /// What was not understood, and which version of hive might.
    pub why: String,
}

/// A row of the durable form could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stored state is damaged: table {table}, key {key}: {why}")]
pub struct LoadError {
    /// Table number.
    pub table: u8,
    /// Key in hexadecimal.
    pub key: String,
    /// What is wrong.
    pub why: String,
}

/// The replicated state.
#[derive(Debug, Default)]
pub struct State {
    chain: [u8; 32],
}

impl State {
    /// The state before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rebuilds the state from its rows, in any order.
    pub fn from_rows(rows: impl IntoIterator<Item = (Row, Vec<u8>)>) -> Result<Self, LoadError> {
        let _ = rows;
        Ok(Self::default())
    }

    /// Applies one log entry. Total and deterministic: the same state and entry give the same replies and changes everywhere.
    pub fn apply(&mut self, index: u64, batch: &Batch) -> Result<Applied, Halt> {
        let _ = (index, batch);
        Ok(Applied::default())
    }

    /// Hash over all changes ever applied; equal on all replicas at the same index.
    pub fn chain(&self) -> [u8; 32] {
        self.chain
    }
}
