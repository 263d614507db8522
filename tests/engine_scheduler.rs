//! Who gets which job, when attempts are given up, and what people are told about it.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that meets the unexpected fails")]

mod engine_support;

use std::collections::BTreeMap;

use engine_support::{Replica, effectful_job, failed, git_job, job_id, member, peer, pure_job, session_id};
use hive::engine::command::Command;
use hive::engine::id::{JobId, PeerId};
use hive::engine::job::{DebianSource, FailureClass, JobSpec, Work};
use hive::engine::scheduler::{
    DroneView, Explanation, LEASE_MS, Leases, Now, Plan, Settings, Subject, View, explain, plan, waiting_for,
};

fn drone() -> DroneView {
    DroneView { alive: true, takes_builds: true, ..DroneView::default() }
}

/// All members alive, with two slots each by their four processors.
fn view(drones: u32) -> View {
    View { drones: (0..drones).map(|number| (peer(number), drone())).collect(), in_flight: BTreeMap::new() }
}

fn now(replica: &Replica) -> Now {
    Now { now_ms: 1_000_000, hive_ms: replica.state.hive_time_ms() }
}

fn plan_at(replica: &Replica, view: &View, at: Now) -> Plan {
    plan(&replica.state, view, &mut Leases::new(at.now_ms), at, &Settings::default())
}

fn assigned(replica: &Replica, view: &View) -> Vec<(JobId, PeerId)> {
    let plan = plan_at(replica, view, now(replica));
    plan.commands
        .into_iter()
        .map(|command| match command {
            Command::Assign { job, node } => (job, node),
            other => panic!("unexpected {other:?}"),
        })
        .collect()
}

fn labelled(number: u128, labels: &[&str]) -> JobSpec {
    JobSpec { labels: labels.iter().map(|label| (*label).to_owned()).collect(), ..pure_job(number) }
}

fn why(replica: &Replica, view: &View, job: JobId) -> String {
    waiting_for(&replica.state, view, now(replica), &Settings::default(), replica.job(job)).expect("it waits")
}

fn explained(replica: &Replica, view: &View, subject: &Subject) -> Explanation {
    explain(&replica.state, view, now(replica), &Settings::default(), subject).expect("known")
}

#[test]
fn higher_priority_goes_first_then_the_order_of_submission_also_across_different_needs() {
    let mut replica = Replica::founded(1);
    for (number, priority, labels) in [(1, 0, &[][..]), (2, 5, &["git"]), (3, 5, &[]), (4, -1, &[]), (5, 5, &["git"])] {
        let id = replica.submit(JobSpec { priority, ..labelled(number, labels) });
        assert_eq!(id, job_id(number));
    }
    let mut view = view(1);
    view.drones.get_mut(&peer(0)).unwrap().slots = Some(4);
    let order: Vec<JobId> = assigned(&replica, &view).into_iter().map(|(job, _)| job).collect();
    assert_eq!(order, [2, 3, 5, 1].map(job_id));
}

#[test]
fn work_goes_to_the_drone_with_most_free_slots_then_the_least_loaded_then_by_name() {
    let mut replica = Replica::founded(3);
    for number in 1..=5 {
        replica.submit(pure_job(number));
    }
    let mut view = view(3);
    view.drones.get_mut(&peer(0)).unwrap().slots = Some(3);
    view.drones.get_mut(&peer(1)).unwrap().load_percent = 90;
    let nodes: Vec<PeerId> = assigned(&replica, &view).into_iter().map(|(_, node)| node).collect();
    assert_eq!(nodes, [0, 0, 2, 1, 0].map(peer));
}

#[test]
fn slots_count_live_attempts_and_assignments_under_way() {
    let mut replica = Replica::founded(1);
    let ids: Vec<JobId> = (1..=4).map(|number| replica.submit(pure_job(number))).collect();
    replica.assign(ids[0], 0);
    let mut view = view(1);
    view.in_flight.insert(ids[1], peer(0));
    assert_eq!(assigned(&replica, &view), []);
    assert_eq!(why(&replica, &view, ids[1]), "it is being assigned");
    assert_eq!(why(&replica, &view, ids[2]), "all drones that fit are busy");
    view.in_flight.clear();
    assert_eq!(assigned(&replica, &view), [(ids[1], peer(0))]);
}

#[test]
fn who_is_down_unwilling_or_grounded_gets_nothing_and_is_told_why() {
    let mut replica = Replica::founded(4);
    for number in 1..=8 {
        let id = replica.submit(pure_job(number));
        let token = replica.assign(id, 3);
        replica.report(id, token, failed(FailureClass::Infra));
    }
    let mut view = view(4);
    view.drones.get_mut(&peer(0)).unwrap().alive = false;
    view.drones.get_mut(&peer(1)).unwrap().takes_builds = false;
    view.drones.get_mut(&peer(2)).unwrap().slots = Some(0);
    let later = Now { hive_ms: 200_000, ..now(&replica) };
    let idle = plan_at(&replica, &view, later);
    assert!(idle.commands.is_empty());
    let reasons: Vec<String> = idle.report.drones.values().map(|drone| drone.why_not.clone().unwrap()).collect();
    for (reason, expected) in reasons.iter().zip(["does not answer", "takes no builds", "no slots", "grounded"]) {
        assert!(reason.contains(expected), "{reason}");
    }
    assert_eq!(idle.report.waiting.len(), 8);
    assert_eq!(idle.report.wake, Some((1_100_000, "a grounded drone")));
    let after = Now { hive_ms: 300_001, ..now(&replica) };
    assert_eq!(plan_at(&replica, &view, after).commands.len(), 2, "grounding ends by itself");
    // What the explanation advises does change it.
    let advice = explained(&replica, &view, &Subject::Drone(peer(2)));
    assert!(advice.remedy.contains("build.slots"), "{}", advice.remedy);
    view.drones.get_mut(&peer(2)).unwrap().slots = Some(1);
    assert_eq!(plan_at(&replica, &view, later).commands.len(), 1);
}

#[test]
fn labels_mean_labels_tools_languages_and_facts() {
    let mut replica = Replica::founded(2);
    let mut info = member(1);
    info.inventory.labels = ["rack:7".to_owned(), "fast".to_owned()].into();
    info.inventory.languages = ["rust".to_owned()].into();
    info.inventory.has_gpu = true;
    replica.run(Command::Admit { member: info });
    let held = ["fast", "rack:7", "git", "tool:git", "rust", "lang:rust", "x86_64", "arch:x86_64", "distro:debian"];
    for (number, label) in held.into_iter().chain(["gpu", "node:node1"]).enumerate() {
        let id = replica.submit(labelled(100 + u128::try_from(number).unwrap(), &[label]));
        let mut alone = view(2);
        alone.drones.remove(&peer(0));
        assert_eq!(assigned(&replica, &alone), [(id, peer(1))], "{label}");
        replica.run(Command::Cancel { job: id, reason: "x".to_owned() });
    }
    for label in ["slow", "tool:cargo", "lang:go", "arch:arm", "role:builder", "docker", "node:node9", "zone:a"] {
        let id = replica.submit(labelled(1, &[label, "git"]));
        assert_eq!(assigned(&replica, &view(2)), [], "{label}");
        assert_eq!(why(&replica, &view(2), id), format!("no drone that can take work has {label}"));
        let told = explained(&replica, &view(2), &Subject::Job(id));
        assert!(told.remedy.contains(label), "{}", told.remedy);
        assert!(told.lines.iter().all(|line| !line.eligible));
        replica = Replica::founded(2);
    }
}

#[test]
fn kinds_of_work_need_their_tools() {
    let mut replica = Replica::founded(2);
    let mut info = member(1);
    info.inventory.tools.clear();
    replica.run(Command::Admit { member: info });
    let archive = DebianSource::Archive { package: "hello".to_owned(), version: None };
    let debian = JobSpec { work: Work::Debian { source: archive }, ..pure_job(2) };
    let mut only = view(2);
    only.drones.remove(&peer(0));
    for (spec, tool) in [(git_job(1), "tool:git"), (debian, "tool:dpkg-buildpackage")] {
        let id = replica.submit(spec);
        assert!(assigned(&replica, &only).is_empty());
        assert_eq!(why(&replica, &only, id), format!("no drone that can take work has {tool}"));
        assert_eq!(assigned(&replica, &view(2)), [(id, peer(0))]);
        replica.run(Command::Cancel { job: id, reason: "x".to_owned() });
    }
}

#[test]
fn memory_limits_keep_jobs_off_small_machines() {
    let mut replica = Replica::founded(1);
    let mut large = pure_job(1);
    large.limits.memory_max_mb = 9 * 1_024;
    let id = replica.submit(large);
    assert!(assigned(&replica, &view(1)).is_empty());
    assert_eq!(why(&replica, &view(1), id), "no drone that can take work has 9216 MiB of memory");
    let mut fitting = pure_job(2);
    fitting.limits.memory_max_mb = 9 * 1_024 - 1;
    let id = replica.submit(fitting);
    assert_eq!(assigned(&replica, &view(1)), [(id, peer(0))]);
}

#[test]
fn a_package_that_failed_goes_elsewhere_and_waits_for_others_only_while_there_are_any() {
    let mut replica = Replica::founded(2);
    let id = replica.submit(pure_job(1));
    let token = replica.assign(id, 0);
    replica.report(id, token, failed(FailureClass::Build));
    assert_eq!(assigned(&replica, &view(2)), [(id, peer(1))], "at once, elsewhere");

    let mut busy = view(2);
    busy.drones.get_mut(&peer(1)).unwrap().slots = Some(1);
    let other = replica.submit(JobSpec { priority: 9, ..pure_job(2) });
    replica.assign(other, 1);
    assert!(assigned(&replica, &busy).is_empty());
    let reason = why(&replica, &busy, id);
    assert_eq!(reason, "all drones that fit and on which it has not failed yet are busy");

    let mut alone = view(2);
    alone.drones.get_mut(&peer(1)).unwrap().alive = false;
    let waits = plan_at(&replica, &alone, now(&replica));
    assert!(waits.commands.is_empty(), "the same drone only after a pause");
    assert_eq!(waits.report.wake, Some((1_010_000, "a pause after a failure")));
    assert!(why(&replica, &alone, id).contains("tried again in 10 s"), "{}", why(&replica, &alone, id));
    replica.pass(10_000);
    assert_eq!(assigned(&replica, &alone), [(id, peer(0))]);
}

#[test]
fn pauses_hold_back_one_job_and_not_those_behind_it() {
    let mut replica = Replica::founded(1);
    let id = replica.submit(pure_job(1));
    let token = replica.assign(id, 0);
    replica.report(id, token, failed(FailureClass::Infra));
    let behind = replica.submit(pure_job(2));
    assert_eq!(assigned(&replica, &view(1)), [(behind, peer(0))]);
    assert!(why(&replica, &view(1), id).contains("tried again in 5 s"));
}

#[test]
fn attempts_are_given_up_when_their_lease_ends() {
    let mut replica = Replica::founded(2);
    let pure = replica.submit(pure_job(1));
    let effectful = replica.submit(effectful_job(2));
    let tokens = [replica.assign(pure, 1), replica.assign(effectful, 1)];
    let lost = |leases: &mut Leases, view: &View, now_ms: u64| {
        let at = Now { now_ms, hive_ms: 0 };
        let plan = plan(&replica.state, view, leases, at, &Settings::default());
        plan.report.lost.into_keys().collect::<Vec<_>>()
    };
    let mut leases = Leases::new(0);
    assert!(lost(&mut leases, &view(2), LEASE_MS - 1).is_empty());
    leases.renew([tokens[0]], LEASE_MS - 1);
    assert_eq!(lost(&mut leases, &view(2), LEASE_MS), [effectful]);
    let mut leases = Leases::new(0);
    let mut down = view(2);
    let drone = down.drones.get_mut(&peer(1)).unwrap();
    (drone.alive, drone.down_since_ms) = (false, Some(2_000));
    assert!(lost(&mut leases, &down, 6_999).is_empty());
    assert_eq!(lost(&mut leases, &down, 7_000), [pure]);
    // An attempt that is seen for the first time by a coordinator in office counts from then.
    let mut leases = Leases::new(0);
    leases.follow(&Replica::founded(1).state, 10);
    assert!(lost(&mut leases, &view(2), 100_000).is_empty());
    assert_eq!(lost(&mut leases, &view(2), 100_000 + LEASE_MS).len(), 2);
}

#[test]
fn attempts_of_a_node_that_left_are_given_up() {
    let mut replica = Replica::founded(2);
    let id = replica.submit(pure_job(1));
    let token = replica.assign(id, 1);
    replica.run(Command::Leave { peer_id: peer(1) });
    let mut leases = Leases::new(1_000);
    let at = Now { now_ms: 6_000, hive_ms: 0 };
    let plan = plan(&replica.state, &view(2), &mut leases, at, &Settings::default());
    assert!(matches!(plan.commands.as_slice(), [Command::Lose { token: lost, .. }] if *lost == token), "{plan:?}");
}

#[test]
fn a_plan_is_bounded_and_finds_work_behind_what_nobody_can_do() {
    let mut replica = Replica::founded(1);
    for first in (0..1_000).step_by(50) {
        let jobs = (first..first + 50).map(|number| labelled(number + 1, &["unobtainium"])).collect();
        replica.run(Command::submit(session_id(1), "me", jobs));
    }
    let id = replica.submit(JobSpec { priority: -100, ..pure_job(5_000) });
    assert_eq!(assigned(&replica, &view(1)), [(id, peer(0))]);
    for first in (0..600).step_by(50) {
        let jobs = (first..first + 50).map(|number| pure_job(number + 10_000)).collect();
        replica.run(Command::submit(session_id(2), "me", jobs));
    }
    let mut view = view(1);
    view.drones.get_mut(&peer(0)).unwrap().slots = Some(10_000);
    let plan = plan_at(&replica, &view, now(&replica));
    assert_eq!(plan.commands.len(), Settings::default().assignments_max);
    assert_eq!(plan.report.waiting.len(), Settings::default().report_jobs_max);
}

#[test]
fn explanations_cover_every_state_of_a_job() {
    let mut replica = Replica::founded(2);
    let id = replica.submit(pure_job(1));
    let summary = |replica: &Replica| explained(replica, &view(2), &Subject::Job(id)).summary;
    assert_eq!(summary(&replica), "it is next");
    let token = replica.assign(id, 1);
    assert_eq!(summary(&replica), "it is with node1");
    let told = explained(&replica, &view(2), &Subject::Drone(peer(1)));
    assert_eq!((told.lines.len(), told.lines[0].why.as_str()), (1, "attempt 1 is with it"));
    replica.report(id, token, failed(FailureClass::Policy));
    assert_eq!(summary(&replica), "blocked: it broke");
    assert_eq!(why(&replica, &view(2), id), "it broke");
    replica.run(Command::Cancel { job: id, reason: "enough".to_owned() });
    assert_eq!(summary(&replica), "cancelled: enough");
    let settings = Settings::default();
    assert!(waiting_for(&replica.state, &view(2), now(&replica), &settings, replica.job(id)).is_none());
    let unknown = Subject::Job(job_id(99));
    assert!(explain(&replica.state, &view(2), now(&replica), &settings, &unknown).is_none());
    replica.run(Command::Leave { peer_id: peer(1) });
    assert_eq!(explained(&replica, &view(2), &Subject::Drone(peer(1))).summary, "it has left the hive");
}
