//! Listeners and connections: bind, accept, limit, answer, and stop within a second.
//!
//! HTTP/1.1 only, on an accept loop of our own: the limits on heads, idle time, connections and slow readers are all here. Never
//! done here: looking at what is asked.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::{Access, Caller};
use super::answer::{Remote, Secured};
use super::capture::RemotePort;
use super::limits::{Caps, Patient, Slots};
use super::proxy::Front;
use super::tls::{self, Tls};
use super::{Context, NodeApi, Options, routes};
use crate::ports::{self, Holder};
use crate::tasks;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 256;
/// Longest head of a request, bytes.
const HEAD_MAX: usize = 16 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// Most local connections at once, of those who may.
const LOCAL_MAX: usize = 128;
/// Most local connections at once that are only told that they may not.
const TURNED_AWAY_MAX: usize = 8;
/// Pause after a failed accept (out of descriptors): the condition lasts longer than a loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time for answers under way when the agent stops.
const DRAIN: Duration = Duration::from_millis(400);
/// Silence after which the kernel probes whether a peer is still there: a followed log may be silent for hours.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Why the web cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has the port.
    #[error("TCP port {} of HTTP is taken by {}; stop it, or choose another with {flag}", address.port(), ports::named(holder.as_ref()))]
    PortTaken {
        /// The flag that chooses it.
        flag: &'static str,
        /// What was asked for.
        address: SocketAddr,
        /// Who holds it, where that can be told.
        holder: Option<Holder>,
    },
    /// The port cannot be listened on.
    #[error("cannot listen on TCP {address}: {source}")]
    Port {
        /// What was asked for.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// Another agent answers on the socket.
    #[error("another agent answers on {}; stop it, or give this one another --socket", path.display())]
    SocketInUse {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on the socket {}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Counts what happened to connections.
#[derive(Debug)]
pub(super) struct Meter {
    slots: Arc<Slots>,
    local_slots: Arc<Slots>,
    accepted: AtomicU64,
    over_limit: AtomicU64,
    turned_away: AtomicU64,
}

impl Meter {
    pub(super) fn new(caps: Caps) -> Arc<Self> {
        let local = Caps { total: LOCAL_MAX, per_source: LOCAL_MAX, loopback: LOCAL_MAX };
        Arc::new(Self {
            slots: Slots::new(caps),
            local_slots: Slots::new(local),
            accepted: AtomicU64::new(0),
            over_limit: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
        })
    }

    /// In Prometheus' text format.
    pub(super) fn metrics(&self) -> String {
        let mut text = String::new();
        let rows = [
            ("hive_http_connections", "gauge", "Connections at this moment.", self.slots.open() as u64),
            ("hive_http_accepted_total", "counter", "Connections accepted.", self.accepted.load(Ordering::Relaxed)),
            (
                "hive_http_over_limit_total",
                "counter",
                "Connections refused: too many.",
                self.over_limit.load(Ordering::Relaxed),
            ),
            (
                "hive_local_turned_away_total",
                "counter",
                "Local connections refused.",
                self.turned_away.load(Ordering::Relaxed),
            ),
        ];
        for (name, kind, help, value) in rows {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
        text
    }
}

/// Listeners that are bound and do not answer yet.
#[derive(Debug)]
pub struct Bound {
    options: Options,
    public: TcpListener,
    admin: Option<TcpListener>,
    local: UnixListener,
}

/// Binds the ports and the socket. Within a Tokio runtime.
pub fn bind(options: Options) -> Result<Bound, BindError> {
    let open = |address: SocketAddr, flag| {
        listen(address).map_err(|source| {
            if source.kind() == io::ErrorKind::AddrInUse {
                BindError::PortTaken { flag, address, holder: ports::holder(ports::Protocol::Tcp, address.port()) }
            } else {
                BindError::Port { address, source }
            }
        })
    };
    let public = open(options.http, "--http")?;
    let admin = options.admin.map(|address| open(address, "--admin")).transpose()?;
    let local = listen_locally(&options.socket)?;
    Ok(Bound { options, public, admin, local })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // The unspecified address stands for IPv4 as well, whatever the system's default.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn listen_locally(path: &Path) -> Result<UnixListener, BindError> {
    let failed = |source| BindError::Socket { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        // Left behind by an agent that was killed, unless somebody answers.
        Ok(metadata) if metadata.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(BindError::SocketInUse { path: path.to_owned() });
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) => return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Everyone may connect; who may do something is decided by peer credentials, so that the others are told why not.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}

/// Listeners that answer.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    admin_address: Option<SocketAddr>,
    socket: PathBuf,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Bound {
    /// The address of the public port, with the port number that was taken.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.public.local_addr()
    }

    /// The address at which the hive is controlled with a key, with the port number that was taken.
    pub fn admin_address(&self) -> io::Result<Option<SocketAddr>> {
        self.admin.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Answers from now on.
    pub fn serve(self, node: Arc<dyn NodeApi>) -> Handle {
        let meter = Meter::new(self.options.caps);
        let context = Context::new(Arc::clone(&node), &self.options, Arc::clone(&meter));
        // The streams end with the listeners.
        let (stop, tracker) = (context.live.stop.clone(), TaskTracker::new());
        let front = Front { base_path: self.options.base_path.clone(), trusted: self.options.trusted_proxies.clone() };
        let connections = Connections {
            header_timeout: self.options.header_timeout,
            stall_timeout: self.options.stall_timeout,
            meter,
            stop: stop.clone(),
            tracker: tracker.clone(),
            node,
            front: Arc::new(front),
        };
        let address = self.public.local_addr().unwrap_or(self.options.http);
        let admin_address = self.admin_address().ok().flatten();
        let tls = self.options.tls;
        let port = Port { router: routes::public(context.clone()), tls: tls.clone(), shows_keys: false };
        tasks::spawn("http", tracker.track_future(accept_tcp(self.public, port, connections.clone())));
        if let Some(listener) = self.admin {
            let port = Port { router: routes::admin(context.clone()), tls, shows_keys: true };
            let admin = accept_tcp(listener, port, connections.clone());
            tasks::spawn("admin-http", tracker.track_future(admin));
        }
        let local = accept_local(self.local, routes::local(context), connections);
        tasks::spawn("local-api", tracker.track_future(local));
        Handle { address, admin_address, socket: self.options.socket, stop, tracker }
    }
}

impl Handle {
    /// The address of the public port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address at which the hive is controlled with a key.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Stops listening, lets answers under way end for most of a second, closes the rest, and removes the socket.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(DRAIN + Duration::from_millis(100), self.tracker.wait()).await.is_err() {
            tracing::warn!(open = self.tracker.len(), "connections were still open when the web stopped");
        }
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::debug!(%error, socket = %self.socket.display(), "the socket could not be removed");
        }
    }
}

/// What a port answers with.
#[derive(Clone)]
struct Port {
    router: Router,
    tls: Option<Tls>,
    /// Keys travel here: where there is TLS, it is asked for.
    shows_keys: bool,
}

/// How connections are served.
#[derive(Clone)]
struct Connections {
    header_timeout: Duration,
    stall_timeout: Duration,
    meter: Arc<Meter>,
    stop: CancellationToken,
    tracker: TaskTracker,
    node: Arc<dyn NodeApi>,
    front: Arc<Front>,
}

impl Connections {
    /// Serves one connection of a port in what its client speaks.
    async fn speak(self, stream: TcpStream, peer: SocketAddr, port: Port) {
        let from = peer.ip().to_canonical();
        let front = Arc::clone(&self.front);
        let mark = move |request: &mut Request<Body>| {
            request.extensions_mut().insert(RemotePort(peer.port()));
            front.arrive(from, request);
        };
        let Some(tls) = port.tls else { return self.converse(stream, from, port.router, mark).await };
        let stop = self.stop.clone();
        let greeted = tokio::select! {
            greeted = tls::begins_with_handshake(&stream, self.header_timeout) => greeted,
            () = stop.cancelled() => return,
        };
        match greeted {
            Ok(true) => {
                let accepted = tokio::select! {
                    accepted = tls.accept(stream, self.header_timeout) => accepted,
                    () = stop.cancelled() => return,
                };
                match accepted {
                    Ok(stream) => {
                        let mark = move |request: &mut Request<Body>| {
                            mark(request);
                            request.extensions_mut().insert(Secured);
                        };
                        self.converse(stream, from, port.router, mark).await;
                    }
                    // A browser that does not know the authority yet ends it so.
                    Err(error) => tracing::debug!(%from, %error, "no TLS handshake"),
                }
            }
            Ok(false) if port.shows_keys && !from.is_loopback() && !self.front.trusts(from) => {
                let elsewhere = |method, uri, headers| async move { tls::elsewhere(&method, &uri, &headers) };
                self.converse(stream, from, Router::new().fallback(elsewhere), mark).await;
            }
            Ok(false) => self.converse(stream, from, port.router, mark).await,
            Err(error) => tracing::debug!(%from, %error, "a connection without a request"),
        }
    }

    /// Serves one connection until it ends or the agent stops. `mark` puts into each request who asks.
    async fn converse<S, M>(self, stream: S, from: IpAddr, router: Router, mark: M)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        M: Fn(&mut Request<Body>) + Send + Sync + Clone + 'static,
    {
        let service = TowerToHyperService::new(router);
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Remote(from));
            mark(&mut request);
            service.call(request)
        });
        let io = TokioIo::new(Patient::new(stream, self.stall_timeout));
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(self.header_timeout);
        server.max_buf_size(HEAD_MAX).max_headers(HEADERS_MAX);
        let mut connection = std::pin::pin!(server.serve_connection(io, service).with_upgrades());
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(DRAIN, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = ended {
            if error.is_parse() {
                self.node.refused("no_http", from);
            }
            tracing::debug!(%error, "connection ended");
        }
    }
}

async fn accept_tcp(listener: TcpListener, port: Port, connections: Connections) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.stop.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let from = peer.ip().to_canonical();
        let Some(slot) = connections.meter.slots.take(from) else {
            connections.meter.over_limit.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%from, "connection refused: too many");
            continue;
        };
        connections.meter.accepted.fetch_add(1, Ordering::Relaxed);
        prepare(&stream);
        let serving = connections.clone().speak(stream, peer, port.clone());
        let tracked = connections.tracker.track_future(async move {
            serving.await;
            drop(slot);
        });
        tasks::spawn("http-connection", tracked);
    }
}

/// Best effort: a connection without these works too.
fn prepare(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4).with_retries(4);
    let done = stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = done {
        tracing::debug!(%error, "socket options");
    }
}

async fn accept_local(listener: UnixListener, router: Router, connections: Connections) {
    let access = Access::system();
    let turned_away_slots =
        Slots::new(Caps { total: TURNED_AWAY_MAX, per_source: TURNED_AWAY_MAX, loopback: TURNED_AWAY_MAX });
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a local connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (caller, slots) = match judge(&access, &stream) {
            Ok(caller) => (Ok(caller), &connections.meter.local_slots),
            Err(caller) => {
                connections.meter.turned_away.fetch_add(1, Ordering::Relaxed);
                (Err(caller), &turned_away_slots)
            }
        };
        let Some(slot) = slots.take(here) else {
            connections.meter.over_limit.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let serving = serve_local(stream, caller, router.clone(), connections.clone());
        let tracked = connections.tracker.track_future(async move {
            serving.await;
            drop(slot);
        });
        tasks::spawn("local-connection", tracked);
    }
}

fn judge(access: &Access, stream: &UnixStream) -> Result<Caller, Caller> {
    match stream.peer_cred() {
        Ok(credentials) => access.check(&credentials),
        Err(error) => Err(Caller { name: format!("a caller without credentials ({error})") }),
    }
}

async fn serve_local(stream: UnixStream, caller: Result<Caller, Caller>, router: Router, connections: Connections) {
    match caller {
        Ok(caller) => {
            let mark = move |request: &mut Request<Body>| {
                request.extensions_mut().insert(caller.clone());
            };
            connections.converse(stream, IpAddr::V4(Ipv4Addr::LOCALHOST), router, mark).await;
        }
        Err(caller) => {
            tracing::info!(caller = caller.name, "turned away at the local socket");
            let refusal = service_fn(move |_: Request<Incoming>| {
                let response: Response = routes::turned_away(&caller);
                async move { Ok::<_, Infallible>(response) }
            });
            let io = TokioIo::new(Patient::new(stream, connections.stall_timeout));
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(connections.header_timeout).keep_alive(false);
            let answered =
                tokio::time::timeout(connections.header_timeout * 2, server.serve_connection(io, refusal)).await;
            if let Ok(Err(error)) = answered {
                tracing::debug!(%error, "local connection ended");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream as StdTcpStream;
    use std::os::unix::net::UnixStream as StdUnixStream;

    use super::*;
    use crate::clock::now_ms;
    use crate::web::fake::{FakeNode, JOB};

    struct Site {
        handle: Handle,
        node: Arc<FakeNode>,
        directory: tempfile::TempDir,
    }

    fn options(directory: &Path) -> Options {
        Options {
            http: "127.0.0.1:0".parse().expect("address"),
            socket: directory.join("hive.sock"),
            header_timeout: Duration::from_millis(300),
            stall_timeout: Duration::from_millis(300),
            ..Options::default()
        }
    }

    fn site(change: impl FnOnce(&mut Options)) -> Site {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut options = options(directory.path());
        change(&mut options);
        let node = Arc::new(FakeNode::new());
        let handle = bind(options).expect("binds").serve(node.clone());
        Site { handle, node, directory }
    }

    impl Site {
        fn connect(&self) -> StdTcpStream {
            let stream = StdTcpStream::connect(self.handle.address()).expect("connects");
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("sets");
            stream
        }
    }

    /// Blocking clients run beside the server.
    async fn client<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(work).await.expect("the client does not panic")
    }

    fn exchange(stream: &mut (impl std::io::Read + std::io::Write), request: &str) -> String {
        stream.write_all(request.as_bytes()).expect("writes");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("reads to the end");
        String::from_utf8_lossy(&answer).into_owned()
    }

    const CLOSE: &str = "Host: 127.0.0.1\r\nConnection: close\r\n\r\n";

    #[tokio::test(flavor = "multi_thread")]
    async fn port_and_socket_answer_and_the_socket_writes() {
        let site = site(|_| {});
        let mut tcp = site.connect();
        let mut unix = StdUnixStream::connect(site.directory.path().join("hive.sock")).expect("connects");
        let (status, identity) = client(move || {
            let status = exchange(&mut tcp, &format!("GET /api/v2/health HTTP/1.1\r\n{CLOSE}"));
            let reset =
                exchange(&mut unix, &format!("POST /api/v2/identity/reset HTTP/1.1\r\nContent-Length: 0\r\n{CLOSE}"));
            (status, reset)
        })
        .await;
        let mut unix = StdUnixStream::connect(site.directory.path().join("hive.sock")).expect("connects");
        let claim = "{\"interface\":\"eth0\",\"cidr\":\"10.0.0.7/24\"}";
        let claimed = client(move || {
            let head = format!(
                "POST /api/v2/addresses HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}",
                claim.len()
            );
            exchange(&mut unix, &format!("{head}\r\n{CLOSE}{claim}"))
        })
        .await;
        assert!(claimed.starts_with("HTTP/1.1 200 ") && claimed.contains("10.0.0.7/24"), "{claimed}");
        assert!(status.starts_with("HTTP/1.1 200 ") && status.contains("\"ok\":true"), "{status}");
        assert!(identity.starts_with("HTTP/1.1 404 ") && identity.contains("nobody advises"), "{identity}");
        assert_eq!(site.node.acts(), ["reset identity", "claim 10.0.0.7/24 on eth0"]);
        site.handle.shutdown().await;
        assert!(!site.directory.path().join("hive.sock").exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn silent_and_slow_clients_are_closed() {
        let site = site(|_| {});
        let (mut silent, mut slow, mut idle) = (site.connect(), site.connect(), site.connect());
        let began = now_ms();
        let reused = client(move || {
            slow.write_all(b"GET / HTTP/1.1\r\nHost: a").expect("writes");
            idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").expect("writes");
            let mut rest = Vec::new();
            for stream in [&mut silent, &mut slow, &mut idle] {
                rest.clear();
                // Ends by the server's closing, not by the client's own time-out of 5 s.
                stream.read_to_end(&mut rest).expect("closed by the server");
            }
            String::from_utf8_lossy(&rest).into_owned()
        })
        .await;
        assert!(reused.starts_with("HTTP/1.1 200 "), "the idle one was answered first: {reused}");
        assert!(now_ms() - began < 4_000);
        site.handle.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_that_does_not_read_is_cut_off() {
        let site = site(|_| {});
        let mut stream = site.connect();
        let path = format!("/api/v2/blobs/{}", "00".repeat(32));
        stream.write_all(format!("GET {path} HTTP/1.1\r\n{CLOSE}").as_bytes()).expect("writes");
        // Two tasks accept, the third serves this connection.
        for (tasks, what) in
            [(3, "the connection is not served"), (2, "a download without a reader holds its connection")]
        {
            let deadline = now_ms() + 5_000;
            let mut ticks = tokio::time::interval(Duration::from_millis(5));
            while site.handle.tracker.len() != tasks {
                assert!(now_ms() < deadline, "{what}");
                ticks.tick().await;
            }
        }
        drop(stream);
        site.handle.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn too_many_connections_are_refused_and_room_comes_back() {
        let site = site(|options| {
            options.caps.loopback = 3;
            options.header_timeout = Duration::from_secs(20);
        });
        let held: Vec<StdTcpStream> = (0..3).map(|_| site.connect()).collect();
        let mut one_more = site.connect();
        let refused = client(move || {
            let mut rest = Vec::new();
            let _ = one_more.write_all(format!("GET /healthz HTTP/1.1\r\n{CLOSE}").as_bytes());
            let _ = one_more.read_to_end(&mut rest);
            rest.is_empty()
        })
        .await;
        assert!(refused, "no answer over the limit");
        drop(held);
        let deadline = now_ms() + 5_000;
        loop {
            let mut stream = site.connect();
            let answered = client(move || {
                let mut rest = Vec::new();
                let _ = stream.write_all(format!("GET /healthz HTTP/1.1\r\n{CLOSE}").as_bytes());
                let _ = stream.read_to_end(&mut rest);
                rest.starts_with(b"HTTP/1.1 200 ")
            })
            .await;
            if answered {
                break;
            }
            assert!(now_ms() < deadline, "no room came back");
        }
        site.handle.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn heads_and_bodies_beyond_their_limits_are_refused() {
        let site = site(|_| {});
        let mut long_head = site.connect();
        let mut unix = StdUnixStream::connect(site.directory.path().join("hive.sock")).expect("connects");
        let (head, body) = client(move || {
            let head = format!("GET / HTTP/1.1\r\nX: {}\r\n{CLOSE}", "x".repeat(2 * HEAD_MAX));
            let mut answer = vec![0; 12];
            // The server may close while the rest of the head is still being sent.
            let _ = long_head.write_all(head.as_bytes());
            let _ = long_head.read_exact(&mut answer);
            let request = format!("POST /api/v2/jobs/{JOB}/cancel HTTP/1.1\r\nContent-Length: {}\r\n{CLOSE}", 65 << 10);
            unix.write_all(request.as_bytes()).expect("writes");
            let _ = unix.write_all(&vec![b' '; 65 << 10]);
            let mut refusal = Vec::new();
            let _ = unix.read_to_end(&mut refusal);
            (String::from_utf8_lossy(&answer).into_owned(), String::from_utf8_lossy(&refusal).into_owned())
        })
        .await;
        assert!(head.starts_with("HTTP/1.1 431") || head.starts_with("HTTP/1.1 400"), "{head}");
        assert!(body.starts_with("HTTP/1.1 413"), "{body}");
        site.handle.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_stops_within_a_second_while_somebody_follows_a_log() {
        let site = site(|_| {});
        let mut stream = site.connect();
        let follow = format!("GET /api/v2/jobs/{JOB}/log?follow=1 HTTP/1.1\r\n{CLOSE}");
        let mut stream = client(move || {
            stream.write_all(follow.as_bytes()).expect("writes");
            let mut seen = Vec::new();
            let mut byte = [0u8];
            while !seen.ends_with(b"first\n") {
                stream.read_exact(&mut byte).expect("the first line arrives while the log goes on");
                seen.push(byte[0]);
            }
            stream
        })
        .await;
        let began = now_ms();
        site.handle.shutdown().await;
        assert!(now_ms() - began < 1_000, "took {} ms", now_ms() - began);
        client(move || stream.read_to_end(&mut Vec::new()).ok()).await;
    }

    #[tokio::test]
    async fn a_taken_port_comes_with_the_name_of_who_holds_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let taken = Options { http: holder.local_addr().expect("address"), ..options(directory.path()) };
        let message = bind(taken).expect_err("taken").to_string();
        assert!(message.contains(&format!("(pid {})", std::process::id())), "{message}");
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_one_in_use_or_of_another_kind_is_not() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("hive.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        let bound = bind(options(directory.path())).expect("replaces what a killed agent left");
        let second = bind(options(directory.path())).expect_err("in use").to_string();
        assert!(second.contains("another agent answers"), "{second}");
        drop(bound);
        std::fs::remove_file(&path).expect("removes");
        std::fs::write(&path, "precious").expect("writes");
        assert!(bind(options(directory.path())).is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("kept"), "precious");
    }
}
