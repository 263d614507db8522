//! The hive's certificate authority, and the certificates of its nodes (X.509, RFC 5280).
//!
//! Every node derives the authority's key from the shared secret and signs without randomness (RFC 6979), so that all of them have the
//! very same authority without ever sending anything: one certificate, imported once, is good for every node. P-256, because browsers
//! take no Ed25519. Never done here: deciding when TLS is spoken, and keeping a private key anywhere but in memory.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, SigningKey as P256};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
    SigningKey, date_time_ymd,
};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

use crate::engine::id::UnixMillis;
use crate::keyring::{Secret, sha256};

const DAY_S: u64 = 24 * 3_600;
/// How long a node's certificate is good.
const LIFE: Duration = Duration::from_secs(180 * DAY_S);
/// Left of it when a new one is made.
const RENEWED_BEFORE: Duration = Duration::from_secs(60 * DAY_S);
/// Clocks of clients may be behind by so much.
const SKEW: Duration = Duration::from_secs(DAY_S);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The operator's file could not be read.
    #[error("cannot read {}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Others than its owner can read the key.
    #[error("{} can be read by others (mode {mode:04o}); mend it with: chmod 0600 {}", path.display(), path.display())]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Key and certificate do not belong together, or are of a kind that TLS does not take.
    #[error("certificate {} and key {} cannot be used: {why}", certificate.display(), key.display())]
    Unusable {
        /// File of the certificate.
        certificate: PathBuf,
        /// File of the key.
        key: PathBuf,
        /// What is wrong with them.
        why: String,
    },
    /// None could be made.
    #[error("no certificate could be made: {0}")]
    Made(String),
}

fn made(error: impl std::fmt::Display) -> CertificateError {
    CertificateError::Made(error.to_string())
}

/// The authority's key, as the certificate library wants it.
struct Root {
    key: P256,
    public: Vec<u8>,
}

impl Root {
    fn of(secret: &Secret) -> Result<Self, CertificateError> {
        // One seed in 2^32 is no number of the curve; then the next one is taken, by every node alike.
        let key = (0..=u8::MAX).find_map(|attempt| P256::from_slice(&*secret.authority_seed(attempt)).ok());
        let key = key.ok_or_else(|| made("no key could be derived from the secret"))?;
        let public = key.verifying_key().to_sec1_point(false).as_bytes().to_vec();
        Ok(Self { key, public })
    }
}

impl PublicKeyData for Root {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Root {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: DerSignature = self.key.try_sign(message).map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signature.as_bytes().to_vec())
    }
}

/// The hive's authority.
pub struct Authority {
    issuer: Issuer<'static, Root>,
    certificate: Certificate,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", self.fingerprint())
    }
}

impl Authority {
    /// The authority of all who share this secret.
    pub fn of(secret: &Secret) -> Result<Self, CertificateError> {
        let root = Root::of(secret)?;
        let number = sha256(&root.public);
        let mut params = CertificateParams::new(Vec::<String>::new()).map_err(made)?;
        // The same on every node at any time, or they would not be the same certificate.
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2060, 1, 1));
        params.serial_number = Some(serial(&number));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("hive {}", hex::encode(&number[..4])));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&root).map_err(made)?;
        Ok(Self { issuer: Issuer::new(params, root), certificate })
    }

    /// Its certificate, as browsers and `--ca` take it.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// SHA-256 of its certificate, as browsers show it: pairs of hexadecimal digits with colons.
    pub fn fingerprint(&self) -> String {
        let digest = sha256(self.certificate.der());
        digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
    }

    /// A certificate for a node that is reached under these names, with a key that nobody else has.
    pub fn issue(&self, names: &Names, now: UnixMillis) -> Result<Issued, CertificateError> {
        let key = KeyPair::generate().map_err(made)?;
        let mut params = CertificateParams::new(Vec::<String>::new()).map_err(made)?;
        params.subject_alt_names = names.alternatives();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, names.hosts.first().cloned().unwrap_or_default());
        let epoch = date_time_ymd(1970, 1, 1);
        let now = Duration::from_millis(now.0);
        params.not_before = epoch + now.saturating_sub(SKEW);
        params.not_after = epoch + now + LIFE;
        params.serial_number = Some(serial(&rand::random::<[u8; 32]>()));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(made)?;
        let chain = vec![certificate.der().clone(), self.certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified = CertifiedKey::from_der(chain, key, &default_provider()).map_err(made)?;
        let renew_at = UnixMillis(u64::try_from((now + LIFE - RENEWED_BEFORE).as_millis()).unwrap_or(u64::MAX));
        Ok(Issued { certified, names: names.clone(), renew_at })
    }
}

/// Positive, and at most 20 bytes (RFC 5280, 4.1.2.2).
fn serial(random: &[u8; 32]) -> SerialNumber {
    let mut bytes = random[..16].to_vec();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Under which a node is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Host names; the first one is the node's own.
    pub hosts: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

impl Names {
    fn alternatives(&self) -> Vec<SanType> {
        // What no certificate can hold is left out: the node is then reached under its other names.
        let hosts = self.hosts.iter().filter_map(|host| Some(SanType::DnsName(host.as_str().try_into().ok()?)));
        hosts.chain(self.addresses.iter().copied().map(SanType::IpAddress)).collect()
    }
}

/// A node's certificate with its key.
#[derive(Debug)]
pub struct Issued {
    /// As TLS wants it.
    pub certified: CertifiedKey,
    names: Names,
    renew_at: UnixMillis,
}

impl Issued {
    /// Whether another one is due: its time comes to an end, or the node is reached under other names.
    pub fn is_due(&self, names: &Names, now: UnixMillis) -> bool {
        now >= self.renew_at || self.names != *names
    }
}

/// The operator's own certificate (a chain in PEM) and key.
pub fn from_files(certificate: &Path, key: &Path) -> Result<CertifiedKey, CertificateError> {
    let unread = |path: &Path, why: String| CertificateError::File { path: path.to_owned(), why };
    let read = |path: &Path| fs::read(path).map_err(|error| unread(path, error.to_string()));
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&read(certificate)?).collect();
    let chain = chain.map_err(|error| unread(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(unread(certificate, "there is no PEM certificate in it".to_owned()));
    }
    let mode = fs::metadata(key).map_err(|error| unread(key, error.to_string()))?.mode() & 0o777;
    // A group may read it: that is how keys are handed to services.
    if mode & 0o027 != 0 {
        return Err(CertificateError::Readable { path: key.to_owned(), mode });
    }
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| unread(key, error.to_string()))?;
    CertifiedKey::from_der(chain, secret, &default_provider()).map_err(|error| CertificateError::Unusable {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        why: error.to_string(),
    })
}

#[cfg(test)]
pub(crate) mod tests;
