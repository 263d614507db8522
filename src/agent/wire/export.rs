//! Records as a file: JSON lines, or a capture for packet analysers. Made while it is fetched, in pieces.
//!
//! Never done here: writing to a disk.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::json;

use super::records::Whole;
use super::{Question, Told, WHOLE_MAX, ask_all, asked, internal};
use crate::agent::shared::Shared;
use crate::api::ApiResult;
use crate::engine::id::PeerId;
use crate::engine::wire::Record;
use crate::engine::wire::pcapng::{Packet, Writer};
use crate::web::node::ByteStream;
use crate::web::wire::{ExportFormat, WireQuery};

/// Several nodes are asked for so many in all, merged by time; one by one they are asked for all they have.
const MERGED_MAX: usize = 20_000;

/// How far an export is.
struct Going {
    shared: Arc<Shared>,
    filter: String,
    before: Option<u64>,
    left: usize,
    /// Nodes that are still to be asked, and from which number on.
    nodes: Vec<(PeerId, u64)>,
    ready: VecDeque<Whole>,
    writer: Option<Writer>,
    begun: bool,
}

pub(super) async fn export(shared: &Arc<Shared>, query: WireQuery, format: ExportFormat) -> ApiResult<ByteStream> {
    let peers = asked(shared, query.node.as_deref())?;
    let since = query.since.unwrap_or(0);
    let mut going = Going {
        shared: Arc::clone(shared),
        filter: query.filter,
        before: query.before,
        left: if peers.len() > 1 { query.limit.min(MERGED_MAX) } else { query.limit },
        nodes: peers.into_iter().map(|peer| (peer, since)).collect(),
        ready: VecDeque::new(),
        writer: (format == ExportFormat::Pcapng).then(Writer::default),
        begun: false,
    };
    // Whatever is wrong is told before the file begins.
    going.fetch().await?;
    let stream = futures::stream::try_unfold(going, |mut going| async move {
        let piece = going.next().await?;
        Ok::<_, io::Error>(piece.map(|bytes| (bytes, going)))
    });
    Ok(stream.boxed())
}

impl Going {
    /// Gets the next records of every node that has more. What is older than the last record of a node that was cut waits for nothing:
    /// records of one round are in order, and rounds of one node follow each other.
    async fn fetch(&mut self) -> ApiResult<()> {
        let mut found: Vec<Whole> = Vec::new();
        let mut more = Vec::new();
        for (peer, since) in std::mem::take(&mut self.nodes) {
            let question = Question::Whole {
                filter: self.filter.clone(),
                since: Some(since),
                before: self.before,
                limit: WHOLE_MAX,
            };
            let answers = ask_all(&self.shared, std::slice::from_ref(&peer), &question).await;
            match answers.map(|mut answers| answers.pop()) {
                Ok(Some((_, Ok(Told::Whole(records))))) => {
                    if records.len() >= WHOLE_MAX
                        && let Some(last) = records.last()
                    {
                        more.push((peer, last.record.number));
                    }
                    found.extend(records);
                }
                Ok(_) => return Err(internal("another answer than records")),
                // The others are exported all the same.
                Err(error) if self.begun || peer != self.shared.me.peer_id => {
                    tracing::info!(%peer, error = error.message, "not in the export")
                }
                Err(error) => return Err(error),
            }
        }
        found.sort_by(|a, b| (a.record.number, &a.record.node).cmp(&(b.record.number, &b.record.node)));
        self.nodes = more;
        self.ready.extend(found);
        Ok(())
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.ready.is_empty() && !self.nodes.is_empty() && self.left > 0 {
            self.fetch().await.map_err(|error| io::Error::other(error.message))?;
        }
        let mut out = Vec::new();
        if !self.begun {
            self.begun = true;
            if let Some(writer) = &self.writer {
                out.extend(writer.begin(concat!("hive ", env!("CARGO_PKG_VERSION"))));
            }
        }
        while out.len() < 64 << 10 && self.left > 0 {
            let Some(whole) = self.ready.pop_front() else { break };
            self.left -= 1;
            match &mut self.writer {
                Some(writer) => out.extend(packet(writer, &whole)),
                None => {
                    let line = json!({ "record": whole.record, "fields": whole.fields });
                    serde_json::to_writer(&mut out, &line)?;
                    out.push(b'\n');
                }
            }
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }
}

fn comment(record: &Record) -> String {
    let Record { from, to, protocol, kind, verdict, summary, trace, .. } = record;
    format!("{from} → {to} {protocol} {kind} [{verdict}] {summary} (seen by {}, trace {trace})", record.node)
}

fn packet(writer: &mut Writer, whole: &Whole) -> Vec<u8> {
    let datagram = whole.record.protocol.is_datagram();
    let text = if datagram { String::new() } else { whole.fields.to_string() };
    let content = if datagram { whole.raw.as_slice() } else { text.as_bytes() };
    writer.packet(&Packet {
        at_us: whole.record.number,
        from: whole.from,
        to: whole.to,
        datagram,
        content,
        whole_len: whole.record.bytes,
        comment: &comment(&whole.record),
    })
}
