//! Streams as a browser finds them: real connections to real listeners, a made-up node behind.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use serde_json::Value;

use super::*;
use crate::clock::now_ms;
use crate::engine::event::{Event, EventKind, PER_ENTRY};
use crate::engine::id::UnixMillis;
use crate::web::answer::Remote;
use crate::web::fake::{FakeNode, JOB};
use crate::web::{Context, Handle, Options, bind, serve};

fn event(id: u64) -> Event {
    let message = format!("event {id}");
    Event {
        id,
        at: UnixMillis(id),
        kind: EventKind::Assign,
        message,
        drone: None,
        package: None,
        job: None,
        session: None,
    }
}

impl FakeNode {
    /// Something happens.
    fn happen(&self, ids: std::ops::RangeInclusive<u64>) {
        let newest = *ids.end();
        self.feed.events.lock().expect("not poisoned").extend(ids.map(event));
        self.feed.index.send_replace(newest.max(42));
    }
}

struct Site {
    handle: Handle,
    node: Arc<FakeNode>,
    _directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let options = Options {
            http: "127.0.0.1:0".parse().expect("address"),
            socket: directory.path().join("hive.sock"),
            ..Options::default()
        };
        let node = Arc::new(FakeNode::new());
        let handle = bind(options).expect("binds").serve(node.clone());
        Self { handle, node, _directory: directory }
    }

    fn open(&self, path: &str, headers: &str) -> Page {
        let mut stream = TcpStream::connect(self.handle.address()).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("sets");
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).expect("writes");
        Page { reader: BufReader::new(stream) }
    }
}

/// Somebody who reads a stream.
struct Page {
    reader: BufReader<TcpStream>,
}

#[derive(Debug)]
struct Got {
    event: String,
    id: Option<u64>,
    data: Value,
}

impl Page {
    /// The head of the answer.
    fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.reader.read_line(&mut head).expect("a line") > 0, "ended within the head: {head}");
        }
        head.to_lowercase()
    }

    /// The next message; none at the end of the stream. What frames the chunks is left out, as it is never a field.
    fn next(&mut self) -> Option<Got> {
        let mut got = Got { event: String::new(), id: None, data: Value::Null };
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).expect("a line") == 0 {
                return None;
            }
            let line = line.trim_end();
            if let Some(event) = line.strip_prefix("event: ") {
                got.event = event.to_owned();
            } else if let Some(id) = line.strip_prefix("id: ") {
                got.id = id.parse().ok();
            } else if let Some(data) = line.strip_prefix("data: ") {
                got.data = serde_json::from_str(data).expect("JSON");
                return Some(got);
            }
        }
    }

    fn next_of(&mut self, event: &str) -> Got {
        loop {
            let got = self.next().expect("the stream goes on");
            if got.event == event {
                return got;
            }
        }
    }
}

/// Blocking readers run beside the server.
async fn reading<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the reader does not panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_told_who_speaks_how_things_are_and_what_happens() {
    let site = Site::new();
    let mut page = site.open("/api/v2/events", "");
    let node = Arc::clone(&site.node);
    reading(move || {
        let head = page.head();
        assert!(head.starts_with("http/1.1 200 ") && head.contains("content-type: text/event-stream"), "{head}");
        let hello = page.next().expect("hello");
        assert_eq!((hello.event.as_str(), hello.data["node"].as_str()), ("hello", Some("fake")));
        assert_eq!(hello.data["topics"], serde_json::json!(["status", "changes", "events"]));
        let status = page.next().expect("status");
        assert_eq!((status.event.as_str(), status.data["members"]["up"].as_u64()), ("status", Some(1)));
        assert_eq!((status.data["coordinator"].as_str(), status.data["quorum"].as_bool()), (Some("fake"), Some(true)));
        let began_ms = now_ms();
        node.happen(1..=3);
        for id in 1..=3 {
            let got = page.next_of("event");
            assert_eq!((got.id, got.data["id"].as_u64()), (Some(id), Some(id)));
        }
        let took_ms = now_ms() - began_ms;
        assert!(took_ms < 300, "from the event to the page: {took_ms} ms");
        let changes = page.next_of("changes");
        assert_eq!(changes.data["kinds"], serde_json::json!(["jobs"]));
    })
    .await;
    site.handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_comes_again_goes_on_where_it_was() {
    let site = Site::new();
    site.node.happen(1..=1_200);
    let mut resumed = site.open("/api/v2/events?topics=events", "Last-Event-ID: 7\r\n");
    let mut later = site.open("/api/v2/events?topics=events&since=1199", "");
    let mut fresh = site.open("/api/v2/events?topics=events", "");
    let mut foreign = site.open("/api/v2/events?topics=events&since=99999999", "");
    let node = Arc::clone(&site.node);
    reading(move || {
        for id in 8..=1_200 {
            assert_eq!(resumed.next_of("event").id, Some(id), "without a gap, in pages");
        }
        assert_eq!(later.next_of("event").id, Some(1_200));
        assert_eq!(foreign.next_of("gap").data["since"].as_u64(), Some(1_200), "numbers of another hive");
        fresh.next_of("hello");
        node.happen(1_201..=1_201);
        for page in [&mut resumed, &mut later, &mut fresh, &mut foreign] {
            assert_eq!(page.next_of("event").id, Some(1_201));
        }
    })
    .await;
    site.node.feed.oldest.store(1_000, Ordering::Relaxed);
    let mut old = site.open("/api/v2/events?topics=events&since=5", "");
    reading(move || {
        assert_eq!(old.next_of("gap").data["since"].as_u64(), Some(999));
        assert_eq!(old.next_of("event").id, Some(1_000));
    })
    .await;
    site.handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_told_harmless_piece_by_piece() {
    let site = Site::new();
    let mut page = site.open(&format!("/api/v2/events?topics=log:{JOB}:2"), "");
    reading(move || {
        let log = page.next_of("log");
        assert_eq!((log.data["text"].as_str(), log.data["offset"].as_u64()), (Some("first\n"), Some(0)));
        assert_eq!(log.data["attempt"].as_u64(), Some(2));
    })
    .await;
    site.handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_counted_and_end_at_once_when_the_agent_stops() {
    let site = Site::new();
    let mut pages: Vec<Page> = (0..STREAMS.loopback).map(|_| site.open("/api/v2/events", "")).collect();
    let (pages, refused) = {
        let mut one_more = None;
        let pages = reading(move || {
            for page in &mut pages {
                page.next_of("status");
            }
            pages
        })
        .await;
        let mut page = site.open("/api/v2/events", "");
        one_more.replace(reading(move || page.head()).await);
        (pages, one_more.expect("an answer"))
    };
    assert!(refused.starts_with("http/1.1 429 "), "{refused}");
    let began_ms = now_ms();
    site.handle.shutdown().await;
    let took_ms = now_ms() - began_ms;
    assert!(took_ms < 300, "streams kept the agent from stopping for {took_ms} ms");
    reading(move || {
        for mut page in pages {
            let mut rest = Vec::new();
            page.reader.read_to_end(&mut rest).expect("closed by the server");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_too_slowly_is_told_so_and_loses_no_event() {
    let node = Arc::new(FakeNode::new());
    let options = Options::default();
    let mut context = Context::new(node.clone(), &options, serve::Meter::new(options.caps));
    context.live = Arc::new(Hub::new(STREAMS, 8));
    let remote = Remote("10.9.9.9".parse().expect("address"));
    let params = FollowParams::default();
    let answer = follow(&context, remote, &HeaderMap::new(), &params).await.expect("a stream");
    let mut body: axum::body::BodyDataStream = Body::new(answer.into_body()).into_data_stream();
    // Nobody reads while a thousand things happen; the ring holds eight.
    for id in 1..=1_000 {
        node.happen(id..=id);
        tokio::task::yield_now().await;
    }
    let told = context.live.ring.subscribe();
    let deadline_ms = now_ms() + 5_000;
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    while told.is_empty() && context.live.ring.len() < 8 {
        assert!(now_ms() < deadline_ms, "nothing was told");
        ticks.tick().await;
    }
    let mut text = String::new();
    while !text.contains("id: 1000\n") {
        let piece = tokio::time::timeout(Duration::from_secs(5), body.next()).await.expect("in time");
        text.push_str(&String::from_utf8_lossy(&piece.expect("goes on").expect("bytes")));
    }
    assert!(text.contains("event: gap\n"), "it is told that it was too slow");
    let ids: Vec<u64> =
        text.lines().filter_map(|line| line.strip_prefix("id: ")).map(|id| id.parse().expect("a number")).collect();
    assert_eq!(ids, (1..=1_000).collect::<Vec<u64>>(), "and yet every event came, once and in order");
    assert!(text.len() < 1 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_while_nobody_follows() {
    let node = Arc::new(FakeNode::new());
    let options = Options::default();
    let context = Context::new(node.clone(), &options, serve::Meter::new(options.caps));
    assert!(!*context.live.running.lock().expect("not poisoned"));
    let remote = Remote("10.9.9.9".parse().expect("address"));
    let answer = follow(&context, remote, &HeaderMap::new(), &FollowParams::default()).await.expect("a stream");
    assert!(context.live.is_wanted(Topic::Events) && !context.live.is_wanted(Topic::Metrics));
    let mut body = answer.into_body();
    assert!(body.frame().await.is_some());
    drop(body);
    assert!(!context.live.is_wanted(Topic::Events));
    let deadline_ms = now_ms() + 5_000;
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    while *context.live.running.lock().expect("not poisoned") {
        assert!(now_ms() < deadline_ms, "the hub goes on without anybody");
        ticks.tick().await;
    }
}

#[test]
fn numbers_of_events_are_those_of_their_entries() {
    assert_eq!(event(3 * PER_ENTRY + 7).index(), 3);
    assert_eq!(frame("x", Some(5), &"a\nb"), "event: x\nid: 5\ndata: \"a\\nb\"\n\n");
}
