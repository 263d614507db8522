//! Reading every blob of a store and comparing it with its name, beside an agent that uses it or after its end.
//!
//! A file that goes while it is read was removed by the agent, and is no damage. Never done here: setting aside, removing.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::store::hash_reader;
use crate::engine::id::Sha256Hash;

/// Shows each blob below `root`: its name, its length, and whether its bytes are what it promises.
pub fn check(root: &Path, mut each: impl FnMut(Sha256Hash, u64, bool)) -> io::Result<()> {
    let mut shards: Vec<_> = fs::read_dir(root)?.collect::<Result<_, _>>()?;
    shards.sort_by_key(fs::DirEntry::file_name);
    for shard in shards {
        let name = shard.file_name();
        let Some(prefix) = name.to_str().filter(|name| name.len() == 2) else { continue };
        let Ok(files) = fs::read_dir(shard.path()) else { continue };
        for file in files {
            let file = file?;
            let rest = file.file_name();
            let hash = rest.to_str().and_then(|rest| format!("{prefix}{rest}").parse::<Sha256Hash>().ok());
            let Some(hash) = hash else { continue };
            let mut opened = match File::open(file.path()) {
                Ok(opened) => opened,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let size = opened.metadata()?.len();
            let good = hash_reader(&mut opened)? == hash;
            each(hash, size, good);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::{BlobStore, Options};

    #[test]
    fn a_changed_blob_is_found_and_left_where_it_is() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let options = Options { free_min_bytes: 0, ..Options::default() };
        let store = BlobStore::open(directory.path(), options).expect("opens");
        let hashes: Vec<_> =
            (0..5u8).map(|byte| store.put([byte; 1_000].as_slice(), 10_000).expect("stores").0).collect();
        let look = || {
            let mut found = Vec::new();
            check(directory.path(), |hash, size, good| found.push((hash, size, good))).expect("reads");
            found
        };
        assert_eq!(look().len(), 5);
        assert!(look().iter().all(|(_, size, good)| *good && *size == 1_000));
        let name = hashes[3].to_string();
        let path = directory.path().join(&name[..2]).join(&name[2..]);
        let mut bytes = fs::read(&path).expect("reads");
        bytes[500] ^= 1;
        fs::write(&path, bytes).expect("writes");
        let bad: Vec<_> = look().into_iter().filter(|(.., good)| !good).map(|(hash, ..)| hash).collect();
        assert_eq!(bad, [hashes[3]]);
        assert!(path.exists());
    }
}
