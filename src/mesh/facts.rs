//! What nodes tell each other about themselves when they connect, and again when it changes.
//!
//! Facts come only from the peer itself, over a connection whose key it has proven; each carries a revision, so that an
//! older answer that arrives late changes nothing. They fit into an admission frame of 512 bytes, which is why every text
//! in them is capped. Never done here: believing what one node says about another.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

use crate::engine::grammar::{self, NODE_NAME_MAX};
use crate::engine::id::{Epoch, HiveId, UnixMillis};

/// Longest version text, bytes.
pub const VERSION_MAX: usize = 24;
/// Most entries of [`Facts::extension`].
pub const EXTENSION_ENTRIES_MAX: usize = 4;
/// Most bytes of all keys and values of [`Facts::extension`] together.
pub const EXTENSION_BYTES_MAX: usize = 64;

/// Drawn at random when a process starts: tells two processes with the same key apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instance(ByteArray<16>);

impl Instance {
    /// A new one.
    pub fn random() -> Self {
        Self(ByteArray::new(rand::random()))
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instance({})", hex::encode(&self.0[..4]))
    }
}

/// The hive a node belongs to, and in which history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allegiance {
    /// The hive.
    #[serde(rename = "h")]
    pub hive_id: HiveId,
    /// Its epoch as far as the node knows.
    #[serde(rename = "e")]
    pub epoch: Epoch,
}

/// The part of [`Facts`] that changes while a node runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalFacts {
    /// None while seeking.
    pub allegiance: Option<Allegiance>,
    /// 1–63 characters of `[A-Za-z0-9._-]`.
    pub name: String,
    /// Members of its hive that it knows, itself included; 0 while seeking.
    pub member_count: u32,
    /// When its hive was founded.
    pub founded_at: Option<UnixMillis>,
    /// Small known fields that later versions add (for dissolving, merging): at most 4, 64 bytes in all.
    pub extension: BTreeMap<String, String>,
}

/// What a node says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Raised at every start of the agent.
    #[serde(rename = "i")]
    pub incarnation: u64,
    /// The process.
    #[serde(rename = "p")]
    pub instance: Instance,
    /// Rises with each change while the process runs.
    #[serde(rename = "r")]
    pub revision: u64,
    /// None while seeking.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub allegiance: Option<Allegiance>,
    /// 1–63 characters of `[A-Za-z0-9._-]`.
    #[serde(rename = "n")]
    pub name: String,
    /// Version of the agent.
    #[serde(rename = "v")]
    pub version: String,
    /// Highest feature level it can apply.
    #[serde(rename = "f")]
    pub feature_level: u32,
    /// TCP port of its mesh listener.
    #[serde(rename = "l")]
    pub listen_port: u16,
    /// Members of its hive that it knows; 0 while seeking.
    #[serde(rename = "m", default)]
    pub member_count: u32,
    /// When its hive was founded.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub founded_at: Option<UnixMillis>,
    /// Small known fields.
    #[serde(rename = "x", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extension: BTreeMap<String, String>,
}

/// Facts that break a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// The name.
    #[error("a node name has 1 to {NODE_NAME_MAX} characters of A-Z a-z 0-9 . _ -, a letter or digit first")]
    Name,
    /// The version.
    #[error("a version has at most {VERSION_MAX} printable characters")]
    Version,
    /// The extension.
    #[error("an extension has at most {EXTENSION_ENTRIES_MAX} entries and {EXTENSION_BYTES_MAX} bytes")]
    Extension,
}

impl Facts {
    /// Checks what came from outside, or is about to be said.
    pub fn validate(&self) -> Result<(), FactsError> {
        validate_name(&self.name)?;
        if self.version.len() > VERSION_MAX || !self.version.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(FactsError::Version);
        }
        validate_extension(&self.extension)
    }

    /// Takes over the changing part. Returns false when nothing differs.
    pub fn update(&mut self, local: &LocalFacts) -> bool {
        let before = self.clone();
        self.allegiance = local.allegiance;
        self.name.clone_from(&local.name);
        self.member_count = local.member_count;
        self.founded_at = local.founded_at;
        self.extension.clone_from(&local.extension);
        let changed = before != *self;
        if changed {
            self.revision += 1;
        }
        changed
    }
}

impl LocalFacts {
    /// Checks what is about to be said.
    pub fn validate(&self) -> Result<(), FactsError> {
        validate_name(&self.name)?;
        validate_extension(&self.extension)
    }
}

fn validate_name(name: &str) -> Result<(), FactsError> {
    grammar::node_name(name).map_err(|_| FactsError::Name)
}

fn validate_extension(extension: &BTreeMap<String, String>) -> Result<(), FactsError> {
    let bytes: usize = extension.iter().map(|(key, value)| key.len() + value.len()).sum();
    if extension.len() <= EXTENSION_ENTRIES_MAX && bytes <= EXTENSION_BYTES_MAX {
        Ok(())
    } else {
        Err(FactsError::Extension)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::engine::id::EpochId;

    pub(crate) fn facts(name: &str, incarnation: u64) -> Facts {
        Facts {
            incarnation,
            instance: Instance::random(),
            revision: 1,
            allegiance: None,
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            feature_level: 1,
            listen_port: 50_555,
            member_count: 0,
            founded_at: None,
            extension: BTreeMap::new(),
        }
    }

    pub(crate) fn longest_facts() -> Facts {
        Facts {
            incarnation: u64::MAX,
            revision: u64::MAX,
            allegiance: Some(Allegiance {
                hive_id: HiveId([0xff; 16]),
                epoch: Epoch { counter: u64::MAX, id: EpochId([0xff; 16]) },
            }),
            name: "n".repeat(NODE_NAME_MAX),
            version: "v".repeat(VERSION_MAX),
            feature_level: u32::MAX,
            listen_port: u16::MAX,
            member_count: u32::MAX,
            founded_at: Some(UnixMillis(u64::MAX)),
            extension: (0..4).map(|n| (format!("k{n}"), "x".repeat(14))).collect(),
            ..facts("n", 1)
        }
    }

    #[test]
    fn names_versions_and_extensions_outside_their_limits_are_refused() {
        assert_eq!(longest_facts().validate(), Ok(()));
        for name in ["", "a b", "a/b", "é", &"n".repeat(64)] {
            assert_eq!(Facts { name: name.to_owned(), ..facts("n", 1) }.validate(), Err(FactsError::Name), "{name}");
        }
        let version = "1\u{1b}[0m".to_owned();
        assert_eq!(Facts { version, ..facts("n", 1) }.validate(), Err(FactsError::Version));
        let extension = BTreeMap::from([("k".to_owned(), "x".repeat(EXTENSION_BYTES_MAX))]);
        assert_eq!(Facts { extension, ..facts("n", 1) }.validate(), Err(FactsError::Extension));
    }

    #[test]
    fn a_revision_rises_only_when_something_changed() {
        let mut known = facts("alpha", 1);
        let same = LocalFacts { name: "alpha".to_owned(), ..LocalFacts::default() };
        assert!(!known.update(&same));
        assert_eq!(known.revision, 1);
        assert!(known.update(&LocalFacts { member_count: 3, ..same }));
        assert_eq!((known.revision, known.member_count), (2, 3));
    }
}
