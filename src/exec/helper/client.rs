//! The agent's side of the helper's socket: one connection per act.
//!
//! Never done here: retries. A helper that is gone is an error that says so.
#![expect(clippy::wildcard_enum_match_arm, reason = "a reply out of turn is an error, whichever it is")]

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::protocol::{Control, FRAME_MAX, Reply, Request};
use crate::engine::role::Family;
use crate::exec::launch::{Exit, Running, Step};
use crate::exec::packages::PackagesState;
use crate::exec::{Capabilities, ExecError};
use crate::tasks;
use crate::transport::{read_frame, write_frame};

/// A short act is answered within this time; reaping may have much to remove.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Handing over a large source tree before a build starts takes a while.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Talks to the helper.
#[derive(Clone, Debug)]
pub(in crate::exec) struct Client {
    socket: PathBuf,
}

fn unexpected(reply: Reply) -> ExecError {
    match reply {
        Reply::Refused(why) => ExecError::Refused(why),
        other => ExecError::Refused(format!("the helper answered out of turn: {other:?}").chars().take(300).collect()),
    }
}

impl Client {
    pub(in crate::exec) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    fn failed(&self, source: io::Error) -> ExecError {
        ExecError::Helper { socket: self.socket.clone(), source }
    }

    async fn ask(&self, request: &Request) -> Result<UnixStream, ExecError> {
        let mut stream = UnixStream::connect(&self.socket).await.map_err(|error| self.failed(error))?;
        self.send(&mut stream, request).await?;
        Ok(stream)
    }

    async fn send(&self, stream: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> Result<(), ExecError> {
        write_frame(stream, value, FRAME_MAX).await.map_err(|error| self.failed(error))
    }

    async fn read(&self, stream: &mut (impl AsyncRead + Unpin), timeout: Duration) -> Result<Reply, ExecError> {
        let reply = tokio::time::timeout(timeout, read_frame::<Reply>(stream, FRAME_MAX)).await;
        reply.map_err(|_| self.failed(io::Error::from(io::ErrorKind::TimedOut)))?.map_err(|error| self.failed(error))
    }

    pub(in crate::exec) async fn capabilities(&self) -> Result<Capabilities, ExecError> {
        let mut stream = self.ask(&Request::Capabilities).await?;
        match self.read(&mut stream, ANSWER_TIMEOUT).await? {
            Reply::Capabilities(capabilities) => Ok(capabilities),
            other => Err(unexpected(other)),
        }
    }

    pub(in crate::exec) async fn reap(&self) -> Result<Vec<String>, ExecError> {
        let mut stream = self.ask(&Request::Reap).await?;
        match self.read(&mut stream, ANSWER_TIMEOUT).await? {
            Reply::Reaped(tokens) => Ok(tokens),
            other => Err(unexpected(other)),
        }
    }

    pub(in crate::exec) async fn claim_address(&self, interface: &str, cidr: &str) -> Result<(), ExecError> {
        let request = Request::ClaimAddress { interface: interface.to_owned(), cidr: cidr.to_owned() };
        let mut stream = self.ask(&request).await?;
        match self.read(&mut stream, ANSWER_TIMEOUT).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    pub(in crate::exec) async fn install(
        &self,
        family: Family,
        names: Vec<String>,
        output: mpsc::Sender<Bytes>,
    ) -> Result<PackagesState, ExecError> {
        let mut stream = self.ask(&Request::Install { family, names }).await?;
        loop {
            match read_frame::<Reply>(&mut stream, FRAME_MAX).await.map_err(|error| self.failed(error))? {
                Reply::Output(bytes) => {
                    output.send(Bytes::from(bytes)).await.ok();
                }
                Reply::Packages(state) => return Ok(state),
                other => return Err(unexpected(other)),
            }
        }
    }

    /// Ends when the helper has: it is the one that knows how long that may take.
    pub(in crate::exec) async fn sync_trees(&self, output: mpsc::Sender<Bytes>) -> Result<(), ExecError> {
        let mut stream = self.ask(&Request::SyncTrees).await?;
        loop {
            match read_frame::<Reply>(&mut stream, FRAME_MAX).await.map_err(|error| self.failed(error))? {
                Reply::Output(bytes) => {
                    output.send(Bytes::from(bytes)).await.ok();
                }
                Reply::Done => return Ok(()),
                other => return Err(unexpected(other)),
            }
        }
    }

    pub(in crate::exec) async fn start(&self, step: Step) -> Result<Running, ExecError> {
        let mut stream = self.ask(&Request::Start(step)).await?;
        match self.read(&mut stream, START_TIMEOUT).await? {
            Reply::Started => {}
            other => return Err(unexpected(other)),
        }
        let (chunks, output) = mpsc::channel(16);
        let (report, ended) = oneshot::channel();
        let stop = CancellationToken::new();
        tasks::spawn("helper-step", follow(stream, chunks, report, stop.clone()));
        Ok(Running { output, ended, guard: stop.clone().drop_guard(), stop })
    }
}

/// Passes on what the helper streams. A helper that dies ends its builds' connection, and the exit says neither code nor signal.
async fn follow(
    stream: UnixStream,
    chunks: mpsc::Sender<Bytes>,
    report: oneshot::Sender<Exit>,
    stop: CancellationToken,
) {
    let (mut reader, mut writer) = stream.into_split();
    let stopper = stop.clone();
    let control = tasks::spawn("helper-stop", async move {
        stopper.cancelled().await;
        write_frame(&mut writer, &Control::Stop, FRAME_MAX).await.ok();
        // Keeps the writing half open until the end is told.
        std::future::pending::<()>().await;
    });
    let exit = loop {
        match read_frame::<Reply>(&mut reader, FRAME_MAX).await {
            Ok(Reply::Output(bytes)) => {
                if chunks.send(Bytes::from(bytes)).await.is_err() {
                    stop.cancel();
                }
            }
            Ok(Reply::Ended(exit)) => break exit,
            Ok(_) | Err(_) => break Exit { stopped: stop.is_cancelled(), ..Exit::default() },
        }
    };
    control.abort();
    drop(chunks);
    report.send(exit).ok();
}
