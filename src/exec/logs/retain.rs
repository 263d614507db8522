//! What becomes of logs that have ended: packed when that was missed, dropped when too old or too many.
//!
//! Never done here: touching a log that somebody writes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Key, LogStore, if_there, packed};
use crate::clock;
use crate::engine::id::JobId;

/// A log on disk, with everything that belongs to it.
#[derive(Debug, Default)]
struct Kept {
    modified_ms: u64,
    bytes: u64,
    files: Vec<PathBuf>,
    /// Size of the file that is not packed, if there is one.
    plain_bytes: Option<u64>,
}

impl LogStore {
    /// Packs a log. The caller sees to it that nobody writes it.
    pub(super) fn pack(&self, key: Key) -> io::Result<()> {
        let temporary = self.path(key, "zst-new");
        packed::pack(&self.path(key, "log"), &temporary)?;
        fs::rename(&temporary, self.path(key, "log.zst"))?;
        fs::remove_file(self.path(key, "log"))
    }

    /// Packs a log that an agent has left plain, because it was killed. One that is begun anew meanwhile is left alone.
    fn pack_left_over(&self, key: Key) -> io::Result<()> {
        let temporary = self.path(key, "zst-new");
        packed::pack(&self.path(key, "log"), &temporary)?;
        let growing = self.growing();
        if growing.contains_key(&key) {
            return fs::remove_file(&temporary);
        }
        fs::rename(&temporary, self.path(key, "log.zst"))?;
        fs::remove_file(self.path(key, "log"))
    }

    /// Packs what was left plain, and drops logs that are too old or too many, never one that grows. Answers how many were dropped. A log
    /// that cannot be looked at, packed or dropped is left for the next time and keeps no other from going. Blocks; call it every
    /// hour or so.
    pub fn retain(&self) -> io::Result<usize> {
        self.retain_at(clock::unix_now().0)
    }

    fn retain_at(&self, now_ms: u64) -> io::Result<usize> {
        let options = &self.inner.options;
        let mut logs = Vec::new();
        for job in fs::read_dir(&options.directory)?.flatten() {
            let Some(id) = job.file_name().to_str().and_then(|name| name.parse::<JobId>().ok()) else {
                continue;
            };
            match self.ended_of(id, &job.path()) {
                Ok(ended) => logs.extend(ended),
                Err(error) => tracing::warn!(directory = %job.path().display(), %error, "logs cannot be listed"),
            }
        }
        logs.sort_unstable_by_key(|(key, kept)| (kept.modified_ms, *key));
        let mut total: u64 = logs.iter().map(|(_, kept)| kept.bytes).sum();
        let mut removed = 0;
        for (key, kept) in logs {
            let old = now_ms.saturating_sub(kept.modified_ms) > options.age_max_ms;
            if old || total > options.total_max_bytes {
                if drop_files(&kept) {
                    total -= kept.bytes;
                    removed += 1;
                }
            } else if kept.plain_bytes.is_some_and(|bytes| bytes >= options.compress_min_bytes)
                && let Err(error) = self.pack_left_over(key)
            {
                tracing::warn!(job = %key.0, attempt = key.1, %error, "a log cannot be packed");
            }
        }
        Ok(removed)
    }

    /// The logs of a job that no longer grow.
    fn ended_of(&self, job: JobId, directory: &Path) -> io::Result<Vec<(Key, Kept)>> {
        let mut logs: BTreeMap<u32, Kept> = BTreeMap::new();
        for entry in fs::read_dir(directory)?.flatten() {
            let name = entry.file_name();
            let parts = name.to_str().and_then(|name| name.split_once('.'));
            let Some((Ok(attempt), ending)) = parts.map(|(number, ending)| (number.parse::<u32>(), ending)) else {
                continue;
            };
            if self.growing().contains_key(&(job, attempt)) {
                continue;
            }
            // One that is gone since it was listed has ended and was packed, and is there under its other name.
            let Ok(metadata) = entry.metadata() else { continue };
            let Ok(modified) = metadata.modified() else { continue };
            let modified = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let kept = logs.entry(attempt).or_default();
            // What belongs to a log that is gone is as old as can be.
            if matches!(ending, "log" | "log.zst") {
                kept.modified_ms = kept.modified_ms.max(u64::try_from(modified.as_millis()).unwrap_or(u64::MAX));
            }
            kept.bytes += metadata.len();
            if ending == "log" {
                kept.plain_bytes = Some(metadata.len());
            }
            kept.files.push(entry.path());
        }
        Ok(logs.into_iter().map(|(attempt, kept)| ((job, attempt), kept)).collect())
    }
}

fn drop_files(kept: &Kept) -> bool {
    let mut all = true;
    for file in &kept.files {
        if let Err(error) = if_there(fs::remove_file(file)) {
            tracing::warn!(file = %file.display(), %error, "an old log cannot be dropped");
            all = false;
        }
        if let Some(directory) = file.parent() {
            // Fails while other attempts of the job are there, as it should.
            fs::remove_dir(directory).ok();
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::exec::logs::Options;

    fn job(number: u128) -> JobId {
        JobId(uuid::Uuid::from_u128(number))
    }

    /// A log of 100 bytes, and some of marks beside it, that ended at a time, milliseconds.
    fn ended(store: &LogStore, number: u128, at_ms: u64) {
        let mut writer = store.create(job(number), 1, 1 << 20).expect("creates");
        writer.write(&[b'x'; 100]).expect("writes");
        writer.finish().expect("finishes");
        let file = File::options().write(true).open(store.path((job(number), 1), "log")).expect("opens");
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_millis(at_ms)).expect("sets");
    }

    fn left(store: &LogStore, numbers: std::ops::RangeInclusive<u128>) -> Vec<u128> {
        numbers.filter(|number| !store.attempts(job(*number)).is_empty()).collect()
    }

    #[test]
    fn logs_go_when_they_are_older_than_the_limit_not_before() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let options = Options { directory: directory.path().to_owned(), age_max_ms: 5_000, ..Options::default() };
        let store = LogStore::open(options).expect("opens");
        for number in 1..=3 {
            ended(&store, number, 1_000_000 + u64::try_from(number).expect("small") * 1_000);
        }
        assert_eq!(store.retain_at(1_006_000).expect("retains"), 0, "the first is exactly as old as it may be");
        assert_eq!(store.retain_at(1_006_001).expect("retains"), 1);
        assert_eq!(left(&store, 1..=3), [2, 3]);
        assert!(!directory.path().join(job(1).to_string()).exists(), "its directory goes with it");
        assert_eq!(store.retain_at(900_000).expect("retains"), 0, "a clock that was set back makes nothing old");
        assert_eq!(store.retain_at(2_000_000).expect("retains"), 2);
        assert!(left(&store, 1..=3).is_empty());
    }

    #[test]
    fn the_oldest_logs_go_first_until_the_rest_fits() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let options = Options { directory: directory.path().to_owned(), ..Options::default() };
        let store = LogStore::open(options.clone()).expect("opens");
        // Written in another order than they ended.
        for (number, at_ms) in [(1, 4_000), (2, 1_000), (3, 5_000), (4, 2_000), (5, 3_000)] {
            ended(&store, number, at_ms);
        }
        let files = fs::read_dir(directory.path().join(job(1).to_string())).expect("lists").flatten();
        let each: u64 = files.map(|file| file.metadata().expect("there").len()).sum();
        // Room for three and a half.
        let store = LogStore::open(Options { total_max_bytes: each * 7 / 2, ..options }).expect("opens");
        assert_eq!(store.retain_at(6_000).expect("retains"), 2);
        assert_eq!(left(&store, 1..=5), [1, 3, 5]);
        assert_eq!(store.retain_at(6_000).expect("retains"), 0, "what fits stays");
    }

    #[test]
    fn a_log_that_grows_never_goes() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let options = Options { directory: directory.path().to_owned(), total_max_bytes: 0, ..Options::default() };
        let store = LogStore::open(options).expect("opens");
        ended(&store, 1, 1_000);
        let mut growing = store.create(job(2), 1, 1 << 20).expect("creates");
        growing.write(&[b'x'; 1_000]).expect("writes");
        assert_eq!(store.retain_at(u64::MAX).expect("retains"), 1);
        assert_eq!(left(&store, 1..=2), [2]);
        drop(growing);
        assert_eq!(store.retain_at(u64::MAX).expect("retains"), 1, "it goes once it has ended");
    }
}
