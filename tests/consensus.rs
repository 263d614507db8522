//! Whole hives of consensus in one process: real databases, real Raft, an in-memory network that can be cut.
//!
//! The network is a [`Transport`] of pipes. A cut link swallows nothing and closes nothing: bytes wait, as TCP's would, until it
//! is mended; a killed node's pipes break.

#![cfg(feature = "node")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hive::clock;
use hive::consensus::{Consensus, ConsensusStatus, Identity, Options, ProposeError, Role};
use hive::engine::command::{Command, RankedRole, Reply};
use hive::engine::id::{Epoch, EpochId, HiveId, PeerId};
use hive::store::FatalHook;
use hive::store::space::{Room, SpaceGuard};
use hive::transport::{Incoming, Transport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};

#[path = "sample/member.rs"]
mod sample_member;

use sample_member::member;

const PATIENCE: Duration = Duration::from_secs(20);
const HIVE: HiveId = HiveId([7; 16]);
const EPOCH: Epoch = Epoch { counter: 1, id: EpochId([1; 16]) };

type Accepting = BTreeMap<(PeerId, String), mpsc::Sender<Incoming>>;

#[derive(Default)]
struct Net {
    accepting: Mutex<Accepting>,
    cut: watch::Sender<BTreeSet<(PeerId, PeerId)>>,
    dead: watch::Sender<BTreeSet<PeerId>>,
    /// Whom each node asked last for the committed log.
    sources: watch::Sender<BTreeMap<PeerId, PeerId>>,
}

impl Net {
    fn is_cut(&self, from: &PeerId, to: &PeerId) -> bool {
        self.cut.borrow().contains(&(from.clone(), to.clone()))
    }

    fn isolate(&self, peer: &PeerId, others: &[PeerId], cut: bool) {
        self.cut.send_modify(|links| {
            for other in others.iter().filter(|other| *other != peer) {
                for link in [(peer.clone(), other.clone()), (other.clone(), peer.clone())] {
                    if cut {
                        links.insert(link)
                    } else {
                        links.remove(&link)
                    };
                }
            }
        });
    }

    fn set_dead(&self, peer: &PeerId, dead: bool) {
        self.dead.send_modify(|all| {
            if dead {
                all.insert(peer.clone())
            } else {
                all.remove(peer)
            };
        });
        if dead {
            self.accepting.lock().expect("lock").retain(|(of, _), _| of != peer);
        }
    }
}

#[derive(Clone)]
struct Pipes {
    net: Arc<Net>,
    own: PeerId,
}

async fn pump(net: Arc<Net>, from: PeerId, to: PeerId, near: tokio::io::DuplexStream, far: tokio::io::DuplexStream) {
    let (mut near_read, mut near_write) = tokio::io::split(near);
    let (mut far_read, mut far_write) = tokio::io::split(far);
    let there = one_way(&net, (&from, &to), &mut near_read, &mut far_write);
    let back = one_way(&net, (&to, &from), &mut far_read, &mut near_write);
    let mut dead = net.dead.subscribe();
    let killed = dead.wait_for(|dead| dead.contains(&from) || dead.contains(&to));
    tokio::select! {
        _ = there => {}
        _ = back => {}
        _ = killed => {}
    }
}

async fn one_way(
    net: &Net,
    link: (&PeerId, &PeerId),
    read: &mut (impl tokio::io::AsyncRead + Unpin),
    write: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut cut = net.cut.subscribe();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = read.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let open = |cut: &BTreeSet<(PeerId, PeerId)>| !cut.contains(&(link.0.clone(), link.1.clone()));
        cut.wait_for(open).await.map_err(io::Error::other)?;
        write.write_all(&buffer[..count]).await?;
        write.flush().await?;
    }
}

impl Transport for Pipes {
    fn open<'a>(
        &'a self,
        peer: &'a PeerId,
        protocol: &'a str,
    ) -> BoxFuture<'a, io::Result<hive::transport::ByteStream>> {
        async move {
            if self.net.is_cut(&self.own, peer) {
                tokio::time::timeout(Duration::from_secs(5), std::future::pending::<()>()).await.ok();
                return Err(io::ErrorKind::TimedOut.into());
            }
            let dead = |peer: &PeerId| self.net.dead.borrow().contains(peer);
            if dead(peer) || dead(&self.own) {
                return Err(io::ErrorKind::NotConnected.into());
            }
            let accepting = self.net.accepting.lock().expect("lock").get(&(peer.clone(), protocol.to_owned())).cloned();
            let accepting = accepting.ok_or(io::ErrorKind::Unsupported)?;
            let (near, near_relay) = tokio::io::duplex(256 << 10);
            let (far_relay, far) = tokio::io::duplex(256 << 10);
            let incoming = Incoming { peer: self.own.clone(), stream: Box::pin(far) };
            accepting.try_send(incoming).map_err(|_| io::ErrorKind::ConnectionRefused)?;
            let net = Arc::clone(&self.net);
            if protocol.starts_with("/hive/log/") {
                net.sources.send_modify(|sources| drop(sources.insert(self.own.clone(), peer.clone())));
            }
            hive::tasks::spawn("pipe", pump(net, self.own.clone(), peer.clone(), near_relay, far_relay));
            Ok(Box::pin(near) as hive::transport::ByteStream)
        }
        .boxed()
    }

    fn accept(&self, protocol: &str) -> io::Result<mpsc::Receiver<Incoming>> {
        let (tx, rx) = mpsc::channel(64);
        let mut accepting = self.net.accepting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        accepting.insert((self.own.clone(), protocol.to_owned()), tx);
        Ok(rx)
    }
}

struct Node {
    peer: PeerId,
    directory: PathBuf,
    consensus: Consensus,
}

struct Hive {
    net: Arc<Net>,
    root: tempfile::TempDir,
    tune: fn(&mut Options),
    incarnation: u64,
}

fn peer(name: &str) -> PeerId {
    PeerId::new(format!("peerX{}", name.replace('-', "")))
}

fn admit(peer: &PeerId) -> Command {
    Command::Admit { member: member(peer) }
}

impl Hive {
    fn new(tune: fn(&mut Options)) -> Self {
        let root = tempfile::tempdir().expect("temporary directory");
        Self { net: Arc::default(), root, tune, incarnation: 0 }
    }

    async fn start(&mut self, name: &str) -> Node {
        self.incarnation += 1;
        let (peer, directory) = (peer(name), self.root.path().join(name));
        self.net.set_dead(&peer, false);
        let mut options = Options::new(&directory);
        options.fatal = FatalHook::new(|message| panic!("a device failed: {message}"));
        (self.tune)(&mut options);
        let identity = Identity { peer_id: peer.clone(), incarnation: self.incarnation };
        let pipes = Pipes { net: Arc::clone(&self.net), own: peer.clone() };
        let consensus = Consensus::open(options, pipes, identity).await.expect("opens");
        Node { peer, directory, consensus }
    }

    async fn founder(&mut self, name: &str) -> Node {
        let node = self.start(name).await;
        node.consensus.found(HIVE, EPOCH, member(&node.peer)).await.expect("founds");
        node
    }

    async fn observer(&mut self, name: &str, source: &Node) -> Node {
        let node = self.start(name).await;
        node.consensus.join_as_observer(HIVE, EPOCH, vec![source.peer.clone()]).await.expect("joins");
        node
    }

    /// Three voters: the founder leads, then all three in one change.
    async fn three(&mut self) -> Vec<Node> {
        let mut nodes = vec![self.founder("a").await];
        for name in ["b", "c"] {
            let node = self.observer(name, &nodes[0]).await;
            nodes.push(node);
        }
        add_voters(&nodes[0], &nodes[1..]).await;
        nodes
    }

    /// As a power cut would: no farewell, pipes broken.
    async fn kill(&self, node: Node) -> PathBuf {
        self.net.set_dead(&node.peer, true);
        let directory = node.directory.clone();
        // The databases must be closed before another process of this node may open them.
        node.consensus.shutdown().await;
        directory
    }
}

/// First entry that is still in the log of a directory.
fn first_logged(directory: &std::path::Path) -> i64 {
    let connection = rusqlite::Connection::open(directory.join("raft.db")).expect("opens");
    connection.query_row("SELECT min(idx) FROM log", [], |row| row.get(0)).expect("reads")
}

async fn until(what: &str, node: &Node, check: impl Fn(&ConsensusStatus) -> bool) -> ConsensusStatus {
    let mut watched = node.consensus.watch_status();
    let waited = tokio::time::timeout(PATIENCE, watched.wait_for(check)).await;
    match waited {
        Ok(Ok(status)) => status.clone(),
        _ => panic!("{}: {what}: {:?}", node.peer, node.consensus.status()),
    }
}

async fn until_applied(node: &Node, index: u64) {
    until("applies", node, |status| status.applied.is_some_and(|at| at.index >= index)).await;
}

async fn add_voters(leader: &Node, others: &[Node]) {
    let own = leader.consensus.status().raft_id.expect("leads");
    let mut voters = BTreeSet::from([own]);
    for other in others {
        // It needs a state to build upon.
        until_applied(other, 1).await;
        let id = other.consensus.prepare_replica().await.expect("prepares");
        leader.consensus.add_standby(id, other.peer.clone()).await.expect("adds");
        voters.insert(id);
    }
    leader.consensus.change_voters(voters.clone()).await.expect("changes");
    until("has the voters", leader, |status| status.voters.len() == voters.len() && !status.joint).await;
}

async fn leader_of(nodes: &[Node]) -> usize {
    let until_ms = clock::now_ms() + 20_000;
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    loop {
        let leading = nodes.iter().position(|node| {
            let status = node.consensus.status();
            status.role == Role::Leader && status.quorum
        });
        if let Some(leading) = leading {
            return leading;
        }
        let all: Vec<_> = nodes.iter().map(|node| node.consensus.status()).collect();
        assert!(clock::now_ms() < until_ms, "no leader: {all:#?}");
        ticks.tick().await;
    }
}

async fn propose(node: &Node, command: Command) -> Reply {
    let replies = node.consensus.propose(vec![command], PATIENCE).await;
    replies.unwrap_or_else(|error| panic!("{}: {error}: {:?}", node.peer, node.consensus.status())).remove(0)
}

/// All nodes reach the same point of the same history.
async fn agree(nodes: &[Node]) {
    let furthest = nodes.iter().filter_map(|node| node.consensus.status().applied).map(|at| at.index).max();
    let furthest = furthest.expect("applied");
    for node in nodes {
        until_applied(node, furthest).await;
    }
    let until_ms = clock::now_ms() + 10_000;
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    loop {
        let claims: BTreeSet<_> = nodes.iter().map(|node| node.consensus.local_claim()).collect();
        if claims.len() == 1 {
            return;
        }
        assert!(clock::now_ms() < until_ms, "no agreement: {claims:#?}");
        ticks.tick().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_becomes_three_and_anyone_may_propose() {
    let mut hive = Hive::new(|_| {});
    let mut nodes = hive.three().await;
    let observer = hive.observer("d", &nodes[1]).await;
    nodes.push(observer);
    for (round, node) in nodes.iter().enumerate() {
        assert_eq!(propose(node, admit(&peer(&format!("guest-{round}")))).await, Reply::Done);
    }
    agree(&nodes).await;
    let status = nodes[3].consensus.status();
    assert_eq!((status.role, status.voters.len()), (Role::Observer, 3));
    let token = nodes[0].consensus.confirm_leader().await.expect("leads");
    assert_eq!(token.epoch, EPOCH);
    assert!(nodes[1].consensus.confirm_leader().await.is_err());
    until("sees the quorum", &nodes[3], |status| status.quorum && status.leader == Some(peer("a"))).await;
    assert!(nodes[0].consensus.change_voters([1, 2].into()).await.is_err(), "never two voters");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_take_effect_once_across_the_death_of_leaders() {
    let mut hive = Hive::new(|_| {});
    let mut nodes = hive.three().await;
    let observer = hive.observer("d", &nodes[1]).await;
    let claimant = observer.peer.clone();
    assert_eq!(propose(&observer, admit(&claimant)).await, Reply::Done);
    let claim = |ballot: u32| Command::ClaimRole {
        peer_id: claimant.clone(),
        ranking: vec![RankedRole { role: "builder".to_owned(), cap: None }],
        ballot: ballot.to_string(),
    };
    let proposer = observer.consensus.clone();
    let claims: Vec<Command> = (1..=300).map(claim).collect();
    let proposing = hive::tasks::spawn("proposer", async move {
        let mut replies = Vec::new();
        for claim in claims {
            replies.extend(proposer.propose(vec![claim], PATIENCE).await.expect("answered"));
        }
        replies
    });
    let mut watched = observer.consensus.replica().watch();
    let beyond =
        |index: u64| move |status: &hive::consensus::ReplicaStatus| status.applied.is_some_and(|at| at.index > index);
    let now = observer.consensus.status().applied.expect("applied").index;
    tokio::time::timeout(PATIENCE, watched.wait_for(beyond(now + 60))).await.expect("goes on").expect("lives");
    let leading = leader_of(&nodes).await;
    let dead = nodes.remove(leading);
    let name = dead.peer.as_str().trim_start_matches("peerX").to_owned();
    hive.kill(dead).await;
    leader_of(&nodes).await;
    let revived = hive.start(&name).await;
    revived.consensus.resume(Vec::new()).await.expect("resumes");
    nodes.push(revived);
    let replies = proposing.await.expect("proposes");
    for (position, reply) in replies.iter().enumerate() {
        let Reply::Role { claim } = reply else { panic!("{reply:?}") };
        assert_eq!(claim.generation, position as u64 + 1, "each claim took effect once, in order");
    }
    nodes.push(observer);
    agree(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_leader_refuses_in_time_and_rejoins() {
    let mut hive = Hive::new(|_| {});
    let nodes = hive.three().await;
    let everyone: Vec<PeerId> = nodes.iter().map(|node| node.peer.clone()).collect();
    let old = leader_of(&nodes).await;
    hive.net.isolate(&everyone[old], &everyone, true);
    let began_ms = clock::now_ms();
    let refused = nodes[old].consensus.propose(vec![admit(&peer("lost"))], Duration::from_millis(1_500)).await;
    assert!(matches!(refused, Err(ProposeError::NoQuorum { .. })), "{refused:?}");
    assert!(clock::now_ms() - began_ms < 2_500, "in bounded time");
    until("notices", &nodes[old], |status| !status.quorum).await;
    assert!(nodes[old].consensus.confirm_leader().await.is_err());
    let others: Vec<&Node> = nodes.iter().filter(|node| node.peer != everyone[old]).collect();
    until("elects", others[0], |status| status.leader.is_some_and_other(&everyone[old]) && status.quorum).await;
    assert_eq!(propose(others[0], admit(&peer("kept"))).await, Reply::Done);
    hive.net.isolate(&everyone[old], &everyone, false);
    until("rejoins", &nodes[old], |status| status.role == Role::Follower && status.quorum).await;
    agree(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_hears_a_leader_without_followers_knows_that_there_is_no_quorum() {
    let mut hive = Hive::new(|_| {});
    let mut nodes = hive.three().await;
    let leading = leader_of(&nodes).await;
    let standby = hive.observer("s", &nodes[leading]).await;
    until_applied(&standby, 1).await;
    let id = standby.consensus.prepare_replica().await.expect("prepares");
    nodes[leading].consensus.add_standby(id, standby.peer.clone()).await.expect("adds");
    until("hears the quorum", &standby, |status| status.role == Role::Learner && status.quorum).await;
    let leader = nodes.remove(leading);
    let everyone: Vec<PeerId> = [&leader, &standby].into_iter().chain(&nodes).map(|node| node.peer.clone()).collect();
    for dead in &nodes {
        hive.net.isolate(&dead.peer, &everyone, true);
    }
    until("notices", &standby, |status| !status.quorum).await;
    let mut watched = standby.consensus.watch_status();
    let lied = tokio::time::timeout(Duration::from_secs(2), watched.wait_for(|status| status.quorum)).await;
    assert!(lied.is_err(), "the leader goes on speaking, and nobody answers it");
    for back in &nodes {
        hive.net.isolate(&back.peer, &everyone, false);
    }
    until("is told again", &standby, |status| status.quorum).await;
}

/// The frames of a Raft call as they are on the wire, for a node that does not play by the rules.
#[derive(serde::Serialize, serde::Deserialize)]
struct Frame {
    id: u64,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
}

#[derive(serde::Serialize)]
struct RaftCall {
    from: u64,
    to: u64,
    body: CallBody,
}

#[derive(Clone, serde::Serialize)]
enum CallBody {
    Vote { vote: WireVote, last: Option<u64>, transfer: bool },
}

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct WireVote {
    term: u64,
    node: u64,
    committed: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_under_the_raft_id_of_another_nor_into_another_epoch() {
    let mut hive = Hive::new(|_| {});
    let nodes = hive.three().await;
    let leading = leader_of(&nodes).await;
    let status = nodes[leading].consensus.status();
    let victim = status.voters.iter().find(|voter| voter.peer_id != nodes[leading].peer).expect("three voters");
    let own = status.raft_id.expect("leads");
    let stranger = Pipes { net: Arc::clone(&hive.net), own: peer("stranger") };
    let name = format!("/hive/raft/1/{HIVE}/{EPOCH}");
    let cases = [
        (victim.raft_id, own, 1, false, "belongs to"),
        (12_345, own, 1, true, "not known here"),
        (12_345, own, 5_000, false, "far beyond"),
        (12_345, 1, 1, false, "is not here"),
    ];
    for (from, to, ahead, transfer, expected) in cases {
        let mut stream = stranger.open(&nodes[leading].peer, &name).await.expect("opens");
        let vote = WireVote { term: status.term + ahead, node: from, committed: false };
        let call = RaftCall { from, to, body: CallBody::Vote { vote, last: None, transfer } };
        let frame = Frame { id: 1, body: hive::transport::encode(&call).expect("encodes") };
        hive::transport::write_frame(&mut stream, &frame, 1 << 20).await.expect("writes");
        let answer: Frame = hive::transport::read_frame(&mut stream, 1 << 20).await.expect("answers");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains("Refused") && text.contains(expected), "{text}");
    }
    let after = nodes[leading].consensus.status();
    assert_eq!((after.role, after.term), (Role::Leader, status.term), "nothing moved");

    let other = Epoch { counter: 2, id: EpochId([9; 16]) };
    for protocol in ["raft", "snapshot", "log", "propose"] {
        let name = format!("/hive/{protocol}/1/{HIVE}/{other}");
        let Err(error) = stranger.open(&nodes[leading].peer, &name).await else { panic!("{name} was opened") };
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}

trait IsOther {
    fn is_some_and_other(&self, peer: &PeerId) -> bool;
}

impl IsOther for Option<PeerId> {
    fn is_some_and_other(&self, peer: &PeerId) -> bool {
        self.as_ref().is_some_and(|leader| leader != peer)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observers_catch_up_by_log_and_by_snapshot() {
    let mut hive = Hive::new(|options| options.log_kept = 100);
    let logged = |node: &Node| first_logged(&node.directory);
    let founder = hive.founder("a").await;
    let early = hive.observer("b", &founder).await;
    until_applied(&early, 1).await;
    let away = hive.kill(early).await;
    for round in 0..700 {
        assert_eq!(propose(&founder, admit(&peer(&format!("guest-{}", round % 50)))).await, Reply::Done);
    }
    assert!(logged(&founder) > 100, "the log begins at {}", logged(&founder));
    let late = hive.observer("c", &founder).await;
    until_applied(&late, 700).await;
    assert!(away.exists());
    let back = hive.start("b").await;
    back.consensus.resume(vec![founder.peer.clone()]).await.expect("resumes");
    let nodes = [founder, late, back];
    agree(&nodes).await;
    assert_eq!(propose(&nodes[1], admit(&peer("after"))).await, Reply::Done);
    agree(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_alone_no_more_sends_its_observers_to_the_others() {
    let mut hive = Hive::new(|_| {});
    let founder = hive.founder("a").await;
    let observer = hive.observer("o", &founder).await;
    until_applied(&observer, 1).await;
    let mut sources = hive.net.sources.subscribe();
    assert_eq!(sources.borrow_and_update().get(&observer.peer), Some(&founder.peer), "there is nobody else");
    let others = [hive.observer("b", &founder).await, hive.observer("c", &founder).await];
    add_voters(&founder, &others).await;
    let elsewhere = |sources: &BTreeMap<PeerId, PeerId>| sources.get(&observer.peer) != Some(&founder.peer);
    tokio::time::timeout(PATIENCE, sources.wait_for(elsewhere)).await.expect("in time").expect("the network is there");
    assert_eq!(propose(&founder, admit(&peer("kept"))).await, Reply::Done);
    let applied = founder.consensus.status().applied.expect("applied").index;
    until_applied(&observer, applied).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_of_another_history_sets_its_state_aside() {
    let mut other = Hive::new(|_| {});
    let stranger = other.founder("b").await;
    for round in 0..5 {
        assert_eq!(propose(&stranger, admit(&peer(&format!("stranger-{round}")))).await, Reply::Done);
    }
    let strange = other.kill(stranger).await;

    let mut hive = Hive::new(|_| {});
    let founder = hive.founder("a").await;
    for round in 0..20 {
        assert_eq!(propose(&founder, admit(&peer(&format!("guest-{round}")))).await, Reply::Done);
    }
    // The same hive and epoch by name, at an index that the founder has, but with other content.
    let directory = hive.root.path().join("b");
    std::fs::create_dir_all(&directory).expect("creates");
    std::fs::copy(strange.join("hive.db"), directory.join("hive.db")).expect("copies");
    let misled = hive.start("b").await;
    let wrong = misled.consensus.local_claim().expect("has state");
    assert_eq!(misled.consensus.resume(vec![founder.peer.clone()]).await.expect("resumes"), (HIVE, EPOCH));
    let nodes = [founder, misled];
    agree(&nodes).await;
    assert!(nodes[1].directory.join("hive.db.aside-1").exists());
    assert_ne!(nodes[1].consensus.local_claim().expect("has state").chain, wrong.chain);
}

/// Replaces a chain hash wherever the database of a replica holds it, as a bug in apply would have made it another.
fn corrupt_chain(directory: &std::path::Path, chain: [u8; 32]) {
    #[expect(clippy::wildcard_enum_match_arm, reason = "only what may hold a hash is looked into")]
    fn replace(value: &mut ciborium::Value, chain: [u8; 32]) -> bool {
        let numbers: Vec<ciborium::Value> = chain.iter().map(|byte| ciborium::Value::from(*byte)).collect();
        match value {
            ciborium::Value::Bytes(bytes) if bytes[..] == chain[..] => bytes[0] ^= 1,
            ciborium::Value::Array(items) if *items == numbers => items[0] = ciborium::Value::from(chain[0] ^ 1),
            ciborium::Value::Array(items) => {
                return items.iter_mut().fold(false, |any, item| any | replace(item, chain));
            }
            ciborium::Value::Map(pairs) => {
                return pairs.iter_mut().fold(false, |any, (_, item)| any | replace(item, chain));
            }
            _ => return false,
        }
        true
    }
    let connection = rusqlite::Connection::open(directory.join("hive.db")).expect("opens");
    let mut changed = 0;
    for (table, key) in [("kv", "tbl, key"), ("meta", "key")] {
        let mut select = connection.prepare(&format!("SELECT value FROM {table} ORDER BY {key}")).expect("prepares");
        let values: Vec<Vec<u8>> =
            select.query_map([], |row| row.get(0)).expect("asks").collect::<Result<_, _>>().expect("reads");
        for old in values {
            let Ok(mut value) = ciborium::from_reader::<ciborium::Value, _>(old.as_slice()) else { continue };
            if replace(&mut value, chain) {
                let mut new = Vec::new();
                ciborium::into_writer(&value, &mut new).expect("encodes");
                let update = format!("UPDATE {table} SET value = ?1 WHERE value = ?2");
                changed += connection.execute(&update, (new, old)).expect("writes");
            }
        }
    }
    assert!(changed >= 2, "state and its position hold the chain: {changed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_whose_state_differs_from_the_others_gives_up_its_part_and_follows_anew() {
    let mut hive = Hive::new(|_| {});
    let mut nodes = hive.three().await;
    assert_eq!(propose(&nodes[0], admit(&peer("guest"))).await, Reply::Done);
    agree(&nodes).await;
    let chain = nodes[2].consensus.local_claim().expect("has state").chain;
    let victim = nodes.pop().expect("three");
    let directory = hive.kill(victim).await;
    corrupt_chain(&directory, chain);
    let victim = hive.start("c").await;
    victim.consensus.resume(Vec::new()).await.expect("resumes");
    let raft_id = victim.consensus.status().raft_id.expect("still a voter");
    until("gives up", &victim, |status| status.raft_id.is_none() && status.role == Role::Observer).await;
    assert!(victim.directory.join("raft.db.aside-1").exists());
    nodes.push(victim);
    agree(&nodes).await;
    let again = nodes[2].consensus.prepare_replica().await.expect("prepares");
    assert_ne!(again, raft_id, "never again under the same id");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_far_behind_gets_a_snapshot_and_can_take_over() {
    let mut hive = Hive::new(|options| options.log_kept = 100);
    let founder = hive.founder("a").await;
    let late = hive.observer("b", &founder).await;
    until_applied(&late, 1).await;
    let id = late.consensus.prepare_replica().await.expect("prepares");
    assert_eq!(late.consensus.prepare_replica().await.expect("again"), id);
    hive.net.isolate(&late.peer, std::slice::from_ref(&founder.peer), true);
    for round in 0..700 {
        assert_eq!(propose(&founder, admit(&peer(&format!("guest-{}", round % 50)))).await, Reply::Done);
    }
    founder.consensus.add_standby(id, late.peer.clone()).await.expect("adds");
    hive.net.isolate(&late.peer, std::slice::from_ref(&founder.peer), false);
    until("receives", &late, |status| status.role == Role::Learner && status.applied.is_some_and(|at| at.index > 700))
        .await;
    let nodes = [founder, late];
    agree(&nodes).await;
    until("knows", &nodes[0], |status| status.standbys.len() == 1 && status.progress.len() == 1).await;
    nodes[0].consensus.remove_standby(id).await.expect("removes");
    nodes[1].consensus.retire_replica().await.expect("retires");
    assert_eq!(propose(&nodes[1], admit(&peer("after"))).await, Reply::Done);
    agree(&nodes).await;
    assert_eq!(nodes[1].consensus.status().role, Role::Observer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_power_cut_takes_from_the_state_is_repeated_from_the_log() {
    let mut hive = Hive::new(|options| options.log_kept = 100);
    let founder = hive.founder("a").await;
    for round in 0..20 {
        assert_eq!(propose(&founder, admit(&peer(&format!("early-{round}")))).await, Reply::Done);
    }
    let directory = hive.kill(founder).await;
    // Commits of hive.db are not synced one by one: after a power cut it may be as it was a while ago. The log may not.
    std::fs::copy(directory.join("hive.db"), directory.join("kept")).expect("copies");
    let founder = hive.start("a").await;
    founder.consensus.resume(Vec::new()).await.expect("resumes");
    for round in 0..20 {
        assert_eq!(propose(&founder, admit(&peer(&format!("late-{round}")))).await, Reply::Done);
    }
    let before = founder.consensus.local_claim().expect("has state");
    hive.kill(founder).await;
    std::fs::rename(directory.join("kept"), directory.join("hive.db")).expect("renames");
    let founder = hive.start("a").await;
    assert!(founder.consensus.local_claim().expect("has state") < before);
    founder.consensus.resume(Vec::new()).await.expect("resumes");
    leader_of(std::slice::from_ref(&founder)).await;
    until_applied(&founder, before.index).await;
    let late = |round: usize| peer(&format!("late-{round}"));
    founder.consensus.replica().read(|state| {
        assert!((0..20).all(|round| state.member(&late(round)).is_some()), "what was acknowledged is there");
    });
    // What the log forgets is on the disk before: the file without its WAL is the worst that a power cut leaves.
    for round in 0..600 {
        assert_eq!(propose(&founder, admit(&peer(&format!("guest-{}", round % 10)))).await, Reply::Done);
    }
    std::fs::copy(directory.join("hive.db"), directory.join("worst")).expect("copies");
    let first = first_logged(&directory);
    let (worst, _) = hive::store::hive_db::read_snapshot(&directory.join("worst")).expect("reads");
    let applied = worst.applied.expect("applied").index;
    assert!(first > 100, "the log begins at {first}");
    assert!(applied + 1 >= u64::try_from(first).expect("positive"), "state to {applied}, log from {first}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_nobody_speaks_to_goes_on_observing() {
    let mut hive = Hive::new(|_| {});
    let founder = hive.founder("a").await;
    let candidate = hive.observer("b", &founder).await;
    until_applied(&candidate, 1).await;
    let id = candidate.consensus.prepare_replica().await.expect("prepares");
    assert_eq!(propose(&candidate, admit(&peer("one"))).await, Reply::Done);
    let mut nodes = vec![founder, candidate];
    agree(&nodes).await;
    let candidate = nodes.pop().expect("there");
    hive.kill(candidate).await;
    let candidate = hive.start("b").await;
    candidate.consensus.resume(Vec::new()).await.expect("resumes");
    assert_eq!(propose(&candidate, admit(&peer("two"))).await, Reply::Done);
    nodes.push(candidate);
    agree(&nodes).await;
    nodes[0].consensus.add_standby(id, nodes[1].peer.clone()).await.expect("adds");
    until("is spoken to", &nodes[1], |status| status.role == Role::Learner && status.standbys.len() == 1).await;
    assert_eq!(propose(&nodes[0], admit(&peer("three"))).await, Reply::Done);
    agree(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_back_after_a_restart_of_all() {
    let mut hive = Hive::new(|_| {});
    let mut nodes = hive.three().await;
    let observer = hive.observer("d", &nodes[1]).await;
    nodes.push(observer);
    for round in 0..50 {
        assert_eq!(propose(&nodes[round % 4], admit(&peer(&format!("guest-{round}")))).await, Reply::Done);
    }
    agree(&nodes).await;
    let before = nodes[0].consensus.local_claim().expect("has state");
    for node in nodes.drain(..) {
        hive.kill(node).await;
    }
    for name in ["a", "b", "c", "d"] {
        let node = hive.start(name).await;
        assert_eq!(node.consensus.resume(Vec::new()).await.expect("resumes"), (HIVE, EPOCH));
        nodes.push(node);
    }
    leader_of(&nodes).await;
    assert_eq!(propose(&nodes[3], admit(&peer("after"))).await, Reply::Done);
    agree(&nodes).await;
    let after = nodes[3].consensus.local_claim().expect("has state");
    assert!(after > before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_told_to_end_hands_over_within_a_second() {
    let mut hive = Hive::new(|_| {});
    let mut nodes = hive.three().await;
    let leading = leader_of(&nodes).await;
    let old = nodes.remove(leading);
    until("sees the others", &old, |status| status.progress.iter().all(|other| other.silent_ms.is_some())).await;
    let began_ms = clock::now_ms();
    old.consensus.shutdown().await;
    let ended_ms = clock::now_ms() - began_ms;
    leader_of(&nodes).await;
    let led_ms = clock::now_ms() - began_ms;
    assert!(ended_ms <= 1_000, "ended after {ended_ms} ms");
    assert!(led_ms <= 1_000, "another led after {led_ms} ms");
    hive.net.set_dead(&old.peer, true);
    assert_eq!(propose(&nodes[0], admit(&peer("after"))).await, Reply::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_replica_begins_a_new_epoch_and_others_reinstall() {
    let mut hive = Hive::new(|_| {});
    let mut nodes = hive.three().await;
    let observer = hive.observer("d", &nodes[1]).await;
    assert_eq!(propose(&observer, admit(&peer("guest"))).await, Reply::Done);
    nodes.push(observer);
    agree(&nodes).await;
    let observer = nodes.pop().expect("there");
    let survivor = nodes.pop().expect("there");
    for node in nodes.drain(..) {
        hive.kill(node).await;
    }
    let claim = survivor.consensus.local_claim().expect("has state");
    assert_eq!(Some(claim), observer.consensus.local_claim());
    let next = Epoch { counter: 2, id: EpochId([2; 16]) };
    assert!(survivor.consensus.begin_new_epoch(EPOCH).await.is_err(), "only forwards");
    survivor.consensus.begin_new_epoch(next).await.expect("begins");
    assert!(survivor.directory.join("raft.db.aside-1").exists(), "nothing is overwritten");
    assert_eq!(propose(&survivor, admit(&peer("after"))).await, Reply::Done);

    let applied = observer.consensus.status().applied;
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..15 {
        ticks.tick().await;
        assert_eq!(observer.consensus.status().applied, applied, "the old epoch hears nothing of the new one");
    }
    observer.consensus.join_as_observer(HIVE, next, vec![survivor.peer.clone()]).await.expect("joins");
    assert!(observer.directory.join("hive.db.aside-1").exists(), "nothing is overwritten");
    // One of the old voters comes back with its old log, and is told.
    let revived = hive.start("a").await;
    revived.consensus.resume(Vec::new()).await.expect("resumes");
    revived.consensus.join_as_observer(HIVE, next, vec![survivor.peer.clone()]).await.expect("joins");
    assert!(revived.directory.join("raft.db.aside-1").exists());
    let nodes = [survivor, observer, revived];
    agree(&nodes).await;
    assert_eq!(nodes[2].consensus.status().hive, Some((HIVE, next)));
    add_voters(&nodes[0], &nodes[1..]).await;
    assert_eq!(propose(&nodes[1], admit(&peer("last"))).await, Reply::Done);
    agree(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn low_space_refuses_and_resumes() {
    static ROOM: std::sync::LazyLock<watch::Sender<Room>> =
        std::sync::LazyLock::new(|| watch::Sender::new(Room::Enough));
    let mut hive = Hive::new(|options| options.space = Some(SpaceGuard::steered(ROOM.subscribe())));
    let founder = hive.founder("a").await;
    ROOM.send_replace(Room::Low);
    let refused = founder.consensus.propose(vec![admit(&peer("guest"))], PATIENCE).await;
    assert_eq!(refused, Err(ProposeError::DiskLow));
    assert!(founder.consensus.replica().status().applied.is_some(), "reads stay");
    ROOM.send_replace(Room::Enough);
    assert_eq!(propose(&founder, admit(&peer("guest"))).await, Reply::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outbox_waits_through_restarts() {
    let mut hive = Hive::new(|_| {});
    let node = hive.start("a").await;
    assert!(node.consensus.outbox_put("attempt-1".to_owned(), b"result".to_vec()).await.expect("puts"));
    hive.kill(node).await;
    let node = hive.start("a").await;
    let waiting = node.consensus.outbox_list(10).await.expect("lists");
    assert_eq!(waiting.len(), 1);
    node.consensus.outbox_done("attempt-1".to_owned()).await.expect("forgets");
    assert!(node.consensus.outbox_list(10).await.expect("lists").is_empty());
}
