//! **DESIGN 15.1, S1: what was acknowledged is in every later committed state**: jobs by their ids until history is cleared,
//! results as the job's result, control actions by their committed answer. Checker C2 (set-full over acknowledged submissions).

use std::collections::{BTreeMap, BTreeSet};

use hive::engine::command::{Command, Reply};
use hive::engine::id::{HiveId, JobId};
use hive::engine::job::{Artifact, JobState, Outcome};
use hive::engine::state::State;

use super::{Checked, Step, Violation, hold};

const NAME: &str = "acknowledged";

#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    jobs: BTreeSet<(HiveId, JobId)>,
    results: BTreeMap<(HiveId, JobId), Vec<Artifact>>,
    /// Encoded commands with the answers that were committed.
    committed: BTreeMap<HiveId, BTreeSet<String>>,
    failed: Option<Violation>,
    pub(crate) controls: u64,
}

impl Acknowledged {
    /// A client was answered.
    pub(crate) fn answered(&mut self, hive: HiveId, command: &Command, reply: &Reply) {
        if matches!(reply, Reply::Rejected { .. }) {
            return;
        }
        let key = key(command, reply);
        if !self.committed.get(&hive).is_some_and(|known| known.contains(&key)) {
            self.failed
                .get_or_insert(Violation { invariant: NAME, what: format!("acknowledged and not committed: {key}") });
        }
        if let Command::Submit { jobs, .. } = command {
            self.jobs.extend(jobs.iter().map(|spec| (hive, spec.id)));
        }
        self.controls += u64::from(matches!(command, Command::Control { .. } | Command::Cancel { .. }));
    }

    /// A drone was told that its result was taken, and forgets it.
    pub(crate) fn result(&mut self, hive: HiveId, job: JobId, outcome: &Outcome, reply: &Reply) {
        if let (Outcome::Succeeded { artifacts }, Reply::Done) = (outcome, reply) {
            self.results.insert((hive, job), artifacts.clone());
        }
    }

    pub(crate) fn on_command(&mut self, hive: HiveId, step: &Step<'_>) -> Checked {
        if matches!(
            step.command,
            Command::Submit { .. } | Command::OpenSession { .. } | Command::Control { .. } | Command::Cancel { .. }
        ) {
            self.committed.entry(hive).or_default().insert(key(step.command, step.reply));
        }
        for id in step.before.keys().filter(|id| self.jobs.contains(&(hive, **id))) {
            hold(step.after.knows_job(id), NAME, || format!("job {id} is gone with {:?}", step.command))?;
        }
        Ok(())
    }

    /// All of it is there in the end.
    pub(crate) fn check_all(&self, hive: HiveId, state: &State) -> Checked {
        for (_, id) in self.jobs.iter().filter(|(of, _)| *of == hive) {
            hold(state.knows_job(id), NAME, || format!("acknowledged job {id} is not known in the end"))?;
        }
        for ((_, id), artifacts) in self.results.iter().filter(|((of, _), _)| *of == hive) {
            let job = state.job(id);
            let kept = job.is_some_and(|job| job.state == JobState::Received && job.artifacts == *artifacts);
            hold(kept, NAME, || {
                format!("the acknowledged result of {id} is not its result in the end: {:?}", job.map(|job| job.state))
            })?;
        }
        Ok(())
    }

    pub(crate) fn take_failure(&mut self) -> Checked {
        self.failed.take().map_or(Ok(()), Err)
    }
}

fn key(command: &Command, reply: &Reply) -> String {
    match command {
        Command::Submit { session, jobs, .. } => {
            let ids: Vec<String> = jobs.iter().map(|spec| spec.id.to_string()).collect();
            format!("submit {session} {ids:?} {reply:?}")
        }
        other => format!("{other:?} {reply:?}"),
    }
}
