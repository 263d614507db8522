//! From a checked configuration to a running node.
//!
//! Order: state directory, incarnation ─► log ─► sockets ─► loop ─► ready. Never done here:
//! anything that is decided while running.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::files::Files;
use super::node_api::Api;
use super::preparing::Prepared;
use super::shared::{Me, Shared, Soft};
use super::{
    Agent, EVENTS_MAX, Event, Inputs, blobs, certificates, control, events, history, keys, peers, serving, staging,
    state_dir, syncing, web_settings,
};
use crate::blobs::{BlobStore, exchange, unpack};
use crate::clock::now_ms;
use crate::config::{Config, LegacyMode as ConfiguredLegacy, TlsMode};
use crate::consensus::{Consensus, ConsensusError, Identity as ConsensusIdentity, Options as ConsensusOptions};
use crate::discovery::{BeaconContent, Discovery, Heard, LegacyMode, Options as DiscoveryOptions, interfaces};
use crate::engine::id::Sha256Hash;
use crate::engine::member::Inventory;
use crate::exec::build::{Builder, Depot, DepotError};
use crate::exec::console::journal::AgentLog;
use crate::exec::facts::FactsHandle;
use crate::exec::logs::{self, LogStore};
use crate::exec::portage::Portage;
use crate::exec::privilege::{Executor, Privilege};
use crate::exec::signatures::Signatures;
use crate::exec::staging::Staging;
use crate::exec::{InstallPolicy, Options as ExecOptions, SyncPolicy, inventory};
use crate::keyring::{Keyring, Secret};
use crate::mesh::{self, Introduction, LocalFacts, MeshHandle, NodeKey, open_policy};
use crate::store::{incarnation, space};
use crate::tasks;
use crate::transport::Transport as _;
use crate::web;
use crate::wire::Wire;

/// News of builds that may wait for the loop. Builds wait when it is full.
const BUILDS_MAX: usize = 256;
/// Interval of telling the service manager that the loop lives, milliseconds; a third of the unit's 30 s.
const WATCHDOG_MS: u64 = 10_000;
/// One round of housekeeping.
const HOUSEKEEPING: Duration = Duration::from_secs(30);
/// Interval of looking for a helper that is away.
const HELPER_RETRY: Duration = Duration::from_secs(2);
/// A helper that answers is asked again in every so many of these rounds.
const HELPER_LOOK_EVERY: u32 = 15;
/// Interval of looking at the machine's tools and of dropping old logs and blobs, in rounds of housekeeping.
const LOOK_EVERY: u32 = 120;
/// The first look at the tools is so many rounds after the start at most, at random.
const LOOK_SPREAD: u32 = 4;

/// How the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// Something that it stands on failed; a restart may help.
    Failed,
}

impl Ended {
    /// The process's exit code. An agent whose configuration only an edit can mend ends with 2 before it gets here, and its unit
    /// does not start it again.
    pub fn code(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Failed => 1,
        }
    }
}

/// Runs the agent until it is told to stop.
pub fn run(prepared: Prepared) -> Ended {
    let agent_log = AgentLog::default();
    super::logging::init(&prepared.loaded.config, &agent_log);
    tasks::abort_on_panic();
    for warning in &prepared.loaded.warnings {
        tracing::warn!(warning, "configuration");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("Failed to start the runtime")),
    };
    let result = runtime.block_on(start(prepared, agent_log));
    runtime.shutdown_timeout(Duration::from_millis(200));
    match result {
        Ok(()) => Ended::Stopped,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> Ended {
    let hint = if space::is_disk_full(error.as_ref()) {
        Some("the disk is full: free some space (df -h), then start hive again")
    } else if error.chain().any(is_damage) {
        Some("a file is damaged: hive db check says which, and what to do")
    } else {
        None
    };
    tracing::error!(error = %format!("{error:#}"), hint, "the agent ends");
    Ended::Failed
}

fn is_damage(cause: &(dyn std::error::Error + 'static)) -> bool {
    match cause.downcast_ref::<ConsensusError>() {
        // It says what its cause says, and is no cause itself.
        Some(ConsensusError::Store(error)) => crate::store::is_damage(error),
        Some(_) | None => crate::store::is_damage(cause),
    }
}

/// One agent per state directory; the lock goes with the process.
fn lock_state_dir(directory: &Path) -> anyhow::Result<File> {
    fs::create_dir_all(directory)
        .with_context(|| format!("Failed to make the state directory {}", directory.display()))?;
    let taken = state_dir::lock(directory).with_context(|| format!("Failed to lock {}", directory.display()))?;
    let Some(lock) = taken else {
        bail!(
            "another agent uses the state directory {}; stop it, or choose another with --state-dir",
            directory.display()
        )
    };
    if let Some(origin) = state_dir::unfinished(directory) {
        bail!(
            "a restore into the state directory {} was broken off half-way; run it again: hive restore {origin}",
            directory.display()
        );
    }
    Ok(lock)
}

fn bind_web(config: &Config, wire: &Wire, secret: &Secret) -> anyhow::Result<(web::Bound, SocketAddr)> {
    let keeper = certificates::open(config, secret).context("Failed to prepare TLS")?;
    let tls = keeper.map(certificates::Keeper::begin);
    let options = web::Options { tls, ..web_settings::options(config, wire) };
    let bound = web::bind(options).map_err(anyhow::Error::new)?;
    let address = bound.address().context("Failed to read the HTTP address")?;
    Ok((bound, address))
}

async fn start(prepared: Prepared, agent_log: AgentLog) -> anyhow::Result<()> {
    let config = prepared.loaded.config;
    let _lock = lock_state_dir(&config.state_dir)?;
    let incarnation = incarnation::raise(&config.state_dir).context("Failed to raise the incarnation")?;
    let key = NodeKey::load_or_create(&config.state_dir).context("Failed to read or make the node's key")?;
    let peer_id = key.peer_id();
    let keyring = Keyring::new(&prepared.secret);
    let wire = super::wire::ring(&config, &peer_id);
    let (bound, http) = bind_web(&config, &wire, &prepared.secret)?;

    let local = LocalFacts { name: config.name.clone(), ..LocalFacts::default() };
    let introduction = Introduction { key, keyring: keyring.clone(), incarnation, local, policy: open_policy() };
    let (mesh, mesh_events) =
        mesh::start(mesh_options(&config, &wire), introduction).await.map_err(anyhow::Error::new)?;
    let options = discovery_options(&config, peer_id.clone(), incarnation, &wire)?;
    let (discovery, discovery_events) =
        Discovery::start(options, Some(keyring.clone()), first_words(&config)).map_err(anyhow::Error::new)?;
    let identity = ConsensusIdentity { peer_id: peer_id.clone(), incarnation };
    let consensus = open_consensus(&config, mesh.clone(), identity).await?;
    let blobs = open_blobs(&config)?;
    let logs = LogStore::open(log_options(&config)).context("Failed to open the logs")?;
    let executor = Arc::new(open_executor(&config).await?);
    let ((events, events_out), (builds, builds_out)) = (mpsc::channel(EVENTS_MAX), mpsc::channel(BUILDS_MAX));
    let late: Arc<std::sync::OnceLock<std::sync::Weak<Shared>>> = Arc::default();
    let depot = Arc::new(AgentDepot { blobs: blobs.clone(), shared: Arc::clone(&late) });
    let builder = open_builder(&executor, &logs, depot).await?;
    let me = Me {
        peer_id,
        name: config.name.clone(),
        incarnation,
        started_ms: now_ms(),
        secret_is_tentative: prepared.secret_is_tentative,
        http,
        config_file: prepared.loaded.file,
    };
    let shared = Arc::new(Shared {
        files: Files::new(&config.state_dir),
        inventory: RwLock::new(look_at_machine(&config, &executor)),
        fact_sources: FactsHandle::start(prepared.facts).map_err(anyhow::Error::msg)?,
        definitions: Mutex::new(prepared.definitions),
        soft: RwLock::new(Soft { isolation: executor.capabilities().notes.clone(), ..Soft::default() }),
        leases: Mutex::new(None),
        promise: super::epochs::Promise::default(),
        legacy: super::legacy::Memory::default(),
        sql: super::sql::Desk::default(),
        console: super::console::open(&config, agent_log),
        me,
        keyring,
        consensus,
        calls: serving::callers(&mesh),
        mesh,
        discovery,
        blobs,
        event_db: events::open(&config.state_dir),
        history: history::open(&config.state_dir, config.history),
        logs,
        staging: open_staging(&config)?,
        wire,
        builder,
        executor,
        builds,
        events,
        config,
    });
    // The depot fetches through the agent, which exists only now; no build can have begun before.
    let _ = late.set(Arc::downgrade(&shared));
    let inputs = Inputs { events: events_out, discovery: discovery_events, mesh: mesh_events, builds: builds_out };
    serve_and_run(shared, bound, inputs).await
}

/// What the beacon says until the agent knows more.
fn first_words(config: &Config) -> BeaconContent {
    BeaconContent { name: config.name.clone(), ..BeaconContent::default() }
}

async fn open_consensus(config: &Config, mesh: MeshHandle, identity: ConsensusIdentity) -> anyhow::Result<Consensus> {
    let opened = Consensus::open(ConsensusOptions::new(&config.state_dir), mesh, identity).await;
    super::start_context(opened, "the replicated log")
}

fn open_blobs(config: &Config) -> anyhow::Result<BlobStore> {
    let opened = BlobStore::open(&config.state_dir.join("blobs"), crate::blobs::Options::default());
    super::start_context(opened, "the blob store")
}

async fn open_builder(executor: &Arc<Executor>, logs: &LogStore, depot: Arc<AgentDepot>) -> anyhow::Result<Builder> {
    let opened = Builder::open(Arc::clone(executor), logs.clone(), depot).await;
    let (builder, reaped) = opened.context("Failed to prepare builds")?;
    if !reaped.is_empty() {
        tracing::warn!(count = reaped.len(), "ended builds that a former agent left");
    }
    Ok(builder)
}

async fn serve_and_run(shared: Arc<Shared>, bound: web::Bound, inputs: Inputs) -> anyhow::Result<()> {
    log_start(&shared);
    shared.discovery.set_cached_peers(peers::cached(&shared));
    history::begin(&shared);
    if shared.hive().is_some() {
        shared.consensus.resume(Vec::new()).await.context("Failed to go on with the stored log")?;
    }
    let served: [JoinHandle<()>; 4] = [
        exchange::serve(&shared.mesh, shared.blobs.clone()).context("Failed to serve blobs")?,
        logs::remote::serve(&shared.mesh, shared.logs.clone()).context("Failed to serve logs")?,
        super::console::serve(&shared).context("Failed to serve logs, commands and terminals of this node")?,
        logs::look::serve(&shared.mesh, shared.logs.clone()).context("Failed to answer about logs")?,
    ];
    let control = shared.mesh.accept(control::PROTOCOL).context("Failed to serve control requests")?;
    let calls = shared.mesh.accept(control::CALLS_PROTOCOL).context("Failed to serve control requests")?;
    tasks::spawn("control", serving::serve(Arc::clone(&shared), control));
    tasks::spawn("control-calls", serving::serve_calls(Arc::clone(&shared), calls));
    super::wire::serve(&shared).context("Failed to answer about the wire")?;
    tasks::spawn("signals", wait_for_signals(Arc::clone(&shared)));
    tasks::spawn("admin-key", keys::offer(Arc::clone(&shared)));
    tasks::spawn("events", events::keep(Arc::clone(&shared)));
    tasks::spawn("history", history::keep(Arc::clone(&shared)));
    tasks::spawn("housekeeping", keep_house(Arc::clone(&shared)));
    tasks::spawn("staging", staging::keep(Arc::clone(&shared)));
    tasks::spawn("package-tree", syncing::keep(Arc::clone(&shared)));
    if shared.executor.has_helper() {
        tasks::spawn("helper-watch", watch_helper(Arc::clone(&shared)));
    }
    let web = bound.serve(Arc::new(Api::new(Arc::clone(&shared))));
    let agent = Agent::new(Arc::clone(&shared))?;
    notify(&[sd_notify::NotifyState::Ready]);
    let result = agent.run(inputs).await;
    notify(&[sd_notify::NotifyState::Stopping]);
    for task in served {
        task.abort();
    }
    web.shutdown().await;
    events::flush(&shared).await;
    history::flush(&shared).await;
    result
}

fn log_start(shared: &Shared) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        name = shared.me.name,
        peer_id = %shared.me.peer_id,
        incarnation = shared.me.incarnation,
        "hive agent"
    );
    tracing::info!(
        port = shared.config.port,
        http = %shared.me.http,
        socket = %shared.config.socket.display(),
        state_dir = %shared.config.state_dir.display(),
        "listening"
    );
    let plain = shared.config.admin.filter(|admin| shared.config.tls == TlsMode::Off && !admin.ip().is_loopback());
    if let Some(admin) = plain {
        tracing::warn!(%admin, "the admin port speaks plain HTTP beyond this machine: whoever can listen there reads the key");
    }
    if shared.me.secret_is_tentative {
        tracing::warn!(
            file = %shared.config.secret_file.display(),
            "there is no shared secret; if nobody else is here, this node founds a hive and generates one"
        );
    }
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}

/// Tells the service manager that the loop goes round.
pub(super) struct Watchdog {
    petted_ms: u64,
}

impl Watchdog {
    pub(super) fn new() -> Self {
        Self { petted_ms: 0 }
    }

    pub(super) fn pet(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.petted_ms) >= WATCHDOG_MS {
            self.petted_ms = now_ms;
            notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }
}

async fn wait_for_signals(shared: Arc<Shared>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received; only SIGKILL will end this agent");
        return;
    };
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(name, "stopping");
    let _ = shared.events.send(Event::Stop).await;
}

/// Slow looks: at the machine, at old logs and blobs. Ends with the runtime.
async fn keep_house(shared: Arc<Shared>) {
    let options = inventory_options(&shared.config);
    // Asking every tool for its version takes seconds of processor time, and a rack that boots together has none to spare.
    let first_look = u32::from(rand::random::<u8>()) % LOOK_SPREAD;
    // What was resolved with one tree is built with that one, so a drone with Portage gets nothing before it has told which it has.
    if let Some(tree) = inventory::package_tree(&options).await {
        let found = Inventory { tree: Some(tree), ..shared.inventory() };
        if shared.events.send(Event::Inventory(Box::new(found))).await.is_err() {
            return;
        }
    }
    let mut suspects = std::collections::BTreeSet::new();
    for round in 0u32.. {
        if round % LOOK_EVERY == first_look + 1 {
            let found = inventory::with_versions(inventory::detect(&options), &options).await;
            let found = own_words(found, &shared.config, &shared.executor);
            if shared.events.send(Event::Inventory(Box::new(found))).await.is_err() {
                return;
            }
        }
        if round % LOOK_EVERY == 0 {
            let logs = shared.logs.clone();
            let dropped = tokio::task::spawn_blocking(move || logs.retain()).await;
            tracing::debug!(?dropped, "old logs");
            blobs::clean(&shared, &mut suspects).await;
        }
        tokio::time::sleep(HOUSEKEEPING).await;
    }
}

/// Notices when the helper goes, and when it is back.
async fn watch_helper(shared: Arc<Shared>) {
    let mut known = shared.executor.capabilities();
    for round in 1u32.. {
        tokio::time::sleep(HELPER_RETRY).await;
        if shared.executor.capabilities().unable.is_some() || round % HELPER_LOOK_EVERY == 0 {
            shared.executor.refresh().await;
        }
        let capabilities = shared.executor.capabilities();
        if capabilities == known {
            continue;
        }
        known = Arc::clone(&capabilities);
        match &capabilities.unable {
            Some(why) => tracing::warn!(why, "no build can be started on this host"),
            None => tracing::info!(user = capabilities.build_user, "builds can be started on this host"),
        }
        shared.update(|soft| soft.isolation.clone_from(&capabilities.notes));
        let found = own_words(shared.inventory(), &shared.config, &shared.executor);
        if shared.events.send(Event::Inventory(Box::new(found))).await.is_err() {
            return;
        }
    }
}

/// Addresses at which a peer may be dialed: where its datagram came from first.
pub(super) fn addresses(heard: &Heard, said: &[IpAddr], mesh_port: u16) -> Vec<SocketAddr> {
    let mut addresses = vec![SocketAddr::new(heard.from.ip(), mesh_port)];
    addresses.extend(said.iter().map(|address| SocketAddr::new(*address, mesh_port)));
    addresses.dedup();
    addresses
}

pub(super) fn inventory_options(config: &Config) -> inventory::Options {
    inventory::Options { state_dir: config.state_dir.clone(), ..inventory::Options::default() }
}

fn look_at_machine(config: &Config, executor: &Executor) -> Inventory {
    own_words(inventory::detect(&inventory_options(config)), config, executor)
}

/// Adds what no file of the machine tells: the operator's labels, and what builds can be given here.
fn own_words(mut found: Inventory, config: &Config, executor: &Executor) -> Inventory {
    found.labels.extend(config.labels.iter().cloned());
    found.features = executor.capabilities().features().into_iter().map(str::to_owned).collect();
    found
}

/// A node that listens on a loopback address only is a trial: it must not call into the network.
fn stays_at_home(config: &Config) -> bool {
    config.listen_address.is_some_and(|address| address.is_loopback())
}

fn mesh_options(config: &Config, wire: &Wire) -> mesh::Options {
    let defaults = mesh::Options::default();
    mesh::Options {
        port: config.port,
        listen_ips: config.listen_address.map_or(defaults.listen_ips, |address| vec![address]),
        mdns: config.discovery.mdns && !stays_at_home(config),
        wire: wire.clone(),
        ..mesh::Options::default()
    }
}

fn discovery_options(
    config: &Config,
    peer_id: crate::engine::id::PeerId,
    incarnation: u64,
    wire: &Wire,
) -> anyhow::Result<DiscoveryOptions> {
    let rules = |texts: &[String]| -> anyhow::Result<Vec<interfaces::Rule>> {
        texts.iter().map(|text| text.parse().map_err(|error| anyhow::anyhow!("interface {text:?}: {error}"))).collect()
    };
    let mut include = rules(&config.interfaces)?;
    if stays_at_home(config) && include.is_empty() {
        include = rules(&["127.0.0.0/8".to_owned(), "::1/128".to_owned()])?;
    }
    Ok(DiscoveryOptions {
        peer_id,
        incarnation,
        port: config.port,
        broadcast: !stays_at_home(config),
        multicast_group: Some(config.discovery.multicast_group),
        interfaces: interfaces::Filter { include, exclude: rules(&config.exclude_interfaces)? },
        join: config.join.iter().map(|target| (target.host.clone(), target.port)).collect(),
        legacy: match config.discovery.legacy_v1 {
            ConfiguredLegacy::Off => LegacyMode::Off,
            ConfiguredLegacy::Answer => LegacyMode::Answer,
            ConfiguredLegacy::Announce => LegacyMode::Announce,
        },
        wire: wire.clone(),
        ..DiscoveryOptions::default()
    })
}

fn log_options(config: &Config) -> logs::Options {
    logs::Options {
        directory: config.state_dir.join("logs"),
        total_max_bytes: config.build.keep_logs_mb << 20,
        age_max_ms: u64::from(config.build.keep_logs_days) * 86_400_000,
        ..logs::Options::default()
    }
}

fn open_staging(config: &Config) -> anyhow::Result<Option<Arc<Staging>>> {
    let Some(root) = &config.staging_path else { return Ok(None) };
    let opened = Staging::open(root, config.binhost_path.as_deref(), trusted(config));
    let staging = opened.with_context(|| format!("Failed to open the staging directory {}", root.display()))?;
    Ok(Some(Arc::new(staging)))
}

/// Root needs no helper, so one that does not run is missed only by an agent that is not root.
fn helper(config: &Config) -> Option<PathBuf> {
    let root = rustix::process::geteuid().is_root();
    config.helper.clone().filter(|socket| !root || socket.exists())
}

/// Who may sign Gentoo packages; the file was looked at before.
fn trusted(config: &Config) -> Option<Signatures> {
    let build = &config.build;
    build.portage_verify_keys.as_ref().map(|keys| Signatures::new(keys, build.portage_demand_signatures))
}

/// How programs run on this host. Agent and helper make it from the same settings, so that they mean the same.
pub(crate) fn exec_options(config: &Config) -> ExecOptions {
    let mut hidden = vec![config.state_dir.clone()];
    hidden.extend(
        [&config.secret_file, &config.admin_key_file, &config.socket]
            .into_iter()
            .filter_map(|file| file.parent())
            .map(PathBuf::from),
    );
    hidden.push(config.build.secrets_dir.clone());
    let cores = inventory::detect(&inventory_options(config)).cpu_cores.max(1);
    ExecOptions {
        work_dir: config.build.work_dir.clone(),
        hidden_dirs: hidden,
        build_user: config.build.user.clone(),
        closed_ports: closed_ports(config),
        secrets_dir: config.build.secrets_dir.clone(),
        build_dependencies: if config.build.debian_build_deps { InstallPolicy::On } else { InstallPolicy::Off },
        cpu_max_percent: if config.build.cores == 0 { 0 } else { config.build.cores.min(cores) * 100 },
        sync: config.build.portage_sync.then_some(SyncPolicy {
            interval: Duration::from_millis(config.build.portage_sync_interval_ms),
            timeout: Duration::from_millis(config.build.portage_sync_timeout_ms),
        }),
        attempt_disk_max_bytes: config.build.disk_max_mb << 20,
        signatures: trusted(config),
        portage: Portage { binhost: config.build.binhost.clone(), ..Portage::default() },
        ..ExecOptions::default()
    }
}

/// Ports of this node and of the others, which mostly have the same: a build has no business there.
fn closed_ports(config: &Config) -> Vec<u16> {
    /// Where others are controlled, whatever this node's own setting.
    const ADMIN_HTTP: u16 = 8093;
    let own = [config.port, config.http.port(), config.admin.map_or(0, |admin| admin.port()), ADMIN_HTTP];
    let mut ports: Vec<u16> = own.into_iter().filter(|port| *port != 0).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

async fn open_executor(config: &Config) -> anyhow::Result<Executor> {
    let opened = Executor::open(exec_options(config), Privilege::detect(helper(config))).await;
    let executor = super::start_context(opened, "builds on this host")?;
    if let Some(why) = &executor.capabilities().unable {
        tracing::warn!(why, "no build can be started on this host");
    }
    if config.build.user.is_some() && !executor.acts_as_root() {
        tracing::warn!("build.user needs the helper, or an agent that is root; builds run as the agent's own user");
    }
    Ok(executor)
}

/// Archives come from the blob store of whoever has them, artifacts go into this node's.
struct AgentDepot {
    blobs: BlobStore,
    shared: Arc<std::sync::OnceLock<std::sync::Weak<Shared>>>,
}

impl Depot for AgentDepot {
    fn unpack<'a>(&'a self, archive: Sha256Hash, size: u64, into: &'a Path) -> BoxFuture<'a, Result<(), DepotError>> {
        async move {
            let shared = self.shared.get().and_then(std::sync::Weak::upgrade);
            let shared = shared.ok_or_else(|| DepotError::Unavailable("the agent is stopping".to_owned()))?;
            let obtained = blobs::obtain(&shared, archive, Some(size), None).await;
            obtained.map_err(|error| DepotError::Unavailable(error.to_string()))?;
            let (blobs, into) = (self.blobs.clone(), into.to_owned());
            let unpacked = tokio::task::spawn_blocking(move || {
                let (file, _) =
                    blobs.open_verified(archive).map_err(|error| DepotError::Unavailable(error.to_string()))?;
                unpack::unpack(file, &into, unpack::Caps::default())
                    .map_err(|error| DepotError::Refused(error.to_string()))
            });
            unpacked.await.map_err(|error| DepotError::Unavailable(error.to_string()))?
        }
        .boxed()
    }

    fn keep(&self, file: File) -> BoxFuture<'_, Result<(Sha256Hash, u64), DepotError>> {
        let blobs = self.blobs.clone();
        async move {
            let stored = tokio::task::spawn_blocking(move || blobs.put(file, blobs.options().blob_max_bytes));
            let stored = stored.await.map_err(|error| DepotError::Unavailable(error.to_string()))?;
            stored.map_err(|error| DepotError::Unavailable(error.to_string()))
        }
        .boxed()
    }
}
