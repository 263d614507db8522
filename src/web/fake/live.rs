//! The node of the tests as pages that follow find it: it moves when a test says so.

use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::FakeNode;
use crate::api::{LiveChanges, NodeMetrics};
use crate::web::node::{Answer, LiveApi};

/// Where the log of the fake is.
pub(crate) struct FakeLog {
    pub(crate) index: watch::Sender<u64>,
    pub(crate) oldest: AtomicU64,
    /// Events that there are, oldest first.
    pub(crate) events: std::sync::Mutex<Vec<crate::engine::event::Event>>,
}

impl Default for FakeLog {
    fn default() -> Self {
        Self { index: watch::Sender::new(41), oldest: AtomicU64::new(1), events: std::sync::Mutex::default() }
    }
}

impl LiveApi for FakeNode {
    fn moved(&self, index: u64) -> BoxFuture<'static, u64> {
        let mut watch = self.feed.index.subscribe();
        async move {
            let at = watch.wait_for(|at| *at > index).await.map(|at| *at);
            match at {
                Ok(at) => at,
                Err(_) => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn changes(&self, since: u64) -> LiveChanges {
        let index = *self.feed.index.borrow();
        LiveChanges { index, kinds: vec!["jobs".to_owned()], jobs: Vec::new(), more_jobs: since == 0 }
    }

    fn newest_event(&self) -> u64 {
        self.feed.events.lock().expect("not poisoned").last().map_or(0, |event| event.id)
    }

    fn oldest_event(&self) -> Answer<'_, Option<u64>> {
        super::good(Some(self.feed.oldest.load(Ordering::Relaxed)))
    }

    fn node_metrics(&self) -> Vec<NodeMetrics> {
        Vec::new()
    }
}
