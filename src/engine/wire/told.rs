//! What a message is about, out of what was read of it: jobs, the session, and one line for people.
//!
//! Works on the decoded form, whatever the protocol: names of fields mean the same everywhere in hive. Never done here: decoding.

use serde_json::Value;

use crate::engine::harmless;

/// Most jobs that are named of one message.
pub const JOBS_MAX: usize = 256;
/// Longest line, characters.
const LINE_MAX: usize = 160;
/// Most values that are looked at.
const VALUES_MAX: usize = 4_000;

/// What a message is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Jobs, in the order in which they are named, each once.
    pub jobs: Vec<String>,
    /// The first session.
    pub session: Option<String>,
    /// Commands on their way through the log, in order.
    pub commands: Vec<String>,
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text
            .bytes()
            .enumerate()
            .all(|(at, b)| if [8, 13, 18, 23].contains(&at) { b == b'-' } else { b.is_ascii_hexdigit() })
}

impl About {
    /// Looks through a message.
    pub fn of(value: &Value) -> Self {
        let mut about = Self::default();
        about.look("", value, &mut VALUES_MAX.clone(), 0);
        about
    }

    /// Also what the path of an HTTP request names.
    pub fn with_path(mut self, path: &str) -> Self {
        let mut parts = path.split('/');
        while let Some(part) = parts.next() {
            let named = parts.clone().next().filter(|id| is_uuid(id));
            match (part, named) {
                ("jobs" | "logs", Some(id)) => self.job(id),
                ("sessions", Some(id)) => self.session = Some(id.to_owned()),
                _ => {}
            }
        }
        self
    }

    fn job(&mut self, id: &str) {
        if self.jobs.len() < JOBS_MAX && !self.jobs.iter().any(|known| known == id) {
            self.jobs.push(id.to_owned());
        }
    }

    fn look(&mut self, name: &str, value: &Value, left: &mut usize, depth: usize) {
        if *left == 0 || depth > 64 {
            return;
        }
        *left -= 1;
        match value {
            Value::String(text) => match name {
                "job" | "job_id" | "jobs" if is_uuid(text) => self.job(text),
                "session" | "session_id" if is_uuid(text) && self.session.is_none() => {
                    self.session = Some(text.clone())
                }
                "command" => self.commands.push(text.clone()),
                _ => {}
            },
            Value::Array(items) => items.iter().for_each(|item| self.look(name, item, left, depth + 1)),
            Value::Object(entries) => {
                if name == "command"
                    && let Some((command, _)) = entries.iter().next().filter(|_| entries.len() == 1)
                {
                    self.commands.push(command.clone());
                }
                for (key, inner) in entries {
                    // A job in a list of jobs has its id by that name.
                    let key = if key == "id" && name == "jobs" { "job" } else { key };
                    self.look(key, inner, left, depth + 1);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// A message in one line, without its kind: `job=…, attempts=3`.
pub fn line(value: &Value, about: &About) -> String {
    let mut parts = Vec::new();
    if about.commands.is_empty() {
        // A variant's name is its kind, which is shown beside.
        let only = value.as_object().filter(|entries| entries.len() == 1).and_then(|entries| entries.values().next());
        let inner = only.unwrap_or(value);
        flatten("", inner, &mut parts, 0);
    } else {
        let mut last: Option<(&str, usize)> = None;
        for command in about.commands.iter().map(String::as_str).chain([""]) {
            match &mut last {
                Some((name, count)) if *name == command => *count += 1,
                other => {
                    if let Some((name, count)) = other.replace((command, 1)) {
                        parts.push(if count > 1 { format!("{count} {name}") } else { name.to_owned() });
                    }
                }
            }
        }
    }
    // Names of fields come from the other side, too, and a terminal would obey them.
    harmless::line(&parts.join(", "), LINE_MAX + 1)
}

fn flatten(name: &str, value: &Value, parts: &mut Vec<String>, depth: usize) {
    if parts.len() >= 12 {
        return;
    }
    let named = |text: String| if name.is_empty() { text } else { format!("{name}={text}") };
    match value {
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) => parts.push(named(value.to_string())),
        Value::String(text) => parts.push(named(text.chars().take(60).collect())),
        Value::Array(items) => match items.as_slice() {
            [one] if depth < 3 => flatten(name, one, parts, depth + 1),
            [] => {}
            many => parts.push(named(many.len().to_string())),
        },
        Value::Object(entries) if depth < 3 => {
            for (key, inner) in entries {
                flatten(key, inner, parts, depth + 1);
            }
        }
        Value::Object(_) => parts.push(named("{…}".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const JOB: &str = "018f3c2e-7a11-7c3e-9d53-0242ac120002";
    const OTHER: &str = "018f3c2e-7a11-7c3e-9d53-0242ac120003";

    #[test]
    fn jobs_sessions_and_commands_are_found_wherever_they_stand() {
        let entries = json!({ "body": { "Append": { "entries": [{ "payload": { "Batch": { "proposals": [
            { "command": { "Submit": { "session": OTHER, "jobs": [{ "id": JOB, "target": "x" }] } } },
            { "command": { "Assign": { "job": JOB } } }, { "command": { "Assign": { "job": OTHER } } },
        ] } } }] } } });
        let about = About::of(&entries);
        assert_eq!(
            (about.jobs.clone(), about.session.as_deref()),
            (vec![JOB.to_owned(), OTHER.to_owned()], Some(OTHER))
        );
        assert_eq!(line(&entries, &about), "Submit, 2 Assign");
        let leases = json!({ "Lease": { "attempts": [{ "job": JOB, "attempt": 1 }] } });
        let about = About::of(&leases);
        assert_eq!(about.jobs, [JOB]);
        assert!(line(&leases, &about).contains("attempt=1"));
        let http = About::default().with_path(&format!("/api/v2/jobs/{JOB}/log"));
        assert_eq!(http.jobs, [JOB]);
        assert!(About::default().with_path("/api/v2/jobs/nonsense").jobs.is_empty());
    }

    #[test]
    fn names_of_fields_are_as_harmless_as_what_they_hold() {
        let hostile = json!({ "a\0b\u{1b}[2J\u{202e}": "x\u{1b}]0;t\u{7}", "c": 1 });
        let line = line(&hostile, &About::of(&hostile));
        assert_eq!(line, "ab=x, c=1");
    }

    #[test]
    fn lines_and_lists_are_bounded() {
        let long = json!({ "a": "x".repeat(1_000), "b": vec!["y".repeat(100); 50], "c": { "d": { "e": { "f": 1 } } } });
        assert!(line(&long, &About::of(&long)).chars().count() <= LINE_MAX + 1);
        let many: Vec<_> =
            (0..1_000u64).map(|n| json!({ "job": format!("018f3c2e-7a11-7c3e-9d53-{n:012}") })).collect();
        assert_eq!(About::of(&json!(many)).jobs.len(), JOBS_MAX);
    }

    proptest! {
        #[test]
        fn nothing_that_was_read_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let value = super::super::cbor::read(&bytes);
            line(&value, &About::of(&value));
        }
    }
}
