//! A terminal on this node: a shell as the agent's user behind a PTY, recorded, ended with the connection or when nobody types.
//!
//! Never done here: interpreting what goes through it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pty_process::{OwnedReadPty, OwnedWritePty};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Child;
use tokio::sync::mpsc;

use super::recording::Recorder;
use super::run::{MARK, end_marked};
use super::{ALIVE_EVERY, AbortOnDrop, Console, Ended, Input, Line, PIECE, Reply, Size, Stop, busy, failed};
use crate::clock::now_ms;
use crate::engine::id::PeerId;
use crate::exec::SAFE_PATH;
use crate::tasks;

/// Silence of the keyboard is looked at so often.
const IDLE_LOOK: Duration = Duration::from_millis(250);
/// A shell that was hung up is given so long to end.
const GRACE: Duration = Duration::from_secs(2);

/// A shell and what it is seen through.
struct Open {
    child: Child,
    read: OwnedReadPty,
    recorder: Recorder,
}

impl Console {
    pub(super) async fn terminal(
        &self,
        (by, from): (String, Option<PeerId>),
        size: Size,
        inputs: mpsc::Receiver<Input>,
        line: &mut Line,
    ) -> Result<Ended, Stop> {
        self.allowed()?;
        let _place = self.inner.terminals.try_acquire().map_err(|_| busy("terminals"))?;
        let options = &self.inner.options;
        let shell = options.shell.clone().unwrap_or_else(usual_shell);
        let recorder = self.inner.recordings.begin(&options.node, &by, size, &shell.to_string_lossy()).await;
        let recorder = recorder.map_err(|error| failed("a terminal that cannot be recorded is not opened", &error))?;
        let id = recorder.id.clone();
        // Written before it begins: what is not in the audit did not happen.
        self.note("terminal", &by, from.as_ref(), format!("began, recorded as {id}"));
        let began_ms = now_ms();
        let mark = uuid::Uuid::new_v4().to_string();
        let result = self.opened((&shell, &mark), size, recorder, inputs, line).await;
        end_marked(&mark).await;
        let why = match &result {
            Ok(ended) => ended.why.clone().unwrap_or_else(|| "the shell ended".to_owned()),
            Err(Stop::Refused(error)) => error.message.clone(),
            Err(Stop::Gone(_)) => "the connection ended".to_owned(),
        };
        let took_s = now_ms().saturating_sub(began_ms) / 1_000;
        self.note("terminal", &by, from.as_ref(), format!("ended after {took_s} s ({why}), recorded as {id}"));
        result
    }

    async fn opened(
        &self,
        (shell, mark): (&Path, &str),
        size: Size,
        recorder: Recorder,
        inputs: mpsc::Receiver<Input>,
        line: &mut Line,
    ) -> Result<Ended, Stop> {
        let home = &self.inner.options.home;
        let no_terminal = |error: pty_process::Error| failed("no terminal", &error);
        let (pty, pts) = pty_process::open().map_err(no_terminal)?;
        pty.resize(pty_process::Size::new(size.rows, size.columns)).map_err(no_terminal)?;
        let command = pty_process::Command::new(shell)
            .arg("-l")
            .env_clear()
            .envs([("PATH", SAFE_PATH), ("LANG", "C.UTF-8"), ("TERM", "xterm-256color"), (MARK, mark)])
            .env("HOME", home)
            .env("SHELL", shell)
            .current_dir(home)
            .kill_on_drop(true);
        let child = command.spawn(pts).map_err(no_terminal)?;
        let (read, write) = pty.into_split();
        let typed_ms = Arc::new(AtomicU64::new(now_ms()));
        let (sizes, resized) = mpsc::channel(4);
        let (closed, hung_up) = mpsc::channel::<()>(1);
        let typing = type_in(inputs, write, Arc::clone(&typed_ms), sizes, closed);
        let _typing = AbortOnDrop(tasks::spawn("terminal-input", typing));
        line.send(&Reply::Begun).await?;
        let open = Open { child, read, recorder };
        converse(open, line, (resized, hung_up), (&typed_ms, self.inner.options.idle)).await
    }
}

fn usual_shell() -> PathBuf {
    let found = ["/bin/bash", "/usr/bin/bash"].into_iter().map(PathBuf::from).find(|path| path.is_file());
    found.unwrap_or_else(|| PathBuf::from("/bin/sh"))
}

/// Types what comes into the terminal. A task of its own: a program that reads nothing must not keep its output from being read.
async fn type_in(
    mut inputs: mpsc::Receiver<Input>,
    mut write: OwnedWritePty,
    typed_ms: Arc<AtomicU64>,
    sizes: mpsc::Sender<Size>,
    closed: mpsc::Sender<()>,
) {
    // Held until the other side has gone, so that its end is what is told.
    let _closed = closed;
    while let Some(input) = inputs.recv().await {
        match input {
            Input::Bytes(bytes) => {
                typed_ms.store(now_ms(), Ordering::Relaxed);
                if write.write_all(&bytes).await.is_err() {
                    // The shell has gone; what is read from it will say so.
                    std::future::pending::<()>().await;
                }
            }
            Input::Resize(size) => {
                let size = size.clamped();
                if write.resize(pty_process::Size::new(size.rows, size.columns)).is_ok() {
                    let _ = sizes.send(size).await;
                }
            }
            Input::Alive => {}
        }
    }
}

/// Shows what the shell prints until it, the other side, or patience ends.
async fn converse(
    mut open: Open,
    line: &mut Line,
    (mut resized, mut hung_up): (mpsc::Receiver<Size>, mpsc::Receiver<()>),
    (typed_ms, idle): (&AtomicU64, Duration),
) -> Result<Ended, Stop> {
    let mut piece = vec![0; PIECE];
    let mut looks = tokio::time::interval(IDLE_LOOK);
    let mut told_ms = now_ms();
    let why = loop {
        tokio::select! {
            read = open.read.read(&mut piece) => match read {
                Ok(read) if read > 0 => {
                    if let Err(error) = open.recorder.shown(&piece[..read]).await {
                        break format!("it cannot be recorded any more: {error}");
                    }
                    line.output(false, &piece[..read]).await?;
                    told_ms = now_ms();
                }
                // The kernel's way to say that nobody holds the other end: the shell and its children have ended.
                Ok(_) | Err(_) => return ended(open.child).await,
            },
            Some(size) = resized.recv() => {
                if let Err(error) = open.recorder.resized(size).await {
                    break format!("it cannot be recorded any more: {error}");
                }
            }
            _ = hung_up.recv() => return Err(Stop::Gone(io::ErrorKind::BrokenPipe.into())),
            _ = looks.tick() => {
                if u128::from(now_ms().saturating_sub(typed_ms.load(Ordering::Relaxed))) >= idle.as_millis() {
                    break format!("nothing was typed for {} s", idle.as_secs());
                }
                if u128::from(now_ms().saturating_sub(told_ms)) >= ALIVE_EVERY.as_millis() {
                    line.send(&Reply::Alive).await?;
                    told_ms = now_ms();
                }
            }
        }
    };
    Ok(Ended { why: Some(why), ..Ended::default() })
}

async fn ended(mut child: Child) -> Result<Ended, Stop> {
    use std::os::unix::process::ExitStatusExt as _;
    match tokio::time::timeout(GRACE, child.wait()).await {
        Ok(status) => {
            let status = status?;
            Ok(Ended { exit_code: status.code(), signal: status.signal(), why: None })
        }
        // It closed its terminal and goes on; it is ended with the session.
        Err(_) => Ok(Ended { why: Some("the shell closed its terminal".to_owned()), ..Ended::default() }),
    }
}
