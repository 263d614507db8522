//! Sessions as people see them: found by id or name, listed, shown with what their jobs wait for, and ended.
//!
//! Large ones are read piece by piece, so that nobody who writes waits for whoever looks. Never done here: guessing how long
//! something takes (that is `engine::forecast`).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::controlling::{changed, commit};
use super::shared::Shared;
use super::submitting::wait_until;
use super::{coordinating, internal, views};
use crate::api::{
    ApiError, ApiResult, Changed, ErrorCode, EtaView, SessionGroup, SessionLine, SessionList, SessionState, SessionView,
};
use crate::clock::{now_ms, unix_now};
use crate::engine::control::Control;
use crate::engine::forecast::{Task, forecast};
use crate::engine::id::{JobId, SessionId, UnixMillis, id_range};
use crate::engine::job::{Job, JobState, Needs, Work};
use crate::engine::scheduler::{self, Now};
use crate::engine::session::{Session, SessionPhase};
use crate::engine::state::State;
use crate::web::node::SessionQuery;

/// Jobs shown of each state.
const GROUP_SHOWN_MAX: usize = 20;
/// Jobs read before others may write.
const PIECE: usize = 2_000;
/// Kinds of needs whose drones are counted one by one; jobs of further kinds count as if all drones could do them.
const POOLS_MAX: usize = 32;
/// Fewest characters of an id that stand for it.
const PREFIX_MIN: usize = 4;

/// The session that is meant by an id, by the beginning of one, or by a name.
pub(super) fn find(state: &State, text: &str) -> ApiResult<SessionId> {
    let hint = "see: hive session list --all";
    if let Ok(id) = text.parse::<SessionId>() {
        let known = state.session(&id).map(|_| id);
        return known.ok_or_else(|| ApiError::new(ErrorCode::NotFound, format!("no session {id}"), hint));
    }
    let named: Vec<SessionId> =
        state.sessions().filter(|(_, session)| session.about.name == text).map(|(id, _)| *id).collect();
    let range = id_range(text).filter(|_| text.len() >= PREFIX_MIN);
    let begins = |id: &SessionId| range.is_some_and(|(low, high)| (low..=high).contains(&id.0));
    let found = if named.is_empty() { state.sessions().map(|(id, _)| *id).filter(begins).collect() } else { named };
    match found.as_slice() {
        [one] => Ok(*one),
        [] => {
            let shown: String = text.chars().take(80).collect();
            Err(ApiError::new(ErrorCode::NotFound, format!("no session is called {shown:?} or begins so"), hint))
        }
        several => {
            let ids: Vec<String> = several.iter().rev().take(4).map(ToString::to_string).collect();
            let message = format!("{} sessions could be meant: {}", several.len(), ids.join(", "));
            Err(ApiError::new(ErrorCode::Invalid, message, "give one of their ids"))
        }
    }
}

/// Where a session stands, in a word.
fn phase(state: &State, id: &SessionId, session: &Session) -> SessionState {
    match session.phase {
        SessionPhase::Draft => {
            let resolves = |job: &Job| matches!(job.spec.work, Work::Resolve { .. });
            if state.session_jobs(id).any(resolves) { SessionState::Resolving } else { SessionState::Importing }
        }
        SessionPhase::Cancelled => SessionState::Cancelled,
        SessionPhase::Open if session.ended_at.is_none() => SessionState::Active,
        SessionPhase::Open => {
            let counts = state.session_counts(id);
            let failed = counts.failed + counts.quarantined;
            if failed > 0 {
                SessionState::Failed
            } else if counts.received == 0 && counts.cancelled > 0 {
                SessionState::Cancelled
            } else {
                SessionState::Completed
            }
        }
    }
}

fn line(state: &State, id: &SessionId, session: &Session) -> SessionLine {
    let counts = state.session_counts(id);
    let phase = phase(state, id, session);
    let status = match phase {
        SessionState::Resolving | SessionState::Importing | SessionState::Active => "active",
        SessionState::Completed | SessionState::Failed => "completed",
        SessionState::Cancelled => "aborted",
    };
    SessionLine {
        id: *id,
        name: session.about.name.clone(),
        status: status.to_owned(),
        phase,
        submitter: session.about.submitter.clone(),
        profile_id: session.about.profile.clone(),
        total_packages: session.jobs,
        completed_packages: counts.received,
        failed_packages: counts.failed + counts.quarantined,
        started_at: session.created_at,
        completed_at: session.ended_at,
    }
}

/// `hive session list`.
pub(super) fn list(state: &State, query: SessionQuery) -> SessionList {
    let wanted = |session: &Session| {
        !query.open
            || session.phase == SessionPhase::Draft
            || (session.phase == SessionPhase::Open && session.ended_at.is_none())
    };
    let mut sessions: Vec<(&SessionId, &Session)> = state.sessions().filter(|(_, session)| wanted(session)).collect();
    sessions.sort_by_key(|(_, session)| std::cmp::Reverse(session.ordinal));
    let newest = sessions.into_iter().take(query.limit);
    SessionList { sessions: newest.map(|(id, session)| line(state, id, session)).collect() }
}

/// `hive session show`.
pub(super) async fn show(shared: &Arc<Shared>, text: String) -> ApiResult<SessionView> {
    let shared = Arc::clone(shared);
    // A session may hold 100,000 jobs, and this thread serves others too.
    tokio::task::spawn_blocking(move || view(&shared, &text)).await.map_err(internal)?
}

fn view(shared: &Shared, text: &str) -> ApiResult<SessionView> {
    let (id, ids) = shared.read(|state| {
        let id = find(state, text)?;
        Ok::<_, ApiError>((id, state.session_jobs(&id).map(|job| job.spec.id).collect::<Vec<_>>()))
    })?;
    let mut gathered = Gathered::default();
    for piece in ids.chunks(PIECE) {
        let at = unix_now();
        shared.read(|state| piece.iter().filter_map(|id| state.job(id)).for_each(|job| gathered.take(state, job, at)));
    }
    let eta = gathered.eta(shared, &id);
    let gone = || ApiError::new(ErrorCode::NotFound, format!("no session {id}"), "see: hive session list --all");
    shared.read(|state| {
        let session = state.session(&id).ok_or_else(gone)?;
        Ok(SessionView {
            line: line(state, &id, session),
            counts: views::counts(&state.session_counts(&id)),
            why: session.why.clone(),
            eta,
            groups: gathered.groups.into_values().collect(),
        })
    })
}

/// A session as it was at a moment. When it was expected to end is not kept: that rests on what drones were there.
pub(super) fn view_then(state: &State, text: &str, at: UnixMillis) -> ApiResult<SessionView> {
    let id = find(state, text)?;
    let mut gathered = Gathered::default();
    state.session_jobs(&id).for_each(|job| gathered.take(state, job, at));
    let gone = || ApiError::new(ErrorCode::NotFound, format!("no session {id}"), "see: hive session list --all");
    let session = state.session(&id).ok_or_else(gone)?;
    Ok(SessionView {
        line: line(state, &id, session),
        counts: views::counts(&state.session_counts(&id)),
        why: session.why.clone(),
        eta: None,
        groups: gathered.groups.into_values().collect(),
    })
}

/// What one look at the jobs of a session brings.
#[derive(Default)]
struct Gathered {
    groups: BTreeMap<JobState, SessionGroup>,
    tasks: Vec<Task>,
    /// A job of each kind of needs, by the position of its pool.
    pools: BTreeMap<Needs, (usize, Box<Job>)>,
}

impl Gathered {
    fn take(&mut self, state: &State, job: &Job, at: UnixMillis) {
        let shown = state.shown_state(job);
        let group =
            self.groups.entry(shown).or_insert_with(|| SessionGroup { state: shown, count: 0, jobs: Vec::new() });
        group.count += 1;
        if group.jobs.len() < GROUP_SHOWN_MAX {
            group.jobs.push(views::job_line(state, job));
        }
        // One that does what another does takes no time of its own.
        if job.state.is_terminal() || job.joined.is_some() {
            return;
        }
        let needs = job.spec.needs();
        let position = match self.pools.get(&needs) {
            Some((position, _)) => *position,
            None if self.pools.len() < POOLS_MAX => {
                let position = self.pools.len();
                self.pools.insert(needs, (position, Box::new(job.clone())));
                position
            }
            None => POOLS_MAX,
        };
        let through = |id: &JobId| state.job(id).and_then(|job| job.joined).unwrap_or(*id);
        self.tasks.push(Task {
            id: job.spec.id,
            depends_on: job.spec.depends_on.iter().map(through).collect(),
            estimate: state.estimate(job, None),
            elapsed_ms: job
                .live_attempt()
                .and_then(|attempt| attempt.started_at)
                .map(|started_at| at.0.saturating_sub(started_at.0)),
            pool: position,
            stuck: shown == JobState::Blocked && job.block_until_ms.is_none(),
        });
    }

    fn eta(&self, shared: &Shared, id: &SessionId) -> Option<EtaView> {
        let total = super::fleet::slots_by_name(shared);
        let all: u32 = total.values().sum();
        let mut pools = vec![0; POOLS_MAX + 1];
        pools[POOLS_MAX] = all;
        for (position, job) in self.pools.values() {
            if let Some(slots) = pools.get_mut(*position) {
                *slots = able(shared, job).iter().filter_map(|name| total.get(name)).sum();
            }
        }
        let rivals: Vec<u64> = shared.read(|state| {
            let others =
                state.sessions().filter(|(other, session)| *other != id && session.phase == SessionPhase::Open);
            others
                .map(|(other, _)| state.session_counts(other))
                .map(|counts| counts.needed + counts.delegated)
                .filter(|jobs| *jobs > 0)
                .collect()
        });
        let found = forecast(&self.tasks, &pools, all, &rivals)?;
        Some(EtaView {
            p50_ms: found.p50_ms,
            p90_ms: found.p90_ms,
            samples: found.samples,
            jobs: found.jobs,
            guessed: found.guessed,
            left_out: found.left_out,
        })
    }
}

/// How long ago that was, by this node's clock.
pub(super) fn elapsed_ms(at: UnixMillis) -> u64 {
    unix_now().0.saturating_sub(at.0)
}

/// Names of the drones that could do a job like this one, busy or not.
fn able(shared: &Shared, job: &Job) -> Vec<String> {
    let mut like = job.clone();
    // Nothing that happened to this one, and nothing that it waits for, counts.
    like.spec.id = JobId(uuid::Uuid::new_v4());
    like.state = JobState::Needed;
    like.tally = crate::engine::job::Tally::default();
    like.attempts.clear();
    like.not_before_ms = 0;
    let now_ms = now_ms();
    let now = Now { now_ms, hive_ms: shared.hive_ms(now_ms) };
    let view = coordinating::view(shared);
    let told = shared.read(|state| scheduler::explain_job(state, &view, now, &scheduler::Settings::default(), &like));
    told.lines.into_iter().filter(|line| line.eligible).map(|line| line.name).collect()
}

/// Ends a session.
pub(super) async fn cancel(shared: &Shared, text: &str, by: String, why: String) -> ApiResult<Changed> {
    let session = shared.read(|state| find(state, text))?;
    let reply = commit(shared, Control::CancelSession { session }, by, why).await?;
    wait_until(shared, |state| state.session(&session).is_none_or(|session| session.phase == SessionPhase::Cancelled))
        .await;
    changed("cancel_session", reply)
}
