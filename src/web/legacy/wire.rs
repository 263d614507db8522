//! The protocol log of the Python swarm, in its shapes, out of what this node saw of HTTP, datagrams and messages.
//!
//! Lists are open as they were; an entry's bodies need the admin key. Never done here: anything but translating.

use axum::extract::{Extension, Request, State};
use serde::Deserialize;

use super::{Answered, Caller, Context, Params, Problem, Scope, authorize, plain, remote};
use crate::clock;
use crate::web::wire::OldQuestion;

/// Entries listed when nothing else is said, and at most.
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 2_000;
/// Columns of a histogram when nothing else is said, and at most.
const BUCKETS_DEFAULT: usize = 100;
const BUCKETS_MAX: usize = 500;

async fn answer(context: &Context, question: OldQuestion) -> Answered {
    let told = context.node.wire().wire_old(question).await?;
    plain(context, &told)
}

#[derive(Deserialize)]
pub(in crate::web) struct EntriesParams {
    since: Option<f64>,
    #[serde(rename = "type")]
    kind: Option<String>,
    drone: Option<String>,
    package: Option<String>,
    min_latency: Option<f64>,
    limit: Option<usize>,
}

pub(in crate::web) async fn entries(State(context): State<Context>, Params(params): Params<EntriesParams>) -> Answered {
    let EntriesParams { since, kind, drone, package, min_latency, limit } = params;
    let limit = limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
    answer(&context, OldQuestion::Entries { since, kind, drone, package, min_latency, limit }).await
}

#[derive(Deserialize)]
pub(in crate::web) struct DetailParams {
    id: Option<u64>,
}

pub(in crate::web) async fn detail(
    State(context): State<Context>,
    Params(params): Params<DetailParams>,
    local: Option<Extension<Caller>>,
    request: Request,
) -> Answered {
    let (parts, _) = request.into_parts();
    if local.is_none() {
        authorize(&context, &parts.headers, None, remote(&parts), Scope::Admin, true)?;
    }
    let id = params.id.ok_or_else(|| Problem::invalid("id is the number of an entry: ?id=NUMBER"))?;
    answer(&context, OldQuestion::Detail { id }).await
}

#[derive(Deserialize)]
pub(in crate::web) struct TimeParams {
    since: Option<f64>,
    start: Option<f64>,
    end: Option<f64>,
    buckets: Option<usize>,
    at: Option<f64>,
}

pub(in crate::web) async fn stats(State(context): State<Context>, Params(params): Params<TimeParams>) -> Answered {
    answer(&context, OldQuestion::Stats { since: params.since }).await
}

pub(in crate::web) async fn density(State(context): State<Context>, Params(params): Params<TimeParams>) -> Answered {
    let buckets = params.buckets.unwrap_or(BUCKETS_DEFAULT).clamp(1, BUCKETS_MAX);
    if let (Some(start), Some(end)) = (params.start, params.end)
        && start >= end
    {
        return Err(Problem::invalid("start is before end").into());
    }
    answer(&context, OldQuestion::Density { start: params.start, end: params.end, buckets }).await
}

pub(in crate::web) async fn snapshot(State(context): State<Context>, Params(params): Params<TimeParams>) -> Answered {
    // Milliseconds are exact in a double for some hundred thousand years.
    let now = clock::unix_now().0 as f64 / 1_000.0;
    answer(&context, OldQuestion::Snapshot { at: params.at.unwrap_or(now) }).await
}
