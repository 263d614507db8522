//! How busy this machine is: its processors' time and its memory, as the kernel counts them.
//!
//! Never done here: deciding by it; it is shown.

use std::fs;
use std::sync::{Mutex, PoisonError};

use crate::clock::now_ms;

/// Between two looks at the processors: less says nothing.
const APART_MS: u64 = 1_000;

/// Processor time since the machine started, in ticks: used, and all of it.
type Ticks = (u64, u64);

static LAST: Mutex<Option<(u64, Ticks, Option<u32>)>> = Mutex::new(None);

/// Share of the processors' time that was used between the last two looks, percent; none before the second look, or where it cannot
/// be told.
pub(super) fn cpu_percent() -> Option<u32> {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let at_ms = now_ms();
    if let Some((before_ms, _, share)) = *last
        && at_ms.saturating_sub(before_ms) < APART_MS
    {
        return share;
    }
    let ticks = ticks_of(&fs::read_to_string("/proc/stat").ok()?)?;
    let share = last.and_then(|(_, before, _)| share_of(before, ticks));
    *last = Some((at_ms, ticks, share));
    share
}

/// Share of the memory that is in use, percent.
pub(super) fn ram_percent() -> Option<u32> {
    ram_of(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn ticks_of(stat: &str) -> Option<Ticks> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = numbers.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in the first two.
    let all: u64 = ticks.iter().take(8).sum();
    let idle: u64 = ticks.get(3)? + ticks.get(4).copied().unwrap_or(0);
    Some((all.saturating_sub(idle), all))
}

fn share_of(before: Ticks, now: Ticks) -> Option<u32> {
    let all = now.1.checked_sub(before.1).filter(|all| *all > 0)?;
    let used = now.0.saturating_sub(before.0).min(all);
    u32::try_from(used.saturating_mul(100) / all).ok()
}

fn ram_of(meminfo: &str) -> Option<u32> {
    let find = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let (all, free) = (find("MemTotal")?, find("MemAvailable")?);
    let used = all.saturating_sub(free);
    u32::try_from(used.saturating_mul(100).checked_div(all)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_the_time_between_two_looks() {
        let before = ticks_of("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 1 1 1\n").expect("parses");
        let now = ticks_of("cpu  150 0 150 780 120 0 0 0 0 0\n").expect("parses");
        assert_eq!((before, now), ((200, 1_000), (300, 1_200)));
        assert_eq!(share_of(before, now), Some(50));
        assert_eq!(share_of(now, now), None);
        assert_eq!(ram_of("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   250 kB\n"), Some(75));
        assert_eq!((ticks_of("intr 1"), ram_of("MemTotal: 0 kB\nMemAvailable: 0 kB")), (None, None));
        assert!(ram_percent().is_some_and(|share| share <= 100));
    }
}
