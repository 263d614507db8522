//! Checks packages before they count as results: what they are made of, their digests, and what they would write where.
//!
//! ```text
//!   file ─► gpkg | deb ─► decompress (bounded) ─► tarball (entry by entry) ─► contents (names, links)
//!           changes ─► deb822, digests of the files beside it
//! ```
//!
//! Every byte comes from a build, an upload or another node, so nothing is believed: sizes, counts, names and decompressed bytes
//! have caps, and memory does not grow with what a header claims. Never done here: writing anything, verifying OpenPGP
//! signatures (they are recognised and reported), deciding whose fault a bad file is.

pub mod changes;
pub mod deb;
pub mod gpkg;

mod contents;
mod decompress;
mod tarball;

use std::io;

/// Caps of one check.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Most bytes that the contents of one package may have when unpacked.
    pub contents_max_bytes: u64,
    /// Most files, directories and links in one package.
    pub entries_max: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self { contents_max_bytes: 64 << 30, entries_max: 1_000_000 }
    }
}

/// What a package would install.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Files, directories and links.
    pub entries: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Why a file does not count as the package that it should be.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Cut, damaged, or not of this format.
    #[error("{0}")]
    Damaged(String),
    /// Whole, but it holds what is never taken: links and paths out of it, devices, more than the caps allow.
    #[error("{0}")]
    Refused(String),
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(io::Error),
}

impl FormatError {
    fn damaged(problem: impl Into<String>) -> Self {
        Self::Damaged(problem.into())
    }

    fn refused(problem: impl Into<String>) -> Self {
        Self::Refused(problem.into())
    }

    /// Says where in the package it is.
    fn within(self, place: &str) -> Self {
        match self {
            Self::Damaged(problem) => Self::Damaged(format!("{place}: {problem}")),
            Self::Refused(problem) => Self::Refused(format!("{place}: {problem}")),
            Self::Io(error) => Self::Io(error),
        }
    }
}

impl From<io::Error> for FormatError {
    /// What the system said is about the machine; all else was said by a decoder and is about the bytes.
    fn from(error: io::Error) -> Self {
        if error.raw_os_error().is_some() {
            return Self::Io(error);
        }
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Self::damaged("ends too early"),
            Err(error) => Self::damaged(error.to_string()),
        }
    }
}

/// A name as it may be shown: bytes of others are neither UTF-8 nor harmless.
fn shown(name: &[u8]) -> String {
    let mut text: String = String::from_utf8_lossy(name).chars().take(200).flat_map(char::escape_default).collect();
    text.insert(0, '\'');
    text.push('\'');
    text
}

#[cfg(test)]
mod fuzz;
