//! The mesh on real sockets: several nodes in one process on the loopback interface.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test waits for one kind of event among all")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::clock;
use crate::engine::id::{Epoch, EpochId, HiveId, PeerId};
use crate::keyring::Secret;
use crate::transport::{self, Transport as _};

const DEADLINE: Duration = Duration::from_secs(10);
pub(super) const ECHO: &str = "/hive/test-echo/1";

pub(super) struct TestNode {
    pub(super) mesh: MeshHandle,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) peer: PeerId,
    pub(super) address: SocketAddr,
}

fn options() -> Options {
    Options { port: 0, listen_ips: vec![Ipv4Addr::LOCALHOST.into()], mdns: false, ..Options::default() }
}

fn introduction(name: &str, secret: &Secret) -> Introduction {
    Introduction {
        key: NodeKey::generate(),
        keyring: Keyring::new(secret),
        incarnation: 1,
        local: LocalFacts { name: name.to_owned(), ..LocalFacts::default() },
        policy: open_policy(),
    }
}

async fn launch(options: Options, introduction: Introduction) -> TestNode {
    let peer = introduction.key.peer_id();
    let (mesh, events) = start(options, introduction).await.expect("starts");
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), mesh.listen_port());
    TestNode { mesh, events, peer, address }
}

pub(super) async fn node(name: &str, secret: &Secret) -> TestNode {
    launch(options(), introduction(name, secret)).await
}

impl TestNode {
    /// Waits for the first event that `wanted` maps to something.
    async fn expect<T>(&mut self, what: &str, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let event = self.events.recv().await.unwrap_or_else(|| panic!("the mesh ended before: {what}"));
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"))
    }

    pub(super) async fn up(&mut self, peer: &PeerId) -> Facts {
        self.expect("peer up", |event| match event {
            Event::PeerUp { peer: up, facts, .. } if up == *peer => Some(facts),
            _ => None,
        })
        .await
    }

    async fn down(&mut self, peer: &PeerId) {
        self.expect("peer down", |event| {
            matches!(event, Event::PeerDown { peer: down, .. } if down == *peer).then_some(())
        })
        .await;
    }

    async fn refused(&mut self) -> (bool, RefuseReason) {
        self.expect("refusal", |event| match event {
            Event::Refused { by_us, reason, .. } => Some((by_us, reason)),
            _ => None,
        })
        .await
    }

    pub(super) fn serve_echo(&self) {
        let mut incoming = self.mesh.accept(ECHO).expect("accepts");
        crate::tasks::spawn("test-echo", async move {
            while let Some(mut arrived) = incoming.recv().await {
                crate::tasks::spawn("test-echo-one", async move {
                    if let Ok(text) = transport::read_frame::<String>(&mut arrived.stream, 1_000).await {
                        let answer = format!("{text} from {}", arrived.peer);
                        let _ = transport::write_frame(&mut arrived.stream, &answer, 1_000).await;
                    }
                });
            }
        });
    }
}

pub(super) async fn connect(from: &mut TestNode, to: &mut TestNode) {
    from.mesh.dial_address(to.address).await;
    from.up(&to.peer).await;
    to.up(&from.peer).await;
}

/// Polls until `condition` holds.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started_ms = clock::now_ms();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    while !condition().await {
        assert!(clock::now_ms() - started_ms < DEADLINE.as_millis() as u64, "not in time: {what}");
        ticks.tick().await;
    }
}

fn allegiance(byte: u8) -> Allegiance {
    Allegiance { hive_id: HiveId([byte; 16]), epoch: Epoch { counter: 1, id: EpochId([byte; 16]) } }
}

fn member(name: &str) -> LocalFacts {
    LocalFacts { allegiance: Some(allegiance(1)), name: name.to_owned(), member_count: 2, ..LocalFacts::default() }
}

#[tokio::test]
async fn nodes_with_the_same_secret_meet_and_know_each_other_by_facts() {
    let secret = Secret::generate();
    let mut alpha = node("alpha", &secret).await;
    let mut beta = node("beta", &secret).await;
    alpha.mesh.dial_address(beta.address).await;
    let of_beta = alpha.up(&beta.peer).await;
    let of_alpha = beta.up(&alpha.peer).await;
    assert_eq!((of_alpha.name.as_str(), of_beta.name.as_str()), ("alpha", "beta"));
    assert_eq!(of_beta.listen_port, beta.address.port());
    assert_eq!(of_beta.version, env!("CARGO_PKG_VERSION"));
    let peers = alpha.mesh.peers().await;
    assert_eq!(peers.len(), 1);
    assert!(peers[0].outbound && peers[0].addresses.contains(&beta.address) && peers[0].bytes_in > 0);
    let back = beta.mesh.peers().await;
    assert!(back[0].addresses.contains(&alpha.address), "the dialed side learns where the other listens");
    alpha.mesh.disconnect(&beta.peer).await;
    alpha.down(&beta.peer).await;
    beta.down(&alpha.peer).await;
    assert!(alpha.mesh.facts_of(&beta.peer).is_none());
}

#[tokio::test]
async fn a_wrong_secret_is_refused_and_both_sides_see_it() {
    let mut alpha = node("alpha", &Secret::generate()).await;
    let mut beta = node("beta", &Secret::generate()).await;
    alpha.mesh.dial_address(beta.address).await;
    assert_eq!(alpha.refused().await, (false, RefuseReason::ProbablySecret));
    assert_eq!(beta.refused().await, (true, RefuseReason::WrongSecret));
    let rows = beta.mesh.refusals();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].reason, rows[0].count), (RefuseReason::WrongSecret, 1));
    assert_eq!(rows[0].peer.as_ref(), Some(&alpha.peer));
    assert_eq!(rows[0].address.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
    assert!(alpha.mesh.peers().await.is_empty() && beta.mesh.peers().await.is_empty());
}

#[tokio::test]
async fn a_member_of_before_the_rotation_is_admitted_with_the_older_key() {
    let (old, new) = (Secret::generate(), Secret::generate());
    let mut alpha = node("alpha", &old).await;
    let rotated =
        Introduction { keyring: Keyring::with_older(&new, std::slice::from_ref(&old)), ..introduction("beta", &new) };
    let mut beta = launch(options(), rotated).await;
    alpha.mesh.dial_address(beta.address).await;
    alpha.up(&beta.peer).await;
    let current = beta
        .expect("peer up", |event| match event {
            Event::PeerUp { key_is_current, .. } => Some(key_is_current),
            _ => None,
        })
        .await;
    assert!(!current, "the agent sees that this peer needs the new key");
}

#[tokio::test]
async fn the_admission_policy_decides_and_the_refused_learns_why() {
    let secret = Secret::generate();
    let policy: Policy = Arc::new(|claim: &AdmissionClaim| match claim.facts.name.as_str() {
        "alpha" => Err(RefuseReason::NotApproved),
        _ => Ok(()),
    });
    let mut beta = launch(options(), Introduction { policy, ..introduction("beta", &secret) }).await;
    let mut alpha = node("alpha", &secret).await;
    let mut gamma = node("gamma", &secret).await;
    alpha.mesh.dial_address(beta.address).await;
    assert_eq!(alpha.refused().await, (false, RefuseReason::NotApproved));
    assert_eq!(beta.refused().await, (true, RefuseReason::NotApproved));
    beta.mesh.dial_address(alpha.address).await;
    assert_eq!(alpha.refused().await, (false, RefuseReason::NotApproved), "also when the policy's side dials");
    connect(&mut gamma, &mut beta).await;
}

#[tokio::test]
async fn a_clone_is_refused_while_the_incumbent_lives_whatever_its_incarnation() {
    let secret = Secret::generate();
    let key = NodeKey::generate();
    let process = |incarnation| Introduction { key: key.clone(), incarnation, ..introduction("twin", &secret) };
    let mut witness = node("witness", &secret).await;
    let mut incumbent = launch(options(), process(5)).await;
    connect(&mut incumbent, &mut witness).await;
    for (incarnation, expected) in
        [(5, RefuseReason::Clone), (6, RefuseReason::Clone), (4, RefuseReason::StaleIncarnation)]
    {
        let mut clone = launch(options(), process(incarnation)).await;
        clone.mesh.dial_address(witness.address).await;
        assert_eq!(clone.refused().await, (false, expected), "incarnation {incarnation}");
        assert_eq!(witness.refused().await, (true, expected));
    }
    let peers = witness.mesh.peers().await;
    assert_eq!((peers.len(), peers[0].facts.incarnation), (1, 5));
    let mut clone = launch(options(), process(9)).await;
    clone.mesh.dial_address(incumbent.address).await;
    assert_eq!(clone.refused().await, (true, RefuseReason::Clone), "they also notice each other");
    assert_eq!(incumbent.refused().await, (true, RefuseReason::Clone));
}

#[tokio::test]
async fn a_restart_with_a_higher_incarnation_is_taken_and_an_old_state_directory_is_not() {
    let secret = Secret::generate();
    let key = NodeKey::generate();
    let process = |incarnation| Introduction { key: key.clone(), incarnation, ..introduction("alpha", &secret) };
    let mut witness = node("witness", &secret).await;
    let mut first = launch(options(), process(1)).await;
    connect(&mut first, &mut witness).await;
    first.mesh.shutdown().await;
    witness.down(&first.peer).await;
    let mut second = launch(options(), process(2)).await;
    connect(&mut second, &mut witness).await;
    second.mesh.shutdown().await;
    witness.down(&first.peer).await;
    let mut restored = launch(options(), process(1)).await;
    restored.mesh.dial_address(witness.address).await;
    assert_eq!(restored.refused().await, (false, RefuseReason::StaleIncarnation));
    witness.mesh.set_minimum_incarnation(&first.peer, 7);
    let mut below = launch(options(), process(6)).await;
    below.mesh.dial_address(witness.address).await;
    assert_eq!(below.refused().await, (false, RefuseReason::StaleIncarnation), "what the hive committed counts too");
}

/// Forwards bytes until it is told to freeze; then it keeps the sockets open and swallows everything, as a machine without power.
struct Wire {
    address: SocketAddr,
    freeze: tokio::sync::watch::Sender<bool>,
    accepted: Arc<std::sync::atomic::AtomicUsize>,
}

impl Wire {
    fn accepted(&self) -> usize {
        self.accepted.load(std::sync::atomic::Ordering::Relaxed)
    }
}

async fn wire_to(target: SocketAddr) -> Wire {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
    let address = listener.local_addr().expect("address");
    let (freeze, frozen) = tokio::sync::watch::channel(false);
    let accepted = Arc::<std::sync::atomic::AtomicUsize>::default();
    let counted = Arc::clone(&accepted);
    crate::tasks::spawn("test-wire", async move {
        while let Ok((mut near, _)) = listener.accept().await {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut frozen = frozen.clone();
            crate::tasks::spawn("test-wire-one", async move {
                let mut far = tokio::net::TcpStream::connect(target).await.expect("connects");
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = frozen.changed() => std::future::pending::<()>().await,
                }
            });
        }
    });
    Wire { address, freeze, accepted }
}

#[tokio::test]
async fn a_higher_incarnation_replaces_a_connection_that_nobody_answers_on() {
    let secret = Secret::generate();
    let key = NodeKey::generate();
    let process = |incarnation| Introduction { key: key.clone(), incarnation, ..introduction("alpha", &secret) };
    let mut witness = node("witness", &secret).await;
    let wire = wire_to(witness.address).await;
    let before = launch(options(), process(1)).await;
    before.mesh.dial_address(wire.address).await;
    witness.up(&before.peer).await;
    wire.freeze.send(true).expect("wire there");
    let mut after = launch(options(), process(2)).await;
    after.mesh.dial_address(witness.address).await;
    after.up(&witness.peer).await;
    // Down before up: gossipsub sends its subscriptions on the first connection of a peer only.
    witness.down(&before.peer).await;
    assert_eq!(witness.up(&after.peer).await.incarnation, 2);
    for side in [&witness, &after] {
        side.mesh.set_local(&member("m")).expect("valid");
    }
    let expected = b"after the restart".to_vec();
    after.mesh.publish_status(expected.clone()).await.expect("publishes");
    let heard = witness
        .expect("status", |event| match event {
            Event::Status { bytes, .. } => Some(bytes),
            _ => None,
        })
        .await;
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn streams_echo_name_the_peer_and_fail_with_the_promised_kinds() {
    let secret = Secret::generate();
    let mut alpha = node("alpha", &secret).await;
    let mut beta = node("beta", &secret).await;
    beta.serve_echo();
    alpha.mesh.add_addresses(&beta.peer, vec![beta.address]).await;
    let timeout = Duration::from_secs(5);
    let answer: String =
        transport::call(&alpha.mesh, &beta.peer, ECHO, &"hello".to_owned(), timeout).await.expect("connects and calls");
    assert_eq!(answer, format!("hello from {}", alpha.peer));
    alpha.up(&beta.peer).await;
    beta.up(&alpha.peer).await;
    let kind = |result: io::Result<transport::ByteStream>| result.err().map(|error| error.kind());
    assert_eq!(kind(alpha.mesh.open(&beta.peer, "/hive/nobody/1").await), Some(io::ErrorKind::Unsupported));
    assert_eq!(kind(alpha.mesh.open(&beta.peer, "no slash").await), Some(io::ErrorKind::InvalidInput));
    let unknown = NodeKey::generate().peer_id();
    assert_eq!(kind(alpha.mesh.open(&unknown, ECHO).await), Some(io::ErrorKind::NotConnected));
}

#[tokio::test]
async fn opening_to_a_peer_that_is_gone_or_silent_fails_within_bounds() {
    let secret = Secret::generate();
    let alpha = node("alpha", &secret).await;
    let gone = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds").local_addr().expect("address");
    let silent = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
    for (address, at_most_ms) in [(gone, 2_000), (silent.local_addr().expect("address"), 5_600)] {
        let peer = NodeKey::generate().peer_id();
        alpha.mesh.add_addresses(&peer, vec![address]).await;
        let started_ms = clock::now_ms();
        let error = alpha.mesh.open(&peer, ECHO).await.err().expect("fails");
        assert!(matches!(error.kind(), io::ErrorKind::NotConnected | io::ErrorKind::TimedOut), "{error}");
        assert!(clock::now_ms() - started_ms <= at_most_ms, "{address}");
    }
}

#[tokio::test]
async fn a_burst_of_streams_is_served_and_what_exceeds_the_backlog_is_refused() {
    let secret = Secret::generate();
    let mut alpha = node("alpha", &secret).await;
    let mut beta = node("beta", &secret).await;
    connect(&mut alpha, &mut beta).await;
    beta.serve_echo();
    let timeout = Duration::from_secs(5);
    let calls = (0..50).map(|n| {
        let (mesh, peer) = (alpha.mesh.clone(), beta.peer.clone());
        async move { transport::call::<_, String>(&mesh, &peer, ECHO, &n.to_string(), timeout).await }
    });
    for answer in futures::future::join_all(calls).await {
        answer.expect("none of a burst is lost");
    }
    let _never_taken = beta.mesh.accept("/hive/test-deaf/1").expect("accepts");
    let mut open = Vec::new();
    for _ in 0..streams::ACCEPT_BACKLOG {
        open.push(alpha.mesh.open(&beta.peer, "/hive/test-deaf/1").await.expect("waits"));
    }
    let mut refused = alpha.mesh.open(&beta.peer, "/hive/test-deaf/1").await.expect("negotiated, then dropped");
    let end = tokio::time::timeout(DEADLINE, refused.read(&mut [0u8; 1])).await.expect("ends");
    assert!(matches!(end, Ok(0) | Err(_)));
    let mut waiting = open.pop().expect("one");
    waiting.write_all(b"still open").await.expect("writes");
    waiting.flush().await.expect("flushes");
}

#[tokio::test]
async fn both_dialing_at_once_ends_with_one_connection_that_both_use() {
    let secret = Secret::generate();
    let mut alpha = node("alpha", &secret).await;
    let mut beta = node("beta", &secret).await;
    tokio::join!(alpha.mesh.dial_address(beta.address), beta.mesh.dial_address(alpha.address));
    alpha.up(&beta.peer).await;
    beta.up(&alpha.peer).await;
    eventually("one connection", async || {
        let (left, right) = (alpha.mesh.peers().await, beta.mesh.peers().await);
        left.len() == 1 && right.len() == 1 && left[0].connections == 1 && right[0].connections == 1
    })
    .await;
    beta.serve_echo();
    let timeout = Duration::from_secs(2);
    transport::call::<_, String>(&alpha.mesh, &beta.peer, ECHO, &"still", timeout).await.expect("works");
}

#[tokio::test]
async fn joining_a_hive_is_seen_by_those_already_connected() {
    let secret = Secret::generate();
    let mut alpha = node("alpha", &secret).await;
    let mut beta = node("beta", &secret).await;
    connect(&mut alpha, &mut beta).await;
    assert!(beta.mesh.facts_of(&alpha.peer).expect("connected").allegiance.is_none());
    let started_ms = clock::now_ms();
    alpha.mesh.set_local(&member("alpha")).expect("valid");
    let facts = beta
        .expect("facts changed", |event| match event {
            Event::FactsChanged { peer, facts } if peer == alpha.peer => Some(facts),
            _ => None,
        })
        .await;
    assert!(clock::now_ms() - started_ms < 1_000);
    assert_eq!(facts.allegiance, Some(allegiance(1)));
    assert_eq!(beta.mesh.facts_of(&alpha.peer).expect("connected").member_count, 2);
    assert!(alpha.mesh.set_local(&LocalFacts { name: String::new(), ..member("x") }).is_err());
}

#[tokio::test]
async fn gossip_reaches_all_five_and_stays_within_the_hive() {
    let secret = Secret::generate();
    let mut nodes = Vec::new();
    for n in 0..6 {
        nodes.push(node(&format!("n{n}"), &secret).await);
    }
    let hub = nodes[0].address;
    for (n, node) in nodes.iter().enumerate() {
        let mut local = member(&format!("n{n}"));
        if n == 5 {
            local.allegiance = Some(allegiance(9));
        }
        node.mesh.set_local(&local).expect("valid");
        if n > 0 {
            node.mesh.dial_address(hub).await;
        }
    }
    let peers: Vec<PeerId> = nodes.iter().map(|node| node.peer.clone()).collect();
    for node in &mut nodes[1..] {
        node.up(&peers[0]).await;
    }
    // Nodes 1 to 4 know each other only as members, and hear each other only through node 0.
    for node in &nodes {
        node.mesh.set_members(&peers.iter().cloned().collect()).await;
    }
    assert!(nodes[1].mesh.publish_status(vec![0; STATUS_MAX + 1]).await.is_err());
    let status = b"load 0.5".to_vec();
    for receiver in [0, 2, 3, 4] {
        // Published until heard: gossip promises nothing about the first seconds.
        let hearing = async {
            loop {
                nodes[1].mesh.publish_status(status.clone()).await.expect("publishes");
                let event = tokio::time::timeout(Duration::from_millis(300), nodes[receiver].events.recv()).await;
                if let Ok(Some(Event::Status { from, bytes })) = event {
                    assert_eq!((from, bytes), (peers[1].clone(), status.clone()));
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, hearing).await.unwrap_or_else(|_| panic!("node {receiver} heard nothing"));
    }
    while let Ok(event) = nodes[5].events.try_recv() {
        assert!(!matches!(event, Event::Status { .. }), "a status left its hive");
    }
}

#[tokio::test]
async fn silent_and_half_open_connections_end_and_leave_room_for_honest_ones() {
    let secret = Secret::generate();
    let short = Options { handshake_timeout_ms: 1_500, pending_max: 16, pending_per_address_max: 8, ..options() };
    let mut victim = launch(short, introduction("victim", &secret)).await;
    let started_ms = clock::now_ms();
    let flood: Vec<TcpStream> = (0..200)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
            socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).expect("binds");
            socket.connect(&victim.address.into()).expect("connects");
            socket.into()
        })
        .collect();
    let mut honest = node("honest", &secret).await;
    honest.mesh.dial_address(victim.address).await;
    honest.up(&victim.peer).await;
    assert!(clock::now_ms() - started_ms < 1_400, "admitted while the flood lasts");
    eventually("the surplus refused, the silent timed out", async || {
        let rows = victim.mesh.refusals();
        let count = |reason| rows.iter().find(|row| row.reason == reason).map_or(0, |row| row.count);
        count(RefuseReason::Limit) >= 192 && count(RefuseReason::Silent) == 8
    })
    .await;
    for mut connection in flood {
        connection.set_read_timeout(Some(Duration::from_secs(2))).expect("sets");
        let mut rest = Vec::new();
        let _ = connection.read_to_end(&mut rest);
        assert!(rest.len() < 100, "silence got {} bytes", rest.len());
    }
    victim.up(&honest.peer).await;
}

#[tokio::test]
async fn junk_on_the_port_is_counted_and_harms_nobody() {
    let secret = Secret::generate();
    let mut victim = node("victim", &secret).await;
    for junk in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4_096], b"\x13/multistream/1.0.0\n\x03na\n", b""] {
        let mut connection = TcpStream::connect(victim.address).expect("connects");
        connection.write_all(junk).expect("writes");
        drop(connection);
        let (by_us, reason) = victim.refused().await;
        assert!(by_us && reason == RefuseReason::Handshake, "{reason}");
    }
    let mut honest = node("honest", &secret).await;
    connect(&mut honest, &mut victim).await;
}

#[tokio::test]
async fn a_taken_port_names_its_holder() {
    let secret = Secret::generate();
    let first = node("first", &secret).await;
    let taken = Options { port: first.address.port(), ..options() };
    let error = start(taken, introduction("second", &secret)).await.err().expect("taken");
    let message = error.to_string();
    assert!(message.contains(&format!("(pid {})", std::process::id())), "{message}");
    assert!(message.contains(&first.address.port().to_string()), "{message}");
}

#[tokio::test]
async fn dialing_oneself_is_noticed_and_not_repeated() {
    let secret = Secret::generate();
    let mut alone = node("alone", &secret).await;
    let wire = wire_to(alone.address).await;
    // Well past the first back-off of 250 ms, after which an address that merely failed would be tried again.
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..60 {
        alone.mesh.dial_address(wire.address).await;
        ticks.tick().await;
    }
    assert_eq!(wire.accepted(), 1);
    while let Ok(event) = alone.events.try_recv() {
        assert!(!matches!(event, Event::Refused { .. }), "{event:?}");
    }
    assert!(alone.mesh.refusals().is_empty(), "{:?}", alone.mesh.refusals());
}

#[tokio::test]
async fn a_connection_without_life_is_closed_by_ping() {
    let secret = Secret::generate();
    let lively = Options { ping_interval_ms: 200, ping_timeout_ms: 400, ..options() };
    let mut alpha = launch(lively, introduction("alpha", &secret)).await;
    let mut beta = node("beta", &secret).await;
    let wire = wire_to(beta.address).await;
    alpha.mesh.dial_address(wire.address).await;
    alpha.up(&beta.peer).await;
    beta.up(&alpha.peer).await;
    let started_ms = clock::now_ms();
    wire.freeze.send(true).expect("wire there");
    alpha.down(&beta.peer).await;
    assert!(clock::now_ms() - started_ms < 3_000);
    beta.mesh.dial_address(alpha.address).await;
    alpha.up(&beta.peer).await;
}

#[tokio::test]
async fn a_peer_that_was_lost_is_dialed_again_on_demand() {
    let secret = Secret::generate();
    let mut alpha = node("alpha", &secret).await;
    let key = NodeKey::generate();
    let process = |incarnation| Introduction { key: key.clone(), incarnation, ..introduction("beta", &secret) };
    let mut beta = launch(options(), process(1)).await;
    connect(&mut alpha, &mut beta).await;
    let port = beta.address.port();
    beta.mesh.shutdown().await;
    alpha.down(&beta.peer).await;
    let kind = alpha.mesh.open(&beta.peer, ECHO).await.err().map(|error| error.kind());
    assert_eq!(kind, Some(io::ErrorKind::NotConnected));
    let mut options = Options { port, ..options() };
    options.listen_ips = vec![Ipv4Addr::LOCALHOST.into()];
    let again = launch(options, process(2)).await;
    again.serve_echo();
    eventually("reached again", async || {
        let timeout = Duration::from_secs(1);
        transport::call::<_, String>(&alpha.mesh, &beta.peer, ECHO, &"again", timeout).await.is_ok()
    })
    .await;
    assert_eq!(alpha.mesh.facts_of(&beta.peer).map(|facts| facts.incarnation), Some(2));
}

#[tokio::test]
async fn an_address_that_another_node_took_over_is_corrected() {
    let secret = Secret::generate();
    let mut alpha = node("alpha", &secret).await;
    let mut beta = node("beta", &secret).await;
    let expected = NodeKey::generate().peer_id();
    alpha.mesh.add_addresses(&expected, vec![beta.address]).await;
    alpha.mesh.dial(&expected).await;
    let reason = alpha
        .expect("dial failed", |event| match event {
            Event::DialFailed { reason, .. } => Some(reason),
            _ => None,
        })
        .await;
    assert!(reason.contains(beta.peer.as_str()), "{reason}");
    alpha.mesh.dial(&beta.peer).await;
    alpha.up(&beta.peer).await;
    beta.up(&alpha.peer).await;
}

#[tokio::test]
async fn the_mesh_ends_when_told_and_when_its_last_handle_is_gone() {
    let secret = Secret::generate();
    let mut alpha = node("alpha", &secret).await;
    let TestNode { mesh, mut events, address, peer } = node("beta", &secret).await;
    alpha.mesh.dial_address(address).await;
    alpha.up(&peer).await;
    drop(mesh);
    let ended = async { while events.recv().await.is_some() {} };
    tokio::time::timeout(DEADLINE, ended).await.expect("events end");
    alpha.down(&peer).await;
    alpha.mesh.shutdown().await;
    assert!(alpha.mesh.peers().await.is_empty());
    let error = alpha.mesh.open(&peer, ECHO).await.err().expect("over");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}
