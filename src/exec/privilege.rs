//! How this agent gets done what it may not do itself: directly as root, through the helper, or not at all.
//!
//! All three ways offer the same acts, and the first two run the same code with the same checks. Never done here: falling back
//! from a helper to anything else when it does not answer.

use std::path::PathBuf;

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

enum Way {
    Local { launcher: Launcher, root: bool },
    Helper(Client),
}

/// Everything that runs programs on this host. One per agent.
pub struct Executor {
    options: Options,
    way: Way,
    capabilities: Capabilities,
}

impl Executor {
    /// Prepares this host for builds: makes the work directory, and finds out by trying what can be limited and isolated.
    pub async fn open(options: Options, privilege: Privilege) -> Result<Self, ExecError> {
        let (way, capabilities) = match privilege {
            Privilege::Helper(socket) => {
                let client = Client::new(socket);
                let capabilities = client.capabilities().await?;
                (Way::Helper(client), capabilities)
            }
            Privilege::Direct | Privilege::None => {
                let launcher = Launcher::open(options.clone()).await?;
                let capabilities = launcher.capabilities().clone();
                (Way::Local { launcher, root: rustix::process::geteuid().is_root() }, capabilities)
            }
        };
        Ok(Self { options, way, capabilities })
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
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Ends builds that a former life of this agent left, and removes their directories. Call it before the first build.
    pub async fn reap_leftovers(&self) -> Result<Vec<String>, ExecError> {
        match &self.way {
            Way::Local { launcher, .. } => Ok(launcher.reap_leftovers().await),
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
            Way::Helper(client) => client.start(step).await,
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

impl Exit {
    /// It ended by itself, and well.
    pub(super) fn succeeded(&self) -> bool {
        self.code == Some(0) && !self.stopped && self.shim.is_none()
    }
}
