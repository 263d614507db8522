//! One connection that follows: what it asked for, in the order in which it happened.
//!
//! ```text
//!   hello ─► status ─► events since Last-Event-ID, in pages ─► the ring, the logs, and a comment every 15 s
//! ```
//!
//! It is driven by whoever writes to the socket: nothing is read that cannot be written. Never done here: putting messages together.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::SelectAll;
use serde::Deserialize;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Interval, MissedTickBehavior};

use super::logs::{self, Pieces, WantedLog};
use super::{EVENTS_AT_ONCE, Hub, Message, Topic, frame, summary, wire};
use crate::api::{LiveChanges, LiveGap, LiveHello};
use crate::engine::wire::filter::Filter;
use crate::web::Context;
use crate::web::answer::{Problem, Remote};
use crate::web::limits::Slot;
use crate::web::node::{EventQuery, NodeApi};

/// A comment goes out so often, so that proxies and browsers see that somebody is there.
const ALIVE_EVERY: Duration = Duration::from_secs(15);
/// Most bytes put together for one write.
const WRITE_MAX: usize = 64 << 10;
/// Logs that one connection may follow.
const LOGS_MAX: usize = 4;
/// Last event that a browser has got, sent by it when it comes again.
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

/// What stands in the query.
#[derive(Debug, Default, Deserialize)]
pub(in crate::web) struct FollowParams {
    topics: Option<String>,
    since: Option<u64>,
    /// Bytes of each log's end to begin with; none: from its beginning.
    log_tail: Option<u64>,
    /// Of topic `wire`: only records that fit.
    filter: Option<String>,
}

/// The word of the topic that has a filter.
const WIRE: &str = "wire";

#[derive(Debug, Default)]
struct Wanted {
    topics: Vec<Topic>,
    logs: Vec<WantedLog>,
    wire: Option<Filter>,
}

impl Wanted {
    fn parse(params: &FollowParams) -> Result<Self, Problem> {
        let Some(words) = &params.topics else {
            return Ok(Self { topics: Topic::DEFAULT.to_vec(), ..Self::default() });
        };
        let mut wanted = Self::default();
        for word in words.split(',').filter(|word| !word.is_empty()) {
            if let Some(log) = word.strip_prefix("log:") {
                wanted.logs.push(WantedLog::parse(log, params.log_tail)?);
                continue;
            }
            if word == WIRE {
                let filter = Filter::parse(params.filter.as_deref().unwrap_or_default());
                wanted.wire = Some(filter.map_err(|error| Problem::invalid(format!("filter: {error}")))?);
                continue;
            }
            let known = Topic::ALL.iter().find(|(_, known)| *known == word);
            let (topic, _) = known.ok_or_else(|| {
                let words: Vec<&str> = Topic::ALL.iter().map(|(_, word)| *word).collect();
                Problem::invalid(format!("topics: out of {}, {WIRE}, log:JOB, log:JOB:ATTEMPT", words.join(", ")))
            })?;
            if !wanted.topics.contains(topic) {
                wanted.topics.push(*topic);
            }
        }
        if wanted.logs.len() > LOGS_MAX {
            return Err(Problem::invalid(format!("topics: at most {LOGS_MAX} logs at once")));
        }
        if wanted.topics.is_empty() && wanted.logs.is_empty() && wanted.wire.is_none() {
            return Err(Problem::invalid("topics: at least one"));
        }
        Ok(wanted)
    }

    fn words(&self) -> Vec<String> {
        let topics = self.topics.iter().map(|topic| topic.word().to_owned());
        let wire = self.wire.iter().map(|_| WIRE.to_owned());
        topics.chain(wire).chain(self.logs.iter().map(WantedLog::to_string)).collect()
    }
}

/// Counted among those who follow while it lives.
struct Follower {
    hub: Arc<Hub>,
    topics: Vec<Topic>,
}

impl Follower {
    fn new(hub: &Arc<Hub>, topics: &[Topic]) -> Self {
        let follower = Self { hub: Arc::clone(hub), topics: topics.to_vec() };
        follower.count(|count| count.fetch_add(1, Ordering::Relaxed));
        follower
    }

    fn count(&self, change: impl Fn(&std::sync::atomic::AtomicUsize) -> usize) {
        for count in self.topics.iter().filter_map(|topic| self.hub.wanted(*topic)) {
            change(count);
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.count(|count| count.fetch_sub(1, Ordering::Relaxed));
    }
}

struct Connection {
    node: Arc<dyn NodeApi>,
    follower: Follower,
    _slot: Slot,
    ring: broadcast::Receiver<Message>,
    /// Logs, and records of messages.
    logs: SelectAll<Pieces>,
    waiting: VecDeque<Bytes>,
    /// The last event that was told.
    event: u64,
    /// Events are read from the log, not from the ring, until all of them were told.
    behind: bool,
    alive: Interval,
}

/// Answers a request for a stream.
pub(in crate::web) async fn follow(
    context: &Context,
    remote: Remote,
    headers: &HeaderMap,
    params: &FollowParams,
) -> Result<Response, Problem> {
    let wanted = Wanted::parse(params)?;
    let resumed = headers.get(LAST_EVENT).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let (hub, node) = (&context.live, &context.node);
    let slot = hub.place(remote.0)?;
    // Counted first, so that the hub tells what is wanted from its first message on.
    let follower = Follower::new(hub, &wanted.topics);
    let ring = hub.subscribe(node);
    let newest = node.newest_event();
    let since = resumed.or(params.since);
    let mut alive = tokio::time::interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    alive.reset();
    let logs = wanted.logs.iter().map(|log| logs::follow(node, log.clone()));
    let pieces = logs.chain(wanted.wire.iter().map(|filter| wire::follow(node, filter.clone()))).collect();
    let mut connection = Connection {
        node: Arc::clone(node),
        behind: since.is_some() && wanted.topics.contains(&Topic::Events),
        event: since.unwrap_or(newest),
        logs: pieces,
        waiting: VecDeque::new(),
        follower,
        _slot: slot,
        ring,
        alive,
    };
    connection.begin(&wanted, newest).await;
    let stop = hub.stop.clone();
    let stream = futures::stream::unfold(connection, |mut connection| async move {
        let bytes = connection.next().await?;
        Some((Ok::<_, Infallible>(bytes), connection))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        // For proxies that would gather an answer before they pass it on.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(stream.take_until(stop.cancelled_owned()))).into_response())
}

impl Connection {
    fn follows(&self, topic: Topic) -> bool {
        self.follower.topics.contains(&topic)
    }

    async fn begin(&mut self, wanted: &Wanted, newest: u64) {
        let name = self.node.health().await.map(|health| health.name).unwrap_or_default();
        let hello = LiveHello { node: name, index: self.node.log().applied, topics: wanted.words() };
        self.waiting.push_back(frame("hello", None, &hello));
        self.status().await;
        if self.behind {
            self.check_gap(newest).await;
        }
    }

    async fn status(&mut self) {
        if self.follows(Topic::Status)
            && let Ok(status) = self.node.status().await
        {
            self.waiting.push_back(frame("status", None, &summary(&status)));
        }
    }

    /// Says so when events after the one that a browser saw last are not to be had any more, or when it saw those of another hive.
    async fn check_gap(&mut self, newest: u64) {
        let oldest = self.node.oldest_event().await.ok().flatten();
        let (ahead, forgotten) = (self.event > newest, oldest.is_some_and(|oldest| self.event < oldest));
        // Whoever begins at 0 wants what there is.
        if self.event == 0 || !(ahead || forgotten) {
            return;
        }
        self.event = if ahead { newest } else { oldest.map_or(0, |oldest| oldest.saturating_sub(1)) };
        self.waiting.push_back(frame("gap", None, &LiveGap { missed: None, since: self.event }));
    }

    /// What goes over the wire next; none when the stream is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.waiting.is_empty() {
                return Some(self.gather());
            }
            if self.behind {
                self.catch_up().await;
                continue;
            }
            tokio::select! {
                message = self.ring.recv() => match message {
                    Ok(message) => {
                        self.take(message);
                        self.take_more();
                    }
                    Err(RecvError::Lagged(missed)) => self.lagged(missed).await,
                    Err(RecvError::Closed) => return None,
                },
                Some(piece) = self.logs.next() => self.waiting.push_back(piece),
                _ = self.alive.tick() => self.waiting.push_back(Bytes::from_static(b": alive\n\n")),
            }
        }
    }

    /// Several small messages in one write.
    fn gather(&mut self) -> Bytes {
        let mut bytes = BytesMut::new();
        while let Some(next) = self.waiting.front() {
            if !bytes.is_empty() && bytes.len() + next.len() > WRITE_MAX {
                break;
            }
            bytes.extend_from_slice(next);
            self.waiting.pop_front();
        }
        bytes.freeze()
    }

    fn take(&mut self, message: Message) {
        if !self.follows(message.topic) {
            return;
        }
        if let Some((id, before)) = message.event {
            if id <= self.event {
                return;
            }
            if before > self.event {
                // There are some between, told before this connection took its place.
                self.behind = true;
                return;
            }
            self.event = id;
        }
        self.waiting.push_back(message.frame);
    }

    fn take_more(&mut self) {
        let mut length: usize = self.waiting.iter().map(Bytes::len).sum();
        while length < WRITE_MAX && !self.behind {
            // Whoever has lost his place learns it at the next turn.
            let Ok(message) = self.ring.try_recv() else { return };
            length += message.frame.len();
            self.take(message);
        }
    }

    async fn lagged(&mut self, missed: u64) {
        self.waiting.push_back(frame("gap", None, &LiveGap { missed: Some(missed), since: self.event }));
        self.behind = self.follows(Topic::Events);
        self.status().await;
        if self.follows(Topic::Changes) {
            let kinds =
                ["jobs", "sessions", "nodes", "fleet", "control", "access", "audit"].map(str::to_owned).to_vec();
            let index = self.node.log().applied;
            let changes = LiveChanges { index, kinds, jobs: Vec::new(), more_jobs: true };
            self.waiting.push_back(frame("changes", None, &changes));
        }
    }

    async fn catch_up(&mut self) {
        let query = EventQuery { since: Some(self.event), limit: EVENTS_AT_ONCE, ..EventQuery::default() };
        let Ok(list) = self.node.events(query).await else {
            self.behind = false;
            return;
        };
        self.behind = list.events.len() == EVENTS_AT_ONCE;
        for event in list.events {
            self.event = self.event.max(event.id);
            self.waiting.push_back(frame("event", Some(event.id), &event));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(topics: &str) -> Result<Wanted, Problem> {
        Wanted::parse(&FollowParams { topics: Some(topics.to_owned()), ..FollowParams::default() })
    }

    #[test]
    fn topics_are_words_and_logs_and_nothing_else() {
        assert_eq!(Wanted::parse(&FollowParams::default()).expect("good").words(), ["status", "changes", "events"]);
        let job = "11111111-2222-4333-8444-555555555555";
        let all = format!("metrics,events,metrics,log:{job},log:{job}:2");
        let words = parse(&all).expect("good").words();
        assert_eq!(words, ["metrics".to_owned(), "events".to_owned(), format!("log:{job}"), format!("log:{job}:2")]);
        let wire = FollowParams {
            topics: Some("wire,status".to_owned()),
            filter: Some("kind == \"PING\"".to_owned()),
            ..FollowParams::default()
        };
        assert_eq!(Wanted::parse(&wire).expect("good").words(), ["status", "wire"]);
        let broken = FollowParams { filter: Some("kind ==".to_owned()), ..wire };
        assert!(Wanted::parse(&broken).is_err(), "a filter that is none");
        let many = vec![format!("log:{job}"); LOGS_MAX + 1].join(",");
        for bad in ["", ",", "everything", "log:", "log:x", &format!("log:{job}:x"), &format!("log:{job}:1:2"), &many] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
