//! The names of things: nodes, hives, epochs, jobs, tokens and points in time.
//!
//! Each is a type of its own, so that a job id cannot be passed where a session id is meant. All of them have one
//! textual form, used alike in JSON, in logs and on the command line.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// A node's public identity: the multihash of its Ed25519 key in base58, as libp2p prints it (`12D3KooW…`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeerId(String);

/// Longest textual PeerId accepted from anywhere (an Ed25519 one has 52 characters).
pub const PEER_ID_MAX_LEN: usize = 64;

impl PeerId {
    /// Takes a textual peer id. Whoever creates one from outside input has parsed it as a multihash before.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The base58 text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last eight characters: enough to tell nodes of one hive apart in a log line.
    pub fn short(&self) -> &str {
        let start = self.0.len().saturating_sub(8);
        self.0.get(start..).unwrap_or(&self.0)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId(…{})", self.short())
    }
}

/// Text that is not the hexadecimal or UUID form that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {got:?}")]
pub struct ParseIdError {
    /// What would have been accepted.
    pub expected: &'static str,
    /// What was given, cut to 80 characters.
    pub got: String,
}

impl ParseIdError {
    fn new(expected: &'static str, got: &str) -> Self {
        Self { expected, got: got.chars().take(80).collect() }
    }
}

/// Takes hexadecimal text or a byte string of exactly `N` bytes.
///
/// Both are always accepted: inside an internally tagged enum serde buffers the value and forgets whether the format is
/// human-readable, so asking the format would refuse in CBOR what was written in CBOR.
fn deserialize_fixed<'de, const N: usize, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; N], D::Error> {
    struct Fixed<const N: usize>;

    impl<const N: usize> de::Visitor<'_> for Fixed<N> {
        type Value = [u8; N];

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} hexadecimal digits or {N} bytes", 2 * N)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<[u8; N], E> {
            let mut bytes = [0u8; N];
            hex::decode_to_slice(text, &mut bytes).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))?;
            Ok(bytes)
        }

        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<[u8; N], E> {
            bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
        }
    }

    if deserializer.is_human_readable() {
        deserializer.deserialize_any(Fixed::<N>)
    } else {
        deserializer.deserialize_bytes(Fixed::<N>)
    }
}

/// A 128-bit random id, written as 32 hexadecimal digits. In binary formats it is a byte string.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0u8; 16];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| ParseIdError::new("32 hexadecimal digits", text))?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserialize_fixed(deserializer).map(Self)
            }
        }
    };
}

hex_id!(
    /// A hive: chosen at random by its founder, the same for all its members for ever.
    HiveId
);
hex_id!(
    /// The random half of an [`Epoch`].
    EpochId
);

/// One unbroken history of the replicated log. `hive recover` starts a new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Epoch {
    /// 1 at founding, one more with each recovery.
    pub counter: u64,
    /// Random, so that two recoveries of the same hive on two sides of a partition differ.
    pub id: EpochId,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.counter, self.id)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self).map_err(|_| ParseIdError::new("a UUID", text))
            }
        }
    };
}

uuid_id!(
    /// A unit of work. Chosen by whoever submits, so that submitting twice is submitting once.
    JobId
);
uuid_id!(
    /// Jobs that were queued together.
    SessionId
);

/// The fencing token of one attempt: whoever does not hold the last one issued for a job changes nothing.
///
/// The counter is replicated state and only grows; the epoch id makes tokens of a history that `hive recover` abandoned
/// recognisable for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token {
    /// The epoch in which it was issued.
    pub epoch: EpochId,
    /// 1 for the first assignment of the hive, strictly rising.
    pub counter: u64,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.counter)
    }
}

impl FromStr for Token {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseIdError::new("a token (32 hexadecimal digits, '-', a number)", text);
        let (epoch, counter) = text.split_once('-').ok_or_else(error)?;
        Ok(Self { epoch: epoch.parse()?, counter: counter.parse().map_err(|_| error())? })
    }
}

impl Token {
    /// Its form in binary formats: the epoch and the counter, big-endian.
    fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.epoch.0);
        bytes[16..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (epoch, counter) = bytes.split_first_chunk::<16>()?;
        Some(Self { epoch: EpochId(*epoch), counter: u64::from_be_bytes(counter.try_into().ok()?) })
    }
}

/// Text for people, a byte string of 24 bytes in binary formats: it stands in every attempt and every report.
impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.to_bytes())
        }
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl de::Visitor<'_> for Either {
            type Value = Token;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token: 24 bytes, or 32 hexadecimal digits, '-' and a number")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Token, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Token, E> {
                Token::from_bytes(bytes).ok_or_else(|| E::invalid_length(bytes.len(), &self))
            }
        }

        if deserializer.is_human_readable() {
            deserializer.deserialize_any(Either)
        } else {
            deserializer.deserialize_bytes(Either)
        }
    }
}

/// Wall-clock time in milliseconds since 1970-01-01 UTC, shown to people as RFC 3339. Never compared to decide anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct UnixMillis(pub u64);

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(millis) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => f.write_str("9999-12-31T23:59:59.999Z"),
        }
    }
}

impl FromStr for UnixMillis {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseIdError::new("an RFC 3339 time", text);
        let time: jiff::Timestamp = text.parse().map_err(|_| error())?;
        u64::try_from(time.as_millisecond()).map(Self).map_err(|_| error())
    }
}

impl Serialize for UnixMillis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_u64(self.0) }
    }
}

impl<'de> Deserialize<'de> for UnixMillis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            u64::deserialize(deserializer).map(Self)
        }
    }
}

/// A SHA-256 digest, the name of every blob. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Hash(pub [u8; 32]);

impl fmt::Display for Sha256Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Hash({self})")
    }
}

impl FromStr for Sha256Hash {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0u8; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseIdError::new("64 hexadecimal digits", text))?;
        Ok(Self(bytes))
    }
}

impl Serialize for Sha256Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_bytes(&self.0) }
    }
}

impl<'de> Deserialize<'de> for Sha256Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_fixed(deserializer).map(Self)
    }
}

/// The first and last id that begin so, when it is the beginning of one in its usual spelling.
pub fn id_range(prefix: &str) -> Option<(Uuid, Uuid)> {
    if prefix.is_empty() || prefix.len() > 36 {
        return None;
    }
    let mut digits = String::new();
    for (position, character) in prefix.chars().enumerate() {
        match (matches!(position, 8 | 13 | 18 | 23), character) {
            (true, '-') => {}
            (false, digit) if digit.is_ascii_hexdigit() => digits.push(digit),
            _ => return None,
        }
    }
    let missing = 32 - digits.len();
    let low = u128::from_str_radix(&(digits.clone() + &"0".repeat(missing)), 16).ok()?;
    let high = u128::from_str_radix(&(digits + &"f".repeat(missing)), 16).ok()?;
    Some((Uuid::from_u128(low), Uuid::from_u128(high)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn textual_forms_round_trip() {
        let epoch = EpochId([7; 16]);
        let token = Token { epoch, counter: 42 };
        assert_eq!(token.to_string().parse::<Token>(), Ok(token));
        assert_eq!(epoch.to_string().parse::<EpochId>(), Ok(epoch));
        let time = UnixMillis(1_762_605_296_789);
        assert_eq!(time.to_string(), "2025-11-08T12:34:56.789Z");
        assert_eq!(time.to_string().parse::<UnixMillis>(), Ok(time));
        assert_eq!(UnixMillis(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn malformed_text_is_refused_with_what_was_expected() {
        for text in ["", "7", "zz", "0707070707070707070707070707070707"] {
            assert!(text.parse::<HiveId>().is_err(), "{text}");
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
        let error = "nonsense".parse::<JobId>().expect_err("not a UUID");
        assert_eq!(error.to_string(), "expected a UUID, got \"nonsense\"");
    }

    #[test]
    fn binary_forms_are_byte_strings() {
        let mut out = Vec::new();
        ciborium::into_writer(&HiveId([1; 16]), &mut out).expect("encodes");
        assert_eq!(out[0], 0x50, "CBOR byte string of 16");
        let back: HiveId = ciborium::from_reader(out.as_slice()).expect("decodes");
        assert_eq!(back, HiveId([1; 16]));
    }

    #[test]
    fn digests_survive_binary_formats_inside_tagged_enums() {
        use crate::engine::job::Source;
        let source = Source::Blob { sha256: Sha256Hash([0xff; 32]), size: 5 };
        let mut out = Vec::new();
        ciborium::into_writer(&source, &mut out).expect("encodes");
        assert_eq!(ciborium::from_reader::<Source, _>(out.as_slice()).expect("decodes"), source);
        let text = serde_json::to_string(&source).expect("encodes");
        assert_eq!(serde_json::from_str::<Source>(&text).expect("decodes"), source);
        assert!(serde_json::from_str::<Sha256Hash>("\"ff\"").is_err());
    }

    #[test]
    fn beginnings_of_ids_are_ranges() {
        let range = |text: &str| id_range(text).map(|(low, high)| (low.to_string(), high.to_string()));
        let (low, high) = ("6f9619ff-8000-0000-0000-000000000000", "6f9619ff-8fff-ffff-ffff-ffffffffffff");
        assert_eq!(range("6F9619ff-8"), Some((low.to_owned(), high.to_owned())));
        assert_eq!(range(low).map(|found| found.0), Some(low.to_owned()));
        for bad in ["", "xyz", "6f9619ff8", "6f96-", "6f9619ff-8000-0000-0000-0000000000000"] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }
}
