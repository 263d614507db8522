//! Who gets a connection: Noise proves the PeerId, then both sides prove a key of the keyring, before any multiplexer exists.
//!
//! ```text
//!   TCP ─► multistream ─► Noise ─► challenge ─► gate (incarnation, clone, policy) ─► Yamux ─► protocols
//!                         └──────── AdmittedNoise, 5 s in all ────────┘
//! ```
//!
//! A stranger reaches none of the code behind the challenge. Whoever has proven nothing is told nothing. Never done here:
//! deciding who is a *member*; that is the replicated state's, and the policy hook's from outside.

pub(crate) mod challenge;
pub(crate) mod gate;

use std::fmt;
use std::io;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::{PeerId as NetId, noise};
use serde::{Deserialize, Serialize};

use self::challenge::{Ends, FRAME_MAX, Initiator, Nonce, Responder};
use self::gate::Gate;
use super::facts::Facts;
use crate::engine::id::PeerId;

/// Name of the security protocol. Another version of the frames gets another name.
const PROTOCOL: &str = "/hive/admission/1";

/// Why a connection was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefuseReason {
    /// It proved no key of our ring.
    WrongSecret,
    /// We proved our keys and it closed without a word, as hive nodes do when the secrets differ.
    ProbablySecret,
    /// A higher incarnation of this PeerId was seen before: an old state directory came back.
    StaleIncarnation,
    /// Another living process has the same key; the one that was first goes on.
    Clone,
    /// It speaks another version.
    Version,
    /// The admission policy says no.
    NotApproved,
    /// It sent something that is no frame of this protocol.
    Malformed,
    /// It did not finish within the time allowed.
    Silent,
    /// A connection limit is reached.
    Limit,
    /// The connection broke before anything could be proven; perhaps no hive node.
    Handshake,
    /// We dialed ourselves.
    Ourselves,
}

impl RefuseReason {
    /// The name in logs, metrics and `hive doctor`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WrongSecret => "wrong_secret",
            Self::ProbablySecret => "refused_probably_secret",
            Self::StaleIncarnation => "stale_incarnation",
            Self::Clone => "clone",
            Self::Version => "version",
            Self::NotApproved => "not_approved",
            Self::Malformed => "malformed",
            Self::Silent => "silent",
            Self::Limit => "limit",
            Self::Handshake => "handshake",
            Self::Ourselves => "ourselves",
        }
    }

    const ALL: [Self; 11] = [
        Self::WrongSecret,
        Self::ProbablySecret,
        Self::StaleIncarnation,
        Self::Clone,
        Self::Version,
        Self::NotApproved,
        Self::Malformed,
        Self::Silent,
        Self::Limit,
        Self::Handshake,
        Self::Ourselves,
    ];

    fn code(self) -> u8 {
        Self::ALL.iter().position(|reason| *reason == self).map_or(u8::MAX - 1, |position| position as u8)
    }

    /// A code that this version does not know is a policy of a later one.
    fn from_code(code: u8) -> Self {
        Self::ALL.get(usize::from(code)).copied().unwrap_or(Self::NotApproved)
    }
}

impl fmt::Display for RefuseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the admission policy is asked about: a node that has proven its key and the hive's.
#[derive(Clone, Debug)]
pub struct AdmissionClaim {
    /// Proven by Noise.
    pub peer: PeerId,
    /// What it says about itself.
    pub facts: Facts,
    /// We dialed it.
    pub outbound: bool,
    /// The key of the ring that both proved.
    pub key_id: u32,
    /// That key is the one that signs now; otherwise the peer comes from before a rotation.
    pub key_is_current: bool,
}

/// Admission policy: asked on both sides of each connection, after the keys were proven. Must not block.
pub type Policy = Arc<dyn Fn(&AdmissionClaim) -> Result<(), RefuseReason> + Send + Sync>;

/// Admits whoever proved a key.
pub fn open_policy() -> Policy {
    Arc::new(|_| Ok(()))
}

/// A connection that ended in the security upgrade.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", if *.by_us { "refused by this node" } else { "refused by the other side" })]
pub(crate) struct AdmissionError {
    /// Who refused.
    pub(crate) by_us: bool,
    /// Why.
    pub(crate) reason: RefuseReason,
    /// The other side, once Noise has proven it.
    pub(crate) peer: Option<NetId>,
    /// What went wrong underneath.
    pub(crate) source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl AdmissionError {
    fn ours(peer: NetId, reason: RefuseReason) -> Self {
        Self { by_us: true, reason, peer: Some(peer), source: None }
    }

    fn theirs(peer: NetId, reason: RefuseReason) -> Self {
        Self { by_us: false, reason, peer: Some(peer), source: None }
    }

    fn io(peer: NetId, by_us: bool, reason: RefuseReason, error: io::Error) -> Self {
        let reason = if error.kind() == io::ErrorKind::InvalidData { RefuseReason::Malformed } else { reason };
        Self { by_us, reason, peer: Some(peer), source: Some(error.into()) }
    }
}

/// The security upgrade of the mesh transport.
#[derive(Clone)]
pub(crate) struct AdmittedNoise {
    noise: noise::Config,
    gate: Arc<Gate>,
    timeout: Duration,
}

impl AdmittedNoise {
    pub(crate) fn new(noise: noise::Config, gate: Arc<Gate>, timeout: Duration) -> Self {
        Self { noise, gate, timeout }
    }
}

impl UpgradeInfo for AdmittedNoise {
    type Info = &'static str;
    type InfoIter = iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once(PROTOCOL)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<T> for AdmittedNoise {
    type Output = (NetId, noise::Output<T>);
    type Error = AdmissionError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: T, info: Self::Info) -> Self::Future {
        Box::pin(async move {
            let admission = async {
                let (peer, mut io) = self.noise.clone().upgrade_inbound(socket, info).await.map_err(noise_failed)?;
                respond(&self.gate, peer, &mut io).await?;
                Ok((peer, io))
            };
            within(self.timeout, admission).await
        })
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<T> for AdmittedNoise {
    type Output = (NetId, noise::Output<T>);
    type Error = AdmissionError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: T, info: Self::Info) -> Self::Future {
        Box::pin(async move {
            let admission = async {
                let (peer, mut io) = self.noise.clone().upgrade_outbound(socket, info).await.map_err(noise_failed)?;
                initiate(&self.gate, peer, &mut io).await?;
                Ok((peer, io))
            };
            within(self.timeout, admission).await
        })
    }
}

fn noise_failed(error: noise::Error) -> AdmissionError {
    AdmissionError { by_us: true, reason: RefuseReason::Handshake, peer: None, source: Some(error.into()) }
}

async fn within<T>(
    timeout: Duration,
    admission: impl Future<Output = Result<T, AdmissionError>>,
) -> Result<T, AdmissionError> {
    tokio::time::timeout(timeout, admission).await.unwrap_or(Err(AdmissionError {
        by_us: true,
        reason: RefuseReason::Silent,
        peer: None,
        source: None,
    }))
}

/// The dialed side of the challenge.
pub(crate) async fn respond<S: AsyncRead + AsyncWrite + Unpin>(
    gate: &Gate,
    peer: NetId,
    io: &mut S,
) -> Result<(), AdmissionError> {
    let ours = |reason| AdmissionError::ours(peer, reason);
    let (ring, own) = gate.credentials();
    let nonce = gate.new_nonce();
    let ends = Ends { initiator: peer.to_bytes(), responder: gate.local_peer().to_bytes() };
    let responder = Responder::new(&ring, ends, *nonce.bytes());
    let handshake = |error| AdmissionError::io(peer, true, RefuseReason::Handshake, error);
    write_frame(io, nonce.bytes()).await.map_err(handshake)?;
    if peer == gate.local_peer() {
        // Our own dial recognises its challenge and takes it back; a machine with a copy of our key cannot.
        let _ = read_frame(io).await;
        let reason = if nonce.was_recognised() { RefuseReason::Ourselves } else { RefuseReason::Clone };
        return Err(ours(reason));
    }
    let frame = read_frame(io).await.map_err(handshake)?;
    let mut proven = responder.check(&frame).map_err(ours)?;
    if let Err(reason) = gate.judge(peer, &proven.facts, false, proven.key_id).await {
        let refusal = proven.refuse(reason).map_err(ours)?;
        write_frame(io, &refusal).await.map_err(|error| AdmissionError::io(peer, true, reason, error))?;
        return Err(ours(reason));
    }
    let acceptance = proven.accept(&own).map_err(ours)?;
    write_frame(io, &acceptance).await.map_err(handshake)?;
    // Silence instead of a confirmation: it could not verify us, which after our proof means another secret.
    let silent = |error| AdmissionError::io(peer, false, RefuseReason::ProbablySecret, error);
    let frame = read_frame(io).await.map_err(silent)?;
    match proven.read_confirmation(&frame).map_err(ours)? {
        Some(reason) => Err(AdmissionError::theirs(peer, reason)),
        None => {
            gate.admitted(peer, &proven.facts, proven.key_id, own.revision);
            Ok(())
        }
    }
}

/// The dialing side of the challenge.
pub(crate) async fn initiate<S: AsyncRead + AsyncWrite + Unpin>(
    gate: &Gate,
    peer: NetId,
    io: &mut S,
) -> Result<(), AdmissionError> {
    let ours = |reason| AdmissionError::ours(peer, reason);
    let (ring, own) = gate.credentials();
    let handshake = |error| AdmissionError::io(peer, true, RefuseReason::Handshake, error);
    let challenge = read_frame(io).await.map_err(handshake)?;
    if peer == gate.local_peer() {
        let reason = if gate.recognise(&challenge) { RefuseReason::Ourselves } else { RefuseReason::Clone };
        return Err(ours(reason));
    }
    let ends = Ends { initiator: gate.local_peer().to_bytes(), responder: peer.to_bytes() };
    let nonce: Nonce = rand::random();
    let (initiator, proof) = Initiator::prove(&ring, ends, &own, &challenge, nonce).map_err(ours)?;
    write_frame(io, &proof).await.map_err(handshake)?;
    // A responder that could not verify the proof closes without a word.
    let closed = |error| AdmissionError::io(peer, false, RefuseReason::ProbablySecret, error);
    let frame = read_frame(io).await.map_err(closed)?;
    let met = match initiator.read_verdict(&frame).map_err(ours)? {
        Ok(met) => met,
        Err(reason) => return Err(AdmissionError::theirs(peer, reason)),
    };
    let judgement = gate.judge(peer, &met.facts, true, met.key_id).await;
    let confirmation = met.confirm(judgement.err()).map_err(ours)?;
    write_frame(io, &confirmation).await.map_err(handshake)?;
    judgement.map_err(ours)?;
    gate.admitted(peer, &met.facts, met.key_id, own.revision);
    Ok(())
}

async fn write_frame<S: AsyncWrite + Unpin>(io: &mut S, frame: &[u8]) -> io::Result<()> {
    let length = u16::try_from(frame.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut bytes = Vec::with_capacity(2 + frame.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(frame);
    io.write_all(&bytes).await?;
    io.flush().await
}

/// Reads one frame; its length is checked before a byte of it is buffered.
async fn read_frame<S: AsyncRead + Unpin>(io: &mut S) -> io::Result<Vec<u8>> {
    let mut length = [0u8; 2];
    io.read_exact(&mut length).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > FRAME_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("frame of {length} bytes")));
    }
    let mut frame = vec![0u8; length];
    io.read_exact(&mut frame).await?;
    Ok(frame)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop};
    use proptest::proptest;
    use tokio_util::compat::TokioAsyncReadCompatExt as _;

    use super::gate::test_gate;
    use super::*;
    use crate::keyring::{Keyring, Secret};
    use crate::mesh::facts::tests::facts;

    fn gate(ring: &Keyring, name: &str) -> Arc<Gate> {
        test_gate(ring.clone(), facts(name, 1), false)
    }

    /// What the dialed side does with bytes of a dialer; also what it sent back.
    async fn respond_to(bytes: &[u8]) -> (RefuseReason, Vec<u8>) {
        let gate = gate(&Keyring::new(&Secret::generate()), "beta");
        let (near, far) = tokio::io::duplex(4_096);
        let (mut near, mut far) = (near.compat(), far.compat());
        far.write_all(bytes).await.expect("buffered");
        far.close().await.expect("closes");
        let error = respond(&gate, NetId::random(), &mut near).await.expect_err("never admitted");
        drop(near);
        let mut sent = Vec::new();
        far.read_to_end(&mut sent).await.expect("reads");
        (error.reason, sent)
    }

    #[tokio::test]
    async fn frames_that_are_too_long_cut_or_junk_end_the_connection_and_get_the_bare_challenge() {
        let too_long = [&513u16.to_be_bytes()[..], &[0; 600]].concat();
        let junk = [&9u16.to_be_bytes()[..], b"not CBOR!"].concat();
        let cut = [&100u16.to_be_bytes()[..], &[0; 50]].concat();
        for (bytes, expected) in [
            (too_long, RefuseReason::Malformed),
            (junk, RefuseReason::Malformed),
            (cut, RefuseReason::Handshake),
            (Vec::new(), RefuseReason::Handshake),
        ] {
            let (reason, sent) = respond_to(&bytes).await;
            assert_eq!(reason, expected);
            assert_eq!((sent.len(), &sent[..2]), (34, &[0, 32][..]), "a length and 32 random bytes");
        }
    }

    #[tokio::test]
    async fn a_stranger_gets_only_a_challenge_and_a_different_one_each_time() {
        let ours = Keyring::new(&Secret::generate());
        let mut challenges = Vec::new();
        for _ in 0..3 {
            let (near, far) = tokio::io::duplex(4_096);
            let (mut near, mut far) = (near.compat(), far.compat());
            let (responder, stranger) = (gate(&ours, "beta"), gate(&Keyring::new(&Secret::generate()), "mallory"));
            let dialed = async {
                let result = respond(&responder, stranger.local_peer(), &mut near).await;
                drop(near);
                result.expect_err("refused").reason
            };
            let dialing = async { initiate(&stranger, responder.local_peer(), &mut far).await.expect_err("refused") };
            let (reason, error) = futures::join!(dialed, dialing);
            assert_eq!(reason, RefuseReason::WrongSecret);
            assert_eq!((error.by_us, error.reason), (false, RefuseReason::ProbablySecret));
            challenges.push(respond_to(&[]).await.1);
        }
        challenges.dedup();
        assert_eq!(challenges.len(), 3);
    }

    #[tokio::test]
    async fn who_says_nothing_is_dropped_after_the_time_allowed() {
        let silent = std::future::pending::<Result<(), AdmissionError>>();
        let error = within(Duration::from_millis(50), silent).await.expect_err("ends");
        assert_eq!((error.by_us, error.reason), (true, RefuseReason::Silent));
    }

    #[test]
    fn every_reason_survives_its_code_and_unknown_codes_are_a_later_policy() {
        for reason in RefuseReason::ALL {
            assert_eq!(RefuseReason::from_code(reason.code()), reason);
        }
        assert_eq!(RefuseReason::from_code(200), RefuseReason::NotApproved);
    }

    proptest! {
        #[test]
        fn junk_from_a_dialer_never_panics_and_never_admits(bytes in prop::collection::vec(any::<u8>(), 0..1_500)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            let (_, sent) = runtime.block_on(respond_to(&bytes));
            assert_eq!(sent.len(), 34);
        }
    }
}
