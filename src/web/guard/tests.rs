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
use crate::web::fake::{FakeNode, JOB};
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
        let directory = tempfile::tempdir().expect("temporary directory");
        let options = Options {
            http: "127.0.0.1:0".parse().expect("address"),
            admin: Some("127.0.0.1:0".parse().expect("address")),
            rules,
            host_names: vec!["build1".to_owned()],
            socket: directory.path().join("hive.sock"),
            header_timeout: Duration::from_secs(2),
            ..Options::default()
        };
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
        let public = ask(site.handle.address(), method, &path, &[host], BODY).await;
        let admin = ask(site.admin(), method, &path, &[host], BODY).await;
        match route.door {
            Door::Anyone => {}
            Door::Secret => assert_eq!((public.status, admin.status), (403, 403), "{path}"),
            Door::Key(_) => assert_eq!((public.status, admin.status), (403, 401), "{method} {path}"),
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
