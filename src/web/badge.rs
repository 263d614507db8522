//! `/badge.svg`: how the hive is, or what its queue does, as a small picture for a README or a wall.
//!
//! Numbers and fixed words only, so that it may be shown by pages of other sites. Never done here: names of anything.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

use super::Context;
use super::answer::{Handled, Params, Problem, RESOURCE_POLICY};
use crate::api::{QueueStatus, Status};

/// Width of a letter of the font's size 11, tenths of a unit; the text is stretched to what is reserved.
const LETTER_TENTHS: usize = 66;
/// Room left and right of a text.
const MARGIN: usize = 8;

#[derive(Deserialize)]
pub(super) struct BadgeParams {
    show: Option<String>,
}

/// What stands on a badge: two texts and the colour of the second.
type Badge = (&'static str, String, &'static str);

const GOOD: &str = "#1f7a4a";
const BUSY: &str = "#1f66a8";
const BAD: &str = "#b02a1e";
const IDLE: &str = "#5f5a50";

pub(super) async fn badge(State(context): State<Context>, Params(params): Params<BadgeParams>) -> Handled {
    let about = match params.show.as_deref() {
        None | Some("health") => health,
        Some("queue") => queue,
        Some(_) => return Err(Problem::invalid("show is health or queue")),
    };
    let badge = match context.node.status().await {
        Ok(status) => about(&status),
        Err(_) => ("hive", "unknown".to_owned(), IDLE),
    };
    Ok(drawn(&badge))
}

fn health(status: &Status) -> Badge {
    let (text, colour) = match (status.hive_id.is_some(), status.quorum, status.degraded.len()) {
        (false, _, _) => ("no hive".to_owned(), IDLE),
        (true, false, _) => ("no quorum".to_owned(), BAD),
        (true, true, 0) => ("healthy".to_owned(), GOOD),
        (true, true, 1) => ("1 problem".to_owned(), BAD),
        (true, true, problems) => (format!("{problems} problems"), BAD),
    };
    ("hive", text, colour)
}

fn queue(status: &Status) -> Badge {
    let QueueStatus { needed, building, paused, .. } = status.queue;
    let (text, colour) = match (paused, building, needed) {
        (true, _, _) => (format!("paused, {needed} waiting"), IDLE),
        (false, 0, 0) => ("idle".to_owned(), GOOD),
        (false, _, _) => (format!("{building} building, {needed} waiting"), BUSY),
    };
    ("builds", text, colour)
}

fn drawn((label, text, colour): &Badge) -> Response {
    let width = |text: &str| text.len() * LETTER_TENTHS / 10;
    let (left, right) = (width(label) + 2 * MARGIN, width(text) + 2 * MARGIN);
    let (all, text_x) = (left + right, left + MARGIN);
    let picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{all}\" height=\"20\" role=\"img\" aria-label=\"{label}: {text}\">\
         <title>{label}: {text}</title><clipPath id=\"r\"><rect width=\"{all}\" height=\"20\" rx=\"4\"/></clipPath>\
         <g clip-path=\"url(#r)\"><rect width=\"{left}\" height=\"20\" fill=\"#39352c\"/>\
         <rect x=\"{left}\" width=\"{right}\" height=\"20\" fill=\"{colour}\"/></g>\
         <g fill=\"#fff\" font-family=\"Verdana,DejaVu Sans,sans-serif\" font-size=\"11\">\
         <text x=\"{MARGIN}\" y=\"14\" textLength=\"{}\" lengthAdjust=\"spacingAndGlyphs\">{label}</text>\
         <text x=\"{text_x}\" y=\"14\" textLength=\"{}\" lengthAdjust=\"spacingAndGlyphs\">{text}</text></g></svg>\n",
        width(label),
        width(text),
    );
    let headers = [
        (header::CONTENT_TYPE, "image/svg+xml"),
        (header::CACHE_CONTROL, "no-cache"),
        (RESOURCE_POLICY, "cross-origin"),
    ];
    (headers, picture).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::fake;

    #[test]
    fn a_badge_says_what_is_worst() {
        let mut status = fake::status("<b>");
        assert_eq!(health(&status), ("hive", "healthy".to_owned(), GOOD));
        assert_eq!(queue(&status).1, "1 building, 1 waiting");
        status.queue.paused = true;
        assert_eq!(queue(&status).1, "paused, 1 waiting");
        status.degraded = vec!["member_down".to_owned()];
        assert_eq!(health(&status).1, "1 problem");
        status.quorum = false;
        assert_eq!(health(&status).1, "no quorum");
        status.hive_id = None;
        assert_eq!(health(&status).1, "no hive");
        status.queue = QueueStatus::default();
        assert_eq!(queue(&status), ("builds", "idle".to_owned(), GOOD));
    }
}
