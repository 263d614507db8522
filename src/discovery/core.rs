//! Discovery without sockets: datagrams and time come in, datagrams and events come out.
//!
//! ```text
//!   receive(from, bytes) ─► verify ─► count ─► new? ─► HELLO, WELCOME, PING, PONG ─► answers, events
//!                                                 └──► SWIM ─► swim
//!   tick(now)            ─► schedule ─► HELLO to everybody and to unicast targets
//!                        └► swim, probes, names to resolve
//! ```
//!
//! Here so that the rules (an answer is never larger than its question, nothing grows without bound) are tested with any
//! input and any time. Never done here: IO, waiting, deciding to found or to join.

mod legacy;
mod notes;
mod receive;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::broadcast;

use self::legacy::Legacy;
use self::notes::Opened;
use super::events::{
    BeaconContent, BroadcastHearer, DiscoveryEvent, LegacyMode, LegacyPeerView, RefusalView, Snapshot,
};
use super::interfaces::{Interface, to_publish};
use super::swim::probe::{Probes, Step};
use super::swim::{Change, Liveness, MemberContact, Swim};
use super::tap::TapRecord;
use super::targets::{Lookup, Targets};
use super::wire::{ADDRESSES_MAX, Body, Cast, Datagram, Hello, HiveEpoch};
use crate::clock;
use crate::engine::beacon::answer::QuestionMemory;
use crate::engine::beacon::rate::{self, Bucket, Buckets, Suspects};
use crate::engine::beacon::refusals::RefusalLog;
use crate::engine::beacon::replay::ReplayGuard;
use crate::engine::beacon::schedule::Schedule;
use crate::engine::beacon::{BeaconState, Nonce, Source};
use crate::engine::id::PeerId;
use crate::keyring::Keyring;
use crate::wire::Wire;

/// Own nonces that a WELCOME may echo: the last two seconds of a seeker.
const NONCES_MAX: usize = 8;
/// A seeker asks the same question so often before it asks a new one, so that a lost answer is noticed as a repetition.
const CALLS_PER_NONCE: u32 = 4;
/// Seekers that are remembered, to answer unknown ones at once.
const SEEKERS_MAX: usize = 512;
/// Peers of which clock offset and last sign of life are kept.
const PEERS_MAX: usize = 1_024;
/// Peers that heard our broadcast lately, and for how long that counts.
const HEARERS_MAX: usize = 256;
const HEARD_FOR_MS: u64 = 120_000;
/// Events that wait for the agent beyond its queue. Hints are dropped when it is full; changes of members are kept elsewhere.
const EVENTS_MAX: usize = 512;
/// Unverified datagrams that are told to the agent, per second and per address.
const UNVERIFIED_PER_S: u64 = 5;

/// Whom a datagram goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// One address.
    Address(SocketAddr),
    /// Broadcast and multicast on every interface.
    Everybody,
    /// Broadcast only, as v1 does.
    LegacyEverybody,
}

/// A datagram to send.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) to: To,
    pub(super) bytes: Vec<u8>,
}

/// A sign of life.
#[derive(Clone, Copy, Debug)]
struct Sign {
    last_ms: u64,
    clock_offset_ms: i64,
    /// Incarnation and number of the datagram that was taken last, and where it came from.
    newest: (u64, u64, SocketAddr),
}

/// What never changes while the agent runs.
pub(super) struct Fixed {
    pub(super) me: PeerId,
    pub(super) incarnation: u64,
    pub(super) port: u16,
    pub(super) legacy_mode: LegacyMode,
    pub(super) legacy_port: u16,
    pub(super) seed: u64,
    pub(super) wire: Wire,
}

/// Discovery without sockets.
pub(super) struct Core {
    fixed: Fixed,
    keyring: Option<Keyring>,
    content: BeaconContent,
    interfaces: BTreeSet<Interface>,
    linked: bool,
    targets: Targets,
    members: Vec<MemberContact>,
    sequence: u64,
    rng: SmallRng,
    schedule: Schedule,
    calls: u32,
    nonces: VecDeque<Nonce>,
    questions: QuestionMemory,
    replay: ReplayGuard,
    per_peer: Buckets<PeerId>,
    suspects: Suspects<Source>,
    unverified: Buckets<Source>,
    unverified_total: Bucket,
    refusals: RefusalLog,
    seekers: BTreeMap<PeerId, (u64, u64)>,
    signs: BTreeMap<PeerId, Sign>,
    /// Where members were last heard; better than what anybody says.
    heard_at: BTreeMap<PeerId, SocketAddr>,
    hearers: BTreeMap<PeerId, (String, u64)>,
    swim: Option<(HiveEpoch, Swim)>,
    probes: Probes,
    legacy: Legacy,
    left: bool,
    tap: broadcast::Sender<Arc<TapRecord>>,
    outgoing: Vec<Outgoing>,
    events: VecDeque<DiscoveryEvent>,
    dropped: u64,
    /// What the datagram that is being taken turned out to be.
    opened: Option<Opened>,
}

impl Core {
    pub(super) fn new(
        fixed: Fixed,
        keyring: Option<Keyring>,
        content: BeaconContent,
        tap: broadcast::Sender<Arc<TapRecord>>,
        now_ms: u64,
    ) -> Self {
        let mut rng = SmallRng::seed_from_u64(fixed.seed);
        Self {
            schedule: Schedule::new(content.state, now_ms),
            legacy: Legacy::new(now_ms),
            // A restart within one incarnation cannot happen, but a high start costs nothing and makes it harmless.
            sequence: u64::from(rng.random::<u16>()),
            fixed,
            keyring,
            content: BeaconContent::default(),
            interfaces: BTreeSet::new(),
            linked: false,
            targets: Targets::default(),
            members: Vec::new(),
            rng,
            calls: 0,
            nonces: VecDeque::new(),
            questions: QuestionMemory::default(),
            replay: ReplayGuard::default(),
            per_peer: Buckets::new(rate::PER_PEER_PER_S),
            suspects: Suspects::default(),
            unverified: Buckets::new(1),
            unverified_total: Bucket::full(UNVERIFIED_PER_S, now_ms),
            refusals: RefusalLog::default(),
            seekers: BTreeMap::new(),
            signs: BTreeMap::new(),
            heard_at: BTreeMap::new(),
            hearers: BTreeMap::new(),
            swim: None,
            probes: Probes::default(),
            left: false,
            tap,
            outgoing: Vec::new(),
            events: VecDeque::new(),
            dropped: 0,
            opened: None,
        }
        .with_content(content, now_ms)
    }

    fn with_content(mut self, content: BeaconContent, now_ms: u64) -> Self {
        self.set_content(content, now_ms);
        self
    }

    pub(super) fn set_keyring(&mut self, keyring: Option<Keyring>, now_ms: u64) {
        self.keyring = keyring;
        self.schedule.restart(now_ms);
    }

    pub(super) fn set_content(&mut self, content: BeaconContent, now_ms: u64) {
        let was_member = self.content.state == BeaconState::Member;
        self.schedule.set_state(content.state, now_ms);
        if content.addresses != self.content.addresses {
            self.schedule.restart(now_ms);
        }
        self.content = content.cleaned();
        if self.content.state == BeaconState::Member && !was_member {
            self.legacy.restart(now_ms);
        }
        let hive = self.content.hive.filter(|_| self.content.state == BeaconState::Member && !self.left);
        if self.swim.as_ref().map(|(hive, _)| *hive) != hive {
            // Another history: nothing that was known of members' liveness holds there.
            self.swim = hive.map(|hive| {
                let addr = self.own_addresses().first().map(|ip| SocketAddr::new(*ip, self.fixed.port));
                let seed = self.rng.random();
                (hive, Swim::new(self.fixed.me.clone(), self.fixed.incarnation, addr, seed))
            });
            self.heard_at.clear();
            let members = std::mem::take(&mut self.members);
            self.set_members(members, now_ms);
        }
    }

    pub(super) fn set_members(&mut self, members: Vec<MemberContact>, now_ms: u64) {
        if let Some((_, swim)) = &mut self.swim {
            swim.set_members(&members, now_ms);
            self.heard_at.retain(|peer, _| swim.is_member(peer));
        }
        self.members = members;
        self.flush_swim();
    }

    pub(super) fn set_targets(&mut self, join: &[(String, u16)], cached: &[SocketAddr]) {
        self.targets.set(join, cached);
    }

    pub(super) fn has_join(&self) -> bool {
        self.targets.has_join()
    }

    /// Everybody it is to join is on this very machine.
    pub(super) fn joins_itself(&self) -> bool {
        self.targets.is_loopback_only()
    }

    pub(super) fn set_linked(&mut self, linked: bool) {
        self.linked = linked;
    }

    pub(super) fn lookups(&mut self, now_ms: u64) -> Vec<Lookup> {
        self.targets.lookups(now_ms)
    }

    pub(super) fn resolved(&mut self, lookup: Lookup, addresses: Vec<SocketAddr>, now_ms: u64) {
        self.targets.resolved(lookup, addresses, now_ms);
    }

    /// Takes a new scan. Whoever sits on a new interface has not heard this node yet.
    pub(super) fn set_interfaces(&mut self, interfaces: BTreeSet<Interface>, now_ms: u64) {
        if interfaces == self.interfaces {
            return;
        }
        if !interfaces.is_subset(&self.interfaces) {
            self.schedule.restart(now_ms);
        }
        self.interfaces = interfaces;
        self.event(DiscoveryEvent::InterfacesChanged(self.interfaces.iter().cloned().collect()));
    }

    pub(super) fn interfaces(&self) -> &BTreeSet<Interface> {
        &self.interfaces
    }

    pub(super) fn probe_now(&mut self, peer: &PeerId, now_ms: u64) {
        if self.swim.as_ref().is_some_and(|(_, swim)| swim.is_member(peer)) {
            let nonce = self.rng.random();
            self.probes.start(peer, nonce, now_ms);
        }
    }

    /// Says farewell; from now on this node neither calls nor answers.
    pub(super) fn leave(&mut self, now_ms: u64) {
        if let Some((_, swim)) = &mut self.swim {
            swim.leave(now_ms);
        }
        self.flush_swim();
        self.left = true;
        self.swim = None;
    }

    pub(super) fn next_ms(&self) -> u64 {
        let swim = self.swim.as_ref().and_then(|(_, swim)| swim.next_ms());
        let call = (!self.left && self.keyring.is_some()).then(|| self.schedule.next_ms());
        let legacy = self.legacy.next_ms(self.fixed.legacy_mode, self.content.state);
        [swim, call, self.probes.next_ms(), legacy].into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now_ms: u64) {
        if let Some((_, swim)) = &mut self.swim {
            swim.tick(now_ms);
        }
        for step in self.probes.due(now_ms) {
            match step {
                Step::Ping(peer, nonce) => self.ping(&peer, nonce),
                Step::Silent(peer) => {
                    if let Some((_, swim)) = &mut self.swim {
                        swim.suspect(&peer, now_ms);
                    }
                }
            }
        }
        self.flush_swim();
        if !self.left && self.keyring.is_some() && self.schedule.due(now_ms, &mut self.rng) {
            self.call();
        }
        self.legacy_tick(now_ms);
    }

    /// Sends HELLO to everybody and to the next unicast targets.
    fn call(&mut self) {
        if self.content.state == BeaconState::Member || self.calls.is_multiple_of(CALLS_PER_NONCE) {
            let nonce = self.rng.random();
            self.nonces.push_back(nonce);
            if self.nonces.len() > NONCES_MAX {
                self.nonces.pop_front();
            }
        }
        self.calls = self.calls.wrapping_add(1);
        let hello = self.hello(Cast::Broadcast);
        self.send(To::Everybody, None, Body::Hello(hello));
        let members = self.active_addresses();
        let own = self.own_addresses();
        let port = self.fixed.port;
        let myself = |address: &SocketAddr| address.port() == port && own.contains(&address.ip());
        let targets = self.targets.next(|address| members.contains(address) || myself(address));
        if !targets.is_empty()
            && let Some(bytes) = self.seal(None, Body::Hello(self.hello(Cast::Unicast)))
        {
            for target in targets {
                self.push(To::Address(target), "HELLO", None, bytes.clone());
            }
        }
    }

    /// Addresses of members that are held alive. They need no call.
    fn active_addresses(&self) -> BTreeSet<SocketAddr> {
        let Some((_, swim)) = &self.swim else { return BTreeSet::new() };
        swim.active().filter_map(|peer| self.heard_at.get(peer).copied()).collect()
    }

    fn own_addresses(&self) -> Vec<IpAddr> {
        if !self.content.addresses.is_empty() {
            return self.content.addresses.clone();
        }
        let mut addresses = to_publish(&self.interfaces);
        addresses.truncate(ADDRESSES_MAX);
        addresses
    }

    fn hello(&self, cast: Cast) -> Hello {
        Hello {
            name: self.content.name.clone(),
            addresses: self.own_addresses(),
            mesh_port: self.content.mesh_port,
            http_port: self.content.http_port,
            state: self.content.state,
            nonce: self.nonces.back().copied().unwrap_or_default(),
            digest: self.content.digest,
            candidate_ip: self.content.candidate_ip,
            cast,
        }
    }

    fn ping(&mut self, peer: &PeerId, nonce: Nonce) {
        let declared = self.swim.as_ref().and_then(|(_, swim)| swim.address_of(peer));
        if let Some(address) = self.heard_at.get(peer).copied().or(declared) {
            self.send(To::Address(address), Some(peer.clone()), Body::Ping(nonce));
        }
    }

    /// Wraps what the failure detector wants sent, and offers its news to the agent.
    fn flush_swim(&mut self) {
        let Some((_, swim)) = &mut self.swim else { return };
        let packets = swim.take_outgoing();
        for packet in packets {
            let declared = self.swim.as_ref().and_then(|(_, swim)| swim.address_of(&packet.peer));
            let address = self.heard_at.get(&packet.peer).copied().or(declared).or(packet.hint);
            if let Some(address) = address {
                self.send(To::Address(address), Some(packet.peer), Body::Swim(packet.packet));
            }
        }
    }

    /// Offers changes of members. One that is not taken is offered again: these are never lost.
    pub(super) fn report_members(&mut self, mut take: impl FnMut(DiscoveryEvent) -> bool) {
        let Some((_, swim)) = &mut self.swim else { return };
        swim.report_changes(|Change { peer, incarnation, liveness, farewell }| {
            take(match liveness {
                Liveness::Alive => DiscoveryEvent::MemberAlive { peer, incarnation },
                Liveness::Suspect => DiscoveryEvent::MemberSuspect { peer, incarnation },
                Liveness::Down => DiscoveryEvent::MemberDown { peer, incarnation, farewell },
            })
        });
    }

    fn seal(&mut self, destination: Option<PeerId>, body: Body) -> Option<Vec<u8>> {
        let keyring = self.keyring.as_ref()?;
        self.sequence += 1;
        let datagram = Datagram {
            hive: self.content.hive,
            sender: self.fixed.me.clone(),
            incarnation: self.fixed.incarnation,
            sequence: self.sequence,
            sent_at: clock::unix_now(),
            destination,
            body,
        };
        match datagram.seal(keyring) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                tracing::error!(%error, kind = datagram.body.kind(), "bug: a datagram of our own could not be written");
                None
            }
        }
    }

    fn send(&mut self, to: To, destination: Option<PeerId>, body: Body) {
        let kind = body.kind();
        if let Some(bytes) = self.seal(destination.clone(), body) {
            self.push(to, kind, destination.as_ref(), bytes);
        }
    }

    fn push(&mut self, to: To, kind: &str, peer: Option<&PeerId>, bytes: Vec<u8>) {
        self.note_sent(to, kind, peer, &bytes);
        if self.tap.receiver_count() > 0 {
            let address = match to {
                To::Address(address) => address,
                To::Everybody | To::LegacyEverybody => SocketAddr::from(([255, 255, 255, 255], self.fixed.port)),
            };
            let mut record = super::tap::decode_for_display(&bytes, address, self.keyring.as_ref(), clock::unix_now());
            record.sent = true;
            if !matches!(to, To::Address(_)) {
                record.address = "everybody".to_owned();
            }
            let _ = self.tap.send(Arc::new(record));
        }
        self.outgoing.push(Outgoing { to, bytes });
    }

    pub(super) fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    /// Queues a hint for the agent; the oldest one goes when the agent does not keep up.
    fn event(&mut self, event: DiscoveryEvent) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
            self.dropped += 1;
        }
        self.events.push_back(event);
    }

    /// Hands out queued hints as long as `take` takes them.
    pub(super) fn drain_events(&mut self, mut take: impl FnMut(DiscoveryEvent) -> Result<(), DiscoveryEvent>) {
        while let Some(event) = self.events.pop_front() {
            if let Err(event) = take(event) {
                self.events.push_front(event);
                return;
            }
        }
    }

    /// What the operator may see.
    pub(super) fn snapshot(&mut self, now_ms: u64) -> Snapshot {
        self.hearers.retain(|_, (_, last_ms)| now_ms.saturating_sub(*last_ms) <= HEARD_FOR_MS);
        let refusals = self.refusals.iter().map(|(reason, source, tally)| RefusalView {
            reason,
            from: source.map(address_of),
            count: tally.count,
            last_ms: now_ms.saturating_sub(tally.last_ms),
        });
        let age = |last_ms: u64| now_ms.saturating_sub(last_ms);
        Snapshot {
            refusals: refusals.collect(),
            interfaces: self.interfaces.clone(),
            linked: self.linked,
            join: self.targets.join(),
            legacy_peers: self.legacy.peers(now_ms).map(|peer| LegacyPeerView::new(peer, now_ms)).collect(),
            broadcast_heard_by: self
                .hearers
                .iter()
                .map(|(peer, (name, last_ms))| BroadcastHearer {
                    peer: peer.clone(),
                    name: name.clone(),
                    last_ms: age(*last_ms),
                })
                .collect(),
            clock_offsets_ms: self.signs.iter().map(|(peer, sign)| (peer.clone(), sign.clock_offset_ms)).collect(),
            last_heard_ms: self.signs.iter().map(|(peer, sign)| (peer.clone(), age(sign.last_ms))).collect(),
            health_score: self.swim.as_ref().map_or(0, |(_, swim)| swim.health_score()),
            events_dropped: self.dropped,
        }
    }
}

/// Whether an address has a meaning beyond one link of this machine.
fn is_lasting(address: IpAddr) -> bool {
    !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The engine's form of an address.
pub(super) fn source_of(address: IpAddr) -> Source {
    match address {
        IpAddr::V4(address) => Source(address.to_ipv6_mapped().octets()),
        IpAddr::V6(address) => Source(address.octets()),
    }
}

/// And back.
pub(super) fn address_of(source: Source) -> IpAddr {
    IpAddr::from(source.0).to_canonical()
}

/// Keeps a table within its bound: when it is full, the entry with the lowest `age` goes.
fn make_room<V>(table: &mut BTreeMap<PeerId, V>, peer: &PeerId, max: usize, age: impl Fn(&V) -> u64) {
    if table.len() >= max && !table.contains_key(peer) {
        let oldest = table.iter().min_by_key(|(_, value)| age(value)).map(|(peer, _)| peer.clone());
        if let Some(oldest) = oldest {
            table.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;
