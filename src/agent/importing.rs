//! An import: lines from a stream become jobs of a draft, and the draft becomes visible when all of it is there.
//!
//! ```text
//!   bytes ─► lines ─► jobs ─► chunks of 64, several on their way ─► OpenSession
//!                                   any error, a torn stream ─────► DropSession: nobody has seen anything
//! ```
//!
//! What is held in memory is the chunks on their way, and the targets and ids that lines may name. Never done here: waiting for
//! the jobs to run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::oneshot;

use super::shared::Shared;
use super::submitting::{refuse_other_work, secure_source, wait_until};
use super::{accepted, internal, propose};
use crate::api::{ApiError, ApiResult, ErrorCode, Imported};
use crate::clock::now_ms;
use crate::engine::command::{COMMAND_MAX_BYTES, Command, SUBMIT_JOBS_MAX};
use crate::engine::id::{SessionId, Sha256Hash};
use crate::engine::import::{BadLine, LINE_MAX_BYTES, Lines};
use crate::engine::job::JobSpec;
use crate::engine::session::{SessionAbout, SessionPhase};
use crate::tasks;
use crate::web::node::{ByteStream, ImportAbout};

/// Chunks on their way at once.
const IN_FLIGHT: usize = 16;
/// Most bytes of jobs in one command: names and ids of the session go with them.
const CHUNK_MAX_BYTES: usize = COMMAND_MAX_BYTES - 2_048;
/// A chunk that fills so slowly is sent as it is: a draft that does not grow is taken back.
const CHUNK_PATIENCE: Duration = Duration::from_secs(5);
/// How long one commit is awaited.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a chunk is tried again without a quorum: its jobs' ids make that harmless.
const QUORUM_PATIENCE_MS: u64 = 40_000;

/// Takes an import in. Goes on when whoever asked has gone after the last byte.
pub(super) async fn import(
    shared: &Arc<Shared>,
    about: ImportAbout,
    submitter: String,
    bytes: ByteStream,
) -> ApiResult<Imported> {
    let (answer, answered) = oneshot::channel();
    let shared = Arc::clone(shared);
    tasks::spawn("import", async move {
        let session = about.session;
        let about = SessionAbout { submitter, name: about.name, profile: about.profile };
        let mut import = Import::new(Arc::clone(&shared), session, about);
        let mut bytes = bytes;
        let result = import.run(&mut bytes).await;
        if let Err(error) = &result {
            tracing::warn!(%session, %error, "import given up");
            if import.begun {
                import.abandon(&error.message).await;
            }
            // Whoever is still sending reads no answer before the last byte is gone.
            while let Some(Ok(_)) = bytes.next().await {}
        } else {
            let open = |session: &crate::engine::session::Session| session.phase != SessionPhase::Draft;
            wait_until(&shared, |state| state.session(&session).is_some_and(open)).await;
        }
        if answer.send(result).is_err() {
            tracing::info!(%session, "whoever imported has gone before the answer");
        }
    });
    answered.await.map_err(|_| internal("the import ended without an answer"))?
}

struct Import {
    shared: Arc<Shared>,
    session: SessionId,
    about: SessionAbout,
    lines: Lines,
    chunk: Vec<JobSpec>,
    chunk_bytes: usize,
    jobs: u64,
    /// Something was proposed.
    begun: bool,
    on_their_way: FuturesUnordered<BoxFuture<'static, ApiResult<()>>>,
    /// Archives that enough nodes keep.
    secured: BTreeSet<Sha256Hash>,
}

impl Import {
    fn new(shared: Arc<Shared>, session: SessionId, about: SessionAbout) -> Self {
        Self {
            shared,
            session,
            about,
            lines: Lines::new(session),
            chunk: Vec::new(),
            chunk_bytes: 0,
            jobs: 0,
            begun: false,
            on_their_way: FuturesUnordered::new(),
            secured: BTreeSet::new(),
        }
    }

    async fn run(&mut self, bytes: &mut ByteStream) -> ApiResult<Imported> {
        let mut rest = BytesMut::new();
        loop {
            let piece = match tokio::time::timeout(CHUNK_PATIENCE, bytes.next()).await {
                Err(_) => {
                    self.send_chunk().await?;
                    continue;
                }
                Ok(None) => break,
                Ok(Some(piece)) => piece.map_err(|error| torn(&error))?,
            };
            self.take(&mut rest, &piece).await?;
        }
        if !rest.is_empty() {
            self.line(&rest).await?;
        }
        self.lines.finish().map_err(|bad| refused(&bad))?;
        if self.jobs == 0 {
            return Err(ApiError::new(ErrorCode::Invalid, "there is no job in it", "one JSON object per line"));
        }
        self.send_chunk().await?;
        while let Some(done) = self.on_their_way.next().await {
            done?;
        }
        let command = Command::OpenSession { session: self.session, jobs: self.jobs };
        commit(Arc::clone(&self.shared), command).await?;
        Ok(Imported { session: self.session, jobs: self.jobs })
    }

    async fn take(&mut self, rest: &mut BytesMut, piece: &Bytes) -> ApiResult<()> {
        let mut piece = &piece[..];
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let (line, after) = (&piece[..end], &piece[end + 1..]);
            if rest.is_empty() {
                self.line(line).await?;
            } else {
                rest.extend_from_slice(line);
                let line = rest.split();
                self.line(&line).await?;
            }
            piece = after;
        }
        rest.extend_from_slice(piece);
        // One byte more than allowed is enough to see that it is too long.
        if rest.len() > LINE_MAX_BYTES {
            self.line(rest).await?;
        }
        Ok(())
    }

    async fn line(&mut self, text: &[u8]) -> ApiResult<()> {
        let Some(spec) = self.lines.push(text).map_err(|bad| refused(&bad))? else { return Ok(()) };
        let at = |error: ApiError| ApiError { message: self.lines.bad(error.message).to_string(), ..error };
        refuse_other_work(&self.shared, &spec).await.map_err(at)?;
        if let Some((sha256, _)) = spec.work.archive()
            && !self.secured.contains(&sha256)
        {
            secure_source(&self.shared, &spec).await.map_err(at)?;
            self.secured.insert(sha256);
        }
        let mut counter = Counter(0);
        ciborium::into_writer(&spec, &mut counter).map_err(internal)?;
        if counter.0 > CHUNK_MAX_BYTES {
            return Err(refused(&self.lines.bad(format!("the job is longer than {CHUNK_MAX_BYTES} bytes"))));
        }
        if self.chunk.len() >= SUBMIT_JOBS_MAX || self.chunk_bytes + counter.0 > CHUNK_MAX_BYTES {
            self.send_chunk().await?;
        }
        self.chunk_bytes += counter.0;
        self.chunk.push(spec);
        self.jobs += 1;
        Ok(())
    }

    async fn send_chunk(&mut self) -> ApiResult<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        self.chunk_bytes = 0;
        let command = Command::Submit {
            session: self.session,
            about: self.about.clone(),
            draft: Some(self.shared.me.peer_id.clone()),
            jobs: std::mem::take(&mut self.chunk),
        };
        let first = !self.begun;
        self.begun = true;
        self.on_their_way.push(Box::pin(commit(Arc::clone(&self.shared), command)));
        // The first one says whether the session can be written to at all.
        let most = if first { 0 } else { IN_FLIGHT };
        while self.on_their_way.len() > most {
            if let Some(done) = self.on_their_way.next().await {
                done?;
            }
        }
        Ok(())
    }

    /// Takes back what has been handed in. What cannot be taken back now is, by the coordinator, when it has not grown for a while.
    async fn abandon(&mut self, why: &str) {
        // None of them may come after the draft is gone: it would make another one.
        while self.on_their_way.next().await.is_some() {}
        let reason: String = why.chars().take(300).collect();
        let command = Command::DropSession { session: self.session, reason };
        if let Err(error) = commit(Arc::clone(&self.shared), command).await {
            tracing::warn!(session = %self.session, %error, "what was imported could not be taken back yet");
        }
    }
}

/// Proposes until there is an answer of the hive, or no quorum for long.
async fn commit(shared: Arc<Shared>, command: Command) -> ApiResult<()> {
    let deadline_ms = now_ms() + QUORUM_PATIENCE_MS;
    loop {
        match propose(&shared, command.clone(), COMMIT_TIMEOUT).await {
            Err(error) if error.code == ErrorCode::NoQuorum && now_ms() < deadline_ms => {
                tracing::debug!(%error, "an import waits for a quorum");
            }
            other => return accepted(other?),
        }
    }
}

fn refused(bad: &BadLine) -> ApiError {
    ApiError::new(ErrorCode::Invalid, bad.to_string(), "nothing was queued; mend the line and import all of it again")
}

fn torn(error: &std::io::Error) -> ApiError {
    ApiError::new(ErrorCode::Invalid, format!("the import broke off: {error}"), "nothing was queued; import it again")
}

/// Counts what is written.
struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
