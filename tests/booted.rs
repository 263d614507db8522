//! Agents on machines that boot: each test starts whole operating systems (systemd or OpenRC as process 1) on the lab's bridge, brings
//! hive onto them the way an administrator does, and kills, restarts and reboots them.
//!
//! Needs root (a failure with a message otherwise, never a skip). `tests/roots.sh` builds the machines' file systems on the first run.
//!
//! What stands in for what: containers of systemd-nspawn stand in for machines, so there is no kernel, disk or firmware of their own;
//! a seed directory stands in for a cloud's metadata service; a directory of real packages stands in for the distribution's archive.

#![cfg(feature = "node")]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout
)]

/// Nodes that are no more than a network namespace: the hive that booted machines join.
#[allow(dead_code, reason = "shared with the tests of the lab, which use the rest")]
#[path = "lab/harness.rs"]
mod lab;

#[path = "booted/harness.rs"]
mod harness;

#[path = "booted/gentoo.rs"]
mod gentoo;
#[path = "sample/gpkg.rs"]
mod gpkg;
#[path = "booted/openrc.rs"]
mod openrc;
#[path = "booted/systemd.rs"]
mod systemd;
