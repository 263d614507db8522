//! `hive secret`: make, show and compare the secret that all nodes of a hive share.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::SecretVerb;
use super::output::{Failure, Outcome, Ui};
use crate::api::ErrorCode;
use crate::config::{Config, Flags, Surroundings, load};
use crate::keyring::{Keyring, Secret, SecretError};
use crate::web::auth;

/// `hive secret …`
pub(crate) fn secret(ui: &Ui, surroundings: &Surroundings, verb: SecretVerb) -> Outcome {
    match verb {
        SecretVerb::Generate { write: false, .. } => {
            let secret = Secret::generate();
            let text = String::from_utf8_lossy(secret.expose()).into_owned();
            ui.data(&json!({ "secret": text, "fingerprint": secret.fingerprint() }), || text.clone())?;
        }
        SecretVerb::Generate { write: true, secret_file } => {
            let path = file(surroundings, secret_file)?;
            let secret = Secret::generate();
            secret.write_new(&path).map_err(|error| failure(&path, &error))?;
            let data = json!({ "path": path, "fingerprint": secret.fingerprint() });
            ui.data(&data, || {
                format!(
                    "wrote {} (fingerprint {})\nGive every other node the same: hive secret show\n",
                    path.display(),
                    secret.fingerprint()
                )
            })?;
        }
        SecretVerb::Show { secret_file } => {
            let path = file(surroundings, secret_file)?;
            let secret = read(&path)?;
            if std::io::stdout().is_terminal() {
                ui.remark("whoever sees this can run builds on your machines:");
            }
            let text = String::from_utf8_lossy(secret.expose()).into_owned();
            ui.data(&json!({ "secret": text, "path": path }), || text.clone())?;
        }
        SecretVerb::Fingerprint { secret_file } => {
            let path = file(surroundings, secret_file)?;
            let secret = read(&path)?;
            ui.data(&json!({ "fingerprint": secret.fingerprint(), "path": path }), || secret.fingerprint())?;
        }
        SecretVerb::Sign { method, path, body, secret_file } => {
            let keyring = Keyring::new(&read(&file(surroundings, secret_file)?)?);
            let body = match &body {
                Some(body) => std::fs::read(body)
                    .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", body.display()), ""))?,
                None => Vec::new(),
            };
            let signed = auth::sign(&keyring, &auth::Request { method: &method, path: &path, body: &body });
            ui.data(&json!({ "header": auth::HEADER, "value": signed.header }), || signed.header.clone())?;
        }
    }
    Ok(0)
}

fn file(surroundings: &Surroundings, named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    match named {
        Some(path) => Ok(path),
        None => Ok(config(surroundings)?.secret_file),
    }
}

fn config(surroundings: &Surroundings) -> Result<Config, Failure> {
    let loaded = load(surroundings, None, &Flags::new());
    loaded.map(|loaded| loaded.config).map_err(|error| Failure::usage(error.to_string(), ""))
}

fn read(path: &Path) -> Result<Secret, Failure> {
    // Whether it is strong enough is for the agent to say, who is told what is accepted.
    match Secret::from_file(path, true).map_err(|error| failure(path, &error))? {
        Some(secret) => Ok(secret),
        None => Err(Failure::new(
            ErrorCode::NotFound,
            format!("there is no secret at {}", path.display()),
            "copy it from another node, or make the first one with: hive secret generate --write",
        )),
    }
}

fn failure(path: &Path, error: &SecretError) -> Failure {
    let SecretError::Io { source, .. } = error else { return Failure::usage(error.to_string(), "") };
    if source.kind() == std::io::ErrorKind::PermissionDenied {
        return Failure::new(ErrorCode::Forbidden, format!("you may not open {}", path.display()), "use sudo");
    }
    if source.kind() == std::io::ErrorKind::AlreadyExists {
        let message = format!("{} exists already and is not overwritten", path.display());
        return Failure::new(
            ErrorCode::Conflict,
            message,
            "move it away first, and remember that all nodes need the same secret",
        );
    }
    Failure::internal(error.to_string(), "")
}
