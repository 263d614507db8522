//! `hive recover`: a new epoch after the majority of the voters is gone for good.
//!
//! Asks every replica that can be reached where its copy of the log ends, observers too, and goes on from the longest. What an
//! unreachable majority had committed beyond it is lost, which is why nothing happens without an operator's word. Never done
//! here: recovering while there is a quorum.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::control::{self, Request, Response};
use super::shared::Shared;
use crate::api::{ApiError, ApiResult, ErrorCode, RecoverReplica, RecoverReport, RecoverRequest};
use crate::clock::now_ms;
use crate::engine::id::{Epoch, EpochId, PeerId};
use crate::transport;

/// How long a replica may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// Says what would happen, and does it when confirmed.
pub(super) async fn recover(shared: &Arc<Shared>, request: RecoverRequest) -> ApiResult<RecoverReport> {
    let epoch = recoverable(shared)?;
    let found = ask_all(shared).await;
    let own = found.iter().find(|found| found.peer == shared.me.peer_id);
    // Of equal copies this node's own is taken, because it is the one that goes on.
    let best = found
        .iter()
        .filter(|found| found.end.is_some())
        .max_by_key(|found| (found.end, found.peer == shared.me.peer_id));
    let source = best.map(|best| best.replica.name.clone());
    let is_best = own.map(|own| own.end) == best.map(|best| best.end);
    // A recovery that went on elsewhere has a higher epoch; this one must not take the same number.
    let highest = found.iter().filter_map(|found| found.end).map(|end| end.0.counter).max();
    let next_epoch = highest.unwrap_or(0).max(epoch.counter) + 1;
    let replicas: Vec<RecoverReplica> = found.iter().map(|found| found.replica.clone()).collect();
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
        epoch: next_epoch,
        source: source.clone(),
        replicas: replicas.clone(),
    };
    if !request.confirm {
        return Ok(report);
    }
    if !is_best {
        let best = source.unwrap_or_default();
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!("{best} has a longer history than this node"),
            format!("run hive recover on {best}"),
        ));
    }
    let asked = promised_by_all(shared, &found).await?;
    tracing::warn!(next_epoch, may_be_lost = report.may_be_lost, "an operator begins a new epoch on this node");
    let begun = begin(shared, epoch, Epoch { counter: next_epoch, id: EpochId(rand::random()) }).await;
    if begun.is_err() {
        release(shared, &asked).await;
    }
    begun?;
    report.recovered = true;
    Ok(report)
}

/// The epoch that this node could recover from; else why it cannot.
fn recoverable(shared: &Shared) -> ApiResult<Epoch> {
    let conflict = |message: &str, hint: &str| Err(ApiError::new(ErrorCode::Conflict, message, hint));
    let Some((_, epoch)) = shared.hive() else {
        return conflict("this node belongs to no hive", "there is nothing to recover");
    };
    if shared.consensus.status().quorum {
        return conflict(
            "the hive has a quorum and needs no recovery",
            "recover is for a majority of voters that is gone for good",
        );
    }
    // One that has just begun to follow a later epoch has heard of no quorum yet, and has nothing to go on from.
    if !shared.is_member() || shared.consensus.local_claim().is_none() {
        return conflict(
            "this node has no copy of the hive's state yet, or is just taking one over",
            "look again in a moment: hive status",
        );
    }
    Ok(epoch)
}

async fn begin(shared: &Shared, before: Epoch, next: Epoch) -> ApiResult<()> {
    if shared.hive().is_none_or(|(_, now)| now != before) {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            "another node has recovered the hive meanwhile",
            "nothing was changed; this node follows it: hive status",
        ));
    }
    shared.consensus.begin_new_epoch(next).await.map_err(|error| {
        ApiError::new(ErrorCode::Internal, format!("the new epoch did not begin: {error}"), "see the agent's log")
    })
}

/// What this node says to `peer` who is about to begin a new epoch: its word, or why not.
pub(super) fn promise(shared: &Shared, peer: &PeerId) -> Result<(), String> {
    let name = |peer: &PeerId| shared.name_of(peer);
    if shared.consensus.status().quorum {
        return Err(format!("{} sees a quorum of the hive", name(&shared.me.peer_id)));
    }
    shared.promise.give(peer, now_ms()).map_err(|holder| format!("{} recovers the hive at this moment", name(&holder)))
}

/// Asks every replica that was reached for its word, one after the other in the same order everywhere: of two operators who do this at once,
/// the one who gets the first of them gets all. Answers who was asked.
async fn promised_by_all(shared: &Arc<Shared>, found: &[Found]) -> ApiResult<Vec<PeerId>> {
    let others = found.iter().filter(|found| found.end.is_some()).map(|found| found.peer.clone());
    let reached: BTreeSet<PeerId> = others.chain([shared.me.peer_id.clone()]).collect();
    let mut asked = Vec::new();
    for peer in reached {
        let own = peer == shared.me.peer_id;
        let answer = if own { promise(shared, &peer) } else { ask_for_promise(shared, &peer).await };
        asked.push(peer);
        if let Err(why) = answer {
            release(shared, &asked).await;
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("nothing was changed: {why}"),
                "look again in a quarter of a minute: hive status, hive recover",
            ));
        }
    }
    Ok(asked)
}

async fn ask_for_promise(shared: &Shared, peer: &PeerId) -> Result<(), String> {
    match transport::call(&shared.mesh, peer, control::PROTOCOL, &Request::Promise, ASK_TIMEOUT).await {
        Ok(Response::Refused { why }) => Err(why),
        Ok(_) => Ok(()),
        // It answered a moment ago.
        Err(error) => Err(format!("{} went away meanwhile ({error})", shared.name_of(peer))),
    }
}

async fn release(shared: &Shared, asked: &[PeerId]) {
    for peer in asked {
        if *peer == shared.me.peer_id {
            shared.promise.take_back(peer);
        } else if let Err(error) =
            transport::call::<_, Response>(&shared.mesh, peer, control::PROTOCOL, &Request::Release, ASK_TIMEOUT).await
        {
            tracing::debug!(%peer, %error, "its word ends by itself");
        }
    }
}

/// One replica, asked.
struct Found {
    peer: PeerId,
    /// Epoch, term and index of its last entry, in the order in which histories are compared; none when it did not answer.
    end: Option<(Epoch, u64, u64)>,
    replica: RecoverReplica,
}

async fn ask_all(shared: &Arc<Shared>) -> Vec<Found> {
    let peers: Vec<PeerId> = shared.read(|state| {
        state.members().filter(|member| !member.left).map(|member| member.info.peer_id.clone()).collect()
    });
    let asked = peers.into_iter().map(|peer| async move {
        let end = if peer == shared.me.peer_id {
            shared.consensus.local_claim().map(|claim| (claim.epoch, claim.term, claim.index))
        } else {
            let answer = transport::call(&shared.mesh, &peer, control::PROTOCOL, &Request::LogEnd, ASK_TIMEOUT).await;
            match answer {
                Ok(Response::LogEnd { epoch, term, index }) => Some((epoch, term, index)),
                Ok(_) | Err(_) => None,
            }
        };
        let (term, index) = end.map(|(_, term, index)| (term, index)).unwrap_or_default();
        let replica = RecoverReplica { name: shared.name_of(&peer), reached: end.is_some(), term, index };
        Found { peer, end, replica }
    });
    futures::future::join_all(asked).await
}
