//! The past of the hive as this node keeps it, so that everything can be shown as it was at a moment of the last days.
//!
//! ```text
//!   what entries change ─► feed ─┐
//!                                ├─► twice a second ─► history.db ─► rows at a moment ─► State ─► the same views as of now
//!   what this node alone sees ───┘
//! ```
//!
//! Nobody who applies an entry waits for any of this, and a node that cannot keep it is a good node. The state's part is the same on every
//! node that has it: a node that was away catches up with it as with everything else, and one that got a snapshot says from when on it
//! knows. Never done here: answering ([`replay`] does), or keeping events and messages (they have their own stores).

mod moments;
mod replay;
mod seen;
mod views;

pub(super) use self::replay::old_snapshot;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::MissedTickBehavior;

use self::moments::Moments;
use self::seen::Seen;
use super::shared::Shared;
use super::views as now;
use crate::clock::unix_now;
use crate::config::HistoryConfig;
use crate::engine::id::{HiveId, UnixMillis};
use crate::engine::past::{self, Rows, Step};
use crate::store::history_db::{Beginning, Bounds, HistoryDb, Track};
use crate::store::{FatalHook, StoreError, hive_db};

/// Changes go to the disk together, so often.
const KEEP_EVERY: Duration = Duration::from_millis(500);
/// What this node sees is looked at in every so manieth round: every two seconds.
const SEEN_EVERY: u64 = 4;
/// Messages are counted in stretches of this length, milliseconds.
pub(super) const PASSED_MS: u64 = 10_000;
/// Steps are pressed together and old ones forgotten in every so manieth round: every minute.
const TIDY_EVERY: u64 = 120;

/// What is kept of the past, and what is at hand of it.
pub(crate) struct History {
    db: HistoryDb,
    recorder: Mutex<Recorder>,
    moments: Moments,
    bounds: HistoryConfig,
}

/// What the one who writes remembers.
#[derive(Default)]
struct Recorder {
    /// Whose past it is, and up to which log index.
    owner: Option<HiveId>,
    index: u64,
    /// Steps are missing up to this index.
    anew: Option<u64>,
    /// Taken, and not written yet.
    steps: Vec<Step>,
    seen: Seen,
}

/// Opens the database. A node that cannot keep the past is a good node, so nothing fails here, now or later.
pub(super) fn open(directory: &Path, bounds: HistoryConfig) -> Option<History> {
    if bounds.mb == 0 {
        return None;
    }
    let only_said = FatalHook::new(|message| tracing::warn!(message, "the past is not kept any more"));
    let opened = HistoryDb::open(directory, only_said);
    let db = opened
        .inspect_err(|error| tracing::warn!(%error, "the past is not kept; remove history.db to begin anew"))
        .ok()?;
    Some(History { db, recorder: Mutex::default(), moments: Moments::default(), bounds })
}

/// From now on changes are kept. To be called before the log goes on.
pub(super) fn begin(shared: &Shared) {
    if shared.history.is_some() {
        shared.consensus.replica().changes().begin();
    }
}

/// Writes the past down until the agent ends.
pub(super) async fn keep(shared: Arc<Shared>) {
    let Some(history) = &shared.history else { return };
    let mut rounds = tokio::time::interval(KEEP_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut counted, mut full) = (shared.wire.totals().noted, false);
    for round in 1u64.. {
        rounds.tick().await;
        if round.is_multiple_of(SEEN_EVERY) {
            full = now::own_report(&shared).disk_low;
        }
        // On a full disk the log needs what is left. What waits is bounded, and says so when it was too much.
        if full {
            continue;
        }
        if let Err(error) = history.round(&shared, round, &mut counted).await {
            return tracing::warn!(%error, "the past is not kept any more");
        }
    }
}

/// Writes down what is left, when the agent stops.
pub(super) async fn flush(shared: &Shared) {
    let Some(history) = &shared.history else { return };
    if let Err(error) = history.catch_up(shared).await {
        tracing::debug!(%error, "the last of the past is not kept");
    }
}

impl History {
    async fn round(&self, shared: &Arc<Shared>, round: u64, counted: &mut u64) -> Result<(), StoreError> {
        self.catch_up(shared).await?;
        if round.is_multiple_of(SEEN_EVERY) && self.recorder.lock().await.owner.is_some() {
            let sample = seen::sample(shared).await;
            let (at, news) = (unix_now(), self.recorder.lock().await.seen.changes(sample));
            self.see(at, news).await?;
            let noted = shared.wire.totals().noted;
            let passed = noted.saturating_sub(std::mem::replace(counted, noted));
            if passed > 0 {
                self.db.count(UnixMillis(at.0 / PASSED_MS * PASSED_MS), passed).await?;
            }
        }
        if round.is_multiple_of(TIDY_EVERY) {
            self.db.tidy(self.bounds_at(unix_now())).await?;
        }
        Ok(())
    }

    fn bounds_at(&self, at: UnixMillis) -> Bounds {
        let age_ms = u64::from(self.bounds.days).saturating_mul(86_400_000);
        Bounds { oldest: UnixMillis(at.0.saturating_sub(age_ms)), bytes_max: self.bounds.mb << 20 }
    }

    /// What this node saw begins anew with each start: nobody looked meanwhile.
    async fn see(&self, at: UnixMillis, news: seen::News) -> Result<(), StoreError> {
        match news {
            seen::News::First(rows) => self.db.begin(Track::Seen, Beginning { at, index: 0, rows }).await,
            seen::News::Changed(changes) => self.db.add(Track::Seen, vec![Step { at, index: 0, changes }]).await,
            seen::News::Nothing => Ok(()),
        }
    }

    /// Writes down what waits.
    async fn catch_up(&self, shared: &Shared) -> Result<(), StoreError> {
        let mut recorder = self.recorder.lock().await;
        let replica = shared.consensus.replica();
        let Some((hive, _)) = replica.status().hive else { return Ok(()) };
        if recorder.owner != Some(hive) {
            self.db.belong(hive.0.to_vec()).await?;
            self.moments.forget();
            let end = self.db.end(Track::State).await?;
            let first = recorder.owner.replace(hive).is_none();
            recorder.seen = Seen::default();
            recorder.index = end.index;
            // What was applied before this start and is not kept is missing; so is everything before the first step of all.
            let before = if first { self.applied_before(shared, &mut recorder) } else { Some(0) };
            if end.seq == 0 || before.is_some_and(|before| before > end.index) {
                recorder.anew = recorder.anew.max(before).or(Some(0));
            }
        }
        self.take(shared, &mut recorder);
        if let Some(lost) = recorder.anew {
            if !self.begin_anew(shared, &mut recorder, lost).await? {
                return Ok(());
            }
            recorder.anew = None;
        }
        let index = recorder.index;
        let steps: Vec<Step> =
            std::mem::take(&mut recorder.steps).into_iter().filter(|step| step.index > index).collect();
        let Some(last) = steps.last().map(|step| step.index) else { return Ok(()) };
        self.db.add(Track::State, steps).await?;
        recorder.index = last;
        self.moments.went_on();
        Ok(())
    }

    fn take(&self, shared: &Shared, recorder: &mut Recorder) {
        let taken = shared.consensus.replica().changes().take();
        if taken.anew.is_some() {
            recorder.anew = recorder.anew.max(taken.anew);
            recorder.steps.clear();
        }
        recorder.steps.extend(taken.steps);
    }

    /// The log index of the state before the first step that waits; none when nothing had been applied then.
    fn applied_before(&self, shared: &Shared, recorder: &mut Recorder) -> Option<u64> {
        // In this order: what is applied after it was looked up waits and is taken.
        let applied = shared.consensus.replica().status().applied.map(|applied| applied.index);
        self.take(shared, recorder);
        let before_first = recorder.steps.first().map(|step| step.index.saturating_sub(1));
        before_first.or(applied)
    }

    /// Begins the state's part anew with what `hive.db` holds, once that has come as far as is missing. Whether it did.
    async fn begin_anew(&self, shared: &Shared, recorder: &mut Recorder, lost: u64) -> Result<bool, StoreError> {
        let directory = shared.config.state_dir.clone();
        let read = move || {
            let (meta, rows) = hive_db::read_in_use(&directory)?;
            Ok::<_, StoreError>((meta, past::kept_rows(rows)))
        };
        let (meta, rows) = tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Closed)??;
        let index = meta.applied.map_or(0, |applied| applied.index);
        if index < lost {
            return Ok(false);
        }
        let founded = !rows.is_empty();
        // Entries before the first batch have no time, and change nothing.
        let timed = recorder.steps.iter().find(|step| step.at > UnixMillis(0));
        let at = match (founded, timed) {
            // Before the first entry there was nothing: it is known from there on.
            (false, Some(first)) => first.at,
            (false, None) => return Ok(false),
            (true, _) if meta.at == UnixMillis(0) => unix_now(),
            (true, _) => meta.at,
        };
        let rows = if founded { rows } else { Rows::new() };
        self.db.begin(Track::State, Beginning { at, index, rows }).await?;
        recorder.index = index;
        self.moments.forget();
        Ok(true)
    }
}
