//! Finished packages in staging directories: of this node, and asked of the others.
//!
//! ```text
//!   find_staged ──► this node's own directory
//!              └──► every live node that says it has one ── FindStaged ──► its directory
//! ```
//!
//! A success that is told by a drone of the build swarm counts only when its upload is there and whole, wherever it went.
//! Never done here: reading packages (see [`exec::staging`](crate::exec::staging)), deciding what a missing one means.

mod keeper;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;

use super::control::{self, Request, Response};
use super::internal;
use super::shared::Shared;
use crate::api::{ApiError, ApiResult, ErrorCode, MemberState, StagedView};
use crate::engine::id::PeerId;
use crate::engine::staging::Wanted;
use crate::exec::staging::Staging;
use crate::transport;
use crate::web::node::StagedFile;

pub(super) use keeper::keep;

/// Longest time in which another node answers: it reads a package of some GiB to its end, and the disk may be slow.
const FIND_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes read at a time from a file that is served.
const SERVE_BYTES: usize = 64 << 10;
/// Packages read at once: each takes a processor.
static READING: Semaphore = Semaphore::const_new(2);

/// What the nodes with a staging directory say about a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Staged {
    /// It is there and whole.
    Found {
        /// The node that has it.
        node: PeerId,
        /// Below its staging directory.
        path: String,
        /// Its length.
        size_bytes: u64,
    },
    /// No node has it, or it is too small or damaged.
    Missing {
        /// Who was asked and has answered; all that have a staging directory.
        asked: Vec<PeerId>,
        /// One sentence for people, with what each said.
        why: String,
    },
    /// No node of the hive has a staging directory.
    NobodyHasStaging,
    /// A node that may have it did not answer, and none of the others has it: nothing is known.
    Unreachable {
        /// Who did not answer.
        silent: Vec<PeerId>,
        /// One sentence for people.
        why: String,
    },
}

/// Who has a staging directory, as far as this node knows.
#[derive(Debug, Default)]
struct Keepers {
    here: Option<Arc<Staging>>,
    alive: Vec<PeerId>,
    /// Each with why it cannot be asked.
    silent: Vec<(PeerId, &'static str)>,
}

fn keepers(shared: &Shared) -> Keepers {
    let members: Vec<PeerId> = shared.read(|state| {
        let present = state.members().filter(|member| !member.left);
        present.map(|member| member.info.peer_id.clone()).collect()
    });
    let mut keepers = Keepers { here: shared.staging.clone(), ..Keepers::default() };
    for peer in members.into_iter().filter(|peer| *peer != shared.me.peer_id) {
        let says = shared.soft(|soft| soft.reports.get(&peer).map(|report| report.staging.is_some()));
        match (shared.liveness(&peer), says) {
            (_, Some(false)) => {}
            (MemberState::Alive | MemberState::Suspect, Some(true)) => keepers.alive.push(peer),
            (MemberState::Alive | MemberState::Suspect, None) => {
                keepers.silent.push((peer, "has not said yet whether it has a staging directory"));
            }
            (MemberState::Down, Some(true)) => keepers.silent.push((peer, "has a staging directory and is down")),
            // Never heard since this agent started: whether it has one is not known, and need not matter.
            (MemberState::Down | MemberState::Left | MemberState::Legacy, _) => {}
        }
    }
    keepers
}

/// Asks every live node that has a staging directory for a whole package of `cpv_or_atom`.
pub(super) async fn find_staged(shared: &Arc<Shared>, cpv_or_atom: &str) -> Staged {
    let wanted = match Wanted::of(cpv_or_atom) {
        Ok(wanted) => wanted,
        Err(error) => return Staged::Missing { asked: Vec::new(), why: error.to_string() },
    };
    let keepers = keepers(shared);
    let mut asked = Asked::default();
    if let Some(staging) = &keepers.here {
        let me = shared.me.peer_id.clone();
        let answer = look(staging, wanted).await;
        if let Some(found) = asked.heard(shared, me, answer) {
            return found;
        }
    }
    let request = Request::FindStaged { atom: cpv_or_atom.to_owned() };
    let ask = async |peer: PeerId| {
        let answer = transport::call(&shared.mesh, &peer, control::PROTOCOL, &request, FIND_TIMEOUT).await;
        (peer, answer.unwrap_or_else(|error| Response::Refused { why: format!("does not answer: {error}") }))
    };
    let mut answers: FuturesUnordered<_> = keepers.alive.into_iter().map(ask).collect();
    while let Some((peer, answer)) = answers.next().await {
        if let Some(found) = asked.heard(shared, peer, answer) {
            return found;
        }
    }
    for (peer, why) in keepers.silent {
        asked.silent_because(shared, peer, why);
    }
    asked.verdict()
}

/// What was answered so far.
#[derive(Default)]
struct Asked {
    missing: Vec<PeerId>,
    missing_why: Vec<String>,
    silent: Vec<PeerId>,
    silent_why: Vec<String>,
}

impl Asked {
    fn heard(&mut self, shared: &Shared, peer: PeerId, answer: Response) -> Option<Staged> {
        match answer {
            Response::Staged { path, size_bytes } => return Some(Staged::Found { node: peer, path, size_bytes }),
            Response::NotStaged { why } => {
                self.missing_why.push(format!("{}: {why}", shared.name_of(&peer)));
                self.missing.push(peer);
            }
            Response::Refused { why } => self.silent_because(shared, peer, &why),
            Response::Ok
            | Response::Advice(_)
            | Response::Leases { .. }
            | Response::Replica { .. }
            | Response::Legacy(_)
            | Response::Identity(_)
            | Response::Committed { .. }
            | Response::LogEnd { .. } => self.silent_because(shared, peer, "answered something else"),
        }
        None
    }

    fn silent_because(&mut self, shared: &Shared, peer: PeerId, why: &str) {
        self.silent_why.push(format!("{}: {why}", shared.name_of(&peer)));
        self.silent.push(peer);
    }

    fn verdict(self) -> Staged {
        if !self.silent.is_empty() {
            return Staged::Unreachable { silent: self.silent, why: self.silent_why.join("; ") };
        }
        if self.missing.is_empty() {
            return Staged::NobodyHasStaging;
        }
        Staged::Missing { asked: self.missing, why: self.missing_why.join("; ") }
    }
}

/// Everything up to this position in the order of ending is in every staging directory of the hive, as far as is known here.
pub(super) fn staged_to(shared: &Shared) -> Option<u64> {
    let members: Vec<PeerId> = shared.read(|state| {
        let present = state.members().filter(|member| !member.left);
        present.map(|member| member.info.peer_id.clone()).collect()
    });
    shared.soft(|soft| {
        let here = shared.staging.as_ref().map(|_| soft.staging.ordinal);
        let others = members.iter().filter_map(|peer| soft.reports.get(peer)?.staging);
        here.into_iter().chain(others).min()
    })
}

/// `GET /api/v2/staged`.
pub(super) async fn view(shared: &Arc<Shared>, atom: String) -> ApiResult<StagedView> {
    let none = StagedView { found: false, node: None, path: None, size_bytes: None, why: None, atom: atom.clone() };
    let missing = |why: String| StagedView { why: Some(why), ..none.clone() };
    match find_staged(shared, &atom).await {
        Staged::Found { node, path, size_bytes } => Ok(StagedView {
            found: true,
            node: Some(shared.name_of(&node)),
            path: Some(path),
            size_bytes: Some(size_bytes),
            ..none.clone()
        }),
        Staged::Missing { asked, why } if asked.is_empty() => {
            Err(ApiError::new(ErrorCode::Invalid, why, "for example atom=app-misc/hello-1.0"))
        }
        Staged::Missing { why, .. } => Ok(missing(why)),
        Staged::NobodyHasStaging => {
            Ok(missing("no node of the hive has a staging directory (staging_path)".to_owned()))
        }
        Staged::Unreachable { silent, why } => {
            let message = format!("{} node(s) that may have it cannot be asked: {why}", silent.len());
            Err(ApiError::new(ErrorCode::Unreachable, message, "see hive status, then ask again"))
        }
    }
}

/// A file for whoever installs from this node's staging directory.
pub(super) async fn file(shared: &Shared, path: String) -> ApiResult<StagedFile> {
    let hint = "hive status says which nodes have one; paths are /staging/BACKEND/ARCH/…";
    let Some(staging) = shared.staging.clone() else {
        return Err(ApiError::new(ErrorCode::NotFound, "this node has no staging directory", hint));
    };
    let opened = tokio::task::spawn_blocking(move || staging.serve(&path)).await.map_err(internal)?;
    let none = || ApiError::new(ErrorCode::NotFound, "there is no such file in staging", hint);
    let not_found = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let served = opened.map_err(|error| if not_found(&error) { none() } else { internal(error) })?;
    let bytes = ReaderStream::with_capacity(tokio::fs::File::from_std(served.file), SERVE_BYTES).boxed();
    Ok(StagedFile { size_bytes: served.size_bytes, changed_unix_s: served.changed_unix_s, bytes })
}

/// Answers another node.
pub(super) async fn answer(shared: &Shared, atom: &str) -> Response {
    let Some(staging) = &shared.staging else {
        return Response::Refused { why: "this node has no staging directory".to_owned() };
    };
    match Wanted::of(atom) {
        Ok(wanted) => look(staging, wanted).await,
        Err(error) => Response::NotStaged { why: error.to_string() },
    }
}

async fn look(staging: &Arc<Staging>, wanted: Wanted) -> Response {
    // Never closed.
    let Ok(_place) = READING.acquire().await else { return Response::Refused { why: "stopping".to_owned() } };
    let staging = Arc::clone(staging);
    match tokio::task::spawn_blocking(move || staging.find(&wanted)).await {
        Ok(Ok(located)) => Response::Staged { path: located.path, size_bytes: located.size_bytes },
        Ok(Err(why)) => Response::NotStaged { why },
        Err(error) => Response::Refused { why: error.to_string() },
    }
}
