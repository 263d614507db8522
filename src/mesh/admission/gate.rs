//! What admission remembers and judges by: our own facts, everybody's highest incarnation, who is connected.
//!
//! Shared by the security upgrades (which run inside connection tasks) and the mesh loop. An equal or higher incarnation from
//! another process while the known one is connected is either a restart whose old connection nobody has closed yet, or a copy
//! of the machine. Only asking the known one tells: the loop does, over the connection that exists. If it answers, the newcomer
//! is the clone and the incumbent goes on; if not, the old connection is destroyed first, because gossipsub sends its
//! subscriptions only on a peer's first connection. Never done here: IO.

use std::collections::{BTreeMap, BTreeSet};
#[cfg(test)]
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard};

use libp2p::PeerId as NetId;
use tokio::sync::{mpsc, oneshot};

use super::challenge::Nonce;
use super::{AdmissionClaim, Policy, RefuseReason};
use crate::clock;
use crate::keyring::Keyring;
use crate::mesh::facts::{Facts, LocalFacts};
use crate::mesh::key::to_text;

/// Peers whose incarnation is remembered. Far above any hive; whoever is not connected and was seen longest ago is forgotten.
const KNOWN_MAX: usize = 4_096;

/// Asks the loop whether the connected process of a peer still lives, and to destroy its connections when it does not.
pub(crate) struct Contention {
    /// The peer that two processes claim to be.
    pub(crate) peer: NetId,
    /// True: the incumbent answered and stays. False: it is gone, all its connections are closed.
    pub(crate) reply: oneshot::Sender<bool>,
}

#[derive(Clone, Debug)]
struct Known {
    facts: Facts,
    highest_incarnation: u64,
    connections: u32,
    key_id: u32,
    told_revision: u64,
    seen_ms: u64,
}

struct State {
    ring: Keyring,
    own: Facts,
    known: BTreeMap<NetId, Known>,
    /// Incarnations that the hive has committed; survive forgetting and restarts of this node.
    floors: BTreeMap<NetId, u64>,
    nonces: BTreeSet<Nonce>,
}

/// Shared memory of admission.
pub(crate) struct Gate {
    local_peer: NetId,
    policy: Policy,
    contentions: mpsc::Sender<Contention>,
    state: Mutex<State>,
}

/// A challenge that is out; forgotten when dropped.
pub(crate) struct OwnNonce<'a> {
    gate: &'a Gate,
    bytes: Nonce,
}

impl OwnNonce<'_> {
    pub(crate) fn bytes(&self) -> &Nonce {
        &self.bytes
    }

    /// Our own initiator saw it.
    pub(crate) fn was_recognised(&self) -> bool {
        !self.gate.lock().nonces.contains(&self.bytes)
    }
}

impl Drop for OwnNonce<'_> {
    fn drop(&mut self) {
        self.gate.lock().nonces.remove(&self.bytes);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Admit,
    Contend,
    Refuse(RefuseReason),
}

fn judge_incarnation(known: Option<&Known>, floor: u64, facts: &Facts) -> Judgement {
    let highest = known.map_or(0, |known| known.highest_incarnation).max(floor);
    if facts.incarnation < highest {
        return Judgement::Refuse(RefuseReason::StaleIncarnation);
    }
    match known {
        Some(known) if known.connections > 0 && known.facts.instance != facts.instance => Judgement::Contend,
        _ => Judgement::Admit,
    }
}

impl Gate {
    pub(crate) fn new(
        local_peer: NetId,
        ring: Keyring,
        own: Facts,
        policy: Policy,
        contentions: mpsc::Sender<Contention>,
    ) -> Self {
        let state = State { ring, own, known: BTreeMap::new(), floors: BTreeMap::new(), nonces: BTreeSet::new() };
        Self { local_peer, policy, contentions, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it; a poisoned lock still holds consistent data.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn local_peer(&self) -> NetId {
        self.local_peer
    }

    pub(crate) fn credentials(&self) -> (Keyring, Facts) {
        let state = self.lock();
        (state.ring.clone(), state.own.clone())
    }

    pub(crate) fn own_facts(&self) -> Facts {
        self.lock().own.clone()
    }

    pub(crate) fn set_ring(&self, ring: Keyring) {
        self.lock().ring = ring;
    }

    pub(crate) fn set_listen_port(&self, port: u16) {
        self.lock().own.listen_port = port;
    }

    /// Returns whether anything changed.
    pub(crate) fn set_local(&self, local: &LocalFacts) -> bool {
        self.lock().own.update(local)
    }

    pub(crate) fn set_floor(&self, peer: NetId, incarnation: u64) {
        let mut state = self.lock();
        if state.floors.len() < KNOWN_MAX || state.floors.contains_key(&peer) {
            let floor = state.floors.entry(peer).or_insert(0);
            *floor = incarnation.max(*floor);
        }
    }

    pub(crate) fn new_nonce(&self) -> OwnNonce<'_> {
        let bytes: Nonce = rand::random();
        // Bounded by the connections that may be pending: each holds one nonce and forgets it when it ends.
        self.lock().nonces.insert(bytes);
        OwnNonce { gate: self, bytes }
    }

    /// Takes back a challenge that our own responder sent; false when it was another process.
    pub(crate) fn recognise(&self, challenge: &[u8]) -> bool {
        Nonce::try_from(challenge).is_ok_and(|nonce| self.lock().nonces.remove(&nonce))
    }

    /// Decides on a node that has proven a key.
    pub(crate) async fn judge(
        &self,
        peer: NetId,
        facts: &Facts,
        outbound: bool,
        key_id: u32,
    ) -> Result<(), RefuseReason> {
        let judgement = {
            let state = self.lock();
            let floor = state.floors.get(&peer).copied().unwrap_or(0);
            judge_incarnation(state.known.get(&peer), floor, facts)
        };
        match judgement {
            Judgement::Admit => {}
            Judgement::Refuse(reason) => return Err(reason),
            Judgement::Contend => {
                let (reply, answer) = oneshot::channel();
                let asked = self.contentions.send(Contention { peer, reply }).await.is_ok();
                // Without an answer the loop is ending, and so is this connection.
                if !asked || answer.await.unwrap_or(true) {
                    return Err(RefuseReason::Clone);
                }
            }
        }
        let claim = AdmissionClaim {
            peer: to_text(&peer),
            facts: facts.clone(),
            outbound,
            key_id,
            key_is_current: self.lock().ring.signing().id == key_id,
        };
        (self.policy)(&claim)
    }

    /// Remembers a peer that both sides took. `told_revision` is the revision of our facts that it has seen.
    pub(crate) fn admitted(&self, peer: NetId, facts: &Facts, key_id: u32, told_revision: u64) {
        let seen_ms = clock::now_ms();
        let mut state = self.lock();
        if let Some(known) = state.known.get_mut(&peer) {
            known.highest_incarnation = known.highest_incarnation.max(facts.incarnation);
            // Of one process only newer facts count; of another process all do.
            if known.facts.instance != facts.instance || facts.revision >= known.facts.revision {
                known.facts = facts.clone();
            }
            (known.key_id, known.seen_ms, known.told_revision) = (key_id, seen_ms, told_revision);
            return;
        }
        if state.known.len() >= KNOWN_MAX {
            let oldest = state.known.iter().filter(|(_, known)| known.connections == 0).min_by_key(|(_, k)| k.seen_ms);
            if let Some(peer) = oldest.map(|(peer, _)| *peer) {
                state.known.remove(&peer);
            }
        }
        let known = Known {
            facts: facts.clone(),
            highest_incarnation: facts.incarnation,
            connections: 0,
            key_id,
            told_revision,
            seen_ms,
        };
        state.known.insert(peer, known);
    }

    /// Takes facts that an admitted peer sent later. Returns whether they are news.
    pub(crate) fn update(&self, peer: NetId, facts: &Facts) -> bool {
        let mut state = self.lock();
        let Some(known) = state.known.get_mut(&peer) else { return false };
        let same_process = known.facts.instance == facts.instance && known.facts.incarnation == facts.incarnation;
        if !same_process || facts.revision <= known.facts.revision {
            return false;
        }
        known.facts = facts.clone();
        true
    }

    /// Notes that a peer has seen this revision of our facts.
    pub(crate) fn told(&self, peer: NetId, revision: u64) {
        if let Some(known) = self.lock().known.get_mut(&peer) {
            known.told_revision = known.told_revision.max(revision);
        }
    }

    /// Whether a peer has not seen our latest facts.
    pub(crate) fn owes(&self, peer: NetId) -> bool {
        let state = self.lock();
        state.known.get(&peer).is_some_and(|known| known.told_revision < state.own.revision)
    }

    /// The loop's count of connections, so that a second process is noticed.
    pub(crate) fn set_connections(&self, peer: NetId, connections: u32) {
        if let Some(known) = self.lock().known.get_mut(&peer) {
            known.connections = connections;
            known.seen_ms = clock::now_ms();
        }
    }

    /// Facts and key id of a peer, whether connected or not.
    pub(crate) fn known(&self, peer: NetId) -> Option<(Facts, u32)> {
        self.lock().known.get(&peer).map(|known| (known.facts.clone(), known.key_id))
    }

    /// Facts of a connected peer.
    pub(crate) fn connected_facts(&self, peer: NetId) -> Option<Facts> {
        self.lock().known.get(&peer).filter(|known| known.connections > 0).map(|known| known.facts.clone())
    }

    /// Was admitted at some time.
    pub(crate) fn is_known(&self, peer: NetId) -> bool {
        self.lock().known.contains_key(&peer)
    }
}

/// For tests of the upgrade: a gate whose loop answers every contention the same way.
#[cfg(test)]
pub(crate) fn test_gate(ring: Keyring, own: Facts, incumbent_lives: bool) -> Arc<Gate> {
    let (contentions, mut asked) = mpsc::channel::<Contention>(8);
    crate::tasks::spawn("test-loop", async move {
        while let Some(contention) = asked.recv().await {
            let _ = contention.reply.send(incumbent_lives);
        }
    });
    let local = libp2p::identity::Keypair::generate_ed25519().public().to_peer_id();
    Arc::new(Gate::new(local, ring, own, super::open_policy(), contentions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::facts::tests::facts;

    #[test]
    fn incarnations_are_judged_by_what_was_seen_and_who_is_connected() {
        let incumbent = facts("alpha", 5);
        let connected = |connections| Known {
            facts: incumbent.clone(),
            highest_incarnation: 5,
            connections,
            key_id: 1,
            told_revision: 1,
            seen_ms: 1,
        };
        let stale = Judgement::Refuse(RefuseReason::StaleIncarnation);
        let cases = [
            (None, 0, facts("alpha", 1), Judgement::Admit),
            (None, 2, facts("alpha", 1), Judgement::Refuse(RefuseReason::StaleIncarnation)),
            (Some(connected(0)), 0, facts("alpha", 4), stale),
            (Some(connected(1)), 0, facts("alpha", 5), Judgement::Contend),
            (Some(connected(1)), 0, facts("alpha", 6), Judgement::Contend),
            (Some(connected(0)), 0, facts("alpha", 5), Judgement::Admit),
            (Some(connected(0)), 0, facts("alpha", 6), Judgement::Admit),
            (Some(connected(1)), 0, incumbent.clone(), Judgement::Admit),
        ];
        for (known, floor, newcomer, expected) in cases {
            assert_eq!(judge_incarnation(known.as_ref(), floor, &newcomer), expected, "{newcomer:?}");
        }
    }

    #[tokio::test]
    async fn facts_of_one_process_only_move_forward() {
        let ring = Keyring::new(&crate::keyring::Secret::generate());
        let gate = test_gate(ring, facts("self", 1), false);
        let peer = NetId::random();
        let mut first = facts("alpha", 5);
        gate.admitted(peer, &first, 1, 1);
        first.revision = 3;
        assert!(gate.update(peer, &first));
        first.revision = 2;
        assert!(!gate.update(peer, &first), "an older answer that comes late");
        let other_process = Facts { revision: 9, ..facts("alpha", 5) };
        assert!(!gate.update(peer, &other_process), "facts of a process that was not admitted");
        assert!(!gate.update(NetId::random(), &first), "facts of somebody never admitted");
    }

    #[tokio::test]
    async fn memory_for_peers_is_bounded_and_keeps_the_connected() {
        let ring = Keyring::new(&crate::keyring::Secret::generate());
        let gate = test_gate(ring, facts("self", 1), false);
        let first = NetId::random();
        let known = facts("alpha", 1);
        gate.admitted(first, &known, 1, 1);
        gate.set_connections(first, 1);
        for _ in 0..KNOWN_MAX + 10 {
            gate.admitted(NetId::random(), &known, 1, 1);
        }
        assert_eq!(gate.lock().known.len(), KNOWN_MAX);
        assert!(gate.is_known(first));
    }
}
