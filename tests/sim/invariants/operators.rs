//! **What operators decided is kept**: nothing is given to a drone that is paused or drained, while the queue is paused, of a
//! session that was cancelled, or of a job that was blocked or cancelled; a drain gives back what had not begun. (DESIGN 10; 15.1:
//! an acknowledged control action is in every later state.)

use hive::engine::command::{Command, Reply};
use hive::engine::control::{Control, DroneChange};
use hive::engine::job::{AttemptState, JobState};
use hive::engine::session::SessionPhase;

use super::{Checked, Step, hold};

const NAME: &str = "operators";

pub(crate) fn check(step: &Step<'_>) -> Checked {
    if !step.first || matches!(step.reply, Reply::Rejected { .. }) {
        return Ok(());
    }
    match step.command {
        Command::Assign { job, node } => {
            let record = step.after.drone_record(node);
            hold(step.after.paused().is_none(), NAME, || format!("{job} was given away while the queue is paused"))?;
            hold(record.paused.is_none() && record.drain.is_none(), NAME, || {
                format!("{job} was given to {node}, which is paused or drained")
            })?;
            let was = step.before.get(job).and_then(Option::as_ref).map(|was| was.state);
            hold(was == Some(JobState::Needed), NAME, || format!("{job} was given away while it was {was:?}"))?;
            let member = step.after.member(node).is_some_and(|member| !member.left);
            hold(member, NAME, || format!("{job} was given to {node}, which is no member"))?;
            let session = step.after.job(job).and_then(|job| step.after.session(&job.session));
            let open = session.is_some_and(|session| session.phase != SessionPhase::Cancelled);
            hold(open, NAME, || format!("{job} was given away although its session was cancelled"))
        }
        Command::Control { action: Control::Drone { node, change: DroneChange::Drain { .. } }, .. } => {
            let waiting = step.after.live_attempts(node).find(|(_, live)| live.state == AttemptState::Assigned);
            hold(waiting.is_none(), NAME, || format!("{node} is being drained and still holds what has not begun"))
        }
        Command::Control { action: Control::CancelSession { session }, .. } => {
            let open = step.after.session_jobs(session).find(|job| !job.state.is_terminal());
            hold(open.is_none(), NAME, || format!("session {session} was cancelled and has open jobs"))
        }
        Command::Cancel { job, .. } => {
            let state = step.after.job(job).map(|job| job.state);
            hold(state == Some(JobState::Cancelled), NAME, || format!("{job} was cancelled and is {state:?}"))
        }
        _ => Ok(()),
    }
}
