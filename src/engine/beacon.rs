//! The rules of the beacon: when to call, whom to answer, what to refuse. Pure; `discovery` owns the sockets.
//!
//! ```text
//!   Schedule      when the next HELLO is due                 ReplayGuard   a datagram is taken once
//!   answer        who answers a broadcast, and how often     rate          buckets per sender and per address
//!   LegacyGate    the narrower rules for wire v1             RefusalLog    what was refused, for the operator
//! ```
//!
//! Everything here is bounded by constants, whatever arrives. Never done here: reading a clock, decoding bytes, deciding
//! to found or to join.

pub mod answer;
pub mod legacy;
pub mod rate;
pub mod refusals;
pub mod replay;
pub mod schedule;

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a node says about itself in its HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BeaconState {
    /// Looks for a hive.
    Seeking,
    /// Says that it is about to found one.
    Founding,
    /// Belongs to a hive.
    Member,
}

impl fmt::Display for BeaconState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seeking => "seeking",
            Self::Founding => "founding",
            Self::Member => "member",
        })
    }
}

/// An IP address as the engine sees it: 16 octets, IPv4 mapped into `::ffff:0:0/96`. The port is left out on purpose, because a
/// sender can change it at will.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Source(pub [u8; 16]);

/// A value that repeats for all copies of one question and differs between questions.
pub type Nonce = [u8; 16];
