//! What is made of many records: conversations, how many there were when, and what was said to whom.
//!
//! Never done here: getting records.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Protocol, Record};
use crate::engine::id::UnixMillis;

/// Most columns of a histogram.
pub const BUCKETS_MAX: usize = 500;
/// A question of the same trace that comes later than this is another question of the same words, milliseconds.
const APART_MS: u64 = 30_000;

/// A question with its answers, or a message at both its ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// Of all its records.
    pub trace: String,
    /// Its first record.
    pub began: UnixMillis,
    /// Its last one.
    pub ended: UnixMillis,
    /// What was spoken.
    pub protocol: Protocol,
    /// Who began it.
    pub from: String,
    /// With whom; `everybody`, or several.
    pub to: String,
    /// Kinds in their order, each once.
    pub kinds: Vec<String>,
    /// The nodes that saw it.
    pub nodes: Vec<String>,
    /// Its records, oldest first: what to ask details of.
    pub records: Vec<String>,
    /// Bytes of its messages, each counted once where both ends saw it.
    pub bytes: u64,
    /// Between question and answer, as the asking end saw it where it is among the records. Milliseconds.
    pub latency_ms: Option<f64>,
    /// What came of it.
    pub status: Option<String>,
    /// `taken`, or why a message of it was refused.
    pub verdict: String,
    /// The first job named in it.
    pub job: Option<String>,
    /// The session named in it.
    pub session: Option<String>,
}

/// Puts records together that belong together. Newest conversation first.
pub fn conversations(records: &[Record], limit: usize) -> Vec<Conversation> {
    let mut order: Vec<&Record> = records.iter().collect();
    order.sort_by_key(|record| (record.at, record.number));
    let mut open: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    let mut all = Vec::new();
    for record in order {
        let group = open.entry(record.trace.as_str()).or_default();
        if group.last().is_some_and(|last| record.at.0.saturating_sub(last.at.0) > APART_MS)
            || begins_anew(group, record)
        {
            all.extend(conversation(&std::mem::take(group)));
        }
        group.push(record);
    }
    all.extend(open.values().filter_map(|group| conversation(group)));
    all.sort_by(|a, b| (b.began, &b.trace).cmp(&(a.began, &a.trace)));
    all.truncate(limit);
    all
}

/// The same question once more from a node that has asked it already: the words are the same, so the trace is, too.
fn begins_anew(group: &[&Record], record: &Record) -> bool {
    let streams = matches!(record.protocol, Protocol::Log | Protocol::Buildlog | Protocol::Snapshot | Protocol::Blob);
    let same = |seen: &&Record| {
        (&seen.node, &seen.kind, &seen.to, seen.sent) == (&record.node, &record.kind, &record.to, record.sent)
    };
    let first = group.first().is_some_and(|first| first.kind == record.kind && first.from == record.from);
    !streams && first && record.latency_ms.is_none() && record.node == record.from && group.iter().any(same)
}

fn conversation(records: &[&Record]) -> Option<Conversation> {
    let (first, last) = (records.first()?, records.last()?);
    let mut kinds: Vec<String> = Vec::new();
    let mut nodes = BTreeSet::new();
    let (mut receivers, mut messages) = (BTreeSet::new(), BTreeMap::new());
    for record in records {
        if !kinds.contains(&record.kind) {
            kinds.push(record.kind.clone());
        }
        nodes.insert(record.node.clone());
        if record.from == first.from {
            receivers.insert(record.to.as_str());
        }
        // Sent here and received there is one message.
        messages.insert((&record.kind, &record.from), record.bytes);
    }
    receivers.remove(first.from.as_str());
    let to = match receivers.len() {
        0 => first.to.clone(),
        1 => receivers.first().map_or_else(String::new, |to| (*to).to_owned()),
        _ if receivers.contains("everybody") => "everybody".to_owned(),
        count => format!("{count} nodes"),
    };
    // The asking end receives the answer, so it has waited longest.
    let latency_ms = records.iter().filter_map(|record| record.latency_ms).max_by(f64::total_cmp);
    let refused = records.iter().find(|record| !matches!(record.verdict.as_str(), "taken" | "sent"));
    Some(Conversation {
        trace: first.trace.clone(),
        began: first.at,
        ended: last.at,
        protocol: first.protocol,
        from: first.from.clone(),
        to,
        kinds,
        nodes: nodes.into_iter().collect(),
        records: records.iter().map(|record| record.id.clone()).collect(),
        bytes: messages.values().sum(),
        latency_ms,
        status: records.iter().rev().find_map(|record| record.status.clone()),
        verdict: refused.map_or_else(|| "taken".to_owned(), |record| record.verdict.clone()),
        job: records.iter().find_map(|record| record.job.clone()),
        session: records.iter().find_map(|record| record.session.clone()),
    })
}

/// How many records there were when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Density {
    /// Where the first column begins.
    pub start: UnixMillis,
    /// Where the last one ends.
    pub end: UnixMillis,
    /// Records in each column.
    pub counts: Vec<u64>,
    /// Those among them that were refused.
    pub refused: Vec<u64>,
}

/// Counts records by time. At most [`BUCKETS_MAX`] columns; one that begins at `end` is not counted.
pub fn density<'a>(
    records: impl Iterator<Item = (UnixMillis, bool)> + 'a,
    start: UnixMillis,
    end: UnixMillis,
    buckets: usize,
) -> Density {
    let buckets = buckets.clamp(1, BUCKETS_MAX);
    let (mut counts, mut refused) = (vec![0; buckets], vec![0; buckets]);
    let span = end.0.saturating_sub(start.0).max(1);
    for (at, was_refused) in records.filter(|(at, _)| (start.0..end.0).contains(&at.0)) {
        let column = u128::from(at.0 - start.0) * buckets as u128 / u128::from(span);
        let column = usize::try_from(column).unwrap_or(buckets);
        if let (Some(count), Some(bad)) = (counts.get_mut(column), refused.get_mut(column)) {
            *count += 1;
            *bad += u64::from(was_refused);
        }
    }
    Density { start, end, counts, refused }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(at: u64, node: &str, trace: &str, kind: &str, from: &str, to: &str, bytes: u64) -> Record {
        Record {
            id: format!("{at}@{node}"),
            number: at,
            at: UnixMillis(at),
            node: node.into(),
            sent: node == from,
            from: from.into(),
            to: to.into(),
            protocol: Protocol::Control,
            kind: kind.into(),
            path: None,
            job: None,
            jobs: 0,
            session: None,
            bytes,
            latency_ms: None,
            status: None,
            verdict: if node == from { "sent".into() } else { "taken".into() },
            trace: trace.into(),
            summary: String::new(),
        }
    }

    #[test]
    fn both_ends_of_question_and_answer_are_one_conversation() {
        let mut answer = record(13, "a", "t", "LEASES", "b", "a", 20);
        (answer.latency_ms, answer.status) = (Some(3.0), Some("ok".into()));
        let mut there = record(12, "b", "t", "LEASES", "b", "a", 20);
        there.latency_ms = Some(1.0);
        let records = [
            answer,
            record(10, "a", "t", "LEASE", "a", "b", 50),
            record(11, "b", "t", "LEASE", "a", "b", 50),
            there,
            record(100_000, "a", "t", "LEASE", "a", "b", 50),
            record(100_200, "a", "t", "LEASE", "a", "b", 50),
            record(11, "a", "u", "HELLO", "a", "everybody", 800),
        ];
        let all = conversations(&records, 10);
        assert_eq!(all.len(), 4, "the same words again are another one: {all:#?}");
        let one = all.iter().find(|one| one.began.0 == 10).expect("there");
        assert_eq!((one.from.as_str(), one.to.as_str(), one.bytes), ("a", "b", 70));
        assert_eq!(one.kinds, ["LEASE", "LEASES"]);
        assert_eq!((one.latency_ms, one.records.len(), one.nodes.len()), (Some(3.0), 4, 2));
        assert_eq!(one.status.as_deref(), Some("ok"));
        assert_eq!(conversations(&records, 1).len(), 1);
        assert_eq!(conversations(&records, 1)[0].began.0, 100_200, "the newest");
    }

    proptest! {
        #[test]
        fn a_histogram_counts_each_record_once(times in proptest::collection::vec(0u64..2_000, 0..200), start in 0u64..1_000, span in 1u64..1_500, buckets in 0usize..700) {
            let end = start + span;
            let counted = density(times.iter().map(|at| (UnixMillis(*at), at % 2 == 0)), UnixMillis(start), UnixMillis(end), buckets);
            let inside = times.iter().filter(|at| (start..end).contains(at)).count() as u64;
            prop_assert_eq!(counted.counts.iter().sum::<u64>(), inside);
            prop_assert!(counted.counts.len() <= BUCKETS_MAX);
            prop_assert!(counted.refused.iter().zip(&counted.counts).all(|(bad, all)| bad <= all));
        }

        #[test]
        fn every_record_is_in_one_conversation(times in proptest::collection::vec((0u64..90_000, 0u8..4), 0..60)) {
            let records: Vec<Record> = times.iter().enumerate()
                .map(|(number, (at, trace))| Record { number: number as u64, id: number.to_string(), ..record(*at, "a", &trace.to_string(), "K", "a", "b", 1) })
                .collect();
            let all = conversations(&records, usize::MAX);
            prop_assert_eq!(all.iter().map(|one| one.records.len()).sum::<usize>(), records.len());
        }
    }
}
