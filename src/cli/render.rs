//! Answers as text for people: pure functions from the shapes of [`api`](crate::api) to lines that fit 80 columns.
//!
//! Everything foreign goes through [`clean`]; nothing is asked for and nothing written here.

use super::text::{
    Cell, Colour, Paint, cell, clean, clean_lines, duration, left, painted, right, short_duration, table,
};
use crate::api::{Explanation, Identity, MemberState, PeersFile, QueueStatus, RecoverReport, Status, words};

pub(crate) mod access;
pub(crate) mod backup;
pub(crate) mod farm;
pub(crate) mod jobs;

fn state_cell(state: MemberState) -> Cell {
    let colour = match state {
        MemberState::Alive => Colour::Good,
        MemberState::Suspect => Colour::Doubtful,
        MemberState::Down => Colour::Bad,
        MemberState::Left | MemberState::Legacy => Colour::Dim,
    };
    painted(words::member_state(state), colour)
}

fn role(role: Option<&String>) -> &str {
    role.map_or("-", String::as_str)
}

/// `hive status`.
pub(crate) fn status(status: &Status, paint: Paint) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: String| out.push_str(&format!("{label:<12} {text}\n"));
    let hive = status.hive_id.map_or_else(|| "none yet".to_owned(), |id| id.to_string());
    line("hive", paint.paint(Colour::Strong, &hive));
    match &status.coordinator {
        Some(coordinator) => line("coordinator", format!("{} (term {})", clean(&coordinator.name), coordinator.term)),
        None => line("coordinator", paint.paint(Colour::Bad, "none")),
    }
    let quorum = if status.quorum {
        paint.paint(Colour::Good, "yes")
    } else {
        paint.paint(Colour::Bad, "no: builds go on, results wait here, nothing new is accepted")
    };
    line("quorum", quorum);
    let this = &status.this;
    let words = [
        clean(&this.name).into_owned(),
        clean(role(this.role.as_ref())).into_owned(),
        words::phase(this.state).to_owned(),
    ];
    line("this node", format!("{}, up {}, hive {}", words.join(", "), duration(this.uptime_ms), clean(&this.version)));
    let log = &status.log;
    line(
        "log",
        format!("epoch {}, applied {} of {}, {} old", log.epoch, log.applied, log.committed, duration(log.age_ms)),
    );
    line("queue", queue_line(&status.queue, paint));
    if this.artifact_bytes > 0 {
        line("artifacts", format!("{} kept on this node", words::bytes(this.artifact_bytes)));
    }
    let keepers: Vec<_> =
        status.members.iter().filter(|member| member.staging).map(|member| clean(&member.name)).collect();
    if !keepers.is_empty() {
        line("staging", keepers.join(", "));
    }
    out.push('\n');
    out.push_str(&members(status, paint));
    for notice in &status.notices {
        out.push_str(&format!("\n{} {}", paint.paint(Colour::Doubtful, "!"), clean(notice)));
    }
    out
}

fn members(status: &Status, paint: Paint) -> String {
    let columns = [
        left("NAME", 16),
        left("ROLE", 10),
        left("STATE", 7),
        left("RAFT", 8),
        right("LOAD/CORES", 10),
        left("VERSION", 8),
        right("SEEN", 5),
    ];
    let coordinator = status.coordinator.as_ref().map(|coordinator| &coordinator.peer_id);
    let rows: Vec<Vec<Cell>> = status
        .members
        .iter()
        .map(|member| {
            let leads = member.peer_id.is_some() && member.peer_id.as_ref() == coordinator;
            let name = if leads { format!("{} *", member.name) } else { member.name.clone() };
            let load = member.load.map_or_else(|| "-".to_owned(), |load| format!("{load:.1}"));
            vec![
                cell(name),
                cell(role(member.role.as_ref())),
                state_cell(member.state),
                cell(words::raft(member.raft)),
                cell(format!("{load}/{}", member.cores)),
                cell(&member.version),
                cell(member.last_seen_ms.map_or_else(|| "-".to_owned(), short_duration)),
            ]
        })
        .collect();
    if rows.is_empty() { "no members yet\n".to_owned() } else { table(&columns, &rows, paint) }
}

/// The states that hold jobs, in one line.
pub(crate) fn queue_line(queue: &QueueStatus, paint: Paint) -> String {
    let building = if queue.building > 0 { format!(" ({} building)", queue.building) } else { String::new() };
    let parts = [
        (queue.needed, "needed", String::new(), None),
        (queue.delegated, "delegated", building, None),
        (queue.received, "received", String::new(), Some(Colour::Good)),
        (queue.blocked, "blocked", String::new(), Some(Colour::Doubtful)),
        (queue.failed, "failed", String::new(), Some(Colour::Bad)),
        (queue.cancelled, "cancelled", String::new(), Some(Colour::Dim)),
        (queue.quarantined, "quarantined", String::new(), Some(Colour::Bad)),
    ];
    let shown: Vec<String> = parts
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, word, extra, colour)| {
            let text = format!("{count} {word}{extra}");
            colour.map_or_else(|| text.clone(), |colour| paint.paint(colour, &text))
        })
        .collect();
    let mut line = if shown.is_empty() { "empty".to_owned() } else { shown.join(", ") };
    if queue.paused {
        line.push_str(&paint.paint(Colour::Doubtful, ", paused"));
    }
    line
}

/// `hive peers`.
pub(crate) fn peers(peers: &PeersFile, paint: Paint) -> String {
    let columns = [left("NAME", 20), left("ADDRESS", 26), left("ROLE", 12), left("STATE", 8), left("ID", 9)];
    let rows: Vec<Vec<Cell>> = peers
        .peers
        .iter()
        .map(|peer| {
            let address = if peer.ip.contains(':') {
                format!("[{}]:{}", peer.ip, peer.port)
            } else {
                format!("{}:{}", peer.ip, peer.port)
            };
            let id = peer.peer_id.as_ref().map_or("-", |id| id.short());
            vec![cell(&peer.hostname), cell(address), cell(role(peer.role.as_ref())), state_cell(peer.state), cell(id)]
        })
        .collect();
    let this = &peers.this;
    let own = format!(
        "this node is {} at {}, {}\n\n",
        clean(&this.hostname),
        clean(&this.primary_ip),
        clean(role(this.role.as_ref()))
    );
    if rows.is_empty() { format!("{own}no other nodes\n") } else { own + &table(&columns, &rows, paint) }
}

/// `hive identity show`.
pub(crate) fn identity(identity: &Identity, paint: Paint) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: &str| out.push_str(&format!("{label:<12} {text}\n"));
    let mut role_text = paint.paint(Colour::Strong, &clean(&identity.role));
    if identity.founder && identity.role != "founder" {
        role_text.push_str(" (and founder of the hive)");
    }
    if identity.provisional {
        role_text.push_str(&paint.paint(Colour::Doubtful, " (provisional: claimed once the hive has quorum)"));
    }
    line("role", &role_text);
    line("because", &clean(&identity.reason));
    let by = if identity.assigned_by.is_empty() {
        "itself".to_owned()
    } else {
        clean(&identity.assigned_by.join(", ")).into_owned()
    };
    line("assigned by", &by);
    line("assigned at", &identity.assigned_at.to_string());
    let packages = if identity.packages.is_empty() {
        "none".to_owned()
    } else {
        clean(&identity.packages.join(", ")).into_owned()
    };
    line("packages", &format!("{packages} ({})", clean(&identity.packages_state)));
    for (key, value) in &identity.config {
        line("config", &format!("{} = {}", clean(key), clean(&value.to_string())));
    }
    if !identity.dissent.is_empty() {
        let text = format!(
            "{} of {} advisors put another role first (hive identity explain)",
            identity.dissent.len(),
            identity.advice.len()
        );
        line("dissent", &text);
    }
    out
}

/// `hive identity explain`.
pub(crate) fn identity_explained(identity: &Identity, paint: Paint) -> String {
    if identity.advice.is_empty() {
        return format!("{}: nobody was asked. {}\n", clean(&identity.role), clean(&identity.reason));
    }
    let role = paint.paint(Colour::Strong, &clean(&identity.role));
    let ballot = if identity.ballot.is_empty() { "-".into() } else { clean(&identity.ballot) };
    let mut out = format!("{role}, by ballot {ballot} of {} advisors\n", identity.advice.len());
    for advice in &identity.advice {
        let dissents = advice.ranking.first().is_none_or(|first| first.role != identity.role);
        let mark = if dissents { paint.paint(Colour::Doubtful, " (dissents)") } else { String::new() };
        out.push_str(&format!("\n{} with policy {}{mark}\n", clean(&advice.advisor), clean(&advice.policy)));
        for (place, ranked) in advice.ranking.iter().enumerate() {
            let cap = ranked.cap.map_or_else(String::new, |cap| format!(", at most {cap}"));
            let head = format!("{}. {} (rule {}{cap})", place + 1, clean(&ranked.role), clean(&ranked.rule));
            out.push_str(&format!("  {head}: {}\n", clean(&ranked.reason)));
        }
        for skipped in &advice.skipped {
            out.push_str(&format!("  {} {}\n", paint.paint(Colour::Dim, "skipped:"), clean(skipped)));
        }
    }
    out
}

/// `hive explain`.
pub(crate) fn explanation(explanation: &Explanation, paint: Paint) -> String {
    let subject = paint.paint(Colour::Strong, &clean(&explanation.subject));
    let mut out = format!("{subject}: {}\n", clean(&explanation.summary));
    if !explanation.details.is_empty() {
        let columns = [left("NAME", 24), left("", 3), left("WHY", 400)];
        let rows: Vec<Vec<Cell>> = explanation
            .details
            .iter()
            .map(|line| {
                let mark = if line.eligible { painted("yes", Colour::Good) } else { painted("no", Colour::Bad) };
                vec![cell(&line.name), mark, cell(&line.why)]
            })
            .collect();
        out.push('\n');
        out.push_str(&table(&columns, &rows, paint));
    }
    if !explanation.remedy.is_empty() {
        out.push_str(&format!("\nTo change it: {}\n", clean_lines(&explanation.remedy)));
    }
    out
}

/// `hive recover`.
pub(crate) fn recovery(report: &RecoverReport, paint: Paint) -> String {
    let columns = [left("REPLICA", 24), left("REACHED", 7), right("TERM", 8), right("INDEX", 12)];
    let rows: Vec<Vec<Cell>> = report
        .replicas
        .iter()
        .map(|replica| {
            let reached = if replica.reached { painted("yes", Colour::Good) } else { painted("no", Colour::Bad) };
            vec![cell(&replica.name), reached, cell(replica.term.to_string()), cell(replica.index.to_string())]
        })
        .collect();
    let mut out = table(&columns, &rows, paint);
    if let Some(source) = &report.source {
        let verb = if report.recovered { "was taken from" } else { "would be taken from" };
        out.push_str(&format!("\nThe history {verb} {}.\n", clean(source)));
    }
    out.push_str(&format!("What may be lost: {}\n", clean(&report.may_be_lost)));
    if report.recovered {
        out.push_str(&format!("Epoch {} has begun.\n", report.epoch));
    }
    out
}

#[cfg(test)]
mod tests;
