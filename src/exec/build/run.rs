//! One attempt while it runs: its directory, log, clock and the programs it starts one after another.
//!
//! Never done here: knowing what kind of work it is.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::collect::Found;
use super::verdict::{self, Failure};
use super::{Attempt, Event, EventKind, Inner, Signals, StopReason};
use crate::clock;
use crate::engine::job::{Artifact, FailureClass};
use crate::engine::role::Family;
use crate::exec::launch::{Exit, Running, Step};
use crate::exec::logs::LogWriter;
use crate::exec::packages::PackagesState;
use crate::exec::portage::PortageStep;
use crate::exec::secrets::{Mask, Secrets};
use crate::exec::users;

/// Time-outs and free space are looked at so often.
const TICK: Duration = Duration::from_millis(250);
/// End of a program's output that verdicts are made of, bytes.
const TAIL_BYTES: usize = 64 << 10;
/// A job that requires this gets it: no network but a loopback of its own.
const CUT_OFF: &str = "feature:netns";
/// Below the attempt's directory: where sources are, and beside them what packages leave.
pub(super) const SOURCE_DIR: &str = "build/src";

/// One program to run.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) directory: String,
    pub(super) argv: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) sandbox: bool,
    pub(super) portage: Option<PortageStep>,
}

impl Program {
    /// In the attempt's `build`, with the settings of Portage.
    pub(super) fn asking_portage(argv: Vec<String>) -> Self {
        Self {
            directory: "build".to_owned(),
            argv,
            environment: BTreeMap::new(),
            sandbox: true,
            portage: Some(PortageStep::Ask),
        }
    }

    /// In the sources, in the sandbox, with nothing added to the environment.
    pub(super) fn inside(argv: &[&str]) -> Self {
        Self {
            directory: SOURCE_DIR.to_owned(),
            argv: argv.iter().map(|&text| text.to_owned()).collect(),
            environment: BTreeMap::new(),
            sandbox: true,
            portage: None,
        }
    }
}

/// How a program ended, with the end of its output.
pub(super) struct StepEnd {
    pub(super) program: String,
    pub(super) exit: Exit,
    pub(super) tail: String,
}

/// An attempt that has begun.
pub(super) struct Run {
    pub(super) attempt: Attempt,
    pub(super) directory: PathBuf,
    pub(super) inner: Arc<Inner>,
    log: LogWriter,
    deadline_ms: u64,
    events: mpsc::Sender<Event>,
    signals: Signals,
    started: bool,
    /// Files of hive's own that go with the artifacts: name and content.
    declared: Vec<(&'static str, String)>,
    /// What the job named, for its own programs only.
    secrets: Secrets,
    mask: Mask,
    /// The build has no network from here on.
    cut_off: bool,
}

pub(super) fn stop_failure(reason: &StopReason) -> Failure {
    match reason {
        StopReason::Cancelled(who) => Failure::new(FailureClass::Cancelled, who.clone()),
        StopReason::Superseded => Failure::new(FailureClass::Stale, "a newer attempt replaced this one"),
        StopReason::LeaseLost => Failure::infra("the coordinator could not be reached to renew the lease"),
        StopReason::Shutdown => Failure::infra("the agent on this node was stopped"),
    }
}

impl Run {
    pub(super) async fn begin(
        inner: Arc<Inner>,
        attempt: Attempt,
        events: mpsc::Sender<Event>,
        signals: Signals,
    ) -> Result<Self, Failure> {
        let limits = &attempt.spec.limits;
        let secrets_dir = &inner.executor.options().secrets_dir;
        let secrets = Secrets::load(secrets_dir, &attempt.spec.secrets).map_err(Failure::policy)?;
        let log = inner.logs.create(attempt.job, attempt.attempt, limits.log_max_bytes)?;
        let directory = inner.executor.options().work_dir.join(attempt.token.to_string());
        let deadline_ms = clock::now_ms().saturating_add(limits.timeout_ms);
        let mut run = Self {
            cut_off: attempt.spec.labels.contains(CUT_OFF),
            mask: Mask::new(&secrets),
            secrets,
            attempt,
            directory,
            inner,
            log,
            deadline_ms,
            events,
            signals,
            started: false,
            declared: Vec::new(),
        };
        if run.disk_is_low() {
            return Err(Failure::infra("too little disk space is free where builds work"));
        }
        users::remove_tree(&run.directory).await?;
        run.make_directories()?;
        run.note(&format!("attempt {} of job {}: {}", run.attempt.attempt, run.attempt.job, run.attempt.spec.target));
        Ok(run)
    }

    fn make_directories(&self) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(&self.directory)?;
        for name in ["home", "tmp", "build", SOURCE_DIR, "apt"] {
            fs::create_dir(self.directory.join(name))?;
        }
        // Repositories on this host belong to somebody else by nature; the transport is limited by GIT_ALLOW_PROTOCOL. Without a name
        // of its own git asks the network for the host's full one, which takes ten seconds where no name server answers.
        let config = "[safe]\n\tdirectory = *\n[advice]\n\tdetachedHead = false\n[user]\n\tname = hive\n\temail = hive@localhost\n";
        fs::write(self.directory.join("home/.gitconfig"), config)
    }

    /// A line of hive's own in the log. A log that cannot be written ends the attempt at the next output.
    pub(super) fn note(&mut self, text: &str) {
        if let Err(error) = self.log.note(text) {
            tracing::warn!(job = %self.attempt.job, %error, "log cannot be written");
        }
    }

    /// One of hive's own phases begins.
    pub(super) fn phase(&mut self, name: &str) {
        self.log.phase(name);
    }

    async fn tell(&self, kind: EventKind) {
        let event = Event { job: self.attempt.job, token: self.attempt.token, kind };
        if self.events.send(event).await.is_err() {
            tracing::warn!(job = %self.attempt.job, "nobody listens to this attempt");
        }
    }

    /// Tells once that it runs, as soon as the commit is known or needs no pinning.
    pub(super) async fn started(&mut self, pinned_commit: Option<String>) {
        if !self.started {
            self.started = true;
            self.tell(EventKind::Started { pinned_commit }).await;
        }
    }

    /// Waits until the hive knows that it runs, when it matters.
    pub(super) async fn permitted(&mut self) -> Result<(), Failure> {
        let mut permitted = self.signals.permitted.clone();
        self.guarded(async move {
            let waited = permitted.wait_for(|permitted| *permitted).await;
            waited.map(|_| ()).map_err(|_| Failure::infra("the agent forgot this attempt"))
        })
        .await
    }

    pub(super) async fn uploading(&self) {
        self.tell(EventKind::Uploading).await;
    }

    pub(super) fn disk_is_low(&self) -> bool {
        let options = self.inner.executor.options();
        let free = rustix::fs::statvfs(&options.work_dir).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        free.is_ok_and(|free| free < options.disk_free_min_bytes)
    }

    fn over_time(&self) -> Option<Failure> {
        let timeout_ms = self.attempt.spec.limits.timeout_ms;
        (clock::now_ms() >= self.deadline_ms)
            .then(|| Failure::infra(format!("ran longer than its limit of {timeout_ms} ms")))
    }

    /// Why it should not go on, if so.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if let Some(reason) = &*self.signals.stopped.borrow() {
            return Err(stop_failure(reason));
        }
        self.over_time().map_or(Ok(()), Err)
    }

    /// Waits for something that is not a program, as long as the attempt may run.
    pub(super) async fn guarded<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::pin!(work);
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                result = &mut work => return result,
                _ = tick.tick() => self.check()?,
            }
        }
    }

    /// Nothing that runs in the sandbox from now on has a network, where this host can do that.
    pub(super) fn cut_off(&mut self) {
        self.cut_off = true;
    }

    /// Runs a program of hive's own choice, one that runs nothing of the sources, to its end. An error when it could not start, was stopped, or broke a limit.
    pub(super) async fn step(&mut self, program: Program) -> Result<StepEnd, Failure> {
        self.run(program, Secrets::default(), true, TAIL_BYTES).await
    }

    /// As [`Run::step`], with so much of the end of its output.
    pub(super) async fn step_keeping(&mut self, program: Program, tail_bytes: usize) -> Result<StepEnd, Failure> {
        self.run(program, Secrets::default(), true, tail_bytes).await
    }

    /// Runs a program that is the build, with the secrets that the job named.
    pub(super) async fn build(&mut self, program: Program) -> Result<StepEnd, Failure> {
        self.run(program, self.secrets.clone(), false, TAIL_BYTES).await
    }

    async fn run(
        &mut self,
        program: Program,
        secrets: Secrets,
        own_tool: bool,
        tail_bytes: usize,
    ) -> Result<StepEnd, Failure> {
        self.check()?;
        let name = program.argv.first().cloned().unwrap_or_default();
        let limits = self.attempt.spec.limits.clone();
        let step = Step {
            job: self.attempt.job,
            token: self.attempt.token,
            directory: program.directory,
            argv: program.argv,
            environment: program.environment,
            processes_max: limits.processes_max,
            memory_max_mb: limits.memory_max_mb,
            sandbox: program.sandbox,
            cut_off: self.cut_off,
            own_tool,
            secrets,
            portage: program.portage,
        };
        let running = self.inner.executor.start(step).await?;
        let (exit, tail, broken) = self.follow(running, tail_bytes).await;
        if exit.survivors > 0 {
            self.note(&format!("{} processes of {name} could not be ended", exit.survivors));
            tracing::error!(job = %self.attempt.job, survivors = exit.survivors, "processes of a build could not be ended");
        }
        if let Some(failure) = broken {
            return Err(failure);
        }
        if let Some(outgrown) = &exit.outgrown {
            return Err(verdict::outgrown(outgrown));
        }
        if let Some((kind, message)) = &exit.shim {
            return Err(verdict::not_started(&name, *kind, message));
        }
        Ok(StepEnd { program: name, exit, tail })
    }

    async fn follow(&mut self, running: Running, tail_bytes: usize) -> (Exit, String, Option<Failure>) {
        let Running { mut output, mut ended, stop, guard: _guard } = running;
        let silence_ms = self.attempt.spec.limits.silence_timeout_ms;
        let mut heard_ms = clock::now_ms();
        let mut tail: Vec<u8> = Vec::new();
        let mut broken: Option<Failure> = None;
        let mut open = true;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let exit = loop {
            tokio::select! {
                chunk = output.recv(), if open => match chunk {
                    Some(chunk) => {
                        heard_ms = clock::now_ms();
                        if let Err(failure) = self.take(&chunk, &mut tail, tail_bytes) {
                            broken.get_or_insert(failure);
                        }
                    }
                    None => open = false,
                },
                exit = &mut ended => break exit.unwrap_or_default(),
                _ = tick.tick() => {
                    let problem = self.check().err().or_else(|| {
                        let silent_ms = clock::now_ms().saturating_sub(heard_ms);
                        (silent_ms >= silence_ms).then(|| Failure::infra(format!("printed nothing for {silence_ms} ms")))
                    });
                    let problem = problem.or_else(|| {
                        self.disk_is_low().then(|| Failure::infra("the disk is nearly full where builds work"))
                    });
                    if let Some(problem) = problem {
                        broken.get_or_insert(problem);
                    }
                }
            }
            if broken.is_some() {
                stop.cancel();
            }
        };
        while let Ok(chunk) = output.try_recv() {
            if let Err(failure) = self.take(&chunk, &mut tail, tail_bytes) {
                broken.get_or_insert(failure);
            }
        }
        let held = self.mask.finish();
        if let Err(failure) = self.write(&held, &mut tail, tail_bytes) {
            broken.get_or_insert(failure);
        }
        (exit, String::from_utf8_lossy(&tail).into_owned(), broken)
    }

    fn take(&mut self, chunk: &[u8], tail: &mut Vec<u8>, tail_bytes: usize) -> Result<(), Failure> {
        let shown = self.mask.pass(chunk);
        self.write(&shown, tail, tail_bytes)
    }

    fn write(&mut self, chunk: &[u8], tail: &mut Vec<u8>, tail_bytes: usize) -> Result<(), Failure> {
        tail.extend_from_slice(chunk);
        if tail.len() > 2 * tail_bytes {
            tail.drain(..tail.len() - tail_bytes);
        }
        self.log.write(chunk).map_err(|error| Failure::infra(format!("the log cannot be written: {error}")))
    }

    /// The verdict on the build's own program.
    pub(super) fn judge(&self, end: &StepEnd) -> Result<(), Failure> {
        verdict::judge(&end.program, &end.exit, &end.tail, self.disk_is_low()).map_or(Ok(()), Err)
    }

    /// Runs a program that fetches or inspects sources, outside of the sandbox.
    pub(super) async fn fetch(&mut self, what: &str, program: Program) -> Result<StepEnd, Failure> {
        let end = self.step(program).await?;
        match verdict::judge_fetch(what, &end.exit, &end.tail, self.disk_is_low()) {
            None => Ok(end),
            Some(failure) => Err(failure),
        }
    }

    /// Installs packages while the attempt may run. The installation itself goes on when the attempt ends.
    pub(super) async fn install(&mut self, names: Vec<String>) -> Result<PackagesState, Failure> {
        let (sender, mut output) = mpsc::channel(16);
        let executor = self.inner.executor.clone();
        let installing = crate::tasks::spawn("build-dependencies", async move {
            executor.install_packages(Family::Debian, names, sender).await
        });
        loop {
            tokio::select! {
                chunk = output.recv() => match chunk {
                    Some(chunk) => self.take(&chunk, &mut Vec::new(), 0)?,
                    None => break,
                },
                () = tokio::time::sleep(TICK) => self.check()?,
            }
        }
        installing.await.map_err(|error| Failure::infra(error.to_string()))?.map_err(Failure::from)
    }

    /// A file of hive's own among the artifacts, which nothing that the build ran could write.
    pub(super) fn declare(&mut self, name: &'static str, content: String) {
        self.declared.push((name, content));
    }

    async fn keep_declared(&mut self, kept: &mut Vec<Artifact>) -> Result<(), Failure> {
        for (name, content) in std::mem::take(&mut self.declared) {
            if kept.iter().any(|artifact| artifact.name == name) {
                return Err(Failure::build(format!("{name} is a name of hive's own; the build must not use it")));
            }
            let mut file = tempfile::tempfile_in(&self.inner.executor.options().work_dir)?;
            file.write_all(content.as_bytes())?;
            file.rewind()?;
            let depot = self.inner.depot.clone();
            let (sha256, size) = self.guarded(async move { depot.keep(file).await.map_err(Failure::from) }).await?;
            self.note(&format!("artifact {name}: {size} bytes, SHA-256 {sha256}"));
            kept.push(Artifact { name: name.to_owned(), sha256, size });
        }
        Ok(())
    }

    /// Hands what was found to the depot, in order.
    pub(super) async fn keep(&mut self, found: Vec<Found>) -> Result<Vec<Artifact>, Failure> {
        let owner = self.inner.executor.file_owner();
        let depot = self.inner.depot.clone();
        let mut kept: Vec<Artifact> = Vec::new();
        for Found { name, path, expected } in found {
            let file = super::collect::open_regular(&self.directory, Path::new(&path), owner)
                .map_err(|error| Failure::build(format!("artifact {path}: {error}")))?;
            let depot = depot.clone();
            let (sha256, size) = self.guarded(async move { depot.keep(file).await.map_err(Failure::from) }).await?;
            if expected.is_some_and(|expected| expected != (sha256, size)) {
                return Err(Failure::build(format!("{name} does not match its checksum in the .changes file")));
            }
            self.note(&format!("artifact {name}: {size} bytes, SHA-256 {sha256}"));
            kept.push(Artifact { name, sha256, size });
        }
        self.keep_declared(&mut kept).await?;
        Ok(kept)
    }

    /// Ends the log and removes the directory.
    pub(super) async fn end(mut self) -> Result<(), Failure> {
        if let Err(error) = users::remove_tree(&self.directory).await {
            self.note(&format!("the directory of the attempt stays: {error}"));
            tracing::warn!(directory = %self.directory.display(), %error, "directory of an attempt stays");
        }
        let log = self.log;
        let finished = tokio::task::spawn_blocking(move || log.finish()).await.map_err(io::Error::other);
        finished.and_then(|result| result).map_err(|error| Failure::infra(format!("the log cannot be kept: {error}")))
    }
}
