//! The doors as whoever stands before them finds them: real connections to real listeners, a made-up node behind.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use super::*;
use crate::web::audit::Record;
use crate::web::fake::{self, FakeNode, JOB};
use crate::web::open::{PublicPage, Shown};
use crate::web::routes::{Door, table};
use crate::web::{Handle, Options, bind, serve};

const KEY: &str = "the-admin-key-of-the-fake";

/// What the paths of drones want to know before they ask who it is.
const BODY: &str = r#"{"id":"drone-1","name":"drone-1","package":"app-misc/a","status":"success"}"#;

struct Site {
    handle: Handle,
    node: Arc<FakeNode>,
    _directory: tempfile::TempDir,
}

struct Got {
    status: u16,
    /// Lower case, in order.
    head: String,
    body: String,
}

impl Site {
    fn new(rules: Rules) -> Self {
        Self::with(|options| options.rules = rules)
    }

    fn with(change: impl FnOnce(&mut Options)) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut options = Options {
            http: "127.0.0.1:0".parse().expect("address"),
            admin: Some("127.0.0.1:0".parse().expect("address")),
            host_names: vec!["build1".to_owned()],
            socket: directory.path().join("hive.sock"),
            header_timeout: Duration::from_secs(2),
            ..Options::default()
        };
        change(&mut options);
        let node = Arc::new(FakeNode::new());
        let handle = bind(options).expect("binds").serve(node.clone());
        Self { handle, node, _directory: directory }
    }

    fn admin(&self) -> SocketAddr {
        self.handle.admin_address().expect("has one")
    }

    /// What was done, refusals left out.
    fn done(&self) -> Vec<String> {
        self.node.acts().into_iter().filter(|act| !act.starts_with("refused ")).collect()
    }
}

/// One request on a connection of its own, with exactly these headers besides its length.
async fn ask(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Got {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = if method == "GET" { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let request = format!("{method} {path} HTTP/1.1\r\n{headers}{length}Connection: close\r\n\r\n{body}");
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(to).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("sets");
        // Whoever is refused unread may find the connection closed while sending.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    });
    let answer = answer.await.expect("the client does not panic");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    Got { status, head: head.to_lowercase(), body: body.to_owned() }
}

fn path_of(route: &str) -> String {
    let digest = "00".repeat(32);
    let id = JOB.to_string();
    let filled = [("{id}", id.as_str()), ("{which}", "s"), ("{name}", "a"), ("{action}", "pause"), ("{what}", "x")];
    let path = filled.iter().fold(route.to_owned(), |path, (hole, value)| path.replace(hole, value));
    let path =
        path.replace("{sha256}", &digest).replace("{file}", "none").replace("{node}", "a").replace("{*package}", "b/c");
    if matches!(path.as_str(), "/api/v1/work" | "/api/v1/poll") { format!("{path}?id=drone-1") } else { path }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_that_changes_something_is_without_a_guard() {
    let site = Site::new(Rules::default());
    let host = ("Host", "127.0.0.1");
    for route in table() {
        let (method, path) = (route.method.as_str(), path_of(route.path));
        if route.door == Door::Anyone {
            assert_eq!(method, "GET", "{path}: what everyone may do is to look");
            continue;
        }
        let body = if route.door == Door::SignIn { r#"{"key":"nobody's"}"# } else { BODY };
        let public = ask(site.handle.address(), method, &path, &[host], body).await;
        let admin = ask(site.admin(), method, &path, &[host], body).await;
        match route.door {
            Door::Anyone => {}
            Door::Secret => assert_eq!((public.status, admin.status), (403, 403), "{path}"),
            Door::Key(_) | Door::SignIn => {
                assert_eq!((public.status, admin.status), (403, 401), "{method} {path}");
            }
            Door::Legacy => assert_eq!((public.status, admin.status), (401, 401), "{method} {path}"),
            // Without an Origin. With one it is asked for its ticket, see `web::terminal`.
            Door::Ticket | Door::Local => assert_eq!((public.status, admin.status), (403, 403), "{method} {path}"),
        }
        if !matches!(route.door, Door::Key(_) | Door::Legacy) {
            continue;
        }
        // With the right key, and yet not from here: a page of another site in the operator's browser.
        let foreign = [
            (vec![("Host", "evil.example"), ("X-Admin-Key", KEY)], 421),
            (vec![("X-Admin-Key", KEY)], 400),
            (vec![host, ("Origin", "http://evil.example"), ("X-Admin-Key", KEY)], 403),
            (vec![host, ("Origin", "null"), ("X-Admin-Key", KEY)], 403),
            (vec![host, ("Origin", "http://127.0.0.1:1"), ("X-Admin-Key", KEY)], 403),
            (vec![host, ("Sec-Fetch-Site", "cross-site"), ("X-Admin-Key", KEY)], 403),
            (vec![host, ("Sec-Fetch-Site", "same-site"), ("X-Admin-Key", KEY)], 403),
            (vec![host, ("Cookie", "key=the-admin-key-of-the-fake")], 401),
            (vec![host, ("X-Admin-Key", "token-that-reads")], if path == "/api/v1/drone-health" { 200 } else { 403 }),
        ];
        let reads = route.door == Door::Key(Scope::Read);
        for (headers, expected) in foreign.into_iter().take(if reads { 8 } else { 9 }) {
            let got = ask(site.admin(), method, &path, &headers, BODY).await;
            assert_eq!(got.status, expected, "{method} {path} {headers:?}: {}", got.body);
        }
        if path.starts_with("/admin/api/") {
            continue;
        }
        let keyed = ask(
            site.admin(),
            method,
            &format!("{path}{}key={KEY}", if path.contains('?') { '&' } else { '?' }),
            &[host],
            BODY,
        )
        .await;
        assert_eq!(keyed.status, 401, "{path}: a key in the query counts under /admin/api/ alone");
    }
    assert_eq!(site.done(), Vec::<String>::new(), "nothing happened");
    assert!(site.node.notes.lock().expect("not poisoned").is_empty(), "and nothing was about to");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_administration_takes_its_key_from_header_or_query_at_the_admin_port_alone() {
    let site = Site::new(Rules::default());
    let host = ("Host", "127.0.0.1");
    for route in table().into_iter().filter(|route| route.path.starts_with("/admin/api/")) {
        let (method, path) = (route.method.as_str(), path_of(route.path));
        let flat = ask(site.admin(), method, &path, &[host], "{}").await;
        assert!(flat.status == 401 && flat.body.contains(r#""code":"unauthorized""#), "{path}: {}", flat.body);
        assert!(!flat.body.contains("schema"), "{path}: in the old shape: {}", flat.body);
        let wrong = ask(site.admin(), method, &format!("{path}?key=nobody"), &[host], "{}").await;
        assert_eq!(wrong.status, 401, "{path}");
        for (query, headers) in [(format!("?key={KEY}"), vec![host]), (String::new(), vec![host, ("X-Admin-Key", KEY)])]
        {
            let got = ask(site.admin(), method, &format!("{path}{query}"), &headers, "{}").await;
            // Not everything that a path names is there.
            assert!(matches!(got.status, 200 | 404), "{method} {path}{query}: {} {}", got.status, got.body);
            let public = ask(site.handle.address(), method, &format!("{path}{query}"), &headers, "{}").await;
            assert_eq!(public.status, 403, "{method} {path}{query}");
        }
    }
    let check = ask(site.admin(), "GET", &format!("/admin/api/auth/check?key={KEY}"), &[host], "").await;
    assert!(check.body.contains(r#""authenticated":true"#), "{}", check.body);
    let notes = site.node.notes.lock().expect("not poisoned").clone();
    assert_eq!(notes.len(), 2, "the two resets of uploads: {notes:?}");
    assert!(notes.iter().all(|(note, _)| !note.act.contains(KEY)), "the key of the query is not written down");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_changes_something_is_written_down_before_it_is_done() {
    let site = Site::new(Rules::default());
    let mut written = 0;
    for route in table().into_iter().filter(|route| !matches!(route.method.as_str(), "GET")) {
        let (method, path) = (route.method.as_str(), path_of(route.path));
        let operators = ["/api/v1/queue", "/api/v1/control", "/api/v1/nodes/"];
        let expected = match route.door {
            Door::Key(_) => route.record != Record::Not,
            Door::Legacy => operators.iter().any(|path| route.path.starts_with(path)),
            Door::Anyone | Door::Secret | Door::SignIn | Door::Ticket | Door::Local => false,
        };
        let body = if path == "/api/v1/control" { r#"{"action":"pause","secret":"swordfish"}"# } else { "{}" };
        let before = site.node.acts().len();
        let got = ask(site.admin(), method, &path, &[("Host", "127.0.0.1"), ("X-Admin-Key", KEY)], body).await;
        let notes = site.node.notes.lock().expect("not poisoned").clone();
        assert_eq!(notes.len() - written, usize::from(expected), "{method} {path}: {} {}", got.status, got.body);
        written = notes.len();
        if let Some((note, done)) = notes.last().filter(|_| expected) {
            assert_eq!((note.by.as_str(), note.from.as_str()), ("the admin key", "127.0.0.1"), "{method} {path}");
            assert_eq!(note.act, format!("{method} {path}"));
            assert_eq!(*done, before, "{method} {path}: written before anything was done");
            assert!(!note.summary.contains("swordfish"), "{}", note.summary);
        }
    }
    assert!(written > 10, "{written}");

    site.node.quorum.store(false, Ordering::Relaxed);
    let done = site.done();
    let pause = r#"{"action":"pause"}"#;
    for path in ["/api/v2/control", "/api/v1/control"] {
        let got = ask(site.admin(), "POST", path, &[("Host", "127.0.0.1"), ("X-Admin-Key", KEY)], pause).await;
        assert!(got.status == 503 && got.body.contains("nothing was done"), "{path}: {}", got.body);
    }
    assert_eq!(site.done(), done, "what cannot be written down is not done");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_twice_with_one_key_is_done_once_and_answered_alike() {
    let site = Site::new(Rules::default());
    let with = |key: &'static str| [("Host", "127.0.0.1"), ("X-Admin-Key", KEY), ("Idempotency-Key", key)];
    let pause = r#"{"action":"pause"}"#;
    let first = ask(site.admin(), "POST", "/api/v2/control", &with("a"), pause).await;
    let again = ask(site.admin(), "POST", "/api/v2/control", &with("a"), pause).await;
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!(first.body, again.body);
    assert!(again.head.contains("idempotency-replayed: true") && !first.head.contains("replayed"), "{}", again.head);
    assert_eq!(site.done().len(), 1, "{:?}", site.done());
    let other = ask(site.admin(), "POST", "/api/v2/control", &with("a"), r#"{"action":"resume"}"#).await;
    assert_eq!(other.status, 409, "{}", other.body);
    let queue = [("Host", "127.0.0.1"), ("X-Admin-Key", "token-that-queues"), ("Idempotency-Key", "a")];
    let cancel = format!("/api/v2/jobs/{JOB}/cancel");
    assert_eq!(ask(site.admin(), "POST", &cancel, &queue, "{}").await.status, 200, "each holder has keys of his own");
    assert_eq!(ask(site.admin(), "POST", "/api/v2/control", &with("b c"), pause).await.status, 400);
    // Whether it took effect is not known: it is not done again.
    let unknown =
        site.node.answers.lock().expect("not poisoned").values_mut().map(|(_, answer)| *answer = None).count();
    assert_eq!(unknown, 2);
    let lost = ask(site.admin(), "POST", "/api/v2/control", &with("a"), pause).await;
    assert!(lost.status == 409 && lost.body.contains("its answer is not known"), "{}", lost.body);
    assert_eq!(site.done().len(), 2, "{:?}", site.done());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_exchanged_once_for_a_cookie_that_scripts_and_other_sites_cannot_use() {
    let site = Site::new(Rules::default());
    let host = ("Host", "127.0.0.1");
    let body = format!(r#"{{"key":"{KEY}"}}"#);
    let signed = ask(site.admin(), "POST", "/api/v2/session", &[host], &body).await;
    assert_eq!(signed.status, 200, "{}", signed.body);
    let cookie = signed.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie").to_owned();
    for part in ["hive_session=", "; httponly", "; samesite=strict", "; path=/;", "; max-age="] {
        assert!(cookie.contains(part), "{part} in {cookie}");
    }
    assert!(!cookie.contains("secure") && !signed.body.contains(fake::people::COOKIE), "{cookie}");
    let cookie = format!("hive_session={}", fake::people::COOKIE);
    let cookie = ("Cookie", cookie.as_str());
    let who = ask(site.admin(), "GET", "/api/v2/session", &[host, cookie], "").await;
    assert!(who.body.contains(r#""name":"the admin key","scope":"admin""#), "{}", who.body);
    let origin = ("Origin", "http://127.0.0.1");
    let pause = r#"{"action":"pause"}"#;
    let cases = [
        (vec![host, cookie, origin], 200),
        (vec![host, cookie, ("Sec-Fetch-Site", "same-origin")], 200),
        (vec![host, cookie], 401),
        (vec![host, cookie, ("Origin", "http://evil.example")], 403),
        (vec![host, cookie, ("Sec-Fetch-Site", "cross-site")], 403),
        (vec![("Host", "evil.example"), cookie, ("Origin", "http://evil.example")], 421),
        (vec![host, ("Cookie", "hive_session=v1.forged"), origin], 401),
        (vec![host, ("Cookie", "hive_session=v1.forged"), cookie, origin], 401),
    ];
    for (headers, expected) in cases {
        let got = ask(site.admin(), "POST", "/api/v2/control", &headers, pause).await;
        assert_eq!(got.status, expected, "{headers:?}: {}", got.body);
        let taken = got.head.contains("set-cookie: hive_session=; path=/; max-age=0");
        let had_one = expected == 401 && headers.iter().filter(|(name, _)| *name == "Cookie").count() == 1;
        assert_eq!(taken, had_one, "{headers:?}: {}", got.head);
    }
    assert_eq!(site.done().len(), 2, "{:?}", site.done());
    let read = ask(site.admin(), "GET", "/api/v2/audit", &[host, cookie], "").await;
    assert_eq!(read.status, 200, "a read needs no more than the cookie: {}", read.body);

    let public = site.handle.address();
    let nobody = ask(public, "GET", "/api/v2/session", &[host, cookie], "").await;
    assert!(nobody.body.contains(r#""name":null"#), "the public port knows no sessions: {}", nobody.body);
    assert_eq!(ask(public, "POST", "/api/v1/control", &[host, cookie, origin], pause).await.status, 401);
    let out = ask(site.admin(), "DELETE", "/api/v2/session", &[host, cookie, origin], "").await;
    assert!(out.status == 200 && out.head.contains("max-age=0"), "{}", out.head);
    let all = ask(site.admin(), "POST", "/api/v2/session/revoke", &[host, cookie, origin], "{}").await;
    assert!(all.status == 200 && site.done().last().is_some_and(|done| done.starts_with("sessions ended by")));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_and_wrong_cookies_are_counted_together_and_refused_alike() {
    let site = Site::new(Rules::default());
    let host = ("Host", "127.0.0.1");
    let forged = [host, ("Cookie", "hive_session=v1.forged"), ("Origin", "http://127.0.0.1")];
    let mut bodies = std::collections::BTreeSet::new();
    for round in 0..8 {
        let got = if round % 2 == 0 {
            ask(site.admin(), "POST", "/api/v2/control", &forged, "{}").await
        } else {
            ask(site.admin(), "POST", "/api/v2/session", &[host], r#"{"key":"not the key"}"#).await
        };
        assert_eq!(got.status, 401, "round {round}");
        bodies.insert(serde_json::from_str::<serde_json::Value>(&got.body).expect("JSON")["error"].to_string());
    }
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert_eq!(site.node.compared.load(Ordering::Relaxed), u64::from(TRIES_MAX), "then nothing is compared any more");
    let good = ask(site.admin(), "POST", "/api/v2/session", &[host], &format!(r#"{{"key":"{KEY}"}}"#)).await;
    assert_eq!(good.status, 401, "not even the right key, for a while");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_page_shows_as_much_as_it_is_told() {
    let host = ("Host", "127.0.0.1");
    let reader = ("X-Admin-Key", "token-that-reads");
    let shown = |site: &Site, headers: Vec<(&'static str, &'static str)>, path: &str| {
        let (address, path) = (site.handle.address(), path.to_owned());
        async move { ask(address, "GET", &path, &headers, "").await }
    };
    let log = format!("/api/v2/jobs/{JOB}/log");
    let summary = Site::with(|options| options.public_page = PublicPage::Summary);
    let status = shown(&summary, vec![host], "/api/v2/status").await;
    assert!(status.status == 200 && status.body.contains(r#""addresses":[]"#), "{}", status.body);
    assert!(shown(&summary, vec![host, reader], "/api/v2/status").await.body.contains(r#""addresses":["fake"]"#));
    let off = Site::with(|options| options.public_page = PublicPage::Off);
    for route in table().into_iter().filter(|route| route.door == Door::Anyone) {
        let path = path_of(route.path);
        let (in_summary, when_off) = match route.shown {
            Shown::Always => (true, true),
            Shown::Summary => (true, false),
            Shown::Full => (false, false),
        };
        for (site, expected) in [(&summary, in_summary), (&off, when_off)] {
            let got = shown(site, vec![host], &path).await;
            assert_eq!(got.status != 401, expected, "{path}: {}", got.status);
        }
    }
    for (path, expected) in [(log.as_str(), 200), ("/api/v2/jobs", 200), ("/metrics", 200)] {
        assert_eq!(shown(&off, vec![host, reader], path).await.status, expected, "{path}");
    }
    assert_eq!(shown(&off, vec![host, ("X-Admin-Key", "token-of-drone-1")], "/api/v2/jobs").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_told_apart_by_the_index_and_catch_up_when_asked() {
    let site = Site::new(Rules::default());
    let (host, public) = (("Host", "127.0.0.1"), site.handle.address());
    let first = ask(public, "GET", "/api/v2/jobs", &[host], "").await;
    let tag = first.head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag").replace("w/", "W/");
    assert!(tag.contains("-41\""), "{tag}");
    let again = ask(public, "GET", "/api/v2/jobs", &[host, ("If-None-Match", &tag)], "").await;
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    assert_eq!(site.done().len(), 1, "the second was not even put together: {:?}", site.done());
    let moved = ask(public, "GET", "/api/v2/jobs", &[host, ("If-None-Match", "W/\"0-1-40\"")], "").await;
    assert_eq!(moved.status, 200);
    let status = ask(public, "GET", "/api/v2/status", &[host], "").await;
    assert!(!status.head.contains("etag"), "what changes without the log has no tag");
    assert_eq!(ask(public, "GET", "/api/v2/status?consistent=true", &[host], "").await.status, 200);
    site.node.quorum.store(false, Ordering::Relaxed);
    let alone = ask(public, "GET", "/api/v2/jobs?consistent=true", &[host], "").await;
    assert!(alone.status == 503 && alone.body.contains("\"no_quorum\""), "{}", alone.body);
    assert_eq!(ask(public, "GET", "/api/v2/jobs", &[host], "").await.status, 200, "as old as it says");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_proxy_speaks_for_others_under_its_path() {
    let site = Site::with(|options| {
        options.base_path = "/farm".to_owned();
        options.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
    });
    let proxied = [("Host", "127.0.0.1"), ("X-Forwarded-For", "192.0.2.7"), ("X-Forwarded-Proto", "https")];
    let body = format!(r#"{{"key":"{KEY}"}}"#);
    let signed = ask(site.admin(), "POST", "/farm/api/v2/session", &proxied, &body).await;
    let cookie = signed.head.lines().find(|line| line.starts_with("set-cookie: ")).expect("a cookie");
    assert!(cookie.ends_with("; secure") && cookie.contains("; path=/farm;"), "{cookie}");
    let notes = site.node.notes.lock().expect("not poisoned").clone();
    assert_eq!(notes.last().map(|(note, _)| note.from.as_str()), Some("192.0.2.7"));

    // Each page names the addresses below which it was asked for, and what it names is there.
    for page in ["/farm/overview", "/farm/plain"] {
        let page = ask(site.handle.address(), "GET", page, &proxied, "").await;
        let named = ["href=\"", "src=\""].into_iter().flat_map(|word| page.body.split(word).skip(1));
        let named: Vec<&str> = named.filter_map(|rest| rest.split('"').next()).collect();
        assert!(named.len() > 2 && named.iter().all(|address| address.starts_with("/farm/")), "{named:?}");
        for address in named {
            assert_eq!(ask(site.handle.address(), "GET", address, &proxied, "").await.status, 200, "{address}");
        }
    }
    let shell = ask(site.handle.address(), "GET", "/farm/overview", &proxied, "").await;
    assert!(shell.body.contains("data-base=\"/farm\""), "{}", shell.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_what_its_scope_names_and_the_refusal_names_what_is_missing() {
    let site = Site::new(Rules::default());
    let pause = r#"{"action":"pause"}"#;
    let cancel = format!("/api/v2/jobs/{JOB}/cancel");
    let with = |key: &'static str| [("Host", "127.0.0.1"), ("X-Admin-Key", key)];
    let control = ask(site.admin(), "POST", "/api/v2/control", &with(KEY), pause).await;
    assert_eq!(control.status, 200, "{}", control.body);
    let bearer =
        [("Host", "build1:8093"), ("Origin", "http://build1:8093"), ("Authorization", "Bearer token-that-queues")];
    assert_eq!(ask(site.admin(), "POST", &cancel, &bearer, "{}").await.status, 200, "from this node's own page");
    let beyond = ask(site.admin(), "POST", "/api/v2/control", &with("token-that-queues"), pause).await;
    assert_eq!(beyond.status, 403);
    assert!(beyond.body.contains("this needs the scope admin; token ci has queue"), "{}", beyond.body);
    let reader = ask(site.admin(), "POST", &cancel, &with("token-that-reads"), "{}").await;
    assert!(reader.status == 403 && reader.body.contains("the scope queue"), "{}", reader.body);
    let local = ask(site.admin(), "POST", "/api/v2/access/key", &with(KEY), r#"{"action":"rotate"}"#).await;
    assert_eq!(local.status, 403, "whoever stole the key must not make it his own: {}", local.body);
    let public = ask(site.handle.address(), "POST", "/api/v2/control", &with(KEY), pause).await;
    assert_eq!(public.status, 403, "the public port takes nothing, even with the key");
    let done = site.done();
    assert_eq!(done.len(), 2, "{done:?}");
    assert!(done[0].contains("the admin key from 127.0.0.1"), "{done:?}");
    assert!(done[1].contains("token ci from 127.0.0.1"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_good_key_learns_nothing_about_why() {
    let site = Site::new(Rules::default());
    let host = ("Host", "127.0.0.1");
    let long = "x".repeat(KEY_MAX + 1);
    let tries: [&[(&str, &str)]; 8] = [
        &[host],
        &[host, ("X-Admin-Key", "")],
        &[host, ("X-Admin-Key", "wrong")],
        &[host, ("X-Admin-Key", "the-admin-key-of-the-fakE")],
        &[host, ("X-Admin-Key", KEY), ("X-Admin-Key", KEY)],
        &[host, ("X-Admin-Key", KEY), ("Authorization", "Bearer wrong")],
        &[host, ("Authorization", "Basic dGhlOmtleQ==")],
        &[host, ("X-Admin-Key", &long)],
    ];
    let mut answers = Vec::new();
    for headers in tries {
        answers.push(ask(site.admin(), "POST", "/api/v2/control", headers, "{}").await);
    }
    for wrong in ["a", "b", "c", "d"] {
        answers.push(ask(site.admin(), "POST", "/api/v2/control", &[host, ("X-Admin-Key", wrong)], "{}").await);
    }
    let held_up = ask(site.admin(), "POST", "/api/v2/control", &[host, ("X-Admin-Key", KEY)], "{}").await;
    answers.push(held_up);
    let without_date = |got: &Got| {
        let lines: Vec<&str> = got.head.lines().filter(|line| !line.starts_with("date:")).collect();
        lines.join("\n")
    };
    for got in &answers {
        assert_eq!((got.status, &got.body), (401, &answers[0].body));
        assert_eq!(without_date(got), without_date(&answers[0]));
    }
    assert!(answers[0].head.contains("www-authenticate: bearer"), "{}", answers[0].head);
    assert_eq!(site.done(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_guesses_a_handful_is_compared() {
    let site = Site::new(Rules::default());
    let to = site.admin();
    let answers = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(to).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("sets");
        let mut statuses = Vec::new();
        for guess in 0..1_000 {
            let head = format!("POST /api/v2/control HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Admin-Key: guess-{guess}\r\n");
            stream.write_all(format!("{head}Content-Length: 0\r\n\r\n").as_bytes()).expect("writes");
            let mut answer = Vec::new();
            let mut piece = [0; 4_096];
            while !answer.ends_with(b"}\n") {
                let length = stream.read(&mut piece).expect("reads");
                assert!(length > 0, "closed after {guess}");
                answer.extend_from_slice(&piece[..length]);
            }
            statuses.push(answer.starts_with(b"HTTP/1.1 401 "));
        }
        statuses
    });
    assert!(answers.await.expect("the client does not panic").into_iter().all(|refused| refused));
    let compared = site.node.compared.load(Ordering::Relaxed);
    assert!(compared <= 10, "{compared} were compared");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_listed_origins_read_and_no_others() {
    let listed = "https://dash.example";
    let site = Site::new(Rules { cors_origins: vec![listed.to_owned()], ..Rules::default() });
    let host = ("Host", "127.0.0.1");
    let allowed = format!("access-control-allow-origin: {listed}");
    let got = ask(site.handle.address(), "GET", "/api/v2/status", &[host, ("Origin", listed)], "").await;
    assert!(got.status == 200 && got.head.contains(&allowed) && got.head.contains("vary: origin"), "{}", got.head);
    for origin in ["https://dash.example.evil", "http://dash.example", "null"] {
        let got = ask(site.handle.address(), "GET", "/api/v2/status", &[host, ("Origin", origin)], "").await;
        assert!(!got.head.contains("access-control"), "{origin}: {}", got.head);
    }
    let write = [host, ("Origin", listed), ("X-Admin-Key", KEY)];
    let got = ask(site.admin(), "POST", "/api/v2/control", &write, "{}").await;
    assert!(got.status == 403 && !got.head.contains("access-control"), "reading is all: {}", got.head);
    let preflight = [host, ("Origin", listed), ("Access-Control-Request-Method", "POST")];
    let got = ask(site.admin(), "OPTIONS", "/api/v2/control", &preflight, "").await;
    assert!(got.status != 200 && !got.head.contains("access-control-allow-methods"), "{}", got.head);
}

fn context(rules: Rules) -> Context {
    let options = Options { rules, host_names: vec!["build1".to_owned()], ..Options::default() };
    Context::new(Arc::new(FakeNode::new()), &options, serve::Meter::new(options.caps))
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().expect("header"));
    }
    headers
}

fn v4(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 1, 0, last))
}

#[tokio::test]
async fn drones_of_the_swarm_come_in_by_key_by_network_or_not_at_all() {
    let host = ("host", "10.1.0.1:8100");
    let (nothing, key) = (headers(&[host]), headers(&[host, ("x-admin-key", KEY)]));
    let token = headers(&[host, ("x-admin-key", "token-of-drone-1")]);
    let reader = headers(&[host, ("x-admin-key", "token-that-reads")]);
    let door = |rules: &Rules, from, headers: &HeaderMap, drone| {
        let entered = legacy_door(&context(rules.clone()), from, headers, drone);
        entered.map(|caller| caller.name).map_err(|problem| problem.into_response().status().as_u16())
    };

    let keyed = Rules::default();
    assert_eq!(keyed.legacy_drones, LegacyDrones::Key, "nothing else unless somebody says so");
    assert_eq!(door(&keyed, v4(2), &nothing, Some("drone-1")), Err(401));
    assert_eq!(door(&keyed, v4(2), &key, Some("drone-9")), Ok("the admin key from 10.1.0.2".to_owned()));
    assert_eq!(door(&keyed, v4(2), &token, Some("drone-1")), Ok("token d1 from 10.1.0.2".to_owned()));
    assert_eq!(door(&keyed, v4(2), &token, Some("drone-2")), Err(403), "not for another drone");
    assert_eq!(door(&keyed, v4(2), &reader, Some("drone-1")), Err(403));

    let network = "10.1.0.0/16".parse().expect("network");
    let open = Rules { legacy_drones: LegacyDrones::Open, legacy_networks: vec![network], ..Rules::default() };
    assert_eq!(door(&open, v4(2), &nothing, Some("drone-1")), Ok("a drone from 10.1.0.2".to_owned()));
    let outside = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 1));
    assert_eq!(door(&open, outside, &nothing, Some("drone-1")), Err(401));
    assert_eq!(door(&open, outside, &token, Some("drone-1")), Ok("token d1 from 10.2.0.1".to_owned()));
    for (what, foreign, status) in [
        ("a page's own name", headers(&[("host", "evil.example:8100")]), 421),
        ("a page of another site", headers(&[host, ("origin", "http://evil.example")]), 403),
        ("a link on another site", headers(&[host, ("sec-fetch-site", "cross-site")]), 403),
    ] {
        assert_eq!(door(&open, v4(2), &foreign, Some("drone-1")), Err(status), "{what} in a browser of that network");
    }

    let off = Rules { legacy_drones: LegacyDrones::Off, ..open };
    assert_eq!(door(&off, v4(2), &key, Some("drone-1")), Err(404));
}

#[tokio::test]
async fn old_clients_name_the_key_in_the_query_of_the_admin_api_alone() {
    async fn status(admin: bool, path: &str) -> u16 {
        let context = context(Rules::default());
        let keyed = from_fn_with_state((context.clone(), Scope::Admin, admin), super::keyed);
        let done = || get(|| async { "done" }).layer(keyed.clone());
        let router: Router = Router::new().route("/admin/api/config", done()).route("/api/v2/control", done());
        let mut request =
            Request::builder().uri(path).header("host", "127.0.0.1").body(axum::body::Body::empty()).expect("request");
        request.extensions_mut().insert(Remote(v4(9)));
        TowerToHyperService::new(router).call(request).await.expect("infallible").status().as_u16()
    }
    assert_eq!(status(true, &format!("/admin/api/config?a=b&key={KEY}")).await, 200);
    assert_eq!(status(true, "/admin/api/config?key=wrong").await, 401);
    assert_eq!(status(true, "/admin/api/config?key=").await, 401);
    assert_eq!(status(true, &format!("/api/v2/control?key={KEY}")).await, 401);
    assert_eq!(status(false, &format!("/admin/api/config?key={KEY}")).await, 401, "not at the public port");
}

#[test]
fn a_source_that_fails_is_held_up_longer_each_time_and_forgiven_by_a_good_key() {
    let mut tries = Tries::default();
    for failure in 0..TRIES_MAX {
        assert!(tries.may_try(v4(1), 0), "{failure}");
        tries.failed(v4(1), 0);
    }
    assert!(!tries.may_try(v4(1), HELD_MS - 1));
    assert!(tries.may_try(v4(2), 0), "others are not held up with it");
    assert!(tries.may_try(v4(1), HELD_MS));
    tries.failed(v4(1), HELD_MS);
    assert!(!tries.may_try(v4(1), HELD_MS + 2 * HELD_MS - 1));
    assert!(tries.may_try(v4(1), HELD_MS + 2 * HELD_MS));
    for _ in 0..100 {
        tries.failed(v4(1), 0);
    }
    assert!(tries.may_try(v4(1), HELD_MAX_MS), "an hour at most");
    tries.succeeded(v4(1), HELD_MAX_MS);
    tries.failed(v4(1), HELD_MAX_MS);
    assert!(tries.may_try(v4(1), HELD_MAX_MS), "a good key clears what was before");
}

#[test]
fn many_sources_are_held_up_together_but_for_those_that_had_a_good_key() {
    let mut tries = Tries::default();
    tries.succeeded(v4(200), 0);
    for last in 0..u8::try_from(TRIES_OF_ALL_MAX).expect("fits") {
        tries.failed(v4(last), 1_000);
    }
    assert!(!tries.may_try(v4(100), 1_000));
    assert!(tries.may_try(v4(200), 1_000) && tries.may_try(IpAddr::V4(Ipv4Addr::LOCALHOST), 1_000));
    assert!(tries.may_try(v4(100), 1_000 + WINDOW_MS));
}

#[test]
fn what_is_remembered_of_sources_is_bounded_and_an_ipv6_network_is_one() {
    let mut tries = Tries::default();
    for number in 0..u32::try_from(2 * SOURCES_MAX).expect("fits") {
        tries.failed(IpAddr::V4(Ipv4Addr::from_bits(number)), u64::from(number));
    }
    assert_eq!((tries.sources.len(), tries.failures.len()), (SOURCES_MAX, TRIES_OF_ALL_MAX));
    let mut tries = Tries::default();
    for host in 0..TRIES_MAX {
        tries.failed(format!("2001:db8:1:2::{host:x}").parse().expect("address"), 0);
    }
    assert!(!tries.may_try("2001:db8:1:2:ffff::1".parse().expect("address"), 1));
    assert!(tries.may_try("2001:db8:1:3::1".parse().expect("address"), 1));
}
