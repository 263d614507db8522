//! Commands about sessions, drones, history, and what operators do.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use super::client::{Client, segment};
use super::farm_args::{
    Action, ControlArgs, DroneArgs, DroneVerb, EventsArgs, HistoryArgs, HistoryVerb, ImportArgs, SessionVerb,
};
use super::node::confirmed;
use super::output::{Failure, Outcome, Ui};
use super::text::bytes;
use super::{queue, render};
use crate::api::{
    CancelRequest, Changed, ControlRequest, DroneRequest, ErrorCode, EventList, FleetView, HistoryView, Imported,
    PackageList, SessionList, SessionView,
};
use crate::engine::id::JobId;

/// Bytes of an import that are read at once.
const PIECE: usize = 64 << 10;

/// `hive control …`
pub(crate) async fn control(ui: &Ui, client: &Client, args: ControlArgs) -> Outcome {
    let ControlArgs { action, target, session, running, reason, yes } = args;
    let mut request =
        ControlRequest { action: action.word().to_owned(), session, running, reason, ..ControlRequest::default() };
    if let Some(target) = target {
        match action {
            Action::Pause | Action::Resume | Action::Unground => request.drone = Some(target),
            Action::Block
            | Action::Unblock
            | Action::RetryFailures
            | Action::ClearFailures
            | Action::Reset
            | Action::Rebalance
            | Action::Reclaim
            | Action::ClearHistory => match queue::find(client, &target).await? {
                Some(job) => request.job = Some(job),
                None => request.package = Some(target),
            },
        }
    }
    let danger = if action == Action::Reset && running {
        Some("Stop all builds and begin anew?")
    } else if action == Action::ClearHistory {
        Some("Forget all jobs that are over and all that is known of durations?")
    } else {
        None
    };
    if let Some(question) = danger.filter(|_| !yes)
        && !confirmed(question).await?
    {
        let hint = "answer `yes`, or add --yes";
        return Err(Failure::new(ErrorCode::Conflict, "nothing was changed", hint));
    }
    let answer = client.post::<Changed>("/api/v2/control", &request).await?;
    ui.answer(&answer, render::farm::changed)?;
    Ok(0)
}

/// One action on one job.
pub(crate) async fn job(ui: &Ui, client: &Client, action: Action, job: JobId, reason: String) -> Outcome {
    let request =
        ControlRequest { action: action.word().to_owned(), job: Some(job), reason, ..ControlRequest::default() };
    let answer = client.post::<Changed>("/api/v2/control", &request).await?;
    ui.answer(&answer, render::farm::changed)?;
    Ok(0)
}

/// `hive session …`
pub(crate) async fn session(ui: &Ui, client: &Client, verb: SessionVerb) -> Outcome {
    match verb {
        SessionVerb::List { all, limit } => {
            let open = if all { "" } else { "open=true&" };
            let answer = client.get::<SessionList>(&format!("/api/v2/sessions?{open}limit={limit}")).await?;
            ui.answer(&answer, |list| render::farm::sessions(list, all, ui.paint))?;
        }
        SessionVerb::Show { session } => {
            let answer = client.get::<SessionView>(&format!("/api/v2/sessions/{}", segment(&session))).await?;
            ui.answer(&answer, |session| render::farm::session(session, ui.paint))?;
        }
        SessionVerb::Cancel { session, reason } => {
            let path = format!("/api/v2/sessions/{}/cancel", segment(&session));
            let answer = client.post::<Changed>(&path, &CancelRequest { reason }).await?;
            ui.answer(&answer, render::farm::changed)?;
        }
    }
    Ok(0)
}

/// `hive fleet`
pub(crate) async fn fleet(ui: &Ui, client: &Client) -> Outcome {
    let answer = client.get::<FleetView>("/api/v2/fleet").await?;
    ui.answer(&answer, |fleet| render::farm::fleet(fleet, ui.paint))?;
    Ok(0)
}

/// Between two looks of `hive events --follow`.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// `hive events`
pub(crate) async fn events(ui: &Ui, client: &Client, args: EventsArgs) -> Outcome {
    let EventsArgs { follow, mut since, kind, drone, limit } = args;
    loop {
        let mut path = format!("/api/v2/events?limit={limit}");
        for (name, value) in [("type", &kind), ("drone", &drone)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", segment(value)));
            }
        }
        if let Some(since) = since {
            path.push_str(&format!("&since={since}"));
        }
        let answer = client.get::<EventList>(&path).await?;
        if !follow {
            ui.answer(&answer, |list| render::farm::events(list, ui.paint))?;
            return Ok(0);
        }
        let list = answer.data;
        if ui.json {
            list.events.iter().try_for_each(|event| ui.raw_json(event))?;
        } else {
            ui.text(&render::farm::events(&list, ui.paint))?;
        }
        let full = list.events.len() >= limit as usize && since.is_some();
        since = if full { list.events.last().map(|event| event.id) } else { Some(list.latest_id) };
        if !full {
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    }
}

/// `hive drone …`
pub(crate) async fn drone(ui: &Ui, client: &Client, verb: DroneVerb) -> Outcome {
    let (action, DroneArgs { drone, reason }, deadline_ms, cores) = match verb {
        DroneVerb::List => return fleet(ui, client).await,
        DroneVerb::Show { drone } => return show_drone(ui, client, &drone).await,
        DroneVerb::Pause(drone) => ("pause", drone, None, None),
        DroneVerb::Resume(drone) => ("resume", drone, None, None),
        DroneVerb::Drain { drone, deadline } => ("drain", drone, deadline, None),
        DroneVerb::Limit { drone, cores, none: _ } => ("limit", drone, None, cores),
    };
    let path = format!("/api/v2/nodes/{}/{action}", segment(&drone));
    let answer = client.post::<Changed>(&path, &DroneRequest { deadline_ms, cores, reason }).await?;
    ui.answer(&answer, render::farm::changed)?;
    Ok(0)
}

async fn show_drone(ui: &Ui, client: &Client, name: &str) -> Outcome {
    let fleet = client.get::<FleetView>("/api/v2/fleet").await?.data;
    let found = fleet.drones.iter().find(|drone| drone.name == name || drone.peer_id.to_string() == name);
    let drone = found.ok_or_else(|| {
        let shown: String = name.chars().take(80).collect();
        Failure::new(ErrorCode::NotFound, format!("no drone is called {shown:?}"), "see: hive fleet")
    })?;
    ui.data(drone, || render::farm::drone(drone, ui.paint))?;
    Ok(0)
}

/// `hive history …`
pub(crate) async fn history(ui: &Ui, client: &Client, args: HistoryArgs) -> Outcome {
    if let Some(HistoryVerb::Packages { limit }) = args.verb {
        let answer = client.get::<PackageList>(&format!("/api/v2/build-stats/by-package?limit={limit}")).await?;
        ui.answer(&answer, |list| render::farm::packages(list, ui.paint))?;
        return Ok(0);
    }
    let mut path = format!("/api/v2/history?limit={}", args.limit);
    for (name, value) in [("package", &args.package), ("drone", &args.drone), ("session", &args.session)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", segment(value)));
        }
    }
    if args.failed {
        path.push_str("&failed=true");
    }
    let answer = client.get::<HistoryView>(&path).await?;
    ui.answer(&answer, |history| render::farm::history(history, ui.paint))?;
    if !ui.json && answer.data.truncated {
        ui.remark("there may be more: --limit N, at most 1000, or ask for one package or session");
    }
    Ok(0)
}

/// `hive queue import …`
pub(crate) async fn import(ui: &Ui, client: &Client, args: ImportArgs) -> Outcome {
    let file = open(&args.file)?;
    let session = args.session.unwrap_or_else(Uuid::new_v4);
    let mut path = format!("/api/v2/queue/import?session={session}&name={}", segment(&args.name));
    if let Some(profile) = &args.profile {
        path.push_str(&format!("&profile={}", segment(profile)));
    }
    let ui_of_stream = *ui;
    let mut sent = (0u64, 0u64);
    let lines = ReaderStream::with_capacity(tokio::fs::File::from_std(file), PIECE).inspect(move |piece| {
        if let Ok(piece) = piece {
            sent.0 += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
            sent.1 += piece.len() as u64;
            ui_of_stream.show_progress(&format!("{} lines sent ({}) …", sent.0, bytes(sent.1)));
        }
    });
    let answer = client.post_stream::<Imported>(&path, lines).await;
    ui.clear_progress();
    let answer = answer.map_err(|mut error| {
        if matches!(error.code, ErrorCode::Unreachable | ErrorCode::Timeout | ErrorCode::NoQuorum) {
            error.hint = format!("importing again is harmless with --session {session}; {}", error.hint);
        }
        Failure::from(error)
    })?;
    ui.answer(&answer, |imported| format!("{} jobs queued in session {}\n", imported.jobs, imported.session))?;
    Ok(0)
}

fn open(path: &Path) -> Result<std::fs::File, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::usage(
            format!("{} cannot be read: {error}", path.display()),
            "one JSON object per line, or - for standard input",
        )
    };
    if path == Path::new("-") {
        return Ok(std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned().map_err(unreadable)?));
    }
    let file = std::fs::File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(Failure::usage(
            format!("{} is a directory", path.display()),
            "one JSON object per line, in a file",
        ));
    }
    Ok(file)
}
