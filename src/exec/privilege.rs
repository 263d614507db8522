//! How this agent gets done what it may not do itself: directly as root, through the helper, or not at all.
//!
//! All three ways offer the same acts, and the first two run the same code with the same checks. A helper that is away makes this
//! host unable to build until [`Executor::refresh`] finds it again. Never done here: falling back from a helper to anything else.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::acts;
use super::helper::client::Client;
use super::launch::{Exit, Launcher, Running, Step};
use super::packages::PackagesState;
use super::{Capabilities, ExecError, Options};
use crate::engine::role::Family;

/// Where root's acts come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// This process is root.
    Direct,
    /// A helper listens on this Unix socket.
    Helper(PathBuf),
    /// There is none: builds run as this process's own user, packages and addresses are refused.
    None,
}

impl Privilege {
    /// The helper when one is named, else root when this is root, else nothing.
    pub fn detect(helper: Option<PathBuf>) -> Self {
        match helper {
            Some(socket) => Self::Helper(socket),
            None if rustix::process::geteuid().is_root() => Self::Direct,
            None => Self::None,
        }
    }
}

/// How long a start waits for a helper that starts in the same moment.
const HELPER_WAIT: Duration = Duration::from_secs(3);
/// Pause between two looks for it.
const HELPER_PAUSE: Duration = Duration::from_millis(100);

enum Way {
    Local { launcher: Launcher, root: bool },
    Helper(Client),
}

/// Everything that runs programs on this host. One per agent.
pub struct Executor {
    options: Options,
    way: Way,
    capabilities: RwLock<Arc<Capabilities>>,
    /// What a former life of this agent left still runs, because the helper was away.
    reap_due: AtomicBool,
    trees: Arc<tokio::sync::RwLock<()>>,
}

impl Executor {
    /// Prepares this host for builds: makes the work directory, and finds out by trying what can be limited and isolated. A helper
    /// that does not answer is no error: this host is unable to build until it does.
    pub async fn open(options: Options, privilege: Privilege) -> Result<Self, ExecError> {
        let (way, capabilities) = match privilege {
            Privilege::Helper(socket) => {
                let client = Client::new(socket);
                let capabilities = wait_for(&client, &options).await;
                (Way::Helper(client), capabilities)
            }
            Privilege::Direct | Privilege::None => {
                let launcher = Launcher::open(options.clone()).await?;
                let capabilities = launcher.capabilities().clone();
                (Way::Local { launcher, root: rustix::process::geteuid().is_root() }, capabilities)
            }
        };
        Ok(Self {
            options,
            way,
            capabilities: RwLock::new(Arc::new(capabilities)),
            reap_due: AtomicBool::new(false),
            trees: Arc::default(),
        })
    }

    /// The settings it was opened with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Root's acts can be had, directly or through a helper.
    pub fn acts_as_root(&self) -> bool {
        matches!(self.way, Way::Helper(_) | Way::Local { root: true, .. })
    }

    /// What builds can be limited and isolated by.
    pub fn capabilities(&self) -> Arc<Capabilities> {
        Arc::clone(&self.capabilities.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a helper does what needs root, which may go and come back.
    pub fn has_helper(&self) -> bool {
        matches!(self.way, Way::Helper(_))
    }

    /// Asks the helper again what it can do. True when that has changed.
    pub async fn refresh(&self) -> bool {
        let Way::Helper(client) = &self.way else { return false };
        let mut found = ask(client, &self.options).await.unwrap_or_else(|error| away(&error));
        if found.unable.is_none() && self.reap_due.load(Ordering::Acquire) {
            match client.reap().await {
                Ok(_) => self.reap_due.store(false, Ordering::Release),
                Err(error) => found = away(&error),
            }
        }
        let mut known = self.capabilities.write().unwrap_or_else(PoisonError::into_inner);
        let changed = **known != found;
        *known = Arc::new(found);
        changed
    }

    /// Ends builds that a former life of this agent left, and removes their directories. Call it before the first build. Where the
    /// helper is away it is done once that is back, and before anything can be built.
    pub async fn reap_leftovers(&self) -> Result<Vec<String>, ExecError> {
        match &self.way {
            Way::Local { launcher, .. } => Ok(launcher.reap_leftovers().await),
            Way::Helper(_) if self.capabilities().unable.is_some() => {
                self.reap_due.store(true, Ordering::Release);
                Ok(Vec::new())
            }
            Way::Helper(client) => client.reap().await,
        }
    }

    /// Installs packages as root, those that are missing; output goes to `output` as it comes. An error means that nothing was
    /// tried, a failed installation is a [`PackagesState`].
    pub async fn install_packages(
        &self,
        family: Family,
        names: Vec<String>,
        output: mpsc::Sender<Bytes>,
    ) -> Result<PackagesState, ExecError> {
        match &self.way {
            Way::Local { root: true, .. } => acts::install(family, names, output).await,
            Way::Local { root: false, .. } => Err(ExecError::NoPrivilege { act: "installing packages" }),
            Way::Helper(client) => client.install(family, names, output).await,
        }
    }

    /// Syncs this host's package trees as root, by their own configuration; output goes to `output` as it comes. Refused while an
    /// attempt runs here; one that begins meanwhile waits ([`Executor::tree_held`]).
    pub async fn sync_trees(&self, output: mpsc::Sender<Bytes>) -> Result<(), ExecError> {
        let Ok(_alone) = self.trees.try_write() else {
            return Err(ExecError::Busy);
        };
        match &self.way {
            Way::Local { launcher, root: true } => launcher.sync_trees(output).await,
            Way::Local { root: false, .. } => Err(ExecError::NoPrivilege { act: "syncing the package tree" }),
            Way::Helper(client) => client.sync_trees(output).await,
        }
    }

    /// While this is held the package trees stay as they are. Waits for a sync to end.
    pub(super) async fn tree_held(&self) -> tokio::sync::OwnedRwLockReadGuard<()> {
        Arc::clone(&self.trees).read_owned().await
    }

    /// Gives a network interface of this host one more address.
    pub async fn claim_address(&self, interface: &str, cidr: &str) -> Result<(), ExecError> {
        match &self.way {
            Way::Local { root: true, .. } => acts::claim_address(&self.options, interface, cidr).await,
            Way::Local { root: false, .. } => Err(ExecError::NoPrivilege { act: "claiming an address" }),
            Way::Helper(client) => client.claim_address(interface, cidr).await,
        }
    }

    pub(super) async fn start(&self, step: Step) -> Result<Running, ExecError> {
        match &self.way {
            Way::Local { launcher, .. } => launcher.start(step, rustix::process::geteuid().as_raw()).await,
            Way::Helper(client) => {
                let started = client.start(step).await;
                // The next build is not to find this out again.
                if let Err(error @ ExecError::Helper { .. }) = &started {
                    *self.capabilities.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(away(error));
                }
                started
            }
        }
    }

    /// Whose the files are that a finished step made.
    pub(super) fn file_owner(&self) -> u32 {
        match &self.way {
            Way::Local { launcher, .. } => launcher.build_uid(),
            Way::Helper(_) => rustix::process::geteuid().as_raw(),
        }
    }
}

/// Gives a helper that starts together with the agent the time to listen.
async fn wait_for(client: &Client, options: &Options) -> Capabilities {
    let until = tokio::time::Instant::now() + HELPER_WAIT;
    loop {
        match ask(client, options).await {
            Ok(capabilities) => return capabilities,
            Err(error) if tokio::time::Instant::now() >= until => return away(&error),
            Err(_) => tokio::time::sleep(HELPER_PAUSE).await,
        }
    }
}

async fn ask(client: &Client, options: &Options) -> Result<Capabilities, ExecError> {
    let mut found = client.capabilities().await?;
    if found.unable.is_none() {
        found.unable = disagreement(&found, options).or_else(|| unwritable(&options.work_dir));
        if let Some(why) = &found.unable {
            found.notes = vec![format!("none can be started, so none is given to it: {why}")];
        }
    }
    if let Some(wanted) = options.build_user.as_ref().filter(|wanted| **wanted != found.build_user) {
        found.notes.push(format!(
            "they run as {}, because the helper does not know yet that build.user is {wanted}: systemctl restart hive-helper",
            found.build_user
        ));
    }
    if options.cpu_max_percent != found.cpu_max_percent {
        found.notes.push(
            "the helper does not know yet what build.cores was changed to: systemctl restart hive-helper".to_owned(),
        );
    }
    Ok(found)
}

/// The helper reads the same file, but only when it starts, and only a file that is root's.
fn disagreement(found: &Capabilities, options: &Options) -> Option<String> {
    (found.work_dir != options.work_dir).then(|| {
        format!(
            "the helper works in {}, the agent in {}; start both again: systemctl restart hive-helper hive",
            found.work_dir.display(),
            options.work_dir.display()
        )
    })
}

/// The agent makes a directory per attempt, so it tries one.
fn unwritable(work_dir: &Path) -> Option<String> {
    let probe = work_dir.join(format!(".agent-{}", std::process::id()));
    let tried = std::fs::create_dir(&probe).and_then(|()| std::fs::remove_dir(&probe));
    match tried {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Some(format!(
            "the agent cannot write to {0}: {error}; its unit needs a drop-in with ReadWritePaths={0}",
            work_dir.display()
        )),
        _ => None,
    }
}

/// What a host can do whose helper does not answer.
fn away(error: &ExecError) -> Capabilities {
    let source = std::error::Error::source(error).map(|source| format!(" ({source})")).unwrap_or_default();
    let why = format!("{error}{source}");
    let notes = vec![format!("none can be started until the helper answers: {why}")];
    Capabilities { unable: Some(why), notes, ..Capabilities::default() }
}

impl Exit {
    /// It ended by itself, and well.
    pub(super) fn succeeded(&self) -> bool {
        self.code == Some(0) && !self.stopped && self.shim.is_none()
    }
}
