//! Watches the free space of the state directory, so that writes stop before the disk is full and resume by themselves.
//!
//! *Low* (5 % or 512 MiB, whichever is reached first) refuses new proposals. *Critical* (64 MiB) also refuses the log entries
//! that others send, because a database that cannot commit ends the process. Never done here: deleting anything.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use super::StoreError;
use crate::tasks;

/// Low below this share of the file system, percent.
pub const LOW_PERCENT: u64 = 5;
/// Low below this, bytes, however large the file system is.
pub const LOW_BYTES: u64 = 512 << 20;
/// Critical below this, bytes.
pub const CRITICAL_BYTES: u64 = 64 << 20;
/// How often the free space is read.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Enough.
    Enough,
    /// No new proposals.
    Low,
    /// No log entries either.
    Critical,
}

/// Judges free and total bytes.
pub fn judge(free_bytes: u64, total_bytes: u64) -> Room {
    // On a file system of less than 10 GiB the share alone decides; else a small disk would be low for ever.
    let share = total_bytes / 100 * LOW_PERCENT;
    let low = LOW_BYTES.min(share.max(2 * CRITICAL_BYTES));
    if free_bytes < CRITICAL_BYTES {
        Room::Critical
    } else if free_bytes < low {
        Room::Low
    } else {
        Room::Enough
    }
}

/// Free (to this user) and total bytes of the file system under `path`.
pub fn measure(path: &Path) -> Result<(u64, u64), StoreError> {
    let stat = rustix::fs::statvfs(path).map_err(|error| StoreError::io("measure", path, error.into()))?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// Whether a full disk is at the bottom of an error, whatever was to be written.
pub fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
        if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
            || code == Some(rusqlite::ErrorCode::DiskFull)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The current judgement. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SpaceGuard {
    room: watch::Receiver<Room>,
}

impl SpaceGuard {
    /// Measures `directory` now and every [`POLL_INTERVAL`] on the current runtime, until the last guard is dropped.
    pub fn start(directory: &Path) -> Result<Self, StoreError> {
        let (free, total) = measure(directory)?;
        let (tx, room) = watch::channel(judge(free, total));
        tasks::spawn("space-guard", poll(directory.to_owned(), tx));
        Ok(Self { room })
    }

    /// A guard that somebody else steers; for tests.
    pub fn steered(room: watch::Receiver<Room>) -> Self {
        Self { room }
    }

    /// As of the last measurement.
    pub fn room(&self) -> Room {
        *self.room.borrow()
    }

    /// To be told when it changes.
    pub fn watch(&self) -> watch::Receiver<Room> {
        self.room.clone()
    }
}

async fn poll(directory: PathBuf, tx: watch::Sender<Room>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = tx.closed() => return,
        }
        let room = match measure(&directory) {
            Ok((free, total)) => judge(free, total),
            Err(error) => {
                tracing::warn!(%error, "free space cannot be read");
                continue;
            }
        };
        let changed = tx.send_if_modified(|current| std::mem::replace(current, room) != room);
        if changed {
            tracing::warn!(?room, directory = %directory.display(), "free space changed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_stop_before_the_disk_is_full() {
        const GIB: u64 = 1 << 30;
        assert_eq!(judge(600 << 20, 1_000 * GIB), Room::Enough);
        assert_eq!(judge(500 << 20, 1_000 * GIB), Room::Low);
        assert_eq!(judge(300 << 20, 4 * GIB), Room::Enough);
        assert_eq!(judge(200 << 20, 4 * GIB), Room::Low);
        assert_eq!(judge(60 << 20, 4 * GIB), Room::Critical);
        assert_eq!(judge(0, 0), Room::Critical);
    }

    #[test]
    fn a_full_disk_is_recognised_at_the_bottom_of_an_error() {
        let at = Path::new("incarnation");
        let full = StoreError::io("write", at, io::ErrorKind::StorageFull.into());
        assert!(is_disk_full(&full));
        let sqlite = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None);
        assert!(is_disk_full(&StoreError::Sqlite { path: at.to_owned(), source: sqlite }));
        assert!(!is_disk_full(&StoreError::io("write", at, io::ErrorKind::PermissionDenied.into())));
    }

    #[test]
    fn this_file_system_can_be_measured() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (free, total) = measure(directory.path()).expect("measures");
        assert!(free <= total && total > 0);
    }
}
