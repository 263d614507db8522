//! Empty packages that stand in for build dependencies that no archive has, made with `equivs` for one attempt.
//!
//! They are not installed: the attempt gets a view of dpkg's database of its own, in which they are entered as installed, and
//! everything else is the host's by links. So this host stays as it was, and no other build sees them. Never done here: choosing
//! names; the job declares them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::run::{Program, Run};
use super::verdict::Failure;

/// Below the attempt's directory.
const DIRECTORY: &str = "dummies";
/// dpkg's own database.
const ADMIN_DIR: &str = "/var/lib/dpkg";

/// One stand-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dummy {
    pub(super) name: String,
    pub(super) version: String,
    /// The dependency that it meets, as dpkg prints it.
    pub(super) relation: String,
}

/// Of `a (>= 1) b | c`: `[[(a, ">= 1")], [(b, ""), (c, "")]]`, without architecture qualifiers.
pub(super) fn groups(missing: &str) -> Vec<Vec<(String, String)>> {
    let mut groups: Vec<Vec<(String, String)>> = Vec::new();
    let mut is_alternative = false;
    let mut words = missing.split_whitespace().peekable();
    while let Some(word) = words.next() {
        if word == "|" {
            is_alternative = true;
            continue;
        }
        let mut relation = String::new();
        while words
            .peek()
            .is_some_and(|next| next.starts_with('(') || (!relation.is_empty() && !relation.ends_with(')')))
        {
            let part = words.next().unwrap_or_default();
            relation.push_str(if relation.is_empty() { "" } else { " " });
            relation.push_str(part);
        }
        let name = word.split(':').next().unwrap_or(word).to_owned();
        let entry = (name, relation.trim_matches(['(', ')']).to_owned());
        match groups.last_mut().filter(|_| std::mem::take(&mut is_alternative)) {
            Some(group) => group.push(entry),
            None => groups.push(vec![entry]),
        }
    }
    groups
}

/// A version that meets a relation such as `>= 2`.
fn version_for(relation: &str) -> String {
    let (operator, version) = relation.split_once(' ').unwrap_or(("", ""));
    match operator {
        "=" | ">=" | "<=" => version.to_owned(),
        ">>" => format!("{version}+hive"),
        // Before everything but what begins with a tilde itself.
        "<<" => "0~hive".to_owned(),
        _ => "1.0".to_owned(),
    }
}

/// Of the declared names those that are missed, each with a version that will do.
pub(super) fn fitting(missing: &str, declared: &BTreeSet<String>) -> Vec<Dummy> {
    let mut found: Vec<Dummy> = Vec::new();
    for group in groups(missing) {
        let Some((name, relation)) = group.into_iter().find(|(name, _)| declared.contains(name)) else { continue };
        if found.iter().all(|dummy| dummy.name != name) {
            let printed = if relation.is_empty() { name.clone() } else { format!("{name} ({relation})") };
            found.push(Dummy { version: version_for(&relation), name, relation: printed });
        }
    }
    found
}

/// Makes them, and a database that has them. Answers its path. Nothing of the sources may have run before.
pub(super) async fn make(run: &mut Run, dummies: &[Dummy]) -> Result<String, Failure> {
    let directory = run.directory.join(DIRECTORY);
    fs::create_dir(&directory)?;
    for dummy in dummies {
        fs::write(directory.join(&dummy.name), control(dummy))?;
    }
    let mut stanzas = String::new();
    for dummy in dummies {
        let told = format!("fall-back declared by the job: an empty package {} {}", dummy.name, dummy.version);
        run.note(&format!("{told} stands in for {}", dummy.relation));
        let program = |argv: &[&str]| Program { directory: DIRECTORY.to_owned(), ..Program::inside(argv) };
        let end = run.step(program(&["equivs-build", &dummy.name])).await?;
        run.judge(&end)?;
        let file =
            format!("{}_{}_all.deb", dummy.name, dummy.version.split_once(':').map_or(&*dummy.version, |(_, v)| v));
        let end = run.step(program(&["dpkg-deb", "--field", &file])).await?;
        run.judge(&end)?;
        stanzas.push_str(&installed(&end.tail));
    }
    let admin_dir = run.directory.join(format!("{DIRECTORY}-dpkg"));
    view(Path::new(ADMIN_DIR), &admin_dir, &stanzas)?;
    Ok(admin_dir.to_string_lossy().into_owned())
}

fn control(dummy: &Dummy) -> String {
    format!(
        "Section: misc\nPriority: optional\nStandards-Version: 4.6.0\n\nPackage: {}\nVersion: {}\nMaintainer: hive <hive@localhost>\n\
         Architecture: all\nDescription: stand-in without content, for one build\n",
        dummy.name, dummy.version
    )
}

/// The stanza of an installed package from the fields of its archive.
fn installed(fields: &str) -> String {
    let lines = fields.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('['));
    let mut stanza = String::from("\n");
    for line in lines {
        stanza.push_str(line);
        stanza.push('\n');
        if line.starts_with("Package:") {
            stanza.push_str("Status: install ok installed\n");
        }
    }
    stanza
}

fn view(real: &Path, view: &Path, stanzas: &str) -> std::io::Result<()> {
    fs::create_dir(view)?;
    for entry in fs::read_dir(real)?.flatten() {
        if entry.file_name() != "status" {
            symlink(entry.path(), view.join(entry.file_name()))?;
        }
    }
    fs::copy(real.join("status"), view.join("status"))?;
    fs::OpenOptions::new().append(true).open(view.join("status"))?.write_all(stanzas.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn only_what_is_declared_and_missing_is_stood_in_for() {
        let missing = "python-setuptools jdk (>= 11) | openjdk-11-jdk nodejs (<< 12~) python3:any";
        let found = fitting(missing, &names(&["python-setuptools", "openjdk-11-jdk", "nodejs", "unrelated"]));
        let told: Vec<_> = found.iter().map(|dummy| (dummy.name.as_str(), dummy.version.as_str())).collect();
        assert_eq!(told, [("python-setuptools", "1.0"), ("openjdk-11-jdk", "1.0"), ("nodejs", "0~hive")]);
        assert_eq!(found[2].relation, "nodejs (<< 12~)");
        assert!(fitting(missing, &BTreeSet::new()).is_empty());
    }

    #[test]
    fn versions_meet_their_relation() {
        for (relation, version) in
            [("", "1.0"), ("= 13", "13"), (">= 1:2.3", "1:2.3"), (">> 2", "2+hive"), ("<= 4", "4"), ("<< 3", "0~hive")]
        {
            assert_eq!(version_for(relation), version, "{relation}");
        }
    }

    #[test]
    fn the_view_has_them_and_the_hosts_database_does_not() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (real, seen) = (directory.path().join("real"), directory.path().join("view"));
        fs::create_dir_all(real.join("info")).expect("makes");
        fs::write(real.join("status"), "Package: a\nStatus: install ok installed\n").expect("writes");
        view(&real, &seen, &installed("[hive] x\nPackage: b\nVersion: 1\n")).expect("views");
        let text = fs::read_to_string(seen.join("status")).expect("reads");
        assert!(text.ends_with("\n\nPackage: b\nStatus: install ok installed\nVersion: 1\n"), "{text}");
        assert!(!fs::read_to_string(real.join("status")).expect("reads").contains("Package: b"));
        assert!(fs::symlink_metadata(seen.join("info")).expect("there").is_symlink());
    }
}
