//! The table of routes and their handlers: HTTP in, a call of the node, JSON or bytes out.
//!
//! A route says who may use it. The public router is made of what is open to anyone or guarded by the secret, the local one of
//! everything. Never done here: anything but translating.

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use futures::StreamExt as _;
use serde::Deserialize;

use super::access::Caller;
use super::answer::{
    BLOB_MAX, Handled, JsonBody, Params, Problem, SUBMIT_BODY_MAX, admin_only, count_refused, harden, local_only,
    no_such_method, no_such_path, note_writes, stream_body, within_time,
};
use super::audit::{Record, Rule, audited};
use super::capture::{Capture, capture};
use super::node::JobQuery;
use super::open::{OnlySummary, Shown, shown, summarised};
use super::{
    Context, app, backup, badge, bootstrap, browse, console, data, farm, guard, hive, legacy, logs, openapi, page,
    people, reads, replay, session, terminal, tls, wire,
};
use crate::api::{AddressClaim, ApiError, CancelRequest, ErrorCode, RecoverRequest, SubmitRequest};
use crate::engine::access::Scope;
use crate::engine::id::{JobId, Sha256Hash};
use crate::engine::wire::Protocol;

/// Jobs listed when nothing else is said.
const JOBS_DEFAULT: usize = 100;
/// Most jobs listed at once.
const JOBS_MAX: usize = 1_000;
/// The one path of the old swarm's administration that takes two methods.
const PING_DRONE: &str = "/admin/api/drones/{name}/ping";
/// Longest name of a job, node, artifact in a path, bytes.
const NAME_MAX: usize = 255;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// Everyone who reaches the port: reads only.
    Anyone,
    /// Whoever proves to know the secret.
    Secret,
    /// Drones and operators of the Python swarm, at both ports and the socket; the handler asks the guard, as the drone's name may stand
    /// in the body.
    Legacy,
    /// Whoever has a key with this scope, at the admin port.
    Key(Scope),
    /// Whoever has a ticket for one terminal, at the admin port; the handler asks for it, since browsers send no headers there.
    Ticket,
    /// Whoever gives a key or has a session, at the admin port; the handler asks the guard.
    SignIn,
    /// The local socket alone.
    Local,
}

/// One entry of the table.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) door: Door,
    handler: MethodRouter<Context>,
    /// Files travel between nodes before there is an answer. That takes as long as they are large; what makes no progress
    /// is given up by whoever moves them.
    moves_files: bool,
    /// When it is open to anyone: how much must be shown for it to be.
    pub(super) shown: Shown,
    /// Its answer is made of the replicated state alone.
    tagged: bool,
    /// When it changes something: how that comes into the audit log.
    pub(super) record: Record,
}

impl Route {
    fn new(method: Method, path: &'static str, door: Door, handler: MethodRouter<Context>) -> Self {
        let (shown, record) = (Shown::Full, Record::First);
        Self { method, path, door, handler, moves_files: false, shown, tagged: false, record }
    }

    /// It tells nothing of the hive, or serves machines that have no key.
    fn always(self) -> Self {
        Self { shown: Shown::Always, ..self }
    }

    /// Its handler leaves out what a summary has not.
    fn in_summary(self) -> Self {
        Self { shown: Shown::Summary, ..self }
    }

    /// Its answer is made of the replicated state alone.
    fn tagged(self) -> Self {
        Self { tagged: true, ..self }
    }

    fn recorded(self, record: Record) -> Self {
        Self { record, ..self }
    }
}

fn read(path: &'static str, door: Door, handler: MethodRouter<Context>) -> Route {
    Route::new(Method::GET, path, door, handler)
}

fn write(path: &'static str, door: Door, handler: MethodRouter<Context>) -> Route {
    Route::new(Method::POST, path, door, handler)
}

fn files(method: Method, path: &'static str, door: Door, handler: MethodRouter<Context>) -> Route {
    Route { moves_files: true, ..Route::new(method, path, door, handler) }
}

/// Everything there is.
pub(super) fn table() -> Vec<Route> {
    let mut table = own();
    table.extend(guarded());
    table.extend(app::PATHS.iter().map(|path| read(path, Door::Anyone, get(app::shell)).always()));
    table.extend(inherited());
    table.extend(of_nodes());
    table
}

/// The paths of the Python build swarm.
fn inherited() -> Vec<Route> {
    use Door::{Anyone, Key, Legacy};
    vec![
        read("/api/v1/health", Anyone, get(legacy::health)).always(),
        read("/api/v1/status", Anyone, get(legacy::status)),
        read("/api/v1/nodes", Anyone, get(legacy::nodes)),
        read("/api/v1/orchestrator", Anyone, get(legacy::orchestrator)),
        read("/api/v1/queue", Anyone, get(legacy::queued)),
        read("/api/v1/history", Anyone, get(legacy::history)),
        read("/api/v1/sessions", Anyone, get(legacy::sessions)),
        read("/api/v1/build-stats/by-package", Anyone, get(legacy::packages)),
        read("/api/v1/versions", Anyone, get(legacy::versions)),
        read("/api/v1/metrics", Anyone, get(legacy::metrics)),
        read("/api/v1/sql/tables", Door::Key(Scope::Read), get(data::legacy_tables)),
        read("/api/v1/sql/schema", Door::Key(Scope::Read), get(data::legacy_schema)),
        read("/api/v1/sql/query", Door::Key(Scope::Read), get(data::legacy_query)),
        read("/api/v1/events", Anyone, get(legacy::events)),
        read("/api/v1/events/history", Anyone, get(legacy::events_history)),
        read("/api/v1/portage-config", Anyone, get(legacy::portage_config)),
        read("/api/v1/protocol", Anyone, get(legacy::wire::entries)),
        read("/api/v1/protocol/stats", Anyone, get(legacy::wire::stats)),
        read("/api/v1/protocol/density", Anyone, get(legacy::wire::density)),
        read("/api/v1/protocol/snapshot", Anyone, get(legacy::wire::snapshot)),
        read("/api/v1/protocol/detail", Legacy, get(legacy::wire::detail)),
        read("/api/v1/ping", Anyone, get(legacy::ping)),
        read("/api/v1/ping/all", Anyone, get(legacy::ping_all)),
        read("/admin/api/auth/check", Key(Scope::Admin), get(legacy::auth_check)),
        read("/admin/api/system/info", Key(Scope::Admin), get(legacy::system_info)),
        read("/admin/api/drones/versions", Key(Scope::Admin), get(legacy::drone_versions)),
        read(PING_DRONE, Key(Scope::Admin), get(legacy::ping_drone)),
        write(PING_DRONE, Key(Scope::Admin), post(legacy::ping_drone)).recorded(Record::Not),
        read("/admin/api/v2/nodes", Key(Scope::Admin), get(legacy::admin_nodes)),
        read("/admin/api/v2/status", Key(Scope::Admin), get(legacy::admin_status)),
        write("/admin/api/drone/{name}/reset-upload", Key(Scope::Admin), post(legacy::reset_upload)),
        read("/api/v1/drone-health", Legacy, get(legacy::drone_health)),
        read("/api/v1/work", Legacy, get(legacy::work)),
        read("/api/v1/poll", Legacy, get(legacy::work)),
        write("/api/v1/register", Legacy, post(legacy::register)),
        // What was uploaded is read before there is an answer.
        files(Method::POST, "/api/v1/complete", Legacy, post(legacy::complete)),
        files(Method::POST, "/api/v1/report", Legacy, post(legacy::complete)),
        write("/api/v1/queue", Legacy, post(legacy::queue)),
        write("/api/v1/control", Legacy, post(legacy::control)),
        write("/api/v1/nodes/{name}/{action}", Legacy, post(legacy::change_node)),
        Route::new(Method::DELETE, "/api/v1/nodes/{name}", Legacy, delete(legacy::forget_node)),
    ]
}

/// What an operator does on one node.
fn of_nodes() -> Vec<Route> {
    let admin = Door::Key(Scope::Admin);
    vec![
        read("/api/v2/nodes/{name}/logs", admin, get(console::log)),
        files(Method::POST, "/api/v2/nodes/{name}/exec", admin, post(console::exec)),
        write("/api/v2/nodes/{name}/terminal", admin, post(terminal::ticket)),
        read("/api/v2/recordings", admin, get(console::recordings)),
        read("/api/v2/recordings/{id}", admin, get(console::recording)),
        read("/ws/ssh/{node}", Door::Ticket, get(terminal::connect)),
        read("/admin/api/logs/control-plane", admin, get(console::legacy_own)),
        read("/admin/api/logs/drone/{name}", admin, get(console::legacy_drone)),
        read("/admin/api/logs/build/{name}/{*package}", admin, get(console::legacy_build)),
        read("/admin/api/drones/{name}/syslog", admin, get(console::legacy_system)),
    ]
}

fn own() -> Vec<Route> {
    use Door::{Anyone, Key};
    use Scope::Admin;
    vec![
        read("/app/{*file}", Anyone, get(app::file)).always(),
        read("/plain", Anyone, get(page::status)).in_summary(),
        read("/plain/jobs/{id}", Anyone, get(page::job)),
        read("/badge.svg", Anyone, get(badge::badge)).in_summary(),
        read("/style.css", Anyone, get(page::style)).always(),
        read("/icon.svg", Anyone, get(page::icon)).always(),
        read("/openapi.json", Anyone, get(openapi::json)).always(),
        read("/openapi", Anyone, get(openapi::page)).always(),
        read("/api/v2/authority", Anyone, get(tls::authority)).always(),
        read("/healthz", Anyone, get(healthz)).always(),
        read("/readyz", Anyone, get(readyz)).always(),
        read("/metrics", Anyone, get(metrics)).in_summary(),
        read("/api/v2/health", Anyone, get(health)).in_summary(),
        read("/api/v2/status", Anyone, get(status)).in_summary(),
        read("/api/v2/nodes", Anyone, get(nodes)),
        read("/api/v2/jobs", Anyone, get(jobs)).tagged(),
        read("/api/v2/jobs/{id}", Anyone, get(job)),
        read("/api/v2/jobs/{id}/graph", Anyone, get(browse::graph)),
        read("/api/v2/queue", Anyone, get(browse::queue)),
        read("/api/v2/critical-path", Anyone, get(browse::critical_path)),
        read("/api/v2/throughput", Anyone, get(browse::throughput)),
        read("/api/v2/activity", Anyone, get(replay::activity)),
        read("/api/v2/nodes/{name}/identity", Anyone, get(browse::identity)),
        read("/api/v2/jobs/{id}/log", Anyone, get(logs::bytes)),
        read("/api/v2/jobs/{id}/log/search", Anyone, get(logs::search)),
        read("/api/v2/jobs/{id}/log/phases", Anyone, get(logs::phases)),
        read("/api/v2/jobs/{id}/log/first-error", Anyone, get(logs::first_error)),
        read("/api/v2/jobs/{id}/artifacts", Anyone, get(artifacts)).tagged(),
        files(Method::GET, "/api/v2/jobs/{id}/artifacts/{name}", Anyone, get(artifact)),
        files(Method::GET, "/api/v2/blobs/{sha256}", Anyone, get(blob)),
        files(Method::GET, "/staging/{*path}", Anyone, get(staged_file)).always(),
        files(Method::GET, "/api/v2/staged", Anyone, get(farm::staged)),
        read("/api/v2/explain/{what}", Anyone, get(explain)),
        read("/api/v2/sessions", Anyone, get(farm::sessions)).tagged(),
        read("/api/v2/sessions/{which}", Anyone, get(farm::session)),
        read("/api/v2/fleet", Anyone, get(farm::fleet)),
        read("/api/v2/events", Anyone, get(farm::events)).tagged(),
        read("/api/v2/history", Anyone, get(farm::history)).tagged(),
        read("/api/v2/wire", Anyone, get(wire::list)),
        read("/api/v2/wire/conversations", Anyone, get(wire::conversations)),
        read("/api/v2/wire/density", Anyone, get(wire::density)),
        read("/api/v2/wire/fields", Anyone, get(wire::fields)),
        // What messages say is for operators alone.
        read("/api/v2/wire/export", Key(Admin), get(wire::export)),
        read("/api/v2/wire/{id}", Key(Admin), get(wire::detail)),
        read("/api/v2/build-stats/by-package", Anyone, get(farm::packages)).tagged(),
        read("/bootstrap.sh", Anyone, get(bootstrap::script)).always(),
        read("/bootstrap.sh.sha256", Anyone, get(bootstrap::script_sha256)).always(),
        read("/bootstrap.sh.hmac", Anyone, get(bootstrap::script_hmac)).always(),
        read("/bootstrap/{file}", Anyone, get(bootstrap::file)).always(),
    ]
}

/// What a key, the secret or the socket opens, and who is signed in.
fn guarded() -> Vec<Route> {
    use Door::{Anyone, Key, Local, Secret};
    use Scope::{Admin, Queue};
    vec![
        read("/hive/peers", Secret, get(hive::peers)),
        write("/hive/join", Secret, post(hive::join)),
        read("/api/v2/peers", Anyone, get(peers)),
        read("/api/v2/identity", Anyone, get(identity)),
        write("/api/v2/sql", Key(Scope::Read), post(data::sql)).recorded(Record::Not),
        read("/api/v2/sql/schema", Key(Scope::Read), get(data::schema)),
        read("/api/v2/doctor", Key(Admin), get(doctor)),
        read("/api/v2/listen", Key(Admin), get(listen)),
        files(Method::POST, "/api/v2/jobs", Key(Queue), post(submit)),
        write("/api/v2/jobs/{id}/cancel", Key(Queue), post(cancel)),
        files(Method::POST, "/api/v2/queue/import", Key(Queue), post(farm::import)),
        write("/api/v2/sessions/{which}/cancel", Key(Queue), post(farm::cancel_session)),
        files(Method::PUT, "/api/v2/blobs", Key(Queue), put(store_blob)).recorded(Record::Not),
        write("/api/v2/control", Key(Admin), post(farm::control)),
        write("/api/v2/nodes/{name}/{action}", Key(Admin), post(farm::change_drone)),
        write("/api/v2/identity/reset", Key(Admin), post(reset_identity)),
        read("/api/v2/access", Local, get(farm::access)),
        write("/api/v2/access/key", Local, post(farm::change_admin_key)),
        write("/api/v2/access/tokens", Local, post(farm::add_token)),
        write("/api/v2/access/tokens/{name}/revoke", Local, post(farm::revoke_token)),
        read("/api/v2/session", Anyone, get(session::who)).always(),
        write("/api/v2/session", Door::SignIn, post(session::sign_in)),
        Route::new(Method::DELETE, "/api/v2/session", Door::SignIn, delete(session::sign_out)),
        write("/api/v2/session/revoke", Key(Admin), post(session::revoke)),
        read("/api/v2/audit", Key(Admin), get(people::audit)).tagged(),
        read("/api/v2/audit/check", Key(Admin), get(people::check_audit)),
        write("/api/v2/addresses", Local, post(claim_address)).recorded(Record::Late),
        // Also without a quorum: that is when people want one.
        files(Method::POST, "/api/v2/backup", Local, post(backup::backup)).recorded(Record::Late),
        write("/api/v2/recover", Local, post(recover)).recorded(Record::Late),
    ]
}

fn assemble(context: Context, handler: impl Fn(Route) -> MethodRouter<Context>) -> Router {
    let mut router = Router::new();
    for route in table() {
        let (path, moves_files) = (route.path, route.moves_files);
        let handler = handler(route);
        let timed = from_fn_with_state(context.clone(), within_time);
        router = router.route(path, if moves_files { handler } else { handler.layer(timed) });
    }
    let noted = from_fn_with_state(context.clone(), note_writes);
    router.fallback(no_such_path).method_not_allowed_fallback(no_such_method).layer(noted).with_state(context)
}

/// What changes something is written down first, what reads is as new as is asked for.
fn prepared(context: &Context, local: bool, route: &Route) -> MethodRouter<Context> {
    let handler = route.handler.clone();
    if route.method == Method::GET {
        let own = route.path.starts_with("/api/v2/");
        let fresh = from_fn_with_state((context.clone(), route.path, route.tagged), reads::fresh);
        return if own { handler.layer(fresh) } else { handler };
    }
    match route.door {
        Door::Key(_) | Door::Local => {
            let rule = Rule { context: context.clone(), record: route.record, local, files: route.moves_files };
            handler.layer(from_fn_with_state(rule, audited))
        }
        // Machines act, or the handler writes it down itself.
        Door::Anyone | Door::Secret | Door::Legacy | Door::SignIn | Door::Ticket => handler,
    }
}

/// A route as a listener serves it over TCP; `admin`: at the port where keys count.
fn over_tcp(context: &Context, admin: bool, route: Route) -> MethodRouter<Context> {
    let keyed = |scope| from_fn_with_state((context.clone(), scope, admin), guard::keyed);
    let handler = prepared(context, false, &route);
    match route.door {
        // Said twice on purpose: a write that is entered for anyone by mistake stays away from the ports.
        Door::Anyone if route.method == Method::GET => {
            let shown = from_fn_with_state((context.clone(), route.shown), shown);
            handler.layer(shown).layer(from_fn_with_state(context.clone(), guard::share))
        }
        Door::Secret | Door::Legacy => handler,
        Door::SignIn | Door::Ticket if admin => handler,
        Door::Key(scope) if admin => handler.layer(keyed(scope)),
        // Beside one that says so for all methods.
        Door::SignIn if route.method == Method::DELETE => delete(admin_only),
        Door::Key(_) if route.path == PING_DRONE && route.method == Method::POST => post(admin_only),
        // For every method that the path does not take from anyone.
        Door::Key(_) | Door::SignIn | Door::Ticket => MethodRouter::new().fallback(admin_only),
        Door::Anyone | Door::Local => MethodRouter::new().fallback(local_only),
    }
}

/// What the public port answers.
pub(super) fn public(context: Context) -> Router {
    let counted = from_fn_with_state(context.clone(), count_refused);
    let noted = from_fn_with_state(Capture { wire: context.wire.clone(), door: Protocol::Http }, capture);
    let router = assemble(context.clone(), |route| over_tcp(&context, false, route));
    let router = router.layer(from_fn(session::without));
    router.layer(from_fn(hive::named_host)).layer(counted).layer(noted).layer(map_response(harden))
}

/// What the admin port answers.
pub(super) fn admin(context: Context) -> Router {
    let counted = from_fn_with_state(context.clone(), count_refused);
    let own_name = from_fn_with_state(context.clone(), guard::own_name);
    let noted = from_fn_with_state(Capture { wire: context.wire.clone(), door: Protocol::Admin }, capture);
    let router = assemble(context.clone(), |route| over_tcp(&context, true, route));
    let router = router.layer(from_fn_with_state(context.clone(), session::take_stale));
    router.layer(own_name).layer(from_fn(hive::named_host)).layer(counted).layer(noted).layer(map_response(harden))
}

/// What the socket answers.
pub(super) fn local(context: Context) -> Router {
    let counted = from_fn_with_state(context.clone(), count_refused);
    let handler = |route: Route| prepared(&context, true, &route).layer(from_fn(guard::noted));
    let noted = from_fn_with_state(Capture { wire: context.wire.clone(), door: Protocol::Local }, capture);
    assemble(context.clone(), handler).layer(counted).layer(noted).layer(map_response(harden))
}

/// A job id in a path.
pub(super) fn job_id(text: &str) -> Result<JobId, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("the job id: {error}")))
}

async fn healthz(State(context): State<Context>) -> Response {
    context.answer(Ok(serde_json::json!({ "alive": true })))
}

async fn readyz(State(context): State<Context>) -> Handled {
    match context.node.ready() {
        Ok(()) => Ok(context.answer(Ok(serde_json::json!({ "ready": true })))),
        Err(why) => {
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Degraded, why, "`hive status` says more"))
        }
    }
}

async fn metrics(State(context): State<Context>) -> Response {
    let text = format!("{}{}", context.node.metrics(), context.meter.metrics());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn health(State(context): State<Context>) -> Response {
    context.answer(context.node.health().await)
}

async fn status(State(context): State<Context>, summary: Option<Extension<OnlySummary>>) -> Response {
    if summary.is_some() {
        return context.recent("summary", async { context.node.status().await.map(summarised) }).await;
    }
    context.recent("status", context.node.status()).await
}

async fn nodes(State(context): State<Context>) -> Response {
    context.answer(context.node.nodes().await)
}

async fn peers(State(context): State<Context>) -> Response {
    context.answer(context.node.peers().await)
}

async fn identity(State(context): State<Context>) -> Response {
    context.answer(context.node.identity().await)
}

async fn reset_identity(State(context): State<Context>) -> Response {
    context.answer(context.node.reset_identity().await)
}

async fn claim_address(State(context): State<Context>, JsonBody(claim): JsonBody<AddressClaim>) -> Response {
    context.answer(context.node.claim_address(claim).await)
}

async fn doctor(State(context): State<Context>) -> Response {
    context.answer(context.node.doctor().await)
}

#[derive(Deserialize)]
pub(super) struct JobsParams {
    state: Option<String>,
    session: Option<String>,
    backend: Option<String>,
    drone: Option<String>,
    id: Option<String>,
    before: Option<JobId>,
    limit: Option<usize>,
}

impl JobsParams {
    pub(super) fn query(self) -> Result<JobQuery, Problem> {
        let states = browse::states(self.state.as_deref())?;
        let limit = self.limit.unwrap_or(JOBS_DEFAULT).min(JOBS_MAX);
        let Self { session, backend, drone, id, before, .. } = self;
        Ok(JobQuery { states, session, backend, drone, id, before, limit })
    }
}

async fn jobs(State(context): State<Context>, Params(params): Params<JobsParams>) -> Handled {
    Ok(context.answer(context.node.jobs(params.query()?).await))
}

async fn job(State(context): State<Context>, Path(id): Path<String>) -> Handled {
    let id = job_id(&id)?;
    Ok(context.answer(context.node.job(id).await))
}

async fn artifacts(State(context): State<Context>, Path(id): Path<String>) -> Handled {
    let id = job_id(&id)?;
    Ok(context.answer(context.node.artifacts(id).await))
}

async fn artifact(State(context): State<Context>, Path((id, name)): Path<(String, String)>) -> Handled {
    let id = job_id(&id)?;
    if name.len() > NAME_MAX || name.contains(['/', '\0']) || matches!(name.as_str(), "" | "." | "..") {
        return Err(Problem::invalid("an artifact is named by its file name alone"));
    }
    Ok(context.attachment(context.node.artifact(id, name).await?))
}

async fn blob(State(context): State<Context>, Path(sha256): Path<String>) -> Handled {
    let sha256: Sha256Hash = sha256.parse().map_err(|error| Problem::invalid(format!("the digest: {error}")))?;
    Ok(context.attachment(context.node.blob(sha256).await?))
}

/// What lies in this node's staging directory, as package managers fetch it. Bytes alone: no envelope, no name of a file.
async fn staged_file(State(context): State<Context>, Path(path): Path<String>) -> Handled {
    let file = context.node.staged_file(path).await?;
    let changed = jiff::Timestamp::from_second(file.changed_unix_s).unwrap_or_default();
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, file.size_bytes.to_string()),
        (header::LAST_MODIFIED, changed.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()),
    ];
    Ok((context.position(), headers, Body::from_stream(file.bytes)).into_response())
}

async fn explain(State(context): State<Context>, Path(what): Path<String>) -> Handled {
    if what.len() > NAME_MAX {
        return Err(Problem::invalid(format!("a job or a node is named by at most {NAME_MAX} bytes")));
    }
    Ok(context.answer(context.node.explain(what).await))
}

async fn listen(State(context): State<Context>) -> Handled {
    let records = context.node.listen().await?;
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(records)).into_response())
}

async fn submit(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    JsonBody(request): JsonBody<SubmitRequest, SUBMIT_BODY_MAX>,
) -> Response {
    context.answer(context.node.submit(request, caller.name).await)
}

async fn cancel(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    JsonBody(request): JsonBody<CancelRequest>,
) -> Handled {
    let id = job_id(&id)?;
    // Cut by characters, so that it stays text whatever it is.
    let why: String = request.reason.chars().take(400).collect();
    let reason =
        if why.trim().is_empty() { format!("cancelled by {}", caller.name) } else { format!("{}: {why}", caller.name) };
    Ok(context.answer(context.node.cancel(id, reason).await))
}

async fn recover(State(context): State<Context>, JsonBody(request): JsonBody<RecoverRequest>) -> Response {
    context.answer(context.node.recover(request).await)
}

async fn store_blob(State(context): State<Context>, request: Request) -> Handled {
    let (parts, body) = request.into_parts();
    let bytes = stream_body(&parts.headers, body, BLOB_MAX)?;
    Ok(context.answer(context.node.store_blob(bytes.boxed()).await))
}

/// Turns away whoever may not use the local socket.
pub(super) fn turned_away(caller: &Caller) -> Response {
    let error = ApiError::new(
        ErrorCode::Forbidden,
        format!("{} may not control this agent", caller.name),
        format!("use sudo, or become a member of the group: usermod -aG hive-admin {}", caller.name),
    );
    let mut response = Problem::from(error).into_response();
    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use axum::http::{HeaderMap, Request as HttpRequest};
    use http_body_util::BodyExt as _;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use serde_json::{Value, json};

    use super::*;
    use crate::web::answer::{CONTROL_BODY_MAX, Remote};
    use crate::web::fake::{FakeNode, JOB};
    use crate::web::{Options, auth, serve};

    struct Site {
        node: Arc<FakeNode>,
        context: Context,
    }

    struct Got {
        status: u16,
        headers: HeaderMap,
        body: Vec<u8>,
    }

    impl Got {
        fn json(&self) -> Value {
            serde_json::from_slice(&self.body).expect("JSON")
        }
        fn text(&self) -> String {
            String::from_utf8_lossy(&self.body).into_owned()
        }
    }

    impl Site {
        fn new() -> Self {
            Self::of(FakeNode::new())
        }

        fn of(node: FakeNode) -> Self {
            let node = Arc::new(node);
            let options = Options { host_names: vec!["build1".to_owned()], ..Options::default() };
            let context = Context::new(node.clone(), &options, serve::Meter::new(options.caps));
            Self { node, context }
        }

        async fn ask(&self, local: bool, request: HttpRequest<Body>) -> Got {
            let router = if local { super::local(self.context.clone()) } else { super::public(self.context.clone()) };
            let mut request = request;
            request.headers_mut().entry(header::HOST).or_insert("10.0.0.1:8100".parse().expect("host"));
            request.extensions_mut().insert(Remote(IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9))));
            if local {
                request.extensions_mut().insert(Caller { name: "ann".to_owned() });
            }
            let response = TowerToHyperService::new(router).call(request).await.expect("infallible");
            let (parts, body) = response.into_parts();
            let body = body.collect().await.expect("body").to_bytes().to_vec();
            Got { status: parts.status.as_u16(), headers: parts.headers, body }
        }

        async fn get(&self, path: &str) -> Got {
            self.ask(false, request("GET", path, "")).await
        }
    }

    fn request(method: &str, path: &str, body: impl Into<Body>) -> HttpRequest<Body> {
        HttpRequest::builder().method(method).uri(path).body(body.into()).expect("request")
    }

    #[test]
    fn only_guarded_routes_of_the_public_port_write() {
        for route in table() {
            if route.method != Method::GET {
                assert_ne!(route.door, Door::Anyone, "{} {}", route.method, route.path);
            }
        }
        let by_secret: Vec<_> =
            table().into_iter().filter(|route| route.door == Door::Secret).map(|r| r.path).collect();
        assert_eq!(by_secret, ["/hive/peers", "/hive/join"]);
    }

    #[tokio::test]
    async fn what_belongs_to_the_socket_does_nothing_on_the_port() {
        let site = Site::new();
        for route in table().into_iter().filter(|route| matches!(route.door, Door::Local | Door::Key(_) | Door::Ticket))
        {
            let path = route.path.replace("{id}", &JOB.to_string());
            for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
                let got = site.ask(false, request(method, &path, "{}")).await;
                if method == "GET" && path == "/api/v2/jobs" {
                    continue;
                }
                assert_eq!(got.status, 403, "{method} {path}");
                let error = got.json()["error"].clone();
                assert_eq!(error["code"], "forbidden", "{method} {path}");
                assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("over its socket")), "{error}");
            }
        }
        let done: Vec<String> =
            site.node.acts().into_iter().filter(|act| !act.starts_with("refused local_only")).collect();
        assert_eq!(done, ["jobs [] limit 100"], "nothing but the one read arrived");
    }

    #[tokio::test]
    async fn peers_and_identity_are_read_over_the_port_too() {
        let site = Site::new();
        let peers = site.get("/api/v2/peers").await;
        assert_eq!((peers.status, peers.json()["data"]["self"]["hostname"].clone()), (200, json!("fake")));
        assert_eq!(site.get("/api/v2/identity").await.json()["error"]["message"], "no identity yet");
        let reset = site.ask(false, request("POST", "/api/v2/identity/reset", "")).await;
        assert_eq!(reset.status, 403);
    }

    #[tokio::test]
    async fn what_moves_files_may_take_longer_than_other_answers() {
        let mut site = Site::of(FakeNode { delay: Duration::from_millis(80), ..FakeNode::new() });
        site.context.request_timeout = Duration::from_millis(10);
        let body = json!({ "session": uuid::Uuid::nil(), "jobs": [] }).to_string();
        assert_eq!(site.ask(true, request("POST", "/api/v2/jobs", body)).await.status, 200);
        assert_eq!(site.get(&format!("/api/v2/jobs/{JOB}/artifacts/a.deb")).await.status, 200);
        let late = site.get("/api/v2/peers").await;
        let error = late.json()["error"].clone();
        assert_eq!((late.status, &error["code"]), (504, &json!("timeout")));
        assert!(error["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{error}");
    }

    #[tokio::test]
    async fn every_route_answers_in_the_envelope_or_as_what_it_is_and_with_strict_headers() {
        let site = Site::new();
        for route in table()
            .into_iter()
            .filter(|route| route.method == Method::GET && !matches!(route.door, Door::Secret | Door::Ticket))
        {
            let path =
                route.path.replace("{id}", &JOB.to_string()).replace("{name}", "a.deb").replace("{what}", "build1");
            if path.contains("{sha256}") || path.contains("{file}") {
                continue;
            }
            let path = if path.ends_with("/search") { format!("{path}?q=x") } else { path };
            let names_drone = matches!(path.as_str(), "/api/v1/work" | "/api/v1/poll");
            let path = if names_drone { format!("{path}?id=drone-1") } else { path };
            let path = if path.ends_with("/protocol/detail") { format!("{path}?id=7") } else { path };
            let path = if path.ends_with("/staged") { format!("{path}?atom=a/b-1") } else { path };
            let got = site.ask(true, request("GET", &path, "")).await;
            assert!(matches!(got.status, 200 | 404), "{path}: {}", got.status);
            assert_eq!(got.headers["x-content-type-options"], "nosniff", "{path}");
            assert!(got.headers["content-security-policy"].to_str().expect("text").starts_with("default-src 'none'"));
            if path.starts_with("/api/v1/") {
                assert!(got.json().get("ok").is_none(), "{path}: bare, as the old swarm had it");
                assert_eq!(got.headers["x-hive-applied"], "41", "{path}");
            } else if path.starts_with("/api/") && got.headers["content-type"] == "application/json" {
                let value = got.json();
                assert_eq!(value["schema"], 1, "{path}");
                assert_eq!(value["log"]["applied"], 41, "{path}");
                assert!(value["as_of"].is_string(), "{path}");
                assert_eq!(value["ok"], json!(got.status == 200), "{path}");
            }
        }
    }

    #[tokio::test]
    async fn status_has_the_promised_shape() {
        let status = Site::new().get("/api/v2/status").await.json()["data"].clone();
        assert_eq!(status["self"]["state"], "member");
        assert_eq!(status["members"][0]["raft"], "voter");
        assert_eq!(status["queue"]["needed"], 1);
        assert_eq!(status["as_of"], "2025-11-08T12:34:56.789Z");
    }

    #[tokio::test]
    async fn a_node_is_ready_when_it_says_so() {
        let site = Site::new();
        assert_eq!(site.get("/readyz").await.status, 200);
        site.node.ready.store(false, Ordering::Relaxed);
        let got = site.get("/readyz").await;
        assert_eq!((got.status, got.json()["error"]["message"].clone()), (503, json!("looks for a hive")));
        assert_eq!(site.get("/healthz").await.status, 200);
    }

    #[tokio::test]
    async fn writes_over_the_socket_carry_who_wrote() {
        let site = Site::new();
        let body = json!({ "session": uuid::Uuid::nil(), "jobs": [] }).to_string();
        assert_eq!(site.ask(true, request("POST", "/api/v2/jobs", body)).await.status, 200);
        let cancel = format!("/api/v2/jobs/{JOB}/cancel");
        assert_eq!(site.ask(true, request("POST", &cancel, r#"{"reason":"wrong branch"}"#)).await.status, 200);
        assert_eq!(site.ask(true, request("POST", &cancel, "")).await.status, 200);
        let stored = site.ask(true, request("PUT", "/api/v2/blobs", "abc")).await.json();
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(stored["data"], json!({ "sha256": digest, "size": 3 }));
        let expected = [
            "submit 0 jobs by ann".to_owned(),
            format!("cancel {JOB}: ann: wrong branch"),
            format!("cancel {JOB}: cancelled by ann"),
            "stored 3 bytes".to_owned(),
        ];
        assert_eq!(site.node.acts(), expected);
    }

    #[tokio::test]
    async fn bad_input_gets_a_4xx_in_the_usual_shape() {
        let site = Site::new();
        let long = "x".repeat(300);
        let deep = "[".repeat(10_000);
        let huge = format!("{{\"reason\":\"{}\"}}", "x".repeat(CONTROL_BODY_MAX));
        let cancel = format!("/api/v2/jobs/{JOB}/cancel");
        let cases = [
            ("GET", "/nowhere".to_owned(), String::new(), 404),
            ("GET", "/api/v2/jobs/not-a-uuid".to_owned(), String::new(), 400),
            ("GET", "/api/v2/jobs?state=sleeping".to_owned(), String::new(), 400),
            ("GET", "/api/v2/jobs?limit=-1".to_owned(), String::new(), 400),
            ("GET", format!("/api/v2/jobs/{JOB}/log?follow=maybe"), String::new(), 400),
            ("GET", format!("/api/v2/jobs/{JOB}/log?harmless=maybe"), String::new(), 400),
            ("GET", format!("/api/v2/jobs/{JOB}/log/search"), String::new(), 400),
            ("GET", format!("/api/v2/jobs/{JOB}/log/search?q=a&regex=maybe"), String::new(), 400),
            ("GET", format!("/api/v2/jobs/{JOB}/log/phases?attempt=first"), String::new(), 400),
            ("GET", format!("/api/v2/jobs/{JOB}/artifacts/..%2fshadow"), String::new(), 400),
            ("GET", "/api/v2/blobs/abc".to_owned(), String::new(), 400),
            ("GET", format!("/api/v2/explain/{long}"), String::new(), 400),
            ("GET", "/api/v2/explain/%ff".to_owned(), String::new(), 400),
            ("GET", "/bootstrap/hive-pdp11".to_owned(), String::new(), 404),
            ("GET", format!("/bootstrap/hive-{}.exe", std::env::consts::ARCH), String::new(), 404),
            ("POST", cancel.clone(), "{".to_owned(), 400),
            ("POST", cancel.clone(), deep, 400),
            ("POST", cancel, huge, 413),
            ("DELETE", "/api/v2/status".to_owned(), String::new(), 405),
        ];
        for (method, path, body, expected) in cases {
            let got = site.ask(true, request(method, &path, body)).await;
            assert_eq!(got.status, expected, "{method} {path}: {}", got.text());
            assert_eq!(
                got.headers["content-type"].to_str().ok().map(|text| text.contains("html")),
                Some(false),
                "{path}"
            );
        }
        let acts = site.node.acts();
        assert!(acts.iter().all(|act| act.starts_with("refused ")), "{acts:?}");
        for reason in ["path", "malformed", "too_long", "method"] {
            assert!(acts.contains(&format!("refused {reason} from 10.9.9.9")), "{reason} in {acts:?}");
        }
    }

    #[tokio::test]
    async fn an_upload_that_says_it_is_too_long_is_refused_unread() {
        let mut put = request("PUT", "/api/v2/blobs", "short");
        put.headers_mut().insert(header::CONTENT_LENGTH, (BLOB_MAX + 1).into());
        let site = Site::new();
        assert_eq!(site.ask(true, put).await.status, 413);
        assert_eq!(site.node.acts(), ["refused too_long from 10.9.9.9"]);
    }

    #[tokio::test]
    async fn downloads_are_attachments_and_logs_are_plain_text() {
        let site = Site::new();
        let got = site.get(&format!("/api/v2/jobs/{JOB}/artifacts/a%22%3Cb%3E.deb")).await;
        assert_eq!(got.headers["content-type"], "application/octet-stream");
        assert_eq!(got.headers["content-disposition"], "attachment; filename=\"a_<b>.deb\"");
        assert_eq!(got.body, b"bytes");
        let log = site.get(&format!("/api/v2/jobs/{JOB}/log?attempt=2&offset=7")).await;
        assert_eq!(log.headers["content-type"], "text/plain; charset=utf-8");
        assert_eq!(
            (log.headers["x-hive-attempt"].as_bytes(), log.headers["x-hive-offset"].as_bytes()),
            (&b"2"[..], &b"7"[..])
        );
        assert_eq!(log.headers["x-hive-applied"], "41");
    }

    #[tokio::test]
    async fn logs_are_searched_and_can_be_had_harmless() {
        let site = Site::new();
        let log = format!("/api/v2/jobs/{JOB}/log");
        assert_eq!(site.get(&log).await.body, b"first\n\x1b[31mlast\x1b[0m\n", "the bytes as they are");
        assert_eq!(site.get(&format!("{log}?harmless=1")).await.body, b"first\nlast\n");
        let found = site.get(&format!("{log}/search?q=a%26b&attempt=2&limit=5&ignore_case=1&offset=7&line=2")).await;
        assert_eq!((found.status, found.json()["data"]["matches"][0]["text"].clone()), (200, json!("a&b")));
        let acts = site.node.acts();
        let expected = "search LogSearch { text: \"a&b\", regex: false, ignore_case: true, limit: 5, offset: 7, line: 2 } in Some(2)";
        assert_eq!(acts, [expected]);
    }

    #[tokio::test]
    async fn pages_name_the_hive_and_show_the_log_without_escapes() {
        let site = Site::new();
        let page = site.get("/plain").await;
        assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
        assert!(page.text().contains("hive 07070707") && page.text().contains("log index 41 of 42"), "{}", page.text());
        let job = site.get(&format!("/plain/jobs/{JOB}")).await.text();
        assert!(job.contains("<pre tabindex=0>first\nlast\n</pre>"), "{job}");
    }

    #[tokio::test]
    async fn the_application_is_one_page_at_all_its_addresses_and_shows_the_status_without_scripts() {
        let site = Site::new();
        for path in app::PATHS {
            let path = path.replace("{id}", &JOB.to_string()).replace("{name}", "build1");
            let got = site.get(&path).await;
            assert_eq!((got.status, got.headers["content-type"].as_bytes()), (200, &b"text/html; charset=utf-8"[..]));
            let policy = got.headers["content-security-policy"].to_str().expect("text");
            assert!(policy.contains("script-src 'self';") && !policy.contains("unsafe"), "{policy}");
            let text = got.text();
            assert!(text.contains("src=\"/app/app.js\"") && text.contains("log index 41 of 42"), "{path}: {text}");
        }
        assert_eq!(site.get("/app/app.js").await.headers["cache-control"], "no-cache");
        for missing in ["/app/index.html", "/app/none.js", "/app/../Cargo.toml"] {
            assert_eq!(site.get(missing).await.status, 404, "{missing}");
        }
        let badge = site.get("/badge.svg").await;
        assert_eq!(badge.headers["cross-origin-resource-policy"], "cross-origin");
        assert_eq!(site.get("/plain").await.headers["cross-origin-resource-policy"], "same-origin");
        assert_eq!(site.get("/badge.svg?show=names").await.status, 400);
    }

    #[tokio::test]
    async fn windows_of_the_queue_are_bounded_and_bad_questions_refused() {
        let site = Site::new();
        let got = site.get("/api/v2/queue?state=needed&q=a%26b&order=priority&offset=7&limit=99999").await.json();
        assert_eq!((got["data"]["total"].clone(), got["data"]["offset"].clone()), (json!(1), json!(7)));
        let acts = site.node.acts().concat();
        assert!(acts.contains("limit: 500") && acts.contains("text: Some(\"a&b\")"), "{acts}");
        let long = format!("/api/v2/queue?q={}", "x".repeat(300));
        for bad in ["/api/v2/queue?order=best", "/api/v2/queue?state=asleep", "/api/v2/queue?offset=-1", &long] {
            assert_eq!(site.get(bad).await.status, 400, "{bad}");
        }
    }

    #[tokio::test]
    async fn metrics_are_those_of_node_and_listeners() {
        let text = Site::new().get("/metrics").await.text();
        assert!(text.starts_with("hive_log_applied 41\n") && text.contains("\nhive_http_connections 0\n"), "{text}");
    }

    #[tokio::test]
    async fn requests_without_exactly_one_host_are_refused_on_the_port() {
        let site = Site::new();
        let mut two = request("GET", "/api/v2/status", "");
        two.headers_mut().append(header::HOST, "a".parse().expect("host"));
        two.headers_mut().append(header::HOST, "b".parse().expect("host"));
        assert_eq!(site.ask(false, two).await.status, 400);
        let mut user = request("GET", "/api/v2/status", "");
        user.headers_mut().insert(header::HOST, "me@10.0.0.1".parse().expect("host"));
        assert_eq!(site.ask(false, user).await.status, 400);
    }

    fn signed(method: &str, path: &str, body: &str) -> (HttpRequest<Body>, auth::Signed) {
        let keyring = FakeNode::new().keyring.expect("has one");
        let signed = auth::sign(&keyring, &auth::Request { method, path, body: body.as_bytes() });
        let mut request = request(method, path, body.to_owned());
        request.headers_mut().insert(auth::HEADER, signed.header.parse().expect("header"));
        (request, signed)
    }

    #[tokio::test]
    async fn the_secret_opens_peers_and_join_and_signs_their_answers() {
        let site = Site::new();
        let keyring = site.node.keyring.clone().expect("has one");
        let (get, asked) = signed("GET", "/hive/peers", "");
        let got = site.ask(false, get).await;
        assert_eq!((got.status, got.json()["data"]["self"]["hostname"].clone()), (200, json!("fake")));
        let header = got.headers[auth::HEADER].to_str().ok();
        assert_eq!(asked.check_answer(&keyring, "/hive/peers", 200, header, &got.body), Ok(()));

        let (post, asked) = signed("POST", "/hive/join", r#"{"hostname":"build9"}"#);
        let got = site.ask(false, post).await;
        assert_eq!(got.status, 200, "{}", got.text());
        let header = got.headers[auth::HEADER].to_str().ok();
        assert_eq!(asked.check_answer(&keyring, "/hive/join", 200, header, &got.body), Ok(()));
        assert_eq!(site.node.acts(), ["join build9 from 10.9.9.9"]);

        let (bad, asked) = signed("POST", "/hive/join", r#"{"hostname":"<b>"}"#);
        let got = site.ask(false, bad).await;
        assert_eq!(got.status, 400);
        let header = got.headers[auth::HEADER].to_str().ok();
        assert_eq!(asked.check_answer(&keyring, "/hive/join", 400, header, &got.body), Ok(()), "errors are signed too");
    }

    #[tokio::test]
    async fn without_the_secret_nothing_is_told_and_the_refusal_is_counted() {
        let site = Site::new();
        let body = r#"{"hostname":"build9"}"#;
        assert_eq!(site.ask(false, request("POST", "/hive/join", body)).await.status, 403);
        let (original, _) = signed("POST", "/hive/join", body);
        let header = original.headers()[auth::HEADER].clone();
        assert_eq!(site.ask(false, original).await.status, 200);
        let mut replayed = request("POST", "/hive/join", body);
        replayed.headers_mut().insert(auth::HEADER, header);
        assert_eq!(site.ask(false, replayed).await.status, 403);
        let (mut moved, _) = signed("GET", "/hive/peers", "");
        moved.headers_mut().insert(header::HOST, "evil.example".parse().expect("host"));
        assert_eq!(site.ask(false, moved).await.status, 421);
        let (mut changed, _) = signed("GET", "/hive/peers?all=1", "");
        *changed.uri_mut() = "/hive/peers".parse().expect("path");
        let got = site.ask(false, changed).await;
        assert_eq!((got.status, got.headers.contains_key(auth::HEADER)), (403, false));
        let from = "from 10.9.9.9";
        let expected = [
            format!("refused malformed {from}"),
            format!("join build9 {from}"),
            format!("refused replay {from}"),
            format!("refused host {from}"),
            format!("refused wrong_secret {from}"),
        ];
        assert_eq!(site.node.acts(), expected);

        let keyless = Site::of(FakeNode { keyring: None, ..FakeNode::new() });
        let (get, _) = signed("GET", "/hive/peers", "");
        assert_eq!(keyless.ask(false, get).await.status, 503);
    }

    #[tokio::test]
    async fn the_program_is_handed_out_with_digest_and_proof() {
        let site = Site::new();
        let name = format!("hive-{}", std::env::consts::ARCH);
        let program = site.get(&format!("/bootstrap/{name}")).await;
        assert_eq!(program.body, std::fs::read("/proc/self/exe").expect("reads"));
        let digest = Sha256Hash(crate::keyring::sha256(&program.body));
        assert_eq!(site.get(&format!("/bootstrap/{name}.sha256")).await.text(), format!("{digest}  {name}\n"));
        let key = site.node.keyring.clone().expect("has one");
        let proof = hex::encode(bootstrap::vouch(key.signing(), &name, &digest));
        assert_eq!(site.get(&format!("/bootstrap/{name}.hmac")).await.text(), format!("{proof}  {name}\n"));
        let script = site.get("/bootstrap.sh").await;
        let digest = Sha256Hash(crate::keyring::sha256(&script.body));
        let proof = hex::encode(bootstrap::vouch(key.signing(), "bootstrap.sh", &digest));
        assert_eq!(site.get("/bootstrap.sh.hmac").await.text(), format!("{proof}  bootstrap.sh\n"));
        assert!(!script.text().contains("b7c1a0ffee11d2d3"), "no secret in it");
    }
}
