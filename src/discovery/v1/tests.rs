//! The old protocol against vectors of its own, and against Python's JSON.

use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::discovery::wire::tests::peer;
use crate::keyring::Secret;

#[derive(Deserialize)]
struct Vectors {
    secret: String,
    datagrams: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    valid: bool,
    bytes_utf8: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../../../tests/legacy-v1-vectors.json")).expect("the vectors are JSON")
}

fn ring() -> Keyring {
    Keyring::new(&Secret::from_bytes(vectors().secret.as_bytes()))
}

fn full_advice() -> Advice {
    let config = serde_json::json!({
        "build_threads": 8, "big": u64::MAX, "negative": -3, "nfs": true, "none": null, "ratio": 0.5, "whole": 8.0,
        "small": 0.0001, "nested": {"list": ["a", 1, {"b": []}]}, "schlüssel": "Wert \u{7f}\u{1F41D}\\\"\n\r\t\u{8}\u{c}\u{1}/"
    });
    let Value::Object(config) = config else { panic!("an object") };
    Advice {
        role: "builder".to_owned(),
        packages: vec!["openjdk-17-jdk".to_owned(), "git".to_owned()],
        config,
        reason: "Kapazität nötig — ✓ 🐝".to_owned(),
    }
}

fn everything_we_send() -> Vec<Vec<u8>> {
    let peer = peer(1);
    let speaker =
        Speaker { peer: &peer, hostname: "build1", primary_ip: "192.168.1.21", now: UnixMillis(1_762_605_296_789) };
    vec![
        greeting(Kind::Hello, &speaker, &ring()),
        greeting(Kind::Welcome, &speaker, &ring()),
        heartbeat(None, &speaker, &ring()),
        heartbeat(Some("builder"), &speaker, &ring()),
        advice(&full_advice(), &speaker, &ring()).expect("can be told"),
        advice(&Advice::default(), &speaker, &ring()).expect("can be told"),
    ]
}

#[test]
fn all_vectors_come_out_as_they_say() {
    let all = vectors().datagrams;
    assert!(all.len() >= 10, "the vectors are there");
    for vector in all {
        let opened = open(vector.bytes_utf8.as_bytes(), &ring());
        assert_eq!(opened.is_ok(), vector.valid, "{}: {opened:?}", vector.name);
        if vector.valid {
            let other = Keyring::new(&Secret::generate());
            assert_eq!(open(vector.bytes_utf8.as_bytes(), &other), Err(V1Error::WrongSecret), "{}", vector.name);
            let rotated = Keyring::with_older(&Secret::generate(), &[Secret::from_bytes(vectors().secret.as_bytes())]);
            assert!(open(vector.bytes_utf8.as_bytes(), &rotated).is_ok(), "{}: an older key", vector.name);
        }
    }
}

#[test]
fn heartbeats_tell_the_role() {
    let role = |name: &str| {
        let all = vectors().datagrams;
        let vector = all.iter().find(|vector| vector.name == name).expect("the vector is there").bytes_utf8.clone();
        open(vector.as_bytes(), &ring()).expect("valid").role
    };
    assert_eq!(role("heartbeat with identity"), Some(Some("builder".to_owned())));
    assert_eq!(role("heartbeat with identity null"), Some(None));
    assert_eq!(role("welcome"), None);
}

#[test]
fn a_node_without_a_secret_is_refused() {
    let empty = Keyring::new(&Secret::from_bytes(b""));
    let payload = r#"{"kind":"HELLO","node_id":"x","hostname":"y","ts":"z"}"#;
    let unsigned = format!("{{\"magic\":\"{MAGIC}\",\"payload\":{payload},\"sig\":\"\"}}");
    let signed_with_nothing = seal(payload, &empty);
    for ring in [ring(), empty] {
        assert_eq!(open(unsigned.as_bytes(), &ring), Err(V1Error::WrongSecret));
        assert_eq!(open(&signed_with_nothing, &ring), Err(V1Error::WrongSecret));
    }
}

#[test]
fn names_outside_their_grammar_are_refused() {
    for (node_id, hostname) in [("", "h"), ("n", ""), ("n", "<b>"), ("n\\u001b", "h"), ("n", "h h")] {
        let payload = format!(r#"{{"kind":"HELLO","node_id":"{node_id}","hostname":"{hostname}"}}"#);
        assert_eq!(open(&seal(&payload, &ring()), &ring()), Err(V1Error::Malformed), "{node_id:?} {hostname:?}");
    }
    assert_eq!(open(&seal(&"[".repeat(8_000), &ring()), &ring()), Err(V1Error::Malformed));
    assert_eq!(open(&vec![b' '; DATAGRAM_MAX + 1], &ring()), Err(V1Error::Malformed));
}

#[test]
fn what_we_send_verifies_here_too() {
    for bytes in everything_we_send() {
        assert!(open(&bytes, &ring()).is_ok(), "{}", String::from_utf8_lossy(&bytes));
        assert!(bytes.is_ascii());
    }
}

#[test]
fn what_we_send_survives_python() {
    let script = r#"
import hashlib, hmac, json, sys
secret = sys.argv[1].encode()
for line in sys.stdin:
    data = json.loads(line)
    text = json.dumps(data["payload"], separators=(",", ":"))
    ours = hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
    whole = json.dumps(data, separators=(",", ":"))
    print("good" if ours == data["sig"] and whole == line.rstrip("\n") else "bad " + text)
"#;
    let mut python = Command::new("python3")
        .args(["-c", script, &vectors().secret])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs python3, because v1 nodes are written in it");
    let all = everything_we_send();
    {
        let mut input = python.stdin.take().expect("piped");
        for bytes in &all {
            input.write_all(bytes).expect("writes");
            input.write_all(b"\n").expect("writes");
        }
    }
    let output = python.wait_with_output().expect("python3 ends");
    let printed = String::from_utf8(output.stdout).expect("text");
    assert_eq!(printed, "good\n".repeat(all.len()));
}

#[test]
fn numbers_that_python_writes_differently_are_refused() {
    let peer = peer(1);
    let speaker = Speaker { peer: &peer, hostname: "h", primary_ip: "i", now: UnixMillis(0) };
    for number in [1e16, 1e-5, -1e300] {
        let mut config = Map::new();
        config.insert("number".to_owned(), serde_json::json!(number));
        let told = advice(&Advice { config, ..Advice::default() }, &speaker, &ring());
        assert!(matches!(told, Err(AdviceError::Number(_))), "{number}");
    }
    let long = Advice { reason: "r".repeat(DATAGRAM_MAX), ..Advice::default() };
    assert!(matches!(advice(&long, &speaker, &ring()), Err(AdviceError::TooLong(_))));
}

proptest! {
    #[test]
    fn junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        prop_assert!(open(&bytes, &ring()).is_err());
    }

    #[test]
    fn mutated_datagrams_never_verify(
        kind in 0usize..6,
        index in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let sent = everything_we_send().swap_remove(kind);
        let mut changed = sent.clone();
        let position = index.index(changed.len());
        changed[position] = byte;
        // The signature's digits may be written in capitals without changing it.
        let same = changed == sent || (changed.eq_ignore_ascii_case(&sent) && position >= sent.len() - 66);
        prop_assert!(same || open(&changed, &ring()).is_err());
    }

    #[test]
    fn signed_junk_never_panics(payload in "[\\{\\}\\[\\]\",:a-z0-9\\\\ ]{0,200}") {
        let _ = open(&seal(&payload, &ring()), &ring());
    }
}
