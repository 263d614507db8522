//! What the hive has learnt of packages: how often they were built, where, and how long it took.
//!
//! Kept by package without its version, because the next version takes about as long as the last. Only what succeeded says
//! how long a build takes. Never done here: planning with it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::State;
use super::rows::RowKey;
use crate::engine::id::{PeerId, UnixMillis};
use crate::engine::job::{Job, Work};

/// Packages remembered; those not built for longest make room.
pub const PACKAGES_MAX: usize = 50_000;
/// Durations remembered per package, the newest.
pub const SAMPLES_MAX: usize = 24;
/// Drones remembered per package.
const TRIED_ON_MAX: usize = 16;
/// Expected of what was never built, milliseconds.
pub const UNKNOWN_DURATION_MS: u64 = 60_000;
/// Samples of one version and kind of drone from which on those alone are used.
const SAMPLES_ENOUGH: usize = 3;

/// One build that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// From its beginning to its accepted result, milliseconds.
    pub duration_ms: u64,
    /// Version, empty when there is none.
    pub version: String,
    /// Kind of drone: architecture and processors, `x86_64/8`.
    pub class: String,
}

/// What is known of a package.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageRecord {
    /// Attempts that were over, those cancelled or superseded left out.
    pub attempts: u64,
    /// Of them, those that succeeded.
    pub successes: u64,
    /// Where it was tried, at most 16 drones.
    pub tried_on: BTreeSet<PeerId>,
    /// When it was tried last.
    pub last_at: UnixMillis,
    /// The newest durations, oldest first.
    pub samples: Vec<Sample>,
    /// Rises with each change of any package: who has the lowest makes room.
    last_use: u64,
}

/// How long a build is expected to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Half of them were done by then, milliseconds.
    pub p50_ms: u64,
    /// Nine of ten were done by then, milliseconds.
    pub p90_ms: u64,
    /// How many builds that rests on; 0: a guess.
    pub samples: usize,
}

/// The table of packages.
#[derive(Clone, Debug, Default)]
pub(super) struct Packages {
    records: BTreeMap<String, PackageRecord>,
    by_use: BTreeMap<u64, String>,
}

/// The value below which `percent` of the sorted numbers lie, by nearest rank.
fn quantile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

impl PackageRecord {
    /// Expected of a version on a kind of drone: from builds of just these when there are enough, else from more.
    pub fn estimate(&self, version: Option<&str>, class: Option<&str>) -> Estimate {
        let of = |fits: &dyn Fn(&Sample) -> bool| -> Vec<u64> {
            let mut durations: Vec<u64> =
                self.samples.iter().filter(|sample| fits(sample)).map(|sample| sample.duration_ms).collect();
            durations.sort_unstable();
            durations
        };
        let same_class = |sample: &Sample| class.is_none_or(|class| sample.class == class);
        let exact = of(&|sample| same_class(sample) && version.is_none_or(|version| sample.version == version));
        let wider = [exact, of(&same_class)].into_iter().find(|durations| durations.len() >= SAMPLES_ENOUGH);
        let durations = wider.unwrap_or_else(|| of(&|_| true));
        match (quantile(&durations, 50), quantile(&durations, 90)) {
            (Some(p50_ms), Some(p90_ms)) => Estimate { p50_ms, p90_ms, samples: durations.len() },
            _ => Estimate::unknown(),
        }
    }
}

impl Estimate {
    /// Of what was never built.
    pub fn unknown() -> Self {
        Self { p50_ms: UNKNOWN_DURATION_MS, p90_ms: 10 * UNKNOWN_DURATION_MS, samples: 0 }
    }
}

impl Packages {
    pub(super) fn get(&self, package: &str) -> Option<&PackageRecord> {
        self.records.get(package)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &PackageRecord)> {
        self.records.iter().map(|(package, record)| (package.as_str(), record))
    }

    /// Half of the builds of a package were done by then, milliseconds.
    pub(super) fn expected_ms(&self, package: &str) -> u64 {
        self.get(package).map_or(UNKNOWN_DURATION_MS, |record| record.estimate(None, None).p50_ms)
    }

    pub(super) fn load(&mut self, package: String, record: PackageRecord) {
        self.by_use.insert(record.last_use, package.clone());
        self.records.insert(package, record);
    }

    pub(super) fn row_keys(&self) -> impl Iterator<Item = RowKey> {
        self.records.keys().cloned().map(RowKey::Package)
    }
}

/// The version that a job builds, empty when its work names none.
pub(super) fn version_of(job: &Job) -> String {
    let package = job.spec.package();
    match &job.spec.work {
        Work::Portage { atom, .. } => {
            let rest = atom.trim_start_matches('=').strip_prefix(package).unwrap_or_default();
            rest.trim_start_matches('-').split(':').next().unwrap_or_default().to_owned()
        }
        Work::Debian { source: crate::engine::job::DebianSource::Archive { version, .. } } => {
            version.clone().unwrap_or_default()
        }
        Work::Debian { .. } | Work::Command { .. } | Work::Maven { .. } | Work::Resolve { .. } => String::new(),
    }
}

impl State {
    /// The kind of drone that durations are kept by.
    pub(super) fn class_of(&self, node: &PeerId) -> String {
        let inventory = self.members.get(node).map(|member| &member.info.inventory);
        let inventory = inventory.or_else(|| self.legacy.get(node).map(|drone| &drone.info.inventory));
        inventory.map_or_else(String::new, |inventory| format!("{}/{}", inventory.arch, inventory.cpu_cores))
    }

    /// An attempt is over: `duration_ms` is known when it succeeded.
    pub(super) fn learn(&mut self, at: UnixMillis, job: &Job, node: &PeerId, duration_ms: Option<u64>) {
        let package = job.spec.package().to_owned();
        let class = self.class_of(node);
        self.meta.last_use += 1;
        let last_use = self.meta.last_use;
        let packages = &mut self.jobs.packages;
        let record = packages.records.entry(package.clone()).or_default();
        packages.by_use.remove(&record.last_use);
        packages.by_use.insert(last_use, package.clone());
        record.last_use = last_use;
        record.attempts += 1;
        record.last_at = at;
        if record.tried_on.len() < TRIED_ON_MAX {
            record.tried_on.insert(node.clone());
        }
        if let Some(duration_ms) = duration_ms {
            record.successes += 1;
            if record.samples.len() >= SAMPLES_MAX {
                record.samples.remove(0);
            }
            record.samples.push(Sample { duration_ms, version: version_of(job), class });
        }
        self.dirty.insert(RowKey::Package(package));
        while self.jobs.packages.records.len() > PACKAGES_MAX {
            let Some((_, oldest)) = self.jobs.packages.by_use.pop_first() else { break };
            self.jobs.packages.records.remove(&oldest);
            self.dirty.insert(RowKey::Package(oldest));
        }
    }

    /// Forgets all of it.
    pub(super) fn forget_packages(&mut self) {
        let packages = std::mem::take(&mut self.jobs.packages.records);
        self.jobs.packages.by_use.clear();
        self.dirty.extend(packages.into_keys().map(RowKey::Package));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(samples: &[(u64, &str, &str)]) -> PackageRecord {
        let sample = |(duration_ms, version, class): &(u64, &str, &str)| Sample {
            duration_ms: *duration_ms,
            version: (*version).to_owned(),
            class: (*class).to_owned(),
        };
        PackageRecord { samples: samples.iter().map(sample).collect(), ..PackageRecord::default() }
    }

    #[test]
    fn estimates_rest_on_what_is_nearest_and_say_on_how_much() {
        let small = [(10, "1", "x/2"), (20, "1", "x/2"), (30, "1", "x/2"), (1_000, "2", "x/2"), (5, "1", "x/64")];
        let known = record(&small);
        assert_eq!(known.estimate(Some("1"), Some("x/2")), Estimate { p50_ms: 20, p90_ms: 30, samples: 3 });
        // One build of that version there: all on that kind of drone count.
        assert_eq!(known.estimate(Some("2"), Some("x/2")), Estimate { p50_ms: 20, p90_ms: 1_000, samples: 4 });
        // Nothing like it: everything counts.
        assert_eq!(known.estimate(Some("9"), Some("arm/4")), Estimate { p50_ms: 20, p90_ms: 1_000, samples: 5 });
        assert_eq!(record(&[]).estimate(None, None), Estimate::unknown());
    }

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let numbers: Vec<u64> = (1..=10).collect();
        for (percent, expected) in [(0, 1), (10, 1), (50, 5), (90, 9), (91, 10), (100, 10)] {
            assert_eq!(quantile(&numbers, percent), Some(expected), "{percent}");
        }
        assert_eq!(quantile(&[], 50), None);
    }
}
