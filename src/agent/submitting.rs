//! Taking jobs in and ending them: source archives secured, commands proposed, and the answer given when this node shows it.
//!
//! A job is acknowledged when it is durable on a majority, its archive lies on other nodes, and this node's own copy of the
//! state has it, so that whoever asks here next is not told that there is no such job. Never done here: deciding what runs.

use std::time::Duration;

use futures::TryStreamExt as _;
use tokio_util::io::StreamReader;

use super::shared::Shared;
use super::{accepted, blobs, internal, propose, propose_all, views};
use crate::api::{ApiError, ApiResult, ErrorCode, StoredBlob, SubmitRequest, Submitted, SubmittedJob};
use crate::blobs::fetch::FetchError;
use crate::engine::command::{Command, SUBMIT_JOBS_MAX};
use crate::engine::grammar::{self, SOURCE_MAX_BYTES};
use crate::engine::id::{JobId, SessionId};
use crate::engine::job::{JobSpec, Work};
use crate::engine::session::SessionAbout;
use crate::engine::state::State;
use crate::web::node::ByteStream;

/// How long a write may take before it is answered with "no quorum".
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Copies of a source archive on other nodes before its job is acknowledged, as far as there are as many; see [`copies_needed`].
const SOURCE_COPIES: usize = 2;
/// How long this node's copy may take to show what the hive has committed. Past it the answer is a little older than the
/// change; its index says so.
const APPLY_PATIENCE: Duration = Duration::from_secs(5);

/// Queues jobs.
pub(super) async fn submit(shared: &Shared, request: SubmitRequest, submitter: String) -> ApiResult<Submitted> {
    for spec in &request.jobs {
        grammar::job(spec)
            .map_err(|error| ApiError::new(ErrorCode::Invalid, error.to_string(), "see: hive queue add --help"))?;
    }
    for spec in &request.jobs {
        refuse_other_work(shared, spec).await?;
        secure_source(shared, spec).await?;
    }
    let jobs: Vec<SubmittedJob> =
        request.jobs.iter().map(|spec| SubmittedJob { id: spec.id, target: spec.target.clone() }).collect();
    let about = SessionAbout { submitter, name: request.name, profile: request.profile };
    queue(shared, request.session, &about, &request.jobs).await?;
    wait_until(shared, |state| jobs.iter().all(|job| state.knows_job(&job.id))).await;
    Ok(Submitted { session: request.session, jobs })
}

/// Proposes jobs of one session. More than one command can hold become visible together, or not at all.
async fn queue(shared: &Shared, session: SessionId, about: &SessionAbout, jobs: &[JobSpec]) -> ApiResult<()> {
    // What a resolution finds joins it in its session, which is opened then.
    let resolves = jobs.iter().any(|spec| matches!(spec.work, Work::Resolve { .. }));
    let many = jobs.len() > SUBMIT_JOBS_MAX;
    let draft = (many || resolves).then(|| shared.me.peer_id.clone());
    let commands = jobs.chunks(SUBMIT_JOBS_MAX).map(|jobs| Command::Submit {
        session,
        about: about.clone(),
        draft: draft.clone(),
        jobs: jobs.to_vec(),
    });
    for reply in propose_all(shared, commands.collect(), WRITE_TIMEOUT).await? {
        accepted(reply)?;
    }
    if many {
        let command = Command::OpenSession { session, jobs: jobs.len() as u64 };
        accepted(propose(shared, command, WRITE_TIMEOUT).await?)?;
    }
    Ok(())
}

/// Of a job that is history only this can tell: apply sees its id, not what it was.
pub(super) async fn refuse_other_work(shared: &Shared, spec: &JobSpec) -> ApiResult<()> {
    let past = shared.consensus.replica().past_job(&spec.id).await.map_err(internal)?;
    if past.is_some_and(|past| !spec.asks_the_same_as(&past.spec)) {
        let message = format!("job {} was queued before with something else to do", spec.id);
        return Err(ApiError::new(ErrorCode::Conflict, message, "leave --id out, or take another one"));
    }
    Ok(())
}

/// Ends a job.
pub(super) async fn cancel(shared: &Shared, id: JobId, reason: String) -> ApiResult<()> {
    accepted(propose(shared, Command::Cancel { job: id, reason }, WRITE_TIMEOUT).await?)?;
    wait_until(shared, |state| state.job(&id).is_some_and(|job| job.state.is_terminal())).await;
    Ok(())
}

/// Waits a moment for this node's copy to show what the hive has committed.
pub(super) async fn wait_until(shared: &Shared, shows: impl Fn(&State) -> bool) {
    let mut applied = shared.consensus.replica().watch();
    let shown = async {
        while !shared.read(&shows) {
            if applied.changed().await.is_err() {
                break;
            }
        }
    };
    if tokio::time::timeout(APPLY_PATIENCE, shown).await.is_err() {
        tracing::debug!("this node does not show yet what it was told to do");
    }
}

/// Stores a source archive, and has it copied while whoever sends it waits for bytes anyway.
pub(super) async fn store_source(shared: &Shared, bytes: ByteStream) -> ApiResult<StoredBlob> {
    let reader = StreamReader::new(bytes.map_err(std::io::Error::other));
    let stored = shared.blobs.put_stream(std::pin::pin!(reader), SOURCE_MAX_BYTES, None).await;
    let (sha256, size) =
        stored.map_err(|error| blobs::problem("the archive cannot be stored", &FetchError::Store(error)))?;
    // Whether there are enough copies is judged when a job comes with it.
    blobs::spread(shared, sha256, size, shared.alive_peers().len().min(SOURCE_COPIES)).await;
    Ok(StoredBlob { sha256, size })
}

/// The archive must outlive this machine before its job is acknowledged.
pub(super) async fn secure_source(shared: &Shared, spec: &JobSpec) -> ApiResult<()> {
    let Some((sha256, size)) = spec.work.archive() else { return Ok(()) };
    blobs::obtain(shared, sha256, Some(size), None).await.map_err(|error| match error {
        FetchError::NotFound { .. } => {
            let message = format!("the source archive {sha256} is not to be had: {error}");
            ApiError::new(ErrorCode::Invalid, message, "upload it first: PUT /api/v2/blobs")
        }
        FetchError::Failed { .. } | FetchError::Size { .. } | FetchError::Store(_) => {
            blobs::problem(&format!("the source archive {sha256} is not to be had"), &error)
        }
    })?;
    let wanted = shared.alive_peers().len().min(SOURCE_COPIES);
    let voters = views::voters(&shared.consensus.status()).len();
    let kept = blobs::spread(shared, sha256, size, wanted).await;
    if kept < wanted {
        tracing::warn!(%sha256, kept, wanted, "fewer copies of a source archive than wanted");
    }
    let needed = copies_needed(wanted, voters);
    if kept < needed {
        let message = format!(
            "{kept} other nodes could keep a copy of the source archive, {needed} are needed; nothing was queued"
        );
        return Err(ApiError::new(ErrorCode::Degraded, message, "see hive status for full disks, then try again"));
    }
    Ok(())
}

/// Copies on other nodes without which a job is not acknowledged, when `wanted` are wanted: its archive has to survive as many lost
/// machines as the log that holds the job, which is less than half of the voters; and one in any case.
fn copies_needed(wanted: usize, voters: usize) -> usize {
    (voters.saturating_sub(1) / 2).max(1).min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_survives_as_many_lost_machines_as_its_job() {
        for (alive_others, voters, needed) in [(0, 1, 0), (1, 1, 1), (2, 3, 1), (4, 5, 2), (1, 5, 1), (9, 3, 1)] {
            assert_eq!(copies_needed(alive_others.min(SOURCE_COPIES), voters), needed, "{alive_others} {voters}");
        }
    }
}
