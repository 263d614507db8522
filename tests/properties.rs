//! Invariants of the replicated state and of the scheduler under random commands.
//!
//! * The same log gives the same state: on every replica, however often one is reloaded from its rows, however the commands
//!   are divided into entries.
//! * Tokens only rise; an old one changes nothing; no job is accepted twice; what is over stays as it is.
//! * Every proposal gets one reply, and its retries the same one; what is refused changes nothing.
//! * The past, put together from what changed, is what was.
//! * The scheduler gives no slot away twice, gives nothing to a drone that cannot have it, and leaves nothing lying that
//!   could run.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that meets the unexpected fails")]

mod engine_support;

use std::collections::{BTreeMap, BTreeSet};

use engine_support::{
    Replica, artifact, building, epoch, failed, job_id, member, peer, pure_job, recount, session_id, succeeded,
};
use hive::engine::access::AccessChange;
use hive::engine::audit::{AuditNote, GivenAnswer, Once};
use hive::engine::command::{Batch, Command, Progress, Proposal, RankedRole, RejectCode, Reply};
use hive::engine::control::{Control, DroneChange, Jobs};
use hive::engine::id::{Epoch, HiveId, JobId, PeerId, Token, UnixMillis};
use hive::engine::job::{AttemptState, FailureClass, Job, JobSpec, JobState, Outcome};
use hive::engine::member::MemberInfo;
use hive::engine::past::{self, Step};
use hive::engine::scheduler::{DroneView, Leases, Now, Settings, View, plan};
use hive::engine::session::{SessionAbout, SessionPhase};
use hive::engine::state::{ANSWER_KEPT_MAX, Applied, Row, State, table};
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
    Submit { jobs: Vec<Asked>, session: u8 },
    Draft { jobs: Vec<Asked>, session: u8 },
    Open { session: u8, jobs: u64 },
    Drop { session: u8 },
    Control { kind: u8, job: u8, node: u32 },
    Revoke { token: Index },
    EndBlock { job: u8 },
    Assign { job: u8, node: u32 },
    Report { token: Index, progress: u8 },
    ReportWrong { job: u8, token: Index },
    Lose { token: Index },
    Cancel { job: u8 },
    Audit { who: u8, once: Option<u8>, request: u8 },
    Answer { once: u8, long: bool },
    SignOut,
    Epoch,
    Restore { node: u32, incarnation: u64 },
    Retry { which: Index },
}

/// A job that is submitted: its number, priority, purity, kind, and what it waits for.
type Asked = (u8, i32, bool, u8, Option<u8>);

fn asked() -> impl Strategy<Value = Vec<Asked>> {
    let after = proptest::option::weighted(0.4, 0_u8..8);
    vec((0_u8..8, -2_i32..3, any::<bool>(), 0_u8..4, after), 1..4)
}

fn op() -> impl Strategy<Value = Op> {
    let node = || 0_u32..4;
    let job = || 0_u8..8;
    prop_oneof![
        1 => (node(), 1_u64..4, 0_u8..2).prop_map(|(node, incarnation, name)| Op::Admit { node, incarnation, name }),
        1 => (1_u32..4).prop_map(|node| Op::Leave { node }),
        1 => (node(), proptest::option::of(0_u64..6)).prop_map(|(node, raft_id)| Op::Bind { node, raft_id }),
        1 => (node(), 0_u8..3, 0_u32..3).prop_map(|(node, ballot, cap)| Op::Claim { node, ballot, cap }),
        3 => (asked(), 0_u8..2).prop_map(|(jobs, session)| Op::Submit { jobs, session }),
        1 => (asked(), 1_u8..4).prop_map(|(jobs, session)| Op::Draft { jobs, session }),
        1 => (1_u8..4, 1_u64..4).prop_map(|(session, jobs)| Op::Open { session, jobs }),
        1 => (1_u8..4).prop_map(|session| Op::Drop { session }),
        2 => (0_u8..16, job(), node()).prop_map(|(kind, job, node)| Op::Control { kind, job, node }),
        1 => any::<Index>().prop_map(|token| Op::Revoke { token }),
        1 => job().prop_map(|job| Op::EndBlock { job }),
        8 => (job(), node()).prop_map(|(job, node)| Op::Assign { job, node }),
        12 => (any::<Index>(), 0_u8..11).prop_map(|(token, progress)| Op::Report { token, progress }),
        1 => (job(), any::<Index>()).prop_map(|(job, token)| Op::ReportWrong { job, token }),
        3 => any::<Index>().prop_map(|token| Op::Lose { token }),
        1 => job().prop_map(|job| Op::Cancel { job }),
        2 => (0_u8..3, proptest::option::of(0_u8..3), 0_u8..2).prop_map(|(who, once, request)| Op::Audit { who, once, request }),
        1 => (0_u8..3, any::<bool>()).prop_map(|(once, long)| Op::Answer { once, long }),
        1 => Just(Op::SignOut),
        1 => Just(Op::Epoch),
        1 => (node(), 1_u64..6).prop_map(|(node, incarnation)| Op::Restore { node, incarnation }),
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
        8 => Progress::Ended { outcome: Outcome::Returned { reason: "no room".to_owned() } },
        9 => Progress::Ended { outcome: Outcome::NotUploaded { reason: "no way".to_owned() } },
        _ => Progress::Ended { outcome: Outcome::Succeeded { artifacts: vec![artifact("b.deb")] } },
    }
}

fn spec((number, priority, pure, kind, after): &Asked) -> JobSpec {
    let mut spec = pure_job(u128::from(*number));
    spec.priority = *priority;
    spec.pure = *pure;
    spec.labels.extend((*kind == 1).then(|| "label".to_owned()));
    spec.idempotent = *kind == 2;
    if *kind == 3 {
        spec.work = pure_job(0).work;
    }
    spec.depends_on.extend(after.map(|after| job_id(u128::from(after))));
    spec
}

fn control(kind: u8, job: JobId, node: PeerId) -> Control {
    let one = Jobs::One(job);
    match kind {
        0 => Control::Pause,
        1 | 2 => Control::Resume,
        3 => Control::Block { jobs: one },
        4 => Control::Unblock { jobs: one },
        5 => Control::RetryFailures { jobs: Jobs::All },
        6 => Control::ClearFailures,
        7 => Control::Reset { running: true },
        8 => Control::Rebalance { running: false },
        9 => Control::Reclaim { jobs: one, running: true },
        10 => Control::Unground { node: None },
        11 => Control::ClearHistory,
        12 => Control::CancelSession { session: session_id(1) },
        13 => Control::Drone { node, change: DroneChange::Drain { deadline_ms: Some(5) } },
        14 => Control::Drone { node, change: DroneChange::Pause },
        _ => Control::Drone { node, change: DroneChange::Resume },
    }
}

fn claim(node: u32, ballot: u8, cap: u32) -> Command {
    let role = |role: &str, cap| RankedRole { role: role.to_owned(), cap };
    let ranking = vec![role("controller", Some(cap)), role("builder", Some(1))];
    Command::ClaimRole { peer_id: peer(node), ranking, ballot: format!("b{ballot}") }
}

fn audit(who: u8, once: Option<u8>, request: u8) -> Command {
    let note = AuditNote { by: format!("person{who}"), act: "POST /x".to_owned(), ..AuditNote::default() };
    Command::Audit { note, once: once.map(|key| Once { key: [key; 32], request: [request; 32] }) }
}

fn answer(once: u8, long: bool) -> Command {
    let body = vec![b'x'; if long { ANSWER_KEPT_MAX + 1 } else { 3 }];
    Command::KeepAnswer { key: [once; 32], answer: GivenAnswer { status: 200, body } }
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
    /// Jobs that were over have been forgotten, and are counted all the same.
    forgotten: bool,
}

impl History {
    /// Newer tokens more often: old ones are only ever refused.
    fn token(&self, index: &Index) -> (JobId, Token) {
        let unknown = (job_id(0), Token { epoch: epoch(77).id, counter: 1 });
        let recent = self.tokens.len().min(6);
        let start = self.tokens.len() - recent;
        if recent == 0 { unknown } else { self.tokens[start + index.index(recent)] }
    }

    fn next_epoch(&mut self) -> Epoch {
        self.epochs += 1;
        epoch(1 + self.epochs)
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
            Op::Claim { node, ballot, cap } => claim(*node, *ballot, *cap),
            Op::Submit { jobs, session } => {
                Command::submit(session_id(u128::from(*session)), "me", jobs.iter().map(spec).collect())
            }
            Op::Draft { jobs, session } => Command::Submit {
                session: session_id(u128::from(*session)),
                about: SessionAbout::by("me"),
                draft: Some(peer(0)),
                jobs: jobs.iter().map(spec).collect(),
            },
            Op::Open { session, jobs } => {
                Command::OpenSession { session: session_id(u128::from(*session)), jobs: *jobs }
            }
            Op::Drop { session } => {
                Command::DropSession { session: session_id(u128::from(*session)), reason: "no".to_owned() }
            }
            Op::Control { kind, job: number, node } => Command::Control {
                action: control(*kind, job(*number), peer(*node)),
                by: "me".to_owned(),
                why: "because".to_owned(),
            },
            Op::Revoke { token } => {
                let (job, token) = self.token(token);
                Command::Revoke { job, token, reason: "elsewhere".to_owned() }
            }
            Op::EndBlock { job: number } => Command::EndBlock { job: job(*number) },
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
            Op::Audit { who, once, request } => audit(*who, *once, *request),
            Op::Answer { once, long } => answer(*once, *long),
            Op::SignOut => Command::Access { change: AccessChange::EndSessions, by: "me".to_owned() },
            Op::Epoch => Command::BeginEpoch { epoch: self.next_epoch() },
            Op::Restore { node, incarnation } => {
                let epoch = self.next_epoch();
                let hive_id = HiveId([u8::try_from(100 + epoch.counter % 100).unwrap(); 16]);
                let founder = MemberInfo { incarnation: *incarnation, ..member(*node) };
                Command::BeginHive { hive_id, epoch, founder }
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
                (Command::Control { action, .. }, Reply::Changed { .. }) => match action {
                    // What failed begins anew, and what is history may come again.
                    Control::RetryFailures { .. } | Control::Reset { .. } => {
                        self.over.retain(|_, job| matches!(job.state, JobState::Received | JobState::Cancelled));
                    }
                    Control::ClearHistory => {
                        self.over.clear();
                        self.forgotten = true;
                    }
                    _ => {}
                },
                _ => {}
            }
        }
    }

    fn check_state(&mut self, state: &State) {
        let (counts, walked) = (state.counts(), recount(state));
        if self.forgotten {
            assert_eq!((counts.open(), counts.building), (walked.open(), walked.building));
        } else {
            assert_eq!(counts, walked);
        }
        for job in state.jobs() {
            let accepted = job.attempts.iter().filter(|attempt| attempt.state == AttemptState::Accepted).count();
            let own = job.state == JobState::Received && job.joined.is_none();
            assert_eq!(accepted, usize::from(own), "{:?}", job.attempts);
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
        let needed = state.jobs().filter(|job| job.state == JobState::Needed && is_free(state, job));
        assert_eq!(waiting, needed.map(|job| job.spec.id).collect());
        check_gates(state);
        let names: BTreeSet<&str> =
            state.members().filter(|member| !member.left).map(|member| member.display_name.as_str()).collect();
        assert_eq!(names.len(), state.members().filter(|member| !member.left).count(), "names are unique");
        assert!(state.verify_audit().is_ok(), "the audit log is a chain: {:?}", state.verify_audit());
        let bound: Vec<u64> = state.members().filter_map(|member| member.raft_id).collect();
        assert_eq!(bound.iter().collect::<BTreeSet<_>>().len(), bound.len(), "a Raft id belongs to one node");
    }
}

fn waits_for(job: &Job) -> impl Iterator<Item = &JobId> {
    job.spec.depends_on.iter().chain(&job.joined)
}

/// Everything that it waits for has succeeded, worked out from the rows alone.
fn is_free(state: &State, job: &Job) -> bool {
    waits_for(job).all(|id| state.job(id).is_some_and(|other| other.state == JobState::Received))
}

/// It waits for something that will not succeed by itself, worked out from the rows alone.
fn is_held(state: &State, job: &Job, depth: usize) -> bool {
    assert!(depth < 32, "jobs wait for each other");
    waits_for(job).any(|id| {
        state.job(id).is_none_or(|other| match other.state {
            JobState::Received => false,
            JobState::Needed | JobState::Delegated => is_held(state, other, depth + 1),
            _ => true,
        })
    })
}

fn check_gates(state: &State) {
    for job in state.jobs().filter(|job| !job.state.is_terminal()) {
        let held = is_held(state, job, 0);
        assert_eq!(state.wait(&job.spec.id).is_none(), is_free(state, job), "{:?}", job.spec.id);
        assert_eq!(state.wait(&job.spec.id).is_some_and(|wait| !wait.dead.is_empty() || wait.lost), held);
        let blocked = job.state == JobState::Blocked || (job.state == JobState::Needed && held);
        assert_eq!(state.shown_state(job) == JobState::Blocked, blocked);
    }
    for (id, session) in state.sessions().filter(|(_, session)| session.phase != SessionPhase::Draft) {
        let counts = state.session_counts(id);
        assert_eq!(counts.total(), session.jobs, "every job of a session is counted once");
        assert_eq!(session.ended_at.is_some(), counts.open() == 0, "a session is over when its jobs are");
    }
}

/// Rows that do not depend on how commands were divided into entries.
fn without_chain(state: &State) -> BTreeMap<Row, Vec<u8>> {
    state.rows().into_iter().filter(|(row, _)| (row.table, row.key.as_slice()) != (table::META, b"chain")).collect()
}

fn run(batches: &[(Vec<Op>, u64)]) -> Replica {
    run_and(batches, |_, _| {})
}

/// The same; `seen` is shown the replica after each batch, with what that changed.
fn run_and(batches: &[(Vec<Op>, u64)], mut seen: impl FnMut(&Replica, &Applied)) -> Replica {
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
        seen(&replica, &applied);
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

/// What is shown of a state, as far as it can be compared.
fn shown(state: &State) -> impl PartialEq + std::fmt::Debug + use<> {
    let jobs: Vec<(Job, JobState)> = state.jobs().map(|job| (job.clone(), state.shown_state(job))).collect();
    let sessions: Vec<_> =
        state.sessions().map(|(id, session)| (*id, session.clone(), state.session_counts(id))).collect();
    let members: Vec<_> =
        state.members().map(|member| (member.clone(), state.live_attempts_len(&member.info.peer_id))).collect();
    let drones: Vec<_> = (0..4).map(|number| state.drone_record(&peer(number)).clone()).collect();
    let queue =
        (state.counts(), state.paused().cloned(), state.hive_time_ms(), state.history_jobs().collect::<Vec<_>>());
    (jobs, sessions, members, drones, queue)
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
    fn the_past_put_together_from_what_changed_is_what_was(batches in batches(), looks in vec(0_usize..40, 1..8)) {
        let mut steps: Vec<Step> = Vec::new();
        let mut was = Vec::new();
        run_and(&batches, |replica, applied| {
            let at = UnixMillis(1_000 * replica.index);
            steps.push(Step { at, index: replica.index, changes: past::kept(&applied.changes) });
            was.push((past::kept_rows(replica.store.clone()), shown(&replica.state)));
        });
        // Written down and read again, and begun in the middle.
        let bytes: Vec<u8> = steps.iter().flat_map(past::encode).collect();
        for look in looks {
            let look = look % was.len();
            let begun = look / 2;
            let mut rows = was[begun].0.clone();
            let mut rest = bytes.as_slice();
            for (place, was_step) in steps.iter().enumerate().take(look + 1) {
                let step = past::decode(&mut rest).expect("whole");
                prop_assert_eq!(&step, was_step);
                if place > begun {
                    past::fold(&mut rows, step.changes);
                }
            }
            prop_assert!(rows == was[look].0, "rows at {}", look);
            let then = past::state_of(rows).expect("readable");
            prop_assert!(shown(&then) == was[look].1, "what is shown at {}: {:?} instead of {:?}", look, shown(&then), was[look].1);
        }
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
