//! What the simulator and attacks found in the engine, each as the shortest log that shows it. See `tests/README.md`.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that meets the unexpected fails")]

mod engine_support;

use std::collections::BTreeMap;

use engine_support::{Replica, building, effectful_job, peer, pure_job};
use hive::engine::command::{Command, Progress, Reply};
use hive::engine::control::{Control, Jobs};
use hive::engine::founding::childless;
use hive::engine::id::{JobId, Token};
use hive::engine::job::{FailureClass, JobSpec, JobState, Outcome};
use hive::engine::scheduler::{DroneView, LEASE_MS, Leases, Now, Settings, View, plan};
use hive::engine::standing::{Refusal, judge};

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

/// Found by reading, for the hostile member of `tests/lab/malicious.rs`: a member could report another's attempt, claim another's role, or
/// say another's farewell, as only the name of the origin was compared.
#[test]
fn a_node_speaks_for_itself_and_a_voter_for_the_coordinator() {
    let mut replica = Replica::founded(3);
    let job = replica.submit(pure_job(1));
    let token = replica.assign(job, 1);
    let progress = || Progress::Ended {
        outcome: Outcome::Failed { class: FailureClass::Build, reason: "x".to_owned(), exit_code: None },
    };
    let may = |origin: u32, votes: bool, command: &Command| judge(&replica.state, &peer(origin), votes, command);
    let report = Command::Report { job, token, progress: progress() };
    assert_eq!(may(1, false, &report), Ok(()), "its own");
    assert!(matches!(may(2, true, &report), Err(Refusal::NotForIt(_))), "another's, also for a voter");
    let stale = Command::Report { job, token: Token { counter: 99, ..token }, progress: progress() };
    assert_eq!(may(2, false, &stale), Ok(()), "what nobody has is answered by the state");
    for (command, own) in [
        (Command::Leave { peer_id: peer(1) }, 1),
        (Command::ClaimRole { peer_id: peer(1), ranking: Vec::new(), ballot: "b".to_owned() }, 1),
        (Command::Admit { member: engine_support::member(1) }, 1),
    ] {
        assert_eq!(may(own, false, &command), Ok(()), "{command:?}");
        assert!(matches!(may(2, true, &command), Err(Refusal::NotForIt(_))), "{command:?}");
    }
    let reason = || "x".to_owned();
    for command in [
        Command::Assign { job, node: peer(2) },
        Command::Lose { job, token, reason: reason() },
        Command::Revoke { job, token, reason: reason() },
        Command::EndBlock { job },
        Command::BindReplica { peer_id: peer(1), raft_id: None },
    ] {
        assert_eq!(may(2, true, &command), Ok(()), "it may have led a moment ago: {command:?}");
        assert!(matches!(may(2, false, &command), Err(Refusal::NotForIt(_))), "{command:?}");
    }
    let begin = Command::BeginEpoch { epoch: engine_support::epoch(2) };
    assert!(matches!(may(0, true, &begin), Err(Refusal::NotForIt(_))));
    // Whoever is no member may ask to become one, and nothing else.
    assert_eq!(may(7, false, &Command::Admit { member: engine_support::member(7) }), Ok(()));
    let control = Command::Control { action: Control::Pause, by: "x".to_owned(), why: String::new() };
    assert_eq!(may(7, false, &control), Err(Refusal::NoMember));
    assert_eq!(may(2, false, &control), Ok(()), "what people ask of any node it hands on");
    assert_eq!(replica.run(Command::Leave { peer_id: peer(2) }), Reply::Done);
    assert_eq!(judge(&replica.state, &peer(2), false, &control), Err(Refusal::NoMember), "it left");
}
