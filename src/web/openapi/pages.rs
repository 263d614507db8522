//! What each route is for, what it takes and what it gives: a row for each.
//!
//! Never done here: saying who may use it (the table of routes does).

use utoipa::ToSchema;
use utoipa::openapi::schema::ArrayBuilder;
use utoipa::openapi::{Ref, RefOr, Schema};

use super::Shapes;
use crate::api::{
    AccessView, Activity, AddressClaim, AdminKeyChanged, AdminKeyRequest, ArtifactView, AuditCheck, AuditList,
    Authority, BrowserSession, CancelRequest, Changed, ControlRequest, CriticalPath, DoctorFacts, DroneRequest,
    EventList, Explanation, FleetView, Health, HistoryView, Identity, Imported, JobGraph, JobLine, JobPage, JobView,
    JoinRequest, LogFirstError, LogMatches, LogPhases, NodeView, PackageList, PeersFile, RecoverReport, RecoverRequest,
    SessionList, SessionView, SessionsEnded, SignInRequest, StagedView, Status, StoredBlob, SubmitRequest, Submitted,
    Throughput, TokenMade, TokenRequest,
};

/// Notes a shape and those within it, and names it.
type Make = fn(&mut Shapes) -> RefOr<Schema>;

/// What an answer is.
pub(super) enum Gives {
    /// In the envelope.
    Data(Make),
    /// A file or text of this kind.
    Bytes(&'static str),
    /// JSON of the old swarm, without an envelope.
    Bare,
}

/// What is said of a route.
pub(super) struct Page {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) about: &'static str,
    /// Parameters of the query with their meaning.
    pub(super) query: &'static [(&'static str, &'static str)],
    pub(super) takes: Option<Make>,
    pub(super) gives: Gives,
}

pub(super) fn shape<T: ToSchema>(shapes: &mut Shapes) -> RefOr<Schema> {
    let name = T::name().into_owned();
    if !shapes.iter().any(|(known, _)| *known == name) {
        shapes.push((name.clone(), T::schema()));
        T::schemas(shapes);
    }
    RefOr::Ref(Ref::from_schema_name(name))
}

fn list<T: ToSchema>(shapes: &mut Shapes) -> RefOr<Schema> {
    RefOr::T(Schema::Array(ArrayBuilder::new().items(shape::<T>(shapes)).build()))
}

const fn page(method: &'static str, path: &'static str, about: &'static str, gives: Gives) -> Page {
    Page { method, path, about, query: &[], takes: None, gives }
}

impl Page {
    const fn query(self, query: &'static [(&'static str, &'static str)]) -> Self {
        Self { query, ..self }
    }

    const fn takes(self, make: Make) -> Self {
        Self { takes: Some(make), ..self }
    }
}

const fn get<T: ToSchema>(path: &'static str, about: &'static str) -> Page {
    page("GET", path, about, Gives::Data(shape::<T>))
}

const fn post<B: ToSchema, T: ToSchema>(path: &'static str, about: &'static str) -> Page {
    page("POST", path, about, Gives::Data(shape::<T>)).takes(shape::<B>)
}

const fn bytes(path: &'static str, about: &'static str, kind: &'static str) -> Page {
    page("GET", path, about, Gives::Bytes(kind))
}

const fn old(method: &'static str, path: &'static str, about: &'static str) -> Page {
    page(method, path, about, Gives::Bare)
}

const TEXT: &str = "text/plain";
const HTML: &str = "text/html";
const FILE: &str = "application/octet-stream";
const ATTEMPT: (&str, &str) = ("attempt", "the attempt; the last one when left out");
const LIMIT: (&str, &str) = ("limit", "at most so many");
const CONSISTENT: (&str, &str) =
    ("consistent", "true: first catch up with what the hive had committed when it was asked");

/// All of them.
pub(super) const PAGES: &[Page] = &[
    bytes("/app/{*file}", "A file of the dashboard.", FILE),
    bytes("/plain", "The state of things, without a script.", HTML),
    bytes("/plain/jobs/{id}", "A job with the end of its log, without a script.", HTML),
    bytes("/badge.svg", "How the hive is, as a small picture.", "image/svg+xml").query(&[("show", "health or queue")]),
    bytes("/style.css", "How pages look.", "text/css"),
    bytes("/icon.svg", "The sign of the hive.", "image/svg+xml"),
    page("GET", "/openapi.json", "This description.", Gives::Bytes("application/json")),
    bytes("/openapi", "This description, for people.", HTML),
    page("GET", "/healthz", "Whether the agent lives.", Gives::Bare),
    page(
        "GET",
        "/readyz",
        "Whether the node is a member that is up to date; 503 with the reason when it is not.",
        Gives::Bare,
    ),
    bytes("/metrics", "Measurements for Prometheus.", TEXT),
    get::<Health>("/api/v2/health", "The node in one line."),
    get::<Status>("/api/v2/status", "The hive as this node sees it.").query(&[CONSISTENT]),
    page("GET", "/api/v2/nodes", "All nodes with what they are.", Gives::Data(list::<NodeView>)).query(&[CONSISTENT]),
    page("GET", "/api/v2/jobs", "Jobs, the newest first.", Gives::Data(list::<JobLine>)).query(&[
        ("state", "only these states, with commas between"),
        ("session", "only of this session: id, beginning of it, or name"),
        ("backend", "only of this kind"),
        ("drone", "only those whose last attempt is or was there"),
        ("id", "only those whose id begins so"),
        ("before", "only those queued before this one: the next page"),
        LIMIT,
        CONSISTENT,
    ]),
    get::<JobView>("/api/v2/jobs/{id}", "A job.").query(&[CONSISTENT]),
    get::<JobGraph>("/api/v2/jobs/{id}/graph", "What a job waits for and what waits for it."),
    get::<JobPage>("/api/v2/queue", "A window of the queue.").query(&[
        ("state", "only these states, with commas between"),
        ("q", "only those whose target contains this"),
        ("session", "only of this session"),
        ("backend", "only of this kind"),
        ("drone", "only those whose last attempt is or was there"),
        ("order", "newest, oldest or priority"),
        ("offset", "so many are left out first"),
        LIMIT,
    ]),
    get::<CriticalPath>("/api/v2/critical-path", "The longest chain of jobs that wait for each other."),
    get::<Throughput>("/api/v2/throughput", "Jobs that ended, by time.").query(&[("minutes", "how far back")]),
    get::<Activity>("/api/v2/activity", "How much went on when: events, attempts that ended, messages, by time.")
        .query(&[
            ("from", "from this time on; a week ago when left out"),
            ("to", "up to this time; now when left out"),
            ("buckets", "columns"),
        ]),
    get::<Identity>("/api/v2/nodes/{name}/identity", "The role of a node, by whom and why."),
    bytes("/api/v2/jobs/{id}/log", "The output of an attempt.", TEXT).query(&[
        ATTEMPT,
        ("offset", "first byte"),
        ("tail", "so many bytes before the end instead"),
        ("follow", "true: go on until the attempt is over"),
        ("harmless", "true: without what a terminal would obey"),
    ]),
    get::<LogMatches>("/api/v2/jobs/{id}/log/search", "Lines of a log that match.").query(&[
        ("q", "what to find"),
        ATTEMPT,
        ("regex", "true: it is a regular expression"),
        ("ignore_case", "true: letters count alike"),
        ("offset", "first byte"),
        ("line", "number of the line there"),
        LIMIT,
    ]),
    get::<LogPhases>("/api/v2/jobs/{id}/log/phases", "The phases of an attempt.").query(&[ATTEMPT]),
    get::<LogFirstError>("/api/v2/jobs/{id}/log/first-error", "The line that tells best what went wrong.")
        .query(&[ATTEMPT]),
    page("GET", "/api/v2/jobs/{id}/artifacts", "What a job produced.", Gives::Data(list::<ArtifactView>)),
    bytes("/api/v2/jobs/{id}/artifacts/{name}", "A file that a job produced.", FILE),
    bytes("/api/v2/blobs/{sha256}", "A file by its digest.", FILE),
    bytes("/staging/{*path}", "A file of this node's staging directory.", FILE),
    get::<StagedView>("/api/v2/staged", "Whether a whole package is in a staging directory.")
        .query(&[("atom", "the package")]),
    get::<Explanation>("/api/v2/explain/{what}", "Why a job waits, or a node gets no work."),
    get::<SessionList>("/api/v2/sessions", "Sessions, the newest first.").query(&[
        ("open", "true: only those that are not over"),
        LIMIT,
        CONSISTENT,
    ]),
    get::<SessionView>("/api/v2/sessions/{which}", "A session by id, beginning of it, or name."),
    get::<FleetView>("/api/v2/fleet", "The drones and what they do.").query(&[CONSISTENT]),
    get::<EventList>("/api/v2/events", "What happened; with Accept: text/event-stream what happens from now on.")
        .query(&[
            ("since", "only after the event with this number"),
            ("type", "only of this kind"),
            ("drone", "only what concerns this drone or node"),
            LIMIT,
            (
                "topics",
                "of a stream: status, changes, events, metrics, wire, log:JOB, log:JOB:ATTEMPT, with commas between",
            ),
            ("log_tail", "of a stream: so many bytes of each log's end first"),
            ("filter", "of a stream with topic wire: only records that fit"),
        ]),
    page("GET", "/api/v2/wire", "What passed between nodes.", Gives::Bare).query(&[
        ("filter", "an expression; see /api/v2/wire/fields"),
        ("node", "a node, or all"),
        ("since", "only after this number"),
        ("before", "only before this number"),
        LIMIT,
    ]),
    page("GET", "/api/v2/wire/conversations", "Who speaks with whom, and how much.", Gives::Bare),
    page("GET", "/api/v2/wire/density", "How much passed, by time.", Gives::Bare)
        .query(&[("buckets", "so many parts")]),
    page("GET", "/api/v2/wire/fields", "What a filter may name.", Gives::Bare),
    bytes("/api/v2/wire/export", "What passed, as a file.", FILE).query(&[("format", "jsonl or pcapng")]),
    page("GET", "/api/v2/wire/{id}", "One message, with what it says.", Gives::Bare),
    page("POST", "/api/v2/sql", "The answer to a query in SQL that reads.", Gives::Bare),
    page("GET", "/api/v2/sql/schema", "Tables and views that can be queried, with their columns.", Gives::Bare),
    bytes("/api/v2/nodes/{name}/logs", "The log of a node's agent, or of its system.", TEXT),
    page(
        "POST",
        "/api/v2/nodes/{name}/exec",
        "Runs a command on a node, where that is switched on.",
        Gives::Bytes("application/x-ndjson"),
    ),
    page(
        "POST",
        "/api/v2/nodes/{name}/terminal",
        "A ticket for one terminal on a node, where that is switched on.",
        Gives::Bare,
    ),
    page("GET", "/api/v2/recordings", "Terminals that were recorded.", Gives::Bare),
    bytes("/api/v2/recordings/{id}", "What was seen of a terminal.", FILE),
    page(
        "GET",
        "/ws/ssh/{node}",
        "A terminal, as a WebSocket; its first message is the ticket.",
        Gives::Bytes("application/json"),
    ),
    get::<HistoryView>("/api/v2/history", "Attempts that are over.").query(&[
        ("package", "only of this package"),
        ("drone", "only there"),
        ("session", "only of this session"),
        ("failed", "true: only those that went wrong"),
        LIMIT,
    ]),
    get::<PackageList>("/api/v2/build-stats/by-package", "What is known of packages.").query(&[LIMIT]),
    bytes("/bootstrap.sh", "The installer.", TEXT),
    bytes("/bootstrap.sh.sha256", "Its digest.", TEXT),
    bytes("/bootstrap.sh.hmac", "A proof that whoever has the secret can check.", TEXT),
    bytes("/bootstrap/{file}", "The node's own program, its digest and its proof.", FILE),
    get::<PeersFile>("/hive/peers", "The nodes, for whoever knows the secret."),
    post::<JoinRequest, PeersFile>("/hive/join", "Says where a node on another subnet is."),
    get::<PeersFile>("/api/v2/peers", "The nodes, as in peers.json."),
    get::<Identity>("/api/v2/identity", "The role of this node, by whom and why."),
    get::<DoctorFacts>("/api/v2/doctor", "What hive doctor judges."),
    bytes("/api/v2/listen", "The hive's datagrams from now on, one JSON object a line.", "application/x-ndjson"),
    post::<SubmitRequest, Submitted>("/api/v2/jobs", "Queues jobs."),
    post::<CancelRequest, JobView>("/api/v2/jobs/{id}/cancel", "Ends a job."),
    page(
        "POST",
        "/api/v2/queue/import",
        "Queues the jobs of a stream of lines, all or none.",
        Gives::Data(shape::<Imported>),
    )
    .query(&[
        ("name", "of the session"),
        ("profile", "its build profile"),
        ("session", "its id, so that importing again is harmless"),
    ]),
    post::<CancelRequest, Changed>("/api/v2/sessions/{which}/cancel", "Ends a session."),
    page("PUT", "/api/v2/blobs", "Stores a source archive.", Gives::Data(shape::<StoredBlob>)),
    post::<ControlRequest, Changed>("/api/v2/control", "Acts on the queue or on drones."),
    post::<DroneRequest, Changed>("/api/v2/nodes/{name}/{action}", "Pauses, resumes, drains or limits a drone."),
    page("POST", "/api/v2/identity/reset", "Asks the hive again what this node is.", Gives::Data(shape::<Identity>)),
    get::<Authority>("/api/v2/authority", "Who signs the certificates of the hive's nodes."),
    get::<AccessView>("/api/v2/access", "Who may control the hive from another machine."),
    post::<AdminKeyRequest, AdminKeyChanged>("/api/v2/access/key", "Changes the admin key."),
    post::<TokenRequest, TokenMade>("/api/v2/access/tokens", "Makes a token."),
    page("POST", "/api/v2/access/tokens/{name}/revoke", "Revokes a token.", Gives::Data(shape::<AccessView>)),
    get::<BrowserSession>("/api/v2/session", "Who a browser is signed in as."),
    post::<SignInRequest, BrowserSession>("/api/v2/session", "Exchanges a key for a cookie."),
    page("DELETE", "/api/v2/session", "Signs this browser out.", Gives::Data(shape::<BrowserSession>)),
    page(
        "POST",
        "/api/v2/session/revoke",
        "Signs every browser out, at all nodes.",
        Gives::Data(shape::<SessionsEnded>),
    ),
    get::<AuditList>("/api/v2/audit", "What people had the hive do, the newest first.")
        .query(&[("before", "only before the entry with this number"), LIMIT]),
    get::<AuditCheck>("/api/v2/audit/check", "Whether the audit log is what was written."),
    post::<AddressClaim, AddressClaim>("/api/v2/addresses", "Adds an address to an interface of this machine."),
    page(
        "POST",
        "/api/v2/backup",
        "The replicated state at one moment, as a file.",
        Gives::Bytes("application/octet-stream"),
    ),
    post::<RecoverRequest, RecoverReport>(
        "/api/v2/recover",
        "Begins a new epoch after the majority of the voters was lost for good.",
    ),
    old("GET", "/api/v1/health", "Whether the node answers."),
    old("GET", "/api/v1/status", "The queue, drones and sessions."),
    old("GET", "/api/v1/nodes", "Drones as a flat list.").query(&[("all", "1: also those that do not answer")]),
    old("GET", "/api/v1/orchestrator", "Where this node is asked."),
    old("GET", "/api/v1/queue", "Jobs.").query(&[LIMIT]),
    old("GET", "/api/v1/history", "Attempts that are over.").query(&[("session", "only of this session"), LIMIT]),
    old("GET", "/api/v1/sessions", "Sessions."),
    old("GET", "/api/v1/build-stats/by-package", "What is known of packages.")
        .query(&[("package", "only this one"), LIMIT]),
    old("GET", "/api/v1/versions", "Versions of node and drones."),
    old("GET", "/api/v1/metrics", "Samples of the queue and drones.")
        .query(&[("since", "seconds since 1970"), ("node", "only this one")]),
    old("GET", "/api/v1/events", "What happened.").query(&[("since", "only after this number"), LIMIT]),
    old("GET", "/api/v1/events/history", "What happened, by time.").query(&[
        ("since", "seconds since 1970"),
        ("type", "only of this kind"),
        ("drone", "only there"),
        LIMIT,
    ]),
    old("GET", "/api/v1/portage-config", "The package tree that the drones have."),
    old("GET", "/api/v1/protocol", "What passed between nodes."),
    old("GET", "/api/v1/protocol/stats", "How much of what passed."),
    old("GET", "/api/v1/protocol/density", "How much passed, by time."),
    old("GET", "/api/v1/protocol/snapshot", "How things stood at a time.").query(&[("at", "seconds since 1970")]),
    old("GET", "/api/v1/protocol/detail", "One message.").query(&[("id", "its number")]),
    old("GET", "/api/v1/sql/tables", "Tables that can be queried."),
    old("GET", "/api/v1/sql/schema", "Their columns."),
    old("GET", "/api/v1/sql/query", "The answer to a query.").query(&[("q", "SQL that reads")]),
    old("GET", "/admin/api/logs/control-plane", "The end of this agent's log.").query(&[("lines", "at most so many")]),
    old("GET", "/admin/api/logs/drone/{name}", "What a drone said lately."),
    old("GET", "/admin/api/logs/build/{name}/{*package}", "The log of the last build of a package there."),
    old("GET", "/admin/api/drones/{name}/syslog", "The end of a machine's system log.")
        .query(&[("lines", "at most so many")]),
    old("GET", "/api/v1/ping", "Whether a drone answers; all of them without a name.")
        .query(&[("id", "name or id of the drone")]),
    old("GET", "/api/v1/ping/all", "Whether the drones answer."),
    old("GET", "/admin/api/auth/check", "Whether the key is good."),
    old("GET", "/admin/api/system/info", "The machine of this node."),
    old("GET", "/admin/api/drones/versions", "Versions of node and drones."),
    old("GET", "/admin/api/drones/{name}/ping", "Whether a drone answers."),
    old("POST", "/admin/api/drones/{name}/ping", "Whether a drone answers."),
    old("GET", "/admin/api/v2/nodes", "All drones."),
    old("GET", "/admin/api/v2/status", "As /api/v1/status."),
    old("POST", "/admin/api/drone/{name}/reset-upload", "Lifts the pause of a drone that failed too often."),
    old("GET", "/api/v1/drone-health", "Failures and pauses of drones."),
    old("GET", "/api/v1/work", "Hands a drone its next package.").query(&[("id", "the drone")]),
    old("GET", "/api/v1/poll", "As work.").query(&[("node", "the drone")]),
    old("POST", "/api/v1/register", "A drone says that it is there."),
    old("POST", "/api/v1/complete", "A drone says what became of a package."),
    old("POST", "/api/v1/report", "As complete."),
    old("POST", "/api/v1/queue", "Queues packages."),
    old("POST", "/api/v1/control", "Acts on the queue."),
    old("POST", "/api/v1/nodes/{name}/{action}", "Pauses, resumes or pings a drone."),
    old("DELETE", "/api/v1/nodes/{name}", "Takes a drone off the list."),
];
