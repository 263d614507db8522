//! What `hive queue add` makes of its arguments: checked, packed, and put into jobs.
//!
//! Never done here: sending jobs, or waiting for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use uuid::Uuid;

use crate::api::{NodeView, StoredBlob};
use crate::cli::args::{Backend, MavenArgs, QueueAddArgs};
use crate::cli::client::Client;
use crate::cli::output::{Failure, Ui};
use crate::cli::pack;
use crate::cli::text::{bytes, clean};
use crate::engine::grammar::{self, GrammarError};
use crate::engine::id::JobId;
use crate::engine::job::{DebianSource, JobSpec, Limits, MavenOptions, Source, Work};

/// Most jobs of one `queue add`.
const SOURCES_MAX: usize = 64;
/// Largest `.dsc` file that is read, bytes.
const DSC_MAX_BYTES: u64 = 1 << 20;

/// The jobs that the arguments ask for; what they are built from has been sent.
pub(super) async fn jobs(ui: &Ui, client: &Client, args: &QueueAddArgs) -> Result<Vec<JobSpec>, Failure> {
    let backend = match args.backend {
        Some(backend) => backend,
        None => usual_backend(client, args).await?,
    };
    check(args, backend)?;
    let mut after = BTreeSet::new();
    for job in &args.after {
        after.insert(super::resolve(client, job).await?);
    }
    let mut jobs = Vec::new();
    for (target, work) in works(ui, client, args, backend).await? {
        jobs.push(spec(args, backend, &after, target, work)?);
    }
    Ok(jobs)
}

/// Refused before anything is sent; the hive checks again, by the same rules.
fn outside(error: GrammarError) -> Failure {
    Failure::usage(error.to_string(), "see: hive queue add --help")
}

fn check(args: &QueueAddArgs, backend: Backend) -> Result<(), Failure> {
    args.artifact.iter().try_for_each(|pattern| grammar::pattern(pattern)).map_err(outside)?;
    args.repo.iter().try_for_each(|url| grammar::repository_url(url)).map_err(outside)?;
    args.branch.iter().try_for_each(|name| grammar::git_ref(name)).map_err(outside)?;
    args.commit.iter().try_for_each(|commit| grammar::commit(commit)).map_err(outside)?;
    if backend != Backend::Maven && args.maven != MavenArgs::default() {
        let what =
            "--goal, --threads, --offline, --no-packages, --dummy and --unchecked-dependencies belong to maven jobs";
        return Err(Failure::usage(what, "add --backend maven"));
    }
    if backend != Backend::Debian && args.dsc.is_some() {
        return Err(Failure::usage("--dsc belongs to debian jobs", "add --backend debian"));
    }
    if backend != Backend::Portage && args.empty_tree {
        return Err(Failure::usage("--empty-tree belongs to portage jobs", "add --backend portage"));
    }
    match backend {
        Backend::Command => {
            grammar::argv(&args.argv).map_err(outside)?;
            if !args.sources.is_empty() {
                return Err(Failure::usage("a command job takes no SOURCE", "put program and arguments after `--`"));
            }
            if args.dir.is_none() && args.repo.is_none() {
                return Err(Failure::usage("nothing to run in", "add --dir PATH or --repo URL"));
            }
        }
        Backend::Maven => {
            if !args.sources.is_empty() || !args.argv.is_empty() {
                let hint = "name what Maven is to do with --goal";
                return Err(Failure::usage("a maven job takes no SOURCE and no command", hint));
            }
            if args.dir.is_none() && args.repo.is_none() {
                return Err(Failure::usage("nothing to build", "add --dir PATH or --repo URL"));
            }
        }
        Backend::Debian => check_debian(args)?,
        Backend::Portage => check_portage(args)?,
    }
    if args.sources.len() > SOURCES_MAX {
        return Err(Failure::usage(format!("at most {SOURCES_MAX} sources at once"), "queue the rest afterwards"));
    }
    if args.id.is_some() && args.sources.len() > 1 {
        return Err(Failure::usage("--id names one job, but several sources were given", "queue them one by one"));
    }
    Ok(())
}

fn check_debian(args: &QueueAddArgs) -> Result<(), Failure> {
    if !args.argv.is_empty() || args.dir.is_some() || !args.artifact.is_empty() {
        let hint = "give sources as names or directories; what dpkg-buildpackage produces is kept";
        return Err(Failure::usage("--dir, --artifact and a command do not belong to a debian job", hint));
    }
    if args.dsc.is_none() && args.sources.is_empty() == args.repo.is_none() {
        return Err(Failure::usage(
            "a debian job takes SOURCE..., --dsc or --repo",
            "for example: hive queue add --backend debian hello",
        ));
    }
    Ok(())
}

fn check_portage(args: &QueueAddArgs) -> Result<(), Failure> {
    if !args.argv.is_empty() || args.dir.is_some() || args.repo.is_some() || !args.artifact.is_empty() {
        return Err(Failure::usage("a portage job takes packages and nothing else", "give them as category/name"));
    }
    if args.sources.is_empty() {
        let hint = "for example: hive queue add --backend portage sys-apps/portage";
        return Err(Failure::usage("a portage job takes SOURCE...", hint));
    }
    let target = |text: &String| grammar::gentoo_target(&grammar::gentoo_normalised(text));
    args.sources.iter().try_for_each(target).map_err(outside)
}

/// What the drones can do for a SOURCE, when that is one thing.
async fn usual_backend(client: &Client, args: &QueueAddArgs) -> Result<Backend, Failure> {
    if args.sources.is_empty() {
        return Err(Failure::usage("--backend is missing", "one of command, debian, portage, maven"));
    }
    let debian = !drones_with(client, "dpkg-buildpackage").await?.is_empty();
    match (debian, !drones_with(client, "emerge").await?.is_empty()) {
        (true, false) => Ok(Backend::Debian),
        (false, true) => Ok(Backend::Portage),
        (true, true) => Err(Failure::usage(
            "the drones of this hive build Debian and Gentoo packages",
            "say which: --backend debian or --backend portage",
        )),
        (false, false) => Err(Failure::usage(
            "no drone of this hive builds packages",
            "install dpkg-dev or Portage on one, or name the backend: the job waits for a drone that has it",
        )),
    }
}

/// Names of the nodes that have a tool.
pub(super) async fn drones_with(client: &Client, tool: &str) -> Result<Vec<String>, Failure> {
    let nodes = client.get::<Vec<NodeView>>("/api/v2/nodes").await?.data;
    let has = |node: &NodeView| node.inventory.as_ref().is_some_and(|inventory| inventory.tools.contains_key(tool));
    Ok(nodes.into_iter().filter(has).map(|node| node.member.name).collect())
}

async fn works(
    ui: &Ui,
    client: &Client,
    args: &QueueAddArgs,
    backend: Backend,
) -> Result<Vec<(String, Work)>, Failure> {
    match backend {
        Backend::Command => {
            let (source, place) = checkout(ui, client, args).await?;
            let target = format!("{} in {place}", args.argv.join(" "));
            Ok(vec![(target, Work::Command { source, argv: args.argv.clone(), artifacts: args.artifact.clone() })])
        }
        Backend::Maven => {
            let (source, place) = checkout(ui, client, args).await?;
            let maven = args.maven.clone();
            let options = MavenOptions {
                threads: maven.threads,
                offline: maven.offline,
                no_packages: maven.no_packages,
                dummies: maven.dummy.into_iter().collect(),
                unchecked_dependencies: maven.unchecked_dependencies,
            };
            Ok(vec![(place, Work::Maven { source, goals: maven.goal, options, artifacts: args.artifact.clone() })])
        }
        Backend::Debian if args.repo.is_some() => {
            let (source, place) = checkout(ui, client, args).await?;
            Ok(vec![(place, Work::Debian { source: DebianSource::Tree { source } })])
        }
        Backend::Debian => match &args.dsc {
            Some(file) => Ok(vec![dsc(ui, client, file).await?]),
            None => debian_works(ui, client, &args.sources).await,
        },
        Backend::Portage => {
            let targets = args.sources.iter().map(|text| grammar::gentoo_normalised(text)).collect();
            Ok(vec![(args.sources.join(" "), Work::Resolve { targets, empty_tree: args.empty_tree })])
        }
    }
}

/// The repository or directory that was named, and what to call it.
async fn checkout(ui: &Ui, client: &Client, args: &QueueAddArgs) -> Result<(Source, String), Failure> {
    match (&args.repo, &args.dir) {
        (Some(url), _) => {
            let reference = args.commit.as_ref().or(args.branch.as_ref());
            let reference = reference.map_or_else(String::new, |name| format!("@{name}"));
            let name = url.trim_end_matches('/').rsplit('/').next().unwrap_or(url);
            let source = Source::Git { url: url.clone(), branch: args.branch.clone(), commit: args.commit.clone() };
            Ok((source, format!("{name}{reference}")))
        }
        (None, Some(directory)) => Ok((upload(ui, client, directory).await?, directory_name(directory))),
        (None, None) => Err(Failure::usage("nothing to build", "add --dir PATH or --repo URL")),
    }
}

async fn debian_works(ui: &Ui, client: &Client, sources: &[String]) -> Result<Vec<(String, Work)>, Failure> {
    // All names are checked before the first directory travels.
    let mut parsed = Vec::new();
    for text in sources {
        parsed
            .push((text, if names_directory(text) { tree(text).map(|()| None)? } else { Some(debian_source(text)?) }));
    }
    let mut out = Vec::new();
    for (text, package) in parsed {
        let (target, source) = match package {
            Some(package) => (text.clone(), package),
            None => {
                let source = upload(ui, client, Path::new(text)).await?;
                (directory_name(Path::new(text)), DebianSource::Tree { source })
            }
        };
        out.push((target, Work::Debian { source }));
    }
    Ok(out)
}

/// Sends a `.dsc` with just the files that it names.
async fn dsc(ui: &Ui, client: &Client, file: &Path) -> Result<(String, Work), Failure> {
    let (staging, name) = staged(file)?;
    let source = upload(ui, client, staging.path()).await?;
    let target = name.trim_end_matches(".dsc").to_owned();
    Ok((target, Work::Debian { source: DebianSource::Dsc { source, file: name } }))
}

fn staged(file: &Path) -> Result<(tempfile::TempDir, String), Failure> {
    let shown = clean(&file.to_string_lossy()).into_owned();
    let unreadable = |what: &str, error: std::io::Error| Failure::usage(format!("{what}: {error}"), "");
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    if !name.ends_with(".dsc") || grammar::artifact_name(&name).is_err() {
        return Err(Failure::usage(format!("{shown} is no .dsc file"), "dpkg-source --build makes one"));
    }
    let metadata = fs::metadata(file).map_err(|error| unreadable(&shown, error))?;
    if metadata.len() > DSC_MAX_BYTES {
        return Err(Failure::usage(format!("{shown} is larger than any .dsc"), ""));
    }
    let text = fs::read_to_string(file).map_err(|error| unreadable(&shown, error))?;
    let named = files_of(&text);
    if named.is_empty() {
        return Err(Failure::usage(format!("{shown} names no files"), "dpkg-source --build makes one that does"));
    }
    let staging = tempfile::tempdir().map_err(|error| unreadable("a temporary directory", error))?;
    let beside = file.parent().unwrap_or_else(|| Path::new(""));
    for part in named.iter().chain([&name]) {
        grammar::artifact_name(part).map_err(outside)?;
        let (from, to) = (beside.join(part), staging.path().join(part));
        // Sources are large; where both are on one file system nothing needs to be copied.
        let linked = fs::canonicalize(&from).and_then(|from| fs::hard_link(from, &to));
        linked
            .or_else(|_| fs::copy(&from, &to).map(drop))
            .map_err(|error| unreadable(&format!("{part}, which belongs to {shown}"), error))?;
    }
    Ok((staging, name))
}

/// The files that a `.dsc` lists under its SHA-256 checksums, or under its oldest ones.
fn files_of(dsc: &str) -> BTreeSet<String> {
    let listed = |field: &str| {
        let lines = dsc.lines().skip_while(|line| !line.trim_end().eq_ignore_ascii_case(field)).skip(1);
        let lines = lines.take_while(|line| line.starts_with([' ', '\t']));
        lines.filter_map(|line| line.split_whitespace().nth(2)).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let found = listed("Checksums-Sha256:");
    if found.is_empty() { listed("Files:") } else { found }
}

/// A package name holds no slash; a directory that happens to be called like a package is not meant by it.
fn names_directory(text: &str) -> bool {
    text.contains('/') || matches!(text, "." | "..")
}

fn tree(text: &str) -> Result<(), Failure> {
    if Path::new(text).join("debian").is_dir() {
        return Ok(());
    }
    let hint = "a Debian source tree has debian/control and debian/rules";
    Err(Failure::usage(format!("{text:?} is no directory that holds debian/"), hint))
}

fn debian_source(text: &str) -> Result<DebianSource, Failure> {
    let (package, version) = text.split_once('=').map_or((text, None), |(package, version)| (package, Some(version)));
    let good = grammar::debian_package(package).and_then(|()| version.map_or(Ok(()), grammar::debian_version));
    let hint = "a debian job takes a source package NAME, NAME=VERSION, or a directory with debian/ in it, written with a slash: ./DIR";
    good.map_err(|error| Failure::usage(error.to_string(), hint))?;
    Ok(DebianSource::Archive { package: package.to_owned(), version: version.map(str::to_owned) })
}

fn directory_name(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.file_name().map_or_else(|| "/".to_owned(), |name| name.to_string_lossy().into_owned())
}

async fn upload(ui: &Ui, client: &Client, directory: &Path) -> Result<Source, Failure> {
    ui.show_progress(&format!("packing {} …", clean(&directory.to_string_lossy())));
    let owned = directory.to_owned();
    let packed = tokio::task::spawn_blocking(move || pack::pack_directory(&owned))
        .await
        .map_err(|error| Failure::internal(format!("packing ended: {error}"), ""))??;
    ui.show_progress(&format!("sending {} …", bytes(packed.size)));
    let reader = tokio::fs::File::from_std(packed.file);
    let stored = client.put::<StoredBlob>("/api/v2/blobs", reader, packed.size).await;
    ui.clear_progress();
    let stored = stored?.data;
    if stored.sha256 != packed.sha256 || stored.size != packed.size {
        return Err(Failure::internal(
            "the agent stored something else than what was sent",
            "try again; if it stays so, look at its disk",
        ));
    }
    Ok(Source::Blob { sha256: stored.sha256, size: stored.size })
}

/// `NAME` or `NAME>=VERSION`.
fn tools(texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut tools = BTreeMap::new();
    for text in texts {
        let (name, version) = text.split_once(">=").unwrap_or((text, ""));
        if tools.insert(name.trim().to_owned(), version.trim().to_owned()).is_some() {
            return Err(Failure::usage(format!("--tool {name} was given twice"), "give its highest version once"));
        }
    }
    Ok(tools)
}

/// Packages have no effect but themselves; what Maven deploys is seen by others.
fn is_pure(args: &QueueAddArgs, backend: Backend) -> bool {
    match backend {
        Backend::Command => args.pure,
        Backend::Debian | Backend::Portage => true,
        Backend::Maven => {
            let reaches_out = |goal: &String| goal.contains("deploy") || goal.starts_with("release:");
            args.pure || !(args.idempotent || args.maven.goal.iter().any(reaches_out))
        }
    }
}

fn spec(
    args: &QueueAddArgs,
    backend: Backend,
    after: &BTreeSet<JobId>,
    target: String,
    work: Work,
) -> Result<JobSpec, Failure> {
    let id = match &args.id {
        Some(text) => text
            .parse::<JobId>()
            .map_err(|error| Failure::usage(format!("--id: {error}"), "for example: --id $(uuidgen)"))?,
        None => JobId(Uuid::new_v4()),
    };
    let mut limits = Limits { memory_max_mb: args.memory_mb, ..Limits::default() };
    if let Some(seconds) = args.timeout {
        limits.timeout_ms = seconds.saturating_mul(1_000);
        limits.silence_timeout_ms = limits.silence_timeout_ms.min(limits.timeout_ms);
    }
    let target: String = target.chars().filter(|character| !character.is_control()).take(200).collect();
    let required = args.require.iter().map(|feature| format!("feature:{feature}"));
    let spec = JobSpec {
        priority: args.priority,
        labels: args.label.iter().cloned().chain(required).collect(),
        tools: tools(&args.tool)?,
        cores: args.cores,
        disk_mb: args.disk_mb,
        depends_on: after.clone(),
        pure: is_pure(args, backend),
        idempotent: args.idempotent,
        secrets: args.secret.iter().cloned().collect(),
        limits,
        ..JobSpec::new(id, target, work)
    };
    grammar::job(&spec).map_err(outside)?;
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Command, QueueVerb};
    use crate::engine::id::Sha256Hash;

    fn backend(line: &str) -> Backend {
        args(line).backend.expect("named")
    }

    fn args(line: &str) -> QueueAddArgs {
        let words = ["hive", "queue", "add"].into_iter().chain(line.split(' '));
        let Command::Queue { verb: QueueVerb::Add(args) } = Cli::try_parse_from(words).expect("understood").command
        else {
            panic!("queue add")
        };
        *args
    }

    fn job(line: &str) -> JobSpec {
        let source = Source::Blob { sha256: Sha256Hash([1; 32]), size: 1 };
        let work = Work::Command { source, argv: vec!["make".to_owned()], artifacts: Vec::new() };
        spec(&args(line), backend(line), &BTreeSet::new(), "x".to_owned(), work)
            .unwrap_or_else(|failure| panic!("{failure:?}"))
    }

    #[test]
    fn what_a_job_needs_is_taken_from_the_command_line() {
        let spec = job(
            "--backend command --dir . --tool mvn>=3.8 --tool node --cores 4 --disk-mb 2048 --memory-mb 512 --require sandbox \
             --label x --secret NPM_TOKEN --idempotent -- make",
        );
        assert_eq!(spec.tools, BTreeMap::from([("mvn".into(), "3.8".into()), ("node".into(), String::new())]));
        assert_eq!((spec.cores, spec.disk_mb, spec.limits.memory_max_mb), (4, 2_048, 512));
        assert_eq!(spec.labels, BTreeSet::from(["feature:sandbox".to_owned(), "x".to_owned()]));
        assert!(spec.secrets.contains("NPM_TOKEN") && spec.idempotent && !spec.pure);
        assert!(tools(&["a>=1".to_owned(), "a".to_owned()]).is_err());
    }

    #[test]
    fn maven_jobs_are_pure_unless_they_deploy() {
        for (line, pure) in [
            ("--backend maven --dir .", true),
            ("--backend maven --dir . --goal clean --goal -Psystemvm", true),
            ("--backend maven --dir . --goal deploy", false),
            ("--backend maven --dir . --goal install --idempotent", false),
            ("--backend debian hello", true),
            ("--backend command --dir . -- make", false),
        ] {
            assert_eq!(is_pure(&args(line), backend(line)), pure, "{line}");
        }
    }

    #[test]
    fn options_of_one_backend_are_refused_for_another() {
        for bad in [
            "--backend debian hello --goal package",
            "--backend command --dir . --offline -- make",
            "--backend maven --dir . hello",
            "--backend maven",
            "--backend command --dsc x.dsc -- make",
            "--backend portage",
            "--backend portage sys-apps",
            "--backend portage >=sys-apps/foo-1",
            "--backend portage sys-apps/foo --dir .",
            "--backend debian hello --empty-tree",
        ] {
            assert!(check(&args(bad), backend(bad)).is_err(), "{bad}");
        }
        for good in [
            "--backend maven --repo https://x/y --dummy a --unchecked-dependencies",
            "--backend debian --dsc x.dsc",
            "--backend portage @world dev-lang/python-3.12.4 =sys-apps/foo-1 --empty-tree",
        ] {
            assert!(check(&args(good), backend(good)).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_dsc_travels_with_its_files_and_nothing_else() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let text = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\n\nFormat: 3.0 (native)\nSource: a\nChecksums-Sha256: \n {hash} 5 a_1.tar.xz\nFiles: \n 00 5 a_1.tar.xz\n"
        );
        let file = directory.path().join("a_1.dsc");
        for (name, content) in [("a_1.dsc", text.as_str()), ("a_1.tar.xz", "hello"), ("private.txt", "x")] {
            fs::write(directory.path().join(name), content).expect("writes");
        }
        let (staging, name) = staged(&file).unwrap_or_else(|failure| panic!("{failure:?}"));
        let mut names: Vec<_> = fs::read_dir(staging.path()).expect("lists").flatten().map(|e| e.file_name()).collect();
        names.sort_unstable();
        assert_eq!((name.as_str(), names), ("a_1.dsc", vec!["a_1.dsc".into(), "a_1.tar.xz".into()]));
        fs::remove_file(directory.path().join("a_1.tar.xz")).expect("removes");
        assert!(staged(&file).is_err());
        fs::write(&file, text.replace("a_1.tar.xz", "../../etc/passwd")).expect("writes");
        assert!(staged(&file).is_err(), "a path is no file name");
        assert!(staged(&directory.path().join("private.txt")).is_err());
    }
}
