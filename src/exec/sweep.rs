//! Finds and ends processes of an attempt that left its process group and session.
//!
//! Where there are cgroups they know all members. Where there are none, a process is known by `HIVE_ATTEMPT` in its
//! environment, or by working as the build user in the attempt's directory, or as anybody in root's own. Never done here: ending anything by its name.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal};

/// Processes with this attempt's marker, and those whose working directory is inside one of `places`: of its user, or of any.
pub(super) fn marked(token: &str, places: &[(PathBuf, Option<u32>)]) -> Vec<i32> {
    let marker = format!("HIVE_ATTEMPT={token}");
    let own = std::process::id().cast_signed();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids =
        entries.flatten().filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    pids.filter(|&pid| {
        if pid == own {
            return false;
        }
        let process = Path::new("/proc").join(pid.to_string());
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        if environment.split(|&byte| byte == 0).any(|variable| variable == marker.as_bytes()) {
            return true;
        }
        // Restricted to the dedicated user: an operator's shell in that directory is left alone.
        let Ok(cwd) = fs::read_link(process.join("cwd")) else { return false };
        places.iter().filter(|(directory, _)| cwd.starts_with(directory)).any(|(_, only_user)| {
            only_user.is_none_or(|uid| fs::metadata(&process).is_ok_and(|metadata| metadata.uid() == uid))
        })
    })
    .filter(|&pid| !is_zombie(pid))
    .collect()
}

/// Processes with this in their environment, `NAME=value`.
pub(super) fn with_variable(marker: &str) -> Vec<i32> {
    let own = std::process::id().cast_signed();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids =
        entries.flatten().filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    let has = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == marker.as_bytes())
    };
    pids.filter(|pid| *pid != own && has(pid) && !is_zombie(*pid)).collect()
}

/// SIGHUP to each, and SIGCONT, so that one that is stopped hears it.
pub(super) fn hang_up(pids: &[i32]) {
    for &pid in pids {
        if let Some(pid) = Pid::from_raw(pid) {
            rustix::process::kill_process(pid, Signal::HUP).ok();
            rustix::process::kill_process(pid, Signal::CONT).ok();
        }
    }
}

/// Dead already, waits to be collected by its parent.
fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the command name, which stands in parentheses and may hold anything.
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

/// Of these, the ones that still run.
pub(super) fn running(pids: Vec<i32>) -> Vec<i32> {
    pids.into_iter().filter(|&pid| Path::new("/proc").join(pid.to_string()).exists() && !is_zombie(pid)).collect()
}

/// SIGKILL to each; those that are gone already are fine.
pub(super) fn kill(pids: &[i32]) {
    for &pid in pids {
        if let Some(pid) = Pid::from_raw(pid) {
            rustix::process::kill_process(pid, Signal::KILL).ok();
        }
    }
}

/// A signal to the process group that `leader` leads, and to the leader itself, which may not lead it yet.
pub(super) fn signal_group(leader: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(leader.cast_signed()) {
        rustix::process::kill_process_group(pid, signal).ok();
        rustix::process::kill_process(pid, signal).ok();
    }
}
