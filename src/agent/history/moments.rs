//! The hive at a moment, put together from what is kept; the last few that were asked for are at hand.
//!
//! Putting one together reads up to twice the state's size and takes as much memory as the state, so it is done for one asker at a time, and
//! what is at hand is little and goes after a while. Never done here: keeping the past.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::seen::Sample;
use super::{History, KEEP_EVERY};
use crate::agent::internal;
use crate::agent::shared::Shared;
use crate::api::{ApiError, ApiResult, ErrorCode, LogStatus};
use crate::clock::{now_ms, unix_now};
use crate::engine::id::UnixMillis;
use crate::engine::past;
use crate::engine::state::State;
use crate::store::history_db::{Found, Missing, Track};

/// Moments at hand, of small hives; of one with more jobs than [`LARGE_JOBS`] it is one.
const AT_HAND: usize = 8;
const LARGE_JOBS: usize = 20_000;
/// So long one that nobody asks for stays, milliseconds.
const AT_HAND_MS: u64 = 60_000;
/// How long an asker waits for the one before.
const TURN: Duration = Duration::from_secs(5);
/// A moment of the last few seconds may not be written down yet.
const FRESH_MS: u64 = 2_000 + KEEP_EVERY.as_millis() as u64;
/// A clock may be ahead of this one by so much, milliseconds, for a moment not to be in the future.
const AHEAD_MS: u64 = 10_000;

/// The hive at a moment.
pub(super) struct Moment {
    pub(super) at: UnixMillis,
    pub(super) state: Arc<State>,
    /// When the state had last changed.
    pub(super) changed_at: UnixMillis,
    /// Up to which log index it is.
    index: u64,
    /// What this node saw; none when it was not looking.
    pub(super) seen: Option<Arc<Sample>>,
}

impl Moment {
    /// Where the log stood.
    pub(super) fn log(&self) -> LogStatus {
        let epoch = self.state.epoch();
        LogStatus {
            epoch: epoch.map_or(0, |epoch| epoch.counter),
            epoch_id: epoch.map(|epoch| epoch.id),
            applied: self.index,
            committed: self.index,
            age_ms: 0,
        }
    }

    /// Hive time then: what was committed, and the time since.
    pub(super) fn hive_ms(&self) -> u64 {
        self.state.hive_time_ms().saturating_add(self.at.0.saturating_sub(self.changed_at.0))
    }
}

/// A state and between which times the hive was in it.
#[derive(Clone)]
struct Held {
    state: Arc<State>,
    from: UnixMillis,
    /// None: it is the newest that is written down.
    until: Option<UnixMillis>,
    index: u64,
    asked_ms: u64,
}

/// Those at hand.
pub(super) struct Moments {
    held: Mutex<VecDeque<Held>>,
    /// How often the past went on.
    steps: AtomicU64,
    turn: Semaphore,
}

impl Default for Moments {
    fn default() -> Self {
        Self { held: Mutex::default(), steps: AtomicU64::new(0), turn: Semaphore::new(1) }
    }
}

impl Moments {
    /// They are of another past.
    pub(super) fn forget(&self) {
        self.went_on();
        self.held().clear();
    }

    /// More was written down: the newest state is another one.
    pub(super) fn went_on(&self) {
        let mut held = self.held();
        self.steps.fetch_add(1, Ordering::AcqRel);
        held.retain(|held| held.until.is_some());
    }

    fn held(&self) -> MutexGuard<'_, VecDeque<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, at: UnixMillis) -> Option<Held> {
        let mut held = self.held();
        let now_ms = now_ms();
        held.retain(|held| now_ms.saturating_sub(held.asked_ms) < AT_HAND_MS);
        let found = held.iter_mut().find(|held| held.from <= at && held.until.is_none_or(|until| at < until))?;
        found.asked_ms = now_ms;
        Some(found.clone())
    }

    /// `steps`: how often the past had gone on when it was read.
    fn put(&self, fresh: Held, steps: u64) {
        let mut held = self.held();
        if fresh.until.is_none() && self.steps.load(Ordering::Acquire) != steps {
            return;
        }
        let most = if fresh.state.jobs_len() > LARGE_JOBS { 1 } else { AT_HAND };
        held.push_back(fresh);
        while held.len() > most {
            held.pop_front();
        }
    }
}

fn not_recorded(message: String, hint: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::NotRecorded, message, hint)
}

/// Why a moment is not to be had, for people.
pub(super) fn missing(name: &str, at: UnixMillis, missing: Missing) -> ApiError {
    match missing {
        Missing::Nothing => not_recorded(
            format!("{name} has not kept anything of the past yet"),
            "the record begins when the node becomes a member; see history.mb in: hive config reference",
        ),
        Missing::Before(first) => not_recorded(
            format!("{at} is before the record of {name}, which begins at {first}"),
            "ask for a later moment, or a node that has been there for longer; how long it is kept: history.days",
        ),
        Missing::Gap(from, to) => not_recorded(
            format!("{name} missed what happened between {from} and {to}"),
            "ask for a moment outside of that, or another node",
        ),
    }
}

impl History {
    /// The hive at a moment that is not in the future.
    pub(super) async fn moment(&self, shared: &Arc<Shared>, at: UnixMillis) -> ApiResult<Moment> {
        let now = unix_now();
        if at.0 > now.0.saturating_add(AHEAD_MS) {
            let hint = "leave `at` out to see how things are now";
            return Err(ApiError::new(ErrorCode::Invalid, format!("{at} has not come yet"), hint));
        }
        if at.0.saturating_add(FRESH_MS) > now.0 {
            self.catch_up(shared).await.map_err(internal)?;
        }
        let held = match self.moments.find(at) {
            Some(held) => held,
            None => self.put_together(shared, at).await?,
        };
        // One at a time is enough of a bound: what is seen is small.
        let seen = self.db.at(Track::Seen, at).await.map_err(internal)?;
        let seen = seen.ok().map(|found| Arc::new(Sample::of(&found.rows)));
        Ok(Moment { at, state: held.state, changed_at: held.from, index: held.index, seen })
    }

    async fn put_together(&self, shared: &Arc<Shared>, at: UnixMillis) -> ApiResult<Held> {
        let busy = |_| {
            let message = "this node is putting together as much of the past as it can";
            ApiError::new(ErrorCode::Unreachable, message, "ask again in a moment")
        };
        let turn = tokio::time::timeout(TURN, self.moments.turn.acquire()).await.map_err(busy)?;
        let _turn = turn.map_err(internal)?;
        if let Some(held) = self.moments.find(at) {
            return Ok(held);
        }
        let steps = self.moments.steps.load(Ordering::Acquire);
        let found = self.db.at(Track::State, at).await.map_err(internal)?;
        let Found { rows, at: from, index, until } = found.map_err(|why| missing(&shared.me.name, at, why))?;
        let state = tokio::task::spawn_blocking(move || past::state_of(rows)).await.map_err(internal)?;
        let state = Arc::new(state.map_err(internal)?);
        let held = Held { state, from, until, index, asked_ms: now_ms() };
        self.moments.put(held.clone(), steps);
        Ok(held)
    }
}
