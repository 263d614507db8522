//! Where the agent's log goes: standard error, for the service manager, and the newest lines into memory, for other nodes.
//!
//! Never done here: deciding what is worth a line.

use crate::config::Config;
use crate::exec::console::journal::AgentLog;

/// Begins to log.
pub(super) fn init(config: &Config, agent_log: &AgentLog) {
    // A plain level is about hive; libraries speak up only when something is wrong.
    let configured = match config.log.level.contains(['=', ',']) {
        true => config.log.level.clone(),
        // Of a voter that is away, openraft says so five times a second; hive itself says it once.
        false => format!("warn,openraft::core::heartbeat=error,hive={}", config.log.level),
    };
    let filter = std::env::var("RUST_LOG").unwrap_or(configured);
    let filter =
        tracing_subscriber::EnvFilter::try_new(&filter).unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let agent_log = agent_log.clone();
    let writer = move || agent_log.tee();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    let result = if config.log.json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
    // A second subscriber is only there in tests that run an agent in their own process.
    drop(result);
}
