//! **A Raft id belongs to one node and is never bound again once it was let go; names are unique; an incarnation never goes back**
//! (DESIGN 5, 6, 9; S13).

use std::collections::BTreeSet;

use hive::engine::command::{Command, Reply};

use super::{Checked, Step, hold};

const NAME: &str = "members";

pub(crate) fn check(step: &Step<'_>) -> Checked {
    if matches!(step.reply, Reply::Rejected { .. }) {
        return Ok(());
    }
    match step.command {
        Command::Admit { member } if step.first => {
            let known = step.after.member(&member.peer_id).expect("admitted");
            hold(known.info.incarnation == member.incarnation, NAME, || {
                format!("{} was admitted as an older one", member.peer_id)
            })?;
        }
        Command::BindReplica { .. } => {}
        _ => return Ok(()),
    }
    let present: Vec<_> = step.after.members().filter(|member| !member.left).collect();
    let names: BTreeSet<&str> = present.iter().map(|member| member.display_name.as_str()).collect();
    hold(names.len() == present.len(), NAME, || "two members show one name".to_owned())?;
    let bound: Vec<u64> = step.after.members().filter_map(|member| member.raft_id).collect();
    hold(bound.iter().collect::<BTreeSet<_>>().len() == bound.len(), NAME, || {
        "a Raft id is bound to two members".to_owned()
    })
}
