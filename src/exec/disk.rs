//! How much disk an attempt takes, and the end of one that takes more than it may.
//!
//! Few file systems can bound a directory, so it is measured. Measuring walks a tree, which may have a million files, and is
//! therefore done seldom: only when the file system itself says that it holds noticeably more than at the last look, or after a
//! while, because others may have freed what this attempt took. Files that were removed and are still held open are counted,
//! too: a walk does not see them. Never done here: ending anything.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::MissedTickBehavior;

use super::SAFE_PATH;
use super::cgroup::Group;
use crate::clock::now_ms;

/// The file system is asked so often what it holds.
const TICK: Duration = Duration::from_millis(250);
/// Looked at when so large a part of the limit was written since the last look.
const GROWTH_PART: u64 = 16;
/// Looked at after so long although the file system holds no more, milliseconds.
const LOOK_AT_LEAST_MS: u64 = 60_000;
/// Between two looks at least so many times what the last one took, so that they never take more than a fifth of a processor.
const GAP: u64 = 4;
/// Between two looks without new reason so many times what the last one took.
const IDLE_GAP: u64 = 50;
/// Longest time of one look. A tree that takes longer is looked at again later; the file system's own limit holds meanwhile.
const LOOK_TIMEOUT: Duration = Duration::from_secs(120);

/// An attempt that took more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Outgrown {
    /// What it took, bytes.
    pub(super) bytes: u64,
    /// What it may take on this host, bytes.
    pub(super) limit_bytes: u64,
}

/// Watches the directories of one attempt.
pub(super) struct Watch {
    places: Vec<PathBuf>,
    group: Option<Group>,
    limit_bytes: u64,
    held_bytes: u64,
    looked_ms: u64,
    took_ms: u64,
}

impl Watch {
    /// Over these directories. A limit of 0 is none.
    pub(super) fn new(places: Vec<PathBuf>, group: Option<Group>, limit_bytes: u64) -> Self {
        let held_bytes = held(&places);
        Self { places, group, limit_bytes, held_bytes, looked_ms: now_ms(), took_ms: 0 }
    }

    /// Answers once the attempt takes more than it may; never, where there is no limit.
    pub(super) async fn outgrown(&mut self) -> Outgrown {
        if self.limit_bytes == 0 {
            return std::future::pending().await;
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let since_ms = now_ms().saturating_sub(self.looked_ms);
            let grown = self.has_grown() && since_ms >= self.took_ms.saturating_mul(GAP);
            if (grown || since_ms >= LOOK_AT_LEAST_MS.max(self.took_ms.saturating_mul(IDLE_GAP)))
                && let Some(outgrown) = self.look().await
            {
                return outgrown;
            }
        }
    }

    /// The last look, after the program has ended: it may have written more since the one before.
    pub(super) async fn at_the_end(&mut self) -> Option<Outgrown> {
        if self.limit_bytes > 0 && self.has_grown() { self.look().await } else { None }
    }

    fn has_grown(&self) -> bool {
        held(&self.places).saturating_sub(self.held_bytes) >= self.limit_bytes / GROWTH_PART
    }

    async fn look(&mut self) -> Option<Outgrown> {
        let begun_ms = now_ms();
        self.held_bytes = held(&self.places);
        let mut bytes = removed_but_open(self.group.as_ref(), &self.places);
        for place in &self.places {
            bytes = bytes.saturating_add(below(place).await.unwrap_or(0));
        }
        self.looked_ms = now_ms();
        self.took_ms = self.looked_ms.saturating_sub(begun_ms);
        let limit_bytes = self.limit_bytes;
        (bytes > limit_bytes).then_some(Outgrown { bytes, limit_bytes })
    }
}

/// What the file systems of these directories hold together, bytes.
fn held(places: &[PathBuf]) -> u64 {
    let stats = places.iter().filter_map(|place| rustix::fs::statvfs(place).ok());
    // Directories of one file system count it several times; growth is only seen the sooner.
    stats.map(|stat| stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize)).sum()
}

/// What a tree takes, bytes, by coreutils: any depth, no link followed, hard links once, no other file system. What vanishes
/// meanwhile is no error.
async fn below(place: &Path) -> Option<u64> {
    let du = Command::new("du")
        .args(["--summarize", "--one-file-system", "--block-size=1", "--"])
        .arg(place)
        .env_clear()
        .env("PATH", SAFE_PATH)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LOOK_TIMEOUT, du).await.ok()?.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Files that members of the attempt hold open after they were removed, on the file systems of these directories, bytes.
fn removed_but_open(group: Option<&Group>, places: &[PathBuf]) -> u64 {
    let devices: BTreeSet<u64> =
        places.iter().filter_map(|place| fs::metadata(place).ok()).map(|at| at.dev()).collect();
    let mut seen = BTreeSet::new();
    let mut bytes = 0u64;
    for pid in group.map(Group::members).unwrap_or_default() {
        for open in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let Ok(file) = fs::metadata(open.path()) else { continue };
            let removed = file.is_file() && file.nlink() == 0 && devices.contains(&file.dev());
            if removed && seen.insert((file.dev(), file.ino())) {
                bytes = bytes.saturating_add(file.blocks().saturating_mul(512));
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tree_is_measured_by_what_it_takes() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let place = directory.path().to_owned();
        fs::create_dir(place.join("a")).expect("mkdir");
        fs::write(place.join("a/file"), vec![7; 1 << 20]).expect("writes");
        fs::hard_link(place.join("a/file"), place.join("again")).expect("links");
        std::os::unix::fs::symlink("/usr", place.join("out")).expect("links");
        let bytes = below(&place).await.expect("measured");
        assert!((1 << 20..3 << 19).contains(&bytes), "{bytes}");
        let mut watch = Watch::new(vec![place.clone()], None, 1 << 19);
        assert_eq!(watch.look().await, Some(Outgrown { bytes, limit_bytes: 1 << 19 }));
        watch.limit_bytes = 2 << 20;
        assert_eq!(watch.look().await, None);
        assert_eq!(below(&place.join("nowhere")).await, None);
    }
}
