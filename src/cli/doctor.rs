//! `hive doctor`: what is wrong, why, and the command that mends it.
//!
//! Looks at this machine by itself (configuration, ports, secret, firewall), asks the agent for the rest, and judges. Changes
//! nothing.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::args::DoctorArgs;
use super::client::Client;
use super::output::{Outcome, Ui};
use super::text::{Colour, Paint, clean, clean_lines};
use crate::api::{ApiResult, DoctorFacts, Status};
use crate::config::{Config, ConfigError, Flags, Surroundings, load};

mod firewall;
mod judge;
mod ports;

/// Exit code when something is broken.
const EXIT_BROKEN: u8 = 6;
/// Longest time for the firewall's own commands.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// Fine.
    Ok,
    /// Worth a look.
    Warn,
    /// Broken.
    Fail,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What was looked at.
    pub(crate) name: &'static str,
    /// How bad it is.
    pub(crate) state: Severity,
    /// What was found.
    pub(crate) cause: String,
    /// The command that mends it; empty when there is nothing to do.
    pub(crate) remedy: String,
}

impl Check {
    pub(crate) fn ok(name: &'static str, cause: impl Into<String>) -> Self {
        Self { name, state: Severity::Ok, cause: cause.into(), remedy: String::new() }
    }

    pub(crate) fn warn(name: &'static str, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state: Severity::Warn, cause: cause.into(), remedy: remedy.into() }
    }

    pub(crate) fn fail(name: &'static str, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state: Severity::Fail, cause: cause.into(), remedy: remedy.into() }
    }
}

/// `hive doctor`.
pub(crate) async fn doctor(ui: &Ui, client: &Client, surroundings: &Surroundings, args: DoctorArgs) -> Outcome {
    let mut checks = Vec::new();
    let config = load(surroundings, args.config.as_deref(), &Flags::new()).map(|loaded| loaded.config);
    checks.push(config_check(&config));
    let config = config.ok();
    ui.show_progress("asking the agent …");
    let status: ApiResult<Status> = client.get("/api/v1/status").await.map(|answer| answer.data);
    let facts: ApiResult<DoctorFacts> = client.get("/api/v1/doctor").await.map(|answer| answer.data);
    checks.push(judge::agent(&status));
    let port = facts.as_ref().map(|facts| facts.port).ok().or(config.as_ref().map(|config| config.port));
    let port = port.unwrap_or(crate::config::DEFAULT_PORT);
    checks.push(ports::check(port, status.is_ok()));
    // An agent that answers may have been started with other flags than this command knows.
    if let Some(http) = config.as_ref().map(|config| config.http.port()).filter(|http| *http != 0 && status.is_err()) {
        checks.push(ports::check_http(http));
    }
    if let Some(config) = &config {
        let known = facts.as_ref().ok().and_then(|facts| facts.secret_fingerprint.clone());
        checks.push(judge::secret(&config.secret_file, config.weak_secret, known.as_deref()));
    }
    ui.show_progress("looking at the firewall …");
    checks.push(firewall::check(port, COMMAND_TIMEOUT).await);
    if let Ok(facts) = &facts {
        checks.extend(judge::facts(facts, status.as_ref().ok()));
    }
    if let Ok(status) = &status {
        checks.extend(judge::status(status));
    }
    ui.clear_progress();
    let worst = checks.iter().map(|check| check.state).max().unwrap_or(Severity::Ok);
    ui.data(&json!({ "worst": worst, "checks": checks }), || shown(&checks, ui.paint))?;
    Ok(if worst == Severity::Fail { EXIT_BROKEN } else { 0 })
}

fn config_check(config: &Result<Config, ConfigError>) -> Check {
    match config {
        Ok(config) => Check::ok("config", format!("good; state in {}", config.state_dir.display())),
        Err(error) => Check::fail("config", error.to_string(), "correct it, then: systemctl restart hive"),
    }
}

fn shown(checks: &[Check], paint: Paint) -> String {
    let mut out = String::new();
    for check in checks {
        let (word, colour) = match check.state {
            Severity::Ok => ("ok  ", Colour::Good),
            Severity::Warn => ("warn", Colour::Doubtful),
            Severity::Fail => ("FAIL", Colour::Bad),
        };
        let cause = clean_lines(&check.cause).replace('\n', &format!("\n{:18}", ""));
        out.push_str(&format!("{}  {:<10}  {cause}\n", paint.paint(colour, word), clean(check.name)));
        if !check.remedy.is_empty() {
            let remedy = clean_lines(&check.remedy).replace('\n', &format!("\n{:21}", ""));
            out.push_str(&format!("{:18}{} {remedy}\n", "", paint.paint(Colour::Strong, "->")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_lined_up_with_their_remedy_below() {
        let checks = [Check::ok("agent", "answers"), Check::fail("port", "UDP 50555 is held\nby x (pid 7)", "kill 7")];
        assert_eq!(
            shown(&checks, Paint(false)),
            "ok    agent       answers\n\
             FAIL  port        UDP 50555 is held\n                  by x (pid 7)\n                  -> kill 7\n"
        );
    }
}
