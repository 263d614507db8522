//! `hive wire`: what passes between nodes, as a list, one record with its fields, conversations, and captures for packet analysers.
//!
//! Filters are checked before anything is asked, so that a mistake is shown under the place where it stands.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::client::{Client, segment};
use super::output::{Failure, Outcome, Ui};
use super::text::{Cell, Colour, bytes as size_of, cell, clean, clean_lines, left, painted, right, table};
use crate::api::{ApiError, ErrorCode, WireConversations, WireDetail, WireList, WireNode};
use crate::engine::wire::Record;
use crate::engine::wire::filter::Filter;

/// Pause between two looks of `--follow`.
const FOLLOW_EVERY: Duration = Duration::from_millis(300);
/// Nodes' clocks differ; so far back records of other nodes are looked for again, microseconds.
const CLOCKS_US: u64 = 3_000_000;
/// Records whose ids are remembered while following several nodes.
const SEEN_MAX: usize = 20_000;

/// `hive wire`
#[derive(Debug, Args)]
#[command(after_help = "Filters: field op value, joined by && and ||, turned by !, grouped by ( ).\n  \
                  Fields: from to protocol kind job session bytes latency status verdict node sent path trace summary\n  \
                  Comparisons: == != < <= > >= contains matches in\n\
                  Examples:\n  hive wire --filter 'kind == \"ADVICE\" && from == \"build1\"'\n  \
                  hive wire --filter 'latency > 20ms || bytes >= 4KiB' --node all --follow\n  \
                  hive wire --filter 'verdict in (\"wrong_secret\", \"replay\")'\n  \
                  hive wire --filter 'job == \"018f3c2e\"' --node all --conversations\n  \
                  hive wire --node all --export hive.pcapng")]
pub(crate) struct WireArgs {
    /// Show this record, NUMBER@NODE, with what it says.
    #[arg(value_name = "RECORD", conflicts_with_all = ["filter", "follow", "export", "conversations"])]
    record: Option<String>,
    /// Only records that fit this filter.
    #[arg(long, value_name = "FILTER", default_value = "")]
    filter: String,
    /// As this node saw it, or `all` nodes [default: the node that is asked].
    #[arg(long, value_name = "NODE|all")]
    node: Option<String>,
    /// Go on with what passes from now on.
    #[arg(short, long, conflicts_with_all = ["export", "conversations"])]
    follow: bool,
    /// Only after this record's number or this time.
    #[arg(long, value_name = "NUMBER|TIME")]
    since: Option<String>,
    /// At most so many, the newest [default: 50; all for --export].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: Option<u32>,
    /// Put questions and answers together.
    #[arg(long)]
    conversations: bool,
    /// Write a capture: FILE.pcapng for packet analysers, FILE.jsonl for programs.
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Overwrite FILE.
    #[arg(long, requires = "export")]
    force: bool,
}

/// `hive wire`.
pub(crate) async fn wire(ui: &Ui, client: &Client, args: WireArgs) -> Outcome {
    if let Some(record) = &args.record {
        return show(ui, client, record).await;
    }
    if let Err(error) = Filter::parse(&args.filter) {
        let mark = format!("{}\n{}^", clean(&args.filter), " ".repeat(error.position.saturating_sub(1)));
        return Err(Failure::usage(
            format!("--filter: {error}\n{mark}"),
            "hive wire --help shows what filters are made of",
        ));
    }
    if let Some(file) = &args.export {
        return export(ui, client, &args, file).await;
    }
    if args.conversations {
        return conversations(ui, client, &args).await;
    }
    if args.follow {
        return follow(ui, client, args).await;
    }
    let answer = client.get::<WireList>(&path("", &args, args.limit.unwrap_or(50), args.since.as_deref())).await?;
    ui.answer(&answer, |list| records(&list.records, true, ui))?;
    problems(ui, &answer.data.nodes);
    Ok(0)
}

fn path(what: &str, args: &WireArgs, limit: u32, since: Option<&str>) -> String {
    let mut path = format!("/api/v2/wire{what}?limit={limit}");
    for (name, value) in [("filter", Some(args.filter.as_str())), ("node", args.node.as_deref()), ("since", since)] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            path.push_str(&format!("&{name}={}", segment(value)));
        }
    }
    path
}

fn problems(ui: &Ui, nodes: &[WireNode]) {
    for node in nodes {
        if let Some(problem) = &node.problem {
            ui.remark(&format!("{} does not tell: {}", clean(&node.name), clean(problem)));
        }
    }
}

fn verdict(text: &str) -> Cell {
    match text {
        "sent" | "taken" => painted(text, Colour::Dim),
        other => painted(other, Colour::Bad),
    }
}

fn took(latency_ms: Option<f64>) -> String {
    latency_ms.map_or_else(String::new, |ms| if ms < 100.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") })
}

fn records(records: &[Record], with_head: bool, ui: &Ui) -> String {
    if records.is_empty() && with_head {
        return "nothing that fits has passed lately".to_owned();
    }
    let columns = [
        left("TIME", 24),
        left("FROM", 22),
        left("TO", 22),
        left("PROTOCOL", 9),
        left("KIND", 18),
        right("BYTES", 8),
        right("TOOK", 10),
        left("STATUS", 10),
        left("VERDICT", 14),
        left("SUMMARY", 100),
    ];
    let rows: Vec<Vec<Cell>> = records
        .iter()
        .map(|record| {
            vec![
                cell(record.at.to_string()),
                cell(&record.from),
                cell(&record.to),
                cell(record.protocol.as_str()),
                painted(&record.kind, Colour::Strong),
                cell(record.bytes.to_string()),
                cell(took(record.latency_ms)),
                cell(record.status.as_deref().unwrap_or("")),
                verdict(&record.verdict),
                cell(&record.summary),
            ]
        })
        .collect();
    let text = table(&columns, &rows, ui.paint);
    if with_head { text } else { text.split_once('\n').map_or_else(String::new, |(_, rest)| rest.to_owned()) }
}

async fn follow(ui: &Ui, client: &Client, args: WireArgs) -> Outcome {
    let several = args.node.as_deref() == Some("all");
    let mut since = args.since.clone();
    let mut seen: BTreeSet<(u64, String)> = BTreeSet::new();
    let mut first = true;
    loop {
        let limit = if first { args.limit.unwrap_or(10) } else { 2_000 };
        let mut list = client.get::<WireList>(&path("", &args, limit, since.as_deref())).await?.data;
        list.records.retain(|record| seen.insert((record.number, record.id.clone())));
        while seen.len() > SEEN_MAX {
            seen.pop_first();
        }
        if ui.json {
            list.records.iter().try_for_each(|record| ui.raw_json(record))?;
        } else if first || !list.records.is_empty() {
            ui.text(&records(&list.records, first, ui))?;
        }
        if first {
            problems(ui, &list.nodes);
        }
        first = false;
        // A node whose clock is behind tells what is older than the newest of another.
        let next = if several { list.latest.saturating_sub(CLOCKS_US) } else { list.latest };
        since = Some(next.to_string());
        if !list.more {
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    }
}

async fn conversations(ui: &Ui, client: &Client, args: &WireArgs) -> Outcome {
    let path = path("/conversations", args, args.limit.unwrap_or(50), args.since.as_deref());
    let answer = client.get::<WireConversations>(&path).await?;
    ui.answer(&answer, |found| {
        if found.conversations.is_empty() {
            return "nothing that fits has passed lately".to_owned();
        }
        let columns = [
            left("BEGAN", 24),
            left("FROM", 22),
            left("TO", 22),
            left("PROTOCOL", 9),
            left("KINDS", 40),
            right("BYTES", 8),
            right("TOOK", 10),
            left("STATUS", 10),
            left("VERDICT", 14),
            left("JOB", 36),
            left("SEEN BY", 40),
        ];
        let row = |one: &crate::engine::wire::look::Conversation| {
            vec![
                cell(one.began.to_string()),
                cell(&one.from),
                cell(&one.to),
                cell(one.protocol.as_str()),
                painted(one.kinds.join(", "), Colour::Strong),
                cell(one.bytes.to_string()),
                cell(took(one.latency_ms)),
                cell(one.status.as_deref().unwrap_or("")),
                verdict(&one.verdict),
                cell(one.job.as_deref().unwrap_or("")),
                cell(one.nodes.join(", ")),
            ]
        };
        table(&columns, &found.conversations.iter().rev().map(row).collect::<Vec<_>>(), ui.paint)
    })?;
    problems(ui, &answer.data.nodes);
    Ok(0)
}

async fn show(ui: &Ui, client: &Client, record: &str) -> Outcome {
    let answer = client.get::<WireDetail>(&format!("/api/v2/wire/{}", segment(record))).await?;
    ui.answer(&answer, |found| {
        let fields = serde_json::to_string_pretty(&found.fields).unwrap_or_default();
        let mut text = records(std::slice::from_ref(&found.record), true, ui);
        text.push_str(&format!(
            "\ntrace {}, {} of {} bytes kept\n\n",
            found.record.trace, found.kept_bytes, found.record.bytes
        ));
        text.push_str(&clean_lines(&fields));
        if !found.related.is_empty() {
            text.push_str(&format!("\n\n{}\n", ui.paint.paint(Colour::Dim, "WITH THE SAME TRACE")));
            text.push_str(&records(&found.related, true, ui));
        }
        text
    })?;
    Ok(0)
}

async fn export(ui: &Ui, client: &Client, args: &WireArgs, file: &Path) -> Outcome {
    let format = match file.extension().and_then(|extension| extension.to_str()) {
        Some("pcapng") => "pcapng",
        Some("jsonl" | "ndjson") => "jsonl",
        _ => return Err(Failure::usage("the name of the file says its form", "name it FILE.pcapng or FILE.jsonl")),
    };
    if !args.force && file.symlink_metadata().is_ok() {
        let message = format!("{} is there already and is not overwritten", file.display());
        return Err(Failure::new(ErrorCode::Conflict, message, "add --force, or name another file"));
    }
    let failed = |error: std::io::Error| {
        Failure::internal(format!("cannot write {}: {error}", file.display()), "name a place that can be written")
    };
    let path = path("/export", args, args.limit.unwrap_or(100_000), args.since.as_deref()) + "&format=" + format;
    let mut stream = client.stream(&path, false).await?;
    let mut partial = file.as_os_str().to_owned();
    partial.push(".part");
    let partial = Path::new(&partial);
    let mut out = File::create(partial).map_err(failed)?;
    let mut length = 0u64;
    loop {
        match stream.next().await {
            Ok(Some(bytes)) => {
                out.write_all(&bytes).map_err(failed)?;
                length += bytes.len() as u64;
            }
            Ok(None) => break,
            Err(error) => {
                fs::remove_file(partial).ok();
                return Err(ApiError::new(
                    ErrorCode::Unreachable,
                    format!("the export broke off: {error}"),
                    "try again",
                )
                .into());
            }
        }
    }
    fs::rename(partial, file).map_err(failed)?;
    ui.data(&json!({ "file": file, "size": length, "format": format }), || {
        format!("{}  {}", file.display(), size_of(length))
    })?;
    Ok(0)
}
