//! A backup as the web sees it: bytes of a file, whose length is known before the first of them.
//!
//! Never done here: making it, and deciding who may have it (the table of routes does: the local socket alone).

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse as _;

use super::Context;
use super::answer::Handled;
use super::node::{Answer, ByteStream};

/// A backup on its way.
pub struct BackupFile {
    /// File name, without any directory.
    pub name: String,
    /// Its length.
    pub size_bytes: u64,
    /// All of it.
    pub bytes: ByteStream,
}

/// Whoever can be asked for one.
pub trait BackupApi {
    /// The replicated state at one moment.
    fn backup(&self) -> Answer<'_, BackupFile>;
}

pub(super) async fn backup(State(context): State<Context>) -> Handled {
    let file = context.node.backup().await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, file.size_bytes.to_string()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{}\"", file.name)),
    ];
    Ok((context.position(), headers, Body::from_stream(file.bytes)).into_response())
}
