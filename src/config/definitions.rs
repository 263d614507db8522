//! Finds role definitions and advisor policies: the configured directory, else the operator's, else the package's, else those in
//! the binary. Their content is understood by `engine`; nothing is parsed here.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::{ConfigError, Problem, grammar};
use crate::engine::role::shipped;

/// Longest definition that is read, bytes. The shipped ones have under 4 KiB.
const DEFINITION_MAX_LEN: u64 = 256 << 10;
/// Most definitions of a directory: each is part of every digest and of every ballot's vocabulary.
const DEFINITIONS_MAX: usize = 256;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefinitionKind {
    /// `roles/*.toml`
    Role,
    /// `advisor-policies/*.toml`
    Policy,
}

impl DefinitionKind {
    fn directory(self) -> &'static str {
        match self {
            Self::Role => "roles",
            Self::Policy => "advisor-policies",
        }
    }

    fn embedded(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Role => shipped::ROLES,
            Self::Policy => shipped::POLICIES,
        }
    }
}

/// Where a definition was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file.
    File(PathBuf),
    /// The binary itself.
    BuiltIn,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::BuiltIn => f.write_str("built-in"),
        }
    }
}

/// A definition that was found, not yet understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// File name without `.toml`.
    pub name: String,
    /// Where it was found; problems name it.
    pub place: Place,
    /// Its TOML text.
    pub text: String,
}

/// All definitions of a kind, by name. A configured directory must exist; of the others the first that holds a definition is
/// taken whole, so that what an operator removed does not come back from the package.
pub fn load_definitions(kind: DefinitionKind, configured: Option<&Path>) -> Result<Vec<Definition>, ConfigError> {
    if let Some(directory) = configured {
        return read_directory(directory);
    }
    for parent in ["/etc/build", "/usr/share/hive"] {
        let directory = Path::new(parent).join(kind.directory());
        if directory.is_dir() {
            let found = read_directory(&directory)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
    let built_in = kind.embedded().iter();
    Ok(built_in
        .map(|(path, text)| Definition { name: stem(path), place: Place::BuiltIn, text: (*text).to_owned() })
        .collect())
}

fn stem(path: &str) -> String {
    Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

fn problem(path: &Path, message: impl Into<String>) -> ConfigError {
    ConfigError::one(Problem { place: path.display().to_string(), message: message.into() })
}

fn read_directory(directory: &Path) -> Result<Vec<Definition>, ConfigError> {
    let unreadable = |error: std::io::Error| problem(directory, format!("expected a readable directory: {error}"));
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    if paths.len() > DEFINITIONS_MAX {
        return Err(problem(directory, format!("expected at most {DEFINITIONS_MAX} definitions, got {}", paths.len())));
    }
    paths.sort();
    paths.iter().map(|path| read_definition(path)).collect()
}

fn read_definition(path: &Path) -> Result<Definition, ConfigError> {
    let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if !grammar::is_definition_name(name) {
        return Err(problem(path, "expected a file name of a-z 0-9 _ - and .toml"));
    }
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| problem(path, format!("expected a readable file: {error}")))?;
    let length = file
        .take(DEFINITION_MAX_LEN + 1)
        .read_to_string(&mut text)
        .map_err(|error| problem(path, format!("expected a readable UTF-8 file: {error}")))?;
    if length as u64 > DEFINITION_MAX_LEN {
        return Err(problem(path, format!("expected at most {DEFINITION_MAX_LEN} bytes")));
    }
    Ok(Definition { name: name.to_owned(), place: Place::File(path.to_owned()), text })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn directory(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("hive-definitions-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("creates");
        Directory(path)
    }

    #[test]
    fn a_configured_directory_is_read_sorted_and_only_toml_counts() {
        let directory = directory("good");
        for (name, text) in [("b.toml", "B"), ("a.toml", "A"), ("notes.txt", "no")] {
            fs::write(directory.0.join(name), text).expect("writes");
        }
        let found = load_definitions(DefinitionKind::Role, Some(&directory.0)).expect("good");
        let names: Vec<_> = found.iter().map(|found| (found.name.as_str(), found.text.as_str())).collect();
        assert_eq!(names, [("a", "A"), ("b", "B")]);
    }

    #[test]
    fn what_is_missing_misnamed_too_long_or_no_text_is_refused_by_path() {
        let missing = load_definitions(DefinitionKind::Policy, Some(Path::new("/nonexistent/x"))).expect_err("missing");
        assert!(missing.to_string().starts_with("/nonexistent/x: expected a readable directory"), "{missing}");
        let long = "x".repeat(usize::try_from(DEFINITION_MAX_LEN).expect("fits") + 1).into_bytes();
        for (name, content, expected) in [
            ("Bad Name.toml", b"".to_vec(), "expected a file name"),
            ("long.toml", long, "expected at most"),
            ("binary.toml", vec![0xff, 0xfe], "expected a readable UTF-8 file"),
        ] {
            let directory = directory("bad");
            fs::write(directory.0.join(name), content).expect("writes");
            let error = load_definitions(DefinitionKind::Role, Some(&directory.0)).expect_err(name).to_string();
            assert!(error.contains(expected) && error.contains(name), "{error}");
        }
    }
}
