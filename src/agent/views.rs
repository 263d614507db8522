//! The replicated state and this node's soft state, put together into the shapes that people and scripts see.
//!
//! Never done here: changing anything, or asking another node.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::shared::{Shared, Soft, StatusReport};
use super::{condition, vitals};
use crate::api::{
    AttemptView, Coordinator, JobLine, JobView, LogStatus, MemberState, MemberStatus, NodePhase, NodeView, PeersEntry,
    PeersFile, PeersSelf, QueueStatus, RaftPart, SelfStatus, Status,
};
use crate::clock::{now_ms, unix_now};
use crate::consensus::ConsensusStatus;
use crate::discovery::LegacyPeerView;
use crate::engine::id::{Epoch, HiveId, PeerId};
use crate::engine::job::{Attempt, Job, JobState};
use crate::engine::member::Member;
use crate::engine::role::FOUNDER;
use crate::engine::state::{QueueCounts, State};
use crate::store::space::measure;

/// `hive status`.
pub(super) fn status(shared: &Shared) -> Status {
    let consensus = shared.consensus.status();
    let hive = shared.hive();
    // Raft remembers the last leader; one that nobody has heard for a while coordinates nothing.
    let leads = consensus.quorum || consensus.age_ms() < COORDINATOR_SHOWN_MS;
    // One look at the state: each may have to wait for an entry that is being applied.
    let (known, leader_name, queue) = shared.read(|state| {
        let known: Vec<Member> = state.members().cloned().collect();
        let leader_name = consensus.leader.as_ref().map(|peer| state.name_of(peer).to_owned());
        (known, leader_name, queue_status(state))
    });
    let coordinator = consensus.leader.as_ref().zip(leader_name).filter(|_| leads).map(|(peer, name)| Coordinator {
        name,
        peer_id: peer.clone(),
        term: consensus.term,
    });
    let mut members: Vec<MemberStatus> = known.iter().map(|member| member_status(shared, &consensus, member)).collect();
    members.extend(legacy_list(shared));
    members.sort_by(|left, right| left.name.cmp(&right.name));
    Status {
        hive_id: hive.map(|(hive_id, _)| hive_id),
        this: SelfStatus {
            name: shared.me.name.clone(),
            peer_id: shared.me.peer_id.clone(),
            role: shared.soft(|soft| soft.identity.as_ref().map(|identity| identity.role.clone())),
            state: phase(shared),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: now_ms().saturating_sub(shared.me.started_ms),
            artifact_bytes: shared.soft(|soft| soft.artifacts.bytes),
        },
        quorum: consensus.quorum,
        coordinator,
        notices: condition::notices(shared, &consensus, &members),
        degraded: condition::degraded(shared, &consensus, &members),
        members,
        log: log_status_of(&consensus, hive),
        queue,
        as_of: unix_now(),
    }
}

/// What the node is doing.
pub(super) fn phase(shared: &Shared) -> NodePhase {
    shared.soft(|soft| soft.phase).unwrap_or(NodePhase::Seeking)
}

/// Where this node stands in the log.
pub(super) fn log_status(shared: &Shared) -> LogStatus {
    log_status_of(&shared.consensus.status(), shared.hive())
}

fn log_status_of(consensus: &ConsensusStatus, hive: Option<(HiveId, Epoch)>) -> LogStatus {
    LogStatus {
        epoch: hive.map_or(0, |(_, epoch)| epoch.counter),
        epoch_id: hive.map(|(_, epoch)| epoch.id),
        applied: consensus.applied.map_or(0, |point| point.index),
        committed: consensus.committed.unwrap_or(0),
        age_ms: consensus.age_ms(),
    }
}

fn queue_status(state: &State) -> QueueStatus {
    QueueStatus { paused: state.paused().is_some(), ..counts(&state.counts()) }
}

/// Jobs by state.
pub(super) fn counts(counts: &QueueCounts) -> QueueStatus {
    QueueStatus {
        needed: counts.needed,
        delegated: counts.delegated,
        building: counts.building,
        received: counts.received,
        blocked: counts.blocked,
        failed: counts.failed,
        cancelled: counts.cancelled,
        quarantined: counts.quarantined,
        paused: false,
    }
}

/// The role shown for a member: what it claimed, else that it founded the hive.
pub(super) fn role_of(member: &Member) -> Option<String> {
    match &member.role {
        Some(claim) => Some(claim.role.clone()),
        None => member.founder.then(|| FOUNDER.to_owned()),
    }
}

fn member_status(shared: &Shared, consensus: &ConsensusStatus, member: &Member) -> MemberStatus {
    let peer = &member.info.peer_id;
    let state = if member.left { MemberState::Left } else { shared.liveness(peer) };
    let (load, staging, heard_ms) = if *peer == shared.me.peer_id {
        (Some(load_centi()), shared.staging.is_some(), Some(now_ms()))
    } else {
        let look = |soft: &Soft| {
            let report = soft.reports.get(peer);
            (report.map(|report| report.load_centi), report.is_some_and(|report| report.staging.is_some()))
        };
        let ((load, staging), heard_ms) = shared.soft(|soft| (look(soft), soft.heard_ms.get(peer).copied()));
        (load, staging, heard_ms)
    };
    MemberStatus {
        name: member.display_name.clone(),
        peer_id: Some(peer.clone()),
        addresses: member.info.addresses.clone(),
        role: role_of(member),
        state,
        raft: raft_part(consensus, member),
        version: member.info.version.clone(),
        last_seen_ms: heard_ms.map(|at| now_ms().saturating_sub(at)),
        staging,
        load: load.map(|centi| f64::from(centi) / 100.0),
        cores: member.info.inventory.cpu_cores,
        founder: member.founder,
    }
}

fn raft_part(consensus: &ConsensusStatus, member: &Member) -> RaftPart {
    let peer = &member.info.peer_id;
    if consensus.voters.iter().any(|voter| voter.peer_id == *peer) {
        RaftPart::Voter
    } else if consensus.standbys.iter().any(|standby| standby.peer_id == *peer) {
        RaftPart::Standby
    } else if member.left {
        RaftPart::None
    } else {
        RaftPart::Observer
    }
}

fn legacy_list(shared: &Shared) -> Vec<MemberStatus> {
    let row = |peer: &LegacyPeerView| MemberStatus {
        name: peer.hostname.clone(),
        peer_id: None,
        addresses: vec![peer.ip.to_string()],
        role: peer.role.clone(),
        state: MemberState::Legacy,
        raft: RaftPart::None,
        version: "v1".to_owned(),
        last_seen_ms: Some(peer.last_seen_ms),
        load: None,
        cores: 0,
        founder: false,
        staging: false,
    };
    shared.discovery.snapshot().legacy_peers.iter().map(row).collect()
}

/// Jobs named of those that another one waits for.
const HELD_SHOWN_MAX: usize = 3;
/// A node whose copy of the state is so old does not see its assignments.
const BLIND_MS: u64 = 5_000;

/// A coordinator without a quorum is shown for so long: a single late packet must not make it vanish.
const COORDINATOR_SHOWN_MS: u64 = 2_000;

/// What this node publishes about itself.
pub(super) fn own_report(shared: &Shared) -> StatusReport {
    let building = shared.read(|state| state.live_attempts_len(&shared.me.peer_id));
    let consensus = shared.consensus.status();
    StatusReport {
        load_centi: load_centi(),
        building: u32::try_from(building).unwrap_or(u32::MAX),
        disk_free_bytes: disk_free_bytes(shared),
        disk_low: consensus.low_space,
        slots: Some(own_slots(shared)),
        commit_p99_ms: consensus.fsync_p99_ms,
        raft_id: consensus.raft_id,
        halted: consensus.halted.is_some(),
        staging: shared.staging.is_some().then(|| shared.soft(|soft| soft.staging.ordinal)),
        sync: shared.soft(|soft| soft.tree_sync.as_ref().and_then(|syncer| syncer.told(now_ms()))),
        cpu_percent: vitals::cpu_percent(),
        ram_percent: vitals::ram_percent(),
        received_ms: now_ms(),
    }
}

/// Attempts that this node runs side by side; none while it cannot.
pub(super) fn own_slots(shared: &Shared) -> u32 {
    let consensus = shared.consensus.status();
    // Who does not see what it is given must be given nothing.
    let blind = consensus.halted.is_some() || consensus.age_ms() > BLIND_MS;
    let unable = blind || shared.executor.capabilities().unable.is_some();
    if unable { 0 } else { shared.config.build.slots }
}

/// Free bytes of the state directory; 0 where that cannot be told.
pub(super) fn disk_free_bytes(shared: &Shared) -> u64 {
    measure(&shared.config.state_dir).map_or(0, |(free, _)| free)
}

/// Load average over one minute in hundredths, from the kernel; 0 where it cannot be read.
fn load_centi() -> u32 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    // A load of more than 40 million is not a measurement.
    (load * 100.0).clamp(0.0, f64::from(u32::MAX)) as u32
}

/// All nodes with what they are.
pub(super) fn nodes(shared: &Shared) -> Vec<NodeView> {
    let view = |member: MemberStatus| {
        let inventory = member
            .peer_id
            .as_ref()
            .and_then(|peer| shared.read(|state| state.member(peer).map(|member| member.info.inventory.clone())));
        NodeView { member, inventory }
    };
    status(shared).members.into_iter().map(view).collect()
}

/// `peers.json`.
pub(super) fn peers(shared: &Shared) -> PeersFile {
    let split = |address: Option<&String>| {
        let parsed: Option<SocketAddr> = address.and_then(|address| address.parse().ok());
        parsed.map_or((String::new(), shared.config.port), |address| (address.ip().to_string(), address.port()))
    };
    let me = Some(&shared.me.peer_id);
    let peers = status(shared).members.into_iter().filter(|member| member.peer_id.as_ref() != me).map(|member| {
        let (ip, port) = split(member.addresses.first());
        PeersEntry { hostname: member.name, ip, role: member.role, peer_id: member.peer_id, port, state: member.state }
    });
    PeersFile {
        this: PeersSelf {
            hostname: shared.me.name.clone(),
            primary_ip: shared.own_addresses().first().map(|address| address.ip().to_string()).unwrap_or_default(),
            role: shared.soft(|soft| soft.identity.as_ref().map(|identity| identity.role.clone())),
            peer_id: shared.me.peer_id.clone(),
        },
        peers: peers.collect(),
    }
}

fn attempt_view(state: &State, attempt: &Attempt) -> AttemptView {
    AttemptView {
        attempt: attempt.attempt,
        token: attempt.token,
        node: state.name_of(&attempt.node).to_owned(),
        state: attempt.state,
        started_at: attempt.started_at,
        ended_at: attempt.ended_at,
        class: attempt.class,
        reason: attempt.reason.clone(),
        exit_code: attempt.exit_code,
    }
}

/// `hive job show`. `waiting_for` is what the planner said, where it is known here.
pub(super) fn job_view(state: &State, job: &Job, waiting_for: Option<String>) -> JobView {
    JobView {
        id: job.spec.id,
        session: job.session,
        state: state.shown_state(job),
        backend: job.spec.work.backend().to_owned(),
        target: job.spec.target.clone(),
        priority: job.spec.priority,
        labels: job.spec.labels.iter().cloned().collect(),
        pure: job.spec.pure,
        submitter: job.submitter.clone(),
        submitted_at: job.submitted_at,
        attempts: job.attempts.iter().map(|attempt| attempt_view(state, attempt)).collect(),
        artifacts: job.artifacts.clone(),
        waiting_for: held_by(state, job).or(waiting_for).or_else(|| waiting_sentence(job)),
        reason: job.reason.clone(),
        depends_on: job.spec.depends_on.iter().copied().collect(),
        joined: job.joined,
        estimate_ms: estimate_ms(state, job),
    }
}

/// A line of `hive queue list`.
pub(super) fn job_line(state: &State, job: &Job) -> JobLine {
    JobLine {
        id: job.spec.id,
        state: state.shown_state(job),
        backend: job.spec.work.backend().to_owned(),
        target: job.spec.target.clone(),
        priority: job.spec.priority,
        node: job.attempts.last().map(|attempt| state.name_of(&attempt.node).to_owned()),
        attempts: u32::try_from(job.attempts.len()).unwrap_or(u32::MAX),
        submitted_at: job.submitted_at,
        waiting_for: held_by(state, job).or_else(|| waiting_sentence(job)),
        session: Some(job.session),
        depends_on: job.spec.depends_on.iter().copied().collect(),
        joined: job.joined,
        estimate_ms: estimate_ms(state, job),
    }
}

/// How long builds like it took, if there were any.
fn estimate_ms(state: &State, job: &Job) -> Option<u64> {
    let estimate = state.estimate(job, None);
    (estimate.samples > 0).then_some(estimate.p50_ms)
}

/// Other jobs that keep a job from running.
fn held_by(state: &State, job: &Job) -> Option<String> {
    if job.state != JobState::Needed {
        return None;
    }
    if let Some(joined) = job.joined {
        return Some(format!("does the same as job {joined}, and ends as that one does"));
    }
    let wait = state.wait(&job.spec.id)?;
    if let Some(dead) = wait.dead.first() {
        let why = dead.reason.as_deref().map_or_else(String::new, |why| format!(": {why}"));
        let how = match state.shown_state(dead) {
            JobState::Failed => "which failed",
            JobState::Blocked => "which is blocked",
            JobState::Cancelled => "which was cancelled",
            JobState::Quarantined => "which is quarantined",
            JobState::Needed | JobState::Delegated | JobState::Received => "which is not to be had",
        };
        return Some(format!("needs {}, {how}{why}", dead.spec.target));
    }
    if wait.lost {
        return Some("needs a job that ended badly long ago".to_owned());
    }
    let shown: Vec<&str> = wait.pending.iter().take(HELD_SHOWN_MAX).map(|job| job.spec.target.as_str()).collect();
    let more = if wait.pending.len() > shown.len() { " …" } else { "" };
    let count = wait.pending.len();
    let jobs = if count == 1 { "job" } else { "jobs" };
    (count > 0).then(|| format!("waits for {count} {jobs}: {}{more}", shown.join(", ")))
}

/// What a job waits for as far as the state alone tells.
fn waiting_sentence(job: &Job) -> Option<String> {
    match job.state {
        JobState::Needed => Some("a drone with room for it".to_owned()),
        JobState::Blocked => Some(job.reason.clone().unwrap_or_else(|| "being unblocked".to_owned())),
        JobState::Delegated | JobState::Received | JobState::Failed | JobState::Cancelled | JobState::Quarantined => {
            None
        }
    }
}

/// Members that are voters, for placing copies: they are the ones that are looked after best.
pub(super) fn voters(consensus: &ConsensusStatus) -> BTreeSet<PeerId> {
    consensus.voters.iter().map(|voter| voter.peer_id.clone()).collect()
}
