//! Clients that submit, assign, revoke, cancel and read jobs at whatever machine, and write down what they saw.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crash_disk::Random;
use hive::consensus::{Consensus, ProposeError};
use hive::engine::command::{Command, RejectCode, Reply};
use hive::engine::id::{JobId, PeerId, SessionId, Sha256Hash, Token};
use hive::engine::job::{JobSpec, JobState, Source, Work};
use uuid::Uuid;

use super::checker::{Answer, Call, Event, Seen};
use super::cluster::{Cluster, EPOCH};

/// A call that takes longer has no answer.
const CALL_TIMEOUT: Duration = Duration::from_millis(1_200);
/// Jobs that clients contend for at once, and calls after which the next ones take their place.
const JOBS: u64 = 6;
const CALLS_PER_SET: u64 = 180;
/// Between two calls of a client, milliseconds at most.
const PAUSE_MAX_MS: u64 = 25;

/// Everything that clients saw.
#[derive(Debug, Default)]
pub(crate) struct History {
    now: AtomicU64,
    pub(crate) events: Mutex<Vec<Event>>,
}

impl History {
    fn tick(&self) -> u64 {
        self.now.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn keep(&self, event: Event) {
        self.events.lock().expect("lock").push(event);
    }
}

type Running = Arc<Mutex<Vec<(PeerId, Consensus)>>>;

pub(crate) struct Client {
    running: Running,
    history: Arc<History>,
    random: Random,
    /// Last token that was seen of a job.
    tokens: BTreeMap<u64, u64>,
}

fn job_id(job: u64) -> JobId {
    JobId(Uuid::from_u128(u128::from(job) + 1))
}

/// The drone that all jobs are assigned to.
pub(crate) fn drone() -> PeerId {
    PeerId::new("peerXdrone")
}

fn spec(job: u64) -> JobSpec {
    let work = Work::Command {
        source: Source::Blob { sha256: Sha256Hash([9; 32]), size: 100 },
        argv: vec!["make".to_owned(), job.to_string()],
        artifacts: vec!["out/*".to_owned()],
    };
    JobSpec { pure: true, ..JobSpec::new(job_id(job), format!("job{job}"), work) }
}

fn command(job: u64, call: Call) -> Option<Command> {
    let id = job_id(job);
    Some(match call {
        Call::Submit => Command::submit(SessionId(Uuid::from_u128(7)), "client", vec![spec(job)]),
        Call::Assign => Command::Assign { job: id, node: drone() },
        Call::Revoke(counter) => {
            Command::Revoke { job: id, token: Token { epoch: EPOCH.id, counter }, reason: "test".to_owned() }
        }
        Call::Cancel => Command::Cancel { job: id, reason: "test".to_owned() },
        Call::Read => return None,
    })
}

fn is_for_voters(reply: &Reply) -> bool {
    matches!(reply, Reply::Rejected { message, .. } if message.starts_with("only a coordinator decides"))
}

fn answer(reply: &Reply) -> Answer {
    match reply {
        Reply::Done => Answer::Done,
        Reply::Assigned { token, attempt } => Answer::Assigned(token.counter, *attempt),
        Reply::Rejected { code: RejectCode::NotFound, .. } => Answer::NotFound,
        Reply::Rejected { code: RejectCode::Stale, .. } => Answer::Stale,
        Reply::Rejected { code: RejectCode::Conflict, .. } => Answer::Conflict,
        other => panic!("unexpected: {other:?}"),
    }
}

fn look(consensus: &Consensus, job: u64) -> Seen {
    consensus.replica().read(|state| {
        let Some(job) = state.job(&job_id(job)) else { return Seen::Nothing };
        match job.state {
            JobState::Needed => Seen::Needed,
            JobState::Delegated => Seen::Delegated(job.attempts.last().map_or(0, |last| last.token.counter)),
            JobState::Cancelled => Seen::Cancelled,
            other => panic!("unexpected: {other:?}"),
        }
    })
}

/// A read that is as new as its call: whoever leads asks a majority first. None: nobody could say.
async fn read(consensus: &Consensus, job: u64) -> Option<Seen> {
    consensus.confirm_leader().await.ok()?;
    Some(look(consensus, job))
}

impl Client {
    pub(crate) fn new(number: u64, cluster: &Cluster, history: &Arc<History>, seed: u64) -> Self {
        let running = Arc::clone(&cluster.running);
        let random = Random::new(seed ^ (number << 32));
        Self { running, history: Arc::clone(history), random, tokens: BTreeMap::new() }
    }

    fn choose(&mut self, job: u64) -> Call {
        match self.random.below(100) {
            0..=19 => Call::Submit,
            20..=49 => Call::Assign,
            50..=69 => Call::Revoke(self.tokens.get(&job).copied().unwrap_or(1)),
            70..=73 => Call::Cancel,
            _ => Call::Read,
        }
    }

    async fn call(&mut self, job: u64, call: Call, consensus: &Consensus) {
        let called = self.history.tick();
        let answered = match command(job, call) {
            None => match tokio::time::timeout(CALL_TIMEOUT, read(consensus, job)).await {
                Ok(Some(seen)) => Some(Answer::Seen(seen)),
                // Nothing was said, and a read changes nothing.
                Ok(None) | Err(_) => return,
            },
            Some(command) => match consensus.propose(vec![command], CALL_TIMEOUT).await {
                // A leader refuses what only voters may propose, but an earlier try of the same proposal may be in its log.
                Ok(replies) if is_for_voters(&replies[0]) => None,
                Ok(replies) => Some(answer(&replies[0])),
                Err(ProposeError::NoQuorum { unknown: true }) => None,
                Err(ProposeError::NoQuorum { unknown: false } | ProposeError::DiskLow) => return,
                Err(other) => panic!("unexpected: {other}"),
            },
        };
        if let Some(Answer::Assigned(token, _) | Answer::Seen(Seen::Delegated(token))) = answered {
            self.tokens.insert(job, token);
        }
        let answered = answered.map(|answer| (self.history.tick(), answer));
        self.history.keep(Event { job, call, called, answered });
    }

    /// Goes on until told to end.
    pub(crate) async fn run(mut self, end: Arc<AtomicBool>) {
        while !end.load(Ordering::Relaxed) {
            let set = self.history.events.lock().expect("lock").len() as u64 / CALLS_PER_SET;
            let job = set * JOBS + self.random.below(JOBS);
            let call = self.choose(job);
            let somebody = {
                let running = self.running.lock().expect("lock");
                let at = usize::try_from(self.random.below(running.len() as u64)).expect("small");
                running.get(at).map(|(_, consensus)| consensus.clone())
            };
            if let Some(consensus) = somebody {
                self.call(job, call, &consensus).await;
            }
            let pause = Duration::from_millis(1 + self.random.below(PAUSE_MAX_MS));
            drop(tokio::time::timeout(pause, std::future::pending::<()>()).await);
        }
    }

    /// Reads every job once more, when everything is well again.
    pub(crate) async fn read_all(mut self, leader: Consensus) {
        let jobs: std::collections::BTreeSet<u64> =
            self.history.events.lock().expect("lock").iter().map(|event| event.job).collect();
        for job in jobs {
            self.call(job, Call::Read, &leader).await;
        }
    }
}
