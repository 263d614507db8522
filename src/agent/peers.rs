//! Everyone else: who is alive, where they are, what they publish, and the connections to them.
//!
//! Never done here: deciding who is a member (the log says it) or who votes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::shared::{Liveness, Shared, StatusReport};
use super::views;
use crate::api::MemberState;
use crate::discovery::MemberContact;
use crate::engine::id::PeerId;
use crate::engine::member::MemberInfo;
use crate::transport::{decode, encode};

/// Interval of publishing this node's status, milliseconds.
const PUBLISH_MS: u64 = 5_000;
/// Interval of looking after connections, milliseconds.
const CONNECT_MS: u64 = 1_000;
/// Interval of writing `peers.json` when something in it changed, milliseconds.
const FILE_MS: u64 = 1_000;
/// How long it is said that another machine uses this node's key after that was last seen, milliseconds. A member that is seldom
/// heard is heard four times in it.
const CLONE_SHOWN_MS: u64 = 120_000;
/// Connections that a node keeps by dialing. Beyond so many members gossip and the log reach everybody over neighbours.
const DIALED_MAX: usize = 64;

/// Timers and last values.
#[derive(Default)]
pub(super) struct Peers {
    published_ms: u64,
    connected_ms: u64,
    written_ms: u64,
    file: Option<String>,
    contacts: Vec<MemberContact>,
}

impl Peers {
    /// Does what is due.
    pub(super) async fn tick(&mut self, shared: &Arc<Shared>, now_ms: u64) -> anyhow::Result<()> {
        if now_ms.saturating_sub(self.connected_ms) >= CONNECT_MS {
            self.connected_ms = now_ms;
            self.keep_contacts(shared).await;
            self.keep_heard(shared, now_ms);
            forget_clone(shared, now_ms);
        }
        if now_ms.saturating_sub(self.published_ms) >= PUBLISH_MS && shared.is_member() {
            self.published_ms = now_ms;
            publish(shared).await;
        }
        if now_ms.saturating_sub(self.written_ms) >= FILE_MS && shared.hive().is_some() {
            self.written_ms = now_ms;
            self.write_file(shared)?;
        }
        Ok(())
    }

    /// Tells liveness who the members are, and connects to those that are not.
    async fn keep_contacts(&mut self, shared: &Arc<Shared>) {
        let members: Vec<MemberInfo> = shared
            .read(|state| state.members().filter(|member| !member.left).map(|member| member.info.clone()).collect());
        let contact = |info: &MemberInfo| MemberContact {
            peer: info.peer_id.clone(),
            addresses: info.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
            incarnation: info.incarnation,
        };
        let contacts: Vec<MemberContact> = members.iter().map(contact).collect();
        if contacts != self.contacts {
            shared.discovery.set_members(contacts.clone());
            shared.mesh.set_members(&contacts.iter().map(|contact| contact.peer.clone()).collect()).await;
            for contact in &contacts {
                shared.mesh.set_minimum_incarnation(&contact.peer, contact.incarnation);
            }
            self.contacts.clone_from(&contacts);
        }
        let connected: BTreeSet<PeerId> = shared.mesh.peers().await.into_iter().map(|view| view.peer).collect();
        let room = DIALED_MAX.saturating_sub(connected.len());
        let missing = contacts.into_iter().filter(|contact| contact.peer != shared.me.peer_id);
        for contact in missing.filter(|contact| !connected.contains(&contact.peer)).take(room) {
            shared.mesh.add_addresses(&contact.peer, contact.addresses).await;
            shared.mesh.dial(&contact.peer).await;
        }
    }

    fn keep_heard(&self, shared: &Shared, now_ms: u64) {
        let snapshot = shared.discovery.snapshot();
        shared.update(|soft| {
            for (peer, ago_ms) in &snapshot.last_heard_ms {
                let at_ms = now_ms.saturating_sub(*ago_ms);
                let known = soft.heard_ms.entry(peer.clone()).or_insert(at_ms);
                *known = (*known).max(at_ms);
            }
        });
    }

    fn write_file(&mut self, shared: &Shared) -> anyhow::Result<()> {
        let peers = views::peers(shared);
        let text = serde_json::to_string(&peers)?;
        if self.file.as_ref() != Some(&text) && shared.written("peers file", shared.files.write_peers(&peers)) {
            self.file = Some(text);
        }
        Ok(())
    }
}

/// The copy of this machine has a key of its own by now, or is gone.
fn forget_clone(shared: &Shared, now_ms: u64) {
    if is_clone_gone(shared.soft(|soft| soft.cloned_ms), now_ms) {
        shared.update(|soft| soft.cloned_ms = 0);
        shared.notice("clone", None);
    }
}

/// It was seen (0: never), and not for a while.
fn is_clone_gone(cloned_ms: u64, now_ms: u64) -> bool {
    cloned_ms != 0 && now_ms.saturating_sub(cloned_ms) >= CLONE_SHOWN_MS
}

async fn publish(shared: &Arc<Shared>) {
    let report = views::own_report(shared);
    match encode(&report) {
        Ok(bytes) => {
            if let Err(error) = shared.mesh.publish_status(bytes).await {
                tracing::debug!(%error, "status not published");
            }
        }
        Err(error) => tracing::error!(%error, "status cannot be encoded"),
    }
}

/// A member published its status.
pub(super) fn on_status(shared: &Shared, from: &PeerId, bytes: &[u8], now_ms: u64) {
    // Whoever knows the secret may publish under any number of names; what is kept here is kept of members.
    if !shared.read(|state| state.member(from).is_some_and(|member| !member.left)) {
        return;
    }
    match decode::<StatusReport>(bytes) {
        Ok(report) => shared.update(|soft| {
            soft.reports.insert(from.clone(), StatusReport { received_ms: now_ms, ..report });
            soft.heard_ms.insert(from.clone(), now_ms);
        }),
        Err(error) => tracing::debug!(%from, %error, "a status that is not understood"),
    }
}

/// SWIM's verdict about a member.
pub(super) fn on_liveness(shared: &Arc<Shared>, peer: &PeerId, state: MemberState, now_ms: u64) {
    let before = shared.update(|soft| {
        let since_ms = match soft.liveness.get(peer) {
            Some(known) if known.state == state => known.since_ms,
            // Suspicion is a question, not a change: the answer keeps the time since which the member was alive.
            Some(known) if known.state != MemberState::Down && state != MemberState::Down => known.since_ms,
            Some(_) | None => now_ms,
        };
        soft.liveness.insert(peer.clone(), Liveness { state, since_ms })
    });
    if before.is_none_or(|before| before.state != state) && *peer != shared.me.peer_id {
        tracing::info!(member = %shared.name_of(peer), ?state, "liveness");
    }
}

/// Addresses at which hive was met before: where to look after a restart.
pub(super) fn cached(shared: &Shared) -> Vec<SocketAddr> {
    let from_state: Vec<String> = shared.read(|state| {
        let present = state.members().filter(|member| !member.left && member.info.peer_id != shared.me.peer_id);
        present.flat_map(|member| member.info.addresses.clone()).collect()
    });
    let from_file = shared.files.read_peers().into_iter().flat_map(|file| file.peers);
    let from_file = from_file.filter_map(|peer| Some(SocketAddr::new(peer.ip.parse().ok()?, peer.port)));
    let mut addresses: Vec<SocketAddr> =
        from_state.iter().filter_map(|address| address.parse().ok()).chain(from_file).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_key_is_told_until_the_copy_was_not_seen_for_a_while() {
        assert!(!is_clone_gone(0, 10 * CLONE_SHOWN_MS), "there never was one");
        assert!(!is_clone_gone(5_000, 4_999 + CLONE_SHOWN_MS));
        assert!(is_clone_gone(5_000, 5_000 + CLONE_SHOWN_MS));
    }
}
