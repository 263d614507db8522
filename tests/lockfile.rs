//! Versions with published remote crashes or data loss stay out: the lock file is read, not trusted.

use std::fs;
use std::path::Path;

/// Crate, first good version, what was wrong before it. `true`: the agent cannot be built without it.
const MINIMUMS: &[(&str, [u64; 3], bool, &str)] = &[
    ("libp2p", [0, 57, 0], true, "older ones carry the crates below in versions that peers can crash"),
    ("libp2p-yamux", [0, 48, 0], true, "carries yamux 0.12 up to 0.47"),
    ("yamux", [0, 13, 10], true, "a frame of a peer ends the process"),
    ("libp2p-gossipsub", [0, 50, 1], true, "prune back-off and topic growth by a peer"),
    ("openraft", [0, 10, 0], true, "0.9 can block elections for ever"),
    ("rusqlite", [0, 41, 0], true, "bundles a SQLite that can lose WAL content"),
    ("tar", [0, 4, 45], true, "changes permissions through symbolic links"),
    ("tracing-subscriber", [0, 3, 20], true, "terminal sequences of strangers reach the log"),
    ("h2", [0, 4, 16], false, "reset floods"),
    ("quinn-proto", [0, 11, 15], false, "transport parameters and reassembly memory"),
    ("astral-tokio-tar", [0, 6, 1], false, "two readings of one archive"),
];

fn version(text: &str) -> [u64; 3] {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = core.split('.').map(|number| number.parse().expect("a number"));
    [(); 3].map(|()| numbers.next().expect("three numbers"))
}

fn locked() -> Vec<(String, [u64; 3])> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    let text = fs::read_to_string(path).expect("Cargo.lock is committed");
    let lock: toml::Table = text.parse().expect("TOML");
    let packages = lock["package"].as_array().expect("packages");
    let field = |package: &toml::Value, name: &str| package[name].as_str().expect("text").to_owned();
    packages.iter().map(|package| (field(package, "name"), version(&field(package, "version")))).collect()
}

fn offences(locked: &[(String, [u64; 3])]) -> Vec<String> {
    let mut offences = Vec::new();
    for (name, minimum, needed, why) in MINIMUMS {
        let found: Vec<_> = locked.iter().filter(|(package, _)| package == name).collect();
        if found.is_empty() && *needed {
            offences.push(format!("{name} is not in the lock file; was it renamed?"));
        }
        let old = found.iter().filter(|(_, version)| version < minimum);
        offences.extend(old.map(|(_, version)| format!("{name} {version:?} is below {minimum:?}: {why}")));
    }
    offences
}

#[test]
fn no_locked_version_has_a_known_remote_crash() {
    let offences = offences(&locked());
    assert!(offences.is_empty(), "{offences:#?}");
}

/// The number that is compared above says nothing of which alpha it is.
#[test]
fn openraft_is_the_one_that_was_tried() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    let text = fs::read_to_string(path).expect("Cargo.lock is committed");
    assert!(text.contains("name = \"openraft\"\nversion = \"0.10.0-alpha.37\"\n"), "others change its rules");
}

/// The same versions stand in `deny.toml`, for whoever checks with the tool.
#[test]
fn both_lists_of_versions_are_the_same() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml");
    let text = fs::read_to_string(path).expect("deny.toml");
    for (name, [major, minor, patch], ..) in MINIMUMS.iter().filter(|(name, ..)| !["openraft", "libp2p"].contains(name))
    {
        let ban = format!("crate = \"{name}:<{major}.{minor}.{patch}\"");
        assert!(text.contains(&ban), "{ban} is missing in deny.toml");
    }
}

#[test]
fn an_old_or_missing_version_would_be_noticed() {
    let mut lock = locked();
    for (_, version) in lock.iter_mut().filter(|(name, _)| name == "libp2p-yamux") {
        *version = [0, 47, 9];
    }
    lock.retain(|(name, _)| name != "tar");
    let offences = offences(&lock);
    assert_eq!(offences.len(), 2, "{offences:#?}");
}

#[cfg(feature = "node")]
#[test]
fn the_sqlite_inside_is_recent_enough() {
    // 3.51.3 ends a race between WAL checkpoints that could corrupt the database.
    assert!(rusqlite::version_number() >= 3_051_003, "SQLite {}", rusqlite::version());
}
