//! The helper's side: accept, check who asks, do, answer.
//!
//! Never done here: anything for a user that is neither the agent's nor root.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};

use super::protocol::{Control, FRAME_MAX, Reply, Request};
use crate::exec::acts;
use crate::exec::launch::{Launcher, Step};
use crate::exec::users;
use crate::exec::{ExecError, Options, workdir};
use crate::tasks;
use crate::transport::{read_frame, write_frame};

/// Connections at once: builds of one machine, and a few short acts.
const CONNECTIONS_MAX: usize = 64;
/// A client says what it wants within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of the helper.
#[derive(Clone, Debug)]
pub struct HelperOptions {
    /// Where it listens. Made anew at each start.
    pub socket: PathBuf,
    /// Name of the user that the agent runs as; it and root are served.
    pub agent_user: String,
    /// As the agent has them: same work directory, hidden directories, build user.
    pub exec: Options,
}

/// Runs the helper until SIGTERM or SIGINT. Entry of `hive helper` and `hive-helper`.
pub fn main(options: HelperOptions) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(until_signal(options)),
        Err(error) => Err(ExecError::Io { action: "start the runtime".to_owned(), source: error }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, source, "the helper ends");
            ExitCode::FAILURE
        }
    }
}

impl Default for HelperOptions {
    fn default() -> Self {
        Self { socket: PathBuf::from("/run/hive/helper.sock"), agent_user: "hive".to_owned(), exec: Options::default() }
    }
}

/// Small command line of its own, for tests and unusual installations: `--socket PATH --agent-user NAME --work-dir PATH
/// [--build-user NAME] [--hide PATH]... [--interface NAME]... [--no-sandbox]`. It changes what `options` says.
pub fn parse(mut options: HelperOptions, arguments: impl Iterator<Item = OsString>) -> Result<HelperOptions, String> {
    let mut hidden = Vec::new();
    let mut arguments = arguments.map(|argument| argument.into_string().map_err(|bad| format!("{bad:?} is not UTF-8")));
    while let Some(flag) = arguments.next().transpose()? {
        if flag == "--no-sandbox" {
            options.exec.sandbox = false;
            continue;
        }
        let value = arguments.next().transpose()?.ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--socket" => options.socket = PathBuf::from(value),
            "--agent-user" => options.agent_user = value,
            "--work-dir" => options.exec.work_dir = PathBuf::from(value),
            "--build-user" => options.exec.build_user = Some(value),
            "--hide" => hidden.push(PathBuf::from(value)),
            "--interface" => options.exec.interfaces.push(value),
            _ => return Err(format!("unknown option {flag}")),
        }
    }
    options.exec.hidden_dirs.extend(hidden);
    Ok(options)
}

async fn until_signal(options: HelperOptions) -> Result<(), ExecError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(ExecError::io("listen for signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ExecError::io("listen for signals"))?;
    let server = Server::open(options).await?;
    tokio::select! {
        result = server.run() => return result,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // A package manager that loses its reader fails in the middle, so what has begun is brought to its end.
    acts::finish_installing().await;
    Ok(())
}

struct Server {
    launcher: Launcher,
    options: Options,
    agent_uid: u32,
    listener: UnixListener,
}

impl Server {
    async fn open(options: HelperOptions) -> Result<Self, ExecError> {
        if !rustix::process::geteuid().is_root() {
            return Err(ExecError::Setting("the helper is of use as root only".to_owned()));
        }
        let agent = users::lookup(&options.agent_user).map_err(ExecError::io("read /etc/passwd"))?;
        let agent = agent.ok_or_else(|| ExecError::Setting(format!("there is no user {}", options.agent_user)))?;
        // The agent makes the directories of attempts; the build user only passes through.
        workdir::make_for(&options.exec.work_dir, &agent)?;
        let launcher = Launcher::open(options.exec.clone()).await?;
        // The agent has given them up when their helper was gone, and nobody reads their output.
        launcher.end_all().await;
        let listener = listen(&options.socket, agent.uid, agent.gid)
            .map_err(ExecError::io(format!("listen on {}", options.socket.display())))?;
        tracing::info!(
            socket = %options.socket.display(),
            agent = agent.name,
            work_dir = %options.exec.work_dir.display(),
            "helper ready"
        );
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::debug!(%error, "the service manager could not be told");
        }
        Ok(Self { launcher, options: options.exec, agent_uid: agent.uid, listener })
    }

    async fn run(self) -> Result<(), ExecError> {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let (stream, _) = self.listener.accept().await.map_err(ExecError::io("accept"))?;
            let uid = match stream.peer_cred() {
                Ok(credentials) => credentials.uid(),
                Err(error) => {
                    tracing::warn!(%error, "a connection without credentials");
                    continue;
                }
            };
            if uid != 0 && uid != self.agent_uid {
                tracing::warn!(uid, "refused: not the agent's user");
                continue;
            }
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                tracing::warn!("refused: too many connections");
                continue;
            };
            let (launcher, options) = (self.launcher.clone(), self.options.clone());
            tasks::spawn("helper-connection", async move {
                if let Err(error) = serve(stream, uid, &launcher, &options).await {
                    tracing::debug!(%error, "connection ended");
                }
                drop(slot);
            });
        }
    }
}

fn listen(socket: &std::path::Path, uid: u32, gid: u32) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(directory) = socket.parent() {
        fs::create_dir_all(directory)?;
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    std::os::unix::fs::chown(socket, Some(uid), Some(gid))?;
    Ok(listener)
}

async fn serve(mut stream: UnixStream, uid: u32, launcher: &Launcher, options: &Options) -> io::Result<()> {
    let request = tokio::time::timeout(REQUEST_TIMEOUT, read_frame::<Request>(&mut stream, FRAME_MAX));
    let request = match request.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))? {
        Ok(request) => request,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return write_frame(&mut stream, &Reply::Refused(format!("not a request: {error}")), FRAME_MAX).await;
        }
        Err(error) => return Err(error),
    };
    let reply = match request {
        Request::Capabilities => Reply::Capabilities(launcher.capabilities().clone()),
        Request::Reap => {
            tracing::info!("ending leftovers");
            Reply::Reaped(launcher.reap_leftovers().await)
        }
        Request::ClaimAddress { interface, cidr } => {
            tracing::info!(interface, cidr, "claiming an address");
            done(acts::claim_address(options, &interface, &cidr).await.map(|()| Reply::Done))
        }
        Request::Install { family, names } => {
            tracing::info!(?family, ?names, "installing packages");
            let (sender, output) = mpsc::channel(16);
            let (result, ()) = tokio::join!(acts::install(family, names, sender), forward(&mut stream, output));
            done(result.map(Reply::Packages))
        }
        Request::SyncTrees => {
            tracing::info!("syncing the package trees");
            let (sender, output) = mpsc::channel(16);
            let (result, ()) = tokio::join!(launcher.sync_trees(sender), forward(&mut stream, output));
            done(result.map(|()| Reply::Done))
        }
        Request::Start(step) => return start(stream, uid, launcher, step).await,
    };
    write_frame(&mut stream, &reply, FRAME_MAX).await
}

/// Output on its way to the agent. One that has gone away holds nothing up.
async fn forward(stream: &mut UnixStream, mut output: mpsc::Receiver<Bytes>) {
    while let Some(chunk) = output.recv().await {
        write_frame(stream, &Reply::output(&chunk), FRAME_MAX).await.ok();
    }
}

fn done(result: Result<Reply, ExecError>) -> Reply {
    result.unwrap_or_else(|error| {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        Reply::Refused(format!("{error}{source}"))
    })
}

async fn start(stream: UnixStream, uid: u32, launcher: &Launcher, step: Step) -> io::Result<()> {
    tracing::info!(token = %step.token, program = step.argv.first(), "starting a build step");
    let (mut reader, mut writer) = stream.into_split();
    let mut running = match launcher.start(step, uid).await {
        Ok(running) => running,
        Err(error) => return write_frame(&mut writer, &done(Err(error)), FRAME_MAX).await,
    };
    write_frame(&mut writer, &Reply::Started, FRAME_MAX).await?;
    // One reader for the whole connection: a frame that was half read when output came would be lost otherwise.
    let stop = running.stop.clone();
    let listener = tasks::spawn("helper-control", async move {
        // Whether it says stop, talks nonsense or goes away: the build ends.
        let control = read_frame::<Control>(&mut reader, FRAME_MAX).await;
        tracing::debug!(?control, "build step is stopped");
        stop.cancel();
    });
    while let Some(chunk) = running.output.recv().await {
        if write_frame(&mut writer, &Reply::output(&chunk), FRAME_MAX).await.is_err() {
            running.stop.cancel();
        }
    }
    let exit = (&mut running.ended).await.map_err(io::Error::other)?;
    listener.abort();
    write_frame(&mut writer, &Reply::Ended(exit), FRAME_MAX).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read_or_refused() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>().into_iter();
        let options =
            parse(HelperOptions::default(), words("--socket /s --agent-user me --work-dir /w --hide /h --no-sandbox"))
                .expect("read");
        assert_eq!(options.agent_user, "me");
        assert!(!options.exec.sandbox);
        assert!(options.exec.hidden_dirs.contains(&PathBuf::from("/h")));
        assert!(parse(HelperOptions::default(), words("--socket")).is_err());
        assert!(parse(HelperOptions::default(), words("--evil x")).is_err());
    }
}
