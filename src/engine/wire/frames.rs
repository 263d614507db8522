//! Messages out of the bytes of a mesh stream, and what kind of message each is, told by its first bytes.
//!
//! Every protocol of hive speaks in frames (4 bytes of length, then CBOR), some send bare bytes after one of them. A [`Scan`] follows one
//! direction of a stream, keeps the beginning of each frame and counts the rest. Kinds are names of variants, read without decoding
//! the message: it happens for every message that passes. Never done here: refusing anything.

use super::Protocol;
use super::cbor::Cursor;

/// Longest frame of any protocol; what claims to be longer is no frame.
const FRAME_MAX: u64 = 8 << 20;

/// A short word, kept without allocating.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Word {
    bytes: [u8; 23],
    length: u8,
}

impl Word {
    /// The first 23 bytes of a text, cut between characters.
    pub fn new(text: &str) -> Self {
        let mut end = text.len().min(23);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut bytes = [0; 23];
        for (to, from) in bytes.iter_mut().zip(text.as_bytes().iter().take(end)) {
            *to = *from;
        }
        Self { bytes, length: u8::try_from(end).unwrap_or(0) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.bytes.get(..usize::from(self.length)).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("")
    }

    /// As people see it: `PreVote` is `PRE_VOTE`; what cannot be a name is `?`.
    pub fn shown(&self) -> String {
        let mut out = String::with_capacity(usize::from(self.length) + 4);
        let mut before_lower = false;
        for c in self.as_str().chars() {
            if !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) {
                return "?".to_owned();
            }
            if c.is_ascii_uppercase() && before_lower {
                out.push('_');
            }
            before_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
            out.push(c.to_ascii_uppercase());
        }
        if out.is_empty() { "?".to_owned() } else { out }
    }
}

impl std::fmt::Debug for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

/// A frame that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed<'a> {
    /// The beginning of its body.
    pub body: &'a [u8],
    /// Length with the four bytes in front.
    pub bytes: u64,
}

/// One direction of a stream.
#[derive(Debug)]
pub struct Scan {
    head: [u8; 4],
    head_len: usize,
    length: u64,
    left: u64,
    kept: Vec<u8>,
    keep_max: usize,
    bare: Option<u64>,
}

impl Scan {
    /// Keeps at most so many bytes of each frame.
    pub fn new(keep_max: usize) -> Self {
        Self { head: [0; 4], head_len: 0, length: 0, left: 0, kept: Vec::new(), keep_max, bare: None }
    }

    /// Bytes that follow are no frames; they are counted alone.
    pub fn bare_from_here(&mut self) {
        self.bare.get_or_insert(0);
    }

    /// Bytes since they are no frames; none while they are.
    pub fn bare_bytes(&self) -> Option<u64> {
        self.bare
    }

    /// Takes the next bytes and hands out each frame that ends in them. `take` says whether bare bytes follow it.
    pub fn feed(&mut self, mut bytes: &[u8], mut take: impl FnMut(Passed<'_>) -> bool) {
        while !bytes.is_empty() {
            if let Some(bare) = &mut self.bare {
                *bare += bytes.len() as u64;
                return;
            }
            if self.head_len < 4 {
                let count = bytes.len().min(4 - self.head_len);
                let (taken, rest) = bytes.split_at(count);
                for (to, from) in self.head.iter_mut().skip(self.head_len).zip(taken) {
                    *to = *from;
                }
                (self.head_len, bytes) = (self.head_len + count, rest);
                if self.head_len < 4 {
                    return;
                }
                self.length = u64::from(u32::from_be_bytes(self.head));
                (self.left, self.kept) = (self.length, std::mem::take(&mut self.kept));
                self.kept.clear();
                if self.length > FRAME_MAX {
                    self.bare = Some(4);
                    continue;
                }
            }
            let count = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let (taken, rest) = bytes.split_at(count);
            let room = self.keep_max.saturating_sub(self.kept.len());
            self.kept.extend_from_slice(taken.get(..room.min(taken.len())).unwrap_or_default());
            (self.left, bytes) = (self.left - count as u64, rest);
            if self.left == 0 {
                self.head_len = 0;
                if take(Passed { body: &self.kept, bytes: self.length + 4 }) {
                    self.bare = Some(0);
                }
            }
        }
    }
}

/// Several calls may share a stream: each frame has a number then, the same in question and answer.
pub fn shares_stream(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Raft | Protocol::Propose | Protocol::Control)
}

/// Number and content of a frame of a shared stream.
pub fn numbered(body: &[u8]) -> Option<(u64, &[u8])> {
    let mut cursor = Cursor::new(body);
    if cursor.map()? != 2 || cursor.text()? != "id" {
        return None;
    }
    let number = cursor.number()?;
    (cursor.text()? == "body").then(|| cursor.bytes()).flatten().map(|content| (number, content))
}

/// The variant of an enum, as serde writes one.
fn variant<'a>(cursor: &mut Cursor<'a>) -> Option<&'a str> {
    let mut unit = *cursor;
    if let Some(name) = unit.text() {
        return is_variant(name).then_some(name);
    }
    if cursor.map()? != 1 {
        return None;
    }
    cursor.text().filter(|name| is_variant(name))
}

fn is_variant(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
}

/// What kind of message this is. `asks`: it goes from whoever opened the stream to the other end.
pub fn kind(protocol: Protocol, content: &[u8], asks: bool) -> Word {
    Word::new(named(protocol, content, asks).unwrap_or("?"))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "most protocols speak in variants alone")]
fn named(protocol: Protocol, content: &[u8], asks: bool) -> Option<&str> {
    if protocol == Protocol::Facts {
        return Some("FACTS");
    }
    let mut whole = Cursor::new(content);
    if let Some(name) = variant(&mut whole) {
        return Some(name);
    }
    let inside = |key| Cursor::new(content).value_of(key);
    match protocol {
        Protocol::Raft if asks => {
            let mut body = inside("body")?;
            let name = variant(&mut body)?;
            let empty = || body.value_of("entries").and_then(|mut entries| entries.array()) == Some(0);
            Some(if name == "Append" && empty() { "Heartbeat" } else { name })
        }
        Protocol::Propose => Some(if asks { "Propose" } else { "Proposed" }),
        Protocol::Loglook if asks => variant(&mut inside("question")?),
        Protocol::Buildlog if asks => Some("Follow"),
        Protocol::Snapshot => {
            let named = [("vote", "Offer"), ("bytes", "Chunk"), ("offset", "Resume")];
            named.into_iter().find(|(key, _)| inside(key).is_some()).map(|(_, name)| name)
        }
        _ => None,
    }
}

/// Whether bare bytes follow this frame to its end of the stream.
pub fn bare_follows(protocol: Protocol, kind: &str) -> bool {
    protocol == Protocol::Blob && kind == "Bytes"
}

/// What came of a question, told by the kind of its answer.
pub fn status(kind: &str) -> &'static str {
    match kind {
        "Refused" => "refused",
        "Busy" => "busy",
        "NotFound" | "NotStaged" | "Unknown" => "not_found",
        "Failed" => "failed",
        "Invalid" => "invalid",
        "Conflict" | "Differs" => "conflict",
        "HigherVote" => "higher_vote",
        "Redirect" => "redirect",
        _ => "ok",
    }
}

/// Names a message so that both its ends have the same name for it: a mix of both ends, the protocol and the message's beginning. Not
/// for anything that somebody could want to forge.
pub fn trace(parts: &[&[u8]]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut sum = FACTOR;
    for part in parts {
        sum = (sum ^ part.len() as u64).wrapping_mul(FACTOR).rotate_left(29);
        for piece in part.chunks(8) {
            let word = piece.iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
            sum = (sum ^ word).wrapping_mul(FACTOR);
            sum ^= sum >> 32;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn encoded(value: &serde_json::Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes).expect("encodes");
        bytes
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(body.len()).expect("short").to_be_bytes().to_vec();
        frame.extend(body);
        frame
    }

    #[test]
    fn kinds_are_told_by_the_first_bytes() {
        let told = |protocol, value: serde_json::Value, asks| kind(protocol, &encoded(&value), asks).shown();
        assert_eq!(told(Protocol::Control, json!({ "KeepBlob": { "size": 1 } }), true), "KEEP_BLOB");
        assert_eq!(told(Protocol::Control, json!("LogEnd"), true), "LOG_END");
        let append = |entries: serde_json::Value| json!({ "from": 1, "to": 2, "body": { "Append": { "vote": {}, "entries": entries } } });
        assert_eq!(told(Protocol::Raft, append(json!([])), true), "HEARTBEAT");
        assert_eq!(told(Protocol::Raft, append(json!([1])), true), "APPEND");
        assert_eq!(told(Protocol::Raft, json!("Appended"), false), "APPENDED");
        assert_eq!(told(Protocol::Propose, json!({ "proposals": [] }), true), "PROPOSE");
        assert_eq!(told(Protocol::Loglook, json!({ "job": 1, "attempt": 1, "question": "Phases" }), true), "PHASES");
        assert_eq!(told(Protocol::Control, json!(["x"]), true), "?");
        assert_eq!(Word::new("A\u{1b}[2J").shown(), "?");
        assert_eq!(Word::new(&"Ö".repeat(20)).as_str(), "Ö".repeat(11));
    }

    #[test]
    fn numbered_frames_give_their_content() {
        #[derive(serde::Serialize)]
        struct Numbered<'a> {
            id: u64,
            body: &'a serde_bytes::Bytes,
        }
        let mut bytes = Vec::new();
        ciborium::into_writer(&Numbered { id: 700, body: serde_bytes::Bytes::new(b"abc") }, &mut bytes)
            .expect("encodes");
        assert_eq!(numbered(&bytes), Some((700, &b"abc"[..])));
        assert_eq!(
            numbered(&bytes[..bytes.len() - 1]),
            Some((700, &b"ab"[..])),
            "of a long one the beginning was kept"
        );
        assert_eq!(numbered(b"x"), None);
    }

    #[test]
    fn traces_depend_on_every_part() {
        let one = trace(&[b"a", b"bc"]);
        assert_eq!(one, trace(&[b"a", b"bc"]));
        assert_ne!(one, trace(&[b"ab", b"c"]));
        assert_ne!(one, trace(&[b"a", b"bd"]));
    }

    #[test]
    fn bare_bytes_and_nonsense_are_counted_alone() {
        let mut scan = Scan::new(100);
        let mut bytes = framed(b"head");
        bytes.extend([7; 500]);
        let mut seen = 0;
        scan.feed(&bytes, |_| {
            seen += 1;
            true
        });
        assert_eq!((seen, scan.bare_bytes()), (1, Some(500)));
        let mut scan = Scan::new(100);
        scan.feed(&[0xff; 10], |_| panic!("no frame"));
        assert_eq!(scan.bare_bytes(), Some(10));
    }

    proptest! {
        /// However the bytes are cut into pieces, the same frames come out, and never more than was allowed is kept.
        #[test]
        fn frames_come_out_as_they_went_in(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..8),
            step in 1usize..20,
        ) {
            let bytes: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
            let mut scan = Scan::new(16);
            let mut seen = Vec::new();
            for piece in bytes.chunks(step) {
                scan.feed(piece, |passed| { seen.push((passed.body.to_vec(), passed.bytes)); false });
            }
            // A frame of no length ends with its head.
            let expected: Vec<_> = bodies.iter().map(|body| (body[..body.len().min(16)].to_vec(), body.len() as u64 + 4)).collect();
            let empty_at_end = bodies.last().is_some_and(Vec::is_empty);
            let count = expected.len() - usize::from(empty_at_end && seen.len() < expected.len());
            prop_assert_eq!(&seen[..], &expected[..count]);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), asks: bool) {
            for protocol in Protocol::ALL {
                kind(protocol, &bytes, asks).shown();
            }
            numbered(&bytes);
            Scan::new(16).feed(&bytes, |_| false);
        }
    }
}
