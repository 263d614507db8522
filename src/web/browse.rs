//! Handlers of what pages ask to show much at once: windows of the queue, graphs, throughput, the identity of any node.
//!
//! Never done here: anything but translating; the table of routes is in `routes`.

use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;

use super::Context;
use super::answer::{Handled, Params, Problem};
use super::node::{JobOrder, JobPageQuery};
use super::routes::job_id;
use crate::engine::job::JobState;

/// Jobs of a window when nothing else is said.
const WINDOW_DEFAULT: usize = 100;
/// Most jobs of a window.
const WINDOW_MAX: usize = 500;
/// Longest text that is looked for, bytes.
const TEXT_MAX: usize = 256;
/// Minutes of throughput when nothing else is said.
const MINUTES_DEFAULT: u64 = 60;
/// Most of them: a week.
const MINUTES_MAX: u64 = 7 * 24 * 60;

#[derive(Deserialize)]
pub(super) struct QueueParams {
    state: Option<String>,
    q: Option<String>,
    session: Option<String>,
    backend: Option<String>,
    drone: Option<String>,
    order: Option<String>,
    #[serde(default)]
    offset: usize,
    limit: Option<usize>,
}

/// States as a list with commas.
pub(super) fn states(list: Option<&str>) -> Result<Vec<JobState>, Problem> {
    let words = list.into_iter().flat_map(|list| list.split(',')).filter(|word| !word.is_empty());
    let state = |word: &str| {
        let word = serde_json::Value::String(word.to_owned());
        serde_json::from_value::<JobState>(word).map_err(|error| Problem::invalid(format!("state: {error}")))
    };
    words.map(state).collect()
}

impl QueueParams {
    pub(super) fn query(self) -> Result<JobPageQuery, Problem> {
        let params = self;
        let order = match params.order.as_deref() {
            None | Some("newest") => JobOrder::Newest,
            Some("oldest") => JobOrder::Oldest,
            Some("priority") => JobOrder::Priority,
            Some(_) => return Err(Problem::invalid("order is newest, oldest or priority")),
        };
        if params.q.as_ref().is_some_and(|text| text.len() > TEXT_MAX) {
            return Err(Problem::invalid(format!("q has at most {TEXT_MAX} bytes")));
        }
        Ok(JobPageQuery {
            states: states(params.state.as_deref())?,
            text: params.q.filter(|text| !text.is_empty()),
            session: params.session,
            backend: params.backend,
            drone: params.drone,
            order,
            offset: params.offset,
            limit: params.limit.unwrap_or(WINDOW_DEFAULT).min(WINDOW_MAX),
        })
    }
}

pub(super) async fn queue(State(context): State<Context>, Params(params): Params<QueueParams>) -> Handled {
    Ok(context.answer(context.node.job_page(params.query()?).await))
}

pub(super) async fn graph(State(context): State<Context>, Path(id): Path<String>) -> Handled {
    let id = job_id(&id)?;
    Ok(context.answer(context.node.job_graph(id).await))
}

pub(super) async fn critical_path(State(context): State<Context>) -> Response {
    context.recent("critical path", context.node.critical_path()).await
}

#[derive(Deserialize)]
pub(super) struct ThroughputParams {
    minutes: Option<u64>,
}

impl ThroughputParams {
    pub(super) fn minutes(&self) -> u64 {
        self.minutes.unwrap_or(MINUTES_DEFAULT).clamp(1, MINUTES_MAX)
    }
}

pub(super) async fn throughput(
    State(context): State<Context>,
    Params(params): Params<ThroughputParams>,
) -> Result<Response, Problem> {
    Ok(context.answer(context.node.throughput(params.minutes()).await))
}

pub(super) async fn identity(State(context): State<Context>, Path(name): Path<String>) -> Handled {
    if name.len() > TEXT_MAX {
        return Err(Problem::invalid(format!("a name has at most {TEXT_MAX} bytes")));
    }
    Ok(context.answer(context.node.identity_of(name).await))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_a_list_of_known_words() {
        assert_eq!(states(None).ok(), Some(Vec::new()));
        assert_eq!(states(Some("needed,,blocked")).ok(), Some(vec![JobState::Needed, JobState::Blocked]));
        assert!(states(Some("asleep")).is_err());
    }
}
