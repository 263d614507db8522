//! This node as the one that asks: opens ballots, claims what they decide, and writes down what it became.
//!
//! ```text
//!   no role, reset, deleted file ──► ballot ──► ClaimRole (committed) ──► identity.json ──► packages
//!                                        └─ no quorum ─► provisional identity, claimed later
//! ```
//!
//! Never done here: advising, counting (see [`ballot`](crate::engine::ballot)), or capping (apply does).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::control::{self, Request, Response};
use super::shared::Shared;
use super::{Event, packages, propose};
use crate::api::{AdviceView, ApiResult, ErrorCode, Identity, MemberState, RankedAdvice};
use crate::clock::{now_ms, unix_now};
use crate::engine::ballot::{AdviceMsg, Ballot, BallotStep, IdentifyMsg, Outcome, Ranked};
use crate::engine::command::{Command, RankedRole, Reply};
use crate::engine::id::PeerId;
use crate::engine::member::{MemberInfo, RoleClaim};
use crate::engine::role::FOUNDER;
use crate::exec::packages::Mode;
use crate::tasks;
use crate::transport;

/// An advisor that has not answered after this long will not: ballots are decided after 2 s.
const ADVICE_TIMEOUT: Duration = Duration::from_millis(1_900);
/// How long after a ballot without a result the next one is opened, milliseconds. Doubles up to the second while nobody advises or no
/// role is free: every ballot asks the whole hive.
const AGAIN_MS: u64 = 3_000;
const AGAIN_MS_MAX: u64 = 60_000;
/// How long after a failure the identity file is written again, milliseconds.
const WRITE_AGAIN_MS: u64 = 5_000;
/// How long a claim may take to be committed before the node goes on provisionally.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(3);
/// Before a failed installation of the role's packages is tried again; doubles up to the second.
const PACKAGES_PAUSE: Duration = Duration::from_secs(30);
const PACKAGES_PAUSE_MAX: Duration = Duration::from_secs(3_600);

/// Where the question stands.
#[derive(Default)]
pub(super) struct Asking {
    ballot: Option<Ballot>,
    ballots_opened: u64,
    /// A claim is on its way; its ballot.
    claiming: Option<Ranked>,
    /// Not before this time (0: at once).
    not_before_ms: u64,
    /// Ballots without a result in a row.
    fruitless: u32,
    /// The identity file is not what it should be, and is written again at this time.
    unwritten_ms: Option<u64>,
    /// Somebody wants a new answer although there is one.
    wanted: bool,
    /// Who asked for the reset and waits for the new identity.
    waiting: Vec<tokio::sync::oneshot::Sender<ApiResult<Identity>>>,
}

impl Asking {
    /// Takes up what the identity file and the committed state say after a start or a join.
    pub(super) fn resume(&mut self, shared: &Arc<Shared>) -> anyhow::Result<()> {
        let identity = shared.files.read_identity()?;
        self.wanted = identity.is_none();
        shared.update(|soft| soft.identity = identity);
        // An installation that a restart cut off goes on.
        install_packages(shared);
        Ok(())
    }

    /// The node wants a new answer: `hive identity reset`, or its role is no longer needed.
    pub(super) fn ask_again(
        &mut self,
        shared: &Shared,
        waiting: Option<tokio::sync::oneshot::Sender<ApiResult<Identity>>>,
    ) -> anyhow::Result<()> {
        shared.written("identity file", shared.files.remove_identity());
        self.unwritten_ms = None;
        self.wanted = true;
        self.not_before_ms = 0;
        self.fruitless = 0;
        self.claiming = None;
        self.ballot = None;
        self.waiting.extend(waiting);
        Ok(())
    }

    /// The node belongs to another hive now: what it was told before no longer holds.
    pub(super) fn forget(&mut self, shared: &Shared) -> anyhow::Result<()> {
        shared.update(|soft| soft.identity = None);
        self.ask_again(shared, None)
    }

    /// The hive was founded by this node: it is the founder until the hive gives it another role.
    pub(super) fn founded(&mut self, shared: &Arc<Shared>) -> anyhow::Result<()> {
        self.wanted = false;
        let identity = self.compose(shared, FOUNDER, None, "founded this hive", false);
        self.settle(shared, identity)
    }

    /// The node has its role, and nothing is asked or claimed.
    pub(super) fn is_settled(&self, shared: &Shared) -> bool {
        let settled = shared.soft(|soft| soft.identity.as_ref().is_some_and(|identity| !identity.provisional));
        settled && !self.wanted && self.ballot.is_none() && self.claiming.is_none()
    }

    /// Does what is due. Called often, cheap when nothing is.
    pub(super) fn tick(&mut self, shared: &Arc<Shared>, now_ms: u64) -> anyhow::Result<()> {
        if self.unwritten_ms.is_some_and(|at_ms| now_ms >= at_ms)
            && let Some(identity) = shared.soft(|soft| soft.identity.clone())
        {
            self.write(shared, &identity);
        }
        if self.ballot.is_some() {
            return self.poll(shared, now_ms);
        }
        if self.claiming.is_some() || now_ms < self.not_before_ms || !shared.is_member() {
            return Ok(());
        }
        let settled = shared.soft(|soft| soft.identity.as_ref().is_some_and(|identity| !identity.provisional));
        if !self.wanted && settled {
            return Ok(());
        }
        self.open(shared, now_ms);
        self.poll(shared, now_ms)
    }

    fn open(&mut self, shared: &Arc<Shared>, now_ms: u64) {
        self.ballots_opened += 1;
        let id = format!("{}-{}-{}", shared.me.peer_id.short(), shared.me.incarnation, self.ballots_opened);
        let contacts = advisors_of(shared);
        let advisors: BTreeSet<PeerId> = contacts.keys().cloned().collect();
        tracing::info!(ballot = %id, advisors = advisors.len(), "asking the hive: what should I become?");
        let roles = shared.definitions(|definitions| {
            definitions.refresh();
            definitions.roles()
        });
        let question = IdentifyMsg { ballot: id.clone(), node: shared.inventory() };
        for (advisor, addresses) in contacts {
            let (shared, question) = (Arc::clone(shared), question.clone());
            tasks::spawn("identify", async move {
                shared.mesh.add_addresses(&advisor, addresses).await;
                let request = Request::Identify(Box::new(question));
                let answer = transport::call(&shared.mesh, &advisor, control::PROTOCOL, &request, ADVICE_TIMEOUT).await;
                let advice = match answer {
                    Ok(Response::Advice(advice)) => Some(advice),
                    Ok(Response::Refused { why }) => {
                        tracing::debug!(%advisor, why, "no advice");
                        None
                    }
                    Ok(_) | Err(_) => None,
                };
                // The loop is gone only when the agent stops.
                let _ = shared.events.send(Event::Advice { from: advisor, advice }).await;
            });
        }
        self.ballot = Some(Ballot::new(id, advisors, roles, now_ms));
    }

    /// An advisor answered, or will not.
    pub(super) fn on_advice(
        &mut self,
        shared: &Arc<Shared>,
        from: &PeerId,
        advice: Option<Box<AdviceMsg>>,
    ) -> anyhow::Result<()> {
        let Some(ballot) = self.ballot.as_mut() else { return Ok(()) };
        match advice {
            Some(advice) => {
                let name = shared.read(|state| state.name_of(from).to_owned());
                if let Some(first) = advice.advice.ranking.first() {
                    tracing::info!(advisor = %name, role = %first.role, reason = %first.reason, "advice");
                }
                if let Err(refused) = ballot.on_advice(from, *advice, now_ms()) {
                    tracing::debug!(advisor = %name, %refused, "advice not counted");
                }
            }
            None => ballot.on_advisor_gone(from),
        }
        self.poll(shared, now_ms())
    }

    fn poll(&mut self, shared: &Arc<Shared>, now_ms: u64) -> anyhow::Result<()> {
        let Some(ballot) = self.ballot.as_mut() else { return Ok(()) };
        match ballot.poll(now_ms) {
            BallotStep::Wait { .. } => Ok(()),
            BallotStep::Decided(Outcome::Ranked(ranked)) => {
                self.ballot = None;
                self.claim(shared, ranked);
                Ok(())
            }
            BallotStep::Decided(Outcome::NoAdvice { unanswered, .. }) => {
                self.ballot = None;
                self.no_advice(shared, now_ms, unanswered.len())
            }
        }
    }

    fn no_advice(&mut self, shared: &Arc<Shared>, now_ms: u64, unanswered: usize) -> anyhow::Result<()> {
        self.later(now_ms);
        let alone = shared.read(|state| state.members().filter(|member| !member.left).count()) <= 1;
        let founder = shared.read(|state| state.member(&shared.me.peer_id).is_some_and(|member| member.founder));
        if alone && founder {
            return self.founded(shared);
        }
        tracing::info!(unanswered, "nobody advised; asking again");
        let waiting = std::mem::take(&mut self.waiting);
        for sender in waiting {
            let error = crate::api::ApiError::new(
                ErrorCode::Conflict,
                "no member advised this node",
                "it goes on asking, at least once a minute; see hive peers",
            );
            let _ = sender.send(Err(error));
        }
        Ok(())
    }

    /// Nothing came of the ballot. The next one is opened later than the one before.
    fn later(&mut self, now_ms: u64) {
        self.not_before_ms = now_ms + pause_ms(self.fruitless);
        self.fruitless = self.fruitless.saturating_add(1);
    }

    /// Writes the identity file, and goes on without it when it cannot be written now.
    fn write(&mut self, shared: &Shared, identity: &Identity) {
        let written = shared.written("identity file", shared.files.write_identity(identity));
        self.unwritten_ms = (!written).then(|| now_ms() + WRITE_AGAIN_MS);
    }

    fn claim(&mut self, shared: &Arc<Shared>, ranked: Ranked) {
        let command = Command::ClaimRole {
            peer_id: shared.me.peer_id.clone(),
            ranking: ranked.ranking.clone(),
            ballot: ranked.ballot.clone(),
        };
        let ballot = ranked.ballot.clone();
        self.claiming = Some(ranked);
        let shared = Arc::clone(shared);
        tasks::spawn("claim", async move {
            let reply = propose(&shared, command, CLAIM_TIMEOUT).await;
            let _ = shared.events.send(Event::Claimed { ballot, reply }).await;
        });
    }

    /// The claim was committed, refused, or could not be committed now.
    pub(super) fn on_claimed(
        &mut self,
        shared: &Arc<Shared>,
        ballot: &str,
        reply: ApiResult<Reply>,
    ) -> anyhow::Result<()> {
        let Some(ranked) = self.claiming.take_if(|ranked| ranked.ballot == ballot) else { return Ok(()) };
        match reply {
            Ok(Reply::Role { claim }) => {
                self.wanted = false;
                // The coordinator has applied it, this replica perhaps not yet: it must not look unclaimed until then.
                self.not_before_ms = now_ms() + AGAIN_MS;
                self.became(shared, &claim, &ranked)
            }
            Ok(other) => {
                tracing::warn!(?other, "no role of the ballot's ranking could be taken; asking again");
                self.later(now_ms());
                Ok(())
            }
            Err(error) => {
                self.not_before_ms = now_ms() + AGAIN_MS;
                self.provisional(shared, &ranked, &error.message)
            }
        }
    }

    /// Without quorum the node works by the ballot's first choice and claims later.
    fn provisional(&mut self, shared: &Arc<Shared>, ranked: &Ranked, why: &str) -> anyhow::Result<()> {
        let Some(RankedRole { role, .. }) = ranked.ranking.first() else { return Ok(()) };
        tracing::warn!(role, why, "role not committed, working provisionally");
        let known = shared.soft(|soft| soft.identity.as_ref().is_some_and(|identity| identity.role == *role));
        if known {
            return Ok(());
        }
        let reason = ranked.for_role(role).map(|given| given.reason).unwrap_or_default();
        let identity = self.compose(shared, role, Some(ranked), &reason, true);
        self.write(shared, &identity);
        shared.update(|soft| soft.identity = Some(identity));
        Ok(())
    }

    fn became(&mut self, shared: &Arc<Shared>, claim: &RoleClaim, ranked: &Ranked) -> anyhow::Result<()> {
        let reason = ranked.for_role(&claim.role).map(|given| given.reason).unwrap_or_default();
        tracing::info!(role = %claim.role, %reason, "the hive has decided what this node is");
        let mut identity = self.compose(shared, &claim.role, Some(ranked), &reason, false);
        identity.assigned_at = claim.assigned_at;
        self.settle(shared, identity)
    }

    fn settle(&mut self, shared: &Arc<Shared>, identity: Identity) -> anyhow::Result<()> {
        self.fruitless = 0;
        self.write(shared, &identity);
        for sender in self.waiting.drain(..) {
            let _ = sender.send(Ok(identity.clone()));
        }
        shared.update(|soft| soft.identity = Some(identity));
        install_packages(shared);
        Ok(())
    }

    fn compose(
        &self,
        shared: &Shared,
        role: &str,
        ranked: Option<&Ranked>,
        reason: &str,
        provisional: bool,
    ) -> Identity {
        let roles = shared.definitions(|definitions| definitions.roles());
        let definition = roles.get(role);
        let distro = shared.inventory().distro;
        let (given, advice) = match ranked {
            Some(ranked) => (ranked.for_role(role), views(shared, ranked)),
            None => (None, Vec::new()),
        };
        let name = |peer: &PeerId| shared.read(|state| state.name_of(peer).to_owned());
        let (assigned_by, dissenters): (Vec<String>, BTreeSet<String>) = match &given {
            Some(given) => (given.assigned_by.iter().map(name).collect(), given.dissent.iter().map(name).collect()),
            None => (vec![shared.me.name.clone()], BTreeSet::new()),
        };
        let founder = ranked.is_none()
            || shared.read(|state| state.member(&shared.me.peer_id).is_some_and(|member| member.founder));
        let packages: Vec<String> =
            definition.map(|definition| definition.packages_on(&distro).to_vec()).unwrap_or_default();
        let packages_state = match super::packages::mode(shared.config.packages) {
            Mode::Off => "off",
            Mode::DryRun | Mode::On if packages.is_empty() => "installed",
            Mode::DryRun | Mode::On => "pending",
        };
        Identity {
            role: role.to_owned(),
            packages,
            config: definition.map(|definition| definition.config.clone()).unwrap_or_default(),
            assigned_by,
            assigned_at: unix_now(),
            reason: reason.to_owned(),
            ballot: ranked.map(|ranked| ranked.ballot.clone()).unwrap_or_default(),
            provisional,
            founder,
            dissent: advice.iter().filter(|view| dissenters.contains(&view.advisor)).cloned().collect(),
            advice,
            packages_state: packages_state.to_owned(),
        }
    }

    /// The package run ended.
    pub(super) fn on_packages(&mut self, shared: &Shared, role: &str, state: String) -> anyhow::Result<()> {
        let identity = shared.update(|soft| {
            let identity = soft.identity.as_mut().filter(|identity| identity.role == role)?;
            identity.packages_state.clone_from(&state);
            Some(identity.clone())
        });
        if let Some(identity) = identity {
            tracing::info!(role, state, "packages of the role");
            self.write(shared, &identity);
        }
        let trouble = packages::is_trouble(&state);
        shared.notice("packages", trouble.then(|| format!("Packages of role {role}: {state}")));
        Ok(())
    }
}

/// Before the next ballot after so many fruitless ones.
fn pause_ms(fruitless: u32) -> u64 {
    AGAIN_MS.saturating_mul(1u64.checked_shl(fruitless).unwrap_or(u64::MAX)).min(AGAIN_MS_MAX)
}

/// All members that are not known to be down, with their addresses. A node that has just joined knows nothing of most of them
/// yet: who does not answer is counted as gone by the ballot.
fn advisors_of(shared: &Shared) -> BTreeMap<PeerId, Vec<SocketAddr>> {
    let members: Vec<MemberInfo> = shared.read(|state| {
        let others = state.members().filter(|member| !member.left && member.info.peer_id != shared.me.peer_id);
        others.map(|member| member.info.clone()).collect()
    });
    let down = |peer: &PeerId| {
        shared.soft(|soft| soft.liveness.get(peer).is_some_and(|known| known.state == MemberState::Down))
    };
    let asked = members.into_iter().filter(|info| !down(&info.peer_id));
    let addresses = |info: &MemberInfo| info.addresses.iter().filter_map(|address| address.parse().ok()).collect();
    asked.map(|info| (info.peer_id.clone(), addresses(&info))).collect()
}

fn views(shared: &Shared, ranked: &Ranked) -> Vec<AdviceView> {
    let view = |(peer, message): (&PeerId, &AdviceMsg)| AdviceView {
        advisor: shared.read(|state| state.name_of(peer).to_owned()),
        policy: message.policy.clone(),
        ranking: message
            .advice
            .ranking
            .iter()
            .map(|one| RankedAdvice {
                role: one.role.clone(),
                rule: one.rule.clone(),
                cap: one.cap,
                reason: one.reason.clone(),
            })
            .collect(),
        skipped: message.advice.skipped.clone(),
    };
    ranked.advice.iter().map(view).collect()
}

/// Installs the packages of the role and runs its check in the background, by the configured mode; what failed is tried again, because
/// an archive that does not answer at a machine's first boot answers later.
fn install_packages(shared: &Arc<Shared>) {
    let Some(identity) = shared.soft(|soft| soft.identity.clone()) else { return };
    let mode = packages::mode(shared.config.packages);
    let done = match mode {
        Mode::Off => true,
        Mode::DryRun => !["pending", "failed"].iter().any(|word| identity.packages_state.starts_with(word)),
        Mode::On => packages::is_fit(&identity.packages_state),
    };
    if done {
        return;
    }
    let shared = Arc::clone(shared);
    tasks::spawn("packages", async move {
        let distro = shared.inventory().distro;
        let mut pause = PACKAGES_PAUSE;
        loop {
            let roles = shared.definitions(|definitions| definitions.roles());
            let check = roles.get(&identity.role).map(|role| role.health_check.clone()).unwrap_or_default();
            let state = packages::install(&shared, &distro, &identity.packages, &check).await;
            let again = mode == Mode::On && packages::is_trouble(&state);
            let _ = shared.events.send(Event::Packages { role: identity.role.clone(), state }).await;
            if !again {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PACKAGES_PAUSE_MAX);
            // Another identity has a run of its own.
            let same =
                |current: &Identity| current.role == identity.role && current.assigned_at == identity.assigned_at;
            if !shared.soft(|soft| soft.identity.as_ref().is_some_and(same)) {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballots_without_a_result_become_rare() {
        let pauses: Vec<u64> = (0..7).map(pause_ms).collect();
        assert_eq!(pauses, [3_000, 6_000, 12_000, 24_000, 48_000, 60_000, 60_000]);
        assert_eq!(pause_ms(u32::MAX), AGAIN_MS_MAX);
    }
}
