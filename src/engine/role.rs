//! Role definitions: what a node can be, with which packages, configuration and requirements.
//!
//! A definition is a TOML file of `roles/`. It is data that the hive agrees on by digest: advice names a role, and packages and
//! configuration come from the definition, never from the advisor. Everything in a file is checked when it is loaded, with the
//! file, the line and what was expected, so that nothing malformed reaches a package manager.
//!
//! Never done here: reading files, installing anything, deciding who gets a role (see [`policy`](super::policy) and
//! [`ballot`](super::ballot)).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use toml::Spanned;

use super::grammar;
use super::id::{PeerId, Sha256Hash};
use super::member::{Inventory, Member};

pub mod shipped;

/// The role of the node that created the hive, until it is given another one. Never advised, never claimed.
pub const FOUNDER: &str = "founder";

/// Longest role or policy file, bytes.
pub const DEFINITION_MAX_BYTES: usize = 64 << 10;
/// Most roles a node knows.
pub const ROLES_MAX: usize = 64;
/// Longest role name.
pub const NAME_MAX_LEN: usize = 32;
/// Most packages of one role on one distribution family.
const PACKAGES_MAX: usize = 128;
/// Most words of a health check.
const ARGV_MAX: usize = 32;
/// Longest free text (purpose, description), bytes.
const TEXT_MAX_BYTES: usize = 500;
/// Rank of a role that is not defined here: after all others.
const RANK_UNKNOWN: u32 = u32::MAX;

/// A role or policy file that cannot be used: where, and what was expected there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}")]
pub struct DefinitionError {
    /// The file as it was named by whoever read it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong and what was expected.
    pub what: String,
}

/// Text of a definition and the name of its file, for errors that say where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// An error at a byte offset of the text.
    pub(super) fn error_at(&self, offset: usize, what: impl Into<String>) -> DefinitionError {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        DefinitionError { file: self.file.to_owned(), line, what: what.into() }
    }

    /// Reads TOML into a typed form that knows where its values were written.
    pub(super) fn parse<T: for<'de> Deserialize<'de>>(&self) -> Result<T, DefinitionError> {
        if self.text.len() > DEFINITION_MAX_BYTES {
            let what = format!("file of {} bytes, expected at most {DEFINITION_MAX_BYTES}", self.text.len());
            return Err(self.error_at(0, what));
        }
        toml::from_str(self.text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            self.error_at(offset, error.message().replace('\n', " "))
        })
    }
}

/// Whether `name` may name a role, a policy, a rule or a fact: `^[a-z][a-z0-9-]{0,31}$`.
pub fn is_name(name: &str) -> bool {
    name.len() <= NAME_MAX_LEN
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Distributions that share a package manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// `apt`.
    Debian,
    /// Portage.
    Gentoo,
}

impl Family {
    /// The family of an os-release `ID`; none for one that hive installs no packages on.
    pub fn of_distro(distro: &str) -> Option<Self> {
        match distro {
            "debian" | "ubuntu" | "raspbian" | "devuan" | "linuxmint" | "pop" | "kali" | "neon" | "elementary" => {
                Some(Self::Debian)
            }
            "gentoo" | "funtoo" | "calculate" => Some(Self::Gentoo),
            _ => None,
        }
    }

    /// Whether the name fits this family's grammar.
    pub fn accepts_package(self, name: &str) -> bool {
        match self {
            Self::Debian => grammar::debian_package(name).is_ok(),
            Self::Gentoo => grammar::gentoo_package(name).is_ok(),
        }
    }
}

/// Packages of a role by distribution family.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Packages {
    /// Names for `apt`.
    pub debian: Vec<String>,
    /// Names for Portage.
    pub gentoo: Vec<String>,
}

/// What a node can be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RoleDef {
    /// Its name, see [`is_name`].
    pub name: String,
    /// One sentence for people.
    pub purpose: String,
    /// Decides between roles with the same number of votes: the lower rank is taken.
    pub rank: u32,
    /// At most so many members of this role per hive; none: no limit.
    pub max: Option<u32>,
    /// Migration takes no node away from the role when fewer than this would be left.
    pub min: u32,
    /// What is installed.
    pub packages: Packages,
    /// Handed to the node with its identity.
    pub config: Map<String, Value>,
    /// What a machine must have to be advised this role, see [`has_capability`].
    pub requires: BTreeSet<String>,
    /// Services that are expected to run on a node of this role. Nothing acts on them yet: they are what healing will restart.
    pub services: Vec<String>,
    /// Program and arguments that succeed on a node that is fit for the role; empty: none.
    pub health_check: Vec<String>,
    /// Nodes of this role are given builds.
    pub takes_builds: bool,
}

impl RoleDef {
    /// Packages of the role on a distribution; none where hive does not know the package manager.
    pub fn packages_on(&self, distro: &str) -> &[String] {
        match Family::of_distro(distro) {
            Some(Family::Debian) => &self.packages.debian,
            Some(Family::Gentoo) => &self.packages.gentoo,
            None => &[],
        }
    }

    /// The first required capability that a machine lacks.
    pub fn lacks<'a>(&'a self, node: &Inventory) -> Option<&'a str> {
        self.requires.iter().map(String::as_str).find(|capability| !has_capability(node, capability))
    }
}

/// Whether a machine has a capability: `tool:NAME`, `language:NAME`, `label:NAME`, `arch:NAME`, `distro:NAME`, `virt:NAME`,
/// `gpu`, `docker`, or a bare word that is a tool, a language or a label.
pub fn has_capability(node: &Inventory, capability: &str) -> bool {
    match capability.split_once(':') {
        Some(("tool", name)) => node.tools.contains_key(name),
        Some(("language", name)) => node.languages.contains(name),
        Some(("label", name)) => node.labels.contains(name),
        Some(("arch", name)) => node.arch == name,
        Some(("distro", name)) => node.distro == name,
        Some(("virt", name)) => node.virt == name,
        Some(_) => false,
        None => {
            (capability == "gpu" && node.has_gpu)
                || (capability == "docker" && node.docker_installed)
                || node.tools.contains_key(capability)
                || node.languages.contains(capability)
                || node.labels.contains(capability)
        }
    }
}

fn is_capability(text: &str) -> bool {
    let word = |word: &str| {
        (1..=48).contains(&word.len())
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'+' | b'-'))
    };
    match text.split_once(':') {
        Some((kind, name)) => matches!(kind, "tool" | "language" | "label" | "arch" | "distro" | "virt") && word(name),
        None => word(text),
    }
}

/// A role file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleFile {
    name: Spanned<String>,
    purpose: Spanned<String>,
    rank: u32,
    max: Option<Spanned<u32>>,
    #[serde(default)]
    min: u32,
    #[serde(default)]
    requires: Vec<Spanned<String>>,
    #[serde(default)]
    services: Vec<Spanned<String>>,
    #[serde(default)]
    health_check: Vec<Spanned<String>>,
    #[serde(default = "yes")]
    takes_builds: bool,
    #[serde(default)]
    packages: PackagesFile,
    config: Option<Spanned<toml::Table>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PackagesFile {
    #[serde(default)]
    debian: Vec<Spanned<String>>,
    #[serde(default)]
    gentoo: Vec<Spanned<String>>,
}

fn yes() -> bool {
    true
}

/// Checks every word of a list and takes it out of its place in the file.
fn words(
    source: Source<'_>,
    list: Vec<Spanned<String>>,
    most: usize,
    fits: impl Fn(&str) -> bool,
    expected: &str,
) -> Result<Vec<String>, DefinitionError> {
    let mut taken = Vec::with_capacity(list.len());
    for word in list {
        let at = word.span().start;
        if taken.len() == most {
            return Err(source.error_at(at, format!("more than {most} entries")));
        }
        let word = word.into_inner();
        if !fits(&word) {
            return Err(source.error_at(at, format!("{word:?} is not accepted, expected {expected}")));
        }
        if taken.contains(&word) && expected != WORD_OF_ARGV {
            return Err(source.error_at(at, format!("{word:?} is there twice, expected it once")));
        }
        taken.push(word);
    }
    Ok(taken)
}

const WORD_OF_ARGV: &str = "a program or argument of 1 to 200 bytes without control characters";

impl RoleDef {
    /// Reads one role file.
    pub fn parse(file: &str, text: &str) -> Result<Self, DefinitionError> {
        let source = Source { file, text };
        let raw: RoleFile = source.parse()?;
        if !is_name(raw.name.get_ref()) {
            let what = format!("role name {:?}, expected a letter a-z and up to 31 of a-z, 0-9, -", raw.name.get_ref());
            return Err(source.error_at(raw.name.span().start, what));
        }
        if raw.purpose.get_ref().is_empty() || raw.purpose.get_ref().len() > TEXT_MAX_BYTES {
            let what = format!("purpose, expected a sentence of 1 to {TEXT_MAX_BYTES} bytes");
            return Err(source.error_at(raw.purpose.span().start, what));
        }
        if let Some(max) = raw.max.as_ref().filter(|max| *max.get_ref() == 0 || *max.get_ref() < raw.min) {
            let what = format!("max = {}, expected at least 1 and at least min = {}", max.get_ref(), raw.min);
            return Err(source.error_at(max.span().start, what));
        }
        let capability = "tool:, language:, label:, arch:, distro: or virt: and a name, gpu, docker, or a bare word";
        let argv_word = |word: &str| (1..=200).contains(&word.len()) && !word.contains(|c: char| c.is_control());
        let service = |name: &str| {
            (1..=64).contains(&name.len())
                && !name.starts_with('-')
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'-'))
        };
        let config = match raw.config {
            None => Map::new(),
            Some(table) => {
                let at = table.span().start;
                table_to_json(table.into_inner()).map_err(|what| source.error_at(at, what))?
            }
        };
        let debian = |name: &str| Family::Debian.accepts_package(name);
        let gentoo = |name: &str| Family::Gentoo.accepts_package(name);
        Ok(Self {
            name: raw.name.into_inner(),
            purpose: raw.purpose.into_inner(),
            rank: raw.rank,
            max: raw.max.map(Spanned::into_inner),
            min: raw.min,
            packages: Packages {
                debian: words(source, raw.packages.debian, PACKAGES_MAX, debian, "a Debian package name")?,
                gentoo: words(source, raw.packages.gentoo, PACKAGES_MAX, gentoo, "category/package")?,
            },
            config,
            requires: words(source, raw.requires, 32, is_capability, capability)?.into_iter().collect(),
            services: words(source, raw.services, 32, service, "the name of a service")?,
            health_check: words(source, raw.health_check, ARGV_MAX, argv_word, WORD_OF_ARGV)?,
            takes_builds: raw.takes_builds,
        })
    }
}

/// Configuration as JSON, which is what `identity.json` and the API speak; it has no dates and no infinities.
fn table_to_json(table: toml::Table) -> Result<Map<String, Value>, String> {
    table.into_iter().map(|(key, value)| Ok((key.clone(), value_to_json(&key, value)?))).collect()
}

fn value_to_json(key: &str, value: toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Boolean(flag) => Value::Bool(flag),
        toml::Value::Array(items) => {
            Value::Array(items.into_iter().map(|item| value_to_json(key, item)).collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => Value::Object(table_to_json(table)?),
        toml::Value::Float(_) | toml::Value::Datetime(_) => {
            return Err(format!("config key {key:?}: expected text, whole numbers, true/false, lists or tables"));
        }
    })
}

/// All roles a node knows.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RoleSet {
    roles: BTreeMap<String, RoleDef>,
}

impl RoleSet {
    /// Reads role files, given as (file name, text). Refuses the whole set for one bad file.
    pub fn parse<F: AsRef<str>, T: AsRef<str>>(
        files: impl IntoIterator<Item = (F, T)>,
    ) -> Result<Self, DefinitionError> {
        let mut set = Self::default();
        for (file, text) in files {
            let source = Source { file: file.as_ref(), text: text.as_ref() };
            let role = RoleDef::parse(source.file, source.text)?;
            let name_at = source.text.find(&role.name).unwrap_or(0);
            if set.roles.contains_key(&role.name) {
                let what = format!("role {:?} is defined by another file too, expected a name of its own", role.name);
                return Err(source.error_at(name_at, what));
            }
            if set.roles.len() == ROLES_MAX {
                return Err(source.error_at(0, format!("more than {ROLES_MAX} roles")));
            }
            set.roles.insert(role.name.clone(), role);
        }
        Ok(set)
    }

    /// A role by name.
    pub fn get(&self, name: &str) -> Option<&RoleDef> {
        self.roles.get(name)
    }

    /// All roles, by name.
    pub fn iter(&self) -> impl Iterator<Item = &RoleDef> {
        self.roles.values()
    }

    /// Names, for messages.
    pub fn names(&self) -> String {
        self.roles.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// The order in which roles with equal votes are taken: rank, then name.
    pub fn tie_order<'a>(&self, name: &'a str) -> (u32, &'a str) {
        (self.get(name).map_or(RANK_UNKNOWN, |role| role.rank), name)
    }

    /// The lower of a cap and the role's `max`.
    pub fn effective_cap(&self, name: &str, cap: Option<u32>) -> Option<u32> {
        let max = self.get(name).and_then(|role| role.max);
        match (cap, max) {
            (Some(cap), Some(max)) => Some(cap.min(max)),
            (cap, max) => cap.or(max),
        }
    }

    /// Digest over all definitions, independent of the files they came from, their order and their layout.
    pub fn digest(&self) -> Sha256Hash {
        let mut hasher = Sha256::new();
        hasher.update(b"hive roles 1\n");
        for role in self.roles.values() {
            hasher.update(canonical(role).as_bytes());
            hasher.update(b"\n");
        }
        Sha256Hash(hasher.finalize().into())
    }
}

/// One JSON text per role, keys sorted at every level whatever map `serde_json` was built with.
fn canonical(role: &RoleDef) -> String {
    fn write(value: &Value, out: &mut String) {
        match value {
            Value::Object(map) => {
                let sorted: BTreeMap<&String, &Value> = map.iter().collect();
                out.push('{');
                for (key, value) in sorted {
                    out.push_str(&Value::String(key.clone()).to_string());
                    out.push(':');
                    write(value, out);
                    out.push(',');
                }
                out.push('}');
            }
            Value::Array(items) => {
                out.push('[');
                for item in items {
                    write(item, out);
                    out.push(',');
                }
                out.push(']');
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => out.push_str(&value.to_string()),
        }
    }
    let mut out = String::new();
    // A RoleDef has string keys and no floats, so it always has a JSON form; `Null` would only make digests differ.
    write(&serde_json::to_value(role).unwrap_or(Value::Null), &mut out);
    out
}

/// How many members hold each role, without `except` and without those who left. The founder counts as [`FOUNDER`] until it
/// claims another role.
pub fn census<'a>(members: impl IntoIterator<Item = &'a Member>, except: Option<&PeerId>) -> BTreeMap<String, u32> {
    let mut census = BTreeMap::new();
    for member in members {
        if member.left || Some(&member.info.peer_id) == except {
            continue;
        }
        let role = match &member.role {
            Some(claim) => claim.role.as_str(),
            None if member.founder => FOUNDER,
            None => continue,
        };
        *census.entry(role.to_owned()).or_insert(0) += 1;
    }
    census
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILDER: &str = r#"
name = "builder"
purpose = "Builds."
rank = 20
min = 1
requires = ["tool:git", "gpu"]
health_check = ["mvn", "--version"]

[packages]
debian = ["openjdk-17-jdk", "git"]
gentoo = ["dev-vcs/git"]

[config]
build_slots = 4
nested = { b = 1, a = ["x"] }
"#;

    fn error_of(text: &str) -> DefinitionError {
        RoleDef::parse("roles/x.toml", text).expect_err("must be refused")
    }

    #[test]
    fn a_definition_is_read_with_its_defaults() {
        let role = RoleDef::parse("roles/builder.toml", BUILDER).expect("valid");
        assert_eq!(role.packages_on("ubuntu"), ["openjdk-17-jdk", "git"]);
        assert_eq!(role.packages_on("gentoo"), ["dev-vcs/git"]);
        assert!(role.packages_on("plan9").is_empty());
        assert_eq!(role.config["build_slots"], 4);
        assert!(role.takes_builds);
        assert_eq!(role.max, None);
    }

    #[test]
    fn errors_name_file_line_and_what_was_expected() {
        let cases: &[(&str, &str, usize, &str)] = &[
            ("name = \"builder\"", "name = \"Builder\"", 2, "expected a letter a-z"),
            ("name = \"builder\"", "name = \"\"", 2, "expected a letter a-z"),
            ("rank = 20", "rank = -1", 4, "u32"),
            ("rank = 20", "rnak = 20", 4, "unknown field `rnak`, expected one of"),
            ("rank = 20", "rank = 20\nmax = 0", 5, "at least 1"),
            ("min = 1", "min = 3\nmax = 2", 6, "at least min = 3"),
            ("\"git\"]", "\"--git\"]", 10, "expected a Debian package name"),
            ("\"git\"]", "\"git\", \"git\"]", 10, "twice"),
            ("dev-vcs/git", "git", 11, "expected category/package"),
            ("tool:git", "shell:git", 6, "tool:, language:"),
            ("build_slots = 4", "build_slots = 4.5", 13, "whole numbers"),
            ("build_slots = 4", "build_slots = 1979-05-27", 13, "whole numbers"),
            ("[config]", "[confg]", 13, "unknown field `confg`"),
            ("purpose = \"Builds.\"", "purpose = \"\"", 3, "expected a sentence"),
            ("\"--version\"", "\"\\u0007\"", 7, "without control characters"),
        ];
        for (from, to, line, expected) in cases {
            assert!(BUILDER.contains(from), "{from}");
            let error = error_of(&BUILDER.replace(from, to));
            assert_eq!(error.file, "roles/x.toml");
            assert!(error.what.contains(expected), "{to}: {error}");
            assert_eq!(error.line, *line, "{to}: {error}");
        }
        assert!(error_of("purpose = \"x\"\nrank = 1").what.contains("name"));
        assert!(error_of(&format!("{BUILDER}\n#{}", "x".repeat(DEFINITION_MAX_BYTES))).what.contains("at most"));
        assert_eq!(error_of("name = ").to_string().split(':').nth(1), Some("1"));
    }

    #[test]
    fn two_files_must_not_define_the_same_role() {
        let error = RoleSet::parse([("a.toml", BUILDER), ("b.toml", BUILDER)]).expect_err("duplicate");
        assert_eq!((error.file.as_str(), error.line), ("b.toml", 2));
    }

    #[test]
    fn the_digest_depends_on_meaning_and_on_nothing_else() {
        let runner = "name = \"runner\"\npurpose = \"Tests.\"\nrank = 30\n";
        let one = RoleSet::parse([("a", BUILDER), ("b", runner)]).expect("valid");
        let reordered = BUILDER.replace("b = 1, a = [\"x\"]", "a = [\"x\"], b = 1").replace("min = 1\n", "") + "\n";
        let reordered = reordered.replace("rank = 20", "min = 1 # comment\nrank = 20");
        let other = RoleSet::parse([("z", runner), ("y", reordered.as_str())]).expect("valid");
        assert_eq!(one.digest(), other.digest());
        let changed =
            RoleSet::parse([("a", BUILDER.replace("build_slots = 4", "build_slots = 5")), ("b", runner.into())]);
        assert_ne!(one.digest(), changed.expect("valid").digest());
    }

    #[test]
    fn capabilities_match_what_the_machine_has() {
        let mut node = Inventory { arch: "x86_64".into(), distro: "debian".into(), ..Inventory::default() };
        node.tools.insert("git".into(), "2.39".into());
        node.languages.insert("java".into());
        node.labels.insert("fast".into());
        for has in ["git", "tool:git", "java", "language:java", "fast", "label:fast", "arch:x86_64", "distro:debian"] {
            assert!(has_capability(&node, has), "{has}");
        }
        for lacks in ["gpu", "docker", "tool:java", "label:git", "arch:arm", "virt:lxc", "nonsense:git", ""] {
            assert!(!has_capability(&node, lacks), "{lacks}");
        }
        node.has_gpu = true;
        assert!(has_capability(&node, "gpu"));
        let role = RoleDef::parse("f", BUILDER).expect("valid");
        assert_eq!(role.lacks(&node), None);
        node.tools.clear();
        assert_eq!(role.lacks(&node), Some("tool:git"));
    }
}
