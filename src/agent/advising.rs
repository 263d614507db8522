//! This node as an advisor: what it would have another node become, by its own policy and the committed census.
//!
//! Never done here: counting votes, or changing anything.

use std::collections::BTreeMap;

use super::shared::Shared;
use crate::discovery::v1;
use crate::engine::ballot::{AdviceMsg, IdentifyMsg};
use crate::engine::id::PeerId;
use crate::engine::member::Inventory;
use crate::engine::policy::{Advice, Snapshot, evaluate};
use crate::engine::role::census;

/// Answers IDENTIFY. Refuses, with a sentence, when this node is not a member itself.
pub(super) fn advise(shared: &Shared, asking: &PeerId, question: &IdentifyMsg) -> Result<AdviceMsg, String> {
    if shared.hive().is_none() {
        return Err("this node belongs to no hive yet".to_owned());
    }
    let (roles, policy) = shared.definitions(|definitions| {
        definitions.refresh();
        (definitions.roles(), definitions.policy())
    });
    let snapshot = snapshot_for(shared, Some(asking), question.node.clone());
    Ok(AdviceMsg {
        ballot: question.ballot.clone(),
        policy: policy.name().to_owned(),
        roles_digest: roles.digest(),
        advice: evaluate(&policy, &roles, &snapshot),
    })
}

/// Advice for a node that cannot say what it is: one of wire v1, or a member that the coordinator reviews.
pub(super) fn advise_about(shared: &Shared, about: Option<&PeerId>, node: Inventory) -> Advice {
    let (roles, policy) = shared.definitions(|definitions| (definitions.roles(), definitions.policy()));
    evaluate(&policy, &roles, &snapshot_for(shared, about, node))
}

/// What the policy may look at, with the asking node left out of the census and counted as a member.
fn snapshot_for(shared: &Shared, asking: Option<&PeerId>, node: Inventory) -> Snapshot {
    let (census, others, queue) = shared.read(|state| {
        let others = state.members().filter(|member| !member.left && Some(&member.info.peer_id) != asking).count();
        (census(state.members(), asking), others, state.counts())
    });
    let census: BTreeMap<String, u32> = census;
    let members = u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
    Snapshot { census, members, queue, node, facts: shared.facts() }
}

/// Answers a node of wire v1, which knows roles by name and packages only.
pub(super) async fn advise_legacy(shared: &Shared, node_id: &str) {
    let advice = advise_about(shared, None, Inventory::default());
    let Some(first) = advice.ranking.into_iter().next() else { return };
    let roles = shared.definitions(|definitions| definitions.roles());
    let Some(role) = roles.get(&first.role) else { return };
    let advice = v1::Advice {
        role: first.role,
        // v1 nodes are Debian and Ubuntu machines.
        packages: role.packages_on("debian").to_vec(),
        config: role.config.clone(),
        reason: first.reason,
    };
    if let Err(error) = shared.discovery.legacy_advice(node_id, advice).await {
        tracing::debug!(%error, "advice for a v1 node was not sent");
    }
}
