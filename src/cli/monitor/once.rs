//! `hive monitor --once`: what is on the monitor's screen, as text of a given width.
//!
//! Never done here: asking.

use super::draw::{build_line, drone_line};
use super::view::{Snapshot, event};
use crate::cli::render::queue_line;
use crate::cli::text::{Colour, Paint, clean, cut};

/// Events shown.
const EVENTS: usize = 10;

/// The text, its lines cut to the width.
pub(super) fn text(seen: &Snapshot, width: usize, paint: Paint) -> String {
    let mut out = String::new();
    let mut put = |line: &str| out.push_str(&format!("{}\n", cut(line, width)));
    let coordinator = seen.status.coordinator.as_ref().map_or("none", |coordinator| coordinator.name.as_str());
    let quorum = if seen.status.quorum { "" } else { ", no quorum" };
    put(&format!("coordinator {}{quorum}", clean(coordinator)));
    put(&format!("queue: {}", queue_line(&seen.status.queue, Paint(false))));
    for notice in &seen.status.notices {
        put(&format!("! {}", clean(notice)));
    }
    let lists: [(&str, Vec<String>); 3] = [
        ("DRONES", seen.fleet.drones.iter().map(drone_line).collect()),
        ("BUILDS", seen.builds().map(|(drone, build)| build_line(drone, build)).collect()),
        ("EVENTS", seen.history.history.iter().take(EVENTS).map(event).collect()),
    ];
    for (title, lines) in lists.into_iter().filter(|(_, lines)| !lines.is_empty()) {
        out.push_str(&format!("\n{}\n", paint.paint(Colour::Dim, title)));
        for line in lines {
            out.push_str(&format!("{}\n", cut(&line, width)));
        }
    }
    out
}
