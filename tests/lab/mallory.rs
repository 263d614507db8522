//! A peer that knows the secret and speaks every protocol of hive as it likes, from the lab's own address on the bridge.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hive::engine::command::{Command, FEATURE_LEVEL, Origin, Proposal, Reply};
use hive::engine::id::{PeerId, Sha256Hash};
use hive::engine::member::{Inventory, MemberInfo};
use hive::keyring::{Keyring, Secret};
use hive::mesh::{self, Allegiance, Introduction, LocalFacts, MeshHandle, NodeKey, open_policy};
use hive::transport::{self, CONTROL_FRAME_MAX, RAFT_FRAME_MAX, Transport as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use crate::harness::{Host, SECRET, eventually, s};

/// Where the lab itself is.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);

#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Vote {
    pub term: u64,
    pub node: u64,
    pub committed: bool,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Point {
    pub term: u64,
    pub index: u64,
}

#[derive(Serialize, Deserialize)]
pub struct Entry {
    pub at: Point,
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

/// As voters call each other.
#[derive(Serialize)]
pub enum RaftBody {
    Append {
        vote: Vote,
        previous: Option<Point>,
        entries: Vec<Entry>,
        commit: Option<Point>,
        acked_ago_ms: Option<u64>,
    },
    Vote {
        vote: Vote,
        last: Option<Point>,
        transfer: bool,
    },
    PreVote {
        vote: Vote,
        last: Option<Point>,
        transfer: bool,
    },
    Transfer {
        vote: Vote,
        to: u64,
        last: Option<Point>,
    },
}

#[derive(Serialize)]
pub struct RaftCall {
    pub from: u64,
    pub to: u64,
    pub body: RaftBody,
}

#[derive(Serialize, Deserialize)]
struct Frame {
    id: u64,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
}

#[derive(Serialize)]
struct Proposals {
    proposals: Vec<Proposal>,
}

/// What follows the log begins with.
#[derive(Serialize)]
enum Hello {
    Follow { applied: Option<Point>, chain: [u8; 32], even_leader: bool },
}

/// What it is told.
#[derive(Deserialize)]
enum Said {
    Redirect(#[allow(dead_code, reason = "it is not followed")] ciborium::Value),
    Snapshot(#[allow(dead_code, reason = "it is not taken")] ciborium::Value),
    Entries(Vec<Entry>),
    Tip(#[allow(dead_code, reason = "only entries are wanted")] ciborium::Value),
}

#[derive(Deserialize)]
enum Payload {
    Blank,
    Batch(serde_bytes::ByteBuf),
    Membership(Membership),
}

#[derive(Deserialize)]
struct Membership {
    nodes: BTreeMap<u64, PeerId>,
}

/// The batch of commands in an entry, if it holds one.
pub fn batch_of(payload: &[u8]) -> Option<Vec<u8>> {
    match transport::decode::<Payload>(&payload[1..]).expect("an entry") {
        Payload::Batch(batch) => Some(batch.into_vec()),
        Payload::Blank | Payload::Membership(_) => None,
    }
}

/// What a leader answers to a proposal.
#[derive(Debug, Deserialize)]
pub enum Answer {
    Applied(Reply),
    NotLeader(#[allow(dead_code, reason = "shown when a test fails")] Option<PeerId>),
    NoSpace,
    Refused(#[allow(dead_code, reason = "shown when a test fails")] String),
}

#[derive(Deserialize)]
struct Answers {
    answers: Vec<Answer>,
}

/// Control requests that anybody would like to make.
#[derive(Serialize)]
pub enum Control {
    Seek { digest: [u8; 16], announces: bool },
    PrepareReplica,
    RetireReplica { raft_id: u64 },
    KeepBlob { sha256: Sha256Hash, size: u64 },
    AskAgain { generation: u64, reason: String },
    Committed,
}

/// The peer.
pub struct Mallory {
    pub runtime: Runtime,
    pub mesh: MeshHandle,
    pub me: PeerId,
    /// Peers by name.
    pub known: BTreeMap<String, PeerId>,
    pub allegiance: Allegiance,
    sequence: u64,
}

impl Mallory {
    /// Connects to all of these hosts with the lab's secret.
    pub fn among(hosts: &[Host]) -> Self {
        Self::named("mallory", hosts)
    }

    pub fn named(name: &str, hosts: &[Host]) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        let key = NodeKey::generate();
        let me = key.peer_id();
        let options =
            mesh::Options { port: 0, listen_ips: vec![IpAddr::V4(ADDRESS)], mdns: false, ..mesh::Options::default() };
        let introduction = Introduction {
            key,
            keyring: Keyring::new(&Secret::from_bytes(SECRET.as_bytes())),
            incarnation: 1,
            local: LocalFacts { name: name.to_owned(), ..LocalFacts::default() },
            policy: open_policy(),
        };
        let (mesh, mut events) = runtime.block_on(mesh::start(options, introduction)).expect("its mesh starts");
        // What nobody takes would stop its loop.
        runtime.spawn(async move { while events.recv().await.is_some() {} });
        let (mut known, mut allegiance) = (BTreeMap::new(), None);
        for host in hosts {
            let address: SocketAddr = format!("{}:50555", host.address).parse().expect("an address");
            let view = eventually("a connection to every host", s(20), || {
                runtime.block_on(async {
                    mesh.dial_address(address).await;
                    mesh.peers().await.into_iter().find(|view| view.facts.name == host.name)
                })
            });
            allegiance = view.facts.allegiance.or(allegiance);
            known.insert(host.name.clone(), view.peer);
        }
        let allegiance = allegiance.expect("the hosts are in a hive");
        Self { runtime, mesh, me, known, allegiance, sequence: 0 }
    }

    pub fn peer(&self, host: &Host) -> PeerId {
        self.known[&host.name].clone()
    }

    /// The name of a protocol of the hive's consensus.
    pub fn protocol(&self, name: &str) -> String {
        format!("/hive/{name}/1/{}/{}", self.allegiance.hive_id, self.allegiance.epoch)
    }

    /// One question on a stream of its own.
    pub fn ask<Response: DeserializeOwned>(
        &self,
        peer: &PeerId,
        protocol: &str,
        request: &(impl Serialize + Sync),
    ) -> io::Result<Response> {
        self.runtime.block_on(async {
            let exchange = async {
                let mut stream = self.mesh.open(peer, protocol).await?;
                transport::write_frame(&mut stream, request, RAFT_FRAME_MAX).await?;
                transport::read_frame(&mut stream, RAFT_FRAME_MAX).await
            };
            tokio::time::timeout(Duration::from_secs(10), exchange).await?
        })
    }

    pub fn control(&self, peer: &PeerId, request: &Control) -> io::Result<ciborium::Value> {
        self.ask(peer, "/hive/control/1", request)
    }

    /// One call over a stream of calls.
    pub fn call<Response: DeserializeOwned>(
        &self,
        peer: &PeerId,
        protocol: &str,
        request: &impl Serialize,
    ) -> io::Result<Response> {
        let frame = Frame { id: 1, body: transport::encode(request)? };
        let answer: Frame = self.ask(peer, protocol, &frame)?;
        transport::decode(&answer.body)
    }

    pub fn raft(&self, host: &Host, call: &RaftCall) -> ciborium::Value {
        self.call(&self.peer(host), &self.protocol("raft"), call).expect("an answer")
    }

    /// Proposes under a name.
    pub fn propose_as(&mut self, origin: &PeerId, leader: &PeerId, command: &Command) -> Answer {
        self.sequence += 1;
        let origin = Origin { peer_id: origin.clone(), incarnation: 1, sequence: self.sequence };
        let proposals = Proposals { proposals: vec![Proposal::new(origin, command)] };
        let mut answers: Answers = self.call(leader, &self.protocol("propose"), &proposals).expect("an answer");
        answers.answers.remove(0)
    }

    pub fn propose(&mut self, leader: &PeerId, command: &Command) -> Answer {
        let me = self.me.clone();
        self.propose_as(&me, leader, command)
    }

    /// Payloads of the first entries of the log, as any observer gets them.
    pub fn log(&self, host: &Host) -> Vec<Vec<u8>> {
        self.runtime.block_on(async {
            let mut stream = self.mesh.open(&self.peer(host), &self.protocol("log")).await.expect("a stream");
            let hello = Hello::Follow { applied: None, chain: [0; 32], even_leader: true };
            transport::write_frame(&mut stream, &hello, CONTROL_FRAME_MAX).await.expect("sent");
            let mut payloads = Vec::new();
            let until = tokio::time::Instant::now() + Duration::from_secs(2);
            while let Ok(Ok(said)) =
                tokio::time::timeout_at(until, transport::read_frame(&mut stream, RAFT_FRAME_MAX)).await
            {
                match said {
                    Said::Entries(entries) => payloads.extend(entries.into_iter().map(|entry| entry.payload)),
                    Said::Tip(_) => {}
                    Said::Redirect(_) | Said::Snapshot(_) => break,
                }
            }
            payloads
        })
    }

    /// Who takes part in votes, by Raft id, as the log says.
    pub fn raft_ids(&self, host: &Host) -> BTreeMap<PeerId, u64> {
        let mut found = BTreeMap::new();
        for payload in self.log(host) {
            match transport::decode::<Payload>(&payload[1..]).expect("an entry") {
                Payload::Membership(membership) => {
                    found = membership.nodes.into_iter().map(|(id, peer)| (peer, id)).collect();
                }
                Payload::Batch(batch) => assert!(!batch.is_empty()),
                Payload::Blank => {}
            }
        }
        found
    }

    /// Becomes a member, as everybody may who knows the secret.
    pub fn join(&mut self, leader: &PeerId, name: &str) -> MemberInfo {
        let member = MemberInfo {
            peer_id: self.me.clone(),
            name: name.to_owned(),
            addresses: vec![format!("{ADDRESS}:{}", self.mesh.listen_port())],
            incarnation: 1,
            version: "0.1.0".to_owned(),
            feature_level: FEATURE_LEVEL,
            inventory: Inventory::default(),
        };
        let answer = self.propose(leader, &Command::Admit { member: member.clone() });
        assert!(matches!(answer, Answer::Applied(_)), "{answer:?}");
        let local = LocalFacts { allegiance: Some(self.allegiance), name: name.to_owned(), ..LocalFacts::default() };
        self.mesh.set_local(&local).expect("facts");
        member
    }

    /// Sends raw bytes on a stream of its own; whether all were taken within a second.
    pub fn pour(&self, peer: &PeerId, protocol: &str, bytes: &[u8]) -> bool {
        use tokio::io::AsyncWriteExt as _;
        self.runtime.block_on(async {
            let pouring = async {
                let mut stream = self.mesh.open(peer, protocol).await?;
                stream.write_all(bytes).await?;
                stream.flush().await
            };
            matches!(tokio::time::timeout(Duration::from_secs(1), pouring).await, Ok(Ok(())))
        })
    }
}

/// Memory that an agent may grow by under attack, bytes.
pub const GROWTH_MAX: u64 = 64 << 20;

/// What agents take, and how long honest people wait meanwhile.
pub struct Watch {
    agents: Vec<(Host, u32, u64)>,
}

fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}

impl Watch {
    pub fn new(agents: &[crate::harness::Agent]) -> Self {
        let agents = agents.iter().map(|agent| (agent.host.clone(), agent.pid(), resident(agent.pid())));
        let agents: Vec<_> = agents.collect();
        assert!(agents.iter().all(|(_, _, resident)| *resident > 1 << 20), "every agent runs");
        Self { agents }
    }

    /// Every agent lives, answers, and has not grown by more than it may; the longest wait for a status.
    pub fn well(&self, during: &str) -> Duration {
        let mut longest = Duration::ZERO;
        for (host, pid, before) in &self.agents {
            let asked = Instant::now();
            let status = crate::client::status(host);
            let waited = asked.elapsed();
            assert!(status.is_some(), "{during}: {} does not answer", host.name);
            assert!(waited < Duration::from_secs(3), "{during}: {} answered after {waited:?}", host.name);
            longest = longest.max(waited);
            let now = resident(*pid);
            let grown = now.saturating_sub(*before);
            assert!(now > 0 && grown < GROWTH_MAX, "{during}: {} has grown by {} MiB", host.name, grown >> 20);
        }
        longest
    }

    /// The most that any agent has grown, MiB, for the record.
    pub fn grown_mib(&self) -> u64 {
        self.agents.iter().map(|(_, pid, before)| resident(*pid).saturating_sub(*before) >> 20).max().unwrap_or(0)
    }
}

/// An honest job that is queued meanwhile; how long its acknowledgement took.
pub fn queues(host: &Host) -> Duration {
    let work = hive::engine::job::Work::Command {
        source: hive::engine::job::Source::Git {
            url: "https://example.org/x.git".to_owned(),
            branch: None,
            commit: None,
        },
        argv: vec!["true".to_owned()],
        artifacts: Vec::new(),
    };
    let mut client = crate::client::Client::connect(&crate::client::socket_of(host)).expect("a connection");
    let mut job = crate::client::job(work);
    // Nobody has this, so it waits for ever and costs nothing.
    job.labels.insert("node:nobody".to_owned());
    let asked = Instant::now();
    assert!(client.submit(&[job]), "{} does not acknowledge a job", host.name);
    asked.elapsed()
}

/// Longest control frame, for those who send longer ones.
pub const LONGEST: usize = CONTROL_FRAME_MAX;
