//! The event feed of this node: what its copy of the log tells, newest in memory, the week before in `events.db`.
//!
//! Never done here: making events (`engine::state` does while it applies).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::shared::Shared;
use super::views;
use crate::api::{ApiResult, EventList};
use crate::clock::unix_now;
use crate::consensus::events::KEPT;
use crate::engine::event::Event;
use crate::engine::id::HiveId;
use crate::store::event_db::{EventDb, Wanted};
use crate::store::{FatalHook, StoreError};
use crate::web::node::EventQuery;

/// Events go to disk together, so often.
const KEEP_EVERY: Duration = Duration::from_millis(500);
/// Old ones are looked for so often, in rounds of [`KEEP_EVERY`]: ten minutes.
const PRUNE_EVERY: u64 = 1_200;

/// Opens the database. A node that cannot keep events is a good node: they are no truth, so nothing fails here, now or later.
pub(super) fn open(directory: &Path) -> Option<EventDb> {
    let only_said = FatalHook::new(|message| tracing::warn!(message, "events are kept in memory alone"));
    let opened = EventDb::open(directory, only_said);
    opened
        .inspect_err(|error| tracing::warn!(%error, "events are kept in memory alone; remove events.db to begin anew"))
        .ok()
}

/// Hands events to the database until the agent ends.
pub(super) async fn keep(shared: Arc<Shared>) {
    let Some(db) = &shared.event_db else { return };
    let mut rounds = tokio::time::interval(KEEP_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kept = match db.newest().await {
        Ok(kept) => kept,
        Err(error) => return tracing::warn!(%error, "events are kept in memory alone"),
    };
    let mut hive = None;
    for round in 0u64.. {
        rounds.tick().await;
        let Some((hive_id, _)) = shared.hive() else { continue };
        // Numbers of another hive begin anew.
        if hive.is_some_and(|before| before != hive_id) {
            kept = 0;
        }
        hive = Some(hive_id);
        let result = keep_on((&shared, db), &mut kept, hive_id, round).await;
        if let Err(error) = result {
            return tracing::warn!(%error, "events are kept in memory alone");
        }
    }
}

/// Hands over what is left, when the agent stops.
pub(super) async fn flush(shared: &Shared) {
    let (Some(db), Some((hive, _))) = (&shared.event_db, shared.hive()) else { return };
    let left = async {
        let mut kept = db.newest().await?;
        keep_on((shared, db), &mut kept, hive, 0).await
    };
    if let Err(error) = left.await {
        tracing::debug!(%error, "the last events are not kept");
    }
}

async fn keep_on(
    (shared, db): (&Shared, &EventDb),
    kept: &mut u64,
    hive: HiveId,
    round: u64,
) -> Result<(), StoreError> {
    let fresh = shared.consensus.replica().events().after(*kept, KEPT, |_| true);
    // On a full disk the log needs what is left.
    if let Some(newest) = fresh.last().map(|event| event.id)
        && !views::own_report(shared).disk_low
    {
        db.keep(hive, fresh).await?;
        *kept = newest;
    }
    if round % PRUNE_EVERY == 1 {
        db.prune(unix_now()).await?;
    }
    Ok(())
}

/// What happened, as asked.
pub(super) async fn find(shared: &Shared, query: EventQuery) -> ApiResult<EventList> {
    let fits = |event: &Event| {
        query.kind.is_none_or(|kind| kind == event.kind)
            && query.drone.as_ref().is_none_or(|drone| event.drone.as_ref() == Some(drone))
            && query.until.is_none_or(|until| event.at <= until)
    };
    let ring = shared.consensus.replica().events();
    let bounds = ring.bounds();
    let recent = match query.since {
        Some(since) => ring.after(since, query.limit, fits),
        None => ring.newest(query.limit, fits),
    };
    let all_in_memory = match query.since {
        Some(since) => bounds.is_some_and(|(oldest, _)| oldest <= since),
        None => recent.len() >= query.limit,
    };
    let mut events: Vec<Event> = recent.iter().map(|event| (**event).clone()).collect();
    if let Some(db) = shared.event_db.as_ref().filter(|_| !all_in_memory) {
        let EventQuery { since, kind, until, limit, .. } = query;
        let wanted = Wanted { since, kind, drone: query.drone.clone(), until, limit };
        match db.find(wanted).await {
            Ok(older) => events.extend(older),
            Err(error) => tracing::debug!(%error, "events of before are not to be had"),
        }
        events.sort_by_key(|event| event.id);
        events.dedup_by_key(|event| event.id);
        let limit = query.limit.min(events.len());
        events = if query.since.is_some() { events[..limit].to_vec() } else { events.split_off(events.len() - limit) };
    } else if query.since.is_none() {
        events.reverse();
    }
    let newest = bounds.map(|(_, newest)| newest).max(events.last().map(|event| event.id));
    Ok(EventList { events, latest_id: newest.unwrap_or(query.since.unwrap_or(0)) })
}
