//! `hive admin` and `hive audit`: the admin key, tokens and sessions, over the agent's socket, and what people had the hive do.
//!
//! Never done here: sending a key to any other place than the agent, or taking one as an argument, where every process list shows it.

use std::fs::File;
use std::io::{IsTerminal as _, Read};
use std::path::Path;

use serde_json::json;

use super::admin_args::{AdminVerb, AuditArgs, KeyVerb, SessionsVerb, TokenArgs, TokenVerb};
use super::client::{Client, segment};
use super::output::{Failure, Outcome, Ui};
use super::render;
use crate::api::{
    AccessView, AdminKeyChanged, AdminKeyRequest, AuditCheck, AuditList, Authority, ErrorCode, SessionsEnded,
    TokenMade, TokenRequest,
};
use crate::engine::access::Scope;
use crate::keyring::{SECRET_MAX_LEN, Secret};

const ACCESS: &str = "/api/v2/access";

/// `hive admin …`
pub(crate) async fn admin(ui: &Ui, client: &Client, verb: AdminVerb) -> Outcome {
    match verb {
        AdminVerb::Key { verb: KeyVerb::Show } => show(ui, client).await,
        AdminVerb::Key { verb: KeyVerb::Rotate } => change(ui, client, AdminKeyRequest::Rotate).await,
        AdminVerb::Key { verb: KeyVerb::Remove } => change(ui, client, AdminKeyRequest::Remove).await,
        AdminVerb::Key { verb: KeyVerb::Set { file } } => {
            let key = chosen(file.as_deref())?;
            change(ui, client, AdminKeyRequest::Set { key }).await
        }
        AdminVerb::Ca { pem } => {
            let answer = client.get::<Authority>("/api/v2/authority").await?;
            let shown = |authority: &Authority| match pem {
                true => authority.pem.clone(),
                false => format!(
                    "SHA-256 {}\nfor a browser or another machine: hive admin ca --pem > hive-ca.pem\n",
                    authority.sha256
                ),
            };
            ui.answer(&answer, shown)?;
            Ok(0)
        }
        AdminVerb::Sessions { verb: SessionsVerb::Revoke } => {
            let answer = client.post::<SessionsEnded>("/api/v2/session/revoke", &json!({})).await?;
            ui.answer(&answer, |_| "all browsers are signed out, at all nodes\n".to_owned())?;
            Ok(0)
        }
        AdminVerb::Token { verb: TokenVerb::Add(args) } => add(ui, client, args).await,
        AdminVerb::Token { verb: TokenVerb::List } => {
            let answer = client.get::<AccessView>(ACCESS).await?;
            ui.answer(&answer, |view| render::access::tokens(view, ui.paint))?;
            Ok(0)
        }
        AdminVerb::Token { verb: TokenVerb::Revoke { name } } => {
            let path = format!("{ACCESS}/tokens/{}/revoke", segment(&name));
            let answer = client.post::<AccessView>(&path, &json!({})).await?;
            ui.answer(&answer, |_| format!("{} opens nothing any more\n", super::text::clean(&name)))?;
            Ok(0)
        }
    }
}

/// `hive audit`
pub(crate) async fn audit(ui: &Ui, client: &Client, args: AuditArgs) -> Outcome {
    if args.verify {
        let answer = client.get::<AuditCheck>("/api/v2/audit/check").await?;
        ui.answer(&answer, |check| render::access::audit_check(check, ui.paint))?;
        return Ok(u8::from(!answer.data.intact));
    }
    let before = args.before.map(|before| format!("&before={before}")).unwrap_or_default();
    let answer = client.get::<AuditList>(&format!("/api/v2/audit?limit={}{before}", args.limit)).await?;
    ui.answer(&answer, |list| render::access::audit(list, ui.paint))?;
    if let Some(before) = answer.data.before.filter(|_| !ui.json) {
        ui.remark(&format!("there are older entries: hive audit --before {before}"));
    }
    Ok(0)
}

async fn show(ui: &Ui, client: &Client) -> Outcome {
    let access = client.get::<AccessView>(ACCESS).await?.data;
    let Some(admin_key) = access.admin_key else {
        let message = "this hive has no admin key: nobody controls it from another machine with one";
        return Err(Failure::new(ErrorCode::NotFound, message, "make one: hive admin key rotate"));
    };
    let Some(path) = access.key_file else {
        let message = format!("the admin key is not on this node; it was set by {}", admin_key.set_by);
        return Err(Failure::new(ErrorCode::NotFound, message, "look there, or make another: hive admin key rotate"));
    };
    let refused = |error: String| {
        Failure::new(ErrorCode::Forbidden, format!("you may not open {}: {error}", path.display()), "use sudo")
    };
    let key = Secret::from_file(&path, true).map_err(|error| refused(error.to_string()))?;
    let key = key.ok_or_else(|| refused("it is gone".to_owned()))?;
    if std::io::stdout().is_terminal() {
        ui.remark("whoever sees this controls the hive:");
    }
    let text = String::from_utf8_lossy(key.expose()).into_owned();
    ui.data(&json!({ "key": text, "path": path, "fingerprint": admin_key.fingerprint }), || text.clone())?;
    Ok(0)
}

async fn change(ui: &Ui, client: &Client, request: AdminKeyRequest) -> Outcome {
    let answer = client.post::<AdminKeyChanged>(&format!("{ACCESS}/key"), &request).await?;
    if let Some(problem) = &answer.data.problem {
        ui.remark(&format!("warning: {problem}; keep the key elsewhere"));
    }
    ui.answer(&answer, render::access::key_changed)?;
    Ok(0)
}

fn chosen(file: Option<&Path>) -> Result<String, Failure> {
    let mut text = String::new();
    let limit = SECRET_MAX_LEN as u64 + 1;
    let read = match file {
        Some(path) => File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text)),
        None => std::io::stdin().lock().take(limit).read_to_string(&mut text),
    };
    let length = read.map_err(|error| Failure::usage(format!("the key cannot be read: {error}"), ""))?;
    if length > SECRET_MAX_LEN {
        return Err(Failure::usage(format!("a key has at most {SECRET_MAX_LEN} bytes"), "give the key alone"));
    }
    Ok(text.trim().to_owned())
}

async fn add(ui: &Ui, client: &Client, args: TokenArgs) -> Outcome {
    let TokenArgs { name, scope, drone, expires } = args;
    let scope =
        Scope::from_word(&scope).ok_or_else(|| Failure::usage("no such scope", "see: hive admin token add --help"))?;
    let drone = match scope {
        Scope::Drone => Some(drone.unwrap_or_else(|| name.clone())),
        Scope::Read | Scope::Queue | Scope::Admin => drone,
    };
    let request = TokenRequest { name, scope, drone, lives_ms: expires };
    let answer = client.post::<TokenMade>(&format!("{ACCESS}/tokens"), &request).await?;
    if std::io::stdout().is_terminal() {
        ui.remark("this is shown once:");
    }
    ui.answer(&answer, |made| format!("{}\n", made.token))?;
    Ok(0)
}
