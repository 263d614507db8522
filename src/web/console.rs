//! Logs of nodes, commands on them, and recordings of terminals, over HTTP; the old swarm's paths for logs among them.
//!
//! Never done here: anything but translating.

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::json;

use super::Context;
use super::access::Caller;
use super::answer::{Handled, JsonBody, Params, Problem};
use super::data::{NodeLog, NodeLogQuery};
use super::legacy::{Answered, plain};
use super::logs::{cleaned, switch};
use super::node::{ByteStream, HistoryQuery, LogQuery};
use crate::api::ExecRequest;

/// Lines when nothing else is said.
const LINES_DEFAULT: u32 = 100;
/// Most lines.
const LINES_MAX: u32 = 5_000;
/// Bytes of a log in an answer that is no stream.
const WHOLE_MAX: usize = 16 << 20;
/// Bytes of a build's log from its end, for the old path.
const BUILD_TAIL: u64 = 1 << 20;

#[derive(Deserialize)]
pub(super) struct LogParams {
    source: Option<String>,
    lines: Option<u32>,
    since: Option<u64>,
    follow: Option<String>,
    harmless: Option<String>,
}

fn source(word: Option<&str>) -> Result<NodeLog, Problem> {
    Ok(match word {
        None | Some("agent") => NodeLog::Agent,
        Some("system") => NodeLog::System,
        Some("kernel") => NodeLog::Kernel,
        Some("emerge") => NodeLog::Emerge,
        Some(_) => return Err(Problem::invalid("source is agent, system, kernel or emerge")),
    })
}

fn lines(lines: Option<u32>) -> u32 {
    lines.unwrap_or(LINES_DEFAULT).clamp(1, LINES_MAX)
}

pub(super) async fn log(
    State(context): State<Context>,
    Path(name): Path<String>,
    Params(params): Params<LogParams>,
) -> Handled {
    let query = NodeLogQuery {
        log: source(params.source.as_deref())?,
        lines: lines(params.lines),
        since_unix_s: params.since,
        follow: switch("follow", params.follow.as_deref())?,
    };
    let harmless = switch("harmless", params.harmless.as_deref())?;
    let bytes = context.node.node_log(name, query).await?;
    let bytes = if harmless { cleaned(bytes) } else { bytes };
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    Ok((context.position(), headers, Body::from_stream(bytes)).into_response())
}

pub(super) async fn exec(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    JsonBody(request): JsonBody<ExecRequest>,
) -> Handled {
    let lines = context.node.exec(name, request, caller.name).await?;
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

pub(super) async fn recordings(State(context): State<Context>) -> Response {
    context.answer(context.node.recordings().await)
}

/// As a file: it holds what a terminal showed, and no browser is to take it for a page.
pub(super) async fn recording(State(context): State<Context>, Path(id): Path<String>) -> Handled {
    let bytes = context.node.recording(id).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/x-asciicast"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"terminal.cast\""),
    ];
    Ok((headers, Body::from_stream(bytes)).into_response())
}

#[derive(Deserialize)]
pub(super) struct LegacyParams {
    lines: Option<u32>,
    since: Option<u64>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

async fn whole(mut bytes: ByteStream) -> Result<String, Problem> {
    let mut text = Vec::new();
    while let Some(piece) = bytes.next().await {
        let piece = piece.map_err(|error| Problem::unavailable(format!("the log broke off: {error}")))?;
        text.extend_from_slice(&piece);
        if text.len() > WHOLE_MAX {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

async fn legacy(context: &Context, name: String, log: NodeLog, params: &LegacyParams) -> Answered {
    let query = NodeLogQuery { log, lines: lines(params.lines), since_unix_s: params.since, follow: false };
    let content = whole(context.node.node_log(name.clone(), query).await?).await?;
    let lines: Vec<&str> = content.lines().collect();
    plain(context, &json!({ "drone": name, "content": content, "lines": lines }))
}

/// The control plane is the node that is asked.
pub(super) async fn legacy_own(State(context): State<Context>, Params(params): Params<LegacyParams>) -> Answered {
    let name = context.node.health().await?.name;
    legacy(&context, name, NodeLog::Agent, &params).await
}

pub(super) async fn legacy_drone(
    State(context): State<Context>,
    Path(name): Path<String>,
    Params(params): Params<LegacyParams>,
) -> Answered {
    legacy(&context, name, NodeLog::Agent, &params).await
}

pub(super) async fn legacy_system(
    State(context): State<Context>,
    Path(name): Path<String>,
    Params(params): Params<LegacyParams>,
) -> Answered {
    let log = match params.kind.as_deref() {
        Some("swarm-drone") => NodeLog::Agent,
        Some("emerge" | "portage") => NodeLog::Emerge,
        Some("dmesg") => NodeLog::Kernel,
        None | Some("messages") => NodeLog::System,
        Some(_) => {
            return Err(Problem::invalid("type is swarm-drone, emerge, portage, messages or dmesg").into());
        }
    };
    legacy(&context, name, log, &params).await
}

/// The end of the last build of a package on a drone.
pub(super) async fn legacy_build(
    State(context): State<Context>,
    Path((name, package)): Path<(String, String)>,
) -> Answered {
    let query = |package: String| HistoryQuery {
        package: Some(package),
        drone: Some(name.clone()),
        limit: 1,
        ..HistoryQuery::default()
    };
    let mut found = context.node.history(query(package.clone())).await?.history;
    if found.is_empty() {
        // As the old swarm named the files.
        found = context.node.history(query(package.replacen('_', "/", 1))).await?.history;
    }
    let Some(line) = found.pop() else {
        let message = format!("{name} has not built {package:?} lately");
        return Err(Problem::not_found(message, "see: hive history --package PACKAGE").into());
    };
    let query =
        LogQuery { job: line.job, attempt: Some(line.attempt), offset: 0, tail_bytes: Some(BUILD_TAIL), follow: false };
    let content = whole(context.node.job_log(query).await?.bytes).await?;
    plain(
        &context,
        &json!({ "drone": name, "package": package, "content": content, "job": line.job, "attempt": line.attempt }),
    )
}
