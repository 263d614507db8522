//! **S3: fencing tokens rise strictly, each is given to one drone once, and only the last one of a job can be live.** Checker C3,
//! the fence ledger.

use hive::engine::command::{Command, Reply};

use super::{Checked, Step, hold};

const NAME: &str = "fences";

#[derive(Debug, Default)]
pub(crate) struct Fences {
    last: u64,
}

impl Fences {
    pub(crate) fn check(&mut self, step: &Step<'_>) -> Checked {
        if let (true, Command::Assign { job, node }, Reply::Assigned { token, .. }) =
            (step.first, step.command, step.reply)
        {
            let last = self.last;
            hold(token.counter > last, NAME, || format!("token {token} comes after {last}"))?;
            self.last = token.counter;
            let live = step.after.job(job).and_then(|job| job.live_attempt());
            let given = live.is_some_and(|live| live.token == *token && live.node == *node);
            hold(given, NAME, || format!("{job} was given to {node} under {token}, and is not"))?;
        }
        for id in step.before.keys() {
            let Some(job) = step.after.job(id) else { continue };
            let rises = job.attempts.windows(2).all(|pair| pair[0].token.counter < pair[1].token.counter);
            let over = job.attempts.iter().rev().skip(1).all(|attempt| attempt.state.is_over());
            hold(rises && over, NAME, || format!("attempts of {id}: {:?}", job.attempts))?;
        }
        Ok(())
    }
}
