//! The monitor's screen, drawn from its [`View`].
//!
//! Never done here: changing anything, or showing text that was not cleaned.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};

use super::view::{Focus, Mode, View};
use crate::api::{FleetBuild, FleetDrone, words};
use crate::cli::render::farm::note;
use crate::cli::render::queue_line;
use crate::cli::text::{Paint, clean, cut, short_duration};

/// Columns of a progress bar.
const BAR: usize = 10;
const KEYS: &str = "q quit  p pause/resume  d drain/resume drone  c cancel build  / filter  Tab and arrows select";

/// A bar of `width` columns, filled so far.
pub(super) fn bar(percent: Option<u8>, width: usize) -> String {
    let full = percent.map_or(0, |percent| usize::from(percent) * width / 100);
    format!("{}{}", "█".repeat(full), "░".repeat(width.saturating_sub(full)))
}

/// A drone in one cleaned line.
pub(super) fn drone_line(drone: &FleetDrone) -> String {
    let load = drone.load.map_or_else(|| "-".to_owned(), |load| format!("{load:.1}"));
    let cores = drone.cores_limit.map_or_else(|| drone.cores.to_string(), |limit| format!("{limit}/{}", drone.cores));
    let name = cut(&clean(&drone.name), 16);
    let state = words::member_state(drone.state);
    let text = format!(
        "{name:<16} {state:<7} {:>2}/{:<2} load {load:<5} cores {cores:<5} {}",
        drone.used,
        drone.slots,
        note(drone)
    );
    clean(text.trim_end()).into_owned()
}

/// A build in one cleaned line.
pub(super) fn build_line(drone: &FleetDrone, build: &FleetBuild) -> String {
    let progress = match (build.percent, build.eta_ms) {
        (Some(percent), Some(eta_ms)) => format!("{percent:>3}% {:>4} left", short_duration(eta_ms)),
        _ => match build.elapsed_ms {
            Some(elapsed_ms) => format!("   ? {:>4} so far", short_duration(elapsed_ms)),
            None => words::attempt_state(build.state).to_owned(),
        },
    };
    let name = cut(&clean(&drone.name), 12);
    format!("{} {progress:<16} {name:<12} {}", bar(build.percent, BAR), clean(&build.target))
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View) {
    let rows = Layout::vertical([
        Constraint::Length(2),
        Constraint::Percentage(45),
        Constraint::Fill(1),
        Constraint::Length(1),
    ]);
    let [head, middle, bottom, foot] = rows.areas(frame.area());
    let halves = |area| Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas::<2>(area);
    let ([left, right], [lower_left, lower_right]) = (halves(middle), halves(bottom));
    header(frame, view, head);
    let drones: Vec<String> = view.drones().into_iter().map(drone_line).collect();
    let builds: Vec<String> = view.builds().into_iter().map(|(drone, build)| build_line(drone, build)).collect();
    list(frame, view, left, "drones", &drones, Some((view.drone, view.focus == Focus::Drones)));
    list(frame, view, right, "builds", &builds, Some((view.build, view.focus == Focus::Builds)));
    list(frame, view, lower_left, "events", &view.events(), None);
    let height = usize::from(lower_right.height.saturating_sub(2));
    let tail = view.log.len().saturating_sub(height);
    list(frame, view, lower_right, "log of the selected build", view.log.get(tail..).unwrap_or_default(), None);
    footer(frame, view, foot);
}

fn style(view: &View, colour: Color) -> Style {
    if view.colours { Style::new().fg(colour) } else { Style::new() }
}

fn header(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let Some(seen) = &view.seen else { return };
    let rate = view.rate_per_min().map_or_else(String::new, |rate| format!(", {rate} done per minute"));
    let coordinator = seen.status.coordinator.as_ref().map_or("none", |coordinator| coordinator.name.as_str());
    let paused = match &seen.fleet.paused {
        Some(decision) => format!("  paused by {} {}", clean(&decision.by), clean(&decision.why)),
        None if seen.status.queue.paused => "  paused".to_owned(),
        None => String::new(),
    };
    let quorum = if seen.status.quorum { "" } else { ", no quorum" };
    let first = format!("coordinator {}{quorum}, {} drones{rate}", clean(coordinator), seen.fleet.drones.len());
    let mut queue = seen.status.queue.clone();
    queue.paused = false;
    let lines = vec![
        Line::from(first),
        Line::from(vec![
            Span::raw(format!("queue: {}", queue_line(&queue, Paint(false)))),
            Span::styled(paused, style(view, Color::Yellow)),
        ]),
    ];
    frame.render_widget(Paragraph::new(lines), area);
}

/// A list in a box, with the selected line in sight.
fn list(
    frame: &mut Frame<'_>,
    view: &View,
    area: Rect,
    title: &str,
    lines: &[String],
    selected: Option<(usize, bool)>,
) {
    let focused = selected.is_some_and(|(_, focused)| focused);
    let border = if focused { style(view, Color::Cyan) } else { Style::new() };
    let title = format!(" {title}{} ", if focused { " *" } else { "" });
    let height = usize::from(area.height.saturating_sub(2));
    let first = selected.map_or(0, |(at, _)| at.saturating_sub(height.saturating_sub(1)));
    let shown = lines.iter().enumerate().skip(first).take(height).map(|(at, text)| {
        let marked = selected.is_some_and(|(selected, focused)| selected == at && focused);
        let weight = if marked { Modifier::REVERSED } else { Modifier::empty() };
        Line::styled(text.clone(), Style::new().add_modifier(weight))
    });
    let text: Vec<Line<'_>> = shown.collect();
    frame.render_widget(Paragraph::new(text).block(Block::bordered().title(title).border_style(border)), area);
}

fn footer(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let (text, colour) = match &view.mode {
        Mode::Ask(question, _) => (question.clone(), Color::Yellow),
        Mode::Filter => (format!("filter: {}_  (Enter keeps it, Esc clears it)", view.filter), Color::Cyan),
        Mode::Normal if !view.message.is_empty() => (view.message.clone(), Color::Yellow),
        Mode::Normal if !view.filter.is_empty() => {
            (format!("only {:?} (Esc shows all)  {KEYS}", view.filter), Color::Cyan)
        }
        Mode::Normal => (KEYS.to_owned(), Color::DarkGray),
    };
    frame.render_widget(Paragraph::new(Line::styled(text, style(view, colour))), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
    use serde_json::json;

    use super::super::view::{Act, Snapshot};
    use super::*;
    use crate::api::{FleetView, HistoryView, Status};

    const JOB: &str = "6f9619ff-8b86-4011-b42d-00c04fc964ff";
    const PEER: &str = "12D3KooWABCDefghijklmnopq2";

    pub(in super::super) fn snapshot(received: u64) -> Snapshot {
        let drone = |name: &str, builds: serde_json::Value| {
            json!({ "name": name, "peer_id": PEER, "role": "builder", "state": "alive", "slots": 2, "used": 1, "load": 0.5, "cores": 4,
                    "cores_limit": null, "arch": "x86_64", "ram_gb": 8, "paused": null, "draining": null, "drain_left_ms": null,
                    "grounded_left_ms": null, "uploads_paused_left_ms": null, "builds": builds })
        };
        let build = json!([{ "job": JOB, "target": "dev-libs/a\u{1b}[2J", "attempt": 1, "state": "building", "elapsed_ms": 30_000,
                             "percent": 50, "eta_ms": 30_000, "samples": 4 }]);
        let fleet = json!({ "drones": [drone("build1", build), drone("build2", json!([]))], "paused": null });
        let status = json!({
            "hive_id": null,
            "self": { "name": "build1", "peer_id": PEER, "role": null, "state": "member", "version": "0", "uptime_ms": 5_000 },
            "coordinator": { "name": "build1", "peer_id": PEER, "term": 3 }, "quorum": true, "members": [],
            "log": { "epoch": 1, "epoch_id": null, "applied": 4, "committed": 4, "age_ms": 0 },
            "queue": { "needed": 7, "delegated": 1, "building": 1, "received": received, "blocked": 0, "failed": 0, "cancelled": 0,
                       "quarantined": 0, "paused": false },
            "notices": [], "degraded": [], "as_of": "2025-11-08T12:34:56.789Z",
        });
        let history = json!({ "history": [{ "job": JOB, "session": JOB, "target": "app/b", "package": "app/b", "backend": "portage",
            "attempt": 1, "drone": "build2", "state": "failed", "class": "build", "reason": "no\u{202e}space", "exit_code": 1,
            "assigned_at": "2025-11-08T12:34:56.789Z", "started_at": null, "ended_at": "2025-11-08T12:34:56.789Z", "duration_ms": 5_000,
            "artifact_bytes": null }], "truncated": false });
        Snapshot {
            status: serde_json::from_value::<Status>(status).expect("a status"),
            fleet: serde_json::from_value::<FleetView>(fleet).expect("a fleet"),
            history: serde_json::from_value::<HistoryView>(history).expect("a history"),
        }
    }

    fn screen(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(140, 24)).expect("a screen");
        terminal.draw(|frame| draw(frame, view)).expect("draws");
        terminal.backend().to_string()
    }

    fn press(view: &mut View, code: KeyCode) -> Option<Act> {
        view.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn the_screen_shows_queue_drones_builds_events_and_log_and_nothing_hostile() {
        let mut view = View::new(false);
        view.see(snapshot(10), 0);
        view.see(snapshot(12), 30_000);
        let job = JOB.parse().expect("an id");
        view.read(job, Ok(b"first\n\x1b]0;x\x07last\r\n".to_vec()));
        let shown = screen(&view);
        for expected in [
            "7 needed",
            "4 done per minute",
            "build2",
            "█████░░░░░  50%  30s left",
            "dev-libs/a\\u{1b}[2J",
            "12:34:56 failed app/b on build2 after 5s: no\\u{202e}space",
            "\\u{1b}]0;x\\u{7}last",
            "q quit",
        ] {
            assert!(shown.contains(expected), "{expected} in\n{shown}");
        }
        assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown}");
    }

    #[test]
    fn keys_act_on_what_is_selected_and_cancel_asks_first() {
        let mut view = View::new(false);
        view.see(snapshot(0), 0);
        assert_eq!(press(&mut view, KeyCode::Char('p')), Some(Act::Pause));
        assert_eq!(press(&mut view, KeyCode::Char('d')), Some(Act::Drain("build1".to_owned())));
        press(&mut view, KeyCode::Tab);
        press(&mut view, KeyCode::Down);
        press(&mut view, KeyCode::Down);
        assert_eq!(press(&mut view, KeyCode::Char('d')), Some(Act::Drain("build2".to_owned())));
        assert_eq!(press(&mut view, KeyCode::Char('c')), None);
        assert!(screen(&view).contains("Cancel dev-libs/a\\u{1b}[2J on build1? y/n"));
        assert_eq!(press(&mut view, KeyCode::Char('n')), None);
        press(&mut view, KeyCode::Char('c'));
        assert_eq!(press(&mut view, KeyCode::Char('y')), Some(Act::Cancel(JOB.parse().expect("an id"))));
        for key in "/build2".chars() {
            assert_eq!(press(&mut view, KeyCode::Char(key)), None, "what is typed into a filter does nothing else");
        }
        press(&mut view, KeyCode::Enter);
        assert_eq!((view.drones().len(), view.builds().len()), (1, 0));
        assert_eq!(press(&mut view, KeyCode::Char('c')), None);
        assert_eq!(view.mode, Mode::Normal, "there is nothing to cancel");
        press(&mut view, KeyCode::Esc);
        assert_eq!(view.drones().len(), 2);
        assert_eq!(press(&mut view, KeyCode::Char('q')), Some(Act::Quit));
        assert_eq!(view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Some(Act::Quit));
    }

    #[test]
    fn a_screen_of_any_size_can_be_drawn() {
        let mut view = View::new(true);
        view.see(snapshot(0), 0);
        for (width, height) in [(1, 1), (3, 5), (20, 8), (300, 3)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
            terminal.draw(|frame| draw(frame, &view)).expect("draws");
        }
    }

    #[test]
    fn one_look_as_text_keeps_to_the_width() {
        for width in [20, 80, 200] {
            let text = super::super::once::text(&snapshot(3), width, Paint(false));
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            assert!(!text.contains('\u{1b}'), "{text}");
        }
        let text = super::super::once::text(&snapshot(3), 120, Paint(false));
        assert!(text.contains("build1") && text.contains("50%") && text.contains("failed app/b"), "{text}");
    }
}
