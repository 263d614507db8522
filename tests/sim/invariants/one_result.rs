//! **DESIGN 15.2, S2: at most one result is accepted for a job, and never one of a superseded attempt.** Each attempt's product
//! has a digest of its own here, so a result that slips in under another token is seen by its bytes, too. What was given up and
//! reported late counts only while nobody else was asked.

use std::collections::BTreeMap;

use hive::engine::command::{Command, Progress, Reply};
use hive::engine::id::{JobId, Token};
use hive::engine::job::{AttemptState, JobState, Outcome};

use super::{Checked, Step, hold};
use crate::sim::drone::product;

const NAME: &str = "one result";

#[derive(Debug, Default)]
pub(crate) struct OneResult {
    newest: BTreeMap<JobId, Token>,
    accepted: BTreeMap<JobId, Token>,
}

impl OneResult {
    pub(crate) fn check(&mut self, step: &Step<'_>) -> Checked {
        if let (true, Command::Assign { job, .. }, Reply::Assigned { token, .. }) =
            (step.first, step.command, step.reply)
        {
            self.newest.insert(*job, *token);
            hold(!self.accepted.contains_key(job), NAME, || format!("{job} is given away although it has its result"))?;
        }
        if let (true, Command::Report { job, token, progress }) = (step.first, step.command) {
            self.on_report(step, *job, *token, progress)?;
        }
        for id in step.before.keys() {
            let Some(job) = step.after.job(id) else { continue };
            let accepted = job.attempts.iter().filter(|attempt| attempt.state == AttemptState::Accepted).count();
            let own = job.state == JobState::Received && job.joined.is_none();
            hold(accepted == usize::from(own), NAME, || {
                format!("{id} is {:?} with {accepted} accepted attempts", job.state)
            })?;
            if let (true, Some(last)) = (own, job.attempts.last()) {
                let right = job.artifacts.iter().all(|artifact| artifact.sha256 == product(*id, last.token));
                hold(right && !job.artifacts.is_empty(), NAME, || {
                    format!("{id} has a result that its accepted attempt did not make")
                })?;
            }
        }
        Ok(())
    }

    fn on_report(&mut self, step: &Step<'_>, job: JobId, token: Token, progress: &Progress) -> Checked {
        let newest = self.newest.get(&job).copied();
        let refused = matches!(step.reply, Reply::Rejected { .. });
        if newest != Some(token) {
            hold(refused, NAME, || format!("{job}: a report of {token} counts, though {newest:?} is the newest"))?;
        }
        if refused {
            return hold(step.before.is_empty(), NAME, || format!("a refused report of {job} changed something"));
        }
        let Progress::Ended { outcome: Outcome::Succeeded { .. } } = progress else { return Ok(()) };
        let known = *self.accepted.entry(job).or_insert(token);
        hold(known == token, NAME, || format!("{job} has a result of {known}, and one of {token} is accepted"))?;
        let was = step.before.get(&job).and_then(Option::as_ref);
        if let Some(live) = was.and_then(|was| was.attempts.last()) {
            let fine = !live.state.is_over() || live.state == AttemptState::Lost;
            hold(fine, NAME, || format!("{job}: a result of an attempt that was {:?} is accepted", live.state))?;
            let late = live.state == AttemptState::Lost;
            let free = was.is_some_and(|was| was.state == JobState::Needed);
            hold(!late || free, NAME, || format!("{job}: a late result is accepted of a job that nobody needs"))?;
        }
        Ok(())
    }
}
