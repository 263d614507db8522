//! Reads CBOR as people look at it: whatever is there, also of a message of which only the beginning was kept.
//!
//! Typed decoders refuse what is cut, so they cannot serve here. This one gives a JSON value of what it could read, marks where it had to
//! stop, and looks into byte strings that hold CBOR themselves, as proposals and log entries do. Depth, number of values and length of
//! texts are bounded. Never done here: deciding anything by what was read.

use serde_json::{Map, Value};
use uuid::Uuid;

/// Deepest nesting that is shown.
const DEPTH_MAX: usize = 40;
/// Most values of one message.
const VALUES_MAX: usize = 4_000;
/// Longest text that is shown, characters.
const TEXT_MAX: usize = 400;
/// Longest byte string that is shown in hexadecimal; longer ones are told by their length.
const HEX_MAX: usize = 32;
/// Stands where the kept part of a message ends.
pub const CUT: &str = "…";

/// Reads one item after the other, without looking at what is not asked for.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

/// First byte of an item with its argument; none for an indefinite length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    major: u8,
    info: u8,
    argument: Option<u64>,
}

impl<'a> Cursor<'a> {
    /// At the first item of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn head(&mut self) -> Option<Head> {
        let first = *self.take(1)?.first()?;
        let (major, info) = (first >> 5, first & 31);
        let argument = match info {
            0..24 => Some(u64::from(info)),
            24..28 => {
                let bytes = self.take(1 << (info - 24))?;
                Some(bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte)))
            }
            31 => None,
            _ => return None,
        };
        Some(Head { major, info, argument })
    }

    /// The next item as an unsigned number.
    pub fn number(&mut self) -> Option<u64> {
        let head = self.head()?;
        (head.major == 0).then_some(head.argument).flatten()
    }

    /// The next item as text.
    pub fn text(&mut self) -> Option<&'a str> {
        let head = self.head()?;
        let length = usize::try_from(head.argument.filter(|_| head.major == 3)?).ok()?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    /// The next item as bytes; what there is of them.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let head = self.head()?;
        let length = usize::try_from(head.argument.filter(|_| head.major == 2)?).ok()?;
        self.take(length.min(self.rest.len()))
    }

    /// Enters a map: its number of entries.
    pub fn map(&mut self) -> Option<u64> {
        let head = self.head()?;
        head.argument.filter(|_| head.major == 5)
    }

    /// Enters an array: its number of items.
    pub fn array(&mut self) -> Option<u64> {
        let head = self.head()?;
        head.argument.filter(|_| head.major == 4)
    }

    /// Passes one item with all that is in it. None when it is not there as a whole.
    pub fn skip(&mut self) -> Option<()> {
        let mut left = 1u64;
        while left > 0 {
            left -= 1;
            let head = self.head()?;
            let argument = head.argument?;
            match head.major {
                2 | 3 => {
                    self.take(usize::try_from(argument).ok()?)?;
                }
                // What has more items than bytes are left is not there as a whole.
                4 => left = left.checked_add(argument.min(1 << 32))?,
                5 => left = left.checked_add(argument.min(1 << 32) * 2)?,
                6 => left += 1,
                _ => {}
            }
        }
        Some(())
    }

    /// At the value of this key of a map.
    pub fn value_of(mut self, key: &str) -> Option<Self> {
        for _ in 0..self.map()?.min(64) {
            if self.text()? == key {
                return Some(self);
            }
            self.skip()?;
        }
        None
    }
}

/// Reads what is there of one item.
pub fn read(bytes: &[u8]) -> Value {
    let mut reader = Reader { cursor: Cursor::new(bytes), values: 0, cut: false };
    reader.item("", 0)
}

struct Reader<'a> {
    cursor: Cursor<'a>,
    values: usize,
    cut: bool,
}

impl Reader<'_> {
    fn cut(&mut self) -> Value {
        self.cut = true;
        Value::from(CUT)
    }

    fn item(&mut self, key: &str, depth: usize) -> Value {
        self.values += 1;
        if depth > DEPTH_MAX || self.values > VALUES_MAX {
            return self.cut();
        }
        let Some(head) = self.cursor.head() else { return self.cut() };
        match (head.major, head.argument) {
            (0, Some(number)) => Value::from(number),
            (1, Some(number)) => i64::try_from(number).map_or(Value::from(CUT), |number| Value::from(-1 - number)),
            (2, Some(length)) => self.bytes(key, length, depth),
            (3, Some(length)) => self.text(length),
            (4, length) => self.array(key, length, depth),
            (5, length) => self.map(length, depth),
            (6, Some(_)) => self.item(key, depth + 1),
            (7, argument) => simple(head.info, argument),
            _ => self.cut(),
        }
    }

    /// What there is of a string, and whether that is all of it.
    fn string(&mut self, length: u64) -> (&[u8], bool) {
        let wanted = usize::try_from(length).unwrap_or(usize::MAX);
        let there = wanted.min(self.cursor.rest.len());
        self.cut |= there < wanted;
        (self.cursor.take(there).unwrap_or_default(), there == wanted)
    }

    fn text(&mut self, length: u64) -> Value {
        let (bytes, whole) = self.string(length);
        let text = String::from_utf8_lossy(bytes);
        let mut shown: String = text.chars().take(TEXT_MAX).collect();
        if !whole || shown.len() < text.len() {
            shown.push_str(CUT);
        }
        Value::from(shown)
    }

    fn bytes(&mut self, key: &str, length: u64, depth: usize) -> Value {
        let (bytes, whole) = self.string(length);
        let bytes = bytes.to_vec();
        // A version may stand in front of what is nested.
        let nested =
            [bytes.as_slice(), bytes.get(1..).unwrap_or_default()].into_iter().zip([true, bytes.first() == Some(&1)]);
        for (inside, plausible) in nested {
            let structured = inside.first().is_some_and(|first| matches!(first >> 5, 4 | 5)) && inside.len() > 2;
            if plausible && structured {
                let mut inner = Reader { cursor: Cursor::new(inside), values: self.values, cut: false };
                let value = inner.item(key, depth + 1);
                if inner.cursor.rest.is_empty() && (!inner.cut || !whole) {
                    self.values = inner.values;
                    return value;
                }
            }
        }
        let shown = match bytes.len() {
            16 if is_uuid(key) => Uuid::from_slice(&bytes).map(|uuid| uuid.to_string()).unwrap_or_default(),
            0..=HEX_MAX if whole => hex::encode(&bytes),
            _ => format!("({length} bytes)"),
        };
        Value::from(shown)
    }

    fn array(&mut self, key: &str, length: Option<u64>, depth: usize) -> Value {
        let mut items = Vec::new();
        while length.is_none_or(|length| (items.len() as u64) < length) && !self.ends(length) {
            items.push(self.item(key, depth + 1));
            if self.cut {
                break;
            }
        }
        Value::Array(items)
    }

    fn map(&mut self, length: Option<u64>, depth: usize) -> Value {
        let mut entries = Map::new();
        let mut count = 0u64;
        while length.is_none_or(|length| count < length) && !self.ends(length) {
            count += 1;
            let key = self.item("", depth + 1);
            let key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
            if self.cut {
                entries.insert(CUT.to_owned(), Value::Null);
                break;
            }
            let value = self.item(&key, depth + 1);
            entries.insert(key, value);
            if self.cut {
                break;
            }
        }
        Value::Object(entries)
    }

    /// Whether the end mark of an indefinite length stands here.
    fn ends(&mut self, length: Option<u64>) -> bool {
        let ends = length.is_none() && self.cursor.rest.first() == Some(&0xff);
        if ends {
            self.cursor.take(1);
        }
        ends
    }
}

fn simple(info: u8, argument: Option<u64>) -> Value {
    match (info, argument) {
        (20, _) => Value::from(false),
        (21, _) => Value::from(true),
        (25, Some(bits)) => Value::from(half(bits)),
        (26, Some(bits)) => Value::from(f64::from(f32::from_bits(u32::try_from(bits).unwrap_or(0)))),
        (27, Some(bits)) => Value::from(f64::from_bits(bits)),
        _ => Value::Null,
    }
}

/// A number of 16 bits; shorter ones are written so where nothing is lost.
fn half(bits: u64) -> f64 {
    let (exponent, fraction) =
        (i32::try_from(bits >> 10 & 31).unwrap_or(0), f64::from(u16::try_from(bits & 0x3ff).unwrap_or(0)));
    let size = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    };
    if bits & 0x8000 == 0 { size } else { -size }
}

/// Ids of 16 bytes that people know in the form of a UUID.
fn is_uuid(key: &str) -> bool {
    matches!(key, "job" | "jobs" | "session" | "sessions" | "id" | "depends_on" | "draft")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Serialize;
    use serde_json::json;

    use super::*;
    use crate::engine::command::{Batch, Command, Origin, Proposal};
    use crate::engine::id::{JobId, PeerId, UnixMillis};

    fn encoded(value: &impl Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes).expect("encodes");
        bytes
    }

    fn batch() -> (Vec<u8>, String) {
        let job = JobId(Uuid::from_u128(0x018f_3c2e_7a11_7c3e_9d53_0242_ac12_0002));
        let origin = Origin { peer_id: PeerId::new("a"), incarnation: 1, sequence: 2 };
        let command = Command::Assign { job, node: PeerId::new("b") };
        let proposals = vec![Proposal::new(origin, &command)];
        (encoded(&Batch { version: 1, elapsed_ms: 3, at: UnixMillis(4), proposals }), job.to_string())
    }

    #[test]
    fn commands_inside_byte_strings_are_read() {
        let (batch, job) = batch();
        let mut payload = vec![1];
        payload.extend(encoded(&json!({ "Batch": "x" })));
        assert_eq!(read(&encoded(&serde_bytes::Bytes::new(&payload))), json!({ "Batch": "x" }));
        let seen = read(&encoded(&serde_bytes::Bytes::new(&batch)));
        assert_eq!(seen["proposals"][0]["command"]["Assign"], json!({ "job": job, "node": "b" }), "{seen}");
        assert_eq!(seen["elapsed_ms"], 3);
    }

    #[test]
    fn what_is_cut_is_read_up_to_there() {
        let whole = encoded(&json!({ "first": [1, 2], "second": "a long text", "third": true }));
        let seen = read(&whole[..whole.len() - 12]);
        assert_eq!(seen["first"], json!([1, 2]));
        assert!(seen["second"].as_str().is_some_and(|text| text.starts_with("a lo") && text.ends_with(CUT)), "{seen}");
        assert!(seen.get("third").is_none());
        assert_eq!(read(&[]), json!(CUT));
    }

    #[test]
    fn numbers_texts_and_bytes_have_their_forms() {
        assert_eq!(read(&encoded(&json!([-5, 1.5, null, false]))), json!([-5, 1.5, null, false]));
        assert_eq!(read(&encoded(&serde_bytes::Bytes::new(&[0xab; 4]))), json!("abababab"));
        assert_eq!(read(&encoded(&serde_bytes::Bytes::new(&[0xab; 400]))), json!("(400 bytes)"));
        let long = read(&encoded(&"x".repeat(1_000)));
        assert_eq!(long.as_str().map(|text| text.chars().count()), Some(TEXT_MAX + 1));
    }

    #[test]
    fn a_cursor_finds_keys_without_reading_values() {
        let bytes = encoded(&json!({ "from": 1, "big": [[1, 2], { "x": "y" }], "body": { "Vote": 3 } }));
        let mut body = Cursor::new(&bytes).value_of("body").expect("there");
        assert_eq!((body.map(), body.text()), (Some(1), Some("Vote")));
        assert!(Cursor::new(&bytes).value_of("absent").is_none());
    }

    #[test]
    fn depth_is_bounded() {
        let mut deep = vec![0x81; 100_000];
        deep.push(1);
        read(&deep);
        assert!(Cursor::new(&[0x9b, 255, 255, 255, 255, 255, 255, 255, 255]).skip().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            read(&bytes);
            let _ = Cursor::new(&bytes).skip();
            let _ = Cursor::new(&bytes).value_of("x");
        }

        #[test]
        fn no_cut_makes_it_panic(at in 0usize..200) {
            let (bytes, _) = batch();
            read(&bytes[..at.min(bytes.len())]);
        }
    }
}
