//! The rules of the tree as tests: who may import whom, how long a file may be, what the engine may not touch.

#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Module → what it may import from this crate. `engine` and what is shared by all adapters stand at the bottom.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("engine", &[]),
    ("api", &["engine"]),
    ("clock", &["engine"]),
    ("tasks", &[]),
    ("keyring", &["engine"]),
    ("certificates", &["engine", "keyring"]),
    ("ports", &[]),
    ("transport", &["engine", "tasks"]),
    ("wire", &["engine", "clock", "transport"]),
    ("config", &["engine"]),
    ("store", SHARED),
    ("blobs", SHARED),
    ("discovery", SHARED),
    ("mesh", SHARED),
    ("consensus", &["engine", "api", "clock", "tasks", "keyring", "transport", "store"]),
    ("exec", &["engine", "api", "clock", "tasks", "keyring", "transport", "blobs"]),
    ("web", SHARED),
    ("agent", ANYTHING),
    ("cli", ANYTHING),
    ("lib", ANYTHING),
    ("fuzzing", ANYTHING),
    ("main", &["cli"]),
];
const SHARED: &[&str] = &["engine", "api", "clock", "ports", "tasks", "keyring", "transport", "wire"];
const ANYTHING: &[&str] = &["*"];

/// External crates that the engine may use: none of them does IO.
const ENGINE_CRATES: &[&str] = &[
    "std",
    "core",
    "serde",
    "serde_bytes",
    "serde_json",
    "thiserror",
    "tracing",
    "sha2",
    "rand",
    "cel",
    "toml",
    "ciborium",
    "hex",
    "uuid",
    "jiff",
    "regex",
];
/// Parts of std that do IO, read a clock, start threads or iterate in hash order.
const ENGINE_BANS: &[&str] = &[
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
    "HashMap",
    "HashSet",
    "rand::rng()",
    "rand::random",
    "thread_rng",
    "async fn",
];
/// Longest file, lines before its tests.
const FILE_MAX_LINES: usize = 600;

fn rust_files(directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).expect("readable tree").flatten() {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no Rust files under {directory}");
    found
}

/// Whether the whole file is tests: one that its module declares behind `#[cfg(test)] mod tests;`, or fuzz targets.
fn is_tests(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| ["tests", "fuzz", "fuzzing"].iter().any(|name| stem == *name))
}

/// The file's code before its tests, without comment lines.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).expect("readable file");
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !is_tests(path) && !line.starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(number, line)| (number + 1, line.to_owned()))
        .collect()
}

fn module_of(path: &Path) -> String {
    let relative = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).expect("under src");
    let first = relative.components().next().expect("not empty").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// Every `crate::x` in the file, wherever it stands.
fn imported_modules(line: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for part in line.split("crate::").skip(1) {
        let names = if let Some(list) = part.strip_prefix('{') { list.split('}').next().unwrap_or(list) } else { part };
        for name in names.split(',').take(if part.starts_with('{') { usize::MAX } else { 1 }) {
            let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() && name.chars().next().is_some_and(char::is_lowercase) {
                modules.push(name);
            }
        }
    }
    modules
}

#[test]
fn arrows_point_down_only() {
    let rules: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut offences = Vec::new();
    for path in rust_files("src") {
        let module = module_of(&path);
        let Some(allowed) = rules.get(module.as_str()) else {
            offences.push(format!("{}: module {module} has no rule", path.display()));
            continue;
        };
        for (number, line) in code(&path) {
            for target in imported_modules(&line) {
                let fine = target == module || allowed.contains(&"*") || allowed.contains(&target.as_str());
                if !fine && rules.contains_key(target.as_str()) {
                    offences.push(format!("{}:{number}: {module} may not import {target}", path.display()));
                }
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn the_engine_touches_nothing_but_its_arguments() {
    let mut offences = Vec::new();
    for path in rust_files("src").into_iter().filter(|path| module_of(path) == "engine") {
        for (number, line) in code(&path) {
            for ban in ENGINE_BANS.iter().filter(|ban| line.contains(**ban)) {
                offences.push(format!("{}:{number}: the engine may not use {ban}", path.display()));
            }
            let Some(import) =
                line.trim_start().strip_prefix("use ").or_else(|| line.trim_start().strip_prefix("pub use "))
            else {
                continue;
            };
            let name: String = import.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let local = ["super", "self", "crate"].contains(&name.as_str()) || name.is_empty();
            // A path that starts with a module of the engine itself begins with `self` or `super`; all else is a crate.
            if !local && !ENGINE_CRATES.contains(&name.as_str()) {
                offences.push(format!("{}:{number}: the engine may not import {name}", path.display()));
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn files_stay_readable() {
    let mut offences = Vec::new();
    for path in rust_files("src") {
        let text = fs::read_to_string(&path).expect("readable file");
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        if lines > FILE_MAX_LINES && !is_tests(&path) {
            offences.push(format!("{}: {lines} lines before its tests, at most {FILE_MAX_LINES}", path.display()));
        }
        if !text.starts_with("//!") {
            offences.push(format!("{}: no module head", path.display()));
        }
        for (number, line) in code(&path).into_iter().filter(|(_, line)| line.contains(".unwrap()")) {
            offences.push(format!("{}:{number}: unwrap outside tests: {}", path.display(), line.trim()));
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn tests_wait_for_conditions_and_never_sleep() {
    let needles = [concat!("thread::", "sleep("), concat!("time::", "sleep(")];
    let mut offences = Vec::new();
    for directory in ["src", "tests"] {
        for path in rust_files(directory) {
            let text = fs::read_to_string(&path).expect("readable file");
            let mut in_tests = directory == "tests" || is_tests(&path);
            for (number, line) in text.lines().enumerate() {
                in_tests |= line.starts_with("#[cfg(test)]");
                if in_tests && needles.iter().any(|needle| line.contains(needle)) {
                    offences.push(format!("{}:{}: a sleep in a test", path.display(), number + 1));
                }
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}
