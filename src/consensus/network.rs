//! openraft's network: Raft calls over the persistent stream to each peer, snapshots over a stream of their own.

use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use super::codec::{self, WireEntry, WireVote};
use super::machine::{Snapshot, SnapshotSource};
use super::status::acked_ago_ms;
use super::transfer::{self, Offer};
use super::types::{Metrics, RaftId, RaftNode, TypeConfig, Vote};
use crate::engine::id::PeerId;
use crate::store::raft_db::LogPoint;
use crate::transport::calls::{Callers, Link};
use crate::transport::{CONTROL_FRAME_MAX, decode, encode, read_frame, write_frame};

/// An append with entries may wait this long: the follower has to bring them to its disk, and heartbeats go on beside it.
const APPEND_TIMEOUT: Duration = Duration::from_secs(3);
/// A heartbeat that is not answered in this time counts as lost. openraft itself waits for one heartbeat's interval only.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(250);

/// That something is committed waits so long for entries to travel with: on a busy leader the next ones are about to come, and a request of
/// its own for each commit would double the number of requests.
const COMMIT_WAIT: Duration = Duration::from_millis(2);

#[derive(Serialize, Deserialize)]
pub(crate) struct RaftCall {
    pub(crate) from: RaftId,
    pub(crate) to: RaftId,
    pub(crate) body: CallBody,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum CallBody {
    Append {
        vote: WireVote,
        previous: Option<LogPoint>,
        entries: Vec<WireEntry>,
        commit: Option<LogPoint>,
        /// How long ago a majority answered this leader, milliseconds; none when it never did. Whoever follows a leader cannot see
        /// whether that leader still has a quorum.
        acked_ago_ms: Option<u64>,
    },
    Vote {
        vote: WireVote,
        last: Option<LogPoint>,
        transfer: bool,
    },
    PreVote {
        vote: WireVote,
        last: Option<LogPoint>,
        transfer: bool,
    },
    Transfer {
        vote: WireVote,
        to: RaftId,
        last: Option<LogPoint>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum RaftAnswer {
    Appended,
    AppendedUpTo(Option<LogPoint>),
    Conflict,
    HigherVote(WireVote),
    Vote { vote: WireVote, granted: bool, last: Option<LogPoint> },
    Transferred,
    TransferVoteChanged { expected: WireVote, actual: WireVote },
    TransferNotFlushed { expected: Option<LogPoint>, actual: Option<LogPoint> },
    Refused(String),
}

/// First frame of a snapshot that a leader sends.
#[derive(Serialize, Deserialize)]
pub(crate) struct SnapshotCall {
    pub(crate) from: RaftId,
    pub(crate) to: RaftId,
    pub(crate) vote: WireVote,
    pub(crate) offer: Offer,
}

/// Before and after the bytes of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum SnapshotAnswer {
    Send,
    Installed { vote: WireVote },
    Refused(String),
}

/// Makes a client per voter and standby.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) own: RaftId,
    pub(crate) callers: Callers,
    pub(crate) link: Link,
    pub(crate) snapshot_protocol: String,
    /// Set once Raft runs, which needs its network first.
    pub(crate) metrics: Arc<OnceLock<Metrics>>,
}

pub(crate) struct Client {
    network: Network,
    target: RaftId,
    peer: PeerId,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: RaftId, node: &RaftNode) -> Client {
        Client { network: self.clone(), target, peer: node.peer_id.clone() }
    }
}

fn unexpected(answer: &RaftAnswer) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(format!("unexpected answer {answer:?}")))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other answer is one to another question")]
impl Client {
    async fn call(
        &self,
        body: CallBody,
        action: RPCTypes,
        timeout: Duration,
    ) -> Result<RaftAnswer, RPCError<TypeConfig>> {
        let call = RaftCall { from: self.network.own, to: self.target, body };
        let answered = match encode(&call) {
            Ok(bytes) => self.network.callers.to(&self.peer).call(&self.peer, bytes, timeout).await,
            Err(error) => Err(error),
        };
        match answered.and_then(|bytes| decode::<RaftAnswer>(&bytes)) {
            Ok(RaftAnswer::Refused(why)) => Err(RPCError::Unreachable(Unreachable::from_string(why))),
            Ok(answer) => Ok(answer),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let (id, target) = (self.network.own, self.target);
                Err(RPCError::Timeout(Timeout { action, id, target, timeout }))
            }
            Err(error) => Err(RPCError::Unreachable(Unreachable::new(&error))),
        }
    }

    async fn ask_for_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        timeout: Duration,
        pre_vote: bool,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let vote = WireVote::from(&rpc.vote);
        let last = rpc.last_log_id.as_ref().map(codec::point_of);
        let transfer = rpc.leadership_transfer;
        let body =
            if pre_vote { CallBody::PreVote { vote, last, transfer } } else { CallBody::Vote { vote, last, transfer } };
        match self.call(body, RPCTypes::Vote, timeout).await? {
            RaftAnswer::Vote { vote, granted, last } => {
                Ok(VoteResponse::new(Vote::from(vote), last.map(codec::log_id), granted))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: &Snapshot) -> io::Result<Vote> {
        let SnapshotSource::Live(replica) = &snapshot.snapshot else {
            return Err(io::Error::other("a received snapshot is not sent on"));
        };
        let at_least = snapshot.meta.last_log_id.as_ref().map(codec::point_of);
        let file = replica.snapshot(at_least).await?;
        let mut stream = self.network.link.open(&self.peer, &self.network.snapshot_protocol).await?;
        let call = SnapshotCall {
            from: self.network.own,
            to: self.target,
            vote: WireVote::from(&vote),
            offer: Offer::from(&*file),
        };
        let answer = async |stream: &mut crate::transport::ByteStream| {
            tokio::time::timeout(transfer::PROGRESS_TIMEOUT * 6, read_frame(stream, CONTROL_FRAME_MAX))
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the receiver of a snapshot is silent"))?
        };
        write_frame(&mut stream, &call, CONTROL_FRAME_MAX).await?;
        match answer(&mut stream).await? {
            SnapshotAnswer::Send => {}
            SnapshotAnswer::Installed { vote } => return Ok(Vote::from(vote)),
            SnapshotAnswer::Refused(why) => return Err(io::Error::other(why)),
        }
        transfer::send(&mut stream, &file).await?;
        match answer(&mut stream).await? {
            SnapshotAnswer::Installed { vote } => Ok(Vote::from(vote)),
            SnapshotAnswer::Send => Err(io::Error::other("asked for the snapshot again")),
            SnapshotAnswer::Refused(why) => Err(io::Error::other(why)),
        }
    }
}

/// Answers to a stream of appended entries.
type Appending<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;

/// Leaves out requests that only say what is committed, when one with entries follows soon: that says it too. The last of a stream, and
/// thereby every heartbeat, goes at once.
fn travelling_together<R: Send + 'static>(
    input: impl Stream<Item = R> + Send + Unpin + 'static,
    carries_entries: impl Fn(&R) -> bool + Send + Sync + 'static,
) -> BoxStream<'static, R> {
    stream::unfold((input.fuse(), carries_entries), |(mut input, carries_entries)| async move {
        let request = next_together(&mut input, &carries_entries).await?;
        Some((request, (input, carries_entries)))
    })
    .boxed()
}

async fn next_together<R>(
    input: &mut (impl Stream<Item = R> + Unpin),
    carries_entries: &impl Fn(&R) -> bool,
) -> Option<R> {
    let mut request = input.next().await?;
    let patience = tokio::time::sleep(COMMIT_WAIT);
    tokio::pin!(patience);
    while !carries_entries(&request) {
        tokio::select! {
            biased;
            following = input.next() => match following {
                Some(following) => request = following,
                None => break,
            },
            () = &mut patience => break,
        }
    }
    Some(request)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other answer is one to another question")]
impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotSource;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let timeout = if rpc.entries.is_empty() { HEARTBEAT_TIMEOUT } else { APPEND_TIMEOUT };
        let entries: io::Result<Vec<WireEntry>> = rpc.entries.iter().map(codec::entry_to_wire).collect();
        let body = CallBody::Append {
            vote: WireVote::from(&rpc.vote),
            previous: rpc.prev_log_id.as_ref().map(codec::point_of),
            entries: entries.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?,
            commit: rpc.leader_commit.as_ref().map(codec::point_of),
            acked_ago_ms: self.network.metrics.get().and_then(|metrics| acked_ago_ms(&metrics.borrow_watched())),
        };
        match self.call(body, RPCTypes::AppendEntries, timeout).await? {
            RaftAnswer::Appended => Ok(AppendEntriesResponse::Success),
            RaftAnswer::AppendedUpTo(upto) => Ok(AppendEntriesResponse::PartialSuccess(upto.map(codec::log_id))),
            RaftAnswer::Conflict => Ok(AppendEntriesResponse::Conflict),
            RaftAnswer::HigherVote(vote) => Ok(AppendEntriesResponse::HigherVote(Vote::from(vote))),
            other => Err(unexpected(&other)),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<Appending<'s>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let carries_entries = |request: &AppendEntriesRequest<TypeConfig>| !request.entries.is_empty();
        stream_append_sequential(self, travelling_together(input, carries_entries), option)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_for_vote(rpc, option.hard_ttl(), false).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_for_vote(rpc, option.hard_ttl(), true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sent = tokio::select! {
            sent = self.send_snapshot(vote, &snapshot) => sent,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        match sent {
            Ok(vote) => Ok(SnapshotResponse::new(vote)),
            Err(error) => {
                tracing::warn!(peer = %self.peer, %error, "a snapshot could not be sent; it is tried again");
                Err(StreamingError::Unreachable(Unreachable::new(&error)))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = CallBody::Transfer {
            vote: WireVote::from(request.from_leader()),
            to: *request.to_node_id(),
            last: request.last_log_id().map(codec::point_of),
        };
        match self.call(body, RPCTypes::TransferLeader, option.hard_ttl().max(HEARTBEAT_TIMEOUT)).await? {
            RaftAnswer::Transferred => Ok(Ok(())),
            RaftAnswer::TransferVoteChanged { expected, actual } => {
                Ok(Err(TransferLeaderError::VoteChanged { expected: Vote::from(expected), actual: Vote::from(actual) }))
            }
            RaftAnswer::TransferNotFlushed { expected, actual } => Ok(Err(TransferLeaderError::LogNotFlushed {
                expected: expected.map(codec::log_id),
                actual: actual.map(codec::log_id),
            })),
            other => Err(RPCError::Network(NetworkError::from_string(format!("unexpected answer {other:?}")))),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        // A peer that restarts is back within seconds; a slow return would only lengthen its absence.
        let steps = [50, 100, 200].into_iter().chain(std::iter::repeat(400));
        Some(Backoff::new(steps.map(Duration::from_millis)))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::sync::mpsc;

    use super::*;

    /// A request: whether it carries entries, and which one it is.
    type Request = (bool, u32);

    fn merged(input: impl Stream<Item = Request> + Send + Unpin + 'static) -> BoxStream<'static, Request> {
        travelling_together(input, |request: &Request| request.0)
    }

    #[tokio::test]
    async fn a_commit_goes_with_the_entries_that_follow() {
        let requests = [(true, 1), (false, 2), (false, 3), (true, 4), (true, 5), (false, 6)];
        let sent: Vec<Request> = merged(stream::iter(requests)).collect().await;
        assert_eq!(sent, [(true, 1), (true, 4), (true, 5), (false, 6)]);
    }

    #[tokio::test]
    async fn a_lonely_commit_waits_a_moment_and_a_heartbeat_not_at_all() {
        assert_eq!(merged(stream::once(async { (false, 1) }).boxed()).next().now_or_never(), Some(Some((false, 1))));
        let (tx, mut rx) = mpsc::unbounded_channel();
        let mut sent = merged(stream::poll_fn(move |context| rx.poll_recv(context)));
        tx.send((false, 1)).expect("open");
        let began = tokio::time::Instant::now();
        assert_eq!(sent.next().await, Some((false, 1)));
        assert!(began.elapsed() >= COMMIT_WAIT);
        // Commits that keep coming do not make the first of them wait for ever, and the last of them says it all.
        tx.send((false, 2)).expect("open");
        tx.send((false, 3)).expect("open");
        assert_eq!(sent.next().await, Some((false, 3)));
    }
}
