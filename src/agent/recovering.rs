//! `hive recover`: a new epoch after the majority of the voters is gone for good.
//!
//! Asks every replica that can be reached where its copy of the log ends, observers too, and goes on from the longest. What an
//! unreachable majority had committed beyond it is lost, which is why nothing happens without an operator's word. Never done
//! here: recovering while there is a quorum.

use std::sync::Arc;
use std::time::Duration;

use super::control::{self, Request, Response};
use super::shared::Shared;
use crate::api::{ApiError, ApiResult, ErrorCode, RecoverReplica, RecoverReport, RecoverRequest};
use crate::engine::id::{Epoch, EpochId, PeerId};
use crate::transport;

/// How long a replica may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// Says what would happen, and does it when confirmed.
pub(super) async fn recover(shared: &Arc<Shared>, request: RecoverRequest) -> ApiResult<RecoverReport> {
    let Some((_, epoch)) = shared.hive() else {
        return Err(ApiError::new(ErrorCode::Conflict, "this node belongs to no hive", "there is nothing to recover"));
    };
    let status = shared.consensus.status();
    if status.quorum {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            "the hive has a quorum and needs no recovery",
            "recover is for a majority of voters that is gone for good",
        ));
    }
    let replicas = ask_all(shared).await;
    let best = replicas.iter().filter(|replica| replica.reached).max_by_key(|replica| (replica.term, replica.index));
    let source = best.map(|replica| replica.name.clone());
    let own = replicas.iter().find(|replica| replica.name == shared.name_of(&shared.me.peer_id));
    let longest = best.map(|replica| (replica.term, replica.index));
    let unreached: Vec<&str> =
        replicas.iter().filter(|replica| !replica.reached).map(|replica| replica.name.as_str()).collect();
    let may_be_lost = if unreached.is_empty() {
        "Nothing: every replica answered.".to_owned()
    } else {
        format!("Whatever only these had: {}.", unreached.join(", "))
    };
    let mut report = RecoverReport {
        may_be_lost,
        recovered: false,
        epoch: epoch.counter + 1,
        source: source.clone(),
        replicas: replicas.clone(),
    };
    if !request.confirm {
        return Ok(report);
    }
    let own_end = own.map(|replica| (replica.term, replica.index));
    if own_end < longest {
        let best = source.unwrap_or_default();
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!("{best} has a longer history than this node"),
            format!("run hive recover on {best}"),
        ));
    }
    let next = Epoch { counter: epoch.counter + 1, id: EpochId(rand::random()) };
    tracing::warn!(epoch = %next, may_be_lost = report.may_be_lost, "an operator begins a new epoch on this node");
    shared.consensus.begin_new_epoch(next).await.map_err(|error| {
        ApiError::new(ErrorCode::Internal, format!("the new epoch did not begin: {error}"), "see the agent's log")
    })?;
    report.recovered = true;
    Ok(report)
}

async fn ask_all(shared: &Arc<Shared>) -> Vec<RecoverReplica> {
    let peers: Vec<PeerId> = shared.read(|state| {
        state.members().filter(|member| !member.left).map(|member| member.info.peer_id.clone()).collect()
    });
    let asked = peers.into_iter().map(|peer| async move {
        let end = if peer == shared.me.peer_id {
            shared.consensus.local_claim().map(|claim| (claim.term, claim.index))
        } else {
            let answer = transport::call(&shared.mesh, &peer, control::PROTOCOL, &Request::LogEnd, ASK_TIMEOUT).await;
            match answer {
                Ok(Response::LogEnd { term, index, .. }) => Some((term, index)),
                Ok(_) | Err(_) => None,
            }
        };
        let (term, index) = end.unwrap_or_default();
        RecoverReplica { name: shared.name_of(&peer), reached: end.is_some(), term, index }
    });
    futures::future::join_all(asked).await
}
