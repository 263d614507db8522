//! What operators do to the queue and to drones: each a committed command with who and why, answered with what it changed.
//!
//! All of them can be repeated without harm: what is as it was asked to be is not counted as changed. Never done here: carrying
//! them out (see [`state`](super::state)).

use serde::{Deserialize, Serialize};

use super::id::{JobId, PeerId, SessionId};

/// Which jobs are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Jobs {
    /// All to which the action can apply.
    All,
    /// One.
    One(JobId),
    /// All of a package, or with this target.
    Package(String),
    /// All of a session.
    Session(SessionId),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Control {
    /// Nothing new is given to any drone.
    Pause,
    /// Ends [`Pause`](Self::Pause).
    Resume,
    /// Jobs that are not over are not tried until they are unblocked by hand.
    Block {
        /// Which; an attempt that runs goes on.
        jobs: Jobs,
    },
    /// Blocked jobs may be tried again at once, everywhere.
    Unblock {
        /// Which.
        jobs: Jobs,
    },
    /// Blocked, failed and quarantined jobs are tried again, as if for the first time.
    RetryFailures {
        /// Which.
        jobs: Jobs,
    },
    /// Failures so far are forgotten: of waiting and blocked jobs, and of drones. Nothing that is over or runs changes.
    ClearFailures,
    /// All that is not done is tried again, and all that went wrong at drones is forgotten.
    Reset {
        /// Also what runs: it is stopped and begins anew.
        running: bool,
    },
    /// What was assigned and has not begun goes back, to be planned anew.
    Rebalance {
        /// Also what runs: it is stopped and begins anew.
        running: bool,
    },
    /// As [`Rebalance`](Self::Rebalance), of chosen jobs.
    Reclaim {
        /// Which.
        jobs: Jobs,
        /// Also what runs.
        running: bool,
    },
    /// Drones that failed too often get work again.
    Unground {
        /// One, or all.
        node: Option<PeerId>,
    },
    /// Jobs that are over, and what is known of durations, are forgotten.
    ClearHistory,
    /// Ends a session: all its jobs that are not over are cancelled.
    CancelSession {
        /// Which.
        session: SessionId,
    },
    /// Changes what a drone may be given.
    Drone {
        /// Which.
        node: PeerId,
        /// How.
        change: DroneChange,
    },
}

/// What changes for one drone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DroneChange {
    /// It gets nothing new; what it has goes on.
    Pause,
    /// It gets work again; ends [`Drain`](Self::Drain), too.
    Resume,
    /// It gets nothing new, what has not begun goes elsewhere, and after the deadline what still runs does so, too.
    Drain {
        /// So long from now, milliseconds; none: what runs may end.
        deadline_ms: Option<u64>,
    },
    /// Processors that its builds may use; none: all.
    Limit {
        /// 1 to 65,536.
        cores: Option<u32>,
    },
}
