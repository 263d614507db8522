//! The incarnation: a counter that says how often this node has started, raised and on disk before a socket opens.
//!
//! Others keep the highest they have seen per node; so a restarted node is told from its own past, and a copy of its directory
//! from the original.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use super::{StoreError, sync_directory};

/// Name of the file in the state directory.
pub const FILE: &str = "incarnation";

/// The counter as it stands, 0 before the first start.
pub fn read(directory: &Path) -> Result<u64, StoreError> {
    let path = directory.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(StoreError::io("read", &path, error)),
    };
    // Starting over at 0 would let others take this start for an old one, so a damaged file is for a person to decide about.
    text.trim().parse().map_err(|_| StoreError::Damaged {
        path,
        what: "it should hold one number; write one larger than any incarnation this node had".to_owned(),
    })
}

/// Raises the counter and returns it. It is on disk when this returns.
pub fn raise(directory: &Path) -> Result<u64, StoreError> {
    let path = directory.join(FILE);
    let next = read(directory)?.saturating_add(1);
    let beside = directory.join(format!("{FILE}.new"));
    let write = || -> io::Result<()> {
        let mut file = fs::File::create(&beside)?;
        writeln!(file, "{next}")?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    };
    write().map_err(|source| StoreError::io("write", &path, source))?;
    sync_directory(directory)?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_rises_and_survives() {
        let directory = tempfile::tempdir().expect("temporary directory");
        assert_eq!(read(directory.path()).expect("reads"), 0);
        for expected in 1..=3 {
            assert_eq!(raise(directory.path()).expect("raises"), expected);
            assert_eq!(read(directory.path()).expect("reads"), expected);
        }
    }

    #[test]
    fn a_damaged_counter_is_not_guessed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        fs::write(directory.path().join(FILE), "seven").expect("writes");
        assert!(matches!(raise(directory.path()), Err(StoreError::Damaged { .. })));
        assert_eq!(fs::read_to_string(directory.path().join(FILE)).expect("reads"), "seven");
    }
}
