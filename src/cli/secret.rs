//! `hive secret`: make, show and compare the secret that all nodes of a hive share.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::SecretVerb;
use super::client::Client;
use super::output::{Failure, Outcome, Ui};
use crate::api::{DoctorFacts, ErrorCode};
use crate::config::{Config, Flags, Surroundings, load};
use crate::keyring::{Keyring, Secret, SecretError};
use crate::web::auth;

/// `hive secret …`
pub(crate) async fn secret(ui: &Ui, client: &Client, surroundings: &Surroundings, verb: SecretVerb) -> Outcome {
    match verb {
        SecretVerb::Generate { write: false, .. } => {
            let secret = Secret::generate();
            let text = String::from_utf8_lossy(secret.expose()).into_owned();
            ui.data(&json!({ "secret": text, "fingerprint": secret.fingerprint() }), || text.clone())?;
        }
        SecretVerb::Generate { write: true, secret_file } => {
            let path = file(client, surroundings, secret_file).await?;
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
            let path = file(client, surroundings, secret_file).await?;
            let secret = read(&path)?;
            if std::io::stdout().is_terminal() {
                ui.remark("whoever sees this can run builds on your machines:");
            }
            let text = String::from_utf8_lossy(secret.expose()).into_owned();
            ui.data(&json!({ "secret": text, "path": path }), || text.clone())?;
        }
        SecretVerb::Fingerprint { secret_file } => {
            let asked = secret_file.is_none();
            let path = file(client, surroundings, secret_file).await?;
            let fingerprint = match read(&path) {
                Ok(secret) => secret.fingerprint(),
                // Who may ask the agent need not be allowed to read its file.
                Err(failure) if asked && failure.error.code == ErrorCode::Forbidden => {
                    agents(client).await.and_then(|facts| facts.secret_fingerprint).ok_or(failure)?
                }
                Err(failure) => return Err(failure),
            };
            ui.data(&json!({ "fingerprint": fingerprint, "path": path }), || fingerprint.clone())?;
        }
        SecretVerb::Sign { method, path, body, secret_file } => {
            let keyring = Keyring::new(&read(&file(client, surroundings, secret_file).await?)?);
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

/// The file that is named, else that of the agent that would be asked, else the configured one.
async fn file(client: &Client, surroundings: &Surroundings, named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    match named {
        Some(path) => Ok(path),
        None => match agents(client).await.and_then(|facts| facts.secret_file) {
            Some(path) => Ok(path),
            None => Ok(config(surroundings)?.secret_file),
        },
    }
}

/// What the agent says about itself; none when there is none on this machine that answers.
async fn agents(client: &Client) -> Option<DoctorFacts> {
    if client.is_remote() {
        return None;
    }
    client.get::<DoctorFacts>("/api/v2/doctor").await.ok().map(|answer| answer.data)
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
