//! A local directory on its way to the hive: archived as every other blob is, into a file without a name.
//!
//! Never done here: choosing what travels (see [`archive`]).

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::blobs::archive::{ArchiveError, archive};
use crate::cli::output::Failure;
use crate::engine::id::Sha256Hash;

/// An archive, complete and rewound.
#[derive(Debug)]
pub(crate) struct Packed {
    /// Its bytes, in a file without a name.
    pub(crate) file: File,
    /// Their number.
    pub(crate) size: u64,
    /// Their digest.
    pub(crate) sha256: Sha256Hash,
}

/// Archives a directory. Blocks.
pub(crate) fn pack_directory(directory: &Path) -> Result<Packed, Failure> {
    pack(directory).map_err(|error| {
        let why = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
        Failure::usage(format!("cannot pack {}: {error}{why}", directory.display()), "")
    })
}

fn pack(directory: &Path) -> Result<Packed, ArchiveError> {
    let file = tempfile::tempfile().map_err(ArchiveError::Output)?;
    let mut sink = Sink { file: BufWriter::new(file), digest: Sha256::new(), size: 0 };
    archive(directory, &mut sink)?;
    let Sink { file, digest, size } = sink;
    let mut file = file.into_inner().map_err(|error| ArchiveError::Output(error.into_error()))?;
    file.seek(SeekFrom::Start(0)).map_err(ArchiveError::Output)?;
    Ok(Packed { file, size, sha256: Sha256Hash(digest.finalize().into()) })
}

struct Sink {
    file: BufWriter<File>,
    digest: Sha256,
    size: u64,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::blobs::unpack::{Caps, unpack};

    #[test]
    fn what_is_sent_is_what_was_hashed_and_comes_out_on_the_drone_as_it_went_in() {
        let directory = tempfile::tempdir().expect("temporary directory");
        fs::create_dir_all(directory.path().join("b/deep")).expect("creates");
        fs::write(directory.path().join("b/deep/run"), "#!/bin/sh\n").expect("writes");
        fs::set_permissions(directory.path().join("b/deep/run"), fs::Permissions::from_mode(0o700)).expect("chmod");
        std::os::unix::fs::symlink("deep/run", directory.path().join("b/link")).expect("links");
        let mut packed = pack_directory(directory.path()).expect("packs");
        let mut bytes = Vec::new();
        packed.file.read_to_end(&mut bytes).expect("reads");
        assert_eq!((bytes.len() as u64, Sha256Hash(Sha256::digest(&bytes).into())), (packed.size, packed.sha256));
        let out = tempfile::tempdir().expect("temporary directory");
        unpack(bytes.as_slice(), out.path(), Caps::default()).expect("unpacks");
        let run = out.path().join("b/link");
        assert_eq!(fs::read_to_string(&run).expect("through the link"), "#!/bin/sh\n");
        assert_eq!(fs::metadata(&run).expect("there").permissions().mode() & 0o111, 0o111);
    }

    #[test]
    fn what_cannot_travel_is_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("s")).expect("binds");
        assert!(pack(directory.path()).expect_err("a socket").to_string().starts_with("s: "));
        assert!(pack_directory(Path::new("/nonexistent")).is_err());
    }
}
