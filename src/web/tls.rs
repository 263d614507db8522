//! TLS on the ports of HTTP: whoever begins with a handshake is answered in TLS, everyone else in plain HTTP, on the same port.
//!
//! So that what asks in plain HTTP (drones of the build swarm, scrapers) goes on, and a key never has to travel readable: the admin port
//! sends whoever comes from another machine without TLS to the address with it. Never done here: making certificates (the agent does).

use std::fmt;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::server::TlsStream;

use super::Context;
use super::answer::Problem;
use crate::api::{ApiError, Authority, ErrorCode};

/// First byte of a TLS handshake (RFC 8446, 5.1); no method of HTTP begins with it.
const HANDSHAKE: u8 = 22;

/// The certificate at the moment.
#[derive(Debug, Default)]
struct Current(RwLock<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the ports speak TLS with. Cheap to clone; all clones have the same certificate.
#[derive(Clone)]
pub struct Tls {
    current: Arc<Current>,
    config: Arc<ServerConfig>,
    authority: Option<Arc<Authority>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl Tls {
    /// With this certificate, and who signed it when that is the hive.
    pub fn new(certified: CertifiedKey, authority: Option<Authority>) -> Result<Self, rustls::Error> {
        let current = Arc::new(Current(RwLock::new(Some(Arc::new(certified)))));
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
        let mut config = builder.with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { current, config: Arc::new(config), authority: authority.map(Arc::new) })
    }

    /// From now on with this one.
    pub fn replace(&self, certified: CertifiedKey) {
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
    }

    /// The certificate of the moment, in DER.
    #[cfg(test)]
    pub(crate) fn leaf(&self) -> Option<Vec<u8>> {
        let current = self.current.0.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().and_then(|certified| certified.cert.first().map(|der| der.to_vec()))
    }

    /// Who signs the certificates; none when the operator has his own.
    pub(super) fn authority(&self) -> Option<&Authority> {
        self.authority.as_deref()
    }

    /// Shakes hands.
    pub(super) async fn accept(&self, stream: TcpStream, limit: Duration) -> io::Result<TlsStream<TcpStream>> {
        let accepting = TlsAcceptor::from(Arc::clone(&self.config)).accept(stream);
        tokio::time::timeout(limit, accepting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// Who signs this node's certificate: nothing secret, it is what clients have to know.
pub(super) async fn authority(State(context): State<Context>) -> Response {
    let authority = context.tls.as_ref().and_then(Tls::authority).cloned();
    context.answer(authority.ok_or_else(|| {
        let hint =
            "a node with `tls_certificate` has the operator's, one with `tls = \"off\"` has none; ask another node";
        ApiError::new(ErrorCode::NotFound, "this node's certificate is not signed by the hive", hint)
    }))
}

/// Whether a client begins with a handshake. An error: it said nothing in time, or has gone.
pub(super) async fn begins_with_handshake(stream: &TcpStream, limit: Duration) -> io::Result<bool> {
    let mut first = [0];
    let peeked = tokio::time::timeout(limit, stream.peek(&mut first)).await;
    match peeked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        _ => Ok(first[0] == HANDSHAKE),
    }
}

/// The answer to plain HTTP where only TLS is taken. What only reads is sent on; what brings something has already shown it to whoever
/// listens, and is told so.
pub(super) fn elsewhere(method: &Method, uri: &Uri, headers: &HeaderMap) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let target = host.map(|host| format!("https://{host}{}", uri.path_and_query().map_or("/", |path| path.as_str())));
    if let Some(target) = target.filter(|_| *method == Method::GET || *method == Method::HEAD) {
        let response = Response::builder().status(StatusCode::TEMPORARY_REDIRECT).header(header::LOCATION, target);
        if let Ok(response) = response.header(header::CONNECTION, "close").body(Body::empty()) {
            return response;
        }
    }
    let message = "this port takes plain HTTP from its own machine only";
    let hint = "ask with https://; when a key was sent just now, others may have read it: hive admin key rotate";
    Problem::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, message, hint).into_response()
}
