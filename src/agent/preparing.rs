//! Everything that can be wrong with what an operator wrote, found before the node opens anything, and told all at once.
//!
//! ```text
//!   roles, policies, facts ──check──► `hive config show`, `hive config check`
//!   secret, build user ──prepare────► `hive config check`, `hive agent` (exit 2)
//! ```
//!
//! Why apart from starting: a service manager restarts what failed, and these only an edit mends. Never done here: binding,
//! writing, logging.

use super::definitions::Definitions;
use super::keys;
use crate::config::{Config, ConfigError, Loaded, Problem};
use crate::engine::policy::source::{FactSource, check_sources};
use crate::exec::signatures::Signatures;
use crate::keyring::{Secret, SecretError};

/// A configuration that was checked together with everything it names.
pub struct Prepared {
    pub(super) loaded: Loaded,
    pub(super) definitions: Definitions,
    pub(super) secret: Secret,
    pub(super) secret_is_tentative: bool,
    pub(super) facts: Vec<FactSource>,
}

/// Reads and checks the files that the configuration names, but for the secret, which not everybody may read.
pub fn check(loaded: &Loaded) -> Result<(), ConfigError> {
    let (_, _, problems) = read(loaded);
    if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
}

/// Reads and checks everything that the agent needs before it may bind.
pub fn prepare(loaded: Loaded) -> Result<Prepared, ConfigError> {
    let (definitions, facts, mut problems) = read(&loaded);
    let config = &loaded.config;
    if let Some(user) = &config.build.user
        && let Err(message) = crate::exec::check_build_user(user)
    {
        problems.push(Problem { place: loaded.place("build.user"), message: format!("build.user: {message}") });
    }
    let secret = Secret::from_file(&config.secret_file, config.weak_secret).unwrap_or_else(|error| {
        problems.push(Problem { place: loaded.place("secret_file"), message: told(&error) });
        None
    });
    if let Some((variable, key)) = &config.admin_key
        && let Some(why) = keys::weakness(&Secret::from_bytes(key.0.as_bytes()), config.weak_secret)
    {
        let message = format!("this admin key is not used: {why}; make one with: hive secret generate");
        problems.push(Problem { place: (*variable).to_owned(), message });
    }
    match definitions {
        Some(definitions) if problems.is_empty() => Ok(Prepared {
            secret_is_tentative: secret.is_none(),
            secret: secret.unwrap_or_else(Secret::generate),
            definitions,
            facts,
            loaded,
        }),
        _ => Err(ConfigError { problems }),
    }
}

fn read(loaded: &Loaded) -> (Option<Definitions>, Vec<FactSource>, Vec<Problem>) {
    let mut problems = Vec::new();
    let definitions = Definitions::load(&loaded.config, &loaded.place("policy"));
    let definitions = definitions.map_err(|error| problems.extend(error.problems)).ok();
    let mut sources: Vec<FactSource> = Vec::new();
    for table in &loaded.config.facts {
        let mut wrong = |message: String| problems.push(Problem::in_file(&table.file, table.line, message));
        match toml::Value::Table(table.table.clone()).try_into() {
            Ok(source) => sources.push(source),
            Err(error) => {
                wrong(format!("facts: {}", error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")));
                continue;
            }
        }
        // What came before was good, so whatever is wrong now is wrong with this one.
        if let Err(message) = check_sources(&sources) {
            wrong(message);
            sources.pop();
        }
    }
    problems.extend(staging_problem(loaded));
    problems.extend(signatures(&loaded.config).err().map(|message| Problem {
        place: loaded.place(if loaded.config.build.portage_verify_keys.is_some() {
            KEYS
        } else {
            "build.portage_signatures"
        }),
        message,
    }));
    (definitions, sources, problems)
}

const KEYS: &str = "build.portage_verify_keys";

/// Whether it can be told who is trusted to sign Gentoo packages.
fn signatures(config: &Config) -> Result<(), String> {
    let build = &config.build;
    let Some(keys) = &build.portage_verify_keys else {
        let lacking = "build.portage_signatures: \"demand\" needs build.portage_verify_keys, the keys that are trusted";
        return if build.portage_demand_signatures { Err(lacking.to_owned()) } else { Ok(()) };
    };
    Signatures::open(keys, build.portage_demand_signatures).map(drop).map_err(|why| format!("{KEYS}: {why}"))
}

/// What is put into staging must not be served at once, nor change what was released.
fn staging_problem(loaded: &Loaded) -> Option<Problem> {
    let staging = loaded.config.staging_path.as_ref()?;
    let why = crate::exec::staging::conflict(staging, loaded.config.binhost_path.as_ref()?)?;
    let message = format!("staging_path: {why}; choose a directory of its own, such as /var/cache/hive/staging");
    Some(Problem { place: loaded.place("staging_path"), message })
}

fn told(error: &SecretError) -> String {
    format!("secret_file: {error}")
}
