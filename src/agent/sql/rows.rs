//! Rows of the tables, made from this node's copy of the state, from its history and from what it hears.
//!
//! The state is read piece by piece, so that nobody who writes waits for whoever looks; a table of a busy hive is therefore no single
//! moment of it. Never done here: keeping rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::agent::sessions;
use crate::agent::shared::Shared;
use crate::agent::views;
use crate::api::{MemberState, SessionState};
use crate::clock::{now_ms, unix_now};
use crate::engine::event::Event;
use crate::engine::id::{PeerId, UnixMillis};
use crate::engine::job::{Attempt, Job};
use crate::engine::legacy::OFFLINE_AFTER_MS;
use crate::engine::state::{Machine, State};
use crate::store::explorer::Cell;
use crate::web::node::SessionQuery;

/// Jobs read before others may write: about a millisecond.
const PIECE: usize = 500;

/// What a drone of the Python swarm said and when it was heard, by drone.
pub(super) type Heard = BTreeMap<PeerId, (u64, crate::engine::legacy::Vitals)>;

fn text(text: impl Into<String>) -> Cell {
    Cell::Text(text.into())
}

fn maybe<T: Into<String>>(text: Option<T>) -> Cell {
    text.map_or(Cell::Null, |text| Cell::Text(text.into()))
}

fn integer(number: u64) -> Cell {
    Cell::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn flag(flag: bool) -> Cell {
    Cell::Integer(i64::from(flag))
}

fn seconds(millis: u64) -> Cell {
    Cell::Real(millis as f64 / 1_000.0)
}

fn at(at: Option<UnixMillis>) -> Cell {
    at.map_or(Cell::Null, |at| seconds(at.0))
}

fn joined<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> Cell {
    text(words.into_iter().map(|word| word.as_ref().to_owned()).collect::<Vec<_>>().join(" "))
}

/// The word that JSON has for it.
fn word<T: serde::Serialize>(value: &T) -> Cell {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Cell::Text(word),
        _ => Cell::Null,
    }
}

/// Which tables are wanted of the jobs. All of them come from one walk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OfJobs {
    pub(super) jobs: bool,
    pub(super) attempts: bool,
    pub(super) dependencies: bool,
    pub(super) artifacts: bool,
}

/// Rows of some jobs.
#[derive(Debug, Default)]
pub(super) struct JobRows {
    pub(super) jobs: Vec<Vec<Cell>>,
    pub(super) attempts: Vec<Vec<Cell>>,
    pub(super) dependencies: Vec<Vec<Cell>>,
    pub(super) artifacts: Vec<Vec<Cell>>,
}

impl JobRows {
    fn add(&mut self, state: &State, job: &Job, wanted: OfJobs) {
        if wanted.jobs {
            self.jobs.push(job_row(state, job));
        }
        if wanted.attempts {
            self.attempts.extend(job.attempts.iter().map(|attempt| attempt_row(state, job, attempt)));
        }
        if wanted.dependencies {
            let id = job.spec.id.to_string();
            let edges = job.spec.depends_on.iter().map(|other| vec![text(&id), text(other.to_string())]);
            self.dependencies.extend(edges);
        }
        if wanted.artifacts {
            let node = job.artifact_node.as_ref().map(|peer| state.name_of(peer).to_owned());
            let rows = job.artifacts.iter().map(|artifact| {
                let id = text(job.spec.id.to_string());
                let (name, sha256) = (text(&artifact.name), text(artifact.sha256.to_string()));
                vec![id, name, sha256, integer(artifact.size), maybe(node.clone())]
            });
            self.artifacts.extend(rows);
        }
    }
}

/// The next rows of jobs in memory; `from` moves on, and is none after the last.
pub(super) fn next_jobs(shared: &Shared, from: &mut Option<u64>, wanted: OfJobs) -> JobRows {
    let Some(begin) = *from else { return JobRows::default() };
    let mut rows = JobRows::default();
    *from = shared.read(|state| {
        let mut jobs = state.jobs_from(begin);
        jobs.by_ref().take(PIECE).for_each(|job| rows.add(state, job, wanted));
        jobs.next().map(|job| job.ordinal)
    });
    rows
}

/// Rows of jobs that are history.
pub(super) fn past_jobs(shared: &Shared, jobs: &[Job], wanted: OfJobs) -> JobRows {
    let mut rows = JobRows::default();
    shared.read(|state| jobs.iter().for_each(|job| rows.add(state, job, wanted)));
    rows
}

fn job_row(state: &State, job: &Job) -> Vec<Cell> {
    let (spec, last) = (&job.spec, job.attempts.last());
    let estimate = state.estimate(job, None);
    vec![
        text(spec.id.to_string()),
        integer(job.ordinal),
        text(job.session.to_string()),
        word(&state.shown_state(job)),
        text(spec.work.backend()),
        text(spec.package()),
        text(&spec.target),
        Cell::Integer(spec.priority.into()),
        joined(&spec.labels),
        flag(spec.pure),
        text(&job.submitter),
        at(Some(job.submitted_at)),
        maybe(last.map(|last| state.name_of(&last.node))),
        at(last.map(|last| last.assigned_at)),
        at(last.and_then(|last| last.started_at)),
        at(last.and_then(|last| last.ended_at).filter(|_| job.state.is_terminal())),
        integer(job.attempts.len() as u64),
        integer(job.tally.build_failures.into()),
        integer(job.tally.infra_failures.into()),
        integer(spec.depends_on.len() as u64),
        maybe(job.joined.map(|id| id.to_string())),
        if estimate.samples > 0 { seconds(estimate.p50_ms) } else { Cell::Null },
        maybe(job.reason.clone()),
        integer(job.artifacts.len() as u64),
        integer(job.artifacts.iter().map(|artifact| artifact.size).sum()),
    ]
}

fn attempt_row(state: &State, job: &Job, attempt: &Attempt) -> Vec<Cell> {
    let duration_ms = attempt.started_at.zip(attempt.ended_at).map(|(from, to)| to.0.saturating_sub(from.0));
    vec![
        text(job.spec.id.to_string()),
        integer(attempt.attempt.into()),
        text(job.session.to_string()),
        text(job.spec.package()),
        text(&job.spec.target),
        text(attempt.node.to_string()),
        text(state.name_of(&attempt.node)),
        word(&attempt.state),
        at(Some(attempt.assigned_at)),
        at(attempt.started_at),
        at(attempt.ended_at),
        duration_ms.map_or(Cell::Null, seconds),
        attempt.class.as_ref().map_or(Cell::Null, word),
        maybe(attempt.reason.clone()),
        attempt.exit_code.map_or(Cell::Null, |code| Cell::Integer(code.into())),
    ]
}

/// Rows of sessions.
pub(super) fn sessions(shared: &Shared) -> Vec<Vec<Cell>> {
    let list = shared.read(|state| sessions::list(state, SessionQuery { open: false, limit: usize::MAX }));
    let row = |line: crate::api::SessionLine| {
        let phase: SessionState = line.phase;
        vec![
            text(line.id.to_string()),
            text(line.name),
            text(line.status),
            integer(line.total_packages),
            integer(line.completed_packages),
            integer(line.failed_packages),
            maybe(line.profile_id),
            at(Some(line.started_at)),
            at(line.completed_at),
            word(&phase),
            text(line.submitter),
        ]
    };
    list.sessions.into_iter().map(row).collect()
}

/// Rows of packages.
pub(super) fn packages(shared: &Shared) -> Vec<Vec<Cell>> {
    shared.read(|state| {
        let rows = state.packages().map(|(package, record)| {
            let estimate = record.estimate(None, None);
            let known = |millis| if estimate.samples > 0 { seconds(millis) } else { Cell::Null };
            vec![
                text(package),
                integer(record.attempts),
                integer(record.successes),
                joined(record.tried_on.iter().map(|peer| state.name_of(peer))),
                at(Some(record.last_at)),
                known(estimate.p50_ms),
                known(estimate.p90_ms),
                integer(estimate.samples as u64),
            ]
        });
        rows.collect()
    })
}

/// What this node knows of a machine beside the state.
struct Seen {
    state: MemberState,
    heard_ms: Option<u64>,
    load_centi: Option<u32>,
}

/// Rows of machines.
pub(super) fn machines(shared: &Arc<Shared>, heard: &Heard) -> Vec<Vec<Cell>> {
    let members: BTreeMap<PeerId, crate::api::MemberStatus> = views::status(shared)
        .members
        .into_iter()
        .filter_map(|member| Some((member.peer_id.clone()?, member)))
        .collect();
    let peers: Vec<(PeerId, bool)> =
        shared.read(|state| state.machines().map(|machine| (machine.peer.clone(), machine.legacy)).collect());
    let now_ms = now_ms();
    let seen: BTreeMap<PeerId, Seen> =
        peers.into_iter().map(|(peer, legacy)| (peer.clone(), look(shared, heard, &peer, legacy, now_ms))).collect();
    let hive_ms = shared.hive_ms(now_ms);
    shared.read(|state| {
        let row = |machine: Machine<'_>| {
            let seen = seen.get(machine.peer)?;
            Some(machine_row(state, &machine, members.get(machine.peer), seen, (now_ms, hive_ms)))
        };
        state.machines().filter_map(row).collect()
    })
}

fn look(shared: &Arc<Shared>, heard: &Heard, peer: &PeerId, legacy: bool, now_ms: u64) -> Seen {
    if legacy {
        let known = heard.get(peer);
        let alive = known.is_some_and(|(heard_ms, _)| now_ms.saturating_sub(*heard_ms) < OFFLINE_AFTER_MS);
        return Seen {
            state: if alive { MemberState::Alive } else { MemberState::Down },
            heard_ms: known.map(|(heard_ms, _)| *heard_ms),
            load_centi: known.and_then(|(_, vitals)| vitals.load_centi),
        };
    }
    let own = *peer == shared.me.peer_id;
    let report =
        if own { Some(views::own_report(shared)) } else { shared.soft(|soft| soft.reports.get(peer).cloned()) };
    Seen {
        state: shared.liveness(peer),
        heard_ms: if own { Some(now_ms) } else { shared.soft(|soft| soft.heard_ms.get(peer).copied()) },
        load_centi: report.map(|report| report.load_centi),
    }
}

fn machine_row(
    state: &State,
    machine: &Machine<'_>,
    member: Option<&crate::api::MemberStatus>,
    seen: &Seen,
    (now_ms, hive_ms): (u64, u64),
) -> Vec<Cell> {
    let (inventory, record) = (machine.inventory, state.drone_record(machine.peer));
    let legacy = state.legacy_drone(machine.peer);
    let address = state.member(machine.peer).and_then(|member| member.info.addresses.first());
    let address = address.and_then(|address| address.rsplit_once(':')).map(|(ip, _)| ip);
    let joined_at = state.member(machine.peer).map(|member| member.joined_at);
    let until = |until_ms: u64| {
        let left_ms = until_ms.saturating_sub(hive_ms);
        if left_ms > 0 { seconds(unix_now().0.saturating_add(left_ms)) } else { Cell::Null }
    };
    let ago_ms = seen.heard_ms.map(|heard_ms| now_ms.saturating_sub(heard_ms));
    let running = state.live_attempts(machine.peer).map(|(job, _)| job.spec.target.as_str()).next();
    vec![
        text(machine.peer.to_string()),
        text(machine.name),
        maybe(address.or(legacy.map(|drone| drone.info.address.as_str()))),
        maybe(machine.role),
        word(&seen.state),
        member.map_or(Cell::Null, |member| word(&member.raft)),
        flag(machine.legacy),
        flag(state.sweeps(machine.peer)),
        text(&inventory.virt),
        text(&inventory.arch),
        text(&inventory.distro),
        integer(inventory.cpu_cores.into()),
        integer(inventory.ram_gb.into()),
        joined(&inventory.labels),
        maybe(inventory.tree.clone()),
        maybe(member.map(|member| member.version.clone()).or(legacy.map(|drone| drone.info.version.clone()))),
        seen.load_centi.map_or(Cell::Null, |centi| Cell::Real(f64::from(centi) / 100.0)),
        ago_ms.map_or(Cell::Null, |ago_ms| seconds(unix_now().0.saturating_sub(ago_ms))),
        at(joined_at.or(legacy.map(|drone| drone.registered_at))),
        integer(state.live_attempts_len(machine.peer) as u64),
        maybe(running),
        flag(record.paused.is_some()),
        flag(record.drain.is_some()),
        record.cores_limit.map_or(Cell::Null, |cores| integer(cores.into())),
        integer(record.infra_failures.into()),
        until(record.grounded_until_ms),
        integer(record.upload_failures.into()),
        until(record.uploads_paused_until_ms),
    ]
}

/// A row of an event.
pub(super) fn event(event: &Event) -> Vec<Cell> {
    vec![
        integer(event.id),
        at(Some(event.at)),
        text(event.kind.as_str()),
        text(&event.message),
        maybe(event.drone.clone()),
        maybe(event.package.clone()),
        maybe(event.job.map(|id| id.to_string())),
        maybe(event.session.map(|id| id.to_string())),
    ]
}

/// Rows of measurements.
pub(super) fn metrics(shared: &Shared) -> Vec<Vec<Cell>> {
    shared.legacy.samples.map(|at, queue, loads| {
        let row = |node: Cell, load: Cell| {
            let counts = [queue.needed, queue.delegated, queue.received, queue.blocked].map(integer);
            [vec![self::at(Some(at)), node, load], counts.to_vec()].concat()
        };
        let loads = loads.iter().map(|(name, load)| row(text(name), Cell::Real(f64::from(*load) / 100.0)));
        std::iter::once(row(Cell::Null, Cell::Null)).chain(loads).collect::<Vec<_>>()
    })
}
