//! The only place that reads a clock.
//!
//! [`now_ms`] is monotonic and decides; [`unix_now`] is the wall clock and is only ever shown. The wall clock may jump by an hour
//! without any effect on elections, leases or time-outs.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::engine::id::UnixMillis;

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Milliseconds of the monotonic clock since this process first asked, starting at 1 so that 0 can mean "never".
pub fn now_ms() -> u64 {
    let elapsed = elapsed();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

#[expect(clippy::disallowed_methods, reason = "this is the place")]
fn elapsed() -> Duration {
    ORIGIN.get_or_init(Instant::now).elapsed()
}

/// Wall-clock time, for people.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn unix_now() -> UnixMillis {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// Microseconds of the same clock as [`now_ms`]: for how long something took.
pub fn now_us() -> u64 {
    u64::try_from(elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Wall-clock time in microseconds since 1970, for people.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn unix_us() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}
