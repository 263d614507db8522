//! Wire v1: who gets a WELCOME or ADVICE, who is listed, and what is announced.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::super::events::{DiscoveryEvent, LegacyMode};
use super::super::v1::{self, Advice, AdviceError, Kind, Message, Speaker};
use super::notes::Opened;
use super::{Core, To, source_of};
use crate::clock;
use crate::engine::beacon::BeaconState;
use crate::engine::beacon::legacy::{LegacyGate, LegacyPeer, LegacyPeers};
use crate::engine::beacon::refusals::Reason;
use crate::keyring::Keyring;

/// IDENTIFYs that wait for the agent's advice.
const WAITING_MAX: usize = 64;
/// A v1 node stops listening for advice after this.
const WAITING_FOR_MS: u64 = 8_000;
/// When HELLO is announced after this node became a member, as v1 nodes do at their start.
const HELLO_AT_MS: [u64; 3] = [0, 400, 800];
/// Pause between heartbeats.
const HEARTBEAT_MS: u64 = 30_000;

/// State of the v1 side.
pub(super) struct Legacy {
    gate: LegacyGate,
    peers: LegacyPeers,
    waiting: BTreeMap<String, (IpAddr, u64)>,
    origin_ms: u64,
    hellos: usize,
    next_ms: u64,
}

impl Legacy {
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            gate: LegacyGate::new(now_ms),
            peers: LegacyPeers::default(),
            waiting: BTreeMap::new(),
            origin_ms: now_ms,
            hellos: 0,
            next_ms: now_ms,
        }
    }

    /// This node became a member: announce it.
    pub(super) fn restart(&mut self, now_ms: u64) {
        (self.origin_ms, self.hellos, self.next_ms) = (now_ms, 0, now_ms);
    }

    pub(super) fn next_ms(&self, mode: LegacyMode, state: BeaconState) -> Option<u64> {
        (mode == LegacyMode::Announce && state == BeaconState::Member).then_some(self.next_ms)
    }

    pub(super) fn peers(&mut self, now_ms: u64) -> impl Iterator<Item = &LegacyPeer> {
        self.peers.age(now_ms);
        self.peers.iter()
    }
}

impl Core {
    pub(super) fn take_legacy(&mut self, from: SocketAddr, bytes: &[u8], now_ms: u64) -> Result<(), Reason> {
        if self.fixed.legacy_mode == LegacyMode::Off {
            return Err(Reason::Version);
        }
        let keyring = self.keyring.as_ref().ok_or(Reason::WrongSecret)?;
        let message = v1::open(bytes, keyring).map_err(v1::V1Error::reason)?;
        self.opened = Some(Opened::v1(&message));
        if message.node_id == v1::node_id(&self.fixed.me) {
            return Ok(());
        }
        // Other members of this hive that announce themselves to v1 nodes are no legacy peers.
        if self.members.iter().any(|member| v1::node_id(&member.peer) == message.node_id) {
            return Ok(());
        }
        // v1 can be replayed from anywhere; what does not come from a link of ours is not even listed.
        if self.address_towards(from.ip()).is_none() {
            return Ok(());
        }
        let source = source_of(from.ip());
        self.legacy.peers.heard(&message.node_id, &message.hostname, source, message.role.clone(), now_ms);
        match message.kind {
            Kind::Hello | Kind::Identify => self.answer_legacy(from.ip(), &message, now_ms),
            Kind::Welcome | Kind::Advice | Kind::Heartbeat => {}
        }
        Ok(())
    }

    /// Our address on the link where `peer` is.
    fn address_towards(&self, peer: IpAddr) -> Option<IpAddr> {
        self.interfaces.iter().find(|interface| interface.contains(peer)).map(|interface| interface.address)
    }

    fn answer_legacy(&mut self, address: IpAddr, message: &Message, now_ms: u64) {
        if self.content.state != BeaconState::Member || self.left {
            return;
        }
        let alive = self.swim.iter().flat_map(|(_, swim)| swim.active());
        let on_link = self.address_towards(address).is_some();
        let gate = &mut self.legacy.gate;
        if !gate.answers(&message.node_id, source_of(address), on_link, &self.fixed.me, alive, now_ms) {
            return;
        }
        if message.kind == Kind::Hello {
            let Some(keyring) = self.keyring.clone() else { return };
            let bytes = self.with_speaker(address, |speaker| v1::greeting(Kind::Welcome, speaker, &keyring));
            self.push(To::Address(SocketAddr::new(address, self.fixed.legacy_port)), "WELCOME", None, bytes);
            return;
        }
        let waiting = &mut self.legacy.waiting;
        waiting.retain(|_, (_, since_ms)| now_ms.saturating_sub(*since_ms) <= WAITING_FOR_MS);
        if waiting.len() < WAITING_MAX || waiting.contains_key(&message.node_id) {
            waiting.insert(message.node_id.clone(), (address, now_ms));
            self.event(DiscoveryEvent::LegacyAsksAdvice {
                node_id: message.node_id.clone(),
                hostname: message.hostname.clone(),
                from: address,
            });
        }
    }

    fn with_speaker<T>(&self, towards: IpAddr, write: impl FnOnce(&Speaker<'_>) -> T) -> T {
        let address = self.address_towards(towards).or_else(|| self.own_addresses().first().copied());
        let primary_ip = address.map_or_else(String::new, |address| address.to_string());
        write(&Speaker {
            peer: &self.fixed.me,
            hostname: &self.content.name,
            primary_ip: &primary_ip,
            now: clock::unix_now(),
        })
    }

    /// Sends the agent's advice to the v1 node that asked, if it still waits.
    pub(in super::super) fn legacy_advice(
        &mut self,
        node_id: &str,
        advice: &Advice,
        now_ms: u64,
    ) -> Result<(), AdviceError> {
        let Some((address, since_ms)) = self.legacy.waiting.remove(node_id) else { return Ok(()) };
        let Some(keyring) = self.keyring.clone() else { return Ok(()) };
        if now_ms.saturating_sub(since_ms) <= WAITING_FOR_MS {
            let bytes = self.with_speaker(address, |speaker| v1::advice(advice, speaker, &keyring))?;
            self.push(To::Address(SocketAddr::new(address, self.fixed.legacy_port)), "ADVICE", None, bytes);
        }
        Ok(())
    }

    /// Announces this node to v1 nodes, where the operator wants that.
    pub(super) fn legacy_tick(&mut self, now_ms: u64) {
        let due =
            self.legacy.next_ms(self.fixed.legacy_mode, self.content.state).is_some_and(|due_ms| due_ms <= now_ms);
        let Some(keyring) = self.keyring.clone().filter(|_| due && !self.left) else {
            if due {
                self.legacy.next_ms = now_ms + HEARTBEAT_MS;
            }
            return;
        };
        let everywhere = IpAddr::from([255, 255, 255, 255]);
        let bytes = self.with_speaker(everywhere, |speaker| self.announcement(speaker, &keyring));
        let kind = if self.legacy.hellos < HELLO_AT_MS.len() { "HELLO" } else { "HEARTBEAT" };
        self.push(To::LegacyEverybody, kind, None, bytes);
        self.legacy.hellos += 1;
        self.legacy.next_ms = match HELLO_AT_MS.get(self.legacy.hellos) {
            Some(offset_ms) => (self.legacy.origin_ms + offset_ms).max(now_ms + 1),
            None => now_ms + HEARTBEAT_MS,
        };
    }

    fn announcement(&self, speaker: &Speaker<'_>, keyring: &Keyring) -> Vec<u8> {
        if self.legacy.hellos < HELLO_AT_MS.len() {
            v1::greeting(Kind::Hello, speaker, keyring)
        } else {
            v1::heartbeat(self.content.role.as_deref(), speaker, keyring)
        }
    }
}
