//! Logs in a stream: the pieces of an attempt's log while it is written, and how it ended.
//!
//! Never done here: reading logs (the node does).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::frame;
use crate::api::shown::StreamCleaner;
use crate::api::{ApiResult, LiveLog, LiveLogEnd};
use crate::engine::id::JobId;
use crate::web::answer::Problem;
use crate::web::node::{ByteStream, LogQuery, LogStream, NodeApi};

/// Messages of one log.
pub(super) type Pieces = BoxStream<'static, Bytes>;

/// A log that somebody follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedLog {
    job: JobId,
    attempt: Option<u32>,
    tail_bytes: Option<u64>,
}

impl fmt::Display for WantedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log:{}", self.job)?;
        self.attempt.map_or(Ok(()), |attempt| write!(f, ":{attempt}"))
    }
}

impl WantedLog {
    /// From `JOB` or `JOB:ATTEMPT`.
    pub(super) fn parse(text: &str, tail_bytes: Option<u64>) -> Result<Self, Problem> {
        let (job, attempt) = match text.split_once(':') {
            Some((job, attempt)) => (job, Some(attempt)),
            None => (text, None),
        };
        let job = crate::web::routes::job_id(job)?;
        let number = |text: &str| text.parse().map_err(|_| Problem::invalid("topics: log:JOB:ATTEMPT with a number"));
        Ok(Self { job, attempt: attempt.map(number).transpose()?, tail_bytes })
    }
}

/// Where the reading of one log stands.
enum Reading {
    Before,
    Within { attempt: u32, offset: u64, bytes: ByteStream, cleaner: StreamCleaner },
    Over,
}

/// The log from its beginning or last part on, until the attempt is over.
pub(super) fn follow(node: &Arc<dyn NodeApi>, wanted: WantedLog) -> Pieces {
    let state = (Arc::clone(node), wanted, Reading::Before);
    let pieces = futures::stream::unfold(state, |(node, wanted, reading)| async move {
        let (piece, reading) = step(&node, &wanted, reading).await?;
        Some((piece, (node, wanted, reading)))
    });
    pieces.boxed()
}

async fn open(node: &Arc<dyn NodeApi>, wanted: &WantedLog) -> ApiResult<LogStream> {
    let WantedLog { job, attempt, tail_bytes } = *wanted;
    node.job_log(LogQuery { job, attempt, offset: 0, tail_bytes, follow: true }).await
}

async fn step(node: &Arc<dyn NodeApi>, wanted: &WantedLog, mut reading: Reading) -> Option<(Bytes, Reading)> {
    loop {
        reading = match reading {
            Reading::Over => return None,
            Reading::Before => match open(node, wanted).await {
                Ok(LogStream { attempt, offset, bytes }) => {
                    Reading::Within { attempt, offset, bytes, cleaner: StreamCleaner::new(false) }
                }
                Err(error) => {
                    let told = end(node, wanted, wanted.attempt, Some(error.message)).await;
                    return Some((told, Reading::Over));
                }
            },
            Reading::Within { attempt, offset, mut bytes, mut cleaner } => match bytes.next().await {
                Some(Ok(piece)) => {
                    let text = cleaner.push(&piece);
                    let next = offset + piece.len() as u64;
                    if text.is_empty() {
                        Reading::Within { attempt, offset: next, bytes, cleaner }
                    } else {
                        let told = frame("log", None, &LiveLog { job: wanted.job, attempt, offset, text });
                        return Some((told, Reading::Within { attempt, offset: next, bytes, cleaner }));
                    }
                }
                ended => {
                    let error = ended.and_then(Result::err).map(|error| error.to_string());
                    return Some((end(node, wanted, Some(attempt), error).await, Reading::Over));
                }
            },
        };
    }
}

async fn end(node: &Arc<dyn NodeApi>, wanted: &WantedLog, attempt: Option<u32>, error: Option<String>) -> Bytes {
    let job = node.job(wanted.job).await.ok();
    let found = job.and_then(|job| {
        let named = job.attempts.iter().find(|known| Some(known.attempt) == attempt);
        named.or(job.attempts.last()).map(|attempt| attempt.state)
    });
    let state = found.and_then(|state| serde_json::to_value(state).ok()?.as_str().map(str::to_owned));
    frame("log-end", None, &LiveLogEnd { job: wanted.job, attempt, state, error })
}
