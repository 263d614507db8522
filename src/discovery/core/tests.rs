//! The discovery core fed by hand: what it sends, reports and forgets, with time made up.

use proptest::prelude::*;

use super::*;
use crate::discovery::v1;
use crate::discovery::wire::tests::{hive, keyring, peer};
use crate::discovery::wire::{HELLO_LEN, Welcome};
use crate::engine::beacon::refusals::Reason;
use crate::engine::id::UnixMillis;
use crate::keyring::Secret;

const T0_MS: u64 = 1_000_000;

fn addr(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 168, 1, last], 50_555))
}

fn link() -> BTreeSet<Interface> {
    BTreeSet::from([Interface {
        name: "eth0".to_owned(),
        index: 2,
        address: "192.168.1.23".parse().expect("address"),
        prefix_len: 24,
        broadcast: Some("192.168.1.255".parse().expect("address")),
    }])
}

fn core_with(state: BeaconState, legacy_mode: LegacyMode) -> Core {
    let fixed = Fixed {
        me: peer(0),
        incarnation: 7,
        port: 50_555,
        legacy_mode,
        legacy_port: v1::PORT,
        seed: 1,
        wire: crate::wire::Wire::default(),
    };
    let hive = (state == BeaconState::Member).then(|| hive(1));
    let content = BeaconContent { state, hive, name: "me".to_owned(), member_count: 2, ..BeaconContent::default() };
    let mut core = Core::new(fixed, Some(keyring()), content, broadcast::channel(16).0, T0_MS);
    core.set_interfaces(link(), T0_MS);
    core.events.clear();
    core
}

fn core(state: BeaconState) -> Core {
    core_with(state, LegacyMode::Answer)
}

fn datagram(sender: u8, sequence: u64, body: Body) -> Datagram {
    Datagram {
        hive: None,
        sender: peer(sender),
        incarnation: 1,
        sequence,
        sent_at: UnixMillis(1),
        destination: None,
        body,
    }
}

fn hello(state: BeaconState, nonce: Nonce, cast: Cast) -> Body {
    Body::Hello(Hello {
        name: "other".to_owned(),
        addresses: Vec::new(),
        mesh_port: 50_555,
        http_port: 8_100,
        state,
        nonce,
        digest: [0; 16],
        candidate_ip: None,
        cast,
    })
}

fn sealed(datagram: &Datagram) -> Vec<u8> {
    datagram.seal(&keyring()).expect("seals")
}

/// What the core sends in answer, decoded.
fn answers(core: &mut Core, from: SocketAddr, bytes: &[u8], now_ms: u64) -> Vec<(To, Datagram)> {
    core.receive(from, bytes, now_ms);
    let opened = |outgoing: Outgoing| (outgoing.to, Datagram::open(&outgoing.bytes, &keyring()).expect("opens").0);
    core.take_outgoing().into_iter().map(opened).collect()
}

fn refused(core: &Core, reason: Reason) -> u64 {
    core.refusals.iter().filter(|row| row.0 == reason).map(|row| row.2.count).sum()
}

#[test]
fn a_member_welcomes_a_seeker_and_the_seeker_believes_only_its_own_nonce() {
    let (mut member, mut seeker) = (core(BeaconState::Member), core(BeaconState::Seeking));
    seeker.fixed.me = peer(1);
    seeker.tick(T0_MS);
    let call = seeker.take_outgoing().swap_remove(0);
    assert_eq!((call.to, call.bytes.len()), (To::Everybody, HELLO_LEN));
    member.receive(addr(1), &call.bytes, T0_MS);
    let welcome = member.take_outgoing().swap_remove(0);
    assert_eq!(welcome.to, To::Address(addr(1)));
    seeker.receive(addr(2), &welcome.bytes, T0_MS);
    let Some(DiscoveryEvent::WelcomeSeen { heard, welcome: seen }) = seeker.events.pop_back() else {
        panic!("no WELCOME: {:?}", seeker.events);
    };
    assert_eq!((heard.peer, heard.hive, seen.founded, seen.member_count), (peer(0), Some(hive(1)), true, 2));
    assert_eq!(seeker.snapshot(T0_MS).broadcast_heard_by[0].name, "me");

    let stale = Welcome { nonce: [9; 16], ..seen };
    seeker.receive(addr(2), &sealed(&datagram(3, 1, Body::Welcome(stale))), T0_MS);
    assert_eq!(refused(&seeker, Reason::Replay), 1);
    assert!(seeker.events.is_empty());
}

#[test]
fn seekers_answer_unknown_seekers_at_once_and_known_ones_not() {
    let mut seeker = core(BeaconState::Seeking);
    seeker.tick(T0_MS);
    seeker.take_outgoing();
    let call = |sequence| sealed(&datagram(1, sequence, hello(BeaconState::Seeking, [1; 16], Cast::Broadcast)));
    assert!(matches!(
        answers(&mut seeker, addr(1), &call(1), T0_MS)[..],
        [(To::Address(_), Datagram { body: Body::Hello(_), .. })]
    ));
    assert!(answers(&mut seeker, addr(1), &call(2), T0_MS + 250).is_empty());
    assert_eq!(answers(&mut seeker, addr(1), &call(3), T0_MS + 60_000).len(), 1, "it was away");
    let member = sealed(&datagram(2, 1, hello(BeaconState::Member, [1; 16], Cast::Broadcast)));
    assert!(answers(&mut seeker, addr(2), &member, T0_MS).is_empty());
}

#[test]
fn unicast_is_always_answered_and_broadcast_by_those_whose_turn_it_is() {
    let mut member = core(BeaconState::Member);
    let others: Vec<MemberContact> =
        (10..40).map(|number| MemberContact { peer: peer(number), addresses: Vec::new(), incarnation: 1 }).collect();
    member.set_members(others, T0_MS);
    member.take_outgoing();
    let mut answered = 0;
    for number in 0..100u8 {
        let broadcast =
            sealed(&datagram(1, u64::from(number) * 2, hello(BeaconState::Seeking, [number; 16], Cast::Broadcast)));
        answered += answers(&mut member, addr(1), &broadcast, T0_MS).len();
        let unicast =
            sealed(&datagram(1, u64::from(number) * 2 + 1, hello(BeaconState::Seeking, [number; 16], Cast::Unicast)));
        assert_eq!(answers(&mut member, addr(1), &unicast, T0_MS).len(), 1);
    }
    assert!((2..25).contains(&answered), "about 3 in 31 of 100: {answered}");
}

#[test]
fn everything_that_is_wrong_is_counted_by_its_reason_and_gets_no_answer() {
    let mut member = core(BeaconState::Member);
    let good = datagram(1, 1, hello(BeaconState::Seeking, [1; 16], Cast::Unicast));
    let foreign = good.seal(&Keyring::new(&Secret::generate())).expect("seals");
    let elsewhere = Datagram { destination: Some(peer(9)), ..good.clone() };
    let swim = datagram(1, 2, Body::Swim(vec![1, 2, 3]));
    let swim_of_ours = Datagram { hive: Some(hive(1)), sequence: 3, ..swim.clone() };
    let cases = [
        (Reason::WrongSecret, foreign),
        (Reason::Malformed, b"junk".to_vec()),
        (Reason::Misdirected, sealed(&elsewhere)),
        (Reason::ForeignEpoch, sealed(&swim)),
        (Reason::Stranger, sealed(&swim_of_ours)),
    ];
    for (reason, bytes) in cases {
        assert!(answers(&mut member, addr(1), &bytes, T0_MS).is_empty(), "{reason}");
        assert_eq!(refused(&member, reason), 1, "{reason}");
    }
    assert_eq!(answers(&mut member, addr(1), &sealed(&good), T0_MS).len(), 1, "1 comes after 3, but is new");
    assert_eq!(refused(&member, Reason::Replay), 0);
    assert!(member.events.iter().any(|event| matches!(event, DiscoveryEvent::UnverifiedSeen { .. })));
}

#[test]
fn recorded_traffic_does_nothing_a_second_time() {
    let mut member = core(BeaconState::Member);
    let recorded: Vec<Vec<u8>> = (1..50u8)
        .map(|number| {
            sealed(&datagram(
                number % 5 + 1,
                u64::from(number),
                hello(BeaconState::Seeking, [number; 16], Cast::Unicast),
            ))
        })
        .collect();
    for bytes in &recorded {
        assert_eq!(answers(&mut member, addr(1), bytes, T0_MS).len(), 1);
    }
    let events = member.events.len();
    for bytes in recorded.iter().rev().chain(&recorded) {
        assert!(answers(&mut member, addr(9), bytes, T0_MS + 5_000).is_empty());
    }
    assert_eq!(member.events.len(), events);
    assert_eq!(refused(&member, Reason::Replay), 98);
}

#[test]
fn the_copy_that_multicast_brings_is_no_replay_and_does_nothing() {
    let mut member = core(BeaconState::Member);
    let call = sealed(&datagram(1, 7, hello(BeaconState::Seeking, [1; 16], Cast::Unicast)));
    assert_eq!(answers(&mut member, addr(1), &call, T0_MS).len(), 1);
    let events = member.events.len();
    assert!(answers(&mut member, addr(1), &call, T0_MS + 1).is_empty());
    assert_eq!((member.events.len(), refused(&member, Reason::Replay)), (events, 0));
    answers(&mut member, addr(9), &call, T0_MS + 1);
    answers(&mut member, addr(1), &call, T0_MS + 60_000);
    assert_eq!(refused(&member, Reason::Replay), 2, "from elsewhere, and too late");
}

#[test]
fn a_flood_from_one_sender_and_from_one_address_is_cut_off() {
    let mut member = core(BeaconState::Member);
    let mut answered = 0;
    for sequence in 0..1_000 {
        let ping = sealed(&datagram(1, sequence, Body::Ping([1; 16])));
        answered += answers(&mut member, addr(1), &ping, T0_MS).len();
    }
    assert_eq!(answered as u64, rate::PER_PEER_PER_S);
    let foreign = datagram(2, 1, Body::Ping([1; 16])).seal(&Keyring::new(&Secret::generate())).expect("seals");
    for _ in 0..1_000 {
        member.receive(addr(77), &foreign, T0_MS);
    }
    assert!(refused(&member, Reason::WrongSecret) < 50, "{}", refused(&member, Reason::WrongSecret));
    let honest = sealed(&datagram(3, 1, Body::Ping([1; 16])));
    assert_eq!(answers(&mut member, addr(1), &honest, T0_MS).len(), 1, "others are not affected");
}

#[test]
fn a_copy_of_this_machine_is_noticed_and_our_own_echo_is_not() {
    let mut core = core(BeaconState::Seeking);
    core.tick(T0_MS);
    let echo = core.take_outgoing().swap_remove(0).bytes;
    core.receive(addr(23), &echo, T0_MS);
    assert!(core.events.is_empty() && core.refusals.is_empty());
    for (incarnation, sequence, expected) in [(7, u64::MAX, 1), (8, 0, 1), (6, u64::MAX, 0)] {
        let body = hello(BeaconState::Seeking, [1; 16], Cast::Broadcast);
        let copy = Datagram { incarnation, ..datagram(0, sequence, body) };
        core.receive(addr(9), &sealed(&copy), T0_MS);
        assert_eq!(core.events.drain(..).count(), expected, "{incarnation} {sequence}");
    }
}

#[test]
fn a_node_without_a_secret_only_sees_that_others_have_one() {
    let mut core = core(BeaconState::Seeking);
    core.set_keyring(None, T0_MS);
    core.tick(T0_MS + 10_000);
    assert!(core.take_outgoing().is_empty(), "it has nothing to sign with");
    core.receive(addr(1), &sealed(&datagram(1, 1, Body::Ping([1; 16]))), T0_MS);
    core.receive(addr(1), b"junk", T0_MS);
    let seen: Vec<_> = core.events.drain(..).collect();
    assert_eq!(seen, [DiscoveryEvent::UnverifiedSeen { from: addr(1), reason: Reason::WrongSecret }]);
}

#[test]
fn a_v1_node_is_welcomed_advised_and_listed() {
    let mut member = core(BeaconState::Member);
    let v1_peer = peer(50);
    let speaker = v1::Speaker { peer: &v1_peer, hostname: "old1", primary_ip: "192.168.1.50", now: UnixMillis(0) };
    let hello = v1::greeting(v1::Kind::Hello, &speaker, &keyring());
    let from = SocketAddr::from(([192, 168, 1, 50], 43_210));
    member.receive(from, &hello, T0_MS);
    let sent = member.take_outgoing();
    assert_eq!(sent[0].to, To::Address(addr(50)), "to its port 50555, not to its source port");
    assert_eq!(v1::open(&sent[0].bytes, &keyring()).expect("verifies").kind, v1::Kind::Welcome);
    let text = String::from_utf8(sent[0].bytes.clone()).expect("ASCII");
    assert!(text.contains("\"primary_ip\":\"192.168.1.23\""), "{text}");

    let identify = String::from_utf8(hello.clone()).expect("ASCII");
    let payload = identify.split_once("\"payload\":").expect("payload").1.rsplit_once(",\"sig\"").expect("sig").0;
    let payload = payload.replace("HELLO", "IDENTIFY").replace('}', ",\"request\":\"who_am_i\"}");
    let mac = crate::keyring::hmac(keyring().signing().secret().expose(), &[payload.as_bytes()]);
    let identify = format!("{{\"magic\":\"BUILD/HELLO/v1\",\"payload\":{payload},\"sig\":\"{}\"}}", hex::encode(mac));
    member.receive(from, identify.as_bytes(), T0_MS);
    let Some(DiscoveryEvent::LegacyAsksAdvice { node_id, hostname, from: ip }) = member.events.pop_back() else {
        panic!("nobody asked");
    };
    assert_eq!((hostname.as_str(), ip), ("old1", from.ip()));
    let advice = v1::Advice { role: "builder".to_owned(), ..v1::Advice::default() };
    member.legacy_advice(&node_id, &advice, T0_MS + 100).expect("told");
    let sent = member.take_outgoing();
    assert_eq!(v1::open(&sent[0].bytes, &keyring()).expect("verifies").kind, v1::Kind::Advice);
    member.legacy_advice(&node_id, &advice, T0_MS + 200).expect("no longer waits");
    assert!(member.take_outgoing().is_empty(), "advice is given once");

    member.receive(from, &v1::heartbeat(Some("builder"), &speaker, &keyring()), T0_MS + 1_000);
    let listed = member.snapshot(T0_MS + 2_000).legacy_peers;
    assert_eq!((listed.len(), listed[0].role.as_deref(), listed[0].last_seen_ms), (1, Some("builder"), 1_000));

    let off_link = SocketAddr::from(([8, 8, 8, 8], 50_555));
    let mut fresh = core_with(BeaconState::Member, LegacyMode::Answer);
    fresh.receive(off_link, &hello, T0_MS);
    assert!(fresh.take_outgoing().is_empty() && fresh.snapshot(T0_MS).legacy_peers.is_empty());
    for mut silent in
        [core_with(BeaconState::Member, LegacyMode::Off), core_with(BeaconState::Seeking, LegacyMode::Answer)]
    {
        silent.receive(from, &hello, T0_MS);
        assert!(silent.take_outgoing().is_empty());
    }
}

#[test]
fn v1_announcements_are_made_only_where_wanted() {
    let sent_in = |mode, for_ms: u64| {
        let mut core = core_with(BeaconState::Member, mode);
        let mut kinds = Vec::new();
        while core.next_ms() <= T0_MS + for_ms {
            let now_ms = core.next_ms();
            core.tick(now_ms);
            let legacy = core.take_outgoing().into_iter().filter(|outgoing| outgoing.to == To::LegacyEverybody);
            kinds.extend(legacy.map(|outgoing| v1::open(&outgoing.bytes, &keyring()).expect("verifies").kind.as_str()));
        }
        kinds
    };
    assert_eq!(sent_in(LegacyMode::Announce, 70_000), ["HELLO", "HELLO", "HELLO", "HEARTBEAT", "HEARTBEAT"]);
    assert!(sent_in(LegacyMode::Answer, 70_000).is_empty());
}

#[test]
fn a_farewell_ends_all_talk() {
    let mut member = core(BeaconState::Member);
    member.leave(T0_MS);
    member.take_outgoing();
    let call = sealed(&datagram(1, 1, hello(BeaconState::Seeking, [1; 16], Cast::Unicast)));
    assert!(answers(&mut member, addr(1), &call, T0_MS).is_empty());
    member.tick(T0_MS + 100_000);
    assert!(member.take_outgoing().is_empty());
    assert_eq!(member.next_ms(), u64::MAX);
}

#[test]
fn a_slow_agent_loses_the_oldest_hints_and_no_change_of_members() {
    let mut member = core(BeaconState::Member);
    member.set_members(vec![MemberContact { peer: peer(1), addresses: vec![addr(1)], incarnation: 1 }], T0_MS);
    for number in 0..(EVENTS_MAX as u64 + 10) {
        let sender = (number % 200) as u8 + 1;
        let body = hello(BeaconState::Member, [1; 16], Cast::Broadcast);
        member.receive(addr(1), &sealed(&datagram(sender, number, body)), T0_MS + number);
    }
    assert_eq!(member.events.len(), EVENTS_MAX);
    assert_eq!(member.snapshot(T0_MS).events_dropped, 10);
    let mut refusals = 0;
    member.report_members(|_| {
        refusals += 1;
        false
    });
    let mut taken = Vec::new();
    member.report_members(|event| {
        taken.push(event);
        true
    });
    assert_eq!((refusals, taken), (1, vec![DiscoveryEvent::MemberAlive { peer: peer(1), incarnation: 1 }]));
    member.report_members(|event| panic!("told twice: {event:?}"));
}

fn any_datagram() -> impl Strategy<Value = Vec<u8>> {
    let body = prop_oneof![
        (0..3u8, any::<[u8; 16]>(), any::<bool>()).prop_map(|(state, nonce, broadcast)| {
            let state = [BeaconState::Seeking, BeaconState::Founding, BeaconState::Member][usize::from(state)];
            hello(state, nonce, if broadcast { Cast::Broadcast } else { Cast::Unicast })
        }),
        any::<[u8; 16]>().prop_map(Body::Ping),
        any::<[u8; 16]>().prop_map(Body::Pong),
        proptest::collection::vec(any::<u8>(), 0..100).prop_map(Body::Swim),
    ];
    let valid = (1..6u8, any::<u64>(), any::<bool>(), body).prop_map(|(sender, sequence, member, body)| {
        let hive = member.then(|| hive(1));
        sealed(&Datagram { hive, ..datagram(sender, sequence, body) })
    });
    let mutated = (valid.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, index, byte)| {
        let position = index.index(bytes.len());
        bytes[position] = byte;
        bytes
    });
    prop_oneof![4 => valid, 1 => mutated, 1 => proptest::collection::vec(any::<u8>(), 0..1_300)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_input_gets_more_out_than_it_put_in(
        member in any::<bool>(),
        input in proptest::collection::vec((any_datagram(), 0..10u8, 0..2_000u64), 1..60),
    ) {
        let mut core = core(if member { BeaconState::Member } else { BeaconState::Seeking });
        let (mut bytes_in, mut bytes_out, mut now_ms) = (0, 0, T0_MS);
        for (bytes, from, pause_ms) in input {
            now_ms += pause_ms;
            bytes_in += bytes.len();
            core.receive(addr(from), &bytes, now_ms);
            for outgoing in core.take_outgoing() {
                prop_assert_eq!(outgoing.to, To::Address(addr(from)), "an answer goes to whoever asked");
                bytes_out += outgoing.bytes.len();
            }
            prop_assert!(bytes_out <= bytes_in);
        }
    }
}

#[test]
fn memory_is_bounded_whoever_calls() {
    let mut core = core(BeaconState::Seeking);
    for number in 0..3_000u32 {
        let secret = crate::keyring::sha256(&number.to_be_bytes());
        let key = libp2p::identity::Keypair::ed25519_from_bytes(secret).expect("a seed of 32 bytes");
        let sender = PeerId::new(key.public().to_peer_id().to_base58());
        let mut nonce = [0; 16];
        nonce[..4].copy_from_slice(&number.to_be_bytes());
        let call = Datagram { sender, ..datagram(1, 1, hello(BeaconState::Seeking, nonce, Cast::Broadcast)) };
        let from = SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + number), 50_555));
        core.receive(from, &sealed(&call), T0_MS + u64::from(number));
        core.receive(from, b"junk", T0_MS + u64::from(number));
        core.take_outgoing();
    }
    assert!(core.seekers.len() <= SEEKERS_MAX && core.signs.len() <= PEERS_MAX && core.events.len() <= EVENTS_MAX);
    assert!(core.refusals.len() <= 264 && core.replay.len() <= 1_024 && core.heard_at.is_empty());
}
