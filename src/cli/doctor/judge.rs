//! Judges what the agent said and what stands in the secret file: pure but for reading that file.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::Check;
use crate::api::{ApiResult, DoctorFacts, MemberState, NodePhase, Refusal, Status};
use crate::cli::text::{bytes, clean, duration};
use crate::keyring::{Secret, SecretError};

/// Refusals older than this are history, milliseconds.
const RECENT_MS: u64 = 600_000;
/// Difference of wall clocks worth a remark, milliseconds. It decides nothing, but it makes logs hard to read.
const CLOCK_OFFSET_MS: u64 = 5_000;
/// Free space below which a remark is due, bytes.
const DISK_FREE_SMALL: u64 = 2 << 30;

/// Whether the agent answers.
pub(super) fn agent(status: &ApiResult<Status>) -> Check {
    match status {
        Ok(status) => {
            let this = &status.this;
            Check::ok(
                "agent",
                format!("{} answers, version {}, up {}", this.name, this.version, duration(this.uptime_ms)),
            )
        }
        Err(error) => Check::fail("agent", error.message.clone(), error.hint.clone()),
    }
}

/// Whether the secret file is there, private, strong, and the one that the agent uses.
pub(super) fn secret(path: &Path, weak_allowed: bool, agents: Option<&str>) -> Check {
    match Secret::from_file(path, weak_allowed) {
        Ok(Some(secret)) => {
            let own = secret.fingerprint();
            match agents {
                Some(agents) if agents != own => {
                    let cause = format!("{} has fingerprint {own}, but the agent still uses {agents}", path.display());
                    Check::warn("secret", cause, "systemctl restart hive")
                }
                _ => Check::ok("secret", format!("fingerprint {own}, the same on every node of a hive")),
            }
        }
        Ok(None) => {
            let remedy =
                "copy it from another node (hive secret show), or make the first one: hive secret generate --write";
            Check::fail("secret", format!("there is none at {}", path.display()), remedy)
        }
        Err(SecretError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            let hidden = format!("you may not read {}", path.display());
            match agents {
                Some(agents) => Check::ok("secret", format!("the agent uses fingerprint {agents}; {hidden}")),
                None => Check::warn("secret", hidden, "look again as root: sudo hive doctor"),
            }
        }
        Err(error) => {
            // The messages of this type end with the command that mends it.
            let text = error.to_string();
            let (cause, remedy) = text.split_once("; ").map_or((text.as_str(), ""), |(cause, remedy)| (cause, remedy));
            Check::fail("secret", cause.to_owned(), remedy.to_owned())
        }
    }
}

/// What the agent found out about network, clocks and disk.
pub(super) fn facts(facts: &DoctorFacts, status: Option<&Status>) -> Vec<Check> {
    let mut checks =
        vec![interfaces(facts), broadcast(facts, status), refusals(&facts.refusals), clocks(facts), disk(facts)];
    checks.extend(http(&facts.http_refused));
    checks
}

/// Said only when there is something to say: most nodes are never asked anything strange.
fn http(refused: &[Refusal]) -> Option<Check> {
    let last = refused.iter().min_by_key(|row| row.last_ms)?;
    let counts: Vec<String> = refused.iter().map(|row| format!("{} × {}", row.count, clean(&row.reason))).collect();
    let ago = duration(last.last_ms);
    let cause = format!("refused {}; the last from {}, {ago} ago", counts.join(", "), clean(&last.from));
    let recent = last.last_ms < RECENT_MS;
    let remedy = "see who asks and what for: journalctl -u hive | grep 'HTTP request refused'";
    Some(if recent { Check::warn("http", cause, remedy) } else { Check::ok("http", cause) })
}

fn interfaces(facts: &DoctorFacts) -> Check {
    if facts.interfaces.is_empty() {
        let remedy =
            "check carrier and address: ip -br addr; and `interface`/`exclude_interface`: hive config show --origin";
        return Check::fail("interfaces", "discovery uses none", remedy);
    }
    let list: Vec<String> = facts.interfaces.iter().map(|one| format!("{} {}", one.name, one.address)).collect();
    Check::ok("interfaces", list.join(", "))
}

fn broadcast(facts: &DoctorFacts, status: Option<&Status>) -> Check {
    if !facts.broadcast_heard_by.is_empty() {
        return Check::ok("broadcast", format!("heard by {}", facts.broadcast_heard_by.join(", ")));
    }
    let others = status.map_or(0, |status| {
        let alive = status.members.iter().filter(|member| member.state == MemberState::Alive);
        alive.filter(|member| member.peer_id.as_ref() != Some(&status.this.peer_id)).count()
    });
    let port = facts.port;
    if others == 0 {
        let cause = "nobody confirmed hearing it, and no other node is known";
        return Check::warn(
            "broadcast",
            cause,
            format!("on another node: hive doctor; across subnets: hive agent --join HOST:{port}"),
        );
    }
    let cause = "nobody confirmed hearing it; nodes are reached by address only, so a new one may not find the hive";
    Check::warn(
        "broadcast",
        cause,
        format!("let switch and firewall pass UDP {port}, or give new nodes an address: --join HOST:{port}"),
    )
}

fn refusals(all: &[Refusal]) -> Check {
    let recent: Vec<&Refusal> = all.iter().filter(|refusal| refusal.last_ms < RECENT_MS).collect();
    let of =
        |reason: &str| -> Vec<&Refusal> { recent.iter().copied().filter(|refusal| refusal.reason == reason).collect() };
    let from = |refusals: &[&Refusal]| {
        let addresses: BTreeSet<&str> = refusals.iter().map(|refusal| refusal.from.as_str()).collect();
        let shown: Vec<&str> = addresses.iter().copied().take(5).collect();
        let more = if addresses.len() > 5 { " and others" } else { "" };
        format!("{}{more}", clean(&shown.join(", ")))
    };
    let wrong = of("wrong_secret");
    if !wrong.is_empty() {
        let count: u64 = wrong.iter().map(|refusal| refusal.count).sum();
        let cause = format!("{count} messages from {} were made with another secret", from(&wrong));
        return Check::fail(
            "refusals",
            cause,
            "compare on both nodes: hive secret fingerprint; then copy the right one and: systemctl restart hive",
        );
    }
    let clone = of("clone");
    if !clone.is_empty() {
        let cause = format!("{} uses the same key as another live node (a cloned machine)", from(&clone));
        return Check::fail(
            "refusals",
            cause,
            "on the clone: systemctl stop hive && rm -r /var/lib/build && systemctl start hive",
        );
    }
    let version = of("version");
    if !version.is_empty() {
        let cause = format!("{} speaks another version of the protocol", from(&version));
        return Check::warn("refusals", cause, "install the same version on every node: hive --version");
    }
    let mut reasons: Vec<String> =
        recent.iter().map(|refusal| format!("{} × {}", refusal.count, clean(&refusal.reason))).collect();
    reasons.truncate(6);
    match reasons.as_slice() {
        [] => Check::ok("refusals", "none in the last 10 minutes"),
        some => {
            Check::warn("refusals", format!("{} from {}", some.join(", "), from(&recent)), "watch them: hive listen")
        }
    }
}

fn clocks(facts: &DoctorFacts) -> Check {
    let worst = facts.clock_offsets_ms.iter().max_by_key(|(_, offset)| offset.unsigned_abs());
    match worst {
        None => Check::ok("clock", "no other node to compare with"),
        Some((peer, offset)) if offset.unsigned_abs() > CLOCK_OFFSET_MS => {
            let side = if *offset > 0 { "ahead" } else { "behind" };
            let cause = format!("{peer} is {} {side} of this machine", duration(offset.unsigned_abs()));
            Check::warn("clock", cause, "on the one that is wrong: timedatectl set-ntp true")
        }
        Some((_, offset)) => Check::ok("clock", format!("within {} of all others", duration(offset.unsigned_abs()))),
    }
}

fn disk(facts: &DoctorFacts) -> Check {
    let free = bytes(facts.disk_free_bytes);
    let remedy = "make room: du -xh --max-depth=2 /var/lib/build | sort -h | tail";
    if facts.disk_low {
        return Check::fail("disk", format!("{free} free: writes are refused until there is more"), remedy);
    }
    if facts.disk_free_bytes < DISK_FREE_SMALL {
        return Check::warn("disk", format!("{free} free"), remedy);
    }
    Check::ok("disk", format!("{free} free"))
}

/// What the hive looks like from here.
pub(super) fn status(status: &Status) -> Vec<Check> {
    let mut out = vec![phase(status), quorum(status)];
    let down: Vec<&str> = status
        .members
        .iter()
        .filter(|member| member.state == MemberState::Down)
        .map(|member| member.name.as_str())
        .collect();
    if !down.is_empty() {
        out.push(Check::warn(
            "members",
            format!("down: {}", down.join(", ")),
            "on each: systemctl status hive; journalctl -u hive -n 50",
        ));
    }
    let versions: BTreeSet<&str> = status
        .members
        .iter()
        .filter(|member| {
            matches!(member.state, MemberState::Alive | MemberState::Suspect) && !member.version.is_empty()
        })
        .map(|member| member.version.as_str())
        .collect();
    if versions.len() > 1 {
        let list: Vec<&str> = versions.into_iter().collect();
        out.push(Check::warn("versions", format!("the members run {}", list.join(", ")), "install the newest on all"));
    }
    out
}

fn phase(status: &Status) -> Check {
    match status.this.state {
        NodePhase::Member => {
            Check::ok("member", format!("of hive {}", status.hive_id.map_or_else(String::new, |id| id.to_string())))
        }
        NodePhase::Refused => Check::fail(
            "member",
            "others are there and refuse this node",
            "most likely the secrets differ; compare on both nodes: hive secret fingerprint",
        ),
        NodePhase::Seeking | NodePhase::Founding | NodePhase::Joining => Check::warn(
            "member",
            "not yet in a hive",
            "wait a few seconds; if it stays so, name a node of the hive: --join HOST",
        ),
        NodePhase::Stopping => Check::warn("member", "the agent is shutting down", "systemctl start hive"),
    }
}

fn quorum(status: &Status) -> Check {
    match (&status.coordinator, status.quorum) {
        (Some(coordinator), true) => Check::ok("quorum", format!("yes; {} coordinates", coordinator.name)),
        _ if status.this.state != NodePhase::Member => Check::warn("quorum", "not in a hive yet", ""),
        _ => Check::fail(
            "quorum",
            "a majority of the voters cannot be reached: nothing new is accepted",
            "start the voters that are down (hive status); only if they are lost for good: hive recover",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::Severity;
    use super::*;

    fn base() -> DoctorFacts {
        DoctorFacts {
            port: 50_555,
            interfaces: Vec::new(),
            secret_fingerprint: None,
            refusals: Vec::new(),
            http_refused: Vec::new(),
            broadcast_heard_by: Vec::new(),
            clock_offsets_ms: BTreeMap::new(),
            disk_free_bytes: 50 << 30,
            disk_low: false,
            config_file: None,
            secret_file: None,
        }
    }

    fn states(checks: &[Check]) -> Vec<(&str, Severity)> {
        checks.iter().map(|check| (check.name, check.state)).collect()
    }

    #[test]
    fn every_refusal_has_its_own_remedy() {
        let refusal = |reason: &str, last_ms| Refusal {
            reason: reason.to_owned(),
            from: "10.0.0.9".to_owned(),
            count: 3,
            last_ms,
        };
        let cases = [
            ("wrong_secret", Severity::Fail, "hive secret fingerprint"),
            ("clone", Severity::Fail, "on the clone"),
            ("version", Severity::Warn, "same version"),
            ("malformed", Severity::Warn, "hive listen"),
        ];
        for (reason, severity, expected) in cases {
            let check = refusals(&[refusal(reason, 1_000)]);
            assert_eq!(check.state, severity, "{reason}");
            assert!(check.remedy.contains(expected) && check.cause.contains("10.0.0.9"), "{check:?}");
        }
        assert_eq!(refusals(&[refusal("wrong_secret", RECENT_MS)]).state, Severity::Ok, "that was long ago");
    }

    #[test]
    fn refused_http_requests_are_shown_once_there_are_some() {
        assert_eq!(http(&[]), None);
        let row = |last_ms| Refusal { reason: "malformed".to_owned(), from: "10.0.0.9".to_owned(), count: 3, last_ms };
        let check = http(&[row(1_000)]).expect("said");
        assert_eq!(check.state, Severity::Warn);
        assert!(check.cause.contains("3 × malformed") && check.cause.contains("10.0.0.9"), "{}", check.cause);
        assert_eq!(http(&[row(RECENT_MS)]).expect("said").state, Severity::Ok);
    }

    #[test]
    fn network_clock_and_disk_are_judged() {
        let poor = DoctorFacts {
            clock_offsets_ms: BTreeMap::from([("a".to_owned(), -90_000), ("b".to_owned(), 10)]),
            disk_free_bytes: 1 << 20,
            disk_low: true,
            ..base()
        };
        let found = facts(&poor, None);
        assert_eq!(
            states(&found),
            [
                ("interfaces", Severity::Fail),
                ("broadcast", Severity::Warn),
                ("refusals", Severity::Ok),
                ("clock", Severity::Warn),
                ("disk", Severity::Fail)
            ]
        );
        assert!(found[3].cause.contains("a is 1 min 30 s behind"), "{}", found[3].cause);
        assert!(found.iter().filter(|check| check.state != Severity::Ok).all(|check| !check.remedy.is_empty()));
    }

    #[test]
    fn the_secret_file_is_judged_like_the_agent_judges_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("secret");
        assert_eq!(secret(&path, false, None).state, Severity::Fail);
        Secret::generate().write_new(&path).expect("writes");
        let good = secret(&path, false, None);
        assert_eq!(good.state, Severity::Ok);
        assert_eq!(secret(&path, false, Some("0000000000000000")).remedy, "systemctl restart hive");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        let open = secret(&path, false, None);
        assert!(open.state == Severity::Fail && open.remedy.contains("chmod 0600"), "{open:?}");
    }
}
