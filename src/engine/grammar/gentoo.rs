//! Names of Gentoo: packages, versions and atoms, after the Package Manager Specification (chapters 3 and 8).
//!
//! Only what may be queued is accepted: one package, or exactly one version of it. Ranges and USE dependencies are the
//! resolver's. Never done here: looking into a tree.

use super::{GrammarError, Rule, alphanumeric, refuse};

/// A package of Gentoo: `category/name`, without version, slot or operator.
pub fn gentoo_package(atom: &str) -> Result<(), GrammarError> {
    const EXPECTED: &str = "category/name, each of 1 to 63 letters, digits, '+', '_' and '-', in category also '.'";
    const FIELD: &str = "package atom";
    let Some((category, name)) = atom.split_once('/') else {
        return refuse(FIELD, atom, format!("no '/' in it; expected {EXPECTED}"));
    };
    let rule =
        |rest| Rule { field: FIELD, first: |c| alphanumeric(c) || c == '_', rest, length: 1..=63, expected: EXPECTED };
    let whole = |error| GrammarError { got: atom.chars().take(80).collect(), ..error };
    rule(|c| alphanumeric(c) || matches!(c, '+' | '_' | '.' | '-')).check(category).map_err(whole)?;
    rule(|c| alphanumeric(c) || matches!(c, '+' | '_' | '-')).check(name).map_err(whole)?;
    if split_version(atom).is_some() {
        return refuse(FIELD, atom, format!("ends in a version; for exactly this one write ={atom}"));
    }
    Ok(())
}

/// What [`Work::Portage`] builds: `category/name`, or `=category/name-version` for one version; with `:slot` and
/// `::repository` if need be.
pub fn gentoo_atom(atom: &str) -> Result<(), GrammarError> {
    const FIELD: &str = "package atom";
    let refuse = |problem: &str| refuse(FIELD, atom, problem);
    if atom.len() > 255 {
        return refuse("longer than 255 bytes");
    }
    let (rest, exact) = atom.strip_prefix('=').map_or((atom, false), |rest| (rest, true));
    let (rest, repository) = rest.split_once("::").map_or((rest, None), |(rest, repository)| (rest, Some(repository)));
    let (rest, slot) = rest.split_once(':').map_or((rest, None), |(rest, slot)| (rest, Some(slot)));
    let word = |text: &str, extra: &str| {
        text.starts_with(|c: char| alphanumeric(c) || c == '_')
            && text.chars().all(|c| alphanumeric(c) || c == '_' || extra.contains(c))
    };
    if repository.is_some_and(|name| !word(name, "-")) {
        return refuse("after '::' comes the name of a repository");
    }
    if slot.is_some_and(|slot| !slot.split('/').all(|part| word(part, "+.-")) || slot.split('/').count() > 2) {
        return refuse("after ':' comes a slot: 0, 3.12 or 0/1.2");
    }
    if !exact {
        return gentoo_package(rest);
    }
    match split_version(rest) {
        Some((package, _)) => gentoo_package(package),
        None => refuse("after '=' comes a package with its version: =dev-libs/foo-1.2-r1"),
    }
}

/// What people and older queues write: a bare `category/name-1.2` means exactly this version. All else stays as it is.
pub fn gentoo_normalised(text: &str) -> String {
    let end = text.find(':').unwrap_or(text.len());
    let is_bare = text.starts_with(|c: char| alphanumeric(c) || c == '_') && split_version(&text[..end]).is_some();
    if is_bare { format!("={text}") } else { text.to_owned() }
}

/// `category/name-1.2-r1` as package and version; none when there is no version at its end.
pub fn split_version(text: &str) -> Option<(&str, &str)> {
    let starts = text.match_indices('-').map(|(position, _)| position);
    let mut candidates = starts.filter(|position| is_gentoo_version(&text[position + 1..]));
    candidates.next().map(|position| (&text[..position], &text[position + 1..]))
}

/// `1.2.3b_rc2-r1`, as the Package Manager Specification (3.2) has it.
fn is_gentoo_version(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (text, revision) = text.split_once("-r").map_or((text, "0"), |(text, revision)| (text, revision));
    let mut parts = text.split('_');
    let numbers = parts.next().unwrap_or_default();
    let numbers = numbers.strip_suffix(|c: char| c.is_ascii_lowercase()).unwrap_or(numbers);
    let suffix = |part: &str| {
        ["alpha", "beta", "pre", "rc", "p"]
            .iter()
            .any(|word| part.strip_prefix(word).is_some_and(|number| number.is_empty() || digits(number)))
    };
    digits(revision) && numbers.split('.').all(digits) && parts.all(suffix)
}

/// `category/name` of an atom that follows [`gentoo_atom`].
pub fn package_of_atom(atom: &str) -> &str {
    let rest = atom.strip_prefix('=').unwrap_or(atom);
    let rest = rest.split(':').next().unwrap_or(rest);
    if atom.starts_with('=') { split_version(rest).map_or(rest, |(package, _)| package) } else { rest }
}

/// What a resolution starts from: an atom, or a set (`@world`, `@system`, one of the drone's own).
pub fn gentoo_target(target: &str) -> Result<(), GrammarError> {
    let Some(set) = target.strip_prefix('@') else { return gentoo_atom(target) };
    Rule {
        field: "package set",
        first: alphanumeric,
        rest: |c| alphanumeric(c) || matches!(c, '_' | '-'),
        length: 1..=63,
        expected: "a name of 1 to 63 letters, digits, '_' or '-' after '@'",
    }
    .check(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::grammar::tests::{all_accepted, all_refused};

    #[test]
    fn packages_of_gentoo_have_a_category_and_no_version() {
        all_accepted(gentoo_package, &["dev-vcs/git", "sys-devel/gcc", "x11-libs/gtk+", "virtual/jdk", "app-misc/_x"]);
        all_refused(
            gentoo_package,
            &[
                "git",
                "-x/y",
                "a/-y",
                "a/b/c",
                ">=dev-vcs/git-2",
                "=dev-vcs/git-2.1",
                "a/b:0",
                "a/b[use]",
                "@world",
                "a/",
                "/b",
                "a/b.c d",
                "a/b c",
            ],
        );
    }

    #[test]
    fn a_bare_version_becomes_exactly_that_one() {
        for (text, normal) in [
            ("dev-vcs/git-2.45.1", "=dev-vcs/git-2.45.1"),
            ("dev-vcs/git-2.45.1-r2:0::gentoo", "=dev-vcs/git-2.45.1-r2:0::gentoo"),
            ("dev-vcs/git", "dev-vcs/git"),
            ("dev-lang/python:3.12", "dev-lang/python:3.12"),
            ("app-misc/font-2b-tools", "app-misc/font-2b-tools"),
            ("=dev-vcs/git-2", "=dev-vcs/git-2"),
            (">=dev-vcs/git-2", ">=dev-vcs/git-2"),
            ("-x/y-1", "-x/y-1"),
            ("@world", "@world"),
        ] {
            assert_eq!(gentoo_normalised(text), normal);
            assert_eq!(gentoo_normalised(normal), normal, "once is enough");
        }
    }

    #[test]
    fn an_atom_is_a_package_or_exactly_one_version_of_it() {
        all_accepted(
            gentoo_atom,
            &[
                "dev-vcs/git",
                "=dev-vcs/git-2.45.1",
                "=dev-lang/python-3.12.4_p1-r2:3.12",
                "=x11-libs/gtk+-2.24.33-r3:2/2.0::gentoo",
                "=media-libs/libpng-1.6.43b",
                "dev-lang/python:3.12",
                "app-misc/hello::tiny",
                "=sys-devel/gcc-14.0.0_pre20240101",
            ],
        );
        all_refused(
            gentoo_atom,
            &[
                "",
                "git",
                "=dev-vcs/git",
                "dev-vcs/git-2.45",
                "=app-misc/font-2-3.0",
                ">=dev-vcs/git-2",
                "~dev-vcs/git-2",
                "!dev-vcs/git",
                "dev-vcs/git[doc]",
                "=dev-vcs/git-2*",
                "dev-vcs/git:",
                "dev-vcs/git:0/1/2",
                "dev-vcs/git::",
                "dev-vcs/git::-x",
                "=dev-vcs/git-1.",
                "=dev-vcs/git-1_x1",
                "=dev-vcs/git-1-r",
                "--all/x",
                "a/b c",
            ],
        );
        assert!(gentoo_atom(&format!("a/{}", "b".repeat(300))).is_err());
    }

    #[test]
    fn an_atom_names_its_package() {
        for (atom, package) in [
            ("dev-vcs/git", "dev-vcs/git"),
            ("dev-lang/python:3.12", "dev-lang/python"),
            ("=dev-lang/python-3.12.4-r2:3.12::gentoo", "dev-lang/python"),
            ("=x11-libs/gtk+-2.24.33-r3", "x11-libs/gtk+"),
        ] {
            assert_eq!(package_of_atom(atom), package, "{atom}");
        }
    }

    #[test]
    fn a_resolution_starts_from_atoms_and_sets() {
        all_accepted(gentoo_target, &["@world", "@system", "@my-set_1", "dev-vcs/git"]);
        all_refused(gentoo_target, &["@", "@-x", "@a b", "@a/b", "world"]);
    }
}
