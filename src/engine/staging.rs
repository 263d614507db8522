//! What packages are called in a staging directory, and which of them an atom asks for.
//!
//! Never done here: looking at a disk (see `exec::staging`).

use std::collections::BTreeSet;

use super::grammar::{self, GrammarError};

/// What is looked for in a staging directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `app-misc`.
    pub category: String,
    /// `hello`.
    pub name: String,
    /// Name and version, `hello-1.0-r1`; none when any version will do.
    pub pf: Option<String>,
}

impl Wanted {
    /// Reads `cat/pkg-1.0`, `=cat/pkg-1.0` (this version), `cat/pkg`, `>=cat/pkg-1.0`, `~cat/pkg-1.0`, `=cat/pkg-1*` (any version, because
    /// which one was built is not said); slot, repository and USE flags behind them say nothing about a file and are left out.
    pub fn of(text: &str) -> Result<Self, GrammarError> {
        let bare = text.trim_start_matches(['=', '>', '<', '~', '!']);
        let operator = &text[..text.len() - bare.len()];
        let end = bare.find([':', '[']).unwrap_or(bare.len());
        let bare = &bare[..end];
        let (bare, open) = bare.strip_suffix('*').map_or((bare, false), |bare| (bare, true));
        let (package, version) = grammar::split_version(bare).map_or((bare, None), |(name, rest)| (name, Some(rest)));
        grammar::gentoo_package(package)?;
        let (category, name) = package.split_once('/').unwrap_or_default();
        let exact = matches!(operator, "" | "=") && !open;
        // Revision 0 is none: no file is called after it.
        let version = version.map(|version| version.strip_suffix("-r0").unwrap_or(version));
        let pf = version.filter(|_| exact).map(|version| format!("{name}-{version}"));
        Ok(Self { category: category.to_owned(), name: name.to_owned(), pf })
    }

    /// Whether a file may be what is wanted, by its name: `hello-1.0.gpkg.tar`, or `hello-1.0-3.gpkg.tar` with the number of its build.
    pub fn may_be(&self, file: &str) -> bool {
        let Some(stem) = file.strip_suffix(".gpkg.tar") else { return false };
        let numbered = stem.rsplit_once('-').filter(|(_, number)| is_number(number)).map(|(stem, _)| stem);
        [Some(stem), numbered].into_iter().flatten().any(|stem| match &self.pf {
            Some(pf) => stem == pf,
            None => self.is_version(stem),
        })
    }

    /// Whether a package is the one that is wanted, by what it says of itself.
    pub fn is(&self, category: &str, pf: &str) -> bool {
        category == self.category && self.pf.as_ref().map_or_else(|| self.is_version(pf), |wanted| wanted == pf)
    }

    fn is_version(&self, stem: &str) -> bool {
        grammar::split_version(stem).is_some_and(|(name, _)| name == self.name)
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.category, self.pf.as_ref().unwrap_or(&self.name))
    }
}

/// Architecture as Gentoo calls it, of the machine that a package was built for (`x86_64-pc-linux-gnu`).
pub fn arch_of_chost(chost: &str) -> String {
    let machine = chost.split('-').next().unwrap_or_default();
    let known = match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i486" | "i586" | "i686" => "x86",
        "loongarch64" => "loong",
        "s390x" => "s390",
        _ if machine.starts_with("powerpc64") => "ppc64",
        _ if machine.starts_with("powerpc") => "ppc",
        _ if machine.starts_with("riscv") => "riscv",
        _ if machine.starts_with("arm") => "arm",
        _ if machine.starts_with("sparc") => "sparc",
        _ if machine.starts_with("mips") => "mips",
        _ if machine.starts_with("hppa") => "hppa",
        _ => machine,
    };
    let fits = !known.is_empty() && known.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if fits { known.to_owned() } else { "unknown".to_owned() }
}

/// Where the files of a Debian source package lie: `pool/h/hello`, `pool/libf/libfoo`.
pub fn debian_pool(source: &str) -> String {
    let length = if source.starts_with("lib") && source.len() > 3 { 4 } else { 1 };
    let letters: String = source.chars().take(length).collect();
    format!("pool/{letters}/{source}")
}

/// The number that a build of a version gets, of those that are there: its own when that is free, else the next one. Two builds of
/// one version are both kept.
pub fn build_number(own: Option<u32>, taken: &BTreeSet<u32>) -> u32 {
    match own.filter(|own| *own > 0 && !taken.contains(own)) {
        Some(own) => own,
        None => taken.last().map_or(1, |last| last.saturating_add(1)),
    }
}

/// The number in the name of a build of this version: 3 of `hello-1.0-3.gpkg.tar`.
pub fn number_of(pf: &str, file: &str) -> Option<u32> {
    let number = file.strip_prefix(pf)?.strip_prefix('-')?.strip_suffix(".gpkg.tar")?;
    if is_number(number) { number.parse().ok() } else { None }
}

fn is_number(text: &str) -> bool {
    (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atoms_name_one_version_or_any() {
        for (text, shown) in [
            ("app-misc/hello-1.0", "app-misc/hello-1.0"),
            ("=app-misc/hello-1.0-r1:0/2::tiny", "app-misc/hello-1.0-r1"),
            ("=app-misc/hello-1.0-r0", "app-misc/hello-1.0"),
            ("=app-misc/hello-1.0[doc,-x]", "app-misc/hello-1.0"),
            ("app-misc/hello", "app-misc/hello"),
            (">=app-misc/hello-1.0", "app-misc/hello"),
            ("~app-misc/hello-1.0", "app-misc/hello"),
            ("=app-misc/hello-1*", "app-misc/hello"),
        ] {
            assert_eq!(Wanted::of(text).expect(text).to_string(), shown, "{text}");
        }
        for text in ["", "hello", "../etc/passwd", "../../x-1.0", "app-misc/../x", "a/b c", "/etc-1", "=-x/y-1"] {
            assert!(Wanted::of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_of_another_version_is_not_taken_for_the_one_that_is_wanted() {
        let exact = Wanted::of("=app-misc/hello-1.0").expect("good");
        for file in ["hello-1.0.gpkg.tar", "hello-1.0-1.gpkg.tar", "hello-1.0-12.gpkg.tar"] {
            assert!(exact.may_be(file), "{file}");
        }
        for file in
            ["hello-1.0.1.gpkg.tar", "hello-1.0-r1.gpkg.tar", "hello-1.0-x.gpkg.tar", "hello-1.0.xpak", "hello-1.0"]
        {
            assert!(!exact.may_be(file), "{file}");
        }
        assert!(
            exact.is("app-misc", "hello-1.0") && !exact.is("app-misc", "hello-1.0-r1") && !exact.is("x", "hello-1.0")
        );
        let any = Wanted::of("app-misc/hello").expect("good");
        assert!(any.may_be("hello-1.0-r1-2.gpkg.tar") && any.is("app-misc", "hello-2"));
        assert!(!any.may_be("hello-world-1.0.gpkg.tar") && !any.is("app-misc", "hello-world-2"));
    }

    #[test]
    fn places_follow_the_customs_of_each_distribution() {
        for (chost, arch) in [
            ("x86_64-pc-linux-gnu", "amd64"),
            ("i686-pc-linux-gnu", "x86"),
            ("aarch64-unknown-linux-gnu", "arm64"),
            ("armv7a-unknown-linux-gnueabihf", "arm"),
            ("powerpc64le-unknown-linux-gnu", "ppc64"),
            ("riscv64-unknown-linux-gnu", "riscv"),
            ("m68k-unknown-linux-gnu", "m68k"),
            ("../x-y", "unknown"),
            ("", "unknown"),
        ] {
            assert_eq!(arch_of_chost(chost), arch, "{chost}");
        }
        assert_eq!(debian_pool("hello"), "pool/h/hello");
        assert_eq!(debian_pool("libfoo"), "pool/libf/libfoo");
        assert_eq!(debian_pool("lib"), "pool/l/lib");
    }

    #[test]
    fn builds_of_one_version_never_take_each_others_place() {
        let taken = BTreeSet::from([1, 3]);
        assert_eq!(build_number(Some(2), &taken), 2);
        assert_eq!(build_number(Some(3), &taken), 4);
        assert_eq!(build_number(Some(0), &taken), 4);
        assert_eq!((build_number(None, &taken), build_number(None, &BTreeSet::new())), (4, 1));
        assert_eq!(number_of("hello-1.0", "hello-1.0-12.gpkg.tar"), Some(12));
        for file in ["hello-1.0.gpkg.tar", "hello-1.0-r1-1.gpkg.tar", "hello-1.0-x.gpkg.tar", "hello-1.1-1.gpkg.tar"] {
            assert_eq!(number_of("hello-1.0", file), None, "{file}");
        }
    }
}
