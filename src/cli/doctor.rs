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
use crate::config::{ConfigError, Flags, Loaded, Surroundings, load};

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
    ui.show_progress("asking the agent …");
    let status: ApiResult<Status> = client.get("/api/v2/status").await.map(|answer| answer.data);
    let facts: ApiResult<DoctorFacts> = client.get("/api/v2/doctor").await.map(|answer| answer.data);
    // Of an agent on another machine nothing can be seen from here but what it says itself.
    let here = (!client.is_remote()).then(|| Files {
        config: load(surroundings, args.config.as_deref(), &Flags::new()),
        named: args.config.is_some(),
        facts: facts.as_ref().ok(),
    });
    checks.extend(here.as_ref().map(Files::config_check));
    checks.push(judge::agent(&status));
    if let Some(files) = &here {
        let port = files.port();
        checks.push(ports::check(port, status.is_ok()));
        // An agent that answers may have been started with other flags than this command knows.
        let http = files.own().map(|own| own.config.http.port()).filter(|http| *http != 0 && status.is_err());
        checks.extend(http.map(ports::check_http));
        checks.extend(files.secret_check());
        ui.show_progress("looking at the firewall …");
        checks.push(firewall::check(port, COMMAND_TIMEOUT).await);
    }
    match (&facts, &status) {
        (Ok(facts), _) => checks.extend(judge::facts(facts, status.as_ref().ok())),
        (Err(error), Ok(_)) => checks.push(Check::warn("facts", error.message.clone(), error.hint.clone())),
        // The agent's silence is said once.
        (Err(_), Err(_)) => {}
    }
    if let Ok(status) = &status {
        checks.extend(judge::status(status));
    }
    ui.clear_progress();
    let worst = checks.iter().map(|check| check.state).max().unwrap_or(Severity::Ok);
    ui.data(&json!({ "worst": worst, "checks": checks }), || shown(&checks, ui.paint))?;
    Ok(if worst == Severity::Fail { EXIT_BROKEN } else { 0 })
}

/// Configuration and secret on this machine.
struct Files<'a> {
    /// As whoever asks would start an agent.
    config: Result<Loaded, ConfigError>,
    /// The configuration file was named on the command line.
    named: bool,
    /// What the agent says; none when it does not answer.
    facts: Option<&'a DoctorFacts>,
}

impl Files<'_> {
    fn own(&self) -> Option<&Loaded> {
        self.config.as_ref().ok()
    }

    /// The agent's files, where they are others than those of whoever asks: another user, with files that mean nothing to it.
    fn anothers(&self) -> Option<&DoctorFacts> {
        let facts = self.facts.filter(|facts| facts.secret_file.is_some() && !self.named)?;
        let same = self.own().is_some_and(|own| {
            facts.config_file == own.file && facts.secret_file.as_ref() == Some(&own.config.secret_file)
        });
        (!same).then_some(facts)
    }

    fn port(&self) -> u16 {
        let configured = self.own().map_or(crate::config::DEFAULT_PORT, |own| own.config.port);
        self.facts.map_or(configured, |facts| facts.port)
    }

    fn config_check(&self) -> Check {
        match (self.anothers(), &self.config) {
            (Some(facts), _) => match &facts.config_file {
                Some(file) => Check::ok("config", format!("the agent has read {}", file.display())),
                None => Check::ok("config", "the agent has no file and takes the defaults"),
            },
            (None, Ok(own)) => Check::ok("config", format!("good; state in {}", own.config.state_dir.display())),
            (None, Err(error)) => Check::fail("config", error.to_string(), "correct it, then: systemctl restart hive"),
        }
    }

    fn secret_check(&self) -> Option<Check> {
        let agents = self.facts.and_then(|facts| facts.secret_file.as_deref());
        let file = agents.or(self.own().map(|own| own.config.secret_file.as_path()))?;
        // Whether a weak one is allowed is for the agent's configuration to say, which has let it start.
        let weak_allowed = self.anothers().is_some() || self.own().is_some_and(|own| own.config.weak_secret);
        let known = self.facts.and_then(|facts| facts.secret_fingerprint.as_deref());
        Some(judge::secret(file, weak_allowed, known))
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
