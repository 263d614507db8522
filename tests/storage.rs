//! Crash images and failing devices: what the storage promised is there after any crash, and nothing is promised behind an error.
//!
//! The real store is used while every call to the kernel is recorded (`tests/crash-disk`). From the record come images of the files as
//! a power cut at any point may leave them; each is opened by the code that production opens it with, and compared with what the
//! production callbacks had said until then. What was found and what is not covered is in `tests/README.md`.

#![cfg(feature = "node")]
#![allow(missing_docs, unreachable_pub, clippy::print_stdout, clippy::unwrap_in_result, reason = "a test program")]

#[path = "sample/member.rs"]
mod sample_member;

mod storage {
    pub(crate) mod files;
    pub(crate) mod harness;
    pub(crate) mod log;
    pub(crate) mod node;
    pub(crate) mod outbox;
    pub(crate) mod state;
}

use crash_disk::Lie;
use storage::files::{Blobs, Incarnation};
use storage::harness::{Subject, break_everything, crash_everywhere};
use storage::log::{Log, Weak};
use storage::node::Node;
use storage::outbox::Outboxes;
use storage::state::States;

/// Crashes a subject everywhere, for some seeds, and fails when anything was lost.
fn holds<S: Subject>(subject: &S, seeds: std::ops::Range<u64>) {
    let mut images = 0;
    for seed in seeds {
        let report = crash_everywhere(subject, seed, Lie::Honest);
        assert!(report.lost.is_empty(), "{}", report.explain());
        assert!(report.differing > 0, "seed {seed}: no crash took anything: {report:?}");
        images += report.images;
    }
    println!("{}: {images} images", S::NAME);
}

/// The same with something weakened: the checker has to find a loss, for every seed.
fn is_found<S: Subject>(subject: &S, seed: u64, lie: Lie) {
    let report = crash_everywhere(subject, seed, lie);
    assert!(
        !report.lost.is_empty(),
        "{}, weakened, seed {seed}: nothing was found in {} images",
        S::NAME,
        report.images
    );
    println!(
        "{}, weakened: {} of {} images lose something: {}",
        S::NAME,
        report.lost.len(),
        report.images,
        report.lost[0]
    );
}

/// Breaks the device at every call. Fails when something was lost or acknowledged behind an error.
fn refuses<S: Subject>(subject: &S, seed: u64) {
    let report = break_everything(subject, seed);
    assert!(report.lost.is_empty(), "{}", report.explain());
    assert!(report.bitten * 2 > report.runs, "too few faults were met: {report:?}");
    println!("{}: {} faults, {} of them met, {} images", S::NAME, report.runs, report.bitten, report.images);
}

#[test]
fn every_acknowledged_entry_and_vote_survives_a_crash_at_any_point() {
    holds(&Log::default(), 1..4);
}

#[test]
fn every_acknowledged_record_of_the_outbox_survives() {
    holds(&Outboxes::default(), 1..3);
}

#[test]
fn what_was_made_durable_of_the_state_survives_and_the_rest_is_whole() {
    holds(&States::default(), 1..3);
}

#[test]
fn incarnations_and_blobs_survive() {
    holds(&Incarnation, 1..3);
    holds(&Blobs, 1..3);
}

#[test]
fn a_log_that_is_not_synced_with_each_commit_is_found() {
    is_found(&Log { weak: Weak::Normal }, 1, Lie::Honest);
    is_found(&Outboxes { normal: true }, 1, Lie::Honest);
}

#[test]
fn an_acknowledgement_before_the_commit_is_found() {
    is_found(&Log { weak: Weak::AnswersEarly }, 1, Lie::Honest);
    is_found(&States { answers_without_barrier: true }, 1, Lie::Honest);
}

#[test]
fn a_device_that_lies_is_found() {
    is_found(&Log::default(), 1, Lie::Files);
    is_found(&Log::default(), 1, Lie::Directories);
    is_found(&Outboxes::default(), 1, Lie::Files);
    is_found(&States::default(), 1, Lie::Files);
    is_found(&Incarnation, 1, Lie::Directories);
    is_found(&Blobs, 1, Lie::Files);
}

#[test]
fn a_broken_or_full_device_ends_the_log_and_nothing_is_acknowledged_behind_it() {
    refuses(&Log::default(), 11);
}

#[test]
fn a_broken_or_full_device_ends_the_outbox() {
    refuses(&Outboxes::default(), 11);
}

#[test]
fn a_broken_or_full_device_ends_the_state() {
    refuses(&States::default(), 11);
}

#[test]
fn a_broken_or_full_device_is_told_by_incarnations_and_blobs() {
    refuses(&Incarnation, 11);
    refuses(&Blobs, 11);
}

#[test]
fn a_node_that_crashes_anywhere_comes_back_with_all_it_had_acknowledged() {
    holds(&Node { guests: 300 }, 1..2);
}

#[test]
fn a_node_with_a_broken_or_full_device_ends_or_goes_on_truthfully() {
    refuses(&Node { guests: 300 }, 11);
}
