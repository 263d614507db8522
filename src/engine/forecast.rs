//! When jobs that belong together will be done, as a range.
//!
//! ```text
//!   estimates of what is left ──► work over the slots that can take it ─┐
//!   dependencies              ──► longest chain ────────────────────────┴─► the later of the two
//! ```
//!
//! Both bounds are lower ones: no plan is faster. Durations of known packages vary each on its own, so their spreads add up as
//! squares do; guesses are wrong all the same way, so theirs add up as they are. Never done here: reading the state, or planning.

use std::collections::{BTreeMap, BTreeSet};

use super::id::JobId;
use super::state::Estimate;

/// A job that is not over.
#[derive(Clone, Debug)]
pub struct Task {
    /// The job.
    pub id: JobId,
    /// What it waits for; jobs that are not among the tasks are taken to be over.
    pub depends_on: Vec<JobId>,
    /// How long it takes.
    pub estimate: Estimate,
    /// So long it has been running, milliseconds; none: it has not begun.
    pub elapsed_ms: Option<u64>,
    /// Position of its drones in the list of pools.
    pub pool: usize,
    /// Somebody has to do something before it can run.
    pub stuck: bool,
}

/// What is expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// As likely sooner as later, milliseconds from now.
    pub p50_ms: u64,
    /// Nine times out of ten sooner, milliseconds from now.
    pub p90_ms: u64,
    /// Builds that this rests on.
    pub samples: u64,
    /// Jobs that it counts.
    pub jobs: u64,
    /// Of those, jobs that are guessed.
    pub guessed: u64,
    /// Jobs that it leaves out: they are stuck, wait for one that is, or no drone can take them.
    pub left_out: u64,
}

/// A sum of durations.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    p50_ms: u64,
    /// Of spreads that vary each on its own.
    squares: u128,
    /// Of spreads that are wrong together.
    guessed_ms: u64,
}

impl Sum {
    fn add(mut self, estimate: &Estimate, elapsed_ms: Option<u64>) -> Self {
        let (p50_ms, p90_ms) = remaining(estimate, elapsed_ms);
        let spread_ms = p90_ms.saturating_sub(p50_ms);
        self.p50_ms = self.p50_ms.saturating_add(p50_ms);
        if estimate.samples == 0 {
            self.guessed_ms = self.guessed_ms.saturating_add(spread_ms);
        } else {
            self.squares = self.squares.saturating_add(u128::from(spread_ms) * u128::from(spread_ms));
        }
        self
    }

    fn p90_ms(&self) -> u64 {
        let own = u64::try_from(self.squares.isqrt()).unwrap_or(u64::MAX);
        self.p50_ms.saturating_add(own).saturating_add(self.guessed_ms)
    }
}

/// What is left of a build that has been running for so long: as likely less as more, and nine times out of ten less.
pub fn remaining(estimate: &Estimate, elapsed_ms: Option<u64>) -> (u64, u64) {
    let elapsed_ms = elapsed_ms.unwrap_or(0);
    let p90_ms = estimate.p90_ms.saturating_sub(elapsed_ms);
    let p50_ms = if elapsed_ms < estimate.p50_ms {
        estimate.p50_ms - elapsed_ms
    } else if p90_ms > 0 {
        p90_ms / 2
    } else {
        // Longer than nine of ten took: nothing says how long it will be, but it is not over.
        estimate.p90_ms / 10
    };
    (p50_ms, p90_ms.max(p50_ms))
}

/// How far a build is, 0 to 99; none when nothing like it was ever built.
pub fn percent(estimate: &Estimate, elapsed_ms: u64) -> Option<u8> {
    if estimate.samples == 0 || estimate.p50_ms == 0 {
        return None;
    }
    let (left_ms, _) = remaining(estimate, Some(elapsed_ms));
    let all_ms = elapsed_ms.saturating_add(left_ms).max(1);
    let percent = u128::from(elapsed_ms) * 100 / u128::from(all_ms);
    Some(u8::try_from(percent).unwrap_or(99).min(99))
}

/// When all tasks will be done. `pools`: slots by kind of task; of `slots` in all. `rivals`: how many jobs each other session has
/// that competes for them: sessions take turns, so each of them delays this one by as many jobs as it has itself, at most.
/// None when there is nothing to count.
pub fn forecast(tasks: &[Task], pools: &[u32], slots: u32, rivals: &[u64]) -> Option<Forecast> {
    let index: BTreeMap<JobId, usize> = tasks.iter().enumerate().map(|(at, task)| (task.id, at)).collect();
    let slots_of = |task: &Task| pools.get(task.pool).copied().unwrap_or(0);
    let mut found = Forecast::default();
    let mut left_out = BTreeSet::new();
    let mut work: BTreeMap<usize, Sum> = BTreeMap::new();
    let mut all = Sum::default();
    // The longest chain that ends with each task.
    let mut chains: Vec<Sum> = vec![Sum::default(); tasks.len()];
    let (mut chain_p50_ms, mut chain_p90_ms) = (0, 0);
    let order = in_order(tasks, &index);
    // What waits for itself is never reached.
    found.left_out = (tasks.len() - order.len()) as u64;
    for at in order {
        let Some(task) = tasks.get(at) else { continue };
        let before: Vec<usize> = task.depends_on.iter().filter_map(|id| index.get(id).copied()).collect();
        // Running already, so there is a drone for it.
        let nowhere = slots_of(task) == 0 && task.elapsed_ms.is_none();
        if task.stuck || nowhere || before.iter().any(|before| left_out.contains(before)) {
            left_out.insert(at);
            found.left_out += 1;
            continue;
        }
        let longest = before.iter().filter_map(|before| chains.get(*before)).max_by_key(|chain| chain.p90_ms());
        let chain = longest.copied().unwrap_or_default().add(&task.estimate, task.elapsed_ms);
        chain_p50_ms = chain_p50_ms.max(chain.p50_ms);
        chain_p90_ms = chain_p90_ms.max(chain.p90_ms());
        if let Some(known) = chains.get_mut(at) {
            *known = chain;
        }
        let pool = work.entry(task.pool).or_default();
        *pool = pool.add(&task.estimate, task.elapsed_ms);
        all = all.add(&task.estimate, task.elapsed_ms);
        found.jobs += 1;
        found.guessed += u64::from(task.estimate.samples == 0);
        found.samples += task.estimate.samples as u64;
    }
    if found.jobs == 0 {
        return None;
    }
    let turns: u128 = rivals.iter().map(|jobs| u128::from((*jobs).min(found.jobs))).sum();
    let share = |ms: u64, slots: u32| -> u64 {
        let crowded = u128::from(ms) * (u128::from(found.jobs) + turns) / u128::from(found.jobs);
        u64::try_from(crowded / u128::from(slots.max(1))).unwrap_or(u64::MAX)
    };
    let mut bounds: Vec<(Sum, u32)> =
        work.iter().map(|(pool, sum)| (*sum, pools.get(*pool).copied().unwrap_or(0))).collect();
    bounds.push((all, slots));
    found.p50_ms = bounds.iter().map(|(sum, slots)| share(sum.p50_ms, *slots)).fold(chain_p50_ms, u64::max);
    found.p90_ms = bounds.iter().map(|(sum, slots)| share(sum.p90_ms(), *slots)).fold(chain_p90_ms, u64::max);
    Some(found)
}

/// Positions of the tasks, each behind all that it waits for.
fn in_order(tasks: &[Task], index: &BTreeMap<JobId, usize>) -> Vec<usize> {
    let mut missing: Vec<usize> = vec![0; tasks.len()];
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); tasks.len()];
    for (at, task) in tasks.iter().enumerate() {
        for before in task.depends_on.iter().filter_map(|id| index.get(id)) {
            if let (Some(count), Some(list)) = (missing.get_mut(at), next.get_mut(*before)) {
                *count += 1;
                list.push(at);
            }
        }
    }
    let mut order: Vec<usize> =
        missing.iter().enumerate().filter(|(_, count)| **count == 0).map(|(at, _)| at).collect();
    let mut done = 0;
    while let Some(at) = order.get(done).copied() {
        done += 1;
        for after in next.get_mut(at).map(std::mem::take).unwrap_or_default() {
            if let Some(count) = missing.get_mut(after) {
                *count -= 1;
                if *count == 0 {
                    order.push(after);
                }
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const KNOWN: Estimate = Estimate { p50_ms: 100, p90_ms: 130, samples: 5 };

    fn id(number: u128) -> JobId {
        JobId(Uuid::from_u128(number))
    }

    fn task(number: u128, after: &[u128], estimate: Estimate) -> Task {
        let depends_on = after.iter().map(|number| id(*number)).collect();
        Task { id: id(number), depends_on, estimate, elapsed_ms: None, pool: 0, stuck: false }
    }

    fn range(tasks: &[Task], pools: &[u32], slots: u32, rivals: &[u64]) -> Option<(u64, u64)> {
        forecast(tasks, pools, slots, rivals).map(|found| (found.p50_ms, found.p90_ms))
    }

    #[test]
    fn the_later_of_work_over_slots_and_the_longest_chain_counts() {
        let wide: Vec<Task> = (1..=4).map(|number| task(number, &[], KNOWN)).collect();
        let chain: Vec<Task> = (1..=4).map(|number| task(number, &[number - 1], KNOWN)).collect();
        // Four spreads of 30 that vary each on its own come to 60.
        let cases = [
            (&wide, 1, Some((400, 460))),
            (&wide, 2, Some((200, 230))),
            (&wide, 4, Some((100, 130))),
            (&wide, 100, Some((100, 130))),
            (&chain, 1, Some((400, 460))),
            (&chain, 100, Some((400, 460))),
            (&wide, 0, None),
        ];
        for (tasks, slots, expected) in cases {
            assert_eq!(range(tasks, &[slots], slots, &[]), expected, "{slots} slots");
        }
        assert_eq!(range(&[], &[4], 4, &[]), None);
    }

    #[test]
    fn guesses_are_wrong_together_and_said_to_be_guesses() {
        let guess = Estimate { samples: 0, ..KNOWN };
        let tasks: Vec<Task> = (1..=4).map(|number| task(number, &[], guess)).collect();
        let found = forecast(&tasks, &[1], 1, &[]).expect("there is work");
        assert_eq!((found.p50_ms, found.p90_ms, found.samples, found.guessed, found.jobs), (400, 520, 0, 4, 4));
    }

    #[test]
    fn few_drones_for_some_of_the_work_hold_all_of_it_up() {
        let mut tasks: Vec<Task> = (1..=10).map(|number| task(number, &[], KNOWN)).collect();
        tasks.iter_mut().take(3).for_each(|task| task.pool = 1);
        let found = forecast(&tasks, &[10, 1], 11, &[]).expect("there is work");
        assert_eq!(found.p50_ms, 300, "three of them have one slot");
    }

    #[test]
    fn what_is_stuck_is_left_out_with_all_that_waits_for_it() {
        let mut tasks = vec![
            task(1, &[], KNOWN),
            task(2, &[], KNOWN),
            task(3, &[2], KNOWN),
            task(4, &[3], KNOWN),
            task(5, &[6], KNOWN),
            task(6, &[5], KNOWN),
        ];
        tasks[1].stuck = true;
        let found = forecast(&tasks, &[1], 1, &[]).expect("there is work");
        assert_eq!((found.jobs, found.left_out, found.p50_ms), (1, 5, 100));
        tasks[0].pool = 7;
        assert_eq!(forecast(&tasks, &[1], 1, &[]), None, "no drone can take it");
    }

    #[test]
    fn others_delay_by_as_many_jobs_as_one_has_oneself_at_most() {
        let tasks: Vec<Task> = (1..=4).map(|number| task(number, &[], KNOWN)).collect();
        for (rivals, p50_ms) in [(&[][..], 400), (&[2], 600), (&[4], 800), (&[1_000_000], 800), (&[4, 4], 1_200)] {
            assert_eq!(range(&tasks, &[1], 1, rivals).map(|found| found.0), Some(p50_ms), "{rivals:?}");
        }
    }

    #[test]
    fn what_runs_has_less_to_do_and_is_never_over_by_forecast() {
        let cases =
            [(0, (100, 130), 0), (40, (60, 90), 40), (110, (10, 20), 91), (130, (13, 13), 90), (9_999, (13, 13), 99)];
        for (elapsed_ms, left, done) in cases {
            assert_eq!(remaining(&KNOWN, Some(elapsed_ms)), left, "{elapsed_ms}");
            assert_eq!(percent(&KNOWN, elapsed_ms), Some(done), "{elapsed_ms}");
        }
        assert_eq!(percent(&Estimate { samples: 0, ..KNOWN }, 50), None);
        let running = Task { elapsed_ms: Some(40), ..task(1, &[], KNOWN) };
        assert_eq!(range(&[running], &[0], 0, &[]), Some((60, 90)), "what runs has its drone");
    }
}
