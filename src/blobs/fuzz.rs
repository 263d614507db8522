//! Archives of sources from anybody, and what nodes ask each other about blobs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::archive::archive;
use super::exchange::{Request, Response};
use super::unpack::{Caps, UnpackError, unpack};
use crate::engine::id::Sha256Hash;
use crate::fuzzing::{SMALL, attack, cbor, made, scratch};

/// Names below a directory with what they are: content, link, or directory.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).expect("reads").flatten() {
            let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
            let what = if kind.is_dir() {
                waiting.push(path.clone());
                "directory".to_owned()
            } else if kind.is_symlink() {
                format!("link to {}", std::fs::read_link(&path).expect("reads").display())
            } else {
                assert!(kind.is_file(), "{path:?} is neither file, directory nor link");
                format!("{:?}", std::fs::read(&path).expect("reads"))
            };
            found.insert(path.strip_prefix(root).expect("below").to_owned(), what);
        }
    }
    found
}

fn sources() -> Vec<u8> {
    let directory = scratch();
    std::fs::create_dir_all(directory.path().join("a/b")).expect("makes");
    std::fs::write(directory.path().join("a/b/file"), b"content").expect("writes");
    std::fs::write(directory.path().join("build.sh"), b"make\n").expect("writes");
    std::os::unix::fs::symlink("b/file", directory.path().join("a/link")).expect("links");
    let mut bytes = Vec::new();
    archive(directory.path(), &mut bytes).expect("archives");
    bytes
}

/// What is taken is within the directory, within the caps, and becomes an archive again that says the same.
#[test]
fn source_archive() {
    let caps = Caps { entries_max: 200, bytes_max: 1 << 20 };
    attack("source_archive", vec![sources()], 8 * SMALL, move |bytes| {
        let place = scratch();
        let inside = place.path().join("inside");
        std::fs::create_dir(&inside).expect("makes");
        let unpacked = unpack(bytes, &inside, caps);
        let around = std::fs::read_dir(place.path()).expect("reads").count();
        assert_eq!(around, 1, "something was made beside the directory");
        let found = tree(&inside);
        match unpacked {
            Ok(()) => {
                let mut again = Vec::new();
                archive(&inside, &mut again).expect("what was taken can be handed on");
                let second = place.path().join("second");
                std::fs::create_dir(&second).expect("makes");
                unpack(again.as_slice(), &second, caps).expect("its own archive");
                assert_eq!(tree(&second), found);
                true
            }
            Err(error @ UnpackError::Refused { .. }) => {
                assert!(error.to_string().chars().count() < 1_000, "{error}");
                false
            }
            Err(UnpackError::Io(_)) => false,
        }
    });
}

#[test]
fn blob_exchange() {
    let hash = Sha256Hash([5; 32]);
    let mut all = vec![
        made(&Request::Get { hash, offset: 5, length: Some(7) }),
        made(&Request::Have { hashes: vec![hash, Sha256Hash([6; 32])] }),
    ];
    all.extend([
        made(&Response::NotFound),
        made(&Response::Have { sizes: vec![None, Some(5)] }),
        made(&Response::Bytes { size: 9, length: 4 }),
        made(&Response::Refused { reason: "why".to_owned() }),
    ]);
    attack("blob_exchange", all, SMALL, |bytes| cbor::<Request>(bytes) | cbor::<Response>(bytes));
}
