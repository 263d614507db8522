//! `hive monitor`: the hive on one screen, looked at again and again, with keys to act on it.
//!
//! ```text
//!   keys ──► View ──► Act ──► API          every second: API ──► Snapshot ──► View ──► screen
//! ```
//!
//! What is on the screen is a function of [`view::View`]; the terminal is given back whatever happens. Never done here: showing
//! foreign text as it came.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyEventKind};
use serde_json::json;
use tokio::sync::mpsc;

mod draw;
mod once;
mod view;

use self::view::{Act, Snapshot, View};
use super::client::{Client, segment};
use super::output::{Failure, Outcome, Ui};
use crate::api::{
    ApiError, ApiResult, CancelRequest, Changed, ControlRequest, DroneRequest, FleetView, HistoryView, JobView, Status,
};
use crate::clock::now_ms;
use crate::engine::id::JobId;

/// Attempts shown as events.
const EVENTS: u32 = 40;
/// Bytes of a log that are fetched for its last lines.
const TAIL_BYTES: u64 = 8_192;
/// How often the keyboard is looked at for whether to go on.
const KEY_PAUSE: Duration = Duration::from_millis(100);
/// Width of `--once` where there is no terminal to ask.
const PLAIN_WIDTH: usize = 80;

/// `hive monitor …`
pub(crate) async fn monitor(ui: &Ui, client: &Client, interval_s: u64, once: bool) -> Outcome {
    if once {
        let snapshot = look(client).await?;
        let data = json!({ "status": snapshot.status, "fleet": snapshot.fleet, "history": snapshot.history.history });
        ui.data(&data, || once::text(&snapshot, width(ui), ui.paint))?;
        return Ok(0);
    }
    if ui.json || !ui.terminal || !std::io::stdin().is_terminal() {
        return Err(Failure::usage("this needs a terminal", "add --once for one look as text or --json"));
    }
    // Whoever cannot be reached is told of before the screen is taken.
    let mut view = View::new(ui.paint.0);
    view.see(look(client).await?, now_ms());
    let screen = Screen::take()?;
    run(client, view, screen, Duration::from_secs(interval_s)).await
}

fn width(ui: &Ui) -> usize {
    let asked = ui.terminal.then(|| ratatui::crossterm::terminal::size().ok()).flatten();
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    asked.map(|(columns, _)| usize::from(columns)).or(columns).filter(|width| *width > 0).unwrap_or(PLAIN_WIDTH)
}

/// The terminal, given back when this is dropped; a panic gives it back too.
struct Screen {
    terminal: ratatui::DefaultTerminal,
    over: Arc<AtomicBool>,
}

impl Screen {
    fn take() -> Result<Self, Failure> {
        let terminal = ratatui::try_init()
            .map_err(|error| Failure::internal(format!("the terminal cannot be used: {error}"), "add --once"))?;
        Ok(Self { terminal, over: Arc::default() })
    }

    /// Keys and changes of size as they come.
    fn events(&self) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel(64);
        let over = Arc::clone(&self.over);
        // Reading the keyboard cannot be called off, so that it is done beside everything else and ends by itself.
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                match event::poll(KEY_PAUSE) {
                    Ok(false) => {}
                    Ok(true) => {
                        let Ok(event) = event::read() else { return };
                        if sender.blocking_send(event).is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                }
            }
        });
        receiver
    }

    fn show(&mut self, view: &View) -> Result<(), Failure> {
        let drawn = self.terminal.draw(|frame| draw::draw(frame, view));
        drawn.map(|_| ()).map_err(|error| Failure::internal(format!("the terminal cannot be written to: {error}"), ""))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        ratatui::restore();
    }
}

/// One look at the hive.
async fn look(client: &Client) -> ApiResult<Snapshot> {
    let status = client.get::<Status>("/api/v2/status").await?.data;
    let fleet = client.get::<FleetView>("/api/v2/fleet").await?.data;
    let history = client.get::<HistoryView>(&format!("/api/v2/history?limit={EVENTS}")).await?.data;
    Ok(Snapshot { status, fleet, history })
}

/// The last bytes of a job's log.
async fn tail(client: &Client, job: JobId) -> ApiResult<Vec<u8>> {
    let mut log = client.stream(&format!("/api/v2/jobs/{job}/log?tail={TAIL_BYTES}"), false).await?;
    let mut bytes = Vec::new();
    while let Ok(Some(piece)) = log.next().await {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// What was learnt beside the loop.
enum News {
    Seen(ApiResult<Box<Snapshot>>),
    Log(JobId, ApiResult<Vec<u8>>),
    Done(ApiResult<String>),
}

async fn run(client: &Client, mut view: View, mut screen: Screen, interval: Duration) -> Outcome {
    let mut keys = screen.events();
    let (tell, mut news) = mpsc::channel::<News>(16);
    let mut looks = tokio::time::interval(interval);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| Failure::internal(format!("cannot listen for signals: {error}"), ""))?;
    let mut looking = false;
    loop {
        screen.show(&view)?;
        tokio::select! {
            event = keys.recv() => match event {
                None => return Err(Failure::internal("the keyboard cannot be read any more", "")),
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => match view.key(key) {
                    Some(Act::Quit) => return Ok(0),
                    Some(act) => {
                        let (client, tell) = (client.clone(), tell.clone());
                        crate::tasks::spawn("act", async move {
                            // The loop may have ended meanwhile.
                            let _ = tell.send(News::Done(carry_out(&client, act).await)).await;
                        });
                    }
                    None => {}
                },
                Some(_) => {}
            },
            Some(news) = news.recv() => match news {
                News::Seen(result) => {
                    looking = false;
                    match result {
                        Ok(snapshot) => view.see(*snapshot, now_ms()),
                        Err(error) => view.lost(&error),
                    }
                }
                News::Log(job, result) => view.read(job, result),
                News::Done(result) => view.told(result),
            },
            _ = looks.tick(), if !looking => {
                looking = true;
                let (client, tell, job) = (client.clone(), tell.clone(), view.selected_job());
                crate::tasks::spawn("look", async move {
                    let seen = look(&client).await.map(Box::new);
                    let log = match job {
                        Some(job) => Some((job, tail(&client, job).await)),
                        None => None,
                    };
                    if let Some((job, log)) = log {
                        let _ = tell.send(News::Log(job, log)).await;
                    }
                    let _ = tell.send(News::Seen(seen)).await;
                });
            }
            _ = ended.recv() => return Ok(0),
        }
    }
}

async fn carry_out(client: &Client, act: Act) -> Result<String, ApiError> {
    let queue = |action: &str| ControlRequest { action: action.to_owned(), ..ControlRequest::default() };
    let drone = |name: &str, action: &str| format!("/api/v2/nodes/{}/{action}", segment(name));
    let nothing = DroneRequest::default();
    Ok(match act {
        Act::Quit => String::new(),
        Act::Pause => {
            client.post::<Changed>("/api/v2/control", &queue("pause")).await?;
            "the queue is paused".to_owned()
        }
        Act::Resume => {
            client.post::<Changed>("/api/v2/control", &queue("resume")).await?;
            "the queue goes on".to_owned()
        }
        Act::Drain(name) => {
            client.post::<Changed>(&drone(&name, "drain"), &nothing).await?;
            format!("{name} is being emptied")
        }
        Act::Undrain(name) => {
            client.post::<Changed>(&drone(&name, "resume"), &nothing).await?;
            format!("{name} gets work again")
        }
        Act::Cancel(job) => {
            let path = format!("/api/v2/jobs/{job}/cancel");
            let job = client.post::<JobView>(&path, &CancelRequest::default()).await?.data;
            format!("{} is cancelled", job.target)
        }
    })
}
