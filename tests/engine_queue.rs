//! Dependencies, sessions, equal work, and what operators do.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that meets the unexpected fails")]

mod engine_support;

use std::collections::{BTreeMap, BTreeSet};

use engine_support::{
    Replica, building, effectful_job, failed, job_id, peer, pure_job, rejected, session_id, succeeded,
};
use hive::engine::command::{Command, Progress, RejectCode, Reply};
use hive::engine::control::{Control, DroneChange, Jobs};
use hive::engine::id::{JobId, SessionId, Sha256Hash, Token, UnixMillis};
use hive::engine::job::{Artifact, AttemptState, DebianSource, FailureClass, JobSpec, JobState, Outcome, Source, Work};
use hive::engine::keeping::{Circumstances, Policy, needed};
use hive::engine::session::{SessionAbout, SessionPhase};
use hive::engine::state::{BLOCK_MS, BLOCKS_MAX, TERMINAL_KEPT};
use proptest::collection::vec;
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

fn after(number: u128, dependencies: &[u128]) -> JobSpec {
    JobSpec { depends_on: dependencies.iter().map(|id| job_id(*id)).collect(), ..pure_job(number) }
}

fn submit(replica: &mut Replica, session: u128, jobs: Vec<JobSpec>) -> Reply {
    replica.run(Command::submit(session_id(session), "me", jobs))
}

fn draft(replica: &mut Replica, session: u128, jobs: Vec<JobSpec>) -> Reply {
    let about = SessionAbout { submitter: "me".to_owned(), name: "import".to_owned(), profile: None };
    replica.run(Command::Submit { session: session_id(session), about, draft: Some(peer(0)), jobs })
}

fn open(replica: &mut Replica, session: u128, jobs: u64) -> Reply {
    replica.run(Command::OpenSession { session: session_id(session), jobs })
}

fn control(replica: &mut Replica, action: Control) -> Reply {
    replica.run(Command::Control { action, by: "ann".to_owned(), why: "testing".to_owned() })
}

fn jobs_changed(reply: &Reply) -> u64 {
    match reply {
        Reply::Changed { jobs, .. } => *jobs,
        other => panic!("{other:?}"),
    }
}

fn waiting(replica: &Replica) -> BTreeSet<JobId> {
    replica.state.waiting().flat_map(|(_, jobs)| jobs.map(|job| job.spec.id)).collect()
}

fn ids(numbers: &[u128]) -> BTreeSet<JobId> {
    numbers.iter().map(|number| job_id(*number)).collect()
}

fn build(replica: &mut Replica, number: u128, node: u32) {
    let token = replica.assign(job_id(number), node);
    replica.report(job_id(number), token, building());
    replica.report(job_id(number), token, succeeded());
}

/// Builds a job to one artifact of its own, `size` bytes long.
fn build_to(replica: &mut Replica, number: u8, size: u64) -> u64 {
    let id = job_id(u128::from(number));
    let token = replica.assign(id, 1);
    replica.report(id, token, building());
    let artifacts = vec![Artifact { name: format!("{number}.deb"), sha256: Sha256Hash([number; 32]), size }];
    replica.report(id, token, Progress::Ended { outcome: Outcome::Succeeded { artifacts } });
    replica.job(id).finish_ordinal
}

fn debian(number: u128) -> JobSpec {
    let source = DebianSource::Archive { package: format!("p{number}"), version: None };
    JobSpec { work: Work::Debian { source }, ..pure_job(number) }
}

fn kept(replica: &Replica, policy: Policy, now_ms: u64, staged_to: Option<u64>) -> BTreeSet<u8> {
    let stored: BTreeMap<Sha256Hash, u64> = (1..=8).map(|number| (Sha256Hash([number; 32]), 10)).collect();
    let around = Circumstances { now: UnixMillis(now_ms), staged_to, stored: &stored };
    needed(&replica.state, policy, around).blobs.iter().map(|hash| hash.0[0]).filter(|first| *first <= 8).collect()
}

#[test]
fn artifacts_go_by_age_and_space_and_never_while_something_refers_to_them() {
    let mut replica = Replica::founded(3);
    submit(&mut replica, 1, (1..=3).map(debian).chain([pure_job(4), pure_job(5), pure_job(6)]).collect());
    let ordinals: Vec<u64> = (1..=5).map(|number| build_to(&mut replica, number, 10)).collect();
    let end = |number: u128| replica.job(job_id(number)).attempts[0].ended_at.unwrap().0;
    let (first, last) = (end(1), end(5));
    let forever = Policy::default();
    let all = BTreeSet::from([1, 2, 3, 4, 5]);
    assert_eq!(kept(&replica, forever, u64::MAX, None), all, "0 is for ever");
    let age = |age_max_ms| Policy { age_max_ms, ..forever };
    assert_eq!(kept(&replica, age(1_000), first + 1_000, None), all, "not yet too old");
    assert_eq!(kept(&replica, age(1_000), first + 1_001, None), BTreeSet::from([2, 3, 4, 5]));
    assert_eq!(kept(&replica, age(1_000), last + 1_001, None), BTreeSet::new());
    let space = |total_max_bytes| Policy { total_max_bytes, ..forever };
    assert_eq!(kept(&replica, space(50), 0, None), all);
    assert_eq!(kept(&replica, space(29), 0, None), BTreeSet::from([4, 5]), "the oldest go first");
    assert_eq!(kept(&replica, space(1), 0, None), BTreeSet::new());
    // Staging has the first only; the fourth and fifth do not belong there.
    let strict = Policy { age_max_ms: 1, total_max_bytes: 1 };
    assert_eq!(kept(&replica, strict, u64::MAX, Some(ordinals[0])), BTreeSet::from([2, 3]));
    assert_eq!(kept(&replica, strict, u64::MAX, Some(ordinals[2])), BTreeSet::new());

    // Another job with the same bytes refers to them as long as it is kept itself.
    submit(&mut replica, 2, vec![pure_job(7)]);
    let token = replica.assign(job_id(7), 1);
    replica.report(job_id(7), token, building());
    let artifacts = vec![Artifact { name: "same.deb".to_owned(), sha256: Sha256Hash([1; 32]), size: 10 }];
    replica.report(job_id(7), token, Progress::Ended { outcome: Outcome::Succeeded { artifacts } });
    let again = replica.job(job_id(7)).attempts[0].ended_at.unwrap().0;
    assert_eq!(kept(&replica, age(1_000), again + 1_000, None), BTreeSet::from([1]));

    // What a draft or a job that is not over is built from stays, whatever the policy.
    let source = |number: u8, id: u128| {
        let source = Source::Blob { sha256: Sha256Hash([number; 32]), size: 10 };
        JobSpec { work: Work::Debian { source: DebianSource::Tree { source } }, ..pure_job(id) }
    };
    draft(&mut replica, 3, vec![source(2, 8)]);
    submit(&mut replica, 4, vec![source(3, 9)]);
    assert_eq!(kept(&replica, strict, u64::MAX, Some(u64::MAX)), BTreeSet::from([2, 3]));
}

proptest! {
    #[test]
    fn a_looser_policy_keeps_all_that_a_stricter_one_keeps(
        sizes in vec(1u64..100, 1..6),
        (age, more_age) in (1u64..10_000, 0u64..10_000),
        (space, more_space) in (1u64..300, 0u64..300),
        now_ms in 0u64..40_000,
        staged in 0u64..8,
    ) {
        let mut replica = Replica::founded(3);
        let count = u8::try_from(sizes.len()).unwrap();
        submit(&mut replica, 1, (1..=count).map(|number| if number % 2 == 0 { debian(u128::from(number)) } else { pure_job(u128::from(number)) }).collect());
        for (number, size) in (1..=count).zip(&sizes) {
            build_to(&mut replica, number, *size);
        }
        let strict = Policy { age_max_ms: age, total_max_bytes: space };
        let loose = Policy { age_max_ms: age + more_age, total_max_bytes: space + more_space };
        let (few, many) = (kept(&replica, strict, now_ms, Some(staged)), kept(&replica, loose, now_ms, Some(staged)));
        prop_assert!(few.is_subset(&many), "{few:?} of {many:?}");
        let waiting: Vec<u8> = (1..=count).filter(|number| {
            number % 2 == 0 && replica.job(job_id(u128::from(*number))).finish_ordinal > staged
        }).collect();
        prop_assert!(waiting.iter().all(|number| few.contains(number)), "staging waits for {waiting:?}, kept {few:?}");
        let all = kept(&replica, Policy::default(), now_ms, None);
        prop_assert_eq!(all.len(), sizes.len());
    }
}

fn state(replica: &Replica, number: u128) -> JobState {
    let job = replica.state.job(&job_id(number)).unwrap();
    replica.state.shown_state(job)
}

#[test]
fn a_job_runs_when_all_that_it_needs_is_done() {
    let mut replica = Replica::founded(2);
    // In one command the order does not matter.
    assert_eq!(submit(&mut replica, 1, vec![after(3, &[1, 2]), after(2, &[1]), pure_job(1)]), Reply::Done);
    assert_eq!(waiting(&replica), ids(&[1]));
    let early = replica.run(Command::Assign { job: job_id(3), node: peer(1) });
    assert_eq!(rejected(&early), Some(RejectCode::Conflict));
    build(&mut replica, 1, 1);
    assert_eq!(waiting(&replica), ids(&[2]));
    build(&mut replica, 2, 1);
    assert_eq!(waiting(&replica), ids(&[3]));
    // Between sessions, also on what is done already.
    submit(&mut replica, 2, vec![after(4, &[1, 3])]);
    assert_eq!(waiting(&replica), ids(&[3]));
    build(&mut replica, 3, 0);
    assert_eq!(waiting(&replica), ids(&[4]));
    replica.check_reload();
}

#[test]
fn a_failed_dependency_holds_all_behind_it_until_it_succeeds() {
    let mut replica = Replica::founded(2);
    submit(&mut replica, 1, vec![pure_job(1), after(2, &[1]), after(3, &[2]), after(4, &[3]), pure_job(5)]);
    let token = replica.assign(job_id(1), 1);
    replica.report(job_id(1), token, failed(FailureClass::Policy));
    for number in 1..=4 {
        assert_eq!(state(&replica, number), JobState::Blocked, "{number}");
    }
    assert_eq!((replica.state.counts().blocked, replica.state.counts().needed), (4, 1));
    replica.check_reload();
    assert_eq!(jobs_changed(&control(&mut replica, Control::Unblock { jobs: Jobs::One(job_id(1)) })), 1);
    assert_eq!(replica.state.counts().blocked, 0);
    for number in 1..=4 {
        build(&mut replica, number, 0);
    }
    assert_eq!(replica.state.counts().received, 4);
    replica.check_reload();
}

#[test]
fn circles_and_unknown_dependencies_are_refused_and_named() {
    let mut replica = Replica::founded(1);
    let reply = submit(&mut replica, 1, vec![after(1, &[3]), after(2, &[1]), after(3, &[2])]);
    assert_eq!(rejected(&reply), Some(RejectCode::Invalid));
    assert!(format!("{reply:?}").contains("job1 → job3 → job2 → job1"), "{reply:?}");
    let reply = submit(&mut replica, 1, vec![after(1, &[9])]);
    assert_eq!(rejected(&reply), Some(RejectCode::NotFound));
    let itself = submit(&mut replica, 1, vec![after(1, &[1])]);
    assert_eq!(rejected(&itself), Some(RejectCode::Invalid));
    assert_eq!(replica.state.jobs_len(), 0);
    // A draft may hold them in any order, and is refused when it is opened.
    for number in 1..=100 {
        let next = number % 100 + 1;
        assert_eq!(draft(&mut replica, 2, vec![after(number, &[next])]), Reply::Done);
    }
    let reply = open(&mut replica, 2, 100);
    assert_eq!(rejected(&reply), Some(RejectCode::Invalid));
    assert!(format!("{reply:?}").contains("100 in all"), "{reply:?}");
    replica.check_reload();
}

#[test]
fn a_draft_is_seen_whole_or_not_at_all() {
    let mut replica = Replica::founded(2);
    assert_eq!(draft(&mut replica, 7, vec![after(2, &[1])]), Reply::Done);
    assert_eq!(draft(&mut replica, 7, vec![pure_job(1)]), Reply::Done);
    let seen = |replica: &Replica| (replica.state.jobs().count(), replica.state.counts().total());
    assert_eq!(seen(&replica), (0, 0));
    assert!(replica.state.job(&job_id(1)).is_none() && waiting(&replica).is_empty());
    replica.check_reload();
    let assign = replica.run(Command::Assign { job: job_id(1), node: peer(1) });
    assert!(rejected(&assign).is_some());
    let others = submit(&mut replica, 7, vec![pure_job(3)]);
    assert_eq!(rejected(&others), Some(RejectCode::Conflict), "nobody else adds to a draft");
    assert_eq!(rejected(&open(&mut replica, 7, 3)), Some(RejectCode::Conflict), "one is missing");
    assert_eq!(open(&mut replica, 7, 2), Reply::Done);
    assert_eq!(open(&mut replica, 7, 2), Reply::Done, "a retry");
    assert_eq!((seen(&replica), waiting(&replica)), ((2, 2), ids(&[1])));
    replica.check_reload();
    // One that is taken back leaves nothing.
    draft(&mut replica, 8, vec![pure_job(10), after(11, &[10, 1])]);
    let drop = Command::DropSession { session: session_id(8), reason: "torn".to_owned() };
    assert_eq!(replica.run(drop.clone()), Reply::Done);
    assert!(replica.state.session(&session_id(8)).is_none() && !replica.state.knows_job(&job_id(10)));
    assert_eq!(replica.run(drop), Reply::Done, "a retry");
    let open_one = Command::DropSession { session: session_id(7), reason: "no".to_owned() };
    assert_eq!(rejected(&replica.run(open_one)), Some(RejectCode::Conflict));
    replica.check_reload();
}

#[test]
fn what_others_wait_for_stays_in_memory_and_what_succeeded_long_ago_is_struck_out() {
    let mut replica = Replica::founded(1);
    submit(&mut replica, 1, vec![pure_job(1), pure_job(2), after(3, &[1])]);
    build(&mut replica, 1, 0);
    build(&mut replica, 2, 0);
    let many = u128::try_from(TERMINAL_KEPT).unwrap() + 10;
    for first in (0..many).step_by(50) {
        let numbers: Vec<u128> = (first + 100..first + 150).collect();
        submit(&mut replica, 2, numbers.iter().copied().map(pure_job).collect());
        let cancels: Vec<_> = numbers
            .into_iter()
            .map(|number| replica.proposal(&Command::Cancel { job: job_id(number), reason: "x".to_owned() }))
            .collect();
        let batch = replica.batch(cancels, 1);
        replica.apply(&batch);
    }
    assert!(replica.state.job(&job_id(1)).is_some(), "job 3 waits for it");
    assert!(replica.state.job(&job_id(2)).is_none() && replica.state.knows_job(&job_id(2)));
    submit(&mut replica, 3, vec![after(4, &[2])]);
    assert_eq!(waiting(&replica), ids(&[3, 4]));
    assert!(replica.job(job_id(4)).spec.depends_on.is_empty());
    assert_eq!(submit(&mut replica, 3, vec![after(4, &[2])]), Reply::Done, "the same once more");
    // What was cancelled long ago holds whoever waits for it, and says so.
    submit(&mut replica, 4, vec![after(5, &[100])]);
    assert_eq!(state(&replica, 5), JobState::Blocked);
    assert!(replica.state.wait(&job_id(5)).unwrap().lost);
    replica.check_reload();
}

#[test]
fn equal_work_under_way_is_joined_and_not_doubled() {
    let twin = |number: u128| JobSpec { work: pure_job(1).work, ..pure_job(number) };
    let mut replica = Replica::founded(2);
    submit(&mut replica, 1, vec![pure_job(1)]);
    submit(&mut replica, 2, vec![twin(2)]);
    submit(&mut replica, 3, vec![JobSpec { priority: 9, ..twin(3) }]);
    let other_place = JobSpec { labels: BTreeSet::from(["gpu".to_owned()]), ..twin(4) };
    submit(&mut replica, 4, vec![other_place, effectful_job(5)]);
    assert_eq!(waiting(&replica), ids(&[1, 4, 5]));
    build(&mut replica, 1, 1);
    for number in [1, 2, 3] {
        assert_eq!(state(&replica, number), JobState::Received, "{number}");
        assert_eq!(replica.job(job_id(number)).artifacts.len(), 1);
    }
    replica.check_reload();
    // What is done is not under way: it is built again.
    submit(&mut replica, 5, vec![twin(6)]);
    submit(&mut replica, 6, vec![twin(7), after(8, &[7])]);
    submit(&mut replica, 7, vec![twin(9)]);
    assert!(waiting(&replica).contains(&job_id(6)) && !waiting(&replica).contains(&job_id(7)));
    // When the first is cancelled, the next takes its place and the others follow that one.
    replica.run(Command::Cancel { job: job_id(6), reason: "no".to_owned() });
    assert!(waiting(&replica).contains(&job_id(7)));
    assert_eq!(replica.job(job_id(9)).joined, Some(job_id(7)));
    replica.check_reload();
    // One that fails takes those with it that would have been the same.
    let token = replica.assign(job_id(7), 1);
    for _ in 0..1 {
        replica.report(job_id(7), token, failed(FailureClass::Cancelled));
    }
    assert!(waiting(&replica).contains(&job_id(9)), "class cancelled frees as an operator's cancel does");
    replica.check_reload();
}

#[test]
fn sessions_are_over_when_their_jobs_are_and_say_what_became_of_them() {
    let mut replica = Replica::founded(1);
    submit(&mut replica, 1, vec![pure_job(1), pure_job(2)]);
    let session = |replica: &Replica| replica.state.session(&session_id(1)).unwrap().clone();
    build(&mut replica, 1, 0);
    assert_eq!(session(&replica).ended_at, None);
    let token = replica.assign(job_id(2), 0);
    replica.report(job_id(2), token, failed(FailureClass::Policy));
    assert_eq!(session(&replica).ended_at, None, "a blocked job is not over");
    replica.run(Command::Cancel { job: job_id(2), reason: "x".to_owned() });
    assert!(session(&replica).ended_at.is_some());
    let counts = replica.state.session_counts(&session_id(1));
    assert_eq!((counts.received, counts.cancelled, counts.total()), (1, 1, 2));
    submit(&mut replica, 1, vec![pure_job(3), after(4, &[3])]);
    assert_eq!(session(&replica).ended_at, None, "it goes on");
    let cancelled = control(&mut replica, Control::CancelSession { session: session_id(1) });
    assert_eq!(jobs_changed(&cancelled), 2);
    assert_eq!(session(&replica).phase, SessionPhase::Cancelled);
    assert!(session(&replica).ended_at.is_some() && session(&replica).why.unwrap().contains("ann: testing"));
    let late = submit(&mut replica, 1, vec![pure_job(9)]);
    assert_eq!(rejected(&late), Some(RejectCode::Conflict));
    let again = control(&mut replica, Control::CancelSession { session: session_id(1) });
    assert_eq!(jobs_changed(&again), 0);
    let none = control(&mut replica, Control::CancelSession { session: SessionId(uuid::Uuid::from_u128(77)) });
    assert_eq!(rejected(&none), Some(RejectCode::NotFound));
    replica.check_reload();
}

#[test]
fn blocks_for_failures_end_later_each_time_and_then_the_job_has_failed() {
    let mut replica = Replica::founded(2);
    submit(&mut replica, 1, vec![pure_job(1)]);
    let id = job_id(1);
    for round in 0..=BLOCKS_MAX {
        for node in 0..2 {
            let token = replica.assign(id, node);
            replica.report(id, token, failed(FailureClass::Build));
        }
        if round == BLOCKS_MAX {
            break;
        }
        assert_eq!(state(&replica, 1), JobState::Blocked, "round {round}");
        let (until_ms, _) = replica.state.aging_blocks().next().unwrap();
        assert_eq!(until_ms - replica.state.hive_time_ms(), BLOCK_MS << round);
        let early = replica.run(Command::EndBlock { job: id });
        assert_eq!(rejected(&early), Some(RejectCode::Conflict));
        replica.pass(BLOCK_MS << round);
        assert_eq!(replica.run(Command::EndBlock { job: id }), Reply::Done);
        assert_eq!(waiting(&replica), ids(&[1]));
        replica.check_reload();
    }
    assert_eq!(state(&replica, 1), JobState::Failed);
    let reply = control(&mut replica, Control::RetryFailures { jobs: Jobs::One(id) });
    assert_eq!((jobs_changed(&reply), waiting(&replica)), (1, ids(&[1])));
    assert_eq!(replica.job(id).tally.blocks, 0);
    replica.check_reload();
}

#[test]
fn actions_say_what_they_changed_and_change_nothing_twice() {
    let mut replica = Replica::founded(2);
    submit(&mut replica, 1, vec![pure_job(1), pure_job(2), pure_job(3), pure_job(4)]);
    let running = replica.assign(job_id(1), 0);
    replica.report(job_id(1), running, building());
    replica.assign(job_id(2), 1);
    let mut twice = |action: Control, first: u64| {
        assert_eq!(jobs_changed(&control(&mut replica, action.clone())), first, "{action:?}");
        assert_eq!(jobs_changed(&control(&mut replica, action.clone())), 0, "{action:?} again");
        replica.check_reload();
    };
    twice(Control::Pause, 2);
    twice(Control::Resume, 2);
    twice(Control::Block { jobs: Jobs::Package("job3".to_owned()) }, 1);
    twice(Control::Unblock { jobs: Jobs::All }, 1);
    twice(Control::Rebalance { running: false }, 1);
    assert_eq!(replica.job(job_id(1)).live_attempt().unwrap().token, running, "what runs is not touched");
    assert_eq!(replica.job(job_id(2)).attempts[0].state, AttemptState::Stale);
    let mut twice = |action: Control, first: u64| {
        assert_eq!(jobs_changed(&control(&mut replica, action.clone())), first, "{action:?}");
        assert_eq!(jobs_changed(&control(&mut replica, action.clone())), 0, "{action:?} again");
    };
    twice(Control::Reset { running: false }, 0);
    twice(Control::Reset { running: true }, 1);
    let stale = replica.report(job_id(1), running, succeeded());
    assert_eq!(rejected(&stale), Some(RejectCode::Stale), "who was told to begin anew is fenced");
    let unknown = control(&mut replica, Control::Block { jobs: Jobs::One(job_id(99)) });
    assert_eq!(rejected(&unknown), Some(RejectCode::NotFound));
    let nobody = replica.run(Command::Control { action: Control::Pause, by: String::new(), why: String::new() });
    assert_eq!(rejected(&nobody), Some(RejectCode::Invalid));
    replica.check_reload();
}

#[test]
fn a_paused_queue_and_a_paused_drone_get_nothing_even_when_a_plan_was_under_way() {
    let mut replica = Replica::founded(2);
    submit(&mut replica, 1, vec![pure_job(1)]);
    let assign = |replica: &mut Replica, node| replica.run(Command::Assign { job: job_id(1), node: peer(node) });
    control(&mut replica, Control::Pause);
    assert_eq!(rejected(&assign(&mut replica, 0)), Some(RejectCode::Conflict));
    control(&mut replica, Control::Resume);
    control(&mut replica, Control::Drone { node: peer(0), change: DroneChange::Pause });
    assert_eq!(rejected(&assign(&mut replica, 0)), Some(RejectCode::Conflict));
    assert!(matches!(assign(&mut replica, 1), Reply::Assigned { .. }));
    // Draining gives back what has not begun.
    let drain = Control::Drone { node: peer(1), change: DroneChange::Drain { deadline_ms: Some(60_000) } };
    assert_eq!(jobs_changed(&control(&mut replica, drain)), 1);
    assert_eq!(waiting(&replica), ids(&[1]));
    assert_eq!(replica.state.drone_record(&peer(1)).drain.as_ref().unwrap().deadline_hive_ms, Some(60_000));
    control(&mut replica, Control::Drone { node: peer(1), change: DroneChange::Resume });
    assert_eq!(*replica.state.drone_record(&peer(1)), Default::default());
    let nobody = control(&mut replica, Control::Drone { node: peer(9), change: DroneChange::Pause });
    assert_eq!(rejected(&nobody), Some(RejectCode::NotFound));
    replica.check_reload();
}

#[test]
fn what_is_declared_idempotent_is_tried_again_after_it_was_interrupted() {
    for (idempotent, expected) in [(false, JobState::Blocked), (true, JobState::Needed)] {
        let mut replica = Replica::founded(2);
        submit(&mut replica, 1, vec![JobSpec { idempotent, ..effectful_job(1) }]);
        let token = replica.assign(job_id(1), 1);
        replica.report(job_id(1), token, building());
        replica.run(Command::Lose { job: job_id(1), token, reason: "down".to_owned() });
        assert_eq!(state(&replica, 1), expected);
    }
}

#[test]
fn history_forgotten_by_an_operator_is_gone_but_for_what_others_wait_for() {
    let mut replica = Replica::founded(1);
    submit(&mut replica, 1, vec![pure_job(1), pure_job(2), after(3, &[2])]);
    build(&mut replica, 1, 0);
    build(&mut replica, 2, 0);
    assert_eq!(replica.state.package("job1").unwrap().successes, 1);
    assert_eq!(jobs_changed(&control(&mut replica, Control::ClearHistory)), 1);
    assert!(!replica.state.knows_job(&job_id(1)) && replica.state.knows_job(&job_id(2)));
    assert!(replica.state.package("job1").is_none());
    assert_eq!(waiting(&replica), ids(&[3]));
    replica.check_reload();
}

#[test]
fn durations_are_learnt_from_what_succeeded() {
    let mut replica = Replica::founded(1);
    for number in 1..=4_u128 {
        let spec = JobSpec { target: "hello".to_owned(), ..pure_job(number) };
        let id = replica.submit(spec);
        let token = replica.assign(id, 0);
        replica.report(id, token, building());
        if number == 1 {
            replica.report(id, token, failed(FailureClass::Policy));
        } else {
            replica.report(id, token, succeeded());
        }
    }
    let record = replica.state.package("hello").unwrap();
    assert_eq!((record.attempts, record.successes, record.samples.len()), (3, 3, 3));
    assert_eq!(record.samples[0].class, "x86_64/4");
    let estimate = replica.state.estimate(replica.job(job_id(4)), Some("x86_64/4"));
    assert_eq!((estimate.p50_ms, estimate.samples), (1_000, 3), "each entry is a second later in these tests");
}

#[test]
fn a_token_taken_back_is_worth_nothing_and_one_that_began_is_not_taken_back() {
    let mut replica = Replica::founded(2);
    submit(&mut replica, 1, vec![pure_job(1)]);
    let revoke = |replica: &mut Replica, token: Token| {
        replica.run(Command::Revoke { job: job_id(1), token, reason: "elsewhere".to_owned() })
    };
    let first = replica.assign(job_id(1), 0);
    assert_eq!(revoke(&mut replica, first), Reply::Done);
    assert_eq!(rejected(&revoke(&mut replica, first)), Some(RejectCode::Stale));
    for progress in [building(), succeeded(), Progress::Ended { outcome: Outcome::Returned { reason: "x".into() } }] {
        assert_eq!(rejected(&replica.report(job_id(1), first, progress)), Some(RejectCode::Stale));
    }
    let second = replica.assign(job_id(1), 1);
    replica.report(job_id(1), second, building());
    assert_eq!(rejected(&revoke(&mut replica, second)), Some(RejectCode::Stale));
    let tally = &replica.job(job_id(1)).tally;
    assert_eq!((tally.build_failures, tally.infra_failures), (0, 0), "nobody is to blame");
    replica.check_reload();
}

#[test]
fn a_resolution_runs_in_its_draft_and_what_it_found_joins_it() {
    let resolve = |number: u128| {
        let work = Work::Resolve { targets: vec!["@world".to_owned()], empty_tree: false };
        JobSpec { pure: true, ..JobSpec::new(job_id(number), "@world", work) }
    };
    let mut replica = Replica::founded(2);
    let together = draft(&mut replica, 1, vec![resolve(1), pure_job(2)]);
    assert_eq!(rejected(&together), Some(RejectCode::Invalid));
    let at_once = submit(&mut replica, 1, vec![resolve(1)]);
    assert_eq!(rejected(&at_once), Some(RejectCode::Invalid));
    assert_eq!(draft(&mut replica, 1, vec![resolve(1)]), Reply::Done);
    assert_eq!(waiting(&replica), ids(&[1]), "it is seen and runs");
    replica.check_reload();
    build(&mut replica, 1, 1);
    draft(&mut replica, 1, vec![pure_job(2), after(3, &[2])]);
    assert_eq!(replica.state.jobs().count(), 1);
    assert_eq!(open(&mut replica, 1, 3), Reply::Done);
    assert_eq!(waiting(&replica), ids(&[2]));
    replica.check_reload();
    // One that found nothing to resolve has failed, and its session ends with the reason.
    draft(&mut replica, 2, vec![resolve(10)]);
    let token = replica.assign(job_id(10), 1);
    replica.report(job_id(10), token, failed(FailureClass::Policy));
    assert_eq!(state(&replica, 10), JobState::Failed);
    let drop = Command::DropSession { session: session_id(2), reason: "it broke".to_owned() };
    assert_eq!(replica.run(drop), Reply::Done);
    let session = replica.state.session(&session_id(2)).unwrap();
    assert_eq!((session.phase, session.why.as_deref()), (SessionPhase::Cancelled, Some("it broke")));
    assert!(session.ended_at.is_some());
    replica.check_reload();
}
