//! Whom to call by unicast: the `join` addresses of the configuration, resolved again and again, and the peers of last time.

use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Entries of `join` that are used.
pub(super) const JOIN_MAX: usize = 64;
/// Cached addresses that are used.
pub(super) const CACHED_MAX: usize = 256;
/// Addresses of one name that are used.
const ADDRESSES_PER_NAME: usize = 8;
/// Addresses called at a time; the others have their turn at the next call, 250 ms later.
pub(super) const CALLED_AT_ONCE: usize = 16;
/// A name is resolved again after this, because machines move.
const RESOLVED_FOR_MS: u64 = 60_000;
/// The first and the longest pause after a failure.
const BACKOFF_MS: (u64, u64) = (1_000, 60_000);

/// A name to resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lookup {
    pub(super) host: String,
    pub(super) port: u16,
}

#[derive(Clone, Debug, Default)]
struct Name {
    addresses: Vec<SocketAddr>,
    next_ms: u64,
    backoff_ms: u64,
}

/// The unicast targets.
#[derive(Clone, Debug, Default)]
pub(super) struct Targets {
    fixed: Vec<SocketAddr>,
    names: BTreeMap<(String, u16), Name>,
    cached: Vec<SocketAddr>,
    turn: usize,
}

impl Targets {
    /// Replaces what is called.
    pub(super) fn set(&mut self, join: &[(String, u16)], cached: &[SocketAddr]) {
        self.fixed.clear();
        let mut names = BTreeMap::new();
        for (host, port) in join.iter().take(JOIN_MAX) {
            match host.parse() {
                Ok(ip) => self.fixed.push(SocketAddr::new(ip, *port)),
                Err(_) => {
                    let key = (host.clone(), *port);
                    let known = self.names.remove(&key).unwrap_or_default();
                    names.insert(key, known);
                }
            }
        }
        self.names = names;
        self.cached = cached.iter().take(CACHED_MAX).copied().collect();
    }

    /// Names whose turn it is to be resolved. Each counts as failed until `resolved` says otherwise.
    pub(super) fn lookups(&mut self, now_ms: u64) -> Vec<Lookup> {
        let due = self.names.iter_mut().filter(|(_, name)| name.next_ms <= now_ms);
        due.map(|((host, port), name)| {
            name.backoff_ms = (name.backoff_ms * 2).clamp(BACKOFF_MS.0, BACKOFF_MS.1);
            name.next_ms = now_ms + name.backoff_ms;
            Lookup { host: host.clone(), port: *port }
        })
        .collect()
    }

    /// Takes the result of a lookup.
    pub(super) fn resolved(&mut self, lookup: Lookup, addresses: Vec<SocketAddr>, now_ms: u64) {
        if let Some(name) = self.names.get_mut(&(lookup.host, lookup.port))
            && !addresses.is_empty()
        {
            name.addresses = addresses.into_iter().take(ADDRESSES_PER_NAME).collect();
            name.backoff_ms = 0;
            name.next_ms = now_ms + RESOLVED_FOR_MS;
        }
    }

    /// The next few to call, without those that `skip` knows to be there already.
    pub(super) fn next(&mut self, skip: impl Fn(&SocketAddr) -> bool) -> Vec<SocketAddr> {
        let mut all = self.join();
        all.extend(&self.cached);
        all.retain(|address| !skip(address));
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|address| seen.insert(*address));
        if all.is_empty() {
            return all;
        }
        let start = self.turn % all.len();
        all.rotate_left(start);
        all.truncate(CALLED_AT_ONCE);
        self.turn = start + all.len();
        all
    }

    /// All addresses of those who are configured, as far as their names are resolved.
    pub(super) fn join(&self) -> Vec<SocketAddr> {
        let resolved = self.names.values().flat_map(|name| name.addresses.iter().copied());
        self.fixed.iter().copied().chain(resolved).collect()
    }

    /// Whether somebody is configured by name or address.
    pub(super) fn has_join(&self) -> bool {
        !self.fixed.is_empty() || !self.names.is_empty()
    }

    /// Whether all who are configured are on this machine; not known before all names are resolved.
    pub(super) fn is_loopback_only(&self) -> bool {
        let here = |addresses: &[SocketAddr]| addresses.iter().all(|address| address.ip().is_loopback());
        self.has_join()
            && here(&self.fixed)
            && self.names.values().all(|name| !name.addresses.is_empty() && here(&name.addresses))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn only_who_joins_nobody_else_stays_on_this_machine() {
        let only = |join: &[&str]| {
            let mut targets = Targets::default();
            let join: Vec<(String, u16)> = join.iter().map(|&host| (host.to_owned(), 50_555)).collect();
            targets.set(&join, &[]);
            let before = targets.is_loopback_only();
            for lookup in targets.lookups(0) {
                let ip = if lookup.host == "localhost" { [127, 0, 0, 1] } else { [10, 0, 0, 1] };
                targets.resolved(lookup, vec![SocketAddr::from((ip, 50_555))], 0);
            }
            (before, targets.is_loopback_only())
        };
        assert_eq!(only(&[]), (false, false));
        assert_eq!(only(&["127.0.0.1", "::1"]), (true, true));
        assert_eq!(only(&["127.0.0.1", "10.0.0.1"]), (false, false));
        assert_eq!(only(&["localhost"]), (false, true));
        assert_eq!(only(&["localhost", "build1"]), (false, false));
    }

    #[test]
    fn everybody_has_a_turn() {
        let cached: Vec<SocketAddr> = (1..=100u8).map(|last| SocketAddr::from(([10, 0, 0, last], 1))).collect();
        let mut targets = Targets::default();
        targets.set(&[("10.0.0.1".to_owned(), 1), ("10.1.0.1".to_owned(), 50_555)], &cached);
        let mut called = BTreeSet::new();
        for _ in 0..7 {
            let now = targets.next(|address| address.ip() == cached[5].ip());
            assert!(now.len() <= CALLED_AT_ONCE);
            called.extend(now);
        }
        assert_eq!(called.len(), 100, "100 cached and 1 more, without the one that was skipped");
        assert!(!called.contains(&cached[5]));
        assert!(Targets::default().next(|_| false).is_empty());
    }

    #[test]
    fn names_are_resolved_again_with_growing_pauses() {
        let mut targets = Targets::default();
        targets.set(&[("build1".to_owned(), 50_555)], &[]);
        let mut asked = Vec::new();
        for now_ms in (0..200_000).step_by(500) {
            asked.extend(targets.lookups(now_ms).iter().map(|_| now_ms));
        }
        assert_eq!(asked[..6], [0, 1_000, 3_000, 7_000, 15_000, 31_000]);
        assert!(asked.windows(2).all(|pair| pair[1] - pair[0] <= 60_500), "{asked:?}");
        let lookup = Lookup { host: "build1".to_owned(), port: 50_555 };
        let address = SocketAddr::from(([10, 0, 0, 1], 50_555));
        targets.resolved(lookup.clone(), vec![address], 200_000);
        assert_eq!((targets.next(|_| false), targets.join()), (vec![address], vec![address]));
        assert!(targets.lookups(259_999).is_empty());
        assert_eq!(targets.lookups(260_000), std::slice::from_ref(&lookup));
        targets.resolved(lookup, Vec::new(), 260_100);
        assert_eq!(targets.next(|_| false), [address], "a failure keeps what was known");
        targets.set(&[], &[]);
        assert!(targets.next(|_| false).is_empty());
    }
}
