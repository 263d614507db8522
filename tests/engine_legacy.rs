//! Drones of the Python swarm in the state, in the plan, and at the desk where they are served.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that meets the unexpected fails")]

mod engine_support;

use std::collections::BTreeMap;

use engine_support::{Replica, building, failed, job_id, rejected, succeeded};
use hive::engine::command::{Command, Progress, RejectCode, Reply};
use hive::engine::id::{JobId, PeerId, Token};
use hive::engine::job::{FailureClass, JobSpec, JobState, Outcome, Work as JobWork};
use hive::engine::legacy::{
    AHEAD, AHEAD_MAX, Desk, Judgement, LEGACY_LEASE_MS, LegacyInfo, OFFLINE_AFTER_MS, Work, failure, is_exempt, peer_id,
};
use hive::engine::member::Inventory;
use hive::engine::scheduler::{DroneView, Leases, Now, Settings, View, plan};
use hive::engine::session::SessionAbout;

fn info(name: &str) -> LegacyInfo {
    LegacyInfo {
        name: name.to_owned(),
        id: format!("id-of-{name}"),
        address: "10.0.0.9".to_owned(),
        sweeper: false,
        version: "2.6".to_owned(),
        inventory: Inventory {
            cpu_cores: 8,
            tools: BTreeMap::from([("emerge".to_owned(), String::new())]),
            ..Inventory::default()
        },
    }
}

fn package(number: u128) -> JobSpec {
    let atom = format!("=dev-libs/p{number}-1.0");
    let mut spec = JobSpec::new(job_id(number), atom.clone(), JobWork::Portage { atom, tree: None });
    spec.pure = true;
    spec
}

fn with_drones(names: &[&str]) -> Replica {
    let mut replica = Replica::founded(1);
    for name in names {
        assert_eq!(replica.run(Command::RegisterLegacy { drone: info(name) }), Reply::Done);
    }
    replica
}

fn assign(replica: &mut Replica, job: JobId, drone: &PeerId) -> Token {
    match replica.run(Command::Assign { job, node: drone.clone() }) {
        Reply::Assigned { token, .. } => token,
        other => panic!("not assigned: {other:?}"),
    }
}

fn not_revoking(_: &Token) -> bool {
    false
}

fn view(desk: &Desk, names: &[&str], now_ms: u64) -> View {
    let drone = |name: &&str| {
        let peer = peer_id(name);
        let alive = desk.is_alive(&peer, now_ms);
        (peer, DroneView { alive, takes_builds: true, ..DroneView::default() })
    };
    View { drones: names.iter().map(drone).collect(), in_flight: BTreeMap::new() }
}

#[test]
fn a_drone_registers_once_and_only_changes_are_written() {
    let mut replica = with_drones(&["drone-a"]);
    let index = replica.state.rows();
    assert_eq!(replica.run(Command::RegisterLegacy { drone: info("drone-a") }), Reply::Done);
    let again: Vec<_> = replica.state.legacy_drones().collect();
    assert_eq!(again.len(), 1);
    let row = |rows: &BTreeMap<hive::engine::state::Row, Vec<u8>>| {
        rows.iter().find(|(row, _)| row.table == hive::engine::state::table::LEGACY).map(|(_, value)| value.clone())
    };
    assert_eq!(row(&index), row(&replica.state.rows()));
    replica.check_reload();
    for bad in ["", "../x", "a b"] {
        let reply = replica.run(Command::RegisterLegacy { drone: LegacyInfo { name: bad.to_owned(), ..info("x") } });
        assert_eq!(rejected(&reply), Some(RejectCode::Invalid), "{bad:?}");
    }
    let member = replica.state.members().next().unwrap().display_name.clone();
    let reply = replica.run(Command::RegisterLegacy { drone: info(&member) });
    assert_eq!(rejected(&reply), Some(RejectCode::Conflict), "a node of the hive takes its work itself");
}

#[test]
fn it_is_given_portage_work_ahead_and_nothing_that_it_cannot_do() {
    let mut replica = with_drones(&["drone-a"]);
    for number in 1..=9 {
        replica.submit(package(number));
    }
    // Also what needs no tool, and what needs the one that it has.
    replica.submit(JobSpec { priority: 100, ..engine_support::pure_job(51) });
    let resolve = JobWork::Resolve { targets: vec!["@world".to_owned()], empty_tree: false };
    let resolution = JobSpec { priority: 100, pure: true, ..JobSpec::new(job_id(52), "@world", resolve) };
    let draft = Command::Submit {
        session: engine_support::session_id(52),
        about: SessionAbout::by("me"),
        draft: Some(engine_support::peer(0)),
        jobs: vec![resolution],
    };
    assert_eq!(replica.run(draft), Reply::Done);
    replica.submit(JobSpec { priority: 100, secrets: ["TOKEN".to_owned()].into(), ..package(53) });
    replica.submit(engine_support::git_job(50));
    let mut desk = Desk::default();
    let drone = peer_id("drone-a");
    let now = Now { now_ms: 1_000, hive_ms: 0 };
    let settings = Settings { prefetch: 1, ..Settings::default() };
    let assigned = |replica: &Replica, desk: &Desk| {
        let commands =
            plan(&replica.state, &view(desk, &["drone-a"], 1_000), &mut Leases::new(0), now, &settings).commands;
        commands.into_iter().filter(|command| matches!(command, Command::Assign { .. })).collect::<Vec<_>>()
    };
    assert!(assigned(&replica, &desk).is_empty(), "nothing before it was heard");
    desk.hear(&drone, 1_000);
    let given = assigned(&replica, &desk);
    assert_eq!(given.len(), 1 + AHEAD as usize, "one to work on and some ahead");
    let others: Vec<JobId> = (50..=53).map(job_id).collect();
    assert!(!given.iter().any(|command| matches!(command, Command::Assign { job, .. } if others.contains(job))));
    for command in given {
        assert!(matches!(replica.run(command), Reply::Assigned { .. }));
    }
    assert!(desk.is_alive(&drone, 1_000 + OFFLINE_AFTER_MS - 1) && !desk.is_alive(&drone, 1_000 + OFFLINE_AFTER_MS));
}

#[test]
fn who_is_done_with_each_at_once_is_given_more_ahead() {
    let drone = peer_id("drone-a");
    let token = Token { epoch: hive::engine::id::EpochId([1; 16]), counter: 1 };
    for (every_ms, expected) in [(60_000, AHEAD), (8, 5), (1, AHEAD_MAX)] {
        let mut desk = Desk::default();
        desk.hear(&drone, 0);
        assert_eq!(desk.ahead(&drone, 0), AHEAD);
        let mut now_ms = 0;
        for _ in 0..40 {
            desk.completed(&drone, &token, now_ms);
            now_ms += every_ms;
        }
        let ahead = desk.ahead(&drone, now_ms);
        assert_eq!(ahead, expected, "every {every_ms} ms: {ahead}");
        assert_eq!(desk.ahead(&drone, now_ms + 3_600_000), AHEAD, "no longer so an hour later");
    }
}

#[test]
fn work_is_its_oldest_attempt_again_and_again() {
    let mut replica = with_drones(&["drone-a"]);
    let drone = peer_id("drone-a");
    let (first, second) = (replica.submit(package(1)), replica.submit(package(2)));
    let mut desk = Desk::default();
    assert_eq!(desk.work(&replica.state, &drone, not_revoking), Work::Nothing);
    let token = assign(&mut replica, first, &drone);
    assign(&mut replica, second, &drone);
    for begins in [true, false] {
        let package = "=dev-libs/p1-1.0".to_owned();
        let expected = Work::Package { job: first, token, package, begins };
        assert_eq!(desk.work(&replica.state, &drone, not_revoking), expected);
    }
    replica.report(first, token, building());
    let mut elected = Desk::default();
    let told = elected.work(&replica.state, &drone, not_revoking);
    assert!(matches!(told, Work::Package { begins: false, .. }), "a new coordinator knows what began: {told:?}");
    replica.check_reload();
}

#[test]
fn what_is_being_taken_back_is_not_handed_out() {
    let mut replica = with_drones(&["drone-a"]);
    let drone = peer_id("drone-a");
    let job = replica.submit(package(1));
    assign(&mut replica, job, &drone);
    assert_eq!(Desk::default().work(&replica.state, &drone, |_| true), Work::Nothing);
}

#[test]
fn its_word_counts_for_the_attempt_that_it_was_handed_and_no_other() {
    let mut replica = with_drones(&["drone-a", "drone-b"]);
    let (a, b) = (peer_id("drone-a"), peer_id("drone-b"));
    let job = replica.submit(package(1));
    let name = "dev-libs/p1-1.0";
    let mut desk = Desk::default();
    let stale = |judged: &Judgement| matches!(judged, Judgement::Stale { .. });
    assert!(stale(&desk.judge(&replica.state, &a, name)), "never given");
    let token = assign(&mut replica, job, &a);
    assert!(stale(&desk.judge(&replica.state, &a, name)), "given, but it was not told");
    desk.work(&replica.state, &a, not_revoking);
    assert_eq!(desk.judge(&replica.state, &a, name), Judgement::Counts { job, token });
    assert!(stale(&desk.judge(&replica.state, &b, name)), "somebody else's");
    assert!(stale(&desk.judge(&replica.state, &a, "dev-libs/other-1")));
    // Given up while nobody else has it: the result is welcome. Then somebody else has it.
    replica.lose(job, token);
    assert_eq!(desk.judge(&replica.state, &a, name), Judgement::Counts { job, token });
    let second = assign(&mut replica, job, &b);
    desk.work(&replica.state, &b, not_revoking);
    let judged = desk.judge(&replica.state, &a, name);
    assert!(matches!(&judged, Judgement::Stale { reassigned_to: Some(name), .. } if name == "drone-b"), "{judged:?}");
    // The one that has it is accepted, and again when it did not hear so.
    assert_eq!(replica.report(job, second, succeeded()), Reply::Done);
    desk.completed(&b, &second, 0);
    assert_eq!(desk.judge(&replica.state, &b, name), Judgement::Known { job });
    assert!(stale(&desk.judge(&replica.state, &a, name)));
    replica.check_reload();
}

#[test]
fn an_attempt_of_its_own_that_it_was_not_told_of_is_not_ended_by_an_older_one() {
    let mut replica = with_drones(&["drone-a"]);
    let drone = peer_id("drone-a");
    let job = replica.submit(package(1));
    let mut desk = Desk::default();
    let first = assign(&mut replica, job, &drone);
    desk.work(&replica.state, &drone, not_revoking);
    replica.lose(job, first);
    let second = assign(&mut replica, job, &drone);
    assert!(matches!(desk.judge(&replica.state, &drone, "dev-libs/p1-1.0"), Judgement::Stale { .. }));
    desk.work(&replica.state, &drone, not_revoking);
    let counts = Judgement::Counts { job, token: second };
    assert_eq!(desk.judge(&replica.state, &drone, "dev-libs/p1-1.0"), counts);
}

#[test]
fn what_was_taken_from_it_is_told_once_and_dependencies_are_not_stopped() {
    let mut replica = with_drones(&["drone-a", "drone-b"]);
    let (a, b) = (peer_id("drone-a"), peer_id("drone-b"));
    let (job, other) = (replica.submit(package(1)), replica.submit(package(2)));
    let mut desk = Desk::default();
    let token = assign(&mut replica, job, &a);
    desk.work(&replica.state, &a, not_revoking);
    assert!(desk.revoked(&replica.state, &a).is_empty());
    replica.lose(job, token);
    assert!(desk.revoked(&replica.state, &a).is_empty(), "its result would still be welcome");
    assert_eq!(desk.stop_work(&replica.state, &a, "=dev-libs/p1-1.0"), None);
    desk.work(&replica.state, &a, not_revoking);
    let mut desk = Desk::default();
    let token = assign(&mut replica, other, &a);
    desk.work(&replica.state, &a, not_revoking);
    replica.run(Command::Cancel { job: other, reason: "ann".to_owned() });
    assert_eq!(desk.revoked(&replica.state, &a), ["=dev-libs/p2-1.0"]);
    assert!(desk.revoked(&replica.state, &a).is_empty(), "once");
    assert_eq!(desk.stop_work(&replica.state, &a, "dev-libs/p2-1.0").unwrap().reason, "cancelled");
    assert_eq!(rejected(&replica.report(other, token, succeeded())), Some(RejectCode::Stale));
    assign(&mut replica, job, &b);
    let stop = desk.stop_work(&replica.state, &a, "dev-libs/p1-1.0").unwrap();
    assert_eq!(stop.reassigned_to.as_deref(), Some("drone-b"));
    assert_eq!(desk.stop_work(&replica.state, &a, "sys-devel/gcc-15"), None, "bug 5 of the old swarm");
}

#[test]
fn its_lease_is_long_and_ends() {
    let mut replica = with_drones(&["drone-a"]);
    let drone = peer_id("drone-a");
    let job = replica.submit(package(1));
    let token = assign(&mut replica, job, &drone);
    let mut leases = Leases::new(0);
    let desk = Desk::default();
    let mut at = |now_ms: u64| {
        let now = Now { now_ms, hive_ms: 0 };
        plan(&replica.state, &view(&desk, &["drone-a"], now_ms), &mut leases, now, &Settings::default()).commands
    };
    assert!(at(0).is_empty() && at(LEGACY_LEASE_MS - 1).is_empty(), "slow is not lost");
    assert!(matches!(&at(LEGACY_LEASE_MS)[..], [Command::Lose { token: lost, .. }] if *lost == token));
    replica.run(Command::ForgetLegacy { peer_id: drone.clone() });
    assert_eq!(replica.state.legacy_drones().count(), 0);
    assert_eq!(rejected(&replica.run(Command::ForgetLegacy { peer_id: drone })), Some(RejectCode::NotFound));
    replica.check_reload();
}

#[test]
fn what_it_was_given_ahead_and_never_told_of_goes_elsewhere_when_it_falls_silent() {
    let mut replica = with_drones(&["drone-a"]);
    let drone = peer_id("drone-a");
    let jobs = [replica.submit(package(1)), replica.submit(package(2))];
    let mut leases = Leases::new(0);
    let mut desk = Desk::default();
    desk.hear(&drone, 0);
    let mut at = |replica: &Replica, desk: &Desk, now_ms: u64| {
        let now = Now { now_ms, hive_ms: 0 };
        plan(&replica.state, &view(desk, &["drone-a"], now_ms), &mut leases, now, &Settings::default()).commands
    };
    at(&replica, &desk, 0);
    let tokens = jobs.map(|job| assign(&mut replica, job, &drone));
    assert!(at(&replica, &desk, 1).is_empty(), "it is there");
    desk.work(&replica.state, &drone, not_revoking);
    replica.report(jobs[0], tokens[0], building());
    let given_up = at(&replica, &desk, OFFLINE_AFTER_MS);
    let revoked = |command: &Command| matches!(command, Command::Revoke { token, .. } if *token == tokens[1]);
    assert!(given_up.iter().any(revoked), "{given_up:?}");
}

#[test]
fn an_operator_pauses_it_like_any_other_drone() {
    use hive::engine::control::{Control, DroneChange};
    let mut replica = with_drones(&["drone-a"]);
    let node = peer_id("drone-a");
    let job = replica.submit(package(1));
    let pause = Control::Drone { node: node.clone(), change: DroneChange::Pause };
    replica.run(Command::Control { action: pause, by: "ann".to_owned(), why: String::new() });
    assert_eq!(rejected(&replica.run(Command::Assign { job, node })), Some(RejectCode::Conflict));
}

#[test]
fn statuses_of_the_old_swarm_have_their_classes() {
    let class = |status: &str| match failure(status, "why") {
        Outcome::Failed { class, .. } => Some(class),
        Outcome::Returned { .. } | Outcome::NotUploaded { .. } | Outcome::Succeeded { .. } => None,
    };
    assert!(matches!(failure("returned", ""), Outcome::Returned { .. }));
    assert!(matches!(failure("upload_failed", ""), Outcome::NotUploaded { .. }));
    assert_eq!(class("masked"), Some(FailureClass::Policy));
    for status in ["failed", "timeout", "anything else"] {
        assert_eq!(class(status), Some(FailureClass::Build), "{status}");
    }
}

#[test]
fn packages_without_a_binary_are_believed() {
    for exempt in [
        "virtual/jdk-17",
        "=virtual/libc-1",
        "kde-plasma/plasma-meta-6.1",
        "=sec-keys/openpgp-keys-gentoo-1",
        "app-eselect/eselect-ruby-20",
        "llvm-core/clang-rtlib-config-19",
        "app-test/dummy-1",
    ] {
        assert!(is_exempt(exempt), "{exempt}");
    }
    for package in ["dev-libs/foo-1", "sys-apps/metal-1", "=dev-lang/ruby-3.3", "app-test/other-1"] {
        assert!(!is_exempt(package), "{package}");
    }
}

/// The gcc that was rebuilt for ever: a failure of one drone leaves the package to another one, and the count is by drone.
#[test]
fn a_failed_package_goes_to_another_drone() {
    let mut replica = with_drones(&["drone-a", "drone-b"]);
    let (a, b) = (peer_id("drone-a"), peer_id("drone-b"));
    let job = replica.submit(package(1));
    let token = assign(&mut replica, job, &a);
    replica.report(job, token, building());
    replica.report(job, token, failed(FailureClass::Build));
    let mut desk = Desk::default();
    desk.hear(&a, 0);
    desk.hear(&b, 0);
    let now = Now { now_ms: 1, hive_ms: replica.state.hive_time_ms() };
    let view = view(&desk, &["drone-a", "drone-b"], 1);
    let commands = plan(&replica.state, &view, &mut Leases::new(0), now, &Settings::default()).commands;
    assert!(matches!(&commands[..], [Command::Assign { node, .. }] if *node == b), "{commands:?}");
    let token = assign(&mut replica, job, &b);
    let missing = Progress::Ended { outcome: Outcome::NotUploaded { reason: "missing_binary".to_owned() } };
    replica.report(job, token, missing);
    assert_eq!(replica.job(job).state, JobState::Needed, "no fault of the package");
    assert_eq!(replica.state.drone_record(&b).upload_failures, 1);
}
