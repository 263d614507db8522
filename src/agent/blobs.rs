//! Blobs across the hive: fetched from whoever has them, copied so that one machine's end loses nothing.
//!
//! A source archive is on two more nodes before its job is acknowledged, an artifact on one more before its job is done, as far
//! as the hive has that many. What nothing refers to any more is removed. Never done here: storing (see [`blobs`](crate::blobs)),
//! deciding what a job is, or what is still needed (see [`keeping`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::control::{self, Request, Response};
use super::shared::Shared;
use super::{staging, views};
use crate::api::{ApiError, ErrorCode};
use crate::blobs::fetch::{FetchError, fetch};
use crate::blobs::{BlobError, BlobStore, age_ms};
use crate::clock::{now_ms, unix_now};
use crate::engine::id::{PeerId, Sha256Hash};
use crate::engine::keeping;
use crate::store::ASIDE_MARK;
use crate::transport;

/// Most time for another node to fetch a copy, however short: one that hangs must not use up the patience of whoever waits.
const KEEP_TIMEOUT: Duration = Duration::from_secs(15);
/// And so much more for each MiB of it: half of what a slow radio link carries.
const KEEP_TIMEOUT_PER_MIB: Duration = Duration::from_secs(1);

/// A copy of the state that may be older than this does not decide what is needed, milliseconds.
const CURRENT_MS: u64 = 10_000;
/// Nor does one that has had so little time since the start, milliseconds.
const SETTLED_MS: u64 = 600_000;

/// Whether the blob is here and its bytes are right. A copy that is there but damaged is set aside, so that it is fetched anew: what
/// is acknowledged here may be the last good copy tomorrow. One that is there is wanted again, so it counts as new.
async fn is_here(shared: &Shared, sha256: Sha256Hash, size: Option<u64>) -> Result<bool, FetchError> {
    match shared.blobs.open_verified_async(sha256).await {
        Ok((_, found)) if size.is_none_or(|size| size == found) => {
            if let Err(error) = shared.blobs.touch(sha256) {
                tracing::debug!(%sha256, %error, "not touched");
            }
            // It may have been removed as old in this very moment.
            Ok(shared.blobs.size(sha256).is_some())
        }
        Ok((_, found)) => Err(FetchError::Size { hash: sha256, found, named: size.unwrap_or(found) }),
        Err(BlobError::NotFound(_) | BlobError::Corrupt(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Why a blob cannot be had or kept, as an error of the API. `what` says it for people: "a.deb is not to be had".
pub(super) fn problem(what: &str, error: &FetchError) -> ApiError {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let (code, hint) = match error {
        FetchError::NotFound { .. } | FetchError::Store(BlobError::NotFound(_)) => {
            (ErrorCode::NotFound, "the nodes that have it may be away; see hive peers")
        }
        FetchError::Failed { .. } => (ErrorCode::Unreachable, "the nodes that have it may be away; see hive peers"),
        FetchError::Store(BlobError::Full { .. }) => (ErrorCode::Degraded, "free some disk space on this node"),
        FetchError::Store(BlobError::Io { source, .. }) if matches!(source.kind(), StorageFull | QuotaExceeded) => {
            (ErrorCode::Degraded, "free some disk space on this node")
        }
        FetchError::Store(BlobError::Io { .. } | BlobError::Corrupt(_)) => {
            (ErrorCode::Internal, "try again; look at this node's disk and log: journalctl -u hive -n 50")
        }
        FetchError::Store(BlobError::TooLarge { .. }) => (ErrorCode::Invalid, "send less, at most 1 GiB at once"),
        FetchError::Size { .. } | FetchError::Store(BlobError::Mismatch { .. } | BlobError::Input(_)) => {
            (ErrorCode::Invalid, "send it again")
        }
    };
    let mut message = format!("{what}: {error}");
    // The device's own words are below what the store says.
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    ApiError::new(code, message, hint)
}

/// Fetches a blob from a peer that asked this node to keep it.
pub(super) async fn keep(shared: &Shared, from: &PeerId, sha256: Sha256Hash, size: u64) -> Result<(), String> {
    if is_here(shared, sha256, Some(size)).await.map_err(|error| error.to_string())? {
        return Ok(());
    }
    let from = std::slice::from_ref(from);
    fetch(&shared.blobs, &shared.mesh, sha256, Some(size), from).await.map(drop).map_err(|error| error.to_string())
}

/// Makes sure that a blob is on this node; asks `first`, then every member that is alive.
pub(super) async fn obtain(
    shared: &Shared,
    sha256: Sha256Hash,
    size: Option<u64>,
    first: Option<&PeerId>,
) -> Result<(), FetchError> {
    if is_here(shared, sha256, size).await? {
        return Ok(());
    }
    let mut sources: Vec<PeerId> = first.filter(|peer| **peer != shared.me.peer_id).into_iter().cloned().collect();
    for peer in shared.alive_peers() {
        if !sources.contains(&peer) {
            sources.push(peer);
        }
    }
    fetch(&shared.blobs, &shared.mesh, sha256, size, &sources).await.map(drop)
}

/// Asks up to `copies` other nodes to keep a blob, voters first. Returns how many do; fewer than asked for only when there
/// are not that many nodes that are alive and have room.
pub(super) async fn spread(shared: &Shared, sha256: Sha256Hash, size: u64, copies: usize) -> usize {
    let voters = views::voters(&shared.consensus.status());
    let mut peers = shared.alive_peers();
    peers.sort_by_key(|peer| !voters.contains(peer));
    let mib = u32::try_from(size >> 20).unwrap_or(u32::MAX);
    let patience = KEEP_TIMEOUT + KEEP_TIMEOUT_PER_MIB * mib;
    let mut kept = 0;
    for peer in peers {
        if kept >= copies {
            break;
        }
        let request = Request::KeepBlob { sha256, size };
        match transport::call(&shared.mesh, &peer, control::PROTOCOL, &request, patience).await {
            Ok(Response::Ok) => kept += 1,
            Ok(other) => tracing::debug!(%peer, ?other, "does not keep a copy"),
            Err(error) => tracing::debug!(%peer, %error, "does not keep a copy"),
        }
    }
    kept
}

/// Removes what this node no longer needs on its disk. Called every hour; `suspects` carries over what the last call doubted.
pub(super) async fn clean(shared: &Shared, suspects: &mut BTreeSet<Sha256Hash>) {
    let needed = if is_current(shared).await { needed(shared).await } else { None };
    let (blobs, state_dir) = (shared.blobs.clone(), shared.config.state_dir.clone());
    let doubted = std::mem::take(suspects);
    let cleaned = tokio::task::spawn_blocking(move || {
        let leftovers = blobs.remove_leftovers(keeping::is_stale) + remove_aside(&state_dir);
        if leftovers > 0 {
            tracing::info!(leftovers, "removed parts of transfers, damaged blobs and databases that were set aside");
        }
        needed.map(|needed| remove_unneeded(&blobs, &needed, &doubted))
    });
    match cleaned.await {
        Ok(Some(doubted)) => *suspects = doubted,
        Ok(None) => tracing::debug!("blobs are not looked at: this node's copy of the state may be old"),
        Err(error) => tracing::error!(%error, "cleaning up failed"),
    }
}

/// What of this node's blobs is needed; none when they cannot be listed.
async fn needed(shared: &Shared) -> Option<BTreeSet<Sha256Hash>> {
    let blobs = shared.blobs.clone();
    let listed = tokio::task::spawn_blocking(move || blobs.list()).await;
    let listed = match listed {
        Ok(Ok(listed)) => listed,
        Ok(Err(error)) => {
            tracing::warn!(%error, "blobs cannot be listed");
            return None;
        }
        Err(error) => {
            tracing::error!(%error, "listing blobs failed");
            return None;
        }
    };
    let stored: BTreeMap<Sha256Hash, u64> = listed.into_iter().map(|one| (one.hash, one.size)).collect();
    let build = &shared.config.build;
    let policy = keeping::Policy {
        age_max_ms: u64::from(build.keep_artifacts_days) * 86_400_000,
        total_max_bytes: build.keep_artifacts_mb << 20,
    };
    let around = keeping::Circumstances { now: unix_now(), staged_to: staging::staged_to(shared), stored: &stored };
    let needed = shared.read(|state| keeping::needed(state, policy, around));
    tracing::debug!(
        bytes = needed.artifact_bytes,
        expired = needed.expired,
        for_staging = needed.for_staging,
        "artifacts"
    );
    shared.update(|soft| {
        soft.artifacts.bytes = needed.artifact_bytes;
        soft.artifacts.expired = needed.expired;
        soft.artifacts.for_staging = needed.for_staging;
    });
    Some(needed.blobs)
}

/// Whether this node's copy of the state may say what is needed: it is the hive's present state, and no result of this node is
/// still on its way into it.
async fn is_current(shared: &Shared) -> bool {
    let status = shared.consensus.status();
    let settled = now_ms().saturating_sub(shared.me.started_ms) >= SETTLED_MS;
    settled
        && shared.is_member()
        && status.quorum
        && status.halted.is_none()
        && status.age_ms() <= CURRENT_MS
        && shared.consensus.outbox_list(1).await.is_ok_and(|waiting| waiting.is_empty())
}

fn remove_unneeded(
    blobs: &BlobStore,
    needed: &BTreeSet<Sha256Hash>,
    doubted: &BTreeSet<Sha256Hash>,
) -> BTreeSet<Sha256Hash> {
    let stored = match blobs.list() {
        Ok(stored) => stored,
        Err(error) => {
            tracing::warn!(%error, "blobs cannot be listed");
            return BTreeSet::new();
        }
    };
    let review = keeping::review(stored.iter().map(|one| (one.hash, one.age_ms)), needed, doubted);
    for hash in &review.remove {
        match blobs.remove(*hash) {
            Ok(_) => tracing::info!(%hash, "removed a blob that nothing refers to"),
            Err(error) => tracing::warn!(%hash, %error, "a blob that nothing refers to stays"),
        }
    }
    review.suspects
}

/// Removes databases that were set aside long ago, with their side files.
fn remove_aside(state_dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(state_dir) else { return 0 };
    let is_aside = |entry: &fs::DirEntry| entry.file_name().to_str().is_some_and(|name| name.contains(ASIDE_MARK));
    let is_stale =
        |entry: &fs::DirEntry| entry.metadata().is_ok_and(|found| found.is_file() && keeping::is_stale(age_ms(&found)));
    let mut removed = 0;
    for entry in entries.flatten().filter(|entry| is_aside(entry) && is_stale(entry)) {
        match fs::remove_file(entry.path()) {
            Ok(()) => removed += 1,
            Err(error) => tracing::warn!(file = %entry.path().display(), %error, "a database set aside stays"),
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_full_or_broken_disk_is_neither_a_bad_request_nor_a_missing_file() {
        let hash = Sha256Hash([1; 32]);
        let device = |kind| BlobError::Io { action: "write", path: "/x".into(), source: io::Error::from(kind) };
        let full = BlobError::Full { free_bytes: 1, directory: "/x".into() };
        let cases = [
            (FetchError::Store(full), ErrorCode::Degraded),
            (FetchError::Store(device(io::ErrorKind::StorageFull)), ErrorCode::Degraded),
            (FetchError::Store(device(io::ErrorKind::PermissionDenied)), ErrorCode::Internal),
            (FetchError::Store(BlobError::TooLarge { max_bytes: 1 }), ErrorCode::Invalid),
            (FetchError::Size { hash, found: 2, named: 1 }, ErrorCode::Invalid),
            (FetchError::NotFound { hash, asked: 2 }, ErrorCode::NotFound),
            (FetchError::Failed { hash, reasons: vec!["gone".to_owned()] }, ErrorCode::Unreachable),
        ];
        for (error, expected) in cases {
            let told = problem("a.deb is not to be had", &error);
            assert_eq!(told.code, expected, "{told:?}");
            assert!(!told.hint.is_empty() && told.message.starts_with("a.deb is not to be had: "), "{told:?}");
        }
        let told = problem("a.deb is not to be had", &FetchError::Store(device(io::ErrorKind::PermissionDenied)));
        assert!(told.message.ends_with("permission denied"), "the device's own words: {}", told.message);
    }
}
