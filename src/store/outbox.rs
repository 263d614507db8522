//! `outbox.db`: what this node must still report once there is a quorum again, durable and in order.
//!
//! Every record has a key of its owner's choice; putting the same key again replaces the record but keeps its place. Never done
//! here: sending.

use std::path::Path;

use super::database::{Database, Durability, Migrations};
use super::{FatalHook, StoreError};

/// Name of the file in the state directory.
pub const FILE: &str = "outbox.db";
/// Most records that wait; a node that makes more results than this without a quorum has to stop building.
pub const RECORDS_MAX: u32 = 10_000;

pub(super) const MIGRATIONS: Migrations = &[
    "CREATE TABLE outbox(seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, value BLOB NOT NULL) STRICT;",
];

/// One record that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Chosen by its owner.
    pub key: String,
    /// Opaque.
    pub value: Vec<u8>,
}

/// The open database.
#[derive(Clone, Debug)]
pub struct Outbox {
    db: Database,
}

impl Outbox {
    /// Opens or makes it.
    pub fn open(directory: &Path, fatal: FatalHook) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let (db, ()) = Database::open(&path, Durability::Full, MIGRATIONS, "hive-outbox-db", fatal, |_| Ok(()))?;
        Ok(Self { db })
    }

    /// The database underneath.
    pub fn database(&self) -> &Database {
        &self.db
    }

    /// Stores a record; durable when this returns. False when [`RECORDS_MAX`] wait already and the key is new.
    pub async fn put(&self, key: String, value: Vec<u8>) -> Result<bool, StoreError> {
        self.db
            .write(move |connection| {
                let updated = connection.execute("UPDATE outbox SET value = ?2 WHERE key = ?1", (&key, &value))?;
                if updated == 1 {
                    return Ok(true);
                }
                let waiting: i64 = connection.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0))?;
                if waiting >= i64::from(RECORDS_MAX) {
                    return Ok(false);
                }
                connection.execute("INSERT INTO outbox(key, value) VALUES (?1, ?2)", (&key, &value))?;
                Ok(true)
            })
            .await
    }

    /// The oldest records, at most `limit`.
    pub async fn list(&self, limit: u32) -> Result<Vec<Record>, StoreError> {
        self.db
            .write(move |connection| {
                let mut statement = connection.prepare_cached("SELECT key, value FROM outbox ORDER BY seq LIMIT ?1")?;
                let rows = statement
                    .query_map([limit.min(RECORDS_MAX)], |row| Ok(Record { key: row.get(0)?, value: row.get(1)? }))?;
                rows.collect()
            })
            .await
    }

    /// Forgets a record. Fine when it is gone already.
    pub async fn done(&self, key: String) -> Result<(), StoreError> {
        self.db.write(move |connection| connection.execute("DELETE FROM outbox WHERE key = ?1", [key]).map(drop)).await
    }

    /// Finishes and closes.
    pub async fn close(&self) {
        self.db.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn records_keep_their_order_and_survive() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let outbox = Outbox::open(directory.path(), FatalHook::exit()).expect("opens");
        for key in ["b", "a", "c", "a"] {
            assert!(outbox.put(key.to_owned(), key.as_bytes().to_vec()).await.expect("puts"));
        }
        outbox.done("b".to_owned()).await.expect("forgets");
        outbox.done("b".to_owned()).await.expect("twice is fine");
        outbox.close().await;
        let outbox = Outbox::open(directory.path(), FatalHook::exit()).expect("opens");
        let keys: Vec<_> = outbox.list(10).await.expect("lists").into_iter().map(|record| record.key).collect();
        assert_eq!(keys, ["a", "c"]);
    }
}
