//! The line of a failed build's output that tells best what went wrong.
//!
//! Tools that only report that another one failed (`make: *** Error 2`) come after the line that matters, so lines are ranked by how
//! close to the cause their kind is; the first of the highest rank wins. Guesses: they are shown, nothing is decided by them.

use serde::{Deserialize, Serialize};

use super::lines::Piece;
use crate::engine::harmless;

/// Longest line shown, characters.
const TEXT_MAX: usize = 400;
/// Lines shown before and after it.
const BEFORE: usize = 2;
const AFTER: usize = 6;

/// Who complains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// A compiler or an interpreter about a source.
    Compiler,
    /// A linker.
    Linker,
    /// configure, CMake, Meson and the like.
    Configure,
    /// A test.
    Test,
    /// A shell or a script about itself.
    Script,
    /// The machine: no space, no memory, killed.
    System,
    /// dpkg, debhelper, apt.
    Debian,
    /// Portage.
    Portage,
    /// Maven.
    Maven,
    /// make or ninja about what they ran.
    Make,
    /// Something that calls itself an error.
    Other,
}

/// The first error, with what stands around it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstError {
    /// Who complains.
    pub kind: ErrorKind,
    /// Its line, from 1.
    pub line: u64,
    /// Where that line begins.
    pub offset: u64,
    /// The line, harmless and cut.
    pub text: String,
    /// The lines before it, harmless and cut.
    pub before: Vec<String>,
    /// The lines after it, harmless and cut.
    pub after: Vec<String>,
}

/// Looks for it in the pieces of a log, in their order.
#[derive(Clone, Debug, Default)]
pub struct ErrorScan {
    best: Option<(u8, FirstError)>,
    before: Vec<String>,
}

/// The closest there is to the cause.
const CAUSE: u8 = 3;
/// A tool that says which step failed.
const STEP: u8 = 2;
/// Something that says error.
const HINT: u8 = 1;

impl ErrorScan {
    /// Takes the next piece. False when nothing that follows can matter.
    pub fn push(&mut self, piece: &Piece<'_>) -> bool {
        if !piece.is_first() {
            return true;
        }
        let text = harmless::line(&String::from_utf8_lossy(piece.bytes), TEXT_MAX);
        if let Some((_, best)) = &mut self.best
            && best.after.len() < AFTER
        {
            best.after.push(text.clone());
        }
        let rank = self.best.as_ref().map_or(0, |(rank, _)| *rank);
        if let Some((found, kind)) = classify(&text)
            && found > rank
        {
            let before = self.before.clone();
            let (line, offset) = (piece.line, piece.line_offset);
            let error = FirstError { kind, line, offset, text: text.clone(), before, after: Vec::new() };
            self.best = Some((found, error));
        }
        if self.before.len() == BEFORE {
            self.before.remove(0);
        }
        self.before.push(text);
        !self.best.as_ref().is_some_and(|(rank, best)| *rank == CAUSE && best.after.len() == AFTER)
    }

    /// What was found.
    pub fn finish(self) -> Option<FirstError> {
        self.best.map(|(_, error)| error)
    }
}

fn classify(text: &str) -> Option<(u8, ErrorKind)> {
    let line = text.trim();
    // What configure tries and what is only a warning complains about nothing.
    if line.is_empty() || line.starts_with("checking ") || line.contains("warning:") || line.contains("(ignored)") {
        return None;
    }
    system(line).or_else(|| tools(line)).or_else(|| test(line)).or_else(|| source(line)).or_else(|| hint(line))
}

fn system(line: &str) -> Option<(u8, ErrorKind)> {
    const TELLING: [&str; 7] = [
        "No space left on device",
        "Cannot allocate memory",
        "virtual memory exhausted",
        "out of memory",
        "OutOfMemoryError",
        "Killed signal terminated program",
        "Disk quota exceeded",
    ];
    let killed = line == "Killed" || line.ends_with(": Killed") || line.ends_with("Segmentation fault");
    (killed || TELLING.iter().any(|words| line.contains(words))).then_some((CAUSE, ErrorKind::System))
}

/// Tools that are known by how their lines begin.
fn tools(line: &str) -> Option<(u8, ErrorKind)> {
    use self::ErrorKind::{Compiler, Configure, Debian, Linker, Make, Maven, Other, Portage, Script};
    const BEGINS: [(&str, u8, ErrorKind); 27] = [
        ("dpkg-checkbuilddeps: error:", CAUSE, Debian),
        ("dpkg-source: error:", CAUSE, Debian),
        ("dpkg-buildpackage: error:", STEP, Debian),
        ("dpkg-deb: error:", CAUSE, Debian),
        ("dh: error:", STEP, Debian),
        ("debian/rules:", STEP, Debian),
        ("E: ", STEP, Debian),
        ("!!! All ebuilds that could satisfy", CAUSE, Portage),
        ("emerge: there are no ebuilds to satisfy", CAUSE, Portage),
        ("!!! Couldn't download", CAUSE, Portage),
        ("!!! Digest verification failed", CAUSE, Portage),
        ("* ERROR: ", STEP, Portage),
        ("!!! ERROR", STEP, Portage),
        ("CMake Error", CAUSE, Configure),
        ("configure: error:", CAUSE, Configure),
        ("ninja: build stopped", STEP, Make),
        ("ninja: error:", CAUSE, Make),
        ("FAILED: ", STEP, Make),
        ("collect2: error:", STEP, Linker),
        ("error: could not compile", STEP, Compiler),
        ("error: aborting due to", STEP, Compiler),
        ("error[E", CAUSE, Compiler),
        ("Traceback (most recent call last)", CAUSE, Script),
        ("Can't locate ", CAUSE, Script),
        ("patch: ****", CAUSE, Other),
        ("[FATAL] ", STEP, Maven),
        ("[hive] failed", HINT, Other),
    ];
    if let Some((_, rank, kind)) = BEGINS.iter().find(|(begin, ..)| line.starts_with(begin)) {
        return Some((*rank, *kind));
    }
    if let Some(rest) = line.strip_prefix("[ERROR] ") {
        let about_source = rest.starts_with('/') && rest.contains(":[") || rest.contains("COMPILATION ERROR");
        if about_source && !rest.contains("COMPILATION ERROR") {
            return Some((CAUSE, Compiler));
        }
        let failed_test =
            rest.starts_with("Tests run:") || rest.contains("<<< FAILURE!") || rest.contains("<<< ERROR!");
        return Some(if failed_test { (CAUSE, ErrorKind::Test) } else { (STEP, Maven) });
    }
    if line.starts_with("make") && line.contains(": *** ") {
        // A target that nobody can make is the cause itself; that a command failed is not.
        return Some((if line.contains("No rule to make target") { CAUSE } else { STEP }, Make));
    }
    if line.starts_with("dh_") && line.contains(": error:") {
        return Some((STEP, Debian));
    }
    let hunk = line.starts_with("Hunk #") && line.contains(" FAILED at ");
    hunk.then_some((CAUSE, Other))
}

fn test(line: &str) -> Option<(u8, ErrorKind)> {
    let failed = line.starts_with("FAIL: ")
        || line.starts_with("--- FAIL: ")
        || line.starts_with("FAILED ") && line.contains("::")
        || line.starts_with("test ") && line.ends_with(" ... FAILED")
        || line.starts_with("not ok ") && !line.contains("# TODO") && !line.contains("# SKIP")
        || line.ends_with("***Failed")
        || line.contains("***Failed ")
        || line.starts_with("Tests run:") && line.contains("FAILURE!");
    failed.then_some((CAUSE, ErrorKind::Test))
}

/// Compilers, linkers and interpreters, which name a place in a source.
fn source(line: &str) -> Option<(u8, ErrorKind)> {
    const LINKER: [&str; 5] = [
        "undefined reference to",
        "cannot find -l",
        "multiple definition of",
        "undefined symbol:",
        "ld: symbol(s) not found",
    ];
    if LINKER.iter().any(|words| line.contains(words)) {
        return Some((CAUSE, ErrorKind::Linker));
    }
    if line.ends_with(": command not found") || line.ends_with(": not found") && line.contains("sh: ") {
        return Some((CAUSE, ErrorKind::Script));
    }
    if line.contains(": internal compiler error") || line.contains(": fatal error:") || line.contains(" error TS") {
        return Some((CAUSE, ErrorKind::Compiler));
    }
    for (words, kind) in [(": error: ", ErrorKind::Compiler), (": ERROR: ", ErrorKind::Configure)] {
        // `file.c:12:3: error: …`, `Main.java:7: error: …`, `meson.build:1:0: ERROR: …`.
        if let Some((place, _)) = line.split_once(words)
            && place.rsplit(':').next().is_some_and(is_number)
            && place.contains(':')
        {
            return Some((CAUSE, kind));
        }
    }
    go(line).then_some((CAUSE, ErrorKind::Compiler))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `./main.go:3:5: undefined: x`.
fn go(line: &str) -> bool {
    let Some((file, rest)) = line.split_once(".go:") else { return false };
    let mut parts = rest.splitn(3, ':');
    !file.contains(' ') && parts.next().is_some_and(is_number) && parts.next().is_some_and(is_number)
}

fn hint(line: &str) -> Option<(u8, ErrorKind)> {
    let lower = line.to_ascii_lowercase();
    let word = |word: &str| {
        lower.match_indices(word).any(|(at, _)| {
            let before = lower[..at].chars().next_back();
            before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '-')
        })
    };
    (word("error:") || word("fatal:") || lower.starts_with("error ")).then_some((HINT, ErrorKind::Other))
}

#[cfg(test)]
mod tests {
    use super::super::Lines;
    use super::*;

    fn first(text: &str) -> Option<FirstError> {
        let mut lines = Lines::new(4_096, 0, 1, 0);
        let mut scan = ErrorScan::default();
        lines.push(text.as_bytes(), |piece| scan.push(&piece));
        lines.finish(|piece| scan.push(&piece));
        scan.finish()
    }

    #[test]
    fn the_line_that_matters_is_found_among_those_that_follow_from_it() {
        use self::ErrorKind::{Compiler, Configure, Debian, Linker, Make, Maven, Other, Portage, Script, System, Test};
        let cases: &[(&str, Option<(ErrorKind, u64)>)] = &[
            (
                "cc -c a.c\na.c:3:5: warning: error: unused\na.c:4:1: error: expected ';'\nmake: *** [a.o] Error 1\n",
                Some((Compiler, 3)),
            ),
            ("a.c:1:10: fatal error: x.h: No such file or directory\n", Some((Compiler, 1))),
            ("\u{1b}[01;31m\u{1b}[Ka.c:4:1: error: \u{1b}[mno\n", Some((Compiler, 1))),
            ("error[E0425]: cannot find value `x`\nerror: could not compile `y`\n", Some((Compiler, 1))),
            (
                "error: linking with `cc` failed\n  = note: ld: cannot find -lfoo\nerror: could not compile\n",
                Some((Linker, 2)),
            ),
            ("./main.go:3:5: undefined: x\n", Some((Compiler, 1))),
            ("Main.java:7: error: ';' expected\n1 error\n", Some((Compiler, 1))),
            (
                "main.o: in function `main':\nmain.c:(.text+0x5): undefined reference to `f'\ncollect2: error: ld returned 1\n",
                Some((Linker, 2)),
            ),
            (
                "checking for error: strange... no\nconfigure: error: no acceptable C compiler found\n",
                Some((Configure, 2)),
            ),
            ("CMake Error at CMakeLists.txt:3 (find_package):\n", Some((Configure, 1))),
            ("meson.build:1:0: ERROR: Unknown compiler\n", Some((Configure, 1))),
            ("make: *** No rule to make target 'x'.  Stop.\n", Some((Make, 1))),
            ("make[1]: *** [Makefile:2: all] Error 2\nmake: *** [all] Error 2\n", Some((Make, 1))),
            ("make: [x] Error 1 (ignored)\nfine\n", None),
            ("ninja: build stopped: subcommand failed.\n", Some((Make, 1))),
            ("sh: 1: cmake: not found\nmake: *** [all] Error 127\n", Some((Script, 1))),
            ("build.sh: line 3: foo: command not found\n", Some((Script, 1))),
            (
                "Traceback (most recent call last):\n  File \"x\"\nModuleNotFoundError: No module named 'y'\n",
                Some((Script, 1)),
            ),
            (
                "dpkg-checkbuilddeps: error: Unmet build dependencies: x\ndpkg-buildpackage: warning: no\n",
                Some((Debian, 1)),
            ),
            (
                "dh_auto_test: error: make -j2 test returned exit code 2\nmake: *** [debian/rules:4: build] Error 25\n",
                Some((Debian, 1)),
            ),
            ("PASS: a\nFAIL: b.sh\ndh_auto_test: error: make check returned exit code 2\n", Some((Test, 2))),
            ("test tests::x ... FAILED\n", Some((Test, 1))),
            ("ok 1\nnot ok 2 - later # TODO\nnot ok 3 - now\n", Some((Test, 3))),
            ("E: Unable to locate package foo\n", Some((Debian, 1))),
            (" * ERROR: app-misc/x-1::l failed (compile phase):\n *   emake failed\n", Some((Portage, 1))),
            ("a.c:4:1: error: no\n * ERROR: app-misc/x-1::l failed (compile phase):\n", Some((Compiler, 1))),
            ("!!! All ebuilds that could satisfy \"x\" have been masked.\n", Some((Portage, 1))),
            (
                "[INFO] x\n[ERROR] COMPILATION ERROR : \n[ERROR] /x/A.java:[3,5] ';' expected\n[ERROR] Failed to execute goal\n",
                Some((Compiler, 3)),
            ),
            ("[ERROR] Tests run: 3, Failures: 1, Errors: 0\n", Some((Test, 1))),
            ("[ERROR] Failed to execute goal x\n", Some((Maven, 1))),
            ("cp: error writing 'x': No space left on device\na.c:1:1: error: late\n", Some((System, 1))),
            ("Hunk #1 FAILED at 3.\n", Some((Other, 1))),
            ("something said Error: odd\n", Some((Other, 1))),
            ("cc -Werror -Wno-error=x -Dmy_error: a.c\n0 errors\nall good\n", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let found = first(text).map(|error| (error.kind, error.line));
            assert_eq!(found, *expected, "{text}");
        }
    }

    #[test]
    fn it_comes_with_its_place_and_neighbours_and_is_harmless() {
        let mut text = String::from("one\ntwo\nthree\n\u{1b}]0;title\u{7}a.c:1:1: error: \u{202e}x\n");
        for number in 0..20 {
            text.push_str(&format!("after {number}\n"));
        }
        let error = first(&text).expect("there is one");
        assert_eq!((error.line, error.offset), (4, 14));
        assert_eq!(error.text, "a.c:1:1: error: x");
        assert_eq!(error.before, ["two", "three"]);
        assert_eq!(error.after, ["after 0", "after 1", "after 2", "after 3", "after 4", "after 5"]);
        let long = first(&format!("a.c:1:1: error: {}", "x".repeat(100_000))).expect("there is one");
        assert_eq!(long.text.chars().count(), TEXT_MAX);
    }
}
