//! `hive logs`: the output of a build, followed across attempts and across connections that break.
//!
//! The offset decides: after a break the stream goes on at the byte after the last one printed, so nothing is lost or printed
//! twice, whichever node keeps the log by then. Questions about a log are in [`look`].

mod look;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::args::LogsArgs;
use super::client::{Client, Download};
use super::output::{Failure, Outcome, Ui};
use super::text::{StreamCleaner, bytes as size_of};
use super::{console, queue};
use crate::api::{ApiError, Envelope, ErrorCode, JobView};
use crate::clock;
use crate::engine::id::JobId;
use crate::engine::job::JobState;

/// How often it is looked whether another attempt has begun.
const POLL: Duration = Duration::from_millis(500);
/// A connection that held for so long was a good one, milliseconds.
const STEADY_MS: u64 = 5_000;
/// Longest log that fits into one JSON answer, bytes; longer ones are followed as JSON lines.
const JSON_LOG_MAX_LEN: usize = 16 << 20;

struct Follower<'a> {
    ui: &'a Ui,
    client: &'a Client,
    job: JobId,
    /// Bytes as they are.
    raw: bool,
    attempt: Option<u32>,
    offset: u64,
    cleaner: StreamCleaner,
}

/// `hive logs`.
pub(crate) async fn logs(ui: &Ui, client: &Client, args: LogsArgs) -> Outcome {
    if args.raw && ui.terminal {
        return Err(Failure::usage(
            "raw output could take over this terminal",
            "send it on: hive logs JOB --raw | less, or keep it: hive logs JOB --download FILE",
        ));
    }
    let Some(job) = &args.job else { return console::node_log(ui, client, args).await };
    let job = queue::resolve(client, job).await?;
    let attempt = args.attempt;
    if args.phases {
        return look::phases(ui, client, job, attempt).await;
    }
    if args.first_error {
        return look::first_error(ui, client, job, attempt).await;
    }
    if let Some(text) = &args.grep {
        return look::grep(ui, client, job, text, &args).await;
    }
    let cleaner = StreamCleaner::new(ui.paint.0);
    let mut follower = Follower { ui, client, job, raw: args.raw, attempt, offset: 0, cleaner };
    if let Some(file) = &args.download {
        return follower.download(file, args.force).await;
    }
    if args.follow {
        follower.follow(args.attempt.is_some()).await?;
        return Ok(0);
    }
    let mut stream = follower.open(false).await?;
    if ui.json {
        return follower.whole_as_json(&mut stream).await;
    }
    follower.copy(&mut stream).await?.map_err(|error| broken(&error))?;
    follower.finish()?;
    Ok(0)
}

fn broken(error: &std::io::Error) -> ApiError {
    ApiError::new(ErrorCode::Unreachable, format!("the log broke off: {error}"), "try again, or follow it with -f")
}

impl Follower<'_> {
    async fn open(&mut self, follow: bool) -> Result<Download, ApiError> {
        let attempt = self.attempt.map_or_else(String::new, |attempt| format!("attempt={attempt}&"));
        let follow_text = if follow { "&follow=1" } else { "" };
        let path = format!("/api/v2/jobs/{}/log?{attempt}offset={}{follow_text}", self.job, self.offset);
        let stream = self.client.stream(&path, follow).await?;
        if let Some(attempt) = stream.number("x-hive-attempt").and_then(|number| u32::try_from(number).ok()) {
            self.attempt = Some(attempt);
        }
        if let Some(offset) = stream.number("x-hive-offset") {
            if offset > self.offset {
                self.ui.remark(&format!("({} bytes of the log are not kept)", offset - self.offset));
            }
            self.offset = offset;
        }
        Ok(stream)
    }

    /// Prints until the stream ends (inner fine) or breaks (inner error).
    async fn copy(&mut self, stream: &mut Download) -> Result<std::io::Result<()>, Failure> {
        loop {
            match stream.next().await {
                Ok(Some(bytes)) => {
                    self.print(&bytes)?;
                    self.offset += bytes.len() as u64;
                }
                Ok(None) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    fn print(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.ui.json {
            // JSON escapes what is hostile by itself; only what is no text is replaced.
            let text = String::from_utf8_lossy(bytes);
            let piece = json!({ "attempt": self.attempt, "offset": self.offset, "text": text });
            return self.ui.raw_json(&Envelope::ok(piece));
        }
        if self.raw { self.ui.bytes(bytes) } else { self.ui.bytes(self.cleaner.push(bytes).as_bytes()) }
    }

    fn finish(&mut self) -> Result<(), Failure> {
        let rest = self.cleaner.finish();
        if rest.is_empty() || self.raw || self.ui.json { Ok(()) } else { self.ui.bytes(rest.as_bytes()) }
    }

    async fn whole_as_json(&mut self, stream: &mut Download) -> Outcome {
        let mut all = Vec::new();
        while let Some(bytes) = stream.next().await.map_err(|error| broken(&error))? {
            if all.len() + bytes.len() > JSON_LOG_MAX_LEN {
                return Err(Failure::usage(
                    "the log is too long for one JSON answer",
                    "read it without --json, or as JSON lines with -f",
                ));
            }
            all.extend_from_slice(&bytes);
        }
        let data = json!({ "job": self.job, "attempt": self.attempt, "offset": self.offset, "text": String::from_utf8_lossy(&all) });
        self.ui.data(&data, String::new)?;
        Ok(0)
    }

    /// Keeps what there is of the log in a file, byte for byte. It gets its name when it is complete.
    async fn download(&mut self, file: &Path, force: bool) -> Outcome {
        if !force && file.symlink_metadata().is_ok() {
            let message = format!("{} is there already and is not overwritten", file.display());
            return Err(Failure::new(ErrorCode::Conflict, message, "add --force, or name another file"));
        }
        let failed = |error: std::io::Error| {
            Failure::internal(format!("cannot write {}: {error}", file.display()), "name a place that can be written")
        };
        let mut partial = file.as_os_str().to_owned();
        partial.push(".part");
        let partial = Path::new(&partial);
        let mut out = File::create(partial).map_err(failed)?;
        let mut last_answer = clock::now_ms();
        loop {
            let problem = match self.open(false).await {
                Ok(mut stream) => loop {
                    match stream.next().await {
                        Ok(Some(bytes)) => {
                            out.write_all(&bytes).map_err(failed)?;
                            self.offset += bytes.len() as u64;
                            last_answer = clock::now_ms();
                        }
                        Ok(None) => break None,
                        Err(error) => break Some(broken(&error)),
                    }
                },
                Err(error) => Some(error),
            };
            let Some(error) = problem else { break };
            // Something came already: it goes on where it stopped.
            if self.offset == 0 || clock::now_ms() - last_answer >= queue::patience_ms(&error) {
                fs::remove_file(partial).ok();
                return Err(error.into());
            }
            tokio::time::sleep(POLL).await;
        }
        out.sync_all().and_then(|()| fs::rename(partial, file)).map_err(failed)?;
        let data = json!({ "job": self.job, "attempt": self.attempt, "file": file, "size": self.offset });
        self.ui.data(&data, || format!("{}  {}", file.display(), size_of(self.offset)))?;
        Ok(0)
    }

    async fn follow(&mut self, only_this_attempt: bool) -> Result<(), Failure> {
        // When it last went well.
        let mut fine_ms = clock::now_ms();
        loop {
            let (before, opened_ms) = (self.offset, clock::now_ms());
            let (over, refused, problem) = match self.open(true).await {
                Ok(mut stream) => {
                    let result = self.copy(&mut stream).await?;
                    let now_ms = clock::now_ms();
                    // A connection that is torn is no trouble by itself, one that is torn at once each time is.
                    if result.is_ok() || self.offset > before || now_ms - opened_ms > STEADY_MS {
                        fine_ms = now_ms;
                    }
                    (result.is_ok(), false, result.err().map(|error| broken(&error)))
                }
                // No attempt has written anything yet.
                Err(error) if error.code == ErrorCode::NotFound => (true, false, None),
                Err(error) => (false, true, Some(error)),
            };
            let late = |error: &ApiError| clock::now_ms() - fine_ms >= queue::patience_ms(error);
            match queue::view(self.client, self.job).await {
                // The node answers, but the one that keeps the log does not: that is waited for unless the job goes on elsewhere.
                Ok(answer) => {
                    let elsewhere = refused && self.goes_on_elsewhere(&answer.data, only_this_attempt);
                    match &problem {
                        Some(error) if elsewhere => {
                            self.ui.remark(&format!("(what is missing here: {})", super::text::clean(&error.message)));
                        }
                        Some(error) if late(error) => return Err(error.clone().into()),
                        Some(_) => {}
                        None => fine_ms = clock::now_ms(),
                    }
                    if (over || elsewhere) && self.step(&answer.data, only_this_attempt)? {
                        return self.finish();
                    }
                }
                Err(error) if late(&error) => return Err(error.into()),
                Err(_) => {}
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Another attempt has begun, so that the rest of this one matters to nobody who waits for the job.
    fn goes_on_elsewhere(&self, job: &JobView, only_this_attempt: bool) -> bool {
        let last = job.attempts.last().map(|attempt| attempt.attempt);
        !only_this_attempt && self.attempt.is_some() && last > self.attempt
    }

    /// After a stream has ended: goes to the next attempt, or says that everything is over.
    fn step(&mut self, job: &JobView, only_this_attempt: bool) -> Result<bool, Failure> {
        let current = self.attempt;
        let this_over = job.attempts.iter().any(|attempt| Some(attempt.attempt) == current && attempt.state.is_over());
        if only_this_attempt {
            return Ok(this_over || job.state.is_terminal());
        }
        if let Some(next) = job.attempts.iter().find(|attempt| current.is_none_or(|current| attempt.attempt > current))
        {
            self.finish()?;
            if current.is_some() {
                self.ui.remark(&format!("--- attempt {} on {} ---", next.attempt, super::text::clean(&next.node)));
            }
            (self.attempt, self.offset) = (Some(next.attempt), 0);
            return Ok(false);
        }
        Ok(job.state.is_terminal() || job.state == JobState::Blocked)
    }
}
