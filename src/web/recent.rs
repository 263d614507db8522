//! Answers that are given again for a moment, so that many who look at once cost no more than a few.
//!
//! An answer says when it was put together and at which log position, so one that is a moment old is still true. It is never given
//! to whoever may expect more of it: once a write was answered here, what was put together before is not shown any more. Of many
//! who ask for the same at once, one puts it together. Never done here: knowing what is in an answer.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;

use crate::api::ApiResult;
use crate::clock;

/// So long an answer is given again, milliseconds. Nobody sees a twentieth of a second.
const SHOWN_MS: u64 = 50;

#[derive(Clone)]
struct Held {
    at_ms: u64,
    /// Writes that had been answered when it was begun.
    writes: u64,
    body: Bytes,
}

/// One of the answers. Locked while it is put together.
type Place = Arc<tokio::sync::Mutex<Option<Held>>>;

/// The answers of one node, by name.
#[derive(Default)]
pub(super) struct Recent {
    writes: AtomicU64,
    places: Mutex<BTreeMap<&'static str, Place>>,
}

impl Recent {
    /// A write was answered.
    pub(super) fn wrote(&self) {
        self.writes.fetch_add(1, Ordering::AcqRel);
    }

    /// The answer of this name: the last one while it is recent, else a new one.
    pub(super) async fn get(
        &self,
        name: &'static str,
        make: impl Future<Output = ApiResult<Bytes>>,
    ) -> ApiResult<Bytes> {
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(places.entry(name).or_default())
        };
        let mut held = place.lock().await;
        let (at_ms, writes) = (clock::now_ms(), self.writes.load(Ordering::Acquire));
        let recent = |held: &&Held| held.writes == writes && at_ms.saturating_sub(held.at_ms) < SHOWN_MS;
        if let Some(held) = held.as_ref().filter(recent) {
            return Ok(held.body.clone());
        }
        let body = make.await?;
        *held = Some(Held { at_ms, writes, body: body.clone() });
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_given_again_until_it_is_old_or_something_was_written() {
        let recent = Recent::default();
        let made = AtomicU64::new(0);
        let make = || async { Ok(Bytes::from(made.fetch_add(1, Ordering::Relaxed).to_string())) };
        let began_ms = clock::now_ms();
        let (first, second) = (recent.get("a", make()).await, recent.get("a", make()).await);
        // On a machine that stood still in between it was made anew, and rightly.
        assert!(first == second || clock::now_ms() - began_ms >= SHOWN_MS, "{first:?} {second:?}");
        assert_ne!(recent.get("b", make()).await, second, "each name has its own");
        let last = recent.get("a", make()).await;
        recent.wrote();
        let after = recent.get("a", make()).await;
        assert_ne!(after, last, "who has written sees it");
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(SHOWN_MS));
        ticks.tick().await;
        ticks.tick().await;
        assert_ne!(recent.get("a", make()).await, after, "nothing is shown for long");
    }
}
