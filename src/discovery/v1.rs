//! Wire v1, as the published Python nodes speak it.
//!
//! What arrives is verified as the bytes that arrived: the signature covers the payload's text, and any parser would lose it.
//! What is sent must survive being parsed and dumped again by Python before it verifies there, so the writer produces exactly
//! what `json.dumps(payload, separators=(',', ':'))` would: ASCII with `\uXXXX`, keys in order, no float whose shortest
//! form is written differently. An empty signature is never accepted and never sent. Never done here: answering; see
//! [`LegacyGate`](crate::engine::beacon::legacy::LegacyGate).

mod scan;

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::engine::beacon::refusals::Reason;
use crate::engine::id::{PeerId, UnixMillis};
use crate::keyring::{self, Keyring};

/// Longest v1 datagram.
pub const DATAGRAM_MAX: usize = 8_192;
/// The port of v1 nodes, to which answers go whatever port the question came from.
pub const PORT: u16 = 50_555;
const MAGIC: &str = "BUILD/HELLO/v1";
/// Longest `node_id`: a UUID has 36 characters.
const NODE_ID_MAX: usize = 64;
/// Longest host name.
const HOSTNAME_MAX: usize = 253;
/// Longest role name.
const ROLE_MAX: usize = 64;

/// What a v1 node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its kind.
    pub kind: Kind,
    /// What the sender calls itself; new at each of its starts.
    pub node_id: String,
    /// The sender's host name.
    pub hostname: String,
    /// The role in a heartbeat: none when the datagram does not say, `Some(None)` when it says that it has none.
    pub role: Option<Option<String>>,
}

/// Kinds of v1 datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// "I have arrived."
    Hello,
    /// The answer to it.
    Welcome,
    /// "Who am I?"
    Identify,
    /// The answer to it.
    Advice,
    /// Every 30 s.
    Heartbeat,
}

impl Kind {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hello => "HELLO",
            Self::Welcome => "WELCOME",
            Self::Identify => "IDENTIFY",
            Self::Advice => "ADVICE",
            Self::Heartbeat => "HEARTBEAT",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Hello, Self::Welcome, Self::Identify, Self::Advice, Self::Heartbeat]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

/// Why bytes are not a v1 datagram of this hive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum V1Error {
    /// Not a v1 datagram.
    #[error("not a v1 datagram")]
    Malformed,
    /// Another magic.
    #[error("a datagram of the same family, but not of version 1")]
    Version,
    /// Signed with another secret, changed on the way, or not signed at all.
    #[error("signed with another secret")]
    WrongSecret,
}

impl V1Error {
    /// The reason under which it is counted.
    pub fn reason(self) -> Reason {
        match self {
            Self::Malformed => Reason::Malformed,
            Self::Version => Reason::Version,
            Self::WrongSecret => Reason::WrongSecret,
        }
    }
}

#[derive(Deserialize)]
struct Payload {
    kind: String,
    node_id: String,
    hostname: String,
    #[serde(default)]
    identity: Option<HeartbeatIdentity>,
}

#[derive(Deserialize)]
struct HeartbeatIdentity {
    #[serde(default)]
    role: Option<String>,
}

/// Names of v1 nodes end up in logs and on pages; nothing but this grammar gets through.
fn is_clean(text: &str, max: usize) -> bool {
    !text.is_empty() && text.len() <= max && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-:+".contains(c))
}

/// Whether bytes claim to be JSON, and so v1 rather than v2.
pub fn looks_like(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().first() == Some(&b'{')
}

/// Verifies the bytes as they came, and reads them.
pub fn open(bytes: &[u8], keyring: &Keyring) -> Result<Message, V1Error> {
    if bytes.len() > DATAGRAM_MAX {
        return Err(V1Error::Malformed);
    }
    let fields = scan::object(bytes).ok_or(V1Error::Malformed)?;
    let field = |name: &str| {
        let found = fields.iter().find(|(key, _)| *key == name.as_bytes());
        found.and_then(|(_, range)| bytes.get(range.clone())).ok_or(V1Error::Malformed)
    };
    let (magic, payload, signature) = (field("magic")?, field("payload")?, field("sig")?);
    let magic: String = serde_json::from_slice(magic).map_err(|_| V1Error::Malformed)?;
    if magic != MAGIC {
        return Err(if magic.starts_with("BUILD/HELLO/") { V1Error::Version } else { V1Error::Malformed });
    }
    let signature: String = serde_json::from_slice(signature).map_err(|_| V1Error::Malformed)?;
    let mut mac = [0u8; 32];
    // An empty signature is what v1 nodes without a secret send; here it is a wrong one.
    hex::decode_to_slice(&signature, &mut mac).map_err(|_| V1Error::WrongSecret)?;
    let verified = keyring.keys().iter().any(|key| {
        let secret = key.secret().expose();
        !secret.is_empty() && keyring::constant_time_eq(&keyring::hmac(secret, &[payload]), &mac)
    });
    if !verified {
        return Err(V1Error::WrongSecret);
    }
    read(payload)
}

fn read(payload: &[u8]) -> Result<Message, V1Error> {
    let payload: Payload = serde_json::from_slice(payload).map_err(|_| V1Error::Malformed)?;
    let kind = Kind::parse(&payload.kind).ok_or(V1Error::Malformed)?;
    if !is_clean(&payload.node_id, NODE_ID_MAX) || !is_clean(&payload.hostname, HOSTNAME_MAX) {
        return Err(V1Error::Malformed);
    }
    let role = payload.identity.and_then(|identity| identity.role).filter(|role| is_clean(role, ROLE_MAX));
    Ok(Message {
        kind,
        node_id: payload.node_id,
        hostname: payload.hostname,
        role: (kind == Kind::Heartbeat).then_some(role),
    })
}

/// Who speaks, in what this node sends to v1 nodes.
#[derive(Clone, Debug)]
pub struct Speaker<'a> {
    /// This node; its v1 id is derived from it.
    pub peer: &'a PeerId,
    /// Its host name.
    pub hostname: &'a str,
    /// Its address on the link in question.
    pub primary_ip: &'a str,
    /// Wall-clock time.
    pub now: UnixMillis,
}

/// What a v1 node is advised to become.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Advice {
    /// The role.
    pub role: String,
    /// Its packages.
    pub packages: Vec<String>,
    /// Its configuration.
    pub config: Map<String, Value>,
    /// Why.
    pub reason: String,
}

/// Why advice cannot be told to a v1 node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdviceError {
    /// Python would write the number differently, and the signature would not verify there.
    #[error("the number {0} has another form in v1; use a string or a whole number")]
    Number(String),
    /// It does not fit into a datagram.
    #[error("{0} bytes of advice do not fit into a v1 datagram of {DATAGRAM_MAX}")]
    TooLong(usize),
}

/// Writes a WELCOME, HELLO (both without further fields).
pub fn greeting(kind: Kind, speaker: &Speaker<'_>, keyring: &Keyring) -> Vec<u8> {
    let mut payload = common(kind, speaker);
    let _ = write!(payload, ",\"candidate_ip\":null,\"ts\":\"{}\"}}", speaker.now);
    seal(&payload, keyring)
}

/// Writes a HEARTBEAT.
pub fn heartbeat(role: Option<&str>, speaker: &Speaker<'_>, keyring: &Keyring) -> Vec<u8> {
    let mut payload = common(Kind::Heartbeat, speaker);
    let _ = write!(payload, ",\"candidate_ip\":null,\"ts\":\"{}\",\"identity\":", speaker.now);
    match role {
        Some(role) => {
            payload.push_str("{\"role\":");
            write_string(&mut payload, role);
            payload.push('}');
        }
        None => payload.push_str("null"),
    }
    payload.push_str(",\"health\":{\"ok\":true}}");
    seal(&payload, keyring)
}

/// Writes ADVICE.
pub fn advice(advice: &Advice, speaker: &Speaker<'_>, keyring: &Keyring) -> Result<Vec<u8>, AdviceError> {
    let mut payload = format!("{{\"kind\":\"ADVICE\",\"node_id\":\"{}\",\"hostname\":", node_id(speaker.peer));
    write_string(&mut payload, speaker.hostname);
    payload.push_str(",\"suggested_role\":");
    write_string(&mut payload, &advice.role);
    payload.push_str(",\"packages\":[");
    for (number, package) in advice.packages.iter().enumerate() {
        if number > 0 {
            payload.push(',');
        }
        write_string(&mut payload, package);
    }
    payload.push_str("],\"config\":");
    write_object(&mut payload, &advice.config)?;
    payload.push_str(",\"reason\":");
    write_string(&mut payload, &advice.reason);
    let _ = write!(payload, ",\"ts\":\"{}\"}}", speaker.now);
    let bytes = seal(&payload, keyring);
    if bytes.len() > DATAGRAM_MAX { Err(AdviceError::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// The 16 hexadecimal digits by which v1 nodes know this node.
pub fn node_id(peer: &PeerId) -> String {
    let digest = keyring::sha256(peer.as_str().as_bytes());
    hex::encode(&digest[..8])
}

fn common(kind: Kind, speaker: &Speaker<'_>) -> String {
    let mut payload =
        format!("{{\"kind\":\"{}\",\"node_id\":\"{}\",\"hostname\":", kind.as_str(), node_id(speaker.peer));
    write_string(&mut payload, speaker.hostname);
    payload.push_str(",\"primary_ip\":");
    write_string(&mut payload, speaker.primary_ip);
    payload
}

fn seal(payload: &str, keyring: &Keyring) -> Vec<u8> {
    let mac = keyring::hmac(keyring.signing().secret().expose(), &[payload.as_bytes()]);
    format!("{{\"magic\":\"{MAGIC}\",\"payload\":{payload},\"sig\":\"{}\"}}", hex::encode(mac)).into_bytes()
}

/// Writes a string as Python's `json.dumps` does by default.
fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

fn write_object(out: &mut String, object: &Map<String, Value>) -> Result<(), AdviceError> {
    out.push('{');
    for (number, (key, value)) in object.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        write_string(out, key);
        out.push(':');
        write_value(out, value)?;
    }
    out.push('}');
    Ok(())
}

fn write_value(out: &mut String, value: &Value) -> Result<(), AdviceError> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::String(text) => write_string(out, text),
        Value::Number(number) => write_number(out, number)?,
        Value::Array(values) => {
            out.push('[');
            for (number, value) in values.iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                write_value(out, value)?;
            }
            out.push(']');
        }
        Value::Object(object) => write_object(out, object)?,
    }
    Ok(())
}

/// Whole numbers are the same everywhere. Floats have the same shortest digits in both languages, but Python switches to the
/// exponent form outside of `1e-4 ≤ |x| < 1e16` and writes it differently; those are refused.
fn write_number(out: &mut String, number: &serde_json::Number) -> Result<(), AdviceError> {
    if let Some(float) = number.as_f64().filter(|_| number.is_f64()) {
        if float != 0.0 && !(1e-4..1e16).contains(&float.abs()) {
            return Err(AdviceError::Number(number.to_string()));
        }
        let _ = write!(out, "{float:?}");
    } else {
        let _ = write!(out, "{number}");
    }
    Ok(())
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
