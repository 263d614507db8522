//! The coordinator makes jobs of what resolutions found.
//!
//! ```text
//!   resolution received ─► plan.json fetched and checked ─► Submit (draft) … ─► OpenSession: all of it runs
//!              failed   ─► DropSession, with the reason
//! ```
//!
//! The ids of the jobs follow from the session and their places in the plan, so that a coordinator that takes over in the middle
//! hands in the same jobs again, which changes nothing. Never done here: resolving (that is a drone's), or choosing what runs.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::shared::Shared;
use super::{accepted, blobs, propose, propose_all};
use crate::api::ApiResult;
use crate::consensus::Role;
use crate::engine::command::Command;
use crate::engine::id::SessionId;
use crate::engine::job::{Job, JobState};
use crate::engine::plan::{PLAN_MAX_BYTES, PLAN_NAME, Plan, hand_in, resolved};
use crate::tasks;

/// Interval of looking, milliseconds.
const LOOK_EVERY_MS: u64 = 500;
/// How long one commit is awaited; what was not committed is handed in again at the next look.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Commands on their way at once.
const IN_FLIGHT: usize = 16;

/// Sessions that are being worked on. Memory only: who takes over begins again.
#[derive(Debug, Default)]
pub(super) struct Expanding {
    looked_ms: u64,
    busy: Arc<Mutex<BTreeSet<SessionId>>>,
}

impl Expanding {
    /// Looks for resolutions that are over, while this node leads.
    pub(super) fn tick(&mut self, shared: &Arc<Shared>, now_ms: u64) {
        if now_ms.saturating_sub(self.looked_ms) < LOOK_EVERY_MS {
            return;
        }
        self.looked_ms = now_ms;
        let status = shared.consensus.status();
        if status.role != Role::Leader || !status.quorum {
            return;
        }
        for (session, resolution) in shared.read(resolved) {
            let fresh = self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(session);
            if !fresh {
                continue;
            }
            let (shared, busy) = (Arc::clone(shared), Arc::clone(&self.busy));
            tasks::spawn("resolution", async move {
                if let Err(error) = expand(&shared, session, &resolution).await {
                    tracing::warn!(%session, %error, "what was resolved is not queued yet; tried again");
                }
                busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
            });
        }
    }
}

async fn expand(shared: &Shared, session: SessionId, resolution: &Job) -> ApiResult<()> {
    if resolution.state != JobState::Received {
        let reason = resolution.reason.clone().unwrap_or_else(|| "the resolution did not end well".to_owned());
        return accepted(propose(shared, Command::DropSession { session, reason }, COMMIT_TIMEOUT).await?);
    }
    let jobs = match read_plan(shared, resolution).await? {
        Ok(plan) => plan.jobs(session, &resolution.spec),
        Err(why) => Err(why),
    };
    let jobs = match jobs {
        Ok(jobs) => jobs,
        Err(error) => {
            let reason = format!("what the resolution found cannot be used: {error}");
            tracing::warn!(%session, reason);
            return accepted(propose(shared, Command::DropSession { session, reason }, COMMIT_TIMEOUT).await?);
        }
    };
    let about = shared.read(|state| state.session(&session).map(|session| session.about.clone())).unwrap_or_default();
    let (commands, command) = hand_in(session, &about, &shared.me.peer_id, &jobs);
    for commands in commands.chunks(IN_FLIGHT) {
        for reply in propose_all(shared, commands.to_vec(), COMMIT_TIMEOUT).await? {
            accepted(reply)?;
        }
    }
    tracing::info!(%session, jobs = jobs.len(), "what was resolved is queued");
    accepted(propose(shared, command, COMMIT_TIMEOUT).await?)
}

/// The plan, or why it is none. An error is one of getting it, which another time may do better.
async fn read_plan(shared: &Shared, resolution: &Job) -> ApiResult<Result<Plan, crate::engine::plan::PlanError>> {
    let Some(artifact) = resolution.artifacts.iter().find(|artifact| artifact.name == PLAN_NAME) else {
        return Ok(Plan::read(b""));
    };
    blobs::obtain(shared, artifact.sha256, Some(artifact.size), resolution.artifact_node.as_ref())
        .await
        .map_err(|error| blobs::problem("the plan of a resolution is not to be had", &error))?;
    let (file, _) = shared.blobs.open_verified_async(artifact.sha256).await.map_err(super::internal)?;
    let file = file.into_std().await;
    let read = tokio::task::spawn_blocking(move || {
        let mut json = Vec::new();
        // One byte more than allowed is enough to see that it is too long.
        file.take(PLAN_MAX_BYTES as u64 + 1).read_to_end(&mut json)?;
        Ok::<_, std::io::Error>(Plan::read(&json))
    });
    read.await.map_err(super::internal)?.map_err(super::internal)
}
