//! What nodes said to each other: lists of records, one record with its fields, and what filters are made of.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::id::UnixMillis;
use crate::engine::wire::Record;
use crate::engine::wire::filter::Type;
use crate::engine::wire::look::Conversation;

/// Records that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WireList {
    /// Oldest first.
    pub records: Vec<Record>,
    /// Ask for what came after this number.
    pub latest: u64,
    /// There are more than were asked for: after the last of these when `since` was given, else before the first.
    pub more: bool,
    /// The nodes that were asked.
    pub nodes: Vec<WireNode>,
}

/// What a node has in memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WireNode {
    /// Its name.
    pub name: String,
    /// Why it did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// When the oldest record in its memory was seen.
    pub oldest: Option<UnixMillis>,
    /// Records in its memory.
    pub kept: u64,
    /// Messages that it noted since its start.
    pub noted: u64,
    /// Messages that it left out by `wire.sample`.
    pub left_out: u64,
}

/// One record, read as far as it was kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WireDetail {
    /// The record.
    pub record: Record,
    /// What the message says, without what is secret.
    pub fields: Value,
    /// Bytes of it that were kept.
    pub kept_bytes: u64,
    /// All jobs that are named in what was kept.
    pub jobs: Vec<String>,
    /// Records of this node with the same trace, oldest first.
    pub related: Vec<Record>,
}

/// Questions with their answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WireConversations {
    /// The newest first.
    pub conversations: Vec<Conversation>,
    /// The nodes that were asked.
    pub nodes: Vec<WireNode>,
}

/// What filters are made of, for completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WireFields {
    /// The fields.
    pub fields: Vec<WireField>,
    /// Signs and words between tests.
    pub joins: Vec<String>,
}

/// A field of filters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WireField {
    /// As it is written.
    pub name: String,
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: Type,
    /// One line.
    pub meaning: String,
    /// Comparisons that it takes.
    pub operators: Vec<String>,
    /// Units of its numbers.
    pub units: Vec<String>,
    /// Values that were seen lately, or all there are.
    pub values: Vec<String>,
}
