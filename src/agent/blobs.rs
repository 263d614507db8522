//! Blobs across the hive: fetched from whoever has them, copied so that one machine's end loses nothing.
//!
//! A source archive is on two more nodes before its job is acknowledged, an artifact on one more before its job is done, as far
//! as the hive has that many. Never done here: storing (see [`blobs`](crate::blobs)), or deciding what a job is.

use std::time::Duration;

use super::control::{self, Request, Response};
use super::shared::Shared;
use super::views;
use crate::blobs::fetch::fetch;
use crate::engine::id::{PeerId, Sha256Hash};
use crate::transport;

/// Most time for another node to fetch a copy.
const KEEP_TIMEOUT: Duration = Duration::from_secs(600);

/// Fetches a blob from a peer that asked this node to keep it.
pub(super) async fn keep(shared: &Shared, from: &PeerId, sha256: Sha256Hash, size: u64) -> Result<(), String> {
    if shared.blobs.size(sha256) == Some(size) {
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
) -> Result<(), String> {
    if shared.blobs.size(sha256).is_some() {
        return Ok(());
    }
    let mut sources: Vec<PeerId> = first.filter(|peer| **peer != shared.me.peer_id).into_iter().cloned().collect();
    for peer in shared.alive_peers() {
        if !sources.contains(&peer) {
            sources.push(peer);
        }
    }
    fetch(&shared.blobs, &shared.mesh, sha256, size, &sources).await.map(drop).map_err(|error| error.to_string())
}

/// Asks up to `copies` other nodes to keep a blob, voters first. Returns how many do; fewer than asked for only when there
/// are not that many nodes that are alive and have room.
pub(super) async fn spread(shared: &Shared, sha256: Sha256Hash, size: u64, copies: usize) -> usize {
    let voters = views::voters(&shared.consensus.status());
    let mut peers = shared.alive_peers();
    peers.sort_by_key(|peer| !voters.contains(peer));
    let mut kept = 0;
    for peer in peers {
        if kept >= copies {
            break;
        }
        let request = Request::KeepBlob { sha256, size };
        match transport::call(&shared.mesh, &peer, control::PROTOCOL, &request, KEEP_TIMEOUT).await {
            Ok(Response::Ok) => kept += 1,
            Ok(other) => tracing::debug!(%peer, ?other, "does not keep a copy"),
            Err(error) => tracing::debug!(%peer, %error, "does not keep a copy"),
        }
    }
    kept
}
