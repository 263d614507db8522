//! Datagrams of wire v1 as anybody may send them, and signed ones with any payload.

use super::*;
use crate::discovery::wire::tests::{keyring, peer};
use crate::fuzzing::{SMALL, attack};

fn signed(payload: &[u8], ring: &Keyring) -> Vec<u8> {
    let mac = hex::encode(keyring::hmac(ring.signing().secret().expose(), &[payload]));
    [b"{\"magic\":\"BUILD/HELLO/v1\",\"payload\":", payload, b",\"sig\":\"", mac.as_bytes(), b"\"}"].concat()
}

fn payloads(ring: &Keyring) -> Vec<Vec<u8>> {
    let peer = peer(1);
    let speaker =
        Speaker { peer: &peer, hostname: "old-python", primary_ip: "10.0.0.7", now: UnixMillis(1_762_605_296_789) };
    let mut datagrams: Vec<Vec<u8>> =
        [Kind::Hello, Kind::Welcome, Kind::Identify].map(|kind| greeting(kind, &speaker, ring)).into();
    datagrams.extend([Some("builder"), None].map(|role| heartbeat(role, &speaker, ring)));
    let payload = |bytes: &Vec<u8>| {
        let fields = scan::object(bytes).expect("an object");
        let (_, range) = fields.iter().find(|(key, _)| *key == b"payload").expect("payload");
        bytes[range.clone()].to_vec()
    };
    datagrams.iter().map(payload).collect()
}

/// Any other parser of JSON reads the same out of what was verified, and only clean words get through.
fn agreed(bytes: &[u8], message: &Message) {
    // Half a pair of surrogates in what is not looked at is text to some parsers, and not to others.
    let Ok(whole) = serde_json::from_slice::<Value>(bytes) else { return };
    let payload = &whole["payload"];
    assert_eq!(payload["kind"], message.kind.as_str());
    assert_eq!(payload["node_id"], message.node_id.as_str());
    assert_eq!(payload["hostname"], message.hostname.as_str());
    let words = [Some(&message.node_id), Some(&message.hostname), message.role.iter().flatten().next()];
    assert!(words.into_iter().flatten().all(|word| is_clean(word, HOSTNAME_MAX)));
}

#[test]
fn v1() {
    let ring = keyring();
    let made = payloads(&ring).iter().map(|payload| signed(payload, &ring)).collect();
    attack("v1", made, SMALL, move |bytes| match open(bytes, &ring) {
        Ok(message) => {
            assert!(bytes.len() <= DATAGRAM_MAX && looks_like(bytes));
            agreed(bytes, &message);
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    });
}

#[test]
fn v1_payload() {
    let ring = keyring();
    attack("v1_payload", payloads(&ring), SMALL, move |payload| {
        let bytes = signed(payload, &ring);
        let Ok(message) = open(&bytes, &ring) else { return false };
        agreed(&bytes, &message);
        true
    });
}
