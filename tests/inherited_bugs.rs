//! What went wrong in the Python build swarm, each as a test that it does not here. Numbers are those of its list of defects.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that meets the unexpected fails")]

mod engine_support;

use std::collections::BTreeMap;

use engine_support::{Replica, building, failed, job_id, peer, pure_job, rejected, session_id, succeeded};
use hive::engine::command::{Command, RejectCode, Reply};
use hive::engine::control::{Control, Jobs};
use hive::engine::job::{FailureClass, JobSpec, JobState};
use hive::engine::scheduler::{DroneView, Leases, Now, Settings, View, plan};
use hive::engine::state::{BLOCK_MS, BLOCKS_MAX, DRONE_INFRA_FAILURES_MAX};

fn planned(replica: &Replica, drones: u32) -> Vec<Command> {
    let drone = DroneView { alive: true, takes_builds: true, slots: Some(4), ..DroneView::default() };
    let view =
        View { drones: (0..drones).map(|number| (peer(number), drone.clone())).collect(), in_flight: BTreeMap::new() };
    let now = Now { now_ms: 1_000, hive_ms: replica.state.hive_time_ms() };
    plan(&replica.state, &view, &mut Leases::new(1_000), now, &Settings::default()).commands
}

/// A package that failed once on the only drone was offered to nobody and blocked by nobody, for ever.
#[test]
fn bug_3_one_drone_starvation() {
    let mut replica = Replica::founded(1);
    let id = replica.submit(pure_job(1));
    let token = replica.assign(id, 0);
    replica.report(id, token, failed(FailureClass::Build));
    assert!(planned(&replica, 1).is_empty(), "not at once");
    replica.pass(10_000);
    assert!(matches!(planned(&replica, 1)[..], [Command::Assign { .. }]));
    for _ in 0..2 {
        let token = replica.assign(id, 0);
        replica.report(id, token, failed(FailureClass::Build));
    }
    assert_eq!(replica.job(id).state, JobState::Failed, "and it ends, with a reason");
    assert!(replica.job(id).reason.as_deref().unwrap().contains("3 times"));
}

/// A success of work that had been reclaimed was thrown away although nobody else had begun it.
#[test]
fn bug_4_good_work_thrown_away() {
    let mut replica = Replica::founded(2);
    let id = replica.submit(pure_job(1));
    let token = replica.assign(id, 1);
    replica.report(id, token, building());
    replica.lose(id, token);
    assert_eq!(replica.report(id, token, succeeded()), Reply::Done);
    assert_eq!(replica.job(id).state, JobState::Received);
}

/// Who compiled a dependency of its own package was told to stop it. Here nobody is judged by what it says it compiles: only the
/// token counts.
#[test]
fn bug_5_dependency_compiles_are_not_mistaken_for_other_work() {
    let mut replica = Replica::founded(2);
    let id = replica.submit(pure_job(1));
    let token = replica.assign(id, 1);
    for _ in 0..3 {
        assert_eq!(replica.report(id, token, building()), Reply::Done);
    }
    assert_eq!(replica.job(id).live_attempt().unwrap().token, token);
}

/// A ping that failed made a dead drone look alive. Here an attempt lives by renewals of its drone alone.
#[test]
fn bug_6_only_the_drone_itself_keeps_its_work() {
    let mut replica = Replica::founded(2);
    let id = replica.submit(pure_job(1));
    replica.assign(id, 1);
    let drone = DroneView { alive: true, takes_builds: true, slots: Some(1), ..DroneView::default() };
    let view = View { drones: [(peer(0), drone.clone()), (peer(1), drone)].into(), in_flight: BTreeMap::new() };
    let mut leases = Leases::new(0);
    for now_ms in (0..20_000).step_by(500) {
        let now = Now { now_ms, hive_ms: 0 };
        assert!(plan(&replica.state, &view, &mut leases, now, &Settings::default()).commands.is_empty());
    }
    let now = Now { now_ms: 20_000, hive_ms: 0 };
    let given_up = plan(&replica.state, &view, &mut leases, now, &Settings::default()).commands;
    assert!(matches!(given_up[..], [Command::Lose { .. }]), "looking at it for 20 s renewed nothing");
}

/// What was blocked by hand, or masked, was unblocked by itself after half an hour.
#[test]
fn bug_7_manual_blocks_and_masked_packages_stay_blocked() {
    let mut replica = Replica::founded(2);
    let (by_hand, masked) = (replica.submit(pure_job(1)), replica.submit(pure_job(2)));
    let token = replica.assign(masked, 1);
    replica.report(masked, token, failed(FailureClass::Policy));
    let block = Control::Block { jobs: Jobs::One(by_hand) };
    replica.run(Command::Control { action: block, by: "ann".to_owned(), why: "broken upstream".to_owned() });
    replica.pass(100 * BLOCK_MS);
    assert!(planned(&replica, 2).is_empty());
    for id in [by_hand, masked] {
        assert_eq!(rejected(&replica.run(Command::EndBlock { job: id })), Some(RejectCode::Conflict));
        assert_eq!(replica.job(id).state, JobState::Blocked);
    }
}

/// A sweeper retried the same blocked package for ever.
#[test]
fn bug_8_blocked_packages_end() {
    let mut replica = Replica::founded(2);
    let id = replica.submit(pure_job(1));
    let mut attempts = 0;
    for _ in 0..=BLOCKS_MAX {
        for node in 0..2 {
            let token = replica.assign(id, node);
            replica.report(id, token, failed(FailureClass::Build));
            attempts += 1;
        }
        replica.pass(100 * BLOCK_MS);
        replica.run(Command::EndBlock { job: id });
    }
    assert_eq!(replica.job(id).state, JobState::Failed);
    assert_eq!(attempts, 2 * (BLOCKS_MAX + 1));
}

/// The estimate of `=category/package-version` never found what was known of the package.
#[test]
fn bug_9_estimates_find_other_versions_of_the_package() {
    use hive::engine::job::Work;
    let atom = |number: u128, atom: &str| {
        let work = Work::Portage { atom: atom.to_owned(), tree: None };
        JobSpec { work, target: atom.to_owned(), ..pure_job(number) }
    };
    let mut replica = Replica::founded(1);
    let id = replica.submit(atom(1, "=sys-apps/foo-1.2-r1"));
    let token = replica.assign(id, 0);
    replica.report(id, token, building());
    replica.report(id, token, succeeded());
    let next = replica.submit(atom(2, "=sys-apps/foo-1.3"));
    assert_eq!(replica.state.estimate(replica.job(next), None).samples, 1);
}

/// 82 % "failures" were late completions of work that had been given to others: they counted against drones and packages.
#[test]
fn lesson_late_completions_are_no_failures() {
    let mut replica = Replica::founded(3);
    let id = replica.submit(pure_job(1));
    let old = replica.assign(id, 1);
    replica.report(id, old, building());
    replica.lose(id, old);
    let new = replica.assign(id, 2);
    for progress in [succeeded(), failed(FailureClass::Build), failed(FailureClass::Infra)] {
        assert_eq!(rejected(&replica.report(id, old, progress)), Some(RejectCode::Stale));
    }
    let job = replica.job(id);
    assert_eq!((job.tally.build_failures, job.tally.infra_failures), (0, 0));
    assert_eq!(*replica.state.drone_record(&peer(1)), Default::default());
    assert_eq!(job.live_attempt().unwrap().token, new);
}

/// Three drones compiled the same package because old agents ignored that it had been taken back. Here who ignores it achieves
/// nothing.
#[test]
fn lesson_fencing_does_not_need_the_drones_to_cooperate() {
    let mut replica = Replica::founded(3);
    let id = replica.submit(pure_job(1));
    let mut tokens = Vec::new();
    for node in 0..3 {
        tokens.push(replica.assign(id, node));
        let reclaim = Control::Reclaim { jobs: Jobs::One(id), running: true };
        if node < 2 {
            replica.run(Command::Control { action: reclaim, by: "ann".to_owned(), why: String::new() });
        }
    }
    for token in &tokens[..2] {
        assert_eq!(rejected(&replica.report(id, *token, succeeded())), Some(RejectCode::Stale));
    }
    assert_eq!(replica.report(id, tokens[2], succeeded()), Reply::Done);
}

/// Failed uploads grounded drones that built well, until the scheduler had nobody left.
#[test]
fn lesson_uploads_are_counted_apart() {
    let mut replica = Replica::founded(1);
    for number in 0..u128::from(DRONE_INFRA_FAILURES_MAX) {
        let id = replica.submit(pure_job(number + 1));
        let token = replica.assign(id, 0);
        let outcome = hive::engine::job::Outcome::NotUploaded { reason: "no route".to_owned() };
        replica.report(id, token, hive::engine::command::Progress::Ended { outcome });
        assert_eq!(replica.job(id).tally.build_failures, 0);
    }
    assert_eq!(replica.state.drone_record(&peer(0)).grounded_until_ms, 0);
}

/// `paused` existed and was not enforced.
#[test]
fn lesson_pause_is_enforced_where_work_is_committed() {
    let mut replica = Replica::founded(1);
    let id = replica.submit(pure_job(1));
    replica.run(Command::Control { action: Control::Pause, by: "ann".to_owned(), why: String::new() });
    assert!(planned(&replica, 1).is_empty());
    assert_eq!(rejected(&replica.run(Command::Assign { job: id, node: peer(0) })), Some(RejectCode::Conflict));
}

/// `rebalance` reclaimed everything, running builds too, so that work was thrown away each time.
#[test]
fn lesson_rebalancing_leaves_running_builds_alone() {
    let mut replica = Replica::founded(2);
    replica.run(Command::submit(session_id(1), "me", vec![pure_job(1), pure_job(2)]));
    let token = replica.assign(job_id(1), 0);
    replica.report(job_id(1), token, building());
    replica.assign(job_id(2), 0);
    for action in [Control::Rebalance { running: false }, Control::Reset { running: false }] {
        replica.run(Command::Control { action, by: "ann".to_owned(), why: String::new() });
        assert_eq!(replica.job(job_id(1)).live_attempt().unwrap().token, token);
        assert_eq!(replica.job(job_id(2)).state, JobState::Needed);
    }
}
