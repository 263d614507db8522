//! `events.db`: what happened lately, kept over restarts, bounded by age and number.
//!
//! No truth and no part of the state: commits are not synced one by one, and what an agent that was killed had not handed over yet
//! is missing. Written in batches, so that it costs next to nothing beside applying. Never done here: deciding what is an event.

use std::path::Path;

use rusqlite::{ToSql, params_from_iter};

use super::database::{Database, Durability, Migrations};
use super::{FatalHook, StoreError};
use crate::engine::event::{Event, EventKind};
use crate::engine::id::{HiveId, UnixMillis};

/// Name of the file in the state directory.
pub const FILE: &str = "events.db";
/// Most events that are kept: some 60 MB.
pub const EVENTS_MAX: u64 = 300_000;
/// How long they are kept, milliseconds: a week.
pub const AGE_MAX_MS: u64 = 7 * 86_400_000;

pub(super) const MIGRATIONS: Migrations = &[
    "CREATE TABLE events(id INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind TEXT NOT NULL, drone TEXT, value TEXT NOT NULL) STRICT;
     CREATE TABLE hive(id BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;",
    // For the waveform: how many of which kind there were when, without reading them.
    "CREATE INDEX events_by_time ON events(at, kind);",
];

/// Which events are asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only those after this one, oldest first; none: the newest, newest first.
    pub since: Option<u64>,
    /// Only of this kind.
    pub kind: Option<EventKind>,
    /// Only those that concern this drone.
    pub drone: Option<String>,
    /// Only those up to this time.
    pub until: Option<UnixMillis>,
    /// At most so many.
    pub limit: usize,
}

/// How many events there were in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub events: u64,
    /// Attempts that ended.
    pub ended: u64,
    /// Of them, those that failed or were lost.
    pub failed: u64,
}

impl Counts {
    fn add(&mut self, kind: Option<EventKind>, count: u64) {
        self.events += count;
        if matches!(kind, Some(EventKind::Complete | EventKind::Fail | EventKind::Reclaim)) {
            self.ended += count;
        }
        if matches!(kind, Some(EventKind::Fail | EventKind::Reclaim)) {
            self.failed += count;
        }
    }
}

/// The open database.
#[derive(Clone, Debug)]
pub struct EventDb {
    db: Database,
}

impl EventDb {
    /// Opens or makes it.
    pub fn open(directory: &Path, fatal: FatalHook) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let (db, ()) = Database::open(&path, Durability::Normal, MIGRATIONS, "hive-events-db", fatal, |_| Ok(()))?;
        Ok(Self { db })
    }

    /// Keeps events of this hive. Those of another one, whose numbers mean something else, are forgotten first.
    pub async fn keep(&self, hive: HiveId, events: Vec<std::sync::Arc<Event>>) -> Result<(), StoreError> {
        self.db
            .write(move |connection| {
                let same =
                    connection.prepare_cached("SELECT 1 FROM hive WHERE id = ?1")?.exists([hive.0.as_slice()])?;
                if !same {
                    connection.execute_batch("DELETE FROM events; DELETE FROM hive;")?;
                    connection.execute("INSERT INTO hive VALUES (?1)", [hive.0.as_slice()])?;
                }
                let mut insert =
                    connection.prepare_cached("INSERT OR REPLACE INTO events VALUES (?1, ?2, ?3, ?4, ?5)")?;
                for event in &events {
                    let Ok(value) = serde_json::to_string(&**event) else { continue };
                    let (id, at) = (event.id.cast_signed(), event.at.0.cast_signed());
                    insert.execute((id, at, event.kind.as_str(), &event.drone, value))?;
                }
                Ok(())
            })
            .await
    }

    /// Forgets those that are too old or too many.
    pub async fn prune(&self, now: UnixMillis) -> Result<(), StoreError> {
        self.db
            .write(move |connection| {
                let oldest = now.0.saturating_sub(AGE_MAX_MS).cast_signed();
                connection.execute("DELETE FROM events WHERE at < ?1", [oldest])?;
                let beyond =
                    "DELETE FROM events WHERE id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?1)";
                connection.execute(beyond, [EVENTS_MAX.cast_signed()]).map(drop)
            })
            .await
    }

    /// Events that fit.
    pub async fn find(&self, wanted: Wanted) -> Result<Vec<Event>, StoreError> {
        self.db
            .write(move |connection| {
                let mut sql = "SELECT value FROM events WHERE true".to_owned();
                let mut values: Vec<Box<dyn ToSql>> = Vec::new();
                if let Some(since) = wanted.since {
                    sql.push_str(" AND id > ?");
                    values.push(Box::new(since.cast_signed()));
                }
                if let Some(kind) = wanted.kind {
                    sql.push_str(" AND kind = ?");
                    values.push(Box::new(kind.as_str()));
                }
                if let Some(drone) = wanted.drone {
                    sql.push_str(" AND drone = ?");
                    values.push(Box::new(drone));
                }
                if let Some(until) = wanted.until {
                    sql.push_str(" AND at <= ?");
                    values.push(Box::new(until.0.cast_signed()));
                }
                sql.push_str(if wanted.since.is_some() { " ORDER BY id" } else { " ORDER BY id DESC" });
                sql.push_str(" LIMIT ?");
                values.push(Box::new(i64::try_from(wanted.limit).unwrap_or(i64::MAX)));
                let mut statement = connection.prepare_cached(&sql)?;
                let rows = statement.query_map(params_from_iter(values), |row| row.get::<_, String>(0))?;
                let texts: Vec<String> = rows.collect::<Result<_, _>>()?;
                // What a newer hive wrote and this one does not understand is left out.
                Ok(texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect())
            })
            .await
    }

    /// How many there were, by the position of the bucket in which they were.
    pub async fn counts(&self, from: UnixMillis, bucket_ms: u64, buckets: usize) -> Result<Vec<Counts>, StoreError> {
        let (start, length) = (from.0.cast_signed(), bucket_ms.max(1).cast_signed());
        let end = start.saturating_add(length.saturating_mul(i64::try_from(buckets).unwrap_or(i64::MAX)));
        self.db
            .write(move |connection| {
                let sql = "SELECT (at - ?1) / ?3, kind, count(*) FROM events WHERE at >= ?1 AND at < ?2 GROUP BY 1, 2";
                let mut statement = connection.prepare_cached(sql)?;
                let mut rows = statement.query([start, end, length])?;
                let mut found = vec![Counts::default(); buckets];
                while let Some(row) = rows.next()? {
                    let (place, kind, count) = (row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?);
                    let place = usize::try_from(place).ok().and_then(|place| found.get_mut(place));
                    let Some(counts) = place else { continue };
                    counts.add(EventKind::from_word(&kind), count.max(0).cast_unsigned());
                }
                Ok(found)
            })
            .await
    }

    /// Number of the oldest; none when there is none.
    pub async fn oldest(&self) -> Result<Option<u64>, StoreError> {
        let oldest = |row: &rusqlite::Row<'_>| Ok(row.get::<_, Option<i64>>(0)?.map(i64::cast_unsigned));
        self.db.write(move |db| db.query_row("SELECT min(id) FROM events", [], oldest)).await
    }

    /// Number of the newest; 0 when there is none.
    pub async fn newest(&self) -> Result<u64, StoreError> {
        let newest = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0).map(i64::cast_unsigned);
        self.db.write(move |db| db.query_row("SELECT coalesce(max(id), 0) FROM events", [], newest)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn event(id: u64, kind: EventKind, drone: &str) -> Arc<Event> {
        let (message, drone) = (format!("event {id}"), Some(drone.to_owned()));
        Arc::new(Event { id, at: UnixMillis(id), kind, message, drone, package: None, job: None, session: None })
    }

    #[tokio::test]
    async fn events_survive_a_restart_are_found_by_what_they_are_and_belong_to_one_hive() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let hive = HiveId([1; 16]);
        let events = vec![
            event(5, EventKind::Assign, "a"),
            event(7, EventKind::Complete, "a"),
            event(9, EventKind::Assign, "b"),
        ];
        let db = EventDb::open(directory.path(), FatalHook::exit()).expect("opens");
        db.keep(hive, events.clone()).await.expect("keeps");
        db.keep(hive, events).await.expect("again changes nothing");
        db.db.close().await;
        let db = EventDb::open(directory.path(), FatalHook::exit()).expect("opens");
        let find = async |wanted: Wanted| {
            let found = db.find(wanted).await.expect("finds");
            found.iter().map(|event| event.id).collect::<Vec<_>>()
        };
        let all = Wanted { limit: 9, ..Wanted::default() };
        assert_eq!(find(all.clone()).await, [9, 7, 5], "the newest first");
        assert_eq!(find(Wanted { since: Some(5), ..all.clone() }).await, [7, 9]);
        assert_eq!(find(Wanted { since: Some(0), limit: 2, ..all.clone() }).await, [5, 7]);
        assert_eq!(find(Wanted { kind: Some(EventKind::Assign), ..all.clone() }).await, [9, 5]);
        assert_eq!(find(Wanted { drone: Some("a".to_owned()), ..all.clone() }).await, [7, 5]);
        assert_eq!(db.newest().await.expect("reads"), 9);
        db.prune(UnixMillis(AGE_MAX_MS + 8)).await.expect("prunes");
        assert_eq!(find(all.clone()).await, [9]);
        db.keep(HiveId([2; 16]), vec![event(1, EventKind::Hive, "c")]).await.expect("keeps");
        assert_eq!(find(all).await, [1], "those of another hive are gone");
    }
}
