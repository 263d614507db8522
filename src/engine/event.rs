//! What happened, for people and for programs that follow: one line per thing that a command did.
//!
//! Events are what applying a command tells beside its reply, the same on every node, with the same number. They decide nothing and
//! are no part of the state: a node that was away, or began with a snapshot, has fewer of them. Never done here: keeping them.

use serde::{Deserialize, Serialize};

use super::id::{JobId, SessionId, UnixMillis};

/// Positions within one log entry. An id is the entry's index times this, plus the position.
pub const PER_ENTRY: u64 = 4_096;

/// What kind of thing happened. The words are those of the build swarm where it had one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A job was given to a drone.
    Assign,
    /// A drone began to build it.
    Start,
    /// It was built, and the result accepted.
    Complete,
    /// An attempt failed.
    Fail,
    /// A drone gave it back without having begun.
    Return,
    /// A report came for an attempt that no longer counts.
    Stale,
    /// What had not begun was taken back, to be planned anew.
    Rebalance,
    /// A drone was lost, or took too long to be heard of.
    Reclaim,
    /// A drone failed too often and gets no work for a while.
    Grounded,
    /// A job is not tried for now.
    Blocked,
    /// A blocked job may be tried again.
    Unblock,
    /// A drone of the build swarm came, or was taken off the list.
    Register,
    /// Jobs were queued.
    Queue,
    /// An operator acted.
    Control,
    /// A job was cancelled.
    Cancel,
    /// A session was taken back.
    Session,
    /// A node joined.
    MemberJoined,
    /// A node left.
    MemberLeft,
    /// A node took a role.
    Role,
    /// Another coordinator leads.
    Coordinator,
    /// The admin key or a token changed.
    Access,
    /// The hive was founded, or began a new epoch.
    Hive,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Assign,
        Self::Start,
        Self::Complete,
        Self::Fail,
        Self::Return,
        Self::Stale,
        Self::Rebalance,
        Self::Reclaim,
        Self::Grounded,
        Self::Blocked,
        Self::Unblock,
        Self::Register,
        Self::Queue,
        Self::Control,
        Self::Cancel,
        Self::Session,
        Self::MemberJoined,
        Self::MemberLeft,
        Self::Role,
        Self::Coordinator,
        Self::Access,
        Self::Hive,
    ];

    /// The word for people, options and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Assign => "assign",
            Self::Start => "start",
            Self::Complete => "complete",
            Self::Fail => "fail",
            Self::Return => "return",
            Self::Stale => "stale",
            Self::Rebalance => "rebalance",
            Self::Reclaim => "reclaim",
            Self::Grounded => "grounded",
            Self::Blocked => "blocked",
            Self::Unblock => "unblock",
            Self::Register => "register",
            Self::Queue => "queue",
            Self::Control => "control",
            Self::Cancel => "cancel",
            Self::Session => "session",
            Self::MemberJoined => "member_joined",
            Self::MemberLeft => "member_left",
            Self::Role => "role",
            Self::Coordinator => "coordinator",
            Self::Access => "access",
            Self::Hive => "hive",
        }
    }

    /// The kind of a word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, see [`PER_ENTRY`]: rises, with gaps.
    pub id: u64,
    /// When, by the coordinator's clock.
    pub at: UnixMillis,
    /// What kind of thing.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// One sentence.
    pub message: String,
    /// Name of the drone or node that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drone: Option<String>,
    /// What was to be built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// The job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// The session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
}

impl Event {
    /// The log entry that it came from.
    pub fn index(&self) -> u64 {
        self.id / PER_ENTRY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_word_of_its_own_that_is_the_one_in_json() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::from_word(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_string(&kind).expect("JSON"), format!("\"{}\"", kind.as_str()));
        }
        assert_eq!(EventKind::from_word("explode"), None);
    }
}
