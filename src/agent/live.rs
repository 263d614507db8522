//! What pages that follow are told by this node: where its copy is, what changed, and how the members are doing.
//!
//! Never done here: putting messages together (`web::live` does).

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::node_api::Api;
use super::shared::{Shared, StatusReport};
use super::{internal, views};
use crate::api::{LiveChanges, NodeMetrics};
use crate::consensus::touched::Touched;
use crate::engine::event::EventKind;
use crate::engine::member::Member;
use crate::engine::state::{State, table};
use crate::web::node::{Answer, LiveApi};

/// Most jobs named in one message.
const JOBS_MAX: usize = 50;
/// Events that are looked at for what an operator did.
const EVENTS_MAX: usize = 1_000;

/// Tables by the word under which what shows them is asked for.
const KINDS: [(&str, &[u8]); 6] = [
    ("jobs", &[table::JOBS, table::HISTORY]),
    ("sessions", &[table::SESSIONS]),
    ("nodes", &[table::MEMBERS, table::RAFT_IDS]),
    ("fleet", &[table::DRONES, table::LEGACY]),
    ("access", &[table::KEYS]),
    ("audit", &[table::AUDIT]),
];

impl LiveApi for Api {
    fn moved(&self, index: u64) -> BoxFuture<'static, u64> {
        let mut status = self.shared.consensus.replica().watch();
        async move {
            let past = |applied: u64| applied > index;
            let moved = status.wait_for(|status| status.applied.is_some_and(|applied| past(applied.index))).await;
            match moved.map(|status| status.applied.map(|applied| applied.index)) {
                Ok(Some(applied)) => applied,
                Ok(None) | Err(_) => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn changes(&self, since: u64) -> LiveChanges {
        let replica = self.shared.consensus.replica();
        let index = replica.status().applied.map_or(0, |applied| applied.index);
        let touched = replica.touched().since(since);
        let after = since.saturating_add(1).saturating_mul(crate::engine::event::PER_ENTRY).saturating_sub(1);
        let operator = |kind| matches!(kind, EventKind::Control);
        let controlled = !replica.events().after(after, EVENTS_MAX, |event| operator(event.kind)).is_empty();
        self.shared.read(|state| changes_of(state, index, &touched, controlled))
    }

    fn newest_event(&self) -> u64 {
        self.shared.consensus.replica().events().bounds().map_or(0, |(_, newest)| newest)
    }

    fn oldest_event(&self) -> Answer<'_, Option<u64>> {
        async move {
            let in_memory = self.shared.consensus.replica().events().bounds().map(|(oldest, _)| oldest);
            let on_disk = match &self.shared.event_db {
                Some(db) => db.oldest().await.map_err(internal)?,
                None => None,
            };
            Ok(in_memory.into_iter().chain(on_disk).min())
        }
        .boxed()
    }

    fn node_metrics(&self) -> Vec<NodeMetrics> {
        all_metrics(&self.shared)
    }
}

/// How the members are doing.
pub(super) fn all_metrics(shared: &Shared) -> Vec<NodeMetrics> {
    let members: Vec<Member> = shared.read(|state| state.members().filter(|member| !member.left).cloned().collect());
    members.iter().map(|member| metrics_of(shared, member)).collect()
}

fn changes_of(state: &State, index: u64, touched: &Touched, controlled: bool) -> LiveChanges {
    let has = |tables: &[u8]| tables.iter().any(|table| touched.has(*table));
    let kinds = KINDS.iter().filter(|(_, tables)| has(tables)).map(|(word, _)| (*word).to_owned());
    let kinds: Vec<String> = kinds.chain(controlled.then(|| "control".to_owned())).collect();
    let named = touched.jobs.iter().filter_map(|ordinal| Some(state.job_at(*ordinal)?.spec.id));
    let jobs: Vec<_> = named.take(JOBS_MAX).collect();
    // Those that are no longer in memory are history now.
    let more_jobs = touched.more || jobs.len() < touched.jobs.len();
    LiveChanges { index, kinds, jobs, more_jobs }
}

fn metrics_of(shared: &Shared, member: &Member) -> NodeMetrics {
    let peer = &member.info.peer_id;
    let own = *peer == shared.me.peer_id;
    let report: Option<StatusReport> =
        if own { Some(views::own_report(shared)) } else { shared.soft(|soft| soft.reports.get(peer).cloned()) };
    let building = shared.read(|state| state.live_attempts_len(peer));
    NodeMetrics {
        name: member.display_name.clone(),
        load1: report.as_ref().map(|report| f64::from(report.load_centi) / 100.0),
        cores: member.info.inventory.cpu_cores,
        cpu_percent: report.as_ref().and_then(|report| report.cpu_percent),
        ram_percent: report.as_ref().and_then(|report| report.ram_percent),
        building: u32::try_from(building).unwrap_or(u32::MAX),
        disk_free_bytes: report.as_ref().map(|report| report.disk_free_bytes),
    }
}
