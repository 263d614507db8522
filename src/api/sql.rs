//! Questions in SQL and their answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Rows of an answer when nothing else is said.
pub const SQL_ROWS_DEFAULT: usize = 1_000;
/// Most rows of an answer.
pub const SQL_ROWS_MAX: usize = 10_000;
/// Longest statement, bytes.
pub const SQL_LENGTH_MAX: usize = 32 << 10;

/// `POST /api/v2/sql`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlRequest {
    /// One SELECT, at most [`SQL_LENGTH_MAX`] bytes.
    pub query: String,
    /// Rows wanted, 1 to [`SQL_ROWS_MAX`]; none: [`SQL_ROWS_DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlColumn {
    /// Its name.
    pub name: String,
    /// Kind of its first value that is not null: `text`, `integer`, `real`; `null` when there is none.
    #[serde(rename = "type")]
    pub kind: String,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SqlAnswer {
    /// Columns.
    pub columns: Vec<SqlColumn>,
    /// Rows: text, numbers and null.
    pub rows: Vec<Vec<Value>>,
    /// Number of the rows here.
    pub count: usize,
    /// There were more rows than wanted, or than an answer may hold.
    pub truncated: bool,
    /// How long the statement ran, milliseconds.
    pub elapsed_ms: u64,
    /// Age of the oldest table that it read, milliseconds.
    pub age_ms: u64,
}

/// What can be asked about: `GET /api/v2/sql/schema`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlSchema {
    /// Tables, then views.
    pub tables: Vec<SqlTable>,
    /// Rows of an answer when nothing else is said.
    pub rows_default: usize,
    /// Most rows of an answer.
    pub rows_max: usize,
    /// Time that a statement has, milliseconds.
    pub timeout_ms: u64,
}

/// A table or a view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlTable {
    /// Its name.
    pub name: String,
    /// `table` or `view`.
    pub kind: String,
    /// What a row is.
    pub meaning: String,
    /// Its columns.
    pub columns: Vec<SqlTableColumn>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlTableColumn {
    /// Its name.
    pub name: String,
    /// `TEXT`, `INTEGER`, `REAL`; empty in a view.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it holds; empty in a view.
    pub meaning: String,
}
