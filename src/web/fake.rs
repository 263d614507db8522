//! A node for the tests of the router: it answers with fixed values and writes down what it was asked to do.

pub(crate) mod live;
pub(crate) mod people;
pub(crate) mod replay;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use sha2::{Digest as _, Sha256};

mod backup;
mod data;

use super::node::{
    Answer, ByteStream, Download, EventQuery, HistoryQuery, Holder, ImportAbout, JobPageQuery, JobQuery, LegacyRead,
    LogQuery, LogStream, NodeApi, SessionQuery, StagedFile,
};
use crate::api::legacy::{Call, Completed, QueueRequest, Queued, Registered, Registration, Told, WorkTold};
use crate::api::{
    AccessView, AddressClaim, AdminKeyChanged, AdminKeyRequest, ApiError, ApiResult, ArtifactView, AttemptView,
    Changed, ControlRequest, Coordinator, CriticalPath, DoctorFacts, DroneRequest, ErrorCode, EventList, Explanation,
    FleetView, Health, HistoryView, Identity, Imported, JobGraph, JobLine, JobPage, JobView, JoinRequest,
    LogFirstError, LogMatch, LogMatches, LogPhases, LogSearch, LogStatus, MemberState, MemberStatus, NodePhase,
    NodeView, PackageList, PeersFile, PeersSelf, QueueStatus, RaftPart, RecoverReport, RecoverRequest, SelfStatus,
    SessionList, SessionView, StagedView, Status, StoredBlob, SubmitRequest, Submitted, Throughput, TokenMade,
    TokenRequest, TokenView,
};
use crate::engine::access::Scope;
use crate::engine::audit::{AuditNote, GivenAnswer};
use crate::engine::id::{EpochId, HiveId, JobId, PeerId, SessionId, Sha256Hash, Token, UnixMillis};
use crate::engine::job::{Artifact, AttemptState, FailureClass, JobState};
use crate::keyring::{Keyring, Secret};

pub(crate) const JOB: JobId = JobId(uuid::Uuid::from_u128(0x11111111_2222_4333_8444_555555555555));

/// What was asked, and what was answered.
pub(super) type Repeatable = ([u8; 32], Option<GivenAnswer>);

pub(crate) struct FakeNode {
    pub(super) ready: AtomicBool,
    pub(super) acts: Mutex<Vec<String>>,
    pub(super) keyring: Option<Keyring>,
    /// Keys that it was asked about.
    pub(super) compared: AtomicU64,
    /// Its keys open nothing any more.
    pub(super) rotated: AtomicBool,
    /// How long it takes over some answers.
    pub(super) delay: Duration,
    /// Whether a majority answers.
    pub(super) quorum: AtomicBool,
    /// The audit log, and how much had been done by then.
    pub(super) notes: Mutex<Vec<(AuditNote, usize)>>,
    /// Requests that may be repeated.
    pub(super) answers: Mutex<BTreeMap<[u8; 32], Repeatable>>,
    /// What pages that follow see.
    pub(crate) feed: live::FakeLog,
}

impl FakeNode {
    pub(crate) fn new() -> Self {
        Self {
            ready: AtomicBool::new(true),
            acts: Mutex::default(),
            compared: AtomicU64::new(0),
            rotated: AtomicBool::new(false),
            keyring: Some(Keyring::new(&Secret::from_bytes(b"b7c1a0ffee11d2d3b7c1a0ffee11d2d3"))),
            delay: Duration::ZERO,
            quorum: AtomicBool::new(true),
            notes: Mutex::default(),
            answers: Mutex::default(),
            feed: live::FakeLog::default(),
        }
    }

    pub(crate) fn acts(&self) -> Vec<String> {
        self.acts.lock().expect("not poisoned").clone()
    }

    fn later<T: Send + 'static>(&self, value: T) -> Answer<'static, T> {
        let delay = self.delay;
        Box::pin(async move {
            tokio::time::timeout(delay, std::future::pending::<()>()).await.unwrap_or_default();
            Ok(value)
        })
    }

    pub(super) fn act(&self, act: String) {
        self.acts.lock().expect("not poisoned").push(act);
    }
}

pub(super) fn status(text: &str) -> Status {
    let text = text.to_owned();
    Status {
        hive_id: Some(HiveId([7; 16])),
        this: SelfStatus {
            name: text.clone(),
            peer_id: PeerId::new(text.clone()),
            role: Some(text.clone()),
            state: NodePhase::Member,
            version: text.clone(),
            uptime_ms: 5_000,
            artifact_bytes: 0,
        },
        coordinator: Some(Coordinator { name: text.clone(), peer_id: PeerId::new(text.clone()), term: 3 }),
        quorum: true,
        members: vec![MemberStatus {
            name: text.clone(),
            peer_id: Some(PeerId::new(text.clone())),
            addresses: vec![text.clone()],
            role: Some(text.clone()),
            state: MemberState::Alive,
            raft: RaftPart::Voter,
            version: text.clone(),
            last_seen_ms: Some(120),
            load: Some(0.5),
            cores: 4,
            founder: true,
            staging: true,
        }],
        log: LogStatus { epoch: 1, epoch_id: Some(EpochId([1; 16])), applied: 41, committed: 42, age_ms: 9 },
        queue: QueueStatus { needed: 1, delegated: 1, building: 1, received: 2, ..QueueStatus::default() },
        notices: vec![text],
        degraded: Vec::new(),
        as_of: UnixMillis(1_762_605_296_789),
    }
}

pub(super) fn job_line(text: &str) -> JobLine {
    JobLine {
        id: JOB,
        state: JobState::Needed,
        backend: text.to_owned(),
        target: text.to_owned(),
        priority: 0,
        node: Some(text.to_owned()),
        attempts: 1,
        submitted_at: UnixMillis(1_762_605_296_789),
        waiting_for: Some(text.to_owned()),
        session: None,
        depends_on: Vec::new(),
        joined: None,
        estimate_ms: None,
    }
}

pub(super) fn job_view(text: &str) -> JobView {
    let text = text.to_owned();
    JobView {
        id: JOB,
        session: SessionId(uuid::Uuid::nil()),
        state: JobState::Failed,
        backend: text.clone(),
        target: text.clone(),
        priority: 0,
        labels: vec![text.clone()],
        pure: false,
        submitter: text.clone(),
        submitted_at: UnixMillis(1_762_605_296_789),
        attempts: vec![AttemptView {
            attempt: 1,
            token: Token { epoch: EpochId([1; 16]), counter: 1 },
            node: text.clone(),
            state: AttemptState::Failed,
            started_at: Some(UnixMillis(1_762_605_296_789)),
            ended_at: Some(UnixMillis(1_762_605_306_789)),
            class: Some(FailureClass::Build),
            reason: Some(text.clone()),
            exit_code: Some(2),
        }],
        artifacts: vec![Artifact { name: text.clone(), sha256: Sha256Hash([5; 32]), size: 5 }],
        waiting_for: Some(text.clone()),
        reason: Some(text),
        depends_on: Vec::new(),
        joined: None,
        estimate_ms: None,
    }
}

fn peers() -> PeersFile {
    let this = PeersSelf {
        hostname: "fake".to_owned(),
        primary_ip: "10.0.0.1".to_owned(),
        role: None,
        peer_id: PeerId::new("12D3KooWfake"),
    };
    PeersFile { this, peers: Vec::new() }
}

fn not_here<T: Send + 'static>(what: &'static str) -> Answer<'static, T> {
    Box::pin(async move { Err(ApiError::new(ErrorCode::NotFound, what, "ask another")) })
}

fn good<T: Send + 'static>(value: T) -> BoxFuture<'static, ApiResult<T>> {
    Box::pin(async move { Ok(value) })
}

fn once(bytes: &'static [u8]) -> ByteStream {
    futures::stream::once(async move { Ok(Bytes::from_static(bytes)) }).boxed()
}

impl NodeApi for FakeNode {
    fn log(&self) -> LogStatus {
        status("fake").log
    }

    fn ready(&self) -> Result<(), String> {
        if self.ready.load(Ordering::Relaxed) { Ok(()) } else { Err("looks for a hive".to_owned()) }
    }

    fn keyring(&self) -> Option<Keyring> {
        self.keyring.clone()
    }

    fn holder(&self, key: &[u8]) -> Option<Holder> {
        self.compared.fetch_add(1, Ordering::Relaxed);
        if self.rotated.load(Ordering::Relaxed) {
            return None;
        }
        let (name, scope, drone) = match key {
            b"the-admin-key-of-the-fake" => ("the admin key", Scope::Admin, None),
            b"token-that-reads" => ("token eyes", Scope::Read, None),
            b"token-that-queues" => ("token ci", Scope::Queue, None),
            b"token-of-drone-1" => ("token d1", Scope::Drone, Some("drone-1".to_owned())),
            _ => return None,
        };
        Some(Holder { name: name.to_owned(), scope, drone })
    }

    fn refused(&self, reason: &'static str, from: IpAddr) {
        self.act(format!("refused {reason} from {from}"));
    }

    fn metrics(&self) -> String {
        "hive_log_applied 41\n".to_owned()
    }

    fn catch_up(&self) -> Answer<'_, ()> {
        if self.quorum.load(Ordering::Relaxed) {
            return good(());
        }
        let error = ApiError::new(ErrorCode::NoQuorum, "no coordinator is known", "wait");
        Box::pin(async move { Err(error) })
    }

    fn health(&self) -> Answer<'_, Health> {
        good(Health {
            name: "fake".to_owned(),
            peer_id: PeerId::new("12D3KooWfake"),
            state: NodePhase::Member,
            version: "0".to_owned(),
            uptime_ms: 1,
            ready: true,
            reason: None,
            quorum: true,
        })
    }

    fn status(&self) -> Answer<'_, Status> {
        good(status("fake"))
    }

    fn nodes(&self) -> Answer<'_, Vec<NodeView>> {
        good(status("fake").members.into_iter().map(|member| NodeView { member, inventory: None }).collect())
    }

    fn peers(&self) -> Answer<'_, PeersFile> {
        self.later(peers())
    }

    fn identity(&self) -> Answer<'_, Identity> {
        not_here("no identity yet")
    }

    fn reset_identity(&self) -> Answer<'_, Identity> {
        self.act("reset identity".to_owned());
        not_here("nobody advises")
    }

    fn claim_address(&self, claim: AddressClaim) -> Answer<'_, AddressClaim> {
        self.act(format!("claim {} on {}", claim.cidr, claim.interface));
        good(claim)
    }

    fn submit(&self, request: SubmitRequest, submitter: String) -> Answer<'_, Submitted> {
        self.act(format!("submit {} jobs by {submitter}", request.jobs.len()));
        self.later(Submitted { session: request.session, jobs: Vec::new() })
    }

    fn store_blob(&self, mut bytes: ByteStream) -> Answer<'_, StoredBlob> {
        Box::pin(async move {
            let (mut hasher, mut size) = (Sha256::new(), 0);
            while let Some(chunk) = bytes.next().await {
                let chunk = chunk.map_err(|error| ApiError::new(ErrorCode::Invalid, error.to_string(), ""))?;
                hasher.update(&chunk);
                size += chunk.len() as u64;
            }
            self.act(format!("stored {size} bytes"));
            Ok(StoredBlob { sha256: Sha256Hash(hasher.finalize().into()), size })
        })
    }

    fn jobs(&self, query: JobQuery) -> Answer<'_, Vec<JobLine>> {
        self.act(format!("jobs {:?} limit {}", query.states, query.limit));
        good(vec![job_line("hello")])
    }

    fn job(&self, id: JobId) -> Answer<'_, JobView> {
        if id == JOB { good(job_view("hello")) } else { not_here("no such job") }
    }

    fn cancel(&self, id: JobId, reason: String) -> Answer<'_, JobView> {
        self.act(format!("cancel {id}: {reason}"));
        good(job_view("hello"))
    }

    fn explain(&self, what: String) -> Answer<'_, Explanation> {
        good(Explanation { subject: what, summary: String::new(), details: Vec::new(), remedy: String::new() })
    }

    fn job_log(&self, query: LogQuery) -> Answer<'_, LogStream> {
        let bytes = if query.follow {
            futures::stream::once(async { Ok(Bytes::from_static(b"first\n")) })
                .chain(futures::stream::pending())
                .boxed()
        } else {
            once(b"first\n\x1b[31mlast\x1b[0m\n")
        };
        good(LogStream { attempt: query.attempt.unwrap_or(1), offset: query.offset, bytes })
    }

    fn log_matches(&self, id: JobId, attempt: Option<u32>, search: LogSearch) -> Answer<'_, LogMatches> {
        self.act(format!("search {search:?} in {attempt:?}"));
        let matches = vec![LogMatch { line: 2, offset: 6, text: search.text }];
        let attempt = attempt.unwrap_or(1);
        good(LogMatches { job: id, attempt, matches, complete: true, next_offset: 20, next_line: 3 })
    }

    fn log_phases(&self, id: JobId, attempt: Option<u32>) -> Answer<'_, LogPhases> {
        good(LogPhases { job: id, attempt: attempt.unwrap_or(1), phases: replay::phases(), cut: false, growing: true })
    }

    fn log_first_error(&self, id: JobId, attempt: Option<u32>) -> Answer<'_, LogFirstError> {
        good(LogFirstError { job: id, attempt: attempt.unwrap_or(1), error: None, complete: true })
    }

    fn artifacts(&self, id: JobId) -> Answer<'_, Vec<ArtifactView>> {
        good(vec![ArtifactView { job: id, name: "a.deb".to_owned(), sha256: Sha256Hash([5; 32]), size: 5 }])
    }

    fn artifact(&self, _: JobId, name: String) -> Answer<'_, Download> {
        self.later(Download { name, sha256: Sha256Hash([5; 32]), size: 5, bytes: once(b"bytes") })
    }

    fn staged(&self, atom: String) -> Answer<'_, StagedView> {
        self.later(StagedView { atom, found: false, node: None, path: None, size_bytes: None, why: None })
    }

    fn staged_file(&self, path: String) -> Answer<'_, StagedFile> {
        self.later(StagedFile { size_bytes: path.len() as u64, changed_unix_s: 1_762_605_296, bytes: once(b"staged") })
    }

    fn blob(&self, sha256: Sha256Hash) -> Answer<'_, Download> {
        let endless = futures::stream::repeat_with(|| Ok(Bytes::from_static(&[0; 65_536]))).boxed();
        good(Download { name: "big".to_owned(), sha256, size: 1 << 40, bytes: endless })
    }

    fn doctor(&self) -> Answer<'_, DoctorFacts> {
        not_here("nothing is wrong")
    }

    fn listen(&self) -> Answer<'_, ByteStream> {
        good(once(b"{\"kind\":\"HELLO\"}\n"))
    }

    fn join(&self, request: JoinRequest, from: IpAddr) -> Answer<'_, PeersFile> {
        self.act(format!("join {} from {from}", request.hostname));
        good(peers())
    }

    fn control(&self, request: ControlRequest, by: String) -> Answer<'_, Changed> {
        self.act(format!("control {} by {by}", request.action));
        good(Changed { action: request.action, jobs: 3, drones: 0 })
    }

    fn change_drone(&self, name: String, action: String, _: DroneRequest, by: String) -> Answer<'_, Changed> {
        self.act(format!("{action} {name} by {by}"));
        good(Changed { action, jobs: 0, drones: 1 })
    }

    fn sessions(&self, query: SessionQuery) -> Answer<'_, SessionList> {
        self.act(format!("sessions {query:?}"));
        good(SessionList { sessions: Vec::new() })
    }

    fn session(&self, _: String) -> Answer<'_, SessionView> {
        not_here("no such session")
    }

    fn cancel_session(&self, which: String, by: String, why: String) -> Answer<'_, Changed> {
        self.act(format!("cancel session {which} by {by}: {why}"));
        good(Changed { action: "cancel_session".to_owned(), jobs: 2, drones: 0 })
    }

    fn import(&self, about: ImportAbout, submitter: String, mut lines: ByteStream) -> Answer<'_, Imported> {
        Box::pin(async move {
            let mut jobs = 0;
            while let Some(piece) = lines.next().await {
                let piece = piece.map_err(|error| ApiError::new(ErrorCode::Invalid, error.to_string(), ""))?;
                jobs += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
            }
            self.act(format!("import {jobs} lines as {:?} by {submitter}", about.name));
            Ok(Imported { session: about.session, jobs })
        })
    }

    fn fleet(&self) -> Answer<'_, FleetView> {
        good(FleetView { drones: Vec::new(), paused: None })
    }

    fn history(&self, query: HistoryQuery) -> Answer<'_, HistoryView> {
        self.act(format!("history limit {}", query.limit));
        good(HistoryView { history: Vec::new(), truncated: false })
    }

    fn packages(&self, _: usize) -> Answer<'_, PackageList> {
        good(PackageList { packages: Vec::new() })
    }

    fn legacy_register(&self, registration: Registration, _: IpAddr) -> Answer<'_, Registered> {
        let status = if registration.name.is_some() { "registered" } else { "ignored" };
        good(Registered { status: status.to_owned(), ..Registered::default() })
    }

    fn legacy(&self, call: Call) -> Answer<'_, Told> {
        good(match call {
            Call::Work { .. } => Told::Work(WorkTold::default()),
            Call::Complete(_) => Told::Completed(Completed { accepted: true, ..Completed::default() }),
            Call::Forget { drone } => Told::Forgotten(drone == "drone-1"),
            Call::Register { .. } | Call::Seen => Told::Seen(Vec::new()),
        })
    }

    fn legacy_queue(&self, request: QueueRequest, _: String) -> Answer<'_, Queued> {
        let queued = request.packages.len();
        good(Queued { status: "ok".to_owned(), queued, session_id: None, portage_timestamp: None })
    }

    fn legacy_read(&self, what: LegacyRead) -> Answer<'_, serde_json::Value> {
        good(serde_json::json!({ "asked": format!("{what:?}") }))
    }

    fn events(&self, query: EventQuery) -> Answer<'_, EventList> {
        let since = query.since.unwrap_or(0);
        let known = self.feed.events.lock().expect("not poisoned");
        let events = known.iter().filter(|event| event.id > since).take(query.limit).cloned().collect();
        drop(known);
        self.act(format!("{query:?}"));
        self.later(EventList { events, latest_id: query.since.unwrap_or(7) })
    }

    fn access(&self) -> Answer<'_, AccessView> {
        self.later(AccessView::default())
    }

    fn change_admin_key(&self, request: AdminKeyRequest, by: String) -> Answer<'_, AdminKeyChanged> {
        self.act(format!(
            "admin key: {} by {by}",
            if matches!(request, AdminKeyRequest::Rotate) { "rotate" } else { "other" }
        ));
        self.later(AdminKeyChanged { key: None, fingerprint: None, file: None, problem: None })
    }

    fn add_token(&self, request: TokenRequest, by: String) -> Answer<'_, TokenMade> {
        self.act(format!("token {} added by {by}", request.name));
        let TokenRequest { name, scope, drone, .. } = request;
        let about =
            TokenView { name, scope, drone, made_by: by, made_at: UnixMillis(0), expires_at: None, over: false };
        self.later(TokenMade { token: "hive-token-00".to_owned(), about })
    }

    fn revoke_token(&self, name: String, by: String) -> Answer<'_, AccessView> {
        self.act(format!("token {name} revoked by {by}"));
        self.later(AccessView::default())
    }

    fn job_page(&self, query: JobPageQuery) -> Answer<'_, JobPage> {
        self.act(format!("{query:?}"));
        let states = [(JobState::Needed, 1)].into();
        good(JobPage { total: 1, offset: query.offset as u64, jobs: vec![job_line("hello")], states })
    }

    fn job_graph(&self, id: JobId) -> Answer<'_, JobGraph> {
        good(JobGraph { job: id, jobs: Vec::new(), edges: Vec::new(), truncated: false })
    }

    fn critical_path(&self) -> Answer<'_, CriticalPath> {
        good(CriticalPath { jobs: Vec::new(), more: 0, p50_ms: 0, guessed: 0 })
    }

    fn throughput(&self, minutes: u64) -> Answer<'_, Throughput> {
        self.act(format!("throughput of {minutes} minutes"));
        good(Throughput { from: UnixMillis(0), bucket_ms: 60_000, buckets: Vec::new(), truncated: false })
    }

    fn identity_of(&self, name: String) -> Answer<'_, Identity> {
        self.act(format!("identity of {name}"));
        not_here("no identity yet")
    }

    fn wire(&self) -> &dyn crate::web::wire::WireApi {
        self
    }

    fn recover(&self, request: RecoverRequest) -> Answer<'_, RecoverReport> {
        self.act(format!("recover {}", request.confirm));
        not_here("nothing to recover")
    }
}
