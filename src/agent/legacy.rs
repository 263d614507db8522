//! Drones of the Python build swarm, served by any node on behalf of the coordinator.
//!
//! ```text
//!   HTTP at any node ──► ask ──► the coordinator's desk (engine::legacy) ──► proposals
//!                          └──► over the mesh, when another node coordinates; again while nobody does
//! ```
//!
//! A drone is answered after its word is committed, and never twice with another result: what it says again after a lost answer is
//! recognised. A success is looked for in staging before it counts. Never done here: judging whose attempt it is (that is
//! `engine::legacy`), HTTP.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::control::{Request, Response};
use super::shared::Shared;
use super::staging::{Staged, find_staged};
use super::{internal, propose, propose_all};
use crate::api::legacy::{Call, Completed, Completion, Registered, Registration, Seen, StopWorkTold, Told, WorkTold};
use crate::api::{ApiError, ApiResult, ErrorCode};
use crate::clock::{now_ms, unix_now};
use crate::engine::command::{Command, Progress, RejectCode, Reply};
use crate::engine::id::{JobId, PeerId, Token};
use crate::engine::job::{AttemptState, Outcome};
use crate::engine::legacy::{self, Desk, Judgement, LegacyInfo, OFFLINE_AFTER_MS, Vitals, Work, peer_id};
use crate::engine::scheduler::{DroneView, wanted_tree};
use crate::engine::state::State;
use crate::tasks;

pub(super) mod queueing;
pub(super) mod reads;
pub(super) mod samples;

use self::samples::Samples;

/// How long a drone waits for a coordinator, elections included, before it is told to come again.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long one answer of the coordinator is awaited.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Both, for the end of a package: its upload is read to its end, wherever it is.
const COMPLETE_PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks for a coordinator.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// What ends sooner than this needs no commit of its own for having begun.
const BEGIN_AFTER: Duration = Duration::from_millis(250);
/// How long a report's commit is awaited.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a question for work waits for a plan, when there is work that its drone might get.
const WORK_PATIENCE: Duration = Duration::from_millis(600);

/// What readers are told of drones is asked of the coordinator so often, milliseconds.
const SEEN_MS: u64 = 1_000;
/// And awaited for so long: a reader would rather have what was known before.
const SEEN_TIMEOUT: Duration = Duration::from_millis(500);

/// Statuses that mean that a package was built.
const WELL: [&str; 6] = ["success", "succeeded", "completed", "complete", "received", "built"];

/// What this node remembers for the drones and readers of the old swarm.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// While this node is the coordinator.
    pub(super) desk: Mutex<Option<Desk>>,
    seen: Mutex<SeenLately>,
    pub(super) samples: Samples,
    totals: Mutex<reads::Totals>,
    pings: reads::Pings,
}

/// Whom the coordinator has heard of, as this node was last told, and when that was.
#[derive(Debug, Default)]
struct SeenLately {
    asked_ms: u64,
    heard_ms: BTreeMap<PeerId, (u64, Vitals)>,
}

/// A term begins: nobody has been heard in it.
pub(super) fn open_desk(shared: &Shared) {
    *shared.legacy.desk.lock().unwrap_or_else(PoisonError::into_inner) = Some(Desk::default());
}

/// The term is over.
pub(super) fn close_desk(shared: &Shared) {
    *shared.legacy.desk.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// The drones of the old swarm, as a plan sees them: on the coordinator from its desk, elsewhere from what was last asked.
pub(super) fn drone_views(shared: &Shared) -> Vec<(PeerId, DroneView)> {
    let peers: Vec<PeerId> = shared.read(|state| state.legacy_drones().map(|drone| drone.peer_id.clone()).collect());
    if peers.is_empty() {
        return Vec::new();
    }
    let now_ms = now_ms();
    let alive = |peer: &PeerId| match shared.desk(|desk| desk.is_alive(peer, now_ms)) {
        Some(alive) => alive,
        None => {
            let lately = shared.legacy.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let heard = lately.heard_ms.get(peer);
            heard.is_some_and(|(heard_ms, _)| now_ms.saturating_sub(*heard_ms) < OFFLINE_AFTER_MS)
        }
    };
    let view = |peer: PeerId| {
        let ahead = shared.desk(|desk| desk.ahead(&peer, now_ms)).unwrap_or_default();
        let view = DroneView { alive: alive(&peer), takes_builds: true, ahead, ..DroneView::default() };
        (peer, view)
    };
    peers.into_iter().map(view).collect()
}

/// When each drone was heard last, by this node's clock, and how it said it was. Asked of the coordinator at most once a second;
/// while there is none, what was known before goes on ageing.
pub(super) async fn heard(shared: &Arc<Shared>) -> BTreeMap<PeerId, (u64, Vitals)> {
    let lately = || shared.legacy.seen.lock().unwrap_or_else(PoisonError::into_inner);
    let now = now_ms();
    let fresh = {
        let mut lately = lately();
        let fresh = now.saturating_sub(lately.asked_ms) < SEEN_MS && lately.asked_ms > 0;
        if !fresh {
            lately.asked_ms = now;
        }
        fresh
    };
    let due = !fresh && shared.read(|state| state.legacy_drones().next().is_some());
    if due && let Ok(Ok(Told::Seen(seen))) = tokio::time::timeout(SEEN_TIMEOUT, ask(shared, Call::Seen)).await {
        let now = now_ms();
        let heard = |seen: Seen| (peer_id(&seen.name), (now.saturating_sub(seen.silent_ms), seen.vitals));
        lately().heard_ms = seen.into_iter().map(heard).collect();
    }
    lately().heard_ms.clone()
}

fn unavailable() -> ApiError {
    let hint = "nothing was lost: ask again in a few seconds, of this node or another. See hive status";
    ApiError::new(ErrorCode::NoQuorum, "the hive has no coordinator right now", hint)
}

/// Has the coordinator answer, wherever it is.
pub(super) async fn ask(shared: &Arc<Shared>, call: Call) -> ApiResult<Told> {
    let reads = matches!(call, Call::Complete(_));
    let (all, one) = if reads { (COMPLETE_PATIENCE, COMPLETE_PATIENCE) } else { (PATIENCE, CALL_TIMEOUT) };
    let asking = async {
        loop {
            if let Some(told) = serve(shared, call.clone()).await? {
                return Ok(told);
            }
            let leader = shared.consensus.watch_leadership().borrow().leader.clone();
            let leader = leader.filter(|leader| *leader != shared.me.peer_id);
            if let Some(leader) = leader {
                let request = Request::Legacy(Box::new(call.clone()));
                let asking = shared.calls.ask(&leader, &request, one);
                let asked = tokio::select! {
                    asked = asking => asked,
                    // It will not answer any more, or not as the coordinator.
                    () = deposed(shared, &leader) => continue,
                };
                match asked {
                    Ok(Response::Legacy(told)) => return *told,
                    Ok(other) => tracing::debug!(?other, "asked on behalf of a drone"),
                    Err(error) => tracing::debug!(%error, "the coordinator could not be asked on behalf of a drone"),
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    };
    tokio::time::timeout(all, asking).await.map_err(|_| unavailable())?
}

/// Waits until another node than this one leads, or none.
async fn deposed(shared: &Shared, leader: &PeerId) {
    let mut leadership = shared.consensus.watch_leadership();
    // An error means that the agent ends.
    let _ = leadership.wait_for(|now| now.leader.as_ref() != Some(leader)).await;
}

/// Answers as the coordinator. None: this node is not.
pub(super) async fn serve(shared: &Arc<Shared>, call: Call) -> ApiResult<Option<Told>> {
    if shared.desk(|_| ()).is_none() {
        return Ok(None);
    }
    match call {
        Call::Register { info, vitals } => register(shared, *info, vitals).await.map(|told| told.map(Told::Registered)),
        Call::Work { drone } => Ok(work(shared, &drone).await.map(Told::Work)),
        Call::Complete(completion) => complete(shared, completion).await.map(|told| told.map(Told::Completed)),
        Call::Forget { drone } => forget(shared, &drone).await.map(|gone| Some(Told::Forgotten(gone))),
        Call::Seen => Ok(seen(shared).map(Told::Seen)),
    }
}

/// A registration, with where to ask from then on.
pub(super) async fn registered(
    shared: &Arc<Shared>,
    registration: Registration,
    from: IpAddr,
) -> ApiResult<Registered> {
    let (info, vitals) = queueing::understand(&registration, from)?;
    let Told::Registered(told) = ask(shared, Call::Register { info: Box::new(info), vitals }).await? else {
        return Err(internal("a registration was answered with something else"));
    };
    let (orchestrator, orchestrator_port, orchestrator_name) = reads::here(shared);
    Ok(Registered { orchestrator, orchestrator_port, orchestrator_name, ..told })
}

/// Takes a measurement, when it is time.
pub(super) fn sample(shared: &Shared, now_ms: u64) {
    if !shared.legacy.samples.is_due(now_ms) {
        return;
    }
    let counts = shared.read(State::counts);
    let mut loads: Vec<(String, u32)> = shared
        .soft(|soft| soft.reports.iter().map(|(peer, report)| (shared.name_of(peer), report.load_centi)).collect());
    loads.push((shared.me.name.clone(), super::views::own_report(shared).load_centi));
    shared.legacy.samples.add(unix_now(), counts, loads);
}

/// The drone that calls itself so: by name, or by the id that it registered with.
fn find(state: &State, called: &str) -> Option<PeerId> {
    let named = state.legacy_drone(&peer_id(called));
    let found = named.or_else(|| state.legacy_drones().find(|drone| drone.info.id == called));
    found.map(|drone| drone.peer_id.clone())
}

/// It was heard: that renews the leases of what it was handed, and of what waits for it.
fn hear(shared: &Shared, drone: &PeerId) -> Option<()> {
    let now_ms = now_ms();
    let (handed, waiting) = shared.desk(|desk| {
        desk.hear(drone, now_ms);
        shared.read(|state| desk.attempts(state, drone))
    })?;
    let mut leases = shared.leases();
    let leases = leases.as_mut()?;
    leases.renew(handed, now_ms);
    leases.renew_waiting(waiting, now_ms);
    Some(())
}

async fn register(shared: &Arc<Shared>, info: LegacyInfo, vitals: Vitals) -> ApiResult<Option<Registered>> {
    let drone = peer_id(&info.name);
    let known = shared.read(|state| state.legacy_drone(&drone).is_some_and(|known| known.info == info));
    if !known {
        let name = info.name.clone();
        match propose(shared, Command::RegisterLegacy { drone: info }, REPORT_TIMEOUT).await? {
            Reply::Rejected { code: RejectCode::Conflict, message } => {
                let told = Registered { status: "ignored".to_owned(), reason: Some(message), ..Registered::default() };
                return Ok(Some(told));
            }
            Reply::Rejected { message, .. } => {
                let hint = "name, id, address and version are short texts; the name has no blanks";
                return Err(ApiError::new(ErrorCode::Invalid, message, hint));
            }
            Reply::Done | Reply::Role { .. } | Reply::Assigned { .. } | Reply::Changed { .. } => {}
        }
        tracing::info!(drone = name, "a drone of the old swarm has registered");
    }
    if hear(shared, &drone).is_none() {
        return Ok(None);
    }
    let current = vitals.current_task.clone().unwrap_or_default();
    let told = shared.desk(|desk| {
        desk.note(&drone, vitals);
        shared.read(|state| Registered {
            status: "registered".to_owned(),
            paused: state.paused().is_some() || state.drone_record(&drone).paused.is_some(),
            revoke: desk.revoked(state, &drone),
            stop_work: desk.stop_work(state, &drone, &current).map(|stop| StopWorkTold {
                package: stop.package,
                reason: stop.reason,
                reassigned_to: stop.reassigned_to,
            }),
            ..Registered::default()
        })
    });
    Ok(told)
}

/// Hands out its oldest attempt. When it has none and there is work, a plan is awaited for a moment.
async fn work(shared: &Arc<Shared>, called: &str) -> Option<WorkTold> {
    let Some(drone) = shared.read(|state| find(state, called)) else {
        return Some(WorkTold { action: Some("register".to_owned()), ..WorkTold::default() });
    };
    let mut applied = shared.consensus.replica().watch();
    let deadline = tokio::time::Instant::now() + WORK_PATIENCE;
    loop {
        applied.mark_unchanged();
        hear(shared, &drone)?;
        let (work, revoke, may_come) = hand_out(shared, &drone)?;
        if let Work::Package { job, token, package, begins } = work {
            if begins {
                tell_that_it_began(shared, job, token);
            }
            return Some(WorkTold { package: Some(package), revoke, ..WorkTold::default() });
        }
        let moved = tokio::time::timeout_at(deadline, applied.changed()).await;
        if !may_come || moved.is_err() {
            let tree = shared.read(|state| wanted_tree(state, &drone));
            let action = tree.as_ref().map(|_| "sync_portage".to_owned());
            return Some(WorkTold { package: None, revoke, action, portage_timestamp: tree });
        }
    }
}

/// What it is handed, what it is to drop, and whether waiting for a plan may change that.
fn hand_out(shared: &Shared, drone: &PeerId) -> Option<(Work, Vec<String>, bool)> {
    let leases = shared.leases();
    let revoking = |token: &Token| leases.as_ref().is_some_and(|leases| leases.is_revoking(token));
    shared.desk(|desk| {
        shared.read(|state| {
            let record = state.drone_record(drone);
            let held = state.paused().is_some() || record.paused.is_some() || record.drain.is_some();
            let work = desk.work(state, drone, revoking);
            (work, desk.revoked(state, drone), !held && state.buckets().next().is_some())
        })
    })
}

/// Not awaited by the drone: that it began is remembered here until the hive knows it. What ends at once is told with its end.
fn tell_that_it_began(shared: &Arc<Shared>, job: JobId, token: Token) {
    let shared = Arc::clone(shared);
    tasks::spawn("legacy begin", async move {
        tokio::time::sleep(BEGIN_AFTER).await;
        if !shared.read(|state| is_assigned(state, &job, &token)) {
            return;
        }
        if let Err(error) = propose(&shared, began(job, token), REPORT_TIMEOUT).await {
            tracing::debug!(%job, %error, "it was not committed that a drone of the old swarm began");
        }
    });
}

fn began(job: JobId, token: Token) -> Command {
    Command::Report { job, token, progress: Progress::Building { pinned_commit: None } }
}

/// The attempt is live, and the hive does not know yet that it began.
fn is_assigned(state: &State, job: &JobId, token: &Token) -> bool {
    let live = state.job(job).and_then(|job| job.live_attempt());
    live.is_some_and(|attempt| attempt.token == *token && attempt.state == AttemptState::Assigned)
}

async fn complete(shared: &Arc<Shared>, completion: Completion) -> ApiResult<Option<Completed>> {
    let Some(drone) = shared.read(|state| find(state, &completion.id)) else {
        return Ok(Some(stale("this drone is not registered".to_owned(), None)));
    };
    if hear(shared, &drone).is_none() {
        return Ok(None);
    }
    let judge = || shared.desk(|desk| shared.read(|state| desk.judge(state, &drone, &completion.package)));
    let well = WELL.contains(&completion.status.as_str());
    let Some(judged) = judge() else { return Ok(None) };
    let (job, token) = match settled(judged, well) {
        Ok(told) => return Ok(Some(told)),
        Err(live) => live,
    };
    let mut missing = None;
    let outcome = if well {
        missing = find_upload(shared, &completion.package).await?;
        match &missing {
            None => Outcome::Succeeded { artifacts: Vec::new() },
            Some(why) => Outcome::NotUploaded { reason: format!("missing_binary: {why}") },
        }
    } else {
        legacy::failure(&completion.status, completion.error_detail.as_deref().unwrap_or_default())
    };
    let ended = Command::Report { job, token, progress: Progress::Ended { outcome } };
    let unknown = shared.read(|state| is_assigned(state, &job, &token));
    // A success says by itself that it began.
    let begin = (unknown && (missing.is_some() || !well)).then(|| began(job, token));
    let commands = begin.into_iter().chain([ended]).collect();
    let reply = propose_all(shared, commands, REPORT_TIMEOUT).await?.pop();
    match reply.ok_or_else(|| internal("a report was answered with nothing"))? {
        Reply::Rejected { message, .. } => {
            // Somebody was faster: it said so twice at once, or the attempt was taken from it.
            let told = judge().map(|judged| settled(judged, well).unwrap_or_else(|_| stale(message, None)));
            Ok(told)
        }
        Reply::Done | Reply::Role { .. } | Reply::Assigned { .. } | Reply::Changed { .. } => {
            shared.desk(|desk: &mut Desk| desk.completed(&drone, &token, now_ms()));
            let status = if missing.is_some() { "missing_binary" } else { "ok" };
            let accepted = missing.is_none();
            Ok(Some(Completed { status: status.to_owned(), accepted, reason: missing, ..Completed::default() }))
        }
    }
}

/// The answer when there is nothing to commit, else the attempt that counts.
fn settled(judged: Judgement, well: bool) -> Result<Completed, (JobId, Token)> {
    match judged {
        Judgement::Counts { job, token } => Err((job, token)),
        Judgement::Known { .. } if well => {
            Ok(Completed { status: "ok".to_owned(), accepted: true, ..Completed::default() })
        }
        Judgement::Known { .. } => Ok(stale("its success was accepted before".to_owned(), None)),
        Judgement::Stale { reason, reassigned_to } => Ok(stale(reason, reassigned_to)),
    }
}

fn stale(reason: String, reassigned_to: Option<String>) -> Completed {
    Completed {
        status: "stale".to_owned(),
        accepted: false,
        stale: true,
        action: Some("stop_work".to_owned()),
        reason: Some(reason),
        reassigned_to,
    }
}

/// None when what a drone says to have built is in staging, or needs not be; else why it is not. Where no node has a staging
/// directory there is nothing to look at, and the drone is believed.
async fn find_upload(shared: &Arc<Shared>, package: &str) -> ApiResult<Option<String>> {
    if legacy::is_exempt(package) {
        return Ok(None);
    }
    match find_staged(shared, package).await {
        Staged::Found { node, path, size_bytes } => {
            tracing::debug!(package, node = %shared.name_of(&node), path, size_bytes, "found what was uploaded");
            Ok(None)
        }
        Staged::NobodyHasStaging => Ok(None),
        Staged::Missing { why, .. } => Ok(Some(why)),
        Staged::Unreachable { why, .. } => {
            let message = format!("the upload cannot be looked at: {why}");
            let hint = "nothing was decided: say it again in a minute; hive status says which nodes do not answer";
            Err(ApiError::new(ErrorCode::Unreachable, message, hint))
        }
    }
}

async fn forget(shared: &Arc<Shared>, called: &str) -> ApiResult<bool> {
    let Some(drone) = shared.read(|state| find(state, called)) else { return Ok(false) };
    match propose(shared, Command::ForgetLegacy { peer_id: drone.clone() }, REPORT_TIMEOUT).await? {
        Reply::Rejected { code: RejectCode::NotFound, .. } => Ok(false),
        Reply::Rejected { message, .. } => Err(internal(message)),
        Reply::Done | Reply::Role { .. } | Reply::Assigned { .. } | Reply::Changed { .. } => {
            shared.desk(|desk: &mut Desk| desk.forget(&drone));
            Ok(true)
        }
    }
}

fn seen(shared: &Shared) -> Option<Vec<Seen>> {
    let now_ms = now_ms();
    shared.desk(|desk| {
        shared.read(|state| {
            let seen = |drone: &legacy::LegacyDrone| {
                let silent_ms = desk.silent_ms(&drone.peer_id, now_ms)?;
                Some(Seen { name: drone.info.name.clone(), silent_ms, vitals: desk.vitals(&drone.peer_id) })
            };
            state.legacy_drones().filter_map(seen).collect()
        })
    })
}
