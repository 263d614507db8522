//! hive: one binary that turns machines into a build cluster that runs itself.
//!
//! ```text
//!              main ─► cli ─► agent ─► config, tasks              shell: wires and supervises, decides nothing
//!                               │
//!    ┌───────────┬───────┬──────┼───────┬────────┬───────┐
//! discovery    mesh  consensus store   exec    blobs    web       adapters: do IO, decide nothing
//!    └───────────┴───────┴──────┼───────┴────────┴───────┘
//!                               ▼
//!                             engine                              decides, does no IO
//! ```
//!
//! Arrows say who may import whom. Small vocabularies are shared by all adapters and import nothing but
//! `engine`: [`api`] (what people and scripts see), `transport` (streams between nodes), `keyring` (who may speak), `certificates`, `clock`,
//! `ports` (who holds a port) and `tasks`. `tests/architecture.rs` reads the tree and fails on an arrow that points the other way.

pub mod engine;

pub mod api;
pub mod config;

#[cfg(feature = "node")]
pub mod certificates;
#[cfg(feature = "node")]
pub mod clock;
#[cfg(feature = "node")]
pub mod keyring;
#[cfg(feature = "node")]
pub mod ports;
#[cfg(feature = "node")]
pub mod transport;
#[cfg(feature = "node")]
pub mod wire;

#[cfg(feature = "node")]
pub mod blobs;
#[cfg(feature = "node")]
pub mod consensus;
#[cfg(feature = "node")]
pub mod discovery;
#[cfg(feature = "node")]
pub mod exec;
#[cfg(feature = "node")]
pub mod mesh;
#[cfg(feature = "node")]
pub mod store;
#[cfg(feature = "node")]
pub mod web;

#[cfg(feature = "node")]
pub mod agent;
#[cfg(feature = "node")]
pub mod cli;
#[cfg(feature = "node")]
pub mod tasks;

#[cfg(all(test, feature = "node"))]
mod fuzzing;
