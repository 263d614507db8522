//! What people look into, as the web sees the node: data with SQL, and logs, commands and terminals of any node.
//!
//! Handlers translate; the node answers through [`DataApi`], a part of `NodeApi`. Handlers of nodes are in `console` and `terminal`. Never
//! done here: deciding anything.

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use futures::stream::BoxStream;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::Context;
use super::answer::{JsonBody, Params};
use super::legacy::{Answered, plain};
use super::node::{Answer, ByteStream};
use crate::api::{ExecRequest, RecordingList, SqlAnswer, SqlRequest, SqlSchema, SqlTable};

/// Which log of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeLog {
    /// The agent's own.
    Agent,
    /// The machine's.
    System,
    /// The kernel's.
    Kernel,
    /// Portage's.
    Emerge,
}

/// Which part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLogQuery {
    /// Which log.
    pub log: NodeLog,
    /// The last so many lines.
    pub lines: u32,
    /// Only those since then, seconds since 1970, where the log knows times.
    pub since_unix_s: Option<u64>,
    /// Go on with what is written from now on.
    pub follow: bool,
}

/// What goes into a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TerminalKey {
    /// Keys.
    Bytes(Vec<u8>),
    /// The window changed.
    Resize {
        /// Width, characters.
        columns: u16,
        /// Height, characters.
        rows: u16,
    },
}

/// What comes out of a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TerminalWord {
    /// Output, raw.
    Output(Bytes),
    /// It is over.
    Ended {
        /// Of the shell.
        exit_code: Option<i32>,
        /// Why, when it was not the shell that ended.
        why: Option<String>,
    },
}

/// An open terminal. It ends when this is dropped.
pub struct TerminalStream {
    /// Where keys go.
    pub keys: mpsc::Sender<TerminalKey>,
    /// What comes out, to the last word.
    pub words: BoxStream<'static, TerminalWord>,
}

/// What can be looked into.
pub trait DataApi {
    /// Tables and views.
    fn sql_schema(&self) -> Answer<'_, SqlSchema>;
    /// Answers one statement.
    fn sql(&self, request: SqlRequest) -> Answer<'_, SqlAnswer>;
    /// A log of a node, raw.
    fn node_log(&self, name: String, query: NodeLogQuery) -> Answer<'_, ByteStream>;
    /// Runs one command on a node; one JSON object per line.
    fn exec(&self, name: String, request: ExecRequest, by: String) -> Answer<'_, ByteStream>;
    /// Whether a terminal may be opened on a node, and the node's name.
    fn may_open(&self, name: String) -> Answer<'_, String>;
    /// Opens a terminal of so many columns and rows on a node.
    fn terminal(&self, name: String, by: String, size: (u16, u16)) -> Answer<'_, TerminalStream>;
    /// What was recorded on all nodes.
    fn recordings(&self) -> Answer<'_, RecordingList>;
    /// One recording, asciicast v2.
    fn recording(&self, id: String) -> Answer<'_, ByteStream>;
}

pub(super) async fn sql(State(context): State<Context>, JsonBody(request): JsonBody<SqlRequest>) -> Response {
    context.answer(context.node.sql(request).await)
}

#[derive(Deserialize)]
pub(super) struct LegacyQuery {
    #[serde(default)]
    q: String,
}

/// Names alone.
pub(super) async fn legacy_tables(State(context): State<Context>) -> Answered {
    let schema = context.node.sql_schema().await?;
    let names: Vec<String> = schema.tables.into_iter().map(|table| table.name).collect();
    plain(&context, &json!({ "tables": names }))
}

/// Columns by table.
pub(super) async fn legacy_schema(State(context): State<Context>) -> Answered {
    let schema = context.node.sql_schema().await?;
    let columns = |table: &SqlTable| -> Value {
        table.columns.iter().map(|column| json!({ "name": column.name, "type": column.kind })).collect()
    };
    let tables: Map<String, Value> = schema.tables.iter().map(|table| (table.name.clone(), columns(table))).collect();
    plain(&context, &json!({ "schema": tables }))
}

/// Rows as lists, at most a thousand.
pub(super) async fn legacy_query(State(context): State<Context>, Params(params): Params<LegacyQuery>) -> Answered {
    let found = context.node.sql(SqlRequest { query: params.q, limit: None }).await?;
    let columns: Vec<&str> = found.columns.iter().map(|column| column.name.as_str()).collect();
    plain(
        &context,
        &json!({ "columns": columns, "rows": found.rows, "count": found.count, "truncated": found.truncated }),
    )
}

pub(super) async fn schema(State(context): State<Context>) -> Response {
    context.answer(context.node.sql_schema().await)
}
