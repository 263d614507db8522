//! What all tasks of the consensus share on one node.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures::FutureExt as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Config, SnapshotPolicy};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::log::{LogStore, PurgeGuard};
use super::machine::Machine;
use super::network::Network;
use super::propose::{self, Proposals};
use super::protocol::Protocol;
use super::replica::Replica;
use super::server::{Heard, RaftServer};
use super::status::{ConsensusStatus, Leadership, Tip, status_of};
use super::types::{Raft, RaftId};
use super::{ConsensusError, Identity, Options, feed};
use crate::engine::id::{Epoch, HiveId, PeerId};
use crate::store::raft_db::{Loaded, RaftDb};
use crate::store::space::SpaceGuard;
use crate::transport::calls::{Callers, Link, Newest, serve};
use crate::transport::{Incoming, RAFT_FRAME_MAX};

/// How often the status is put together anew when nothing calls for it: silence is an event, too, and nobody tells it.
const STATUS_INTERVAL: Duration = Duration::from_millis(250);
/// Streams of one peer for Raft calls, proposals or snapshots: one, and another while the first breaks.
const CALL_STREAMS_MAX: usize = 2;
/// Streams of one peer for the log: it follows, and compares.
const LOG_STREAMS_MAX: usize = 8;
/// And at most this often, whatever happens: under load every entry is a change.
const STATUS_PAUSE: Duration = Duration::from_millis(50);

/// A running Raft directory.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) id: RaftId,
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) heard: watch::Receiver<Heard>,
}

/// Tasks that end when this is dropped.
#[derive(Default)]
pub(crate) struct Tasks(Vec<JoinHandle<()>>);

impl Tasks {
    pub(crate) fn add(&mut self, task: JoinHandle<()>) {
        self.0.push(task);
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Shared by everything.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) identity: Identity,
    pub(crate) link: Link,
    pub(crate) runtime: Handle,
    pub(crate) replica: Replica,
    pub(crate) space: SpaceGuard,
    pub(crate) tip: watch::Sender<Tip>,
    pub(crate) status: watch::Sender<ConsensusStatus>,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) proposals: Proposals,
    pub(crate) observing: AtomicBool,
    pub(crate) observers: Arc<tokio::sync::Semaphore>,
    node: RwLock<Option<Node>>,
}

impl Core {
    pub(crate) fn new(
        options: Options,
        identity: Identity,
        link: Link,
        runtime: Handle,
        replica: Replica,
        space: SpaceGuard,
        proposals: Proposals,
    ) -> Self {
        let observers = Arc::new(tokio::sync::Semaphore::new(options.observers_max));
        Self {
            options,
            identity,
            link,
            runtime,
            replica,
            space,
            tip: watch::Sender::new(Tip::default()),
            status: watch::Sender::new(ConsensusStatus::default()),
            leadership: watch::Sender::new(Leadership::default()),
            proposals,
            observing: AtomicBool::new(false),
            observers,
            node: RwLock::new(None),
        }
    }

    /// The running Raft directory, if this node is voter or standby.
    pub(crate) fn node(&self) -> Option<Node> {
        self.node.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_node(&self, node: Option<Node>) -> Option<Node> {
        let mut current = self.node.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, node)
    }

    pub(crate) fn is_observing(&self) -> bool {
        self.observing.load(Ordering::Relaxed)
    }

    /// Spawns on the consensus thread.
    pub(crate) fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.runtime.spawn(future.instrument(tracing::debug_span!("task", name)))
    }

    /// Puts the status together and tells whoever watches, if it changed.
    pub(crate) fn refresh_status(&self) {
        let status = status_of(self);
        let leadership = Leadership::from(&status);
        self.leadership.send_if_modified(|current| {
            let changed = *current != leadership;
            *current = leadership;
            changed
        });
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
    }
}

/// Keeps the status current until `core` is gone.
pub(crate) async fn keep_status(core: Arc<Core>) {
    let mut replica = core.replica.watch();
    let mut tip = core.tip.subscribe();
    loop {
        core.refresh_status();
        let earliest = tokio::time::Instant::now() + STATUS_PAUSE;
        tokio::select! {
            _ = replica.changed() => {}
            _ = tip.changed() => {}
            () = tokio::time::sleep(STATUS_INTERVAL) => {}
        }
        tokio::time::sleep_until(earliest).await;
    }
}

fn raft_config(options: &Options, cluster_name: String) -> Result<Config, ConsensusError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let lease = millis(options.election_max);
    let config = Config {
        cluster_name,
        heartbeat_interval: millis(options.heartbeat),
        election_timeout_min: millis(options.election_min),
        election_timeout_max: lease,
        heartbeat_min_interval: Some(0),
        // The transfer itself is bounded by progress; this is only what openraft passes to the network.
        install_snapshot_timeout: 60_000,
        max_payload_entries: options.entries_per_append,
        replication_lag_threshold: options.log_kept,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.log_kept / 2),
        max_in_snapshot_log_to_keep: options.log_kept,
        purge_batch_size: 256,
        quorum_loss_probe_interval: Some(2 * lease),
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        ..Config::default()
    };
    config.validate().map_err(|error| ConsensusError::Config(error.to_string()))
}

/// Starts Raft on an opened directory and serves its peers. The tasks end with what is returned second.
pub(crate) async fn start_raft(core: &Arc<Core>, db: RaftDb, loaded: Loaded) -> Result<(Node, Tasks), ConsensusError> {
    let meta = loaded.meta.clone();
    let protocol = |protocol: Protocol| protocol.name(meta.hive_id, meta.epoch);
    let config = raft_config(&core.options, protocol(Protocol::Raft))?;
    let replica = core.replica.clone();
    let guard: PurgeGuard = Arc::new(move |upto| {
        let replica = replica.clone();
        async move {
            replica.barrier().await?;
            replica.outgrow(upto);
            Ok(())
        }
        .boxed()
    });
    let log = LogStore::new(db, &loaded, Some(guard)).map_err(ConsensusError::Stored)?;
    let metrics = Arc::new(OnceLock::new());
    let network = Network {
        own: meta.raft_id,
        metrics: Arc::clone(&metrics),
        callers: Callers::new(core.link.clone(), protocol(Protocol::Raft)),
        link: core.link.clone(),
        snapshot_protocol: protocol(Protocol::Snapshot),
    };
    let machine = Machine::new(core.replica.clone());
    let raft = Raft::new(meta.raft_id, Arc::new(config), network, log.clone(), machine)
        .await
        .map_err(|error| ConsensusError::Raft(error.to_string()))?;
    // Its metrics only: the network is part of Raft, and would keep it alive.
    metrics.set(raft.metrics()).ok();
    let (heard_tx, heard) = watch::channel(Heard::default());
    let server = RaftServer {
        own: meta.raft_id,
        raft: raft.clone(),
        replica: core.replica.clone(),
        space: core.space.clone(),
        heard: heard_tx,
        pins: Arc::new(Mutex::new(BTreeMap::new())),
    };
    let mut tasks = Tasks::default();
    let calls = core.link.accept(&protocol(Protocol::Raft)).map_err(ConsensusError::Transport)?;
    let answerer = server.clone();
    tasks.add(core.spawn("raft-accept", async move {
        accept_each(calls, CALL_STREAMS_MAX, move |incoming| {
            let server = answerer.clone();
            serve(incoming, RAFT_FRAME_MAX, move |peer, body| server.clone().answer(peer, body))
        })
        .await;
    }));
    // Elections are told at once; how far the others have come changes with every heartbeat and is looked at from time to time.
    let (mut servers, telling) = (raft.server_metrics(), Arc::clone(core));
    tasks.add(core.spawn("raft-status", async move {
        while servers.changed().await.is_ok() {
            telling.refresh_status();
        }
    }));
    let snapshots = core.link.accept(&protocol(Protocol::Snapshot)).map_err(ConsensusError::Transport)?;
    tasks.add(core.spawn("snapshot-accept", async move {
        accept_each(snapshots, CALL_STREAMS_MAX, move |incoming| server.clone().take_snapshot(incoming)).await;
    }));
    Ok((Node { id: meta.raft_id, raft, log, heard }, tasks))
}

/// Serves observers and proposals of this hive and epoch, in whatever role this node is.
pub(crate) fn serve_members(core: &Arc<Core>, hive_id: HiveId, epoch: Epoch) -> Result<Tasks, ConsensusError> {
    let mut tasks = Tasks::default();
    let log = core.link.accept(&Protocol::Log.name(hive_id, epoch)).map_err(ConsensusError::Transport)?;
    let serving = Arc::clone(core);
    tasks.add(core.spawn("log-accept", async move {
        accept_each(log, LOG_STREAMS_MAX, move |incoming| feed::serve_observer(Arc::clone(&serving), incoming)).await;
    }));
    let proposals = core.link.accept(&Protocol::Propose.name(hive_id, epoch)).map_err(ConsensusError::Transport)?;
    let serving = Arc::clone(core);
    tasks.add(core.spawn("propose-accept", async move {
        accept_each(proposals, CALL_STREAMS_MAX, move |incoming: Incoming| {
            let core = Arc::clone(&serving);
            serve(incoming, RAFT_FRAME_MAX, move |peer: PeerId, body| propose::answer(Arc::clone(&core), peer, body))
        })
        .await;
    }));
    Ok(tasks)
}

/// Runs `each` for every stream, the newest few of each peer; those under way end with the accepting task.
async fn accept_each<F>(
    mut streams: tokio::sync::mpsc::Receiver<Incoming>,
    per_peer_max: usize,
    each: impl Fn(Incoming) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut running = tokio::task::JoinSet::new();
    let mut open = Newest::new(per_peer_max);
    loop {
        tokio::select! {
            incoming = streams.recv() => match incoming {
                Some(incoming) => open.add(incoming.peer.clone(), running.spawn(each(incoming))),
                None => return,
            },
            Some(ended) = running.join_next(), if !running.is_empty() => drop(ended),
        }
    }
}
