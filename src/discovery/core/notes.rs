//! Notes of datagrams for whoever looks at the wire: every one that comes or goes, with what became of it.
//!
//! Never done here: judging; the verdicts are those by which datagrams are counted.

use std::net::SocketAddr;

use super::super::{v1, wire};
use super::{Core, To};
use crate::clock;
use crate::engine::beacon::refusals::Reason;
use crate::engine::id::PeerId;
use crate::engine::wire::Protocol;
use crate::engine::wire::frames::{Word, trace};
use crate::wire::{Note, Status};

/// Clocks that differ by more are worth an operator's attention, milliseconds.
const SKEW_MS: u64 = 30_000;

/// What a datagram turned out to be when it was opened.
pub(super) struct Opened {
    protocol: Protocol,
    kind: Word,
    sender: Option<PeerId>,
    /// Its clock differs from ours by more than [`SKEW_MS`]. It is taken all the same: no clock of another machine decides anything.
    skewed: bool,
}

impl Opened {
    pub(super) fn of(datagram: &wire::Datagram) -> Self {
        let kind = datagram.body.kind();
        let skewed = datagram.sent_at.0.abs_diff(clock::unix_now().0) > SKEW_MS;
        Self { protocol: protocol_of(kind), kind: Word::new(kind), sender: Some(datagram.sender.clone()), skewed }
    }

    pub(super) fn v1(message: &v1::Message) -> Self {
        Self { protocol: Protocol::V1, kind: Word::new(message.kind.as_str()), sender: None, skewed: false }
    }
}

fn protocol_of(kind: &str) -> Protocol {
    if matches!(kind, "HELLO" | "WELCOME") { Protocol::Beacon } else { Protocol::Swim }
}

/// What can be said of a datagram that could not be opened.
fn unopened(bytes: &[u8]) -> Protocol {
    if v1::looks_like(bytes) {
        Protocol::V1
    } else if wire::key_id(bytes).is_some() {
        Protocol::Beacon
    } else {
        Protocol::Datagram
    }
}

impl Core {
    pub(super) fn note_sent(&self, to: To, kind: &str, peer: Option<&PeerId>, bytes: &[u8]) {
        let (wire, kind) = (&self.fixed.wire, Word::new(kind));
        let trace = trace(&[b"datagram", bytes]);
        if !wire.is_on() || !wire.wants(kind, trace) {
            return;
        }
        let address = match to {
            To::Address(address) => Some(address),
            To::Everybody | To::LegacyEverybody => None,
        };
        wire.note(&Note {
            sent: true,
            protocol: if v1::looks_like(bytes) { Protocol::V1 } else { protocol_of(kind.as_str()) },
            kind,
            peer,
            address,
            bytes: bytes.len() as u64,
            latency_us: None,
            status: Status::None,
            verdict: "sent",
            trace,
            body: bytes,
        });
    }

    /// What was refused is never left out.
    pub(super) fn note_received(&mut self, from: SocketAddr, bytes: &[u8], refused: Option<Reason>) {
        let opened = self.opened.take();
        let wire = &self.fixed.wire;
        let skewed = opened.as_ref().is_some_and(|opened| opened.skewed);
        let kind = opened.as_ref().map_or_else(|| Word::new("?"), |opened| opened.kind);
        // Our own broadcasts come back to us.
        let own = opened.as_ref().is_some_and(|opened| opened.sender.as_ref() == Some(&self.fixed.me));
        let trace = trace(&[b"datagram", bytes]);
        if !wire.is_on() || own || (refused.is_none() && !wire.wants(kind, trace)) {
            return;
        }
        wire.note(&Note {
            sent: false,
            protocol: opened.as_ref().map_or_else(|| unopened(bytes), |opened| opened.protocol),
            kind,
            peer: opened.as_ref().and_then(|opened| opened.sender.as_ref()),
            address: Some(from),
            bytes: bytes.len() as u64,
            latency_us: None,
            status: if skewed { Status::Word("clock_skew") } else { Status::None },
            verdict: refused.map_or("taken", Reason::as_str),
            trace,
            body: bytes,
        });
    }
}
