//! What agent and helper say to each other: frames of [`crate::transport`], one request per connection.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::engine::role::Family;
use crate::exec::Capabilities;
use crate::exec::launch::{Exit, Step};
use crate::exec::packages::PackagesState;

/// Largest frame, bytes: a step holds at most 32 KiB of arguments.
pub(in crate::exec) const FRAME_MAX: usize = crate::transport::CONTROL_FRAME_MAX;

/// What the agent asks. The list is closed: an unknown act does not decode.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::exec) enum Request {
    /// What this host can limit and isolate.
    Capabilities,
    /// End what a former life of the agent left.
    Reap,
    /// Run one program of an attempt as the build user.
    Start(Step),
    /// Install packages of the distribution.
    Install { family: Family, names: Vec<String> },
    /// Sync the package trees of this host: nothing about it can be chosen.
    SyncTrees,
    /// Add an address to an interface.
    ClaimAddress { interface: String, cidr: String },
}

/// What the agent may say while a program runs. Closing the connection says the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::exec) enum Control {
    /// End the program.
    Stop,
}

/// What the helper answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::exec) enum Reply {
    /// To `Capabilities`.
    Capabilities(Capabilities),
    /// To `Reap`: the tokens.
    Reaped(Vec<String>),
    /// `Start`: the program was started.
    Started,
    /// Output of a program.
    Output(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The program is over.
    Ended(Exit),
    /// `Install`: how it ended.
    Packages(PackagesState),
    /// Done.
    Done,
    /// Not done, and nothing has changed.
    Refused(String),
}

impl Reply {
    pub(super) fn output(chunk: &Bytes) -> Self {
        Self::Output(chunk.to_vec())
    }
}
