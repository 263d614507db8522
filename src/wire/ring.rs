//! The ring itself: records in one queue, the beginnings of messages in another, both of a size that is fixed at the start.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::engine::id::PeerId;
use crate::engine::wire::Protocol;
use crate::engine::wire::frames::Word;

/// What came of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Nothing is known, or it is no answer.
    #[default]
    None,
    /// In one word.
    Word(&'static str),
    /// Of HTTP.
    Code(u16),
}

#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) number: u64,
    pub(super) sent: bool,
    pub(super) protocol: Protocol,
    pub(super) kind: Word,
    pub(super) peer: Option<PeerId>,
    pub(super) address: Option<SocketAddr>,
    pub(super) bytes: u64,
    pub(super) latency_us: Option<u64>,
    pub(super) status: Status,
    pub(super) verdict: &'static str,
    pub(super) trace: u64,
    /// Position of its body among all bytes that ever were in the ring.
    pub(super) body_at: u64,
    pub(super) body_len: usize,
}

/// A copy of one record.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Rises; the wall clock in microseconds, or one more than the last.
    pub number: u64,
    /// By this node.
    pub sent: bool,
    /// What was spoken.
    pub protocol: Protocol,
    /// Kind of message.
    pub kind: Word,
    /// The other end.
    pub peer: Option<PeerId>,
    /// Its address.
    pub address: Option<SocketAddr>,
    /// Length of the whole message.
    pub bytes: u64,
    /// Since its question, microseconds.
    pub latency_us: Option<u64>,
    /// What came of it.
    pub status: Status,
    /// `sent`, `taken`, or why it was refused.
    pub verdict: &'static str,
    /// Of the message and its answers.
    pub trace: u64,
    /// Its beginning.
    pub body: Vec<u8>,
}

pub(super) struct Ring {
    slots: VecDeque<Slot>,
    slots_max: usize,
    bytes: VecDeque<u8>,
    bytes_max: usize,
    /// Position of the first byte in `bytes`.
    first_at: u64,
}

impl Ring {
    pub(super) fn new(slots_max: usize, bytes_max: usize) -> Self {
        let (slots, bytes) = (VecDeque::with_capacity(slots_max), VecDeque::with_capacity(bytes_max));
        Self { slots, slots_max, bytes, bytes_max, first_at: 0 }
    }

    fn drop_oldest(&mut self) {
        if let Some(slot) = self.slots.pop_front() {
            let end = slot.body_at + slot.body_len as u64;
            let gone = usize::try_from(end.saturating_sub(self.first_at)).unwrap_or(usize::MAX);
            self.bytes.drain(..gone.min(self.bytes.len()));
            self.first_at = end;
        }
    }

    pub(super) fn push(&mut self, mut slot: Slot, body: &[u8]) {
        let body = body.get(..self.bytes_max.min(body.len())).unwrap_or_default();
        while self.slots.len() >= self.slots_max
            || (self.bytes.len() + body.len() > self.bytes_max && !self.slots.is_empty())
        {
            self.drop_oldest();
        }
        if let Some(last) = self.slots.back() {
            slot.number = slot.number.max(last.number + 1);
        }
        (slot.body_at, slot.body_len) = (self.first_at + self.bytes.len() as u64, body.len());
        self.bytes.extend(body);
        self.slots.push_back(slot);
    }

    fn captured(&self, slot: &Slot) -> Captured {
        let start = usize::try_from(slot.body_at - self.first_at).unwrap_or(usize::MAX);
        let body = self.bytes.range(start.min(self.bytes.len())..(start + slot.body_len).min(self.bytes.len()));
        Captured {
            number: slot.number,
            sent: slot.sent,
            protocol: slot.protocol,
            kind: slot.kind,
            peer: slot.peer.clone(),
            address: slot.address,
            bytes: slot.bytes,
            latency_us: slot.latency_us,
            status: slot.status,
            verdict: slot.verdict,
            trace: slot.trace,
            body: body.copied().collect(),
        }
    }

    pub(super) fn after(&self, number: u64, count: usize) -> Vec<Captured> {
        let from = self.slots.partition_point(|slot| slot.number <= number);
        self.slots.range(from..).take(count).map(|slot| self.captured(slot)).collect()
    }

    pub(super) fn before(&self, number: u64, count: usize) -> Vec<Captured> {
        let to = self.slots.partition_point(|slot| slot.number < number);
        self.slots.range(..to).rev().take(count).map(|slot| self.captured(slot)).collect()
    }

    pub(super) fn one(&self, number: u64) -> Option<Captured> {
        let at = self.slots.binary_search_by_key(&number, |slot| slot.number).ok()?;
        self.slots.get(at).map(|slot| self.captured(slot))
    }

    pub(super) fn bounds(&self) -> Option<(u64, u64)> {
        Some((self.slots.front()?.number, self.slots.back()?.number))
    }

    pub(super) fn marks(&self, after: u64) -> Vec<(u64, bool)> {
        let from = self.slots.partition_point(|slot| slot.number <= after);
        self.slots.range(from..).map(|slot| (slot.number, !matches!(slot.verdict, "sent" | "taken"))).collect()
    }

    pub(super) fn size(&self) -> (usize, usize) {
        (self.slots.len(), self.bytes.len())
    }
}
