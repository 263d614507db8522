//! What a resolution found: the packages that have to be built or installed, in an order in which that works, and who needs
//! whom.
//!
//! The artifact of a `resolve` job, `plan.json`, is this in JSON:
//!
//! ```json
//! {"version": 1, "tree": "Sat, 21 Nov 2026 00:45:01 +0000", "packages": [
//!   {"package": "dev-libs/libswarm", "revision": "1.0", "slot": "0", "repository": "tiny", "kind": "ebuild", "root": null,
//!    "uses": [], "needs": []},
//!   {"package": "app-misc/hello-swarm", "revision": "1.0", "slot": "0", "repository": "tiny", "kind": "ebuild", "root": null,
//!    "uses": ["shout"], "needs": [0]}]}
//! ```
//!
//! `needs` are positions in the list, always of earlier ones, so that a plan has no cycle by its form. It comes from a drone:
//! [`Plan::read`] is where it is believed or not, [`Plan::jobs`] what follows from it. Never done here: resolving.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::command::{Command, SUBMIT_JOBS_MAX};
use super::grammar::{self, GrammarError};
use super::id::{JobId, PeerId, SessionId};
use super::job::{Job, JobSpec, Work};
use super::session::{SessionAbout, SessionPhase};
use super::state::State;

/// Name of the artifact.
pub const PLAN_NAME: &str = "plan.json";
/// Largest plan, bytes.
pub const PLAN_MAX_BYTES: usize = 64 << 20;
/// Most packages of one plan.
pub const PACKAGES_MAX: usize = 100_000;
/// Most flags of one package.
const USES_MAX: usize = 4_096;

/// Most jobs that binary packages of one plan stand for, all of them together; a real plan of a thousand packages has a few thousand.
const STOOD_FOR_MAX: usize = 1_000_000;

/// A resolution's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// 1.
    pub version: u32,
    /// Identity of the package tree that it was made with. Empty: the tree has none.
    pub tree: String,
    /// In the order of installation.
    pub packages: Vec<Planned>,
}

/// One package of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// `category/name`.
    pub package: String,
    /// Its version with revision: `1.2-r1`.
    pub revision: String,
    /// Slot, with sub-slot where it has one of its own.
    pub slot: String,
    /// The repository that it comes from.
    pub repository: String,
    /// Where it is to come from.
    pub kind: PlannedKind,
    /// The directory that it is installed to, when that is not `/`.
    pub root: Option<String>,
    /// Flags as they were decided, `-` before those that are off.
    pub uses: Vec<String>,
    /// Positions of packages that have to be there before.
    pub needs: Vec<u32>,
}

/// Where a planned package comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlannedKind {
    /// It has to be built.
    Ebuild,
    /// A binary package that fits is there already.
    Binary,
}

/// Why a plan is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not JSON of this form.
    #[error("no plan: {0}")]
    Form(String),
    /// A name in it is outside its grammar.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// Well formed and yet impossible.
    #[error("package {position} of the plan {problem}")]
    Package {
        /// Which, from 0.
        position: usize,
        /// What is wrong.
        problem: &'static str,
    },
}

impl Planned {
    /// Package and version, for people.
    pub fn name(&self) -> String {
        format!("{}-{}", self.package, self.revision)
    }

    /// The atom of exactly this package.
    pub fn atom(&self) -> String {
        format!("={}-{}:{}::{}", self.package, self.revision, self.slot, self.repository)
    }
}

impl Plan {
    /// Reads what a drone wrote.
    pub fn read(json: &[u8]) -> Result<Self, PlanError> {
        if json.len() > PLAN_MAX_BYTES {
            return Err(PlanError::Form(format!("{} bytes; at most {PLAN_MAX_BYTES} are read", json.len())));
        }
        let plan: Self = serde_json::from_slice(json).map_err(|error| PlanError::Form(error.to_string()))?;
        plan.check()?;
        Ok(plan)
    }

    /// Everything that can be wrong without looking at the world.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.version != 1 {
            return Err(PlanError::Form(format!("version {} is not known here", self.version)));
        }
        if self.packages.len() > PACKAGES_MAX {
            return Err(PlanError::Form(format!("{} packages; at most {PACKAGES_MAX} are taken", self.packages.len())));
        }
        if !self.tree.is_empty() && !grammar::is_plain_text(&self.tree, 128) {
            return Err(PlanError::Form("the tree's identity is longer than 128 printable bytes".to_owned()));
        }
        for (position, planned) in self.packages.iter().enumerate() {
            let wrong = |problem| Err(PlanError::Package { position, problem });
            grammar::gentoo_atom(&planned.atom())?;
            if planned.needs.iter().any(|&need| usize::try_from(need).is_ok_and(|need| need >= position)) {
                return wrong("needs one that does not come before it");
            }
            let plain = |text: &String| grammar::is_plain_text(text, 255);
            if planned.uses.len() > USES_MAX || !planned.uses.iter().all(plain) || !planned.root.iter().all(plain) {
                return wrong("has flags or a root that are no plain text");
            }
        }
        Ok(())
    }

    /// The jobs that build what has to be built, each after what it needs. Ids follow from the session and the place in the plan.
    pub fn jobs(&self, session: SessionId, resolution: &JobSpec) -> Result<Vec<JobSpec>, PlanError> {
        // What stands for a package in `depends_on`: its own job, or those behind a binary package, which needs them, too.
        let mut stands_for: Vec<BTreeSet<JobId>> = Vec::with_capacity(self.packages.len());
        let mut stood_for = 0;
        let mut jobs = Vec::new();
        for (position, planned) in self.packages.iter().enumerate() {
            let needed = planned.needs.iter().filter_map(|need| stands_for.get(usize::try_from(*need).ok()?));
            let needed: BTreeSet<JobId> = needed.flatten().copied().collect();
            if planned.kind == PlannedKind::Binary {
                // Each has a set of its own, so a few bytes per package would become gigabytes.
                stood_for += needed.len();
                if stood_for > STOOD_FOR_MAX {
                    return Err(PlanError::Package { position, problem: "needs, with the others, too many jobs" });
                }
                stands_for.push(needed);
                continue;
            }
            if needed.len() > grammar::DEPENDENCIES_MAX {
                return Err(PlanError::Package { position, problem: "waits for more jobs than one job may" });
            }
            let id = job_id(session, position);
            let tree = Some(self.tree.clone()).filter(|tree| !tree.is_empty());
            let spec = JobSpec {
                priority: resolution.priority,
                depends_on: needed,
                pure: true,
                ..JobSpec::new(id, planned.name(), Work::Portage { atom: planned.atom(), tree })
            };
            grammar::job(&spec)?;
            jobs.push(spec);
            stands_for.push(BTreeSet::from([id]));
        }
        Ok(jobs)
    }
}

/// Drafts whose resolution is over, however it ended.
pub fn resolved(state: &State) -> Vec<(SessionId, Job)> {
    let drafts = state.sessions().filter(|(_, session)| session.phase == SessionPhase::Draft);
    let over = drafts.filter_map(|(id, _)| {
        let resolution = state.session_jobs(id).find(|job| matches!(job.spec.work, Work::Resolve { .. }))?;
        resolution.state.is_terminal().then(|| (*id, resolution.clone()))
    });
    over.collect()
}

/// What hands the jobs of a plan in, and what makes them visible once all of that is committed.
pub fn hand_in(
    session: SessionId,
    about: &SessionAbout,
    drafted_by: &PeerId,
    jobs: &[JobSpec],
) -> (Vec<Command>, Command) {
    let submit = |jobs: &[JobSpec]| Command::Submit {
        session,
        about: about.clone(),
        draft: Some(drafted_by.clone()),
        jobs: jobs.to_vec(),
    };
    // The resolution is one of the session's jobs.
    let open = Command::OpenSession { session, jobs: jobs.len() as u64 + 1 };
    (jobs.chunks(SUBMIT_JOBS_MAX).map(submit).collect(), open)
}

/// The id of a package's job: the same whoever makes it.
fn job_id(session: SessionId, position: usize) -> JobId {
    let mut hash = Sha256::new();
    hash.update(session.0.as_bytes());
    hash.update(u64::try_from(position).unwrap_or(u64::MAX).to_be_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    JobId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(package: &str, needs: &[u32]) -> Planned {
        Planned {
            package: package.to_owned(),
            revision: "1.0-r1".to_owned(),
            slot: "2/3".to_owned(),
            repository: "tiny".to_owned(),
            kind: PlannedKind::Ebuild,
            root: None,
            uses: vec!["shout".to_owned(), "-quiet".to_owned()],
            needs: needs.to_vec(),
        }
    }

    fn plan(packages: Vec<Planned>) -> Plan {
        Plan { version: 1, tree: "x".to_owned(), packages }
    }

    #[test]
    fn a_plan_comes_back_as_it_was_written() {
        let plan = plan(vec![planned("dev-libs/a", &[]), planned("dev-libs/b", &[0])]);
        let json = serde_json::to_vec(&plan).expect("writes");
        assert_eq!(Plan::read(&json), Ok(plan));
        assert_eq!(planned("dev-libs/a", &[]).atom(), "=dev-libs/a-1.0-r1:2/3::tiny");
    }

    #[test]
    fn what_a_drone_cannot_mean_is_refused() {
        for bad in [
            vec![planned("dev-libs/a", &[0])],
            vec![planned("dev-libs/a", &[1]), planned("dev-libs/b", &[])],
            vec![planned("../etc", &[])],
            vec![planned("dev-libs/a; rm", &[])],
            vec![Planned { revision: "x".to_owned(), ..planned("dev-libs/a", &[]) }],
            vec![Planned { repository: "-x".to_owned(), ..planned("dev-libs/a", &[]) }],
            vec![Planned { uses: vec!["a\nb".to_owned()], ..planned("dev-libs/a", &[]) }],
        ] {
            let json = serde_json::to_vec(&plan(bad.clone())).expect("writes");
            assert!(Plan::read(&json).is_err(), "{bad:?}");
        }
        assert!(Plan::read(b"").is_err());
        assert!(Plan::read(br#"{"version":2,"tree":"","packages":[]}"#).is_err());
        assert!(Plan::read(br#"{"version":1,"tree":"","packages":[],"more":1}"#).is_err());
        assert!(Plan::read(br#"{"version":1,"tree":"","packages":[]}"#).is_ok());
    }

    #[test]
    fn jobs_wait_for_what_is_built_and_through_what_is_there() {
        let binary = |package, needs: &[u32]| Planned { kind: PlannedKind::Binary, ..planned(package, needs) };
        let plan = plan(vec![
            planned("dev-libs/a", &[]),
            binary("dev-libs/b", &[0]),
            binary("dev-libs/c", &[]),
            planned("app-misc/d", &[1, 2]),
        ]);
        let session = SessionId(uuid::Uuid::from_u128(5));
        let work = Work::Resolve { targets: vec!["app-misc/d".to_owned()], empty_tree: false };
        let resolution = JobSpec { priority: 7, ..JobSpec::new(JobId(uuid::Uuid::from_u128(1)), "app-misc/d", work) };
        let jobs = plan.jobs(session, &resolution).expect("good");
        let targets: Vec<&str> = jobs.iter().map(|job| job.target.as_str()).collect();
        assert_eq!(targets, ["dev-libs/a-1.0-r1", "app-misc/d-1.0-r1"]);
        assert!(jobs[0].depends_on.is_empty());
        assert_eq!(jobs[1].depends_on, BTreeSet::from([jobs[0].id]), "the binary package in between needs it, too");
        assert!(jobs.iter().all(|job| job.pure && job.priority == 7));
        let Work::Portage { atom, tree } = &jobs[1].work else { panic!("{:?}", jobs[1].work) };
        assert_eq!((atom.as_str(), tree.as_deref()), ("=app-misc/d-1.0-r1:2/3::tiny", Some("x")));
        assert_eq!(plan.jobs(session, &resolution), Ok(jobs.clone()), "whoever does it again does the same");
        let elsewhere = plan.jobs(SessionId(uuid::Uuid::from_u128(6)), &resolution).expect("good");
        assert_ne!(elsewhere[0].id, jobs[0].id);
    }

    /// Two thousand binary packages, each of which would stand for the same five hundred jobs with a set of its own.
    #[test]
    fn a_small_plan_does_not_become_gigabytes() {
        let binary = |needs: &[u32]| Planned { kind: PlannedKind::Binary, ..planned("dev-libs/b", needs) };
        let mut packages: Vec<Planned> = (0..500).map(|_| planned("dev-libs/a", &[])).collect();
        packages.push(binary(&(0..500).collect::<Vec<u32>>()));
        packages.extend((500..3_000).map(|before| binary(&[before])));
        let work = Work::Resolve { targets: vec!["app-misc/d".to_owned()], empty_tree: false };
        let resolution = JobSpec::new(JobId(uuid::Uuid::from_u128(1)), "app-misc/d", work);
        let session = SessionId(uuid::Uuid::from_u128(5));
        let whole = plan(packages.clone());
        assert_eq!(whole.check(), Ok(()));
        let error = whole.jobs(session, &resolution).expect_err("refused");
        assert!(error.to_string().contains("too many jobs"), "{error}");
        packages.truncate(1_500);
        assert!(plan(packages).jobs(session, &resolution).is_ok());
    }
}
