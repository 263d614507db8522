//! Keys for control from other machines: whose a key is that somebody sent, and how the hive comes to have one.
//!
//! ```text
//!   founding ─► file, 0600 ─┐
//!   variable of a member ───┴─► SetFirstKey, where the hive has none
//!   rotate, set, remove (socket) ─► SetKey ─► file
//! ```
//!
//! A key that was set later wins over what a file or a variable says: a restart must not undo a rotation. Never done here: deciding what
//! a key opens (`web::guard`), and writing a key into a log or an answer, but into the one to whoever had it made.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use super::submitting::wait_until;
use super::{accepted, propose};
use crate::api::{
    AccessView, AdminKeyChanged, AdminKeyRequest, AdminKeyView, ApiError, ApiResult, ErrorCode, TokenMade,
    TokenRequest, TokenView,
};
use crate::clock::{now_ms, unix_now};
use crate::engine::access::{AccessChange, KeyHash, Scope, Token, token_digest};
use crate::engine::command::Command;
use crate::engine::state::State;
use crate::keyring::{SECRET_MIN_BITS, SECRET_MIN_LEN, Secret, constant_time_eq};
use crate::web::node::Holder;

/// How long a change may take before it is answered with "no quorum".
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries to tell the hive a key that this node holds.
const OFFER_PAUSE: Duration = Duration::from_secs(5);
/// What a token begins with, so that people and scanners know it when they see one.
const TOKEN_PREFIX: &str = "hive-token-";

/// Whose key this is. All that the hive knows are compared, each in constant time, whatever the first comparison says.
pub(super) fn holder(shared: &Shared, key: &[u8]) -> Option<Holder> {
    let (hive_ms, now) = (shared.hive_ms(now_ms()), unix_now());
    let digest = token_digest(key);
    shared.read(|state| {
        let mut found = is_admin_key(state, key).then(|| Holder {
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

/// Without a key the same is done, so that nobody learns by the time it takes whether there is one.
pub(super) fn is_admin_key(state: &State, key: &[u8]) -> bool {
    let known = state.admin_key().map(|key| key.hash);
    let hash = known.unwrap_or(KeyHash { salt: [0; 16], digest: [0; 32] });
    let same = constant_time_eq(&KeyHash::of(hash.salt, key).digest, &hash.digest);
    same && known.is_some()
}

/// Why a key that a person chose is not good enough; none when it is. It is stored under a fast digest, as only strong ones are.
pub(super) fn weakness(key: &Secret, allow_weak: bool) -> Option<String> {
    let length = key.expose().len();
    if length < SECRET_MIN_LEN {
        return Some(format!("it has {length} characters, at least {SECRET_MIN_LEN} are needed"));
    }
    let bits = key.strength_bits();
    let weak = bits < SECRET_MIN_BITS && !allow_weak;
    weak.then(|| format!("it is too easy to guess (about {bits:.0} bit, {SECRET_MIN_BITS:.0} are needed)"))
}

/// Makes the key of a hive that is about to be founded, unless the operator gave one. A hive without a key is a good hive, so nothing
/// fails here.
pub(super) fn make_at_founding(shared: &Shared) {
    let path = &shared.config.admin_key_file;
    if shared.config.admin_key.is_some() || path.exists() {
        return;
    }
    match Secret::generate().write_new(path) {
        Ok(()) => {
            tracing::warn!(file = %path.display(), "made the hive's admin key; show it with: hive admin key show")
        }
        Err(error) => {
            tracing::warn!(%error, "no admin key could be kept, so nobody controls this hive from another machine");
            let text =
                format!("There is no admin key: {} cannot be written. Make one: hive admin key rotate", path.display());
            shared.notice("admin-key", Some(text));
        }
    }
}

/// The key that this node holds and may offer to a hive without one: what its environment says, or what it made as the founder.
fn at_hand(shared: &Shared) -> Option<(Secret, String)> {
    if let Some((variable, key)) = &shared.config.admin_key {
        return Some((Secret::from_bytes(key.0.as_bytes()), format!("{variable} on {}", shared.me.name)));
    }
    let founder = shared.read(|state| state.founder().is_some_and(|founder| founder.info.peer_id == shared.me.peer_id));
    if !founder {
        return None;
    }
    match Secret::from_file(&shared.config.admin_key_file, shared.config.weak_secret) {
        Ok(key) => key.map(|key| (key, format!("the founder, {}", shared.me.name))),
        Err(error) => {
            tracing::warn!(file = %shared.config.admin_key_file.display(), %error, "the admin key cannot be used");
            None
        }
    }
}

/// Tells the hive the key that this node holds, where the hive has none. Ends when it has one, or this node has nothing to offer.
pub(super) async fn offer(shared: Arc<Shared>) {
    let mut applied = shared.consensus.replica().watch();
    loop {
        while !shared.is_member() {
            if applied.changed().await.is_err() {
                return;
            }
        }
        let Some((key, by)) = at_hand(&shared) else { return };
        if shared.read(|state| state.admin_key().is_some()) {
            if !shared.read(|state| is_admin_key(state, key.expose())) {
                tracing::warn!(by, "the hive has another admin key, which stays; change it with: hive admin key set");
            }
            return;
        }
        let hash = KeyHash::of(rand::random(), key.expose());
        let command = Command::Access { change: AccessChange::SetFirstKey { hash }, by };
        match propose(&shared, command, TIMEOUT).await.and_then(accepted) {
            Ok(()) => wait_until(&shared, |state| state.admin_key().is_some()).await,
            Err(error) => {
                tracing::debug!(%error, "the hive has not taken the admin key yet");
                tokio::time::sleep(OFFER_PAUSE).await;
            }
        }
    }
}

/// Who may control the hive from another machine.
pub(super) fn view(shared: &Shared) -> AccessView {
    let key = Secret::from_file(&shared.config.admin_key_file, true).ok().flatten();
    let (hive_ms, now) = (shared.hive_ms(now_ms()), unix_now());
    shared.read(|state| {
        let current = key.is_some_and(|key| is_admin_key(state, key.expose()));
        AccessView {
            admin_key: state.admin_key().map(|key| AdminKeyView {
                fingerprint: key.hash.fingerprint(),
                set_by: key.set_by.clone(),
                set_at: key.set_at,
            }),
            key_file: current.then(|| shared.config.admin_key_file.clone()),
            tokens: state.tokens().map(|(name, token)| token_view(name, token, token.is_over(hive_ms, now))).collect(),
        }
    })
}

fn token_view(name: &str, token: &Token, over: bool) -> TokenView {
    TokenView {
        name: name.to_owned(),
        scope: token.scope,
        drone: token.drone.clone(),
        made_by: token.made_by.clone(),
        made_at: token.made_at,
        expires_at: token.expires_at,
        over,
    }
}

/// Changes the admin key. It is kept in this node's file after the hive has it.
pub(super) async fn change(shared: &Shared, request: AdminKeyRequest, by: String) -> ApiResult<AdminKeyChanged> {
    let (key, made) = match request {
        AdminKeyRequest::Rotate => (Some(Secret::generate()), true),
        AdminKeyRequest::Set { key } => (Some(Secret::from_bytes(key.as_bytes())), false),
        AdminKeyRequest::Remove => (None, false),
    };
    if let Some(why) = key.as_ref().filter(|_| !made).and_then(|key| weakness(key, shared.config.weak_secret)) {
        let message = format!("this key is not used: {why}");
        return Err(ApiError::new(ErrorCode::Invalid, message, "have one made: hive admin key rotate"));
    }
    let hash = key.as_ref().map(|key| KeyHash::of(rand::random(), key.expose()));
    let change = hash.map_or(AccessChange::RemoveKey, |hash| AccessChange::SetKey { hash });
    accepted(propose(shared, Command::Access { change, by }, TIMEOUT).await?)?;
    wait_until(shared, |state| state.admin_key().map(|key| key.hash) == hash).await;
    let path = &shared.config.admin_key_file;
    let kept = match &key {
        Some(key) => replace(path, key),
        None => fs::remove_file(path).or_else(|error| {
            // There was none here.
            if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
        }),
    };
    shared.notice("admin-key", None);
    let text = |key: Secret| String::from_utf8_lossy(key.expose()).into_owned();
    Ok(AdminKeyChanged {
        file: (key.is_some() && kept.is_ok()).then(|| path.clone()),
        key: key.filter(|_| made).map(text),
        fingerprint: hash.map(|hash| hash.fingerprint()),
        problem: kept.err().map(|error| format!("{} cannot be written: {error}", path.display())),
    })
}

/// Replaces the file, whole or not at all.
fn replace(path: &Path, key: &Secret) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(key.expose())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

/// Makes a token.
pub(super) async fn add_token(shared: &Shared, request: TokenRequest, by: String) -> ApiResult<TokenMade> {
    let text = format!("{TOKEN_PREFIX}{}", hex::encode(rand::random::<[u8; 32]>()));
    let TokenRequest { name, scope, drone, lives_ms } = request;
    let digest = token_digest(text.as_bytes());
    let change = AccessChange::AddToken { name: name.clone(), scope, drone, digest, lives_ms };
    accepted(propose(shared, Command::Access { change, by }, TIMEOUT).await?)?;
    let find = |state: &State| {
        let found = state.tokens().find(|(known, token)| *known == name && token.digest == digest);
        found.map(|(name, token)| token_view(name, token, false))
    };
    wait_until(shared, |state| find(state).is_some()).await;
    let about = shared.read(find).ok_or_else(|| {
        ApiError::new(
            ErrorCode::Timeout,
            "the token was made, but does not show here yet",
            "revoke it, and make another",
        )
    })?;
    Ok(TokenMade { token: text, about })
}

/// Revokes a token.
pub(super) async fn revoke_token(shared: &Shared, name: String, by: String) -> ApiResult<AccessView> {
    let change = AccessChange::RevokeToken { name: name.clone() };
    accepted(propose(shared, Command::Access { change, by }, TIMEOUT).await?)?;
    wait_until(shared, |state| state.tokens().all(|(known, _)| known != name)).await;
    Ok(view(shared))
}
