//! This node as a drone: carries out what is assigned to it, and reports until it was heard.
//!
//! ```text
//!   assigned in the state ─► lease confirmed ─► build ─► artifacts copied ─► outbox ─► Report ─► answered
//!                                  │              └─ with outside effects: not before `Building` is committed
//!                                  └─ renewed every 5 s; lost: stopped (unless pure), superseded: stopped
//! ```
//!
//! Nothing starts on the word of the state alone: the copy of a node that was cut off may be old, so the coordinator confirms
//! each attempt first (what is decided is decided by [`drone`](crate::engine::drone)). A result goes into the outbox before anything else, so that neither a crash nor a lost quorum loses it.
//! Never done here: choosing work, judging results.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::control::{Request, Response};
use super::shared::Shared;
use super::{Event, blobs, coordinating, propose};
use crate::api::ErrorCode;
use crate::clock::now_ms;
use crate::engine::command::{Command, Progress, Reply};
use crate::engine::drone::{Desk, Order, Start, Stop, interrupted, settles};
use crate::engine::id::{JobId, Token};
use crate::engine::job::Outcome;
use crate::engine::scheduler::{self, LeaseAnswer, LeasePhase};
use crate::exec::build::{Attempt, Build, Event as BuildEvent, EventKind as BuildEventKind, StopReason};
use crate::tasks;
use crate::transport::{decode, encode};

/// How long the coordinator's answer about a lease is awaited.
const LEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a report's commit is awaited before it is sent again.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries to tell the hive that an attempt with outside effects begins.
const BEGIN_PAUSE: Duration = Duration::from_millis(500);
/// Results that wait in the outbox are sent again so often, milliseconds.
const OUTBOX_MS: u64 = 2_000;
/// Results sent from the outbox in one go.
const OUTBOX_BATCH: u32 = 64;
/// Copies of an artifact on other nodes before its job is done.
const ARTIFACT_COPIES: usize = 1;
/// After so long a result is reported although nobody else could take a copy, milliseconds.
const COPY_PATIENCE_MS: u64 = 120_000;

/// A result on its way, as it lies in the outbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ended {
    job: JobId,
    token: Token,
    outcome: Outcome,
}

/// What this node is doing for the hive.
pub(super) struct Drone {
    desk: Desk,
    builds: BTreeMap<Token, Build>,
    outbox_ms: u64,
    /// Attempts of a former life were looked for.
    resumed: bool,
}

/// Whether a record of the outbox is a result that can be reported.
pub(super) fn is_result(record: &[u8]) -> bool {
    decode::<Ended>(record).is_ok()
}

impl Drone {
    /// Nothing to do yet.
    pub(super) fn new() -> Self {
        Self { desk: Desk::default(), builds: BTreeMap::new(), outbox_ms: 0, resumed: false }
    }

    /// Nothing runs here, begins, or waits to be reported.
    pub(super) fn is_idle(&self) -> bool {
        self.desk.is_idle()
    }

    /// Does what is due.
    pub(super) async fn tick(&mut self, shared: &Arc<Shared>, now_ms: u64) -> anyhow::Result<()> {
        if !shared.is_member() {
            return Ok(());
        }
        if !self.resumed {
            self.resumed = true;
            self.take_up_outbox(shared).await?;
        }
        for order in shared.read(|state| self.desk.follow(state, &shared.me.peer_id)) {
            if let Order::Interrupted(job, token) = order {
                tracing::warn!(%job, %token, "an attempt was cut off by the end of the agent");
                self.ended(shared, Ended { job, token, outcome: interrupted() }).await?;
            } else {
                self.carry_out(shared, order);
            }
        }
        for order in self.desk.without_lease(now_ms) {
            self.carry_out(shared, order);
        }
        self.ask_for_leases(shared, now_ms);
        if now_ms.saturating_sub(self.outbox_ms) >= OUTBOX_MS {
            self.outbox_ms = now_ms;
            self.send_outbox(shared).await?;
        }
        Ok(())
    }

    /// Results that a former life of the agent left are reported, not built again.
    async fn take_up_outbox(&mut self, shared: &Shared) -> anyhow::Result<()> {
        for record in shared.consensus.outbox_list(u32::MAX).await? {
            if let Ok(result) = decode::<Ended>(&record.value) {
                self.desk.take_up(result.token, result.job, now_ms());
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, shared: &Arc<Shared>, order: Order) {
        match order {
            Order::Start(start) => {
                let Start { token, attempt, spec } = *start;
                let job = spec.id;
                tracing::info!(%job, attempt, target = %spec.target, "building");
                let build = shared.builder.start(Attempt { job, attempt, token, spec }, shared.builds.clone());
                self.builds.insert(token, build);
            }
            Order::Stop(token, why) => {
                if let Some(build) = self.builds.get(&token) {
                    build.stop(match why {
                        Stop::Cancelled(why) => StopReason::Cancelled(why),
                        Stop::Superseded => StopReason::Superseded,
                        Stop::LeaseLost => StopReason::LeaseLost,
                    });
                }
            }
            // Told to the hive by `tick`, which alone looks at the state.
            Order::Interrupted(..) => {}
        }
    }

    fn ask_for_leases(&mut self, shared: &Arc<Shared>, now_ms: u64) {
        let attempts = self.desk.to_ask(own_slots(shared), now_ms);
        if attempts.is_empty() {
            return;
        }
        let Some(coordinator) = shared.consensus.status().leader else { return };
        self.desk.asked(now_ms);
        let shared = Arc::clone(shared);
        tasks::spawn("lease", async move {
            let asked: Vec<(Token, LeasePhase)> = attempts.iter().map(|asked| (asked.token, asked.phase)).collect();
            let valid = if coordinator == shared.me.peer_id {
                coordinating::lease(&shared, &coordinator, &attempts).await
            } else {
                let request = Request::Lease { attempts };
                match shared.calls.ask(&coordinator, &request, LEASE_TIMEOUT).await {
                    Ok(Response::Leases { valid }) if valid.len() == asked.len() => Some(valid),
                    Ok(other) => {
                        tracing::debug!(?other, "no lease");
                        None
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the coordinator did not answer about leases");
                        None
                    }
                }
            };
            let answer = valid.map(|valid| {
                let answers = asked.into_iter().zip(valid);
                answers.map(|((token, phase), valid)| LeaseAnswer { token, phase, valid }).collect()
            });
            let _ = shared.events.send(Event::Leased { answer, sent_ms: now_ms }).await;
        });
    }

    /// The coordinator answered. Leases count from when they were asked for.
    pub(super) fn on_leased(&mut self, shared: &Arc<Shared>, answer: Option<Vec<LeaseAnswer>>, sent_ms: u64) {
        for order in shared.read(|state| self.desk.answered(state, answer, sent_ms)) {
            self.carry_out(shared, order);
        }
    }

    /// A build has news.
    pub(super) async fn on_build(&mut self, shared: &Arc<Shared>, event: BuildEvent) -> anyhow::Result<()> {
        let BuildEvent { job, token, kind } = event;
        match kind {
            BuildEventKind::Started { pinned_commit } => {
                let progress = Progress::Building { pinned_commit };
                if self.desk.waits_for_permit(&token) {
                    begin(shared, job, token, progress);
                } else {
                    report(shared, job, token, progress);
                }
                Ok(())
            }
            BuildEventKind::Uploading => {
                report(shared, job, token, Progress::Uploading);
                Ok(())
            }
            BuildEventKind::Ended(outcome) => {
                self.builds.remove(&token);
                self.ended(shared, Ended { job, token, outcome }).await
            }
        }
    }

    /// The hive knows that an attempt runs, or that it may not.
    pub(super) fn on_begun(&self, token: Token, permitted: bool) {
        match self.builds.get(&token) {
            Some(build) if permitted => build.permit(),
            Some(build) => build.stop(StopReason::Superseded),
            None => {}
        }
    }

    async fn ended(&mut self, shared: &Arc<Shared>, result: Ended) -> anyhow::Result<()> {
        self.desk.ended(result.job, result.token, now_ms());
        if !shared.consensus.outbox_put(result.token.to_string(), encode(&result)?).await? {
            tracing::error!(token = %result.token, "the outbox is full; this result is lost if the agent ends before it is taken");
        }
        self.deliver(shared, result);
        Ok(())
    }

    /// Copies the artifacts to another node, then reports; both again and again from the outbox until the hive has answered.
    fn deliver(&mut self, shared: &Arc<Shared>, result: Ended) {
        if !self.desk.begin_sending(result.token) {
            return;
        }
        let since_ms = self.desk.reporting_since_ms(&result.token).unwrap_or(0);
        let patient = now_ms().saturating_sub(since_ms) < COPY_PATIENCE_MS;
        let shared = Arc::clone(shared);
        tasks::spawn("report", async move {
            let Ended { job, token, outcome } = result;
            let copied = match &outcome {
                Outcome::Succeeded { artifacts } => {
                    let others = shared.alive_peers().len().min(ARTIFACT_COPIES);
                    let mut all = true;
                    for artifact in artifacts {
                        all &= blobs::spread(&shared, artifact.sha256, artifact.size, others).await >= others;
                    }
                    if !all && !patient {
                        tracing::warn!(%job, "no other node has room for a copy of the artifacts; reported with the one here");
                    }
                    all || !patient
                }
                Outcome::Failed { .. } | Outcome::Returned { .. } | Outcome::NotUploaded { .. } => true,
            };
            let settled = copied && {
                let command = Command::Report { job, token, progress: Progress::Ended { outcome } };
                match propose(&shared, command, REPORT_TIMEOUT).await {
                    Ok(reply) => {
                        tracing::debug!(%job, %token, ?reply, "result reported");
                        settles(&reply)
                    }
                    Err(error) => {
                        tracing::debug!(%job, %token, %error, "result not taken yet, kept in the outbox");
                        // What can never be committed must not be tried for ever.
                        error.code == ErrorCode::Invalid
                    }
                }
            };
            let _ = shared.events.send(Event::Reported { token, settled }).await;
        });
    }

    /// The hive answered about a result, or could not be asked.
    pub(super) async fn on_reported(&mut self, shared: &Shared, token: Token, settled: bool) -> anyhow::Result<()> {
        self.desk.end_sending(&token);
        if settled {
            shared.consensus.outbox_done(token.to_string()).await?;
        }
        Ok(())
    }

    async fn send_outbox(&mut self, shared: &Arc<Shared>) -> anyhow::Result<()> {
        for record in shared.consensus.outbox_list(OUTBOX_BATCH).await? {
            match decode::<Ended>(&record.value) {
                Ok(result) => self.deliver(shared, result),
                Err(error) => {
                    tracing::error!(key = record.key, %error, "a result in the outbox cannot be read and is dropped");
                    shared.consensus.outbox_done(record.key).await?;
                }
            }
        }
        Ok(())
    }

    /// Ends all builds; what they were is told to the hive by the next life of the agent.
    pub(super) fn stop(&self) {
        for build in self.builds.values() {
            build.stop(StopReason::Shutdown);
        }
    }
}

/// Attempts that this node runs side by side, as the coordinator counts them.
fn own_slots(shared: &Shared) -> usize {
    let set = super::views::own_slots(shared);
    let settings = scheduler::Settings::default();
    let slots = shared.read(|state| {
        let me = state.member(&shared.me.peer_id)?;
        Some(scheduler::slots(&me.info.inventory, state.drone_record(&shared.me.peer_id), Some(set), &settings))
    });
    usize::try_from(slots.unwrap_or(0)).unwrap_or(usize::MAX)
}

/// Progress that is only shown is sent once: losing it changes nothing but what people see.
fn report(shared: &Arc<Shared>, job: JobId, token: Token, progress: Progress) {
    let shared = Arc::clone(shared);
    tasks::spawn("progress", async move {
        let command = Command::Report { job, token, progress };
        if let Err(error) = propose(&shared, command, REPORT_TIMEOUT).await {
            tracing::debug!(%job, %error, "progress not reported");
        }
    });
}

/// Progress that must be committed before the program starts: tried until the hive answers. An attempt that is given up meanwhile
/// is stopped by the loop; then the answer is a refusal.
fn begin(shared: &Arc<Shared>, job: JobId, token: Token, progress: Progress) {
    let shared = Arc::clone(shared);
    tasks::spawn("begin", async move {
        let answered = loop {
            let command = Command::Report { job, token, progress: progress.clone() };
            match propose(&shared, command, REPORT_TIMEOUT).await {
                Ok(reply) => break reply,
                Err(error) => tracing::debug!(%job, %error, "the hive does not know yet that this attempt runs"),
            }
            if shared.read(|state| !state.live_attempts(&shared.me.peer_id).any(|(_, live)| live.token == token)) {
                return;
            }
            tokio::time::sleep(BEGIN_PAUSE).await;
        };
        let permitted = matches!(answered, Reply::Done);
        if !permitted {
            tracing::warn!(%job, %token, ?answered, "this attempt may not begin");
        }
        let _ = shared.events.send(Event::Begun { token, permitted }).await;
    });
}
