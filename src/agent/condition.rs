//! What is not in order: sentences for people, words for scripts, and whether this node is ready.
//!
//! Put together from the replicated state, this node's soft state and what members publish. Never done here: mending it.

use super::shared::{Shared, StatusReport};
use super::views::phase;
use crate::api::{MemberState, MemberStatus, NodePhase, words};
use crate::clock::now_ms;
use crate::consensus::ConsensusStatus;
use crate::engine::founding::HoldReason;
use crate::engine::id::PeerId;

/// Entries by which a node's state may be behind what it knows to be committed and still be called ready: some seconds of a
/// busy hive.
const BEHIND_MAX: u64 = 5_000;

/// Fine when this node is a member with its state applied, else why not.
pub(super) fn ready(shared: &Shared) -> Result<(), String> {
    let phase = phase(shared);
    if phase != NodePhase::Member || !shared.is_member() {
        return Err(format!("not a member yet: {}", words::phase(phase)));
    }
    unready(&shared.consensus.status()).map_or(Ok(()), Err)
}

fn unready(consensus: &ConsensusStatus) -> Option<String> {
    if let Some(halted) = &consensus.halted {
        return Some(format!("its copy of the log has stopped: {halted}"));
    }
    let applied = consensus.applied.map_or(0, |point| point.index);
    let behind = consensus.committed.unwrap_or(0).saturating_sub(applied);
    (behind > BEHIND_MAX).then(|| format!("its state is {behind} entries behind"))
}

/// What is not in order, in words that scripts rely on; empty when nothing is. The words are in README.
pub(super) fn degraded(shared: &Shared, consensus: &ConsensusStatus, members: &[MemberStatus]) -> Vec<String> {
    let any = |state| members.iter().any(|member| member.state == state);
    let packages =
        shared.soft(|soft| soft.identity.as_ref().is_some_and(|identity| identity.packages_state.contains("failed")));
    let member_disk_low = short_of_disk(shared, members).next().is_some();
    let found = [
        ("not_member", phase(shared) != NodePhase::Member),
        ("no_quorum", !consensus.quorum),
        ("no_coordinator", consensus.leader.is_none()),
        ("halted", consensus.halted.is_some() || consensus.stopped.is_some()),
        ("member_down", any(MemberState::Down)),
        ("member_suspect", any(MemberState::Suspect)),
        ("disk_low", consensus.low_space),
        ("member_disk_low", member_disk_low),
        ("packages_failed", packages),
    ];
    found.into_iter().filter(|(_, there)| *there).map(|(word, _)| word.to_owned()).collect()
}

/// Other members that answer and say that they are short of disk space.
fn short_of_disk<'a>(
    shared: &'a Shared,
    members: &'a [MemberStatus],
) -> impl Iterator<Item = (&'a str, &'a PeerId, StatusReport)> {
    members.iter().filter(|member| member.state == MemberState::Alive).filter_map(|member| {
        let peer = member.peer_id.as_ref().filter(|peer| **peer != shared.me.peer_id)?;
        let report = shared.soft(|soft| soft.reports.get(peer).cloned()).filter(|report| report.disk_low)?;
        Some((member.name.as_str(), peer, report))
    })
}

fn disk_sentence(name: &str, leads: bool, free_bytes: u64) -> String {
    let free = words::bytes(free_bytes);
    if leads {
        format!("The coordinator {name} is low on disk ({free} free): nothing new is accepted until it has more.")
    } else {
        format!("{name} is low on disk ({free} free): it accepts nothing new and keeps no copies until it has more.")
    }
}

/// What the operator should know, most urgent first.
pub(super) fn notices(shared: &Shared, consensus: &ConsensusStatus, members: &[MemberStatus]) -> Vec<String> {
    let mut notices = Vec::new();
    if let Some(halted) = &consensus.halted {
        notices.push(format!("This node's copy of the log has stopped: {halted}. Install a newer hive here."));
    }
    let phase = phase(shared);
    let now_ms = now_ms();
    shared.soft(|soft| {
        if let (NodePhase::Refused, Some((who, _))) = (phase, &soft.refused_by) {
            notices.push(format!(
                "Other nodes are there and refuse this one ({who}): most likely the secrets differ. Compare `hive secret \
                 fingerprint` here and there, and copy {} from a member.",
                shared.config.secret_file.display()
            ));
        }
        if consensus.low_space {
            notices.push(format!(
                "Little disk space is left under {}: nothing new is accepted until there is more.",
                shared.config.state_dir.display()
            ));
        }
        if shared.me.secret_is_tentative && phase != NodePhase::Member {
            notices.push(format!("There is no secret in {} yet.", shared.config.secret_file.display()));
        }
        notices.extend(soft.hold.as_ref().filter(|_| phase == NodePhase::Seeking).and_then(hold_sentence));
        for (hive, other) in &soft.other_hives {
            if now_ms.saturating_sub(other.seen_ms) < super::joining::OTHER_HIVE_SHOWN_MS {
                notices.push(format!(
                    "Another hive with the same secret is on this network: {hive}, {} members, met through {}. The two never \
                     mix; end one of them to make a single hive.",
                    other.members, other.name
                ));
            }
        }
        notices.extend(soft.notices.values().cloned());
        if !soft.isolation.is_empty() && shared.config.build.slots > 0 {
            notices.push(format!("Builds on this host: {}.", soft.isolation.join("; ").trim_end_matches('.')));
        }
    });
    notices.extend(short_of_disk(shared, members).map(|(name, peer, report)| {
        disk_sentence(name, consensus.leader.as_ref() == Some(peer), report.disk_free_bytes)
    }));
    if phase == NodePhase::Member && !consensus.quorum {
        notices.push(
            "No quorum: nothing new is acknowledged until a majority of the voters is back. Builds go on. If they are lost for \
             good: hive recover."
                .to_owned(),
        );
    }
    notices.extend(small_hive_sentence(consensus, members));
    notices.extend(shared.definitions(|definitions| definitions.problem().map(str::to_owned)));
    notices
}

fn hold_sentence(hold: &HoldReason) -> Option<String> {
    match hold {
        HoldReason::NeverFounds => Some("Looks for a hive to join; never founds one (--no-found).".to_owned()),
        HoldReason::Expecting { seen, expected } => {
            Some(format!("Waits for {expected} nodes before a hive is founded (--expect); {seen} in view."))
        }
        HoldReason::NoLink => Some("No network interface with carrier and address yet.".to_owned()),
        HoldReason::OtherFounds(peer) => Some(format!("Node …{} is about to found a hive.", peer.short())),
        HoldReason::Unverified | HoldReason::HiveHinted => None,
    }
}

fn small_hive_sentence(consensus: &ConsensusStatus, members: &[MemberStatus]) -> Option<String> {
    let there = members.iter().filter(|member| !matches!(member.state, MemberState::Left | MemberState::Legacy));
    let only_voter = consensus.voters.first().filter(|_| consensus.voters.len() == 1)?;
    let name = members.iter().find(|member| member.peer_id.as_ref() == Some(&only_voter.peer_id))?.name.clone();
    (there.count() == 2).then(|| {
        format!("A hive of two has one voter: while {name} is away nothing new is acknowledged. A third node makes it three.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::state::Halt;
    use crate::store::raft_db::LogPoint;

    #[test]
    fn a_halted_or_far_behind_copy_is_not_ready() {
        let at = |index| ConsensusStatus {
            applied: Some(LogPoint { term: 1, index }),
            committed: Some(10_000),
            ..ConsensusStatus::default()
        };
        assert_eq!(unready(&at(10_000)), None);
        assert_eq!(unready(&at(10_000 - BEHIND_MAX)), None);
        assert_eq!(unready(&at(1_000)).as_deref(), Some("its state is 9000 entries behind"));
        let halted = Halt { index: 3, why: "unknown command".to_owned() };
        let why = unready(&ConsensusStatus { halted: Some(halted), ..at(10_000) }).expect("not ready");
        assert!(why.contains("has stopped") && why.contains("unknown command"), "{why}");
    }

    #[test]
    fn a_coordinator_without_disk_is_said_to_refuse_writes() {
        assert!(
            disk_sentence("build1", true, 1 << 20)
                .contains("coordinator build1 is low on disk (1.0 MiB free): nothing")
        );
        assert!(disk_sentence("build2", false, 0).starts_with("build2 is low on disk"));
    }
}
