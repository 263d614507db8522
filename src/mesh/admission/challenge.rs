//! The admission challenge as a pure protocol: frames in, frames out, no IO, no clock, no random source of its own.
//!
//! ```text
//!   initiator                                            responder
//!      │ ◄──────────── 1 challenge: nonce_r ──────────────── │   random bytes, reveal nothing
//!      │ ── 2 proof: nonce_i, facts, a MAC per key ────────► │   wrong: closes without a word
//!      │ ◄── 3 verdict: facts + MAC, or reason + MAC ─────── │   only to somebody who proved a key
//!      │ ── 4 confirmation: taken, or reason + MAC ────────► │
//! ```
//!
//! Every MAC covers a label, the side that speaks, the version, the key id, the speaker's hive or none, both PeerIds (which
//! Noise has proven), both nonces, the incarnations known by then, and a digest of what it accompanies; from the third
//! frame on also a digest of the whole proof. So nothing can be replayed, reflected, or used on another connection. The
//! initiator proves all keys of its ring at once: a node that has the next key already and one that has it not yet meet
//! without a second dial. Never done here: deciding on incarnations or policy; the caller does between frames 2 and 4.

use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

use super::RefuseReason;
use crate::keyring::{KEYS_MAX, Key, Keyring, Purpose, sha256};
use crate::mesh::facts::Facts;
use crate::transport;

/// Version of the frames. A node of another version is refused by name, not by a parse error.
pub(crate) const VERSION: u16 = 1;
/// Longest frame, bytes.
pub(crate) const FRAME_MAX: usize = 512;
/// A challenge: fresh random bytes of the responder, and of the initiator inside its proof.
pub(crate) type Nonce = [u8; 32];

const LABEL: &[u8] = b"hive admission v1";
const NO_REASON: u8 = 0xff;

/// Both ends of the connection, as Noise has proven them.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    /// Bytes of the PeerId that dialed.
    pub(crate) initiator: Vec<u8>,
    /// Bytes of the PeerId that was dialed.
    pub(crate) responder: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Side {
    Proof = 1,
    Accept = 2,
    Refuse = 3,
    Confirm = 4,
}

#[derive(Serialize, Deserialize)]
struct ProofFrame {
    #[serde(rename = "v")]
    version: u16,
    #[serde(rename = "n")]
    nonce: ByteArray<32>,
    #[serde(rename = "k")]
    proofs: Vec<(u32, ByteArray<32>)>,
    #[serde(rename = "c")]
    facts: ByteBuf,
}

#[derive(Serialize, Deserialize)]
struct VerdictFrame {
    #[serde(rename = "k")]
    key_id: u32,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    reason: Option<u8>,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    facts: Option<ByteBuf>,
    #[serde(rename = "m")]
    mac: ByteArray<32>,
}

#[derive(Serialize, Deserialize)]
struct ConfirmFrame {
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    reason: Option<u8>,
    #[serde(rename = "m")]
    mac: ByteArray<32>,
}

/// What both sides MAC, fixed once both nonces are known.
#[derive(Clone)]
struct Transcript {
    ends: Ends,
    nonce_i: Nonce,
    nonce_r: Nonce,
    incarnation_i: u64,
    incarnation_r: u64,
    proof_digest: [u8; 32],
}

impl Transcript {
    fn mac(&self, key: &Key, side: Side, speaker: Option<&Facts>, reason: u8, content: &[u8]) -> [u8; 32] {
        let hive = speaker.and_then(|facts| facts.allegiance).map_or([0; 17], |allegiance| {
            let mut bytes = [1; 17];
            bytes[1..].copy_from_slice(&allegiance.hive_id.0);
            bytes
        });
        // Everything has a fixed length or is preceded by it, so that no two transcripts have the same bytes.
        let length = |bytes: &[u8]| (bytes.len() as u64).to_be_bytes();
        key.mac(
            Purpose::Admission,
            &[
                LABEL,
                &[side as u8, reason],
                &VERSION.to_be_bytes(),
                &key.id.to_be_bytes(),
                &hive,
                &length(&self.ends.initiator),
                &self.ends.initiator,
                &length(&self.ends.responder),
                &self.ends.responder,
                &self.nonce_i,
                &self.nonce_r,
                &self.incarnation_i.to_be_bytes(),
                &self.incarnation_r.to_be_bytes(),
                &self.proof_digest,
                &sha256(content),
            ],
        )
    }
}

fn decode_facts(bytes: &[u8]) -> Result<Facts, RefuseReason> {
    let facts: Facts = transport::decode(bytes).map_err(|_| RefuseReason::Malformed)?;
    facts.validate().map_err(|_| RefuseReason::Malformed)?;
    Ok(facts)
}

fn decode<T: serde::de::DeserializeOwned>(frame: &[u8]) -> Result<T, RefuseReason> {
    if frame.len() > FRAME_MAX {
        return Err(RefuseReason::Malformed);
    }
    transport::decode(frame).map_err(|_| RefuseReason::Malformed)
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, RefuseReason> {
    let bytes = transport::encode(value).map_err(|_| RefuseReason::Malformed)?;
    if bytes.len() > FRAME_MAX { Err(RefuseReason::Malformed) } else { Ok(bytes) }
}

/// The dialing side, after it has sent its proof.
pub(crate) struct Initiator<'a> {
    ring: &'a Keyring,
    transcript: Transcript,
}

/// A responder that has proven a key; what to answer is open.
pub(crate) struct Met<'a> {
    /// What the responder says about itself.
    pub(crate) facts: Facts,
    /// The key that both proved.
    pub(crate) key_id: u32,
    key: &'a Key,
    transcript: Transcript,
}

impl<'a> Initiator<'a> {
    /// Answers a challenge. Returns the proof to send.
    pub(crate) fn prove(
        ring: &'a Keyring,
        ends: Ends,
        facts: &Facts,
        challenge: &[u8],
        nonce_i: Nonce,
    ) -> Result<(Self, Vec<u8>), RefuseReason> {
        let nonce_r: Nonce = challenge.try_into().map_err(|_| RefuseReason::Malformed)?;
        let mut transcript = Transcript {
            ends,
            nonce_i,
            nonce_r,
            incarnation_i: facts.incarnation,
            incarnation_r: 0,
            proof_digest: [0; 32],
        };
        let encoded = transport::encode(facts).map_err(|_| RefuseReason::Malformed)?;
        let proof = |key: &Key| {
            let mac = transcript.mac(key, Side::Proof, Some(facts), NO_REASON, &encoded);
            (key.id, ByteArray::new(mac))
        };
        let proofs = ring.keys().iter().map(proof).collect();
        let frame = encode(&ProofFrame {
            version: VERSION,
            nonce: ByteArray::new(nonce_i),
            proofs,
            facts: ByteBuf::from(encoded),
        })?;
        transcript.proof_digest = sha256(&frame);
        Ok((Self { ring, transcript }, frame))
    }

    /// Reads the verdict. `Ok(Err(reason))`: the responder proved a key and refuses.
    pub(crate) fn read_verdict(mut self, frame: &[u8]) -> Result<Result<Met<'a>, RefuseReason>, RefuseReason> {
        let verdict: VerdictFrame = decode(frame)?;
        let key = self.ring.by_id(verdict.key_id).ok_or(RefuseReason::WrongSecret)?;
        match (verdict.reason, verdict.facts) {
            (Some(reason), None) => {
                let mac = self.transcript.mac(key, Side::Refuse, None, reason, &[]);
                if !crate::keyring::constant_time_eq(&mac, verdict.mac.as_slice()) {
                    return Err(RefuseReason::WrongSecret);
                }
                Ok(Err(RefuseReason::from_code(reason)))
            }
            (None, Some(encoded)) => {
                let facts = decode_facts(&encoded)?;
                self.transcript.incarnation_r = facts.incarnation;
                let mac = self.transcript.mac(key, Side::Accept, Some(&facts), NO_REASON, &encoded);
                if !crate::keyring::constant_time_eq(&mac, verdict.mac.as_slice()) {
                    return Err(RefuseReason::WrongSecret);
                }
                Ok(Ok(Met { facts, key_id: key.id, key, transcript: self.transcript }))
            }
            _ => Err(RefuseReason::Malformed),
        }
    }
}

impl Met<'_> {
    /// The last frame: takes the responder, or says why not.
    pub(crate) fn confirm(&self, refuse: Option<RefuseReason>) -> Result<Vec<u8>, RefuseReason> {
        let reason = refuse.map(RefuseReason::code);
        let mac = self.transcript.mac(self.key, Side::Confirm, None, reason.unwrap_or(NO_REASON), &[]);
        encode(&ConfirmFrame { reason, mac: ByteArray::new(mac) })
    }
}

/// The dialed side, waiting for a proof. Its challenge is the bare nonce.
pub(crate) struct Responder<'a> {
    ring: &'a Keyring,
    ends: Ends,
    nonce_r: Nonce,
}

/// An initiator that has proven a key; what to answer is open.
pub(crate) struct Proven<'a> {
    /// What the initiator says about itself.
    pub(crate) facts: Facts,
    /// The key it proved: the first of our ring that it has too.
    pub(crate) key_id: u32,
    key: &'a Key,
    transcript: Transcript,
}

impl<'a> Responder<'a> {
    /// Starts with a fresh nonce, which is also the first frame.
    pub(crate) fn new(ring: &'a Keyring, ends: Ends, nonce_r: Nonce) -> Self {
        Self { ring, ends, nonce_r }
    }

    /// Checks a proof. An error is never told to the other side: it has proven nothing.
    pub(crate) fn check(self, frame: &[u8]) -> Result<Proven<'a>, RefuseReason> {
        let proof: ProofFrame = decode(frame)?;
        if proof.version != VERSION {
            return Err(RefuseReason::Version);
        }
        if proof.proofs.is_empty() || proof.proofs.len() > KEYS_MAX {
            return Err(RefuseReason::Malformed);
        }
        let facts = decode_facts(&proof.facts)?;
        let mut transcript = Transcript {
            ends: self.ends,
            nonce_i: *proof.nonce,
            nonce_r: self.nonce_r,
            incarnation_i: facts.incarnation,
            incarnation_r: 0,
            proof_digest: [0; 32],
        };
        let proven = |key: &&Key| {
            let mac = transcript.mac(key, Side::Proof, Some(&facts), NO_REASON, &proof.facts);
            proof.proofs.iter().any(|(id, given)| *id == key.id && crate::keyring::constant_time_eq(&mac, &given[..]))
        };
        let key = self.ring.keys().iter().find(proven).ok_or(RefuseReason::WrongSecret)?;
        transcript.proof_digest = sha256(frame);
        Ok(Proven { facts, key_id: key.id, key, transcript })
    }
}

impl Proven<'_> {
    /// Proves the same key to the initiator and says who we are.
    pub(crate) fn accept(&mut self, own: &Facts) -> Result<Vec<u8>, RefuseReason> {
        self.transcript.incarnation_r = own.incarnation;
        let encoded = transport::encode(own).map_err(|_| RefuseReason::Malformed)?;
        let mac = self.transcript.mac(self.key, Side::Accept, Some(own), NO_REASON, &encoded);
        encode(&VerdictFrame {
            key_id: self.key_id,
            reason: None,
            facts: Some(ByteBuf::from(encoded)),
            mac: ByteArray::new(mac),
        })
    }

    /// Tells the initiator, which has proven a key, why it is not taken.
    pub(crate) fn refuse(&self, reason: RefuseReason) -> Result<Vec<u8>, RefuseReason> {
        let code = reason.code();
        let mac = self.transcript.mac(self.key, Side::Refuse, None, code, &[]);
        encode(&VerdictFrame { key_id: self.key_id, reason: Some(code), facts: None, mac: ByteArray::new(mac) })
    }

    /// Reads the confirmation. `Ok(Some(reason))`: the initiator does not take us.
    pub(crate) fn read_confirmation(&self, frame: &[u8]) -> Result<Option<RefuseReason>, RefuseReason> {
        let confirmation: ConfirmFrame = decode(frame)?;
        let reason = confirmation.reason;
        let mac = self.transcript.mac(self.key, Side::Confirm, None, reason.unwrap_or(NO_REASON), &[]);
        if !crate::keyring::constant_time_eq(&mac, confirmation.mac.as_slice()) {
            return Err(RefuseReason::WrongSecret);
        }
        Ok(reason.map(RefuseReason::from_code))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop};
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::keyring::Secret;
    use crate::mesh::facts::tests::{facts, longest_facts};

    fn ends() -> Ends {
        Ends { initiator: b"initiator peer".to_vec(), responder: b"responder peer".to_vec() }
    }

    fn ring() -> Keyring {
        Keyring::new(&Secret::generate())
    }

    /// Outer: the challenge failed. Inner: the responder refused by policy.
    type Outcome = Result<Result<u32, RefuseReason>, RefuseReason>;

    /// Runs the challenge; the frames that went over the wire come back with the result.
    fn run(ring_i: &Keyring, ring_r: &Keyring, verdict: Option<RefuseReason>) -> (Vec<Vec<u8>>, Outcome) {
        let (own_i, own_r) = (facts("alpha", 3), facts("beta", 4));
        let nonce_r = [7; 32];
        let responder = Responder::new(ring_r, ends(), nonce_r);
        let (initiator, proof) = Initiator::prove(ring_i, ends(), &own_i, &nonce_r, [9; 32]).expect("fits");
        let mut frames = vec![nonce_r.to_vec(), proof.clone()];
        let mut proven = match responder.check(&proof) {
            Ok(proven) => proven,
            Err(reason) => return (frames, Err(reason)),
        };
        assert_eq!(proven.facts, own_i);
        let answer = match verdict {
            None => proven.accept(&own_r),
            Some(reason) => proven.refuse(reason),
        };
        frames.push(answer.expect("fits"));
        let met = match initiator.read_verdict(&frames[2]) {
            Ok(Ok(met)) => met,
            Ok(Err(reason)) => return (frames, Ok(Err(reason))),
            Err(reason) => return (frames, Err(reason)),
        };
        assert_eq!(met.facts, own_r);
        assert_eq!(met.key_id, proven.key_id);
        frames.push(met.confirm(None).expect("fits"));
        assert_eq!(proven.read_confirmation(&frames[3]), Ok(None));
        (frames, Ok(Ok(met.key_id)))
    }

    #[test]
    fn holders_of_one_key_meet_and_strangers_learn_nothing_from_the_responder() {
        let shared = ring();
        assert_eq!(run(&shared, &shared, None).1, Ok(Ok(shared.signing().id)));
        let (frames, result) = run(&ring(), &shared, None);
        assert_eq!(result, Err(RefuseReason::WrongSecret));
        assert_eq!(frames.len(), 2, "the responder sent its challenge and nothing else");
        assert_eq!(frames[0], [7; 32], "which is the bare nonce");
    }

    #[test]
    fn rings_that_overlap_in_any_key_meet() {
        let (old, new) = (Secret::generate(), Secret::generate());
        let (before, during, after) =
            (Keyring::new(&old), Keyring::with_older(&new, std::slice::from_ref(&old)), Keyring::new(&new));
        for (left, right, expected) in [
            (&before, &during, Ok(Ok(old.key().id))),
            (&during, &before, Ok(Ok(old.key().id))),
            (&during, &after, Ok(Ok(new.key().id))),
            (&during, &during, Ok(Ok(new.key().id))),
            (&before, &after, Err(RefuseReason::WrongSecret)),
        ] {
            assert_eq!(run(left, right, None).1, expected);
        }
    }

    #[test]
    fn a_refusal_reaches_who_proved_a_key_and_cannot_be_forged() {
        let shared = ring();
        let (mut frames, result) = run(&shared, &shared, Some(RefuseReason::Clone));
        assert_eq!(result, Ok(Err(RefuseReason::Clone)));
        let (initiator, _) = Initiator::prove(&shared, ends(), &facts("alpha", 3), &[7; 32], [9; 32]).expect("fits");
        let last = frames[2].len() - 1;
        frames[2][last] ^= 1;
        assert_eq!(initiator.read_verdict(&frames[2]).map(|_| ()), Err(RefuseReason::WrongSecret));
    }

    #[test]
    fn a_replayed_proof_fails_against_a_fresh_challenge_or_other_ends() {
        let shared = ring();
        let (frames, _) = run(&shared, &shared, None);
        let replayed = Responder::new(&shared, ends(), [8; 32]).check(&frames[1]);
        assert_eq!(replayed.map(|_| ()), Err(RefuseReason::WrongSecret));
        let elsewhere = Ends { responder: b"another responder".to_vec(), ..ends() };
        let relayed = Responder::new(&shared, elsewhere, [7; 32]).check(&frames[1]);
        assert_eq!(relayed.map(|_| ()), Err(RefuseReason::WrongSecret));
        let (other, _) = Initiator::prove(&shared, ends(), &facts("alpha", 3), &[7; 32], [1; 32]).expect("fits");
        let verdict = other.read_verdict(&frames[2]);
        assert_eq!(verdict.map(|_| ()), Err(RefuseReason::WrongSecret), "a verdict belongs to one proof");
    }

    #[test]
    fn nothing_that_one_side_said_works_as_the_words_of_the_other() {
        let shared = ring();
        // The attacker dials us and hands our own proof, made for a dial of ours to it, back to us.
        let reversed = Ends { initiator: ends().responder, responder: ends().initiator };
        let (_, own_proof) = Initiator::prove(&shared, ends(), &facts("alpha", 3), &[7; 32], [9; 32]).expect("fits");
        let reflected = Responder::new(&shared, reversed, [7; 32]).check(&own_proof);
        assert_eq!(reflected.map(|_| ()), Err(RefuseReason::WrongSecret));
        // It answers our proof with the MAC that our proof contains.
        let (initiator, proof) =
            Initiator::prove(&shared, ends(), &facts("alpha", 3), &[7; 32], [9; 32]).expect("fits");
        let frame: ProofFrame = decode(&proof).expect("own frame");
        let (key_id, mac) = frame.proofs[0];
        let forged = encode(&VerdictFrame { key_id, reason: None, facts: Some(frame.facts), mac }).expect("fits");
        assert_eq!(initiator.read_verdict(&forged).map(|_| ()), Err(RefuseReason::WrongSecret));
    }

    #[test]
    fn facts_changed_under_way_and_other_versions_are_refused() {
        let shared = ring();
        let (_, proof) = Initiator::prove(&shared, ends(), &facts("alpha", 3), &[7; 32], [9; 32]).expect("fits");
        let mut frame: ProofFrame = decode(&proof).expect("own frame");
        frame.facts = ByteBuf::from(transport::encode(&facts("alpha", 4)).expect("encodes"));
        let check = |frame: &ProofFrame| {
            Responder::new(&shared, ends(), [7; 32]).check(&encode(frame).expect("fits")).map(|_| ())
        };
        assert_eq!(check(&frame), Err(RefuseReason::WrongSecret));
        frame.version = VERSION + 1;
        assert_eq!(check(&frame), Err(RefuseReason::Version));
        frame.version = VERSION;
        frame.proofs = vec![(1, ByteArray::new([0; 32])); KEYS_MAX + 1];
        assert_eq!(check(&frame), Err(RefuseReason::Malformed));
    }

    #[test]
    fn the_longest_legal_facts_and_the_largest_ring_fit_into_a_frame() {
        let older = [Secret::generate(), Secret::generate()];
        let full = Keyring::with_older(&Secret::generate(), &older);
        let (_, proof) = Initiator::prove(&full, ends(), &longest_facts(), &[7; 32], [9; 32]).expect("fits");
        assert!(proof.len() <= FRAME_MAX);
        let mut proven = Responder::new(&full, ends(), [7; 32]).check(&proof).expect("proven");
        assert!(proven.accept(&longest_facts()).expect("fits").len() <= FRAME_MAX);
    }

    proptest! {
        #[test]
        fn junk_never_panics_and_never_proves_anything(junk in prop::collection::vec(any::<u8>(), 0..700)) {
            let shared = ring();
            prop_assert!(Responder::new(&shared, ends(), [7; 32]).check(&junk).is_err());
            let (initiator, _) = Initiator::prove(&shared, ends(), &facts("a", 1), &[7; 32], [9; 32]).expect("fits");
            prop_assert!(initiator.read_verdict(&junk).is_err());
        }

        /// CBOR can write one value in several ways. Another way to write the same proof is no forgery, yet the verdict on it
        /// does not verify for who sent the original.
        #[test]
        fn a_proof_with_any_byte_changed_leads_nowhere(position in any::<prop::sample::Index>(), change in 1u8..) {
            let shared = ring();
            let own = facts("a", 1);
            let (initiator, proof) = Initiator::prove(&shared, ends(), &own, &[7; 32], [9; 32]).expect("fits");
            let mut changed = proof.clone();
            let position = position.index(proof.len());
            changed[position] ^= change;
            if let Ok(mut proven) = Responder::new(&shared, ends(), [7; 32]).check(&changed) {
                prop_assert_eq!(&proven.facts, &own);
                let verdict = proven.accept(&facts("b", 1)).expect("fits");
                prop_assert!(initiator.read_verdict(&verdict).is_err());
            }
        }
    }
}
