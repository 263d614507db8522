//! What operators ask for, as commands: names become ids, and the answer says what changed.
//!
//! Never done here: deciding what an action means (that is `engine::state`).

use std::time::Duration;

use super::shared::Shared;
use super::submitting::wait_until;
use super::{accepted, propose, sessions};
use crate::api::{ApiError, ApiResult, Changed, ControlRequest, DroneRequest, ErrorCode};
use crate::engine::command::{Command, Reply};
use crate::engine::control::{Control, DroneChange, Jobs};
use crate::engine::id::PeerId;
use crate::engine::state::State;

/// How long an action may take before it is answered with "no quorum": some touch a hundred thousand jobs.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(25);
/// Longest reason, characters; apply cuts it again, by bytes.
const REASON_MAX: usize = 400;

fn invalid(message: impl Into<String>, hint: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Invalid, message, hint)
}

/// Proposes an action.
pub(super) async fn commit(shared: &Shared, action: Control, by: String, why: String) -> ApiResult<Reply> {
    let why: String = why.chars().take(REASON_MAX).collect();
    propose(shared, Command::Control { action, by, why }, CONTROL_TIMEOUT).await
}

/// What an action changed.
pub(super) fn changed(action: &str, reply: Reply) -> ApiResult<Changed> {
    if let Reply::Changed { jobs, drones } = reply {
        return Ok(Changed { action: action.to_owned(), jobs, drones });
    }
    accepted(reply)?;
    Ok(Changed { action: action.to_owned(), jobs: 0, drones: 0 })
}

/// `hive control`.
pub(super) async fn control(shared: &Shared, request: ControlRequest, by: String) -> ApiResult<Changed> {
    let action = request.action.replace('-', "_");
    let control = shared.read(|state| understand(state, &action, &request))?;
    let reply = commit(shared, control.clone(), by, request.reason).await?;
    let answer = changed(&action, reply)?;
    wait_until(shared, |state| shows(state, &control)).await;
    Ok(answer)
}

/// Pauses, resumes, drains or limits a drone.
pub(super) async fn drone(
    shared: &Shared,
    name: String,
    action: String,
    request: DroneRequest,
    by: String,
) -> ApiResult<Changed> {
    let node = shared.read(|state| node_named(state, &name))?;
    let misplaced =
        (request.deadline_ms.is_some() && action != "drain") || (request.cores.is_some() && action != "limit");
    if misplaced {
        return Err(invalid("deadline_ms belongs to drain, cores to limit", "see: hive drone --help"));
    }
    let change = match action.as_str() {
        "pause" => DroneChange::Pause,
        "resume" => DroneChange::Resume,
        "drain" => DroneChange::Drain { deadline_ms: request.deadline_ms },
        "limit" => DroneChange::Limit { cores: request.cores },
        _ => {
            let message =
                format!("{:?} is nothing that is done to a drone", action.chars().take(40).collect::<String>());
            return Err(invalid(message, "pause, resume, drain or limit"));
        }
    };
    let control = Control::Drone { node, change };
    let reply = commit(shared, control.clone(), by, request.reason).await?;
    let answer = changed(&action, reply)?;
    wait_until(shared, |state| shows(state, &control)).await;
    Ok(answer)
}

/// The member of this name or id.
pub(super) fn node_named(state: &State, name: &str) -> ApiResult<PeerId> {
    let by_id =
        |called: &str| state.legacy_drones().find(|drone| drone.info.id == called).map(|drone| drone.peer_id.clone());
    let found = state.machine_by_name(name).map(|machine| machine.peer.clone());
    let found = found.or_else(|| state.member(&PeerId::new(name)).map(|member| member.info.peer_id.clone()));
    found.or_else(|| by_id(name)).ok_or_else(|| {
        let shown: String = name.chars().take(80).collect();
        ApiError::new(ErrorCode::NotFound, format!("no node is called {shown:?}"), "see: hive fleet")
    })
}

/// Whether this node's copy of the state shows it; true for what cannot be told from it.
fn shows(state: &State, action: &Control) -> bool {
    match action {
        Control::Pause => state.paused().is_some(),
        Control::Resume => state.paused().is_none(),
        Control::Drone { node, change } => {
            let record = state.drone_record(node);
            match change {
                DroneChange::Pause => record.paused.is_some(),
                DroneChange::Resume => record.paused.is_none() && record.drain.is_none(),
                DroneChange::Drain { .. } => record.drain.is_some(),
                DroneChange::Limit { cores } => record.cores_limit == *cores,
            }
        }
        Control::Block { .. }
        | Control::Unblock { .. }
        | Control::RetryFailures { .. }
        | Control::ClearFailures
        | Control::Reset { .. }
        | Control::Rebalance { .. }
        | Control::Reclaim { .. }
        | Control::Unground { .. }
        | Control::ClearHistory
        | Control::CancelSession { .. } => true,
    }
}

fn understand(state: &State, action: &str, request: &ControlRequest) -> ApiResult<Control> {
    let targets =
        [request.job.is_some(), request.package.is_some(), request.session.is_some(), request.drone.is_some()];
    if targets.iter().filter(|named| **named).count() > 1 {
        return Err(invalid("more than one thing is named", "name one job, package, session or drone"));
    }
    let jobs = match (request.job, &request.package, &request.session) {
        (Some(job), _, _) => Jobs::One(job),
        (_, Some(package), _) => Jobs::Package(package.clone()),
        (_, _, Some(session)) => Jobs::Session(sessions::find(state, session)?),
        (None, None, None) => Jobs::All,
    };
    let node = request.drone.as_deref().map(|name| node_named(state, name)).transpose()?;
    let takes_jobs = matches!(action, "block" | "unblock" | "retry_failures" | "reclaim");
    let takes_drone = matches!(action, "pause" | "resume" | "unground");
    if jobs != Jobs::All && !takes_jobs {
        return Err(invalid(format!("{action} is not done to jobs"), "see: hive control --help"));
    }
    if node.is_some() && !takes_drone {
        return Err(invalid(format!("{action} is not done to a drone"), "see: hive control --help"));
    }
    if request.running && !matches!(action, "reset" | "rebalance" | "reclaim") {
        return Err(invalid(format!("{action} does not touch what runs"), "leave --running out"));
    }
    if jobs == Jobs::All && matches!(action, "block" | "reclaim") {
        let hint = if action == "block" { "hive control pause holds all of the queue" } else { "for all: rebalance" };
        return Err(invalid(format!("{action} needs a job, a package or a session"), hint));
    }
    let running = request.running;
    Ok(match (action, node) {
        ("pause", None) => Control::Pause,
        ("pause", Some(node)) => Control::Drone { node, change: DroneChange::Pause },
        ("resume", None) => Control::Resume,
        ("resume", Some(node)) => Control::Drone { node, change: DroneChange::Resume },
        ("block", _) => Control::Block { jobs },
        ("unblock", _) => Control::Unblock { jobs },
        ("retry_failures", _) => Control::RetryFailures { jobs },
        ("clear_failures", _) => Control::ClearFailures,
        ("reset", _) => Control::Reset { running },
        ("rebalance", _) => Control::Rebalance { running },
        ("reclaim", _) => Control::Reclaim { jobs, running },
        ("unground", node) => Control::Unground { node },
        ("clear_history", _) => Control::ClearHistory,
        (other, _) => {
            let message = format!("{:?} is no action", other.chars().take(40).collect::<String>());
            return Err(invalid(message, "see: hive control --help"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(action: &str, change: impl FnOnce(&mut ControlRequest)) -> Result<Control, String> {
        let mut request = ControlRequest { action: action.to_owned(), ..ControlRequest::default() };
        change(&mut request);
        understand(&State::new(), action, &request).map_err(|error| error.message)
    }

    #[test]
    fn every_action_takes_what_it_can_be_done_to_and_nothing_else() {
        let package = |request: &mut ControlRequest| request.package = Some("dev-libs/a".to_owned());
        let jobs = || Jobs::Package("dev-libs/a".to_owned());
        let good = [
            (asked("pause", |_| {}), Control::Pause),
            (asked("block", package), Control::Block { jobs: jobs() }),
            (asked("unblock", |_| {}), Control::Unblock { jobs: Jobs::All }),
            (asked("retry_failures", package), Control::RetryFailures { jobs: jobs() }),
            (asked("reset", |request| request.running = true), Control::Reset { running: true }),
            (asked("reclaim", package), Control::Reclaim { jobs: jobs(), running: false }),
            (asked("unground", |_| {}), Control::Unground { node: None }),
            (asked("clear_history", |_| {}), Control::ClearHistory),
        ];
        for (understood, expected) in good {
            assert_eq!(understood, Ok(expected));
        }
        let bad = [
            (asked("pause", package), "pause is not done to jobs"),
            (asked("block", |_| {}), "block needs a job, a package or a session"),
            (asked("reclaim", |_| {}), "reclaim needs a job"),
            (asked("unblock", |request| request.running = true), "does not touch what runs"),
            (asked("pause", |request| request.drone = Some("nobody".to_owned())), "no node is called \"nobody\""),
            (asked("unblock", |request| request.session = Some("none".to_owned())), "no session is called \"none\""),
            (asked("explode", |_| {}), "\"explode\" is no action"),
            (
                asked("unblock", |request| {
                    package(request);
                    request.session = Some("x".to_owned());
                }),
                "more than one thing is named",
            ),
        ];
        for (refused, expected) in bad {
            assert!(refused.as_ref().is_err_and(|told| told.contains(expected)), "{expected}: {refused:?}");
        }
    }
}
