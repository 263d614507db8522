//! Paths of the Python build swarm under `/api/v1`, with its fields: for its drones, its commands and its dashboards.
//!
//! ```text
//!   reads                          anyone
//!   register, work, poll, complete the door for drones: guard::legacy_door
//!   queue, control, nodes/…        the same door from a listed network while it is open, else the admin key
//! ```
//!
//! Answers are bare objects and lists without an envelope; an error is `{"error", "hint", "code"}`. Never done here: anything but
//! translating.

pub(super) mod wire;

use std::net::{IpAddr, Ipv4Addr};

use axum::extract::{Extension, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::access::Caller;
use super::answer::{Params, Problem, Remote, SUBMIT_BODY_MAX, read_body};
use super::guard::{authorize, legacy_door, open_to};
use super::node::{LegacyProbe, LegacyRead};
use super::{Context, audit};
use crate::api::legacy::{BODY_MAX, Call, Completion, ControlBody, QueueRequest, Registration, Told};
use crate::api::{ApiResult, ControlRequest, DroneRequest};
use crate::engine::access::Scope;

/// Result of a handler here.
pub(super) type Answered = Result<Response, Flat>;

/// A problem in the shape of these paths.
pub(super) struct Flat(Problem);

impl<P: Into<Problem>> From<P> for Flat {
    fn from(problem: P) -> Self {
        Self(problem.into())
    }
}

impl IntoResponse for Flat {
    fn into_response(self) -> Response {
        self.0.into_flat_response()
    }
}

pub(super) fn plain<T: Serialize>(context: &Context, value: &T) -> Answered {
    match serde_json::to_vec(value) {
        Ok(text) => Ok((context.position(), [(header::CONTENT_TYPE, "application/json")], text).into_response()),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            Ok(StatusCode::INTERNAL_SERVER_ERROR.into_response())
        }
    }
}

/// Where a request comes from; what comes over the socket comes from here.
fn remote(parts: &Parts) -> IpAddr {
    parts.extensions.get::<Remote>().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |remote| remote.0)
}

/// Who acts as a drone. Whoever may use the local socket may do this, too.
fn as_drone(context: &Context, parts: &Parts, drone: Option<&str>) -> Result<Caller, Problem> {
    match parts.extensions.get::<Caller>() {
        Some(local) => Ok(local.clone()),
        None => legacy_door(context, remote(parts), &parts.headers, drone),
    }
}

/// Writes down what an operator is about to do.
async fn written(context: &Context, parts: &Parts, caller: &Caller, summary: String) -> Result<(), Problem> {
    tracing::info!(by = caller.name, method = %parts.method, path = parts.uri.path(), "an operator acts over the API of the old swarm");
    let from = parts.extensions.get::<Caller>().is_none().then(|| remote(parts));
    audit::write(context, audit::note(caller, from, &parts.method, &parts.uri, summary)).await
}

/// Who acts as an operator.
fn as_operator(context: &Context, parts: &Parts, needs: Scope) -> Result<Caller, Problem> {
    if let Some(local) = parts.extensions.get::<Caller>() {
        return Ok(local.clone());
    }
    let from = remote(parts);
    if open_to(context, from) {
        legacy_door(context, from, &parts.headers, None)
    } else {
        authorize(context, &parts.headers, None, from, needs, parts.method == Method::GET)
    }
}

async fn body<T: DeserializeOwned>(body: axum::body::Body, max: usize) -> Result<T, Problem> {
    Ok(told(body, max).await?.0)
}

/// A body, and the same in short.
async fn told<T: DeserializeOwned>(body: axum::body::Body, max: usize) -> Result<(T, String), Problem> {
    let bytes = read_body(body, max).await?;
    let summary = audit::summary_of(&bytes);
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    let value = serde_json::from_slice(text)
        .map_err(|error| Problem::invalid(format!("the body is not what was expected: {error}")))?;
    Ok((value, summary))
}

pub(super) async fn register(State(context): State<Context>, request: Request) -> Answered {
    let (parts, stream) = request.into_parts();
    // Before anything is read of whoever may not speak here at all.
    as_drone(&context, &parts, None)?;
    let registration: Registration = body(stream, BODY_MAX).await?;
    let name = registration.name.as_deref().or(registration.id.as_deref());
    as_drone(&context, &parts, name)?;
    let told = context.node.legacy_register(registration, remote(&parts)).await?;
    plain(&context, &told)
}

#[derive(Deserialize)]
pub(super) struct WorkParams {
    #[serde(alias = "node", alias = "name", alias = "drone")]
    id: Option<String>,
}

pub(super) async fn work(
    State(context): State<Context>,
    Params(params): Params<WorkParams>,
    request: Request,
) -> Answered {
    let (parts, _) = request.into_parts();
    let drone = params.id.filter(|id| !id.is_empty() && id.len() <= 128);
    let drone = drone.ok_or_else(|| Problem::invalid("the drone that asks must be named: ?id=drone-1"))?;
    as_drone(&context, &parts, Some(&drone))?;
    let told = context.node.legacy(Call::Work { drone }).await?;
    let Told::Work(told) = told else { return odd(&told) };
    plain(&context, &told)
}

pub(super) async fn complete(State(context): State<Context>, request: Request) -> Answered {
    let (parts, stream) = request.into_parts();
    as_drone(&context, &parts, None)?;
    let completion: Completion = body(stream, BODY_MAX).await?;
    let named = |text: &str| !text.is_empty() && text.len() <= 255;
    if !named(&completion.id) || !named(&completion.package) || !named(&completion.status) {
        return Err(Problem::invalid("id, package and status are needed, each of at most 255 bytes").into());
    }
    as_drone(&context, &parts, Some(&completion.id))?;
    let told = context.node.legacy(Call::Complete(completion)).await?;
    let Told::Completed(told) = told else { return odd(&told) };
    plain(&context, &told)
}

fn odd(told: &Told) -> Answered {
    tracing::error!(?told, "an answer to another question");
    Ok(StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

pub(super) async fn queue(State(context): State<Context>, request: Request) -> Answered {
    let (parts, stream) = request.into_parts();
    let caller = as_operator(&context, &parts, Scope::Queue)?;
    let (asked, summary): (QueueRequest, _) = told(stream, SUBMIT_BODY_MAX).await?;
    written(&context, &parts, &caller, summary).await?;
    let queued = context.node.legacy_queue(asked, caller.name).await?;
    plain(&context, &queued)
}

/// What the old swarm calls an action, as the hive calls it.
fn action_of(word: &str) -> &str {
    match word {
        "optimize" => "rebalance",
        other => other,
    }
}

pub(super) async fn control(State(context): State<Context>, request: Request) -> Answered {
    let (parts, stream) = request.into_parts();
    let caller = as_operator(&context, &parts, Scope::Admin)?;
    let (asked, summary): (ControlBody, _) = told(stream, BODY_MAX).await?;
    written(&context, &parts, &caller, summary).await?;
    let request = ControlRequest {
        action: action_of(&asked.action).to_owned(),
        package: asked.package,
        drone: asked.drone,
        running: asked.running,
        reason: asked.reason,
        ..ControlRequest::default()
    };
    let changed = context.node.control(request, caller.name).await?;
    let told = json!({ "status": "ok", "action": asked.action, "jobs": changed.jobs, "drones": changed.drones });
    plain(&context, &told)
}

/// `nodes/<name>/pause`, `resume` and `ping`.
pub(super) async fn change_node(
    State(context): State<Context>,
    Path((name, action)): Path<(String, String)>,
    request: Request,
) -> Answered {
    let (parts, _) = request.into_parts();
    let caller = as_operator(&context, &parts, Scope::Admin)?;
    if action == "ping" {
        // It changes nothing.
        return answer(&context, LegacyRead::Probe(LegacyProbe::Ping { who: Some(name) })).await;
    }
    if !matches!(action.as_str(), "pause" | "resume") {
        let hint = "pause, resume or ping; the hive does more under /api/v2/nodes";
        return Err(Problem::not_found(format!("{action:?} is nothing that is done to a node here"), hint).into());
    }
    written(&context, &parts, &caller, String::new()).await?;
    context.node.change_drone(name.clone(), action.clone(), DroneRequest::default(), caller.name).await?;
    plain(&context, &json!({ "status": "ok", "node": name, "paused": action == "pause" }))
}

/// Takes a drone off the list. Nodes of the hive leave by themselves.
pub(super) async fn forget_node(
    State(context): State<Context>,
    Path(name): Path<String>,
    request: Request,
) -> Answered {
    let (parts, _) = request.into_parts();
    let caller = as_operator(&context, &parts, Scope::Admin)?;
    written(&context, &parts, &caller, String::new()).await?;
    let told = context.node.legacy(Call::Forget { drone: name.clone() }).await?;
    let Told::Forgotten(gone) = told else { return odd(&told) };
    if gone {
        return plain(&context, &json!({ "status": "ok", "deleted": name }));
    }
    let hint = "nodes of the hive leave when hive is stopped there for good. See: hive fleet";
    Err(Problem::not_found(format!("no drone of the build swarm is called {name:?}"), hint).into())
}

async fn answer(context: &Context, what: LegacyRead) -> Answered {
    let told: ApiResult<serde_json::Value> = context.node.legacy_read(what).await;
    plain(context, &told?)
}

pub(super) async fn health(State(context): State<Context>) -> Answered {
    answer(&context, LegacyRead::Health).await
}

pub(super) async fn status(State(context): State<Context>) -> Answered {
    answer(&context, LegacyRead::Status).await
}

#[derive(Deserialize)]
pub(super) struct NodesParams {
    all: Option<String>,
}

pub(super) async fn nodes(State(context): State<Context>, Params(params): Params<NodesParams>) -> Answered {
    let all = params.all.is_some_and(|all| !matches!(all.as_str(), "0" | "false"));
    answer(&context, LegacyRead::Nodes { all }).await
}

pub(super) async fn orchestrator(State(context): State<Context>) -> Answered {
    answer(&context, LegacyRead::Orchestrator).await
}

#[derive(Deserialize)]
pub(super) struct ListParams {
    session: Option<String>,
    package: Option<String>,
    node: Option<String>,
    since: Option<f64>,
    limit: Option<usize>,
}

pub(super) async fn queued(State(context): State<Context>, Params(params): Params<ListParams>) -> Answered {
    answer(&context, LegacyRead::Queue { limit: params.limit }).await
}

pub(super) async fn history(State(context): State<Context>, Params(params): Params<ListParams>) -> Answered {
    answer(&context, LegacyRead::History { session: params.session, limit: params.limit }).await
}

pub(super) async fn sessions(State(context): State<Context>) -> Answered {
    answer(&context, LegacyRead::Sessions).await
}

pub(super) async fn packages(State(context): State<Context>, Params(params): Params<ListParams>) -> Answered {
    answer(&context, LegacyRead::Packages { package: params.package, limit: params.limit }).await
}

pub(super) async fn versions(State(context): State<Context>) -> Answered {
    answer(&context, LegacyRead::Versions).await
}

pub(super) async fn metrics(State(context): State<Context>, Params(params): Params<ListParams>) -> Answered {
    answer(&context, LegacyRead::Metrics { since: params.since, node: params.node }).await
}

#[derive(Deserialize)]
pub(super) struct FeedParams {
    since: Option<u64>,
    limit: Option<usize>,
}

pub(super) async fn events(State(context): State<Context>, Params(params): Params<FeedParams>) -> Answered {
    answer(&context, LegacyRead::Events { since: params.since, limit: params.limit }).await
}

#[derive(Deserialize)]
pub(super) struct PastEventsParams {
    since: Option<f64>,
    #[serde(rename = "type")]
    kind: Option<String>,
    drone: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn events_history(
    State(context): State<Context>,
    Params(params): Params<PastEventsParams>,
) -> Answered {
    let PastEventsParams { since, kind, drone, limit } = params;
    answer(&context, LegacyRead::EventsHistory { since, kind, drone, limit }).await
}

pub(super) async fn drone_health(
    State(context): State<Context>,
    local: Option<Extension<Caller>>,
    request: Request,
) -> Answered {
    let (parts, _) = request.into_parts();
    if local.is_none() {
        as_operator(&context, &parts, Scope::Read)?;
    }
    answer(&context, LegacyRead::DroneHealth).await
}

pub(super) async fn portage_config(State(context): State<Context>) -> Answered {
    answer(&context, LegacyRead::PortageConfig).await
}

#[derive(Deserialize)]
pub(super) struct PingParams {
    #[serde(alias = "name")]
    id: Option<String>,
}

pub(super) async fn ping(State(context): State<Context>, Params(params): Params<PingParams>) -> Answered {
    answer(&context, LegacyRead::Probe(LegacyProbe::Ping { who: params.id })).await
}

pub(super) async fn ping_all(State(context): State<Context>) -> Answered {
    answer(&context, LegacyRead::Probe(LegacyProbe::Ping { who: None })).await
}

pub(super) async fn ping_drone(State(context): State<Context>, Path(name): Path<String>) -> Answered {
    answer(&context, LegacyRead::Probe(LegacyProbe::Ping { who: Some(name) })).await
}

/// Whoever comes so far has the key.
pub(super) async fn auth_check(State(context): State<Context>) -> Answered {
    plain(&context, &json!({ "authenticated": true, "status": "ok" }))
}

pub(super) async fn system_info(State(context): State<Context>) -> Answered {
    answer(&context, LegacyRead::Probe(LegacyProbe::SystemInfo)).await
}

pub(super) async fn drone_versions(State(context): State<Context>) -> Answered {
    answer(&context, LegacyRead::Probe(LegacyProbe::DroneVersions)).await
}

pub(super) async fn admin_nodes(State(context): State<Context>) -> Answered {
    answer(&context, LegacyRead::Probe(LegacyProbe::Nodes)).await
}

pub(super) async fn admin_status(State(context): State<Context>) -> Answered {
    answer(&context, LegacyRead::Probe(LegacyProbe::Status)).await
}

/// Uploads of a drone that failed too often are taken again.
pub(super) async fn reset_upload(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answered {
    let request =
        ControlRequest { action: "unground".to_owned(), drone: Some(name.clone()), ..ControlRequest::default() };
    context.node.control(request, caller.name).await?;
    plain(&context, &json!({ "status": "ok", "drone": name }))
}
