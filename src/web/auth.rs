//! Requests and answers between machines that share only the secret: the `X-Hive-Auth` header.
//!
//! `X-Hive-Auth: <key id>:<unix seconds>:<nonce>:<mac>`, all but the time in hexadecimal. The MAC covers method, path with query, time,
//! nonce and the digest of the body; an answer's covers the status and the request's nonce as well, so that an answer cannot be
//! replayed for another question. Used by `/hive/peers` and `POST /hive/join`. Never done here: deciding who is a member; the header proves a
//! group, not a node.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::clock;
use crate::keyring::{Key, Keyring, Purpose, sha256};

/// Name of the header.
pub const HEADER: &str = "x-hive-auth";
/// How far a sender's clock may be off, either way.
pub const WINDOW_SECONDS: u64 = 120;
/// Nonces remembered at once: with a window of two times [`WINDOW_SECONDS`], 17 requests a second from holders of the key.
pub const NONCES_MAX: usize = 4_096;
/// Longest header that is looked at, bytes (a proper one has 8 + 20 + 32 + 64 and three colons).
const HEADER_MAX: usize = 160;

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No header.
    #[error("the header X-Hive-Auth is missing")]
    Missing,
    /// Not of the form above.
    #[error("the header X-Hive-Auth is not of the form key:time:nonce:mac")]
    Malformed,
    /// Another secret, or something was changed on the way.
    #[error("the MAC does not fit: most likely the secrets differ")]
    WrongSecret,
    /// Too old or from the future.
    #[error("its time is {0} s off, at most {WINDOW_SECONDS} s are allowed")]
    Clock(u64),
    /// Seen before.
    #[error("it was used before")]
    Replay,
    /// Too many requests within the window.
    #[error("too many requests")]
    Busy,
}

impl AuthError {
    /// A stable word for counters.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Missing | Self::Malformed => "malformed",
            Self::WrongSecret => "wrong_secret",
            Self::Clock(_) => "clock",
            Self::Replay => "replay",
            Self::Busy => "rate",
        }
    }

    /// What to do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Missing | Self::Malformed => "make it with: hive secret sign METHOD PATH",
            Self::WrongSecret => "compare `hive secret fingerprint` on both machines",
            Self::Clock(_) => "on the machine whose clock is wrong: timedatectl set-ntp true",
            Self::Replay => "make a new header for every request",
            Self::Busy => "wait a minute and ask less often",
        }
    }
}

/// What was asked, as the MAC covers it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `GET`, `POST`, …
    pub method: &'a str,
    /// Path with query.
    pub path: &'a str,
    /// The body.
    pub body: &'a [u8],
}

/// A header taken apart.
struct Header {
    key: u32,
    at_seconds: u64,
    nonce: [u8; 16],
    mac: [u8; 32],
}

impl Header {
    fn parse(text: &str) -> Result<Self, AuthError> {
        if text.len() > HEADER_MAX {
            return Err(AuthError::Malformed);
        }
        let mut parts = text.split(':');
        let mut part = || parts.next().ok_or(AuthError::Malformed);
        let (key, at, nonce_hex, mac_hex) = (part()?, part()?, part()?, part()?);
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if parts.next().is_some() || key.len() != 8 || !digits(at) || !key.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(AuthError::Malformed);
        }
        let mut nonce = [0u8; 16];
        let mut mac = [0u8; 32];
        hex::decode_to_slice(nonce_hex, &mut nonce).map_err(|_| AuthError::Malformed)?;
        hex::decode_to_slice(mac_hex, &mut mac).map_err(|_| AuthError::Malformed)?;
        Ok(Self {
            key: u32::from_str_radix(key, 16).map_err(|_| AuthError::Malformed)?,
            at_seconds: at.parse().map_err(|_| AuthError::Malformed)?,
            nonce,
            mac,
        })
    }

    fn write(key: &Key, at_seconds: u64, nonce: [u8; 16], mac: [u8; 32]) -> String {
        format!("{:08x}:{at_seconds}:{}:{}", key.id, hex::encode(nonce), hex::encode(mac))
    }
}

fn request_mac(key: &Key, request: &Request<'_>, at_seconds: u64, nonce: [u8; 16]) -> [u8; 32] {
    // A method or path cannot hold a line feed, so that no two requests give the same text.
    let text = format!(
        "hive http request v1\n{}\n{}\n{at_seconds}\n{}\n{}\n",
        request.method,
        request.path,
        hex::encode(nonce),
        hex::encode(sha256(request.body))
    );
    key.mac(Purpose::Export, &[text.as_bytes()])
}

fn answer_mac(
    key: &Key,
    path: &str,
    status: u16,
    asked: [u8; 16],
    at_seconds: u64,
    nonce: [u8; 16],
    body: &[u8],
) -> [u8; 32] {
    let text = format!(
        "hive http response v1\n{status}\n{path}\n{}\n{at_seconds}\n{}\n{}\n",
        hex::encode(asked),
        hex::encode(nonce),
        hex::encode(sha256(body))
    );
    key.mac(Purpose::Export, &[text.as_bytes()])
}

/// Seconds of the wall clock, which is all that two machines without a common hive share.
pub fn now_seconds() -> u64 {
    clock::unix_now().0 / 1_000
}

/// A signed request: the header to send, and what is needed to check the answer.
#[derive(Clone, Debug)]
pub struct Signed {
    /// Value of [`HEADER`].
    pub header: String,
    nonce: [u8; 16],
}

/// Signs a request with the ring's signing key.
pub fn sign(keyring: &Keyring, request: &Request<'_>) -> Signed {
    sign_at(keyring, request, now_seconds(), rand::random())
}

fn sign_at(keyring: &Keyring, request: &Request<'_>, at_seconds: u64, nonce: [u8; 16]) -> Signed {
    let key = keyring.signing();
    let mac = request_mac(key, request, at_seconds, nonce);
    Signed { header: Header::write(key, at_seconds, nonce, mac), nonce }
}

impl Signed {
    /// Checks the answer to this request. `header` is the answer's [`HEADER`].
    pub fn check_answer(
        &self,
        keyring: &Keyring,
        path: &str,
        status: u16,
        header: Option<&str>,
        body: &[u8],
    ) -> Result<(), AuthError> {
        let header = Header::parse(header.ok_or(AuthError::Missing)?)?;
        let key = keyring.by_id(header.key).ok_or(AuthError::WrongSecret)?;
        let expected = answer_mac(key, path, status, self.nonce, header.at_seconds, header.nonce, body);
        if crate::keyring::constant_time_eq(&expected, &header.mac) { Ok(()) } else { Err(AuthError::WrongSecret) }
    }
}

/// A request that was accepted; signs its answer.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    key: u32,
    nonce: [u8; 16],
}

impl Accepted {
    /// The header of the answer; none when the key has left the ring since.
    pub fn sign_answer(&self, keyring: &Keyring, path: &str, status: u16, body: &[u8]) -> Option<String> {
        let key = keyring.by_id(self.key)?;
        let (at_seconds, nonce) = (now_seconds(), rand::random());
        let mac = answer_mac(key, path, status, self.nonce, at_seconds, nonce, body);
        Some(Header::write(key, at_seconds, nonce, mac))
    }
}

/// Checks requests and remembers their nonces for as long as their time is accepted.
#[derive(Debug, Default)]
pub struct Guard {
    /// Nonce to the second after which it may be forgotten.
    seen: Mutex<BTreeMap<[u8; 16], u64>>,
}

impl Guard {
    /// Accepts a request once.
    pub fn accept(
        &self,
        keyring: &Keyring,
        header: Option<&str>,
        request: &Request<'_>,
    ) -> Result<Accepted, AuthError> {
        self.accept_at(keyring, header, request, now_seconds())
    }

    fn accept_at(
        &self,
        keyring: &Keyring,
        header: Option<&str>,
        request: &Request<'_>,
        now_seconds: u64,
    ) -> Result<Accepted, AuthError> {
        let header = Header::parse(header.ok_or(AuthError::Missing)?)?;
        let key = keyring.by_id(header.key).ok_or(AuthError::WrongSecret)?;
        let expected = request_mac(key, request, header.at_seconds, header.nonce);
        // The MAC first: nobody without the key learns the clock, or fills the memory of nonces.
        if !crate::keyring::constant_time_eq(&expected, &header.mac) {
            return Err(AuthError::WrongSecret);
        }
        let off = header.at_seconds.abs_diff(now_seconds);
        if off > WINDOW_SECONDS {
            return Err(AuthError::Clock(off));
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains_key(&header.nonce) {
            return Err(AuthError::Replay);
        }
        if seen.len() >= NONCES_MAX {
            seen.retain(|_, until| *until >= now_seconds);
            if seen.len() >= NONCES_MAX {
                return Err(AuthError::Busy);
            }
        }
        seen.insert(header.nonce, header.at_seconds + WINDOW_SECONDS);
        Ok(Accepted { key: header.key, nonce: header.nonce })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::Secret;

    const NOW: u64 = 1_800_000_000;

    fn request(body: &[u8]) -> Request<'_> {
        Request { method: "POST", path: "/hive/join?x=1", body }
    }

    fn ring() -> Keyring {
        Keyring::new(&Secret::from_bytes(b"b7c1a0ffee11d2d3b7c1a0ffee11d2d3"))
    }

    #[test]
    fn a_signed_request_is_accepted_once_and_its_answer_verifies() {
        let (ring, guard) = (ring(), Guard::default());
        let signed = sign(&ring, &request(b"body"));
        let accepted = guard.accept(&ring, Some(&signed.header), &request(b"body")).expect("accepted");
        let answer = accepted.sign_answer(&ring, "/hive/join", 200, b"peers").expect("signed");
        assert_eq!(signed.check_answer(&ring, "/hive/join", 200, Some(&answer), b"peers"), Ok(()));
        assert_eq!(
            signed.check_answer(&ring, "/hive/join", 200, Some(&answer), b"other"),
            Err(AuthError::WrongSecret),
            "another body"
        );
        assert_eq!(
            signed.check_answer(&ring, "/hive/join", 404, Some(&answer), b"peers"),
            Err(AuthError::WrongSecret),
            "another status"
        );
        let other = sign(&ring, &request(b"body"));
        assert_eq!(
            other.check_answer(&ring, "/hive/join", 200, Some(&answer), b"peers"),
            Err(AuthError::WrongSecret),
            "the answer to another question"
        );
        assert_eq!(guard.accept(&ring, Some(&signed.header), &request(b"body")).err(), Some(AuthError::Replay));
    }

    #[test]
    fn nothing_but_the_very_request_is_accepted() {
        let (ring, guard) = (ring(), Guard::default());
        let header = sign_at(&ring, &request(b"body"), NOW, [1; 16]).header;
        let changed = [
            Request { method: "GET", ..request(b"body") },
            Request { path: "/hive/peers", ..request(b"body") },
            request(b"b0dy"),
        ];
        for request in changed {
            let refused = guard.accept_at(&ring, Some(&header), &request, NOW).err();
            assert_eq!(refused, Some(AuthError::WrongSecret), "{request:?}");
        }
        let foreign = Keyring::new(&Secret::generate());
        let stranger = sign_at(&foreign, &request(b"body"), NOW, [1; 16]).header;
        assert_eq!(guard.accept_at(&ring, Some(&stranger), &request(b"body"), NOW).err(), Some(AuthError::WrongSecret));
        assert!(guard.accept_at(&ring, Some(&header), &request(b"body"), NOW).is_ok(), "unharmed by the tries");
    }

    #[test]
    fn the_window_is_two_minutes_either_way() {
        let ring = ring();
        let header = sign_at(&ring, &request(b""), NOW, [2; 16]).header;
        for (now, accepted) in [
            (NOW - WINDOW_SECONDS - 1, false),
            (NOW - WINDOW_SECONDS, true),
            (NOW + WINDOW_SECONDS, true),
            (NOW + WINDOW_SECONDS + 1, false),
        ] {
            let result = Guard::default().accept_at(&ring, Some(&header), &request(b""), now);
            assert_eq!(result.is_ok(), accepted, "{now}");
        }
    }

    #[test]
    fn a_nonce_is_remembered_for_as_long_as_its_time_is_accepted() {
        let (ring, guard) = (ring(), Guard::default());
        let ahead = NOW + WINDOW_SECONDS;
        let header = sign_at(&ring, &request(b""), ahead, [3; 16]).header;
        assert!(guard.accept_at(&ring, Some(&header), &request(b""), NOW).is_ok());
        for index in 0..u32::try_from(NONCES_MAX).expect("fits") - 1 {
            let mut nonce = [9; 16];
            nonce[..4].copy_from_slice(&index.to_be_bytes());
            let header = sign_at(&ring, &request(b""), NOW, nonce).header;
            assert!(guard.accept_at(&ring, Some(&header), &request(b""), NOW).is_ok());
        }
        let one_more = sign_at(&ring, &request(b""), NOW, [4; 16]).header;
        assert_eq!(guard.accept_at(&ring, Some(&one_more), &request(b""), NOW).err(), Some(AuthError::Busy));
        let later = NOW + WINDOW_SECONDS + 1;
        let fresh = sign_at(&ring, &request(b""), later, [5; 16]).header;
        assert!(guard.accept_at(&ring, Some(&fresh), &request(b""), later).is_ok(), "room again");
        assert_eq!(guard.accept_at(&ring, Some(&header), &request(b""), later).err(), Some(AuthError::Replay));
    }

    #[test]
    fn malformed_headers_are_refused() {
        let (ring, guard) = (ring(), Guard::default());
        let good = sign_at(&ring, &request(b""), NOW, [6; 16]).header;
        let long = format!("{good}{}", "0".repeat(200));
        let cases = [
            "",
            ":::",
            "a:b:c:d",
            "00000000:+5:00:00",
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}:"),
            &long,
        ];
        for header in cases {
            let refused = guard.accept_at(&ring, Some(header), &request(b""), NOW).err();
            assert_eq!(refused, Some(AuthError::Malformed), "{header}");
        }
        assert_eq!(guard.accept_at(&ring, None, &request(b""), NOW).err(), Some(AuthError::Missing));
    }
}
