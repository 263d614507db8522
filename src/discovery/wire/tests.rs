//! The wire format: what is sealed comes out, and nothing else does.

use proptest::prelude::*;

use super::*;
use crate::engine::beacon::BeaconState;
use crate::engine::id::EpochId;
use crate::keyring::Secret;

pub(crate) fn peer(number: u8) -> PeerId {
    let seed = [number; 32];
    let keypair = libp2p::identity::Keypair::ed25519_from_bytes(seed).expect("a seed of 32 bytes");
    PeerId::new(keypair.public().to_peer_id().to_base58())
}

pub(crate) fn hive(number: u8) -> HiveEpoch {
    HiveEpoch { hive_id: HiveId([number; 16]), epoch: Epoch { counter: 1, id: EpochId([number; 16]) } }
}

pub(crate) fn keyring() -> Keyring {
    Keyring::new(&Secret::from_bytes(b"a3f9c8e2d1b4a3f9c8e2d1b4a3f9c8e2"))
}

fn hello() -> Hello {
    Hello {
        name: "build3".to_owned(),
        addresses: vec!["192.168.1.23".parse().expect("address"), "fd00::23".parse().expect("address")],
        mesh_port: 50_555,
        http_port: 8_100,
        state: BeaconState::Seeking,
        nonce: [7; 16],
        digest: [8; 16],
        candidate_ip: Some("192.168.1.40".parse().expect("address")),
        cast: Cast::Broadcast,
    }
}

/// A WELCOME with every field at its longest.
fn longest_welcome() -> Welcome {
    Welcome {
        nonce: [255; 16],
        name: "n".repeat(NAME_MAX),
        addresses: vec!["fd00:1111:2222:3333:4444:5555:6666:7777".parse().expect("address"); ADDRESSES_MAX],
        mesh_port: u16::MAX,
        http_port: u16::MAX,
        hive_name: "h".repeat(NAME_MAX),
        member_count: u32::MAX,
        founded: true,
        heard: Cast::Broadcast,
    }
}

fn datagram(body: Body) -> Datagram {
    Datagram {
        hive: Some(hive(1)),
        sender: peer(1),
        incarnation: 3,
        sequence: 17,
        sent_at: UnixMillis(1_762_605_296_789),
        destination: Some(peer(2)),
        body,
    }
}

fn widest(body: Body) -> Datagram {
    let epoch = Epoch { counter: u64::MAX, id: EpochId([255; 16]) };
    Datagram {
        hive: Some(HiveEpoch { hive_id: HiveId([255; 16]), epoch }),
        incarnation: u64::MAX,
        sequence: u64::MAX,
        sent_at: UnixMillis(u64::MAX),
        ..datagram(body)
    }
}

fn all_bodies() -> Vec<Body> {
    vec![
        Body::Hello(hello()),
        Body::Welcome(longest_welcome()),
        Body::Ping([1; 16]),
        Body::Pong([2; 16]),
        Body::Swim(vec![3; SWIM_MAX]),
    ]
}

#[test]
fn every_kind_survives_the_wire() {
    for body in all_bodies() {
        for mut sent in [datagram(body.clone()), widest(body.clone())] {
            let bytes = sent.seal(&keyring()).expect("seals");
            assert!(bytes.len() <= DATAGRAM_MAX, "{}: {}", body.kind(), bytes.len());
            let (received, key_id) = Datagram::open(&bytes, &keyring()).expect("opens");
            assert_eq!(received, sent);
            assert_eq!(key_id, keyring().signing().id);
            (sent.hive, sent.destination) = (None, None);
            let bytes = sent.seal(&keyring()).expect("seals");
            assert_eq!(Datagram::open(&bytes, &keyring()).expect("opens").0, sent);
        }
    }
}

#[test]
fn no_answer_is_longer_than_its_question() {
    let shortest = Hello { name: "a".to_owned(), addresses: Vec::new(), candidate_ip: None, ..hello() };
    let longest = Hello {
        name: "n".repeat(NAME_MAX),
        addresses: longest_welcome().addresses,
        candidate_ip: Some("fd00::1".parse().expect("address")),
        ..hello()
    };
    for hello in [shortest, hello(), longest] {
        let mut question = datagram(Body::Hello(hello.clone()));
        for sequence in [0, 200, 70_000, u64::MAX] {
            question.sequence = sequence;
            assert_eq!(question.seal(&keyring()).expect("seals").len(), HELLO_LEN);
        }
        (question.hive, question.destination) = (None, None);
        assert_eq!(question.seal(&keyring()).expect("seals").len(), HELLO_LEN);
    }
    let answer = widest(Body::Welcome(longest_welcome())).seal(&keyring()).expect("seals");
    assert!(answer.len() <= HELLO_LEN, "{}", answer.len());
    let mut ping = datagram(Body::Ping([1; 16]));
    (ping.incarnation, ping.sequence, ping.sent_at) = (0, 0, UnixMillis(0));
    (ping.hive, ping.destination) = (None, None);
    let pong = widest(Body::Pong([1; 16]));
    assert!(pong.seal(&keyring()).expect("seals").len() <= ping.seal(&keyring()).expect("seals").len());
}

#[test]
fn another_secret_is_told_from_junk() {
    let other = Keyring::new(&Secret::generate());
    let bytes = datagram(Body::Hello(hello())).seal(&other).expect("seals");
    let error = Datagram::open(&bytes, &keyring()).expect_err("another secret");
    assert_eq!(error, WireError::WrongSecret { key_id: other.signing().id });
    assert_eq!(error.reason(), Reason::WrongSecret);
    let rotated = Keyring::with_older(&Secret::generate(), &[other.signing().secret().clone()]);
    assert!(Datagram::open(&bytes, &rotated).is_ok(), "an older key of the ring still verifies");
    for junk in [&b""[..], b"\xd1", b"{\"magic\":\"BUILD/HELLO/v1\"}", &[0xd1; 1_200], &bytes[..bytes.len() - 1]] {
        assert_eq!(Datagram::open(junk, &keyring()).map(|_| ()), Err(WireError::Malformed));
    }
    let long = vec![0; DATAGRAM_MAX + 1];
    assert!(matches!(Datagram::open(&long, &keyring()), Err(WireError::TooLong { .. })));
}

#[test]
fn every_changed_bit_is_noticed() {
    let bytes = datagram(Body::Ping([1; 16])).seal(&keyring()).expect("seals");
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(Datagram::open(&changed, &keyring()).is_err(), "bit {bit}");
    }
}

#[test]
fn what_a_holder_of_the_secret_signs_is_still_checked() {
    let seal = |payload: Vec<u8>| cose::seal(payload, keyring().signing()).expect("seals");
    let open = |payload: Vec<u8>| Datagram::open(&seal(payload), &keyring()).map(|_| ());
    #[derive(Serialize)]
    struct OnlyVersion {
        v: u8,
    }
    assert_eq!(open(to_cbor(&OnlyVersion { v: 3 })), Err(WireError::Version { version: 3 }));
    assert_eq!(open(to_cbor(&OnlyVersion { v: 2 })), Err(WireError::Malformed));
    // Arrays nested 900 deep, a claimed length of 2^40, and a payload with something after it.
    assert_eq!(open(vec![0x81; 900]), Err(WireError::Malformed));
    assert_eq!(open(vec![0x5b, 0, 0, 1, 0, 0, 0, 0, 0]), Err(WireError::Malformed));
    assert_eq!(open(vec![0x9b, 0, 0, 1, 0, 0, 0, 0, 0]), Err(WireError::Malformed));
    let mut trailing = to_cbor(&OnlyVersion { v: 2 });
    trailing.push(0);
    assert_eq!(open(trailing), Err(WireError::Malformed));
    for bad in ["", "a b", "a\u{1b}[2J", "<script>", &"n".repeat(NAME_MAX + 1)] {
        let sealed = datagram(Body::Hello(Hello { name: bad.to_owned(), ..hello() })).seal(&keyring());
        assert_eq!(
            Datagram::open(&sealed.expect("seals"), &keyring()).map(|_| ()),
            Err(WireError::Malformed),
            "{bad:?}"
        );
    }
}

#[test]
fn the_envelope_is_what_the_rfc_says() {
    let bytes = datagram(Body::Pong([1; 16])).seal(&keyring()).expect("seals");
    let ciborium::Value::Tag(17, inner) = ciborium::from_reader(bytes.as_slice()).expect("CBOR") else {
        panic!("not tagged as COSE_Mac0");
    };
    let items = inner.into_array().expect("array");
    let payload = items[2].as_bytes().expect("payload").clone();
    // MAC_structure of RFC 9052 section 6.3, put together by hand.
    let structure = ciborium::Value::Array(vec![
        ciborium::Value::Text("MAC0".to_owned()),
        items[0].clone(),
        ciborium::Value::Bytes(b"hive datagram 2".to_vec()),
        ciborium::Value::Bytes(payload),
    ]);
    let mut to_be_maced = Vec::new();
    ciborium::into_writer(&structure, &mut to_be_maced).expect("encodes");
    let mac = keyring().signing().mac(crate::keyring::Purpose::Datagram, &[&to_be_maced]);
    assert_eq!(items[3].as_bytes().expect("tag"), &mac);
}

#[test]
fn reading_is_cheap_enough_to_verify_first() {
    // `coset` behind the shape check never builds more than the items of one envelope, so even the longest stays cheap.
    let bytes = widest(Body::Swim(vec![3; SWIM_MAX])).seal(&keyring()).expect("seals");
    let start = crate::clock::now_ms();
    for _ in 0..1_000 {
        Datagram::open(&bytes, &keyring()).expect("opens");
    }
    let took_ms = crate::clock::now_ms() - start;
    assert!(took_ms < 2_000, "1,000 datagrams took {took_ms} ms in a build without optimisation");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..1_400)) {
        prop_assert!(Datagram::open(&bytes, &keyring()).is_err());
        key_id(&bytes);
    }

    #[test]
    fn junk_behind_the_right_head_never_panics(tail in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut bytes = datagram(Body::Ping([0; 16])).seal(&keyring()).expect("seals");
        bytes.truncate(13);
        bytes.extend(tail);
        prop_assert!(Datagram::open(&bytes, &keyring()).is_err());
    }

    #[test]
    fn signed_junk_never_panics(payload in proptest::collection::vec(any::<u8>(), 0..1_000)) {
        let bytes = cose::seal(payload, keyring().signing()).expect("seals");
        let _ = Datagram::open(&bytes, &keyring());
    }

    #[test]
    fn mutated_payloads_never_panic(
        kind in 0usize..5,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let sealed = datagram(all_bodies().swap_remove(kind)).seal(&keyring()).expect("seals");
        let (mut payload, _) = cose::open(&sealed, &keyring()).expect("opens");
        for (index, byte) in changes {
            let position = index.index(payload.len());
            payload[position] = byte;
        }
        let bytes = cose::seal(payload, keyring().signing()).expect("seals");
        let _ = Datagram::open(&bytes, &keyring());
    }
}

/// One of each kind, for fuzzing.
pub(crate) fn samples() -> Vec<Datagram> {
    let bodies = [
        Body::Hello(hello()),
        Body::Welcome(longest_welcome()),
        Body::Ping([5; 16]),
        Body::Pong([6; 16]),
        Body::Swim(vec![1, 2, 3]),
    ];
    bodies.into_iter().map(datagram).collect()
}
