//! Asking another program something: bounded in time and output, never through a shell, nothing left behind.
//!
//! The program runs in its own process group, which is killed when the time is up or the caller loses interest, so that a
//! wrapper script does not leave its children running.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// What a program said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Exit code; none when a signal ended it.
    pub exit_code: Option<i32>,
    /// Standard output, at most as long as was allowed.
    pub stdout: Vec<u8>,
    /// Standard error, likewise.
    pub stderr: Vec<u8>,
    /// Something was longer than allowed and is not all here.
    pub cut: bool,
}

/// Limits of one question.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Wall clock.
    pub timeout: Duration,
    /// Bytes kept of each stream; the rest is read and dropped.
    pub output_max_bytes: usize,
}

/// Kills the process group of a child that is still there when the future that waits for it is dropped.
pub(crate) struct Group(Option<Pid>);

impl Group {
    /// The group of a child that was started with `process_group(0)`.
    pub(crate) fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// The leader has been waited for; what it left behind ends too, and its number may be reused from now on.
    pub(crate) fn finish(&mut self) {
        if let Some(group) = self.0.take() {
            // A group without members is the normal case: there is nothing to kill then.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A command with the environment that probes get: no secrets of the agent, no locale, no home to write into.
pub(crate) fn clean_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    command.env("PATH", path).env("LC_ALL", "C").env("HOME", NO_HOME).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    command
}

/// No directory can be made below it, not even by root: some tools make their home where they find none.
const NO_HOME: &str = "/dev/null";
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a program and waits for its answer. `TimedOut` when it did not end in time.
pub async fn ask(program: &Path, arguments: &[String], limits: Limits) -> io::Result<Answer> {
    let mut child = clean_command(program).args(arguments).spawn()?;
    let mut group = Group::of(&child);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let max = limits.output_max_bytes;
    let all = async {
        // The program may end while a child of it keeps the pipes open: what counts is the program.
        let status = async {
            let status = child.wait().await;
            group.finish();
            status
        };
        let (status, stdout, stderr) = tokio::join!(status, read_capped(stdout, max), read_capped(stderr, max));
        let ((stdout, cut_stdout), (stderr, cut_stderr)) = (stdout?, stderr?);
        Ok(Answer { exit_code: status?.code(), stdout, stderr, cut: cut_stdout || cut_stderr })
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {:?}", limits.timeout));
    tokio::time::timeout(limits.timeout, all).await.map_err(|_| late())?
}

async fn read_capped(stream: Option<impl AsyncRead + Unpin>, max_bytes: usize) -> io::Result<(Vec<u8>, bool)> {
    let Some(mut stream) = stream else { return Ok((Vec::new(), false)) };
    let (mut kept, mut cut) = (Vec::new(), false);
    let mut buffer = [0u8; 4_096];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok((kept, cut));
        }
        let room = max_bytes.saturating_sub(kept.len()).min(read);
        kept.extend_from_slice(buffer.get(..room).unwrap_or_default());
        cut |= room < read;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::now_ms;

    async fn shell(script: &str, timeout_ms: u64, output_max_bytes: usize) -> io::Result<Answer> {
        let limits = Limits { timeout: Duration::from_millis(timeout_ms), output_max_bytes };
        ask(Path::new("/bin/sh"), &["-c".to_owned(), script.to_owned()], limits).await
    }

    #[tokio::test]
    async fn both_streams_and_the_exit_code_come_back() {
        let answer = shell("echo out; echo err >&2; exit 3", 5_000, 100).await.expect("runs");
        let expected = Answer { exit_code: Some(3), stdout: b"out\n".into(), stderr: b"err\n".into(), cut: false };
        assert_eq!(answer, expected);
    }

    #[tokio::test]
    async fn output_beyond_the_limit_is_dropped_and_said_to_be() {
        let answer = shell("head -c 1000000 /dev/zero", 5_000, 1_000).await.expect("runs");
        assert_eq!((answer.stdout.len(), answer.cut, answer.exit_code), (1_000, true, Some(0)));
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_with_its_children() {
        let marker = tempfile::NamedTempFile::new().expect("temp file");
        let path = marker.path().display();
        let started = now_ms();
        let error = shell(&format!("(sleep 0.4; echo alive > {path}) & sleep 60"), 150, 100).await.expect_err("hangs");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(now_ms() - started < 5_000);
        // A child that outlived its parent would write within 0.4 s; a later program of the same length says when that is over.
        shell("sleep 0.6", 5_000, 100).await.expect("runs");
        assert_eq!(std::fs::read(marker.path()).expect("readable"), b"");
    }

    #[tokio::test]
    async fn a_child_that_keeps_the_pipe_does_not_hold_up_the_answer() {
        let started = now_ms();
        let answer = shell("sleep 60 & echo done", 30_000, 100).await.expect("runs");
        assert_eq!(answer.stdout, b"done\n");
        assert!(now_ms() - started < 10_000);
    }

    #[tokio::test]
    async fn a_tool_cannot_make_itself_a_home() {
        let answer = shell("mkdir -p \"$HOME/.cache\"", 5_000, 1_000).await.expect("runs");
        assert_ne!(answer.exit_code, Some(0));
    }

    #[tokio::test]
    async fn the_environment_is_clean() {
        let answer = shell("env | cut -d= -f1 | sort | tr '\\n' ' '", 5_000, 1_000).await.expect("runs");
        let names = String::from_utf8(answer.stdout).expect("text");
        assert!(
            names
                .split_whitespace()
                .all(|name| ["HOME", "LC_ALL", "PATH", "PWD", "SHLVL", "_", "OLDPWD"].contains(&name)),
            "{names}"
        );
    }
}
