//! When the next HELLO is due.
//!
//! Whoever seeks calls often, because somebody waits for it; members call rarely, because an answer to the next seeker is
//! enough to be found. A new interface or address starts over, since nobody there has heard this node yet.

use rand::{Rng, RngExt as _};

use super::BeaconState;

/// Pause between the calls of a seeking or founding node.
pub const SEEK_INTERVAL_MS: u64 = 250;
/// When a member calls after it became one, or after its interfaces changed.
pub const MEMBER_START_MS: [u64; 3] = [0, 300, 1_000];
/// The first pause of a member after those.
pub const MEMBER_INTERVAL_MIN_MS: u64 = 5_000;
/// The longest pause of a member: a hive that cannot hear its seekers is found within this time.
pub const MEMBER_INTERVAL_MAX_MS: u64 = 30_000;

/// Decides when to call.
#[derive(Clone, Debug)]
pub struct Schedule {
    state: BeaconState,
    origin_ms: u64,
    sent: usize,
    interval_ms: u64,
    next_ms: u64,
}

impl Schedule {
    /// The first call is due at once.
    pub fn new(state: BeaconState, now_ms: u64) -> Self {
        Self { state, origin_ms: now_ms, sent: 0, interval_ms: MEMBER_INTERVAL_MIN_MS, next_ms: now_ms }
    }

    /// Takes over a new state; the same one again changes nothing.
    pub fn set_state(&mut self, state: BeaconState, now_ms: u64) {
        if state != self.state {
            *self = Self::new(state, now_ms);
        }
    }

    /// Starts over: there is somebody who has not heard this node yet.
    pub fn restart(&mut self, now_ms: u64) {
        *self = Self::new(self.state, now_ms);
    }

    /// When [`Self::due`] will next say yes.
    pub fn next_ms(&self) -> u64 {
        self.next_ms
    }

    /// Whether to call now. A yes plans the next call, so ask once per call.
    pub fn due(&mut self, now_ms: u64, rng: &mut impl Rng) -> bool {
        if now_ms < self.next_ms {
            return false;
        }
        self.sent += 1;
        self.next_ms = match self.state {
            // From now on, not from when it was due: a node that slept does not catch up with a burst.
            BeaconState::Seeking | BeaconState::Founding => now_ms + SEEK_INTERVAL_MS,
            BeaconState::Member => match MEMBER_START_MS.get(self.sent) {
                Some(offset_ms) => (self.origin_ms + offset_ms).max(now_ms + 1),
                None => self.ramp(now_ms, rng),
            },
        };
        true
    }

    /// Grows the pause by half each time. A tenth of jitter keeps machines that booted together from calling together for ever.
    fn ramp(&mut self, now_ms: u64, rng: &mut impl Rng) -> u64 {
        let base_ms = self.interval_ms;
        self.interval_ms = (base_ms + base_ms / 2).min(MEMBER_INTERVAL_MAX_MS);
        now_ms + base_ms - rng.random_range(0..=base_ms / 10)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;

    fn calls(schedule: &mut Schedule, until_ms: u64) -> Vec<u64> {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut times = Vec::new();
        while schedule.next_ms() <= until_ms {
            let now_ms = schedule.next_ms();
            assert!(schedule.due(now_ms, &mut rng));
            assert!(!schedule.due(now_ms, &mut rng), "one call per due time");
            times.push(now_ms);
        }
        times
    }

    #[test]
    fn seekers_call_four_times_a_second() {
        let mut schedule = Schedule::new(BeaconState::Seeking, 10);
        assert_eq!(calls(&mut schedule, 1_010), [10, 260, 510, 760, 1_010]);
        schedule.set_state(BeaconState::Seeking, 1_100);
        assert_eq!(schedule.next_ms(), 1_260, "the same state changes nothing");
        schedule.set_state(BeaconState::Founding, 1_100);
        assert_eq!(schedule.next_ms(), 1_100, "a new state calls at once");
    }

    #[test]
    fn members_call_three_times_then_ramp_to_thirty_seconds() {
        let mut schedule = Schedule::new(BeaconState::Member, 1_000);
        let times = calls(&mut schedule, 300_000);
        assert_eq!(times[..3], [1_000, 1_300, 2_000]);
        let pauses: Vec<u64> = times.windows(2).skip(2).map(|pair| pair[1] - pair[0]).collect();
        assert!((4_500..=5_000).contains(&pauses[0]), "{pauses:?}");
        assert!(pauses.iter().all(|pause| (4_500..=30_000).contains(pause)), "{pauses:?}");
        assert!(pauses.iter().skip(6).all(|pause| (27_000..=30_000).contains(pause)), "{pauses:?}");
    }

    #[test]
    fn a_new_interface_starts_over() {
        let mut schedule = Schedule::new(BeaconState::Member, 0);
        calls(&mut schedule, 100_000);
        schedule.restart(100_001);
        assert_eq!(calls(&mut schedule, 101_001), [100_001, 100_301, 101_001]);
    }

    #[test]
    fn a_node_that_slept_does_not_catch_up() {
        let mut rng = SmallRng::seed_from_u64(2);
        for state in [BeaconState::Seeking, BeaconState::Member] {
            let mut schedule = Schedule::new(state, 0);
            for _ in 0..4 {
                schedule.due(schedule.next_ms(), &mut rng);
            }
            assert!(schedule.due(3_600_000, &mut rng));
            assert!(!schedule.due(3_600_000, &mut rng));
        }
    }
}
