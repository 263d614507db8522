//! Backend `debian`: a source package by name or a source tree, through `dpkg-buildpackage`, to `.deb`, `.changes` and
//! `.buildinfo`.
//!
//! A package by name comes from the archives this host is configured for, through apt directories of the attempt's own, so
//! that nothing on the host needs to name source archives. What came out is what `.changes` lists, verified against it. Never
//! done here: signing, uploading.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use futures::future::BoxFuture;

use super::collect::{self, Found};
use super::packaging::{Fallbacks, Packaging};
use super::run::{Program, Run, SOURCE_DIR};
use super::verdict::Failure;
use super::{Backend, packages, sources};
use crate::engine::grammar;
use crate::engine::job::DebianSource;
use crate::exec::format::changes::{self, Listed};

/// Largest list of apt sources that is read, bytes.
const LIST_MAX_BYTES: u64 = 1 << 20;

pub(super) struct Debian {
    source: DebianSource,
    packaging: Packaging,
}

impl Debian {
    pub(super) fn new(source: DebianSource) -> Self {
        Self { source, packaging: Packaging::default() }
    }

    async fn fetch_archive(run: &mut Run, package: &str, version: Option<&str>) -> Result<(), Failure> {
        run.started(None).await;
        let apt_dir = run.inner.executor.options().apt_dir.clone();
        let place = run.directory.join("apt");
        write_sources(&apt_dir, &place)?;
        let options = apt_options(&place);
        let apt = |directory: &str, words: &[&str]| Program {
            directory: directory.to_owned(),
            argv: std::iter::once("apt-get".to_owned())
                .chain(options.iter().cloned())
                .chain(words.iter().map(|&word| word.to_owned()))
                .collect(),
            environment: BTreeMap::new(),
            sandbox: false,
            portage: None,
        };
        let update = run.fetch("apt-get update", apt("", &["update"])).await?;
        let wanted = version.map_or_else(|| package.to_owned(), |version| format!("{package}={version}"));
        let words = ["source", "--only-source", "--download-only", "--", &wanted];
        let download = run.fetch(&format!("apt-get source {wanted}"), apt("build", &words)).await;
        // Without its lists apt knows no package at all, and says that there is none.
        download.map_err(|failure| {
            if update.tail.contains("Failed to fetch") {
                Failure::infra(format!("the package lists are incomplete; {}", failure.reason))
            } else {
                failure
            }
        })?;
        let dsc = one_with_ending(&run.directory.join("build"), ".dsc")?;
        // dpkg-source makes the directory itself.
        fs::remove_dir(run.directory.join(SOURCE_DIR))?;
        let unpack = Program {
            directory: "build".to_owned(),
            argv: ["dpkg-source", "--no-copy", "--extract", "--", &dsc, "src"].map(str::to_owned).to_vec(),
            environment: BTreeMap::new(),
            // Of an archive on this host apt leaves links to files that the sandbox may hide.
            sandbox: false,
            portage: None,
        };
        let end = run.step(unpack).await?;
        run.judge(&end)
    }

    /// The tree of a `.dsc` takes the place of the directory in which it came.
    async fn unpack_dsc(run: &mut Run, file: &str) -> Result<(), Failure> {
        let program = |argv: &[&str]| Program {
            directory: "build".to_owned(),
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            environment: BTreeMap::new(),
            sandbox: true,
            portage: None,
        };
        let dsc = format!("src/{file}");
        let end = run.step(program(&["dpkg-source", "--no-copy", "--extract", "--", &dsc, "tree"])).await?;
        run.judge(&end)?;
        let build = run.directory.join("build");
        fs::rename(build.join("src"), build.join("dsc"))?;
        Ok(fs::rename(build.join("tree"), build.join("src"))?)
    }
}

impl Backend for Debian {
    fn prepare<'a>(&'a mut self, run: &'a mut Run) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            match &self.source {
                DebianSource::Archive { package, version } => {
                    Self::fetch_archive(run, package, version.as_deref()).await?;
                }
                DebianSource::Tree { source } => sources::bring(run, source).await?,
                DebianSource::Dsc { source, file } => {
                    sources::bring(run, source).await?;
                    Self::unpack_dsc(run, file).await?;
                }
            }
            self.packaging.prepare(run, &Fallbacks::default()).await?;
            // Debian's rules forbid a package to use the network while it is built, and its own builders have none.
            run.cut_off();
            Ok(())
        })
    }

    fn program(&self) -> Program {
        self.packaging.program()
    }

    fn collect<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<Vec<Found>, Failure>> {
        Box::pin(packages(run))
    }
}

/// The packages that a build left beside its sources, with what describes them.
pub(super) async fn packages(run: &mut Run) -> Result<Vec<Found>, Failure> {
    let owner = run.inner.executor.file_owner();
    let bytes_max = run.inner.executor.options().artifacts_max_bytes;
    let root = run.directory.clone();
    let found = tokio::task::spawn_blocking(move || described(&root, owner, bytes_max));
    run.guarded(async move { found.await.map_err(|error| Failure::infra(error.to_string()))? }).await
}

fn apt_options(place: &Path) -> Vec<String> {
    let path = |name: &str| place.join(name).to_string_lossy().into_owned();
    let pairs = [
        ("Dir::State", path("state")),
        ("Dir::State::status", "/var/lib/dpkg/status".to_owned()),
        ("Dir::Cache", path("cache")),
        ("Dir::Etc::sourcelist", path("sources.list")),
        ("Dir::Etc::sourceparts", path("sources.list.d")),
        ("Acquire::Languages", "none".to_owned()),
        ("APT::Get::Assume-Yes", "true".to_owned()),
        ("APT::Sandbox::User", String::new()),
    ];
    pairs.into_iter().flat_map(|(name, value)| ["-o".to_owned(), format!("{name}={value}")]).collect()
}

fn read_limited(path: &Path, max_bytes: u64) -> std::io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(max_bytes).read_to_string(&mut text)?;
    Ok(text)
}

/// Copies the host's apt sources, each as a source of source packages.
fn write_sources(apt_dir: &Path, place: &Path) -> Result<(), Failure> {
    for directory in ["state/lists/partial", "cache/archives/partial", "sources.list.d"] {
        fs::create_dir_all(place.join(directory))?;
    }
    let parts = fs::read_dir(apt_dir.join("sources.list.d")).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = std::iter::once(apt_dir.join("sources.list")).chain(parts).collect();
    files.sort_unstable();
    let (mut lines, mut stanzas) = (Vec::new(), Vec::new());
    for path in files {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if !matches!(ending, "list" | "sources") {
            continue;
        }
        let Ok(text) = read_limited(&path, LIST_MAX_BYTES) else { continue };
        if ending == "list" { lines.extend(one_line(&text)) } else { stanzas.extend(deb822(&text)) }
    }
    for list in [&mut lines, &mut stanzas] {
        list.sort_unstable();
        list.dedup();
    }
    if lines.is_empty() && stanzas.is_empty() {
        return Err(Failure::policy(format!("{} names no package archive", apt_dir.display())));
    }
    fs::write(place.join("sources.list"), lines.join("\n") + "\n")?;
    fs::write(place.join("sources.list.d/hive.sources"), stanzas.join("\n"))?;
    Ok(())
}

fn one_line(text: &str) -> Vec<String> {
    let words = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    words
        .filter_map(|line| line.strip_prefix("deb-src").or_else(|| line.strip_prefix("deb")))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .map(|rest| format!("deb-src{rest}"))
        .collect()
}

fn deb822(text: &str) -> Vec<String> {
    let mut stanzas = vec![String::new()];
    for line in text.lines() {
        let field = line.split(':').next().unwrap_or_default();
        if line.trim().is_empty() {
            stanzas.push(String::new());
        } else if let Some(stanza) = stanzas.last_mut().filter(|_| !line.starts_with('#')) {
            stanza.push_str(if field.eq_ignore_ascii_case("Types") { "Types: deb-src" } else { line });
            stanza.push('\n');
        }
    }
    stanzas.retain(|stanza| !stanza.is_empty());
    stanzas
}

fn one_with_ending(directory: &Path, ending: &str) -> Result<String, Failure> {
    let names = fs::read_dir(directory)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(ending)).collect();
    match (names.pop(), names.pop()) {
        (Some(name), None) if grammar::artifact_name(&name).is_ok() => Ok(name),
        (Some(_), None) => Err(Failure::build(format!("the {ending} file has an odd name"))),
        (None, _) => Err(Failure::build(format!("there is no {ending} file"))),
        (Some(_), Some(_)) => Err(Failure::build(format!("there is more than one {ending} file"))),
    }
}

fn read_described(root: &Path, name: &str, owner: u32) -> Result<changes::Description, Failure> {
    let mut text = String::new();
    let file = collect::open_regular(root, Path::new(&format!("build/{name}")), owner)
        .map_err(|error| Failure::build(format!("{name}: {error}")))?;
    let read = file.take(changes::MAX_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| Failure::build(format!("{name}: {error}")))?;
    changes::read(&text).map_err(|error| packages::failure(name, error))
}

/// What `.changes` lists, with it in front; packages and what describes them are looked into. Blocks.
fn described(root: &Path, owner: u32, bytes_max: u64) -> Result<Vec<Found>, Failure> {
    let changes = one_with_ending(&root.join("build"), ".changes")?;
    let description = read_described(root, &changes, owner)?;
    let listed = description.files;
    let mut found = vec![Found { name: changes.clone(), path: format!("build/{changes}"), expected: None }];
    let bytes = listed.iter().fold(0u64, |sum, file| sum.saturating_add(file.size));
    if bytes > bytes_max || listed.len() >= grammar::ARTIFACTS_MAX {
        return Err(Failure::build(format!("{bytes} bytes in {} artifacts are too much", listed.len())));
    }
    for Listed { name, sha256, size } in listed {
        let path = format!("build/{name}");
        let mut file = collect::open_regular(root, Path::new(&path), owner)
            .map_err(|error| Failure::build(format!("{name}, listed in {changes}: {error}")))?;
        if name.ends_with(".deb") || name.ends_with(".udeb") {
            packages::deb(&name, &mut file)?;
        } else if name.ends_with(".buildinfo") {
            let info = read_described(root, &name, owner)?;
            if (&info.source, &info.version) != (&description.source, &description.version) {
                return Err(Failure::build(format!("{name} describes another build than {changes}")));
            }
        }
        found.push(Found { name, path, expected: Some((sha256, size)) });
    }
    if !found.iter().any(|found| found.name.ends_with(".deb") || found.name.ends_with(".udeb")) {
        return Err(Failure::build("no package came out"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_archives_become_source_archives() {
        let lines =
            one_line("# deb http://x y z\ndeb http://a stable main # c\ndeb-src [trusted=yes] file:/r ./\ndebris\n");
        assert_eq!(lines, ["deb-src http://a stable main", "deb-src [trusted=yes] file:/r ./"]);
        let stanzas = deb822(
            "# comment\nTypes: deb deb-src\nURIs: http://a\nSuites: s\n\n\nTypes: deb\nURIs: http://b\nSigned-By:\n -----BEGIN\n .\n",
        );
        assert_eq!(stanzas.len(), 2);
        assert_eq!(stanzas[0], "Types: deb-src\nURIs: http://a\nSuites: s\n");
        assert!(stanzas[1].ends_with("Signed-By:\n -----BEGIN\n .\n"), "{}", stanzas[1]);
    }
}
