//! What `hive listen` shows: each datagram decoded, and verified or marked why not.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::v1;
use super::wire::{self, Datagram};
use crate::engine::beacon::refusals::Reason;
use crate::engine::id::UnixMillis;
use crate::keyring::Keyring;

/// One datagram, for people. Nothing secret is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapRecord {
    /// When it was seen.
    pub at: UnixMillis,
    /// Sent by this node.
    pub sent: bool,
    /// The other end; for what is sent to everybody, the words `everybody`.
    pub address: String,
    /// 1 or 2; none when it is of neither version.
    pub wire: Option<u8>,
    /// `HELLO`, `SWIM`, …; none when it could not be read.
    pub kind: Option<String>,
    /// Number of the key that its sender names, 8 hexadecimal digits; v1 has none.
    pub key_id: Option<String>,
    /// The MAC was right.
    pub verified: bool,
    /// Why it was refused; none when it was taken.
    pub refused: Option<Reason>,
    /// Bytes.
    pub size: usize,
    /// One line.
    pub summary: String,
}

/// Decodes bytes for people. `keyring` none: nothing can be verified.
pub fn decode_for_display(bytes: &[u8], from: SocketAddr, keyring: Option<&Keyring>, at: UnixMillis) -> TapRecord {
    let mut record = TapRecord {
        at,
        sent: false,
        address: from.to_string(),
        wire: None,
        kind: None,
        key_id: None,
        verified: false,
        refused: None,
        size: bytes.len(),
        summary: String::new(),
    };
    if v1::looks_like(bytes) {
        describe_v1(&mut record, bytes, keyring);
    } else {
        describe_v2(&mut record, bytes, keyring);
    }
    record
}

fn describe_v1(record: &mut TapRecord, bytes: &[u8], keyring: Option<&Keyring>) {
    let opened = keyring.map_or(Err(v1::V1Error::WrongSecret), |keyring| v1::open(bytes, keyring));
    match opened {
        Ok(message) => {
            record.wire = Some(1);
            record.kind = Some(message.kind.as_str().to_owned());
            record.verified = true;
            record.summary = format!("{} ({})", message.hostname, message.node_id);
            if let Some(Some(role)) = message.role {
                record.summary.push_str(&format!(", role {role}"));
            }
        }
        Err(error) => {
            record.wire = (error != v1::V1Error::Malformed).then_some(1);
            record.refused = Some(error.reason());
            record.summary = error.to_string();
        }
    }
}

fn describe_v2(record: &mut TapRecord, bytes: &[u8], keyring: Option<&Keyring>) {
    let key_id = wire::key_id(bytes);
    record.wire = key_id.map(|_| 2);
    record.key_id = key_id.map(|id| format!("{id:08x}"));
    let unknown = key_id.map_or(wire::WireError::Malformed, |key_id| wire::WireError::WrongSecret { key_id });
    match keyring.map_or(Err(unknown), |keyring| Datagram::open(bytes, keyring)) {
        Ok((datagram, _)) => {
            record.kind = Some(datagram.body.kind().to_owned());
            record.verified = true;
            record.summary = datagram.summary();
        }
        Err(error) => {
            record.refused = Some(error.reason());
            record.summary = error.to_string();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::wire::tests::{keyring, peer};
    use crate::discovery::wire::{Body, VERSION};
    use crate::keyring::Secret;

    #[test]
    fn datagrams_are_shown_verified_or_with_the_reason() {
        let datagram = Datagram {
            hive: None,
            sender: peer(1),
            incarnation: 1,
            sequence: 1,
            sent_at: UnixMillis(1),
            destination: None,
            body: Body::Ping([1; 16]),
        };
        let bytes = datagram.seal(&keyring()).expect("seals");
        let from: SocketAddr = "10.0.0.1:50555".parse().expect("address");
        let show = |bytes: &[u8], ring: Option<&Keyring>| decode_for_display(bytes, from, ring, UnixMillis(0));
        let ours = show(&bytes, Some(&keyring()));
        assert!(ours.verified && ours.refused.is_none() && ours.kind.as_deref() == Some("PING"), "{ours:?}");
        assert_eq!(ours.wire, Some(VERSION));
        let others = Keyring::new(&Secret::generate());
        for ring in [Some(&others), None] {
            let record = show(&bytes, ring);
            assert!(!record.verified && record.refused == Some(Reason::WrongSecret), "{record:?}");
            assert!(record.key_id.is_some() && record.wire == Some(2));
        }
        let junk = show(b"\x1b[2Jjunk", Some(&keyring()));
        assert!(junk.refused == Some(Reason::Malformed) && junk.wire.is_none());
        assert!(!junk.summary.contains('\u{1b}'), "junk never reaches a terminal");
        let v1 = br#"{"magic":"BUILD/HELLO/v1","payload":{},"sig":""}"#;
        let record = show(v1, Some(&keyring()));
        assert_eq!((record.wire, record.refused), (Some(1), Some(Reason::WrongSecret)));
    }
}
