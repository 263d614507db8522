//! The shared secret and the keys derived from it.
//!
//! The secret is a file that only bootstraps: HKDF (RFC 5869) derives one key per purpose, so that a MAC of one purpose never
//! verifies as another. The working keyring holds numbered keys; one signs, all verify, which is what makes a later
//! rotation possible without a flag day. Key bytes never appear in `Debug`, logs or API answers. Never done here: deciding
//! who is a member.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Fewest characters of a secret.
pub const SECRET_MIN_LEN: usize = 16;
/// Longest secret file that is read, bytes.
pub const SECRET_MAX_LEN: usize = 4_096;
/// Estimated strength below which a secret is refused, bits.
pub const SECRET_MIN_BITS: f64 = 128.0;

/// Why a secret cannot be used. Each message ends with the command that mends it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file could not be read or written.
    #[error("cannot {action} the secret file {}: {source}{}", path.display(), mending(source, path))]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Others than its owner can read it.
    #[error("{} can be read by others (mode {mode:04o}); mend it with: chmod 0600 {}", path.display(), path.display())]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A group can read it that is none of the agent's.
    #[error("{} can be read by group {gid}, to which the agent does not belong (mode {mode:04o}); mend it with: chmod 0600 {}", path.display(), path.display())]
    ForeignGroup {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its group.
        gid: u32,
    },
    /// Nothing in it, or too little.
    #[error("{} holds {length} characters, at least {SECRET_MIN_LEN} are needed; make a new one with: hive secret generate > {} (the same on every node)", path.display(), path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Characters without surrounding white space.
        length: usize,
    },
    /// It could be guessed.
    #[error("{} is too easy to guess (about {bits:.0} bit, 128 are needed); make a new one with: hive secret generate > {} (the same on every node), or start with --weak-secret", path.display(), path.display())]
    Weak {
        /// The file.
        path: PathBuf,
        /// Estimated strength.
        bits: f64,
    },
    /// More than any secret needs.
    #[error("{} is longer than {SECRET_MAX_LEN} bytes and is probably not a secret; write the secret alone into it, or make a new one with: hive secret generate > {} (the same on every node)", path.display(), path.display())]
    Long {
        /// The file.
        path: PathBuf,
    },
}

/// The shared secret's bytes, without surrounding white space.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.fingerprint())
    }
}

impl Secret {
    /// Takes bytes as they are, without any check. For tests and for secrets that were checked before.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.trim_ascii().to_vec()))
    }

    /// Reads and checks the file; none when there is no such file. `allow_weak` skips the estimate of its strength only.
    pub fn from_file(path: &Path, allow_weak: bool) -> Result<Option<Self>, SecretError> {
        let io_error = |source| SecretError::Io { action: "read", path: path.to_owned(), source };
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(error)),
        };
        let mode = metadata.mode() & 0o777;
        if mode & 0o027 != 0 {
            return Err(SecretError::Readable { path: path.to_owned(), mode });
        }
        // Group access is for the unprivileged agent: root owns the file, group `hive` may read it. Any other group is others.
        if mode & 0o040 != 0 && !is_own_group(metadata.gid()) {
            return Err(SecretError::ForeignGroup { path: path.to_owned(), mode, gid: metadata.gid() });
        }
        if metadata.len() > SECRET_MAX_LEN as u64 {
            return Err(SecretError::Long { path: path.to_owned() });
        }
        let bytes = Zeroizing::new(fs::read(path).map_err(io_error)?);
        let secret = Self::from_bytes(&bytes);
        if secret.0.len() < SECRET_MIN_LEN {
            return Err(SecretError::Short { path: path.to_owned(), length: secret.0.len() });
        }
        let bits = estimated_bits(&secret.0);
        if bits < SECRET_MIN_BITS && !allow_weak {
            return Err(SecretError::Weak { path: path.to_owned(), bits });
        }
        Ok(Some(secret))
    }

    /// A new random secret of 256 bit, 64 hexadecimal digits.
    pub fn generate() -> Self {
        let bytes: [u8; 32] = rand::random();
        Self(Zeroizing::new(hex::encode(bytes).into_bytes()))
    }

    /// Writes it to a new file of mode 0600, complete or not at all. Fails when the file exists.
    pub fn write_new(&self, path: &Path) -> Result<(), SecretError> {
        let io_error = |source| SecretError::Io { action: "write", path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(io_error)?;
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io_error)?;
        file.write_all(&self.0)
            .and_then(|()| file.write_all(b"\n"))
            .and_then(|()| file.sync_all())
            .map_err(io_error)?;
        Ok(())
    }

    /// The raw bytes: wire v1 signs with them, and founders print them once.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Its estimated strength, bits.
    pub fn strength_bits(&self) -> f64 {
        estimated_bits(&self.0)
    }

    /// Identifies the secret without revealing it: 16 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        hex::encode(&self.derive(b"hive fingerprint v1")[..8])
    }

    /// What the key of the hive's certificate authority is made of; the next attempt when this one is no number of its curve.
    pub fn authority_seed(&self, attempt: u8) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.derive(&[b"hive certificate authority v1 ".as_slice(), &[attempt]].concat()))
    }

    /// The numbered key made of this secret.
    pub fn key(&self) -> Key {
        let id_bytes = self.derive(b"hive key id v1");
        Key {
            id: u32::from_be_bytes([id_bytes[0], id_bytes[1], id_bytes[2], id_bytes[3]]),
            secret: self.clone(),
            datagram: Zeroizing::new(self.derive(b"hive datagram v1")),
            admission: Zeroizing::new(self.derive(b"hive admission v1")),
            export: Zeroizing::new(self.derive(b"hive export v1")),
            session: Zeroizing::new(self.derive(b"hive browser session v1")),
        }
    }

    fn derive(&self, label: &[u8]) -> [u8; 32] {
        let mut out = [0u8; 32];
        // 32 bytes are far below HKDF's limit of 255 hash lengths, the only way in which this can fail.
        if Hkdf::<Sha256>::new(None, &self.0).expand(label, &mut out).is_err() {
            unreachable!("HKDF refuses only outputs longer than 8160 bytes");
        }
        out
    }
}

/// The group of the service's user, whose files root handles.
const SERVICE_GROUP: &str = "hive";

/// Whether a group's members are this process, root, or (seen by root) the service.
fn is_own_group(gid: u32) -> bool {
    let own = rustix::process::getegid().as_raw();
    let others = rustix::process::getgroups().unwrap_or_default();
    let root = rustix::process::geteuid().is_root();
    gid == 0 || gid == own || others.iter().any(|group| group.as_raw() == gid) || (root && service_group() == Some(gid))
}

fn service_group() -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find(|line| line.split(':').next() == Some(SERVICE_GROUP))?;
    line.split(':').nth(2)?.parse().ok()
}

/// The command after which the agent may open the file, where it may not.
fn mending(error: &io::Error, path: &Path) -> String {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return String::new();
    }
    let (user, path) = (rustix::process::geteuid().as_raw(), path.display());
    format!("; mend it with: chown {user} {path} && chmod 0600 {path}")
}

/// Strength of a secret in bit, estimated from length, the alphabet it uses and how often its characters repeat. An upper
/// bound for what people type: `openssl rand -hex 16` (128 bit) passes, words and keyboard runs do not.
fn estimated_bits(bytes: &[u8]) -> f64 {
    let length = bytes.len() as f64;
    let neighbours = bytes.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 1).count() as f64;
    let looks_drawn = neighbours < length / 2.0 && distinct(bytes) >= 8;
    if bytes.len() >= 32 && bytes.iter().all(u8::is_ascii_hexdigit) && looks_drawn {
        // Drawn evenly from 16 digits, as tools print keys: 4 bit each, whatever the sample's own entropy happens to be.
        return length * 4.0;
    }
    let mut counts = [0usize; 256];
    for &byte in bytes {
        counts[usize::from(byte)] += 1;
    }
    let shannon: f64 = counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| {
            let share = count as f64 / length;
            -share * share.log2()
        })
        .sum();
    shannon * (length - neighbours).max(0.0)
}

fn distinct(bytes: &[u8]) -> usize {
    let mut seen = [false; 256];
    for &byte in bytes {
        seen[usize::from(byte.to_ascii_lowercase())] = true;
    }
    seen.iter().filter(|&&present| present).count()
}

/// One numbered key, with what is derived from it for each purpose.
#[derive(Clone)]
pub struct Key {
    /// Its number: derived from the secret, so that every holder numbers it alike.
    pub id: u32,
    secret: Secret,
    datagram: Zeroizing<[u8; 32]>,
    admission: Zeroizing<[u8; 32]>,
    export: Zeroizing<[u8; 32]>,
    session: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:08x})", self.id)
    }
}

/// What a MAC is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Wire v2 datagrams.
    Datagram,
    /// The challenge on new mesh connections.
    Admission,
    /// What is handed to strangers on request: `/hive/peers`, `/hive/join`, bootstrap downloads.
    Export,
    /// Browsers that are signed in.
    Session,
}

impl Key {
    fn bytes(&self, purpose: Purpose) -> &[u8; 32] {
        match purpose {
            Purpose::Datagram => &self.datagram,
            Purpose::Admission => &self.admission,
            Purpose::Export => &self.export,
            Purpose::Session => &self.session,
        }
    }

    /// HMAC-SHA-256 (RFC 2104) over the concatenation of `parts`.
    pub fn mac(&self, purpose: Purpose, parts: &[&[u8]]) -> [u8; 32] {
        hmac(self.bytes(purpose), parts)
    }

    /// Checks a MAC in constant time.
    pub fn verify(&self, purpose: Purpose, parts: &[&[u8]], mac: &[u8]) -> bool {
        constant_time_eq(&self.mac(purpose, parts), mac)
    }

    /// The secret it was made of.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }
}

/// HMAC-SHA-256 with a key of any length.
pub fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Compares without revealing where two byte strings differ.
pub fn constant_time_eq(left: &[u8], right: &[u8]) -> bool {
    use subtle::ConstantTimeEq as _;
    left.ct_eq(right).into()
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The keys in use: one signs, all verify. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keyring {
    keys: std::sync::Arc<Vec<Key>>,
}

/// Most keys of a ring: the one that signs, one that is coming and one that is going.
pub const KEYS_MAX: usize = 3;

impl Keyring {
    /// A ring of one key.
    pub fn new(secret: &Secret) -> Self {
        Self { keys: std::sync::Arc::new(vec![secret.key()]) }
    }

    /// A ring that signs with the first and verifies with all; at most [`KEYS_MAX`], the rest is ignored.
    pub fn with_older(signing: &Secret, older: &[Secret]) -> Self {
        let keys = std::iter::once(signing).chain(older).take(KEYS_MAX).map(Secret::key).collect();
        Self { keys: std::sync::Arc::new(keys) }
    }

    /// The key that signs.
    pub fn signing(&self) -> &Key {
        &self.keys[0]
    }

    /// The key of this number.
    pub fn by_id(&self, id: u32) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// All keys, the signing one first.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn write(content: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("secret");
        fs::write(&path, content).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        (directory, path)
    }

    #[test]
    fn good_secrets_are_read_without_white_space() {
        for good in ["a3f9c8e2d1b4a3f9c8e2d1b4a3f9c8e2", "k7#Qz!v9Wm@2Lp$8Xr&5Tn*3Yb^6Hd+1Jf"] {
            let (_directory, path) = write(&format!("  {good}\n"), 0o600);
            let secret = Secret::from_file(&path, false).expect("accepted").expect("present");
            assert_eq!(secret.expose(), good.as_bytes());
        }
    }

    #[test]
    fn bad_secrets_are_refused_with_the_command_that_mends_them() {
        let cases = [
            ("", 0o600, "hive secret generate"),
            ("short", 0o600, "hive secret generate"),
            ("passwordpassword", 0o600, "--weak-secret"),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 0o600, "--weak-secret"),
            ("0123456789012345678901234567890123456789", 0o600, "--weak-secret"),
            ("a3f9c8e2d1b4a3f9c8e2d1b4a3f9c8e2", 0o644, "chmod 0600"),
            ("a3f9c8e2d1b4a3f9c8e2d1b4a3f9c8e2", 0o660, "chmod 0600"),
            ("a3f9".repeat(2_000).leak(), 0o600, "hive secret generate"),
        ];
        for (content, mode, expected) in cases {
            let (_directory, path) = write(content, mode);
            let message = Secret::from_file(&path, false).expect_err(content).to_string();
            assert!(message.contains(expected), "{content}: {message}");
        }
        let (_directory, path) = write("passwordpassword", 0o600);
        assert!(Secret::from_file(&path, true).expect("--weak-secret").is_some());
        assert!(Secret::from_file(Path::new("/nonexistent/secret"), false).expect("absent").is_none());
    }

    #[test]
    fn a_group_may_read_it_when_it_is_the_agents_or_roots() {
        let own = rustix::process::getegid().as_raw();
        let (_directory, path) = write("a3f9c8e2d1b4a3f9c8e2d1b4a3f9c8e2", 0o640);
        std::os::unix::fs::chown(&path, None, Some(own)).expect("own group");
        assert!(Secret::from_file(&path, false).expect("accepted").is_some());
        assert!(is_own_group(0) && !is_own_group(4_000_000));
        // Only root can give a file to a group that it is not in.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, None, Some(4_000_000)).expect("foreign group");
            let message = Secret::from_file(&path, false).expect_err("foreign").to_string();
            assert!(message.contains("group 4000000") && message.contains("chmod 0600"), "{message}");
        }
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let message = SecretError::Io { action: "read", path: "/s".into(), source: denied }.to_string();
        assert!(message.contains("chmod 0600 /s"), "{message}");
    }

    #[test]
    fn purposes_and_secrets_do_not_verify_each_other() {
        let key = Secret::generate().key();
        let mac = key.mac(Purpose::Datagram, &[b"one", b"two"]);
        assert!(key.verify(Purpose::Datagram, &[b"onetwo"], &mac));
        assert!(!key.verify(Purpose::Admission, &[b"onetwo"], &mac));
        assert!(!key.verify(Purpose::Datagram, &[b"onetwo"], &mac[..16]));
        assert!(!Secret::generate().key().verify(Purpose::Datagram, &[b"onetwo"], &mac));
    }

    #[test]
    fn nothing_secret_is_ever_printed() {
        let secret = Secret::generate();
        let text = String::from_utf8_lossy(secret.expose()).into_owned();
        let printed = format!("{secret:?} {:?} {:?}", secret.key(), Keyring::new(&secret));
        assert!(!printed.contains(&text));
        assert!(printed.contains(&secret.fingerprint()));
    }

    #[test]
    fn a_generated_secret_survives_its_file() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("etc/secret");
        let secret = Secret::generate();
        secret.write_new(&path).expect("writes");
        assert!(secret.write_new(&path).is_err(), "never overwrites");
        let read = Secret::from_file(&path, false).expect("accepted").expect("present");
        assert_eq!(read.expose(), secret.expose());
        assert_eq!(Keyring::new(&read).signing().id, secret.key().id);
    }
}
