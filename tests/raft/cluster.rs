//! Machines with their disks: started, frozen, cut off from power, started again with what the disk kept; made voters and taken out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crash_disk::{Crash, Disk, Fault, Model, Random};
use hive::clock;
use hive::consensus::{Consensus, Identity, Options, Role};
use hive::engine::command::Command;
use hive::engine::id::{Epoch, EpochId, HiveId, PeerId};
use hive::store::FatalHook;
use tokio::task::JoinHandle;

use super::net::{Net, Place};
use crate::sample_member::member;

pub(crate) const HIVE: HiveId = HiveId([7; 16]);
pub(crate) const EPOCH: Epoch = Epoch { counter: 1, id: EpochId([1; 16]) };
/// A log is purged in steps of 256 entries, and keeps [`LOG_KEPT`].
const LOG_KEPT: u64 = 60;
const ENTRIES_MUCH: u64 = 2 * 256 + LOG_KEPT;
const PATIENCE: Duration = Duration::from_secs(20);

/// What all nodes showed, and what contradicts it.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    chains: BTreeMap<u64, (u64, [u8; 32])>,
    pub(crate) leaders: BTreeMap<u64, PeerId>,
    pub(crate) wrong: Vec<String>,
}

impl Observed {
    fn applied(&mut self, by: &PeerId, index: u64, term: u64, chain: [u8; 32]) {
        let known = *self.chains.entry(index).or_insert((term, chain));
        if known != (term, chain) {
            self.wrong.push(format!("{by} applied another entry {index}: term {term}, others term {}", known.0));
        }
    }

    fn leads(&mut self, by: &PeerId, term: u64) {
        let known = self.leaders.entry(term).or_insert_with(|| by.clone()).clone();
        if known != *by {
            self.wrong.push(format!("{by} and {known} both led in term {term}"));
        }
    }
}

/// What befell the disks and members.
#[derive(Clone, Debug, Default)]
pub(crate) struct Happened {
    pub(crate) crashes: u64,
    /// Crashes that took something that had been written.
    pub(crate) lossy: u64,
    pub(crate) members_changed: u64,
}

pub(crate) struct Machine {
    pub(crate) peer: PeerId,
    directory: PathBuf,
    running: Option<Running>,
}

struct Running {
    consensus: Consensus,
    disk: Disk,
    watching: Vec<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watching.iter().for_each(JoinHandle::abort);
    }
}

impl Machine {
    pub(crate) fn consensus(&self) -> Option<&Consensus> {
        self.running.as_ref().map(|running| &running.consensus)
    }
}

pub(crate) struct Cluster {
    pub(crate) net: Arc<Net>,
    pub(crate) machines: Vec<Machine>,
    /// Everyone who runs, for the clients.
    pub(crate) running: Arc<Mutex<Vec<(PeerId, Consensus)>>>,
    pub(crate) observed: Arc<Mutex<Observed>>,
    pub(crate) happened: Happened,
    root: tempfile::TempDir,
    random: Random,
    incarnation: u64,
}

fn options(directory: &PathBuf) -> Options {
    let mut options = Options::new(directory);
    // A machine without power goes on for a moment here, on a device that refuses everything.
    options.fatal = FatalHook::new(|_| {});
    options.log_kept = LOG_KEPT;
    (options.heartbeat, options.election_min, options.election_max) =
        (Duration::from_millis(40), Duration::from_millis(150), Duration::from_millis(300));
    options
}

async fn watch_applied(observed: Arc<Mutex<Observed>>, peer: PeerId, consensus: Consensus) {
    let mut replica = consensus.replica().watch();
    drop(consensus);
    loop {
        {
            let status = replica.borrow_and_update();
            if let Some(at) = status.applied {
                observed.lock().expect("lock").applied(&peer, at.index, at.term, status.chain);
            }
        }
        if replica.changed().await.is_err() {
            return;
        }
    }
}

async fn watch_leading(observed: Arc<Mutex<Observed>>, peer: PeerId, consensus: Consensus) {
    let mut leadership = consensus.watch_leadership();
    drop(consensus);
    loop {
        {
            let now = leadership.borrow_and_update();
            if now.role == Role::Leader {
                observed.lock().expect("lock").leads(&peer, now.term);
            }
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

impl Cluster {
    /// A hive of so many machines; the first `voters` of them vote.
    pub(crate) async fn start(seed: u64, machines: usize, voters: usize) -> Self {
        let root = tempfile::tempdir().expect("temporary directory");
        let mut cluster = Self {
            net: Net::new(seed),
            machines: Vec::new(),
            running: Arc::default(),
            observed: Arc::default(),
            happened: Happened::default(),
            root,
            random: Random::new(seed ^ 0xd15c),
            incarnation: 0,
        };
        for number in 0..machines {
            let peer = PeerId::new(format!("peerX{number}"));
            let directory = cluster.root.path().join(number.to_string());
            std::fs::create_dir(&directory).expect("makes");
            cluster.machines.push(Machine { peer, directory, running: None });
            cluster.power(number).await;
        }
        let first = cluster.machines[0].consensus().expect("runs").clone();
        first.found(HIVE, EPOCH, member(&cluster.machines[0].peer)).await.expect("founds");
        let source = vec![cluster.machines[0].peer.clone()];
        let mut ids = BTreeSet::from([first.status().raft_id.expect("leads")]);
        for number in 1..machines {
            let peer = cluster.machines[number].peer.clone();
            let other = cluster.machines[number].consensus().expect("runs").clone();
            other.join_as_observer(HIVE, EPOCH, source.clone()).await.expect("joins");
            let mut status = other.watch_status();
            let applied = status.wait_for(|status| status.applied.is_some());
            drop(tokio::time::timeout(PATIENCE, applied).await.expect("in time").expect("lives"));
            if number < voters {
                let id = other.prepare_replica().await.expect("prepares");
                first.add_standby(id, peer).await.expect("adds");
                ids.insert(id);
            }
        }
        first.change_voters(ids).await.expect("changes");
        cluster
    }

    /// Starts a machine with what is on its disk.
    pub(crate) async fn power(&mut self, number: usize) {
        self.incarnation += 1;
        let machine = &mut self.machines[number];
        self.net.set_dead(&machine.peer, false);
        let disk = Disk::watch(&machine.directory).expect("watched");
        let identity = Identity { peer_id: machine.peer.clone(), incarnation: self.incarnation };
        let place = Place { net: Arc::clone(&self.net), own: machine.peer.clone() };
        let directory = disk.root().to_owned();
        let opened = Consensus::open(options(&directory), place, identity).await;
        let consensus = opened.unwrap_or_else(|error| panic!("{}: after a crash: {error:?}", machine.peer));
        if consensus.replica().status().hive.is_some() {
            let resumed = consensus.resume(Vec::new()).await;
            resumed.unwrap_or_else(|error| panic!("{}: after a crash: {error:?}", machine.peer));
        }
        let observed = || (Arc::clone(&self.observed), machine.peer.clone(), consensus.clone());
        let ((to, peer, of), (to_too, peer_too, of_too)) = (observed(), observed());
        let watching = vec![
            hive::tasks::spawn("applied", watch_applied(to, peer, of)),
            hive::tasks::spawn("leading", watch_leading(to_too, peer_too, of_too)),
        ];
        self.running.lock().expect("lock").push((machine.peer.clone(), consensus.clone()));
        machine.running = Some(Running { consensus, disk, watching });
    }

    /// Takes a machine's power away. Its disk keeps what was synced, and some of the rest.
    pub(crate) async fn cut_power(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        let Some(running) = machine.running.take() else { return };
        self.running.lock().expect("lock").retain(|(peer, _)| *peer != machine.peer);
        // The device first: nothing that is not on it by now may be promised to anybody.
        running.disk.break_at(running.disk.attempts(), Fault::ErrorForEver);
        self.net.set_dead(&machine.peer, true);
        let trace = running.disk.trace();
        running.consensus.shutdown().await;
        drop(running);
        let mut model = Model::new(&trace);
        trace.ops.iter().for_each(|op| model.step(op));
        let kind = Crash::ALL[usize::try_from(self.random.below(5)).expect("small")];
        let (image, all) = (model.image(kind, &mut self.random), model.image(Crash::Kill, &mut self.random));
        self.happened.crashes += 1;
        self.happened.lossy += u64::from(image != all);
        image.write(&machine.directory).expect("the image can be written");
    }

    /// Who leads as far as anybody knows.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |machine: &Machine| {
            machine.consensus().is_some_and(|consensus| {
                let status = consensus.status();
                status.role == Role::Leader && status.quorum
            })
        };
        self.machines.iter().position(leads)
    }

    /// Puts a machine that only observes in the place of a voter, as far as the faults allow.
    pub(crate) async fn replace_voter(&mut self, leaving: usize) -> Option<()> {
        let leader = self.machines[self.leader()?].consensus()?.clone();
        let spare = self.machines.iter().position(|machine| {
            machine.consensus().is_some_and(|consensus| consensus.status().role == Role::Observer)
        })?;
        let (old, new) = (self.machines[leaving].consensus()?.clone(), self.machines[spare].consensus()?.clone());
        let changed = async {
            let old_id = old.status().raft_id?;
            let id = new.prepare_replica().await.ok()?;
            leader.add_standby(id, self.machines[spare].peer.clone()).await.ok()?;
            let mut voters: BTreeSet<u64> = leader.status().voters.iter().map(|voter| voter.raft_id).collect();
            (voters.remove(&old_id) && voters.insert(id)).then_some(())?;
            leader.change_voters(voters).await.ok()?;
            leader.remove_standby(old_id).await.ok()?;
            old.retire_replica().await.ok()
        };
        let changed = tokio::time::timeout(Duration::from_secs(3), changed).await.ok().flatten();
        self.happened.members_changed += u64::from(changed.is_some());
        changed
    }

    /// Lets whoever leads write more entries than a log keeps, one by one.
    pub(crate) async fn write_much(&self) {
        let Some(leader) = self.leader().and_then(|leader| self.machines[leader].consensus()) else { return };
        for number in 0..ENTRIES_MUCH {
            let guest = PeerId::new(format!("peerXguest{}", number % 20));
            let admitted =
                leader.propose(vec![Command::Admit { member: member(&guest) }], Duration::from_secs(1)).await;
            if admitted.is_err() {
                return;
            }
        }
    }

    /// All machines reach the same point of the same history.
    pub(crate) async fn agree(&self) {
        let deadline_ms = clock::now_ms() + 30_000;
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        loop {
            let claims: BTreeSet<_> =
                self.machines.iter().map(|machine| machine.consensus().and_then(Consensus::local_claim)).collect();
            if claims.len() == 1 && self.leader().is_some() {
                return;
            }
            let all: Vec<_> = self.machines.iter().map(|machine| machine.consensus().map(Consensus::status)).collect();
            assert!(clock::now_ms() < deadline_ms, "no agreement: {claims:#?} {all:#?}");
            ticks.tick().await;
        }
    }

    /// First entries of the logs: how far they were purged.
    pub(crate) fn purged(&self) -> Vec<i64> {
        let first = |machine: &Machine| {
            let path = machine.directory.join("raft.db");
            let connection = rusqlite::Connection::open(path).ok()?;
            connection.query_row("SELECT min(idx) FROM log", [], |row| row.get(0)).ok()
        };
        self.machines.iter().filter_map(first).collect()
    }

    pub(crate) async fn end(mut self) {
        for machine in &mut self.machines {
            if let Some(running) = machine.running.take() {
                running.consensus.shutdown().await;
            }
        }
    }
}
