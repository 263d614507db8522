//! Reads: how new an answer has to be, and whether it is the one that whoever asks has already.
//!
//! An answer that the replicated state alone makes up is named by the log index at which it was made, so that one who asks again gets 304
//! until the state has moved, without anything being put together. With `consistent=true` this node first catches up with what the hive had
//! committed when it was asked. Never done here: reading.

use axum::extract::{Query, Request, State};
use axum::http::header;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::answer::Problem;
use super::{Context, live, replay};

/// Whether a query asks for what is committed now.
fn wants_consistent(uri: &Uri) -> Result<bool, Problem> {
    if uri.query().is_none() {
        return Ok(false);
    }
    let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else { return Ok(false) };
    let asked = pairs.iter().find(|(name, _)| name == "consistent").map(|(_, value)| value.as_str());
    match asked {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1" | "") => Ok(true),
        Some(_) => Err(Problem::invalid("consistent is true or false")),
    }
}

/// Names an answer by what it was made of: this program's version, the epoch and the log index.
fn tag_of(context: &Context) -> String {
    let log = context.node.log();
    format!("W/\"{}-{}-{}\"", env!("CARGO_PKG_VERSION"), log.epoch, log.applied)
}

/// Whether whoever asks has it already. Weak and strong tags are compared alike.
fn has_it(headers: &HeaderMap, tag: &str) -> bool {
    let plain = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let tags = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    tags.flat_map(|value| value.split(',')).any(|known| plain(known) == plain(tag) || known.trim() == "*")
}

/// In front of every read of the hive's own API, at this path of the table. `tagged`: the answer is made of the replicated state alone.
pub(super) async fn fresh(
    State((context, path, tagged)): State<(Context, &'static str, bool)>,
    request: Request,
    next: Next,
) -> Response {
    match replay::moment(request.uri()) {
        Err(problem) => return problem.into_response(),
        Ok(None) => {}
        Ok(Some(at)) => return replay::answer(&context, path, at, request).await,
    }
    match wants_consistent(request.uri()) {
        Err(problem) => return problem.into_response(),
        Ok(false) => {}
        Ok(true) => {
            if let Err(error) = context.node.catch_up().await {
                return context.answer::<()>(Err(error));
            }
        }
    }
    if !tagged || live::wants_stream(request.headers()) {
        return next.run(request).await;
    }
    // Before it is made: it may be newer than its name, never older.
    let tag = tag_of(&context);
    let mut response = if has_it(request.headers(), &tag) {
        (StatusCode::NOT_MODIFIED, context.position()).into_response()
    } else {
        next.run(request).await
    };
    if matches!(response.status(), StatusCode::OK | StatusCode::NOT_MODIFIED)
        && let Ok(value) = HeaderValue::from_str(&tag)
    {
        response.headers_mut().insert(header::ETAG, value);
        // Kept, and asked about each time.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_known_by_its_tag_however_it_is_written() {
        let has = |known: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static(known));
            has_it(&headers, "W/\"1-2-3\"")
        };
        assert!(has("W/\"1-2-3\"") && has("\"1-2-3\"") && has("\"x\", W/\"1-2-3\"") && has("*"));
        assert!(!has("W/\"1-2-4\"") && !has("1-2-3") && !has_it(&HeaderMap::new(), "W/\"1-2-3\""));
    }

    #[test]
    fn consistent_is_asked_for_by_a_word() {
        let asked = |path: &'static str| wants_consistent(&Uri::from_static(path)).ok();
        assert_eq!(
            (asked("/a"), asked("/a?b=c"), asked("/a?consistent=false")),
            (Some(false), Some(false), Some(false))
        );
        assert_eq!((asked("/a?consistent=true"), asked("/a?x=y&consistent=1")), (Some(true), Some(true)));
        assert_eq!(asked("/a?consistent=maybe"), None);
    }
}
