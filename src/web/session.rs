//! Browsers that sign in: a key, given once at the admin port, for a cookie that scripts cannot read.
//!
//! The cookie is one more way to name a holder, see [`guard`](super::guard); the public port takes none. Never done here: making and
//! checking cookies (the node does), and keeping anything of a session.

use axum::extract::{Extension, Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::access::Caller;
use super::answer::{Handled, JsonBody, Remote, Secured};
use super::node::SignedIn;
use super::{Context, audit, guard};
use crate::api::{BrowserSession, SignInRequest};
use crate::clock::unix_now;

/// Name of the cookie.
pub(super) const COOKIE: &str = "hive_session";

/// The session that a request names. One that is there twice is none: somebody else may have set it.
pub(super) fn cookie_of(headers: &HeaderMap) -> Option<&[u8]> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut found = pairs
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, _)| *name == COOKIE);
    let (_, cookie) = found.next()?;
    found.next().is_none().then_some(cookie.as_bytes())
}

fn set_cookie(context: &Context, value: &str, life_s: u64, secured: bool) -> Option<(HeaderName, HeaderValue)> {
    let path = if context.base_path.is_empty() { "/" } else { context.base_path.as_str() };
    let secure = if secured { "; Secure" } else { "" };
    let text = format!("{COOKIE}={value}; Path={path}; Max-Age={life_s}; HttpOnly; SameSite=Strict{secure}");
    Some((header::SET_COOKIE, HeaderValue::from_str(&text).ok()?))
}

fn view(signed: Option<SignedIn>) -> BrowserSession {
    match signed {
        Some(SignedIn { holder, expires_at }) => {
            BrowserSession { name: Some(holder.name), scope: Some(holder.scope), expires_at: Some(expires_at) }
        }
        None => BrowserSession::default(),
    }
}

/// Who one is.
pub(super) async fn who(State(context): State<Context>, headers: HeaderMap) -> Response {
    let signed = cookie_of(&headers).and_then(|cookie| context.node.signed_in(cookie));
    context.answer(Ok(view(signed)))
}

/// Signs in.
pub(super) async fn sign_in(
    State(context): State<Context>,
    Extension(Remote(from)): Extension<Remote>,
    secured: Option<Extension<Secured>>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<SignInRequest>,
) -> Handled {
    let (cookie, signed) = guard::exchange(&context, &headers, request.key.trim().as_bytes(), from)?;
    let caller = Caller::remote(&signed.holder.name, from);
    let method = axum::http::Method::POST;
    let uri = axum::http::Uri::from_static("/api/v2/session");
    // Whoever signs in to look why there is no quorum must not wait for one.
    context.node.note_late(audit::note(&caller, Some(from), &method, &uri, "signed in".to_owned())).await?;
    let life_s = signed.expires_at.0.saturating_sub(unix_now().0) / 1_000;
    let set = set_cookie(&context, &cookie, life_s, secured.is_some());
    let mut response = context.answer(Ok(view(Some(signed))));
    if let Some((name, value)) = set {
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// Signs this browser out. Its cookie stays good until its time for whoever has copied it: [`revoke`] ends all.
pub(super) async fn sign_out(
    State(context): State<Context>,
    Extension(Remote(from)): Extension<Remote>,
    headers: HeaderMap,
) -> Handled {
    guard::signed_in(&context, &headers, from)?;
    let mut response = context.answer(Ok(BrowserSession::default()));
    if let Some((name, value)) = set_cookie(&context, "", 0, false) {
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// Signs all browsers out, everywhere.
pub(super) async fn revoke(State(context): State<Context>, Extension(caller): Extension<Caller>) -> Response {
    context.answer(context.node.end_sessions(caller.name).await)
}

/// A cookie that is nobody's is taken from the browser with the refusal, so that it is not refused again and again, and held up for it.
pub(super) async fn take_stale(State(context): State<Context>, request: Request, next: Next) -> Response {
    let had = cookie_of(request.headers()).is_some();
    let mut response = next.run(request).await;
    if had
        && response.status() == StatusCode::UNAUTHORIZED
        && let Some((name, value)) = set_cookie(&context, "", 0, false)
    {
        response.headers_mut().insert(name, value);
    }
    response
}

/// The public port knows no sessions: whoever is signed in there is nobody.
pub(super) async fn without(mut request: Request, next: Next) -> Response {
    request.headers_mut().remove(header::COOKIE);
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_among_others_and_never_when_there_are_two() {
        let with = |texts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for text in texts {
                headers.append(header::COOKIE, HeaderValue::from_static(text));
            }
            cookie_of(&headers).map(<[u8]>::to_vec)
        };
        assert_eq!(with(&["a=b; hive_session=v1.x; c=d"]).as_deref(), Some(&b"v1.x"[..]));
        assert_eq!(with(&["a=b", "hive_session=1"]).as_deref(), Some(&b"1"[..]));
        for none in
            [&["hive_session=1; hive_session=2"][..], &["hive_session=1", "hive_session=1"], &["xhive_session=1"], &[]]
        {
            assert_eq!(with(none), None, "{none:?}");
        }
    }
}
