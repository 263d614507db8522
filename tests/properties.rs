//! Invariants of the replicated state and of the scheduler under random commands.
//!
//! * The same log gives the same state: on every replica, however often one is reloaded from its rows, however the commands
//!   are divided into entries.
//! * Tokens only rise; an old one changes nothing; no job is accepted twice; what is over stays as it is.
//! * Every proposal gets one reply, and its retries the same one; what is refused changes nothing.
//! * The scheduler gives no slot away twice, gives nothing to a drone that cannot have it, and leaves nothing lying that
//!   could run.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that meets the unexpected fails")]

mod engine_support;

use std::collections::{BTreeMap, BTreeSet};

use engine_support::{
    Replica, artifact, building, epoch, failed, job_id, member, peer, pure_job, recount, session_id, succeeded,
};
use hive::engine::command::{Batch, Command, Progress, Proposal, RankedRole, RejectCode, Reply};
use hive::engine::id::{JobId, Token};
use hive::engine::job::{AttemptState, FailureClass, Job, JobState, Outcome};
use hive::engine::scheduler::{DroneView, Leases, Now, Settings, View, plan};
use hive::engine::state::{Row, State, table};
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::Index;

/// What happens. Numbers pick nodes, jobs and tokens from small sets, so that things meet.
#[derive(Clone, Debug)]
enum Op {
    Admit { node: u32, incarnation: u64, name: u8 },
    Leave { node: u32 },
    Bind { node: u32, raft_id: Option<u64> },
    Claim { node: u32, ballot: u8, cap: u32 },
    Submit { jobs: Vec<(u8, i32, bool, u8)>, session: u8 },
    Assign { job: u8, node: u32 },
    Report { token: Index, progress: u8 },
    ReportWrong { job: u8, token: Index },
    Lose { token: Index },
    Cancel { job: u8 },
    Epoch,
    Retry { which: Index },
}

fn op() -> impl Strategy<Value = Op> {
    let node = || 0_u32..4;
    let job = || 0_u8..8;
    prop_oneof![
        1 => (node(), 1_u64..4, 0_u8..2).prop_map(|(node, incarnation, name)| Op::Admit { node, incarnation, name }),
        1 => (1_u32..4).prop_map(|node| Op::Leave { node }),
        1 => (node(), proptest::option::of(0_u64..6)).prop_map(|(node, raft_id)| Op::Bind { node, raft_id }),
        1 => (node(), 0_u8..3, 0_u32..3).prop_map(|(node, ballot, cap)| Op::Claim { node, ballot, cap }),
        3 => (vec((job(), -2_i32..3, any::<bool>(), 0_u8..3), 1..4), 0_u8..2)
            .prop_map(|(jobs, session)| Op::Submit { jobs, session }),
        8 => (job(), node()).prop_map(|(job, node)| Op::Assign { job, node }),
        12 => (any::<Index>(), 0_u8..9).prop_map(|(token, progress)| Op::Report { token, progress }),
        1 => (job(), any::<Index>()).prop_map(|(job, token)| Op::ReportWrong { job, token }),
        3 => any::<Index>().prop_map(|token| Op::Lose { token }),
        1 => job().prop_map(|job| Op::Cancel { job }),
        1 => Just(Op::Epoch),
        3 => any::<Index>().prop_map(|which| Op::Retry { which }),
    ]
}

fn progress(number: u8) -> Progress {
    match number {
        0 | 1 => building(),
        2 => Progress::Uploading,
        3 => succeeded(),
        4 => failed(FailureClass::Build),
        5 => failed(FailureClass::Infra),
        6 => failed(FailureClass::Policy),
        7 => failed(FailureClass::Stale),
        _ => Progress::Ended { outcome: Outcome::Succeeded { artifacts: vec![artifact("b.deb")] } },
    }
}

/// The history so far, from which operations pick.
#[derive(Default)]
struct History {
    /// Tokens issued, with their jobs, in order.
    tokens: Vec<(JobId, Token)>,
    /// Proposals with their first replies.
    answered: Vec<(Proposal, Reply)>,
    /// Jobs that were over, as they were then.
    over: BTreeMap<JobId, Job>,
    epochs: u64,
}

impl History {
    /// Newer tokens more often: old ones are only ever refused.
    fn token(&self, index: &Index) -> (JobId, Token) {
        let unknown = (job_id(0), Token { epoch: epoch(77).id, counter: 1 });
        let recent = self.tokens.len().min(6);
        let start = self.tokens.len() - recent;
        if recent == 0 { unknown } else { self.tokens[start + index.index(recent)] }
    }

    fn proposal(&mut self, replica: &mut Replica, op: &Op) -> Proposal {
        let job = |number: u8| job_id(u128::from(number));
        let command = match op {
            Op::Admit { node, incarnation, name } => {
                let mut info = member(*node);
                info.incarnation = *incarnation;
                info.name = format!("name{name}");
                Command::Admit { member: info }
            }
            Op::Leave { node } => Command::Leave { peer_id: peer(*node) },
            Op::Bind { node, raft_id } => Command::BindReplica { peer_id: peer(*node), raft_id: *raft_id },
            Op::Claim { node, ballot, cap } => {
                let role = |role: &str, cap| RankedRole { role: role.to_owned(), cap };
                let ranking = vec![role("controller", Some(*cap)), role("builder", Some(1))];
                Command::ClaimRole { peer_id: peer(*node), ranking, ballot: format!("b{ballot}") }
            }
            Op::Submit { jobs, session } => {
                let spec = |(number, priority, pure, label): &(u8, i32, bool, u8)| {
                    let mut spec = pure_job(u128::from(*number));
                    spec.priority = *priority;
                    spec.pure = *pure;
                    spec.labels.extend((*label > 0).then(|| format!("label{label}")));
                    spec
                };
                let session = session_id(u128::from(*session));
                Command::Submit { session, submitter: "me".to_owned(), jobs: jobs.iter().map(spec).collect() }
            }
            Op::Assign { job: number, node } => Command::Assign { job: job(*number), node: peer(*node) },
            Op::Report { token, progress: number } => {
                let (job, token) = self.token(token);
                Command::Report { job, token, progress: progress(*number) }
            }
            Op::ReportWrong { job: number, token } => {
                Command::Report { job: job(*number), token: self.token(token).1, progress: succeeded() }
            }
            Op::Lose { token } => {
                let (job, token) = self.token(token);
                Command::Lose { job, token, reason: "silent".to_owned() }
            }
            Op::Cancel { job: number } => Command::Cancel { job: job(*number), reason: "enough".to_owned() },
            Op::Epoch => {
                self.epochs += 1;
                Command::BeginEpoch { epoch: epoch(1 + self.epochs) }
            }
            Op::Retry { which } => {
                if !self.answered.is_empty() {
                    return self.answered[which.index(self.answered.len())].0.clone();
                }
                Command::Leave { peer_id: peer(9) }
            }
        };
        replica.proposal(&command)
    }

    /// Checks the replies of a batch against what was there before.
    fn check_replies(&mut self, before: &State, batch: &Batch, replies: &[Reply]) {
        for (proposal, reply) in batch.proposals.iter().zip(replies) {
            if let Some((_, first)) = self.answered.iter().find(|(known, _)| known.origin == proposal.origin) {
                assert_eq!(reply, first, "a retry is answered as the first time");
                continue;
            }
            self.answered.push((proposal.clone(), reply.clone()));
            match (proposal.decode().unwrap(), reply) {
                (Command::Assign { job, .. }, Reply::Assigned { token, .. }) => {
                    let last = self.tokens.last().map_or(0, |(_, token)| token.counter);
                    assert!(token.counter > last, "tokens rise");
                    self.tokens.push((job, *token));
                }
                (Command::Report { job, token, .. }, reply) => {
                    let newest = self.tokens.iter().rfind(|(of, _)| *of == job).map(|(_, newest)| *newest);
                    let is_newest = newest == Some(token);
                    let unknown = before.job(&job).is_none() && newest.is_none();
                    let refused = engine_support::rejected(reply);
                    if !is_newest && !unknown {
                        assert!(
                            matches!(refused, Some(RejectCode::Stale | RejectCode::NotFound)),
                            "an old token changes something: {reply:?}"
                        );
                    }
                }
                _ => {}
            }
        }
    }

    fn check_state(&mut self, state: &State) {
        assert_eq!(state.counts(), recount(state));
        for job in state.jobs() {
            let accepted = job.attempts.iter().filter(|attempt| attempt.state == AttemptState::Accepted).count();
            assert_eq!(accepted, usize::from(job.state == JobState::Received), "{:?}", job.attempts);
            assert_eq!(job.live_attempt().is_some(), job.state == JobState::Delegated);
            assert!(job.attempts.windows(2).all(|pair| pair[0].token.counter < pair[1].token.counter));
            assert!(job.attempts.iter().rev().skip(1).all(|attempt| attempt.state.is_over()));
            let explained = matches!(job.state, JobState::Blocked | JobState::Failed | JobState::Quarantined);
            assert!(!explained || job.reason.is_some(), "{:?} without a reason", job.state);
            if let Some(then) = self.over.get(&job.spec.id) {
                assert_eq!(job, then, "what is over stays as it is");
            } else if job.state.is_terminal() {
                self.over.insert(job.spec.id, job.clone());
            }
        }
        let waiting: BTreeSet<JobId> = state.waiting().flat_map(|(_, jobs)| jobs.map(|job| job.spec.id)).collect();
        let needed = state.jobs().filter(|job| job.state == JobState::Needed).map(|job| job.spec.id);
        assert_eq!(waiting, needed.collect());
        let names: BTreeSet<&str> =
            state.members().filter(|member| !member.left).map(|member| member.display_name.as_str()).collect();
        assert_eq!(names.len(), state.members().filter(|member| !member.left).count(), "names are unique");
        let bound: Vec<u64> = state.members().filter_map(|member| member.raft_id).collect();
        assert_eq!(bound.iter().collect::<BTreeSet<_>>().len(), bound.len(), "a Raft id belongs to one node");
    }
}

/// Rows that do not depend on how commands were divided into entries.
fn without_chain(state: &State) -> BTreeMap<Row, Vec<u8>> {
    state.rows().into_iter().filter(|(row, _)| (row.table, row.key.as_slice()) != (table::META, b"chain")).collect()
}

fn run(batches: &[(Vec<Op>, u64)]) -> Replica {
    let mut history = History::default();
    let mut replica = Replica::founded(3);
    let mut reloaded = State::from_rows(replica.store.clone()).unwrap();
    let mut divided = replica.clone();
    for (ops, elapsed_ms) in batches {
        let proposals: Vec<Proposal> = ops.iter().map(|op| history.proposal(&mut replica, op)).collect();
        let batch = replica.batch(proposals, *elapsed_ms);
        let before = replica.state.clone();
        let applied = replica.apply(&batch);
        history.check_replies(&before, &batch, &applied.replies);
        history.check_state(&replica.state);
        if applied.replies.iter().all(|reply| engine_support::rejected(reply).is_some()) {
            let bookkeeping = [table::META, table::ORIGINS, table::REPLIES];
            let others = applied.changes.iter().find(|change| !bookkeeping.contains(&change.row.table));
            assert_eq!(others, None, "what is refused changes nothing");
        }
        assert!(applied.changes.windows(2).all(|pair| pair[0].row < pair[1].row), "each row once, in order");

        replica.check_reload();
        let elsewhere = reloaded.apply(replica.index, &batch).unwrap();
        assert_eq!(elsewhere, applied, "a reloaded replica does the same");
        reloaded = State::from_rows(replica.store.clone()).unwrap();

        for (position, proposal) in batch.proposals.iter().enumerate() {
            let elapsed_ms = if position == 0 { *elapsed_ms } else { 0 };
            let single = Batch { elapsed_ms, proposals: vec![proposal.clone()], ..batch.clone() };
            assert_eq!(divided.apply(&single).replies[0], applied.replies[position]);
        }
        assert!(without_chain(&divided.state) == without_chain(&replica.state), "division into entries matters");
    }
    replica
}

fn batches() -> impl Strategy<Value = Vec<(Vec<Op>, u64)>> {
    vec((vec(op(), 1..5), 0_u64..20_000), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_same_log_gives_the_same_state_and_keeps_every_invariant(batches in batches()) {
        run(&batches);
    }

    #[test]
    fn the_scheduler_only_gives_away_what_there_is_and_leaves_nothing_lying(
        batches in batches(),
        drones in vec((0_u8..5, 0_u8..5, 0_u32..4, 0_u8..3), 4),
        later_ms in 0_u64..400_000,
    ) {
        let mut replica = run(&batches);
        let view = View {
            drones: drones
                .iter()
                .zip(0..)
                .map(|((alive, willing, slots, _), number)| {
                    let soft = DroneView {
                        alive: *alive > 0,
                        takes_builds: *willing > 0,
                        slots: Some(*slots),
                        ..DroneView::default()
                    };
                    (peer(number), soft)
                })
                .collect(),
            in_flight: BTreeMap::new(),
        };
        for ((_, _, _, label), number) in drones.iter().zip(0..) {
            let mut info = member(number);
            info.incarnation = 100;
            info.inventory.labels.extend((*label > 0).then(|| format!("label{label}")));
            replica.run(Command::Admit { member: info });
        }
        let hive_ms = replica.state.hive_time_ms() + later_ms;
        let mut leases = Leases::new(1);
        let made = plan(&replica.state, &view, &mut leases, Now { now_ms: 1, hive_ms }, &Settings::default());
        let busy: BTreeMap<u32, usize> =
            (0..4).map(|number| (number, replica.state.live_attempts_len(&peer(number)))).collect();
        let mut given: BTreeMap<u32, usize> = BTreeMap::new();
        for command in &made.commands {
            let Command::Assign { job, node } = command else { panic!("leases are fresh, yet {command:?}") };
            let number = (0..4).find(|number| peer(*number) == *node).unwrap();
            *given.entry(number).or_default() += 1;
            let (info, soft) = (&replica.state.member(node).unwrap().info, &view.drones[node]);
            let (spec, tally) = (&replica.job(*job).spec, &replica.job(*job).tally);
            prop_assert!(soft.alive && soft.takes_builds);
            prop_assert!(replica.state.drone_record(node).grounded_until_ms <= hive_ms);
            prop_assert!(replica.job(*job).not_before_ms <= hive_ms);
            prop_assert!(spec.labels.iter().all(|label| info.inventory.labels.contains(label)));
            prop_assert!(tally.failed_on.get(node).is_none_or(|until| *until <= hive_ms));
        }
        for (number, count) in &given {
            let slots = usize::try_from(view.drones[&peer(*number)].slots.unwrap()).unwrap();
            prop_assert!(busy[number] + count <= slots, "node {}: {} busy, {} given", number, busy[number], count);
        }
        // Every waiting job is assigned or has a reason.
        for (_, jobs) in replica.state.waiting() {
            for job in jobs {
                let id = &job.spec.id;
                prop_assert!(made.report.assigned.contains_key(id) != made.report.waiting.contains_key(id));
            }
        }
        for command in &made.commands {
            let reply = replica.run(command.clone());
            prop_assert!(matches!(reply, Reply::Assigned { .. }), "{:?}", reply);
        }
        let again = plan(&replica.state, &view, &mut leases, Now { now_ms: 1, hive_ms }, &Settings::default());
        prop_assert_eq!(again.commands, vec![], "the plan left something lying");
    }
}
