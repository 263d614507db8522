//! The commands' side of TLS.
//!
//! Never done here: speaking to a node whose certificate is not signed by somebody known. There is no switch for that.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error as TlsError, RootCertStore};

use super::Target;
use crate::api::{ApiError, ErrorCode};

/// Shakes hands with a node, which has to prove that it is `host`.
pub(super) async fn connect(
    stream: TcpStream,
    host: &str,
    authorities: Option<&Path>,
    limit: Duration,
) -> io::Result<TlsStream<TcpStream>> {
    let roots = match authorities {
        Some(file) => from_file(file)?,
        None => of_system(),
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    tokio::time::timeout(limit, connecting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn from_file(file: &Path) -> io::Result<RootCertStore> {
    let unusable = |why: String| io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {why}", file.display()));
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(file).map_err(|error| unusable(error.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("there is no PEM certificate in it".to_owned()));
    }
    Ok(roots)
}

/// A machine without any believes nobody, and says so when it is asked to.
fn of_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// Why there is no connection, and what to do.
pub(super) fn refused(target: &Target, error: &io::Error) -> ApiError {
    let reason = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    let hint = match reason {
        Some(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "on a node: hive admin ca --pem > hive-ca.pem; bring the file here and give it with --ca hive-ca.pem (or HIVE_CA)"
        }
        Some(TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => {
            "the node has no certificate for that name: use its host name or address, or add the name to its http_hosts"
        }
        Some(TlsError::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
            "compare the clocks of both machines: date"
        }
        _ if error.kind() == io::ErrorKind::InvalidInput => "give --ca a file with certificates in PEM",
        _ => "it may speak no TLS (tls = \"off\"): hive config show on that node",
    };
    ApiError::new(ErrorCode::Unreachable, format!("no TLS with {target}: {error}"), hint)
}
