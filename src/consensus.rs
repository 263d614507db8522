//! Agreement: one log of commands for the hive, on voters and standbys by Raft, on everyone else by following them.
//!
//! ```text
//!   propose ──► batcher (leader) ──► Raft ──► log (raft.db) ──► Replica ──► State, hive.db
//!      │                               ▲                           ▲
//!      └── forwarded to the leader     └── voters, standbys        └── observers: the committed log, over a stream
//! ```
//!
//! [`Consensus`] is the handle that the agent holds. Raft and everything beside it run on a thread of their own (`hive-raft`),
//! each database on another. openraft is not seen outside of this module. Never done here: deciding who should be a voter, when
//! to found or to recover, and what commands mean.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{oneshot, watch};

use crate::engine::command::{Command, Reply};
use crate::engine::id::{Epoch, HiveId, PeerId};
use crate::store::outbox::{Outbox, Record};
use crate::store::space::SpaceGuard;
use crate::store::{FatalHook, StoreError};
use crate::tasks;
use crate::transport::Transport;
use crate::transport::calls::Link;

mod audit;
pub mod backup;
pub mod changes;
pub mod check;
mod codec;
mod core;
pub mod events;
mod feed;
mod lifecycle;
mod log;
mod machine;
mod network;
mod observe;
mod propose;
mod protocol;
pub mod replica;
mod server;
pub mod status;
pub mod touched;
mod transfer;
mod types;
mod voters;

use self::core::{Core, Tasks};
pub use self::lifecycle::Claim;
pub use self::replica::{RaftMember, Replica, ReplicaStatus};
pub use self::status::{ConsensusStatus, Leadership, ReplicaProgress, Role};
pub use self::voters::LeaderToken;

/// Settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// State directory; holds `raft.db`, `hive.db`, `outbox.db` and `snapshots/`.
    pub directory: PathBuf,
    /// How often a leader says that it lives. Must exceed the round trip.
    pub heartbeat: Duration,
    /// Shortest wait before an election; several heartbeats.
    pub election_min: Duration,
    /// Longest wait before an election; also the leader's lease.
    pub election_max: Duration,
    /// Most entries in one message to a follower (its bytes are bounded besides).
    pub entries_per_append: u64,
    /// Entries that the log keeps behind the state, for followers and observers that were away.
    pub log_kept: u64,
    /// Observers that this node serves at once.
    pub observers_max: usize,
    /// What happens when a device fails.
    pub fatal: FatalHook,
    /// Free space, when somebody else watches it; else it is measured here.
    pub space: Option<SpaceGuard>,
}

impl Options {
    /// The defaults for a local network, with `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(900),
            entries_per_append: 256,
            log_kept: 10_000,
            observers_max: 64,
            fatal: FatalHook::exit(),
            space: None,
        }
    }
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its public identity.
    pub peer_id: PeerId,
    /// Raised and on disk since this start; see [`crate::store::incarnation`].
    pub incarnation: u64,
}

/// Why a proposal has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader with a quorum answered in time. Nothing was acknowledged.
    #[error("no quorum answered in time")]
    NoQuorum {
        /// It was sent to somebody, and may still take effect.
        unknown: bool,
    },
    /// A command is too long; nothing was sent.
    #[error("the command has {bytes} bytes, at most {} are allowed", crate::engine::command::COMMAND_MAX_BYTES)]
    TooLarge {
        /// Its encoded length.
        bytes: usize,
    },
    /// This node or the leader is short of disk space; nothing was changed.
    #[error("there is too little free disk space to accept changes; they are accepted again once there is more")]
    DiskLow,
    /// The leader does not take it; nothing was changed.
    #[error("the leader refused: {0}")]
    Refused(String),
}

/// Why something else could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// A database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored cannot be read.
    #[error("the stored log cannot be read")]
    Stored(#[source] io::Error),
    /// A protocol cannot be served.
    #[error("a protocol cannot be served")]
    Transport(#[source] io::Error),
    /// The thread could not be started.
    #[error("the consensus thread could not be started")]
    Thread(#[source] io::Error),
    /// The settings contradict each other.
    #[error("the settings of the consensus contradict each other: {0}")]
    Config(String),
    /// Raft refused or has stopped.
    #[error("Raft: {0}")]
    Raft(String),
    /// The node belongs to a hive already; nothing was changed.
    #[error("this node belongs to hive {0} already")]
    Member(HiveId),
    /// The first command of a hive would be refused; nothing was changed.
    #[error("the hive cannot be founded: {0}")]
    Rejected(String),
    /// The node belongs to no hive; nothing was changed.
    #[error("this node belongs to no hive")]
    NoHive,
    /// Only the leader can do it; nothing was changed.
    #[error("this node does not lead")]
    NotLeader,
    /// There is no room on the disk for a copy; nothing was changed.
    #[error("a copy of {needed_bytes} bytes is too much for the disk, which has {free_bytes} bytes free")]
    NoRoom {
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes free.
        free_bytes: u64,
    },
    /// It was not done in time; it may still take effect.
    #[error("it took too long")]
    TimedOut,
    /// The number of voters would be even: that only adds a node whose loss stops the hive.
    #[error("{0} voters were asked for; their number must be odd")]
    EvenVoters(usize),
    /// The new epoch must follow the old one.
    #[error("epoch {asked} does not follow epoch {current}")]
    OldEpoch {
        /// The current epoch.
        current: Epoch,
        /// What was asked for.
        asked: Epoch,
    },
    /// The handle was shut down.
    #[error("the consensus has ended")]
    Ended,
}

/// What runs in the current role; ends when dropped.
#[derive(Default)]
struct Running {
    services: Option<((HiveId, Epoch), Tasks)>,
    raft: Option<Tasks>,
    observer: Option<Tasks>,
}

struct Inner {
    core: Arc<Core>,
    outbox: Outbox,
    running: tokio::sync::Mutex<Running>,
    background: Mutex<Tasks>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
}

/// The handle. Cheap to clone; everything ends with the last one.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

impl Consensus {
    /// Opens the databases, loads the state and starts the thread. Takes no part in anything before [`found`](Self::found),
    /// [`join_as_observer`](Self::join_as_observer) or [`resume`](Self::resume).
    pub async fn open(options: Options, transport: impl Transport, identity: Identity) -> Result<Self, ConsensusError> {
        std::fs::create_dir_all(&options.directory)
            .map_err(|error| StoreError::io("create", &options.directory, error))?;
        let (stop, stopped) = oneshot::channel();
        let (handle_tx, handle_rx) = oneshot::channel();
        tasks::spawn_thread("hive-raft", move || async move {
            let _ = handle_tx.send(tokio::runtime::Handle::current());
            // Ends when told to, and when the last handle is gone.
            let _ = stopped.await;
        })
        .map_err(ConsensusError::Thread)?;
        let runtime = handle_rx.await.map_err(|_| ConsensusError::Ended)?;
        let replica = Replica::open(&options.directory, options.fatal.clone())?;
        let outbox = Outbox::open(&options.directory, options.fatal.clone())?;
        let space = match options.space.clone() {
            Some(space) => space,
            None => {
                let _on_its_thread = runtime.enter();
                SpaceGuard::start(&options.directory)?
            }
        };
        let (proposals, batcher) = propose::channel();
        let link = Link::new(transport);
        let core = Arc::new(Core::new(options, identity, link, runtime, replica, space, proposals));
        lifecycle::reconcile(&core).await?;
        let mut background = Tasks::default();
        background.add(core.spawn("consensus-status", self::core::keep_status(Arc::clone(&core))));
        background.add(core.spawn("batcher", propose::run_batcher(Arc::clone(&core), batcher)));
        background.add(core.spawn("finish-joint", voters::finish_joint(Arc::clone(&core))));
        let inner = Inner {
            core: Arc::clone(&core),
            outbox,
            running: tokio::sync::Mutex::default(),
            background: Mutex::new(background),
            stop: Mutex::new(Some(stop)),
        };
        let consensus = Self { inner: Arc::new(inner) };
        let inner = Arc::downgrade(&consensus.inner);
        let diverged = move || {
            let inner = inner.clone();
            async move {
                let Some(inner) = inner.upgrade() else { return };
                if let Err(error) = (Self { inner }).begin_anew().await {
                    tracing::error!(%error, "the state could not be set aside");
                }
            }
            .boxed()
        };
        let audit = core.spawn("audit", audit::run(Arc::clone(&core), diverged));
        consensus.inner.background.lock().unwrap_or_else(PoisonError::into_inner).add(audit);
        Ok(consensus)
    }

    /// The node's copy of the state.
    pub fn replica(&self) -> &Replica {
        &self.inner.core.replica
    }

    /// Everything that is known about the agreement, now.
    pub fn status(&self) -> ConsensusStatus {
        status::status_of(&self.inner.core)
    }

    /// To be told when it changes: of entries and elections within 50 ms, of silence and progress within 250 ms.
    pub fn watch_status(&self) -> watch::Receiver<ConsensusStatus> {
        self.inner.core.status.subscribe()
    }

    /// To be told who leads, at once.
    pub fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.core.leadership.subscribe()
    }

    /// Free space as this node judges it.
    pub fn space(&self) -> &SpaceGuard {
        &self.inner.core.space
    }

    /// Proposes commands from anywhere, in order, and returns one reply for each once they are committed and applied by the
    /// leader. Repeats under the same number until `deadline` has passed, so that each takes effect at most once.
    pub async fn propose(&self, commands: Vec<Command>, deadline: Duration) -> Result<Vec<Reply>, ProposeError> {
        propose::propose(&self.inner.core, commands, deadline).await
    }

    /// Stores a result that waits for a quorum; durable when this returns. False when too many wait already.
    pub async fn outbox_put(&self, key: String, value: Vec<u8>) -> Result<bool, ConsensusError> {
        Ok(self.inner.outbox.put(key, value).await?)
    }

    /// The oldest results that wait, at most `limit`.
    pub async fn outbox_list(&self, limit: u32) -> Result<Vec<Record>, ConsensusError> {
        Ok(self.inner.outbox.list(limit).await?)
    }

    /// Forgets a result that was delivered.
    pub async fn outbox_done(&self, key: String) -> Result<(), ConsensusError> {
        Ok(self.inner.outbox.done(key).await?)
    }

    /// Hands leadership over if this node leads, ends everything and closes the databases, within about a second.
    pub async fn shutdown(&self) {
        let handed_over = self.transfer_leadership(None, Duration::from_millis(400)).await;
        if let Err(error) = handed_over {
            tracing::debug!(%error, "leadership was not handed over before the end");
        }
        // Whoever holds the lock may wait for an election; the end does not.
        let running = tokio::time::timeout(Duration::from_millis(200), self.inner.running.lock()).await;
        let raft = self.inner.core.set_node(None);
        if let Ok(mut running) = running {
            *running = Running::default();
        }
        *self.inner.background.lock().unwrap_or_else(PoisonError::into_inner) = Tasks::default();
        if let Some(node) = raft {
            if tokio::time::timeout(Duration::from_millis(300), node.raft.shutdown()).await.is_err() {
                tracing::warn!("Raft did not end in time");
            }
            node.log.close().await;
        }
        self.inner.core.replica.close().await;
        self.inner.outbox.close().await;
        drop(self.inner.stop.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

#[cfg(test)]
mod fuzz;
