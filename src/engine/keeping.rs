//! Which files of a node are still needed: blobs of jobs, and what broken transfers, damage and set-aside databases leave.
//!
//! A blob is needed while a job that the hive still knows names it, as its source or as a result. Everything else is given time,
//! because bytes arrive before the job that names them is committed. Never done here: removing.

use std::collections::BTreeSet;

use super::id::Sha256Hash;
use super::state::State;

/// A blob that no job names is kept for so long, milliseconds: far longer than from an upload to its job.
pub const BLOB_GRACE_MS: u64 = 24 * 3_600_000;
/// Parts of transfers, damaged blobs and databases that were set aside are kept for so long, milliseconds: a week in which a
/// person may want to look at them.
pub const LEFTOVER_MS: u64 = 7 * 24 * 3_600_000;

/// Blobs that the jobs of the state name: the archives they are built from, and what they produced.
pub fn needed(state: &State) -> BTreeSet<Sha256Hash> {
    let mut needed = BTreeSet::new();
    for job in state.jobs() {
        needed.extend(job.spec.work.archive().map(|(sha256, _)| sha256));
        needed.extend(job.artifacts.iter().map(|artifact| artifact.sha256));
    }
    needed
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
