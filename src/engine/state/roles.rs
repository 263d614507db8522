//! The claim: the vote orders the roles, this gives the first that has room.
//!
//! Claims are ordered by the log, so twenty machines that ask at the same time fill the roles one after another, and none of
//! them gets a place that another one has.

use std::collections::BTreeMap;

use super::rows::RowKey;
use super::{Context, Executed, State, reject};
use crate::engine::command::{RankedRole, RejectCode, Reply};
use crate::engine::grammar;
use crate::engine::id::PeerId;
use crate::engine::member::RoleClaim;
use crate::engine::role;

/// Most roles in a ranking: more than a hive has role definitions.
const RANKING_MAX: usize = 64;
/// Longest name of a ballot.
const BALLOT_MAX_LEN: usize = 128;

impl State {
    /// Members per role, those that have left not counted.
    pub fn census(&self) -> BTreeMap<String, u32> {
        let mut census = BTreeMap::new();
        for claim in self.members.present().filter_map(|member| member.role.as_ref()) {
            *census.entry(claim.role.clone()).or_insert(0) += 1;
        }
        census
    }

    fn others_with_role(&self, role: &str, peer: &PeerId) -> usize {
        let others = self.members.present().filter(|member| member.info.peer_id != *peer);
        others.filter(|member| member.role.as_ref().is_some_and(|claim| claim.role == role)).count()
    }

    pub(super) fn claim_role(
        &mut self,
        context: Context,
        peer: &PeerId,
        ranking: &[RankedRole],
        ballot: &str,
    ) -> Executed {
        let Some(member) = self.members.get(peer).filter(|member| !member.left) else {
            return reject(RejectCode::NotFound, "no such member");
        };
        if let Some(claim) = member.role.as_ref().filter(|claim| claim.ballot == ballot) {
            return Ok(Reply::Role { claim: claim.clone() });
        }
        if !grammar::is_plain_text(ballot, BALLOT_MAX_LEN) {
            return reject(RejectCode::Invalid, "the ballot must have a name of at most 128 bytes");
        }
        if ranking.len() > RANKING_MAX || !ranking.iter().all(|ranked| role::is_name(&ranked.role)) {
            return reject(RejectCode::Invalid, "the ranking is too long or has a malformed role name");
        }
        let has_room = |ranked: &&RankedRole| {
            let Some(cap) = ranked.cap else { return true };
            usize::try_from(cap).is_ok_and(|cap| self.others_with_role(&ranked.role, peer) < cap)
        };
        let Some(role) = ranking.iter().find(has_room).map(|ranked| ranked.role.clone()) else {
            return reject(RejectCode::NoRoom, "every role of the ranking has as many members as it may have");
        };
        let Some(member) = self.members.get_mut(peer) else {
            return reject(RejectCode::NotFound, "no such member");
        };
        member.claims += 1;
        let claim = RoleClaim { role, ballot: ballot.to_owned(), generation: member.claims, assigned_at: context.at };
        member.role = Some(claim.clone());
        self.dirty.insert(RowKey::Member(peer.clone()));
        Ok(Reply::Role { claim })
    }
}
