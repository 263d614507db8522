//! What was measured: samples, their spread, and the goal they are held against.

use std::fmt;
use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Which number of a row the goal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Judged {
    P50,
    P95,
    P99,
    Max,
    Min,
}

/// What is promised.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Goal {
    pub judged: Judged,
    pub limit: f64,
}

/// One figure. Samples are sorted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub name: String,
    pub unit: String,
    pub goal: Option<Goal>,
    pub samples: Vec<f64>,
    /// What a reader has to know beside the numbers.
    pub note: String,
    /// Something beside the number was not as promised, such as two hives where one was due.
    pub wrong: Option<String>,
}

impl Row {
    pub fn new(name: &str, unit: &str, samples: Vec<f64>) -> Self {
        let mut samples = samples;
        samples.sort_by(f64::total_cmp);
        Self { name: name.into(), unit: unit.into(), goal: None, samples, note: String::new(), wrong: None }
    }

    /// In milliseconds.
    pub fn times(name: &str, samples: &[Duration]) -> Self {
        Self::new(name, "ms", samples.iter().map(|sample| sample.as_secs_f64() * 1_000.0).collect())
    }

    /// Promised: this number is at most the limit ([`Judged::Min`]: at least).
    pub fn goal(mut self, judged: Judged, limit: f64) -> Self {
        self.goal = Some(Goal { judged, limit });
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    pub fn wrong(mut self, wrong: Option<String>) -> Self {
        self.wrong = wrong;
        self
    }

    /// The smallest sample that so many per cent of all do not exceed.
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.samples.len() * percent).div_ceil(100).max(1);
        self.samples.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    fn judged(&self, judged: Judged) -> f64 {
        match judged {
            Judged::P50 => self.percentile(50),
            Judged::P95 => self.percentile(95),
            Judged::P99 => self.percentile(99),
            Judged::Max => self.percentile(100),
            Judged::Min => self.samples.first().copied().unwrap_or(f64::NAN),
        }
    }

    /// Whether the goal was missed by more than this factor. No samples are a miss.
    pub fn missed_by(&self, factor: f64) -> bool {
        let Some(goal) = self.goal else { return self.wrong.is_some() };
        let value = self.judged(goal.judged);
        let reached =
            if goal.judged == Judged::Min { value >= goal.limit / factor } else { value <= goal.limit * factor };
        !reached || self.wrong.is_some()
    }

    /// Whether something is wrong that no busy machine explains: the middle of the samples misses the goal by more than this factor.
    pub fn regressed(&self, factor: f64) -> bool {
        let judged = self.goal.map(|goal| if goal.judged == Judged::Min { Judged::Min } else { Judged::P50 });
        let goal = self.goal.zip(judged).map(|(goal, judged)| Goal { judged, limit: goal.limit });
        Self { goal, ..self.clone() }.missed_by(factor)
    }

    fn goal_text(&self) -> String {
        let Some(goal) = self.goal else { return "-".into() };
        let limit = number(goal.limit);
        match goal.judged {
            Judged::Min => format!("≥ {limit}"),
            Judged::P50 => format!("p50 ≤ {limit}"),
            Judged::P95 => format!("p95 ≤ {limit}"),
            Judged::P99 => format!("p99 ≤ {limit}"),
            Judged::Max => format!("max ≤ {limit}"),
        }
    }

    fn verdict(&self) -> String {
        let missed = if self.goal.is_some() && self.missed_by(1.0) { "MISSED" } else { "" };
        let wrong = self.wrong.as_deref().unwrap_or_default();
        [missed, wrong, &self.note].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ")
    }

    fn numbers(&self) -> [String; 5] {
        [self.judged(Judged::Min), self.percentile(50), self.percentile(95), self.percentile(99), self.percentile(100)]
            .map(number)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [min, p50, p95, p99, max] = self.numbers();
        let goal = self.goal_text();
        write!(
            f,
            "  {} [{}]: goal {goal}, n {}, min {min}, p50 {p50}, p95 {p95}, p99 {p99}, max {max} {}",
            self.name,
            self.unit,
            self.samples.len(),
            self.verdict()
        )
    }
}

/// Three significant digits are more than these measurements repeat.
fn number(value: f64) -> String {
    if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// All rows as Markdown.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| figure | unit | goal | n | min | p50 | p95 | p99 | max | |\n|---|---|---|---:|---:|---:|---:|---:|---:|---|\n",
    );
    for row in rows {
        let numbers = row.numbers().join(" | ");
        let (goal, count) = (row.goal_text(), row.samples.len());
        text.push_str(&format!("| {} | {} | {goal} | {count} | {numbers} | {} |\n", row.name, row.unit, row.verdict()));
    }
    text
}

fn line_of(path: &str, key: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    value.unwrap_or("?").trim_start_matches([' ', '\t', ':']).trim().to_owned()
}

/// Load averages.
pub fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// What it was measured on.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let build = if cfg!(debug_assertions) { "unoptimised" } else { "optimised" };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{cores} cores ({}), memory {}, Linux {}, load average {}, {build} program",
        line_of("/proc/cpuinfo", "model name"),
        line_of("/proc/meminfo", "MemTotal"),
        kernel.trim(),
        load(),
    )
}
