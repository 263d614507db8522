//! Root's act that syncs this host's package trees: `emerge --sync`, by the method that each repository is configured with.
//!
//! The command line has no operand, so that whoever asks for it chooses nothing: not the tree, not where it comes from. How often is
//! this side's own limit, too. Repositories with `auto-sync = no` are left alone by Portage. Never done here: deciding that a sync is
//! wanted, and syncing while something is built (see [`launch`](super::launch)).

use std::io;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::launch::CHUNK_BYTES;
use super::portage::Portage;
use super::{ExecError, SAFE_PATH, sweep};

/// Between SIGTERM and SIGKILL for a sync that takes too long.
const GRACE: Duration = Duration::from_secs(5);
/// The sync is over, and something that it started still holds its output open.
const DRAIN: Duration = Duration::from_secs(2);
/// End of the output in which the reason of a failure is looked for, bytes.
const TAIL_BYTES: usize = 16 << 10;

/// When this host syncs its package trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncPolicy {
    /// Least time from the beginning of one sync to that of the next.
    pub interval: Duration,
    /// One that takes longer is ended.
    pub timeout: Duration,
}

/// Runs it to its end. Output goes to `output` as it comes; nobody needs to read it.
pub(super) async fn sync(portage: &Portage, timeout: Duration, output: &mpsc::Sender<Bytes>) -> Result<(), ExecError> {
    let (mut child, pipe) = start(portage).map_err(ExecError::io("run emerge --sync"))?;
    let mut reader = crate::tasks::spawn("tree-sync-output", read(pipe, output.clone()));
    let Ok(status) = tokio::time::timeout(timeout, child.wait()).await else {
        end(&mut child).await;
        reader.abort();
        return Err(ExecError::Failed(format!("it took longer than {} s", timeout.as_secs())));
    };
    let status = status.map_err(ExecError::io("wait for emerge --sync"))?;
    let tail = tokio::time::timeout(DRAIN, &mut reader).await;
    reader.abort();
    if status.success() {
        return Ok(());
    }
    let tail = tail.ok().and_then(Result::ok).unwrap_or_default();
    Err(ExecError::Failed(format!("emerge --sync: {}", reason(&tail).unwrap_or_else(|| status.to_string()))))
}

fn start(portage: &Portage) -> io::Result<(Child, pipe::Receiver)> {
    let (reader, writer) = io::pipe()?;
    let argv = portage.sync_argv();
    let (program, arguments) = argv.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs([("PATH", SAFE_PATH), ("LANG", "C.UTF-8"), ("HOME", "/root"), ("GIT_TERMINAL_PROMPT", "0")])
        .envs(portage.variables())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let child = command.spawn().map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    Ok((child, pipe::Receiver::from_owned_fd(reader.into())?))
}

async fn end(child: &mut Child) {
    let Some(leader) = child.id() else { return };
    sweep::signal_group(leader, Signal::TERM);
    let ended = tokio::time::timeout(GRACE, child.wait()).await;
    // What it started may have stayed although it went itself.
    sweep::signal_group(leader, Signal::KILL);
    if ended.is_err() {
        child.wait().await.ok();
    }
}

/// Passes output on, and answers its end.
async fn read(mut pipe: pipe::Receiver, output: mpsc::Sender<Bytes>) -> String {
    let mut buffer = vec![0u8; CHUNK_BYTES];
    let mut tail: Vec<u8> = Vec::new();
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        let chunk = &buffer[..length];
        tail.extend_from_slice(chunk);
        if tail.len() > 2 * TAIL_BYTES {
            tail.drain(..tail.len() - TAIL_BYTES);
        }
        output.send(Bytes::copy_from_slice(chunk)).await.ok();
    }
    String::from_utf8_lossy(&tail).into_owned()
}

/// The line that says what went wrong, in the words of git, rsync or Portage, else the last one.
fn reason(output: &str) -> Option<String> {
    const SAYS: [&str; 5] = ["fatal: ", "rsync: ", "rsync error: ", "error: ", "!!! "];
    let lines = || output.lines().map(str::trim).filter(|line| !line.is_empty());
    let said = SAYS.iter().find_map(|word| lines().find(|line| line.starts_with(word)));
    said.or_else(|| lines().next_back()).map(|line| line.chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_in_the_words_of_the_tool() {
        assert_eq!(
            reason("a\nfatal: no repository\n!!! git fetch error\nb\n").as_deref(),
            Some("fatal: no repository")
        );
        assert_eq!(reason(" * x\n!!! Repository missing\n\n").as_deref(), Some("!!! Repository missing"));
        assert_eq!(reason("one\ntwo\n\n").as_deref(), Some("two"));
        assert_eq!(reason("\n"), None);
    }
}
