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
//! [`Plan::read`] is where it is believed or not. Never done here: making jobs of it.

use serde::{Deserialize, Serialize};

use super::grammar::{self, GrammarError};

/// Largest plan, bytes.
pub const PLAN_MAX_BYTES: usize = 64 << 20;
/// Most packages of one plan.
pub const PACKAGES_MAX: usize = 100_000;
/// Most flags of one package.
const USES_MAX: usize = 4_096;

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
}
