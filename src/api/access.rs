//! Keys for control from other machines, as the commands of a node see them. A key itself is in the answer that makes it, and in
//! no other.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::access::Scope;
use crate::engine::id::UnixMillis;

/// Who signs the certificates of the hive's nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct Authority {
    /// SHA-256 of its certificate, as browsers show it: pairs of hexadecimal digits with colons.
    pub sha256: String,
    /// Its certificate, in PEM.
    pub pem: String,
}

/// Who may control the hive from another machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct AccessView {
    /// The admin key; none: nobody has one.
    pub admin_key: Option<AdminKeyView>,
    /// The file of this node in which the key is, when it is the hive's.
    #[cfg_attr(feature = "node", schema(value_type = Option<String>))]
    pub key_file: Option<PathBuf>,
    /// Tokens by name.
    pub tokens: Vec<TokenView>,
}

/// The admin key, without itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct AdminKeyView {
    /// Tells keys apart.
    pub fingerprint: String,
    /// Who set it.
    pub set_by: String,
    /// When.
    pub set_at: UnixMillis,
}

/// A token, without itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct TokenView {
    /// Its name.
    pub name: String,
    /// What it opens.
    pub scope: Scope,
    /// The drone that it is for.
    pub drone: Option<String>,
    /// Who made it.
    pub made_by: String,
    /// When.
    pub made_at: UnixMillis,
    /// It is over then; none: never by itself.
    pub expires_at: Option<UnixMillis>,
    /// It is over.
    pub over: bool,
}

/// What is to become of the admin key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdminKeyRequest {
    /// A new one is made; the old one opens nothing any more.
    Rotate,
    /// This one counts.
    Set {
        /// The key.
        key: String,
    },
    /// Nobody has one.
    Remove,
}

/// What became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct AdminKeyChanged {
    /// The key that was made; none when the caller chose it, or there is none now.
    pub key: Option<String>,
    /// Tells keys apart.
    pub fingerprint: Option<String>,
    /// Where this node keeps it.
    #[cfg_attr(feature = "node", schema(value_type = Option<String>))]
    pub file: Option<PathBuf>,
    /// Why it is not kept there.
    pub problem: Option<String>,
}

/// A token to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Its name.
    pub name: String,
    /// What it opens.
    pub scope: Scope,
    /// The drone that it is for, with scope `drone` only.
    #[serde(default)]
    pub drone: Option<String>,
    /// It is over after so long, milliseconds; none: never by itself.
    #[serde(default)]
    pub lives_ms: Option<u64>,
}

/// A token that was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct TokenMade {
    /// Its text, which nobody can tell again.
    pub token: String,
    /// What else there is to say of it.
    #[serde(flatten)]
    pub about: TokenView,
}
