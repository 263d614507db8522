//! Handlers of what concerns sessions, drones, history and operators.
//!
//! Never done here: anything but translating; the table of routes is in `routes`.

use std::net::{IpAddr, Ipv4Addr};

use axum::extract::{Extension, Path, Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use futures::StreamExt as _;
use serde::Deserialize;
use uuid::Uuid;

use super::access::Caller;
use super::answer::{Handled, JsonBody, Params, Problem, Remote, stream_body};
use super::node::{EventQuery, HistoryQuery, ImportAbout, SessionQuery};
use super::{Context, live};
use crate::api::{AdminKeyRequest, CancelRequest, ControlRequest, DroneRequest, TokenRequest};
use crate::engine::event::EventKind;
use crate::engine::id::SessionId;

/// Sessions listed when nothing else is said.
const SESSIONS_DEFAULT: usize = 50;
/// Most lines of any of these lists.
const LINES_MAX: usize = 1_000;
/// Attempts and packages listed when nothing else is said.
const LINES_DEFAULT: usize = 100;
/// Longest import, bytes: 250,000 jobs of two thousand bytes each.
const IMPORT_MAX: u64 = 512 << 20;
/// Longest name in a path or query, bytes.
const NAME_MAX: usize = 256;

fn flag(text: Option<&str>, name: &str) -> Result<bool, Problem> {
    match text {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1" | "") => Ok(true),
        Some(_) => Err(Problem::invalid(format!("{name} is true or false"))),
    }
}

pub(super) fn short(text: String) -> Result<String, Problem> {
    if text.is_empty() || text.len() > NAME_MAX {
        return Err(Problem::invalid(format!("a name has 1 to {NAME_MAX} bytes")));
    }
    Ok(text)
}

pub(super) async fn control(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    JsonBody(request): JsonBody<ControlRequest>,
) -> Response {
    context.answer(context.node.control(request, caller.name).await)
}

pub(super) async fn change_drone(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    Path((name, action)): Path<(String, String)>,
    JsonBody(request): JsonBody<DroneRequest>,
) -> Handled {
    let name = short(name)?;
    Ok(context.answer(context.node.change_drone(name, action, request, caller.name).await))
}

#[derive(Deserialize)]
pub(super) struct SessionsParams {
    open: Option<String>,
    limit: Option<usize>,
}

impl SessionsParams {
    pub(super) fn query(&self) -> Result<SessionQuery, Problem> {
        let open = flag(self.open.as_deref(), "open")?;
        Ok(SessionQuery { open, limit: self.limit.unwrap_or(SESSIONS_DEFAULT).min(LINES_MAX) })
    }
}

pub(super) async fn sessions(State(context): State<Context>, Params(params): Params<SessionsParams>) -> Handled {
    Ok(context.answer(context.node.sessions(params.query()?).await))
}

pub(super) async fn session(State(context): State<Context>, Path(which): Path<String>) -> Handled {
    Ok(context.answer(context.node.session(short(which)?).await))
}

pub(super) async fn cancel_session(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    Path(which): Path<String>,
    JsonBody(request): JsonBody<CancelRequest>,
) -> Handled {
    Ok(context.answer(context.node.cancel_session(short(which)?, caller.name, request.reason).await))
}

#[derive(Deserialize)]
pub(super) struct StagedParams {
    atom: String,
}

/// Asks every node that has a staging directory, which may read a large package first.
pub(super) async fn staged(State(context): State<Context>, Params(params): Params<StagedParams>) -> Handled {
    Ok(context.answer(context.node.staged(short(params.atom)?).await))
}

#[derive(Deserialize)]
pub(super) struct ImportParams {
    #[serde(default)]
    name: String,
    profile: Option<String>,
    session: Option<SessionId>,
}

pub(super) async fn import(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ImportParams>,
    request: Request,
) -> Handled {
    let (parts, body) = request.into_parts();
    let lines = stream_body(&parts.headers, body, IMPORT_MAX)?;
    let session = params.session.unwrap_or_else(|| SessionId(Uuid::new_v4()));
    let about = ImportAbout { session, name: params.name, profile: params.profile };
    Ok(context.answer(context.node.import(about, caller.name, lines.boxed()).await))
}

pub(super) async fn fleet(State(context): State<Context>) -> Response {
    context.answer(context.node.fleet().await)
}

#[derive(Deserialize)]
pub(super) struct HistoryParams {
    package: Option<String>,
    drone: Option<String>,
    session: Option<String>,
    failed: Option<String>,
    limit: Option<usize>,
}

impl HistoryParams {
    pub(super) fn query(self) -> Result<HistoryQuery, Problem> {
        Ok(HistoryQuery {
            package: self.package.map(short).transpose()?,
            drone: self.drone.map(short).transpose()?,
            session: self.session.map(short).transpose()?,
            failed: flag(self.failed.as_deref(), "failed")?,
            limit: self.limit.unwrap_or(LINES_DEFAULT).min(LINES_MAX),
        })
    }
}

pub(super) async fn history(State(context): State<Context>, Params(params): Params<HistoryParams>) -> Handled {
    Ok(context.answer(context.node.history(params.query()?).await))
}

#[derive(Deserialize)]
pub(super) struct EventsParams {
    since: Option<u64>,
    #[serde(rename = "type")]
    kind: Option<String>,
    drone: Option<String>,
    limit: Option<usize>,
}

impl EventsParams {
    pub(super) fn query(self) -> Result<EventQuery, Problem> {
        let unknown = || Problem::invalid("type: there is no such kind of event");
        let kind = self.kind.as_deref().map(|word| EventKind::from_word(word).ok_or_else(unknown));
        Ok(EventQuery {
            since: self.since,
            kind: kind.transpose()?,
            drone: self.drone.map(short).transpose()?,
            until: None,
            limit: self.limit.unwrap_or(LINES_DEFAULT).min(LINES_MAX),
        })
    }
}

/// A list, or for whoever asks for a stream what happens from now on.
pub(super) async fn events(
    State(context): State<Context>,
    remote: Option<Extension<Remote>>,
    headers: HeaderMap,
    Params(follow): Params<live::FollowParams>,
    Params(params): Params<EventsParams>,
) -> Handled {
    if live::wants_stream(&headers) {
        let Extension(remote) = remote.unwrap_or(Extension(Remote(IpAddr::V4(Ipv4Addr::LOCALHOST))));
        return live::follow(&context, remote, &headers, &follow).await;
    }
    Ok(context.answer(context.node.events(params.query()?).await))
}

pub(super) async fn access(State(context): State<Context>) -> Response {
    context.answer(context.node.access().await)
}

pub(super) async fn change_admin_key(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    JsonBody(request): JsonBody<AdminKeyRequest>,
) -> Response {
    context.answer(context.node.change_admin_key(request, caller.name).await)
}

pub(super) async fn add_token(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    JsonBody(request): JsonBody<TokenRequest>,
) -> Response {
    context.answer(context.node.add_token(request, caller.name).await)
}

pub(super) async fn revoke_token(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Handled {
    Ok(context.answer(context.node.revoke_token(short(name)?, caller.name).await))
}

#[derive(Deserialize)]
pub(super) struct PackagesParams {
    limit: Option<usize>,
}

impl PackagesParams {
    pub(super) fn limit(&self) -> usize {
        self.limit.unwrap_or(LINES_DEFAULT).min(LINES_MAX)
    }
}

pub(super) async fn packages(State(context): State<Context>, Params(params): Params<PackagesParams>) -> Response {
    context.answer(context.node.packages(params.limit()).await)
}
