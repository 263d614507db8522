//! What each command does to the replicated state, and what it refuses.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that meets the unexpected fails")]

mod engine_support;

use engine_support::{
    Replica, building, effectful_job, epoch, failed, git_job, job_id, member, peer, pure_job, rejected, session_id,
    succeeded,
};
use hive::engine::access::{AccessChange, KeyHash, Scope, token_digest};
use hive::engine::audit::{AuditNote, Broken, GivenAnswer, Once};
use hive::engine::command::{Batch, Command, Origin, Progress, Proposal, RankedRole, RejectCode, Reply};
use hive::engine::control::Control;
use hive::engine::event::{EventKind, PER_ENTRY};
use hive::engine::id::{HiveId, JobId, Token, UnixMillis};
use hive::engine::job::{AttemptState, FailureClass, JobSpec, JobState, Outcome, Source};
use hive::engine::state::{
    ANSWER_KEPT_MAX, AUDIT_KEPT, DRONE_INFRA_FAILURES_MAX, DroneRecord, GROUNDED_MS, INFRA_FAILURES_MAX, MEMBERS_MAX,
    ONCE_KEPT, ONCE_MS, Row, State, TERMINAL_KEPT, TOKENS_MAX, WINDOW, table,
};

fn claim(node: u32, ballot: &str, ranking: &[(&str, Option<u32>)]) -> Command {
    let ranking = ranking.iter().map(|(role, cap)| RankedRole { role: (*role).to_owned(), cap: *cap }).collect();
    Command::ClaimRole { peer_id: peer(node), ranking, ballot: ballot.to_owned() }
}

// ---- founding, members ----

#[test]
fn nothing_happens_before_the_hive_is_founded_and_it_is_founded_once() {
    let mut replica = Replica::empty();
    assert_eq!(rejected(&replica.run(Command::Admit { member: member(1) })), Some(RejectCode::Conflict));
    let found = |hive: u8| Command::Found { hive_id: HiveId([hive; 16]), epoch: epoch(1), founder: member(0) };
    assert_eq!(replica.run(found(1)), Reply::Done);
    assert_eq!(rejected(&replica.run(found(2))), Some(RejectCode::Conflict));
    assert_eq!(replica.state.hive_id(), Some(HiveId([1; 16])));
    assert_eq!(replica.state.founder().map(|founder| founder.info.peer_id.clone()), Some(peer(0)));
    replica.check_reload();
}

#[test]
fn admission_keeps_the_highest_incarnation_and_the_order_of_joining() {
    let mut replica = Replica::founded(2);
    let mut again = member(1);
    again.incarnation = 5;
    again.name = "renamed".to_owned();
    assert_eq!(replica.run(Command::Admit { member: again.clone() }), Reply::Done);
    let known = replica.state.member(&peer(1)).unwrap();
    assert_eq!((known.display_name.as_str(), known.join_ordinal), ("renamed", 2));
    assert_eq!(rejected(&replica.run(Command::Admit { member: member(1) })), Some(RejectCode::Conflict));
    again.version = "0.2.0".to_owned();
    assert_eq!(replica.run(Command::Admit { member: again }), Reply::Done, "an equal incarnation updates");
    assert_eq!(replica.state.member(&peer(1)).unwrap().info.version, "0.2.0");
}

#[test]
fn two_machines_with_one_name_are_both_members_under_two_names() {
    let mut replica = Replica::founded(1);
    for number in 1..4 {
        let mut info = member(number);
        info.name = "web".to_owned();
        assert_eq!(replica.run(Command::Admit { member: info }), Reply::Done);
    }
    let name = |replica: &Replica, number| replica.state.member(&peer(number)).unwrap().display_name.clone();
    assert_eq!([1, 2, 3].map(|number| name(&replica, number)), ["web", "web-2", "web-3"]);
    assert_eq!(replica.state.member_by_name("web-2").unwrap().info.peer_id, peer(2));

    assert_eq!(replica.run(Command::Leave { peer_id: peer(1) }), Reply::Done);
    let mut info = member(2);
    info.name = "web".to_owned();
    replica.run(Command::Admit { member: info });
    assert_eq!(name(&replica, 2), "web-2", "names do not wander while their machine stays");
    let mut info = member(4);
    info.name = "web".to_owned();
    replica.run(Command::Admit { member: info });
    assert_eq!(name(&replica, 4), "web", "the name of one that left is free");
    let mut info = member(1);
    info.name = "web".to_owned();
    info.incarnation = 2;
    replica.run(Command::Admit { member: info });
    assert_eq!(name(&replica, 1), "web-4");
    let mut info = member(5);
    info.name = "x".repeat(63);
    replica.run(Command::Admit { member: info.clone() });
    info.peer_id = peer(6);
    replica.run(Command::Admit { member: info });
    assert_eq!(name(&replica, 6), format!("{}-2", "x".repeat(61)));
    replica.check_reload();
}

#[test]
fn malformed_members_are_refused() {
    let mut replica = Replica::founded(1);
    type Spoil = fn(&mut hive::engine::member::MemberInfo);
    let cases: [(&str, Spoil); 9] = [
        ("empty name", |info| info.name.clear()),
        ("name with a space", |info| info.name = "a b".to_owned()),
        ("long name", |info| info.name = "x".repeat(64)),
        ("nine addresses", |info| info.addresses = vec!["10.0.0.1:1".to_owned(); 9]),
        ("address without a port", |info| info.addresses = vec!["10.0.0.1".to_owned()]),
        ("port zero", |info| info.addresses = vec!["10.0.0.1:0".to_owned()]),
        ("long version", |info| info.version = "1".repeat(200)),
        ("label with an escape", |info| info.inventory.labels = ["\u{1b}[2J".to_owned()].into()),
        ("many labels", |info| info.inventory.labels = (0..100).map(|n| format!("l{n}")).collect()),
    ];
    for (what, spoil) in cases {
        let mut info = member(1);
        spoil(&mut info);
        assert_eq!(rejected(&replica.run(Command::Admit { member: info })), Some(RejectCode::Invalid), "{what}");
    }
    assert_eq!(replica.state.members().count(), 1);
    let mut info = member(1);
    info.addresses = vec!["[fe80::1%eth0]:50555".to_owned(), "host.lan:1".to_owned()];
    assert_eq!(replica.run(Command::Admit { member: info }), Reply::Done);
}

#[test]
fn raft_ids_are_bound_to_one_node_and_never_used_again() {
    let mut replica = Replica::founded(3);
    let bind = |node, raft_id| Command::BindReplica { peer_id: peer(node), raft_id };
    assert_eq!(replica.run(bind(1, Some(77))), Reply::Done);
    assert_eq!(replica.run(bind(1, Some(77))), Reply::Done, "repeating is harmless");
    assert_eq!(rejected(&replica.run(bind(2, Some(77)))), Some(RejectCode::Conflict));
    assert_eq!(replica.state.raft_id_holder(77).unwrap().info.peer_id, peer(1));
    assert_eq!(replica.run(bind(1, None)), Reply::Done);
    assert!(replica.state.raft_id_holder(77).is_none());
    for node in [1, 2] {
        assert_eq!(rejected(&replica.run(bind(node, Some(77)))), Some(RejectCode::Conflict), "node {node}");
    }
    assert_eq!(rejected(&replica.run(bind(9, Some(1)))), Some(RejectCode::NotFound));
    replica.check_reload();
}

#[test]
fn a_full_hive_forgets_those_that_left_first_and_refuses_more_when_nobody_left() {
    let most = u32::try_from(MEMBERS_MAX).unwrap();
    let mut replica = Replica::founded(most);
    let newcomer = Command::Admit { member: member(most) };
    assert_eq!(rejected(&replica.run(newcomer.clone())), Some(RejectCode::NoRoom));
    for node in [7, 5] {
        replica.run(Command::Leave { peer_id: peer(node) });
    }
    assert_eq!(replica.run(newcomer), Reply::Done);
    assert!(replica.state.member(&peer(5)).is_none() && replica.state.member(&peer(7)).is_some());
    assert_eq!(replica.state.members().count(), MEMBERS_MAX);
    replica.check_reload();
}

#[test]
fn who_left_comes_back_only_after_a_restart_and_without_its_role() {
    let mut replica = Replica::founded(2);
    replica.run(claim(1, "b1", &[("controller", Some(1))]));
    assert_eq!(replica.run(Command::Leave { peer_id: peer(1) }), Reply::Done);
    assert!(replica.state.census().is_empty());
    assert_eq!(rejected(&replica.run(Command::Admit { member: member(1) })), Some(RejectCode::Conflict));
    let mut info = member(1);
    info.incarnation = 2;
    assert_eq!(replica.run(Command::Admit { member: info }), Reply::Done);
    assert_eq!(replica.state.member(&peer(1)).unwrap().role, None);
    let reply = replica.run(claim(1, "b2", &[("controller", Some(1))]));
    assert!(matches!(reply, Reply::Role { claim } if claim.generation == 2));
}

#[test]
fn the_feature_level_rises_when_all_know_it_and_then_halts_those_that_do_not() {
    let mut replica = Replica::founded(2);
    let raise = |level| Command::RaiseFeatureLevel { level };
    assert_eq!(replica.run(raise(1)), Reply::Done);
    assert_eq!(rejected(&replica.run(raise(0))), Some(RejectCode::Conflict));
    assert_eq!(rejected(&replica.run(raise(2))), Some(RejectCode::Conflict));
    for number in [0, 1] {
        let mut info = member(number);
        info.feature_level = 2;
        replica.run(Command::Admit { member: info });
    }
    assert_eq!(replica.run(raise(2)), Reply::Done);
    assert_eq!(replica.state.feature_level(), 2);
    let before = replica.state.rows();
    let batch = replica.batch(Vec::new(), 5);
    let halt = replica.state.apply(100, &batch).expect_err("this build knows level 1 only");
    assert_eq!(halt.index, 100);
    assert_eq!(replica.state.rows(), before);
}

// ---- roles ----

#[test]
fn claims_fill_roles_in_log_order_up_to_their_caps() {
    let mut replica = Replica::founded(5);
    let ranking = [("controller", Some(1)), ("builder", Some(2)), ("runner", None)];
    let mut roles = Vec::new();
    for node in 0..5 {
        match replica.run(claim(node, &format!("ballot{node}"), &ranking)) {
            Reply::Role { claim } => roles.push(claim.role),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(roles, ["controller", "builder", "builder", "runner", "runner"]);
    let census: Vec<(String, u32)> = replica.state.census().into_iter().collect();
    assert_eq!(census, [("builder".to_owned(), 2), ("controller".to_owned(), 1), ("runner".to_owned(), 2)]);
}

#[test]
fn claims_repeat_their_ballot_keep_their_own_place_and_respect_caps() {
    let mut replica = Replica::founded(2);
    let first = replica.run(claim(0, "b1", &[("controller", Some(1))]));
    assert_eq!(replica.run(claim(0, "b1", &[("builder", None)])), first, "the same ballot gives the same claim");
    let second = replica.run(claim(0, "b2", &[("controller", Some(1))]));
    assert!(matches!(&second, Reply::Role { claim } if claim.generation == 2 && claim.role == "controller"));
    assert_eq!(rejected(&replica.run(claim(1, "b1", &[("controller", Some(1))]))), Some(RejectCode::NoRoom));
    assert_eq!(rejected(&replica.run(claim(1, "b1", &[("x", Some(0))]))), Some(RejectCode::NoRoom));
    assert_eq!(rejected(&replica.run(claim(1, "b1", &[]))), Some(RejectCode::NoRoom));
    assert_eq!(rejected(&replica.run(claim(1, "", &[("x", None)]))), Some(RejectCode::Invalid));
    assert_eq!(rejected(&replica.run(claim(1, "b1", &[("a b", None)]))), Some(RejectCode::Invalid));
    assert_eq!(rejected(&replica.run(claim(7, "b1", &[("x", None)]))), Some(RejectCode::NotFound));
}

// ---- queue ----

#[test]
fn submitting_twice_is_submitting_once() {
    let mut replica = Replica::founded(1);
    replica.submit(pure_job(1));
    let jobs = vec![pure_job(1), pure_job(2), pure_job(2)];
    let submit = Command::submit(session_id(2), "me", jobs);
    assert_eq!(replica.run(submit), Reply::Done);
    assert_eq!(replica.job(job_id(1)).session, session_id(1));
    assert_eq!(replica.state.jobs().map(|job| job.ordinal).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(replica.state.session(&session_id(2)).unwrap().jobs, 1);
    assert_eq!(replica.state.jobs().filter(|job| job.session == session_id(2)).count(), 1);
    replica.check_reload();
}

#[test]
fn other_work_under_a_known_id_is_refused_and_changes_nothing() {
    let mut replica = Replica::founded(1);
    replica.submit(pure_job(1));
    let submit = |jobs| Command::submit(session_id(2), "me", jobs);
    let other = JobSpec { priority: 50, ..pure_job(1) };
    assert_eq!(rejected(&replica.run(submit(vec![pure_job(2), other]))), Some(RejectCode::Conflict));
    assert!(replica.state.job(&job_id(2)).is_none(), "all or nothing");
    let twice = vec![pure_job(3), JobSpec { priority: 50, ..pure_job(3) }];
    assert_eq!(rejected(&replica.run(submit(twice))), Some(RejectCode::Conflict));
    assert_eq!(replica.job(job_id(1)).spec, pure_job(1));
    replica.check_reload();
}

#[test]
fn a_job_that_was_pinned_meanwhile_is_still_the_same_job() {
    let mut replica = Replica::founded(1);
    replica.submit(git_job(1));
    let token = replica.assign(job_id(1), 0);
    replica.report(job_id(1), token, Progress::Building { pinned_commit: Some("a".repeat(40)) });
    let submit = |job| Command::submit(session_id(1), "me", vec![job]);
    assert_eq!(replica.run(submit(git_job(1))), Reply::Done);
    let mut elsewhere = git_job(1);
    if let Some(Source::Git { commit, .. }) = elsewhere.git_source_mut() {
        *commit = Some("b".repeat(40));
    }
    assert_eq!(rejected(&replica.run(submit(elsewhere))), Some(RejectCode::Conflict));
}

#[test]
fn a_submission_with_one_bad_job_queues_nothing() {
    let mut replica = Replica::founded(1);
    let mut bad = pure_job(2);
    bad.priority = 101;
    let submit = |jobs| Command::submit(session_id(1), "me", jobs);
    assert_eq!(rejected(&replica.run(submit(vec![pure_job(1), bad]))), Some(RejectCode::Invalid));
    assert_eq!(rejected(&replica.run(submit(Vec::new()))), Some(RejectCode::Invalid));
    assert_eq!(rejected(&replica.run(submit((0..65).map(pure_job).collect()))), Some(RejectCode::Invalid));
    let nobody = Command::submit(session_id(1), "", vec![pure_job(1)]);
    assert_eq!(rejected(&replica.run(nobody)), Some(RejectCode::Invalid));
    assert_eq!(replica.state.jobs_len(), 0);
    assert!(replica.state.session(&session_id(1)).is_none());
}

#[test]
fn a_job_goes_from_needed_to_received() {
    let mut replica = Replica::founded(2);
    let id = replica.submit(git_job(1));
    let token = replica.assign(id, 1);
    assert_eq!(token, Token { epoch: epoch(1).id, counter: 1 });
    let commit = "a".repeat(40);
    let progress = Progress::Building { pinned_commit: Some(commit.clone()) };
    assert_eq!(replica.report(id, token, progress.clone()), Reply::Done);
    assert_eq!(replica.report(id, token, progress), Reply::Done, "saying it twice is harmless");
    assert_eq!(replica.state.counts().building, 1);
    let source = replica.job(id).spec.clone().git_source_mut().cloned();
    assert!(matches!(source, Some(Source::Git { commit: Some(pinned), .. }) if pinned == commit));
    assert_eq!(replica.report(id, token, Progress::Uploading), Reply::Done);
    assert_eq!(replica.state.live_attempts(&peer(1)).count(), 1);
    assert_eq!(replica.report(id, token, succeeded()), Reply::Done);
    let job = replica.job(id);
    assert_eq!((job.state, job.attempts[0].state), (JobState::Received, AttemptState::Accepted));
    assert_eq!((job.artifacts.len(), &job.artifact_node), (1, &Some(peer(1))));
    assert_eq!((job.attempts[0].exit_code, job.finish_ordinal), (Some(0), 1));
    assert_eq!(replica.report(id, token, succeeded()), Reply::Done, "the drone did not hear that it was accepted");
    assert_eq!(rejected(&replica.report(id, token, failed(FailureClass::Build))), Some(RejectCode::Stale));
    assert_eq!(replica.state.live_attempts_len(&peer(1)), 0);
    replica.check_reload();
}

#[test]
fn reports_that_make_no_sense_change_nothing() {
    let mut replica = Replica::founded(2);
    let id = replica.submit(pure_job(1));
    let token = replica.assign(id, 1);
    let pinned = |commit: &str| Progress::Building { pinned_commit: Some(commit.to_owned()) };
    let bad_files = Outcome::Succeeded { artifacts: vec![engine_support::artifact("../x")] };
    for (what, progress, code) in [
        ("uploading before building", Progress::Uploading, RejectCode::Conflict),
        ("no commit", pinned("main"), RejectCode::Invalid),
        ("nothing to pin", pinned(&"a".repeat(40)), RejectCode::Invalid),
        ("a path as a name", Progress::Ended { outcome: bad_files }, RejectCode::Invalid),
    ] {
        let before = replica.job(id).clone();
        assert_eq!(rejected(&replica.report(id, token, progress)), Some(code), "{what}");
        assert_eq!(replica.job(id), &before, "{what}");
    }
    assert_eq!(rejected(&replica.report(job_id(9), token, building())), Some(RejectCode::NotFound));
    assert_eq!(replica.report(id, token, building()), Reply::Done);
    assert_eq!(replica.report(id, token, Progress::Uploading), Reply::Done);
    assert_eq!(rejected(&replica.report(id, token, building())), Some(RejectCode::Conflict));
}

#[test]
fn only_waiting_jobs_are_assigned_and_only_to_members() {
    let mut replica = Replica::founded(2);
    let id = replica.submit(pure_job(1));
    let assign = |job, node| Command::Assign { job, node: peer(node) };
    assert_eq!(rejected(&replica.run(assign(job_id(2), 1))), Some(RejectCode::NotFound));
    assert_eq!(rejected(&replica.run(assign(id, 5))), Some(RejectCode::NotFound));
    replica.run(Command::Leave { peer_id: peer(1) });
    assert_eq!(rejected(&replica.run(assign(id, 1))), Some(RejectCode::NotFound));
    replica.assign(id, 0);
    assert_eq!(rejected(&replica.run(assign(id, 0))), Some(RejectCode::Conflict));
}

/// An old token in every state that its job can be in.
#[test]
fn an_old_token_is_refused_in_every_state() {
    type Then = fn(&mut Replica, hive::engine::id::JobId, Token);
    let states: [(&str, JobState, Then); 10] = [
        ("assigned", JobState::Delegated, |_, _, _| {}),
        ("building", JobState::Delegated, |replica, id, token| {
            replica.report(id, token, building());
        }),
        ("uploading", JobState::Delegated, |replica, id, token| {
            replica.report(id, token, building());
            replica.report(id, token, Progress::Uploading);
        }),
        ("received", JobState::Received, |replica, id, token| {
            replica.report(id, token, succeeded());
        }),
        ("needed again", JobState::Needed, |replica, id, token| {
            replica.lose(id, token);
        }),
        ("needed after a failure", JobState::Needed, |replica, id, token| {
            replica.report(id, token, failed(FailureClass::Infra));
        }),
        ("blocked", JobState::Blocked, |replica, id, token| {
            replica.report(id, token, failed(FailureClass::Policy));
        }),
        ("cancelled", JobState::Cancelled, |replica, id, _| {
            replica.run(Command::Cancel { job: id, reason: "me".to_owned() });
        }),
        ("quarantined", JobState::Quarantined, |replica, id, token| {
            replica.report(id, token, building());
            replica.lose(id, token);
            for _ in 0..2 {
                let token = replica.assign(id, 2);
                replica.report(id, token, building());
                replica.lose(id, token);
            }
        }),
        ("failed", JobState::Failed, |replica, id, token| {
            replica.lose(id, token);
            for _ in 0..3 {
                let token = replica.assign(id, 2);
                assert_eq!(replica.report(id, token, failed(FailureClass::Build)), Reply::Done);
            }
        }),
    ];
    for (what, state, then) in states {
        let mut replica = Replica::founded(3);
        let id = replica.submit(pure_job(1));
        let old = replica.assign(id, 1);
        replica.lose(id, old);
        let new = replica.assign(id, 2);
        assert!(new.counter > old.counter);
        then(&mut replica, id, new);
        assert_eq!(replica.job(id).state, state, "{what}");
        let before = replica.job(id).clone();
        for progress in [building(), Progress::Uploading, succeeded(), failed(FailureClass::Build)] {
            let reply = replica.report(id, old, progress.clone());
            assert_eq!(rejected(&reply), Some(RejectCode::Stale), "{what}, {progress:?}");
        }
        assert_eq!(rejected(&replica.lose(id, old)), Some(RejectCode::Stale), "{what}");
        let forged = Token { epoch: epoch(9).id, counter: new.counter };
        assert_eq!(rejected(&replica.report(id, forged, succeeded())), Some(RejectCode::Stale), "{what}");
        assert_eq!(replica.job(id), &before, "{what}");
    }
}

#[test]
fn a_late_result_counts_until_somebody_else_has_the_job() {
    let mut replica = Replica::founded(3);
    let id = replica.submit(pure_job(1));
    let token = replica.assign(id, 1);
    replica.report(id, token, building());
    replica.lose(id, token);
    assert_eq!(replica.job(id).state, JobState::Needed);
    // Its drone works on and is not told to stop.
    assert_eq!(rejected(&replica.report(id, token, Progress::Uploading)), Some(RejectCode::Conflict));
    let mut elsewhere = replica.clone();
    let mut left = replica.clone();

    let before = replica.job(id).clone();
    assert_eq!(rejected(&replica.report(id, token, failed(FailureClass::Build))), Some(RejectCode::Stale));
    assert_eq!(replica.job(id), &before, "a late failure is no failure");
    assert_eq!(replica.report(id, token, succeeded()), Reply::Done);
    assert_eq!(replica.job(id).state, JobState::Received);

    let newer = elsewhere.assign(id, 2);
    assert_eq!(rejected(&elsewhere.report(id, token, succeeded())), Some(RejectCode::Stale));
    assert_eq!(elsewhere.report(id, newer, succeeded()), Reply::Done);

    left.run(Command::Leave { peer_id: peer(1) });
    assert_eq!(rejected(&left.report(id, token, succeeded())), Some(RejectCode::Stale));
}

#[test]
fn a_late_result_changes_nothing_once_the_job_no_longer_waits() {
    type End = fn(&mut Replica, hive::engine::id::JobId) -> Token;
    let ends: [(&str, bool, JobState, End); 3] = [
        ("blocked", false, JobState::Blocked, |replica, id| {
            let token = replica.assign(id, 1);
            replica.report(id, token, building());
            replica.lose(id, token);
            token
        }),
        ("cancelled", true, JobState::Cancelled, |replica, id| {
            let token = replica.assign(id, 1);
            replica.lose(id, token);
            replica.run(Command::Cancel { job: id, reason: "x".to_owned() });
            token
        }),
        ("quarantined", true, JobState::Quarantined, |replica, id| {
            let mut tokens = Vec::new();
            for _ in 0..3 {
                let token = replica.assign(id, 1);
                replica.report(id, token, building());
                replica.lose(id, token);
                tokens.push(token);
            }
            tokens[2]
        }),
    ];
    for (what, pure, state, end) in ends {
        let mut replica = Replica::founded(2);
        let id = replica.submit(if pure { pure_job(1) } else { effectful_job(1) });
        let token = end(&mut replica, id);
        let before = replica.job(id).clone();
        assert_eq!(before.state, state, "{what}");
        for progress in [building(), succeeded(), failed(FailureClass::Build)] {
            assert_eq!(rejected(&replica.report(id, token, progress)), Some(RejectCode::Stale), "{what}");
        }
        assert_eq!(replica.job(id), &before, "{what}");
    }
}

#[test]
fn cancelling_ends_a_job_and_its_attempt_at_once() {
    let mut replica = Replica::founded(2);
    let id = replica.submit(pure_job(1));
    let token = replica.assign(id, 1);
    replica.report(id, token, building());
    let cancel = Command::Cancel { job: id, reason: "not\u{7} needed".to_owned() };
    assert_eq!(replica.run(cancel.clone()), Reply::Done);
    let job = replica.job(id);
    assert_eq!((job.state, job.attempts[0].state), (JobState::Cancelled, AttemptState::Cancelled));
    assert_eq!(job.reason.as_deref(), Some("not  needed"));
    assert_eq!(rejected(&replica.report(id, token, succeeded())), Some(RejectCode::Stale));
    assert_eq!(replica.run(cancel), Reply::Done, "it is cancelled already");
    let done = replica.submit(pure_job(2));
    let token = replica.assign(done, 1);
    replica.report(done, token, succeeded());
    let cancel = Command::Cancel { job: done, reason: "late".to_owned() };
    assert_eq!(rejected(&replica.run(cancel)), Some(RejectCode::Conflict));
}

// ---- failures ----

#[test]
fn two_different_drones_block_a_package_and_one_alone_fails_it() {
    let mut replica = Replica::founded(3);
    let id = replica.submit(pure_job(1));
    for (node, state) in [(1, JobState::Needed), (1, JobState::Needed), (1, JobState::Failed)] {
        let token = replica.assign(id, node);
        replica.report(id, token, failed(FailureClass::Build));
        assert_eq!(replica.job(id).state, state);
    }
    let id = replica.submit(pure_job(2));
    for (node, state) in [(1, JobState::Needed), (2, JobState::Blocked)] {
        let token = replica.assign(id, node);
        replica.report(id, token, failed(FailureClass::Build));
        assert_eq!(replica.job(id).state, state);
    }
    assert!(replica.job(id).reason.as_deref().unwrap().contains("2 different drones"));
    assert_eq!(replica.state.drone_record(&peer(1)), &DroneRecord::default(), "packages do not count against drones");
}

#[test]
fn infrastructure_failures_pause_longer_and_longer_and_end_blocked() {
    let mut replica = Replica::founded(2);
    let id = replica.submit(pure_job(1));
    let mut pauses = Vec::new();
    for _ in 0..INFRA_FAILURES_MAX {
        let token = replica.assign(id, 1);
        replica.run_after(1_000, Command::Report { job: id, token, progress: failed(FailureClass::Infra) });
        pauses.push(replica.job(id).not_before_ms - replica.state.hive_time_ms());
    }
    assert_eq!(pauses[..4], [5_000, 10_000, 20_000, 40_000]);
    assert_eq!(pauses.last(), Some(&300_000));
    assert_eq!(replica.job(id).state, JobState::Blocked);
    assert_eq!(replica.job(id).tally.build_failures, 0);
}

#[test]
fn eight_infrastructure_failures_ground_a_drone_and_a_success_clears_them() {
    let mut replica = Replica::founded(2);
    let fail = |replica: &mut Replica, number: u128| {
        let id = replica.submit(pure_job(number));
        let token = replica.assign(id, 1);
        replica.report(id, token, failed(FailureClass::Infra));
    };
    for number in 1..8 {
        fail(&mut replica, number);
    }
    assert_eq!(replica.state.drone_record(&peer(1)).infra_failures, DRONE_INFRA_FAILURES_MAX - 1);
    let id = replica.submit(pure_job(100));
    let token = replica.assign(id, 1);
    replica.report(id, token, succeeded());
    assert_eq!(replica.state.drone_record(&peer(1)).infra_failures, 0);
    replica.pass(1_000);
    for number in 11..19 {
        fail(&mut replica, number);
    }
    let record = replica.state.drone_record(&peer(1));
    assert_eq!((record.infra_failures, record.grounded_until_ms), (0, 1_000 + GROUNDED_MS));
    replica.check_reload();
}

#[test]
fn three_lost_drones_quarantine_a_job() {
    let mut replica = Replica::founded(4);
    let id = replica.submit(pure_job(1));
    for (node, state) in [(1, JobState::Needed), (2, JobState::Needed), (3, JobState::Quarantined)] {
        let token = replica.assign(id, node);
        replica.report(id, token, building());
        assert_eq!(replica.lose(id, token), Reply::Done);
        assert_eq!(replica.job(id).state, state);
        assert_eq!(rejected(&replica.lose(id, token)), Some(RejectCode::Stale));
    }
}

#[test]
fn drones_that_never_began_do_not_quarantine_a_job_and_it_waits_longer_each_time() {
    let mut replica = Replica::founded(2);
    let id = replica.submit(pure_job(1));
    let mut pauses = Vec::new();
    for _ in 0..INFRA_FAILURES_MAX {
        assert_eq!(replica.job(id).state, JobState::Needed);
        let token = replica.assign(id, 1);
        replica.lose(id, token);
        pauses.push(replica.job(id).not_before_ms);
    }
    assert_eq!(pauses[0], 0, "somebody else may have it at once");
    assert!(pauses[1] > 0 && pauses[2] > pauses[1], "{pauses:?}");
    assert_eq!(replica.job(id).state, JobState::Blocked);
}

#[test]
fn effects_are_not_repeated_once_they_may_have_begun() {
    for (what, began, end, state) in [
        ("lost before it began", false, None, JobState::Needed),
        ("lost after it began", true, None, JobState::Blocked),
        ("infra before it began", false, Some(FailureClass::Infra), JobState::Needed),
        ("infra after it began", true, Some(FailureClass::Infra), JobState::Blocked),
        ("failed", true, Some(FailureClass::Build), JobState::Failed),
        ("forbidden", false, Some(FailureClass::Policy), JobState::Blocked),
        ("cancelled", true, Some(FailureClass::Cancelled), JobState::Cancelled),
    ] {
        let mut replica = Replica::founded(2);
        let id = replica.submit(effectful_job(1));
        let token = replica.assign(id, 1);
        if began {
            replica.report(id, token, building());
        }
        match end {
            None => replica.lose(id, token),
            Some(class) => replica.report(id, token, failed(class)),
        };
        assert_eq!(replica.job(id).state, state, "{what}");
        assert_eq!(replica.job(id).reason.is_some(), state != JobState::Needed, "{what}");
    }
}

// ---- retries, envelopes ----

#[test]
fn a_retry_gets_the_first_reply_and_changes_nothing() {
    let mut replica = Replica::founded(2);
    let id = replica.submit(pure_job(1));
    let assign = replica.proposal(&Command::Assign { job: id, node: peer(1) });
    let batch = replica.batch(vec![assign.clone(), assign.clone()], 0);
    let applied = replica.apply(&batch);
    assert_eq!(applied.replies[0], applied.replies[1]);
    let refused = replica.proposal(&Command::Assign { job: id, node: peer(1) });
    let batch = replica.batch(vec![refused.clone()], 0);
    let first = replica.apply(&batch).replies;
    replica.run(Command::Cancel { job: id, reason: "x".to_owned() });
    let batch = replica.batch(vec![assign, refused], 0);
    let again = replica.apply(&batch);
    assert_eq!(again.replies[0], applied.replies[0]);
    assert_eq!(again.replies[1], first[0], "also of what was refused");
    assert_eq!(again.changes.len(), 2, "only index, chain and hive time");
    assert_eq!(replica.job(id).attempts.len(), 1);
}

#[test]
fn proposals_below_the_window_or_of_an_earlier_start_are_too_old() {
    let mut replica = Replica::founded(1);
    let leave = Command::Leave { peer_id: peer(7) };
    let send = |replica: &mut Replica, incarnation, sequence| {
        let origin = Origin { peer_id: peer(3), incarnation, sequence };
        let batch = replica.batch(vec![Proposal::new(origin, &leave)], 0);
        rejected(&replica.apply(&batch).replies[0])
    };
    let first = WINDOW + 1;
    assert_eq!(send(&mut replica, 4, first), Some(RejectCode::NotFound));
    assert_eq!(send(&mut replica, 4, 1), Some(RejectCode::TooOld));
    assert_eq!(send(&mut replica, 4, 2), Some(RejectCode::NotFound), "late, but within the window");
    assert_eq!(send(&mut replica, 4, 2 + WINDOW), Some(RejectCode::NotFound));
    assert_eq!(send(&mut replica, 4, 2), Some(RejectCode::TooOld));
    assert_eq!(send(&mut replica, 3, 9_999), Some(RejectCode::TooOld));
    assert_eq!(send(&mut replica, 5, 1), Some(RejectCode::NotFound), "a new start counts anew");
    assert_eq!(send(&mut replica, 5, 0), Some(RejectCode::Invalid));
    replica.check_reload();
    assert_eq!(
        replica
            .store
            .keys()
            .filter(|row| row.table == table::REPLIES && row.key.starts_with(b"12D3KooWNode003"))
            .count(),
        1
    );
}

#[test]
fn what_is_not_understood_halts_before_anything_changes() {
    let mut replica = Replica::founded(1);
    let good = replica.proposal(&Command::Admit { member: member(1) });
    let mut extra = ciborium_of(&Command::Leave { peer_id: peer(1) });
    extra.push(0);
    let unknown_field = unknown_field_in(&Command::Admit { member: member(2) });
    let cases: [(&str, u16, Vec<u8>); 5] = [
        ("an unknown version", 2, good.command.clone()),
        ("junk", 1, vec![0xff, 0x00]),
        ("bytes left over", 1, extra),
        ("an unknown command", 1, ciborium_of(&"Dance")),
        ("an unknown field deep inside", 1, unknown_field),
    ];
    for (what, version, command) in cases {
        let bad = Proposal { origin: good.origin.clone(), version, command };
        let batch = replica.batch(vec![good.clone(), bad], 50);
        let before = (replica.state.rows(), replica.state.chain());
        let halt = replica.state.apply(1_000, &batch).expect_err(what);
        assert!(halt.why.contains("command 1"), "{what}: {}", halt.why);
        assert_eq!((replica.state.rows(), replica.state.chain()), before, "{what}");
    }
    let batch = Batch { version: 9, elapsed_ms: 0, at: UnixMillis(0), proposals: Vec::new() };
    assert!(replica.state.apply(1_000, &batch).is_err());
    let batch = replica.batch(Vec::new(), 0);
    assert!(replica.state.apply(replica.index, &batch).is_err(), "an entry that was applied before");
    let huge = Proposal { command: vec![0; 70_000], ..good };
    let batch = replica.batch(vec![huge], 0);
    assert_eq!(rejected(&replica.apply(&batch).replies[0]), Some(RejectCode::Invalid), "too long is understood");
}

fn ciborium_of<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

/// The same command as a newer hive might write it: with one more fact in the inventory.
fn unknown_field_in(command: &Command) -> Vec<u8> {
    use ciborium::Value;
    fn add(value: &mut Value) {
        if let Value::Map(entries) = value {
            if entries.iter().any(|(key, _)| key.as_text() == Some("cpu_cores")) {
                entries.push((Value::Text("quantum".to_owned()), Value::Bool(true)));
            }
            entries.iter_mut().for_each(|(_, value)| add(value));
        }
    }
    let mut value = Value::serialized(command).unwrap();
    add(&mut value);
    ciborium_of(&value)
}

#[test]
fn hive_time_is_the_sum_of_what_leaders_measured() {
    let mut replica = Replica::founded(1);
    replica.pass(100);
    replica.pass(u64::MAX);
    replica.pass(5);
    assert_eq!(replica.state.hive_time_ms(), u64::MAX);
}

#[test]
fn a_new_epoch_marks_tokens_and_keeps_them_rising() {
    let mut replica = Replica::founded(1);
    let id = replica.submit(pure_job(1));
    let old = replica.assign(id, 0);
    assert_eq!(replica.run(Command::BeginEpoch { epoch: epoch(2) }), Reply::Done);
    assert_eq!(rejected(&replica.run(Command::BeginEpoch { epoch: epoch(1) })), Some(RejectCode::Conflict));
    assert_eq!(replica.report(id, old, building()), Reply::Done, "work that the recovered state knows goes on");
    let id = replica.submit(pure_job(2));
    assert_eq!(replica.assign(id, 0), Token { epoch: epoch(2).id, counter: 2 });
}

// ---- events ----

#[test]
fn commands_tell_what_they_did_and_those_that_did_nothing_tell_nothing() {
    let mut replica = Replica::founded(2);
    let mut tell = |command: Command| -> Vec<(EventKind, Option<String>, String)> {
        let proposal = replica.proposal(&command);
        let batch = replica.batch(vec![proposal], 5);
        let index = replica.state.applied_index();
        let events = replica.apply(&batch).events;
        let mut last = index * PER_ENTRY;
        for event in &events {
            assert!(event.id > last && event.index() == replica.state.applied_index(), "ids rise and name their entry");
            last = event.id;
        }
        events.into_iter().map(|event| (event.kind, event.drone, event.message)).collect()
    };
    let submit = || Command::submit(session_id(1), "me", vec![pure_job(1)]);
    assert_eq!(tell(submit()), [(EventKind::Queue, None, "1 job queued by me".to_owned())]);
    let assigned = tell(Command::Assign { job: job_id(1), node: peer(0) });
    assert_eq!(assigned.iter().map(|event| event.0).collect::<Vec<_>>(), [EventKind::Assign]);
    assert!(assigned[0].1.is_some() && assigned[0].2 == "attempt 1", "{assigned:?}");
    assert_eq!(tell(Command::Assign { job: job_id(1), node: peer(1) }), [], "refused");
    let token = Token { epoch: epoch(1).id, counter: 1 };
    let report = |token, progress| Command::Report { job: job_id(1), token, progress };
    let kinds =
        |events: Vec<(EventKind, Option<String>, String)>| events.iter().map(|event| event.0).collect::<Vec<_>>();
    assert_eq!(kinds(tell(report(token, building()))), [EventKind::Start]);
    let old = Token { counter: 0, ..token };
    assert_eq!(kinds(tell(report(old, building()))), [EventKind::Stale]);
    assert_eq!(kinds(tell(report(token, failed(FailureClass::Policy)))), [EventKind::Fail, EventKind::Blocked]);
    let control = Command::Control { action: Control::Pause, by: "ann".to_owned(), why: "maintenance".to_owned() };
    let paused = tell(control);
    assert_eq!(
        (paused[0].0, paused[0].2.starts_with("pause by ann: maintenance (")),
        (EventKind::Control, true),
        "{paused:?}"
    );
    assert_eq!(kinds(tell(Command::Cancel { job: job_id(1), reason: "no".to_owned() })), [EventKind::Cancel]);
}

// ---- keys ----

#[test]
fn a_key_at_hand_counts_where_there_is_none_and_never_undoes_a_rotation() {
    let mut replica = Replica::founded(1);
    let hash = |salt, key: &str| KeyHash::of([salt; 16], key.as_bytes());
    let access = |change| Command::Access { change, by: "ann".to_owned() };
    assert!(replica.state.admin_key().is_none(), "a new hive has none");
    let first = hash(1, "first");
    assert_eq!(replica.run(access(AccessChange::SetFirstKey { hash: first })), Reply::Done);
    let rotated = hash(2, "second");
    assert_eq!(replica.run(access(AccessChange::SetKey { hash: rotated })), Reply::Done);
    assert_eq!(replica.run(access(AccessChange::SetFirstKey { hash: first })), Reply::Done);
    assert_eq!(replica.state.admin_key().map(|key| key.hash), Some(rotated));
    replica.check_reload();
    assert_eq!(replica.run(access(AccessChange::RemoveKey)), Reply::Done);
    assert!(replica.state.admin_key().is_none());
    replica.check_reload();
    let nameless = Command::Access { change: AccessChange::SetKey { hash: first }, by: "a\nb".to_owned() };
    assert_eq!(rejected(&replica.run(nameless)), Some(RejectCode::Invalid));
}

#[test]
fn tokens_are_made_once_bounded_and_revoked() {
    const LIFE_MS: u64 = 10 * 86_400_000;
    let mut replica = Replica::founded(1);
    let add = |name: &str, scope, drone: Option<&str>, lives_ms| Command::Access {
        change: AccessChange::AddToken {
            name: name.to_owned(),
            scope,
            drone: drone.map(str::to_owned),
            digest: token_digest(name.as_bytes()),
            lives_ms,
        },
        by: "ann".to_owned(),
    };
    let revoke = |name: &str| Command::Access {
        change: AccessChange::RevokeToken { name: name.to_owned() },
        by: "ann".to_owned(),
    };
    for (what, bad) in [
        ("a name with a space", add("a b", Scope::Read, None, None)),
        ("no drone", add("d", Scope::Drone, None, None)),
        ("a drone too many", add("d", Scope::Queue, Some("d"), None)),
        ("a drone outside the grammar", add("d", Scope::Drone, Some("../d"), None)),
        ("no life", add("d", Scope::Read, None, Some(0))),
        ("for ever and ever", add("d", Scope::Read, None, Some(u64::MAX))),
    ] {
        assert_eq!(rejected(&replica.run(bad)), Some(RejectCode::Invalid), "{what}");
    }
    assert_eq!(replica.run(add("ci", Scope::Queue, None, Some(LIFE_MS))), Reply::Done);
    assert_eq!(rejected(&replica.run(add("ci", Scope::Admin, None, None))), Some(RejectCode::Conflict));
    replica.check_reload();
    replica.pass(LIFE_MS);
    let over =
        replica.state.tokens().next().map(|(_, token)| token.is_over(replica.state.hive_time_ms(), UnixMillis(0)));
    assert_eq!(over, Some(true));
    assert_eq!(
        replica.run(add("ci", Scope::Drone, Some("d1"), None)),
        Reply::Done,
        "one that is over gives its name free"
    );
    for number in 1..TOKENS_MAX {
        assert_eq!(replica.run(add(&format!("t{number}"), Scope::Read, None, None)), Reply::Done);
    }
    assert_eq!(rejected(&replica.run(add("one-more", Scope::Read, None, None))), Some(RejectCode::Conflict));
    assert_eq!(replica.run(revoke("ci")), Reply::Done);
    assert_eq!(rejected(&replica.run(revoke("ci"))), Some(RejectCode::NotFound));
    assert_eq!(replica.state.tokens().count(), TOKENS_MAX - 1);
    replica.check_reload();
}

// ---- rows ----

#[test]
fn damaged_rows_are_named() {
    let replica = Replica::founded(1);
    let row = |table, key: &[u8]| Row { table, key: key.to_vec() };
    for (what, row, value) in [
        ("unknown table", row(99, b"x"), vec![0x00]),
        ("unknown meta", row(table::META, b"what"), vec![0x00]),
        ("short key", row(table::JOBS, b"x"), vec![0x00]),
        ("junk value", row(table::MEMBERS, b"12D3"), vec![0xff]),
        ("unknown key", row(table::KEYS, b"what"), vec![0x00]),
        ("no slot", row(table::REPLIES, b"12D3"), vec![0x00]),
    ] {
        let rows = replica.store.clone().into_iter().chain([(row.clone(), value)]);
        let error = State::from_rows(rows).expect_err(what);
        assert_eq!(error.table, row.table, "{what}");
    }
}

#[test]
fn old_jobs_become_history_and_are_still_known() {
    let mut replica = Replica::founded(1);
    let total = TERMINAL_KEPT + 100;
    for first in (0..total).step_by(50) {
        let ids: Vec<u128> = (first..first + 50).map(|number| u128::try_from(number).unwrap() + 1).collect();
        let session = session_id(u128::try_from(first).unwrap());
        let jobs = ids.iter().copied().map(pure_job).collect();
        let submit = Command::submit(session, "me", jobs);
        let mut proposals = vec![replica.proposal(&submit)];
        for id in ids {
            let cancel = Command::Cancel { job: job_id(id), reason: "x".to_owned() };
            proposals.push(replica.proposal(&cancel));
        }
        let batch = replica.batch(proposals, 1);
        replica.apply(&batch);
    }
    assert_eq!(replica.state.jobs_len(), TERMINAL_KEPT);
    assert_eq!(replica.state.counts().cancelled, u64::try_from(total).unwrap());
    assert_eq!(replica.state.sessions().count(), total / 50, "sessions stay when their jobs are history");
    assert_eq!(replica.state.session_counts(&session_id(0)).cancelled, 50);
    let row = replica.state.history_row(&job_id(1)).expect("in the history");
    let past = State::job_of_history(&replica.store[&row]).expect("a job");
    assert_eq!((past.spec, past.state), (pure_job(1), JobState::Cancelled));
    assert_eq!(replica.state.history_rows().count(), 100);
    let named: Vec<JobId> = replica.state.history_jobs().collect();
    assert!(named.len() == 100 && named.iter().all(|id| replica.state.history_row(id).is_some()), "by their own ids");
    assert!(replica.state.job(&job_id(1)).is_none());
    replica.submit(pure_job(1));
    assert!(replica.state.job(&job_id(1)).is_none(), "an old job is not queued again");
    let cancel = Command::Cancel { job: job_id(1), reason: "x".to_owned() };
    assert_eq!(rejected(&replica.run(cancel)), Some(RejectCode::Conflict));
    replica.check_reload();
}

// ---- what people had done ----

fn act(number: u64) -> Command {
    let note = AuditNote { by: "ann".to_owned(), act: format!("POST /x/{number}"), ..AuditNote::default() };
    Command::Audit { note, once: None }
}

#[test]
fn the_newest_acts_are_kept_as_a_chain_that_can_be_checked() {
    let mut replica = Replica::founded(1);
    assert_eq!((replica.state.audit_head(), replica.state.verify_audit()), ((0, [0; 32]), Ok(0)));
    let batches = (AUDIT_KEPT + 300) / 200 + 1;
    for batch in 0..batches {
        let proposals = (0..200).map(|number| replica.proposal(&act(batch * 200 + number))).collect();
        let batch = replica.batch(proposals, 1);
        assert!(replica.apply(&batch).replies.iter().all(|reply| *reply == Reply::Done));
    }
    assert_eq!(replica.state.audit_head().0, batches * 200);
    assert_eq!(replica.state.verify_audit(), Ok(AUDIT_KEPT), "the oldest made room, and the rest still holds");
    let newest: Vec<u64> = replica.state.audit(None, 3).map(|entry| entry.number).collect();
    assert_eq!(newest, [batches * 200, batches * 200 - 1, batches * 200 - 2]);
    let older = replica.state.audit(Some(newest[2]), 1).map(|entry| entry.note.act.clone()).next();
    assert_eq!(older, Some(format!("POST /x/{}", newest[2] - 2)));
    replica.check_reload();

    // Somebody with the database of one node changes what it holds.
    let row = |number: u64| Row { table: table::AUDIT, key: number.to_be_bytes().to_vec() };
    let (victim, other) = (newest[1], newest[2]);
    let mut forged = replica.store.clone();
    let text = forged[&row(victim)].clone();
    let place = text.windows(3).position(|part| part == b"ann").unwrap();
    forged.get_mut(&row(victim)).unwrap()[place..place + 3].copy_from_slice(b"eve");
    let loaded = State::from_rows(forged).unwrap();
    assert_eq!(loaded.verify_audit(), Err(Broken::Changed(victim)));
    let mut shorter = replica.store.clone();
    shorter.remove(&row(other));
    assert_eq!(State::from_rows(shorter).unwrap().verify_audit(), Err(Broken::Missing(other)));
}

#[test]
fn a_note_is_written_down_however_it_is_put() {
    let mut replica = Replica::founded(1);
    let long = "x".repeat(9_000);
    let note =
        AuditNote { by: "a\nb".to_owned(), from: long.clone(), node: String::new(), act: long.clone(), summary: long };
    assert_eq!(replica.run(Command::Audit { note, once: None }), Reply::Done);
    let entry = replica.state.audit(None, 1).next().unwrap().clone();
    assert_eq!((entry.note.by.as_str(), entry.note.summary.len()), ("a b", 1_024));
    assert_eq!(replica.state.verify_audit(), Ok(1));
}

#[test]
fn what_is_asked_again_within_a_day_is_known_and_answered() {
    let mut replica = Replica::founded(1);
    let asked = |key: u64, request: u8| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&key.to_be_bytes());
        let note = AuditNote { by: "ann".to_owned(), ..AuditNote::default() };
        (bytes, Command::Audit { note, once: Some(Once { key: bytes, request: [request; 32] }) })
    };
    let (key, first) = asked(1, 1);
    assert_eq!(replica.run(first.clone()), Reply::Done);
    assert_eq!(replica.state.given_answer(&key), Some(None), "under way");
    assert_eq!(rejected(&replica.run(first.clone())), Some(RejectCode::Stale));
    assert_eq!(rejected(&replica.run(asked(1, 2).1)), Some(RejectCode::Conflict), "another request");
    assert_eq!(replica.state.audit_head().0, 1, "what is not done is not written down");
    let long = GivenAnswer { status: 200, body: vec![0; ANSWER_KEPT_MAX + 1] };
    let answer = GivenAnswer { status: 200, body: b"{}".to_vec() };
    let keep = |answer: &GivenAnswer| Command::KeepAnswer { key, answer: answer.clone() };
    assert_eq!(rejected(&replica.run(keep(&long))), Some(RejectCode::Invalid));
    assert_eq!(replica.run(keep(&answer)), Reply::Done);
    assert_eq!(rejected(&replica.run(keep(&long))), Some(RejectCode::Invalid));
    assert_eq!(rejected(&replica.run(keep(&answer))), Some(RejectCode::Conflict), "it stays as it was given");
    assert_eq!(replica.state.given_answer(&key), Some(Some(&answer)));
    replica.check_reload();
    replica.pass(ONCE_MS - 1);
    assert_eq!(rejected(&replica.run(first.clone())), Some(RejectCode::Stale));
    assert_eq!(replica.run_after(1, first), Reply::Done, "after a day it is a new request");
    assert_eq!(replica.state.given_answer(&key), Some(None));

    for number in 0..ONCE_KEPT as u64 {
        assert_eq!(replica.run(asked(100 + number, 1).1), Reply::Done);
    }
    assert_eq!(replica.state.given_answer(&key), None, "the oldest made room");
    assert_eq!(replica.store.keys().filter(|row| row.table == table::ASKED).count(), ONCE_KEPT);
    replica.check_reload();
}

#[test]
fn all_browsers_are_signed_out_together() {
    let mut replica = Replica::founded(1);
    assert_eq!(replica.state.session_epoch(), 0);
    let end = Command::Access { change: AccessChange::EndSessions, by: "ann".to_owned() };
    assert_eq!((replica.run(end.clone()), replica.run(end)), (Reply::Done, Reply::Done));
    assert_eq!(replica.state.session_epoch(), 2);
    replica.check_reload();
}
