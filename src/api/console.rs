//! What operators do on one node: logs, commands, terminals and their recordings.

use serde::{Deserialize, Serialize};

use crate::engine::id::UnixMillis;

/// `POST /api/v2/nodes/{name}/exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments; never a shell line.
    pub argv: Vec<String>,
    /// It is ended after so long, milliseconds, at most an hour; none: one minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// A line of its answer, which is one JSON object per line. Output that is no text comes as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecLine {
    /// Of standard output.
    Stdout {
        /// As text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// Otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hex: Option<String>,
    },
    /// Of standard error.
    Stderr {
        /// As text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// Otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hex: Option<String>,
    },
    /// It is over. The last line.
    Ended {
        /// None when a signal or hive ended it.
        exit_code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// Why hive ended it.
        why: Option<String>,
    },
    /// The connection to the node broke; what ran there has ended. The last line.
    Broken {
        /// One sentence.
        message: String,
    },
}

/// A ticket for one terminal: `POST /api/v2/nodes/{name}/terminal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalTicket {
    /// To be sent as the first message. Good once.
    pub ticket: String,
    /// The node whose terminal it opens.
    pub node: String,
    /// Where: a path for a WebSocket at this port.
    pub path: String,
    /// It is good for so long, milliseconds.
    pub expires_in_ms: u64,
}

/// A recorded terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingView {
    /// `NODE:NAME`.
    pub id: String,
    /// The node it is on.
    pub node: String,
    /// On whose behalf the terminal was.
    pub by: String,
    /// When it began.
    pub started_at: UnixMillis,
    /// How long it took, milliseconds.
    pub duration_ms: u64,
    /// Its length, bytes.
    pub size_bytes: u64,
    /// Width and height at the beginning, characters.
    pub columns: u16,
    /// See `columns`.
    pub rows: u16,
}

/// What was recorded on all nodes that answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingList {
    /// The newest first.
    pub recordings: Vec<RecordingView>,
    /// Nodes that did not answer.
    pub unreachable: Vec<String>,
}
