//! What only a leader can do: change who votes, hand leadership over, and confirm that it still leads.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{ChangeMembers, ReadPolicy};

use super::core::{Core, Node};
use super::status::Role;
use super::types::{RaftId, RaftNode};
use super::{Consensus, ConsensusError};
use crate::engine::id::{Epoch, PeerId};

/// A change of membership is committed in this time, or the caller is told that it is not known.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(15);
/// Asking a majority whether one still leads takes at most this long.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(1_200);
/// A leader that finds a half-way membership gives whoever made it this long to finish.
const JOINT_PATIENCE: Duration = Duration::from_secs(1);

/// Proof that this node led at some point after it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderToken {
    /// Epoch.
    pub epoch: Epoch,
    /// Term in which it leads.
    pub term: u64,
    /// Everything up to here is applied on this node.
    pub index: u64,
}

async fn in_time<T, E: std::fmt::Display>(change: impl Future<Output = Result<T, E>>) -> Result<T, ConsensusError> {
    match tokio::time::timeout(CHANGE_TIMEOUT, change).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(ConsensusError::Raft(error.to_string())),
        Err(_) => Err(ConsensusError::TimedOut),
    }
}

async fn finish(node: &Node, target: BTreeSet<RaftId>) -> Result<(), ConsensusError> {
    in_time(node.raft.change_membership(target, true)).await.map(drop)
}

/// The configuration at which a half-way membership aims, if it is half-way.
fn joint_target(node: &Node) -> Option<BTreeSet<RaftId>> {
    use openraft::async_runtime::watch::WatchReceiver as _;
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    let configs = metrics.membership_config.get_joint_config();
    if configs.len() > 1 { configs.last().cloned() } else { None }
}

/// Completes a membership change that a former leader left half-way.
pub(super) async fn finish_joint(core: Arc<Core>) {
    loop {
        tokio::time::sleep(JOINT_PATIENCE).await;
        let Some(node) = core.node().filter(|node| node.raft.is_leader()) else { continue };
        let Some(target) = joint_target(&node) else { continue };
        tokio::time::sleep(JOINT_PATIENCE).await;
        if joint_target(&node).as_ref() != Some(&target) {
            continue;
        }
        tracing::info!(?target, "finishing a membership change that was left half-way");
        if let Err(error) = finish(&node, target).await {
            tracing::warn!(%error, "the membership change could not be finished; it is tried again");
        }
    }
}

impl Consensus {
    fn leading(&self) -> Result<Node, ConsensusError> {
        self.inner.core.node().filter(|node| node.raft.is_leader()).ok_or(ConsensusError::NotLeader)
    }

    /// Runs on the consensus thread, wherever the caller is.
    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ConsensusError>> + Send + 'static,
    ) -> Result<T, ConsensusError> {
        self.inner.core.spawn("membership", work).await.map_err(|_| ConsensusError::Ended)?
    }

    /// Lets a node that has called [`prepare_replica`](Self::prepare_replica) receive the log. Returns when that is committed,
    /// not when it has caught up: see [`ConsensusStatus::progress`](super::ConsensusStatus::progress).
    pub async fn add_standby(&self, raft_id: u64, peer_id: PeerId) -> Result<(), ConsensusError> {
        let node = self.leading()?;
        self.on_thread(
            async move { in_time(node.raft.add_learner(raft_id, RaftNode { peer_id }, false)).await.map(drop) },
        )
        .await
    }

    /// Makes exactly these the voters, in one joint change; all must be voters or standbys already. Voters that are left out
    /// become standbys.
    pub async fn change_voters(&self, voters: BTreeSet<u64>) -> Result<(), ConsensusError> {
        if voters.len().is_multiple_of(2) {
            return Err(ConsensusError::EvenVoters(voters.len()));
        }
        let node = self.leading()?;
        self.on_thread(async move {
            if let Some(target) = joint_target(&node) {
                finish(&node, target).await?;
            }
            finish(&node, voters).await
        })
        .await
    }

    /// Takes a standby out of the membership.
    pub async fn remove_standby(&self, raft_id: u64) -> Result<(), ConsensusError> {
        let node = self.leading()?;
        self.on_thread(async move {
            let change = ChangeMembers::RemoveNodes(BTreeSet::from([raft_id]));
            in_time(node.raft.change_membership(change, true)).await.map(drop)
        })
        .await
    }

    /// Asks a majority whether this node leads right now (or relies on an answer within the lease), and waits until it has
    /// applied everything that was committed before.
    pub async fn confirm_leader(&self) -> Result<LeaderToken, ConsensusError> {
        let node = self.leading()?;
        let (_, epoch) = self.inner.core.replica.status().hive.ok_or(ConsensusError::NoHive)?;
        let confirm = async move {
            let refused = |error: RaftError<_, LinearizableReadError<_>>| match error {
                RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => ConsensusError::NotLeader,
                RaftError::APIError(other) => ConsensusError::Raft(other.to_string()),
                RaftError::Fatal(error) => ConsensusError::Raft(error.to_string()),
            };
            let linearizer = match node.raft.get_read_linearizer(ReadPolicy::LeaseRead).await {
                Ok(linearizer) => linearizer,
                Err(_) => node.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(refused)?,
            };
            let term = node.raft.as_leader().map_err(|_| ConsensusError::NotLeader)?.term();
            let read = linearizer.read_log_id().index();
            linearizer
                .try_await_ready(&node.raft, Some(CONFIRM_TIMEOUT))
                .await
                .map_err(|error| ConsensusError::Raft(error.to_string()))?
                .map_err(|_| ConsensusError::TimedOut)?;
            Ok(LeaderToken { epoch, term, index: read })
        };
        let confirmed = self.on_thread(confirm);
        tokio::time::timeout(CONFIRM_TIMEOUT, confirmed).await.map_err(|_| ConsensusError::TimedOut)?
    }

    /// Hands leadership to a voter (the one that is furthest, when none is named) and waits up to `patience` for it to take over.
    /// Fine when this node does not lead.
    pub async fn transfer_leadership(&self, to: Option<PeerId>, patience: Duration) -> Result<(), ConsensusError> {
        let Ok(node) = self.leading() else { return Ok(()) };
        let status = self.status();
        let is_voter = |id: RaftId| status.voters.iter().any(|voter| voter.raft_id == id);
        let target = status
            .progress
            .iter()
            .filter(|progress| is_voter(progress.member.raft_id))
            .filter(|progress| to.as_ref().is_none_or(|to| *to == progress.member.peer_id))
            .filter(|progress| progress.silent_ms.is_some_and(|silent_ms| silent_ms < 1_000))
            .max_by_key(|progress| progress.matched)
            .map(|progress| progress.member.raft_id);
        let Some(target) = target else {
            return Err(ConsensusError::Raft("no other voter answers".to_owned()));
        };
        node.raft.trigger().transfer_leader(target).await.map_err(|error| ConsensusError::Raft(error.to_string()))?;
        let mut watched = self.watch_status();
        let gone = watched.wait_for(|status| status.role != Role::Leader);
        match tokio::time::timeout(patience, gone).await {
            Ok(_) => Ok(()),
            Err(_) => Err(ConsensusError::TimedOut),
        }
    }
}
