//! Jobs, attempts and artifacts as text.

use crate::api::{ArtifactView, JobLine, JobView, words};
use crate::cli::text::{Cell, Colour, Paint, bytes, cell, clean, duration, left, painted, right, table};
use crate::engine::id::UnixMillis;
use crate::engine::job::{AttemptState, JobState};

fn state_colour(state: JobState) -> Option<Colour> {
    match state {
        JobState::Needed | JobState::Delegated => None,
        JobState::Received => Some(Colour::Good),
        JobState::Blocked => Some(Colour::Doubtful),
        JobState::Failed | JobState::Quarantined => Some(Colour::Bad),
        JobState::Cancelled => Some(Colour::Dim),
    }
}

fn state_cell(state: JobState) -> Cell {
    state_colour(state).map_or_else(|| cell(words::job_state(state)), |colour| painted(words::job_state(state), colour))
}

/// Date and time to the second, without the characters that make RFC 3339 hard to read.
pub(super) fn time(at: UnixMillis) -> String {
    let text = at.to_string();
    format!("{} {}", text.get(..10).unwrap_or("-"), text.get(11..19).unwrap_or("-"))
}

/// `hive queue list`.
pub(crate) fn list(jobs: &[JobLine], paint: Paint) -> String {
    if jobs.is_empty() {
        return "no jobs\n".to_owned();
    }
    let columns = [
        left("ID", 8),
        left("STATE", 11),
        left("TARGET", 22),
        right("TRY", 3),
        left("NODE", 12),
        left("WAITS FOR", 200),
    ];
    let rows: Vec<Vec<Cell>> = jobs
        .iter()
        .map(|job| {
            let id: String = job.id.to_string().chars().take(8).collect();
            vec![
                cell(id),
                state_cell(job.state),
                cell(&job.target),
                cell(job.attempts.to_string()),
                cell(job.node.as_deref().unwrap_or("-")),
                cell(job.waiting_for.as_deref().unwrap_or("")),
            ]
        })
        .collect();
    table(&columns, &rows, paint)
}

/// `hive job show`.
pub(crate) fn show(job: &JobView, paint: Paint) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: &str| out.push_str(&format!("{label:<12} {text}\n"));
    line("job", &job.id.to_string());
    let state = words::job_state(job.state);
    line("state", &state_colour(job.state).map_or_else(|| state.to_owned(), |colour| paint.paint(colour, state)));
    line("target", &format!("{} ({})", clean(&job.target), clean(&job.backend)));
    if let Some(why) = &job.waiting_for {
        line("waits for", &clean(why));
    }
    if let Some(reason) = &job.reason {
        line("because", &clean(reason));
    }
    if !job.depends_on.is_empty() {
        let ids = job.depends_on.iter().take(4).map(|id| id.to_string().chars().take(8).collect::<String>());
        let more = if job.depends_on.len() > 4 { " …" } else { "" };
        line("after", &format!("{} jobs: {}{more}", job.depends_on.len(), ids.collect::<Vec<_>>().join(", ")));
    }
    if let Some(estimate_ms) = job.estimate_ms {
        line("takes about", &duration(estimate_ms));
    }
    let labels =
        if job.labels.is_empty() { String::new() } else { format!(", needs {}", clean(&job.labels.join(", "))) };
    let pure = if job.pure { ", pure" } else { "" };
    line("priority", &format!("{}{pure}{labels}", job.priority));
    line("queued", &format!("{} by {}, session {}", time(job.submitted_at), clean(&job.submitter), job.session));
    if !job.attempts.is_empty() {
        out.push('\n');
        out.push_str(&attempts(job, paint));
    }
    if !job.artifacts.is_empty() {
        out.push('\n');
        let columns = [left("ARTIFACT", 44), right("SIZE", 10), left("SHA-256", 16)];
        let rows: Vec<Vec<Cell>> = job
            .artifacts
            .iter()
            .map(|artifact| vec![cell(&artifact.name), cell(bytes(artifact.size)), cell(artifact.sha256.to_string())])
            .collect();
        out.push_str(&table(&columns, &rows, paint));
    }
    out
}

fn attempts(job: &JobView, paint: Paint) -> String {
    let columns = [
        right("TRY", 3),
        left("NODE", 14),
        left("STATE", 9),
        left("STARTED", 19),
        left("ENDED", 8),
        right("EXIT", 4),
        left("WHY", 200),
    ];
    let rows: Vec<Vec<Cell>> = job
        .attempts
        .iter()
        .map(|attempt| {
            let colour = match attempt.state {
                AttemptState::Accepted => Some(Colour::Good),
                AttemptState::Failed | AttemptState::Lost => Some(Colour::Bad),
                AttemptState::Stale | AttemptState::Cancelled => Some(Colour::Dim),
                AttemptState::Assigned | AttemptState::Building | AttemptState::Uploading => None,
            };
            let word = words::attempt_state(attempt.state);
            let class = attempt.class.map_or_else(String::new, |class| format!("{}: ", words::class(class)));
            let ended = attempt.ended_at.map(time);
            vec![
                cell(attempt.attempt.to_string()),
                cell(&attempt.node),
                colour.map_or_else(|| cell(word), |colour| painted(word, colour)),
                cell(attempt.started_at.map_or_else(|| "-".to_owned(), time)),
                cell(ended.as_deref().and_then(|text| text.get(11..)).unwrap_or("-")),
                cell(attempt.exit_code.map_or_else(|| "-".to_owned(), |code| code.to_string())),
                cell(format!("{class}{}", attempt.reason.as_deref().unwrap_or(""))),
            ]
        })
        .collect();
    table(&columns, &rows, paint)
}

/// `hive artifact list`.
pub(crate) fn artifacts(artifacts: &[ArtifactView], paint: Paint) -> String {
    if artifacts.is_empty() {
        return "no artifacts\n".to_owned();
    }
    let columns = [left("NAME", 60), right("SIZE", 10), left("SHA-256", 64)];
    let rows: Vec<Vec<Cell>> = artifacts
        .iter()
        .map(|artifact| vec![cell(&artifact.name), cell(bytes(artifact.size)), cell(artifact.sha256.to_string())])
        .collect();
    table(&columns, &rows, paint)
}
