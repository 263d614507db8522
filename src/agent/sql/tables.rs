//! The tables that people question with SQL: what each holds, and the names that the Python swarm's handbook gave to them.
//!
//! Times are seconds since 1970, durations are seconds: `datetime(submitted_at, 'unixepoch')` makes them readable. Nothing secret is a
//! column. Never done here: filling them.

use crate::store::explorer::{Column, Table, View};

const fn text(name: &'static str, meaning: &'static str) -> Column {
    Column { name, kind: "TEXT", meaning }
}

const fn integer(name: &'static str, meaning: &'static str) -> Column {
    Column { name, kind: "INTEGER", meaning }
}

const fn real(name: &'static str, meaning: &'static str) -> Column {
    Column { name, kind: "REAL", meaning }
}

/// Jobs in memory and the newest that are history.
pub(super) const JOBS: Table = Table {
    name: "jobs",
    meaning: "One job. Jobs that are over for long are in it as far as they are kept.",
    columns: &[
        text("id", "its id"),
        integer("ordinal", "its position in the order of submission"),
        text("session_id", "what it was queued with"),
        text("state", "needed, delegated, received, blocked, failed, cancelled, quarantined"),
        text("backend", "portage, debian, maven, command, resolve"),
        text("package", "the package without its version"),
        text("target", "what is built, as it was asked for"),
        integer("priority", "-100 to 100, higher first"),
        text("labels", "what its drone must have, separated by spaces"),
        integer("pure", "1: its result is its only effect"),
        text("submitter", "who queued it"),
        real("submitted_at", "when"),
        text("drone", "of its last attempt"),
        real("assigned_at", "of its last attempt"),
        real("started_at", "of its last attempt"),
        real("ended_at", "of its last attempt, once the job is over"),
        integer("attempts", "tries that are kept, at most 32"),
        integer("build_failures", "tries that failed for the package's sake"),
        integer("infra_failures", "tries that failed for another reason"),
        integer("depends_on", "jobs that it waits for or waited for"),
        text("joined", "the job that does the same and is run instead"),
        real("estimate_s", "how long builds like it take"),
        text("reason", "why it is blocked, failed, cancelled or quarantined"),
        integer("artifacts", "files that came out"),
        integer("artifact_bytes", "their length together"),
    ],
};

/// Tries.
pub(super) const ATTEMPTS: Table = Table {
    name: "attempts",
    meaning: "One try of a job on one drone.",
    columns: &[
        text("job_id", "the job"),
        integer("attempt", "1, 2, 3 …"),
        text("session_id", "what the job was queued with"),
        text("package", "the package without its version"),
        text("target", "what was built"),
        text("drone_id", "the drone's id"),
        text("drone", "its name"),
        text("state", "assigned, building, uploading, accepted, failed, lost, stale, cancelled"),
        real("assigned_at", "when the drone was given it"),
        real("started_at", "when it began"),
        real("ended_at", "when it was over"),
        real("duration_s", "from beginning to end"),
        text("class", "whose fault: build, infra, policy, cancelled, stale"),
        text("reason", "one sentence"),
        integer("exit_code", "of the build"),
    ],
};

/// Edges of the graph.
pub(super) const DEPENDENCIES: Table = Table {
    name: "dependencies",
    meaning: "One job waits for another. What succeeded long ago is struck out.",
    columns: &[text("job_id", "who waits"), text("depends_on", "for whom")],
};

/// Results.
pub(super) const ARTIFACTS: Table = Table {
    name: "artifacts",
    meaning: "One file that a job produced.",
    columns: &[
        text("job_id", "the job"),
        text("name", "its file name"),
        text("sha256", "its digest"),
        integer("size_bytes", "its length"),
        text("node", "where it was first stored"),
    ],
};

/// Sessions.
pub(super) const SESSIONS: Table = Table {
    name: "sessions",
    meaning: "Jobs that were queued together.",
    columns: &[
        text("id", "its id"),
        text("name", "its name, may be empty"),
        text("status", "active, completed, aborted"),
        integer("total_packages", "jobs queued in it"),
        integer("completed_packages", "of them received"),
        integer("failed_packages", "of them failed"),
        text("profile_id", "the build profile"),
        real("started_at", "when it was made"),
        real("completed_at", "when its last job was over"),
        text("phase", "importing, resolving, active, completed, failed, cancelled"),
        text("submitter", "who made it"),
    ],
};

/// Machines.
pub(super) const MACHINES: Table = Table {
    name: "machines",
    meaning: "One node of the hive, or a drone of the Python swarm that it serves.",
    columns: &[
        text("id", "its id"),
        text("name", "its name"),
        text("ip", "its first address"),
        text("role", "what the hive made of it"),
        text("state", "alive, suspect, down, as this node sees it"),
        text("raft", "voter, standby, observer; null for a drone of the Python swarm"),
        integer("legacy", "1: a drone of the Python swarm"),
        integer("sweeper", "1: it tries again what others could not build"),
        text("virt", "bare-metal, lxc, qemu, container, vm, unknown"),
        text("arch", "its architecture"),
        text("distro", "its distribution"),
        integer("cores", "processors"),
        integer("ram_gb", "memory, GiB"),
        text("labels", "its labels, separated by spaces"),
        text("tree", "its package tree"),
        text("version", "of its agent"),
        real("load_1m", "load average over one minute"),
        real("last_seen", "when this node last heard of it"),
        real("joined_at", "when it joined"),
        integer("building", "attempts that it has"),
        text("current_task", "what it builds, the first"),
        integer("paused", "1: an operator gives it nothing new"),
        integer("draining", "1: an operator empties it"),
        integer("cores_limit", "processors that its builds may use; null: all"),
        integer("failures", "failures that count against it"),
        real("grounded_until", "it gets no work before, because it failed too often"),
        integer("upload_failures", "uploads that failed in a row"),
        real("uploads_paused_until", "it gets no work before, because it cannot upload"),
    ],
};

/// Packages.
pub(super) const PACKAGES: Table = Table {
    name: "packages",
    meaning: "What is known of a package.",
    columns: &[
        text("package", "without its version"),
        integer("attempts", "tries that were over"),
        integer("successes", "of them good"),
        text("tried_on", "drones, separated by spaces"),
        real("last_attempt", "when it was tried last"),
        real("p50_s", "half of its builds were done by then"),
        real("p90_s", "nine of ten were done by then"),
        integer("samples", "builds that this rests on"),
    ],
};

/// Events.
pub(super) const EVENTS: Table = Table {
    name: "events",
    meaning: "One thing that happened, of the last week as far as this node was there.",
    columns: &[
        integer("id", "its number"),
        real("timestamp", "when"),
        text("event_type", "assign, complete, fail, control …"),
        text("message", "one sentence"),
        text("drone_id", "the drone or node that it concerns"),
        text("package", "what was to be built"),
        text("job_id", "the job"),
        text("session_id", "the session"),
    ],
};

/// Measurements.
pub(super) const METRICS: Table = Table {
    name: "metrics_log",
    meaning: "One measurement a minute of the last day, by this node: of the queue (node_id is null) or of a node.",
    columns: &[
        real("timestamp", "when"),
        text("node_id", "the node's name; null: of the queue"),
        real("load_1m", "load average over one minute"),
        integer("queue_needed", "jobs that waited"),
        integer("queue_delegated", "jobs that drones had"),
        integer("queue_received", "jobs done, ever"),
        integer("queue_blocked", "jobs that were blocked"),
    ],
};

/// All tables.
pub(super) const TABLES: &[Table] =
    &[JOBS, ATTEMPTS, DEPENDENCIES, ARTIFACTS, SESSIONS, MACHINES, PACKAGES, EVENTS, METRICS];

/// The handbook's names, with its columns, over the tables.
pub(super) const VIEWS: &[View] = &[
    View {
        name: "queue",
        meaning: "Jobs, as the Python swarm had them.",
        select: "SELECT j.ordinal AS id, j.target AS package,
                   CASE j.state WHEN 'quarantined' THEN 'failed' ELSE j.state END AS status,
                   CASE j.state WHEN 'delegated' THEN j.drone END AS assigned_to,
                   CASE j.state WHEN 'delegated' THEN j.assigned_at END AS assigned_at,
                   CASE j.state WHEN 'delegated' THEN j.started_at END AS building_since,
                   j.ended_at AS completed_at, j.build_failures AS failure_count, j.reason AS error_message,
                   j.session_id AS session_id, s.profile_id AS profile_id, j.submitted_at AS created_at, j.id AS job_id
                 FROM jobs j LEFT JOIN sessions s ON s.id = j.session_id",
    },
    View {
        name: "nodes",
        meaning: "Machines, as the Python swarm had them.",
        select: "SELECT id, name, ip, CASE sweeper WHEN 1 THEN 'sweeper' ELSE 'drone' END AS type, virt AS drone_type, cores,
                   ram_gb, CASE state WHEN 'down' THEN 'offline' ELSE 'online' END AS status, paused, last_seen, current_task,
                   version, joined_at AS created_at
                 FROM machines",
    },
    View {
        name: "build_history",
        meaning: "Attempts that are over, as the Python swarm had them.",
        select: "SELECT a.job_id || '/' || a.attempt AS id, a.target AS package, a.drone_id AS drone_id, a.drone AS drone_name,
                   CASE a.state WHEN 'accepted' THEN 'success' WHEN 'lost' THEN 'failed' WHEN 'stale' THEN 'returned'
                     ELSE a.state END AS status,
                   a.duration_s AS duration_seconds, a.reason AS error_message, a.session_id AS session_id,
                   s.profile_id AS profile_id, a.ended_at AS built_at
                 FROM attempts a LEFT JOIN sessions s ON s.id = a.session_id
                 WHERE a.state IN ('accepted', 'failed', 'lost', 'stale', 'cancelled')",
    },
    View {
        name: "drone_health",
        meaning: "What counts against machines, as the Python swarm had it.",
        select: "SELECT id AS node_id, name, failures, grounded_until, upload_failures, uploads_paused_until FROM machines",
    },
    View {
        name: "drone_config",
        meaning: "What operators set for machines, as far as the Python swarm had it.",
        select: "SELECT name AS node_name, cores_limit, paused, draining FROM machines",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::explorer::Explorer;

    #[test]
    fn the_handbooks_tables_are_there_with_its_columns() {
        let explorer = Explorer::new(TABLES, VIEWS).expect("every view is right");
        let has = |view: &str, columns: &[&str]| {
            let found = explorer.view_columns(view).expect("is there");
            for column in columns {
                assert!(found.iter().any(|name| name == column), "{view}.{column}: {found:?}");
            }
        };
        has("queue", &["id", "package", "status", "assigned_to", "assigned_at", "building_since", "completed_at"]);
        has("queue", &["failure_count", "error_message", "session_id", "profile_id", "created_at"]);
        has("nodes", &["id", "name", "ip", "type", "drone_type", "cores", "ram_gb", "status", "paused", "last_seen"]);
        has("nodes", &["current_task", "version", "created_at"]);
        has("build_history", &["id", "package", "drone_id", "drone_name", "status", "duration_seconds", "built_at"]);
        has("build_history", &["error_message", "session_id", "profile_id"]);
        has("sessions", &["id", "name", "status", "total_packages", "completed_packages", "failed_packages"]);
        has("sessions", &["profile_id", "started_at", "completed_at"]);
        has("drone_health", &["node_id", "failures", "grounded_until", "upload_failures"]);
        has("events", &["id", "timestamp", "event_type", "message", "drone_id", "package"]);
        has("metrics_log", &["timestamp", "node_id", "load_1m", "queue_needed", "queue_blocked"]);
    }

    #[test]
    fn no_column_holds_a_secret() {
        for column in TABLES.iter().flat_map(|table| table.columns) {
            for word in ["key", "secret", "token", "password", "digest", "argv"] {
                assert!(!column.name.contains(word), "{}", column.name);
            }
            assert!(!column.meaning.is_empty(), "{}", column.name);
        }
    }
}
