//! Who may propose what: a node speaks for itself, and a voter also for the coordinator that it may just have been.
//!
//! The leader asks before it appends what another node forwarded. The log itself holds no such rule: what is in it was taken, and is
//! applied alike everywhere. What people ask of any node (queueing, controlling, keys) every member may hand on; it has to say under
//! which key it was asked, and is believed. Never done here: proving who the other node is; its connection did.

use super::command::Command;
use super::id::PeerId;
use super::state::State;

/// Why a proposal of another node is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no member here, perhaps not yet: it may ask again.
    NoMember,
    /// It speaks for another node, or for the coordinator; one sentence.
    NotForIt(&'static str),
}

/// Whether `origin`, which takes part in votes or not, may propose this. `state` is that of the leader.
pub fn judge(state: &State, origin: &PeerId, votes: bool, command: &Command) -> Result<(), Refusal> {
    let own =
        |named: &PeerId| if named == origin { Ok(()) } else { Err(Refusal::NotForIt("it speaks for another node")) };
    if let Command::Admit { member } = command {
        // Whoever is not known yet can be presented by anybody: it has no record that could be changed.
        return if state.member(&member.peer_id).is_none() { Ok(()) } else { own(&member.peer_id) };
    }
    if state.member(origin).is_none_or(|member| member.left) {
        return Err(Refusal::NoMember);
    }
    match command {
        Command::Admit { .. } => Ok(()),
        Command::Leave { peer_id } | Command::ClaimRole { peer_id, .. } => own(peer_id),
        Command::Submit { draft: Some(peer), .. } => own(peer),
        Command::Report { job, token, .. } => {
            let attempts = state.job(job).map(|job| job.attempts.as_slice()).unwrap_or_default();
            match attempts.iter().find(|attempt| attempt.token == *token) {
                // A drone of the Python swarm has no node of its own to speak through.
                Some(attempt) if state.legacy_drone(&attempt.node).is_none() => own(&attempt.node),
                Some(_) | None => Ok(()),
            }
        }
        Command::BindReplica { .. }
        | Command::Assign { .. }
        | Command::Lose { .. }
        | Command::Revoke { .. }
        | Command::EndBlock { .. }
        | Command::RaiseFeatureLevel { .. } => {
            if votes {
                Ok(())
            } else {
                Err(Refusal::NotForIt("only a coordinator decides this"))
            }
        }
        Command::Found { .. } | Command::BeginEpoch { .. } | Command::BeginHive { .. } => {
            Err(Refusal::NotForIt("this begins a history, and is never forwarded"))
        }
        Command::Submit { draft: None, .. }
        | Command::OpenSession { .. }
        | Command::DropSession { .. }
        | Command::Control { .. }
        | Command::Cancel { .. }
        | Command::RegisterLegacy { .. }
        | Command::ForgetLegacy { .. }
        | Command::Access { .. }
        | Command::Audit { .. }
        | Command::KeepAnswer { .. } => Ok(()),
    }
}
