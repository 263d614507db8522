//! openraft's state machine: hands committed entries to the [`Replica`] and snapshots from and to it.
//!
//! A snapshot is not kept: what openraft calls "the current snapshot" is the state as it is, and becomes a file only when it is
//! sent. Building one therefore only makes the state durable, which is what lets the log be purged.

use std::io;
use std::path::PathBuf;

use futures::{Stream, StreamExt as _};
use openraft::RaftSnapshotBuilder;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::SnapshotOf;

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
    use std::fmt::Debug;
    use std::ops::RangeBounds;

    use openraft::StorageError;
    use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
    use openraft::testing::log::{StoreBuilder, Suite};

    use super::*;
    use crate::consensus::log::LogStore;
    use crate::consensus::types::{Entry, Vote};
    use crate::store::FatalHook;
    use crate::store::raft_db::tests::meta;
    use crate::store::raft_db::{Genesis, RaftDb};

    struct Builder;

    fn open_log(directory: &std::path::Path) -> LogStore {
        let (db, loaded) = RaftDb::open(directory, FatalHook::exit()).expect("opens").expect("is there");
        LogStore::new(db, &loaded, None).expect("decodes")
    }

    fn create(directory: &std::path::Path) {
        let genesis = Genesis { meta: meta(directory), entries: Vec::new(), purged: None, vote: None };
        RaftDb::create(directory, &genesis).expect("creates");
    }

    impl StoreBuilder<TypeConfig, LogStore, Machine, tempfile::TempDir> for Builder {
        async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError<TypeConfig>> {
            let directory = tempfile::tempdir().expect("temporary directory");
            create(directory.path());
            let replica = Replica::open(directory.path(), FatalHook::exit()).expect("opens");
            let log = open_log(directory.path());
            Ok((directory, log, Machine::new(replica)))
        }
    }

    #[tokio::test]
    async fn the_stores_pass_openrafts_own_suite() {
        Suite::test_all(Builder).await.expect("conforms");
    }

    /// Closes and reopens both databases before every call: nothing may live in memory only.
    struct Forgetful {
        directory: PathBuf,
        log: LogStore,
    }

    impl Forgetful {
        async fn reopen(&mut self) {
            // What is noted without a sync of its own may be lost; the rest may not.
            let committed = self.log.read_committed().await.expect("reads");
            self.log.close().await;
            self.log = open_log(&self.directory);
            self.log.save_committed(committed).await.expect("notes");
        }
    }

    struct ForgetfulReader {
        log: std::sync::Arc<tokio::sync::Mutex<Forgetful>>,
    }

    impl RaftLogReader<TypeConfig> for ForgetfulReader {
        async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
            &mut self,
            range: RB,
        ) -> Result<Vec<Entry>, io::Error> {
            let mut inner = self.log.lock().await;
            inner.reopen().await;
            inner.log.try_get_log_entries(range).await
        }

        async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
            let mut inner = self.log.lock().await;
            inner.reopen().await;
            inner.log.read_vote().await
        }
    }

    impl RaftLogStorage<TypeConfig> for ForgetfulReader {
        type LogReader = Self;

        async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
            let mut inner = self.log.lock().await;
            inner.reopen().await;
            inner.log.get_log_state().await
        }

        async fn get_log_reader(&mut self) -> Self {
            Self { log: std::sync::Arc::clone(&self.log) }
        }

        async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
            let mut inner = self.log.lock().await;
            inner.reopen().await;
            inner.log.save_vote(vote).await
        }

        async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
            self.log.lock().await.log.save_committed(committed).await
        }

        async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
            self.log.lock().await.log.read_committed().await
        }

        async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
        where
            I: IntoIterator<Item = Entry> + Send,
            I::IntoIter: Send,
        {
            let mut inner = self.log.lock().await;
            inner.reopen().await;
            inner.log.append(entries, callback).await
        }

        async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
            let mut inner = self.log.lock().await;
            inner.reopen().await;
            inner.log.truncate_after(last).await
        }

        async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
            let mut inner = self.log.lock().await;
            inner.reopen().await;
            inner.log.purge(upto).await
        }
    }

    struct ForgetfulBuilder;

    impl StoreBuilder<TypeConfig, ForgetfulReader, Machine, tempfile::TempDir> for ForgetfulBuilder {
        async fn build(&self) -> Result<(tempfile::TempDir, ForgetfulReader, Machine), StorageError<TypeConfig>> {
            let (directory, log, machine) = Builder.build().await?;
            let inner = Forgetful { directory: directory.path().to_owned(), log };
            let log = ForgetfulReader { log: std::sync::Arc::new(tokio::sync::Mutex::new(inner)) };
            Ok((directory, log, machine))
        }
    }

    #[tokio::test]
    async fn the_log_passes_the_suite_when_it_is_reopened_before_every_call() {
        Suite::test_all(ForgetfulBuilder).await.expect("conforms");
    }
}
