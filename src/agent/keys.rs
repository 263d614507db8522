//! Keys for control from other machines: whose a key is that somebody sent, and how the hive comes to have one.
//!
//! Never done here: deciding what a key opens (`web::guard`), and writing a key into a log or an answer of HTTP.

use super::shared::Shared;
use crate::clock::{now_ms, unix_now};
use crate::engine::access::{KeyHash, Scope, token_digest};
use crate::keyring::constant_time_eq;
use crate::web::node::Holder;

/// Whose key this is. All that the hive knows are compared, each in constant time, whatever the first comparison says.
pub(super) fn holder(shared: &Shared, key: &[u8]) -> Option<Holder> {
    let (hive_ms, now) = (shared.hive_ms(now_ms()), unix_now());
    let digest = token_digest(key);
    shared.read(|state| {
        // Without a key the same is done, so that nobody learns by the time it takes whether there is one.
        let known = state.admin_key().map(|key| key.hash);
        let salt = known.map_or([0; 16], |hash| hash.salt);
        let same = constant_time_eq(&KeyHash::of(salt, key).digest, &known.map_or([0; 32], |hash| hash.digest));
        let mut found = (same && known.is_some()).then(|| Holder {
            name: "the admin key".to_owned(),
            scope: Scope::Admin,
            drone: None,
        });
        for (name, token) in state.tokens() {
            if constant_time_eq(&token.digest, &digest) && !token.is_over(hive_ms, now) {
                found = Some(Holder { name: format!("token {name}"), scope: token.scope, drone: token.drone.clone() });
            }
        }
        found
    })
}
