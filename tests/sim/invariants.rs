//! What must never happen, one file each, and what must happen in the end.
//!
//! ```text
//!   an entry is committed ─► applied once, command by command, to a state of the checker's own ─► every `check` looks at the step
//!   a node applies, starts, stops, is told something ─► noted where it belongs
//! ```
//!
//! The checker knows everything and tells nobody. Never done here: changing the world.

pub(crate) mod acknowledged;
pub(crate) mod cancelled;
pub(crate) mod dependencies;
pub(crate) mod drafts;
pub(crate) mod effects;
pub(crate) mod exactly_once;
pub(crate) mod fences;
pub(crate) mod hives;
pub(crate) mod indexes;
pub(crate) mod liveness;
pub(crate) mod log;
pub(crate) mod members;
pub(crate) mod one_result;
pub(crate) mod operators;
pub(crate) mod replicas;
pub(crate) mod roles;
pub(crate) mod time;
pub(crate) mod transitions;

use std::collections::BTreeMap;
use std::rc::Rc;

use hive::engine::command::{Batch, Command, Origin, Reply};
use hive::engine::id::{HiveId, JobId};
use hive::engine::job::Job;
use hive::engine::state::{Change, State, table};

use super::node::{Ix, Node};
use super::raft::{Payload, Raft};
use super::world::Counts;

/// Something that must never happen has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
}

pub(crate) type Checked = Result<(), Violation>;

/// Fails with the name of the invariant unless it holds.
pub(crate) fn hold(holds: bool, invariant: &'static str, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Violation { invariant, what: what() }) }
}

/// One committed command, and what it did.
pub(crate) struct Step<'a> {
    pub(crate) command: &'a Command,
    pub(crate) origin: &'a Origin,
    pub(crate) reply: &'a Reply,
    /// Jobs that it changed, as they were: none for one that was not there.
    pub(crate) before: BTreeMap<JobId, Option<Job>>,
    pub(crate) after: &'a State,
    /// The command was executed, not recognised as a repetition.
    pub(crate) first: bool,
    pub(crate) now_ms: u64,
}

/// One hive as it is in truth.
#[derive(Default)]
pub(crate) struct Truth {
    /// Committed entries from the first on: term and what they hold.
    pub(crate) entries: Vec<(u64, Payload)>,
    pub(crate) state: State,
    steps: u64,
    jobs: BTreeMap<JobId, Job>,
    exactly_once: exactly_once::ExactlyOnce,
    fences: fences::Fences,
    one_result: one_result::OneResult,
    time: time::Time,
}

pub(crate) struct Checker {
    pub(crate) truths: BTreeMap<HiveId, Truth>,
    pub(crate) log: log::Log,
    pub(crate) replicas: replicas::Replicas,
    pub(crate) acknowledged: acknowledged::Acknowledged,
    pub(crate) effects: effects::Effects,
    pub(crate) dependencies: dependencies::Dependencies,
    pub(crate) hives: hives::Hives,
    pub(crate) cancelled: cancelled::CancelledBuilds,
    failed: Option<Violation>,
    chain: Option<u64>,
}

impl Checker {
    pub(crate) fn new() -> Self {
        Self {
            truths: BTreeMap::new(),
            log: log::Log::default(),
            replicas: replicas::Replicas::default(),
            acknowledged: acknowledged::Acknowledged::default(),
            effects: effects::Effects::default(),
            dependencies: dependencies::Dependencies::default(),
            hives: hives::Hives::default(),
            cancelled: cancelled::CancelledBuilds::default(),
            failed: None,
            chain: None,
        }
    }

    fn note(&mut self, checked: Checked) {
        if let Err(violation) = checked {
            self.failed.get_or_insert(violation);
        }
    }

    /// Something of the trace that changed with the last commit.
    pub(crate) fn take_chain(&mut self) -> Option<u64> {
        self.chain.take()
    }

    /// A node knows more entries to be committed than before, or others.
    pub(crate) fn on_commit(&mut self, hive: HiveId, ix: Ix, raft: &Raft, now_ms: u64, counts: &mut Counts) {
        let from = self.log.checked(raft.id).max(raft.base.0) + 1;
        for index in from..=raft.commit {
            let Some(entry) = raft.entry(index) else { break };
            let truth = self.truths.entry(hive).or_default();
            let known = truth.entries.get(usize::try_from(index - 1).expect("small"));
            let checked = match known {
                Some((term, payload)) => log::same_entry(index, ix, (*term, payload), entry),
                None if truth.entries.len() as u64 + 1 == index => {
                    truth.entries.push((entry.term, entry.payload.clone()));
                    counts.add("entries committed", 1);
                    match entry.payload.clone() {
                        Payload::Batch(batch) => self.on_batch(hive, &batch, now_ms, counts),
                        Payload::Blank | Payload::Config(_) => Ok(()),
                    }
                }
                None => hold(false, "log", || {
                    format!("node {ix} holds {index} to be committed, and nobody knows the one before")
                }),
            };
            self.note(checked);
        }
        let checked = self.log.look(ix, raft);
        self.note(checked);
    }

    fn on_batch(&mut self, hive: HiveId, batch: &Rc<Batch>, now_ms: u64, counts: &mut Counts) -> Checked {
        let truth = self.truths.entry(hive).or_default();
        let mut replies = Vec::new();
        for (position, proposal) in batch.proposals.iter().enumerate() {
            truth.steps += 1;
            let elapsed_ms = if position == 0 { batch.elapsed_ms } else { 0 };
            let single = Batch { proposals: vec![proposal.clone()], elapsed_ms, ..(**batch).clone() };
            let mut applied = truth.state.apply(truth.steps, &single).expect("understood");
            let reply = applied.replies.remove(0);
            let command = proposal.decode().expect("understood");
            let touched = applied.changes.iter().filter(|change| change.row.table == table::JOBS);
            // A row is keyed by the job's place in the queue.
            let named = |change: &Change| match &change.value {
                Some(value) => State::job_of_history(value).ok().map(|job| job.spec.id),
                None => {
                    let ordinal = u64::from_be_bytes(change.row.key.as_slice().try_into().ok()?);
                    truth.jobs.values().find(|job| job.ordinal == ordinal).map(|job| job.spec.id)
                }
            };
            let touched: Vec<JobId> = touched.filter_map(named).collect();
            let before = touched.iter().map(|id| (*id, truth.jobs.get(id).cloned())).collect();
            for id in touched {
                match truth.state.job(&id) {
                    Some(job) => truth.jobs.insert(id, job.clone()),
                    None => truth.jobs.remove(&id),
                };
            }
            if let Command::OpenSession { session, .. } = &command {
                // Seen from here on, though their rows are as they were.
                let jobs = truth.state.session_jobs(session);
                truth.jobs.extend(jobs.map(|job| (job.spec.id, job.clone())));
            }
            let first = truth.exactly_once.is_first(&proposal.origin, &reply);
            let step = Step {
                command: &command,
                origin: &proposal.origin,
                reply: &reply,
                before,
                after: &truth.state,
                first,
                now_ms,
            };
            truth.exactly_once.check(&step)?;
            truth.fences.check(&step)?;
            truth.one_result.check(&step)?;
            truth.time.check(&step)?;
            transitions::check(&step)?;
            roles::check(&step)?;
            dependencies::check(&step)?;
            operators::check(&step)?;
            drafts::check(&step)?;
            members::check(&step)?;
            if truth.steps.is_multiple_of(16) {
                indexes::check(&truth.state)?;
            }
            self.effects.on_command(&command, &reply);
            self.acknowledged.on_command(hive, &step)?;
            count(&step, counts);
            replies.push(reply);
        }
        self.chain = Some(u64::from_be_bytes(truth.state.chain()[..8].try_into().expect("eight bytes")));
        let index = truth.entries.len() as u64;
        self.replicas.expect(hive, index, replies);
        Ok(())
    }

    /// After each event.
    pub(crate) fn after_step(&mut self, now_ms: u64, nodes: &[Node]) -> Checked {
        if let Some(violation) = self.failed.take() {
            return Err(violation);
        }
        self.log.take_failure()?;
        self.replicas.take_failure()?;
        self.effects.take_failure()?;
        self.dependencies.take_failure()?;
        self.acknowledged.take_failure()?;
        self.hives.take_failure()?;
        self.cancelled.take_failure()?;
        self.hives.look(now_ms, nodes, &self.truths)
    }

    /// The state of the hive that most nodes belong to.
    pub(crate) fn truth(&self, hive: HiveId) -> Option<&Truth> {
        self.truths.get(&hive)
    }
}

fn count(step: &Step<'_>, counts: &mut Counts) {
    counts.add("commands committed", 1);
    match (step.command, step.reply) {
        (_, Reply::Rejected { .. }) => counts.add("commands refused", 1),
        (Command::Assign { .. }, _) => counts.add("attempts assigned", 1),
        (Command::Lose { .. }, _) => counts.add("attempts lost", 1),
        (Command::Revoke { .. }, _) => counts.add("attempts revoked", 1),
        (Command::EndBlock { .. }, _) => counts.add("blocks ended", 1),
        (Command::OpenSession { .. }, _) => counts.add("drafts opened", 1),
        (Command::DropSession { .. }, _) => counts.add("drafts dropped", 1),
        _ => {}
    }
    if !step.first {
        counts.add("repetitions recognised", 1);
    }
}
