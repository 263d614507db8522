//! What `emerge --pretend --verbose` says, as data.
//!
//! Portage has no output for programs; its list is the one thing about a resolution that has stayed the same for twenty years,
//! `[ebuild  N     ] category/name-version:slot::repository [old] to ROOT USE="…" size`, while the objects behind it are private
//! and change. Sentences about failures are looked for one by one; one that is not known ends as "see the log". Never done here:
//! running anything, or edges, which the list does not have.

use crate::engine::grammar;
use crate::engine::plan::{Planned, PlannedKind};

/// Why nothing can be built, in Portage's view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No such package, version or set; names that look like it.
    Unknown { what: String, nearest: Vec<String> },
    /// There, but not permitted here.
    Masked { what: String, reasons: Vec<String> },
    /// Flags, requirements or conflicts that exclude each other.
    Unsatisfiable { what: String, problem: &'static str },
    /// Packages that need each other to be built, the first one again at the end.
    Cycle(Vec<String>),
}

impl Trouble {
    /// One sentence.
    pub(super) fn sentence(&self) -> String {
        match self {
            Self::Unknown { what, nearest } if nearest.is_empty() => format!("no package in the tree fits {what}"),
            Self::Unknown { what, nearest } => {
                format!("no package in the tree fits {what}; the nearest are {}", nearest.join(", "))
            }
            Self::Masked { what, reasons } if reasons.is_empty() => format!("{what} is masked"),
            Self::Masked { what, reasons } => format!("{what} is masked: {}", reasons.join("; ")),
            Self::Unsatisfiable { what, problem } if what.is_empty() => (*problem).to_owned(),
            Self::Unsatisfiable { what, problem } => format!("{what}: {problem}"),
            Self::Cycle(members) => format!("packages need each other to be built: {}", members.join(" → ")),
        }
    }
}

/// The list, in the order of installation. Lines of other kinds are passed over.
pub(super) fn list(output: &str) -> Vec<Planned> {
    output.lines().filter_map(planned).collect()
}

fn planned(line: &str) -> Option<Planned> {
    let (kind, rest) = if let Some(rest) = line.strip_prefix("[ebuild ") {
        (PlannedKind::Ebuild, rest)
    } else {
        (PlannedKind::Binary, line.strip_prefix("[binary ")?)
    };
    let (_, rest) = rest.split_once(']')?;
    let (name, rest) = rest.trim_start().split_once(' ').unwrap_or((rest.trim(), ""));
    let (name, repository) = name.split_once("::")?;
    let (name, slot) = name.split_once(':').unwrap_or((name, "0"));
    // Of a binary package the number of its build stands behind the version.
    let unnumbered = name.rsplit_once('-').filter(|(_, number)| {
        kind == PlannedKind::Binary && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    let split = unnumbered.and_then(|(name, _)| grammar::split_version(name)).or_else(|| grammar::split_version(name));
    let (package, revision) = split?;
    let planned = Planned {
        package: package.to_owned(),
        revision: revision.to_owned(),
        slot: slot.to_owned(),
        repository: repository.to_owned(),
        kind,
        root: root(rest).filter(|root| *root != "/").map(str::to_owned),
        uses: uses(rest),
        needs: Vec::new(),
    };
    grammar::gentoo_atom(&planned.atom()).is_ok().then_some(planned)
}

fn root(rest: &str) -> Option<&str> {
    let (_, after) = rest.split_once("to /").filter(|(before, _)| !before.contains("=\""))?;
    let start = rest.len() - after.len() - 1;
    rest[start..].split(' ').next()
}

/// `USE="a -b (c*)" PYTHON_TARGETS="python3_12"` as `a`, `-b`, `c`, `python_targets_python3_12`.
fn uses(rest: &str) -> Vec<String> {
    let mut uses = Vec::new();
    let mut rest = rest;
    while let Some((before, after)) = rest.split_once("=\"") {
        let Some((values, next)) = after.split_once('"') else { break };
        rest = next;
        let name = before.rsplit(' ').next().unwrap_or_default();
        let prefix = if name == "USE" { String::new() } else { format!("{}_", name.to_ascii_lowercase()) };
        for word in values.split_whitespace() {
            let word = word.trim_matches(['(', ')', '{', '}', '*', '%']);
            let (off, flag) = word.strip_prefix('-').map_or(("", word), |flag| ("-", flag));
            if !flag.is_empty() {
                uses.push(format!("{off}{prefix}{flag}"));
            }
        }
    }
    uses
}

/// The text between two marks in one line.
fn between<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(before)?;
    rest.split_once(after).map(|(text, _)| text)
}

/// What the output says about a resolution that failed; none when it says nothing that is known here.
pub(super) fn trouble(output: &str) -> Option<Trouble> {
    let lines: Vec<&str> = output.lines().collect();
    if let Some(start) = lines.iter().position(|line| line.contains("circular dependencies:")) {
        return Some(cycle(&lines[start + 1..]));
    }
    lines.iter().enumerate().find_map(|(position, line)| about(line, &lines[position + 1..]))
}

fn about(line: &str, following: &[&str]) -> Option<Trouble> {
    let needed_by = || {
        let by = following.iter().find_map(|line| between(line, "(dependency required by \"", "\""));
        by.map(|by| format!(" (needed by {by})")).unwrap_or_default()
    };
    for start in ["there are no ebuilds to satisfy \"", "there are no binary packages to satisfy \""] {
        if let Some(what) = between(line, start, "\"") {
            return Some(Trouble::Unknown { what: format!("{what}{}", needed_by()), nearest: nearest(following) });
        }
    }
    if let Some(what) = between(line, "There are no sets to satisfy '", "'") {
        return Some(Trouble::Unknown { what: format!("@{what}"), nearest: Vec::new() });
    }
    if let Some(what) = between(line, "All ebuilds that could satisfy \"", "\"") {
        let reasons = following.iter().take_while(|line| !line.is_empty()).filter(|line| line.starts_with("- "));
        let reasons = reasons.filter_map(|line| between(line, "(masked by: ", ")")).take(5).map(str::to_owned);
        return Some(Trouble::Masked { what: format!("{what}{}", needed_by()), reasons: reasons.collect() });
    }
    if let Some(what) = between(line, "no ebuilds built with USE flags to satisfy \"", "\"") {
        let problem = "no package has the flags that are demanded";
        return Some(Trouble::Unsatisfiable { what: format!("{what}{}", needed_by()), problem });
    }
    if let Some(what) = between(line, "The ebuild selected to satisfy \"", "\"") {
        let problem = "its REQUIRED_USE is not fulfilled by this drone's flags";
        return Some(Trouble::Unsatisfiable { what: format!("{what}{}", needed_by()), problem });
    }
    if line.contains("Multiple package instances within a single package slot") {
        let problem = "two versions are demanded for one slot";
        return Some(Trouble::Unsatisfiable { what: String::new(), problem });
    }
    if line.starts_with("Conflict: ") && line.contains("unsatisfied") {
        let problem = "packages block each other";
        return Some(Trouble::Unsatisfiable { what: String::new(), problem });
    }
    None
}

/// `Maybe you meant any of these: a, b?` or `Maybe you meant a?`
fn nearest(following: &[&str]) -> Vec<String> {
    let Some((_, names)) = following.iter().find_map(|line| line.split_once("Maybe you meant ")) else {
        return Vec::new();
    };
    let names = names.strip_prefix("any of these: ").unwrap_or(names).trim_end_matches('?');
    let names = names.split(", ").map(str::trim).filter(|name| grammar::gentoo_package(name).is_ok());
    names.take(5).map(str::to_owned).collect()
}

/// Lines of `(category/name-1.0:0/0::repository, ebuild scheduled …) depends on`, each one further in.
fn cycle(lines: &[&str]) -> Trouble {
    let names = lines.iter().skip_while(|line| line.trim().is_empty()).take_while(|line| !line.trim().is_empty());
    let names = names.filter_map(|line| line.trim_start().strip_prefix('('));
    let names = names.filter_map(|line| line.split([':', ',']).next()).map(str::to_owned);
    Trouble::Cycle(names.take(20).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Portage 3.0.83 printed it.
    const LIST: &str = include_str!("../../../../tests/portage/pretend/list.txt");

    #[test]
    fn lists_of_real_resolutions_are_read() {
        let found = list(LIST);
        let names: Vec<String> = found.iter().map(Planned::atom).collect();
        assert_eq!(
            names,
            [
                "=dev-libs/libswarm-1.0:0::tiny",
                "=app-misc/slotted-1.0:2/3::tiny",
                "=app-misc/hello-swarm-1.0:0::tiny",
                "=dev-libs/libswarm-1.0:0::tiny",
                "=app-misc/hello-swarm-1.0:0::tiny",
            ]
        );
        assert_eq!(found[1].uses, ["x", "-y"]);
        assert_eq!(found[0].root.as_deref(), Some("/tmp/roots/2/"));
        assert_eq!(found[3].kind, PlannedKind::Binary);
        assert!(found.iter().enumerate().all(|(index, one)| (one.kind == PlannedKind::Binary) == (index == 3)));
    }

    #[test]
    fn marks_of_changed_forced_and_expanded_flags_are_taken_off() {
        let line = "[ebuild     U  ] dev-lang/python-3.12.4_p1-r2:3.12::gentoo [3.12.3:3.12::gentoo] USE=\"ssl* (-test) {x%} -berkdb\" PYTHON_TARGETS=\"python3_12 -python3_11\" 10 KiB";
        let found = planned(line).expect("read");
        assert_eq!((found.package.as_str(), found.revision.as_str()), ("dev-lang/python", "3.12.4_p1-r2"));
        assert_eq!((found.slot.as_str(), found.root), ("3.12", None));
        assert_eq!(
            found.uses,
            ["ssl", "-test", "x", "-berkdb", "python_targets_python3_12", "-python_targets_python3_11"]
        );
        for other in [
            "[nomerge       ] a/b-1::x",
            "[blocks B      ] a/b",
            "[ebuild  N ] nonsense",
            "[ebuild  N     ] a/b-1",
            "x",
        ] {
            assert_eq!(planned(other), None, "{other}");
        }
    }

    #[test]
    fn failures_of_real_resolutions_become_a_sentence() {
        for (name, sentence) in [
            (
                "unknown",
                "no package in the tree fits app-misc/helo-swarm; the nearest are app-misc/hello-swarm, app-misc/cycle-a, app-misc/blocker",
            ),
            ("version", "no package in the tree fits =app-misc/hello-swarm-9"),
            ("masked", "app-misc/masked is masked: package.mask"),
            ("keyworded", "app-misc/keyworded is masked: ~amd64 keyword"),
            (
                "missing",
                "no package in the tree fits dev-libs/nothing-here (needed by app-misc/needs-nothing-1.0::tiny)",
            ),
            (
                "cycle",
                "packages need each other to be built: app-misc/cycle-b-1.0 → app-misc/cycle-a-1.0 → app-misc/cycle-b-1.0",
            ),
            ("blocked", "packages block each other"),
            (
                "flags",
                "app-misc/hello-swarm[-shout] (needed by app-misc/usedep-1.0::tiny): no package has the flags that are demanded",
            ),
            ("required", "app-misc/reqd: its REQUIRED_USE is not fulfilled by this drone's flags"),
            ("set", "no package in the tree fits @nosuch"),
        ] {
            let path = format!("{}/tests/portage/pretend/{name}.txt", env!("CARGO_MANIFEST_DIR"));
            let output = std::fs::read_to_string(&path).expect("reads");
            assert_eq!(trouble(&output).map(|trouble| trouble.sentence()).as_deref(), Some(sentence), "{name}");
        }
        assert_eq!(trouble(LIST), None);
        assert_eq!(trouble("Traceback (most recent call last):"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_output_is_read_without_panic(text in "(\\[(ebuild|binary) .{0,12}\\] ?.{0,60}\n|.{0,80}\n){0,6}") {
            for planned in list(&text) {
                proptest::prop_assert!(grammar::gentoo_atom(&planned.atom()).is_ok());
            }
            let _ = trouble(&text);
        }
    }
}
