//! How the sources of the configuration win over each other, and what each refuses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::table::SETTINGS;
use super::value::Kind;
use super::*;

fn surroundings(system: bool, variables: &[(&str, &str)]) -> Surroundings {
    let mut all = BTreeMap::from([("HOME".to_owned(), "/home/ada".to_owned())]);
    all.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Surroundings { system, host_name: "build1".to_owned(), variables: all }
}

fn file(text: &str) -> (tempfile_path::TempFile, PathBuf) {
    tempfile_path::write(text)
}

/// A file that goes away, without the crates that only the `node` feature brings.
mod tempfile_path {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    pub(super) struct TempFile(PathBuf);

    impl Drop for TempFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    static NEXT: AtomicU32 = AtomicU32::new(0);

    pub(super) fn write(text: &str) -> (TempFile, PathBuf) {
        let name = format!("hive-config-{}-{}.toml", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).expect("writes");
        (TempFile(path.clone()), path)
    }
}

#[test]
fn defaults_suit_the_service_and_the_plain_user() {
    let absent = Surroundings { system: true, ..surroundings(true, &[("HIVE_CONFIG", "")]) };
    let config = load(&Surroundings { variables: BTreeMap::new(), ..absent }, None, &Flags::new());
    // The machine that runs this test may have a configuration of its own.
    if !Path::new("/etc/build/hive.toml").exists() {
        let config = config.expect("defaults are good").config;
        assert_eq!(config.state_dir, Path::new("/var/lib/build"));
        assert_eq!(config.socket, Path::new("/run/hive/hive.sock"));
        assert_eq!(config.helper.as_deref(), Some(Path::new("/run/hive/helper.sock")));
        assert_eq!(config.secret_file, Path::new("/etc/build/shared_secret"));
    }
    let (_keep, path) = file("");
    let plain = load(&surroundings(false, &[("XDG_RUNTIME_DIR", "/run/user/7")]), Some(&path), &Flags::new())
        .expect("defaults are good")
        .config;
    assert_eq!(plain.state_dir, Path::new("/home/ada/.local/state/hive"));
    assert_eq!(plain.socket, Path::new("/run/user/7/hive/hive.sock"));
    assert_eq!(plain.secret_file, Path::new("/home/ada/.config/hive/shared_secret"));
    assert_eq!(plain.helper, None);
    assert_eq!(
        (plain.name.as_str(), plain.port, plain.http.to_string()),
        ("build1", 50_555, "0.0.0.0:8100".to_owned())
    );
    assert_eq!(plain.build.work_dir, Path::new("/home/ada/.local/state/hive/work"));
    assert_eq!((plain.found, plain.packages), (FoundMode::Auto, PackagesMode::DryRun));
    assert_eq!(plain.reballot_interval_ms, 3_600_000);
}

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file_which_wins_over_defaults() {
    let (_keep, path) = file("port = 1001\nhttp = \"127.0.0.1:1\"\nname = \"from-file\"\njoin = [\"a\"]\n");
    let around = surroundings(false, &[("HIVE_PORT", "1002"), ("HIVE_HTTP", "127.0.0.1:2"), ("HIVE_JOIN", "b, c:9")]);
    let flags = Flags::from([("port", vec!["1003".to_owned()])]);
    let loaded = load(&around, Some(&path), &flags).expect("good");
    let origin =
        |key: &str| loaded.entries.iter().find(|entry| entry.setting.key == key).expect("there").origin.clone();
    assert_eq!((loaded.config.port, origin("port")), (1_003, Origin::Flag("--port".to_owned())));
    assert_eq!((loaded.config.http.port(), origin("http")), (2, Origin::Variable("HIVE_HTTP".to_owned())));
    assert_eq!((loaded.config.name.as_str(), origin("name")), ("from-file", Origin::File(path.clone(), 3)));
    assert_eq!((loaded.config.policy.as_str(), origin("policy")), ("default", Origin::Default));
    let joins: Vec<_> = loaded.config.join.iter().map(|target| (target.host.as_str(), target.port)).collect();
    assert_eq!(joins, [("b", 50_555), ("c", 9)]);
    assert_eq!(loaded.file.as_deref(), Some(path.as_path()));
}

#[test]
fn what_an_installation_presets_wins_over_defaults_only() {
    let (_keep, path) = file("packages = \"off\"\nport = 1001\n[build]\nwork_dir = \"/srv/w\"\n");
    let around = surroundings(
        true,
        &[
            ("HIVE_DEFAULT_PACKAGES", "on"),
            ("HIVE_DEFAULT_BUILD_WORK_DIR", "/var/cache/hive/build"),
            ("HIVE_DEFAULT_BUILD_SLOTS", "3"),
            ("HIVE_DEFAULT_PORT", "1000"),
            ("HIVE_DEFAULT_NAME", ""),
            ("HIVE_PORT", "1002"),
        ],
    );
    let loaded = load(&around, Some(&path), &Flags::from([("build.slots", vec!["4".to_owned()])])).expect("good");
    let shown = |key: &str| {
        let entry = loaded.entries.iter().find(|entry| entry.setting.key == key).expect("there");
        (entry.value.to_string(), entry.origin.to_string())
    };
    let file = path.display();
    assert_eq!(shown("packages"), ("off".to_owned(), format!("{file}:1")));
    assert_eq!(shown("build.work_dir"), ("/srv/w".to_owned(), format!("{file}:4")));
    assert_eq!(shown("port"), ("1002".to_owned(), "HIVE_PORT".to_owned()));
    assert_eq!(shown("build.slots"), ("4".to_owned(), "--build-slots".to_owned()));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let (_keep, empty) = self::file("");
    let preset = load(&around, Some(&empty), &Flags::new()).expect("good");
    assert_eq!(preset.config.packages, PackagesMode::On);
    assert_eq!(preset.config.build.work_dir, Path::new("/var/cache/hive/build"));
    let origins: Vec<_> = preset.entries.iter().map(|entry| entry.origin.clone()).collect();
    assert!(origins.contains(&Origin::Preset("HIVE_DEFAULT_PACKAGES".to_owned())), "{origins:?}");
    let error = load(&surroundings(true, &[("HIVE_DEFAULT_PORT", "x")]), Some(&empty), &Flags::new());
    assert!(error.expect_err("refused").to_string().starts_with("HIVE_DEFAULT_PORT: "));
}

/// A value of each setting that is not its default.
const SAMPLES: &[(&str, &str)] = &[
    ("name", "n"),
    ("state_dir", "/s"),
    ("secret_file", "/f"),
    ("weak_secret", "true"),
    ("port", "7"),
    ("listen_address", "127.0.0.1"),
    ("http", "[::]:0"),
    ("http_hosts", "hive.lan"),
    ("cors_origins", "https://dash.example"),
    ("public_page", "summary"),
    ("base_path", "/farm"),
    ("trusted_proxies", "10.2.0.1"),
    ("tls", "off"),
    ("tls_certificate", "/c.pem"),
    ("tls_key", "/c.key"),
    ("admin", "0.0.0.0:8094"),
    ("admin_key_file", "/k"),
    ("legacy_drones", "open"),
    ("legacy_lease_s", "60"),
    ("legacy_networks", "10.1.0.0/16"),
    ("socket", "/x.sock"),
    ("interface", "eth0"),
    ("exclude_interface", "docker*"),
    ("join", "h:1"),
    ("expect", "3"),
    ("found", "never"),
    ("admission", "open"),
    ("helper", "none"),
    ("label", "gpu"),
    ("roles_dir", "/r"),
    ("policies_dir", "/p"),
    ("policy", "gentoo"),
    ("packages", "on"),
    ("staging_path", "/var/s"),
    ("binhost_path", "/var/b"),
    ("identity.reballot_interval_s", "5"),
    ("discovery.multicast_group", "239.1.1.1"),
    ("discovery.legacy_v1", "off"),
    ("discovery.mdns", "off"),
    ("terminal.enabled", "true"),
    ("terminal.shell", "/bin/zsh"),
    ("terminal.idle_s", "60"),
    ("terminal.sessions", "2"),
    ("terminal.keep_days", "7"),
    ("terminal.keep_mb", "64"),
    ("build.slots", "2"),
    ("build.cores", "3"),
    ("build.work_dir", "/w"),
    ("build.disk_max_mb", "9"),
    ("build.user", "nobody"),
    ("build.debian_build_deps", "on"),
    ("build.secrets_dir", "/j"),
    ("build.binhost", "http://h/x"),
    ("build.portage_sync", "off"),
    ("build.portage_sync_interval_s", "60"),
    ("build.portage_sync_timeout_s", "30"),
    ("build.portage_verify_keys", "/k.gpg"),
    ("build.portage_signatures", "demand"),
    ("build.keep_logs_days", "1"),
    ("build.keep_logs_mb", "16"),
    ("build.keep_artifacts_days", "0"),
    ("build.keep_artifacts_mb", "7"),
    ("wire.ring_records", "5"),
    ("wire.ring_mb", "1"),
    ("wire.sample", "SWIM=3"),
    ("wire.disk", "sent"),
    ("wire.disk_mb", "0"),
    ("wire.disk_days", "1"),
    ("history.days", "3"),
    ("history.mb", "0"),
    ("log.level", "debug"),
    ("log.format", "json"),
];

#[test]
fn every_setting_can_be_set_by_file_environment_and_flag_alike() {
    let (_keep, empty) = file("");
    for setting in SETTINGS.iter().filter(|setting| setting.flag().is_some()) {
        let (key, text) =
            SAMPLES.iter().find(|(key, _)| *key == setting.key).unwrap_or_else(|| panic!("sample of {}", setting.key));
        let written = match setting.kind {
            Kind::Integer { .. } | Kind::Switch => (*text).to_owned(),
            Kind::List { .. } => format!("[{text:?}]"),
            Kind::Text { .. } | Kind::Path | Kind::Choice(_) | Kind::Tables => format!("{text:?}"),
        };
        let (_keep, path) = file(&format!("{key} = {written}\n"));
        let variable = setting.variable().expect("has a flag");
        let by_file = load(&surroundings(false, &[]), Some(&path), &Flags::new()).expect(key);
        let by_variable = load(&surroundings(false, &[(&variable, text)]), Some(&empty), &Flags::new()).expect(key);
        let by_flag =
            load(&surroundings(false, &[]), Some(&empty), &Flags::from([(setting.key, vec![(*text).to_owned()])]))
                .expect(key);
        let shown = |loaded: &Loaded| format!("{:?}", loaded.config);
        assert_eq!(shown(&by_file), shown(&by_variable), "{key}");
        assert_eq!(shown(&by_file), shown(&by_flag), "{key}");
        let default = load(&surroundings(false, &[]), Some(&empty), &Flags::new()).expect("defaults");
        let same_by_nature = matches!(*key, "admission" | "helper");
        assert_eq!(shown(&by_file) == shown(&default), same_by_nature, "{key} is read by nobody");
        assert!(by_variable.warnings.is_empty(), "{:?}", by_variable.warnings);
    }
}

#[test]
fn switches_inherited_names_and_typing_errors_in_the_environment() {
    let (_keep, empty) = file("");
    let with = |variables: &[(&str, &str)]| load(&surroundings(false, variables), Some(&empty), &Flags::new());
    assert_eq!(with(&[("HIVE_NO_FOUND", "1")]).expect("good").config.found, FoundMode::Never);
    assert_eq!(with(&[("HIVE_NO_FOUND", "0")]).expect("good").config.found, FoundMode::Auto);
    assert_eq!(with(&[("HIVE_FOUND", "force")]).expect("good").config.found, FoundMode::Force);
    assert_eq!(with(&[("CONTROL_PLANE_PORT", "8111")]).expect("good").config.http.to_string(), "0.0.0.0:8111");
    assert_eq!(with(&[("CONTROL_PLANE_PORT", "8111"), ("HIVE_HTTP", "[::1]:1")]).expect("good").config.http.port(), 1);
    let paths =
        with(&[("STAGING_PATH", "/s"), ("BINHOST_PATH", "/b"), ("HIVE_BINHOST_PATH", "/c")]).expect("good").config;
    assert_eq!((paths.staging_path, paths.binhost_path), (Some("/s".into()), Some("/c".into())));
    assert_eq!(with(&[("STAGING_PATH", "")]).expect("as if it were not there").config.staging_path, None);
    let warnings = with(&[("HIVE_SECRETFILE", "/x")]).expect("good").warnings;
    assert_eq!(warnings, ["the variable \"HIVE_SECRETFILE\" means nothing to hive"]);
    let error = with(&[("HIVE_PORT", "x"), ("CONTROL_PLANE_PORT", "y")]).expect_err("refused").to_string();
    assert!(error.contains("HIVE_PORT: expected a whole number from 1 to 65535, got \"x\""), "{error}");
    assert!(error.contains("CONTROL_PLANE_PORT: expected ADDRESS:PORT"), "{error}");
}

#[test]
fn what_cannot_be_read_or_used_is_refused() {
    let around = surroundings(false, &[]);
    let error =
        load(&around, Some(Path::new("/nonexistent/hive.toml")), &Flags::new()).expect_err("named, so it must exist");
    assert!(error.to_string().starts_with("/nonexistent/hive.toml: expected a readable config file"), "{error}");
    assert!(load(&around, None, &Flags::new()).is_ok(), "the default one need not exist");
    let (_keep, empty) = file("");
    let long = Flags::from([("socket", vec![format!("/{}", "x".repeat(120))])]);
    let error = load(&around, Some(&empty), &long).expect_err("too long for a socket").to_string();
    assert!(error.starts_with("--socket: socket: expected a path of at most 107 bytes"), "{error}");
    let strange = Surroundings { host_name: "a b".to_owned(), ..around };
    let error = load(&strange, Some(&empty), &Flags::new()).expect_err("no name").to_string();
    assert!(error.contains("expected --name"), "{error}");
}

#[test]
fn facts_are_handed_on_with_their_place() {
    let (_keep, path) = file("port = 1\n[[facts]]\nname = \"needs\"\nurl = \"http://x\"\n");
    let config = load(&surroundings(false, &[]), Some(&path), &Flags::new()).expect("good").config;
    assert_eq!(config.facts.len(), 1);
    assert_eq!((config.facts[0].line, config.facts[0].table["name"].as_str()), (2, Some("needs")));
    assert_eq!(config.facts[0].file, path.display().to_string());
}
