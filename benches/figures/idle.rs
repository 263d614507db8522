//! What an agent costs that has nothing to do.

use std::fs;
use std::time::{Duration, Instant};

use crate::Effort;
use crate::harness::{Agent, Lab, s};
use crate::hive_of::{hive_of, watch};
use crate::row::{Judged, Row};

/// Ticks of processor time per second, as `/proc` counts them on Linux.
pub const TICKS_PER_S: f64 = 100.0;

/// Processor time that a process has used, in ticks.
pub fn processor_ticks(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the agent runs");
    // The program's name is in parentheses and may hold spaces.
    let fields: Vec<&str> = text.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}

fn memory_mib(pid: u32, key: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent runs");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("a line of memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("KiB") / 1_024.0
}

fn pass(span: Duration) -> Duration {
    let since = Instant::now();
    watch("time", span * 2, span, || (since.elapsed() >= span).then_some(()));
    since.elapsed()
}

/// Memory and processor of every agent of a hive of twenty without work.
pub fn idle(lab: &mut Lab, effort: Effort) -> Vec<Row> {
    let nodes = effort.pick(20, 3);
    let (_hosts, agents) = hive_of(lab, nodes, &[]);
    pass(s(effort.pick(15, 3)));
    let pids: Vec<u32> = agents.iter().map(Agent::pid).collect();
    let before: Vec<u64> = pids.iter().map(|pid| processor_ticks(*pid)).collect();
    let took = pass(s(effort.pick(30, 5))).as_secs_f64();
    let percent = |(pid, before): (&u32, &u64)| (processor_ticks(*pid) - before) as f64 / TICKS_PER_S / took * 100.0;
    let processor: Vec<f64> = pids.iter().zip(&before).map(percent).collect();
    let resident = pids.iter().map(|pid| memory_mib(*pid, "VmRSS")).collect();
    let anonymous = pids.iter().map(|pid| memory_mib(*pid, "RssAnon")).collect();
    drop(agents);
    vec![
        Row::new(&format!("idle agent of {nodes}: resident memory"), "MiB", resident).goal(Judged::Max, 40.0),
        Row::new("of it not shared with other agents (anonymous)", "MiB", anonymous),
        Row::new(&format!("idle agent of {nodes}: processor"), "% of a core", processor)
            .goal(Judged::Max, 1.5)
            .note("over 30 s; one sample per agent"),
    ]
}
