//! What `/metrics` says about this node, in Prometheus' text format.
//!
//! Read from the same views that people see. Never done here: measuring.

use super::shared::Shared;
use super::views;
use crate::api::MemberState;

/// Measurements in Prometheus' text format.
pub(super) fn metrics(shared: &Shared) -> String {
    let status = views::status(shared);
    let consensus = shared.consensus.status();
    let snapshot = shared.discovery.snapshot();
    let alive = status.members.iter().filter(|member| member.state == MemberState::Alive).count();
    let present =
        status.members.iter().filter(|member| !matches!(member.state, MemberState::Left | MemberState::Legacy)).count();
    let refused: u64 = snapshot.refusals.iter().map(|row| row.count).sum();
    let (staged, artifacts) = shared.soft(|soft| (soft.staging.clone(), soft.artifacts.clone()));
    let rows: [(&str, &str, &str, u64); 28] = [
        ("hive_members", "gauge", "members that have not left", present as u64),
        ("hive_members_alive", "gauge", "members that answer", alive as u64),
        ("hive_quorum", "gauge", "1 when a majority of voters answers", u64::from(status.quorum)),
        (
            "hive_leader",
            "gauge",
            "1 on the coordinator",
            u64::from(consensus.leader.as_ref() == Some(&shared.me.peer_id)),
        ),
        ("hive_term", "counter", "Raft term", consensus.term),
        ("hive_log_applied", "counter", "last applied log index", status.log.applied),
        ("hive_log_committed", "counter", "last index known to be committed", status.log.committed),
        ("hive_log_age_ms", "gauge", "age of this node's state", status.log.age_ms),
        (
            "hive_log_commit_p99_ms",
            "gauge",
            "99th percentile of the log's commits",
            consensus.fsync_p99_ms.unwrap_or(0),
        ),
        ("hive_jobs_needed", "gauge", "jobs that wait", status.queue.needed),
        ("hive_jobs_delegated", "gauge", "jobs given to a drone", status.queue.delegated),
        ("hive_attempts_building", "gauge", "attempts that run", status.queue.building),
        ("hive_jobs_blocked", "gauge", "jobs that are blocked", status.queue.blocked),
        ("hive_jobs_quarantined", "gauge", "jobs in quarantine", status.queue.quarantined),
        ("hive_disk_low", "gauge", "1 while writes are refused for want of space", u64::from(consensus.low_space)),
        ("hive_disk_free_bytes", "gauge", "free bytes of the state directory", views::disk_free_bytes(shared)),
        ("hive_staged_results_total", "counter", "results put into staging since the start", staged.staged),
        ("hive_staged_results_waiting", "gauge", "results for staging that cannot be had now", staged.waiting),
        ("hive_staged_results_refused_total", "counter", "results that do not come into staging", staged.refused),
        ("hive_artifact_bytes", "gauge", "bytes of artifacts kept here", artifacts.bytes),
        ("hive_artifacts_expired", "gauge", "artifacts here that are about to go", artifacts.expired),
        ("hive_artifacts_for_staging", "gauge", "artifacts kept here until staging has them", artifacts.for_staging),
        ("hive_log_halted", "gauge", "1 when this node's copy has stopped", u64::from(consensus.halted.is_some())),
        ("hive_notices", "gauge", "things that the operator should know", status.notices.len() as u64),
        ("hive_jobs_received_total", "counter", "jobs done", status.queue.received),
        ("hive_jobs_failed_total", "counter", "jobs failed", status.queue.failed),
        ("hive_datagrams_refused_total", "counter", "datagrams refused", refused),
        ("hive_health_score", "gauge", "0: well placed to judge others", u64::from(snapshot.health_score)),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in rows {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"));
    }
    text
}
