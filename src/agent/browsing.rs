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
    ApiError, ApiResult, ChainJob, CriticalPath, ErrorCode, GraphJob, Identity, JobGraph, JobPage, MemberState,
    Throughput, ThroughputBucket,
};
use crate::clock::unix_now;
use crate::engine::forecast::remaining;
use crate::engine::id::{JobId, PeerId, SessionId, UnixMillis};
use crate::engine::job::{AttemptState, Job, JobState};
use crate::engine::state::State;
use crate::transport;
use crate::web::node::{JobOrder, JobPageQuery};

/// Jobs on each side of the one in the middle of a graph.
const GRAPH_SIDE_MAX: usize = 60;
/// Jobs of a chain that are listed.
const CHAIN_SHOWN: usize = 8;
/// Jobs of a chain that are counted.
const CHAIN_MAX: u64 = 10_000;
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

/// `GET /api/v2/critical-path`: from what is most urgent of all that runs or could, always on to what is most urgent behind it.
pub(super) fn critical_path(state: &State, at: UnixMillis) -> CriticalPath {
    let running = state.busy_nodes().flat_map(|peer| state.live_attempts(peer)).map(|(job, _)| job);
    let ready = state.buckets().filter_map(|bucket| bucket.jobs().next());
    let mut next = running.chain(ready).max_by_key(|job| (state.urgency_ms(&job.spec.id), Reverse(job.ordinal)));
    let mut path = CriticalPath { jobs: Vec::new(), more: 0, p50_ms: 0, guessed: 0 };
    while let Some(job) = next.filter(|_| path.jobs.len() as u64 + path.more < CHAIN_MAX) {
        let estimate = state.estimate(job, None);
        let started_at = job.live_attempt().and_then(|attempt| attempt.started_at);
        let elapsed_ms = started_at.map(|started_at| at.0.saturating_sub(started_at.0));
        let (left_ms, _) = remaining(&estimate, elapsed_ms);
        path.p50_ms = path.p50_ms.saturating_add(left_ms);
        path.guessed += u64::from(estimate.samples == 0);
        if path.jobs.len() < CHAIN_SHOWN {
            let (id, target) = (job.spec.id, job.spec.target.clone());
            path.jobs.push(ChainJob { id, target, state: state.shown_state(job), left_ms });
        } else {
            path.more += 1;
        }
        let behind = state.dependents(&job.spec.id).filter(|next| next.state == JobState::Needed);
        next = behind.max_by_key(|job| (state.urgency_ms(&job.spec.id), Reverse(job.ordinal)));
    }
    path
}

/// `GET /api/v2/throughput`.
pub(super) fn throughput(state: &State, minutes: u64) -> Throughput {
    throughput_until(state, minutes, unix_now())
}

/// What ended in the last minutes before a moment.
pub(super) fn throughput_until(state: &State, minutes: u64, now: UnixMillis) -> Throughput {
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::engine::command::{Batch, Command, ENVELOPE_VERSION, FEATURE_LEVEL, Origin, Progress, Proposal, Reply};
    use crate::engine::id::{Epoch, EpochId, HiveId, Sha256Hash};
    use crate::engine::job::{FailureClass, JobSpec, Outcome, Source, Work};
    use crate::engine::member::{Inventory, MemberInfo};

    /// A state and what drives it; the clock of the hive says a minute more with each entry.
    struct Hive {
        state: State,
        index: u64,
    }

    impl Hive {
        fn new() -> Self {
            let mut hive = Self { state: State::new(), index: 0 };
            let epoch = Epoch { counter: 1, id: EpochId([1; 16]) };
            let founder = MemberInfo {
                peer_id: node(),
                name: "build1".to_owned(),
                addresses: vec!["10.0.0.1:50555".to_owned()],
                incarnation: 1,
                version: "0.1.0".to_owned(),
                feature_level: FEATURE_LEVEL,
                inventory: Inventory { cpu_cores: 4, ram_gb: 8, ..Inventory::default() },
            };
            hive.run(Command::Found { hive_id: HiveId([5; 16]), epoch, founder });
            hive
        }

        fn run(&mut self, command: Command) -> Reply {
            self.index += 1;
            let origin = Origin { peer_id: node(), incarnation: 1, sequence: self.index };
            let proposals = vec![Proposal::new(origin, &command)];
            let at = self.at();
            let batch = Batch { version: ENVELOPE_VERSION, elapsed_ms: 0, at, proposals };
            self.state.apply(self.index, &batch).expect("understood").replies.remove(0)
        }

        fn at(&self) -> UnixMillis {
            UnixMillis((1_000 + self.index) * MINUTE_MS)
        }

        fn queue(&mut self, jobs: Vec<JobSpec>) {
            let session = SessionId(Uuid::from_u128(1));
            assert_eq!(self.run(Command::submit(session, "me", jobs)), Reply::Done);
        }

        fn ends(&mut self, job: u128, outcome: Outcome) {
            let Reply::Assigned { token, .. } = self.run(Command::Assign { job: id(job), node: node() }) else {
                panic!("{job} was not assigned")
            };
            for progress in [Progress::Building { pinned_commit: None }, Progress::Ended { outcome }] {
                self.run(Command::Report { job: id(job), token, progress });
            }
        }
    }

    fn node() -> PeerId {
        PeerId::new("12D3KooWNode001")
    }

    fn id(number: u128) -> JobId {
        JobId(Uuid::from_u128(number))
    }

    fn job(number: u128, target: &str, after: &[u128]) -> JobSpec {
        let source = Source::Blob { sha256: Sha256Hash([9; 32]), size: 100 };
        let work = Work::Command { source, argv: vec!["make".to_owned(), number.to_string()], artifacts: Vec::new() };
        let depends_on = after.iter().map(|number| id(*number)).collect();
        JobSpec { pure: true, depends_on, ..JobSpec::new(id(number), target.to_owned(), work) }
    }

    #[test]
    fn a_window_tells_how_much_there_is_and_shows_a_part_of_it() {
        let mut hive = Hive::new();
        hive.queue((1..=5).map(|number| job(number, &format!("dev-libs/Lib{number}"), &[])).collect());
        hive.queue(vec![JobSpec { priority: 9, ..job(6, "app/other", &[]) }, job(7, "app/last", &[6])]);
        hive.ends(1, Outcome::Succeeded { artifacts: Vec::new() });
        let targets = |query: &JobPageQuery| {
            let page = page(&hive.state, query).expect("fits");
            (page.total, page.jobs.into_iter().map(|job| job.target).collect::<Vec<_>>())
        };
        let ask = JobPageQuery { text: Some("LIB".to_owned()), offset: 1, limit: 2, ..JobPageQuery::default() };
        assert_eq!(targets(&ask), (5, vec!["dev-libs/Lib4".to_owned(), "dev-libs/Lib3".to_owned()]));
        let waiting = JobPageQuery { states: vec![JobState::Needed], order: JobOrder::Oldest, ..ask.clone() };
        assert_eq!(targets(&waiting), (4, vec!["dev-libs/Lib3".to_owned(), "dev-libs/Lib4".to_owned()]));
        let all = page(&hive.state, &waiting).expect("fits").states;
        assert_eq!(all, [(JobState::Needed, 4), (JobState::Received, 1)].into(), "whatever state is asked for");
        let first = JobPageQuery { order: JobOrder::Priority, limit: 1, ..JobPageQuery::default() };
        assert_eq!(targets(&first), (7, vec!["app/other".to_owned()]));
        let by_id = JobPageQuery { text: Some(id(7).to_string()), limit: 9, ..JobPageQuery::default() };
        assert_eq!(targets(&by_id), (1, vec!["app/last".to_owned()]));
        let behind = JobPageQuery { offset: 100, limit: 9, ..JobPageQuery::default() };
        assert_eq!(targets(&behind), (7, Vec::new()));
        let nobody = JobPageQuery { drone: Some("nobody".to_owned()), limit: 9, ..JobPageQuery::default() };
        assert_eq!(page(&hive.state, &nobody).expect_err("no such node").code, ErrorCode::NotFound);
    }

    #[test]
    fn around_a_job_are_those_before_and_behind_it_the_nearest_first() {
        let mut hive = Hive::new();
        hive.queue(vec![
            job(1, "a", &[]),
            job(2, "b", &[1]),
            job(3, "c", &[2]),
            job(4, "d", &[2, 1]),
            job(5, "e", &[]),
        ]);
        let middle = hive.state.job(&id(2)).expect("there").clone();
        let found = graph(&hive.state, &middle);
        let levels: Vec<(JobId, i32)> = found.jobs.iter().map(|job| (job.id, job.level)).collect();
        assert_eq!(levels, [(id(2), 0), (id(1), -1), (id(3), 1), (id(4), 1)]);
        let edges = BTreeSet::from_iter(found.edges);
        assert_eq!(edges, [(id(2), id(1)), (id(3), id(2)), (id(4), id(2)), (id(4), id(1))].into());
        assert!(!found.truncated);

        let many: Vec<JobSpec> = (100..100 + 2 * GRAPH_SIDE_MAX as u128).map(|number| job(number, "x", &[5])).collect();
        many.chunks(60).for_each(|jobs| hive.queue(jobs.to_vec()));
        let middle = hive.state.job(&id(5)).expect("there").clone();
        let wide = graph(&hive.state, &middle);
        assert_eq!((wide.jobs.len(), wide.truncated), (1 + GRAPH_SIDE_MAX, true));
    }

    #[test]
    fn the_longest_chain_begins_with_what_can_run() {
        let mut hive = Hive::new();
        assert!(critical_path(&hive.state, hive.at()).jobs.is_empty());
        hive.queue(vec![job(1, "a", &[]), job(2, "b", &[1]), job(3, "c", &[2]), job(4, "alone", &[])]);
        let path = critical_path(&hive.state, hive.at());
        let targets: Vec<&str> = path.jobs.iter().map(|job| job.target.as_str()).collect();
        assert_eq!((targets, path.guessed, path.more), (vec!["a", "b", "c"], 3, 0));
        assert_eq!(path.p50_ms, path.jobs.iter().map(|job| job.left_ms).sum::<u64>());
        hive.ends(1, Outcome::Succeeded { artifacts: Vec::new() });
        assert_eq!(critical_path(&hive.state, hive.at()).jobs[0].target, "b");
    }

    #[test]
    fn what_ended_is_counted_in_the_minute_in_which_it_did() {
        let mut hive = Hive::new();
        hive.queue(vec![job(1, "a", &[]), job(2, "b", &[])]);
        hive.ends(1, Outcome::Succeeded { artifacts: Vec::new() });
        let done_at = hive.at();
        let class = FailureClass::Build;
        hive.ends(2, Outcome::Failed { class, reason: "it broke".to_owned(), exit_code: Some(2) });
        let found = throughput_until(&hive.state, 60, done_at);
        assert_eq!((found.buckets.len(), found.bucket_ms), (60, MINUTE_MS));
        // The failure ended by a clock that is ahead.
        assert_eq!(found.buckets[59], ThroughputBucket { done: 1, failed: 1 });
        let later = throughput_until(&hive.state, 60, UnixMillis(done_at.0 + 10 * MINUTE_MS));
        assert_eq!(later.buckets[49], ThroughputBucket { done: 1, failed: 0 });
        assert_eq!(later.buckets.iter().map(|bucket| bucket.failed).sum::<u64>(), 1);
        let gone = throughput_until(&hive.state, 60, UnixMillis(done_at.0 + 600 * MINUTE_MS));
        assert_eq!(gone.buckets.iter().map(|bucket| bucket.done + bucket.failed).sum::<u64>(), 0);
    }
}
