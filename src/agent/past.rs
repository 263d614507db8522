//! Attempts that are over, and what is known of packages.
//!
//! The newest jobs are in memory; of older ones there are rows on the disk, which are read one by one and no more than a person
//! would wait for. Never done here: keeping or dropping any of it.

use std::cmp::Reverse;

use super::shared::Shared;
use super::{controlling, internal, sessions};
use crate::api::{ApiResult, HistoryLine, HistoryView, PackageLine, PackageList};
use crate::consensus::replica::Replica;
use crate::engine::id::{JobId, PeerId, SessionId};
use crate::engine::job::{Attempt, AttemptState, Job};
use crate::engine::state::State;
use crate::web::node::HistoryQuery;

/// Jobs read from the disk for one answer.
const ROWS_READ_MAX: usize = 2_000;

/// What is looked for.
struct Wanted {
    package: Option<String>,
    drone: Option<PeerId>,
    session: Option<SessionId>,
    failed: bool,
}

impl Wanted {
    fn job(&self, job: &Job) -> bool {
        self.package.as_deref().is_none_or(|package| job.spec.package() == package || job.spec.target == package)
            && self.session.is_none_or(|session| session == job.session)
    }

    fn attempt(&self, attempt: &Attempt) -> bool {
        attempt.state.is_over()
            && self.drone.as_ref().is_none_or(|drone| *drone == attempt.node)
            && (!self.failed || matches!(attempt.state, AttemptState::Failed | AttemptState::Lost))
    }
}

/// `hive history`.
pub(super) async fn history(shared: &Shared, query: HistoryQuery) -> ApiResult<HistoryView> {
    let limit = query.limit;
    let (wanted, lines, past) = shared.read(|state| begin(state, query))?;
    let line_of = |job: &Job, attempt: &Attempt| shared.read(|state| line(state, job, attempt));
    go_on(shared.consensus.replica(), (wanted, limit), lines, past, line_of).await
}

/// The same as it was in a state of before. Rows that were dropped since are missing.
pub(super) async fn history_then(state: &State, replica: &Replica, query: HistoryQuery) -> ApiResult<HistoryView> {
    let limit = query.limit;
    let (wanted, lines, past) = begin(state, query)?;
    go_on(replica, (wanted, limit), lines, past, |job, attempt| line(state, job, attempt)).await
}

/// What is looked for, what of it is in memory, and jobs of which there are rows alone.
fn begin(state: &State, query: HistoryQuery) -> ApiResult<(Wanted, Vec<HistoryLine>, Vec<JobId>)> {
    let wanted = Wanted {
        package: query.package,
        drone: query.drone.as_deref().map(|name| controlling::node_named(state, name)).transpose()?,
        session: query.session.as_deref().map(|text| sessions::find(state, text)).transpose()?,
        failed: query.failed,
    };
    let lines = in_memory(state, &wanted, query.limit);
    let past: Vec<JobId> =
        if lines.len() < query.limit { state.history_jobs().take(ROWS_READ_MAX + 1).collect() } else { Vec::new() };
    Ok((wanted, lines, past))
}

async fn go_on(
    replica: &Replica,
    (wanted, limit): (Wanted, usize),
    mut lines: Vec<HistoryLine>,
    past: Vec<JobId>,
    line_of: impl Fn(&Job, &Attempt) -> HistoryLine,
) -> ApiResult<HistoryView> {
    let mut truncated = lines.len() >= limit || past.len() > ROWS_READ_MAX;
    for id in past.into_iter().take(ROWS_READ_MAX) {
        if lines.len() >= limit {
            truncated = true;
            break;
        }
        let Some(job) = replica.past_job(&id).await.map_err(internal)? else { continue };
        if wanted.job(&job) {
            let attempts = job.attempts.iter().rev().filter(|attempt| wanted.attempt(attempt));
            lines.extend(attempts.map(|attempt| line_of(&job, attempt)));
        }
    }
    lines.truncate(limit);
    Ok(HistoryView { history: lines, truncated })
}

fn in_memory(state: &State, wanted: &Wanted, limit: usize) -> Vec<HistoryLine> {
    let jobs = state.jobs().filter(|job| wanted.job(job));
    let mut found: Vec<(&Job, &Attempt)> = jobs
        .flat_map(|job| {
            job.attempts.iter().filter(|attempt| wanted.attempt(attempt)).map(move |attempt| (job, attempt))
        })
        .collect();
    found.sort_by_key(|(job, attempt)| Reverse((attempt.ended_at, job.ordinal, attempt.attempt)));
    found.into_iter().take(limit).map(|(job, attempt)| line(state, job, attempt)).collect()
}

fn line(state: &State, job: &Job, attempt: &Attempt) -> HistoryLine {
    let duration_ms = attempt.started_at.zip(attempt.ended_at).map(|(from, to)| to.0.saturating_sub(from.0));
    let accepted = attempt.state == AttemptState::Accepted;
    HistoryLine {
        job: job.spec.id,
        session: job.session,
        target: job.spec.target.clone(),
        package: job.spec.package().to_owned(),
        backend: job.spec.work.backend().to_owned(),
        attempt: attempt.attempt,
        drone: state.name_of(&attempt.node).to_owned(),
        state: attempt.state,
        class: attempt.class,
        reason: attempt.reason.clone(),
        exit_code: attempt.exit_code,
        assigned_at: attempt.assigned_at,
        started_at: attempt.started_at,
        ended_at: attempt.ended_at,
        duration_ms,
        artifact_bytes: accepted.then(|| job.artifacts.iter().map(|artifact| artifact.size).sum()),
    }
}

/// `hive history packages`.
pub(super) fn packages(state: &State, limit: usize) -> PackageList {
    let mut records: Vec<_> = state.packages().collect();
    records.sort_by_key(|(package, record)| (Reverse(record.last_at), *package));
    let lines = records.into_iter().take(limit).map(|(package, record)| {
        let estimate = record.estimate(None, None);
        let known = estimate.samples > 0;
        PackageLine {
            package: package.to_owned(),
            attempts: record.attempts,
            successes: record.successes,
            tried_on: record.tried_on.iter().map(|peer| state.name_of(peer).to_owned()).collect(),
            last_attempt: record.last_at,
            p50_ms: known.then_some(estimate.p50_ms),
            p90_ms: known.then_some(estimate.p90_ms),
            samples: estimate.samples as u64,
        }
    });
    PackageList { packages: lines.collect() }
}
