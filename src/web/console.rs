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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use axum::http::Request;
    use http_body_util::BodyExt as _;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use serde_json::Value;

    use super::*;
    use crate::web::answer::Remote;
    use crate::web::fake::FakeNode;
    use crate::web::{Options, routes, serve};

    /// What the socket answers, and what the node was asked.
    async fn ask(method: &str, path: &str, body: &str) -> (u16, String, Vec<String>) {
        let node = Arc::new(FakeNode::new());
        let options = Options::default();
        let context = Context::new(node.clone(), &options, serve::Meter::new(options.caps));
        let mut request =
            Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).expect("request");
        request.extensions_mut().insert(Remote(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        request.extensions_mut().insert(Caller { name: "ann".to_owned() });
        let answer = TowerToHyperService::new(routes::local(context)).call(request).await.expect("infallible");
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("body").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned(), node.acts())
    }

    fn json_of(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    #[tokio::test]
    async fn logs_of_nodes_come_raw_or_harmless_and_in_the_old_shape() {
        let (status, text, acts) =
            ask("GET", "/api/v2/nodes/b1/logs?source=system&lines=9999&since=7&follow=1", "").await;
        assert_eq!((status, text.as_str()), (200, "one\n\u{1b}[2Jtwo\n"));
        let asked = "log of b1 NodeLogQuery { log: System, lines: 5000, since_unix_s: Some(7), follow: true }";
        assert_eq!(acts, [asked]);
        let (_, text, _) = ask("GET", "/api/v2/nodes/b1/logs?harmless=1", "").await;
        assert!(!text.contains('\u{1b}') && text.contains("two"), "{text:?}");
        for bad in ["source=other", "follow=perhaps", "lines=-1", "since=yesterday"] {
            assert_eq!(ask("GET", &format!("/api/v2/nodes/b1/logs?{bad}"), "").await.0, 400, "{bad}");
        }
        let (_, text, acts) = ask("GET", "/admin/api/drones/b1/syslog?lines=5&type=dmesg", "").await;
        let old = json_of(&text);
        assert_eq!((&old["drone"], &old["lines"][0]), (&json!("b1"), &json!("one")), "{old}");
        assert!(acts[0].contains("log: Kernel, lines: 5"), "{acts:?}");
        let (_, text, _) = ask("GET", "/admin/api/logs/control-plane?lines=5", "").await;
        assert_eq!(json_of(&text)["content"], "one\n\u{1b}[2Jtwo\n");
        let (status, text, _) = ask("GET", "/admin/api/drones/b1/syslog?type=secret", "").await;
        assert_eq!((status, json_of(&text)["code"].clone()), (400, json!("invalid")), "flat, as the old swarm had it");
    }

    #[tokio::test]
    async fn a_command_carries_who_runs_it_and_answers_line_by_line() {
        let (status, text, acts) = ask("POST", "/api/v2/nodes/b1/exec", r#"{"argv":["df","-h"]}"#).await;
        assert_eq!((status, json_of(text.trim())["type"].clone()), (200, json!("ended")));
        assert_eq!(acts, [r#"exec on b1 by ann: ["df", "-h"]"#]);
        for bad in ["{}", r#"{"argv":"df -h"}"#, r#"{"argv":["df"],"shell":true}"#] {
            assert_eq!(ask("POST", "/api/v2/nodes/b1/exec", bad).await.0, 400, "{bad}");
        }
    }

    #[tokio::test]
    async fn sql_is_asked_in_both_shapes() {
        let (status, text, acts) = ask("POST", "/api/v2/sql", r#"{"query":"SELECT 1","limit":5}"#).await;
        let new = json_of(&text)["data"].clone();
        assert_eq!((status, &new["columns"][0]["type"], &new["count"]), (200, &json!("text"), &json!(1)), "{new}");
        assert_eq!(acts, ["sql SELECT 1 Some(5)"]);
        let (_, text, _) = ask("GET", "/api/v1/sql/query?q=SELECT%201", "").await;
        let old = json_of(&text);
        assert_eq!((&old["columns"], &old["rows"], &old["count"]), (&json!(["id"]), &json!([["<script>"]]), &json!(1)));
        assert_eq!(json_of(&ask("GET", "/api/v1/sql/tables", "").await.1), json!({ "tables": ["jobs"] }));
        let schema = json_of(&ask("GET", "/api/v1/sql/schema", "").await.1);
        assert_eq!(schema["schema"]["jobs"], json!([{ "name": "id", "type": "TEXT" }]));
    }
}
