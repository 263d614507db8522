//! Real agents on real hosts: each test makes a private network of namespaces, starts agents in it, breaks things, and looks.
//!
//! Needs root (a failure with a message otherwise, never a skip). One lab per test; killing its one process removes every
//! daemon, interface, namespace and mount inside it.

#![cfg(feature = "node")]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout
)]

#[allow(dead_code, reason = "shared with the tests that boot machines")]
#[path = "lab/harness.rs"]
mod harness;

#[path = "lab/building.rs"]
mod building;
#[path = "lab/canaries.rs"]
mod canaries;
#[path = "lab/capture.rs"]
mod capture;
#[allow(dead_code, reason = "shared with the figures")]
#[path = "../benches/figures/client.rs"]
mod client;
#[path = "lab/console.rs"]
mod console;
#[path = "lab/controlling.rs"]
mod controlling;
#[path = "lab/faults.rs"]
mod faults;
#[path = "lab/forming.rs"]
mod forming;
#[path = "sample/gpkg.rs"]
mod gpkg;
#[path = "lab/hostile.rs"]
mod hostile;
#[path = "lab/legacy.rs"]
mod legacy;
#[path = "lab/logs.rs"]
mod logs;
#[path = "lab/malicious.rs"]
mod malicious;
#[path = "lab/mallory.rs"]
mod mallory;
#[path = "lab/operating.rs"]
mod operating;
#[path = "lab/past.rs"]
mod past;
#[path = "lab/people.rs"]
mod people;
#[path = "lab/queueing.rs"]
mod queueing;
#[path = "lab/recovery.rs"]
mod recovery;
#[path = "lab/staging.rs"]
mod staging;
#[path = "lab/steps.rs"]
mod steps;
#[path = "lab/tls.rs"]
mod tls;
#[path = "lab/voting.rs"]
mod voting;
#[path = "lab/wire.rs"]
mod wire;
