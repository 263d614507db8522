//! The signed envelope: COSE_Mac0 (RFC 9052) of exactly one shape.
//!
//! `coset` decodes into open values, whose nesting and size a stranger chooses. So bytes are matched against the one shape
//! that hive writes before they are handed over: `17([bstr .size 9, {}, bstr, bstr .size 32])`, nothing after it. What is then
//! decoded openly is five items deep two, at most 1,200 bytes in all and at most one small map in the header; the payload
//! and everything a stranger can nest stays an opaque byte string until its MAC is verified.

use coset::{CborSerializable as _, CoseMac0, CoseMac0Builder, HeaderBuilder, TaggedCborSerializable as _, iana};

use super::WireError;
use crate::keyring::{Key, Keyring, Purpose};

/// Bound to the MAC, so that a MAC of another protocol under the same key never verifies here.
const CONTEXT: &[u8] = b"hive datagram 2";
/// Tag 17, array of 4.
const HEAD: [u8; 2] = [0xd1, 0x84];
/// `{1: 5, 4: h'…4 bytes…'}` as a byte string, up to the key id.
const PROTECTED: [u8; 6] = [0x49, 0xa2, 0x01, 0x05, 0x04, 0x44];
/// The MAC's length.
const TAG_LEN: usize = 32;

/// Signs `payload`. None only when the encoder fails, which it does not for these types.
pub(super) fn seal(payload: Vec<u8>, key: &Key) -> Option<Vec<u8>> {
    let protected =
        HeaderBuilder::new().algorithm(iana::Algorithm::HMAC_256_256).key_id(key.id.to_be_bytes().to_vec()).build();
    CoseMac0Builder::new()
        .protected(protected)
        .payload(payload)
        .create_tag(CONTEXT, |data| key.mac(Purpose::Datagram, &[data]).to_vec())
        .build()
        .to_tagged_vec()
        .ok()
}

/// The key id, when the bytes have the one shape that is accepted.
pub(super) fn key_id(bytes: &[u8]) -> Option<u32> {
    let rest = bytes.strip_prefix(&HEAD)?.strip_prefix(&PROTECTED)?;
    let (id, rest) = rest.split_first_chunk::<4>()?;
    let rest = rest.strip_prefix(&[0xa0])?;
    let rest = skip_bytes(rest)?;
    let tag = rest.strip_prefix(&[0x58, TAG_LEN as u8])?;
    (tag.len() == TAG_LEN).then(|| u32::from_be_bytes(*id))
}

/// Skips a byte string of definite length.
fn skip_bytes(bytes: &[u8]) -> Option<&[u8]> {
    let (&head, rest) = bytes.split_first()?;
    let (length, rest) = match head {
        0x40..=0x57 => (usize::from(head - 0x40), rest),
        0x58 => rest.split_first().map(|(&length, rest)| (usize::from(length), rest))?,
        0x59 => rest.split_first_chunk::<2>().map(|(length, rest)| (usize::from(u16::from_be_bytes(*length)), rest))?,
        _ => return None,
    };
    rest.get(length..)
}

/// Verifies the MAC and returns the payload and the id of the key that signed it.
pub(super) fn open(bytes: &[u8], keyring: &Keyring) -> Result<(Vec<u8>, u32), WireError> {
    let key_id = key_id(bytes).ok_or(WireError::Malformed)?;
    let key = keyring.by_id(key_id).ok_or(WireError::WrongSecret { key_id })?;
    // The tag was matched above; without it the decoder builds one value less.
    let mac0 = CoseMac0::from_slice(&bytes[1..]).map_err(|_| WireError::Malformed)?;
    mac0.verify_payload_tag(
        CONTEXT,
        || WireError::Malformed,
        |tag, data| {
            if key.verify(Purpose::Datagram, &[data], tag) { Ok(()) } else { Err(WireError::WrongSecret { key_id }) }
        },
    )?;
    mac0.payload.map(|payload| (payload, key_id)).ok_or(WireError::Malformed)
}
