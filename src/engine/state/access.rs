//! The admin key and the tokens: at most one key, and named tokens of which each is made once.
//!
//! Never done here: comparing a key with what somebody sent, which takes a clock and constant time.

use std::collections::BTreeMap;

use super::rows::RowKey;
use super::{Context, Executed, State, reject};
use crate::engine::access::{AccessChange, AdminKey, KeyHash, Scope, Token};
use crate::engine::command::{RejectCode, Reply};
use crate::engine::grammar;
use crate::engine::id::UnixMillis;

/// Most tokens of a hive: each request with one is compared with all.
pub const TOKENS_MAX: usize = 256;
/// Longest life of a token that has an end, milliseconds: ten years.
const LIFE_MAX_MS: u64 = 3_653 * 86_400_000;

/// What the hive remembers of keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    pub(super) admin: Option<AdminKey>,
    pub(super) tokens: BTreeMap<String, Token>,
    /// Rises when all browsers are signed out: a session of an earlier number is over.
    pub(super) session_epoch: u64,
}

impl Keys {
    pub(super) fn row_keys(&self) -> impl Iterator<Item = RowKey> {
        let admin = self.admin.is_some().then_some(RowKey::AdminKey);
        let sessions = (self.session_epoch > 0).then_some(RowKey::SessionEpoch);
        admin.into_iter().chain(sessions).chain(self.tokens.keys().cloned().map(RowKey::Token))
    }
}

impl State {
    /// The admin key; none: nobody controls this hive from another machine.
    pub fn admin_key(&self) -> Option<&AdminKey> {
        self.keys.admin.as_ref()
    }

    /// All tokens by name, those that are over included.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, &Token)> {
        self.keys.tokens.iter().map(|(name, token)| (name.as_str(), token))
    }

    /// Browsers that signed in under an earlier number are signed out.
    pub fn session_epoch(&self) -> u64 {
        self.keys.session_epoch
    }

    pub(super) fn change_access(&mut self, context: Context, change: AccessChange, by: &str) -> Executed {
        if !grammar::is_plain_text(by, 128) {
            return reject(RejectCode::Invalid, "who acts must be 1 to 128 bytes without control characters");
        }
        match change {
            AccessChange::SetKey { hash } => self.set_key(context, Some(hash), by),
            AccessChange::SetFirstKey { .. } if self.keys.admin.is_some() => {}
            AccessChange::SetFirstKey { hash } => self.set_key(context, Some(hash), by),
            AccessChange::RemoveKey => self.set_key(context, None, by),
            AccessChange::AddToken { name, scope, drone, digest, lives_ms } => {
                let hive_ms = self.meta.hive_time_ms;
                let token = Token {
                    scope,
                    drone,
                    digest,
                    made_by: by.to_owned(),
                    made_at: context.at,
                    expires_at: lives_ms.map(|life| UnixMillis(context.at.0.saturating_add(life))),
                    expires_hive_ms: lives_ms.map(|life| hive_ms.saturating_add(life)),
                };
                return self.add_token(context, name, token, lives_ms);
            }
            AccessChange::RevokeToken { name } => {
                if self.keys.tokens.remove(&name).is_none() {
                    return reject(RejectCode::NotFound, "no token of this name");
                }
                self.dirty.insert(RowKey::Token(name));
            }
            AccessChange::EndSessions => {
                self.keys.session_epoch += 1;
                self.dirty.insert(RowKey::SessionEpoch);
            }
        }
        Ok(Reply::Done)
    }

    fn set_key(&mut self, context: Context, hash: Option<KeyHash>, by: &str) {
        self.keys.admin = hash.map(|hash| AdminKey { hash, set_by: by.to_owned(), set_at: context.at });
        self.dirty.insert(RowKey::AdminKey);
    }

    fn add_token(&mut self, context: Context, name: String, token: Token, lives_ms: Option<u64>) -> Executed {
        let hive_ms = self.meta.hive_time_ms;
        if grammar::node_name(&name).is_err() {
            return reject(RejectCode::Invalid, "a token is named like a node: 1-63 characters of A-Z a-z 0-9 . _ -");
        }
        if token.drone.is_some() != (token.scope == Scope::Drone) {
            return reject(RejectCode::Invalid, "a token of scope drone, and no other, names its drone");
        }
        if token.drone.as_ref().is_some_and(|drone| grammar::node_name(drone).is_err()) {
            return reject(RejectCode::Invalid, "a drone is named with 1-63 characters of A-Z a-z 0-9 . _ -");
        }
        if lives_ms.is_some_and(|life| life == 0 || life > LIFE_MAX_MS) {
            return reject(RejectCode::Invalid, "a token lives for ten years at most, or without an end");
        }
        let known = self.keys.tokens.get(&name);
        if known.is_some_and(|known| !known.is_over(hive_ms, context.at)) {
            return reject(RejectCode::Conflict, format!("there is a token {name}; revoke it first"));
        }
        if known.is_none() && self.keys.tokens.len() >= TOKENS_MAX {
            return reject(RejectCode::Conflict, format!("there are {TOKENS_MAX} tokens; revoke one first"));
        }
        self.keys.tokens.insert(name.clone(), token);
        self.dirty.insert(RowKey::Token(name));
        Ok(Reply::Done)
    }
}
