//! What the simulator found in the engine, each as the shortest log that shows it. See `tests/README.md`.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that meets the unexpected fails")]

mod engine_support;

use std::collections::BTreeMap;

use engine_support::{Replica, building, effectful_job, peer, pure_job};
use hive::engine::command::{Command, Progress, Reply};
use hive::engine::control::{Control, Jobs};
use hive::engine::founding::childless;
use hive::engine::id::JobId;
use hive::engine::job::{JobSpec, JobState, Outcome};
use hive::engine::scheduler::{DroneView, LEASE_MS, Leases, Now, Settings, View, plan};

/// Jobs that would be given away so many milliseconds of hive time from now.
fn assigned_after(replica: &Replica, ms: u64) -> Vec<JobId> {
    let alive = |number| (peer(number), DroneView { alive: true, takes_builds: true, ..DroneView::default() });
    let view = View { drones: (0..3).map(alive).collect(), in_flight: BTreeMap::new() };
    let now = Now { now_ms: 1, hive_ms: replica.state.hive_time_ms() + ms };
    let plan = plan(&replica.state, &view, &mut Leases::new(1), now, &Settings::default());
    plan.report.assigned.into_keys().collect()
}

fn control(replica: &mut Replica, action: Control) {
    let reply = replica.run(Command::Control { action, by: "ann".to_owned(), why: "testing".to_owned() });
    assert!(matches!(reply, Reply::Changed { .. }), "{reply:?}");
}

fn not_uploaded() -> Progress {
    Progress::Ended { outcome: Outcome::NotUploaded { reason: "no route".to_owned() } }
}

/// Seed 2: the program had run, its files could not be brought away, and it was run again by itself.
#[test]
fn what_had_effects_is_not_run_again_because_its_files_could_not_be_uploaded() {
    let mut replica = Replica::founded(3);
    let job = replica.submit(effectful_job(1));
    let token = replica.assign(job, 1);
    replica.report(job, token, building());
    assert_eq!(replica.report(job, token, not_uploaded()), Reply::Done);
    assert_eq!(replica.job(job).state, JobState::Blocked);
    assert_eq!(replica.job(job).block_until_ms, None, "only a person can tell how far it came");
    assert_eq!(replica.state.drone_record(&peer(1)).upload_failures, 1);
    // What may be repeated is.
    for spec in [pure_job(2), JobSpec { idempotent: true, ..effectful_job(3) }] {
        let job = replica.submit(spec);
        let token = replica.assign(job, 2);
        replica.report(job, token, building());
        replica.report(job, token, not_uploaded());
        assert_eq!(replica.job(job).state, JobState::Needed);
    }
}

/// Seeds 29, 43, 51: an operator had running work begin anew, and the next drone began before the first one had stopped.
#[test]
fn what_has_effects_begins_anew_only_after_its_drone_must_have_stopped() {
    for action in [
        Control::Rebalance { running: true },
        Control::Reset { running: true },
        Control::Reclaim { jobs: Jobs::All, running: true },
    ] {
        let mut replica = Replica::founded(3);
        let (effects, pure, waits) =
            (replica.submit(effectful_job(1)), replica.submit(pure_job(2)), replica.submit(effectful_job(3)));
        for (job, begins) in [(effects, true), (pure, true), (waits, false)] {
            let token = replica.assign(job, 1);
            if begins {
                replica.report(job, token, building());
            }
        }
        control(&mut replica, action);
        // Forgetting failures must not forget this.
        control(&mut replica, Control::ClearFailures);
        assert_eq!(assigned_after(&replica, 0), [pure, waits], "what had not begun, and what may run twice");
        assert_eq!(assigned_after(&replica, LEASE_MS - 1), [pure, waits]);
        assert_eq!(assigned_after(&replica, LEASE_MS), [effects, pure, waits]);
    }
}

/// Seed 79: a node that was restarted had lost the last rows of its copy, and dissolved a hive of two with what it knew.
#[test]
fn a_hive_is_childless_only_by_the_word_of_a_copy_that_is_current() {
    let alone = Replica::founded(1);
    assert!(childless(&alone.state, true));
    assert!(!childless(&alone.state, false), "there may be entries that this copy has not applied yet");
    assert!(!childless(&Replica::founded(2).state, true));
}
