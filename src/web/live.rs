//! Live data: what happens, told to every page that follows, as server-sent events.
//!
//! ```text
//!   copy of the state moves ─┐                       ┌─► connection ─► page
//!   clock, 4 times a second ─┴─► hub ─► one ring ────┼─► connection ─► page
//!                                                    └─► connection ─► page
//! ```
//!
//! Each message is put together once, however many follow, and lies in one ring of [`RING`] messages; a connection holds its place in it
//! and nothing else. Who reads too slowly loses his place, is told `gap`, and goes on with the events from where he was, as those can
//! be read again. The hub works only while somebody follows. A new topic is a variant of [`Topic`], a word in [`Topic::ALL`], and a place
//! that makes its messages. Never done here: deciding what there is to tell.

mod connection;
mod logs;
#[cfg(test)]
mod tests;
mod wire;

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::answer::Problem;
use super::limits::{Caps, Slot, Slots};
use super::node::{EventQuery, NodeApi};
use crate::api::{ErrorCode, LiveChanges, LiveMembers, LiveMetrics, LiveStatus, MemberState, Status, shown};
use crate::clock::unix_now;
use crate::tasks;

pub(super) use self::connection::{FollowParams, follow};

/// Messages in the ring.
const RING: usize = 1_024;
/// Between two messages of topic `status` or `changes`.
const PACE: Duration = Duration::from_millis(250);
/// Rounds of [`PACE`] between two looks at what no entry of the log tells, and two measurements.
const LOOK_EVERY: u64 = 4;
/// Events that are read at once.
const EVENTS_AT_ONCE: usize = 500;
/// Streams in all: half of the connections, so that there is always room for other requests.
const STREAMS: Caps = Caps { total: 128, per_source: 8, loopback: 32 };

/// What can be followed, besides logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    Status,
    Changes,
    Events,
    Metrics,
}

impl Topic {
    /// All of them, with their words.
    pub(super) const ALL: [(Self, &'static str); 4] =
        [(Self::Status, "status"), (Self::Changes, "changes"), (Self::Events, "events"), (Self::Metrics, "metrics")];
    /// What is told when nothing else is said.
    const DEFAULT: [Self; 3] = [Self::Status, Self::Changes, Self::Events];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(topic, _)| *topic == self).map_or("", |(_, word)| word)
    }
}

/// A message in the ring.
#[derive(Clone, Debug)]
struct Message {
    topic: Topic,
    /// Of an event: its number and that of the one before it.
    event: Option<(u64, u64)>,
    frame: Bytes,
}

/// Puts messages together while somebody follows.
pub(super) struct Hub {
    /// Ends every stream.
    pub(super) stop: CancellationToken,
    slots: Arc<Slots>,
    ring: broadcast::Sender<Message>,
    running: Mutex<bool>,
    /// How many follow each topic of [`Topic::ALL`].
    wanted: [AtomicUsize; Topic::ALL.len()],
}

impl Default for Hub {
    fn default() -> Self {
        Self::new(STREAMS, RING)
    }
}

/// One message as it goes over the wire.
fn frame<T: Serialize>(event: &str, id: Option<u64>, data: &T) -> Bytes {
    let json = serde_json::to_string(data).unwrap_or_else(|error| {
        tracing::error!(%error, event, "a message cannot be written as JSON");
        "null".to_owned()
    });
    // Whoever follows with `curl` has it on a terminal. JSON has no line ends of its own.
    let json = shown::json(&json);
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    Bytes::from(format!("event: {event}\n{id}data: {json}\n\n"))
}

/// Whether a request wants a stream.
pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepts.split(',').any(|kind| kind.split(';').next().unwrap_or_default().trim() == "text/event-stream")
}

impl Hub {
    fn new(caps: Caps, ring: usize) -> Self {
        let (ring, _) = broadcast::channel(ring);
        let stop = CancellationToken::new();
        Self { stop, slots: Slots::new(caps), ring, running: Mutex::new(false), wanted: Default::default() }
    }

    fn place(&self, from: IpAddr) -> Result<Slot, Problem> {
        self.slots.take(from).ok_or_else(|| {
            let message = "too many streams are open, from here or in all";
            let hint = "one stream carries all topics: close those that nobody looks at";
            Problem::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::Conflict, message, hint).counted("streams")
        })
    }

    fn wanted(&self, topic: Topic) -> Option<&AtomicUsize> {
        let place = Topic::ALL.iter().position(|(known, _)| *known == topic);
        place.and_then(|place| self.wanted.get(place))
    }

    fn is_wanted(&self, topic: Topic) -> bool {
        self.wanted(topic).is_some_and(|count| count.load(Ordering::Relaxed) > 0)
    }

    /// A place in the ring. What happens from here on is told.
    fn subscribe(self: &Arc<Self>, node: &Arc<dyn NodeApi>) -> broadcast::Receiver<Message> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = self.ring.subscribe();
        if !*running {
            *running = true;
            // Before the task runs: whoever follows compares with what is newest a moment later.
            let teller = Teller {
                index: node.log().applied,
                event: node.newest_event(),
                told_index: node.log().applied,
                told: None,
                members: LiveMembers::default(),
            };
            tasks::spawn("live", Arc::clone(self).tell(Arc::clone(node), teller));
        }
        receiver
    }

    /// Whether nobody follows any more.
    fn is_over(&self) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        *running = self.ring.receiver_count() > 0;
        !*running
    }

    fn send<T: Serialize>(&self, topic: Topic, name: &str, event: Option<(u64, u64)>, data: &T) {
        let frame = frame(name, event.map(|(id, _)| id), data);
        // Nobody listens any more only when this is about to end.
        let _ = self.ring.send(Message { topic, event, frame });
    }

    async fn tell(self: Arc<Self>, node: Arc<dyn NodeApi>, mut teller: Teller) {
        let mut ticks = tokio::time::interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut paced = Instant::now();
        let mut pending = false;
        let mut rounds = 0u64;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                index = node.moved(teller.index) => {
                    teller.index = index;
                    pending = true;
                    teller.events(&self, &node).await;
                    if paced.elapsed() < PACE {
                        continue;
                    }
                }
                _ = ticks.tick() => {
                    rounds += 1;
                    if rounds.is_multiple_of(LOOK_EVERY) {
                        if self.is_over() {
                            return;
                        }
                        pending = true;
                        teller.metrics(&self, &node).await;
                    }
                    if !pending || paced.elapsed() < PACE {
                        continue;
                    }
                }
            }
            (pending, paced) = (false, Instant::now());
            teller.changes(&self, &node).await;
        }
    }
}

/// What was told last.
struct Teller {
    index: u64,
    event: u64,
    told_index: u64,
    told: Option<LiveStatus>,
    members: LiveMembers,
}

impl Teller {
    async fn events(&mut self, hub: &Hub, node: &Arc<dyn NodeApi>) {
        if !hub.is_wanted(Topic::Events) {
            self.event = node.newest_event().max(self.event);
            return;
        }
        loop {
            let query = EventQuery { since: Some(self.event), limit: EVENTS_AT_ONCE, ..EventQuery::default() };
            let Ok(list) = node.events(query).await else { return };
            let full = list.events.len() == EVENTS_AT_ONCE;
            for event in list.events {
                hub.send(Topic::Events, "event", Some((event.id, self.event)), &event);
                self.event = event.id;
            }
            if !full {
                return;
            }
        }
    }

    async fn changes(&mut self, hub: &Hub, node: &Arc<dyn NodeApi>) {
        let Ok(status) = node.status().await else { return };
        let summary = summary(&status);
        if hub.is_wanted(Topic::Changes) {
            let mut changes = if self.index == self.told_index {
                LiveChanges { index: self.index, ..LiveChanges::default() }
            } else {
                node.changes(self.told_index)
            };
            let paused = self.told.as_ref().is_some_and(|told| told.queue.paused != summary.queue.paused);
            add(&mut changes, "control", paused);
            add(&mut changes, "nodes", self.told.is_some() && self.members != summary.members);
            if !changes.kinds.is_empty() {
                hub.send(Topic::Changes, "changes", None, &changes);
            }
        }
        self.told_index = self.index;
        self.members = summary.members;
        if self.told.as_ref().is_none_or(|told| differs(told, &summary)) {
            hub.send(Topic::Status, "status", None, &summary);
            self.told = Some(summary);
        }
    }

    async fn metrics(&self, hub: &Hub, node: &Arc<dyn NodeApi>) {
        if !hub.is_wanted(Topic::Metrics) {
            return;
        }
        let Ok(status) = node.status().await else { return };
        let metrics = LiveMetrics { at: unix_now(), nodes: node.node_metrics(), queue: status.queue };
        hub.send(Topic::Metrics, "metrics", None, &metrics);
    }
}

fn add(changes: &mut LiveChanges, kind: &str, really: bool) {
    if really && !changes.kinds.iter().any(|known| known == kind) {
        changes.kinds.push(kind.to_owned());
    }
}

/// Whether there is something new in it besides the time.
fn differs(told: &LiveStatus, now: &LiveStatus) -> bool {
    let text = |status: &LiveStatus| {
        let status = LiveStatus { as_of: crate::engine::id::UnixMillis(0), ..status.clone() };
        serde_json::to_string(&status).unwrap_or_default()
    };
    text(told) != text(now)
}

fn summary(status: &Status) -> LiveStatus {
    let mut members = LiveMembers::default();
    for member in &status.members {
        match member.state {
            MemberState::Alive => members.up += 1,
            MemberState::Suspect => members.suspect += 1,
            MemberState::Down => members.down += 1,
            MemberState::Left | MemberState::Legacy => {}
        }
    }
    LiveStatus {
        as_of: status.as_of,
        index: status.log.applied,
        coordinator: status.coordinator.as_ref().map(|coordinator| coordinator.name.clone()),
        quorum: status.quorum,
        hive_id: status.hive_id,
        queue: status.queue.clone(),
        degraded: status.degraded.clone(),
        notices: status.notices.clone(),
        members,
    }
}
