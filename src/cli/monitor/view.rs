//! What the monitor knows and what is selected: keys and looks change it, the screen is drawn from it.
//!
//! All foreign text is cleaned when it is taken in. Never done here: asking, drawing.

use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::api::{ApiError, ApiResult, FleetBuild, FleetDrone, FleetView, HistoryLine, HistoryView, Status, words};
use crate::cli::text::{clean, short_duration};
use crate::engine::id::JobId;

/// Time over which the rate is counted, milliseconds.
const RATE_MS: u64 = 60_000;
/// Longest filter, characters.
const FILTER_MAX: usize = 60;

/// One look at the hive.
pub(super) struct Snapshot {
    pub(super) status: Status,
    pub(super) fleet: FleetView,
    pub(super) history: HistoryView,
}

impl Snapshot {
    /// Attempts under way, with the names of their drones.
    pub(super) fn builds(&self) -> impl Iterator<Item = (&FleetDrone, &FleetBuild)> {
        self.fleet.drones.iter().flat_map(|drone| drone.builds.iter().map(move |build| (drone, build)))
    }
}

/// What a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Quit,
    Pause,
    Resume,
    Drain(String),
    Undrain(String),
    Cancel(JobId),
}

/// Which list the arrows move in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Focus {
    Drones,
    Builds,
}

/// What the keys mean now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Normal,
    /// Characters go into the filter.
    Filter,
    /// This is done when `y` follows.
    Ask(String, Act),
}

/// Everything that is on the screen.
pub(super) struct View {
    pub(super) colours: bool,
    pub(super) seen: Option<Snapshot>,
    pub(super) focus: Focus,
    pub(super) mode: Mode,
    pub(super) filter: String,
    pub(super) drone: usize,
    pub(super) build: usize,
    /// Last lines of the selected build, cleaned.
    pub(super) log: Vec<String>,
    /// Whose log that is.
    log_of: Option<JobId>,
    /// What was done last or went wrong last, cleaned.
    pub(super) message: String,
    /// Times with the number of jobs done by then.
    done: VecDeque<(u64, u64)>,
}

impl View {
    pub(super) fn new(colours: bool) -> Self {
        Self {
            colours,
            seen: None,
            focus: Focus::Builds,
            mode: Mode::Normal,
            filter: String::new(),
            drone: 0,
            build: 0,
            log: Vec::new(),
            log_of: None,
            message: String::new(),
            done: VecDeque::new(),
        }
    }

    /// A look has come.
    pub(super) fn see(&mut self, snapshot: Snapshot, now_ms: u64) {
        self.done.push_back((now_ms, snapshot.status.queue.received));
        while self.done.front().is_some_and(|(at_ms, _)| now_ms.saturating_sub(*at_ms) > RATE_MS) {
            self.done.pop_front();
        }
        let selected = self.selected_job();
        if self.seen.is_some() && self.message.starts_with("no answer") {
            self.message.clear();
        }
        self.seen = Some(snapshot);
        // The same build stays selected where there still is one.
        if let Some(at) = selected.and_then(|job| self.builds().iter().position(|(_, build)| build.job == job)) {
            self.build = at;
        }
        self.keep_within();
    }

    /// A look has failed; what was seen before stays.
    pub(super) fn lost(&mut self, error: &ApiError) {
        self.message = format!("no answer: {}", clean(&error.message));
    }

    /// The end of a log has come.
    pub(super) fn read(&mut self, job: JobId, log: ApiResult<Vec<u8>>) {
        if self.selected_job() != Some(job) {
            return;
        }
        self.log_of = Some(job);
        self.log = match log {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
                text.lines().map(|line| clean(line.rsplit('\r').next().unwrap_or(line)).into_owned()).collect()
            }
            Err(error) => vec![clean(&error.message).into_owned()],
        };
    }

    /// What was asked for is done, or is not.
    pub(super) fn told(&mut self, result: Result<String, ApiError>) {
        let text = match &result {
            Ok(text) => text.clone(),
            Err(error) => format!("{}; {}", error.message, error.hint),
        };
        self.message = clean(&text).into_owned();
    }

    fn fits(&self, text: &str) -> bool {
        self.filter.is_empty() || text.to_lowercase().contains(&self.filter.to_lowercase())
    }

    /// Drones that the filter lets through.
    pub(super) fn drones(&self) -> Vec<&FleetDrone> {
        let all = self.seen.iter().flat_map(|seen| &seen.fleet.drones);
        let fits =
            |drone: &&FleetDrone| self.fits(&drone.name) || drone.builds.iter().any(|build| self.fits(&build.target));
        all.filter(fits).collect()
    }

    /// Builds that the filter lets through, with their drones.
    pub(super) fn builds(&self) -> Vec<(&FleetDrone, &FleetBuild)> {
        let all = self.seen.iter().flat_map(Snapshot::builds);
        all.filter(|(drone, build)| self.fits(&drone.name) || self.fits(&build.target)).collect()
    }

    /// What happened lately, cleaned, the newest first.
    pub(super) fn events(&self) -> Vec<String> {
        let all = self.seen.iter().flat_map(|seen| &seen.history.history);
        all.filter(|line| self.fits(&line.target) || self.fits(&line.drone)).map(event).collect()
    }

    /// Jobs done per minute, lately.
    pub(super) fn rate_per_min(&self) -> Option<u64> {
        let ((from_ms, before), (to_ms, after)) = (self.done.front()?, self.done.back()?);
        let span_ms = to_ms.saturating_sub(*from_ms);
        (span_ms >= 1_000).then(|| after.saturating_sub(*before) * 60_000 / span_ms)
    }

    pub(super) fn selected_job(&self) -> Option<JobId> {
        self.builds().get(self.build).map(|(_, build)| build.job)
    }

    fn keep_within(&mut self) {
        self.drone = self.drone.min(self.drones().len().saturating_sub(1));
        self.build = self.build.min(self.builds().len().saturating_sub(1));
        if self.log_of != self.selected_job() {
            self.log.clear();
            self.log_of = None;
        }
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: KeyEvent) -> Option<Act> {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Some(Act::Quit);
        }
        match std::mem::replace(&mut self.mode, Mode::Normal) {
            Mode::Ask(_, act) => {
                if key.code == KeyCode::Char('y') {
                    return Some(act);
                }
                self.message = "nothing was changed".to_owned();
                None
            }
            Mode::Filter => {
                self.filter_key(key.code);
                self.keep_within();
                None
            }
            Mode::Normal => {
                let act = self.normal_key(key.code);
                self.keep_within();
                act
            }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "keys that mean nothing are most of the keyboard")]
    fn filter_key(&mut self, code: KeyCode) {
        self.mode = Mode::Filter;
        match code {
            KeyCode::Enter => self.mode = Mode::Normal,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Normal;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(character) if self.filter.chars().count() < FILTER_MAX && !character.is_control() => {
                self.filter.push(character);
            }
            _ => {}
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "keys that mean nothing are most of the keyboard")]
    fn normal_key(&mut self, code: KeyCode) -> Option<Act> {
        match code {
            KeyCode::Char('q') => return Some(Act::Quit),
            KeyCode::Char('p') => {
                let paused = self.seen.as_ref().is_some_and(|seen| seen.fleet.paused.is_some());
                return Some(if paused { Act::Resume } else { Act::Pause });
            }
            KeyCode::Char('d') => {
                let drones = self.drones();
                let drone = drones.get(self.drone)?;
                let name = drone.name.clone();
                return Some(if drone.draining.is_some() { Act::Undrain(name) } else { Act::Drain(name) });
            }
            KeyCode::Char('c') => {
                let builds = self.builds();
                let (drone, build) = builds.get(self.build)?;
                let question = format!("Cancel {} on {}? y/n", clean(&build.target), clean(&drone.name));
                let act = Act::Cancel(build.job);
                self.mode = Mode::Ask(question, act);
            }
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Tab | KeyCode::Left | KeyCode::Right => {
                self.focus = if self.focus == Focus::Drones { Focus::Builds } else { Focus::Drones };
            }
            KeyCode::Up => self.select(usize::saturating_sub),
            KeyCode::Down => self.select(usize::saturating_add),
            _ => {}
        }
        None
    }

    fn select(&mut self, step: fn(usize, usize) -> usize) {
        let at = if self.focus == Focus::Drones { &mut self.drone } else { &mut self.build };
        *at = step(*at, 1);
    }
}

/// An attempt that is over, in one cleaned line.
pub(super) fn event(line: &HistoryLine) -> String {
    let at =
        line.ended_at.map_or_else(|| "--:--:--".to_owned(), |at| at.to_string().get(11..19).unwrap_or("-").to_owned());
    let took = line.duration_ms.map_or_else(String::new, |ms| format!(" after {}", short_duration(ms)));
    let why = line.reason.as_deref().map_or_else(String::new, |why| format!(": {why}"));
    let text = format!("{at} {} {} on {}{took}{why}", words::attempt_state(line.state), line.target, line.drone);
    clean(&text).into_owned()
}
