//! Native drones without builds: members of the hive that take attempts and say that they have succeeded, over the real mesh.
//!
//! Each is a node of its own: key, admission, liveness, its own copy of the log as an observer, its own databases. It does what
//! `agent::drone` does for a job, in the same order and over the same protocols: an assignment is seen in the state, its lease is
//! asked of the coordinator (at most 256 every 200 ms), `Building` and `Uploading` are reported, the result is stored in the outbox with
//! full sync, reported, and struck out when the hive has answered. Only what lies between is left out: a program that runs, its log,
//! its files.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hive::consensus::{Consensus, Identity, Options};
use hive::discovery::{
    self, BeaconContent, Discovery, DiscoveryHandle, HiveEpoch, LegacyMode, MemberContact, interfaces,
};
use hive::engine::beacon::BeaconState;
use hive::engine::command::{Command, FEATURE_LEVEL, Progress, Reply};
use hive::engine::id::{Epoch, HiveId, JobId, PeerId, Token};
use hive::engine::job::{AttemptState, Outcome};
use hive::engine::member::{Inventory, MemberInfo};
use hive::engine::state::State;
use hive::keyring::{Keyring, Secret};
use hive::mesh::{self, Allegiance, Introduction, LocalFacts, MeshHandle, NodeKey, open_policy};
use hive::transport;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::client::status;
use crate::harness::{Host, SECRET, eventually, s};

/// The lab's own address on its bridge.
const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
/// Ports of the drones, TCP and UDP, from here on.
const FIRST_PORT: u16 = 51_000;
/// As agents speak it.
const CONTROL: &str = "/hive/control/1";
/// As `agent::drone` does: attempts that wait for their first lease are asked for so often, and so many at once.
const CONFIRM: Duration = Duration::from_millis(200);
const LEASES_MAX: usize = 256;
/// How long an answer is awaited.
const PATIENCE: Duration = Duration::from_secs(20);

/// What agents ask of the coordinator, as far as it is asked here.
#[derive(Serialize)]
enum Request {
    Lease { attempts: Vec<LeaseAsked> },
}

#[derive(Clone, Copy, Serialize)]
struct LeaseAsked {
    job: JobId,
    token: Token,
    phase: LeasePhase,
}

#[derive(Clone, Copy, Serialize)]
enum LeasePhase {
    Begins,
}

#[derive(Deserialize)]
enum Response {
    Leases { valid: Vec<bool> },
    Refused {},
}

/// What members publish about themselves.
#[derive(Serialize)]
struct StatusReport {
    load_centi: u32,
    building: u32,
    disk_free_bytes: u64,
    disk_low: bool,
    slots: Option<u32>,
    commit_p99_ms: Option<u64>,
    raft_id: Option<u64>,
    halted: bool,
}

/// A result as it lies in the outbox.
#[derive(Serialize)]
struct Ended {
    job: JobId,
    token: Token,
    outcome: Outcome,
}

/// A hive as its members' status tells it.
#[derive(Clone)]
struct Told {
    hive: Allegiance,
    members: Vec<(PeerId, SocketAddr)>,
}

fn told(host: &Host) -> Told {
    eventually("a status", s(20), || {
        let status = status(host)?;
        let member = |member: &Value| {
            let address: SocketAddr = member["addresses"][0].as_str()?.parse().ok()?;
            Some((PeerId::new(member["peer_id"].as_str()?), address))
        };
        let epoch = Epoch {
            counter: status["log"]["epoch"].as_u64()?,
            id: serde_json::from_value(status["log"]["epoch_id"].clone()).ok()?,
        };
        let hive_id: HiveId = serde_json::from_value(status["hive_id"].clone()).ok()?;
        Some(Told {
            hive: Allegiance { hive_id, epoch },
            members: status["members"].as_array()?.iter().filter_map(member).collect(),
        })
    })
}

/// What all drones of a bench did.
#[derive(Default)]
pub struct Tally {
    /// Results that the hive has acknowledged.
    pub accepted: AtomicU64,
    /// Reports that it did not take.
    pub refused: AtomicU64,
}

/// Several drones on a runtime of their own. They end with it.
pub struct Drones {
    runtime: Option<tokio::runtime::Runtime>,
    pub tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
}

impl Drop for Drones {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}

impl Drones {
    /// Joins so many drones with so many slots each to the hive of this host; their files are below `directory`.
    pub fn join(host: &Host, directory: &Path, count: u16, slots: u32) -> Self {
        let told = told(host);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        runtime.block_on(async {
            for number in 0..count {
                let drone = Drone::join(&told, &directory.join(format!("drone{number}")), number, slots).await;
                let (tally, stop) = (Arc::clone(&tally), Arc::clone(&stop));
                hive::tasks::spawn("drone", async move { drone.run(&tally, &stop).await });
            }
        });
        Self { runtime: Some(runtime), tally, stop }
    }

    pub fn accepted(&self) -> u64 {
        self.tally.accepted.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> u64 {
        self.tally.refused.load(Ordering::Relaxed)
    }
}

struct Drone {
    me: PeerId,
    mesh: MeshHandle,
    discovery: DiscoveryHandle,
    consensus: Consensus,
    slots: u32,
}

impl Drone {
    async fn join(told: &Told, directory: &Path, number: u16, slots: u32) -> Self {
        std::fs::create_dir_all(directory).expect("a directory");
        let (name, port) = (format!("drone{number}"), FIRST_PORT + number);
        let key = NodeKey::load_or_create(directory).expect("a key");
        let me = key.peer_id();
        let keyring = Keyring::new(&Secret::from_bytes(SECRET.as_bytes()));
        let local = LocalFacts { name: name.clone(), ..LocalFacts::default() };
        let introduction =
            Introduction { key, keyring: keyring.clone(), incarnation: 1, local: local.clone(), policy: open_policy() };
        let options =
            mesh::Options { port, listen_ips: vec![IpAddr::V4(HERE)], mdns: false, ..mesh::Options::default() };
        let (mesh, mut events) = mesh::start(options, introduction).await.expect("a mesh");
        hive::tasks::spawn("mesh-events", async move { while events.recv().await.is_some() {} });
        let discovery = Self::be_alive(told, &me, &name, port, keyring);
        let identity = Identity { peer_id: me.clone(), incarnation: 1 };
        let consensus = Consensus::open(Options::new(directory), mesh.clone(), identity).await.expect("a replica");
        for (peer, address) in &told.members {
            mesh.add_addresses(peer, vec![*address]).await;
            mesh.dial(peer).await;
        }
        let sources = told.members.iter().map(|(peer, _)| peer.clone()).collect();
        consensus.join_as_observer(told.hive.hive_id, told.hive.epoch, sources).await.expect("follows");
        let member = MemberInfo {
            peer_id: me.clone(),
            name,
            addresses: vec![SocketAddr::from((HERE, port)).to_string()],
            incarnation: 1,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            feature_level: FEATURE_LEVEL,
            inventory: Inventory {
                cpu_cores: 2 * slots,
                ram_gb: 64,
                disk_free_gb: 100,
                arch: std::env::consts::ARCH.to_owned(),
                distro: "debian".to_owned(),
                tools: [("dpkg-buildpackage".to_owned(), "1.22".to_owned())].into(),
                ..Inventory::default()
            },
        };
        let mut replica = consensus.replica().watch();
        let followed = replica.wait_for(|status| status.applied.is_some());
        let followed = tokio::time::timeout(PATIENCE, followed).await;
        followed.expect("follows the log in time").expect("lives");
        let admitted = consensus.propose(vec![Command::Admit { member }], PATIENCE).await;
        admitted.expect("becomes a member");
        let count = u32::try_from(told.members.len()).expect("few") + 1;
        mesh.set_local(&LocalFacts { allegiance: Some(told.hive), member_count: count, ..local }).expect("facts");
        Self { me, mesh, discovery, consensus, slots }
    }

    /// Speaks SWIM, as a member does.
    fn be_alive(told: &Told, me: &PeerId, name: &str, port: u16, keyring: Keyring) -> DiscoveryHandle {
        let options = discovery::Options {
            peer_id: me.clone(),
            port,
            broadcast: false,
            interfaces: interfaces::Filter { include: vec!["br0".parse().expect("a rule")], exclude: Vec::new() },
            legacy: LegacyMode::Off,
            ..discovery::Options::default()
        };
        let content = BeaconContent {
            state: BeaconState::Member,
            hive: Some(HiveEpoch { hive_id: told.hive.hive_id, epoch: told.hive.epoch }),
            name: name.to_owned(),
            mesh_port: port,
            ..BeaconContent::default()
        };
        let (discovery, mut events) = Discovery::start(options, Some(keyring), content).expect("discovery");
        hive::tasks::spawn("discovery-events", async move { while events.recv().await.is_some() {} });
        discovery
    }

    /// What a member says about itself every few seconds. The slow disk keeps it from being made a voter: the figure is about three.
    async fn publish(&self) {
        let building = self.consensus.replica().read(|state| state.live_attempts_len(&self.me));
        let report = StatusReport {
            load_centi: 0,
            building: u32::try_from(building).unwrap_or(u32::MAX),
            disk_free_bytes: 100 << 30,
            disk_low: false,
            slots: Some(self.slots),
            commit_p99_ms: Some(10_000),
            raft_id: None,
            halted: false,
        };
        let bytes = transport::encode(&report).expect("CBOR");
        self.mesh.publish_status(bytes).await.expect("short");
    }

    fn meet_members(&self) {
        let contacts: Vec<MemberContact> = self.consensus.replica().read(|state| {
            let contact = |info: &MemberInfo| MemberContact {
                peer: info.peer_id.clone(),
                addresses: info.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
                incarnation: info.incarnation,
            };
            state.members().filter(|member| !member.left).map(|member| contact(&member.info)).collect()
        });
        self.discovery.set_members(contacts);
    }

    async fn run(self, tally: &Arc<Tally>, stop: &AtomicBool) {
        let drone = Arc::new(self);
        let mut applied = drone.consensus.replica().watch();
        let (leased_in, mut leased) = mpsc::channel::<Option<Vec<(JobId, Token, bool)>>>(1);
        let mut begun: BTreeSet<Token> = BTreeSet::new();
        let mut asking = false;
        let (mut asked_at, mut published_at) = (None::<Instant>, None::<Instant>);
        while !stop.load(Ordering::Relaxed) {
            if published_at.is_none_or(|at| at.elapsed() > Duration::from_secs(2)) {
                published_at = Some(Instant::now());
                drone.meet_members();
                drone.publish().await;
            }
            if !asking && asked_at.is_none_or(|at| at.elapsed() >= CONFIRM) {
                let assigned = drone.consensus.replica().read(|state| drone.assigned(state));
                begun.retain(|token| assigned.contains_key(token));
                let waits = assigned
                    .iter()
                    .filter(|(token, (_, state))| *state == AttemptState::Assigned && !begun.contains(token));
                let asked: Vec<LeaseAsked> = waits
                    .map(|(token, (job, _))| LeaseAsked { job: *job, token: *token, phase: LeasePhase::Begins })
                    .take(LEASES_MAX)
                    .collect();
                if !asked.is_empty() {
                    (asking, asked_at) = (true, Some(Instant::now()));
                    let (drone, answer) = (Arc::clone(&drone), leased_in.clone());
                    hive::tasks::spawn("lease", async move { drop(answer.send(drone.lease(asked).await).await) });
                }
            }
            tokio::select! {
                answer = leased.recv() => {
                    asking = false;
                    for (job, token, valid) in answer.flatten().into_iter().flatten() {
                        if valid && begun.insert(token) {
                            let (drone, tally) = (Arc::clone(&drone), Arc::clone(tally));
                            hive::tasks::spawn("attempt", async move { drone.attempt(job, token, &tally).await });
                        }
                    }
                }
                _ = applied.changed() => {}
                () = tokio::time::sleep(CONFIRM) => {}
            }
        }
    }

    fn assigned(&self, state: &State) -> BTreeMap<Token, (JobId, AttemptState)> {
        let live = state.live_attempts(&self.me);
        live.map(|(job, attempt)| (attempt.token, (job.spec.id, attempt.state))).collect()
    }

    async fn lease(&self, attempts: Vec<LeaseAsked>) -> Option<Vec<(JobId, Token, bool)>> {
        let coordinator = self.consensus.status().leader?;
        let asked = attempts.clone();
        let request = Request::Lease { attempts };
        let answer = transport::call(&self.mesh, &coordinator, CONTROL, &request, Duration::from_secs(2)).await;
        match answer.ok()? {
            Response::Leases { valid } if valid.len() == asked.len() => {
                Some(asked.into_iter().zip(valid).map(|(asked, valid)| (asked.job, asked.token, valid)).collect())
            }
            Response::Leases { .. } | Response::Refused {} => None,
        }
    }

    async fn report(&self, job: JobId, token: Token, progress: Progress, tally: &Tally) -> bool {
        let command = Command::Report { job, token, progress };
        let replies = self.consensus.propose(vec![command], PATIENCE).await;
        let taken = replies.is_ok_and(|replies| replies == [Reply::Done]);
        if !taken {
            tally.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    async fn attempt(&self, job: JobId, token: Token, tally: &Tally) {
        if !self.report(job, token, Progress::Building { pinned_commit: None }, tally).await
            || !self.report(job, token, Progress::Uploading, tally).await
        {
            return;
        }
        let ended = Ended { job, token, outcome: Outcome::Succeeded { artifacts: Vec::new() } };
        let (key, value) = (token.to_string(), transport::encode(&ended).expect("CBOR"));
        assert!(self.consensus.outbox_put(key.clone(), value).await.expect("a database"), "room in the outbox");
        if self.report(job, token, Progress::Ended { outcome: ended.outcome }, tally).await {
            tally.accepted.fetch_add(1, Ordering::Relaxed);
            self.consensus.outbox_done(key).await.expect("a database");
        }
    }
}
