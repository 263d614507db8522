//! A moment of the past over HTTP: `at=` on the reads that pages show, and how much went on when.
//!
//! ```text
//!   GET /api/v2/… ?at=TIME ─► the query is read as it is of now ─► the node's record of that moment ─► the same shape, `as_of` that moment
//! ```
//!
//! Who may ask is decided before, by the route. A read of which no past is kept says so; nothing of now is ever given out as of then.
//! Never done here: knowing the past (the node does).

use axum::body::Body;
use axum::extract::{FromRequestParts as _, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{Uri, header};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::answer::{Handled, Params, Problem};
use super::node::{ActivityQuery, ByteStream, EventQuery, LogQuery, Replay, Replayed};
use super::open::OnlySummary;
use super::wire::{DensityParams, ListParams, cursor};
use super::{Context, browse, farm, live, logs, people, routes};
use crate::api::{ApiError, ErrorCode, JobView, WireConversations};
use crate::clock;
use crate::engine::id::{JobId, UnixMillis};
use crate::engine::job::AttemptState;

/// Columns of a waveform when nothing else is said, at most, and the time it reaches back, milliseconds.
const BUCKETS_DEFAULT: usize = 240;
const BUCKETS_MAX: usize = 2_000;
const SPAN_MS: u64 = 7 * 86_400_000;

/// Reads that are answered of a moment.
pub(super) const PATHS: [&str; 24] = [
    "/api/v2/status",
    "/api/v2/nodes",
    "/api/v2/fleet",
    "/api/v2/jobs",
    "/api/v2/queue",
    "/api/v2/jobs/{id}",
    "/api/v2/jobs/{id}/graph",
    "/api/v2/jobs/{id}/artifacts",
    "/api/v2/critical-path",
    "/api/v2/throughput",
    "/api/v2/sessions",
    "/api/v2/sessions/{which}",
    "/api/v2/history",
    "/api/v2/build-stats/by-package",
    "/api/v2/events",
    "/api/v2/audit",
    "/api/v2/wire",
    "/api/v2/wire/conversations",
    "/api/v2/wire/density",
    "/api/v2/jobs/{id}/log",
    "/api/v2/jobs/{id}/log/phases",
    "/api/v2/jobs/{id}/log/first-error",
    "/api/v2/jobs/{id}/log/search",
    "/api/v1/protocol/snapshot",
];

/// The moment that a query asks for; none: now.
pub(super) fn moment(uri: &Uri) -> Result<Option<UnixMillis>, Problem> {
    if uri.query().is_none_or(|query| !query.contains("at=")) {
        return Ok(None);
    }
    let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else { return Ok(None) };
    let Some((_, text)) = pairs.iter().find(|(name, _)| name == "at") else { return Ok(None) };
    if text.is_empty() {
        return Ok(None);
    }
    let place = cursor(text)
        .ok_or_else(|| Problem::invalid("at is a time such as 2026-11-21T20:00:00Z, or milliseconds since 1970"))?;
    Ok(Some(UnixMillis(place / 1_000)))
}

async fn params<T: DeserializeOwned + Send>(parts: &mut Parts) -> Result<T, Problem> {
    Params::<T>::from_request_parts(parts, &()).await.map(|Params(params)| params)
}

async fn named(parts: &mut Parts) -> Result<String, Problem> {
    let Path(name) = Path::<String>::from_request_parts(parts, &())
        .await
        .map_err(|_| Problem::invalid("the path is not understood"))?;
    Ok(name)
}

async fn job(parts: &mut Parts) -> Result<JobId, Problem> {
    routes::job_id(&named(parts).await?)
}

fn not_kept(path: &str) -> Problem {
    let message = format!("what {path} would have answered at a moment of the past is not kept");
    ApiError::new(ErrorCode::NotRecorded, message, "leave `at` out to see how it is now").into()
}

/// Which reads are answered of a moment, with what they ask.
async fn asked(path: &str, at: UnixMillis, parts: &mut Parts) -> Result<Option<Replayed>, Problem> {
    Ok(Some(match path {
        "/api/v2/status" => Replayed::Status,
        "/api/v2/nodes" => Replayed::Nodes,
        "/api/v2/fleet" => Replayed::Fleet,
        "/api/v2/jobs" => Replayed::Jobs(params::<routes::JobsParams>(parts).await?.query()?),
        "/api/v2/queue" => Replayed::Queue(params::<browse::QueueParams>(parts).await?.query()?),
        "/api/v2/jobs/{id}" => Replayed::Job(job(parts).await?),
        "/api/v2/jobs/{id}/graph" => Replayed::Graph(job(parts).await?),
        "/api/v2/jobs/{id}/artifacts" => Replayed::Artifacts(job(parts).await?),
        "/api/v2/critical-path" => Replayed::CriticalPath,
        "/api/v2/throughput" => Replayed::Throughput(params::<browse::ThroughputParams>(parts).await?.minutes()),
        "/api/v2/sessions" => Replayed::Sessions(params::<farm::SessionsParams>(parts).await?.query()?),
        "/api/v2/sessions/{which}" => Replayed::Session(farm::short(named(parts).await?)?),
        "/api/v2/history" => Replayed::History(params::<farm::HistoryParams>(parts).await?.query()?),
        "/api/v2/build-stats/by-package" => Replayed::Packages(params::<farm::PackagesParams>(parts).await?.limit()),
        "/api/v2/events" => {
            let query = params::<farm::EventsParams>(parts).await?.query()?;
            Replayed::Events(EventQuery { until: Some(at), ..query })
        }
        "/api/v2/audit" => {
            let (before, limit) = params::<people::AuditParams>(parts).await?.asked();
            Replayed::Audit { before, limit }
        }
        _ => return Ok(None),
    }))
}

/// Answers a read of a moment.
pub(super) async fn answer(context: &Context, path: &str, at: UnixMillis, request: Request) -> Response {
    handled(context, path, at, request).await.unwrap_or_else(|problem| problem.into_response())
}

async fn handled(context: &Context, path: &str, at: UnixMillis, request: Request) -> Handled {
    if live::wants_stream(request.headers()) {
        let hint = "leave `at` out; what had happened until then is listed without a stream";
        return Err(ApiError::new(ErrorCode::Invalid, "a stream tells what happens from now on", hint).into());
    }
    if request.extensions().get::<OnlySummary>().is_some() {
        let hint = "ask with a key, or at a node whose public_page is full";
        return Err(
            ApiError::new(ErrorCode::Forbidden, "without a key only a summary of now is shown here", hint).into()
        );
    }
    let (mut parts, _) = request.into_parts();
    if let Some(what) = asked(path, at, &mut parts).await? {
        return Ok(context.answer_then(at, context.node.replay(at, what).await));
    }
    match path {
        "/api/v2/wire" => {
            let query = params::<ListParams>(&mut parts).await?.until(at)?;
            let list = context.node.wire().wire_list(query).await;
            Ok(context.answer_wire(at, list))
        }
        "/api/v2/wire/conversations" => {
            let query = params::<ListParams>(&mut parts).await?.until(at)?;
            let list: Result<WireConversations, _> = context.node.wire().wire_conversations(query).await;
            Ok(context.answer_wire(at, list))
        }
        "/api/v2/wire/density" => {
            let query = params::<DensityParams>(&mut parts).await?.query(at)?;
            Ok(context.answer_wire(at, context.node.wire().wire_density(query).await))
        }
        "/api/v2/jobs/{id}/log" => log(context, at, &mut parts).await,
        "/api/v2/jobs/{id}/log/phases" => {
            let id = job(&mut parts).await?;
            let attempt = attempt(context, at, id, params::<logs::AttemptParams>(&mut parts).await?.attempt).await?;
            let phases = context.node.log_phases(id, Some(attempt.number)).await.map(|mut phases| {
                phases.phases.retain(|phase| phase.at <= at);
                for phase in &mut phases.phases {
                    phase.took_ms = phase.took_ms.filter(|took_ms| phase.at.0.saturating_add(*took_ms) <= at.0);
                }
                phases.growing = !attempt.over;
                phases
            });
            Ok(context.answer_wire(at, phases))
        }
        "/api/v2/jobs/{id}/log/first-error" => {
            let id = job(&mut parts).await?;
            let attempt = attempt(context, at, id, params::<logs::AttemptParams>(&mut parts).await?.attempt).await?;
            if !attempt.over {
                return Err(no_times());
            }
            Ok(context.answer_wire(at, context.node.log_first_error(id, Some(attempt.number)).await))
        }
        "/api/v2/jobs/{id}/log/search" => {
            let id = job(&mut parts).await?;
            let asked = params::<logs::SearchParams>(&mut parts).await?;
            let attempt = attempt(context, at, id, asked.attempt).await?;
            if !attempt.over {
                return Err(no_times());
            }
            let found = context.node.log_matches(id, Some(attempt.number), asked.search()?).await;
            Ok(context.answer_wire(at, found))
        }
        _ => Err(not_kept(path)),
    }
}

fn no_times() -> Problem {
    let message =
        "the attempt was running then, and lines of a log carry no times: what had been found in it is not known";
    ApiError::new(ErrorCode::NotRecorded, message, "its log up to the phase that had begun is at …/log").into()
}

/// An attempt as it stood at a moment.
struct Stood {
    number: u32,
    over: bool,
}

async fn attempt(context: &Context, at: UnixMillis, id: JobId, number: Option<u32>) -> Result<Stood, Problem> {
    let told = context.node.replay(at, Replayed::Job(id)).await?;
    let job: JobView = serde_json::from_value(told.data)
        .map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string(), "see the agent's log"))?;
    let found = match number {
        Some(number) => job.attempts.iter().find(|attempt| attempt.attempt == number),
        None => job.attempts.last(),
    };
    let none = || Problem::not_found(format!("job {id} had no such attempt at {at}"), "ask for a later moment");
    let found = found.filter(|attempt| attempt.state != AttemptState::Assigned).ok_or_else(none)?;
    Ok(Stood { number: found.attempt, over: found.state.is_over() })
}

/// A log as far as it surely was there: all of it when the attempt was over, else up to the last phase that had begun, since lines carry no
/// times.
async fn log(context: &Context, at: UnixMillis, parts: &mut Parts) -> Handled {
    let id = job(parts).await?;
    let asked = params::<logs::LogParams>(parts).await?;
    let attempt = attempt(context, at, id, asked.attempt).await?;
    let cut = if attempt.over {
        None
    } else {
        let phases = context.node.log_phases(id, Some(attempt.number)).await?.phases;
        let begun = phases.iter().filter(|phase| phase.at <= at);
        Some(begun.map(|phase| phase.offset).max().unwrap_or(0))
    };
    let tail_bytes = asked.tail.filter(|_| cut.is_none());
    // Of a log that is cut, a tail ends at the cut.
    let from = match (cut, asked.tail) {
        (Some(cut), Some(tail)) => asked.offset.max(cut.saturating_sub(tail)),
        _ => asked.offset,
    };
    let query = LogQuery { job: id, attempt: Some(attempt.number), offset: from, tail_bytes, follow: false };
    let log = context.node.job_log(query).await?;
    let bytes = match cut {
        Some(cut) => first(log.bytes, cut.saturating_sub(log.offset)),
        None => log.bytes,
    };
    let bytes = if logs::switch("harmless", asked.harmless.as_deref())? { logs::cleaned(bytes) } else { bytes };
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/plain; charset=utf-8".to_owned()),
        ("x-hive-attempt", log.attempt.to_string()),
        ("x-hive-offset", log.offset.to_string()),
        ("x-hive-log-cut", cut.map_or_else(|| "no".to_owned(), |cut| cut.to_string())),
    ];
    Ok((context.position(), headers, Body::from_stream(bytes)).into_response())
}

/// The first bytes of a stream.
fn first(bytes: ByteStream, count: u64) -> ByteStream {
    let state = Some((bytes, count));
    let stream = futures::stream::unfold(state, |state| async move {
        let (mut bytes, left) = state.filter(|(_, left)| *left > 0)?;
        match bytes.next().await? {
            Ok(mut piece) => {
                piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - piece.len() as u64;
                Some((Ok(piece), Some((bytes, left))))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    stream.boxed()
}

impl Context {
    /// An answer of a moment.
    fn answer_then(&self, at: UnixMillis, result: Result<Replay, ApiError>) -> Response {
        match result {
            Ok(Replay { data, log }) => self.answer_as_of(Ok(data), at, log),
            Err(error) => self.answer::<()>(Err(error)),
        }
    }

    /// An answer of a moment that the log has no part in.
    fn answer_wire<T: serde::Serialize>(&self, at: UnixMillis, result: Result<T, ApiError>) -> Response {
        match result {
            Ok(data) => self.answer_as_of(Ok(data), at, self.node.log()),
            Err(error) => self.answer::<()>(Err(error)),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct ActivityParams {
    from: Option<String>,
    to: Option<String>,
    buckets: Option<usize>,
}

pub(super) async fn activity(State(context): State<Context>, Params(params): Params<ActivityParams>) -> Handled {
    let time = |text: Option<String>, name: &str| -> Result<Option<UnixMillis>, Problem> {
        let expected = || Problem::invalid(format!("{name} is a time such as 2026-11-21T20:00:00Z"));
        text.map(|text| cursor(&text).map(|place| UnixMillis(place / 1_000)).ok_or_else(expected)).transpose()
    };
    let to = time(params.to, "to")?.unwrap_or_else(clock::unix_now);
    let from = time(params.from, "from")?.unwrap_or(UnixMillis(to.0.saturating_sub(SPAN_MS)));
    if from >= to {
        return Err(Problem::invalid("from is before to"));
    }
    let buckets = params.buckets.unwrap_or(BUCKETS_DEFAULT).clamp(1, BUCKETS_MAX);
    Ok(context.answer(context.node.activity(ActivityQuery { from, to, buckets }).await))
}

#[cfg(test)]
mod tests;
