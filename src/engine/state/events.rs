//! What a command is told to have done: looked at before it is executed, and said when it was.
//!
//! Never done here: changing the state, and saying anything of a command that changed nothing, but for a report that came too late.

use super::{Context, State, clip};
use crate::engine::access::AccessChange;
use crate::engine::command::{Command, Progress, RejectCode, Reply};
use crate::engine::control::{Control, DroneChange};
use crate::engine::event::{Event, EventKind};
use crate::engine::id::{JobId, PeerId, SessionId};
use crate::engine::job::{JobState, Outcome};

/// Longest sentence, bytes.
const MESSAGE_MAX: usize = 400;

/// What is known of a command before it is executed, and gone after.
pub(super) struct Clue {
    kind: EventKind,
    job: Option<JobId>,
    node: Option<PeerId>,
    session: Option<SessionId>,
    package: Option<String>,
    text: String,
    grounded_until_ms: u64,
}

impl Clue {
    fn new(kind: EventKind, text: impl Into<String>) -> Self {
        Self { kind, job: None, node: None, session: None, package: None, text: text.into(), grounded_until_ms: 0 }
    }

    fn node(self, node: &PeerId) -> Self {
        Self { node: Some(node.clone()), ..self }
    }

    fn session(self, session: SessionId) -> Self {
        Self { session: Some(session), ..self }
    }
}

impl State {
    /// What there will be to say of a command when it succeeds; none for those of which nothing is said.
    pub(super) fn clue(&self, command: &Command) -> Option<Clue> {
        Some(match command {
            Command::Found { founder, .. } => Clue::new(EventKind::Hive, "the hive was founded").node(&founder.peer_id),
            Command::BeginHive { founder, .. } => {
                Clue::new(EventKind::Hive, "the hive goes on from a backup").node(&founder.peer_id)
            }
            Command::BeginEpoch { epoch } => Clue::new(EventKind::Hive, format!("epoch {} began", epoch.counter)),
            Command::Admit { member } => {
                let known = self.members.get(&member.peer_id).is_some_and(|known| !known.left);
                return (!known).then(|| Clue::new(EventKind::MemberJoined, "joined the hive").node(&member.peer_id));
            }
            Command::Leave { peer_id } => Clue::new(EventKind::MemberLeft, "left the hive").node(peer_id),
            Command::ClaimRole { peer_id, .. } => Clue::new(EventKind::Role, "").node(peer_id),
            Command::Submit { draft: Some(_), .. }
            | Command::BindReplica { .. }
            | Command::Audit { .. }
            | Command::KeepAnswer { .. }
            | Command::RaiseFeatureLevel { .. } => {
                return None;
            }
            Command::Submit { session, about, draft: None, jobs } => {
                let text = format!("{} queued by {}", count(jobs.len() as u64, "job", "jobs"), about.submitter);
                let package = (jobs.len() == 1).then(|| jobs.first().map(|job| job.target.clone())).flatten();
                Clue { package, ..Clue::new(EventKind::Queue, text).session(*session) }
            }
            Command::OpenSession { session, jobs } => {
                Clue::new(EventKind::Queue, format!("{} queued together", count(*jobs, "job", "jobs")))
                    .session(*session)
            }
            Command::DropSession { session, reason } => {
                Clue::new(EventKind::Session, format!("taken back: {reason}")).session(*session)
            }
            Command::Assign { job, node } => self.job_clue(EventKind::Assign, *job, "").node(node),
            Command::Report { job, progress, .. } => return self.report_clue(*job, progress),
            Command::Lose { job, reason, .. } => self.job_clue(EventKind::Reclaim, *job, reason),
            Command::Revoke { job, reason, .. } => self.job_clue(EventKind::Rebalance, *job, reason),
            Command::EndBlock { job } => self.job_clue(EventKind::Unblock, *job, "the block is over"),
            Command::Cancel { job, reason } => self.job_clue(EventKind::Cancel, *job, reason),
            Command::Control { action, by, why } => control_clue(action, by, why),
            Command::Access { change, by } => Clue::new(EventKind::Access, format!("{} by {by}", access_text(change))),
            Command::RegisterLegacy { drone } => {
                let peer = crate::engine::legacy::peer_id(&drone.name);
                let known = self.legacy.get(&peer).is_some();
                let text = format!("{} registered", drone.name);
                return (!known).then(|| Clue::new(EventKind::Register, text).node(&peer));
            }
            Command::ForgetLegacy { peer_id } => Clue::new(EventKind::Register, "taken off the list").node(peer_id),
        })
    }

    fn job_clue(&self, kind: EventKind, id: JobId, text: impl Into<String>) -> Clue {
        let job = self.jobs.get(&id);
        let node = job.and_then(|job| job.attempts.last()).map(|attempt| attempt.node.clone());
        Clue { job: Some(id), node, session: job.map(|job| job.session), ..Clue::new(kind, text) }
    }

    fn report_clue(&self, id: JobId, progress: &Progress) -> Option<Clue> {
        let (kind, text) = match progress {
            Progress::Building { .. } => (EventKind::Start, String::new()),
            Progress::Uploading => return None,
            Progress::Ended { outcome } => match outcome {
                Outcome::Succeeded { artifacts } => {
                    (EventKind::Complete, count(artifacts.len() as u64, "artifact", "artifacts"))
                }
                Outcome::Failed { reason, .. } => (EventKind::Fail, reason.clone()),
                Outcome::Returned { reason } => (EventKind::Return, reason.clone()),
                Outcome::NotUploaded { reason } => (EventKind::Fail, format!("not uploaded: {reason}")),
            },
        };
        let clue = self.job_clue(kind, id, text);
        let record = clue.node.as_ref().and_then(|node| self.jobs.drones.row(node));
        let grounded_until_ms = record.map_or(0, |record| record.grounded_until_ms);
        Some(Clue { grounded_until_ms, ..clue })
    }

    /// Says what a command did, now that its reply is known.
    pub(super) fn tell(&mut self, context: Context, clue: Clue, reply: &Reply) {
        let Clue { kind, job: id, node, session, package, text, grounded_until_ms } = clue;
        let reported = matches!(kind, EventKind::Start | EventKind::Complete | EventKind::Fail | EventKind::Return);
        let kind = match reply {
            Reply::Rejected { code: RejectCode::Stale, .. } if reported => EventKind::Stale,
            Reply::Rejected { .. } => return,
            Reply::Done | Reply::Role { .. } | Reply::Assigned { .. } | Reply::Changed { .. } => kind,
        };
        let job = id.and_then(|id| self.jobs.get(&id));
        let target = package.or_else(|| job.map(|job| job.spec.target.clone()));
        let drone = node.as_ref().map(|node| match self.legacy.get(node) {
            Some(legacy) => legacy.info.name.clone(),
            None => self.name_of(node).to_owned(),
        });
        let session = session.or_else(|| job.map(|job| job.session));
        let message = match reply {
            Reply::Role { claim } => format!("became {}", claim.role),
            Reply::Assigned { attempt, .. } => format!("attempt {attempt}"),
            Reply::Changed { jobs, drones } => {
                format!("{text} ({}, {})", count(*jobs, "job", "jobs"), count(*drones, "drone", "drones"))
            }
            Reply::Done | Reply::Rejected { .. } => text,
        };
        let blocked = job.filter(|job| kind == EventKind::Fail && job.state == JobState::Blocked);
        let blocked = blocked.map(|job| job.reason.clone().unwrap_or_default());
        let record = node.as_ref().and_then(|node| self.jobs.drones.row(node));
        let grounded = reported && record.is_some_and(|record| record.grounded_until_ms > grounded_until_ms);
        let event = Event {
            id: 0,
            at: context.at,
            kind,
            message: clip(&message, MESSAGE_MAX),
            drone: drone.clone(),
            package: target.clone(),
            job: id,
            session,
        };
        let blocked = blocked.map(|reason| {
            let message = clip(&reason, MESSAGE_MAX);
            Event { kind: EventKind::Blocked, message, drone: None, ..event.clone() }
        });
        let grounded = grounded.then(|| {
            let message = "too many failures of its own: no work for a while".to_owned();
            let (job, package, session) = (None, None, None);
            Event { kind: EventKind::Grounded, message, job, package, session, ..event.clone() }
        });
        self.told.push(event);
        self.told.extend(blocked.into_iter().chain(grounded));
    }
}

fn count(number: u64, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

fn control_clue(action: &Control, by: &str, why: &str) -> Clue {
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    let word = match action {
        Control::Pause => "pause",
        Control::Resume => "resume",
        Control::Block { .. } => "block",
        Control::Unblock { .. } => "unblock",
        Control::RetryFailures { .. } => "retry_failures",
        Control::ClearFailures => "clear_failures",
        Control::Reset { .. } => "reset",
        Control::Rebalance { .. } => "rebalance",
        Control::Reclaim { .. } => "reclaim",
        Control::Unground { .. } => "unground",
        Control::ClearHistory => "clear_history",
        Control::CancelSession { .. } => "cancel session",
        Control::Drone { change, .. } => match change {
            DroneChange::Pause => "pause drone",
            DroneChange::Resume => "resume drone",
            DroneChange::Drain { .. } => "drain drone",
            DroneChange::Limit { .. } => "limit drone",
        },
    };
    let clue = Clue::new(EventKind::Control, format!("{word} by {by}{why}"));
    match action {
        Control::Drone { node, .. } | Control::Unground { node: Some(node) } => clue.node(node),
        Control::CancelSession { session } => clue.session(*session),
        Control::Pause
        | Control::Resume
        | Control::Block { .. }
        | Control::Unblock { .. }
        | Control::RetryFailures { .. }
        | Control::ClearFailures
        | Control::Reset { .. }
        | Control::Rebalance { .. }
        | Control::Reclaim { .. }
        | Control::Unground { node: None }
        | Control::ClearHistory => clue,
    }
}

fn access_text(change: &AccessChange) -> String {
    match change {
        AccessChange::SetKey { .. } | AccessChange::SetFirstKey { .. } => "admin key set".to_owned(),
        AccessChange::RemoveKey => "admin key removed".to_owned(),
        AccessChange::AddToken { name, scope, .. } => format!("token {name} with scope {scope} made"),
        AccessChange::RevokeToken { name } => format!("token {name} revoked"),
        AccessChange::EndSessions => "all browsers signed out".to_owned(),
    }
}
