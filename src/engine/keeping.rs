//! Which files of a node are still needed: blobs of jobs, and what broken transfers, damage and set-aside databases leave.
//!
//! A blob is needed while a job that the hive still knows refers to it: as its source, as a result of a job that is not over, or as one
//! that the policy keeps or staging waits for. Everything else is given time, because bytes arrive before the job that names them is
//! committed. Never done here: removing.

use std::collections::{BTreeMap, BTreeSet};

use super::id::{Sha256Hash, UnixMillis};
use super::job::{Job, JobState, Work};
use super::state::State;

/// A blob that no job names is kept for so long, milliseconds: far longer than from an upload to its job.
pub const BLOB_GRACE_MS: u64 = 24 * 3_600_000;
/// Parts of transfers, damaged blobs and databases that were set aside are kept for so long, milliseconds: a week in which a
/// person may want to look at them.
pub const LEFTOVER_MS: u64 = 7 * 24 * 3_600_000;

/// How long artifacts of jobs that are over are kept; the zero of each means for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Longest time since their job was over, milliseconds.
    pub age_max_ms: u64,
    /// Most bytes of them on one node. Those that may not go are counted, and the newest others.
    pub total_max_bytes: u64,
}

/// What a node knows beside the state when it decides.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// Now, by the wall clock: the ends of attempts are told by it.
    pub now: UnixMillis,
    /// Everything up to this position in the order of ending is in every staging directory; none: there is no staging.
    pub staged_to: Option<u64>,
    /// Blobs of this node with their lengths.
    pub stored: &'a BTreeMap<Sha256Hash, u64>,
}

/// Which blobs are needed, and what became of artifacts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// Blobs that must stay.
    pub blobs: BTreeSet<Sha256Hash>,
    /// Bytes of artifacts among them that are on this node.
    pub artifact_bytes: u64,
    /// Artifacts on this node that are only kept because staging does not have them yet.
    pub for_staging: u64,
    /// Artifacts on this node that are too old or too many.
    pub expired: u64,
}

/// Blobs that are referred to: sources of all jobs that are known, what jobs that are not over have made, and artifacts of the others
/// as long as the policy keeps them, another job refers to them, or staging has not got them. A blob goes with its last reference.
pub fn needed(state: &State, policy: Policy, around: Circumstances<'_>) -> Needed {
    let mut found = Needed::default();
    // Of jobs that are over: when that was, and whether staging waits for it. The newest reference to a blob counts.
    let mut old: BTreeMap<Sha256Hash, UnixMillis> = BTreeMap::new();
    let mut staging: BTreeSet<Sha256Hash> = BTreeSet::new();
    let mut pinned: BTreeSet<Sha256Hash> = BTreeSet::new();
    for job in state.jobs_and_drafts() {
        found.blobs.extend(job.spec.work.archive().map(|(sha256, _)| sha256));
        // One that joined another has no attempt of its own.
        let ended = job.attempts.last().and_then(|attempt| attempt.ended_at).unwrap_or(job.submitted_at);
        for artifact in &job.artifacts {
            if !job.state.is_terminal() {
                pinned.insert(artifact.sha256);
            } else if awaits_staging(job, around.staged_to) {
                staging.insert(artifact.sha256);
            } else {
                let newest = old.entry(artifact.sha256).or_insert(ended);
                *newest = (*newest).max(ended);
            }
        }
    }
    let size = |hash: &Sha256Hash| around.stored.get(hash).copied();
    let unstaged = staging.iter().filter(|hash| size(hash).is_some() && !pinned.contains(*hash));
    found.for_staging = unstaged.count() as u64;
    pinned.extend(staging);
    found.artifact_bytes = pinned.iter().filter_map(size).sum();
    found.blobs.extend(pinned.iter().copied());
    let mut newest_first: Vec<(UnixMillis, Sha256Hash)> =
        old.into_iter().filter(|(hash, _)| !pinned.contains(hash)).map(|(hash, ended)| (ended, hash)).collect();
    newest_first.sort_unstable_by(|left, right| right.cmp(left));
    let mut full = false;
    for (ended, hash) in newest_first {
        let age_ms = around.now.0.saturating_sub(ended.0);
        let bytes = found.artifact_bytes.saturating_add(size(&hash).unwrap_or(0));
        let too_old = policy.age_max_ms != 0 && age_ms > policy.age_max_ms;
        // What is older goes first, however small it is.
        full |= policy.total_max_bytes != 0 && bytes > policy.total_max_bytes;
        if too_old || full {
            found.expired += u64::from(size(&hash).is_some());
        } else {
            found.artifact_bytes = bytes;
            found.blobs.insert(hash);
        }
    }
    found
}

/// Its result belongs into staging, and a node that has staging does not have it yet.
fn awaits_staging(job: &Job, staged_to: Option<u64>) -> bool {
    let belongs = match &job.spec.work {
        Work::Portage { .. } | Work::Debian { .. } | Work::Maven { .. } => true,
        Work::Command { .. } | Work::Resolve { .. } => false,
    };
    belongs && job.state == JobState::Received && staged_to.is_some_and(|position| job.finish_ordinal > position)
}

/// What one look at the blobs says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Review {
    /// To be removed now.
    pub remove: Vec<Sha256Hash>,
    /// No longer needed; removed when the next look finds the same.
    pub suspects: BTreeSet<Sha256Hash>,
}

/// Looks at the blobs of a node with their ages in milliseconds. One goes when it is old and was a suspect before: ages are taken
/// from the wall clock, which may jump, and a single wrong look must not cost anything.
pub fn review(
    stored: impl IntoIterator<Item = (Sha256Hash, u64)>,
    needed: &BTreeSet<Sha256Hash>,
    suspects: &BTreeSet<Sha256Hash>,
) -> Review {
    let unneeded = stored.into_iter().filter(|(hash, age_ms)| *age_ms > BLOB_GRACE_MS && !needed.contains(hash));
    let mut review = Review::default();
    for (hash, _) in unneeded {
        if suspects.contains(&hash) {
            review.remove.push(hash);
        } else {
            review.suspects.insert(hash);
        }
    }
    review
}

/// Whether something that was left over may go.
pub fn is_stale(age_ms: u64) -> bool {
    age_ms > LEFTOVER_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u8) -> Sha256Hash {
        Sha256Hash([number; 32])
    }

    #[test]
    fn only_what_is_old_and_named_by_no_job_goes_and_only_at_the_second_look() {
        let old = BLOB_GRACE_MS + 1;
        let stored = [(hash(1), old), (hash(2), old), (hash(3), BLOB_GRACE_MS)];
        let needed = BTreeSet::from([hash(1)]);
        let first = review(stored, &needed, &BTreeSet::new());
        assert_eq!(first, Review { remove: Vec::new(), suspects: BTreeSet::from([hash(2)]) });
        let second = review(stored, &needed, &first.suspects);
        assert_eq!(second, Review { remove: vec![hash(2)], suspects: BTreeSet::new() });
        let named_meanwhile = BTreeSet::from([hash(1), hash(2)]);
        assert_eq!(review(stored, &named_meanwhile, &first.suspects), Review::default());
        let touched_meanwhile = [(hash(1), old), (hash(2), 5)];
        assert_eq!(review(touched_meanwhile, &needed, &first.suspects), Review::default());
    }

    #[test]
    fn leftovers_stay_for_a_week() {
        assert!(!is_stale(LEFTOVER_MS) && is_stale(LEFTOVER_MS + 1));
    }
}
