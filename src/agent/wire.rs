//! What passed, for whoever asks this node: its own records from its ring and disk, others' from the nodes that saw them.
//!
//! ```text
//!   web ─► WireApi ─► one node: here, or over /hive/wire/1
//!                 └─► all: every living member at once, merged by time
//! ```
//!
//! Names, decoding and redaction happen here, when somebody asks ([`records`]). What leaves this node has no secret in it, to other
//! nodes neither. Never done here: capturing.

mod disk;
mod export;
mod old;
mod records;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use self::records::{Desk, Whole};
use super::internal;
use super::node_api::Api;
use super::shared::Shared;
use crate::api::{
    ApiError, ApiResult, ErrorCode, WireConversations, WireDetail, WireField, WireFields, WireList, WireNode,
};
use crate::clock::unix_now;
use crate::config::Config;
use crate::engine::id::{PeerId, UnixMillis};
use crate::engine::wire::filter::{FIELDS, Field, Filter, operators, units};
use crate::engine::wire::look::{self, Density};
use crate::engine::wire::{Protocol, Record};
use crate::tasks;
use crate::transport::{self, CONTROL_FRAME_MAX, Incoming, RAFT_FRAME_MAX, Transport as _};
use crate::web::node::{Answer, ByteStream};
use crate::web::wire::{DensityQuery, ExportFormat, LIST_MAX, OldQuestion, WireApi, WireNews, WireQuery};
use crate::wire::{PROTOCOL, Settings, Wire};

/// Questions of other nodes that are worked on at once; each may read the whole ring.
static ANSWERING: Semaphore = Semaphore::const_new(4);
/// Questions over HTTP that are worked on at once.
static LOOKING: Semaphore = Semaphore::const_new(8);
/// How long a question waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// How long another node's answer is awaited.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer says what it wants within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Records with bodies in one answer between nodes, so that it fits into a frame.
const WHOLE_MAX: usize = 500;
/// Records with the same trace that are shown beside one.
const RELATED_MAX: usize = 100;
/// Live views are told so often, and at most so many at once; more a person cannot read.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);
const FOLLOW_MAX: usize = 250;
/// Records that are looked at for values of fields.
const VALUES_FROM: usize = 2_000;
/// Values of a field that are offered.
const VALUES_MAX: usize = 50;

/// What nodes ask each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Question {
    List { filter: String, since: Option<u64>, before: Option<u64>, limit: usize },
    Whole { filter: String, since: Option<u64>, before: Option<u64>, limit: usize },
    Detail { number: u64 },
    Density { filter: String, start: UnixMillis, end: UnixMillis, buckets: usize },
}

/// What they are told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    List(Box<WireList>),
    Whole(Vec<Whole>),
    Detail(Option<Box<WireDetail>>),
    Density(Density),
    Refused(String),
}

/// The ring as it is configured.
pub(super) fn ring(config: &Config, me: &PeerId) -> Wire {
    let wire = &config.wire;
    let settings = Settings { records: wire.ring_records, body_bytes: wire.ring_mb << 20, sample: wire.sample.clone() };
    Wire::new(me.clone(), &settings)
}

/// Serves other nodes, and keeps on the disk what the policy picks, until the mesh ends.
pub(super) fn serve(shared: &Arc<Shared>) -> io::Result<()> {
    tasks::spawn("wire-disk", disk::keep(Arc::clone(shared)));
    let mut incoming = shared.mesh.accept(PROTOCOL)?;
    let shared = Arc::clone(shared);
    tasks::spawn("wire", async move {
        while let Some(Incoming { peer, mut stream }) = incoming.recv().await {
            let shared = Arc::clone(&shared);
            tasks::spawn("wire-answer", async move {
                let request = transport::read_frame::<Question>(&mut stream, CONTROL_FRAME_MAX);
                let Ok(Ok(question)) = tokio::time::timeout(REQUEST_TIMEOUT, request).await else { return };
                let told = if !shared.read(|state| state.member(&peer).is_some_and(|member| !member.left)) {
                    Told::Refused("the asking node is not a member of this hive".to_owned())
                } else if let Ok(Ok(_turn)) = tokio::time::timeout(TURN, ANSWERING.acquire()).await {
                    here(&shared, question).await
                } else {
                    Told::Refused("this node answers as many questions about its wire as it can; ask again".to_owned())
                };
                if let Err(error) = transport::write_frame(&mut stream, &told, RAFT_FRAME_MAX).await {
                    tracing::debug!(%peer, %error, "an answer about the wire was not taken");
                }
            });
        }
    });
    Ok(())
}

/// Answers from this node's own ring, beside the runtime's threads: it may read and decode all of it.
async fn here(shared: &Arc<Shared>, question: Question) -> Told {
    let shared = Arc::clone(shared);
    let answered = tokio::task::spawn_blocking(move || {
        let desk = Desk::new(&shared);
        let parse = |text: &str| Filter::parse(text).map_err(|error| error.to_string());
        let answer = match question {
            Question::List { filter, since, before, limit } => parse(&filter)
                .map(|filter| Told::List(Box::new(list_here(&shared, &desk, &filter, since, before, limit)))),
            Question::Whole { filter, since, before, limit } => {
                parse(&filter).map(|filter| Told::Whole(desk.whole(&filter, since, before, limit.min(WHOLE_MAX))))
            }
            Question::Detail { number } => Ok(Told::Detail(desk.detail(number, RELATED_MAX).map(Box::new))),
            Question::Density { filter, start, end, buckets } => {
                parse(&filter).map(|filter| Told::Density(desk.density(&filter, start, end, buckets)))
            }
        };
        answer.unwrap_or_else(Told::Refused)
    });
    answered.await.unwrap_or_else(|error| Told::Refused(error.to_string()))
}

fn list_here(
    shared: &Shared,
    desk: &Desk<'_>,
    filter: &Filter,
    since: Option<u64>,
    before: Option<u64>,
    limit: usize,
) -> WireList {
    let limit = limit.min(LIST_MAX);
    let (mut records, latest, mut more) = desk.list(filter, since, before, limit);
    // What is older than the ring may be on the disk.
    let oldest = shared.wire.bounds().map_or(u64::MAX, |(oldest, _)| oldest);
    let range = (since.unwrap_or(0), oldest.min(before.unwrap_or(u64::MAX)));
    if range.0 < range.1 && (since.is_some() || records.len() < limit) {
        let mut older = disk::find(&disk::directory(shared), filter, range, limit, since.is_none());
        older.append(&mut records);
        records = older;
        let over = records.len().saturating_sub(limit);
        more |= over > 0;
        if since.is_none() {
            records.drain(..over);
        } else {
            records.truncate(limit);
        }
    }
    let latest = if more && since.is_some() { records.last().map_or(latest, |last| last.number) } else { latest };
    WireList { records, latest, more, nodes: vec![desk.node()] }
}

async fn ask(shared: &Arc<Shared>, peer: &PeerId, question: &Question) -> Result<Told, String> {
    if *peer == shared.me.peer_id {
        return Ok(here(shared, question.clone()).await);
    }
    let answer = transport::call::<Question, Told>(&shared.mesh, peer, PROTOCOL, question, ANSWER_TIMEOUT).await;
    match answer {
        Ok(Told::Refused(why)) => Err(why),
        Ok(told) => Ok(told),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            Err("it runs a version of hive that does not answer this".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn no_node(name: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no node {name:?}"), "see: hive status; all asks every node")
}

/// The nodes that are asked.
fn asked(shared: &Shared, node: Option<&str>) -> ApiResult<Vec<PeerId>> {
    let me = &shared.me.peer_id;
    match node {
        None => Ok(vec![me.clone()]),
        Some("all") => Ok(std::iter::once(me.clone()).chain(shared.alive_peers()).collect()),
        Some(name) if name == shared.me.name || name == shared.name_of(me) => Ok(vec![me.clone()]),
        Some(name) => shared.read(|state| {
            let named =
                state.members().find(|member| member.display_name == name || member.info.peer_id.as_str() == name);
            named.map(|member| vec![member.info.peer_id.clone()]).ok_or_else(|| no_node(name))
        }),
    }
}

/// Asks several nodes at once. What one answers is told with its name, whatever became of it.
async fn ask_all(
    shared: &Arc<Shared>,
    peers: &[PeerId],
    question: &Question,
) -> ApiResult<Vec<(String, Result<Told, String>)>> {
    let busy = || {
        ApiError::new(
            ErrorCode::Unreachable,
            "this node answers as many questions about the wire as it can",
            "ask again in a moment",
        )
    };
    let _turn = tokio::time::timeout(TURN, LOOKING.acquire()).await.map_err(|_| busy())?.map_err(|_| busy())?;
    let answers =
        join_all(peers.iter().map(|peer| async move { (shared.name_of(peer), ask(shared, peer, question).await) }))
            .await;
    match answers.as_slice() {
        // The only one that was asked has to answer.
        [(name, Err(why))] => Err(ApiError::new(
            ErrorCode::Unreachable,
            format!("{name} does not tell: {why}"),
            "see: hive peers; hive doctor",
        )),
        _ => Ok(answers),
    }
}

fn in_order(records: &mut [Record]) {
    records.sort_by(|a, b| (a.number, &a.node).cmp(&(b.number, &b.node)));
}

async fn list(shared: &Arc<Shared>, query: WireQuery) -> ApiResult<WireList> {
    let peers = asked(shared, query.node.as_deref())?;
    let WireQuery { filter, since, before, limit, .. } = query;
    let limit = limit.min(LIST_MAX);
    let mut all = WireList::default();
    for (name, answer) in ask_all(shared, &peers, &Question::List { filter, since, before, limit }).await? {
        match answer {
            Ok(Told::List(one)) => {
                all.records.extend(one.records);
                all.latest = all.latest.max(one.latest);
                all.more |= one.more;
                all.nodes.extend(one.nodes);
            }
            Ok(_) => all.nodes.push(WireNode {
                name,
                problem: Some("it answers something else".to_owned()),
                ..WireNode::default()
            }),
            Err(why) => all.nodes.push(WireNode { name, problem: Some(why), ..WireNode::default() }),
        }
    }
    in_order(&mut all.records);
    let over = all.records.len().saturating_sub(limit);
    if over > 0 {
        all.more = true;
        if since.is_some() {
            all.records.truncate(limit);
            all.latest = all.records.last().map_or(all.latest, |last| last.number);
        } else {
            all.records.drain(..over);
        }
    }
    Ok(all)
}

async fn detail(shared: &Arc<Shared>, id: &str) -> ApiResult<WireDetail> {
    let invalid = || ApiError::new(ErrorCode::Invalid, "a record is named NUMBER@NODE", "see: hive wire --json");
    let (number, node) = id.split_once('@').ok_or_else(invalid)?;
    let number = number.parse().map_err(|_| invalid())?;
    let peers = asked(shared, Some(node).filter(|node| *node != "all"))?;
    let mut answers = ask_all(shared, &peers, &Question::Detail { number }).await?;
    match answers.pop() {
        Some((_, Ok(Told::Detail(Some(found))))) => Ok(*found),
        _ => {
            let message = format!("{node} no longer has the record {number} in memory");
            Err(ApiError::new(
                ErrorCode::NotFound,
                message,
                "wire.ring_records and wire.ring_mb say how much is kept: hive config reference",
            ))
        }
    }
}

async fn density(shared: &Arc<Shared>, query: DensityQuery) -> ApiResult<Density> {
    let peers = asked(shared, query.node.as_deref())?;
    let DensityQuery { filter, start, end, buckets, .. } = query;
    let question = Question::Density { filter, start, end, buckets };
    let mut sum = look::density(std::iter::empty(), start, end, buckets);
    for (name, answer) in ask_all(shared, &peers, &question).await? {
        match answer {
            Ok(Told::Density(one)) => {
                sum.counts.iter_mut().zip(&one.counts).for_each(|(sum, one)| *sum += one);
                sum.refused.iter_mut().zip(&one.refused).for_each(|(sum, one)| *sum += one);
            }
            Ok(_) => tracing::debug!(name, "another answer than one about density"),
            Err(why) => tracing::debug!(name, why, "a node is missing in a histogram"),
        }
    }
    Ok(sum)
}

/// Values of a field, those seen lately.
fn values(field: Field, seen: &[Record]) -> Vec<String> {
    let of = |pick: &dyn Fn(&Record) -> Option<String>| {
        let values: BTreeSet<String> = seen.iter().filter_map(pick).collect();
        values.into_iter().take(VALUES_MAX).collect()
    };
    match field {
        Field::Protocol => Protocol::ALL.iter().map(|protocol| protocol.as_str().to_owned()).collect(),
        Field::From => of(&|record| Some(record.from.clone())),
        Field::To => of(&|record| Some(record.to.clone())),
        Field::Kind => of(&|record| Some(record.kind.clone())),
        Field::Verdict => of(&|record| Some(record.verdict.clone())),
        Field::Status => of(&|record| record.status.clone()),
        Field::Node => of(&|record| Some(record.node.clone())),
        Field::Job => of(&|record| record.job.clone()),
        Field::Session => of(&|record| record.session.clone()),
        Field::Sent => vec!["true".to_owned(), "false".to_owned()],
        Field::Id | Field::Path | Field::Bytes | Field::Latency | Field::Jobs | Field::Trace | Field::Summary => {
            Vec::new()
        }
    }
}

async fn fields(shared: &Arc<Shared>) -> ApiResult<WireFields> {
    let question = Question::List { filter: String::new(), since: None, before: None, limit: VALUES_FROM };
    let Told::List(seen) = here(shared, question).await else { return Err(internal("no list of records")) };
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let fields = FIELDS.iter().map(|(field, name, kind, meaning)| WireField {
        name: (*name).to_owned(),
        kind: *kind,
        meaning: (*meaning).to_owned(),
        operators: owned(operators(*kind)),
        units: owned(units(*kind)),
        values: values(*field, &seen.records),
    });
    Ok(WireFields { fields: fields.collect(), joins: owned(&["&&", "||", "!", "(", ")"]) })
}

impl WireApi for Api {
    fn wire_list(&self, query: WireQuery) -> Answer<'_, WireList> {
        list(&self.shared, query).boxed()
    }

    fn wire_detail(&self, id: String) -> Answer<'_, WireDetail> {
        async move { detail(&self.shared, &id).await }.boxed()
    }

    fn wire_conversations(&self, query: WireQuery) -> Answer<'_, WireConversations> {
        async move {
            let limit = query.limit;
            let list = list(&self.shared, WireQuery { limit: LIST_MAX, ..query }).await?;
            Ok(WireConversations { conversations: look::conversations(&list.records, limit), nodes: list.nodes })
        }
        .boxed()
    }

    fn wire_density(&self, query: DensityQuery) -> Answer<'_, Density> {
        density(&self.shared, query).boxed()
    }

    fn wire_fields(&self) -> Answer<'_, WireFields> {
        fields(&self.shared).boxed()
    }

    fn wire_export(&self, query: WireQuery, format: ExportFormat) -> Answer<'_, ByteStream> {
        export::export(&self.shared, query, format).boxed()
    }

    fn wire_follow(&self, filter: Filter) -> BoxStream<'static, WireNews> {
        let mut rounds = tokio::time::interval(FOLLOW_EVERY);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let after = unix_now().0.saturating_mul(1_000);
        let follow = Follow { shared: Arc::clone(&self.shared), after, filter, rounds };
        futures::stream::unfold(follow, |mut follow| async move { Some((follow.next().await?, follow)) }).boxed()
    }

    fn wire_old(&self, question: OldQuestion) -> Answer<'_, serde_json::Value> {
        old::answer(&self.shared, question).boxed()
    }
}

/// Records as they come, for live views.
struct Follow {
    shared: Arc<Shared>,
    after: u64,
    filter: Filter,
    rounds: tokio::time::Interval,
}

impl Follow {
    /// What came since the last call; waits until something did. Costs next to nothing while nothing does.
    async fn next(&mut self) -> Option<WireNews> {
        loop {
            self.rounds.tick().await;
            let (_, newest) = self.shared.wire.bounds()?;
            if newest <= self.after {
                continue;
            }
            let (shared, filter, after) = (Arc::clone(&self.shared), self.filter.clone(), self.after);
            let looked = tokio::task::spawn_blocking(move || {
                let (records, latest, more) = Desk::new(&shared).list(&filter, Some(after), None, FOLLOW_MAX);
                let dropped = if more { shared.wire.marks(latest).len() as u64 } else { 0 };
                (records, dropped)
            });
            let (records, dropped) = looked.await.ok()?;
            self.after = newest;
            if !records.is_empty() || dropped > 0 {
                return Some(WireNews { records, dropped });
            }
        }
    }
}
