//! **DESIGN 15.3, S5: two replicas that applied the same index are equal**: the same chain hash and the same replies, also after
//! a restart from rows and after a snapshot, and equal to what the checker computed command by command.

use std::collections::BTreeMap;

use hive::engine::command::Reply;
use hive::engine::id::HiveId;
use hive::engine::state::State;

use super::{Checked, Violation};
use crate::sim::node::Ix;

const NAME: &str = "replicas";

#[derive(Default)]
pub(crate) struct Replicas {
    chains: BTreeMap<(HiveId, u64), ([u8; 32], Ix)>,
    expected: BTreeMap<(HiveId, u64), Vec<Reply>>,
    failed: Option<Violation>,
}

impl Replicas {
    fn fail(&mut self, what: String) {
        self.failed.get_or_insert(Violation { invariant: NAME, what });
    }

    /// What the commands of an entry are to be answered with.
    pub(crate) fn expect(&mut self, hive: HiveId, index: u64, replies: Vec<Reply>) {
        self.expected.insert((hive, index), replies);
    }

    pub(crate) fn applied(&mut self, hive: HiveId, ix: Ix, index: u64, state: &State, replies: &[Reply]) {
        self.chain(hive, ix, index, state);
        match self.expected.get(&(hive, index)) {
            Some(expected) if expected != replies => {
                let what = format!("node {ix} answers entry {index} with {replies:?}, expected {expected:?}");
                self.fail(what);
            }
            Some(_) => {}
            None if replies.is_empty() => {}
            None => self.fail(format!("node {ix} applied entry {index}, which is not committed")),
        }
    }

    pub(crate) fn installed(&mut self, hive: HiveId, ix: Ix, index: u64, state: &State) {
        self.chain(hive, ix, index, state);
    }

    fn chain(&mut self, hive: HiveId, ix: Ix, index: u64, state: &State) {
        let known = *self.chains.entry((hive, index)).or_insert((state.chain(), ix));
        if known.0 != state.chain() {
            self.fail(format!("nodes {} and {ix} have different chains at entry {index}", known.1));
        }
    }

    pub(crate) fn take_failure(&mut self) -> Checked {
        self.failed.take().map_or(Ok(()), Err)
    }
}
