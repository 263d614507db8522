//! The Debian step of a tree that has a `debian` directory: its date, its build dependencies, `dpkg-buildpackage`.
//!
//! What is missing is installed where that is allowed. Where it cannot be had, a job may have declared what to do instead:
//! an empty package of that name for this attempt alone (see [`dummies`](super::dummies)), or no check at all. Each is used only when it is
//! needed and is told in the log and in the result. Never done here: changing what is installed on this host for a dummy's sake.

use std::collections::BTreeSet;

use serde_json::json;

use super::dummies::{self, Dummy};
use super::run::{Program, Run};
use super::verdict::Failure;
use crate::engine::grammar;
use crate::exec::InstallPolicy;
use crate::exec::packages::PackagesState;

/// Name of the artifact that tells which fall-backs were used.
pub(super) const RECORD: &str = "fallbacks.json";

/// What a job allows when build dependencies cannot be had.
#[derive(Clone, Debug, Default)]
pub(super) struct Fallbacks {
    /// Names that empty packages may stand in for.
    pub(super) dummies: BTreeSet<String>,
    /// Build although dependencies are missing.
    pub(super) unchecked: bool,
}

/// One Debian build of the attempt's sources.
#[derive(Debug, Default)]
pub(super) struct Packaging {
    epoch: Option<u64>,
    /// dpkg's database with dummies in it, when there are any.
    admin_dir: Option<String>,
    unchecked: bool,
}

impl Packaging {
    /// Reads the changelog and brings build dependencies in place.
    pub(super) async fn prepare(&mut self, run: &mut Run, fallbacks: &Fallbacks) -> Result<(), Failure> {
        let end = run.step(Program::inside(&["dpkg-parsechangelog", "--show-field", "Timestamp"])).await?;
        if !end.exit.succeeded() {
            run.judge(&end).map_err(|failure| {
                if end.exit.code.is_some() {
                    Failure::policy("debian/changelog is missing or cannot be read, see the log")
                } else {
                    failure
                }
            })?;
        }
        self.epoch = end.tail.lines().rev().find_map(|line| line.trim().parse().ok());
        self.dependencies(run, fallbacks).await
    }

    /// The build itself.
    pub(super) fn program(&self) -> Program {
        let mut program = Program::inside(&["dpkg-buildpackage", "-us", "-uc", "-b"]);
        if let Some(admin_dir) = &self.admin_dir {
            program.argv.push(format!("--admindir={admin_dir}"));
        }
        if self.unchecked {
            program.argv.push("-d".to_owned());
        }
        if let Some(epoch) = self.epoch {
            program.environment.insert("SOURCE_DATE_EPOCH".to_owned(), epoch.to_string());
        }
        // In the sandbox's user namespace a real chown is an invalid argument, which fakeroot would pass on; it shall only pretend.
        program.environment.insert("FAKEROOTDONTTRYCHOWN".to_owned(), "1".to_owned());
        program
    }

    /// Names what is missing, installs it where that is allowed, and falls back to what the job declared.
    async fn dependencies(&mut self, run: &mut Run, fallbacks: &Fallbacks) -> Result<(), Failure> {
        run.phase("dependencies");
        let Some(missing) = self.check(run).await? else { return Ok(()) };
        let (missing, why) = if run.inner.executor.options().build_dependencies == InstallPolicy::Off {
            let advice = "install them, or set `build.debian_build_deps = true` on that node".to_owned();
            (missing, advice)
        } else {
            match self.installed(run, missing, fallbacks).await? {
                None => return Ok(()),
                Some(left) => left,
            }
        };
        let used = dummies::fitting(&missing, &fallbacks.dummies);
        let mut left = Some(missing);
        if !used.is_empty() {
            self.admin_dir = Some(dummies::make(run, &used).await?);
            left = self.check(run).await?;
        }
        match &left {
            Some(missing) if !fallbacks.unchecked => {
                return Err(Failure::policy(format!("missing build dependencies: {missing}; {why}")));
            }
            Some(missing) => {
                self.unchecked = true;
                run.note(&format!("fall-back declared by the job: built without these dependencies (-d): {missing}"));
            }
            None => {}
        }
        record(run, &used, left.as_deref());
        Ok(())
    }

    /// What dpkg misses, as it prints it; none when nothing.
    async fn check(&self, run: &mut Run) -> Result<Option<String>, Failure> {
        let mut program = Program::inside(&["dpkg-checkbuilddeps"]);
        if let Some(admin_dir) = &self.admin_dir {
            program.argv.push(format!("--admindir={admin_dir}"));
        }
        let end = run.step(program).await?;
        if end.exit.succeeded() {
            return Ok(None);
        }
        match unmet(&end.tail) {
            Some(missing) => Ok(Some(missing)),
            None => run.judge(&end).map(|()| None),
        }
    }

    /// Installs what is missing. Answers what is missing still, and why.
    async fn installed(
        &self,
        run: &mut Run,
        missing: String,
        fallbacks: &Fallbacks,
    ) -> Result<Option<(String, String)>, Failure> {
        let names = first_alternatives(&missing);
        if let Some(error) = names.iter().find_map(|name| grammar::debian_package(name).err()) {
            return Err(Failure::policy(format!("missing build dependencies: {missing}; {error}")));
        }
        // A package manager installs all or nothing: what no archive has shall not keep the rest away.
        let (declared, real): (Vec<String>, Vec<String>) =
            names.into_iter().partition(|name| fallbacks.dummies.contains(name));
        let mut outcome = None;
        for names in [real, declared].into_iter().filter(|names| !names.is_empty()) {
            run.note(&format!("installing build dependencies: {}", names.join(" ")));
            outcome = Some(run.install(names).await?);
        }
        let Some(still) = self.check(run).await? else { return Ok(None) };
        let why = match outcome {
            Some(PackagesState::Failed(reason)) => format!("installing them {reason}"),
            Some(PackagesState::Off | PackagesState::DryRun(_) | PackagesState::Installed(_)) | None => {
                "the versions that can be installed do not fit".to_owned()
            }
        };
        Ok(Some((still, why)))
    }
}

/// What will be an artifact of its own, so that nobody takes these packages for ordinary ones.
fn record(run: &mut Run, used: &[Dummy], unmet: Option<&str>) {
    let dummies: Vec<_> = used
        .iter()
        .map(|dummy| json!({ "name": dummy.name, "version": dummy.version, "instead_of": dummy.relation }))
        .collect();
    let record = json!({ "schema": 1, "dummies": dummies, "unchecked_dependencies": unmet });
    run.declare(RECORD, format!("{record:#}\n"));
}

/// The names that dpkg-checkbuilddeps misses, as it prints them.
fn unmet(output: &str) -> Option<String> {
    let (_, missing) = output.lines().find_map(|line| line.split_once("Unmet build dependencies: "))?;
    Some(missing.trim().to_owned())
}

/// Of `a (>= 1) b | c d:any`, the packages `a`, `b`, `d`.
fn first_alternatives(missing: &str) -> Vec<String> {
    dummies::groups(missing).into_iter().filter_map(|group| group.into_iter().next()).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_dependencies_are_named_and_reduced_to_packages() {
        let output = "noise\ndpkg-checkbuilddeps: error: Unmet build dependencies: debhelper-compat (= 13) libfoo-dev (>= 1.2~) a | b (<< 3) python3:any\n";
        let missing = unmet(output).expect("found");
        assert!(missing.starts_with("debhelper-compat (= 13)"));
        assert_eq!(first_alternatives(&missing), ["debhelper-compat", "libfoo-dev", "a", "python3"]);
        assert_eq!(unmet("all is well"), None);
    }
}
