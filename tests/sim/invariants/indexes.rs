//! **What is counted and found quickly is what walking all jobs gives**: counts, waiting jobs, gates (checker C4's other half: the
//! rows decide, indexes follow). A job that is needed and free is in a bucket, or nobody would ever run it.

use std::collections::BTreeSet;

use hive::engine::id::JobId;
use hive::engine::job::{Job, JobState};
use hive::engine::state::State;

use super::{Checked, hold};

const NAME: &str = "indexes";

pub(crate) fn check(state: &State) -> Checked {
    let of = |wanted: JobState| state.jobs().filter(|job| state.shown_state(job) == wanted).count() as u64;
    let counts = state.counts();
    let walked = (of(JobState::Needed), of(JobState::Delegated), of(JobState::Blocked), of(JobState::Received));
    let counted = (counts.needed, counts.delegated, counts.blocked, counts.received);
    hold(walked == counted, NAME, || format!("counted {counted:?}, there are {walked:?}"))?;
    let waiting: BTreeSet<JobId> = state.waiting().flat_map(|(_, jobs)| jobs.map(|job| job.spec.id)).collect();
    let free = |job: &&Job| job.state == JobState::Needed && waits_for_nothing(state, job);
    let needed: BTreeSet<JobId> = state.jobs().filter(free).map(|job| job.spec.id).collect();
    hold(waiting == needed, NAME, || format!("waiting by index {waiting:?}, by walking {needed:?}"))
}

fn waits_for_nothing(state: &State, job: &Job) -> bool {
    let received = |id: &JobId| state.job(id).is_some_and(|job| job.state == JobState::Received);
    job.spec.depends_on.iter().chain(&job.joined).all(received)
}
