//! **Leases and blocks rest on monotonic time**: hive time only grows, and not faster than the quickest clock, however often the
//! wall clock jumps or the leader changes (anchors 3.2, clock jump; DESIGN 9, hive time).

use super::{Checked, Step, hold};

const NAME: &str = "time";

#[derive(Debug, Default)]
pub(crate) struct Time {
    last_ms: u64,
}

impl Time {
    pub(crate) fn check(&mut self, step: &Step<'_>) -> Checked {
        let (last_ms, hive_ms) = (self.last_ms, step.after.hive_time_ms());
        hold(hive_ms >= last_ms, NAME, || format!("hive time went from {last_ms} back to {hive_ms}"))?;
        // The quickest clock runs 15 % fast.
        let most_ms = step.now_ms * 116 / 100 + 1_000;
        hold(hive_ms <= most_ms, NAME, || format!("hive time is {hive_ms} after {} ms", step.now_ms))?;
        self.last_ms = hive_ms;
        Ok(())
    }
}
