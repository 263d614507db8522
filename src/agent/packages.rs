//! Packages of the role: by this process when it may, through the helper when it may not.
//!
//! Never done here: choosing packages (the role does) or running a package manager.

use super::shared::Shared;
use crate::config::PackagesMode;
use crate::engine::role::Family;
use crate::exec::Family as Installer;
use crate::exec::packages::{LocalRunner, Mode, PackagesState, apply};

/// Pieces of output that wait for the log; a slow log slows the package manager down.
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
    let state = match (mode, family, shared.executor.has_helper()) {
        (Mode::On, Some(family), true) => by_helper(shared, family, packages).await,
        (mode, family, _) => apply(mode, family, packages, &LocalRunner, &mut log).await,
    };
    if let PackagesState::DryRun(would) = &state {
        tracing::info!(
            packages = would.len(),
            "rehearsal only: these would be installed; set packages = \"on\" to install them"
        );
    }
    state.to_string()
}

/// The helper runs as root what this process may not; its output goes to the log.
async fn by_helper(shared: &Shared, family: Family, packages: &[String]) -> PackagesState {
    let installer = match family {
        Family::Debian => Installer::Apt,
        Family::Gentoo => Installer::Portage,
    };
    let (output, mut lines) = tokio::sync::mpsc::channel(OUTPUT_WAITING);
    let mut last = String::new();
    let install = shared.executor.install_packages(installer, packages.to_vec(), output);
    let listen = async {
        while let Some(bytes) = lines.recv().await {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            tracing::debug!(text = text.trim_end(), "package manager");
            if let Some(line) = text.lines().rfind(|line| !line.trim().is_empty()) {
                last = line.to_owned();
            }
        }
    };
    let (result, ()) = tokio::join!(install, listen);
    match result {
        Ok(true) => PackagesState::Installed(Vec::new()),
        Ok(false) => PackagesState::Failed(last),
        Err(error) => PackagesState::Failed(error.to_string()),
    }
}
