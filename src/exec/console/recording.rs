//! Recordings of terminals, as asciicast v2: one file per session in a directory of this node, bounded by age and size.
//!
//! What was typed is not recorded, since it may be a password; what was shown is. Never done here: showing them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use super::{Size, Stop};
use crate::api::{ApiError, ErrorCode, shown};
use crate::clock;
use crate::engine::id::UnixMillis;

/// Longest recording, bytes: a terminal that shows more is ended, since nothing may happen in it unseen.
pub(super) const RECORDING_MAX: u64 = 32 << 20;
/// Recordings listed.
const LISTED_MAX: usize = 500;
const SUFFIX: &str = ".cast";
/// Bytes of the first line.
const HEAD_MAX: usize = 4 << 10;

/// A recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// Its name on its node.
    pub id: String,
    /// On whose behalf the terminal was.
    pub by: String,
    /// When it began.
    pub started_at: UnixMillis,
    /// How long it took, milliseconds, so far.
    pub duration_ms: u64,
    /// Its length, bytes.
    pub size_bytes: u64,
    /// Width and height at the beginning.
    pub size: Size,
}

/// The first line of a file.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    width: u16,
    height: u16,
    /// Seconds since 1970.
    timestamp: u64,
    title: String,
    env: std::collections::BTreeMap<String, String>,
    /// Ours, beside what the format knows.
    #[serde(default)]
    hive_by: String,
}

/// The directory.
pub(super) struct Recordings {
    directory: PathBuf,
    keep: Duration,
    keep_bytes: u64,
}

impl Recordings {
    pub(super) fn new(directory: PathBuf, keep: Duration, keep_bytes: u64) -> Self {
        Self { directory, keep, keep_bytes }
    }

    /// Begins one. Makes room first.
    pub(super) async fn begin(&self, node: &str, by: &str, size: Size, shell: &str) -> io::Result<Recorder> {
        let directory = self.directory.clone();
        let (keep, keep_bytes) = (self.keep, self.keep_bytes);
        let pruned = tokio::task::spawn_blocking(move || {
            use std::os::unix::fs::DirBuilderExt as _;
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            prune(&directory, keep, keep_bytes)
        });
        pruned.await.map_err(io::Error::other)??;
        let now = clock::unix_now();
        let id = format!("{}-{}", now.0, &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let path = self.directory.join(format!("{id}{SUFFIX}"));
        let file = tokio::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path).await?;
        let env =
            [("TERM", "xterm-256color"), ("SHELL", shell)].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let by: String = by.chars().take(200).collect();
        let head = Head {
            version: 2,
            width: size.columns,
            height: size.rows,
            timestamp: now.0 / 1_000,
            title: format!("{by} on {node}"),
            env: env.into(),
            hive_by: by,
        };
        let mut recorder = Recorder { id, file, began_ms: clock::now_ms(), written: 0, tail: Vec::new() };
        let mut text = serde_json::to_string(&head).map_err(io::Error::other)?;
        text.push('\n');
        recorder.write(text.as_bytes()).await?;
        Ok(recorder)
    }

    /// What there is, the newest first.
    pub(super) async fn list(&self) -> Result<Vec<Recording>, Stop> {
        let directory = self.directory.clone();
        let listed = tokio::task::spawn_blocking(move || list(&directory)).await.map_err(io::Error::other)?;
        Ok(listed?)
    }

    /// Opens one to read.
    pub(super) async fn open(&self, id: &str) -> Result<File, Stop> {
        let missing = || {
            let shown: String = id.chars().take(80).collect();
            Stop::Refused(ApiError::new(
                ErrorCode::NotFound,
                format!("no recording {shown:?}"),
                "see: hive recording list",
            ))
        };
        // A name that we would make: no other path can be meant by it.
        let is_ours =
            !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_ours {
            return Err(missing());
        }
        File::open(self.directory.join(format!("{id}{SUFFIX}"))).await.map_err(|_| missing())
    }
}

/// Files with their names, times and lengths, the oldest first.
fn files(directory: &Path) -> io::Result<Vec<(PathBuf, SystemTime, u64)>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_file() && entry.file_name().to_string_lossy().ends_with(SUFFIX) {
            found.push((entry.path(), metadata.modified()?, metadata.len()));
        }
    }
    found.sort();
    Ok(found)
}

fn prune(directory: &Path, keep: Duration, keep_bytes: u64) -> io::Result<()> {
    let found = files(directory)?;
    let mut total: u64 = found.iter().map(|(_, _, length)| length).sum();
    for (path, changed, length) in found {
        let is_old = changed.elapsed().is_ok_and(|age| age > keep);
        if is_old || total > keep_bytes {
            std::fs::remove_file(&path)?;
            total -= length;
        }
    }
    Ok(())
}

fn list(directory: &Path) -> io::Result<Vec<Recording>> {
    let mut listed = Vec::new();
    for (path, changed, length) in files(directory)?.into_iter().rev().take(LISTED_MAX) {
        let Some(id) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        // What somebody else put there is not ours to show.
        let Some(head) = head(&path) else { continue };
        let started_ms = id.split('-').next().and_then(|word| word.parse().ok()).unwrap_or(head.timestamp * 1_000);
        let changed_ms = changed.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        listed.push(Recording {
            id: id.to_owned(),
            by: head.hive_by,
            started_at: UnixMillis(started_ms),
            duration_ms: changed_ms.saturating_sub(started_ms),
            size_bytes: length,
            size: Size { columns: head.width, rows: head.height },
        });
    }
    Ok(listed)
}

fn head(path: &Path) -> Option<Head> {
    use std::io::Read as _;
    let mut text = Vec::new();
    std::fs::File::open(path).ok()?.take(HEAD_MAX as u64).read_to_end(&mut text).ok()?;
    serde_json::from_slice(text.split(|byte| *byte == b'\n').next()?).ok()
}

/// A recording that is being made.
pub(super) struct Recorder {
    pub(super) id: String,
    file: File,
    began_ms: u64,
    written: u64,
    /// The beginning of a character whose rest has not come yet.
    tail: Vec<u8>,
}

impl Recorder {
    /// What was shown. An error means that nothing more may happen unseen.
    pub(super) async fn shown(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tail.extend_from_slice(bytes);
        let text = shown::take_whole(&mut self.tail);
        self.event("o", &text).await
    }

    /// The window changed.
    pub(super) async fn resized(&mut self, size: Size) -> io::Result<()> {
        self.event("r", &format!("{}x{}", size.columns, size.rows)).await
    }

    async fn event(&mut self, kind: &str, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let at = clock::now_ms().saturating_sub(self.began_ms) as f64 / 1_000.0;
        self.write(format!("{}\n", json!([at, kind, text])).as_bytes()).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        if self.written > RECORDING_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the recording is full"));
        }
        self.file.write_all(bytes).await?;
        self.file.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { columns: 80, rows: 24 };

    #[tokio::test]
    async fn a_recording_is_asciicast_and_is_listed_and_pruned() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let recordings = Recordings::new(directory.path().join("r"), Duration::from_secs(3_600), 600);
        assert!(recordings.list().await.is_ok_and(|list| list.is_empty()), "before there is a directory");
        let mut recorder = recordings.begin("build1", "ann", SIZE, "/bin/sh").await.expect("begins");
        let snowman = "☃".as_bytes();
        recorder.shown(&snowman[..1]).await.expect("records");
        recorder.shown(&[&snowman[1..], b"\x1b[31m\xff"].concat()).await.expect("records");
        recorder.resized(Size { columns: 100, rows: 30 }).await.expect("records");
        let text =
            std::fs::read_to_string(directory.path().join("r").join(format!("{}.cast", recorder.id))).expect("reads");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(
            (&lines[0]["version"], &lines[0]["width"], &lines[0]["title"]),
            (&json!(2), &json!(80), &json!("ann on build1"))
        );
        assert_eq!((&lines[1][1], &lines[1][2]), (&json!("o"), &json!("☃\u{1b}[31m\u{fffd}")), "no character is torn");
        assert_eq!((&lines[2][1], &lines[2][2]), (&json!("r"), &json!("100x30")));
        let listed = recordings.list().await.ok().expect("lists");
        assert_eq!((listed[0].id.as_str(), listed[0].by.as_str(), listed[0].size), (recorder.id.as_str(), "ann", SIZE));
        assert!(recordings.open(&recorder.id).await.is_ok());
        for id in ["", "../../etc/passwd", "a/b", "nothing", "a\0b", "."] {
            assert!(matches!(recordings.open(id).await, Err(Stop::Refused(_))), "{id:?}");
        }
        for _ in 0..5 {
            recordings
                .begin("build1", "ben", SIZE, "/bin/sh")
                .await
                .expect("begins")
                .shown(&[b'x'; 200])
                .await
                .expect("records");
        }
        let listed = recordings.list().await.ok().expect("lists");
        assert!(listed.len() <= 3 && listed[0].by == "ben", "the oldest went: {listed:?}");
    }

    #[tokio::test]
    async fn a_full_recording_ends_what_is_recorded() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let recordings = Recordings::new(directory.path().to_owned(), Duration::from_secs(60), u64::MAX);
        let mut recorder = recordings.begin("build1", "ann", SIZE, "/bin/sh").await.expect("begins");
        recorder.written = RECORDING_MAX - 10;
        let error = recorder.shown(b"something longer than that").await.expect_err("full");
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
