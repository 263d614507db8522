//! Follows the committed log as an observer: from a voter or standby, preferably not the leader, resumed after every break.
//!
//! What arrives was committed and is applied as it is on voters. Every 1,000 entries another voter is asked whether the history
//! is the same there; when it is not, the replica is set aside and begins anew from a snapshot.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::audit;
use super::codec;
use super::core::Core;
use super::feed::{Hello, Said};
use super::protocol::Protocol;
use super::status::Tip;
use super::transfer;
use crate::clock;
use crate::engine::id::{Epoch, HiveId, PeerId};
use crate::transport::{ByteStream, CONTROL_FRAME_MAX, RAFT_FRAME_MAX, read_frame, write_frame};

/// A source that says nothing for this long is left: it tells the tip four times in this time.
const SILENCE_MAX: Duration = Duration::from_millis(1_200);
/// A source that has heard no quorum for so long is left: it may be cut off from the others. Milliseconds.
const DEAF_MAX_MS: u64 = 3_000;
/// A source answers the first frame in this time; it may have to make a snapshot before.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(30);
/// Wait after a round in which no source would have us.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// That wait grows up to this.
const PAUSE_MAX: Duration = Duration::from_millis(1_000);
/// Entries between two comparisons with another voter.
const CHECK_EVERY: u64 = 1_000;
/// Sources that are remembered.
const SOURCES_MAX: usize = 64;

/// Why following a source ended.
enum End {
    /// It names others.
    Redirected(Vec<PeerId>),
    /// It is behind us, or has gone.
    Left(io::Error),
    /// Its history is another one.
    Differs,
    /// The replica halted: following makes no sense any more.
    Halted,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Left(error)
    }
}

/// Follows for ever.
pub(crate) async fn run(core: Arc<Core>, hive_id: HiveId, epoch: Epoch, told: Vec<PeerId>) {
    let observer = Observer { protocol: Protocol::Log.name(hive_id, epoch), core };
    let mut pause = PAUSE_MIN;
    let mut extra: VecDeque<PeerId> = told.into();
    loop {
        let began = observer.core.replica.applied();
        match observer.round(&mut extra).await {
            Some(End::Halted) => return,
            Some(End::Differs) => {
                tracing::error!("this replica's history differs from that of the voters; it is set aside");
                if let Err(error) = observer.begin_anew(hive_id, epoch).await {
                    tracing::error!(%error, "the replica cannot be set aside");
                    return;
                }
            }
            Some(End::Redirected(_) | End::Left(_)) | None => {}
        }
        pause = if observer.core.replica.applied() == began { (pause * 2).min(PAUSE_MAX) } else { PAUSE_MIN };
        tokio::time::sleep(pause).await;
    }
}

struct Observer {
    core: Arc<Core>,
    protocol: String,
}

impl Observer {
    /// Known sources in the order in which to ask: not the leader first; which of the others differs from node to node.
    fn sources(&self, extra: &VecDeque<PeerId>) -> Vec<PeerId> {
        let status = self.core.replica.status();
        let leader = self.core.tip.borrow().leader.clone();
        let own = &self.core.identity.peer_id;
        let members = status.standbys.iter().chain(&status.voters).map(|member| &member.peer_id);
        let mut sources: Vec<PeerId> = members.chain(extra).filter(|peer| *peer != own).cloned().collect();
        sources.sort_by_cached_key(|peer| {
            let mut hasher = Sha256::new();
            hasher.update(own.as_str());
            hasher.update(peer.as_str());
            let spread: [u8; 32] = hasher.finalize().into();
            (leader.as_ref() == Some(peer), spread)
        });
        sources.dedup();
        sources
    }

    /// Tries every source once, sparing the leader, then every source again whoever leads. Ends when one was left.
    async fn round(&self, extra: &mut VecDeque<PeerId>) -> Option<End> {
        for even_leader in [false, true] {
            for source in self.sources(extra) {
                match self.follow(&source, even_leader).await {
                    End::Redirected(others) => {
                        for other in others {
                            if !extra.contains(&other) {
                                extra.push_back(other);
                            }
                        }
                        extra.truncate(SOURCES_MAX);
                    }
                    End::Left(error) => {
                        tracing::debug!(%source, %error, "left a source");
                        // Whoever served for a while is asked again first, with its fellows, without the leader.
                        if self.core.tip.borrow().heard_at_ms + 2_000 > clock::now_ms() {
                            return None;
                        }
                    }
                    end @ (End::Differs | End::Halted) => return Some(end),
                }
            }
        }
        None
    }

    async fn follow(&self, source: &PeerId, even_leader: bool) -> End {
        match self.try_follow(source, even_leader).await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn try_follow(&self, source: &PeerId, even_leader: bool) -> Result<End, End> {
        let core = &self.core;
        let status = core.replica.status();
        if status.halted.is_some() {
            return Ok(End::Halted);
        }
        let mut stream = core.link.open(source, &self.protocol).await?;
        let hello = Hello::Follow { applied: status.applied, chain: status.chain, even_leader };
        write_frame(&mut stream, &hello, CONTROL_FRAME_MAX).await?;
        let mut patience = FIRST_ANSWER_MAX;
        let since_ms = clock::now_ms();
        let mut checked = status.applied.map_or(0, |applied| applied.index);
        loop {
            let said = tokio::time::timeout(patience, read_frame(&mut stream, RAFT_FRAME_MAX))
                .await
                .map_err(|_| End::Left(io::Error::new(io::ErrorKind::TimedOut, "the source is silent")))??;
            patience = SILENCE_MAX;
            match said {
                Said::Entries(entries) => {
                    self.apply(&entries).await?;
                    if let Some(at) = core.replica.applied().filter(|at| at.index >= checked + CHECK_EVERY) {
                        checked = at.index;
                        self.check_elsewhere(source).await?;
                    }
                }
                Said::Tip { leader, term, committed, quorum, heard_ago_ms } => {
                    let now_ms = clock::now_ms();
                    let heard_at_ms = now_ms.saturating_sub(heard_ago_ms);
                    core.tip.send_replace(Tip { leader, term, committed, quorum, heard_at_ms });
                    if now_ms.saturating_sub(heard_at_ms.max(since_ms)) > DEAF_MAX_MS {
                        return Err(End::Left(io::Error::other("the source hears no leader; another may")));
                    }
                }
                Said::Snapshot(offer) => {
                    self.install(&mut stream, &offer).await?;
                    patience = FIRST_ANSWER_MAX;
                }
                Said::Redirect { to } => return Ok(End::Redirected(to)),
                Said::Differs => return Ok(End::Differs),
                Said::Unknown { .. } => {
                    return Err(End::Left(io::Error::other("the source is behind this node")));
                }
                Said::Matches => {}
            }
        }
    }

    async fn install(&self, stream: &mut ByteStream, offer: &transfer::Offer) -> io::Result<()> {
        let directory = self.core.replica.snapshot_directory();
        let path = transfer::receive(stream, &directory, offer).await?;
        let installed = self.core.replica.install(&path).await;
        let _ = tokio::fs::remove_file(&path).await;
        Ok(installed?)
    }

    async fn apply(&self, entries: &[codec::WireEntry]) -> Result<(), End> {
        let replica = &self.core.replica;
        for wire in entries {
            let expected = replica.applied().map_or(0, |applied| applied.index + 1);
            if wire.at.index > expected {
                let what = format!("entry {} where {expected} was expected", wire.at.index);
                return Err(End::Left(io::Error::new(io::ErrorKind::InvalidData, what)));
            }
            let entry = codec::entry_from_wire(wire)?;
            if let Err(error) = replica.apply(&entry).await {
                let halted = replica.status().halted.is_some();
                return Err(if halted { End::Halted } else { End::Left(error) });
            }
        }
        Ok(())
    }

    /// Asks another voter whether the history is the same there. One that does not know says nothing about it.
    async fn check_elsewhere(&self, source: &PeerId) -> Result<(), End> {
        let status = self.core.replica.status();
        let Some(at) = status.applied else { return Ok(()) };
        let Some(other) = status.voters.iter().map(|member| &member.peer_id).find(|peer| *peer != source) else {
            return Ok(());
        };
        let differs = audit::differs(&self.core.link, &self.protocol, other, at, status.chain).await;
        if differs == Some(true) { Err(End::Differs) } else { Ok(()) }
    }

    async fn begin_anew(&self, hive_id: HiveId, epoch: Epoch) -> io::Result<()> {
        self.core.replica.start_over().await?;
        Ok(self.core.replica.belong(hive_id, epoch).await?)
    }
}
