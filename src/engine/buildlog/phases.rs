//! Where the phases of a build begin, as Portage, Debian's tools and Maven print them.

use serde::{Deserialize, Serialize};

use super::lines::{Lines, Piece};
use crate::engine::harmless;

/// Only so much of a line is looked at, bytes.
const LINE_BYTES: usize = 512;
/// Longest name of a phase, characters.
const NAME_MAX: usize = 120;

/// A phase begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseStart {
    /// What it is called.
    pub name: String,
    /// Its line, from 1.
    pub line: u64,
    /// Where that line begins.
    pub offset: u64,
}

/// Finds them in a stream.
#[derive(Clone, Debug)]
pub struct PhaseScan {
    lines: Lines,
}

impl Default for PhaseScan {
    fn default() -> Self {
        Self { lines: Lines::new(LINE_BYTES, 0, 1, 0) }
    }
}

impl PhaseScan {
    /// Takes the next bytes of a log and hands out what begins in them.
    pub fn push(&mut self, bytes: &[u8], mut found: impl FnMut(PhaseStart)) {
        self.lines.push(bytes, |piece| {
            if let Some(name) = phase_of(&piece) {
                found(PhaseStart { name, line: piece.line, offset: piece.line_offset });
            }
            true
        });
    }

    /// Number of the line that is being written.
    pub fn line(&self) -> u64 {
        self.lines.open_line().0
    }
}

fn phase_of(piece: &Piece<'_>) -> Option<String> {
    // Most lines are told apart by their first bytes; a colour may stand before them.
    let begins = piece.bytes.iter().find(|byte| **byte != b' ')?;
    if !piece.is_first() || !matches!(begins, b'>' | b'[' | b'd' | 0x1b) {
        return None;
    }
    let text: String = harmless::plain(&String::from_utf8_lossy(piece.bytes)).collect();
    let line = text.trim();
    let name = portage(line).or_else(|| debian(line, &text)).or_else(|| maven(line))?;
    Some(harmless::line(&name, NAME_MAX))
}

fn portage(line: &str) -> Option<String> {
    const PHASES: [(&str, &str); 14] = [
        ("Unpacking source", "unpack"),
        ("Preparing source", "prepare"),
        ("Configuring source", "configure"),
        ("Compiling source", "compile"),
        ("Test phase", "test"),
        ("Install ", "install"),
        ("Building package", "package"),
        ("Downloading ", "fetch"),
        ("Fetching ", "fetch"),
        ("Extracting ", "extract"),
        ("Regenerating ", "regenerate"),
        ("Auto-cleaning packages", "clean"),
        ("Merging ", "merge"),
        ("Verifying ebuild manifests", "verify"),
    ];
    let rest = line.strip_prefix(">>> ")?;
    for (verb, name) in [("Emerging", "emerge"), ("Installing", "merge"), ("Building", "emerge")] {
        // `Emerging (1 of 3) cat/package-1::repository`; `Emerging binary (…)` likewise.
        let Some(numbered) = rest.strip_prefix(verb).map(|rest| rest.trim_start_matches(" binary")) else { continue };
        if let Some((_, package)) = numbered.strip_prefix(" (").and_then(|rest| rest.split_once(") ")) {
            let package = package.split([' ', ':']).next().unwrap_or(package);
            return Some(format!("{name} {package}"));
        }
    }
    let name = PHASES.iter().find(|(begin, _)| rest.starts_with(begin))?.1;
    Some(name.to_owned())
}

/// `text` still has the indentation by which debhelper's and dpkg-buildpackage's own lines are known.
fn debian(line: &str, text: &str) -> Option<String> {
    if let Some(source) = line.strip_prefix("dpkg-buildpackage: info: source package ") {
        return Some(format!("dpkg-buildpackage {source}"));
    }
    if let Some(target) = text.strip_prefix(" debian/rules ") {
        return (!target.trim().is_empty()).then(|| format!("debian/rules {}", target.trim()));
    }
    let word = line.split(' ').next()?;
    let own = text.strip_prefix("   ").is_some_and(|rest| rest.starts_with("dh_"));
    let telling = word.starts_with("dh_auto_") || matches!(word, "dh_install" | "dh_strip" | "dh_builddeb");
    if own && telling {
        return Some(word.to_owned());
    }
    let generating = matches!(word, "dpkg-source" | "dpkg-genbuildinfo" | "dpkg-genchanges");
    (generating && text.starts_with(" dpkg-")).then(|| word.to_owned())
}

fn maven(line: &str) -> Option<String> {
    let rest = line.strip_prefix("[INFO] ")?;
    if let Some(module) = rest.strip_prefix("Building ") {
        // `Building name version [2/5]`; without the count it is some plugin that builds a jar.
        let (module, _) = module.rsplit_once(" [").filter(|(_, count)| count.ends_with(']'))?;
        return Some(format!("module {}", module.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    // `--- maven-compiler-plugin:3.11.0:compile (default-compile) @ core ---`, `--- compiler:3.11.0:compile …`.
    let plugin = rest.strip_prefix("--- ")?.strip_suffix(" ---")?;
    let mut words = plugin.split_whitespace();
    let mut parts = words.next()?.split(':');
    let (plugin, goal) = (parts.next()?, parts.next_back()?);
    let module = words.skip_while(|word| *word != "@").nth(1);
    Some(match module {
        Some(module) => format!("{plugin}:{goal} @ {module}"),
        None => format!("{plugin}:{goal}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phases(text: &str) -> Vec<(String, u64, u64)> {
        let mut scan = PhaseScan::default();
        let mut found = Vec::new();
        for chunk in text.as_bytes().chunks(7) {
            scan.push(chunk, |start| found.push((start.name, start.line, start.offset)));
        }
        found
    }

    fn names(text: &str) -> Vec<String> {
        phases(text).into_iter().map(|(name, ..)| name).collect()
    }

    #[test]
    fn phases_of_portage_debian_and_maven_are_known_by_their_lines() {
        let cases: &[(&str, &[&str])] = &[
            (">>> Emerging (1 of 2) app-misc/hello-1.0::local\n", &["emerge app-misc/hello-1.0"]),
            ("\u{1b}[32m>>> \u{1b}[0mEmerging binary (1 of 2) a/b-1-r2::gentoo\n", &["emerge a/b-1-r2"]),
            (">>> Installing (2 of 2) a/b-1::gentoo\n", &["merge a/b-1"]),
            (">>> Unpacking source...\n>>> Unpacking hello.tar.gz to /x\n", &["unpack"]),
            (">>> Preparing source in /x ...\n>>> Source prepared.\n", &["prepare"]),
            (">>> Configuring source in /x ...\n", &["configure"]),
            (">>> Compiling source in /x ...\n>>> Source compiled.\n", &["compile"]),
            (">>> Test phase: app-misc/hello-1.0\n", &["test"]),
            (">>> Install app-misc/hello-1.0 into /x/image\n", &["install"]),
            ("dpkg-buildpackage: info: source package hello\n", &["dpkg-buildpackage hello"]),
            (" debian/rules build\n   dh_auto_build\n\tmake -j2\n", &["debian/rules build", "dh_auto_build"]),
            ("   dh_auto_test -O--parallel\n   dh_testdir\n   dh_builddeb\n", &["dh_auto_test", "dh_builddeb"]),
            (" dpkg-genchanges -b >../x.changes\n", &["dpkg-genchanges"]),
            (
                "[INFO] Building Apache CloudStack 4.20 [2/5]\n[INFO] Building jar: /x.jar\n",
                &["module Apache CloudStack 4.20"],
            ),
            (
                "[INFO] --- maven-compiler-plugin:3.11.0:compile (default-compile) @ core ---\n",
                &["maven-compiler-plugin:compile @ core"],
            ),
            (
                "[\u{1b}[1;34mINFO\u{1b}[m] --- surefire:3.2.5:test (default-test) @ core ---\n",
                &["surefire:test @ core"],
            ),
            ("plain output\n>> not a phase\n>>>\n>>> \n[INFO]\n[INFO] --- \ndh\n   dh_\n debian/rules \n", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(names(text), *expected, "{text:?}");
        }
    }

    #[test]
    fn a_phase_knows_its_line_and_offset_and_a_long_line_is_looked_at_once() {
        let text = format!("first\n{}>>> Unpacking source...\n>>> Unpacking source...\n", "x".repeat(3_000));
        assert_eq!(phases(&text), [("unpack".to_owned(), 3, 6 + 3_000 + 24)]);
        let hidden = format!("{}>>> Unpacking source...\n", " ".repeat(LINE_BYTES));
        assert_eq!(names(&hidden), Vec::<String>::new(), "a piece that does not begin its line begins no phase");
        let long = format!(">>> Emerging (1 of 1) {}\n", "y".repeat(2_000));
        assert_eq!(names(&long)[0].chars().count(), NAME_MAX);
    }
}
