//! What looking at the wire costs: native dispatch with and without capture, in turns.
//!
//! Each round is a hive of its own; the order within a pair changes from pair to pair, so that a machine that becomes slower meanwhile
//! favours neither. Beside the ratio of the rates stands that of the voters' processor time per job, which other work on the machine
//! does not change.

use std::time::Duration;

use crate::Effort;
use crate::farm::dispatch;
use crate::harness::{Lab, s};
use crate::row::{Judged, Row};

const WITH: [&str; 2] = ["--build-slots", "0"];
const WITHOUT: [&str; 4] = ["--build-slots", "0", "--wire-ring-records", "0"];

/// How much less is dispatched with capture than without, in per cent.
pub fn overhead(lab: &mut Lab, effort: Effort) -> Vec<Row> {
    let (pairs, jobs) = (effort.pick(5, 1), effort.pick(30_000, 1_000));
    let span = Duration::from_millis(effort.pick(1_000, 100));
    let (mut rates, mut times, mut wrong) = (Vec::new(), Vec::new(), None);
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let mut measure = |arguments: &[&str]| {
            let measured = dispatch(lab, arguments, jobs, span, s(effort.pick(120, 60)));
            wrong = wrong.take().or(measured.wrong);
            (measured.rate, measured.of_voters)
        };
        let (with, without) = if pair % 2 == 0 {
            let with = measure(&WITH);
            (with, measure(&WITHOUT))
        } else {
            let without = measure(&WITHOUT);
            (measure(&WITH), without)
        };
        rates.push(100.0 - with.0 / without.0 * 100.0);
        times.push(with.1 / without.1 * 100.0 - 100.0);
        on.push(with.0);
        off.push(without.0);
    }
    vec![
        Row::new("dispatch lost by capture", "%", rates)
            .goal(Judged::P50, 3.0)
            .note(format!("{pairs} pairs of {jobs} jobs, each round a hive of its own"))
            .wrong(wrong),
        Row::new("more processor time of the voters per job", "%", times),
        Row::new("dispatch with capture", "jobs/s", on),
        Row::new("dispatch without", "jobs/s", off),
    ]
}
