//! The plain pages, `/plain` and `/plain/jobs/ID`: HTML written on the server, without a script, readable on a phone.
//!
//! Everything that is shown goes through [`Text`]. Pages reload themselves while something can change. The application of `app` carries
//! the same content for browsers without scripts. Never done here: asking for anything that the API does not answer too.

use std::fmt::Write as _;

use axum::extract::{Extension, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;

use super::Context;
use super::answer::Handled;
use super::escape::Text;
use super::node::{JobQuery, LogQuery};
use super::open::{OnlySummary, summarised};
use super::routes::job_id;
use crate::api::{ApiError, ApiResult, JobLine, JobView, LogStatus, MemberState, MemberStatus, Status, words};
use crate::engine::id::UnixMillis;
use crate::engine::job::{AttemptState, JobState};

/// Jobs on the status page.
const RECENT_JOBS: usize = 20;
/// End of the log on a job's page, bytes.
const LOG_TAIL_BYTES: u64 = 16 << 10;
/// Longest wait for the next piece of a log tail.
const LOG_TAIL_WAIT: std::time::Duration = std::time::Duration::from_secs(3);
/// Seconds after which a page reloads.
const RELOAD_SECONDS: u32 = 5;

pub(super) async fn style() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("style.css")).into_response()
}

pub(super) async fn icon() -> Response {
    ([(header::CONTENT_TYPE, "image/svg+xml")], include_str!("icon.svg")).into_response()
}

pub(super) async fn status(State(context): State<Context>, summary: Option<Extension<OnlySummary>>) -> Response {
    let status = match context.node.status().await {
        Ok(status) if summary.is_some() => {
            return html(&context, StatusCode::OK, status_page(&summarised(status), &Ok(Vec::new())));
        }
        Ok(status) => status,
        Err(error) => return failed(&context, &error),
    };
    html(&context, StatusCode::OK, status_page(&status, &recent_jobs(&context).await))
}

async fn recent_jobs(context: &Context) -> ApiResult<Vec<JobLine>> {
    let query = JobQuery { limit: RECENT_JOBS, ..JobQuery::default() };
    context.node.jobs(query).await
}

/// What the application shows where scripts do not run: the status, or why there is none.
pub(super) async fn without_scripts(context: &Context) -> String {
    match context.node.status().await {
        Ok(status) => status_main(&status, &recent_jobs(context).await),
        Err(error) => failed_main(&error),
    }
}

pub(super) async fn job(State(context): State<Context>, Path(id): Path<String>) -> Handled {
    let id = job_id(&id)?;
    let job = match context.node.job(id).await {
        Ok(job) => job,
        Err(error) => return Ok(failed(&context, &error)),
    };
    let query = LogQuery { job: id, attempt: None, offset: 0, tail_bytes: Some(LOG_TAIL_BYTES), follow: false };
    let log = match context.node.job_log(query).await {
        Ok(log) => Ok((log.offset > 0, tail(log.bytes).await)),
        Err(error) => Err(error.message),
    };
    Ok(html(&context, StatusCode::OK, job_page(&job, &log, &context.node.log())))
}

/// What arrives of a log in time, at most its last [`LOG_TAIL_BYTES`].
async fn tail(mut bytes: super::node::ByteStream) -> String {
    let limit = LOG_TAIL_BYTES as usize;
    let mut kept = Vec::new();
    while let Ok(Some(Ok(chunk))) = tokio::time::timeout(LOG_TAIL_WAIT, bytes.next()).await {
        kept.extend_from_slice(&chunk);
        if kept.len() > limit {
            kept.drain(..kept.len() - limit);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// The addresses of a page as a browser has to ask for them, behind a proxy that shows this node below a path. Only what stands in an
/// attribute is touched: texts have no quotes ([`Text`]).
pub(super) fn below(base_path: &str, page: String) -> String {
    if base_path.is_empty() {
        return page;
    }
    ["href", "src"]
        .iter()
        .fold(page, |page, name| page.replace(&format!("{name}=\"/"), &format!("{name}=\"{base_path}/")))
}

fn html(context: &Context, status: StatusCode, page: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], below(&context.base_path, page)).into_response()
}

fn failed(context: &Context, error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    html(context, status, head("hive", true) + &failed_main(error))
}

fn failed_main(error: &ApiError) -> String {
    let (message, hint) = (Text(&error.message), Text(&error.hint));
    format!("<main>\n<section class=notices><p>{message}</p><p class=dim>{hint}</p></section>\n</main>\n")
}

/// Appends; writing to a String cannot fail.
fn put(page: &mut String, piece: std::fmt::Arguments<'_>) {
    let _ = page.write_fmt(piece);
}

fn head(title: &str, reload: bool) -> String {
    let reload = if reload { format!("<meta http-equiv=refresh content={RELOAD_SECONDS}>\n") } else { String::new() };
    format!(
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <meta name=color-scheme content=\"light dark\">\n{reload}<title>{}</title>\n<link rel=icon href=\"/icon.svg\">\n\
         <link rel=stylesheet href=\"/style.css\">\n",
        Text(title)
    )
}

fn status_page(status: &Status, jobs: &ApiResult<Vec<JobLine>>) -> String {
    head(&format!("{} · {}", hive_name(status), status.this.name), true) + &status_main(status, jobs)
}

fn hive_name(status: &Status) -> String {
    status.hive_id.map_or("no hive yet".to_owned(), |id| format!("hive {}", &id.to_string()[..8]))
}

fn status_main(status: &Status, jobs: &ApiResult<Vec<JobLine>>) -> String {
    let mut page = "<main>\n".to_owned();
    masthead(&mut page, status, &hive_name(status));
    if !status.notices.is_empty() {
        page.push_str("<section class=notices aria-label=Notices>\n");
        for notice in &status.notices {
            put(&mut page, format_args!("<p>{}</p>\n", Text(notice)));
        }
        page.push_str("</section>\n");
    }
    tiles(&mut page, status);
    members(&mut page, &status.members);
    recent(&mut page, jobs);
    foot(&mut page, &status.log, Some(status.as_of));
    page
}

fn masthead(page: &mut String, status: &Status, hive: &str) {
    let (word, tone) = match (status.hive_id.is_some(), status.quorum) {
        (true, true) => ("quorum", "good"),
        (true, false) => ("no quorum", "bad"),
        (false, _) => (words::phase(status.this.state), "warn"),
    };
    let full = status.hive_id.map(|id| id.to_string()).unwrap_or_default();
    put(
        page,
        format_args!(
            "<header><img src=\"/icon.svg\" alt=\"\" width=40 height=40><div><h1 title=\"{}\">{}</h1>\n<p class=dim>seen from \
             <b>{}</b>, {}{}</p></div><span class=\"badge {tone}\">{word}</span></header>\n",
            Text(&full),
            Text(hive),
            Text(&status.this.name),
            Text(status.this.role.as_deref().unwrap_or("no role yet")),
            match &status.coordinator {
                Some(coordinator) =>
                    format!(" · coordinator <b>{}</b>, term {}", Text(&coordinator.name), coordinator.term),
                None => " · no coordinator".to_owned(),
            },
        ),
    );
}

fn tiles(page: &mut String, status: &Status) {
    let alive = status.members.iter().filter(|member| member.state == MemberState::Alive).count();
    let present =
        status.members.iter().filter(|member| !matches!(member.state, MemberState::Left | MemberState::Legacy)).count();
    let queue = &status.queue;
    let troubled = queue.failed + queue.blocked + queue.quarantined;
    let tone = |bad: bool| if bad { " class=bad" } else { "" };
    page.push_str("<dl class=tiles aria-label=\"At a glance\">\n");
    put(
        page,
        format_args!("<div><dt>members alive<dd{}>{alive}<small> of {present}</small></div>\n", tone(alive < present)),
    );
    let waiting = if queue.paused { "waiting, paused" } else { "waiting" };
    put(page, format_args!("<div><dt>{waiting}<dd>{}</div>\n", queue.needed));
    put(
        page,
        format_args!("<div><dt>building<dd>{}<small> of {} given out</small></div>\n", queue.building, queue.delegated),
    );
    put(page, format_args!("<div><dt>done<dd>{}</div>\n", queue.received));
    put(page, format_args!("<div><dt>failed or blocked<dd{}>{troubled}</div>\n", tone(troubled > 0)));
    page.push_str("</dl>\n");
}

fn members(page: &mut String, members: &[MemberStatus]) {
    page.push_str(
        "<section><h2>Members</h2>\n<table>\n<thead><tr><th>Name<th>Role<th>State<th>Raft<th class=num>Load<th>Address<th>Heard\
         </thead>\n<tbody>\n",
    );
    for member in members {
        let (state, tone) = (words::member_state(member.state), member_tone(member.state));
        let staging =
            if member.staging { " <span class=mark title=\"keeps finished packages\">staging</span>" } else { "" };
        let founder = if member.founder { " <span class=mark title=\"founded the hive\">founder</span>" } else { "" };
        let heard = member.last_seen_ms.map_or("not yet".to_owned(), age);
        put(
            page,
            format_args!(
                "<tr><td data-label=Name><b>{}</b>{founder}{staging}<td data-label=Role>{}<td data-label=State><span class=\"dot {tone}\"></span>{state}\
                 <td data-label=Raft>{}<td data-label=Load class=num>{}<td data-label=Address class=mono>{}<td data-label=Heard>{heard}\n",
                Text(&member.name),
                Text(member.role.as_deref().unwrap_or("–")),
                words::raft(member.raft),
                load(member),
                Text(member.addresses.first().map_or("–", String::as_str)),
            ),
        );
    }
    page.push_str("</tbody>\n</table>\n</section>\n");
}

fn member_tone(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "good",
        MemberState::Suspect => "warn",
        MemberState::Down => "bad",
        MemberState::Left => "idle",
        MemberState::Legacy => "idle",
    }
}

fn load(member: &MemberStatus) -> String {
    match member.load {
        Some(load) if member.cores > 0 => format!("{load:.2}<small> / {}</small>", member.cores),
        Some(load) => format!("{load:.2}"),
        None => "–".to_owned(),
    }
}

fn recent(page: &mut String, jobs: &ApiResult<Vec<JobLine>>) {
    page.push_str("<section><h2>Jobs</h2>\n");
    match jobs {
        Err(error) => put(page, format_args!("<p class=dim>{}</p>\n", Text(&error.message))),
        Ok(jobs) if jobs.is_empty() => {
            page.push_str("<p class=dim>Nothing was queued yet. <code>hive queue add --backend debian hello</code> builds a package.</p>\n");
        }
        Ok(jobs) => {
            page.push_str(
                "<table>\n<thead><tr><th>Target<th>State<th>Drone<th class=num>Tries<th>Queued</thead>\n<tbody>\n",
            );
            for job in jobs {
                job_row(page, job);
            }
            page.push_str("</tbody>\n</table>\n");
        }
    }
    page.push_str("</section>\n");
}

fn job_row(page: &mut String, job: &JobLine) {
    let (state, tone) = (words::job_state(job.state), job_tone(job.state));
    let why = match &job.waiting_for {
        Some(why) => format!("<br><small class=dim>{}</small>", Text(why)),
        None => String::new(),
    };
    put(
        page,
        format_args!(
            "<tr><td data-label=Target><a href=\"/plain/jobs/{}\">{}</a>{why}<td data-label=State><span class=\"dot {tone}\"></span>{state}\
             <td data-label=Drone>{}<td data-label=Tries class=num>{}<td data-label=Queued>{}\n",
            job.id,
            Text(&job.target),
            Text(job.node.as_deref().unwrap_or("–")),
            job.attempts,
            time(job.submitted_at),
        ),
    );
}

fn job_tone(state: JobState) -> &'static str {
    match state {
        JobState::Needed => "idle",
        JobState::Delegated => "busy",
        JobState::Received => "good",
        JobState::Blocked => "warn",
        JobState::Failed => "bad",
        JobState::Cancelled => "idle",
        JobState::Quarantined => "bad",
    }
}

fn attempt_tone(state: AttemptState) -> &'static str {
    match state {
        AttemptState::Assigned => "idle",
        AttemptState::Building => "busy",
        AttemptState::Uploading => "busy",
        AttemptState::Accepted => "good",
        AttemptState::Failed => "bad",
        AttemptState::Lost => "warn",
        AttemptState::Stale => "idle",
        AttemptState::Cancelled => "idle",
    }
}

/// `log`: whether it is cut at the front, and its end; or why there is none.
fn job_page(job: &JobView, log: &Result<(bool, String), String>, position: &LogStatus) -> String {
    let (state, tone) = (words::job_state(job.state), job_tone(job.state));
    let mut page = head(&format!("{} · {state}", job.target), !job.state.is_terminal()) + "<main>\n";
    put(
        &mut page,
        format_args!(
            "<header><a href=\"/plain\" title=\"the hive\"><img src=\"/icon.svg\" alt=hive width=40 height=40></a><div><h1>{}</h1>\n<p class=dim>\
             {} · queued {} by {} · priority {}</p></div><span class=\"badge {tone}\">{state}</span></header>\n",
            Text(&job.target),
            Text(&job.backend),
            time(job.submitted_at),
            Text(&job.submitter),
            job.priority,
        ),
    );
    let remarks: Vec<&String> = job.waiting_for.iter().chain(&job.reason).collect();
    if !remarks.is_empty() {
        page.push_str("<section class=notices>\n");
        for remark in remarks {
            put(&mut page, format_args!("<p>{}</p>\n", Text(remark)));
        }
        page.push_str("</section>\n");
    }
    artifacts(&mut page, job);
    attempts(&mut page, job);
    put(&mut page, format_args!("<section><h2>Log</h2>\n"));
    match log {
        Err(why) => put(&mut page, format_args!("<p class=dim>{}</p>\n", Text(why))),
        Ok((cut, end)) => {
            let link = if *cut { "Earlier lines are in the" } else { "As a file: the" };
            put(
                &mut page,
                format_args!(
                    "<p class=dim>{link} <a href=\"/api/v2/jobs/{}/log?harmless=1\">whole log</a>.</p>\n",
                    job.id
                ),
            );
            put(&mut page, format_args!("<pre tabindex=0>{}</pre>\n", Text(end)));
        }
    }
    page.push_str("</section>\n");
    foot(&mut page, position, None);
    page
}

fn artifacts(page: &mut String, job: &JobView) {
    if job.artifacts.is_empty() {
        return;
    }
    page.push_str(
        "<section><h2>Artifacts</h2>\n<table>\n<thead><tr><th>File<th class=num>Size<th>SHA-256</thead>\n<tbody>\n",
    );
    for artifact in &job.artifacts {
        // By digest: a file name would have to be encoded for a path.
        put(
            page,
            format_args!(
                "<tr><td data-label=File><a href=\"/api/v2/blobs/{}\" download=\"{}\">{}</a><td data-label=Size class=num>{}\
                 <td data-label=SHA-256 class=mono title=\"{}\">{}…\n",
                artifact.sha256,
                Text(&artifact.name),
                Text(&artifact.name),
                words::bytes(artifact.size),
                artifact.sha256,
                &artifact.sha256.to_string()[..16],
            ),
        );
    }
    page.push_str("</tbody>\n</table>\n</section>\n");
}

fn attempts(page: &mut String, job: &JobView) {
    page.push_str("<section><h2>Attempts</h2>\n");
    if job.attempts.is_empty() {
        page.push_str("<p class=dim>None yet.</p>\n</section>\n");
        return;
    }
    page.push_str("<table>\n<thead><tr><th class=num>#<th>Drone<th>State<th>Began<th>Took<th>Why</thead>\n<tbody>\n");
    for attempt in job.attempts.iter().rev() {
        let (state, tone) = (words::attempt_state(attempt.state), attempt_tone(attempt.state));
        let took = match (attempt.started_at, attempt.ended_at) {
            (Some(start), Some(end)) => words::duration(end.0.saturating_sub(start.0)),
            _ => "–".to_owned(),
        };
        put(
            page,
            format_args!(
                "<tr><td data-label=\"#\" class=num>{}<td data-label=Drone>{}<td data-label=State><span class=\"dot {tone}\"></span>{state}{}\
                 <td data-label=Began>{}<td data-label=Took>{took}<td data-label=Why>{}\n",
                attempt.attempt,
                Text(&attempt.node),
                attempt.exit_code.map_or(String::new(), |code| format!(" <small>exit {code}</small>")),
                attempt.started_at.map_or("–".to_owned(), time),
                Text(attempt.reason.as_deref().unwrap_or("–")),
            ),
        );
    }
    page.push_str("</tbody>\n</table>\n</section>\n");
}

fn foot(page: &mut String, log: &LogStatus, as_of: Option<UnixMillis>) {
    let shown = as_of.map_or(String::new(), |at| format!(" · {} UTC", time(at)));
    put(
        page,
        format_args!(
            "<footer>log index {} of {} · epoch {} · {} old{shown} · <a href=\"/api/v2/status\">JSON</a> · <a href=\"/metrics\">metrics</a></footer>\n\
             </main>\n",
            log.applied,
            log.committed,
            log.epoch,
            words::duration(log.age_ms),
        ),
    );
}

/// A point in time, short for the eye and whole for a pointer.
fn time(at: UnixMillis) -> String {
    let text = at.to_string();
    // RFC 3339 in UTC: the date ends at 10, seconds at 19.
    let short = match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(clock)) => format!("{day} {clock}"),
        _ => text.clone(),
    };
    format!("<time datetime=\"{text}\" title=\"{text}\">{short}</time>")
}

fn age(ms: u64) -> String {
    format!("{} ago", words::duration(ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::NodePhase;
    use crate::web::fake;

    /// Tags and attributes of the page, with every quoted value emptied.
    fn tags(page: &str) -> Vec<String> {
        page.split('<').skip(1).filter_map(|rest| rest.split_once('>')).map(|(tag, _)| tag.to_lowercase()).collect()
    }

    #[test]
    fn hostile_strings_add_no_tag_no_handler_and_no_address() {
        let hostile = "<script>alert(1)</script>\"><img src=x onerror=alert(1)>\u{1b}[31m\u{202e}javascript:x'";
        let calm = tags(&status_page(&fake::status("calm"), &Ok(vec![fake::job_line("calm")])));
        let page = status_page(&fake::status(hostile), &Ok(vec![fake::job_line(hostile)]));
        assert_eq!(tags(&page).len(), calm.len(), "as many tags as with harmless names");
        assert!(!page.contains(['\u{1b}', '\u{202e}']));
        let view = fake::job_view(hostile);
        let job = job_page(&view, &Ok((true, hostile.to_owned())), &LogStatus::default());
        for tag in tags(&page).iter().chain(&tags(&job)) {
            assert!(!tag.starts_with("script") && !tag.contains("onerror=alert(1)>"), "{tag}");
            let address = tag
                .split_once("href=")
                .or_else(|| tag.split_once("src="))
                .map(|(_, rest)| rest.trim_start_matches('"'));
            assert!(address.is_none_or(|address| address.starts_with('/')), "{tag}");
        }
        let calm_job = job_page(&fake::job_view("calm"), &Ok((true, "calm".to_owned())), &LogStatus::default());
        assert_eq!(tags(&job).len(), tags(&calm_job).len());
    }

    #[test]
    fn pages_reload_while_something_can_change() {
        let mut view = fake::job_view("x");
        for (state, reloads) in [(JobState::Needed, true), (JobState::Received, false), (JobState::Failed, false)] {
            view.state = state;
            let page = job_page(&view, &Err("none".to_owned()), &LogStatus::default());
            assert_eq!(page.contains("http-equiv=refresh"), reloads, "{state:?}");
        }
    }

    #[test]
    fn a_node_without_a_hive_says_what_it_is_doing() {
        let mut status = fake::status("lonely");
        status.hive_id = None;
        status.coordinator = None;
        status.this.state = NodePhase::Refused;
        status.quorum = false;
        let page = status_page(&status, &Ok(Vec::new()));
        assert!(page.contains("refused") && page.contains("no coordinator") && page.contains("no hive yet"), "{page}");
    }
}
