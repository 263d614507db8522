//! How urgent jobs are: the expected time until the last of those is done that wait for one, the critical path.
//!
//! An order of planning and nothing else: it is worked out from what is known of durations when jobs become visible, lives in
//! memory, and may differ between replicas. Source: list scheduling by longest path (Graham, 1969). Never done here: deciding
//! what runs.

use std::collections::BTreeSet;

use super::jobs::Jobs;
use crate::engine::id::JobId;

impl Jobs {
    /// Works out how urgent these jobs are, and what that means for those that they wait for.
    pub(super) fn rank(&mut self, ids: &BTreeSet<JobId>) {
        let mut ranked: BTreeSet<JobId> = BTreeSet::new();
        let mut outside: BTreeSet<JobId> = BTreeSet::new();
        for start in ids {
            let mut stack = vec![*start];
            while let Some(id) = stack.last().copied() {
                if ranked.contains(&id) {
                    stack.pop();
                    continue;
                }
                let open: Vec<JobId> =
                    self.dependents(&id).filter(|next| ids.contains(next) && !ranked.contains(next)).collect();
                if open.is_empty() {
                    stack.pop();
                    ranked.insert(id);
                    self.set_urgency(&id, self.path_ms(&id));
                    let named = self.any(&id).into_iter().flat_map(|job| job.spec.depends_on.iter());
                    outside.extend(named.filter(|dependency| !ids.contains(dependency)));
                } else {
                    stack.extend(open);
                }
            }
        }
        self.raise(outside);
    }

    /// Jobs that became more urgent make those more urgent that they wait for.
    fn raise(&mut self, mut ids: BTreeSet<JobId>) {
        while let Some(id) = ids.pop_first() {
            let path_ms = self.path_ms(&id);
            let Some(entry) = self.jobs.get(&id).filter(|entry| entry.urgency_ms < path_ms) else { continue };
            let waits_for: Vec<JobId> = entry.job.spec.depends_on.iter().copied().collect();
            self.set_urgency(&id, path_ms);
            ids.extend(waits_for);
        }
    }

    /// How urgent a job is; 0 when it is not in memory.
    pub(super) fn urgency_ms(&self, id: &JobId) -> u64 {
        self.jobs.get(id).map_or(0, |entry| entry.urgency_ms)
    }

    /// Its own expected duration, and after it the longest of what waits for it.
    fn path_ms(&self, id: &JobId) -> u64 {
        let Some(entry) = self.jobs.get(id) else { return 0 };
        let after = self.dependents(id).filter_map(|next| self.jobs.get(&next)).map(|next| next.urgency_ms).max();
        self.packages.expected_ms(entry.job.spec.package()).saturating_add(after.unwrap_or(0))
    }
}
