//! Puts the configuration together: reads the sources, lets the later one win, and turns checked values into the typed
//! [`Config`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::table::{self, Default as SettingDefault, INHERITED, SETTINGS, Setting};
use super::value::{Kind, Value};
use super::{
    AdmissionMode, BuildConfig, Config, ConfigError, DiscoveryConfig, Entry, FactsTable, FoundMode, Hidden,
    HistoryConfig, JoinTarget, LegacyDrones, LegacyMode, LogConfig, Origin, PackagesMode, Problem, PublicPage,
    TerminalConfig, TlsMode, WireConfig, file, grammar,
};

/// Longest config file that is read, bytes. A thousand settings would fit.
const FILE_MAX_LEN: u64 = 1 << 20;
/// Longest path of a Unix socket, bytes: `sun_path` without its terminator.
const SOCKET_PATH_MAX_LEN: usize = 107;

/// What the process finds itself in. Handed in, never looked up here.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Runs as root or as the service's user `hive`, so the system's directories are meant; else the user's own.
    pub system: bool,
    /// The machine's host name.
    pub host_name: String,
    /// The environment.
    pub variables: BTreeMap<String, String>,
}

impl Surroundings {
    fn directory(&self, variable: &str, below_home: &str) -> PathBuf {
        match self.variables.get(variable).filter(|value| value.starts_with('/')) {
            Some(directory) => PathBuf::from(directory),
            None => Path::new(self.variables.get("HOME").map_or("/", String::as_str)).join(below_home),
        }
    }

    fn config_home(&self) -> PathBuf {
        self.directory("XDG_CONFIG_HOME", ".config")
    }

    fn state_home(&self) -> PathBuf {
        self.directory("XDG_STATE_HOME", ".local/state")
    }

    fn run_home(&self) -> PathBuf {
        self.directory("XDG_RUNTIME_DIR", ".local/state")
    }

    /// The file that is read when none is named.
    pub fn default_file(&self) -> PathBuf {
        if self.system { PathBuf::from("/etc/build/hive.toml") } else { self.config_home().join("hive/hive.toml") }
    }

    fn expand(&self, default: &SettingDefault) -> Option<String> {
        match default {
            SettingDefault::Text(text) => Some((*text).to_owned()),
            SettingDefault::Unset(_) => None,
            SettingDefault::PerUser(system, _) if self.system => Some((*system).to_owned()),
            SettingDefault::PerUser(_, plain) => Some(
                plain
                    .replace("{config}", &self.config_home().to_string_lossy())
                    .replace("{state}", &self.state_home().to_string_lossy())
                    .replace("{run}", &self.run_home().to_string_lossy()),
            ),
        }
    }
}

/// What the command line said: texts by key, more than one for lists.
pub type Flags = BTreeMap<&'static str, Vec<String>>;

/// A configuration that can be used, and how it came about.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the agent acts on.
    pub config: Config,
    /// All settings in the order of the table.
    pub entries: Vec<Entry>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// What looks like a mistake but cannot be told for sure.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// Where the value of a setting came from, for messages about it; the setting itself when nobody set it.
    pub fn place(&self, key: &str) -> String {
        match self.entries.iter().find(|entry| entry.setting.key == key).map(|entry| &entry.origin) {
            None | Some(Origin::Default) => key.to_owned(),
            Some(origin) => origin.to_string(),
        }
    }
}

/// Puts the configuration together: defaults < presets < file < environment < flags. `file` is the one named by `--config`; it must
/// exist, the default one need not.
pub fn load(surroundings: &Surroundings, file: Option<&Path>, flags: &Flags) -> Result<Loaded, ConfigError> {
    let named = file.map(Path::to_owned).or_else(|| surroundings.variables.get("HIVE_CONFIG").map(PathBuf::from));
    let path = named.clone().unwrap_or_else(|| surroundings.default_file());
    let text = read(&path, named.is_some())?;
    let mut assembly = Assembly::new(surroundings);
    assembly.presets(surroundings);
    if let Some(text) = &text {
        assembly.file(&path, text);
    }
    assembly.environment(surroundings);
    assembly.flags(flags);
    let Assembly { values, mut problems, warnings } = assembly;
    let given =
        |name: &'static str| Some((name, surroundings.variables.get(name)?.trim())).filter(|(_, key)| !key.is_empty());
    let admin_key = table::KEY_VARIABLES.iter().find_map(|name| given(name));
    let resolved = Resolved { values: &values, host_name: &surroundings.host_name, admin_key };
    match resolved.config() {
        Ok(config) if problems.is_empty() => {
            let entries = SETTINGS.iter().filter_map(|setting| {
                let (value, origin) = values.get(setting.key)?.clone();
                // What follows from the machine or from another setting is shown as what it came to.
                let value = match (setting.key, value) {
                    ("name", Value::Unset) => Value::Text(config.name.clone()),
                    ("admin_key_file", Value::Unset) => Value::Text(config.admin_key_file.display().to_string()),
                    ("build.work_dir", Value::Unset) => Value::Text(config.build.work_dir.display().to_string()),
                    (_, value) => value,
                };
                Some(Entry { setting, value, origin })
            });
            let entries = entries.collect();
            Ok(Loaded { config, entries, file: text.map(|_| path), warnings })
        }
        Ok(_) => Err(ConfigError { problems }),
        Err(problem) => {
            problems.push(problem);
            Err(ConfigError { problems })
        }
    }
}

fn read(path: &Path, must_exist: bool) -> Result<Option<String>, ConfigError> {
    let refuse = |message: String| Err(ConfigError::one(Problem { place: path.display().to_string(), message }));
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_MAX_LEN => {
            return refuse(format!("expected a config file of at most {FILE_MAX_LEN} bytes, got {}", metadata.len()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => return Ok(None),
        Err(error) => return refuse(format!("expected a readable config file: {error}")),
    }
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) => refuse(format!("expected a readable config file: {error}")),
    }
}

struct Assembly {
    values: BTreeMap<&'static str, (Value, Origin)>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Assembly {
    fn new(surroundings: &Surroundings) -> Self {
        let mut assembly = Self { values: BTreeMap::new(), problems: Vec::new(), warnings: Vec::new() };
        for setting in SETTINGS {
            assembly.values.insert(setting.key, (Value::Unset, Origin::Default));
            if let Some(text) = surroundings.expand(&setting.default) {
                assembly.text(setting, &text, Origin::Default);
            }
        }
        assembly
    }

    fn text(&mut self, setting: &'static Setting, text: &str, origin: Origin) {
        if setting.unset_word == Some(text) {
            self.values.insert(setting.key, (Value::Unset, origin));
            return;
        }
        match setting.kind.from_text(text) {
            Ok(value) => {
                self.values.insert(setting.key, (value, origin));
            }
            Err(message) => self.problems.push(Problem { place: origin.to_string(), message }),
        }
    }

    fn presets(&mut self, surroundings: &Surroundings) {
        for setting in SETTINGS {
            let Some(variable) = setting.preset() else { continue };
            if let Some(text) = surroundings.variables.get(&variable).filter(|text| !text.is_empty()) {
                self.text(setting, text, Origin::Preset(variable));
            }
        }
    }

    fn file(&mut self, path: &Path, text: &str) {
        match file::parse(&path.display().to_string(), text) {
            Ok(values) => {
                for value in values {
                    self.values.insert(value.key, (value.value, Origin::File(path.to_owned(), value.line)));
                }
            }
            Err(error) => self.problems.extend(error.problems),
        }
    }

    fn environment(&mut self, surroundings: &Surroundings) {
        let mut known =
            vec!["HIVE_CONFIG".to_owned(), "HIVE_URL".to_owned(), "HIVE_CA".to_owned(), "HIVE_WEB_DIST".to_owned()];
        known.extend(table::KEY_VARIABLES.iter().map(|name| (*name).to_owned()));
        for (variable, key, form) in INHERITED {
            let text = surroundings.variables.get(*variable).filter(|text| !text.is_empty());
            if let (Some(text), Some(setting)) = (text, table::find(key)) {
                self.text(setting, &form.replace("{}", text), Origin::Variable((*variable).to_owned()));
            }
        }
        for setting in SETTINGS {
            let Some(own) = setting.variable() else { continue };
            for (switch, value) in setting.switches.iter().filter(|(switch, _)| table::variable_of(switch) != own) {
                let variable = table::variable_of(switch);
                if let Some(text) = surroundings.variables.get(&variable) {
                    match Kind::Switch.from_text(text) {
                        Ok(Value::Switch(true)) => self.text(setting, value, Origin::Variable(variable.clone())),
                        Ok(_) => {}
                        Err(message) => self.problems.push(Problem { place: variable.clone(), message }),
                    }
                }
                known.push(variable);
            }
            if let Some(text) = surroundings.variables.get(&own).filter(|text| !text.is_empty()) {
                self.text(setting, text, Origin::Variable(own.clone()));
            }
            known.push(own);
            known.extend(setting.preset());
        }
        for variable in surroundings.variables.keys().filter(|name| name.starts_with("HIVE_")) {
            if !known.contains(variable) {
                let shown: String = variable.chars().take(80).collect();
                self.warnings.push(format!("the variable {shown:?} means nothing to hive"));
            }
        }
    }

    fn flags(&mut self, flags: &Flags) {
        for (key, texts) in flags {
            let Some(setting) = table::find(key) else { continue };
            let origin = Origin::Flag(format!("--{}", setting.flag().unwrap_or_default()));
            match (&setting.kind, texts.as_slice()) {
                (Kind::List { .. }, items) => match setting.kind.list(items.to_vec()) {
                    Ok(value) => {
                        self.values.insert(setting.key, (value, origin));
                    }
                    Err(message) => self.problems.push(Problem { place: origin.to_string(), message }),
                },
                (_, [.., last]) => self.text(setting, last, origin),
                (_, []) => {}
            }
        }
    }
}

/// Turns checked values into the typed configuration.
struct Resolved<'a> {
    values: &'a BTreeMap<&'static str, (Value, Origin)>,
    host_name: &'a str,
    admin_key: Option<(&'static str, &'a str)>,
}

impl Resolved<'_> {
    fn value(&self, key: &str) -> &Value {
        self.values.get(key).map_or(&Value::Unset, |(value, _)| value)
    }

    fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        let place = self.values.get(key).map_or_else(|| key.to_owned(), |(_, origin)| origin.to_string());
        Problem { place, message: format!("{key}: {}", message.into()) }
    }

    fn text(&self, key: &str) -> Option<&str> {
        if let Value::Text(text) = self.value(key) { Some(text) } else { None }
    }

    fn parsed<T: std::str::FromStr>(&self, key: &str) -> Result<T, Problem> {
        let text = self.text(key).ok_or_else(|| self.problem(key, "expected a value"))?;
        text.parse().map_err(|_| self.problem(key, "expected a value of its kind"))
    }

    fn choice<T>(&self, key: &str, from_word: fn(&str) -> Option<T>) -> Result<T, Problem> {
        self.text(key).and_then(from_word).ok_or_else(|| self.problem(key, "expected one of its words"))
    }

    fn number<T: TryFrom<i64>>(&self, key: &str) -> Result<T, Problem> {
        let Value::Integer(number) = self.value(key) else { return Err(self.problem(key, "expected a number")) };
        T::try_from(*number).map_err(|_| self.problem(key, "expected a smaller number"))
    }

    fn path(&self, key: &str) -> Result<Option<PathBuf>, Problem> {
        let absolute = |text: &str| std::path::absolute(text).map_err(|error| self.problem(key, error.to_string()));
        self.text(key).map(absolute).transpose()
    }

    fn needed_path(&self, key: &str) -> Result<PathBuf, Problem> {
        self.path(key)?.ok_or_else(|| self.problem(key, "expected a path"))
    }

    fn list(&self, key: &str) -> Vec<String> {
        if let Value::List(items) = self.value(key) { items.clone() } else { Vec::new() }
    }

    fn facts(&self) -> Vec<FactsTable> {
        let (Some((Value::Tables(tables), origin)), key) = (self.values.get("facts"), "facts") else {
            return Vec::new();
        };
        let file = match origin {
            Origin::File(path, _) => path.display().to_string(),
            Origin::Default | Origin::Preset(_) | Origin::Variable(_) | Origin::Flag(_) => key.to_owned(),
        };
        let rows =
            tables.iter().map(|(table, line)| FactsTable { table: table.clone(), file: file.clone(), line: *line });
        rows.collect()
    }

    fn name(&self) -> Result<String, Problem> {
        if let Some(name) = self.text("name") {
            return Ok(name.to_owned());
        }
        let host = self.host_name.trim();
        if grammar::is_node_name(host) {
            return Ok(host.to_owned());
        }
        let shown: String = host.chars().take(80).collect();
        Err(Problem {
            place: "name".to_owned(),
            message: format!("expected --name, because the host name {shown:?} cannot be one"),
        })
    }

    fn wire(&self) -> Result<WireConfig, Problem> {
        Ok(WireConfig {
            ring_records: self.number("wire.ring_records")?,
            ring_mb: self.number("wire.ring_mb")?,
            sample: self.list("wire.sample").iter().filter_map(|text| grammar::wire_sample(text)).collect(),
            disk: self.text("wire.disk").unwrap_or_default().to_owned(),
            disk_mb: self.number("wire.disk_mb")?,
            disk_days: self.number("wire.disk_days")?,
        })
    }

    fn history(&self) -> Result<HistoryConfig, Problem> {
        Ok(HistoryConfig { days: self.number("history.days")?, mb: self.number("history.mb")? })
    }

    fn terminal(&self) -> Result<TerminalConfig, Problem> {
        Ok(TerminalConfig {
            enabled: *self.value("terminal.enabled") == Value::Switch(true),
            shell: self.path("terminal.shell")?,
            idle_s: self.number("terminal.idle_s")?,
            sessions: self.number("terminal.sessions")?,
            keep_days: self.number("terminal.keep_days")?,
            keep_mb: self.number("terminal.keep_mb")?,
        })
    }

    fn build(&self, state_dir: &Path) -> Result<BuildConfig, Problem> {
        Ok(BuildConfig {
            slots: self.number("build.slots")?,
            cores: self.number("build.cores")?,
            work_dir: self.path("build.work_dir")?.unwrap_or_else(|| state_dir.join("work")),
            disk_max_mb: self.number("build.disk_max_mb")?,
            user: self.text("build.user").map(str::to_owned),
            debian_build_deps: self.text("build.debian_build_deps") == Some("on"),
            secrets_dir: self.path("build.secrets_dir")?.unwrap_or_else(|| "/etc/build/job-secrets".into()),
            binhost: self.text("build.binhost").map(str::to_owned),
            portage_sync: self.text("build.portage_sync") == Some("on"),
            portage_sync_interval_ms: self.number::<u64>("build.portage_sync_interval_s")?.saturating_mul(1_000),
            portage_sync_timeout_ms: self.number::<u64>("build.portage_sync_timeout_s")?.saturating_mul(1_000),
            portage_verify_keys: self.path("build.portage_verify_keys")?,
            portage_demand_signatures: self.text("build.portage_signatures") == Some("demand"),
            keep_logs_days: self.number("build.keep_logs_days")?,
            keep_logs_mb: self.number("build.keep_logs_mb")?,
            keep_artifacts_days: self.number("build.keep_artifacts_days")?,
            keep_artifacts_mb: self.number("build.keep_artifacts_mb")?,
        })
    }

    fn config(&self) -> Result<Config, Problem> {
        let state_dir = self.needed_path("state_dir")?;
        let socket = self.needed_path("socket")?;
        let secret_file = self.needed_path("secret_file")?;
        if socket.as_os_str().len() > SOCKET_PATH_MAX_LEN {
            return Err(self.problem("socket", format!("expected a path of at most {SOCKET_PATH_MAX_LEN} bytes")));
        }
        Ok(Config {
            name: self.name()?,
            secret_file: secret_file.clone(),
            weak_secret: matches!(self.value("weak_secret"), Value::Switch(true)),
            port: self.number("port")?,
            listen_address: self.text("listen_address").map(|_| self.parsed("listen_address")).transpose()?,
            http: self.parsed("http")?,
            http_hosts: self.list("http_hosts"),
            cors_origins: self.list("cors_origins"),
            public_page: self.choice("public_page", PublicPage::from_word)?,
            base_path: self.text("base_path").unwrap_or_default().to_owned(),
            trusted_proxies: self.list("trusted_proxies"),
            tls: self.choice("tls", TlsMode::from_word)?,
            tls_certificate: self.path("tls_certificate")?,
            tls_key: self.path("tls_key")?,
            admin: self.text("admin").map(|_| self.parsed("admin")).transpose()?,
            admin_key_file: self.path("admin_key_file")?.unwrap_or_else(|| secret_file.with_file_name("admin_key")),
            admin_key: self.admin_key.map(|(name, key)| (name, Hidden(key.to_owned()))),
            legacy_drones: self.choice("legacy_drones", LegacyDrones::from_word)?,
            legacy_lease_ms: self.number::<u64>("legacy_lease_s")?.saturating_mul(1_000),
            legacy_networks: self.list("legacy_networks"),
            socket,
            interfaces: self.list("interface"),
            exclude_interfaces: self.list("exclude_interface"),
            join: self.list("join").iter().filter_map(|text| JoinTarget::parse(text)).collect(),
            expect: if *self.value("expect") == Value::Unset { None } else { Some(self.number("expect")?) },
            found: self.choice("found", FoundMode::from_word)?,
            admission: self.choice("admission", AdmissionMode::from_word)?,
            helper: self.path("helper")?,
            labels: self.list("label"),
            roles_dir: self.path("roles_dir")?,
            policies_dir: self.path("policies_dir")?,
            policy: self.parsed("policy")?,
            packages: self.choice("packages", PackagesMode::from_word)?,
            facts: self.facts(),
            staging_path: self.path("staging_path")?,
            binhost_path: self.path("binhost_path")?,
            reballot_interval_ms: self.number::<u64>("identity.reballot_interval_s")?.saturating_mul(1_000),
            discovery: DiscoveryConfig {
                multicast_group: self.parsed("discovery.multicast_group")?,
                legacy_v1: self.choice("discovery.legacy_v1", LegacyMode::from_word)?,
                mdns: self.text("discovery.mdns") == Some("on"),
            },
            build: self.build(&state_dir)?,
            wire: self.wire()?,
            history: self.history()?,
            log: LogConfig { level: self.parsed("log.level")?, json: self.text("log.format") == Some("json") },
            terminal: self.terminal()?,
            state_dir,
        })
    }
}
