//! `hive backup`: the state of this node's copy, streamed while everything goes on.
//!
//! Any member can be asked, also without a quorum: what it has applied is committed. How old that may be is said beside the bytes. Never
//! done here: keeping backups.

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use tokio_util::io::ReaderStream;

use super::internal;
use super::node_api::Api;
use super::shared::Shared;
use crate::api::{ApiError, ApiResult, ErrorCode, words};
use crate::clock::unix_now;
use crate::consensus::ConsensusError;
use crate::web::backup::{BackupApi, BackupFile};
use crate::web::node::Answer;

/// Bytes read at a time.
const PIECE_BYTES: usize = 256 << 10;

impl BackupApi for Api {
    fn backup(&self) -> Answer<'_, BackupFile> {
        make(&self.shared).boxed()
    }
}

async fn make(shared: &Shared) -> ApiResult<BackupFile> {
    if shared.hive().is_none() {
        return Err(nothing_yet());
    }
    let copy = shared.consensus.backup().await.map_err(|error| not_made(shared, &error))?;
    let header = copy.header(&shared.me.name, unix_now()).ok_or_else(nothing_yet)?;
    let lines = header.to_bytes().map_err(internal)?;
    let file = tokio::fs::File::open(copy.path()).await.map_err(internal)?;
    tracing::info!(index = header.applied.index, bytes = header.size, "a backup is being fetched");
    let size_bytes = lines.len() as u64 + header.size;
    let pieces = ReaderStream::with_capacity(file, PIECE_BYTES).map(move |piece| {
        // The copy is removed with its last owner, which is this stream.
        let _kept = &copy;
        piece
    });
    let lines = futures::stream::once(async move { Ok(Bytes::from(lines)) });
    Ok(BackupFile { name: header.file_name(), size_bytes, bytes: lines.chain(pieces).boxed() })
}

fn not_made(shared: &Shared, error: &ConsensusError) -> ApiError {
    let ConsensusError::NoRoom { needed_bytes, free_bytes } = error else { return internal(error) };
    let (needed, free) = (words::bytes(*needed_bytes), words::bytes(*free_bytes));
    ApiError::new(
        ErrorCode::Conflict,
        format!("{} has {free} free, too little for a copy of {needed}", shared.config.state_dir.display()),
        "free some space there (df -h), or make the backup on another node",
    )
}

fn nothing_yet() -> ApiError {
    ApiError::new(
        ErrorCode::Conflict,
        "this node belongs to no hive, or has nothing of it yet",
        "make the backup on another node, or wait until it has joined (hive status)",
    )
}
