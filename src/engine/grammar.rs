//! The grammar of everything that may be queued (package names, refs, URLs, labels, patterns, programs), and of nodes' names.
//!
//! Checked by the command line, by the node that is asked, by every replica before it takes a job in, and by the drone before
//! it hands a value to a program: the same rules, so that nobody refuses what another accepted. What passes here can stand as
//! one argument of a command line: it never starts with a dash, holds no control character and has a bounded length. Never
//! done here: looking whether the thing exists.

mod gentoo;

use std::collections::BTreeSet;

pub use self::gentoo::{gentoo_atom, gentoo_normalised, gentoo_package, gentoo_target, package_of_atom, split_version};

use super::id::JobId;
use super::job::{Artifact, DebianSource, JobSpec, Limits, MavenOptions, Source, Work};

/// Longest name of a node.
pub const NODE_NAME_MAX: usize = 63;
/// Most labels of a job.
pub const LABELS_MAX: usize = 32;
/// Most artifact patterns of a job.
pub const PATTERNS_MAX: usize = 64;
/// Most files that one attempt may produce: their names and digests fit into one replicated command.
pub const ARTIFACTS_MAX: usize = 256;
/// Largest archive of a local directory, bytes.
pub const SOURCE_MAX_BYTES: u64 = 1 << 30;
/// Lowest and highest priority.
pub const PRIORITY_RANGE: std::ops::RangeInclusive<i32> = -100..=100;
/// Most arguments of a program.
pub const ARGUMENTS_MAX: usize = 256;
/// Longest program line in all, bytes; half of what one replicated command may hold.
pub const ARGUMENTS_BYTES_MAX: usize = 32 << 10;
/// Most packages or sets that one resolution starts from.
pub const TARGETS_MAX: usize = 256;
/// Most jobs that one job may wait for.
pub const DEPENDENCIES_MAX: usize = 512;
/// Longest wall clock of one attempt: seven days.
pub const TIMEOUT_MAX_MS: u64 = 7 * 86_400_000;

/// A value outside its grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}{}: {problem}", shown(got))]
pub struct GrammarError {
    /// What the value was meant to be.
    pub field: &'static str,
    /// The value, cut to 80 characters.
    pub got: String,
    /// What is wrong, and what would be accepted.
    pub problem: String,
}

fn shown(got: &str) -> String {
    if got.is_empty() { String::new() } else { format!(" {got:?}") }
}

fn refuse(field: &'static str, got: &str, problem: impl Into<String>) -> Result<(), GrammarError> {
    Err(GrammarError { field, got: got.chars().take(80).collect(), problem: problem.into() })
}

/// First character, further characters and length, as one rule.
struct Rule {
    field: &'static str,
    first: fn(char) -> bool,
    rest: fn(char) -> bool,
    length: std::ops::RangeInclusive<usize>,
    expected: &'static str,
}

impl Rule {
    fn check(&self, text: &str) -> Result<(), GrammarError> {
        if !self.length.contains(&text.len()) {
            let problem = format!("{} bytes long; expected {}", text.len(), self.expected);
            return refuse(self.field, text, problem);
        }
        for (position, character) in text.chars().enumerate() {
            let allowed = if position == 0 { (self.first)(character) } else { (self.rest)(character) };
            if !allowed {
                let problem =
                    format!("{character:?} at position {} is not allowed; expected {}", position + 1, self.expected);
                return refuse(self.field, text, problem);
            }
        }
        Ok(())
    }
}

fn lower_alphanumeric(character: char) -> bool {
    character.is_ascii_lowercase() || character.is_ascii_digit()
}

fn alphanumeric(character: char) -> bool {
    character.is_ascii_alphanumeric()
}

/// Printable text of 1 to `max` bytes without control characters: for what is shown, never run.
pub fn is_plain_text(text: &str, max: usize) -> bool {
    !text.is_empty() && text.len() <= max && !text.chars().any(char::is_control)
}

/// A Debian package name, source or binary.
pub fn debian_package(name: &str) -> Result<(), GrammarError> {
    if name.ends_with('-') {
        return refuse("package name", name, "must not end with '-', which means removal to apt");
    }
    Rule {
        field: "package name",
        first: lower_alphanumeric,
        rest: |c| lower_alphanumeric(c) || matches!(c, '+' | '.' | '-'),
        length: 2..=128,
        expected: "2 to 128 lower-case letters, digits, '+', '.' or '-', a letter or digit first",
    }
    .check(name)
}

/// A Debian version.
pub fn debian_version(version: &str) -> Result<(), GrammarError> {
    Rule {
        field: "package version",
        first: |c| c.is_ascii_digit(),
        rest: |c| alphanumeric(c) || matches!(c, '.' | '+' | '~' | ':' | '-'),
        length: 1..=128,
        expected: "1 to 128 letters, digits, '.', '+', '~', ':' or '-', a digit first",
    }
    .check(version)
}

/// The name of a secret: the environment variable under which a job sees it.
pub fn secret_name(name: &str) -> Result<(), GrammarError> {
    Rule {
        field: "secret",
        first: |c| c.is_ascii_uppercase(),
        rest: |c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_',
        length: 1..=63,
        expected: "the name of an environment variable: 1 to 63 capitals, digits and '_', a capital first",
    }
    .check(name)
}

/// A version that a tool must have at least: numbers with dots.
pub fn tool_version(version: &str) -> Result<(), GrammarError> {
    Rule {
        field: "tool version",
        first: |c| c.is_ascii_digit(),
        rest: |c| c.is_ascii_digit() || c == '.',
        length: 1..=32,
        expected: "numbers with dots between them: 3.8",
    }
    .check(version)
}

/// A label, tool or feature that a drone must have.
pub fn label(label: &str) -> Result<(), GrammarError> {
    Rule {
        field: "label",
        first: alphanumeric,
        rest: |c| alphanumeric(c) || matches!(c, '.' | '_' | '+' | ':' | '=' | '-'),
        length: 1..=63,
        expected: "1 to 63 letters, digits, '.', '_', '+', ':', '=' or '-', a letter or digit first",
    }
    .check(label)
}

/// The name under which an artifact is shown and saved: one file name, never a path.
pub fn artifact_name(name: &str) -> Result<(), GrammarError> {
    Rule {
        field: "artifact name",
        first: alphanumeric,
        rest: |c| alphanumeric(c) || matches!(c, '+' | '.' | '_' | '~' | '-'),
        length: 1..=255,
        expected: "1 to 255 letters, digits, '+', '.', '_', '~' or '-', a letter or digit first",
    }
    .check(name)
}

/// The name of a node, as it is configured, sent, shown and replicated.
pub fn node_name(name: &str) -> Result<(), GrammarError> {
    Rule {
        field: "node name",
        first: alphanumeric,
        rest: |c| alphanumeric(c) || matches!(c, '.' | '_' | '-'),
        length: 1..=NODE_NAME_MAX,
        expected: "1 to 63 letters, digits, '.', '_' or '-', a letter or digit first",
    }
    .check(name)
}

/// A network interface of Linux.
pub fn interface(name: &str) -> Result<(), GrammarError> {
    Rule {
        field: "interface",
        first: alphanumeric,
        rest: |c| alphanumeric(c) || matches!(c, '.' | '_' | '-' | '@'),
        length: 1..=15,
        expected: "1 to 15 letters, digits, '.', '_' or '-', a letter or digit first",
    }
    .check(name)
}

/// A commit: 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits.
pub fn commit(commit: &str) -> Result<(), GrammarError> {
    let hexadecimal = commit.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if hexadecimal && matches!(commit.len(), 40 | 64) {
        return Ok(());
    }
    refuse("commit", commit, "expected 40 or 64 lower-case hexadecimal digits")
}

/// A branch or tag, by the rules that Git itself has for ref names.
pub fn git_ref(name: &str) -> Result<(), GrammarError> {
    const FIELD: &str = "branch or tag";
    if name.is_empty() || name.len() > 255 {
        return refuse(FIELD, name, format!("{} bytes long; expected 1 to 255", name.len()));
    }
    if let Some(character) = name.chars().find(|&c| c.is_control() || " ~^:?*[\\".contains(c)) {
        return refuse(FIELD, name, format!("{character:?} is not allowed in a ref"));
    }
    if name.starts_with('-') {
        return refuse(FIELD, name, "must not start with '-'");
    }
    if name == "@" || name.contains("@{") || name.contains("..") || name.ends_with('.') {
        return refuse(FIELD, name, "'@' alone, '@{', '..' and a final '.' are not allowed in a ref");
    }
    if name.split('/').any(|part| part.is_empty() || part.starts_with('.') || part.ends_with(".lock")) {
        return refuse(FIELD, name, "no part between slashes may be empty, start with '.' or end with '.lock'");
    }
    Ok(())
}

/// `https`, `http`, `ssh`, `git` or `file` URL, or an absolute path. No password: what is queued is seen by everybody.
pub fn repository_url(url: &str) -> Result<(), GrammarError> {
    const FIELD: &str = "repository";
    if url.is_empty() || url.len() > 1_024 {
        return refuse(FIELD, url, format!("{} bytes long; expected 1 to 1024", url.len()));
    }
    if let Some(character) = url.chars().find(|c| c.is_control() || c.is_whitespace()) {
        return refuse(FIELD, url, format!("{character:?} is not allowed; write it as %XX"));
    }
    if url.starts_with('/') {
        return Ok(());
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return refuse(
            FIELD,
            url,
            "expected an https, http, ssh, git or file URL (ssh://user@host/path), or an absolute path",
        );
    };
    // RFC 3986, section 2: all else is written as %XX. What looks like another host to a person must not be one.
    let other = |c: &char| !c.is_ascii_alphanumeric() && !"-._~:/?#[]@!$&'()*+,;=%".contains(*c);
    if let Some(character) = url.chars().find(other) {
        return refuse(FIELD, url, format!("{character:?} is not allowed in a URL; write it as %XX"));
    }
    if scheme == "file" {
        return if rest.starts_with('/') {
            Ok(())
        } else {
            refuse(FIELD, url, "a file URL has three slashes: file:///path")
        };
    }
    if !matches!(scheme, "https" | "http" | "ssh" | "git") {
        return refuse(FIELD, url, format!("scheme {scheme:?} is not allowed; expected https, http, ssh, git or file"));
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if path.is_empty() {
        return refuse(FIELD, url, "names a host but no repository on it");
    }
    let (user, host_port) = authority.rsplit_once('@').unwrap_or(("", authority));
    if user.contains(':') {
        let shown = format!("{scheme}://…@{host_port}/{path}");
        return refuse(FIELD, &shown, "has a password in it, and what is queued is seen by everybody; leave it out");
    }
    if user.starts_with('-') || !user.chars().all(|c| alphanumeric(c) || matches!(c, '.' | '_' | '-' | '%')) {
        return refuse(FIELD, url, "the user before '@' has characters that are not allowed");
    }
    host_and_port(url, host_port)
}

fn host_and_port(url: &str, host_port: &str) -> Result<(), GrammarError> {
    const FIELD: &str = "repository";
    let (host, port) = if let Some(rest) = host_port.strip_prefix('[') {
        let Some((host, port)) = rest.split_once(']') else {
            return refuse(FIELD, url, "'[' without ']' in the host");
        };
        if host.parse::<core::net::Ipv6Addr>().is_err() {
            return refuse(FIELD, url, "expected an IPv6 address between '[' and ']'");
        }
        (host, port)
    } else {
        let end = host_port.find(':').unwrap_or(host_port.len());
        let (host, port) = host_port.split_at(end);
        if !host.chars().all(|c| alphanumeric(c) || matches!(c, '.' | '-' | '_')) {
            return refuse(FIELD, url, "the host has characters that are not allowed");
        }
        (host, port)
    };
    if host.is_empty() || host.starts_with('-') {
        return refuse(FIELD, url, "the host is empty or starts with '-'");
    }
    let port_is_valid = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    if port_is_valid { Ok(()) } else { refuse(FIELD, url, "expected a port number from 0 to 65535 after ':'") }
}

/// A pattern of files to keep, relative to the checkout: `*`, `?`, `**`, `[a-z]` and `{a,b}`.
pub fn pattern(pattern: &str) -> Result<(), GrammarError> {
    const FIELD: &str = "artifact pattern";
    if pattern.is_empty() || pattern.len() > 256 {
        return refuse(FIELD, pattern, format!("{} bytes long; expected 1 to 256", pattern.len()));
    }
    if let Some(character) = pattern.chars().find(|c| c.is_control() || *c == '\\') {
        return refuse(FIELD, pattern, format!("{character:?} is not allowed"));
    }
    if pattern.starts_with(['/', '-']) {
        return refuse(FIELD, pattern, "must be relative to the checkout and not start with '-'");
    }
    if pattern.split('/').any(|part| part == "..") {
        return refuse(FIELD, pattern, "'..' leads out of the checkout");
    }
    if pattern.split('/').any(str::is_empty) {
        return refuse(FIELD, pattern, "nothing before, after or between its slashes");
    }
    let (mut alternatives, mut rest) = (false, pattern);
    while let Some(position) = rest.find(['[', '{', '}']) {
        let (special, after) = rest[position..].split_at(1);
        rest = after;
        match (special, alternatives) {
            ("[", _) => {
                let Some((class, after)) = rest.split_once(']') else {
                    return refuse(FIELD, pattern, "'[' is never closed");
                };
                if !is_class(class) {
                    return refuse(
                        FIELD,
                        pattern,
                        format!("[{class}] is no set of characters; expected one like [a-z_]"),
                    );
                }
                rest = after;
            }
            ("{", false) => alternatives = true,
            ("}", true) => alternatives = false,
            ("{", true) => return refuse(FIELD, pattern, "'{' within '{' is not allowed"),
            _ => return refuse(FIELD, pattern, "'}' without '{'"),
        }
    }
    if alternatives { refuse(FIELD, pattern, "'{' is never closed") } else { Ok(()) }
}

/// What stands between '[' and ']': characters and ascending ranges, '-' itself first or last.
fn is_class(class: &str) -> bool {
    let class = class.strip_prefix(['!', '^']).unwrap_or(class);
    let inner = class.strip_prefix('-').unwrap_or(class);
    let mut characters = inner.strip_suffix('-').unwrap_or(inner).chars().peekable();
    while let Some(first) = characters.next() {
        if first == '-' {
            return false;
        }
        if characters.next_if_eq(&'-').is_some() && characters.next().is_none_or(|last| last == '-' || last < first) {
            return false;
        }
    }
    !class.is_empty()
}

/// A program and its arguments.
pub fn argv(argv: &[String]) -> Result<(), GrammarError> {
    const FIELD: &str = "program";
    let Some(program) = argv.first() else {
        return refuse(FIELD, "", "no program given; put it after '--'");
    };
    if program.is_empty() || program.starts_with('-') {
        return refuse(FIELD, program, "must not be empty or start with '-'");
    }
    if argv.len() > ARGUMENTS_MAX {
        return refuse(FIELD, program, format!("{} arguments; at most {ARGUMENTS_MAX} are allowed", argv.len()));
    }
    let bytes: usize = argv.iter().map(String::len).sum();
    if bytes > ARGUMENTS_BYTES_MAX {
        return refuse(
            FIELD,
            program,
            format!("{bytes} bytes of arguments; at most {ARGUMENTS_BYTES_MAX} are allowed"),
        );
    }
    match argv.iter().find(|argument| argument.contains('\0')) {
        Some(argument) => refuse("argument", argument, "holds a NUL character"),
        None => Ok(()),
    }
}

fn source(source: &Source) -> Result<(), GrammarError> {
    match source {
        Source::Blob { size, .. } if *size > SOURCE_MAX_BYTES => {
            refuse("source archive", &size.to_string(), "bytes; at most 1 GiB is allowed")
        }
        Source::Blob { .. } => Ok(()),
        Source::Git { url, branch, commit: pinned } => {
            repository_url(url)?;
            branch.as_deref().map_or(Ok(()), git_ref)?;
            pinned.as_deref().map_or(Ok(()), commit)
        }
    }
}

fn work(work: &Work) -> Result<(), GrammarError> {
    match work {
        Work::Command { source: from, argv: program, artifacts } => {
            source(from)?;
            argv(program)?;
            if artifacts.len() > PATTERNS_MAX {
                let problem = format!("{} patterns; at most {PATTERNS_MAX} are allowed", artifacts.len());
                return refuse("artifact pattern", "", problem);
            }
            artifacts.iter().try_for_each(|text| pattern(text))
        }
        Work::Debian { source: DebianSource::Archive { package, version } } => {
            debian_package(package)?;
            version.as_deref().map_or(Ok(()), debian_version)
        }
        Work::Debian { source: DebianSource::Tree { source: from } } => source(from),
        Work::Debian { source: DebianSource::Dsc { source: from, file } } => {
            source(from)?;
            artifact_name(file)?;
            if file.ends_with(".dsc") {
                Ok(())
            } else {
                refuse("source package", file, "expected a name ending in .dsc")
            }
        }
        Work::Portage { atom, tree } => {
            gentoo_atom(atom)?;
            match tree {
                Some(tree) if !is_plain_text(tree, 128) => refuse("tree", tree, "expected 1 to 128 printable bytes"),
                Some(_) | None => Ok(()),
            }
        }
        Work::Maven { source: from, goals, options, artifacts } => maven(from, goals, options, artifacts),
        Work::Resolve { targets, .. } => {
            if targets.is_empty() || targets.len() > TARGETS_MAX {
                let problem = format!("{} of them; expected 1 to {TARGETS_MAX}", targets.len());
                return refuse("package atoms", "", problem);
            }
            targets.iter().try_for_each(|target| gentoo_target(target))
        }
    }
}

fn maven(from: &Source, goals: &[String], options: &MavenOptions, artifacts: &[String]) -> Result<(), GrammarError> {
    source(from)?;
    if goals.len() > ARGUMENTS_MAX || artifacts.len() > PATTERNS_MAX || options.dummies.len() > LABELS_MAX {
        let problem = format!("at most {ARGUMENTS_MAX} goals, {PATTERNS_MAX} patterns and {LABELS_MAX} dummies");
        return refuse("maven job", "", problem);
    }
    let goal = |goal: &String| {
        let known = goal.strip_prefix("-P").or_else(|| goal.strip_prefix("-D")).unwrap_or(goal);
        let valid = is_plain_text(goal, 256) && !known.is_empty() && !known.starts_with('-');
        if valid { Ok(()) } else { refuse("goal", goal, "expected a goal, -Pprofile or -Dname=value") }
    };
    goals.iter().try_for_each(goal)?;
    if let Some(threads) = &options.threads {
        let number = threads.strip_suffix('C').unwrap_or(threads);
        if !number.parse::<f32>().is_ok_and(|number| number > 0.0 && number <= 256.0) {
            return refuse("threads", threads, "expected a number, or one followed by C: 4, 1C, 1.5C");
        }
    }
    options.dummies.iter().try_for_each(|name| debian_package(name))?;
    artifacts.iter().try_for_each(|text| pattern(text))
}

fn limits(limits: &Limits) -> Result<(), GrammarError> {
    if !(1_000..=TIMEOUT_MAX_MS).contains(&limits.timeout_ms) {
        return refuse("timeout_ms", &limits.timeout_ms.to_string(), "expected one second to seven days");
    }
    if !(1_000..=TIMEOUT_MAX_MS).contains(&limits.silence_timeout_ms) {
        let got = limits.silence_timeout_ms.to_string();
        return refuse("silence_timeout_ms", &got, "expected one second to seven days");
    }
    if !(1_024..=1 << 30).contains(&limits.log_max_bytes) {
        return refuse("log_max_bytes", &limits.log_max_bytes.to_string(), "expected 1 KiB to 1 GiB");
    }
    if !(8..=1 << 20).contains(&limits.processes_max) {
        return refuse("processes_max", &limits.processes_max.to_string(), "expected 8 to 1048576");
    }
    if limits.memory_max_mb != 0 && !(16..=1 << 24).contains(&limits.memory_max_mb) {
        return refuse("memory_max_mb", &limits.memory_max_mb.to_string(), "expected 0 (no own limit) or at least 16");
    }
    Ok(())
}

/// Everything about a job that can be wrong without looking at the world.
pub fn job(spec: &JobSpec) -> Result<(), GrammarError> {
    if spec.id == JobId(uuid::Uuid::nil()) {
        return refuse("job id", &spec.id.to_string(), "the nil UUID names nothing");
    }
    work(&spec.work)?;
    if !is_plain_text(&spec.target, 256) {
        return refuse("target", &spec.target, "expected 1 to 256 bytes without control characters");
    }
    if !PRIORITY_RANGE.contains(&spec.priority) {
        return refuse("priority", &spec.priority.to_string(), "expected −100 to 100");
    }
    if spec.labels.len() > LABELS_MAX {
        return refuse("label", "", format!("{} labels; at most {LABELS_MAX} are allowed", spec.labels.len()));
    }
    spec.labels.iter().try_for_each(|text| label(text))?;
    for (tool, version) in &spec.tools {
        label(tool)?;
        if !version.is_empty() {
            tool_version(version)?;
        }
    }
    if spec.tools.len() > LABELS_MAX || spec.secrets.len() > LABELS_MAX {
        return refuse("tools and secrets", "", format!("at most {LABELS_MAX} each are allowed"));
    }
    spec.secrets.iter().try_for_each(|name| secret_name(name))?;
    if spec.depends_on.len() > DEPENDENCIES_MAX {
        let problem = format!("{} of them; at most {DEPENDENCIES_MAX} are allowed", spec.depends_on.len());
        return refuse("dependencies", "", problem);
    }
    if spec.depends_on.contains(&spec.id) {
        return refuse("dependencies", &spec.id.to_string(), "a job cannot wait for itself");
    }
    limits(&spec.limits)
}

/// What an attempt says it produced.
pub fn artifacts(artifacts: &[Artifact]) -> Result<(), GrammarError> {
    if artifacts.len() > ARTIFACTS_MAX {
        return refuse("artifacts", &artifacts.len().to_string(), format!("files; at most {ARTIFACTS_MAX} are kept"));
    }
    let mut names = BTreeSet::new();
    for artifact in artifacts {
        artifact_name(&artifact.name)?;
        if !names.insert(artifact.name.as_str()) {
            return refuse("artifact name", &artifact.name, "two files have this name");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;
    use crate::engine::id::Sha256Hash;

    pub(super) fn all_accepted(check: fn(&str) -> Result<(), GrammarError>, good: &[&str]) {
        for text in good {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    pub(super) fn all_refused(check: fn(&str) -> Result<(), GrammarError>, bad: &[&str]) {
        for text in bad {
            assert!(check(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn package_names_and_versions_follow_debian() {
        all_accepted(debian_package, &["hello", "libstdc++6", "0ad", "g++-12", "python3.11"]);
        all_refused(
            debian_package,
            &[
                "", "a", "Hello", "-rf", "--help", "a b", "a/b", "../etc", "a;b", "a$(id)", "a\nb", "ä", "a=1",
                "@file", "make-",
            ],
        );
        assert!(debian_package(&"a".repeat(129)).is_err());
        all_accepted(debian_version, &["1.0", "2:1.0-1~bpo12+1", "2024a", "0~rc1"]);
        all_refused(debian_version, &["", "-1", "1 0", "1;0", "1/0", "~1", "a1"]);
        let message = debian_package("heLlo").expect_err("refused").to_string();
        assert!(message.starts_with("package name \"heLlo\": 'L' at position 3 is not allowed; expected"), "{message}");
    }

    #[test]
    fn labels_name_tools_languages_and_places() {
        all_accepted(label, &["a", "9", "gpu", "A.b_c:d-e", "tool:git", "lang:c++", "arch:amd64", "node:build-1.lan"]);
        all_accepted(label, &["role:java-builder", "tool:g++-12", "zone=attic", &"x".repeat(63)]);
        all_refused(label, &["", "-x", ".a", ":a", "a b", "a/b", "ä", "a\n", &"x".repeat(64)]);
    }

    #[test]
    fn refs_follow_git() {
        all_accepted(git_ref, &["main", "feature/x", "v1.0", "4.19", "a@b"]);
        all_refused(
            git_ref,
            &[
                "",
                "-x",
                "--upload-pack=x",
                "a b",
                "a..b",
                "a~1",
                "a^",
                "a:b",
                "@",
                "a@{1}",
                "/a",
                "a/",
                "a//b",
                ".a",
                "a/.b",
                "a.lock",
                "a.",
                "a\\b",
                "a\x7f",
                "a*",
            ],
        );
        all_accepted(commit, &["0123456789abcdef0123456789abcdef01234567"]);
        all_refused(commit, &["", "HEAD", "0123456", "0123456789ABCDEF0123456789ABCDEF01234567"]);
    }

    #[test]
    fn urls_are_of_known_schemes_without_passwords() {
        all_accepted(
            repository_url,
            &[
                "https://github.com/a/b.git",
                "ssh://git@host:2222/a",
                "git://[2001:db8::1]:9418/x",
                "file:///srv/x.git",
                "/srv/git/x",
                "http://10.0.0.1/x",
            ],
        );
        all_refused(
            repository_url,
            &[
                "",
                "ext::sh -c id",
                "ext::sh%20-c%20id",
                "git@host:path",
                "relative/path",
                "-oProxyCommand=x",
                "https://",
                "https://host",
                "https://host/",
                "ssh://-oProxyCommand=x/y",
                "ssh://-x@host/y",
                "https://u:p@h/x",
                "file://host/x",
                "ftp://h/x",
                "https://h/a b",
                "https://h/a\u{2215}b",
                "https://h/\u{202e}x",
                "https://h/a`b",
                "https://h/a\\b",
                "https://h/a\nb",
                "https://h:99999/x",
                "https://[::1/x",
                "https://h;id/x",
            ],
        );
        let message = repository_url("https://me:hunter2@h/x").expect_err("refused").to_string();
        assert!(!message.contains("hunter2"), "the password is not repeated: {message}");
    }

    #[test]
    fn patterns_stay_within_the_checkout() {
        all_accepted(pattern, &["*.deb", "target/**/*.jar", "out/{a,b}.txt", "dist/[a-z]*", "a..b", "[{]x", "{a,[}]}"]);
        all_accepted(pattern, &["[!a-cx]", "[-a]", "[a-]", "[^-]", "{,a}", "**"]);
        all_refused(
            pattern,
            &[
                "",
                "/etc/passwd",
                "../x",
                "a/../../x",
                "a/..",
                "-x",
                "[a",
                "{a",
                "a}",
                "{a,{b}}",
                "a\0b",
                "a\\b",
                "a//b",
                "a/",
            ],
        );
        all_refused(pattern, &["[]", "[]]", "[!]", "[z-a]", "[a-c-e]", "[--a]"]);
    }

    #[test]
    fn node_names_can_stand_in_a_command_line_and_in_a_path() {
        for good in ["a", "build-1.lan", "Build_1", "7", &"n".repeat(NODE_NAME_MAX)] {
            assert_eq!(node_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-x", ".x", "_x", "../x", "a b", "a/b", "ü", &"n".repeat(NODE_NAME_MAX + 1)] {
            assert!(node_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn artifacts_have_distinct_names() {
        let file = |name: &str| Artifact { name: name.to_owned(), sha256: Sha256Hash([0; 32]), size: 1 };
        assert_eq!(artifacts(&[file("a.deb"), file("b.deb")]), Ok(()));
        assert!(artifacts(&[file("a"), file("a")]).is_err() && artifacts(&[file("a/b")]).is_err());
        let many: Vec<Artifact> = (0..=ARTIFACTS_MAX).map(|number| file(&format!("a{number}"))).collect();
        assert!(artifacts(&many).is_err() && artifacts(&many[1..]).is_ok());
    }

    #[test]
    fn names_of_artifacts_are_file_names() {
        all_accepted(artifact_name, &["hello_2.10-3_amd64.deb", "a", "x~y+z.tar.gz"]);
        all_refused(artifact_name, &["", ".", "..", ".hidden", "-rf", "a/b", "a b", "a\0", "ä.deb", "a:b"]);
        all_refused(interface, &["", "../x", "eth0;id", "a-very-long-interface"]);
    }

    fn spec(work: Work) -> JobSpec {
        JobSpec { pure: true, ..JobSpec::new(JobId(uuid::Uuid::from_u128(1)), "x", work) }
    }

    fn command(argv: &[&str]) -> JobSpec {
        spec(Work::Command {
            source: Source::Git { url: "/srv/x".to_owned(), branch: None, commit: None },
            argv: argv.iter().map(|&text| text.to_owned()).collect(),
            artifacts: vec![],
        })
    }

    #[test]
    fn every_part_of_a_job_is_checked() {
        assert_eq!(job(&command(&["make", "-j4", "--", "weird; $(id)"])), Ok(()));
        assert!(job(&command(&[])).is_err());
        assert!(job(&command(&["-c"])).is_err());
        assert!(job(&command(&["a", "b\0"])).is_err());
        assert!(job(&command(&["x"; 300])).is_err());
        let long = "x".repeat(ARGUMENTS_BYTES_MAX);
        assert!(job(&command(&["x", &long])).is_err());
        assert!(job(&JobSpec { priority: 101, ..command(&["x"]) }).is_err());
        assert!(job(&JobSpec { target: "a\u{1b}[2J".to_owned(), ..command(&["x"]) }).is_err());
        assert!(job(&JobSpec { labels: BTreeSet::from(["a b".to_owned()]), ..command(&["x"]) }).is_err());
        assert!(job(&JobSpec { id: JobId(uuid::Uuid::nil()), ..command(&["x"]) }).is_err());
        for broken in [
            Limits { timeout_ms: 0, ..Limits::default() },
            Limits { silence_timeout_ms: u64::MAX, ..Limits::default() },
            Limits { log_max_bytes: 0, ..Limits::default() },
            Limits { processes_max: 1, ..Limits::default() },
            Limits { memory_max_mb: 1, ..Limits::default() },
        ] {
            assert!(job(&JobSpec { limits: broken, ..command(&["x"]) }).is_err());
        }
        let archive = |package: &str, version: Option<&str>| {
            let version = version.map(str::to_owned);
            spec(Work::Debian { source: DebianSource::Archive { package: package.to_owned(), version } })
        };
        assert_eq!(job(&archive("hello", Some("2.10-3"))), Ok(()));
        assert!(job(&archive("hello", Some("2;10"))).is_err());
        assert!(job(&archive("Hello", None)).is_err());
        let tree = |size| {
            let source = Source::Blob { sha256: Sha256Hash([0; 32]), size };
            spec(Work::Debian { source: DebianSource::Tree { source } })
        };
        assert_eq!(job(&tree(SOURCE_MAX_BYTES)), Ok(()));
        assert!(job(&tree(SOURCE_MAX_BYTES + 1)).is_err());
    }

    proptest! {
        #[test]
        fn what_passes_is_a_harmless_argument(text in any::<String>()) {
            for check in [debian_package, debian_version, gentoo_package, label, artifact_name, interface, commit, git_ref, repository_url, pattern] {
                if check(&text).is_ok() {
                    prop_assert!(!text.is_empty() && !text.starts_with('-') && !text.contains(['\0', '\n']));
                }
            }
        }
    }
}
