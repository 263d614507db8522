//! openraft's state machine: hands committed entries to the [`Replica`] and snapshots from and to it.
//!
//! A snapshot is not kept: what openraft calls "the current snapshot" is the state as it is, and becomes a file only when it is
//! sent. Building one therefore only makes the state durable, which is what lets the log be purged.

use std::io;
use std::path::PathBuf;

use futures::{Stream, StreamExt as _};
use openraft::RaftSnapshotBuilder;
use openraft::type_config::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftStateMachine};

use super::codec;
use super::replica::Replica;
use super::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};
use crate::store::hive_db::HiveMeta;

/// Where the bytes of a snapshot are.
pub(crate) enum SnapshotSource {
    /// In the replica: a file is made when it is needed.
    Live(Replica),
    /// In a file that was received and verified.
    Received(PathBuf),
}

pub(crate) type Snapshot = SnapshotOf<TypeConfig, SnapshotSource>;

/// The state machine.
#[derive(Clone)]
pub(crate) struct Machine {
    replica: Replica,
}

impl Machine {
    pub(crate) fn new(replica: Replica) -> Self {
        Self { replica }
    }
}

/// What openraft wants to know about a snapshot.
pub(crate) fn snapshot_meta(meta: &HiveMeta) -> io::Result<SnapshotMeta> {
    Ok(SnapshotMeta {
        last_log_id: meta.applied.map(codec::log_id),
        last_membership: codec::membership_from_bytes(&meta.membership)?,
    })
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = SnapshotSource;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let status = self.replica.status();
        let last_membership = self.replica.membership();
        self.replica.barrier().await?;
        let meta = SnapshotMeta { last_log_id: status.applied.map(codec::log_id), last_membership };
        Ok(Snapshot { meta, snapshot: SnapshotSource::Live(self.replica.clone()) })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotSource;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.replica.applied().map(codec::log_id), self.replica.membership()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let replies = self.replica.apply(&entry).await?;
            if let Some(responder) = responder {
                responder.send(replies);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.clone()
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, snapshot: SnapshotSource) -> Result<(), io::Error> {
        match snapshot {
            SnapshotSource::Received(path) => {
                let installed = self.replica.install(&path).await;
                let _ = tokio::fs::remove_file(&path).await;
                installed?;
            }
            SnapshotSource::Live(source) => {
                let file = source.snapshot(source.applied()).await?;
                self.replica.install(&file.path).await?;
            }
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let meta = self.replica.snapshot_position().await;
        if meta.applied.is_none() {
            return Ok(None);
        }
        Ok(Some(Snapshot { meta: snapshot_meta(&meta)?, snapshot: SnapshotSource::Live(self.replica.clone()) }))
    }
}

#[cfg(test)]
mod tests {
    use openraft::StorageError;
    use openraft::testing::log::{StoreBuilder, Suite};

    use super::*;
    use crate::consensus::log::LogStore;
    use crate::store::FatalHook;
    use crate::store::raft_db::tests::meta;
    use crate::store::raft_db::{Genesis, RaftDb};

    struct Builder;

    impl StoreBuilder<TypeConfig, LogStore, Machine, tempfile::TempDir> for Builder {
        async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError<TypeConfig>> {
            let directory = tempfile::tempdir().expect("temporary directory");
            let genesis = Genesis { meta: meta(directory.path()), entries: Vec::new(), purged: None, vote: None };
            RaftDb::create(directory.path(), &genesis).expect("creates");
            let (db, loaded) = RaftDb::open(directory.path(), FatalHook::exit()).expect("opens").expect("is there");
            let log = LogStore::new(db, &loaded, None).expect("decodes");
            let replica = Replica::open(directory.path(), FatalHook::exit()).expect("opens");
            Ok((directory, log, Machine::new(replica)))
        }
    }

    #[tokio::test]
    async fn the_stores_pass_openrafts_own_suite() {
        Suite::test_all(Builder).await.expect("conforms");
    }
}
