//! Answers the control requests of other nodes.
//!
//! Each request is served in a task of its own, at most [`SERVED_MAX`] at once; what needs the event loop goes to it as an event.
//! Never done here: trusting a field about who asks; the connection says it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::control::{self, Request, Response};
use super::shared::Shared;
use super::{Event, advising, blobs, catching_up, coordinating, legacy, recovering, staging};
use crate::engine::id::PeerId;
use crate::engine::scheduler::LEASES_MAX;
use crate::mesh::MeshHandle;
use crate::tasks;
use crate::transport::calls::{Callers, Link};
use crate::transport::{CONTROL_FRAME_MAX, Incoming, RAFT_FRAME_MAX, calls, decode, encode, read_frame, write_frame};

/// Requests served at once: one per member of a large hive, so that a boot storm is answered in one go.
const SERVED_MAX: usize = 128;
/// Blobs fetched for others at once: they take minutes, and must not keep leases waiting.
static KEEPING: Semaphore = Semaphore::const_new(8);
/// Streams of calls that one peer may have open; it needs one, and another while the first breaks.
const CALLS_PER_PEER_MAX: usize = 4;
/// A peer that opened a stream must send its request within this time.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// For what is asked of other nodes all the time.
pub(super) fn callers(mesh: &MeshHandle) -> Callers {
    Callers::new(Link::new(mesh.clone()), control::CALLS_PROTOCOL.to_owned())
}

/// Serves the streams that carry many requests, until the mesh ends.
pub(super) async fn serve_calls(shared: Arc<Shared>, mut incoming: mpsc::Receiver<Incoming>) {
    let mut open = calls::Newest::new(CALLS_PER_PEER_MAX);
    while let Some(stream) = incoming.recv().await {
        let shared = Arc::clone(&shared);
        let peer = stream.peer.clone();
        let answered = calls::serve(stream, 2 * CONTROL_FRAME_MAX, move |peer, body| {
            let shared = Arc::clone(&shared);
            async move {
                let response = match decode(&body) {
                    Ok(request) if body.len() <= CONTROL_FRAME_MAX => answer(&shared, &peer, request).await,
                    Ok(_) => refused("the request is too long"),
                    Err(error) => refused(format!("request not understood: {error}")),
                };
                encode(&response).unwrap_or_default()
            }
        });
        open.add(peer, tasks::spawn("control-calls", answered).abort_handle());
    }
}

/// Serves until the mesh ends.
pub(super) async fn serve(shared: Arc<Shared>, mut incoming: mpsc::Receiver<Incoming>) {
    let room = Arc::new(Semaphore::new(SERVED_MAX));
    while let Some(Incoming { peer, mut stream }) = incoming.recv().await {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let shared = Arc::clone(&shared);
        tasks::spawn("control", async move {
            let _permit = permit;
            let request = tokio::time::timeout(READ_TIMEOUT, read_frame(&mut stream, CONTROL_FRAME_MAX)).await;
            let response = match request {
                Ok(Ok(request)) => answer(&shared, &peer, request).await,
                Ok(Err(error)) => Response::Refused { why: format!("request not understood: {error}") },
                Err(_) => return,
            };
            if let Err(error) = write_frame(&mut stream, &response, RAFT_FRAME_MAX).await {
                tracing::debug!(%peer, %error, "an answer was not taken");
            }
        });
    }
}

fn refused(why: impl Into<String>) -> Response {
    Response::Refused { why: why.into() }
}

async fn answer(shared: &Arc<Shared>, peer: &PeerId, request: Request) -> Response {
    let member = shared.read(|state| state.member(peer).is_some_and(|member| !member.left));
    match request {
        Request::Seek { digest, announces } => {
            let event = Event::MeshHello { from: peer.clone(), digest, announces };
            if shared.events.send(event).await.is_ok() { Response::Ok } else { refused("stopping") }
        }
        _ if !member => refused("the asking node is not a member of this hive"),
        // What a coordinator of another history asks would be done to this one.
        Request::Lease { .. } | Request::PrepareReplica | Request::RetireReplica { .. } | Request::AskAgain { .. }
            if shared.soft(|soft| soft.apart.contains(peer)) =>
        {
            refused("this node lives in another epoch of the hive")
        }
        Request::Identify(question) => match advising::advise(shared, peer, &question) {
            Ok(advice) => Response::Advice(Box::new(advice)),
            Err(why) => refused(why),
        },
        Request::Lease { attempts } if attempts.len() > LEASES_MAX => refused("too many leases in one request"),
        Request::Lease { attempts } => match coordinating::lease(shared, peer, &attempts).await {
            Some(valid) => Response::Leases { valid },
            None => refused("this node is not the coordinator"),
        },
        Request::PrepareReplica => match shared.consensus.prepare_replica().await {
            Ok(raft_id) => Response::Replica { raft_id },
            Err(error) => refused(error.to_string()),
        },
        Request::RetireReplica { raft_id } => retire(shared, raft_id).await,
        Request::KeepBlob { sha256, size } => {
            let Ok(_place) = KEEPING.try_acquire() else { return refused("busy keeping other blobs") };
            match blobs::keep(shared, peer, sha256, size).await {
                Ok(()) => Response::Ok,
                Err(why) => refused(why),
            }
        }
        Request::AskAgain { generation, reason } => {
            tracing::info!(reason, "the coordinator asks this node to ask again what to become");
            let event = Event::AskAgain { generation };
            if shared.events.send(event).await.is_ok() { Response::Ok } else { refused("stopping") }
        }
        Request::Legacy(call) => match legacy::serve(shared, *call).await {
            Ok(Some(told)) => Response::Legacy(Box::new(Ok(told))),
            Ok(None) => refused("this node is not the coordinator"),
            Err(error) => Response::Legacy(Box::new(Err(error))),
        },
        Request::FindStaged { atom } => staging::answer(shared, &atom).await,
        Request::Identity => Response::Identity(shared.soft(|soft| soft.identity.clone().map(Box::new))),
        Request::Committed => match catching_up::committed(shared).await {
            Ok(index) => Response::Committed { index },
            Err(why) => refused(why),
        },
        Request::Promise => recovering::promise(shared, peer).map_or_else(refused, |()| Response::Ok),
        Request::Release => {
            shared.promise.take_back(peer);
            Response::Ok
        }
        Request::LogEnd => match shared.consensus.local_claim() {
            Some(claim) => Response::LogEnd { epoch: claim.epoch, term: claim.term, index: claim.index },
            None => refused("this node has no copy of the log"),
        },
    }
}

/// A leader that still speaks to this node knows better than whoever asks, who may have been deposed meanwhile.
const LEADER_LIVES_MS: u64 = 2_000;

async fn retire(shared: &Arc<Shared>, raft_id: u64) -> Response {
    let status = shared.consensus.status();
    if status.raft_id != Some(raft_id) {
        return Response::Ok;
    }
    let takes_part = status.voters.iter().chain(&status.standbys).any(|member| member.raft_id == raft_id);
    if takes_part && status.age_ms() < LEADER_LIVES_MS {
        return refused("a leader speaks to this node under that Raft id");
    }
    match shared.consensus.retire_replica().await {
        Ok(()) => Response::Ok,
        Err(error) => refused(error.to_string()),
    }
}

/// Asks the event loop for something and awaits its answer.
pub(super) async fn ask_loop<T>(shared: &Shared, make: impl FnOnce(oneshot::Sender<T>) -> Event) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    shared.events.send(make(sender)).await.ok()?;
    receiver.await.ok()
}
