//! `hive-helper`: the one part of hive that is root and talks to no network.
//!
//! It listens on a Unix socket, asks the kernel who is at the other end, and does a closed list of acts for the agent's user,
//! each checked by rules of its own: a compromised agent can start programs as the build user, install packages of the
//! distribution, add addresses and, now and then, sync the package trees as they are configured, and nothing else. Never done here: believing a path, a user or an environment from the agent.

pub mod client;
pub mod protocol;
pub mod server;

#[cfg(test)]
mod fuzz;
