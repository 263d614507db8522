//! The words of the API's kinds, and durations and sizes, for people: the same on a terminal, on a page and in a notice.
//!
//! States are called what JSON calls them. Never done here: colours, cleaning foreign text.

use super::{MemberState, NodePhase, RaftPart, SessionState};
use crate::engine::job::{AttemptState, FailureClass, JobState};

/// What a node is doing.
pub fn phase(phase: NodePhase) -> &'static str {
    match phase {
        NodePhase::Seeking => "seeking a hive",
        NodePhase::Founding => "founding a hive",
        NodePhase::Joining => "joining",
        NodePhase::Member => "member",
        NodePhase::Refused => "refused (the secret probably differs)",
        NodePhase::Stopping => "stopping",
    }
}

/// Liveness of a member.
pub fn member_state(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "alive",
        MemberState::Suspect => "suspect",
        MemberState::Down => "down",
        MemberState::Left => "left",
        MemberState::Legacy => "legacy",
    }
}

/// Part of a member in Raft.
pub fn raft(part: RaftPart) -> &'static str {
    match part {
        RaftPart::Voter => "voter",
        RaftPart::Standby => "standby",
        RaftPart::Observer => "observer",
        RaftPart::None => "-",
    }
}

/// State of a job.
pub fn job_state(state: JobState) -> &'static str {
    match state {
        JobState::Needed => "needed",
        JobState::Delegated => "delegated",
        JobState::Received => "received",
        JobState::Blocked => "blocked",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
        JobState::Quarantined => "quarantined",
    }
}

/// Where a session stands.
pub fn session_state(state: SessionState) -> &'static str {
    match state {
        SessionState::Resolving => "resolving",
        SessionState::Importing => "importing",
        SessionState::Active => "active",
        SessionState::Completed => "completed",
        SessionState::Cancelled => "cancelled",
        SessionState::Failed => "failed",
    }
}

/// State of an attempt.
pub fn attempt_state(state: AttemptState) -> &'static str {
    match state {
        AttemptState::Assigned => "assigned",
        AttemptState::Building => "building",
        AttemptState::Uploading => "uploading",
        AttemptState::Accepted => "accepted",
        AttemptState::Failed => "failed",
        AttemptState::Lost => "lost",
        AttemptState::Stale => "stale",
        AttemptState::Cancelled => "cancelled",
    }
}

/// Whose fault it was.
pub fn class(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Build => "build",
        FailureClass::Infra => "infra",
        FailureClass::Policy => "policy",
        FailureClass::Cancelled => "cancelled",
        FailureClass::Stale => "stale",
    }
}

/// A duration with at most two units: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`, `5 d 3 h`.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..=9 => format!("{}.{} s", seconds, ms % 1_000 / 100),
        10..=59 => format!("{seconds} s"),
        60..=3_599 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..=86_399 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A number of bytes.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut scale = 1u64;
    while unit + 1 < UNITS.len() && count / scale >= 1_024 {
        scale *= 1_024;
        unit += 1;
    }
    if unit == 0 {
        return format!("{count} B");
    }
    let tenths = u128::from(count) * 10 / u128::from(scale);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_naturally() {
        let cases = [(0, "0.0 s"), (450, "0.4 s"), (12_000, "12 s"), (185_000, "3 min 5 s"), (7_800_000, "2 h 10 min")];
        for (ms, expected) in cases {
            assert_eq!(duration(ms), expected);
        }
        let sizes =
            [(0, "0 B"), (1_023, "1023 B"), (1_536, "1.5 KiB"), (1 << 30, "1.0 GiB"), (u64::MAX, "16777215.9 TiB")];
        for (count, expected) in sizes {
            assert_eq!(bytes(count), expected);
        }
    }
}
