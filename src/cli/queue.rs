//! Commands about jobs: queue add, list, status; job show, cancel; waiting for the end.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::args::{FreshArgs, JobActArgs, JobVerb, QueueAddArgs, QueueVerb};
use super::client::{Answer, Client, segment};
use super::farm_args::Action;
use super::output::{Failure, Outcome, Ui};
use super::text::{clean, duration};
use super::{farm, render};
use crate::api::{
    ApiError, CancelRequest, ErrorCode, JobLine, JobView, SessionState, SessionView, Status, SubmitRequest, Submitted,
    words,
};
use crate::clock;
use crate::engine::id::{JobId, SessionId, id_range};
use crate::engine::job::{AttemptState, JobSpec, JobState, Work};

mod adding;

/// How often a job is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(400);
/// How long an agent may be away (restarted, without quorum) before waiting is given up.
const PATIENCE_MS: u64 = 120_000;
/// How long a node that follows the hive may say that there is no such job: it may be behind the one that took it.
const UNKNOWN_PATIENCE_MS: u64 = 5_000;
/// How long a submission is tried again after the connection broke: the job's id makes that harmless.
const SUBMIT_PATIENCE_MS: u64 = 15_000;
/// Fewest characters of an id that are looked for as its beginning.
const ID_PREFIX_MIN: usize = 4;
/// How many of the newest jobs are searched for the beginning of an id.
const ID_SEARCH_LIMIT: u32 = 1_000;

/// `hive queue …`
pub(crate) async fn queue(ui: &Ui, client: &Client, verb: QueueVerb) -> Outcome {
    match verb {
        QueueVerb::Add(args) => add(ui, client, *args).await,
        QueueVerb::List { state, session, backend, drone, limit } => {
            let mut path = list_path(&state, limit)?;
            for (name, value) in [("session", session), ("backend", backend), ("drone", drone)] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={}", segment(&value)));
                }
            }
            let answer = client.get::<Vec<JobLine>>(&path).await?;
            ui.answer(&answer, |jobs| render::jobs::list(jobs, ui.paint))?;
            if !ui.json && u32::try_from(answer.data.len()) == Ok(limit) {
                ui.remark(&format!("only the newest {limit} were asked for; more: --limit N, at most 1000"));
            }
            Ok(0)
        }
        QueueVerb::Import(args) => farm::import(ui, client, args).await,
        QueueVerb::Status => {
            let answer = client.get::<Status>("/api/v2/status").await?;
            ui.data(&answer.data.queue, || render::queue_line(&answer.data.queue, ui.paint))?;
            Ok(0)
        }
    }
}

fn list_path(states: &[String], limit: u32) -> Result<String, Failure> {
    let known = ["needed", "delegated", "received", "blocked", "failed", "cancelled", "quarantined"];
    if let Some(state) = states.iter().find(|state| !known.contains(&state.as_str())) {
        return Err(Failure::usage(format!("{state:?} is no state of a job"), format!("one of {}", known.join(", "))));
    }
    let filter = if states.is_empty() { String::new() } else { format!("state={}&", states.join(",")) };
    Ok(format!("/api/v2/jobs?{filter}limit={limit}"))
}

/// `hive job …`
pub(crate) async fn job(ui: &Ui, client: &Client, verb: JobVerb) -> Outcome {
    let answer = match verb {
        JobVerb::Show { job } => view(client, resolve(client, &job).await?).await?,
        JobVerb::Cancel { job, reason } => {
            let id = resolve(client, &job).await?;
            client.post::<JobView>(&format!("/api/v2/jobs/{id}/cancel"), &CancelRequest { reason }).await?
        }
        JobVerb::Retry(JobActArgs { job, reason }) => {
            return farm::job(ui, client, Action::RetryFailures, resolve(client, &job).await?, reason).await;
        }
        JobVerb::Block(JobActArgs { job, reason }) => {
            return farm::job(ui, client, Action::Block, resolve(client, &job).await?, reason).await;
        }
        JobVerb::Unblock(JobActArgs { job, reason }) => {
            return farm::job(ui, client, Action::Unblock, resolve(client, &job).await?, reason).await;
        }
    };
    ui.answer(&answer, |job| render::jobs::show(job, ui.paint))?;
    Ok(0)
}

/// A job.
pub(crate) async fn view(client: &Client, id: JobId) -> Result<Answer<JobView>, ApiError> {
    client.get::<JobView>(&format!("/api/v2/jobs/{id}")).await
}

/// The job that a person means by an id or the beginning of one.
pub(crate) async fn resolve(client: &Client, text: &str) -> Result<JobId, Failure> {
    if text.parse::<JobId>().is_err() && !is_beginning(text) {
        let hint = "ids are shown by: hive queue list";
        return Err(Failure::usage(format!("{:?} is no job id", text.chars().take(80).collect::<String>()), hint));
    }
    let unknown = || {
        let message = format!("no job begins with {}", text.to_ascii_lowercase());
        Failure::new(ErrorCode::NotFound, message, "see: hive queue list --limit 1000")
    };
    find(client, text).await?.ok_or_else(unknown)
}

fn is_beginning(text: &str) -> bool {
    text.len() >= ID_PREFIX_MIN && id_range(text).is_some()
}

/// The job with this id, or the one whose id begins so; none when the text begins no id.
pub(crate) async fn find(client: &Client, text: &str) -> Result<Option<JobId>, Failure> {
    if let Ok(id) = text.parse::<JobId>() {
        return Ok(Some(id));
    }
    if !is_beginning(text) {
        return Ok(None);
    }
    let wanted = text.to_ascii_lowercase();
    let jobs = client.get::<Vec<JobLine>>(&format!("/api/v2/jobs?id={wanted}&limit={ID_SEARCH_LIMIT}")).await?.data;
    // An older agent does not choose by the beginning.
    let mut found = jobs.iter().map(|job| job.id).filter(|id| id.to_string().starts_with(&wanted));
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => {
            Err(Failure::usage(format!("more than one job begins with {wanted}"), "give more of its id"))
        }
        (first, _) => Ok(first),
    }
}

async fn add(ui: &Ui, client: &Client, args: QueueAddArgs) -> Outcome {
    let jobs = adding::jobs(ui, client, &args).await?;
    let session = SessionId(Uuid::new_v4());
    let request = SubmitRequest { session, name: args.session_name.clone(), profile: args.profile.clone(), jobs };
    hand_in(ui, client, &request, args.wait).await
}

/// `hive fresh …`
pub(crate) async fn fresh(ui: &Ui, client: &Client, args: FreshArgs) -> Outcome {
    let mut drones = adding::drones_with(client, "emerge").await?;
    let drone = match args.drone {
        Some(name) if drones.contains(&name) => name,
        Some(name) => {
            let hint = format!(
                "drones with Portage: {}",
                if drones.is_empty() { "none".to_owned() } else { drones.join(", ") }
            );
            return Err(Failure::usage(format!("{} is no drone with Portage", clean(&name)), hint));
        }
        None if drones.len() == 1 => drones.remove(0),
        None if drones.is_empty() => {
            return Err(Failure::usage("no drone of this hive has Portage", "see: hive fleet"));
        }
        None => {
            let hint = format!("say whose @world: --drone, one of {}", drones.join(", "));
            return Err(Failure::usage(format!("{} drones have Portage", drones.len()), hint));
        }
    };
    let work = Work::Resolve { targets: vec!["@world".to_owned()], empty_tree: args.empty_tree };
    let target = format!("@world of {drone}");
    let labels = std::iter::once(format!("node:{drone}")).collect();
    let spec = JobSpec { pure: true, labels, ..JobSpec::new(JobId(Uuid::new_v4()), target.clone(), work) };
    let session = SessionId(Uuid::new_v4());
    let request = SubmitRequest { session, name: target, profile: args.profile, jobs: vec![spec] };
    hand_in(ui, client, &request, args.wait).await
}

async fn hand_in(ui: &Ui, client: &Client, request: &SubmitRequest, waits: bool) -> Outcome {
    let answer = submit(client, request).await?;
    if !waits {
        ui.answer(&answer, |submitted| {
            submitted.jobs.iter().map(|job| format!("{}  {}\n", job.id, clean(&job.target))).collect()
        })?;
        return Ok(0);
    }
    for job in &answer.data.jobs {
        ui.remark(&format!("{}  {} queued", job.id, clean(&job.target)));
    }
    let ids: Vec<JobId> = answer.data.jobs.iter().map(|job| job.id).collect();
    let done = wait(ui, client, &ids).await?;
    if request.jobs.iter().any(|spec| matches!(spec.work, Work::Resolve { .. })) {
        return wait_for_session(ui, client, request.session).await;
    }
    let all_good = done.iter().all(|job| job.state == JobState::Received);
    let states: BTreeMap<JobId, JobState> = done.iter().map(|job| (job.id, job.state)).collect();
    let data = json!({
        "session": answer.data.session,
        "jobs": answer.data.jobs.iter().map(|job| json!({ "id": job.id, "target": job.target, "state": states.get(&job.id) })).collect::<Vec<_>>(),
    });
    ui.data(&data, || done.iter().map(|job| format!("{}  {}\n", job.id, words::job_state(job.state))).collect())?;
    Ok(u8::from(!all_good))
}

/// Follows what a resolution found until all of it is over or blocked.
async fn wait_for_session(ui: &Ui, client: &Client, id: SessionId) -> Outcome {
    let started = clock::now_ms();
    let mut last_answer = started;
    let session = loop {
        match client.get::<SessionView>(&format!("/api/v2/sessions/{id}")).await {
            Ok(answer) => {
                last_answer = clock::now_ms();
                let (line, counts) = (&answer.data.line, &answer.data.counts);
                let moves = counts.needed + counts.delegated > 0;
                let over = match line.phase {
                    SessionState::Resolving | SessionState::Importing => false,
                    SessionState::Active => !moves,
                    SessionState::Completed | SessionState::Cancelled | SessionState::Failed => true,
                };
                if over {
                    break answer.data;
                }
                let (done, total) = (line.completed_packages, line.total_packages);
                let waited = duration(clock::now_ms() - started);
                ui.show_progress(&format!("{done} of {total} done, {} under way, after {waited}", counts.delegated));
            }
            Err(error) if clock::now_ms() - last_answer < patience_ms(&error) => {
                ui.show_progress(&format!("waiting for the agent: {}", clean(&error.message)));
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(POLL).await;
    };
    ui.clear_progress();
    let good = session.line.phase == SessionState::Completed;
    ui.data(&session, || render::farm::session(&session, ui.paint))?;
    Ok(u8::from(!good))
}

async fn submit(client: &Client, request: &SubmitRequest) -> Result<Answer<Submitted>, Failure> {
    // An agent that is not there at all is said at once; only one that goes away meanwhile is waited for.
    if let Err(error) = client.get::<serde_json::Value>("/api/v2/health").await
        && matches!(error.code, ErrorCode::Unreachable | ErrorCode::Forbidden)
    {
        return Err(error.into());
    }
    let file_bytes = request.jobs.iter().map(|job| job.work.archive().map_or(0, |(_, size)| size)).sum();
    let deadline = clock::now_ms() + SUBMIT_PATIENCE_MS;
    loop {
        match client.post_with_files::<Submitted>("/api/v2/jobs", request, file_bytes).await {
            Err(error) if error.code == ErrorCode::Unreachable && clock::now_ms() < deadline => {
                tokio::time::sleep(POLL).await
            }
            other => return other.map_err(Failure::from),
        }
    }
}

/// Follows jobs until each is over or blocked, with progress on standard error. Survives an agent that is away for a while.
pub(crate) async fn wait(ui: &Ui, client: &Client, ids: &[JobId]) -> Result<Vec<JobView>, Failure> {
    let started = clock::now_ms();
    let mut done: BTreeMap<JobId, JobView> = BTreeMap::new();
    let mut told: BTreeMap<JobId, String> = BTreeMap::new();
    let mut last_answer = started;
    while done.len() < ids.len() {
        for id in ids {
            if done.contains_key(id) {
                continue;
            }
            let job = match view(client, *id).await {
                Ok(answer) => answer.data,
                Err(error) if clock::now_ms() - last_answer < patience_ms(&error) => {
                    ui.show_progress(&format!("waiting for the agent: {}", clean(&error.message)));
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            last_answer = clock::now_ms();
            let line = progress_line(&job);
            if told.insert(*id, line.clone()).as_ref() != Some(&line) {
                ui.remark(&format!("{}  {line}", short(*id)));
            }
            if job.state.is_terminal() || job.state == JobState::Blocked {
                done.insert(*id, job);
            }
        }
        if done.len() < ids.len() {
            let waited = duration(clock::now_ms() - started);
            ui.show_progress(&format!("{} of {} done after {waited}", done.len(), ids.len()));
            tokio::time::sleep(POLL).await;
        }
    }
    ui.clear_progress();
    Ok(ids.iter().filter_map(|id| done.remove(id)).collect())
}

/// How long the same question is asked again after this answer, because another one may come; 0: not at all.
pub(crate) fn patience_ms(error: &ApiError) -> u64 {
    match error.code {
        ErrorCode::Unreachable | ErrorCode::NoQuorum | ErrorCode::Timeout => PATIENCE_MS,
        ErrorCode::NotFound => UNKNOWN_PATIENCE_MS,
        ErrorCode::Invalid
        | ErrorCode::Unauthorized
        | ErrorCode::Forbidden
        | ErrorCode::Conflict
        | ErrorCode::NotRecorded
        | ErrorCode::Degraded
        | ErrorCode::Internal => 0,
    }
}

fn short(id: JobId) -> String {
    id.to_string().chars().take(8).collect()
}

fn progress_line(job: &JobView) -> String {
    let state = words::job_state(job.state);
    let attempt = job.attempts.last();
    match (job.state, attempt) {
        (JobState::Delegated, Some(attempt)) => {
            let again = if attempt.attempt > 1 { format!(", try {}", attempt.attempt) } else { String::new() };
            format!("{} on {}{again}", words::attempt_state(attempt.state), clean(&attempt.node))
        }
        (JobState::Needed, Some(attempt)) if attempt.state.is_over() && attempt.state != AttemptState::Accepted => {
            let why = attempt.reason.as_deref().unwrap_or("");
            format!(
                "{} on {}: {}; will be tried again",
                words::attempt_state(attempt.state),
                clean(&attempt.node),
                clean(why)
            )
        }
        (JobState::Received, _) => format!("{state}, {} artifacts", job.artifacts.len()),
        (JobState::Failed | JobState::Blocked | JobState::Cancelled | JobState::Quarantined, _) => {
            format!(
                "{state}: {} (hive logs {})",
                clean(job.reason.as_deref().unwrap_or("no reason given")),
                short(job.id)
            )
        }
        (JobState::Needed | JobState::Delegated, _) => {
            job.waiting_for.as_deref().map_or_else(|| state.to_owned(), |why| format!("{state}: {}", clean(why)))
        }
    }
}
