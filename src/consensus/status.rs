//! What this node knows about agreement, put together from Raft's metrics, the replica and, on observers, the tip they are told.

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Instant as _, RaftMetrics, ServerState};

use super::core::{Core, Node};
use super::replica::{RaftMember, ReplicaStatus};
use super::types::TypeConfig;
use crate::clock;
use crate::engine::id::{Epoch, HiveId, PeerId};
use crate::engine::state::Halt;
use crate::store::raft_db::LogPoint;
use crate::store::space::Room;

/// A leader that was not answered by a majority for this long has no quorum, whoever hears it: one election timeout and one
/// heartbeat, so that a single late packet does not show.
pub(crate) const QUORUM_STALE_MS: u64 = 1_200;

/// What this node is in the agreement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It belongs to no hive yet, or is being set up.
    #[default]
    None,
    /// It follows the committed log.
    Observer,
    /// It receives the log as a standby.
    Learner,
    /// A voter that follows a leader.
    Follower,
    /// A voter that asks to become leader.
    Candidate,
    /// The leader: the coordinator.
    Leader,
}

/// How far a voter or standby has come; known to the leader only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaProgress {
    /// Which.
    pub member: RaftMember,
    /// Last entry that it is known to have on its disk.
    pub matched: Option<u64>,
    /// Since when it has not answered, milliseconds; none before its first answer.
    pub silent_ms: Option<u64>,
}

/// Everything at one point in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsensusStatus {
    /// Hive and epoch; none before it belongs to one.
    pub hive: Option<(HiveId, Epoch)>,
    /// What this node is.
    pub role: Role,
    /// Its Raft directory, while it is voter or standby.
    pub raft_id: Option<u64>,
    /// Current term as far as it is known here.
    pub term: u64,
    /// The leader, as far as it is known here.
    pub leader: Option<PeerId>,
    /// A majority of voters answered the leader lately, as far as it is known here.
    pub quorum: bool,
    /// Voters of the applied membership.
    pub voters: Vec<RaftMember>,
    /// Standbys of the applied membership.
    pub standbys: Vec<RaftMember>,
    /// The membership is half-way between two.
    pub joint: bool,
    /// Last entry known to be committed.
    pub committed: Option<u64>,
    /// Last entry applied here.
    pub applied: Option<LogPoint>,
    /// When the state was last known to be current, by [`clock::now_ms`]; 0: never since the start.
    pub heard_at_ms: u64,
    /// 99th percentile of the log's commits in the last minute, milliseconds.
    pub fsync_p99_ms: Option<u64>,
    /// Set once and for ever when an entry was not understood.
    pub halted: Option<Halt>,
    /// Why Raft stopped on this node, if it did.
    pub stopped: Option<String>,
    /// Free space; [`Room::Low`] refuses proposals.
    pub low_space: bool,
    /// On the leader: how far the others have come.
    pub progress: Vec<ReplicaProgress>,
}

impl ConsensusStatus {
    /// How old the state may be at worst, milliseconds: 0 on the leader with a quorum.
    pub fn age_ms(&self) -> u64 {
        if self.role == Role::Leader && self.quorum {
            return 0;
        }
        clock::now_ms().saturating_sub(self.heard_at_ms)
    }
}

/// What a voter or standby tells observers, and what observers know from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tip {
    pub(crate) leader: Option<PeerId>,
    pub(crate) term: u64,
    pub(crate) committed: Option<u64>,
    pub(crate) quorum: bool,
    pub(crate) heard_at_ms: u64,
}

/// Who leads, as far as it is known here: the part of the status that others wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader.
    pub leader: Option<PeerId>,
    /// Its term.
    pub term: u64,
    /// A majority of voters answered it lately.
    pub quorum: bool,
    /// What this node is.
    pub role: Role,
}

impl From<&ConsensusStatus> for Leadership {
    fn from(status: &ConsensusStatus) -> Self {
        Self { leader: status.leader.clone(), term: status.term, quorum: status.quorum, role: status.role }
    }
}

/// How long ago a majority of the voters answered this leader, milliseconds; none when it never did.
pub(crate) fn acked_ago_ms(metrics: &RaftMetrics<TypeConfig>) -> Option<u64> {
    if metrics.membership_config.voter_ids().count() <= 1 {
        return Some(0);
    }
    let ago = metrics.last_quorum_acked.as_ref()?.elapsed();
    Some(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))
}

/// The tip as this voter or standby knows it.
pub(crate) fn tip_of(node: &Node) -> Tip {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    let peer = |id: &u64| metrics.membership_config.get_node(id).map(|node| node.peer_id.clone());
    let leader = metrics.current_leader.as_ref().and_then(peer);
    let now_ms = clock::now_ms();
    let heard_at_ms = if metrics.state == ServerState::Leader {
        acked_ago_ms(&metrics).map_or(0, |ago_ms| now_ms.saturating_sub(ago_ms))
    } else {
        node.heard.borrow().acked_at_ms
    };
    let fresh = now_ms.saturating_sub(heard_at_ms) <= QUORUM_STALE_MS && heard_at_ms != 0;
    Tip {
        quorum: fresh && leader.is_some() && metrics.running_state.is_ok(),
        leader,
        term: metrics.current_term,
        committed: metrics.cluster_committed.as_ref().or(metrics.local_committed.as_ref()).map(|id| id.index),
        heard_at_ms,
    }
}

fn role_of(state: ServerState) -> Role {
    match state {
        ServerState::Learner => Role::Learner,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Leader => Role::Leader,
        ServerState::Shutdown => Role::None,
    }
}

fn progress_of(node: &Node, replica: &ReplicaStatus) -> Vec<ReplicaProgress> {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    let (Some(replication), Some(heartbeat)) = (&metrics.replication, &metrics.heartbeat) else {
        return Vec::new();
    };
    let members = replica.voters.iter().chain(&replica.standbys).filter(|member| member.raft_id != node.id);
    members
        .map(|member| ReplicaProgress {
            member: member.clone(),
            matched: replication.get(&member.raft_id).and_then(Option::as_ref).map(|id| id.index),
            silent_ms: heartbeat
                .get(&member.raft_id)
                .and_then(Option::as_ref)
                .map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
        })
        .collect()
}

fn observed_tip(core: &Core) -> Tip {
    let tip = core.tip.borrow().clone();
    let fresh = clock::now_ms().saturating_sub(tip.heard_at_ms) <= QUORUM_STALE_MS;
    Tip { quorum: tip.quorum && fresh, ..tip }
}

/// Puts everything together.
pub(crate) fn status_of(core: &Core) -> ConsensusStatus {
    let replica = core.replica.status();
    let low_space = core.space.room() >= Room::Low;
    let mut status = ConsensusStatus {
        hive: replica.hive,
        voters: replica.voters.clone(),
        standbys: replica.standbys.clone(),
        joint: replica.joint,
        applied: replica.applied,
        halted: replica.halted.clone(),
        low_space,
        ..ConsensusStatus::default()
    };
    let tip = if let Some(node) = core.node() {
        let metrics = node.raft.metrics();
        let (state, running) = {
            let metrics = metrics.borrow_watched();
            (metrics.state, metrics.running_state.clone())
        };
        status.role = if running.is_ok() { role_of(state) } else { Role::None };
        status.stopped = running.err().map(|error| error.to_string());
        status.raft_id = Some(node.id);
        status.fsync_p99_ms = node.log.commit_p99_ms();
        if state == ServerState::Leader {
            status.progress = progress_of(&node, &replica);
        }
        // A future standby goes on observing until the leader speaks to it.
        if core.is_observing() { observed_tip(core) } else { tip_of(&node) }
    } else {
        status.role = if core.is_observing() { Role::Observer } else { Role::None };
        observed_tip(core)
    };
    status.term = tip.term;
    status.leader = tip.leader;
    status.quorum = tip.quorum && status.halted.is_none();
    status.committed = tip.committed.max(status.applied.map(|applied| applied.index));
    status.heard_at_ms = tip.heard_at_ms;
    status
}
