//! What people and scripts see of an attempt's log beside its bytes: matches of a search, phases, the first error.
//!
//! Part of the same promise as [`api`](super). Every text here is harmless and cut already. Never done here: searching.

use serde::{Deserialize, Serialize};

use crate::engine::buildlog::FirstError;
use crate::engine::id::{JobId, UnixMillis};

/// What is searched for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct LogSearch {
    /// Text, or a regular expression.
    pub text: String,
    /// `text` is a regular expression.
    #[serde(default)]
    pub regex: bool,
    /// Capital and small letters are the same.
    #[serde(default)]
    pub ignore_case: bool,
    /// At most so many lines are answered.
    pub limit: usize,
    /// Where to begin: 0, or what an answer has named as `next_offset`.
    #[serde(default)]
    pub offset: u64,
    /// Number of the line there: 1, or what that answer has named as `next_line`.
    #[serde(default)]
    pub line: u64,
}

/// `hive logs --grep`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct LogMatches {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// In the order of the log.
    pub matches: Vec<LogMatch>,
    /// Everything that is there was searched. Else go on from `next_offset` and `next_line`.
    pub complete: bool,
    /// Where to go on.
    pub next_offset: u64,
    /// Number of the line there.
    pub next_line: u64,
}

/// A line that matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct LogMatch {
    /// Its number, from 1.
    pub line: u64,
    /// Where it begins, as for `log?offset=`; in a very long line a place shortly before the match.
    pub offset: u64,
    /// The line, or what stands around the match.
    pub text: String,
}

/// Who says that a phase begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PhaseSource {
    /// The drone.
    Hive,
    /// The output of the build, which may claim anything.
    Output,
}

/// One phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct LogPhase {
    /// What it is called.
    pub name: String,
    /// Who says so.
    pub source: PhaseSource,
    /// Its line in the log, from 1.
    pub line: u64,
    /// Where that line begins.
    pub offset: u64,
    /// When it began.
    pub at: UnixMillis,
    /// How long it took; none while it is the last one of a log that grows, or when the end is not known.
    pub took_ms: Option<u64>,
}

/// `hive logs --phases`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct LogPhases {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// Oldest first. Those of hive and those of the output are each a sequence of their own.
    pub phases: Vec<LogPhase>,
    /// There were more than are kept.
    pub cut: bool,
    /// The log is still written.
    pub growing: bool,
}

/// `hive logs --first-error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct LogFirstError {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// None when no line looks like one.
    pub error: Option<FirstError>,
    /// The whole log was looked through.
    pub complete: bool,
}
