//! How a node comes to be voter, standby or observer, and how it stops being one.
//!
//! Two files say what a node is: `hive.db` (which hive and epoch its state belongs to) and `raft.db` (that it is voter or
//! standby, under which id). Each step below writes the one that decides last and durably, so that a crash in between leaves
//! either the old or the new.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::EntryPayload;
use serde::{Deserialize, Serialize};

use super::codec;
use super::core::{Core, Tasks, serve_members, start_raft};
use super::types::{EncodedBatch, Entry, Membership, RaftId, RaftNode, Vote};
use super::{Consensus, ConsensusError, Running, observe};
use crate::clock;
use crate::engine::command::{Batch, Command, ENVELOPE_VERSION, Origin, Proposal, Reply};
use crate::engine::id::{Epoch, HiveId, PeerId};
use crate::engine::member::MemberInfo;
use crate::engine::state::State;
use crate::store::raft_db::{self, Binding, Genesis, LogPoint, RaftDb, RaftMeta, RawEntry};
use crate::store::set_aside;
use crate::transport::encode;

/// A single voter elects itself and applies its first entries in this time, on a slow disk.
const FOUNDING_TIMEOUT: Duration = Duration::from_secs(10);

/// What this replica knows, for `hive recover`: the highest (epoch, term, index) of all replicas goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Claim {
    /// Epoch of its state.
    pub epoch: Epoch,
    /// Term of the last applied entry.
    pub term: u64,
    /// Its index.
    pub index: u64,
    /// Chain hash there: replicas that claim the same point must have the same.
    pub chain: [u8; 32],
}

/// Brings `raft.db` and `hive.db` of one directory into agreement after a crash between their writes.
pub(super) async fn reconcile(core: &Core) -> Result<(), ConsensusError> {
    let directory = &core.options.directory;
    let Some(meta) = raft_db::peek(directory)? else { return Ok(()) };
    let state = core.replica.status();
    match state.hive {
        Some((hive_id, epoch)) if (hive_id, epoch) == (meta.hive_id, meta.epoch) => {}
        // Founding and recovering write raft.db first: it names the hive or epoch that hive.db has yet to hear of.
        None => core.replica.belong(meta.hive_id, meta.epoch).await?,
        Some((hive_id, epoch)) if hive_id == meta.hive_id && epoch.counter < meta.epoch.counter => {
            core.replica.belong(meta.hive_id, meta.epoch).await?;
        }
        Some(_) => drop(set_aside(directory, raft_db::FILE)?),
    }
    Ok(())
}

pub(super) fn first_entry(at: LogPoint, batch: &Batch) -> Result<RawEntry, ConsensusError> {
    let bytes = encode(batch).map_err(ConsensusError::Stored)?;
    let payload = EntryPayload::Normal(EncodedBatch(bytes.into()));
    codec::entry_to_raw(&Entry { log_id: codec::log_id(at), payload }).map_err(ConsensusError::Stored)
}

/// A hive whose first command is refused would be one that nobody can use, so it is tried on an empty state before.
fn try_founding(batch: &Batch) -> Result<(), ConsensusError> {
    let applied = State::new().apply(1, batch).map_err(|halt| ConsensusError::Rejected(halt.to_string()))?;
    match applied.replies.into_iter().next() {
        Some(Reply::Rejected { message, .. }) => Err(ConsensusError::Rejected(message)),
        Some(Reply::Done | Reply::Role { .. } | Reply::Assigned { .. } | Reply::Changed { .. }) | None => Ok(()),
    }
}

pub(super) fn new_raft_id() -> RaftId {
    // 0 is what an unset field would be.
    rand::random::<u64>().max(1)
}

/// The entry that makes a node the only voter.
pub(super) fn alone(peer_id: &PeerId, at: LogPoint, raft_id: RaftId) -> Result<RawEntry, ConsensusError> {
    let node = RaftNode { peer_id: peer_id.clone() };
    let membership = Membership::new(vec![[raft_id].into()], std::collections::BTreeMap::from([(raft_id, node)]))
        .map_err(|error| ConsensusError::Raft(error.to_string()))?;
    let entry = Entry { log_id: codec::log_id(at), payload: EntryPayload::Membership(membership) };
    codec::entry_to_raw(&entry).map_err(ConsensusError::Stored)
}

impl Consensus {
    async fn start_voter(&self, running: &mut Running) -> Result<bool, ConsensusError> {
        let core = Arc::clone(&self.inner.core);
        let Some((db, loaded)) = RaftDb::open(&core.options.directory, core.options.fatal.clone())? else {
            return Ok(false);
        };
        // openraft spawns on the runtime on which it is started.
        let starting = Arc::clone(&core);
        let (node, tasks) = core
            .spawn("raft-start", async move { start_raft(&starting, db, loaded).await })
            .await
            .map_err(|_| ConsensusError::Ended)??;
        core.set_node(Some(node));
        running.raft = Some(tasks);
        core.refresh_status();
        Ok(true)
    }

    async fn stop_voter(&self, running: &mut Running) {
        running.raft = None;
        if let Some(node) = self.inner.core.set_node(None) {
            if let Err(error) = node.raft.shutdown().await {
                tracing::warn!(%error, "Raft ended badly");
            }
            node.log.close().await;
        }
    }

    fn start_services(&self, running: &mut Running, hive_id: HiveId, epoch: Epoch) -> Result<(), ConsensusError> {
        if running.services.as_ref().is_none_or(|(served, _)| *served != (hive_id, epoch)) {
            running.services = None;
            let tasks = serve_members(&self.inner.core, hive_id, epoch)?;
            running.services = Some(((hive_id, epoch), tasks));
        }
        Ok(())
    }

    fn start_observer(&self, running: &mut Running, hive_id: HiveId, epoch: Epoch, sources: Vec<PeerId>) {
        let core = &self.inner.core;
        let mut tasks = Tasks::default();
        tasks.add(core.spawn("observer", observe::run(Arc::clone(core), hive_id, epoch, sources)));
        core.observing.store(true, Ordering::Relaxed);
        running.observer = Some(tasks);
        core.refresh_status();
    }

    /// Stops observing once a leader has spoken to this standby.
    fn observe_until_heard(&self, running: &mut Running) {
        let core = &self.inner.core;
        let consensus = Arc::downgrade(&self.inner);
        let (Some(node), Some(tasks)) = (core.node(), running.raft.as_mut()) else { return };
        let mut heard = node.heard.clone();
        tasks.add(core.spawn("standby-heard", async move {
            if heard.wait_for(|heard| heard.at_ms != 0).await.is_ok()
                && let Some(inner) = consensus.upgrade()
            {
                let consensus = Self { inner };
                let mut running = consensus.inner.running.lock().await;
                consensus.stop_observer(&mut running);
            }
        }));
    }

    fn stop_observer(&self, running: &mut Running) {
        running.observer = None;
        self.inner.core.observing.store(false, Ordering::Relaxed);
    }

    /// A first entry that this node writes into a new log by itself.
    fn first_batch(&self, command: &Command) -> Batch {
        let identity = &self.inner.core.identity;
        let sequence = self.inner.core.proposals.take_number();
        let origin = Origin { peer_id: identity.peer_id.clone(), incarnation: identity.incarnation, sequence };
        let proposals = vec![Proposal::new(origin, command)];
        Batch { version: ENVELOPE_VERSION, elapsed_ms: 0, at: clock::unix_now(), proposals }
    }

    fn alone(&self, at: LogPoint, raft_id: RaftId) -> Result<RawEntry, ConsensusError> {
        alone(&self.inner.core.identity.peer_id, at, raft_id)
    }

    /// Starts Raft as the only voter of a log that was just made, and waits until `index` is applied.
    async fn lead_alone(&self, running: &mut Running, index: u64) -> Result<(), ConsensusError> {
        if !self.start_voter(running).await? {
            return Err(ConsensusError::Ended);
        }
        if let Some(node) = self.inner.core.node() {
            node.raft.trigger().elect(false).await.map_err(|error| ConsensusError::Raft(error.to_string()))?;
        }
        let mut replica = self.inner.core.replica.watch();
        let applied = replica.wait_for(|status| status.applied.is_some_and(|at| at.index >= index));
        tokio::time::timeout(FOUNDING_TIMEOUT, applied)
            .await
            .map_err(|_| ConsensusError::TimedOut)?
            .map_err(|_| ConsensusError::Ended)?;
        self.inner.core.refresh_status();
        Ok(())
    }

    /// Creates a hive with this node as its first member, only voter and leader. Raft id, membership and the first command
    /// reach the disk in one step.
    pub async fn found(&self, hive_id: HiveId, epoch: Epoch, founder: MemberInfo) -> Result<(), ConsensusError> {
        let mut running = self.inner.running.lock().await;
        let core = &self.inner.core;
        if let Some((hive_id, _)) = core.replica.status().hive {
            return Err(ConsensusError::Member(hive_id));
        }
        let directory = &core.options.directory;
        let raft_id = new_raft_id();
        let found = self.first_batch(&Command::Found { hive_id, epoch, founder });
        try_founding(&found)?;
        let genesis = Genesis {
            meta: RaftMeta { raft_id, hive_id, epoch, binding: Binding::of(directory)? },
            entries: vec![
                self.alone(LogPoint { term: 0, index: 0 }, raft_id)?,
                first_entry(LogPoint { term: 0, index: 1 }, &found)?,
            ],
            purged: None,
            vote: None,
        };
        RaftDb::create(directory, &genesis)?;
        core.replica.belong(hive_id, epoch).await?;
        self.start_services(&mut running, hive_id, epoch)?;
        self.lead_alone(&mut running, 1).await
    }

    /// Follows a hive. State of another hive or epoch is set aside first; nothing is overwritten. Also called again when new
    /// sources are known.
    pub async fn join_as_observer(
        &self,
        hive_id: HiveId,
        epoch: Epoch,
        sources: Vec<PeerId>,
    ) -> Result<(), ConsensusError> {
        let mut running = self.inner.running.lock().await;
        let core = &self.inner.core;
        self.stop_observer(&mut running);
        let current = core.replica.status().hive;
        if current != Some((hive_id, epoch)) {
            self.stop_voter(&mut running).await;
            running.services = None;
            set_aside(&core.options.directory, raft_db::FILE)?;
            if current.is_some() {
                core.replica.start_over().await?;
            }
            core.replica.belong(hive_id, epoch).await?;
        } else if core.node().is_some() {
            // A voter or standby of this very history follows by Raft.
            return Ok(());
        }
        self.start_services(&mut running, hive_id, epoch)?;
        self.start_observer(&mut running, hive_id, epoch, sources);
        Ok(())
    }

    /// Goes on after a restart: as voter or standby when `raft.db` says so, else as observer, asking `sources` besides those it
    /// knows. Returns the hive and epoch.
    pub async fn resume(&self, sources: Vec<PeerId>) -> Result<(HiveId, Epoch), ConsensusError> {
        let mut running = self.inner.running.lock().await;
        let (hive_id, epoch) = self.inner.core.replica.status().hive.ok_or(ConsensusError::NoHive)?;
        self.start_services(&mut running, hive_id, epoch)?;
        if !self.start_voter(&mut running).await? {
            self.start_observer(&mut running, hive_id, epoch, sources);
        } else if self.inner.core.node().is_some_and(|node| node.log.is_untouched()) {
            // It was to become a standby, and no leader has spoken to it yet; perhaps none ever will.
            self.start_observer(&mut running, hive_id, epoch, sources);
            self.observe_until_heard(&mut running);
        }
        Ok((hive_id, epoch))
    }

    /// Makes this observer ready to become standby: a new Raft directory with a new id, over the state that it has. It goes on
    /// observing until the leader speaks to it. Returns the id for [`add_standby`](Self::add_standby); called again, the same.
    pub async fn prepare_replica(&self) -> Result<u64, ConsensusError> {
        let mut running = self.inner.running.lock().await;
        let core = Arc::clone(&self.inner.core);
        if let Some(node) = core.node() {
            return Ok(node.id);
        }
        let (hive_id, epoch) = core.replica.status().hive.ok_or(ConsensusError::NoHive)?;
        let directory = &core.options.directory;
        set_aside(directory, raft_db::FILE)?;
        // The new log begins behind the state, so the state may not go back any more.
        let purged = core.replica.applied();
        core.replica.barrier().await?;
        let raft_id = new_raft_id();
        let meta = RaftMeta { raft_id, hive_id, epoch, binding: Binding::of(directory)? };
        RaftDb::create(directory, &Genesis { meta, entries: Vec::new(), purged, vote: None })?;
        self.start_voter(&mut running).await?;
        self.observe_until_heard(&mut running);
        Ok(raft_id)
    }

    /// Back from voter or standby to observer. The leader must have taken it out of the membership before. Its Raft directory
    /// is set aside, and its id is never used again.
    pub async fn retire_replica(&self) -> Result<(), ConsensusError> {
        let mut running = self.inner.running.lock().await;
        let core = &self.inner.core;
        let (hive_id, epoch) = core.replica.status().hive.ok_or(ConsensusError::NoHive)?;
        self.stop_observer(&mut running);
        self.stop_voter(&mut running).await;
        set_aside(&core.options.directory, raft_db::FILE)?;
        self.start_observer(&mut running, hive_id, epoch, Vec::new());
        Ok(())
    }

    /// The state here is not that of the others: log and state are set aside, and it follows them anew as an observer. Whoever leads
    /// sees that the Raft id is held by nobody any more, and gives the part to another node or to this one under another id.
    pub(super) async fn begin_anew(&self) -> Result<(), ConsensusError> {
        let mut running = self.inner.running.lock().await;
        let core = &self.inner.core;
        let status = core.replica.status();
        let (hive_id, epoch) = status.hive.ok_or(ConsensusError::NoHive)?;
        let sources = status.voters.into_iter().chain(status.standbys).map(|member| member.peer_id).collect();
        self.stop_observer(&mut running);
        self.stop_voter(&mut running).await;
        set_aside(&core.options.directory, raft_db::FILE)?;
        core.replica.start_over().await?;
        core.replica.belong(hive_id, epoch).await?;
        self.start_observer(&mut running, hive_id, epoch, sources);
        Ok(())
    }

    /// Forgets a hive of which this node never got any state: nobody answers, and it is free for another.
    pub async fn abandon_join(&self) -> Result<(), ConsensusError> {
        let mut running = self.inner.running.lock().await;
        let core = &self.inner.core;
        if let Some((hive_id, _)) = core.replica.status().hive
            && core.replica.applied().is_some()
        {
            return Err(ConsensusError::Member(hive_id));
        }
        self.stop_observer(&mut running);
        self.stop_voter(&mut running).await;
        running.services = None;
        set_aside(&core.options.directory, raft_db::FILE)?;
        core.replica.start_over().await?;
        core.refresh_status();
        Ok(())
    }

    /// What this replica would bring to a recovery. None before it has any state.
    pub fn local_claim(&self) -> Option<Claim> {
        let status = self.inner.core.replica.status();
        let ((_, epoch), at) = (status.hive?, status.applied?);
        Some(Claim { epoch, term: at.term, index: at.index, chain: status.chain })
    }

    /// `hive recover`: this replica becomes the only voter of a new epoch that goes on from its state. The old log is set aside.
    /// Whatever the old majority had committed beyond this state is lost, so ask all replicas for their claims first.
    pub async fn begin_new_epoch(&self, epoch: Epoch) -> Result<(), ConsensusError> {
        let mut running = self.inner.running.lock().await;
        let core = &self.inner.core;
        let (hive_id, current) = core.replica.status().hive.ok_or(ConsensusError::NoHive)?;
        if epoch.counter <= current.counter {
            return Err(ConsensusError::OldEpoch { current, asked: epoch });
        }
        self.stop_observer(&mut running);
        self.stop_voter(&mut running).await;
        running.services = None;
        let directory = &core.options.directory;
        core.replica.barrier().await?;
        let applied = core.replica.applied().ok_or(ConsensusError::NoHive)?;
        let raft_id = new_raft_id();
        let begin = self.first_batch(&Command::BeginEpoch { epoch });
        let next = |step: u64| LogPoint { term: applied.term + 1, index: applied.index + step };
        let genesis = Genesis {
            meta: RaftMeta { raft_id, hive_id, epoch, binding: Binding::of(directory)? },
            entries: vec![self.alone(next(1), raft_id)?, first_entry(next(2), &begin)?],
            purged: Some(applied),
            vote: Some(codec::vote_to_bytes(&Vote::new(applied.term + 1, raft_id)).map_err(ConsensusError::Stored)?),
        };
        set_aside(directory, raft_db::FILE)?;
        RaftDb::create(directory, &genesis)?;
        core.replica.belong(hive_id, epoch).await?;
        self.start_services(&mut running, hive_id, epoch)?;
        self.lead_alone(&mut running, applied.index + 2).await
    }
}
