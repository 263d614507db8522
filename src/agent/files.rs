//! `identity.json` and `peers.json`: what other programs on this machine read.
//!
//! Both are written beside and renamed, so that a reader sees the old file or the new one, never half of one. Never done
//! here: deciding their content.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use crate::api::{Identity, PeersFile};

/// The two files in the state directory.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    directory: PathBuf,
}

impl Files {
    /// In this state directory.
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Path of the identity file.
    pub(crate) fn identity_path(&self) -> PathBuf {
        self.directory.join("identity.json")
    }

    /// The identity, none when the file is absent. A file that cannot be understood counts as absent after it was set
    /// aside: an operator's edit must not keep the node from asking the hive again.
    pub(crate) fn read_identity(&self) -> anyhow::Result<Option<Identity>> {
        let path = self.identity_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("Failed to read {}", path.display())),
        };
        match serde_json::from_str(&text) {
            Ok(identity) => Ok(Some(identity)),
            Err(error) => {
                let aside = path.with_extension("json.unreadable");
                tracing::warn!(path = %path.display(), %error, aside = %aside.display(), "identity file not understood, set aside");
                fs::rename(&path, &aside).with_context(|| format!("Failed to set {} aside", path.display()))?;
                Ok(None)
            }
        }
    }

    /// Writes the identity.
    pub(crate) fn write_identity(&self, identity: &Identity) -> anyhow::Result<()> {
        write_atomically(&self.identity_path(), identity)
    }

    /// Removes the identity: the node asks again.
    pub(crate) fn remove_identity(&self) -> anyhow::Result<()> {
        match fs::remove_file(self.identity_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("Failed to remove {}", self.identity_path().display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Writes the list of peers.
    pub(crate) fn write_peers(&self, peers: &PeersFile) -> anyhow::Result<()> {
        write_atomically(&self.directory.join("peers.json"), peers)
    }

    /// The list of peers as it was last written: where to look for the hive after a restart.
    pub(crate) fn read_peers(&self) -> Option<PeersFile> {
        serde_json::from_str(&fs::read_to_string(self.directory.join("peers.json")).ok()?).ok()
    }
}

fn write_atomically<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let beside = path.with_extension("json.new");
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    let write = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        // Other programs of this machine read them, whatever the service's umask.
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    };
    write().with_context(|| format!("Failed to write {}", path.display()))
}
