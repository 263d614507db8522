//! One machine: what is on its disk, and what it holds in memory while its agent lives.
//!
//! The memory part is made of the engine's own types. Never done here: deciding.

use std::collections::{BTreeMap, BTreeSet};

use hive::engine::ballot::migration::Migrator;
use hive::engine::ballot::{AdviceMsg, Ballot, IdentifyMsg};
use hive::engine::beacon::BeaconState;
use hive::engine::beacon::answer::QuestionMemory;
use hive::engine::beacon::schedule::Schedule;
use hive::engine::command::{Command, Proposal, Reply};
use hive::engine::drafts::Drafts;
use hive::engine::drone::Desk;
use hive::engine::founding::Founding;
use hive::engine::id::{Epoch, HiveId, JobId, PeerId, SessionId, Sha256Hash, Token};
use hive::engine::job::{JobSpec, Outcome};
use hive::engine::member::{Inventory, MemberInfo};
use hive::engine::scheduler::{LeaseAsked, Leases};
use hive::engine::state::{Change, State};

use super::raft::{Config, Entry, Id, Raft, Rows, Rpc, Snapshot};

/// A node's number.
pub(crate) type Ix = usize;

/// What nodes say to each other.
#[derive(Clone, Debug)]
pub(crate) enum Msg {
    Hello { state: BeaconState, digest: [u8; 16], nonce: [u8; 16], hive: Option<HiveId> },
    Welcome,
    Dial { hive: Option<Facts> },
    Facts { hive: Option<Facts> },
    Raft { hive: HiveId, to: Id, from: Id, rpc: Rpc },
    Follow { hive: HiveId, after: u64 },
    Followed { hive: HiveId, entries: Vec<(u64, Entry)>, snapshot: Option<std::rc::Rc<Snapshot>>, leader: Option<Ix> },
    Propose { hive: HiveId, proposals: Vec<Proposal> },
    Answers { incarnation: u64, answers: Vec<(u64, Reply)>, leader: Option<Ix> },
    Lease { asked: Vec<LeaseAsked>, incarnation: u64, sent_ms: u64 },
    Leased { asked: Vec<LeaseAsked>, valid: Option<Vec<bool>>, incarnation: u64, sent_ms: u64 },
    Identify(Box<IdentifyMsg>),
    Advice(Option<Box<AdviceMsg>>),
    Prepare,
    Prepared { raft_id: Id },
    Retire { raft_id: Id },
    AskAgain { generation: u64 },
    Keep { artifact: Sha256Hash, token: Token },
    Kept { artifact: Sha256Hash, token: Token },
}

/// What an admitted connection proves of a hive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) hive: HiveId,
    pub(crate) childless: bool,
}

/// A result on its way, as it lies in the outbox.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) job: JobId,
    pub(crate) outcome: Outcome,
}

/// What survives the end of the agent.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) incarnation: u64,
    pub(crate) hive: Option<(HiveId, Epoch)>,
    pub(crate) rows: Rows,
    /// Up to which entry the rows are on the disk, and the term there.
    pub(crate) durable: (u64, u64),
    /// Written, not synced.
    pub(crate) unsynced: Vec<((u64, u64), Vec<Change>)>,
    pub(crate) raft: Option<Raft>,
    pub(crate) outbox: BTreeMap<Token, Ended>,
    pub(crate) identity: Option<String>,
    pub(crate) blobs: BTreeSet<Sha256Hash>,
}

/// Who waits for an answer: the node, its incarnation, the number of its proposal.
pub(crate) type Waiting = (Ix, u64, u64);

/// Why something was proposed, and what to do with the answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Purpose {
    Client(u64),
    Admit,
    Claim(String),
    Plan,
    Progress,
    Begin(JobId, Token),
    Result(Token),
    Bind,
    Draft,
    Expand(SessionId),
    Import(u64),
}

#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) proposal: Proposal,
    pub(crate) command: Command,
    pub(crate) purpose: Purpose,
    pub(crate) deadline_ms: u64,
    pub(crate) again_ms: u64,
}

/// Where a build stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Prepares,
    /// It has told that it starts and waits for the hive to know it.
    Waits,
    Runs,
    Uploads,
    /// It was told to stop, and is being killed.
    Stops,
}

#[derive(Debug)]
pub(crate) struct Build {
    pub(crate) spec: JobSpec,
    pub(crate) phase: Phase,
    pub(crate) fate: Outcome,
    pub(crate) runs_ms: u64,
    pub(crate) stopped: Option<hive::engine::drone::Stop>,
    pub(crate) kills: bool,
}

/// An import that a client of this node streams in.
#[derive(Debug)]
pub(crate) struct Import {
    pub(crate) session: SessionId,
    pub(crate) chunks: Vec<Command>,
    pub(crate) next: usize,
    pub(crate) open: Command,
    pub(crate) client: u64,
    pub(crate) torn_at: Option<usize>,
}

/// The coordinator's memory of one term.
#[derive(Debug)]
pub(crate) struct Term {
    pub(crate) number: u64,
    pub(crate) elected_ms: u64,
    pub(crate) leases: Leases,
    pub(crate) in_flight: BTreeMap<JobId, PeerId>,
    /// Proposals of the last plan that are not answered.
    pub(crate) planning: BTreeSet<u64>,
    pub(crate) planned: (u64, u64),
    pub(crate) drafts: Drafts,
    pub(crate) drafts_ms: u64,
    pub(crate) migrator: Migrator,
    pub(crate) roles_ms: u64,
    pub(crate) role_since: BTreeMap<PeerId, (u64, u64)>,
    pub(crate) expanding: BTreeMap<SessionId, Expanding>,
    pub(crate) voters_ms: u64,
    pub(crate) voters_busy_until_ms: u64,
}

/// A plan's jobs on their way into a draft.
#[derive(Debug)]
pub(crate) struct Expanding {
    pub(crate) open: BTreeSet<u64>,
    pub(crate) then: Option<Command>,
    pub(crate) until_ms: u64,
}

/// A drone's question that waits until the coordinator knows that it still is one.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) from: Ix,
    pub(crate) asked: Vec<LeaseAsked>,
    pub(crate) incarnation: u64,
    pub(crate) sent_ms: u64,
    pub(crate) round: u64,
    pub(crate) commit: u64,
    pub(crate) term: u64,
}

/// What ends with the agent.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) state: State,
    /// Raft index and term of the last entry applied, blank ones included.
    pub(crate) applied: (u64, u64),
    pub(crate) applied_at_ms: u64,
    pub(crate) founding: Option<Founding>,
    pub(crate) schedule: Schedule,
    pub(crate) questions: QuestionMemory,
    pub(crate) nonce: [u8; 16],
    pub(crate) join: Option<(HiveId, u64)>,
    pub(crate) dialed_ms: BTreeMap<Ix, u64>,
    pub(crate) source: Option<(Ix, u64)>,
    pub(crate) follow_ms: u64,
    pub(crate) leader_hint: Option<Ix>,
    pub(crate) admit_ms: Option<u64>,
    pub(crate) ballot: Option<Ballot>,
    pub(crate) ballots: u64,
    pub(crate) claiming: Option<String>,
    pub(crate) ask_not_before_ms: u64,
    pub(crate) wanted: bool,
    pub(crate) last_sequence: u64,
    pub(crate) pending: BTreeMap<u64, Pending>,
    /// As leader: proposals that wait for the next entry.
    pub(crate) waiting: Vec<(Proposal, Ix)>,
    pub(crate) flush_planned: bool,
    /// As leader: who waits for the answers to an entry, and the term in which it was proposed.
    pub(crate) answering: BTreeMap<u64, (u64, Vec<Waiting>)>,
    pub(crate) elapsed: (u64, u64),
    pub(crate) term: Option<Term>,
    pub(crate) lease_questions: Vec<Asked>,
    pub(crate) desk: Desk,
    pub(crate) lease_sent_ms: Option<u64>,
    pub(crate) builds: BTreeMap<Token, Build>,
    pub(crate) outbox_ms: u64,
    pub(crate) copying: BTreeMap<Token, u64>,
    pub(crate) imports: Vec<Import>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) ix: Ix,
    pub(crate) peer: PeerId,
    pub(crate) inventory: Inventory,
    pub(crate) disk: Disk,
    pub(crate) life: Option<Life>,
    /// Raised at each start: events of a former life are nobody's.
    pub(crate) boot: u64,
    pub(crate) paused_until_ms: u64,
    /// Speed of the monotonic clock, parts per thousand.
    pub(crate) speed: u64,
    pub(crate) offset_ms: u64,
    pub(crate) wall_offset_ms: i64,
    pub(crate) disk_ms: u64,
    pub(crate) disk_low: bool,
    pub(crate) apply_not_before_ms: u64,
}

impl Node {
    pub(crate) fn member_info(&self) -> MemberInfo {
        MemberInfo {
            peer_id: self.peer.clone(),
            name: format!("node{}", self.ix / 2),
            addresses: vec![format!("10.0.0.{}:50555", self.ix + 1)],
            incarnation: self.disk.incarnation,
            version: "0.1.0".to_owned(),
            feature_level: 1,
            inventory: self.inventory.clone(),
        }
    }

    pub(crate) fn hive(&self) -> Option<HiveId> {
        self.disk.hive.map(|(hive, _)| hive)
    }

    pub(crate) fn is_member(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.state.member(&self.peer).is_some_and(|member| !member.left))
    }

    pub(crate) fn leads(&self) -> bool {
        self.disk.raft.as_ref().is_some_and(Raft::is_leader) && self.life.is_some()
    }

    /// Writes everything that was applied to the disk.
    pub(crate) fn sync_rows(&mut self, upto: usize) {
        for (at, changes) in self.disk.unsynced.drain(..upto) {
            self.disk.durable = at;
            for change in changes {
                match change.value {
                    Some(value) => self.disk.rows.insert(change.row, value),
                    None => self.disk.rows.remove(&change.row),
                };
            }
        }
    }

    /// A snapshot of what was applied.
    pub(crate) fn snapshot(&mut self) -> Option<Snapshot> {
        self.sync_rows(self.disk.unsynced.len());
        let (index, term) = self.disk.durable;
        let config = self.disk.raft.as_ref().map_or_else(Config::default, |raft| raft.config_at(index).clone());
        (index > 0).then(|| Snapshot { index, term, config, rows: std::rc::Rc::new(self.disk.rows.clone()) })
    }
}
