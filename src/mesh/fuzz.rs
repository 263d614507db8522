//! Row 6 of the attack table: raw frames of the muxer and of gossip from somebody who was admitted, among them those that have ended
//! processes with older versions of the libraries. The node stays, and serves honest ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::core::upgrade::OutboundConnectionUpgrade as _;
use libp2p::noise;
use tokio::sync::mpsc;
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use super::admission::AdmittedNoise;
use super::admission::gate::Gate;
use super::tests::{ECHO, connect, node};
use super::{NodeKey, open_policy};
use crate::keyring::{Keyring, Secret};
use crate::mesh::facts::tests::facts;
use crate::transport::{self, Transport as _};

const DATA: u8 = 0;
const WINDOW: u8 = 1;
const PING: u8 = 2;
const GO_AWAY: u8 = 3;
const SYN: u16 = 1;
const ACK: u16 = 2;
const FIN: u16 = 4;
const RST: u16 = 8;

/// One frame of yamux, whatever it claims.
fn frame(kind: u8, flags: u16, stream: u32, length: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, kind];
    bytes.extend(flags.to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn data(flags: u16, stream: u32, body: &[u8]) -> Vec<u8> {
    frame(DATA, flags, stream, u32::try_from(body.len()).expect("short"), body)
}

/// A message of protocol buffers: a field with bytes in it.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).expect("seven bits"));
    bytes.extend_from_slice(content);
    bytes
}

fn words(protocol: &str) -> Vec<u8> {
    let length = u8::try_from(protocol.len() + 1).expect("short");
    [b"\x13/multistream/1.0.0\n", &[length][..], protocol.as_bytes(), b"\n"].concat()
}

async fn select(io: &mut (impl AsyncRead + AsyncWrite + Unpin), protocol: &str) {
    let words = words(protocol);
    io.write_all(&words).await.expect("sends");
    io.flush().await.expect("sends");
    let mut answer = vec![0; words.len()];
    io.read_exact(&mut answer).await.expect("it speaks the protocol");
    assert_eq!(answer, words);
}

/// Sends these bytes where frames of the muxer belong, and reads what comes back for a moment.
async fn attack(to: SocketAddr, secret: &Secret, bytes: &[u8]) {
    let key = NodeKey::generate();
    let (contentions, _asked) = mpsc::channel(8);
    let local = key.pair().public().to_peer_id();
    let gate = Arc::new(Gate::new(local, Keyring::new(secret), facts("mallory", 1), open_policy(), contentions));
    let config = noise::Config::new(key.pair()).expect("noise");
    let admission = AdmittedNoise::new(config, gate, Duration::from_secs(5));
    let mut socket = tokio::net::TcpStream::connect(to).await.expect("connects").compat();
    select(&mut socket, "/hive/admission/1").await;
    let (_, mut io) = admission.upgrade_outbound(socket, "/hive/admission/1").await.expect("the secret is right");
    select(&mut io, "/yamux/1.0.0").await;
    let exchange = async {
        // Whoever is cut off while sending was answered.
        if io.write_all(bytes).await.is_ok() && io.flush().await.is_ok() {
            let mut buffer = [0u8; 4_096];
            while io.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(300), exchange).await;
}

/// Gossip's stream, opened and negotiated in two frames, with this message on it.
fn gossip(message: &[u8]) -> Vec<u8> {
    let mut framed = field(0, message);
    framed.remove(0);
    [data(SYN, 1, &words("/meshsub/1.1.0")), data(0, 1, &framed)].concat()
}

fn attacks() -> Vec<(&'static str, Vec<u8>)> {
    let topic = |number: u32| field(1, format!("/hive/status/{number}").as_bytes());
    let backoff = [&topic(1)[..], &[3 << 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]].concat();
    let grafts: Vec<u8> = (0..2_000).flat_map(|number| field(3, &topic(number))).collect();
    let wants: Vec<u8> = (0..500).flat_map(|number| field(2, &field(1, &u32::to_be_bytes(number)))).collect();
    let subscriptions: Vec<u8> = (0..2_000u32)
        .flat_map(|number| field(1, &[&[1 << 3, 1][..], &field(2, &number.to_be_bytes())].concat()))
        .collect();
    vec![
        ("a first frame that is longer than its window", data(SYN, 1, &vec![7; 262_145])),
        ("data far beyond the window", [frame(WINDOW, SYN, 1, 0, &[]), data(0, 1, &vec![7; 400_000])].concat()),
        (
            "a window that overflows",
            [frame(WINDOW, SYN, 1, 0, &[]), frame(WINDOW, 0, 1, u32::MAX, &[]).repeat(8)].concat(),
        ),
        ("a frame of 4 GiB", frame(DATA, SYN, 1, u32::MAX, &[1, 2, 3])),
        (
            "more streams than there may be",
            (0..3_000u32).flat_map(|number| frame(WINDOW, SYN, number * 2 + 1, 0, &[])).collect(),
        ),
        (
            "streams of the other side's numbers",
            [frame(WINDOW, SYN, 2, 0, &[]), frame(WINDOW, SYN, 0, 0, &[])].concat(),
        ),
        ("the same stream twice", frame(WINDOW, SYN, 1, 0, &[]).repeat(2)),
        (
            "ends of what never began",
            [frame(DATA, FIN, 9, 0, &[]), frame(DATA, RST, 11, 0, &[]), frame(WINDOW, ACK, 13, 5, &[])].concat(),
        ),
        (
            "opened and reset, over and over",
            (0..4_000u32)
                .flat_map(|number| {
                    [frame(WINDOW, SYN, number * 2 + 1, 0, &[]), frame(WINDOW, RST, number * 2 + 1, 0, &[])].concat()
                })
                .collect(),
        ),
        ("pings without end", frame(PING, SYN, 0, 7, &[]).repeat(20_000)),
        ("a farewell that is none", [frame(GO_AWAY, 0, 0, 99, &[]), frame(WINDOW, SYN, 1, 0, &[])].concat()),
        ("another version, unknown kinds and flags", [vec![9; 24], frame(77, 0xffff, 1, 1, &[])].concat()),
        ("a protocol name without end", data(SYN, 1, &[&b"\x13/multistream/1.0.0\n"[..], &[0xff; 8_000]].concat())),
        ("PRUNE with a back-off that overflows", gossip(&field(3, &field(4, &backoff)))),
        ("GRAFT of two thousand topics", gossip(&field(3, &grafts))),
        ("IWANT of everything", gossip(&field(3, &wants))),
        ("two thousand subscriptions", gossip(&subscriptions)),
        ("a message that is none", gossip(&[0xff; 500])),
    ]
}

#[tokio::test]
async fn row_06_raw_frames_of_an_admitted_peer_end_nothing_but_its_connection() {
    let secret = Secret::generate();
    let mut victim = node("victim", &secret).await;
    victim.serve_echo();
    let mut honest = node("honest", &secret).await;
    connect(&mut honest, &mut victim).await;
    for (what, bytes) in attacks() {
        attack(victim.address, &secret, &bytes).await;
        while victim.events.try_recv().is_ok() {}
        let asked =
            transport::call::<_, String>(&honest.mesh, &victim.peer, ECHO, &"still there", Duration::from_secs(5));
        let answer = asked.await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(answer.starts_with("still there from "), "{what}: {answer}");
    }
    let mut late = node("late", &secret).await;
    late.mesh.dial_address(victim.address).await;
    late.up(&victim.peer).await;
    assert!(late.mesh.open(&victim.peer, ECHO).await.is_ok());
}
