//! Sessions, drones and history as text.

use super::jobs::time;
use super::{queue_line, role, state_cell};
use crate::api::{
    Changed, DecisionView, EtaView, EventList, FleetBuild, FleetDrone, FleetView, HistoryView, PackageList,
    SessionLine, SessionList, SessionState, SessionView, words,
};
use crate::cli::text::{
    Cell, Colour, Paint, bytes, cell, clean, duration, left, painted, right, short_duration, table,
};
use crate::engine::event::EventKind;
use crate::engine::job::{AttemptState, JobState};

/// What an action changed.
pub(crate) fn changed(changed: &Changed) -> String {
    let count = |count: u64, one: &str, many: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        more => Some(format!("{more} {many}")),
    };
    let parts = [count(changed.jobs, "job", "jobs"), count(changed.drones, "drone", "drones")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let what =
        if parts.is_empty() { "nothing had to change".to_owned() } else { format!("{} changed", parts.join(", ")) };
    format!("{}: {what}\n", clean(&changed.action.replace('_', " ")))
}

fn phase_cell(phase: SessionState) -> Cell {
    let word = words::session_state(phase);
    match phase {
        SessionState::Resolving | SessionState::Importing | SessionState::Active => cell(word),
        SessionState::Completed => painted(word, Colour::Good),
        SessionState::Cancelled => painted(word, Colour::Dim),
        SessionState::Failed => painted(word, Colour::Bad),
    }
}

fn done(line: &SessionLine) -> String {
    format!("{}/{}", line.completed_packages, line.total_packages)
}

/// `hive events`, one line each.
pub(crate) fn events(list: &EventList, paint: Paint) -> String {
    let mut text = String::new();
    for event in &list.events {
        let what = [event.drone.as_deref(), event.package.as_deref(), Some(event.message.as_str())];
        let what: Vec<_> = what.into_iter().flatten().filter(|part| !part.is_empty()).map(clean).collect();
        let kind = paint.paint(kind_colour(event.kind), &format!("{:<13}", event.kind.as_str()));
        text.push_str(&format!("{}  {kind} {}\n", time(event.at), what.join("  ")));
    }
    text
}

fn kind_colour(kind: EventKind) -> Colour {
    match kind {
        EventKind::Complete => Colour::Good,
        EventKind::Fail | EventKind::Grounded | EventKind::Blocked => Colour::Bad,
        EventKind::Reclaim | EventKind::Stale | EventKind::MemberLeft | EventKind::Coordinator => Colour::Doubtful,
        EventKind::Control | EventKind::Access | EventKind::Cancel | EventKind::Hive => Colour::Strong,
        EventKind::Assign
        | EventKind::Start
        | EventKind::Return
        | EventKind::Rebalance
        | EventKind::Unblock
        | EventKind::Register
        | EventKind::Queue
        | EventKind::Session
        | EventKind::MemberJoined
        | EventKind::Role => Colour::Dim,
    }
}

/// `hive session list`.
pub(crate) fn sessions(list: &SessionList, all: bool, paint: Paint) -> String {
    if list.sessions.is_empty() {
        let more = if all { "" } else { "; those that are over: hive session list --all" };
        return format!("no sessions{more}\n");
    }
    let columns = [
        left("ID", 8),
        left("NAME", 20),
        left("PHASE", 9),
        right("DONE", 13),
        right("FAILED", 6),
        left("BY", 12),
        left("STARTED", 19),
    ];
    let row = |line: &SessionLine| {
        let id: String = line.id.to_string().chars().take(8).collect();
        let failed = line.failed_packages;
        let failed = if failed > 0 { painted(failed.to_string(), Colour::Bad) } else { cell("0") };
        let name = if line.name.is_empty() { "-" } else { line.name.as_str() };
        vec![
            cell(id),
            cell(name),
            phase_cell(line.phase),
            cell(done(line)),
            failed,
            cell(&line.submitter),
            cell(time(line.started_at)),
        ]
    };
    let rows: Vec<Vec<Cell>> = list.sessions.iter().map(row).collect();
    table(&columns, &rows, paint)
}

fn eta(eta: &EtaView) -> String {
    let mut text = if eta.samples == 0 {
        format!("{} to {}, a guess: nothing like it was ever built", duration(eta.p50_ms), duration(eta.p90_ms))
    } else {
        format!("{} to {} (50 % to 90 %), from {} builds", duration(eta.p50_ms), duration(eta.p90_ms), eta.samples)
    };
    if eta.guessed > 0 && eta.samples > 0 {
        text.push_str(&format!("; {} of {} jobs guessed", eta.guessed, eta.jobs));
    }
    if eta.left_out > 0 {
        text.push_str(&format!("; without {} jobs that cannot run as things are", eta.left_out));
    }
    text
}

/// `hive session show`.
pub(crate) fn session(view: &SessionView, paint: Paint) -> String {
    let mut out = String::new();
    let mut put = |label: &str, text: &str| out.push_str(&format!("{label:<12} {text}\n"));
    let line = &view.line;
    put("session", &line.id.to_string());
    if !line.name.is_empty() {
        put("name", &clean(&line.name));
    }
    put("phase", words::session_state(line.phase));
    if let Some(why) = &view.why {
        put("because", &clean(why));
    }
    if let Some(profile) = &line.profile_id {
        put("profile", &clean(profile));
    }
    put("started", &format!("{} by {}", time(line.started_at), clean(&line.submitter)));
    if let Some(ended) = line.completed_at {
        let took = duration(ended.0.saturating_sub(line.started_at.0));
        put("ended", &format!("{}, after {took}", time(ended)));
    }
    put("jobs", &format!("{} done: {}", done(line), queue_line(&view.counts, paint)));
    if let Some(view) = &view.eta {
        put("left", &eta(view));
    }
    for group in &view.groups {
        let word = words::job_state(group.state);
        out.push_str(&format!("\n{} {}\n", group.count, paint.paint(Colour::Strong, word)));
        // Those that are done say nothing that the count does not.
        if matches!(group.state, JobState::Received) {
            continue;
        }
        out.push_str(&super::jobs::list(&group.jobs, paint));
        let more = group.count.saturating_sub(group.jobs.len() as u64);
        if more > 0 {
            out.push_str(&format!("… and {more} more: hive queue list --session {} --state {word}\n", line.id));
        }
    }
    out
}

fn decided(what: &str, decision: &DecisionView) -> String {
    let why = if decision.why.is_empty() { String::new() } else { format!(": {}", decision.why) };
    format!("{what} by {}{why}", decision.by)
}

/// Why a drone gets no work, as far as operators and its past go.
pub(crate) fn note(drone: &FleetDrone) -> String {
    let left = |what: &str, left_ms: Option<u64>| left_ms.map(|ms| format!("{what} for {}", short_duration(ms)));
    let drain = drone.draining.as_ref().map(|decision| {
        let deadline = drone.drain_left_ms.map_or_else(String::new, |ms| format!(", {} left", short_duration(ms)));
        decided("draining", decision) + &deadline
    });
    let notes = [
        drone.paused.as_ref().map(|decision| decided("paused", decision)),
        drain,
        left("grounded", drone.grounded_left_ms),
        left("uploads fail, no work", drone.uploads_paused_left_ms),
    ];
    notes.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// What a drone builds, in a few words.
pub(crate) fn build_words(build: &FleetBuild) -> String {
    let progress = match (build.percent, build.eta_ms, build.elapsed_ms) {
        (Some(percent), Some(eta_ms), _) => format!(" {percent}%, {} left", short_duration(eta_ms)),
        (_, _, Some(elapsed_ms)) => format!(" for {}", short_duration(elapsed_ms)),
        (_, _, None) => format!(" {}", words::attempt_state(build.state)),
    };
    format!("{}{progress}", build.target)
}

fn cores(drone: &FleetDrone) -> String {
    drone.cores_limit.map_or_else(|| drone.cores.to_string(), |limit| format!("{limit} of {}", drone.cores))
}

fn load(drone: &FleetDrone) -> String {
    drone.load.map_or_else(|| "-".to_owned(), |load| format!("{load:.1}"))
}

/// `hive fleet`.
pub(crate) fn fleet(fleet: &FleetView, paint: Paint) -> String {
    let mut out = String::new();
    if let Some(paused) = &fleet.paused {
        let text = clean(&decided("the queue is paused", paused)).into_owned();
        out.push_str(&format!("{} (hive control resume)\n\n", paint.paint(Colour::Doubtful, &text)));
    }
    if fleet.drones.is_empty() {
        return out + "no drones yet\n";
    }
    let columns = [
        left("DRONE", 16),
        left("STATE", 7),
        left("ROLE", 10),
        right("SLOTS", 5),
        right("LOAD", 5),
        right("CORES", 8),
        left("BUILDS", 40),
        left("NOTE", 200),
    ];
    let row = |drone: &FleetDrone| {
        let first = drone.builds.first().map_or_else(|| "-".to_owned(), build_words);
        let more = drone.builds.len().saturating_sub(1);
        let builds = if more > 0 { format!("{first} +{more}") } else { first };
        vec![
            cell(&drone.name),
            state_cell(drone.state),
            cell(role(drone.role.as_ref())),
            cell(format!("{}/{}", drone.used, drone.slots)),
            cell(load(drone)),
            cell(cores(drone)),
            cell(builds),
            painted(note(drone), Colour::Doubtful),
        ]
    };
    let rows: Vec<Vec<Cell>> = fleet.drones.iter().map(row).collect();
    out + &table(&columns, &rows, paint)
}

/// `hive drone show`.
pub(crate) fn drone(drone: &FleetDrone, paint: Paint) -> String {
    let mut out = String::new();
    let mut put = |label: &str, text: &str| out.push_str(&format!("{label:<12} {text}\n"));
    put("drone", &paint.paint(Colour::Strong, &clean(&drone.name)));
    put("id", &clean(&drone.peer_id.to_string()));
    put("state", words::member_state(drone.state));
    put("role", &clean(role(drone.role.as_ref())));
    put("slots", &format!("{} of {} taken", drone.used, drone.slots));
    put("machine", &format!("{} cores, {} GiB, {}", cores(drone), drone.ram_gb, clean(&drone.arch)));
    put("load", &load(drone));
    let note = note(drone);
    if !note.is_empty() {
        put("note", &paint.paint(Colour::Doubtful, &clean(&note)));
    }
    if drone.builds.is_empty() {
        return out;
    }
    out.push('\n');
    let columns =
        [left("JOB", 8), left("TARGET", 40), right("TRY", 3), left("STATE", 9), right("DONE", 4), right("LEFT", 5)];
    let row = |build: &FleetBuild| {
        let id: String = build.job.to_string().chars().take(8).collect();
        vec![
            cell(id),
            cell(&build.target),
            cell(build.attempt.to_string()),
            cell(words::attempt_state(build.state)),
            cell(build.percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent}%"))),
            cell(build.eta_ms.map_or_else(|| "-".to_owned(), short_duration)),
        ]
    };
    let rows: Vec<Vec<Cell>> = drone.builds.iter().map(row).collect();
    out + &table(&columns, &rows, paint)
}

/// `hive history`.
pub(crate) fn history(history: &HistoryView, paint: Paint) -> String {
    if history.history.is_empty() {
        return "no attempts\n".to_owned();
    }
    let columns = [
        left("ENDED", 19),
        left("JOB", 8),
        left("TARGET", 28),
        left("DRONE", 12),
        left("RESULT", 10),
        right("TOOK", 5),
        right("SIZE", 9),
        left("WHY", 200),
    ];
    let rows: Vec<Vec<Cell>> = history
        .history
        .iter()
        .map(|line| {
            let word = words::attempt_state(line.state);
            let result = match line.state {
                AttemptState::Accepted => painted(word, Colour::Good),
                AttemptState::Failed | AttemptState::Lost => painted(word, Colour::Bad),
                AttemptState::Stale | AttemptState::Cancelled => painted(word, Colour::Dim),
                AttemptState::Assigned | AttemptState::Building | AttemptState::Uploading => cell(word),
            };
            let class = line.class.map_or_else(String::new, |class| format!("{}: ", words::class(class)));
            vec![
                cell(line.ended_at.map_or_else(|| "-".to_owned(), time)),
                cell(line.job.to_string().chars().take(8).collect::<String>()),
                cell(&line.target),
                cell(&line.drone),
                result,
                cell(line.duration_ms.map_or_else(|| "-".to_owned(), short_duration)),
                cell(line.artifact_bytes.map_or_else(|| "-".to_owned(), bytes)),
                cell(format!("{class}{}", line.reason.as_deref().unwrap_or(""))),
            ]
        })
        .collect();
    table(&columns, &rows, paint)
}

/// `hive history packages`.
pub(crate) fn packages(list: &PackageList, paint: Paint) -> String {
    if list.packages.is_empty() {
        return "nothing was built yet\n".to_owned();
    }
    let columns = [
        left("PACKAGE", 32),
        right("TRIED", 5),
        right("GOOD", 5),
        right("P50", 5),
        right("P90", 5),
        right("OF", 3),
        left("LAST", 19),
        left("ON", 60),
    ];
    let took = |ms: Option<u64>| cell(ms.map_or_else(|| "-".to_owned(), short_duration));
    let rows: Vec<Vec<Cell>> = list
        .packages
        .iter()
        .map(|line| {
            vec![
                cell(&line.package),
                cell(line.attempts.to_string()),
                cell(line.successes.to_string()),
                took(line.p50_ms),
                took(line.p90_ms),
                cell(line.samples.to_string()),
                cell(time(line.last_attempt)),
                cell(line.tried_on.join(", ")),
            ]
        })
        .collect();
    table(&columns, &rows, paint)
}
