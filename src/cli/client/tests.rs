//! The client against real servers: good answers, errors, junk, silence, and agents that are not there.

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};

use super::*;

struct Served {
    _directory: tempfile::TempDir,
    client: Client,
}

fn serve(router: Router) -> Served {
    let directory = tempfile::tempdir().expect("temporary directory");
    let socket = directory.path().join("sock");
    let listener = UnixListener::bind(&socket).expect("binds");
    tasks::spawn("test-server", async move { axum::serve(listener, router).await });
    Served { client: Client::new(Target::Socket(socket)), _directory: directory }
}

fn envelope(value: serde_json::Value) -> String {
    json!({ "schema": 1, "ok": true, "data": value, "as_of": "2025-11-08T12:34:56.789Z" }).to_string()
}

#[tokio::test]
async fn answers_come_with_the_envelope_they_came_in() {
    let router = Router::new().route("/api/v2/x", get(|| async { envelope(json!({ "a": 1, "future": true })) })).route(
        "/api/v2/echo",
        post(|body: String| async move { envelope(serde_json::from_str(&body).expect("JSON")) }),
    );
    let served = serve(router);
    #[derive(serde::Deserialize)]
    struct Known {
        a: u32,
    }
    let answer = served.client.get::<Known>("/api/v2/x").await.expect("answers");
    assert_eq!(answer.data.a, 1);
    assert_eq!(answer.envelope["data"]["future"], true, "what a newer agent adds is not lost");
    assert_eq!(answer.envelope["as_of"], "2025-11-08T12:34:56.789Z");
    let answer = served.client.post::<serde_json::Value>("/api/v2/echo", &json!({ "b": "ü" })).await.expect("answers");
    assert_eq!(answer.data["b"], "ü");
}

#[tokio::test]
async fn errors_keep_their_kind_and_junk_is_told_apart_from_them() {
    let error = ApiError::new(ErrorCode::NoQuorum, "no majority", "wait");
    let text = serde_json::to_string(&Envelope::<()>::error(error.clone())).expect("JSON");
    let router = Router::new()
        .route("/error", get(|| async move { (StatusCode::SERVICE_UNAVAILABLE, text) }))
        .route("/html", get(|| async { "<html>not a hive</html>" }))
        .route("/wrong", get(|| async { envelope(json!("text")) }))
        .route("/long", get(|| async { Body::from(vec![b' '; ANSWER_MAX_LEN + 1]) }));
    let served = serve(router);
    let get = async |path: &'static str| served.client.get::<u32>(path).await.expect_err(path);
    assert_eq!(get("/error").await, error);
    assert!(get("/html").await.message.contains("not one of a hive agent"));
    assert!(get("/absent").await.message.contains("HTTP 404"));
    assert!(get("/wrong").await.message.contains("not understood"));
    assert!(get("/long").await.message.contains("broke off"));
    assert_eq!(served.client.stream("/error", true).await.err(), Some(error));
}

#[tokio::test]
async fn bytes_go_up_with_their_length_and_come_down_piece_by_piece() {
    let router = Router::new()
        .route(
            "/up",
            put(|headers: axum::http::HeaderMap, body: axum::body::Bytes| async move {
                let length = headers.get("content-length").and_then(|value| value.to_str().ok()).map(str::to_owned);
                envelope(json!({ "length": length, "received": body.len() }))
            }),
        )
        .route("/down", get(|| async { ([("x-hive-offset", "7")], "x".repeat(100_000)) }));
    let served = serve(router);
    let bytes = vec![9u8; 300_000];
    let answer =
        served.client.put::<serde_json::Value>("/up", std::io::Cursor::new(bytes), 300_000).await.expect("goes up");
    assert_eq!(answer.data, json!({ "length": "300000", "received": 300_000 }));
    let mut stream = served.client.stream("/down", false).await.expect("opens");
    assert_eq!(stream.number("x-hive-offset"), Some(7));
    let mut size = 0;
    while let Some(piece) = stream.next().await.expect("comes down") {
        size += piece.len();
    }
    assert_eq!(size, 100_000);
}

#[tokio::test]
async fn a_stream_that_breaks_is_not_mistaken_for_one_that_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("bound").port();
    tasks::spawn("test-server", async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        let mut request = [0u8; 1024];
        let _ = stream.read(&mut request).await;
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
        stream.write_all(head).await.expect("writes");
    });
    let client = Client::new(Target::from_url(&format!("http://127.0.0.1:{port}")).expect("good"));
    let mut stream = client.stream("/x", true).await.expect("opens");
    assert_eq!(stream.next().await.expect("a piece").as_deref(), Some(&b"hello"[..]));
    assert!(stream.next().await.is_err());
}

#[tokio::test]
async fn an_agent_that_is_not_there_comes_with_what_to_do_about_it() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let missing = Client::new(Target::Socket(directory.path().join("none")));
    let error = missing.get::<u32>("/").await.expect_err("missing");
    assert_eq!(error.code, ErrorCode::Unreachable);
    assert!(error.hint.contains("systemctl start hive"), "{error:?}");
    let left_over = directory.path().join("old");
    drop(UnixListener::bind(&left_over).expect("binds"));
    let error = Client::new(Target::Socket(left_over)).get::<u32>("/").await.expect_err("nobody");
    assert!(error.message.contains("nobody answers"), "{error:?}");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    let url = Client::new(Target::from_url(&format!("http://127.0.0.1:{port}/")).expect("good"));
    let error = url.get::<u32>("/").await.expect_err("nobody");
    assert!(error.code == ErrorCode::Unreachable && error.hint.contains("check host and port"), "{error:?}");
}

#[test]
fn a_socket_that_may_not_be_opened_is_not_allowed_rather_than_missing() {
    // Root opens everything, so the kernel's answer is handed in.
    let error = socket_error(Path::new("/run/hive/hive.sock"), &io::ErrorKind::PermissionDenied.into());
    assert_eq!((error.code, error.code.exit_code()), (ErrorCode::Forbidden, 4));
    assert!(error.hint.contains("hive-admin"));
}

#[test]
fn urls_are_read_strictly() {
    let at = |tls, host: &str, port, prefix: &str| {
        Ok(Target::Http { tls, host: host.to_owned(), port, prefix: prefix.to_owned() })
    };
    let http = |host: &str, port, prefix: &str| at(false, host, port, prefix);
    assert_eq!(Target::from_url("https://build1:8093/farm"), at(true, "build1", 8_093, "/farm"));
    assert_eq!(Target::from_url("https://build1").expect("good").to_string(), "https://build1:8100");
    assert_eq!(Target::from_url("http://build1"), http("build1", 8_100, ""));
    assert_eq!(Target::from_url("http://build1:9/"), http("build1", 9, ""));
    assert_eq!(Target::from_url("http://[fd00::1]:9/hive/"), http("fd00::1", 9, "/hive"));
    assert_eq!(Target::from_url("http://[fd00::1]:9").expect("good").to_string(), "http://[fd00::1]:9");
    for bad in
        ["build1", "HTTPS://build1", "http://", "http://a@b", "http://a b", "http://a/?x", "ftp://a", "http://:80"]
    {
        assert_eq!(Target::from_url(bad).expect_err(bad).code, ErrorCode::Invalid, "{bad}");
    }
}

#[test]
fn segments_cannot_leave_their_place_in_a_path() {
    assert_eq!(segment("hello_1.0_amd64.deb"), "hello_1.0_amd64.deb");
    assert_eq!(segment("../a b?c#d%/ü"), "..%2Fa%20b%3Fc%23d%25%2F%C3%BC");
    assert_eq!(segment(".."), "%2E%2E");
}
