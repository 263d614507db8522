//! What there is once per hive: its name, epoch, feature level, hive time, counters, and the chain of changes.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::jobs::QueueCounts;
use super::rows::RowKey;
use super::{Change, Context, Executed, State, reject};
use crate::engine::command::{RejectCode, Reply};
use crate::engine::id::{Epoch, HiveId, Token};
use crate::engine::member::MemberInfo;

/// One row: all of it changes with nearly every batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meta {
    pub(super) hive_id: Option<HiveId>,
    pub(super) epoch: Option<Epoch>,
    pub(super) feature_level: u32,
    pub(super) hive_time_ms: u64,
    /// Counter of the last token issued.
    pub(super) last_token: u64,
    /// Of the last job submitted, of the last that ended, and so on: each counts from 1.
    pub(super) last_job: u64,
    pub(super) last_finish: u64,
    pub(super) last_join: u64,
    pub(super) last_binding: u64,
    pub(super) last_use: u64,
    pub(super) last_session: u64,
    /// An operator lets nothing new begin.
    pub(super) paused: Option<super::drones::Decision>,
    /// Jobs that are no longer in memory, by how they ended.
    pub(super) retired: QueueCounts,
}

/// Last index applied, and the hash over all changes up to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chain {
    pub(super) index: u64,
    #[serde(with = "serde_bytes")]
    pub(super) hash: [u8; 32],
}

impl Chain {
    /// Hashes the changes with their lengths, so that no two lists of changes give the same bytes.
    pub(super) fn seal(&mut self, index: u64, changes: &[Change]) {
        let mut hash = Sha256::new();
        hash.update(self.hash);
        hash.update(index.to_be_bytes());
        let mut part = |bytes: &[u8]| {
            hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(bytes);
        };
        for change in changes {
            part(&[change.row.table]);
            part(&change.row.key);
            match &change.value {
                Some(value) => part(value),
                // No value is empty: the shortest CBOR item has one byte.
                None => part(&[]),
            }
        }
        self.hash = hash.finalize().into();
        self.index = index;
    }
}

impl State {
    pub(super) fn found(&mut self, context: Context, hive_id: HiveId, epoch: Epoch, founder: MemberInfo) -> Executed {
        if let Some(known) = self.meta.hive_id {
            return reject(RejectCode::Conflict, format!("hive {known} is founded already"));
        }
        if epoch.counter == 0 {
            return reject(RejectCode::Invalid, "the first epoch has number 1");
        }
        if founder.feature_level == 0 {
            return reject(RejectCode::Invalid, "the lowest feature level is 1");
        }
        let peer_id = founder.peer_id.clone();
        self.admit(context, founder)?;
        self.members.mark_founder(&peer_id);
        self.meta.hive_id = Some(hive_id);
        self.meta.epoch = Some(epoch);
        self.meta.feature_level = 1;
        Ok(Reply::Done)
    }

    pub(super) fn begin_epoch(&mut self, epoch: Epoch) -> Executed {
        if self.meta.epoch.is_some_and(|current| current == epoch) {
            return Ok(Reply::Done);
        }
        if self.meta.epoch.is_some_and(|current| epoch.counter <= current.counter) {
            return reject(RejectCode::Conflict, "the new epoch must have a higher number than the current one");
        }
        self.meta.epoch = Some(epoch);
        // Every Raft directory of the epoch before is set aside: nobody holds an id of it any more.
        self.unbind_all();
        Ok(Reply::Done)
    }

    /// Takes effect with the next entry: until then all replicas, also those that must halt, apply by the same rules.
    pub(super) fn raise_feature_level(&mut self, level: u32) -> Executed {
        if level <= self.meta.feature_level {
            return if level == self.meta.feature_level {
                Ok(Reply::Done)
            } else {
                reject(RejectCode::Conflict, "the feature level only rises")
            };
        }
        if let Some(member) = self.members.present().find(|member| member.info.feature_level < level) {
            let (name, known) = (&member.display_name, member.info.feature_level);
            return reject(RejectCode::Conflict, format!("{name} knows level {known} only: upgrade hive on it first"));
        }
        self.meta.feature_level = level;
        Ok(Reply::Done)
    }

    /// The next fencing token. None before there is an epoch.
    pub(super) fn issue_token(&mut self) -> Option<Token> {
        let epoch = self.meta.epoch?.id;
        self.meta.last_token += 1;
        self.dirty.insert(RowKey::Meta);
        Some(Token { epoch, counter: self.meta.last_token })
    }
}
