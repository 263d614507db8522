//! `hive sql`: one SELECT on this node's data, as a table, as CSV or as JSON.
//!
//! Never done here: judging statements (the agent does).

use std::io::Read as _;

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::output::{Failure, Outcome, Ui};
use super::text::{self, Cell};
use crate::api::{SQL_LENGTH_MAX, SqlAnswer, SqlRequest, SqlSchema};

/// Widest column of a table, characters.
const COLUMN_MAX: usize = 60;

/// `hive sql …`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  hive sql --schema\n  hive sql \"SELECT state, count(*) FROM jobs GROUP BY state\"\n  \
                        hive sql --csv \"SELECT package, duration_s FROM attempts WHERE state = 'accepted'\" > builds.csv"
)]
pub(crate) struct SqlArgs {
    /// One SELECT; `-` reads it from standard input.
    #[arg(value_name = "SELECT", required_unless_present = "schema")]
    pub(crate) query: Option<String>,
    /// Show the tables with their columns.
    #[arg(long, conflicts_with_all = ["query", "csv", "limit"])]
    pub(crate) schema: bool,
    /// Comma-separated values with a first line of names.
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
    /// At most so many rows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: Option<u32>,
}

/// Asks and shows.
pub(crate) async fn sql(ui: &Ui, client: &Client, args: SqlArgs) -> Outcome {
    if args.schema {
        let answer = client.get::<SqlSchema>("/api/v2/sql/schema").await?;
        ui.answer(&answer, |schema| shown_schema(ui, schema))?;
        return Ok(0);
    }
    let query = match args.query.as_deref() {
        Some("-") => from_stdin()?,
        Some(query) => query.to_owned(),
        None => String::new(),
    };
    let request = SqlRequest { query, limit: args.limit.map(|limit| limit as usize) };
    let answer = client.post::<SqlAnswer>("/api/v2/sql", &request).await?;
    if args.csv {
        ui.bytes(csv(&answer.data).as_bytes())?;
    } else {
        ui.answer(&answer, |found| table(ui, found))?;
    }
    if answer.data.truncated && !ui.json {
        ui.remark(&format!("the first {} rows; there are more: --limit N, at most 10000, or WHERE", answer.data.count));
    }
    Ok(0)
}

fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let mut input = std::io::stdin().lock().take(SQL_LENGTH_MAX as u64 + 1);
    let read = input.read_to_string(&mut text);
    read.map_err(|error| Failure::usage(format!("standard input cannot be read: {error}"), "send one SELECT"))?;
    Ok(text)
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn table(ui: &Ui, found: &SqlAnswer) -> String {
    let is_number = |kind: &str| matches!(kind, "integer" | "real");
    let columns: Vec<text::Column<'_>> = found
        .columns
        .iter()
        .map(|column| text::Column { head: &column.name, max: COLUMN_MAX, right: is_number(&column.kind) })
        .collect();
    let cells = |row: &Vec<Value>| -> Vec<Cell> { row.iter().map(|value| text::cell(shown(value))).collect() };
    let rows: Vec<Vec<Cell>> = found.rows.iter().map(cells).collect();
    text::table(&columns, &rows, ui.paint)
}

/// As RFC 4180 has it. What spreadsheets would run as a formula is left as it is: whoever opens a file of foreign text says how.
fn csv(found: &SqlAnswer) -> String {
    let field = |text: &str| {
        let text = text::clean_lines(text);
        if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
    };
    let mut out = found.columns.iter().map(|column| field(&column.name)).collect::<Vec<_>>().join(",");
    out.push_str("\r\n");
    for row in &found.rows {
        out.push_str(&row.iter().map(|value| field(&shown(value))).collect::<Vec<_>>().join(","));
        out.push_str("\r\n");
    }
    out
}

fn shown_schema(ui: &Ui, schema: &SqlSchema) -> String {
    let mut out = String::new();
    for table in &schema.tables {
        out.push_str(&format!(
            "{}  ({}) {}\n",
            ui.paint.paint(text::Colour::Strong, &table.name),
            table.kind,
            table.meaning
        ));
        for column in &table.columns {
            let kind = column.kind.to_lowercase();
            out.push_str(format!("  {:<20} {kind:<8} {}", column.name, column.meaning).trim_end());
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::SqlColumn;

    #[test]
    fn csv_quotes_what_needs_it_and_carries_no_escape_sequence() {
        let column = |name: &str| SqlColumn { name: name.to_owned(), kind: "text".to_owned() };
        let found = SqlAnswer {
            columns: vec![column("id"), column("a,b")],
            rows: vec![vec![json!(7), json!("say \"x\"\nand \u{1b}[31mred")], vec![json!(null), json!(0.5)]],
            count: 2,
            truncated: false,
            elapsed_ms: 1,
            age_ms: 0,
        };
        let text = csv(&found);
        assert!(text.starts_with("id,\"a,b\"\r\n7,\"say \"\"x\"\"\nand "), "{text:?}");
        assert!(text.ends_with("\r\n,0.5\r\n") && !text.contains('\u{1b}'), "{text:?}");
    }
}
