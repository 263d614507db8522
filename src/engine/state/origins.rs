//! Recognising retries: a window of the last replies per proposing node.
//!
//! A node numbers its proposals; when it gets no answer it sends the same number again, and gets the first reply. A higher
//! incarnation starts a new window. What is older than the window is refused, never executed a second time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::rows::RowKey;
use super::{Context, Reject, State};
use crate::engine::command::{Origin, RejectCode, Reply};
use crate::engine::id::{PEER_ID_MAX_LEN, PeerId};

/// Replies kept per node: more than a node may have in flight (one batch of 256, pipelined four deep).
pub const WINDOW: u64 = 1_024;
/// Nodes whose replies are kept. Twice the members there can be; the one unused for longest makes room.
const ORIGINS_MAX: usize = 2_048;

/// What is known of a node's proposals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OriginHead {
    pub(super) incarnation: u64,
    /// Highest sequence number seen.
    pub(super) highest: u64,
    /// Log index at which it was last used.
    pub(super) last_index: u64,
}

/// A reply, by the sequence number it answered. `None` stands for [`Reply::Done`], by far the most frequent, so that a full
/// window costs 16 bytes an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    sequence: u64,
    reply: Option<Box<Reply>>,
}

#[derive(Clone, Debug, Default)]
struct Window {
    /// None only while rows are being loaded.
    head: Option<OriginHead>,
    slots: BTreeMap<u16, Slot>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Origins {
    windows: BTreeMap<PeerId, Window>,
}

/// Whether a proposal was answered before.
pub(super) enum Seen {
    Never,
    Before(Reply),
    Refused(Reject),
}

fn slot_of(sequence: u64) -> u16 {
    u16::try_from(sequence % WINDOW).unwrap_or_default()
}

impl Origins {
    pub(super) fn look_up(&self, origin: &Origin) -> Seen {
        let refused = |code, message: &str| Seen::Refused(Reject { code, message: message.to_owned() });
        let name = origin.peer_id.as_str();
        if name.is_empty() || name.len() > PEER_ID_MAX_LEN || name.contains('\0') || origin.sequence == 0 {
            return refused(RejectCode::Invalid, "the origin of the proposal is malformed");
        }
        let Some(window) = self.windows.get(&origin.peer_id) else { return Seen::Never };
        let Some(head) = &window.head else { return Seen::Never };
        if origin.incarnation > head.incarnation {
            return Seen::Never;
        }
        if origin.incarnation < head.incarnation {
            return refused(RejectCode::TooOld, "a later start of this node has proposed since");
        }
        if origin.sequence.saturating_add(WINDOW) <= head.highest {
            return refused(RejectCode::TooOld, "the proposal is older than the replies that are kept");
        }
        match window.slots.get(&slot_of(origin.sequence)) {
            Some(slot) if slot.sequence == origin.sequence => {
                Seen::Before(slot.reply.as_deref().cloned().unwrap_or(Reply::Done))
            }
            Some(_) | None => Seen::Never,
        }
    }

    pub(super) fn head(&self, peer: &PeerId) -> Option<&OriginHead> {
        self.windows.get(peer)?.head.as_ref()
    }

    pub(super) fn slot(&self, peer: &PeerId, slot: u16) -> Option<&Slot> {
        self.windows.get(peer)?.slots.get(&slot)
    }

    pub(super) fn row_keys(&self) -> impl Iterator<Item = RowKey> {
        self.windows.iter().flat_map(|(peer, window)| {
            let slots = window.slots.keys().map(|slot| RowKey::Reply(peer.clone(), *slot));
            std::iter::once(RowKey::Origin(peer.clone())).chain(slots)
        })
    }

    pub(super) fn load_head(&mut self, peer: PeerId, head: OriginHead) {
        self.windows.entry(peer).or_default().head = Some(head);
    }

    pub(super) fn load_slot(&mut self, peer: PeerId, slot: u16, value: Slot) {
        self.windows.entry(peer).or_default().slots.insert(slot, value);
    }
}

impl State {
    /// Keeps a reply under its origin, which `look_up` has found to be new.
    pub(super) fn remember_reply(&mut self, context: Context, origin: &Origin, reply: &Reply) {
        let peer = &origin.peer_id;
        if !self.origins.windows.contains_key(peer) && self.origins.windows.len() >= ORIGINS_MAX {
            self.forget_one_origin();
        }
        let window = self.origins.windows.entry(peer.clone()).or_default();
        let restarted = window.head.as_ref().is_some_and(|head| head.incarnation < origin.incarnation);
        if restarted {
            self.dirty.extend(window.slots.keys().map(|slot| RowKey::Reply(peer.clone(), *slot)));
            window.slots.clear();
        }
        let before = window.head.as_ref().filter(|_| !restarted).map_or(0, |head| head.highest);
        window.head = Some(OriginHead {
            incarnation: origin.incarnation,
            highest: before.max(origin.sequence),
            last_index: context.index,
        });
        let kept = if *reply == Reply::Done { None } else { Some(Box::new(reply.clone())) };
        let slot = slot_of(origin.sequence);
        window.slots.insert(slot, Slot { sequence: origin.sequence, reply: kept });
        self.dirty.insert(RowKey::Origin(peer.clone()));
        self.dirty.insert(RowKey::Reply(peer.clone(), slot));
    }

    /// Makes room: strangers before members, then whoever has been silent for longest.
    fn forget_one_origin(&mut self) {
        let rank = |(peer, window): &(&PeerId, &Window)| {
            let present = self.members.get(peer).is_some_and(|member| !member.left);
            (present, window.head.as_ref().map_or(0, |head| head.last_index), (*peer).clone())
        };
        let Some((_, _, oldest)) = self.origins.windows.iter().map(|entry| rank(&entry)).min() else { return };
        if let Some(window) = self.origins.windows.remove(&oldest) {
            self.dirty.extend(window.slots.keys().map(|slot| RowKey::Reply(oldest.clone(), *slot)));
            self.dirty.insert(RowKey::Origin(oldest));
        }
    }
}
