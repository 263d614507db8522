//! From what an edge kept to what people read: names, fields, jobs, one line, without secrets.
//!
//! A filter that asks for none of that costs no decoding. Never done here: asking other nodes.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::agent::shared::Shared;
use crate::api::{WireDetail, WireNode};
use crate::clock::unix_now;
use crate::discovery::decode_for_display;
use crate::discovery::wire::{self as datagrams, Body, Datagram};
use crate::engine::id::{PeerId, UnixMillis};
use crate::engine::wire::filter::{Field, Filter, Seen};
use crate::engine::wire::look::{self, Density};
use crate::engine::wire::told::{self, About};
use crate::engine::wire::{Protocol, Record, cbor, redact};
use crate::wire::{Captured, Status};

/// Records copied out of the ring at a time: whoever notes one waits no longer than that takes.
const CHUNK: usize = 500;

/// A record with what it says and where it went, for exports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::agent) struct Whole {
    pub(super) record: Record,
    pub(super) fields: Value,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    /// Of a datagram, which everyone on the network could read; empty for everything else.
    #[serde(with = "serde_bytes")]
    pub(super) raw: Vec<u8>,
}

/// What was read of a message.
struct Decoded {
    fields: Value,
    about: About,
    path: Option<String>,
    summary: String,
}

/// Names as they are while a question is answered.
pub(super) struct Desk<'a> {
    shared: &'a Shared,
    me: String,
    names: BTreeMap<PeerId, String>,
    by_ip: BTreeMap<IpAddr, String>,
    addresses: BTreeMap<PeerId, SocketAddr>,
}

/// A record that is decoded when a filter asks for what only that tells.
struct Lazy<'a> {
    desk: &'a Desk<'a>,
    captured: &'a Captured,
    record: Record,
    decoded: OnceCell<Decoded>,
}

impl Lazy<'_> {
    fn decoded(&self) -> &Decoded {
        self.decoded.get_or_init(|| self.desk.decoded(self.captured))
    }

    fn into_record(self) -> Record {
        let decoded = self.decoded.into_inner().unwrap_or_else(|| self.desk.decoded(self.captured));
        Desk::with(self.record, &decoded)
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all others are known without decoding")]
impl Seen for Lazy<'_> {
    fn text(&self, field: Field) -> Option<Cow<'_, str>> {
        match field {
            Field::Path => self.decoded().path.as_deref().map(Cow::Borrowed),
            Field::Job => self.decoded().about.jobs.first().map(|job| Cow::Borrowed(job.as_str())),
            Field::Session => self.decoded().about.session.as_deref().map(Cow::Borrowed),
            Field::Summary => Some(Cow::Borrowed(&self.decoded().summary)),
            _ => self.record.text(field),
        }
    }

    fn number(&self, field: Field) -> Option<f64> {
        match field {
            Field::Jobs => u32::try_from(self.decoded().about.jobs.len()).ok().map(f64::from),
            _ => self.record.number(field),
        }
    }

    fn flag(&self, field: Field) -> bool {
        match field {
            Field::Path | Field::Job | Field::Session | Field::Summary => self.text(field).is_some(),
            Field::Jobs => !self.decoded().about.jobs.is_empty(),
            _ => self.record.flag(field),
        }
    }

    fn names_job(&self, job: &dyn Fn(&str) -> bool) -> bool {
        self.decoded().about.jobs.iter().any(|named| job(named))
    }
}

impl<'a> Desk<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        let (mut names, mut by_ip, mut addresses) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        shared.read(|state| {
            for member in state.members() {
                names.insert(member.info.peer_id.clone(), member.display_name.clone());
                for address in member.info.addresses.iter().filter_map(|text| text.parse::<SocketAddr>().ok()) {
                    addresses.entry(member.info.peer_id.clone()).or_insert(address);
                    if !address.ip().is_loopback() {
                        by_ip.entry(address.ip()).or_insert_with(|| member.display_name.clone());
                    }
                }
            }
        });
        let me = names.get(&shared.me.peer_id).cloned().unwrap_or_else(|| shared.me.name.clone());
        Self { shared, me, names, by_ip, addresses }
    }

    /// What this node has.
    pub(super) fn node(&self) -> WireNode {
        let totals = self.shared.wire.totals();
        WireNode {
            name: self.me.clone(),
            problem: None,
            oldest: self.shared.wire.bounds().map(|(oldest, _)| UnixMillis(oldest / 1_000)),
            kept: totals.kept as u64,
            noted: totals.noted,
            left_out: totals.left_out,
        }
    }

    /// The other end, as people call it.
    fn other(&self, captured: &Captured) -> String {
        let by_address = |address: SocketAddr| match self.by_ip.get(&address.ip()) {
            // A browser on a node's machine is not that node.
            Some(name) if !captured.protocol.is_http() => name.clone(),
            _ if captured.protocol.is_http() => address.ip().to_string(),
            _ => address.to_string(),
        };
        match (&captured.peer, captured.address) {
            (Some(peer), _) => self.names.get(peer).cloned().unwrap_or_else(|| peer.to_string()),
            (None, Some(address)) => by_address(address),
            (None, None) if captured.protocol == Protocol::Local => "socket".to_owned(),
            (None, None) => "everybody".to_owned(),
        }
    }

    fn record(&self, captured: &Captured) -> Record {
        let (me, other) = (self.me.clone(), self.other(captured));
        let (from, to) = if captured.sent { (me, other) } else { (other, me) };
        Record {
            id: format!("{}@{}", captured.number, self.me),
            number: captured.number,
            at: UnixMillis(captured.number / 1_000),
            node: self.me.clone(),
            sent: captured.sent,
            from,
            to,
            protocol: captured.protocol,
            kind: captured.kind.shown(),
            path: None,
            job: None,
            jobs: 0,
            session: None,
            bytes: captured.bytes,
            // Whole microseconds below 2^53 are exact.
            latency_ms: captured.latency_us.map(|micros| micros as f64 / 1_000.0),
            status: match captured.status {
                Status::None => None,
                Status::Word(word) => Some(word.to_owned()),
                Status::Code(code) => Some(code.to_string()),
            },
            verdict: captured.verdict.to_owned(),
            trace: format!("{:016x}", captured.trace),
            summary: String::new(),
        }
    }

    fn with(record: Record, decoded: &Decoded) -> Record {
        Record {
            path: decoded.path.clone(),
            job: decoded.about.jobs.first().cloned(),
            jobs: u32::try_from(decoded.about.jobs.len()).unwrap_or(u32::MAX),
            session: decoded.about.session.clone(),
            summary: decoded.summary.clone(),
            ..record
        }
    }

    fn lazy<'b>(&'b self, captured: &'b Captured) -> Lazy<'b> {
        Lazy { desk: self, captured, record: self.record(captured), decoded: OnceCell::new() }
    }

    /// Records that fit, oldest first; the number to go on from; whether there are more.
    pub(super) fn list(
        &self,
        filter: &Filter,
        since: Option<u64>,
        before: Option<u64>,
        limit: usize,
    ) -> (Vec<Record>, u64, bool) {
        let newest = self.shared.wire.bounds().map_or(0, |(_, newest)| newest);
        let mut records = Vec::new();
        let mut walk = Walk::new(since, before);
        while let Some(chunk) = walk.next(self.shared) {
            for captured in &chunk {
                let lazy = self.lazy(captured);
                if filter.takes(&lazy) {
                    if records.len() == limit {
                        return self.listed(records, since, newest, true);
                    }
                    records.push(lazy.into_record());
                }
            }
        }
        self.listed(records, since, newest, false)
    }

    fn listed(
        &self,
        mut records: Vec<Record>,
        since: Option<u64>,
        newest: u64,
        more: bool,
    ) -> (Vec<Record>, u64, bool) {
        if since.is_none() {
            records.reverse();
        }
        let last = records.last().map(|last| last.number);
        let latest = if more && since.is_some() { last.unwrap_or(newest) } else { newest.max(since.unwrap_or(0)) };
        (records, latest, more)
    }

    /// Records that fit, with what they say.
    pub(super) fn whole(&self, filter: &Filter, since: Option<u64>, before: Option<u64>, limit: usize) -> Vec<Whole> {
        let mut found = Vec::new();
        let mut walk = Walk::new(Some(since.unwrap_or(0)), before);
        while let Some(chunk) = walk.next(self.shared) {
            for captured in &chunk {
                let lazy = self.lazy(captured);
                if found.len() >= limit {
                    return found;
                }
                if filter.takes(&lazy) {
                    let decoded = self.decoded(captured);
                    let (from, to) = self.ends(captured);
                    let record = Self::with(self.record(captured), &decoded);
                    let raw = if captured.protocol.is_datagram() { captured.body.clone() } else { Vec::new() };
                    found.push(Whole { record, fields: decoded.fields, from, to, raw });
                }
            }
        }
        found
    }

    pub(super) fn detail(&self, number: u64, related_max: usize) -> Option<WireDetail> {
        let captured = self.shared.wire.one(number)?;
        let decoded = self.decoded(&captured);
        let mut related = Vec::new();
        let mut walk = Walk::new(None, None);
        while let Some(chunk) = walk.next(self.shared) {
            let same = chunk.iter().filter(|one| one.trace == captured.trace && one.number != number);
            related.extend(same.map(|one| Self::with(self.record(one), &self.decoded(one))));
            if related.len() >= related_max {
                break;
            }
        }
        related.truncate(related_max);
        related.reverse();
        Some(WireDetail {
            record: Self::with(self.record(&captured), &decoded),
            fields: decoded.fields,
            kept_bytes: captured.body.len() as u64,
            jobs: decoded.about.jobs,
            related,
        })
    }

    pub(super) fn density(&self, filter: &Filter, start: UnixMillis, end: UnixMillis, buckets: usize) -> Density {
        let after = start.0.saturating_mul(1_000).saturating_sub(1);
        let marks: Vec<(u64, bool)> = if filter.is_all() {
            self.shared.wire.marks(after)
        } else {
            let mut marks = Vec::new();
            let mut walk = Walk::new(Some(after), Some(end.0.saturating_mul(1_000)));
            while let Some(chunk) = walk.next(self.shared) {
                let fits = chunk.iter().filter(|one| filter.takes(&self.lazy(one)));
                marks.extend(fits.map(|one| (one.number, !matches!(one.verdict, "sent" | "taken"))));
            }
            marks
        };
        look::density(
            marks.into_iter().map(|(number, refused)| (UnixMillis(number / 1_000), refused)),
            start,
            end,
            buckets,
        )
    }

    fn decoded(&self, captured: &Captured) -> Decoded {
        let (mut fields, line) = if captured.protocol.is_datagram() {
            self.datagram(captured)
        } else if captured.protocol.is_http() {
            (serde_json::from_slice(&captured.body).unwrap_or(Value::Null), None)
        } else if captured.body.is_empty() {
            (Value::Null, None)
        } else {
            (cbor::read(&captured.body), None)
        };
        let http = captured.protocol.is_http();
        redact::value(&mut fields, if http { redact::Origin::Http } else { redact::Origin::Mesh });
        let path = fields.get("path").and_then(Value::as_str).filter(|_| http).map(str::to_owned);
        let about = About::of(&fields);
        let about = path.as_deref().map_or_else(|| about.clone(), |path| about.clone().with_path(path));
        let summary = match (line, &path) {
            (Some(line), _) => redact::text(&line).into_owned(),
            (None, Some(path)) => format!("{} {path}", captured.kind.as_str()),
            (None, None) => told::line(&fields, &about),
        };
        let summary = summary.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        Decoded { fields, about, path, summary }
    }

    fn datagram(&self, captured: &Captured) -> (Value, Option<String>) {
        let from = captured.address.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::BROADCAST, self.shared.config.port)));
        let ring = &self.shared.keyring;
        let shown = decode_for_display(&captured.body, from, Some(ring), unix_now());
        let said = match Datagram::open(&captured.body, ring) {
            Ok((datagram, _)) => datagram_fields(&datagram, &self.names),
            // Of wire v1, or of nobody that is known.
            Err(_) => serde_json::from_slice(&captured.body).unwrap_or(Value::Null),
        };
        let fields = json!({
            "wire": shown.wire,
            "kind": shown.kind,
            "key_id": shown.key_id,
            "address": captured.address.map(|address| address.to_string()),
            "verified": shown.verified,
            "refused": (!matches!(captured.verdict, "sent" | "taken")).then_some(captured.verdict),
            "said": said,
        });
        (fields, Some(shown.summary))
    }

    /// Addresses of both ends, for a packet analyser.
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others use the port of discovery and mesh")]
    fn ends(&self, captured: &Captured) -> (SocketAddr, SocketAddr) {
        let shared = self.shared;
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let own = self.addresses.get(&shared.me.peer_id).copied().unwrap_or(nowhere);
        let port = match captured.protocol {
            Protocol::Http => shared.me.http.port(),
            Protocol::Admin => shared.config.admin.map_or(0, |admin| admin.port()),
            Protocol::Local => 0,
            _ => own.port(),
        };
        let own = SocketAddr::new(own.ip(), port);
        let known = captured.peer.as_ref().and_then(|peer| self.addresses.get(peer).copied());
        let everybody = SocketAddr::from((Ipv4Addr::BROADCAST, shared.config.port));
        let other = match (captured.address, known) {
            (Some(address), _) | (None, Some(address)) => address,
            (None, None) if captured.protocol == Protocol::Local => SocketAddr::new(own.ip(), 0),
            (None, None) => everybody,
        };
        if captured.sent { (own, other) } else { (other, own) }
    }
}

/// What a verified datagram says.
fn datagram_fields(datagram: &Datagram, names: &BTreeMap<PeerId, String>) -> Value {
    let name = |peer: &PeerId| names.get(peer).cloned().unwrap_or_else(|| peer.to_string());
    let addresses = |list: &[IpAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let body = match &datagram.body {
        Body::Hello(hello) => json!({
            "name": hello.name,
            "addresses": addresses(&hello.addresses),
            "mesh_port": hello.mesh_port,
            "http_port": hello.http_port,
            "state": hello.state.to_string(),
            "candidate_ip": hello.candidate_ip.map(|ip| ip.to_string()),
            "cast": cast(hello.cast),
            "nonce": hex::encode(hello.nonce),
        }),
        Body::Welcome(welcome) => json!({
            "name": welcome.name,
            "addresses": addresses(&welcome.addresses),
            "mesh_port": welcome.mesh_port,
            "http_port": welcome.http_port,
            "hive_name": welcome.hive_name,
            "member_count": welcome.member_count,
            "founded": welcome.founded,
            "heard": cast(welcome.heard),
            "nonce": hex::encode(welcome.nonce),
        }),
        Body::Ping(nonce) | Body::Pong(nonce) => json!({ "nonce": hex::encode(nonce) }),
        Body::Swim(packet) => json!({ "bytes": packet.len() }),
    };
    json!({
        "sender": name(&datagram.sender),
        "sender_id": datagram.sender,
        "incarnation": datagram.incarnation,
        "sequence": datagram.sequence,
        "sent_at": datagram.sent_at,
        "hive_id": datagram.hive.map(|hive| hive.hive_id.to_string()),
        "epoch": datagram.hive.map(|hive| hive.epoch.counter),
        "destination": datagram.destination.as_ref().map(name),
        "body": body,
    })
}

fn cast(cast: datagrams::Cast) -> &'static str {
    match cast {
        datagrams::Cast::Broadcast => "broadcast",
        datagrams::Cast::Unicast => "unicast",
    }
}

/// Goes through the ring in pieces: upwards from a number, or downwards from the newest.
struct Walk {
    up: bool,
    at: u64,
    before: u64,
}

impl Walk {
    fn new(since: Option<u64>, before: Option<u64>) -> Self {
        let before = before.unwrap_or(u64::MAX);
        Self { up: since.is_some(), at: since.unwrap_or(before), before }
    }

    fn next(&mut self, shared: &Shared) -> Option<Vec<Captured>> {
        let mut chunk = if self.up { shared.wire.after(self.at, CHUNK) } else { shared.wire.before(self.at, CHUNK) };
        self.at = chunk.last()?.number;
        if self.up {
            chunk.retain(|captured| captured.number < self.before);
        }
        (!chunk.is_empty()).then_some(chunk)
    }
}
