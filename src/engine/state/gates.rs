//! What jobs wait for: dependencies, and equal work under way.
//!
//! ```text
//!   dependency   received ─► met        the gate opens when all are met
//!                running  ─► pending
//!                blocked, failed, cancelled, quarantined, or itself held ─► dead: the job is held, shown as blocked
//! ```
//!
//! Gates are worked out from the rows and live in memory only, so that a failure at the root of a large graph writes one row
//! and not all. A dependency stays in memory while a job that is not over names it; what is no longer in memory is dead,
//! because dependencies that had succeeded are struck out when a job is taken in. Never done here: changing a job.

use std::collections::BTreeSet;

use super::jobs::Jobs;
use crate::engine::id::JobId;
use crate::engine::job::{Job, JobState};

/// What a job waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gate {
    /// Not received yet.
    pub(super) waiting: BTreeSet<JobId>,
    /// Those of them that will not be received unless somebody does something.
    pub(super) dead: BTreeSet<JobId>,
}

/// What a job means for those that wait for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Met,
    Pending,
    Dead,
}

impl Jobs {
    /// What a job means for those that wait for it.
    pub(super) fn standing(&self, id: &JobId) -> Standing {
        let Some(job) = self.any(id) else { return Standing::Dead };
        match job.state {
            JobState::Received => Standing::Met,
            JobState::Blocked | JobState::Failed | JobState::Cancelled | JobState::Quarantined => Standing::Dead,
            JobState::Needed | JobState::Delegated if self.is_held(id) => Standing::Dead,
            JobState::Needed | JobState::Delegated => Standing::Pending,
        }
    }

    /// Something that it waits for will not be received by itself.
    pub(super) fn is_held(&self, id: &JobId) -> bool {
        self.gates.get(id).is_some_and(|gate| !gate.dead.is_empty())
    }

    pub(super) fn gate(&self, id: &JobId) -> Option<&Gate> {
        self.gates.get(id)
    }

    /// Jobs that wait for this one.
    pub(super) fn dependents(&self, id: &JobId) -> impl Iterator<Item = JobId> + '_ {
        self.dependents.get(id).into_iter().flatten().copied()
    }

    /// Sets up the gate of a job, by what its dependencies are now. The job must be in no index.
    pub(super) fn build_gate(&mut self, job: &Job) {
        let id = job.spec.id;
        let mut gate = Gate::default();
        for dependency in self.waits_for(job) {
            let waiting = self.dependents.entry(dependency).or_default();
            waiting.insert(id);
            if waiting.len() == 1 {
                self.pin(&dependency);
            }
            let standing = self.standing(&dependency);
            if standing != Standing::Met {
                gate.waiting.insert(dependency);
            }
            if standing == Standing::Dead {
                gate.dead.insert(dependency);
            }
        }
        if !gate.waiting.is_empty() {
            self.gates.insert(id, gate);
        }
    }

    /// Takes the gate of a job away, and lets go what only it waited for. The job must be in no index.
    pub(super) fn remove_gate(&mut self, id: &JobId, waited_for: &[JobId]) {
        self.gates.remove(id);
        for dependency in waited_for {
            let Some(waiting) = self.dependents.get_mut(dependency) else { continue };
            waiting.remove(id);
            if waiting.is_empty() {
                self.dependents.remove(dependency);
                self.unpin(dependency);
            }
        }
    }

    /// Tells those that wait for a job what it is now, and those that wait for them if that changes what they are.
    pub(super) fn propagate(&mut self, id: JobId) {
        let mut changed = vec![id];
        while let Some(id) = changed.pop() {
            let standing = self.standing(&id);
            let waiting: Vec<JobId> = self.dependents(&id).collect();
            for dependent in waiting {
                if self.tell(&dependent, &id, standing) {
                    changed.push(dependent);
                }
            }
        }
    }

    /// Whether what the dependent means for others has changed by it.
    fn tell(&mut self, dependent: &JobId, dependency: &JobId, standing: Standing) -> bool {
        let known = self.gates.get(dependent);
        let waits = known.is_some_and(|gate| gate.waiting.contains(dependency));
        let dead = known.is_some_and(|gate| gate.dead.contains(dependency));
        if (waits, dead) == (standing != Standing::Met, standing == Standing::Dead) {
            return false;
        }
        let before = self.standing(dependent);
        self.reindexed(dependent, |jobs| {
            let gate = jobs.gates.entry(*dependent).or_default();
            match standing {
                Standing::Met => {
                    gate.waiting.remove(dependency);
                    gate.dead.remove(dependency);
                }
                Standing::Pending => {
                    gate.waiting.insert(*dependency);
                    gate.dead.remove(dependency);
                }
                Standing::Dead => {
                    gate.waiting.insert(*dependency);
                    gate.dead.insert(*dependency);
                }
            }
            if gate.waiting.is_empty() {
                jobs.gates.remove(dependent);
            }
        });
        self.standing(dependent) != before
    }
}

/// A circle of jobs that wait for each other, if there is one among these; `waits_for` gives those of a job that matter.
pub(super) fn circle(jobs: &BTreeSet<JobId>, waits_for: impl Fn(&JobId) -> Vec<JobId>) -> Option<Vec<JobId>> {
    let mut done: BTreeSet<JobId> = BTreeSet::new();
    for start in jobs {
        // Depth first without recursion: a chain may be as long as the session.
        let mut path: Vec<(JobId, std::vec::IntoIter<JobId>)> = Vec::new();
        let mut on_path: BTreeSet<JobId> = BTreeSet::new();
        if !done.contains(start) {
            on_path.insert(*start);
            path.push((*start, waits_for(start).into_iter()));
        }
        while let Some((id, next)) = path.last_mut() {
            let id = *id;
            match next.find(|next| jobs.contains(next) && !done.contains(next)) {
                Some(next) if on_path.contains(&next) => {
                    let first = path.iter().position(|(id, _)| *id == next).unwrap_or_default();
                    return Some(path[first..].iter().map(|(id, _)| *id).chain([next]).collect());
                }
                Some(next) => {
                    on_path.insert(next);
                    path.push((next, waits_for(&next).into_iter()));
                }
                None => {
                    on_path.remove(&id);
                    done.insert(id);
                    path.pop();
                }
            }
        }
    }
    None
}
