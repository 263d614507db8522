//! What readers of the old swarm are told, in its shapes: flat lists, times in seconds, its words for states.
//!
//! All of it comes from this node's copy of the state, but for what a drone said of itself, which the coordinator is asked at most
//! once a second. Never done here: changing anything.

mod probing;
mod then;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use serde_json::{Map, Value, json};

use crate::agent::shared::Shared;
use crate::agent::{events, past, sessions, views};
use crate::api::{ApiResult, HistoryLine, MemberState, SessionLine};
use crate::clock::{now_ms, unix_now};
use crate::engine::event::{Event, EventKind};
use crate::engine::forecast::remaining;
use crate::engine::id::{PeerId, UnixMillis};
use crate::engine::job::{Attempt, AttemptState, FailureClass, Job, JobState};
use crate::engine::legacy::{OFFLINE_AFTER_MS, Vitals};
use crate::engine::state::{DroneRecord, State};
use crate::web::node::{EventQuery, HistoryQuery, LegacyRead, SessionQuery};

pub(in crate::agent) use self::probing::Pings;
pub(in crate::agent) use self::then::snapshot;

/// Packages named per state in the status.
const NAMED_MAX: usize = 10;
/// Rows of the queue when nothing else is said, and at most.
const QUEUE_DEFAULT: usize = 10_000;
/// Most rows of a list.
const ROWS_MAX: usize = 100_000;
/// Events listed when nothing else is said, and at most.
const EVENTS_DEFAULT: usize = 200;
const EVENTS_MAX: usize = 1_000;
/// Sums over everything are worked out anew so often, milliseconds.
const TOTALS_MS: u64 = 5_000;
/// Sessions listed.
const SESSIONS_MAX: usize = 50;
/// Attempts listed when nothing else is said, and at most.
const HISTORY_DEFAULT: usize = 100;
const HISTORY_MAX: usize = 1_000;

/// Answers a reader.
pub(in crate::agent) async fn read(shared: &Arc<Shared>, what: LegacyRead) -> ApiResult<Value> {
    Ok(match what {
        LegacyRead::Health => json!({
            "status": "ok",
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": uptime_ms(shared) / 1_000,
        }),
        LegacyRead::Orchestrator => orchestrator(shared),
        LegacyRead::Nodes { all } => {
            let machines = machines(shared).await;
            let shown = machines.iter().filter(|machine| all || machine.online);
            Value::Array(shown.map(|machine| node(shared, machine)).collect())
        }
        LegacyRead::Status => status(shared).await,
        LegacyRead::Queue { limit } => queue(shared, limit),
        LegacyRead::History { session, limit } => history(shared, session, limit).await?,
        LegacyRead::Sessions => {
            let list = shared.read(|state| sessions::list(state, SessionQuery { open: false, limit: SESSIONS_MAX }));
            json!({ "sessions": list.sessions.iter().map(session).collect::<Vec<_>>() })
        }
        LegacyRead::Packages { package, limit } => packages(shared, package.as_deref(), limit),
        LegacyRead::Versions => versions(shared).await,
        LegacyRead::DroneHealth => {
            let machines = machines(shared).await;
            json!({ "drones": machines.iter().map(|machine| health(shared, machine)).collect::<Vec<_>>() })
        }
        LegacyRead::PortageConfig => portage_config(shared),
        LegacyRead::Events { since, limit } => {
            let limit = limit.unwrap_or(EVENTS_DEFAULT).min(EVENTS_MAX);
            let list = events::find(shared, EventQuery { since, limit, ..EventQuery::default() }).await?;
            json!({ "events": list.events.iter().map(event).collect::<Vec<_>>(), "latest_id": list.latest_id })
        }
        LegacyRead::EventsHistory { since, kind, drone, limit } => {
            past_events(shared, since, kind, drone, limit).await?
        }
        LegacyRead::Probe(what) => probing::answer(shared, what).await?,
        LegacyRead::Metrics { since, node } => metrics(shared, since, node.as_deref()).await,
    })
}

fn uptime_ms(shared: &Shared) -> u64 {
    now_ms().saturating_sub(shared.me.started_ms)
}

/// Seconds since 1970, as the old swarm wrote times.
fn seconds(at: UnixMillis) -> f64 {
    at.0 as f64 / 1_000.0
}

fn percent_of(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 * 1_000.0 / whole as f64).round() / 10.0 }
}

/// A member or a drone of the old swarm, as readers see either.
struct Machine {
    peer: PeerId,
    id: String,
    name: String,
    address: String,
    sweeper: bool,
    cores: u32,
    ram_gb: u32,
    virt: String,
    tree: Option<String>,
    version: String,
    online: bool,
    heard_ms: Option<u64>,
    vitals: Vitals,
    created_at: UnixMillis,
    record: DroneRecord,
    /// Successes and failures.
    tally: (u64, u64),
    legacy: bool,
}

async fn machines(shared: &Arc<Shared>) -> Vec<Machine> {
    let heard = super::heard(shared).await;
    let now_ms = now_ms();
    let tallies = totals(shared).tallies;
    let tally = |peer: &PeerId| tallies.get(peer).copied().unwrap_or_default();
    let mut machines = shared.read(|state| {
        let members = state.members().filter(|member| !member.left).map(|member| {
            let peer = member.info.peer_id.clone();
            let inventory = &member.info.inventory;
            let address = member.info.addresses.first().and_then(|address| address.rsplit_once(':'));
            Machine {
                id: peer.to_string(),
                name: member.display_name.clone(),
                address: address.map(|(ip, _)| ip.to_owned()).unwrap_or_default(),
                sweeper: state.sweeps(&peer),
                cores: inventory.cpu_cores,
                ram_gb: inventory.ram_gb,
                virt: inventory.virt.clone(),
                tree: inventory.tree.clone(),
                version: member.info.version.clone(),
                online: false,
                heard_ms: None,
                vitals: Vitals::default(),
                created_at: member.joined_at,
                record: state.drone_record(&peer).clone(),
                tally: tally(&peer),
                legacy: false,
                peer,
            }
        });
        let legacy = state.legacy_drones().map(|drone| Machine {
            id: drone.info.id.clone(),
            name: drone.info.name.clone(),
            address: drone.info.address.clone(),
            sweeper: state.sweeps(&drone.peer_id),
            cores: drone.info.inventory.cpu_cores,
            ram_gb: drone.info.inventory.ram_gb,
            virt: drone.info.inventory.virt.clone(),
            tree: drone.info.inventory.tree.clone(),
            version: drone.info.version.clone(),
            online: false,
            heard_ms: None,
            vitals: Vitals::default(),
            created_at: drone.registered_at,
            record: state.drone_record(&drone.peer_id).clone(),
            tally: tally(&drone.peer_id),
            legacy: true,
            peer: drone.peer_id.clone(),
        });
        members.chain(legacy).collect::<Vec<_>>()
    });
    for machine in &mut machines {
        if machine.legacy {
            let known = heard.get(&machine.peer);
            machine.heard_ms = known.map(|(heard_ms, _)| *heard_ms);
            machine.online = machine.heard_ms.is_some_and(|at| now_ms.saturating_sub(at) < OFFLINE_AFTER_MS);
            machine.vitals = known.map(|(_, vitals)| vitals.clone()).unwrap_or_default();
        } else {
            let own = machine.peer == shared.me.peer_id;
            machine.online = shared.liveness(&machine.peer) == MemberState::Alive;
            machine.heard_ms =
                if own { Some(now_ms) } else { shared.soft(|soft| soft.heard_ms.get(&machine.peer).copied()) };
            let report = shared.soft(|soft| soft.reports.get(&machine.peer).cloned());
            let report = if own { Some(views::own_report(shared)) } else { report };
            machine.vitals.load_centi = report.map(|report| report.load_centi);
        }
    }
    machines.sort_by(|left, right| left.name.cmp(&right.name));
    machines
}

fn seen_at(machine: &Machine) -> Option<f64> {
    let ago_ms = now_ms().saturating_sub(machine.heard_ms?);
    Some(seconds(UnixMillis(unix_now().0.saturating_sub(ago_ms))))
}

fn load_1m(vitals: &Vitals) -> Option<f64> {
    vitals.load_centi.map(|load| f64::from(load) / 100.0)
}

fn metrics_of(machine: &Machine) -> Value {
    let vitals = &machine.vitals;
    json!({ "cpu_percent": vitals.cpu_percent, "ram_percent": vitals.ram_percent, "load_1m": load_1m(vitals) })
}

fn node(shared: &Shared, machine: &Machine) -> Value {
    let (assigned, progress, current) = shared.read(|state| {
        let live: Vec<(&Job, &Attempt)> = state.live_attempts(&machine.peer).collect();
        let assigned: Vec<String> = live.iter().map(|(job, _)| job.spec.target.clone()).collect();
        let running = live.iter().filter(|(_, attempt)| attempt.state != AttemptState::Assigned);
        let progress: Vec<Value> = running.map(|(job, attempt)| build_progress(state, job, attempt)).collect();
        let current = live.iter().find(|(_, attempt)| attempt.state != AttemptState::Assigned);
        let current = current.map(|(job, _)| job.spec.target.clone());
        (assigned, progress, current)
    });
    let (built, failed) = machine.tally;
    let vitals = &machine.vitals;
    json!({
        "id": machine.id,
        "name": machine.name,
        "ip": machine.address,
        "tailscale_ip": null,
        "type": if machine.sweeper { "sweeper" } else { "drone" },
        "drone_type": machine.virt,
        "cores": machine.cores,
        "ram_gb": machine.ram_gb,
        "status": if machine.online { "online" } else { "offline" },
        "paused": machine.record.paused.is_some(),
        "last_seen": seen_at(machine),
        "capabilities": {
            "cores": machine.cores, "ram_gb": machine.ram_gb, "portage_timestamp": machine.tree,
            "legacy": machine.legacy,
        },
        "metrics": metrics_of(machine),
        "current_task": vitals.current_task.clone().or(current),
        "version": machine.version,
        "created_at": seconds(machine.created_at),
        "assigned_packages": assigned,
        "build_progress": progress,
        "cpu_percent": vitals.cpu_percent,
        "ram_percent": vitals.ram_percent,
        "builds_completed": built,
        "builds_failed": failed,
    })
}

/// What takes a walk over all jobs and packages in memory, done at most every few seconds.
#[derive(Clone, Debug, Default)]
pub(in crate::agent) struct Totals {
    at_ms: u64,
    /// Successes and failures by drone, among the jobs in memory.
    tallies: BTreeMap<PeerId, (u64, u64)>,
    /// Mean of the usual duration of the packages that were built before.
    average_ms: Option<u64>,
}

fn totals(shared: &Shared) -> Totals {
    let now_ms = now_ms();
    let mut known = shared.legacy.totals.lock().unwrap_or_else(PoisonError::into_inner);
    if known.at_ms == 0 || now_ms.saturating_sub(known.at_ms) >= TOTALS_MS {
        let (tallies, average_ms) = shared.read(|state| (tallies(state), average_ms(state)));
        *known = Totals { at_ms: now_ms, tallies, average_ms };
    }
    known.clone()
}

fn tallies(state: &State) -> BTreeMap<PeerId, (u64, u64)> {
    let mut tallies: BTreeMap<PeerId, (u64, u64)> = BTreeMap::new();
    for attempt in state.jobs().flat_map(|job| &job.attempts) {
        let (built, failed) = match attempt.state {
            AttemptState::Accepted => (1, 0),
            AttemptState::Failed | AttemptState::Lost => (0, 1),
            AttemptState::Assigned
            | AttemptState::Building
            | AttemptState::Uploading
            | AttemptState::Stale
            | AttemptState::Cancelled => continue,
        };
        let tally = tallies.entry(attempt.node.clone()).or_default();
        *tally = (tally.0 + built, tally.1 + failed);
    }
    tallies
}

fn build_progress(state: &State, job: &Job, attempt: &Attempt) -> Value {
    let estimate = state.estimate(job, Some(&state.drone_class(&attempt.node)));
    let elapsed_ms = attempt.started_at.map(sessions::elapsed_ms);
    let estimated_ms = (estimate.samples > 0).then_some(estimate.p50_ms);
    let percent = estimated_ms
        .zip(elapsed_ms)
        .map(|(whole_ms, elapsed_ms)| elapsed_ms.saturating_mul(100).checked_div(whole_ms).unwrap_or(99).min(99));
    json!({
        "package": job.spec.target,
        "building_since": attempt.started_at.map(seconds),
        "elapsed_s": elapsed_ms.map(|elapsed_ms| elapsed_ms / 1_000),
        "estimated_s": estimated_ms.map(|estimated_ms| estimated_ms / 1_000),
        "progress_pct": percent,
        "remaining_s": (estimate.samples > 0).then(|| remaining(&estimate, elapsed_ms).0 / 1_000),
    })
}

fn orchestrator(shared: &Shared) -> Value {
    let (ip, port, name) = here(shared);
    json!({ "ip": ip, "name": name, "port": port })
}

/// Where this node is asked: every node serves drones and readers, and this one is known to answer.
pub(in crate::agent) fn here(shared: &Shared) -> (String, u16, String) {
    let ip = shared.own_addresses().first().map(|address| address.ip().to_string()).unwrap_or_default();
    (ip, shared.me.http.port(), shared.me.name.clone())
}

async fn status(shared: &Arc<Shared>) -> Value {
    let machines = machines(shared).await;
    let session = shared.read(|state| sessions::list(state, SessionQuery { open: true, limit: 1 })).sessions.pop();
    let counts = shared.read(State::counts);
    let mut packages = shared.read(named_packages);
    let average_ms = totals(shared).average_ms;
    let delegated: Map<String, Value> = shared.read(|state| {
        let live = state.busy_nodes().flat_map(|peer| state.live_attempts(peer).map(move |job| (peer, job)));
        live.map(|(peer, (job, _))| (job.spec.target.clone(), json!({ "drone": state.name_of(peer) }))).collect()
    });
    packages.insert("delegated".to_owned(), Value::Object(delegated));
    let drones: Map<String, Value> =
        machines.iter().map(|machine| (machine.name.clone(), node(shared, machine))).collect();
    let health: Map<String, Value> =
        machines.iter().map(|machine| (machine.name.clone(), health(shared, machine))).collect();
    let online = machines.iter().filter(|machine| machine.online);
    let cores: u64 = online.clone().map(|machine| u64::from(machine.cores)).sum();
    json!({
        "needed": counts.needed,
        "delegated": counts.delegated,
        "received": counts.received,
        "blocked": counts.blocked,
        "failed": counts.failed + counts.quarantined,
        "total": counts.total(),
        "queue_depth": counts.needed,
        "queue_received": counts.received,
        "queue_blocked": counts.blocked,
        "nodes": machines.len(),
        "nodes_online": online.count(),
        "total_cores": cores,
        "paused": shared.read(|state| state.paused().is_some()),
        "session": session.as_ref().map(self::session),
        "packages": packages,
        "drones": drones,
        "drone_health": health,
        "timing": {
            "average_build_s": average_ms.map(|average_ms| average_ms / 1_000),
            "uptime_s": uptime_ms(shared) / 1_000,
        },
        "version": env!("CARGO_PKG_VERSION"),
        "as_of": { "index": shared.read(State::applied_index), "age_ms": shared.consensus.status().age_ms() },
    })
}

/// The first that wait, and the first that are blocked.
fn named_packages(state: &State) -> Map<String, Value> {
    let needed = state.waiting().flat_map(|(_, jobs)| jobs.take(NAMED_MAX)).map(|job| job.spec.target.as_str());
    let needed: Vec<&str> = needed.take(NAMED_MAX).collect();
    let blocked = state.aging_blocks().map(|(_, job)| job.spec.target.as_str());
    let blocked: Vec<&str> = blocked.take(NAMED_MAX).collect();
    Map::from_iter([("needed".to_owned(), json!(needed)), ("blocked".to_owned(), json!(blocked))])
}

fn average_ms(state: &State) -> Option<u64> {
    let known = state.packages().map(|(_, record)| record.estimate(None, None)).filter(|known| known.samples > 0);
    let (count, sum_ms) = known.fold((0u64, 0u64), |(count, sum), known| (count + 1, sum.saturating_add(known.p50_ms)));
    (count > 0).then(|| sum_ms / count)
}

fn word_of(state: JobState) -> &'static str {
    match state {
        JobState::Needed => "needed",
        JobState::Delegated => "delegated",
        JobState::Received => "received",
        JobState::Blocked => "blocked",
        JobState::Failed | JobState::Quarantined => "failed",
        JobState::Cancelled => "cancelled",
    }
}

fn queue(shared: &Shared, limit: Option<usize>) -> Value {
    let limit = limit.unwrap_or(QUEUE_DEFAULT).min(ROWS_MAX);
    let row = |state: &State, job: &Job| {
        let last = job.attempts.last();
        let failures = job.attempts.iter().filter(|attempt| attempt.class == Some(FailureClass::Build)).count();
        json!({
            "id": job.ordinal,
            "package": job.spec.target,
            "status": word_of(state.shown_state(job)),
            "assigned_to": job.live_attempt().map(|attempt| state.name_of(&attempt.node)),
            "failures": failures,
            "error_message": job.reason,
            "assigned_at": last.map(|attempt| seconds(attempt.assigned_at)),
            "completed_at": last.filter(|_| job.state.is_terminal()).and_then(|last| last.ended_at).map(seconds),
        })
    };
    shared.read(|state| {
        let open = state.jobs().filter(|job| !job.state.is_terminal()).take(limit);
        let mut rows: Vec<&Job> = open.collect();
        let over = state.jobs().rev().filter(|job| job.state.is_terminal());
        rows.extend(over.take(limit.saturating_sub(rows.len())));
        rows.sort_by_key(|job| job.ordinal);
        Value::Array(rows.into_iter().map(|job| row(state, job)).collect())
    })
}

fn session(line: &SessionLine) -> Value {
    json!({
        "id": line.id.to_string(),
        "name": line.name,
        "status": line.status,
        "total_packages": line.total_packages,
        "completed_packages": line.completed_packages,
        "failed_packages": line.failed_packages,
        "profile_id": line.profile_id,
        "started_at": seconds(line.started_at),
        "completed_at": line.completed_at.map(seconds),
    })
}

async fn history(shared: &Shared, session: Option<String>, limit: Option<usize>) -> ApiResult<Value> {
    let limit = limit.unwrap_or(HISTORY_DEFAULT).min(HISTORY_MAX);
    let found = past::history(shared, HistoryQuery { session, limit, ..HistoryQuery::default() }).await?;
    let lines = found.history;
    let count = |state: AttemptState| lines.iter().filter(|line| line.state == state).count() as u64;
    let (total, success) = (lines.len() as u64, count(AttemptState::Accepted));
    let known: Vec<u64> = lines.iter().filter_map(|line| line.duration_ms).collect();
    let average_ms = known.iter().sum::<u64>().checked_div(known.len() as u64);
    Ok(json!({
        "history": lines.iter().map(history_row).collect::<Vec<_>>(),
        "stats": {
            "total": total,
            "success": success,
            "failed": count(AttemptState::Failed) + count(AttemptState::Lost),
            "success_rate": percent_of(success, total),
            "avg_duration_s": average_ms.map(|average_ms| average_ms as f64 / 1_000.0),
        },
    }))
}

fn history_row(line: &HistoryLine) -> Value {
    let status = match line.state {
        AttemptState::Accepted => "success",
        AttemptState::Failed | AttemptState::Lost => "failed",
        AttemptState::Stale => "returned",
        AttemptState::Cancelled => "cancelled",
        AttemptState::Assigned | AttemptState::Building | AttemptState::Uploading => "building",
    };
    json!({
        "id": format!("{}/{}", line.job, line.attempt),
        "package": line.target,
        "drone_id": line.drone,
        "drone_name": line.drone,
        "status": status,
        "duration_seconds": line.duration_ms.map(|duration_ms| duration_ms as f64 / 1_000.0),
        "error_message": line.reason,
        "session_id": line.session.to_string(),
        "built_at": line.ended_at.map(seconds),
    })
}

fn packages(shared: &Shared, package: Option<&str>, limit: Option<usize>) -> Value {
    let limit = limit.unwrap_or(ROWS_MAX).min(ROWS_MAX);
    let wanted = package.map(crate::engine::grammar::package_of_atom);
    let lines = shared.read(|state| past::packages(state, usize::MAX)).packages.into_iter();
    let lines = lines.filter(|line| wanted.is_none_or(|wanted| line.package == wanted)).take(limit);
    let row = |line: crate::api::PackageLine| {
        json!({
            "package": line.package,
            "attempts": line.attempts,
            "successes": line.successes,
            "tried_on": line.tried_on,
            "last_attempt": seconds(line.last_attempt),
        })
    };
    json!({ "packages": lines.map(row).collect::<Vec<_>>() })
}

async fn versions(shared: &Arc<Shared>) -> Value {
    let machines = machines(shared).await;
    let drone = |machine: &Machine| json!({ "id": machine.id, "name": machine.name, "version": machine.version });
    json!({
        "control_plane": env!("CARGO_PKG_VERSION"),
        "drones": machines.iter().map(drone).collect::<Vec<_>>(),
    })
}

fn health(shared: &Shared, machine: &Machine) -> Value {
    let hive_ms = shared.hive_ms(now_ms());
    let until = |until_ms: u64| {
        let left_ms = until_ms.saturating_sub(hive_ms);
        (left_ms > 0).then(|| seconds(UnixMillis(unix_now().0.saturating_add(left_ms))))
    };
    let record = &machine.record;
    json!({
        "node_id": machine.id,
        "name": machine.name,
        "status": if machine.online { "online" } else { "offline" },
        "failures": record.infra_failures,
        "grounded_until": until(record.grounded_until_ms),
        "upload_failures": record.upload_failures,
        "uploads_paused_until": until(record.uploads_paused_until_ms),
    })
}

async fn past_events(
    shared: &Shared,
    since: Option<f64>,
    kind: Option<String>,
    drone: Option<String>,
    limit: Option<usize>,
) -> ApiResult<Value> {
    let limit = limit.unwrap_or(EVENTS_DEFAULT).min(EVENTS_MAX);
    // A word that the hive has no events of is no error: there are none.
    let wanted = kind.as_deref().map(EventKind::from_word);
    if wanted == Some(None) {
        return Ok(json!({ "events": [], "total": 0 }));
    }
    let query = EventQuery { since: None, kind: wanted.flatten(), drone, until: None, limit };
    let list = events::find(shared, query).await?;
    let after = |event: &&Event| since.is_none_or(|since| seconds(event.at) > since);
    let rows: Vec<Value> = list.events.iter().filter(after).map(event).collect();
    Ok(json!({ "total": rows.len(), "events": rows }))
}

/// The old swarm's lines name what they are about.
fn message(event: &Event) -> String {
    let about =
        [event.package.as_deref(), event.drone.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" on ");
    let parts = [event.kind.as_str(), about.as_str(), event.message.as_str()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}

fn event(event: &Event) -> Value {
    json!({
        "id": event.id,
        "timestamp": seconds(event.at),
        "event_type": event.kind.as_str(),
        "type": event.kind.as_str(),
        "message": message(event),
        "details": { "job": event.job, "session": event.session },
        "drone_id": event.drone,
        "package": event.package,
    })
}

/// The tree that the newest waiting work was resolved with, else that of most drones.
fn portage_config(shared: &Shared) -> Value {
    let tree = shared.read(|state| {
        let label = |needs: &crate::engine::job::Needs| {
            needs.labels.iter().find_map(|label| label.strip_prefix("tree:").map(str::to_owned))
        };
        let wanted = state.waiting().find_map(|(needs, _)| label(needs));
        let mut trees: BTreeMap<&str, usize> = BTreeMap::new();
        for tree in state.machines().filter_map(|machine| machine.inventory.tree.as_deref()) {
            *trees.entry(tree).or_default() += 1;
        }
        let usual = trees.into_iter().min_by_key(|(tree, count)| (Reverse(*count), *tree)).map(|(tree, _)| tree);
        wanted.or_else(|| usual.map(str::to_owned))
    });
    json!({ "portage_timestamp": tree })
}

async fn metrics(shared: &Arc<Shared>, since: Option<f64>, node: Option<&str>) -> Value {
    let counts = shared.read(State::counts);
    let machines = machines(shared).await;
    let wanted = |machine: &&Machine| node.is_none_or(|node| machine.name == node || machine.id == node);
    let drones: Map<String, Value> =
        machines.iter().filter(wanted).map(|machine| (machine.name.clone(), metrics_of(machine))).collect();
    json!({
        "timestamp": seconds(unix_now()),
        "history": shared.legacy.samples.rows(since.unwrap_or(0.0), node),
        "current_queue": {
            "needed": counts.needed, "delegated": counts.delegated, "received": counts.received,
            "blocked": counts.blocked,
        },
        "drones": drones,
    })
}
