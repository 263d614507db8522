//! What is shipped beside the program: units, OpenRC scripts, user data, installer. Checked by the tools that will read them.
//!
//! A tool that is missing fails the test and says how to get it; `make test` installs them all.
#![cfg(feature = "node")]

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hive::engine::id::Sha256Hash;
use hive::keyring::{Secret, sha256};
use hive::web::bootstrap;

/// Exposure allowed for the agent, tenths.
const AGENT_EXPOSURE_MAX: &str = "20";
/// Exposure allowed for the helper, which installs packages as root and starts builds, tenths.
const HELPER_EXPOSURE_MAX: &str = "69";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn run(command: &mut Command) -> Output {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("{name} is needed for this test: run tests/deps.sh test, or `make test`, which does")
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The units in a directory of their own, naming a program that exists on every machine.
fn units() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("temporary directory");
    for unit in ["hive.service", "hive-helper.service"] {
        let content = read(&format!("systemd/{unit}")).replace("/usr/local/bin/hive", "/bin/true");
        fs::write(directory.path().join(unit), content).expect("writes");
    }
    directory
}

#[test]
fn systemd_verifies_the_units_without_a_word() {
    let directory = units();
    let output = run(Command::new("systemd-analyze")
        .arg("verify")
        .args(["hive.service", "hive-helper.service"].map(|unit| directory.path().join(unit))));
    assert!(output.status.success() && text(&output).is_empty(), "{}", text(&output));
}

#[test]
fn exposure_stays_within_what_was_promised() {
    let directory = units();
    for (unit, threshold) in [("hive.service", AGENT_EXPOSURE_MAX), ("hive-helper.service", HELPER_EXPOSURE_MAX)] {
        let output = run(Command::new("systemd-analyze")
            .args(["security", "--no-pager", "--offline=yes", &format!("--threshold={threshold}")])
            .arg(directory.path().join(unit)));
        assert!(output.status.success(), "{unit}: {}", text(&output));
        assert!(text(&output).contains("Overall exposure level"), "{unit}: it was really judged: {}", text(&output));
    }
}

#[test]
fn the_service_answers_to_its_earlier_names_and_installs_packages() {
    let unit = read("systemd/hive.service");
    for line in [
        "Type=notify",
        "User=hive",
        "NoNewPrivileges=yes",
        "Environment=HIVE_DEFAULT_PACKAGES=on",
        "ExecStart=/usr/local/bin/hive agent",
        "Alias=build-agent.service build-advisor.service",
    ] {
        assert!(unit.lines().any(|present| present == line), "{line}");
    }
    assert!(unit.lines().any(|line| line.starts_with("WatchdogSec=")));
    assert!(!unit.contains("CacheDirectory="), "the parent of the build directory is root's: the helper works in it");
    assert!(read("openrc/hive").contains("HIVE_DEFAULT_PACKAGES=on"));
}

/// Variables and flags win over the file, so a unit that used them would overrule the operator.
#[test]
fn units_preset_and_never_overrule() {
    for path in ["systemd/hive.service", "systemd/hive-helper.service", "openrc/hive", "openrc/hive-helper"] {
        let unit = read(path);
        let lines = unit.lines().filter(|line| !line.trim_start().starts_with('#'));
        for line in lines.filter(|line| line.contains("HIVE_") || line.contains("hive agent")) {
            let allowed = line.contains("HIVE_DEFAULT_") || line.contains("HIVE_ARGS") || line.ends_with("hive agent");
            assert!(allowed && !line.contains(" --"), "{path}: {line}");
        }
    }
}

#[test]
fn root_follows_no_link_that_the_agent_could_have_made() {
    let unit = read("systemd/hive.service");
    let writable =
        unit.lines().filter(|line| line.starts_with("EnvironmentFile=")).any(|line| line.contains("/etc/build"));
    assert!(!writable, "the agent may write there, and the environment reaches what runs as root");
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStartPre=+-/usr/bin/find "))
        .expect("hands over the secret");
    let directory = tempfile::tempdir().expect("temporary directory");
    let (secret, victim) = (directory.path().join("shared_secret"), directory.path().join("victim"));
    let hand_over = || {
        let arguments =
            line.replace("/etc/build", &directory.path().display().to_string()).replace("chgrp hive", "chgrp daemon");
        run(Command::new("find").args(arguments.split(' ')))
    };
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let write = |path: &Path| {
        fs::write(path, "x").expect("writes");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
    };
    write(&victim);
    std::os::unix::fs::symlink(&victim, &secret).expect("links");
    hand_over();
    assert_eq!(mode(&victim), 0o600, "through a symbolic link");
    fs::remove_file(&secret).expect("removes");
    fs::hard_link(&victim, &secret).expect("links");
    hand_over();
    assert_eq!(mode(&victim), 0o600, "through a hard link");
    fs::remove_file(&secret).expect("removes");
    write(&secret);
    let output = hand_over();
    assert_eq!(mode(&secret), 0o640, "root's own file is handed over (this needs root): {}", text(&output));
}

#[test]
fn cloud_init_takes_the_user_data_once_secret_and_address_are_filled_in() {
    let data = read("cloud-init/user-data.yaml");
    assert_eq!(data.matches("_HERE").count(), 2, "the secret and one address, nothing else");
    let filled = data
        .replace("HIVE_SECRET_HERE", "b7c1a0ffee11d2d3b7c1a0ffee11d2d3")
        .replace("HIVE_NODE_ADDRESS_HERE", "10.77.0.11");
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("user-data.yaml");
    fs::write(&path, filled).expect("writes");
    let output = run(Command::new("cloud-init").args(["schema", "--config-file"]).arg(&path));
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn user_data_and_bootstrap_script_prove_origin_by_the_same_lines() {
    let block = |text: &str| -> Vec<String> {
        let inside = text.split_once("#@TRUST-BEGIN@").expect("begins").1.split_once("#@TRUST-END@").expect("ends").0;
        inside.lines().map(|line| line.strip_prefix("      ").unwrap_or(line).to_owned()).collect()
    };
    let (mut data, mut script) = (block(&read("cloud-init/user-data.yaml")), block(bootstrap::script_text()));
    data.retain(|line| !line.trim().is_empty());
    script.retain(|line| !line.trim().is_empty());
    assert_eq!(data, script);
}

#[test]
fn every_shell_script_is_posix_to_dash() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let composed = directory.path().join("bootstrap.sh");
    fs::write(&composed, bootstrap::script_text()).expect("writes");
    let mut scripts: Vec<PathBuf> = ["install.sh", "openrc/hive", "openrc/hive-helper", "tests/deps.sh", ".ci/run"]
        .map(|path| root().join(path))
        .to_vec();
    scripts.push(composed);
    for script in scripts {
        let output = run(Command::new("dash").arg("-n").arg(&script));
        assert!(output.status.success() && text(&output).is_empty(), "{}: {}", script.display(), text(&output));
    }
}

/// The lines of the bootstrap script that prove where a file comes from, followed by `tail`.
fn trust(directory: &Path, tail: &str) -> PathBuf {
    let script = bootstrap::script_text();
    let block = script.split_once("#@TRUST-BEGIN@").expect("begins").1.split_once("#@TRUST-END@").expect("ends").0;
    let path = directory.join("trust.sh");
    fs::write(&path, format!("set -eu\n{block}\n{tail}\n")).expect("writes");
    path
}

#[test]
fn shells_and_program_agree_on_the_proof() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let long = "k7#Qz!v9Wm@2Lp$8Xr&5Tn*3Yb^6Hd+1Jf%".repeat(3);
    let program: Vec<u8> = (0..=255u8).cycle().take(70_000).collect();
    let file = directory.path().join("file");
    fs::write(&file, &program).expect("writes");
    let script = trust(directory.path(), "key=$(export_key \"$1\"); vouched \"$key\" hive-x86_64 \"$2\" \"$3\"");
    for secret in [
        "b7c1a0ffee11d2d3b7c1a0ffee11d2d3",
        "a b\\c'd\"e%s\\n$(id)`id`{}*?[x]~!",
        long.as_str(),
        "ÄÖÜ-ﬆ-🐝-and-more-of-it",
    ] {
        let secret_file = directory.path().join("secret");
        fs::write(&secret_file, format!("\n\t {secret} \r\n")).expect("writes");
        let key = Secret::from_bytes(secret.as_bytes()).key();
        let mac = hex::encode(bootstrap::vouch(&key, "hive-x86_64", &Sha256Hash(sha256(&program))));
        for shell in ["dash", "bash"] {
            let verify = |mac: &str| {
                run(Command::new(shell).arg(&script).arg(&secret_file).arg(&file).arg(mac)).status.success()
            };
            assert!(verify(&mac), "{shell}, {secret}");
            let mut other = mac.clone();
            other.replace_range(..1, if mac.starts_with('0') { "1" } else { "0" });
            assert!(!verify(&other) && !verify(""), "{shell}, {secret}");
        }
    }
}

/// The functions of the installer, followed by `tail`.
fn installer(directory: &Path, tail: &str) -> PathBuf {
    let functions = read("install.sh").replace("\nmain \"$@\"\n", "\n");
    let path = directory.join("installer.sh");
    fs::write(&path, format!("{functions}\n{tail}\n")).expect("writes");
    path
}

#[test]
fn the_installer_writes_settings_where_they_count_and_keeps_the_rest() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let etc = directory.path().join("etc");
    fs::create_dir(&etc).expect("makes");
    let config = etc.join("hive.toml");
    let tail = format!("etc='{}'; setting join '[\"10.0.0.1\"]'; setting name ''", etc.display());
    let script = installer(directory.path(), &tail);
    let cases = [
        ("", "join = [\"10.0.0.1\"]\n"),
        ("port = 1\n[build]\nslots = 2\n", "join = [\"10.0.0.1\"]\nport = 1\n[build]\nslots = 2\n"),
        ("join = [\"old\"]\nport = 1\n[x]\njoin = 3\n", "join = [\"10.0.0.1\"]\nport = 1\n[x]\njoin = 3\n"),
    ];
    for (before, after) in cases {
        fs::write(&config, before).expect("writes");
        let output = run(Command::new("dash").arg(&script));
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(fs::read_to_string(&config).expect("reads"), after);
    }
    let lines = "join = [\n  \"old\",\n]\n";
    fs::write(&config, lines).expect("writes");
    let output = run(Command::new("dash").arg(&script));
    assert!(!output.status.success() && text(&output).contains("several lines"), "{}", text(&output));
    assert_eq!(fs::read_to_string(&config).expect("reads"), lines, "untouched");
}

#[test]
fn the_installer_opens_an_nftables_firewall_once_and_leaves_an_open_one_alone() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let script = installer(
        directory.path(),
        "keep_nftables() { :; }\nopen_nftables\nopen_nftables >/dev/null\nnft list ruleset",
    );
    let inside = |rules: &str| -> String {
        let rules_file = directory.path().join("rules");
        fs::write(&rules_file, rules).expect("writes");
        let line = format!("nft -f '{}' && sh '{}'", rules_file.display(), script.display());
        let output = run(Command::new("unshare").args(["--net", "sh", "-c", &line]));
        assert!(output.status.success(), "this needs root (network namespace, nftables): {}", text(&output));
        text(&output)
    };
    let closed = inside(
        "table inet filter {\n chain input {\n type filter hook input priority 0; policy drop;\n ct state established accept\n }\n \
         chain forward {\n type filter hook forward priority 0; policy drop;\n }\n}\n",
    );
    assert_eq!(closed.matches("udp dport { 5353, 50555 } accept comment \"hive\"").count(), 1, "{closed}");
    assert_eq!(closed.matches("tcp dport { 8100, 50555 } accept comment \"hive\"").count(), 1, "{closed}");
    let open = inside("table inet t {\n chain input {\n type filter hook input priority 0; policy accept;\n }\n}\n");
    assert!(!open.contains("dport"), "{open}");
}

/// By the program's own rules, before anything is touched.
#[test]
fn the_installer_refuses_what_the_program_would_refuse() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let script = installer(directory.path(), "find_init() { say reached; exit 0; }\nmain \"$@\"");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_hive"), directory.path().join("hive")).expect("links");
    let long = "x".repeat(64);
    let cases = [
        ("--name", "-x", "expected 1-63"),
        ("--name", long.as_str(), "expected 1-63"),
        ("--join", "h:99999", "HOST[:PORT]"),
        ("--join", "h:1", "reached"),
    ];
    for (flag, value, said) in cases {
        let output = run(Command::new("dash").arg(&script).args([flag, value]));
        assert!(text(&output).contains(said), "this needs root; {value}: {}", text(&output));
        assert_eq!(text(&output).contains("nothing was started"), said != "reached", "{}", text(&output));
    }
}

#[test]
fn copying_files_only_makes_a_package_and_nothing_else() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let release = directory.path().join("release");
    for path in
        ["install.sh", "systemd/hive.service", "systemd/hive-helper.service", "openrc/hive", "openrc/hive-helper"]
    {
        let to = release.join(path);
        fs::create_dir_all(to.parent().expect("has one")).expect("makes");
        fs::copy(root().join(path), to).expect("copies");
    }
    fs::copy("/bin/true", release.join("hive")).expect("copies");
    let destination = directory.path().join("dest");
    let output = run(Command::new("dash")
        .arg(release.join("install.sh"))
        .args(["--files-only", "--prefix", "/usr", "--destdir"])
        .arg(&destination));
    assert!(output.status.success(), "{}", text(&output));
    let unit = fs::read_to_string(destination.join("usr/lib/systemd/system/hive.service")).expect("copied");
    assert!(unit.contains("ExecStart=/usr/bin/hive agent\n") && !unit.contains("/usr/local/bin/hive"), "{unit}");
    let top: Vec<_> = fs::read_dir(&destination).expect("reads").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(top.len(), 2, "usr and etc only: {top:?}");
    let wrong = run(Command::new("dash").arg(release.join("install.sh")).args(["--join", "a\"]\nx = [\""]));
    assert!(!wrong.status.success() && text(&wrong).contains("not an address"), "{}", text(&wrong));
}
