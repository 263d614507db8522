//! **The vote orders, the claim caps** (DESIGN 8): who claims gets the first role of the ranking that has room at that moment, and
//! no role ever has more members than the claim that gave it allowed.

use hive::engine::command::{Command, Reply};

use super::{Checked, Step, hold};

const NAME: &str = "roles";

pub(crate) fn check(step: &Step<'_>) -> Checked {
    let (true, Command::ClaimRole { peer_id, ranking, .. }, Reply::Role { claim }) =
        (step.first, step.command, step.reply)
    else {
        return Ok(());
    };
    let held = |role: &str, by_others: bool| {
        let members =
            step.after.members().filter(|member| !member.left && (!by_others || member.info.peer_id != *peer_id));
        members.filter(|member| member.role.as_ref().is_some_and(|claim| claim.role == role)).count()
    };
    for ranked in ranking {
        let room = ranked.cap.is_none_or(|cap| held(&ranked.role, true) < cap as usize);
        if ranked.role == claim.role {
            let members = held(&ranked.role, false);
            return hold(room, NAME, || {
                format!("{members} members are {}, and at most {:?} may be", claim.role, ranked.cap)
            });
        }
        hold(!room, NAME, || format!("{peer_id} became {} although {} had room", claim.role, ranked.role))?;
    }
    hold(claim.generation > 0, NAME, || format!("{peer_id} became {}, which nobody advised", claim.role))
}
