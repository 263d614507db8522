//! Package trees: which drone is told to sync, and what is said of one that has another tree than the work that waits.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that meets the unexpected fails")]

mod engine_support;

use std::collections::BTreeMap;

use engine_support::{Replica, job_id, member, peer, pure_job, session_id};
use hive::engine::command::{Command, Reply};
use hive::engine::control::{Control, DroneChange};
use hive::engine::job::{JobSpec, Work};
use hive::engine::member::{Inventory, MemberInfo};
use hive::engine::scheduler::{
    DroneView, Explanation, Leases, Now, Settings, Subject, View, explain, plan, wanted_trees,
};
use hive::engine::trees::{SyncPhase, TreeSync};

const MONDAY: &str = "Mon, 16 Nov 2026 00:45:01 +0000";
const TUESDAY: &str = "Tue, 17 Nov 2026 00:45:01 +0000";

/// A hive whose node 0 has no Portage, node 1 Monday's tree, node 2 Tuesday's.
struct Farm {
    replica: Replica,
    view: View,
}

fn with_tree(number: u32, tree: Option<&str>) -> MemberInfo {
    let info = member(number);
    let mut inventory = Inventory { tree: tree.map(str::to_owned), ..info.inventory };
    inventory.tools.insert("emerge".to_owned(), "3.0".to_owned());
    MemberInfo { inventory, ..info }
}

fn portage(number: u128, tree: &str) -> JobSpec {
    let work = Work::Portage { atom: format!("app-misc/p{number}"), tree: Some(tree.to_owned()) };
    JobSpec { pure: true, ..JobSpec::new(job_id(number), format!("app-misc/p{number}"), work) }
}

impl Farm {
    fn new() -> Self {
        let mut replica = Replica::founded(3);
        for member in [with_tree(1, Some(MONDAY)), with_tree(2, Some(TUESDAY))] {
            assert_eq!(replica.run(Command::Admit { member }), Reply::Done);
        }
        let view = DroneView { alive: true, takes_builds: true, slots: Some(1), ..DroneView::default() };
        let drones = (0..3).map(|number| (peer(number), view.clone())).collect();
        Self { replica, view: View { drones, in_flight: BTreeMap::new() } }
    }

    fn submit(&mut self, jobs: Vec<JobSpec>) {
        assert_eq!(self.replica.run(Command::submit(session_id(1), "me", jobs)), Reply::Done);
    }

    fn wanted(&self, number: u32) -> Vec<String> {
        wanted_trees(&self.replica.state, &peer(number))
    }

    fn syncs(&mut self, number: u32, phase: SyncPhase) {
        let sync = TreeSync { wanted: TUESDAY.to_owned(), phase, since_ms: 4_000, again_in_ms: 60_000 };
        self.view.drones.get_mut(&peer(number)).unwrap().sync = Some(sync);
    }

    fn now(&self) -> Now {
        Now { now_ms: 1_000, hive_ms: self.replica.state.hive_time_ms() }
    }

    /// What is assigned in one plan: job and drone.
    fn assigned(&self) -> BTreeMap<hive::engine::id::JobId, hive::engine::id::PeerId> {
        let mut leases = Leases::new(0);
        leases.follow(&self.replica.state, 0);
        plan(&self.replica.state, &self.view, &mut leases, self.now(), &Settings::default()).report.assigned
    }

    fn explained(&self, subject: &Subject) -> Explanation {
        explain(&self.replica.state, &self.view, self.now(), &Settings::default(), subject).unwrap()
    }

    fn line(&self, job: u128, number: u32) -> String {
        let told = self.explained(&Subject::Job(job_id(job)));
        let name = format!("node{number}");
        told.lines.into_iter().find(|line| line.name == name).unwrap().why
    }
}

#[test]
fn a_drone_is_told_to_sync_for_work_that_lacks_nothing_but_its_tree() {
    let mut farm = Farm::new();
    assert!(farm.wanted(1).is_empty() && farm.wanted(2).is_empty(), "nothing waits");
    farm.submit(vec![portage(1, TUESDAY), portage(2, TUESDAY)]);
    assert_eq!(farm.wanted(1), [TUESDAY], "once, however many jobs");
    assert!(farm.wanted(2).is_empty(), "it has that tree");
    assert!(farm.wanted(0).is_empty(), "it has no Portage");
    assert_eq!(farm.assigned().into_values().collect::<Vec<_>>(), [peer(2)], "the other one gets nothing");

    // It is not told so while an operator keeps it from work.
    let paused = Control::Drone { node: peer(1), change: DroneChange::Pause };
    farm.replica.run(Command::Control { action: paused, by: "ann".to_owned(), why: String::new() });
    assert!(farm.wanted(1).is_empty());
}

#[test]
fn a_tree_for_which_work_waits_or_runs_is_not_taken_away() {
    let mut farm = Farm::new();
    farm.submit(vec![portage(1, MONDAY), portage(2, TUESDAY)]);
    assert!(farm.wanted(1).is_empty() && farm.wanted(2).is_empty(), "each has work for its own");
    // Running elsewhere counts as well: what depends on it follows with the same tree.
    assert!(matches!(farm.replica.run(Command::Assign { job: job_id(1), node: peer(1) }), Reply::Assigned { .. }));
    let member = with_tree(0, Some(MONDAY));
    assert_eq!(farm.replica.run(Command::Admit { member }), Reply::Done);
    assert!(farm.wanted(0).is_empty());
    let job = farm.replica.job(job_id(1)).live_attempt().unwrap().token;
    farm.replica.report(job_id(1), job, engine_support::building());
    farm.replica.report(job_id(1), job, engine_support::succeeded());
    assert_eq!(farm.wanted(0), [TUESDAY]);
    assert_eq!(farm.wanted(1), [TUESDAY]);
}

#[test]
fn what_becomes_of_the_sync_is_told_of_job_and_drone() {
    let mut farm = Farm::new();
    // Only node 1 is there to build.
    farm.view.drones.get_mut(&peer(2)).unwrap().alive = false;
    farm.submit(vec![portage(1, TUESDAY)]);
    let told = farm.explained(&Subject::Job(job_id(1)));
    assert!(told.summary.ends_with(&format!("has the package tree that it was resolved with: {TUESDAY}")), "{told:?}");
    let begins = format!("its tree is {MONDAY}, the session needs {TUESDAY}; ");
    assert_eq!(farm.line(1, 1), format!("{begins}it is told to sync once it has nothing else to do"));
    for (phase, said, remedy) in [
        (
            SyncPhase::Off("build.portage_sync is off".to_owned()),
            "it does not sync by itself: build.portage_sync is off",
            "emerge --sync",
        ),
        (
            SyncPhase::Failed("no route".to_owned()),
            "told to sync; that failed 4 s ago: no route; not tried again for 60 s",
            "mend it on node1",
        ),
        (
            SyncPhase::Done(Some("x".to_owned())),
            "told to sync; 4 s ago that brought another one; not tried again for 60 s",
            "emerge --sync",
        ),
    ] {
        farm.syncs(1, phase);
        assert_eq!(farm.line(1, 1), format!("{begins}{said}"));
        let told = farm.explained(&Subject::Job(job_id(1)));
        assert!(told.remedy.contains(remedy), "{told:?}");
        let told = farm.explained(&Subject::Drone(peer(1)));
        assert!(told.lines[0].why.contains(said) && told.remedy.contains(remedy), "{told:?}");
    }
}

#[test]
fn a_drone_that_syncs_gets_nothing_at_all_meanwhile() {
    let mut farm = Farm::new();
    for number in [0, 2] {
        farm.view.drones.get_mut(&peer(number)).unwrap().alive = false;
    }
    farm.submit(vec![pure_job(7)]);
    assert_eq!(farm.assigned().len(), 1);
    farm.syncs(1, SyncPhase::Running);
    assert!(farm.assigned().is_empty());
    let told = farm.explained(&Subject::Drone(peer(1)));
    let tree = format!("; its package tree is {MONDAY}");
    assert_eq!(
        told.summary,
        format!("it gets no work: its package tree is being synced{tree}, being synced since 4 s")
    );
    farm.syncs(1, SyncPhase::Failed("no route".to_owned()));
    let told = farm.explained(&Subject::Drone(peer(1)));
    assert!(told.summary.ends_with(&format!("{tree}, and its sync failed 4 s ago: no route")), "{told:?}");
    farm.syncs(1, SyncPhase::Done(Some(TUESDAY.to_owned())));
    assert_eq!(farm.assigned().len(), 1);
}

#[test]
fn work_of_a_tree_that_all_drones_are_past_is_to_be_queued_anew() {
    let mut farm = Farm::new();
    farm.submit(vec![portage(1, "Sun, 15 Nov 2026 00:45:01 +0000")]);
    assert!(farm.line(1, 1).ends_with("its own is newer, and a sync only brings the newest"));
    let told = farm.explained(&Subject::Job(job_id(1)));
    let wanted = format!("hive session cancel {}, and queue it anew: ", session_id(1));
    assert!(told.remedy.starts_with(&wanted), "{told:?}");
}
