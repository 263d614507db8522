//! What passes between nodes, as people look at it: records of messages, and what is made of them without IO.
//!
//! ```text
//!   bytes that an edge saw ─► cbor (read what is there) ─► redact (nothing secret) ─► Record ─► filter, look, pcapng
//! ```
//!
//! A record is one message as one node saw it: sent or received. The same message has the same `trace` at both ends, and an answer has
//! the trace of its question, so that a conversation can be put together from several nodes. Records are hints for people: nothing is
//! ever decided by them. Never done here: capturing (`crate::wire` does), clocks, IO.

pub mod cbor;
pub mod filter;
pub mod frames;
pub mod look;
pub mod pcapng;
pub mod redact;
pub mod told;

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use self::filter::{Field, Seen};
use super::id::UnixMillis;

/// What was spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Datagrams of wire v2 that look for others: HELLO, WELCOME.
    Beacon,
    /// Datagrams of wire v2 about liveness: PING, PONG, SWIM.
    Swim,
    /// Datagrams of wire v1, the Python agents'.
    V1,
    /// Datagrams that are of no known version.
    Datagram,
    /// Statuses that members publish.
    Gossip,
    /// Requests of agents: advice, leases, errands.
    Control,
    /// Raft between voters and standbys.
    Raft,
    /// Snapshots of the state.
    Snapshot,
    /// The committed log, for observers.
    Log,
    /// Proposals on their way to the leader.
    Propose,
    /// What nodes say about themselves.
    Facts,
    /// Content-addressed files.
    Blob,
    /// Output of builds.
    Buildlog,
    /// Questions about the output of builds.
    Loglook,
    /// A stream of another protocol.
    Stream,
    /// HTTP at the public port.
    Http,
    /// HTTP at the admin port.
    Admin,
    /// HTTP over the local socket.
    Local,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Beacon,
        Self::Swim,
        Self::V1,
        Self::Datagram,
        Self::Gossip,
        Self::Control,
        Self::Raft,
        Self::Snapshot,
        Self::Log,
        Self::Propose,
        Self::Facts,
        Self::Blob,
        Self::Buildlog,
        Self::Loglook,
        Self::Stream,
        Self::Http,
        Self::Admin,
        Self::Local,
    ];

    /// The word shown to people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Beacon => "beacon",
            Self::Swim => "swim",
            Self::V1 => "v1",
            Self::Datagram => "datagram",
            Self::Gossip => "gossip",
            Self::Control => "control",
            Self::Raft => "raft",
            Self::Snapshot => "snapshot",
            Self::Log => "log",
            Self::Propose => "propose",
            Self::Facts => "facts",
            Self::Blob => "blob",
            Self::Buildlog => "buildlog",
            Self::Loglook => "loglook",
            Self::Stream => "stream",
            Self::Http => "http",
            Self::Admin => "admin",
            Self::Local => "local",
        }
    }

    /// The protocol of a mesh stream of this name, such as `/hive/raft/1/…`.
    pub fn of_stream(name: &str) -> Self {
        match name.strip_prefix("/hive/").and_then(|rest| rest.split('/').next()) {
            Some("control" | "control-calls") => Self::Control,
            Some("raft") => Self::Raft,
            Some("snapshot") => Self::Snapshot,
            Some("log") => Self::Log,
            Some("propose") => Self::Propose,
            Some("facts") => Self::Facts,
            Some("blob") => Self::Blob,
            Some("buildlog") => Self::Buildlog,
            Some("loglook") => Self::Loglook,
            _ => Self::Stream,
        }
    }

    /// HTTP, at whichever door.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Admin | Self::Local)
    }

    /// Over UDP.
    pub fn is_datagram(self) -> bool {
        matches!(self, Self::Beacon | Self::Swim | Self::V1 | Self::Datagram)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One message as one node saw it, without its body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `NUMBER@NODE`.
    pub id: String,
    /// Rises with every record of a node, also across restarts: the node's wall clock in microseconds, or one more than the last.
    pub number: u64,
    /// When it was seen, by that node's wall clock.
    pub at: UnixMillis,
    /// The node that saw it.
    pub node: String,
    /// That node sent it; else it received it.
    pub sent: bool,
    /// Name of the sending node, or its address, or both.
    pub from: String,
    /// Name of the receiving node, its address, or `everybody`.
    pub to: String,
    /// What was spoken.
    pub protocol: Protocol,
    /// `HELLO`, `LEASE`, `HEARTBEAT`, …; the method for HTTP.
    pub kind: String,
    /// Path of an HTTP request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The first job that is named in it.
    pub job: Option<String>,
    /// How many jobs are named in it, as far as it was kept.
    #[serde(default)]
    pub jobs: u32,
    /// The session that is named in it.
    pub session: Option<String>,
    /// Length of the whole message.
    pub bytes: u64,
    /// Of an answer: since its question was seen here. Milliseconds.
    pub latency_ms: Option<f64>,
    /// What came of it: `ok`, `refused`, `busy`, …; the status for HTTP.
    pub status: Option<String>,
    /// `taken`, or why it was refused. `sent` for what this node sent.
    pub verdict: String,
    /// The same for a message at both its ends, and for a question and its answers. 16 hexadecimal digits.
    pub trace: String,
    /// One line.
    pub summary: String,
}

impl Seen for Record {
    fn text(&self, field: Field) -> Option<Cow<'_, str>> {
        let text = match field {
            Field::Id => &self.id,
            Field::Node => &self.node,
            Field::From => &self.from,
            Field::To => &self.to,
            Field::Protocol => self.protocol.as_str(),
            Field::Kind => &self.kind,
            Field::Path => self.path.as_deref()?,
            Field::Job => self.job.as_deref()?,
            Field::Session => self.session.as_deref()?,
            Field::Status => self.status.as_deref()?,
            Field::Verdict => &self.verdict,
            Field::Trace => &self.trace,
            Field::Summary => &self.summary,
            Field::Bytes | Field::Latency | Field::Jobs | Field::Sent => return None,
        };
        Some(Cow::Borrowed(text))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "all others are texts")]
    fn number(&self, field: Field) -> Option<f64> {
        match field {
            // Above 2^53 bytes nobody counts single ones.
            Field::Bytes => Some(self.bytes as f64),
            Field::Latency => self.latency_ms,
            Field::Jobs => Some(f64::from(self.jobs)),
            Field::Status => self.status.as_deref()?.parse().ok(),
            _ => None,
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "all others are texts")]
    fn flag(&self, field: Field) -> bool {
        match field {
            Field::Sent => self.sent,
            Field::Bytes | Field::Jobs => self.number(field).is_some_and(|number| number > 0.0),
            Field::Latency => self.latency_ms.is_some(),
            _ => self.text(field).is_some_and(|text| !text.is_empty()),
        }
    }

    fn names_job(&self, job: &dyn Fn(&str) -> bool) -> bool {
        self.job.as_deref().is_some_and(job)
    }
}
