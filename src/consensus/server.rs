//! Answers Raft calls and takes snapshots of other voters.
//!
//! A call is taken only from the peer to whom the membership, or the member's record in the state, binds the Raft id it claims.
//! An id that neither names (a leader elected among voters that joined while this node was away, or the first contact of a new
//! standby) is pinned to the first peer that uses it, but not while a known leader is heard, and may not ask for a vote past one. The transport has already
//! proven that the peer belongs to the hive. No call may raise the term by more than a thousand.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest,
};
use tokio::sync::watch;

use super::codec::{self, WireVote};
use super::machine::{Snapshot, SnapshotSource, snapshot_meta};
use super::network::{CallBody, RaftAnswer, RaftCall, SnapshotAnswer, SnapshotCall};
use super::replica::Replica;
use super::status::acked_ago_ms;
use super::transfer;
use super::types::{Raft, RaftId, StoredMembership, Vote};
use crate::clock;
use crate::engine::id::PeerId;
use crate::store::hive_db;
use crate::store::space::{Room, SpaceGuard};
use crate::transport::{CONTROL_FRAME_MAX, Incoming, decode, encode, read_frame, write_frame};

/// Terms rise by one per election; whoever skips this many is broken or means harm, and terms cannot be taken back.
const TERM_JUMP_MAX: u64 = 1_000;
/// A leader that was silent so long may have been replaced by one whose id is not known here, milliseconds.
const LEADER_LIVES_MS: u64 = 2_000;
/// Most Raft ids that are pinned without a membership naming them.
const PINS_MAX: usize = 64;

/// Serves one Raft directory. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RaftServer {
    pub(crate) own: RaftId,
    pub(crate) raft: Raft,
    pub(crate) replica: Replica,
    pub(crate) space: SpaceGuard,
    /// When a leader was last heard, and its term.
    pub(crate) heard: watch::Sender<Heard>,
    pub(crate) pins: Arc<Mutex<BTreeMap<RaftId, PeerId>>>,
}

/// What a call claims.
#[derive(Clone, Copy)]
struct Claimed {
    from: RaftId,
    to: RaftId,
    term: u64,
    /// It asks for a vote although a leader lives, or to become leader.
    transfer: bool,
}

impl Claimed {
    fn by(call: &RaftCall) -> Self {
        let (term, transfer) = match &call.body {
            CallBody::Append { vote, .. } => (vote.term, false),
            CallBody::Vote { vote, transfer, .. } | CallBody::PreVote { vote, transfer, .. } => (vote.term, *transfer),
            CallBody::Transfer { vote, .. } => (vote.term, true),
        };
        Self { from: call.from, to: call.to, term, transfer }
    }
}

/// The last sign of life of a leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) at_ms: u64,
    pub(crate) term: u64,
    /// When a majority had last answered that leader; 0: never.
    pub(crate) acked_at_ms: u64,
}

fn refused(why: impl std::fmt::Display) -> RaftAnswer {
    RaftAnswer::Refused(why.to_string())
}

fn bound_peer(membership: &StoredMembership, id: RaftId) -> Option<PeerId> {
    membership.get_node(&id).map(|node| node.peer_id.clone())
}

impl RaftServer {
    /// Whether `peer` may speak as `from` to `to`.
    fn check(&self, peer: &PeerId, call: Claimed) -> Result<(), String> {
        let Claimed { from, to, term, transfer } = call;
        if to != self.own {
            return Err(format!("Raft id {to} is not here"));
        }
        let (effective, current_term) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (bound_peer(&metrics.membership_config, from), metrics.current_term)
        };
        // A node that has no state yet cannot know how far the others are.
        if self.replica.applied().is_some() && term > current_term.saturating_add(TERM_JUMP_MAX) {
            return Err(format!("term {term} is far beyond {current_term}"));
        }
        let known = effective.or_else(|| bound_peer(&self.replica.membership(), from)).or_else(|| {
            self.replica.read(|state| state.raft_id_holder(from).map(|member| member.info.peer_id.clone()))
        });
        let bound = match known {
            Some(bound) => bound,
            None if transfer => return Err(format!("Raft id {from} is not known here")),
            // Else whoever knows the secret could depose a leader by naming a higher term.
            None if self.knows_a_leader() => {
                return Err(format!("Raft id {from} is not known here, and a leader that is known is heard"));
            }
            None => {
                let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
                if pins.len() >= PINS_MAX && !pins.contains_key(&from) {
                    return Err("too many unknown Raft ids".to_owned());
                }
                pins.entry(from).or_insert_with(|| peer.clone()).clone()
            }
        };
        if bound == *peer { Ok(()) } else { Err(format!("Raft id {from} belongs to {bound}, not to {peer}")) }
    }

    /// This node leads with a majority behind it, or heard its leader a moment ago.
    fn knows_a_leader(&self) -> bool {
        let acked_ago_ms = acked_ago_ms(&self.raft.metrics().borrow_watched());
        let heard_ms = self.heard.borrow().at_ms;
        let heard_ago_ms = (heard_ms != 0).then(|| clock::now_ms().saturating_sub(heard_ms));
        let led = if self.raft.is_leader() { acked_ago_ms } else { heard_ago_ms };
        led.is_some_and(|ago_ms| ago_ms < LEADER_LIVES_MS)
    }

    pub(crate) async fn answer(self, peer: PeerId, body: Vec<u8>) -> Vec<u8> {
        let answer = match decode::<RaftCall>(&body) {
            Ok(call) => match self.check(&peer, Claimed::by(&call)) {
                Ok(()) => self.dispatch(call.body).await,
                Err(why) => {
                    tracing::warn!(%peer, from = call.from, why, "a Raft call was refused");
                    refused(why)
                }
            },
            Err(error) => refused(error),
        };
        encode(&answer).unwrap_or_default()
    }

    async fn dispatch(&self, body: CallBody) -> RaftAnswer {
        match body {
            CallBody::Append { vote, previous, entries, commit, acked_ago_ms } => {
                if !entries.is_empty() && self.space.room() == Room::Critical {
                    return refused("no space left for log entries");
                }
                let entries: io::Result<Vec<_>> = entries.iter().map(codec::entry_from_wire).collect();
                match entries {
                    Ok(entries) => {
                        let request = AppendEntriesRequest {
                            vote: Vote::from(vote),
                            prev_log_id: previous.map(codec::log_id),
                            entries,
                            leader_commit: commit.map(codec::log_id),
                        };
                        self.append(vote.term, acked_ago_ms, request).await
                    }
                    Err(error) => refused(error),
                }
            }
            CallBody::Vote { vote, last, transfer } => match self.raft.vote(vote_request(vote, last, transfer)).await {
                Ok(response) => vote_answer(&response),
                Err(error) => refused(error),
            },
            CallBody::PreVote { vote, last, transfer } => {
                match self.raft.pre_vote(vote_request(vote, last, transfer)).await {
                    Ok(response) => vote_answer(&response),
                    Err(error) => refused(error),
                }
            }
            CallBody::Transfer { vote, to, last } => {
                let request = TransferLeaderRequest::new(Vote::from(vote), to, last.map(codec::log_id));
                match self.raft.handle_transfer_leader(request).await {
                    Ok(Ok(())) => RaftAnswer::Transferred,
                    Ok(Err(TransferLeaderError::VoteChanged { expected, actual })) => RaftAnswer::TransferVoteChanged {
                        expected: WireVote::from(&expected),
                        actual: WireVote::from(&actual),
                    },
                    Ok(Err(TransferLeaderError::LogNotFlushed { expected, actual })) => {
                        RaftAnswer::TransferNotFlushed {
                            expected: expected.as_ref().map(codec::point_of),
                            actual: actual.as_ref().map(codec::point_of),
                        }
                    }
                    Err(error) => refused(error),
                }
            }
        }
    }

    async fn append(
        &self,
        term: u64,
        acked_ago_ms: Option<u64>,
        request: AppendEntriesRequest<super::types::TypeConfig>,
    ) -> RaftAnswer {
        let heard = || {
            let at_ms = clock::now_ms();
            let acked_at_ms = acked_ago_ms.map_or(0, |ago_ms| at_ms.saturating_sub(ago_ms));
            self.heard.send_replace(Heard { at_ms, term, acked_at_ms });
        };
        match self.raft.append_entries(request).await {
            Ok(AppendEntriesResponse::Success) => {
                heard();
                RaftAnswer::Appended
            }
            Ok(AppendEntriesResponse::PartialSuccess(upto)) => {
                RaftAnswer::AppendedUpTo(upto.as_ref().map(codec::point_of))
            }
            Ok(AppendEntriesResponse::Conflict) => {
                heard();
                RaftAnswer::Conflict
            }
            Ok(AppendEntriesResponse::HigherVote(vote)) => RaftAnswer::HigherVote(WireVote::from(&vote)),
            Err(error) => refused(error),
        }
    }

    /// Takes a snapshot from a leader.
    pub(crate) async fn take_snapshot(self, incoming: Incoming) {
        let Incoming { peer, mut stream } = incoming;
        let taken = async {
            let call: SnapshotCall = read_frame(&mut stream, CONTROL_FRAME_MAX).await?;
            let claimed = Claimed { from: call.from, to: call.to, term: call.vote.term, transfer: false };
            if let Err(why) = self.check(&peer, claimed) {
                write_frame(&mut stream, &SnapshotAnswer::Refused(why.clone()), CONTROL_FRAME_MAX).await?;
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
            write_frame(&mut stream, &SnapshotAnswer::Send, CONTROL_FRAME_MAX).await?;
            let path = transfer::receive(&mut stream, &self.replica.snapshot_directory(), &call.offer).await?;
            let read = path.clone();
            let (meta, _) = tokio::task::spawn_blocking(move || hive_db::read_snapshot(&read))
                .await
                .map_err(io::Error::other)??;
            let snapshot = Snapshot { meta: snapshot_meta(&meta)?, snapshot: SnapshotSource::Received(path) };
            let installed = self.raft.install_full_snapshot(Vote::from(call.vote), snapshot).await;
            let answer = match installed {
                Ok(response) => SnapshotAnswer::Installed { vote: WireVote::from(&response.vote) },
                Err(error) => SnapshotAnswer::Refused(error.to_string()),
            };
            write_frame(&mut stream, &answer, CONTROL_FRAME_MAX).await
        };
        if let Err(error) = taken.await {
            tracing::warn!(%peer, %error, "a snapshot could not be taken");
        }
    }
}

fn vote_request(
    vote: WireVote,
    last: Option<crate::store::raft_db::LogPoint>,
    transfer: bool,
) -> VoteRequest<super::types::TypeConfig> {
    let mut request = VoteRequest::new(Vote::from(vote), last.map(codec::log_id));
    request.leadership_transfer = transfer;
    request
}

fn vote_answer(response: &openraft::raft::VoteResponse<super::types::TypeConfig>) -> RaftAnswer {
    RaftAnswer::Vote {
        vote: WireVote::from(&response.vote),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(codec::point_of),
    }
}
