//! What pages show of many jobs at once, and of other nodes: windows of the queue, the jobs around a job, throughput, identities.
//!
//! Everything is bounded by what is shown, except for one walk over the jobs in memory per question. Never done here: changing
//! anything.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::control::{self, Request, Response};
use super::shared::Shared;
use super::{controlling, sessions, views};
use crate::api::{
    ApiError, ApiResult, ErrorCode, GraphJob, Identity, JobGraph, JobPage, MemberState, Throughput, ThroughputBucket,
};
use crate::clock::unix_now;
use crate::engine::id::{JobId, PeerId, SessionId, UnixMillis};
use crate::engine::job::{AttemptState, Job, JobState};
use crate::engine::state::State;
use crate::transport;
use crate::web::node::{JobOrder, JobPageQuery};

/// Jobs on each side of the one in the middle of a graph.
const GRAPH_SIDE_MAX: usize = 60;
/// Buckets of a throughput.
const BUCKETS: u64 = 60;
/// A node that does not say within this time what it is will not.
const IDENTITY_TIMEOUT: Duration = Duration::from_secs(3);
/// Milliseconds of a minute.
const MINUTE_MS: u64 = 60_000;

/// What a window is cut from.
struct Wanted {
    /// In small letters.
    text: Option<String>,
    session: Option<SessionId>,
    backend: Option<String>,
    drone: Option<PeerId>,
}

impl Wanted {
    fn of(state: &State, query: &JobPageQuery) -> ApiResult<Self> {
        Ok(Self {
            text: query.text.as_ref().map(|text| text.to_lowercase()),
            session: query.session.as_deref().map(|text| sessions::find(state, text)).transpose()?,
            backend: query.backend.clone(),
            drone: query.drone.as_deref().map(|name| controlling::node_named(state, name)).transpose()?,
        })
    }

    fn fits(&self, job: &Job) -> bool {
        let says = |text: &String| {
            job.spec.target.to_lowercase().contains(text) || job.spec.id.to_string().starts_with(text.as_str())
        };
        self.session.is_none_or(|session| session == job.session)
            && self.backend.as_deref().is_none_or(|backend| backend == job.spec.work.backend())
            && self.drone.as_ref().is_none_or(|drone| job.attempts.last().is_some_and(|last| last.node == *drone))
            && self.text.as_ref().is_none_or(says)
    }
}

/// `GET /api/v2/queue`.
pub(super) fn page(state: &State, query: &JobPageQuery) -> ApiResult<JobPage> {
    let wanted = Wanted::of(state, query)?;
    let mut states: BTreeMap<JobState, u64> = BTreeMap::new();
    let mut found: Vec<&Job> = Vec::new();
    for job in state.jobs().filter(|job| wanted.fits(job)) {
        let shown = state.shown_state(job);
        *states.entry(shown).or_default() += 1;
        if query.states.is_empty() || query.states.contains(&shown) {
            found.push(job);
        }
    }
    match query.order {
        JobOrder::Oldest => {}
        JobOrder::Newest => found.reverse(),
        JobOrder::Priority => found.sort_by_key(|job| Reverse(job.spec.priority)),
    }
    let jobs = found.iter().skip(query.offset).take(query.limit).map(|job| views::job_line(state, job)).collect();
    Ok(JobPage { total: found.len() as u64, offset: query.offset as u64, jobs, states })
}

/// `GET /api/v2/jobs/{id}/graph`. Nearest jobs first, so that what is left out is far away.
pub(super) fn graph(state: &State, middle: &Job) -> JobGraph {
    let mut graph =
        JobGraph { job: middle.spec.id, jobs: vec![graph_job(state, middle, 0)], edges: Vec::new(), truncated: false };
    let before = |job: &Job| job.spec.depends_on.iter().filter_map(|id| state.job(id)).collect::<Vec<_>>();
    let after = |job: &Job| {
        // In an order that does not change from one look to the next.
        let mut next: Vec<&Job> = state.dependents(&job.spec.id).collect();
        next.sort_by_key(|job| job.ordinal);
        next
    };
    let mut known = BTreeSet::from([middle.spec.id]);
    widen(state, &mut graph, &mut known, middle, -1, &before);
    widen(state, &mut graph, &mut known, middle, 1, &after);
    for job in &graph.jobs {
        let Some(job) = state.job(&job.id) else { continue };
        let edges = job.spec.depends_on.iter().filter(|id| known.contains(*id));
        graph.edges.extend(edges.map(|id| (job.spec.id, *id)));
    }
    graph
}

fn widen<'a>(
    state: &State,
    graph: &mut JobGraph,
    known: &mut BTreeSet<JobId>,
    middle: &'a Job,
    step: i32,
    neighbours: &dyn Fn(&Job) -> Vec<&'a Job>,
) {
    let (mut ring, mut level, mut room) = (vec![middle], 0, GRAPH_SIDE_MAX);
    while !ring.is_empty() {
        level += step;
        let mut next = Vec::new();
        for job in ring.iter().flat_map(|job| neighbours(job)) {
            if known.contains(&job.spec.id) {
                continue;
            }
            if room == 0 {
                graph.truncated = true;
                return;
            }
            room -= 1;
            known.insert(job.spec.id);
            graph.jobs.push(graph_job(state, job, level));
            next.push(job);
        }
        ring = next;
    }
}

fn graph_job(state: &State, job: &Job, level: i32) -> GraphJob {
    let line = views::job_line(state, job);
    GraphJob { id: line.id, level, target: line.target, state: line.state, estimate_ms: line.estimate_ms }
}

/// `GET /api/v2/throughput`.
pub(super) fn throughput(state: &State, minutes: u64) -> Throughput {
    throughput_until(state, minutes, unix_now())
}

fn throughput_until(state: &State, minutes: u64, now: UnixMillis) -> Throughput {
    let bucket_ms = (minutes * MINUTE_MS / BUCKETS).max(1);
    // Whole buckets, so that a bar does not change its height while it wanders.
    let end = (now.0 / bucket_ms + 1) * bucket_ms;
    let from = end.saturating_sub(bucket_ms * BUCKETS);
    let mut buckets = vec![ThroughputBucket::default(); BUCKETS as usize];
    for attempt in state.jobs().flat_map(|job| job.attempts.iter()) {
        let Some(at) = attempt.ended_at.map(|at| at.0).filter(|at| *at >= from) else { continue };
        let place = usize::try_from((at - from) / bucket_ms).unwrap_or(usize::MAX);
        // What ended by a clock that is ahead of this one's belongs to now.
        let place = place.min(buckets.len() - 1);
        let Some(bucket) = buckets.get_mut(place) else { continue };
        match attempt.state {
            AttemptState::Accepted => bucket.done += 1,
            AttemptState::Failed | AttemptState::Lost => bucket.failed += 1,
            AttemptState::Assigned
            | AttemptState::Building
            | AttemptState::Uploading
            | AttemptState::Stale
            | AttemptState::Cancelled => {}
        }
    }
    let truncated = state.history_rows().next().is_some() && buckets.first().is_some_and(|first| first.done == 0);
    Throughput { from: UnixMillis(from), bucket_ms, buckets, truncated }
}

/// `GET /api/v2/nodes/{name}/identity`: this node's own, or what another says of itself.
pub(super) async fn identity(shared: &Arc<Shared>, name: &str) -> ApiResult<Identity> {
    let peer = shared.read(|state| controlling::node_named(state, name))?;
    let none = || {
        let message = format!("the hive has not decided yet what {name} is");
        ApiError::new(ErrorCode::NotFound, message, "see: hive status")
    };
    if peer == shared.me.peer_id {
        return shared.soft(|soft| soft.identity.clone()).ok_or_else(none);
    }
    let silent = |why: String| {
        let message = format!("{name} does not say what it is: {why}");
        ApiError::new(ErrorCode::Unreachable, message, "what the hive knows of it is in: hive fleet")
    };
    if shared.liveness(&peer) != MemberState::Alive || shared.read(|state| state.member(&peer).is_none()) {
        return Err(silent("it is not reached as a node of this hive".to_owned()));
    }
    match transport::call(&shared.mesh, &peer, control::PROTOCOL, &Request::Identity, IDENTITY_TIMEOUT).await {
        Ok(Response::Identity(Some(identity))) => Ok(*identity),
        Ok(Response::Identity(None)) => Err(none()),
        Ok(Response::Refused { why }) => Err(silent(why)),
        Ok(_) => Err(silent("it answered something else".to_owned())),
        Err(error) => Err(silent(error.to_string())),
    }
}
