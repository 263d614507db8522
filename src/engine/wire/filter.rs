//! The filter language: `kind == "ADVICE" && from == "build1"`, `latency > 20ms`, `!(verdict == "taken")`.
//!
//! ```text
//!   or    = and { "||" and }
//!   and   = not { "&&" not }
//!   not   = "!" not | "(" or ")" | test
//!   test  = field [ op value | "in" "(" value { "," value } ")" ]
//!   op    = "==" | "!=" | "<" | "<=" | ">" | ">=" | "contains" | "matches"
//!   value = "text" | number [unit] | true | false
//! ```
//!
//! A field alone asks whether it is there. Texts are compared without regard to ASCII case; jobs, sessions and traces may be shortened
//! to their first eight characters or more. Length and depth are bounded, regular expressions are linear in time, and an error names the
//! character at which it stands. Never done here: reading records.

use std::borrow::Cow;
use std::fmt;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// Longest filter, bytes.
pub const LENGTH_MAX: usize = 1_000;
/// Deepest nesting of parentheses and negations.
pub const DEPTH_MAX: usize = 32;
/// Most memory that one regular expression may take, bytes.
const REGEX_MAX: usize = 256 << 10;
/// Shortest beginning of an id that stands for the whole.
const SHORT_ID_MIN: usize = 8;

/// A field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Of the record.
    Id,
    /// That saw it.
    Node,
    /// Sender.
    From,
    /// Receiver.
    To,
    /// What was spoken.
    Protocol,
    /// Kind of message.
    Kind,
    /// Path of an HTTP request.
    Path,
    /// A job named in it.
    Job,
    /// How many jobs are named in it.
    Jobs,
    /// The session named in it.
    Session,
    /// Length.
    Bytes,
    /// Of an answer.
    Latency,
    /// What came of it.
    Status,
    /// Taken, or why not.
    Verdict,
    /// Of a message and its answers.
    Trace,
    /// One line.
    Summary,
    /// By the node that saw it.
    Sent,
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// Text.
    Text,
    /// An id, which may be shortened.
    Id,
    /// Bytes; `KiB`, `MiB`, `kB`, `MB` may stand behind the number.
    Size,
    /// Milliseconds; `us`, `ms`, `s`, `min` may stand behind the number.
    Duration,
    /// A number without a unit.
    Count,
    /// A text that may be a number.
    Status,
    /// True or false.
    Flag,
}

/// Name, type and meaning of each field.
pub const FIELDS: [(Field, &str, Type, &str); 17] = [
    (Field::From, "from", Type::Text, "name or address of the sender"),
    (Field::To, "to", Type::Text, "name or address of the receiver, or everybody"),
    (Field::Protocol, "protocol", Type::Text, "what was spoken"),
    (Field::Kind, "kind", Type::Text, "kind of message; the method for HTTP"),
    (Field::Job, "job", Type::Id, "a job that is named in it"),
    (Field::Session, "session", Type::Id, "the session that is named in it"),
    (Field::Bytes, "bytes", Type::Size, "length of the message"),
    (Field::Latency, "latency", Type::Duration, "of an answer: the time since its question"),
    (Field::Status, "status", Type::Status, "what came of it: ok, refused, 200, 404"),
    (Field::Verdict, "verdict", Type::Text, "sent, taken, or why it was refused"),
    (Field::Node, "node", Type::Text, "the node that saw it"),
    (Field::Sent, "sent", Type::Flag, "the node that saw it sent it"),
    (Field::Path, "path", Type::Text, "path of an HTTP request"),
    (Field::Jobs, "jobs", Type::Count, "how many jobs are named in it"),
    (Field::Trace, "trace", Type::Id, "the same for a message at both ends, and for its answers"),
    (Field::Summary, "summary", Type::Text, "the line shown"),
    (Field::Id, "id", Type::Text, "of the record: NUMBER@NODE"),
];

/// Units of sizes, in bytes.
const SIZES: [(&str, f64); 8] = [
    ("b", 1.0),
    ("kib", 1_024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("bytes", 1.0),
];
/// Units of durations, in milliseconds.
const DURATIONS: [(&str, f64); 5] = [("us", 0.001), ("µs", 0.001), ("ms", 1.0), ("s", 1e3), ("min", 6e4)];

/// Comparisons that a field of this type takes.
pub fn operators(kind: Type) -> &'static [&'static str] {
    match kind {
        Type::Text | Type::Id => &["==", "!=", "contains", "matches", "in"],
        Type::Status => &["==", "!=", "<", "<=", ">", ">=", "contains", "matches", "in"],
        Type::Size | Type::Duration | Type::Count => &["==", "!=", "<", "<=", ">", ">=", "in"],
        Type::Flag => &["==", "!="],
    }
}

/// Units of a field of this type, as they are usually written.
pub fn units(kind: Type) -> &'static [&'static str] {
    match kind {
        Type::Size => &["KiB", "MiB", "GiB", "kB", "MB", "GB"],
        Type::Duration => &["us", "ms", "s", "min"],
        Type::Text | Type::Id | Type::Count | Type::Status | Type::Flag => &[],
    }
}

impl Field {
    fn of_name(name: &str) -> Option<(Self, Type)> {
        // Names that other tools and the API have for the same.
        let name = match name {
            "latency_ms" => "latency",
            "length" | "size" => "bytes",
            other => other,
        };
        FIELDS.iter().find(|row| row.1 == name).map(|row| (row.0, row.2))
    }
}

/// What a filter looks at.
pub trait Seen {
    /// A field's text; none when it has none.
    fn text(&self, field: Field) -> Option<Cow<'_, str>>;
    /// A field's number: bytes, milliseconds, a count.
    fn number(&self, field: Field) -> Option<f64>;
    /// Whether the field is there, or true.
    fn flag(&self, field: Field) -> bool;
    /// Whether any job that it names is meant.
    fn names_job(&self, job: &dyn Fn(&str) -> bool) -> bool;
}

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}, at character {position}")]
pub struct FilterError {
    /// The character at which it stands; 1 is the first.
    pub position: usize,
    /// What is wrong, and what would have been right.
    pub message: String,
}

/// A filter that was understood.
#[derive(Clone, Debug)]
pub struct Filter {
    root: Option<Node>,
}

#[derive(Clone, Debug)]
enum Node {
    Or(Vec<Node>),
    And(Vec<Node>),
    Not(Box<Node>),
    There(Field),
    Text(Field, TextTest),
    Number(Field, Order, f64),
    Flag(Field, bool),
}

#[derive(Clone, Debug)]
enum TextTest {
    /// One of these, or its beginning where the field is an id.
    Is(Vec<String>, bool),
    Contains(String),
    Matches(Regex),
    Ordered(Order, String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn holds(self, ordering: std::cmp::Ordering) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        match self {
            Self::Equal => ordering == Equal,
            Self::Less => ordering == Less,
            Self::LessOrEqual => ordering != Greater,
            Self::Greater => ordering == Greater,
            Self::GreaterOrEqual => ordering != Less,
        }
    }
}

impl Filter {
    /// Takes everything.
    pub fn all() -> Self {
        Self { root: None }
    }

    /// Reads a filter; an empty one takes everything.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > LENGTH_MAX {
            let message = format!("a filter has at most {LENGTH_MAX} bytes, this one has {}", text.len());
            return Err(FilterError { position: LENGTH_MAX, message });
        }
        if text.trim().is_empty() {
            return Ok(Self::all());
        }
        let tokens = tokens(text)?;
        let mut parser = Parser { text, tokens: &tokens, next: 0 };
        let root = parser.or(0)?;
        match parser.peek() {
            None => Ok(Self { root: Some(root) }),
            Some(token) => Err(parser.wrong(token.start, "expected && or || or the end")),
        }
    }

    /// Whether this record is wanted.
    pub fn takes(&self, seen: &dyn Seen) -> bool {
        self.root.as_ref().is_none_or(|root| root.takes(seen))
    }

    /// It takes everything.
    pub fn is_all(&self) -> bool {
        self.root.is_none()
    }
}

fn same_id(whole: &str, wanted: &str) -> bool {
    let beginning = || whole.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted));
    whole.eq_ignore_ascii_case(wanted) || (wanted.len() >= SHORT_ID_MIN && beginning())
}

impl TextTest {
    fn holds(&self, text: &str) -> bool {
        match self {
            Self::Is(wanted, true) => wanted.iter().any(|wanted| same_id(text, wanted)),
            Self::Is(wanted, false) => wanted.iter().any(|wanted| text.eq_ignore_ascii_case(wanted)),
            Self::Contains(part) => text.to_lowercase().contains(part.as_str()),
            Self::Matches(regex) => regex.is_match(text),
            Self::Ordered(order, other) => order.holds(text.cmp(other.as_str())),
        }
    }
}

impl Node {
    fn takes(&self, seen: &dyn Seen) -> bool {
        match self {
            Self::Or(parts) => parts.iter().any(|part| part.takes(seen)),
            Self::And(parts) => parts.iter().all(|part| part.takes(seen)),
            Self::Not(inner) => !inner.takes(seen),
            Self::There(field) => seen.flag(*field),
            Self::Flag(field, wanted) => seen.flag(*field) == *wanted,
            Self::Text(Field::Job, test) => seen.names_job(&|job| test.holds(job)),
            Self::Text(field, test) => seen.text(*field).is_some_and(|text| test.holds(&text)),
            Self::Number(field, order, wanted) => seen
                .number(*field)
                .and_then(|number| number.partial_cmp(wanted))
                .is_some_and(|ordering| order.holds(ordering)),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Word {
    Name(String),
    Text(String),
    Number(f64, String),
    Sign(&'static str),
}

#[derive(Clone, Debug)]
struct Token {
    word: Word,
    start: usize,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.word {
            Word::Name(name) => f.write_str(name),
            Word::Text(_) => f.write_str("a text"),
            Word::Number(..) => f.write_str("a number"),
            Word::Sign(sign) => f.write_str(sign),
        }
    }
}

const SIGNS: [&str; 14] = ["&&", "||", "==", "!=", "<=", ">=", "=~", "<", ">", "!", "(", ")", ",", "="];

fn error(text: &str, byte: usize, message: impl Into<String>) -> FilterError {
    let position = text.get(..byte).map_or(1, |before| before.chars().count() + 1);
    FilterError { position, message: message.into() }
}

fn tokens(text: &str) -> Result<Vec<Token>, FilterError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = text.get(at..).unwrap_or_default();
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (word, length) = if first == '"' || first == '\'' {
            quoted(text, at, first)?
        } else if first.is_ascii_digit() {
            number(text, at)?
        } else if first.is_alphabetic() || first == '_' {
            let length =
                rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-'))).unwrap_or(rest.len());
            (Word::Name(rest.get(..length).unwrap_or_default().to_owned()), length)
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
            let Some(sign) = sign else {
                return Err(error(text, at, format!("{first:?} means nothing here; texts stand in quotes")));
            };
            (Word::Sign(sign), sign.len())
        };
        tokens.push(Token { word, start: at });
        at += length.max(1);
    }
    Ok(tokens)
}

fn quoted(text: &str, start: usize, quote: char) -> Result<(Word, usize), FilterError> {
    let mut out = String::new();
    let mut escaped = false;
    for (offset, c) in text.get(start + 1..).unwrap_or_default().char_indices() {
        match c {
            _ if escaped => {
                // A backslash before anything else stays: it belongs to a regular expression.
                if c != quote && c != '\\' {
                    out.push('\\');
                }
                out.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            c if c == quote => return Ok((Word::Text(out), offset + 2)),
            c => out.push(c),
        }
    }
    Err(error(text, start, format!("the text that begins here has no closing {quote}")))
}

fn number(text: &str, start: usize) -> Result<(Word, usize), FilterError> {
    let rest = text.get(start..).unwrap_or_default();
    let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(rest.len());
    let unit = rest.get(digits..).unwrap_or_default();
    let unit_len = unit.find(|c: char| !(c.is_alphanumeric() || c == '%')).unwrap_or(unit.len());
    let value: String = rest.get(..digits).unwrap_or_default().chars().filter(|c| *c != '_').collect();
    let value: f64 = value.parse().map_err(|_| error(text, start, "this is no number"))?;
    let unit = unit.get(..unit_len).unwrap_or_default().to_lowercase();
    Ok((Word::Number(value, unit), digits + unit_len))
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Token],
    next: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.next)
    }

    fn take(&mut self) -> Option<&'a Token> {
        let token = self.peek();
        self.next += 1;
        token
    }

    fn sign(&mut self, sign: &str) -> bool {
        let there = self.peek().is_some_and(|token| matches!(token.word, Word::Sign(found) if found == sign));
        self.next += usize::from(there);
        there
    }

    fn keyword(&mut self, words: &[&str]) -> bool {
        let there = self.peek().is_some_and(
            |token| matches!(&token.word, Word::Name(name) if words.iter().any(|word| name.eq_ignore_ascii_case(word))),
        );
        self.next += usize::from(there);
        there
    }

    fn wrong(&self, byte: usize, message: impl Into<String>) -> FilterError {
        error(self.text, byte, message)
    }

    fn at_end(&self, message: &str) -> FilterError {
        error(self.text, self.text.len(), message)
    }

    fn or(&mut self, depth: usize) -> Result<Node, FilterError> {
        let mut parts = vec![self.and(depth)?];
        while self.sign("||") || self.keyword(&["or"]) {
            parts.push(self.and(depth)?);
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Node::Or(parts) })
    }

    fn and(&mut self, depth: usize) -> Result<Node, FilterError> {
        let mut parts = vec![self.not(depth)?];
        while self.sign("&&") || self.keyword(&["and"]) {
            parts.push(self.not(depth)?);
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Node::And(parts) })
    }

    fn not(&mut self, depth: usize) -> Result<Node, FilterError> {
        let start = self.peek().map_or(self.text.len(), |token| token.start);
        if depth > DEPTH_MAX {
            return Err(self.wrong(start, format!("nested more than {DEPTH_MAX} deep")));
        }
        if self.sign("!") || self.keyword(&["not"]) {
            return Ok(Node::Not(Box::new(self.not(depth + 1)?)));
        }
        if self.sign("(") {
            let inner = self.or(depth + 1)?;
            if self.sign(")") {
                return Ok(inner);
            }
            return Err(self.wrong(start, "the parenthesis that begins here is not closed"));
        }
        self.test()
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "every other word is a mistake")]
    fn test(&mut self) -> Result<Node, FilterError> {
        let Some(token) = self.take() else { return Err(self.at_end("expected a field, such as kind or from")) };
        let Word::Name(name) = &token.word else {
            return Err(self.wrong(token.start, format!("expected a field, such as kind or from, got {token}")));
        };
        let Some((field, kind)) = Field::of_name(&name.to_ascii_lowercase()) else {
            let known: Vec<&str> = FIELDS.iter().map(|row| row.1).collect();
            let message = format!("there is no field {name}; there are {}", known.join(", "));
            return Err(self.wrong(token.start, message));
        };
        let Some(next) = self.peek() else { return Ok(Node::There(field)) };
        let operator = match &next.word {
            Word::Sign("=") => "==",
            Word::Sign("=~") => "matches",
            Word::Sign(sign @ ("==" | "!=" | "<" | "<=" | ">" | ">=")) => sign,
            Word::Name(word) if word.eq_ignore_ascii_case("contains") => "contains",
            Word::Name(word) if word.eq_ignore_ascii_case("matches") => "matches",
            Word::Name(word) if word.eq_ignore_ascii_case("in") => "in",
            Word::Sign("&&" | "||" | ")") => return Ok(Node::There(field)),
            Word::Name(word) if ["and", "or"].iter().any(|known| word.eq_ignore_ascii_case(known)) => {
                return Ok(Node::There(field));
            }
            _ => {
                let message =
                    format!("expected a comparison (==, !=, <, <=, >, >=, contains, matches, in), got {next}");
                return Err(self.wrong(next.start, message));
            }
        };
        self.next += 1;
        if operator == "in" {
            return self.one_of(field, kind);
        }
        let Some(value) = self.take() else { return Err(self.at_end("expected a value")) };
        let test = self.compared(field, kind, operator.trim_start_matches('!'), value);
        Ok(if operator == "!=" { Node::Not(Box::new(self.compared(field, kind, "==", value)?)) } else { test? })
    }

    fn one_of(&mut self, field: Field, kind: Type) -> Result<Node, FilterError> {
        let start = self.peek().map_or(self.text.len(), |token| token.start);
        if !self.sign("(") {
            return Err(self.wrong(start, "expected (\"A\", \"B\") after in"));
        }
        let mut parts = Vec::new();
        loop {
            let Some(value) = self.take() else {
                return Err(self.wrong(start, "the list that begins here is not closed"));
            };
            parts.push(self.compared(field, kind, "==", value)?);
            if self.sign(")") {
                return Ok(Node::Or(parts));
            }
            if !self.sign(",") {
                let at = self.peek().map_or(self.text.len(), |token| token.start);
                return Err(self.wrong(at, "expected , or ) in the list"));
            }
        }
    }

    fn compared(&self, field: Field, kind: Type, operator: &str, value: &Token) -> Result<Node, FilterError> {
        let name = FIELDS.iter().find(|row| row.0 == field).map_or("", |row| row.1);
        let expected =
            |what: &str| Err(self.wrong(value.start, format!("{name} is compared with {what}, not with {value}")));
        let order = match operator {
            "==" => Some(Order::Equal),
            "<" => Some(Order::Less),
            "<=" => Some(Order::LessOrEqual),
            ">" => Some(Order::Greater),
            ">=" => Some(Order::GreaterOrEqual),
            _ => None,
        };
        match (kind, &value.word) {
            (Type::Flag, Word::Name(word))
                if order == Some(Order::Equal) && matches!(word.as_str(), "true" | "false") =>
            {
                Ok(Node::Flag(field, word == "true"))
            }
            (Type::Flag, _) => expected("true or false, by =="),
            (Type::Size | Type::Duration | Type::Count | Type::Status, Word::Number(number, unit)) => {
                let Some(order) = order else {
                    return Err(self.wrong(value.start, format!("{operator} takes a text in quotes")));
                };
                let factor = self.unit(kind, unit, value)?;
                Ok(Node::Number(field, order, number * factor))
            }
            (Type::Size, _) => expected("a size, such as 4KiB"),
            (Type::Duration, _) => expected("a time, such as 20ms"),
            (Type::Count, _) => expected("a number"),
            (Type::Text | Type::Id | Type::Status, Word::Text(text)) => {
                let test = match (operator, order) {
                    (_, Some(Order::Equal)) => TextTest::Is(vec![text.clone()], kind == Type::Id),
                    (_, Some(order)) => TextTest::Ordered(order, text.clone()),
                    ("contains", None) => TextTest::Contains(text.to_lowercase()),
                    _ => TextTest::Matches(self.regex(text, value)?),
                };
                Ok(Node::Text(field, test))
            }
            (Type::Text | Type::Id | Type::Status, _) => expected("a text in quotes"),
        }
    }

    fn unit(&self, kind: Type, unit: &str, value: &Token) -> Result<f64, FilterError> {
        let units: &[(&str, f64)] = match kind {
            Type::Size => &SIZES,
            Type::Duration => &DURATIONS,
            Type::Text | Type::Id | Type::Count | Type::Status | Type::Flag => &[],
        };
        if unit.is_empty() {
            return Ok(1.0);
        }
        units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor).ok_or_else(|| {
            let known: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
            let message = match known.is_empty() {
                true => format!("no unit belongs here, and {unit} least"),
                false => format!("{unit} is no unit here; there are {}", known.join(", ")),
            };
            self.wrong(value.start, message)
        })
    }

    fn regex(&self, text: &str, value: &Token) -> Result<Regex, FilterError> {
        RegexBuilder::new(text).size_limit(REGEX_MAX).dfa_size_limit(REGEX_MAX).build().map_err(|problem| {
            let problem = problem.to_string();
            let last = problem.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            self.wrong(value.start, format!("this regular expression is not understood: {last}"))
        })
    }
}

#[cfg(test)]
pub(in crate::engine) mod tests;
