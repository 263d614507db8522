//! Notes of HTTP requests and their answers, for whoever looks at the wire.
//!
//! One record per request, made when the head of its answer is there: method, path, harmless headers, the beginning of what was said in
//! both directions where that is text. Secrets are taken out before anything is kept (`engine::wire::redact`). What only looks at the
//! wire is not noted, or looking would show itself for ever. Never done here: changing or delaying a request.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http_body_util::BodyExt as _;
use serde_json::{Map, Value, json};

use super::answer::{Refused, Remote};
use crate::clock;
use crate::engine::wire::Protocol;
use crate::engine::wire::frames::{Word, trace};
use crate::engine::wire::redact;
use crate::wire::{BODY_MAX, Note, Status, Wire};

/// Longest text of one direction that is kept, bytes; both fit into a record.
const TEXT_MAX: usize = 768;
/// Longest path and query that are kept, characters.
const PATH_MAX: usize = 256;
/// Longest answer to a read that is kept: lists are long, and asked for all the time.
const READ_ANSWER_MAX: u64 = 768;
/// Headers of one request that are kept.
const HEADERS_MAX: usize = 20;

/// TCP port of the client, put into the extensions of a request by the accept loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct RemotePort(pub(super) u16);

/// What the middleware needs.
#[derive(Clone)]
pub(super) struct Capture {
    pub(super) wire: Wire,
    pub(super) door: Protocol,
}

/// Requests that look at the wire, and streams and files without end.
fn is_looking(path: &str) -> bool {
    ["/api/v2/wire", "/api/v1/protocol", "/api/v2/listen", "/api/v2/events", "/assets/", "/style.css", "/icon.svg"]
        .iter()
        .any(|known| path.starts_with(known))
}

/// Text that may be shown, once its secrets are gone.
fn is_text(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    ["application/json", "text/plain", "application/x-www-form-urlencoded"].iter().any(|known| kind.starts_with(known))
}

type Kept = Arc<Mutex<Vec<u8>>>;

/// Passes a body on and keeps its beginning.
fn keeping(body: Body, kept: &Kept) -> Body {
    let kept = Arc::clone(kept);
    Body::new(body.map_frame(move |frame| {
        if let Some(bytes) = frame.data_ref() {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            let room = TEXT_MAX.saturating_sub(kept.len());
            kept.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        }
        frame
    }))
}

/// What is kept of a text: a structure where it is one, else the text.
fn shown(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    match serde_json::from_slice::<Value>(bytes) {
        Ok(mut value) => {
            redact::value(&mut value, redact::Origin::Http);
            value
        }
        Err(_) => Value::from(redact::text(&String::from_utf8_lossy(bytes)).into_owned()),
    }
}

struct Head {
    method: Method,
    path: String,
    query: String,
    headers: Map<String, Value>,
    from: Option<IpAddr>,
    port: u16,
    bytes: u64,
}

fn cut(text: &str) -> String {
    redact::text(text).chars().take(PATH_MAX).collect()
}

impl Head {
    fn of(request: &Request) -> Self {
        let headers = request.headers().iter().take(HEADERS_MAX).map(|(name, value)| {
            let value = redact::header(name.as_str(), value.to_str().unwrap_or("(no text)"));
            (name.as_str().to_owned(), Value::from(value))
        });
        let length = request.headers().get(header::CONTENT_LENGTH);
        Self {
            method: request.method().clone(),
            path: cut(request.uri().path()),
            query: cut(request.uri().query().unwrap_or_default()),
            headers: headers.collect(),
            from: request.extensions().get::<Remote>().map(|remote| remote.0),
            port: request.extensions().get::<RemotePort>().map_or(0, |port| port.0),
            bytes: length.and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0),
        }
    }
}

/// Notes a request and its answer.
pub(super) async fn capture(State(capture): State<Capture>, request: Request, next: Next) -> Response {
    let kind = Word::new(request.method().as_str());
    if !capture.wire.is_on() || is_looking(request.uri().path()) || !capture.wire.wants(kind, clock::unix_us()) {
        return next.run(request).await;
    }
    let (head, kept, began_us) = (Head::of(&request), Kept::default(), clock::now_us());
    let request = if !head.method.is_safe() && is_text(request.headers()) {
        let (parts, body) = request.into_parts();
        Request::from_parts(parts, keeping(body, &kept))
    } else {
        request
    };
    let response = next.run(request).await;
    let latency_us = clock::now_us().saturating_sub(began_us);
    let (response, said) = answer_text(&head, response).await;
    let asked = std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner));
    note(&capture, &head, kind, &asked, &response, &said, latency_us);
    response
}

/// The beginning of an answer that is worth keeping, when it is there at once.
async fn answer_text(head: &Head, response: Response) -> (Response, Vec<u8>) {
    use axum::body::HttpBody as _;
    let length = response.body().size_hint().exact();
    let worth = |length| {
        length <= READ_ANSWER_MAX || (!head.method.is_safe() && length <= 64 << 10) || response.status().as_u16() >= 400
    };
    if !is_text(response.headers()) || !length.is_some_and(worth) {
        return (response, Vec::new());
    }
    let (parts, body) = response.into_parts();
    // Its whole length is known, so it is in memory already.
    match body.collect().await {
        Ok(collected) => {
            let bytes = collected.to_bytes();
            let said = bytes.get(..TEXT_MAX.min(bytes.len())).unwrap_or_default().to_vec();
            (Response::from_parts(parts, Body::from(bytes)), said)
        }
        Err(error) => {
            tracing::debug!(%error, "an answer broke off before it was sent");
            (StatusCode::INTERNAL_SERVER_ERROR.into_response(), Vec::new())
        }
    }
}

fn note(capture: &Capture, head: &Head, kind: Word, asked: &[u8], response: &Response, said: &[u8], latency_us: u64) {
    use axum::body::HttpBody as _;
    let refused = response.extensions().get::<Refused>().map(|refused| refused.0);
    let status = response.status().as_u16();
    let bytes = head.bytes + response.body().size_hint().exact().unwrap_or(0);
    let mut told = json!({
        "method": head.method.as_str(),
        "path": head.path,
        "query": head.query,
        "status": status,
        "request": shown(asked),
        "response": shown(said),
        "headers": head.headers,
    });
    let mut text = told.to_string();
    if text.len() > BODY_MAX {
        // Something has to go, and headers say least.
        told.as_object_mut().map(|entries| entries.remove("headers"));
        text = told.to_string();
    }
    if text.len() > BODY_MAX {
        for field in ["request", "response"] {
            told.as_object_mut().map(|entries| entries.insert(field.to_owned(), Value::from("(too long to keep)")));
        }
        text = told.to_string();
    }
    let address = head.from.map(|from| SocketAddr::new(from, head.port));
    let place = address.map_or_else(String::new, |address| address.to_string());
    capture.wire.note(&Note {
        sent: false,
        protocol: capture.door,
        kind,
        peer: None,
        address: address.filter(|_| capture.door != Protocol::Local),
        bytes,
        latency_us: Some(latency_us),
        status: Status::Code(status),
        verdict: refused.unwrap_or("taken"),
        trace: trace(&[b"http", place.as_bytes(), &clock::unix_us().to_be_bytes(), head.path.as_bytes()]),
        body: text.as_bytes(),
    });
}

#[cfg(test)]
mod tests;
