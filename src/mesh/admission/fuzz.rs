//! Frames of admission from whoever opens a connection, and facts from whoever has proven a key.

use super::challenge::{Ends, Initiator, Nonce, Responder};
use crate::fuzzing::{SMALL, attack, made};
use crate::keyring::{Keyring, Secret};
use crate::mesh::facts::Facts;
use crate::mesh::facts::tests::{facts, longest_facts};
use crate::transport;

const NONCE_R: Nonce = [7; 32];
const NONCE_I: Nonce = [9; 32];

fn ends() -> Ends {
    Ends { initiator: b"initiator peer".to_vec(), responder: b"responder peer".to_vec() }
}

fn ring() -> Keyring {
    Keyring::new(&Secret::from_bytes(b"a3f9c8e2d1b4a3f9c8e2d1b4a3f9c8e2"))
}

/// A proof that was changed proves nothing, or exactly what was signed.
#[test]
fn admission_proof() {
    let (ring, own) = (ring(), facts("alpha", 3));
    let (_, proof) = Initiator::prove(&ring, ends(), &own, &NONCE_R, NONCE_I).expect("fits");
    attack("admission_proof", vec![proof], SMALL, |bytes| match Responder::new(&ring, ends(), NONCE_R).check(bytes) {
        Ok(proven) => {
            assert_eq!(proven.facts, own, "what counts is what was signed");
            true
        }
        Err(reason) => {
            assert!(!reason.as_str().is_empty());
            false
        }
    });
}

/// The same of the answers.
#[test]
fn admission_answer() {
    let (ring, own) = (ring(), facts("alpha", 3));
    let theirs = facts("beta", 4);
    let (_, proof) = Initiator::prove(&ring, ends(), &own, &NONCE_R, NONCE_I).expect("fits");
    let mut proven = Responder::new(&ring, ends(), NONCE_R).check(&proof).expect("proves");
    let refusal = proven.refuse(super::RefuseReason::NotApproved).expect("fits");
    let acceptance = proven.accept(&theirs).expect("fits");
    let initiator = || Initiator::prove(&ring, ends(), &own, &NONCE_R, NONCE_I).expect("fits").0;
    let confirmation = match initiator().read_verdict(&acceptance) {
        Ok(Ok(met)) => met.confirm(None).expect("fits"),
        _ => panic!("its own acceptance"),
    };
    let proven = std::panic::AssertUnwindSafe(proven);
    attack("admission_answer", vec![refusal, acceptance, confirmation], SMALL, |bytes| {
        let verdict = match initiator().read_verdict(bytes) {
            Ok(Ok(met)) => {
                assert_eq!(met.facts, theirs);
                true
            }
            Ok(Err(reason)) => {
                assert_eq!(reason, super::RefuseReason::NotApproved, "the reason is signed, too");
                true
            }
            Err(_) => false,
        };
        let confirmed = proven.read_confirmation(bytes);
        assert!(!matches!(confirmed, Ok(Some(_))), "a confirmation that refuses was never signed");
        verdict || confirmed.is_ok()
    });
}

#[test]
fn facts_of_others() {
    let all = vec![made(&facts("alpha", 3)), made(&longest_facts())];
    attack("facts", all, SMALL, |bytes| {
        let Ok(facts) = transport::decode::<Facts>(bytes) else { return false };
        assert_eq!(transport::decode::<Facts>(&made(&facts)).expect("its own"), facts);
        let valid = facts.validate().is_ok();
        assert!(!valid || made(&facts).len() < super::FRAME_MAX, "valid facts fit into a frame");
        valid
    });
}
