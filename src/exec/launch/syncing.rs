//! A sync of the package trees excludes every program of an attempt, and is done seldom, whoever asks for it.
//!
//! Never done here: the sync itself (see [`tree`]).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Launcher;
use crate::clock::now_ms;
use crate::exec::{ExecError, tree};
use crate::tasks;

impl Launcher {
    /// Syncs the package trees, unless something runs here, or the last time is too near. What has begun is brought to its end.
    pub(in crate::exec) async fn sync_trees(&self, output: mpsc::Sender<Bytes>) -> Result<(), ExecError> {
        let refused = |why: &str| Err(ExecError::Refused(why.to_owned()));
        let Some(policy) = self.inner.options.sync else {
            return refused("this node is not to sync its package tree: build.portage_sync");
        };
        let Ok(trees) = Arc::clone(&self.inner.trees).try_write_owned() else {
            return Err(ExecError::Busy);
        };
        // The agent counts from its own begin, a moment before; a tenth less is no temptation.
        let mut synced_ms = self.inner.synced_ms.lock().await;
        let interval = policy.interval - policy.interval / 10;
        let since = |at_ms: u64| Duration::from_millis(now_ms().saturating_sub(at_ms));
        if synced_ms.is_some_and(|at_ms| since(at_ms) < interval) {
            return refused("the last sync is not so long ago as build.portage_sync_interval_s wants");
        }
        *synced_ms = Some(now_ms());
        drop(synced_ms);
        let portage = self.inner.options.portage.clone();
        let done = tasks::spawn("tree-sync", async move {
            let done = tree::sync(&portage, policy.timeout, &output).await;
            drop(trees);
            done
        });
        done.await.map_err(io::Error::other).map_err(ExecError::io("sync the package tree"))?
    }
}
