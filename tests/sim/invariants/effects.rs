//! **What has effects outside runs at one place at a time, and is not run again by itself once it began** (DESIGN 10; the lease
//! rule of `engine/scheduler/leases.rs`). Known at the programs themselves, not by what the state says of them. A machine that was
//! frozen while it ran one is excepted: no lease helps against that, which is why results are fenced.

use std::collections::{BTreeMap, BTreeSet};

use hive::engine::command::{Command, Reply};
use hive::engine::control::Control;
use hive::engine::id::{JobId, Token};
use hive::engine::job::JobSpec;

use super::{Checked, Violation};
use crate::sim::node::Ix;

const NAME: &str = "effects";

#[derive(Debug, Default)]
pub(crate) struct Effects {
    running: BTreeMap<(JobId, Ix), Token>,
    frozen: BTreeSet<(JobId, Ix)>,
    /// Jobs that must not be run again unless somebody says so.
    ran: BTreeMap<JobId, Token>,
    failed: Option<Violation>,
    pub(crate) begun: u64,
}

impl Effects {
    fn fail(&mut self, what: String) {
        self.failed.get_or_insert(Violation { invariant: NAME, what });
    }

    /// A program starts.
    pub(crate) fn runs(&mut self, spec: &JobSpec, token: Token, ix: Ix) {
        if spec.pure {
            return;
        }
        self.begun += 1;
        let id = spec.id;
        let elsewhere =
            self.running.iter().find(|((job, at), _)| *job == id && *at != ix && !self.frozen.contains(&(id, *at)));
        if let Some(((_, at), other)) = elsewhere {
            let what = format!("{id} begins on node {ix} under {token} while it runs on node {at} under {other}");
            self.fail(what);
        }
        if !spec.may_repeat()
            && let Some(before) = self.ran.insert(id, token)
        {
            self.fail(format!("{id} began under {before} and is run again under {token}, though nobody asked for it"));
        }
        self.frozen.remove(&(id, ix));
        self.running.insert((id, ix), token);
    }

    pub(crate) fn stopped(&mut self, ix: Ix, job: JobId) {
        self.running.remove(&(job, ix));
        self.frozen.remove(&(job, ix));
    }

    pub(crate) fn stopped_all(&mut self, ix: Ix) {
        self.running.retain(|(_, at), _| *at != ix);
        self.frozen.retain(|(_, at)| *at != ix);
    }

    pub(crate) fn paused(&mut self, ix: Ix) {
        self.frozen.extend(self.running.keys().filter(|(_, at)| *at == ix));
    }

    /// An operator may have what began tried again.
    pub(crate) fn on_command(&mut self, command: &Command, reply: &Reply) {
        if matches!(reply, Reply::Rejected { .. }) {
            return;
        }
        if let Command::Control { action, .. } = command {
            match action {
                Control::Unblock { .. } | Control::RetryFailures { .. } | Control::Reset { .. } => self.ran.clear(),
                Control::Rebalance { running: true } | Control::Reclaim { running: true, .. } => self.ran.clear(),
                _ => {}
            }
        }
    }

    pub(crate) fn take_failure(&mut self) -> Checked {
        self.failed.take().map_or(Ok(()), Err)
    }
}
