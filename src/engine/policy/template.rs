//! Reasons with placeholders: `only {census.builder} builders for {members} nodes`.
//!
//! A placeholder is a variable of policies and a path into it. `{{` and `}}` stand for braces. What is unknown is an error when
//! the policy is loaded; what is absent in the values shows as `?`.

use serde_json::Value;

use super::expr::{Names, is_identifier};
use super::{REASON_MAX_BYTES, Snapshot, cut};
use crate::engine::role::is_name;

/// Longest template, bytes: longer than its result may be, because placeholders can be longer than their values.
const TEMPLATE_MAX_BYTES: usize = 2 * REASON_MAX_BYTES;

#[derive(Debug)]
enum Part {
    Text(String),
    Place(Vec<String>),
}

/// A checked template.
#[derive(Debug)]
pub(super) struct Template {
    parts: Vec<Part>,
}

impl Template {
    /// Parses and checks.
    pub(super) fn parse(text: &str, names: &Names<'_>) -> Result<Self, String> {
        if text.trim().is_empty() || text.len() > TEMPLATE_MAX_BYTES {
            return Err(format!("reason of {} bytes, expected 1 to {TEMPLATE_MAX_BYTES}", text.len()));
        }
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '{' | '}' if rest.peek() == Some(&c) => {
                    rest.next();
                    plain.push(c);
                }
                '{' => {
                    let place: String = rest.by_ref().take_while(|c| *c != '}').collect();
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                    parts.push(Part::Place(check(&place, names)?));
                }
                '}' => return Err("reason with a lone }, expected }} for a brace".to_owned()),
                c if c.is_control() => return Err(format!("reason with control character {c:?}, expected one line")),
                c => plain.push(c),
            }
        }
        parts.push(Part::Text(plain));
        Ok(Self { parts })
    }

    /// Facts that it shows.
    pub(super) fn facts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Place(path) if matches!(path[0].as_str(), "facts" | "fact_age_s") => Some(path[1].as_str()),
            Part::Place(_) | Part::Text(_) => None,
        })
    }

    /// Fills in the values.
    pub(super) fn render(&self, snapshot: &Snapshot) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Place(path) => {
                    let mut shown = look_up(path, snapshot).map_or_else(|| "?".to_owned(), |value| show(&value));
                    cut(&mut shown, REASON_MAX_BYTES);
                    out.push_str(&shown);
                }
            }
        }
        out
    }
}

fn check(place: &str, names: &Names<'_>) -> Result<Vec<String>, String> {
    let path: Vec<String> = place.split('.').map(str::to_owned).collect();
    let wrong = |what: String| format!("placeholder {{{place}}}: {what}");
    let variable = path[0].as_str();
    Names::check_variable(variable).map_err(wrong)?;
    let depth_allowed = match variable {
        "members" => 1..=1,
        "facts" => 2..=8,
        "node" if path.get(1).is_some_and(|field| field == "tools") => 2..=3,
        _ => 2..=2,
    };
    if !depth_allowed.contains(&path.len()) {
        return Err(wrong("expected the name of a value".to_owned()));
    }
    if let Some(field) = path.get(1) {
        names.check_field(variable, field).map_err(wrong)?;
    }
    if path.iter().skip(2).any(|step| !is_name(step) && !is_identifier(step)) {
        return Err(wrong("expected names separated by dots".to_owned()));
    }
    Ok(path)
}

fn look_up(path: &[String], snapshot: &Snapshot) -> Option<Value> {
    let field = path.get(1).map(String::as_str).unwrap_or_default();
    match path.first()?.as_str() {
        "members" => Some(snapshot.members.into()),
        "census" => Some(snapshot.census.get(field).copied().unwrap_or(0).into()),
        "queue" => serde_json::to_value(snapshot.queue).ok()?.get(field).cloned(),
        "node" => {
            let value = serde_json::to_value(&snapshot.node).ok()?.get(field).cloned()?;
            path.iter().skip(2).try_fold(value, |value, step| value.get(step).cloned())
        }
        "facts" => {
            let value = &snapshot.facts.get(field)?.value;
            path.iter().skip(2).try_fold(value, |value, step| value.get(step)).cloned()
        }
        "fact_age_s" => Some((snapshot.facts.get(field)?.age_ms / 1_000).into()),
        _ => None,
    }
}

/// One line: text as it is without control characters, lists comma separated, everything else as JSON.
fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        Value::Array(items) => items.iter().take(16).map(show).collect::<Vec<_>>().join(", "),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}
