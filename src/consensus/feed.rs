//! Serves observers: the committed log from a voter or standby, as far as it is applied here, and the tip, at once when
//! another leads and several times a second otherwise.
//!
//! An observer proves that it is on the same history by the chain hash at its position. Where the entries behind it are gone, it
//! gets a snapshot. A leader sends observers elsewhere while there is somebody else, also those that it has served since it was
//! alone or did not lead, so that its cost does not grow with the hive.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::codec::{self, WireEntry};
use super::core::{Core, Node};
use super::log::SLICE_MAX_BYTES;
use super::status::tip_of;
use super::transfer::{self, Offer};
use crate::clock;
use crate::engine::id::PeerId;
use crate::store::raft_db::LogPoint;
use crate::transport::{ByteStream, CONTROL_FRAME_MAX, Incoming, RAFT_FRAME_MAX, read_frame, write_frame};

/// How often the tip is told.
const TIP_INTERVAL: Duration = Duration::from_millis(250);
/// An observer that does not take a frame in this time is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// An observer says what it wants in this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// First frame of an observer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Hello {
    /// Send me what follows this point.
    Follow {
        applied: Option<LogPoint>,
        chain: [u8; 32],
        /// Serve me even if you lead: nobody else would.
        even_leader: bool,
    },
    /// Is this point on your history?
    Check { at: LogPoint, chain: [u8; 32] },
}

/// What the source says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Said {
    /// It is on my history.
    Matches,
    /// My history differs at that point.
    Differs,
    /// That point is gone here, or not here yet.
    Unknown { applied: Option<LogPoint> },
    /// Ask one of these.
    Redirect { to: Vec<PeerId> },
    /// A snapshot follows.
    Snapshot(Offer),
    /// The next entries.
    Entries(Vec<WireEntry>),
    /// How things stand.
    Tip { leader: Option<PeerId>, term: u64, committed: Option<u64>, quorum: bool, heard_ago_ms: u64 },
}

async fn say(stream: &mut ByteStream, said: &Said) -> io::Result<()> {
    tokio::time::timeout(WRITE_TIMEOUT, write_frame(stream, said, RAFT_FRAME_MAX))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the observer takes nothing"))?
}

/// Serves one observer until it goes or falls behind what the log still has.
pub(crate) async fn serve_observer(core: Arc<Core>, incoming: Incoming) {
    let Incoming { peer, mut stream } = incoming;
    if let Err(error) = serve(&core, &mut stream).await {
        tracing::debug!(%peer, %error, "an observer left");
    }
}

async fn serve(core: &Arc<Core>, stream: &mut ByteStream) -> io::Result<()> {
    let hello = tokio::time::timeout(HELLO_TIMEOUT, read_frame(stream, CONTROL_FRAME_MAX))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    match hello {
        Hello::Check { at, chain } => {
            let said = compare(core, at, chain).await?;
            say(stream, &said).await
        }
        Hello::Follow { applied, chain, even_leader } => {
            let Some(node) = core.node() else { return redirect(core, stream).await };
            // A standby that no leader has spoken to yet has no log to serve from.
            let unheard = !node.raft.is_leader() && node.heard.borrow().at_ms == 0;
            if unheard || leads_others(core, &node, even_leader) {
                return redirect(core, stream).await;
            }
            let Ok(_place) = Arc::clone(&core.observers).try_acquire_owned() else {
                return redirect(core, stream).await;
            };
            let next = match first_entry(core, &node, stream, applied, chain).await? {
                Some(next) => next,
                None => return Ok(()),
            };
            stream_entries(core, &node, stream, next, even_leader).await
        }
    }
}

/// This node leads, others could serve, and the observer has not tried them in vain.
fn leads_others(core: &Core, node: &Node, even_leader: bool) -> bool {
    !even_leader && node.raft.is_leader() && core.replica.status().voters.len() > 1
}

/// Names other sources, those that do not lead first.
async fn redirect(core: &Arc<Core>, stream: &mut ByteStream) -> io::Result<()> {
    let status = core.replica.status();
    let leader = core.status.borrow().leader.clone();
    let own = &core.identity.peer_id;
    let all = status.standbys.iter().chain(&status.voters).map(|member| &member.peer_id);
    let mut to: Vec<PeerId> = all.filter(|peer| *peer != own).cloned().collect();
    to.sort_by_key(|peer| leader.as_ref() == Some(peer));
    say(stream, &Said::Redirect { to }).await
}

async fn compare(core: &Arc<Core>, at: LogPoint, chain: [u8; 32]) -> io::Result<Said> {
    Ok(match core.replica.point(at.index).await? {
        Some(own) if own == (at.term, chain) => Said::Matches,
        Some(_) => Said::Differs,
        None => Said::Unknown { applied: core.replica.applied() },
    })
}

/// Index of the first entry that the observer lacks; none when it was told to go.
async fn first_entry(
    core: &Arc<Core>,
    node: &Node,
    stream: &mut ByteStream,
    applied: Option<LogPoint>,
    chain: [u8; 32],
) -> io::Result<Option<u64>> {
    let mut next = match applied {
        Some(at) => match compare(core, at, chain).await? {
            Said::Matches => at.index + 1,
            Said::Unknown { applied: own } if own.is_none_or(|own| own.index < at.index) => {
                // The observer is ahead of this node: it had better ask somebody else, or come back.
                say(stream, &Said::Unknown { applied: own }).await?;
                return Ok(None);
            }
            Said::Unknown { .. } => send_snapshot(core, stream).await?,
            said
            @ (Said::Differs | Said::Redirect { .. } | Said::Snapshot(_) | Said::Entries(_) | Said::Tip { .. }) => {
                say(stream, &said).await?;
                return Ok(None);
            }
        },
        None => 0,
    };
    if node.log.purged().is_some_and(|purged| next <= purged.index) {
        next = send_snapshot(core, stream).await?;
    }
    Ok(Some(next))
}

/// Sends a snapshot and returns the index behind it.
async fn send_snapshot(core: &Arc<Core>, stream: &mut ByteStream) -> io::Result<u64> {
    let at_least = core.replica.snapshot_position().await.applied;
    let file = core.replica.snapshot(at_least).await?;
    say(stream, &Said::Snapshot(Offer::from(&*file))).await?;
    transfer::send(stream, &file).await?;
    Ok(file.meta.applied.map_or(0, |applied| applied.index + 1))
}

async fn stream_entries(
    core: &Arc<Core>,
    node: &Node,
    stream: &mut ByteStream,
    mut next: u64,
    even_leader: bool,
) -> io::Result<()> {
    let mut replica = core.replica.watch();
    let mut leadership = core.leadership.subscribe();
    let mut ticks = tokio::time::interval(TIP_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let applied = replica.borrow_and_update().applied.map_or(0, |applied| applied.index + 1);
        while next < applied {
            if node.log.purged().is_some_and(|purged| next <= purged.index) {
                return Err(io::Error::other("the observer fell behind the log; it comes back for a snapshot"));
            }
            let entries = node.log.slice(next, applied, SLICE_MAX_BYTES).await?;
            let Some(last) = entries.last() else { return Err(io::Error::other("entries are gone")) };
            next = last.log_id.index + 1;
            let wire: io::Result<Vec<WireEntry>> = entries.iter().map(codec::entry_to_wire).collect();
            say(stream, &Said::Entries(wire?)).await?;
        }
        tokio::select! {
            changed = replica.changed() => {
                changed.map_err(io::Error::other)?;
                continue;
            }
            changed = leadership.changed() => changed.map_err(io::Error::other)?,
            _ = ticks.tick() => {}
        }
        let same = core.node().is_some_and(|current| current.id == node.id);
        if !same || core.replica.status().halted.is_some() || leads_others(core, node, even_leader) {
            return redirect(core, stream).await;
        }
        say(stream, &tip_said(node)).await?;
    }
}

fn tip_said(node: &Node) -> Said {
    let tip = tip_of(node);
    let heard_ago_ms = clock::now_ms().saturating_sub(tip.heard_at_ms);
    Said::Tip { leader: tip.leader, term: tip.term, committed: tip.committed, quorum: tip.quorum, heard_ago_ms }
}
