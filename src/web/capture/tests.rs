//! Requests of every kind, with secrets in every place; afterwards the ring is searched for them.

use std::net::Ipv4Addr;

use axum::http::Request as HttpRequest;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use super::*;
use crate::engine::id::PeerId;
use crate::web::fake::FakeNode;
use crate::web::{Context, Options, routes, serve};
use crate::wire::{Captured, Settings};

const KEY: &str = "the-admin-key-of-the-fake";

struct Site {
    wire: Wire,
    context: Context,
    node: Arc<FakeNode>,
}

impl Site {
    fn new(records: usize) -> Self {
        let wire = Wire::new(PeerId::new("me"), &Settings { records, body_bytes: 1 << 20, sample: Vec::new() });
        let options = Options { wire: wire.clone(), ..Options::default() };
        let node = Arc::new(FakeNode::new());
        let context = Context::new(node.clone(), &options, serve::Meter::new(options.caps));
        Self { wire, context, node }
    }

    async fn ask(&self, admin: bool, request: HttpRequest<Body>) -> (u16, Vec<u8>) {
        let router = if admin { routes::admin(self.context.clone()) } else { routes::public(self.context.clone()) };
        let mut request = request;
        let port = if admin { 8093 } else { 8100 };
        request.headers_mut().insert(header::HOST, format!("10.0.0.1:{port}").parse().expect("host"));
        request.extensions_mut().insert(Remote(IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9))));
        request.extensions_mut().insert(RemotePort(4_242));
        let response = TowerToHyperService::new(router).call(request).await.expect("infallible");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("body").to_bytes().to_vec();
        (status, body)
    }

    async fn get(&self, path: &str) -> (u16, Vec<u8>) {
        self.ask(false, HttpRequest::builder().uri(path).body(Body::empty()).expect("request")).await
    }

    fn last(&self) -> (Captured, Value) {
        let last = self.wire.before(u64::MAX, 1).pop().expect("a record");
        let told = serde_json::from_slice(&last.body).expect("JSON");
        (last, told)
    }
}

#[tokio::test]
async fn a_request_and_its_answer_are_one_record() {
    let site = Site::new(100);
    let (status, body) = site.get("/api/v2/health?x=1").await;
    let (record, told) = site.last();
    assert_eq!((record.protocol, record.kind.as_str(), record.verdict), (Protocol::Http, "GET", "taken"));
    assert_eq!((record.status, record.address), (Status::Code(status), Some(SocketAddr::from(([10, 9, 9, 9], 4_242)))));
    assert_eq!(
        (&told["path"], &told["query"], &told["status"]),
        (&json!("/api/v2/health"), &json!("x=1"), &json!(200))
    );
    assert_eq!(told["response"]["ok"], true, "short answers are kept: {told}");
    assert!(record.latency_us.is_some() && record.bytes as usize == body.len());
    assert_eq!(told["headers"]["host"], "10.0.0.1:8100");
}

#[tokio::test]
async fn a_refused_request_shows_the_verdict_of_the_guard() {
    let site = Site::new(100);
    let request = HttpRequest::builder().uri("/api/v2/doctor").header("x-admin-key", "wrong-and-long-enough");
    let (status, _) = site.ask(true, request.body(Body::empty()).expect("request")).await;
    let (record, told) = site.last();
    assert_eq!((status, record.verdict, record.protocol), (401, "wrong_key", Protocol::Admin));
    assert_eq!(told["headers"]["x-admin-key"], redact::SECRET);
    assert_eq!(site.get("/api/v2/doctor").await.0, 403);
    assert_eq!(site.last().0.verdict, "local_only");
}

#[tokio::test]
async fn no_secret_of_a_request_is_kept() {
    let site = Site::new(100);
    let post = |path: &str| {
        HttpRequest::builder().method("POST").uri(path.to_owned()).header("content-type", "application/json")
    };
    let long = format!("{{\"reason\":\"{}\",\"key\":\"{KEY}\"}}", "x".repeat(TEXT_MAX - 40));
    let requests = [
        HttpRequest::builder().uri("/api/v2/doctor").header("x-admin-key", KEY).body(Body::empty()),
        HttpRequest::builder()
            .uri("/api/v2/doctor")
            .header("authorization", format!("Bearer {KEY}"))
            .body(Body::empty()),
        HttpRequest::builder().uri(format!("/api/v2/jobs?key={KEY}")).body(Body::empty()),
        HttpRequest::builder().uri("/api/v2/jobs").header("cookie", format!("hive_session={KEY}")).body(Body::empty()),
        HttpRequest::builder().uri("/api/v2/jobs").header("x-unheard-of", KEY).body(Body::empty()),
        post("/api/v2/control")
            .header("x-admin-key", KEY)
            .body(format!("{{\"action\":\"pause\",\"reason\":\"token={KEY}\"}}").into()),
        // A secret that lies across the end of what is kept.
        post("/api/v2/control").header("x-admin-key", KEY).body(long.into()),
        post("/api/v2/control").header("x-admin-key", KEY).body(format!("not JSON, but password={KEY}").into()),
    ];
    let count = requests.len();
    for request in requests {
        site.ask(true, request.expect("request")).await;
    }
    let records = site.wire.after(0, 100);
    assert_eq!(records.len(), count);
    for record in records {
        let text = String::from_utf8(record.body).expect("text");
        assert!(!text.contains(KEY) && !text.contains(&KEY[..12]), "{text}");
        assert!(text.contains(redact::SECRET), "{text}");
    }
    assert!(
        site.node.acts().iter().any(|act| act.contains("pause")),
        "the request itself arrived whole: {:?}",
        site.node.acts()
    );
}

#[tokio::test]
async fn long_bodies_arrive_whole_and_are_kept_in_part() {
    let site = Site::new(100);
    let reason = "y".repeat(20_000);
    let body = format!("{{\"action\":\"pause\",\"reason\":\"{reason}\"}}");
    let request = HttpRequest::builder().method("POST").uri("/api/v2/control").header("x-admin-key", KEY);
    let request = request.header("content-type", "application/json").header("content-length", body.len());
    let (status, _) = site.ask(true, request.body(body.clone().into()).expect("request")).await;
    let (record, told) = site.last();
    assert_eq!(status, 200, "{:?}", site.node.acts());
    assert!(record.body.len() <= BODY_MAX && record.bytes > 20_000);
    assert!(told["request"].as_str().is_some_and(|text| text.contains("pause")), "{told}");
}

#[tokio::test]
async fn looking_is_not_noted_and_nothing_is_when_it_is_off() {
    let site = Site::new(100);
    for path in ["/api/v2/wire", "/api/v2/wire/fields", "/api/v1/protocol", "/style.css"] {
        assert_eq!(site.get(path).await.0, 200, "{path}");
    }
    assert!(site.wire.after(0, 10).is_empty());
    let off = Site::new(0);
    assert_eq!(off.get("/api/v2/health").await.0, 200);
    assert!(off.wire.after(0, 10).is_empty());
}

#[tokio::test]
async fn lists_are_for_everyone_and_what_messages_say_is_for_operators() {
    let site = Site::new(100);
    let (status, _) =
        site.get("/api/v2/wire?filter=kind%20%3D%3D%20%22LEASE%22&limit=5&node=all&since=1795293032").await;
    assert_eq!(status, 200);
    let acts = site.node.acts();
    assert!(
        acts.iter().any(|act| act.contains("LEASE") && act.contains("1795293032000000") && act.contains("limit: 5")),
        "{acts:?}"
    );
    let (status, body) = site.get("/api/v2/wire?filter=knd%20%3D%3D%201").await;
    assert_eq!(status, 400);
    assert!(String::from_utf8_lossy(&body).contains("no field knd"), "{}", String::from_utf8_lossy(&body));
    for path in ["/api/v2/wire/5@n1", "/api/v2/wire/export?format=jsonl"] {
        assert_eq!(site.get(path).await.0, 403, "{path}");
        let keyless = HttpRequest::builder().uri(path).body(Body::empty()).expect("request");
        assert_eq!(site.ask(true, keyless).await.0, 401, "{path}");
        let reader = HttpRequest::builder().uri(path).header("x-admin-key", "token-that-reads").body(Body::empty());
        assert_eq!(site.ask(true, reader.expect("request")).await.0, 403, "{path}");
    }
    let (status, _) = site.get("/api/v1/protocol/detail?id=5").await;
    assert_eq!(status, 401);
    let keyed = HttpRequest::builder().uri("/api/v2/wire/export?format=pcapng").header("x-admin-key", KEY);
    assert_eq!(site.ask(true, keyed.body(Body::empty()).expect("request")).await.0, 200);
    assert!(site.node.acts().iter().any(|act| act.starts_with("export Pcapng")));
}
