//! Plain files that promise durability: the incarnation, and blobs.

use std::collections::BTreeMap;
use std::path::Path;

use crash_disk::Random;
use hive::blobs::{BlobStore, Options};
use hive::store::incarnation;

use super::harness::{Story, Subject};

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

pub(crate) struct Incarnation;

impl Subject for Incarnation {
    type Content = u64;
    const NAME: &'static str = "incarnation";
    /// A start raises it further, durably, and only then says it to anybody.
    const READ_IS_DURABLE: bool = false;

    async fn act(&self, story: &mut Story<u64>, _: &mut Random) -> Result<(), String> {
        for expected in 1..=12 {
            let promise = story.ask(expected);
            let raised = incarnation::raise(&story.root()).map_err(text)?;
            assert_eq!(raised, expected);
            promise.keep();
        }
        Ok(())
    }

    async fn reopen(root: &Path) -> Result<u64, String> {
        incarnation::read(root).map_err(text)
    }
}

pub(crate) struct Blobs;

fn open(root: &Path) -> Result<BlobStore, String> {
    BlobStore::open(&root.join("blobs"), Options { free_min_bytes: 0, ..Options::default() }).map_err(text)
}

impl Subject for Blobs {
    /// Length by digest. Those whose bytes are others are not counted as there.
    type Content = BTreeMap<String, u64>;
    const NAME: &'static str = "blobs";
    /// A blob whose name could not be synced is refused to whoever brought it, and may be found there all the same.
    const READ_IS_DURABLE: bool = false;

    async fn act(&self, story: &mut Story<Self::Content>, random: &mut Random) -> Result<(), String> {
        let store = open(&story.root())?;
        for _ in 0..8 {
            let content: Vec<u8> = (0..random.below(5_000) + 1).map(|_| random.number().to_le_bytes()[0]).collect();
            let digest = {
                use sha2::Digest as _;
                hex::encode(sha2::Sha256::digest(&content))
            };
            let mut there = story.last().clone();
            there.insert(digest.clone(), content.len() as u64);
            let promise = story.ask(there);
            let (hash, size) = store.put(content.as_slice(), 1 << 20).map_err(text)?;
            assert_eq!((hash.to_string(), size), (digest, content.len() as u64));
            promise.keep();
        }
        Ok(())
    }

    async fn reopen(root: &Path) -> Result<Self::Content, String> {
        let store = open(root)?;
        let mut found = BTreeMap::new();
        for stored in store.list().map_err(text)? {
            let (_, size) = store.open_verified(stored.hash).map_err(text)?;
            found.insert(stored.hash.to_string(), size);
        }
        Ok(found)
    }
}
