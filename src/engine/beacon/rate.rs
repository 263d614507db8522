//! How much anybody gets: token buckets per sender and per suspicious address.
//!
//! A MAC costs microseconds, so datagrams are verified first and then counted against the sender it proves. Only an address
//! from which wrong ones came lately is held back before, because there the microseconds are wasted.

use std::collections::BTreeMap;

/// Verified datagrams per second from one PeerId.
pub const PER_PEER_PER_S: u64 = 200;
/// Datagrams per second from an address with recent failures.
pub const SUSPICIOUS_PER_S: u64 = 20;
/// How long an address stays suspicious after its last failure.
pub const SUSPICIOUS_FOR_MS: u64 = 10_000;
/// How long an address is not held back after its last verified datagram: two calls of a quiet member.
pub const TRUSTED_FOR_MS: u64 = 60_000;
/// Failures that an address may have before it is held back: one retyped secret is not an attack.
const FAILURES_FREE: u32 = 8;
/// Keys of one kind that are remembered; the one unused longest goes.
const KEYS_MAX: usize = 1_024;

/// A token bucket that holds one second's worth.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    per_s: u64,
    /// Thousandths of a token.
    level: u64,
    last_ms: u64,
}

impl Bucket {
    /// A full bucket.
    pub fn full(per_s: u64, now_ms: u64) -> Self {
        Self { per_s, level: per_s * 1_000, last_ms: now_ms }
    }

    /// Takes one token, or says that there is none.
    pub fn take(&mut self, now_ms: u64) -> bool {
        let gained = now_ms.saturating_sub(self.last_ms).saturating_mul(self.per_s);
        self.level = self.level.saturating_add(gained).min(self.per_s * 1_000);
        self.last_ms = self.last_ms.max(now_ms);
        if self.level < 1_000 {
            return false;
        }
        self.level -= 1_000;
        true
    }
}

/// A bounded table that forgets whoever was unused longest.
#[derive(Clone, Debug)]
struct Table<K, V> {
    entries: BTreeMap<K, (V, u64)>,
    by_use: BTreeMap<u64, K>,
    uses: u64,
}

impl<K: Ord + Clone, V> Table<K, V> {
    fn new() -> Self {
        Self { entries: BTreeMap::new(), by_use: BTreeMap::new(), uses: 0 }
    }

    fn get_or_insert(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V {
        self.uses += 1;
        if let Some((_, used)) = self.entries.get(key) {
            self.by_use.remove(used);
        } else if self.entries.len() >= KEYS_MAX
            && let Some((_, unused)) = self.by_use.pop_first()
        {
            self.entries.remove(&unused);
        }
        self.by_use.insert(self.uses, key.clone());
        let entry = self.entries.entry(key.clone()).or_insert_with(|| (make(), 0));
        entry.1 = self.uses;
        &mut entry.0
    }
}

/// One bucket per key, all of the same size.
#[derive(Clone, Debug)]
pub struct Buckets<K> {
    per_s: u64,
    table: Table<K, Bucket>,
}

impl<K: Ord + Clone> Buckets<K> {
    /// Buckets of `per_s` each.
    pub fn new(per_s: u64) -> Self {
        Self { per_s, table: Table::new() }
    }

    /// Takes one token of `key`, or says that there is none.
    pub fn take(&mut self, key: &K, now_ms: u64) -> bool {
        let per_s = self.per_s;
        self.table.get_or_insert(key, || Bucket::full(per_s, now_ms)).take(now_ms)
    }

    /// Number of remembered keys.
    pub fn len(&self) -> usize {
        self.table.entries.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.table.entries.is_empty()
    }
}

#[derive(Clone, Copy, Debug)]
struct Suspect {
    failures: u32,
    last_failure_ms: u64,
    bucket: Bucket,
}

/// Addresses from which wrong datagrams came lately, and those that proved that somebody there knows the secret.
#[derive(Clone, Debug)]
pub struct Suspects<K> {
    table: Table<K, Suspect>,
    trusted: Table<K, u64>,
}

impl<K: Ord + Clone> Default for Suspects<K> {
    fn default() -> Self {
        Self { table: Table::new(), trusted: Table::new() }
    }
}

impl<K: Ord + Clone> Suspects<K> {
    /// Notes a wrong datagram.
    pub fn failed(&mut self, key: &K, now_ms: u64) {
        let suspect = self.table.get_or_insert(key, || Suspect {
            failures: 0,
            last_failure_ms: now_ms,
            bucket: Bucket::full(SUSPICIOUS_PER_S, now_ms),
        });
        if now_ms.saturating_sub(suspect.last_failure_ms) > SUSPICIOUS_FOR_MS {
            suspect.failures = 0;
        }
        suspect.failures = suspect.failures.saturating_add(1);
        suspect.last_failure_ms = now_ms;
    }

    /// Notes a datagram that was verified and new. For a while the address is not held back: otherwise whoever forges the
    /// address of a member could silence it.
    pub fn verified(&mut self, key: &K, now_ms: u64) {
        *self.trusted.get_or_insert(key, || now_ms) = now_ms;
    }

    /// Whether a datagram of this address is worth verifying now.
    pub fn admits(&mut self, key: &K, now_ms: u64) -> bool {
        let trusted = self.trusted.entries.get(key);
        if trusted.is_some_and(|(verified_ms, _)| now_ms.saturating_sub(*verified_ms) <= TRUSTED_FOR_MS) {
            return true;
        }
        // Looking up must not create an entry: honest addresses never fill the table.
        match self.table.entries.get_mut(key) {
            Some((suspect, _))
                if suspect.failures > FAILURES_FREE
                    && now_ms.saturating_sub(suspect.last_failure_ms) <= SUSPICIOUS_FOR_MS =>
            {
                suspect.bucket.take(now_ms)
            }
            _ => true,
        }
    }

    /// Number of remembered addresses.
    pub fn len(&self) -> usize {
        self.table.entries.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.table.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bucket_gives_its_rate_and_no_more() {
        let mut bucket = Bucket::full(200, 0);
        let taken = (0..10_000u64).filter(|step| bucket.take(step / 10)).count();
        assert!((398..=400).contains(&taken), "one second's worth at once, then 200 in the second: {taken}");
        assert!(!Bucket::full(0, 0).take(1_000_000));
    }

    #[test]
    fn a_clock_that_stands_still_gives_nothing() {
        let mut bucket = Bucket::full(2, 1_000);
        assert!(bucket.take(1_000) && bucket.take(1_000) && !bucket.take(1_000) && !bucket.take(10));
        assert!(bucket.take(1_500) && !bucket.take(1_500));
    }

    #[test]
    fn an_address_is_held_back_after_failures_and_let_go_later() {
        let mut suspects = Suspects::default();
        assert!((0..1_000).all(|_| suspects.admits(&1, 0)), "never failed, never counted");
        assert_eq!(suspects.len(), 0);
        for _ in 0..9 {
            suspects.failed(&1, 0);
        }
        assert_eq!((0..1_000).filter(|_| suspects.admits(&1, 0)).count() as u64, SUSPICIOUS_PER_S);
        assert!(suspects.admits(&2, 0), "another address is not held back");
        assert!((0..1_000).all(|_| suspects.admits(&1, SUSPICIOUS_FOR_MS + 1)));
        suspects.verified(&1, 0);
        assert!((0..1_000).all(|_| suspects.admits(&1, 1)), "whoever forges its address does not silence a member");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn memory_is_bounded(keys in proptest::collection::vec(any::<u16>(), 0..4_000)) {
            let (mut buckets, mut suspects) = (Buckets::new(1), Suspects::default());
            for key in keys {
                buckets.take(&key, 0);
                suspects.failed(&key, 0);
                prop_assert!(buckets.len() <= KEYS_MAX && suspects.len() <= KEYS_MAX);
                prop_assert_eq!(buckets.table.by_use.len(), buckets.len());
            }
        }
    }
}
