//! `/hive/peers` and `POST /hive/join`: how a node on another subnet finds the hive, guarded by an HMAC of the secret.
//!
//! The answers are signed too, so that whoever asks knows that they come from the hive and belong to its question. Never done here:
//! admitting anyone; what is learned is a hint whom to dial.

use std::net::IpAddr;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;

use super::answer::{CONTROL_BODY_MAX, Handled, Problem, Remote, read_body};
use super::guard::called_so;
use super::{Context, auth};
use crate::api::{ErrorCode, JoinRequest};
use crate::engine::id::PEER_ID_MAX_LEN;

/// Most addresses that a node may register.
const ADDRESSES_MAX: usize = 16;
/// Longest name of a node.
const HOSTNAME_MAX: usize = 63;

/// Refuses requests that do not say whom they mean. Names matter on guarded paths only, see [`guarded`].
pub(super) async fn named_host(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(header::HOST);
    let one = hosts.iter().count() == 1 && hosts.iter().all(|host| authority(host).is_some());
    if one {
        return next.run(request).await;
    }
    Problem::invalid("exactly one header Host is needed").into_response()
}

pub(super) fn authority(host: &HeaderValue) -> Option<Authority> {
    let authority: Authority = host.to_str().ok()?.parse().ok()?;
    (!authority.as_str().contains('@')).then_some(authority)
}

/// A name that this node has: an address, `localhost`, or one of the configured names.
pub(super) fn is_ours(host: Option<&HeaderValue>, names: &[String]) -> bool {
    let Some(authority) = host.and_then(authority) else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|ours| name.eq_ignore_ascii_case(ours))
}

/// Checks header and body of a guarded request, lets `handle` answer it and signs the answer, errors too.
async fn guarded<F>(context: &Context, request: Request, handle: F) -> Handled
where
    F: for<'a> FnOnce(&'a Context, &'a [u8]) -> BoxFuture<'a, Handled>,
{
    let (parts, body) = request.into_parts();
    called_so(context, &parts.headers)?;
    let Some(keyring) = context.node.keyring() else {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Degraded,
            "this node has no secret yet",
            "write the hive's secret into /etc/build/shared_secret",
        ));
    };
    let header = parts.headers.get(auth::HEADER).and_then(|value| value.to_str().ok());
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    // Nothing is read for whoever does not even try to prove anything.
    let body = if header.is_some() { read_body(body, CONTROL_BODY_MAX).await? } else { Default::default() };
    let asked = auth::Request { method: parts.method.as_str(), path, body: &body };
    let accepted = context.guard.accept(&keyring, header, &asked).map_err(|error| {
        Problem::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, error.to_string(), error.hint())
            .counted(error.reason())
    })?;
    let answer = handle(context, &body).await.unwrap_or_else(IntoResponse::into_response);
    let (mut head, body) = answer.into_parts();
    let bytes = body.collect().await.map_err(|_| Problem::invalid("the answer ended early"))?.to_bytes();
    let signature = accepted.sign_answer(&keyring, path, head.status.as_u16(), &bytes);
    if let Some(value) = signature.and_then(|text| HeaderValue::from_str(&text).ok()) {
        head.headers.insert(auth::HEADER, value);
    }
    Ok(Response::from_parts(head, Body::from(bytes)))
}

pub(super) async fn peers(State(context): State<Context>, request: Request) -> Handled {
    guarded(&context, request, |context, _| Box::pin(async move { Ok(context.answer(context.node.peers().await)) }))
        .await
}

pub(super) async fn join(
    State(context): State<Context>,
    Extension(Remote(from)): Extension<Remote>,
    request: Request,
) -> Handled {
    guarded(&context, request, |context, body| {
        Box::pin(async move {
            let request = parse_join(body)?;
            Ok(context.answer(context.node.join(request, from).await))
        })
    })
    .await
}

fn parse_join(body: &[u8]) -> Result<JoinRequest, Problem> {
    let request: JoinRequest = serde_json::from_slice(body)
        .map_err(|error| Problem::invalid(format!("the body is not what was expected: {error}")))?;
    let name_fits = (1..=HOSTNAME_MAX).contains(&request.hostname.len())
        && request.hostname.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if !name_fits {
        return Err(Problem::invalid("hostname: 1 to 63 characters of A-Z a-z 0-9 . _ -"));
    }
    if request.addresses.len() > ADDRESSES_MAX {
        return Err(Problem::invalid(format!("addresses: at most {ADDRESSES_MAX}")));
    }
    if let Some(wrong) = request.addresses.iter().find(|text| text.parse::<std::net::SocketAddr>().is_err()) {
        return Err(Problem::invalid(format!("addresses: IP:PORT was expected, got {wrong:?}")));
    }
    if request.peer_id.as_ref().is_some_and(|id| id.as_str().len() > PEER_ID_MAX_LEN || !is_base58(id.as_str())) {
        return Err(Problem::invalid("peer_id: a multihash in base58 was expected"));
    }
    Ok(request)
}

fn is_base58(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() && !b"0OIl".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guarded_paths_know_their_names() {
        let names = ["build1".to_owned()];
        let cases = [
            ("10.0.0.1:8100", true),
            ("[2001:db8::1]:8100", true),
            ("localhost", true),
            ("BUILD1:8100", true),
            ("build2:8100", false),
            ("build1.evil.example", false),
            ("10.0.0.1.evil.example", false),
            ("user@10.0.0.1", false),
            ("", false),
        ];
        for (host, ours) in cases {
            let value = HeaderValue::from_static(host);
            assert_eq!(is_ours(Some(&value), &names), ours, "{host}");
        }
        assert!(!is_ours(None, &names));
    }

    #[test]
    fn registrations_outside_their_grammar_are_refused() {
        let good = r#"{"hostname":"build9","addresses":["10.1.0.9:50555","[fd00::9]:50555"]}"#;
        assert_eq!(parse_join(good.as_bytes()).expect("accepted").addresses.len(), 2);
        let many = format!(r#"{{"hostname":"a","addresses":[{}]}}"#, ["\"1.1.1.1:1\""; 17].join(","));
        let bad = [
            "",
            "[]",
            "{}",
            r#"{"hostname":""}"#,
            r#"{"hostname":"a b"}"#,
            r#"{"hostname":"<b>"}"#,
            r#"{"hostname":"a","addresses":["nowhere"]}"#,
            r#"{"hostname":"a","peer_id":"../x"}"#,
            &many,
        ];
        for body in bad {
            assert!(parse_join(body.as_bytes()).is_err(), "{body}");
        }
    }
}
