//! An attempt's log over HTTP: its bytes, as they are or harmless, and what is asked about it.
//!
//! Never done here: anything but translating.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use serde::Deserialize;

use super::Context;
use super::answer::{Handled, Params, Problem};
use super::node::{ByteStream, LogQuery};
use super::routes::job_id;
use crate::api::LogSearch;
use crate::api::shown::StreamCleaner;

/// Lines found when nothing else is said.
const MATCHES_DEFAULT: usize = 100;

#[derive(Deserialize)]
pub(super) struct LogParams {
    pub(super) attempt: Option<u32>,
    #[serde(default)]
    pub(super) offset: u64,
    pub(super) tail: Option<u64>,
    follow: Option<String>,
    pub(super) harmless: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct AttemptParams {
    pub(super) attempt: Option<u32>,
}

#[derive(Deserialize)]
pub(super) struct SearchParams {
    pub(super) attempt: Option<u32>,
    q: String,
    limit: Option<usize>,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    line: u64,
    regex: Option<String>,
    ignore_case: Option<String>,
}

pub(super) fn switch(name: &str, value: Option<&str>) -> Result<bool, Problem> {
    match value {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1" | "") => Ok(true),
        Some(_) => Err(Problem::invalid(format!("{name} is true or false"))),
    }
}

pub(super) async fn bytes(
    State(context): State<Context>,
    Path(id): Path<String>,
    Params(params): Params<LogParams>,
) -> Handled {
    let follow = switch("follow", params.follow.as_deref())?;
    let harmless = switch("harmless", params.harmless.as_deref())?;
    let query =
        LogQuery { job: job_id(&id)?, attempt: params.attempt, offset: params.offset, tail_bytes: params.tail, follow };
    let log = context.node.job_log(query).await?;
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/plain; charset=utf-8".to_owned()),
        ("x-hive-attempt", log.attempt.to_string()),
        ("x-hive-offset", log.offset.to_string()),
    ];
    let bytes = if harmless { cleaned(log.bytes) } else { log.bytes };
    Ok((context.position(), headers, Body::from_stream(bytes)).into_response())
}

/// The same for eyes: whoever reads it in a browser or with `curl` sees what was printed and obeys nothing of it.
pub(super) fn cleaned(bytes: ByteStream) -> ByteStream {
    let state = Some((bytes, StreamCleaner::new(false)));
    let stream = futures::stream::unfold(state, |state| async move {
        let (mut bytes, mut cleaner) = state?;
        match bytes.next().await {
            Some(Ok(piece)) => {
                let text = cleaner.push(&piece);
                Some((Ok(text.into()), Some((bytes, cleaner))))
            }
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((Ok(cleaner.finish().into()), None)),
        }
    });
    stream.boxed()
}

impl SearchParams {
    pub(super) fn search(self) -> Result<LogSearch, Problem> {
        Ok(LogSearch {
            regex: switch("regex", self.regex.as_deref())?,
            ignore_case: switch("ignore_case", self.ignore_case.as_deref())?,
            limit: self.limit.unwrap_or(MATCHES_DEFAULT),
            offset: self.offset,
            line: self.line,
            text: self.q,
        })
    }
}

pub(super) async fn search(
    State(context): State<Context>,
    Path(id): Path<String>,
    Params(params): Params<SearchParams>,
) -> Handled {
    let (id, attempt) = (job_id(&id)?, params.attempt);
    Ok(context.answer(context.node.log_matches(id, attempt, params.search()?).await))
}

pub(super) async fn phases(
    State(context): State<Context>,
    Path(id): Path<String>,
    Params(params): Params<AttemptParams>,
) -> Result<Response, Problem> {
    let id = job_id(&id)?;
    Ok(context.answer(context.node.log_phases(id, params.attempt).await))
}

pub(super) async fn first_error(
    State(context): State<Context>,
    Path(id): Path<String>,
    Params(params): Params<AttemptParams>,
) -> Result<Response, Problem> {
    let id = job_id(&id)?;
    Ok(context.answer(context.node.log_first_error(id, params.attempt).await))
}
