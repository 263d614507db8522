//! **A job is given away, and begins, only after everything that it waits for was received** (DESIGN 10). Checked in the committed
//! state when it is assigned, and at the drone when its program starts.

use hive::engine::command::{Command, Reply};
use hive::engine::id::JobId;
use hive::engine::job::{JobSpec, JobState};
use hive::engine::state::State;

use super::{Checked, Step, Violation, hold};
use crate::sim::node::Node;

const NAME: &str = "dependencies";

#[derive(Debug, Default)]
pub(crate) struct Dependencies {
    failed: Option<Violation>,
}

/// What a job waits for and was not received.
fn missing(state: &State, spec: &JobSpec) -> Option<JobId> {
    let received = |id: &JobId| state.job(id).is_some_and(|job| job.state == JobState::Received);
    spec.depends_on.iter().find(|id| !received(id)).copied()
}

pub(crate) fn check(step: &Step<'_>) -> Checked {
    if let (true, Command::Assign { job, .. }, Reply::Assigned { .. }) = (step.first, step.command, step.reply) {
        let job = step.after.job(job).expect("assigned");
        let missing = missing(step.after, &job.spec);
        hold(missing.is_none(), NAME, || format!("{} was assigned without {missing:?}", job.spec.id))?;
        hold(job.joined.is_none(), NAME, || {
            format!("{} was assigned although another one does the same", job.spec.id)
        })?;
    }
    Ok(())
}

impl Dependencies {
    /// A program starts on a node; its own copy of the state is as old as it is.
    pub(crate) fn runs(&mut self, spec: &JobSpec, node: &Node) {
        let Some(life) = &node.life else { return };
        if let Some(missing) = missing(&life.state, spec) {
            let what = format!("{} begins on node {} without {missing}", spec.id, node.ix);
            self.failed.get_or_insert(Violation { invariant: NAME, what });
        }
    }

    pub(crate) fn take_failure(&mut self) -> Checked {
        self.failed.take().map_or(Ok(()), Err)
    }
}
