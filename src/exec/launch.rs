//! Starts one program of an attempt behind the shim, streams its output, and ends it with everything it started.
//!
//! The end is always the same, whether the program exits, fails or is stopped: the process group gets its signals, the cgroup
//! and the marker find whoever left the group, and only when nobody is left the exit is told. Never done here: judging what an
//! exit means.

mod step;
mod syncing;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, OwnedRwLockReadGuard, RwLock, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cgroup::{self, Cgroups, Group};
use super::disk::{Outgrown, Watch};
use super::portage::{self, PortageStep};
use super::shim::{self, Order, Sandbox, ShimFailure};
use super::users::{self, User};
use super::{Capabilities, ExecError, Options, SAFE_PATH, sweep, workdir};
use crate::engine::id::Token;
use crate::tasks;

pub(super) use self::step::Step;

/// Bytes of output in one piece.
pub(super) const CHUNK_BYTES: usize = 16 << 10;
/// Pieces that wait for a slow reader; then the build waits.
const CHUNKS_MAX: usize = 16;
/// End of the output that is searched for the shim's own line, bytes.
const TAIL_BYTES: usize = 8 << 10;
/// Rounds of killing what is left, and the pause between them: 2 s in all.
const SWEEP_ROUNDS: u32 = 40;
const SWEEP_PAUSE: Duration = Duration::from_millis(50);
/// How long a reader may take for the last output of a program that is over.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The probe at the start takes a few milliseconds; a machine that needs longer is broken.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// A machine that boots may have no process or memory to spare for a moment, so a failed probe is repeated so often, with a pause.
const PROBE_TRIES: u32 = 3;
const PROBE_PAUSE: Duration = Duration::from_millis(300);

/// How a program ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exit {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) oom_kills: u64,
    pub(super) shim: Option<(ShimFailure, String)>,
    /// It was stopped on request.
    pub(super) stopped: bool,
    /// It was stopped because the attempt took more disk than it may.
    #[serde(default)]
    pub(super) outgrown: Option<Outgrown>,
    /// Some of its processes could not be ended.
    pub(super) survivors: u32,
}

/// A program that runs. Dropping it stops the program.
pub(super) struct Running {
    /// Standard output and error as they come; closed after the last byte.
    pub(super) output: mpsc::Receiver<Bytes>,
    /// Comes after the output is closed.
    pub(super) ended: oneshot::Receiver<Exit>,
    pub(super) stop: CancellationToken,
    pub(super) guard: DropGuard,
}

/// By what a program is isolated.
#[derive(Clone, Default)]
struct Isolation {
    bubblewrap: Option<PathBuf>,
    cut_off: bool,
    closed_ports: Vec<u16>,
}

/// What an order is made of.
struct Wanted<'a> {
    attempt_dir: &'a Path,
    directory: &'a str,
    argv: &'a [String],
    environment: BTreeMap<String, String>,
    group: Option<&'a Group>,
    limits: cgroup::Limits,
    isolation: Isolation,
}

struct Inner {
    options: Options,
    /// None: this process's own user.
    user: Option<User>,
    cgroups: Cgroups,
    bubblewrap: Option<PathBuf>,
    capabilities: Capabilities,
    /// Read by every program while it runs, written by a sync: a package tree never changes under a build.
    trees: Arc<RwLock<()>>,
    synced_ms: Mutex<Option<u64>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.cgroups.retire();
    }
}

/// Starts programs on this host, as root under the build user, else as this process's own user.
#[derive(Clone)]
pub(super) struct Launcher {
    inner: Arc<Inner>,
}

impl Launcher {
    /// Prepares the work directory and finds out what this host can do.
    pub(super) async fn open(options: Options) -> Result<Self, ExecError> {
        let work_dir = &options.work_dir;
        let failed = |what: &str| ExecError::io(format!("{what} {}", work_dir.display()));
        fs::create_dir_all(work_dir).map_err(failed("create"))?;
        let root = rustix::process::geteuid().is_root();
        let user = if root { Some(users::build_user(options.build_user.as_deref())?) } else { None };
        if let Some(user) = &user {
            workdir::open_up(work_dir).map_err(failed("open up"))?;
            users::require_passable(work_dir, user)?;
        }
        let cgroups = Cgroups::detect(&workdir::instance(work_dir).map_err(failed("inspect"))?);
        cgroups.limit_cpu(options.cpu_max_percent).map_err(ExecError::io("limit the processor time of builds"))?;
        let capabilities = Capabilities {
            build_user: user.as_ref().map_or_else(users::own_name, |user| user.name.clone()),
            cgroup: cgroups.any(),
            memory_limit: cgroups.limits("memory"),
            cpu_limit: cgroups.limits("cpu"),
            process_limit: cgroups.limits("pids"),
            own_user: user.is_some(),
            sandbox: false,
            netns: false,
            closed_ports: false,
            unable: None,
            notes: Vec::new(),
            work_dir: work_dir.clone(),
            cpu_max_percent: options.cpu_max_percent,
        };
        let (trees, synced_ms) = (Arc::default(), Mutex::default());
        let inner = Inner { options, user, cgroups, bubblewrap: None, capabilities, trees, synced_ms };
        let mut launcher = Self { inner: Arc::new(inner) };
        // A host that cannot build is still a good member of the hive, so this is told and does not end the agent.
        let unable = launcher.probe(Isolation::default()).await.err();
        let mut sandbox = None;
        let mut why_not = "switched off".to_owned();
        if launcher.inner.options.sandbox {
            match find_bubblewrap() {
                None => why_not = "bubblewrap is not installed".to_owned(),
                Some(path) => {
                    match launcher.probe(Isolation { bubblewrap: Some(path.clone()), ..Isolation::default() }).await {
                        Ok(()) => sandbox = Some(path),
                        Err(why) => why_not = format!("bubblewrap does not work here: {why}"),
                    }
                }
            }
        }
        let bubblewrap = sandbox.clone();
        let netns = bubblewrap.is_some()
            && launcher
                .probe(Isolation { bubblewrap: bubblewrap.clone(), cut_off: true, ..Isolation::default() })
                .await
                .is_ok();
        // In the sandbox where there is one: both have to work together.
        let ports = launcher.inner.options.closed_ports.clone();
        let closed =
            launcher.probe(Isolation { bubblewrap, closed_ports: ports.clone(), ..Isolation::default() }).await;
        if let Some(inner) = Arc::get_mut(&mut launcher.inner) {
            let capabilities = &mut inner.capabilities;
            capabilities.unable = unable;
            capabilities.sandbox = sandbox.is_some();
            capabilities.netns = netns;
            capabilities.closed_ports = closed.is_ok() && !ports.is_empty();
            capabilities.notes =
                capabilities.lacks(&why_not, &closed.err().unwrap_or_else(|| "none are named".to_owned()));
            inner.bubblewrap = sandbox;
        }
        Ok(launcher)
    }

    pub(super) fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }

    /// Owner of files that a program has made, and of the directory once a step is over.
    pub(super) fn build_uid(&self) -> u32 {
        self.inner.user.as_ref().map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid)
    }

    /// Whether a program can be started here like this; the error says why not.
    async fn probe(&self, probe: Isolation) -> Result<(), String> {
        let mut tried = self.probe_once(probe.clone()).await;
        for _ in 1..PROBE_TRIES {
            if tried.is_ok() {
                break;
            }
            tokio::time::sleep(PROBE_PAUSE).await;
            tried = self.probe_once(probe.clone()).await;
        }
        tried
    }

    async fn probe_once(&self, probe: Isolation) -> Result<(), String> {
        let made = workdir::probe_directory(&self.inner.options.work_dir, self.inner.user.as_ref());
        let directory = made.map_err(|error| format!("{}: {error}", self.inner.options.work_dir.display()))?;
        let order = self.order(Wanted {
            attempt_dir: &directory,
            directory: "",
            argv: &["true".to_owned()],
            environment: BTreeMap::new(),
            group: None,
            limits: cgroup::Limits::default(),
            isolation: probe,
        });
        let outcome = async {
            let (mut child, mut output) = self.spawn(&order).await?;
            let mut text = String::new();
            output.read_to_string(&mut text).await?;
            let status = child.wait().await?;
            io::Result::Ok((status, text))
        };
        match tokio::time::timeout(PROBE_TIMEOUT, outcome).await {
            Ok(Ok((status, _))) if status.success() => Ok(()),
            Ok(Ok((status, text))) => Err(match shim::find_failure(&text, &order.nonce) {
                Some((_, message)) => message,
                None => format!("{status}: {}", text.trim().chars().take(300).collect::<String>()),
            }),
            Ok(Err(error)) => Err(format!("{}: {error}", self.inner.options.program.display())),
            Err(_) => Err("no answer within 20 s".to_owned()),
        }
    }

    fn order(&self, wanted: Wanted<'_>) -> Order {
        let options = &self.inner.options;
        let capabilities = &self.inner.capabilities;
        let mut hidden_dirs = options.hidden_dirs.clone();
        hidden_dirs.push(options.work_dir.clone());
        let (attempt_dir, directory) = (wanted.attempt_dir, wanted.directory);
        let (processes_max, memory_bytes) = (wanted.limits.processes, wanted.limits.memory_bytes);
        Order {
            nonce: hex::encode(rand::random::<[u8; 16]>()),
            cgroup_procs: wanted.group.map(Group::procs_files).unwrap_or_default(),
            user: self.inner.user.clone(),
            nice: options.nice.clamp(0, 19),
            files_max: options.files_max,
            // Counted per user over all its builds, so only where nothing better is there.
            processes_max: (!capabilities.process_limit && processes_max > 0).then_some(processes_max),
            data_max_bytes: (!capabilities.memory_limit && memory_bytes > 0).then_some(memory_bytes),
            closed_ports: wanted.isolation.closed_ports,
            directory: if directory.is_empty() { attempt_dir.to_owned() } else { attempt_dir.join(directory) },
            argv: wanted.argv.to_vec(),
            environment: wanted.environment,
            sandbox: wanted.isolation.bubblewrap.map(|bubblewrap| Sandbox {
                bubblewrap,
                attempt_dir: attempt_dir.to_owned(),
                temporary_dir: attempt_dir.join("tmp"),
                hidden_dirs,
                network: options.network && !wanted.isolation.cut_off,
            }),
        }
    }

    async fn spawn(&self, order: &Order) -> io::Result<(Child, pipe::Receiver)> {
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(&self.inner.options.program);
        command
            .arg("build-shim")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        // The command holds our copies of the writing end; the output ends only when they are closed.
        drop(command);
        let text = serde_json::to_vec(order)?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(&text).await?;
            input.shutdown().await?;
        }
        Ok((child, pipe::Receiver::from_owned_fd(reader.into())?))
    }

    /// Directory of an attempt; it was made before.
    fn attempt_dir(&self, token: Token) -> Result<PathBuf, ExecError> {
        let directory = self.inner.options.work_dir.join(token.to_string());
        match fs::symlink_metadata(&directory) {
            Ok(metadata) if metadata.is_dir() => Ok(directory),
            Ok(_) => Err(ExecError::Refused(format!("{} is not a directory", directory.display()))),
            Err(error) => Err(ExecError::io(format!("inspect {}", directory.display()))(error)),
        }
    }

    /// Starts one program. What belongs to `owner` in the attempt's directory is handed to the build user, and back afterwards
    /// when `owner` is not root, who needs no such thing.
    pub(super) async fn start(&self, step: Step, owner: u32) -> Result<Running, ExecError> {
        step.check().map_err(ExecError::Refused)?;
        let trees = Arc::clone(&self.inner.trees).try_read_owned();
        let trees =
            trees.map_err(|_| ExecError::Refused("the package tree of this node is being synced".to_owned()))?;
        let token = step.token.to_string();
        let directory = self.attempt_dir(step.token)?;
        if let Some(user) = &self.inner.user {
            let handed = users::hand_over(&directory, owner, (user.uid, user.gid)).await;
            handed.map_err(ExecError::io(format!("hand over {}", directory.display())))?;
        }
        let options = &self.inner.options;
        let memory_mb = if step.memory_max_mb > 0 { step.memory_max_mb } else { options.memory_default_mb };
        let limits = cgroup::Limits { memory_bytes: memory_mb << 20, processes: u64::from(step.processes_max) };
        let group = self.inner.cgroups.any().then(|| self.inner.cgroups.create(&token, limits)).transpose();
        let group = group.map_err(ExecError::io("limit the build by a cgroup"))?;
        let mut environment = self.environment(&step, &directory);
        let mut argv = step.argv;
        let mut place = None;
        if let Some(PortageStep::Merge { atom }) = &step.portage {
            let made = self.make_place(&token).await?;
            environment.extend(made.1);
            argv = options.portage.merge_argv(atom);
            place = Some(made.0);
        }
        let capabilities = &self.inner.capabilities;
        // Portage has sandboxes of its own, fetches its sources itself, and drops root for the phases of a build.
        let bubblewrap = self.inner.bubblewrap.clone().filter(|_| step.sandbox && place.is_none());
        let cut_off = step.cut_off && place.is_none();
        // Without this host's network its ports are out of reach anyway.
        let apart = cut_off && bubblewrap.is_some() && capabilities.netns;
        let closes = capabilities.closed_ports && !step.own_tool && !apart && place.is_none();
        let closed_ports = if closes { options.closed_ports.clone() } else { Vec::new() };
        let mut order = self.order(Wanted {
            attempt_dir: &directory,
            directory: &step.directory,
            argv: &argv,
            environment,
            group: group.as_ref(),
            limits,
            isolation: Isolation { bubblewrap, cut_off, closed_ports },
        });
        if let Some(place) = &place {
            (order.user, order.processes_max) = (None, None);
            order.directory.clone_from(place);
            order.environment.insert("HOME".to_owned(), place.join("tmp").to_string_lossy().into_owned());
        }
        let (child, pipe) = self.spawn(&order).await.map_err(ExecError::io("start the build"))?;
        let stop = CancellationToken::new();
        let (chunks, output) = mpsc::channel(CHUNKS_MAX);
        let (report, ended) = oneshot::channel();
        let reader = tasks::spawn("build-output", read(pipe, chunks, stop.clone()));
        let supervised = Supervised {
            launcher: self.clone(),
            token,
            directory,
            place,
            group,
            nonce: order.nonce,
            owner,
            _trees: trees,
        };
        tasks::spawn("build-step", supervised.run(child, reader, stop.clone(), report));
        Ok(Running { output, ended, guard: stop.clone().drop_guard(), stop })
    }

    /// What a program is given, made from nothing.
    fn environment(&self, step: &Step, directory: &Path) -> BTreeMap<String, String> {
        let mut environment: BTreeMap<String, String> = step.secrets.variables().collect();
        environment.extend([
            ("PATH".to_owned(), SAFE_PATH.to_owned()),
            ("HOME".to_owned(), directory.join("home").to_string_lossy().into_owned()),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
            ("HIVE_JOB".to_owned(), step.job.to_string()),
            ("HIVE_ATTEMPT".to_owned(), step.token.to_string()),
        ]);
        environment.extend(step.environment.clone());
        if step.portage.is_some() {
            environment.extend(self.inner.options.portage.variables());
        }
        environment
    }

    /// Makes root's directory of an attempt, and what Portage is told about it.
    async fn make_place(&self, token: &str) -> Result<(PathBuf, BTreeMap<String, String>), ExecError> {
        if self.inner.user.is_none() {
            return Err(ExecError::NoPrivilege { act: "emerge, which installs what a package needs," });
        }
        let place = portage::place(&self.inner.options.work_dir, token);
        let made = match users::remove_tree(&place).await {
            Ok(()) => portage::prepare(&place),
            Err(error) => Err(error),
        };
        let variables = made.map_err(ExecError::io(format!("make {}", place.display())))?;
        Ok((place, variables))
    }

    /// Ends everything of this attempt. Answers how many processes could not be ended.
    async fn sweep(&self, token: &str, directory: &Path, group: Option<&Group>) -> u32 {
        // What works in root's directory of an attempt is of that attempt, whoever it runs as.
        let mut places = vec![(portage::place(&self.inner.options.work_dir, token), None)];
        places.extend(self.inner.user.as_ref().map(|user| (directory.to_owned(), Some(user.uid))));
        for round in 0..SWEEP_ROUNDS {
            let (name, places, known) = (token.to_owned(), places.clone(), group.cloned());
            let found = tokio::task::spawn_blocking(move || {
                if let Some(group) = &known {
                    group.kill();
                }
                // Reading every process is slow on a busy host; members of a cgroup are known without.
                let strays = sweep::marked(&name, &places);
                sweep::kill(&strays);
                known.map(|group| group.members().len()).unwrap_or(0).max(strays.len())
            });
            let left = found.await.unwrap_or(usize::MAX);
            if left == 0 {
                return 0;
            }
            if round + 1 == SWEEP_ROUNDS {
                return u32::try_from(left).unwrap_or(u32::MAX);
            }
            tokio::time::sleep(SWEEP_PAUSE).await;
        }
        0
    }

    /// Ends what runs of all attempts; their directories stay.
    pub(super) async fn end_all(&self) {
        for (token, group) in self.inner.cgroups.existing() {
            let directory = self.inner.options.work_dir.join(&token);
            let survivors = self.sweep(&token, &directory, Some(&group)).await;
            group.remove();
            tracing::info!(token, survivors, "a build that a former helper started was ended");
        }
    }

    /// Ends builds of a former life of the agent and removes their directories. Answers their tokens.
    pub(super) async fn reap_leftovers(&self) -> Vec<String> {
        let mut tokens: BTreeMap<String, Option<Group>> =
            self.inner.cgroups.existing().into_iter().map(|(token, group)| (token, Some(group))).collect();
        let work_dir = &self.inner.options.work_dir;
        let places = fs::read_dir(work_dir.with_file_name("portage")).into_iter().flatten();
        for entry in fs::read_dir(work_dir).into_iter().flatten().chain(places).flatten() {
            if let Some(name) = entry.file_name().to_str().filter(|name| name.parse::<Token>().is_ok()) {
                tokens.entry(name.to_owned()).or_default();
            }
        }
        let mut reaped = Vec::new();
        for (token, group) in tokens {
            let directory = self.inner.options.work_dir.join(&token);
            let survivors = self.sweep(&token, &directory, group.as_ref()).await;
            let cgroup_removed = group.as_ref().is_none_or(Group::remove);
            let removed = if token.parse::<Token>().is_ok() {
                let place = portage::place(&self.inner.options.work_dir, &token);
                users::remove_tree(&directory).await.and(users::remove_tree(&place).await)
            } else {
                Ok(())
            };
            tracing::info!(token, survivors, cgroup_removed, ?removed, "leftover build of a former life ended");
            reaped.push(token);
        }
        reaped
    }
}

/// What one running program is accompanied by.
struct Supervised {
    launcher: Launcher,
    token: String,
    directory: PathBuf,
    place: Option<PathBuf>,
    group: Option<Group>,
    nonce: String,
    owner: u32,
    _trees: OwnedRwLockReadGuard<()>,
}

impl Supervised {
    fn watch(&self) -> Watch {
        let places = std::iter::once(self.directory.clone()).chain(self.place.clone()).collect();
        Watch::new(places, self.group.clone(), self.launcher.inner.options.attempt_disk_max_bytes)
    }

    /// SIGTERM for all of it, and SIGKILL when the time is over.
    async fn end(&self, child: &mut Child) -> io::Result<std::process::ExitStatus> {
        let leader = child.id();
        if let Some(leader) = leader {
            sweep::signal_group(leader, Signal::TERM);
        }
        let grace = Duration::from_millis(self.launcher.inner.options.grace_ms.min(3_000));
        match tokio::time::timeout(grace, child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                if let Some(leader) = leader {
                    sweep::signal_group(leader, Signal::KILL);
                }
                if let Some(group) = &self.group {
                    group.kill();
                }
                child.wait().await
            }
        }
    }

    async fn run(
        self,
        mut child: Child,
        reader: tokio::task::JoinHandle<String>,
        stop: CancellationToken,
        report: oneshot::Sender<Exit>,
    ) {
        let leader = child.id();
        let mut watch = self.watch();
        let ended = tokio::select! {
            status = child.wait() => Ok(status),
            () = stop.cancelled() => Err(None),
            outgrown = watch.outgrown() => Err(Some(outgrown)),
        };
        let (status, stopped, outgrown) = match ended {
            Ok(status) => (status, false, watch.at_the_end().await),
            Err(outgrown) => (self.end(&mut child).await, outgrown.is_none(), outgrown),
        };
        if let Some(leader) = leader {
            // The leader is gone; its group may live on. Nobody else can have its number while the group exists.
            if let Some(pid) = rustix::process::Pid::from_raw(leader.cast_signed()) {
                rustix::process::kill_process_group(pid, Signal::KILL).ok();
            }
        }
        let survivors = self.launcher.sweep(&self.token, &self.directory, self.group.as_ref()).await;
        let oom_kills = self.group.as_ref().map_or(0, Group::oom_kills);
        if self.group.as_ref().is_some_and(|group| !group.remove()) {
            tracing::warn!(token = self.token, "cgroup of a build is not empty");
        }
        let mut reader = reader;
        let tail = match tokio::time::timeout(DRAIN_TIMEOUT, &mut reader).await {
            Ok(Ok(tail)) => tail,
            Ok(Err(_)) | Err(_) => {
                reader.abort();
                String::new()
            }
        };
        if let (Some(place), Some(user)) = (&self.place, &self.launcher.inner.user) {
            let uid = if self.owner == 0 { user.uid } else { self.owner };
            if let Err(error) = portage::close(place, &self.directory, (uid, user.gid)).await {
                tracing::error!(token = self.token, %error, "what emerge left was not handed out");
            }
        }
        if let Some(user) = self.launcher.inner.user.as_ref().filter(|_| self.owner != 0) {
            let back = users::hand_over(&self.directory, user.uid, (self.owner, user.gid)).await;
            if let Err(error) = back {
                tracing::error!(token = self.token, %error, "directory of a build was not handed back");
            }
        }
        let (code, signal) = match &status {
            Ok(status) => (status.code(), status.signal()),
            Err(_) => (None, None),
        };
        let shim = shim::find_failure(&tail, &self.nonce);
        let exit = Exit { code, signal, oom_kills, shim, stopped, outgrown, survivors };
        if report.send(exit).is_err() {
            tracing::debug!(token = self.token, "nobody waits for the end of this program");
        }
    }
}

/// Passes the output on; when nobody wants it any more, the program is stopped. Answers its end.
async fn read(mut pipe: pipe::Receiver, chunks: mpsc::Sender<Bytes>, stop: CancellationToken) -> String {
    let mut tail: Vec<u8> = Vec::new();
    let mut buffer = vec![0u8; CHUNK_BYTES];
    loop {
        let length = match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        tail.extend_from_slice(&buffer[..length]);
        if tail.len() > 2 * TAIL_BYTES {
            tail.drain(..tail.len() - TAIL_BYTES);
        }
        if chunks.send(Bytes::copy_from_slice(&buffer[..length])).await.is_err() {
            stop.cancel();
            // Read on without keeping anything, so that a last word does not block its writer.
            while matches!(pipe.read(&mut buffer).await, Ok(length) if length > 0) {}
            break;
        }
    }
    String::from_utf8_lossy(&tail).into_owned()
}

fn find_bubblewrap() -> Option<PathBuf> {
    SAFE_PATH.split(':').map(|directory| Path::new(directory).join("bwrap")).find(|path| path.is_file())
}
