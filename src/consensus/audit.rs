//! Compares histories: whether another replica has the same chain hash at the same entry.
//!
//! Two replicas that applied the same entry must not differ. When one does, something broke that Raft cannot see (memory, disk,
//! a bug in apply). A voter or standby that differs from a majority of voters gives up its part, sets its log and state aside, and
//! follows the others anew; the coordinator replaces it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::core::Core;
use super::feed::{Hello, Said};
use super::protocol::Protocol;
use crate::engine::id::PeerId;
use crate::store::raft_db::LogPoint;
use crate::transport::calls::Link;
use crate::transport::{CONTROL_FRAME_MAX, RAFT_FRAME_MAX, read_frame, write_frame};

/// How often a voter or standby compares itself, if it applied something since.
const INTERVAL: Duration = Duration::from_secs(10);
/// Time for one comparison.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

async fn ask(link: &Link, protocol: &str, peer: &PeerId, hello: &Hello) -> io::Result<Said> {
    let mut stream = link.open(peer, protocol).await?;
    write_frame(&mut stream, hello, CONTROL_FRAME_MAX).await?;
    read_frame(&mut stream, RAFT_FRAME_MAX).await
}

/// Whether `peer` has another history at that point. None when it does not know or does not answer: that says nothing.
pub(crate) async fn differs(link: &Link, protocol: &str, peer: &PeerId, at: LogPoint, chain: [u8; 32]) -> Option<bool> {
    let hello = Hello::Check { at, chain };
    let said = tokio::time::timeout(CHECK_TIMEOUT, ask(link, protocol, peer, &hello)).await.ok()?.ok()?;
    match said {
        Said::Matches => Some(false),
        Said::Differs => Some(true),
        Said::Unknown { .. } | Said::Redirect { .. } | Said::Snapshot(_) | Said::Entries(_) | Said::Tip { .. } => None,
    }
}

/// Compares this voter or standby with the voters from time to time, and calls `diverged` when a majority of them differs.
pub(crate) async fn run(core: Arc<Core>, diverged: impl Fn() -> BoxFuture<'static, ()> + Send) {
    let mut compared = None;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let status = core.replica.status();
        let (Some((hive_id, epoch)), Some(at)) = (status.hive, status.applied) else { continue };
        if core.node().is_none() || status.halted.is_some() || compared == Some(at) {
            continue;
        }
        compared = Some(at);
        // The others reach this point a moment later, or a moment before.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let protocol = Protocol::Log.name(hive_id, epoch);
        let mut different = 0;
        for voter in status.voters.iter().filter(|voter| voter.peer_id != core.identity.peer_id) {
            if differs(&core.link, &protocol, &voter.peer_id, at, status.chain).await == Some(true) {
                tracing::error!(voter = %voter.peer_id, index = at.index, "a voter has another history");
                different += 1;
            }
        }
        if different * 2 > status.voters.len() {
            tracing::error!(
                index = at.index,
                "the state of this node differs from that of most voters; it is set aside"
            );
            diverged().await;
        }
    }
}
