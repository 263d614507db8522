//! Backend `maven`: a Java tree through Maven, then its Debian packages when it has a `debian` directory.
//!
//! The tree's own wrapper is used where it has one, because it pins the version; without the network it cannot fetch that, so then
//! the host's Maven takes its place. Maven's home is the attempt's: nothing that one build fetched is seen by another. Never done here:
//! a settings file of the job's own, and publishing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use futures::future::BoxFuture;

use super::collect::{self, Found};
use super::packaging::{Fallbacks, Packaging};
use super::run::{Program, Run, SOURCE_DIR, StepEnd};
use super::verdict::Failure;
use super::{Backend, debian, sources};
use crate::engine::job::{FailureClass, MavenOptions, Source};

/// Debian's repository of Java libraries, for builds without the network.
const DEBIAN_SETTINGS: &str = "/etc/maven/settings-debian.xml";

pub(super) struct Maven {
    source: Source,
    goals: Vec<String>,
    options: MavenOptions,
    artifacts: Vec<String>,
    /// How it is started.
    command: Vec<String>,
    /// The attempt's own home, for a program that asks the password file instead of its environment.
    home: String,
    packaging: Option<Packaging>,
}

impl Maven {
    pub(super) fn new(source: Source, goals: Vec<String>, options: MavenOptions, artifacts: Vec<String>) -> Self {
        Self { source, goals, options, artifacts, command: Vec::new(), home: String::new(), packaging: None }
    }

    fn arguments(&self, settings: Option<&str>) -> Vec<String> {
        let mut arguments = vec!["-B".to_owned()];
        if self.options.offline {
            arguments.push("-o".to_owned());
        }
        if let Some(settings) = settings {
            arguments.extend(["-s".to_owned(), settings.to_owned()]);
        }
        if let Some(threads) = &self.options.threads {
            arguments.extend(["-T".to_owned(), threads.clone()]);
        }
        arguments.extend(self.goals.iter().cloned());
        if self.goals.iter().all(|goal| goal.starts_with('-')) {
            // Compiles, tests and packs, and leaves the rest of the machine alone.
            arguments.push("package".to_owned());
        }
        arguments
    }

    fn environment(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("MAVEN_OPTS".to_owned(), format!("-Duser.home={}", self.home))])
    }
}

/// How a tree's Maven is started: its wrapper, or the host's.
fn launcher(tree: &Path, offline: bool) -> (Vec<String>, &'static str) {
    let wrapper = fs::symlink_metadata(tree.join("mvnw")).ok().filter(fs::Metadata::is_file);
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    match wrapper {
        Some(_) if offline => (words(&["mvn"]), "the host's Maven, because the tree's wrapper needs the network"),
        Some(file) if file.permissions().mode() & 0o111 != 0 => (words(&["./mvnw"]), "the tree's Maven wrapper"),
        // Archives made elsewhere may have lost its mode.
        Some(_) => (words(&["sh", "./mvnw"]), "the tree's Maven wrapper"),
        None => (words(&["mvn"]), "the host's Maven"),
    }
}

impl Backend for Maven {
    fn prepare<'a>(&'a mut self, run: &'a mut Run) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            sources::bring(run, &self.source).await?;
            let tree = run.directory.join(SOURCE_DIR);
            let (mut command, what) = launcher(&tree, self.options.offline);
            run.note(what);
            let settings = Some(DEBIAN_SETTINGS).filter(|path| self.options.offline && Path::new(path).exists());
            command.extend(self.arguments(settings));
            self.command = command;
            self.home = run.directory.join("home").to_string_lossy().into_owned();
            let has_packages = fs::symlink_metadata(tree.join("debian")).is_ok_and(|found| found.is_dir());
            if has_packages && !self.options.no_packages {
                let fallbacks =
                    Fallbacks { dummies: self.options.dummies.clone(), unchecked: self.options.unchecked_dependencies };
                let mut packaging = Packaging::default();
                packaging.prepare(run, &fallbacks).await?;
                self.packaging = Some(packaging);
            }
            if self.options.offline {
                run.cut_off();
            }
            Ok(())
        })
    }

    fn program(&self) -> Program {
        Program {
            directory: SOURCE_DIR.to_owned(),
            argv: self.command.clone(),
            environment: self.environment(),
            sandbox: true,
            portage: None,
        }
    }

    fn judge(&self, run: &Run, end: &StepEnd) -> Result<(), Failure> {
        run.judge(end).map_err(|failure| explained(failure, &end.tail))
    }

    fn afterwards(&self) -> Option<Program> {
        let mut program = self.packaging.as_ref()?.program();
        // Most such trees call Maven from debian/rules.
        program.environment.extend(self.environment());
        Some(program)
    }

    fn collect<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<Vec<Found>, Failure>> {
        Box::pin(async move {
            let (root, patterns) = (run.directory.clone(), self.artifacts.clone());
            let bytes_max = run.inner.executor.options().artifacts_max_bytes;
            let matching = move || collect::matching(&root, SOURCE_DIR, &patterns, bytes_max);
            let matching = tokio::task::spawn_blocking(matching);
            let matching = async move { matching.await.map_err(|error| Failure::infra(error.to_string()))? };
            let mut found = run.guarded(matching).await?;
            if self.packaging.is_some() {
                for package in debian::packages(run).await? {
                    if let Some(other) = found.iter().find(|other| other.name == package.name) {
                        let clash =
                            format!("{} and {} would both be artifact {}", other.path, package.path, other.name);
                        return Err(Failure::build(clash));
                    }
                    found.push(package);
                }
            }
            Ok(found)
        })
    }
}

/// Says what Maven said, and tells a repository that cannot be reached from a tree that does not build. Only Maven's own errors
/// count, not what tests print.
fn explained(mut failure: Failure, tail: &str) -> Failure {
    if failure.class != FailureClass::Build {
        return failure;
    }
    let code = failure.exit_code;
    let errors = || tail.lines().filter_map(|line| line.trim().strip_prefix("[ERROR] ")).map(str::trim);
    if let Some(line) = errors().find(|line| line.contains("in offline mode")) {
        return Failure::policy(format!("not in this drone's repository, and the job is offline: {line}"))
            .with_code(code);
    }
    if let Some(line) = errors().find(|line| line.contains("Could not transfer artifact")) {
        return Failure::infra(format!("a repository cannot be reached: {line}")).with_code(code);
    }
    let counted = errors().find(|line| line.starts_with("Tests run:"));
    if let Some(counts) = counted.filter(|_| errors().any(|line| line.contains("There are test failures"))) {
        return Failure::build(format!("tests failed: {counts}")).with_code(code);
    }
    if let Some(line) = errors().find(|line| line.starts_with("Failed to execute goal")) {
        failure = Failure::build(format!("{}: {line}", failure.reason)).with_code(code);
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maven(goals: &[&str], options: MavenOptions) -> Maven {
        let source = Source::Git { url: "https://x/y".to_owned(), branch: None, commit: None };
        Maven::new(source, goals.iter().map(|&goal| goal.to_owned()).collect(), options, Vec::new())
    }

    #[test]
    fn arguments_follow_the_job() {
        assert_eq!(maven(&[], MavenOptions::default()).arguments(None), ["-B", "package"]);
        let options = MavenOptions { threads: Some("1C".to_owned()), offline: true, ..MavenOptions::default() };
        assert_eq!(
            maven(&["-Pdeb", "clean", "install"], options.clone()).arguments(Some("/s.xml")),
            ["-B", "-o", "-s", "/s.xml", "-T", "1C", "-Pdeb", "clean", "install"]
        );
        assert_eq!(maven(&["-Pdeb"], options).arguments(None).last().map(String::as_str), Some("package"));
    }

    #[test]
    fn the_wrapper_is_taken_when_it_can_work() {
        let tree = tempfile::tempdir().expect("temporary directory");
        let start = |offline| launcher(tree.path(), offline).0;
        assert_eq!(start(false), ["mvn"]);
        fs::write(tree.path().join("mvnw"), "#!/bin/sh\n").expect("writes");
        assert_eq!(start(false), ["sh", "./mvnw"]);
        fs::set_permissions(tree.path().join("mvnw"), fs::Permissions::from_mode(0o755)).expect("chmod");
        assert_eq!(start(false), ["./mvnw"]);
        assert_eq!(start(true), ["mvn"]);
    }

    #[test]
    fn mavens_errors_tell_whose_fault_it_was_and_tests_cannot_pretend() {
        let failed = || Failure::build("mvn ended with exit code 1").with_code(Some(1));
        let class = |tail: &str| {
            let failure = explained(failed(), tail);
            assert_eq!(failure.exit_code, Some(1));
            (failure.class, failure.reason)
        };
        let tests = "[ERROR] Tests run: 2, Failures: 1, Errors: 0, Skipped: 0\n[ERROR] There are test failures.\n";
        assert_eq!(
            class(tests),
            (FailureClass::Build, "tests failed: Tests run: 2, Failures: 1, Errors: 0, Skipped: 0".to_owned())
        );
        assert_eq!(class("[ERROR] Could not transfer artifact a:b from central").0, FailureClass::Infra);
        assert_eq!(class("Could not transfer artifact a:b from central").0, FailureClass::Build);
        assert_eq!(class("[ERROR] Cannot access central (https://c) in offline mode").0, FailureClass::Policy);
        let infra = Failure::infra("mvn ran out of memory");
        assert_eq!(explained(infra.clone(), tests), infra);
    }
}
