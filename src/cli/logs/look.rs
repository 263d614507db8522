//! `hive logs --grep`, `--phases`, `--first-error`: questions that the node answers that keeps the log.
//!
//! Exit 5 when there is nothing, so that a script can ask. Never done here: reading a whole log.

use super::super::args::LogsArgs;
use super::super::client::{Client, segment};
use super::super::output::{Outcome, Ui};
use super::super::text::{Colour, cell, clean, duration, left, painted, right, table};
use crate::api::{ErrorCode, LogFirstError, LogMatch, LogMatches, LogPhases, PhaseSource};
use crate::engine::id::JobId;

/// What is asked for is not there.
fn nothing() -> Outcome {
    Ok(ErrorCode::NotFound.exit_code())
}

fn path(job: JobId, attempt: Option<u32>, what: &str) -> String {
    let attempt = attempt.map_or_else(String::new, |attempt| format!("?attempt={attempt}"));
    format!("/api/v2/jobs/{job}/log/{what}{attempt}")
}

/// `hive logs JOB --grep TEXT`. A search that runs out of time on a long log goes on by itself.
pub(super) async fn grep(ui: &Ui, client: &Client, job: JobId, text: &str, args: &LogsArgs) -> Outcome {
    let attempt = args.attempt.map_or_else(String::new, |attempt| format!("&attempt={attempt}"));
    let (regex, ignore_case) = (u8::from(args.regex), u8::from(args.ignore_case));
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut all: Vec<LogMatch> = Vec::new();
    let (mut offset, mut line) = (0, 1);
    loop {
        let room = limit - all.len();
        let path = format!(
            "/api/v2/jobs/{job}/log/search?q={}&regex={regex}&ignore_case={ignore_case}&limit={room}&offset={offset}&line={line}{attempt}",
            segment(text)
        );
        let mut found = client.get::<LogMatches>(&path).await?.data;
        // A line that is longer than what is searched at once is answered twice when the search was cut in its middle.
        found.matches.retain(|one| all.last().is_none_or(|last| last.line < one.line));
        if !ui.json {
            for one in &found.matches {
                let number = ui.paint.paint(Colour::Dim, &format!("{}:", one.line));
                ui.text(&format!("{number} {}", clean(&one.text)))?;
            }
        }
        all.append(&mut found.matches);
        let stuck = found.next_offset <= offset && !found.complete;
        (offset, line) = (found.next_offset, found.next_line);
        if !found.complete && all.len() < limit && !stuck {
            continue;
        }
        if !found.complete {
            ui.remark("there is more: raise --limit, or search for something rarer");
        }
        let none = all.is_empty();
        if ui.json {
            ui.data(&LogMatches { matches: all, ..found }, String::new)?;
        } else if none {
            ui.remark("no line matches");
        }
        return if none { nothing() } else { Ok(0) };
    }
}

/// `hive logs JOB --phases`.
pub(super) async fn phases(ui: &Ui, client: &Client, job: JobId, attempt: Option<u32>) -> Outcome {
    let answer = client.get::<LogPhases>(&path(job, attempt, "phases")).await?;
    ui.answer(&answer, |found| {
        let columns = [left("BEGAN", 24), left("PHASE", 80), right("TOOK", 12), right("LINE", 10), right("OFFSET", 14)];
        let rows: Vec<_> = found
            .phases
            .iter()
            .map(|phase| {
                let took = match phase.took_ms {
                    Some(took_ms) => duration(took_ms),
                    None if found.growing => "…".to_owned(),
                    None => "-".to_owned(),
                };
                let name = match phase.source {
                    PhaseSource::Hive => painted(&phase.name, Colour::Strong),
                    PhaseSource::Output => cell(format!("  {}", phase.name)),
                };
                vec![
                    cell(phase.at.to_string()),
                    name,
                    cell(took),
                    cell(phase.line.to_string()),
                    cell(phase.offset.to_string()),
                ]
            })
            .collect();
        let more = if found.cut { "there were more phases than are kept\n" } else { "" };
        if rows.is_empty() {
            "no phases are known of this attempt".to_owned()
        } else {
            table(&columns, &rows, ui.paint) + more
        }
    })?;
    if answer.data.phases.is_empty() { nothing() } else { Ok(0) }
}

/// `hive logs JOB --first-error`.
pub(super) async fn first_error(ui: &Ui, client: &Client, job: JobId, attempt: Option<u32>) -> Outcome {
    let answer = client.get::<LogFirstError>(&path(job, attempt, "first-error")).await?;
    ui.answer(&answer, |found| {
        let Some(error) = &found.error else { return "no line looks like an error".to_owned() };
        let mut out = String::new();
        let mut number = error.line - (error.before.len() as u64).min(error.line);
        let neighbours = |lines: &[String], number: &mut u64, out: &mut String| {
            for text in lines {
                let line = format!("{number:>7}  {}", clean(text));
                out.push_str(&ui.paint.paint(Colour::Dim, &line));
                out.push('\n');
                *number += 1;
            }
        };
        neighbours(&error.before, &mut number, &mut out);
        out.push_str(&ui.paint.paint(Colour::Bad, &format!("{number:>7}> {}", clean(&error.text))));
        out.push('\n');
        number += 1;
        neighbours(&error.after, &mut number, &mut out);
        out
    })?;
    if !answer.data.complete {
        ui.remark("the log is long, and only its beginning was looked through in time");
    }
    if answer.data.error.is_none() { nothing() } else { Ok(0) }
}
