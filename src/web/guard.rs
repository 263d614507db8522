//! The guard in front of everything that changes something over TCP: which request may, and as whom.
//!
//! ```text
//!   Host ours? ─► Origin and Sec-Fetch-Site of this very site? ─► key there? ─► source not held up? ─► key known? ─► scope covers?
//!      421                         403                            401              401                 401            403
//! ```
//!
//! All of the 401 are the same answer, so that nobody learns how near a guess was, or whether there is a key at all. Failed tries are
//! counted per source in bounded memory; a source that failed too often is not compared any more for a while. Drones of the build swarm
//! have a door of their own, [`legacy_door`], which can be opened for networks. A browser's session is one more way to name a holder; what
//! changes something with it must say that it comes from this very site. Never done here: keeping keys (the hive does), and acting.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use axum::extract::{Extension, Query, Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use zeroize::Zeroizing;

use super::Context;
use super::access::Caller;
use super::answer::{Problem, Remote, let_it_finish};
use super::hive::{authority, is_ours};
use super::node::{Holder, SignedIn};
use super::session;
use crate::api::ErrorCode;
use crate::clock::now_ms;
use crate::engine::access::Scope;

/// The header that carries the admin key or a token.
pub const KEY_HEADER: HeaderName = HeaderName::from_static("x-admin-key");
/// What browsers say about where a request comes from.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Longest key that is looked at, bytes.
const KEY_MAX: usize = 512;

/// Paths of the build swarm's admin API, whose clients may name the key in the query.
const QUERY_KEY_PATHS: &str = "/admin/api/";

/// Failed tries of a source before it is held up.
const TRIES_MAX: u32 = 5;
/// How long it is held up then; twice as long after each further failure, up to [`HELD_MAX_MS`].
const HELD_MS: u64 = 60_000;
/// Longest time that a source is held up.
const HELD_MAX_MS: u64 = 3_600_000;
/// What a source did is forgotten after so long without a failure.
const MEMORY_MS: u64 = 2 * HELD_MAX_MS;
/// Sources that are remembered; the one that was heard of least lately is forgotten first.
const SOURCES_MAX: usize = 4_096;
/// Failed tries of all sources within a minute before those are held up that never had a good key.
const TRIES_OF_ALL_MAX: usize = 60;
/// The window of [`TRIES_OF_ALL_MAX`].
const WINDOW_MS: u64 = 60_000;

/// Who may act as a drone of the build swarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LegacyDrones {
    /// Whoever has the admin key, or a token for that drone.
    #[default]
    Key,
    /// Also whoever asks from a listed network.
    Open,
    /// Nobody.
    Off,
}

/// What an operator decided about the doors.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Drones of the build swarm.
    pub legacy_drones: LegacyDrones,
    /// From where they need no key with [`LegacyDrones::Open`].
    pub legacy_networks: Vec<IpNet>,
    /// Origins whose pages may read what everyone may read.
    pub cors_origins: Vec<String>,
}

/// Rules and memory of the guard.
#[derive(Debug, Default)]
pub(super) struct Guard {
    pub(super) rules: Rules,
    tries: Mutex<Tries>,
}

impl Guard {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, tries: Mutex::default() }
    }

    fn tries<R>(&self, look: impl FnOnce(&mut Tries) -> R) -> R {
        look(&mut self.tries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Who asks, when the request comes with a key whose scope covers `needs`. `query_key` is what stood in the query, on those paths
/// alone that take it from there; `safe`: it changes nothing.
pub(super) fn authorize(
    context: &Context,
    headers: &HeaderMap,
    query_key: Option<&str>,
    remote: IpAddr,
    needs: Scope,
    safe: bool,
) -> Result<Caller, Problem> {
    let holder = identify(context, headers, query_key, remote, safe)?;
    if holder.scope.covers(needs) {
        return Ok(Caller::remote(&holder.name, remote));
    }
    Err(lacks(&holder, needs))
}

/// Who asks on a path of the build swarm's drones. `drone` is the name that the request gives, where it gives one: a token for one
/// drone does not open the door to another.
pub(super) fn legacy_door(
    context: &Context,
    remote: IpAddr,
    headers: &HeaderMap,
    drone: Option<&str>,
) -> Result<Caller, Problem> {
    let rules = &context.keeper.rules;
    match rules.legacy_drones {
        LegacyDrones::Off => {
            let message = "drones of the build swarm are not served here";
            return Err(Problem::not_found(message, "legacy_drones in the configuration says so").counted("legacy_off"));
        }
        LegacyDrones::Open if open_to(context, remote) => {
            of_this_site(context, headers)?;
            return Ok(Caller::remote("a drone", remote));
        }
        LegacyDrones::Open | LegacyDrones::Key => {}
    }
    let holder = identify(context, headers, None, remote, false)?;
    if !holder.scope.covers(Scope::Drone) {
        return Err(lacks(&holder, Scope::Drone));
    }
    match (&holder.drone, drone) {
        (Some(own), Some(asked)) if own != asked => {
            let message = format!("{} is for the drone {own}", holder.name);
            Err(forbidden(message, "make one for this drone: hive admin token add NAME --scope drone --drone DRONE"))
        }
        _ => Ok(Caller::remote(&holder.name, remote)),
    }
}

/// Whether the door for drones of the build swarm stands open to whoever asks from there.
pub(super) fn open_to(context: &Context, remote: IpAddr) -> bool {
    let rules = &context.keeper.rules;
    rules.legacy_drones == LegacyDrones::Open && rules.legacy_networks.iter().any(|network| network.contains(&remote))
}

/// Lets a request through that comes with a key of this scope, and marks it with who asks. What changes something is logged before it
/// happens. `admin`: it came to the admin port, where old clients of some paths put the key into the query.
pub(super) async fn keyed(
    State((context, needs, admin)): State<(Context, Scope, bool)>,
    Extension(Remote(from)): Extension<Remote>,
    mut request: Request,
    next: Next,
) -> Response {
    let in_query = admin && request.uri().path().starts_with(QUERY_KEY_PATHS);
    let query_key = in_query.then(|| key_of_query(request.uri())).flatten();
    let safe = request.method().is_safe();
    match authorize(&context, request.headers(), query_key.as_deref(), from, needs, safe) {
        Ok(caller) => {
            note(&caller, &request);
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => {
            // The old swarm's administration has errors in its own shape.
            let flat = request.uri().path().starts_with(QUERY_KEY_PATHS);
            let_it_finish(request).await;
            if flat { problem.into_flat_response() } else { problem.into_response() }
        }
    }
}

fn key_of_query(uri: &Uri) -> Option<String> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
    pairs.into_iter().find(|(name, _)| name == "key").map(|(_, key)| key)
}

/// Logs what is about to be changed over the local socket.
pub(super) async fn noted(Extension(caller): Extension<Caller>, request: Request, next: Next) -> Response {
    note(&caller, &request);
    next.run(request).await
}

fn note(caller: &Caller, request: &Request) {
    if !request.method().is_safe() {
        tracing::info!(by = caller.name, method = %request.method(), path = request.uri().path(), "asked to change something");
    }
}

/// Refuses requests that call this node by a name that is not its own.
pub(super) async fn own_name(State(context): State<Context>, request: Request, next: Next) -> Response {
    match called_so(&context, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Lets pages of listed origins read what everyone may read.
pub(super) async fn share(State(context): State<Context>, request: Request, next: Next) -> Response {
    let origins = &context.keeper.rules.cors_origins;
    let origin = request.headers().get(header::ORIGIN).cloned();
    let listed = origin.filter(|origin| origins.iter().any(|listed| listed.as_bytes() == origin.as_bytes()));
    let mut response = next.run(request).await;
    if !origins.is_empty() {
        // Whether or not it is listed: a cache must not hand one page's answer to another.
        response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
    }
    if let Some(origin) = listed {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    response
}

fn identify(
    context: &Context,
    headers: &HeaderMap,
    query_key: Option<&str>,
    remote: IpAddr,
    safe: bool,
) -> Result<Holder, Problem> {
    of_this_site(context, headers)?;
    if let Some(key) = presented(headers, query_key) {
        return tried(context, remote, "wrong_key", || context.node.holder(key));
    }
    let may = safe || says_this_site(headers);
    let Some(cookie) = session::cookie_of(headers).filter(|_| may) else { return Err(unauthorized("no_key")) };
    tried(context, remote, "wrong_session", || Some(context.node.signed_in(cookie)?.holder))
}

/// Compares, where this source may try, and remembers how it went.
fn tried<T>(
    context: &Context,
    remote: IpAddr,
    wrong: &'static str,
    compare: impl FnOnce() -> Option<T>,
) -> Result<T, Problem> {
    let now_ms = now_ms();
    if !context.keeper.tries(|tries| tries.may_try(remote, now_ms)) {
        return Err(unauthorized("key_rate"));
    }
    match compare() {
        Some(found) => {
            context.keeper.tries(|tries| tries.succeeded(remote, now_ms));
            Ok(found)
        }
        None => {
            context.keeper.tries(|tries| tries.failed(remote, now_ms));
            Err(unauthorized(wrong))
        }
    }
}

/// Exchanges a key for a cookie.
pub(super) fn exchange(
    context: &Context,
    headers: &HeaderMap,
    key: &[u8],
    remote: IpAddr,
) -> Result<(String, SignedIn), Problem> {
    of_this_site(context, headers)?;
    if !(1..=KEY_MAX).contains(&key.len()) {
        return Err(unauthorized("no_key"));
    }
    tried(context, remote, "wrong_key", || context.node.sign_in(key))
}

/// The session of a browser that wants to end it.
pub(super) fn signed_in(context: &Context, headers: &HeaderMap, remote: IpAddr) -> Result<SignedIn, Problem> {
    of_this_site(context, headers)?;
    let Some(cookie) = session::cookie_of(headers) else { return Err(unauthorized("no_key")) };
    tried(context, remote, "wrong_session", || context.node.signed_in(cookie))
}

/// What a request was let in with, for what goes on after it: to be looked at again.
#[derive(Clone)]
pub(super) enum Credential {
    /// The local socket: whoever may open that needs none.
    Local,
    /// The admin key or a token.
    Key(Zeroizing<Vec<u8>>),
    /// A browser's cookie.
    Session(Zeroizing<Vec<u8>>),
}

impl Credential {
    /// Of a request that was let in.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let kept = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
        match (presented(headers, None), session::cookie_of(headers)) {
            (Some(key), _) => Self::Key(kept(key)),
            (None, Some(cookie)) => Self::Session(kept(cookie)),
            (None, None) => Self::Local,
        }
    }

    /// Whether it still opens what needs this scope: it was not revoked, replaced, and is not over.
    pub(super) fn is_good(&self, context: &Context, needs: Scope) -> bool {
        let holder = match self {
            Self::Local => return true,
            Self::Key(key) => context.node.holder(key),
            Self::Session(cookie) => context.node.signed_in(cookie).map(|signed| signed.holder),
        };
        holder.is_some_and(|holder| holder.scope.covers(needs))
    }
}

/// Whether a browser says that a request comes from this very site. A cookie is sent along with requests that no page of ours has made;
/// with those that change something a browser always says from where they come.
fn says_this_site(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) || headers.contains_key(FETCH_SITE)
}

/// The key that a request names. A header wins over the query; a header that is there twice, or not text, names none.
fn presented<'a>(headers: &'a HeaderMap, query_key: Option<&'a str>) -> Option<&'a [u8]> {
    let only = |name: &HeaderName| {
        let mut all = headers.get_all(name).iter();
        let first = all.next().map(HeaderValue::as_bytes);
        (first, all.next().is_some())
    };
    let key = match (only(&KEY_HEADER), only(&header::AUTHORIZATION)) {
        ((Some(key), false), (None, _)) => key,
        ((None, _), (Some(value), false)) => bearer(value)?,
        ((None, _), (None, _)) => query_key?.as_bytes(),
        _ => return None,
    };
    let key = key.trim_ascii();
    (1..=KEY_MAX).contains(&key.len()).then_some(key)
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

/// Whether a request names a key or a session at all.
pub(super) fn presents(headers: &HeaderMap) -> bool {
    presented(headers, None).is_some() || session::cookie_of(headers).is_some()
}

/// Refuses what a page of another site sends through somebody's browser: by a name that is not this node's (DNS rebinding), from
/// another origin, or across sites.
fn of_this_site(context: &Context, headers: &HeaderMap) -> Result<(), Problem> {
    called_so(context, headers)?;
    let host = headers.get(header::HOST);
    let own_origin = headers.get_all(header::ORIGIN).iter().all(|origin| same_place(origin, host));
    let same_site = headers.get_all(FETCH_SITE).iter().all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
    if own_origin && same_site {
        return Ok(());
    }
    let hint = "use the page of this node itself, or a program that is no browser";
    Err(forbidden("this request comes from a page of another site", hint).counted("origin"))
}

pub(super) fn called_so(context: &Context, headers: &HeaderMap) -> Result<(), Problem> {
    if is_ours(headers.get(header::HOST), &context.host_names) {
        return Ok(());
    }
    let message = "this node is not called that";
    let hint = "use its address, or list the name in http_hosts";
    Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, ErrorCode::Invalid, message, hint).counted("host"))
}

/// Whether an origin names the host to which the request goes, port included. The scheme may differ: a proxy may speak TLS.
pub(super) fn same_place(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let origin: Option<Uri> = origin.to_str().ok().and_then(|text| text.parse().ok());
    let origin = origin.as_ref().and_then(Uri::authority);
    let host = host.and_then(authority);
    origin.zip(host.as_ref()).is_some_and(|(origin, host)| origin.as_str().eq_ignore_ascii_case(host.as_str()))
}

fn unauthorized(reason: &'static str) -> Problem {
    let message = "a key is needed that this hive knows";
    let hint = "send the admin key or a token as X-Admin-Key, or sign in at the page of the admin port; after many tries a minute later; on the node itself: sudo hive …";
    Problem::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message, hint).counted(reason)
}

fn forbidden(message: impl Into<String>, hint: impl Into<String>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, message, hint)
}

fn lacks(holder: &Holder, needs: Scope) -> Problem {
    let message = format!("this needs the scope {needs}; {} has {}", holder.name, holder.scope);
    forbidden(message, format!("make a token that has it: hive admin token add NAME --scope {needs}")).counted("scope")
}

/// Failed tries by source.
#[derive(Debug, Default)]
struct Tries {
    sources: BTreeMap<IpAddr, Source>,
    /// When tries failed lately, of all sources; at most [`TRIES_OF_ALL_MAX`].
    failures: VecDeque<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Source {
    failures: u32,
    held_until_ms: u64,
    last_ms: u64,
    /// It had a good key within memory.
    known: bool,
}

/// Whoever has an IPv6 address has as many as he likes of the same network.
fn source_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

impl Tries {
    fn may_try(&mut self, address: IpAddr, now_ms: u64) -> bool {
        let source = self.sources.get(&source_of(address)).copied().unwrap_or_default();
        if now_ms < source.held_until_ms {
            return false;
        }
        while self.failures.front().is_some_and(|at| now_ms.saturating_sub(*at) >= WINDOW_MS) {
            self.failures.pop_front();
        }
        self.failures.len() < TRIES_OF_ALL_MAX || source.known || address.is_loopback()
    }

    fn failed(&mut self, address: IpAddr, now_ms: u64) {
        if self.failures.len() < TRIES_OF_ALL_MAX {
            self.failures.push_back(now_ms);
        }
        let source = self.source(address, now_ms);
        source.failures = source.failures.saturating_add(1);
        if let Some(further) = source.failures.checked_sub(TRIES_MAX) {
            source.held_until_ms = now_ms + (HELD_MS << further.min(16)).min(HELD_MAX_MS);
        }
    }

    fn succeeded(&mut self, address: IpAddr, now_ms: u64) {
        let source = self.source(address, now_ms);
        (source.failures, source.held_until_ms, source.known) = (0, 0, true);
    }

    fn source(&mut self, address: IpAddr, now_ms: u64) -> &mut Source {
        let address = source_of(address);
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&address) {
            let oldest = self.sources.iter().min_by_key(|(_, source)| source.last_ms).map(|(address, _)| *address);
            oldest.map(|oldest| self.sources.remove(&oldest));
        }
        let source = self.sources.entry(address).or_default();
        if now_ms.saturating_sub(source.last_ms) >= MEMORY_MS {
            *source = Source::default();
        }
        source.last_ms = now_ms;
        source
    }
}

#[cfg(test)]
mod tests;
