//! Drones of the Python build swarm, which the hive takes in: what they say of themselves, and the desk at which they are served.
//!
//! ```text
//!   GET work ──► Desk::work ──► its oldest live attempt; handed out now? ──► Report(Building)
//!   POST complete ──► judge ──► the attempt that it was handed ──► Report(Ended)
//!                          └──► none: stale, stop_work
//! ```
//!
//! Such a drone knows package names and nothing else: no token, no lease, no attempt. So the hive keeps these for it. It asks now
//! and then, which renews its leases; it is handed one package at a time, and what it says of a package counts for the attempt
//! that it was handed and for no other. The desk lives in the coordinator's memory: a new one knows from the state what began, and
//! hands out the rest anew. Never done here: HTTP, looking for uploaded files, changing the state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::grammar;
use super::id::{JobId, PeerId, Token, UnixMillis};
use super::job::{Attempt, AttemptState, FailureClass, Job, JobState, Outcome};
use super::member::Inventory;
use super::state::State;

/// A drone that was silent for so long gets nothing new, milliseconds. They ask every 15 to 30 s.
pub const OFFLINE_AFTER_MS: u64 = 60_000;
/// What a drone has, when it was silent for so long, goes to another one. Shorter times took work away from drones that were merely
/// busy linking.
pub const LEGACY_LEASE_MS: u64 = 900_000;
/// Attempts that such a drone has beyond the one it works on, so that its next question is answered without a commit.
pub const AHEAD: u32 = 2;
/// Most of them, for a drone whose packages end at once.
pub const AHEAD_MAX: u32 = 24;
/// A plan is made and committed in so long, milliseconds: a drone needs as many attempts ahead as it ends meanwhile.
const PLAN_MS: u64 = 40;
/// The pace of a drone is that of its last so many results.
const PACE_OF: usize = 16;
/// Longest text of an inventory that is taken from such a drone, bytes.
const TEXT_MAX: usize = 128;
/// Longest reason of a failure that is taken, characters.
const DETAIL_MAX: usize = 400;
/// Packages that a drone is told to drop in one answer.
const REVOKED_MAX: usize = 64;

/// What such a drone says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegacyInfo {
    /// Its name, unique: two drones of one name are one.
    pub name: String,
    /// The id that it uses for itself; its name when it has none.
    pub id: String,
    /// IP address, as it says or as it was seen; may be empty.
    pub address: String,
    /// It only tries again what others could not build.
    pub sweeper: bool,
    /// What it says of its version.
    pub version: String,
    /// What it has.
    pub inventory: Inventory,
}

/// Such a drone as the replicated state holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegacyDrone {
    /// What it last said.
    pub info: LegacyInfo,
    /// Under which attempts name it, see [`peer_id`].
    pub peer_id: PeerId,
    /// When it was first heard of.
    pub registered_at: UnixMillis,
}

/// The id under which a drone of this name has attempts. No node has such a one, as those are base58.
pub fn peer_id(name: &str) -> PeerId {
    PeerId::new(format!("legacy:{name}"))
}

impl LegacyInfo {
    /// What is wrong with it, in one sentence.
    pub fn check(&self) -> Result<(), String> {
        grammar::node_name(&self.name).map_err(|error| error.to_string())?;
        let plain = |text: &str| text.is_empty() || grammar::is_plain_text(text, TEXT_MAX);
        if self.id.is_empty() || ![&self.id, &self.address, &self.version].into_iter().all(|text| plain(text)) {
            return Err("id, address and version are at most 128 bytes without control characters".to_owned());
        }
        Ok(())
    }
}

/// Whether two ways to write a package mean the same: with and without the operator in front.
pub fn same_package(left: &str, right: &str) -> bool {
    left.trim_start_matches('=') == right.trim_start_matches('=')
}

/// Packages that leave no binary package, or one whose name cannot be told: a success of these is believed.
pub fn is_exempt(package: &str) -> bool {
    let package = package.trim_start_matches(['=', '~', '>', '<']);
    let name = package.split_once('/').map_or(package, |(_, name)| name);
    package.starts_with("virtual/")
        || package.starts_with("app-test/dummy-")
        || name.contains("-meta-")
        || name.ends_with("-meta")
        || ["openpgp-keys", "eselect-ruby", "clang-rtlib-config"].iter().any(|part| name.contains(part))
}

/// What a drone says about the end of a package, but for a success, which has to be looked at first.
pub fn failure(status: &str, detail: &str) -> Outcome {
    let detail: String = detail.chars().take(DETAIL_MAX).collect();
    let said = |otherwise: &str| if detail.trim().is_empty() { otherwise.to_owned() } else { detail.clone() };
    match status {
        "returned" => Outcome::Returned { reason: said("returned by its drone") },
        "upload_failed" => Outcome::NotUploaded { reason: said("its drone could not upload it") },
        "masked" => Outcome::Failed {
            class: FailureClass::Policy,
            reason: format!("masked upstream: {}", said("its drone may not build it")),
            exit_code: None,
        },
        other => {
            let word: String = other.chars().filter(|c| !c.is_control()).take(40).collect();
            let reason = if word == "failed" { said("failed") } else { format!("{word}: {}", said("no details")) };
            Outcome::Failed { class: FailureClass::Build, reason, exit_code: None }
        }
    }
}

/// What a drone said when it was heard last, beside what is committed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Vitals {
    /// What it compiles, which may be something that its package needs.
    pub current_task: Option<String>,
    /// Processor use in percent.
    pub cpu_percent: Option<u32>,
    /// Memory use in percent.
    pub ram_percent: Option<u32>,
    /// Load average over one minute, in hundredths.
    pub load_centi: Option<u32>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    heard_ms: u64,
    vitals: Vitals,
    /// Attempts whose package it was told in this term.
    handed: BTreeMap<Token, JobId>,
    /// When its last results came, oldest first.
    ended_ms: VecDeque<u64>,
}

/// What a drone is told when it asks for work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Build this.
    Package {
        /// The job.
        job: JobId,
        /// Its attempt.
        token: Token,
        /// What to build, as it was queued.
        package: String,
        /// It was not told before, as far as is known: the hive has to hear that it began.
        begins: bool,
    },
    /// There is nothing for it right now.
    Nothing,
}

/// What a drone's word about the end of a package counts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// This attempt, which is live, or was given up while nobody else got the job.
    Counts {
        /// The job.
        job: JobId,
        /// The attempt.
        token: Token,
    },
    /// Its success was accepted before; it did not hear the answer.
    Known {
        /// The job.
        job: JobId,
    },
    /// Nothing: the package is somebody else's, or nobody's, by now.
    Stale {
        /// One sentence.
        reason: String,
        /// Who has it now.
        reassigned_to: Option<String>,
    },
}

/// A drone is to stop what it says it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopWork {
    /// Of this package.
    pub package: String,
    /// Why.
    pub reason: String,
    /// Who has it now.
    pub reassigned_to: Option<String>,
}

/// Whom the coordinator has heard of, and what it told them.
#[derive(Clone, Debug, Default)]
pub struct Desk {
    drones: BTreeMap<PeerId, Seen>,
}

impl Desk {
    /// A drone was heard, whatever it wanted.
    pub fn hear(&mut self, drone: &PeerId, now_ms: u64) {
        self.drones.entry(drone.clone()).or_default().heard_ms = now_ms;
    }

    /// It said how it is.
    pub fn note(&mut self, drone: &PeerId, vitals: Vitals) {
        self.drones.entry(drone.clone()).or_default().vitals = vitals;
    }

    /// It was taken off the list.
    pub fn forget(&mut self, drone: &PeerId) {
        self.drones.remove(drone);
    }

    /// Milliseconds since it was heard; none: not in this term.
    pub fn silent_ms(&self, drone: &PeerId, now_ms: u64) -> Option<u64> {
        self.drones.get(drone).map(|seen| now_ms.saturating_sub(seen.heard_ms))
    }

    /// Whether it gets work.
    pub fn is_alive(&self, drone: &PeerId, now_ms: u64) -> bool {
        self.silent_ms(drone, now_ms).is_some_and(|silent_ms| silent_ms < OFFLINE_AFTER_MS)
    }

    /// What it said last.
    pub fn vitals(&self, drone: &PeerId) -> Vitals {
        self.drones.get(drone).map(|seen| seen.vitals.clone()).unwrap_or_default()
    }

    /// Its attempts: those that it was handed, and those that it does not know of.
    pub fn attempts(&self, state: &State, drone: &PeerId) -> (Vec<Token>, Vec<Token>) {
        let handed = |attempt: &Attempt| self.was_handed(drone, attempt);
        let (handed, waiting): (Vec<_>, Vec<_>) =
            state.live_attempts(drone).map(|(_, attempt)| attempt).partition(|attempt| handed(attempt));
        let tokens = |attempts: Vec<&Attempt>| attempts.into_iter().map(|attempt| attempt.token).collect();
        (tokens(handed), tokens(waiting))
    }

    /// What began is known from the state, what was told just now from here.
    fn was_handed(&self, drone: &PeerId, attempt: &Attempt) -> bool {
        let told = || self.drones.get(drone).is_some_and(|seen| seen.handed.contains_key(&attempt.token));
        attempt.state != AttemptState::Assigned || told()
    }

    /// Answers the question for work: always its oldest attempt, so that a drone that forgot what it does is told again.
    /// `revoking`: an attempt is being taken back and must not begin.
    pub fn work(&mut self, state: &State, drone: &PeerId, revoking: impl Fn(&Token) -> bool) -> Work {
        let usable = state
            .live_attempts(drone)
            .filter(|(_, attempt)| self.was_handed(drone, attempt) || !revoking(&attempt.token));
        let Some((job, attempt)) = usable.min_by_key(|(_, attempt)| attempt.token.counter) else {
            return Work::Nothing;
        };
        let (id, token) = (job.spec.id, attempt.token);
        let begins = !self.was_handed(drone, attempt);
        self.drones.entry(drone.clone()).or_default().handed.insert(token, id);
        Work::Package { job: id, token, package: job.spec.target.clone(), begins }
    }

    /// What its word about the end of a package counts for.
    pub fn judge(&self, state: &State, drone: &PeerId, package: &str) -> Judgement {
        let named = |job: &&Job| same_package(&job.spec.target, package);
        let mut stale = None;
        for job in state.jobs_of_legacy(drone).filter(named) {
            let Some(last) = job.attempts.last() else { continue };
            let (id, token) = (job.spec.id, last.token);
            if last.node != *drone {
                stale.get_or_insert_with(|| superseded(state, job));
                continue;
            }
            match last.state {
                AttemptState::Assigned | AttemptState::Building | AttemptState::Uploading
                    if self.was_handed(drone, last) =>
                {
                    return Judgement::Counts { job: id, token };
                }
                // Given to it and never told.
                AttemptState::Assigned | AttemptState::Building | AttemptState::Uploading => {}
                AttemptState::Lost if job.state == JobState::Needed => return Judgement::Counts { job: id, token },
                AttemptState::Accepted => return Judgement::Known { job: id },
                AttemptState::Lost | AttemptState::Failed | AttemptState::Stale | AttemptState::Cancelled => {
                    stale.get_or_insert_with(|| superseded(state, job));
                }
            }
        }
        stale.unwrap_or_else(|| not_its_own(state, package))
    }

    /// The end of an attempt was committed.
    pub fn completed(&mut self, drone: &PeerId, token: &Token, now_ms: u64) {
        if let Some(seen) = self.drones.get_mut(drone) {
            seen.handed.remove(token);
            if seen.ended_ms.len() >= PACE_OF {
                seen.ended_ms.pop_front();
            }
            seen.ended_ms.push_back(now_ms);
        }
    }

    /// Attempts that it is to have beyond the one that it works on: few, since a build takes minutes and what waits with one drone
    /// another one cannot take; more for one that is done with each at once, or it would wait for plans.
    pub fn ahead(&self, drone: &PeerId, now_ms: u64) -> u32 {
        let ended = self.drones.get(drone).map(|seen| &seen.ended_ms);
        let Some(first) = ended.filter(|ended| ended.len() >= PACE_OF).and_then(|ended| ended.front()) else {
            return AHEAD;
        };
        let took_ms = now_ms.saturating_sub(*first).max(1);
        u32::try_from(PACE_OF as u64 * PLAN_MS / took_ms).unwrap_or(AHEAD_MAX).clamp(AHEAD, AHEAD_MAX)
    }

    /// Packages that it was handed and that are no longer its own, each told once.
    pub fn revoked(&mut self, state: &State, drone: &PeerId) -> Vec<String> {
        let Some(seen) = self.drones.get_mut(drone) else { return Vec::new() };
        let live: BTreeSet<Token> = state.live_attempts(drone).map(|(_, attempt)| attempt.token).collect();
        let over: Vec<(Token, JobId)> =
            seen.handed.iter().filter(|(token, _)| !live.contains(token)).map(|(token, job)| (*token, *job)).collect();
        let mut revoked = Vec::new();
        for (token, id) in over.into_iter().take(REVOKED_MAX) {
            seen.handed.remove(&token);
            let Some(job) = state.job(&id) else { continue };
            let welcome = job.state == JobState::Needed && job.attempts.last().is_some_and(|last| last.token == token);
            // Given up while nobody else has it: its result would still count.
            if !welcome && job.state != JobState::Received {
                revoked.push(job.spec.target.clone());
            }
        }
        revoked
    }

    /// Whether it says to work on something that it was given once and that is not its own any more. What it compiles because its
    /// package needs it was never given to it and is none of the hive's business.
    pub fn stop_work(&self, state: &State, drone: &PeerId, current_task: &str) -> Option<StopWork> {
        let own = |(job, _): (&Job, &Attempt)| same_package(&job.spec.target, current_task);
        if current_task.is_empty() || state.live_attempts(drone).any(own) {
            return None;
        }
        let job = state.jobs_of_legacy(drone).find(|job| same_package(&job.spec.target, current_task))?;
        let elsewhere = job.live_attempt().is_some_and(|attempt| attempt.node != *drone);
        if !elsewhere && !job.state.is_terminal() {
            return None;
        }
        let Judgement::Stale { reason, reassigned_to } = superseded(state, job) else { return None };
        Some(StopWork { package: job.spec.target.clone(), reason, reassigned_to })
    }
}

fn not_its_own(state: &State, package: &str) -> Judgement {
    let others = state.busy_nodes().flat_map(|peer| state.live_attempts(peer).map(move |(job, _)| (peer, job)));
    let mut builds = others.filter(|(_, job)| same_package(&job.spec.target, package));
    Judgement::Stale {
        reason: "this package was not handed to this drone".to_owned(),
        reassigned_to: builds.next().map(|(peer, _)| state.name_of(peer).to_owned()),
    }
}

fn superseded(state: &State, job: &Job) -> Judgement {
    let reassigned_to = job.live_attempt().map(|attempt| state.name_of(&attempt.node).to_owned());
    let reason = match (&reassigned_to, job.state) {
        (Some(name), _) => format!("given to {name}"),
        (None, JobState::Received) => "built already".to_owned(),
        (None, JobState::Cancelled) => "cancelled".to_owned(),
        (None, _) => "no longer this drone's".to_owned(),
    };
    Judgement::Stale { reason, reassigned_to }
}
