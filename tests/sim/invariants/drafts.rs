//! **A draft is seen by nobody before it is opened, and opened only when all of it is there** (`engine/session.rs`): its jobs are
//! neither shown nor given away, but for the resolution that makes them; what is dropped leaves nothing behind.

use hive::engine::command::{Command, Reply};
use hive::engine::job::Work;
use hive::engine::session::SessionPhase;

use super::{Checked, Step, hold};

const NAME: &str = "drafts";

pub(crate) fn check(step: &Step<'_>) -> Checked {
    if !step.first || matches!(step.reply, Reply::Rejected { .. }) {
        return Ok(());
    }
    match step.command {
        Command::Submit { session, jobs, .. } => {
            let draft = step.after.session(session).is_some_and(|session| session.phase == SessionPhase::Draft);
            let shown = jobs
                .iter()
                .find(|spec| step.after.job(&spec.id).is_some() && !matches!(spec.work, Work::Resolve { .. }));
            hold(!draft || shown.is_none(), NAME, || format!("a job of draft {session} is shown"))
        }
        Command::OpenSession { session, jobs } => {
            let seen = step.after.session_jobs(session).count() as u64;
            hold(seen == *jobs, NAME, || format!("session {session} was opened with {seen} of {jobs} jobs"))
        }
        Command::DropSession { session, .. } => {
            let left = step.after.session_jobs(session).find(|job| !matches!(job.spec.work, Work::Resolve { .. }));
            hold(left.is_none(), NAME, || format!("draft {session} was dropped and left a job"))
        }
        Command::Assign { job, .. } => {
            let job = step.after.job(job).expect("assigned");
            let draft = step.after.session(&job.session).is_some_and(|session| session.phase == SessionPhase::Draft);
            hold(!draft || matches!(job.spec.work, Work::Resolve { .. }), NAME, || {
                format!("{} of a draft was given away", job.spec.id)
            })
        }
        _ => Ok(()),
    }
}
