//! Terminals over a real listener: who gets one, and who does not.

use std::path::Path as FilePath;

use futures::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message as Word};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::*;
use crate::web::fake::FakeNode;
use crate::web::{Handle, Options, bind};

/// What the fake takes for the admin key.
const ADMIN_KEY: &str = "the-admin-key-of-the-fake";

struct Site {
    handle: Handle,
    node: Arc<FakeNode>,
    _directory: tempfile::TempDir,
}

fn options(directory: &FilePath) -> Options {
    let any = "127.0.0.1:0".parse().expect("address");
    Options { http: any, admin: Some(any), socket: directory.join("hive.sock"), ..Options::default() }
}

fn site() -> Site {
    let directory = tempfile::tempdir().expect("temporary directory");
    let node = Arc::new(FakeNode::new());
    let handle = bind(options(directory.path())).expect("binds").serve(node.clone());
    Site { handle, node, _directory: directory }
}

impl Site {
    fn admin(&self) -> String {
        self.handle.admin_address().expect("has one").to_string()
    }

    /// Asks the admin port with the key.
    async fn post(&self, path: &str, origin: Option<&str>) -> (u16, Value) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let host = self.admin();
        let origin = origin.map_or_else(String::new, |origin| format!("Origin: {origin}\r\n"));
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nX-Admin-Key: {ADMIN_KEY}\r\n{origin}Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let mut stream = TcpStream::connect(&host).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    async fn ticket(&self, node: &str) -> String {
        let origin = format!("http://{}", self.admin());
        let (status, answer) = self.post(&format!("/api/v2/nodes/{node}/terminal"), Some(&origin)).await;
        assert_eq!((status, &answer["data"]["path"]), (200, &json!(format!("/ws/ssh/{node}"))), "{answer}");
        answer["data"]["ticket"].as_str().expect("a ticket").to_owned()
    }

    async fn open(&self, path: &str, origin: Option<&str>) -> Result<WebSocketStream<TcpStream>, Error> {
        let host = self.admin();
        let mut request = format!("ws://{host}{path}").into_client_request()?;
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().expect("header"));
        }
        let stream = TcpStream::connect(&host).await?;
        client_async(request, stream).await.map(|(socket, _)| socket)
    }

    /// A socket of the node's own page.
    async fn own(&self, node: &str) -> WebSocketStream<TcpStream> {
        let origin = format!("http://{}", self.admin());
        self.open(&format!("/ws/ssh/{node}"), Some(&origin)).await.expect("opens")
    }

    fn terminals(&self) -> Vec<String> {
        self.node.acts().into_iter().filter(|act| act.starts_with("terminal on")).collect()
    }
}

async fn say(socket: &mut WebSocketStream<TcpStream>, value: Value) {
    socket.send(Word::Text(value.to_string().into())).await.expect("sent");
}

/// The next message as JSON; the close code when it is one.
async fn hear(socket: &mut WebSocketStream<TcpStream>) -> Value {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(10), socket.next()).await.expect("in time");
        match next {
            Some(Ok(Word::Text(text))) => return serde_json::from_str(&text).expect("JSON"),
            Some(Ok(Word::Close(Some(frame)))) => return json!({ "closed": u16::from(frame.code) }),
            Some(Ok(Word::Ping(_) | Word::Pong(_))) => {}
            other => return json!({ "over": format!("{other:?}") }),
        }
    }
}

fn status(result: Result<WebSocketStream<TcpStream>, Error>) -> u16 {
    match result {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("{:?}", other.map(|_| "opened")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_one_terminal_once() {
    let site = site();
    let ticket = site.ticket("build2").await;
    let mut socket = site.own("build2").await;
    say(&mut socket, json!({ "type": "ticket", "ticket": ticket, "columns": 100, "rows": 30 })).await;
    assert_eq!(hear(&mut socket).await, json!({ "type": "connected", "data": "build2" }));
    say(&mut socket, json!({ "type": "input", "data": "hällo" })).await;
    assert_eq!(hear(&mut socket).await, json!({ "type": "output", "data": "hällo" }));
    say(&mut socket, json!({ "type": "resize", "cols": 120, "rows": 40 })).await;
    assert_eq!(hear(&mut socket).await, json!({ "type": "output", "data": "120x40" }));
    let mut again = site.own("build2").await;
    say(&mut again, json!({ "type": "ticket", "ticket": ticket })).await;
    let refused = hear(&mut again).await;
    assert_eq!((&refused["type"], &refused["error"]["code"]), (&json!("error"), &json!("unauthorized")), "{refused}");
    assert_eq!(hear(&mut again).await, json!({ "closed": 1_008 }));
    say(&mut socket, json!({ "type": "input", "data": "q" })).await;
    assert_eq!(hear(&mut socket).await["type"], "ended");
    assert_eq!(hear(&mut socket).await, json!({ "closed": 1_000 }));
    let opened = site.terminals();
    assert!(opened.len() == 1 && opened[0].ends_with("(100, 30)"), "{opened:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_with_one_ticket_one_wins() {
    let site = Arc::new(site());
    let ticket = site.ticket("build2").await;
    let mut winners = 0;
    // No more at once than this node takes.
    for _ in 0..5 {
        let racers = (0..10).map(|_| {
            let (site, ticket) = (Arc::clone(&site), ticket.clone());
            async move {
                let mut socket = site.own("build2").await;
                say(&mut socket, json!({ "type": "ticket", "ticket": ticket })).await;
                hear(&mut socket).await["type"] == "connected"
            }
        });
        winners += futures::future::join_all(racers).await.into_iter().filter(|won| *won).count();
    }
    assert_eq!((winners, site.terminals().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_from_elsewhere_gets_no_socket() {
    let site = site();
    let ticket = site.ticket("build2").await;
    let path = "/ws/ssh/build2";
    let own = format!("http://{}", site.admin());
    assert_eq!(status(site.open(path, None).await), 403, "no Origin");
    for foreign in ["http://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1.evil.example"] {
        assert_eq!(status(site.open(path, Some(foreign)).await), 403, "{foreign}");
    }
    assert_eq!(status(site.open(&format!("{path}?ticket={ticket}"), Some(&own)).await), 400, "in the address");
    for first in
        [json!({ "type": "input", "data": "id\n" }), json!({ "type": "ticket", "ticket": "guess" }), json!("x")]
    {
        let mut socket = site.own("build2").await;
        say(&mut socket, first).await;
        assert_eq!(hear(&mut socket).await["error"]["code"], "unauthorized");
    }
    let mut other = site.own("build3").await;
    say(&mut other, json!({ "type": "ticket", "ticket": ticket })).await;
    assert_eq!(hear(&mut other).await["error"]["code"], "unauthorized", "a ticket for another node");
    let (code, refused) = site.post("/api/v2/nodes/closed/terminal", None).await;
    assert_eq!((code, &refused["error"]["hint"]), (403, &json!("terminal.enabled")), "{refused}");
    let public = site.handle.address().to_string();
    let mut request = format!("ws://{public}{path}").into_client_request().expect("request");
    request.headers_mut().insert("origin", format!("http://{public}").parse().expect("header"));
    let stream = TcpStream::connect(&public).await.expect("connects");
    assert_eq!(status(client_async(request, stream).await.map(|(socket, _)| socket)), 403, "not at the public port");
    assert!(site.terminals().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_or_no_text_ends_the_terminal() {
    let site = site();
    for bad in
        [Word::Text("x".repeat(MESSAGE_MAX + 1).into()), Word::Binary(vec![0; 10].into()), Word::Text("{}".into())]
    {
        let ticket = site.ticket("build2").await;
        let mut socket = site.own("build2").await;
        say(&mut socket, json!({ "type": "ticket", "ticket": ticket })).await;
        assert_eq!(hear(&mut socket).await["type"], "connected");
        let _ = socket.send(bad).await;
        let end = hear(&mut socket).await;
        assert!(end.get("over").is_some() || end.get("closed").is_some(), "{end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_ends_with_the_key_that_opened_it() {
    let site = site();
    let ticket = site.ticket("build2").await;
    let mut socket = site.own("build2").await;
    say(&mut socket, json!({ "type": "ticket", "ticket": ticket })).await;
    assert_eq!(hear(&mut socket).await["type"], "connected");
    say(&mut socket, json!({ "type": "input", "data": "still there" })).await;
    assert_eq!(hear(&mut socket).await, json!({ "type": "output", "data": "still there" }));
    site.node.rotated.store(true, std::sync::atomic::Ordering::Relaxed);
    let ended = hear(&mut socket).await;
    assert!(ended["data"].as_str().is_some_and(|why| why.contains("opens nothing any more")), "{ended}");
    assert_eq!(hear(&mut socket).await, json!({ "closed": 1_008 }));
}

#[test]
fn tickets_are_bound_bounded_and_go_out_of_date() {
    let terminals = Terminals::default();
    let from: IpAddr = "10.0.0.9".parse().expect("address");
    let origin = "http://10.0.0.1:8093";
    let ticket = |until_ms| Ticket {
        node: "build2".to_owned(),
        by: "the admin key".to_owned(),
        from,
        origin: Some(origin.to_owned()),
        credential: Credential::Local,
        until_ms,
    };
    let fresh = || terminals.issue(ticket(now_ms() + TICKET_MS)).expect("room");
    let name = fresh();
    assert_eq!(name.len(), 32, "128 bit");
    assert!(
        terminals.redeem(&name, "build2", "10.0.0.8".parse().expect("address"), origin).is_none(),
        "another address"
    );
    assert!(terminals.redeem(&name, "build2", from, origin).is_none(), "and it is used up by that");
    assert!(terminals.redeem(&fresh(), "build2", from, "http://10.0.0.1:80").is_none(), "another origin");
    assert!(terminals.redeem(&fresh(), "build2", from, origin).is_some());
    let stale = terminals.issue(ticket(now_ms())).expect("room");
    assert!(terminals.redeem(&stale, "build2", from, origin).is_none(), "out of date");
    while terminals.issue(ticket(now_ms() + TICKET_MS)).is_some() {}
    assert!(terminals.tickets.lock().expect("not poisoned").len() <= TICKETS_MAX);
}
