//! What should this node become? Ballots, advice by the shipped policy, claims, and who is asked to ask again.

use std::collections::BTreeSet;

use hive::engine::ballot::migration::MigrationMember;
use hive::engine::ballot::{AdviceMsg, Ballot, BallotStep, IdentifyMsg, Outcome};
use hive::engine::command::{Command, Reply};
use hive::engine::id::PeerId;
use hive::engine::member::Inventory;
use hive::engine::policy::{Advice, Snapshot, evaluate};
use hive::engine::role::census;

use super::net::Seen;
use super::node::{Ix, Msg, Purpose};
use super::world::World;

const AGAIN_MS: u64 = 3_000;
const CLAIM_MS: u64 = 3_000;
const ROLES_INTERVAL_MS: u64 = 60_000;

impl World {
    pub(crate) fn ask_for_role(&mut self, ix: Ix) {
        let mono = self.mono(ix);
        let is_member = self.nodes[ix].is_member();
        let now_ms = self.now_ms;
        let me = self.nodes[ix].peer.clone();
        let incarnation = self.nodes[ix].disk.incarnation;
        let inventory = self.nodes[ix].inventory.clone();
        let life = self.nodes[ix].life.as_ref().expect("it lives");
        if life.ballot.is_some() {
            return self.poll_ballot(ix);
        }
        if life.claiming.is_some() || mono < life.ask_not_before_ms || !is_member || !life.wanted {
            return;
        }
        let members = life.state.members().filter(|member| !member.left).map(|member| member.info.peer_id.clone());
        let advisors: BTreeSet<PeerId> = members
            .filter(|peer| *peer != me)
            .filter(|peer| self.ix_of(peer).is_some_and(|of| !matches!(self.net.seen(ix, of, now_ms), Seen::Down(_))))
            .collect();
        let roles = std::sync::Arc::clone(&self.roles);
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        life.ballots += 1;
        let id = format!("{}-{incarnation}-{}", me.short(), life.ballots);
        life.ballot = Some(Ballot::new(id.clone(), advisors.clone(), roles, mono));
        let question = Box::new(IdentifyMsg { ballot: id, node: inventory });
        for to in advisors.iter().filter_map(|peer| self.ix_of(peer)).collect::<Vec<_>>() {
            self.send(ix, to, Msg::Identify(question.clone()));
        }
        self.counts.add("ballots", 1);
        self.poll_ballot(ix);
    }

    fn poll_ballot(&mut self, ix: Ix) {
        let mono = self.mono(ix);
        let peer = self.nodes[ix].peer.clone();
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let Some(ballot) = life.ballot.as_mut() else { return };
        match ballot.poll(mono) {
            BallotStep::Wait { .. } => {}
            BallotStep::Decided(Outcome::Ranked(ranked)) => {
                life.ballot = None;
                life.claiming = Some(ranked.ballot.clone());
                let command =
                    Command::ClaimRole { peer_id: peer, ranking: ranked.ranking, ballot: ranked.ballot.clone() };
                self.propose(ix, command, Purpose::Claim(ranked.ballot), CLAIM_MS);
            }
            BallotStep::Decided(Outcome::NoAdvice { .. }) => {
                life.ballot = None;
                life.ask_not_before_ms = mono + AGAIN_MS;
                let alone = life.state.members().filter(|member| !member.left).count() <= 1;
                if alone && life.state.member(&peer).is_some_and(|member| member.founder) {
                    life.wanted = false;
                    self.nodes[ix].disk.identity = Some("founder".to_owned());
                }
            }
        }
    }

    pub(crate) fn on_advice(&mut self, ix: Ix, from: Ix, advice: Option<Box<AdviceMsg>>) {
        let mono = self.mono(ix);
        let peer = self.nodes[from].peer.clone();
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let Some(ballot) = life.ballot.as_mut() else { return };
        match advice {
            Some(advice) => {
                if ballot.on_advice(&peer, *advice, mono).is_ok() {
                    self.counts.add("advice counted", 1);
                }
            }
            None => ballot.on_advisor_gone(&peer),
        }
        self.poll_ballot(ix);
    }

    pub(crate) fn advise(&self, ix: Ix, asking: Ix, question: &IdentifyMsg) -> Option<Box<AdviceMsg>> {
        self.nodes[ix].hive()?;
        let advice = self.advise_about(ix, &self.nodes[asking].peer, question.node.clone());
        Some(Box::new(AdviceMsg {
            ballot: question.ballot.clone(),
            policy: self.policy.name().to_owned(),
            roles_digest: self.roles.digest(),
            advice,
        }))
    }

    fn advise_about(&self, ix: Ix, about: &PeerId, node: Inventory) -> Advice {
        let life = self.nodes[ix].life.as_ref().expect("it lives");
        let others = life.state.members().filter(|member| !member.left && member.info.peer_id != *about).count();
        let snapshot = Snapshot {
            census: census(life.state.members(), Some(about)),
            members: u32::try_from(others).expect("few") + 1,
            queue: life.state.counts(),
            node,
            ..Snapshot::default()
        };
        evaluate(&self.policy, &self.roles, &snapshot)
    }

    pub(crate) fn on_claimed(&mut self, ix: Ix, ballot: &str, reply: Option<Reply>) {
        let mono = self.mono(ix);
        let node = &mut self.nodes[ix];
        let life = node.life.as_mut().expect("it lives");
        if life.claiming.take_if(|claiming| claiming == ballot).is_none() {
            return;
        }
        life.ask_not_before_ms = mono + AGAIN_MS;
        if let Some(Reply::Role { claim }) = reply {
            life.wanted = false;
            self.say(|| format!("node {ix} is {}", claim.role));
            self.nodes[ix].disk.identity = Some(claim.role);
            self.counts.add("roles claimed", 1);
        }
    }

    /// `hive identity reset`, or a role that is not needed any more.
    pub(crate) fn reset_identity(&mut self, ix: Ix) {
        let node = &mut self.nodes[ix];
        node.disk.identity = None;
        if let Some(life) = &mut node.life {
            life.wanted = true;
            life.ask_not_before_ms = 0;
            life.claiming = None;
            life.ballot = None;
        }
    }

    pub(crate) fn on_ask_again(&mut self, ix: Ix, generation: u64) {
        let node = &self.nodes[ix];
        let state = &node.life.as_ref().expect("it lives").state;
        let current =
            state.member(&node.peer).and_then(|member| member.role.as_ref()).map_or(0, |claim| claim.generation);
        if current == generation {
            self.reset_identity(ix);
        }
    }

    /// As coordinator: looks whether a role is no longer needed.
    pub(crate) fn keep_roles(&mut self, ix: Ix) {
        let (mono, now_ms) = (self.mono(ix), self.now_ms);
        let life = self.nodes[ix].life.as_ref().expect("it lives");
        let Some(term) = &life.term else { return };
        if mono.saturating_sub(term.roles_ms) < ROLES_INTERVAL_MS {
            return;
        }
        let members: Vec<_> = life.state.members().filter(|member| !member.left).cloned().collect();
        let mut reviewed = Vec::new();
        for member in members {
            let peer = member.info.peer_id.clone();
            let generation = member.role.as_ref().map_or(0, |claim| claim.generation);
            let role = match &member.role {
                Some(claim) => Some(claim.role.clone()),
                None => member.founder.then(|| "founder".to_owned()),
            };
            let idle = life.state.live_attempts_len(&peer) == 0
                && self.ix_of(&peer).is_some_and(|of| self.net.seen(ix, of, now_ms) == Seen::Alive);
            let advice = self.advise_about(ix, &peer, member.info.inventory.clone());
            reviewed.push(MigrationMember { peer, role, generation, since_ms: mono, idle, advice });
        }
        let roles = std::sync::Arc::clone(&self.roles);
        let life = self.nodes[ix].life.as_mut().expect("it lives");
        let Some(term) = &mut life.term else { return };
        term.roles_ms = mono;
        for member in &mut reviewed {
            let known = term.role_since.entry(member.peer.clone()).or_insert((member.generation, mono));
            if known.0 != member.generation {
                *known = (member.generation, mono);
            }
            member.since_ms = known.1;
        }
        let review = term.migrator.review(mono, &reviewed, &roles);
        if let Some(ask) = review.ask
            && let Some(to) = self.ix_of(&ask.peer)
        {
            self.counts.add("migrations asked for", 1);
            self.send(ix, to, Msg::AskAgain { generation: ask.generation });
        }
    }
}
