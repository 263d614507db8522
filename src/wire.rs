//! What this node said and heard: a ring of records in memory, filled at the edges while the messages pass.
//!
//! ```text
//!   mesh streams ─ Tapped ─┐
//!   gossip, admission ─────┤
//!   datagrams ─────────────┼─► Wire::note ─► ring (numbers and bytes bounded) ◄─ agent: questions, exports, the disk
//!   HTTP ──────────────────┘
//! ```
//!
//! Looking costs whoever looks: a note copies the beginning of the message and a few numbers, and decoding, names and redaction happen
//! when somebody asks. All memory is taken at the start. What is very frequent is sampled by kind, a question together with its
//! answer. Raw bodies never leave this module's owner undecoded, but for datagrams, which were readable by everyone on the network
//! anyway. Never done here: deciding anything by what was seen, disks, other nodes.

mod ring;
mod tapped;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::ring::{Captured, Status};
use self::ring::{Ring, Slot};
pub use self::tapped::tap;
use crate::clock;
use crate::engine::id::PeerId;
use crate::engine::wire::Protocol;
use crate::engine::wire::frames::Word;

/// The beginning of a message that is kept, bytes.
pub const BODY_MAX: usize = 2 << 10;
/// Name of the protocol by which nodes ask each other for records; what is said over it is not noted.
pub const PROTOCOL: &str = "/hive/wire/1";

/// How much is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Records; 0: nothing is captured.
    pub records: usize,
    /// Bytes of bodies.
    pub body_bytes: usize,
    /// Kinds of which one in so many is kept, with its answers.
    pub sample: Vec<(String, u32)>,
}

/// A message, as an edge notes it.
#[derive(Clone, Copy, Debug)]
pub struct Note<'a> {
    /// By this node; else it was received.
    pub sent: bool,
    /// What is spoken.
    pub protocol: Protocol,
    /// Kind of message.
    pub kind: Word,
    /// The other end, when it is known who that is.
    pub peer: Option<&'a PeerId>,
    /// Its address, where the message shows one; none with `peer` none: everybody.
    pub address: Option<SocketAddr>,
    /// Length of the whole message.
    pub bytes: u64,
    /// Since its question, microseconds.
    pub latency_us: Option<u64>,
    /// What came of it.
    pub status: Status,
    /// `sent`, `taken`, or why it was refused.
    pub verdict: &'static str,
    /// See [`crate::engine::wire::frames::trace`].
    pub trace: u64,
    /// Its beginning; at most [`BODY_MAX`] bytes of it are kept.
    pub body: &'a [u8],
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages that were noted.
    pub noted: u64,
    /// Messages that were left out by sampling.
    pub left_out: u64,
    /// Records in memory.
    pub kept: usize,
    /// Bytes of bodies in memory.
    pub body_bytes: usize,
}

/// The ring's handle. Cheap to clone; one that is off takes nothing.
#[derive(Clone, Default)]
pub struct Wire(Option<Arc<Inner>>);

struct Inner {
    me: PeerId,
    ring: Mutex<Ring>,
    sample: Vec<(String, u32)>,
    noted: AtomicU64,
    left_out: AtomicU64,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_on() { "Wire(on)" } else { "Wire(off)" })
    }
}

impl Wire {
    /// A ring of this node. All its memory is taken now.
    pub fn new(me: PeerId, settings: &Settings) -> Self {
        if settings.records == 0 {
            return Self(None);
        }
        let sample = settings.sample.iter().map(|(kind, every)| (kind.clone(), (*every).max(1)));
        Self(Some(Arc::new(Inner {
            me,
            ring: Mutex::new(Ring::new(settings.records, settings.body_bytes)),
            sample: sample.collect(),
            noted: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        })))
    }

    /// Whether anything is kept. Edges ask before they prepare a note.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    fn me(&self) -> Option<&PeerId> {
        self.0.as_ref().map(|inner| &inner.me)
    }

    /// Whether a message of this kind is to be noted, told by its trace: so both ends note the same ones. Asked once for a question and its
    /// answers.
    pub fn wants(&self, kind: Word, trace: u64) -> bool {
        let Some(inner) = &self.0 else { return false };
        let row = inner.sample.iter().find(|(name, _)| is_named(kind, name));
        let wanted = row.is_none_or(|(_, every)| trace.is_multiple_of(u64::from(*every)));
        if !wanted {
            inner.left_out.fetch_add(1, Ordering::Relaxed);
        }
        wanted
    }

    /// Keeps a record. It takes the place of the oldest when there is no room.
    pub fn note(&self, note: &Note<'_>) {
        let Some(inner) = &self.0 else { return };
        inner.noted.fetch_add(1, Ordering::Relaxed);
        let body = note.body.get(..BODY_MAX.min(note.body.len())).unwrap_or_default();
        let slot = Slot {
            number: clock::unix_us(),
            sent: note.sent,
            protocol: note.protocol,
            kind: note.kind,
            peer: note.peer.cloned(),
            address: note.address,
            bytes: note.bytes,
            latency_us: note.latency_us,
            status: note.status,
            verdict: note.verdict,
            trace: note.trace,
            body_at: 0,
            body_len: 0,
        };
        self.ring(inner).push(slot, body);
    }

    fn ring<'a>(&self, inner: &'a Inner) -> MutexGuard<'a, Ring> {
        inner.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look<R: Default>(&self, look: impl FnOnce(&Ring) -> R) -> R {
        self.0.as_ref().map(|inner| look(&self.ring(inner))).unwrap_or_default()
    }

    /// The oldest records after this number, at most so many, oldest first.
    pub fn after(&self, number: u64, count: usize) -> Vec<Captured> {
        self.look(|ring| ring.after(number, count))
    }

    /// The newest records before this number, at most so many, newest first.
    pub fn before(&self, number: u64, count: usize) -> Vec<Captured> {
        self.look(|ring| ring.before(number, count))
    }

    /// One record.
    pub fn one(&self, number: u64) -> Option<Captured> {
        self.look(|ring| ring.one(number))
    }

    /// Numbers of the oldest and the newest record.
    pub fn bounds(&self) -> Option<(u64, u64)> {
        self.look(Ring::bounds)
    }

    /// Number and whether it was refused, of every record after this one: for counting, without bodies.
    pub fn marks(&self, after: u64) -> Vec<(u64, bool)> {
        self.look(|ring| ring.marks(after))
    }

    /// Totals since the start.
    pub fn totals(&self) -> Totals {
        let Some(inner) = &self.0 else { return Totals::default() };
        let (kept, body_bytes) = self.ring(inner).size();
        let (noted, left_out) = (inner.noted.load(Ordering::Relaxed), inner.left_out.load(Ordering::Relaxed));
        Totals { noted, left_out, kept, body_bytes }
    }
}

/// Whether a kind, as it stands in a message, is what people call so: `PreVote` is `PRE_VOTE`.
fn is_named(kind: Word, name: &str) -> bool {
    let mut letters = name.bytes().filter(|byte| *byte != b'_');
    let same = kind
        .as_str()
        .bytes()
        .filter(|byte| *byte != b'_')
        .all(|byte| letters.next() == Some(byte.to_ascii_uppercase()));
    same && letters.next().is_none()
}

/// Microseconds between two readings of [`clock::now_us`].
fn since_us(began_us: u64) -> u64 {
    clock::now_us().saturating_sub(began_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn wire(records: usize, body_bytes: usize, sample: &[(&str, u32)]) -> Wire {
        let sample = sample.iter().map(|(kind, every)| ((*kind).to_owned(), *every)).collect();
        Wire::new(PeerId::new("me"), &Settings { records, body_bytes, sample })
    }

    fn note(kind: &str, body: &'static [u8]) -> Note<'static> {
        Note {
            sent: true,
            protocol: Protocol::Control,
            kind: Word::new(kind),
            peer: None,
            address: None,
            bytes: body.len() as u64,
            latency_us: None,
            status: Status::None,
            verdict: "sent",
            trace: 1,
            body,
        }
    }

    #[test]
    fn numbers_and_bytes_are_bounded_and_numbers_rise() {
        let wire = wire(100, 1_000, &[]);
        static BODY: [u8; 30] = [7; 30];
        for _ in 0..1_000 {
            wire.note(&note("X", &BODY));
        }
        let totals = wire.totals();
        assert_eq!((totals.noted, totals.kept, totals.body_bytes), (1_000, 33, 990));
        let all = wire.after(0, 1_000);
        assert_eq!(all.len(), 33);
        assert!(all.windows(2).all(|pair| pair[0].number < pair[1].number));
        assert!(all.iter().all(|one| one.body == BODY));
        let newest = wire.before(u64::MAX, 5);
        assert_eq!(newest[0].number, all[32].number);
        assert_eq!(wire.one(all[3].number).map(|one| one.number), Some(all[3].number));
        assert_eq!(wire.bounds(), Some((all[0].number, all[32].number)));
        static LONG: [u8; 5_000] = [9; 5_000];
        wire.note(&note("Y", &LONG));
        assert_eq!(wire.totals().body_bytes, 1_000, "one body never takes more than there is");
    }

    #[test]
    fn one_in_so_many_is_wanted() {
        let wire = wire(10, 100, &[("PRE_VOTE", 4)]);
        let wanted = (0..20).filter(|trace| wire.wants(Word::new("PreVote"), *trace)).count();
        assert_eq!((wanted, wire.totals().left_out), (5, 15));
        assert!((0..20).all(|trace| wire.wants(Word::new("Vote"), trace)));
        // Traces are well mixed, also those of messages that differ by a number alone.
        let mixed = (0..4_000u64).map(|number| crate::engine::wire::frames::trace(&[b"x", &number.to_be_bytes()]));
        let wanted = mixed.filter(|trace| wire.wants(Word::new("PRE_VOTE"), *trace)).count();
        assert!((800..1_200).contains(&wanted), "{wanted} of 4,000");
    }

    #[test]
    fn one_that_is_off_keeps_nothing() {
        let wire = wire(0, 100, &[]);
        wire.note(&note("X", b"x"));
        assert!(!wire.is_on() && !wire.wants(Word::new("X"), 0) && wire.after(0, 10).is_empty());
        assert_eq!(wire.totals(), Totals::default());
    }
}
