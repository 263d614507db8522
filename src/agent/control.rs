//! What agents ask each other: advice, leases, and the coordinator's errands; what is asked seldom over a stream for each question, what is
//! asked all the time over one that stays.
//!
//! The asking peer is proven by its connection, never by a field. Raft, the log, blobs and build logs have protocols of their
//! own. Never done here: acting on a request.

use serde::{Deserialize, Serialize};

use crate::api::legacy::{Call, Told};
use crate::api::{ApiError, Identity};
use crate::engine::ballot::{AdviceMsg, IdentifyMsg};
use crate::engine::id::{Epoch, Sha256Hash};
use crate::engine::scheduler::LeaseAsked;

/// Protocol name. Not bound to a hive: nodes without one speak it too.
pub(super) const PROTOCOL: &str = "/hive/control/1";
/// The same requests and responses, many over one stream.
pub(super) const CALLS_PROTOCOL: &str = "/hive/control-calls/1";

/// A request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Between two seekers that reach each other over the mesh only: what a HELLO would say.
    Seek {
        /// Of the seekers in view.
        digest: [u8; 16],
        /// It is about to found.
        announces: bool,
    },
    /// What should I become?
    Identify(Box<IdentifyMsg>),
    /// May I (still) work on these? Asked of the coordinator before a build starts and every few seconds while it runs.
    Lease {
        /// At most [`LEASES_MAX`](crate::engine::scheduler::LEASES_MAX).
        attempts: Vec<LeaseAsked>,
    },
    /// Become ready to vote: make a Raft directory with a fresh id.
    PrepareReplica,
    /// Under this id you are neither voter nor standby any longer.
    RetireReplica {
        /// The id.
        raft_id: u64,
    },
    /// Fetch this blob from me and keep it, so that it survives my end.
    KeepBlob {
        /// Digest.
        sha256: Sha256Hash,
        /// Bytes.
        size: u64,
    },
    /// Your role is no longer needed; ask the hive again.
    AskAgain {
        /// The claim that is to be replaced; a node that has claimed another since ignores the request.
        generation: u64,
        /// Why.
        reason: String,
    },
    /// Answer a drone of the Python swarm, as the coordinator.
    Legacy(Box<Call>),
    /// Where your copy of the log ends. Asked by `hive recover`.
    LogEnd,
    /// I am about to begin a new epoch; give your word to nobody else for a moment. Asked by `hive recover`.
    Promise,
    /// I do not begin it, or have begun.
    Release,
    /// Up to where is the log committed? Asked of the coordinator, which has itself confirmed first.
    Committed,
    /// Is there a whole package of this in your staging directory?
    FindStaged {
        /// A package, or a version of it, as [`Wanted::of`](crate::engine::staging::Wanted::of) reads it.
        atom: String,
    },
    /// Which role were you given, by whom and why?
    Identity,
}

/// A response.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Response {
    /// Understood, nothing to say.
    Ok,
    /// To `Identify`.
    Advice(Box<AdviceMsg>),
    /// To `Lease`: per attempt whether it is still the job's live one.
    Leases {
        /// In the order asked.
        valid: Vec<bool>,
    },
    /// To `PrepareReplica`.
    Replica {
        /// The fresh Raft id.
        raft_id: u64,
    },
    /// To `Legacy`.
    Legacy(Box<Result<Told, ApiError>>),
    /// To `LogEnd`.
    LogEnd {
        /// Epoch.
        epoch: Epoch,
        /// Term of the last entry.
        term: u64,
        /// Its index.
        index: u64,
    },
    /// To `Committed`.
    Committed {
        /// Index.
        index: u64,
    },
    /// To `FindStaged`: it is there and whole.
    Staged {
        /// Below the staging directory.
        path: String,
        /// Its length.
        size_bytes: u64,
    },
    /// To `FindStaged`: it is not there, or not whole.
    NotStaged {
        /// One sentence.
        why: String,
    },
    /// To `Identity`; none before the first vote.
    Identity(Option<Box<Identity>>),
    /// Not done, and why.
    Refused {
        /// One sentence.
        why: String,
    },
}
