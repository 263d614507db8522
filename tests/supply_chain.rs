//! What hive is made of, as far as it can be judged without another tool and without a network: licences, sources, banned crates, and
//! dependencies that no source file names. `make supply-chain` adds what needs tools (`deny.toml`, advisories, an inventory).

#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn policy() -> toml::Table {
    fs::read_to_string(root().join("deny.toml")).expect("deny.toml").parse().expect("TOML")
}

/// Whether an expression can be met with licences that are allowed. `MIT/Apache-2.0` is how older crates say OR.
fn allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let mode = spdx::ParseMode { allow_slash_as_or_operator: true, ..spdx::ParseMode::STRICT };
    let Ok(parsed) = spdx::Expression::parse_mode(expression, mode) else { return false };
    parsed.evaluate(|requirement| allowed.contains(&requirement.to_string()))
}

fn allowed_licences() -> BTreeSet<String> {
    let list = policy()["licenses"]["allow"].as_array().expect("a list").clone();
    list.iter().map(|licence| licence.as_str().expect("text").to_owned()).collect()
}

/// Everything that a build for this machine could contain, of all features.
fn packages() -> Vec<Value> {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--locked",
            "--offline",
            "--format-version",
            "1",
            "--all-features",
            "--filter-platform",
            &host,
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let used: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    let all = metadata["packages"].as_array().expect("packages").clone();
    all.into_iter().filter(|package| package["id"].as_str().is_some_and(|id| used.contains(id))).collect()
}

fn text<'a>(package: &'a Value, name: &str) -> &'a str {
    package[name].as_str().unwrap_or_default()
}

#[test]
fn every_licence_is_one_that_is_allowed() {
    let list = allowed_licences();
    let packages = packages();
    assert!(packages.len() > 200, "{} packages: was the tree read?", packages.len());
    let bad: Vec<String> = packages
        .iter()
        .filter(|package| !allowed(text(package, "license"), &list))
        .map(|package| {
            format!("{} {}: {:?}", text(package, "name"), text(package, "version"), text(package, "license"))
        })
        .collect();
    assert!(bad.is_empty(), "not allowed by deny.toml:\n{}", bad.join("\n"));
}

#[test]
fn an_expression_is_met_only_by_what_is_allowed() {
    let list: BTreeSet<String> = ["MIT", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
    for good in
        ["MIT", "MIT OR GPL-3.0-only", "MIT/Apache-2.0", "(GPL-2.0-only OR MIT)", "Apache-2.0 WITH LLVM-exception"]
    {
        assert!(allowed(good, &list), "{good}");
    }
    for bad in ["", "GPL-3.0-only", "MIT AND GPL-3.0-only", "Apache-2.0", "proprietary"] {
        assert!(!allowed(bad, &list), "{bad:?}");
    }
}

/// What is in this tree.
const OURS: [&str; 2] = [env!("CARGO_PKG_NAME"), "crash-disk"];

#[test]
fn everything_comes_from_one_registry_with_a_checksum() {
    let lock: toml::Table = fs::read_to_string(root().join("Cargo.lock")).expect("committed").parse().expect("TOML");
    let registries = policy()["sources"]["allow-registry"].as_array().expect("a list").clone();
    let known: Vec<String> =
        registries.iter().map(|registry| format!("registry+{}", registry.as_str().expect("text"))).collect();
    for package in lock["package"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        if OURS.contains(&name) {
            continue;
        }
        let source = package.get("source").and_then(toml::Value::as_str).unwrap_or("a path");
        assert!(known.iter().any(|known| known == source), "{name} comes from {source}");
        assert!(package.get("checksum").is_some(), "{name} has no checksum");
    }
}

#[test]
fn no_crate_is_built_in_that_is_banned() {
    let packages = packages();
    let built: BTreeSet<&str> = packages.iter().map(|package| text(package, "name")).collect();
    let policy = policy();
    let bans = policy["bans"]["deny"].as_array().expect("a list");
    assert!(bans.len() > 5);
    for ban in bans {
        assert!(ban.get("reason").is_some(), "{ban}: nobody will know why");
        let name = ban["crate"].as_str().expect("text");
        // Those with a version are asserted by lockfile.rs.
        if !name.contains(':') {
            assert!(!built.contains(name), "{name} is banned: {}", ban["reason"]);
        }
    }
}

fn sources(directory: &Path, into: &mut String) {
    for entry in fs::read_dir(directory).expect("readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(&path).expect("readable"));
        }
    }
}

/// A dependency that the sources of its kind never name is carried for nothing: compiled, audited, and an opening for others.
#[test]
fn every_dependency_is_named_by_a_source_file() {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).expect("there").parse().expect("TOML");
    // Some crates have another name than their package.
    let libraries: BTreeMap<String, String> = packages()
        .iter()
        .filter_map(|package| {
            let is_library = |target: &&Value| {
                let kinds = target["kind"].as_array().expect("kinds");
                kinds.iter().any(|kind| kind.as_str().is_some_and(|kind| kind.contains("lib") || kind == "proc-macro"))
            };
            let library = package["targets"].as_array()?.iter().find(is_library)?;
            Some((text(package, "name").to_owned(), text(library, "name").to_owned()))
        })
        .collect();
    let mut unused = Vec::new();
    for (table, places) in [
        ("dependencies", &["src"][..]),
        ("dev-dependencies", &["src", "tests", "benches"]),
        ("build-dependencies", &["build.rs"]),
    ] {
        let mut text = String::new();
        for place in places {
            let path: PathBuf = root().join(place);
            if path.is_file() {
                text.push_str(&fs::read_to_string(&path).expect("readable"));
            } else {
                sources(&path, &mut text);
            }
        }
        for name in manifest[table].as_table().expect("a table").keys() {
            let word = libraries.get(name).unwrap_or(name).replace('-', "_");
            let named = [format!("{word}::"), format!("use {word};"), format!("use {word} ")];
            if !named.iter().any(|named| text.contains(named.as_str())) {
                unused.push(format!("{table}: {name}"));
            }
        }
    }
    assert!(unused.is_empty(), "named by no source file: {unused:?}");
}
