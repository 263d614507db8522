//! A connection to an agent's local socket. Starting `hive status` would take longer than what is measured here.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hive::engine::id::{JobId, SessionId};
use hive::engine::job::{JobSpec, Work};
use serde_json::{Value, json};

use crate::harness::Host;

/// Longer than any write may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Longer than any import may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where a host's socket lies as seen from outside of its mounts.
pub fn socket_of(host: &Host) -> PathBuf {
    host.state().with_file_name("run").join("hive.sock")
}

/// One connection, kept alive.
pub struct Client<S = UnixStream> {
    stream: BufReader<S>,
}

impl Client {
    pub fn connect(socket: &Path) -> Option<Self> {
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(TIMEOUT)).ok()?;
        Some(Self { stream: BufReader::new(stream) })
    }

    /// Sends these bytes.
    pub fn send(&mut self, path: &str, kind: &str, body: &[u8]) -> Option<(u16, Value)> {
        // However long it takes: that is what is measured.
        self.stream.get_ref().set_read_timeout(Some(PATIENCE)).ok()?;
        self.exchange("POST", path, kind, body)
    }

    pub fn get(&mut self, path: &str) -> Option<Value> {
        let (code, mut body) = self.ask("GET", path, None)?;
        (code == 200).then(|| body["data"].take())
    }

    /// Queues jobs; whether they were acknowledged.
    pub fn submit(&mut self, jobs: &[JobSpec]) -> bool {
        let body = json!({ "session": SessionId(uuid::Uuid::new_v4()), "jobs": jobs });
        self.ask("POST", "/api/v2/jobs", Some(&body)).is_some_and(|(code, _)| code == 200)
    }
}

impl Client<TcpStream> {
    /// To a node's public port.
    pub fn connect_tcp(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT).ok()?;
        stream.set_read_timeout(Some(TIMEOUT)).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self { stream: BufReader::new(stream) })
    }
}

impl<S: Read + Write> Client<S> {
    /// Status code and body. None when the connection broke.
    pub fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.exchange(method, path, "application/json", body.as_bytes())
    }

    fn exchange(&mut self, method: &str, path: &str, kind: &str, body: &[u8]) -> Option<(u16, Value)> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let stream = self.stream.get_mut();
        stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
        let mut line = String::new();
        self.stream.read_line(&mut line).ok()?;
        let code = line.split(' ').nth(1)?.parse().ok()?;
        let mut length = None;
        loop {
            line.clear();
            self.stream.read_line(&mut line).ok()?;
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().ok();
            }
        }
        let mut bytes = vec![0; length?];
        self.stream.read_exact(&mut bytes).ok()?;
        Some((code, serde_json::from_slice(&bytes).ok()?))
    }
}

/// One question on a connection of its own.
pub fn get(host: &Host, path: &str) -> Option<Value> {
    Client::connect(&socket_of(host))?.get(path)
}

pub fn status(host: &Host) -> Option<Value> {
    get(host, "/api/v2/status")
}

/// A job that does this.
pub fn job(work: Work) -> JobSpec {
    JobSpec { pure: true, ..JobSpec::new(JobId(uuid::Uuid::new_v4()), "measured", work) }
}
