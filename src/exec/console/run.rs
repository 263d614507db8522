//! One command on this node, for `hive exec`: as the agent's user, without a terminal and without input, with limits.
//!
//! Never done here: shells.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::{
    ALIVE_EVERY, ARGV_BYTES_MAX, ARGV_MAX, Console, Ended, Input, Line, PIECE, RUN_TIME_MAX_MS, Reply, Stop, busy,
    failed, gone,
};
use crate::api::{ApiError, ErrorCode};
use crate::engine::id::PeerId;
use crate::exec::{SAFE_PATH, sweep};

/// Output of one command, bytes.
const OUTPUT_MAX: usize = 64 << 20;
/// Processes that a command or terminal leaves are asked to end; after so long they are killed.
const GRACE: Duration = Duration::from_millis(500);
/// What marks every process of a session in its environment.
pub(super) const MARK: &str = "HIVE_CONSOLE";

/// What is asked.
pub(super) struct Asked {
    pub(super) by: String,
    pub(super) from: Option<PeerId>,
    pub(super) argv: Vec<String>,
    pub(super) timeout_ms: u64,
}

impl Console {
    pub(super) async fn run(
        &self,
        asked: Asked,
        mut inputs: mpsc::Receiver<Input>,
        line: &mut Line,
    ) -> Result<Ended, Stop> {
        self.allowed()?;
        let program = checked(&asked.argv)?;
        let _place = self.inner.runs.try_acquire().map_err(|_| busy("commands"))?;
        let shown: String = asked.argv.join(" ").chars().take(400).collect();
        // Written before it begins: what is not in the audit did not happen.
        self.note("exec", &asked.by, asked.from.as_ref(), format!("began: {shown}"));
        let mark = uuid::Uuid::new_v4().to_string();
        let result = self.watched(&asked, program, &mark, &mut inputs, line).await;
        end_marked(&mark).await;
        let how = match &result {
            Ok(Ended { exit_code: Some(code), .. }) => format!("exit code {code}"),
            Ok(Ended { why: Some(why), .. }) => why.clone(),
            Ok(Ended { signal, .. }) => format!("signal {}", signal.unwrap_or(0)),
            Err(Stop::Refused(error)) => error.message.clone(),
            Err(Stop::Gone(_)) => "whoever asked has gone".to_owned(),
        };
        self.note("exec", &asked.by, asked.from.as_ref(), format!("ended ({how}): {shown}"));
        result
    }

    async fn watched(
        &self,
        asked: &Asked,
        program: &str,
        mark: &str,
        inputs: &mut mpsc::Receiver<Input>,
        line: &mut Line,
    ) -> Result<Ended, Stop> {
        let home = &self.inner.options.home;
        let spawned = Command::new(program)
            .args(&asked.argv[1..])
            .env_clear()
            .envs([("PATH", SAFE_PATH), ("LANG", "C.UTF-8"), (MARK, mark)])
            .env("HOME", home)
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let mut child = spawned.map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                let message = format!("there is no program {program:?} on {}", self.inner.options.node);
                return Stop::Refused(ApiError::new(
                    ErrorCode::NotFound,
                    message,
                    format!("looked for in {SAFE_PATH}"),
                ));
            }
            failed(program, &error)
        })?;
        line.send(&Reply::Begun).await?;
        let limit = Duration::from_millis(asked.timeout_ms.clamp(1, RUN_TIME_MAX_MS));
        let ended = tokio::select! {
            ended = pass_on(&mut child, line) => ended?,
            () = gone(inputs) => return Err(Stop::Gone(io::ErrorKind::BrokenPipe.into())),
            () = tokio::time::sleep(limit) => {
                let why = format!("it took longer than {} s and was ended", limit.as_secs_f32());
                Ended { why: Some(why), ..Ended::default() }
            }
        };
        Ok(ended)
    }
}

fn checked(argv: &[String]) -> Result<&str, Stop> {
    let length: usize = argv.iter().map(String::len).sum();
    let is_bad = argv.len() > ARGV_MAX || length > ARGV_BYTES_MAX || argv.iter().any(|word| word.contains('\0'));
    match argv.first() {
        Some(program) if !program.is_empty() && !is_bad => Ok(program),
        Some(_) | None => {
            let message =
                format!("a command has 1 to {ARGV_MAX} words, at most {ARGV_BYTES_MAX} bytes and no zero byte");
            Err(Stop::Refused(ApiError::new(ErrorCode::Invalid, message, "hive exec NODE -- PROGRAM ARGUMENT …")))
        }
    }
}

/// Passes on both outputs until both are closed and the program has ended.
async fn pass_on(child: &mut Child, line: &mut Line) -> Result<Ended, Stop> {
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let (mut out_piece, mut err_piece) = (vec![0; PIECE], vec![0; PIECE]);
    let mut total = 0;
    // A program that ended may leave others that hold its output; they are not waited for longer than it.
    let mut status = None;
    while out.is_some() || err.is_some() {
        let (error, read) = tokio::select! {
            read = next(&mut out, &mut out_piece) => (false, read?),
            read = next(&mut err, &mut err_piece) => (true, read?),
            ended = child.wait(), if status.is_none() => {
                status = Some(ended?);
                continue;
            }
            () = tokio::time::sleep(if status.is_some() { GRACE } else { ALIVE_EVERY }) => {
                if status.is_some() {
                    break;
                }
                line.send(&Reply::Alive).await?;
                continue;
            }
        };
        if read == 0 {
            if error {
                err = None;
            } else {
                out = None;
            }
            continue;
        }
        total += read;
        line.output(error, if error { &err_piece[..read] } else { &out_piece[..read] }).await?;
        if total > OUTPUT_MAX {
            let why = format!("it printed more than {} MiB and was ended", OUTPUT_MAX >> 20);
            return Ok(Ended { why: Some(why), ..Ended::default() });
        }
    }
    let status = match status {
        Some(status) => status,
        None => child.wait().await?,
    };
    use std::os::unix::process::ExitStatusExt as _;
    Ok(Ended { exit_code: status.code(), signal: status.signal(), why: None })
}

/// Reads from what is still open; waits for ever where nothing is.
async fn next(from: &mut Option<impl AsyncRead + Unpin>, piece: &mut [u8]) -> io::Result<usize> {
    match from {
        Some(from) => from.read(piece).await,
        None => std::future::pending().await,
    }
}

/// Ends every process that carries the mark: what a session leaves behind does not outlive it.
pub(super) async fn end_marked(mark: &str) {
    let marker = format!("{MARK}={mark}");
    for force in [false, true, true] {
        let wanted = marker.clone();
        let left = tokio::task::spawn_blocking(move || sweep::with_variable(&wanted)).await.unwrap_or_default();
        if left.is_empty() {
            return;
        }
        if force {
            sweep::kill(&left);
        } else {
            sweep::hang_up(&left);
        }
        let deadline = tokio::time::Instant::now() + GRACE;
        while !sweep::running(left.clone()).is_empty() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(GRACE / 20).await;
        }
    }
    tracing::warn!("processes of an ended console session are still there");
}
