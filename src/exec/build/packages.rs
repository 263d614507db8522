//! Packages that a build made, opened as the build's own and checked by their format before they count.
//!
//! Never done here: knowing which packages should have come out.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::collect::{self, Found};
use super::verdict::Failure;
use crate::engine::id::Sha256Hash;
use crate::exec::format::{Caps, FormatError, deb, gpkg};
use crate::exec::signatures::Signatures;

/// Whose fault a package is that came out of a build here: a limit of ours is policy, a disk is the node's, the rest the build's.
pub(super) fn failure(name: &str, error: FormatError) -> Failure {
    match error {
        FormatError::Damaged(problem) => Failure::build(format!("{name} is no whole package: {problem}")),
        FormatError::Refused(problem) => Failure::policy(format!("{name} is not taken: {problem}")),
        FormatError::Io(error) => Failure::infra(format!("{name} cannot be read: {error}")),
    }
}

fn digest(file: &mut File) -> io::Result<(Sha256Hash, u64)> {
    file.rewind()?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 64 << 10];
    let mut size = 0u64;
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            return Ok((Sha256Hash(hasher.finalize().into()), size));
        }
        hasher.update(&buffer[..length]);
        size += length as u64;
    }
}

/// A Gentoo package below `root`, with the digest under which it may be kept: what was checked is what is stored.
pub(super) fn gpkg(
    root: &Path,
    path: &str,
    owner: u32,
    signatures: Option<&Signatures>,
) -> Result<(gpkg::Gpkg, Found), Failure> {
    let name = path.rsplit('/').next().unwrap_or(path).to_owned();
    let mut file = collect::open_regular(root, Path::new(path), owner)
        .map_err(|error| Failure::build(format!("{name}: {error}")))?;
    let expected = digest(&mut file)?;
    let package = gpkg::verify(&mut file, Caps::default()).map_err(|error| failure(&name, error))?;
    if let Some(signatures) = signatures {
        // Nobody's package is at fault: this node signs wrongly, or not at all, or what it made was changed.
        let checked = signatures.check(&mut file, &package);
        checked.map_err(|error| Failure::infra(format!("{name} is not taken: {error}")))?;
    }
    Ok((package, Found { name, path: path.to_owned(), expected: Some(expected) }))
}

/// A Debian package that is open already; its name has to be what it says of itself.
pub(super) fn deb(name: &str, file: &mut File) -> Result<deb::Deb, Failure> {
    let package = deb::verify(file, Caps::default()).map_err(|error| failure(name, error))?;
    let stem = name.strip_suffix(".deb").or_else(|| name.strip_suffix(".udeb")).unwrap_or(name);
    if stem != package.file_stem() {
        return Err(Failure::build(format!("{name} holds {}, as its control file says", package.file_stem())));
    }
    Ok(package)
}
