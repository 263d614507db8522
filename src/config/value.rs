//! Values of settings: which kinds there are, and how a text or a TOML value becomes one.
//!
//! Every source (file, environment, flag) goes through [`Kind::from_text`] or [`Kind::from_toml`], so that a value means the same
//! wherever it is written. Errors say what would have been accepted. Nothing is read from anywhere here.

use std::fmt;

use toml::de::DeValue;

/// Longest text accepted for any setting, bytes: the longest path Linux takes.
pub const TEXT_MAX_LEN: usize = 4_096;
/// Most elements of a list setting: nobody types more, and each is looked at whenever an interface changes.
pub const LIST_MAX_LEN: usize = 256;

/// What a setting takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// One text with a grammar.
    Text {
        /// What is accepted, as it completes "expected …".
        expected: &'static str,
        /// Whether a text is in the grammar.
        check: fn(&str) -> bool,
    },
    /// A file system path; absolute where it stands in a file, because a file has no working directory.
    Path,
    /// A whole number between both, inclusive.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// `true` or `false`.
    Switch,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// Several texts of one grammar: an array in TOML, separated by commas in the environment, repeated as a flag.
    List {
        /// What each element must be, as it completes "expected …".
        expected: &'static str,
        /// Whether an element is in the grammar.
        check: fn(&str) -> bool,
    },
    /// An array of tables whose content another module understands. In the file only.
    Tables,
}

/// A value that passed its kind's check.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Explicitly or by default not set.
    Unset,
    /// A text, path or choice.
    Text(String),
    /// A number.
    Integer(i64),
    /// A switch.
    Switch(bool),
    /// Texts.
    List(Vec<String>),
    /// Tables, with the line at which each begins.
    Tables(Vec<(toml::Table, usize)>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => f.write_str("-"),
            Self::Text(text) => f.write_str(text),
            Self::Integer(number) => number.fmt(f),
            Self::Switch(on) => on.fmt(f),
            Self::List(items) if items.is_empty() => f.write_str("-"),
            Self::List(items) => f.write_str(&items.join(",")),
            Self::Tables(tables) => write!(f, "{} tables", tables.len()),
        }
    }
}

impl Value {
    /// The value as `--json` shows it.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Unset => serde_json::Value::Null,
            Self::Text(text) => text.as_str().into(),
            Self::Integer(number) => (*number).into(),
            Self::Switch(on) => (*on).into(),
            Self::List(items) => items.as_slice().into(),
            Self::Tables(tables) => {
                let shown = tables.iter().map(|(table, _)| serde_json::to_value(table).unwrap_or_default());
                serde_json::Value::Array(shown.collect())
            }
        }
    }
}

impl Kind {
    /// What is accepted, as it completes "expected …".
    pub fn expected(&self) -> String {
        match self {
            Self::Text { expected, .. } => (*expected).to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Switch => "true or false".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::List { expected, .. } => format!("a list of texts, each {expected}"),
            Self::Tables => "tables ([[…]])".to_owned(),
        }
    }

    /// Reads one value of the environment or of a flag. A list is separated by commas.
    pub fn from_text(&self, text: &str) -> Result<Value, String> {
        let refuse = || Err(format!("expected {}, got {}", self.expected(), shown(text)));
        match self {
            Self::Text { check, .. } if usable(text) && check(text) => Ok(Value::Text(text.to_owned())),
            Self::Path if usable(text) => Ok(Value::Text(text.to_owned())),
            Self::Integer { min, max } => match text.trim().parse::<i64>() {
                Ok(number) if (*min..=*max).contains(&number) => Ok(Value::Integer(number)),
                Ok(_) | Err(_) => refuse(),
            },
            Self::Switch => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(Value::Switch(true)),
                "false" | "0" | "no" | "off" | "" => Ok(Value::Switch(false)),
                _ => refuse(),
            },
            Self::Choice(words) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
            Self::List { .. } => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                self.list(items.map(str::to_owned).collect())
            }
            Self::Text { .. } | Self::Path | Self::Choice(_) | Self::Tables => refuse(),
        }
    }

    /// Checks the elements of a list.
    pub fn list(&self, items: Vec<String>) -> Result<Value, String> {
        let Self::List { expected, check } = self else {
            return Err(format!("expected {}, got a list", self.expected()));
        };
        if items.len() > LIST_MAX_LEN {
            return Err(format!("expected at most {LIST_MAX_LEN} elements, got {}", items.len()));
        }
        match items.iter().find(|item| !usable(item) || !check(item)) {
            Some(item) => Err(format!("expected {expected}, got {}", shown(item))),
            None => Ok(Value::List(items)),
        }
    }

    /// Reads a TOML value. Types are not converted: `port = "80"` is refused, because it is most likely a misunderstanding.
    /// Tables are only recognised; their content is filled in by whoever has the whole text.
    pub fn from_toml(&self, value: &DeValue<'_>) -> Result<Value, String> {
        let refuse = || Err(format!("expected {}, got {}", self.expected(), toml_shown(value)));
        match (self, value) {
            (Self::Path, DeValue::String(text)) if !text.starts_with('/') => {
                Err(format!("expected an absolute path, got {}", shown(text)))
            }
            (Self::Text { .. } | Self::Path | Self::Choice(_), DeValue::String(text)) => self.from_text(text),
            (Self::Integer { .. }, DeValue::Integer(number)) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(parsed) => self.from_text(&parsed.to_string()).or_else(|_| refuse()),
                    Err(_) => refuse(),
                }
            }
            (Self::Switch, DeValue::Boolean(on)) => Ok(Value::Switch(*on)),
            (Self::List { .. }, DeValue::Array(array)) => {
                let mut items = Vec::new();
                for item in array.iter() {
                    let DeValue::String(text) = item.get_ref() else { return refuse() };
                    items.push(text.to_string());
                }
                self.list(items)
            }
            (Self::Tables, DeValue::Array(array)) if array.iter().all(|item| item.get_ref().is_table()) => {
                Ok(Value::Tables(Vec::new()))
            }
            _ => refuse(),
        }
    }
}

fn usable(text: &str) -> bool {
    !text.is_empty() && text.len() <= TEXT_MAX_LEN && !text.chars().any(char::is_control)
}

/// A text as error messages quote it: escaped and cut, so that a hostile file cannot draw on the terminal.
fn shown(text: &str) -> String {
    let cut: String = text.chars().take(80).collect();
    format!("{cut:?}")
}

fn toml_shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => shown(text),
        DeValue::Integer(number) => format!("the number {}", number.as_str()),
        DeValue::Float(_) => "a number with a fraction".to_owned(),
        DeValue::Boolean(on) => format!("{on}"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_their_range_and_words_outside_their_list_are_refused_with_what_is_expected() {
        let port = Kind::Integer { min: 1, max: 65_535 };
        assert_eq!(port.from_text(" 50555 "), Ok(Value::Integer(50_555)));
        for bad in ["0", "65536", "", "abc", "1.5", "-1"] {
            let message = port.from_text(bad).expect_err(bad);
            assert!(message.starts_with("expected a whole number from 1 to 65535"), "{message}");
        }
        let choice = Kind::Choice(&["on", "off"]);
        assert_eq!(choice.from_text("on"), Ok(Value::Text("on".to_owned())));
        assert_eq!(choice.from_text("ON"), Err("expected one of on, off, got \"ON\"".to_owned()));
    }

    #[test]
    fn quoted_values_cannot_draw_on_a_terminal() {
        let message = Kind::Choice(&["a"]).from_text("\u{1b}[2J\u{202e}evil").expect_err("refused");
        assert!(!message.contains('\u{1b}') && !message.contains('\u{202e}'), "{message:?}");
    }

    #[test]
    fn lists_are_split_trimmed_and_bounded() {
        let list = Kind::List { expected: "a word", check: |item| item.chars().all(char::is_alphanumeric) };
        assert_eq!(list.from_text("a, b,,c"), Ok(Value::List(vec!["a".into(), "b".into(), "c".into()])));
        assert_eq!(list.from_text("a,b c"), Err("expected a word, got \"b c\"".to_owned()));
        assert!(list.list(vec!["x".to_owned(); LIST_MAX_LEN + 1]).is_err());
    }
}
