//! Commands about nodes and the hive: status, peers, identity, explain, listen, recover.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use super::args::IdentityVerb;
use super::client::{Client, segment};
use super::output::{Failure, Outcome, Ui};
use super::render;
use super::text::{Colour, clean};
use crate::api::{ErrorCode, Explanation, Identity, PeersFile, RecoverReport, RecoverRequest, Status};

/// Exit code of `hive status --check` when something is degraded.
const EXIT_DEGRADED: u8 = 6;
/// Longest line of `hive listen` that is buffered, bytes: a datagram of 1,200 bytes, described generously.
const LISTEN_LINE_MAX_LEN: usize = 64 << 10;

/// `hive status`.
pub(crate) async fn status(ui: &Ui, client: &Client, check: bool) -> Outcome {
    let answer = client.get::<Status>("/api/v1/status").await?;
    ui.answer(&answer, |status| render::status(status, ui.paint))?;
    if !check {
        return Ok(0);
    }
    let reasons = render::degradations(&answer.data);
    if reasons.is_empty() {
        return Ok(0);
    }
    ui.remark(&format!("degraded: {}", reasons.join("; ")));
    Ok(EXIT_DEGRADED)
}

/// `hive peers`.
pub(crate) async fn peers(ui: &Ui, client: &Client) -> Outcome {
    let answer = client.get::<PeersFile>("/api/v1/peers").await?;
    ui.answer(&answer, |peers| render::peers(peers, ui.paint))?;
    Ok(0)
}

/// `hive identity …`
pub(crate) async fn identity(ui: &Ui, client: &Client, verb: IdentityVerb) -> Outcome {
    let answer = match verb {
        IdentityVerb::Show | IdentityVerb::Explain => client.get::<Identity>("/api/v1/identity").await?,
        IdentityVerb::Reset => {
            ui.show_progress("asking the hive …");
            let answer = client.post::<Identity>("/api/v1/identity/reset", &json!({})).await;
            ui.clear_progress();
            answer?
        }
    };
    ui.answer(&answer, |identity| match verb {
        IdentityVerb::Show | IdentityVerb::Reset => render::identity(identity, ui.paint),
        IdentityVerb::Explain => render::identity_explained(identity, ui.paint),
    })?;
    Ok(0)
}

/// `hive explain`. The beginning of a job's id is enough here too.
pub(crate) async fn explain(ui: &Ui, client: &Client, what: &str) -> Outcome {
    let answer = match client.get::<Explanation>(&format!("/api/v1/explain/{}", segment(what))).await {
        Err(error) if error.code == ErrorCode::NotFound => match super::queue::resolve(client, what).await {
            Ok(job) => client.get::<Explanation>(&format!("/api/v1/explain/{job}")).await?,
            Err(_) => return Err(error.into()),
        },
        other => other?,
    };
    ui.answer(&answer, |explanation| render::explanation(explanation, ui.paint))?;
    Ok(0)
}

/// `hive listen`: until interrupted, or until the agent ends.
pub(crate) async fn listen(ui: &Ui, client: &Client) -> Outcome {
    let mut stream = client.stream("/api/v1/listen", true).await?;
    if !ui.json {
        ui.remark("listening; end with Ctrl-C");
    }
    let mut pending: Vec<u8> = Vec::new();
    loop {
        match stream.next().await {
            Ok(Some(bytes)) => pending.extend_from_slice(&bytes),
            Ok(None) => return Ok(0),
            Err(error) => {
                let message = format!("the agent hung up: {error}");
                return Err(Failure::new(ErrorCode::Unreachable, message, "it has ended or was restarted"));
            }
        }
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            if ui.json {
                ui.bytes(&line)?;
            } else if let Ok(value) = serde_json::from_slice::<Value>(&line) {
                ui.text(&datagram(&value, ui))?;
            }
        }
        if pending.len() > LISTEN_LINE_MAX_LEN {
            pending.clear();
        }
    }
}

/// One datagram on one line: the well-known fields first, whatever else there is as `key=value`.
fn datagram(value: &Value, ui: &Ui) -> String {
    let Some(fields) = value.as_object() else { return clean(&value.to_string()).into_owned() };
    let text = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        clean(&text).into_owned()
    };
    let mut words = Vec::new();
    for known in ["at", "direction", "from", "to", "wire", "kind", "verdict"] {
        if let Some(value) = fields.get(known).filter(|value| !value.is_null()) {
            let shown = text(value);
            let shown = match (known, shown.as_str()) {
                ("at", _) => shown.get(11..23).map_or(shown.clone(), str::to_owned),
                ("verdict", "verified" | "ok") => ui.paint.paint(Colour::Good, &shown),
                ("verdict", _) => ui.paint.paint(Colour::Bad, &shown),
                ("kind", _) => ui.paint.paint(Colour::Strong, &shown),
                _ => shown,
            };
            words.push(shown);
        }
    }
    for (key, value) in fields {
        if !["at", "direction", "from", "to", "wire", "kind", "verdict"].contains(&key.as_str()) && !value.is_null() {
            words.push(format!("{}={}", clean(key), text(value)));
        }
    }
    words.join(" ")
}

/// `hive recover`: shows what would happen, asks, does it.
pub(crate) async fn recover(ui: &Ui, client: &Client, yes: bool) -> Outcome {
    let path = "/api/v1/recover";
    if !yes {
        let plan = client.post::<RecoverReport>(path, &RecoverRequest { confirm: false }).await?;
        if ui.json {
            ui.answer(&plan, |_| String::new())?;
            ui.remark("nothing was changed; add --yes to begin the new epoch");
            return Ok(0);
        }
        ui.text(&render::recovery(&plan.data, ui.paint))?;
        if !confirmed().await? {
            return Err(Failure::new(
                ErrorCode::Conflict,
                "nothing was changed",
                "answer `yes`, or add --yes, to begin the new epoch",
            ));
        }
    }
    let report = client.post::<RecoverReport>(path, &RecoverRequest { confirm: true }).await?;
    ui.answer(&report, |report| render::recovery(report, ui.paint))?;
    Ok(0)
}

async fn confirmed() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    // A person who has gone away must not find the epoch begun by a cat on the keyboard the next morning.
    const PATIENCE: Duration = Duration::from_secs(600);
    let ask = tokio::task::spawn_blocking(|| {
        let mut err = std::io::stderr().lock();
        let _ = write!(err, "Begin a new epoch? Type yes: ").and_then(|()| err.flush());
        drop(err);
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line.trim() == "yes")
    });
    match tokio::time::timeout(PATIENCE, ask).await {
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(Ok(Err(error))) => Err(Failure::internal(format!("cannot read the answer: {error}"), "add --yes")),
        Ok(Err(_)) | Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::text::Paint;

    #[test]
    fn datagrams_are_shown_on_one_harmless_line() {
        let ui = Ui { json: false, paint: Paint(false), terminal: false, progress: false };
        let value = json!({
            "at": "2025-11-08T12:34:56.789Z", "direction": "in", "from": "10.0.0.2:50555", "kind": "HELLO",
            "verdict": "wrong secret", "hostname": "x\u{1b}[2Jy", "bytes": 620, "empty": null,
        });
        assert_eq!(
            datagram(&value, &ui),
            "12:34:56.789 in 10.0.0.2:50555 HELLO wrong secret bytes=620 hostname=x\\u{1b}[2Jy"
        );
    }
}
