//! Every read with `at=`: of then, in the shape of now, or refused; never of now.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request as HttpRequest};
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;

use super::*;
use crate::web::access::Caller;
use crate::web::answer::Remote;
use crate::web::fake::replay::KNOWN_FROM;
use crate::web::fake::{FakeNode, JOB};
use crate::web::{Options, PublicPage, serve};

/// In the middle of the fake's attempt, in its second phase.
const AT: &str = "2025-11-08T12:35:02.000Z";

struct Site {
    node: Arc<FakeNode>,
    context: Context,
}

impl Site {
    fn new() -> Self {
        let node = Arc::new(FakeNode::new());
        let options = Options::default();
        let context = Context::new(node.clone(), &options, serve::Meter::new(options.caps));
        Self { node, context }
    }

    /// A node that shows a summary to whoever has no key.
    fn of_summary() -> Self {
        let mut site = Self::new();
        site.context.public_page = PublicPage::Summary;
        site
    }

    async fn ask(&self, path: &str, accept: &str) -> (u16, axum::http::HeaderMap, Vec<u8>) {
        let router = routes::local(self.context.clone());
        let request = HttpRequest::builder().uri(path).header(header::HOST, "localhost").header(header::ACCEPT, accept);
        let mut request = request.body(Body::empty()).expect("request");
        request.extensions_mut().insert(Remote(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        request.extensions_mut().insert(Caller { name: "ann".to_owned() });
        let response = TowerToHyperService::new(router).call(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        (parts.status.as_u16(), parts.headers, body.collect().await.expect("body").to_bytes().to_vec())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, _, body) = self.ask(path, "application/json").await;
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }
}

#[tokio::test]
async fn no_read_gives_out_what_is_now_as_of_then() {
    let site = Site::new();
    let reads = routes::table().into_iter().filter(|route| route.method == Method::GET);
    let (mut then, mut refused) = (0, 0);
    for route in reads.filter(|route| route.path.starts_with("/api/v2/")) {
        let path = route.path.replace("{id}", &JOB.to_string()).replace("{which}", "s").replace("{name}", "n");
        let path = path.replace("{what}", "x").replace("{sha256}", &"0".repeat(64));
        let more = if path.ends_with("/search") { "&q=x" } else { "" };
        let (status, answer) = site.get(&format!("{path}?at={AT}{more}")).await;
        if !PATHS.contains(&route.path) {
            assert_eq!((status, &answer["error"]["code"]), (410, &"not_recorded".into()), "{}: {answer}", route.path);
            refused += 1;
            continue;
        }
        then += 1;
        // What is found in a log that was being written is not known; its bytes have no envelope.
        let searched = path.ends_with("/search") || path.ends_with("/first-error");
        assert_eq!(status, if searched { 410 } else { 200 }, "{}: {answer}", route.path);
        if status == 200 && !path.ends_with("/log") {
            assert_eq!(answer["as_of"], AT, "{}", route.path);
        }
    }
    assert_eq!(then + 1, PATHS.len(), "all that are described are there, and the one of the old swarm");
    assert!(refused > 10);
}

#[tokio::test]
async fn who_sees_a_summary_of_now_sees_nothing_of_then() {
    let site = Site::of_summary();
    for path in ["/api/v2/status", "/api/v2/fleet", "/api/v1/protocol/snapshot"] {
        let router = routes::public(site.context.clone());
        let request = HttpRequest::builder().uri(format!("{path}?at={AT}")).header(header::HOST, "10.0.0.1:8100");
        let mut request = request.body(Body::empty()).expect("request");
        request.extensions_mut().insert(Remote(IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9))));
        let response = TowerToHyperService::new(router).call(request).await.expect("infallible");
        assert!(matches!(response.status().as_u16(), 401 | 403), "{path}: {}", response.status());
    }
    assert!(!site.node.acts().iter().any(|act| act.starts_with("replay")), "{:?}", site.node.acts());
}

#[tokio::test]
async fn a_query_means_of_then_what_it_means_of_now() {
    let site = Site::new();
    let asked = |path: &'static str| {
        let site = &site;
        async move { site.get(path).await.1["data"]["asked"].as_str().unwrap_or_default().to_owned() }
    };
    let queue = asked("/api/v2/queue?at=1762605302000&state=needed,blocked&order=oldest&offset=7").await;
    assert!(queue.contains("Oldest") && queue.contains("offset: 7") && queue.contains("Blocked"), "{queue}");
    let events = asked("/api/v2/events?at=1762605302&type=start").await;
    assert!(events.contains("until: Some(UnixMillis(1762605302000))") && events.contains("Start"), "{events}");
    let audit = asked("/api/v2/audit?at=2025-11-08T12:35:02Z&before=9").await;
    assert_eq!(audit, "Audit { before: Some(9), limit: 100 }");
    assert_eq!(site.get("/api/v2/queue?at=1762605302000&order=sideways").await.0, 400);
    assert_eq!(site.get("/api/v2/status?at=yesterday").await.0, 400);
    let (status, answer) = site.get("/api/v2/status?at=").await;
    assert!(status == 200 && answer["data"]["self"].is_object(), "an empty one is now: {answer}");
    assert_eq!(site.get(&format!("/api/v2/fleet?at={AT}")).await.1["log"]["applied"], 7, "where the log stood then");
    let (status, answer) = site.get(&format!("/api/v2/fleet?at={}", KNOWN_FROM.0 - 1)).await;
    assert_eq!((status, &answer["error"]["code"]), (410, &"not_recorded".into()));
    assert!(answer["error"]["hint"].as_str().is_some_and(|hint| !hint.is_empty()));
    let (status, ..) = site.ask("/api/v2/events?at=1762605302000", "text/event-stream").await;
    assert_eq!(status, 400, "nothing follows the past");
    let of_now = |act: &String| !act.starts_with("replay") && !act.starts_with("refused");
    assert!(!site.node.acts().iter().any(of_now), "{:?}", site.node.acts());
}

#[tokio::test]
async fn a_log_is_shown_as_far_as_it_surely_was() {
    let site = Site::new();
    let log = |at: &str, more: &str| format!("/api/v2/jobs/{JOB}/log?at={at}{more}");
    let (status, headers, body) = site.ask(&log(AT, ""), "*/*").await;
    assert_eq!((status, body.as_slice()), (200, b"first\n".as_slice()), "up to the phase that ran");
    assert_eq!(headers["x-hive-log-cut"], "6");
    let (.., body) = site.ask(&log("2025-11-08T12:34:58Z", ""), "*/*").await;
    assert!(body.is_empty(), "the first phase had just begun");
    let (_, headers, body) = site.ask(&log("2025-11-08T12:36:00Z", "&harmless=1"), "*/*").await;
    assert_eq!(
        (body.as_slice(), &headers["x-hive-log-cut"]),
        (b"first\nlast\n".as_slice(), &"no".parse().expect("value"))
    );
    let (_, phases) = site.get(&format!("/api/v2/jobs/{JOB}/log/phases?at={AT}")).await;
    let phases = &phases["data"];
    assert_eq!((phases["phases"].as_array().map(Vec::len), &phases["growing"]), (Some(2), &Value::Bool(true)));
    assert_eq!((&phases["phases"][0]["took_ms"], &phases["phases"][1]["took_ms"]), (&5_000.into(), &Value::Null));
    let found = site.get(&format!("/api/v2/jobs/{JOB}/log/first-error?at=2025-11-08T12:36:00Z")).await;
    assert_eq!(found.0, 200, "{}", found.1);
}

#[tokio::test]
async fn activity_is_bounded_whatever_is_asked() {
    let site = Site::new();
    let (status, answer) = site.get("/api/v2/activity?from=1762605302000&to=1762605402000&buckets=10").await;
    let data = &answer["data"];
    assert_eq!((status, data["buckets"].as_array().map(Vec::len), &data["bucket_ms"]), (200, Some(10), &10_000.into()));
    let (_, many) = site.get("/api/v2/activity?buckets=9999999").await;
    assert_eq!(many["data"]["buckets"].as_array().map(Vec::len), Some(BUCKETS_MAX));
    for bad in ["from=2000&to=1000", "from=x", "to=-1", "buckets=-1"] {
        assert_eq!(site.get(&format!("/api/v2/activity?{bad}")).await.0, 400, "{bad}");
    }
}
