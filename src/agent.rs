//! The composition root and the only event loop of a node.
//!
//! ```text
//!   discovery ─┐                         ┌─► joining       seek, found, join, other hives
//!   mesh      ─┤                         ├─► asking        ballots, claims, identity.json
//!   exec      ─┼─► Event ─► Agent::on ───┼─► peers         liveness, addresses, statuses
//!   tasks     ─┤      timer ─► tick ─────┼─► coordinating  planners, while this node leads
//!   web, RPC  ─┘                         └─► drone         what is assigned to this node
//! ```
//!
//! The loop waits for one event, handles it, then does what is due. It never waits for the network: whatever takes time runs
//! in a task that sends an event back. So soft state has one writer, and every reaction can be read in one place.
//! The cost is that a sequence over the network is a small state machine. Never done here: deciding (that is `engine`) and
//! printing (that is `cli`).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};

mod advising;
mod asking;
mod audit;
mod backing_up;
mod blobs;
mod browser;
mod browsing;
mod catching_up;
mod certificates;
mod condition;
mod console;
mod control;
mod controlling;
mod coordinating;
mod data_api;
mod definitions;
mod drafts;
mod drone;
mod epochs;
mod events;
mod expanding;
mod files;
mod fleet;
mod history;
mod importing;
mod joining;
mod keys;
mod legacy;
mod live;
mod logging;
mod logs;
mod metrics;
mod node_api;
mod packages;
mod past;
mod peers;
mod preparing;
mod recovering;
mod refused;
mod serving;
mod sessions;
mod shared;
mod sql;
mod staging;
mod startup;
pub(crate) mod state_dir;
mod submitting;
mod syncing;
mod views;
mod vitals;
mod voters;
mod web_settings;
mod wire;

pub use preparing::{Prepared, check, prepare};
pub(crate) use startup::exec_options;
pub use startup::{Ended, run};

use self::asking::Asking;
use self::coordinating::Coordinating;
use self::drafts::Drafts;
use self::drone::Drone;
use self::expanding::Expanding;
use self::joining::Joining;
use self::peers::Peers;
use self::shared::Shared;
use crate::api::{ApiError, ApiResult, ErrorCode, Identity, MemberState};
use crate::clock::now_ms;
use crate::consensus::ProposeError;
use crate::discovery::DiscoveryEvent;
use crate::engine::ballot::AdviceMsg;
use crate::engine::beacon::BeaconState;
use crate::engine::command::{Command, RejectCode, Reply};
use crate::engine::founding::SeekersDigest;
use crate::engine::id::{PeerId, Token};
use crate::engine::member::Inventory;
use crate::engine::scheduler::LeaseAnswer;
use crate::exec::build::Event as BuildEvent;
use crate::mesh;
use crate::tasks;

/// Events of tasks that may wait for the loop: a boot storm's worth. Tasks wait when it is full, the loop never does.
const EVENTS_MAX: usize = 1_024;
/// The loop looks at everything at least so often while something is under way: a search for the hive, a ballot, builds, a queue.
const TICK: Duration = Duration::from_millis(100);
/// And so often while nothing is. What happens is an event and waits for no tick.
const IDLE_TICK: Duration = Duration::from_millis(500);

/// Looking at everything again because the state has moved pauses for so long: a busy hive commits hundreds of entries a second, and one
/// look serves many of them.
const APPLIED_PAUSE: Duration = Duration::from_millis(5);

/// What happened, from inside the agent.
#[derive(Debug)]
pub enum Event {
    /// A seeker's HELLO came over the mesh.
    MeshHello {
        /// Who.
        from: PeerId,
        /// Of the seekers it sees.
        digest: SeekersDigest,
        /// It is about to found.
        announces: bool,
    },
    /// An advisor answered (or will not).
    Advice {
        /// Who.
        from: PeerId,
        /// The advice.
        advice: Option<Box<AdviceMsg>>,
    },
    /// A claim was answered.
    Claimed {
        /// Its ballot.
        ballot: String,
        /// The answer.
        reply: ApiResult<Reply>,
    },
    /// A package run ended.
    Packages {
        /// For this role.
        role: String,
        /// `packages_state`.
        state: String,
    },
    /// Somebody at this machine wants the hive to be asked again.
    ResetIdentity {
        /// Gets the new identity.
        reply: oneshot::Sender<ApiResult<Identity>>,
    },
    /// The coordinator wants this node to ask again.
    AskAgain {
        /// The claim that is to be replaced.
        generation: u64,
    },
    /// A plan's proposals were answered.
    Planned {
        /// The term of the plan.
        term: u64,
        /// They were committed.
        committed: bool,
    },
    /// A voter plan's steps ended.
    VotersChanged {
        /// The term of the plan.
        term: u64,
        /// How.
        done: voters::Done,
    },
    /// The coordinator answered about leases.
    Leased {
        /// What was asked, and whether it is still live; none: no answer.
        answer: Option<Vec<LeaseAnswer>>,
        /// When it was asked.
        sent_ms: u64,
    },
    /// The hive has answered whether an attempt may have effects.
    Begun {
        /// The attempt.
        token: Token,
        /// It is committed that it runs.
        permitted: bool,
    },
    /// A report was answered by the hive.
    Reported {
        /// The attempt.
        token: Token,
        /// It was taken or refused for good.
        settled: bool,
    },
    /// The machine was looked at more closely.
    Inventory(Box<Inventory>),
    /// The agent is to end.
    Stop,
}

/// Proposes one command and turns what can go wrong into what a person can read.
pub(crate) async fn propose(shared: &Shared, command: Command, deadline: Duration) -> ApiResult<Reply> {
    let mut replies = propose_all(shared, vec![command], deadline).await?;
    replies.pop().ok_or_else(|| {
        ApiError::new(ErrorCode::Internal, "a proposal was answered with nothing", "this is a bug; see the agent's log")
    })
}

/// Proposes several commands, in order.
pub(crate) async fn propose_all(shared: &Shared, commands: Vec<Command>, deadline: Duration) -> ApiResult<Vec<Reply>> {
    shared.consensus.propose(commands, deadline).await.map_err(|error| match &error {
        ProposeError::NoQuorum { unknown } => {
            let hint = if *unknown {
                "it may still take effect; asking again with the same id is safe. See hive status"
            } else {
                "see hive status: a majority of the voters must be alive"
            };
            ApiError::new(ErrorCode::NoQuorum, "no quorum: nothing was acknowledged", hint)
        }
        ProposeError::TooLarge { .. } => ApiError::new(ErrorCode::Invalid, error.to_string(), "split the request"),
        ProposeError::DiskLow => ApiError::new(ErrorCode::Degraded, error.to_string(), "free some disk space"),
        ProposeError::Refused(_) => ApiError::new(
            ErrorCode::Conflict,
            error.to_string(),
            "nothing was changed; see hive status, then try again",
        ),
    })
}

/// A refusal of apply as an error of the API.
fn accepted(reply: Reply) -> ApiResult<()> {
    let Reply::Rejected { code, message } = reply else { return Ok(()) };
    let (code, hint) = match code {
        RejectCode::NotFound => (ErrorCode::NotFound, "see: hive queue list"),
        RejectCode::Invalid => (ErrorCode::Invalid, "see: hive queue add --help"),
        RejectCode::Stale | RejectCode::Conflict => (ErrorCode::Conflict, "see what became of it: hive job show ID"),
        RejectCode::NoRoom => (ErrorCode::Conflict, "wait until jobs are over, or cancel some: hive queue list"),
        RejectCode::TooOld => (ErrorCode::Conflict, "nothing was changed; try again"),
    };
    Err(ApiError::new(code, message, hint))
}

/// Something that should not happen, or a device that failed.
fn internal(error: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::Internal, error.to_string(), "see the agent's log: journalctl -u hive -n 50")
}

/// The event loop's own state.
struct Agent {
    shared: Arc<Shared>,
    joining: Joining,
    asking: Asking,
    peers: Peers,
    coordinating: Coordinating,
    expanding: Expanding,
    drafts: Drafts,
    drone: Drone,
}

/// What the loop listens to.
struct Inputs {
    events: mpsc::Receiver<Event>,
    discovery: mpsc::Receiver<DiscoveryEvent>,
    mesh: mpsc::Receiver<mesh::Event>,
    builds: mpsc::Receiver<BuildEvent>,
}

impl Agent {
    fn new(shared: Arc<Shared>) -> anyhow::Result<Self> {
        let joining = Joining::new(&shared);
        let mut asking = Asking::default();
        asking.resume(&shared)?;
        Ok(Self {
            joining,
            asking,
            peers: Peers::default(),
            coordinating: Coordinating::new(),
            expanding: Expanding::default(),
            drafts: Drafts::default(),
            drone: Drone::new(),
            shared,
        })
    }

    /// Runs until told to stop. An error means that this node cannot keep its promises and must end.
    async fn run(mut self, mut inputs: Inputs) -> anyhow::Result<()> {
        let mut applied = self.shared.consensus.replica().watch();
        let mut leadership = self.shared.consensus.watch_leadership();
        let mut watchdog = startup::Watchdog::new();
        let mut earliest = tokio::time::Instant::now();
        loop {
            let pause = if self.is_idle() { IDLE_TICK } else { TICK };
            tokio::select! {
                event = inputs.events.recv() => match event {
                    Some(Event::Stop) | None => break,
                    Some(event) => self.on(event).await?,
                },
                Some(event) = inputs.discovery.recv() => self.on_discovery(event).await,
                event = inputs.mesh.recv() => match event {
                    Some(event) => self.on_mesh(event).await?,
                    None => anyhow::bail!("the mesh has ended"),
                },
                Some(event) = inputs.builds.recv() => self.drone.on_build(&self.shared.clone(), event).await?,
                _ = async {
                    tokio::time::sleep_until(earliest).await;
                    applied.changed().await
                } => {}
                _ = leadership.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
            self.tick().await?;
            earliest = tokio::time::Instant::now() + APPLIED_PAUSE;
            watchdog.pet(now_ms());
        }
        self.stop().await;
        Ok(())
    }

    /// Nothing is under way that needs more than a look now and then.
    fn is_idle(&self) -> bool {
        self.joining.is_member()
            && self.asking.is_settled(&self.shared)
            && self.drone.is_idle()
            && (!self.coordinating.leads() || coordinating::is_idle(&self.shared))
    }

    /// Does what is due; cheap when nothing is.
    async fn tick(&mut self) -> anyhow::Result<()> {
        let now_ms = now_ms();
        let shared = Arc::clone(&self.shared);
        let index = shared.read(|state| state.applied_index());
        shared.update(|soft| {
            if soft.applied.1 != index {
                soft.applied = (now_ms, index);
            }
        });
        if self.joining.tick(&shared, now_ms).await? {
            self.asking.founded(&shared)?;
        }
        if self.joining.take_changed_hive() {
            self.asking.forget(&shared)?;
        }
        self.asking.tick(&shared, now_ms)?;
        self.peers.tick(&shared, now_ms).await?;
        self.coordinating.tick(&shared, now_ms);
        self.expanding.tick(&shared, now_ms);
        self.drafts.tick(&shared, now_ms);
        legacy::sample(&shared, now_ms);
        self.drone.tick(&shared, now_ms).await
    }

    async fn on(&mut self, event: Event) -> anyhow::Result<()> {
        let shared = Arc::clone(&self.shared);
        match event {
            Event::MeshHello { from, digest, announces } => {
                self.joining.on_seeker(&from, digest, announces, now_ms());
                Ok(())
            }
            Event::Advice { from, advice } => self.asking.on_advice(&shared, &from, advice),
            Event::Claimed { ballot, reply } => self.asking.on_claimed(&shared, &ballot, reply),
            Event::Packages { role, state } => self.asking.on_packages(&shared, &role, state),
            Event::ResetIdentity { reply } => self.asking.ask_again(&shared, Some(reply)),
            Event::AskAgain { generation } => {
                let current = shared.read(|state| {
                    let me = state.member(&shared.me.peer_id);
                    me.and_then(|member| member.role.as_ref()).map_or(0, |claim| claim.generation)
                });
                if current == generation { self.asking.ask_again(&shared, None) } else { Ok(()) }
            }
            Event::Planned { term, committed } => {
                self.coordinating.on_planned(term, committed, now_ms());
                Ok(())
            }
            Event::VotersChanged { term, done } => {
                self.coordinating.on_voters_changed(term, done, now_ms());
                Ok(())
            }
            Event::Leased { answer, sent_ms } => {
                self.drone.on_leased(&shared, answer, sent_ms);
                Ok(())
            }
            Event::Begun { token, permitted } => {
                self.drone.on_begun(token, permitted);
                Ok(())
            }
            Event::Reported { token, settled } => self.drone.on_reported(&shared, token, settled).await,
            Event::Inventory(inventory) => {
                *shared.inventory.write().unwrap_or_else(std::sync::PoisonError::into_inner) = *inventory;
                Ok(())
            }
            Event::Stop => Ok(()),
        }
    }

    async fn on_discovery(&mut self, event: DiscoveryEvent) {
        let shared = Arc::clone(&self.shared);
        let now_ms = now_ms();
        match event {
            DiscoveryEvent::HelloSeen { heard, hello } => match hello.state {
                BeaconState::Seeking | BeaconState::Founding => {
                    let announces = hello.state == BeaconState::Founding;
                    self.joining.on_seeker(&heard.peer, hello.digest, announces, now_ms);
                }
                BeaconState::Member => {
                    let addresses = startup::addresses(&heard, &hello.addresses, hello.mesh_port);
                    self.joining.on_hive_hint(&shared, &heard.peer, heard.hive, addresses, now_ms).await;
                }
            },
            DiscoveryEvent::WelcomeSeen { heard, welcome } if welcome.founded => {
                let addresses = startup::addresses(&heard, &welcome.addresses, welcome.mesh_port);
                self.joining.on_hive_hint(&shared, &heard.peer, heard.hive, addresses, now_ms).await;
            }
            DiscoveryEvent::WelcomeSeen { .. } => {}
            DiscoveryEvent::UnverifiedSeen { from, reason } => {
                self.joining.on_unverified(&shared, from, &reason.to_string(), now_ms);
            }
            DiscoveryEvent::CloneSeen { from, incarnation } => {
                tracing::error!(%from, incarnation, "another machine uses this node's key");
                joining::say_cloned(&shared, from);
            }
            DiscoveryEvent::LegacyAsksAdvice { node_id, hostname, from } => {
                tracing::info!(%hostname, %from, "a v1 node asks what to become");
                let shared = Arc::clone(&shared);
                tasks::spawn("v1 advice", async move { advising::advise_legacy(&shared, &node_id).await });
            }
            DiscoveryEvent::MemberAlive { peer, .. } => peers::on_liveness(&shared, &peer, MemberState::Alive, now_ms),
            DiscoveryEvent::MemberSuspect { peer, .. } => {
                peers::on_liveness(&shared, &peer, MemberState::Suspect, now_ms);
            }
            DiscoveryEvent::MemberDown { peer, .. } => peers::on_liveness(&shared, &peer, MemberState::Down, now_ms),
            DiscoveryEvent::InterfacesChanged(interfaces) => {
                tracing::info!(count = interfaces.len(), "network interfaces in use changed");
            }
        }
    }

    async fn on_mesh(&mut self, event: mesh::Event) -> anyhow::Result<()> {
        let shared = Arc::clone(&self.shared);
        let now_ms = now_ms();
        match event {
            mesh::Event::PeerUp { peer, facts, .. } => {
                shared.update(|soft| soft.heard_ms.insert(peer.clone(), now_ms));
                self.joining.on_peer(&shared, &peer, facts, now_ms).await
            }
            mesh::Event::FactsChanged { peer, facts } => self.joining.on_peer(&shared, &peer, facts, now_ms).await,
            mesh::Event::PeerDown { peer, cause } => {
                tracing::debug!(%peer, cause, "connection lost");
                self.joining.on_peer_gone(&peer);
                shared.discovery.probe_now(&peer);
                Ok(())
            }
            mesh::Event::Discovered { peer, addresses } => {
                self.joining.on_discovered(peer, addresses, now_ms);
                Ok(())
            }
            mesh::Event::Refused { by_us, address, reason, .. } => {
                self.joining.on_refused(&shared, by_us, address, reason, now_ms);
                Ok(())
            }
            mesh::Event::Status { from, bytes } => {
                peers::on_status(&shared, &from, &bytes, now_ms);
                Ok(())
            }
            mesh::Event::DialFailed { address, reason } => {
                tracing::debug!(%address, reason, "could not connect");
                Ok(())
            }
        }
    }

    /// Leadership goes first, while the others still hear us; then farewell, so that nobody has to suspect us before work is given to
    /// others. Builds are told to end; what of them is left is ended when the agent starts again.
    async fn stop(self) {
        self.shared.update(|soft| soft.phase = Some(crate::api::NodePhase::Stopping));
        self.shared.consensus.shutdown().await;
        self.shared.discovery.leave().await;
        self.drone.stop();
        self.shared.mesh.shutdown().await;
    }
}

/// Context for errors of the parts that the agent is made of.
fn start_context<T, E>(result: Result<T, E>, what: &str) -> anyhow::Result<T>
where
    Result<T, E>: anyhow::Context<T, E>,
{
    result.with_context(|| format!("Failed to start {what}"))
}

#[cfg(test)]
mod fuzz;
