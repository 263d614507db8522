//! What comes in: verified, counted, checked for novelty, and only then acted upon.

use std::net::SocketAddr;
use std::sync::Arc;

use super::super::events::{DiscoveryEvent, Heard};
use super::super::tap::decode_for_display;
use super::super::v1;
use super::super::wire::{self, Body, Cast, Datagram, Hello, Welcome, WireError};
use super::notes::Opened;
use super::{Core, HEARERS_MAX, PEERS_MAX, SEEKERS_MAX, Sign, To, is_lasting, make_room, source_of};
use crate::clock;
use crate::engine::beacon::refusals::Reason;
use crate::engine::beacon::{BeaconState, Nonce};
use crate::engine::id::PeerId;

/// The other copy of a call arrives in this time, milliseconds.
const COPY_WITHIN_MS: u64 = 1_000;
/// A seeker that was silent so long counts as unknown when it calls again.
const SEEKER_KNOWN_FOR_MS: u64 = 10_000;

impl Core {
    /// Takes one datagram as it came.
    pub(in super::super) fn receive(&mut self, from: SocketAddr, bytes: &[u8], now_ms: u64) {
        self.opened = None;
        let refused = self.take(from, bytes, now_ms).err();
        self.note_received(from, bytes, refused);
        if let Some(reason) = refused {
            self.refuse(reason, from, now_ms);
        }
        if self.tap.receiver_count() > 0 {
            let mut record = decode_for_display(bytes, from, self.keyring.as_ref(), clock::unix_now());
            record.refused = refused;
            let _ = self.tap.send(Arc::new(record));
        }
        self.flush_swim();
    }

    fn refuse(&mut self, reason: Reason, from: SocketAddr, now_ms: u64) {
        let source = source_of(from.ip());
        self.refusals.note(reason, source, now_ms);
        if matches!(reason, Reason::WrongSecret | Reason::Malformed) {
            self.suspects.failed(&source, now_ms);
        }
        // Only what was meant for a hive tells the operator something: junk is everywhere.
        let tells = matches!(reason, Reason::WrongSecret | Reason::Version);
        if tells && self.unverified.take(&source, now_ms) && self.unverified_total.take(now_ms) {
            self.event(DiscoveryEvent::UnverifiedSeen { from, reason });
        }
    }

    fn take(&mut self, from: SocketAddr, bytes: &[u8], now_ms: u64) -> Result<(), Reason> {
        let source = source_of(from.ip());
        if !self.suspects.admits(&source, now_ms) {
            return Err(Reason::Rate);
        }
        if v1::looks_like(bytes) {
            return self.take_legacy(from, bytes, now_ms);
        }
        let Some(keyring) = &self.keyring else {
            // Without a secret nothing can be verified, but that others have one can be seen.
            return Err(if wire::key_id(bytes).is_some() { Reason::WrongSecret } else { Reason::Malformed });
        };
        let (datagram, _) = Datagram::open(bytes, keyring).map_err(WireError::reason)?;
        self.opened = Some(Opened::of(&datagram));
        if datagram.sender == self.fixed.me {
            self.notice_clone(&datagram, from);
            return Ok(());
        }
        if datagram.destination.as_ref().is_some_and(|destination| *destination != self.fixed.me) {
            return Err(Reason::Misdirected);
        }
        if !self.per_peer.take(&datagram.sender, now_ms) {
            return Err(Reason::Rate);
        }
        if !self.replay.accept(&datagram.sender, datagram.incarnation, datagram.sequence) {
            return if self.is_copy(&datagram, from, now_ms) { Ok(()) } else { Err(Reason::Replay) };
        }
        self.suspects.verified(&source, now_ms);
        self.note_sign(&datagram, from, now_ms);
        self.act(from, bytes.len(), datagram, now_ms)
    }

    /// Our own broadcasts come back to us. What we cannot have sent was sent by a copy of this machine.
    fn notice_clone(&mut self, datagram: &Datagram, from: SocketAddr) {
        let later_life = datagram.incarnation > self.fixed.incarnation;
        let not_sent_yet = datagram.incarnation == self.fixed.incarnation && datagram.sequence > self.sequence;
        if later_life || not_sent_yet {
            self.event(DiscoveryEvent::CloneSeen { from, incarnation: datagram.incarnation });
        }
    }

    /// A call over IPv6 comes from a link-local address; what a member says about itself is better than that.
    fn note_place(&mut self, sender: &PeerId, from: SocketAddr) {
        if is_lasting(from.ip()) {
            self.heard_at.insert(sender.clone(), from);
        }
    }

    /// What is called by broadcast and by multicast arrives twice from the same place. That is not worth an operator's attention.
    fn is_copy(&self, datagram: &Datagram, from: SocketAddr, now_ms: u64) -> bool {
        let newest = (datagram.incarnation, datagram.sequence, from);
        let sign = self.signs.get(&datagram.sender);
        sign.is_some_and(|sign| sign.newest == newest && now_ms.saturating_sub(sign.last_ms) < COPY_WITHIN_MS)
    }

    fn note_sign(&mut self, datagram: &Datagram, from: SocketAddr, now_ms: u64) {
        let theirs = i64::try_from(datagram.sent_at.0).unwrap_or(i64::MAX);
        let ours = i64::try_from(clock::unix_now().0).unwrap_or(i64::MAX);
        make_room(&mut self.signs, &datagram.sender, PEERS_MAX, |sign| sign.last_ms);
        let newest = (datagram.incarnation, datagram.sequence, from);
        let sign = Sign { last_ms: now_ms, clock_offset_ms: theirs.saturating_sub(ours), newest };
        self.signs.insert(datagram.sender.clone(), sign);
    }

    fn act(&mut self, from: SocketAddr, length: usize, datagram: Datagram, now_ms: u64) -> Result<(), Reason> {
        let Datagram { hive, sender, incarnation, body, .. } = datagram;
        let ours = self.swim.as_ref().is_some_and(|(own, swim)| Some(*own) == hive && swim.is_member(&sender));
        if ours && !matches!(body, Body::Swim(_)) {
            self.note_place(&sender, from);
            if let Some((_, swim)) = &mut self.swim {
                swim.heard(&sender, incarnation, from, now_ms);
            }
        }
        let heard = Heard { peer: sender.clone(), from, incarnation, hive };
        match body {
            Body::Hello(hello) => {
                self.answer_hello(&sender, incarnation, from, length, &hello, now_ms);
                self.event(DiscoveryEvent::HelloSeen { heard, hello });
            }
            Body::Welcome(welcome) => {
                // Freshness: it answers a question that we asked a moment ago.
                if !self.nonces.contains(&welcome.nonce) {
                    return Err(Reason::Replay);
                }
                self.note_hearer(&sender, &welcome, now_ms);
                self.event(DiscoveryEvent::WelcomeSeen { heard, welcome });
            }
            Body::Ping(nonce) => self.answer(from, length, &sender, Body::Pong(nonce)),
            Body::Pong(nonce) => self.take_pong(&sender, &nonce),
            Body::Swim(packet) => {
                let Some((own, swim)) = &mut self.swim else { return Err(Reason::ForeignEpoch) };
                if Some(*own) != hive {
                    return Err(Reason::ForeignEpoch);
                }
                swim.handle(&sender, &packet, now_ms)?;
                self.note_place(&sender, from);
            }
        }
        Ok(())
    }

    fn take_pong(&mut self, sender: &PeerId, nonce: &Nonce) {
        if self.probes.answered(sender, nonce) {
            tracing::debug!(peer = sender.short(), "a doubted peer answers");
        }
    }

    fn note_hearer(&mut self, sender: &PeerId, welcome: &Welcome, now_ms: u64) {
        if welcome.heard == Cast::Broadcast {
            make_room(&mut self.hearers, sender, HEARERS_MAX, |(_, last_ms)| *last_ms);
            self.hearers.insert(sender.clone(), (welcome.name.clone(), now_ms));
        }
    }

    fn answer_hello(
        &mut self,
        sender: &PeerId,
        incarnation: u64,
        from: SocketAddr,
        length: usize,
        hello: &Hello,
        now_ms: u64,
    ) {
        if self.left {
            return;
        }
        if self.content.state == BeaconState::Member {
            let answers = hello.cast == Cast::Unicast || {
                let alive = self.swim.iter().flat_map(|(_, swim)| swim.active());
                self.questions.answers(&hello.nonce, &self.fixed.me, alive, now_ms)
            };
            if answers {
                let welcome = self.welcome(hello);
                self.answer(from, length, sender, Body::Welcome(welcome));
            }
        } else if hello.state != BeaconState::Member && self.is_new_seeker(sender, incarnation, now_ms) {
            let own = self.hello(Cast::Unicast);
            self.answer(from, length, sender, Body::Hello(own));
        }
    }

    fn is_new_seeker(&mut self, sender: &PeerId, incarnation: u64, now_ms: u64) -> bool {
        make_room(&mut self.seekers, sender, SEEKERS_MAX, |(_, last_ms)| *last_ms);
        let before = self.seekers.insert(sender.clone(), (incarnation, now_ms));
        before
            .is_none_or(|(known, last_ms)| known != incarnation || now_ms.saturating_sub(last_ms) > SEEKER_KNOWN_FOR_MS)
    }

    fn welcome(&self, hello: &Hello) -> Welcome {
        Welcome {
            nonce: hello.nonce,
            name: self.content.name.clone(),
            addresses: self.own_addresses(),
            mesh_port: self.content.mesh_port,
            http_port: self.content.http_port,
            hive_name: self.content.hive_name.clone(),
            member_count: self.content.member_count,
            founded: self.content.hive.is_some(),
            heard: hello.cast,
        }
    }

    /// Answers, but never with more bytes than were asked with: nobody can aim this node at another.
    fn answer(&mut self, to: SocketAddr, question_len: usize, peer: &PeerId, body: Body) {
        let kind = body.kind();
        if let Some(bytes) = self.seal(Some(peer.clone()), body) {
            if bytes.len() <= question_len {
                self.push(To::Address(to), kind, Some(peer), bytes);
            } else {
                tracing::debug!(length = bytes.len(), question_len, "an answer would be larger than its question");
            }
        }
    }
}
