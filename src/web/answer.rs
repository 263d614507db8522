//! Answers: the envelope, errors as HTTP, headers that every answer carries, and bodies read within their limits.
//!
//! Never done here: routing.

use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Query, Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt as _};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Context;
use super::node::Download;
use crate::api::{ApiError, ApiResult, Envelope, ErrorCode, LogStatus, shown};
use crate::clock;
use crate::engine::id::UnixMillis;

/// Longest body of a control request, bytes.
pub const CONTROL_BODY_MAX: usize = 64 << 10;
/// Longest submission, bytes: 64 jobs at the longest command lines that the queue takes.
pub const SUBMIT_BODY_MAX: usize = 4 << 20;
/// Longest source archive, bytes.
pub const BLOB_MAX: u64 = 1 << 30;
/// Time for a body of control, and until the head of an answer, for everything that carries no files.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest silence within an upload.
pub const UPLOAD_SILENCE: Duration = Duration::from_secs(30);
/// Most bytes that are read of a request that is refused.
const UNWANTED_MAX: usize = 1 << 20;
/// And for how long.
const UNWANTED_TIMEOUT: Duration = Duration::from_secs(1);

/// Last applied log index of the node that answers.
const APPLIED: HeaderName = HeaderName::from_static("x-hive-applied");
/// Age of what it knows, milliseconds.
const AGE: HeaderName = HeaderName::from_static("x-hive-age-ms");

/// Where a request comes from, put into its extensions by the accept loop.
#[derive(Clone, Copy, Debug)]
pub struct Remote(pub IpAddr);

/// In the extensions of a request that came over TLS, here or at a trusted proxy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Secured;

/// What is wrong with a request, with a status of its own where [`ErrorCode`] has none that fits.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    error: ApiError,
    /// What it is counted as; none when the request is fine and the answer is no.
    refused: Option<&'static str>,
}

/// In the extensions of an answer: the request was refused for this reason, see [`count_refused`].
#[derive(Clone, Copy)]
pub(super) struct Refused(pub(super) &'static str);

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: ErrorCode,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { status, error: ApiError::new(code, message, hint), refused: None }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::Invalid, message, "correct the request; README lists the paths")
            .counted("malformed")
    }

    pub(super) fn not_found(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message, hint)
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        ApiError::new(ErrorCode::Unreachable, message, "try again").into()
    }

    fn too_long(limit: u64) -> Self {
        let message = format!("the body is longer than {limit} bytes");
        let hint = "send less at once, for example fewer jobs or a smaller directory";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::Invalid, message, hint).counted("too_long")
    }

    fn too_slow(what: &str, limit: Duration) -> Self {
        let message = format!("{what} within {} s", limit.as_secs());
        let hint = "it may still take effect: look before you try again; `hive doctor` says what is slow";
        Self::new(StatusCode::GATEWAY_TIMEOUT, ErrorCode::Timeout, message, hint)
    }

    /// As the paths of the Python swarm have it: the fields at the top, without an envelope.
    pub(super) fn into_flat_response(self) -> Response {
        let ApiError { code, message, hint } = self.error;
        let mut response = json(self.status, &serde_json::json!({ "error": message, "hint": hint, "code": code }));
        if let Some(reason) = self.refused {
            response.extensions_mut().insert(Refused(reason));
        }
        response
    }

    /// Counts as a refused request, by this word.
    pub(super) fn counted(self, reason: &'static str) -> Self {
        Self { refused: Some(reason), ..self }
    }
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, error, refused: None }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = json(self.status, &Envelope::<()>::error(self.error));
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(reason) = self.refused {
            response.extensions_mut().insert(Refused(reason));
        }
        response
    }
}

/// Counts requests that were refused for what they are.
pub(super) async fn count_refused(State(context): State<Context>, request: Request, next: Next) -> Response {
    let from = request.extensions().get::<Remote>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |remote| remote.0);
    let response = next.run(request).await;
    if let Some(Refused(reason)) = response.extensions().get() {
        context.node.refused(reason, from);
    }
    response
}

/// Result of a handler.
pub(super) type Handled = Result<Response, Problem>;

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    match text_of(value) {
        Some(text) => (status, [(header::CONTENT_TYPE, "application/json")], text).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn text_of<T: Serialize>(value: &T) -> Option<String> {
    match serde_json::to_string(value) {
        Ok(mut text) => {
            // Whoever asks with `curl` has it on a terminal.
            if let Cow::Owned(harmless) = shown::json(&text) {
                text = harmless;
            }
            text.push('\n');
            Some(text)
        }
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            None
        }
    }
}

/// Notes that something may have been changed, when a request for that is answered.
pub(super) async fn note_writes(State(context): State<Context>, request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let response = next.run(request).await;
    if !reads {
        context.recent.wrote();
    }
    response
}

impl Context {
    /// An answer of the node in its envelope, with time and log position.
    pub(super) fn answer<T: Serialize>(&self, result: ApiResult<T>) -> Response {
        let (at, log) = (clock::unix_now(), self.node.log());
        match result {
            Ok(data) => json(StatusCode::OK, &Envelope::ok(data).as_of(at, log)),
            Err(error) => {
                let Problem { status, error, .. } = Problem::from(error);
                json(status, &Envelope::<()>::error(error).as_of(at, log))
            }
        }
    }

    /// The same of another moment, at which the log stood elsewhere.
    pub(super) fn answer_as_of<T: Serialize>(&self, result: ApiResult<T>, at: UnixMillis, log: LogStatus) -> Response {
        match result {
            Ok(data) => json(StatusCode::OK, &Envelope::ok(data).as_of(at, log)),
            Err(error) => self.answer::<()>(Err(error)),
        }
    }

    /// The same for what many look at: the last answer of this name is given again for a moment.
    pub(super) async fn recent<T: Serialize>(
        &self,
        name: &'static str,
        result: impl Future<Output = ApiResult<T>>,
    ) -> Response {
        let make = async {
            let data = result.await?;
            let text = text_of(&Envelope::ok(data).as_of(clock::unix_now(), self.node.log()));
            let unwritable =
                || ApiError::new(ErrorCode::Internal, "the answer cannot be written", "see the agent's log");
            text.map(Bytes::from).ok_or_else(unwritable)
        };
        match self.recent.get(name, make).await {
            Ok(body) => (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => self.answer::<()>(Err(error)),
        }
    }

    /// Log position as headers, for answers that have no envelope.
    pub(super) fn position(&self) -> [(HeaderName, HeaderValue); 2] {
        let log = self.node.log();
        [(APPLIED, HeaderValue::from(log.applied)), (AGE, HeaderValue::from(log.age_ms))]
    }

    /// A file as an attachment: nothing that a build produced is ever shown by a browser as a page of this origin.
    pub(super) fn attachment(&self, download: Download) -> Response {
        let quoted: String = download
            .name
            .chars()
            .map(|c| if c.is_ascii_graphic() && !matches!(c, '"' | '\\') { c } else { '_' })
            .collect();
        let disposition = format!("attachment; filename=\"{quoted}\"");
        let headers = [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_LENGTH, download.size.to_string()),
            (header::CONTENT_DISPOSITION, disposition),
            (header::ETAG, format!("\"{}\"", download.sha256)),
            (HeaderName::from_static("x-hive-sha256"), download.sha256.to_string()),
        ];
        (self.position(), headers, Body::from_stream(download.bytes)).into_response()
    }
}

/// A JSON body of at most `MAX` bytes.
pub(super) struct JsonBody<T, const MAX: usize = CONTROL_BODY_MAX>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync, const MAX: usize> FromRequest<S> for JsonBody<T, MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = read_body(request.into_body(), MAX).await?;
        // An empty body stands for an object without any field.
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| Problem::invalid(format!("the body is not what was expected: {error}")))
    }
}

/// The whole body, at most `max` bytes.
pub(super) async fn read_body(body: Body, max: usize) -> Result<Bytes, Problem> {
    let collected = tokio::time::timeout(REQUEST_TIMEOUT, Limited::new(body, max).collect()).await;
    match collected.map_err(|_| Problem::too_slow("the body did not arrive", REQUEST_TIMEOUT))? {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Problem::too_long(max as u64)),
        Err(_) => Err(Problem::invalid("the body ended early")),
    }
}

/// The body as a stream that fails when it grows longer than `max` bytes or pauses too long. Refused at once when it says that
/// it is longer.
pub(super) fn stream_body(
    headers: &HeaderMap,
    body: Body,
    max: u64,
) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static, Problem> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > max) {
        return Err(Problem::too_long(max));
    }
    let state = Some((body.into_data_stream(), 0u64));
    let chunks = futures::stream::unfold(state, move |state| async move {
        let (mut chunks, so_far) = state?;
        let failed = |kind, why: &str| Some((Err(io::Error::new(kind, why.to_owned())), None));
        match tokio::time::timeout(UPLOAD_SILENCE, chunks.next()).await {
            Err(_) => failed(io::ErrorKind::TimedOut, "the upload paused too long"),
            Ok(None) => None,
            Ok(Some(Err(_))) => failed(io::ErrorKind::UnexpectedEof, "the upload ended early"),
            Ok(Some(Ok(chunk))) => {
                let total = so_far + chunk.len() as u64;
                if total > max {
                    return failed(io::ErrorKind::FileTooLarge, "the upload is too long");
                }
                Some((Ok(chunk), Some((chunks, total))))
            }
        }
    });
    // Whoever reads to the end after an error asks once more, which an unfolded stream answers with a panic.
    Ok(chunks.fuse())
}

/// The query, or an error in the usual shape.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(params) = Query::<T>::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::invalid(format!("the query is not what was expected: {}", error.body_text())))?;
        Ok(Self(params))
    }
}

/// Gives up on a request that has no answer in time.
pub(super) async fn within_time(State(context): State<Context>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(context.request_timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::too_slow("there was no answer", context.request_timeout).into_response(),
    }
}

/// Which sites may show an answer as a part of their pages.
pub(super) const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Headers that keep browsers from doing more with an answer than showing it. What a handler has said about policy or sharing stays.
pub(super) async fn harden(mut response: Response) -> Response {
    const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (RESOURCE_POLICY, "same-origin"),
    ];
    for (name, value) in fixed {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Answer to a path that there is none of.
pub(super) async fn no_such_path() -> Problem {
    Problem::not_found(
        "there is nothing at this path",
        "README lists the paths; agent and command should have one version",
    )
    .counted("path")
}

/// Answer to a method that a path does not know.
pub(super) async fn no_such_method() -> Problem {
    let message = "this path does not take that method";
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::Invalid,
        message,
        "README lists the paths and their methods",
    )
    .counted("method")
}

/// Answer of the public port to what needs a key.
pub(super) async fn admin_only(request: Request) -> Problem {
    let_it_finish(request).await;
    let message = "this is done at the admin port, with a key, or over the agent's own socket";
    let hint = "run the command on that machine, or over its socket: ssh HOST sudo hive …; or with a key: hive --url http://HOST:8093 …";
    Problem::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, message, hint).counted("local_only")
}

/// Answer of the ports to what only the socket does.
pub(super) async fn local_only(request: Request) -> Problem {
    let_it_finish(request).await;
    let message = "this is done over the agent's own socket only, not over the port";
    let hint = "run the command on that machine, or over its socket: ssh HOST sudo hive …";
    Problem::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, message, hint).counted("local_only")
}

/// Reads what a refused request has still to say, for a moment and up to a bound: who is cut off while sending sees a broken connection,
/// not the answer.
pub(super) async fn let_it_finish(request: Request) {
    let mut rest = Limited::new(request.into_body(), UNWANTED_MAX);
    let reading = async { while let Some(Ok(_)) = rest.frame().await {} };
    let _ = tokio::time::timeout(UNWANTED_TIMEOUT, reading).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_broke_off_may_be_asked_again() {
        let pieces = [Ok(Bytes::from_static(b"one")), Err(io::Error::from(io::ErrorKind::ConnectionReset))];
        let body = Body::from_stream(futures::stream::iter(pieces));
        let mut bytes = std::pin::pin!(stream_body(&HeaderMap::new(), body, 100).expect("not too long"));
        assert_eq!(bytes.next().await.and_then(Result::ok).as_deref(), Some(&b"one"[..]));
        assert!(bytes.next().await.is_some_and(|piece| piece.is_err()));
        assert!(bytes.next().await.is_none());
        assert!(bytes.next().await.is_none(), "and again");
    }
}
