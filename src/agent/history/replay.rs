//! Answers about a moment of the past, and how much went on when.
//!
//! Never done here: anything but choosing the view; what a view is made of is in [`views`](super::views) and where the view of now is.

use std::sync::Arc;

use futures::FutureExt as _;
use serde::Serialize;
use serde_json::Value;

use super::moments::{Moment, missing};
use super::{History, views};
use crate::agent::node_api::Api;
use crate::agent::shared::Shared;
use crate::agent::{audit, browsing, events, internal, legacy, node_api, past, sessions, views as shapes};
use crate::api::{Activity, ActivityBucket, ApiError, ApiResult, ErrorCode};
use crate::clock::unix_now;
use crate::engine::id::{JobId, UnixMillis};
use crate::engine::job::Job;
use crate::store::history_db::{Missing, Track};
use crate::web::node::{ActivityQuery, Answer, Replay, ReplayApi, Replayed};

fn json<T: Serialize>(value: T) -> ApiResult<Value> {
    serde_json::to_value(value).map_err(internal)
}

fn not_kept() -> ApiError {
    let hint = "set history.mb to keep it; see: hive config reference";
    ApiError::new(ErrorCode::NotRecorded, "this node keeps nothing of the past", hint)
}

/// A job of then, also one of which only the history row is left.
async fn find_job(shared: &Shared, moment: &Moment, id: &JobId) -> ApiResult<Job> {
    if let Some(job) = moment.state.job(id) {
        return Ok(job.clone());
    }
    let none = || {
        let message = format!("there was no job {id} at {}", moment.at);
        ApiError::new(ErrorCode::NotFound, message, "ask for a later moment, or leave `at` out")
    };
    moment.state.history_row(id).ok_or_else(none)?;
    shared.consensus.replica().past_job(id).await.map_err(internal)?.ok_or_else(none)
}

async fn answer(shared: &Arc<Shared>, moment: &Moment, what: Replayed) -> ApiResult<Value> {
    let state = &*moment.state;
    match what {
        Replayed::Status => json(views::status(shared, moment)),
        Replayed::Nodes => json(views::nodes(shared, moment)),
        Replayed::Fleet => json(views::fleet(moment)),
        Replayed::Jobs(query) => json(node_api::jobs_of(state, &query)?),
        Replayed::Queue(query) => json(browsing::page(state, &query)?),
        Replayed::Job(id) => json(shapes::job_view(state, &find_job(shared, moment, &id).await?, None)),
        Replayed::Graph(id) => json(browsing::graph(state, &find_job(shared, moment, &id).await?)),
        Replayed::Artifacts(id) => json(node_api::artifacts_of(find_job(shared, moment, &id).await?)),
        Replayed::CriticalPath => json(browsing::critical_path(state, moment.at)),
        Replayed::Throughput(minutes) => json(browsing::throughput_until(state, minutes, moment.at)),
        Replayed::Sessions(query) => json(sessions::list(state, query)),
        Replayed::Session(which) => json(sessions::view_then(state, &which, moment.at)?),
        Replayed::History(query) => json(past::history_then(state, shared.consensus.replica(), query).await?),
        Replayed::Packages(limit) => json(past::packages(state, limit)),
        Replayed::Events(query) => json(events::find(shared, query).await?),
        Replayed::Audit { before, limit } => {
            json(shared.read(|state| audit::list(state, before, limit, Some(moment.at))))
        }
    }
}

async fn activity(shared: &Shared, query: ActivityQuery) -> ApiResult<Activity> {
    let ActivityQuery { from, to, buckets } = query;
    let whole = u64::try_from(buckets).unwrap_or(1).max(1);
    let bucket_ms = to.0.saturating_sub(from.0).div_ceil(whole).max(1);
    let mut found = vec![ActivityBucket::default(); buckets];
    if let Some(db) = &shared.event_db {
        let counted = db.counts(from, bucket_ms, buckets).await.map_err(internal)?;
        for (bucket, counted) in found.iter_mut().zip(counted) {
            (bucket.events, bucket.jobs, bucket.failures) = (counted.events, counted.ended, counted.failed);
        }
    }
    let mut known_from = None;
    if let Some(history) = &shared.history {
        let passed = history.db.passed(from, bucket_ms, buckets).await.map_err(internal)?;
        found.iter_mut().zip(passed).for_each(|(bucket, messages)| bucket.messages = messages);
        known_from = history.db.first(Track::State).await.map_err(internal)?;
    }
    let reaches_back_ms = shared.history.as_ref().map(|history| u64::from(history.bounds.days) * 86_400_000);
    Ok(Activity { from, bucket_ms, buckets: found, known_from, reaches_back_ms, now: unix_now() })
}

/// Status and nodes of a moment in the shapes of the Python swarm.
pub(in crate::agent) async fn old_snapshot(shared: &Arc<Shared>, at: UnixMillis) -> ApiResult<Value> {
    let history = shared.history.as_ref().ok_or_else(not_kept)?;
    let moment = history.moment(shared, at).await?;
    let (status, fleet) = (views::status(shared, &moment), views::fleet(&moment));
    Ok(legacy::reads::snapshot(&moment.state, &status, &fleet))
}

impl History {
    async fn replay(&self, shared: &Arc<Shared>, at: UnixMillis, what: Replayed) -> ApiResult<Replay> {
        let moment = self.moment(shared, at).await?;
        if moment.state.hive_id().is_none() {
            return Err(missing(&shared.me.name, at, Missing::Nothing));
        }
        let data = answer(shared, &moment, what).await?;
        Ok(Replay { data, log: moment.log() })
    }
}

impl ReplayApi for Api {
    fn replay(&self, at: UnixMillis, what: Replayed) -> Answer<'_, Replay> {
        async move {
            let history = self.shared.history.as_ref().ok_or_else(not_kept)?;
            history.replay(&self.shared, at, what).await
        }
        .boxed()
    }

    fn activity(&self, query: ActivityQuery) -> Answer<'_, Activity> {
        activity(&self.shared, query).boxed()
    }
}
