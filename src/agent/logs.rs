//! Logs for whoever asks this node: its own from its store, others' from the node that built.
//!
//! A log lives where its attempt ran, and nowhere else. Never done here: keeping a copy.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;

use super::internal;
use super::shared::Shared;
use crate::api::{ApiError, ApiResult, ErrorCode, MemberState};
use crate::engine::id::PeerId;
use crate::engine::job::Job;
use crate::exec::logs::look::{self, Found, Question};
use crate::exec::logs::{LogReader, remote};
use crate::web::node::{ByteStream, LogQuery, LogStream};

/// What to do when a log is not there.
const GONE: &str = "hive job show says when the attempt ran; how long logs are kept: hive config reference";

/// The attempt that is meant, and where it ran.
fn attempt_of(job: &Job, number: Option<u32>) -> ApiResult<(u32, PeerId)> {
    let attempt = match number {
        Some(number) => job.attempts.iter().find(|attempt| attempt.attempt == number),
        None => job.attempts.last(),
    };
    let attempt = attempt.ok_or_else(|| {
        let id = job.spec.id;
        not_found(format!("job {id} has no such attempt yet"), format!("see: hive explain {id}"))
    })?;
    Ok((attempt.attempt, attempt.node.clone()))
}

fn not_found(message: impl Into<String>, hint: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::NotFound, message, hint)
}

fn not_here() -> ApiError {
    not_found("this attempt has no log (yet), or it was dropped by age or size", GONE)
}

/// Why a log of another node is not to be had.
fn problem(shared: &Shared, node: &PeerId, error: &io::Error) -> ApiError {
    let name = shared.name_of(node);
    if error.kind() == io::ErrorKind::NotFound {
        return not_found(format!("{name}, which ran this attempt, has no log of it (yet), or has dropped it"), GONE);
    }
    if error.kind() == io::ErrorKind::ResourceBusy {
        return busy(&name);
    }
    if error.kind() == io::ErrorKind::Unsupported {
        let message = format!("{name}, which keeps the log, runs a version of hive that does not answer this");
        return ApiError::new(ErrorCode::Unreachable, message, "install this version of hive there");
    }
    let state = match shared.liveness(node) {
        MemberState::Down => "is down",
        MemberState::Left => "has left the hive",
        MemberState::Alive | MemberState::Suspect | MemberState::Legacy => "cannot be reached",
    };
    let message = format!("the log is on {name}, which {state}; it comes back with that node ({error})");
    ApiError::new(ErrorCode::Unreachable, message, "start the agent there, or wait for it; see: hive peers")
}

fn busy(name: &str) -> ApiError {
    let message = format!("{name} already serves as many readers of logs as it can");
    ApiError::new(ErrorCode::Unreachable, message, "try again in a while")
}

/// An attempt's log from an offset on.
pub(super) async fn stream(shared: &Arc<Shared>, job: &Job, query: LogQuery) -> ApiResult<LogStream> {
    let (attempt, node) = attempt_of(job, query.attempt)?;
    if let Some(length) = shared.logs.length(query.job, attempt).map_err(internal)? {
        let offset = begin(&query, length);
        let reader = shared.logs.reader(query.job, attempt, offset).map_err(internal)?.ok_or_else(not_here)?;
        return Ok(LogStream { attempt, offset, bytes: local(reader, query.follow) });
    }
    if node == shared.me.peer_id {
        return Err(not_here());
    }
    let mut offset = query.offset;
    if query.tail_bytes.is_some() {
        let request = look::Request { job: query.job, attempt, question: Question::Length };
        let Found::Length(length) = look_there(shared, &node, &request).await? else { return Err(unexpected()) };
        offset = begin(&query, length);
    }
    let request = remote::Request { job: query.job, attempt, offset, follow: query.follow };
    let opened = async {
        let mut log = remote::RemoteLog::open(&shared.mesh, &node, &request).await?;
        log.begin().await?;
        io::Result::Ok(log)
    };
    let log = opened.await.map_err(|error| problem(shared, &node, &error))?;
    let bytes =
        futures::stream::try_unfold(log, |mut log| async move { Ok(log.next().await?.map(|bytes| (bytes, log))) });
    Ok(LogStream { attempt, offset, bytes: bytes.boxed() })
}

fn begin(query: &LogQuery, length: u64) -> u64 {
    query.tail_bytes.map_or(query.offset, |tail| query.offset.max(length.saturating_sub(tail)))
}

fn local(reader: LogReader, follow: bool) -> ByteStream {
    futures::stream::try_unfold(reader, move |mut reader| async move {
        let bytes: Option<Bytes> = if follow {
            reader.next().await?
        } else {
            let bytes = reader.available().await?;
            (!bytes.is_empty()).then_some(bytes)
        };
        Ok(bytes.map(|bytes| (bytes, reader)))
    })
    .boxed()
}

/// Answers a question about an attempt's log, on the node that keeps it.
pub(super) async fn look(
    shared: &Arc<Shared>,
    job: &Job,
    attempt: Option<u32>,
    question: Question,
) -> ApiResult<Found> {
    let (attempt, node) = attempt_of(job, attempt)?;
    let request = look::Request { job: job.spec.id, attempt, question };
    let here = shared.logs.look(request.clone()).await;
    if matches!(here, Found::NotFound) && node != shared.me.peer_id {
        return look_there(shared, &node, &request).await;
    }
    checked(&shared.me.name, here)
}

async fn look_there(shared: &Arc<Shared>, node: &PeerId, request: &look::Request) -> ApiResult<Found> {
    let answer = look::ask(&shared.mesh, node, request).await;
    match answer {
        Ok(Found::NotFound) => Err(problem(shared, node, &io::ErrorKind::NotFound.into())),
        Ok(found) => checked(&shared.name_of(node), found),
        Err(error) => Err(problem(shared, node, &error)),
    }
}

/// Sorts out what is no answer.
fn checked(name: &str, found: Found) -> ApiResult<Found> {
    match found {
        Found::NotFound => Err(not_here()),
        Found::Busy => Err(busy(name)),
        Found::Invalid(why) => {
            Err(ApiError::new(ErrorCode::Invalid, why, "search for shorter text, or see: hive logs --help"))
        }
        Found::Failed(why) => Err(internal(format!("the log on {name} cannot be read: {why}"))),
        Found::Length(_) | Found::Phases(_) | Found::FirstError(_) | Found::Matches(_) => Ok(found),
    }
}

/// Another answer than the question calls for.
pub(super) fn unexpected() -> ApiError {
    internal("an answer about a log is not the one that was asked for")
}
