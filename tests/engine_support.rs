//! Building blocks of the engine's tests: nodes, jobs, and a replica that checks itself after every entry.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that meets the unexpected fails")]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "compiled into several test programs, each uses a part")]

use std::collections::BTreeMap;

use hive::engine::command::{
    Batch, Command, ENVELOPE_VERSION, FEATURE_LEVEL, Origin, Progress, Proposal, RejectCode, Reply,
};
use hive::engine::id::{Epoch, EpochId, HiveId, JobId, PeerId, SessionId, Sha256Hash, Token, UnixMillis};
use hive::engine::job::{Artifact, FailureClass, Job, JobSpec, Outcome, Source, Work};
use hive::engine::member::{Inventory, MemberInfo};
use hive::engine::state::{Applied, Change, QueueCounts, Row, State, table};
use uuid::Uuid;

pub fn peer(number: u32) -> PeerId {
    PeerId::new(format!("12D3KooWNode{number:03}"))
}

pub fn job_id(number: u128) -> JobId {
    JobId(Uuid::from_u128(number))
}

pub fn session_id(number: u128) -> SessionId {
    SessionId(Uuid::from_u128(number))
}

pub fn member(number: u32) -> MemberInfo {
    MemberInfo {
        peer_id: peer(number),
        name: format!("node{number}"),
        addresses: vec![format!("10.0.0.{}:50555", number % 250 + 1)],
        incarnation: 1,
        version: "0.1.0".to_owned(),
        feature_level: FEATURE_LEVEL,
        inventory: Inventory {
            cpu_cores: 4,
            ram_gb: 8,
            arch: "x86_64".to_owned(),
            distro: "debian".to_owned(),
            tools: [("git", "2.39"), ("dpkg-buildpackage", "1.21")]
                .map(|(name, version)| (name.to_owned(), version.to_owned()))
                .into(),
            ..Inventory::default()
        },
    }
}

pub fn epoch(counter: u64) -> Epoch {
    Epoch { counter, id: EpochId([u8::try_from(counter % 250).unwrap(); 16]) }
}

pub fn pure_job(number: u128) -> JobSpec {
    let work = Work::Command {
        source: Source::Blob { sha256: Sha256Hash([9; 32]), size: 100 },
        argv: vec!["make".to_owned(), number.to_string()],
        artifacts: vec!["out/*".to_owned()],
    };
    JobSpec { pure: true, ..JobSpec::new(job_id(number), format!("job{number}"), work) }
}

pub fn effectful_job(number: u128) -> JobSpec {
    JobSpec { pure: false, ..pure_job(number) }
}

pub fn git_job(number: u128) -> JobSpec {
    let source =
        Source::Git { url: "https://example.org/x.git".to_owned(), branch: Some("main".to_owned()), commit: None };
    JobSpec { work: Work::Command { source, argv: vec!["make".to_owned()], artifacts: Vec::new() }, ..pure_job(number) }
}

pub fn artifact(name: &str) -> Artifact {
    Artifact { name: name.to_owned(), sha256: Sha256Hash([3; 32]), size: 7 }
}

pub fn succeeded() -> Progress {
    Progress::Ended { outcome: Outcome::Succeeded { artifacts: vec![artifact("a.deb")] } }
}

pub fn failed(class: FailureClass) -> Progress {
    Progress::Ended { outcome: Outcome::Failed { class, reason: "it broke".to_owned(), exit_code: Some(2) } }
}

pub fn building() -> Progress {
    Progress::Building { pinned_commit: None }
}

pub fn rejected(reply: &Reply) -> Option<RejectCode> {
    match reply {
        Reply::Rejected { code, .. } => Some(*code),
        Reply::Done | Reply::Role { .. } | Reply::Assigned { .. } | Reply::Changed { .. } => None,
    }
}

/// A replica with the rows that its store would hold, and a node that proposes.
#[derive(Clone)]
pub struct Replica {
    pub state: State,
    pub store: BTreeMap<Row, Vec<u8>>,
    pub index: u64,
    pub sequence: u64,
    pub proposer: PeerId,
    pub incarnation: u64,
}

impl Replica {
    pub fn empty() -> Self {
        Self { state: State::new(), store: BTreeMap::new(), index: 0, sequence: 0, proposer: peer(0), incarnation: 1 }
    }

    /// A hive of `members` nodes, numbered from 0; node 0 founded it.
    pub fn founded(members: u32) -> Self {
        let mut replica = Self::empty();
        let found = Command::Found { hive_id: HiveId([5; 16]), epoch: epoch(1), founder: member(0) };
        assert_eq!(replica.run(found), Reply::Done);
        for number in 1..members {
            assert_eq!(replica.run(Command::Admit { member: member(number) }), Reply::Done);
        }
        replica
    }

    pub fn proposal(&mut self, command: &Command) -> Proposal {
        self.sequence += 1;
        let origin = Origin { peer_id: self.proposer.clone(), incarnation: self.incarnation, sequence: self.sequence };
        Proposal::new(origin, command)
    }

    pub fn batch(&self, proposals: Vec<Proposal>, elapsed_ms: u64) -> Batch {
        Batch { version: ENVELOPE_VERSION, elapsed_ms, at: UnixMillis(1_000 * (self.index + 1)), proposals }
    }

    /// Applies a batch and keeps the store as a database would.
    pub fn apply(&mut self, batch: &Batch) -> Applied {
        self.index += 1;
        let applied = self.state.apply(self.index, batch).expect("understood");
        assert_eq!(applied.replies.len(), batch.proposals.len(), "one reply per proposal");
        store(&mut self.store, &applied.changes);
        applied
    }

    pub fn run(&mut self, command: Command) -> Reply {
        self.run_after(0, command)
    }

    /// Runs a command in a batch of its own, so many milliseconds after the last one.
    pub fn run_after(&mut self, elapsed_ms: u64, command: Command) -> Reply {
        let proposal = self.proposal(&command);
        let batch = self.batch(vec![proposal], elapsed_ms);
        self.apply(&batch).replies.remove(0)
    }

    pub fn pass(&mut self, elapsed_ms: u64) {
        let batch = self.batch(Vec::new(), elapsed_ms);
        self.apply(&batch);
    }

    pub fn submit(&mut self, spec: JobSpec) -> JobId {
        let id = spec.id;
        let submit = Command::submit(session_id(1), "me", vec![spec]);
        assert_eq!(self.run(submit), Reply::Done);
        id
    }

    pub fn assign(&mut self, job: JobId, node: u32) -> Token {
        match self.run(Command::Assign { job, node: peer(node) }) {
            Reply::Assigned { token, .. } => token,
            other => panic!("not assigned: {other:?}"),
        }
    }

    pub fn report(&mut self, job: JobId, token: Token, progress: Progress) -> Reply {
        self.run(Command::Report { job, token, progress })
    }

    pub fn lose(&mut self, job: JobId, token: Token) -> Reply {
        self.run(Command::Lose { job, token, reason: "gone".to_owned() })
    }

    pub fn job(&self, id: JobId) -> &Job {
        self.state.job(&id).expect("known job")
    }

    /// The rows in memory are those of the store, and a replica loaded from them is the same.
    pub fn check_reload(&self) {
        let held: BTreeMap<Row, Vec<u8>> = self
            .store
            .iter()
            .filter(|(row, _)| row.table != table::HISTORY)
            .map(|(row, value)| (row.clone(), value.clone()))
            .collect();
        assert!(self.state.rows() == held, "rows in memory and in the store differ");
        assert_eq!(self.state.inconsistencies(), Vec::<String>::new());
        let reloaded = State::from_rows(self.store.clone().into_iter().rev()).expect("rows are readable");
        assert!(reloaded.rows() == held, "a reloaded state has other rows");
        assert_eq!(reloaded.chain(), self.state.chain());
        assert_eq!(reloaded.applied_index(), self.state.applied_index());
        assert_eq!(reloaded.counts(), self.state.counts());
        for (id, _) in self.state.sessions() {
            assert_eq!(reloaded.session_counts(id), self.state.session_counts(id));
        }
        for job in self.state.jobs() {
            let of = |state: &State| {
                let ids = |jobs: Vec<&Job>| jobs.iter().map(|job| job.spec.id).collect::<Vec<_>>();
                state.wait(&job.spec.id).map(|wait| (ids(wait.pending), ids(wait.dead), wait.lost))
            };
            assert_eq!(of(&reloaded), of(&self.state), "what {} waits for", job.spec.id);
        }
        assert_eq!(
            reloaded.waiting().map(|(needs, jobs)| (needs.clone(), jobs.count())).collect::<Vec<_>>(),
            self.state.waiting().map(|(needs, jobs)| (needs.clone(), jobs.count())).collect::<Vec<_>>(),
        );
    }
}

pub fn store(rows: &mut BTreeMap<Row, Vec<u8>>, changes: &[Change]) {
    for change in changes {
        match &change.value {
            Some(value) => rows.insert(change.row.clone(), value.clone()),
            None => rows.remove(&change.row),
        };
    }
}

/// Counts by walking all jobs in memory.
pub fn recount(state: &State) -> QueueCounts {
    use hive::engine::job::{AttemptState, JobState};
    let of =
        |wanted: JobState| u64::try_from(state.jobs().filter(|job| state.shown_state(job) == wanted).count()).unwrap();
    let building = state.jobs().filter_map(Job::live_attempt).filter(|attempt| attempt.state != AttemptState::Assigned);
    QueueCounts {
        needed: of(JobState::Needed),
        delegated: of(JobState::Delegated),
        building: u64::try_from(building.count()).unwrap(),
        received: of(JobState::Received),
        blocked: of(JobState::Blocked),
        failed: of(JobState::Failed),
        cancelled: of(JobState::Cancelled),
        quarantined: of(JobState::Quarantined),
    }
}
