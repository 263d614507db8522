//! A hive that goes on from the backup of another one: who belongs to it, and what becomes of work that was under way.

mod engine_support;

use engine_support::{Replica, building, effectful_job, epoch, job_id, member, peer, pure_job, rejected, succeeded};
use hive::engine::command::{Command, RejectCode, Reply};
use hive::engine::founding::childless;
use hive::engine::id::HiveId;
use hive::engine::job::{AttemptState, JobSpec, JobState};
use hive::engine::member::MemberInfo;

const NEW: HiveId = HiveId([77; 16]);

fn begin(founder: MemberInfo) -> Command {
    Command::BeginHive { hive_id: NEW, epoch: epoch(2), founder }
}

fn restore(replica: &mut Replica) {
    assert_eq!(replica.run(begin(member(9))), Reply::Done);
    replica.check_reload();
}

#[test]
fn members_of_the_old_hive_are_not_members_of_the_new_one() {
    let mut replica = Replica::founded(3);
    assert_eq!(replica.run(Command::BindReplica { peer_id: peer(0), raft_id: Some(7) }), Reply::Done);
    replica.submit(pure_job(1));
    restore(&mut replica);
    let state = &replica.state;
    assert_eq!((state.hive_id(), state.epoch()), (Some(NEW), Some(epoch(2))));
    let present: Vec<_> = state.members().filter(|member| !member.left).map(|member| &member.info.peer_id).collect();
    assert_eq!(present, [&peer(9)]);
    assert_eq!(state.founder().map(|founder| &founder.info.peer_id), Some(&peer(9)));
    assert!(state.raft_id_holder(7).is_none(), "a Raft id of the old hive is bound to nobody");
    assert!(state.member(&peer(0)).is_some(), "what it did is still shown with its name");
    assert!(state.member_by_name("node0").is_none(), "its name is free");
    let wrong = Command::Assign { job: job_id(1), node: peer(1) };
    assert!(rejected(&replica.run(wrong)).is_some());
    // One of them joins the new hive as any other machine does.
    assert_eq!(replica.run(Command::Admit { member: MemberInfo { incarnation: 2, ..member(1) } }), Reply::Done);
    assert!(replica.state.member_by_name("node1").is_some_and(|member| member.raft_id.is_none() && !member.founder));
}

#[test]
fn the_machine_that_made_the_backup_may_be_the_one_that_restores_it() {
    let mut replica = Replica::founded(2);
    // With the same incarnation it would be a copy of itself, or its directory an old one.
    let before = replica.state.rows();
    assert_eq!(rejected(&replica.run(begin(member(0)))), Some(RejectCode::Conflict));
    assert_eq!(replica.state.hive_id(), Some(HiveId([5; 16])));
    let members = |rows: &std::collections::BTreeMap<_, Vec<u8>>| -> Vec<Vec<u8>> {
        rows.iter().filter(|(row, _): &(&hive::engine::state::Row, _)| row.table == 2).map(|(_, v)| v.clone()).collect()
    };
    assert_eq!(members(&replica.state.rows()), members(&before), "what is refused changes nothing");
    assert_eq!(replica.run(begin(MemberInfo { incarnation: 2, ..member(0) })), Reply::Done);
    let founder = replica.state.founder().expect("one");
    assert_eq!((&founder.info.peer_id, founder.display_name.as_str()), (&peer(0), "node0"));
    replica.check_reload();
}

#[test]
fn what_ran_waits_again_and_what_may_not_be_run_twice_waits_for_a_person() {
    let mut replica = Replica::founded(2);
    let idempotent = JobSpec { idempotent: true, ..effectful_job(5) };
    let jobs =
        [pure_job(1), pure_job(2), effectful_job(3), effectful_job(4), idempotent, effectful_job(6), pure_job(7)];
    for spec in jobs {
        replica.submit(spec);
    }
    for (number, begins) in [(1, true), (2, false), (3, true), (4, false), (5, true)] {
        let token = replica.assign(job_id(number), 1);
        if begins {
            assert_eq!(replica.report(job_id(number), token, building()), Reply::Done);
        }
    }
    let token = replica.assign(job_id(7), 0);
    replica.report(job_id(7), token, building());
    assert_eq!(replica.report(job_id(7), token, succeeded()), Reply::Done);
    let live = replica.job(job_id(1)).live_attempt().expect("runs").token;

    restore(&mut replica);
    let state = |number| replica.job(job_id(number)).state;
    assert_eq!([1, 2, 5].map(state), [JobState::Needed; 3], "may be run twice");
    assert_eq!([3, 4, 6].map(state), [JobState::Blocked; 3], "began, was assigned, waited: each may have run since");
    assert_eq!(state(7), JobState::Received, "what was over is over");
    assert_eq!(replica.job(job_id(1)).attempts[0].state, AttemptState::Stale, "nobody is to blame");
    assert!(replica.job(job_id(3)).reason.as_ref().is_some_and(|reason| reason.contains("restored")));
    assert!(replica.job(job_id(6)).reason.as_ref().is_some_and(|reason| reason.contains("unblock")));
    assert!(replica.job(job_id(6)).block_until_ms.is_none(), "no time ends it");
    assert_eq!(replica.state.counts().delegated, 0);
    // A drone of the old hive says something: its token is of another epoch, and its attempt is over.
    assert_eq!(rejected(&replica.report(job_id(1), live, succeeded())), Some(RejectCode::Stale));
    let again = replica.assign(job_id(1), 9);
    assert!(again.counter > live.counter && again.epoch == epoch(2).id);
}

#[test]
fn a_restored_hive_never_dissolves_into_another_one() {
    let mut replica = Replica::founded(1);
    assert!(childless(&replica.state, true));
    restore(&mut replica);
    assert!(!childless(&replica.state, true), "it has a past, whatever is left of it");
    let mut recovered = Replica::founded(1);
    assert_eq!(recovered.run(Command::BeginEpoch { epoch: epoch(2) }), Reply::Done);
    assert!(!childless(&recovered.state, true));
}

#[test]
fn it_follows_the_hive_of_the_backup_and_is_another_one() {
    let mut replica = Replica::founded(1);
    let old = Command::BeginHive { hive_id: NEW, epoch: epoch(1), founder: member(9) };
    assert_eq!(rejected(&replica.run(old)), Some(RejectCode::Conflict), "tokens would not be told apart");
    let same = Command::BeginHive { hive_id: HiveId([5; 16]), epoch: epoch(2), founder: member(9) };
    assert_eq!(rejected(&replica.run(same)), Some(RejectCode::Conflict), "that is what hive recover does");
    let mut empty = Replica::empty();
    assert_eq!(rejected(&empty.run(begin(member(9)))), Some(RejectCode::Conflict), "there is nothing to go on from");
    assert!(empty.state.hive_id().is_none());
}
