//! Reading what the hive had committed at the moment of the question, at any node: the coordinator is asked how far that is, and this
//! node's copy is waited for.
//!
//! Never done here: reading.

use std::sync::Arc;
use std::time::Duration;

use super::control::{self, Request, Response};
use super::shared::Shared;
use crate::api::{ApiError, ApiResult, ErrorCode};
use crate::engine::id::PeerId;
use crate::transport;

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the coordinator may take over its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

fn no_quorum(why: impl Into<String>) -> ApiError {
    let hint =
        "without consistent=true this node answers with what it knows, and says how old that is; see hive status";
    ApiError::new(ErrorCode::NoQuorum, why, hint)
}

/// The index up to which the hive has committed, told by a coordinator that a majority has just confirmed.
pub(super) async fn committed(shared: &Shared) -> Result<u64, String> {
    shared.consensus.confirm_leader().await.map(|token| token.index).map_err(|error| error.to_string())
}

async fn ask(shared: &Shared, leader: &PeerId) -> Result<u64, String> {
    if *leader == shared.me.peer_id {
        return committed(shared).await;
    }
    let asked = transport::call(&shared.mesh, leader, control::PROTOCOL, &Request::Committed, ANSWER_TIMEOUT).await;
    match asked {
        Ok(Response::Committed { index }) => Ok(index),
        Ok(Response::Refused { why }) => Err(why),
        Ok(_) => Err("the coordinator answered something else".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits until this node has applied all that was committed when this was called.
pub(super) async fn catch_up(shared: &Arc<Shared>) -> ApiResult<()> {
    let Some(leader) = shared.consensus.status().leader else {
        return Err(no_quorum("no coordinator is known, so nobody can tell what is committed"));
    };
    let index = ask(shared, &leader).await;
    let index = index.map_err(|why| {
        let name = shared.name_of(&leader);
        no_quorum(format!("the coordinator, {name}, could not tell what is committed: {why}"))
    })?;
    let mut status = shared.consensus.replica().watch();
    let reached = status.wait_for(|status| status.applied.is_some_and(|applied| applied.index >= index));
    match tokio::time::timeout(PATIENCE, reached).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => {
            let message = format!("this node has not caught up with index {index} in time");
            Err(ApiError::new(
                ErrorCode::Timeout,
                message,
                "ask another node, or without consistent=true; see hive status",
            ))
        }
    }
}
