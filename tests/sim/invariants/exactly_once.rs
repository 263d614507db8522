//! **A proposal takes effect once, however often it arrives** (DESIGN 9, retries): a repetition is answered as the first time, or
//! refused as too old, and changes no job.

use std::collections::BTreeMap;

use hive::engine::command::{Origin, RejectCode, Reply};
use hive::engine::id::PeerId;

use super::{Checked, Step, hold};

const NAME: &str = "exactly once";

#[derive(Debug, Default)]
pub(crate) struct ExactlyOnce {
    answered: BTreeMap<(PeerId, u64, u64), Reply>,
    lives: BTreeMap<PeerId, u64>,
}

impl ExactlyOnce {
    /// Notes a proposal; false when it was there before, or when a later life of its node had proposed already.
    pub(crate) fn is_first(&mut self, origin: &Origin, reply: &Reply) -> bool {
        let key = (origin.peer_id.clone(), origin.incarnation, origin.sequence);
        let life = self.lives.entry(origin.peer_id.clone()).or_default();
        let late = origin.incarnation < *life;
        *life = (*life).max(origin.incarnation);
        !late
            && self.answered.insert(key, reply.clone()).is_none_or(|known| {
                self.answered.insert((origin.peer_id.clone(), origin.incarnation, origin.sequence), known);
                false
            })
    }

    pub(crate) fn check(&self, step: &Step<'_>) -> Checked {
        if step.first {
            return Ok(());
        }
        let origin = step.origin;
        let known = self.answered.get(&(origin.peer_id.clone(), origin.incarnation, origin.sequence));
        let too_old = matches!(step.reply, Reply::Rejected { code: RejectCode::TooOld, .. });
        hold(too_old || known == Some(step.reply), NAME, || {
            format!("{origin:?} was answered with {known:?} and now with {:?}", step.reply)
        })?;
        hold(step.before.is_empty(), NAME, || format!("the repetition {origin:?} changed a job: {:?}", step.command))
    }
}
