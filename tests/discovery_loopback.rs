//! Discovery on real sockets: several nodes in one process, on loopback, each on a port of its own and found by unicast.

#![cfg(feature = "node")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test waits for one kind of event and passes over all others")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use hive::discovery::{
    BeaconContent, Discovery, DiscoveryError, DiscoveryEvent, DiscoveryHandle, HiveEpoch, LegacyMode, MemberContact,
    Options, interfaces, v1,
};
use hive::engine::beacon::BeaconState;
use hive::engine::beacon::refusals::Reason;
use hive::engine::id::{Epoch, EpochId, HiveId, PeerId};
use hive::keyring::{Keyring, Secret};
use tokio::sync::mpsc;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(10);

struct Node {
    peer: PeerId,
    handle: DiscoveryHandle,
    events: mpsc::Receiver<DiscoveryEvent>,
}

fn peer(number: u8) -> PeerId {
    let keypair = libp2p::identity::Keypair::ed25519_from_bytes([number; 32]).expect("a seed of 32 bytes");
    PeerId::new(keypair.public().to_peer_id().to_base58())
}

fn keyring() -> Keyring {
    Keyring::new(&Secret::from_bytes(b"a3f9c8e2d1b4a3f9c8e2d1b4a3f9c8e2"))
}

fn hive() -> HiveEpoch {
    HiveEpoch { hive_id: HiveId([1; 16]), epoch: Epoch { counter: 1, id: EpochId([2; 16]) } }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn options(number: u8, join: Vec<(String, u16)>) -> Options {
    Options {
        peer_id: peer(number),
        port: 0,
        broadcast: false,
        interfaces: interfaces::Filter { include: vec!["lo".parse().expect("rule")], exclude: Vec::new() },
        join,
        legacy: LegacyMode::Off,
        ..Options::default()
    }
}

fn start(options: Options, state: BeaconState) -> Node {
    let peer = options.peer_id.clone();
    let content = BeaconContent {
        state,
        hive: (state == BeaconState::Member).then(hive),
        name: format!("node-{}", peer.short()),
        ..BeaconContent::default()
    };
    let (handle, events) = Discovery::start(options, Some(keyring()), content).expect("starts");
    Node { peer, handle, events }
}

/// A hive of `count` that all know each other.
fn hive_of(count: u8) -> Vec<Node> {
    let nodes: Vec<Node> = (0..count).map(|number| start(options(number, Vec::new()), BeaconState::Member)).collect();
    let members: Vec<MemberContact> = nodes
        .iter()
        .map(|node| MemberContact {
            peer: node.peer.clone(),
            addresses: vec![loopback(node.handle.port())],
            incarnation: 1,
        })
        .collect();
    for node in &nodes {
        node.handle.set_members(members.clone());
    }
    nodes
}

async fn wait_for<T>(
    events: &mut mpsc::Receiver<DiscoveryEvent>,
    deadline: Duration,
    what: &str,
    mut pick: impl FnMut(DiscoveryEvent) -> Option<T>,
) -> T {
    let search = async {
        loop {
            let event = events.recv().await.expect("discovery runs");
            if let Some(found) = pick(event) {
                return found;
            }
        }
    };
    timeout(deadline, search).await.unwrap_or_else(|_| panic!("not within {deadline:?}: {what}"))
}

async fn all_alive(nodes: &mut [Node]) {
    let expected = nodes.len() - 1;
    for node in nodes {
        let mut alive = std::collections::BTreeSet::new();
        wait_for(&mut node.events, DEADLINE, "all alive", |event| {
            if let DiscoveryEvent::MemberAlive { peer, .. } = event {
                alive.insert(peer);
            }
            (alive.len() == expected).then_some(())
        })
        .await;
    }
}

fn downs(node: &mut Node) -> Vec<DiscoveryEvent> {
    let mut found = Vec::new();
    while let Ok(event) = node.events.try_recv() {
        if matches!(event, DiscoveryEvent::MemberDown { .. }) {
            found.push(event);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seeker_finds_a_member_by_name_alone() {
    let mut member = start(options(1, Vec::new()), BeaconState::Member);
    let mut seeker = start(options(2, vec![("localhost".to_owned(), member.handle.port())]), BeaconState::Seeking);
    let heard = wait_for(&mut member.events, DEADLINE, "the seeker's HELLO", |event| match event {
        DiscoveryEvent::HelloSeen { heard, hello } if hello.state == BeaconState::Seeking => Some(heard),
        _ => None,
    })
    .await;
    assert_eq!((heard.peer, heard.hive), (seeker.peer.clone(), None));
    assert_eq!(heard.from.port(), seeker.handle.port());
    let (heard, welcome) = wait_for(&mut seeker.events, DEADLINE, "a WELCOME", |event| match event {
        DiscoveryEvent::WelcomeSeen { heard, welcome } => Some((heard, welcome)),
        _ => None,
    })
    .await;
    assert_eq!((heard.peer, heard.hive), (member.peer.clone(), Some(hive())));
    assert!(welcome.founded);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_seekers_find_each_other_when_only_one_knows_the_other() {
    let mut first = start(options(1, Vec::new()), BeaconState::Seeking);
    let target = ("127.0.0.1".to_owned(), first.handle.port());
    let mut second = start(options(2, vec![target]), BeaconState::Seeking);
    for (node, other) in [(&mut first, second.peer.clone()), (&mut second, peer(1))] {
        wait_for(&mut node.events, DEADLINE, "the other's HELLO", |event| match event {
            DiscoveryEvent::HelloSeen { heard, .. } if heard.peer == other => Some(()),
            _ => None,
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_works_by_unicast() {
    let member = start(options(1, Vec::new()), BeaconState::Member);
    let mut seeker = start(options(2, vec![("::1".to_owned(), member.handle.port())]), BeaconState::Seeking);
    let from = wait_for(&mut seeker.events, DEADLINE, "a WELCOME over IPv6", |event| match event {
        DiscoveryEvent::WelcomeSeen { heard, .. } => Some(heard.from),
        _ => None,
    })
    .await;
    assert!(from.is_ipv6());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_seen_within_five_seconds_and_nobody_else_is_accused() {
    let mut nodes = hive_of(5);
    all_alive(&mut nodes).await;
    // Scheduler noise: every core is kept busy while the hive watches itself.
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let burners: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::black_box((0..10_000u64).sum::<u64>());
                }
            })
        })
        .collect();
    let quiet = timeout(Duration::from_secs(5), async {
        loop {
            let event = nodes[0].events.recv().await.expect("discovery runs");
            assert!(!matches!(event, DiscoveryEvent::MemberDown { .. }), "{event:?}");
        }
    });
    assert!(quiet.await.is_err(), "nobody is down while all run");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for burner in burners {
        burner.join().expect("ends");
    }
    for node in &mut nodes {
        assert_eq!(downs(node), []);
    }

    let dead = nodes.pop().expect("five");
    let dead_peer = dead.peer.clone();
    drop(dead);
    let started = tokio::time::Instant::now();
    for node in &mut nodes {
        let left = Duration::from_secs(5).saturating_sub(started.elapsed());
        let peer = wait_for(&mut node.events, left, "the crash", |event| match event {
            DiscoveryEvent::MemberDown { peer, .. } => Some(peer),
            _ => None,
        })
        .await;
        assert_eq!(peer, dead_peer);
    }
    println!("crash seen by all four after {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_and_a_farewell_are_noticed_sooner() {
    let mut nodes = hive_of(4);
    all_alive(&mut nodes).await;
    let leaving = nodes.pop().expect("four");
    leaving.handle.leave().await;
    let started = tokio::time::Instant::now();
    for node in &mut nodes {
        wait_for(&mut node.events, Duration::from_secs(2), "the farewell", |event| match event {
            DiscoveryEvent::MemberDown { peer, .. } if peer == leaving.peer => Some(()),
            _ => None,
        })
        .await;
    }
    println!("farewell known to all three after {:?}", started.elapsed());

    let dead = nodes.pop().expect("three");
    let dead_peer = dead.peer.clone();
    drop(dead);
    nodes[0].handle.probe_now(&dead_peer);
    let other = nodes[1].peer.clone();
    nodes[0].handle.probe_now(&other);
    wait_for(&mut nodes[0].events, Duration::from_secs(4), "the probed one is down", |event| match event {
        DiscoveryEvent::MemberDown { peer, .. } if peer == dead_peer => Some(()),
        DiscoveryEvent::MemberDown { peer, .. } => panic!("{peer} runs"),
        _ => None,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_junk_does_not_stop_honest_traffic() {
    let mut nodes = hive_of(3);
    all_alive(&mut nodes).await;
    let target = loopback(nodes[0].handle.port());
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flood_stop = stop.clone();
    // From the members' own address, so that holding the address back would hit them, too.
    let flood = std::thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let junk = vec![0xd1u8; 1_200];
        let mut sent = 0u64;
        while !flood_stop.load(std::sync::atomic::Ordering::Relaxed) {
            for length in [1, 13, 400, 1_200] {
                sent += u64::from(socket.send_to(&junk[..length], target).is_ok());
            }
            std::thread::park_timeout(Duration::from_micros(400));
        }
        sent
    });
    let join = vec![("127.0.0.1".to_owned(), target.port())];
    let mut seeker = start(options(9, join), BeaconState::Seeking);
    wait_for(&mut seeker.events, DEADLINE, "a WELCOME in the flood", |event| match event {
        DiscoveryEvent::WelcomeSeen { .. } => Some(()),
        _ => None,
    })
    .await;
    let quiet = timeout(Duration::from_secs(4), async {
        loop {
            let event = nodes[1].events.recv().await.expect("discovery runs");
            assert!(!matches!(event, DiscoveryEvent::MemberDown { .. }), "{event:?}");
        }
    });
    assert!(quiet.await.is_err(), "the flooded node stays alive for the others");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let sent = flood.join().expect("ends");
    let refused: u64 = nodes[0].handle.snapshot().refusals.iter().map(|row| row.count).sum();
    println!("{sent} junk datagrams sent, {refused} counted");
    assert!(refused > 1_000, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_seen_on_both_sides() {
    let mut first = start(options(1, Vec::new()), BeaconState::Member);
    let mut wrong = options(2, vec![("127.0.0.1".to_owned(), first.handle.port())]);
    wrong.incarnation = 1;
    let content = BeaconContent { name: "wrong".to_owned(), ..BeaconContent::default() };
    let (handle, _events) = Discovery::start(wrong, Some(Keyring::new(&Secret::generate())), content).expect("starts");
    wait_for(&mut first.events, DEADLINE, "an unverified datagram", |event| match event {
        DiscoveryEvent::UnverifiedSeen { reason: Reason::WrongSecret, .. } => Some(()),
        _ => None,
    })
    .await;
    let mut tap = first.handle.tap();
    let record = timeout(DEADLINE, async {
        loop {
            let record = tap.recv().await.expect("discovery runs");
            if !record.sent {
                return record;
            }
        }
    });
    let record = record.await.expect("seeker calls four times a second");
    assert_eq!((record.verified, record.refused), (false, Some(Reason::WrongSecret)));
    handle.set_keyring(Some(keyring()));
    wait_for(&mut first.events, DEADLINE, "the right secret", |event| match event {
        DiscoveryEvent::HelloSeen { .. } => Some(()),
        _ => None,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_node_gets_its_welcome_and_advice() {
    let v1_socket = tokio::net::UdpSocket::bind("127.0.0.2:0").await.expect("binds");
    let legacy_port = v1_socket.local_addr().expect("bound").port();
    let mut node =
        start(Options { legacy: LegacyMode::Answer, legacy_port, ..options(1, Vec::new()) }, BeaconState::Member);
    // Loopback counts as a link once it was scanned.
    wait_for(&mut node.events, DEADLINE, "the interfaces", |event| match event {
        DiscoveryEvent::InterfacesChanged(_) => Some(()),
        _ => None,
    })
    .await;
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("legacy-v1-vectors.json")).expect("the vectors are JSON");
    let vector = |name: &str| {
        let all = vectors["datagrams"].as_array().expect("a list");
        let found = all.iter().find(|vector| vector["name"] == name).expect("the vector is there");
        found["bytes_utf8"].as_str().expect("text").as_bytes().to_vec()
    };
    let mut buffer = [0; 8_192];
    v1_socket.send_to(&vector("hello, candidate_ip null"), loopback(node.handle.port())).await.expect("sends");
    let (length, _) = timeout(DEADLINE, v1_socket.recv_from(&mut buffer)).await.expect("in time").expect("receives");
    assert_eq!(v1::open(&buffer[..length], &keyring()).expect("verifies").kind, v1::Kind::Welcome);
    v1_socket.send_to(&vector("identify"), loopback(node.handle.port())).await.expect("sends");
    let node_id = wait_for(&mut node.events, DEADLINE, "the question", |event| match event {
        DiscoveryEvent::LegacyAsksAdvice { node_id, .. } => Some(node_id),
        _ => None,
    })
    .await;
    let advice = v1::Advice { role: "builder".to_owned(), reason: "why not".to_owned(), ..v1::Advice::default() };
    node.handle.legacy_advice(&node_id, advice).await.expect("told");
    let (length, _) = timeout(DEADLINE, v1_socket.recv_from(&mut buffer)).await.expect("in time").expect("receives");
    assert_eq!(v1::open(&buffer[..length], &keyring()).expect("verifies").kind, v1::Kind::Advice);
    let listed = timeout(DEADLINE, async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            let peers = node.handle.snapshot().legacy_peers.clone();
            if !peers.is_empty() {
                return peers;
            }
            ticks.tick().await;
        }
    });
    assert_eq!(listed.await.expect("listed")[0].hostname, "build3");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_agent_on_a_port_is_told_who_has_it() {
    let first = start(options(1, Vec::new()), BeaconState::Seeking);
    let second = Options { port: first.handle.port(), ..options(2, Vec::new()) };
    let error = Discovery::start(second, Some(keyring()), BeaconContent::default()).map(|_| ()).expect_err("taken");
    let DiscoveryError::PortTaken { port, holder: Some(owner) } = &error else { panic!("{error}") };
    assert_eq!((*port, owner.pid), (first.handle.port(), std::process::id()));
    assert!(error.to_string().contains(&format!("(pid {})", std::process::id())), "{error}");
}
