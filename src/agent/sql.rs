//! The SQL explorer of this node: copies of what people may see, in tables, for as long as somebody asks.
//!
//! ```text
//!   question ─► which tables? ─► those that are stale are made anew, piece by piece ─► run, bounded ─► answer
//! ```
//!
//! Rows of the replicated state are encoded for replicas, not for people; so the tables are made when a statement names them, live in
//! memory while they are young, and are dropped when nobody asked for a minute. One statement runs at a time, a few may wait. Never done
//! here: changing anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;

mod rows;
mod tables;

use self::rows::{JobRows, OfJobs};
use self::tables::{
    ARTIFACTS, ATTEMPTS, DEPENDENCIES, EVENTS, JOBS, MACHINES, METRICS, PACKAGES, SESSIONS, TABLES, VIEWS,
};
use super::shared::Shared;
use super::{events, internal, legacy};
use crate::api::{
    ApiError, ApiResult, ErrorCode, SQL_LENGTH_MAX, SQL_ROWS_DEFAULT, SQL_ROWS_MAX, SqlAnswer, SqlColumn, SqlRequest,
    SqlSchema, SqlTable, SqlTableColumn,
};
use crate::clock::now_ms;
use crate::store::explorer::{Budget, Cell, Explorer, ExplorerError, Found, Table};
use crate::tasks;
use crate::web::node::EventQuery;

/// Time of one statement.
const TIME: Duration = Duration::from_secs(2);
/// Bytes of one answer, about.
const BYTES_MAX: usize = 8 << 20;
/// Bytes by which the agent may grow for one statement.
const MEMORY_MAX: u64 = 192 << 20;
/// Statements that run or wait.
const WAITING_MAX: usize = 5;
/// Tables are taken as they are for so long, milliseconds; and for so many times as long as it took to make them.
const YOUNG_MS: u64 = 2_000;
const YOUNG_TIMES: u64 = 10;
/// Tables that nobody asked for go after so long.
const IDLE: Duration = Duration::from_secs(60);
/// Jobs of the history table that are shown, the newest.
const PAST_MAX: usize = 10_000;
/// Rows of the history table read at once.
const PAST_PIECE: usize = 500;
/// Events that are shown, the newest.
const EVENTS_MAX: usize = 100_000;

/// What is kept between statements.
pub(super) struct Desk {
    room: Arc<Semaphore>,
    one: Arc<Semaphore>,
    kept: Mutex<Option<Kept>>,
    is_watched: AtomicBool,
}

struct Kept {
    explorer: Explorer,
    made: BTreeMap<&'static str, Made>,
    used_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Made {
    at_ms: u64,
    took_ms: u64,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            room: Arc::new(Semaphore::new(WAITING_MAX)),
            one: Arc::new(Semaphore::new(1)),
            kept: Mutex::new(None),
            is_watched: AtomicBool::new(false),
        }
    }
}

impl Desk {
    fn take(&self) -> Option<Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Kept {
    fn new() -> ApiResult<Self> {
        let explorer = Explorer::new(TABLES, VIEWS).map_err(problem)?;
        Ok(Self { explorer, made: BTreeMap::new(), used_ms: now_ms() })
    }

    fn is_stale(&self, table: &str, now_ms: u64) -> bool {
        self.made.get(table).is_none_or(|made| {
            now_ms.saturating_sub(made.at_ms) >= YOUNG_MS.max(YOUNG_TIMES.saturating_mul(made.took_ms))
        })
    }
}

/// `GET /api/v2/sql/schema`.
pub(super) fn schema() -> ApiResult<SqlSchema> {
    let explorer = Explorer::new(TABLES, VIEWS).map_err(problem)?;
    let table = |table: &Table| SqlTable {
        name: table.name.to_owned(),
        kind: "table".to_owned(),
        meaning: table.meaning.to_owned(),
        columns: table
            .columns
            .iter()
            .map(|column| SqlTableColumn {
                name: column.name.to_owned(),
                kind: column.kind.to_owned(),
                meaning: column.meaning.to_owned(),
            })
            .collect(),
    };
    let mut list: Vec<SqlTable> = TABLES.iter().map(table).collect();
    for view in VIEWS {
        let columns = explorer.view_columns(view.name).map_err(problem)?.into_iter();
        let column = |name| SqlTableColumn { name, kind: String::new(), meaning: String::new() };
        list.push(SqlTable {
            name: view.name.to_owned(),
            kind: "view".to_owned(),
            meaning: view.meaning.to_owned(),
            columns: columns.map(column).collect(),
        });
    }
    let timeout_ms = TIME.as_millis() as u64;
    Ok(SqlSchema { tables: list, rows_default: SQL_ROWS_DEFAULT, rows_max: SQL_ROWS_MAX, timeout_ms })
}

fn problem(error: ExplorerError) -> ApiError {
    let message = error.to_string();
    match error {
        ExplorerError::Refused(_) => {
            ApiError::new(ErrorCode::Invalid, message, "tables and columns: hive sql --schema")
        }
        ExplorerError::Invalid(_) => {
            ApiError::new(ErrorCode::Invalid, format!("SQL: {message}"), "tables and columns: hive sql --schema")
        }
        ExplorerError::TooLong(_) => {
            ApiError::new(ErrorCode::Timeout, message, "ask for less: a WHERE on one table, or a join on an id")
        }
        ExplorerError::TooLarge(_) => {
            ApiError::new(ErrorCode::Invalid, message, "ask for less: fewer or shorter values")
        }
        ExplorerError::Failed(_) => internal(message),
    }
}

/// `POST /api/v2/sql`.
pub(super) async fn query(shared: &Arc<Shared>, request: SqlRequest) -> ApiResult<SqlAnswer> {
    let rows = request.limit.unwrap_or(SQL_ROWS_DEFAULT);
    if request.query.len() > SQL_LENGTH_MAX || !(1..=SQL_ROWS_MAX).contains(&rows) {
        let message = format!("a statement has at most {SQL_LENGTH_MAX} bytes, an answer 1 to {SQL_ROWS_MAX} rows");
        return Err(ApiError::new(ErrorCode::Invalid, message, "ask for less"));
    }
    let busy = || ApiError::new(ErrorCode::Unreachable, "this node answers other statements", "try again in a moment");
    let place = Arc::clone(&shared.sql.room).try_acquire_owned().map_err(|_| busy())?;
    let shared = Arc::clone(shared);
    // A client that goes away must not leave a statement behind that nobody counts.
    let task = tasks::spawn("sql", async move {
        let _place = place;
        let _turn = Arc::clone(&shared.sql.one).acquire_owned().await.map_err(internal)?;
        let kept = shared.sql.take().map_or_else(Kept::new, Ok)?;
        let (kept, result) = answer(&shared, kept, request.query, rows).await?;
        *shared.sql.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        watch(&shared);
        result
    });
    task.await.map_err(internal)?
}

/// Drops the tables when nobody has asked for a while.
fn watch(shared: &Arc<Shared>) {
    if shared.sql.is_watched.swap(true, Ordering::Relaxed) {
        return;
    }
    let shared = Arc::downgrade(shared);
    tasks::spawn("sql-idle", async move {
        loop {
            tokio::time::sleep(IDLE / 2).await;
            let Some(shared) = shared.upgrade() else { return };
            let mut kept = shared.sql.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let idle =
                kept.as_ref().is_some_and(|kept| u128::from(now_ms().saturating_sub(kept.used_ms)) >= IDLE.as_millis());
            if idle {
                *kept = None;
                shared.sql.is_watched.store(false, Ordering::Relaxed);
                return;
            }
        }
    });
}

/// Does something with the tables on a thread where it may take its time.
async fn apart<T: Send + 'static>(
    mut kept: Kept,
    act: impl FnOnce(&mut Kept) -> T + Send + 'static,
) -> ApiResult<(Kept, T)> {
    let done = tokio::task::spawn_blocking(move || {
        let value = act(&mut kept);
        (kept, value)
    });
    done.await.map_err(internal)
}

async fn answer(shared: &Arc<Shared>, kept: Kept, sql: String, rows: usize) -> ApiResult<(Kept, ApiResult<SqlAnswer>)> {
    let asked = sql.clone();
    let (mut kept, tables) = apart(kept, move |kept| kept.explorer.tables_of(&asked)).await?;
    let tables = match tables {
        Ok(tables) => tables,
        Err(error) => return Ok((kept, Err(problem(error)))),
    };
    let now_ms = now_ms();
    let stale: BTreeSet<&'static str> = tables.iter().copied().filter(|table| kept.is_stale(table, now_ms)).collect();
    kept = fill(shared, kept, &stale).await?;
    let oldest_ms = tables.iter().filter_map(|table| kept.made.get(table)).map(|made| made.at_ms).min();
    let budget = Budget { time: TIME, rows, bytes: BYTES_MAX, memory: MEMORY_MAX };
    let began_ms = crate::clock::now_ms();
    let (mut kept, found) = apart(kept, move |kept| kept.explorer.query(&sql, budget)).await?;
    kept.used_ms = crate::clock::now_ms();
    let age_ms = oldest_ms.map_or(0, |oldest_ms| kept.used_ms.saturating_sub(oldest_ms));
    let elapsed_ms = kept.used_ms.saturating_sub(began_ms);
    Ok((kept, found.map(|found| shown(found, elapsed_ms, age_ms)).map_err(problem)))
}

fn shown(found: Found, elapsed_ms: u64, age_ms: u64) -> SqlAnswer {
    let value = |cell: Cell| match cell {
        Cell::Null => Value::Null,
        Cell::Integer(number) => number.into(),
        Cell::Real(number) => number.into(),
        Cell::Text(text) => text.into(),
    };
    let column = |(name, kind): (String, &str)| SqlColumn { name, kind: kind.to_owned() };
    SqlAnswer {
        columns: found.columns.into_iter().map(column).collect(),
        count: found.rows.len(),
        rows: found.rows.into_iter().map(|row| row.into_iter().map(value).collect()).collect(),
        truncated: found.truncated,
        elapsed_ms,
        age_ms,
    }
}

/// Makes tables anew.
async fn fill(shared: &Arc<Shared>, mut kept: Kept, stale: &BTreeSet<&'static str>) -> ApiResult<Kept> {
    let has = |table: &Table| stale.contains(table.name);
    let wanted = OfJobs {
        jobs: has(&JOBS),
        attempts: has(&ATTEMPTS),
        dependencies: has(&DEPENDENCIES),
        artifacts: has(&ARTIFACTS),
    };
    let of_jobs = [JOBS, ATTEMPTS, DEPENDENCIES, ARTIFACTS].into_iter().filter(|table| has(table)).collect::<Vec<_>>();
    if !of_jobs.is_empty() {
        kept = fill_jobs(shared, kept, of_jobs, wanted).await?;
    }
    for table in [SESSIONS, MACHINES, PACKAGES, EVENTS, METRICS].into_iter().filter(|table| has(table)) {
        let heard = if table.name == MACHINES.name { legacy::heard(shared).await } else { BTreeMap::new() };
        let listed = if table.name == EVENTS.name { newest_events(shared).await? } else { Vec::new() };
        let shared = Arc::clone(shared);
        let made = apart(kept, move |kept| {
            let began_ms = now_ms();
            let rows = match table.name {
                name if name == SESSIONS.name => rows::sessions(&shared),
                name if name == MACHINES.name => rows::machines(&shared, &heard),
                name if name == PACKAGES.name => rows::packages(&shared),
                name if name == EVENTS.name => listed.iter().map(rows::event).collect(),
                _ => rows::metrics(&shared),
            };
            let added = kept.explorer.clear(&table).and_then(|()| kept.explorer.add(&table, rows));
            made(kept, table, began_ms, added)
        });
        let (filled, result) = made.await?;
        result?;
        kept = filled;
    }
    Ok(kept)
}

async fn newest_events(shared: &Arc<Shared>) -> ApiResult<Vec<crate::engine::event::Event>> {
    Ok(events::find(shared, EventQuery { limit: EVENTS_MAX, ..EventQuery::default() }).await?.events)
}

/// Notes that a table is there, or throws away what there is of it.
fn made(kept: &mut Kept, table: Table, began_ms: u64, result: Result<(), ExplorerError>) -> ApiResult<()> {
    match result {
        Ok(()) => {
            kept.made.insert(table.name, Made { at_ms: began_ms, took_ms: now_ms().saturating_sub(began_ms) });
            Ok(())
        }
        Err(error) => {
            kept.made.remove(table.name);
            kept.explorer.clear(&table).map_err(problem)?;
            Err(problem(error))
        }
    }
}

async fn fill_jobs(shared: &Arc<Shared>, kept: Kept, tables: Vec<Table>, wanted: OfJobs) -> ApiResult<Kept> {
    let began_ms = now_ms();
    // First the list of what is history, so that a job that becomes it meanwhile is not missed; the index of the table makes one of two.
    let past: Vec<_> = shared.read(|state| state.history_rows().take(PAST_MAX).collect());
    let reader = Arc::clone(shared);
    let cleared = tables.clone();
    let (mut kept, filled) = apart(kept, move |kept| {
        cleared.iter().try_for_each(|table| kept.explorer.clear(table))?;
        let mut from = Some(0);
        while from.is_some() {
            add(&mut kept.explorer, rows::next_jobs(&reader, &mut from, wanted))?;
        }
        Ok(())
    })
    .await?;
    let mut result: Result<(), ExplorerError> = filled;
    for piece in past.chunks(PAST_PIECE) {
        if result.is_err() {
            break;
        }
        let jobs = shared.consensus.replica().past_jobs(piece.to_vec()).await.map_err(internal)?;
        let reader = Arc::clone(shared);
        (kept, result) =
            apart(kept, move |kept| add(&mut kept.explorer, rows::past_jobs(&reader, &jobs, wanted))).await?;
    }
    for table in tables {
        made(&mut kept, table, began_ms, result.clone())?;
    }
    Ok(kept)
}

fn add(explorer: &mut Explorer, rows: JobRows) -> Result<(), ExplorerError> {
    let JobRows { jobs, attempts, dependencies, artifacts } = rows;
    for (table, rows) in [(JOBS, jobs), (ATTEMPTS, attempts), (DEPENDENCIES, dependencies), (ARTIFACTS, artifacts)] {
        if !rows.is_empty() {
            explorer.add(&table, rows)?;
        }
    }
    Ok(())
}
