//! openraft's log storage on `raft.db`.
//!
//! Appended entries are readable at once and acknowledged when they are durable; the writer thread puts many of them into one
//! transaction. Reads come from a bounded cache of the newest entries, else from the writer's queue, behind every write that
//! was asked for before: so no reader ever sees less than was appended.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::Stream;
use futures::future::BoxFuture;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};

use super::codec;
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::store::raft_db::{Loaded, LogPoint, RaftDb, RawEntry};

/// Most bytes of entries that one read for replication or an observer returns (an entry that is longer comes alone): a frame
/// never holds up a heartbeat on the same stream for long.
pub(crate) const SLICE_MAX_BYTES: usize = 512 << 10;
/// Bytes of the newest entries kept in memory, for followers and observers that are nearly up to date.
const CACHE_MAX_BYTES: usize = 4 << 20;
/// Entries kept in memory at most.
const CACHE_MAX_ENTRIES: usize = 4_096;

/// Asked before entries up to an index are removed; returns when the state that covers them is durable.
pub(crate) type PurgeGuard = Arc<dyn Fn(LogPoint) -> BoxFuture<'static, io::Result<()>> + Send + Sync>;

#[derive(Default)]
struct Cache {
    entries: BTreeMap<u64, (Entry, usize)>,
    bytes: usize,
    vote: Option<Vote>,
    committed: Option<LogPoint>,
    committed_is_stored: bool,
    purged: Option<LogPoint>,
    last: Option<LogPoint>,
}

impl Cache {
    fn insert(&mut self, entry: Entry, size: usize) {
        self.last = Some(codec::point_of(&entry.log_id));
        self.bytes += size;
        if let Some((_, replaced)) = self.entries.insert(entry.log_id.index, (entry, size)) {
            self.bytes -= replaced;
        }
        while self.bytes > CACHE_MAX_BYTES || self.entries.len() > CACHE_MAX_ENTRIES {
            let Some((_, (_, size))) = self.entries.pop_first() else { break };
            self.bytes -= size;
        }
    }

    fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.entries.retain(|index, _| keep(*index));
        self.bytes = self.entries.values().map(|(_, size)| size).sum();
    }

    /// The entries of the range, if all that the log has of it are here.
    fn slice(&self, start: u64, end: u64, max_bytes: usize) -> Option<Vec<Entry>> {
        let end = end.min(self.last.map_or(0, |last| last.index + 1));
        let start = start.max(self.purged.map_or(0, |purged| purged.index + 1));
        if start >= end {
            return Some(Vec::new());
        }
        self.entries.get(&start)?;
        let mut bytes = 0;
        let mut found = Vec::new();
        for (entry, size) in self.entries.range(start..end).map(|(_, held)| held) {
            bytes += size;
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Some(found)
    }
}

/// The log. Cheap to clone; clones share one cache and one writer.
#[derive(Clone)]
pub(crate) struct LogStore {
    db: RaftDb,
    cache: Arc<Mutex<Cache>>,
    guard: Option<PurgeGuard>,
}

impl LogStore {
    pub(crate) fn new(db: RaftDb, loaded: &Loaded, guard: Option<PurgeGuard>) -> io::Result<Self> {
        let cache = Cache {
            vote: loaded.vote.as_deref().map(codec::vote_from_bytes).transpose()?,
            committed: loaded.committed,
            committed_is_stored: true,
            purged: loaded.purged,
            last: loaded.last,
            ..Cache::default()
        };
        Ok(Self { db, cache: Arc::new(Mutex::new(cache)), guard })
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// 99th percentile of the commits of the last minute, milliseconds.
    pub(crate) fn commit_p99_ms(&self) -> Option<u64> {
        self.db.database().commit_p99_ms()
    }

    /// Last purged entry.
    pub(crate) fn purged(&self) -> Option<LogPoint> {
        self.cache().purged
    }

    /// No leader ever wrote to it.
    pub(crate) fn is_untouched(&self) -> bool {
        let cache = self.cache();
        cache.last == cache.purged && cache.vote.is_none()
    }

    /// Finishes what is queued and closes the file.
    pub(crate) async fn close(&self) {
        self.db.database().close().await;
    }

    /// Entries from `start` to before `end`: at least one when the log has one, and then no more than `max_bytes`.
    pub(crate) async fn slice(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        if let Some(found) = self.cache().slice(start, end, max_bytes) {
            return Ok(found);
        }
        let raw = self.db.read(start, end, max_bytes).await?;
        raw.iter().map(codec::entry_from_raw).collect()
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

fn check_holes(entries: &[Entry]) -> io::Result<()> {
    match entries.windows(2).find(|pair| pair[0].log_id.index + 1 != pair[1].log_id.index) {
        None => Ok(()),
        Some(pair) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the log has a hole behind entry {}", pair[0].log_id.index),
        )),
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        let entries = self.slice(start, end, usize::MAX).await?;
        check_holes(&entries)?;
        Ok(entries)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let entries = self.slice(start, end, SLICE_MAX_BYTES).await?;
        check_holes(&entries)?;
        Ok(entries)
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (start, end) = bounds(&range);
        let state = (self.clone(), start, Vec::new().into_iter());
        Box::pin(futures::stream::try_unfold(state, move |(log, next, mut slice)| async move {
            if let Some(entry) = slice.next() {
                return Ok(Some((entry, (log, next, slice))));
            }
            if next >= end {
                return Ok(None);
            }
            let entries: Vec<Entry> = log.slice(next, end, SLICE_MAX_BYTES).await?;
            check_holes(&entries)?;
            let mut slice = entries.into_iter();
            let following = slice.as_slice().last().map_or(end, |entry| entry.log_id.index + 1);
            Ok(slice.next().map(|entry| (entry, (log, following, slice))))
        }))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.cache().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let cache = self.cache();
        Ok(LogState { last_purged_log_id: cache.purged.map(codec::log_id), last_log_id: cache.last.map(codec::log_id) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.db.save_vote(codec::vote_to_bytes(vote)?).await?;
        self.cache().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // It rides along with the next append: losing it costs nothing but repeating an election's work.
        let mut cache = self.cache();
        cache.committed = committed.as_ref().map(codec::point_of);
        cache.committed_is_stored = false;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.cache().committed.map(codec::log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut raw: Vec<RawEntry> = Vec::new();
        let committed = {
            let mut cache = self.cache();
            for entry in entries {
                let encoded = codec::entry_to_raw(&entry)?;
                cache.insert(entry, encoded.bytes.len());
                raw.push(encoded);
            }
            let unsaved = !cache.committed_is_stored;
            cache.committed_is_stored = true;
            cache.committed.filter(|_| unsaved)
        };
        self.db.append(raw, committed, move || callback.io_completed(Ok(()))).await?;
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let keep = last_log_id.as_ref().map(|id| id.index);
        {
            let mut cache = self.cache();
            if cache.last.map(|last| last.index) <= keep {
                return Ok(());
            }
            cache.retain(|index| keep.is_some_and(|keep| index <= keep));
            cache.last = last_log_id.as_ref().map(codec::point_of).or(cache.purged);
        }
        self.db.truncate_after(keep).await?;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let upto = codec::point_of(&log_id);
        if let Some(guard) = &self.guard {
            guard(upto).await?;
        }
        {
            let mut cache = self.cache();
            cache.retain(|index| index > upto.index);
            cache.purged = Some(upto);
            if cache.last.is_none_or(|last| last.index <= upto.index) {
                cache.last = Some(upto);
            }
        }
        self.db.purge(upto).await?;
        Ok(())
    }
}
