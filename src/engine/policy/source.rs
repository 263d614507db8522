//! Where facts come from, as the configuration says it: `[[facts]] name = …, file | command | url = …`.
//!
//! Only the description and its rules are here, so that a configuration can be checked without any adapter; reading is done by
//! `exec::facts`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::expr::is_identifier;
use crate::engine::role::is_name;

/// Most facts of one node.
pub const FACTS_MAX: usize = 64;
/// Longest time one reading may take: a fact that needs longer belongs into a file that somebody else writes.
const TIMEOUT_MAX_MS: u64 = 60_000;

/// Whether a fact may be called so: a letter a-z and up to 31 of a-z, 0-9, `_`, `-`. With `-` it is written `facts["a-b"]`.
pub fn is_fact_name(name: &str) -> bool {
    is_name(name) || is_identifier(name)
}

/// How the bytes of a fact are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FactFormat {
    /// A JSON value.
    #[default]
    Json,
    /// Text, without the white space around it.
    Text,
    /// The answer of Consul's `GET /v1/kv/KEY`: the decoded `Value`, as JSON if it is, else as text. Several keys
    /// (`?recurse`) become an object by key.
    ConsulKv,
}

/// One fact of the configuration. Exactly one of `file`, `command` and `url` is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactSource {
    /// Policies say `facts.NAME`.
    pub name: String,
    /// Absolute path of a regular file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Program and arguments; never a shell line. What it prints is the fact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// `http://` or `https://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// How it is understood.
    #[serde(default)]
    pub format: FactFormat,
    /// Read again after so many seconds, 1 to 86,400.
    #[serde(default = "default_interval_s")]
    pub interval_s: u64,
    /// One reading is given up after so long, at most 60,000.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

fn default_interval_s() -> u64 {
    60
}

fn default_timeout_ms() -> u64 {
    5_000
}

/// What a reading asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactOrigin {
    /// A file.
    File(PathBuf),
    /// Program and arguments.
    Command(Vec<String>),
    /// An address.
    Url(String),
}

impl FactSource {
    /// Checks it and says where the fact comes from. The error is a sentence that begins with the name of the fact.
    pub fn origin(&self) -> Result<FactOrigin, String> {
        let wrong = |what: &str| Err(format!("fact {:?}: {what}", self.name));
        if !is_fact_name(&self.name) {
            return wrong("name, expected a letter a-z and up to 31 of a-z, 0-9, _, -");
        }
        if !(1..=86_400).contains(&self.interval_s) {
            return wrong("interval_s, expected 1 to 86400");
        }
        if !(1..=TIMEOUT_MAX_MS).contains(&self.timeout_ms) {
            return wrong("timeout_ms, expected 1 to 60000");
        }
        match (&self.file, &self.command, &self.url) {
            (Some(file), None, None) if file.is_absolute() => Ok(FactOrigin::File(file.clone())),
            (Some(_), None, None) => wrong("file, expected an absolute path"),
            (None, Some(argv), None) => {
                let fits = |word: &String| word.len() <= 4_096 && !word.contains('\0');
                if argv.first().is_none_or(String::is_empty) || argv.len() > 64 || !argv.iter().all(fits) {
                    return wrong("command, expected a program and at most 63 arguments");
                }
                Ok(FactOrigin::Command(argv.clone()))
            }
            (None, None, Some(url)) => {
                let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
                let odd = |c: char| c.is_control() || c.is_whitespace();
                if url.len() > 2_048
                    || url.contains(odd)
                    || host.is_none_or(|host| host.is_empty() || host.starts_with('/'))
                {
                    return wrong("url, expected http://HOST/… or https://HOST/…");
                }
                Ok(FactOrigin::Url(url.clone()))
            }
            _ => wrong("expected exactly one of file, command, url"),
        }
    }
}

/// Checks all facts of a configuration: each by itself, their number, and that no two have the same name.
pub fn check_sources(sources: &[FactSource]) -> Result<(), String> {
    if sources.len() > FACTS_MAX {
        return Err(format!("{} facts, expected at most {FACTS_MAX}", sources.len()));
    }
    for (n, source) in sources.iter().enumerate() {
        source.origin()?;
        if sources.iter().take(n).any(|other| other.name == source.name) {
            return Err(format!("fact {:?}: is there twice, expected names of their own", source.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Config {
        facts: Vec<FactSource>,
    }

    fn one(text: &str) -> Result<FactOrigin, String> {
        let config: Config = toml::from_str(&format!("[[facts]]\n{text}")).map_err(|error| error.to_string())?;
        config.facts[0].origin()
    }

    #[test]
    fn each_kind_of_source_is_understood() {
        assert_eq!(one("name = 'a'\nfile = '/x'"), Ok(FactOrigin::File("/x".into())));
        assert_eq!(one("name = 'a_b'\ncommand = ['x', '-y']"), Ok(FactOrigin::Command(vec!["x".into(), "-y".into()])));
        let consul =
            "name = 'needs'\nurl = 'http://consul:8500/v1/kv/cluster/needs'\nformat = 'consul-kv'\ninterval_s = 5";
        assert_eq!(one(consul), Ok(FactOrigin::Url("http://consul:8500/v1/kv/cluster/needs".into())));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_name_of_the_fact() {
        for (text, what) in [
            ("name = 'A'\nfile = '/x'", "fact \"A\": name, expected"),
            ("name = 'a'", "fact \"a\": expected exactly one of file, command, url"),
            ("name = 'a'\nfile = '/x'\nurl = 'http://x'", "exactly one"),
            ("name = 'a'\nfile = 'x'", "absolute path"),
            ("name = 'a'\ncommand = []", "expected a program"),
            ("name = 'a'\nurl = 'ftp://x'", "expected http://"),
            ("name = 'a'\nurl = 'http:///x'", "expected http://"),
            ("name = 'a'\nfile = '/x'\ninterval_s = 0", "interval_s"),
            ("name = 'a'\nfile = '/x'\ntimeout_ms = 60001", "timeout_ms"),
            (
                "name = 'a'\nfile = '/x'\nformat = 'yaml'",
                "unknown variant `yaml`, expected one of `json`, `text`, `consul-kv`",
            ),
            ("name = 'a'\nfiel = '/x'", "unknown field `fiel`"),
        ] {
            let error = one(text).expect_err(text);
            assert!(error.contains(what), "{text}: {error}");
        }
        let same: Config = toml::from_str(&"[[facts]]\nname = 'a'\nfile = '/x'\n".repeat(2)).expect("parses");
        assert!(check_sources(&same.facts).expect_err("twice").contains("there twice"));
    }
}
