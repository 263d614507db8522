//! Proposing from anywhere: numbered, batched by the leader, forwarded by everyone else, repeated until answered.
//!
//! A proposal keeps its number through every retry, so the state answers a repetition with the first reply. The leader puts up
//! to 256 commands into one entry; while some entries are on their way to a majority, the next one fills up. Who does not lead
//! forwards at once while few requests are on their way to the leader; what comes meanwhile goes together in the next one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use openraft::errors::ClientWriteError;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::core::Core;
use super::protocol::Protocol;
use super::replica::RaftMember;
use super::types::EncodedBatch;
use super::{Identity, ProposeError};
use crate::clock;
use crate::engine::command::{
    BATCH_COMMANDS_MAX, Batch, COMMAND_MAX_BYTES, Command, ENVELOPE_VERSION, Origin, Proposal, RejectCode, Reply,
};
use crate::engine::id::{Epoch, HiveId, PeerId};
use crate::engine::standing::{self, Refusal};
use crate::store::space::Room;
use crate::transport::calls::Callers;
use crate::transport::{decode, encode};

/// Most bytes of commands in one entry: an entry travels in one frame, and heartbeats share its connection.
const BATCH_MAX_BYTES: usize = 384 << 10;
/// Entries on their way to a majority at once: one is being committed, the next one is there when the first is. More would only make
/// each of them smaller.
const BATCHES_IN_FLIGHT: usize = 2;
/// Requests on their way to a leader at once, from one node.
const FORWARDS_IN_FLIGHT: usize = 4;
/// Proposals that may wait for the batcher.
const WAITING_MAX: usize = 4_096;
/// Distance between the oldest unanswered and the newest number: the state keeps 1,024 replies per node.
const SPREAD_MAX: u64 = 1_000;
/// Wait before another try when nobody is known to lead.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// Longest wait for one answer of the leader before the hint is looked at again.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(2);

/// A proposal that waits for the batcher.
struct Waiting {
    proposal: Proposal,
    /// Written by this process, so that it is understood here.
    own: bool,
    answer: oneshot::Sender<Answer>,
}

/// What came of a proposal at the node that was asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Answer {
    Applied(Reply),
    /// Ask this one instead, if any. The proposal may or may not be committed later.
    NotLeader(Option<PeerId>),
    NoSpace,
    Refused(String),
}

#[derive(Serialize, Deserialize)]
struct Request {
    proposals: Vec<Proposal>,
}

#[derive(Serialize, Deserialize)]
struct Response {
    answers: Vec<Answer>,
}

/// Numbers and queue of this node's proposals.
#[derive(Clone)]
pub(crate) struct Proposals {
    tx: mpsc::Sender<Waiting>,
    numbers: Arc<Numbers>,
    callers: Arc<Mutex<Option<HiveCallers>>>,
    lanes: Arc<Mutex<Lanes>>,
}

/// Proposals that go to a leader together, and where each asker waits for its answers.
struct Forwarded {
    proposals: Vec<Proposal>,
    answer: oneshot::Sender<Vec<Answer>>,
}

/// The way to one leader.
#[derive(Default)]
struct Lane {
    under_way: usize,
    waiting: VecDeque<Forwarded>,
}

/// By leader: what waits for one that has vanished does not keep its successor waiting.
#[derive(Default)]
struct Lanes(BTreeMap<PeerId, Lane>);

impl Lanes {
    /// What goes now, if anything may; else it waits.
    fn enter(&mut self, leader: &PeerId, forwarded: Forwarded) -> Option<Vec<Forwarded>> {
        let lane = self.0.entry(leader.clone()).or_default();
        if lane.under_way >= FORWARDS_IN_FLIGHT {
            lane.waiting.push_back(forwarded);
            return None;
        }
        lane.under_way += 1;
        Some(vec![forwarded])
    }

    /// A request has ended: what goes next in its place.
    fn next(&mut self, leader: &PeerId) -> Option<Vec<Forwarded>> {
        let lane = self.0.get_mut(leader)?;
        let (mut group, mut commands, mut bytes) = (Vec::new(), 0, 0);
        while let Some(next) = lane.waiting.pop_front() {
            // Whoever asked has found another leader, or has no time left.
            if next.answer.is_closed() {
                continue;
            }
            commands += next.proposals.len();
            bytes += next.proposals.iter().map(|proposal| proposal.command.len()).sum::<usize>();
            if !group.is_empty() && (commands > BATCH_COMMANDS_MAX || bytes > BATCH_MAX_BYTES) {
                lane.waiting.push_front(next);
                break;
            }
            group.push(next);
        }
        if group.is_empty() {
            lane.under_way -= 1;
            if lane.under_way == 0 {
                self.0.remove(leader);
            }
            return None;
        }
        Some(group)
    }
}

/// Callers of one hive and epoch.
type HiveCallers = ((HiveId, Epoch), Callers);

#[derive(Default)]
struct Issued {
    last: u64,
    /// Those that have no answer yet.
    open: BTreeSet<u64>,
}

#[derive(Default)]
struct Numbers {
    state: Mutex<Issued>,
    freed: Notify,
}

impl Numbers {
    fn state(&self) -> MutexGuard<'_, Issued> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `count` numbers, once all of them are near enough to the oldest that is unanswered. All or none at once: groups
    /// that each held a part would wait for each other for ever.
    async fn take(self: &Arc<Self>, count: usize) -> Taken {
        loop {
            let freed = self.freed.notified();
            {
                let mut state = self.state();
                let first = state.last + 1;
                let behind = first + count as u64;
                if state.open.first().is_none_or(|oldest| behind <= oldest + SPREAD_MAX) {
                    state.last = behind - 1;
                    state.open.extend(first..behind);
                    return Taken { numbers: first..behind, of: Arc::clone(self) };
                }
            }
            freed.await;
        }
    }
}

/// Numbers that are in use until dropped.
struct Taken {
    numbers: Range<u64>,
    of: Arc<Numbers>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.of.state().open.retain(|number| !self.numbers.contains(number));
        self.of.freed.notify_waiters();
    }
}

/// The receiving end, for [`run_batcher`].
pub(crate) struct Batcher(mpsc::Receiver<Waiting>);

pub(crate) fn channel() -> (Proposals, Batcher) {
    let (tx, rx) = mpsc::channel(WAITING_MAX);
    (Proposals { tx, numbers: Arc::default(), callers: Arc::default(), lanes: Arc::default() }, Batcher(rx))
}

impl Proposals {
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a proposal that does not go through the queue.
    pub(crate) fn take_number(&self) -> u64 {
        let mut state = self.numbers.state();
        state.last += 1;
        state.last
    }

    fn callers(&self, core: &Core, hive: (HiveId, Epoch)) -> Callers {
        let mut current = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some((known, callers)) if *known == hive => callers.clone(),
            _ => {
                let callers = Callers::new(core.link.clone(), Protocol::Propose.name(hive.0, hive.1));
                *current = Some((hive, callers.clone()));
                callers
            }
        }
    }
}

/// Proposes commands in order and returns their replies once they are committed and applied by the leader.
pub(crate) async fn propose(
    core: &Arc<Core>,
    commands: Vec<Command>,
    deadline: Duration,
) -> Result<Vec<Reply>, ProposeError> {
    let until_ms = clock::now_ms().saturating_add(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
    let mut replies = Vec::with_capacity(commands.len());
    for group in commands.chunks(BATCH_COMMANDS_MAX) {
        let left = Duration::from_millis(until_ms.saturating_sub(clock::now_ms()));
        let mut sent = false;
        let answered = tokio::time::timeout(left, propose_group(core, group, &mut sent)).await;
        match answered {
            Ok(done) => replies.extend(done?),
            Err(_) => return Err(ProposeError::NoQuorum { unknown: sent || !replies.is_empty() }),
        }
    }
    Ok(replies)
}

fn number(identity: &Identity, sequence: u64, command: &Command) -> Result<Proposal, ProposeError> {
    let origin = Origin { peer_id: identity.peer_id.clone(), incarnation: identity.incarnation, sequence };
    let proposal = Proposal::new(origin, command);
    if proposal.command.len() > COMMAND_MAX_BYTES {
        return Err(ProposeError::TooLarge { bytes: proposal.command.len() });
    }
    Ok(proposal)
}

async fn propose_group(core: &Arc<Core>, group: &[Command], sent: &mut bool) -> Result<Vec<Reply>, ProposeError> {
    let taken = core.proposals.numbers.take(group.len()).await;
    let mut open = BTreeMap::new();
    for ((position, command), sequence) in group.iter().enumerate().zip(taken.numbers.clone()) {
        open.insert(position, number(&core.identity, sequence, command)?);
    }
    let mut replies: BTreeMap<usize, Reply> = BTreeMap::new();
    let mut hint: Option<PeerId> = None;
    while !open.is_empty() {
        if core.space.room() >= Room::Low && !*sent {
            return Err(ProposeError::DiskLow);
        }
        *sent = true;
        let asked: Vec<Proposal> = open.values().cloned().collect();
        let leader = hint.take().or_else(|| core.status.borrow().leader.clone());
        let answers = ask(core, leader, asked).await;
        let positions: Vec<usize> = open.keys().copied().collect();
        let mut pause = answers.is_empty();
        for (position, answer) in positions.into_iter().zip(answers) {
            match answer {
                Answer::Applied(reply) => {
                    open.remove(&position);
                    replies.insert(position, reply);
                }
                Answer::NotLeader(Some(other)) if other != core.identity.peer_id => hint = Some(other),
                Answer::NotLeader(_) => pause = true,
                Answer::NoSpace => return Err(ProposeError::DiskLow),
                Answer::Refused(why) => return Err(ProposeError::Refused(why)),
            }
        }
        if pause || hint.is_some() {
            // A hint that turns out wrong comes back at once; without a pause two nodes could send a proposal to and fro.
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
    drop(taken);
    Ok(replies.into_values().collect())
}

/// Asks the leader, here or elsewhere. No answers: nobody could be asked.
async fn ask(core: &Arc<Core>, leader: Option<PeerId>, proposals: Vec<Proposal>) -> Vec<Answer> {
    let here = core.node().is_some_and(|node| node.raft.is_leader());
    match leader {
        _ if here => ask_batcher(core, proposals, true).await,
        Some(leader) if leader != core.identity.peer_id => {
            let Some(hive) = core.replica.status().hive else { return Vec::new() };
            let mut status = core.status.subscribe();
            let replaced = status.wait_for(|status| status.leader.as_ref().is_some_and(|now| *now != leader));
            tokio::select! {
                answered = forward(core, hive, &leader, proposals) => answered,
                // A leader that vanished does not answer; its successor is not kept waiting for that.
                _ = replaced => Vec::new(),
            }
        }
        _ => Vec::new(),
    }
}

/// No answers: it could not be asked, or did not answer.
async fn forward(core: &Arc<Core>, hive: (HiveId, Epoch), leader: &PeerId, proposals: Vec<Proposal>) -> Vec<Answer> {
    let (answer, answered) = oneshot::channel();
    let group = core.proposals.lanes().enter(leader, Forwarded { proposals, answer });
    if let Some(group) = group {
        // On the consensus thread, wherever the proposal was made; ends by itself when nothing waits for this leader.
        core.spawn("forward", run_lane(Arc::clone(core), hive, leader.clone(), group));
    }
    answered.await.unwrap_or_default()
}

async fn run_lane(core: Arc<Core>, hive: (HiveId, Epoch), leader: PeerId, mut group: Vec<Forwarded>) {
    let callers = core.proposals.callers(&core, hive);
    loop {
        match call(&callers, &leader, &mut group).await {
            Ok(answers) => {
                let mut answers = answers.into_iter();
                for (count, answer) in group.drain(..).map(|asked| (asked.proposals.len(), asked.answer)) {
                    let _ = answer.send(answers.by_ref().take(count).collect());
                }
            }
            // Dropping them tells whoever asked.
            Err(error) => tracing::debug!(%leader, %error, "proposals were not answered; they are sent again"),
        }
        let Some(next) = core.proposals.lanes().next(&leader) else { return };
        group = next;
    }
}

async fn call(callers: &Callers, leader: &PeerId, group: &mut [Forwarded]) -> io::Result<Vec<Answer>> {
    let proposals: Vec<Proposal> = group.iter_mut().flat_map(|asked| asked.proposals.iter().cloned()).collect();
    let asked = proposals.len();
    let body = encode(&Request { proposals })?;
    let bytes = callers.to(leader).call(leader, body, FORWARD_TIMEOUT).await?;
    let answers = decode::<Response>(&bytes)?.answers;
    if answers.len() == asked { Ok(answers) } else { Err(io::Error::other("the leader answered something else")) }
}

async fn ask_batcher(core: &Arc<Core>, proposals: Vec<Proposal>, own: bool) -> Vec<Answer> {
    let mut pending = Vec::with_capacity(proposals.len());
    for proposal in proposals {
        let (answer, answered) = oneshot::channel();
        if core.proposals.tx.send(Waiting { proposal, own, answer }).await.is_err() {
            return Vec::new();
        }
        pending.push(answered);
    }
    let mut answers = Vec::with_capacity(pending.len());
    for answered in pending {
        answers.push(answered.await.unwrap_or(Answer::NotLeader(None)));
    }
    answers
}

/// Answers a forwarded request. Proposals carry their origin; nobody may speak in another's name.
pub(crate) async fn answer(core: Arc<Core>, peer: PeerId, body: Vec<u8>) -> Vec<u8> {
    let answers = match decode::<Request>(&body) {
        Ok(Request { proposals }) => {
            let count = proposals.len();
            if count > BATCH_COMMANDS_MAX || proposals.iter().any(|proposal| proposal.origin.peer_id != peer) {
                vec![Answer::Refused("the proposals name another origin, or are too many".to_owned()); count]
            } else if core.node().is_some_and(|node| node.raft.is_leader()) {
                ask_batcher(&core, proposals, false).await
            } else {
                vec![Answer::NotLeader(core.status.borrow().leader.clone()); count]
            }
        }
        Err(error) => vec![Answer::Refused(error.to_string())],
    };
    encode(&Response { answers }).unwrap_or_default()
}

/// The leader's monotonic clock since its last entry.
#[derive(Default)]
struct Elapsed {
    term: u64,
    last_ms: u64,
}

impl Elapsed {
    fn since_last(&mut self, term: u64, now_ms: u64) -> u64 {
        let elapsed_ms = if self.term == term { now_ms.saturating_sub(self.last_ms) } else { 0 };
        (self.term, self.last_ms) = (term, now_ms);
        elapsed_ms
    }
}

/// Puts waiting proposals into entries while this node leads; else tells them who does.
pub(crate) async fn run_batcher(core: Arc<Core>, batcher: Batcher) {
    let Batcher(mut rx) = batcher;
    let slots = Arc::new(Semaphore::new(BATCHES_IN_FLIGHT));
    let mut elapsed = Elapsed::default();
    let mut held: Option<Waiting> = None;
    loop {
        let first = match held.take() {
            Some(waiting) => waiting,
            None => match rx.recv().await {
                Some(waiting) => waiting,
                None => return,
            },
        };
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let mut bytes = first.proposal.command.len();
        let mut group = vec![first];
        while group.len() < BATCH_COMMANDS_MAX {
            let Ok(next) = rx.try_recv() else { break };
            bytes += next.proposal.command.len();
            if bytes > BATCH_MAX_BYTES {
                held = Some(next);
                break;
            }
            group.push(next);
        }
        submit(&core, group, &mut elapsed, slot).await;
    }
}

fn refuse_all(group: Vec<Waiting>, answer: &Answer) {
    for waiting in group {
        let _ = waiting.answer.send(answer.clone());
    }
}

/// Whether another node may propose this; else what it is answered.
fn standing(core: &Core, voters: &[RaftMember], origin: &PeerId, command: &Command) -> Result<(), Answer> {
    let votes = voters.iter().any(|voter| voter.peer_id == *origin);
    match core.replica.read(|state| standing::judge(state, origin, votes, command)) {
        Ok(()) => Ok(()),
        // Whoever was admitted a moment ago may know it before this node does.
        Err(Refusal::NoMember) => Err(Answer::NotLeader(None)),
        Err(Refusal::NotForIt(why)) => {
            tracing::warn!(%origin, why, "a proposal was refused");
            Err(Answer::Applied(Reply::Rejected { code: RejectCode::Stale, message: why.to_owned() }))
        }
    }
}

async fn submit(core: &Arc<Core>, group: Vec<Waiting>, elapsed: &mut Elapsed, slot: OwnedSemaphorePermit) {
    let hint = |core: &Core| {
        Answer::NotLeader(core.status.borrow().leader.clone().filter(|peer| *peer != core.identity.peer_id))
    };
    if core.space.room() >= Room::Low {
        return refuse_all(group, &Answer::NoSpace);
    }
    // An entry that is not understood stops every replica, so this one looks before it appends.
    let mut understood = Vec::with_capacity(group.len());
    let voters = core.replica.status().voters;
    for waiting in group {
        if waiting.own {
            understood.push(waiting);
            continue;
        }
        match waiting.proposal.decode() {
            Ok(command) => match standing(core, &voters, &waiting.proposal.origin.peer_id, &command) {
                Ok(()) => understood.push(waiting),
                Err(answer) => drop(waiting.answer.send(answer)),
            },
            Err(error) => drop(waiting.answer.send(Answer::Refused(error.to_string()))),
        }
    }
    let leading = core.node().and_then(|node| node.raft.as_leader().ok().map(|leader| (node, leader.term())));
    let Some((node, term)) = leading else { return refuse_all(understood, &hint(core)) };
    let (proposals, answers): (Vec<_>, Vec<_>) =
        understood.into_iter().map(|waiting| (waiting.proposal, waiting.answer)).unzip();
    if proposals.is_empty() {
        return;
    }
    let batch = Batch {
        version: ENVELOPE_VERSION,
        elapsed_ms: elapsed.since_last(term, clock::now_ms()),
        at: clock::unix_now(),
        proposals,
    };
    let Ok(bytes) = encode(&batch) else { return };
    let Ok(mut written) = node.raft.client_write_many([EncodedBatch(bytes.into())]).await else { return };
    let asking = Arc::clone(core);
    core.spawn("proposal", async move {
        let result = written.next().await;
        drop(slot);
        match result {
            Some(Ok(Ok(response))) => {
                for (answer, reply) in answers.into_iter().zip(response.response) {
                    let _ = answer.send(Answer::Applied(reply));
                }
            }
            Some(Ok(Err(ClientWriteError::ForwardToLeader(to) | ClientWriteError::LogEntryDiscarded(to)))) => {
                let leader = to.leader_node.map(|node| node.peer_id);
                for answer in answers {
                    let _ = answer.send(Answer::NotLeader(leader.clone()));
                }
            }
            Some(Ok(Err(error))) => {
                for answer in answers {
                    let _ = answer.send(Answer::Refused(error.to_string()));
                }
            }
            // Raft ended: whoever waits looks for another leader.
            Some(Err(_)) | None => asking.refresh_status(),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn numbers_stay_within_the_window_and_groups_never_wait_for_each_other() {
        let numbers = Arc::new(Numbers::default());
        let first = numbers.take(1).await;
        let groups: Vec<Taken> = futures::future::join_all((0..3).map(|_| numbers.take(256))).await;
        assert_eq!(groups[2].numbers, 514..770);
        let mut blocked = Box::pin(numbers.take(256));
        assert!(futures::poll!(&mut blocked).is_pending(), "1,026 is too far from 1");
        drop(groups);
        assert!(futures::poll!(&mut blocked).is_pending(), "the oldest is still open");
        drop(first);
        assert_eq!(blocked.await.numbers, 770..1_026);
    }

    fn forwarded(commands: usize) -> (Forwarded, oneshot::Receiver<Vec<Answer>>) {
        let (answer, answered) = oneshot::channel();
        let origin = Origin { peer_id: PeerId::new("n1"), incarnation: 1, sequence: 1 };
        let proposal = Proposal { origin, version: ENVELOPE_VERSION, command: vec![0; 100] };
        (Forwarded { proposals: vec![proposal; commands], answer }, answered)
    }

    #[test]
    fn what_waits_for_a_leader_goes_together_and_nobody_waits_for_another_leader() {
        let (mut lanes, leader, other) = (Lanes::default(), PeerId::new("a"), PeerId::new("b"));
        for _ in 0..FORWARDS_IN_FLIGHT {
            assert!(lanes.enter(&leader, forwarded(1).0).is_some(), "at once");
        }
        let mut waiting: Vec<_> = [1, 200, 55, 1]
            .map(|commands| {
                let (next, answered) = forwarded(commands);
                assert!(lanes.enter(&leader, next).is_none(), "later");
                answered
            })
            .into();
        assert!(lanes.enter(&other, forwarded(1).0).is_some());
        // Whoever has gone is left out.
        waiting.remove(0);
        let sizes = |group: Option<Vec<Forwarded>>| -> Vec<usize> {
            group.into_iter().flatten().map(|asked| asked.proposals.len()).collect()
        };
        assert_eq!(sizes(lanes.next(&leader)), [200, 55, 1], "as many as one request holds");
        for _ in 0..FORWARDS_IN_FLIGHT {
            assert!(lanes.next(&leader).is_none());
        }
        assert!(lanes.next(&other).is_none() && lanes.0.is_empty(), "nothing stays behind");
    }

    #[test]
    fn hive_time_counts_from_the_leaders_last_entry_and_starts_anew_with_a_term() {
        let mut elapsed = Elapsed::default();
        assert_eq!(elapsed.since_last(3, 1_000), 0, "the first of a term says nothing");
        assert_eq!(elapsed.since_last(3, 1_250), 250);
        assert_eq!(elapsed.since_last(3, 1_250), 0);
        assert_eq!(elapsed.since_last(5, 9_000), 0);
        assert_eq!(elapsed.since_last(5, 9_001), 1);
    }
}
