//! Everything hive decides, as pure code: events and the time go in, effects and the next wake-up come out.
//!
//! ```text
//!   datagrams, connections, timers          committed log entries
//!              │                                    │
//!              ▼                                    ▼
//!   founding · ballot · beacon · health      state::apply ──► replies, changes
//!              │                                    │
//!              ▼                                    ▼ (read only)
//!      send, dial, found, claim             scheduler · voters ──► commands to propose, and a report why
//! ```
//!
//! The rules that keep it deterministic: no clock, no file, no socket, no random source but the one handed in, no
//! iteration in hash order, no floating point in [`state`]. Time is `now_ms`, milliseconds of a monotonic clock with an
//! arbitrary origin; [`UnixMillis`](id::UnixMillis) is for people only and never decides anything.

pub mod id;

pub mod access;
pub mod audit;
pub mod command;
pub mod control;
pub mod drafts;
pub mod drone;
pub mod job;
pub mod legacy;
pub mod member;
pub mod session;
pub mod staging;

pub mod ballot;
pub mod beacon;
pub mod buildlog;
pub mod event;
pub mod forecast;
pub mod founding;
pub mod grammar;
pub mod harmless;
pub mod health;
pub mod import;
pub mod keeping;
pub mod past;
pub mod plan;
pub mod policy;
pub mod role;
pub mod scheduler;
pub mod standing;
pub mod state;
pub mod trees;
pub mod voters;
pub mod wire;

#[cfg(all(test, feature = "node"))]
mod fuzz;
