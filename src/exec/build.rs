//! Runs attempts: from an assignment to a verified result, and nothing left behind.
//!
//! ```text
//!   Attempt ─► prepare (sources, dependencies) ─► run ─► collect (artifacts) ─► depot ─► Ended
//!                 └ Started (commit pinned)                └ Uploading
//! ```
//!
//! A job that is not pure stops before `run` until [`Build::permit`] says that the hive has committed its `Started`: whoever
//! takes the job over must be able to know that it may have had effects. Per attempt, `Started` and `Uploading` come at most once and in this order, `Ended` exactly once and last, when no process
//! and no directory of it is left. Never done here: deciding whether an attempt may still run (the agent stops it), or whether
//! its result counts.

mod collect;
mod command;
mod debian;
mod dummies;
mod maven;
mod packages;
mod packaging;
mod portage;
mod run;
mod sources;
mod verdict;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use super::logs::LogStore;
use super::privilege::Executor;
use super::{Capabilities, ExecError};
use crate::engine::grammar;
use crate::engine::id::{JobId, Sha256Hash, Token};
use crate::engine::job::{Artifact, FailureClass, JobSpec, Outcome, Work};
use crate::tasks;
use run::Run;
use verdict::Failure;

/// One attempt that this node was given and that the coordinator confirmed.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The job.
    pub job: JobId,
    /// 1, 2, 3 …: names the log.
    pub attempt: u32,
    /// Names the directory, cgroup and marker.
    pub token: Token,
    /// What to do.
    pub spec: JobSpec,
}

/// What an attempt tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub token: Token,
    /// What happened.
    pub kind: EventKind,
}

/// Kinds of [`Event`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It runs. A moving ref was pinned to this commit.
    Started {
        /// Only where the job named no commit.
        pinned_commit: Option<String>,
    },
    /// The program succeeded; its files are being verified and stored.
    Uploading,
    /// It is over, and nothing of it is left but its log and artifacts.
    Ended(Outcome),
}

/// Why an attempt is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// An operator ended the job; who and why.
    Cancelled(String),
    /// A newer attempt replaced it.
    Superseded,
    /// Its lease could not be renewed in time, and it has outside effects.
    LeaseLost,
    /// The agent ends.
    Shutdown,
}

/// Where archives come from and artifacts go: the blob store and the mesh, joined by the agent.
pub trait Depot: Send + Sync + 'static {
    /// Gets an archive from wherever it is and unpacks it into an empty directory.
    fn unpack<'a>(&'a self, archive: Sha256Hash, size: u64, into: &'a Path) -> BoxFuture<'a, Result<(), DepotError>>;

    /// Stores a file durably, verified as it is stored.
    fn keep(&self, file: File) -> BoxFuture<'_, Result<(Sha256Hash, u64), DepotError>>;
}

/// Why the depot did not do it.
#[derive(Debug, thiserror::Error)]
pub enum DepotError {
    /// Not to be had, or no place: another node or a later time may do better.
    #[error("{0}")]
    Unavailable(String),
    /// The archive itself breaks the rules, wherever it is tried.
    #[error("{0}")]
    Refused(String),
}

struct Inner {
    executor: Arc<Executor>,
    logs: LogStore,
    depot: Arc<dyn Depot>,
}

/// Starts attempts on this node. Cheap to clone.
#[derive(Clone)]
pub struct Builder {
    inner: Arc<Inner>,
}

/// An attempt that runs. Dropping this lets it run on.
#[derive(Debug)]
pub struct Build {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub token: Token,
    stop: watch::Sender<Option<StopReason>>,
    permit: watch::Sender<bool>,
}

impl Build {
    /// The hive knows that this attempt runs, so its program may have effects now. Pure jobs do not wait for it.
    pub fn permit(&self) {
        self.permit.send_replace(true);
    }

    /// Ends the attempt within 5 s; `Ended` follows as always. The first reason stays.
    pub fn stop(&self, reason: StopReason) {
        self.stop.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason);
            }
            first
        });
    }
}

impl Builder {
    /// Ends what a former life of the agent left, then is ready. Also answers the tokens of what was ended.
    pub async fn open(
        executor: Arc<Executor>,
        logs: LogStore,
        depot: Arc<dyn Depot>,
    ) -> Result<(Self, Vec<String>), ExecError> {
        let reaped = executor.reap_leftovers().await?;
        Ok((Self { inner: Arc::new(Inner { executor, logs, depot }) }, reaped))
    }

    /// The logs that its attempts write.
    pub fn logs(&self) -> &LogStore {
        &self.inner.logs
    }

    /// Starts an attempt at once. How many run at the same time is the caller's affair.
    pub fn start(&self, attempt: Attempt, events: mpsc::Sender<Event>) -> Build {
        let (stop, stopped) = watch::channel(None);
        let (permit, permitted) = watch::channel(attempt.spec.pure);
        let build = Build { job: attempt.job, token: attempt.token, stop, permit };
        let inner = self.inner.clone();
        tasks::spawn("build", async move {
            let (job, token) = (attempt.job, attempt.token);
            let outcome = whole(inner, attempt, events.clone(), Signals { stopped, permitted }).await;
            tracing::info!(%job, %token, ?outcome, "attempt ended");
            if events.send(Event { job, token, kind: EventKind::Ended(outcome) }).await.is_err() {
                tracing::warn!(%job, %token, "nobody took the end of an attempt");
            }
        });
        build
    }
}

/// What knows one kind of work.
trait Backend: Send + Sync {
    /// Brings sources and dependencies in place.
    fn prepare<'a>(&'a mut self, run: &'a mut Run) -> BoxFuture<'a, Result<(), Failure>>;

    /// The program that is the build.
    fn program(&self) -> run::Program;

    /// The verdict on that program's end.
    fn judge(&self, run: &Run, end: &run::StepEnd) -> Result<(), Failure> {
        run.judge(end)
    }

    /// A second program, after the first has succeeded.
    fn afterwards(&self) -> Option<run::Program> {
        None
    }

    /// Names, checks and describes what came out, relative to the attempt's directory.
    fn collect<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<Vec<collect::Found>, Failure>>;
}

/// None for work that this version of hive only knows by name.
fn backend(work: &Work) -> Option<Box<dyn Backend>> {
    match work.clone() {
        Work::Command { source, argv, artifacts } => Some(Box::new(command::Command::new(source, argv, artifacts))),
        Work::Debian { source } => Some(Box::new(debian::Debian::new(source))),
        Work::Maven { source, goals, options, artifacts } => {
            Some(Box::new(maven::Maven::new(source, goals, options, artifacts)))
        }
        Work::Portage { atom, tree } => Some(Box::new(portage::Portage::new(atom, tree))),
        Work::Resolve { targets, empty_tree } => Some(Box::new(portage::resolve::Resolve::new(targets, empty_tree))),
    }
}

/// What reaches an attempt while it runs.
struct Signals {
    stopped: watch::Receiver<Option<StopReason>>,
    permitted: watch::Receiver<bool>,
}

async fn whole(inner: Arc<Inner>, attempt: Attempt, events: mpsc::Sender<Event>, signals: Signals) -> Outcome {
    if let Err(error) = grammar::job(&attempt.spec) {
        return Failure::policy(error.to_string()).into();
    }
    let Some(mut backend) = backend(&attempt.spec.work) else {
        let what = attempt.spec.work.backend();
        return Failure::policy(format!("hive {} cannot do {what} jobs", env!("CARGO_PKG_VERSION"))).into();
    };
    if let Some(missing) = missing_feature(&inner.executor.capabilities(), &attempt.spec) {
        return Failure::infra(format!("this host does not offer {missing}, which the job requires")).into();
    }
    let _tree = tokio::select! {
        held = inner.executor.tree_held() => held,
        // Whoever stops it waits no longer than for any other attempt.
        reason = stop_of(signals.stopped.clone()) => return run::stop_failure(&reason).into(),
    };
    let mut run = match Run::begin(inner, attempt, events, signals).await {
        Ok(run) => run,
        Err(failure) => return failure.into(),
    };
    let result = steps(&mut run, backend.as_mut()).await;
    if let Err(failure) = &result {
        run.note(&format!("{}: {}", failure.word(), failure.reason));
    }
    match (result, run.end().await) {
        (Ok(artifacts), Ok(())) => Outcome::Succeeded { artifacts },
        (Ok(_), Err(failure)) | (Err(failure), _) => failure.into(),
    }
}

/// Why it is stopped, once it is. Whoever started it may have forgotten it, which stops nothing.
async fn stop_of(mut stopped: watch::Receiver<Option<StopReason>>) -> StopReason {
    let reason = stopped.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
    match reason {
        Some(reason) => reason,
        None => std::future::pending().await,
    }
}

/// What the job requires of its drone and this host does not have: it may have lost it since the job was placed.
fn missing_feature<'a>(capabilities: &Capabilities, spec: &'a JobSpec) -> Option<&'a str> {
    let offered = capabilities.features();
    let mut required = spec.labels.iter().filter_map(|label| label.strip_prefix("feature:"));
    required.find(|feature| !offered.contains(feature))
}

async fn steps(run: &mut Run, backend: &mut dyn Backend) -> Result<Vec<Artifact>, Failure> {
    run.phase("prepare");
    backend.prepare(run).await?;
    run.started(None).await;
    run.phase("wait for permission");
    run.permitted().await?;
    run.phase("build");
    let end = run.build(backend.program()).await?;
    backend.judge(run, &end)?;
    if let Some(program) = backend.afterwards() {
        run.phase("package");
        let end = run.build(program).await?;
        run.judge(&end)?;
    }
    run.uploading().await;
    run.phase("collect");
    let found = backend.collect(run).await?;
    run.phase("store");
    run.keep(found).await
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        let Failure { class, reason, exit_code } = failure;
        Self::Failed { class, reason, exit_code }
    }
}

/// Cuts to what a report may hold, at a character's boundary.
fn shortened(mut text: String) -> String {
    const REASON_MAX_BYTES: usize = 500;
    if text.len() > REASON_MAX_BYTES {
        let mut end = REASON_MAX_BYTES - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

impl From<DepotError> for Failure {
    fn from(error: DepotError) -> Self {
        match error {
            DepotError::Unavailable(why) => Self::infra(why),
            DepotError::Refused(why) => Self::policy(why),
        }
    }
}

impl From<ExecError> for Failure {
    fn from(error: ExecError) -> Self {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        Self::infra(format!("{error}{source}"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::infra(error.to_string())
    }
}

impl Failure {
    fn new(class: FailureClass, reason: impl Into<String>) -> Self {
        Self { class, reason: shortened(reason.into()), exit_code: None }
    }

    fn build(reason: impl Into<String>) -> Self {
        Self::new(FailureClass::Build, reason)
    }

    fn infra(reason: impl Into<String>) -> Self {
        Self::new(FailureClass::Infra, reason)
    }

    fn policy(reason: impl Into<String>) -> Self {
        Self::new(FailureClass::Policy, reason)
    }

    fn with_code(mut self, exit_code: Option<i32>) -> Self {
        self.exit_code = exit_code;
        self
    }

    fn word(&self) -> &'static str {
        match self.class {
            FailureClass::Build => "failed",
            FailureClass::Infra => "failed for reasons of this node",
            FailureClass::Policy => "cannot be built",
            FailureClass::Cancelled => "cancelled",
            FailureClass::Stale => "superseded",
        }
    }
}
