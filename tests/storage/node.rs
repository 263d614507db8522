//! A whole node: founds a hive of its own, proposes, makes snapshots, purges its log, and is started again as production starts it.
//!
//! Raft, state and log run on threads of their own, so which calls fall behind which differs from run to run; a seed decides
//! everything else.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crash_disk::Random;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hive::consensus::{Consensus, Identity, Options, Role};
use hive::engine::command::{Command, Reply};
use hive::engine::id::{Epoch, EpochId, HiveId, PeerId};
use hive::store::FatalHook;
use hive::transport::{ByteStream, Incoming, Transport};
use tokio::sync::mpsc;

use super::harness::{STUCK, Story, Subject};
use crate::sample_member::member;

const HIVE: HiveId = HiveId([7; 16]);
const EPOCH: Epoch = Epoch { counter: 1, id: EpochId([1; 16]) };
const PATIENCE: Duration = Duration::from_secs(20);
/// An only voter that lives answers sooner.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A network in which there is nobody else.
#[derive(Clone, Default)]
struct Alone(Arc<Mutex<Vec<mpsc::Sender<Incoming>>>>);

impl Transport for Alone {
    fn open<'a>(&'a self, _: &'a PeerId, _: &'a str) -> BoxFuture<'a, std::io::Result<ByteStream>> {
        async { Err(std::io::ErrorKind::NotConnected.into()) }.boxed()
    }

    fn accept(&self, _: &str) -> std::io::Result<mpsc::Receiver<Incoming>> {
        let (tx, rx) = mpsc::channel(1);
        self.0.lock().expect("lock").push(tx);
        Ok(rx)
    }
}

pub(crate) struct Node {
    /// So many members it admits, one after the other. The log is purged behind about 280.
    pub(crate) guests: usize,
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

fn peer(name: &str) -> PeerId {
    PeerId::new(format!("peerX{name}"))
}

fn guest(number: usize) -> PeerId {
    peer(&format!("guest{number}"))
}

async fn open(root: &Path, incarnation: u64, fatal: FatalHook) -> Result<Consensus, String> {
    let mut options = Options::new(root);
    options.fatal = fatal;
    options.log_kept = 20;
    (options.heartbeat, options.election_min, options.election_max) =
        (Duration::from_millis(15), Duration::from_millis(40), Duration::from_millis(80));
    let identity = Identity { peer_id: peer("a"), incarnation };
    Consensus::open(options, Alone::default(), identity).await.map_err(text)
}

async fn act(node: &Consensus, story: &mut Story<Option<usize>>, guests: usize) -> Result<(), String> {
    let promise = story.ask(Some(0));
    node.found(HIVE, EPOCH, member(&peer("a"))).await.map_err(text)?;
    promise.keep();
    for number in 0..guests {
        let promise = story.ask(Some(number + 1));
        let admit = Command::Admit { member: member(&guest(number)) };
        let mut answered = Box::pin(node.propose(vec![admit], ANSWER_TIMEOUT));
        let ended = story.ending();
        let replies = tokio::select! {
            replies = &mut answered => replies.map_err(|error| format!("{STUCK}: {error}"))?,
            () = ended => return Err("it ended".to_owned()),
        };
        assert_eq!(replies, [Reply::Done]);
        promise.keep();
    }
    Ok(())
}

impl Subject for Node {
    /// How many guests were admitted; none without a hive.
    type Content = Option<usize>;
    const NAME: &'static str = "a node";
    const CRASHES_ONE_IN: u64 = 60;
    const FAULTS_ONE_IN: u64 = 300;

    async fn act(&self, story: &mut Story<Self::Content>, _: &mut Random) -> Result<(), String> {
        let node = open(&story.root(), 1, story.hook()).await?;
        let acted = act(&node, story, self.guests).await;
        node.shutdown().await;
        acted
    }

    async fn reopen(root: &Path) -> Result<Self::Content, String> {
        let hook = FatalHook::new(|_| {});
        let node = open(root, 2, hook).await?;
        if node.replica().status().hive.is_none() {
            node.shutdown().await;
            return Ok(None);
        }
        let read = async {
            node.resume(Vec::new()).await.map_err(text)?;
            let mut status = node.watch_status();
            let leads = status.wait_for(|status| status.role == Role::Leader && status.quorum);
            tokio::time::timeout(PATIENCE, leads)
                .await
                .map_err(|_| format!("leads not: {:?}", node.status()))?
                .map_err(text)?;
            node.confirm_leader().await.map_err(text)?;
            let there = |number: &usize| node.replica().read(|state| state.member(&guest(*number)).is_some());
            let count = (0..).take_while(there).count();
            if (count + 1..count + 40).any(|number| there(&number)) {
                return Err(format!("guest {count} is missing, and a later one is there"));
            }
            Ok(Some(count))
        };
        let content = read.await;
        node.shutdown().await;
        content
    }
}
