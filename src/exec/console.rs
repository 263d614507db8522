//! What an operator does on one node from any other: read its logs, run one command, open a terminal, replay what was recorded.
//!
//! ```text
//!   asking node                              this node
//!   Talk ── Request, then Input … ──►  Console ─► logs | run | terminal | recording
//!        ◄── Reply … ── Ended/Refused ──
//! ```
//!
//! Protocol `/hive/console/1`: one request per stream, then frames of both sides until the end. Whatever runs ends with the stream. A
//! request to the own node takes the same way over a pipe in memory. Commands and terminals run as the agent's own user, and only where
//! this node's configuration says so. Never done here: deciding who may ask (the API of the asking node did), and writing the audit.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::api::{ApiError, ErrorCode};
use crate::engine::id::PeerId;
use crate::tasks;
use crate::transport::{self, ByteStream, CONTROL_FRAME_MAX, Transport};

pub mod journal;
mod recording;
mod run;
mod system;
mod terminal;

pub use self::recording::Recording;
use self::recording::Recordings;

/// The protocol's name.
pub const PROTOCOL: &str = "/hive/console/1";
/// Most lines of a log in one answer.
pub const LINES_MAX: u32 = 5_000;
/// Longest time of one command, milliseconds.
pub const RUN_TIME_MAX_MS: u64 = 3_600_000;
/// Most words of a command, and bytes of all of them.
pub const ARGV_MAX: usize = 256;
const ARGV_BYTES_MAX: usize = 32 << 10;
/// Most readers of logs and of recordings, and most commands, at once.
const READERS_MAX: usize = 32;
const RUNS_MAX: usize = 8;
/// Bytes in one frame of output.
const PIECE: usize = 16 << 10;
/// A peer that opened a stream says what it wants within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Each side gives a sign of life so often; the other gives up after three times that.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// A reader that takes nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Size of a terminal, characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

impl Size {
    /// The same, within what a terminal can be.
    #[must_use]
    pub fn clamped(self) -> Self {
        Self { columns: self.columns.clamp(2, 1_000), rows: self.rows.clamp(2, 500) }
    }
}

/// Which log of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// What the agent itself says, from its memory.
    Agent,
    /// The machine's: journal, else `/var/log/messages` or `/var/log/syslog`.
    System,
    /// The kernel's.
    Kernel,
    /// Portage's own: `/var/log/emerge.log`.
    Emerge,
}

/// What is wanted of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsAsked {
    /// Which.
    pub source: LogSource,
    /// The last so many lines, at most [`LINES_MAX`].
    pub lines: u32,
    /// Only those since then, seconds since 1970, where the log knows times.
    pub since_unix_s: Option<u64>,
    /// Go on with what is written from now on.
    pub follow: bool,
}

/// What a stream begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Read a log.
    Logs(LogsAsked),
    /// Run one command.
    Run {
        /// On whose behalf, for the audit.
        by: String,
        /// Program and arguments; never a shell line.
        argv: Vec<String>,
        /// It is ended after so long, milliseconds, at most [`RUN_TIME_MAX_MS`].
        timeout_ms: u64,
    },
    /// Open a terminal.
    Terminal {
        /// On whose behalf, for the audit and the recording.
        by: String,
        /// How large.
        size: Size,
    },
    /// Say whether a terminal may be opened here.
    MayOpen,
    /// List what was recorded here.
    Recordings,
    /// Read one recording.
    Recording {
        /// As listed.
        id: String,
    },
}

/// How something ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Exit code; none when a signal or hive ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Why hive ended it, one sentence.
    pub why: Option<String>,
}

/// What this node says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// It has begun.
    Begun,
    /// Output.
    Output {
        /// Of standard error.
        error: bool,
        /// Raw; whoever shows it neutralises it.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// Still there.
    Alive,
    /// What was recorded, the newest first.
    Recordings(Vec<Recording>),
    /// It is over. The last word.
    Ended(Ended),
    /// It will not be. The last word.
    Refused(ApiError),
}

/// What the asking side says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Keys.
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The window changed.
    Resize(Size),
    /// Still there.
    Alive,
}

/// Settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether commands and terminals are allowed here.
    pub enabled: bool,
    /// Name of this node, for recordings.
    pub node: String,
    /// What a terminal runs; none: bash where it is, else sh.
    pub shell: Option<PathBuf>,
    /// Where commands begin: the agent's home.
    pub home: PathBuf,
    /// Where recordings lie.
    pub recordings: PathBuf,
    /// Recordings go after so long.
    pub keep: Duration,
    /// The oldest recordings go when all of them are longer, bytes.
    pub keep_bytes: u64,
    /// A terminal in which nothing is typed for so long ends.
    pub idle: Duration,
    /// Most terminals at once.
    pub terminals_max: usize,
    /// Below it lies the machine's file system; `/` but in tests.
    pub root: PathBuf,
}

/// What happened here that an audit wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// `terminal` or `exec`.
    pub what: &'static str,
    /// On whose behalf.
    pub by: String,
    /// The node that asked.
    pub from: Option<PeerId>,
    /// One sentence.
    pub text: String,
}

/// Told about each session before it begins and when it is over.
pub type Noted = Arc<dyn Fn(Note) + Send + Sync>;

/// This node's side.
#[derive(Clone)]
pub struct Console {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    agent_log: journal::AgentLog,
    recordings: Recordings,
    noted: Noted,
    readers: Semaphore,
    runs: Semaphore,
    terminals: Semaphore,
}

impl Console {
    /// A console with these settings.
    pub fn new(options: Options, agent_log: journal::AgentLog, noted: Noted) -> Self {
        let recordings = Recordings::new(options.recordings.clone(), options.keep, options.keep_bytes);
        let terminals = Semaphore::new(options.terminals_max);
        let (readers, runs) = (Semaphore::new(READERS_MAX), Semaphore::new(RUNS_MAX));
        Self { inner: Arc::new(Inner { options, agent_log, recordings, noted, readers, runs, terminals }) }
    }

    /// Serves peers until the transport ends; those that `allowed` does not know are refused.
    pub fn serve<T: Transport>(
        &self,
        transport: &T,
        allowed: impl Fn(&PeerId) -> bool + Send + Sync + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let mut incoming = transport.accept(PROTOCOL)?;
        let console = self.clone();
        Ok(tasks::spawn("console", async move {
            while let Some(transport::Incoming { peer, stream }) = incoming.recv().await {
                let console = console.clone();
                let known = allowed(&peer);
                tasks::spawn("console-stream", async move {
                    if let Err(error) = console.answer(stream, Some(peer.clone()), known).await {
                        tracing::debug!(%peer, %error, "a console stream ended");
                    }
                });
            }
        }))
    }

    /// A talk with this very node.
    pub async fn talk(&self, request: &Request) -> io::Result<Talk> {
        let (near, far) = tokio::io::duplex(4 * PIECE);
        let console = self.clone();
        tasks::spawn("console-stream", async move {
            if let Err(error) = console.answer(Box::pin(far), None, true).await {
                tracing::debug!(%error, "a console stream of this node ended");
            }
        });
        Talk::begin(Box::pin(near), request).await
    }

    async fn answer(&self, stream: ByteStream, from: Option<PeerId>, known: bool) -> io::Result<()> {
        let (mut reader, writer) = tokio::io::split(stream);
        let mut line = Line { writer };
        let request = transport::read_frame::<Request>(&mut reader, CONTROL_FRAME_MAX);
        let request = tokio::time::timeout(REQUEST_TIMEOUT, request).await.map_err(|_| timed_out("no request"))??;
        if !known {
            let error =
                ApiError::new(ErrorCode::Forbidden, "the asking node is not a member of this hive", "see: hive peers");
            return line.last(&Reply::Refused(error)).await;
        }
        let (sender, inputs) = mpsc::channel(16);
        let _reading = AbortOnDrop(tasks::spawn("console-input", read_inputs(reader, sender)));
        let result = match request {
            Request::Logs(asked) => self.logs(asked, inputs, &mut line).await,
            Request::Run { by, argv, timeout_ms } => {
                self.run(run::Asked { by, from, argv, timeout_ms }, inputs, &mut line).await
            }
            Request::Terminal { by, size } => self.terminal((by, from), size.clamped(), inputs, &mut line).await,
            Request::MayOpen => self.allowed().map(|()| Ended::default()),
            Request::Recordings => self.listed(&mut line).await,
            Request::Recording { id } => self.replay(&id, &mut line).await,
        };
        match result {
            Ok(ended) => line.last(&Reply::Ended(ended)).await,
            Err(Stop::Refused(error)) => line.last(&Reply::Refused(error)).await,
            Err(Stop::Gone(error)) => Err(error),
        }
    }

    async fn listed(&self, line: &mut Line) -> Result<Ended, Stop> {
        let list = self.inner.recordings.list().await?;
        line.send(&Reply::Recordings(list)).await?;
        Ok(Ended::default())
    }

    async fn replay(&self, id: &str, line: &mut Line) -> Result<Ended, Stop> {
        let _place = self.inner.readers.try_acquire().map_err(|_| busy("readers"))?;
        let mut file = self.inner.recordings.open(id).await?;
        line.send(&Reply::Begun).await?;
        let mut piece = vec![0; PIECE];
        loop {
            let read = tokio::io::AsyncReadExt::read(&mut file, &mut piece).await?;
            if read == 0 {
                return Ok(Ended::default());
            }
            line.output(false, &piece[..read]).await?;
        }
    }

    /// Refuses what the configuration of this node does not allow.
    fn allowed(&self) -> Result<(), Stop> {
        if self.inner.options.enabled {
            return Ok(());
        }
        let message = format!("commands and terminals are not allowed on {}", self.inner.options.node);
        let hint = "there: set terminal.enabled = true in the configuration, and restart hive";
        Err(Stop::Refused(ApiError::new(ErrorCode::Forbidden, message, hint)))
    }

    fn note(&self, what: &'static str, by: &str, from: Option<&PeerId>, text: String) {
        (self.inner.noted)(Note { what, by: by.to_owned(), from: from.cloned(), text });
    }
}

/// Why nothing more is said.
enum Stop {
    /// A sentence for whoever asked.
    Refused(ApiError),
    /// There is nobody left to tell.
    Gone(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

fn busy(what: &str) -> Stop {
    let message = format!("this node has as many {what} as it takes");
    Stop::Refused(ApiError::new(ErrorCode::Unreachable, message, "try again when one has ended"))
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Stop {
    Stop::Refused(ApiError::new(ErrorCode::Internal, format!("{what}: {error}"), "see the agent's log on that node"))
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// The way to whoever asked.
struct Line {
    writer: WriteHalf<ByteStream>,
}

impl Line {
    async fn send(&mut self, reply: &Reply) -> io::Result<()> {
        let sent = transport::write_frame(&mut self.writer, reply, CONTROL_FRAME_MAX);
        tokio::time::timeout(WRITE_TIMEOUT, sent).await.map_err(|_| timed_out("the reader takes nothing"))?
    }

    async fn output(&mut self, error: bool, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            self.send(&Reply::Output { error, bytes: piece.to_vec() }).await?;
        }
        Ok(())
    }

    async fn last(&mut self, reply: &Reply) -> io::Result<()> {
        self.send(reply).await?;
        self.writer.shutdown().await
    }
}

/// Reads until the other side has gone, which closes the channel.
async fn read_inputs(mut reader: ReadHalf<ByteStream>, inputs: mpsc::Sender<Input>) {
    loop {
        let input = transport::read_frame::<Input>(&mut reader, CONTROL_FRAME_MAX);
        match tokio::time::timeout(3 * ALIVE_EVERY, input).await {
            Ok(Ok(Input::Alive)) => {}
            Ok(Ok(input)) => {
                if inputs.send(input).await.is_err() {
                    return;
                }
            }
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Waits until the other side has gone; what it says meanwhile is of no meaning.
async fn gone(inputs: &mut mpsc::Receiver<Input>) {
    while inputs.recv().await.is_some() {}
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The asking side of one request. What runs there ends when this is dropped.
pub struct Talk {
    inputs: mpsc::Sender<Input>,
    replies: mpsc::Receiver<Reply>,
    _tasks: [AbortOnDrop; 2],
}

impl Talk {
    /// Asks a peer. Errors as of [`Transport::open`].
    pub async fn open<T: Transport>(transport: &T, peer: &PeerId, request: &Request) -> io::Result<Self> {
        Self::begin(transport.open(peer, PROTOCOL).await?, request).await
    }

    async fn begin(stream: ByteStream, request: &Request) -> io::Result<Self> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        transport::write_frame(&mut writer, request, CONTROL_FRAME_MAX).await?;
        let (inputs, mut typed) = mpsc::channel::<Input>(16);
        let (heard, replies) = mpsc::channel(16);
        let writing = tasks::spawn("console-out", async move {
            loop {
                let input = tokio::select! {
                    input = typed.recv() => match input {
                        Some(input) => input,
                        None => return,
                    },
                    () = tokio::time::sleep(ALIVE_EVERY) => Input::Alive,
                };
                let sent = transport::write_frame(&mut writer, &input, CONTROL_FRAME_MAX);
                if !matches!(tokio::time::timeout(WRITE_TIMEOUT, sent).await, Ok(Ok(()))) {
                    return;
                }
            }
        });
        let reading = tasks::spawn("console-in", async move {
            loop {
                let reply = transport::read_frame::<Reply>(&mut reader, CONTROL_FRAME_MAX);
                let Ok(Ok(reply)) = tokio::time::timeout(3 * ALIVE_EVERY, reply).await else { return };
                let is_last = matches!(reply, Reply::Ended(_) | Reply::Refused(_));
                if heard.send(reply).await.is_err() || is_last {
                    return;
                }
            }
        });
        Ok(Self { inputs, replies, _tasks: [AbortOnDrop(writing), AbortOnDrop(reading)] })
    }

    /// The next word of the other side, signs of life left out; none when the connection broke before its last word.
    pub async fn next(&mut self) -> Option<Reply> {
        loop {
            match self.replies.recv().await {
                Some(Reply::Alive) => {}
                other => return other,
            }
        }
    }

    /// Where input goes; an error means that the other side has gone.
    pub fn inputs(&self) -> mpsc::Sender<Input> {
        self.inputs.clone()
    }
}

#[cfg(test)]
mod tests;
