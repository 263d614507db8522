//! Packages of the role: as root when this node can act as root, else as far as asking goes.
//!
//! Never done here: choosing packages (the role does) or running a package manager.

use super::shared::Shared;
use crate::config::PackagesMode;
use crate::engine::role::Family;
use crate::exec::packages::{LocalRunner, Mode, PackagesState, apply};

/// Pieces of output that wait for the log.
const OUTPUT_WAITING: usize = 64;

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
    let mut log = |line: &str| tracing::debug!(line, "package manager");
    let state = match (mode, family) {
        (Mode::On, Some(family)) if shared.executor.acts_as_root() => as_root(shared, family, packages).await,
        (mode, family) => apply(mode, family, packages, &LocalRunner, &mut log).await,
    };
    if let PackagesState::DryRun(would) = &state {
        tracing::info!(
            packages = would.len(),
            "rehearsal only: these would be installed; set packages = \"on\" to install them"
        );
    }
    state.to_string()
}

/// What is installed now is there before a build's dependencies are, and the other way round: the executor keeps them in turn.
async fn as_root(shared: &Shared, family: Family, packages: &[String]) -> PackagesState {
    let (output, mut chunks) = tokio::sync::mpsc::channel(OUTPUT_WAITING);
    let install = shared.executor.install_packages(family, packages.to_vec(), output);
    let listen = async {
        while let Some(bytes) = chunks.recv().await {
            for line in String::from_utf8_lossy(&bytes).lines() {
                tracing::debug!(line, "package manager");
            }
        }
    };
    let (result, ()) = tokio::join!(install, listen);
    result.unwrap_or_else(|error| PackagesState::Failed(error.to_string()))
}
