//! Whose fault an end is. A wrong answer here counts against a package or a drone that did nothing.
//!
//! Never done here: looking at anything but what was handed in.

use crate::engine::job::FailureClass;
use crate::exec::disk::Outgrown;
use crate::exec::launch::Exit;
use crate::exec::shim::ShimFailure;

/// Why an attempt did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) class: FailureClass,
    pub(super) reason: String,
    pub(super) exit_code: Option<i32>,
}

/// Phrases of the C library and of tools for a disk or quota that is full.
const DISK_FULL: [&str; 3] = ["No space left on device", "Disk quota exceeded", "Read-only file system (os error 30)"];
/// Signals by which a program ends itself, or is ended for what it did.
const OWN_SIGNALS: [i32; 9] = [3, 4, 5, 6, 7, 8, 11, 25, 31];

fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        _ => return format!("signal {signal}"),
    };
    name.to_owned()
}

/// The program did not even start.
pub(super) fn not_started(program: &str, kind: ShimFailure, message: &str) -> Failure {
    match kind {
        ShimFailure::Setup => Failure::infra(format!("this node could not set up the build: {message}")),
        // A name is looked up among what is installed; a path names a file of the sources.
        ShimFailure::Missing if program.contains('/') => {
            Failure::build(format!("{program} is not in the sources")).with_code(Some(127))
        }
        ShimFailure::Missing => {
            let reason = format!("{program} is not installed on this node; install it, or require it by a label");
            Failure::policy(reason).with_code(Some(127))
        }
        ShimFailure::Denied => Failure::build(message).with_code(Some(126)),
    }
}

/// It was stopped because the attempt took more disk than this host gives to one: like memory, another host may have more.
pub(super) fn outgrown(outgrown: &Outgrown) -> Failure {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let (took, limit) = (mib(outgrown.bytes), mib(outgrown.limit_bytes));
    Failure::infra(format!(
        "disk limit: it took {took} MiB where it works, and this node gives {limit} to one attempt (build.disk_max_mb)"
    ))
}

/// A program that ran and ended. None when it succeeded.
pub(super) fn judge(program: &str, exit: &Exit, tail: &str, disk_is_low: bool) -> Option<Failure> {
    if exit.succeeded() {
        return None;
    }
    let code = exit.code;
    if exit.oom_kills > 0 {
        return Some(Failure::infra(format!("{program} ran out of memory")).with_code(code));
    }
    if disk_is_low || DISK_FULL.iter().any(|phrase| tail.contains(phrase)) {
        return Some(Failure::infra(format!("the disk is full where {program} worked")).with_code(code));
    }
    Some(match (code, exit.signal) {
        (Some(code), _) if code == 128 + 9 => {
            // A shell or sandbox passes on that something inside was killed, which no build does to itself.
            Failure::infra(format!("{program} or a part of it was killed from outside (exit code {code})"))
                .with_code(Some(code))
        }
        (Some(code), _) => Failure::build(format!("{program} ended with exit code {code}")).with_code(Some(code)),
        (None, Some(signal)) if OWN_SIGNALS.contains(&signal) => {
            Failure::build(format!("{program} crashed with {}", signal_name(signal)))
        }
        (None, Some(signal)) => Failure::infra(format!("{program} was ended from outside by {}", signal_name(signal))),
        (None, None) => Failure::infra(format!("{program} was lost: the helper that ran it went away")),
    })
}

/// A program that fetches sources: what it says tells a missing source from a network that failed.
pub(super) fn judge_fetch(what: &str, exit: &Exit, tail: &str, disk_is_low: bool) -> Option<Failure> {
    const NETWORK: [&str; 12] = [
        "Could not resolve",
        "Temporary failure",
        "Connection refused",
        "Connection timed out",
        "Connection reset",
        "Network is unreachable",
        "No route to host",
        "timed out",
        "early EOF",
        "Failed to fetch",
        "Could not connect",
        "unexpected disconnect",
    ];
    let failure = judge(what, exit, tail, disk_is_low)?;
    if failure.class != FailureClass::Build {
        return Some(failure);
    }
    let said = tail
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| line.starts_with("fatal:") || line.starts_with("E:") || line.starts_with("error:"));
    let reason = format!("{what}: {}", said.unwrap_or("failed, see the log"));
    if NETWORK.iter().any(|phrase| tail.contains(phrase)) {
        return Some(Failure::infra(reason).with_code(failure.exit_code));
    }
    Some(Failure::policy(reason).with_code(failure.exit_code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: Option<i32>, signal: Option<i32>) -> Exit {
        Exit { code, signal, ..Exit::default() }
    }

    #[test]
    fn ends_are_blamed_on_whom_they_should() {
        use FailureClass::{Build, Infra};
        let class = |exit: &Exit, tail: &str, low: bool| judge("make", exit, tail, low).map(|failure| failure.class);
        assert_eq!(class(&exit(Some(0), None), "No space left on device", false), None);
        assert_eq!(class(&exit(Some(2), None), "error: expected ';'", false), Some(Build));
        assert_eq!(class(&exit(Some(2), None), "cp: No space left on device", false), Some(Infra));
        assert_eq!(class(&exit(Some(2), None), "", true), Some(Infra));
        assert_eq!(class(&exit(Some(137), None), "", false), Some(Infra));
        assert_eq!(class(&exit(None, Some(11)), "", false), Some(Build));
        assert_eq!(class(&exit(None, Some(9)), "", false), Some(Infra));
        assert_eq!(class(&exit(None, Some(15)), "", false), Some(Infra));
        assert_eq!(class(&exit(None, None), "", false), Some(Infra));
        let large = outgrown(&Outgrown { bytes: (7 << 20) + 1, limit_bytes: 4 << 20 });
        assert!(large.class == Infra && large.reason.starts_with("disk limit: it took 8 MiB"), "{}", large.reason);
        let starved = Exit { oom_kills: 1, ..exit(Some(2), None) };
        assert_eq!(class(&starved, "", false), Some(Infra));
        assert_eq!(judge("x", &exit(Some(7), None), "", false).expect("failed").exit_code, Some(7));
    }

    #[test]
    fn a_missing_source_is_told_from_a_missing_network() {
        let class = |tail: &str| judge_fetch("git", &exit(Some(128), None), tail, false).expect("failed").class;
        assert_eq!(class("fatal: repository '/x' does not exist"), FailureClass::Policy);
        assert_eq!(class("fatal: unable to access 'https://x/': Could not resolve host: x"), FailureClass::Infra);
        assert_eq!(class("E: Unable to find a source package for nosuch"), FailureClass::Policy);
        let reason = judge_fetch("git", &exit(Some(128), None), "a\nfatal: no\nb", false).expect("failed").reason;
        assert_eq!(reason, "git: fatal: no");
    }

    #[test]
    fn a_missing_program_is_policy_and_a_missing_script_is_the_sources_fault() {
        assert_eq!(not_started("cmake", ShimFailure::Missing, "cmake").class, FailureClass::Policy);
        assert_eq!(not_started("./build.sh", ShimFailure::Missing, "./build.sh").class, FailureClass::Build);
        assert_eq!(not_started("x", ShimFailure::Setup, "cgroup").class, FailureClass::Infra);
    }
}
