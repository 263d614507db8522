//! Packages of the role: as root when this node can act as root, else as far as asking goes.
//!
//! After an installation the role's health check is run, because a package that is there may still not work. Never done here: choosing
//! packages (the role does) or running a package manager.

use std::collections::VecDeque;
use std::time::Duration;

use super::shared::Shared;
use crate::config::PackagesMode;
use crate::engine::role::Family;
use crate::exec::packages::{LocalRunner, Mode, PackagesState, apply, health_check};

/// Between what was done about the packages and why the check failed, in `packages_state`.
const CHECK_FAILED: &str = "; check failed: ";
/// Pieces of output that wait for the log.
const OUTPUT_WAITING: usize = 64;
/// Most time for the health check of a role.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);
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

/// Whether this is the `packages_state` of a node that has what its role needs.
pub(super) fn is_fit(state: &str) -> bool {
    state == PackagesState::Installed(Vec::new()).to_string()
}

/// Whether this `packages_state` tells of something that did not work.
pub(super) fn is_trouble(state: &str) -> bool {
    state.starts_with("failed") || state.contains(CHECK_FAILED)
}

/// What a failed check adds to what was done about the packages.
fn checked(state: &PackagesState, check: Result<(), String>) -> String {
    match check {
        Ok(()) => state.to_string(),
        Err(why) => format!("{state}{CHECK_FAILED}{why}"),
    }
}

/// Installs (or rehearses, or leaves alone), then runs the role's check on what is there, and returns the text of `packages_state`.
pub(super) async fn install(shared: &Shared, distro: &str, packages: &[String], check: &[String]) -> String {
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
    // Without the packages the check can only say that they are not there.
    if !matches!(state, PackagesState::Installed(_)) {
        return state.to_string();
    }
    let result = health_check(check, CHECK_TIMEOUT).await;
    if let Err(why) = &result {
        tracing::warn!(why, "the health check of the role failed");
    }
    checked(&state, result)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_is_told_and_tried_again_although_the_packages_are_there() {
        let installed = PackagesState::Installed(vec!["maven".to_owned()]);
        let good = checked(&installed, Ok(()));
        assert_eq!(good, "installed");
        assert!(is_fit(&good) && !is_trouble(&good));
        let bad = checked(&installed, Err("mvn: not found (exit code 127)".to_owned()));
        assert_eq!(bad, "installed; check failed: mvn: not found (exit code 127)");
        assert!(!is_fit(&bad) && is_trouble(&bad));
        let failed = PackagesState::Failed("apt-get: no network".to_owned()).to_string();
        assert!(!is_fit(&failed) && is_trouble(&failed));
        assert!(!is_trouble("off") && !is_trouble("dry-run"));
    }
}
