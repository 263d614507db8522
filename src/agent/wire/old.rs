//! The protocol log as the Python swarm had it: its fields, its words for kinds, times in seconds.
//!
//! Its entries were HTTP requests alone; here messages between nodes are entries as well, under the type `mesh` or `discovery`.
//! Never done here: anything that its readers did not have.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Question, Told, ask_all, density, detail, list};
use crate::agent::shared::Shared;
use crate::api::{ApiResult, WireDetail};
use crate::clock::unix_now;
use crate::engine::id::UnixMillis;
use crate::engine::wire::Record;
use crate::web::node::LegacyRead;
use crate::web::wire::{DensityQuery, LIST_MAX, OldQuestion, WireQuery};

/// How far a histogram reaches back when nothing else is said, milliseconds.
const DENSITY_SPAN_MS: u64 = 3_600_000;
/// A moment that is no longer ago than this is now, milliseconds.
const SNAPSHOT_NOW_MS: u64 = 2_000;

/// The old swarm's type of an HTTP request.
const TYPES: [(&str, &str, &str); 22] = [
    ("GET", "/api/v1/work", "work_request"),
    ("GET", "/api/v1/poll", "work_request"),
    ("POST", "/api/v1/register", "register"),
    ("POST", "/api/v1/complete", "complete"),
    ("POST", "/api/v1/report", "complete"),
    ("GET", "/api/v1/orchestrator", "discovery"),
    ("GET", "/api/v1/status", "status_query"),
    ("GET", "/api/v2/status", "status_query"),
    ("GET", "/api/v1/events", "events_query"),
    ("GET", "/api/v2/events", "events_query"),
    ("POST", "/api/v1/queue", "queue"),
    ("POST", "/api/v2/jobs", "queue"),
    ("POST", "/api/v1/control", "control"),
    ("POST", "/api/v2/control", "control"),
    ("GET", "/api/v1/nodes", "node_list"),
    ("GET", "/api/v2/nodes", "node_list"),
    ("GET", "/api/v1/metrics", "metrics_query"),
    ("GET", "/api/v1/history", "history_query"),
    ("GET", "/api/v1/sessions", "session_query"),
    ("GET", "/api/v1/health", "health_check"),
    ("GET", "/api/v1/versions", "version_query"),
    ("GET", "/api/v1/portage-config", "config_query"),
];

fn type_of(record: &Record) -> &'static str {
    let Some(path) = record.path.as_deref() else {
        return if record.protocol.is_datagram() { "discovery" } else { "mesh" };
    };
    if let Some((.., name)) = TYPES.iter().find(|(method, known, _)| *method == record.kind && *known == path) {
        return name;
    }
    match (record.kind.as_str(), path.rsplit('/').next(), path.starts_with("/api/v1/nodes/")) {
        ("POST", Some("pause"), true) => "node_pause",
        ("POST", Some("resume"), true) => "node_resume",
        ("DELETE", _, true) => "node_delete",
        _ if path.starts_with("/api/v1/provision") || path.starts_with("/bootstrap") => "provisioning",
        _ => "other",
    }
}

fn seconds(at: UnixMillis) -> f64 {
    at.0 as f64 / 1_000.0
}

fn micros(seconds: f64) -> u64 {
    // Out of range saturates.
    (seconds.max(0.0) * 1e6) as u64
}

/// What a drone of the old swarm says of itself in its request.
fn said<'a>(fields: &'a Value, names: &[&str]) -> Option<&'a str> {
    let request = fields.get("request");
    names.iter().find_map(|name| request.and_then(|request| request.get(*name)).and_then(Value::as_str))
}

fn of_query(fields: &Value, names: &[&str]) -> Option<String> {
    let query = fields.get("query").and_then(Value::as_str)?;
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        names.contains(&name).then(|| value.to_owned())
    })
}

fn entry(record: &Record, fields: &Value) -> Value {
    let http = record.protocol.is_http();
    let drone =
        said(fields, &["id", "name", "node_name"]).map(str::to_owned).or_else(|| of_query(fields, &["id", "node"]));
    json!({
        "id": record.number,
        "timestamp": seconds(record.at),
        "source_ip": if http { Value::from(record.from.as_str()) } else { fields["address"].clone() },
        "source_node": drone.clone().unwrap_or_else(|| record.from.clone()),
        "method": if http { Value::from(record.kind.as_str()) } else { Value::Null },
        "path": record.path.clone().unwrap_or_else(|| record.kind.clone()),
        "msg_type": type_of(record),
        "drone_id": drone,
        "package": said(fields, &["package"]),
        "session_id": record.session,
        "status_code": record.status.as_deref().and_then(|status| status.parse::<u16>().ok()),
        "request_summary": record.summary,
        "response_summary": record.status,
        "latency_ms": record.latency_ms,
        "content_length": record.bytes,
    })
}

fn with_bodies(found: &WireDetail) -> Value {
    let mut shown = entry(&found.record, &found.fields);
    let text = |value: &Value| match value {
        Value::Null | Value::String(_) => value.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Value::from(value.to_string()),
    };
    let http = found.record.protocol.is_http();
    let request = if http { text(&found.fields["request"]) } else { text(&found.fields) };
    let response = if http { text(&found.fields["response"]) } else { Value::Null };
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("request_body".to_owned(), request);
        fields.insert("response_body".to_owned(), response);
    }
    shown
}

/// The newest entries of this node, with what they say; newest first.
async fn entries(
    shared: &Arc<Shared>,
    since: u64,
    limit: usize,
    wanted: impl Fn(&Record, &Value) -> bool,
) -> ApiResult<Vec<Value>> {
    let mut after = since;
    let mut found = std::collections::VecDeque::new();
    loop {
        let question =
            Question::Whole { filter: String::new(), since: Some(after), before: None, limit: super::WHOLE_MAX };
        let mut answers = ask_all(shared, std::slice::from_ref(&shared.me.peer_id), &question).await?;
        let Some((_, Ok(Told::Whole(records)))) = answers.pop() else { break };
        let Some(last) = records.last() else { break };
        after = last.record.number;
        for whole in &records {
            if wanted(&whole.record, &whole.fields) {
                found.push_back(entry(&whole.record, &whole.fields));
                if found.len() > limit {
                    found.pop_front();
                }
            }
        }
        if records.len() < super::WHOLE_MAX {
            break;
        }
    }
    Ok(found.into_iter().rev().collect())
}

pub(super) async fn answer(shared: &Arc<Shared>, question: OldQuestion) -> ApiResult<Value> {
    match question {
        OldQuestion::Entries { since, kind, drone, package, min_latency, limit } => {
            let named =
                |field: &Value, name: &Option<String>| name.as_deref().is_none_or(|name| field.as_str() == Some(name));
            let wanted = |record: &Record, fields: &Value| {
                let shown = entry(record, fields);
                named(&shown["msg_type"], &kind)
                    && (named(&shown["drone_id"], &drone) || named(&shown["source_node"], &drone))
                    && named(&shown["package"], &package)
                    && min_latency.is_none_or(|least| record.latency_ms.is_some_and(|latency| latency >= least))
            };
            let entries = entries(shared, since.map_or(0, micros), limit, wanted).await?;
            Ok(json!({ "entries": entries }))
        }
        OldQuestion::Detail { id } => {
            let found = detail(shared, &format!("{id}@{}", shared.name_of(&shared.me.peer_id))).await?;
            Ok(with_bodies(&found))
        }
        OldQuestion::Stats { since } => stats(shared, since).await,
        OldQuestion::Density { start, end, buckets } => {
            let end = end.map_or_else(unix_now, |end| UnixMillis(micros(end) / 1_000));
            let start = start
                .map_or(UnixMillis(end.0.saturating_sub(DENSITY_SPAN_MS)), |start| UnixMillis(micros(start) / 1_000));
            let counted =
                density(shared, DensityQuery { filter: String::new(), node: None, start, end, buckets }).await?;
            Ok(json!({ "density": counted.counts, "start": seconds(start), "end": seconds(end) }))
        }
        OldQuestion::Snapshot { at } => snapshot(shared, at).await,
    }
}

async fn stats(shared: &Arc<Shared>, since: Option<f64>) -> ApiResult<Value> {
    let query = WireQuery { since: Some(since.map_or(0, micros)), limit: LIST_MAX, ..WireQuery::default() };
    let (mut total, mut bytes, mut slowest) = (0u64, 0u64, 0f64);
    let (mut by_type, mut by_status): (BTreeMap<&str, u64>, BTreeMap<String, u64>) = (BTreeMap::new(), BTreeMap::new());
    let (mut latency, mut timed) = (0f64, 0u64);
    let mut after = query.since;
    loop {
        let page = list(shared, WireQuery { since: after, ..query.clone() }).await?;
        for record in &page.records {
            total += 1;
            bytes += record.bytes;
            *by_type.entry(type_of(record)).or_default() += 1;
            if let Some(status) = &record.status {
                *by_status.entry(status.clone()).or_default() += 1;
            }
            if let Some(took) = record.latency_ms {
                (latency, timed, slowest) = (latency + took, timed + 1, slowest.max(took));
            }
        }
        if !page.more {
            break;
        }
        after = Some(page.latest);
    }
    let average = if timed == 0 { 0.0 } else { latency / timed as f64 };
    Ok(json!({
        "total": total,
        "by_type": by_type,
        "by_status": by_status,
        "avg_latency_ms": average,
        "max_latency_ms": slowest,
        "total_bytes": bytes,
    }))
}

/// The old log kept answers of `status` and `nodes` and gave the last ones before a moment. This node tells how it was at that moment,
/// as far as that is kept, and how it is now when the moment has just been.
async fn snapshot(shared: &Arc<Shared>, at: f64) -> ApiResult<Value> {
    let moment = UnixMillis(micros(at) / 1_000);
    if moment.0.saturating_add(SNAPSHOT_NOW_MS) < unix_now().0 {
        let then = crate::agent::history::old_snapshot(shared, moment).await?;
        return Ok(json!({ "at": at, "timestamp": at, "status": then["status"], "nodes": then["nodes"] }));
    }
    let status = crate::agent::legacy::reads::read(shared, LegacyRead::Status).await?;
    let nodes = crate::agent::legacy::reads::read(shared, LegacyRead::Nodes { all: true }).await?;
    let now = seconds(unix_now());
    Ok(json!({ "at": at, "timestamp": now, "status": status, "nodes": nodes }))
}
