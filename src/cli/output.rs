//! Where answers go: one JSON envelope on standard output with `--json`, else text for people; progress and remarks on standard
//! error. The only place that writes to a terminal.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use super::text::Paint;
use crate::api::{ApiError, Envelope, ErrorCode, shown};
use crate::cli::client::Answer;

/// Why a command ends without an answer.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What is shown.
    pub(crate) error: ApiError,
    /// The process's exit code.
    pub(crate) exit_code: u8,
    /// Whoever read our output has gone; there is nobody to tell.
    silent: bool,
}

impl Failure {
    /// A failure whose exit code is the one of its kind.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        ApiError::new(code, message, hint).into()
    }

    /// A failure because of what was typed: exit 2.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, message, hint)
    }

    /// A failure of this machine or of hive: exit 1.
    pub(crate) fn internal(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message, hint)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self { exit_code: error.code.exit_code(), error, silent: false }
    }
}

/// Exit code of a command that ran.
pub(crate) type Exit = u8;
/// What a command comes to.
pub(crate) type Outcome = Result<Exit, Failure>;

/// Standard output and error, as the person or script in front of them wants them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ui {
    /// Answers as JSON.
    pub(crate) json: bool,
    /// Colours on standard output.
    pub(crate) paint: Paint,
    /// Standard output is a terminal.
    pub(crate) terminal: bool,
    /// Standard error is a terminal, so a line may be rewritten there.
    pub(crate) progress: bool,
}

impl Ui {
    /// Looks at the terminal and at `NO_COLOR`.
    pub(crate) fn of_process(json: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self {
            json,
            paint: Paint(terminal && !plain && !json),
            terminal,
            progress: io::stderr().is_terminal() && !json,
        }
    }

    /// An answer of the agent: its envelope as it came, or text.
    pub(crate) fn answer<T>(&self, answer: &Answer<T>, human: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        if self.json { self.raw_json(&answer.envelope) } else { self.text(&human(&answer.data)) }
    }

    /// An answer of the command itself.
    pub(crate) fn data<T: Serialize>(&self, data: &T, human: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json { self.raw_json(&Envelope::ok(data)) } else { self.text(&human()) }
    }

    /// One JSON value on a line of its own.
    pub(crate) fn raw_json<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let line = serde_json::to_string(value)
            .map_err(|error| Failure::internal(format!("cannot write the answer as JSON: {error}"), ""))?;
        self.bytes(format!("{}\n", shown::json(&line)).as_bytes())
    }

    /// Text for people; foreign parts of it have been cleaned.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
        self.bytes(format!("{text}{end}").as_bytes())
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| {
            let broken = error.kind() == io::ErrorKind::BrokenPipe;
            let failure = Failure::internal(format!("cannot write to standard output: {error}"), "");
            // A reader that has seen enough (`| head`) is no error.
            if broken { Failure { exit_code: 0, silent: true, ..failure } } else { failure }
        })
    }

    /// What a command said on its standard error, neutralised.
    pub(crate) fn error_bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stderr().lock();
        let written = out.write_all(bytes).and_then(|()| out.flush());
        written.map_err(|error| Failure::internal(format!("cannot write to standard error: {error}"), ""))
    }

    /// A remark beside the answer.
    pub(crate) fn remark(&self, text: &str) {
        self.clear_progress();
        // Nothing is left to do when even standard error is gone.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// A line that the next one replaces; only on a terminal.
    pub(crate) fn show_progress(&self, text: &str) {
        if self.progress {
            let _ = write!(io::stderr().lock(), "\r\u{1b}[K{}", super::text::cut(text, 79));
        }
    }

    /// Takes the line away.
    pub(crate) fn clear_progress(&self) {
        if self.progress {
            let _ = write!(io::stderr().lock(), "\r\u{1b}[K");
        }
    }

    /// Shows a failure and returns its exit code.
    pub(crate) fn failure(&self, failure: &Failure) -> u8 {
        if failure.silent {
            return failure.exit_code;
        }
        if self.json {
            let _ = self.raw_json(&Envelope::<()>::error(failure.error.clone()));
        } else {
            self.clear_progress();
            let hint = super::text::clean_lines(&failure.error.hint);
            let hint = if hint.is_empty() { String::new() } else { format!("\n  {}", hint.replace('\n', "\n  ")) };
            let message = super::text::clean_lines(&failure.error.message);
            let _ = writeln!(io::stderr().lock(), "hive: {message}{hint}");
        }
        failure.exit_code
    }
}
