//! Backend `portage`: one atom through `emerge --buildpkg`, everything else from binary packages where they fit, to one or more
//! checked `.gpkg.tar` of it.
//!
//! First the resolution is asked for as the build user, because what cannot be built at all (masked, unknown, unsatisfiable) is
//! nobody's failure to build; then root runs emerge in a directory of its own ([`crate::exec::portage`]). Never done here:
//! syncing the tree, unmasking, keeping packages of anything but the target.

pub(super) mod resolve;

mod pretend;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use futures::future::BoxFuture;
use serde::Deserialize;

use super::Backend;
use super::collect::Found;
use super::packages;
use super::run::{Program, Run, StepEnd};
use super::verdict::Failure;
use crate::engine::grammar;
use crate::engine::job::FailureClass;
use crate::engine::plan::{Planned, PlannedKind};
use crate::exec::portage::{PortageStep, RESULTS, tree_identity};
use crate::exec::signatures::Signatures;

/// Most output of a resolution that is read, bytes: some 20,000 packages.
const LIST_MAX_BYTES: usize = 8 << 20;
/// Most packages of one version that are looked at.
const RESULTS_MAX: usize = 64;
const TREE: &str = include_str!("portage/tree.py");

pub(super) struct Portage {
    atom: String,
    tree: Option<String>,
    target: Option<Planned>,
}

impl Portage {
    pub(super) fn new(atom: String, tree: Option<String>) -> Self {
        Self { atom, tree, target: None }
    }
}

#[derive(Deserialize)]
struct Tree {
    location: Option<String>,
}

/// Finds the tree and tells its identity; empty when it has none.
async fn tree(run: &mut Run) -> Result<String, Failure> {
    let python = run.inner.executor.options().portage.program("python3");
    let end = run.step(Program::asking_portage(vec![python, "-c".to_owned(), TREE.to_owned()])).await?;
    let said = end.tail.lines().find_map(|line| line.strip_prefix("hive-tree "));
    let Some(said) = said.filter(|_| end.exit.succeeded()) else {
        run.judge(&end).map_err(|failure| Failure { class: FailureClass::Infra, ..failure })?;
        return Err(Failure::infra("Portage on this node does not answer where its tree is, see the log"));
    };
    let tree: Tree = serde_json::from_str(said).map_err(|error| Failure::infra(error.to_string()))?;
    let Some(location) = tree.location else {
        return Err(Failure::infra("this node has no package tree; run there: emerge --sync"));
    };
    let identity = tree_identity(Path::new(&location)).unwrap_or_default();
    let shown = if identity.is_empty() { "without time stamp or commit" } else { &identity };
    run.note(&format!("package tree {location}: {shown}"));
    Ok(identity)
}

/// Asks for a resolution and reads it.
async fn list(run: &mut Run, targets: &[String], empty_tree: bool) -> Result<Vec<Planned>, Failure> {
    let argv = run.inner.executor.options().portage.pretend_argv(targets, empty_tree);
    let end = run.step_keeping(Program::asking_portage(argv), LIST_MAX_BYTES).await?;
    if end.exit.succeeded() {
        return Ok(pretend::list(&end.tail));
    }
    if let Some(trouble) = pretend::trouble(&end.tail) {
        return Err(Failure::policy(trouble.sentence()).with_code(end.exit.code));
    }
    run.judge(&end)?;
    Ok(Vec::new())
}

impl Backend for Portage {
    fn prepare<'a>(&'a mut self, run: &'a mut Run) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            run.started(None).await;
            if !run.inner.executor.acts_as_root() {
                return Err(Failure::infra(
                    "emerge installs what a package needs, which takes root: start hive-helper on this node",
                ));
            }
            let tree = tree(run).await?;
            if let Some(wanted) = self.tree.as_ref().filter(|wanted| **wanted != tree) {
                let shown = if tree.is_empty() { "one without time stamp or commit" } else { &tree };
                return Err(Failure::infra(format!(
                    "resolved with tree {wanted}, but this node has {shown}; run there: emerge --sync"
                )));
            }
            let planned = list(run, std::slice::from_ref(&self.atom), false).await?;
            let package = grammar::package_of_atom(&self.atom);
            let target = planned.iter().find(|one| one.package == package && one.kind == PlannedKind::Ebuild);
            let target = target.cloned();
            self.target = Some(target.ok_or_else(|| Failure::policy(format!("emerge does not build {package}")))?);
            let binaries = planned.iter().filter(|one| one.kind == PlannedKind::Binary).count();
            run.note(&format!("{} packages, {binaries} of them from binary packages", planned.len()));
            Ok(())
        })
    }

    fn program(&self) -> Program {
        let target = self.target.as_ref().map_or_else(|| self.atom.clone(), Planned::atom);
        Program {
            directory: "build".to_owned(),
            argv: ["emerge", "--oneshot", "--buildpkg", &target].map(str::to_owned).to_vec(),
            environment: BTreeMap::new(),
            sandbox: false,
            portage: Some(PortageStep::Merge { atom: target }),
        }
    }

    /// The exit alone says little where the output says more.
    fn judge(&self, run: &Run, end: &StepEnd) -> Result<(), Failure> {
        run.judge(end).map_err(|failure| judged(failure, &end.tail))
    }

    fn collect<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<Vec<Found>, Failure>> {
        Box::pin(async move {
            let owner = run.inner.executor.file_owner();
            let bytes_max = run.inner.executor.options().artifacts_max_bytes;
            let (root, target) = (run.directory.clone(), self.target.clone());
            let signatures = run.inner.executor.options().signatures.clone();
            let target = target.ok_or_else(|| Failure::infra("the target was not resolved"))?;
            let found =
                tokio::task::spawn_blocking(move || results(&root, &target, owner, bytes_max, signatures.as_ref()));
            run.guarded(async move { found.await.map_err(|error| Failure::infra(error.to_string()))? }).await
        })
    }
}

/// `ERROR: app-misc/x-1.0::tiny failed (compile phase):` and the sentence below it.
fn failed_phase(output: &str) -> Option<String> {
    let mut lines = output.lines().map(|line| line.trim_start_matches([' ', '*']).trim());
    let (package, phase) = lines.find_map(|line| {
        let (package, rest) = line.strip_prefix("ERROR: ")?.split_once(" failed (")?;
        Some((package, rest.split_once(" phase)")?.0))
    })?;
    let why = lines.find(|line| !line.is_empty()).unwrap_or("see the log");
    Some(format!("{package} failed in its {phase} phase: {why}"))
}

/// A build that failed is told from a package that came damaged and from a source that did not come at all.
fn judged(failure: Failure, output: &str) -> Failure {
    if failure.class != FailureClass::Build {
        return failure;
    }
    const DAMAGED: [&str; 5] = [
        "Digest verification failed",
        "checksum mismatched",
        "Binary package is not usable",
        "Invalid signature",
        "MissingSignature",
    ];
    const NOT_FETCHED: [&str; 3] = ["Couldn't download", "Error fetching binhost package", "Fetch failed for"];
    let said = |phrases: &[&str]| {
        output.lines().find(|line| phrases.iter().any(|phrase| line.contains(phrase))).map(str::trim)
    };
    let code = failure.exit_code;
    if let Some(phase) = failed_phase(output) {
        return Failure::build(phase).with_code(code);
    }
    if let Some(line) = said(&DAMAGED) {
        return Failure::infra(format!("a package that is needed came damaged: {line}")).with_code(code);
    }
    if let Some(line) = said(&NOT_FETCHED) {
        return Failure::infra(format!("what is needed could not be fetched: {line}")).with_code(code);
    }
    match pretend::trouble(output) {
        Some(trouble) => Failure::policy(trouble.sentence()).with_code(code),
        None => failure,
    }
}

/// The target's packages among the results, checked. Blocks.
fn results(
    root: &Path,
    target: &Planned,
    owner: u32,
    bytes_max: u64,
    signatures: Option<&Signatures>,
) -> Result<Vec<Found>, Failure> {
    let (category, name) = target.package.split_once('/').unwrap_or_default();
    let pf = format!("{name}-{}", target.revision);
    let mut paths = Vec::new();
    for directory in [format!("{RESULTS}/{category}"), format!("{RESULTS}/{category}/{name}")] {
        for entry in fs::read_dir(root.join(&directory)).into_iter().flatten().flatten() {
            let Ok(file) = entry.file_name().into_string() else { continue };
            if file.starts_with(&pf) && file.ends_with(".gpkg.tar") {
                paths.push(format!("{directory}/{file}"));
            }
        }
    }
    if paths.len() > RESULTS_MAX {
        return Err(Failure::build(format!("more than {RESULTS_MAX} packages of one version came out")));
    }
    let mut results = Vec::new();
    for path in paths {
        let (package, found) = packages::gpkg(root, &path, owner, signatures)?;
        if package.category == category && package.pf == pf {
            results.push(found);
        }
    }
    let bytes = results.iter().filter_map(|found| found.expected).fold(0u64, |sum, (_, size)| sum.saturating_add(size));
    if bytes > bytes_max {
        return Err(Failure::policy(format!("{bytes} bytes of packages; at most {bytes_max} are taken")));
    }
    if results.is_empty() {
        return Err(Failure::build(format!("no binary package of {category}/{pf} came out")));
    }
    Ok(results)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_that_failed_and_its_sentence_are_told() {
        let output = ">>> Compiling source in /x ...\n * ERROR: app-misc/bad-1.0::tiny failed (compile phase):\n *   it does not compile\n * \n * Call stack:\n";
        let failure = judged(Failure::build("emerge ended with exit code 1").with_code(Some(1)), output);
        assert_eq!(failure.reason, "app-misc/bad-1.0::tiny failed in its compile phase: it does not compile");
        assert_eq!((failure.class, failure.exit_code), (FailureClass::Build, Some(1)));
    }

    #[test]
    fn damage_and_lack_of_what_is_needed_are_not_the_packages_fault() {
        let class = |output: &str| judged(Failure::build("x"), output).class;
        assert_eq!(class("!!! Digest verification failed:\n"), FailureClass::Infra);
        assert_eq!(class("!!! Couldn't download 'x.tar.gz'. Aborting.\n"), FailureClass::Infra);
        assert_eq!(class("emerge: there are no ebuilds to satisfy \"a/b\" for /.\n"), FailureClass::Policy);
        assert_eq!(class("anything else\n"), FailureClass::Build);
        assert_eq!(judged(Failure::infra("disk"), "ERROR: a/b-1 failed (compile phase):\n").class, FailureClass::Infra);
    }
}
