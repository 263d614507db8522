//! Packages of the role: by this process when it may, through the helper when it may not.
//!
//! Never done here: choosing packages (the role does) or running a package manager.

use super::shared::Shared;
use crate::config::PackagesMode;
use crate::engine::role::Family;
use crate::exec::packages::{LocalRunner, Mode, PackagesState, apply};

/// The mode as the installer knows it.
pub fn mode(configured: PackagesMode) -> Mode {
    match configured {
        PackagesMode::Off => Mode::Off,
        PackagesMode::DryRun => Mode::DryRun,
        PackagesMode::On => Mode::On,
    }
}

/// Installs (or rehearses, or leaves alone), and returns the text of `packages_state`.
pub async fn install(shared: &Shared, distro: &str, packages: &[String]) -> String {
    let family = Family::of_distro(distro);
    let mode = mode(shared.config.packages);
    let mut log = |line: &str| tracing::debug!(line, "package manager");
    let state = match (mode, family) {
        (Mode::On, Some(family)) if shared.executor.needs_helper() => {
            match shared.executor.install_packages(family, packages.to_vec(), &mut log).await {
                Ok(state) => state,
                Err(error) => PackagesState::Failed(error.to_string()),
            }
        }
        (mode, family) => apply(mode, family, packages, &LocalRunner, &mut log).await,
    };
    if let PackagesState::DryRun(would) = &state {
        tracing::info!(packages = would.len(), "rehearsal only: these would be installed; set packages = \"on\" to install them");
    }
    state.to_string()
}
