//! The package tree of this node: synced when work waits for another one, and told of.
//!
//! That work waits is in the replicated state, which every node has, so nobody has to be sent a message; when a sync is worth while
//! is decided by [`trees`](crate::engine::trees). Its output goes to the log, its end to whoever asks why a job waits. Never done
//! here: syncing (that is root's), and syncing while an attempt is here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Event;
use super::shared::Shared;
use super::startup::inventory_options;
use super::views::{own_slots, role_of};
use crate::clock::now_ms;
use crate::engine::harmless;
use crate::engine::member::Inventory;
use crate::engine::scheduler::wanted_trees;
use crate::engine::trees::Syncer;
use crate::exec::{ExecError, inventory};

/// The state is looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Most lines of one sync that the log gets.
const LINES_MAX: usize = 300;
/// Longest of them, characters.
const LINE_CHARS_MAX: usize = 300;
/// Longest reason of a failure, characters.
const REASON_CHARS_MAX: usize = 400;
/// The operator is told of a failed sync under this name.
const NOTICE: &str = "tree-sync";

/// Syncs when it is due, until the agent ends.
pub(super) async fn keep(shared: Arc<Shared>) {
    let settings = &shared.config.build;
    let syncer = if !settings.portage_sync {
        Syncer::off("build.portage_sync is off")
    } else if !shared.executor.acts_as_root() {
        Syncer::off("that takes root: start hive-helper on it")
    } else {
        Syncer::new(settings.portage_sync_interval_ms)
    };
    shared.update(|soft| soft.tree_sync = Some(syncer));
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(wanted) = due(&shared) else { continue };
        // The machine is looked at hourly: somebody may have synced it meanwhile, or its tree is not known yet.
        let own = inventory::package_tree(&inventory_options(&shared.config)).await;
        if own == shared.inventory().tree {
            sync(&shared, wanted).await;
        } else {
            tell(&shared, own).await;
        }
    }
}

/// The tree for which this node is to sync now.
fn due(shared: &Shared) -> Option<String> {
    let me = &shared.me.peer_id;
    if own_slots(shared) == 0 || !takes_builds(shared) {
        return None;
    }
    let (wanted, busy) = shared.read(|state| (wanted_trees(state, me), state.live_attempts_len(me) > 0));
    let own = shared.inventory().tree;
    shared.soft(|soft| soft.tree_sync.as_ref()?.due(now_ms(), &wanted, own.as_deref(), busy))
}

fn takes_builds(shared: &Shared) -> bool {
    let role = shared.read(|state| state.member(&shared.me.peer_id).and_then(role_of));
    let roles = shared.definitions(|definitions| definitions.roles());
    role.and_then(|role| roles.get(&role).map(|role| role.takes_builds)).unwrap_or(true)
}

async fn sync(shared: &Arc<Shared>, wanted: String) {
    tracing::info!(wanted, own = shared.inventory().tree, "work waits for another package tree: emerge --sync");
    let change = |change: &dyn Fn(&mut Syncer)| shared.update(|soft| soft.tree_sync.as_mut().map(change));
    change(&|syncer| syncer.begin(now_ms(), wanted.clone()));
    let (sender, output) = mpsc::channel(16);
    let (result, ()) = tokio::join!(shared.executor.sync_trees(sender), log(output));
    let result = match result {
        Ok(()) => Ok(inventory::package_tree(&inventory_options(&shared.config)).await),
        Err(ExecError::Busy) => {
            tracing::debug!("something was given to this node meanwhile; the sync comes later");
            change(&|syncer| syncer.forget());
            return;
        }
        Err(error) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            Err(harmless::line(&format!("{error}{source}"), REASON_CHARS_MAX))
        }
    };
    match &result {
        Ok(tree) => {
            tracing::info!(wanted, tree, "the package tree was synced");
            tell(shared, tree.clone()).await;
            shared.notice(NOTICE, None);
        }
        Err(why) => {
            tracing::warn!(wanted, why, "the package tree could not be synced");
            let text = format!(
                "Its package tree could not be synced, and work waits for another one: {why}. Mend it, or run here: emerge --sync"
            );
            shared.notice(NOTICE, Some(text));
        }
    }
    change(&|syncer| syncer.end(now_ms(), result.clone()));
}

/// Tells the hive which tree is there; the rest as it is known now.
async fn tell(shared: &Shared, tree: Option<String>) {
    let found = Inventory { tree, ..shared.inventory() };
    // The loop has ended only when the agent does.
    let _ = shared.events.send(Event::Inventory(Box::new(found))).await;
}

/// What the sync prints, line by line, so far as anybody would read it.
async fn log(mut output: mpsc::Receiver<Bytes>) {
    let mut waiting = Vec::new();
    let mut lines = 0usize;
    let mut say = |line: &[u8]| {
        let text = harmless::line(&String::from_utf8_lossy(line), LINE_CHARS_MAX);
        if lines < LINES_MAX && !text.trim().is_empty() {
            tracing::info!("emerge --sync: {text}");
        }
        lines += 1;
    };
    while let Some(chunk) = output.recv().await {
        for &byte in &chunk {
            if byte == b'\n' || waiting.len() > 4 * LINE_CHARS_MAX {
                say(&std::mem::take(&mut waiting));
            }
            if byte != b'\n' {
                waiting.push(byte);
            }
        }
    }
    say(&waiting);
    if lines > LINES_MAX {
        tracing::info!(lines, "emerge --sync: the rest of its output is left out");
    }
}
