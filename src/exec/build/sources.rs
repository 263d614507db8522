//! Brings sources into an attempt's directory: an archive from the depot, or a Git repository.
//!
//! Git runs as the build user, without prompts, with an allow-list of transports and `--` before every operand. The whole
//! history is cloned, because builds ask it for their version; submodules are not. Never done here: credentials.

use std::collections::BTreeMap;

use super::run::{Program, Run, SOURCE_DIR};
use super::verdict::Failure;
use crate::engine::grammar;
use crate::engine::job::Source;

fn git(directory: &str, arguments: &[&str]) -> Program {
    let environment = [
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_ALLOW_PROTOCOL", "https:http:ssh:git:file"),
        ("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oStrictHostKeyChecking=accept-new"),
    ];
    let argv = ["git", "-c", "protocol.ext.allow=never", "-c", "core.hooksPath=/dev/null"].iter().chain(arguments);
    Program {
        directory: directory.to_owned(),
        argv: argv.map(|&text| text.to_owned()).collect(),
        environment: environment
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        sandbox: false,
        portage: None,
    }
}

/// Brings `source` into `build/src`, and tells the commit as soon as it is known.
pub(super) async fn bring(run: &mut Run, source: &Source) -> Result<(), Failure> {
    match source {
        Source::Blob { sha256, size } => {
            run.started(None).await;
            let (depot, into) = (run.inner.depot.clone(), run.directory.join(SOURCE_DIR));
            let (sha256, size) = (*sha256, *size);
            run.note(&format!("unpacking {sha256}, {size} bytes"));
            run.guarded(async move { depot.unpack(sha256, size, &into).await.map_err(Failure::from) }).await
        }
        Source::Git { url, branch, commit } => {
            // Whoever queued it was checked; this is the last place before a command line.
            grammar::repository_url(url).map_err(|error| Failure::policy(error.to_string()))?;
            let commit = match commit {
                Some(commit) => {
                    run.started(None).await;
                    commit.clone()
                }
                None => {
                    let commit = resolve(run, url, branch.as_deref()).await?;
                    run.started(Some(commit.clone())).await;
                    commit
                }
            };
            run.note(&format!("cloning {url} at {commit}"));
            run.fetch("git clone", git("", &["clone", "--no-checkout", "--no-local", "--", url, SOURCE_DIR])).await?;
            check_out(run, &commit).await
        }
    }
}

async fn resolve(run: &mut Run, url: &str, branch: Option<&str>) -> Result<String, Failure> {
    let wanted: Vec<String> = match branch {
        None => vec!["HEAD".to_owned()],
        // An annotated tag is an object of its own; `^{}` names the commit behind it.
        Some(name) => vec![format!("refs/heads/{name}"), format!("refs/tags/{name}^{{}}"), format!("refs/tags/{name}")],
    };
    let mut arguments = vec!["ls-remote", "--", url];
    arguments.extend(wanted.iter().map(String::as_str));
    let end = run.fetch("git ls-remote", git("", &arguments)).await?;
    let listed: BTreeMap<&str, &str> =
        end.tail.lines().filter_map(|line| line.split_once('\t')).map(|(commit, name)| (name, commit)).collect();
    let commit = wanted.iter().find_map(|name| listed.get(name.as_str())).filter(|text| grammar::commit(text).is_ok());
    commit.map(|&commit| commit.to_owned()).ok_or_else(|| {
        let what = branch.map_or("a default branch".to_owned(), |name| format!("branch or tag {name}"));
        Failure::policy(format!("{url} has no {what}"))
    })
}

async fn check_out(run: &mut Run, commit: &str) -> Result<(), Failure> {
    let checkout = || git(SOURCE_DIR, &["checkout", "--quiet", "--detach", commit, "--"]);
    let end = run.step(checkout()).await?;
    if end.exit.succeeded() {
        return Ok(());
    }
    // Not reachable from any branch; most servers give out a commit that is asked for by name.
    run.fetch("git fetch", git(SOURCE_DIR, &["fetch", "--quiet", "origin", commit])).await?;
    run.fetch("git checkout", checkout()).await.map(|_| ())
}
