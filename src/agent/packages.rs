//! Packages of the role: as root when this node can act as root, else as far as asking goes.
//!
//! Never done here: choosing packages (the role does) or running a package manager.

use std::collections::VecDeque;

use super::shared::Shared;
use crate::config::PackagesMode;
use crate::engine::role::Family;
use crate::exec::packages::{LocalRunner, Mode, PackagesState, apply};

/// Pieces of output that wait for the log.
const OUTPUT_WAITING: usize = 64;
/// Lines that are shown when an installation failed.
const LAST_LINES: usize = 30;

/// What the package manager says: all of it for who debugs, its end for who wants to know why it failed.
#[derive(Default)]
struct Said {
    last: VecDeque<String>,
}

impl Said {
    fn line(&mut self, line: &str) {
        tracing::debug!(line, "package manager");
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
    }
}

/// The mode as the installer knows it.
pub(super) fn mode(configured: PackagesMode) -> Mode {
    match configured {
        PackagesMode::Off => Mode::Off,
        PackagesMode::DryRun => Mode::DryRun,
        PackagesMode::On => Mode::On,
    }
}

/// Installs (or rehearses, or leaves alone), and returns the text of `packages_state`.
pub(super) async fn install(shared: &Shared, distro: &str, packages: &[String]) -> String {
    let family = Family::of_distro(distro);
    let mode = mode(shared.config.packages);
    let mut said = Said::default();
    let state = match (mode, family) {
        (Mode::On, Some(family)) if shared.executor.acts_as_root() => {
            as_root(shared, family, packages, &mut said).await
        }
        (mode, family) => apply(mode, family, packages, &LocalRunner, &mut |line| said.line(line)).await,
    };
    if matches!(state, PackagesState::Failed(_)) {
        for line in &said.last {
            tracing::warn!(line, "package manager");
        }
    }
    if let PackagesState::DryRun(would) = &state {
        tracing::info!(
            packages = would.len(),
            "rehearsal only: these would be installed; set packages = \"on\" to install them"
        );
    }
    state.to_string()
}

/// What is installed now is there before a build's dependencies are, and the other way round: the executor keeps them in turn.
async fn as_root(shared: &Shared, family: Family, packages: &[String], said: &mut Said) -> PackagesState {
    let (output, mut chunks) = tokio::sync::mpsc::channel(OUTPUT_WAITING);
    let install = shared.executor.install_packages(family, packages.to_vec(), output);
    let listen = async {
        while let Some(bytes) = chunks.recv().await {
            for line in String::from_utf8_lossy(&bytes).lines() {
                said.line(line);
            }
        }
    };
    let (result, ()) = tokio::join!(install, listen);
    result.unwrap_or_else(|error| PackagesState::Failed(error.to_string()))
}
