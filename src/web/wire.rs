//! What passes between nodes, over HTTP: lists for everyone, bodies for whoever has the admin key.
//!
//! Records name peers, kinds, jobs and lengths, which everyone may read as everything else on the public page. What a message says
//! (detail, export) needs the admin key. Never done here: anything but translating; requests are noted in [`super::capture`].

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::stream::BoxStream;
use serde::Deserialize;

use super::Context;
use super::answer::{Handled, Params, Problem};
use super::node::{Answer, ByteStream};
use crate::api::{WireConversations, WireDetail, WireFields, WireList};
use crate::clock;
use crate::engine::id::UnixMillis;
use crate::engine::wire::Record;
use crate::engine::wire::filter::Filter;
use crate::engine::wire::look::Density;

/// Records listed when nothing else is said.
const LIST_DEFAULT: usize = 200;
/// Most records of one list.
pub const LIST_MAX: usize = 2_000;
/// Most records of one export.
pub const EXPORT_MAX: usize = 100_000;
/// Columns of a histogram when nothing else is said, and the time it reaches back, milliseconds.
const BUCKETS_DEFAULT: usize = 120;
const DENSITY_SPAN_MS: u64 = 600_000;
/// Longest name of a node, bytes.
const NAME_MAX: usize = 255;

/// Which records are wanted.
#[derive(Clone, Debug, Default)]
pub struct WireQuery {
    /// Only these; checked.
    pub filter: String,
    /// Of this node, or of `all`; none: of the node that is asked.
    pub node: Option<String>,
    /// Only those after this number, the oldest of them; none: the newest.
    pub since: Option<u64>,
    /// Only those before this number.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// When how many records were seen.
#[derive(Clone, Debug)]
pub struct DensityQuery {
    /// Only these; checked.
    pub filter: String,
    /// As in [`WireQuery`].
    pub node: Option<String>,
    /// From here on.
    pub start: UnixMillis,
    /// Up to here.
    pub end: UnixMillis,
    /// Columns.
    pub buckets: usize,
}

/// What came since the last news.
#[derive(Clone, Debug, Default)]
pub struct WireNews {
    /// Oldest first.
    pub records: Vec<Record>,
    /// Records that were left out because there were too many, whether or not they fit the filter.
    pub dropped: u64,
}

/// Form of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// One JSON object with record and fields per line.
    JsonLines,
    /// For packet analysers.
    Pcapng,
}

/// What readers of the Python swarm ask about its protocol log.
#[derive(Clone, Debug, PartialEq)]
pub enum OldQuestion {
    /// `protocol`.
    Entries {
        /// After this time, seconds since 1970.
        since: Option<f64>,
        /// Of this type of the old swarm.
        kind: Option<String>,
        /// That name this drone.
        drone: Option<String>,
        /// That name this package.
        package: Option<String>,
        /// That took at least so long, milliseconds.
        min_latency: Option<f64>,
        /// At most so many.
        limit: usize,
    },
    /// `protocol/detail`.
    Detail {
        /// Number of the entry.
        id: u64,
    },
    /// `protocol/stats`.
    Stats {
        /// After this time, seconds since 1970.
        since: Option<f64>,
    },
    /// `protocol/density`.
    Density {
        /// From here on, seconds since 1970.
        start: Option<f64>,
        /// Up to here.
        end: Option<f64>,
        /// Columns.
        buckets: usize,
    },
    /// `protocol/snapshot`.
    Snapshot {
        /// Seconds since 1970.
        at: f64,
    },
}

/// Everything that can be asked of a node about what passed.
pub trait WireApi: Send + Sync {
    /// Records.
    fn wire_list(&self, query: WireQuery) -> Answer<'_, WireList>;
    /// One record, by `NUMBER@NODE`.
    fn wire_detail(&self, id: String) -> Answer<'_, WireDetail>;
    /// Questions with their answers, among the records that fit.
    fn wire_conversations(&self, query: WireQuery) -> Answer<'_, WireConversations>;
    /// When how many were seen.
    fn wire_density(&self, query: DensityQuery) -> Answer<'_, Density>;
    /// What filters are made of.
    fn wire_fields(&self) -> Answer<'_, WireFields>;
    /// Records with what they say, as a file.
    fn wire_export(&self, query: WireQuery, format: ExportFormat) -> Answer<'_, ByteStream>;
    /// Records as they come from now on, a few times a second at most.
    fn wire_follow(&self, filter: Filter) -> BoxStream<'static, WireNews>;
    /// What readers of the Python swarm ask.
    fn wire_old(&self, question: OldQuestion) -> Answer<'_, serde_json::Value>;
}

/// A place in time: the number of a record, milliseconds or seconds since 1970, or an RFC 3339 time.
pub(crate) fn cursor(text: &str) -> Option<u64> {
    if let Ok(at) = text.parse::<UnixMillis>() {
        return Some(at.0.saturating_mul(1_000));
    }
    let number: f64 = text.parse().ok()?;
    if let Ok(whole) = text.parse::<u64>()
        && whole >= 100_000_000_000_000
    {
        return Some(whole);
    }
    let micros = if number >= 1e11 { number * 1e3 } else { number * 1e6 };
    // Out of range saturates, which is as far as anyone can ask.
    (number.is_finite() && number >= 0.0).then_some(micros as u64)
}

#[derive(Deserialize)]
pub(super) struct ListParams {
    filter: Option<String>,
    node: Option<String>,
    since: Option<String>,
    before: Option<String>,
    limit: Option<usize>,
}

fn checked(filter: Option<String>) -> Result<String, Problem> {
    let filter = filter.unwrap_or_default();
    Filter::parse(&filter).map_err(|error| Problem::invalid(format!("filter: {error}")))?;
    Ok(filter)
}

fn named(node: Option<String>) -> Result<Option<String>, Problem> {
    match node.filter(|node| !node.is_empty()) {
        Some(node) if node.len() > NAME_MAX => Err(Problem::invalid("node is the name of a node, or all")),
        node => Ok(node),
    }
}

fn place(text: Option<String>, name: &str) -> Result<Option<u64>, Problem> {
    let expected =
        || Problem::invalid(format!("{name} is the number of a record, or a time such as 2026-11-21T20:00:00Z"));
    text.map(|text| cursor(&text).ok_or_else(expected)).transpose()
}

impl ListParams {
    /// Records that had passed until then.
    pub(super) fn until(self, at: UnixMillis) -> Result<WireQuery, Problem> {
        let mut query = self.query(LIST_DEFAULT, LIST_MAX)?;
        // Numbers are microseconds: the whole millisecond belongs to then.
        let end = at.0.saturating_add(1).saturating_mul(1_000);
        query.before = Some(query.before.map_or(end, |before| before.min(end)));
        Ok(query)
    }

    fn query(self, default: usize, max: usize) -> Result<WireQuery, Problem> {
        Ok(WireQuery {
            filter: checked(self.filter)?,
            node: named(self.node)?,
            since: place(self.since, "since")?,
            before: place(self.before, "before")?,
            limit: self.limit.unwrap_or(default).clamp(1, max),
        })
    }
}

pub(super) async fn list(State(context): State<Context>, Params(params): Params<ListParams>) -> Handled {
    let query = params.query(LIST_DEFAULT, LIST_MAX)?;
    Ok(context.answer(context.node.wire().wire_list(query).await))
}

pub(super) async fn detail(State(context): State<Context>, Path(id): Path<String>) -> Handled {
    if id.len() > NAME_MAX + 32 {
        return Err(Problem::invalid("a record is named NUMBER@NODE"));
    }
    Ok(context.answer(context.node.wire().wire_detail(id).await))
}

pub(super) async fn conversations(State(context): State<Context>, Params(params): Params<ListParams>) -> Handled {
    let query = params.query(LIST_DEFAULT, LIST_MAX)?;
    Ok(context.answer(context.node.wire().wire_conversations(query).await))
}

#[derive(Deserialize)]
pub(super) struct DensityParams {
    filter: Option<String>,
    node: Option<String>,
    start: Option<String>,
    end: Option<String>,
    buckets: Option<usize>,
}

impl DensityParams {
    /// What is counted, up to now at most.
    pub(super) fn query(self, now: UnixMillis) -> Result<DensityQuery, Problem> {
        let end = place(self.end, "end")?.map_or(now, |at| UnixMillis(at / 1_000));
        let start = place(self.start, "start")?
            .map_or(UnixMillis(end.0.saturating_sub(DENSITY_SPAN_MS)), |at| UnixMillis(at / 1_000));
        if start >= end {
            return Err(Problem::invalid("start is before end"));
        }
        let buckets = self.buckets.unwrap_or(BUCKETS_DEFAULT);
        Ok(DensityQuery { filter: checked(self.filter)?, node: named(self.node)?, start, end, buckets })
    }
}

pub(super) async fn density(State(context): State<Context>, Params(params): Params<DensityParams>) -> Handled {
    let query = params.query(clock::unix_now())?;
    Ok(context.answer(context.node.wire().wire_density(query).await))
}

pub(super) async fn fields(State(context): State<Context>) -> Response {
    context.answer(context.node.wire().wire_fields().await)
}

#[derive(Deserialize)]
pub(super) struct ExportParams {
    format: Option<String>,
    filter: Option<String>,
    node: Option<String>,
    since: Option<String>,
    before: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn export(State(context): State<Context>, Params(params): Params<ExportParams>) -> Handled {
    let (format, kind, name) = match params.format.as_deref() {
        None | Some("jsonl") => (ExportFormat::JsonLines, "application/x-ndjson", "hive-wire.jsonl"),
        Some("pcapng") => (ExportFormat::Pcapng, "application/x-pcapng", "hive-wire.pcapng"),
        Some(_) => return Err(Problem::invalid("format is jsonl or pcapng")),
    };
    let ExportParams { filter, node, since, before, limit, .. } = params;
    let query = ListParams { filter, node, since, before, limit }.query(EXPORT_MAX, EXPORT_MAX)?;
    let bytes = context.node.wire().wire_export(query, format).await?;
    let headers = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
    ];
    Ok((context.position(), headers, Body::from_stream(bytes)).into_response())
}

#[cfg(test)]
mod fake;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_time_are_numbers_times_or_seconds() {
        assert_eq!(cursor("1795293032000123"), Some(1_795_293_032_000_123));
        assert_eq!(cursor("1795293032000"), Some(1_795_293_032_000_000));
        assert_eq!(cursor("1795293032.5"), Some(1_795_293_032_500_000));
        assert_eq!(cursor("2026-11-21T20:30:32Z"), Some(1_795_293_032_000_000));
        assert_eq!((cursor("-1"), cursor("NaN"), cursor("yesterday")), (None, None, None));
    }
}
