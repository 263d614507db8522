//! The commands' side of the local API: HTTP/1 over the agent's Unix socket, or over TCP to `--url`.
//!
//! One connection per request: the socket is local and a command makes few. Every wait and every answer is bounded. A failure to
//! connect says what to do about it. Never done here: retries (whoever calls knows what may be repeated).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::io::ReaderStream;

use crate::api::{ApiError, ApiResult, Envelope, ErrorCode};
use crate::tasks;

/// Time to connect: the socket is local, a URL is on a local network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time until an answer; the agent gives up after 30 s and says why, which is worth waiting for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);
/// The same for each MiB that travels between nodes before there is an answer: to this node and on to two others.
const ANSWER_TIMEOUT_PER_MIB: Duration = Duration::from_secs(3);
/// How long a stream may take to send, with its answer.
const STREAM_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Longest silence within a download.
const DOWNLOAD_SILENCE: Duration = Duration::from_secs(60);
/// Longest JSON answer, bytes: ten thousand jobs with some room.
const ANSWER_MAX_LEN: usize = 32 << 20;

/// Where the agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Its Unix socket.
    Socket(PathBuf),
    /// `http://HOST:PORT/PREFIX` or `https://…`: reads, and with a key at the admin port whatever its scope opens.
    Http {
        /// Over TLS.
        tls: bool,
        /// Host name or address, without brackets.
        host: String,
        /// TCP port.
        port: u16,
        /// Path before `/api`, without a slash at its end.
        prefix: String,
    },
}

impl Target {
    /// Reads a URL.
    pub(crate) fn from_url(url: &str) -> ApiResult<Self> {
        let invalid = |message: &str| {
            let hint = "give it as http://HOST:PORT, for example http://build1:8100";
            Err(ApiError::new(ErrorCode::Invalid, format!("{url:?}: {message}"), hint))
        };
        let (tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return invalid("neither an http nor an https URL"),
        };
        let (authority, prefix) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
        let parsed: hyper::http::uri::Authority = match authority.parse() {
            Ok(parsed) => parsed,
            Err(_) => return invalid("the host cannot be read"),
        };
        if authority.contains('@') || prefix.contains(['?', '#']) {
            return invalid("only host, port and path are understood");
        }
        let host = parsed.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return invalid("the host is missing");
        }
        let prefix = prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        Ok(Self::Http { tls, host, port: parsed.port_u16().unwrap_or(8_100), prefix })
    }

    fn host_header(&self) -> String {
        match self {
            Self::Socket(_) => "localhost".to_owned(),
            Self::Http { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Http { host, port, .. } => format!("{host}:{port}"),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Http { tls, prefix, .. } => {
                write!(f, "http{}://{}{prefix}", if *tls { "s" } else { "" }, self.host_header())
            }
        }
    }
}

/// An answer, and the envelope it came in.
#[derive(Clone, Debug)]
pub(crate) struct Answer<T> {
    /// What was asked for.
    pub(crate) data: T,
    /// The envelope as it came, for `--json`: what a newer agent adds is not lost.
    pub(crate) envelope: serde_json::Value,
}

/// How long an answer may take that files of so many bytes travel for.
fn patience(bytes: u64) -> Duration {
    ANSWER_TIMEOUT + ANSWER_TIMEOUT_PER_MIB * u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// The agent, as commands see it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    target: Target,
    key: Option<header::HeaderValue>,
    authorities: Option<PathBuf>,
}

impl Client {
    /// Whether the agent is asked over its port, and so may be on another machine.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.target, Target::Http { .. })
    }

    /// A client of this agent. Nothing is connected yet.
    pub(crate) fn new(target: Target) -> Self {
        Self { target, key: None, authorities: None }
    }

    /// The same, believing no other authorities of certificates than those in this file (PEM); without one, those of the system.
    pub(crate) fn with_authorities(self, file: PathBuf) -> Self {
        Self { authorities: Some(file), ..self }
    }

    /// The same with the admin key or a token. It is sent over TCP alone, and there only with what changes something, or was refused
    /// without it.
    pub(crate) fn with_key(self, key: &str) -> ApiResult<Self> {
        let mut key = header::HeaderValue::from_str(key.trim()).map_err(|_| {
            ApiError::new(
                ErrorCode::Invalid,
                "the key holds what no header can carry",
                "it is one line of printable text",
            )
        })?;
        key.set_sensitive(true);
        Ok(Self { key: Some(key), ..self })
    }

    /// Asks for something.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> ApiResult<Answer<T>> {
        self.exchange(Method::GET, path, empty(), None, ANSWER_TIMEOUT).await
    }

    /// Asks for something to be done.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> ApiResult<Answer<T>> {
        self.post_with_files(path, body, 0).await
    }

    /// The same for something for which files of so many bytes may have to travel first.
    pub(crate) async fn post_with_files<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        file_bytes: u64,
    ) -> ApiResult<Answer<T>> {
        let bytes = serde_json::to_vec(body).map_err(|error| {
            ApiError::new(ErrorCode::Internal, format!("cannot write the request as JSON: {error}"), "")
        })?;
        let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync();
        self.exchange(Method::POST, path, body, None, patience(file_bytes)).await
    }

    /// Sends a file of known length.
    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        reader: impl AsyncRead + Send + 'static,
        length: u64,
    ) -> ApiResult<Answer<T>> {
        let stream = ReaderStream::with_capacity(reader, 64 << 10).map(|piece| piece.map(Frame::data));
        let body = StreamBody::new(stream).boxed_unsync();
        self.exchange(Method::PUT, path, body, Some(length), patience(length)).await
    }

    /// Sends bytes of which nobody knows how many they are.
    pub(crate) async fn post_stream<T: DeserializeOwned>(
        &self,
        path: &str,
        bytes: impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> ApiResult<Answer<T>> {
        let body = StreamBody::new(bytes.map(|piece| piece.map(Frame::data))).boxed_unsync();
        self.exchange(Method::POST, path, body, None, STREAM_TIMEOUT).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Body,
        length: Option<u64>,
        limit: Duration,
    ) -> ApiResult<Answer<T>> {
        let work = async {
            let response = self.send(method, path, body, length).await?;
            let status = response.status();
            let bytes = Limited::new(response.into_body(), ANSWER_MAX_LEN).collect().await.map_err(|error| {
                ApiError::new(ErrorCode::Unreachable, format!("the answer broke off: {error}"), "try again")
            })?;
            understand(status.as_u16(), &bytes.to_bytes())
        };
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(self.no_answer(limit)),
        }
    }

    /// Asks for bytes. `follow`: their end may be long in coming.
    pub(crate) async fn stream(&self, path: &str, follow: bool) -> ApiResult<Download> {
        self.begin(path, ANSWER_TIMEOUT, (!follow).then_some(DOWNLOAD_SILENCE)).await
    }

    /// Asks for a file, which the node may have to fetch from another one first.
    pub(crate) async fn file(&self, path: &str, size: u64) -> ApiResult<Download> {
        self.begin(path, patience(size), Some(DOWNLOAD_SILENCE)).await
    }

    /// Asks for something to be done whose answer is a stream, the end of which may be long in coming.
    pub(crate) async fn post_for_stream(&self, path: &str, body: &impl Serialize) -> ApiResult<Download> {
        let bytes = serde_json::to_vec(body).map_err(|error| {
            ApiError::new(ErrorCode::Internal, format!("cannot write the request as JSON: {error}"), "")
        })?;
        let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync();
        self.begin_with(Method::POST, path, body, ANSWER_TIMEOUT, None).await
    }

    /// Asks for a file that is made before the first byte of it comes.
    pub(crate) async fn made_file(&self, path: &str, limit: Duration) -> ApiResult<Download> {
        let body = Full::new(Bytes::from_static(b"{}")).map_err(|never| match never {}).boxed_unsync();
        self.begin_with(Method::POST, path, body, limit, Some(DOWNLOAD_SILENCE)).await
    }

    async fn begin(&self, path: &str, limit: Duration, silence: Option<Duration>) -> ApiResult<Download> {
        self.begin_with(Method::GET, path, empty(), limit, silence).await
    }

    async fn begin_with(
        &self,
        method: Method,
        path: &str,
        body: Body,
        limit: Duration,
        silence: Option<Duration>,
    ) -> ApiResult<Download> {
        let head = tokio::time::timeout(limit, self.send(method, path, body, None)).await;
        let response = head.map_err(|_| self.no_answer(limit))??;
        if response.status().is_success() {
            return Ok(Download { response, silence });
        }
        let status = response.status().as_u16();
        let bytes = Limited::new(response.into_body(), ANSWER_MAX_LEN).collect().await.map_err(|error| {
            ApiError::new(ErrorCode::Unreachable, format!("the answer broke off: {error}"), "try again")
        })?;
        Err(understand::<serde_json::Value>(status, &bytes.to_bytes()).err().unwrap_or_else(|| not_ours(status)))
    }

    fn no_answer(&self, limit: Duration) -> ApiError {
        let message = format!("{} gave no answer within {} s", self.target, limit.as_secs());
        ApiError::new(ErrorCode::Unreachable, message, "look at the agent's log: journalctl -u hive -n 50")
    }

    async fn send(&self, method: Method, path: &str, body: Body, length: Option<u64>) -> ApiResult<Response<Incoming>> {
        match &self.target {
            Target::Socket(socket) => {
                let stream = within(UnixStream::connect(socket)).await.map_err(|error| socket_error(socket, &error))?;
                self.send_over(stream, ("", None), method, path, body, length).await
            }
            Target::Http { .. } if method == Method::GET && self.key.is_some() => {
                let answer = self.send_to_port(method.clone(), path, body, length, false).await?;
                if answer.status() != hyper::StatusCode::UNAUTHORIZED {
                    return Ok(answer);
                }
                self.send_to_port(method, path, empty(), None, true).await
            }
            Target::Http { .. } => self.send_to_port(method, path, body, length, true).await,
        }
    }

    async fn send_to_port(
        &self,
        method: Method,
        path: &str,
        body: Body,
        length: Option<u64>,
        with_key: bool,
    ) -> ApiResult<Response<Incoming>> {
        match &self.target {
            Target::Socket(_) => Err(ApiError::new(ErrorCode::Internal, "a socket has no port", "this is a bug")),
            Target::Http { tls, host, port, prefix } => {
                let stream = within(TcpStream::connect((host.as_str(), *port)))
                    .await
                    .map_err(|error| url_error(&self.target, &error))?;
                // A log may be silent for hours; a machine that lost its power is silent too, and must not be waited for as long.
                if let Err(error) = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive()) {
                    tracing::debug!(%error, "no keep-alive on this connection");
                }
                let key = self.key.as_ref().filter(|_| with_key);
                if !*tls {
                    return self.send_over(stream, (prefix, key), method, path, body, length).await;
                }
                let stream = tls::connect(stream, host, self.authorities.as_deref(), CONNECT_TIMEOUT);
                let stream = stream.await.map_err(|error| tls::refused(&self.target, &error))?;
                self.send_over(stream, (prefix, key), method, path, body, length).await
            }
        }
    }

    async fn send_over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        (prefix, key): (&str, Option<&header::HeaderValue>),
        method: Method,
        path: &str,
        body: Body,
        length: Option<u64>,
    ) -> ApiResult<Response<Incoming>> {
        let broken = |error: &dyn std::fmt::Display| {
            let message = format!("the connection to {} broke: {error}", self.target);
            ApiError::new(ErrorCode::Unreachable, message, "the agent may be restarting; try again")
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        tasks::spawn("http-client", connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{prefix}{path}"))
            .header(header::HOST, self.target.host_header())
            .header(header::USER_AGENT, concat!("hive/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = key {
            request = request.header("x-admin-key", key);
        }
        if let Some(length) = length {
            request = request.header(header::CONTENT_LENGTH, length).header(header::CONTENT_TYPE, "application/x-tar");
        }
        let request = request
            .body(body)
            .map_err(|error| ApiError::new(ErrorCode::Invalid, format!("cannot ask for {path:?}: {error}"), ""))?;
        sender.send_request(request).await.map_err(|error| broken(&error))
    }
}

/// Bytes on their way.
pub(crate) struct Download {
    response: Response<Incoming>,
    silence: Option<Duration>,
}

impl Download {
    /// A number in a header of the answer.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.response.headers().get(name)?.to_str().ok()?.parse().ok()
    }

    /// The next bytes; none at the end, an error when the connection broke before it.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let frame = match self.silence {
                None => self.response.body_mut().frame().await,
                Some(limit) => tokio::time::timeout(limit, self.response.body_mut().frame()).await.map_err(|_| {
                    io::Error::new(io::ErrorKind::TimedOut, format!("nothing came for {} s", limit.as_secs()))
                })?,
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(io::Error::other(error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if bytes.is_empty() => {}
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(_trailers) => {}
                },
            }
        }
    }
}

/// A peer that is gone is noticed within half a minute.
fn keepalive() -> socket2::TcpKeepalive {
    let interval = Duration::from_secs(5);
    socket2::TcpKeepalive::new().with_time(3 * interval).with_interval(interval).with_retries(3)
}

async fn within<T>(connect: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
        Ok(result) => result,
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())))
        }
    }
}

fn not_ours(status: u16) -> ApiError {
    let message = format!("the answer (HTTP {status}) is not one of a hive agent");
    ApiError::new(ErrorCode::Internal, message, "check the address, and that agent and command have the same version")
}

fn understand<T: DeserializeOwned>(status: u16, bytes: &[u8]) -> ApiResult<Answer<T>> {
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|_| not_ours(status))?;
    let envelope: Envelope<serde_json::Value> = serde_json::from_value(value.clone()).map_err(|_| not_ours(status))?;
    if !envelope.ok {
        return Err(envelope.error.unwrap_or_else(|| not_ours(status)));
    }
    match serde_json::from_value(envelope.data.unwrap_or_default()) {
        Ok(data) => Ok(Answer { data, envelope: value }),
        Err(error) => {
            let message = format!("the agent's answer is not understood: {error}");
            Err(ApiError::new(
                ErrorCode::Internal,
                message,
                "check that agent and command have the same version: hive --version",
            ))
        }
    }
}

fn socket_error(socket: &Path, error: &io::Error) -> ApiError {
    let shown = socket.display();
    let (code, message, hint) = if error.kind() == io::ErrorKind::NotFound {
        let hint =
            "start it with `systemctl start hive` (or `hive agent`), or name its socket with --socket or HIVE_SOCKET";
        (ErrorCode::Unreachable, format!("no agent: {shown} does not exist"), hint)
    } else if error.kind() == io::ErrorKind::ConnectionRefused {
        let hint = "it has ended; start it with `systemctl start hive`, and see why with `journalctl -u hive -n 50`";
        (ErrorCode::Unreachable, format!("no agent: nobody answers at {shown}"), hint)
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        let hint = "use sudo, or join the group and log in again: sudo usermod -aG hive-admin \"$USER\"";
        (ErrorCode::Forbidden, format!("you may not open {shown}"), hint)
    } else {
        let hint = "check that the agent runs: systemctl status hive";
        (ErrorCode::Unreachable, format!("cannot connect to {shown}: {error}"), hint)
    };
    ApiError::new(code, message, hint)
}

fn url_error(target: &Target, error: &io::Error) -> ApiError {
    let hint = if error.kind() == io::ErrorKind::ConnectionRefused {
        "no agent listens there; check host and port (`hive config show` on that node says which)"
    } else if error.kind() == io::ErrorKind::TimedOut {
        "the host is down or a firewall drops the port"
    } else {
        "check the host's name and that it can be reached"
    };
    ApiError::new(ErrorCode::Unreachable, format!("cannot connect to {target}: {error}"), hint)
}

/// Escapes one segment of a path (RFC 3986: everything but unreserved characters).
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    // A segment of dots alone would be taken as a directory by whoever normalises paths.
    if out.bytes().all(|byte| byte == b'.') { out.replace('.', "%2E") } else { out }
}

mod tls;

#[cfg(test)]
mod tests;
