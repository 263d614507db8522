//! What may be queued: the limits and grammars of a submission, checked before it is proposed and again by every replica.
//!
//! Nothing here is ever passed to a shell; the grammars keep text out that a program could take for an option, a path out of
//! its directory or a terminal sequence. Never done here: asking whether a repository or package exists.

use super::{Artifact, DebianSource, JobSpec, Limits, Source, Work};

/// Longest label.
pub const LABEL_MAX_LEN: usize = 64;
/// Most labels of one job.
pub const LABELS_MAX: usize = 32;
/// Lowest and highest priority.
pub const PRIORITY_RANGE: std::ops::RangeInclusive<i32> = -100..=100;
/// Most arguments of a command, the program included.
pub const ARGV_MAX: usize = 256;
/// Most bytes of all arguments together: leaves room for the rest of the command in its 64 KiB.
pub const ARGV_MAX_BYTES: usize = 32 << 10;
/// Most artifact patterns of a command.
pub const PATTERNS_MAX: usize = 64;
/// Most files that one attempt may produce.
pub const ARTIFACTS_MAX: usize = 256;
/// Largest archive of a local directory.
pub const SOURCE_MAX_BYTES: u64 = 1 << 30;
/// Longest wall-clock limit: a week, longer than any package that people build.
pub const TIMEOUT_MAX_MS: u64 = 7 * 24 * 3_600_000;

/// Text or a number outside what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Invalid {
    /// Which part.
    pub what: &'static str,
    /// What was expected.
    pub why: String,
}

fn invalid(what: &'static str, why: impl Into<String>) -> Invalid {
    Invalid { what, why: why.into() }
}

fn require(holds: bool, what: &'static str, why: &str) -> Result<(), Invalid> {
    if holds { Ok(()) } else { Err(invalid(what, why)) }
}

/// Printable text of 1 to `max` bytes without control characters.
pub fn is_plain_text(text: &str, max: usize) -> bool {
    !text.is_empty() && text.len() <= max && !text.chars().any(char::is_control)
}

/// `[A-Za-z0-9][A-Za-z0-9._:-]{0,63}`.
pub fn is_label(text: &str) -> bool {
    text.len() <= LABEL_MAX_LEN
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}

/// Whether this is a full Git object name (SHA-1 or SHA-256), which never moves.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A branch, tag or abbreviated commit that Git accepts and that no program takes for an option.
fn is_git_ref(text: &str) -> bool {
    is_plain_text(text, 255)
        && text.is_ascii()
        && !text.starts_with(['-', '/', '.'])
        && !text.ends_with(['/', '.'])
        && !text.ends_with(".lock")
        && !["..", "//", "@{", "/."].iter().any(|part| text.contains(part))
        && !text.bytes().any(|byte| b" ~^:?*[\\".contains(&byte))
}

fn is_git_url(text: &str) -> bool {
    let printable = is_plain_text(text, 1_024) && !text.contains(char::is_whitespace);
    let schemes = ["https://", "http://", "ssh://", "git://", "file:///"];
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    // A host that begins with a dash would reach ssh as an option.
    printable && (text.starts_with('/') || rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('-')))
}

/// Debian policy 5.6.1.
fn is_debian_package(text: &str) -> bool {
    (2..=128).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+.-".contains(&byte))
}

/// Debian policy 5.6.12.
fn is_debian_version(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|first: char| first.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+~:-".contains(&byte))
}

/// A relative path pattern that stays in its directory.
fn is_pattern(text: &str) -> bool {
    is_plain_text(text, 256)
        && !text.starts_with('/')
        && !text.contains('\\')
        && text.split('/').all(|part| part != ".." && !part.is_empty())
}

/// A file name without any directory.
pub fn is_file_name(text: &str) -> bool {
    is_plain_text(text, 255) && !text.contains('/') && text != "." && text != ".."
}

fn check_source(source: &Source) -> Result<(), Invalid> {
    match source {
        Source::Blob { sha256: _, size } => {
            require(*size <= SOURCE_MAX_BYTES, "source", "the archive may have at most 1 GiB")
        }
        Source::Git { url, branch, commit } => {
            require(
                is_git_url(url),
                "repository",
                "expected an https, http, ssh, git or file URL or an absolute path, without spaces",
            )?;
            for (what, text) in [("branch", branch), ("commit", commit)] {
                if let Some(text) = text {
                    require(is_git_ref(text), what, "not a name that Git allows")?;
                }
            }
            Ok(())
        }
    }
}

fn check_work(work: &Work) -> Result<(), Invalid> {
    match work {
        Work::Command { source, argv, artifacts } => {
            check_source(source)?;
            require((1..=ARGV_MAX).contains(&argv.len()), "command", "expected a program and at most 255 arguments")?;
            require(argv.iter().map(String::len).sum::<usize>() <= ARGV_MAX_BYTES, "command", "longer than 32 KiB")?;
            require(!argv.iter().any(|argument| argument.contains('\0')), "command", "contains a zero byte")?;
            require(argv.first().is_some_and(|program| is_plain_text(program, 1_024)), "command", "no program")?;
            require(artifacts.len() <= PATTERNS_MAX, "artifacts", "at most 64 patterns")?;
            require(
                artifacts.iter().all(|pattern| is_pattern(pattern)),
                "artifacts",
                "expected relative patterns without '..' of at most 256 bytes",
            )
        }
        Work::Debian { source: DebianSource::Tree { source } } => check_source(source),
        Work::Debian { source: DebianSource::Archive { package, version } } => {
            require(
                is_debian_package(package),
                "package",
                "expected a Debian source package name: lower-case letters, digits, '+', '-', '.'",
            )?;
            require(
                version.as_deref().is_none_or(is_debian_version),
                "version",
                "expected a Debian version: a digit, then letters, digits, '.', '+', '~', ':', '-'",
            )
        }
    }
}

fn check_limits(limits: &Limits) -> Result<(), Invalid> {
    let timeout_ok = (1_000..=TIMEOUT_MAX_MS).contains(&limits.timeout_ms);
    require(timeout_ok, "time limit", "expected 1 s to 7 days")?;
    let silence_ok = (1_000..=TIMEOUT_MAX_MS).contains(&limits.silence_timeout_ms);
    require(silence_ok, "silence limit", "expected 1 s to 7 days")?;
    require(limits.log_max_bytes <= 1 << 30, "log limit", "at most 1 GiB")?;
    require((1..=1 << 16).contains(&limits.processes_max), "process limit", "expected 1 to 65536")?;
    require(limits.memory_max_mb <= 1 << 24, "memory limit", "at most 16 TiB")
}

/// Checks a job against every limit and grammar.
pub fn check_job(spec: &JobSpec) -> Result<(), Invalid> {
    require(is_plain_text(&spec.target, 256), "target", "expected 1 to 256 bytes without control characters")?;
    require(PRIORITY_RANGE.contains(&spec.priority), "priority", "expected -100 to 100")?;
    require(spec.labels.len() <= LABELS_MAX, "labels", "at most 32")?;
    if let Some(label) = spec.labels.iter().find(|label| !is_label(label)) {
        let shown: String = label.chars().filter(|c| !c.is_control()).take(80).collect();
        return Err(invalid(
            "label",
            format!("{shown:?} is not a letter or digit followed by up to 63 letters, digits, '.', '_', ':', '-'"),
        ));
    }
    check_limits(&spec.limits)?;
    check_work(&spec.work)
}

/// Checks what an attempt says it produced.
pub fn check_artifacts(artifacts: &[Artifact]) -> Result<(), Invalid> {
    require(artifacts.len() <= ARTIFACTS_MAX, "artifacts", "at most 256 files")?;
    require(
        artifacts.iter().all(|artifact| is_file_name(&artifact.name)),
        "artifacts",
        "expected plain file names of at most 255 bytes",
    )?;
    let names: std::collections::BTreeSet<&str> = artifacts.iter().map(|artifact| artifact.name.as_str()).collect();
    require(names.len() == artifacts.len(), "artifacts", "two files have the same name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(argv: &[&str], artifacts: &[&str]) -> Work {
        Work::Command {
            source: git("https://example.org/a.git", None, None),
            argv: argv.iter().map(|text| (*text).to_owned()).collect(),
            artifacts: artifacts.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    fn git(url: &str, branch: Option<&str>, commit: Option<&str>) -> Source {
        Source::Git { url: url.to_owned(), branch: branch.map(str::to_owned), commit: commit.map(str::to_owned) }
    }

    #[test]
    fn labels_follow_their_grammar() {
        for good in ["a", "A.b_c:d-e", "9", &"x".repeat(64)] {
            assert!(is_label(good), "{good}");
        }
        for bad in ["", "-a", ".a", "a b", "a/b", "ä", "a\n", &"x".repeat(65)] {
            assert!(!is_label(bad), "{bad}");
        }
    }

    #[test]
    fn repositories_and_refs_that_could_become_options_or_programs_are_refused() {
        for good in ["https://h/x", "ssh://git@h/x", "file:///srv/x", "/srv/x", "git://h/x", "http://h:1/x"] {
            assert_eq!(check_source(&git(good, Some("main"), Some("v1.0"))), Ok(()), "{good}");
        }
        for bad in ["", "-u", "ext::sh -c x", "ssh://-oProxyCommand=x/y", "git@h:x", "https://", "https://h/ x", "x\n"]
        {
            assert!(check_source(&git(bad, None, None)).is_err(), "{bad}");
        }
        for bad in ["-b", "a..b", "a b", "a.lock", "/a", "a/", "a~1", "a^", "a:b", "@{u}", ".a", "a//b", ""] {
            assert!(check_source(&git("/x", Some(bad), None)).is_err(), "{bad}");
            assert!(check_source(&git("/x", None, Some(bad))).is_err(), "{bad}");
        }
    }

    #[test]
    fn commands_are_bounded_and_patterns_stay_inside() {
        assert_eq!(check_work(&command(&["make", ""], &["out/*.deb", "**/x"])), Ok(()));
        let long = "x".repeat(ARGV_MAX_BYTES);
        for argv in [&[][..], &[""], &["a", "\0"], &["a", long.as_str()], &["a"; ARGV_MAX + 1]] {
            assert!(check_work(&command(argv, &[])).is_err(), "{} arguments", argv.len());
        }
        for pattern in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a\\b", "a\nb"] {
            assert!(check_work(&command(&["a"], &[pattern])).is_err(), "{pattern}");
        }
    }

    #[test]
    fn debian_names_and_versions_follow_policy() {
        let work = |package: &str, version: Option<&str>| Work::Debian {
            source: DebianSource::Archive { package: package.to_owned(), version: version.map(str::to_owned) },
        };
        for (package, version) in [("hello", None), ("g++-12", Some("1:2.10-3+deb12u1")), ("0ad", Some("0~rc1"))] {
            assert_eq!(check_work(&work(package, version)), Ok(()), "{package}");
        }
        for (package, version) in
            [("h", None), ("Hello", None), ("-x", None), ("a b", None), ("hello", Some("-1")), ("hello", Some("1;2"))]
        {
            assert!(check_work(&work(package, version)).is_err(), "{package} {version:?}");
        }
    }

    #[test]
    fn artifacts_have_distinct_plain_names() {
        let file =
            |name: &str| Artifact { name: name.to_owned(), sha256: crate::engine::id::Sha256Hash([0; 32]), size: 1 };
        assert_eq!(check_artifacts(&[file("a.deb"), file("b.deb")]), Ok(()));
        for bad in ["", ".", "..", "a/b", "a\0", "a\n"] {
            assert!(check_artifacts(&[file(bad)]).is_err(), "{bad:?}");
        }
        assert!(check_artifacts(&[file("a"), file("a")]).is_err());
        assert!(check_artifacts(&vec![file("a"); ARTIFACTS_MAX + 1]).is_err());
    }
}
