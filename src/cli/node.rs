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

/// Exit code of `hive status --check` when something is degraded, a missing quorum included: 7 is for what needed one.
const EXIT_DEGRADED: u8 = 6;
/// Longest line of `hive listen` that is buffered, bytes: a datagram of 1,200 bytes, described generously.
const LISTEN_LINE_MAX_LEN: usize = 64 << 10;

/// `hive status`.
pub(crate) async fn status(ui: &Ui, client: &Client, check: bool) -> Outcome {
    let answer = client.get::<Status>("/api/v2/status").await?;
    ui.answer(&answer, |status| render::status(status, ui.paint))?;
    if !check {
        return Ok(0);
    }
    let reasons = &answer.data.degraded;
    if reasons.is_empty() {
        return Ok(0);
    }
    ui.remark(&format!("degraded: {}", clean(&reasons.join(", "))));
    Ok(EXIT_DEGRADED)
}

/// `hive peers`.
pub(crate) async fn peers(ui: &Ui, client: &Client) -> Outcome {
    let answer = client.get::<PeersFile>("/api/v2/peers").await?;
    ui.answer(&answer, |peers| render::peers(peers, ui.paint))?;
    Ok(0)
}

/// `hive identity …`
pub(crate) async fn identity(ui: &Ui, client: &Client, verb: IdentityVerb) -> Outcome {
    let answer = match verb {
        IdentityVerb::Show | IdentityVerb::Explain => client.get::<Identity>("/api/v2/identity").await?,
        IdentityVerb::Reset => {
            ui.show_progress("asking the hive …");
            let answer = client.post::<Identity>("/api/v2/identity/reset", &json!({})).await;
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
    let answer = match client.get::<Explanation>(&format!("/api/v2/explain/{}", segment(what))).await {
        Err(error) if error.code == ErrorCode::NotFound => match super::queue::resolve(client, what).await {
            Ok(job) => client.get::<Explanation>(&format!("/api/v2/explain/{job}")).await?,
            Err(_) => return Err(error.into()),
        },
        other => other?,
    };
    ui.answer(&answer, |explanation| render::explanation(explanation, ui.paint))?;
    Ok(0)
}

/// `hive listen`: until interrupted, or until the agent ends.
pub(crate) async fn listen(ui: &Ui, client: &Client) -> Outcome {
    let mut stream = client.stream("/api/v2/listen", true).await?;
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

/// One datagram on one line: time, direction and the other end, kind, what it says, and why it was refused.
fn datagram(value: &Value, ui: &Ui) -> String {
    if let Some(missed) = value["missed"].as_u64() {
        return ui.paint.paint(Colour::Dim, &format!("({missed} datagrams came faster than they could be shown)"));
    }
    let text = |key: &str| value[key].as_str().map(|text| clean(text).into_owned());
    let time = text("at").and_then(|at| at.get(11..23).map(str::to_owned)).unwrap_or_else(|| "-".to_owned());
    let direction = if value["sent"] == true { "to  " } else { "from" };
    let kind = text("kind").unwrap_or_else(|| "unreadable".to_owned());
    let kind = match value["wire"].as_u64() {
        Some(1) => format!("{kind} (v1)"),
        Some(_) | None => kind,
    };
    let address = text("address").unwrap_or_else(|| "-".to_owned());
    let mut line =
        format!("{time}  {direction} {address:<22} {}", ui.paint.paint(Colour::Strong, &format!("{kind:<10}")));
    if let Some(summary) = text("summary").filter(|summary| !summary.is_empty()) {
        line.push_str(&format!(" {summary}"));
    }
    match text("refused") {
        Some(refused) => line.push_str(&ui.paint.paint(Colour::Bad, &format!("  refused: {refused}"))),
        None if value["verified"] == false => line.push_str(&ui.paint.paint(Colour::Doubtful, "  not verified")),
        None => {}
    }
    line
}

/// `hive recover`: shows what would happen, asks, does it.
pub(crate) async fn recover(ui: &Ui, client: &Client, yes: bool) -> Outcome {
    let path = "/api/v2/recover";
    if !yes {
        let plan = client.post::<RecoverReport>(path, &RecoverRequest { confirm: false }).await?;
        if ui.json {
            ui.answer(&plan, |_| String::new())?;
            ui.remark("nothing was changed; add --yes to begin the new epoch");
            return Ok(0);
        }
        ui.text(&render::recovery(&plan.data, ui.paint))?;
        if !confirmed("Begin a new epoch?").await? {
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

/// Whether a person in front of this terminal says yes; nobody is there when standard input is none.
pub(crate) async fn confirmed(question: &'static str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    // A person who has gone away must not find it done by a cat on the keyboard the next morning.
    const PATIENCE: Duration = Duration::from_secs(600);
    let ask = tokio::task::spawn_blocking(move || {
        let mut err = std::io::stderr().lock();
        let _ = write!(err, "{question} Type yes: ").and_then(|()| err.flush());
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
            "at": "2025-11-08T12:34:56.789Z", "sent": false, "address": "10.0.0.2:50555", "wire": 2, "kind": "HELLO",
            "key_id": "01020304", "verified": false, "refused": "wrong_secret", "size": 620, "summary": "x\u{1b}[2Jy",
        });
        assert_eq!(
            datagram(&value, &ui),
            "12:34:56.789  from 10.0.0.2:50555         HELLO      x\\u{1b}[2Jy  refused: wrong_secret"
        );
        let sent = json!({ "at": "2025-11-08T12:34:56.789Z", "sent": true, "address": "everybody", "wire": 1, "kind": "DISCOVER",
                           "verified": true, "refused": null, "summary": "build1" });
        assert_eq!(datagram(&sent, &ui), "12:34:56.789  to   everybody              DISCOVER (v1) build1");
        assert_eq!(datagram(&json!({ "missed": 3 }), &ui), "(3 datagrams came faster than they could be shown)");
    }
}
