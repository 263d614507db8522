//! The node's own key and the two forms of a PeerId.
//!
//! The Ed25519 key is made once and is what a node *is*: two machines with a copy of it are one node to everybody else. The
//! file appears complete or not at all, also when two processes create it at once. Never done here: sending or logging it.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use libp2p::identity::{Keypair, ed25519};
use zeroize::Zeroizing;

use crate::engine::id::{PEER_ID_MAX_LEN, PeerId};

/// Name of the key file in the state directory.
pub const KEY_FILE: &str = "node_key";
/// First word of the file; a later format gets another one.
const FORMAT: &str = "hive-node-key-1";

/// Why the node has no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read or written.
    #[error("cannot {action} the node key {}", path.display())]
    Io {
        /// `read` or `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Others can read it.
    #[error("the node key {} can be read by others (mode {mode:04o}); mend it with: chmod 0600 {}", path.display(), path.display())]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a key.
    #[error("{} is not a node key; give this node a new one by removing the file", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// The node's private key.
#[derive(Clone)]
pub struct NodeKey(Keypair);

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", self.peer_id())
    }
}

impl NodeKey {
    /// A new key that is in no file.
    pub fn generate() -> Self {
        Self(Keypair::generate_ed25519())
    }

    /// Reads the key of this state directory, or makes one that is on disk when this returns.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, KeyError> {
        let path = state_dir.join(KEY_FILE);
        if let Some(key) = Self::load(&path)? {
            return Ok(key);
        }
        let io_error = |source| KeyError::Io { action: "create", path: path.clone(), source };
        Self::create(state_dir, &path).map_err(io_error)?;
        Self::load(&path)?.ok_or_else(|| io_error(io::ErrorKind::NotFound.into()))
    }

    fn load(path: &Path) -> Result<Option<Self>, KeyError> {
        let io_error = |source| KeyError::Io { action: "read", path: path.to_owned(), source };
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(error)),
        };
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Readable { path: path.to_owned(), mode });
        }
        let malformed = || KeyError::Malformed { path: path.to_owned() };
        // The only valid file has 81 bytes; a few more are read, so that a trailing line break does not matter.
        if metadata.len() > 128 {
            return Err(malformed());
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(io_error)?);
        let digits = text.trim().strip_prefix(FORMAT).ok_or_else(malformed)?.trim();
        let mut seed = Zeroizing::new([0u8; 32]);
        hex::decode_to_slice(digits, seed.as_mut_slice()).map_err(|_| malformed())?;
        let secret = ed25519::SecretKey::try_from_bytes(seed.as_mut_slice()).map_err(|_| malformed())?;
        Ok(Some(Self(ed25519::Keypair::from(secret).into())))
    }

    fn create(state_dir: &Path, path: &Path) -> io::Result<()> {
        fs::create_dir_all(state_dir)?;
        let secret = ed25519::SecretKey::generate();
        let text = Zeroizing::new(format!("{FORMAT} {}\n", hex::encode(secret.as_ref())));
        let temporary = state_dir.join(format!(".{KEY_FILE}.{:016x}", rand::random::<u64>()));
        let written = (|| {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            // A link, not a rename: it fails when another process was first, whose key then counts.
            match fs::hard_link(&temporary, path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            }
        })();
        let removed = fs::remove_file(&temporary);
        written?;
        removed?;
        fs::File::open(state_dir)?.sync_all()
    }

    /// What other nodes know it by.
    pub fn peer_id(&self) -> PeerId {
        to_text(&self.0.public().to_peer_id())
    }

    pub(super) fn pair(&self) -> &Keypair {
        &self.0
    }
}

/// The textual form of a libp2p peer id.
pub fn to_text(peer: &libp2p::PeerId) -> PeerId {
    PeerId::new(peer.to_base58())
}

/// The libp2p peer id of a text; none when it is not one.
pub fn from_text(peer: &PeerId) -> Option<libp2p::PeerId> {
    if peer.as_str().len() > PEER_ID_MAX_LEN {
        return None;
    }
    peer.as_str().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_survives_in_its_file_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let state = directory.path().join("state");
        let first = NodeKey::load_or_create(&state).expect("created").peer_id();
        let second = NodeKey::load_or_create(&state).expect("read").peer_id();
        assert_eq!(first, second);
        let path = state.join(KEY_FILE);
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&state).expect("lists").count(), 1, "no temporary file stays");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        let message = NodeKey::load_or_create(&state).expect_err("readable by others").to_string();
        assert!(message.contains("chmod 0600"), "{message}");
    }

    #[test]
    fn a_damaged_file_is_refused_and_never_replaced() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join(KEY_FILE);
        for content in ["", "hive-node-key-1 00", "something else", &"f".repeat(4_000)] {
            fs::write(&path, content).expect("writes");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
            let error = NodeKey::load_or_create(directory.path()).expect_err("refused");
            assert!(matches!(error, KeyError::Malformed { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).expect("still there"), content);
        }
    }

    #[test]
    fn processes_that_create_it_at_once_end_up_with_one_key() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let path = directory.path().to_owned();
                std::thread::spawn(move || NodeKey::load_or_create(&path).expect("key").peer_id())
            })
            .collect();
        let mut ids: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        ids.dedup();
        assert_eq!(ids.len(), 1);
    }

    #[test]
    fn both_forms_of_a_peer_id_convert_and_nothing_else_does() {
        let text = NodeKey::generate().peer_id();
        assert_eq!(to_text(&from_text(&text).expect("valid")), text);
        for bad in ["", "12D3Koo", "not a peer id", &"1".repeat(200)] {
            assert!(from_text(&PeerId::new(bad)).is_none(), "{bad}");
        }
    }
}
