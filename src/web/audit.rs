//! What somebody is about to do, written down before it is done, and done once however often it is asked for with one key.
//!
//! ```text
//!   who may ─► body read ─► entry in the audit log, committed ─► the act ─► answer, kept for an Idempotency-Key
//!                                      └─ asked before ─► the answer of then
//! ```
//!
//! In front of every route that changes something for a person, whatever the route does: an act without an entry cannot be. The summary
//! of what was sent is short, and what may be secret is left out of it. Never done here: knowing what an act does.

use std::net::{IpAddr, Ipv4Addr};

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use super::Context;
use super::access::Caller;
use super::answer::{CONTROL_BODY_MAX, Problem, Remote, SUBMIT_BODY_MAX, read_body};
use super::node::Noted;
use crate::api::ErrorCode;
use crate::engine::audit::{AuditNote, GivenAnswer, Once, SUMMARY_MAX};
use crate::engine::state::ANSWER_KEPT_MAX;
use crate::keyring::sha256;

/// A key that a client chooses, so that a request that is sent again is not carried out again.
const ONCE_HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer is that of an earlier request with the same key.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Longest such key, bytes.
const ONCE_MAX: usize = 128;

/// How an act comes into the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Committed before it is done; without a quorum nothing is done.
    First,
    /// Tried for a moment, and written later if need be: it is what helps when there is no quorum.
    Late,
    /// Not at all. A question changes nothing, nor does an upload that anybody sees before a job names it.
    Not,
}

/// Characters shown of a text.
const TEXT_SHOWN: usize = 120;
/// Elements shown of a list.
const LIST_SHOWN: usize = 6;
/// Levels that are shown.
const DEPTH_SHOWN: usize = 3;
/// Parts of names of fields whose values are never shown: they are secret, or people put secrets there.
const HIDDEN: [&str; 13] = [
    "key",
    "secret",
    "token",
    "password",
    "passphrase",
    "credential",
    "cookie",
    "auth",
    "env",
    "argv",
    "command",
    "script",
    "content",
];

fn is_hidden(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    HIDDEN.iter().any(|part| name.contains(part))
}

/// What was sent along, for people.
fn shorten(value: &Value, depth: usize) -> Value {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        Value::String(text) if text.chars().count() <= TEXT_SHOWN => value.clone(),
        Value::String(text) => Value::String(text.chars().take(TEXT_SHOWN).chain("…".chars()).collect()),
        Value::Array(list) if depth == 0 => Value::String(format!("[{}]", list.len())),
        Value::Array(list) => {
            let shown = list.iter().take(LIST_SHOWN).map(|value| shorten(value, depth - 1));
            let more = list.len().checked_sub(LIST_SHOWN).filter(|more| *more > 0);
            shown.chain(more.map(|more| Value::String(format!("… {more} more")))).collect()
        }
        Value::Object(fields) if depth == 0 => Value::String(format!("{{{}}}", fields.len())),
        Value::Object(fields) => {
            let show = |(name, value): (&String, &Value)| {
                let shown = if is_hidden(name) && !value.is_null() {
                    Value::String("(not shown)".to_owned())
                } else {
                    shorten(value, depth - 1)
                };
                (name.clone(), shown)
            };
            Value::Object(fields.iter().map(show).collect())
        }
    }
}

/// A body in one line. What is no JSON is named by its length alone.
pub(super) fn summary_of(body: &[u8]) -> String {
    if body.is_empty() {
        return String::new();
    }
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let Some(value) = parsed else { return format!("{} bytes", body.len()) };
    let text = shorten(&value, DEPTH_SHOWN).to_string();
    if text.len() <= SUMMARY_MAX { text } else { shorten(&value, 1).to_string() }
}

/// Path and query, with what may be secret left out of the query.
fn place(uri: &Uri) -> String {
    let Some(query) = uri.query() else { return uri.path().to_owned() };
    let hide = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if is_hidden(name) => format!("{name}=(not shown)"),
        _ => pair.to_owned(),
    };
    let query: Vec<String> = query.split('&').map(hide).collect();
    format!("{}?{}", uri.path(), query.join("&"))
}

/// Who has what done, for the log.
pub(super) fn note(caller: &Caller, from: Option<IpAddr>, method: &Method, uri: &Uri, summary: String) -> AuditNote {
    let place_of = from.map_or_else(|| "socket".to_owned(), |from| from.to_string());
    let by = caller.name.strip_suffix(&format!(" from {place_of}")).unwrap_or(&caller.name).to_owned();
    // The node fills in its own name.
    AuditNote { by, from: place_of, node: String::new(), act: format!("{method} {}", place(uri)), summary }
}

/// Writes an act of the old swarm's paths down; their handlers know by then who it is and what he wants.
pub(super) async fn write(context: &Context, note: AuditNote) -> Result<(), Problem> {
    context.node.note(note, None).await?;
    Ok(())
}

fn length_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn once_key(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    let mut keys = headers.get_all(ONCE_HEADER).iter();
    let Some(key) = keys.next().map(HeaderValue::as_bytes) else { return Ok(None) };
    let fits = (1..=ONCE_MAX).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    if keys.next().is_some() || !fits {
        let message = format!("Idempotency-Key: once, 1 to {ONCE_MAX} characters without spaces");
        return Err(Problem::invalid(message));
    }
    Ok(Some(key))
}

/// A digest over parts of which none runs into the next.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut all = Vec::new();
    for part in parts {
        all.extend((part.len() as u64).to_be_bytes());
        all.extend_from_slice(part);
    }
    sha256(&all)
}

/// Of a request that carries files nothing is read here but what is short; of others all, as their handlers would.
async fn body_of(
    headers: &HeaderMap,
    body: Body,
    files: bool,
    once: bool,
) -> Result<(Option<Bytes>, Body, String), Problem> {
    let length = length_of(headers);
    let short = length.is_some_and(|length| length <= CONTROL_BODY_MAX as u64);
    if files && !short && !once {
        let said = length.map_or_else(|| "a stream".to_owned(), |length| format!("{length} bytes"));
        return Ok((None, body, said));
    }
    let max = if files { SUBMIT_BODY_MAX } else { CONTROL_BODY_MAX };
    let bytes = read_body(body, max).await?;
    let summary = summary_of(&bytes);
    Ok((Some(bytes.clone()), Body::from(bytes), summary))
}

/// How a route is written down.
#[derive(Clone)]
pub(super) struct Rule {
    pub(super) context: Context,
    pub(super) record: Record,
    /// It came over the socket.
    pub(super) local: bool,
    /// The route carries files.
    pub(super) files: bool,
}

/// Writes down what is about to be done, then lets it be done.
pub(super) async fn audited(
    State(rule): State<Rule>,
    Extension(caller): Extension<Caller>,
    remote: Option<Extension<Remote>>,
    request: Request,
    next: Next,
) -> Response {
    if request.method().is_safe() || rule.record == Record::Not {
        return next.run(request).await;
    }
    let from = remote.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |Extension(Remote(from))| from);
    let from = (!rule.local).then_some(from);
    act(&rule, &caller, from, request, next).await.unwrap_or_else(Problem::into_response)
}

async fn act(
    rule: &Rule,
    caller: &Caller,
    from: Option<IpAddr>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let node = &rule.context.node;
    let (parts, body) = request.into_parts();
    let key = once_key(&parts.headers)?.map(<[u8]>::to_vec);
    let (bytes, body, summary) = body_of(&parts.headers, body, rule.files, key.is_some()).await?;
    let note = note(caller, from, &parts.method, &parts.uri, summary);
    let once = key.map(|key| Once {
        key: digest(&[note.by.as_bytes(), &key]),
        request: digest(&[
            parts.method.as_str().as_bytes(),
            parts.uri.path_and_query().map_or("/", |place| place.as_str()).as_bytes(),
            bytes.as_deref().unwrap_or_default(),
        ]),
    });
    let request = Request::from_parts(parts, body);
    if rule.record == Record::Late {
        node.note_late(note).await?;
        return Ok(next.run(request).await);
    }
    match (node.note(note, once.clone()).await?, once) {
        (Noted::Written, None) => Ok(next.run(request).await),
        (Noted::Written, Some(once)) => Ok(keep(rule, once.key, next.run(request).await).await),
        (Noted::Before, once) => again(rule, once.map_or([0; 32], |once| once.key)).await,
    }
}

/// Keeps an answer that says for good what became of the request.
async fn keep(rule: &Rule, key: [u8; 32], response: Response) -> Response {
    let (head, body) = response.into_parts();
    let bytes = match Limited::new(body, SUBMIT_BODY_MAX).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => {
            tracing::debug!(%error, "an answer ended early");
            Bytes::new()
        }
    };
    // Whether it took effect is not known after one of these.
    if !head.status.is_server_error() {
        let body = if bytes.len() <= ANSWER_KEPT_MAX { bytes.to_vec() } else { Vec::new() };
        let answer = GivenAnswer { status: head.status.as_u16(), body };
        if let Err(error) = rule.context.node.keep_answer(key, answer).await {
            tracing::warn!(why = error.message, "an answer is not kept for whoever asks again");
        }
    }
    Response::from_parts(head, Body::from(bytes))
}

/// The answer that was given before.
async fn again(rule: &Rule, key: [u8; 32]) -> Result<Response, Problem> {
    let given = rule.context.node.given_answer(key).await?;
    let given = given.filter(|given| !given.body.is_empty());
    let Some((status, body)) = given.and_then(|given| Some((StatusCode::from_u16(given.status).ok()?, given.body)))
    else {
        let message = "this was asked before with the same key, and its answer is not known";
        let hint = "look whether it took effect; to have it done again take another Idempotency-Key";
        return Err(Problem::new(StatusCode::CONFLICT, ErrorCode::Conflict, message, hint));
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (REPLAYED, HeaderValue::from_static("true")),
    ];
    Ok((status, headers, body).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_never_written_down() {
        let body = r#"{"action":"set","key":"swordfish","reason":"why","jobs":[{"target":"a","work":{"command":["sh","-c","swordfish"],
            "env":{"X":"swordfish"}}},{"target":"b"}],"api_token":"swordfish","nothing":null,"deep":{"a":{"b":{"c":"swordfish"}}}}"#;
        let summary = summary_of(body.as_bytes());
        assert!(!summary.contains("swordfish"), "{summary}");
        for part in [r#""action":"set""#, r#""reason":"why""#, r#""target":"b""#, "(not shown)"] {
            assert!(summary.contains(part), "{part} in {summary}");
        }
        let uri: Uri = "/api/v2/queue/import?name=nightly&key=swordfish".parse().expect("a path");
        assert_eq!(place(&uri), "/api/v2/queue/import?name=nightly&key=(not shown)");
    }

    #[test]
    fn a_summary_is_short_whatever_was_sent() {
        assert_eq!(summary_of(b""), "");
        assert_eq!(summary_of(b"\xff\x00"), "2 bytes");
        let long = Value::Array(vec![Value::String("x".repeat(5_000)); 1_000]).to_string();
        let summary = summary_of(long.as_bytes());
        assert!(summary.len() < 2 * SUMMARY_MAX && summary.contains("994 more"), "{}", summary.len());
        let wide: serde_json::Map<String, Value> =
            (0..10_000).map(|number| (format!("f{number}"), Value::Array(vec![Value::Null; 9]))).collect();
        // Apply cuts what is longer still.
        assert!(summary_of(Value::Object(wide).to_string().as_bytes()).starts_with("{\"f0\":\"[9]\""));
    }

    #[test]
    fn a_caller_is_named_apart_from_where_he_is() {
        let from: IpAddr = "10.1.0.9".parse().expect("address");
        let uri: Uri = "/api/v2/control".parse().expect("a path");
        let remote = note(&Caller::remote("token ci", from), Some(from), &Method::POST, &uri, String::new());
        assert_eq!((remote.by.as_str(), remote.from.as_str()), ("token ci", "10.1.0.9"));
        assert_eq!(remote.act, "POST /api/v2/control");
        let local = note(&Caller { name: "ann".to_owned() }, None, &Method::POST, &uri, String::new());
        assert_eq!((local.by.as_str(), local.from.as_str()), ("ann", "socket"));
    }

    #[test]
    fn digests_tell_requests_apart() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        let mut headers = HeaderMap::new();
        assert!(matches!(once_key(&headers), Ok(None)));
        headers.insert(ONCE_HEADER, HeaderValue::from_static("a b"));
        assert!(once_key(&headers).is_err());
        headers.insert(ONCE_HEADER, HeaderValue::from_static("a-b"));
        assert!(matches!(once_key(&headers), Ok(Some(b"a-b"))));
        headers.append(ONCE_HEADER, HeaderValue::from_static("c"));
        assert!(once_key(&headers).is_err());
    }
}
