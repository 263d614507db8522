//! **What was cancelled stops within five seconds of its drone hearing of it** (DESIGN 10), whatever its build is doing then.

use std::collections::BTreeMap;

use hive::engine::id::Token;
use hive::engine::job::JobState;

use super::{Checked, Violation};
use crate::sim::node::Node;

const NAME: &str = "cancelled";
const STOPS_MS: u64 = 5_000;

#[derive(Debug, Default)]
pub(crate) struct CancelledBuilds {
    heard: BTreeMap<Token, u64>,
    failed: Option<Violation>,
}

impl CancelledBuilds {
    /// Looks at the builds of a node that is awake.
    pub(crate) fn look(&mut self, node: &Node, now_ms: u64) {
        let Some(life) = &node.life else { return };
        for (token, build) in &life.builds {
            let cancelled = life.state.job(&build.spec.id).is_some_and(|job| job.state == JobState::Cancelled);
            if !cancelled {
                continue;
            }
            let since_ms = *self.heard.entry(*token).or_insert(now_ms);
            if now_ms > since_ms + STOPS_MS + node.paused_until_ms.saturating_sub(since_ms) {
                let what = format!(
                    "node {} still runs {} under {token}, cancelled {} ms ago",
                    node.ix,
                    build.spec.id,
                    now_ms - since_ms
                );
                self.failed.get_or_insert(Violation { invariant: NAME, what });
            }
        }
    }

    pub(crate) fn take_failure(&mut self) -> Checked {
        self.failed.take().map_or(Ok(()), Err)
    }
}
