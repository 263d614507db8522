//! The node as its local API and the web see it.
//!
//! Reads come from this node's own copy of the state, with its index and age. Writes are proposals, answered when they are
//! durable on a majority; what needs the event loop is asked of it. Never done here: checking who asks (`web` does).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use tokio_util::io::ReaderStream;

use super::refused::Refused;
use super::shared::Shared;
use super::{
    Event, audit, blobs, browsing, catching_up, condition, controlling, coordinating, events, fleet, importing,
    internal, keys, legacy, logs, metrics, past, recovering, serving, sessions, staging, submitting, views,
};
use crate::api::legacy::{Call, QueueRequest, Queued, Registered, Registration, Told};
use crate::api::{
    AccessView, AddressClaim, AdminKeyChanged, AdminKeyRequest, ApiError, ApiResult, ArtifactView, Changed,
    ControlRequest, CriticalPath, DoctorFacts, DroneRequest, ErrorCode, EventList, Explanation, ExplanationLine,
    FleetView, Health, HistoryView, Identity, Imported, InterfaceView, JobGraph, JobLine, JobPage, JobView,
    JoinRequest, LogFirstError, LogMatches, LogPhases, LogSearch, LogStatus, NodeView, PackageList, PeersFile,
    RecoverReport, RecoverRequest, Refusal, SessionList, SessionView, StagedView, Status, StoredBlob, SubmitRequest,
    Submitted, Throughput, TokenMade, TokenRequest,
};
use crate::blobs::fetch::FetchError;
use crate::clock::{now_ms, unix_now};
use crate::engine::id::{JobId, PeerId, Sha256Hash, id_range};
use crate::engine::job::{Job, JobState};
use crate::engine::scheduler::{self, Now, Subject};
use crate::engine::state::State;
use crate::exec::ExecError;
use crate::exec::logs::look::{Found, Question};
use crate::keyring::Keyring;
use crate::web::NodeApi;
use crate::web::node::{
    Answer, ByteStream, Download, EventQuery, HistoryQuery, Holder, ImportAbout, JobPageQuery, JobQuery, LegacyRead,
    LogQuery, LogStream, SessionQuery, StagedFile,
};
use crate::web::wire::WireApi;

/// How long a reset identity is awaited: a ballot, a claim, and some patience with a missing quorum.
const RESET_TIMEOUT: Duration = Duration::from_secs(15);
/// Addresses that other subnets registered; the oldest is forgotten first.
const REGISTERED_MAX: usize = 256;
/// Lines of `hive listen` on their way to a client.
const LISTEN_WAITING: usize = 256;

/// Implements [`NodeApi`] over the agent's shared state.
pub(super) struct Api {
    pub(super) shared: Arc<Shared>,
    refused: Refused,
    pub(super) waiting: audit::Waiting,
}

impl Api {
    /// Over this agent.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, refused: Refused::default(), waiting: audit::Waiting::default() }
    }

    /// A job, also one of which only the history row is left.
    async fn find_job(&self, id: &JobId) -> ApiResult<Job> {
        if let Some(job) = self.shared.read(|state| state.job(id).cloned()) {
            return Ok(job);
        }
        let past = self.shared.consensus.replica().past_job(id).await.map_err(internal)?;
        past.ok_or_else(|| not_found(format!("no job {id}"), "see: hive queue list"))
    }

    fn view_of(&self, job: &Job) -> JobView {
        let shared = &self.shared;
        let waiting = (job.state == JobState::Needed).then(|| {
            let now_ms = now_ms();
            let view = coordinating::view(shared);
            let now = Now { now_ms, hive_ms: shared.hive_ms(now_ms) };
            shared.read(|state| scheduler::waiting_for(state, &view, now, &scheduler::Settings::default(), job))
        });
        shared.read(|state| views::job_view(state, job, waiting.flatten()))
    }

    async fn explanation(&self, what: &str) -> ApiResult<Explanation> {
        let shared = &self.shared;
        // Which drones of the old swarm live is known to the coordinator.
        legacy::heard(shared).await;
        let now_ms = now_ms();
        let now = Now { now_ms, hive_ms: shared.hive_ms(now_ms) };
        let (view, settings) = (coordinating::view(shared), scheduler::Settings::default());
        let told = if let Ok(id) = what.parse::<JobId>() {
            let job = self.find_job(&id).await?;
            Some(shared.read(|state| scheduler::explain_job(state, &view, now, &settings, &job)))
        } else {
            shared.read(|state| {
                let machine = state.machine_by_name(what).map(|machine| machine.peer.clone());
                let known = || state.member(&PeerId::new(what)).map(|member| member.info.peer_id.clone());
                let subject = Subject::Drone(machine.or_else(known)?);
                scheduler::explain(state, &view, now, &settings, &subject)
            })
        };
        let told = told.ok_or_else(|| {
            let message = format!("{what:?} is neither a job id nor the name of a node");
            not_found(message, "see: hive queue list, hive status")
        })?;
        let line = |line: scheduler::ExplanationLine| ExplanationLine {
            name: line.name,
            eligible: line.eligible,
            why: line.why,
        };
        Ok(Explanation {
            subject: told.subject,
            summary: told.summary,
            details: told.lines.into_iter().map(line).collect(),
            remedy: told.remedy,
        })
    }

    async fn download(
        &self,
        sha256: Sha256Hash,
        size: Option<u64>,
        name: String,
        first: Option<PeerId>,
    ) -> ApiResult<Download> {
        let problem = |error: FetchError| blobs::problem(&format!("{name} is not to be had"), &error);
        blobs::obtain(&self.shared, sha256, size, first.as_ref()).await.map_err(problem)?;
        let opened = self.shared.blobs.open_verified_async(sha256).await;
        let (file, size) = opened.map_err(|error| problem(FetchError::Store(error)))?;
        Ok(Download { name, sha256, size, bytes: ReaderStream::new(file).boxed() })
    }

    fn doctor_facts(&self) -> DoctorFacts {
        let shared = &self.shared;
        let snapshot = shared.discovery.snapshot();
        let interface = |one: &crate::discovery::interfaces::Interface| InterfaceView {
            name: one.name.clone(),
            address: format!("{}/{}", one.address, one.prefix_len),
            broadcast: one.broadcast.map(|address| address.to_string()),
        };
        let mut refusals: Vec<Refusal> = snapshot
            .refusals
            .iter()
            .map(|row| Refusal {
                reason: row.reason.to_string(),
                from: row.from.map_or_else(|| "others".to_owned(), |from| from.to_string()),
                count: row.count,
                last_ms: row.last_ms,
            })
            .collect();
        refusals.extend(shared.mesh.refusals().into_iter().map(|row| Refusal {
            reason: row.reason.to_string(),
            from: row.address.to_string(),
            count: row.count,
            last_ms: now_ms().saturating_sub(row.last_ms),
        }));
        let report = views::own_report(shared);
        DoctorFacts {
            port: shared.config.port,
            interfaces: snapshot.interfaces.iter().map(interface).collect(),
            secret_fingerprint: (!shared.me.secret_is_tentative)
                .then(|| shared.keyring.signing().secret().fingerprint()),
            refusals,
            http_refused: self.refused.rows(now_ms()),
            broadcast_heard_by: snapshot.broadcast_heard_by.iter().map(|hearer| hearer.name.clone()).collect(),
            clock_offsets_ms: snapshot
                .clock_offsets_ms
                .iter()
                .map(|(peer, offset)| (shared.name_of(peer), *offset))
                .collect(),
            disk_free_bytes: report.disk_free_bytes,
            disk_low: report.disk_low,
            config_file: shared.me.config_file.clone(),
            secret_file: Some(shared.config.secret_file.clone()),
        }
    }

    fn listen_stream(&self) -> ByteStream {
        let mut tap = self.shared.discovery.tap();
        let (sender, receiver) = tokio::sync::mpsc::channel(LISTEN_WAITING);
        crate::tasks::spawn("listen", async move {
            loop {
                let mut line = match tap.recv().await {
                    Ok(record) => match serde_json::to_vec(&*record) {
                        Ok(line) => line,
                        Err(error) => {
                            tracing::debug!(%error, "a record cannot be shown");
                            continue;
                        }
                    },
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(missed)) => {
                        format!("{{\"missed\":{missed}}}").into_bytes()
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                };
                line.push(b'\n');
                if sender.send(Ok(Bytes::from(line))).await.is_err() {
                    return;
                }
            }
        });
        tokio_stream(receiver)
    }

    async fn register(&self, request: JoinRequest, from: IpAddr) -> ApiResult<PeersFile> {
        let shared = &self.shared;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for text in request.addresses.iter().take(crate::engine::state::ADDRESSES_MAX) {
            addresses.push(text.parse().map_err(|_| {
                ApiError::new(ErrorCode::Invalid, format!("{text:?} is not IP:PORT"), "for example 192.168.1.23:50555")
            })?);
        }
        if addresses.is_empty() {
            addresses.push(SocketAddr::new(from, shared.config.port));
        }
        shared.update(|soft| {
            for address in &addresses {
                soft.registered.retain(|known| known != address);
                soft.registered.push_back(*address);
            }
            while soft.registered.len() > REGISTERED_MAX {
                soft.registered.pop_front();
            }
        });
        for address in addresses {
            shared.mesh.dial_address(address).await;
        }
        Ok(views::peers(shared))
    }
}

fn tokio_stream(receiver: tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>) -> ByteStream {
    futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) })
        .boxed()
}

/// Jobs of a state as they are listed.
pub(super) fn jobs_of(state: &State, query: &JobQuery) -> ApiResult<Vec<JobLine>> {
    let session = query.session.as_deref().map(|text| sessions::find(state, text)).transpose()?;
    let drone = query.drone.as_deref().map(|name| controlling::node_named(state, name)).transpose()?;
    let begins = query.id.as_deref().map(|text| id_range(text).ok_or_else(|| no_id(text))).transpose()?;
    let wanted = |job: &&Job| {
        (query.states.is_empty() || query.states.contains(&state.shown_state(job)))
            && session.is_none_or(|session| session == job.session)
            && query.backend.as_deref().is_none_or(|backend| backend == job.spec.work.backend())
            && drone.as_ref().is_none_or(|drone| job.attempts.last().is_some_and(|last| last.node == *drone))
            && begins.is_none_or(|(low, high)| (low..=high).contains(&job.spec.id.0))
    };
    let page = state.jobs().rev().skip_while(|job| query.before.is_some_and(|before| before != job.spec.id));
    let newest = page.skip(usize::from(query.before.is_some())).filter(wanted).take(query.limit);
    Ok(newest.map(|job| views::job_line(state, job)).collect())
}

/// What came out of a job.
pub(super) fn artifacts_of(job: Job) -> Vec<ArtifactView> {
    let id = job.spec.id;
    let view = |artifact: crate::engine::job::Artifact| ArtifactView {
        job: id,
        name: artifact.name,
        sha256: artifact.sha256,
        size: artifact.size,
    };
    job.artifacts.into_iter().map(view).collect()
}

fn no_id(text: &str) -> ApiError {
    let shown: String = text.chars().take(80).collect();
    ApiError::new(ErrorCode::Invalid, format!("no id begins with {shown:?}"), "ids are shown by: hive queue list")
}

fn not_found(message: impl Into<String>, hint: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::NotFound, message, hint)
}

impl NodeApi for Api {
    fn log(&self) -> LogStatus {
        views::log_status(&self.shared)
    }

    fn ready(&self) -> Result<(), String> {
        condition::ready(&self.shared)
    }

    fn keyring(&self) -> Option<Keyring> {
        (!self.shared.me.secret_is_tentative || self.shared.is_member()).then(|| self.shared.keyring.clone())
    }

    fn holder(&self, key: &[u8]) -> Option<Holder> {
        keys::holder(&self.shared, key)
    }

    fn refused(&self, reason: &'static str, from: IpAddr) {
        if let Some(count) = self.refused.note(reason, from, now_ms()) {
            tracing::warn!(reason, %from, count, "HTTP request refused");
        }
    }

    fn metrics(&self) -> String {
        format!("{}{}", metrics::metrics(&self.shared), self.refused.metrics())
    }

    fn catch_up(&self) -> Answer<'_, ()> {
        catching_up::catch_up(&self.shared).boxed()
    }

    fn health(&self) -> Answer<'_, Health> {
        async move {
            let ready = self.ready();
            Ok(Health {
                name: self.shared.me.name.clone(),
                peer_id: self.shared.me.peer_id.clone(),
                state: views::phase(&self.shared),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_ms: now_ms().saturating_sub(self.shared.me.started_ms),
                ready: ready.is_ok(),
                reason: ready.err(),
                quorum: self.shared.consensus.status().quorum,
            })
        }
        .boxed()
    }

    fn status(&self) -> Answer<'_, Status> {
        async move { Ok(views::status(&self.shared)) }.boxed()
    }

    fn nodes(&self) -> Answer<'_, Vec<NodeView>> {
        async move { Ok(views::nodes(&self.shared)) }.boxed()
    }

    fn peers(&self) -> Answer<'_, PeersFile> {
        async move { Ok(views::peers(&self.shared)) }.boxed()
    }

    fn identity(&self) -> Answer<'_, Identity> {
        async move {
            self.shared.soft(|soft| soft.identity.clone()).ok_or_else(|| {
                ApiError::new(ErrorCode::NotFound, "the hive has not decided what this node is yet", "see hive status")
            })
        }
        .boxed()
    }

    fn claim_address(&self, claim: AddressClaim) -> Answer<'_, AddressClaim> {
        async move {
            tracing::info!(interface = claim.interface, cidr = claim.cidr, "claiming an address for this machine");
            match self.shared.executor.claim_address(&claim.interface, &claim.cidr).await {
                Ok(()) => Ok(claim),
                Err(ExecError::Refused(why)) => Err(ApiError::new(ErrorCode::Invalid, why, "see: ip -br addr")),
                Err(error) => {
                    Err(ApiError::new(ErrorCode::Forbidden, error.to_string(), "or as root: sudo hive net claim"))
                }
            }
        }
        .boxed()
    }

    fn reset_identity(&self) -> Answer<'_, Identity> {
        async move {
            if !self.shared.is_member() {
                let hint = "it asks by itself once it is a member; see hive status";
                return Err(ApiError::new(ErrorCode::Conflict, "this node belongs to no hive yet", hint));
            }
            let answer = serving::ask_loop(&self.shared, |reply| Event::ResetIdentity { reply });
            match tokio::time::timeout(RESET_TIMEOUT, answer).await {
                Ok(Some(answer)) => answer,
                Ok(None) => Err(internal("the agent is stopping")),
                Err(_) => Err(ApiError::new(
                    ErrorCode::NoQuorum,
                    "the hive has not answered in time; the node goes on asking",
                    "see hive identity in a while, and hive status",
                )),
            }
        }
        .boxed()
    }

    fn submit(&self, request: SubmitRequest, submitter: String) -> Answer<'_, Submitted> {
        submitting::submit(&self.shared, request, submitter).boxed()
    }

    fn store_blob(&self, bytes: ByteStream) -> Answer<'_, StoredBlob> {
        submitting::store_source(&self.shared, bytes).boxed()
    }

    fn jobs(&self, query: JobQuery) -> Answer<'_, Vec<JobLine>> {
        async move { self.shared.read(|state| jobs_of(state, &query)) }.boxed()
    }

    fn job(&self, id: JobId) -> Answer<'_, JobView> {
        async move { Ok(self.view_of(&self.find_job(&id).await?)) }.boxed()
    }

    fn cancel(&self, id: JobId, reason: String) -> Answer<'_, JobView> {
        async move {
            submitting::cancel(&self.shared, id, reason).await?;
            Ok(self.view_of(&self.find_job(&id).await?))
        }
        .boxed()
    }

    fn explain(&self, what: String) -> Answer<'_, Explanation> {
        async move { self.explanation(&what).await }.boxed()
    }

    fn job_log(&self, query: LogQuery) -> Answer<'_, LogStream> {
        async move { logs::stream(&self.shared, &self.find_job(&query.job).await?, query).await }.boxed()
    }

    fn log_matches(&self, id: JobId, attempt: Option<u32>, search: LogSearch) -> Answer<'_, LogMatches> {
        async move {
            let found = logs::look(&self.shared, &self.find_job(&id).await?, attempt, Question::Search(search)).await?;
            let Found::Matches(matches) = found else { return Err(logs::unexpected()) };
            Ok(matches)
        }
        .boxed()
    }

    fn log_phases(&self, id: JobId, attempt: Option<u32>) -> Answer<'_, LogPhases> {
        async move {
            let found = logs::look(&self.shared, &self.find_job(&id).await?, attempt, Question::Phases).await?;
            let Found::Phases(phases) = found else { return Err(logs::unexpected()) };
            Ok(phases)
        }
        .boxed()
    }

    fn log_first_error(&self, id: JobId, attempt: Option<u32>) -> Answer<'_, LogFirstError> {
        async move {
            let found = logs::look(&self.shared, &self.find_job(&id).await?, attempt, Question::FirstError).await?;
            let Found::FirstError(found) = found else { return Err(logs::unexpected()) };
            Ok(found)
        }
        .boxed()
    }

    fn artifacts(&self, id: JobId) -> Answer<'_, Vec<ArtifactView>> {
        async move { Ok(artifacts_of(self.find_job(&id).await?)) }.boxed()
    }

    fn artifact(&self, id: JobId, name: String) -> Answer<'_, Download> {
        async move {
            let job = self.find_job(&id).await?;
            let artifact = job.artifacts.iter().find(|artifact| artifact.name == name).cloned();
            let artifact = artifact.ok_or_else(|| {
                not_found(format!("job {id} has no artifact {name:?}"), format!("see: hive artifact list {id}"))
            })?;
            self.download(artifact.sha256, Some(artifact.size), artifact.name, job.artifact_node).await
        }
        .boxed()
    }

    fn staged(&self, atom: String) -> Answer<'_, StagedView> {
        staging::view(&self.shared, atom).boxed()
    }

    fn staged_file(&self, path: String) -> Answer<'_, StagedFile> {
        staging::file(&self.shared, path).boxed()
    }

    fn blob(&self, sha256: Sha256Hash) -> Answer<'_, Download> {
        async move { self.download(sha256, None, sha256.to_string(), None).await }.boxed()
    }

    fn doctor(&self) -> Answer<'_, DoctorFacts> {
        async move { Ok(self.doctor_facts()) }.boxed()
    }

    fn listen(&self) -> Answer<'_, ByteStream> {
        async move { Ok(self.listen_stream()) }.boxed()
    }

    fn join(&self, request: JoinRequest, from: IpAddr) -> Answer<'_, PeersFile> {
        self.register(request, from).boxed()
    }

    fn control(&self, request: ControlRequest, by: String) -> Answer<'_, Changed> {
        controlling::control(&self.shared, request, by).boxed()
    }

    fn change_drone(&self, name: String, action: String, request: DroneRequest, by: String) -> Answer<'_, Changed> {
        controlling::drone(&self.shared, name, action, request, by).boxed()
    }

    fn sessions(&self, query: SessionQuery) -> Answer<'_, SessionList> {
        async move { Ok(self.shared.read(|state| sessions::list(state, query))) }.boxed()
    }

    fn session(&self, which: String) -> Answer<'_, SessionView> {
        sessions::show(&self.shared, which).boxed()
    }

    fn cancel_session(&self, which: String, by: String, why: String) -> Answer<'_, Changed> {
        async move { sessions::cancel(&self.shared, &which, by, why).await }.boxed()
    }

    fn import(&self, about: ImportAbout, submitter: String, lines: ByteStream) -> Answer<'_, Imported> {
        importing::import(&self.shared, about, submitter, lines).boxed()
    }

    fn fleet(&self) -> Answer<'_, FleetView> {
        async move { Ok(fleet::fleet(&self.shared).await) }.boxed()
    }

    fn history(&self, query: HistoryQuery) -> Answer<'_, HistoryView> {
        past::history(&self.shared, query).boxed()
    }

    fn packages(&self, limit: usize) -> Answer<'_, PackageList> {
        async move { Ok(self.shared.read(|state| past::packages(state, limit))) }.boxed()
    }

    fn legacy_register(&self, registration: Registration, from: IpAddr) -> Answer<'_, Registered> {
        legacy::registered(&self.shared, registration, from).boxed()
    }

    fn legacy(&self, call: Call) -> Answer<'_, Told> {
        legacy::ask(&self.shared, call).boxed()
    }

    fn legacy_queue(&self, request: QueueRequest, submitter: String) -> Answer<'_, Queued> {
        legacy::queueing::queue(&self.shared, request, submitter).boxed()
    }

    fn legacy_read(&self, what: LegacyRead) -> Answer<'_, serde_json::Value> {
        legacy::reads::read(&self.shared, what).boxed()
    }

    fn events(&self, query: EventQuery) -> Answer<'_, EventList> {
        events::find(&self.shared, query).boxed()
    }

    fn access(&self) -> Answer<'_, AccessView> {
        async move { Ok(keys::view(&self.shared)) }.boxed()
    }

    fn change_admin_key(&self, request: AdminKeyRequest, by: String) -> Answer<'_, AdminKeyChanged> {
        keys::change(&self.shared, request, by).boxed()
    }

    fn add_token(&self, request: TokenRequest, by: String) -> Answer<'_, TokenMade> {
        keys::add_token(&self.shared, request, by).boxed()
    }

    fn revoke_token(&self, name: String, by: String) -> Answer<'_, AccessView> {
        keys::revoke_token(&self.shared, name, by).boxed()
    }

    fn job_page(&self, query: JobPageQuery) -> Answer<'_, JobPage> {
        async move { self.shared.read(|state| browsing::page(state, &query)) }.boxed()
    }

    fn job_graph(&self, id: JobId) -> Answer<'_, JobGraph> {
        async move {
            let job = self.find_job(&id).await?;
            Ok(self.shared.read(|state| browsing::graph(state, &job)))
        }
        .boxed()
    }

    fn critical_path(&self) -> Answer<'_, CriticalPath> {
        async move { Ok(self.shared.read(|state| browsing::critical_path(state, unix_now()))) }.boxed()
    }

    fn throughput(&self, minutes: u64) -> Answer<'_, Throughput> {
        async move { Ok(self.shared.read(|state| browsing::throughput(state, minutes))) }.boxed()
    }

    fn identity_of(&self, name: String) -> Answer<'_, Identity> {
        async move { browsing::identity(&self.shared, &name).await }.boxed()
    }

    fn wire(&self) -> &dyn WireApi {
        self
    }

    fn recover(&self, request: RecoverRequest) -> Answer<'_, RecoverReport> {
        recovering::recover(&self.shared, request).boxed()
    }
}
