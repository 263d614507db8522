//! From alone to member: seeks, founds, joins, and notices other hives.
//!
//! What is decided is decided by [`founding`](crate::engine::founding); here its steps become HELLOs, dials and the first
//! entries of a log. Evidence that counts comes from admitted connections only; datagrams lead to dials. Never done here: voting on
//! roles, liveness.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::control::{self, Request};
use super::epochs::Epochs;
use super::keys;
use super::propose;
use super::shared::{OtherHive, Shared};
use crate::api::NodePhase;
use crate::clock::now_ms;
use crate::config::FoundMode as ConfiguredFoundMode;
use crate::consensus::Role;
use crate::discovery::{BeaconContent, HiveEpoch};
use crate::engine::beacon::BeaconState;
use crate::engine::command::Command;
use crate::engine::founding::{
    FoundMode, Founding, FoundingOptions, HiveFacts, HoldReason, SeekersDigest, Step, childless, dissolves_into,
};
use crate::engine::id::{Epoch, EpochId, HiveId, PeerId};
use crate::engine::member::MemberInfo;
use crate::mesh::{Allegiance, Facts, LocalFacts, RefuseReason};
use crate::tasks;
use crate::transport;

/// Interval of HELLOs over the mesh between seekers that hear no datagrams of each other, milliseconds.
const MESH_HELLO_MS: u64 = 250;
/// A join that has not made this node a member after so long is begun anew with other sources, milliseconds.
const JOIN_PATIENCE_MS: u64 = 10_000;
/// Interval of proposing `Admit` while the state does not say what it should, milliseconds.
const ADMIT_INTERVAL_MS: u64 = 1_000;
/// How long a commit of `Admit` is awaited.
const ADMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// An observer whose state is not older than this needs no new sources, milliseconds.
const SERVED_WELL_MS: u64 = 2_000;
/// Connections that a node keeps by dialing whom it hears; see [`peers`](super::peers).
const HEARD_DIALED_MAX: usize = 64;
/// Interval of comparing the known connections with those of the mesh, milliseconds: an event may have been dropped.
const COMPARE_MS: u64 = 2_000;
/// Interval of dialing configured addresses while alone, milliseconds. The mesh backs off by itself.
const JOIN_DIAL_MS: u64 = 1_000;
/// A node that mDNS found is dialed when none of its datagrams arrived for so long, milliseconds: four HELLOs of a seeker.
const DISCOVERED_WAIT_MS: u64 = 1_000;
/// Most nodes of mDNS that wait to be dialed.
const DISCOVERED_MAX: usize = 256;
/// Another hive is shown for so long after it was last met, milliseconds.
pub(super) const OTHER_HIVE_SHOWN_MS: u64 = 120_000;
/// A refusal is shown for so long after the last one, milliseconds.
const REFUSED_SHOWN_MS: u64 = 45_000;
/// Key of [`LocalFacts::extension`]: the hive has one member and nothing acknowledged beyond its founding.
const CHILDLESS: &str = "childless";

/// Where this node stands on its way into a hive.
pub(super) struct Joining {
    founding: Option<Founding>,
    join: Option<Join>,
    connected: BTreeMap<PeerId, Facts>,
    last_mesh_hello_ms: u64,
    last_dial_ms: u64,
    admit_sent_ms: Option<u64>,
    /// Found by mDNS, with when.
    discovered: BTreeMap<PeerId, (Vec<SocketAddr>, u64)>,
    said: Option<LocalFacts>,
    followed: Vec<PeerId>,
    changed_hive: bool,
    compared_ms: u64,
    epochs: Epochs,
}

struct Join {
    hive: Allegiance,
    since_ms: u64,
}

impl Joining {
    /// A node that just started: with a hive in its state it rejoins, else it seeks.
    pub(super) fn new(shared: &Shared) -> Self {
        let founding = shared.hive().is_none().then(|| seek(shared));
        let phase = if founding.is_some() { NodePhase::Seeking } else { NodePhase::Joining };
        shared.update(|soft| soft.phase = Some(phase));
        Self {
            founding,
            join: None,
            connected: BTreeMap::new(),
            last_mesh_hello_ms: 0,
            last_dial_ms: 0,
            admit_sent_ms: None,
            discovered: BTreeMap::new(),
            said: None,
            followed: Vec::new(),
            changed_hive: false,
            compared_ms: now_ms(),
            epochs: Epochs::default(),
        }
    }

    /// It neither seeks nor waits to be let in.
    pub(super) fn is_member(&self) -> bool {
        self.founding.is_none() && self.join.is_none()
    }

    /// Whether this node has left its hive for another since this was asked last.
    pub(super) fn take_changed_hive(&mut self) -> bool {
        std::mem::take(&mut self.changed_hive)
    }

    /// Events of the mesh are dropped rather than awaited when the loop is slow; what they said is taken from the mesh itself.
    async fn compare_connections(&mut self, shared: &Arc<Shared>, now_ms: u64) -> anyhow::Result<()> {
        if now_ms.saturating_sub(self.compared_ms) < COMPARE_MS {
            return Ok(());
        }
        self.compared_ms = now_ms;
        let views: BTreeMap<PeerId, Facts> =
            shared.mesh.peers().await.into_iter().map(|view| (view.peer, view.facts)).collect();
        self.connected.retain(|peer, _| views.contains_key(peer));
        let ours = shared.hive();
        for (peer, facts) in views {
            // Whether this hive may dissolve is known only a while after a start, when the connection may have been there for long.
            // And who did not take over a later epoch does, once it has lost its quorum.
            let other =
                ours.is_some() && facts.allegiance.is_some_and(|theirs| Some((theirs.hive_id, theirs.epoch)) != ours);
            if other || self.connected.get(&peer) != Some(&facts) {
                self.on_peer(shared, &peer, facts, now_ms).await?;
            }
        }
        Ok(())
    }

    /// Does what is due. Returns true in the one call in which this node founded its hive.
    pub(super) async fn tick(&mut self, shared: &Arc<Shared>, now_ms: u64) -> anyhow::Result<bool> {
        let mut founded = false;
        self.compare_connections(shared, now_ms).await?;
        self.dial_discovered(shared, now_ms).await;
        if self.founding.is_some() {
            self.dial_configured(shared, now_ms).await;
            founded = self.seek_on(shared, now_ms).await?;
        } else {
            self.keep_joining(shared, now_ms).await?;
        }
        self.epochs.tick(shared, &self.connected, now_ms);
        self.say(shared);
        Ok(founded)
    }

    async fn seek_on(&mut self, shared: &Arc<Shared>, now_ms: u64) -> anyhow::Result<bool> {
        let Some(founding) = self.founding.as_mut() else { return Ok(false) };
        founding.on_link(linked(shared), now_ms);
        let (step, _) = founding.poll(now_ms);
        let (phase, digest, hold) = match step {
            Step::Found => {
                self.found(shared).await?;
                return Ok(true);
            }
            Step::Seek { digest } => (NodePhase::Seeking, digest, None),
            Step::Announce { digest } => (NodePhase::Founding, digest, None),
            Step::Hold { digest, why: HoldReason::Unverified } => {
                (NodePhase::Refused, digest, Some(HoldReason::Unverified))
            }
            Step::Hold { digest, why } => (NodePhase::Seeking, digest, Some(why)),
        };
        let refused = shared.soft(|soft| {
            soft.refused_by.as_ref().is_some_and(|(_, at_ms)| now_ms.saturating_sub(*at_ms) < REFUSED_SHOWN_MS)
        });
        let phase = if refused && phase == NodePhase::Seeking { NodePhase::Refused } else { phase };
        set_phase(shared, phase);
        shared.update(|soft| soft.hold = hold);
        self.beacon_as(
            shared,
            if phase == NodePhase::Founding { BeaconState::Founding } else { BeaconState::Seeking },
            digest,
        );
        self.hello_over_mesh(shared, digest, phase == NodePhase::Founding, now_ms);
        Ok(false)
    }

    /// Creates the hive: everything that must not be half done is one transaction inside `found`.
    async fn found(&mut self, shared: &Arc<Shared>) -> anyhow::Result<()> {
        let hive_id = HiveId(rand::random());
        let epoch = Epoch { counter: 1, id: EpochId(rand::random()) };
        if shared.me.secret_is_tentative {
            let secret = shared.keyring.signing().secret();
            secret.write_new(&shared.config.secret_file).context("Failed to keep the new secret")?;
            tracing::warn!(
                file = %shared.config.secret_file.display(),
                fingerprint = secret.fingerprint(),
                "generated a new shared secret; copy this file to every machine that is to join"
            );
        }
        keys::make_at_founding(shared);
        shared.consensus.found(hive_id, epoch, shared.member_info()).await.context("Failed to found a hive")?;
        tracing::info!(%hive_id, "founded a hive");
        self.founding = None;
        set_phase(shared, NodePhase::Member);
        Ok(())
    }

    /// Between seekers that reach each other by mDNS or `join` only, HELLOs go over the mesh.
    fn hello_over_mesh(&mut self, shared: &Arc<Shared>, digest: SeekersDigest, announces: bool, now_ms: u64) {
        if now_ms.saturating_sub(self.last_mesh_hello_ms) < MESH_HELLO_MS {
            return;
        }
        self.last_mesh_hello_ms = now_ms;
        for (peer, _) in self.connected.iter().filter(|(_, facts)| facts.allegiance.is_none()) {
            let (shared, peer) = (Arc::clone(shared), peer.clone());
            tasks::spawn("mesh hello", async move {
                let request = Request::Seek { digest, announces };
                let timeout = Duration::from_millis(2 * MESH_HELLO_MS);
                let answer: std::io::Result<control::Response> =
                    transport::call(&shared.mesh, &peer, control::PROTOCOL, &request, timeout).await;
                if let Err(error) = answer {
                    tracing::debug!(%peer, %error, "no answer to a HELLO over the mesh");
                }
            });
        }
    }

    async fn dial_configured(&mut self, shared: &Shared, now_ms: u64) {
        if now_ms.saturating_sub(self.last_dial_ms) < JOIN_DIAL_MS {
            return;
        }
        self.last_dial_ms = now_ms;
        let mut known = shared.discovery.snapshot().join.clone();
        known.extend(shared.soft(|soft| soft.registered.clone()));
        for address in known {
            shared.mesh.dial_address(address).await;
        }
    }

    /// A verified HELLO of a node without a hive.
    pub(super) fn on_seeker(&mut self, peer: &PeerId, digest: SeekersDigest, announces: bool, now_ms: u64) {
        if let Some(founding) = self.founding.as_mut() {
            founding.on_seeker(peer, digest, announces, now_ms);
        }
    }

    /// A verified datagram says that a hive exists at this address.
    pub(super) async fn on_hive_hint(
        &mut self,
        shared: &Shared,
        peer: &PeerId,
        hive: Option<HiveEpoch>,
        addresses: Vec<SocketAddr>,
        now_ms: u64,
    ) {
        if let Some(founding) = self.founding.as_mut() {
            founding.on_hive_hint(now_ms);
            founding.on_seeker_gone(peer);
        }
        let ours = shared.hive().map(|(hive_id, _)| hive_id);
        let known = shared.read(|state| state.member(peer).is_some_and(|member| !member.left));
        let other_hive = ours.is_some() && hive.is_some_and(|hive| Some(hive.hive_id) != ours);
        if !self.connected.contains_key(peer) {
            // A member's address in the log may be an old one: where it was heard now is better.
            shared.mesh.add_addresses(peer, addresses).await;
            if ours.is_none() || other_hive || !known || self.connected.len() < HEARD_DIALED_MAX {
                shared.mesh.dial(peer).await;
            }
        }
    }

    /// A hive datagram that cannot be verified with the keys of this node.
    pub(super) fn on_unverified(&mut self, shared: &Shared, from: SocketAddr, reason: &str, now_ms: u64) {
        if let Some(founding) = self.founding.as_mut() {
            founding.on_unverified(now_ms);
            refused(shared, format!("datagrams of {} cannot be verified: {reason}", from.ip()), now_ms);
        }
    }

    /// mDNS found a node. It is dialed a little later, unless its datagrams arrive by then: where they do, a connection between
    /// two nodes without a hive would be of no use, and twenty that boot together would make 190.
    pub(crate) fn on_discovered(&mut self, peer: PeerId, addresses: Vec<SocketAddr>, now_ms: u64) {
        if self.discovered.len() < DISCOVERED_MAX || self.discovered.contains_key(&peer) {
            self.discovered.insert(peer, (addresses, now_ms));
        }
    }

    async fn dial_discovered(&mut self, shared: &Shared, now_ms: u64) {
        let due: Vec<PeerId> = self
            .discovered
            .iter()
            .filter(|(_, (_, at_ms))| now_ms.saturating_sub(*at_ms) >= DISCOVERED_WAIT_MS)
            .map(|(peer, _)| peer.clone())
            .collect();
        for peer in due {
            let Some((addresses, _)) = self.discovered.remove(&peer) else { continue };
            let heard = self.founding.as_ref().is_some_and(|founding| founding.seekers().any(|seeker| *seeker == peer));
            let known = shared.read(|state| state.member(&peer).is_some_and(|member| !member.left));
            if !heard && !known && !self.connected.contains_key(&peer) {
                shared.mesh.add_addresses(&peer, addresses).await;
                shared.mesh.dial(&peer).await;
            }
        }
    }

    /// A connection was not admitted.
    pub(super) fn on_refused(
        &mut self,
        shared: &Shared,
        by_us: bool,
        address: SocketAddr,
        reason: RefuseReason,
        now_ms: u64,
    ) {
        if by_us {
            return;
        }
        tracing::warn!(%address, %reason, "refused by another node");
        if matches!(reason, RefuseReason::Clone | RefuseReason::StaleIncarnation) {
            return say_cloned(shared, address);
        }
        // Everything else is the weather: a busy peer, a limit, a broken line.
        if !matches!(reason, RefuseReason::WrongSecret | RefuseReason::ProbablySecret | RefuseReason::NotApproved) {
            return;
        }
        if let Some(founding) = self.founding.as_mut() {
            founding.on_unverified(now_ms);
        }
        refused(shared, format!("{} refused the connection: {reason}", address.ip()), now_ms);
    }

    /// An admitted connection, or news about one.
    pub(super) async fn on_peer(
        &mut self,
        shared: &Arc<Shared>,
        peer: &PeerId,
        facts: Facts,
        now_ms: u64,
    ) -> anyhow::Result<()> {
        let theirs = facts.allegiance;
        self.connected.insert(peer.clone(), facts.clone());
        let Some(theirs) = theirs else { return Ok(()) };
        if let Some(founding) = self.founding.as_mut() {
            founding.on_seeker_gone(peer);
        }
        match shared.hive() {
            None => self.begin_join(shared, theirs, now_ms).await,
            Some((hive_id, epoch)) if hive_id == theirs.hive_id => {
                if theirs.epoch > epoch && !self.epochs.stays(now_ms) {
                    recovered_without(shared, epoch, theirs.epoch);
                    return self.begin_join(shared, theirs, now_ms).await;
                }
                Ok(())
            }
            Some((hive_id, _)) => self.meet(shared, hive_id, theirs, &facts, now_ms).await,
        }
    }

    /// The last connection with a peer is gone.
    pub(super) fn on_peer_gone(&mut self, peer: &PeerId) {
        self.connected.remove(peer);
    }

    /// Two hives: the childless one dissolves, all others are only shown.
    async fn meet(
        &mut self,
        shared: &Arc<Shared>,
        hive_id: HiveId,
        theirs: Allegiance,
        facts: &Facts,
        now_ms: u64,
    ) -> anyhow::Result<()> {
        let ours = HiveFacts { hive_id, childless: is_childless(shared) };
        let other = HiveFacts { hive_id: theirs.hive_id, childless: facts.extension.contains_key(CHILDLESS) };
        if dissolves_into(ours, other) {
            tracing::warn!(%hive_id, into = %theirs.hive_id, "this hive has nobody else and nothing to lose: it dissolves");
            return self.begin_join(shared, theirs, now_ms).await;
        }
        let met = OtherHive { name: facts.name.clone(), members: facts.member_count, seen_ms: now_ms };
        let new = shared.update(|soft| soft.other_hives.insert(theirs.hive_id, met).is_none());
        if new {
            tracing::warn!(other = %theirs.hive_id, through = %facts.name, "met another hive with the same secret");
        }
        Ok(())
    }

    async fn begin_join(&mut self, shared: &Arc<Shared>, hive: Allegiance, now_ms: u64) -> anyhow::Result<()> {
        if self
            .join
            .as_ref()
            .is_some_and(|join| join.hive == hive && now_ms.saturating_sub(join.since_ms) < JOIN_PATIENCE_MS)
        {
            return Ok(());
        }
        let changes_hive = shared.hive().is_some_and(|(ours, _)| ours != hive.hive_id);
        self.founding = None;
        self.join = Some(Join { hive, since_ms: now_ms });
        set_phase(shared, NodePhase::Joining);
        tracing::info!(hive_id = %hive.hive_id, "joining");
        let sources = self.sources(hive);
        shared
            .consensus
            .join_as_observer(hive.hive_id, hive.epoch, sources)
            .await
            .context("Failed to begin following the hive's log")?;
        self.changed_hive |= changes_hive;
        self.admit_sent_ms = None;
        self.keep_joining(shared, now_ms).await
    }

    /// Connected members of a hive.
    fn sources(&self, hive: Allegiance) -> Vec<PeerId> {
        let same = |facts: &Facts| facts.allegiance.is_some_and(|theirs| theirs.hive_id == hive.hive_id);
        self.connected.iter().filter(|(_, facts)| same(facts)).map(|(peer, _)| peer.clone()).collect()
    }

    /// Proposes `Admit` until the committed state says about this node what it says about itself.
    async fn keep_joining(&mut self, shared: &Arc<Shared>, now_ms: u64) -> anyhow::Result<()> {
        let Some((hive_id, epoch)) = shared.hive() else { return Ok(()) };
        let since_ms = self.join.as_ref().map_or(shared.me.started_ms, |join| join.since_ms);
        let in_vain = shared.consensus.replica().status().applied.is_none();
        let alone = self.sources(Allegiance { hive_id, epoch }).is_empty();
        if in_vain && alone && now_ms.saturating_sub(since_ms) > JOIN_PATIENCE_MS {
            tracing::warn!(%hive_id, "nobody of the hive has answered for long; seeking again");
            shared.consensus.abandon_join().await.context("Failed to give up joining")?;
            self.join = None;
            self.followed.clear();
            self.founding = Some(seek(shared));
            return Ok(());
        }
        let hive = Allegiance { hive_id, epoch };
        self.keep_following(shared, hive).await;
        if shared.is_member() {
            self.join = None;
            set_phase(shared, NodePhase::Member);
        }
        let beacon_state = if shared.is_member() { BeaconState::Member } else { BeaconState::Seeking };
        self.beacon_as(shared, beacon_state, [0; 16]);
        if self.admit_is_due(now_ms) && !is_known_as(shared, shared.member_info()) {
            self.admit_sent_ms = Some(now_ms);
            self.propose_admit(shared, shared.member_info());
        }
        Ok(())
    }

    /// An observer asks new sources too; voters and standbys need none.
    async fn keep_following(&mut self, shared: &Shared, hive: Allegiance) {
        let sources = self.sources(hive);
        let status = shared.consensus.status();
        // One that is served well is left alone: in a rack that boots together the connections change many times.
        let served = status.applied.is_some() && status.age_ms() < SERVED_WELL_MS;
        if status.role != Role::Observer || served || sources.is_empty() || sources == self.followed {
            return;
        }
        match shared.consensus.join_as_observer(hive.hive_id, hive.epoch, sources.clone()).await {
            Ok(()) => self.followed = sources,
            Err(error) => tracing::warn!(%error, "new sources of the log cannot be used"),
        }
    }

    fn admit_is_due(&self, now_ms: u64) -> bool {
        self.admit_sent_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= ADMIT_INTERVAL_MS)
    }

    fn propose_admit(&self, shared: &Arc<Shared>, member: MemberInfo) {
        let shared = Arc::clone(shared);
        tasks::spawn("admit", async move {
            match propose(&shared, Command::Admit { member }, ADMIT_TIMEOUT).await {
                Ok(reply) => tracing::debug!(?reply, "told the hive about this node"),
                Err(error) => tracing::debug!(%error, "could not tell the hive about this node yet"),
            }
        });
    }

    /// Keeps what later admissions and datagrams say in step with the state.
    fn say(&mut self, shared: &Shared) {
        let hive = shared.hive().filter(|_| shared.is_member());
        let (member_count, founded_at) = shared.read(|state| {
            let members = state.members().filter(|member| !member.left).count();
            (u32::try_from(members).unwrap_or(u32::MAX), state.founder().map(|founder| founder.joined_at))
        });
        let mut extension = BTreeMap::new();
        if hive.is_some() && is_childless(shared) {
            extension.insert(CHILDLESS.to_owned(), "1".to_owned());
        }
        let local = LocalFacts {
            allegiance: hive.map(|(hive_id, epoch)| Allegiance { hive_id, epoch }),
            name: shared.me.name.clone(),
            member_count: if hive.is_some() { member_count } else { 0 },
            founded_at: founded_at.filter(|_| hive.is_some()),
            extension,
        };
        if self.said.as_ref() == Some(&local) {
            return;
        }
        match shared.mesh.set_local(&local) {
            Ok(()) => self.said = Some(local),
            Err(error) => tracing::error!(%error, "this node cannot be introduced to others"),
        }
    }

    fn beacon_as(&self, shared: &Shared, state: BeaconState, digest: SeekersDigest) {
        let hive = shared.hive().filter(|_| state == BeaconState::Member);
        shared.discovery.set_content(BeaconContent {
            state,
            hive: hive.map(|(hive_id, epoch)| HiveEpoch { hive_id, epoch }),
            name: shared.me.name.clone(),
            addresses: shared.own_addresses().iter().map(SocketAddr::ip).collect(),
            mesh_port: shared.mesh.listen_port(),
            http_port: shared.me.http.port(),
            hive_name: String::new(),
            member_count: self.said.as_ref().map_or(0, |said| said.member_count),
            digest,
            candidate_ip: None,
            role: shared.soft(|soft| soft.identity.as_ref().map(|identity| identity.role.clone())),
        });
    }
}

/// What this node has is set aside; whoever misses something knows where to look.
fn recovered_without(shared: &Shared, ours: Epoch, theirs: Epoch) {
    let applied = shared.consensus.status().applied.map_or(0, |at| at.index);
    let text = format!(
        "The hive was recovered without this node, which follows epoch {theirs} now. What it had of epoch {ours}, up to entry {applied}, was set \
         aside as hive.db.aside-* in {}, and is removed after a week.",
        shared.config.state_dir.display()
    );
    tracing::warn!("{text}");
    shared.notice("recovered", Some(text));
}

fn seek(shared: &Shared) -> Founding {
    let mode = match shared.config.found {
        ConfiguredFoundMode::Auto => FoundMode::Auto,
        ConfiguredFoundMode::Force => FoundMode::Force,
        ConfiguredFoundMode::Never => FoundMode::Never,
    };
    let expect = shared.config.expect.map_or(0, |expect| expect as usize);
    let mut founding = Founding::new(FoundingOptions { mode, expect }, shared.me.peer_id.clone());
    founding.on_link(linked(shared), now_ms());
    founding
}

/// Carrier and address are there, so that this node would be heard.
fn linked(shared: &Shared) -> bool {
    shared.discovery.snapshot().linked
}

fn set_phase(shared: &Shared, phase: NodePhase) {
    let before = shared.update(|soft| soft.phase.replace(phase));
    if before != Some(phase) {
        tracing::info!(?phase, "this node's phase");
    }
}

fn refused(shared: &Shared, why: String, now_ms: u64) {
    let new = shared.update(|soft| {
        let before = soft.refused_by.replace((why.clone(), now_ms));
        before.is_none_or(|(before, _)| before != why)
    });
    if new {
        tracing::warn!(
            why,
            secret_file = %shared.config.secret_file.display(),
            "others are there and refuse this node; most likely the shared secret differs"
        );
    }
}

/// This machine and another one have the same key: which of the two is the copy, only a person can tell.
pub(super) fn say_cloned(shared: &Shared, from: SocketAddr) {
    let key = shared.config.state_dir.join("node_key");
    let text = format!(
        "Another machine uses this node's key ({from} said so): one is a copy of the other, or this state directory is an old copy. On \
         the copy: stop hive, remove {}, start it again.",
        key.display()
    );
    shared.update(|soft| soft.cloned_ms = now_ms());
    shared.notice("clone", Some(text));
}

fn is_childless(shared: &Shared) -> bool {
    let status = shared.consensus.status();
    let own_term = status.applied.is_some_and(|applied| applied.term == status.term);
    let is_current = status.role == Role::Leader && status.quorum && own_term;
    shared.read(|state| childless(state, is_current))
}

/// The state has this node as a member with what it says about itself, but for free disk space, which changes all the time and is
/// published as status.
fn is_known_as(shared: &Shared, mut wanted: MemberInfo) -> bool {
    shared.read(|state| {
        state.member(&shared.me.peer_id).is_some_and(|known| {
            wanted.inventory.disk_free_gb = known.info.inventory.disk_free_gb;
            !known.left && known.info == wanted
        })
    })
}
