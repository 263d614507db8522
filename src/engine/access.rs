//! Who may control the hive from another machine: the admin key and named tokens, as the hive remembers them.
//!
//! The hive holds digests, never a key: both are high in entropy (256 random bit, or what passes for the strength of a secret), so a
//! plain SHA-256 cannot be searched backwards and costs a request next to nothing. Never done here: making keys, comparing
//! them, and deciding what a scope opens.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::id::UnixMillis;

/// What a holder of a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Look at everything that the public page shows, also where that is off.
    Read,
    /// Also queue and cancel work.
    Queue,
    /// Act as one drone of the build swarm, and nothing else.
    Drone,
    /// Everything.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Queue, Self::Drone, Self::Admin];

    /// The word for people, options and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Queue => "queue",
            Self::Drone => "drone",
            Self::Admin => "admin",
        }
    }

    /// The scope of a word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }

    /// Whether who has this may do what needs `needed`.
    pub fn covers(self, needed: Self) -> bool {
        match self {
            Self::Admin => true,
            Self::Queue => matches!(needed, Self::Queue | Self::Read),
            Self::Read | Self::Drone => self == needed,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// SHA-256 of a salt and a key.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyHash {
    /// Random, so that hives with the same key cannot be told by their state.
    #[serde(with = "serde_bytes")]
    pub salt: [u8; 16],
    /// The digest.
    #[serde(with = "serde_bytes")]
    pub digest: [u8; 32],
}

impl KeyHash {
    /// Hashes a key.
    pub fn of(salt: [u8; 16], key: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"hive admin key v1");
        // Of fixed length, so that no other pair of salt and key gives the same bytes.
        hash.update(salt);
        hash.update(key);
        Self { salt, digest: hash.finalize().into() }
    }

    /// Tells keys apart for people: 8 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        hex::encode(&self.digest[..4])
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({})", self.fingerprint())
    }
}

/// SHA-256 of a token's text. Tokens are always drawn at random, so they need no salt.
pub fn token_digest(token: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"hive token v1");
    hash.update(token);
    hash.finalize().into()
}

/// The hive's admin key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminKey {
    /// What is kept of it.
    pub hash: KeyHash,
    /// Who set it.
    pub set_by: String,
    /// When, by the coordinator's clock.
    pub set_at: UnixMillis,
}

/// A named token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// What it opens.
    pub scope: Scope,
    /// The one drone as which its holder may act; for [`Scope::Drone`] only, and always there.
    pub drone: Option<String>,
    /// What is kept of it.
    #[serde(with = "serde_bytes")]
    pub digest: [u8; 32],
    /// Who made it.
    pub made_by: String,
    /// When, by the coordinator's clock.
    pub made_at: UnixMillis,
    /// It is over at this time; none: it is not over by itself.
    pub expires_at: Option<UnixMillis>,
    /// The same in hive time, milliseconds.
    pub expires_hive_ms: Option<u64>,
}

impl Token {
    /// Whether its time is over, by either of two clocks: hive time stands still while nothing is committed, and a machine's own clock
    /// may be wrong.
    pub fn is_over(&self, hive_ms: u64, now: UnixMillis) -> bool {
        self.expires_hive_ms.is_some_and(|end| hive_ms >= end) || self.expires_at.is_some_and(|end| now >= end)
    }
}

/// What changes about keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessChange {
    /// The hive has this key from now on, and no other.
    SetKey {
        /// What is kept of it.
        hash: KeyHash,
    },
    /// The same, where there is none; else nothing changes. For what is set at a start: it must not undo a rotation.
    SetFirstKey {
        /// What is kept of it.
        hash: KeyHash,
    },
    /// Nobody has the admin key.
    RemoveKey,
    /// A new token.
    AddToken {
        /// Its name, unique.
        name: String,
        /// What it opens.
        scope: Scope,
        /// The drone it is for, with [`Scope::Drone`].
        drone: Option<String>,
        /// What is kept of it.
        #[serde(with = "serde_bytes")]
        digest: [u8; 32],
        /// It is over so long after it was made, milliseconds; none: not by itself.
        lives_ms: Option<u64>,
    },
    /// A token is no longer good.
    RevokeToken {
        /// Its name.
        name: String,
    },
    /// Every browser is signed out, everywhere.
    EndSessions,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_opens_what_it_names_and_nothing_more() {
        use Scope::{Admin, Drone, Queue, Read};
        let opens =
            [(Read, vec![Read]), (Queue, vec![Read, Queue]), (Drone, vec![Drone]), (Admin, Scope::ALL.to_vec())];
        for (scope, expected) in opens {
            let covered: Vec<Scope> = Scope::ALL.into_iter().filter(|needed| scope.covers(*needed)).collect();
            assert_eq!(covered, expected, "{scope}");
            assert_eq!(Scope::from_word(scope.as_str()), Some(scope));
        }
        assert_eq!(Scope::from_word("Admin"), None);
    }

    #[test]
    fn a_token_is_over_by_whichever_clock_says_so_first() {
        let token = Token {
            scope: Scope::Read,
            drone: None,
            digest: token_digest(b"x"),
            made_by: "ann".to_owned(),
            made_at: UnixMillis(1_000),
            expires_at: Some(UnixMillis(2_000)),
            expires_hive_ms: Some(50),
        };
        assert!(!token.is_over(49, UnixMillis(1_999)));
        assert!(token.is_over(50, UnixMillis(0)));
        assert!(token.is_over(0, UnixMillis(2_000)));
        let endless = Token { expires_at: None, expires_hive_ms: None, ..token };
        assert!(!endless.is_over(u64::MAX, UnixMillis(u64::MAX)));
    }

    #[test]
    fn digests_differ_by_salt_and_purpose() {
        let key = b"0123456789abcdef";
        assert_ne!(KeyHash::of([1; 16], key).digest, KeyHash::of([2; 16], key).digest);
        assert_ne!(KeyHash::of([0; 16], key).digest, token_digest(key));
        assert!(!format!("{:?}", KeyHash::of([1; 16], key)).contains("0123456789abcdef"));
    }
}
