//! Who is alive: SWIM (`foca`) with a guard for this node's own health. Time comes in, packets and changes come out.
//!
//! ```text
//!   set_members ──► only members are probed, and only their packets and news about them get in
//!   handle, tick ─► foca ──► take_outgoing()            LocalHealth stretches suspicion, and withholds accusations
//!                       └──► changes()                  while this node is in no state to judge others
//! ```
//!
//! Differences from plain SWIM, each for a reason: every suspicion is timed here, whoever raised it; time in which this node did not run is taken out of all its timers
//! (others get the answers' time back); a suspicion that is due while the health score has risen since waits longer; from
//! a score of 4 on this node answers its own failed probes, so that no accusation starts here; a ping meant for an earlier life
//! of this node is answered with the present one. Never done here: sockets, signatures, who is a member, and removing anybody
//! from Raft.

mod packet;
pub mod probe;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{
    Config, Foca, Header, Identity as _, Member, Message, NoCustomBroadcast, Notification, PeriodicParams, State, Timer,
};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;

use self::packet::{Packet, SwimCodec, SwimId};
use super::wire::SWIM_MAX;
use crate::engine::beacon::refusals::Reason;
use crate::engine::health::{LAG_MS, LocalHealth};
use crate::engine::id::PeerId;

/// A member is probed this often.
pub const PROBE_PERIOD_MS: u64 = 500;
/// An answer is expected within this; then others are asked to try.
pub const PROBE_RTT_MS: u64 = 200;
/// A member that stays down is forgotten by the detector after this; its HELLO brings it back at any time.
const REMOVE_DOWN_AFTER: Duration = Duration::from_secs(3_600);
/// New members that are told about this node at once; the others learn it by gossip.
const ANNOUNCE_TO: usize = 3;
/// Packets that may wait between two calls of `take_outgoing`: more than one timer and one packet can cause.
const OUTGOING_MAX: usize = 256;

/// Where a member is, as the replicated state says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberContact {
    /// The member.
    pub peer: PeerId,
    /// Its `IP:PORT`s, best first.
    pub addresses: Vec<SocketAddr>,
    /// The highest incarnation known.
    pub incarnation: u64,
}

/// How a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    /// Answers, or has not been found silent yet.
    Alive,
    /// Does not answer; others are asked, and it may object.
    Suspect,
    /// Nobody reaches it, or it said farewell.
    Down,
}

/// A member's state changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The member.
    pub peer: PeerId,
    /// Its incarnation.
    pub incarnation: u64,
    /// How it is now.
    pub liveness: Liveness,
    /// It said so itself when it stopped. Only known to those it told.
    pub farewell: bool,
}

/// A packet to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// To whom.
    pub peer: PeerId,
    /// Where others said it is; the last address it was heard from is better.
    pub hint: Option<SocketAddr>,
    /// The packet, at most [`SWIM_MAX`] bytes.
    pub packet: Vec<u8>,
}

struct Pending {
    timer: Timer<SwimId>,
    /// The health multiplier that its time was stretched with, for suspicions.
    multiplier: u32,
}

struct Probing {
    target: SwimId,
    number: u8,
    answered: bool,
}

/// Collects what `foca` wants done.
#[derive(Default)]
struct Outbox {
    packets: Vec<(SwimId, Vec<u8>)>,
    timers: Vec<(Timer<SwimId>, u64)>,
}

impl foca::Runtime<SwimId> for &mut Outbox {
    // Changes are found by comparing states, so that none is lost when the agent is slow.
    fn notify(&mut self, _notification: Notification<'_, SwimId>) {}

    fn send_to(&mut self, to: SwimId, data: &[u8]) {
        self.packets.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<SwimId>, after: Duration) {
        self.timers.push((event, u64::try_from(after.as_millis()).unwrap_or(u64::MAX)));
    }
}

/// The failure detector of one node in one hive and epoch.
pub struct Swim {
    foca: Foca<SwimId, SwimCodec, SmallRng, NoCustomBroadcast>,
    me: PeerId,
    members: BTreeMap<PeerId, MemberContact>,
    health: LocalHealth,
    /// By due time, then by order of submission.
    timers: BTreeMap<(u64, u64), Pending>,
    submitted: u64,
    token: u8,
    /// Suspicions that a timer of this token watches.
    watched: BTreeMap<PeerId, (Member<SwimId>, u8)>,
    probing: Option<Probing>,
    own_incarnation: u16,
    outbox: Outbox,
    outgoing: Vec<Outgoing>,
    reported: BTreeMap<PeerId, (u64, Liveness)>,
    farewells: BTreeMap<PeerId, u64>,
    rng: SmallRng,
}

fn count(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN)
}

/// 3 · max(1, log10 N) · probe period.
fn suspicion_ms(members: usize) -> u64 {
    let factor = (members.max(1) as f64).log10().max(1.0);
    (3.0 * factor * PROBE_PERIOD_MS as f64) as u64
}

fn config(members: usize, multiplier: u32) -> Config {
    let every = |seconds_ms: u64, number: usize| {
        Some(PeriodicParams { frequency: Duration::from_millis(seconds_ms), num_members: count(number) })
    };
    // 4 · log10(N + 1) as memberlist does, but not fewer than 6: small hives lose packets, too.
    let transmissions = (4.0 * ((members + 1) as f64).log10()) as u8;
    Config {
        probe_period: Duration::from_millis(PROBE_PERIOD_MS),
        probe_rtt: Duration::from_millis(PROBE_RTT_MS),
        num_indirect_probes: count(3),
        max_transmissions: NonZeroU8::new(transmissions.max(6)).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: Duration::from_millis(suspicion_ms(members) * u64::from(multiplier)),
        remove_down_after: Some(REMOVE_DOWN_AFTER),
        max_packet_size: count(SWIM_MAX),
        notify_down_members: true,
        periodic_announce: every(30_000, 1),
        // Often, because after a partition it is what brings the halves together again.
        periodic_announce_to_down_members: every(10_000, 2),
        periodic_gossip: every(200, 3),
    }
}

impl Swim {
    /// A detector that knows nobody yet. `addr` is told to others as a hint.
    pub fn new(me: PeerId, incarnation: u64, addr: Option<SocketAddr>, seed: u64) -> Self {
        let identity = SwimId { peer: me.clone(), incarnation, renewal: 0, addr };
        let mut rng = SmallRng::seed_from_u64(seed);
        let foca = Foca::new(identity, config(1, 1), SmallRng::from_rng(&mut rng), SwimCodec);
        Self {
            foca,
            me,
            members: BTreeMap::new(),
            health: LocalHealth::default(),
            timers: BTreeMap::new(),
            submitted: 0,
            token: 0,
            watched: BTreeMap::new(),
            probing: None,
            own_incarnation: 0,
            outbox: Outbox::default(),
            outgoing: Vec::new(),
            reported: BTreeMap::new(),
            farewells: BTreeMap::new(),
            rng,
        }
    }

    /// Says who the other members are. New ones count as alive until they are found silent; those that are gone are forgotten.
    pub fn set_members(&mut self, members: &[MemberContact], now_ms: u64) {
        let new: BTreeMap<PeerId, MemberContact> = members
            .iter()
            .filter(|member| member.peer != self.me)
            .map(|member| (member.peer.clone(), member.clone()))
            .collect();
        let known: BTreeMap<PeerId, Member<SwimId>> =
            self.foca.iter_membership_state().map(|member| (member.id().peer.clone(), member.clone())).collect();
        let mut updates = Vec::new();
        let mut announce = Vec::new();
        for (peer, contact) in &new {
            let id = SwimId {
                peer: peer.clone(),
                incarnation: contact.incarnation,
                renewal: 0,
                addr: contact.addresses.first().copied(),
            };
            let newer = known.get(peer).is_none_or(|member| member.id().incarnation < contact.incarnation);
            if newer {
                updates.push(Member::alive(id.clone()));
            }
            if newer || !self.members.contains_key(peer) {
                announce.push(id);
            }
        }
        for (peer, member) in known {
            if !new.contains_key(&peer) && member.state() != State::Down {
                updates.push(Member::new(member.id().clone(), member.incarnation(), State::Down));
            }
        }
        self.members = new;
        self.reported.retain(|peer, _| self.members.contains_key(peer));
        self.farewells.retain(|peer, _| self.members.contains_key(peer));
        self.configure();
        self.log("members", |foca, outbox| foca.apply_many(updates.into_iter(), false, outbox));
        announce.shuffle(&mut self.rng);
        for id in announce.into_iter().take(ANNOUNCE_TO) {
            self.log("announce", |foca, outbox| foca.announce(id, outbox));
        }
        self.settle(now_ms);
    }

    /// Takes a packet of `sender`, as its envelope names it.
    pub fn handle(&mut self, sender: &PeerId, bytes: &[u8], now_ms: u64) -> Result<(), Reason> {
        if !self.members.contains_key(sender) {
            return Err(Reason::Stranger);
        }
        let restored = packet::restore(sender, &self.me, bytes).map_err(|_| Reason::Malformed)?;
        let mut packet = Packet::read(&restored).map_err(|_| Reason::Malformed)?;
        if let Some(updates) = &mut packet.updates {
            let (me, members) = (&self.me, &self.members);
            updates.retain(|update| update.id().peer == *me || members.contains_key(&update.id().peer));
            for update in
                updates.iter().filter(|update| update.state() == State::Down && update.id() == &packet.header.src)
            {
                self.farewells.insert(sender.clone(), update.id().incarnation);
            }
        }
        self.note_answer(&packet.header);
        let own = self.foca.identity().clone();
        let for_an_earlier_life = packet.header.dst != own && own.win_addr_conflict(&packet.header.dst);
        if for_an_earlier_life && !matches!(packet.header.message, Message::Announce | Message::TurnUndead) {
            self.log("announce", |foca, outbox| foca.announce(packet.header.src, outbox));
        } else {
            let bytes = packet.write().map_err(|_| Reason::Malformed)?;
            self.log("packet", |foca, outbox| foca.handle_data(&bytes, outbox));
        }
        self.settle(now_ms);
        Ok(())
    }

    /// A member was heard in another way, in this incarnation. If the detector holds it down, it is told so that it can object.
    pub fn heard(&mut self, peer: &PeerId, incarnation: u64, addr: SocketAddr, now_ms: u64) {
        let known = self.foca.iter_membership_state().find(|member| member.id().peer == *peer);
        let silent = known.is_none_or(|member| member.state() == State::Down || member.id().incarnation < incarnation);
        if silent && self.members.contains_key(peer) {
            let id = SwimId { peer: peer.clone(), incarnation, renewal: 0, addr: Some(addr) };
            self.log("announce", |foca, outbox| foca.announce(id, outbox));
            self.settle(now_ms);
        }
    }

    /// Starts a suspicion because a probe outside of the detector's own round failed.
    pub fn suspect(&mut self, peer: &PeerId, now_ms: u64) {
        let Some(member) = self.foca.iter_members().find(|member| member.id().peer == *peer).cloned() else { return };
        if member.state() != State::Alive || !self.health.may_accuse() {
            return;
        }
        let suspected = Member::new(member.id().clone(), member.incarnation(), State::Suspect);
        self.log("suspicion", |foca, outbox| foca.apply_many(std::iter::once(suspected), true, outbox));
        self.health.missed_ack(peer);
        self.watch_suspicions();
        self.settle(now_ms);
    }

    /// Every suspicion ends: confirmed by a timer of this node, unless it is refuted first. The detector arms one only for probes of
    /// its own that failed, not for what others say, and forgets them when it renews its identity.
    fn watch_suspicions(&mut self) {
        let suspects = self.foca.iter_members().filter(|member| member.state() == State::Suspect);
        let suspects: BTreeMap<PeerId, (Member<SwimId>, u8)> =
            suspects.map(|member| (member.id().peer.clone(), (member.clone(), self.token))).collect();
        let after_ms = suspicion_ms(self.size()) * u64::from(self.health.multiplier());
        for (peer, suspect) in &suspects {
            if self.watched.get(peer) != Some(suspect) {
                let (member_id, incarnation) = (suspect.0.id().clone(), suspect.0.incarnation());
                let timer = Timer::ChangeSuspectToDown { member_id, incarnation, token: self.token };
                self.outbox.timers.push((timer, after_ms));
            }
        }
        self.watched = suspects;
    }

    /// Says farewell. Send what `take_outgoing` gives, then stop.
    pub fn leave(&mut self, now_ms: u64) {
        self.log("farewell", |foca, outbox| foca.leave_cluster(outbox));
        // Twice more to others: nobody will repeat it after this.
        for _ in 0..2 {
            self.log("farewell", |foca, outbox| foca.gossip(outbox));
        }
        self.settle(now_ms);
        self.timers.clear();
    }

    /// When [`Self::tick`] is due.
    pub fn next_ms(&self) -> Option<u64> {
        self.timers.first_key_value().map(|((due_ms, _), _)| *due_ms)
    }

    /// Runs the timers that are due. Read the socket empty before: after a pause the answers are already there.
    pub fn tick(&mut self, now_ms: u64) {
        let lag_ms = self.next_ms().map_or(0, |due_ms| now_ms.saturating_sub(due_ms));
        if lag_ms > LAG_MS {
            self.health.timer_lag(lag_ms);
            let late = std::mem::take(&mut self.timers);
            self.timers = late.into_iter().map(|((due_ms, order), timer)| ((due_ms + lag_ms, order), timer)).collect();
        }
        while let Some(entry) = self.timers.first_entry()
            && entry.key().0 <= now_ms
        {
            let pending = entry.remove();
            self.fire(pending, now_ms);
            self.settle(now_ms);
        }
    }

    fn fire(&mut self, pending: Pending, now_ms: u64) {
        match &pending.timer {
            Timer::ProbeRandomMember(token) if *token == self.token => self.round(pending.timer),
            Timer::ChangeSuspectToDown { .. } => {
                // One step is what the suspect's own silence added; only more than that tells something about us.
                let worse = self.health.multiplier().saturating_sub(pending.multiplier + 1);
                if worse == 0 {
                    self.log("timer", |foca, outbox| foca.handle_timer(pending.timer, outbox));
                } else {
                    let due_ms = now_ms + suspicion_ms(self.size()) * u64::from(worse);
                    self.push_timer(due_ms, pending.timer, self.health.multiplier());
                }
            }
            Timer::ProbeRandomMember(_)
            | Timer::SendIndirectProbe { .. }
            | Timer::PeriodicAnnounce(_)
            | Timer::PeriodicAnnounceDown(_)
            | Timer::PeriodicGossip(_)
            | Timer::RemoveDown(_) => self.log("timer", |foca, outbox| foca.handle_timer(pending.timer, outbox)),
        }
    }

    /// Ends one probe round and starts the next.
    fn round(&mut self, timer: Timer<SwimId>) {
        let probing = self.probing.take();
        let missed = probing.as_ref().is_some_and(|probing| !probing.answered);
        if let Some(probing) = probing.as_ref().filter(|_| missed && !self.health.may_accuse()) {
            self.withhold_accusation(probing);
        }
        self.configure();
        self.log("round", |foca, outbox| foca.handle_timer(timer, outbox));
        if let Some(probing) = probing {
            if missed {
                self.health.missed_ack(&probing.target.peer);
            } else {
                self.health.explained(&probing.target.peer, false);
            }
        }
        self.health.round_ended();
        self.watch_suspicions();
    }

    /// Answers a failed probe in the target's place, so that no suspicion starts here. Others probe it as well, and judge better.
    fn withhold_accusation(&mut self, probing: &Probing) {
        let known = self.foca.iter_members().find(|member| *member.id() == probing.target);
        let Some(incarnation) = known.map(Member::incarnation) else { return };
        let header = Header {
            src: probing.target.clone(),
            src_incarnation: incarnation,
            dst: self.foca.identity().clone(),
            message: Message::Ack(probing.number),
        };
        if let Ok(bytes) = (Packet { header, updates: None }).write() {
            self.log("withheld accusation", |foca, outbox| foca.handle_data(&bytes, outbox));
        }
    }

    fn note_answer(&mut self, header: &Header<SwimId>) {
        let Some(probing) = &mut self.probing else { return };
        let answered = match &header.message {
            Message::Ack(number) => *number == probing.number && header.src == probing.target,
            Message::ForwardedAck { probe_number, .. } => *probe_number == probing.number,
            Message::Ping(_)
            | Message::PingReq { .. }
            | Message::IndirectPing { .. }
            | Message::IndirectAck { .. }
            | Message::Announce
            | Message::Feed
            | Message::Gossip
            | Message::Broadcast
            | Message::TurnUndead => false,
        };
        probing.answered |= answered;
    }

    /// Members with this node.
    fn size(&self) -> usize {
        self.members.len() + 1
    }

    fn configure(&mut self) {
        let config = config(self.size(), self.health.multiplier());
        if self.foca.set_config(config).is_err() {
            tracing::error!("bug: the failure detector refused its own settings");
        }
    }

    /// Calls the detector. Its errors are about single packets or timers and leave it usable; they are logged and survived.
    fn log(
        &mut self,
        what: &'static str,
        call: impl FnOnce(&mut Foca<SwimId, SwimCodec, SmallRng, NoCustomBroadcast>, &mut Outbox) -> Result<(), foca::Error>,
    ) {
        if let Err(error) = call(&mut self.foca, &mut self.outbox) {
            tracing::debug!(what, %error, "failure detector");
        }
    }

    fn push_timer(&mut self, due_ms: u64, timer: Timer<SwimId>, multiplier: u32) {
        self.submitted += 1;
        self.timers.insert((due_ms, self.submitted), Pending { timer, multiplier });
    }

    /// Files what the detector asked for in its last call.
    fn settle(&mut self, now_ms: u64) {
        for (timer, after_ms) in std::mem::take(&mut self.outbox.timers) {
            if let Timer::ProbeRandomMember(token) = &timer {
                self.token = *token;
            }
            self.push_timer(now_ms.saturating_add(after_ms), timer, self.health.multiplier());
        }
        for (to, bytes) in std::mem::take(&mut self.outbox.packets) {
            let (Ok(packet), Ok(stripped)) = (Packet::read(&bytes), packet::strip(&bytes)) else { continue };
            if let Message::Ping(number) = packet.header.message {
                self.probing = Some(Probing { target: to.clone(), number, answered: false });
            }
            if packet.header.src_incarnation > self.own_incarnation {
                self.health.refuted();
            }
            self.own_incarnation = packet.header.src_incarnation;
            if self.outgoing.len() < OUTGOING_MAX && self.members.contains_key(&to.peer) {
                self.outgoing.push(Outgoing { peer: to.peer, hint: to.addr, packet: stripped.to_vec() });
            }
        }
    }

    /// What is to be sent now.
    pub fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    /// Changes that `report` has not taken yet. `report` says whether it took one; the rest is offered again the next time.
    pub fn report_changes(&mut self, mut report: impl FnMut(Change) -> bool) {
        let states: Vec<(PeerId, u64, Liveness)> = self
            .foca
            .iter_membership_state()
            .filter(|member| self.members.contains_key(&member.id().peer))
            .map(|member| (member.id().peer.clone(), member.id().incarnation, liveness(member.state())))
            .collect();
        for (peer, incarnation, liveness) in states {
            if self.reported.get(&peer) == Some(&(incarnation, liveness)) {
                continue;
            }
            let farewell = liveness == Liveness::Down && self.farewells.get(&peer) == Some(&incarnation);
            if liveness != Liveness::Suspect {
                self.health.explained(&peer, liveness == Liveness::Down);
            }
            if !report(Change { peer: peer.clone(), incarnation, liveness, farewell }) {
                return;
            }
            self.reported.insert(peer, (incarnation, liveness));
        }
    }

    /// Members that are held alive or suspected, without this node.
    pub fn active(&self) -> impl Iterator<Item = &PeerId> {
        self.foca.iter_members().map(|member| &member.id().peer).filter(|peer| self.members.contains_key(*peer))
    }

    /// Whether this peer is a member.
    pub fn is_member(&self, peer: &PeerId) -> bool {
        self.members.contains_key(peer)
    }

    /// Where the replicated state says a member is.
    pub fn address_of(&self, peer: &PeerId) -> Option<SocketAddr> {
        self.members.get(peer).and_then(|contact| contact.addresses.first().copied())
    }

    /// 0 is well, 7 is bad.
    pub fn health_score(&self) -> u32 {
        self.health.score()
    }
}

fn liveness(state: State) -> Liveness {
    match state {
        State::Alive => Liveness::Alive,
        State::Suspect => Liveness::Suspect,
        State::Down => Liveness::Down,
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
