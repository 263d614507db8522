//! A database in memory that people may question with SQL, and nothing else.
//!
//! ```text
//!   rows ──► fill ──► tables in memory ◄── query: authorizer, limits, deadline, memory, rows, bytes
//! ```
//!
//! It holds copies that somebody else made, never a file and never a key, so that the worst statement spoils a copy. Statements are
//! prepared under an authorizer that denies by default: only SELECT on the tables that were announced, with functions from a list. What
//! they cost is bounded while they run. Never done here: knowing what the tables mean.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement, params_from_iter};

use crate::clock::now_ms;

/// Instructions of SQLite between two looks at the clock.
const STEPS: i32 = 500;
/// The memory of the process is looked at so often while a statement runs, milliseconds.
const MEMORY_EVERY_MS: u64 = 5;
/// Pages of all tables together: 256 MiB.
const PAGES_MAX: u32 = 65_536;
/// Limits of SQLite itself: `(limit, value)`. Near what it recommends for statements of strangers, with room for joins of views.
const LIMITS: &[(Limit, i32)] = &[
    (Limit::SQLITE_LIMIT_LENGTH, 1 << 20),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 32 << 10),
    (Limit::SQLITE_LIMIT_COLUMN, 200),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 64),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 10),
    (Limit::SQLITE_LIMIT_VDBE_OP, 25_000),
    (Limit::SQLITE_LIMIT_FUNCTION_ARG, 32),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100),
    (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 1),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 1),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// Functions that statements may call: pure ones of text, numbers, times and JSON, aggregates and windows. Sorted.
const FUNCTIONS: &[&str] = &[
    "->",
    "->>",
    "abs",
    "avg",
    "ceil",
    "ceiling",
    "char",
    "coalesce",
    "concat",
    "concat_ws",
    "count",
    "cume_dist",
    "current_date",
    "current_time",
    "current_timestamp",
    "date",
    "datetime",
    "dense_rank",
    "exp",
    "first_value",
    "floor",
    "format",
    "glob",
    "group_concat",
    "hex",
    "if",
    "ifnull",
    "iif",
    "instr",
    "json",
    "json_array",
    "json_array_length",
    "json_extract",
    "json_group_array",
    "json_group_object",
    "json_object",
    "json_quote",
    "json_type",
    "json_valid",
    "julianday",
    "lag",
    "last_value",
    "lead",
    "length",
    "like",
    "likelihood",
    "likely",
    "ln",
    "log",
    "log10",
    "log2",
    "lower",
    "ltrim",
    "max",
    "min",
    "mod",
    "nth_value",
    "ntile",
    "nullif",
    "octet_length",
    "percent_rank",
    "pow",
    "power",
    "printf",
    "quote",
    "random",
    "rank",
    "replace",
    "round",
    "row_number",
    "rtrim",
    "sign",
    "sqrt",
    "strftime",
    "string_agg",
    "substr",
    "substring",
    "sum",
    "time",
    "timediff",
    "total",
    "trim",
    "typeof",
    "unhex",
    "unicode",
    "unixepoch",
    "unlikely",
    "upper",
];

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// `TEXT`, `INTEGER` or `REAL`; of a view what comes out.
    pub kind: &'static str,
    /// What it holds, with its unit.
    pub meaning: &'static str,
}

/// A table that is filled by whoever keeps the explorer.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// What a row is.
    pub meaning: &'static str,
    /// Its columns, in order.
    pub columns: &'static [Column],
}

/// A view over the tables.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Its name.
    pub name: &'static str,
    /// What a row is.
    pub meaning: &'static str,
    /// Its SELECT.
    pub select: &'static str,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// A number.
    Real(f64),
    /// Text.
    Text(String),
}

impl ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

/// What one statement may cost.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Time.
    pub time: Duration,
    /// Rows of the result; more are left out.
    pub rows: usize,
    /// Bytes of the result, about; rows beyond are left out.
    pub bytes: usize,
    /// Bytes by which the process may grow meanwhile.
    pub memory: u64,
}

/// What a statement found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Names of the columns, each with the kind of its first value that is not null: `text`, `integer`, `real`, or `null`.
    pub columns: Vec<(String, &'static str)>,
    /// The rows.
    pub rows: Vec<Vec<Cell>>,
    /// There was more than the budget allows.
    pub truncated: bool,
}

/// Why a statement found nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplorerError {
    /// It asks for something that is not allowed.
    #[error("{0} is not allowed here: only SELECT on the listed tables")]
    Refused(String),
    /// It is no SQL, names what does not exist, or is beyond a limit of size.
    #[error("{0}")]
    Invalid(String),
    /// It ran too long.
    #[error("the statement took longer than {} ms and was stopped", .0.as_millis())]
    TooLong(Duration),
    /// It needed too much memory.
    #[error("the statement needed more than {} MiB of memory and was stopped", .0 >> 20)]
    TooLarge(u64),
    /// The tables do not fit, or SQLite failed.
    #[error("the tables cannot be made: {0}")]
    Failed(String),
}

/// The database.
pub struct Explorer {
    connection: Connection,
    tables: &'static [Table],
    views: &'static [View],
}

/// What the authorizer saw.
#[derive(Debug, Default)]
struct Seen {
    tables: BTreeSet<&'static str>,
    refused: Option<String>,
}

const RUNNING: u8 = 0;
const LATE: u8 = 1;
const LARGE: u8 = 2;

impl Explorer {
    /// Makes the tables, all empty.
    pub fn new(tables: &'static [Table], views: &'static [View]) -> Result<Self, ExplorerError> {
        let made = || -> rusqlite::Result<Connection> {
            let connection = Connection::open_in_memory()?;
            connection.pragma_update(None, "journal_mode", "OFF")?;
            // What sorting needs stays in memory, where it is counted.
            connection.pragma_update(None, "temp_store", "MEMORY")?;
            connection.pragma_update(None, "max_page_count", PAGES_MAX)?;
            for table in tables {
                let columns: Vec<String> =
                    table.columns.iter().map(|column| format!("{} {}", column.name, column.kind)).collect();
                connection.execute_batch(&format!("CREATE TABLE {}({});", table.name, columns.join(", ")))?;
            }
            for view in views {
                connection.execute_batch(&format!("CREATE VIEW {} AS {};", view.name, view.select))?;
            }
            for (option, on) in [
                (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
                (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
                (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
                (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, false),
                (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, false),
                // "text" in double quotes is a name, as in the standard, and not silently a text.
                (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
            ] {
                connection.set_db_config(option, on)?;
            }
            for (limit, value) in LIMITS {
                connection.set_limit(*limit, *value)?;
            }
            Ok(connection)
        };
        Ok(Self { connection: made().map_err(failed)?, tables, views })
    }

    /// Names and kinds of the columns of a view.
    pub fn view_columns(&self, view: &str) -> Result<Vec<String>, ExplorerError> {
        let statement = self.connection.prepare(&format!("SELECT * FROM {view}")).map_err(failed)?;
        Ok(statement.column_names().map(str::to_owned).collect())
    }

    /// Empties a table.
    pub fn clear(&mut self, table: &Table) -> Result<(), ExplorerError> {
        self.connection.execute_batch(&format!("DELETE FROM {}", table.name)).map_err(failed)
    }

    /// Adds rows to a table, all of them or none.
    pub fn add(&mut self, table: &Table, rows: impl IntoIterator<Item = Vec<Cell>>) -> Result<(), ExplorerError> {
        // A transaction of a database without a journal cannot be taken back: whoever gets an error clears the table.
        let holders = vec!["?"; table.columns.len()].join(", ");
        // More than a stranger may bind.
        let columns = i32::try_from(table.columns.len()).unwrap_or(i32::MAX);
        self.connection.set_limit(Limit::SQLITE_LIMIT_VARIABLE_NUMBER, columns).map_err(failed)?;
        let added = (|| {
            let transaction = self.connection.unchecked_transaction()?;
            {
                let mut insert = transaction.prepare(&format!("INSERT INTO {} VALUES ({holders})", table.name))?;
                for row in rows {
                    insert.execute(params_from_iter(row))?;
                }
            }
            transaction.commit()
        })();
        let limited = self.connection.set_limit(Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 1);
        added.map_err(failed)?;
        limited.map(drop).map_err(failed)
    }

    /// The tables that a statement reads, those behind views included. An error when it may not be run.
    pub fn tables_of(&mut self, sql: &str) -> Result<BTreeSet<&'static str>, ExplorerError> {
        self.guarded(sql, |_| Ok(())).map(|((), seen)| seen)
    }

    /// Runs a statement within a budget.
    pub fn query(&mut self, sql: &str, budget: Budget) -> Result<Found, ExplorerError> {
        let verdict = Arc::new(AtomicU8::new(RUNNING));
        self.watch(budget, &verdict)?;
        let result = self.guarded(sql, |statement| collect(statement, budget)).map(|(found, _)| found);
        self.connection.progress_handler(0, None::<fn() -> bool>).map_err(failed)?;
        match (verdict.load(Ordering::Relaxed), result) {
            (LATE, Err(_)) => Err(ExplorerError::TooLong(budget.time)),
            (LARGE, Err(_)) => Err(ExplorerError::TooLarge(budget.memory)),
            (_, result) => result,
        }
    }

    /// Has SQLite ask every few instructions, also while it plans, whether to go on.
    fn watch(&mut self, budget: Budget, verdict: &Arc<AtomicU8>) -> Result<(), ExplorerError> {
        let (began_ms, before) = (now_ms(), resident_bytes());
        let (verdict, mut looked_ms) = (Arc::clone(verdict), began_ms);
        let over = move || {
            let now_ms = now_ms();
            if u128::from(now_ms - began_ms) > budget.time.as_millis() {
                verdict.store(LATE, Ordering::Relaxed);
                return true;
            }
            if now_ms - looked_ms >= MEMORY_EVERY_MS {
                looked_ms = now_ms;
                if resident_bytes().saturating_sub(before) > budget.memory {
                    verdict.store(LARGE, Ordering::Relaxed);
                    return true;
                }
            }
            false
        };
        self.connection.progress_handler(STEPS, Some(over)).map_err(failed)
    }

    /// Prepares a statement under the authorizer, and does something with it.
    fn guarded<T>(
        &mut self,
        sql: &str,
        act: impl FnOnce(&mut Statement<'_>) -> rusqlite::Result<T>,
    ) -> Result<(T, BTreeSet<&'static str>), ExplorerError> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (tables, views, notes) = (self.tables, self.views, Arc::clone(&seen));
        let judge = move |context: AuthContext<'_>| {
            let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
            judge(tables, views, &context.action, &mut notes)
        };
        self.connection.authorizer(Some(judge)).map_err(failed)?;
        let result = run(&self.connection, sql, act);
        self.connection.authorizer(None::<for<'r> fn(AuthContext<'r>) -> Authorization>).map_err(failed)?;
        let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        match (result, seen.refused) {
            (Err(_), Some(refused)) => Err(ExplorerError::Refused(refused)),
            (Err(error), None) => Err(error),
            (Ok(value), _) => Ok((value, seen.tables)),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> ExplorerError {
    ExplorerError::Failed(error.to_string())
}

fn invalid(error: &rusqlite::Error) -> ExplorerError {
    let text = if let rusqlite::Error::SqlInputError { msg, .. } = error {
        msg.clone()
    } else if let rusqlite::Error::SqliteFailure(_, Some(message)) = error {
        message.clone()
    } else if matches!(error, rusqlite::Error::MultipleStatement) {
        "one statement at a time".to_owned()
    } else {
        error.to_string()
    };
    ExplorerError::Invalid(text)
}

fn run<T>(
    connection: &Connection,
    sql: &str,
    act: impl FnOnce(&mut Statement<'_>) -> rusqlite::Result<T>,
) -> Result<T, ExplorerError> {
    // `prepare` refuses what follows a first statement; a comment or a lone semicolon is no statement.
    let mut statement = connection.prepare(sql).map_err(|error| invalid(&error))?;
    if statement.column_count() == 0 {
        return Err(ExplorerError::Invalid("there is no statement that returns rows".to_owned()));
    }
    // EXPLAIN reads nothing, and says how the hive is built to whoever asks: it is allowed nowhere else either.
    if !statement.readonly() || statement.is_explain() != 0 {
        return Err(ExplorerError::Refused("this statement".to_owned()));
    }
    act(&mut statement).map_err(|error| invalid(&error))
}

/// Whether preparing may go on. Whatever is not named here is denied.
#[expect(clippy::wildcard_enum_match_arm, reason = "whatever else there is or will be is denied")]
fn judge(tables: &'static [Table], views: &[View], action: &AuthAction<'_>, seen: &mut Seen) -> Authorization {
    let refuse = |seen: &mut Seen, what: String| {
        seen.refused.get_or_insert(what);
        Authorization::Deny
    };
    match action {
        AuthAction::Select | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Read { table_name, column_name } => {
            let same = |name: &str| name.eq_ignore_ascii_case(table_name);
            if let Some(table) = tables.iter().find(|table| same(table.name)) {
                seen.tables.insert(table.name);
                return Authorization::Allow;
            }
            // Counting the rows of a common table expression is told as a read of no column of it.
            let own = column_name.is_empty() && !is_reserved(table_name);
            if own || views.iter().any(|view| same(view.name)) {
                return Authorization::Allow;
            }
            refuse(seen, format!("the table {table_name}"))
        }
        AuthAction::Function { function_name } => {
            let name = function_name.to_ascii_lowercase();
            if FUNCTIONS.contains(&name.as_str()) {
                return Authorization::Allow;
            }
            refuse(seen, format!("the function {name}"))
        }
        other => refuse(seen, word_of(other)),
    }
}

/// Names that belong to SQLite, and to what it can be read out with.
fn is_reserved(table: &str) -> bool {
    let table = table.to_ascii_lowercase();
    ["sqlite_", "pragma_", "dbstat", "json_", "fts", "rtree", "bytecode", "tables_used", "generate_series"]
        .iter()
        .any(|prefix| table.starts_with(prefix))
}

fn word_of(action: &AuthAction<'_>) -> String {
    let debug = format!("{action:?}");
    let word: String = debug.chars().take_while(char::is_ascii_alphanumeric).collect();
    format!("the action {word}")
}

fn collect(statement: &mut Statement<'_>, budget: Budget) -> rusqlite::Result<Found> {
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut columns: Vec<(String, &'static str)> = names.into_iter().map(|name| (name, "null")).collect();
    let (mut found, mut bytes, mut truncated) = (Vec::new(), 0, false);
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if found.len() >= budget.rows || bytes >= budget.bytes {
            truncated = true;
            break;
        }
        let mut cells = Vec::with_capacity(columns.len());
        for (position, (_, kind)) in columns.iter_mut().enumerate() {
            let cell = cell_of(row.get_ref(position)?);
            bytes += match &cell {
                Cell::Text(text) => text.len() + 2,
                Cell::Null | Cell::Integer(_) | Cell::Real(_) => 8,
            };
            if *kind == "null" {
                *kind = kind_of(&cell);
            }
            cells.push(cell);
        }
        found.push(cells);
    }
    Ok(Found { columns, rows: found, truncated })
}

fn cell_of(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Integer(number),
        // JSON has no words for these.
        ValueRef::Real(number) if number.is_finite() => Cell::Real(number),
        ValueRef::Real(number) => Cell::Text(number.to_string()),
        ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Cell::Text(hex::encode(bytes)),
    }
}

fn kind_of(cell: &Cell) -> &'static str {
    match cell {
        Cell::Null => "null",
        Cell::Integer(_) => "integer",
        Cell::Real(_) => "real",
        Cell::Text(_) => "text",
    }
}

/// Memory of this process, bytes; 0 where that cannot be told.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
