//! Content-addressed files: sources on their way to drones, and what drones made of them.
//!
//! A blob is named by the SHA-256 of its bytes and by nothing else, so that a name from outside never becomes a path. It is
//! written beside, synced and renamed; it is verified before it is used or served. [`archive`] and [`unpack`] turn directories
//! into blobs and back; [`exchange`] serves blobs to other nodes, [`fetch`] gets them. Never done here: deciding what is kept
//! or who needs what.

pub mod archive;
pub mod check;
pub mod exchange;
pub mod fetch;
pub mod store;
pub mod unpack;

pub use store::{BlobError, BlobStore, age_ms};

/// Settings of the blob store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Largest blob, bytes. Artifacts of big packages reach a few GiB.
    pub blob_max_bytes: u64,
    /// Nothing is stored when the file system would be left with less free space than this, bytes.
    pub free_min_bytes: u64,
    /// Most streams served to other nodes at once; more are told to come back.
    pub serve_max: usize,
    /// Bytes asked for in one request. Several sources work on several ranges at once.
    pub range_bytes: u64,
    /// Most sources used for one blob at once.
    pub fetch_sources_max: usize,
    /// A transfer that brings no byte for so long is given up, milliseconds.
    pub idle_timeout_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            blob_max_bytes: 8 << 30,
            free_min_bytes: 512 << 20,
            serve_max: 8,
            range_bytes: 8 << 20,
            fetch_sources_max: 4,
            idle_timeout_ms: 20_000,
        }
    }
}

#[cfg(test)]
mod fuzz;
