//! What can go wrong, as people and programs are told.
//!
//! Part of the same promise as [`api`](super): one shape, with what to do next. Never done here: deciding what is an error.

use serde::{Deserialize, Serialize};

/// Result of everything that can be asked of a node.
pub type ApiResult<T> = Result<T, ApiError>;

/// Kinds of error, each with an HTTP status and an exit code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is malformed or breaks a limit: HTTP 400, exit 2.
    Invalid,
    /// Without a key that the hive knows: HTTP 401, exit 4.
    Unauthorized,
    /// Not allowed: HTTP 403, exit 4.
    Forbidden,
    /// No such thing: HTTP 404, exit 5.
    NotFound,
    /// It is of a moment of which this node knows nothing, or nothing is kept: HTTP 410, exit 5.
    NotRecorded,
    /// It is in a state in which this makes no sense: HTTP 409, exit 1.
    Conflict,
    /// No quorum, or no coordinator reached in time; nothing was acknowledged: HTTP 503, exit 7.
    NoQuorum,
    /// The agent cannot be reached: exit 3.
    Unreachable,
    /// This node is short of something (disk): HTTP 507, exit 6.
    Degraded,
    /// No answer in time; what was asked for may still happen: HTTP 504, exit 1.
    Timeout,
    /// A bug or a failed device: HTTP 500, exit 1.
    Internal,
}

impl ErrorCode {
    /// The process exit code of a command that ended with this error.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Internal | Self::Conflict | Self::Timeout => 1,
            Self::Invalid => 2,
            Self::Unreachable => 3,
            Self::Unauthorized | Self::Forbidden => 4,
            Self::NotFound | Self::NotRecorded => 5,
            Self::Degraded => 6,
            Self::NoQuorum => 7,
        }
    }

    /// The HTTP status of an answer with this error.
    pub fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::NotRecorded => 410,
            Self::Internal => 500,
            Self::NoQuorum | Self::Unreachable => 503,
            Self::Timeout => 504,
            Self::Degraded => 507,
        }
    }
}

/// An error for people and programs: what happened, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// One sentence: what is wrong.
    pub message: String,
    /// One sentence: what to do about it. May be empty.
    pub hint: String,
}

impl ApiError {
    /// An error with a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into() }
    }
}
