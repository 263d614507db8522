//! Shares, age, critical paths, work given ahead and taken back, sweepers, pauses, drains: what the planner makes of them.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that meets the unexpected fails")]

mod engine_support;

use std::collections::BTreeMap;

use engine_support::{Replica, building, failed, job_id, member, peer, pure_job, session_id, succeeded};
use hive::engine::command::{Command, Reply};
use hive::engine::control::{Control, DroneChange, Jobs};
use hive::engine::id::{JobId, PeerId, SessionId};
use hive::engine::job::{FailureClass, JobSpec, JobState};
use hive::engine::scheduler::{DroneView, Leases, Now, Plan, Settings, Subject, View, explain, plan};
use hive::engine::state::{BLOCK_MS, UPLOAD_FAILURES_MAX, UPLOAD_PAUSE_MS};
use proptest::prelude::{ProptestConfig, prop_assert, proptest};

/// A hive with the planner's memory, whose drones are all alive.
struct Farm {
    replica: Replica,
    leases: Leases,
    settings: Settings,
    view: View,
    now_ms: u64,
}

impl Farm {
    /// Drones numbered from 0, each with so many slots.
    fn new(slots: &[u32]) -> Self {
        let drones = slots.iter().enumerate().map(|(number, slots)| {
            let view = DroneView {
                alive: true,
                takes_builds: true,
                slots: Some(*slots),
                disk_free_mb: Some(10_000),
                ..DroneView::default()
            };
            (peer(u32::try_from(number).unwrap()), view)
        });
        let view = View { drones: drones.collect(), in_flight: BTreeMap::new() };
        let mut leases = Leases::new(0);
        let replica = Replica::founded(u32::try_from(slots.len()).unwrap());
        leases.follow(&replica.state, 0);
        Self { replica, leases, settings: Settings::default(), view, now_ms: 1_000 }
    }

    fn submit(&mut self, session: u128, jobs: Vec<JobSpec>) {
        assert_eq!(self.replica.run(Command::submit(session_id(session), "me", jobs)), Reply::Done);
    }

    fn plan(&mut self) -> Plan {
        let hive_ms = self.replica.state.hive_time_ms();
        let now = Now { now_ms: self.now_ms, hive_ms };
        plan(&self.replica.state, &self.view, &mut self.leases, now, &self.settings)
    }

    /// Plans and carries it out. Answers what was assigned, in order.
    fn step(&mut self) -> Vec<(JobId, PeerId)> {
        let plan = self.plan();
        let mut assigned = Vec::new();
        for command in plan.commands {
            let reply = self.replica.run(command.clone());
            assert!(engine_support::rejected(&reply).is_none(), "{command:?}: {reply:?}");
            if let Command::Assign { job, node } = command {
                assigned.push((job, node));
            }
        }
        self.replica.check_reload();
        assigned
    }

    fn control(&mut self, action: Control) -> Reply {
        self.replica.run(Command::Control { action, by: "ann".to_owned(), why: "testing".to_owned() })
    }

    fn finish(&mut self, job: JobId) {
        let token = self.replica.job(job).live_attempt().expect("it runs").token;
        self.leases.renew([token], self.now_ms);
        self.replica.report(job, token, building());
        self.replica.report(job, token, succeeded());
    }

    fn fail(&mut self, job: JobId, class: FailureClass) {
        let token = self.replica.job(job).live_attempt().expect("it runs").token;
        self.replica.report(job, token, failed(class));
    }

    fn pass(&mut self, elapsed_ms: u64) {
        self.replica.pass(elapsed_ms);
        self.now_ms += elapsed_ms;
        let live: Vec<_> = (0..9).map(peer).collect();
        let tokens = |peer: &PeerId| {
            self.replica.state.live_attempts(peer).map(|(_, attempt)| attempt.token).collect::<Vec<_>>()
        };
        let tokens: Vec<_> = live.iter().flat_map(tokens).collect();
        self.leases.renew_waiting(tokens, self.now_ms);
    }

    fn explained(&self, subject: &Subject) -> (String, String) {
        let now = Now { now_ms: self.now_ms, hive_ms: self.replica.state.hive_time_ms() };
        let told = explain(&self.replica.state, &self.view, now, &self.settings, subject).unwrap();
        (told.summary, told.remedy)
    }
}

fn jobs(numbers: std::ops::Range<u128>) -> Vec<JobSpec> {
    numbers.map(pure_job).collect()
}

fn after(number: u128, dependencies: &[u128]) -> JobSpec {
    JobSpec { depends_on: dependencies.iter().map(|id| job_id(*id)).collect(), ..pure_job(number) }
}

fn under_way(farm: &Farm, session: SessionId) -> u64 {
    farm.replica.state.session_counts(&session).delegated
}

#[test]
fn a_large_session_does_not_starve_one_that_comes_later() {
    let mut farm = Farm::new(&[4, 4]);
    farm.submit(1, jobs(1..61));
    assert_eq!(farm.step().len(), 8);
    farm.submit(2, jobs(101..131));
    for job in 1..=8 {
        farm.finish(job_id(job));
        farm.step();
    }
    // What the first session had when the second came was not taken from it; from then on they share.
    assert_eq!(under_way(&farm, session_id(1)), 4);
    assert_eq!(under_way(&farm, session_id(2)), 4);
}

#[test]
fn low_priority_waits_but_not_for_ever() {
    let mut farm = Farm::new(&[1]);
    farm.submit(1, vec![JobSpec { priority: -5, ..pure_job(1) }]);
    let mut rounds = 0;
    loop {
        let number = 100 + u128::try_from(rounds).unwrap();
        farm.submit(number, vec![JobSpec { priority: 5, ..pure_job(number) }]);
        let (job, _) = farm.step()[0];
        if job == job_id(1) {
            break;
        }
        farm.finish(job);
        farm.pass(600_000);
        rounds += 1;
    }
    assert_eq!(rounds, 10, "ten points of priority are made up for by ten times ten minutes");
}

#[test]
fn the_longest_chain_begins_first() {
    let mut farm = Farm::new(&[1]);
    // 5 heads a chain of three, 3 one of two; 1, 2 and 4 nothing.
    farm.submit(
        1,
        vec![
            pure_job(1),
            pure_job(2),
            pure_job(3),
            pure_job(4),
            pure_job(5),
            after(6, &[3]),
            after(7, &[5]),
            after(8, &[7]),
        ],
    );
    let mut order = Vec::new();
    while let [(job, _)] = farm.step()[..] {
        order.push(job);
        farm.finish(job);
    }
    assert_eq!(order, [5, 3, 7, 1, 2, 4, 6, 8].map(job_id));
}

#[test]
fn what_is_known_of_durations_decides_which_chain_is_longest() {
    let mut farm = Farm::new(&[1]);
    let long = |number| JobSpec { target: "gcc".to_owned(), ..pure_job(number) };
    farm.submit(1, vec![long(1)]);
    farm.step();
    let token = farm.replica.job(job_id(1)).live_attempt().unwrap().token;
    farm.replica.report(job_id(1), token, building());
    for _ in 0..200 {
        farm.replica.pass(1_000);
    }
    farm.leases.renew([token], farm.now_ms);
    farm.replica.report(job_id(1), token, succeeded());
    farm.submit(2, vec![pure_job(2), after(3, &[2]), long(4)]);
    assert_eq!(farm.step()[0].0, job_id(4), "one that takes 200 s goes before a chain of two that take a minute each");
}

#[test]
fn work_is_given_ahead_and_taken_back_when_somebody_idles() {
    let mut farm = Farm::new(&[1, 1]);
    farm.settings.prefetch = 2;
    farm.view.drones.get_mut(&peer(1)).unwrap().alive = false;
    farm.submit(1, jobs(1..4));
    assert_eq!(farm.step().len(), 3, "one slot and two ahead");
    let tokens: Vec<_> =
        farm.replica.state.live_attempts(&peer(0)).map(|(job, attempt)| (job.spec.id, attempt.token)).collect();
    // The drone begins the first; the others wait with it.
    farm.plan();
    farm.leases.renew([tokens[0].1], farm.now_ms);
    assert!(farm.plan().commands.is_empty(), "nobody else could take them");
    farm.view.drones.get_mut(&peer(1)).unwrap().alive = true;
    let plan = farm.plan();
    let [Command::Revoke { job, token, .. }] = plan.commands.as_slice() else { panic!("{:?}", plan.commands) };
    assert_eq!((*job, *token), tokens[2], "the one that would wait longest");
    assert!(farm.leases.is_revoking(token), "from here on it may not begin");
    for command in plan.commands {
        farm.replica.run(command);
    }
    let moved = farm.step();
    assert_eq!(moved, [(tokens[2].0, peer(1))]);
    assert!(farm.plan().commands.is_empty(), "one each and one ahead");
}

#[test]
fn a_new_coordinator_takes_nothing_back_that_may_have_begun() {
    let mut farm = Farm::new(&[1, 1]);
    farm.settings.prefetch = 2;
    farm.view.drones.get_mut(&peer(1)).unwrap().alive = false;
    farm.submit(1, jobs(1..4));
    farm.step();
    farm.leases = Leases::new(farm.now_ms);
    farm.view.drones.get_mut(&peer(1)).unwrap().alive = true;
    assert!(farm.plan().commands.is_empty());
}

#[test]
fn pausing_is_explained_and_resuming_as_advised_makes_the_job_run() {
    let mut farm = Farm::new(&[1]);
    farm.submit(1, jobs(1..2));
    farm.control(Control::Pause);
    assert!(farm.plan().commands.is_empty());
    let (summary, remedy) = farm.explained(&Subject::Job(job_id(1)));
    assert_eq!((summary.as_str(), remedy.as_str()), ("the queue was paused by ann (testing)", "hive control resume"));
    assert!(farm.explained(&Subject::Drone(peer(0))).0.contains("paused by ann"));
    farm.control(Control::Resume);
    assert_eq!(farm.step().len(), 1);
}

#[test]
fn a_large_session_is_cancelled_in_parts_and_altogether() {
    let mut farm = Farm::new(&[1]);
    for first in (0..5_000).step_by(50) {
        farm.submit(1, jobs(first + 1..first + 51));
    }
    farm.step();
    let reply = farm.control(Control::CancelSession { session: session_id(1) });
    assert_eq!(reply, Reply::Changed { jobs: 5_000, drones: 0 });
    let open = |farm: &Farm| farm.replica.state.session_counts(&session_id(1)).open();
    assert!((1..5_000).contains(&open(&farm)), "no entry ends them all");
    for _ in 0..4 {
        assert!(farm.step().is_empty() || open(&farm) == 0, "nothing of it begins meanwhile");
    }
    assert_eq!(open(&farm), 0);
    assert!(farm.replica.state.session(&session_id(1)).unwrap().ended_at.is_some());
}

#[test]
fn a_drained_drone_is_left_alone_and_emptied_at_its_deadline() {
    let mut farm = Farm::new(&[1, 0]);
    farm.submit(1, jobs(1..3));
    farm.step();
    let token = farm.replica.job(job_id(1)).live_attempt().unwrap().token;
    farm.replica.report(job_id(1), token, building());
    farm.leases.renew([token], farm.now_ms);
    farm.control(Control::Drone { node: peer(0), change: DroneChange::Drain { deadline_ms: Some(5_000) } });
    let plan = farm.plan();
    assert!(plan.commands.is_empty());
    assert_eq!(plan.report.wake.unwrap().0, farm.now_ms + 5_000);
    let (summary, remedy) = farm.explained(&Subject::Drone(peer(0)));
    assert!(
        summary.contains("being drained by ann: testing") && remedy == "hive drone resume node0",
        "{summary} {remedy}"
    );
    farm.pass(5_000);
    farm.leases.renew([token], farm.now_ms);
    farm.step();
    assert_eq!(farm.replica.job(job_id(1)).state, JobState::Needed, "it goes elsewhere");
    farm.view.drones.get_mut(&peer(1)).unwrap().slots = Some(2);
    assert!(farm.step().iter().all(|(_, node)| *node == peer(1)));
    farm.control(Control::Drone { node: peer(0), change: DroneChange::Resume });
    assert!(farm.explained(&Subject::Drone(peer(0))).0.contains("no job waits"));
}

#[test]
fn a_limit_of_processors_is_one_of_slots_and_of_what_a_job_may_need() {
    let mut farm = Farm::new(&[8]);
    farm.control(Control::Drone { node: peer(0), change: DroneChange::Limit { cores: Some(2) } });
    farm.submit(1, vec![JobSpec { cores: 4, ..pure_job(1) }, pure_job(2), pure_job(3)]);
    assert_eq!(farm.step(), [(job_id(2), peer(0))], "two processors are one slot");
    let (summary, remedy) = farm.explained(&Subject::Job(job_id(1)));
    assert!(summary.contains("4 processors"), "{summary}");
    assert!(remedy.contains("hive drone limit node0"), "{remedy}");
    farm.control(Control::Drone { node: peer(0), change: DroneChange::Limit { cores: None } });
    assert_eq!(farm.step().len(), 2);
}

#[test]
fn memory_and_disk_are_not_promised_twice() {
    let mut farm = Farm::new(&[4]);
    let large = |number| {
        let mut spec = pure_job(number);
        spec.limits.memory_max_mb = 5_000;
        spec
    };
    farm.submit(1, vec![large(1), large(2), JobSpec { disk_mb: 20_000, ..pure_job(3) }]);
    assert_eq!(farm.step(), [(job_id(1), peer(0))], "9 GiB hold one of 5");
    assert!(
        farm.explained(&Subject::Job(job_id(2))).0.contains("memory"),
        "{:?}",
        farm.explained(&Subject::Job(job_id(2)))
    );
    assert!(farm.explained(&Subject::Job(job_id(3))).0.contains("20000 MiB of free disk"));
    farm.finish(job_id(1));
    farm.view.drones.get_mut(&peer(0)).unwrap().disk_free_mb = Some(30_000);
    assert_eq!(farm.step().len(), 2);
    farm.view.drones.get_mut(&peer(0)).unwrap().disk_low = true;
    farm.submit(2, jobs(10..11));
    assert!(farm.step().is_empty());
    assert!(farm.explained(&Subject::Drone(peer(0))).0.contains("nearly full"));
}

#[test]
fn tools_are_wanted_with_their_versions() {
    let mut farm = Farm::new(&[1, 1]);
    let mut info = member(1);
    info.inventory.tools.insert("mvn".to_owned(), "3.9.6".to_owned());
    farm.replica.run(Command::Admit { member: info });
    let wants = |number, least: &str| JobSpec {
        tools: BTreeMap::from([("mvn".to_owned(), least.to_owned())]),
        ..pure_job(number)
    };
    farm.submit(1, vec![wants(1, "3.10"), wants(2, "3.8")]);
    assert_eq!(farm.step(), [(job_id(2), peer(1))]);
    assert_eq!(farm.explained(&Subject::Job(job_id(1))).0, "no drone that can take work has mvn 3.10");
}

#[test]
fn sweepers_try_what_others_could_not_build_and_nothing_else() {
    let mut farm = Farm::new(&[1, 1, 4]);
    let mut info = member(2);
    info.name = "sweeper-1".to_owned();
    farm.replica.run(Command::Admit { member: info });
    farm.submit(1, jobs(1..4));
    assert!(farm.step().iter().all(|(_, node)| *node != peer(2)));
    for _ in 0..2 {
        farm.fail(job_id(1), FailureClass::Build);
        farm.replica.run(Command::Cancel { job: job_id(3), reason: "x".to_owned() });
        farm.replica.run(Command::Cancel { job: job_id(2), reason: "x".to_owned() });
        let moved = farm.step();
        if moved == [(job_id(1), peer(2))] {
            break;
        }
    }
    assert_eq!(farm.replica.job(job_id(1)).live_attempt().unwrap().node, peer(2));
    farm.fail(job_id(1), FailureClass::Build);
    assert_eq!(farm.replica.job(job_id(1)).tally.blocks, 2, "its failures count");
    assert!(farm.step().is_empty(), "once per block");
    farm.pass(2 * BLOCK_MS);
    farm.step();
    assert_eq!(farm.replica.job(job_id(1)).state, JobState::Needed, "the block has ended");
    farm.control(Control::Block { jobs: Jobs::All });
    assert!(farm.step().is_empty(), "what was blocked by hand is left alone");
}

#[test]
fn a_drone_that_cannot_upload_rests_and_is_not_held_to_build_badly() {
    let mut farm = Farm::new(&[1]);
    farm.submit(1, jobs(1..9));
    for _ in 0..UPLOAD_FAILURES_MAX {
        let (job, _) = farm.step()[0];
        let token = farm.replica.job(job).live_attempt().unwrap().token;
        let outcome = hive::engine::job::Outcome::NotUploaded { reason: "no route".to_owned() };
        farm.replica.report(job, token, hive::engine::command::Progress::Ended { outcome });
    }
    assert!(farm.step().is_empty());
    let record = farm.replica.state.drone_record(&peer(0));
    assert_eq!((record.infra_failures, record.grounded_until_ms), (0, 0));
    let (summary, remedy) = farm.explained(&Subject::Drone(peer(0)));
    assert!(summary.contains("could not bring its last results away"), "{summary}");
    assert!(remedy.contains("hive control unground node0"), "{remedy}");
    farm.pass(UPLOAD_PAUSE_MS);
    assert_eq!(farm.step().len(), 1);
}

#[test]
fn explanations_lead_to_the_job_at_the_root() {
    let mut farm = Farm::new(&[1]);
    farm.submit(1, vec![pure_job(1), after(2, &[1]), after(3, &[2])]);
    assert_eq!(farm.explained(&Subject::Job(job_id(3))).0, "it waits for 1 job: job2");
    farm.step();
    farm.fail(job_id(1), FailureClass::Policy);
    let (summary, remedy) = farm.explained(&Subject::Job(job_id(3)));
    assert!(
        summary.contains("it needs job1 (for job2)") && summary.contains("which is blocked: it broke"),
        "{summary}"
    );
    assert_eq!(remedy, format!("mend the cause, then: hive control retry_failures {}", job_id(1)));
    farm.control(Control::RetryFailures { jobs: Jobs::One(job_id(1)) });
    assert_eq!(farm.step(), [(job_id(1), peer(0))], "following the hint makes it run");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Sessions of equal priority that always have something waiting have as much under way, give or take one.
    #[test]
    fn sessions_share_what_there_is(slots in 1_u32..7, drones in 1_usize..4, sessions in 2_u128..5) {
        let mut farm = Farm::new(&vec![slots; drones]);
        for session in 1..=sessions {
            farm.submit(session, jobs(session * 1_000..session * 1_000 + 60));
        }
        for _ in 0..12 {
            farm.step();
            let shares: Vec<u64> = (1..=sessions).map(|session| under_way(&farm, session_id(session))).collect();
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{shares:?}");
            let running: Vec<JobId> =
                farm.replica.state.jobs().filter(|job| job.live_attempt().is_some()).map(|job| job.spec.id).collect();
            farm.finish(running[0]);
        }
    }

    /// Whatever fails, with one drone as with three, every job ends: none waits for ever without a time or a hand to end it.
    #[test]
    fn every_job_ends(drones in 1_usize..4, outcomes in proptest::collection::vec(0_u8..4, 200)) {
        let mut farm = Farm::new(&vec![2; drones]);
        farm.submit(1, vec![pure_job(1), pure_job(2), after(3, &[1]), after(4, &[2, 3])]);
        let mut outcomes = outcomes.into_iter();
        for _ in 0..200 {
            farm.step();
            let running: Vec<JobId> =
                farm.replica.state.jobs().filter(|job| job.live_attempt().is_some()).map(|job| job.spec.id).collect();
            for job in running {
                match outcomes.next().unwrap_or(3) {
                    0 => farm.fail(job, FailureClass::Build),
                    1 => farm.fail(job, FailureClass::Infra),
                    2 => farm.fail(job, FailureClass::Stale),
                    _ => farm.finish(job),
                }
            }
            farm.pass(BLOCK_MS / 2);
        }
        let open: Vec<_> = farm.replica.state.jobs().filter(|job| !job.state.is_terminal()).collect();
        // What is open waits for one that failed for good.
        for job in &open {
            let wait = farm.replica.state.wait(&job.spec.id);
            prop_assert!(wait.is_some_and(|wait| !wait.dead.is_empty()), "{:?} {:?}", job.state, job.reason);
        }
    }
}
