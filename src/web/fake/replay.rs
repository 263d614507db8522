//! The node of the tests as it was: it knows the past from one moment on.

use serde_json::json;

use super::{FakeNode, good, job_view, status};
use crate::api::{Activity, ActivityBucket, ApiError, ErrorCode, JobView, LogPhase, PhaseSource};
use crate::engine::id::UnixMillis;
use crate::engine::job::AttemptState;
use crate::web::node::{ActivityQuery, Answer, Replay, ReplayApi, Replayed};

/// The first moment that it knows.
pub(crate) const KNOWN_FROM: UnixMillis = UnixMillis(1_700_000_000_000);

/// Phases of the fake's log: the second begins five seconds into the attempt, with the second line.
pub(crate) fn phases() -> Vec<LogPhase> {
    let phase = |name: &str, line, offset, at| LogPhase {
        name: name.to_owned(),
        source: PhaseSource::Output,
        line,
        offset,
        at: UnixMillis(at),
        took_ms: Some(5_000),
    };
    vec![phase("unpack", 1, 0, 1_762_605_296_789), phase("compile", 2, 6, 1_762_605_301_789)]
}

/// The fake's job as it was: its attempt ran for ten seconds.
fn job_then(at: UnixMillis) -> JobView {
    let mut job = job_view("fake");
    for attempt in &mut job.attempts {
        if attempt.ended_at.is_some_and(|ended| ended > at) {
            (attempt.state, attempt.ended_at) = (AttemptState::Building, None);
        }
    }
    job
}

impl ReplayApi for FakeNode {
    fn replay(&self, at: UnixMillis, what: Replayed) -> Answer<'_, Replay> {
        self.act(format!("replay {what:?}"));
        if at < KNOWN_FROM {
            let error = ApiError::new(ErrorCode::NotRecorded, "before the record", "ask for a later moment");
            return Box::pin(async move { Err(error) });
        }
        let mut log = status("fake").log;
        log.applied = 7;
        let data = if matches!(what, Replayed::Job(_)) {
            serde_json::to_value(job_then(at)).expect("JSON")
        } else {
            json!({ "asked": format!("{what:?}") })
        };
        good(Replay { data, log })
    }

    fn activity(&self, query: ActivityQuery) -> Answer<'_, Activity> {
        good(Activity {
            from: query.from,
            bucket_ms: (query.to.0 - query.from.0) / query.buckets as u64,
            buckets: vec![ActivityBucket::default(); query.buckets],
            known_from: Some(KNOWN_FROM),
            reaches_back_ms: Some(7 * 86_400_000),
            now: query.to,
        })
    }
}
