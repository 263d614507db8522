//! Bytes of strangers on a connection to the public and the admin port: answered as HTTP or not at all, and nothing is ever done.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use super::fake::{FakeNode, JOB};
use super::guard::Rules;
use super::{Handle, Options, bind};
use crate::fuzzing::{SMALL, attack};

/// How acts begin that nobody may do without a key; what anyone may read is told by the node as well.
const CHANGES: [&str; 17] = [
    "reset",
    "claim",
    "submit",
    "stored",
    "cancel",
    "join",
    "control",
    "pause",
    "resume",
    "import",
    "admin key",
    "token",
    "sql",
    "exec",
    "terminal",
    "recover",
    "sessions ended",
];

/// More of an answer is not read.
const ANSWER_MAX: u64 = 1 << 20;

struct Site {
    handle: Handle,
    node: Arc<FakeNode>,
    _runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
}

fn site() -> Site {
    let directory = tempfile::tempdir().expect("temporary directory");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    let options = Options {
        http: "127.0.0.1:0".parse().expect("address"),
        admin: Some("127.0.0.1:0".parse().expect("address")),
        rules: Rules::default(),
        socket: directory.path().join("hive.sock"),
        header_timeout: Duration::from_millis(300),
        stall_timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let node = Arc::new(FakeNode::new());
    let handle = runtime.block_on(async { bind(options).expect("binds").serve(node.clone()) });
    Site { handle, node, _runtime: runtime, _directory: directory }
}

fn exchange(to: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("sets");
    // Who is refused unread may find the connection closed.
    let _ = stream.write_all(request);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let read = stream.take(ANSWER_MAX).read_to_end(&mut answer);
    let waited = read.is_err_and(|error| matches!(error.kind(), std::io::ErrorKind::WouldBlock));
    assert!(!waited, "the connection is still open after 5 s: {:?}", String::from_utf8_lossy(request));
    answer
}

fn requests() -> Vec<Vec<u8>> {
    let get =
        |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}Connection: close\r\n\r\n");
    let post = |path: &str, more: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let job = JOB.to_string();
    [
        get("/", ""),
        get("/api/v1/status", "Accept-Encoding: gzip\r\n"),
        get("/api/v2/status?consistent=true", "If-None-Match: W/\"5-7\", \"x\"\r\n"),
        get("/api/v2/queue?limit=5&after=aGVsbG8&state=needed&search=a%2Fb", ""),
        get("/api/v2/events?topics=status,events,log:11111111-2222-4333-8444-555555555555:1&since=5&log_tail=9", "Last-Event-ID: 17\r\n"),
        get(&format!("/api/v2/jobs/{job}"), "X-Admin-Key: wrong\r\nX-Forwarded-For: 1.2.3.4\r\n"),
        get(&format!("/api/v2/jobs/{job}/artifacts/a?offset=1"), "Range: bytes=0-5\r\n"),
        get("/api/v2/wire?filter=kind%20%3D%3D%20%22PING%22&limit=3&before=18446744073709551615", ""),
        get("/ws/ssh/a?ticket=x", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\nOrigin: http://evil\r\n"),
        get("/metrics", "Cookie: hive_session=v1.5.6.x.admin.00\r\n"),
        post("/api/v2/jobs", "Content-Type: application/json\r\nX-Admin-Key: wrong\r\n", r#"{"session":"11111111-2222-4333-8444-555555555555","jobs":[]}"#),
        post("/api/v1/queue", "Content-Type: application/json\r\n", r#"{"packages":["dev-libs/foo-1"]}"#),
        post("/api/v2/sql", "Content-Type: application/json\r\nAuthorization: Bearer x\r\nIdempotency-Key: a\r\n", r#"{"sql":"SELECT 1"}"#),
        "POST /api/v1/control HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n0\r\n\r\n".to_owned(),
        "OPTIONS /api/v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil\r\nAccess-Control-Request-Method: POST\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ]
    .map(String::into_bytes)
    .into()
}

/// Without a key nothing happens, whatever is sent, and no request is the server's own mistake.
#[test]
fn http() {
    let site = AssertUnwindSafe(site());
    let ports = [site.handle.address(), site.handle.admin_address().expect("has one")];
    attack("http", requests(), 8 * SMALL, move |bytes| {
        let mut taken = false;
        for port in ports {
            let answer = exchange(port, bytes);
            if answer.is_empty() {
                continue;
            }
            let text = String::from_utf8_lossy(&answer);
            let code = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
            let code = code.unwrap_or_else(|| panic!("no HTTP: {text:.80}"));
            assert!(code < 500 || matches!(code, 501 | 503), "{code} to {:?}", String::from_utf8_lossy(bytes));
            assert_ne!(code, 101, "no terminal without a ticket");
            taken |= code == 200;
        }
        let done: Vec<String> =
            site.node.acts().into_iter().filter(|act| CHANGES.iter().any(|word| act.starts_with(word))).collect();
        assert!(done.is_empty(), "{done:?} by {:?}", String::from_utf8_lossy(bytes));
        taken
    });
}
