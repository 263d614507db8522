//! The audit log, and sessions of browsers.

use serde::{Deserialize, Serialize};

use crate::engine::access::Scope;
use crate::engine::id::UnixMillis;

/// What people had done, the newest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct AuditList {
    /// Entries.
    pub entries: Vec<AuditLine>,
    /// Number of the last entry ever written.
    pub last: u64,
    /// Ask for what lies before this one next; none: there is nothing older.
    pub before: Option<u64>,
}

/// One act, written down before it was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct AuditLine {
    /// Its number, from 1, without gaps.
    pub number: u64,
    /// When.
    pub at: UnixMillis,
    /// Who.
    pub by: String,
    /// From where: an address, or `socket`.
    pub from: String,
    /// The node that was asked.
    pub node: String,
    /// Method and path.
    pub act: String,
    /// What was sent along, shortened and without secrets.
    pub summary: String,
    /// Hash over this entry and the hash of the one before it, hexadecimal.
    pub hash: String,
}

/// What checking the chain found.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct AuditCheck {
    /// All that is kept is what was written.
    pub intact: bool,
    /// Entries that were checked.
    pub entries: u64,
    /// Number of the last entry ever written.
    pub last: u64,
    /// Hash of it, hexadecimal: the same on all nodes that have applied as much.
    pub head: String,
    /// Where the chain is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A key to be exchanged for a session.
#[derive(Clone, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SignInRequest {
    /// The admin key or a token.
    pub key: String,
}

/// Who a browser is signed in as.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct BrowserSession {
    /// `the admin key`, or `token NAME`; none: nobody.
    pub name: Option<String>,
    /// What it opens.
    pub scope: Option<Scope>,
    /// It is over then.
    pub expires_at: Option<UnixMillis>,
}

/// All browsers are signed out.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "node", derive(utoipa::ToSchema))]
pub struct SessionsEnded {
    /// How often that was done in this hive so far.
    pub times: u64,
}
