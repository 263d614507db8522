//! Puts every accepted result that belongs into staging there, once, also those of the time when this node was away.
//!
//! ```text
//!   state: order of ending ──► results after the saved position ──► fetched, verified ──► put ──► index, position saved
//!                                       └── cannot be had now: tried again, the position stays before it
//! ```
//!
//! Putting twice changes nothing, so a crash anywhere costs nothing but time. Never done here: naming files (see
//! [`exec::staging`](crate::exec::staging)), removing what is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::shared::Shared;
use crate::agent::blobs;
use crate::clock::now_ms;
use crate::engine::id::JobId;
use crate::engine::job::{Job, Work};
use crate::exec::staging::{Incoming, Kind, Progress, PutError, Staging};

/// Shortest time between two looks at what ended; many results then share one index.
const ROUND: Duration = Duration::from_secs(1);
/// Longest time between two looks.
const IDLE: Duration = Duration::from_secs(30);
/// Results of one round: the position is saved and told after each.
const ROUND_MAX: usize = 64;
/// Before a result that could not be had is tried again; doubles.
const RETRY_MS: u64 = 5_000;
/// Longest pause before another try: an hour.
const RETRY_MAX_MS: u64 = 3_600_000;
/// So many tries take some three days, in which whoever has a file should have come back.
const TRIES_MAX: u32 = 80;

/// A result that could not be put yet.
struct Waiting {
    id: JobId,
    tries: u32,
    next_ms: u64,
}

#[derive(Default)]
struct Keeper {
    progress: Option<Progress>,
    /// Up to here the state was looked at.
    seen: u64,
    /// By position in the order of ending.
    waiting: BTreeMap<u64, Waiting>,
}

/// Runs until the agent ends; at once over where there is no staging directory.
pub(in crate::agent) async fn keep(shared: Arc<Shared>) {
    let Some(staging) = shared.staging.clone() else { return };
    let opened = {
        let staging = Arc::clone(&staging);
        tokio::task::spawn_blocking(move || staging.open_indexes()).await
    };
    if let Ok(Err(error)) = opened {
        tracing::error!(%error, "the index of the staging directory cannot be read or written");
    }
    let mut keeper = Keeper { progress: staging.progress(), ..Keeper::default() };
    let mut applied = shared.consensus.replica().watch();
    loop {
        let more = shared.is_member() && keeper.round(&shared, &staging).await;
        tokio::time::sleep(ROUND).await;
        if !more && let Ok(Err(_)) = tokio::time::timeout(IDLE, applied.changed()).await {
            return;
        }
    }
}

/// What kind of result belongs into staging; none: it does not.
fn kind_of(job: &Job) -> Option<Kind> {
    match &job.spec.work {
        Work::Portage { .. } => Some(Kind::Portage),
        Work::Debian { .. } => Some(Kind::Debian),
        Work::Maven { .. } => Some(Kind::Maven),
        Work::Command { .. } | Work::Resolve { .. } => None,
    }
}

impl Keeper {
    /// One look. True when there is more to do at once.
    async fn round(&mut self, shared: &Arc<Shared>, staging: &Arc<Staging>) -> bool {
        let Some((_, epoch)) = shared.hive() else { return false };
        let before = match self.progress {
            Some(progress) if progress.epoch == epoch.id => progress,
            // Another history: positions may mean other jobs. What is there already is recognised by its bytes.
            Some(_) | None => {
                (self.seen, self.waiting) = (0, BTreeMap::new());
                Progress { epoch: epoch.id, ordinal: 0 }
            }
        };
        self.progress = Some(before);
        self.seen = self.seen.max(before.ordinal);
        let mut ended = shared.read(|state| state.received_after(self.seen));
        let more = ended.len() > ROUND_MAX;
        ended.truncate(ROUND_MAX);
        let now_ms = now_ms();
        let again: Vec<(u64, JobId)> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.next_ms <= now_ms)
            .map(|(ordinal, waiting)| (*ordinal, waiting.id))
            .take(ROUND_MAX)
            .collect();
        for (ordinal, id) in again.into_iter().chain(ended) {
            self.seen = self.seen.max(ordinal);
            let put = self.one(shared, staging, id).await;
            self.settle(shared, ordinal, id, put);
        }
        self.save(shared, staging, before).await;
        more
    }

    /// Puts one result. `Ok(false)`: it does not belong here.
    async fn one(&self, shared: &Arc<Shared>, staging: &Arc<Staging>, id: JobId) -> Result<bool, PutError> {
        let job = match shared.read(|state| state.job(&id).cloned()) {
            Some(job) => Some(job),
            None => {
                let past = shared.consensus.replica().past_job(&id).await;
                past.map_err(|error| PutError::Unable(error.to_string()))?
            }
        };
        let Some((job, kind)) = job.and_then(|job| kind_of(&job).map(|kind| (job, kind))) else { return Ok(false) };
        if job.artifacts.is_empty() {
            return Ok(false);
        }
        let unable = |name: &str, error: &dyn std::fmt::Display| PutError::Unable(format!("{name}: {error}"));
        let mut files = Vec::new();
        for artifact in &job.artifacts {
            let had = blobs::obtain(shared, artifact.sha256, Some(artifact.size), job.artifact_node.as_ref()).await;
            had.map_err(|error| unable(&artifact.name, &error))?;
            let opened = shared.blobs.open_verified_async(artifact.sha256).await;
            let (file, _) = opened.map_err(|error| unable(&artifact.name, &error))?;
            let file = file.into_std().await;
            files.push(Incoming { name: artifact.name.clone(), sha256: artifact.sha256, file });
        }
        let staging = Arc::clone(staging);
        let put = tokio::task::spawn_blocking(move || staging.put(id, kind, files)).await;
        let paths = put.map_err(|error| PutError::Unable(error.to_string()))??;
        tracing::info!(job = %id, ?paths, "staged");
        Ok(true)
    }

    fn settle(&mut self, shared: &Shared, ordinal: u64, id: JobId, put: Result<bool, PutError>) {
        let tries = self.waiting.remove(&ordinal).map_or(0, |waiting| waiting.tries) + 1;
        let why = match put {
            Ok(staged) => return shared.update(|soft| soft.staging.staged += u64::from(staged)),
            Err(PutError::Unable(why)) if tries < TRIES_MAX => {
                tracing::debug!(job = %id, tries, why, "not staged yet");
                let pause_ms = (RETRY_MS << tries.min(16)).min(RETRY_MAX_MS);
                self.waiting.insert(ordinal, Waiting { id, tries, next_ms: now_ms().saturating_add(pause_ms) });
                return;
            }
            Err(PutError::Unable(why) | PutError::Refused(why)) => why,
        };
        tracing::warn!(job = %id, why, "a result does not come into staging");
        shared.update(|soft| soft.staging.refused += 1);
        shared.notice("staging", Some(format!("A result was not put into staging: job {id}: {why}.")));
    }

    /// Writes the indexes, then how far it is, then tells it.
    async fn save(&mut self, shared: &Shared, staging: &Arc<Staging>, before: Progress) {
        let ordinal =
            self.waiting.first_key_value().map_or(self.seen, |(first, _)| first.saturating_sub(1).min(self.seen));
        let after = Progress { ordinal, ..before };
        let saving = Arc::clone(staging);
        let saved = tokio::task::spawn_blocking(move || {
            saving.write_indexes()?;
            if after == before { Ok(()) } else { saving.save_progress(&after) }
        });
        match saved.await {
            Ok(Ok(())) => self.progress = Some(after),
            Ok(Err(error)) => {
                return shared
                    .notice("staging disk", Some(format!("The staging directory cannot be written: {error}.")));
            }
            Err(error) => return tracing::error!(%error, "saving how far staging is failed"),
        }
        shared.notice("staging disk", None);
        let waiting = self.waiting.len() as u64;
        shared.update(|soft| (soft.staging.ordinal, soft.staging.waiting) = (ordinal, waiting));
    }
}
