//! Datagrams as anybody may send them, and their insides as somebody may who knows the secret.

use super::tests::{keyring, samples};
use super::*;
use crate::discovery::decode_for_display;
use crate::fuzzing::{SMALL, attack};
use crate::keyring::Secret;

/// The secret of the lab, in which the corpus was recorded.
fn rings() -> [Keyring; 2] {
    let lab = Secret::from_bytes(b"5f0c7d1be29a4836a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718");
    [keyring(), Keyring::new(&lab)]
}

/// Whatever was taken can be said again, and says the same.
fn said_again(datagram: &Datagram, ring: &Keyring) {
    let sealed = datagram.seal(ring).expect("what fitted once fits again");
    assert!(sealed.len() <= DATAGRAM_MAX);
    if let Body::Hello(hello) = &datagram.body {
        assert!(sealed.len() >= HELLO_LEN, "{}", sealed.len());
        crate::engine::grammar::node_name(&hello.name).expect("only names get through");
    }
    assert_eq!(Datagram::open(&sealed, ring).expect("its own"), (datagram.clone(), ring.signing().id));
    assert!(datagram.summary().chars().all(|c| !c.is_control()), "{}", datagram.summary());
}

#[test]
fn datagram() {
    let rings = rings();
    let made = samples().iter().map(|datagram| datagram.seal(&rings[0]).expect("fits")).collect();
    attack("datagram", made, SMALL, move |bytes| {
        let from = "10.0.0.1:50555".parse().expect("address");
        let mut taken = false;
        for ring in &rings {
            let shown = decode_for_display(bytes, from, Some(ring), UnixMillis(0));
            match Datagram::open(bytes, ring) {
                Ok((datagram, id)) => {
                    assert!(bytes.len() <= DATAGRAM_MAX && key_id(bytes) == Some(id) && shown.verified);
                    said_again(&datagram, ring);
                    taken = true;
                }
                Err(error) => assert!(!error.to_string().is_empty() && !shown.verified),
            }
        }
        taken
    });
}

#[test]
fn datagram_payload() {
    let ring = keyring();
    let recorded = crate::fuzzing::recorded("datagram");
    let lab = rings();
    let mut made: Vec<Vec<u8>> = samples().iter().map(|datagram| datagram.seal(&ring).expect("fits")).collect();
    made.extend(recorded);
    let opened = |bytes: &Vec<u8>| lab.iter().find_map(|ring| cose::open(bytes, ring).ok());
    let made = made.iter().filter_map(opened).map(|(payload, _)| payload).collect();
    attack("datagram_payload", made, SMALL, move |bytes| {
        let sealed = cose::seal(bytes.to_vec(), ring.signing()).expect("seals");
        match Datagram::open(&sealed, &ring) {
            Ok((datagram, _)) => {
                said_again(&datagram, &ring);
                true
            }
            // The MAC is good, so whatever is wrong is told as what it is.
            Err(WireError::WrongSecret { .. }) => panic!("its own key"),
            Err(WireError::Malformed | WireError::Version { .. } | WireError::TooLong { .. }) => false,
        }
    });
}
