//! **S6: jobs change their state as published, by the commands that may do so, and what is received or cancelled stays so.**
//! The relation is that of `engine/state/queue.rs` and the table of retries in `engine/state/reports.rs`. Checker C5. A job also
//! never vanishes but from a draft that is dropped, and what is blocked, failed or quarantined has a reason.

use hive::engine::command::Command;
use hive::engine::control::Control;
use hive::engine::job::{Job, JobState};

use super::{Checked, Step, hold};

const NAME: &str = "transitions";

pub(crate) fn check(step: &Step<'_>) -> Checked {
    for (id, was) in &step.before {
        let Some(job) = step.after.job(id) else { continue };
        if let Some(was) = was.as_ref().filter(|was| was.state != job.state) {
            let allowed = may(step.command, was, job);
            hold(allowed, NAME, || format!("{id} went from {:?} to {:?} by {:?}", was.state, job.state, step.command))?;
        }
        hold(job.live_attempt().is_some() == (job.state == JobState::Delegated), NAME, || {
            format!("{id} is {:?} with attempts {:?}", job.state, job.attempts)
        })?;
        let explained =
            !matches!(job.state, JobState::Blocked | JobState::Failed | JobState::Quarantined) || job.reason.is_some();
        hold(explained, NAME, || format!("{id} is {:?} without a reason", job.state))?;
    }
    Ok(())
}

fn may(command: &Command, was: &Job, job: &Job) -> bool {
    use JobState::{Blocked, Cancelled, Delegated, Failed, Needed, Quarantined, Received};
    // One that joined another one ends with it, whatever ended that.
    let waited = matches!(was.state, Needed | Blocked);
    let with_another = job.joined.is_some() && waited && job.state.is_terminal() && job.state != Cancelled;
    match (was.state, job.state) {
        _ if with_another => true,
        (Received | Cancelled, _) => false,
        (Needed, Delegated) => matches!(command, Command::Assign { .. }),
        (Delegated, Received) => matches!(command, Command::Report { .. }),
        // A late result of an attempt that was given up.
        (Needed, Received) => matches!(command, Command::Report { .. }),
        (Delegated, Needed | Blocked | Failed) => matches!(
            command,
            Command::Report { .. }
                | Command::Lose { .. }
                | Command::Revoke { .. }
                | Command::Control {
                    action: Control::Reset { .. }
                        | Control::Rebalance { .. }
                        | Control::Reclaim { .. }
                        | Control::Drone { .. },
                    ..
                }
        ),
        (Delegated, Quarantined) => matches!(command, Command::Lose { .. }),
        (Needed, Blocked) => matches!(command, Command::Control { action: Control::Block { .. }, .. }),
        (Blocked, Needed) => matches!(
            command,
            Command::EndBlock { .. }
                | Command::Control {
                    action: Control::Unblock { .. } | Control::RetryFailures { .. } | Control::Reset { .. },
                    ..
                }
        ),
        (Failed | Quarantined, Needed) => {
            matches!(command, Command::Control { action: Control::RetryFailures { .. } | Control::Reset { .. }, .. })
        }
        (Needed | Delegated | Blocked, Cancelled) => matches!(
            command,
            Command::Cancel { .. }
                | Command::DropSession { .. }
                | Command::Report { .. }
                | Command::Control { action: Control::CancelSession { .. }, .. }
        ),
        _ => false,
    }
}
