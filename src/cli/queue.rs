//! Commands about jobs: queue add, list, status; job show, cancel; waiting for the end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::args::{Backend, JobVerb, QueueAddArgs, QueueVerb};
use super::client::{Answer, Client};
use super::output::{Failure, Outcome, Ui};
use super::text::{bytes, clean, duration};
use super::{pack, render};
use crate::api::{
    ApiError, CancelRequest, ErrorCode, JobLine, JobView, Status, StoredBlob, SubmitRequest, Submitted, words,
};
use crate::clock;
use crate::engine::grammar::{self, GrammarError};
use crate::engine::id::{JobId, SessionId};
use crate::engine::job::{AttemptState, DebianSource, JobSpec, JobState, Limits, Source, Work};

/// How often a job is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(400);
/// How long an agent may be away (restarted, without quorum) before waiting is given up.
const PATIENCE_MS: u64 = 120_000;
/// How long a node that follows the hive may say that there is no such job: it may be behind the one that took it.
const UNKNOWN_PATIENCE_MS: u64 = 5_000;
/// How long a submission is tried again after the connection broke: the job's id makes that harmless.
const SUBMIT_PATIENCE_MS: u64 = 15_000;
/// Most jobs of one `queue add`.
const SOURCES_MAX: usize = 64;
/// Fewest characters of an id that are looked for as its beginning.
const ID_PREFIX_MIN: usize = 4;
/// How many of the newest jobs are searched for the beginning of an id.
const ID_SEARCH_LIMIT: u32 = 1_000;

/// `hive queue …`
pub(crate) async fn queue(ui: &Ui, client: &Client, verb: QueueVerb) -> Outcome {
    match verb {
        QueueVerb::Add(args) => add(ui, client, *args).await,
        QueueVerb::List { state, limit } => {
            let path = list_path(&state, limit)?;
            let answer = client.get::<Vec<JobLine>>(&path).await?;
            ui.answer(&answer, |jobs| render::jobs::list(jobs, ui.paint))?;
            if !ui.json && u32::try_from(answer.data.len()) == Ok(limit) {
                ui.remark(&format!("only the newest {limit} were asked for; more: --limit N, at most 1000"));
            }
            Ok(0)
        }
        QueueVerb::Status => {
            let answer = client.get::<Status>("/api/v1/status").await?;
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
    Ok(format!("/api/v1/jobs?{filter}limit={limit}"))
}

/// `hive job …`
pub(crate) async fn job(ui: &Ui, client: &Client, verb: JobVerb) -> Outcome {
    let answer = match verb {
        JobVerb::Show { job } => view(client, resolve(client, &job).await?).await?,
        JobVerb::Cancel { job, reason } => {
            let id = resolve(client, &job).await?;
            client.post::<JobView>(&format!("/api/v1/jobs/{id}/cancel"), &CancelRequest { reason }).await?
        }
    };
    ui.answer(&answer, |job| render::jobs::show(job, ui.paint))?;
    Ok(0)
}

/// A job.
pub(crate) async fn view(client: &Client, id: JobId) -> Result<Answer<JobView>, ApiError> {
    client.get::<JobView>(&format!("/api/v1/jobs/{id}")).await
}

/// The job that a person means by an id or the beginning of one.
pub(crate) async fn resolve(client: &Client, text: &str) -> Result<JobId, Failure> {
    if let Ok(id) = text.parse::<JobId>() {
        return Ok(id);
    }
    let is_prefix =
        (ID_PREFIX_MIN..36).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if !is_prefix {
        let hint = "ids are shown by: hive queue list";
        return Err(Failure::usage(format!("{:?} is no job id", text.chars().take(80).collect::<String>()), hint));
    }
    let jobs = client.get::<Vec<JobLine>>(&format!("/api/v1/jobs?limit={ID_SEARCH_LIMIT}")).await?.data;
    let wanted = text.to_ascii_lowercase();
    let mut found = jobs.iter().map(|job| job.id).filter(|id| id.to_string().starts_with(&wanted));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => {
            Err(Failure::usage(format!("more than one job begins with {wanted}"), "give more of its id"))
        }
        (None, _) => Err(Failure::new(
            ErrorCode::NotFound,
            format!("no job begins with {wanted}"),
            "see: hive queue list --limit 1000",
        )),
    }
}

async fn add(ui: &Ui, client: &Client, args: QueueAddArgs) -> Outcome {
    check(&args)?;
    let mut jobs = Vec::new();
    for (target, work) in works(ui, client, &args).await? {
        jobs.push(spec(&args, target, work)?);
    }
    let request = SubmitRequest { session: SessionId(Uuid::new_v4()), name: String::new(), profile: None, jobs };
    let answer = submit(client, &request).await?;
    if !args.wait {
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
    let all_good = done.iter().all(|job| job.state == JobState::Received);
    let states: BTreeMap<JobId, JobState> = done.iter().map(|job| (job.id, job.state)).collect();
    let data = json!({
        "session": answer.data.session,
        "jobs": answer.data.jobs.iter().map(|job| json!({ "id": job.id, "target": job.target, "state": states.get(&job.id) })).collect::<Vec<_>>(),
    });
    ui.data(&data, || done.iter().map(|job| format!("{}  {}\n", job.id, words::job_state(job.state))).collect())?;
    Ok(u8::from(!all_good))
}

/// Refused before anything is sent; the hive checks again, by the same rules.
fn outside(error: GrammarError) -> Failure {
    Failure::usage(error.to_string(), "see: hive queue add --help")
}

fn check(args: &QueueAddArgs) -> Result<(), Failure> {
    args.label.iter().try_for_each(|label| grammar::label(label)).map_err(outside)?;
    args.artifact.iter().try_for_each(|pattern| grammar::pattern(pattern)).map_err(outside)?;
    args.repo.iter().try_for_each(|url| grammar::repository_url(url)).map_err(outside)?;
    args.branch.iter().try_for_each(|name| grammar::git_ref(name)).map_err(outside)?;
    args.commit.iter().try_for_each(|commit| grammar::commit(commit)).map_err(outside)?;
    match args.backend {
        Backend::Command => {
            grammar::argv(&args.argv).map_err(outside)?;
            if !args.sources.is_empty() {
                return Err(Failure::usage("a command job takes no SOURCE", "put program and arguments after `--`"));
            }
            if args.dir.is_none() && args.repo.is_none() {
                return Err(Failure::usage("nothing to run in", "add --dir PATH or --repo URL"));
            }
        }
        Backend::Debian => {
            if !args.argv.is_empty() || args.dir.is_some() || !args.artifact.is_empty() {
                let hint = "give sources as names or directories; what dpkg-buildpackage produces is kept";
                return Err(Failure::usage("--dir, --artifact and a command do not belong to a debian job", hint));
            }
            if args.sources.is_empty() == args.repo.is_none() {
                return Err(Failure::usage(
                    "a debian job takes SOURCE... or --repo",
                    "for example: hive queue add --backend debian hello",
                ));
            }
        }
    }
    if args.sources.len() > SOURCES_MAX {
        return Err(Failure::usage(format!("at most {SOURCES_MAX} sources at once"), "queue the rest afterwards"));
    }
    if args.id.is_some() && args.sources.len() > 1 {
        return Err(Failure::usage("--id names one job, but several sources were given", "queue them one by one"));
    }
    Ok(())
}

async fn works(ui: &Ui, client: &Client, args: &QueueAddArgs) -> Result<Vec<(String, Work)>, Failure> {
    let git = args.repo.as_ref().map(|url| Source::Git {
        url: url.clone(),
        branch: args.branch.clone(),
        commit: args.commit.clone(),
    });
    let git_name = args.repo.as_ref().map(|url| {
        let reference =
            args.commit.as_ref().or(args.branch.as_ref()).map_or_else(String::new, |name| format!("@{name}"));
        format!("{}{reference}", url.trim_end_matches('/').rsplit('/').next().unwrap_or(url))
    });
    match (args.backend, git) {
        (Backend::Command, git) => {
            let (source, place) = match (git, &args.dir) {
                (Some(git), _) => (git, git_name.unwrap_or_default()),
                (None, Some(directory)) => (upload(ui, client, directory).await?, directory_name(directory)),
                (None, None) => return Err(Failure::usage("nothing to run in", "add --dir PATH or --repo URL")),
            };
            let target = format!("{} in {place}", args.argv.join(" "));
            let work = Work::Command { source, argv: args.argv.clone(), artifacts: args.artifact.clone() };
            Ok(vec![(target, work)])
        }
        (Backend::Debian, Some(git)) => {
            Ok(vec![(git_name.unwrap_or_default(), Work::Debian { source: DebianSource::Tree { source: git } })])
        }
        (Backend::Debian, None) => {
            // All names are checked before the first directory travels.
            let mut parsed = Vec::new();
            for text in &args.sources {
                parsed.push((
                    text,
                    if names_directory(text) { tree(text).map(|()| None)? } else { Some(debian_source(text)?) },
                ));
            }
            let mut out = Vec::new();
            for (text, package) in parsed {
                let source = match package {
                    Some(package) => package,
                    None => DebianSource::Tree { source: upload(ui, client, Path::new(text)).await? },
                };
                let target = if matches!(source, DebianSource::Tree { .. }) {
                    directory_name(Path::new(text))
                } else {
                    text.clone()
                };
                out.push((target, Work::Debian { source }));
            }
            Ok(out)
        }
    }
}

/// A package name holds no slash; a directory that happens to be called like a package is not meant by it.
fn names_directory(text: &str) -> bool {
    text.contains('/') || matches!(text, "." | "..")
}

fn tree(text: &str) -> Result<(), Failure> {
    if Path::new(text).join("debian").is_dir() {
        return Ok(());
    }
    let hint = "a Debian source tree has debian/control and debian/rules";
    Err(Failure::usage(format!("{text:?} is no directory that holds debian/"), hint))
}

fn debian_source(text: &str) -> Result<DebianSource, Failure> {
    let (package, version) = text.split_once('=').map_or((text, None), |(package, version)| (package, Some(version)));
    let good = grammar::debian_package(package).and_then(|()| version.map_or(Ok(()), grammar::debian_version));
    let hint = "a debian job takes a source package NAME, NAME=VERSION, or a directory with debian/ in it, written with a slash: ./DIR";
    good.map_err(|error| Failure::usage(error.to_string(), hint))?;
    Ok(DebianSource::Archive { package: package.to_owned(), version: version.map(str::to_owned) })
}

fn directory_name(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.file_name().map_or_else(|| "/".to_owned(), |name| name.to_string_lossy().into_owned())
}

async fn upload(ui: &Ui, client: &Client, directory: &Path) -> Result<Source, Failure> {
    ui.show_progress(&format!("packing {} …", clean(&directory.to_string_lossy())));
    let owned = directory.to_owned();
    let packed = tokio::task::spawn_blocking(move || pack::pack_directory(&owned))
        .await
        .map_err(|error| Failure::internal(format!("packing ended: {error}"), ""))??;
    ui.show_progress(&format!("sending {} …", bytes(packed.size)));
    let reader = tokio::fs::File::from_std(packed.file);
    let stored = client.put::<StoredBlob>("/api/v1/blobs", reader, packed.size).await;
    ui.clear_progress();
    let stored = stored?.data;
    if stored.sha256 != packed.sha256 || stored.size != packed.size {
        return Err(Failure::internal(
            "the agent stored something else than what was sent",
            "try again; if it stays so, look at its disk",
        ));
    }
    Ok(Source::Blob { sha256: stored.sha256, size: stored.size })
}

fn spec(args: &QueueAddArgs, target: String, work: Work) -> Result<JobSpec, Failure> {
    let id = match &args.id {
        Some(text) => text
            .parse::<JobId>()
            .map_err(|error| Failure::usage(format!("--id: {error}"), "for example: --id $(uuidgen)"))?,
        None => JobId(Uuid::new_v4()),
    };
    let mut limits = Limits::default();
    if let Some(seconds) = args.timeout {
        limits.timeout_ms = seconds.saturating_mul(1_000);
        limits.silence_timeout_ms = limits.silence_timeout_ms.min(limits.timeout_ms);
    }
    // Package builds have no effect but their packages.
    let pure = args.pure || args.backend == Backend::Debian;
    let target: String = target.chars().filter(|character| !character.is_control()).take(200).collect();
    let labels = args.label.iter().cloned().collect();
    let spec = JobSpec { priority: args.priority, labels, pure, limits, ..JobSpec::new(id, target, work) };
    grammar::job(&spec).map_err(outside)?;
    Ok(spec)
}

async fn submit(client: &Client, request: &SubmitRequest) -> Result<Answer<Submitted>, Failure> {
    // An agent that is not there at all is said at once; only one that goes away meanwhile is waited for.
    if let Err(error) = client.get::<serde_json::Value>("/api/v1/health").await
        && matches!(error.code, ErrorCode::Unreachable | ErrorCode::Forbidden)
    {
        return Err(error.into());
    }
    let file_bytes = request.jobs.iter().map(|job| job.work.archive().map_or(0, |(_, size)| size)).sum();
    let deadline = clock::now_ms() + SUBMIT_PATIENCE_MS;
    loop {
        match client.post_with_files::<Submitted>("/api/v1/jobs", request, file_bytes).await {
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
        ErrorCode::Invalid | ErrorCode::Forbidden | ErrorCode::Conflict | ErrorCode::Degraded | ErrorCode::Internal => {
            0
        }
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
