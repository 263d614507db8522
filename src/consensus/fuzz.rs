//! What voters, standbys and observers send each other, log entries, and snapshots on their way.

use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;

use super::codec::{self, WireEntry, WireVote};
use super::feed::{Hello, Said};
use super::network::{CallBody, RaftAnswer, RaftCall, SnapshotAnswer, SnapshotCall};
use super::replica::decode_batch;
use super::transfer::{self, Chunk, Offer, Resume};
use super::types::{Entry, Membership, RaftNode, StoredMembership, Vote};
use crate::engine::command::{Batch, Command, ENVELOPE_VERSION, Origin, Proposal};
use crate::engine::control::Control;
use crate::engine::id::{Epoch, EpochId, HiveId, JobId, PeerId, SessionId, Sha256Hash, UnixMillis};
use crate::engine::job::{JobSpec, Source, Work};
use crate::engine::state::State;
use crate::fuzzing::{SMALL, attack, cbor, made, scratch};
use crate::store::raft_db::{LogPoint, RawEntry};

fn batch(commands: &[Command]) -> Vec<u8> {
    let origin = |sequence| Origin { peer_id: PeerId::new("12D3KooWNode001"), incarnation: 1, sequence };
    let proposals = commands.iter().zip(1..).map(|(command, number)| Proposal::new(origin(number), command)).collect();
    made(&Batch { version: ENVELOPE_VERSION, elapsed_ms: 5, at: UnixMillis(1_762_605_296_789), proposals })
}

/// A hive, a job, and what operators do.
fn batches() -> Vec<Vec<u8>> {
    let epoch = Epoch { counter: 1, id: EpochId([1; 16]) };
    let work = Work::Command {
        source: Source::Blob { sha256: Sha256Hash([9; 32]), size: 100 },
        argv: vec!["make".to_owned()],
        artifacts: vec!["out/*".to_owned()],
    };
    let job = JobSpec::new(JobId(uuid::Uuid::from_u128(5)), "a job", work);
    let session = SessionId(uuid::Uuid::from_u128(6));
    let reason = "a test".to_owned();
    vec![
        batch(&[Command::BeginEpoch { epoch }, Command::RaiseFeatureLevel { level: 1 }]),
        batch(&[Command::submit(session, "me", vec![job.clone()])]),
        batch(&[Command::Cancel { job: job.id, reason: reason.clone() }, Command::EndBlock { job: job.id }]),
        batch(&[Command::Control { action: Control::Reset { running: true }, by: "me".to_owned(), why: reason }]),
    ]
}

fn membership() -> Membership {
    let node = |name: &str| RaftNode { peer_id: PeerId::new(name) };
    let nodes = BTreeMap::from([(1, node("a")), (2, node("b")), (u64::MAX, node("c"))]);
    Membership::new(vec![BTreeSet::from([1]), BTreeSet::from([1, 2])], nodes).expect("valid")
}

fn entries() -> Vec<WireEntry> {
    let at = |index| codec::log_id(LogPoint { term: 3, index });
    let mut payloads = vec![EntryPayload::Blank, EntryPayload::Membership(membership())];
    payloads.extend(batches().into_iter().map(|bytes| EntryPayload::Normal(super::types::EncodedBatch(bytes.into()))));
    let entry = |(payload, index)| codec::entry_to_wire(&Entry { log_id: at(index), payload }).expect("encodes");
    payloads.into_iter().zip(1..).map(entry).collect()
}

fn vote() -> WireVote {
    WireVote { term: 4, node: 2, committed: true }
}

#[test]
fn raft_calls() {
    let point = Some(LogPoint { term: 3, index: 9 });
    let bodies = [
        CallBody::Append { vote: vote(), previous: point, entries: entries(), commit: point, acked_ago_ms: Some(5) },
        CallBody::Vote { vote: vote(), last: point, transfer: false },
        CallBody::PreVote { vote: vote(), last: None, transfer: true },
        CallBody::Transfer { vote: vote(), to: 3, last: point },
    ];
    let mut all: Vec<Vec<u8>> = bodies.into_iter().map(|body| made(&RaftCall { from: 1, to: 2, body })).collect();
    all.push(made(&RaftAnswer::Vote { vote: vote(), granted: true, last: point }));
    all.push(made(&RaftAnswer::Refused("why".to_owned())));
    attack("raft_calls", all, 4 * SMALL, |bytes| {
        if let Ok(RaftCall { body: CallBody::Append { entries, .. }, .. }) = crate::transport::decode(bytes) {
            entries.iter().for_each(|entry| drop(codec::entry_from_wire(entry)));
        }
        cbor::<RaftCall>(bytes) | cbor::<RaftAnswer>(bytes)
    });
}

#[test]
fn observers() {
    let point = LogPoint { term: 3, index: 9 };
    let offer = Offer { size: 70_000, sha256: [3; 32] };
    let all = vec![
        made(&Hello::Follow { applied: Some(point), chain: [1; 32], even_leader: true }),
        made(&Hello::Check { at: point, chain: [2; 32] }),
        made(&Said::Matches),
        made(&Said::Redirect { to: vec![PeerId::new("a")] }),
        made(&Said::Snapshot(offer.clone())),
        made(&Said::Entries(entries())),
        made(&Said::Tip { leader: Some(PeerId::new("a")), term: 3, committed: Some(9), quorum: true, heard_ago_ms: 5 }),
        made(&SnapshotCall { from: 1, to: 2, vote: vote(), offer: offer.clone() }),
        made(&SnapshotAnswer::Installed { vote: vote() }),
        made(&Resume { offset: 5 }),
        made(&Chunk { bytes: vec![1; 30] }),
    ];
    attack("observers", all, 4 * SMALL, |bytes| {
        cbor::<Hello>(bytes)
            | cbor::<Said>(bytes)
            | cbor::<SnapshotCall>(bytes)
            | cbor::<SnapshotAnswer>(bytes)
            | cbor::<Resume>(bytes)
            | cbor::<Chunk>(bytes)
    });
}

/// The payloads of entries, votes and memberships, as they lie on disk and pass the wire.
#[test]
fn log_entries() {
    let mut all: Vec<Vec<u8>> = entries().into_iter().map(|entry| entry.payload).collect();
    all.push(codec::vote_to_bytes(&Vote::from(vote())).expect("encodes"));
    let stored = StoredMembership::new(Some(codec::log_id(LogPoint { term: 1, index: 2 })), membership());
    all.push(codec::membership_to_bytes(&stored).expect("encodes"));
    attack("log_entries", all, 4 * SMALL, |bytes| {
        let at = LogPoint { term: 3, index: 9 };
        let entry = codec::entry_from_raw(&RawEntry { at, bytes: bytes.to_vec() });
        if let Ok(entry) = &entry {
            let raw = codec::entry_to_raw(entry).expect("what was read can be written");
            assert_eq!(&codec::entry_from_raw(&raw).expect("its own"), entry);
        }
        let vote = codec::vote_from_bytes(bytes);
        if let Ok(vote) = &vote {
            assert_eq!(&codec::vote_from_bytes(&codec::vote_to_bytes(vote).expect("encodes")).expect("its own"), vote);
        }
        let stored = codec::membership_from_bytes(bytes);
        // Nothing at all stands for no membership.
        if let Some(stored) = stored.as_ref().ok().filter(|_| !bytes.is_empty()) {
            let again = codec::membership_to_bytes(stored).expect("encodes");
            assert_eq!(&codec::membership_from_bytes(&again).expect("its own"), stored);
        }
        entry.is_ok() || vote.is_ok() || stored.is_ok()
    });
}

/// A batch is applied as a whole or not at all, the same on two replicas, and what it made can be read again.
#[test]
fn log_batches() {
    attack("log_batches", batches(), 16 * SMALL, |bytes| {
        let Ok(batch) = decode_batch(1, bytes) else { return false };
        let (mut one, mut other) = (founded(), founded());
        let index = 100;
        let applied = one.apply(index, &batch);
        match (&applied, other.apply(index, &batch)) {
            (Ok(left), Ok(right)) => {
                assert_eq!((left.replies.len(), &left.replies), (batch.proposals.len(), &right.replies))
            }
            (Err(left), Err(right)) => {
                assert_eq!(left.to_string(), right.to_string());
                assert_eq!(one.rows(), founded().rows(), "a halt leaves no trace");
            }
            _ => panic!("two replicas disagree"),
        }
        assert_eq!(one.chain(), other.chain());
        let Ok(applied) = applied else { return false };
        let mut rows = founded().rows();
        for change in applied.changes {
            match change.value {
                Some(value) => rows.insert(change.row, value),
                None => rows.remove(&change.row),
            };
        }
        let again = State::from_rows(rows).expect("its own rows");
        assert_eq!((again.chain(), again.rows()), (one.chain(), one.rows()));
        true
    });
}

/// A state with a hive in it.
fn founded() -> State {
    let founder = crate::engine::member::MemberInfo {
        peer_id: PeerId::new("12D3KooWNode001"),
        name: "node1".to_owned(),
        addresses: vec!["10.0.0.1:50555".to_owned()],
        incarnation: 1,
        version: "0.1.0".to_owned(),
        feature_level: 1,
        inventory: crate::engine::member::Inventory::default(),
    };
    let epoch = Epoch { counter: 1, id: EpochId([1; 16]) };
    let found = Command::Found { hive_id: HiveId([2; 16]), epoch, founder };
    let mut state = State::default();
    let batch: Batch = crate::transport::decode(&batch(&[found])).expect("its own");
    state.apply(1, &batch).expect("founds");
    state
}

/// What an honest receiver makes of any stream: the file that was offered, or an error; never more than was offered on the disk.
#[test]
fn snapshot_stream() {
    let content: Vec<u8> = (0..5_000u32).flat_map(u32::to_le_bytes).collect();
    let offer = Offer { size: content.len() as u64, sha256: crate::keyring::sha256(&content) };
    let frame = |bytes: &[u8]| {
        let body = made(&Chunk { bytes: bytes.to_vec() });
        [&u32::try_from(body.len()).expect("short").to_be_bytes()[..], &body].concat()
    };
    let honest = content.chunks(4_000).flat_map(frame).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let runtime = std::panic::AssertUnwindSafe(runtime);
    attack("snapshot_stream", vec![honest], 4 * SMALL, |bytes| {
        let directory = scratch();
        let received = runtime.block_on(async {
            let (mut near, mut far) = tokio::io::duplex(256 << 10);
            tokio::io::AsyncWriteExt::write_all(&mut far, bytes).await.expect("fits");
            tokio::io::AsyncWriteExt::shutdown(&mut far).await.expect("ends");
            transfer::receive(&mut near, directory.path(), &offer).await
        });
        let files = std::fs::read_dir(directory.path()).expect("there").flatten();
        let on_disk: u64 = files.map(|file| file.metadata().map_or(0, |data| data.len())).sum();
        assert!(on_disk <= offer.size, "{on_disk} bytes on the disk");
        match received {
            Ok(path) => {
                assert_eq!(std::fs::read(path).expect("reads"), content);
                true
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                false
            }
        }
    });
}
