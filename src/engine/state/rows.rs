//! The durable form: which rows there are, how keys and values are written, and how they become a state again.

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::jobs::Retired;
use super::meta::{Chain, Meta};
use super::origins::{OriginHead, Slot};
use super::{LoadError, Row, State, table};
use crate::engine::id::{JobId, PeerId, SessionId};

const META_KEY: &[u8] = b"hive";
const CHAIN_KEY: &[u8] = b"chain";
const ADMIN_KEY: &[u8] = b"admin";
const SESSIONS_KEY: &[u8] = b"sessions";
const TOKEN_PREFIX: &[u8] = b"token ";
const HEAD_KEY: &[u8] = b"head";

/// A row by what it stands for. The order is that of the tables' numbers and keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RowKey {
    Chain,
    Meta,
    Member(PeerId),
    RaftId(u64),
    Drone(PeerId),
    Session(SessionId),
    /// By its position in the order of submission: what is queued together is written together.
    Job(u64),
    Origin(PeerId),
    Reply(PeerId, u16),
    History(Retired, JobId),
    Package(String),
    Legacy(PeerId),
    AdminKey,
    SessionEpoch,
    Token(String),
    Audit(u64),
    AuditHead,
    Asked([u8; 32]),
}

impl RowKey {
    pub(super) fn row(&self) -> Row {
        let (table, key) = match self {
            Self::Chain => (table::META, CHAIN_KEY.to_vec()),
            Self::Meta => (table::META, META_KEY.to_vec()),
            Self::Member(peer) => (table::MEMBERS, peer.as_str().as_bytes().to_vec()),
            Self::RaftId(id) => (table::RAFT_IDS, id.to_be_bytes().to_vec()),
            Self::Drone(peer) => (table::DRONES, peer.as_str().as_bytes().to_vec()),
            Self::Session(id) => (table::SESSIONS, id.0.as_bytes().to_vec()),
            Self::Job(ordinal) => (table::JOBS, ordinal.to_be_bytes().to_vec()),
            Self::Origin(peer) => (table::ORIGINS, peer.as_str().as_bytes().to_vec()),
            Self::Reply(peer, slot) => {
                let mut key = peer.as_str().as_bytes().to_vec();
                key.push(0);
                key.extend(slot.to_be_bytes());
                (table::REPLIES, key)
            }
            Self::History(Retired { ordinal, well }, id) => {
                let mut key = ordinal.to_be_bytes().to_vec();
                key.push(u8::from(*well));
                key.extend(id.0.as_bytes());
                (table::HISTORY, key)
            }
            Self::Package(package) => (table::PACKAGES, package.as_bytes().to_vec()),
            Self::Legacy(peer) => (table::LEGACY, peer.as_str().as_bytes().to_vec()),
            Self::AdminKey => (table::KEYS, ADMIN_KEY.to_vec()),
            Self::SessionEpoch => (table::KEYS, SESSIONS_KEY.to_vec()),
            Self::Token(name) => (table::KEYS, [TOKEN_PREFIX, name.as_bytes()].concat()),
            Self::Audit(number) => (table::AUDIT, number.to_be_bytes().to_vec()),
            Self::AuditHead => (table::AUDIT, HEAD_KEY.to_vec()),
            Self::Asked(key) => (table::ASKED, key.to_vec()),
        };
        Row { table, key }
    }

    fn parse(row: &Row) -> Result<Self, String> {
        let key = row.key.as_slice();
        let uuid = |key: &[u8]| Uuid::from_slice(key).map_err(|_| "expected a UUID of 16 bytes".to_owned());
        let number =
            |key: &[u8]| key.try_into().map(u64::from_be_bytes).map_err(|_| "expected a number of 8 bytes".to_owned());
        match row.table {
            table::META if key == META_KEY => Ok(Self::Meta),
            table::META if key == CHAIN_KEY => Ok(Self::Chain),
            table::MEMBERS => peer(key).map(Self::Member),
            table::RAFT_IDS => number(key).map(Self::RaftId),
            table::DRONES => peer(key).map(Self::Drone),
            table::SESSIONS => uuid(key).map(SessionId).map(Self::Session),
            table::JOBS => number(key).map(Self::Job),
            table::ORIGINS => peer(key).map(Self::Origin),
            table::REPLIES => {
                let (rest, slot) = key.split_last_chunk::<2>().ok_or("too short")?;
                let rest = rest.strip_suffix(&[0]).ok_or("expected a zero byte before the slot")?;
                Ok(Self::Reply(peer(rest)?, u16::from_be_bytes(*slot)))
            }
            table::HISTORY => {
                let (ordinal, rest) = key.split_first_chunk::<8>().ok_or("too short")?;
                let (well, id) =
                    rest.split_first().filter(|(well, _)| **well < 2).ok_or("expected 0 or 1 before the id")?;
                let retired = Retired { ordinal: u64::from_be_bytes(*ordinal), well: *well == 1 };
                Ok(Self::History(retired, JobId(uuid(id)?)))
            }
            table::PACKAGES => {
                String::from_utf8(key.to_vec()).map(Self::Package).map_err(|_| "expected text".to_owned())
            }
            table::LEGACY => peer(key).map(Self::Legacy),
            table::KEYS if key == ADMIN_KEY => Ok(Self::AdminKey),
            table::KEYS if key == SESSIONS_KEY => Ok(Self::SessionEpoch),
            table::KEYS => {
                let name = key.strip_prefix(TOKEN_PREFIX).ok_or("expected a token's name")?;
                String::from_utf8(name.to_vec()).map(Self::Token).map_err(|_| "expected text".to_owned())
            }
            table::AUDIT if key == HEAD_KEY => Ok(Self::AuditHead),
            table::AUDIT => number(key).map(Self::Audit),
            table::ASKED => key.try_into().map(Self::Asked).map_err(|_| "expected a digest of 32 bytes".to_owned()),
            _ => Err("no such table or key; was it written by a newer hive?".to_owned()),
        }
    }
}

fn peer(key: &[u8]) -> Result<PeerId, String> {
    std::str::from_utf8(key).map(PeerId::new).map_err(|_| "expected a PeerId".to_owned())
}

/// Canonical: maps and sets are ordered, fields are in declaration order, numbers as short as they can be.
pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    ciborium::into_writer(value, &mut bytes)
        .expect("memory takes every write, and no type in a row refuses to be serialised");
    bytes
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut rest = bytes;
    let value = ciborium::from_reader(&mut rest).map_err(|error| error.to_string())?;
    if rest.is_empty() { Ok(value) } else { Err("bytes left over after the value".to_owned()) }
}

/// The present value of a row, none when there is no such row (any more).
pub(super) fn value(state: &State, key: &RowKey) -> Option<Vec<u8>> {
    match key {
        RowKey::Chain => Some(encode(&state.chain)),
        RowKey::Meta => Some(encode(&state.meta)),
        RowKey::Member(peer) => state.members.get(peer).map(encode),
        RowKey::RaftId(id) => state.members.raft_id(*id).map(encode),
        RowKey::Drone(peer) => state.jobs.drones.row(peer).map(encode),
        RowKey::Session(id) => state.jobs.sessions.get(id).map(encode),
        RowKey::Job(ordinal) => state.jobs.at(*ordinal).map(encode),
        RowKey::Origin(peer) => state.origins.head(peer).map(encode),
        RowKey::Reply(peer, slot) => state.origins.slot(peer, *slot).map(encode),
        RowKey::History(..) => state.history.get(key).cloned(),
        RowKey::Package(package) => state.jobs.packages.get(package).map(encode),
        RowKey::Legacy(peer) => state.legacy.get(peer).map(encode),
        RowKey::AdminKey => state.keys.admin.as_ref().map(encode),
        RowKey::SessionEpoch => Some(encode(&state.keys.session_epoch)),
        RowKey::Token(name) => state.keys.tokens.get(name).map(encode),
        RowKey::Audit(number) => state.audit.entry(*number).map(encode),
        RowKey::AuditHead => state.audit.head().map(encode),
        RowKey::Asked(key) => state.audit.asked(key).map(encode),
    }
}

/// Everything that is in memory.
pub(super) fn dump(state: &State) -> BTreeMap<Row, Vec<u8>> {
    if state.chain == Chain::default() {
        return BTreeMap::new();
    }
    let keys = [RowKey::Chain, RowKey::Meta]
        .into_iter()
        .chain(state.members.row_keys())
        .chain(state.legacy.row_keys())
        .chain(state.jobs.row_keys())
        .chain(state.origins.row_keys())
        .chain(state.keys.row_keys())
        .chain(state.audit.row_keys());
    keys.filter_map(|key| value(state, &key).map(|value| (key.row(), value))).collect()
}

pub(super) fn load(rows: impl IntoIterator<Item = (Row, Vec<u8>)>) -> Result<State, LoadError> {
    let mut state = State::default();
    for (row, value) in rows {
        RowKey::parse(&row).and_then(|key| load_row(&mut state, key, &value)).map_err(|why| LoadError {
            table: row.table,
            key: hex::encode(&row.key),
            why,
        })?;
    }
    state.jobs.loaded();
    state.recall_legacy();
    Ok(state)
}

fn load_row(state: &mut State, key: RowKey, value: &[u8]) -> Result<(), String> {
    match key {
        RowKey::Chain => state.chain = decode::<Chain>(value)?,
        RowKey::Meta => state.meta = decode::<Meta>(value)?,
        RowKey::Member(peer) => state.members.load(peer, decode(value)?)?,
        RowKey::RaftId(id) => state.members.load_raft_id(id, decode(value)?),
        RowKey::Drone(peer) => state.jobs.drones.load(peer, decode(value)?),
        RowKey::Session(id) => state.jobs.sessions.load(id, decode(value)?),
        RowKey::Job(ordinal) => state.jobs.load(ordinal, decode(value)?)?,
        RowKey::Origin(peer) => state.origins.load_head(peer, decode::<OriginHead>(value)?),
        RowKey::Reply(peer, slot) => state.origins.load_slot(peer, slot, decode::<Slot>(value)?),
        RowKey::History(retired, id) => state.jobs.load_retired(id, retired),
        RowKey::Package(package) => state.jobs.packages.load(package, decode(value)?),
        RowKey::Legacy(peer) => state.legacy.load(peer, decode(value)?)?,
        RowKey::AdminKey => state.keys.admin = Some(decode(value)?),
        RowKey::SessionEpoch => state.keys.session_epoch = decode(value)?,
        RowKey::Audit(number) => state.audit.load_entry(number, decode(value)?),
        RowKey::AuditHead => state.audit.load_head(decode(value)?),
        RowKey::Asked(key) => state.audit.load_asked(key, decode(value)?),
        RowKey::Token(name) => {
            state.keys.tokens.insert(name, decode(value)?);
        }
    }
    Ok(())
}
